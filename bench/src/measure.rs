//! Makes the flows of a case, and measures its packets beside the harness alone.
//!
//! Every round loads all programs anew, for a program's speed depends on where the kernel happens to put it and its maps
//! (seen: 20 % at 100 ns), and takes the modes by turns, for the machine's speed changes by the minute.

use anyhow::{Context as _, Result, ensure};
use aya::Ebpf;

use crate::{
    case::{Case, FLOWS, Kind, Subject, Traffic},
    grayxdp::Grayxdp,
    lru::Lru,
    rig::{self, XDP_TX},
    world::{self, Packet},
};

/// Both tables are made for so many flows.
pub(crate) const MAX_FLOWS: u32 = 1_048_576;
/// Packets of a run; a run over more flows has as many as these.
const PACKETS_MIN: u32 = 1 << 20;
/// Packets of the run before, of which no time is taken.
const WARMING_PACKETS_MIN: u32 = 1 << 16;
/// Packets of a run that makes flows: few beside the table, which must not fill by being measured.
const NEW_PACKETS: u32 = 100_000;
const XDP_PASS: u32 = 2;
/// One packet in so many may be of a flow that the baseline forgot.
const MISSES_ONE_IN: u64 = 1000;

/// Nanoseconds of a packet in one round.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Sample {
    /// The harness taken off.
    net: f64,
    /// The harness alone.
    harness: f64,
}

/// Nanoseconds of a packet over all rounds, the harness taken off.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Net {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
    /// The harness alone.
    pub(crate) harness: f64,
}

impl Net {
    /// `None` without a sample.
    fn of(samples: &[Sample]) -> Option<Self> {
        let nets = sorted(samples.iter().map(|sample| sample.net));
        let alone = sorted(samples.iter().map(|sample| sample.harness));
        Some(Self { median: median(&nets)?, min: *nets.first()?, max: *nets.last()?, harness: median(&alone)? })
    }
}

fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values
}

/// `None` of nothing.
fn median(sorted: &[f64]) -> Option<f64> {
    sorted.get(sorted.len() / 2).copied()
}

/// A case and what it cost.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Measured {
    pub(crate) case: Case,
    pub(crate) net: Net,
}

/// What the rounds so far have found.
#[derive(Default)]
pub(crate) struct Samples(Vec<(Case, Vec<Sample>)>);

impl Samples {
    fn add(&mut self, case: Case, sample: Sample) {
        match self.0.iter_mut().find(|(known, _)| *known == case) {
            Some((_, samples)) => samples.push(sample),
            None => self.0.push((case, vec![sample])),
        }
    }

    /// In the order of subjects.
    pub(crate) fn measured(&self) -> Vec<Measured> {
        let mut measured: Vec<Measured> = self
            .0
            .iter()
            .filter_map(|(case, samples)| Net::of(samples).map(|net| Measured { case: *case, net }))
            .collect();
        measured.sort_by_key(|measured| match measured.case {
            Case::Pass => 0,
            Case::Flow(subject, ..) => 1 + subject as u8,
        });
        measured
    }
}

/// Which cases, and how often.
pub(crate) struct Plan {
    pub(crate) rounds: u32,
    /// Only these cases, or those under these names; all where there is none.
    pub(crate) filters: Vec<String>,
}

impl Plan {
    pub(crate) fn wants(&self, case: Case) -> bool {
        let name = case.to_string();
        let is_in = |filter: &String| {
            name.strip_prefix(filter.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        self.filters.is_empty() || self.filters.iter().any(is_in)
    }

    /// Whether anything of a subject is wanted.
    pub(crate) fn wants_subject(&self, subject: Subject) -> bool {
        let has_cases = |traffic| FLOWS.into_iter().any(|flows| self.wants_any(subject, traffic, flows));
        subject.traffic().iter().copied().any(has_cases) || (subject == Subject::Nat && self.wants(Case::Pass))
    }

    fn wants_any(&self, subject: Subject, traffic: Traffic, flows: u32) -> bool {
        Kind::ALL.into_iter().any(|kind| self.wants(Case::Flow(subject, traffic, kind, flows)))
    }
}

/// A program under test.
pub(crate) enum Rig {
    Lru(Lru),
    Grayxdp(Box<Grayxdp>),
}

impl Rig {
    pub(crate) fn new(subject: Subject) -> Result<Self> {
        let mut rig = match subject {
            Subject::Lru => Self::Lru(Lru::new(MAX_FLOWS)?),
            _ => Self::Grayxdp(Box::new(Grayxdp::new(subject, MAX_FLOWS)?)),
        };
        for program in [rig.program(), "harness"] {
            rig::load(rig.ebpf()?, program)?;
        }
        Ok(rig)
    }

    pub(crate) const fn program(&self) -> &'static str {
        match self {
            Self::Lru(_) => "lru",
            Self::Grayxdp(_) => "grayxdp",
        }
    }

    pub(crate) fn ebpf(&mut self) -> Result<&mut Ebpf> {
        match self {
            Self::Lru(lru) => Ok(&mut lru.ebpf),
            Self::Grayxdp(grayxdp) => grayxdp.ebpf(),
        }
    }

    /// An empty flow table.
    fn forget_flows(&mut self, subject: Subject) -> Result<()> {
        match self {
            // Emptying it takes a system call for each flow.
            Self::Lru(_) => *self = Self::new(subject)?,
            Self::Grayxdp(grayxdp) => {
                let plane = grayxdp.plane()?;
                let empty = vec![0; plane.flow_words().len()];
                plane.set_flow_words(&empty);
            }
        }
        Ok(())
    }

    /// Flows that live: begun, answered, and gone on.
    fn make_flows(&mut self, subject: Subject, traffic: Traffic, flows: u32) -> Result<()> {
        self.forget_flows(subject)?;
        let program = self.program();
        for packet in [Packet::Begin, Packet::Answer, Packet::Confirm] {
            if matches!(packet, Packet::Answer) && !subject.sees_replies() {
                continue;
            }
            let course = world::course(subject, traffic, packet);
            self.checked(flows.into(), |rig| rig::run(rig.ebpf()?, program, &course, flows, None))
                .with_context(|| format!("while flows were made ({packet:?})"))?;
        }
        Ok(())
    }

    /// Runs something that sends so many packets, and sees to it that they were sent on, by flows that are known.
    fn checked<T>(&mut self, packets: u64, run: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let before = self.reading()?;
        let result = run(self)?;
        match self {
            Self::Lru(lru) => {
                let misses = lru.misses()? - before;
                ensure!(misses <= packets / MISSES_ONE_IN, "the baseline forgot the flows of {misses} packets");
            }
            Self::Grayxdp(grayxdp) => grayxdp.check_forwarded(before, packets)?,
        }
        Ok(result)
    }

    fn reading(&mut self) -> Result<u64> {
        match self {
            Self::Lru(lru) => lru.misses(),
            Self::Grayxdp(grayxdp) => grayxdp.forwarded(),
        }
    }

    /// Measures all kinds of packets among so many flows.
    fn measure(
        &mut self,
        plan: &Plan,
        subject: Subject,
        traffic: Traffic,
        flows: u32,
        samples: &mut Samples,
    ) -> Result<()> {
        if !plan.wants_any(subject, traffic, flows) {
            return Ok(());
        }
        self.make_flows(subject, traffic, flows)?;
        for kind in Kind::ALL {
            let case = Case::Flow(subject, traffic, kind, flows);
            if !plan.wants(case) || (kind == Kind::Reply && !subject.sees_replies()) {
                continue;
            }
            let sample = match kind {
                Kind::Hit | Kind::Reply => self.known(subject, traffic, kind, flows),
                Kind::New => self.new_flows(subject, traffic, flows),
            };
            samples.add(case, sample.with_context(|| case.to_string())?);
        }
        Ok(())
    }

    /// Packets of flows that are known.
    fn known(&mut self, subject: Subject, traffic: Traffic, kind: Kind, flows: u32) -> Result<Sample> {
        let mut course = world::course(subject, traffic, Packet::Of(kind));
        (course.is_in_order, course.mask) = (0, flows - 1);
        let packets = flows.max(PACKETS_MIN);
        // A first run brings the flows into the caches that they fit into.
        let warming = packets.min(flows.saturating_mul(2).max(WARMING_PACKETS_MIN));
        let program = self.program();
        self.checked(u64::from(warming) + u64::from(packets), |rig| {
            let ebpf = rig.ebpf()?;
            rig::run(ebpf, program, &course, warming, None)?;
            beside_harness(|program| rig::run(ebpf, program, &course, packets, None), program)
        })
    }

    /// Packets that concern nobody.
    fn stray(&mut self) -> Result<Sample> {
        let mut course = world::course(Subject::Nat, Traffic::TCP4, Packet::Stray);
        // One flow, as in the case that it is compared with.
        course.is_in_order = 0;
        let program = self.program();
        let ebpf = self.ebpf()?;
        let mut run = |program: &str| {
            let action = if program == "harness" { XDP_TX } else { XDP_PASS };
            rig::run(ebpf, program, &course, PACKETS_MIN, Some(action))
        };
        run(program)?;
        beside_harness(run, program)
    }

    /// First packets of flows that nobody has seen, into a table that is put back after every run. A baseline's table that
    /// is full stays so.
    fn new_flows(&mut self, subject: Subject, traffic: Traffic, flows: u32) -> Result<Sample> {
        let mut course = world::course(subject, traffic, Packet::Of(Kind::New));
        let program = self.program();
        let saved = match self {
            Self::Lru(_) => Vec::new(),
            Self::Grayxdp(grayxdp) => grayxdp.plane()?.flow_words(),
        };
        course.position = flows;
        let packets = NEW_PACKETS;
        let mut run = |program: &str| {
            let before = self.reading()?;
            let time = rig::run(self.ebpf()?, program, &course, packets, None)?;
            if program != "harness" {
                course.position += packets;
                if let Self::Grayxdp(grayxdp) = self {
                    grayxdp.check_forwarded(before, packets.into())?;
                    grayxdp.plane()?.set_flow_words(&saved);
                }
            }
            Ok(time)
        };
        run(program)?;
        beside_harness(run, program)
    }
}

/// The harness alone, and then the program behind it.
fn beside_harness(mut run: impl FnMut(&str) -> Result<f64>, program: &str) -> Result<Sample> {
    let harness = run("harness")?;
    Ok(Sample { net: run(program)? - harness, harness })
}

/// An empty program.
pub(crate) fn floor(rounds: u32) -> Result<f64> {
    let mut rig = Rig::new(Subject::Nat)?;
    let ebpf = rig.ebpf()?;
    rig::load(ebpf, "floor")?;
    let course = world::course(Subject::Nat, Traffic::TCP4, Packet::Stray);
    let mut runs = Vec::new();
    for _ in 0..rounds {
        runs.push(rig::run(ebpf, "floor", &course, PACKETS_MIN, Some(XDP_TX))?);
    }
    median(&sorted(runs.into_iter())).context("no round was asked for")
}

/// The programs of all subjects that are wanted.
pub(crate) fn load(plan: &Plan) -> Result<Vec<(Subject, Rig)>> {
    let wanted = Subject::ALL.into_iter().filter(|subject| plan.wants_subject(*subject));
    wanted.map(|subject| Ok((subject, Rig::new(subject)?))).collect()
}

/// Measures every case once.
pub(crate) fn round(plan: &Plan, rigs: &mut [(Subject, Rig)], samples: &mut Samples) -> Result<()> {
    if plan.wants(Case::Pass)
        && let Some((_, rig)) = rigs.iter_mut().find(|(subject, _)| *subject == Subject::Nat)
    {
        samples.add(Case::Pass, rig.stray().context("pass")?);
    }
    for traffic in Traffic::ALL {
        for flows in FLOWS {
            for (subject, rig) in rigs.iter_mut().filter(|(subject, _)| subject.traffic().contains(&traffic)) {
                rig.measure(plan, *subject, traffic, flows, samples)?;
            }
        }
    }
    Ok(())
}
