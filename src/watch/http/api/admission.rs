//! Decides who may see the status page, and who may act by it.

use std::net::IpAddr;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper::header::{AUTHORIZATION, HOST, HeaderMap, HeaderName, ORIGIN, REFERER};
use hyper::{StatusCode, Version};
use serde::Serialize;
use tokio::sync::Semaphore;
use tokio::time::sleep;

use super::Refusal;
use super::query::decode;
use crate::broker::config::{OperatorTokens, StatusMode};
use crate::store::Pool;
use crate::store::agents::{Role, authenticate, hash, is_hash};

/// The header that names the agent whose token is in `Authorization`.
const AGENT: &str = "postbell-agent";
/// The header in which our page says from where it was loaded, as `https://host`.
const PAGE: &str = "postbell-page";
/// The most agents' tokens that are looked up at a time, because strangers may send them and hellos need the same
/// connections.
const LOOKED_UP_AT_ONCE: usize = 1;
/// The delay of the answer to a wrong token, and how many such answers wait at a time: some twenty guesses a second
/// in all. A right token never waits.
const WRONG_WAIT: Duration = Duration::from_millis(250);
const WRONG_AT_ONCE: usize = 5;

/// The rights of a request. Each includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum May {
    /// No right.
    Nothing,
    /// Sees the mesh and the flow: names and numbers.
    Look,
    /// Also sees payloads, and why something failed.
    Read,
    /// Also redrives, purges, and retries or drops what is set aside.
    Operate,
}

/// The one who sent a request.
#[derive(Clone, Debug)]
pub(in crate::watch::http) struct Who {
    pub(in crate::watch::http) may: May,
    /// The name, for the log.
    pub(in crate::watch::http) name: Option<String>,
}

/// Decides who may do what.
pub(crate) struct Admission {
    mode: StatusMode,
    tokens: OperatorTokens,
    pool: Pool,
    wrong: Semaphore,
    looking: Semaphore,
    proxy_seen: AtomicBool,
}

impl Admission {
    /// Decides by the settings and, for orchestrators, by the registry.
    pub(crate) fn new(mode: StatusMode, tokens: OperatorTokens, pool: Pool) -> Self {
        Self {
            mode,
            tokens,
            pool,
            wrong: Semaphore::new(WRONG_AT_ONCE),
            looking: Semaphore::new(LOOKED_UP_AT_ONCE),
            proxy_seen: AtomicBool::new(false),
        }
    }

    /// Whether the status page is switched off.
    pub(in crate::watch::http) fn is_off(&self) -> bool {
        self.mode == StatusMode::Off
    }

    /// Whether a proxy on this machine passed a request on although users of this machine need no token.
    pub(super) fn lends_its_address(&self) -> bool {
        self.mode == StatusMode::Local && self.proxy_seen.load(Ordering::Relaxed)
    }

    pub(super) async fn admit(
        &self,
        headers: &HeaderMap,
        version: Version,
        peer: IpAddr,
    ) -> Result<Who, Refusal> {
        let from = asked_from(headers, version, peer);
        if from == From::Proxy {
            self.note_proxy();
        }
        let Some(token) = token(headers)? else {
            let may = match self.mode {
                StatusMode::Public => May::Look,
                StatusMode::Local if from == From::Here => May::Look,
                _ => May::Nothing,
            };
            return Ok(Who { may, name: None });
        };
        let found = match headers.get(AGENT) {
            None => self.by_setting(token),
            Some(agent) => {
                let agent =
                    agent.to_str().map_err(|_| Refusal::bad("Postbell-Agent must be percent-encoded"))?;
                self.by_registry(&decode(agent)?, token).await?
            }
        };
        match found {
            Some(who) => Ok(who),
            None => Err(self.wrong(peer).await),
        }
    }

    fn note_proxy(&self) {
        if !self.proxy_seen.swap(true, Ordering::Relaxed) && self.mode == StatusMode::Local {
            tracing::warn!(
                "a request to the status page came through a proxy on this machine. A request that such a proxy \
                 passes on without a trace counts as asked on this machine, and needs no token: set POSTBELL_STATUS=token"
            );
        }
    }

    fn by_setting(&self, token: &str) -> Option<Who> {
        let presented = hash(token);
        // Both are always compared, so that the time does not tell which one matched.
        let is = |stored: &Option<_>| stored.as_ref().is_some_and(|s: &[u8; 32]| is_hash(&presented, s));
        let (operator, viewer) = (is(&self.tokens.operator), is(&self.tokens.viewer));
        let who = |may, name: &str| Some(Who { may, name: Some(name.to_owned()) });
        match (operator, viewer) {
            (true, _) => who(May::Operate, "operator"),
            (false, true) => who(May::Read, "viewer"),
            (false, false) => None,
        }
    }

    /// As in the protocol, an orchestrator administers the dead letters of all inboxes. Other agents may see nothing
    /// of each other.
    async fn by_registry(&self, agent: &str, token: &str) -> Result<Option<Who>, Refusal> {
        // The semaphore is never closed.
        let _turn = self.looking.acquire().await;
        let found = authenticate(&self.pool, agent, token).await.map_err(|e| Refusal::of(&e))?;
        Ok(found
            .ok()
            .filter(|agent| Role::of(&agent.role).may_administer())
            .map(|agent| Who { may: May::Operate, name: Some(agent.agent_id) }))
    }

    async fn wrong(&self, peer: IpAddr) -> Refusal {
        let Ok(_turn) = self.wrong.try_acquire() else {
            return Refusal::new(StatusCode::TOO_MANY_REQUESTS, "too many wrong tokens at once; come again");
        };
        sleep(WRONG_WAIT).await;
        tracing::warn!(%peer, "a wrong token came to the status page");
        Refusal::new(StatusCode::UNAUTHORIZED, "this token is none of this broker's, or no orchestrator's")
    }
}

fn token(headers: &HeaderMap) -> Result<Option<&str>, Refusal> {
    let Some(value) = headers.get(AUTHORIZATION) else { return Ok(None) };
    let token = value.to_str().ok().and_then(|value| {
        let (scheme, token) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
    });
    token
        .map(Some)
        .ok_or_else(|| Refusal::new(StatusCode::UNAUTHORIZED, "the token must come as Authorization: Bearer"))
}

/// The origin of a request, as far as it shows before the token is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum From {
    Elsewhere,
    /// This machine, under its own name.
    Here,
    /// This machine's address, but something shows that the request began elsewhere.
    Proxy,
}

/// Tells where a request began. A proxy on this machine would lend its address to the whole world, and a foreign page
/// can make its own name resolve to this machine. So the request must name this machine, as must the page that it
/// comes from, and no header may be a proxy's. A proxy that adds no header and asks under this machine's name is
/// known only by its HTTP/1.0 (nginx) or by our page's header.
fn asked_from(headers: &HeaderMap, version: Version, peer: IpAddr) -> From {
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    // A page that may not tell its origin sends "null".
    let page = |name: &str| text(name).is_none_or(|at| names_this_machine(authority(at)));
    if !peer.to_canonical().is_loopback() {
        From::Elsewhere
    } else if version >= Version::HTTP_11
        && !headers.keys().any(is_of_a_proxy)
        && names_this_machine(text(HOST.as_str()).unwrap_or_default())
        && [PAGE, ORIGIN.as_str(), REFERER.as_str()].into_iter().all(page)
    {
        From::Here
    } else {
        From::Proxy
    }
}

fn is_of_a_proxy(name: &HeaderName) -> bool {
    let name = name.as_str();
    let exact =
        ["forwarded", "via", "x-real-ip", "x-client-ip", "true-client-ip", "cdn-loop", "x-request-start"];
    let families = ["x-forwarded-", "x-envoy-", "x-railway-", "x-amzn-", "x-cluster-", "cf-", "fly-"];
    exact.contains(&name) || families.iter().any(|family| name.starts_with(family))
}

/// The host and port of a URL.
fn authority(url: &str) -> &str {
    let rest = url.split_once("://").map_or("", |(_, rest)| rest);
    rest.split(['/', '?', '#']).next().unwrap_or_default()
}

fn names_this_machine(host: &str) -> bool {
    let without_port = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let ip = IpAddr::from_str(without_port.trim_matches(['[', ']']));
    without_port.eq_ignore_ascii_case("localhost") || ip.is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(k, v)| (hyper::header::HeaderName::from_static(k), HeaderValue::from_static(v)))
            .collect()
    }

    fn from(pairs: &[(&'static str, &'static str)], peer: &str) -> From {
        asked_from(&headers(pairs), Version::HTTP_11, peer.parse().expect("an address"))
    }

    #[test]
    fn only_what_was_asked_here_is_local() {
        let here = "::ffff:127.0.0.1";
        for host in ["localhost:9440", "127.0.0.1", "[::1]:9440", "LOCALHOST"] {
            assert_eq!(from(&[("host", host)], here), From::Here, "{host}");
        }
        for host in ["evil.example:9440", "localhost.evil.example", "10.0.0.1", ""] {
            assert_eq!(from(&[("host", host)], here), From::Proxy, "{host}");
        }
        assert_eq!(from(&[("host", "localhost")], "10.0.0.1"), From::Elsewhere);
        for proxy in ["x-forwarded-for", "forwarded", "via", "x-forwarded-proto", "x-real-ip", "cf-ray"] {
            assert_eq!(from(&[("host", "localhost"), (proxy, "1.2.3.4")], here), From::Proxy, "{proxy}");
        }
    }

    #[test]
    fn a_proxy_that_says_nothing_is_known_by_its_version_and_by_the_page() {
        let here = "127.0.0.1";
        let host = ("host", "127.0.0.1:9440");
        let old = asked_from(&headers(&[host]), Version::HTTP_10, here.parse().expect("an address"));
        assert_eq!(old, From::Proxy);
        for page in ["postbell-page", "origin", "referer"] {
            for at in ["http://127.0.0.1:9440", "http://localhost:9440/", "http://[::1]/#a"] {
                assert_eq!(from(&[host, (page, at)], here), From::Here, "{page} {at}");
            }
            for at in ["https://mesh.example.org/", "https://localhost.example.org", "null", "127.0.0.1", ""]
            {
                assert_eq!(from(&[host, (page, at)], here), From::Proxy, "{page} {at}");
            }
        }
    }

    #[test]
    fn a_token_comes_by_one_scheme() {
        assert_eq!(token(&headers(&[])).expect("none"), None);
        assert_eq!(token(&headers(&[("authorization", "bearer  t ")])).expect("one"), Some("t"));
        for other in ["Basic dTpw", "t"] {
            let map: HeaderMap =
                [(AUTHORIZATION, HeaderValue::from_str(other).expect("a value"))].into_iter().collect();
            assert!(token(&map).is_err(), "{other}");
        }
    }
}
