//! What can be asked.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Args as Arguments, Parser, Subcommand, ValueEnum};
use reentry::State;

const STATUS: &str = "\
Exit status: 0 done, and all is well; 1 damaged, refused or not found; 2 wrongly asked.

The store must not be in use by a server, which tells of itself. What only looks (stat, ls, show,
verify, backup, export) never changes a byte of the file, not even after a crash.";

/// Looks at a reentry store, copies it and mends it.
#[derive(Debug, Parser)]
#[command(name = "reentry", version, after_help = STATUS)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// How much there is, and how much of it is unfinished, in doubt or stuck
    Stat(Stat),
    /// Lists operations, those that changed last first
    Ls(Ls),
    /// Everything that is known of one operation
    Show(Show),
    /// Reads every page and row, and checks every checksum and rule
    Verify(Verify),
    /// Copies the store, checked
    Backup(Backup),
    /// Writes every operation as a line of JSON
    Export(Export),
    /// Takes in what export wrote
    Import(Import),
    /// Says what became of a step in doubt
    Resolve(Resolve),
    /// Lets an operation that is stuck be tried again
    Release(OneOperation),
    /// Removes all that is known of an operation: its next claim runs it again
    Forget(OneOperation),
    /// Gives back what the file holds and does not use
    Compact(File),
    /// Brings the file to the newest format
    Migrate(File),
}

#[derive(Debug, Arguments)]
pub(crate) struct File {
    /// The store's file
    pub(crate) file: PathBuf,
}

/// How a store is opened that is only looked at.
#[derive(Debug, Arguments)]
pub(crate) struct Look {
    /// The store's file
    pub(crate) file: PathBuf,
    /// Show what is left of a damaged store, and tell what is not; the exit status is then 1
    #[arg(long)]
    pub(crate) skip_damaged: bool,
    /// Do not check the pages first: quicker where the file is large
    #[arg(long)]
    pub(crate) quick: bool,
    /// How many runs make an operation stuck, as the server's `attempts_max` says
    #[arg(long, value_name = "RUNS", default_value_t = 16)]
    pub(crate) attempts_max: u32,
}

#[derive(Debug, Arguments)]
pub(crate) struct Stat {
    #[command(flatten)]
    pub(crate) look: Look,
    /// As one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Arguments)]
pub(crate) struct Ls {
    #[command(flatten)]
    pub(crate) look: Look,
    /// Only of this scope
    #[arg(long)]
    pub(crate) scope: Option<String>,
    /// Only in this state; may be given several times
    #[arg(long)]
    pub(crate) state: Vec<StateName>,
    /// Only what is unfinished and has a step in doubt
    #[arg(long)]
    pub(crate) in_doubt: bool,
    /// Only what stands at this checkpoint
    #[arg(long, value_name = "NAME")]
    pub(crate) checkpoint: Option<String>,
    /// Only what was first claimed this long ago or longer: 90s, 2h, 3d
    #[arg(long, value_name = "AGE", value_parser = age)]
    pub(crate) older_than: Option<Duration>,
    /// Only what was first claimed this long ago or later
    #[arg(long, value_name = "AGE", value_parser = age)]
    pub(crate) younger_than: Option<Duration>,
    /// Those that changed first come first
    #[arg(long)]
    pub(crate) oldest_first: bool,
    /// No more than so many; what is damaged behind them is not looked for
    #[arg(long, value_name = "COUNT")]
    pub(crate) limit: Option<usize>,
    /// One JSON object a line
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Arguments)]
pub(crate) struct Show {
    #[command(flatten)]
    pub(crate) look: Look,
    /// Its scope, as the server chose it
    pub(crate) scope: String,
    /// Its key, as the client sent it
    pub(crate) key: String,
    /// Show payloads too: as text where they are, else in hexadecimal
    #[arg(long)]
    pub(crate) payload: bool,
    /// As one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Arguments)]
pub(crate) struct Verify {
    /// The store's file
    pub(crate) file: PathBuf,
}

#[derive(Debug, Arguments)]
pub(crate) struct Backup {
    /// The store's file
    pub(crate) file: PathBuf,
    /// The copy, which must not exist yet
    pub(crate) copy: PathBuf,
}

#[derive(Debug, Arguments)]
pub(crate) struct Export {
    /// The store's file
    pub(crate) file: PathBuf,
    /// Where to; must not exist yet. Without it, the standard output
    pub(crate) to: Option<PathBuf>,
    /// Write what is left of a damaged store, and tell what is not; the exit status is then 1
    #[arg(long)]
    pub(crate) skip_damaged: bool,
}

#[derive(Debug, Arguments)]
pub(crate) struct Import {
    /// The store's file, created where there is none
    pub(crate) file: PathBuf,
    /// What export wrote; - is the standard input
    pub(crate) from: PathBuf,
    /// Operations that are known otherwise are no failure
    #[arg(long)]
    pub(crate) skip_existing: bool,
}

#[derive(Debug, Arguments)]
#[command(group(ArgGroup::new("became").required(true).args(["happened", "did_not_happen"])))]
pub(crate) struct Resolve {
    /// The store's file
    pub(crate) file: PathBuf,
    /// Its scope, as the server chose it
    pub(crate) scope: String,
    /// Its key, as the client sent it
    pub(crate) key: String,
    /// The step's name
    pub(crate) step: String,
    /// It happened, and this file holds its result, in the bytes that the step's type decodes from; - is the standard
    /// input
    #[arg(long, value_name = "RESULT")]
    pub(crate) happened: Option<PathBuf>,
    /// It did not happen, and runs when it is asked for
    #[arg(long)]
    pub(crate) did_not_happen: bool,
    /// Who says so, and why: kept with the step
    #[arg(long, value_name = "TEXT")]
    pub(crate) note: String,
    /// Do not ask
    #[arg(long)]
    pub(crate) yes: bool,
}

#[derive(Debug, Arguments)]
pub(crate) struct OneOperation {
    /// The store's file
    pub(crate) file: PathBuf,
    /// Its scope, as the server chose it
    pub(crate) scope: String,
    /// Its key, as the client sent it
    pub(crate) key: String,
    /// Do not ask
    #[arg(long)]
    pub(crate) yes: bool,
}

/// The words of [`State`], but for `owned`: nobody owns anything of a store that is not in use.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum StateName {
    Unfinished,
    Stuck,
    Succeeded,
    Failed,
    Gone,
}

impl StateName {
    pub(crate) fn state(self) -> State {
        match self {
            Self::Unfinished => State::Unfinished,
            Self::Stuck => State::Stuck,
            Self::Succeeded => State::Succeeded,
            Self::Failed => State::Failed,
            Self::Gone => State::Gone,
        }
    }
}

/// A span as people write it: a whole number and a unit.
fn age(text: &str) -> Result<Duration, String> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 60 * 60,
        "d" => 24 * 60 * 60,
        _ => return Err("write a number and s, m, h or d, as in 90s, 15m, 2h, 3d".to_owned()),
    };
    let number: u64 = number.parse().map_err(|_| "write a number before the unit, as in 2h".to_owned())?;
    Ok(Duration::from_secs(number.saturating_mul(seconds)))
}
