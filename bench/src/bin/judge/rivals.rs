//! Rules that others go by.

use crate::watch::Counted;

const MINUTE: u32 = 60;

/// A rule that looks at the same counts as the judge.
pub(crate) trait Rival {
    /// Takes a second in; says whether v2 is to be blamed now.
    fn blames(&mut self, second: u32, counted: &Counted) -> bool;
}

pub(crate) const NAMES: [&str; 3] = ["Flagger's rule", "z-test each minute", "Mann-Whitney"];

/// One of each, in the order of [`NAMES`].
pub(crate) fn all() -> Vec<Box<dyn Rival>> {
    vec![Box::<Flagger>::default(), Box::<ZTest>::default(), Box::<MannWhitney>::default()]
}

/// None of them.
pub(crate) fn none() -> Vec<Box<dyn Rival>> {
    Vec::new()
}

/// Wald's test of v2's ratio against one, at the judge's rate of false alarms: it is told the ratio and v2's share, and
/// watches nothing but errors. No rule that looks once a second can be much sooner; what is beyond it is the price of not
/// knowing.
pub(crate) struct Knowing {
    log_ratio: f64,
    /// What an error of either version takes off.
    log_norm: f64,
    log_limit: f64,
    log_value: f64,
}

impl Knowing {
    pub(crate) fn new(ratio: f64, share: f64, alpha: f64) -> Self {
        let log_norm = (1.0 + share * (ratio - 1.0)).ln();
        Self { log_ratio: ratio.ln(), log_norm, log_limit: (1.0 / alpha).ln(), log_value: 0.0 }
    }
}

impl Rival for Knowing {
    fn blames(&mut self, _second: u32, counted: &Counted) -> bool {
        self.log_value += counted.e2 * self.log_ratio - (counted.e1 + counted.e2) * self.log_norm;
        self.log_value >= self.log_limit
    }
}

/// The counts of the minute that is just over.
#[derive(Default)]
struct Minute(Counted);

impl Minute {
    fn take(&mut self, second: u32, more: &Counted) -> Option<Counted> {
        let sum = &mut self.0;
        sum.n1 += more.n1;
        sum.n2 += more.n2;
        sum.e1 += more.e1;
        sum.e2 += more.e2;
        second.is_multiple_of(MINUTE).then(|| std::mem::take(sum))
    }
}

/// Flagger: each minute the success rate of v2 alone is held against a limit, here 99 %; the fifth failure rolls back.
#[derive(Default)]
struct Flagger {
    minute: Minute,
    failed: u32,
}

impl Rival for Flagger {
    fn blames(&mut self, second: u32, counted: &Counted) -> bool {
        const THRESHOLD: u32 = 5;
        const ERRORS_MOST: f64 = 0.01;
        if let Some(Counted { n2, e2, .. }) = self.minute.take(second, counted) {
            // Without a value the check fails, too.
            self.failed += u32::from(n2 == 0.0 || e2 / n2 > ERRORS_MOST);
        }
        self.failed >= THRESHOLD
    }
}

/// Each minute, for itself: two proportions, one-sided, at 1 %.
#[derive(Default)]
struct ZTest(Minute);

impl Rival for ZTest {
    fn blames(&mut self, second: u32, counted: &Counted) -> bool {
        let Some(Counted { n1, n2, e1, e2 }) = self.0.take(second, counted) else { return false };
        if n1 == 0.0 || n2 == 0.0 {
            return false;
        }
        let pooled = (e1 + e2) / (n1 + n2);
        let error = (pooled * (1.0 - pooled) * (1.0 / n1 + 1.0 / n2)).sqrt();
        error > 0.0 && (e2 / n2 - e1 / n1) / error > Z_99
    }
}

const Z_99: f64 = 2.326_347_874;

/// Like Kayenta's judge: error rates of the minutes so far are samples, compared by ranks at 98 % on two sides, at every minute
/// from the fifth on.
#[derive(Default)]
struct MannWhitney {
    minute: Minute,
    v1: Vec<f64>,
    v2: Vec<f64>,
}

impl Rival for MannWhitney {
    fn blames(&mut self, second: u32, counted: &Counted) -> bool {
        const SAMPLES_LEAST: usize = 5;
        let Some(Counted { n1, n2, e1, e2 }) = self.minute.take(second, counted) else { return false };
        if n1 > 0.0 && n2 > 0.0 {
            self.v1.push(e1 / n1);
            self.v2.push(e2 / n2);
        }
        self.v1.len() >= SAMPLES_LEAST && ranks_z(&self.v1, &self.v2) > Z_99
    }
}

/// How far v2's ranks are above v1's, in standard deviations; ties share their ranks.
fn ranks_z(v1: &[f64], v2: &[f64]) -> f64 {
    let mut all: Vec<(f64, bool)> = v1.iter().map(|x| (*x, false)).chain(v2.iter().map(|x| (*x, true))).collect();
    all.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (n1, n2, n) = (v1.len() as f64, v2.len() as f64, all.len() as f64);
    let (mut ranks2, mut ties, mut below) = (0.0, 0.0, 0.0);
    for tied in all.chunk_by(|a, b| a.0 == b.0) {
        let count = tied.len() as f64;
        let rank = below + (count + 1.0) / 2.0;
        ranks2 += rank * tied.iter().filter(|(_, is_v2)| *is_v2).count() as f64;
        ties += count.powi(3) - count;
        below += count;
    }
    let u = ranks2 - n2 * (n2 + 1.0) / 2.0;
    let variance = n1 * n2 / 12.0 * ((n + 1.0) - ties / (n * (n - 1.0)));
    // With the correction for continuity.
    if variance > 0.0 { (u - n1 * n2 / 2.0 - 0.5) / variance.sqrt() } else { 0.0 }
}
