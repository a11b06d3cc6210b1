//! The packet program: parse -> service -> flow -> choose -> route -> rewrite -> count -> emit.
//!
//! A library, so that the benchmark's harness calls the same code. Every packet leaves through [`run`], with one counted
//! verdict. What most packets are is inlined into one function; what is rare (`odd.rs` and what it calls) lies in
//! functions of its own, so that it costs the others no registers.
#![cfg_attr(target_arch = "bpf", no_std, feature(asm_experimental_arch))]

mod choose;
mod count;
mod emit;
mod encapsulate;
mod flow;
mod fragment;
mod helpers;
mod icmp;
mod link;
mod maps;
mod odd;
mod outcome;
mod packet;
mod parse;
mod reply;
mod request;
mod reset;
mod rewrite;
mod route;
mod service;
mod source;
mod too_big;
mod trace;

use aya_ebpf::programs::XdpContext;
use grayxdp_common::verdict::Verdict;
use outcome::Outcome;
use packet::Packet;
use service::Role;

/// Decides on a packet, changes it, and returns the XDP action.
#[inline(always)]
pub fn run(context: &XdpContext) -> u32 {
    let Some(control) = maps::control() else { return emit::PASS };
    trace::begin(context, control);
    let outcome = process(context, control);
    count::verdict(outcome.verdict_index());
    trace::end(control, outcome);
    emit::action(outcome)
}

#[inline(always)]
fn process(context: &XdpContext, control: &'static grayxdp_common::layout::Control) -> Outcome {
    let parsed = match parse::parse(Packet::new(context)) {
        Ok(parsed) => parsed,
        Err(odd) => return odd::process(context.ctx, control, odd),
    };
    match service::role(control, parsed.source, parsed.destination) {
        Role::Request(id, service) => request::forward(context.ctx, control, &parsed, id, service),
        Role::Reply(id, backend) => reply::forward(context.ctx, control, &parsed, id, backend),
        Role::Stranger => Outcome::of(Verdict::PassedNoService),
    }
}
