//! How values become the bytes that a checkpoint or an outcome keeps, and back. The only file that names bincode.

use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, ErrorKind, Result};

/// Most bytes that decoding may claim where no more were kept: a length inside bytes of another type cannot ask for
/// more memory than this.
const DECODE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Largest limit a payload may be given: lengths take four bytes in the file.
pub(crate) const PAYLOAD_BYTES_LIMIT: usize = 1024 * 1024 * 1024;

/// A value that a checkpoint or an outcome can keep. The codec is visible in the type.
///
/// | type | take it when |
/// | --- | --- |
/// | `Vec<u8>`, `String`, `()` | you have bytes, text or nothing to say |
/// | `Json<T>` (feature `json`) | deployments overlap: fields can be added, operators can read it |
/// | [`Bincode<T>`] | it must be small and fast, and `T` does not change while operations are kept |
///
/// Anybody may implement it: a value must decode from what it encoded to, in every later version of the server too.
pub trait Payload {
    /// The bytes to keep.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Codec`] where the value cannot be encoded.
    fn encode(&self) -> Result<Vec<u8>>;

    /// How many bytes it encodes to at least, as far as that can be told without encoding it: what is over the limit by
    /// this is refused before it is copied. Default: none.
    fn bytes_min(&self) -> usize {
        0
    }

    /// The value that these bytes hold.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Codec`] where the bytes hold no such value. The bytes stay as they are.
    fn decode(bytes: &[u8]) -> Result<Self>
    where
        Self: Sized;
}

impl Payload for Vec<u8> {
    fn encode(&self) -> Result<Vec<u8>> {
        Ok(self.clone())
    }

    fn bytes_min(&self) -> usize {
        self.len()
    }

    fn decode(bytes: &[u8]) -> Result<Self> {
        Ok(bytes.to_vec())
    }
}

impl Payload for String {
    fn encode(&self) -> Result<Vec<u8>> {
        Ok(self.clone().into_bytes())
    }

    fn bytes_min(&self) -> usize {
        self.len()
    }

    fn decode(bytes: &[u8]) -> Result<Self> {
        Self::from_utf8(bytes.to_vec()).map_err(undecodable::<Self>)
    }
}

/// No bytes at all.
impl Payload for () {
    fn encode(&self) -> Result<Vec<u8>> {
        Ok(Vec::new())
    }

    fn decode(bytes: &[u8]) -> Result<Self> {
        if bytes.is_empty() { Ok(()) } else { Err(undecodable::<Self>("there are bytes where none belong")) }
    }
}

/// A value kept as JSON: survives added fields between deployments, and people can read it.
#[cfg(feature = "json")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Json<T>(pub T);

#[cfg(feature = "json")]
impl<T: Serialize + DeserializeOwned> Payload for Json<T> {
    fn encode(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(&self.0).map_err(|e| unencodable::<T>(e))
    }

    fn decode(bytes: &[u8]) -> Result<Self> {
        serde_json::from_slice(bytes).map(Self).map_err(|e| undecodable::<T>(e))
    }
}

/// A value kept in bincode's fixed-width encoding: small and fast, and bound to the exact shape of `T`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Bincode<T>(pub T);

impl<T: Serialize + DeserializeOwned> Payload for Bincode<T> {
    fn encode(&self) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        write_fixed(&self.0, &mut bytes)?;
        Ok(bytes)
    }

    fn decode(bytes: &[u8]) -> Result<Self> {
        match read_fixed(bytes)? {
            (value, used) if used == bytes.len() => Ok(Self(value)),
            _ => Err(undecodable::<T>("bytes are left over")),
        }
    }
}

/// The limits that are checked before anything is queued.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) payload_bytes_max: usize,
}

impl Limits {
    /// The bytes of a payload, if they are not too many.
    pub(crate) fn encode(self, payload: &(impl Payload + ?Sized)) -> Result<Arc<[u8]>> {
        encode(payload, self.payload_bytes_max).map(Arc::from)
    }

    /// These bytes, if they are not too many.
    pub(crate) fn check(self, bytes: Vec<u8>) -> Result<Arc<[u8]>> {
        check(bytes.len(), self.payload_bytes_max)?;
        Ok(bytes.into())
    }
}

/// The bytes of a payload, if they are not more than this. It is not encoded where that is known before.
pub(crate) fn encode(payload: &(impl Payload + ?Sized), most: usize) -> Result<Vec<u8>> {
    check(payload.bytes_min(), most)?;
    let bytes = payload.encode()?;
    check(bytes.len(), most)?;
    Ok(bytes)
}

/// These bytes, copied only where some store might take them.
pub(crate) fn copy(bytes: &[u8]) -> Result<Vec<u8>> {
    check(bytes.len(), PAYLOAD_BYTES_LIMIT)?;
    Ok(bytes.to_vec())
}

fn check(len: usize, most: usize) -> Result<()> {
    if len > most {
        let message = format!("the payload has {len} bytes; at most {most} are allowed");
        return Err(Error::new(ErrorKind::PayloadTooLarge, message));
    }
    Ok(())
}

/// Bincode's fixed-width little-endian encoding (`legacy`), with a limit on what a decode may claim.
fn fixed<const MOST: usize>() -> impl bincode::config::Config {
    bincode::config::legacy().with_limit::<MOST>()
}

/// Appends the fixed-width encoding of `value`.
pub(crate) fn write_fixed<T: Serialize>(value: &T, bytes: &mut Vec<u8>) -> Result<()> {
    bincode::serde::encode_into_writer(value, Appender(bytes), fixed::<DECODE_BYTES_MAX>()).map_err(unencodable::<T>)
}

/// Lets bincode append to a buffer that is reused.
struct Appender<'a>(&'a mut Vec<u8>);

impl bincode::enc::write::Writer for Appender<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), bincode::error::EncodeError> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }
}

/// The value at the start of `bytes`, and how many of them it took.
pub(crate) fn read_fixed<T: DeserializeOwned>(bytes: &[u8]) -> Result<(T, usize)> {
    let decoded = if bytes.len() <= DECODE_BYTES_MAX {
        bincode::serde::decode_from_slice(bytes, fixed::<DECODE_BYTES_MAX>())
    } else {
        bincode::serde::decode_from_slice(bytes, fixed::<PAYLOAD_BYTES_LIMIT>())
    };
    decoded.map_err(|e| undecodable::<T>(e))
}

fn unencodable<T>(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    let name = std::any::type_name::<T>();
    Error::because(ErrorKind::Codec, format!("a value of type {name} cannot be encoded"), source)
}

fn undecodable<T>(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    let name = std::any::type_name::<T>();
    Error::because(ErrorKind::Codec, format!("the stored bytes hold no value of type {name}; they are kept"), source)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip<P: Payload + PartialEq + std::fmt::Debug>(value: &P) {
        assert_eq!(&P::decode(&value.encode().unwrap()).unwrap(), value);
    }

    #[test]
    fn every_codec_gives_back_what_it_was_given() {
        round_trip(&vec![0_u8, 255, 3]);
        round_trip(&"grün".to_owned());
        round_trip(&());
        round_trip(&Bincode((7_u32, Some("x".to_owned()))));
        #[cfg(feature = "json")]
        round_trip(&Json(vec![Some(1), None]));
    }

    /// What is over the limit by this is refused before it is copied, so it is never more than there are.
    #[test]
    fn what_a_payload_says_of_its_length_is_never_too_much() {
        fn said(value: &impl Payload) -> [usize; 2] {
            [value.bytes_min(), value.encode().unwrap().len()]
        }
        assert_eq!(said(&vec![7_u8; 90]), [90, 90]);
        assert_eq!(said(&"grün".to_owned()), [5, 5]);
        assert_eq!(said(&()), [0, 0]);
        assert_eq!(said(&Bincode(())), [0, 0]);
    }

    #[test]
    fn bytes_of_another_type_are_an_error_that_names_the_type() {
        let error = Bincode::<(u64, u64)>::decode(&[1, 2, 3]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Codec);
        assert!(error.to_string().contains("(u64, u64)"), "{error}");
        assert!(Bincode::<u8>::decode(&[1, 2]).is_err(), "bytes left over");
        assert!(<()>::decode(b"x").is_err());
        assert!(String::decode(&[0xff]).is_err());
    }

    /// What is kept can be read again, however large a payload the store takes.
    #[test]
    fn what_is_larger_than_a_small_decode_may_claim_decodes_too() {
        for len in [DECODE_BYTES_MAX - 8, DECODE_BYTES_MAX - 7, DECODE_BYTES_MAX, 3 * DECODE_BYTES_MAX] {
            let text = Bincode("x".repeat(len));
            let bytes = text.encode().unwrap();
            assert_eq!(bytes.len(), 8 + len);
            assert_eq!(Bincode::<String>::decode(&bytes).unwrap(), text, "{len} bytes");
        }
        let words = Bincode(vec![7_u64; DECODE_BYTES_MAX / 4]);
        assert_eq!(Bincode::<Vec<u64>>::decode(&words.encode().unwrap()).unwrap(), words);
    }

    #[test]
    fn a_length_inside_damaged_bytes_claims_no_memory() {
        let mut bytes = u64::MAX.to_le_bytes().to_vec();
        bytes.push(1);
        assert!(Bincode::<String>::decode(&bytes).is_err());
    }
}
