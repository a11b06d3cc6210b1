//! The planned weight over schedule time. Knows nothing of health, and no clock: time is an argument.
//!
//! What holds for every schedule: the weight never falls as time passes, it begins at the first weight exactly, and from
//! [`Schedule::duration`] on it is the last one exactly. All arithmetic is on integers, so that every host of a fleet
//! plans the same weight.

use std::{fmt, time::Duration};

use grayxdp_common::weight::Weight;

/// How the weight is to move. The config has checked that `from` is at most `to`, that no period is zero, that step
/// weights ascend, and that a factor has something to multiply.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Schedule {
    /// Up by the same amount each period.
    Linear {
        /// First weight.
        from: Weight,
        /// Last weight.
        to: Weight,
        /// What each period adds.
        step: Weight,
        /// Length of a period.
        every: Duration,
    },
    /// A list of weights.
    Step {
        /// One for each period; the last one is the end.
        weights: Vec<Weight>,
        /// Length of a period.
        every: Duration,
    },
    /// Ever larger steps (a factor), or ever smaller ones (a rate).
    Exponential {
        /// First weight.
        from: Weight,
        /// Last weight.
        to: Weight,
        /// What happens at the end of each period.
        growth: Growth,
        /// Length of a period.
        every: Duration,
    },
    /// The cubic `from + (to - from)(3s² - 2s³)`, `s` being the part of `over` that has passed: flat at both ends. Of all
    /// curves with flat ends it is the one of least total curvature (least `∫w″²`).
    Smooth {
        /// First weight.
        from: Weight,
        /// Last weight.
        to: Weight,
        /// How long it takes.
        over: Duration,
    },
    /// No plan: the weight is what a person sets.
    Manual,
}

/// What an exponential schedule does at the end of each period.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Growth {
    /// Multiplies the weight.
    Factor(Millionths),
    /// Closes this fraction of what is left up to the last weight.
    Rate(Millionths),
}

/// A positive number in millionths.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Millionths(pub u32);

impl Millionths {
    /// One.
    pub const ONE: Self = Self(1_000_000);
}

impl fmt::Display for Millionths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{}.{:06}", self.0 / Self::ONE.0, self.0 % Self::ONE.0);
        f.write_str(text.trim_end_matches('0').trim_end_matches('.'))
    }
}

impl Schedule {
    /// The planned weight at a moment of schedule time. Zero for [`Schedule::Manual`], which plans nothing.
    pub fn weight_at(&self, time: Duration) -> Weight {
        match self {
            Self::Smooth { from, to, over } => smooth(*from, *to, *over, time),
            Self::Manual => Weight::ZERO,
            Self::Linear { every, .. } | Self::Step { every, .. } | Self::Exponential { every, .. } => {
                self.weight_of_period(periods(time, *every))
            }
        }
    }

    /// When the last weight is reached; `None` for [`Schedule::Manual`].
    pub fn duration(&self) -> Option<Duration> {
        match self {
            Self::Smooth { over, .. } => Some(*over),
            Self::Manual => None,
            Self::Linear { every, .. } | Self::Step { every, .. } | Self::Exponential { every, .. } => {
                Some(*every * self.period_of(self.last_weight()))
            }
        }
    }

    /// The next change after a moment: its schedule time (not how long it is until then) and the weight from then on.
    /// `None` when nothing more will change.
    pub fn next_change(&self, time: Duration) -> Option<(Duration, Weight)> {
        let weight = self.weight_at(time);
        if matches!(self, Self::Manual) || weight >= self.last_weight() {
            return None;
        }
        let higher = Weight::from_hundredths(weight.hundredths() + 1)?;
        let at = self.time_of(higher);
        Some((at, self.weight_at(at)))
    }

    /// The first moment at which the planned weight is at least this one, or the end of the schedule.
    pub fn time_of(&self, weight: Weight) -> Duration {
        match self {
            Self::Smooth { from, to, over } => smooth_time_of(*from, *to, *over, weight),
            Self::Manual => Duration::ZERO,
            Self::Linear { every, .. } | Self::Step { every, .. } | Self::Exponential { every, .. } => {
                *every * self.period_of(weight.min(self.last_weight()))
            }
        }
    }

    /// Where a weight lies in the schedule, though it may be no planned one: the beginning of the period whose planned
    /// weight is the highest that is not above it. Time zero for a weight below the first one, the end for one above the
    /// last.
    pub fn place_of(&self, weight: Weight) -> Duration {
        let reached = self.time_of(weight);
        let planned = self.weight_at(reached);
        if planned <= weight || reached.is_zero() {
            return reached;
        }
        // The moment before plans less, and is the last one of the period that is meant.
        self.time_of(self.weight_at(reached.saturating_sub(Duration::from_nanos(1))))
    }

    /// The weight at time zero.
    pub fn first_weight(&self) -> Weight {
        self.weight_at(Duration::ZERO)
    }

    /// The weight that the schedule ends at. Zero for [`Schedule::Manual`].
    pub fn last_weight(&self) -> Weight {
        match self {
            Self::Linear { to, .. } | Self::Exponential { to, .. } | Self::Smooth { to, .. } => *to,
            Self::Step { weights, .. } => weights.last().copied().unwrap_or_default(),
            Self::Manual => Weight::ZERO,
        }
    }

    /// The name of its kind, as in the config.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Linear { .. } => "linear",
            Self::Step { .. } => "step",
            Self::Exponential { .. } => "exponential",
            Self::Smooth { .. } => "smooth",
            Self::Manual => "manual",
        }
    }

    /// The weight during a period, counted from 0. Only for schedules that have periods.
    fn weight_of_period(&self, period: u32) -> Weight {
        match self {
            Self::Linear { from, to, step, .. } => {
                let raised = u64::from(from.hundredths()) + u64::from(step.hundredths()) * u64::from(period);
                weight_from(raised).min(*to)
            }
            Self::Step { weights, .. } => {
                let period = usize::try_from(period).unwrap_or(usize::MAX);
                weights.get(period).or(weights.last()).copied().unwrap_or_default()
            }
            Self::Exponential { from, to, growth, .. } => {
                let period = usize::try_from(period).unwrap_or(usize::MAX);
                growth.weights(*from, *to).nth(period).unwrap_or(*to)
            }
            Self::Smooth { .. } | Self::Manual => Weight::ZERO,
        }
    }

    /// The first period with at least this weight, which must not lie above the last one.
    fn period_of(&self, weight: Weight) -> u32 {
        match self {
            Self::Linear { from, step, .. } => {
                let gap = u32::from(weight.hundredths().saturating_sub(from.hundredths()));
                gap.div_ceil(u32::from(step.hundredths()).max(1))
            }
            Self::Step { weights, .. } => count(weights.iter().take_while(|&&planned| planned < weight)),
            Self::Exponential { from, to, growth, .. } => {
                count(growth.weights(*from, *to).take_while(|&planned| planned < weight))
            }
            Self::Smooth { .. } | Self::Manual => 0,
        }
    }
}

impl fmt::Display for Schedule {
    /// One line that says all; two schedules are equal exactly if their lines are.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = self.kind();
        match self {
            Self::Linear { from, to, step, every } => {
                write!(f, "{kind} {from} → {to} %, {step} % more every {}", humantime::format_duration(*every))
            }
            Self::Step { weights, every } => {
                let weights: Vec<String> = weights.iter().map(ToString::to_string).collect();
                write!(f, "{kind} {} %, one every {}", weights.join(" → "), humantime::format_duration(*every))
            }
            Self::Exponential { from, to, growth, every } => {
                let every = humantime::format_duration(*every);
                match growth {
                    Growth::Factor(factor) => write!(f, "{kind} {from} → {to} %, times {factor} every {every}"),
                    Growth::Rate(rate) => write!(f, "{kind} {from} → {to} %, {rate} of the rest every {every}"),
                }
            }
            Self::Smooth { from, to, over } => {
                write!(f, "{kind} {from} → {to} % over {}", humantime::format_duration(*over))
            }
            Self::Manual => f.write_str(kind),
        }
    }
}

impl Growth {
    /// Fractional bits that are kept from period to period, so that a rounded weight never feeds the next one.
    const FRACTION_BITS: u32 = 32;

    /// The weight of each period, up to the one that reaches `to`; the config's limits on factor and rate let it get there
    /// within some thousand periods.
    fn weights(self, from: Weight, to: Weight) -> impl Iterator<Item = Weight> {
        let fixed = |weight: Weight| u128::from(weight.hundredths()) << Self::FRACTION_BITS;
        let (first, last) = (fixed(from), fixed(to));
        let one = u128::from(Millionths::ONE.0);
        let periods = std::iter::successors(Some(first), move |&exact| {
            let next = match self {
                Self::Factor(Millionths(factor)) => exact * u128::from(factor) / one,
                // Rounded down what is left, so that the weight never falls short for ever.
                Self::Rate(Millionths(rate)) => last - (last - exact) * one.saturating_sub(u128::from(rate)) / one,
            };
            // Ends at the last weight, so that a moment far beyond costs no more than the end itself.
            (exact < last).then(|| next.clamp(exact, last))
        });
        periods.map(|exact| {
            let half = 1u128 << (Self::FRACTION_BITS - 1);
            weight_from(u64::try_from((exact + half) >> Self::FRACTION_BITS).unwrap_or(u64::MAX))
        })
    }
}

/// Whole periods that have passed.
fn periods(time: Duration, every: Duration) -> u32 {
    u32::try_from(time.as_nanos() / every.as_nanos().max(1)).unwrap_or(u32::MAX)
}

fn weight_from(hundredths: u64) -> Weight {
    u16::try_from(hundredths).ok().and_then(Weight::from_hundredths).unwrap_or(Weight::FULL)
}

fn count(items: impl Iterator) -> u32 {
    u32::try_from(items.count()).unwrap_or(u32::MAX)
}

/// The cubic, rounded to the nearest weight. With `s` in 2⁻³² the error before rounding is under 10⁻⁵ of a weight's unit,
/// and the product fits: 2⁶⁴ · 2³⁴ · 2¹⁴.
fn smooth(from: Weight, to: Weight, over: Duration, time: Duration) -> Weight {
    const ONE: u128 = 1 << 32;
    if time >= over {
        return to;
    }
    let passed = (time.as_nanos() << 32) / over.as_nanos().max(1);
    let gap = u128::from(to.hundredths().saturating_sub(from.hundredths()));
    let raised = gap * (passed * passed * (3 * ONE - 2 * passed));
    let rounded = (raised + (1 << 95)) >> 96;
    weight_from(u64::from(from.hundredths()) + u64::try_from(rounded).unwrap_or(u64::MAX))
}

/// By bisection to the nanosecond: [`smooth`] never falls, so this is its exact inverse, rounding included.
fn smooth_time_of(from: Weight, to: Weight, over: Duration, weight: Weight) -> Duration {
    let end = u64::try_from(over.as_nanos()).unwrap_or(u64::MAX);
    let (mut low, mut high) = (0, end);
    while low < high {
        let middle = low + (high - low) / 2;
        if smooth(from, to, over, Duration::from_nanos(middle)) >= weight {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    Duration::from_nanos(low)
}

#[cfg(test)]
pub(in crate::decide) mod tests {
    use proptest::prelude::*;

    use super::*;

    fn weight(percent: f64) -> Weight {
        crate::percent::weight_from_percent(percent).expect("a weight")
    }

    fn seconds(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    fn linear(from: f64, to: f64, step: f64) -> Schedule {
        Schedule::Linear { from: weight(from), to: weight(to), step: weight(step), every: seconds(30.0) }
    }

    fn exponential(from: f64, to: f64, growth: Growth) -> Schedule {
        Schedule::Exponential { from: weight(from), to: weight(to), growth, every: seconds(60.0) }
    }

    fn smooth(from: f64, to: f64, over: f64) -> Schedule {
        Schedule::Smooth { from: weight(from), to: weight(to), over: seconds(over) }
    }

    #[test]
    fn planned_weights_are_these() {
        let step = Schedule::Step { weights: [1.0, 10.0, 30.0, 80.0].map(weight).to_vec(), every: seconds(300.0) };
        let doubling = exponential(1.0, 100.0, Growth::Factor(Millionths(2_000_000)));
        let fifths = exponential(0.0, 100.0, Growth::Rate(Millionths(200_000)));
        for (schedule, at_s, expected) in [
            (&linear(0.0, 100.0, 10.0), 0.0, 0.0),
            (&linear(0.0, 100.0, 10.0), 29.999, 0.0),
            (&linear(0.0, 100.0, 10.0), 30.0, 10.0),
            (&linear(0.0, 100.0, 10.0), 300.0, 100.0),
            (&linear(0.0, 100.0, 10.0), 1e9, 100.0),
            (&linear(5.0, 20.0, 7.5), 30.0, 12.5),
            (&linear(5.0, 21.0, 7.5), 90.0, 21.0),
            (&linear(7.0, 7.0, 1.0), 0.0, 7.0),
            (&step, 0.0, 1.0),
            (&step, 300.0, 10.0),
            (&step, 899.0, 30.0),
            (&step, 900.0, 80.0),
            (&step, 1e6, 80.0),
            (&doubling, 0.0, 1.0),
            (&doubling, 60.0, 2.0),
            (&doubling, 360.0, 64.0),
            (&doubling, 420.0, 100.0),
            (&exponential(1.0, 100.0, Growth::Factor(Millionths(1_500_000))), 180.0, 3.38),
            (&exponential(0.01, 100.0, Growth::Factor(Millionths(1_200_000))), 300.0, 0.02),
            (&fifths, 60.0, 20.0),
            (&fifths, 120.0, 36.0),
            (&fifths, 1e6, 100.0),
            (&exponential(0.0, 50.0, Growth::Rate(Millionths::ONE)), 60.0, 50.0),
            (&smooth(0.0, 100.0, 100.0), 0.0, 0.0),
            (&smooth(0.0, 100.0, 100.0), 10.0, 2.8),
            (&smooth(0.0, 100.0, 100.0), 50.0, 50.0),
            (&smooth(0.0, 100.0, 100.0), 90.0, 97.2),
            (&smooth(0.0, 100.0, 100.0), 100.0, 100.0),
            (&smooth(10.0, 20.0, 100.0), 25.0, 11.56),
            (&Schedule::Manual, 5.0, 0.0),
        ] {
            assert_eq!(schedule.weight_at(seconds(at_s)), weight(expected), "{schedule} at {at_s} s");
        }
    }

    #[test]
    fn durations_are_these() {
        let last = |schedule: Schedule| schedule.duration().map(|duration| duration.as_secs());
        assert_eq!(last(linear(0.0, 100.0, 10.0)), Some(300));
        assert_eq!(last(linear(0.0, 100.0, 30.0)), Some(120));
        assert_eq!(last(linear(50.0, 50.0, 10.0)), Some(0));
        assert_eq!(
            last(Schedule::Step { weights: vec![weight(1.0), weight(100.0)], every: seconds(300.0) }),
            Some(300)
        );
        assert_eq!(last(exponential(1.0, 100.0, Growth::Factor(Millionths(2_000_000)))), Some(420));
        assert_eq!(last(smooth(0.0, 100.0, 600.0)), Some(600));
        assert_eq!(last(Schedule::Manual), None);
    }

    /// The slowest that the config allows: no loop over them is long, and they do end.
    #[test]
    fn the_slowest_exponentials_end() {
        for (schedule, periods) in [
            (exponential(0.01, 100.0, Growth::Factor(Millionths(1_010_000))), 926),
            (exponential(0.0, 100.0, Growth::Rate(Millionths(10_000))), 986),
        ] {
            let found = schedule.duration().expect("not manual").as_secs() / 60;
            assert!(found.abs_diff(periods) <= 1, "{schedule}: {found}");
        }
    }

    #[test]
    fn the_next_change_is_the_first_higher_weight() {
        let schedule = linear(0.0, 20.0, 10.0);
        for (at_s, expected) in [
            (0.0, Some((30.0, 10.0))),
            (29.9, Some((30.0, 10.0))),
            (30.0, Some((60.0, 20.0))),
            (60.0, None),
            (99.0, None),
        ] {
            let expected = expected.map(|(at_s, percent)| (seconds(at_s), weight(percent)));
            assert_eq!(schedule.next_change(seconds(at_s)), expected, "{at_s}");
        }
        assert_eq!(Schedule::Manual.next_change(Duration::ZERO), None);
        assert_eq!(linear(7.0, 7.0, 1.0).next_change(Duration::ZERO), None);
    }

    /// With `w = 3s² - 2s³` the integral of `w′²` is 6/5 (the straight line has 1), that of `w″²` is 12, and a tenth of the
    /// time gives 0.095 % of the exposure.
    #[test]
    fn the_smooth_curve_has_the_integrals_of_the_cubic() {
        const POINTS: u32 = 200;
        let schedule = smooth(0.0, 100.0, f64::from(POINTS));
        let w: Vec<f64> = (0..=POINTS)
            .map(|at| f64::from(schedule.weight_at(seconds(f64::from(at))).hundredths()) / 10_000.0)
            .collect();
        let h = 1.0 / f64::from(POINTS);
        let slope: f64 = w.windows(2).map(|p| ((p[1] - p[0]) / h).powi(2) * h).sum();
        assert!((slope - 1.2).abs() < 0.001, "{slope}");
        // Wide differences, or the rounding to 0.01 % would drown the curvature.
        let bend: f64 = (20..=180).map(|i| ((w[i + 20] - 2.0 * w[i] + w[i - 20]) / (400.0 * h * h)).powi(2) * h).sum();
        // Of ∫(6 - 12s)², from 0.1 to 0.9 and both ends' half intervals.
        let exact = 12.0 * (0.8f64 + h).powi(3);
        assert!((bend - exact).abs() < 0.05, "{bend} {exact}");
        let early: f64 = w[..=20].windows(2).map(|p| (p[0] + p[1]) / 2.0 * h).sum();
        assert!((early - 0.000_95).abs() < 0.000_01, "{early}");
    }

    /// Any that the config accepts.
    pub(in crate::decide) fn any_schedule() -> impl Strategy<Value = Schedule> {
        let ends = (1..=10_000u16, 1..=10_000u16).prop_map(|(a, b)| (hundredths(a.min(b)), hundredths(a.max(b))));
        let every = (10..=10_000_000u64).prop_map(Duration::from_millis);
        let growth = prop_oneof![
            (1_010_000..=1_000_000_000u32).prop_map(|factor| Growth::Factor(Millionths(factor))),
            (1_010_000..=3_000_000u32).prop_map(|factor| Growth::Factor(Millionths(factor))),
            (10_000..=1_000_000u32).prop_map(|rate| Growth::Rate(Millionths(rate))),
        ];
        prop_oneof![
            (ends.clone(), 1..=10_000u16, every.clone()).prop_map(|((from, to), step, every)| Schedule::Linear {
                from,
                to,
                step: hundredths(step),
                every
            }),
            (prop::collection::btree_set(0..=10_000u16, 1..20), every.clone()).prop_map(|(weights, every)| {
                Schedule::Step { weights: weights.into_iter().map(hundredths).collect(), every }
            }),
            (ends.clone(), growth, every.clone()).prop_map(|((from, to), growth, every)| Schedule::Exponential {
                from,
                to,
                growth,
                every
            }),
            (ends, every).prop_map(|((from, to), over)| Schedule::Smooth { from, to, over }),
        ]
    }

    pub(in crate::decide) fn hundredths(hundredths: u16) -> Weight {
        Weight::from_hundredths(hundredths).expect("in range")
    }

    fn part(schedule: &Schedule, part: f64) -> Duration {
        schedule.duration().expect("not manual").mul_f64(part)
    }

    proptest! {
        #[test]
        fn the_weight_never_falls(schedule in any_schedule(), a in 0.0..1.2f64, b in 0.0..1.2f64) {
            let (early, late) = (part(&schedule, a.min(b)), part(&schedule, a.max(b)));
            prop_assert!(schedule.weight_at(early) <= schedule.weight_at(late));
        }

        #[test]
        fn both_ends_are_exact(schedule in any_schedule(), beyond in 0..=u64::MAX) {
            let (first, last) = match &schedule {
                Schedule::Step { weights, .. } => (weights[0], weights[weights.len() - 1]),
                Schedule::Linear { from, to, .. } | Schedule::Exponential { from, to, .. } | Schedule::Smooth { from, to, .. } => (*from, *to),
                Schedule::Manual => unreachable!(),
            };
            let end = schedule.duration().expect("not manual");
            prop_assert_eq!(schedule.first_weight(), first);
            prop_assert_eq!(schedule.weight_at(end), last);
            prop_assert_eq!(schedule.weight_at(end.saturating_add(Duration::from_nanos(beyond))), last);
            prop_assert_eq!(schedule.last_weight(), last);
            // A smooth schedule may round to its last weight early; the others end when they reach it.
            if end > Duration::ZERO && !matches!(schedule, Schedule::Smooth { .. }) {
                prop_assert!(schedule.weight_at(end - Duration::from_nanos(1)) < last);
            }
        }

        #[test]
        fn time_of_is_the_inverse_of_weight_at(schedule in any_schedule(), wanted in 0..=10_000u16) {
            let wanted = hundredths(wanted);
            let time = schedule.time_of(wanted);
            if wanted <= schedule.last_weight() {
                prop_assert!(schedule.weight_at(time) >= wanted);
                if let Some(before) = time.checked_sub(Duration::from_nanos(1)) {
                    prop_assert!(schedule.weight_at(before) < wanted);
                }
            } else {
                prop_assert_eq!(schedule.weight_at(time), schedule.last_weight());
            }
        }

        #[test]
        fn the_place_of_a_weight_begins_the_period_that_it_lies_in(schedule in any_schedule(), wanted in 0..=10_000u16) {
            let wanted = hundredths(wanted);
            let place = schedule.place_of(wanted);
            let planned = schedule.weight_at(place);
            prop_assert!(planned <= wanted || place.is_zero(), "{} {:?}", schedule, place);
            if let Some((_, next)) = schedule.next_change(place) {
                prop_assert!(next > wanted);
            }
            // A smooth schedule may round to its last weight early, and beyond that weight lies the end.
            if wanted <= schedule.last_weight() {
                prop_assert_eq!(schedule.time_of(planned), place);
            }
        }

        #[test]
        fn next_changes_lead_through_all_weights_to_the_end(schedule in any_schedule(), at in 0.0..1.0f64) {
            let mut time = part(&schedule, at);
            while let Some((at, weight)) = schedule.next_change(time) {
                prop_assert!(at > time && weight > schedule.weight_at(time));
                prop_assert_eq!(schedule.weight_at(at), weight);
                prop_assert_eq!(schedule.weight_at(at - Duration::from_nanos(1)), schedule.weight_at(time));
                // A sample of a long way.
                time = at.max(part(&schedule, 0.05) + time);
            }
            prop_assert_eq!(schedule.weight_at(time), schedule.last_weight());
        }

        #[test]
        fn the_smooth_curve_is_the_cubic_to_the_nearest_weight(from in 0..=10_000u16, to in 0..=10_000u16, part in 0.0..1.0f64) {
            let (from, to) = (from.min(to), from.max(to));
            let over = Duration::from_secs(86_400);
            let schedule = Schedule::Smooth { from: hundredths(from), to: hundredths(to), over };
            let exact = f64::from(from) + f64::from(to - from) * (3.0 * part * part - 2.0 * part.powi(3));
            let found = f64::from(schedule.weight_at(over.mul_f64(part)).hundredths());
            prop_assert!((found - exact).abs() <= 0.501, "{} {}", found, exact);
        }

        #[test]
        fn a_line_tells_schedules_apart(a in any_schedule(), b in any_schedule()) {
            prop_assert_eq!(a == b, a.to_string() == b.to_string());
        }
    }
}
