//! The bytes of a row that are not yet read, and how damage found in them is told.
//!
//! Invariant: what is taken was there. Nothing is allocated for a length before the bytes of that length are seen.

use std::sync::Arc;

use serde::de::DeserializeOwned;

use super::header::BodyHeader;
use crate::error::{Error, ErrorKind, Result};
use crate::payload::read_fixed;
use crate::record::Body;

pub(super) struct Parts<'a>(pub(super) &'a [u8]);

impl<'a> Parts<'a> {
    /// A header, fixed width.
    pub(super) fn header<T: DeserializeOwned>(&mut self) -> Result<T> {
        let (header, used) = read_fixed(self.0).map_err(|e| corrupt_by("a header does not decode", e))?;
        self.take(used)?;
        Ok(header)
    }

    pub(super) fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        let (part, rest) = self.0.split_at_checked(len).ok_or_else(|| corrupt("a part is missing"))?;
        self.0 = rest;
        Ok(part)
    }

    pub(super) fn text(&mut self, len: usize) -> Result<&'a str> {
        std::str::from_utf8(self.take(len)?).map_err(|e| corrupt_by("what should be text is not UTF-8", e))
    }

    pub(super) fn body(&mut self, header: &BodyHeader) -> Result<Body> {
        match &header.apart {
            Some(apart) => Ok(Body::Apart { row: apart.row, len: header.len, crc: apart.crc }),
            None => {
                let len = usize::try_from(header.len).map_err(|e| corrupt_by("a part is too long", e))?;
                Ok(Body::Here(Arc::from(self.take(len)?)))
            }
        }
    }
}

pub(super) fn corrupt(why: &str) -> Error {
    Error::new(ErrorKind::Corrupt, format!("the row is damaged: {why}"))
}

pub(super) fn corrupt_by(why: &str, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::because(ErrorKind::Corrupt, format!("the row is damaged: {why}"), source)
}
