//! The positions at which a server can be killed: one before and one after everything that changes anything.

use std::fmt;
use std::future::pending;
use std::str::FromStr;

use tokio::runtime::Handle;
use tokio::sync::watch;

/// What the server prints, followed by the number, when it stops at a position.
pub(crate) const AT_POSITION: &str = "at position ";

/// A place on the way of an order, numbered from 1 in the order in which the server comes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Position {
    BeforeClaim = 1,
    AfterClaim,
    BeforeCharge,
    AfterCharge,
    Paid,
    BeforeMail,
    AfterMail,
    InCommit,
    AfterComplete,
}

/// Every position, with the words that a reader of the table sees.
pub(crate) const ALL: [(Position, &str); 9] = [
    (Position::BeforeClaim, "before the claim"),
    (Position::AfterClaim, "claimed, nothing begun"),
    (Position::BeforeCharge, "about to charge"),
    (Position::AfterCharge, "charged, not noted"),
    (Position::Paid, "payment confirmed"),
    (Position::BeforeMail, "about to mail"),
    (Position::AfterMail, "mailed, not noted"),
    (Position::InCommit, "row written, no commit"),
    (Position::AfterComplete, "completed, not answered"),
];

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", *self as u8)
    }
}

impl FromStr for Position {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number: usize = text.parse().map_err(|_| "not a number")?;
        let (position, _) = number.checked_sub(1).and_then(|at| ALL.get(at)).ok_or("not a position")?;
        Ok(*position)
    }
}

/// The place at which this server is to stop, if any; clones share it.
#[derive(Clone)]
pub(crate) struct Stops {
    at: Option<Position>,
    go_on: watch::Receiver<bool>,
    runtime: Handle,
}

impl Stops {
    pub(crate) fn at(at: Option<Position>, go_on: watch::Receiver<bool>) -> Self {
        Self { at, go_on, runtime: Handle::current() }
    }

    /// Comes by a position. If it is the one to stop at, says so on standard output and goes no further, until the
    /// parent says "go on" or, as a rule, kills this process. Without `--stop-at` this does nothing.
    pub(crate) async fn reach(&self, position: Position) {
        if self.at != Some(position) || *self.go_on.borrow() {
            return;
        }
        println!("{AT_POSITION}{position}");
        let mut go_on = self.go_on.clone();
        if go_on.wait_for(|go_on| *go_on).await.is_err() {
            // Nobody is left who could say "go on".
            pending::<()>().await;
        }
    }

    /// The same in the closure that writes the server's rows, which is no task. Only a demonstration may wait there.
    pub(crate) fn reach_in_commit(&self) {
        self.runtime.block_on(self.reach(Position::InCommit));
    }
}
