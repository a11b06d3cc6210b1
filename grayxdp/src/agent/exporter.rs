//! Metrics and health on a TCP port, for anyone who reaches it: nothing here changes anything. Connections are few and
//! do not last, so that nobody can use up what the control socket needs.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{net::TcpListener, sync::Semaphore};

use super::request::{Asker, Request};
use crate::metrics::{self, Format};

/// Scrapers at the same time.
const CONNECTIONS_MAX: usize = 32;
/// How long a request's head may take, and how long an idle connection is kept.
const HEAD_TIMEOUT: Duration = Duration::from_secs(90);
/// How long no connection is accepted after one could not be (no file descriptors left).
const ACCEPT_PAUSE: Duration = Duration::from_millis(500);
/// A loop that does not answer for so long is stuck.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(2);

/// Serves for ever.
pub(super) async fn serve(listener: TcpListener, asker: Asker) {
    let service = TowerToHyperService::new(router(asker));
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!("metrics_connection_failed {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .serve_connection(TokioIo::new(stream), service.clone());
        tokio::spawn(async move {
            let _place = place;
            // A scraper that goes away is its own affair.
            let _ = connection.await;
        });
    }
}

fn router(asker: Asker) -> Router {
    Router::new()
        .route("/metrics", get(metrics_page))
        .route("/healthz", get(health))
        .fallback(|| async { (StatusCode::NOT_FOUND, "there are /metrics and /healthz\n") })
        .with_state(asker)
}

async fn metrics_page(State(asker): State<Asker>, headers: HeaderMap) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let format = Format::accepted_by(accept);
    let snapshot = match asker.ask(|answer| Request::Metrics { answer }).await {
        Ok(Ok(snapshot)) => snapshot,
        Ok(Err(error)) => return unavailable(error.to_string()),
        Err(error) => return unavailable(error.to_string()),
    };
    match metrics::page(snapshot, format) {
        Ok(page) => ([(header::CONTENT_TYPE, format.content_type())], page).into_response(),
        Err(error) => unavailable(error.to_string()),
    }
}

async fn health(State(asker): State<Asker>) -> Response {
    match tokio::time::timeout(HEALTH_TIMEOUT, asker.ask(|answer| Request::Health { answer })).await {
        Ok(Ok(health)) => match health.trouble {
            None => "ok\n".into_response(),
            Some(trouble) => format!("ok, but {trouble}\n").into_response(),
        },
        Ok(Err(error)) => unavailable(error.to_string()),
        Err(_) => unavailable("the agent's loop does not turn".to_owned()),
    }
}

fn unavailable(message: String) -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, message + "\n").into_response()
}
