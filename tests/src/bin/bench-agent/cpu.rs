//! What a process uses of a CPU, and which one.

use std::{
    fs,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use rustix::{
    process::Pid,
    thread::{CpuSet, sched_getaffinity, sched_setaffinity},
};

/// How often it is looked at.
const EVERY: Duration = Duration::from_millis(10);
/// One turn of the agent's loop fits in so many of these.
const SAMPLES_A_TICK: usize = 5;
const SAMPLES_A_SECOND: usize = 100;

/// CPU time, in milliseconds; medians over seconds.
pub(crate) struct Usage {
    /// Of a second.
    pub(crate) second_ms: f64,
    /// Of the most expensive turn in a second: the one in which the judges look.
    pub(crate) turn_ms: f64,
}

/// CPUs of this machine.
pub(crate) fn count() -> u32 {
    sched_getaffinity(None).map_or(1, |set| set.count())
}

/// Lets all threads of a process run on one CPU only.
pub(crate) fn pin(process: u32, cpu: usize) -> Result<()> {
    for task in tasks(process)? {
        let id = i32::try_from(task).ok().and_then(Pid::from_raw).context("thread id 0")?;
        sched_setaffinity(Some(id), &only(cpu)).context("cannot pin a thread")?;
    }
    Ok(())
}

/// Lets this thread run on one CPU only.
pub(crate) fn pin_this_thread(cpu: usize) -> Result<()> {
    sched_setaffinity(None, &only(cpu)).context("cannot pin a thread")
}

fn only(cpu: usize) -> CpuSet {
    let mut set = CpuSet::new();
    set.set(cpu);
    set
}

/// Watches what a process uses for some time.
pub(crate) fn watch(process: u32, length: Duration) -> Result<Usage> {
    let mut used = Vec::new();
    let began = Instant::now();
    let mut last = nanoseconds(process)?;
    for nth in 1_u32.. {
        let next = EVERY * nth;
        if next > length {
            break;
        }
        sleep(next.saturating_sub(began.elapsed()));
        let now = nanoseconds(process)?;
        used.push(now.saturating_sub(last));
        last = now;
    }
    let seconds: Vec<&[u64]> = used.chunks_exact(SAMPLES_A_SECOND).collect();
    ensure!(!seconds.is_empty(), "too short to be measured");
    let whole = seconds.iter().map(|second| second.iter().sum()).collect();
    let most = |second: &&[u64]| second.windows(SAMPLES_A_TICK).map(|samples| samples.iter().sum()).max().unwrap_or(0);
    Ok(Usage { second_ms: median_ms(whole), turn_ms: median_ms(seconds.iter().map(most).collect()) })
}

fn median_ms(mut values: Vec<u64>) -> f64 {
    values.sort_unstable();
    values.get(values.len() / 2).map_or(f64::NAN, |&ns| ns as f64 / 1e6)
}

/// On a CPU so far, over all threads.
fn nanoseconds(process: u32) -> Result<u64> {
    let mut sum = 0;
    for task in tasks(process)? {
        let path = format!("/proc/{process}/task/{task}/schedstat");
        // One that has just ended adds nothing.
        let Ok(text) = fs::read_to_string(&path) else { continue };
        let first = text.split_whitespace().next().with_context(|| format!("{path} is empty"))?;
        sum += first.parse::<u64>().with_context(|| format!("{path} says {first}"))?;
    }
    Ok(sum)
}

fn tasks(process: u32) -> Result<Vec<u32>> {
    let path = format!("/proc/{process}/task");
    let entries = fs::read_dir(&path).with_context(|| format!("cannot read {path}"))?;
    Ok(entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect())
}
