//! What can be done from the page, and that it is done exactly so.

use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use http::StatusCode;
use reentry::{Clock, ErrorKind, Failure, ManualClock, State, StepState, Store, Timestamp};

use super::server::{Got, completed, in_doubt, link, owned, owned_by, serve, store, stuck};
use super::support::{START, key, kind, run, step_of, times_out};

/// Where an act leads to that was done: back to its operation, which says so.
#[track_caller]
fn is_done(got: &Got, word: &str) {
    assert_eq!(got.status, StatusCode::SEE_OTHER, "{}", got.body);
    assert!(got.location().starts_with("operation?") && got.location().ends_with(&format!("&done={word}")));
}

#[test]
fn p4_a_step_in_doubt_is_resolved_with_its_result_as_text_or_as_bytes() {
    let (store, _clock) = store();
    let served = serve(&store);
    let yes = [("happened", "yes"), ("note", "the bank has it")];
    for (name, form, result, bytes) in [
        ("text", "text", "receipt 7", &b"receipt 7"[..]),
        ("lines", "text", "a\r\nb", b"a\nb"),
        ("none", "text", "", b""),
        ("hex", "hex", "00 ff\r\n7F", &[0, 0xff, 0x7f]),
    ] {
        in_doubt(&store, &key(name), "charge");
        let answer = [("form", form), ("result", result)];
        let got = served.act(&link("resolve", &key(name), &[("step", "charge")]), &[&yes[..], &answer].concat());
        is_done(&got, "resolved");
        let step = step_of(&store, &key(name), "charge").unwrap();
        assert_eq!((step.state(), step.bytes()), (StepState::Done, Some(bytes)), "{name}");
        assert_eq!((step.notes()[0].text(), step.notes()[0].happened()), ("the bank has it", true));
        let page = served.get(got.location());
        assert_eq!(
            page.all("p").find(|it| it.attribute("role") == Some("status")).unwrap().text.split(':').next(),
            Some("Resolved")
        );
        assert!(!page.links().iter().any(|link| link.starts_with("resolve")), "there is nothing left to resolve");
    }
}

/// A clock that does something once, as it is asked for the time, which whoever looks at an operation does behind that.
struct Hooked(ManualClock, Hook);

type Hook = Arc<Mutex<Option<Box<dyn FnOnce() + Send>>>>;

impl std::fmt::Debug for Hooked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hooked")
    }
}

impl Clock for Hooked {
    fn wall(&self) -> Timestamp {
        self.0.wall()
    }

    fn elapsed(&self) -> Duration {
        // The writer is asked for what is done then.
        if thread::current().name() != Some("reentry-writer") {
            let hook = self.1.lock().unwrap().take();
            if let Some(hook) = hook {
                hook();
            }
        }
        self.0.elapsed()
    }
}

/// The story: what was said of one try was done to the next, which a run had begun between the look and the act.
#[test]
fn p4_what_is_said_of_a_step_is_not_said_of_a_try_that_began_since_it_was_looked_at() {
    let hook = Hook::default();
    let clock = Hooked(ManualClock::at(START), Arc::clone(&hook));
    let store = Store::builder().clock(clock).in_memory().unwrap();
    let served = serve(&store);
    in_doubt(&store, &key("k"), "charge");
    let (other, form) = (store.clone(), link("resolve", &key("k"), &[("step", "charge")]));
    let again = move || {
        let tries = thread::spawn(move || {
            let mut next = run(&other, &key("k"));
            let charged =
                next.step("charge").recheck(|_| Ok::<_, Failure>(None)).run(|_| Err::<String, _>("timed out"));
            assert_eq!(kind(charged), ErrorKind::EffectFailed);
        });
        tries.join().unwrap();
    };
    let no = [("happened", "no"), ("note", "the bank knows nothing of it"), ("form", "text"), ("result", "")];
    let got = served.act_after(&form, &no, || *hook.lock().unwrap() = Some(Box::new(again)));
    assert_eq!(got.status, StatusCode::CONFLICT, "{}", got.body);
    assert_eq!(step_of(&store, &key("k"), "charge").unwrap().state(), StepState::InDoubt);
    assert!(hook.lock().unwrap().is_none(), "it was tried again");
}

#[test]
fn p4_a_step_that_did_not_happen_runs_when_it_is_asked_for() {
    let (store, _clock) = store();
    let served = serve(&store);
    in_doubt(&store, &key("k"), "charge");
    let no = [("happened", "no"), ("note", "the bank knows nothing of it"), ("form", "text"), ("result", "")];
    is_done(&served.act(&link("resolve", &key("k"), &[("step", "charge")]), &no), "resolved");
    let step = step_of(&store, &key("k"), "charge").unwrap();
    assert_eq!((step.state(), step.notes()[0].happened()), (StepState::Withdrawn, false));
}

#[test]
fn p6_what_is_stuck_is_released() {
    let (store, _clock) = store();
    let served = serve(&store);
    stuck(&store, &key("k"));
    let link = link("release", &key("k"), &[]);
    assert!(served.get(&link).text().contains("the runs it has had no longer count, so that a resumer tries it again"));
    is_done(&served.act(&link, &[]), "released");
    let progress = store.progress(&key("k")).unwrap().unwrap();
    assert_eq!((progress.state(), progress.released()), (State::Unfinished, super::server::ATTEMPTS_MAX));
}

#[test]
fn p7_what_hangs_is_revoked_from_its_run() {
    let (store, _clock) = store();
    let served = serve(&store);
    let mut run = owned_by(&store, &key("k"));
    let link = link("revoke", &key("k"), &[]);
    assert!(served.get(&link).text().contains("every later call of that run fails and changes nothing"));
    is_done(&served.act(&link, &[]), "revoked");
    assert_eq!(store.progress(&key("k")).unwrap().unwrap().state(), State::Unfinished);
    assert_eq!(kind(run.advance("late", &"x".to_owned()).wait()), ErrorKind::Fenced);
}

#[test]
fn p6_what_is_forgotten_starts_anew_and_only_who_knows_that_can_forget() {
    let (store, _clock) = store();
    let served = serve(&store);
    completed(&store, &key("k"), "receipt");
    let link = link("forget", &key("k"), &[]);
    assert!(served.get(&link).text().contains("the next claim runs it again, whatever happened already"));
    let unsure = served.act(&link, &[]);
    assert_eq!(unsure.status, StatusCode::BAD_REQUEST);
    assert!(store.progress(&key("k")).unwrap().is_some());
    let got = served.act(&link, &[("sure", "yes")]);
    is_done(&got, "forgotten");
    assert!(served.get(got.location()).text().contains("Forgotten: the next claim runs it again."));
    assert!(store.progress(&key("k")).unwrap().is_none());
    assert_eq!(run(&store, &key("k")).attempt(), 1);
}

#[test]
fn a_resolution_that_is_not_complete_changes_nothing() {
    let (store, _clock) = store();
    let served = serve(&store);
    in_doubt(&store, &key("k"), "charge");
    let link = link("resolve", &key("k"), &[("step", "charge")]);
    let (long, mut last) = ("x".repeat(1_001), None);
    for (fields, says) in [
        (&[("note", "why"), ("form", "text")][..], "Say whether it happened."),
        (&[("happened", "maybe"), ("note", "why"), ("form", "text")], "Say whether it happened."),
        (&[("happened", "no"), ("note", "why"), ("form", "text"), ("result", "x")], "There is a result"),
        (&[("happened", "yes"), ("note", "why"), ("form", "hex"), ("result", "0g")], "not hexadecimal"),
        (&[("happened", "yes"), ("note", "why"), ("form", "hex"), ("result", "012")], "not hexadecimal"),
        (&[("happened", "no"), ("form", "text")], "note is empty"),
        (&[("happened", "no"), ("form", "text"), ("note", "a\u{1b}b")], "control character"),
        (&[("happened", "no"), ("form", "text"), ("note", &long)], "1001 bytes"),
    ] {
        let got = served.act(&link, fields);
        assert_eq!(got.status, StatusCode::BAD_REQUEST, "{fields:?}");
        let page = got.document();
        assert!(page.text().contains(says), "{fields:?}: {}", page.text());
        // And the form stands there again, with what was said.
        let said = |name: &str| fields.iter().find(|(known, _)| *known == name).map_or("", |(_, value)| value);
        let note = page.all("input").find(|input| input.attribute("name") == Some("note")).unwrap();
        assert_eq!(note.attribute("value"), Some(said("note")));
        assert_eq!(page.all("textarea").next().unwrap().text, said("result"));
        let chosen = page.all("input").find(|input| input.attribute("checked").is_some());
        let known = ["yes", "no"].contains(&said("happened")).then(|| said("happened"));
        assert_eq!(chosen.and_then(|chosen| chosen.attribute("value")), known);
        last = Some(page.hidden());
    }
    assert_eq!(step_of(&store, &key("k"), "charge").unwrap().state(), StepState::InDoubt);
    // It is a whole form: sent again, complete, it acts.
    let complete = owned(&[("happened", "yes"), ("form", "text"), ("result", "\n x"), ("note", "why")]);
    let form = [last.unwrap(), complete].concat();
    is_done(&served.post_as("writer", "resolve", &form, &[("sec-fetch-site", "same-origin")]), "resolved");
    assert_eq!(step_of(&store, &key("k"), "charge").unwrap().bytes(), Some(&b"\n x"[..]));
}

/// A form that stood open while the operation went on: it is about what was seen, and nothing else.
#[test]
fn an_act_on_an_operation_that_has_moved_since_is_refused() {
    let (store, _clock) = store();
    let served = serve(&store);
    let sent = |verb: &str, fields: &[(String, String)]| {
        served.post_as("writer", verb, fields, &[("sec-fetch-site", "same-origin")])
    };
    // Forgotten and claimed anew: it is another operation, in the same state.
    completed(&store, &key("anew"), "receipt");
    let mut form = served.get(&link("forget", &key("anew"), &[])).hidden();
    form.extend(owned(&[("sure", "yes")]));
    store.forget(&key("anew")).wait().unwrap();
    completed(&store, &key("anew"), "another");
    let got = sent("forget", &form);
    assert_eq!(got.status, StatusCode::CONFLICT);
    assert!(got.document().text().contains("has moved since"));
    assert!(store.progress(&key("anew")).unwrap().is_some());
    // Another run hangs now: the form was about the one before.
    let first = owned_by(&store, &key("runs"));
    let form = served.get(&link("revoke", &key("runs"), &[])).hidden();
    drop(first);
    let _second = owned_by(&store, &key("runs"));
    assert_eq!(sent("revoke", &form).status, StatusCode::CONFLICT);
    assert_eq!(store.progress(&key("runs")).unwrap().unwrap().state(), State::Owned);
    // The step was tried again: what somebody found out is about the try before.
    in_doubt(&store, &key("tried"), "charge");
    let mut form = served.get(&link("resolve", &key("tried"), &[("step", "charge")])).hidden();
    form.extend(owned(&[("happened", "no"), ("note", "why"), ("form", "text"), ("result", "")]));
    let mut again = run(&store, &key("tried"));
    times_out(&mut again, "charge");
    drop(again);
    assert_eq!(sent("resolve", &form).status, StatusCode::CONFLICT);
    assert_eq!(step_of(&store, &key("tried"), "charge").unwrap().state(), StepState::InDoubt);
}

/// A form sent twice, as by a second click: the second is about what is no longer so.
#[test]
fn a_form_that_is_sent_twice_acts_once() {
    let (store, _clock) = store();
    let served = serve(&store);
    stuck(&store, &key("k"));
    let form = served.get(&link("release", &key("k"), &[])).hidden();
    let same = [("sec-fetch-site", "same-origin")];
    assert_eq!(served.post_as("writer", "release", &form, &same).status, StatusCode::SEE_OTHER);
    assert_eq!(served.post_as("writer", "release", &form, &same).status, StatusCode::CONFLICT);
}

#[test]
fn what_does_not_suit_an_operation_is_neither_offered_nor_done() {
    let (store, _clock) = store();
    let served = serve(&store);
    let mut working = owned_by(&store, &key("owned"));
    times_out(&mut working, "charge");
    completed(&store, &key("done"), "receipt");
    in_doubt(&store, &key("doubt"), "charge");
    stuck(&store, &key("stuck"));
    for (name, offered) in [
        ("owned", &["revoke"][..]),
        ("done", &["forget"]),
        ("doubt", &["resolve", "forget"]),
        ("stuck", &["release", "forget"]),
    ] {
        let page = served.get(&link("operation", &key(name), &[]));
        for verb in ["resolve", "release", "revoke", "forget"] {
            let is_offered = page.links().iter().any(|link| link.starts_with(&format!("{verb}?")));
            assert_eq!(is_offered, offered.contains(&verb), "{verb} of {name}");
            let got = served.get_as("writer", &link(verb, &key(name), &[("step", "charge")]));
            let expected = if offered.contains(&verb) { StatusCode::OK } else { StatusCode::CONFLICT };
            assert_eq!(got.status, expected, "{verb} of {name}");
        }
    }
    for verb in ["resolve", "release", "revoke", "forget"] {
        let got = served.get_as("writer", &link(verb, &key("never"), &[]));
        assert_eq!(got.status, StatusCode::NOT_FOUND, "{verb}");
    }
    let other_step = served.get_as("writer", &link("resolve", &key("doubt"), &[("step", "mail")]));
    assert_eq!(other_step.status, StatusCode::CONFLICT);
}
