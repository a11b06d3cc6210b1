//! Figures to tables, JSON and targets. Pure.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::{
    case::{Case, Kind, Subject, Traffic},
    host::Machine,
    measure::{MAX_FLOWS, Measured, Net},
};

/// Everything that was found out.
pub(crate) struct Report {
    pub(crate) machine: Machine,
    /// An empty program, in nanoseconds.
    pub(crate) floor_ns: f64,
    pub(crate) measured: Vec<Measured>,
    /// Bytes of all maps of a mode, for [`MAX_FLOWS`].
    pub(crate) map_bytes: Vec<(Subject, u64)>,
    /// Instructions that the verifier looked at, by program.
    pub(crate) instructions: Vec<(&'static str, u32)>,
}

/// What was promised of a figure.
pub(crate) struct Target {
    pub(crate) name: String,
    pub(crate) found: f64,
    /// At most.
    pub(crate) wanted: f64,
}

impl Target {
    pub(crate) fn is_met(&self) -> bool {
        self.found <= self.wanted
    }
}

/// IPv6 may cost so much more than IPv4.
const IPV6_FACTOR: f64 = 1.25;
/// A packet of a known flow may cost so much more with signals than without.
const SIGNALS_FACTOR: f64 = 1.2;
/// Kernel memory of a flow, all maps together.
const BYTES_PER_FLOW: f64 = 64.0;

impl Report {
    fn net(&self, case: Case) -> Option<Net> {
        self.measured.iter().find(|measured| measured.case == case).map(|measured| measured.net)
    }

    /// Net nanoseconds of a case.
    pub(crate) fn median(&self, case: Case) -> Option<f64> {
        self.net(case).map(|net| net.median)
    }

    /// The harness alone, as it feeds one flow.
    fn harness_ns(&self) -> f64 {
        let one = Case::Flow(Subject::Nat, Traffic::TCP4, Kind::Hit, 1);
        let any = || self.measured.first().map(|measured| measured.net);
        self.net(one).or_else(any).map_or(f64::NAN, |net| net.harness)
    }

    fn against_baseline(&self, case: Case) -> Option<f64> {
        Some(self.net(case)?.median / self.net(case.baseline())?.median)
    }

    /// Of those targets whose cases were measured.
    pub(crate) fn targets(&self) -> Vec<Target> {
        let nat = |kind, flows| Case::Flow(Subject::Nat, Traffic::TCP4, kind, flows);
        let ratios = [
            (nat(Kind::Hit, 1), 1.0),
            (nat(Kind::Hit, 1_048_576), 0.8),
            (nat(Kind::New, 1_048_576), 0.45),
            (nat(Kind::Reply, 1_048_576), 0.8),
            (Case::Pass, 0.4),
        ];
        let mut targets = Vec::new();
        for (case, wanted) in ratios {
            if let Some(found) = self.against_baseline(case) {
                targets.push(Target { name: format!("{case} against {}", case.baseline()), found, wanted });
            }
        }
        for measured in &self.measured {
            if let Case::Flow(Subject::Nat, traffic, kind @ (Kind::Hit | Kind::Reply), flows) = measured.case
                && let Some(bare) = self.net(Case::Flow(Subject::NatBare, traffic, kind, flows))
            {
                let found = measured.net.median / bare.median;
                targets.push(Target { name: format!("{} with signals", measured.case), found, wanted: SIGNALS_FACTOR });
            }
            if let Some(twin) = measured.case.twin()
                && let Some(net) = self.net(twin)
            {
                let found = measured.net.median / net.median;
                targets.push(Target { name: format!("{} against {twin}", measured.case), found, wanted: IPV6_FACTOR });
            }
        }
        for (subject, bytes) in self.map_bytes.iter().filter(|(subject, _)| *subject == Subject::Nat) {
            #[expect(clippy::cast_precision_loss, reason = "far under 2^52 bytes")]
            let found = *bytes as f64 / f64::from(MAX_FLOWS);
            targets.push(Target {
                name: format!("{}: bytes of kernel memory a flow", subject.name()),
                found,
                wanted: BYTES_PER_FLOW,
            });
        }
        targets
    }

    pub(crate) fn json(&self) -> Value {
        let cases: Vec<Value> = self.measured.iter().map(|measured| self.case_json(measured)).collect();
        let targets: Vec<Value> = self
            .targets()
            .iter()
            .map(|t| json!({ "name": t.name, "found": round(t.found), "wanted": t.wanted, "met": t.is_met() }))
            .collect();
        let instructions: serde_json::Map<String, Value> =
            self.instructions.iter().map(|(name, count)| ((*name).to_owned(), json!(count))).collect();
        let bytes: serde_json::Map<String, Value> =
            self.map_bytes.iter().map(|(subject, bytes)| (subject.name().to_owned(), json!(bytes))).collect();
        json!({
            "machine": self.machine.name,
            "kernel": self.machine.kernel,
            "date": self.machine.date,
            "floor_ns": round(self.floor_ns),
            "harness_ns": round(self.harness_ns()),
            "cases": cases,
            "targets": targets,
            "max_flows": MAX_FLOWS,
            "map_bytes": bytes,
            "verified_instructions": instructions,
        })
    }

    fn case_json(&self, measured: &Measured) -> Value {
        let Net { median, min, max, .. } = measured.net;
        json!({
            "id": measured.case.to_string(),
            "net_ns": round(median),
            "min": round(min),
            "max": round(max),
            "vs_floor": round(median / self.floor_ns),
            "vs_lru": self.against_baseline(measured.case).map(round),
        })
    }

    pub(crate) fn text(&self) -> String {
        let mut text = format!(
            "{}, Linux {}, {}\nfloor {:.1} ns, harness alone {:.1} ns; both are taken off\n\n{}\n",
            self.machine.name,
            self.machine.kernel,
            self.machine.date,
            self.floor_ns,
            self.harness_ns(),
            row(["case", "net ns", "min", "max", "vs floor", "vs lru"].map(str::to_owned)),
        );
        for measured in &self.measured {
            let Net { median, min, max, .. } = measured.net;
            let lru = self.against_baseline(measured.case).map_or("-".to_owned(), |ratio| format!("{ratio:.2}×"));
            let floor = format!("{:.1}×", median / self.floor_ns);
            let [median, min, max] = [median, min, max].map(|ns| format!("{ns:.1}"));
            let _ = writeln!(text, "{}", row([measured.case.to_string(), median, min, max, floor, lru]));
        }
        text.push('\n');
        for target in self.targets() {
            let verdict = if target.is_met() { "pass" } else { "MISS" };
            let _ = writeln!(text, "{verdict}  {}: {:.2}, at most {}", target.name, target.found, target.wanted);
        }
        text.push('\n');
        for (name, count) in &self.instructions {
            let _ = writeln!(text, "{name}: {count} instructions verified");
        }
        text
    }
}

fn row([case, columns @ ..]: [String; 6]) -> String {
    let columns: Vec<String> = columns.iter().map(|column| format!("{column:>10}")).collect();
    format!("{case:<28}{}", columns.concat())
}

fn round(figure: f64) -> f64 {
    (figure * 100.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(cases: &[(Case, f64)]) -> Report {
        let net = |median| Net { median, min: median - 1.0, max: median + 1.0, harness: 20.0 };
        Report {
            machine: Machine { name: "a machine".to_owned(), kernel: "6.18".to_owned(), date: "2026-11-24".to_owned() },
            floor_ns: 10.0,
            measured: cases.iter().map(|&(case, ns)| Measured { case, net: net(ns) }).collect(),
            map_bytes: vec![(Subject::Nat, u64::from(MAX_FLOWS) * 40)],
            instructions: vec![("grayxdp", 1000)],
        }
    }

    fn case(subject: Subject, traffic: Traffic, kind: Kind, flows: u32) -> Case {
        Case::Flow(subject, traffic, kind, flows)
    }

    #[test]
    fn ratios_and_targets_follow_from_the_figures() {
        let lru = case(Subject::Lru, Traffic::TCP4, Kind::Hit, 1);
        let nat = case(Subject::Nat, Traffic::TCP4, Kind::Hit, 1);
        let nat_v6 = case(Subject::Nat, Traffic::ALL[1], Kind::Hit, 1);
        let report = report(&[(lru, 50.0), (nat, 40.0), (nat_v6, 60.0), (Case::Pass, 25.0)]);
        let targets: Vec<_> = report.targets().iter().map(|t| (t.found, t.is_met())).collect();
        assert_eq!(targets, [(0.8, true), (0.5, false), (1.5, false), (40.0, true)]);
        let json = report.json();
        assert_eq!(json["cases"][2]["id"], "nat/tcp6/hit/1");
        assert_eq!(json["cases"][2]["vs_lru"], 1.2);
        assert_eq!(json["cases"][0]["vs_floor"], 5.0);
        assert!(report.text().contains("MISS  pass against lru/tcp4/hit/1: 0.50, at most 0.4"), "{}", report.text());
    }

    #[test]
    fn what_was_not_measured_has_no_ratio_and_no_target() {
        let report = report(&[(case(Subject::Nat, Traffic::TCP4, Kind::New, 1024), 40.0)]);
        assert!(report.json()["cases"][0]["vs_lru"].is_null());
        assert_eq!(report.targets().len(), 1);
    }
}
