//! The baseline: NAT for TCP and UDP over IPv4 with what everyone has, a BPF hash map of services and an LRU hash of
//! flows. As lean as it can be made: no fragments, no ICMP, no options, no pins, no traces, one shard.
#![cfg_attr(target_arch = "bpf", no_std)]
#![no_main]

use aya_ebpf::{
    bindings::{
        BPF_F_MMAPABLE,
        xdp_action::{XDP_DROP, XDP_PASS, XDP_TX},
        xdp_md,
    },
    btf_maps::{Array, HashMap, LruHashMap, PerCpuArray},
    helpers::generated::bpf_redirect,
    macros::{btf_map, xdp},
    programs::XdpContext,
};
use grayxdp_bench_ebpf::{
    frame::{self, Frame},
    harness::{bench_note, bench_prepare},
    lru::{Backend, Counters, EndpointKey, FlowKey, Hop, IS_BACKEND, Owner, SLOTS, Service, Slots},
};
use grayxdp_common::{
    csum::ChecksumDelta,
    hash::key_hash,
    ids::{Be16, Version},
    layout::{Address, KEY_CONNECTION},
    weight::Threshold,
};

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// Page-aligned, which is faster.
const MAPPED: usize = BPF_F_MMAPABLE as usize;

#[btf_map]
static ENDPOINTS: HashMap<EndpointKey, Owner, 8192> = HashMap::new();
#[btf_map]
static SERVICES: Array<Service, 256, MAPPED> = Array::new();
/// Two for each service.
#[btf_map]
static TABLES: Array<Slots, 512, MAPPED> = Array::new();
#[btf_map]
static BACKENDS: Array<Backend, 4096, MAPPED> = Array::new();
#[btf_map]
static COUNTERS: PerCpuArray<Counters, 4096> = PerCpuArray::new();
/// Userspace sets the capacity.
#[btf_map]
static FLOWS: LruHashMap<FlowKey, u64, 1024> = LruHashMap::new();

const IPV4: u16 = 0x0800_u16.to_be();
const FRAGMENT: u16 = 0x3fff_u16.to_be();
const TCP: u8 = 6;
const UDP: u8 = 17;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
/// Ethernet, IPv4, UDP; and with TCP.
const UDP_HEAD: usize = 42;
const TCP_HEAD: usize = 54;

/// The baseline behind the harness.
#[xdp]
fn lru(context: XdpContext) -> u32 {
    let noted = bench_prepare(context.ctx);
    let action = path(context.ctx);
    if noted != 0 {
        bench_note(context.ctx, noted);
    }
    action
}

/// What is subtracted from it.
#[xdp]
fn harness(context: XdpContext) -> u32 {
    let noted = bench_prepare(context.ctx);
    if noted != 0 {
        bench_note(context.ctx, noted);
    }
    XDP_TX
}

/// What the flow's other packets are told apart by.
#[derive(Clone, Copy)]
struct Packet {
    source: u32,
    destination: u32,
    source_port: u16,
    destination_port: u16,
    protocol: u8,
    tcp_flags: u8,
    ip_len: u16,
}

#[inline(always)]
fn path(context: *mut xdp_md) -> u32 {
    let Some(head) = frame::of::<UDP_HEAD>(context) else { return XDP_PASS };
    if head.u16::<12>() != IPV4 || head.u8::<14>() != 0x45 || head.u16::<20>() & FRAGMENT != 0 {
        return XDP_PASS;
    }
    let protocol = head.u8::<23>();
    let tcp_flags = match protocol {
        TCP => match frame::of::<TCP_HEAD>(context) {
            Some(head) => head.u8::<47>(),
            None => return XDP_PASS,
        },
        UDP => 0,
        _ => return XDP_PASS,
    };
    let packet = Packet {
        source: head.u32::<26>(),
        destination: head.u32::<30>(),
        source_port: head.u16::<34>(),
        destination_port: head.u16::<36>(),
        protocol,
        tcp_flags,
        ip_len: u16::from_be(head.u16::<16>()),
    };
    if let Some(owner) = owner(packet.destination, packet.destination_port, protocol)
        && owner & IS_BACKEND == 0
    {
        return request(context, head, packet, owner);
    }
    match owner(packet.source, packet.source_port, protocol) {
        Some(owner) if owner & IS_BACKEND != 0 => reply(context, head, packet, owner & !IS_BACKEND),
        _ => XDP_PASS,
    }
}

#[inline(always)]
fn owner(address: u32, port: u16, protocol: u8) -> Option<u32> {
    // SAFETY: copied at once; entries are not removed while packets run.
    unsafe { ENDPOINTS.get(EndpointKey { address, port, protocol: u16::from(protocol) }) }.copied()
}

#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "numbers under 2^16")]
fn request(context: *mut xdp_md, head: Frame<UDP_HEAD>, packet: Packet, id: u32) -> u32 {
    if head.u8::<22>() <= 1 {
        return XDP_DROP;
    }
    let key = FlowKey { address: packet.source, port: packet.source_port, service: id as u16 };
    let is_syn = packet.protocol == TCP && packet.tcp_flags & (SYN | ACK) == SYN;
    let known = if is_syn {
        None
    } else {
        // SAFETY: copied at once; a torn or reused value is a backend's number all the same.
        unsafe { FLOWS.get(key) }.copied()
    };
    let backend_id = match known {
        Some(backend) => backend as u32,
        None => match choose(id, packet) {
            Some(backend) => {
                let _ = FLOWS.insert(key, u64::from(backend), 0);
                backend
            }
            None => return XDP_DROP,
        },
    };
    let Some(backend) = BACKENDS.get(backend_id) else { return XDP_DROP };
    if let Some(counters) = COUNTERS.get_ptr_mut(backend_id) {
        // SAFETY: this CPU's own slot.
        let counters = unsafe { &mut *counters };
        counters.packets_in += 1;
        counters.bytes_in += u64::from(packet.ip_len);
        if known.is_none() {
            counters.new_flows += u64::from(is_syn || packet.protocol == UDP);
            counters.misses += u64::from(!is_syn && packet.protocol == TCP);
        }
    }
    let delta = ChecksumDelta::ZERO.word(packet.destination, backend.address);
    head.set_u32::<30>(backend.address);
    head.set_u16::<36>(backend.port);
    checksums(context, head, packet, delta, delta.half(packet.destination_port, backend.port));
    send(context, head, &backend.hop)
}

#[inline(always)]
fn choose(id: u32, packet: Packet) -> Option<u32> {
    #[expect(clippy::cast_possible_truncation, reason = "some thousand slots")]
    const SLOT_COUNT: u32 = SLOTS as u32;
    let service = SERVICES.get(id)?;
    let client = Address::from_v4_wire(packet.source);
    let hash = key_hash(service.hash_key, KEY_CONNECTION, client, Be16::from_wire(packet.source_port));
    let version = Threshold::from_raw(service.threshold).version(hash);
    let table = TABLES.get(id * 2 + u32::from(version == Version::V2))?;
    table.get(hash.maglev_slot(SLOT_COUNT) as usize).map(|&backend| u32::from(backend))
}

#[inline(always)]
fn reply(context: *mut xdp_md, head: Frame<UDP_HEAD>, packet: Packet, backend_id: u32) -> u32 {
    let Some(backend) = BACKENDS.get(backend_id) else { return XDP_PASS };
    let key = FlowKey { address: packet.destination, port: packet.destination_port, service: backend.service };
    // SAFETY: as in `request`.
    if unsafe { FLOWS.get(key) }.copied() != Some(u64::from(backend_id)) {
        return XDP_PASS;
    }
    if head.u8::<22>() <= 1 {
        return XDP_DROP;
    }
    let Some(service) = SERVICES.get(u32::from(backend.service)) else { return XDP_PASS };
    if let Some(counters) = COUNTERS.get_ptr_mut(backend_id) {
        // SAFETY: this CPU's own slot.
        let counters = unsafe { &mut *counters };
        counters.packets_out += 1;
        counters.bytes_out += u64::from(packet.ip_len);
    }
    let delta = ChecksumDelta::ZERO.word(packet.source, service.address);
    head.set_u32::<26>(service.address);
    head.set_u16::<34>(service.port);
    checksums(context, head, packet, delta, delta.half(packet.source_port, service.port));
    send(context, head, &service.hop)
}

#[inline(always)]
fn checksums(
    context: *mut xdp_md,
    head: Frame<UDP_HEAD>,
    packet: Packet,
    addresses: ChecksumDelta,
    all: ChecksumDelta,
) {
    // The hop limit is the low byte of its word.
    let old = head.u16::<22>();
    let new = old.wrapping_sub(1);
    head.set_u16::<22>(new);
    head.set_u16::<24>(addresses.half(old, new).apply(head.u16::<24>()));
    if packet.protocol == TCP {
        if let Some(head) = frame::of::<TCP_HEAD>(context) {
            head.set_u16::<50>(all.apply(head.u16::<50>()));
        }
    } else {
        let old = head.u16::<40>();
        if old != 0 {
            let new = all.apply(old);
            head.set_u16::<40>(if new == 0 { u16::MAX } else { new });
        }
    }
}

#[inline(always)]
fn send(context: *mut xdp_md, head: Frame<UDP_HEAD>, hop: &Hop) -> u32 {
    let [a, b, c, d, e, f] = hop.macs;
    head.set_u16::<0>(a);
    head.set_u16::<2>(b);
    head.set_u16::<4>(c);
    head.set_u16::<6>(d);
    head.set_u16::<8>(e);
    head.set_u16::<10>(f);
    // SAFETY: the context that the program was given.
    if hop.interface == unsafe { (*context).ingress_ifindex } {
        return XDP_TX;
    }
    // SAFETY: takes numbers only.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an XDP action")]
    unsafe {
        bpf_redirect(hop.interface, 0) as u32
    }
}

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}
