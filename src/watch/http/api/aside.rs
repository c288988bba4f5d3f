//! Rows that are set aside: listed for those who may read, retried or dropped by operators.

use hyper::body::{Body, Bytes};
use hyper::{Method, Request};
use serde::Serialize;
use serde_json::json as value;

use super::admission::{May, Who};
use super::dead::{chosen, is_json};
use super::query::Query;
use super::{Refusal, Site};
use crate::store::aside::{self, Aside, Filter};
use crate::watch::http::answer::{HttpAnswer, json, not_allowed};

/// The number of rows on a page of the list, by default and at most.
const LIMIT_DEFAULT: i64 = 50;
const LIMIT_MAX: i64 = 200;

#[derive(Serialize)]
struct Asides {
    asides: Vec<Aside>,
    /// Whether there are more: the next page is asked for with `before` and the last row's number.
    more: bool,
}

/// The action on the chosen rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Deed {
    Retry,
    Drop,
}

pub(super) async fn list(site: &Site, who: &Who, query: &Query) -> Result<HttpAnswer, Refusal> {
    who.must(May::Read)?;
    let limit = query.number("limit")?.unwrap_or(LIMIT_DEFAULT).clamp(1, LIMIT_MAX);
    let filter = Filter {
        inbox: query.text("inbox"),
        kind: query.text("kind"),
        before: query.number("before")?,
        limit: limit + 1,
    };
    let mut asides = site.ask(aside::list(&site.pools.reads, &filter)).await?;
    let more = asides.len() > limit as usize;
    asides.truncate(limit as usize);
    Ok(json(&Asides { asides, more }))
}

/// Drops rows, or makes them due, so that the task for what is set aside tries them.
pub(super) async fn end<B>(
    site: &Site,
    who: &Who,
    request: Request<B>,
    deed: Deed,
) -> Result<HttpAnswer, Refusal>
where
    B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>,
{
    if *request.method() != Method::POST {
        return Ok(not_allowed("POST"));
    }
    who.must(May::Operate)?;
    is_json(&request)?;
    let which = chosen(request.into_body()).await?;
    which.check().map_err(|e| Refusal::bad(e.message))?;
    let by = who.name.as_deref().unwrap_or("operator");
    let ids = Some(which.ids.as_slice()).filter(|ids| !ids.is_empty());
    let chosen = aside::Chosen { ids, inbox: which.inbox.as_deref() };
    let count = match deed {
        Deed::Retry => site.ask(aside::retry_soon(&site.pools.writes, chosen)).await?,
        Deed::Drop => site.ask(aside::drop_some(&site.pools.writes, chosen)).await?,
    };
    tracing::info!(by, count, ?deed, "what was set aside");
    Ok(json(&value!({ "count": count })))
}
