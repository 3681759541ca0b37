//! The page on which an operator sees what is stuck and mends it: a router to nest behind the server's own
//! authentication; feature `admin`.
//!
//! [`Page`] is told who may see it, and makes the router. The guide `docs/admin.md` leads through it.
//!
//! Invariants:
//! 1. Nothing is shown and nothing done before the server's hook has said that this request may: `gate` asks it for
//!    every request, the stylesheet's too.
//! 2. Nothing is changed but by a POST that comes from a form of this page (`gate`, `token`), on an operation that is
//!    still as that form showed it (`action`).
//! 3. Whatever comes from a client is text: `shown` makes every character of it visible, maud escapes it.
//! 4. No request walks all that is kept: lists read so many rows at most, and offer to go on (`list`).

mod action;
mod chart;
mod fields;
mod frame;
mod gate;
mod list;
mod operation;
mod overview;
mod page;
mod problem;
mod samples;
mod shown;
mod timeline;
mod token;

pub use page::{Access, Guarded, Page, Unguarded};
