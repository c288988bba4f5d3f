//! `/api`: the mesh as JSON, the flow as events, dead letters, and what is set aside. `docs/http-api.md` describes
//! it.

pub(crate) mod admission;
mod aside;
mod dead;
mod events;
mod messages;
mod query;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::{Body, Bytes};
use hyper::header::{HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use hyper::{Method, Request, StatusCode};
use serde::Serialize;
use serde_json::json;
use tokio::sync::{Notify, Semaphore};
use tokio::time::timeout;

use super::HttpConnection;
use super::answer::{HttpAnswer, JSON, json, not_allowed, respond};
use super::places::{Places, WhenFull};
use crate::store::{Pool, StoreError};
use crate::watch::flow::WATCHERS_MAX;
use crate::watch::status::Status;
use admission::{Admission, May, Who};
use events::Watcher;
use query::Query;

/// The most requests that use the database at a time; the next ones wait.
const ASKING_MAX: usize = 2;
/// How long such a request waits and runs in all.
const ASKING_WAIT: Duration = Duration::from_secs(5);

/// The connections of the API.
#[derive(Clone)]
pub(crate) struct Pools {
    /// For what is shown, with the server's own planner.
    pub reads: Pool,
    /// For what an operator changes.
    pub writes: Pool,
}

/// The state that the API shares; clones share it.
#[derive(Clone)]
pub(crate) struct Site {
    /// Decides who may do what.
    pub admission: Arc<Admission>,
    /// The mesh and the flow.
    pub status: Status,
    /// Connections to the database.
    pub pools: Pools,
    /// Wakes the tail after a redrive.
    pub wake: Arc<Notify>,
    asking: Arc<Semaphore>,
    /// The places of those who watch.
    seats: Places<Watcher>,
}

impl Site {
    /// A site that shows `status` to those whom `admission` admits.
    pub(crate) fn new(admission: Admission, status: Status, pools: Pools, wake: Arc<Notify>) -> Self {
        let asking = Arc::new(Semaphore::new(ASKING_MAX));
        Self {
            admission: Arc::new(admission),
            status,
            pools,
            wake,
            asking,
            seats: Places::new(WATCHERS_MAX, WhenFull::Refuse),
        }
    }

    /// Runs a request to the database when its turn comes.
    async fn ask<T>(&self, question: impl Future<Output = Result<T, StoreError>>) -> Result<T, Refusal> {
        let asked = timeout(ASKING_WAIT, async {
            // The semaphore is never closed.
            let _turn = self.asking.acquire().await;
            question.await
        });
        match asked.await {
            Ok(answer) => answer.map_err(|e| Refusal::of(&e)),
            Err(_) => Err(Refusal::busy("the database answers slowly; nothing is known to have been done")),
        }
    }
}

/// The reason why a request is refused.
#[derive(Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    sentence: String,
}

impl Refusal {
    fn new(status: StatusCode, sentence: impl Into<String>) -> Self {
        Self { status, sentence: sentence.into() }
    }

    fn bad(sentence: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, sentence)
    }

    fn busy(sentence: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, sentence)
    }

    fn of(error: &StoreError) -> Self {
        match error.is_retryable() {
            true => Self::busy(error.to_string()),
            false => Self::new(StatusCode::CONFLICT, error.to_string()),
        }
    }
}

impl From<Refusal> for HttpAnswer {
    fn from(refusal: Refusal) -> Self {
        let Refusal { status, sentence } = refusal;
        let mut answer = respond(status, JSON, json!({ "error": sentence }).to_string() + "\n");
        let headers = answer.headers_mut();
        if status == StatusCode::UNAUTHORIZED {
            // Not Basic: a browser would keep the password and send it with requests that other pages cause.
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"postbell\""));
        }
        if matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("2"));
        }
        answer
    }
}

/// Answers every path below `/api`.
pub(super) async fn answer<B>(
    site: &Site,
    peer: IpAddr,
    request: Request<B>,
    connection: &HttpConnection,
) -> HttpAnswer
where
    B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>,
{
    match route(site, peer, request, connection).await {
        Ok(answer) => answer,
        Err(refusal) => refusal.into(),
    }
}

async fn route<B>(
    site: &Site,
    peer: IpAddr,
    request: Request<B>,
    connection: &HttpConnection,
) -> Result<HttpAnswer, Refusal>
where
    B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>,
{
    let who = site.admission.admit(request.headers(), request.version(), peer).await?;
    let uri = request.uri().clone();
    let query = Query::parse(uri.query().unwrap_or_default())?;
    let segments: Vec<&str> = uri.path().trim_start_matches("/api").split('/').skip(1).collect();
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    match (segments.as_slice(), reads) {
        (["dead", "redrive"], _) => {
            dead::settle(site, &who, request, crate::pipeline::dead_letters::Ask::Redrive).await
        }
        (["dead", "purge"], _) => {
            dead::settle(site, &who, request, crate::pipeline::dead_letters::Ask::Purge).await
        }
        (["aside", "retry"], _) => aside::end(site, &who, request, aside::Deed::Retry).await,
        (["aside", "drop"], _) => aside::end(site, &who, request, aside::Deed::Drop).await,
        (["me" | "mesh" | "events" | "dead" | "aside"] | ["dead", _] | ["agents", _, "messages"], false) => {
            Ok(not_allowed("GET, HEAD"))
        }
        (["me"], _) => {
            let behind_proxy = site.admission.lends_its_address();
            Ok(json(&Me { may: who.may, name: who.name.as_deref(), behind_proxy }))
        }
        (["mesh"], _) => {
            who.must(May::Look)?;
            Ok(respond(StatusCode::OK, JSON, site.status.mesh().await))
        }
        (["events"], _) => {
            who.must(May::Look)?;
            events::events(site, &who, peer, connection).await
        }
        (["agents", agent, "messages"], _) => messages::messages(site, &who, agent, &query).await,
        (["aside"], _) => aside::list(site, &who, &query).await,
        (["dead"], _) => dead::list(site, &who, &query).await,
        (["dead", id], _) => dead::show(site, &who, id).await,
        _ => Err(Refusal::new(
            StatusCode::NOT_FOUND,
            "there is nothing here: docs/http-api.md lists the paths",
        )),
    }
}

/// The asking person's rights and name.
#[derive(Serialize)]
struct Me<'a> {
    may: May,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    /// See [`Admission::lends_its_address`].
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    behind_proxy: bool,
}

impl Who {
    fn must(&self, may: May) -> Result<(), Refusal> {
        if self.may >= may {
            return Ok(());
        }
        Err(match may {
            May::Operate if self.may > May::Look => Refusal::new(
                StatusCode::FORBIDDEN,
                "a viewer's token may look: to redrive or purge takes an operator's (POSTBELL_OPERATOR_TOKEN, or an \
                 agent's whose role is orchestrator)",
            ),
            _ => Refusal::new(
                StatusCode::UNAUTHORIZED,
                "a token is needed: send POSTBELL_VIEWER_TOKEN or POSTBELL_OPERATOR_TOKEN of the broker as \
                 Authorization: Bearer",
            ),
        })
    }
}
