//! wrk in the client's namespace, and what it prints.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result, ensure};
use grayxdp_tests::{netns::Netns, process};

/// How requests share connections.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Connections {
    /// One for each request.
    New,
    /// Sixteen for all.
    KeepAlive,
}

impl Connections {
    pub(crate) const ALL: [Self; 2] = [Self::New, Self::KeepAlive];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::KeepAlive => "keep-alive",
        }
    }
}

/// What one measurement found.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Figures {
    pub(crate) requests_per_s: f64,
    /// Of HTTP, in 10⁶ bytes.
    pub(crate) mb_per_s: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
}

impl Figures {
    /// The median of each figure by itself.
    pub(crate) fn median(rounds: &[Self]) -> Self {
        let median = |read: fn(&Self) -> f64| {
            let mut values: Vec<f64> = rounds.iter().map(read).collect();
            values.sort_by(f64::total_cmp);
            values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
        };
        Self {
            requests_per_s: median(|figures| figures.requests_per_s),
            mb_per_s: median(|figures| figures.mb_per_s),
            p50_us: median(|figures| figures.p50_us),
            p99_us: median(|figures| figures.p99_us),
        }
    }
}

/// Sends requests for some time; fails if any of them did.
pub(crate) fn measure(
    client: &Netns,
    target: SocketAddr,
    connections: Connections,
    length: Duration,
) -> Result<Figures> {
    let mut command = client.command("wrk")?;
    command.args(["--threads", "1", "--connections", "16", "--latency", "--duration"]);
    command.arg(format!("{}s", length.as_secs()));
    if connections == Connections::New {
        command.args(["--header", "Connection: close"]);
    }
    command.arg(format!("http://{target}/"));
    let printed = process::run(command)?;
    ensure!(!printed.contains("Socket errors") && !printed.contains("Non-2xx"), "requests failed:\n{printed}");
    parse(&printed).with_context(|| format!("wrk printed something else:\n{printed}"))
}

fn parse(printed: &str) -> Option<Figures> {
    let after = |label: &str| {
        let mut words = printed.lines().filter_map(|line| line.trim().strip_prefix(label));
        words.next().map(str::trim)
    };
    Some(Figures {
        requests_per_s: after("Requests/sec:")?.parse().ok()?,
        mb_per_s: megabytes(after("Transfer/sec:")?)?,
        p50_us: microseconds(after("50%")?)?,
        p99_us: microseconds(after("99%")?)?,
    })
}

/// wrk's units are powers of two.
fn megabytes(text: &str) -> Option<f64> {
    let units = [("GB", 1_073.741_824), ("MB", 1.048_576), ("KB", 0.001_024), ("B", 0.000_001)];
    let (number, unit) = units.into_iter().find_map(|(unit, mb)| Some((text.strip_suffix(unit)?, mb)))?;
    Some(number.trim().parse::<f64>().ok()? * unit)
}

fn microseconds(text: &str) -> Option<f64> {
    let units = [("us", 1.0), ("ms", 1e3), ("s", 1e6)];
    let (number, unit) = units.into_iter().find_map(|(unit, us)| Some((text.strip_suffix(unit)?, us)))?;
    Some(number.parse::<f64>().ok()? * unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_figures_are_found_in_what_wrk_prints() {
        let printed = "  Latency Distribution\n     50%  351.00us\n     75%  400.00us\n     99%    1.25ms\n\
                       Requests/sec:  41234.56\nTransfer/sec:      9.00MB\n";
        let expected = Figures { requests_per_s: 41_234.56, mb_per_s: 9.0 * 1.048_576, p50_us: 351.0, p99_us: 1_250.0 };
        assert_eq!(parse(printed), Some(expected));
        assert_eq!(parse("unable to connect"), None);
    }

    #[test]
    fn a_median_is_taken_figure_by_figure() {
        let figures = |n: f64| Figures { requests_per_s: n, mb_per_s: n, p50_us: -n, p99_us: n };
        assert_eq!(Figures::median(&[figures(3.0), figures(1.0), figures(2.0)]), figures(2.0));
    }
}
