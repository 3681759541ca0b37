//! What clients gave reaches no terminal as it is.

use std::fs;

use reentry::{Claim, Fingerprint, Key};

use super::support::run_of;
use super::tool::Place;

const STORE: &str = "orders.reentry";

/// What a client may send as a key: no control characters, and yet all that turns or hides text.
const KEY: &str = concat!(
    "\u{202e}gnp.exe\u{2066}\u{200b}\u{feff}\u{e0001}\u{2028}\u{ad}",
    "\u{61c}\u{2060}\u{2800}\u{3164}\u{115f}\u{1160}\u{ffa0}"
);

/// What may stand in a payload and in a note.
const PAYLOAD: &str = "\u{1b}]0;owned\u{7}\u{1b}[2J\u{9b}31m\r\n\u{202e}\u{0}\u{7f}";

/// Whether a terminal shows this and does nothing else.
fn is_quiet(text: &str) -> bool {
    let turns = |c| matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200b}'..='\u{200f}');
    let hides = |c| matches!(c, '\u{feff}' | '\u{e0000}'..='\u{e007f}' | '\u{2028}' | '\u{2029}' | '\u{ad}');
    // Of no width, or a space that is none.
    let blanks =
        |c| matches!(c, '\u{61c}' | '\u{2060}' | '\u{2800}' | '\u{3164}' | '\u{115f}' | '\u{1160}' | '\u{ffa0}');
    text.chars().all(|c| c == '\n' || !c.is_control() && !turns(c) && !hides(c) && !blanks(c))
}

#[test]
fn p9_nothing_that_a_client_gave_does_anything_to_a_terminal() {
    let place = Place::new(|store, _| {
        let key = Key::new(KEY, KEY).unwrap();
        let claim = store.claim(&key, Fingerprint::of("x")).wait().unwrap();
        let mut run = run_of(claim);
        run.step(KEY).run_keyed(|_| Ok::<_, reentry::Failure>(PAYLOAD.to_owned())).unwrap();
        run.advance(KEY, &PAYLOAD.to_owned()).wait().unwrap();
        run.step("mail").run_keyed(|_| Err::<(), _>("timed out")).unwrap_err();
        drop(run);
        let done = Key::new(KEY, "done").unwrap();
        run_of(store.claim(&done, Fingerprint::of("x")).wait().unwrap()).complete(&PAYLOAD.to_owned()).wait().unwrap();
        assert!(matches!(store.claim(&done, Fingerprint::of("x")).wait().unwrap(), Claim::Replay(_)));
    });
    let commands: [&[&str]; 9] = [
        &["ls", STORE],
        &["ls", STORE, "--json"],
        &["ls", STORE, "--scope", KEY, "--in-doubt"],
        &["show", STORE, KEY, KEY, "--payload"],
        &["show", STORE, KEY, KEY, "--payload", "--json"],
        &["show", STORE, KEY, "done", "--payload"],
        &["show", STORE, KEY, "unknown"],
        &["show", STORE, "\u{1b}[2J", "a"],
        &["forget", STORE, KEY, KEY],
    ];
    for args in commands {
        let told = place.run(args);
        assert!(is_quiet(&told.out) && is_quiet(&told.err), "{args:?}: {told:?}");
        assert!(!told.out.is_empty() || !told.err.is_empty());
    }
    // And yet nothing is lost: what is told as JSON means what was given.
    let json: serde_json::Value =
        serde_json::from_str(&place.ok(&["show", STORE, KEY, KEY, "--payload", "--json"])).unwrap();
    assert_eq!((json["key"].as_str(), json["checkpoint"]["payload"]["text"].as_str()), (Some(KEY), Some(PAYLOAD)));
    assert_eq!(json["steps"][0]["result"]["text"].as_str(), Some(PAYLOAD));
    // A file of such a name, too.
    let name = "\u{202e}\u{1b}[2J";
    fs::write(place.path(name), "no store").unwrap();
    let told = place.run(&["stat", name]);
    assert!(told.status == 1 && is_quiet(&told.err), "{told:?}");
}

#[test]
fn what_is_large_is_shown_whole() {
    let place = Place::new(|store, _| {
        let key = Key::new("scope", "large").unwrap();
        let large = "x".repeat(200_000);
        run_of(store.claim(&key, Fingerprint::of("x")).wait().unwrap()).complete(&large).wait().unwrap();
    });
    let told = place.ok(&["show", STORE, "scope", "large", "--payload"]);
    assert!(told.contains(&"x".repeat(200_000)), "{} bytes", told.len());
    assert!(!place.ok(&["show", STORE, "scope", "large"]).contains("xxx"));
}
