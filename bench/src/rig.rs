//! Runs a program of a loaded object over a course, and says how long a packet took.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use aya::{
    Ebpf,
    maps::Array,
    programs::{TestRun as _, TestRunOptions, Xdp},
};
use grayxdp_bench_ebpf::course::{Course, FRAME_LEN};

/// The course as a map's value.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Value(Course);

// SAFETY: `repr(C)`, integers only, and no padding: its size is the sum of theirs.
unsafe impl aya::Pod for Value {}

/// A run is cut into so many, for the kernel says whole nanoseconds.
const CUTS: u32 = 8;

/// The action of a packet that is sent back out.
pub(crate) const XDP_TX: u32 = 3;

/// Loads a program of an object; returns the instructions that the verifier looked at.
pub(crate) fn load(ebpf: &mut Ebpf, program: &str) -> Result<u32> {
    let program = xdp(ebpf, program)?;
    if program.fd().is_err() {
        program.load().context("the kernel refuses the program")?;
    }
    program.info()?.verified_instruction_count().context("the kernel does not count instructions")
}

pub(crate) fn xdp<'a>(ebpf: &'a mut Ebpf, program: &str) -> Result<&'a mut Xdp> {
    let found = ebpf.program_mut(program).with_context(|| format!("the object has no program {program}"))?;
    Ok(found.try_into()?)
}

/// Sets the course, and runs the program over so many packets. Returns the time of one packet in nanoseconds. The last
/// packet must end with the action, if one is given.
pub(crate) fn run(ebpf: &mut Ebpf, program: &str, course: &Course, packets: u32, action: Option<u32>) -> Result<f64> {
    let mut map: Array<_, Value> = Array::try_from(ebpf.map_mut("COURSE").context("the object has no map COURSE")?)?;
    map.set(0, Value(*course), 0)?;
    let program = xdp(ebpf, program)?;
    let repeat = packets.div_ceil(CUTS);
    let mut total = Duration::ZERO;
    let cuts = packets.div_ceil(repeat);
    for _ in 0..cuts {
        let frame = [0; FRAME_LEN];
        let mut out = [0; 512];
        let options = TestRunOptions {
            data_in: Some(&frame),
            data_out: Some(&mut out),
            repeat: repeat.min(packets),
            ..TestRunOptions::default()
        };
        let result = program.test_run(options)?;
        if let Some(action) = action {
            ensure!(result.return_value == action, "the last packet ended with action {}", result.return_value);
        }
        total += result.duration;
    }
    Ok(nanoseconds(total) / f64::from(cuts))
}

#[expect(clippy::cast_precision_loss, reason = "some thousand nanoseconds")]
fn nanoseconds(time: Duration) -> f64 {
    time.as_nanos() as f64
}
