//! The server process, and the outside world that its effects reach: files that outlive it.

use std::convert::Infallible;
use std::fs::{self, OpenOptions};
use std::io::{self, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};
use std::{env, thread};

use reentry::{Claim, EffectId, Error, ErrorKind, Request, Resolution, Run, Store, Table};

use super::support::{PATIENCE, key, next_told};

const PLACE: &str = "REENTRY_FAULTS_PLACE";
const ROUND: &str = "REENTRY_FAULTS_ROUND";
const ORDERS: &str = "REENTRY_FAULTS_ORDERS";
const THREADS: &str = "REENTRY_FAULTS_THREADS";
const TOLD: &str = "told: ";

/// The server's own rows: one for each order that is done.
pub(crate) const DONE: Table = Table::new("done");

/// The bank can be asked for "charge", the mailer deduplicates "mail", nobody remembers "call".
pub(crate) const STEPS: [&str; 3] = ["charge", "mail", "call"];

pub(crate) fn store_in(place: &Path) -> PathBuf {
    place.join("orders.reentry")
}

/// One file for each effect, one line for each time it happened.
pub(crate) struct World(PathBuf);

impl World {
    pub(crate) fn at(place: &Path) -> Self {
        let folder = place.join("world");
        fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    /// How often this happened.
    pub(crate) fn times(&self, id: EffectId) -> usize {
        fs::read_to_string(self.0.join(id.to_string())).map_or(0, |text| text.lines().count())
    }

    /// How many different effects there were.
    pub(crate) fn effects(&self) -> usize {
        fs::read_dir(&self.0).unwrap().count()
    }

    fn find(&self, id: EffectId) -> Option<String> {
        (self.times(id) > 0).then(|| format!("ref {id}"))
    }

    fn act(&self, step: &str, id: EffectId) -> String {
        if step != "mail" || self.times(id) == 0 {
            let mut file = OpenOptions::new().create(true).append(true).open(self.0.join(id.to_string())).unwrap();
            file.write_all(b"happened\n").unwrap();
        }
        format!("ref {id}")
    }
}

pub(crate) fn tell(line: &str) {
    let mut output = io::stdout().lock();
    output.write_all(format!("{TOLD}{line}\n").as_bytes()).unwrap();
    output.flush().unwrap();
}

/// Goes on with an order where it stopped.
pub(crate) fn handle(world: &World, mut run: Run, tell: &dyn Fn(&str)) -> Result<String, Error> {
    let name = run.key().key().to_owned();
    tell(&format!("claimed {name}"));
    let mut text = name.clone();
    for step in STEPS {
        text = format!("{text}; {}", guarded(world, &mut run, step)?);
        if step == "charge" && run.checkpoint().is_none() {
            run.advance("paid", &text).wait()?;
            tell(&format!("paid {name}"));
        }
    }
    let (row, order) = (text.clone(), name.clone());
    run.complete_with(&text, move |tx| {
        tx.open_table(DONE)?.insert(&order, &row)?;
        Ok(())
    })
    .wait()?;
    tell(&format!("done {name} {text}"));
    Ok(text)
}

fn guarded(world: &World, run: &mut Run, step: &str) -> Result<String, Error> {
    let effect = |id| Ok::<_, Infallible>(world.act(step, id));
    match step {
        "charge" => run.step(step).recheck(|id| Ok::<_, Infallible>(world.find(id))).run(effect),
        "mail" => run.step(step).run_keyed(effect),
        _ => match run.step(step).run_at_most_once(effect) {
            Err(error) if error.kind() == ErrorKind::InDoubt => {
                let found = world.find(run.effect_id(step));
                let found = found.map_or(Resolution::DidNotHappen, |it| Resolution::happened(&it).unwrap());
                run.resolve(step, found, "looked for it").wait()?;
                guarded(world, run, step)
            }
            otherwise => otherwise,
        },
    }
}

#[test]
fn the_server_process() {
    let Ok(place) = env::var(PLACE) else { return };
    let of = |name: &str| env::var(name).unwrap().parse::<usize>().unwrap();
    let (place, round, orders, threads) = (PathBuf::from(place), of(ROUND), of(ORDERS), of(THREADS));
    let world = World::at(&place);
    tell("opening");
    let store = match Store::open(store_in(&place)) {
        Ok(store) => store,
        Err(error) => return tell(&format!("error {:?} {error}", error.kind())),
    };
    let left: Vec<_> = store.unfinished().map(|progress| progress.unwrap().key().clone()).collect();
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let nth = next.fetch_add(1, Ordering::Relaxed);
                    // Two copies of every order come, the second at the same time or a little later.
                    let order = nth.saturating_sub(left.len()) / 2;
                    if order >= orders {
                        return;
                    }
                    let claim = match left.get(nth) {
                        Some(key) => store.claim_unfinished(key),
                        None => store.claim(&key(&format!("{round}-{order}")), Request::of("two pizzas")),
                    };
                    if let Err(error) = serve(&world, claim.wait()) {
                        tell(&format!("error {:?} {error}", error.kind()));
                    }
                }
            });
        }
    });
    if let Err(error) = store.close() {
        tell(&format!("error {:?} {error}", error.kind()));
    }
    tell("ended");
}

fn serve(world: &World, claim: Result<Claim, Error>) -> Result<(), Error> {
    match claim? {
        Claim::Run(run) => handle(world, run, &tell).map(drop),
        Claim::Replay(outcome) => {
            let text = outcome.decode::<String>()?;
            tell(&format!("done {} {text}", text.split(';').next().unwrap()));
            Ok(())
        }
        Claim::Wait(busy) => match busy.outcome().wait_for(PATIENCE) {
            Err(error) if error.kind() == ErrorKind::TimedOut => panic!("it hangs: {error}"),
            claim => serve(world, claim),
        },
        other => panic!("nothing else is possible: {other:?}"),
    }
}

/// The server process, seen from outside. It is killed at the latest when this goes.
pub(crate) struct Process {
    pub(crate) child: Child,
    lines: Receiver<String>,
}

impl Process {
    /// Starts it by `prefix`, such as a tracer, where there is one.
    pub(crate) fn start(place: &Path, round: usize, orders: usize, threads: usize, prefix: &[String]) -> Self {
        let this = env::current_exe().unwrap();
        let mut command = match prefix {
            [] => Command::new(this),
            [program, arguments @ ..] => {
                let mut command = Command::new(program);
                command.args(arguments).arg(this);
                command
            }
        };
        command.args(["--exact", "server::the_server_process", "--nocapture", "--test-threads=1"]);
        command.env(PLACE, place).env(ROUND, round.to_string());
        command.env(ORDERS, orders.to_string()).env(THREADS, threads.to_string());
        Self::of(command.stdin(Stdio::null()))
    }

    /// Starts this.
    pub(crate) fn of(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let (heard, lines) = mpsc::channel();
        thread::spawn(move || while next_told(&mut output, TOLD).is_some_and(|line| heard.send(line).is_ok()) {});
        Self { child, lines }
    }

    /// What it tells until this moment, or until it ends.
    pub(crate) fn hear_for(&self, span: Duration) -> Vec<String> {
        let end = Instant::now() + span;
        let mut lines = Vec::new();
        while let Ok(line) = self.lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
            lines.push(line);
        }
        lines
    }

    /// The first line that begins so. What hangs fails the test.
    pub(crate) fn hear_first(&self, start: &str) -> String {
        loop {
            match self.lines.recv_timeout(PATIENCE / 2) {
                Ok(line) if line.starts_with(start) => return line,
                Ok(line) => assert!(!line.starts_with("error"), "{line}"),
                Err(error) => panic!("it never told {start}: {error}"),
            }
        }
    }

    /// All that it still tells until it ends. What hangs fails the test.
    pub(crate) fn hear_out(&self) -> Vec<String> {
        let mut lines = Vec::new();
        loop {
            match self.lines.recv_timeout(PATIENCE / 2) {
                Ok(line) => lines.push(line),
                Err(RecvTimeoutError::Disconnected) => return lines,
                Err(RecvTimeoutError::Timeout) => panic!("it hangs; the last that it told: {:?}", lines.last()),
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
