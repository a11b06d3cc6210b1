//! The end: what happened, and whether it is what was promised.

use serde_json::{Value, json};

use grayxdp_tests::topology::{Family, Version};

use crate::{
    record::Record,
    screen::{BAD, GOOD, Screen},
    share::{CONNECTIONS_MIN, DEVIATIONS_MAX, Share},
};

/// Weights that must have been measured, or the run has not shown anything.
const WEIGHTS_MIN: usize = 4;

#[derive(Debug)]
pub(crate) struct Summary {
    pub(crate) family: Family,
    pub(crate) seconds: f64,
    pub(crate) final_weight: f64,
    pub(crate) final_state: String,
    pub(crate) shares: Vec<Share>,
    pub(crate) record: Record,
}

impl Summary {
    /// Whether all promises held.
    pub(crate) fn is_good(&self) -> bool {
        self.record.failed == 0 && self.record.requests > 0 && self.share_followed() && self.is_complete()
    }

    pub(crate) fn print(&self, screen: &mut Screen) {
        let record = &self.record;
        screen.line("");
        screen.line("  weight   measured v2 share   allowed   new connections");
        for share in self.shares_to_show() {
            let mark = if share.is_within() { screen.paint("ok", GOOD) } else { screen.paint("OFF", BAD) };
            screen.line(&format!(
                "{:6.2} %            {:6.2} %   ± {:5.2}   {:17}   {mark}",
                share.weight_percent, share.share_percent, share.tolerance, share.connections
            ));
        }
        screen.line("");
        screen.line(&format!(
            "{} requests in {:.1} s, {} failed, the slowest took {:.0} ms.",
            record.requests,
            self.seconds,
            record.failed,
            record.slowest.as_secs_f64() * 1000.0
        ));
        for cause in &record.causes {
            screen.line(&format!("  failed: {cause}"));
        }
        screen.line(&format!(
            "{} keep-alive connections ({} requests) stayed where they began: {} on v1, {} on v2.",
            record.keep_alive.len(),
            record.keep_alive_requests,
            record.keep_alive_on(Version::V1),
            record.keep_alive_on(Version::V2)
        ));
        screen.line(&self.share_sentence());
        let verdict = if self.is_good() {
            screen.paint("Released: v2 took over, and no request failed.", GOOD)
        } else {
            screen.paint(&format!("Not as promised: {}.", self.faults().join("; ")), BAD)
        };
        screen.line(&verdict);
    }

    pub(crate) fn json(&self) -> Value {
        let worst = self.worst();
        json!({
            "requests": self.record.requests,
            "failed": self.record.failed,
            "final_weight": self.final_weight,
            "final_v2_share": self.final_share(),
            "max_share_error": worst.map(Share::error),
            "max_share_error_weight": worst.map(|share| share.weight_percent),
            "max_share_error_allowed": worst.map(|share| share.tolerance),
            "share_followed": self.share_followed(),
            "final_state": self.final_state,
            "new_connections": self.record.short.len(),
            "keep_alive_connections": self.record.keep_alive.len(),
            "keep_alive_requests": self.record.keep_alive_requests,
            "slowest_ms": self.record.slowest.as_secs_f64() * 1000.0,
            "seconds": self.seconds,
            "ip_version": if self.family == Family::V4 { 4 } else { 6 },
            "ok": self.is_good(),
        })
    }

    /// Share at the end's weight.
    fn final_share(&self) -> Option<f64> {
        let last = self.shares.last()?;
        (last.weight_percent == self.final_weight).then_some(last.share_percent)
    }

    fn share_followed(&self) -> bool {
        self.shares.len() >= WEIGHTS_MIN && self.shares.iter().all(Share::is_within)
    }

    fn is_complete(&self) -> bool {
        self.final_weight == 100.0 && self.final_share() == Some(100.0)
    }

    fn worst(&self) -> Option<&Share> {
        self.shares.iter().max_by(|a, b| a.error().total_cmp(&b.error()))
    }

    fn share_sentence(&self) -> String {
        let Some(worst) = self.worst() else {
            return "The share could not be measured: too few connections.".to_owned();
        };
        format!(
            "The v2 share was at most {:.2} percentage points off the weight, at {:.2} %; allowed there: {:.2} \
             ({DEVIATIONS_MAX:.0} standard deviations for {} clients). Judged: {} weights with at least \
             {CONNECTIONS_MIN} new connections each; nothing is allowed for lag.",
            worst.error(),
            worst.weight_percent,
            worst.tolerance,
            worst.connections,
            self.shares.len()
        )
    }

    fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if self.record.failed > 0 || self.record.requests == 0 {
            faults.push(format!("{} of {} requests failed", self.record.failed, self.record.requests));
        }
        if self.shares.len() < WEIGHTS_MIN {
            faults.push(format!("only {} weights could be measured (this machine was too busy)", self.shares.len()));
        } else if !self.share_followed() {
            faults.push("the share did not follow the weight".to_owned());
        }
        if !self.is_complete() {
            faults.push(format!("the release ended {} at {:.2} %", self.final_state, self.final_weight));
        }
        faults
    }

    /// Not more than a screen's worth, but every one that is off.
    fn shares_to_show(&self) -> impl Iterator<Item = &Share> {
        let every = self.shares.len().div_ceil(14).max(1);
        let last = self.shares.len().saturating_sub(1);
        let shown =
            move |index: usize, share: &Share| index.is_multiple_of(every) || index == last || !share.is_within();
        self.shares.iter().enumerate().filter(move |(index, share)| shown(*index, share)).map(|(_, share)| share)
    }
}
