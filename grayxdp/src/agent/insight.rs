//! Looking into the kernel's tables for people: `explain`, `flows`, `trace`. Changes nothing that packets obey.

use std::net::SocketAddr;

use axum::{
    Router,
    extract::{Path, Query, State, rejection::QueryRejection},
    response::Response,
    routing::get,
};
use tokio::sync::oneshot;

use super::{
    answers::Agent,
    api::{ApiError, Name, json},
    explain,
    kernel::Kernel,
    request::{AnswerError, Asker, Request},
    shapes::{ExplainQuery, ExplainStatus},
};
use crate::{
    decide::explain::Explanation,
    kernel::{DataPlane, KernelError},
};

/// What is asked of the data plane here: a part of the seam for tests.
pub(super) trait Insight {
    /// See [`DataPlane::explain`].
    fn explain(&self, service: usize, by_canary_port: bool, client: SocketAddr, dscp: u8) -> Option<Explanation>;
}

impl Insight for DataPlane {
    fn explain(&self, service: usize, by_canary_port: bool, client: SocketAddr, dscp: u8) -> Option<Explanation> {
        self.explain(service, by_canary_port, client, dscp)
    }
}

/// A question to the loop.
#[derive(Debug)]
pub(super) enum Look {
    /// Where a client goes, and why.
    Explain { service: String, query: ExplainQuery, answer: oneshot::Sender<Result<ExplainStatus, AnswerError>> },
}

impl<K: Kernel> Agent<K> {
    /// Answers; whoever asked and has gone since needs no answer.
    pub(super) fn look(&mut self, look: Look) {
        match look {
            Look::Explain { service, query, answer } => drop(answer.send(self.explain(&service, &query))),
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
        Ok(explain::status(config, asked, &found))
    }
}

/// The routes.
pub(super) fn router() -> Router<Asker> {
    Router::new().route("/v1/services/{name}/explain", get(get_explain))
}

/// The paths' last parts, for messages.
pub(super) const NAMES: [&str; 1] = ["explain"];

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

fn wrong_query(rejection: &QueryRejection, expected: &str) -> ApiError {
    ApiError::bad_request(format!("the query is not what this takes: {}; expected {expected}", rejection.body_text()))
}
