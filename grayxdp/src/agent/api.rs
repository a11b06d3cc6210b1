//! The control API: HTTP and JSON on the unix socket. Checks what comes in; all else is the loop's.

use axum::{
    Router,
    body::Bytes,
    extract::{
        ConnectInfo, DefaultBodyLimit, Path, Query, State,
        connect_info::Connected,
        rejection::{BytesRejection, PathRejection, QueryRejection},
    },
    http::{StatusCode, Uri, header},
    response::{IntoResponse, Response},
    routing::{get, post},
    serve::IncomingStream,
};
use grayxdp_common::ids::Version;
use serde::{Serialize, de::DeserializeOwned};
use tokio::net::UnixListener;

use super::{
    insight,
    releases::{Change, CommandError},
    request::{AnswerError, Asker, Command, Deed, Request, Stopping},
    shapes::{
        AddBackend, BackendBody, Detach, ErrorBody, ErrorDetail, HISTORY_LIMIT_MAX, HistoryQuery, Nothing, PinBody,
        PinRuleBody, SetWeight, Verb,
    },
    trace::TraceError,
};
use crate::{
    config::{BACKEND_WEIGHT_DEFAULT, BACKEND_WEIGHT_MAX},
    decide::{
        controller::Event,
        pin::{Pin, version_from_name},
    },
    kernel::KernelError,
    percent::weight_from_percent,
};

/// No request has a longer body.
const BODY_BYTES_MAX: usize = 4096;

/// Who is at the other end of a connection.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    /// As it goes to the history.
    actor: String,
}

impl Connected<IncomingStream<'_, UnixListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        let actor = match stream.io().peer_cred() {
            Ok(peer) => format!("uid {}", peer.uid()),
            Err(_) => "unknown user".to_owned(),
        };
        Self { actor }
    }
}

/// All routes.
pub(super) fn router(asker: Asker) -> Router {
    let mut router = Router::new()
        .route("/v1/status", get(status))
        .route("/v1/history", get(history))
        .route("/v1/services/{name}/set-weight", post(set_weight))
        .route("/v1/services/{name}/pins", get(pins))
        .route("/v1/detach", post(detach));
    for verb in Verb::ALL {
        let handler = move |asker, peer, name, body| command(verb, asker, peer, name, body);
        router = router.route(&format!("/v1/services/{{name}}/{}", verb.name()), post(handler));
    }
    for (name, read) in CHANGES {
        let handler = move |asker, peer, service, body| change(name, read, asker, peer, service, body);
        router = router.route(&format!("/v1/services/{{name}}/{name}"), post(handler));
    }
    router
        .merge(insight::router())
        .fallback(unknown_route)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(asker)
}

type Body = Result<Bytes, BytesRejection>;
pub(super) type Name = Result<Path<String>, PathRejection>;

async fn status(State(asker): State<Asker>) -> Result<Response, ApiError> {
    let status = asker.ask(|answer| Request::Status { answer }).await??;
    json(&status)
}

async fn history(
    State(asker): State<Asker>,
    query: Result<Query<HistoryQuery>, QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(query) = query.map_err(|rejection| {
        let expected = "service=NAME, after=ID and limit=N, each of them or none";
        ApiError::bad_request(format!("the query cannot be read: {}; expected {expected}", rejection.body_text()))
    })?;
    if let Some(limit) = query.limit.filter(|limit| *limit > HISTORY_LIMIT_MAX) {
        return Err(ApiError::bad_request(format!("{limit} is too many: at most {HISTORY_LIMIT_MAX} are listed")));
    }
    let history = asker.ask(|answer| Request::History { query, answer }).await??;
    json(&history)
}

async fn command(
    verb: Verb,
    State(asker): State<Asker>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    name: Name,
    body: Body,
) -> Result<Response, ApiError> {
    let _: Nothing = parse_or_default(&body?, "no body, or {}")?;
    let event = match verb {
        Verb::Start => Event::Start,
        Verb::Freeze => Event::Freeze,
        Verb::Resume => Event::Resume,
        Verb::Approve => Event::Approve,
        Verb::Rollback => Event::Rollback,
        Verb::Promote => Event::Promote,
    };
    carry_out(&asker, Command { service: name?.0, name: verb.name(), deed: Deed::Release(event), actor: peer.actor })
        .await
}

async fn set_weight(
    State(asker): State<Asker>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    name: Name,
    body: Body,
) -> Result<Response, ApiError> {
    let SetWeight { weight, shard } = parse(&body?, r#"{"weight": 12.5} or {"weight": 12.5, "shard": "internal"}"#)?;
    let weight = weight_from_percent(weight).map_err(|error| ApiError::bad_request(error.to_string()))?;
    let deed = match shard {
        Some(shard) => Deed::SetShardWeight { shard, weight },
        None => Deed::Release(Event::SetWeight(weight)),
    };
    carry_out(&asker, Command { service: name?.0, name: "set-weight", deed, actor: peer.actor }).await
}

/// Reads the body of a change.
type ReadChange = fn(&[u8]) -> Result<Change, ApiError>;

/// Changes of pins and backends: the last part of the path, and how the body is read.
const CHANGES: [(&str, ReadChange); 6] = [
    ("pin", |body| {
        let PinBody { source, dscp, version } = parse(body, r#"{"source": "198.51.100.0/24", "version": "v2"}"#)?;
        let rule = PinRuleBody { source, dscp }.rule().map_err(ApiError::bad_request)?;
        Ok(Change::Pin(Pin { rule, version: parse_version(&version)? }))
    }),
    ("unpin", |body| {
        let rule: PinRuleBody = parse(body, r#"{"source": "198.51.100.0/24"} or {"dscp": 46}"#)?;
        Ok(Change::Unpin(rule.rule().map_err(ApiError::bad_request)?))
    }),
    ("drain", |body| Ok(Change::Drain(parse_backend(body)?))),
    ("undrain", |body| Ok(Change::Undrain(parse_backend(body)?))),
    ("add-backend", |body| {
        let AddBackend { version, address, weight } =
            parse(body, r#"{"version": "v2", "address": "10.0.2.11:8080", "weight": 1}"#)?;
        let weight = weight.unwrap_or(BACKEND_WEIGHT_DEFAULT);
        if !(1..=BACKEND_WEIGHT_MAX).contains(&weight) {
            let message = format!("{weight} is no weight of a backend: those are 1 to {BACKEND_WEIGHT_MAX}");
            return Err(ApiError::bad_request(message));
        }
        Ok(Change::AddBackend { version: parse_version(&version)?, address, weight })
    }),
    ("remove-backend", |body| Ok(Change::RemoveBackend(parse_backend(body)?))),
];

fn parse_backend(body: &[u8]) -> Result<String, ApiError> {
    parse::<BackendBody>(body, r#"{"address": "10.0.1.10:8080"}"#).map(|body| body.address)
}

fn parse_version(name: &str) -> Result<Version, ApiError> {
    version_from_name(name).ok_or_else(|| ApiError::bad_request(format!("`{name}` is no version: write v1 or v2")))
}

async fn change(
    command: &'static str,
    read: ReadChange,
    State(asker): State<Asker>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    name: Name,
    body: Body,
) -> Result<Response, ApiError> {
    let deed = Deed::Change(read(&body?)?);
    carry_out(&asker, Command { service: name?.0, name: command, deed, actor: peer.actor }).await
}

async fn pins(State(asker): State<Asker>, name: Name) -> Result<Response, ApiError> {
    let service = name?.0;
    let pins = asker.ask(|answer| Request::Pins { service, answer }).await??;
    json(&pins)
}

async fn carry_out(asker: &Asker, command: Command) -> Result<Response, ApiError> {
    let service = asker.ask(|answer| Request::Command { command, answer }).await??;
    json(&service)
}

async fn detach(
    State(asker): State<Asker>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    body: Body,
) -> Result<Response, ApiError> {
    let Detach { bpffs } = parse_or_default(&body?, r#"no body, {}, or {"bpffs": "/sys/fs/bpf/grayxdp"}"#)?;
    asker.ask(|answer| Request::Detach { bpffs, actor: peer.actor, answer }).await??;
    json(&Nothing {})
}

async fn unknown_route(uri: Uri) -> ApiError {
    let verbs = Verb::ALL.map(Verb::name).join(", ");
    let changes = CHANGES.map(|(name, _)| name).join(", ");
    let message = format!(
        "there is no {}; there are GET /v1/status, GET /v1/history, GET /v1/services/NAME/pins, {}, POST /v1/services/NAME/COMMAND \
         (set-weight, {verbs}, {changes}) and POST /v1/detach",
        uri.path(),
        insight::PATHS.map(|path| format!("GET {path}")).join(", ")
    );
    ApiError { status: StatusCode::NOT_FOUND, code: "not_found", message }
}

async fn wrong_method(method: axum::http::Method, uri: Uri) -> ApiError {
    let last = uri.path().rsplit('/').next().unwrap_or_default();
    let right = if ["status", "history", "pins"].contains(&last)
        || insight::PATHS.iter().any(|path| path.ends_with(&format!("/{last}")))
    {
        "GET"
    } else {
        "POST"
    };
    let message = format!("{} does not do {method}; use {right}", uri.path());
    ApiError { status: StatusCode::METHOD_NOT_ALLOWED, code: "bad_request", message }
}

fn parse_or_default<T: DeserializeOwned + Default>(body: &[u8], expected: &str) -> Result<T, ApiError> {
    if body.iter().all(u8::is_ascii_whitespace) { Ok(T::default()) } else { parse(body, expected) }
}

fn parse<T: DeserializeOwned>(body: &[u8], expected: &str) -> Result<T, ApiError> {
    serde_json::from_slice(body).map_err(|error| {
        let what = if error.is_data() { "the body is not what this command takes" } else { "the body is not JSON" };
        ApiError::bad_request(format!("{what}: {error}; expected {expected}"))
    })
}

pub(super) fn json(body: &impl Serialize) -> Result<Response, ApiError> {
    respond(StatusCode::OK, body).map_err(|error| ApiError::internal(format!("cannot write the answer: {error}")))
}

fn respond(status: StatusCode, body: &impl Serialize) -> Result<Response, serde_json::Error> {
    let body = serde_json::to_vec(body)?;
    Ok((status, [(header::CONTENT_TYPE, "application/json")], body).into_response())
}

/// An answer that is not a success.
#[derive(Debug)]
pub(super) struct ApiError {
    status: StatusCode,
    code: &'static str,
    message: String,
}

impl ApiError {
    pub(super) fn bad_request(message: String) -> Self {
        Self { status: StatusCode::BAD_REQUEST, code: "bad_request", message }
    }

    fn internal(message: String) -> Self {
        Self { status: StatusCode::INTERNAL_SERVER_ERROR, code: "internal", message }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = ErrorBody { error: ErrorDetail { code: self.code.to_owned(), message: self.message } };
        respond(self.status, &body).unwrap_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response())
    }
}

impl From<Stopping> for ApiError {
    fn from(error: Stopping) -> Self {
        Self { status: StatusCode::SERVICE_UNAVAILABLE, code: "internal", message: error.to_string() }
    }
}

impl From<KernelError> for ApiError {
    fn from(error: KernelError) -> Self {
        Self::internal(error.to_string())
    }
}

impl From<AnswerError> for ApiError {
    fn from(error: AnswerError) -> Self {
        let (status, code) = match &error {
            AnswerError::Command(CommandError::UnknownService { .. }) => (StatusCode::NOT_FOUND, "unknown_service"),
            AnswerError::Command(CommandError::UnknownShard { .. }) => (StatusCode::NOT_FOUND, "unknown_shard"),
            AnswerError::Command(CommandError::Wrong { .. }) => (StatusCode::BAD_REQUEST, "bad_request"),
            AnswerError::Command(CommandError::Refused { .. } | CommandError::Misfit { .. })
            | AnswerError::Trace(TraceError::Busy)
            | AnswerError::OtherPins { .. } => (StatusCode::CONFLICT, "refused"),
            AnswerError::Command(CommandError::NotStored { .. }) => (StatusCode::SERVICE_UNAVAILABLE, "refused"),
            AnswerError::Command(
                CommandError::NotRaised { .. }
                | CommandError::NotLowered { .. }
                | CommandError::NotSet { .. }
                | CommandError::NotSevered { .. },
            )
            | AnswerError::Trace(TraceError::Kernel(_))
            | AnswerError::Kernel(_)
            | AnswerError::Store(_)
            | AnswerError::DetachFailed(_) => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
        };
        Self { status, code, message: error.to_string() }
    }
}

impl From<BytesRejection> for ApiError {
    fn from(rejection: BytesRejection) -> Self {
        let message = format!("the body cannot be taken (at most {BODY_BYTES_MAX} bytes): {}", rejection.body_text());
        Self { status: rejection.status(), code: "bad_request", message }
    }
}

impl From<PathRejection> for ApiError {
    fn from(rejection: PathRejection) -> Self {
        Self::bad_request(format!("the service's name in the path cannot be read: {}", rejection.body_text()))
    }
}
