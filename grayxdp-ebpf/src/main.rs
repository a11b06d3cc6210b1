//! The packet program as the kernel loads it; the way of a packet is in `lib.rs`.
#![cfg_attr(target_arch = "bpf", no_std)]
#![no_main]

use aya_ebpf::{macros::xdp, programs::XdpContext};

/// The kernel grants `bpf_fib_lookup` to GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// Entry point.
#[xdp]
fn grayxdp(context: XdpContext) -> u32 {
    grayxdp_ebpf::run(&context)
}

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}
