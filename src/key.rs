//! What a caller says an operation is: its key, and the fingerprint of the request behind it.
//!
//! Invariants (P9):
//! 1. A `Key` has a scope by construction; no constructor leaves it out.
//! 2. Scope and key are kept length-prefixed, never joined, so no two pairs are ever equal as bytes.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};

/// Longest scope, in bytes.
pub(crate) const SCOPE_BYTES_MAX: usize = 128;
/// Longest client key, in bytes.
pub(crate) const KEY_BYTES_MAX: usize = 255;
/// Longest name of a checkpoint, in bytes.
pub(crate) const NAME_BYTES_MAX: usize = 128;

/// Hexadecimal digits of a key's digest, as logs show it.
const DIGEST_DIGITS: usize = 12;

// The length prefixes are single bytes.
const _: () = assert!(SCOPE_BYTES_MAX <= 255 && KEY_BYTES_MAX <= 255 && NAME_BYTES_MAX <= 255);

/// What one operation is known under: a scope chosen by the server (tenant, endpoint, user) and the client's key.
///
/// Scopes never see each other: the same client key in two scopes is two operations. Cloning is cheap. `Debug` shows a
/// digest only, since keys belong to clients and do not belong in logs.
///
/// ```
/// use reentry::Key;
///
/// let key = Key::new("checkout/customer-42", "8e03978e-40d5-43dd-bc93-6894a57f9324")?;
/// assert_eq!(key.scope(), "checkout/customer-42");
/// # Ok::<(), reentry::Error>(())
/// ```
///
/// A scope cannot be left out:
///
/// ```compile_fail
/// let key = reentry::Key::new("8e03978e-40d5-43dd-bc93-6894a57f9324");
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// Scope and client key, one after the other; where the scope ends stands beside it.
    text: Arc<str>,
    scope_len: u8,
}

impl Key {
    /// A key of 1 to 255 bytes in a scope of 1 to 128 bytes, both without control characters.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidKey`] where a length or a character is not allowed.
    pub fn new(scope: impl AsRef<str>, key: impl AsRef<str>) -> Result<Self> {
        let (scope, key) = (scope.as_ref(), key.as_ref());
        validate(scope, "scope", SCOPE_BYTES_MAX, ErrorKind::InvalidKey)?;
        validate(key, "key", KEY_BYTES_MAX, ErrorKind::InvalidKey)?;
        let scope_len = u8::try_from(scope.len()).map_err(|_| Error::new(ErrorKind::InvalidKey, "scope too long"))?;
        let mut text = String::with_capacity(scope.len() + key.len());
        text.push_str(scope);
        text.push_str(key);
        Ok(Self { text: text.into(), scope_len })
    }

    /// The key whose scope and client key stand one after the other in `text`, as a row keeps them.
    pub(crate) fn joined(text: &str, scope_len: u8) -> Result<Self> {
        let Some((scope, key)) = text.split_at_checked(scope_len.into()) else {
            return Err(Error::new(ErrorKind::InvalidKey, "the scope ends within a character"));
        };
        validate(scope, "scope", SCOPE_BYTES_MAX, ErrorKind::InvalidKey)?;
        validate(key, "key", KEY_BYTES_MAX, ErrorKind::InvalidKey)?;
        Ok(Self { text: text.into(), scope_len })
    }

    /// What the server chose: tenant, endpoint, user.
    pub fn scope(&self) -> &str {
        self.text.get(..usize::from(self.scope_len)).unwrap_or_default()
    }

    /// What the client sent.
    pub fn key(&self) -> &str {
        self.text.get(usize::from(self.scope_len)..).unwrap_or_default()
    }

    /// What logs show of it: 12 hexadecimal digits of the BLAKE3 digest of its scope and key, length first. The same
    /// after every restart, so that an operator who has a key finds its lines. It hides a key that nobody can guess;
    /// whoever can guess keys can digest the guesses.
    ///
    /// ```
    /// use reentry::Key;
    ///
    /// let key = Key::new("checkout/customer-42", "8e03978e-40d5-43dd-bc93-6894a57f9324")?;
    /// assert_eq!(format!("{key:?}"), format!("Key(#{})", key.digest()));
    /// # Ok::<(), reentry::Error>(())
    /// ```
    pub fn digest(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&[self.scope_len]).update(self.text.as_bytes());
        hasher.finalize().to_hex().chars().take(DIGEST_DIGITS).collect()
    }

    /// Bytes it takes, for limits by size.
    pub(crate) fn len(&self) -> usize {
        self.text.len()
    }

    /// Scope and key as bytes, with the scope's length: an injective form.
    pub(crate) fn parts(&self) -> (u8, &[u8]) {
        (self.scope_len, self.text.as_bytes())
    }
}

/// One write, length first: as injective as equality, and fast, since every call hashes its key.
impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u8(self.scope_len);
        state.write(self.text.as_bytes());
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key(#{})", self.digest())
    }
}

/// Checks a name that callers choose: its length in bytes, and that nothing in it can break a log line.
pub(crate) fn validate(text: &str, what: &str, bytes_max: usize, kind: ErrorKind) -> Result<()> {
    let fault = match text.len() {
        0 => format!("{what} is empty; give 1 to {bytes_max} bytes"),
        n if n > bytes_max => format!("{what} has {n} bytes; at most {bytes_max} are allowed"),
        _ if !is_plain(text) && text.chars().any(char::is_control) => {
            format!("{what} holds a control character; send printable text")
        }
        _ => return Ok(()),
    };
    Err(Error::new(kind, fault))
}

/// Whether all of it is printable ASCII, as nearly every key is: found without a question for each byte, so that the
/// processor looks at many at once.
fn is_plain(text: &str) -> bool {
    text.bytes().fold(true, |is_plain, byte| is_plain & matches!(byte, b' '..=b'~'))
}

/// Digest of a request, which binds a key to that one request.
///
/// A claim with another fingerprint under a known key is rejected. What goes into it is the server's choice: all that
/// makes two requests the same request, and nothing that differs between retries (dates, trace ids). `Debug` shows the
/// algorithm only.
#[derive(Clone, Copy, Eq)]
pub struct Fingerprint {
    pub(crate) algorithm: Algorithm,
    pub(crate) digest: [u8; 32],
}

/// How a digest was made; stored beside it, so that a later default can differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Algorithm {
    /// The caller's own digest.
    Foreign = 0,
    /// BLAKE3, 32 bytes, as specified in <https://github.com/BLAKE3-team/BLAKE3-specs>.
    Blake3 = 1,
}

impl Fingerprint {
    /// The BLAKE3 digest of these bytes.
    ///
    /// Where a request has several parts, prefix each with its length, or two requests may look alike.
    ///
    /// ```
    /// use reentry::Fingerprint;
    ///
    /// assert_eq!(Fingerprint::of(b"{}"), Fingerprint::of("{}"));
    /// assert_ne!(Fingerprint::of("{}"), Fingerprint::of("{ }"));
    /// ```
    pub fn of(request: impl AsRef<[u8]>) -> Self {
        Self { algorithm: Algorithm::Blake3, digest: *blake3::hash(request.as_ref()).as_bytes() }
    }

    /// A digest that the caller made with an algorithm of its own. It never equals one made by [`of`](Self::of).
    pub const fn from_digest(digest: [u8; 32]) -> Self {
        Self { algorithm: Algorithm::Foreign, digest }
    }
}

/// Shows no digest: it tells of the request.
impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({:?})", self.algorithm)
    }
}

/// In constant time, so that an answer's timing tells nothing about the digest that is stored.
impl PartialEq for Fingerprint {
    fn eq(&self, other: &Self) -> bool {
        let same = self.digest.iter().zip(&other.digest).fold(0, |acc, (a, b)| acc | (a ^ b));
        std::hint::black_box(same) == 0 && self.algorithm == other.algorithm
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p9_limits_are_exact_and_control_characters_are_refused() {
        assert!(Key::new("s", "k").is_ok());
        assert!(Key::new("s".repeat(128), "k".repeat(255)).is_ok());
        for (scope, key) in [
            (String::new(), "k".to_owned()),
            ("s".to_owned(), String::new()),
            ("s".repeat(129), "k".to_owned()),
            ("s".to_owned(), "k".repeat(256)),
            ("s\n".to_owned(), "k".to_owned()),
            ("s".to_owned(), "k\0".to_owned()),
            ("s".to_owned(), "k\u{85}".to_owned()),
        ] {
            assert_eq!(Key::new(scope, key).unwrap_err().kind(), ErrorKind::InvalidKey);
        }
    }

    #[test]
    fn p9_moving_the_border_between_scope_and_key_makes_another_key() {
        let (one, two) = (Key::new("ab", "c").unwrap(), Key::new("a", "bc").unwrap());
        assert_ne!(one, two);
        assert_ne!(one.parts(), two.parts());
    }

    #[test]
    fn p9_debug_shows_neither_scope_nor_key() {
        let shown = format!("{:?}", Key::new("tenant-7", "secret-key").unwrap());
        assert!(!shown.contains("tenant") && !shown.contains("secret"), "{shown}");
    }

    /// Whoever looks for the lines of a key knows it from logs of years ago.
    #[test]
    fn the_digest_of_a_key_is_the_same_for_ever_and_is_what_is_shown() {
        let key = Key::new("checkout/customer-42", "8e03978e").unwrap();
        assert_eq!(key.digest(), "5246d6f763ae");
        assert_eq!(format!("{key:?}"), format!("Key(#{})", key.digest()));
    }

    #[test]
    fn p9_fingerprints_that_differ_anywhere_are_others() {
        let one = [0x5A; 32];
        let differing = |bytes: &[(usize, u8)]| {
            let mut other = one;
            for (at, flipped) in bytes {
                other[*at] ^= flipped;
            }
            Fingerprint::from_digest(other) != Fingerprint::from_digest(one)
        };
        for at in 0..one.len() {
            assert!((0..8).all(|bit| differing(&[(at, 1 << bit)])), "in byte {at}");
        }
        assert!(differing(&[(3, 7), (9, 7)]) && differing(&[(0, 0xF0), (1, 0x0F), (2, 0xFF)]), "in several");
        assert!(!differing(&[]));
    }

    #[test]
    fn fingerprints_of_two_algorithms_never_meet() {
        let ours = Fingerprint::of("x");
        assert_ne!(ours, Fingerprint::from_digest(ours.digest));
    }

    /// The first test vector of the BLAKE3 specification: the digest of no bytes.
    #[test]
    fn the_fingerprint_is_blake3() {
        let shown = blake3::Hash::from(Fingerprint::of("").digest).to_hex();
        assert_eq!(shown.as_str(), "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262");
    }
}
