//! From the routes of the local and the main table to one small table for longest-prefix look-ups. Pure.
//!
//! The kernel asks the local table first, and whatever it finds there ends the search, however short its prefix. So a
//! route of the main table inside a local one is never reached, and is left out. What remains answers like the kernel.

use std::collections::BTreeMap;

use super::{
    prefix::Prefix,
    tables::{KernelRoute, Scope, TABLE_LOCAL, TABLE_MAIN},
};

/// What all routes to one network come to.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Group<'a> {
    Local,
    /// Of the main table: the route that wins, or `None` if that is not certain.
    Main(Option<&'a KernelRoute>),
}

/// Networks with their answers, each network right before those inside it.
///
/// `answer` says where a route leads, `None` standing for "ask the kernel", which is the answer too for what no network
/// covers. A network whose answer is that of the next larger one is left out: on most hosts that is nearly all of them.
pub(super) fn reduce<T: Copy + PartialEq>(
    routes: &[KernelRoute],
    answer: impl Fn(&KernelRoute) -> Option<T>,
) -> Vec<(Prefix, Option<T>)> {
    let mut kept: Vec<(Prefix, Option<T>)> = Vec::new();
    // Networks around the current one, with their answers: first the largest.
    let mut around: Vec<(Prefix, Group<'_>, Option<T>)> = Vec::new();
    for (prefix, group) in groups(routes) {
        while around.last().is_some_and(|(outer, ..)| !outer.covers(prefix)) {
            around.pop();
        }
        let (outer_group, outer_answer) = match around.last() {
            Some(&(_, group, answer)) => (group, answer),
            None => (Group::Main(None), None),
        };
        let (group, own_answer) = match (outer_group, group) {
            (Group::Local, _) | (_, Group::Local) => (Group::Local, None),
            (_, Group::Main(route)) => (group, route.and_then(&answer)),
        };
        around.push((prefix, group, own_answer));
        if own_answer != outer_answer {
            kept.push((prefix, own_answer));
        }
    }
    kept
}

fn groups(routes: &[KernelRoute]) -> BTreeMap<Prefix, Group<'_>> {
    let mut by_prefix: BTreeMap<Prefix, Vec<&KernelRoute>> = BTreeMap::new();
    for route in routes.iter().filter(|route| [TABLE_LOCAL, TABLE_MAIN].contains(&route.table)) {
        by_prefix.entry(route.destination).or_default().push(route);
    }
    by_prefix.into_iter().map(|(prefix, routes)| (prefix, group_of(&routes))).collect()
}

fn group_of<'a>(routes: &[&'a KernelRoute]) -> Group<'a> {
    if routes.iter().any(|route| route.table == TABLE_LOCAL) {
        return Group::Local;
    }
    // Which route a packet takes may be up to its source or type of service.
    if routes.iter().any(|route| route.scope == Scope::Some) {
        return Group::Main(None);
    }
    let lowest = routes.iter().map(|route| route.metric).min();
    let mut winners = routes.iter().filter(|route| Some(route.metric) == lowest);
    // Two with the same metric: the kernel may choose by neighbour, by hash, by age.
    match (winners.next(), winners.next()) {
        (Some(&winner), None) => Group::Main(Some(winner)),
        _ => Group::Main(None),
    }
}
