//! What each path answers.

use std::time::Instant;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use prometheus::{TEXT_FORMAT, TextEncoder};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tracing::{debug, error};

use super::HttpState;

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
const NOT_FOUND: &str =
    "There is nothing here. The paths are /metrics, /health, /health/ready and /health/live.\n";

pub(super) struct Routes {
    state: HttpState,
    /// Scrapes that come together share the database gently: the refresh runs once at a time.
    refreshing: Semaphore,
}

impl Routes {
    pub(super) fn new(state: HttpState) -> Self {
        Self { state, refreshing: Semaphore::new(1) }
    }

    /// Answers a request. For HEAD hyper sends the same headers and leaves the body out.
    pub(super) async fn answer<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        let path = request.uri().path();
        if !matches!(path, "/metrics" | "/health" | "/health/ready" | "/health/live") {
            return respond(StatusCode::NOT_FOUND, TEXT, NOT_FOUND);
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut response =
                respond(StatusCode::METHOD_NOT_ALLOWED, TEXT, "Only GET and HEAD are answered here.\n");
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        match path {
            "/metrics" => self.metrics().await,
            "/health/live" => respond(StatusCode::OK, TEXT, "ok\n"),
            _ => self.ready(),
        }
    }

    async fn metrics(&self) -> Response<Full<Bytes>> {
        self.refresh().await;
        match TextEncoder::new().encode_to_string(&self.state.registry.gather()) {
            Ok(text) => respond(StatusCode::OK, TEXT_FORMAT, text),
            Err(error) => {
                error!(%error, "http: the metrics could not be encoded");
                let sentence = "The metrics could not be encoded; the broker's log says why.\n";
                respond(StatusCode::INTERNAL_SERVER_ERROR, TEXT, sentence)
            }
        }
    }

    /// Waits for fresh gauges, but not for long: what is in memory is shown in any case.
    async fn refresh(&self) {
        let Some(refresh) = &self.state.refresh else { return };
        let fresh = async {
            // Waiting for one's turn is part of the wait, so a slow database holds up no queue of scrapes.
            let _turn = self.refreshing.acquire().await;
            refresh().await;
        };
        if timeout(self.state.limits.refresh_wait, fresh).await.is_err() {
            debug!("http: the database's gauges are shown as they last were");
        }
    }

    fn ready(&self) -> Response<Full<Bytes>> {
        let readiness = self.state.health.ready(Instant::now());
        let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        match serde_json::to_string(&readiness) {
            Ok(json) => respond(status, JSON, json + "\n"),
            // Cannot happen with these types; the status is what a health check reads.
            Err(_) => respond(status, TEXT, "The conditions could not be written.\n"),
        }
    }
}

fn respond(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    // A health answer out of a proxy's cache would be a lie.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
