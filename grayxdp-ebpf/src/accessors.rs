//! Loads and stores in a packet as BPF instructions, at offsets known at compile time. For `packet.rs`; and for the
//! benchmark's programs, which contain this file.
//!
//! They are methods of a type that has `start`, where `N` bytes of a packet begin that were compared with the packet's end.

macro_rules! accessors {
    ($vis:vis, $load:ident, $store:ident, $integer:ty, $width:literal) => {
        /// The integer whose bytes lie at `OFFSET`, in the wire's order.
        #[inline(always)]
        $vis fn $load<const OFFSET: usize>(self) -> $integer {
            const { assert!(OFFSET + size_of::<$integer>() <= N, "outside of the bytes that were checked") };
            #[cfg(target_arch = "bpf")]
            {
                let value: u64;
                // SAFETY: who made `self` checked that its `N` bytes exist, and no helper that moves packets is called.
                unsafe {
                    core::arch::asm!(
                        concat!("{value} = *(", $width, " *)({start} + {offset})"),
                        value = lateout(reg) value, start = in(reg) self.start, offset = const OFFSET,
                        options(readonly, nostack, preserves_flags)
                    );
                }
                #[expect(clippy::cast_possible_truncation, reason = "the load fills no more than these bits")]
                {
                    value as $integer
                }
            }
            #[cfg(not(target_arch = "bpf"))]
            // SAFETY: as above. Only there so that the crate is checked on the build host.
            unsafe {
                self.start.add(OFFSET).cast::<$integer>().read_unaligned()
            }
        }

        /// Writes the integer's bytes at `OFFSET`, in the wire's order.
        #[inline(always)]
        $vis fn $store<const OFFSET: usize>(self, value: $integer) {
            const { assert!(OFFSET + size_of::<$integer>() <= N, "outside of the bytes that were checked") };
            #[cfg(target_arch = "bpf")]
            // SAFETY: who made `self` checked that its `N` bytes exist, and no helper that moves packets is called.
            unsafe {
                core::arch::asm!(
                    concat!("*(", $width, " *)({start} + {offset}) = {value}"),
                    value = in(reg) u64::from(value), start = in(reg) self.start, offset = const OFFSET,
                    options(nostack, preserves_flags)
                );
            }
            #[cfg(not(target_arch = "bpf"))]
            // SAFETY: as above. Only there so that the crate is checked on the build host.
            unsafe {
                self.start.add(OFFSET).cast::<$integer>().write_unaligned(value);
            }
        }
    };
}
