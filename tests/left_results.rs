//! Results that a run left behind: it is dropped while some of its reports are with the writer and others are not.

#![allow(clippy::panic, reason = "a test that fails says why")]

mod support;

use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};

use reentry::{Error, Store};
use support::{PATIENCE, key, request, run, run_of, settle};

fn lost() -> Result<String, std::io::Error> {
    Err(std::io::Error::other("the answer was lost"))
}

/// The story: the batch that took in the first report forgot all that the run had left, the second one too.
#[test]
fn p3_what_is_not_taken_in_yet_outlasts_the_batch_that_took_in_the_rest() {
    let store = Store::builder().in_memory().unwrap();
    let key = key("order");
    let mut first = run(&store, &key);
    for name in ["charge", "mail"] {
        first.step(name).run_keyed(|_| lost()).unwrap_err();
    }
    drop(first);
    let found = |name: &'static str| move |_| Ok::<_, Error>(Some(format!("{name} found")));
    let never = |_| -> Result<String, Error> { panic!("P4: it happened") };
    let mut second = run(&store, &key);
    let mut beside = run(&store, &support::key("beside"));
    settle(&store);
    // The first report is decided, and its batch is held up behind it.
    second.step("charge").recheck(found("charge")).run(never).unwrap();
    let (held, is_held) = channel();
    let (go, may_go) = channel::<()>();
    let may_go = Arc::new(Mutex::new(may_go));
    let blocked = beside.advance_with("cooked", &(), move |_| {
        held.send(())?;
        may_go.lock().unwrap().recv_timeout(PATIENCE)?;
        Ok(())
    });
    is_held.recv_timeout(PATIENCE).unwrap();
    // The second one comes behind that batch, and a claim before it.
    let claimed = {
        second.step("mail").recheck(found("mail")).run(never).unwrap();
        drop(second);
        go.send(()).unwrap();
        blocked.wait().unwrap();
        store.claim(&key, request())
    };
    let mut third = run_of(claimed.wait().unwrap());
    for name in ["charge", "mail"] {
        assert_eq!(third.step(name).run_at_most_once(never).unwrap(), format!("{name} found"));
    }
    drop((third, beside));
    store.verify().unwrap();
}
