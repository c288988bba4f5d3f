//! Dead letters: listed for those who may read, redriven and purged by operators, as in the protocol.

use std::sync::Arc;

use http_body_util::{BodyExt, Limited};
use hyper::body::{Body, Bytes};
use hyper::header::CONTENT_TYPE;
use hyper::{Method, Request, StatusCode};
use serde::Serialize;

use super::admission::{May, Who};
use super::query::{Query, decode};
use super::{Refusal, Site};
use crate::pipeline::dead_letters::{Ask, Which, carry_out};
use crate::store::dead::{self, DeadLetter, Filter};
use crate::watch::http::answer::{HttpAnswer, json, not_allowed};
use postbell_client::protocol::ServerFrame;
use postbell_client::protocol::frame::dead::{Chosen, Done};
use postbell_engine::inbox::DeliveryId;

/// The number of letters on a page of the list, by default and at most.
const LIMIT_DEFAULT: i64 = 50;
const LIMIT_MAX: i64 = 200;
/// The most bytes of a request: room for a thousand ids of twenty digits.
const BODY_BYTES_MAX: usize = 32 * 1024;

#[derive(Serialize)]
struct Letters {
    letters: Vec<DeadLetter>,
    /// Whether there are more: the next page is asked for with `before` and the last letter's number.
    more: bool,
}

pub(super) async fn list(site: &Site, who: &Who, query: &Query) -> Result<HttpAnswer, Refusal> {
    who.must(May::Read)?;
    let limit = query.number("limit")?.unwrap_or(LIMIT_DEFAULT).clamp(1, LIMIT_MAX);
    let filter = Filter {
        inbox: query.text("inbox"),
        reason: query.text("reason"),
        before: query.number("before")?,
        limit: limit + 1,
    };
    let mut letters = site.ask(dead::list(&site.pools.reads, &filter)).await?;
    let more = letters.len() > limit as usize;
    letters.truncate(limit as usize);
    Ok(json(&Letters { letters, more }))
}

pub(super) async fn show(site: &Site, who: &Who, id: &str) -> Result<HttpAnswer, Refusal> {
    who.must(May::Read)?;
    let found = site.ask(dead::show(&site.pools.reads, &decode(id)?)).await;
    Ok(json(&found.map_err(|refusal| match refusal.status {
        StatusCode::CONFLICT => Refusal { status: StatusCode::NOT_FOUND, ..refusal },
        _ => refusal,
    })?))
}

/// Redrives or purges.
pub(super) async fn settle<B>(
    site: &Site,
    who: &Who,
    request: Request<B>,
    ask: fn(Which) -> Ask,
) -> Result<HttpAnswer, Refusal>
where
    B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>,
{
    if *request.method() != Method::POST {
        return Ok(not_allowed("POST"));
    }
    who.must(May::Operate)?;
    is_json(&request)?;
    let which = which(chosen(request.into_body()).await?)?;
    let by = who.name.as_deref().unwrap_or("operator");
    let done = match site.ask(carry_out(&site.pools.writes, by, &ask(which), None)).await? {
        ServerFrame::Redriven(done) => {
            site.wake.notify_one();
            done
        }
        ServerFrame::Purged(done) => done,
        _ => Done { reference: None, count: 0, last: None, more: false, refused: None },
    };
    Ok(json(&done))
}

/// Refuses other content types: a foreign page's form can send those without asking this server first.
pub(super) fn is_json<B>(request: &Request<B>) -> Result<(), Refusal> {
    let is_json = |value: &hyper::header::HeaderValue| value.as_bytes().starts_with(b"application/json");
    match request.headers().get(CONTENT_TYPE).is_some_and(is_json) {
        true => Ok(()),
        false => Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "send application/json")),
    }
}

/// Reads the choice in a body.
pub(super) async fn chosen<B>(body: B) -> Result<Chosen, Refusal>
where
    B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>,
{
    let too_large =
        || Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, format!("say it in at most {BODY_BYTES_MAX} bytes"));
    let body = Box::pin(Limited::new(body, BODY_BYTES_MAX)).collect().await.map_err(|_| too_large())?;
    serde_json::from_slice(&body.to_bytes())
        .map_err(|e| Refusal::bad(format!("say {{\"ids\": [1, 2]}} or {{\"inbox\": \"name\"}}: {e}")))
}

fn which(chosen: Chosen) -> Result<Which, Refusal> {
    chosen.check().map_err(|e| Refusal::bad(e.message))?;
    Ok(match chosen.inbox {
        Some(inbox) => Which::Inbox(Arc::from(inbox), chosen.after.map_or(DeliveryId::MIN, DeliveryId)),
        None => Which::Ids(chosen.ids, None),
    })
}
