//! What a tick costs.

use std::{net::SocketAddr, time::Duration};

use anyhow::Result;
use grayxdp::decide::{
    judge::{Judge, JudgeConfig, Tick},
    signals::{CLIENT_GROUPS, Counts, GroupCounts, Signals},
};
use grayxdp_common::weight::Weight;
use rustix::time::{ClockId, clock_gettime};

const SERVICES: u32 = 100;
const BACKENDS: u8 = 50;
const ROUNDS: u32 = 101;

/// The median of milliseconds of CPU for a tick of 100 services with 50 backends of v2 each, all signals busy, the judgement
/// with all its figures.
pub(crate) fn tick_ms() -> Result<f64> {
    let config = JudgeConfig {
        peeks: true,
        max_error_rate: Some(0.5),
        max_p99: Some(Duration::from_secs(1)),
        ..JudgeConfig::default()
    };
    let mut judges: Vec<Judge> = (0..SERVICES).map(|_| Judge::new(config)).collect();
    let weight = Weight::from_hundredths(1000).unwrap_or_default();
    let mut rounds: Vec<f64> = (0..ROUNDS)
        .map(|round| {
            let (v1, v2) = (busy(900, round), busy(100, round + 1));
            let backends: Vec<(SocketAddr, Counts)> =
                (1..=BACKENDS).map(|last| (([10, 0, 0, last], 80).into(), v2.counts)).collect();
            let tick = Tick {
                elapsed: Duration::from_secs(1),
                weight: (weight, weight),
                shards: (weight, weight),
                v1: &v1,
                v2: &v2,
                backends: &backends,
            };
            let before = cpu_ms();
            for judge in &mut judges {
                std::hint::black_box(judge.tick(&tick));
            }
            cpu_ms() - before
        })
        .collect();
    rounds.sort_by(f64::total_cmp);
    Ok(rounds[rounds.len() / 2])
}

fn busy(flows: u64, round: u32) -> Signals {
    let bad = flows / 100 + u64::from(round % 3);
    let mut signals = Signals {
        counts: Counts {
            flows,
            refused: bad,
            responses: flows,
            watched_segments: 10 * flows,
            zero_windows: bad,
            retransmissions: bad,
            answers_good: flows,
            answers_server_error: bad,
            ..Counts::default()
        },
        groups: vec![GroupCounts { flows: flows / 256 + 1, errors: bad / 4 }; CLIENT_GROUPS],
        ..Signals::default()
    };
    for part in 0..64u32 {
        let us = 200 * (part + 1) * (part + 1);
        signals.handshake.record_us(us, flows / 64 + 1);
        signals.first_response.record_us(us, flows / 64 + 1);
        signals.later_response.record_us(us, flows / 64 + 1);
    }
    signals
}

fn cpu_ms() -> f64 {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    now.tv_sec as f64 * 1e3 + now.tv_nsec as f64 / 1e6
}
