//! The model: what the design promises of a store, in a map and a few ifs. It knows nothing of how the crate does it.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;

use reentry::{ErrorKind, State};

/// Spans in milliseconds, so short that a few steps of the clock lead through all of an operation's life.
pub(crate) const RETENTION: u64 = 1_000;
pub(crate) const TOMBSTONES: u64 = 700;

/// Most bytes of a payload in these tests; payloads over 1 KiB get a row of their own in the file.
pub(crate) const PAYLOAD_BYTES_MAX: usize = 4_000;

/// Longest name of a checkpoint that the store takes.
const NAME_BYTES_MAX: usize = 128;

/// Everything that a store remembers, and time as it sees it.
#[derive(Debug, Clone)]
pub(crate) struct Model {
    /// The wall clock, in milliseconds.
    pub(crate) wall: u64,
    /// The store's own time: it never goes back.
    pub(crate) time: u64,
    /// The time that a restart must not go back behind: the latest at which something was written, and the latest
    /// deadline that an answer rests on.
    pub(crate) told: u64,
    operations: BTreeMap<usize, Operation>,
    births: u64,
    /// What each run last saw, by its number.
    runs: Vec<Option<Mark>>,
    lines: BTreeMap<usize, VecDeque<Waiter>>,
    waiters: usize,
    /// Answers to those who stood in line, not yet compared.
    pub(crate) answered: Vec<(usize, Answer)>,
}

#[derive(Debug, Clone)]
struct Operation {
    fingerprint: usize,
    born: u64,
    attempt: u32,
    since: u64,
    mark: Option<Mark>,
    ended: Option<Ended>,
    owner: Option<Owner>,
}

#[derive(Debug, Clone, Copy)]
struct Owner {
    run: usize,
    since: u64,
}

#[derive(Debug, Clone)]
struct Ended {
    is_success: bool,
    bytes: Bytes,
    at: u64,
    until: u64,
    gone: u64,
}

#[derive(Debug, Clone)]
struct Waiter {
    number: usize,
    fingerprint: Option<usize>,
}

/// A checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) name: String,
    pub(crate) revision: u64,
    pub(crate) bytes: Bytes,
    pub(crate) at: u64,
}

/// A payload, shown briefly where a comparison fails.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Bytes(pub(crate) Vec<u8>);

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes {:?}..", self.0.len(), self.0.first())
    }
}

/// What a call comes to, of the model and of the store alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    Run { attempt: u32, since: u64, mark: Option<Mark> },
    Replay { is_success: bool, bytes: Bytes, at: u64 },
    Wait { attempt: u32, since: u64 },
    Reject { since: u64 },
    Gone { at: u64, until: u64 },
    Moved(Mark),
    Lost(Option<Mark>),
    Revision(u64),
    Seen(Option<Mark>),
    Ended { is_success: bool, bytes: Bytes, at: u64 },
    Was(bool),
    Progress(Option<Progress>),
    Unfinished(Vec<Progress>),
    Refused(ErrorKind),
}

/// What standing in line comes to.
#[derive(Debug)]
pub(crate) enum InLine {
    /// A place in the line, with this number.
    Waits(usize),
    Answered(Answer),
}

/// What can be asked of an operation without claiming it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Progress {
    pub(crate) key: usize,
    pub(crate) fingerprint: usize,
    pub(crate) state: State,
    pub(crate) attempt: u32,
    pub(crate) since: u64,
    pub(crate) mark: Option<Mark>,
    pub(crate) outcome: Option<(bool, Bytes, u64)>,
}

impl Model {
    pub(crate) fn new(wall: u64) -> Self {
        Self {
            wall,
            time: wall,
            told: 0,
            operations: BTreeMap::new(),
            births: 0,
            runs: Vec::new(),
            lines: BTreeMap::new(),
            waiters: 0,
            answered: Vec::new(),
        }
    }

    /// The decision table of `Store::claim`. Without a fingerprint it is that of `claim_unfinished`.
    pub(crate) fn claim(&mut self, key: usize, fingerprint: Option<usize>) -> Answer {
        let time = self.time;
        let Some(operation) = self.known(key) else {
            let Some(fingerprint) = fingerprint else { return Answer::Refused(ErrorKind::NotFound) };
            self.births += 1;
            let born = self.births;
            let fresh = Operation { fingerprint, born, attempt: 0, since: time, mark: None, ended: None, owner: None };
            self.operations.insert(key, fresh);
            return self.enter(key);
        };
        if fingerprint.is_some_and(|given| given != operation.fingerprint) {
            return Answer::Reject { since: operation.since };
        }
        match (&operation.ended, operation.owner) {
            (Some(ended), _) if time < ended.until => {
                Answer::Replay { is_success: ended.is_success, bytes: ended.bytes.clone(), at: ended.at }
            }
            (Some(ended), _) => {
                let (at, until, gone) = (ended.at, ended.until, ended.gone);
                self.told = self.told.max(until);
                Answer::Gone { at, until: gone }
            }
            (None, Some(owner)) => Answer::Wait { attempt: operation.attempt, since: owner.since },
            (None, None) => self.enter(key),
        }
    }

    fn enter(&mut self, key: usize) -> Answer {
        let owner = Owner { run: self.runs.len(), since: self.time };
        let operation = self.operations.get_mut(&key).unwrap();
        operation.attempt += 1;
        operation.owner = Some(owner);
        self.told = self.told.max(self.time);
        self.runs.push(operation.mark.clone());
        Answer::Run { attempt: operation.attempt, since: operation.since, mark: operation.mark.clone() }
    }

    /// What is known of a key. Where it is known only that everything is over, somebody is about to be told so.
    fn known(&mut self, key: usize) -> Option<&mut Operation> {
        let operation = self.operations.get_mut(&key)?;
        if let Some(Ended { gone, .. }) = operation.ended.as_ref().filter(|ended| self.time >= ended.gone) {
            self.told = self.told.max(*gone);
            return None;
        }
        Some(operation)
    }

    /// `Busy::outcome`.
    pub(crate) fn stand_in_line(&mut self, key: usize, fingerprint: Option<usize>) -> InLine {
        let answer = self.claim(key, fingerprint);
        if !matches!(answer, Answer::Wait { .. }) {
            return InLine::Answered(answer);
        }
        self.waiters += 1;
        self.lines.entry(key).or_default().push_back(Waiter { number: self.waiters, fingerprint });
        InLine::Waits(self.waiters)
    }

    pub(crate) fn leave_line(&mut self, number: usize) {
        self.lines.values_mut().for_each(|line| line.retain(|waiter| waiter.number != number));
    }

    /// The run that owns a key.
    pub(crate) fn owner(&self, key: usize) -> Option<usize> {
        self.operations.get(&key)?.owner.map(|owner| owner.run)
    }

    fn key_of(&self, run: usize) -> Option<usize> {
        self.operations.iter().find(|(_, operation)| operation.owner.is_some_and(|o| o.run == run)).map(|(key, _)| *key)
    }

    /// What a run last saw.
    pub(crate) fn seen(&self, run: usize) -> Option<Mark> {
        self.runs[run].clone()
    }

    /// Drop and `release`: frees the key, and the first in line has it.
    pub(crate) fn leave(&mut self, run: usize) {
        if let Some(key) = self.key_of(run) {
            self.vacate(key);
        }
    }

    fn vacate(&mut self, key: usize) {
        self.operations.get_mut(&key).unwrap().owner = None;
        while let Some(next) = self.lines.get_mut(&key).and_then(VecDeque::pop_front) {
            let answer = self.claim(key, next.fingerprint);
            let is_run = matches!(answer, Answer::Run { .. });
            self.answered.push((next.number, answer));
            if is_run {
                break;
            }
        }
    }

    /// `Run::advance`.
    pub(crate) fn advance(&mut self, run: usize, name: &str, bytes: Bytes) -> Answer {
        if let Some(kind) = bad_name(name).or_else(|| bad_payload(&bytes)) {
            return Answer::Refused(kind);
        }
        let Some(key) = self.key_of(run) else { return Answer::Refused(ErrorKind::Fenced) };
        let seen = self.runs[run].as_ref().map_or(0, |mark| mark.revision);
        match self.advance_by_anybody(key, seen, name, bytes) {
            Answer::Moved(mark) => {
                let revision = mark.revision;
                self.runs[run] = Some(mark);
                Answer::Revision(revision)
            }
            Answer::Lost(current) => {
                self.runs[run] = current;
                Answer::Refused(ErrorKind::Conflict)
            }
            other => other,
        }
    }

    /// `Run::refresh`.
    pub(crate) fn refresh(&mut self, run: usize) -> Answer {
        let Some(key) = self.key_of(run) else { return Answer::Refused(ErrorKind::Fenced) };
        self.runs[run].clone_from(&self.operations[&key].mark);
        Answer::Seen(self.runs[run].clone())
    }

    /// `Store::advance`.
    pub(crate) fn advance_by_anybody(&mut self, key: usize, expected: u64, name: &str, bytes: Bytes) -> Answer {
        if let Some(kind) = bad_name(name).or_else(|| bad_payload(&bytes)) {
            return Answer::Refused(kind);
        }
        let time = self.time;
        let Some(operation) = self.known(key) else { return Answer::Refused(ErrorKind::NotFound) };
        if operation.ended.is_some() {
            return Answer::Refused(ErrorKind::Finished);
        }
        let revision = operation.mark.as_ref().map_or(0, |mark| mark.revision);
        if revision != expected {
            return Answer::Lost(operation.mark.clone());
        }
        let mark = Mark { name: name.to_owned(), revision: revision + 1, bytes, at: time };
        operation.mark = Some(mark.clone());
        self.told = self.told.max(time);
        Answer::Moved(mark)
    }

    /// `complete` and `fail`, which end the run whatever they come to.
    pub(crate) fn end(&mut self, run: usize, is_success: bool, bytes: Bytes) -> Answer {
        if let Some(kind) = bad_payload(&bytes) {
            self.leave(run);
            return Answer::Refused(kind);
        }
        let Some(key) = self.key_of(run) else { return Answer::Refused(ErrorKind::Fenced) };
        // Deadlines count from whichever clock is ahead, so that none is early after a restart.
        let (at, until) = (self.time, self.time.max(self.wall) + RETENTION);
        let operation = self.operations.get_mut(&key).unwrap();
        operation.owner = None;
        operation.ended = Some(Ended { is_success, bytes: bytes.clone(), at, until, gone: until + TOMBSTONES });
        self.told = self.told.max(at);
        for waiter in self.lines.remove(&key).unwrap_or_default() {
            self.answered.push((waiter.number, Answer::Replay { is_success, bytes: bytes.clone(), at }));
        }
        Answer::Ended { is_success, bytes, at }
    }

    pub(crate) fn forget(&mut self, key: usize) -> Answer {
        let Some(operation) = self.known(key) else { return Answer::Was(false) };
        if operation.owner.is_some() {
            return Answer::Refused(ErrorKind::Busy);
        }
        self.operations.remove(&key);
        self.told = self.told.max(self.time);
        Answer::Was(true)
    }

    pub(crate) fn revoke(&mut self, key: usize) -> Answer {
        let is_owned = self.owner(key).is_some();
        if is_owned {
            self.vacate(key);
        }
        Answer::Was(is_owned)
    }

    pub(crate) fn progress(&mut self, key: usize) -> Answer {
        let time = self.time;
        let Some(operation) = self.known(key) else { return Answer::Progress(None) };
        let progress = operation.progress(key, time);
        let over = operation.ended.as_ref().map(|ended| ended.until).filter(|until| time >= *until);
        self.told = self.told.max(over.unwrap_or_default());
        Answer::Progress(Some(progress))
    }

    /// The revision that a compare-and-set must expect, whatever has become of the operation.
    pub(crate) fn revision(&self, key: usize) -> u64 {
        self.operations.get(&key).and_then(|operation| operation.mark.as_ref()).map_or(0, |mark| mark.revision)
    }

    /// Oldest first.
    pub(crate) fn unfinished(&self) -> Answer {
        let mut listed: Vec<_> = self.operations.iter().filter(|(_, operation)| operation.ended.is_none()).collect();
        listed.sort_by_key(|(_, operation)| operation.born);
        Answer::Unfinished(listed.into_iter().map(|(key, operation)| operation.progress(*key, self.time)).collect())
    }

    /// How many are unfinished, owned, and in line.
    pub(crate) fn figures(&self) -> (u64, u64, u64) {
        let count = |which: fn(&Operation) -> bool| self.operations.values().filter(|o| which(o)).count() as u64;
        let waiting = self.lines.values().map(|line| line.len() as u64).sum();
        (count(|o| o.ended.is_none()), count(|o| o.owner.is_some()), waiting)
    }

    pub(crate) fn pass(&mut self, millis: u64) {
        self.wall += millis;
        self.time += millis;
    }

    /// The store was closed and opened again, or the power was cut. Nobody owns anything, nobody waits; all that was
    /// told is there.
    pub(crate) fn restart(&mut self, time: u64) {
        self.time = time;
        self.operations.values_mut().for_each(|operation| operation.owner = None);
        self.lines.clear();
    }
}

impl Operation {
    fn progress(&self, key: usize, time: u64) -> Progress {
        let (state, outcome) = match (&self.ended, self.owner) {
            (None, Some(_)) => (State::Owned, None),
            (None, None) => (State::Unfinished, None),
            (Some(ended), _) if time >= ended.until => (State::Gone, None),
            (Some(ended), _) => {
                let state = if ended.is_success { State::Succeeded } else { State::Failed };
                (state, Some((ended.is_success, ended.bytes.clone(), ended.at)))
            }
        };
        let mark = self.mark.clone().filter(|_| state != State::Gone);
        let (fingerprint, attempt, since) = (self.fingerprint, self.attempt, self.since);
        Progress { key, fingerprint, state, attempt, since, mark, outcome }
    }
}

fn bad_name(name: &str) -> Option<ErrorKind> {
    let is_good = (1..=NAME_BYTES_MAX).contains(&name.len()) && !name.chars().any(char::is_control);
    (!is_good).then_some(ErrorKind::InvalidName)
}

fn bad_payload(bytes: &Bytes) -> Option<ErrorKind> {
    (bytes.0.len() > PAYLOAD_BYTES_MAX).then_some(ErrorKind::PayloadTooLarge)
}
