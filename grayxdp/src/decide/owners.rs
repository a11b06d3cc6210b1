//! The table of owners: whose is an endpoint? Built for a multiplier under which every bucket holds what falls into it, so
//! that one bucket answers, without chains and without a second probe.

use std::collections::HashSet;

use grayxdp_common::{
    layout::{Endpoint, Owner, OwnerBucket, OwnerSlot, Owners},
    limits::OWNER_BUCKETS,
};

use super::maglev::mix;

/// At the maps' limits, nineteen multipliers of twenty will do; this many that will not are a fault elsewhere.
const ATTEMPTS_MAX: u64 = 1000;

/// Buckets, and the word under which they are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnerTable {
    /// As for table 0 of the map; see [`Owners::new`] for the other one.
    pub owners: Owners,
    /// [`OWNER_BUCKETS`] of them.
    pub buckets: Vec<OwnerBucket>,
}

/// No multiplier was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{endpoints} endpoints find no place in {OWNER_BUCKETS} buckets under {ATTEMPTS_MAX} multipliers")]
pub struct NoMultiplier {
    /// How many there were.
    pub endpoints: usize,
}

/// The table of these endpoints. Of equal endpoints, the first one's owner counts. The seed decides which multipliers are
/// tried, in which order; any number will do.
pub fn table(list: &[(Endpoint, Owner)], seed: u64) -> Result<OwnerTable, NoMultiplier> {
    let mut seen = HashSet::new();
    let list: Vec<_> = list.iter().filter(|(endpoint, _)| seen.insert(*endpoint)).copied().collect();
    let attempts = (0..ATTEMPTS_MAX).map(|nth| Owners::new(0, mix(seed.wrapping_add(nth))));
    let found = attempts.into_iter().find_map(|owners| try_multiplier(&list, owners));
    found.ok_or(NoMultiplier { endpoints: list.len() })
}

fn try_multiplier(list: &[(Endpoint, Owner)], owners: Owners) -> Option<OwnerTable> {
    let mut buckets = vec![OwnerBucket::default(); OWNER_BUCKETS as usize];
    for (endpoint, owner) in list {
        let (bucket, tag) = owners.place(endpoint);
        let slots = &mut buckets.get_mut(bucket as usize)?.slots;
        let filled = slots.iter().position(|slot| slot.is_empty())?;
        // Of two endpoints with one tag in a bucket, only the first would ever be found.
        if slots.iter().take(filled).any(|slot| slot.has(tag)) {
            return None;
        }
        *slots.get_mut(filled)? = OwnerSlot::new(tag, *owner);
    }
    Some(OwnerTable { owners, buckets })
}

#[cfg(test)]
mod tests {
    use grayxdp_common::{
        ids::{BackendId, Be16, ServiceId},
        layout::Address,
        limits::{BACKENDS_MAX, OWNER_SLOTS, SERVICE_ENTRIES, SERVICES_MAX},
    };
    use proptest::prelude::*;

    use super::*;

    fn endpoint(address: u128, port: u16, protocol: u8) -> Endpoint {
        let octets = address.to_be_bytes();
        let v6 = std::net::Ipv6Addr::from(octets);
        let address = v6
            .to_ipv4_mapped()
            .map_or_else(|| Address::from(std::net::IpAddr::from(v6)), |v4| Address::from(std::net::IpAddr::from(v4)));
        Endpoint::new(address, Be16::new(port), protocol)
    }

    /// As the packet program looks an endpoint up; it compares the whole endpoint after that.
    fn owner(table: &OwnerTable, endpoint: &Endpoint) -> Option<Owner> {
        let (bucket, tag) = table.owners.place(endpoint);
        let slots = table.buckets[bucket as usize].slots;
        slots.iter().take_while(|slot| !slot.is_empty()).find(|slot| slot.has(tag)).and_then(|slot| slot.owner())
    }

    fn backend(raw: usize) -> Owner {
        let raw = u16::try_from(raw % (BACKENDS_MAX as usize - 1) + 1).expect("few");
        Owner::Backend(BackendId::from_raw(raw).expect("not zero"))
    }

    /// Every service, canary port, VIP and backend that the maps can hold, at neighbouring addresses and ports.
    fn everything() -> Vec<(Endpoint, Owner)> {
        let v4 = |low: u32| 0xffff_0000_0000 | u128::from(low);
        let mut list = Vec::new();
        for id in 0..SERVICES_MAX {
            let vip = v4(0xcb00_7100 + id);
            let port = u16::try_from(80 + id % 7).expect("small");
            list.push((endpoint(vip, port, 6), Owner::Service(ServiceId(id))));
            list.push((endpoint(vip, port + 8000, 6), Owner::Service(ServiceId(id).canary())));
            for protocol in [1, 6, 17] {
                list.push((endpoint(vip, 0, protocol), Owner::Vip(ServiceId(id))));
            }
        }
        for nth in 0..BACKENDS_MAX - 1 {
            let port = u16::try_from(8080 + nth / 256).expect("small");
            list.push((endpoint(v4(0x0a00_0000 + nth % 256), port, 6), backend(nth as usize)));
        }
        list
    }

    #[test]
    fn everything_that_the_maps_can_hold_has_a_place_under_nearly_every_multiplier() {
        let list = everything();
        let failed = (0..200).filter(|&nth| try_multiplier(&list, Owners::new(0, mix(nth))).is_none()).count();
        assert!(failed <= 20, "{failed} of 200 multipliers fail");
        let table = table(&list, 7).expect("a multiplier");
        for (endpoint, expected) in &list {
            assert_eq!(owner(&table, endpoint), Some(*expected), "{endpoint:?}");
        }
    }

    #[test]
    fn of_equal_endpoints_the_first_owner_counts() {
        let one = endpoint(1, 2, 3);
        let table = table(&[(one, Owner::Service(ServiceId(4))), (one, backend(5))], 0).expect("a multiplier");
        assert_eq!(owner(&table, &one), Some(Owner::Service(ServiceId(4))));
    }

    #[test]
    fn more_endpoints_than_slots_are_refused() {
        let one = |nth: usize| (endpoint(nth as u128, 1, 6), Owner::Service(ServiceId(0)));
        let list: Vec<_> = (0..OWNER_BUCKETS as usize * OWNER_SLOTS + 1).map(one).collect();
        assert!(try_multiplier(&list, Owners::new(0, mix(1))).is_none());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn every_owner_is_found_in_both_tables_and_the_seed_alone_decides(
            endpoints in prop::collection::hash_set((any::<u128>(), any::<u16>(), any::<u8>()), 0..500),
            seed in any::<u64>(),
        ) {
            let owners = endpoints.iter().enumerate().map(|(nth, &(address, port, protocol))| {
                let owner = match nth % 3 {
                    0 => backend(nth),
                    kind => {
                        let id = ServiceId(u32::try_from(nth).expect("few") % SERVICE_ENTRIES);
                        if kind == 1 { Owner::Service(id) } else { Owner::Vip(id) }
                    }
                };
                (endpoint(address, port, protocol), owner)
            });
            let list: Vec<_> = owners.collect();
            let built = table(&list, seed).expect("a multiplier");
            prop_assert_eq!(&built, &table(&list, seed).expect("a multiplier"));
            let other = Owners::new(1, built.owners.0);
            for (endpoint, expected) in &list {
                prop_assert_eq!(owner(&built, endpoint), Some(*expected));
                let (bucket, tag) = built.owners.place(endpoint);
                prop_assert_eq!(other.place(endpoint), (bucket + OWNER_BUCKETS, tag));
            }
        }
    }
}
