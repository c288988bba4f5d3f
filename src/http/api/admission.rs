//! Who may see the status page, and who may do something by it.

use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use hyper::StatusCode;
use hyper::header::{AUTHORIZATION, FORWARDED, HOST, HeaderMap, VIA};
use serde::Serialize;
use tokio::sync::Semaphore;
use tokio::time::sleep;

use super::Refusal;
use super::query::decode;
use crate::config::{OperatorTokens, StatusMode};
use crate::postgres::Pool;
use crate::postgres::agents::{Role, authenticate, hash, is_hash};

/// The header that names the agent whose token comes by `Authorization`.
const AGENT: &str = "postbell-agent";
/// A wrong token is answered so much later, and so many at a time: some twenty guesses a second, whoever makes them. A right
/// one never waits.
const WRONG_WAIT: Duration = Duration::from_millis(250);
const WRONG_AT_ONCE: usize = 5;

/// What somebody may do; each may what the ones before may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum May {
    /// Nothing.
    Nothing,
    /// See the mesh and what passes: names and numbers.
    Look,
    /// Also see payloads, and why something failed.
    Read,
    /// Also redrive and purge.
    Operate,
}

/// Somebody.
#[derive(Clone, Debug)]
pub(in crate::http) struct Who {
    pub(in crate::http) may: May,
    /// For the log.
    pub(in crate::http) name: Option<String>,
}

/// Who may do what.
pub struct Admission {
    mode: StatusMode,
    tokens: OperatorTokens,
    pool: Pool,
    wrong: Semaphore,
}

impl Admission {
    /// By the settings, and by the registry for orchestrators.
    pub fn new(mode: StatusMode, tokens: OperatorTokens, pool: Pool) -> Self {
        Self { mode, tokens, pool, wrong: Semaphore::new(WRONG_AT_ONCE) }
    }

    /// Whether there is no status page at all.
    pub(in crate::http) fn is_off(&self) -> bool {
        self.mode == StatusMode::Off
    }

    pub(super) async fn admit(&self, headers: &HeaderMap, peer: IpAddr) -> Result<Who, Refusal> {
        let Some(token) = token(headers)? else {
            let may = match self.mode {
                StatusMode::Public => May::Look,
                StatusMode::Local if is_local(headers, peer) => May::Look,
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

    fn by_setting(&self, token: &str) -> Option<Who> {
        let presented = hash(token);
        // Both are compared, whichever is right.
        let is = |stored: &Option<_>| stored.as_ref().is_some_and(|s: &[u8; 32]| is_hash(&presented, s));
        let (operator, viewer) = (is(&self.tokens.operator), is(&self.tokens.viewer));
        let who = |may, name: &str| Some(Who { may, name: Some(name.to_owned()) });
        match (operator, viewer) {
            (true, _) => who(May::Operate, "operator"),
            (false, true) => who(May::Read, "viewer"),
            (false, false) => None,
        }
    }

    /// As the protocol has it: an orchestrator administers the dead letters of all. Other agents see nothing of each other.
    async fn by_registry(&self, agent: &str, token: &str) -> Result<Option<Who>, Refusal> {
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

/// Whether it was asked on this machine. A proxy here would lend its address to the whole world, and a page of elsewhere can
/// have its own name resolve to this machine: so the request must name this machine, and come from no proxy.
fn is_local(headers: &HeaderMap, peer: IpAddr) -> bool {
    let forwarded = [FORWARDED.as_str(), VIA.as_str(), "x-forwarded-for", "x-forwarded-host", "x-real-ip"];
    let host = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    peer.to_canonical().is_loopback()
        && !forwarded.iter().any(|name| headers.contains_key(*name))
        && names_this_machine(host)
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

    #[test]
    fn only_what_was_asked_here_is_local() {
        let here: IpAddr = "::ffff:127.0.0.1".parse().expect("an address");
        for host in ["localhost:9440", "127.0.0.1", "[::1]:9440", "LOCALHOST"] {
            assert!(is_local(&headers(&[("host", host)]), here), "{host}");
        }
        for host in ["evil.example:9440", "localhost.evil.example", "10.0.0.1", ""] {
            assert!(!is_local(&headers(&[("host", host)]), here), "{host}");
        }
        assert!(!is_local(&headers(&[("host", "localhost")]), "10.0.0.1".parse().expect("an address")));
        for proxy in ["x-forwarded-for", "forwarded", "via"] {
            assert!(!is_local(&headers(&[("host", "localhost"), (proxy, "1.2.3.4")]), here), "{proxy}");
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
