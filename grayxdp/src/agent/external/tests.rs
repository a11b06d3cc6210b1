//! Real servers on loopback, good and bad ones.

use std::{
    net::SocketAddr,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::SystemTime,
};

use axum::{
    Router,
    body::Bytes,
    extract::Query as Params,
    http::{HeaderMap, StatusCode},
    response::Redirect,
    routing::{get, post},
};
use grayxdp_common::weight::Weight;
use tokio::{net::TcpListener, time::sleep};

use super::{cloud_event::Data, *};
use crate::{
    config::sample,
    decide::external::{
        Answer, OnMissing, Policy, Rule,
        hook::{Moment, Raise},
    },
};

const NEVER: Duration = Duration::from_secs(3600);
const SOON: Duration = Duration::from_millis(200);
const RAISE: Raise = Raise { from: Weight::ZERO, to: Weight::FULL };
const QUESTION: Question = Question { hook: 0, number: 7 };

/// Serves until the test's runtime ends.
async fn serve(router: Router) -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

fn url(address: SocketAddr, path: &str) -> reqwest::Url {
    format!("http://{address}{path}").parse().expect("an address")
}

fn vector(value: &str) -> String {
    format!(
        r#"{{"status":"success","data":{{"resultType":"vector","result":[{{"metric":{{}},"value":[1,"{value}"]}}]}}}}"#
    )
}

#[tokio::test]
async fn each_bad_server_gives_an_answer_that_says_what_is_wrong() {
    let router = Router::new()
        .route("/good/api/v1/query", get(|| async { vector("0.25") }))
        .route("/nan/api/v1/query", get(|| async { vector("NaN") }))
        .route("/html/api/v1/query", get(|| async { (StatusCode::BAD_GATEWAY, "<html>502</html>") }))
        .route("/hangs/api/v1/query", get(|| async { sleep(NEVER).await }))
        .route("/large/api/v1/query", get(|| async { " ".repeat(1 << 20) }))
        .route("/moved/api/v1/query", get(|| async { Redirect::temporary("/good/api/v1/query") }));
    let server = serve(router).await;
    let closed = TcpListener::bind(("127.0.0.1", 0)).await.and_then(|listener| listener.local_addr()).expect("a port");
    let client = Client::new().expect("a client");
    let ask = async |url: reqwest::Url| client.query(&url, "up", SOON).await;
    assert_eq!(ask(url(server, "/good")).await, Answer::Value(0.25));
    assert_eq!(ask(url(server, "/good/")).await, Answer::Value(0.25));
    assert_eq!(ask(url(server, "/nan")).await, Answer::NotFinite("NaN".to_owned()));
    assert_eq!(ask(url(server, "/hangs")).await, Answer::TimedOut(SOON));
    for (address, path, says) in [
        (server, "/html", "HTTP 502, and it begins with `<html>502</html>`"),
        (server, "/large", "longer than 64 KiB"),
        (server, "/moved", "HTTP 307"),
        (closed, "/good", "refused"),
    ] {
        let answer = ask(url(address, path)).await;
        assert!(answer.to_string().contains(says), "{path}: {answer}");
        assert!(matches!(answer, Answer::Malformed(_) | Answer::Unreachable(_)), "{answer:?}");
    }
}

fn service(queries: Vec<Query>, webhooks: Vec<Webhook>) -> ServiceConfig {
    ServiceConfig { external: crate::config::External { queries, webhooks }, ..sample::service("") }
}

#[tokio::test]
async fn both_versions_are_asked_for_with_placeholders_filled_in() {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = asked.clone();
    let answer = move |Params(params): Params<Vec<(String, String)>>| async move {
        let query = params.into_iter().find(|(key, _)| key == "query").map(|(_, query)| query).unwrap_or_default();
        let value = if query.contains("v1") { "2" } else { "3" };
        seen.lock().expect("not poisoned").push(query);
        vector(value)
    };
    let server = serve(Router::new().route("/api/v1/query", get(answer))).await;
    let every = Duration::from_secs(60);
    let policy = Policy {
        name: "cpu".to_owned(),
        rule: Rule::AtMostTimesV1(1.2),
        every,
        failures: 1,
        on_missing: OnMissing::Hold,
    };
    let template = "cpu{s=\"{{service}}\",v=\"{{version}}\"}[{{interval}}]".to_owned();
    let query = Query { url: url(server, ""), template, timeout: SOON, policy };
    let (_external, mut heard) = External::start(&[service(vec![query], vec![])]).expect("starts");
    let answers = Answers { v1: Some(Answer::Value(2.0)), v2: Answer::Value(3.0) };
    assert_eq!(heard.recv().await, Some(Heard::Answers { service: 0, query: 0, answers }));
    let mut asked = asked.lock().expect("not poisoned").clone();
    asked.sort();
    assert_eq!(asked, [r#"cpu{s="web",v="v1"}[60s]"#, r#"cpu{s="web",v="v2"}[60s]"#]);
}

fn webhook(url: reqwest::Url, retries: u32) -> Webhook {
    let backoff = Duration::from_millis(1);
    Webhook { name: "gate".to_owned(), url, on: Moment::BeforeStep, timeout: SOON, retries, backoff }
}

fn question() -> CloudEvent {
    let data = Data::of_raise("web", "progressing", RAISE, "the schedule wants it".to_owned());
    CloudEvent::new("lb-1", Kind::Question, SystemTime::UNIX_EPOCH, data)
}

async fn answer_of(webhook: Webhook) -> Result<(), String> {
    let (external, mut heard) = External::start(&[service(vec![], vec![webhook])]).expect("starts");
    assert!(external.ask(0, QUESTION, question()));
    match heard.recv().await {
        Some(Heard::Hook { service: 0, question: QUESTION, answer }) => answer,
        other => panic!("the hook's answer, found {other:?}"),
    }
}

#[tokio::test]
async fn a_webhook_says_yes_with_any_2xx_and_all_else_is_a_no() {
    let tries = Arc::new(AtomicUsize::new(0));
    let counted = tries.clone();
    let third = move || async move {
        if counted.fetch_add(1, Ordering::Relaxed) < 2 {
            StatusCode::SERVICE_UNAVAILABLE
        } else {
            StatusCode::NO_CONTENT
        }
    };
    let router = Router::new()
        .route("/yes", post(|| async { StatusCode::ACCEPTED }))
        .route("/broken", post(|| async { StatusCode::INTERNAL_SERVER_ERROR }))
        .route("/hangs", post(|| async { sleep(NEVER).await }))
        .route("/third", post(third));
    let server = serve(router).await;
    assert_eq!(answer_of(webhook(url(server, "/yes"), 0)).await, Ok(()));
    assert_eq!(answer_of(webhook(url(server, "/broken"), 0)).await, Err("HTTP 500".to_owned()));
    assert_eq!(answer_of(webhook(url(server, "/broken"), 2)).await, Err("HTTP 500, after 3 tries".to_owned()));
    assert_eq!(answer_of(webhook(url(server, "/hangs"), 0)).await, Err("no answer within 200ms".to_owned()));
    assert_eq!(answer_of(webhook(url(server, "/third"), 1)).await, Err("HTTP 503, after 2 tries".to_owned()));
    tries.store(0, Ordering::Relaxed);
    assert_eq!(answer_of(webhook(url(server, "/third"), 2)).await, Ok(()));
}

#[tokio::test]
async fn what_is_sent_is_a_cloud_event() {
    let (bodies, mut received) = mpsc::channel(4);
    let take = move |headers: HeaderMap, body: Bytes| async move {
        let kind = headers.get("content-type").and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
        let json: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
        bodies.send((kind, json)).await.expect("the test waits");
    };
    let server = serve(Router::new().route("/", post(take))).await;
    let (external, _heard) = External::start(&[service(vec![], vec![webhook(url(server, "/"), 0)])]).expect("starts");
    assert!(external.tell(0, 0, &Arc::new(question())));
    let (kind, event) = received.recv().await.expect("sent");
    assert_eq!(kind, "application/cloudevents+json");
    for (field, expected) in [
        ("specversion", "1.0"),
        ("type", "grayxdp.release.question"),
        ("source", "/grayxdp/lb-1"),
        ("subject", "web"),
        ("time", "1970-01-01T00:00:00.000Z"),
        ("datacontenttype", "application/json"),
    ] {
        assert_eq!(event[field], expected, "{field}");
    }
    assert!(event["id"].as_str().is_some_and(|id| id.starts_with("lb-1-")));
    assert_eq!((event["data"]["from"].as_f64(), event["data"]["to"].as_f64()), (Some(0.0), Some(100.0)));
    let next = serde_json::to_value(question()).expect("serialises");
    assert_ne!(next["id"], event["id"], "each event has an id of its own");
}

#[tokio::test]
async fn calls_that_pile_up_are_refused_and_not_kept() {
    let server = serve(Router::new().route("/", post(|| async { sleep(NEVER).await }))).await;
    let hanging = Webhook { timeout: NEVER, ..webhook(url(server, "/"), 0) };
    let (external, _heard) = External::start(&[service(vec![], vec![hanging])]).expect("starts");
    let event = Arc::new(question());
    let taken = (0..2 * CALLS_MAX).filter(|_| external.tell(0, 0, &event)).count();
    assert!((CALLS_MAX..=CALLS_MAX + 1).contains(&taken), "{taken}");
    assert!(!external.tell(0, 7, &event), "no such webhook");
}
