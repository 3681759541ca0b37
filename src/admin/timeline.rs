//! The timeline of one operation: all that its record tells with a moment, in order, and how long lay between.

use maud::{Markup, html};

use super::shown::{self, Payloads};
use crate::clock::Timestamp;
use crate::progress::Progress;
use crate::record::{Step, StepState};

/// Most events on one page.
pub(super) const EVENTS_MAX: usize = 300;

/// One thing that happened.
pub(super) struct Event<'a> {
    at: Timestamp,
    what: What<'a>,
    /// The run that it belongs to, where that is known.
    attempt: Option<u32>,
    payload: Option<(&'static str, &'a [u8])>,
}

enum What<'a> {
    Claimed,
    /// The run that is at work began.
    Entered,
    Intent(&'a str),
    Settled(&'a Step),
    Resolved {
        name: &'a str,
        happened: bool,
        note: &'a str,
    },
    Late {
        name: &'a str,
        happened: bool,
    },
    Checkpoint {
        name: &'a str,
        revision: u64,
    },
    Ended {
        is_success: bool,
    },
}

/// Everything that is known of an operation with its moment, earliest first. What happened at the same moment stands in
/// the order in which it can only have happened.
pub(super) fn events(progress: &Progress) -> Vec<Event<'_>> {
    let plain = |at, what| Event { at, what, attempt: None, payload: None };
    let request = progress.request().map(|bytes| ("request", bytes));
    let mut events = vec![Event { attempt: Some(1), payload: request, ..plain(progress.since(), What::Claimed) }];
    if let Some(at) = progress.owned_since().filter(|_| progress.attempt() > 1) {
        events.push(Event { attempt: Some(progress.attempt()), ..plain(at, What::Entered) });
    }
    for step in progress.steps() {
        let intent = plain(step.begun_at(), What::Intent(step.name()));
        events.push(Event { attempt: Some(step.attempt()), ..intent });
        for note in step.notes() {
            let what = What::Resolved { name: step.name(), happened: note.happened(), note: note.text() };
            events.push(plain(note.at(), what));
        }
        for late in step.late() {
            let payload = late.bytes().map(|bytes| ("result", bytes));
            let what = What::Late { name: step.name(), happened: payload.is_some() };
            events.push(Event { attempt: Some(late.attempt()), payload, ..plain(late.at(), what) });
        }
        if let Some(at) = step.settled_at() {
            let payload = step.bytes().map(|bytes| ("result", bytes));
            events.push(Event { payload, ..plain(at, What::Settled(step)) });
        }
    }
    if let Some(checkpoint) = progress.checkpoint() {
        let what = What::Checkpoint { name: checkpoint.name(), revision: checkpoint.revision().get() };
        events.push(Event { payload: Some(("checkpoint", checkpoint.bytes())), ..plain(checkpoint.at(), what) });
    }
    if let Some(outcome) = progress.outcome() {
        let what = What::Ended { is_success: outcome.is_success() };
        events.push(Event { payload: Some(("outcome", outcome.bytes())), ..plain(outcome.completed_at(), what) });
    }
    // Stable: the order above is kept among equals.
    events.sort_by_key(|event| event.at);
    events
}

/// Some of the events, behind one that is shown elsewhere, or is none.
pub(super) fn table(events: &[Event<'_>], before: Option<&Event<'_>>, payloads: &mut Payloads) -> Markup {
    let earlier = std::iter::once(before).chain(events.iter().map(Some));
    html! {
        div.wide tabindex="0" role="region" aria-label="Timeline" {
            table {
                caption.unseen { "What happened, earliest first" }
                thead { tr {
                    th scope="col" { "When (UTC)" } th scope="col" { "After" } th scope="col" { "What" }
                    th.number scope="col" { "Run" } th scope="col" { "Payload" }
                } }
                tbody { @for (event, before) in events.iter().zip(earlier) { tr {
                    td { (shown::time(event.at)) }
                    td.span { @if let Some(before) = before { (shown::span(event.at.since(before.at))) } }
                    td { (what(&event.what)) }
                    td.number { @if let Some(attempt) = event.attempt { (attempt) } }
                    td { @if let Some((of, bytes)) = event.payload { (payloads.show(of, bytes)) } }
                } } }
            }
        }
    }
}

fn what(what: &What<'_>) -> Markup {
    let name = shown::text;
    match what {
        What::Claimed => html! { "claimed for the first time" },
        What::Entered => html! { "claimed again, by the run that is at work" },
        What::Intent(step) => html! { "step " (name(step)) ": intent, the last" },
        What::Settled(step) => html! {
            "step " (name(step.name())) ": "
            @if step.state() == StepState::Done { "result" } @else { "known not to have happened" }
            (took(step))
        },
        What::Resolved { name: step, happened, note } => html! {
            "step " (name(step)) ": resolved by hand, "
            @if *happened { "it happened" } @else { "it did not happen" } ": " q { (name(note)) }
        },
        What::Late { name: step, happened } => html! {
            "step " (name(step)) ": reported late, by a run that had lost the operation, that it "
            @if *happened { "happened" } @else { "did not happen" } "; evidence, not applied"
        },
        What::Checkpoint { name: checkpoint, revision } => html! {
            "checkpoint " (name(checkpoint)) ", revision " (revision)
        },
        What::Ended { is_success: true } => html! { "outcome: completed" },
        What::Ended { is_success: false } => html! { "outcome: failed for good" },
    }
}

/// How long it was in doubt.
fn took(step: &Step) -> Markup {
    html! { @if let Some(at) = step.settled_at() { ", " (shown::span(at.since(step.begun_at()))) " after its intent" } }
}
