//! Whether calls that overlapped can be put in one order that explains every answer: a checker of linearizability, by
//! the search of Wing and Gong with the memory of Lowe (what was ordered, and the state that it left, is never tried
//! twice).
//!
//! A call whose answer nobody knows may have happened once, at any moment after it was asked, or not at all; after a
//! crash it happens no more. The rules that the answers are held against are a [`Sequential`] specification; that of
//! one key stands in `promises.rs`.

#![allow(dead_code, reason = "each test file takes what it needs of this")]

use std::collections::HashSet;
use std::fmt;
use std::hash::Hash;
use std::rc::Rc;
use std::sync::{Mutex, MutexGuard};

/// Most configurations that one search may look at.
const SEARCH_MAX: usize = 4_000_000;

/// Later than every moment, by either clock.
pub(crate) const NEVER: u64 = u64::MAX;

/// What one caller after the other would be told.
pub(crate) trait Sequential {
    type State: Clone + Eq + Hash;
    type Act: Clone + fmt::Debug;
    type Answer: Clone + fmt::Debug;

    /// How it begins.
    fn begin(&self) -> Self::State;

    /// Every state that this call may leave behind where it was answered so; none where it cannot have been. Where
    /// nobody knows the answer: every state that it may leave whatever it was.
    fn after(&self, state: &Self::State, call: &Call<Self::Act, Self::Answer>) -> Vec<Self::State>;

    /// Whether a call that was answered so changes nothing, but for what happens by itself and may as well happen at
    /// the next call. Where one fits as things stand no other place for it need be tried.
    fn is_look(&self, call: &Call<Self::Act, Self::Answer>) -> bool;
}

/// One call, as its caller saw it.
#[derive(Debug, Clone)]
pub(crate) struct Call<A, R> {
    pub(crate) caller: usize,
    pub(crate) act: A,
    /// None where nobody knows it.
    pub(crate) answer: Option<R>,
    /// When it was asked, on the history's logical clock.
    pub(crate) asked: u64,
    /// When it was answered; where nobody knows its answer, the moment after which it happens no more.
    pub(crate) until: u64,
    /// What the store's clock showed when it was asked and when it was answered, in milliseconds.
    pub(crate) times: (u64, u64),
}

impl<A, R> Call<A, R> {
    fn must_happen(&self) -> bool {
        self.answer.is_some()
    }
}

/// The calls on one key, written down while they are made, from any number of threads.
#[derive(Debug)]
pub(crate) struct History<A, R>(Mutex<Written<A, R>>);

#[derive(Debug)]
struct Written<A, R> {
    calls: Vec<(u64, Call<A, R>)>,
    moment: u64,
    epoch: u64,
    is_crashing: bool,
}

/// A call that is written down and not answered yet; none where the process that it would be made in is dead already.
#[derive(Debug, Clone, Copy)]
#[must_use = "the answer is to be written down, even where nobody knows it"]
pub(crate) struct Asked(Option<usize>);

impl<A, R> Default for History<A, R> {
    fn default() -> Self {
        Self(Mutex::new(Written { calls: Vec::new(), moment: 0, epoch: 0, is_crashing: false }))
    }
}

impl<A, R> Written<A, R> {
    fn tick(&mut self) -> u64 {
        self.moment += 1;
        self.moment
    }
}

impl<A, R> History<A, R> {
    fn written(&self) -> MutexGuard<'_, Written<A, R>> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// How many crashes there were. A call belongs to the process in which it is made.
    pub(crate) fn epoch(&self) -> u64 {
        self.written().epoch
    }

    /// Writes down that a call is about to be made, in the process of this `epoch`.
    pub(crate) fn ask(&self, epoch: u64, caller: usize, act: A, time: u64) -> Asked {
        let mut written = self.written();
        if written.epoch != epoch {
            return Asked(None);
        }
        let call = Call { caller, act, answer: None, asked: written.tick(), until: NEVER, times: (time, NEVER) };
        written.calls.push((epoch, call));
        Asked(Some(written.calls.len() - 1))
    }

    /// Writes down the answer. One that comes after the crash was heard by nobody, and one that nobody knows stays so.
    pub(crate) fn tell(&self, asked: Asked, answer: Option<R>, time: u64) {
        let mut written = self.written();
        let (moment, epoch, is_crashing) = (written.tick(), written.epoch, written.is_crashing);
        let Some((of, call)) = asked.0.map(|nth| &mut written.calls[nth]) else { return };
        if *of == epoch && !is_crashing && answer.is_some() {
            (call.answer, call.until, call.times.1) = (answer, moment, time);
        }
    }

    /// A call whose answer nobody knows has happened by now, or never does: who asks sees to that.
    pub(crate) fn bound(&self, asked: Asked) {
        let mut written = self.written();
        let moment = written.tick();
        if let Some((_, call)) = asked.0.map(|nth| &mut written.calls[nth])
            && call.answer.is_none()
        {
            call.until = call.until.min(moment);
        }
    }

    /// From now on nobody hears an answer: the process dies at any moment. The caller takes the image now.
    pub(crate) fn begin_crash(&self) {
        self.written().is_crashing = true;
    }

    /// The process is dead: what was under way has happened or never does, and `crash` has. Answers the epoch of the
    /// process that comes after.
    pub(crate) fn end_crash(&self, crash: A, survived: R, time: u64) -> u64 {
        let mut written = self.written();
        let (dead, moment) = (written.epoch, written.tick());
        for (epoch, call) in &mut written.calls {
            if *epoch == dead && call.answer.is_none() {
                call.until = call.until.min(moment);
            }
        }
        let (asked, until) = (written.tick(), written.tick());
        let (answer, times) = (Some(survived), (time, time));
        written.calls.push((dead, Call { caller: usize::MAX, act: crash, answer, asked, until, times }));
        (written.epoch, written.is_crashing) = (dead + 1, false);
        written.epoch
    }

    /// All of it, in the order in which it was asked.
    pub(crate) fn calls(self) -> Vec<Call<A, R>> {
        let written = self.0.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        written.calls.into_iter().map(|(_, call)| call).collect()
    }
}

/// Why no order explains the answers: all calls up to `ordered` can be put in order, and this one not behind them.
pub(crate) struct Violation<A, R> {
    /// An order that explains every answer that came before.
    pub(crate) ordered: Vec<Call<A, R>>,
    /// The first answer that no order explains.
    pub(crate) call: Call<A, R>,
    /// What was under way at that moment, answered later or never.
    pub(crate) under_way: Vec<Call<A, R>>,
}

/// What a specification calls its violations.
pub(crate) type ViolationOf<S> = Box<Violation<<S as Sequential>::Act, <S as Sequential>::Answer>>;

impl<A: fmt::Debug, R: fmt::Debug> fmt::Debug for Violation<A, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "these calls can be put in this order:")?;
        self.ordered.iter().try_for_each(|call| writeln!(f, "  {}", Shown(call)))?;
        writeln!(f, "these were under way, answered later or never:")?;
        self.under_way.iter().try_for_each(|call| writeln!(f, "  {}", Shown(call)))?;
        writeln!(f, "and this one nowhere:\n  {}", Shown(&self.call))
    }
}

struct Shown<'a, A, R>(&'a Call<A, R>);

impl<A: fmt::Debug, R: fmt::Debug> fmt::Display for Shown<'_, A, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Call { caller, act, answer, asked, until, times } = self.0;
        let moment = |moment: u64| if moment == NEVER { "never".to_owned() } else { moment.to_string() };
        write!(f, "[{asked}, {}] at ({}, {}) ms ", moment(*until), times.0, moment(times.1))?;
        write!(f, "caller {caller}: {act:?} -> {answer:?}")
    }
}

/// Checks that an order of these calls explains every answer.
pub(crate) fn check<S: Sequential>(rules: &S, calls: &[Call<S::Act, S::Answer>]) -> Result<(), ViolationOf<S>> {
    let is_decided = check_within(SEARCH_MAX, rules, calls)?;
    assert!(is_decided, "too much overlaps in this history of {} calls", calls.len());
    Ok(())
}

/// The same, looking at so many configurations at most in each search: whether that was enough.
pub(crate) fn check_within<S: Sequential>(
    most: usize,
    rules: &S,
    calls: &[Call<S::Act, S::Answer>],
) -> Result<bool, ViolationOf<S>> {
    match search(most, rules, calls) {
        Found::Order(_) => return Ok(true),
        Found::TooMuch => return Ok(false),
        Found::Nothing => {}
    }
    // A history that can be ordered can be at every moment before, so the first that cannot is found by halving.
    let mut answered: Vec<u64> = calls.iter().filter(|call| call.must_happen()).map(|call| call.until).collect();
    answered.sort_unstable();
    let (mut good, mut bad) = (0, answered.len());
    while good + 1 < bad {
        let half = usize::midpoint(good, bad);
        // What is too much to search is not known to be bad: the one that is named is then a later one.
        match search(most, rules, &as_of(calls, answered[half - 1])) {
            Found::Order(_) | Found::TooMuch => good = half,
            Found::Nothing => bad = half,
        }
    }
    let at = answered[bad - 1];
    let before = as_of(calls, at - 1);
    let ordered = order(rules, &before).unwrap_or_default();
    let is_open = |call: &&Call<S::Act, S::Answer>| call.asked < at && (call.until > at || call.answer.is_none());
    Err(Box::new(Violation {
        ordered: ordered.into_iter().map(|nth| before[nth].clone()).collect(),
        call: calls.iter().find(|call| call.must_happen() && call.until == at).cloned().unwrap_or(calls[0].clone()),
        under_way: calls.iter().filter(is_open).cloned().collect(),
    }))
}

/// The history as it stood at this moment: what was answered later was under way.
fn as_of<A: Clone, R: Clone>(calls: &[Call<A, R>], moment: u64) -> Vec<Call<A, R>> {
    let asked = calls.iter().filter(|call| call.asked <= moment).cloned();
    let as_it_stood = |call: Call<A, R>| {
        let is_open = call.must_happen() && call.until > moment;
        if is_open { Call { answer: None, until: NEVER, times: (call.times.0, NEVER), ..call } } else { call }
    };
    asked.map(as_it_stood).collect()
}

/// What was put in order so far, and what that left behind.
struct Node<S> {
    is_done: Rc<[u64]>,
    state: S,
    /// The node before, and the call that was put behind it; none for the first.
    came: Option<(usize, usize)>,
}

/// What a search comes to.
enum Found {
    /// An order that explains every answer, as places in the list of calls.
    Order(Vec<usize>),
    Nothing,
    /// It would have had to look at too much.
    TooMuch,
}

/// An order that explains every answer, as places in `calls`; none where there is none.
pub(crate) fn order<S: Sequential>(rules: &S, calls: &[Call<S::Act, S::Answer>]) -> Option<Vec<usize>> {
    match search(SEARCH_MAX, rules, calls) {
        Found::Order(order) => Some(order),
        Found::Nothing | Found::TooMuch => None,
    }
}

fn search<S: Sequential>(most: usize, rules: &S, calls: &[Call<S::Act, S::Answer>]) -> Found {
    let mut by_asked: Vec<usize> = (0..calls.len()).collect();
    by_asked.sort_unstable_by_key(|nth| calls[*nth].asked);
    let calls: Vec<_> = by_asked.iter().map(|nth| &calls[*nth]).collect();
    let is_look: Vec<bool> = calls.iter().map(|call| rules.is_look(call)).collect();
    let nothing: Rc<[u64]> = vec![0; calls.len().div_ceil(64)].into();
    let mut nodes = vec![Node { is_done: nothing, state: rules.begin(), came: None }];
    let (mut open, mut seen) = (vec![0], HashSet::new());
    while let Some(at) = open.pop() {
        let mut next = candidates(&calls, &nodes[at].is_done);
        if next.iter().all(|nth| !calls[*nth].must_happen()) {
            let way = std::iter::successors(nodes[at].came, |(before, _)| nodes[*before].came);
            let mut way: Vec<usize> = way.map(|(_, nth)| by_asked[nth]).collect();
            way.reverse();

            return Found::Order(way);
        }
        let stands = nodes[at].state.clone();
        // A look that was asked after something could happen no more would end that as well.
        let ends = next.iter().filter(|nth| !calls[**nth].must_happen()).map(|nth| calls[*nth].until).min();
        let fits = |nth: &&usize| {
            let ends_nothing = ends.is_none_or(|ends| calls[**nth].asked <= ends);
            is_look[**nth] && ends_nothing && rules.after(&stands, calls[**nth]).contains(&stands)
        };
        let look = next.iter().rev().find(fits).copied();
        if let Some(nth) = look {
            next = vec![nth];
        }
        for nth in next {
            let call = calls[nth];
            let after = rules.after(&stands, call);
            for state in after.into_iter().filter(|state| look.is_none() || *state == stands) {
                // What may or may not have happened, and would have changed nothing, need not be put anywhere.
                if !call.must_happen() && state == stands {
                    continue;
                }
                let is_done = done_with(&calls, &nodes[at].is_done, nth);
                if seen.insert((Rc::clone(&is_done), state.clone())) {
                    if nodes.len() >= most {
                        return Found::TooMuch;
                    }
                    open.push(nodes.len());
                    nodes.push(Node { is_done, state, came: Some((at, nth)) });
                }
            }
        }
    }
    Found::Nothing
}

fn is_set(bits: &[u64], nth: usize) -> bool {
    bits[nth / 64] >> (nth % 64) & 1 == 1
}

/// The calls that may come next: asked before any that must happen first was answered. The most pressing is the last.
fn candidates<A, R>(calls: &[&Call<A, R>], is_done: &[u64]) -> Vec<usize> {
    let (mut next, mut deadline) = (Vec::new(), NEVER);
    for (nth, call) in calls.iter().enumerate() {
        if call.asked > deadline {
            break;
        }
        if !is_set(is_done, nth) {
            next.push(nth);
            if call.must_happen() {
                deadline = deadline.min(call.until);
            }
        }
    }
    next.retain(|nth| calls[*nth].asked < deadline);
    next.sort_by_key(|nth| std::cmp::Reverse((!calls[*nth].must_happen(), calls[*nth].until)));
    next
}

/// What is over when this call is put next: itself, and what can happen no more once it was asked. Whether that did
/// happen shows in the state alone.
fn done_with<A, R>(calls: &[&Call<A, R>], is_done: &[u64], nth: usize) -> Rc<[u64]> {
    let mut bits: Vec<u64> = is_done.to_vec();
    bits[nth / 64] |= 1 << (nth % 64);
    for (other, call) in calls[..nth].iter().enumerate() {
        if !call.must_happen() && call.until < calls[nth].asked {
            bits[other / 64] |= 1 << (other % 64);
        }
    }
    bits.into()
}
