//! `reentry`: looks at a store from a terminal, copies it and mends it. It uses what every user of the crate sees.
//!
//! Invariants:
//! 1. What only looks opens the store to be read: not a byte of the file changes.
//! 2. Nothing that a client or a file gave reaches the terminal as it is: [`output`] escapes it.
//! 3. The exit status says what a script must know: 0 done and fine, 1 damaged, refused or not found, 2 wrongly asked.

use std::panic::{self, AssertUnwindSafe};
use std::process::ExitCode;

use clap::Parser;

mod args;
mod copies;
mod facts;
mod looks;
mod mends;
mod output;
mod progress;

use args::{Args, Command};
use output::{Done, Failure, Out};

fn main() -> ExitCode {
    let args = Args::parse();
    // The engine may panic where a page is damaged, which is caught and told as an error like any other damage: once is
    // enough. What nobody catches is told below.
    panic::set_hook(Box::new(|_| {}));
    let mut out = Out::new();
    let done = panic::catch_unwind(AssertUnwindSafe(|| done(args.command, &mut out)));
    let done = done.unwrap_or_else(|panic| Err(Failure::panicked(&*panic)));
    match done.and_then(|()| out.flush()) {
        // Whoever reads what we write has had enough: `| head`.
        Ok(()) | Err(Failure::Unread) => ExitCode::SUCCESS,
        Err(failure) => {
            drop(out.flush());
            output::tell(&failure);
            failure.status()
        }
    }
}

fn done(command: Command, out: &mut Out) -> Done {
    match command {
        Command::Stat(args) => looks::stat(&args, out),
        Command::Ls(args) => looks::ls(&args, out),
        Command::Show(args) => looks::show(&args, out),
        Command::Verify(args) => looks::verify(&args, out),
        Command::Backup(args) => copies::backup(&args, out),
        Command::Export(args) => copies::export(&args, out),
        Command::Import(args) => copies::import(&args, out),
        Command::Resolve(args) => mends::resolve(&args, out),
        Command::Release(args) => mends::release(&args, out),
        Command::Forget(args) => mends::forget(&args, out),
        Command::Compact(args) => mends::compact(&args, out),
        Command::Migrate(args) => mends::migrate(&args, out),
    }
}
