//! The overview: what needs somebody, what the store does at this moment, and what it keeps.

use maud::{Markup, html};

use super::fields::link;
use super::frame::{Answer, Sheet};
use super::page::Asked;
use super::problem::{self, Problem};
use super::{chart, shown};
use crate::error::ErrorKind;
use crate::store::{Condition, Percentiles, Stats};

/// The whole page.
pub(super) fn page(asked: &Asked) -> Result<Answer, Problem> {
    let is_refreshed = !asked.fields.get("refresh").is_empty();
    let body = html! {
        p id="live-control" {
            @if is_refreshed {
                "Loaded anew every 5 seconds. " a href="overview" { "Stop that" }
            } @else {
                a href=(link("overview", &[("refresh", "5")])) { "Load anew every 5 seconds" }
            }
        }
        div id="live" { (now(asked)?) }
        @if !asked.may_write() { p.quiet { "This page only reads." } }
    };
    Ok(Answer::Page(Sheet::new("Overview", body).at("overview").live(is_refreshed)))
}

/// The part of it that changes, for the script.
pub(super) fn live(asked: &Asked) -> Result<Answer, Problem> {
    now(asked).map(Answer::Part)
}

fn now(asked: &Asked) -> Result<Markup, Problem> {
    let stats = asked.console.samples.take(asked.store())?;
    Ok(html! {
        p.quiet { "As of " (shown::time(asked.store().time())) " UTC" }
        (attention(&stats))
        h2 { "In the last minutes" }
        (chart::chart(&asked.console.samples.all()))
        div.groups {
            @for (title, rows) in figures(&stats) { (group(title, &rows)) }
            (spread(&stats))
        }
    })
}

/// What somebody has to see to, each with the way there.
fn attention(stats: &Stats) -> Markup {
    let list = |state: &str| link("operations", &[("state", state)]);
    let counted = |count: u64| shown::counted(count, "operation", "operations");
    let condition = match stats.condition {
        Condition::Full => Some(("The disk is full: changes are refused, replays go on. ", ErrorKind::Full)),
        Condition::Failed => Some(("The store has stopped: it changes nothing any more. ", ErrorKind::Failed)),
        Condition::Closed => Some(("The store is closed. ", ErrorKind::Closed)),
        _ => None,
    };
    let is_calm = condition.is_none() && stats.last_fault.is_none();
    html! {
        h2 { "To see to" }
        ul.attention {
            @if let Some((what, kind)) = condition { li.bad { strong { (what) } (problem::next(kind)) } }
            @if let Some(fault) = &stats.last_fault { li.bad {
                (shown::counted(stats.faults, "fault", "faults")) " of the store or its disk, the last at "
                (shown::time(fault.at)) " UTC: " (shown::text(&fault.message)) " "
                @if condition.is_none() { (problem::next(fault.kind)) }
            } }
            @if stats.stuck > 0 { li.bad {
                a href=(list("stuck")) { (counted(stats.stuck)) " stuck" }
                ": so many runs ended without an outcome that no resumer tries again"
            } }
            @if stats.in_doubt > 0 { li.doubtful {
                a href=(list("in doubt")) { (counted(stats.in_doubt)) " in doubt" }
                ": an effect may have happened or not"
            } }
            @if stats.refused > 0 { li.doubtful {
                (shown::counted(stats.refused, "claim", "claims")) " refused since the store was opened: it keeps as \
                 much as it may"
            } }
            @if is_calm && stats.stuck + stats.in_doubt + stats.refused == 0 { li.good { "Nothing" } }
            @if let Some(age) = stats.oldest_unfinished { li {
                a href="operations" { (counted(stats.unfinished)) " unfinished" }
                ", the oldest claimed " (shown::span(age)) " ago"
            } }
        }
    }
}

/// One figure: its name, its value, what it means.
type Figure = (&'static str, String, &'static str);

fn figures(stats: &Stats) -> [(&'static str, Vec<Figure>); 4] {
    let (number, claims) = (shown::number, &stats.claims);
    [
        (
            "Operations",
            vec![
                ("Kept", number(stats.operations), "unfinished, ended, and tombstones"),
                ("Unfinished", number(stats.unfinished), "claimed, no outcome yet"),
                ("Owned", number(stats.owned), "a run is at work on it"),
                ("In doubt", number(stats.in_doubt), "a step has an intent and no result"),
                ("Stuck", number(stats.stuck), "so many runs that no resumer tries again"),
                ("Completed", number(stats.completed), "their outcomes are kept"),
                ("Tombstones", number(stats.tombstones), "only the key is known"),
                ("Removed", number(stats.removed), "by retention, since it was opened"),
            ],
        ),
        (
            "Claims since the store was opened",
            vec![
                ("Begun", number(claims.begun), "the first run of an operation"),
                ("Re-entered", number(claims.reentered), "an unfinished one, again"),
                ("Replayed", number(claims.replayed), "got the outcome that is kept"),
                ("Waiting", number(claims.waiting), "another run was at work"),
                ("Rejected", number(claims.rejected), "mismatches: the key is another request's"),
                ("Gone", number(claims.gone), "only the tombstone is kept"),
                ("Failed", number(claims.failed), "no decision was made"),
                ("Refused", number(stats.refused), "because of what is kept already"),
                ("Fenced", number(stats.fenced), "calls of runs that had lost their operation"),
            ],
        ),
        (
            "Work",
            vec![
                ("Commits", number(stats.commits), "each takes one sync"),
                ("Changes", number(stats.changes), "many share a commit"),
                ("Waiting", number(stats.waiting), "claims that wait for another run, now"),
                ("Queued", number(stats.queued), "commands that wait for the writer, now"),
                ("Faults", number(stats.faults), "of the store or its disk"),
            ],
        ),
        (
            "Room",
            vec![
                ("Kept", shown::size(stats.bytes), "rows and payloads"),
                ("File", shown::size(stats.disk_bytes), "with pages that are free"),
                ("Index", shown::size(stats.index_bytes), "in memory"),
            ],
        ),
    ]
}

/// How the last commits that somebody waited for were spread.
fn spread(stats: &Stats) -> Markup {
    fn of<T>(values: Option<Percentiles<T>>, shown: fn(T) -> String) -> Option<[String; 4]> {
        values.map(|it| [it.p50, it.p90, it.p99, it.max].map(shown))
    }
    let rows = [
        ("Commit", of(stats.commit_time, shown::span), "that long callers waited at least"),
        ("Sync", of(stats.sync_time, shown::span), "the disk's share of it"),
        ("Batch", of(stats.batch, shown::number), "commands in one commit"),
    ];
    html! {
        section {
            table.figures {
                caption { "The last commits" }
                thead { tr {
                    td {} @for share in ["50 %", "90 %", "99 %", "all"] { th.number scope="col" { (share) } }
                } }
                tbody { @for (name, values, meaning) in rows { tr {
                    th scope="row" { (name) span.quiet { " " (meaning) } }
                    @for nth in 0..4 { td.number {
                        @if let Some(value) = values.as_ref().and_then(|values| values.get(nth)) { (value) }
                    } }
                } } }
            }
            p.quiet { "So many of a hundred were at most that; of the last 1,024." }
        }
    }
}

fn group(title: &str, rows: &[Figure]) -> Markup {
    html! {
        section {
            table.figures {
                caption { (title) }
                tbody { @for (name, value, meaning) in rows { tr {
                    th scope="row" { (name) span.quiet { " " (meaning) } }
                    td.number { (value) }
                } } }
            }
        }
    }
}
