//! Tokens: 32 random bytes, shown once. The database has only their SHA-256.

use std::fmt;

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use postbell_client::protocol::secret::TOKEN_PREFIX as PREFIX;

const RANDOM_BYTES: usize = 32;
/// SHA-256 of a token. With 256 random bits there is nothing to guess, so no salt and no slow hash is needed.
pub type TokenHash = [u8; 32];

/// A token that was just made. It can be read once by whoever prints it, and never appears in a log.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// Makes one from the system's randomness.
    pub fn random() -> Self {
        let bytes: [u8; RANDOM_BYTES] = rand::random();
        Self(format!("{PREFIX}{}", BASE64_URL_SAFE_NO_PAD.encode(bytes)))
    }

    /// The text to hand to the agent.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// What is stored of it.
    pub fn hash(&self) -> TokenHash {
        hash(&self.0)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("pb_…")
    }
}

/// What is stored of a token.
pub fn hash(token: &str) -> TokenHash {
    Sha256::digest(token.as_bytes()).into()
}

/// A name of 43 characters for a text of any length; no other text has it.
pub fn fingerprint(text: &str) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(hash(text))
}

/// Compares in a time that tells nothing of where the first difference is.
pub fn is_hash(a: &TokenHash, b: &[u8]) -> bool {
    a.as_slice().ct_eq(b).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_43_characters_after_its_prefix() {
        let (one, two) = (Token::random(), Token::random());
        assert_eq!(one.reveal().len(), PREFIX.len() + 43);
        assert!(one.reveal().starts_with(PREFIX));
        assert!(one != two);
        assert_eq!(format!("{one:?}"), "pb_…");
    }

    #[test]
    fn hashes_are_compared_whole() {
        let a = hash("pb_a");
        assert!(is_hash(&a, &hash("pb_a")));
        let mut last = a;
        last[31] ^= 1;
        assert!(!is_hash(&a, &last));
        assert!(!is_hash(&a, &a[..31]));
        assert!(!is_hash(&a, &[]));
    }
}
