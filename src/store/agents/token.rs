//! Tokens: 32 random bytes, shown once. The database keeps only their SHA-256.

use std::fmt;

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use postbell_client::protocol::secret::TOKEN_PREFIX as PREFIX;

const RANDOM_BYTES: usize = 32;
/// SHA-256 of a token. With 256 random bits there is nothing to guess, so no salt and no slow hash is needed.
pub type TokenHash = [u8; 32];

/// A token that was just made. Only `reveal` shows it; `Debug` does not, so no log holds it.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// Makes a token from the system's randomness.
    pub fn random() -> Self {
        let bytes: [u8; RANDOM_BYTES] = rand::random();
        Self(format!("{PREFIX}{}", BASE64_URL_SAFE_NO_PAD.encode(bytes)))
    }

    /// The text to hand to the agent.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// The hash that is stored.
    pub fn hash(&self) -> TokenHash {
        hash(&self.0)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("pb_…")
    }
}

/// The hash of a token's text, as it is stored.
pub fn hash(token: &str) -> TokenHash {
    Sha256::digest(token.as_bytes()).into()
}

/// A short name, 43 characters, for a text of any length: its SHA-256, so in practice no two texts share one.
pub fn fingerprint(text: &str) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(hash(text))
}

/// Compares in constant time, so that the time does not tell where the first difference is.
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
