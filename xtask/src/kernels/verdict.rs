//! What a guest's console says: how many tests passed, and whether the guest came to its end.

use super::qemu::End;
use crate::suites::{self, Tally};

const VERDICT: &str = "guest verdict: ";

/// Reads the console line by line. Nothing has passed unless the guest says so last of all.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    tally: Tally,
    said: Option<String>,
}

impl Verdict {
    pub(super) fn read(&mut self, line: &str) {
        if let Some(tally) = suites::result_in(line) {
            self.tally.add(tally);
        }
        if let Some((_, said)) = line.split_once(VERDICT) {
            self.said = Some(said.trim().to_owned());
        }
    }

    /// The counts, and what is wrong although no test says so: then one failure is added.
    pub(super) fn end(self, end: &End) -> (Tally, Option<String>) {
        let mut tally = self.tally;
        let complaint = match (self.said.as_deref(), end) {
            (Some("0"), _) if tally.passed > 0 => None,
            (Some("0"), _) => Some("the guest ran no test".to_owned()),
            (Some(_), _) if tally.failed > 0 => None,
            (Some(_), _) => Some("the guest says that it failed, but names no test".to_owned()),
            (None, End::Killed(time)) => Some(format!("the guest hung, and was ended after {} s", time.as_secs())),
            (None, End::Exited) => {
                Some("the guest ended without a verdict: it panicked, or its time was up".to_owned())
            }
        };
        tally.failed += u64::from(complaint.is_some());
        (tally, complaint)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn nothing_passes_without_a_verdict() {
        let passes = "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured";
        let fails = "test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured";
        let hung = End::Killed(Duration::from_secs(300));
        for (lines, end, counts, complains) in [
            (vec![passes, passes, "guest verdict: 0"], End::Exited, (6, 0, 2), false),
            (vec![passes, "[ 9.1] x guest verdict: 0"], hung.clone(), (3, 0, 1), false),
            (vec![passes, fails, "guest verdict: 1"], End::Exited, (5, 1, 1), false),
            (vec![passes, "guest verdict: 1"], End::Exited, (3, 1, 1), true),
            (vec!["guest verdict: 0"], End::Exited, (0, 1, 0), true),
            (vec![passes, "Kernel panic - not syncing"], End::Exited, (3, 1, 1), true),
            (vec![passes], hung, (3, 1, 1), true),
            (vec![], End::Exited, (0, 1, 0), true),
        ] {
            let mut verdict = Verdict::default();
            lines.iter().for_each(|line| verdict.read(line));
            let (tally, complaint) = verdict.end(&end);
            assert_eq!((tally.passed, tally.failed, tally.ignored), counts, "{lines:?}");
            assert_eq!(complaint.is_some(), complains, "{lines:?}: {complaint:?}");
        }
    }
}
