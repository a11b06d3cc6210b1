//! Calls of the kernel's helper functions, and instructions that the language has no words for, made safe. No maps, no
//! packets.

use aya_ebpf::{
    EbpfContext as _,
    bindings::bpf_fib_lookup as FibLookup,
    helpers::generated::{
        bpf_csum_diff, bpf_fib_lookup, bpf_get_prandom_u32, bpf_get_smp_processor_id, bpf_jiffies64,
        bpf_ktime_get_coarse_ns, bpf_ktime_get_ns, bpf_xdp_adjust_head, bpf_xdp_adjust_tail,
    },
    programs::XdpContext,
};

/// The kernel's coarse monotonic clock, in nanoseconds.
#[inline(always)]
pub(crate) fn coarse_clock_ns() -> u64 {
    // SAFETY: takes nothing and cannot fail.
    unsafe { bpf_ktime_get_coarse_ns() }
}

/// The kernel's monotonic clock, in nanoseconds; five times as dear as the coarse one.
#[inline(always)]
pub(crate) fn clock_ns() -> u64 {
    // SAFETY: takes nothing and cannot fail.
    unsafe { bpf_ktime_get_ns() }
}

/// Number of this CPU.
#[inline(always)]
pub(crate) fn cpu() -> u32 {
    // SAFETY: takes nothing and cannot fail.
    unsafe { bpf_get_smp_processor_id() }
}

/// The kernel's count of timer ticks, which moves with [`coarse_clock_ns`]. No call: the kernel puts a load in its place.
#[inline(always)]
pub(crate) fn jiffies() -> u64 {
    // SAFETY: takes nothing and cannot fail.
    unsafe { bpf_jiffies64() }
}

/// 32 random bits, not for secrets.
#[inline(always)]
pub(crate) fn random() -> u32 {
    // SAFETY: takes nothing and cannot fail.
    unsafe { bpf_get_prandom_u32() }
}

/// Asks for a route and a neighbour; the answer's details are written into `lookup`. Returns a `BPF_FIB_LKUP_RET_…`, or
/// a negative error number, as unsigned.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a size under 100, and a small number")]
pub(crate) fn fib_lookup(context: &XdpContext, lookup: &mut FibLookup) -> u32 {
    // SAFETY: a whole, initialised struct of the size given.
    unsafe { bpf_fib_lookup(context.as_ptr(), lookup, size_of::<FibLookup>() as i32, 0) as u32 }
}

/// The MTU in the answer that a packet is too big, in bytes.
#[inline(always)]
pub(crate) fn fib_mtu(lookup: &FibLookup) -> u16 {
    // SAFETY: plain integers share this place; the kernel has put the MTU there (since 5.12).
    unsafe { lookup.__bindgen_anon_1.mtu_result }
}

/// Moves the packet's start by so many bytes: room in front of it where negative. All packet pointers are void then.
#[inline(always)]
pub(crate) fn move_start(context: &XdpContext, bytes: i32) -> Option<()> {
    // SAFETY: the context that the program was given; pointers into the packet are made anew by whoever calls this, or
    // the verifier refuses the program.
    (unsafe { bpf_xdp_adjust_head(context.ctx, bytes) } == 0).then_some(())
}

/// Moves the packet's end by so many bytes: cut off where negative. All packet pointers are void then.
#[inline(always)]
pub(crate) fn move_end(context: &XdpContext, bytes: i32) -> Option<()> {
    // SAFETY: as for `move_start`.
    (unsafe { bpf_xdp_adjust_tail(context.ctx, bytes) } == 0).then_some(())
}

/// The sum of the 32-bit words at `start`, folded to 32 bits.
#[inline(always)]
#[expect(clippy::cast_sign_loss, reason = "a sum of 32 bits")]
pub(crate) fn checksum_sum(start: *mut u8, len: u32) -> u64 {
    // SAFETY: the caller's window has these bytes; the verifier sees to it.
    unsafe { bpf_csum_diff(core::ptr::null_mut(), 0, start.cast(), len, 0) as u64 & 0xffff_ffff }
}

/// The value itself, of which the verifier then knows nothing.
///
/// VERIFIER: it follows every path with what is known of each number on it, an offset or a place in a bucket say, and takes
/// two paths for one only where these are alike. What is made opaque is: then a mask says again what must be known, and
/// the rest of the program is looked at once instead of once for every value. `noise` is any number that the verifier
/// does not know.
#[inline(always)]
pub(crate) fn opaque(value: usize, noise: u64) -> usize {
    #[cfg(target_arch = "bpf")]
    {
        let mut value = value;
        // SAFETY: arithmetic on registers.
        unsafe {
            core::arch::asm!(
                "{value} ^= {noise}", "{value} ^= {noise}",
                value = inout(reg) value, noise = in(reg) noise, options(nomem, nostack, preserves_flags)
            );
        }
        value
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        let _ = noise;
        value
    }
}

/// The pointer itself, which exists from here on only.
///
/// VERIFIER: the compiler would add to it before it is compared with null, for an addition costs nothing where it is not
/// needed; but kernels up to 6.12 allow no arithmetic with a pointer that may be null.
#[inline(always)]
pub(crate) fn in_place<T>(pointer: *mut T) -> *mut T {
    #[cfg(target_arch = "bpf")]
    {
        let mut pointer = pointer;
        // SAFETY: a move of a register to itself; two lines of debug information for one place would be refused, were it
        // nothing. Not `pure`, or the compiler could move this forward, too.
        unsafe {
            core::arch::asm!(
                "{pointer} = {pointer}", pointer = inout(reg) pointer, options(nomem, nostack, preserves_flags)
            );
        }
        pointer
    }
    #[cfg(not(target_arch = "bpf"))]
    pointer
}

/// Stores `new` if the word is `old`, atomically, with a full barrier; returns what it was.
///
/// `core::sync::atomic` has no compare-exchange on this target.
///
/// # Safety
/// `word` points to an aligned word of a map's value.
#[inline(always)]
pub(crate) unsafe fn compare_exchange(word: *mut u64, old: u64, new: u64) -> u64 {
    #[cfg(target_arch = "bpf")]
    {
        let mut found = old;
        // SAFETY: the caller's claim.
        unsafe {
            core::arch::asm!(
                "r0 = cmpxchg_64({word} + 0, r0, {new})",
                word = in(reg) word, new = in(reg) new, inout("r0") found, options(nostack)
            );
        }
        found
    }
    #[cfg(not(target_arch = "bpf"))]
    // SAFETY: the caller's claim. Only there so that the crate is checked on the build host.
    unsafe {
        let atomic = core::sync::atomic::AtomicU64::from_ptr(word);
        let ordering = core::sync::atomic::Ordering::SeqCst;
        atomic.compare_exchange(old, new, ordering, ordering).unwrap_or_else(|found| found)
    }
}
