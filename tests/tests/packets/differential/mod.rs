//! The packet program against the reference model, with packets of all kinds from a seed.
//!
//! `cargo xtask fuzz` runs many; the tests run some. A difference is shrunk to the smallest packet and the shortest history
//! that still show it, and printed.

mod craft;
mod dice;
mod kept;
mod rig;
mod shrink;
mod step;
mod world;

use std::time::Instant;

use grayxdp::kernel::DataPlane;
use grayxdp_common::verdict::Verdict;

use self::rig::{Difference, Rig};
use crate::fixture::in_network;

/// Steps from one clean start to the next.
const EPISODE: usize = 200;
/// Differences after which a run gives up.
const DIFFERENCES_MAX: u64 = 10;

/// What a run found.
struct Report {
    packets: u64,
    differences: u64,
    verdicts: Vec<(Verdict, u64)>,
}

#[expect(clippy::print_stdout, reason = "whoever runs it reads what differs")]
fn run(name: &str, packets: u64, seed: u64) -> Report {
    let mut report = Report { packets: 0, differences: 0, verdicts: Vec::new() };
    in_network(name, |bpffs| {
        let setup = world::setup(bpffs);
        let plane = DataPlane::open(setup.clone()).expect("the program loads");
        let mut rig = Rig::new(setup, plane);
        let mut episode = 0;
        while report.packets < packets && report.differences < DIFFERENCES_MAX {
            let steps = rig::steps(&rig.setup, seed.wrapping_add(episode << 20), EPISODE);
            let is_leased = !episode.is_multiple_of(4);
            let (ran, difference) = run_episode(&mut rig, &steps, is_leased);
            report.packets += ran;
            if let Some(first) = difference {
                report.differences += 1;
                println!("episode {episode}:\n{}", shrink::told(&mut rig, steps, is_leased, &first));
            }
            episode += 1;
        }
        report.verdicts = rig.verdicts();
        rig.plane.detach_all().expect("the pins can be removed");
    });
    report
}

fn run_episode(rig: &mut Rig, steps: &[step::Step], is_leased: bool) -> (u64, Option<Difference>) {
    let mut run = rig.begin(is_leased);
    let difference = steps.iter().find_map(|step| run.step(step)).or_else(|| run.compare_counts(EPISODE - 1));
    let packets = run.packets;
    run.end();
    (packets, difference)
}

#[test]
fn the_program_does_what_the_model_says_with_20_000_packets() {
    let report = run("model", 20_000, 2);
    assert_eq!(report.differences, 0, "of {} packets", report.packets);
    // Whatever the test network can bring about has been.
    let unreachable = [
        // The network forwards, has no route that forbids, and the table of flows has room.
        Verdict::DroppedForwardingOff,
        Verdict::DroppedRewriteFailed,
    ];
    let met = |verdict: &Verdict| report.verdicts.iter().any(|(met, _)| met == verdict);
    let missing: Vec<_> = Verdict::ALL.into_iter().filter(|one| !unreachable.contains(one) && !met(one)).collect();
    assert_eq!(missing, [], "never met");
}

/// The body of `cargo xtask fuzz`, which gives numbers by the environment.
#[test]
#[expect(clippy::print_stdout, reason = "the command's output")]
#[ignore = "as long as it is told to be: `cargo xtask fuzz`"]
fn fuzz() {
    let number = |name: &str, default: u64| {
        std::env::var(name)
            .map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
    };
    let (packets, seed) = (number("GRAYXDP_FUZZ_PACKETS", 1_000_000), number("GRAYXDP_FUZZ_SEED", 1));
    let began = Instant::now();
    let report = run("fuzz", packets, seed);
    let seconds = began.elapsed().as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    let rate = report.packets as f64 / seconds;
    println!("{:?}", report.verdicts);
    println!("{seconds:.1} s, {rate:.0} packets/s");
    println!("fuzz: packets {}, differences {}, seed {seed}", report.packets, report.differences);
    assert_eq!(report.differences, 0);
}
