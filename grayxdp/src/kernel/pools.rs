//! Where the Maglev tables lie. Each version of each service has two regions of the map of slots; one is in use, and the
//! next table is written to the other. Pure.

use grayxdp_common::{
    ids::Version,
    layout::{MaglevSlots, PoolTable},
};

use super::setup::WhenEmpty;

/// The regions of all services.
#[derive(Clone, Debug, Default)]
pub(super) struct Regions {
    services: Vec<ServiceRegions>,
    groups: u32,
}

#[derive(Clone, Debug)]
struct ServiceRegions {
    first: u32,
    /// Groups of one region.
    groups: u32,
    /// The region in use, of both versions.
    current: u32,
}

/// What to write for a new pair of tables: the groups first, then, once they are all there, the two words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Change {
    /// First group, and the groups, of v1 and v2.
    pub(super) groups: [(u32, Vec<MaglevSlots>); 2],
    /// The words of v1 and v2.
    pub(super) words: [PoolTable; 2],
}

impl Regions {
    /// For services with tables of these sizes, in slots.
    pub(super) fn new(slots: impl Iterator<Item = u32>) -> Self {
        let mut regions = Self::default();
        for slots in slots {
            let groups = slots.div_ceil(4);
            regions.services.push(ServiceRegions { first: regions.groups, groups, current: 1 });
            regions.groups += groups * 4;
        }
        regions
    }

    /// Groups of the whole map.
    pub(super) const fn groups(&self) -> u32 {
        self.groups
    }

    /// Turns to the region that is not in use. `tables` are those of v1 and v2; an empty one has no live backend.
    pub(super) fn change(&mut self, service: usize, tables: [&[u16]; 2], when_empty: WhenEmpty) -> Option<Change> {
        let regions = self.services.get_mut(service)?;
        regions.current = 1 - regions.current;
        let first = |version: Version| regions.first + (version as u32 * 2 + regions.current) * regions.groups;
        let word = |version: Version, table: &[u16]| match u32::try_from(table.len()) {
            Ok(slots) if slots > 0 => Some(PoolTable::new(first(version), slots)),
            _ => None,
        };
        let [v1, v2] = tables;
        let (own, other) = (word(Version::V1, v1), word(Version::V2, v2));
        let words = match when_empty {
            WhenEmpty::OtherVersion => [own.or(other), other.or(own)],
            WhenEmpty::Drop => [own, other],
        };
        let groups = [(first(Version::V1), packed(v1)), (first(Version::V2), packed(v2))];
        Some(Change { groups, words: words.map(Option::unwrap_or_default) })
    }
}

fn packed(table: &[u16]) -> Vec<MaglevSlots> {
    let group = |slots: &[u16]| {
        let mut four = [0; 4];
        for (to, from) in four.iter_mut().zip(slots) {
            *to = *from;
        }
        MaglevSlots::new(four)
    };
    table.chunks(4).map(group).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_region_in_use_is_written_and_none_overlaps_another() {
        let sizes = [5, 8];
        let mut regions = Regions::new(sizes.into_iter());
        assert_eq!(regions.groups(), (2 + 2) * 4);
        let mut in_use = [[PoolTable::default(); 2]; 2];
        for round in 0..6 {
            for service in 0..2 {
                let table = vec![7; sizes[service] as usize];
                // Now and then a version without a backend, which borrows the other one's table.
                let empty: &[u16] = &[];
                let tables = if round % 3 == 2 { [empty, &table] } else { [&table[..], &table[..]] };
                let change = regions.change(service, tables, WhenEmpty::OtherVersion).expect("a service");
                for (first, groups) in &change.groups {
                    let written = *first..*first + u32::try_from(groups.len()).expect("few");
                    for used in in_use.iter().flatten() {
                        let used = used.first()..used.first() + used.slots().div_ceil(4);
                        assert!(written.end <= used.start || used.end <= written.start, "{written:?} {used:?}");
                    }
                }
                in_use[service] = change.words;
            }
        }
    }

    #[test]
    fn an_empty_version_borrows_the_others_table_or_has_none() {
        let change = |tables: [&[u16]; 2], when_empty| {
            Regions::new([5].into_iter()).change(0, tables, when_empty).expect("a service").words
        };
        let v1 = PoolTable::new(0, 5);
        let v2 = PoolTable::new(4, 5);
        let table: &[u16] = &[1, 2, 3, 4, 5];
        assert_eq!(change([table, table], WhenEmpty::Drop), [v1, v2]);
        assert_eq!(change([table, &[]], WhenEmpty::OtherVersion), [v1, v1]);
        assert_eq!(change([&[], table], WhenEmpty::OtherVersion), [v2, v2]);
        assert_eq!(change([&[], table], WhenEmpty::Drop), [PoolTable::default(), v2]);
        assert_eq!(change([&[], &[]], WhenEmpty::OtherVersion), [PoolTable::default(); 2]);
    }

    #[test]
    fn slots_are_found_where_the_program_looks_for_them() {
        let table: Vec<u16> = (1..=6).collect();
        let groups = packed(&table);
        let found: Vec<u16> = (0..6).map(|slot: u32| groups[slot as usize >> 2].slot(slot)).collect();
        assert_eq!(found, table);
    }
}
