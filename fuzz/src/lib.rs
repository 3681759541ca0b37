//! What the fuzz targets do with the bytes they are given. Each is a plain function, so that `cargo test` can run them
//! too, over the corpora (`tests/corpus.rs`).

pub mod answer;
pub mod bytes;
pub mod caught;
pub mod export;
pub mod head;
pub mod history;
pub mod key;
pub mod key_line;
pub mod payload;
pub mod row;
pub mod store_file;
