//! Numbers from a seed: SplitMix64 (Steele et al., OOPSLA 2014).

#[derive(Clone)]
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let value = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ (value >> 31)
    }

    /// 0 to `bound` - 1.
    pub(super) fn under(&mut self, bound: usize) -> usize {
        usize::try_from(self.word() % bound.max(1) as u64).expect("under a usize")
    }

    pub(super) fn byte(&mut self) -> u8 {
        self.word().to_be_bytes()[0]
    }

    /// True once in `n`.
    pub(super) fn one_in(&mut self, n: usize) -> bool {
        self.under(n) == 0
    }

    pub(super) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.under(from.len())]
    }
}
