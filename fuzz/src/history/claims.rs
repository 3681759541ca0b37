//! Claims, and what an owner does but for its steps.

use std::collections::BTreeSet;

use reentry::{Claim, ErrorKind, Request};

use super::command::Row;
use super::model::Operation;
use super::{Owner, RETENTION, TOMBSTONES, World, fingerprint, key, worked, writes};

impl World {
    pub(super) fn claim(&mut self, n: u8, asked: Option<(bool, Option<Vec<u8>>, bool)>) {
        let pending = match asked.clone() {
            Some((request, carried, deferred)) => {
                let request = Request::from(fingerprint(request));
                let request = carried.iter().fold(request, |request, bytes| request.keep(bytes));
                self.store.claim(&key(n), if deferred { request.deferred() } else { request })
            }
            None => self.store.claim_unfinished(&key(n)),
        };
        let claim = worked(&self.store, pending);
        let owned = self.runs.contains_key(&n);
        let now = self.now();
        let request = asked.as_ref().map(|(request, ..)| *request);
        let Some(known) = self.known(n).cloned() else {
            match (asked, claim) {
                (None, claim) => assert_eq!(claim.expect_err("nothing is known").kind(), ErrorKind::NotFound),
                (Some((request, carried, deferred)), claim) => {
                    let Ok(Claim::Run(run)) = claim else { panic!("a new key can be run, got {claim:?}") };
                    assert_eq!((run.attempt(), run.checkpoint(), run.steps()), (1, None, Vec::new()));
                    assert_eq!(run.request(), carried.as_deref());
                    // Where the row of an older operation is still there the claim may be durable at once.
                    let is_durable = self.store.progress(&key(n)).expect("progress").is_some();
                    assert!(is_durable || deferred);
                    assert!(!is_durable || !deferred || self.model.operations.contains_key(&n));
                    self.model.operations.insert(n, Operation::new(request, carried, is_durable));
                    self.runs.insert(n, Owner { run, had: BTreeSet::new() });
                }
            }
            return;
        };
        match claim.expect("a decision") {
            Claim::Reject(_) => assert!(request.is_some_and(|request| request != known.request)),
            _ if request.is_some_and(|request| request != known.request) => panic!("another request is rejected"),
            Claim::Wait(_) => assert!(owned && known.is_unfinished()),
            Claim::Replay(outcome) => {
                let (success, bytes, at) = known.outcome.clone().expect("the model has it too");
                assert!(now < at + RETENTION);
                assert_eq!((outcome.is_success(), outcome.bytes(), outcome.completed_at()), (success, &*bytes, at));
            }
            Claim::Gone(gone) => {
                assert!(known.until().is_some_and(|until| now >= until));
                assert_eq!(Some(gone.until()), known.until().map(|until| until + TOMBSTONES));
            }
            Claim::Run(run) => {
                assert!(!owned && known.is_unfinished());
                assert_eq!(run.attempt(), known.attempt + 1);
                let checkpoint = run.checkpoint().map(|c| (c.revision().get(), c.bytes().to_vec()));
                assert_eq!(checkpoint, known.checkpoint);
                assert_eq!(run.request(), known.carried.as_deref());
                self.model.operations.insert(n, Operation { attempt: known.attempt + 1, ..known });
                self.runs.insert(n, Owner { run, had: BTreeSet::new() });
            }
        }
    }

    pub(super) fn advance(&mut self, n: u8, bytes: Vec<u8>, row: Option<Row>) {
        let Some(Owner { run, .. }) = self.runs.get_mut(&n) else { return };
        let operation = self.model.operations.get_mut(&n).expect("what is owned is known");
        let seen = run.checkpoint().map_or(0, |checkpoint| checkpoint.revision().get());
        let stands = operation.checkpoint.as_ref().map_or(0, |(revision, _)| *revision);
        let pending = match row {
            Some(row) => run.advance_with("here", &bytes, writes(n, row)),
            None => run.advance("here", &bytes),
        };
        match worked(&self.store, pending) {
            Ok(revision) => {
                assert_eq!((seen, revision.get()), (stands, stands + 1));
                (operation.checkpoint, operation.is_durable) = (Some((stands + 1, bytes)), true);
                self.model.write(n, row);
            }
            Err(error) if seen == stands => {
                assert_eq!(error.kind(), ErrorKind::Aborted);
                assert!(row.is_some_and(|row| row.fails));
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::Conflict),
        }
    }

    pub(super) fn end(&mut self, n: u8, success: bool, bytes: Vec<u8>, row: Option<Row>) {
        let at = self.now();
        let Some(Owner { mut run, had }) = self.runs.remove(&n) else { return };
        let ended = match (success, row) {
            (true, None) => worked(&self.store, run.complete(&bytes)),
            (false, None) => worked(&self.store, run.fail(&bytes)),
            (_, Some(row)) => {
                let pending = match success {
                    true => run.complete_with(&bytes, writes(n, row)),
                    false => run.fail_with(&bytes, writes(n, row)),
                };
                let ended = worked(&self.store, pending);
                if row.fails {
                    assert_eq!(ended.expect_err("its row failed").kind(), ErrorKind::Aborted);
                    self.runs.insert(n, Owner { run, had });
                    return;
                }
                ended
            }
        };
        ended.expect("the owner can end it");
        let operation = self.model.operations.get_mut(&n).expect("what is owned is known");
        (operation.outcome, operation.carried, operation.is_durable) = (Some((success, bytes, at)), None, true);
        self.model.write(n, row);
    }
}
