//! What a store should know after what was done: a few lines a command.

use std::collections::BTreeMap;

use reentry::{Progress, State, StepState, Timestamp};

use super::command::Row;
use super::{ATTEMPTS_MAX, RETENTION, TOMBSTONES, payload, step_name};

/// What is known of one key.
#[derive(Debug, Clone, PartialEq)]
pub struct Operation {
    pub request: bool,
    pub carried: Option<Vec<u8>>,
    /// Whether a restart would find it: not while its claim is deferred.
    pub is_durable: bool,
    pub attempt: u32,
    pub released: u32,
    pub checkpoint: Option<(u64, Vec<u8>)>,
    pub steps: BTreeMap<u8, Step>,
    pub outcome: Option<(bool, Vec<u8>, Timestamp)>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    pub state: StepState,
    pub result: Vec<u8>,
    pub notes: usize,
    pub late: usize,
}

#[derive(Debug, Clone, Default)]
pub struct Model {
    pub operations: BTreeMap<u8, Operation>,
    pub rows: BTreeMap<u8, Vec<u8>>,
}

impl Model {
    pub fn write(&mut self, n: u8, row: Option<Row>) {
        self.rows.extend(row.map(|row| (n, payload(row.bytes))));
    }

    pub fn lose_what_is_deferred(&mut self) {
        self.operations.retain(|_, operation| operation.is_durable);
    }
}

impl Operation {
    pub fn new(request: bool, carried: Option<Vec<u8>>, is_durable: bool) -> Self {
        let (checkpoint, steps, outcome) = (None, BTreeMap::new(), None);
        Self { request, carried, is_durable, attempt: 1, released: 0, checkpoint, steps, outcome }
    }

    pub fn until(&self) -> Option<Timestamp> {
        self.outcome.as_ref().map(|(.., at)| *at + RETENTION)
    }

    pub fn state(&self, now: Timestamp, owned: bool) -> Option<State> {
        let Some((success, _, at)) = &self.outcome else {
            return Some(match () {
                () if owned => State::Owned,
                () if self.attempt - self.released >= ATTEMPTS_MAX => State::Stuck,
                () => State::Unfinished,
            });
        };
        match () {
            () if now < *at + RETENTION => Some(if *success { State::Succeeded } else { State::Failed }),
            () if now < *at + RETENTION + TOMBSTONES => Some(State::Gone),
            () => None,
        }
    }

    /// Whether a run may change it.
    pub fn is_unfinished(&self) -> bool {
        self.outcome.is_none()
    }

    pub fn shows(&self, progress: &Progress, now: Timestamp, owned: bool) -> bool {
        let state = self.state(now, owned);
        let checkpoint = progress.checkpoint().map(|c| (c.revision().get(), c.bytes().to_vec()));
        let outcome = progress.outcome().map(|outcome| (outcome.is_success(), outcome.bytes().to_vec()));
        let is_gone = state == Some(State::Gone);
        let steps: BTreeMap<_, _> = progress.steps().iter().map(|step| (step.name().to_owned(), seen(step))).collect();
        let expected = self.steps.iter().map(|(name, step)| (step_name(*name), step.clone())).filter(|_| !is_gone);
        state == Some(progress.state())
            && progress.attempt() == self.attempt
            && progress.request() == self.carried.as_deref()
            && checkpoint == self.checkpoint.clone().filter(|_| !is_gone)
            && outcome == self.outcome.clone().filter(|_| !is_gone).map(|(success, bytes, _)| (success, bytes))
            && steps == expected.collect()
    }
}

fn seen(step: &reentry::Step) -> Step {
    let result = step.bytes().unwrap_or_default().to_vec();
    Step { state: step.state(), result, notes: step.notes().len(), late: step.late().len() }
}
