//! How the HTTP servers ask the loop: each question brings the place for its answer.

use std::path::PathBuf;

use tokio::sync::{mpsc, oneshot};

use grayxdp_common::weight::Weight;

use super::{
    insight::Look,
    releases::{Change, CommandError},
    shapes::{AgentStatus, HistoryQuery, HistoryStatus, PinsStatus, ServiceStatus},
    trace::TraceError,
};
use crate::{decide::controller::Event, kernel::KernelError, metrics::Snapshot, store::StoreError};

/// Questions that may wait. More of them than that are refused by waiting in the servers.
const WAITING_MAX: usize = 64;

/// A question to the loop.
#[derive(Debug)]
pub(super) enum Request {
    /// Where all stands.
    Status { answer: oneshot::Sender<Result<AgentStatus, KernelError>> },
    /// What metrics are made of.
    Metrics { answer: oneshot::Sender<Result<Snapshot, KernelError>> },
    /// Whether the loop turns, and what is wrong.
    Health { answer: oneshot::Sender<Health> },
    /// What is pinned.
    Pins { service: String, answer: oneshot::Sender<Result<PinsStatus, AnswerError>> },
    /// What was decided.
    History { query: HistoryQuery, answer: oneshot::Sender<Result<HistoryStatus, AnswerError>> },
    /// What is in the kernel's tables.
    Look(Look),
    /// Something to do.
    Command { command: Command, answer: oneshot::Sender<Result<ServiceStatus, AnswerError>> },
    /// Take all down and end.
    Detach { bpffs: Option<PathBuf>, actor: String, answer: oneshot::Sender<Result<(), AnswerError>> },
}

/// Something to do with a service.
#[derive(Debug)]
pub(super) struct Command {
    pub(super) service: String,
    /// As in the API's path and in the history.
    pub(super) name: &'static str,
    pub(super) deed: Deed,
    pub(super) actor: String,
}

/// What.
#[derive(Debug)]
pub(super) enum Deed {
    /// To its release.
    Release(Event),
    /// To the weight of one shard, by name.
    SetShardWeight { shard: String, weight: Weight },
    /// To its pins or backends.
    Change(Change),
}

/// What a load balancer's watcher wants to know.
#[derive(Debug)]
pub(super) struct Health {
    /// Traffic and control work, but not all is well.
    pub(super) trouble: Option<String>,
}

/// Why the loop did not do it.
#[derive(Debug, thiserror::Error)]
pub(super) enum AnswerError {
    #[error(transparent)]
    Command(#[from] CommandError),
    #[error(transparent)]
    Trace(#[from] TraceError),
    #[error(transparent)]
    Kernel(#[from] KernelError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("not all could be taken down: {0}. The agent ends; run `grayxdp detach` again")]
    DetachFailed(String),
    #[error("this agent's pins are at {}, not at {}. Ask the agent of those, by its socket", own.display(), asked.display())]
    OtherPins { own: PathBuf, asked: PathBuf },
}

/// The loop is gone: the agent is ending.
#[derive(Debug, thiserror::Error)]
#[error("the agent is stopping and answers no more; weights and traffic stay as they are")]
pub(super) struct Stopping;

/// The servers' end.
#[derive(Clone, Debug)]
pub(super) struct Asker(mpsc::Sender<Request>);

/// Both ends.
pub(super) fn channel() -> (Asker, mpsc::Receiver<Request>) {
    let (sender, receiver) = mpsc::channel(WAITING_MAX);
    (Asker(sender), receiver)
}

impl Asker {
    /// Asks, and waits for the answer.
    pub(super) async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Result<T, Stopping> {
        let (answer, answered) = oneshot::channel();
        self.0.send(request(answer)).await.map_err(|_| Stopping)?;
        answered.await.map_err(|_| Stopping)
    }
}
