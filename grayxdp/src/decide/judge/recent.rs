//! What was counted of late. Nothing is decided by it: it is shown where a fault that began in mid-release is lost in the
//! figures of the time before.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::ratio::Counted;
use crate::decide::evidence::Lately;

/// Once so many milliseconds have passed, the counts of the same time before them are forgotten.
const SPAN_MS: u64 = 15_000;

/// The counts of the last one to two [`SPAN_MS`].
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub(super) struct Recent {
    /// Milliseconds, and what came in them.
    before: (u64, Counted),
    now: (u64, Counted),
    /// Ticks, this one included, that may be longer than they say.
    doubtful: u8,
}

impl Recent {
    /// Time passes.
    pub(super) fn pass(&mut self, elapsed: Duration) {
        self.doubtful = self.doubtful.saturating_sub(1);
        if self.doubtful > 0 {
            return;
        }
        if self.now.0 >= SPAN_MS {
            self.before = std::mem::take(&mut self.now);
        }
        self.now.0 = self.now.0.saturating_add(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX));
    }

    /// Takes in what came in the time that has passed last.
    pub(super) const fn count(&mut self, counted: &Counted) {
        if self.doubtful == 0 {
            self.now.1.add(counted);
        }
    }

    /// Forgets all; where nobody knows how long the next tick will have been, what that will bring, too.
    pub(super) fn forget(&mut self, is_next_doubtful: bool) {
        *self = Self { doubtful: if is_next_doubtful { 2 } else { 0 }, ..Self::default() };
    }

    /// What is recent of all that was counted; `None` where all is, or no time is known.
    pub(super) fn of(&self, all: &Counted) -> Option<Lately> {
        let mut sum = self.before.1;
        sum.add(&self.now.1);
        let Counted { n1, n2, e1, e2 } = sum;
        let seconds = self.before.0.saturating_add(self.now.0) / 1000;
        (sum != *all && seconds > 0).then_some(Lately { seconds, n1, n2, e1, e2 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_long_time_only_the_last_half_minute_is_recent() {
        let mut recent = Recent::default();
        let mut all = Counted::default();
        let tick = Counted { n1: 90, n2: 10, e1: 2, e2: 1 };
        for second in 1..=1000 {
            recent.pass(Duration::from_secs(1));
            recent.count(&tick);
            all.add(&tick);
            match recent.of(&all) {
                None => assert!(second <= 30, "{second}"),
                Some(Lately { seconds, n1, n2, e1, e2 }) => {
                    assert!(second > 30 && (15..=30).contains(&seconds), "{second}: {seconds}");
                    assert_eq!((n1, n2, e1, e2), (90 * seconds, 10 * seconds, 2 * seconds, seconds), "{second}");
                }
            }
        }
    }

    #[test]
    fn what_comes_over_an_unknown_time_is_not_recent() {
        let mut recent = Recent::default();
        let tick = Counted { n1: 90, n2: 10, e1: 2, e2: 1 };
        recent.pass(Duration::from_secs(1));
        recent.count(&tick);
        recent.forget(true);
        let mut all = tick;
        for (second, expected) in [(1, None), (2, Some(1)), (3, Some(2))] {
            recent.pass(Duration::from_secs(1));
            recent.count(&tick);
            all.add(&tick);
            let found = recent.of(&all);
            assert_eq!(found.map(|lately| (lately.seconds, lately.n2)), expected.map(|n| (n, 10 * n)), "{second}");
        }
    }
}
