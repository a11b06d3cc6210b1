//! The `[service.release]` table: schedules.

use grayxdp_common::weight::Weight;
use toml::Spanned;

use super::{
    External, ModeKind, OnRollback, external, policy,
    policy::RawPolicy,
    section::{Item, Section, list},
    value,
};
use crate::decide::{
    plan::Order,
    schedule::{Growth, Schedule},
};

pub(super) const KEYS: &[&str] = &[
    "schedule",
    "order",
    "on_rollback",
    "analysis",
    "hold",
    "max_step",
    "gates",
    "promote_after",
    "progress_deadline",
    "on_deadline",
    "rollback_window",
    "query",
    "webhook",
];

#[derive(Clone, Copy)]
enum Kind {
    Linear,
    Step,
    Exponential,
    Smooth,
    Manual,
}

const KINDS: [(&str, Kind); 5] = [
    ("linear", Kind::Linear),
    ("step", Kind::Step),
    ("exponential", Kind::Exponential),
    ("smooth", Kind::Smooth),
    ("manual", Kind::Manual),
];
/// Keys of any kind, for a schedule whose kind is not known.
const ALL_KEYS: &[&str] = &["kind", "from", "to", "step", "weights", "factor", "rate", "every", "over"];

/// A release as the config has it.
pub(super) struct Release {
    pub(super) schedule: Schedule,
    pub(super) order: Order,
    pub(super) on_rollback: OnRollback,
    pub(super) policy: RawPolicy,
    pub(super) external: External,
}

impl Default for Release {
    fn default() -> Self {
        Self {
            schedule: Schedule::Manual,
            order: Order::Together,
            on_rollback: OnRollback::Keep,
            policy: RawPolicy::default(),
            external: External::default(),
        }
    }
}

/// A release at a service of this mode, if that is known. `None` after a problem was noted.
pub(super) fn read(section: &Section<'_>, mode: Option<ModeKind>) -> Option<Release> {
    let default = Release::default();
    let schedule = schedule(section);
    let orders = [Order::Together, Order::OneByOne].map(|order| (order.name(), order));
    let order = section.or("order", default.order, |value| value::choice(value, &orders));
    let choices = [OnRollback::Keep, OnRollback::Sever].map(|choice| (choice.name(), choice));
    let on_rollback = section.or("on_rollback", default.on_rollback, |value| value::choice(value, &choices));
    let policy = policy::read(section, mode, schedule.as_ref());
    let external = external::read(section);
    let (schedule, order) = (schedule?, order?.into_inner());
    if (&schedule, order) == (&Schedule::Manual, Order::OneByOne) {
        section.optional_item("order")?.note(
            format!("`order` of {} means nothing: a manual schedule moves no shard", section.what()),
            "remove it, and use `grayxdp set-weight NAME PERCENT --shard SHARD`; or write another schedule",
        );
        return None;
    }
    let on_rollback = on_rollback?.into_inner();
    Some(Release { schedule, order, on_rollback, policy: policy?, external: external? })
}

/// `None` after a problem was noted.
fn schedule(section: &Section<'_>) -> Option<Schedule> {
    let example = "{ kind = \"linear\", from = 0, to = 100, step = 10, every = \"30s\" }";
    let item = section.required_item("schedule", &format!("add `schedule = {example}`"))?;
    let words = KINDS.map(|(word, _)| word);
    let Some(kind) = item.peek("kind") else {
        item.section(ALL_KEYS).required_item("kind", &format!("add `kind = …`, one of {}", list(&words)));
        return None;
    };
    let kind = kind.read(|value| value::choice(value, &KINDS));
    match kind?.into_inner() {
        Kind::Linear => linear(&item.section(&["kind", "from", "to", "step", "every"])),
        Kind::Step => step(&item.section(&["kind", "weights", "every"])),
        Kind::Exponential => exponential(&item.section(&["kind", "from", "to", "factor", "rate", "every"])),
        Kind::Smooth => smooth(&item.section(&["kind", "from", "to", "over"])),
        Kind::Manual => {
            item.section(&["kind"]);
            Some(Schedule::Manual)
        }
    }
}

fn linear(section: &Section<'_>) -> Option<Schedule> {
    let ends = ends(section);
    let step = section.required("step", "10", value::percent).and_then(|step| above_zero(section, "step", step));
    let every = section.required("every", "\"30s\"", value::period);
    let (from, to) = ends?;
    Some(Schedule::Linear { from, to, step: step?, every: every?.into_inner() })
}

fn step(section: &Section<'_>) -> Option<Schedule> {
    let example = "weights = [1, 10, 30, 80, 100]";
    let weights = section
        .required_item("weights", &format!("add `{example}`"))
        .and_then(|item| item.elements("weight", example))
        .and_then(ascending);
    let every = section.required("every", "\"5m\"", value::period);
    Some(Schedule::Step { weights: weights?, every: every?.into_inner() })
}

/// `None` after a problem was noted.
fn ascending(items: Vec<Item<'_>>) -> Option<Vec<Weight>> {
    let read: Vec<_> = items.iter().map(|item| item.read(value::percent).map(Spanned::into_inner)).collect();
    let mut ascend = true;
    for (pair, item) in read.windows(2).zip(&items[1..]) {
        if let &[Some(before), Some(weight)] = pair
            && weight <= before
        {
            item.note(
                format!("{}: expected more than the {before} % before it, found {weight} %", item.what()),
                "list each weight once, from the lowest to the highest",
            );
            ascend = false;
        }
    }
    read.into_iter().collect::<Option<Vec<_>>>().filter(|_| ascend)
}

fn exponential(section: &Section<'_>) -> Option<Schedule> {
    let ends = ends(section);
    let factor = section.optional_item("factor").map(|item| item.read(value::factor));
    let rate = section.optional_item("rate").map(|item| item.read(value::rate));
    let every = section.required("every", "\"1m\"", value::period);
    let growth = match (factor, rate) {
        (Some(factor), None) => Growth::Factor(factor?.into_inner()),
        (None, Some(rate)) => Growth::Rate(rate?.into_inner()),
        (both, _) => {
            let found = if both.is_some() { "has both" } else { "has neither" };
            section.note(
                format!("{}: expected either `factor` or `rate`, but it {found}", section.what()),
                "write `factor = 2` to double the weight each period, or `rate = 0.2` to close a fifth of the gap to `to`",
            );
            return None;
        }
    };
    let (from, to) = ends?;
    if matches!(growth, Growth::Factor(_)) && from == Weight::ZERO {
        section.required_item("from", "").into_iter().for_each(|item| {
            item.note(
                format!("{}: expected more than 0, for a factor has to have something to multiply", item.what()),
                "write `from = 1`, or take `rate` in place of `factor`",
            );
        });
        return None;
    }
    Some(Schedule::Exponential { from, to, growth, every: every?.into_inner() })
}

fn smooth(section: &Section<'_>) -> Option<Schedule> {
    let ends = ends(section);
    let over = section.required("over", "\"10m\"", value::period);
    let (from, to) = ends?;
    Some(Schedule::Smooth { from, to, over: over?.into_inner() })
}

/// `from` and `to`.
fn ends(section: &Section<'_>) -> Option<(Weight, Weight)> {
    let from = section.required("from", "0", value::percent);
    let to = section.required("to", "100", value::percent).and_then(|to| above_zero(section, "to", to));
    let (from, to) = (from?.into_inner(), to?);
    if from > to {
        section.optional_item("from")?.note(
            format!("`from` ({from} %) is above `to` ({to} %) in {}", section.what()),
            "schedules only raise the weight: swap the two, or use `grayxdp rollback` to go down",
        );
        return None;
    }
    Some((from, to))
}

fn above_zero(section: &Section<'_>, key: &str, weight: Spanned<Weight>) -> Option<Weight> {
    if *weight.get_ref() == Weight::ZERO {
        section.optional_item(key)?.note(
            format!("`{key}` of {}: expected more than 0", section.what()),
            "with 0 the weight would never move; use `kind = \"manual\"` for a weight set by hand",
        );
        return None;
    }
    Some(weight.into_inner())
}
