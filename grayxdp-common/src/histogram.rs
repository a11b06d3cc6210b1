//! Log-linear histograms of times: which bucket a time falls into. Kernel and agent share the arithmetic, not the storage.
//!
//! Every power of two is cut into eight equal parts, so a bucket is at most 12.5 % wide. Up to 15 µs, every microsecond has
//! a bucket of its own.

/// Buckets of a histogram: 0 µs to just over 67 s; the last one also takes what is longer.
pub const HISTOGRAM_BUCKETS: usize = 192;

const PARTS_LOG2: u32 = 3;
const PARTS: u32 = 1 << PARTS_LOG2;

/// The bucket of a time in microseconds; always below [`HISTOGRAM_BUCKETS`].
#[inline(always)]
pub const fn bucket_of(us: u32) -> usize {
    let us = if us < 1 { 1 } else { us };
    let octave = us.ilog2();
    if octave < PARTS_LOG2 {
        return us as usize;
    }
    let shift = octave - PARTS_LOG2;
    let bucket = (shift << PARTS_LOG2) + PARTS + ((us >> shift) & (PARTS - 1));
    let bucket = bucket as usize;
    if bucket < HISTOGRAM_BUCKETS { bucket } else { HISTOGRAM_BUCKETS - 1 }
}

/// The shortest time of a bucket, in microseconds. At [`HISTOGRAM_BUCKETS`]: the end of what is told apart.
pub const fn lower_bound_us(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    let parts = PARTS as u64;
    if bucket < parts {
        return bucket;
    }
    let shift = (bucket >> PARTS_LOG2) - 1;
    (parts + (bucket & (parts - 1))) << shift
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bucket_begins_where_it_says() {
        for bucket in 1..HISTOGRAM_BUCKETS {
            let first = u32::try_from(lower_bound_us(bucket)).expect("below 67 s");
            assert_eq!(bucket_of(first), bucket);
            assert_eq!(bucket_of(first - 1), if first == 1 { 1 } else { bucket - 1 }, "{first}");
        }
        assert_eq!(bucket_of(u32::MAX), HISTOGRAM_BUCKETS - 1);
        assert!(lower_bound_us(HISTOGRAM_BUCKETS) > 60_000_000);
    }

    #[test]
    fn no_bucket_is_wider_than_an_eighth_of_its_beginning() {
        for bucket in 8..HISTOGRAM_BUCKETS {
            let (from, to) = (lower_bound_us(bucket), lower_bound_us(bucket + 1));
            assert!((to - from) * 8 <= from, "{bucket}");
        }
    }
}
