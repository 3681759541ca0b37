//! Any bytes as a payload of any type: an error or a value, never a panic and never more memory than there are bytes
//! for; and a value that came out goes in again as it was.

use std::collections::BTreeMap;
use std::fmt::Debug;

use reentry::{Bincode, ErrorKind, Json, Payload};
use serde::{Deserialize, Serialize};

/// A bit of everything that serde knows.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Order {
    Empty,
    Named(String),
    Lines { id: u64, paid: Option<i32>, lines: Vec<(String, u8, bool)>, notes: BTreeMap<String, char> },
    Nested(Box<Order>),
}

fn round_trip<P: Payload + PartialEq + Debug>(bytes: &[u8]) -> Option<Vec<u8>> {
    match P::decode(bytes) {
        Ok(value) => {
            let again = value.encode().expect("what was decoded can be encoded");
            assert_eq!(P::decode(&again).expect("what was encoded can be decoded"), value);
            Some(again)
        }
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Codec);
            None
        }
    }
}

pub fn run(bytes: &[u8]) {
    // These have one form for each value.
    for again in [
        round_trip::<Vec<u8>>(bytes),
        round_trip::<String>(bytes),
        round_trip::<()>(bytes),
        round_trip::<Bincode<(u64, Option<u32>, Vec<String>, bool)>>(bytes),
    ] {
        assert!(again.is_none_or(|again| again == bytes));
    }
    round_trip::<Bincode<Order>>(bytes);
    round_trip::<Json<Order>>(bytes);
    // Any JSON at all; a fraction may come back as its neighbour, so only that it is answered counts.
    drop(Json::<serde_json::Value>::decode(bytes));
}
