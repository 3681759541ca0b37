//! The command line.

use std::path::PathBuf;

use clap::Parser;

use crate::contenders::Name;
use crate::work::{KeyShape, Mode, Work};

/// Measures reentry beside the same table written by hand on other stores, the bare redb loop and the disk alone.
///
/// Without options: all of it, about an hour. Each option narrows it; `--quick` is a useful part in under a minute.
#[derive(Debug, Clone, Parser)]
#[expect(clippy::struct_excessive_bools, reason = "a command line is made of them")]
pub(crate) struct Options {
    /// A useful part in under a minute.
    #[arg(long)]
    pub(crate) quick: bool,
    /// Real disk, fixed sync, or both.
    #[arg(long, value_delimiter = ',', value_name = "MODE")]
    pub(crate) modes: Option<Vec<Mode>>,
    /// What is measured.
    #[arg(long, value_delimiter = ',', value_name = "WORK")]
    pub(crate) works: Option<Vec<Work>>,
    /// Who takes part.
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    pub(crate) contenders: Option<Vec<Name>>,
    /// Numbers of callers that are threads; 0 for none.
    #[arg(long, value_delimiter = ',', value_name = "COUNT")]
    pub(crate) threads: Option<Vec<usize>>,
    /// Numbers of callers that are tasks; 0 for none.
    #[arg(long, value_delimiter = ',', value_name = "COUNT")]
    pub(crate) tasks: Option<Vec<usize>>,
    /// Bytes of an outcome, a checkpoint and a step's result.
    #[arg(long, value_delimiter = ',', value_name = "BYTES")]
    pub(crate) payload: Option<Vec<usize>>,
    /// What clients' keys look like.
    #[arg(long, value_name = "SHAPE")]
    pub(crate) key: Option<KeyShape>,
    /// Operations that are kept before anything is measured.
    #[arg(long, value_delimiter = ',', value_name = "COUNT")]
    pub(crate) sizes: Option<Vec<u64>>,
    /// How long one contender works before it is the next one's turn.
    #[arg(long, value_name = "SECONDS")]
    pub(crate) seconds: Option<f64>,
    /// How often each contender has its turn.
    #[arg(long, value_name = "COUNT")]
    pub(crate) rounds: Option<usize>,
    /// Load for this long on a million kept, with retention removing as fast as they come; nothing else is measured.
    #[arg(long, value_name = "MINUTES")]
    pub(crate) sustained: Option<f64>,
    /// Where files of mode `disk` are: a folder on a disk.
    #[arg(long, default_value = "/var/tmp", value_name = "FOLDER")]
    pub(crate) folder: PathBuf,
    /// Where files of mode `fixed` are: a folder in memory.
    #[arg(long, default_value = "/dev/shm", value_name = "FOLDER")]
    pub(crate) memory_folder: PathBuf,
    /// What a sync takes in mode `fixed`.
    #[arg(long, default_value_t = 150, value_name = "MICROSECONDS")]
    pub(crate) sync: u64,
    /// Where the rows of results are written.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Keep the rows that the file has already; what is measured anew takes the place of what was.
    #[arg(long)]
    pub(crate) append: bool,
    /// Write `docs/benchmarks`: its rows, charts and tables. Rows are kept there unless `--json` says otherwise.
    #[arg(long)]
    pub(crate) docs: bool,
    /// Measure nothing: show the rows that are there, and with `--docs` write the documentation from them.
    #[arg(long)]
    pub(crate) show: bool,
    /// Serve as one contender's process.
    #[arg(long, hide = true)]
    pub(crate) worker: bool,
}

impl Options {
    /// Where the rows are kept.
    pub(crate) fn json(&self) -> PathBuf {
        let beside_the_program = || {
            let program = std::env::current_exe().unwrap_or_default();
            program.parent().map_or_else(PathBuf::new, PathBuf::from).join("peers.json")
        };
        match &self.json {
            Some(path) => path.clone(),
            None if self.docs => crate::docs::folder().join("results.json"),
            None => beside_the_program(),
        }
    }
}
