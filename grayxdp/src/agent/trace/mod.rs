//! Tracing for `grayxdp trace`: the loop takes the packet program's events, makes lines of them, and hands them to the one
//! reader that there may be. When that is gone, tracing is switched off in the same turn.
//!
//! What holds: the packet program samples only while somebody reads, and for some seconds more where the agent is killed
//! meanwhile, for each turn prolongs what is traced; a turn of the loop makes lines of at most
//! [`SHOWN_PER_TURN`] packets, whatever comes.

mod packet;
mod sampling;

use std::{
    collections::HashMap,
    fmt,
    time::{Duration, Instant, SystemTime},
};

use grayxdp_common::{layout::TraceEvent, verdict::Verdict};
use hyper::body::Bytes;
use tokio::sync::mpsc::{self, error::TrySendError};

use self::sampling::Sampling;
use super::{
    insight::Insight,
    shapes::{TraceLine, TracedPacket},
};
use crate::{
    config::ServiceConfig,
    kernel::{KernelError, Traced},
};

/// Packets that one turn makes lines of: with ten turns a second, 2,000 a second.
const SHOWN_PER_TURN: usize = 200;
/// Events that one turn takes: more than the ring has room for.
const TAKEN_PER_TURN: usize = 8192;
/// Turns' lines that may wait for a slow reader.
const WAITING_MAX: usize = 16;
/// How often an automatic rate follows the traffic.
const ADAPT_EVERY: Duration = Duration::from_secs(1);

/// Where events come from.
pub(super) trait TraceSource {
    /// The next one, if there is one.
    fn next_event(&mut self) -> Option<TraceEvent>;
}

/// What somebody wants to see.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Wanted {
    /// Index of a service; `None`: all.
    pub(super) service: Option<usize>,
    /// `None`: as the traffic allows.
    pub(super) one_in: Option<u32>,
    /// Only what is dropped.
    pub(super) drops: bool,
}

/// Why nobody can trace now.
#[derive(Debug, thiserror::Error)]
pub(super) enum TraceError {
    #[error("somebody is tracing already, and there can be one trace at a time: end that `grayxdp trace` first")]
    Busy,
    #[error(transparent)]
    Kernel(#[from] KernelError),
}

/// The trace that there may be.
#[derive(Default)]
pub(super) struct Tracer {
    source: Option<Box<dyn TraceSource>>,
    session: Option<Session>,
}

impl fmt::Debug for Tracer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tracer").field("session", &self.session).finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Session {
    wanted: Wanted,
    sampling: Sampling,
    out: mpsc::Sender<Bytes>,
    /// Names of interfaces, by index.
    interfaces: HashMap<u32, String>,
    left_out: u64,
}

impl Tracer {
    /// Begins a trace. Its lines come out of the receiver; who drops that ends it.
    pub(super) fn start(
        &mut self,
        kernel: &mut (impl Insight + ?Sized),
        services: &[ServiceConfig],
        wanted: Wanted,
        now: Instant,
    ) -> Result<mpsc::Receiver<Bytes>, TraceError> {
        self.end_if_unread(kernel);
        if self.session.is_some() {
            return Err(TraceError::Busy);
        }
        if self.source.is_none() {
            self.source = kernel.trace_source();
        }
        let (out, lines) = mpsc::channel(WAITING_MAX);
        let mut session = Session {
            wanted,
            sampling: Sampling::new(wanted.one_in, now, packets(kernel)?),
            out,
            interfaces: HashMap::new(),
            left_out: 0,
        };
        // What an earlier trace left in the ring.
        while self.source.as_mut().is_some_and(|source| source.next_event().is_some()) {}
        if let Some(one_in) = wanted.one_in {
            session.switch(kernel, services, one_in)?;
        }
        self.session = Some(session);
        Ok(lines)
    }

    /// One turn of the loop.
    pub(super) fn turn(&mut self, kernel: &mut (impl Insight + ?Sized), services: &[ServiceConfig], now: Instant) {
        self.end_if_unread(kernel);
        let Some(session) = &mut self.session else { return };
        // The packet program ends what is not prolonged.
        let done = session.adapt(kernel, services, now).and_then(|()| session.order(kernel, services));
        if let Err(error) = done {
            tracing::warn!("trace_rate_not_set {error}");
        }
        if let Some(source) = &mut self.source {
            session.read(source.as_mut(), kernel, services);
        }
    }

    /// Ends the trace, if there is one.
    pub(super) fn stop(&mut self, kernel: &mut (impl Insight + ?Sized)) {
        if self.session.take().is_some()
            && let Err(error) = kernel.set_trace(0, None)
        {
            tracing::warn!("trace_not_ended {error}");
        }
    }

    fn end_if_unread(&mut self, kernel: &mut (impl Insight + ?Sized)) {
        if self.session.as_ref().is_some_and(|session| session.out.is_closed()) {
            self.stop(kernel);
        }
    }
}

/// Packets that ended in any way.
fn packets(kernel: &(impl Insight + ?Sized)) -> Result<u64, KernelError> {
    Ok(kernel.verdicts()?.iter().fold(0, |sum: u64, (_, count)| sum.wrapping_add(*count)))
}

impl Session {
    /// An automatic rate follows the traffic.
    fn adapt(
        &mut self,
        kernel: &mut (impl Insight + ?Sized),
        services: &[ServiceConfig],
        now: Instant,
    ) -> Result<(), KernelError> {
        if !self.sampling.is_due(now) {
            return Ok(());
        }
        let count = packets(kernel)?;
        match self.sampling.next(now, count) {
            Some(one_in) => self.switch(kernel, services, one_in),
            None => Ok(()),
        }
    }

    /// Tells the packet program what to trace from now on, for a while.
    fn order(&self, kernel: &mut (impl Insight + ?Sized), services: &[ServiceConfig]) -> Result<(), KernelError> {
        let Some(one_in) = self.sampling.one_in() else { return Ok(()) };
        // A canary port has a number of its own; the packet program picks by one number only.
        let has_canary = |index: &usize| services.get(*index).is_some_and(|service| service.canary_port.is_some());
        kernel.set_trace(one_in, self.wanted.service.filter(|index| !has_canary(index)))
    }

    fn switch(
        &mut self,
        kernel: &mut (impl Insight + ?Sized),
        services: &[ServiceConfig],
        one_in: u32,
    ) -> Result<(), KernelError> {
        self.order(kernel, services)?;
        self.send(&[TraceLine::Sampling { one_in }], 0);
        Ok(())
    }

    fn read(&mut self, source: &mut dyn TraceSource, kernel: &(impl Insight + ?Sized), services: &[ServiceConfig]) {
        let clock = Clock::now();
        let mut lines = Vec::new();
        let mut packets = 0;
        for _ in 0..TAKEN_PER_TURN {
            let Some(event) = source.next_event() else { break };
            let traced = kernel.traced(&event);
            let verdict = Verdict::ALL.into_iter().find(|verdict| verdict.index() == event.verdict);
            if !self.is_wanted(&traced, verdict) {
                continue;
            }
            if packets == SHOWN_PER_TURN {
                self.left_out += 1;
                continue;
            }
            packets += 1;
            let packet = self.line(&event, traced, verdict, kernel, services, &clock);
            lines.push(TraceLine::Packet(Box::new(packet)));
        }
        if self.left_out > 0 {
            lines.push(TraceLine::LeftOut { packets: self.left_out });
        }
        if !lines.is_empty() {
            self.send(&lines, u64::try_from(packets).unwrap_or(0));
        }
    }

    fn is_wanted(&self, traced: &Traced, verdict: Option<Verdict>) -> bool {
        let is_drop = verdict.is_some_and(|verdict| verdict.action() == grayxdp_common::verdict::Action::Drop);
        (is_drop || !self.wanted.drops) && (self.wanted.service.is_none() || self.wanted.service == traced.service)
    }

    fn line(
        &mut self,
        event: &TraceEvent,
        traced: Traced,
        verdict: Option<Verdict>,
        kernel: &(impl Insight + ?Sized),
        services: &[ServiceConfig],
        clock: &Clock,
    ) -> TracedPacket {
        let len = usize::try_from(event.head_len).unwrap_or(0).min(event.head.len());
        let bytes = event.head.get(..len).unwrap_or_default();
        let head = packet::read(bytes);
        let service = traced.service.and_then(|index| services.get(index));
        let port = |service: &ServiceConfig| match service.canary_port {
            Some(port) if traced.by_canary_port => port,
            _ => service.port,
        };
        let interface = self.interfaces.entry(event.interface).or_insert_with(|| {
            kernel.interface_name(event.interface).unwrap_or_else(|| format!("interface {}", event.interface))
        });
        TracedPacket {
            time: humantime::format_rfc3339_nanos(clock.moment(event.time_ns)).to_string(),
            interface: interface.clone(),
            service: service.map(|service| service.name.clone()),
            vip: service.map(|service| std::net::SocketAddr::new(service.vip, port(service))),
            backend: traced.backend,
            source: head.source,
            source_port: head.source_port,
            destination: head.destination,
            destination_port: head.destination_port,
            protocol: head.protocol,
            tcp_flags: head.tcp_flags,
            action: verdict.map_or("unknown", |verdict| verdict.action().name()).to_owned(),
            reason: verdict.map_or_else(|| format!("verdict_{}", event.verdict), |verdict| verdict.reason().to_owned()),
            length: event.packet_len,
            head: bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
        }
    }

    /// Hands lines over; those that a slow reader has no room for are counted.
    fn send(&mut self, lines: &[TraceLine], packets: u64) {
        let mut text = Vec::new();
        for line in lines {
            // Plain texts and numbers can always be written to memory.
            if serde_json::to_writer(&mut text, line).is_ok() {
                text.push(b'\n');
            }
        }
        match self.out.try_send(text.into()) {
            Ok(()) if lines.iter().any(|line| matches!(line, TraceLine::LeftOut { .. })) => self.left_out = 0,
            Ok(()) => {}
            Err(TrySendError::Full(_)) => self.left_out += packets,
            // The next turn ends it.
            Err(TrySendError::Closed(_)) => {}
        }
    }
}

/// The kernel's clock and the calendar's at one moment.
struct Clock {
    monotonic_ns: u64,
    calendar: SystemTime,
}

impl Clock {
    fn now() -> Self {
        Self { monotonic_ns: crate::kernel::now_ns(), calendar: SystemTime::now() }
    }

    fn moment(&self, monotonic_ns: u64) -> SystemTime {
        let difference = Duration::from_nanos(self.monotonic_ns.abs_diff(monotonic_ns));
        let moment = if monotonic_ns <= self.monotonic_ns {
            self.calendar.checked_sub(difference)
        } else {
            self.calendar.checked_add(difference)
        };
        moment.unwrap_or(self.calendar)
    }
}

#[cfg(test)]
pub(super) mod tests;
