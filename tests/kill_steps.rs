//! `kill -9` on a real process in the midst of effects: at every step boundary that it tells, and, where strace is
//! installed, at every system call that writes. Whatever it had done to the ledger outside stays done, and after as
//! many restarts as it takes every effect stands in the ledger once.
//!
//! The test executable starts itself once more as the process to be killed, as tests/kill.rs does. By default a part of
//! the system calls is tried and one boundary for each second run; `REENTRY_KILL_FULL=1` tries all of them.

#![cfg(unix)]
#![allow(clippy::print_stdout, reason = "a part of this is skipped where strace is missing, and says so")]

mod support;

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::{env, fs, iter};

use reentry::{
    Claim, EffectId, Error, ErrorKind, Key, Progress, Request, Resolution, Run, State, StepState, Store, Table,
};
use support::{key, next_told, request, run, run_of};
use tempfile::TempDir;

const ROLE: &str = "REENTRY_KILL_STEPS_ORDER";
const PLACE: &str = "REENTRY_KILL_STEPS_PLACE";
const IS_LED: &str = "REENTRY_KILL_STEPS_IS_LED";

/// What every line of the killed process begins with; the test harness writes lines of its own.
const TOLD: &str = "told: ";

/// The bank can be asked for "charge", the mailer deduplicates "mail", nobody remembers "call".
const ORDERS: [[&str; 3]; 2] = [["charge", "mail", "call"], ["call", "charge", "mail"]];

const PAID: Table = Table::new("paid");
const DONE: Table = Table::new("done");

/// Operations of no interest before the one that is killed. strace counts the calls of each thread apart, and the
/// thread that opens the store makes some too: these see to it that the writer is ahead of it when it matters.
const WARM_UP: usize = 4;

/// How many lines it tells from the claim to the end, where nothing comes in between.
const LINES: usize = 13;

/// More system calls than a process makes.
const CALLS_MAX: usize = 1_000;

fn is_full() -> bool {
    env::var_os("REENTRY_KILL_FULL").is_some()
}

#[test]
fn the_process_that_is_killed() {
    let Ok(order) = env::var(ROLE) else { return };
    let place = PathBuf::from(env::var(PLACE).unwrap());
    Server::open(&place, order.parse().unwrap()).work();
}

/// What stands outside of the store: one line for each effect, on disk before the effect returns.
struct Ledger(PathBuf);

impl Ledger {
    fn in_folder(folder: &Path) -> Self {
        Self(folder.join("ledger"))
    }

    fn lines(&self) -> Vec<String> {
        let mut text = String::new();
        match File::open(&self.0) {
            Ok(mut file) => drop(file.read_to_string(&mut text).unwrap()),
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::NotFound),
        }
        assert!(text.is_empty() || text.ends_with('\n'), "a line is written whole or not at all");
        text.lines().map(str::to_owned).collect()
    }

    fn of(&self, step: &str) -> Vec<String> {
        self.lines().into_iter().filter(|line| line.split(' ').next() == Some(step)).collect()
    }

    fn find(&self, step: &str, id: EffectId) -> Option<String> {
        self.lines().into_iter().find(|line| line.starts_with(&format!("{step} {id} ")))
    }

    /// Does the effect: every time it is told to, but for mails.
    fn effect(&self, step: &str, id: EffectId) -> String {
        if let (true, Some(before)) = (step == "mail", self.find(step, id)) {
            return before;
        }
        let line = format!("{step} {id} {}", self.lines().len());
        let mut file = OpenOptions::new().create(true).append(true).open(&self.0).unwrap();
        file.write_all(format!("{line}\n").as_bytes()).unwrap();
        file.sync_all().unwrap();
        line
    }
}

/// The process that is killed.
struct Server {
    store: Store,
    ledger: Ledger,
    order: usize,
    /// Whether it waits after each line until it is told to go on.
    is_led: bool,
}

impl Server {
    fn open(folder: &Path, order: usize) -> Self {
        let is_led = env::var_os(IS_LED).is_some();
        let store = Store::open(folder.join("orders.reentry")).unwrap();
        Self { store, ledger: Ledger::in_folder(folder), order, is_led }
    }

    fn tell(&self, line: &str) {
        let mut output = io::stdout().lock();
        output.write_all(format!("{TOLD}{line}\n").as_bytes()).unwrap();
        output.flush().unwrap();
        if self.is_led {
            let mut go_on = String::new();
            io::stdin().read_line(&mut go_on).unwrap();
            assert!(!go_on.is_empty(), "whoever leads it is gone");
        }
    }

    fn work(&self) {
        for nth in 0..WARM_UP {
            drop(self.store.claim(&key(&format!("warm-up {nth}")), request()).wait().unwrap());
        }
        let is_left = self.store.unfinished().any(|progress| *progress.unwrap().key() == order());
        let claim =
            if is_left { self.store.claim_unfinished(&order()) } else { self.store.claim(&order(), asked(self.order)) };
        let outcome = match claim.wait().unwrap() {
            Claim::Run(run) => self.handle(run).unwrap(),
            Claim::Replay(outcome) => outcome.decode().unwrap(),
            other => panic!("nobody else is at work: {other:?}"),
        };
        self.tell(&format!("done {outcome}"));
    }

    fn handle(&self, mut run: Run) -> Result<String, Error> {
        self.tell(&format!("claimed {}", run.attempt()));
        let mut results = Vec::new();
        for (nth, step) in ORDERS[self.order].into_iter().enumerate() {
            results.push(self.step(&mut run, step)?);
            self.tell(&format!("result {step}"));
            if nth == 1 && run.checkpoint().is_none() {
                let (text, row) = (results.join("; "), results.join("; "));
                run.advance_with("paid", &text, move |tx| {
                    tx.open_table(PAID)?.insert("order", &row)?;
                    Ok(())
                })
                .wait()?;
                self.tell("checkpoint");
            }
        }
        let (text, row) = (results.join("; "), results.join("; "));
        let write = move |tx: &reentry::Transaction<'_>| {
            tx.open_table(DONE)?.insert("order", &row)?;
            Ok(())
        };
        run.complete_with(&text, write).wait()?;
        self.tell("completed");
        Ok(text)
    }

    fn step(&self, run: &mut Run, step: &str) -> Result<String, Error> {
        let effect = |id| {
            self.tell(&format!("about to {step}"));
            let result = self.ledger.effect(step, id);
            self.tell(&format!("happened {step}"));
            Ok::<_, Infallible>(result)
        };
        let recheck = |id| {
            self.tell(&format!("rechecking {step}"));
            Ok::<_, Infallible>(self.ledger.find(step, id))
        };
        match step {
            "charge" => run.step(step).recheck(recheck).run(effect),
            "mail" => run.step(step).run_keyed(effect),
            _ => match run.step(step).run_at_most_once(effect) {
                Err(error) if error.kind() == ErrorKind::InDoubt => {
                    self.tell(&format!("in doubt {step}"));
                    let found = self.ledger.find(step, run.effect_id(step));
                    let found = found.map(|line| Resolution::happened(&line).unwrap());
                    let resolution = found.unwrap_or(Resolution::DidNotHappen);
                    run.resolve(step, resolution, "looked into the ledger").wait()?;
                    self.tell(&format!("resolved {step}"));
                    self.step(run, step)
                }
                otherwise => otherwise,
            },
        }
    }
}

fn order() -> Key {
    key("order")
}

/// The second order's claim is deferred.
fn asked(order: usize) -> Request {
    let request = Request::of("two pizzas");
    if order == 1 { request.deferred() } else { request }
}

/// When the process is killed.
#[derive(Debug, Clone, Copy)]
enum Kill {
    /// When it told this line, while it waits there.
    AtLine(usize),
    /// On entering this call, as a thread of it counts them, of those that are named.
    AtCall(&'static str, usize),
    Never,
}

/// The process to be killed, from outside.
struct Process {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Process {
    fn start(folder: &Path, order: usize, kill: Kill) -> Self {
        let this = env::current_exe().unwrap();
        let mut command = match kill {
            Kill::AtCall(calls, nth) => {
                let mut strace = strace(calls, nth);
                strace.arg(this);
                strace
            }
            Kill::AtLine(_) | Kill::Never => Command::new(this),
        };
        command.args(["--exact", "the_process_that_is_killed", "--nocapture", "--test-threads=1"]);
        command.env(ROLE, order.to_string()).env(PLACE, folder);
        if matches!(kill, Kill::AtLine(_)) {
            command.env(IS_LED, "1");
        }
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (input, output) = (child.stdin.take(), BufReader::new(child.stdout.take().unwrap()));
        Self { child, input, output }
    }

    /// The next line it told; none after its end.
    fn hear(&mut self) -> Option<String> {
        next_told(&mut self.output, TOLD)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Lets a process run until it is killed. Gives what it told, and whether it was killed.
fn live(folder: &Path, order: usize, kill: Kill) -> (Vec<String>, bool) {
    let mut process = Process::start(folder, order, kill);
    let mut lines = Vec::new();
    if let Kill::AtLine(last) = kill {
        while lines.len() <= last {
            let Some(line) = process.hear() else { break };
            lines.push(line);
            if lines.len() <= last {
                process.input.as_mut().unwrap().write_all(b"\n").unwrap();
            }
        }
        if lines.len() > last {
            process.child.kill().unwrap();
        }
    }
    lines.extend(iter::from_fn(|| process.hear()));
    let status = process.child.wait().unwrap();
    let is_killed = status.signal() == Some(9);
    assert!(is_killed || status.success(), "it ended by itself, {status}; its own error stands above");
    (lines, is_killed)
}

fn strace(calls: &str, nth: usize) -> Command {
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qqq", "-o", "/dev/null", "-e", &format!("trace={calls}")]);
    strace.args(["-e", &format!("inject={calls}:signal=KILL:when={nth}")]);
    strace
}

/// Whether there is a strace that may trace.
fn can_trace() -> bool {
    let traced = strace("write", 60_000).arg("true").stderr(Stdio::null()).status();
    let can = traced.is_ok_and(|status| status.success());
    if !can {
        println!("skipped: there is no strace, or it may not trace");
    }
    can
}

/// A store that exists already, to be copied.
fn template() -> TempDir {
    let folder = folder();
    let store = Store::open(folder.path().join("orders.reentry")).unwrap();
    drop(run(&store, &key("before")));
    store.close().unwrap();
    folder
}

/// A folder on the disk that the build is on: the system's own for temporary files is often none.
fn folder() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// Lets one process after another be killed, and one run to the end. Gives what the first one told, and whether it was
/// killed.
fn kill_and_finish(template: &TempDir, order: usize, kills: &[Kill]) -> (Vec<String>, bool) {
    let folder = folder();
    fs::copy(template.path().join("orders.reentry"), folder.path().join("orders.reentry")).unwrap();
    let mut told = Vec::new();
    let mut first = None;
    for (nth, kill) in kills.iter().chain([&Kill::Never]).enumerate() {
        let (lines, is_killed) = live(folder.path(), order, *kill);
        told.extend(lines.clone());
        first.get_or_insert((lines, is_killed));
        // Half of the time the next process is the first to open it again.
        if nth % 2 == kills.len() % 2 {
            look(folder.path(), order, &told);
        }
    }
    let last = told.last().unwrap();
    let ledger = Ledger::in_folder(folder.path());
    for step in ORDERS[order] {
        let lines = ledger.of(step);
        assert_eq!(lines.len(), 1, "P4: {step} stands in the ledger as {lines:?} after {kills:?}");
    }
    let outcome = ORDERS[order].map(|step| ledger.of(step).remove(0)).join("; ");
    assert_eq!(*last, format!("done {outcome}"), "P5");
    assert!(told.iter().filter(|line| line.starts_with("done")).all(|line| line == last), "P5: {told:?}");
    first.unwrap()
}

/// Compares what is in the store with what was told and with what stands in the ledger.
fn look(folder: &Path, order_of_steps: usize, told: &[String]) {
    let store = Store::open(folder.join("orders.reentry")).unwrap();
    let ledger = Ledger::in_folder(folder);
    let row = |table| {
        let row = store.read(|tx| tx.open_table(table)?.get("order")).unwrap().unwrap();
        row.map(|row| String::from_utf8(row).unwrap())
    };
    let is_told = |line: &str| told.iter().any(|told| told == line);
    let progress = store.progress(&order()).unwrap();
    let of = |step: &str| progress.iter().flat_map(Progress::steps).find(|it| it.name() == step).cloned();
    for step in ORDERS[order_of_steps] {
        let happened = ledger.of(step);
        match of(step).map(|step| step.state()) {
            None | Some(StepState::Withdrawn) => assert!(happened.is_empty(), "P4: {step} without an intent"),
            Some(StepState::InDoubt) => assert!(happened.len() <= 1, "P4: {happened:?}"),
            Some(StepState::Done) => assert_eq!(of(step).unwrap().decode().unwrap(), happened.first().cloned(), "P4"),
        }
    }
    let checkpoint = progress.as_ref().and_then(|it| it.checkpoint()).map(|it| it.decode::<String>().unwrap());
    let outcome = progress.as_ref().and_then(|it| it.outcome()).map(|it| it.decode::<String>().unwrap());
    assert!(checkpoint.is_some() || !is_told("checkpoint"), "P2: the checkpoint was told");
    assert!(outcome.is_some() || !is_told("completed"), "P2: the outcome was told");
    assert_eq!((row(PAID), row(DONE)), (checkpoint, outcome.clone()), "P8");
    match progress.map(|progress| progress.state()) {
        None => assert!(!is_told(&format!("about to {}", ORDERS[order_of_steps][0])), "P2: its intent was told"),
        Some(State::Succeeded) => assert!(outcome.is_some()),
        Some(state) => assert_eq!(state, State::Unfinished, "P7"),
    }
    drop(run_of(store.claim(&key("looked"), request()).wait().unwrap()));
    store.verify().unwrap();
    store.close().unwrap();
}

#[test]
fn p4_p8_a_process_killed_at_any_boundary_of_a_step_leaves_every_effect_done_once_at_last() {
    let template = template();
    for order in 0..ORDERS.len() {
        let (lines, is_killed) = kill_and_finish(&template, order, &[Kill::AtLine(usize::MAX - 1)]);
        assert!(!is_killed && lines.len() == LINES, "{lines:?}");
        for first in 0..lines.len() {
            let seconds = if is_full() { (0..lines.len()).collect() } else { vec![first * 5 % lines.len()] };
            for second in seconds {
                let (lines, is_killed) =
                    kill_and_finish(&template, order, &[Kill::AtLine(first), Kill::AtLine(second)]);
                assert!(is_killed && lines.len() == first + 1, "{lines:?}");
            }
        }
    }
}

/// Kills a process at each of these system calls in turn, and the next one at a boundary. Gives the last lines that the
/// first ones told.
fn kill_at_every(calls: &'static str, stride: usize) -> BTreeSet<String> {
    let template = template();
    let (mut kills, mut last_lines) = (0, BTreeSet::new());
    for order in 0..ORDERS.len() {
        for nth in (1 + order..CALLS_MAX).step_by(if is_full() { 1 } else { stride }) {
            let killed = [Kill::AtCall(calls, nth), Kill::AtLine(nth % LINES)];
            let (lines, is_killed) = kill_and_finish(&template, order, &killed);
            if !is_killed {
                break;
            }
            kills += 1;
            last_lines.extend(lines.last().cloned());
        }
    }
    println!("killed at {kills} calls of {calls}, after {last_lines:?}");
    last_lines
}

#[test]
fn p4_p8_a_process_killed_at_any_write_of_its_store_leaves_every_effect_done_once_at_last() {
    if can_trace() {
        let after = kill_at_every("pwrite64,fdatasync,ftruncate", 1);
        // Calls are counted thread by thread, and opening has more of them than the first entries of the journal: what
        // comes before is killed at its borders and, in `real_faults`, at random.
        let commits = ["result charge", "checkpoint", "result mail"];
        assert!(commits.iter().all(|line| after.contains(*line)), "only after {after:?}");
    }
}

#[test]
fn p4_p8_a_process_killed_at_any_write_of_the_ledger_leaves_every_effect_done_once_at_last() {
    if can_trace() {
        let after = kill_at_every("write,fsync", 2);
        let effects = ["about to charge", "about to mail", "about to call"];
        assert!(effects.iter().all(|line| after.contains(*line)), "only after {after:?}");
    }
}
