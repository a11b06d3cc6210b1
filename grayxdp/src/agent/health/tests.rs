//! The whole of it on loopback: real listeners, short periods, and no waiting but for events.

use std::{
    future::IntoFuture as _,
    net::Ipv4Addr,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
};

use tokio::net::{TcpListener, TcpSocket};

use super::*;
use crate::{
    config::{Check, StatusRange},
    decide::health::Rules,
};

const EVERY: Duration = Duration::from_millis(20);
/// A test that waits for longer has failed.
const PATIENCE: Duration = Duration::from_secs(20);

fn check(check: Check) -> Arc<HealthCheck> {
    Arc::new(HealthCheck { check, port: None, timeout: Duration::from_secs(5), rules: Rules::new(EVERY, 2, 3) })
}

fn target(backend: SocketAddr, version: Version) -> Target {
    Target { service: 7, version, backend, check: check(Check::Tcp), initial: Health::Live }
}

async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let address = listener.local_addr().expect("bound");
    (listener, address)
}

/// A port that stays taken though nobody listens on it, as long as the socket lives.
fn nobody() -> (TcpSocket, SocketAddr) {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind("127.0.0.1:0".parse().expect("an address")).expect("a port is free");
    let address = socket.local_addr().expect("bound");
    (socket, address)
}

async fn next(events: &mut mpsc::Receiver<Event>) -> Event {
    tokio::time::timeout(PATIENCE, events.recv()).await.expect("in time").expect("the checks go on")
}

/// A backend over HTTP that says of itself whether it is well, and counts what it was asked.
struct Backend {
    address: SocketAddr,
    is_well: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
}

impl Backend {
    async fn start() -> Self {
        let (listener, address) = listener().await;
        let (is_well, asked) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicUsize::new(0)));
        let answer = {
            let (is_well, asked) = (Arc::clone(&is_well), Arc::clone(&asked));
            move || async move {
                asked.fetch_add(1, Ordering::SeqCst);
                let is_well = is_well.load(Ordering::SeqCst);
                if is_well { hyper::StatusCode::NO_CONTENT } else { hyper::StatusCode::SERVICE_UNAVAILABLE }
            }
        };
        let router = axum::Router::new().route("/live", axum::routing::get(answer));
        tokio::spawn(axum::serve(listener, router).into_future());
        Self { address, is_well, asked }
    }

    fn target(&self) -> Target {
        let expect = StatusRange::parse("204").expect("a status");
        let check = check(Check::Http { path: "/live".to_owned(), host: None, expect });
        Target { check, ..target(self.address, Version::V2) }
    }
}

#[tokio::test]
async fn a_backend_is_ejected_and_comes_back() {
    let backend = Backend::start().await;
    let (_checker, mut events) = start(vec![backend.target()]);
    while backend.asked.load(Ordering::SeqCst) < 3 {
        tokio::time::sleep(EVERY).await;
    }
    assert!(events.try_recv().is_err(), "it was live, and is");
    backend.is_well.store(false, Ordering::SeqCst);
    let expected = Event {
        service: 7,
        version: Version::V2,
        backend: backend.address,
        health: Health::Down,
        reason: "HTTP 503".to_owned(),
        pool: PoolHealth { live: 0, all: 1 },
    };
    assert_eq!(next(&mut events).await, expected);
    let asked = backend.asked.load(Ordering::SeqCst);
    backend.is_well.store(true, Ordering::SeqCst);
    let pool = PoolHealth { live: 1, all: 1 };
    assert_eq!(
        next(&mut events).await,
        Event { health: Health::Live, reason: "HTTP 204".to_owned(), pool, ..expected }
    );
    assert!(backend.asked.load(Ordering::SeqCst) >= asked + 2, "not before two have passed");
}

#[tokio::test]
async fn whoever_is_gone_from_the_start_is_ejected_after_as_many_failures_as_it_takes() {
    let (_socket, address) = nobody();
    let began = Instant::now();
    let (_checker, mut events) = start(vec![target(address, Version::V1)]);
    let event = next(&mut events).await;
    assert_eq!((event.health, event.reason.as_str()), (Health::Down, "connect refused"));
    assert!(began.elapsed() >= EVERY, "three probes, each half a period at least after the one before");
}

#[tokio::test]
async fn each_version_is_counted_for_itself_and_the_last_one_down_is_said_to_be_so() {
    let (_open, well) = listener().await;
    let ((_first, gone_v1), (_second, gone_v2)) = (nobody(), nobody());
    let targets = [(well, Version::V1), (gone_v1, Version::V1), (gone_v2, Version::V2)];
    let (_checker, mut events) = start(targets.map(|(backend, version)| target(backend, version)).to_vec());
    let mut pools = [next(&mut events).await, next(&mut events).await].map(|event| (event.version, event.pool));
    pools.sort_by_key(|(version, _)| *version);
    let [(_, of_v1), (_, of_v2)] = pools;
    assert_eq!((of_v1, of_v1.is_all_down()), (PoolHealth { live: 1, all: 2 }, false));
    assert_eq!((of_v2, of_v2.is_all_down()), (PoolHealth { live: 0, all: 1 }, true));
}

#[tokio::test]
async fn who_stays_keeps_its_state_and_who_left_is_heard_of_no_more() {
    let backend = Backend::start().await;
    backend.is_well.store(false, Ordering::SeqCst);
    let (checker, mut events) = start(vec![backend.target()]);
    assert_eq!(next(&mut events).await.health, Health::Down);

    // It stays, in the other version, and another one joins: no event but that it is well again.
    let other = Backend::start().await;
    let moved = Target { version: Version::V1, ..backend.target() };
    checker.set_targets(vec![moved, other.target()]);
    while other.asked.load(Ordering::SeqCst) < 2 {
        tokio::time::sleep(EVERY).await;
    }
    assert!(events.try_recv().is_err());
    backend.is_well.store(true, Ordering::SeqCst);
    let event = next(&mut events).await;
    assert_eq!((event.backend, event.health, event.version), (backend.address, Health::Live, Version::V1));

    // Both leave, and one that was ejected elsewhere joins.
    backend.is_well.store(false, Ordering::SeqCst);
    let (_open, third) = listener().await;
    checker.set_targets(vec![Target { initial: Health::Down, ..target(third, Version::V1) }]);
    let event = next(&mut events).await;
    assert_eq!((event.backend, event.health, event.reason.as_str()), (third, Health::Live, "connected"));
    assert_eq!(event.pool, PoolHealth { live: 1, all: 1 });
}

/// Accepts and never answers; tells how many connections are open.
async fn silent() -> (SocketAddr, Arc<AtomicUsize>) {
    let (listener, address) = listener().await;
    let open = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&open);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            counter.fetch_add(1, Ordering::SeqCst);
            let counter = Arc::clone(&counter);
            tokio::spawn(async move {
                let mut stream = stream;
                // Until the other side closes.
                let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
                counter.fetch_sub(1, Ordering::SeqCst);
            });
        }
    });
    (address, open)
}

fn http_target(backend: SocketAddr, timeout: Duration) -> Target {
    let expect = StatusRange::parse("200").expect("a status");
    let check = check(Check::Http { path: "/".to_owned(), host: None, expect });
    Target { check: Arc::new(HealthCheck { timeout, ..HealthCheck::clone(&check) }), ..target(backend, Version::V1) }
}

/// Waits until a number of connections are open.
async fn until_open(open: &AtomicUsize, expected: usize) {
    let wait = async {
        while open.load(Ordering::SeqCst) != expected {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.expect("in time");
}

#[tokio::test]
async fn a_probe_of_a_backend_that_leaves_is_called_off_at_once() {
    let (address, open) = silent().await;
    let (checker, mut events) = start(vec![http_target(address, PATIENCE * 2)]);
    until_open(&open, 1).await;
    checker.set_targets(Vec::new());
    until_open(&open, 0).await;
    assert!(events.try_recv().is_err());
    checker.set_targets(vec![http_target(address, PATIENCE * 2)]);
    until_open(&open, 1).await;
    drop(checker);
    until_open(&open, 0).await;
    assert_eq!(events.recv().await, None, "the checks have ended");
}

#[tokio::test]
async fn the_checks_end_when_nobody_listens() {
    let (address, open) = silent().await;
    let (_checker, events) = start(vec![http_target(address, PATIENCE * 2)]);
    until_open(&open, 1).await;
    drop(events);
    until_open(&open, 0).await;
}

/// A task that does nothing by itself.
fn task(targets: Vec<Target>, probes_max: usize) -> Task {
    let (_, targets) = watch::channel(targets);
    let (events, _) = mpsc::channel(1);
    Task::new(targets, events, probes_max)
}

#[tokio::test]
async fn no_more_probes_are_under_way_than_there_may_be_and_all_get_their_turn() {
    const PROBES_MAX: usize = 4;
    // All of 127/8 is this host.
    let listener = TcpListener::bind("0.0.0.0:0").await.expect("a port is free");
    let port = listener.local_addr().expect("bound").port();
    let timeout = Duration::from_millis(30);
    let silent = |last| http_target((Ipv4Addr::new(127, 0, 0, last), port).into(), timeout);
    let mut task = task((1..=12).map(silent).collect(), PROBES_MAX);
    tokio::time::sleep(EVERY).await;
    let mut down = Vec::new();
    let began = Instant::now();
    while down.len() < 12 {
        task.begin_due();
        assert_eq!(task.probes.len(), PROBES_MAX, "all are overdue");
        let ended = task.probes.join_next_with_id().await.expect("one is under way");
        down.extend(task.end(ended));
        assert!(began.elapsed() < PATIENCE, "{down:?}");
    }
    assert!(down.iter().all(|event| event.health == Health::Down && event.reason.starts_with("timed out")), "{down:?}");
    assert!(down[11].pool.is_all_down());
}

#[tokio::test]
async fn a_probe_that_this_host_cannot_make_ejects_nobody() {
    let (_open, address) = listener().await;
    let expect = StatusRange::parse("200").expect("a status");
    // No config lets this host name through.
    let check = check(Check::Http { path: "/".to_owned(), host: Some("a\nb".to_owned()), expect });
    let mut task = task(vec![Target { check, ..target(address, Version::V1) }], 1);
    for _ in 0..5 {
        // Up to one and a half periods after the last.
        tokio::time::sleep(EVERY * 2).await;
        task.begin_due();
        let ended = task.probes.join_next_with_id().await.expect("it is due");
        assert!(matches!(&ended, Ok((_, Err(Failure::Request(_))))), "{ended:?}");
        assert_eq!(task.end(ended), None);
    }
    assert_eq!(task.roster.pool(7, Version::V1), PoolHealth { live: 1, all: 1 });
    assert!(task.complained.is_some() && task.tickets.is_empty());
}
