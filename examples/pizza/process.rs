//! The parts as processes: how this executable starts itself in another role, listens to it, and kills it.

use std::io::{BufRead, BufReader, Write, stdin};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread;
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::timeout;

use crate::Result;
use crate::web::LISTENING;

/// A part that says nothing for this long hangs. It is a limit for broken builds, never a time that is waited out.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// A running part. It dies with this value, so that no error and no panic leaves a process behind.
pub(crate) struct Process {
    name: &'static str,
    child: Child,
    orders: ChildStdin,
    lines: UnboundedReceiver<String>,
    address: Option<SocketAddr>,
}

impl Process {
    /// Starts this executable in the role `name`, and waits until it can be reached.
    pub(crate) async fn start(name: &'static str, arguments: &[String]) -> Result<Self> {
        let executable = std::env::current_exe().map_err(|error| format!("cannot find this executable: {error}"))?;
        let mut child = Command::new(executable)
            .arg(name)
            .args(arguments)
            .arg("--with-parent")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("cannot start the {name}: {error}"))?;
        let (Some(orders), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(format!("the {name} has no pipes").into());
        };
        let (told, lines) = unbounded_channel();
        // A thread, because the standard library's pipes block. It ends when the child's output does.
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(std::io::Result::ok) {
                if told.send(line).is_err() {
                    break;
                }
            }
        });
        let mut process = Self { name, child, orders, lines, address: None };
        let address = process.until(LISTENING).await?;
        process.address = Some(address.parse().map_err(|_| format!("the {name} listens on {address:?}"))?);
        Ok(process)
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn address(&self) -> Result<SocketAddr> {
        Ok(self.address.ok_or_else(|| format!("the {} listens nowhere yet", self.name))?)
    }

    /// The next line that the process prints, or `None` when it has ended; waits for as long as it takes.
    pub(crate) async fn next_line(&mut self) -> Option<String> {
        self.lines.recv().await
    }

    /// Waits for a line that begins with `start`, and answers the rest of it.
    pub(crate) async fn until(&mut self, start: &str) -> Result<String> {
        loop {
            let line = timeout(SILENCE_MAX, self.lines.recv())
                .await
                .map_err(|_| format!("the {} hangs: it never said {start:?}", self.name))?
                .ok_or_else(|| format!("the {} ended before it said {start:?}", self.name))?;
            if let Some(rest) = line.strip_prefix(start) {
                return Ok(rest.to_owned());
            }
        }
    }

    /// Tells a process that stands at a position to go on.
    pub(crate) fn go_on(&mut self) -> Result<()> {
        writeln!(self.orders, "go on").map_err(|error| format!("cannot talk to the {}: {error}", self.name).into())
    }

    /// Kills the process with SIGKILL, which it can neither catch nor put off, and waits until it is gone.
    pub(crate) fn kill_9(mut self) -> Result<()> {
        self.child.kill().map_err(|error| format!("cannot kill the {}: {error}", self.name))?;
        self.child.wait().map_err(|error| format!("cannot wait for the {} to end: {error}", self.name))?;
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only if the process has ended already, which is what they are for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Called in a part that was started with `--with-parent`: calls `go_on` for every line of standard input, and ends
/// this process when the input ends, since then the parent is dead and would leave it behind.
pub(crate) fn follow_parent(with_parent: bool, go_on: impl Fn() + Send + 'static) {
    if !with_parent {
        return;
    }
    thread::spawn(move || {
        for _line in stdin().lock().lines().map_while(std::io::Result::ok) {
            go_on();
        }
        std::process::exit(0);
    });
}
