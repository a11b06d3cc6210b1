//! Bounds-checked access to the packet. The only pointer arithmetic on packets.
//!
//! A [`Window`] is a run of `N` bytes that has been checked against the packet's end once; its accessors take offsets
//! known at compile time and cannot leave it.
//!
//! Headers behind an Ethernet header are misaligned for 32-bit loads. A plain dereference would be undefined behaviour
//! in Rust, and `read_unaligned` becomes single-byte loads (about 4 ns a packet). Loads and stores are therefore written
//! as BPF instructions, which have no alignment rule for packets on the machines that XDP runs on.

use aya_ebpf::programs::XdpContext;

/// How far into a packet headers are looked for; a mask.
pub(crate) const OFFSET_MAX: usize = 0x7ff;

/// The packet as it is, from its Ethernet header on. What moves its ends makes it void; the verifier sees to that.
#[derive(Clone, Copy)]
pub(crate) struct Packet {
    start: *mut u8,
    end: *mut u8,
}

impl Packet {
    #[inline(always)]
    pub(crate) fn new(context: &XdpContext) -> Self {
        let [start, end] = bounds(context);
        Self { start, end }
    }

    /// Bytes from the Ethernet header on.
    ///
    /// VERIFIER: subtracted behind the compiler's back, which would narrow the subtraction to the 32 bits that are used.
    #[inline(always)]
    pub(crate) fn len(self) -> usize {
        #[cfg(target_arch = "bpf")]
        {
            let mut len = self.end;
            // SAFETY: arithmetic on registers.
            unsafe {
                core::arch::asm!(
                    "{len} -= {start}", len = inout(reg) len, start = in(reg) self.start,
                    options(pure, nomem, nostack, preserves_flags)
                );
            }
            len as usize
        }
        #[cfg(not(target_arch = "bpf"))]
        {
            self.end as usize - self.start as usize
        }
    }

    /// An offset of at most [`OFFSET_MAX`], of which the verifier knows no more than that; see [`crate::helpers::opaque`].
    #[inline(always)]
    pub(crate) fn opaque_offset(self, offset: usize) -> usize {
        crate::helpers::opaque(offset, self.len() as u64) & OFFSET_MAX
    }

    /// `N` bytes at an offset of at most [`OFFSET_MAX`]; `None` where the packet ends before.
    #[inline(always)]
    pub(crate) fn window<const N: usize>(self, offset: usize) -> Option<Window<N>> {
        // VERIFIER: it must see the bound of a variable offset to follow the comparison below.
        let start = advance(self.start, offset & OFFSET_MAX);
        if start.wrapping_add(N) > self.end { None } else { Some(Window { start }) }
    }
}

/// A pointer further into the packet.
///
/// VERIFIER: added behind the compiler's back, which would add again for some of the loads behind the comparison; but the
/// verifier takes only the very pointer that was compared for checked.
#[inline(always)]
fn advance(start: *mut u8, offset: usize) -> *mut u8 {
    #[cfg(target_arch = "bpf")]
    {
        let mut start = start;
        // SAFETY: arithmetic on registers.
        unsafe {
            core::arch::asm!(
                "{start} += {offset}", start = inout(reg) start, offset = in(reg) offset,
                options(nomem, nostack, preserves_flags)
            );
        }
        start
    }
    #[cfg(not(target_arch = "bpf"))]
    start.wrapping_add(offset)
}

/// Start and end of the packet.
///
/// VERIFIER: the context holds both as 32-bit fields, which the kernel turns into pointers. They are loaded behind the
/// compiler's back and kept as pointers, not as integers, for it would spill an integer of known width in halves.
#[inline(always)]
fn bounds(context: &XdpContext) -> [*mut u8; 2] {
    #[cfg(target_arch = "bpf")]
    {
        let (start, end): (*mut u8, *mut u8);
        // SAFETY: loads of the context's first two fields, `data` and `data_end`.
        unsafe {
            core::arch::asm!(
                "{start} = *(u32 *)({context} + 0)", "{end} = *(u32 *)({context} + 4)",
                start = out(reg) start, end = lateout(reg) end, context = in(reg) context.ctx,
                options(readonly, nostack, preserves_flags)
            );
        }
        [start, end]
    }
    #[cfg(not(target_arch = "bpf"))]
    [context.data(), context.data_end()].map(core::ptr::with_exposed_provenance_mut)
}

/// `N` bytes of the packet that exist.
#[derive(Clone, Copy)]
pub(crate) struct Window<const N: usize> {
    start: *mut u8,
}

impl<const N: usize> Window<N> {
    accessors!(pub(crate), u8, set_u8, u8, "u8");
    accessors!(pub(crate), u16, set_u16, u16, "u16");
    accessors!(pub(crate), u32, set_u32, u32, "u32");

    /// The 16-bit integers that cover the window's first bytes, added (RFC 1071; in the wire's order).
    #[inline(always)]
    pub(crate) fn sum_u16<const LEN: usize>(self) -> u64 {
        const { assert!(LEN <= N && LEN.is_multiple_of(2), "outside of the window") };
        let mut sum = 0;
        let mut at = 0;
        while at < LEN {
            sum += u64::from(Window::<2> { start: self.start.wrapping_add(at) }.u16::<0>());
            at += 2;
        }
        sum
    }

    /// All bytes, as [`Self::sum_u16`] adds them, by the kernel's own loop. At most 512 bytes, a multiple of four.
    #[inline(always)]
    pub(crate) fn sum(self) -> u64 {
        const { assert!(N <= 512 && N.is_multiple_of(4), "the helper takes no more") };
        #[expect(clippy::cast_possible_truncation, reason = "at most 512")]
        crate::helpers::checksum_sum(self.start, const { N as u32 })
    }

    /// The same bytes, the first `M` of them.
    #[inline(always)]
    pub(crate) fn prefix<const M: usize>(self) -> Window<M> {
        const { assert!(M <= N, "longer than the window") };
        Window { start: self.start }
    }
}
