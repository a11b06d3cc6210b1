//! Weighted Maglev tables (Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016,
//! section 3.4): each backend gets its share of the slots, and a change of the pool moves few slots of the others.
//!
//! The permutations are shuffled ones. The paper's cheaper walk with a fixed skip was measured to move up to 8 % of the
//! other slots when one of ten backends leaves, where two skips happen to be alike; shuffled, it is under 1.8 %.
//!
//! A pure function of the set of backends: the order in which they are given does not matter.

use grayxdp_common::ids::BackendId;

/// A backend's walk over the slots: its own permutation of them, and how much of it is left.
struct Walk {
    raw_id: u16,
    weight: u64,
    /// The next slot to try is the last.
    permutation: Vec<u32>,
    /// Weight that has been credited, over the rounds, and not yet been spent on a slot.
    credit: u64,
}

/// The table of a pool of backends, each with its weight and its identity: a hash of what makes the backend the same one
/// (its address), whatever number it has in the maps. `slots` is one of [`grayxdp_common::limits::MAGLEV_SIZES`]; each
/// slot holds a raw [`BackendId`]. Empty if no backend has a weight.
pub fn table(pool: &[(BackendId, u32, u64)], slots: u32) -> Vec<u16> {
    let mut sorted: Vec<_> = pool.iter().filter(|(_, weight, _)| *weight > 0).collect();
    sorted.sort_unstable_by_key(|(id, _, identity)| (*identity, id.raw()));
    let mut walks: Vec<Walk> =
        sorted.into_iter().map(|&(id, weight, identity)| Walk::new(id, weight, identity, slots)).collect();
    // The price of a slot: the heaviest backend takes one in every round, the others as their weights allow.
    let Some(price) = walks.iter().map(|walk| walk.weight).max() else {
        return Vec::new();
    };
    let mut table = vec![0; slots as usize];
    let mut free = slots;
    while free > 0 {
        for walk in &mut walks {
            walk.credit += walk.weight;
            if walk.credit >= price && free > 0 {
                walk.credit -= price;
                walk.take(&mut table);
                free -= 1;
            }
        }
    }
    table
}

impl Walk {
    fn new(id: BackendId, weight: u32, identity: u64, slots: u32) -> Self {
        Self { raw_id: id.raw(), weight: u64::from(weight), permutation: shuffled(identity, slots), credit: 0 }
    }

    /// Takes the next slot of the permutation that is still free.
    fn take(&mut self, slots: &mut [u16]) {
        while let Some(slot) = self.permutation.pop() {
            if let Some(slot) = slots.get_mut(slot as usize)
                && *slot == 0
            {
                *slot = self.raw_id;
                return;
            }
        }
    }
}

/// All slots in an order that only the identity decides (Fisher and Yates).
fn shuffled(identity: u64, slots: u32) -> Vec<u32> {
    let mut order: Vec<u32> = (0..slots).collect();
    let mut state = identity;
    for last in (1..slots).rev() {
        state = mix(state);
        order.swap(last as usize, reduce(state, last + 1) as usize);
    }
    order
}

/// A step of SplitMix64 (Steele et al., OOPSLA 2014), as a one-to-one mix.
pub(super) fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// A hash brought to 0 to `bound` - 1.
fn reduce(hash: u64, bound: u32) -> u32 {
    (((hash >> 32) * u64::from(bound)) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use grayxdp_common::limits::{MAGLEV_SIZES, MAGLEV_SLOTS};

    use super::*;

    type Pool = Vec<(BackendId, u32, u64)>;

    fn pool(weights: &[u32], seed: u64) -> Pool {
        let backend = |(index, &weight): (usize, &u32)| {
            let raw = u16::try_from(index + 1).expect("few");
            (BackendId::from_raw(raw).expect("not zero"), weight, mix(seed.wrapping_add(u64::from(raw))))
        };
        weights.iter().enumerate().map(backend).collect()
    }

    fn table(pool: &[(BackendId, u32, u64)]) -> Vec<u16> {
        super::table(pool, MAGLEV_SLOTS)
    }

    fn count(table: &[u16], id: BackendId) -> u32 {
        u32::try_from(table.iter().filter(|&&slot| slot == id.raw()).count()).expect("few")
    }

    #[test]
    fn an_empty_pool_gives_an_empty_table() {
        assert!(table(&[]).is_empty());
        assert!(table(&pool(&[0, 0], 1)).is_empty());
    }

    #[test]
    fn every_size_is_filled_by_shares_near_the_weights() {
        for slots in MAGLEV_SIZES {
            let table = super::table(&pool(&[1, 3], 5), slots);
            assert_eq!(table.len(), slots as usize);
            let of_one = i64::try_from(table.iter().filter(|&&slot| slot == 1).count()).expect("few");
            assert!((of_one - i64::from(slots / 4)).abs() <= 2, "{of_one} of {slots}");
            assert!(table.iter().all(|&slot| slot != 0));
        }
    }

    #[test]
    fn removing_one_of_ten_moves_at_most_two_percent_of_the_others() {
        for seed in 0..8 {
            let all = pool(&[1; 10], seed << 32);
            let before = table(&all);
            for removed in 0..10 {
                let mut rest = all.clone();
                let (gone, ..) = rest.remove(removed);
                let after = table(&rest);
                let others = before.iter().zip(&after).filter(|(old, _)| **old != gone.raw());
                let (mut stayed, mut moved) = (0, 0);
                others.for_each(|(old, new)| if old == new { stayed += 1 } else { moved += 1 });
                assert!(moved * 50 <= stayed + moved, "seed {seed}, backend {removed}: {moved} of {}", stayed + moved);
            }
        }
    }

    /// A pool's table is part of what all hosts of a fleet must agree on: it may not change from build to build.
    #[test]
    fn the_table_of_a_known_pool_begins_like_this() {
        let found = table(&pool(&[1, 2, 3], 7));
        assert_eq!(found[..16], [3, 3, 2, 3, 3, 2, 3, 2, 3, 3, 2, 2, 3, 2, 3, 3]);
    }

    proptest! {
        // A table takes milliseconds without optimisation.
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn every_slot_is_filled_by_shares_near_the_weights(weights in prop::collection::vec(1..=10u32, 1..40), seed in any::<u64>()) {
            let pool = pool(&weights, seed);
            let table = table(&pool);
            let sum: u32 = weights.iter().sum();
            prop_assert!(table.iter().all(|&slot| slot != 0));
            for (id, weight, _) in pool {
                let (found, exact) = (f64::from(count(&table, id)), f64::from(weight * MAGLEV_SLOTS) / f64::from(sum));
                prop_assert!((found - exact).abs() <= 2.0, "{:?}: {} for {}", id, found, exact);
            }
        }

        #[test]
        fn the_order_of_the_pool_does_not_matter(weights in prop::collection::vec(1..=1000u32, 1..30), seed in any::<u64>(), turn in any::<usize>()) {
            let pool = pool(&weights, seed);
            let mut turned = pool.clone();
            turned.rotate_left(turn % weights.len());
            prop_assert_eq!(table(&pool), table(&turned));
            turned.reverse();
            prop_assert_eq!(table(&pool), table(&turned));
        }

        #[test]
        fn numbers_in_the_maps_do_not_move_slots(weights in prop::collection::vec(1..=10u32, 1..30), seed in any::<u64>()) {
            let pool = pool(&weights, seed);
            let renumber = |id: BackendId| BackendId::from_raw(id.raw() + 1000).expect("not zero");
            let renumbered: Pool = pool.iter().map(|&(id, weight, identity)| (renumber(id), weight, identity)).collect();
            let (one, other) = (table(&pool), table(&renumbered));
            prop_assert!(one.iter().zip(&other).all(|(a, b)| a + 1000 == *b));
        }
    }
}
