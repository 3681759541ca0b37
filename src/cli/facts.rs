//! What is told of one operation, for people and as JSON.

use reentry::{Progress, Step, StepState};
use serde_json::{Map, Value, json};

use super::output::{count, shown, time};

/// One operation on a line of a list.
pub(crate) fn line(progress: &Progress) -> String {
    let (checkpoint, key) = (progress.checkpoint(), progress.key());
    let mut doubts = progress.in_doubt().map(|step| shown(step.name())).collect::<Vec<_>>().join(", ");
    if !doubts.is_empty() {
        doubts = format!("  in doubt: {doubts}");
    }
    let checkpoint = checkpoint.map_or_else(|| "-".to_owned(), |checkpoint| shown(checkpoint.name()));
    let (scope, key) = (shown(key.scope()), shown(key.key()));
    let (state, attempt) = (progress.state().to_string(), progress.attempt());
    let since = time(progress.since());
    format!("{state:<10}  {since}  {attempt:>3}  {checkpoint:<16}  {scope:<16}  {key}{doubts}")
}

/// What stands over these lines.
pub(crate) const HEAD: &str = "STATE       FIRST CLAIMED            RUN  CHECKPOINT        SCOPE             KEY";

/// One operation of a list, as JSON: without its payloads.
pub(crate) fn summary(progress: &Progress) -> Value {
    let mut object = known(progress);
    if let Some(checkpoint) = progress.checkpoint() {
        object.insert("checkpoint".to_owned(), checkpoint.name().into());
    }
    let doubts: Vec<_> = progress.in_doubt().map(Step::name).collect();
    if !doubts.is_empty() {
        object.insert("in_doubt".to_owned(), doubts.into());
    }
    object.into()
}

fn known(progress: &Progress) -> Map<String, Value> {
    let mut object = Map::new();
    let mut put = |name: &str, value: Value| drop(object.insert(name.to_owned(), value));
    put("scope", progress.key().scope().into());
    put("key", progress.key().key().into());
    put("state", progress.state().to_string().into());
    put("attempt", progress.attempt().into());
    if progress.released() > 0 {
        put("released", progress.released().into());
    }
    put("since", progress.since().as_millis().into());
    put("changed_at", progress.changed_at().as_millis().into());
    let times = [
        ("ended_at", progress.ended_at()),
        ("kept_until", progress.kept_until()),
        ("known_until", progress.known_until()),
    ];
    for (name, at) in times {
        if let Some(at) = at {
            put(name, at.as_millis().into());
        }
    }
    object
}

/// Everything that is known of one operation, as JSON.
pub(crate) fn whole(progress: &Progress, with_payloads: bool) -> Value {
    let payload = |bytes: &[u8]| payload_json(bytes, with_payloads);
    let mut object = known(progress);
    let mut put = |name: &str, value: Value| drop(object.insert(name.to_owned(), value));
    if let Some(request) = progress.request() {
        put("request", payload(request));
    }
    if let Some(it) = progress.checkpoint() {
        let (at, revision) = (it.at().as_millis(), it.revision().get());
        put("checkpoint", json!({"name": it.name(), "revision": revision, "at": at, "payload": payload(it.bytes())}));
    }
    let steps: Vec<_> = progress.steps().iter().map(|step| step_json(progress, step, with_payloads)).collect();
    if !steps.is_empty() {
        put("steps", steps.into());
    }
    if let Some(outcome) = progress.outcome() {
        put("outcome", payload(outcome.bytes()));
    }
    object.into()
}

fn step_json(progress: &Progress, step: &Step, with_payloads: bool) -> Value {
    let payload = |bytes: &[u8]| payload_json(bytes, with_payloads);
    let mut object = Map::new();
    let mut put = |name: &str, value: Value| drop(object.insert(name.to_owned(), value));
    put("name", step.name().into());
    put("state", step.state().to_string().into());
    put("effect_id", progress.effect_id(step.name()).to_string().into());
    put("attempt", step.attempt().into());
    put("begun_at", step.begun_at().as_millis().into());
    if let Some(at) = step.settled_at() {
        put("settled_at", at.as_millis().into());
    }
    if let Some(result) = step.bytes() {
        put("result", payload(result));
    }
    let note = |it: &reentry::Note| json!({"at": it.at().as_millis(), "happened": it.happened(), "text": it.text()});
    if !step.notes().is_empty() {
        put("notes", step.notes().iter().map(note).collect());
    }
    let late = |it: &reentry::Late| {
        let result = it.bytes().map(payload);
        json!({"attempt": it.attempt(), "at": it.at().as_millis(), "result": result})
    };
    if !step.late().is_empty() {
        put("late", step.late().iter().map(late).collect());
    }
    object.into()
}

fn payload_json(bytes: &[u8], with_payloads: bool) -> Value {
    match std::str::from_utf8(bytes) {
        _ if !with_payloads => json!({"bytes": bytes.len()}),
        Ok(text) => json!({"bytes": bytes.len(), "text": text}),
        Err(_) => json!({"bytes": bytes.len(), "hex": hex(bytes)}),
    }
}

/// Everything that is known of one operation, as names and facts.
pub(crate) fn all(progress: &Progress, with_payloads: bool) -> Vec<(&'static str, String)> {
    let payload = |bytes: &[u8]| payload_text(bytes, with_payloads);
    let mut facts = vec![
        ("scope", shown(progress.key().scope())),
        ("key", shown(progress.key().key())),
        ("state", progress.state().to_string()),
        ("runs", runs(progress)),
        ("first claimed", time(progress.since())),
        ("last changed", time(progress.changed_at())),
    ];
    if let Some(request) = progress.request() {
        facts.push(("request", payload(request)));
    }
    if let Some(it) = progress.checkpoint() {
        let (name, revision, at) = (shown(it.name()), it.revision().get(), time(it.at()));
        facts.push(("checkpoint", format!("{name}, revision {revision}, reached {at}, {}", payload(it.bytes()))));
    }
    for step in progress.steps() {
        facts.extend(step_facts(progress, step, with_payloads));
    }
    facts.extend(progress.ended_at().map(|at| ("ended", time(at))));
    facts.extend(progress.kept_until().map(|at| ("outcome kept until", time(at))));
    facts.extend(progress.known_until().map(|at| ("key known until", time(at))));
    facts.extend(progress.outcome().map(|outcome| ("outcome", payload(outcome.bytes()))));
    facts
}

fn runs(progress: &Progress) -> String {
    match progress.released() {
        0 => progress.attempt().to_string(),
        released => format!("{}, {released} of them before it was released", progress.attempt()),
    }
}

fn step_facts(progress: &Progress, step: &Step, with_payloads: bool) -> Vec<(&'static str, String)> {
    let payload = |bytes: &[u8]| payload_text(bytes, with_payloads);
    let (name, begun, run) = (shown(step.name()), time(step.begun_at()), step.attempt());
    let became = match (step.state(), step.settled_at()) {
        (StepState::Done, Some(at)) => {
            format!("done {}, {}", time(at), payload(step.bytes().unwrap_or_default()))
        }
        (StepState::Withdrawn, Some(at)) => format!("did not happen, known since {}", time(at)),
        _ => "IN DOUBT: it may have happened or not".to_owned(),
    };
    let mut facts = vec![
        ("step", format!("{name}, begun {begun} by run {run}")),
        ("", became),
        ("", format!("effect id {}", progress.effect_id(step.name()))),
    ];
    for note in step.notes() {
        let what = if note.happened() { "it happened" } else { "it did not happen" };
        facts.push(("", format!("{} resolved, {what}: {}", time(note.at()), shown(note.text()))));
    }
    for late in step.late() {
        let what = late.bytes().map_or_else(|| "that nothing happened".to_owned(), payload);
        facts.push(("", format!("{} run {} reported late: {what}", time(late.at()), late.attempt())));
    }
    facts
}

fn payload_text(bytes: &[u8], with_payloads: bool) -> String {
    let size = format!("{} bytes", count(bytes.len() as u64));
    match std::str::from_utf8(bytes) {
        _ if !with_payloads || bytes.is_empty() => size,
        Ok(text) => format!("{size}: {}", shown(text)),
        Err(_) => format!("{size}: {}", hex(bytes)),
    }
}

fn hex(bytes: &[u8]) -> String {
    let mut hex = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        hex.extend([byte >> 4, byte & 15].iter().filter_map(|digit| char::from_digit(u32::from(*digit), 16)));
    }
    hex
}
