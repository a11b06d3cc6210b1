//! How the clients of a service fall into shards: their numbers, names and turns. Which client is in which shard is the
//! packet program's.

use std::{borrow::Cow, fmt, net::IpAddr};

use crate::cidr::Network;

/// How shards are made. Shards are counted from 0, as in the kernel's maps.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Sharding {
    /// By the hash of the service's key: shards of equal size, named by their numbers.
    Hash,
    /// One shard; the version of each new connection is drawn.
    Random,
    /// By the client's network.
    Range {
        /// Name of shard 0: everyone whom no range names.
        default: String,
        /// Shards from 1 on, in the order of the config; no network is in two of them.
        named: Vec<RangeShard>,
    },
}

/// A shard of some networks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RangeShard {
    /// Unique among the service's shards.
    pub name: String,
    /// Where several networks of a service hold a client, the longest prefix counts. Ascending; not only of the VIP's
    /// address family: those of the other one match no client.
    pub networks: Vec<Network>,
}

/// The shards of one service.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shards<'a> {
    sharding: &'a Sharding,
    /// 1 to [`grayxdp_common::limits::SHARDS_PER_SERVICE_MAX`].
    count: usize,
}

impl<'a> Shards<'a> {
    /// Some shards; `count` is at least 1, and what the sharding makes.
    pub fn new(sharding: &'a Sharding, count: u32) -> Self {
        Self { sharding, count: usize::try_from(count).unwrap_or(usize::MAX).max(1) }
    }

    /// How many; at least 1.
    pub const fn count(self) -> usize {
        self.count
    }

    /// A shard's name.
    pub fn name(self, shard: usize) -> Cow<'a, str> {
        match self.sharding {
            Sharding::Hash | Sharding::Random => Cow::Owned(shard.to_string()),
            Sharding::Range { default, named } => match shard.checked_sub(1) {
                None => Cow::Borrowed(default),
                Some(index) => named.get(index).map_or("", |range| &range.name).into(),
            },
        }
    }

    /// The shard of that name.
    pub fn named(self, name: &str) -> Option<usize> {
        (0..self.count).find(|&shard| self.name(shard) == name)
    }

    /// Each network of a range, and the shard of its clients; only those of a VIP's address family, for an IPv4 client would
    /// else lie in an IPv6 network of mapped addresses, too. Empty for other methods.
    pub fn networks(self, vip: IpAddr) -> impl Iterator<Item = (Network, usize)> {
        let named: &[RangeShard] = match self.sharding {
            Sharding::Hash | Sharding::Random => &[],
            Sharding::Range { named, .. } => named,
        };
        let networks =
            named.iter().zip(1..).flat_map(|(range, shard)| range.networks.iter().map(move |each| (*each, shard)));
        networks.filter(move |(network, _)| network.is_ipv4() == vip.is_ipv4())
    }

    /// The shard that takes its turn at this place, where they go one by one: hash shards by number, ranges in the order
    /// of the config, everyone else last.
    pub const fn in_turn(self, place: usize) -> usize {
        match self.sharding {
            Sharding::Range { .. } => (place + 1) % self.count,
            Sharding::Hash | Sharding::Random => place,
        }
    }

    /// The names of all, in turn, for people; long lists are cut.
    pub fn listed(self) -> String {
        const SHOWN: usize = 12;
        let names: Vec<_> = (0..self.count.min(SHOWN)).map(|place| self.name(self.in_turn(place))).collect();
        let more = self.count - names.len();
        if more == 0 { names.join(", ") } else { format!("{}, … {more} more", names.join(", ")) }
    }
}

impl fmt::Display for Shards<'_> {
    /// One line; two services' weights mean the same shards exactly if their lines are equal.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.sharding {
            Sharding::Hash => write!(f, "hash {}", self.count),
            Sharding::Random => f.write_str("random"),
            Sharding::Range { default, named } => {
                write!(f, "range {default}")?;
                named.iter().try_for_each(|range| {
                    let networks: Vec<String> = range.networks.iter().map(ToString::to_string).collect();
                    write!(f, "; {} {}", range.name, networks.join(" "))
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges() -> Sharding {
        let shard = |name: &str, network: &str| RangeShard {
            name: name.to_owned(),
            networks: vec![network.parse().expect("a network")],
        };
        Sharding::Range {
            default: "rest".to_owned(),
            named: vec![shard("internal", "10.0.0.0/8"), shard("partner", "192.0.2.0/24")],
        }
    }

    #[test]
    fn names_lead_to_their_shards() {
        let (hash, range) = (Sharding::Hash, ranges());
        for shards in [Shards::new(&hash, 7), Shards::new(&range, 3)] {
            for shard in 0..shards.count() {
                assert_eq!(shards.named(&shards.name(shard)), Some(shard), "{shards}");
            }
            assert_eq!(shards.named("nobody"), None);
        }
        assert_eq!(Shards::new(&hash, 7).named("7"), None);
    }

    #[test]
    fn each_shard_has_one_turn_and_everyone_else_the_last() {
        let range = ranges();
        let turns = |shards: Shards<'_>| (0..shards.count()).map(|place| shards.in_turn(place)).collect::<Vec<_>>();
        assert_eq!(turns(Shards::new(&Sharding::Hash, 4)), [0, 1, 2, 3]);
        assert_eq!(turns(Shards::new(&range, 3)), [1, 2, 0]);
        assert_eq!(Shards::new(&range, 3).listed(), "internal, partner, rest");
        assert!(Shards::new(&Sharding::Hash, 4096).listed().ends_with("11, … 4084 more"));
    }

    #[test]
    fn the_networks_of_a_shard_are_those_of_the_vips_family() {
        let mut range = ranges();
        if let Sharding::Range { named, .. } = &mut range {
            named[1].networks.push("::/0".parse().expect("a network"));
        }
        let shards = Shards::new(&range, 3);
        let said = |vip: &str| {
            let networks = shards.networks(vip.parse().expect("an address"));
            networks.map(|(network, shard)| format!("{network} {shard}")).collect::<Vec<_>>()
        };
        assert_eq!(said("203.0.113.10"), ["10.0.0.0/8 1", "192.0.2.0/24 2"]);
        assert_eq!(said("2001:db8::1"), ["::/0 2"]);
        assert_eq!(Shards::new(&Sharding::Hash, 3).networks([203, 0, 113, 10].into()).count(), 0);
    }

    #[test]
    fn a_line_tells_shards_apart() {
        let range = ranges();
        let lines = [
            Shards::new(&Sharding::Hash, 4),
            Shards::new(&Sharding::Hash, 5),
            Shards::new(&Sharding::Random, 1),
            Shards::new(&range, 3),
        ]
        .map(|shards| shards.to_string());
        assert_eq!(lines.iter().collect::<std::collections::HashSet<_>>().len(), 4);
        assert_eq!(lines[3], "range rest; internal 10.0.0.0/8; partner 192.0.2.0/24");
    }
}
