//! A server that does a workload on a store whose writer works by hand, so that it can be repeated exactly.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use reentry::{
    Advance, Checkpoint, Claim, Error, ErrorKind, Failure, Key, ManualClock, Pending, Progress, Resolution, Result,
    Revision, Run, SimulatedDisk, Step, Store, Table,
};

use super::support::{START, key, request};

/// How long outcomes and tombstones are kept, and owners may stand still.
const KEPT: Duration = Duration::from_secs(3_600);
const LEASE: Duration = Duration::from_secs(60);

/// How many batches anything takes at most; the store hangs where it takes more.
const BATCHES_MAX: usize = 8;

const ROWS: Table = Table::new("rows");

/// The names of the keys that workloads use.
pub(crate) const NAMES: [&str; 4] = ["a", "b", "c", "d"];

/// What everybody can see of a store: of each key, and the server's own rows.
pub(crate) type Shown = BTreeMap<String, String>;

type Asked = Pin<Box<dyn Future<Output = Result<String>>>>;
type Guarded = (Run, Result<Vec<u8>>);

/// What a line came to.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) answers: Vec<Result<String>>,
    /// Which of them needed no batch.
    pub(crate) at_once: Vec<bool>,
}

pub(crate) struct Server {
    pub(crate) disk: SimulatedDisk,
    pub(crate) clock: ManualClock,
    pub(crate) store: Option<Store>,
    /// Whether closing failed, and the system has kept what it wrote.
    pub(crate) is_kept: bool,
    runs: Rc<RefCell<BTreeMap<String, Run>>>,
    waiting: Rc<RefCell<BTreeMap<String, Pending<Claim>>>>,
}

fn open(disk: &SimulatedDisk, clock: &ManualClock) -> Result<Store> {
    let builder = Store::builder().retention(KEPT).tombstones(KEPT).lease(LEASE).attempts_max(3);
    builder.cache_bytes(1024 * 1024).clock(clock.clone()).open_by_hand(disk)
}

/// A payload of this many bytes.
fn payload(bytes: &str) -> Vec<u8> {
    let bytes: usize = bytes.parse().unwrap();
    (0..bytes).map(|n| u8::try_from((n * 31 + bytes) % 251).unwrap()).collect()
}

/// Bytes by their length and checksum, so that no answer fills the screen.
fn told(bytes: &[u8]) -> String {
    let sum = bytes.iter().fold(7_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte)));
    format!("{}:{sum:x}", bytes.len())
}

impl Server {
    /// A server whose store has a journal of so many pages.
    pub(crate) fn new(journal: u32) -> Self {
        Self::on(SimulatedDisk::new().with_journal(journal), ManualClock::at(START))
    }

    pub(crate) fn on(disk: SimulatedDisk, clock: ManualClock) -> Self {
        Self { disk, clock, store: None, is_kept: false, runs: Rc::default(), waiting: Rc::default() }
    }

    pub(crate) fn open(&mut self) -> Result<()> {
        self.store = Some(open(&self.disk, &self.clock)?);
        Ok(())
    }

    pub(crate) fn store(&self) -> &Store {
        self.store.as_ref().expect("it is open")
    }

    /// Lets all of it go, as a process that ends.
    pub(crate) fn end(&mut self) -> Result<()> {
        let closed = self.store.as_ref().map_or(Ok(()), Store::close);
        self.waiting.borrow_mut().clear();
        self.runs.borrow_mut().clear();
        self.store = None;
        closed
    }

    /// Does a line; `after_batch` is called after each batch.
    pub(crate) fn line(&mut self, line: &str, mut after_batch: impl FnMut(&Self)) -> Line {
        let mut asked: Vec<_> = line.split('|').map(|act| self.ask(act.trim())).collect();
        let mut answers: Vec<Option<Result<String>>> = asked.iter().map(|_| None).collect();
        let mut at_once = Vec::new();
        for batch in 0..=BATCHES_MAX {
            for (asked, answer) in asked.iter_mut().zip(&mut answers).filter(|(_, answer)| answer.is_none()) {
                if let Poll::Ready(ready) = asked.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                    *answer = Some(ready);
                }
            }
            if batch == 0 {
                at_once = answers.iter().map(Option::is_some).collect();
            }
            if answers.iter().all(Option::is_some) {
                break;
            }
            assert!(batch < BATCHES_MAX, "nobody answers {line:?}");
            self.work();
            after_batch(self);
        }
        // What nobody waits for: a step's result, the turn of the next in line, what retention removes. Where something
        // was refused all who wait give up, so that a run that ended with it is followed by none.
        if answers.iter().flatten().any(Result::is_err) {
            self.waiting.borrow_mut().clear();
        } else if self.store.is_some() {
            self.work();
            after_batch(self);
        }
        Line { answers: answers.into_iter().flatten().collect(), at_once }
    }

    pub(crate) fn work(&self) {
        if let Some(store) = &self.store {
            store.work_by_hand();
        }
    }

    /// The answer to a claim, whose run is kept.
    fn claimed(&self, name: &str, pending: Pending<Claim>) -> Asked {
        let (runs, name) = (Rc::clone(&self.runs), name.to_owned());
        Box::pin(async move {
            Ok(match pending.await? {
                Claim::Run(run) => {
                    let told = format!("run, attempt {}, {:?}", run.attempt(), run.checkpoint().map(|c| c.revision()));
                    runs.borrow_mut().insert(name, run);
                    told
                }
                Claim::Replay(outcome) => format!("replay {} {}", outcome.is_success(), told(outcome.bytes())),
                Claim::Wait(_) => "wait".to_owned(),
                Claim::Reject(_) => "reject".to_owned(),
                Claim::Gone(_) => "gone".to_owned(),
            })
        })
    }

    fn run(&self, name: &str) -> Run {
        self.runs.borrow_mut().remove(name).unwrap_or_else(|| panic!("nobody runs {name}"))
    }

    /// Asks the run of this name, which goes on after it.
    fn of_run<T: Send + 'static>(
        &self,
        name: &str,
        ask: impl FnOnce(&mut Run) -> Pending<T>,
        tell: fn(&T) -> String,
    ) -> Asked {
        let asked = ask(self.runs.borrow_mut().get_mut(name).unwrap_or_else(|| panic!("nobody runs {name}")));
        asked_as(asked, tell)
    }

    /// Guards an effect by a step, as its run.
    fn guards<F: Future<Output = Guarded> + 'static>(&self, name: &str, guard: impl FnOnce(Run) -> F) -> Asked {
        let (guarding, runs, name) = (guard(self.run(name)), Rc::clone(&self.runs), name.to_owned());
        Box::pin(async move {
            let (run, result) = guarding.await;
            runs.borrow_mut().insert(name, run);
            match result {
                Err(error) if error.kind() == ErrorKind::EffectFailed => Ok("in doubt".to_owned()),
                result => Ok(told(&result?)),
            }
        })
    }

    /// Begins one act. Its answer comes with a batch, or at once.
    fn ask(&mut self, act: &str) -> Asked {
        let words: Vec<_> = act.split_whitespace().collect();
        let (name, more) = (*words.get(1).unwrap_or(&""), words.get(2..).unwrap_or_default());
        match words[0] {
            "reopen" => {
                // Closing tells nobody of anything that was not told before. What a sync dropped as it was closed, a
                // restart of the process alone cannot know; here the system has kept it.
                let failed = self.disk.failed();
                if self.end().is_err() || self.disk.failed() > failed {
                    self.disk.keep_what_syncs_dropped();
                    self.is_kept = true;
                }
                ready(self.open().map(|()| String::new()))
            }
            "pass" => {
                self.clock.advance(Duration::from_secs(name.parse().unwrap()));
                ready(Ok(String::new()))
            }
            "drop" => {
                drop(self.runs.borrow_mut().remove(name));
                ready(Ok(String::new()))
            }
            "release" => {
                self.run(name).release();
                ready(Ok(String::new()))
            }
            "wait" => {
                let claim = self.store().claim(&key(name), request());
                let (waiting, name) = (Rc::clone(&self.waiting), name.to_owned());
                Box::pin(async move {
                    let Claim::Wait(busy) = claim.await? else { panic!("a run is at work") };
                    waiting.borrow_mut().insert(name, busy.outcome());
                    Ok("waits".to_owned())
                })
            }
            "answered" => {
                let waiting = self.waiting.borrow_mut().remove(name).expect("somebody waits");
                self.claimed(name, waiting)
            }
            "verify" | "list" | "read" | "stats" | "progress" => ready(self.look(words[0], name)),
            "keyed" | "once" | "checked" | "doubt" => self.step(words[0], name, more),
            _ => self.change(words[0], name, more),
        }
    }

    /// What only reads.
    fn look(&self, what: &str, name: &str) -> Result<String> {
        let store = self.store();
        Ok(match what {
            // What retention removes may be removed later.
            "verify" => store.verify().map(|_| "sound".to_owned())?,
            "list" => store.unfinished().map(|found| Ok(shown(&found?))).collect::<Result<Vec<_>>>()?.join("; "),
            "read" => rows(store)?,
            "stats" => {
                let stats = store.stats()?;
                format!("{} {} {}", stats.unfinished, stats.in_doubt, stats.stuck)
            }
            _ => store.progress(&key(name))?.map_or_else(|| "nothing".to_owned(), |progress| shown(&progress)),
        })
    }

    /// An effect guarded by a step.
    fn step(&self, kind: &str, name: &str, more: &[&str]) -> Asked {
        let step = more[0].to_owned();
        let result = more.get(1).map(|bytes| payload(bytes));
        match kind {
            "keyed" => self.guards(name, |mut run| async move {
                let done = run.step(&step).run_keyed_async(|_| async { Ok::<_, Failure>(result.unwrap()) }).await;
                (run, done)
            }),
            "doubt" => self.guards(name, |mut run| async move {
                let timed_out = |_| async { Err::<Vec<u8>, _>("timed out") };
                let done = run.step(&step).run_keyed_async(timed_out).await;
                (run, done)
            }),
            "once" => self.guards(name, |mut run| async move {
                let effect = |_| async { Ok::<_, Failure>(result.unwrap()) };
                let done = run.step(&step).run_at_most_once_async(effect).await;
                (run, done)
            }),
            _ => self.guards(name, |mut run| async move {
                let found = result.clone();
                let recheck = |_| async { Ok::<_, Failure>(found) };
                let effect = |_| async { Ok::<_, Failure>(result.unwrap()) };
                let done = run.step(&step).recheck_async(recheck).run_async(effect).await;
                (run, done)
            }),
        }
    }

    /// What changes something.
    fn change(&self, what: &str, name: &str, more: &[&str]) -> Asked {
        let (store, key) = (self.store(), key(name));
        let bytes = more.first().filter(|word| word.bytes().all(|b| b.is_ascii_digit())).map(|bytes| payload(bytes));
        let bytes = bytes.unwrap_or_default();
        let row = name.to_owned();
        let write = move |tx: &reentry::Transaction<'_>| {
            let mut table = tx.open_table(ROWS)?;
            let count = table.len()?;
            table.insert(format!("{row} {count}"), "row")?;
            Ok(())
        };
        let moved = |revision: &Revision| format!("at {}", revision.get());
        let ended = |outcome: &reentry::Outcome| told(outcome.bytes());
        match what {
            "claim" | "take" => self.claimed(name, store.claim(&key, request())),
            "defer" => self.claimed(name, store.claim(&key, reentry::Request::from(request()).deferred())),
            "again" => self.claimed(name, store.claim_unfinished(&key)),
            "advance" => self.of_run(name, |run| run.advance("on", &bytes), moved),
            "advance+row" => self.of_run(name, |run| run.advance_with("on", &bytes, write), moved),
            "row-fails" => {
                let fails = |tx: &reentry::Transaction<'_>| {
                    tx.open_table(ROWS)?.insert("refused", "row")?;
                    Err("the row is refused".into())
                };
                self.of_run(name, |run| run.advance_with("on", &bytes, fails), moved)
            }
            "renew" => self.of_run(name, Run::renew, |()| String::new()),
            "refresh" => {
                let refreshed = self.runs.borrow_mut().get_mut(name).expect("somebody runs it").refresh();
                ready(refreshed.map(|checkpoint| format!("{:?}", checkpoint.map(|c| c.revision()))))
            }
            "complete" => asked_as(self.run(name).complete(&bytes), ended),
            "complete+row" => asked_as(self.run(name).complete_with(&bytes, write), ended),
            "fail" => asked_as(self.run(name).fail(&bytes), ended),
            "outside" => self.outside(&key, &bytes),
            "resolve" => {
                let happened = Resolution::happened(&"found".to_owned()).unwrap();
                asked_as(store.resolve(&key, more[0], happened, "the bank says so"), |()| String::new())
            }
            "forget" => asked_as(store.forget(&key), bool::to_string),
            "revoke" => asked_as(store.revoke(&key), bool::to_string),
            "free" => asked_as(store.release_stuck(&key), bool::to_string),
            other => panic!("nobody knows how to {other}"),
        }
    }

    /// Moves a checkpoint from outside, from where it is.
    fn outside(&self, key: &Key, bytes: &Vec<u8>) -> Asked {
        let expected = match self.store().progress(key) {
            Ok(progress) => progress.and_then(|it| it.checkpoint().map(Checkpoint::revision)).unwrap_or(Revision::NONE),
            Err(error) => return ready(Err(error)),
        };
        asked_as(self.store().advance(key, expected, "from outside", bytes), |advance| match advance {
            Advance::Moved(checkpoint) => format!("moved to {}", checkpoint.revision().get()),
            Advance::Lost(_) => "lost".to_owned(),
        })
    }

    /// Whether a claim of this key is answered with its outcome, which needs no batch.
    pub(crate) fn replay(&self, name: &str) -> Poll<Result<Option<String>>> {
        let mut claim = self.store().claim(&key(name), request());
        Pin::new(&mut claim).poll(&mut Context::from_waker(Waker::noop())).map_ok(|claim| match claim {
            Claim::Replay(outcome) => Some(told(outcome.bytes())),
            _ => None,
        })
    }
}

fn ready(answer: Result<String>) -> Asked {
    Box::pin(std::future::ready(answer))
}

fn asked_as<T: Send + 'static>(asked: Pending<T>, tell: fn(&T) -> String) -> Asked {
    Box::pin(async move { asked.await.map(|answer| tell(&answer)) })
}

fn rows(store: &Store) -> Result<String> {
    // Of one answer within the other: whether the store could be read, and whether the table could.
    store.read(|tx| {
        let table = tx.open_table(ROWS)?;
        let rows = table.range(..)?.map(|row| row.map(|(key, _)| String::from_utf8_lossy(&key).into_owned()));
        Ok::<_, Error>(rows.collect::<Result<Vec<_>>>()?.join(","))
    })?
}

fn shown(progress: &Progress) -> String {
    let mut text = format!("{:?} attempt {} since {:?}", progress.state(), progress.attempt(), progress.since());
    if let Some(checkpoint) = progress.checkpoint() {
        let (at, bytes) = (checkpoint.revision().get(), told(checkpoint.bytes()));
        write!(text, ", {} at {at} with {bytes}", checkpoint.name()).unwrap();
    }
    for step in progress.steps() {
        let Some(bytes) = Step::bytes(step) else {
            write!(text, ", step {} {:?}", step.name(), step.state()).unwrap();
            continue;
        };
        write!(text, ", step {} {:?} with {}", step.name(), step.state(), told(bytes)).unwrap();
    }
    if let Some(outcome) = progress.outcome() {
        write!(text, ", outcome {} {}", outcome.is_success(), told(outcome.bytes())).unwrap();
    }
    text
}

/// What a store on this disk shows at the time of this clock, once it is opened and verified.
pub(crate) fn shown_by(disk: &SimulatedDisk, clock: &ManualClock) -> Shown {
    let store = open(disk, clock).expect("what a crash or a fault leaves can be opened");
    let mut all = shown_by_store(&store);
    all.insert("rows".to_owned(), rows(&store).unwrap());
    let kept = store.verify().expect("every rule holds").operations;
    assert!(kept <= NAMES.len() as u64 + 1, "{kept} operations");
    all
}

/// What an open store shows of each key; one more key stands for all others.
pub(crate) fn shown_by_store(store: &Store) -> Shown {
    let keys = NAMES.iter().chain(&["probe"]);
    let progress = |name: &&str| Some(((*name).to_owned(), shown(&store.progress(&key(name)).unwrap()?)));
    keys.filter_map(progress).collect()
}
