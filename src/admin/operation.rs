//! One operation: where it stands, what is in doubt, what happened, and what can be done.

use axum::http::StatusCode;
use maud::{Markup, html};

use super::action::Action;
use super::fields::link_to;
use super::frame::{Answer, Sheet};
use super::list;
use super::page::Asked;
use super::problem::Problem;
use super::shown::{self, Payloads};
use super::timeline::{self, EVENTS_MAX};
use crate::key::Key;
use crate::progress::{Progress, State};

/// Most steps in doubt that are listed.
const IN_DOUBT_MAX: usize = 50;

/// The page.
pub(super) fn page(asked: &Asked) -> Result<Answer, Problem> {
    let key = asked.fields.key()?;
    let done = Action::done(asked.fields.get("done"));
    let Some(progress) = asked.store().progress(&key)? else {
        return Ok(unknown(&key, done));
    };
    let now = asked.store().time();
    let mut payloads = Payloads::new(asked.console.shows_payloads());
    let events = timeline::events(&progress);
    let part = asked.fields.number("part").and_then(|part| usize::try_from(part).ok()).unwrap_or(0);
    let begin = part.saturating_mul(EVENTS_MAX).min(events.len());
    let shown_events = events.get(begin..events.len().min(begin.saturating_add(EVENTS_MAX))).unwrap_or_default();
    let before = begin.checked_sub(1).and_then(|before| events.get(before));
    let to_part = |part: usize| link_to("operation", &key, &[("part", &part.to_string())]);
    let body = html! {
        @if let Some(done) = done { p.done role="status" { (done) } }
        p.subject { (shown::key(&key)) }
        dl {
            dt { "State" } dd { (list::state(progress.state())) " " (meaning(progress.state())) }
            dt { "Runs" } dd {
                (progress.attempt())
                @if progress.released() > 0 { ", " (progress.released()) " of them before it was released" }
            }
            @if progress.outcome().is_none() && progress.state() != State::Gone {
                dt { "Age" } dd { (shown::span(now.since(progress.since()))) }
            }
            dt { "Last changed" } dd { (shown::time(progress.changed_at())) " UTC" }
            @if let Some(at) = progress.owned_since() { dt { "At work for" } dd { (shown::span(now.since(at))) } }
            @if let Some(checkpoint) = progress.checkpoint() {
                dt { "Checkpoint" } dd { (shown::text(checkpoint.name())) ", revision " (checkpoint.revision().get()) }
            }
            @if let Some(at) = progress.kept_until() { dt { "Outcome kept until" } dd { (shown::time(at)) " UTC" } }
            @if let Some(at) = progress.known_until() { dt { "Key known until" } dd { (shown::time(at)) " UTC" } }
        }
        (in_doubt(asked, &progress))
        (actions(asked, &progress))
        h2 { "Timeline" }
        (timeline::table(shown_events, before, &mut payloads))
        @if events.len() > EVENTS_MAX { p {
            (shown::number(events.len() as u64)) " events. "
            @if part > 0 { a rel="prev" href=(to_part(part - 1)) { "Earlier" } " " }
            @if begin + EVENTS_MAX < events.len() { a rel="next" href=(to_part(part + 1)) { "Later" } }
        } }
        p.quiet {
            "Of each step its last intent is kept, with the run that it belongs to, and of checkpoints the last; of \
             runs it is known when the one that is at work began. Now: "
            (shown::time(now)) " UTC."
        }
    };
    Ok(Answer::Page(Sheet::new("Operation", body)))
}

fn unknown(key: &Key, done: Option<&'static str>) -> Answer {
    let body = html! {
        @if let Some(done) = done { p.done role="status" { (done) } }
        p.subject { (shown::key(key)) }
        p { "Nothing is known of it: it was never claimed, was forgotten, or its retention is over." }
        p { a href="operations" { "To the operations" } }
    };
    Answer::Page(Sheet::new("Operation", body))
}

/// What a state means to somebody who has to see to it.
fn meaning(state: State) -> &'static str {
    match state {
        State::Owned => "a run is at work on it; where that hangs, revoke it",
        State::Unfinished => "no run is at work; the next claim or a resumer enters it again",
        State::Stuck => {
            "so many runs ended without an outcome that no resumer tries again; release it when its cause is gone"
        }
        State::Succeeded => "completed; its outcome is kept and replayed",
        State::Failed => "failed for good; its outcome is kept and replayed",
        State::Gone => "over; its outcome is no longer kept, its tombstone stands",
    }
}

/// The steps in doubt, each with what the other side knows it by.
fn in_doubt(asked: &Asked, progress: &Progress) -> Markup {
    let count = progress.in_doubt().count();
    let may_resolve = Action::Resolve.suits(progress) && asked.may_write();
    html! { @if count > 0 {
        h2 { "In doubt" }
        @if progress.state() == State::Owned { p { "A run is at work on it, and may be at one of these." } }
        p { "Each may have happened or not. Look for its effect id on the other side, then say what became of it." }
        div.wide tabindex="0" role="region" aria-label="Steps in doubt" {
            table {
                caption.unseen { "Steps in doubt" }
                thead { tr {
                    th scope="col" { "Step" } th scope="col" { "Effect id" } th scope="col" { "Intent (UTC)" }
                    th.number scope="col" { "Run" } @if may_resolve { th scope="col" { "Action" } }
                } }
                tbody { @for step in progress.in_doubt().take(IN_DOUBT_MAX) { tr {
                    th scope="row" { (shown::text(step.name())) }
                    td { code { (progress.effect_id(step.name())) } }
                    td { (shown::time(step.begun_at())) }
                    td.number { (step.attempt()) }
                    @if may_resolve { td {
                        a href=(link_to("resolve", progress.key(), &[("step", step.name())])) {
                            "Resolve" span.unseen { " " (shown::text(step.name())) }
                        }
                    } }
                } } }
            }
        }
        @if count > IN_DOUBT_MAX { p { "There are more; they come when these are resolved." } }
    } }
}

/// What can be done about it, each a link to a form that says what it will do.
fn actions(asked: &Asked, progress: &Progress) -> Markup {
    let offered = [Action::Release, Action::Revoke, Action::Forget].into_iter();
    let offered: Vec<Action> = offered.filter(|action| asked.may_write() && action.suits(progress)).collect();
    html! { @if !offered.is_empty() {
        h2 { "Actions" }
        ul.actions { @for action in offered { li {
            a href=(link_to(action.verb(), progress.key(), &[])) { (action.title()) } ": " (action.meaning())
        } } }
    } }
}

/// The operation that a form is about.
pub(super) fn subject(asked: &Asked) -> Result<Progress, Problem> {
    let unknown = || {
        let text = "It was never claimed, was forgotten, or its retention is over.";
        Problem::new(StatusCode::NOT_FOUND, "Nothing is known of it", text)
    };
    asked.store().progress(&asked.fields.key()?)?.ok_or_else(unknown)
}
