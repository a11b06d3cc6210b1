//! A trace without a kernel: what is switched on and off, what comes out, what is left out.

use std::net::SocketAddr;

use grayxdp_common::layout::NO_SERVICE;

use super::*;
use crate::agent::fake_kernel::{self, FakeKernel};

/// The n-th packet of a test: a client's SYN that is sent to a backend of service 0, or dropped where n is odd.
pub(in crate::agent) fn event(nth: u32) -> TraceEvent {
    let bytes = packet::tests::syn();
    let mut head = [0; grayxdp_common::limits::TRACE_HEAD_LEN];
    head[..bytes.len()].copy_from_slice(&bytes);
    let len = u32::try_from(bytes.len()).expect("short");
    let verdict = if nth.is_multiple_of(2) { Verdict::ForwardedOtherInterface } else { Verdict::DroppedNoRoute };
    TraceEvent {
        time_ns: crate::kernel::now_ns(),
        interface: 4,
        verdict: verdict.index(),
        service: if nth % 4 == 3 { NO_SERVICE } else { 0 },
        backend: 1,
        packet_len: len,
        head_len: len,
        reserved: 0,
        head,
    }
}

fn wanted(one_in: Option<u32>) -> Wanted {
    Wanted { service: None, one_in, drops: false }
}

struct Scene {
    kernel: FakeKernel,
    tracer: Tracer,
    services: Vec<ServiceConfig>,
    start: Instant,
}

impl Scene {
    fn new() -> Self {
        let services = fake_kernel::config(std::path::Path::new("/tmp")).services;
        let kernel = FakeKernel::with_pinned(&[None, None]);
        Self { kernel, tracer: Tracer::default(), services, start: Instant::now() }
    }

    fn start(&mut self, wanted: Wanted) -> Result<mpsc::Receiver<Bytes>, TraceError> {
        self.tracer.start(&mut self.kernel, &self.services, wanted, self.start)
    }

    fn turn(&mut self, milliseconds: u64) {
        let now = self.start + Duration::from_millis(milliseconds);
        self.tracer.turn(&mut self.kernel, &self.services, now);
    }

    fn events(&self, count: u32) {
        self.kernel.events.borrow_mut().extend((0..count).map(event));
    }
}

fn lines(receiver: &mut mpsc::Receiver<Bytes>) -> Vec<TraceLine> {
    let mut lines = Vec::new();
    while let Ok(chunk) = receiver.try_recv() {
        let text = String::from_utf8(chunk.to_vec()).expect("text");
        lines.extend(text.lines().map(|line| serde_json::from_str::<TraceLine>(line).expect("a line")));
    }
    lines
}

fn packets(lines: &[TraceLine]) -> Vec<&TracedPacket> {
    lines.iter().filter_map(|line| if let TraceLine::Packet(packet) = line { Some(&**packet) } else { None }).collect()
}

#[test]
fn tracing_is_on_only_while_somebody_reads() {
    let mut scene = Scene::new();
    let receiver = scene.start(wanted(Some(7))).expect("started");
    assert_eq!(scene.kernel.trace, (7, None));
    assert!(matches!(scene.start(wanted(Some(1))), Err(TraceError::Busy)));
    for turn in 1..=3 {
        let before = scene.kernel.trace_orders;
        scene.turn(turn * 100);
        assert_eq!((scene.kernel.trace, scene.kernel.trace_orders), ((7, None), before + 1), "it is prolonged");
    }
    drop(receiver);
    scene.turn(400);
    assert_eq!(scene.kernel.trace, (0, None));
    let before = scene.kernel.trace_orders;
    scene.turn(500);
    assert_eq!(scene.kernel.trace_orders, before, "until it has ended");
    let receiver = scene.start(wanted(Some(1))).expect("again");
    drop(receiver);
    drop(scene.start(wanted(Some(2))).expect("the former reader is gone"));
    scene.tracer.stop(&mut scene.kernel);
    assert_eq!(scene.kernel.trace, (0, None));
}

#[test]
fn a_rate_of_its_own_begins_after_a_first_look() {
    let mut scene = Scene::new();
    let mut receiver = scene.start(wanted(None)).expect("started");
    assert_eq!(scene.kernel.trace, (0, None));
    scene.turn(50);
    assert_eq!(scene.kernel.trace, (0, None));
    scene.turn(100);
    assert_eq!(scene.kernel.trace, (1, None));
    assert_eq!(lines(&mut receiver), [TraceLine::Sampling { one_in: 1 }]);
}

#[test]
fn a_packet_is_shown_with_its_way_and_its_verdict() {
    let mut scene = Scene::new();
    let mut receiver = scene.start(wanted(Some(1))).expect("started");
    scene.events(2);
    scene.turn(100);
    let lines = lines(&mut receiver);
    let [sent, dropped] = packets(&lines)[..] else { panic!("{lines:?}") };
    assert_eq!((sent.action.as_str(), sent.reason.as_str()), ("forward", "other_interface"));
    assert_eq!((dropped.action.as_str(), dropped.reason.as_str()), ("drop", "no_route"));
    assert_eq!((sent.interface.as_str(), sent.service.as_deref()), ("eth4", Some("web")));
    assert_eq!((sent.source, sent.source_port), (Some([198, 51, 100, 7].into()), Some(40_000)));
    assert_eq!(sent.backend, Some(SocketAddr::from(([10, 0, 1, 10], 8080))));
    assert_eq!((sent.vip, sent.length), (Some(SocketAddr::from(([203, 0, 113, 10], 80))), 54));
    assert_eq!(sent.head.len(), 108);
    let time = humantime::parse_rfc3339(&sent.time).expect("a time");
    let age = SystemTime::now().duration_since(time).unwrap_or_default();
    assert!(age < Duration::from_secs(60), "{age:?}");
}

#[test]
fn filters_are_kept_and_the_rest_is_not_counted_as_left_out() {
    for (service, drops, count) in [(None, true, 20), (Some(0), false, 30), (Some(0), true, 10), (Some(1), false, 0)] {
        let mut scene = Scene::new();
        let wanted = Wanted { service, one_in: Some(1), drops };
        let mut receiver = scene.start(wanted).expect("started");
        assert_eq!(scene.kernel.trace, (1, service));
        scene.events(40);
        scene.turn(100);
        let lines = lines(&mut receiver);
        assert_eq!((packets(&lines).len(), lines.len()), (count, count + 1), "{wanted:?}");
    }
}

#[test]
fn a_service_with_a_canary_port_is_picked_by_the_agent() {
    let mut scene = Scene::new();
    scene.services[0].canary_port = Some(8081);
    let _receiver = scene.start(Wanted { service: Some(0), ..wanted(Some(1)) }).expect("started");
    assert_eq!(scene.kernel.trace, (1, None));
}

#[test]
fn what_is_too_much_is_left_out_and_counted_once() {
    let mut scene = Scene::new();
    let mut receiver = scene.start(wanted(Some(1))).expect("started");
    scene.events(250);
    scene.turn(100);
    let first = lines(&mut receiver);
    assert_eq!((packets(&first).len(), first.last()), (SHOWN_PER_TURN, Some(&TraceLine::LeftOut { packets: 50 })));
    scene.turn(200);
    assert_eq!(lines(&mut receiver), []);
    // A reader that does not read: one chunk a turn waits, then all else is left out.
    for turn in 0..20 {
        scene.events(10);
        scene.turn(300 + turn);
    }
    let waiting = lines(&mut receiver);
    assert_eq!(packets(&waiting).len(), WAITING_MAX * 10);
    scene.events(1);
    scene.turn(400);
    let after = lines(&mut receiver);
    assert_eq!(after.last(), Some(&TraceLine::LeftOut { packets: 40 }));
}
