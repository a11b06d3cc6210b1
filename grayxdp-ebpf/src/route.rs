//! The next hop, from the kernel's routes and neighbours. Changes nothing.

use aya_ebpf::{
    EbpfContext as _,
    bindings::{
        BPF_FIB_LKUP_RET_BLACKHOLE, BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_FWD_DISABLED,
        BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_PROHIBIT, BPF_FIB_LKUP_RET_SUCCESS, BPF_FIB_LKUP_RET_UNREACHABLE,
        bpf_fib_lookup as FibLookup,
    },
    helpers::generated::bpf_fib_lookup,
    programs::XdpContext,
};
use grayxdp_common::{layout::Endpoint, verdict::Verdict};

use crate::{
    maps,
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
#[expect(clippy::cast_possible_truncation, reason = "ifindex and the size of a struct")]
pub(crate) fn next_hop(
    context: &XdpContext,
    packet: &Parsed,
    source: &Endpoint,
    destination: &Endpoint,
) -> Result<NextHop, Verdict> {
    let ingress = context.ingress_ifindex() as u32;
    let mut lookup = request(packet, source, destination);
    lookup.ifindex = ingress;
    // SAFETY: `lookup` is a whole, initialised struct of the size given.
    let outcome = unsafe { bpf_fib_lookup(context.as_ptr(), &raw mut lookup, size_of::<FibLookup>() as i32, 0) } as u32;
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
fn request(packet: &Parsed, source: &Endpoint, destination: &Endpoint) -> FibLookup {
    // SAFETY: integers and unions of integers; all zero is a value of each.
    let mut lookup: FibLookup = unsafe { core::mem::zeroed() };
    lookup.l4_protocol = destination.protocol;
    lookup.sport = source.port.to_wire();
    lookup.dport = destination.port.to_wire();
    lookup.__bindgen_anon_1.tot_len = packet.ip_len;
    match packet.network {
        Network::V4(header) => {
            lookup.family = AF_INET;
            lookup.__bindgen_anon_2.tos = header.u8::<15>();
            lookup.__bindgen_anon_3.ipv4_src = source.address.v4_word();
            lookup.__bindgen_anon_4.ipv4_dst = destination.address.v4_word();
        }
        Network::V6(header) => {
            // Traffic class and flow label.
            const FLOWINFO_MASK: u32 = 0x0fff_ffff_u32.to_be();
            lookup.family = AF_INET6;
            lookup.__bindgen_anon_2.flowinfo = header.u32::<14>() & FLOWINFO_MASK;
            lookup.__bindgen_anon_3.ipv6_src = source.address.words();
            lookup.__bindgen_anon_4.ipv6_dst = destination.address.words();
        }
    }
    lookup
}

#[inline(always)]
fn macs(lookup: &FibLookup) -> [u16; 6] {
    let [a, b, c, d, e, f] = lookup.dmac;
    let [g, h, i, j, k, l] = lookup.smac;
    [[a, b], [c, d], [e, f], [g, h], [i, j], [k, l]].map(u16::from_ne_bytes)
}
