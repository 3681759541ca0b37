//! The name that one step's effect goes by at the other side: the same in every attempt.
//!
//! Invariants:
//! 1. An id comes from scope, key and step alone: no clock, no randomness, no attempt, nothing that is stored.
//! 2. The three are hashed length-prefixed, so moving a border between them makes another id (P9).
//! 3. The rule never changes: a charge made under an id of today must be found under it after every upgrade.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::{Uuid, Variant, Version};

use crate::error::{Error, ErrorKind, Result};
use crate::key::Key;

/// Separates these digests from every other use of BLAKE3. A new rule would need a new one.
const CONTEXT: &str = "reentry 2026-11 effect id v1";

/// What one step of one operation is known under outside: a UUID of version 8 (RFC 9562), made from scope, key and
/// step.
///
/// It is equal for every retry: over restarts, over versions of this crate, and after retention has forgotten the
/// operation. Hand it to the other side as *its* idempotency key, or use it as the id of what the step makes: the
/// order, the mail, the row. Two steps, two keys and two scopes have different ids.
///
/// Anybody can compute it, in any language:
///
/// ```text
/// hash = BLAKE3 in key-derivation mode, context "reentry 2026-11 effect id v1"
/// for each of scope, key, step:
///     hash.update(length in bytes, as u32 little-endian)
///     hash.update(its bytes, UTF-8)
/// id = the first 16 bytes of hash,
///      with the upper 4 bits of byte 6 set to 1000 (the version) and the upper 2 bits of byte 8 to 10 (the variant)
/// ```
///
/// It may be shown and logged: nobody can get the key from it. But whoever knows or guesses scope, key and step can
/// compute it, so it is a name and no secret.
///
/// [`Display`](fmt::Display) writes it hyphenated and in lower case, and so does serde in formats for people; in others
/// it is 16 bytes. Only UUIDs of version 8 are read back.
///
/// ```
/// use reentry::EffectId;
///
/// let id: EffectId = "5cfb4825-d9ed-823a-967c-aab6c972423f".parse()?;
/// assert_eq!(id.to_string(), "5cfb4825-d9ed-823a-967c-aab6c972423f");
/// # Ok::<(), reentry::Error>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EffectId(Uuid);

impl EffectId {
    /// The id of this step of the operation under this key.
    pub(crate) fn of(key: &Key, step: &str) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
        for part in [key.scope(), key.key(), step] {
            // Scopes, keys and steps are all far shorter than a `u32` can say.
            let len = u32::try_from(part.len()).unwrap_or(u32::MAX);
            hasher.update(&len.to_le_bytes()).update(part.as_bytes());
        }
        let mut bytes = [0; 16];
        hasher.finalize_xof().fill(&mut bytes);
        Self(Uuid::new_v8(bytes))
    }

    /// Its 16 bytes, in the order in which they are written as text.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }

    /// Only a UUID that could have come from the rule.
    fn checked(uuid: Uuid) -> Option<Self> {
        (uuid.get_version() == Some(Version::Custom) && uuid.get_variant() == Variant::RFC4122).then_some(Self(uuid))
    }
}

impl AsRef<[u8]> for EffectId {
    fn as_ref(&self) -> &[u8] {
        self.as_bytes()
    }
}

/// Hyphenated, in lower case.
impl fmt::Display for EffectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self.0.as_hyphenated(), f)
    }
}

/// As it is displayed: nobody can get the key from it.
impl fmt::Debug for EffectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

const NO_EFFECT_ID: &str = "this is no effect id, which is a uuid of version 8; pass one on as it was displayed";

/// Reads what [`Display`](fmt::Display) writes; upper case and the other usual forms of a UUID too.
///
/// Fails with [`ErrorKind::Codec`] where the text is no UUID of version 8.
impl FromStr for EffectId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let uuid = Uuid::try_parse(text).map_err(|e| Error::because(ErrorKind::Codec, NO_EFFECT_ID, e))?;
        Self::checked(uuid).ok_or_else(|| Error::new(ErrorKind::Codec, NO_EFFECT_ID))
    }
}

impl Serialize for EffectId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for EffectId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let uuid = Uuid::deserialize(deserializer)?;
        Self::checked(uuid).ok_or_else(|| serde::de::Error::custom(NO_EFFECT_ID))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::payload::{Bincode, Payload};

    fn id(scope: &str, key: &str, step: &str) -> EffectId {
        EffectId::of(&Key::new(scope, key).unwrap(), step)
    }

    /// Computed with Python's `blake3` package, by the formula in docs/format.md.
    #[test]
    fn p9_ids_are_what_others_compute() {
        let longest = ("s".repeat(128), "k".repeat(255), "n".repeat(128));
        for (scope, key, step, expected) in [
            ("orders/ada", "key-1", "charge", "5cfb4825-d9ed-823a-967c-aab6c972423f"),
            ("ab", "c", "charge", "9437c371-0f94-8316-a2b2-766da326f93c"),
            ("a", "bc", "charge", "76d6ba80-ef74-866f-bae3-7ea4dc46102c"),
            ("a", "b", "cd", "6e6cace6-3099-8734-8a77-9d8a83f10a46"),
            ("a", "bc", "d", "e2deb2e9-a650-84d8-a4f7-01ed798c8ce6"),
            ("bestellung/Zürich 🍕", "ключ", "überweisen", "20dc30f3-340c-8d8d-832c-91cc53fc3c77"),
            (&longest.0, &longest.1, &longest.2, "ff910302-ff8a-89c9-b85c-b5970c5e702a"),
        ] {
            assert_eq!(id(scope, key, step).to_string(), expected);
        }
    }

    /// Every text of two letters and up to seven characters, cut into three parts in every way.
    #[test]
    fn p9_moving_a_border_makes_another_id() {
        let (mut ids, mut triples) = (HashSet::new(), 0);
        for length in 3..=7 {
            for letters in 0..1_u32 << length {
                let text: String = (0..length).map(|nth| if letters >> nth & 1 == 0 { 'a' } else { 'b' }).collect();
                for first in 1..length {
                    for second in first + 1..length {
                        ids.insert(id(&text[..first], &text[first..second], &text[second..]));
                        triples += 1;
                    }
                }
            }
        }
        assert_eq!((ids.len(), triples), (triples, 2_808));
    }

    #[test]
    fn it_is_a_uuid_of_version_8_shown_alike_everywhere() {
        let id = id("orders/ada", "key-1", "charge");
        let text = id.to_string();
        assert_eq!(format!("{id:?}"), text);
        assert_eq!((&text[14..15], text.len()), ("8", 36));
        assert_eq!(id.as_bytes()[..4], [0x5c, 0xfb, 0x48, 0x25]);
        assert_eq!(id.as_ref(), id.as_bytes());
        assert_eq!(text.parse::<EffectId>().unwrap(), id);
        assert_eq!(text.to_uppercase().parse::<EffectId>().unwrap(), id);
    }

    #[test]
    fn serde_writes_text_for_people_and_bytes_for_machines() {
        let id = id("orders/ada", "key-1", "charge");
        assert_eq!(serde_json::to_string(&id).unwrap(), "\"5cfb4825-d9ed-823a-967c-aab6c972423f\"");
        assert_eq!(serde_json::from_str::<EffectId>(&serde_json::to_string(&id).unwrap()).unwrap(), id);
        let bytes = Bincode(id).encode().unwrap();
        assert!(bytes.ends_with(id.as_bytes()) && bytes.len() < 36);
        assert_eq!(Bincode::<EffectId>::decode(&bytes).unwrap().0, id);
    }

    #[test]
    fn nothing_else_is_read_as_an_id() {
        for text in [
            "",
            "charge",
            "00000000-0000-0000-0000-000000000000",
            "ffffffff-ffff-ffff-ffff-ffffffffffff",
            // Version 4, and version 8 of the variant that is Microsoft's.
            "5cfb4825-d9ed-423a-967c-aab6c972423f",
            "5cfb4825-d9ed-823a-c67c-aab6c972423f",
            "5cfb4825-d9ed-823a-967c-aab6c972423",
        ] {
            assert_eq!(text.parse::<EffectId>().unwrap_err().kind(), ErrorKind::Codec, "{text}");
            assert!(serde_json::from_str::<EffectId>(&format!("\"{text}\"")).is_err(), "{text}");
        }
        let mut bytes = Bincode(id("s", "k", "n")).encode().unwrap();
        let version = bytes.len() - 16 + 6;
        bytes[version] = 0x40;
        assert_eq!(Bincode::<EffectId>::decode(&bytes).unwrap_err().kind(), ErrorKind::Codec);
    }
}
