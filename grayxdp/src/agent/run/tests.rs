//! The whole agent but the kernel: loop, sockets, API, metrics, and the CLI's client at the other end.

use std::{
    io::Write as _,
    net::SocketAddr,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread::JoinHandle,
};

use grayxdp_common::ids::Version;
use serde_json::json;

use super::*;
use crate::{
    agent::{
        SocketError, fake_kernel,
        shapes::{HistoryQuery, Verb},
    },
    cli::{
        args::Output,
        client::{self, Client},
        wait,
    },
};

/// An agent in a thread of its own, on a kernel that is none.
struct TestAgent {
    directory: tempfile::TempDir,
    metrics: SocketAddr,
    thread: Option<JoinHandle<()>>,
}

impl TestAgent {
    fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let (ready, is_ready) = std::sync::mpsc::channel();
        let path = directory.path().to_owned();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(Self::serve(&path, &ready));
        });
        let metrics = is_ready.recv().expect("the agent starts");
        Self { directory, metrics, thread: Some(thread) }
    }

    async fn serve(directory: &Path, ready: &std::sync::mpsc::Sender<SocketAddr>) {
        let config = fake_kernel::config(directory);
        let store = Store::open(&config.agent.state).expect("a store");
        let mut kernel = fake_kernel::FakeKernel::with_pinned(&[None, None]);
        kernel.count(0, Version::V1, "10.0.1.10:8080", 5);
        kernel.count(0, Version::V2, "10.0.2.10:8080", 3);
        let mut releases = Releases::new(config.services.clone(), kernel, store);
        releases.take_over().expect("taken over");
        let interfaces = vec![InterfaceStatus { name: "eth0".to_owned(), mode: "native".to_owned() }];
        let mut agent = Agent::new(releases, interfaces, Instant::now());
        let listeners = Listeners {
            control: socket::listen(&config.agent.socket, None).expect("a socket"),
            metrics: TcpListener::bind("127.0.0.1:0").await.expect("a port"),
        };
        ready.send(listeners.metrics.local_addr().expect("an address")).expect("the test waits");
        let mut signals = Signals::new().expect("signals");
        let (servers, mut requests) = Servers::start(listeners);
        let end = turn(&mut agent, &mut Watches::default(), &mut requests, &mut signals, &config.agent.bpffs).await;
        if let End::Detach { answer, .. } = end {
            answer.send(Ok(())).expect("somebody asked");
        }
        servers.stop().await;
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("agent.sock")
    }

    fn client(&self) -> Client {
        Client::new(self.socket())
    }

    /// Status line and body of the answer to these bytes.
    fn raw(&self, request: &str) -> (String, String) {
        let mut stream = UnixStream::connect(self.socket()).expect("connected");
        exchange(&mut stream, request)
    }

    fn post(&self, path: &str, body: &str) -> (String, String) {
        self.raw(&format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        ))
    }

    fn scrape(&self, path: &str, accept: &str) -> (String, String) {
        let mut stream = std::net::TcpStream::connect(self.metrics).expect("connected");
        exchange(
            &mut stream,
            &format!("GET {path} HTTP/1.1\r\nhost: x\r\naccept: {accept}\r\nconnection: close\r\n\r\n"),
        )
    }
}

impl Drop for TestAgent {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            let _ = self.client().detach(None);
            let _ = thread.join();
        }
    }
}

fn exchange(stream: &mut (impl std::io::Read + std::io::Write), request: &str) -> (String, String) {
    stream.write_all(request.as_bytes()).expect("written");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("head and body");
    (head.to_owned(), body.to_owned())
}

fn weight(hundredths: u16) -> grayxdp_common::weight::Weight {
    grayxdp_common::weight::Weight::from_hundredths(hundredths).expect("in range")
}

#[test]
fn commands_go_through_the_socket_and_come_back_done() {
    let agent = TestAgent::start();
    let client = agent.client();
    let status = client.status(None).expect("an answer");
    assert_eq!(status.body.pid, std::process::id());
    assert_eq!(status.body.services.len(), 2);
    let web = &status.body.services[0];
    assert_eq!((web.state.as_str(), web.versions.v1.counters.new_flows, web.measured_share), ("idle", 5, None));
    assert_eq!(web.versions.v1.backends.len(), 2);

    let done = client.command(Some("web"), client::Command::SetWeight(weight(1250), None)).expect("done");
    assert_eq!((done.before.weight, done.after.body.weight), (0.0, 12.5));
    assert_eq!(done.after.body.kernel_weight, Some(12.5));
    assert_eq!(crate::cli::status::change(&done.before, &done.after.body), "web: v2 0.00 % → 12.50 % (frozen)\n");
    assert!(done.after.json.contains(r#""weight":12.5,"kernel_weight":12.5"#), "{}", done.after.json);

    let refused = client.command(Some("web"), client::Command::Verb(Verb::Start)).expect_err("refused");
    assert_eq!(refused.code(), "refused");
    let unknown = client.command(Some("wob"), client::Command::SetWeight(weight(1), None)).expect_err("unknown");
    assert_eq!(unknown.code(), "unknown_service");
    assert!(client.command(None, client::Command::SetWeight(weight(1), None)).is_err(), "there are two services");
    assert_eq!(client.status(Some("dns")).expect("an answer").body.services.len(), 1);
}

#[test]
fn what_is_wrong_is_said_in_json() {
    let agent = TestAgent::start();
    let set_weight = "/v1/services/web/set-weight";
    for (path, body, status, code, words) in [
        (set_weight, "{", "400", "bad_request", "not JSON"),
        (set_weight, "", "400", "bad_request", "not JSON"),
        (set_weight, "{}", "400", "bad_request", "missing field `weight`"),
        (set_weight, r#"{"weight": "ten"}"#, "400", "bad_request", "expected {\\\"weight\\\": 12.5}"),
        (set_weight, r#"{"weight": 1, "wait": 2}"#, "400", "bad_request", "unknown field `wait`"),
        (set_weight, r#"{"weight": 100.01}"#, "400", "bad_request", "0 to 100"),
        (set_weight, r#"{"weight": -1}"#, "400", "bad_request", "0 to 100"),
        (set_weight, r#"{"weight": 1.234}"#, "400", "bad_request", "two"),
        ("/v1/services/wob/set-weight", r#"{"weight": 1}"#, "404", "unknown_service", "web, dns"),
        ("/v1/services/web/freeze", "", "409", "refused", "`start`"),
        ("/v1/services/web/freeze", "[1]", "400", "bad_request", "no body, or {}"),
        (set_weight, r#"{"weight": 1, "shard": "x"}"#, "404", "unknown_shard", "no shard `x`"),
        ("/v1/services/web/pin", r#"{"version": "v2"}"#, "400", "bad_request", "either `source` or `dscp`"),
        ("/v1/services/web/pin", r#"{"source": "10.0.0.1/8", "version": "v2"}"#, "400", "bad_request", "10.0.0.0/8"),
        ("/v1/services/web/pin", r#"{"dscp": 64, "version": "v2"}"#, "400", "bad_request", "0 to 63"),
        ("/v1/services/web/pin", r#"{"dscp": 1, "version": "v3"}"#, "400", "bad_request", "v1 or v2"),
        ("/v1/services/web/unpin", r#"{"dscp": 1}"#, "409", "refused", "nothing is pinned by dscp 1"),
        ("/v1/services/web/drain", r#"{"address": "x"}"#, "400", "bad_request", "found `x`"),
        ("/v1/services/web/drain", r#"{"address": "10.9.9.9:1"}"#, "409", "refused", "is no backend"),
        ("/v1/services/web/undrain", "", "400", "bad_request", "not JSON"),
        (
            "/v1/services/web/add-backend",
            r#"{"version": "v2", "address": "10.9.9.9:1", "weight": 0}"#,
            "400",
            "bad_request",
            "1 to 1000",
        ),
        ("/v1/services/web/remove-backend", r#"{"address": "10.0.2.10:8080"}"#, "409", "refused", "last backend of v2"),
        ("/v1/services/web/pins", "", "405", "bad_request", "use GET"),
        ("/v1/services/web/dance", "", "404", "not_found", "GET /v1/status"),
        ("/v1/services/%ff/start", "", "400", "bad_request", "name"),
        ("/v1/status", "", "405", "bad_request", "GET"),
        ("/", "", "404", "not_found", "/v1/status"),
        ("/v1/detach", r#"{"bpffs": "/elsewhere"}"#, "409", "refused", "/sys/fs/bpf/fake"),
        ("/v1/detach", "{", "400", "bad_request", "not JSON"),
    ] {
        let (head, answer) = agent.post(path, body);
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{path} {body}: {head}");
        assert!(head.to_lowercase().contains("content-type: application/json"), "{path} {body}: {head}");
        assert!(answer.starts_with(&format!(r#"{{"error":{{"code":"{code}","message":""#)), "{path} {body}: {answer}");
        assert!(answer.contains(words), "{path} {body}: {answer}");
    }
    let (head, answer) = agent.post(set_weight, &" ".repeat(5000));
    assert!(head.starts_with("HTTP/1.1 413 ") && answer.contains("4096"), "{head} {answer}");
    let (head, answer) = agent.raw("DELETE /v1/detach HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 405 ") && answer.contains("use POST"), "{head} {answer}");
    let web = &agent.client().status(None).expect("it is still there").body.services[0];
    assert_eq!((web.state.as_str(), web.weight), ("idle", 0.0), "nothing of it did anything");
}

/// What programs read: changes of it are changes for them. `INSTA_UPDATE=always cargo test` writes it anew.
#[test]
fn a_service_is_json_like_this() {
    let agent = TestAgent::start();
    let shard = client::Command::SetWeight(weight(2000), Some("3".to_owned()));
    agent.client().command(Some("web"), shard).expect("set");
    let mut web = agent.client().status(Some("web")).expect("an answer").body.services.remove(0);
    web.shards.truncate(4);
    insta::assert_snapshot!(serde_json::to_string_pretty(&web).expect("JSON"));
}

/// What dashboards and alerts read: names, kinds and meanings.
#[test]
fn metrics_are_named_like_this() {
    let (_, page) = TestAgent::start().scrape("/metrics", "*/*");
    let heads: Vec<&str> = page.lines().filter(|line| line.starts_with('#')).collect();
    insta::assert_snapshot!(heads.join("\n"));
}

#[test]
fn pins_and_backends_change_over_the_socket() {
    let agent = TestAgent::start();
    let client = agent.client();
    let change = |name, body| client.command(Some("web"), client::Command::Change(name, body));
    change("pin", json!({ "source": "198.51.100.0/24", "version": "v2" })).expect("pinned");
    change("pin", json!({ "dscp": 46, "version": "v2" })).expect("pinned");
    assert_eq!(change("unpin", json!({ "dscp": 46 })).expect("unpinned").after.body.pins, 1);
    let pins = client.pins(Some("web")).expect("an answer");
    let expected = r#"{"service":"web","canary_port":null,"pins":[{"source":"198.51.100.0/24","dscp":null,"version":"v2","origin":"run-time"}]}"#;
    assert_eq!(pins.json, expected);
    change("drain", json!({ "address": "10.0.1.11:8080" })).expect("drained");
    change("add-backend", json!({ "version": "v2", "address": "10.0.2.11:8080" })).expect("added");
    let web = change("remove-backend", json!({ "address": "10.0.2.10:8080" })).expect("removed").after.body;
    let said = |version: &crate::agent::shapes::VersionStatus| {
        let backends = version.backends.iter();
        backends.map(|each| format!("{} {} {}", each.address, each.state, each.origin)).collect::<Vec<_>>()
    };
    assert_eq!(said(&web.versions.v1), ["10.0.1.10:8080 live config", "10.0.1.11:8080 draining config"]);
    assert_eq!(said(&web.versions.v2), ["10.0.2.11:8080 live run-time", "10.0.2.10:8080 removed run-time"]);
    assert_eq!(web.versions.v2.backends[1].counters.new_flows, 3, "what it has had is still counted");
    assert_eq!(web.warning, None);
    let web = change("drain", json!({ "address": "10.0.2.11:8080" })).expect("drained").after.body;
    assert_eq!(
        web.warning.as_deref(),
        Some("v2 has no live backend: new connections meant for it go to the other version")
    );

    let shard = client::Command::SetWeight(weight(2000), Some("3".to_owned()));
    let web = client.command(Some("web"), shard).expect("set").after.body;
    assert_eq!((web.shards.len(), web.shards[3].weight, web.weight), (16, 20.0, 1.25));
    let (_, page) = agent.scrape("/metrics", "*/*");
    for line in [
        r#"grayxdp_shard_weight_percent{service="web",shard="3"} 20.0"#,
        r#"grayxdp_pins{service="web"} 1.0"#,
        r#"grayxdp_backend_live{service="web",version="v1",backend="10.0.1.11:8080"} 0.0"#,
        r#"grayxdp_weight_percent{service="web"} 1.25"#,
    ] {
        assert!(page.lines().any(|found| found == line), "{line}\n{page}");
    }
    assert!(!page.contains(r#"grayxdp_shard_weight_percent{service="dns""#), "its shards do not differ");
}

#[test]
fn decisions_are_listed_over_the_socket() {
    let agent = TestAgent::start();
    let client = agent.client();
    client.command(Some("web"), client::Command::SetWeight(weight(1250), None)).expect("set");
    client.command(Some("web"), client::Command::Verb(Verb::Rollback)).expect("rolled back");
    let ask = |service: Option<&str>, after, limit| {
        let query = HistoryQuery { service: service.map(str::to_owned), after, limit };
        client.history(&query).map(|answer| answer.body.decisions)
    };
    let all = ask(None, None, None).expect("an answer");
    assert_eq!(all.iter().map(|each| each.service.as_str()).collect::<Vec<_>>(), ["web", "dns", "web", "web"]);
    let web = ask(Some("web"), None, Some(2)).expect("an answer");
    let said: Vec<&str> = web.iter().map(|each| each.sentence.as_str()).collect();
    assert_eq!(
        said,
        [
            "web: v2 0.00 % → 12.50 %: set to 12.50 % by hand; `resume` goes on from there",
            "web: v2 12.50 % → 0.00 %: rolled back from 12.50 % by hand; `start` begins anew",
        ]
    );
    let last = &web[1];
    let found = (last.event.as_str(), last.cause.as_str(), last.rule.as_str(), last.state.as_str(), last.from, last.to);
    assert_eq!(found, ("rollback", "operator", "command", "rolled-back", 12.5, 0.0));
    assert!(last.actor.starts_with("uid ") && last.time.ends_with('Z'), "{last:?}");
    assert_eq!(ask(Some("web"), Some(web[0].id), None).expect("an answer"), web[1..]);
    assert_eq!(ask(Some("wob"), None, None).expect_err("unknown").code(), "unknown_service");
    let (head, body) = agent.raw("GET /v1/history?limit=10001 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 400") && body.contains("at most 10000"), "{head} {body}");
}

#[test]
fn waiting_says_what_is_decided_and_ends_with_its_exit_code() {
    let web = || Some("web");
    let start = client::Command::Verb(Verb::Start);
    let freeze = client::Command::Verb(Verb::Freeze);
    let millis = |millis| Some(Duration::from_millis(millis));
    // What is done before and while somebody waits; how that ends, and a part of the last line.
    for (before, meanwhile, timeout, exit_code, line) in [
        (Some(start.clone()), Some(Verb::Promote), None, 0, "web: v2 0.00 % → 100.00 %: promoted from 0.00 % by hand"),
        (Some(start.clone()), Some(Verb::Rollback), None, 2, "web: v2 0.00 % (rolled-back): rolled back"),
        (Some(freeze.clone()), None, None, 3, "(frozen): frozen at 0.00 % by hand"),
        (None, None, None, 1, "(idle): not started yet"),
        (Some(start.clone()), None, millis(300), 124, "(progressing): follows the schedule (linear); waits for"),
    ] {
        let agent = TestAgent::start();
        let client = agent.client();
        if before.as_ref() == Some(&freeze) {
            client.command(web(), start.clone()).expect("started");
        }
        before.into_iter().for_each(|command| drop(client.command(web(), command).expect("done")));
        let mut lines = Vec::new();
        let mut say = |text: &str| {
            lines.push(text.to_owned());
            if let Some(verb) = meanwhile.filter(|_| lines.len() == 1) {
                client.command(web(), client::Command::Verb(verb)).expect("done");
            }
            Ok(())
        };
        let end = wait::wait(&client, Output::Text, web(), wait::Target::Promoted, timeout, &mut say);
        assert_eq!(end.as_ref().map_or_else(|error| error.exit_code(), |()| 0), exit_code, "{lines:?} {end:?}");
        assert_eq!(lines.len(), if meanwhile.is_some() { 2 } else { 1 }, "{lines:?}");
        assert!(lines.last().expect("a line").contains(line), "{lines:?}");
        let said = end.err().map(|error| error.to_string()).unwrap_or_default();
        assert!(exit_code == 0 || said.starts_with("web "), "{said}");
    }
    let nobody = Client::new("/nonexistent/agent.sock".into());
    let end = wait::wait(&nobody, Output::Text, web(), wait::Target::Promoted, None, &mut |_| Ok(()));
    assert_eq!(end.expect_err("no agent").exit_code(), 5);
}

#[test]
fn a_client_is_explained_over_the_socket() {
    let agent = TestAgent::start();
    let query = |text: &str| serde_json::from_value::<crate::agent::shapes::ExplainQuery>(json!({ "client": text }));
    let query = query("198.51.100.7:9").expect("a query");
    let status: crate::agent::shapes::ExplainStatus =
        agent.client().look(Some("web"), "explain", &query).expect("explained").body;
    assert_eq!((status.fate.as_str(), status.version.as_deref()), ("new", Some("v2")));
    for (query, status, words) in [
        ("", "400", "client"),
        ("?client=x", "400", "expected ?client=198.51.100.7:40000"),
        ("?client=198.51.100.7:1&colour=red", "400", "colour"),
        ("?client=198.51.100.7:1&port=81", "400", "its port is 80"),
    ] {
        let request = format!("GET /v1/services/web/explain{query} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        let (head, answer) = agent.raw(&request);
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")) && answer.contains(words), "{query}: {head} {answer}");
    }
    let (head, answer) = agent.post("/v1/services/web/explain", "");
    assert!(head.starts_with("HTTP/1.1 405 ") && answer.contains("use GET"), "{head} {answer}");
}

#[test]
fn flows_are_listed_over_the_socket_from_all_parts_of_the_table() {
    let agent = TestAgent::start();
    let query = crate::agent::shapes::FlowsQuery { limit: Some(70), ..Default::default() };
    let status = agent.client().flows(&query).expect("listed").body;
    assert_eq!((status.totals.all, status.flows.len()), (100, 70));
    let query = crate::agent::shapes::FlowsQuery { service: Some("dns".to_owned()), ..Default::default() };
    let status = agent.client().flows(&query).expect("listed").body;
    assert_eq!((status.totals.all, status.flows.len()), (50, 50));
    let query = crate::agent::shapes::FlowsQuery { service: Some("wob".to_owned()), ..Default::default() };
    assert_eq!(agent.client().flows(&query).expect_err("unknown").code(), "unknown_service");
}

#[test]
fn a_trace_goes_over_the_socket_and_there_is_one_at_a_time() {
    use std::ops::ControlFlow;
    let agent = TestAgent::start();
    let path = "/v1/trace?one_in=1";
    let mut lines = Vec::new();
    let first = agent.client().stream(path, Some(Duration::from_secs(5)), |line| {
        lines.push(line.to_owned());
        let busy = |client: Client| client.stream("/v1/trace", None, |_| ControlFlow::Break(())).expect_err("busy");
        // On a thread of its own, for this one is in an event loop.
        let busy = std::thread::scope(|scope| scope.spawn(|| busy(agent.client())).join().expect("it ends"));
        assert_eq!(busy.code(), "refused");
        ControlFlow::Break(())
    });
    first.expect("traced");
    assert_eq!(lines, [r#"{"type":"sampling","one_in":1}"#]);
    // The connection is closed: the next one may trace as soon as the agent has noticed.
    let again = || agent.client().stream(path, None, |_| ControlFlow::Break(()));
    let deadline = Instant::now() + Duration::from_secs(5);
    while let Err(error) = again() {
        assert!(error.code() == "refused" && Instant::now() < deadline, "{error}");
        std::thread::sleep(Duration::from_millis(10));
    }
    for (path, code) in [("/v1/trace?one_in=0", "bad_request"), ("/v1/trace?service=wob", "unknown_service")] {
        let error = agent.client().stream(path, None, |_| ControlFlow::Break(())).expect_err("refused");
        assert_eq!(error.code(), code);
    }
}

#[test]
fn metrics_pass_promtool_in_the_classic_format() {
    let agent = TestAgent::start();
    let (head, page) = agent.scrape("/metrics", "*/*");
    assert!(head.contains("content-type: text/plain; version=0.0.4; charset=utf-8"), "{head}");
    for line in [
        "# HELP grayxdp_new_flows_total New connections (TCP) and conversations (UDP).",
        "# TYPE grayxdp_new_flows_total counter",
        r#"grayxdp_new_flows_total{service="web",version="v1",backend="10.0.1.10:8080"} 5"#,
        r#"grayxdp_packets_total{service="web",version="v2",backend="10.0.2.10:8080",direction="in"} 30"#,
        r#"grayxdp_release_state{service="web",state="idle"} 1.0"#,
        r#"grayxdp_release_state{service="web",state="rolled-back"} 0.0"#,
        r#"grayxdp_kernel_weight_percent{service="dns"} 0.0"#,
        r#"grayxdp_verdicts_total{action="forward",reason="same_interface"} 1"#,
        r#"grayxdp_interface_info{interface="eth0",mode="native"} 1.0"#,
        concat!("grayxdp_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1.0"),
    ] {
        assert!(page.lines().any(|found| found == line), "{line}\n{page}");
    }
    assert!(!page.contains("# EOF"));
    // Where Prometheus' tool is missing (`cargo xtask setup` brings it) the lines above must do.
    let Ok(mut promtool) = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
    else {
        return;
    };
    promtool.stdin.take().expect("a pipe").write_all(page.as_bytes()).expect("written");
    let checked = promtool.wait_with_output().expect("it ends");
    assert!(checked.status.success() && checked.stderr.is_empty(), "{}", String::from_utf8_lossy(&checked.stderr));
}

#[test]
fn metrics_come_as_openmetrics_for_those_that_ask() {
    let agent = TestAgent::start();
    let (head, page) = agent.scrape("/metrics", "application/openmetrics-text; version=1.0.0");
    assert!(head.contains("content-type: application/openmetrics-text; version=1.0.0; charset=utf-8"), "{head}");
    assert!(page.contains("# TYPE grayxdp_bytes counter\n") && page.ends_with("# EOF\n"), "{page}");
}

#[test]
fn the_metrics_port_changes_nothing() {
    let agent = TestAgent::start();
    assert!(agent.scrape("/healthz", "*/*").0.starts_with("HTTP/1.1 200 "));
    for path in ["/v1/status", "/v1/services/web/promote", "/v1/detach"] {
        assert!(agent.scrape(path, "*/*").0.starts_with("HTTP/1.1 404 "), "{path}");
    }
}

#[test]
fn detach_ends_the_agent_and_its_socket() {
    let mut agent = TestAgent::start();
    let client = agent.client();
    let elsewhere = client.detach(Some(Path::new("/elsewhere"))).expect_err("not its pins");
    assert_eq!(elsewhere.code(), "refused");
    assert_eq!(client.detach(Some(Path::new("/sys/fs/bpf/fake"))).expect("detached"), ["eth0"]);
    agent.thread.take().expect("running").join().expect("it ends");
    assert!(!agent.socket().exists());
    assert!(client.status(None).expect_err("it is gone").is_unreachable());
}

#[tokio::test]
async fn a_socket_belongs_to_one_agent() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("deeper").join("agent.sock");
    let first = socket::listen(&path, None).expect("a socket");
    let mode = std::os::unix::fs::PermissionsExt::mode(&path.metadata().expect("it exists").permissions());
    assert_eq!(mode & 0o777, 0o600);
    assert!(matches!(socket::listen(&path, None), Err(SocketError::AgentRunning { .. })));
    assert!(path.exists(), "the running agent's socket stays");
    drop(first);
    assert!(!path.exists());

    // What an agent leaves that was killed: a socket file that nobody listens on.
    drop(std::os::unix::net::UnixListener::bind(&path).expect("a socket"));
    // A child that another test has just forked holds the lock, too, until it runs its program.
    let listen_again = || match socket::listen(&path, Some("root")) {
        Ok(second) => Some(second),
        Err(SocketError::AgentRunning { .. }) => {
            std::thread::sleep(Duration::from_millis(20));
            None
        }
        Err(error) => panic!("{error}"),
    };
    let second = (0..100).find_map(|_| listen_again()).expect("the stale socket is replaced");
    let mode = std::os::unix::fs::PermissionsExt::mode(&path.metadata().expect("it exists").permissions());
    assert_eq!(mode & 0o777, 0o660);
    drop(second);

    // Somebody without a lock, who lives.
    let other = std::os::unix::net::UnixListener::bind(&path).expect("a socket");
    assert!(matches!(socket::listen(&path, None), Err(SocketError::AgentRunning { .. })));
    drop(other);
    std::fs::remove_file(&path).expect("removable");
    std::fs::write(&path, "precious").expect("a file");
    assert!(matches!(socket::listen(&path, None), Err(SocketError::NoSocket { .. })));
    assert_eq!(std::fs::read(&path).expect("readable"), b"precious");
    assert!(matches!(socket::listen(&path, Some("no-such-group-here")), Err(SocketError::UnknownGroup { .. })));
}
