//! From an episode that differs to the shortest one that still does.

use super::{
    rig::{Difference, Rig, hex},
    step::{Damage, Step, What},
};

/// Packets, by their steps.
type Packets = Vec<(usize, Vec<u8>)>;

/// Runs steps, and compares after each.
fn first_difference(rig: &mut Rig, steps: &[Step], is_leased: bool) -> Option<(Difference, Packets)> {
    let mut run = rig.begin(is_leased);
    let found = steps.iter().find_map(|step| run.step(step).or_else(|| run.compare_counts(step.id)));
    let packets = steps.iter().filter_map(|step| Some((step.id, run.packet_of(step.id)?.to_vec()))).collect();
    run.end();
    found.map(|found| (found, packets))
}

/// Steps with one thing less.
fn simpler(step: &Step) -> Vec<Step> {
    let mut all = Vec::new();
    for nth in 0..step.damage.len() {
        let mut less = step.clone();
        less.damage.remove(nth);
        all.push(less);
    }
    let (What::Packet(shape) | What::Answer { shape, .. } | What::Error { shape, .. }) = &step.what else { return all };
    let mut with = |change: &dyn Fn(&mut super::craft::Shape)| {
        let mut changed = shape.as_ref().clone();
        change(&mut changed);
        let mut less = step.clone();
        if let What::Packet(shape) | What::Answer { shape, .. } | What::Error { shape, .. } = &mut less.what {
            **shape = changed;
        }
        all.push(less);
    };
    if shape.payload.len() > 8 {
        with(&|shape| shape.payload.truncate(8));
        with(&|shape| shape.payload.truncate(shape.payload.len() / 2));
    }
    if !shape.tags.is_empty() {
        with(&|shape| shape.tags.truncate(shape.tags.len() - 1));
    }
    if !shape.extensions.is_empty() {
        with(&|shape| shape.extensions = shape.extensions.split_off(1));
    }
    if shape.option_words + shape.tcp_option_words + shape.padding > 0 {
        with(&|shape| (shape.option_words, shape.tcp_option_words, shape.padding) = (0, 0, 0));
    }
    if shape.traffic_class != 0 {
        with(&|shape| shape.traffic_class = 0);
    }
    all
}

/// The shortest history that differs, as text: packets as hex, in order, and what differs at the last.
pub(super) fn told(rig: &mut Rig, mut steps: Vec<Step>, is_leased: bool, first: &Difference) -> String {
    let Some((mut found, mut packets)) = first_difference(rig, &steps, is_leased) else {
        return format!(
            "a difference that does not come again, at step {}: {} {}",
            first.step,
            hex(&first.packet),
            first.what
        );
    };
    steps.retain(|step| step.id <= found.step);
    let mut tries = 0;
    let mut is_smaller = true;
    while is_smaller && tries < 2_000 {
        is_smaller = false;
        let mut attempts: Vec<Vec<Step>> = Vec::new();
        for size in [steps.len() / 2, steps.len() / 8, 1] {
            if size > 0 && steps.len() > 1 {
                attempts.extend((0..steps.len() - 1).step_by(size).map(|from| {
                    let gone = from..(from + size).min(steps.len() - 1);
                    (0..).zip(&steps).filter(|(nth, _)| !gone.contains(nth)).map(|(_, step)| step.clone()).collect()
                }));
            }
        }
        for (nth, step) in steps.iter().enumerate() {
            attempts.extend(simpler(step).into_iter().map(|less| {
                let mut all = steps.clone();
                all[nth] = less;
                all
            }));
        }
        for attempt in attempts {
            tries += 1;
            if let Some((less, its)) = first_difference(rig, &attempt, is_leased) {
                steps = attempt;
                steps.retain(|step| step.id <= less.step);
                (found, packets, is_smaller) = (less, its, true);
                break;
            }
        }
    }
    text(&found, &packets, &steps, is_leased)
}

fn text(found: &Difference, packets: &[(usize, Vec<u8>)], steps: &[Step], is_leased: bool) -> String {
    let mut lines = vec![format!("ways: {}", if is_leased { "told" } else { "the kernel's" })];
    for step in steps {
        let damage: &[Damage] = &step.damage;
        match packets.iter().find(|(id, _)| *id == step.id) {
            Some((_, packet)) => lines.push(format!("  step {}: {} {damage:?}", step.id, hex(packet))),
            None => lines.push(format!("  step {}: {:?}", step.id, step.what)),
        }
    }
    lines.push(format!("  at step {}, packet of {} bytes: {}", found.step, found.packet.len(), found.what));
    lines.join("\n")
}
