//! Where the source addresses of `full-nat` lie in their map. Pure.
//!
//! A service's addresses lie side by side, and a flow names its address by index: so a list keeps its place as long as it
//! can, and services with the same list share one. A list of which an address cannot keep its index moves as a whole, and
//! flows of the addresses that moved end.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

use grayxdp_common::limits::SOURCE_ADDRESSES_MAX;

/// Where everything lies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Placement {
    /// Every address, by its index.
    pub(super) addresses: BTreeMap<u32, IpAddr>,
    /// First index and count of each service's addresses, in the order given.
    pub(super) ranges: Vec<(u16, u16)>,
}

/// Why the addresses have no place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// In two lists that are not the same.
    Shared(IpAddr),
    /// More than the map holds.
    TooMany,
}

/// Places each service's list. `former` says where addresses lay.
pub(super) fn place(lists: &[&[IpAddr]], former: &HashMap<IpAddr, u32>) -> Result<Placement, Refusal> {
    let mut placement = Placement::default();
    let mut groups: Vec<(Vec<IpAddr>, u32)> = Vec::new();
    let mut pending: Vec<Vec<IpAddr>> = Vec::new();
    for list in lists.iter().map(|list| sorted(list)).filter(|list| !list.is_empty()) {
        if pending.contains(&list) {
            continue;
        }
        if let Some(shared) = list.iter().find(|address| pending.iter().flatten().any(|other| other == *address)) {
            return Err(Refusal::Shared(*shared));
        }
        pending.push(list);
    }
    // Whoever can stay does, before anyone who cannot takes a place.
    let (staying, moving): (Vec<_>, Vec<_>) =
        pending.into_iter().partition(|list| list.iter().any(|address| former.contains_key(address)));
    for list in staying.into_iter().chain(moving) {
        let start = best_start(&list, former, &placement).ok_or(Refusal::TooMany)?;
        settle(&list, start, former, &mut placement);
        groups.push((list, start));
    }
    for list in lists {
        let list = sorted(list);
        let start = groups.iter().find(|(group, _)| *group == list).map_or(0, |(_, start)| *start);
        let number = |value: u32| u16::try_from(value).unwrap_or(0);
        let count = u32::try_from(list.len()).unwrap_or(0);
        placement.ranges.push((number(start), number(count)));
    }
    Ok(placement)
}

/// The free stretch where most addresses keep their index; of equals, the one that lies on the fewest old places of
/// others, and then the first.
fn best_start(list: &[IpAddr], former: &HashMap<IpAddr, u32>, placement: &Placement) -> Option<u32> {
    let length = u32::try_from(list.len()).ok()?;
    let is_free = |start: &u32| (*start..*start + length).all(|index| !placement.addresses.contains_key(&index));
    let stretch = |start: u32| start..start + length;
    let kept = |start: u32| {
        list.iter().filter(|address| former.get(address).is_some_and(|index| stretch(start).contains(index))).count()
    };
    let trodden = |start: u32| former.values().filter(|index| stretch(start).contains(index)).count() - kept(start);
    let starts = 0..(SOURCE_ADDRESSES_MAX + 1).saturating_sub(length);
    starts.filter(is_free).min_by_key(|&start| (usize::MAX - kept(start), trodden(start), start))
}

/// Puts those that keep their index there, and the others between them.
fn settle(list: &[IpAddr], start: u32, former: &HashMap<IpAddr, u32>, placement: &mut Placement) {
    let length = u32::try_from(list.len()).unwrap_or(0);
    let stretch = start..start + length;
    let (kept, others): (Vec<_>, Vec<_>) =
        list.iter().partition(|address| former.get(address).is_some_and(|index| stretch.contains(index)));
    let mut others = others;
    for address in kept {
        if let Some(&index) = former.get(address)
            && placement.addresses.contains_key(&index)
        {
            others.push(address);
        } else if let Some(&index) = former.get(address) {
            placement.addresses.insert(index, *address);
        }
    }
    let mut others = others.into_iter();
    for index in stretch {
        if !placement.addresses.contains_key(&index)
            && let Some(address) = others.next()
        {
            placement.addresses.insert(index, *address);
        }
    }
}

fn sorted(list: &[IpAddr]) -> Vec<IpAddr> {
    let mut list = list.to_vec();
    list.sort_unstable();
    list.dedup();
    list
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ip(last: u8) -> IpAddr {
        [192, 0, 2, last].into()
    }

    fn list(last: &[u8]) -> Vec<IpAddr> {
        last.iter().map(|&last| ip(last)).collect()
    }

    fn placed(lists: &[&[u8]], former: &[(u8, u32)]) -> Result<Placement, Refusal> {
        let lists: Vec<_> = lists.iter().map(|last| list(last)).collect();
        let lists: Vec<_> = lists.iter().map(Vec::as_slice).collect();
        place(&lists, &former.iter().map(|&(last, index)| (ip(last), index)).collect())
    }

    #[test]
    fn equal_lists_share_a_place_and_services_without_have_none() {
        let placement = placed(&[&[1, 2], &[], &[2, 1], &[3]], &[]).expect("room");
        assert_eq!(placement.ranges, [(0, 2), (0, 0), (0, 2), (2, 1)]);
        assert_eq!(placement.addresses, BTreeMap::from([(0, ip(1)), (1, ip(2)), (2, ip(3))]));
    }

    #[test]
    fn addresses_keep_their_index_when_lists_grow_and_shrink() {
        let former = [(1, 5), (2, 6), (9, 7)];
        for (lists, expected) in [
            (&[&[1, 2][..]][..], &[(1, 5), (2, 6)][..]),
            (&[&[2]], &[(2, 6)]),
            // The newcomer goes where nobody was, in front.
            (&[&[1, 2, 3]], &[(3, 4), (1, 5), (2, 6)]),
            // A new list keeps away from old places.
            (&[&[4], &[1, 2], &[9]], &[(4, 0), (1, 5), (2, 6), (9, 7)]),
        ] {
            let placement = placed(lists, &former).expect("room");
            let expected = expected.iter().map(|&(last, index)| (index, ip(last))).collect();
            assert_eq!(placement.addresses, expected, "{lists:?}");
        }
    }

    #[test]
    fn lists_that_overlap_and_too_many_addresses_are_refused() {
        assert_eq!(placed(&[&[1, 2], &[2, 3]], &[]), Err(Refusal::Shared(ip(2))));
        let many: Vec<u8> = (0..65).collect();
        assert_eq!(placed(&[&many], &[]), Err(Refusal::TooMany));
        assert!(placed(&[&many[..64]], &[]).is_ok());
    }

    proptest! {
        #[test]
        fn each_service_finds_its_addresses_side_by_side(
            sizes in prop::collection::vec(0..8usize, 0..8),
            former in prop::collection::hash_map(0..60u8, 0..64u32, 0..40),
        ) {
            let mut next = 0;
            let lists: Vec<Vec<IpAddr>> = sizes.iter().map(|&size| {
                next += size;
                (next - size..next).map(|last| ip(u8::try_from(last).expect("few"))).collect()
            }).collect();
            let former: HashMap<IpAddr, u32> = former.into_iter().map(|(last, index)| (ip(last), index)).collect();
            let slices: Vec<_> = lists.iter().map(Vec::as_slice).collect();
            if let Ok(placement) = place(&slices, &former) {
                for (list, (first, count)) in lists.iter().zip(&placement.ranges) {
                    let range = u32::from(*first)..u32::from(first + count);
                    let mut found: Vec<_> = range.map(|index| placement.addresses[&index]).collect();
                    found.sort_unstable();
                    prop_assert_eq!(&found, list);
                }
            }
        }
    }
}
