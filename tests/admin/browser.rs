//! The pages in headless Chromium: nothing of a client's runs, the keyboard reaches everything, and it works without
//! JavaScript. Skipped, with a message, where Chromium is not installed; `CHROMIUM` may say which program it is.
//!
//! ```text
//! cargo test --test admin -- --ignored      makes the pictures in docs/admin/ anew
//! ```

use std::path::Path;
use std::time::Duration;

use http::StatusCode;
use reentry::admin::Page;
use reentry::{Key, ManualClock, Run, State, StepState, Store};
use serde_json::json;

use super::chromium::Chromium;
use super::hostile::{PAYLOADS, keys};
use super::server::{ATTEMPTS_MAX, Served, completed, in_doubt, link, serve_page, store, stuck};
use super::support::{START, does, key, run, step_of};

/// A page for whoever comes, as a browser sends no header that these tests could tell it.
fn serve(store: &Store) -> Served {
    serve_page(Page::new(store).writable().show_payloads().unprotected())
}

/// Whether what has the focus shows it.
const FOCUS_SHOWS: &str = "getComputedStyle(document.activeElement).outlineStyle !== 'none'";

/// What has the focus: its place among all elements, -1 for the page itself.
const FOCUS: &str = "document.activeElement === document.body ? -1 : \
                     [...document.querySelectorAll('*')].indexOf(document.activeElement)";

/// Everything that somebody can do something with, and the keyboard must reach: of a group of choices, the first.
const OPERABLE: &str = "[...document.querySelectorAll('*')].map((e, at) => [e, at]).filter(([e]) => \
     e.matches('a[href], button, select, textarea, summary, [tabindex=\"0\"]') || \
     e.matches('input:not([type=hidden], [type=radio])') || \
     e.matches('input[type=radio]') && e === document.querySelector(`input[name=${e.name}]`)).map(([, at]) => at)";

/// What makes the page wider than the window.
const TOO_WIDE: &str = "document.documentElement.scrollWidth <= innerWidth ? [] : \
                        [...document.querySelectorAll('body *')].filter((e) => \
                        e.getBoundingClientRect().right > innerWidth).map((e) => e.outerHTML.slice(0, 200))";

/// Presses Tab until what has the focus has a text that begins so.
#[track_caller]
fn tab_to(browser: &mut Chromium, text: &str) {
    for _ in 0..60 {
        browser.press("Tab");
        let focused = browser.value("document.activeElement.innerText || document.activeElement.name || ''");
        if focused.as_str().unwrap().trim_start().starts_with(text) {
            assert_eq!(browser.value(FOCUS_SHOWS), true, "{text} shows no focus");
            return;
        }
    }
    panic!("the keyboard does not lead to {text:?}");
}

#[test]
fn p9_no_key_and_no_payload_runs_or_loads_anything_in_a_browser() {
    let Some(mut browser) = Chromium::start() else { return };
    let (store, _clock) = store();
    let served = serve(&store);
    for (nth, key) in keys().iter().enumerate() {
        let mut run = run(&store, key);
        does(&mut run, key.scope(), key.key());
        run.advance(key.scope(), &PAYLOADS[nth % PAYLOADS.len()].to_vec()).wait().unwrap();
        drop(run);
        in_doubt(&store, key, "charge");
    }
    let pages = keys().into_iter().flat_map(|key| {
        let of = |page: &str, more: &[(&str, &str)]| link(page, &key, more);
        [of("operation", &[]), of("resolve", &[("step", "charge")]), of("forget", &[])]
    });
    for page in ["overview", "operations", "operations?state=any"].map(str::to_owned).into_iter().chain(pages) {
        browser.open(&served.url(&page));
        browser.value("document.querySelectorAll('details').forEach((details) => { details.open = true; })");
        assert_eq!(browser.complaints(), [""; 0], "{page}");
        let title = browser.value("document.title");
        assert!(title.as_str().unwrap().ends_with(" - reentry"), "{page}: {title}");
        let loaded =
            browser.value("performance.getEntriesByType('resource').every((it) => it.name.startsWith(origin))");
        assert_eq!(loaded, true, "{page}");
        for width in [1000, 360] {
            browser.look(width, 800, "light");
            assert_eq!(browser.value(TOO_WIDE), json!([]), "{page} at {width}");
        }
    }
    // And what a client could not do, the policy would stop: it does, and that is how it would be seen here.
    let inline =
        "document.head.append(Object.assign(document.createElement('script'), { text: 'document.title = 1' }))";
    browser.value(inline);
    browser.value("document.body.append(Object.assign(new Image(), { src: 'http://127.0.0.2/a.png' })); 1");
    let complaints = browser.complaints();
    assert!(complaints.iter().filter(|it| it.contains("Content Security Policy")).count() >= 2, "{complaints:?}");
    assert!(browser.value("document.title").as_str().unwrap().ends_with(" - reentry"));
}

/// A store with something of everything, and a run that hangs.
fn afternoon(store: &Store) -> Run {
    stuck(store, &key("order-3"));
    in_doubt(store, &key("order-2"), "charge");
    completed(store, &key("order-1"), "two pizzas, paid");
    run(store, &key("order-4"))
}

#[test]
fn the_keyboard_alone_reaches_everything_and_does_it() {
    let Some(mut browser) = Chromium::start() else { return };
    let (store, _clock) = store();
    let (_owner, served) = (afternoon(&store), serve(&store));
    let pages = [
        "overview".to_owned(),
        "operations".to_owned(),
        link("operation", &key("order-2"), &[]),
        link("operation", &key("order-4"), &[]),
        link("resolve", &key("order-2"), &[("step", "charge")]),
        link("forget", &key("order-1"), &[]),
    ];
    for page in &pages {
        browser.open(&served.url(page));
        let mut operable: Vec<i64> = serde_json::from_value(browser.value(OPERABLE)).unwrap();
        let mut order = Vec::new();
        while order.len() <= operable.len() {
            browser.press("Tab");
            match browser.value(FOCUS).as_i64().unwrap() {
                // Behind the last comes the browser's own, or the first again.
                at if at == -1 || order.first() == Some(&at) => break,
                at => order.push(at),
            }
            assert_eq!(
                browser.value(FOCUS_SHOWS),
                true,
                "{page}: {}",
                browser.value("document.activeElement.outerHTML")
            );
        }
        // The script's button comes when it has run, and stands where it is in the document.
        assert!(order.is_sorted(), "{page}: the focus jumps: {order:?}");
        operable.sort_unstable();
        assert_eq!(order, operable, "{page}");
    }
    // Down from the list to the step, with what somebody would type.
    browser.open(&served.url("overview"));
    tab_to(&mut browser, "1 operation in doubt");
    browser.load(|browser| browser.press("Enter"));
    tab_to(&mut browser, "scope scope");
    browser.load(|browser| browser.press("Enter"));
    tab_to(&mut browser, "Resolve");
    browser.load(|browser| browser.press("Enter"));
    tab_to(&mut browser, "happened");
    browser.press(" ");
    tab_to(&mut browser, "note");
    browser.type_text("the bank knows nothing of it");
    browser.load(|browser| browser.press("Enter"));
    assert!(browser.text().contains("Resolved: durable"), "{}", browser.text());
    assert_eq!(step_of(&store, &key("order-2"), "charge").unwrap().state(), StepState::Withdrawn);
    for (name, act, said) in [("order-3", "Release it", "Released"), ("order-4", "Revoke it", "Revoked")] {
        browser.open(&served.url(&link("operation", &key(name), &[])));
        tab_to(&mut browser, act);
        browser.load(|browser| browser.press("Enter"));
        tab_to(&mut browser, act);
        browser.load(|browser| browser.press("Enter"));
        assert!(browser.text().contains(said), "{}", browser.text());
        assert_eq!(store.progress(&key(name)).unwrap().unwrap().state(), State::Unfinished);
    }
    assert_eq!(browser.complaints(), [""; 0]);
}

#[test]
fn everything_works_without_javascript() {
    let Some(mut browser) = Chromium::start() else { return };
    let (store, _clock) = store();
    let (_owner, served) = (afternoon(&store), serve(&store));
    browser.call("Emulation.setScriptExecutionDisabled", &json!({ "value": true }));
    browser.open(&served.url("overview"));
    assert!(browser.text().contains("Load anew every 5 seconds") && !browser.text().contains("Pause"));
    browser.open(&served.url(&link("forget", &key("order-1"), &[])));
    tab_to(&mut browser, "Forget it");
    browser.press("Enter");
    assert_eq!(browser.value("document.querySelector(':invalid[name=sure]') !== null"), true, "the browser asks first");
    browser.open(&served.url(&link("forget", &key("order-1"), &[])));
    tab_to(&mut browser, "sure");
    browser.press(" ");
    tab_to(&mut browser, "Forget it");
    browser.load(|browser| browser.press("Enter"));
    assert!(browser.text().contains("Forgotten: the next claim runs it again."), "{}", browser.text());
    assert!(store.progress(&key("order-1")).unwrap().is_none());
}

#[test]
fn the_script_keeps_the_overview_live_until_it_is_paused() {
    let Some(mut browser) = Chromium::start() else { return };
    let (store, _clock) = store();
    let served = serve(&store);
    browser.open(&served.url("overview"));
    assert!(browser.text().contains("Live, every 2 seconds"));
    stuck(&store, &key("order-3"));
    let shows = "new Promise((shown) => { const live = document.getElementById('live'); \
                 const look = () => live.innerText.includes('1 operation stuck') && shown(true); \
                 new MutationObserver(look).observe(live, { childList: true }); look(); })";
    assert_eq!(browser.value(shows), true);
    tab_to(&mut browser, "Pause");
    browser.press("Enter");
    assert!(browser.text().contains("Paused"));
    assert_eq!(browser.complaints(), [""; 0]);
}

#[test]
fn every_part_of_every_page_has_a_role_and_a_name() {
    let Some(mut browser) = Chromium::start() else { return };
    let (store, clock) = store();
    let (_owner, served) = (afternoon(&store), serve(&store));
    served.get("overview");
    clock.advance(Duration::from_secs(2));
    let pages = [
        "overview".to_owned(),
        "operations".to_owned(),
        link("operation", &key("order-2"), &[]),
        link("resolve", &key("order-2"), &[("step", "charge")]),
        link("operation", &Key::new("s", "never").unwrap(), &[]),
    ];
    let mut roles = std::collections::BTreeSet::new();
    for page in &pages {
        browser.open(&served.url(page));
        let nodes = browser.accessible();
        let count = |role: &str| nodes.iter().filter(|(known, _)| known == role).count();
        assert_eq!((count("main"), count("navigation"), count("RootWebArea")), (1, 1, 1), "{page}");
        let named = ["link", "button", "textbox", "combobox", "radio", "checkbox", "image", "img", "table", "region"];
        for (role, name) in nodes.iter().filter(|(role, _)| named.contains(&role.as_str())) {
            assert!(!name.trim().is_empty(), "{page}: a {role} has no name");
            roles.insert(role.clone());
        }
        let levels = "[...document.querySelectorAll('h1, h2, h3')].map((h) => h.tagName).join(' ')";
        assert!(browser.value(levels).as_str().unwrap().starts_with("H1"), "{page}");
    }
    for role in ["link", "button", "textbox", "combobox", "radio", "table", "region"] {
        assert!(roles.contains(role), "no {role} is on any page: {roles:?}");
    }
    assert!(roles.contains("image") || roles.contains("img"), "{roles:?}");
}

/// The contrast of every text against what it stands on, by WCAG 2's formula, in light and in dark.
const CONTRASTS: &str = "(() => { \
    const parts = (c) => c.match(/[\\d.]+/g).map(Number); \
    const light = (c) => parts(c).slice(0, 3).map((v) => v / 255) \
      .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4) \
      .reduce((sum, v, at) => sum + v * [0.2126, 0.7152, 0.0722][at], 0); \
    const ground = (e) => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor; \
      if ((parts(c)[3] ?? 1) > 0) return c; } return 'rgb(255, 255, 255)'; }; \
    const texts = [...document.querySelectorAll('body *')].filter((e) => \
      [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim())); \
    return texts.map((e) => { const [a, b] = [light(getComputedStyle(e).color), light(ground(e))]; \
      return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), e.outerHTML.slice(0, 100)]; }); })()";

#[test]
fn every_text_stands_out_in_light_and_in_dark() {
    let Some(mut browser) = Chromium::start() else { return };
    let (store, _clock) = store();
    let (_owner, served) = (afternoon(&store), serve(&store));
    let pages =
        ["overview".to_owned(), "operations".to_owned(), link("operation", &key("order-2"), &[]), "none".to_owned()];
    let mut grounds = Vec::new();
    for scheme in ["light", "dark"] {
        browser.look(1000, 800, scheme);
        for page in &pages {
            browser.open(&served.url(page));
            let found: Vec<(f64, String)> = serde_json::from_value(browser.value(CONTRASTS)).unwrap();
            assert!(found.len() > 5, "{page}");
            let faint: Vec<_> = found.iter().filter(|(contrast, _)| *contrast < 4.5).collect();
            assert!(faint.is_empty(), "{page} in {scheme}: {faint:?}");
        }
        grounds.push(browser.value("getComputedStyle(document.body).backgroundColor"));
    }
    assert_ne!(grounds[0], grounds[1]);
}

/// The store that the pictures are of: always the same, by a clock that is moved by hand.
fn scene(store: &Store, clock: &ManualClock, served: &Served) -> Run {
    let pass = |millis| clock.advance(Duration::from_millis(millis));
    let order = |nth: &str| Key::new("orders/ada", nth).unwrap();
    let mut doubtful = run(store, &order("8e03978e-40d5-43dd-bc93-6894a57f9324"));
    pass(120);
    does(&mut doubtful, "reserve", "table 4");
    doubtful.advance("reserved", &"table 4".to_owned()).wait().unwrap();
    pass(85);
    super::support::times_out(&mut doubtful, "charge");
    drop(doubtful);
    pass(40 * 60 * 1000);
    for _ in 0..ATTEMPTS_MAX {
        let mut stuck = run(store, &order("order-3"));
        does(&mut stuck, "charge", "receipt 6");
        drop(stuck);
        pass(60_000);
    }
    in_doubt(store, &Key::new("orders/bob", "\u{202e}txt.exe <b>\u{5d0}\u{5d1}</b>").unwrap(), "mail");
    for nth in 0..60_usize {
        for copy in 0..(nth * 7) % 23 + nth % 5 * 4 {
            completed(store, &Key::new("orders/eve", format!("{nth}-{copy}")).unwrap(), "paid");
        }
        pass(2_000);
        assert_eq!(served.get_as("", "live").status, StatusCode::OK);
    }
    let mut working = run(store, &Key::new("orders/ada", "order-4").unwrap());
    working.advance("waiting for the kitchen", &"two pizzas".to_owned()).wait().unwrap();
    working
}

#[test]
#[ignore = "makes the pictures in docs/admin/ anew"]
fn the_pictures_of_the_guide_are_made_anew() {
    let Some(mut browser) = Chromium::start() else { return };
    // In a file, so that a sync takes its time.
    let (folder, clock) = (tempfile::tempdir().unwrap(), ManualClock::at(START));
    let store = Store::builder().attempts_max(ATTEMPTS_MAX).clock(clock.clone());
    let store = store.open(folder.path().join("orders.reentry")).unwrap();
    let served = serve(&store);
    let _working = scene(&store, &clock, &served);
    let doubtful = Key::new("orders/ada", "8e03978e-40d5-43dd-bc93-6894a57f9324").unwrap();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/admin");
    std::fs::create_dir_all(&folder).unwrap();
    for (name, page, height, scheme) in [
        ("overview", "overview".to_owned(), 940, "light"),
        ("overview-dark", "overview".to_owned(), 940, "dark"),
        ("operations", "operations".to_owned(), 700, "light"),
        ("operation", link("operation", &doubtful, &[]), 900, "light"),
        ("resolve", link("resolve", &doubtful, &[("step", "charge")]), 680, "dark"),
    ] {
        browser.look(1000, height, scheme);
        browser.open(&served.url(&page));
        let picture = browser.picture();
        assert!(picture.len() < 150 * 1024, "{name} has {} bytes", picture.len());
        std::fs::write(folder.join(name).with_extension("png"), picture).unwrap();
    }
}
