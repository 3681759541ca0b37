//! Servers of their own process: found where a distribution puts them, started on a free port, killed when done.

use std::fs;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, geteuid, kill_process};

use super::Name;

/// How long a server may need to answer for the first time: it may have to recover.
const START: Duration = Duration::from_secs(300);

/// How long a server may need to stop by itself.
const STOP: Duration = Duration::from_secs(30);

/// Whether what this contender needs is on the machine; else what is missing.
pub(crate) fn is_installed(name: Name) -> Result<(), String> {
    let (program, package) = match name {
        Name::Postgres => ("postgres", "postgresql"),
        Name::Redis => ("redis-server", "redis-server"),
        _ => return Ok(()),
    };
    if find(program).is_none() {
        return Err(format!("{name}: not installed, left out (apt-get install {package})"));
    }
    if name == Name::Postgres && geteuid().is_root() && ordinary_user().is_none() {
        return Err(format!("{name}: refuses to run as root and there is no user postgres or nobody, left out"));
    }
    Ok(())
}

/// Where a program is: on the path, or where Debian puts what is not for everybody.
pub(super) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let mut versions: Vec<_> = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten().collect();
    versions.sort_by_key(fs::DirEntry::file_name);
    folders.extend(versions.iter().rev().map(|version| version.path().join("bin")));
    folders.into_iter().map(|folder| folder.join(program)).find(|path| path.is_file())
}

/// User and group of somebody who is not root, for a server that refuses to run as root.
pub(super) fn ordinary_user() -> Option<(u32, u32)> {
    let users = fs::read_to_string("/etc/passwd").ok()?;
    let ids = |name: &str| {
        let fields: Vec<&str> = users.lines().map(|line| line.split(':').collect()).find(|f: &Vec<_>| f[0] == name)?;
        Some((fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?))
    };
    ids("postgres").or_else(|| ids("nobody"))
}

/// Runs as that user, where we are root.
pub(super) fn as_ordinary_user(command: &mut Command) -> &mut Command {
    match ordinary_user() {
        Some((user, group)) if geteuid().is_root() => command.uid(user).gid(group),
        _ => command,
    }
}

/// A port that was free a moment ago.
pub(super) fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    listener.local_addr().expect("it is bound").port()
}

/// A running server; stopped when this is dropped.
pub(super) struct Server {
    child: Child,
    stop: Signal,
}

impl Server {
    /// Starts it, its words in a file of this folder. It is its own process group, so that Ctrl-C is left to us.
    pub(super) fn start(command: &mut Command, folder: &Path, stop: Signal) -> Self {
        let log = fs::File::create(folder.join("server.log")).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).process_group(0);
        Self { child: command.spawn().unwrap(), stop }
    }

    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Asks until it answers.
    pub(super) fn until_it_answers<T, E: std::fmt::Display>(&mut self, ask: impl Fn() -> Result<T, E>) -> T {
        let begun = Instant::now();
        loop {
            let refused = match ask() {
                Ok(answer) => return answer,
                Err(refused) => refused,
            };
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("the server ended with {status}; its log is beside its data");
            }
            assert!(begun.elapsed() < START, "the server does not answer: {refused}");
            thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let begun = Instant::now();
        // It may have ended by itself.
        let _ = kill_process(Pid::from_child(&self.child), self.stop);
        while matches!(self.child.try_wait(), Ok(None)) {
            if begun.elapsed() > STOP {
                let _ = self.child.kill();
            }
            thread::sleep(Duration::from_millis(2));
        }
    }
}
