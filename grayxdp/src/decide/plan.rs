//! A schedule for all shards of a service: together, or one after the other.
//!
//! One by one, each shard in turn runs through the whole schedule, while those before it are at its last weight and those
//! behind it at its first one. So the whole takes as many times as long as there are shards. What holds for a schedule
//! holds for each shard: its weight never falls as time passes, and both ends are exact.

use std::{fmt, time::Duration};

use super::{schedule::Schedule, shards::Shards, weights::Weights};

/// In which order shards move.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Order {
    /// All at once.
    Together,
    /// The next one when the one before is through.
    OneByOne,
}

impl Order {
    /// As in the config.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Together => "together",
            Self::OneByOne => "one-by-one",
        }
    }
}

/// A schedule, and the shards that follow it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Plan<'a> {
    /// Of each shard.
    pub schedule: &'a Schedule,
    /// Of the shards.
    pub order: Order,
    /// At least one.
    pub shards: Shards<'a>,
}

/// Whose turn it is: how many shards are through, and how far the schedule of the next one is.
struct Turn {
    through: usize,
    time: Duration,
}

impl Plan<'_> {
    /// The planned weights at a moment of schedule time.
    pub fn weights_at(self, time: Duration) -> Weights {
        let Some(turn) = self.turn(time) else {
            return Weights::equal(self.schedule.weight_at(time));
        };
        let (first, last) = (self.schedule.first_weight(), self.schedule.last_weight());
        let mut weights = vec![first; self.shards.count()];
        for place in 0..self.shards.count().min(turn.through + 1) {
            if let Some(weight) = weights.get_mut(self.shards.in_turn(place)) {
                *weight = if place < turn.through { last } else { self.schedule.weight_at(turn.time) };
            }
        }
        Weights::of_shards(weights)
    }

    /// When the last weights are reached; `None` for a manual schedule.
    pub fn duration(self) -> Option<Duration> {
        let each = self.schedule.duration()?;
        match self.order {
            Order::Together => Some(each),
            Order::OneByOne => Some(times(each, self.shards.count())),
        }
    }

    /// The next change after a moment: its schedule time and the weights from then on. `None` when nothing more will
    /// change.
    pub fn next_change(self, time: Duration) -> Option<(Duration, Weights)> {
        let at = match self.turn(time) {
            None => self.schedule.next_change(time)?.0,
            Some(Turn { through, time }) => {
                // A shard that is at its last weight already leaves the rest of its turn to nobody.
                let own = self.schedule.next_change(time).map(|(at, _)| (through, at));
                let of_next = || self.schedule.next_change(Duration::ZERO).map(|(at, _)| (through + 1, at));
                let (turn, at) = own.or_else(of_next).filter(|(turn, _)| *turn < self.shards.count())?;
                times(self.schedule.duration()?, turn).saturating_add(at)
            }
        };
        Some((at, self.weights_at(at)))
    }

    /// Where some weights lie in the plan, though they may be no planned ones: the latest beginning of a period in which
    /// the plan raises none of them, so that whoever goes on from there sees no jump. Time zero where a weight is below the
    /// schedule's first.
    pub fn place_of(self, weights: &Weights) -> Duration {
        let each = self.schedule.duration();
        match (self.order, each) {
            (Order::Together, _) | (_, None | Some(Duration::ZERO)) => self.schedule.place_of(weights.lowest()),
            (Order::OneByOne, Some(each)) => {
                let last = self.schedule.last_weight();
                let weight = |place: usize| weights.of(self.shards.in_turn(place));
                match (0..self.shards.count()).find(|&place| weight(place) < last) {
                    None => times(each, self.shards.count()),
                    Some(place) => times(each, place).saturating_add(self.schedule.place_of(weight(place))),
                }
            }
        }
    }

    /// The weights that the plan ends at.
    pub fn last(self) -> Weights {
        Weights::equal(self.schedule.last_weight())
    }

    /// The shard whose turn it is, where they go one by one; `None` at the end.
    pub fn shard_in_turn(self, time: Duration) -> Option<usize> {
        let through = self.turn(time)?.through;
        (through < self.shards.count()).then(|| self.shards.in_turn(through))
    }

    /// `None` where all move together, or have no way to go.
    fn turn(self, time: Duration) -> Option<Turn> {
        let each = self.schedule.duration().filter(|each| !each.is_zero())?;
        if self.order == Order::Together {
            return None;
        }
        let through = usize::try_from(time.as_nanos() / each.as_nanos()).unwrap_or(usize::MAX).min(self.shards.count());
        Some(Turn { through, time: time.saturating_sub(times(each, through)) })
    }
}

impl fmt::Display for Plan<'_> {
    /// One line that says all but the shards; see [`Shards`]' own line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.schedule.fmt(f)?;
        if self.order == Order::OneByOne { f.write_str(", shard by shard") } else { Ok(()) }
    }
}

fn times(length: Duration, count: usize) -> Duration {
    u32::try_from(count).ok().and_then(|count| length.checked_mul(count)).unwrap_or(Duration::MAX)
}

#[cfg(test)]
mod tests;
