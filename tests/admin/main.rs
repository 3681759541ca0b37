//! The page for operators: over real sockets, by a parser of HTML that is not ours, and in a real browser.

#![allow(clippy::print_stdout, reason = "what is skipped is told")]

#[path = "../support/mod.rs"]
mod support;

mod acts;
mod browser;
mod chromium;
mod faults;
mod hostile;
mod html;
mod pages;
mod refused;
mod server;
