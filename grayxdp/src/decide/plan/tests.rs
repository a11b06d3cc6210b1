//! Plans: one worked out by hand, then what must hold for all.

use grayxdp_common::weight::Weight;
use proptest::prelude::*;

use super::*;
use crate::decide::{
    schedule::tests::{any_schedule, hundredths},
    shards::{RangeShard, Sharding},
    weights::tests::any_weights,
};

const HASH: Sharding = Sharding::Hash;

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn plan<'a>(schedule: &'a Schedule, order: Order, sharding: &'a Sharding, count: u32) -> Plan<'a> {
    Plan { schedule, order, shards: Shards::new(sharding, count) }
}

fn whole(weights: &[u16]) -> Weights {
    Weights::of_shards(weights.iter().map(|percent| hundredths(percent * 100)).collect())
}

/// 5, 50, 90 %, every 10 s: 20 s in all.
fn steps() -> Schedule {
    Schedule::Step { weights: [500, 5000, 9000].map(hundredths).to_vec(), every: seconds(10) }
}

#[test]
fn one_by_one_each_shard_runs_through_the_whole_schedule() {
    let named = ["internal", "partner"].map(|name| RangeShard { name: name.to_owned(), networks: Vec::new() }).to_vec();
    let ranges = Sharding::Range { default: "rest".to_owned(), named };
    let schedule = steps();
    let plan = plan(&schedule, Order::OneByOne, &ranges, 3);
    // Shard 0 is everyone else, and has the last turn.
    for (at_s, expected, in_turn) in [
        (0, [5, 5, 5], Some(1)),
        (10, [5, 50, 5], Some(1)),
        (19, [5, 50, 5], Some(1)),
        (20, [5, 90, 5], Some(2)),
        (30, [5, 90, 50], Some(2)),
        (40, [5, 90, 90], Some(0)),
        (50, [50, 90, 90], Some(0)),
        (60, [90, 90, 90], None),
        (9999, [90, 90, 90], None),
    ] {
        assert_eq!(plan.weights_at(seconds(at_s)), whole(&expected), "{at_s}");
        assert_eq!(plan.shard_in_turn(seconds(at_s)), in_turn, "{at_s}");
    }
    assert_eq!(plan.duration(), Some(seconds(60)));
    assert_eq!(plan.next_change(seconds(19)), Some((seconds(20), whole(&[5, 90, 5]))));
    assert_eq!(plan.next_change(seconds(20)), Some((seconds(30), whole(&[5, 90, 50]))));
    assert_eq!(plan.next_change(seconds(60)), None);
    assert!(plan.to_string().ends_with(", shard by shard"), "{plan}");
}

#[test]
fn weights_lie_here_in_a_plan() {
    let schedule = steps();
    for (order, weights, at_s) in [
        (Order::OneByOne, [5, 5, 5], 0),
        (Order::OneByOne, [60, 5, 5], 10),
        (Order::OneByOne, [90, 0, 5], 20),
        (Order::OneByOne, [90, 70, 100], 30),
        (Order::OneByOne, [100, 90, 90], 60),
        // The second one is ahead of its turn, and waits.
        (Order::OneByOne, [20, 80, 5], 0),
        (Order::Together, [20, 80, 60], 0),
        (Order::Together, [60, 80, 60], 10),
        (Order::Together, [0, 80, 60], 0),
    ] {
        let found = plan(&schedule, order, &HASH, 3).place_of(&whole(&weights));
        assert_eq!(found, seconds(at_s), "{order:?} {weights:?}");
    }
}

#[test]
fn a_plan_without_a_way_to_go_is_at_its_end() {
    let schedule = Schedule::Step { weights: vec![Weight::FULL], every: seconds(1) };
    let plan = plan(&schedule, Order::OneByOne, &HASH, 3);
    assert_eq!((plan.duration(), plan.weights_at(Duration::ZERO)), (Some(Duration::ZERO), Weights::FULL));
    assert_eq!(plan.next_change(Duration::ZERO), None);
    let manual = Plan { schedule: &Schedule::Manual, ..plan };
    assert_eq!((manual.duration(), manual.weights_at(seconds(9))), (None, Weights::ZERO));
}

fn any_order() -> impl Strategy<Value = Order> {
    prop_oneof![Just(Order::Together), Just(Order::OneByOne)]
}

proptest! {
    #[test]
    fn no_shard_ever_falls_and_both_ends_are_exact(
        schedule in any_schedule(), order in any_order(), count in 1..6u32, a in 0.0..1.2f64, b in 0.0..1.2f64,
    ) {
        let plan = plan(&schedule, order, &HASH, count);
        let end = plan.duration().expect("not manual");
        let (early, late) = (end.mul_f64(a.min(b)), end.mul_f64(a.max(b)));
        prop_assert!(plan.weights_at(early).at_most(&plan.weights_at(late)));
        prop_assert_eq!(plan.weights_at(end), plan.last());
        if !end.is_zero() {
            prop_assert_eq!(plan.weights_at(Duration::ZERO), Weights::equal(schedule.first_weight()));
        }
    }

    #[test]
    fn one_by_one_at_most_one_shard_is_on_its_way(schedule in any_schedule(), count in 1..6u32, at in 0.0..1.0f64) {
        let plan = plan(&schedule, Order::OneByOne, &HASH, count);
        let weights = plan.weights_at(plan.duration().expect("not manual").mul_f64(at));
        let (first, last) = (schedule.first_weight(), schedule.last_weight());
        let on_their_way = weights.each(plan.shards.count()).filter(|weight| *weight != first && *weight != last);
        prop_assert!(on_their_way.count() <= 1);
    }

    #[test]
    fn next_changes_are_the_next_changes(schedule in any_schedule(), order in any_order(), count in 1..6u32, at in 0.0..1.0f64) {
        let plan = plan(&schedule, order, &HASH, count);
        let time = plan.duration().expect("not manual").mul_f64(at);
        let now = plan.weights_at(time);
        match plan.next_change(time) {
            Some((at, weights)) => {
                prop_assert!(at > time && now.at_most(&weights) && now != weights);
                prop_assert_eq!(plan.weights_at(at - Duration::from_nanos(1)), now);
            }
            None => prop_assert_eq!(now, plan.last()),
        }
    }

    #[test]
    fn from_the_place_of_weights_nothing_jumps(
        schedule in any_schedule(), order in any_order(), weights in any_weights(4),
    ) {
        let plan = plan(&schedule, order, &HASH, 4);
        let place = plan.place_of(&weights);
        let first = Weights::equal(schedule.first_weight());
        prop_assert!(plan.weights_at(place).at_most(&weights.max(&first)), "{:?}", place);
        if let Some((_, next)) = plan.next_change(place) {
            prop_assert!(!next.at_most(&weights), "there is no later place");
        }
    }
}
