//! Incremental Internet checksums (RFC 1624, equation 3), in the byte order of the wire's loads. No packet access.
//!
//! One's-complement sums do not depend on byte order (RFC 1071 2(B)), so words are added just as plain loads give them.

/// Sum of changes, folded only when applied.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ChecksumDelta(u64);

impl ChecksumDelta {
    /// No change.
    pub const ZERO: Self = Self(0);

    /// One more 32-bit word changed.
    #[inline(always)]
    #[must_use]
    pub const fn word(self, old: u32, new: u32) -> Self {
        Self(self.0 + !old as u64 + new as u64)
    }

    /// One more 16-bit word changed.
    #[inline(always)]
    #[must_use]
    pub const fn half(self, old: u16, new: u16) -> Self {
        Self(self.0 + !old as u64 + new as u64)
    }

    /// The changes of both.
    #[inline(always)]
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }

    /// The checksum after the changes.
    #[inline(always)]
    #[must_use]
    pub const fn apply(self, checksum: u16) -> u16 {
        !fold(self.0 + !checksum as u64)
    }
}

/// A sum of words, folded to 16 bits, carries added back in (RFC 1071). Sums under 2⁴⁸.
#[inline(always)]
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "folded to 16 bits")]
pub const fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + ((sum >> 16) & 0xffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn from_scratch(words: &[u16]) -> u16 {
        let mut sum: u64 = words.iter().map(|&word| u64::from(word)).sum();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !u16::try_from(sum).expect("folded")
    }

    #[test]
    fn the_example_of_rfc_1624_holds() {
        assert_eq!(ChecksumDelta::ZERO.half(0x5555, 0x3285).apply(0xdd2f), 0x0000);
    }

    proptest! {
        #[test]
        fn incremental_equals_from_scratch(mut words in prop::collection::vec(any::<u16>(), 12..40), new in any::<[u16; 9]>()) {
            // A packet is never all zero (its protocol and length are not), the one case where the two differ.
            words[11] = 6;
            let old = from_scratch(&words);
            let mut delta = ChecksumDelta::ZERO;
            for at in (0..8).step_by(2) {
                let join = |low: u16, high: u16| u32::from(low) | u32::from(high) << 16;
                delta = delta.word(join(words[at], words[at + 1]), join(new[at], new[at + 1]));
            }
            delta = delta.half(words[8], new[8]);
            words[..9].copy_from_slice(&new);
            prop_assert_eq!(delta.apply(old), from_scratch(&words));
        }
    }
}
