//! The command line; no I/O.

use std::time::Duration;

use clap::Parser;
use grayxdp_tests::topology::Family;

use crate::fault::FaultKind;

/// Releases a real HTTP server from v1 to v2 in network namespaces of this machine, under real traffic.
#[derive(Parser, Debug)]
#[command(
    name = "demo",
    after_help = "Exit codes: 0 no request failed and the share followed the weight (with --fault: it was rolled back by itself); 1 \
                  otherwise; 2 usage; 130 interrupted."
)]
pub(crate) struct Args {
    /// Clients, VIP and backends on IPv6.
    #[arg(long)]
    ipv6: bool,
    /// Print one JSON object as the last line.
    #[arg(long)]
    pub(crate) json: bool,
    /// How long the release takes from 0 to 100 %.
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u32).range(5..=600))]
    seconds: u32,
    /// v2 goes bad at 20 %, and the release has to roll back by itself.
    #[arg(long, value_name = "KIND")]
    pub(crate) fault: Option<FaultKind>,
}

/// The linear schedule of the release.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Ramp {
    /// Percentage points at a time.
    pub(crate) step: u32,
    /// Time between two steps.
    pub(crate) every: Duration,
}

impl Args {
    pub(crate) fn family(&self) -> Family {
        if self.ipv6 { Family::V6 } else { Family::V4 }
    }

    pub(crate) fn release_time(&self) -> Duration {
        Duration::from_secs(self.seconds.into())
    }

    /// The smallest step that still leaves each weight a second, for enough connections to measure the share by.
    pub(crate) fn ramp(&self) -> Ramp {
        let ramps = [2, 4, 5, 10, 20, 25].map(|step| Ramp { step, every: self.release_time() * step / 100 });
        ramps.into_iter().find(|ramp| ramp.every >= Duration::from_secs(1)).unwrap_or(ramps[ramps.len() - 1])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_ramp_ends_at_100_percent_in_time() {
        for (seconds, step, every_ms) in [(5, 20, 1000), (10, 10, 1000), (30, 4, 1200), (60, 2, 1200), (600, 2, 12_000)]
        {
            let args = Args { ipv6: false, json: false, seconds, fault: None };
            assert_eq!(args.ramp(), Ramp { step, every: Duration::from_millis(every_ms) }, "{seconds} s");
        }
    }

    #[test]
    fn the_command_line_is_sound() {
        use clap::CommandFactory;
        Args::command().debug_assert();
    }
}
