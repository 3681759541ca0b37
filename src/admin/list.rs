//! The list of operations: a page at a time, and so many rows read at most for each.
//!
//! What is unfinished is found through the index, oldest first, however much else is kept; everything else in the order
//! in which it changed, newest first.

use std::time::Duration;

use maud::{Markup, html};

use super::fields::{Fields, link, link_to};
use super::frame::{Answer, Sheet};
use super::page::Asked;
use super::problem::Problem;
use super::shown;
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind};
use crate::key::Key;
use crate::progress::{Cursor, Operations, Position, Progress, State};
use crate::store::Store;

/// Operations on one page.
const PAGE: usize = 50;
/// Most rows that are read for one page: of what is unfinished, with its payloads, and for how long; and of all.
const UNFINISHED_MAX: u64 = 5_000;
const UNFINISHED_FOR: Duration = Duration::from_millis(500);
const ROWS_MAX: u64 = 20_000;

/// Most steps in doubt that a row names.
const IN_DOUBT_MAX: usize = 3;

/// What can be asked for: as links call it, what it is, and how it is found.
const WANTED: [(&str, &str, Wanted); 9] = [
    ("", "all unfinished", Wanted::Unfinished(|_| true)),
    ("stuck", "stuck: no resumer tries again", Wanted::Unfinished(|progress| progress.state() == State::Stuck)),
    ("in doubt", "in doubt: an effect may have happened", Wanted::Unfinished(|it| it.in_doubt().next().is_some())),
    ("owned", "owned: a run is at work", Wanted::Unfinished(|progress| progress.state() == State::Owned)),
    ("free", "free: the next claim enters", Wanted::Unfinished(|progress| progress.state() != State::Owned)),
    ("succeeded", "succeeded", Wanted::All(|list| list.in_state(State::Succeeded))),
    ("failed", "failed for good", Wanted::All(|list| list.in_state(State::Failed))),
    ("gone", "gone: only the tombstone stands", Wanted::All(|list| list.in_state(State::Gone))),
    ("any", "everything that is kept", Wanted::All(|list| list)),
];

#[derive(Clone, Copy)]
enum Wanted {
    /// Of what is unfinished, those.
    Unfinished(fn(&Progress) -> bool),
    /// Of everything, by this list.
    All(fn(Operations) -> Operations),
}

/// What is asked for. What is empty asks for everything.
struct Filter<'a> {
    state: &'a str,
    scope: &'a str,
    checkpoint: &'a str,
    minutes: Option<u64>,
    /// Behind which position, or cursor, the page begins.
    after: Option<u64>,
}

impl<'a> Filter<'a> {
    fn of(fields: &'a Fields) -> Self {
        let (state, scope, checkpoint) = (fields.get("state"), fields.get("scope"), fields.get("checkpoint"));
        Self { state, scope, checkpoint, minutes: fields.number("minutes"), after: fields.number("after") }
    }

    fn wanted(&self) -> Wanted {
        let known = WANTED.into_iter().find(|(name, ..)| *name == self.state);
        known.map_or(Wanted::Unfinished(|_| true), |(.., wanted)| wanted)
    }

    fn age(&self) -> Option<Duration> {
        self.minutes.map(|minutes| Duration::from_secs(minutes.saturating_mul(60)))
    }

    /// The link to what stands behind a place, asked for in the same way.
    fn link(&self, after: Option<u64>) -> String {
        let number = |number: Option<u64>| number.map(|number| number.to_string()).unwrap_or_default();
        let (minutes, after) = (number(self.minutes), number(after));
        link(
            "operations",
            &[
                ("state", self.state),
                ("scope", self.scope),
                ("checkpoint", self.checkpoint),
                ("minutes", &minutes),
                ("after", &after),
            ],
        )
    }

    /// What one page shows.
    fn find(&self, store: &Store) -> Result<Found, Error> {
        match self.wanted() {
            Wanted::Unfinished(is_wanted) => self.find_unfinished(store, is_wanted),
            Wanted::All(list) => self.find_any(list(store.operations())),
        }
    }

    fn find_unfinished(&self, store: &Store, is_wanted: fn(&Progress) -> bool) -> Result<Found, Error> {
        let mut rows = store.unfinished().after(Position::from_number(self.after.unwrap_or(0)));
        let (mut found, mut read, began) = (Found::default(), 0, store.time());
        loop {
            let last = rows.position();
            let Some(row) = rows.next() else { break };
            // At least one is looked at, however long it took to read: else this link would lead here again.
            let is_late = || read > 0 && store.time().since(began) >= UNFINISHED_FOR;
            if found.rows.len() >= PAGE || read >= UNFINISHED_MAX || is_late() {
                found.next = Some(last.get());
                break;
            }
            read += 1;
            // Nothing is filtered but here, so that whatever is read counts.
            found.take(row, |progress| {
                let checkpoint = progress.checkpoint().map_or("", |checkpoint| checkpoint.name());
                is_wanted(progress)
                    && (self.scope.is_empty() || self.scope == progress.key().scope())
                    && (self.checkpoint.is_empty() || self.checkpoint == checkpoint)
                    && self.age().is_none_or(|age| began.since(progress.since()) >= age)
            })?;
        }
        Ok(found)
    }

    fn find_any(&self, mut rows: Operations) -> Result<Found, Error> {
        rows = rows.rows_max(ROWS_MAX);
        if !self.scope.is_empty() {
            rows = rows.of_scope(self.scope);
        }
        if !self.checkpoint.is_empty() {
            rows = rows.at_checkpoint(self.checkpoint);
        }
        if let Some(age) = self.age() {
            rows = rows.older_than(age);
        }
        if let Some(after) = self.after {
            rows = rows.after(Cursor::from_number(after));
        }
        let mut found = Found::default();
        for row in rows.by_ref().take(PAGE) {
            found.take(row, |_| true)?;
        }
        found.next = rows.cursor().map(Cursor::get);
        Ok(found)
    }
}

/// What one page shows, and where the next begins.
#[derive(Default)]
struct Found {
    rows: Vec<Result<Row, Error>>,
    next: Option<u64>,
}

/// What a row shows of an operation. Its payloads are let go of at once: they may be large.
struct Row {
    key: Key,
    state: State,
    owned_since: Option<Timestamp>,
    /// The first few of the steps in doubt, and whether there are more.
    in_doubt: Vec<String>,
    has_more: bool,
    checkpoint: String,
    attempt: u32,
    since: Timestamp,
}

impl Row {
    fn of(progress: &Progress) -> Self {
        let in_doubt = progress.in_doubt().map(|step| step.name().to_owned());
        Self {
            key: progress.key().clone(),
            state: progress.state(),
            owned_since: progress.owned_since(),
            in_doubt: in_doubt.take(IN_DOUBT_MAX).collect(),
            has_more: progress.in_doubt().nth(IN_DOUBT_MAX).is_some(),
            checkpoint: progress.checkpoint().map_or("", |checkpoint| checkpoint.name()).to_owned(),
            attempt: progress.attempt(),
            since: progress.since(),
        }
    }
}

impl Found {
    /// A damaged record has its row, and the next ones follow; where nothing can be read at all, that is the error.
    fn take(&mut self, row: Result<Progress, Error>, is_wanted: impl Fn(&Progress) -> bool) -> Result<(), Error> {
        match row {
            Ok(progress) if !is_wanted(&progress) => {}
            Err(error) if error.kind() != ErrorKind::Corrupt => return Err(error),
            row => self.rows.push(row.map(|progress| Row::of(&progress))),
        }
        Ok(())
    }
}

/// The page.
pub(super) fn page(asked: &Asked) -> Result<Answer, Problem> {
    let filter = Filter::of(&asked.fields);
    let found = filter.find(asked.store())?;
    let body = html! {
        (forms(&filter))
        @if found.rows.is_empty() {
            p { @if found.next.is_some() { "None so far." } @else { "None." } }
        } @else {
            (table(&found.rows, asked.store().time()))
        }
        @if let Some(next) = found.next {
            p {
                @if found.rows.len() < PAGE { "Not everything was looked at yet. " }
                a rel="next" href=(filter.link(Some(next))) {
                    @if found.rows.len() < PAGE { "Go on looking" } @else { "The next " (PAGE) }
                }
            }
        }
        @if filter.after.is_some() { p { a href=(filter.link(None)) { "To the beginning of the list" } } }
    };
    Ok(Answer::Page(Sheet::new("Operations", body).at("operations")))
}

fn forms(filter: &Filter<'_>) -> Markup {
    let minutes = filter.minutes.map(|minutes| minutes.to_string());
    html! {
        div.forms {
            form method="get" action="operations" {
                fieldset {
                    legend { "List" }
                    label { "State" select name="state" {
                        @for (state, meaning, _) in WANTED {
                            option value=(state) selected[state == filter.state] { (meaning) }
                        }
                    } }
                    label { "Scope" input name="scope" value=(filter.scope) autocomplete="off" dir="auto"; }
                    label { "Checkpoint"
                        input name="checkpoint" value=(filter.checkpoint) autocomplete="off" dir="auto";
                    }
                    label { "Claimed so many minutes ago or longer"
                        input name="minutes" value=[minutes] inputmode="numeric" pattern="[0-9]*" autocomplete="off";
                    }
                    button { "List" }
                }
            }
            form method="get" action="operation" {
                fieldset {
                    legend { "Find one" }
                    label { "Scope" input name="scope" required autocomplete="off" dir="auto"; }
                    label { "Key" input name="key" required autocomplete="off" dir="auto"; }
                    button { "Find" }
                }
            }
        }
    }
}

fn table(rows: &[Result<Row, Error>], now: Timestamp) -> Markup {
    html! {
        div.wide tabindex="0" role="region" aria-label="Operations" {
            table {
                caption.unseen { "Operations" }
                thead { tr {
                    th scope="col" { "Operation" } th scope="col" { "State" } th scope="col" { "In doubt" }
                    th scope="col" { "Checkpoint" } th.number scope="col" { "Runs" }
                    th scope="col" { "First claimed (UTC)" } th scope="col" { "Ago" }
                } }
                tbody { @for row in rows { @match row {
                    Ok(row) => (line(row, now)),
                    Err(error) => tr { td.problem colspan="7" { (error) } },
                } } }
            }
        }
    }
}

fn line(row: &Row, now: Timestamp) -> Markup {
    html! {
        tr {
            th scope="row" { a href=(link_to("operation", &row.key, &[])) { (shown::key(&row.key)) } }
            td { (state(row.state)) @if let Some(at) = row.owned_since { " for " (shown::span(now.since(at))) } }
            td {
                @for (nth, step) in row.in_doubt.iter().enumerate() { @if nth > 0 { ", " } (shown::text(step)) }
                @if row.has_more { ", ..." }
            }
            td { @if !row.checkpoint.is_empty() { (shown::text(&row.checkpoint)) } }
            td.number { (row.attempt) }
            td { (shown::time(row.since)) }
            td.span { (shown::span(now.since(row.since))) }
        }
    }
}

/// A state, as a word that does not need its colour.
pub(super) fn state(state: State) -> Markup {
    let class = match state {
        State::Stuck | State::Failed => "bad",
        State::Owned => "busy",
        State::Succeeded => "good",
        State::Unfinished | State::Gone => "plain",
    };
    html! { span class={ "state " (class) } { (state) } }
}
