//! The model: what the design promises of a store, in a map and a few ifs. It knows nothing of how the crate does it.
//! Its rules about steps are in `steps`.

use std::collections::{BTreeMap, VecDeque};

use reentry::{ErrorKind, State};

use crate::answers::{Answer, Bytes, Figures, Mark, Progress, Step};
use crate::commands::{KEYS, Rows, Setting};
use crate::steps::Report;

/// Spans in milliseconds, so short that a few steps of the clock lead through all of an operation's life.
pub(crate) const RETENTION: u64 = 1_000;
pub(crate) const TOMBSTONES: u64 = 700;
pub(crate) const LEASE: u64 = 40;

/// Most bytes of a payload in these tests; payloads over 1 KiB get a row of their own in the file.
pub(crate) const PAYLOAD_BYTES_MAX: usize = 4_000;

/// Longest name of a checkpoint or step that the store takes.
const NAME_BYTES_MAX: usize = 128;

/// Everything that a store remembers, and time as it sees it.
#[derive(Debug, Clone)]
pub(crate) struct Model {
    setting: Setting,
    /// The wall clock, in milliseconds.
    pub(crate) wall: u64,
    /// The store's own time: it never goes back.
    pub(crate) time: u64,
    /// What it was when the store was opened.
    pub(crate) opened: u64,
    /// The time that a restart must not go back behind: the latest at which something was written, and the latest
    /// deadline that an answer rests on.
    pub(crate) told: u64,
    pub(crate) operations: BTreeMap<usize, Operation>,
    births: u64,
    pub(crate) runs: Vec<Seen>,
    lines: BTreeMap<usize, VecDeque<Waiter>>,
    waiters: usize,
    /// Answers to those who stood in line, not yet compared.
    pub(crate) answered: Vec<(usize, Answer)>,
    /// What runs reported of steps, which nothing that they waited for followed yet: it may be on disk or not.
    pub(crate) reports: Vec<Report>,
    /// The server's own rows, by table and key.
    pub(crate) rows: BTreeMap<(usize, u8), Bytes>,
    /// Keys whose claim may be deferred, where the store may still have a row that is over.
    pub(crate) doubtful: Vec<usize>,
}

#[derive(Debug, Clone)]
pub(crate) struct Operation {
    fingerprint: usize,
    pub(crate) born: u64,
    pub(crate) attempt: u32,
    /// How many of its runs no longer count.
    released: u32,
    since: u64,
    request: Option<Bytes>,
    pub(crate) mark: Option<Mark>,
    pub(crate) steps: Vec<Step>,
    pub(crate) ended: Option<Ended>,
    pub(crate) owner: Option<Owner>,
    /// Whether its claim is not on disk yet.
    pub(crate) deferred: bool,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Owner {
    pub(crate) run: usize,
    since: u64,
    /// When it last did anything.
    pub(crate) moved: u64,
}

#[derive(Debug, Clone)]
pub(crate) struct Ended {
    is_success: bool,
    bytes: Bytes,
    at: u64,
    pub(crate) until: u64,
    pub(crate) gone: u64,
}

/// What a claim asks for. Without a fingerprint it is `claim_unfinished`.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ask {
    pub(crate) fingerprint: Option<usize>,
    pub(crate) request: Option<Bytes>,
    pub(crate) deferred: bool,
}

#[derive(Debug, Clone)]
struct Waiter {
    number: usize,
    ask: Ask,
}

/// A run, and what it last saw.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) key: usize,
    pub(crate) born: u64,
    pub(crate) attempt: u32,
    pub(crate) mark: Option<Mark>,
    pub(crate) steps: Vec<Step>,
    /// The steps it asked for, and whether it was given their result.
    pub(crate) asked: BTreeMap<String, bool>,
    /// Whether it ended the operation, and is still held.
    pub(crate) is_over: bool,
}

/// What standing in line comes to.
#[derive(Debug)]
pub(crate) enum InLine {
    /// A place in the line, with this number.
    Waits(usize),
    Answered(Answer),
}

/// The server's rows that go with a change, and the step of the sequence that they tell of.
pub(crate) type With = Option<(Rows, u8)>;

impl Model {
    pub(crate) fn new(wall: u64, setting: Setting) -> Self {
        Self {
            setting,
            wall,
            time: wall,
            opened: wall,
            told: 0,
            operations: BTreeMap::new(),
            births: 0,
            runs: Vec::new(),
            lines: BTreeMap::new(),
            waiters: 0,
            answered: Vec::new(),
            reports: Vec::new(),
            rows: BTreeMap::new(),
            doubtful: Vec::new(),
        }
    }

    /// The decision table of `Store::claim`.
    pub(crate) fn claim(&mut self, key: usize, ask: &Ask) -> Answer {
        if let Some(kind) = ask.request.as_ref().and_then(bad_payload) {
            return Answer::Refused(kind);
        }
        let time = self.time;
        let was_known = self.operations.contains_key(&key);
        let Some(operation) = self.known(key) else {
            let Some(fingerprint) = ask.fingerprint else { return Answer::Refused(ErrorKind::NotFound) };
            self.begin(key, fingerprint, ask);
            if ask.deferred && was_known {
                self.doubtful.push(key);
            }
            return self.enter(key);
        };
        let operation = operation.clone();
        if ask.fingerprint.is_some_and(|given| given != operation.fingerprint) {
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
            (None, Some(owner)) if !self.has_lapsed(owner) => {
                Answer::Wait { attempt: operation.attempt, since: owner.since }
            }
            (None, _) => {
                self.take_in_reports();
                self.operations.get_mut(&key).unwrap().deferred = false;
                self.enter(key)
            }
        }
    }

    fn begin(&mut self, key: usize, fingerprint: usize, ask: &Ask) {
        self.take_in_reports();
        self.births += 1;
        let fresh = Operation {
            fingerprint,
            born: self.births,
            attempt: 0,
            released: 0,
            since: self.time,
            request: ask.request.clone(),
            mark: None,
            steps: Vec::new(),
            ended: None,
            owner: None,
            deferred: ask.deferred,
        };
        self.operations.insert(key, fresh);
    }

    fn enter(&mut self, key: usize) -> Answer {
        let owner = Owner { run: self.runs.len(), since: self.time, moved: self.time };
        let operation = self.operations.get_mut(&key).unwrap();
        operation.attempt += 1;
        operation.owner = Some(owner);
        let (born, attempt, since) = (operation.born, operation.attempt, operation.since);
        let (mark, steps, request) = (operation.mark.clone(), operation.steps.clone(), operation.request.clone());
        let (asked, is_over) = (BTreeMap::new(), false);
        self.runs.push(Seen { key, born, attempt, mark: mark.clone(), steps: steps.clone(), asked, is_over });
        if !operation.deferred {
            self.told = self.told.max(self.time);
        }
        Answer::Run { attempt, since, mark, request, steps }
    }

    /// What is known of a key. Where it is known only that everything is over, somebody is about to be told so.
    pub(crate) fn known(&mut self, key: usize) -> Option<&mut Operation> {
        let operation = self.operations.get_mut(&key)?;
        if let Some(Ended { gone, .. }) = operation.ended.as_ref().filter(|ended| self.time >= ended.gone) {
            self.told = self.told.max(*gone);
            return None;
        }
        Some(operation)
    }

    fn has_lapsed(&self, owner: Owner) -> bool {
        self.setting.leased && self.time >= owner.moved + LEASE
    }

    /// `Busy::outcome`.
    pub(crate) fn stand_in_line(&mut self, key: usize, ask: &Ask) -> InLine {
        let answer = self.claim(key, ask);
        if !matches!(answer, Answer::Wait { .. }) {
            return InLine::Answered(answer);
        }
        self.waiters += 1;
        self.lines.entry(key).or_default().push_back(Waiter { number: self.waiters, ask: ask.clone() });
        InLine::Waits(self.waiters)
    }

    pub(crate) fn leave_line(&mut self, number: usize) {
        self.lines.values_mut().for_each(|line| line.retain(|waiter| waiter.number != number));
    }

    /// The run that owns a key.
    pub(crate) fn owner(&self, key: usize) -> Option<usize> {
        self.operations.get(&key)?.owner.map(|owner| owner.run)
    }

    /// The key that a run owns.
    pub(crate) fn key_of(&self, run: usize) -> Option<usize> {
        let key = self.runs[run].key;
        (self.owner(key) == Some(run)).then_some(key)
    }

    /// Drop and `release`: frees the key, and the first in line has it.
    pub(crate) fn leave(&mut self, run: usize) {
        if let Some(key) = self.key_of(run) {
            self.vacate(key);
        }
    }

    fn vacate(&mut self, key: usize) {
        let operation = self.operations.get_mut(&key).unwrap();
        operation.owner = None;
        if operation.deferred {
            // As after a crash: it was never claimed.
            self.operations.remove(&key);
        }
        while let Some(next) = self.lines.get_mut(&key).and_then(VecDeque::pop_front) {
            self.take_in_reports();
            let answer = self.claim(key, &next.ask);
            let is_run = matches!(answer, Answer::Run { .. });
            self.answered.push((next.number, answer));
            if is_run {
                break;
            }
        }
    }

    /// Begins the lease of a run anew.
    pub(crate) fn stir(&mut self, run: usize) -> Option<usize> {
        let key = self.key_of(run)?;
        let time = self.time;
        self.operations.get_mut(&key)?.owner.as_mut()?.moved = time;
        Some(key)
    }

    /// `Run::advance` and `advance_with`.
    pub(crate) fn advance(&mut self, run: usize, name: &str, bytes: Bytes, with: With) -> Answer {
        let is_over = self.runs[run].is_over.then_some(ErrorKind::Finished);
        if let Some(kind) = is_over.or_else(|| bad_name(name)).or_else(|| bad_payload(&bytes)) {
            return Answer::Refused(kind);
        }
        self.take_in_reports();
        let Some(key) = self.stir(run) else { return Answer::Refused(ErrorKind::Fenced) };
        let seen = self.runs[run].mark.as_ref().map_or(0, |mark| mark.revision);
        match self.move_mark(key, seen, name, bytes, with) {
            Answer::Moved(mark) => {
                let revision = mark.revision;
                self.runs[run].mark = Some(mark);
                Answer::Revision(revision)
            }
            Answer::Lost(current) => {
                self.runs[run].mark = current;
                Answer::Refused(ErrorKind::Conflict)
            }
            other => other,
        }
    }

    /// `Run::refresh`.
    pub(crate) fn refresh(&mut self, run: usize) -> Answer {
        if self.runs[run].is_over {
            return Answer::Refused(ErrorKind::Finished);
        }
        let Some(key) = self.key_of(run) else { return Answer::Refused(ErrorKind::Fenced) };
        let (seen, operation) = (&mut self.runs[run], &self.operations[&key]);
        seen.mark.clone_from(&operation.mark);
        for step in &operation.steps {
            // What it reported itself it knows better.
            if !self.reports.iter().any(|report| report.run == run && report.name == step.name) {
                seen.put(step.clone());
            }
        }
        Answer::Seen(seen.mark.clone())
    }

    /// `Run::renew`.
    pub(crate) fn renew(&mut self, run: usize) -> Answer {
        if self.runs[run].is_over {
            return Answer::Refused(ErrorKind::Finished);
        }
        self.take_in_reports();
        self.stir(run).map_or(Answer::Refused(ErrorKind::Fenced), |_| Answer::Renewed)
    }

    /// `Store::advance`.
    pub(crate) fn advance_by_anybody(&mut self, key: usize, expected: u64, name: &str, bytes: Bytes) -> Answer {
        if let Some(kind) = bad_name(name).or_else(|| bad_payload(&bytes)) {
            return Answer::Refused(kind);
        }
        self.take_in_reports();
        self.move_mark(key, expected, name, bytes, None)
    }

    fn move_mark(&mut self, key: usize, expected: u64, name: &str, bytes: Bytes, with: With) -> Answer {
        let time = self.time;
        let Some(operation) = self.known(key) else { return Answer::Refused(ErrorKind::NotFound) };
        if operation.ended.is_some() {
            return Answer::Refused(ErrorKind::Finished);
        }
        let revision = operation.mark.as_ref().map_or(0, |mark| mark.revision);
        if revision != expected {
            return Answer::Lost(operation.mark.clone());
        }
        if !self.write_rows(key, with) {
            return Answer::Refused(ErrorKind::Aborted);
        }
        let operation = self.operations.get_mut(&key).unwrap();
        let mark = Mark { name: name.to_owned(), revision: revision + 1, bytes, at: time };
        (operation.mark, operation.deferred) = (Some(mark.clone()), false);
        self.told = self.told.max(time);
        Answer::Moved(mark)
    }

    /// What a closure of the server's does to its rows; false where it fails, and does nothing.
    fn write_rows(&mut self, key: usize, with: With) -> bool {
        let Some((rows, step)) = with else { return true };
        let (key, value) = (u8::try_from(key).unwrap(), Bytes(vec![step; 3]));
        let into: &[usize] = match rows {
            Rows::Insert { table: 0 } | Rows::CallsTheStore => &[0],
            Rows::Insert { .. } => &[1],
            Rows::InsertInBoth => &[0, 1],
            Rows::Remove { table } => {
                self.rows.remove(&(table, key));
                &[]
            }
            Rows::Fails | Rows::Panics => return false,
        };
        self.rows.extend(into.iter().map(|table| ((*table, key), value.clone())));
        true
    }

    /// `complete` and `fail`, which end the run whatever they come to, and those with rows, which do not.
    pub(crate) fn end(&mut self, run: usize, is_success: bool, bytes: Bytes, with: With) -> Answer {
        let is_over = self.runs[run].is_over.then_some(ErrorKind::Finished);
        if let Some(kind) = is_over.or_else(|| bad_payload(&bytes)) {
            if with.is_none() {
                self.leave(run);
            }
            return Answer::Refused(kind);
        }
        self.take_in_reports();
        let Some(key) = self.stir(run) else { return Answer::Refused(ErrorKind::Fenced) };
        if !self.write_rows(key, with) {
            return Answer::Refused(ErrorKind::Aborted);
        }
        // Deadlines count from whichever clock is ahead, so that none is early after a restart.
        let (at, until) = (self.time, self.time.max(self.wall) + RETENTION);
        let operation = self.operations.get_mut(&key).unwrap();
        (operation.owner, operation.request, operation.deferred) = (None, None, false);
        operation.ended = Some(Ended { is_success, bytes: bytes.clone(), at, until, gone: until + TOMBSTONES });
        self.runs[run].is_over = true;
        self.told = self.told.max(at);
        for waiter in self.lines.remove(&key).unwrap_or_default() {
            self.answered.push((waiter.number, Answer::Replay { is_success, bytes: bytes.clone(), at }));
        }
        Answer::Ended { is_success, bytes, at }
    }

    pub(crate) fn forget(&mut self, key: usize) -> Answer {
        self.take_in_reports();
        let Some(operation) = self.known(key) else { return Answer::Was(false) };
        if operation.owner.is_some() {
            return Answer::Refused(ErrorKind::Busy);
        }
        self.operations.remove(&key);
        self.told = self.told.max(self.time);
        Answer::Was(true)
    }

    pub(crate) fn revoke(&mut self, key: usize) -> Answer {
        self.take_in_reports();
        let is_owned = self.owner(key).is_some();
        if is_owned {
            self.vacate(key);
        }
        Answer::Was(is_owned)
    }

    pub(crate) fn release_stuck(&mut self, key: usize) -> Answer {
        self.take_in_reports();
        let time = self.time;
        match self.known(key) {
            None => Answer::Refused(ErrorKind::NotFound),
            Some(operation) if operation.ended.is_some() => Answer::Refused(ErrorKind::Finished),
            Some(operation) if operation.attempt == operation.released => Answer::Was(false),
            Some(operation) => {
                (operation.released, operation.deferred) = (operation.attempt, false);
                self.told = self.told.max(time);
                Answer::Was(true)
            }
        }
    }

    pub(crate) fn progress(&mut self, key: usize) -> Answer {
        let Some(operation) = self.known(key).filter(|operation| !operation.deferred) else {
            return Answer::Progress(None);
        };
        let over = operation.ended.as_ref().map(|ended| ended.until);
        let progress = self.shown(key);
        self.told = self.told.max(over.filter(|until| self.time >= *until).unwrap_or_default());
        Answer::Progress(Some(Box::new(progress)))
    }

    /// The revision that a compare-and-set must expect, whatever has become of the operation.
    pub(crate) fn revision(&self, key: usize) -> u64 {
        self.operations.get(&key).and_then(|operation| operation.mark.as_ref()).map_or(0, |mark| mark.revision)
    }

    /// What is unfinished, oldest first: of this scope, claimed so long ago, born after that; each where it is asked.
    pub(crate) fn unfinished(&self, scope: Option<&str>, age: Option<u64>, after: u64) -> Answer {
        let is_asked = |(key, operation): &(&usize, &Operation)| {
            operation.is_listed()
                && scope.is_none_or(|scope| KEYS[**key].0 == scope)
                && age.is_none_or(|age| operation.since.saturating_add(age) <= self.time)
                && operation.born > after
        };
        let mut listed: Vec<_> = self.operations.iter().filter(is_asked).collect();
        listed.sort_by_key(|(_, operation)| operation.born);
        Answer::Unfinished(listed.into_iter().map(|(key, _)| self.shown(*key)).collect())
    }

    pub(crate) fn figures(&self) -> Figures {
        let count = |which: &dyn Fn(&Operation) -> bool| self.operations.values().filter(|o| which(o)).count() as u64;
        let is_stuck = |o: &Operation| o.is_listed() && self.state(o) == State::Stuck;
        Figures {
            unfinished: count(&Operation::is_listed),
            in_doubt: count(&|o| o.is_listed() && o.steps.iter().any(Step::is_in_doubt)),
            stuck: count(&is_stuck),
            owned: count(&|o| o.owner.is_some_and(|owner| !self.has_lapsed(owner))),
            waiting: self.lines.values().map(|line| line.len() as u64).sum(),
        }
    }

    /// Time passes. Whoever waits for an owner that lapses takes over.
    pub(crate) fn pass(&mut self, millis: u64) {
        self.wall += millis;
        self.time += millis;
        for key in 0..KEYS.len() {
            let owner = self.operations.get(&key).and_then(|operation| operation.owner);
            if owner.is_some_and(|owner| self.has_lapsed(owner))
                && let Some(next) = self.lines.get_mut(&key).and_then(VecDeque::pop_front)
            {
                let answer = self.claim(key, &next.ask);
                self.answered.push((next.number, answer));
            }
        }
    }

    /// The store was closed and opened again, or the power was cut. Nobody owns anything, nobody waits; all that was
    /// told is there, and of what was only reported what is in the model by now.
    pub(crate) fn restart(&mut self, time: u64) {
        (self.time, self.opened) = (time, time);
        self.reports.clear();
        self.operations.retain(|_, operation| !operation.deferred);
        self.operations.values_mut().for_each(|operation| operation.owner = None);
        self.lines.clear();
    }

    fn state(&self, operation: &Operation) -> State {
        match (&operation.ended, operation.owner) {
            (None, Some(owner)) if !self.has_lapsed(owner) => State::Owned,
            (None, _) if operation.attempt - operation.released >= self.setting.attempts_max => State::Stuck,
            (None, _) => State::Unfinished,
            (Some(ended), _) if self.time >= ended.until => State::Gone,
            (Some(ended), _) if ended.is_success => State::Succeeded,
            (Some(_), _) => State::Failed,
        }
    }

    fn shown(&self, key: usize) -> Progress {
        let operation = &self.operations[&key];
        let state = self.state(operation);
        let is_gone = state == State::Gone;
        let outcome = operation.ended.as_ref().filter(|_| !is_gone);
        Progress {
            key,
            fingerprint: operation.fingerprint,
            state,
            attempt: operation.attempt,
            since: operation.since,
            mark: operation.mark.clone().filter(|_| !is_gone),
            request: operation.request.clone(),
            steps: if is_gone { Vec::new() } else { operation.steps.clone() },
            outcome: outcome.map(|ended| (ended.is_success, ended.bytes.clone(), ended.at)),
        }
    }
}

impl Operation {
    /// Whether it is unfinished, and on disk.
    fn is_listed(&self) -> bool {
        self.ended.is_none() && !self.deferred
    }
}

pub(crate) fn bad_name(name: &str) -> Option<ErrorKind> {
    let is_good = (1..=NAME_BYTES_MAX).contains(&name.len()) && !name.chars().any(char::is_control);
    (!is_good).then_some(ErrorKind::InvalidName)
}

pub(crate) fn bad_payload(bytes: &Bytes) -> Option<ErrorKind> {
    (bytes.0.len() > PAYLOAD_BYTES_MAX).then_some(ErrorKind::PayloadTooLarge)
}
