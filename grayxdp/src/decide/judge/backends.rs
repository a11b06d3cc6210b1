//! Which of v2's backends is the bad one?

use std::{collections::BTreeMap, net::SocketAddr};

use serde::{Deserialize, Serialize};

use super::comparison::Kind;
use crate::decide::signals::Counts;

/// The chance to name a backend that is like all others.
const ALPHA: f64 = 0.001;
/// What can be blamed on a backend.
const KINDS: [Kind; 5] = [Kind::Errors, Kind::Answers, Kind::FirstResponse, Kind::ZeroWindows, Kind::Retransmissions];

/// What could go bad and what did, of each kind, by backend of v2.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub(super) struct Backends(BTreeMap<SocketAddr, [(u64, u64); KINDS.len()]>);

impl Backends {
    /// Takes a tick in.
    pub(super) fn absorb(&mut self, tick: &[(SocketAddr, Counts)]) {
        for (address, counts) in tick {
            let sums = self.0.entry(*address).or_default();
            for ((n, e), kind) in sums.iter_mut().zip(KINDS) {
                let (more_n, more_e) = kind.counts(counts);
                *n = n.saturating_add(more_n);
                *e = e.saturating_add(more_e);
            }
        }
    }

    /// The backend that has so many of v2's bad ones that it is no chance; `None` if none has, or there is no other.
    pub(super) fn outstanding(&self, kind: Kind) -> Option<SocketAddr> {
        let place = KINDS.iter().position(|each| *each == kind)?;
        let all: Vec<_> = self.0.iter().map(|(address, sums)| (*address, sums[place])).collect();
        let total_n: u64 = all.iter().map(|(_, (n, _))| n).sum();
        let total_e: u64 = all.iter().map(|(_, (_, e))| e).sum();
        if all.len() < 2 || total_n == 0 {
            return None;
        }
        // Where nothing could go bad, what did is of a time before.
        let rate = |&(_, (n, e)): &(SocketAddr, (u64, u64))| e.min(n) as f64 / n.max(1) as f64;
        let worst = all.iter().max_by(|a, b| rate(a).total_cmp(&rate(b)))?;
        let (address, (n, e)) = *worst;
        let chance = upper_tail(e.min(n), total_e, n as f64 / total_n as f64) * all.len() as f64;
        (chance < ALPHA).then_some(address)
    }
}

/// The chance that at least k of n fall on something that each meets with this probability: the binomial's upper tail.
fn upper_tail(k: u64, n: u64, probability: f64) -> f64 {
    if k == 0 || probability >= 1.0 {
        return 1.0;
    }
    if k > n || probability <= 0.0 {
        return 0.0;
    }
    let odds = probability / (1.0 - probability);
    let mean = n as f64 * probability;
    if (k as f64) < mean {
        return 1.0;
    }
    // Above the mean each term is smaller than the one before; those that matter are few.
    let mut term = (log_choose(n, k) + k as f64 * probability.ln() + (n - k) as f64 * (-probability).ln_1p()).exp();
    let mut sum = 0.0;
    for next in k + 1..=n + 1 {
        sum += term;
        if term < sum * 1e-12 {
            break;
        }
        term *= (n + 1 - next) as f64 / next as f64 * odds;
    }
    sum.min(1.0)
}

fn log_choose(n: u64, k: u64) -> f64 {
    log_factorial(n) - log_factorial(k) - log_factorial(n - k)
}

/// Exact sums for small numbers, Stirling's series for others.
fn log_factorial(n: u64) -> f64 {
    if n < 32 {
        return (2..=n).map(|each| (each as f64).ln()).sum();
    }
    let x = n as f64;
    x.mul_add(x.ln(), -x) + 0.5 * (std::f64::consts::TAU * x).ln() + 1.0 / (12.0 * x) - 1.0 / (360.0 * x.powi(3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> SocketAddr {
        ([10, 0, 0, last], 80).into()
    }

    fn with_errors(errors: &[u64]) -> Backends {
        let mut backends = Backends::default();
        let tick: Vec<_> = (1u8..)
            .zip(errors)
            .map(|(last, &refused)| (address(last), Counts { flows: 1000, refused, ..Counts::default() }))
            .collect();
        backends.absorb(&tick);
        backends
    }

    #[test]
    fn the_bad_one_of_three_is_named_and_no_other() {
        for (errors, expected) in [
            (vec![0, 12, 0], Some(2)),
            (vec![5, 60, 4], Some(2)),
            (vec![20, 25, 22], None),
            (vec![2, 0, 0], None),
            (vec![0, 0, 0], None),
            (vec![500], None),
            (vec![1000, 1000, 1000], None),
        ] {
            let found = with_errors(&errors).outstanding(Kind::Errors);
            assert_eq!(found, expected.map(address), "{errors:?}");
            assert_eq!(with_errors(&errors).outstanding(Kind::Answers), None);
        }
    }

    #[test]
    fn slow_ones_are_held_against_connections_and_nobody_without_any_is_named() {
        let established = |connections, responses, overdue_waiting| Counts {
            established: connections,
            responses,
            overdue_waiting,
            ..Counts::default()
        };
        for (tick, expected) in [
            // The second one's clients ask twenty times in a connection.
            ([established(50, 50, 1), established(50, 1000, 25), established(0, 0, 0)], Some(2)),
            ([established(50, 500, 5), established(50, 50, 5), established(50, 50, 5)], None),
            ([established(100, 100, 1), established(100, 100, 1), established(0, 0, 3)], None),
        ] {
            let mut backends = Backends::default();
            let tick: Vec<_> = (1u8..).map(address).zip(tick).collect();
            backends.absorb(&tick);
            assert_eq!(backends.outstanding(Kind::FirstResponse), expected.map(address), "{tick:?}");
        }
    }

    #[test]
    fn tails_are_those_of_the_tables() {
        for (k, n, probability, expected) in [
            (0, 10, 0.5, 1.0),
            (10, 10, 0.5, 1.0 / 1024.0),
            (8, 10, 0.5, 56.0 / 1024.0),
            (3, 3, 1.0 / 3.0, 1.0 / 27.0),
            (60, 100, 0.5, 0.028_443_966_820_490_4),
            (600, 1000, 0.5, 1.364_232_098_388e-10),
        ] {
            let found = upper_tail(k, n, probability);
            assert!((found / expected - 1.0).abs() < 1e-6, "{k} {n} {probability}: {found}");
        }
    }
}
