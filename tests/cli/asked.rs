//! What changes a store asks first, on a terminal: one that `script` of util-linux makes, where that is there.

use std::io::Write;
use std::process::Stdio;

use reentry::Key;

use super::support::run;
use super::tool::{Place, Told, shop};

const STORE: &str = "orders.reentry";

/// What a terminal shows where the tool is asked this on it, and somebody types that. None where there is no `script`.
fn on_a_terminal(place: &Place, args: &[&str], typed: &str) -> Option<Told> {
    let version = place.program("script").arg("--version").output();
    if !version.as_ref().is_ok_and(|told| String::from_utf8_lossy(&told.stdout).contains("util-linux")) {
        println!("skipped: there is no script(1) of util-linux: {version:?}");
        return None;
    }
    let quoted = args.iter().map(|arg| format!("'{arg}'")).collect::<Vec<_>>().join(" ");
    let mut script = place.program("script");
    script.args(["-qec", &format!("'{}' {quoted}", env!("CARGO_BIN_EXE_reentry")), "/dev/null"]);
    let mut script = script.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // Nothing more is typed: the end of its input is that of the terminal's.
    script.stdin.take().unwrap().write_all(typed.as_bytes()).unwrap();
    Some(place.told(script.wait_with_output().unwrap()))
}

fn is_known(place: &Place, scope: &str, key: &str) -> bool {
    let store = place.builder().open_to_read(place.store()).unwrap();
    store.progress(&Key::new(scope, key).unwrap()).unwrap().is_some()
}

#[test]
fn what_changes_a_store_asks_first_and_does_it_for_a_yes_alone() {
    let place = Place::new(shop);
    let forget = ["forget", STORE, "checkout/ada", "order-1"];
    for answer in ["n\n", "\n", "no\n", "yep\n", ""] {
        let Some(told) = on_a_terminal(&place, &forget, answer) else { return };
        assert_eq!(told.status, 1, "{answer:?}: {told:?}");
        // It shows what it is about, and that it has an outcome.
        let asked = "forget key \"order-1\" of scope \"checkout/ada\", so that its next claim runs it again? [y/N]";
        assert!(told.out.contains(asked) && told.out.contains("succeeded   2100-01-02"), "{answer:?}: {told:?}");
        assert!(told.out.contains("nothing was done"), "{answer:?}: {told:?}");
        assert!(is_known(&place, "checkout/ada", "order-1"), "{answer:?} was taken for a yes");
    }
    let told = on_a_terminal(&place, &forget, "y\n").unwrap();
    assert!(told.status == 0 && told.out.contains("forgotten"), "{told:?}");
    assert!(!is_known(&place, "checkout/ada", "order-1"));
    // Of what is not there nothing is asked.
    let told = on_a_terminal(&place, &forget, "y\n").unwrap();
    assert!(told.status == 1 && told.out.contains("nothing is known") && !told.out.contains("[y/N]"), "{told:?}");
    let release = on_a_terminal(&place, &["release", STORE, "mails", "order-1"], "YES\n").unwrap();
    assert!(release.status == 0 && release.out.contains("let key \"order-1\" of scope \"mails\" be tried again?"));
    let resolve = ["resolve", STORE, "checkout/ada", "order-3", "mail", "--did-not-happen", "--note", "none came"];
    let told = on_a_terminal(&place, &resolve, "n\n").unwrap();
    assert!(told.status == 1 && told.out.contains("say that step \"mail\" of key \"order-3\""), "{told:?}");
    let told = on_a_terminal(&place, &resolve, "y\n").unwrap();
    assert!(told.status == 0 && told.out.contains("did not happen; a run is told"), "{told:?}");
}

#[test]
fn p9_a_key_that_is_asked_about_does_nothing_to_the_terminal_and_an_export_goes_to_none() {
    const KEY: &str = "\u{202e}gnp.exe\u{2066}\u{200b}";
    let place = Place::new(|store, _| drop(run(store, &Key::new(KEY, KEY).unwrap())));
    let Some(told) = on_a_terminal(&place, &["forget", STORE, KEY, KEY], "n\n") else { return };
    assert!(told.out.contains("\\u{202e}gnp.exe\\u{2066}\\u{200b}") && !told.out.contains('\u{202e}'), "{told:?}");
    let told = on_a_terminal(&place, &["export", STORE], "").unwrap();
    assert!(told.status == 2 && told.out.contains("an export is for programs"), "{told:?}");
}
