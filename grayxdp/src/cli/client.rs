//! Talks to the agent over its control socket. Knows the socket only: no config, no kernel, no store.

use std::{
    future::Future,
    io,
    ops::ControlFlow,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use http_body_util::{BodyExt as _, Full};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1,
    header::{CONTENT_TYPE, HOST},
};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use tokio::net::UnixStream;

use crate::{
    agent::shapes::{
        AgentStatus, Detach, ErrorBody, FlowsQuery, FlowsStatus, HistoryQuery, HistoryStatus, Nothing, PinsStatus,
        ServiceStatus, SetWeight, Verb,
    },
    percent::percent,
};
use grayxdp_common::weight::Weight;

/// An agent that does not answer for so long is as good as absent.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an agent may take to end once it has taken all down.
const END_TIMEOUT: Duration = Duration::from_secs(10);
const END_POLL: Duration = Duration::from_millis(20);

/// Why a command did not get its answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    #[error(
        "no agent answers on {}: {why}. Start one (`grayxdp run --config FILE`), or say where its socket is with \
         --socket or GRAYXDP_SOCKET",
        socket.display()
    )]
    Unreachable { socket: PathBuf, why: String },
    #[error("may not use {}: permission denied. Run as root or as a member of the agent's `socket_group`", socket.display())]
    NotAllowed { socket: PathBuf },
    #[error("{message}")]
    Refused { code: String, message: String },
    #[error(
        "the agent on {} answers what this grayxdp does not understand: {why}. Use the grayxdp that the agent was \
         started from",
        socket.display()
    )]
    NotUnderstood { socket: PathBuf, why: String },
    #[error("there is no service `{name}`; the agent has: {}", known.join(", "))]
    UnknownService { name: String, known: Vec<String> },
    #[error("the agent has {} services; name one of them: {}", known.len(), known.join(", "))]
    ServiceNotNamed { known: Vec<String> },
    #[error("the agent on {} has taken all down, but does not end; see its log", socket.display())]
    DoesNotEnd { socket: PathBuf },
}

impl ClientError {
    /// For programs: as in the API's errors.
    pub(crate) fn code(&self) -> &str {
        match self {
            Self::Unreachable { .. } | Self::NotAllowed { .. } => "unreachable",
            Self::Refused { code, .. } => code,
            Self::UnknownService { .. } => "unknown_service",
            Self::ServiceNotNamed { .. } => "bad_request",
            Self::NotUnderstood { .. } | Self::DoesNotEnd { .. } => "internal",
        }
    }

    /// Whether there is no agent to talk to.
    pub(crate) fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::NotAllowed { .. })
    }
}

/// What is asked of a release.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Command {
    /// What needs no more than its name.
    Verb(Verb),
    /// A weight by hand, of one shard or of all.
    SetWeight(Weight, Option<String>),
    /// To pins or backends: the last part of the path, and the body.
    Change(&'static str, serde_json::Value),
}

/// What came of a command.
#[derive(Debug)]
pub(crate) struct Done {
    /// Before.
    pub(crate) before: ServiceStatus,
    /// After, and its JSON as the agent sent it.
    pub(crate) after: Answer<ServiceStatus>,
}

/// An answer, and its JSON as the agent sent it.
#[derive(Debug)]
pub(crate) struct Answer<T> {
    pub(crate) json: String,
    pub(crate) body: T,
}

/// One command's talk with the agent.
#[derive(Debug)]
pub(crate) struct Client {
    socket: PathBuf,
}

impl Client {
    pub(crate) fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// How all stands; with a name, only that service.
    pub(crate) fn status(&self, service: Option<&str>) -> Result<Answer<AgentStatus>, ClientError> {
        self.block_on(self.fetch_status(service))
    }

    /// Has something done. The service may be left out where the agent has only one.
    pub(crate) fn command(&self, service: Option<&str>, command: Command) -> Result<Done, ClientError> {
        self.block_on(async {
            let before = self.fetch_status(None).await?.body;
            let before = choose(before.services, service)?;
            let path = |name: &str| format!("/v1/services/{}/{name}", before.name);
            let after = match command {
                Command::Verb(verb) => self.ask(Method::POST, &path(verb.name()), Some(&Nothing {})).await?,
                Command::SetWeight(weight, shard) => {
                    let body = SetWeight { weight: percent(weight), shard };
                    self.ask(Method::POST, &path("set-weight"), Some(&body)).await?
                }
                Command::Change(name, body) => self.ask(Method::POST, &path(name), Some(&body)).await?,
            };
            Ok(Done { before, after })
        })
    }

    /// The pins of a service, which may be left out where the agent has only one.
    pub(crate) fn pins(&self, service: Option<&str>) -> Result<Answer<PinsStatus>, ClientError> {
        self.block_on(async {
            let status = self.fetch_status(None).await?.body;
            let name = choose(status.services, service)?.name;
            self.ask(Method::GET, &format!("/v1/services/{name}/pins"), None::<&Nothing>).await
        })
    }

    /// What was decided.
    pub(crate) fn history(&self, query: &HistoryQuery) -> Result<Answer<HistoryStatus>, ClientError> {
        let query = serde_urlencoded::to_string(query).map_err(|error| self.not_understood(error))?;
        self.block_on(self.ask(Method::GET, &format!("/v1/history?{query}"), None::<&Nothing>))
    }

    /// The service of that name as it stands; the name may be left out where the agent has only one.
    pub(crate) fn service(&self, name: Option<&str>) -> Result<ServiceStatus, ClientError> {
        choose(self.status(None)?.body.services, name)
    }

    /// Looks into the kernel's tables for a service, which may be left out where the agent has only one.
    pub(crate) fn look<T: DeserializeOwned>(
        &self,
        service: Option<&str>,
        what: &str,
        query: &impl Serialize,
    ) -> Result<Answer<T>, ClientError> {
        let query = serde_urlencoded::to_string(query).map_err(|error| self.not_understood(error))?;
        self.block_on(async {
            let status = self.fetch_status(None).await?.body;
            let name = choose(status.services, service)?.name;
            self.ask(Method::GET, &format!("/v1/services/{name}/{what}?{query}"), None::<&Nothing>).await
        })
    }

    /// What the flow table has.
    pub(crate) fn flows(&self, query: &FlowsQuery) -> Result<Answer<FlowsStatus>, ClientError> {
        let query = serde_urlencoded::to_string(query).map_err(|error| self.not_understood(error))?;
        self.block_on(self.ask(Method::GET, &format!("/v1/flows?{query}"), None::<&Nothing>))
    }

    /// Lines of an answer that goes on, until `take` breaks off, the time is over, or ctrl-C; each is a JSON object.
    pub(crate) fn stream(
        &self,
        path: &str,
        time_max: Option<Duration>,
        mut take: impl FnMut(&str) -> ControlFlow<()>,
    ) -> Result<(), ClientError> {
        self.block_on(async {
            let request = self.request(Method::GET, path, Vec::new())?;
            let mut response = self.answer_in_time(self.send(request)).await?;
            let status = response.status();
            if !status.is_success() {
                return Err(self.refused(status, &self.read(response).await?));
            }
            let body = response.body_mut();
            let work = async {
                let mut rest = Vec::new();
                while let Some(frame) = body.frame().await {
                    let frame = frame.map_err(|error| self.unreachable(error))?;
                    rest.extend_from_slice(frame.data_ref().map_or(&[], |data| data.as_ref()));
                    while let Some(end) = rest.iter().position(|&byte| byte == b'\n') {
                        let line: Vec<u8> = rest.drain(..=end).collect();
                        let line = std::str::from_utf8(&line).map_err(|error| self.not_understood(error))?;
                        if take(line.trim_end()).is_break() {
                            return Ok(());
                        }
                    }
                }
                Err(self.unreachable("it has ended"))
            };
            tokio::select! {
                done = work => done,
                () = tokio::time::sleep(time_max.unwrap_or(Duration::MAX)) => Ok(()),
                interrupted = tokio::signal::ctrl_c() => interrupted.map_err(|error| self.not_understood(error)),
            }
        })
    }

    /// Has the agent take all down, and waits until it has ended. Names of the interfaces that it was attached to.
    /// With pins given it does so only if they are the agent's.
    pub(crate) fn detach(&self, bpffs: Option<&Path>) -> Result<Vec<String>, ClientError> {
        self.block_on(async {
            let status = self.fetch_status(None).await?.body;
            let body = Detach { bpffs: bpffs.map(Path::to_owned) };
            self.ask::<Nothing>(Method::POST, "/v1/detach", Some(&body)).await?;
            self.wait_for_end().await?;
            Ok(status.interfaces.into_iter().map(|interface| interface.name).collect())
        })
    }

    fn block_on<T>(&self, work: impl Future<Output = Result<T, ClientError>>) -> Result<T, ClientError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.map_err(|error| self.unreachable(error))?.block_on(work)
    }

    async fn fetch_status(&self, service: Option<&str>) -> Result<Answer<AgentStatus>, ClientError> {
        let mut answer: Answer<AgentStatus> = self.ask(Method::GET, "/v1/status", None::<&Nothing>).await?;
        if service.is_some() {
            answer.body.services = vec![choose(answer.body.services, service)?];
            answer.json = serde_json::to_string(&answer.body).map_err(|error| self.not_understood(error))?;
        }
        Ok(answer)
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<Answer<T>, ClientError> {
        let body = body.map(serde_json::to_vec).transpose().map_err(|error| self.not_understood(error))?;
        let request = self.request(method, path, body.unwrap_or_default())?;
        let exchange = async {
            let response = self.send(request).await?;
            Ok((response.status(), self.read(response).await?))
        };
        let (status, json) = self.answer_in_time(exchange).await?;
        if !status.is_success() {
            return Err(self.refused(status, &json));
        }
        let body = serde_json::from_str(&json).map_err(|error| self.not_understood(error))?;
        Ok(Answer { json, body })
    }

    fn request(&self, method: Method, path: &str, body: Vec<u8>) -> Result<Request<Full<Bytes>>, ClientError> {
        Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, "grayxdp")
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| self.not_understood(error))
    }

    async fn answer_in_time<T>(&self, work: impl Future<Output = Result<T, ClientError>>) -> Result<T, ClientError> {
        let late = |_| self.unreachable(format!("no answer within {} s", ANSWER_TIMEOUT.as_secs()));
        tokio::time::timeout(ANSWER_TIMEOUT, work).await.map_err(late)?
    }

    fn refused(&self, status: StatusCode, json: &str) -> ClientError {
        match serde_json::from_str(json) {
            Ok(ErrorBody { error }) => ClientError::Refused { code: error.code, message: error.message },
            Err(_) => self.not_understood(format!("status {status} with {json:?}")),
        }
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, ClientError> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => ClientError::NotAllowed { socket: self.socket.clone() },
            io::ErrorKind::NotFound => self.unreachable("there is no such socket"),
            io::ErrorKind::ConnectionRefused => self.unreachable("the agent that made the socket is gone"),
            _ => self.unreachable(error),
        })?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| self.unreachable(error))?;
        // Ends with the exchange; what goes wrong in it shows in the answer.
        tokio::spawn(async move { drop(connection.await) });
        sender.send_request(request).await.map_err(|error| self.unreachable(error))
    }

    async fn read(&self, response: Response<Incoming>) -> Result<String, ClientError> {
        let body = response.into_body().collect().await.map_err(|error| self.unreachable(error))?.to_bytes();
        String::from_utf8(body.into()).map_err(|error| self.not_understood(error))
    }

    async fn wait_for_end(&self) -> Result<(), ClientError> {
        let asked = Instant::now();
        while UnixStream::connect(&self.socket).await.is_ok() {
            if asked.elapsed() > END_TIMEOUT {
                return Err(ClientError::DoesNotEnd { socket: self.socket.clone() });
            }
            tokio::time::sleep(END_POLL).await;
        }
        Ok(())
    }

    fn unreachable(&self, why: impl ToString) -> ClientError {
        ClientError::Unreachable { socket: self.socket.clone(), why: why.to_string() }
    }

    fn not_understood(&self, why: impl ToString) -> ClientError {
        ClientError::NotUnderstood { socket: self.socket.clone(), why: why.to_string() }
    }
}

/// The service of that name; without a name, the only one.
fn choose(services: Vec<ServiceStatus>, name: Option<&str>) -> Result<ServiceStatus, ClientError> {
    let known: Vec<String> = services.iter().map(|service| service.name.clone()).collect();
    match name {
        Some(name) => services
            .into_iter()
            .find(|service| service.name == name)
            .ok_or_else(|| ClientError::UnknownService { name: name.to_owned(), known }),
        None => match <[ServiceStatus; 1]>::try_from(services) {
            Ok([service]) => Ok(service),
            Err(_) => Err(ClientError::ServiceNotNamed { known }),
        },
    }
}
