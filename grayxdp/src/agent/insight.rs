//! Looking into the kernel's tables for people: `explain`, `flows`, `trace`. Changes nothing that packets obey.

use std::{
    convert::Infallible,
    net::SocketAddr,
    ops::Range,
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use axum::{
    Router,
    extract::{Path, Query, State, rejection::QueryRejection},
    http::header,
    response::{IntoResponse as _, Response},
    routing::get,
};
use grayxdp_common::{layout::TraceEvent, verdict::Verdict};
use hyper::body::{Body, Bytes, Frame};
use tokio::sync::{mpsc, oneshot};

use super::{
    answers::Agent,
    api::{ApiError, Name, json},
    explain,
    flows::{self, Filter},
    kernel::Kernel,
    request::{AnswerError, Asker, Request},
    shapes::{ExplainQuery, ExplainStatus, FlowsQuery, FlowsStatus, TraceQuery},
    trace::{TraceSource, Wanted},
};
use crate::{
    decide::explain::Explanation,
    kernel::{self, DataPlane, Flow, KernelError, TraceEvents, Traced},
};

/// A trace ends so long after the agent, if that is killed. Longer than anything that may hold the loop up.
const TRACE_LEASE: Duration = Duration::from_secs(10);

/// What is asked of the data plane here: a part of the seam for tests.
pub(super) trait Insight {
    /// See [`DataPlane::explain`].
    fn explain(&self, service: usize, by_canary_port: bool, client: SocketAddr, dscp: u8) -> Option<Explanation>;
    /// See [`DataPlane::flow_buckets`].
    fn flow_buckets(&self) -> u32;
    /// See [`DataPlane::flows_in`].
    fn each_flow(&self, buckets: Range<u32>, take: &mut dyn FnMut(&Flow));
    /// See [`DataPlane::verdict_counts`].
    fn verdicts(&self) -> Result<Vec<(Verdict, u64)>, KernelError>;
    /// See [`DataPlane::set_trace`]; for [`TRACE_LEASE`].
    fn set_trace(&mut self, one_in: u32, service: Option<usize>) -> Result<(), KernelError>;
    /// Where traced packets come out; once.
    fn trace_source(&mut self) -> Option<Box<dyn TraceSource>>;
    /// See [`DataPlane::traced`].
    fn traced(&self, event: &TraceEvent) -> Traced;
    /// See [`kernel::interface_name`].
    fn interface_name(&self, index: u32) -> Option<String>;
}

impl Insight for DataPlane {
    fn explain(&self, service: usize, by_canary_port: bool, client: SocketAddr, dscp: u8) -> Option<Explanation> {
        self.explain(service, by_canary_port, client, dscp)
    }

    fn flow_buckets(&self) -> u32 {
        self.flow_buckets()
    }

    fn each_flow(&self, buckets: Range<u32>, take: &mut dyn FnMut(&Flow)) {
        self.flows_in(buckets).for_each(|flow| take(&flow));
    }

    fn verdicts(&self) -> Result<Vec<(Verdict, u64)>, KernelError> {
        self.verdict_counts()
    }

    fn set_trace(&mut self, one_in: u32, service: Option<usize>) -> Result<(), KernelError> {
        self.set_trace(one_in, service, TRACE_LEASE)
    }

    fn trace_source(&mut self) -> Option<Box<dyn TraceSource>> {
        self.trace_events().map(|events| Box::new(events) as Box<dyn TraceSource>)
    }

    fn traced(&self, event: &TraceEvent) -> Traced {
        self.traced(event)
    }

    fn interface_name(&self, index: u32) -> Option<String> {
        kernel::interface_name(index)
    }
}

impl TraceSource for TraceEvents {
    fn next_event(&mut self) -> Option<TraceEvent> {
        self.next_event()
    }
}

/// A question to the loop.
#[derive(Debug)]
pub(super) enum Look {
    /// Where a client goes, and why.
    Explain { service: String, query: ExplainQuery, answer: oneshot::Sender<Result<ExplainStatus, AnswerError>> },
    /// The flows of one part of the table, which begins at a bucket; at most so many are listed.
    Flows { query: FlowsQuery, from: u32, limit: usize, answer: oneshot::Sender<Result<FlowsPart, AnswerError>> },
    /// What becomes of packets from now on, as lines, until the receiver goes.
    Trace { query: TraceQuery, answer: oneshot::Sender<Result<mpsc::Receiver<Bytes>, AnswerError>> },
}

/// What a part of the flow table has.
#[derive(Debug)]
pub(super) struct FlowsPart {
    status: FlowsStatus,
    /// Where the next part begins.
    next: Option<u32>,
}

impl<K: Kernel> Agent<K> {
    /// Answers; whoever asked and has gone since needs no answer.
    pub(super) fn look(&mut self, look: Look) {
        match look {
            Look::Explain { service, query, answer } => drop(answer.send(self.explain(&service, &query))),
            Look::Flows { query, from, limit, answer } => drop(answer.send(self.flows(&query, from, limit))),
            Look::Trace { query, answer } => drop(answer.send(self.trace(&query))),
        }
    }

    fn explain(&self, service: &str, query: &ExplainQuery) -> Result<ExplainStatus, AnswerError> {
        let index = self.releases.index(service)?;
        let config = &self.releases.services()[index];
        let asked = explain::check(config, query)?;
        let found = self.releases.kernel().explain(index, asked.by_canary_port, asked.client, asked.dscp);
        let found = found.ok_or_else(|| KernelError::Map {
            what: "explain a client's way",
            reason: format!("the packet program has no service `{service}`"),
        })?;
        let kernel = self.releases.kernel();
        Ok(explain::status(config, asked, &found, |index| kernel.interface_name(index)))
    }

    fn flows(&self, query: &FlowsQuery, from: u32, limit: usize) -> Result<FlowsPart, AnswerError> {
        let service = query.service.as_deref().map(|name| self.releases.index(name)).transpose()?;
        let filter = Filter::new(query, service)?;
        let (kernel, services) = (self.releases.kernel(), self.releases.services());
        let end = from.saturating_add(flows::BUCKETS_PER_TURN).min(kernel.flow_buckets());
        let mut status = FlowsStatus::default();
        kernel.each_flow(from..end, &mut |flow| flows::take(&mut status, &filter, limit, flow, services));
        Ok(FlowsPart { status, next: (end < kernel.flow_buckets()).then_some(end) })
    }

    fn trace(&mut self, query: &TraceQuery) -> Result<mpsc::Receiver<Bytes>, AnswerError> {
        let service = query.service.as_deref().map(|name| self.releases.index(name)).transpose()?;
        let wanted = Wanted { service, one_in: query.one_in, drops: query.drops };
        let (kernel, services) = self.releases.kernel_and_services();
        Ok(self.tracer.start(kernel, services, wanted, Instant::now())?)
    }

    /// One turn of the loop: traced packets go to whoever reads them.
    pub(super) fn turn_trace(&mut self, now: Instant) {
        let (kernel, services) = self.releases.kernel_and_services();
        self.tracer.turn(kernel, services, now);
    }
}

/// The routes.
pub(super) fn router() -> Router<Asker> {
    Router::new()
        .route("/v1/services/{name}/explain", get(get_explain))
        .route("/v1/flows", get(get_flows))
        .route("/v1/trace", get(get_trace))
}

/// The paths, for messages.
pub(super) const PATHS: [&str; 3] = ["/v1/services/NAME/explain", "/v1/flows", "/v1/trace"];

async fn get_explain(
    State(asker): State<Asker>,
    name: Name,
    query: Result<Query<ExplainQuery>, QueryRejection>,
) -> Result<Response, ApiError> {
    let Path(service) = name?;
    let Query(query) = query.map_err(|rejection| wrong_query(&rejection, "?client=198.51.100.7:40000&dscp=46"))?;
    let ask = |answer| Request::Look(Look::Explain { service, query, answer });
    json(&asker.ask(ask).await??)
}

async fn get_flows(
    State(asker): State<Asker>,
    query: Result<Query<FlowsQuery>, QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(query) =
        query.map_err(|rejection| wrong_query(&rejection, "?service=web&state=established&limit=100"))?;
    let limit = flows::limit(&query).map_err(AnswerError::from)?;
    let mut sum = FlowsStatus::default();
    let mut next = Some(0);
    while let Some(from) = next {
        let (query, limit) = (query.clone(), limit - sum.flows.len());
        let ask = |answer| Request::Look(Look::Flows { query, from, limit, answer });
        let part = asker.ask(ask).await??;
        flows::add(&mut sum, part.status);
        next = part.next;
    }
    json(&sum)
}

/// Lines for as long as the other end reads.
async fn get_trace(
    State(asker): State<Asker>,
    query: Result<Query<TraceQuery>, QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(query) = query.map_err(|rejection| wrong_query(&rejection, "?service=web&one_in=100&drops=true"))?;
    if query.one_in == Some(0) {
        return Err(ApiError::bad_request("one in 0 packets is none: `one_in` is at least 1".to_owned()));
    }
    let lines = asker.ask(|answer| Request::Look(Look::Trace { query, answer })).await??;
    let head = [(header::CONTENT_TYPE, "application/x-ndjson")];
    Ok((head, axum::body::Body::new(Lines(lines))).into_response())
}

/// A body whose end is the trace's. Dropping it, as the server does when the connection closes, ends the trace.
struct Lines(mpsc::Receiver<Bytes>);

impl Body for Lines {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(context).map(|chunk| chunk.map(|chunk| Ok(Frame::data(chunk))))
    }
}

fn wrong_query(rejection: &QueryRejection, expected: &str) -> ApiError {
    ApiError::bad_request(format!("the query is not what this takes: {}; expected {expected}", rejection.body_text()))
}
