//! The agent's control socket, for those who ask often: JSON over HTTP.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, StatusCode, client::conn::http1};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{net::UnixStream, time::timeout};

const ANSWER_MAX: Duration = Duration::from_secs(10);

/// One request; returns the status and the body.
pub async fn ask(socket: &Path, method: Method, path: &str, body: &str) -> Result<(StatusCode, Value)> {
    let exchange = async {
        let stream = UnixStream::connect(socket).await.with_context(|| format!("cannot reach {}", socket.display()))?;
        let (mut sender, driver) = http1::handshake(TokioIo::new(stream)).await?;
        let driver = tokio::spawn(driver);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "agent")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::copy_from_slice(body.as_bytes())))?;
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        driver.abort();
        let value = serde_json::from_slice(&body).with_context(|| format!("{path}: status {status}, body {body:?}"))?;
        Ok((status, value))
    };
    timeout(ANSWER_MAX, exchange).await.with_context(|| format!("{path}: no answer within {ANSWER_MAX:?}"))?
}

/// The object of one service out of `/v1/status`.
pub async fn service_status(socket: &Path, service: &str) -> Result<Value> {
    let (status, body) = ask(socket, Method::GET, "/v1/status", "").await?;
    pick_service(&body, service).with_context(|| format!("status {status}"))
}

/// The object of one service out of the body of `/v1/status`.
pub fn pick_service(status: &Value, service: &str) -> Result<Value> {
    let services = status["services"].as_array().with_context(|| format!("no services in {status}"))?;
    services
        .iter()
        .find(|candidate| candidate["name"] == service)
        .cloned()
        .with_context(|| format!("no service `{service}` in {status}"))
}
