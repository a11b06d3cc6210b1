//! The real packet path behind the harness, the harness alone, and the floor.
#![cfg_attr(target_arch = "bpf", no_std)]
#![no_main]

use aya_ebpf::{bindings::xdp_action::XDP_TX, macros::xdp, programs::XdpContext};
use grayxdp_bench_ebpf::harness::{bench_note, bench_prepare};

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// The packet path; named as the program that the agent loads.
#[xdp]
fn grayxdp(context: XdpContext) -> u32 {
    let noted = bench_prepare(context.ctx);
    let action = grayxdp_ebpf::run(&context);
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

/// What an empty program costs.
#[xdp]
fn floor(_context: XdpContext) -> u32 {
    XDP_TX
}

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}
