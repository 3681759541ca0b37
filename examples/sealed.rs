//! Payloads that a stolen disk does not tell: sealed before they are handed over, and bound to their operation.
//!
//! `cargo run --example sealed`
//!
//! The store keeps the bytes it is given. Whoever must not have them on disk in the clear seals them with a key of the
//! server's own; scope and client key go in as associated data, so that a payload moved to another operation's row by
//! somebody who can write the file is not taken for that one's. What stays readable: scopes, keys, names of checkpoints
//! and steps, times and lengths.

#![allow(clippy::print_stdout, reason = "an example tells what it does")]

use std::error::Error;

use chacha20poly1305::aead::{Aead, Generate, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use reentry::{Claim, Fingerprint, Key, Store};

const NONCE_BYTES: usize = 24;

/// What seals and opens payloads; its key comes from wherever the server keeps its secrets.
struct Seal(XChaCha20Poly1305);

impl Seal {
    /// A random nonce, and the sealed text behind it.
    fn seal(&self, key: &Key, text: &str) -> Result<Vec<u8>, Box<dyn Error>> {
        let nonce = XNonce::generate();
        let aad = associated(key);
        let payload = Payload { msg: text.as_bytes(), aad: &aad };
        let sealed = self.0.encrypt(&nonce, payload).map_err(|_| "cannot seal")?;
        Ok([nonce.as_slice(), &sealed].concat())
    }

    fn open(&self, key: &Key, sealed: &[u8]) -> Result<String, Box<dyn Error>> {
        let (nonce, sealed) = sealed.split_at_checked(NONCE_BYTES).ok_or("too short to be sealed")?;
        let aad = associated(key);
        let payload = Payload { msg: sealed, aad: &aad };
        let text = self.0.decrypt(&XNonce::try_from(nonce)?, payload);
        Ok(String::from_utf8(text.map_err(|_| "sealed for another operation, or changed")?)?)
    }
}

/// Scope and key, length first: no two operations have the same.
fn associated(key: &Key) -> Vec<u8> {
    let mut bytes = key.scope().len().to_le_bytes().to_vec();
    bytes.extend_from_slice(key.scope().as_bytes());
    bytes.extend_from_slice(key.key().as_bytes());
    bytes
}

fn main() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("orders.reentry");
    let store = Store::open(&path)?;
    let seal = Seal(XChaCha20Poly1305::new(&Generate::generate()));
    let (key, other) = (Key::new("orders", "1")?, Key::new("orders", "2")?);

    let Claim::Run(run) = store.claim(&key, Fingerprint::of("two pizzas")).wait()? else {
        return Err("claimed".into());
    };
    let receipt = "paid with card 4111 1111 1111 1111";
    run.complete(&seal.seal(&key, receipt)?).wait()?;

    let Claim::Replay(outcome) = store.claim(&key, Fingerprint::of("two pizzas")).wait()? else {
        return Err("replayed".into());
    };
    let sealed: Vec<u8> = outcome.decode()?;
    assert_eq!(seal.open(&key, &sealed)?, receipt);
    println!("the replay opens:   {receipt}");

    let moved = seal.open(&other, &sealed).expect_err("it is bound to its operation");
    println!("under another key:  {moved}");

    store.verify()?;
    store.close()?;
    let file = std::fs::read(&path)?;
    let is_there = |text: &str| file.windows(text.len()).any(|window| window == text.as_bytes());
    assert!(!is_there("4111") && is_there("orders"));
    println!("in the file:        the scope, and not the card");
    Ok(())
}
