//! What a release asks and tells, played by the test: a page of metrics for Prometheus to scrape, a way to Prometheus that can
//! go bad, and webhooks.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, StatusCode, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{net::TcpListener, task::JoinSet, time::interval};

use crate::{
    netns::Netns,
    process::wait_until,
    prometheus::{self, http_get},
};

const PORT: u16 = 8000;
const LOOK_PERIOD: Duration = Duration::from_millis(20);

/// How a path of the server behaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Manner {
    /// As it should: the way to Prometheus leads there, a webhook says 204.
    Good,
    /// A page for people, with status 200.
    Html,
    /// Status 500.
    Broken,
    /// Takes the request and never answers.
    Hangs,
}

/// A webhook's call.
#[derive(Clone, Debug)]
pub struct Call {
    /// `POST`, as it should be.
    pub method: String,
    /// `content-type`.
    pub content_type: String,
    /// The body; a string where it is no JSON.
    pub event: Value,
}

#[derive(Debug, Default)]
struct Shared {
    page: Mutex<String>,
    manners: Mutex<BTreeMap<String, Manner>>,
    calls: Mutex<BTreeMap<String, Vec<Call>>>,
    listens: AtomicBool,
    stop: AtomicBool,
}

/// A running server, on the loopback of a namespace. Dropping it ends it.
#[derive(Debug)]
pub struct Others {
    shared: Arc<Shared>,
    /// The outer result is the namespace's.
    thread: Option<JoinHandle<Result<Result<()>>>>,
}

impl Others {
    /// Starts it, and waits until it listens.
    pub fn start(host: &Netns) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let job = {
            let shared = Arc::clone(&shared);
            move || runtime.block_on(serve(shared))
        };
        let others = Self { thread: Some(host.spawn("others", job)?), shared };
        wait_until("the others listen", Duration::from_secs(5), || {
            others.shared.listens.load(Ordering::Acquire).then_some(()).context("not yet")
        })?;
        Ok(others)
    }

    /// Where Prometheus finds `/metrics`.
    pub fn target() -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, PORT))
    }

    /// `url` of a query: it leads to Prometheus while [`Manner::Good`].
    pub fn prometheus_url() -> String {
        format!("http://{}/prometheus", Self::target())
    }

    /// `url` of a webhook.
    pub fn hook_url(name: &str) -> String {
        format!("http://{}/hooks/{name}", Self::target())
    }

    /// What Prometheus scrapes from now on.
    pub fn set_page(&self, page: &str) {
        page.clone_into(&mut lock(&self.shared.page));
    }

    /// How the way to Prometheus (`prometheus`) or a webhook, by its name, behaves from now on.
    pub fn set(&self, who: &str, manner: Manner) {
        lock(&self.shared.manners).insert(who.to_owned(), manner);
    }

    /// The calls of a webhook so far.
    pub fn calls(&self, name: &str) -> Vec<Call> {
        lock(&self.shared.calls).get(name).cloned().unwrap_or_default()
    }
}

impl Drop for Others {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

async fn serve(shared: Arc<Shared>) -> Result<()> {
    let listener = TcpListener::bind(Others::target()).await?;
    shared.listens.store(true, Ordering::Release);
    let mut connections = JoinSet::new();
    let mut look = interval(LOOK_PERIOD);
    while !shared.stop.load(Ordering::Relaxed) {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted?;
                let shared = Arc::clone(&shared);
                connections.spawn(async move {
                    let answer = service_fn(|request| answer(Arc::clone(&shared), request));
                    // A client that goes away is no fault of the server.
                    http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await.ok();
                });
            }
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            _ = look.tick() => {}
        }
    }
    Ok(())
}

async fn answer(shared: Arc<Shared>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path().to_owned();
    if path == "/metrics" {
        return Ok(said(StatusCode::OK, lock(&shared.page).clone()));
    }
    let query = request.uri().path_and_query().map(ToString::to_string).unwrap_or_default();
    let hook = path.strip_prefix("/hooks/").map(str::to_owned);
    if let Some(name) = &hook {
        let call = call(request).await;
        lock(&shared.calls).entry(name.clone()).or_default().push(call);
    }
    let manner = lock(&shared.manners).get(hook.as_deref().unwrap_or("prometheus")).copied().unwrap_or(Manner::Good);
    Ok(match (manner, query.strip_prefix("/prometheus")) {
        (Manner::Good, Some(asked)) => match http_get(prometheus::address(), asked).await {
            Ok(body) => said(StatusCode::OK, body),
            Err(error) => said(StatusCode::BAD_GATEWAY, format!("{error:#}")),
        },
        (Manner::Good, None) => said(StatusCode::NO_CONTENT, ""),
        (Manner::Html, _) => said(StatusCode::OK, "<!doctype html><title>Please log in</title>"),
        (Manner::Broken, _) => said(StatusCode::INTERNAL_SERVER_ERROR, "out of order"),
        (Manner::Hangs, _) => std::future::pending().await,
    })
}

async fn call(request: Request<Incoming>) -> Call {
    let method = request.method().to_string();
    let header = request.headers().get("content-type").and_then(|value| value.to_str().ok());
    let content_type = header.unwrap_or_default().to_owned();
    let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let text = || Value::from(String::from_utf8_lossy(&body));
    Call { method, content_type, event: serde_json::from_slice(&body).unwrap_or_else(|_| text()) }
}

fn said(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What a thread that panicked left is whole: every change is one assignment.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
