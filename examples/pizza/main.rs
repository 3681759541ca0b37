//! Pizza by HTTP, ordered once, whatever happens: the acceptance test of this crate, and a recipe to copy from.
//!
//! ```text
//! cargo run --release --example pizza               every scenario, one line of a table each
//! cargo run --release --example pizza -- serve      the same server, to try by hand with curl
//! ```
//!
//! One executable plays every part. Four of them are processes of their own, so that killing one of them is
//! a real death and none of the others can be talked out of what it has done:
//!
//! ```text
//!   clients --HTTP--> server --HTTP--> bank      bank.ledger, synced before it answers
//!   (this process)      |  '---HTTP--> mailer    mailer.ledger, likewise
//!                       '-- orders.reentry       how far each order got: the store this crate is about, with the
//!                                                server's own table of orders in it
//! ```
//!
//! The rooms, in the order in which to read them:
//!
//! - `server` answers `POST /orders`: the layer that claims each key, and what goes around it. **Copy this one.**
//! - `kitchen` makes an order: one step rechecked, one keyed, the outcome in one commit with the order's row. **And
//!   this one.**
//! - `resumer` finishes what nobody retries. **And this one.**
//! - `order` holds the words they share; `bank`, `mailer` and `ledger` are the world outside; `web` is their HTTP.
//! - `positions`, `process`, `client` and `town` make it possible to kill a server at an exact place.
//! - `scenarios`, `kills`, `doubts` and `table` are what the first command shows; `by_hand` is the second; `args` reads
//!   both.

// An example talks to whoever runs it, and its processes talk to each other through their standard output.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod args;
mod bank;
mod by_hand;
mod client;
mod doubts;
mod kills;
mod kitchen;
mod ledger;
mod mailer;
mod order;
mod positions;
mod process;
mod resumer;
mod scenarios;
mod server;
mod table;
mod town;
mod web;

use std::process::ExitCode;

use args::Role;

/// Whatever went wrong, with a message that says what was being done.
pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;
pub(crate) type Result<T, E = Failure> = std::result::Result<T, E>;

#[tokio::main]
async fn main() -> ExitCode {
    let role = match args::parse(std::env::args_os().skip(1)) {
        Ok(role) => role,
        Err(wrong) => {
            eprintln!("pizza: {wrong}\n\n{}", args::USAGE);
            return ExitCode::from(2);
        }
    };
    let ended = match role {
        Role::Help => {
            println!("{}", args::USAGE);
            Ok(ExitCode::SUCCESS)
        }
        Role::Scenarios => scenarios::run_all().await,
        Role::ByHand(data) => by_hand::serve(data).await.map(|()| ExitCode::SUCCESS),
        Role::Server(options) => server::serve(options).await.map(|()| ExitCode::SUCCESS),
        Role::Bank(options) => bank::serve(options).await.map(|()| ExitCode::SUCCESS),
        Role::Mailer(options) => mailer::serve(options).await.map(|()| ExitCode::SUCCESS),
    };
    ended.unwrap_or_else(|failure| {
        eprintln!("pizza: {failure}");
        ExitCode::FAILURE
    })
}
