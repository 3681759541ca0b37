//! What anybody may do who owns nothing.

use reentry::{Advance, ErrorKind, Revision};

use super::{World, key, worked};

impl World {
    pub(super) fn compare_and_set(&mut self, n: u8, ahead: u8, bytes: Vec<u8>) {
        let now = self.now();
        // Expects the revision that stands, or one of those after it, which nobody has seen yet.
        let mut expected = Revision::NONE;
        if let Some(progress) = self.store.progress(&key(n)).expect("progress") {
            expected = progress.checkpoint().map_or(Revision::NONE, |checkpoint| checkpoint.revision());
        }
        let is_stale = ahead % 4 == 3 && expected != Revision::NONE;
        let expected = if is_stale { Revision::NONE } else { expected };
        let answer = worked(&self.store, self.store.advance(&key(n), expected, "outside", &bytes));
        let known = self.model.operations.get_mut(&n);
        match known.filter(|operation| operation.state(now, false).is_some()) {
            None => assert_eq!(answer.expect_err("nothing is known").kind(), ErrorKind::NotFound),
            Some(known) if !known.is_unfinished() => {
                assert_eq!(answer.expect_err("it is over").kind(), ErrorKind::Finished);
            }
            Some(known) => match answer.expect("a decision") {
                Advance::Moved(checkpoint) => {
                    let before = known.checkpoint.as_ref().map_or(0, |(revision, _)| *revision);
                    assert!(!is_stale);
                    assert_eq!(checkpoint.revision().get(), before + 1);
                    (known.checkpoint, known.is_durable) = (Some((before + 1, bytes)), true);
                }
                Advance::Lost(current) => {
                    assert!(is_stale);
                    let current = current.map(|c| (c.revision().get(), c.bytes().to_vec()));
                    assert_eq!(current, known.checkpoint);
                }
            },
        }
    }

    pub(super) fn release_stuck(&mut self, n: u8) {
        let answer = worked(&self.store, self.store.release_stuck(&key(n))).map_err(|error| error.kind());
        let now = self.now();
        let known = self.model.operations.get_mut(&n).filter(|known| known.state(now, false).is_some());
        match known {
            None => assert_eq!(answer, Err(ErrorKind::NotFound)),
            Some(known) if !known.is_unfinished() => assert_eq!(answer, Err(ErrorKind::Finished)),
            Some(known) => {
                assert_eq!(answer, Ok(known.attempt > known.released));
                (known.released, known.is_durable) = (known.attempt, true);
            }
        }
    }

    pub(super) fn forget(&mut self, n: u8) {
        let was_known = self.known(n).is_some();
        let is_owned = self.runs.contains_key(&n);
        match worked(&self.store, self.store.forget(&key(n))) {
            Ok(forgot) => {
                assert!(!is_owned);
                assert_eq!(forgot, was_known);
                self.model.operations.remove(&n);
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Busy);
                assert!(is_owned);
            }
        }
    }
}
