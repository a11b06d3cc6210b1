//! The `shards` of a service.

use std::collections::HashMap;

use grayxdp_common::limits::SHARDS_PER_SERVICE_MAX;
use toml::Spanned;

use super::{
    section::{Item, Section},
    value,
};
use crate::{
    cidr::Network,
    decide::shards::{RangeShard, Sharding},
};

const COUNT_DEFAULT: u32 = 16;
const DEFAULT_NAME: &str = "rest";
const METHODS: [(&str, Method); 3] = [("hash", Method::Hash), ("random", Method::Random), ("range", Method::Range)];
/// Keys of any method, for shards whose method cannot be read.
const ALL_KEYS: &[&str] = &["method", "count", "default", "ranges"];

#[derive(Clone, Copy)]
enum Method {
    Hash,
    Random,
    Range,
}

/// How shards are made, and how many; `None` after a problem was noted.
pub(super) fn read(section: &Section<'_>) -> Option<(Sharding, u32)> {
    let Some(item) = section.optional_item("shards") else {
        return Some((Sharding::Hash, COUNT_DEFAULT));
    };
    let method = match item.peek("method") {
        Some(method) => method.read(|value| value::choice(value, &METHODS)).map(Spanned::into_inner),
        None => Some(Method::Hash),
    };
    match method {
        None => {
            item.section(ALL_KEYS);
            None
        }
        Some(Method::Hash) => {
            let shards = item.section(&["method", "count"]);
            let count = shards.or("count", COUNT_DEFAULT, |value| value::integer(value, 1..=SHARDS_PER_SERVICE_MAX));
            Some((Sharding::Hash, count?.into_inner()))
        }
        Some(Method::Random) => {
            item.section(&["method"]);
            Some((Sharding::Random, 1))
        }
        Some(Method::Range) => range(&item.section(&["method", "default", "ranges"])),
    }
}

/// `None` after a problem was noted.
fn range(section: &Section<'_>) -> Option<(Sharding, u32)> {
    let example = "ranges = { internal = [\"10.0.0.0/8\", \"192.0.2.1-192.0.2.9\"] }";
    let default = section.or("default", DEFAULT_NAME.to_owned(), value::name);
    let item = section.required_item("ranges", &format!("add `{example}`"))?;
    let entries = item.entries(&format!("write `{example}`"))?;
    let shards_max = usize::try_from(SHARDS_PER_SERVICE_MAX - 1).unwrap_or(usize::MAX);
    if entries.is_empty() || entries.len() > shards_max {
        item.note(
            format!("{}: expected 1 to {shards_max} named shards, found {}", item.what(), entries.len()),
            format!("write `{example}`"),
        );
        return None;
    }
    let mut owners = HashMap::new();
    let named = entries.iter().map(|(name, item)| shard(name, item, &mut owners)).collect::<Vec<_>>();
    let named = named.into_iter().collect::<Option<Vec<_>>>();
    let default = default?.into_inner();
    let (named, count) = (named?, u32::try_from(entries.len()).unwrap_or(u32::MAX));
    if let Some((name, item)) = entries.iter().find(|(name, _)| *name == default) {
        item.note(
            format!("{}: `{name}` is the name of the shard for everyone else, too", item.what()),
            "give one of the two another name: `default = \"rest\"`, for one",
        );
        return None;
    }
    Some((Sharding::Range { default, named }, count + 1))
}

/// `None` after a problem was noted.
fn shard(name: &str, item: &Item<'_>, owners: &mut HashMap<Network, String>) -> Option<RangeShard> {
    if value::is_name(name).is_none() {
        item.note(
            format!(
                "{}: expected a name of 1 to 63 lower-case letters, digits and hyphens, found `{name}`",
                item.what()
            ),
            "rename the shard: \"internal\" or \"partner-2\", for example",
        );
        return None;
    }
    let mut networks = Vec::new();
    let mut complete = true;
    for element in item.elements("range", "[\"10.0.0.0/8\"]")? {
        let Some(found) = element.read(value::networks).map(Spanned::into_inner) else {
            complete = false;
            continue;
        };
        for network in found {
            match owners.insert(network, name.to_owned()) {
                Some(other) if other != name => {
                    element.note(
                        format!("{}: {network} is in shard `{other}` and in shard `{name}`", element.what()),
                        "remove it from one of the two; a longer prefix inside of the other's network is fine, and counts",
                    );
                }
                _ => networks.push(network),
            }
        }
    }
    networks.sort_unstable();
    networks.dedup();
    complete.then(|| RangeShard { name: name.to_owned(), networks })
}
