//! Loads and stores in a packet, as BPF instructions: headers behind an Ethernet header are misaligned, which Rust's
//! plain dereference does not allow and `read_unaligned` makes slow.

use aya_ebpf::bindings::xdp_md;

/// The first bytes of a packet, which were compared with its end.
#[derive(Clone, Copy)]
pub struct Frame<const N: usize> {
    start: *mut u8,
}

/// The packet's first `N` bytes; `None` where it is shorter.
#[inline(always)]
pub fn of<const N: usize>(context: *mut xdp_md) -> Option<Frame<N>> {
    let (start, end) = bounds(context);
    if start.wrapping_add(N) > end { None } else { Some(Frame { start }) }
}

/// Bytes from the Ethernet header to the end.
#[inline(always)]
pub fn len(context: *mut xdp_md) -> usize {
    let (start, end) = bounds(context);
    end as usize - start as usize
}

#[inline(always)]
fn bounds(context: *mut xdp_md) -> (*mut u8, *mut u8) {
    #[cfg(target_arch = "bpf")]
    {
        let (start, end): (*mut u8, *mut u8);
        // SAFETY: loads of the context's first two fields, which the kernel turns into pointers.
        unsafe {
            core::arch::asm!(
                "{start} = *(u32 *)({context} + 0)", "{end} = *(u32 *)({context} + 4)",
                start = out(reg) start, end = lateout(reg) end, context = in(reg) context,
                options(readonly, nostack, preserves_flags)
            );
        }
        (start, end)
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        let _ = context;
        (core::ptr::null_mut(), core::ptr::null_mut())
    }
}

impl<const N: usize> Frame<N> {
    accessors!(pub, u8, set_u8, u8, "u8");
    accessors!(pub, u16, set_u16, u16, "u16");
    accessors!(pub, u32, set_u32, u32, "u32");
}
