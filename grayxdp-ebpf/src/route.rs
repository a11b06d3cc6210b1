//! The next hop, from the kernel's routes and neighbours. Changes nothing.

use aya_ebpf::{
    bindings::{
        BPF_FIB_LKUP_RET_BLACKHOLE, BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_FWD_DISABLED,
        BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_PROHIBIT, BPF_FIB_LKUP_RET_SUCCESS, BPF_FIB_LKUP_RET_UNREACHABLE,
        bpf_fib_lookup as FibLookup, bpf_fib_lookup__bindgen_ty_1 as Length, bpf_fib_lookup__bindgen_ty_2 as Class,
        bpf_fib_lookup__bindgen_ty_3 as Source, bpf_fib_lookup__bindgen_ty_4 as Destination,
        bpf_fib_lookup__bindgen_ty_5 as Table,
    },
    programs::XdpContext,
};
use grayxdp_common::{layout::Endpoint, verdict::Verdict};

use crate::{
    helpers, maps,
    parse::{Network, Parsed},
};

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// How a rewritten packet goes on.
#[derive(Clone, Copy)]
pub(crate) struct NextHop {
    /// `Forwarded…` or `Handed…`.
    pub(crate) verdict: Verdict,
    /// Interface to leave by; meaningful for `Forwarded…` only.
    pub(crate) ifindex: u32,
    /// Destination and source MAC address, as they follow each other on the wire.
    pub(crate) macs: [u16; 6],
}

/// The next hop of a packet once it goes from `source` to `destination`; an error is a reason to drop.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "an ifindex has 32 bits")]
pub(crate) fn next_hop(
    context: &XdpContext,
    packet: &Parsed,
    source: &Endpoint,
    destination: &Endpoint,
) -> Result<NextHop, Verdict> {
    let ingress = context.ingress_ifindex() as u32;
    let mut lookup = request(packet, ingress, source, destination);
    let outcome = helpers::fib_lookup(context, &mut lookup);
    let handed = |verdict| Ok(NextHop { verdict, ifindex: 0, macs: [0; 6] });
    match outcome {
        BPF_FIB_LKUP_RET_SUCCESS if lookup.ifindex == ingress => {
            Ok(NextHop { verdict: Verdict::ForwardedSameInterface, ifindex: ingress, macs: macs(&lookup) })
        }
        BPF_FIB_LKUP_RET_SUCCESS => match maps::own_interface(lookup.ifindex) {
            Some(ifindex) => Ok(NextHop { verdict: Verdict::ForwardedOtherInterface, ifindex, macs: macs(&lookup) }),
            None => handed(Verdict::HandedInterfaceUnknown),
        },
        BPF_FIB_LKUP_RET_NO_NEIGH => handed(Verdict::HandedNeighbourUnknown),
        BPF_FIB_LKUP_RET_FRAG_NEEDED => handed(Verdict::HandedTooBig),
        BPF_FIB_LKUP_RET_BLACKHOLE | BPF_FIB_LKUP_RET_UNREACHABLE | BPF_FIB_LKUP_RET_PROHIBIT => {
            Err(Verdict::DroppedNoRoute)
        }
        BPF_FIB_LKUP_RET_FWD_DISABLED => Err(Verdict::DroppedForwardingOff),
        _ => handed(Verdict::HandedNotForwarded),
    }
}

#[inline(always)]
fn request(packet: &Parsed, ifindex: u32, source: &Endpoint, destination: &Endpoint) -> FibLookup {
    // Traffic class and flow label.
    const FLOWINFO_MASK: u32 = 0x0fff_ffff_u32.to_be();
    let (family, flowinfo, ipv6_src, ipv6_dst) = match packet.network {
        // An IPv4 address takes the first word of the field, the type of service its first byte.
        Network::V4(header) => (
            AF_INET,
            u32::from_ne_bytes([header.u8::<15>(), 0, 0, 0]),
            [source.address.v4_word(), 0, 0, 0],
            [destination.address.v4_word(), 0, 0, 0],
        ),
        Network::V6(header) => {
            (AF_INET6, header.u32::<14>() & FLOWINFO_MASK, source.address.words(), destination.address.words())
        }
    };
    FibLookup {
        family,
        l4_protocol: destination.protocol,
        sport: source.port.to_wire(),
        dport: destination.port.to_wire(),
        __bindgen_anon_1: Length { tot_len: packet.ip_len },
        ifindex,
        __bindgen_anon_2: Class { flowinfo },
        __bindgen_anon_3: Source { ipv6_src },
        __bindgen_anon_4: Destination { ipv6_dst },
        __bindgen_anon_5: Table { tbid: 0 },
        smac: [0; 6],
        dmac: [0; 6],
    }
}

#[inline(always)]
fn macs(lookup: &FibLookup) -> [u16; 6] {
    let [a, b, c, d, e, f] = lookup.dmac;
    let [g, h, i, j, k, l] = lookup.smac;
    [[a, b], [c, d], [e, f], [g, h], [i, j], [k, l]].map(u16::from_ne_bytes)
}
