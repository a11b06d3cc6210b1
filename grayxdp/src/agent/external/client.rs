//! HTTP, with a limit to everything: time, bytes, redirects.

use std::{error::Error as _, sync::Arc, time::Duration};

use reqwest::{Response, Url, header::CONTENT_TYPE, redirect};
use tokio::time::timeout;

use super::CloudEvent;
use crate::decide::external::{Answer, prometheus};

/// The largest answer that is read; a single number needs some hundred bytes.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
const USER_AGENT: &str = concat!("grayxdp/", env!("CARGO_PKG_VERSION"));

/// Why there can be no client.
#[derive(Debug, thiserror::Error)]
#[error("cannot prepare HTTP calls for queries and webhooks: {0}")]
pub struct ClientError(String);

/// Keeps connections open between calls.
#[derive(Clone, Debug)]
pub(super) struct Client {
    http: reqwest::Client,
}

impl Client {
    pub(super) fn new() -> Result<Self, ClientError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        // Fails only where it was done already.
        let _ = rustls::crypto::CryptoProvider::install_default((*provider).clone());
        let http = reqwest::Client::builder()
            .redirect(redirect::Policy::none())
            .user_agent(USER_AGENT)
            .build()
            .map_err(|error| ClientError(root_cause(&error)))?;
        Ok(Self { http })
    }

    /// Asks a Prometheus server for the present value of a query.
    pub(super) async fn query(&self, server: &Url, query: &str, limit: Duration) -> Answer {
        let mut url = server.clone();
        let path = format!("{}/api/v1/query", server.path().trim_end_matches('/'));
        url.set_path(&path);
        let exchange = async {
            let response = self.http.get(url).query(&[("query", query)]).send().await?;
            let status = response.status().as_u16();
            Ok::<_, reqwest::Error>((status, body(response).await?))
        };
        match timeout(limit, exchange).await {
            Err(_) => Answer::TimedOut(limit),
            Ok(Err(error)) => Answer::Unreachable(root_cause(&error)),
            Ok(Ok((_, None))) => Answer::Malformed(format!("it is longer than {} KiB", ANSWER_BYTES_MAX / 1024)),
            Ok(Ok((status, Some(body)))) => prometheus::read(status, &body),
        }
    }

    /// Sends an event; `Ok` if the answer is 2xx, else why not.
    pub(super) async fn post(&self, url: &Url, event: &CloudEvent, limit: Duration) -> Result<(), String> {
        let body = serde_json::to_vec(event).map_err(|error| error.to_string())?;
        let request = self.http.post(url.clone()).header(CONTENT_TYPE, "application/cloudevents+json").body(body);
        match timeout(limit, request.send()).await {
            Err(_) => Err(format!("no answer within {}", humantime::format_duration(limit))),
            Ok(Err(error)) => Err(format!("cannot be reached: {}", root_cause(&error))),
            Ok(Ok(response)) if response.status().is_success() => Ok(()),
            Ok(Ok(response)) => Err(format!("HTTP {}", response.status().as_u16())),
        }
    }
}

/// `None` where it is too long.
async fn body(mut response: Response) -> Result<Option<Vec<u8>>, reqwest::Error> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if body.len() + chunk.len() > ANSWER_BYTES_MAX {
            return Ok(None);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Some(body))
}

/// The last of the causes says what happened; those before it only where.
fn root_cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    // An address may carry a password.
    if error.source().is_none() { "the exchange failed".to_owned() } else { cause.to_string() }
}
