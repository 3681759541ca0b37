//! Any lines, as the operations of an export whose first and last line are right. It is refused, and a store takes none
//! of it that could not be read again; or a store takes it in, and what that exports another takes in as it is, to the
//! last byte.

use std::ops::ControlFlow;

use reentry::{ErrorKind, Imported, ManualClock, Store, Timestamp, check_export};

const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);

pub fn run(bytes: &[u8]) {
    let text = framed(bytes);
    let checked = check_export(&*text, |_| ControlFlow::Continue(()));
    let store = store();
    let taken = import(&store, &text);
    match (&checked, &taken) {
        (Ok(operations), Ok(taken)) => {
            assert_eq!(taken.new + taken.same + taken.differing + taken.over, *operations);
        }
        (Err(checked), Err(taken)) => {
            assert_eq!(checked.kind(), taken.kind());
            assert!(matches!(taken.kind(), ErrorKind::Corrupt | ErrorKind::NewerFormat), "{taken}");
        }
        other => panic!("an import and its check say otherwise: {other:?}"),
    }
    // What came before a line that is refused stays.
    let operations = store.verify().unwrap().operations;
    assert!(taken.is_err() || operations == taken.unwrap().new);
    let once = exported(&store);
    let other = self::store();
    assert_eq!(import(&other, &once).unwrap().new, operations);
    other.verify().unwrap();
    assert!(exported(&other) == once, "an export is taken in otherwise");
}

/// These lines as the operations of an export.
fn framed(lines: &[u8]) -> Vec<u8> {
    let mut text = b"{\"reentry_export\":1}\n".to_vec();
    text.extend(lines);
    if !text.ends_with(b"\n") {
        text.push(b'\n');
    }
    let operations = text.iter().filter(|byte| **byte == b'\n').count() - 1;
    let digest = blake3::hash(&text).to_hex();
    text.extend(format!("{{\"operations\":{operations},\"blake3\":\"{digest}\"}}\n").bytes());
    text
}

fn store() -> Store {
    Store::builder().clock(ManualClock::at(NOW)).in_memory().unwrap()
}

fn import(store: &Store, text: &[u8]) -> reentry::Result<Imported> {
    store.import(text, |_| ControlFlow::Continue(()), |_| {})
}

fn exported(store: &Store) -> Vec<u8> {
    let mut text = Vec::new();
    store.export(&mut text, |_| ControlFlow::Continue(())).unwrap();
    text
}
