//! Which neighbours the kernel must be made to ask for. Pure: time is an argument.
//!
//! The packet program sends past the kernel, so the kernel thinks neighbours unused: it never confirms a stale one by
//! itself, and never asks again for one that has failed.

use std::{
    collections::{BTreeSet, HashMap},
    time::{Duration, Instant},
};

use super::tables::{NeighbourKey, NeighbourState, Neighbours};

/// How long a neighbour that does not answer is left alone. The kernel asks thrice within 3 s before it gives up.
pub(super) const FAILED_PAUSE: Duration = Duration::from_secs(5);
/// How often a stale neighbour is asked whether it is still there.
pub(super) const STALE_PAUSE: Duration = Duration::from_secs(30);

/// What is to be done about a neighbour.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Probe {
    /// There is no entry: make one.
    Create(NeighbourKey),
    /// There is an entry: have it confirmed.
    Confirm(NeighbourKey),
}

/// When neighbours were last asked for.
#[derive(Debug, Default)]
pub(super) struct Freshness {
    probed: HashMap<NeighbourKey, Instant>,
}

impl Freshness {
    /// The probes to be made now; they count as made.
    pub(super) fn due(&mut self, wanted: &BTreeSet<NeighbourKey>, neighbours: &Neighbours, now: Instant) -> Vec<Probe> {
        self.probed.retain(|key, _| wanted.contains(key));
        let mut probes = Vec::new();
        for &key in wanted {
            let (probe, pause) = match neighbours.get(&key).map(|neighbour| neighbour.state) {
                None => (Probe::Create(key), FAILED_PAUSE),
                Some(NeighbourState::Failed) => (Probe::Confirm(key), FAILED_PAUSE),
                Some(NeighbourState::Stale) => (Probe::Confirm(key), STALE_PAUSE),
                Some(NeighbourState::Resolving) => continue,
                Some(NeighbourState::Valid) => {
                    // Whatever becomes of it is news, and asked for at once.
                    self.probed.remove(&key);
                    continue;
                }
            };
            let is_due = self.probed.get(&key).is_none_or(|&last| now.saturating_duration_since(last) >= pause);
            if is_due {
                self.probed.insert(key, now);
                probes.push(probe);
            }
        }
        probes
    }

    /// Devices or routes have changed: neighbours that have not answered so far may answer now.
    pub(super) fn try_again(&mut self, neighbours: &Neighbours) {
        self.probed
            .retain(|key, _| neighbours.get(key).is_some_and(|neighbour| neighbour.state == NeighbourState::Stale));
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::{super::tables::Neighbour, *};

    const S: Duration = Duration::from_secs(1);

    fn key(last: u8) -> NeighbourKey {
        (2, IpAddr::from([10, 0, 0, last]))
    }

    fn neighbours(states: &[(u8, NeighbourState)]) -> Neighbours {
        let neighbour = |state| Neighbour { state, mac: Some([2, 0, 0, 0, 0, 1]) };
        states.iter().map(|&(last, state)| (key(last), neighbour(state))).collect()
    }

    #[test]
    fn the_missing_the_failed_and_the_stale_are_asked_for_and_nobody_else() {
        let known = neighbours(&[
            (2, NeighbourState::Failed),
            (3, NeighbourState::Stale),
            (4, NeighbourState::Valid),
            (5, NeighbourState::Resolving),
            (6, NeighbourState::Stale),
        ]);
        let wanted = [1, 2, 3, 4, 5].map(key).into();
        let probes = Freshness::default().due(&wanted, &known, Instant::now());
        assert_eq!(probes, [Probe::Create(key(1)), Probe::Confirm(key(2)), Probe::Confirm(key(3))]);
    }

    #[test]
    fn each_is_asked_for_again_after_its_pause() {
        let known = neighbours(&[(2, NeighbourState::Failed), (3, NeighbourState::Stale)]);
        let wanted = [1, 2, 3].map(key).into();
        let mut freshness = Freshness::default();
        let start = Instant::now();
        let counts: Vec<usize> =
            (0..=60).map(|second| freshness.due(&wanted, &known, start + S * second).len()).collect();
        let at = |second: usize| counts[second];
        assert_eq!((at(0), at(1), at(4), at(5), at(30), at(60)), (3, 0, 0, 2, 3, 3));
        assert_eq!(counts.iter().sum::<usize>(), 13 + 13 + 3);
    }

    #[test]
    fn one_that_was_valid_is_asked_for_as_soon_as_it_is_not() {
        let wanted = [key(1)].into();
        let mut freshness = Freshness::default();
        let start = Instant::now();
        assert_eq!(freshness.due(&wanted, &Neighbours::new(), start).len(), 1);
        assert_eq!(freshness.due(&wanted, &neighbours(&[(1, NeighbourState::Valid)]), start).len(), 0);
        assert_eq!(freshness.due(&wanted, &Neighbours::new(), start).len(), 1);
        assert_eq!(freshness.due(&wanted, &neighbours(&[(1, NeighbourState::Failed)]), start).len(), 0);
    }

    #[test]
    fn after_a_change_those_that_did_not_answer_are_asked_for_at_once() {
        let known = neighbours(&[(2, NeighbourState::Failed), (3, NeighbourState::Stale)]);
        let wanted = [1, 2, 3].map(key).into();
        let mut freshness = Freshness::default();
        let start = Instant::now();
        freshness.due(&wanted, &known, start);
        freshness.try_again(&known);
        assert_eq!(freshness.due(&wanted, &known, start + S), [Probe::Create(key(1)), Probe::Confirm(key(2))]);
    }

    #[test]
    fn what_is_no_longer_wanted_is_forgotten() {
        let mut freshness = Freshness::default();
        let start = Instant::now();
        freshness.due(&[key(1)].into(), &Neighbours::new(), start);
        assert!(freshness.due(&BTreeSet::new(), &Neighbours::new(), start).is_empty());
        assert_eq!(freshness.due(&[key(1)].into(), &Neighbours::new(), start), [Probe::Create(key(1))]);
    }
}
