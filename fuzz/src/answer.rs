//! Any bytes as an answer of HTTP that was kept: an error, or an answer that goes in again as it came out; never a panic,
//! and never a header that is not kept.

use reentry::Payload;
use reentry::http::StoredResponse;

pub fn run(bytes: &[u8]) {
    // The magic is before it, which a fuzzer would take long to guess.
    let bytes = [b"\0reHTTP", bytes].concat();
    if let Ok(answer) = StoredResponse::decode(&bytes) {
        assert_eq!(answer.encode().ok().as_ref(), Some(&bytes), "an answer has two forms");
        let response = answer.into_response::<Vec<u8>>();
        assert!(!response.headers().contains_key("set-cookie"));
    }
}
