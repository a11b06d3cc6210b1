//! The packet program: parse -> service -> flow -> choose -> route -> rewrite -> count -> emit.
//!
//! A library, so that the benchmark's harness calls the same code. Every packet leaves through [`run`], with one counted
//! verdict. What most packets are is inlined into one function; what is rare (`odd.rs` and what it calls) lies in
//! functions of its own, so that it costs the others no registers.
#![cfg_attr(target_arch = "bpf", no_std, feature(asm_experimental_arch))]

#[macro_use]
mod accessors;
mod cells;
mod chain;
mod choose;
mod clock;
mod count;
mod emit;
mod encapsulate;
mod fast;
mod flow;
mod fragment;
mod fuse;
mod heard;
mod helpers;
mod icmp;
mod link;
mod maps;
mod odd;
mod outcome;
mod packet;
mod parse;
mod peek;
mod reply;
mod request;
mod reset;
mod rewrite;
mod route;
mod scratch;
mod service;
mod signals;
mod source;
mod stages;
mod too_big;
mod trace;

use aya_ebpf::programs::XdpContext;
use grayxdp_common::{ids::ServiceId, verdict::Verdict};
use outcome::{Outcome, next};
use parse::{Odd, Parsed};
use request::Begun;
use service::{Class, Role};

/// Decides on a packet, changes it, and returns the XDP action.
#[inline(always)]
pub fn run(context: &XdpContext) -> u32 {
    let Some(control) = maps::control() else { return emit::PASS };
    trace::begin(context, control);
    let raw = match stages::grayxdp_fast(context.ctx, control) {
        next::SLOW => process(context),
        raw => raw,
    };
    let mut outcome = Outcome::from_raw(raw);
    if outcome.is_wrapped() && stages::grayxdp_wrap(context.ctx) != 0 {
        outcome = Outcome::of(Verdict::DroppedRewriteFailed);
    }
    count::verdict(outcome.verdict_index());
    trace::end(control, outcome);
    emit::action(context, outcome)
}

/// The stages, one after the other. Each that is a function of its own leaves the stack before the next one begins.
#[inline(always)]
fn process(context: &XdpContext) -> u64 {
    let Some(parsed) = scratch::parsed() else { return stages::nothing() };
    match Class(stages::grayxdp_classify(context.ctx, parsed)).role() {
        Ok(Role::Request(id)) => process_request(context, parsed, id),
        Ok(Role::Reply(id)) => match stages::grayxdp_reply(context.ctx, parsed, id.raw().into()) {
            next::RESET => stages::grayxdp_reset_reply(context.ctx, parsed, id.raw().into()),
            next::UNTRACKED => stages::grayxdp_untracked(context.ctx, parsed, id.raw().into()),
            outcome => outcome,
        },
        Ok(Role::Stranger) => stages::nothing(),
        Err(odd) => process_odd(context, odd),
    }
}

#[inline(always)]
fn process_request(context: &XdpContext, parsed: &Parsed, id: ServiceId) -> u64 {
    let mut met = stages::grayxdp_meet(parsed, id.0);
    if met == next::BEGIN {
        met = stages::grayxdp_begin(parsed, id.0);
    }
    if met & Begun::HERE != 0 && met & 0xff == 0 {
        stages::grayxdp_request(context.ctx, parsed, id.0, met)
    } else if met == next::RESET {
        stages::grayxdp_reset_request(context.ctx, parsed, id.0)
    } else {
        met
    }
}

#[inline(always)]
fn process_odd(context: &XdpContext, odd: u32) -> u64 {
    let outcome = match Odd::from_raw(odd) {
        Odd::LaterFragment => stages::grayxdp_fragment(context.ctx),
        Odd::Icmp => stages::grayxdp_icmp(context.ctx),
        _ => stages::grayxdp_odd(context.ctx, odd),
    };
    match outcome {
        next::TO_BACKEND => stages::grayxdp_icmp_to_backend(context.ctx),
        next::TO_CLIENT => stages::grayxdp_icmp_to_client(context.ctx),
        outcome => outcome,
    }
}
