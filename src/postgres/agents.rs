//! The agents that may connect: names, tokens, roles.
//!
//! A token is 32 random bytes, shown once; the registry keeps its SHA-256. It is random enough that a slow
//! password hash would add nothing but load.

use std::time::SystemTime;

use sha2::{Digest, Sha256};

use super::error::StoreError;
use super::pool::Pool;
use super::publish::EVERYBODY;
use crate::protocol::limits::NAME_BYTES_MAX;

const AUTHENTICATE: &str = include_str!("../../sql/queries/agent_authenticate.sql");
const ADD: &str = include_str!("../../sql/queries/agent_add.sql");
const LIST: &str = include_str!("../../sql/queries/agent_list.sql");
const ROTATE: &str = include_str!("../../sql/queries/agent_rotate.sql");
const DISABLE: &str = include_str!("../../sql/queries/agent_disable.sql");
const WAITING: &str = include_str!("../../sql/queries/agent_waiting.sql");
const REMOVE: &str = include_str!("../../sql/queries/agent_remove.sql");

/// What a token begins with, so that one in a log or a commit is recognised.
const TOKEN_PREFIX: &str = "pb_";

/// A token, shown once.
pub struct Token(String);

impl Token {
    /// A new random one.
    pub fn random() -> Self {
        let bytes: [u8; 32] = rand::random();
        let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        Self(format!("{TOKEN_PREFIX}{hex}"))
    }

    /// The text to give to the agent.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    fn hash(&self) -> Vec<u8> {
        hash(&self.0)
    }
}

fn hash(token: &str) -> Vec<u8> {
    Sha256::digest(token.as_bytes()).to_vec()
}

/// Compares without telling by its duration how much was right.
fn equal(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |different, (a, b)| different | (a ^ b)) == 0
}

/// Whether this agent has this token; then its name, as the inbox is called.
///
/// # Errors
/// See [`StoreError`].
pub async fn authenticate(pool: &Pool, agent: &str, token: &str) -> Result<Option<String>, StoreError> {
    let rows = pool.query(AUTHENTICATE, &[&agent]).await?;
    let known = rows.first().and_then(|row| row.get::<_, Option<Vec<u8>>>("token_hash"));
    // Hashed and compared for an unknown agent too: the time must not tell.
    let right = equal(&hash(token), known.as_deref().unwrap_or(&[0; 32]));
    let enabled = rows.first().is_some_and(|row| row.get("enabled"));
    Ok((right && enabled && known.is_some()).then(|| agent.to_owned()))
}

/// How an agent was added.
pub struct Added {
    /// Its token.
    pub token: Token,
    /// It was in the registry of an older mesh, without a token.
    pub was_registered: bool,
    /// The environment it is in: the one asked for, or the one it was registered with.
    pub environment: String,
}

/// Registers an agent.
///
/// # Errors
/// The name cannot be one, or has a token already; or see [`StoreError`].
pub async fn add(pool: &Pool, name: &str, environment: &str, role: &str) -> Result<Added, StoreError> {
    check_name(name)?;
    let token = Token::random();
    let rows = pool.query(ADD, &[&name, &environment, &role, &token.hash()]).await?;
    match rows.first() {
        Some(row) => {
            Ok(Added { token, was_registered: row.get("was_registered"), environment: row.get("environment") })
        }
        None => Err(StoreError::refused(format!(
            "agent {name} has a token already; `postbell agent rotate {name}` gives it a new one"
        ))),
    }
}

fn check_name(name: &str) -> Result<(), StoreError> {
    let ok = !name.is_empty() && name.len() <= NAME_BYTES_MAX && !name.chars().any(char::is_control);
    if !ok || name == EVERYBODY {
        return Err(StoreError::refused(format!(
            "an agent's name has 1 to {NAME_BYTES_MAX} printable bytes and is not {EVERYBODY:?}, which means \
             everybody"
        )));
    }
    Ok(())
}

/// An agent, as `list` shows it.
#[derive(Debug)]
#[expect(missing_docs, reason = "the names are the registry's columns")]
pub struct Agent {
    pub agent: String,
    pub environment: String,
    pub role: String,
    pub status: String,
    pub enabled: bool,
    pub has_token: bool,
    pub last_heartbeat: Option<SystemTime>,
    /// Deliveries that wait or are in flight.
    pub ready: i64,
    /// Dead letters.
    pub dead: i64,
}

/// Every agent, by environment and name.
///
/// # Errors
/// See [`StoreError`].
pub async fn list(pool: &Pool) -> Result<Vec<Agent>, StoreError> {
    let rows = pool.query(LIST, &[]).await?;
    let agent = |row: &tokio_postgres::Row| Agent {
        agent: row.get("agent_id"),
        environment: row.get("environment"),
        role: row.get("role"),
        status: row.get("status"),
        enabled: row.get("enabled"),
        has_token: row.get("has_token"),
        last_heartbeat: row.get("last_heartbeat"),
        ready: row.get("ready"),
        dead: row.get("dead"),
    };
    Ok(rows.iter().map(agent).collect())
}

/// Gives an agent a new token; the old one is void at once.
///
/// # Errors
/// There is no such agent; or see [`StoreError`].
pub async fn rotate(pool: &Pool, name: &str) -> Result<Token, StoreError> {
    let token = Token::random();
    found(name, pool.execute(ROTATE, &[&name, &token.hash()]).await?)?;
    Ok(token)
}

/// Refuses an agent's next hello.
///
/// # Errors
/// There is no such agent; or see [`StoreError`].
pub async fn disable(pool: &Pool, name: &str) -> Result<(), StoreError> {
    found(name, pool.execute(DISABLE, &[&name]).await?)
}

/// Forgets an agent. What waits for its name stays, so it is refused while something does, unless `force`d.
///
/// # Errors
/// There is no such agent, or something waits for it; or see [`StoreError`].
pub async fn remove(pool: &Pool, name: &str, force: bool) -> Result<(), StoreError> {
    let waiting: i64 = pool.query_one(WAITING, &[&name]).await?.get(0);
    if waiting > 0 && !force {
        return Err(StoreError::refused(format!(
            "{waiting} deliveries wait for {name}: let it handle them, or use --force, which leaves them waiting \
             for an agent of that name"
        )));
    }
    found(name, pool.execute(REMOVE, &[&name]).await?)
}

fn found(name: &str, rows: u64) -> Result<(), StoreError> {
    match rows {
        0 => Err(StoreError::refused(format!("there is no agent {name}; `postbell agent list` shows them"))),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_random_and_only_the_same_one_is_equal() {
        let (a, b) = (Token::random(), Token::random());
        assert!(a.reveal().starts_with(TOKEN_PREFIX) && a.reveal().len() == 67);
        assert!(equal(&a.hash(), &hash(a.reveal())));
        assert!(!equal(&a.hash(), &b.hash()));
        assert!(!equal(&a.hash(), &a.hash()[..31]));
    }

    #[test]
    fn a_name_that_means_everybody_or_breaks_a_line_is_none() {
        assert!(check_name("validation-agent").is_ok());
        for bad in ["", "*", "a\nb", &"x".repeat(257)] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
    }
}
