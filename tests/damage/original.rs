//! A store of every kind of operation, as it was closed or as a crash left it, and the judge of a damaged copy.

use std::collections::BTreeMap;
use std::ops::Range;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use reentry::{
    Checkpoint, Claim, ErrorKind, Failure, Fingerprint, Key, Loss, ManualClock, Outcome, Pending, Request, Run,
    SimulatedDisk, State, Step, Store, Timestamp,
};

use super::support::{PATIENCE, START, head_bytes, key, request, run_of};

pub(crate) const RETENTION: Duration = Duration::from_secs(1_000);
pub(crate) const PAGE: usize = 4096;

/// The two slots in redb's header, one of which tells where the newest commit is.
pub(crate) fn slots(image: &[u8]) -> Range<usize> {
    let redb = head_bytes(image);
    redb + 64..redb + 320
}

/// The operation that the last commit before the end changes.
const LAST: &str = "operation 4";

/// All that can be asked about an operation.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Known {
    pub(crate) state: State,
    pub(crate) attempt: u32,
    since: Timestamp,
    pub(crate) fingerprint: Fingerprint,
    request: Option<Vec<u8>>,
    checkpoint: Option<Checkpoint>,
    steps: Vec<Step>,
    outcome: Option<Outcome>,
}

pub(crate) type Everything = BTreeMap<Key, Known>;

pub(crate) fn builder(clock: &ManualClock) -> reentry::Builder {
    Store::builder().retention(RETENTION).tombstones(RETENTION).clock(clock.clone())
}

/// What a call comes to, whoever lets the writer work.
pub(crate) fn told<T>(store: &Store, pending: Pending<T>) -> reentry::Result<T> {
    store.work_by_hand();
    pending.wait_for(PATIENCE)
}

/// Polls until it is ready, and lets the writer work in between.
fn by_hand<T>(store: &Store, future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(answer) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return answer;
        }
        // Where it works on a thread of its own, that is left to it.
        if !store.work_by_hand() {
            thread::yield_now();
        }
    }
}

/// What is small enough stands in its operation's row, what is over 1 KiB in a row of its own.
fn payload(nth: usize) -> Vec<u8> {
    let size = [0, 20, 1_024, 1_025, 5_000][nth % 5];
    (0..size).map(|at| u8::try_from((at * 7 + nth) % 256).unwrap()).collect()
}

fn claim(store: &Store, nth: usize) -> Run {
    let mut owner = run_of(told(store, store.claim(&key(&format!("operation {nth}")), request_of(nth))).unwrap());
    if nth % 4 > 1 {
        // One step with a result in the row or apart, and one that stays in doubt.
        let bytes = payload(nth / 3);
        drop(by_hand(store, owner.step("charge").run_keyed_async(async |_| Ok::<_, Failure>(bytes))).unwrap());
        drop(
            by_hand(store, owner.step("call").run_at_most_once_async(async |_| Err::<(), _>("timed out"))).unwrap_err(),
        );
    }
    owner
}

fn keys(operations: usize) -> impl Iterator<Item = Key> {
    (0..operations).map(|nth| key(&format!("operation {nth}")))
}

/// Puts operations of every phase, with every kind of payload and step, into the store.
pub(crate) fn fill(store: &Store, clock: &ManualClock, operations: usize) {
    for nth in 0..operations {
        if nth == operations / 3 {
            // What was completed until now becomes tombstones.
            clock.advance(RETENTION);
            assert!(!told(store, store.revoke(&Key::new("settle", "settle").unwrap())).unwrap());
        }
        let mut owner = claim(store, nth);
        if nth % 2 == 0 {
            told(store, owner.advance("charging", &payload(nth))).unwrap();
            told(store, owner.advance("charged", &payload(nth / 2))).unwrap();
        }
        match nth / 2 % 3 {
            0 => drop(told(store, owner.complete(&payload(nth))).unwrap()),
            1 => drop(told(store, owner.fail(&payload(nth / 3))).unwrap()),
            _ => {
                drop(owner);
                drop(claim(store, nth));
            }
        }
    }
}

/// What the store tells of one operation.
pub(crate) fn ask(store: &Store, key: &Key) -> reentry::Result<Option<Known>> {
    Ok(store.progress(key)?.map(|progress| Known {
        state: progress.state(),
        attempt: progress.attempt(),
        since: progress.since(),
        fingerprint: progress.fingerprint(),
        request: progress.request().map(<[u8]>::to_vec),
        checkpoint: progress.checkpoint().cloned(),
        steps: progress.steps().to_vec(),
        outcome: progress.outcome().cloned(),
    }))
}

pub(crate) fn ask_all(store: &Store, operations: usize) -> Everything {
    keys(operations).map(|key| (key.clone(), ask(store, &key).unwrap().unwrap())).collect()
}

/// A file, when it was left, and what it must tell.
#[derive(Debug, Clone)]
pub(crate) struct Original {
    pub(crate) image: Vec<u8>,
    pub(crate) clock: ManualClock,
    pub(crate) known: Everything,
    is_closed: bool,
    /// What it told before its last commit.
    before: Everything,
    /// The file as it was before.
    pub(crate) earlier_images: Vec<Vec<u8>>,
    /// Where its last two commits wrote.
    last: [Vec<usize>; 2],
}

impl Original {
    /// A store of some 100 KiB.
    pub(crate) fn small(is_closed: bool) -> Self {
        Self::made(40, is_closed)
    }

    /// A store of more than 1 MiB.
    pub(crate) fn large() -> Self {
        let original = Self::made(200, true);
        assert!(original.image.len() >= 1024 * 1024, "{} bytes", original.image.len());
        original
    }

    fn made(operations: usize, is_closed: bool) -> Self {
        let (disk, clock) = (SimulatedDisk::new(), ManualClock::at(START));
        let store = builder(&clock).open_by_hand(&disk).unwrap();
        fill(&store, &clock, operations);
        let cut = || disk.cut(disk.calls(), |_| Loss::Lost).image();
        let earlier = disk.calls() * 3 / 4;
        let last_but_two = cut();
        drop(run_of(told(&store, store.claim(&key(LAST), request_of(4))).unwrap()));
        let before = ask_all(&store, operations);
        let last_but_one = cut();
        let earlier = [earlier, disk.calls()];
        // The last commit: one that is unfinished is claimed once more, which nothing else tells of.
        drop(run_of(told(&store, store.claim(&key(LAST), request_of(4))).unwrap()));
        let known = ask_all(&store, operations);
        let last = [differences(&last_but_two, &last_but_one), differences(&last_but_one, &cut())];
        for state in [State::Unfinished, State::Succeeded, State::Failed, State::Gone] {
            assert!(known.values().any(|known| known.state == state), "none is {state}");
        }
        store.verify().unwrap();
        if is_closed {
            store.close().unwrap();
        }
        let image = |at| disk.cut(at, |_| Loss::Kept).image();
        let earlier_images = earlier.map(image).to_vec();
        Self { image: image(disk.calls()), clock, known, is_closed, before, earlier_images, last }
    }

    /// Whether the last two commits are damaged. Then those before them may be lost too, of a file that a crash left,
    /// where damage went on to them: nothing behind them tells that they were there.
    fn is_end_damaged(&self, image: &[u8]) -> bool {
        let is_damaged = |commit: &Vec<usize>| commit.iter().any(|at| image.get(*at) != self.image.get(*at));
        self.last.iter().all(is_damaged)
    }

    /// Opens the damaged file. Returns whether it was refused; where it was not, all must be as it was.
    pub(crate) fn is_refused(&self, image: &[u8], damage: &dyn Fn() -> String) -> bool {
        let disk = SimulatedDisk::from_image(image.to_vec());
        let is_refused = self.is_refused_on(&disk, damage);
        assert!(!is_refused || disk.image() == image, "{}: the refused file was changed", damage());
        is_refused
    }

    /// Which bytes of the file are read when it is opened, asked everything and closed. All that happens by hand on
    /// one thread and nothing else goes in, so what is never read can change nothing.
    pub(crate) fn read_bytes(&self) -> Vec<bool> {
        let disk = SimulatedDisk::from_image(self.image.clone());
        disk.watch_reads();
        assert!(!self.is_refused_on(&disk, &|| "no damage".to_owned()));
        let mut is_read = vec![false; self.image.len()];
        for range in disk.reads() {
            let [start, end] = [range.start, range.end].map(|at| usize::try_from(at).unwrap().min(is_read.len()));
            is_read[start..end].fill(true);
        }
        is_read
    }

    /// Likewise, on a disk that holds the file.
    pub(crate) fn is_refused_on(&self, disk: &SimulatedDisk, damage: &dyn Fn() -> String) -> bool {
        let is_end_damaged = !self.is_closed && self.is_end_damaged(&disk.image());
        let store = match builder(&self.clock).open_by_hand(disk) {
            Ok(store) => store,
            Err(error) => {
                let expected = [ErrorKind::Corrupt, ErrorKind::NotAStore, ErrorKind::NewerFormat];
                assert!(expected.contains(&error.kind()), "{}: {:?}: {error}", damage(), error.kind());
                assert!(disk.calls() == 0, "{}: the refused file was changed", damage());
                return true;
            }
        };
        if is_end_damaged {
            store.verify().unwrap_or_else(|error| panic!("{}: {error}", damage()));
        } else {
            self.assert_is_whole(&store, damage);
        }
        store.close().unwrap_or_else(|error| panic!("{}: {error}", damage()));
        false
    }

    /// What the store must tell: after a crash, damage to what the newest commit wrote looks like a commit that the
    /// crash tore, and redb takes the one before it. Nothing older is ever taken, and nothing is mixed.
    fn expected(&self, store: &Store) -> &Everything {
        let last = key(LAST);
        let is_older = !self.is_closed && ask(store, &last).is_ok_and(|told| told.as_ref() == self.before.get(&last));
        if is_older { &self.before } else { &self.known }
    }

    /// Asks the store for everything in every way.
    pub(crate) fn assert_is_whole(&self, store: &Store, damage: &dyn Fn() -> String) {
        let expected = self.expected(store);
        for (key, known) in expected {
            let told = ask(store, key);
            assert!(matches!(&told, Ok(Some(told)) if told == known), "{}: {known:?} became {told:?}", damage());
        }
        let unfinished = store.unfinished().map(|progress| progress.unwrap().key().clone());
        let open = expected.values().filter(|known| known.state == State::Unfinished);
        assert_eq!(unfinished.count(), open.count(), "{}: the list of the unfinished", damage());
        for (nth, (key, known)) in expected.iter().enumerate().step_by(expected.len() / 8) {
            let claimed = told(store, store.claim(key, known.fingerprint));
            assert!(is_right(known, &claimed.unwrap()), "{}: the claim of operation {nth} in order", damage());
        }
        store.verify().unwrap_or_else(|error| panic!("{}: {error}", damage()));
    }
}

/// Where the second file is another than the first.
fn differences(one: &[u8], other: &[u8]) -> Vec<usize> {
    (0..other.len()).filter(|at| one.get(*at) != other.get(*at)).collect()
}

/// The request that operation `nth` was claimed with.
fn request_of(nth: usize) -> Request {
    if nth.is_multiple_of(3) { Request::of(payload(nth / 7)) } else { Request::from(request()) }
}

/// Whether this claim is what an operation that is known so must answer.
pub(crate) fn is_right(known: &Known, claim: &Claim) -> bool {
    match (known.state, claim) {
        (State::Unfinished, Claim::Run(run)) => run.attempt() > known.attempt && run.checkpoint() == known.checkpoint,
        (State::Succeeded | State::Failed, Claim::Replay(outcome)) => known.outcome.as_ref() == Some(outcome),
        (State::Gone, Claim::Gone(_)) => true,
        _ => false,
    }
}
