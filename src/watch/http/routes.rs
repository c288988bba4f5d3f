//! The answer of each path.

use std::net::IpAddr;
use tokio::time::Instant;

use hyper::body::{Body, Bytes};
use hyper::{Method, Request, StatusCode};
use prometheus::{TEXT_FORMAT, TextEncoder};
use tokio::sync::Mutex;
use tokio::time::timeout;
use tracing::{debug, error};

use super::answer::{HttpAnswer, JSON, TEXT, busy, not_allowed, respond};
use super::places::Places;
use super::{House, HttpConnection, HttpState, api, page};
use postbell_engine::guard::Source;

const NOT_FOUND: &str =
    "There is nothing here. The paths are /, /metrics, /health, /health/ready and /health/live.\n";

pub(super) struct Routes {
    state: HttpState,
    house: House,
    /// When the last finished refresh began. One refresh runs at a time, and scrapes that waited for it share the
    /// next one, so many scrapes at once cost the database little.
    refreshed: Mutex<Option<Instant>>,
}

impl Routes {
    pub(super) fn new(state: HttpState, house: House) -> Self {
        Self { state, house, refreshed: Mutex::default() }
    }

    fn places(&self, path: &str) -> &Places<Source> {
        match path {
            "/health" | "/health/ready" | "/health/live" => &self.house.health,
            "/metrics" => &self.house.scrapes,
            _ => &self.house.page,
        }
    }

    /// Answers a request. For HEAD, hyper sends the same headers without the body.
    pub(super) async fn answer<B>(
        &self,
        peer: IpAddr,
        request: Request<B>,
        connection: &HttpConnection,
    ) -> HttpAnswer
    where
        B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>,
    {
        let path = request.uri().path();
        let Some(place) = self.places(path).enter(Source::of(peer), connection.cut()) else {
            return busy();
        };
        connection.stand(Some(place));
        if let Some(site) = self.state.site.as_ref().filter(|site| !site.admission.is_off()) {
            if path == "/api" || path.starts_with("/api/") {
                return api::answer(site, peer, request, connection).await;
            }
            if let Some(file) = page::file(path) {
                return match *request.method() {
                    Method::GET | Method::HEAD => page::respond(file),
                    _ => not_allowed("GET, HEAD"),
                };
            }
        }
        if !matches!(path, "/metrics" | "/health" | "/health/ready" | "/health/live") {
            return respond(StatusCode::NOT_FOUND, TEXT, NOT_FOUND);
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return not_allowed("GET, HEAD");
        }
        match path {
            "/metrics" => self.metrics().await,
            "/health/live" => respond(StatusCode::OK, TEXT, "ok\n"),
            _ => self.ready(),
        }
    }

    async fn metrics(&self) -> HttpAnswer {
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

    /// Waits for fresh gauges, but not for long: the metrics in memory are shown in any case.
    async fn refresh(&self) {
        let Some(refresh) = &self.state.refresh else { return };
        let came = Instant::now();
        let fresh = async {
            // Waiting for the turn counts as well, so that a slow database does not make a queue of scrapes.
            let mut refreshed = self.refreshed.lock().await;
            if refreshed.is_some_and(|began| began >= came) {
                return;
            }
            let began = Instant::now();
            refresh().await;
            *refreshed = Some(began);
        };
        if timeout(self.state.limits.refresh_wait, fresh).await.is_err() {
            debug!("http: the database's gauges are shown as they last were");
        }
    }

    fn ready(&self) -> HttpAnswer {
        let readiness = self.state.health.ready(Instant::now());
        let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        match serde_json::to_string(&readiness) {
            Ok(json) => respond(status, JSON, json + "\n"),
            // Cannot happen with these types. A health check reads only the status.
            Err(_) => respond(status, TEXT, "The conditions could not be written.\n"),
        }
    }
}
