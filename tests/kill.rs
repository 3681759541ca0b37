//! `kill -9` on a real process and a real disk: what the process told before it died is there after it.
//!
//! The test executable starts itself once more as the process to be killed. There the test
//! `the_process_that_is_killed` finds a role in its environment and plays it; without one it returns at once.

#![cfg(unix)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Instant;
use std::{env, fs, io, iter, thread};

use reentry::{Claim, ErrorKind, Progress, Run, State, Store};
use support::{PATIENCE, key, next_told, request, run, run_of};
use tempfile::TempDir;

const ROLE: &str = "REENTRY_KILL_ROLE";
const PLACE: &str = "REENTRY_KILL_PLACE";
const ROUND: &str = "REENTRY_KILL_ROUND";

/// What every line of the killed process begins with; the test harness writes lines of its own.
const TOLD: &str = "told: ";

/// Threads of the killed process, each on operations of its own.
const WORKERS: usize = 4;

/// The checkpoint after which an operation is completed.
const LAST_REVISION: u64 = 3;

/// After which line the process of each round is killed. The first line comes before its store is open.
const LINES: [usize; 20] = [40, 1, 2, 90, 3, 5, 8, 13, 1, 21, 34, 55, 4, 89, 144, 6, 2, 60, 120, 30];

#[test]
fn the_process_that_is_killed() {
    let Ok(role) = env::var(ROLE) else { return };
    let place = PathBuf::from(env::var(PLACE).unwrap());
    match role.as_str() {
        "work" => work(&place),
        "create" => create(&place),
        "hold" => hold(&place),
        other => panic!("no such role: {other}"),
    }
}

/// Tells the killer one line. It fails where the killer is gone, which ends this process too.
fn tell(line: &str) {
    let mut output = io::stdout().lock();
    output.write_all(format!("{TOLD}{line}\n").as_bytes()).unwrap();
    output.flush().unwrap();
}

/// Finishes what the last process left, then begins one operation after another, and tells each step that is done.
fn work(path: &Path) {
    let round = env::var(ROUND).unwrap();
    tell("opening");
    let store = Store::open(path).unwrap();
    let left: Vec<_> = store.unfinished().map(|progress| progress.unwrap().key().clone()).collect();
    thread::scope(|scope| {
        for worker in 0..WORKERS {
            let (store, left, round) = (&store, &left, &round);
            scope.spawn(move || {
                for key in left.iter().skip(worker).step_by(WORKERS) {
                    work_on(run_of(store.claim_unfinished(key).wait().unwrap()), LAST_REVISION);
                }
                for nth in 0_u64.. {
                    // Some stay unfinished until the next process comes.
                    let until = if nth % 5 == 4 { nth / 5 % LAST_REVISION } else { LAST_REVISION };
                    work_on(run(store, &key(&format!("{round}-{worker}-{nth}"))), until);
                    look_at(store, &format!("{round}-{}-{nth}", (worker + 1) % WORKERS));
                }
            });
        }
    });
}

/// Goes on with an operation where it stopped, up to this revision; and ends it there if that is the last.
fn work_on(mut run: Run, until: u64) {
    let revision = run.checkpoint().map_or(0, |checkpoint| checkpoint.revision().get());
    let (name, attempt) = (run.key().key().to_owned(), run.attempt());
    tell(&format!("token {}", run.token()));
    At { attempt, revision, is_over: false }.tell(&name);
    for revision in revision + 1..=until {
        let moved = run.advance(&format!("step {revision}"), &payload(&name, revision)).wait().unwrap();
        At { attempt, revision: moved.get(), is_over: false }.tell(&name);
    }
    if until == LAST_REVISION {
        let ended = if is_failure(&name) { run.fail(&name) } else { run.complete(&name) };
        ended.wait().unwrap();
        At { attempt, revision: LAST_REVISION, is_over: true }.tell(&name);
    }
}

/// What somebody else sees of an operation must be as sure as what its owner is told.
fn look_at(store: &Store, name: &str) {
    if let Some(progress) = store.progress(&key(name)).unwrap() {
        At::of(&progress).tell(name);
    }
}

/// The second one is too large to stand in the record itself.
fn payload(name: &str, revision: u64) -> String {
    format!("{name} {revision} ").repeat(if revision == 2 { 2_000 } else { 1 })
}

fn is_failure(name: &str) -> bool {
    name.ends_with('3')
}

/// Creates one store after another.
fn create(folder: &Path) {
    for nth in 0.. {
        tell(&format!("making {nth}"));
        let store = Store::open(store_in(folder, nth)).unwrap();
        drop(run(&store, &key("first")));
        tell(&format!("made {nth}"));
    }
}

fn store_in(folder: &Path, nth: usize) -> PathBuf {
    folder.join(format!("{nth}.reentry"))
}

/// Opens the store, owns an operation, and stays until it is killed or its killer is gone.
fn hold(path: &Path) {
    let store = match Store::open(path) {
        Ok(store) => store,
        Err(error) => return tell(&format!("{:?}", error.kind())),
    };
    let mut owned = run(&store, &key("owned"));
    owned.advance("half-way", &"there".to_owned()).wait().unwrap();
    tell("owns");
    io::stdin().read_to_end(&mut Vec::new()).unwrap();
}

/// Another process on the same files. It is killed at the latest when this goes.
struct Process {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Process {
    fn start(role: &str, place: &Path, round: usize) -> Self {
        let mut command = Command::new(env::current_exe().unwrap());
        command.args(["--exact", "the_process_that_is_killed", "--nocapture"]);
        command.env(ROLE, role).env(PLACE, place).env(ROUND, round.to_string());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self { child, output }
    }

    /// The next line it told; none after its end.
    fn hear(&mut self) -> Option<String> {
        next_told(&mut self.output, TOLD)
    }

    #[track_caller]
    fn hear_on(&mut self) -> String {
        self.hear().expect("it ended by itself; its own error stands above")
    }

    /// Kills it, and gives what it had told meanwhile.
    fn kill(mut self) -> Vec<String> {
        self.child.kill().unwrap();
        assert_eq!(self.child.wait().unwrap().signal(), Some(9), "it ended by itself; its own error stands above");
        iter::from_fn(|| self.hear()).collect()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// How far an operation is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct At {
    attempt: u32,
    revision: u64,
    is_over: bool,
}

impl At {
    fn of(progress: &Progress) -> Self {
        let revision = progress.checkpoint().map_or(0, |checkpoint| checkpoint.revision().get());
        Self { attempt: progress.attempt(), revision, is_over: progress.outcome().is_some() }
    }

    fn tell(self, name: &str) {
        let Self { attempt, revision, is_over } = self;
        tell(&format!("at {name} {attempt} {revision} {is_over}"));
    }

    /// The later of two; of one operation every part only grows.
    fn max(self, other: Self) -> Self {
        Self {
            attempt: self.attempt.max(other.attempt),
            revision: self.revision.max(other.revision),
            is_over: self.is_over || other.is_over,
        }
    }

    /// How many steps it took to get there.
    fn steps(self) -> u64 {
        u64::from(self.attempt) + self.revision + u64::from(self.is_over)
    }
}

/// All that the killed processes told.
#[derive(Default)]
struct Told {
    operations: BTreeMap<String, At>,
    tokens: BTreeSet<u64>,
}

impl Told {
    fn hear(&mut self, lines: &[String]) {
        let before = self.tokens.last().copied().unwrap_or_default();
        for line in lines {
            match line.split(' ').collect::<Vec<_>>()[..] {
                ["opening"] => {}
                ["token", token] => {
                    let token = token.parse().unwrap();
                    assert!(token > before && self.tokens.insert(token), "P7: token {token} was given before");
                }
                ["at", name, attempt, revision, is_over] => {
                    let (attempt, revision) = (attempt.parse().unwrap(), revision.parse().unwrap());
                    let at = self.operations.entry(name.to_owned()).or_default();
                    *at = at.max(At { attempt, revision, is_over: is_over.parse().unwrap() });
                }
                _ => panic!("what is {line:?}?"),
            }
        }
    }

    /// Compares with the store as the last process left it, and takes over what was done and not told any more.
    fn compare(&mut self, store: &Store) {
        let unfinished: Vec<_> = store.unfinished().map(|progress| progress.unwrap()).collect();
        for progress in &unfinished {
            self.operations.entry(progress.key().key().to_owned()).or_default();
        }
        let mut untold = 0;
        for (name, told) in &mut self.operations {
            let progress = store.progress(&key(name)).unwrap().unwrap_or_else(|| panic!("P2: {name} is lost"));
            let found = At::of(&progress);
            assert_eq!(found.max(*told), found, "P2: {name} fell behind what was told");
            assert!(found.steps() - told.steps() <= 1, "{name} is at {found:?}, but {told:?} was told");
            untold += found.steps() - told.steps();
            *told = found;
            let listed = unfinished.iter().filter(|progress| progress.key().key() == name).count();
            assert_eq!(listed, usize::from(!found.is_over), "{name} is unfinished and not listed, or the reverse");
            assert_contents(name, &progress);
        }
        assert!(untold <= WORKERS as u64, "each worker had one step under way, but {untold} were done");
        let stats = store.stats().unwrap();
        assert_eq!((stats.owned, stats.waiting), (0, 0), "P7");
        assert_eq!(stats.operations, self.operations.len() as u64, "there are operations that nobody began");
    }
}

fn assert_contents(name: &str, progress: &Progress) {
    let at = At::of(progress);
    if let Some(checkpoint) = progress.checkpoint() {
        assert_eq!(checkpoint.name(), format!("step {}", at.revision));
        assert_eq!(checkpoint.decode::<String>().unwrap(), payload(name, at.revision), "P3");
    }
    match progress.outcome() {
        None => assert_eq!(progress.state(), State::Unfinished, "P7: {name}"),
        Some(outcome) => {
            assert_eq!(outcome.decode::<String>().unwrap(), name);
            assert_eq!(outcome.is_success(), !is_failure(name));
        }
    }
}

/// A folder on the disk that the build is on: the system's own for temporary files is often none.
fn folder() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

#[test]
fn p2_p3_p7_p10_a_process_killed_again_and_again_loses_nothing_that_it_told() {
    let folder = folder();
    let path = folder.path().join("killed.reentry");
    let mut told = Told::default();
    for (round, line) in LINES.into_iter().enumerate() {
        let mut process = Process::start("work", &path, round);
        let mut lines: Vec<_> = (0..line).map(|_| process.hear_on()).collect();
        lines.extend(process.kill());
        told.hear(&lines);
        let store = Store::open(&path).unwrap();
        told.compare(&store);
        store.verify().unwrap();
        store.close().unwrap();
    }
    let is_re_entered = |at: &At| at.attempt > 1 && at.is_over;
    assert!(told.operations.values().any(is_re_entered), "nothing was left by one process and finished by another");
}

#[test]
fn p5_what_a_killed_process_completed_is_replayed_and_what_it_left_is_entered_again() {
    let folder = folder();
    let path = folder.path().join("killed.reentry");
    let mut process = Process::start("work", &path, 0);
    let mut lines: Vec<_> = (0..100).map(|_| process.hear_on()).collect();
    lines.extend(process.kill());
    let mut told = Told::default();
    told.hear(&lines);
    let store = Store::open(&path).unwrap();
    told.compare(&store);
    for (name, at) in &told.operations {
        match store.claim(&key(name), request()).wait().unwrap() {
            Claim::Replay(outcome) => assert_eq!((at.is_over, outcome.bytes()), (true, name.as_bytes())),
            Claim::Run(run) => assert_eq!((at.is_over, run.attempt()), (false, at.attempt + 1), "{name}"),
            other => panic!("{name}: {other:?}"),
        }
    }
    store.verify().unwrap();
}

/// When a process that creates stores is killed. Each is something that the killer can see, and that stays so.
#[derive(Debug, Clone, Copy)]
enum Moment {
    /// It told that it begins.
    Told,
    /// The file is there, under the name it has while it is made, or under its own already.
    Begun,
    /// Something stands in it.
    Filled,
    /// It has its own name.
    Named,
}

impl Moment {
    const ALL: [Self; 4] = [Self::Told, Self::Begun, Self::Filled, Self::Named];

    fn has_come(self, path: &Path) -> bool {
        let creating = fs::metadata(creating(path));
        match self {
            Self::Told => true,
            Self::Begun => creating.is_ok() || path.exists(),
            Self::Filled => creating.is_ok_and(|file| file.len() > 0) || path.exists(),
            Self::Named => path.exists(),
        }
    }
}

/// The name that a store has while it is made.
fn creating(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".creating");
    PathBuf::from(name)
}

#[test]
fn p2_p10_a_store_whose_maker_was_killed_opens_and_a_made_one_is_whole() {
    for nth in 0..4 {
        for moment in Moment::ALL {
            let folder = folder();
            let mut process = Process::start("create", folder.path(), 0);
            let begun = format!("making {nth}");
            while process.hear_on() != begun {}
            let end = Instant::now() + PATIENCE;
            while !moment.has_come(&store_in(folder.path(), nth)) {
                assert!(Instant::now() < end, "it never came to {moment:?}");
                thread::yield_now();
            }
            let later = process.kill();
            let last = nth + later.iter().filter(|line| line.starts_with("making")).count();
            for nth in 0..=last {
                let store = Store::open(store_in(folder.path(), nth))
                    .unwrap_or_else(|error| panic!("store {nth} after a kill at {moment:?}: {error}"));
                let first = store.progress(&key("first")).unwrap();
                let is_made = nth < last || later.contains(&format!("made {nth}"));
                assert!(first.is_some() || !is_made, "store {nth} after a kill at {moment:?} has lost what was told");
                drop(run(&store, &key("first")));
                store.verify().unwrap();
            }
        }
    }
}

#[test]
fn p10_what_a_killed_maker_left_is_not_in_the_way() {
    let whole = folder();
    let whole = whole.path().join("whole.reentry");
    Store::open(&whole).unwrap().close().unwrap();
    let bytes = fs::read(&whole).unwrap();
    // Empty, torn at several places, whole but without its name, and rubbish.
    let leftovers = [&[][..], &bytes[..1], &bytes[..512], &bytes[..bytes.len() / 2], &bytes, &[0xA5; 10_000]];
    for leftover in leftovers {
        let folder = folder();
        let path = folder.path().join("new.reentry");
        fs::write(creating(&path), leftover).unwrap();
        fs::set_permissions(creating(&path), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        let store = Store::open(&path).unwrap();
        assert!(!creating(&path).exists());
        assert_eq!(store.stats().unwrap().operations, 0);
        drop(run(&store, &key("first")));
        store.verify().unwrap();
    }
}

#[test]
fn p10_a_store_that_still_has_both_its_names_keeps_what_is_in_it() {
    let folder = folder();
    let path = folder.path().join("both.reentry");
    let store = Store::open(&path).unwrap();
    run(&store, &key("first")).complete(&"done".to_owned()).wait().unwrap();
    store.close().unwrap();
    fs::hard_link(&path, creating(&path)).unwrap();
    let store = Store::open(&path).unwrap();
    assert!(matches!(store.claim(&key("first"), request()).wait().unwrap(), Claim::Replay(_)));
    store.verify().unwrap();
}

#[test]
fn p1_p7_a_store_is_open_in_one_process_and_free_when_that_is_killed() {
    let folder = folder();
    let path = folder.path().join("held.reentry");
    for attempt in 1..=3 {
        let mut process = Process::start("hold", &path, 0);
        assert_eq!(process.hear_on(), "owns");
        let error = Store::open(&path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InUse);
        assert!(error.to_string().contains("held.reentry"), "{error}");
        assert!(process.kill().is_empty());
        let store = Store::open(&path).unwrap();
        let left = store.progress(&key("owned")).unwrap().unwrap();
        assert_eq!((left.state(), left.attempt()), (State::Unfinished, 2 * attempt - 1));
        let run = run(&store, &key("owned"));
        assert_eq!((run.attempt(), run.checkpoint().unwrap().name()), (2 * attempt, "half-way"));
        store.verify().unwrap();
    }
}

#[test]
fn p1_another_process_is_refused_while_this_one_has_the_store_open() {
    let folder = folder();
    let path = folder.path().join("held.reentry");
    let store = Store::open(&path).unwrap();
    assert_eq!(Process::start("hold", &path, 0).hear_on(), "InUse");
    store.verify().unwrap();
    store.close().unwrap();
    assert_eq!(Process::start("hold", &path, 0).hear_on(), "owns");
}
