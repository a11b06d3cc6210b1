//! The next hop: from the backend's entry, from the table of routes, or from the kernel. Changes nothing.

use aya_ebpf::{
    bindings::{
        BPF_FIB_LKUP_RET_BLACKHOLE, BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_FWD_DISABLED,
        BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_PROHIBIT, BPF_FIB_LKUP_RET_SUCCESS, BPF_FIB_LKUP_RET_UNREACHABLE,
        bpf_fib_lookup as FibLookup, bpf_fib_lookup__bindgen_ty_5 as Table,
    },
    programs::XdpContext,
};
use grayxdp_common::{
    layout::{Address, Control, NextHop},
    limits::ROUTES_MAX,
    verdict::{FIRST_DROPPED, Verdict},
};

use crate::{helpers, maps, outcome::Outcome, packet::Packet, parse, scratch, stages};

const _: () = assert!(ROUTES_MAX.is_power_of_two(), "indices are masked");

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// How a packet goes on.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Way {
    /// `Forwarded…`, `Handed…`, or why it is dropped.
    pub(crate) verdict: Verdict,
    /// Interface to leave by; meaningful for `Forwarded…` only.
    pub(crate) interface: u32,
    /// Destination and source MAC address, as they follow each other on the wire.
    pub(crate) macs: [u16; 6],
    /// Of [`Verdict::HandedTooBig`]: the largest IP packet, in bytes.
    pub(crate) mtu: u16,
    reserved: u16,
}

/// What is to be sent, and where from and to.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Departure {
    pub(crate) source: Address,
    pub(crate) destination: Address,
    /// Length of the IP packet as it leaves, in bytes.
    pub(crate) ip_len: u16,
    /// DSCP and ECN.
    pub(crate) traffic_class: u8,
    pub(crate) protocol: u8,
    /// The present moment, in flow ticks that do not wrap.
    pub(crate) now: u32,
}

impl Way {
    #[inline(always)]
    pub(crate) fn without_hop(verdict: Verdict, mtu: u16) -> Self {
        Self { verdict, interface: 0, macs: [0; 6], mtu, reserved: 0 }
    }

    /// Whether the program sends the packet itself.
    #[inline(always)]
    pub(crate) fn is_own(&self) -> bool {
        matches!(self.verdict, Verdict::ForwardedSameInterface | Verdict::ForwardedOtherInterface)
    }

    /// The way, or why there is none.
    #[inline(always)]
    pub(crate) fn passable(self) -> Result<Self, Verdict> {
        if self.verdict.index() >= FIRST_DROPPED { Err(self.verdict) } else { Ok(self) }
    }

    /// How a packet ends that goes this way.
    #[inline(always)]
    pub(crate) fn outcome(&self) -> Outcome {
        let outcome = Outcome::of(self.verdict);
        if self.verdict == Verdict::ForwardedOtherInterface { outcome.by(self.interface) } else { outcome }
    }
}

/// The kernel cannot be handed a packet whose destination is the VIP.
#[inline(always)]
pub(crate) fn too_far(verdict: Verdict) -> Verdict {
    match verdict {
        Verdict::HandedNeighbourUnknown => Verdict::DroppedNeighbourUnknown,
        Verdict::HandedTooBig => Verdict::DroppedTooBig,
        _ => Verdict::DroppedNoRoute,
    }
}

/// The way to a backend.
#[inline(always)]
pub(crate) fn to_backend(context: &XdpContext, control: &Control, hop: &NextHop, departure: &Departure) -> Way {
    if !is_tagged(context)
        && let Some(way) = known(context, control, hop, departure.ip_len, departure.now)
    {
        return way;
    }
    ask_kernel(context, departure)
}

/// The way to a client.
#[inline(always)]
pub(crate) fn to_client(context: &XdpContext, control: &Control, departure: &Departure) -> Way {
    if !is_tagged(context)
        && let Some(way) = known_to_client(context, control, departure.destination, departure.ip_len, departure.now)
    {
        return way;
    }
    ask_kernel(context, departure)
}

/// Whether the packet has a VLAN tag. The ways that are gone by from here have none: the kernel must take it off.
#[inline(always)]
fn is_tagged(context: &XdpContext) -> bool {
    parse::is_tagged(Packet::new(context))
}

/// The same, by the table of routes; `None` where the kernel must be asked.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "masked")]
pub(crate) fn known_to_client(
    context: &XdpContext,
    control: &Control,
    client: Address,
    ip_len: u16,
    now: u32,
) -> Option<Way> {
    // Bit 0 says which table; the rest, how many routes it has.
    let routes = control.routes;
    let first = (routes & 1) * ROUTES_MAX;
    let count = routes >> 8;
    let mut nth = 0;
    while nth < ROUTES_MAX && nth < count {
        if maps::route(first + nth)?.covers(&client) {
            let nth = helpers::opaque(nth as usize, u64::from(routes)) as u32 & (ROUTES_MAX - 1);
            return known(context, control, &maps::route(first + nth)?.next_hop, ip_len, now);
        }
        nth += 1;
    }
    None
}

/// The way by a next hop, where it may be gone by.
#[inline(always)]
pub(crate) fn known(context: &XdpContext, control: &Control, hop: &NextHop, ip_len: u16, now: u32) -> Option<Way> {
    if hop.interface == 0 || now > control.hops_until {
        return None;
    }
    if ip_len > hop.mtu {
        return Some(Way::without_hop(Verdict::HandedTooBig, hop.mtu));
    }
    let verdict = if hop.interface == ingress(context) {
        Verdict::ForwardedSameInterface
    } else {
        Verdict::ForwardedOtherInterface
    };
    let [a, b, c] = hop.destination_mac;
    let [d, e, f] = hop.source_mac;
    Some(Way { verdict, interface: hop.interface, macs: [a, b, c, d, e, f], mtu: hop.mtu, reserved: 0 })
}

#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "an interface's index has 32 bits")]
fn ingress(context: &XdpContext) -> u32 {
    context.ingress_ifindex() as u32
}

#[inline(always)]
fn ask_kernel(context: &XdpContext, departure: &Departure) -> Way {
    let mut way = Way::without_hop(Verdict::DroppedNoRoute, 0);
    stages::grayxdp_ask_kernel(context.ctx, departure, &mut way);
    way
}

/// The kernel's own routes and neighbours; about as expensive as everything else together.
#[inline(always)]
pub(crate) fn ask(context: &XdpContext, departure: &Departure, way: &mut Way) {
    let ingress = ingress(context);
    let Some(lookup) = scratch::lookup() else { return };
    fill(lookup, departure, ingress);
    let outcome = helpers::fib_lookup(context, lookup);
    way.verdict = match outcome {
        BPF_FIB_LKUP_RET_SUCCESS if is_tagged(context) => Verdict::HandedInterfaceUnknown,
        BPF_FIB_LKUP_RET_SUCCESS => {
            way.interface = lookup.ifindex;
            way.macs = macs(lookup);
            if lookup.ifindex == ingress {
                Verdict::ForwardedSameInterface
            } else if maps::own_interface(lookup.ifindex).is_some() {
                Verdict::ForwardedOtherInterface
            } else {
                Verdict::HandedInterfaceUnknown
            }
        }
        BPF_FIB_LKUP_RET_NO_NEIGH => Verdict::HandedNeighbourUnknown,
        BPF_FIB_LKUP_RET_FRAG_NEEDED => {
            way.mtu = helpers::fib_mtu(lookup);
            Verdict::HandedTooBig
        }
        BPF_FIB_LKUP_RET_BLACKHOLE | BPF_FIB_LKUP_RET_UNREACHABLE | BPF_FIB_LKUP_RET_PROHIBIT => {
            Verdict::DroppedNoRoute
        }
        BPF_FIB_LKUP_RET_FWD_DISABLED => Verdict::DroppedForwardingOff,
        _ => Verdict::HandedNotForwarded,
    };
}

/// Field by field, for the whole of it would be put together on the stack.
#[inline(always)]
fn fill(lookup: &mut FibLookup, departure: &Departure, ifindex: u32) {
    let class = departure.traffic_class;
    lookup.l4_protocol = departure.protocol;
    lookup.sport = 0;
    lookup.dport = 0;
    lookup.__bindgen_anon_1.tot_len = departure.ip_len;
    lookup.ifindex = ifindex;
    lookup.__bindgen_anon_5 = Table { tbid: 0 };
    // An IPv4 address takes the first word of the field, the type of service its first byte.
    if departure.destination.is_v4() {
        lookup.family = AF_INET;
        lookup.__bindgen_anon_2.flowinfo = u32::from_ne_bytes([class, 0, 0, 0]);
        lookup.__bindgen_anon_3.ipv4_src = departure.source.v4_word();
        lookup.__bindgen_anon_4.ipv4_dst = departure.destination.v4_word();
    } else {
        lookup.family = AF_INET6;
        lookup.__bindgen_anon_2.flowinfo = (u32::from(class) << 20).to_be();
        lookup.__bindgen_anon_3.ipv6_src = departure.source.words();
        lookup.__bindgen_anon_4.ipv6_dst = departure.destination.words();
    }
}

#[inline(always)]
fn macs(lookup: &FibLookup) -> [u16; 6] {
    let [a, b, c, d, e, f] = lookup.dmac;
    let [g, h, i, j, k, l] = lookup.smac;
    [[a, b], [c, d], [e, f], [g, h], [i, j], [k, l]].map(u16::from_ne_bytes)
}
