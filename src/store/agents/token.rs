//! Tokens: 32 random bytes, shown once. The database has only their SHA-256.

use std::fmt;

use sha2::{Digest, Sha256};

use postbell_client::protocol::secret::TOKEN_PREFIX as PREFIX;

const RANDOM_BYTES: usize = 32;
/// The alphabet of RFC 4648's base64url: 32 bytes are 43 characters, without padding.
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// SHA-256 of a token. With 256 random bits there is nothing to guess, so no salt and no slow hash is needed.
pub type TokenHash = [u8; 32];

/// A token that was just made. It can be read once by whoever prints it, and never appears in a log.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// Makes one from the system's randomness.
    pub fn random() -> Self {
        let bytes: [u8; RANDOM_BYTES] = rand::random();
        Self(format!("{PREFIX}{}", base64url(&bytes)))
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
    base64url(&hash(text))
}

/// Compares every byte, whatever the first difference, so that the time tells nothing.
pub fn is_hash(a: &TokenHash, b: &[u8]) -> bool {
    a.len() == b.len() && std::hint::black_box(a.iter().zip(b).fold(0, |d, (x, y)| d | (x ^ y))) == 0
}

fn base64url(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let group = chunk.iter().enumerate().fold(0u32, |g, (i, b)| g | u32::from(*b) << (16 - 8 * i));
        for i in 0..=chunk.len() {
            text.push(char::from(ALPHABET[(group >> (18 - 6 * i)) as usize & 63]));
        }
    }
    text
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
    fn base64url_is_rfc_4648s() {
        assert_eq!(base64url(b"foobar"), "Zm9vYmFy");
        assert_eq!(base64url(b"fooba"), "Zm9vYmE");
        assert_eq!(base64url(b"foob"), "Zm9vYg");
        assert_eq!(base64url(&[0xfb, 0xff]), "-_8");
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
