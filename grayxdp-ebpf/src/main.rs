//! The packet program: parse -> service -> flow -> choose -> route -> rewrite -> count -> emit.
//!
//! All branching between the stages is here. Every packet leaves through [`grayxdp`], with one counted verdict.
#![cfg_attr(target_arch = "bpf", no_std, feature(asm_experimental_arch))]
#![no_main]

mod choose;
mod count;
mod emit;
mod flow;
mod helpers;
mod maps;
mod packet;
mod parse;
mod rewrite;
mod route;
mod service;

use aya_ebpf::{macros::xdp, programs::XdpContext};
use count::Meeting;
use flow::Flow;
use grayxdp_common::{
    ids::{BackendId, ServiceId},
    layout::{BackendEntry, ServiceEntry},
    verdict::Verdict,
};
use packet::Packet;
use parse::{Parsed, Step};
use rewrite::End;
use route::NextHop;
use service::Role;

/// The kernel grants `bpf_fib_lookup` to GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// Entry point.
#[xdp]
fn grayxdp(context: XdpContext) -> u32 {
    let (verdict, ifindex) = match process(&context) {
        Ok(next) => (next.verdict, next.ifindex),
        Err(verdict) => (verdict, 0),
    };
    count::verdict(verdict);
    emit::action(verdict, ifindex)
}

/// A packet that goes on, rewritten, or the reason why it does not.
#[inline(always)]
fn process(context: &XdpContext) -> Result<NextHop, Verdict> {
    let packet = Packet::new(context);
    let parsed = parse::parse(packet)?;
    match service::role(&parsed) {
        Role::Request(id, service) => {
            let request = Request { id, service, parsed };
            request.forward(context, packet)
        }
        Role::Reply(id, backend) => reply(context, packet, &parsed, id, backend),
        Role::Stranger => Err(Verdict::PassedNoService),
    }
}

/// A client's packet, and the service that it is for.
struct Request {
    id: ServiceId,
    service: &'static ServiceEntry,
    parsed: Parsed,
}

impl Request {
    #[inline(always)]
    fn forward(&self, context: &XdpContext, packet: Packet) -> Result<NextHop, Verdict> {
        if self.parsed.hop_limit <= 1 {
            return Err(Verdict::DroppedHopLimit);
        }
        let flow = Flow::new(self.id, self.parsed.source.address, self.parsed.source.port);
        let (backend, entry, meeting) = self.backend(&flow)?;
        let next = route::next_hop(context, &self.parsed, &self.parsed.source, &entry.endpoint)?;
        let tracked = match (meeting, self.parsed.step) {
            // A reset leaves nothing behind that would have to be kept together.
            (Meeting::Known, _) | (_, Step::Reset) => Ok(()),
            _ => flow.begin_on(backend),
        };
        rewrite::endpoint(&self.parsed, End::Destination, &entry.endpoint);
        depart(packet, &self.parsed, next)?;
        count::request(backend, self.parsed.ip_len, meeting, tracked);
        Ok(next)
    }

    /// A SYN obeys today's weights; every other packet its flow, and today's weights only where it has none.
    #[inline(always)]
    fn backend(&self, flow: &Flow) -> Result<(BackendId, &'static BackendEntry, Meeting), Verdict> {
        if self.parsed.step != Step::Syn
            && let Some((backend, entry)) = flow.backend(&self.parsed, self.service)
        {
            return Ok((backend, entry, Meeting::Known));
        }
        let source = &self.parsed.source;
        let (backend, entry) = choose::backend_for_new_flow(self.id, self.service, source.address, source.port)?;
        let meeting = match self.parsed.step {
            Step::Syn | Step::Datagram => Meeting::New,
            Step::Segment | Step::Reset => Meeting::Missed,
        };
        Ok((backend, entry, meeting))
    }
}

/// A backend's packet to a client, made to come from the service.
#[inline(always)]
fn reply(
    context: &XdpContext,
    packet: Packet,
    parsed: &Parsed,
    id: BackendId,
    backend: &BackendEntry,
) -> Result<NextHop, Verdict> {
    let service_id = ServiceId(backend.service);
    let service = maps::service(service_id).ok_or(Verdict::PassedBackendNoFlow)?;
    let flow = Flow::new(service_id, parsed.destination.address, parsed.destination.port);
    flow.is_on(id).ok_or(Verdict::PassedBackendNoFlow)?;
    if parsed.hop_limit <= 1 {
        return Err(Verdict::DroppedHopLimit);
    }
    let next = route::next_hop(context, parsed, &service.endpoint, &parsed.destination)?;
    rewrite::endpoint(parsed, End::Source, &service.endpoint);
    depart(packet, parsed, next)?;
    count::reply(id, parsed.ip_len);
    Ok(next)
}

/// What packets need that the program itself sends on; the kernel sees to it for those that it is handed.
#[inline(always)]
fn depart(packet: Packet, parsed: &Parsed, next: NextHop) -> Result<(), Verdict> {
    match next.verdict {
        Verdict::ForwardedSameInterface | Verdict::ForwardedOtherInterface => {
            rewrite::hop(packet, parsed, next.macs).ok_or(Verdict::DroppedRewriteFailed)
        }
        _ => Ok(()),
    }
}

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}
