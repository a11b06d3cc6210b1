//! Internet checksums (RFC 1071), summed afresh over all that they cover.
//!
//! A packet whose checksum was wrong when it came must leave with a checksum that is wrong by as much, or its receiver would
//! take damaged data for whole. So the error is taken before a change, and laid over the new sum after it.

/// The sum of big-endian 16-bit words, modulo 2¹⁶ - 1; an odd byte at the end counts as followed by zero.
pub(super) fn sum(bytes: &[u8]) -> u64 {
    let word = |chunk: &[u8]| match *chunk {
        [high, low] => u64::from(high) << 8 | u64::from(low),
        [high] => u64::from(high) << 8,
        _ => 0,
    };
    bytes.chunks(2).map(word).sum::<u64>() % 0xffff
}

/// The checksum that makes the whole sum `wanted`, where all other words add up to `others`. Of the two forms of zero it
/// is 0x0000.
pub(super) fn completing(wanted: u64, others: u64) -> u16 {
    let checksum = (wanted + 0xffff - others % 0xffff) % 0xffff;
    u16::try_from(checksum).unwrap_or(0)
}

/// The checksum of words that add up to `others`.
pub(super) fn right(others: u64) -> u16 {
    completing(0, others)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_rfc_1071_holds() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!((sum(&bytes), right(sum(&bytes))), (0xddf2, !0xddf2));
        assert_eq!(sum(&[0x12, 0x34, 0x56]), 0x1234 + 0x5600);
    }

    #[test]
    fn an_error_is_carried_over() {
        let (before, after) = ([0xab, 0xcd], [0x12, 0x34]);
        let wrong = right(sum(&before)).wrapping_add(5);
        let carried = completing((sum(&before) + u64::from(wrong)) % 0xffff, sum(&after));
        assert_eq!(carried, right(sum(&after)) + 5);
    }
}
