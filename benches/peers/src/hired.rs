//! A contender's process, seen from the one that conducts: it is asked, killed and started again.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use crate::cleanup::{began, end_if_interrupted, ended, kill_family};
use crate::contenders::Name;
use crate::worker::{Measured, Reply, Request, Setup, Shift};

/// How every sync of a process is made to take the same time.
#[derive(Debug, Clone)]
pub(crate) struct FixedSync {
    pub(crate) library: std::path::PathBuf,
    pub(crate) micros: u64,
}

pub(crate) struct Hired {
    pub(crate) setup: Setup,
    /// What it says of itself.
    pub(crate) settings: String,
    /// What opening took.
    pub(crate) seconds: f64,
    /// A bare write and sync before that.
    pub(crate) flush_us: f64,
    process: Process,
    fixed_sync: Option<FixedSync>,
}

struct Process {
    child: Child,
    server: Option<u32>,
    requests: Option<ChildStdin>,
    replies: BufReader<ChildStdout>,
}

impl Hired {
    /// Starts a process and lets it open what is in its folder.
    pub(crate) fn hire(setup: Setup, fixed_sync: Option<FixedSync>) -> Result<Self, String> {
        let mut process = Process::start(fixed_sync.as_ref())?;
        let reply = process.ask(setup.name, &Request::Open(setup.clone()))?;
        let Reply::Opened { seconds, settings, server, flush_us } = reply else {
            return Err(format!("{} did not open, but answered {reply:?}", setup.name));
        };
        server.into_iter().for_each(began);
        process.server = server;
        if let Some(fixed) = &fixed_sync
            && flush_us < fixed.micros as f64
        {
            return Err(format!("a sync takes {flush_us:.0} us, so the library that fixes it was not taken"));
        }
        Ok(Self { setup, settings, seconds, flush_us, process, fixed_sync })
    }

    pub(crate) fn name(&self) -> Name {
        self.setup.name
    }

    pub(crate) fn ask(&mut self, request: &Request) -> Result<Reply, String> {
        self.process.ask(self.setup.name, request)
    }

    /// One slice of work.
    pub(crate) fn work(&mut self, shift: Shift) -> Result<Measured, String> {
        match self.ask(&Request::Work(shift))? {
            Reply::Measured(measured) => Ok(measured),
            other => Err(format!("{} worked, and answered {other:?}", self.name())),
        }
    }

    /// Memory and disk that it takes.
    pub(crate) fn footprint(&mut self) -> Result<(u64, u64), String> {
        match self.ask(&Request::Footprint)? {
            Reply::Footprint { memory_bytes, disk_bytes } => Ok((memory_bytes, disk_bytes)),
            other => Err(format!("{} told its footprint as {other:?}", self.name())),
        }
    }

    /// Kills it by `kill -9` in the midst of work, its server as well, and lets a new process open what is left.
    pub(crate) fn kill_and_open(&mut self, shift: Shift) -> Result<(), String> {
        let half = Duration::from_millis(shift.span_ms / 2);
        self.process.send(&Request::Work(shift))?;
        std::thread::sleep(half);
        self.process.kill();
        self.setup.predecessors += 1;
        *self = Self::hire(self.setup.clone(), self.fixed_sync.clone())?;
        Ok(())
    }
}

impl Process {
    fn start(fixed_sync: Option<&FixedSync>) -> Result<Self, String> {
        let program = std::env::current_exe().map_err(|error| format!("this program's own file: {error}"))?;
        let mut command = Command::new(program);
        command.arg("--worker").stdin(Stdio::piped()).stdout(Stdio::piped());
        if let Some(FixedSync { library, micros }) = fixed_sync {
            command.env("LD_PRELOAD", library).env("FIXED_SYNC_MICROS", micros.to_string());
        }
        let mut child = command.spawn().map_err(|error| format!("a process cannot be started: {error}"))?;
        began(child.id());
        let (requests, replies) = (child.stdin.take(), child.stdout.take());
        let replies = BufReader::new(replies.ok_or("the process has no output")?);
        Ok(Self { child, server: None, requests, replies })
    }

    fn ask(&mut self, name: Name, request: &Request) -> Result<Reply, String> {
        self.send(request)?;
        let mut line = String::new();
        match self.replies.read_line(&mut line) {
            Ok(0) | Err(_) => {
                end_if_interrupted();
                Err(format!("{name} ended in the midst of its work; why stands above"))
            }
            Ok(_) => serde_json::from_str(&line).map_err(|error| format!("{name} answered {line:?}: {error}")),
        }
    }

    fn send(&mut self, request: &Request) -> Result<(), String> {
        let line = serde_json::to_string(request).map_err(|error| error.to_string())?;
        let requests = self.requests.as_mut().ok_or("the process was told to end")?;
        writeln!(requests, "{line}").and_then(|()| requests.flush()).map_err(|error| {
            end_if_interrupted();
            error.to_string()
        })
    }

    fn kill(&mut self) {
        self.server.into_iter().for_each(kill_family);
        // Killing what has ended is no fault.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// It ends by itself, its server with it, when nobody asks any more.
impl Drop for Process {
    fn drop(&mut self) {
        drop(self.requests.take());
        let _ = self.child.wait();
        ended(self.child.id());
        self.server.into_iter().for_each(ended);
    }
}

/// Where a contender's files are.
pub(crate) fn folder_of(stage: &Path, name: Name) -> std::path::PathBuf {
    stage.join(name.to_string())
}
