//! The mark that a form of this page carries, so that no other page's form is taken for one.

use crate::error::{Error, ErrorKind, Result};

/// What nobody but this process knows, drawn anew whenever a router is made.
pub(super) struct Secret([u8; 32]);

impl Secret {
    pub(super) fn random() -> Result<Self> {
        let mut secret = [0; 32];
        getrandom::fill(&mut secret)
            .map_err(|e| Error::because(ErrorKind::Io, "the operating system gives no randomness", e))?;
        Ok(Self(secret))
    }

    /// The token of a form that says all this: keyed BLAKE3 over the parts, each with its length in front.
    pub(super) fn token(&self, parts: &[&str]) -> String {
        self.mac(parts).to_hex().to_string()
    }

    /// Whether this is the token of a form that says all this; in constant time, as [`blake3::Hash`] compares.
    pub(super) fn is_token(&self, token: &str, parts: &[&str]) -> bool {
        blake3::Hash::from_hex(token).is_ok_and(|token| token == self.mac(parts))
    }

    fn mac(&self, parts: &[&str]) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        for part in parts {
            hasher.update(&(part.len() as u64).to_le_bytes()).update(part.as_bytes());
        }
        hasher.finalize()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_that_of_one_form_of_one_process() {
        let (secret, other) = (Secret::random().unwrap(), Secret::random().unwrap());
        let token = secret.token(&["forget", "s", "k"]);
        assert!(secret.is_token(&token, &["forget", "s", "k"]));
        assert!(!other.is_token(&token, &["forget", "s", "k"]));
        for parts in [&["revoke", "s", "k"][..], &["forget", "sk", ""], &["forget", "", "sk"], &["forget", "s"], &[]] {
            assert!(!secret.is_token(&token, parts), "{parts:?}");
        }
        for forged in ["", "0", &token[..63], &token.replace(&token[..1], "g"), &format!("{token}0")] {
            assert!(!secret.is_token(forged, &["forget", "s", "k"]), "{forged:?}");
        }
    }
}
