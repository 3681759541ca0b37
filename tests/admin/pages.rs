//! What the pages show, and where they lead.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::routing::get;
use http::StatusCode;
use reentry::admin::Page;
use reentry::{Clock, ErrorKind, Key, Resolution, Store, Timestamp};

use super::server::{NEST, Served, completed, in_doubt, link, owned_by, serve, serve_page, serve_routes, store, stuck};
use super::support::{START, does, key, run, times_out};

/// The keys that a list shows, in its order.
fn listed(served: &Served, link: &str) -> Vec<String> {
    let page = served.get(link);
    page.links().iter().filter_map(|link| link.strip_prefix("operation?scope=scope&key=")).map(str::to_owned).collect()
}

#[test]
fn the_overview_tells_what_needs_somebody_and_leads_there() {
    let (store, clock) = store();
    let served = serve(&store);
    assert!(served.get("overview").text().contains("Nothing"));
    stuck(&store, &key("st"));
    in_doubt(&store, &key("doubt"), "charge");
    let _run = owned_by(&store, &key("own"));
    completed(&store, &key("done"), "receipt");
    clock.advance(Duration::from_secs(2));
    let page = served.get("overview");
    assert_eq!(listed(&served, page.link("1 operation stuck")), ["st"]);
    assert_eq!(listed(&served, page.link("1 operation in doubt")), ["doubt"]);
    let figure = |name: &str| {
        let rows = page.rows();
        let row = rows.iter().find(|row| row.first().is_some_and(|cell| cell.starts_with(name))).unwrap();
        row.last().unwrap().to_string()
    };
    assert_eq!([figure("Unfinished"), figure("Owned"), figure("In doubt"), figure("Stuck")], ["3", "1", "1", "1"]);
    // How the last commits were spread, in four shares each.
    for (name, unit) in [("Commit", 's'), ("Sync", 's'), ("Batch", '1')] {
        let rows = page.rows();
        let row =
            rows.iter().find(|row| row.first().is_some_and(|cell| cell.starts_with(&format!("{name} ")))).unwrap();
        assert!(row.len() == 5 && row[1..].iter().all(|cell| cell.ends_with(unit)), "{row:?}");
    }
    let left = page.text().split("Nothing").count();
    assert_eq!((left, page.text().contains("3 operations unfinished, the oldest claimed 2.0 s ago")), (1, true));
    assert!(page.text().contains("As of 2023-11-14 22:13:22.000 UTC"), "{}", page.text());
}

#[test]
fn the_overview_is_kept_live_by_a_script_or_loaded_anew_without_one() {
    let (store, clock) = store();
    let served = serve(&store);
    let page = served.get("overview");
    assert_eq!(
        page.all("script").map(|script| (script.attribute("src"), &*script.text)).collect::<Vec<_>>(),
        [(Some("live.js"), "")]
    );
    assert!(page.all("meta").all(|meta| meta.attribute("http-equiv").is_none()));
    let anew = served.get(page.link("Load anew"));
    assert!(anew.all("meta").any(|meta| meta.attribute("http-equiv") == Some("refresh")));
    assert_eq!(anew.link("Stop"), "overview");
    clock.advance(Duration::from_secs(2));
    let part = served.get_as("reader", "live");
    assert!(!part.body.contains("<html") && part.body.contains("<svg"), "{}", part.body);
}

#[test]
fn a_list_shows_what_it_is_asked_for() {
    let (store, clock) = store();
    stuck(&store, &key("st"));
    in_doubt(&store, &key("doubt"), "charge");
    let run = owned_by(&store, &key("own"));
    completed(&store, &key("done"), "receipt");
    clock.advance(Duration::from_secs(600));
    let mut checked = super::support::run(&store, &key("paid"));
    checked.advance("paid", &"x".to_owned()).wait().unwrap();
    drop(checked);
    drop(super::support::run(&store, &Key::new("scope2", "other").unwrap()));
    drop(super::support::run(&store, &key("bad")).fail(&"no".to_owned()).wait().unwrap());
    let served = serve(&store);
    for (link, expected) in [
        ("operations", &["st", "doubt", "own", "paid"][..]),
        ("operations?scope=scope", &["st", "doubt", "own", "paid"]),
        ("operations?scope=scop", &[]),
        ("operations?state=stuck", &["st"]),
        ("operations?state=in+doubt", &["doubt"]),
        ("operations?state=owned", &["own"]),
        ("operations?state=free", &["st", "doubt", "paid"]),
        ("operations?minutes=10", &["st", "doubt", "own"]),
        ("operations?minutes=11", &[]),
        ("operations?checkpoint=paid", &["paid"]),
        ("operations?checkpoint=paid&state=stuck", &[]),
        ("operations?state=succeeded", &["done"]),
        ("operations?state=failed", &["bad"]),
        ("operations?state=succeeded&scope=scope2", &[]),
        ("operations?state=any&scope=scope", &["bad", "paid", "done", "own", "doubt", "st"]),
        ("operations?state=any&minutes=10&checkpoint=paid", &[]),
        ("operations?state=any&checkpoint=paid", &["paid"]),
    ] {
        assert_eq!(listed(&served, link), expected, "{link}");
    }
    let page = served.get("operations?scope=scope&state=stuck&minutes=3");
    let chosen: Vec<_> = page.all("option").filter(|option| option.attribute("selected").is_some()).collect();
    assert_eq!(chosen[0].attribute("value"), Some("stuck"), "what was asked for stays in the form");
    let page = served.get("operations?state=in+doubt");
    let row = &page.rows()[1];
    assert_eq!(row[1..], ["unfinished", "charge", "", "1", "2023-11-14 22:13:20.000", "10 min 0 s"]);
    drop(run);
}

#[test]
fn a_list_goes_on_page_by_page_and_shows_everything_once() {
    let (store, _clock) = store();
    let names: Vec<String> = (0..120).map(|nth| format!("k{nth:03}")).collect();
    for name in &names {
        drop(run(&store, &key(name)));
    }
    let served = serve(&store);
    for (state, order) in [("free", names.clone()), ("any", names.into_iter().rev().collect())] {
        let (mut seen, mut sizes) = (Vec::new(), Vec::new());
        let mut next = Some(format!("operations?state={state}&scope=scope"));
        while let Some(link) = next {
            let page = served.get(&link);
            let shown = listed(&served, &link);
            sizes.push(shown.len());
            seen.extend(shown);
            let link = page.all("a").find(|link| link.attribute("rel") == Some("next"));
            next = link.map(|link| link.attribute("href").unwrap().to_owned());
            assert!(next.as_ref().is_none_or(|next| next.contains("scope=scope") && next.contains(state)));
        }
        assert_eq!(seen, order, "{state}");
        assert_eq!(sizes[..3], [50, 50, 20], "{state}");
    }
}

/// Beside what is asked for there is something that lacks one thing of it alone.
#[test]
fn the_link_to_the_next_page_asks_for_the_same_as_this_one() {
    let (store, clock) = store();
    let made = |scope: &str, checkpoint: &str, nth: u32| {
        for is_done in [false, true] {
            let key = Key::new(scope, format!("{checkpoint}-{nth:02}-{is_done}")).unwrap();
            let mut run = run(&store, &key);
            run.advance(checkpoint, &()).wait().unwrap();
            if is_done {
                drop(run.complete(&()).wait().unwrap());
            }
        }
    };
    for nth in 0..60 {
        made("scope", "paid", nth);
        made("scope", "sent", nth);
        made("others", "paid", nth);
    }
    clock.advance(Duration::from_secs(600));
    made("scope", "paid", 60);
    let served = serve(&store);
    for (state, is_done) in [("free", false), ("succeeded", true)] {
        let asked = [("state", state), ("scope", "scope"), ("checkpoint", "paid"), ("minutes", "10")];
        let mut first = reqwest::Url::parse("http://localhost/operations").unwrap();
        first.query_pairs_mut().extend_pairs(asked);
        let first = format!("operations?{}", first.query().unwrap());
        let page = served.get(&first);
        let next = page.link("The next 50");
        let url = reqwest::Url::parse("http://localhost/").unwrap().join(next).unwrap();
        let (after, kept): (Vec<_>, Vec<_>) = url.query_pairs().partition(|(name, _)| name == "after");
        let kept: Vec<_> = kept.iter().map(|(name, value)| (&**name, &**value)).collect();
        assert_eq!((after.len(), &*kept), (1, &asked[..]), "{next}");
        let shown = [listed(&served, &first), listed(&served, next)].concat();
        let expected: BTreeSet<String> = (0..60).map(|nth| format!("paid-{nth:02}-{is_done}")).collect();
        assert_eq!((shown.len(), shown.into_iter().collect()), (60, expected), "{state}");
        // And back to the first page of the same.
        assert_eq!(served.get(next).link("To the beginning"), first);
    }
}

/// No page reads all that is kept: the clock stands still here, so only the number of rows ends a search.
#[test]
fn a_search_that_finds_nothing_soon_stops_and_offers_to_go_on() {
    let (store, _clock) = store();
    for nth in 0..5_100 {
        drop(run(&store, &Key::new("many", nth.to_string()).unwrap()));
    }
    drop(run(&store, &key("last")));
    let served = serve(&store);
    let page = served.get("operations?scope=scope");
    assert!(page.text().contains("None so far.") && !page.text().contains("last"));
    let next = page.link("Go on looking");
    assert_eq!(listed(&served, next), ["last"]);
    assert!(served.get(next).all("a").all(|link| link.attribute("rel") != Some("next")));
    // However it is searched.
    assert!(served.get("operations?minutes=60").text().contains("None so far."));
}

/// Each look at it takes a second longer.
#[derive(Debug, Default)]
struct Slow(AtomicU64);

impl Clock for Slow {
    fn wall(&self) -> Timestamp {
        START
    }

    fn elapsed(&self) -> Duration {
        Duration::from_secs(self.0.fetch_add(1, Ordering::SeqCst))
    }
}

/// Where reading takes longer than a page may, each page shows one, and the next goes on behind it.
#[test]
fn p6_a_search_on_a_disk_that_is_too_slow_goes_on_all_the_same() {
    let store = Store::builder().clock(Slow::default()).in_memory().unwrap();
    let names = ["one", "two", "three"];
    for name in names {
        drop(run(&store, &key(name)));
    }
    let served = serve(&store);
    let (mut next, mut seen) = (Some("operations".to_owned()), Vec::new());
    while let Some(link) = next.filter(|_| seen.len() < names.len()) {
        let page = served.get(&link);
        seen.push(listed(&served, &link));
        let link = page.all("a").find(|link| link.attribute("rel") == Some("next"));
        next = link.map(|link| link.attribute("href").unwrap().to_owned());
    }
    assert_eq!(seen, names.map(|name| vec![name.to_owned()]));
}

/// Likewise of all that is kept, where it is the list itself that ends.
#[test]
fn a_search_of_everything_stops_after_so_many_rows_and_its_link_goes_on_behind_them() {
    let (store, _clock) = store();
    drop(run(&store, &key("first")));
    let claims: Vec<_> = (0..20_100)
        .map(|nth| store.claim(&Key::new("many", nth.to_string()).unwrap(), super::support::request()))
        .collect();
    for claim in claims {
        drop(claim.wait().unwrap());
    }
    let served = serve(&store);
    let page = served.get("operations?state=any&scope=scope");
    assert!(page.text().contains("None so far.") && !page.text().contains("first"), "{}", page.text());
    let next = page.link("Go on looking");
    assert_eq!(listed(&served, next), ["first"]);
    assert!(served.get(next).all("a").all(|link| link.attribute("rel") != Some("next")));
}

#[test]
fn each_step_in_doubt_is_shown_with_the_effect_id_that_the_other_side_knows_it_by() {
    let (store, _clock) = store();
    let at = key("k");
    let mut doubtful = run(&store, &at);
    let steps = ["charge", "mail", "ship"];
    for step in steps {
        times_out(&mut doubtful, step);
    }
    drop(doubtful);
    let progress = store.progress(&at).unwrap().unwrap();
    let page = serve(&store).get(&link("operation", &at, &[]));
    let ids = steps.map(|step| {
        let rows = page.rows();
        rows.iter().find(|row| row[0] == step).unwrap_or_else(|| panic!("{step} is not shown"))[1].to_owned()
    });
    assert_eq!(ids, steps.map(|step| progress.effect_id(step).to_string()));
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), 3, "{ids:?}");
}

#[test]
fn claims_that_are_refused_because_of_what_is_kept_are_something_to_see_to() {
    let store = Store::builder().operations_max(1).in_memory().unwrap();
    let served = serve(&store);
    completed(&store, &key("fits"), "receipt");
    assert!(served.get("overview").text().contains("Nothing"));
    for told in ["1 claim refused since the store was opened", "2 claims refused since the store was opened"] {
        let refused = store.claim(&key("too many"), super::support::request()).wait();
        assert_eq!(super::support::kind(refused), ErrorKind::Capacity);
        let page = served.get("overview");
        assert!(page.text().contains(told) && !page.text().contains("Nothing"), "{}", page.text());
        let part = served.get_as("reader", "live").body;
        assert!(part.contains(told), "{part}");
    }
}

#[test]
fn p3_a_timeline_tells_everything_that_is_kept_in_order_and_how_long_lay_between() {
    let (store, clock) = store();
    let pass = |millis| clock.advance(Duration::from_millis(millis));
    let (served, at) = (serve(&store), key("k"));
    let mut first = run(&store, &at);
    pass(250);
    does(&mut first, "reserve", "seat 7");
    first.advance("reserved", &"seat 7".to_owned()).wait().unwrap();
    pass(61_000);
    times_out(&mut first, "charge");
    store.revoke(&at).wait().unwrap();
    drop(first);
    store.resolve(&at, "charge", Resolution::DidNotHappen, "the bank says no").wait().unwrap();
    pass(1_000);
    let mut second = run(&store, &at);
    does(&mut second, "charge", "receipt");
    pass(5);
    drop(second.complete(&"done".to_owned()).wait().unwrap());
    let page = served.get(&link("operation", &at, &[]));
    let rows: Vec<Vec<&str>> = page.rows().into_iter().skip(1).map(|row| row[1..4].to_vec()).collect();
    assert_eq!(
        rows,
        [
            vec!["", "claimed for the first time", "1"],
            vec!["250 ms", "step reserve: intent, the last", "1"],
            vec!["0 ms", "step reserve: result, 0 ms after its intent", ""],
            vec!["0 ms", "checkpoint reserved, revision 1", ""],
            vec!["1 min 1 s", "step charge: resolved by hand, it did not happen: the bank says no", ""],
            vec!["1.0 s", "step charge: intent, the last", "2"],
            // A result is reported with what the run does next.
            vec!["5 ms", "step charge: result, 5 ms after its intent", ""],
            vec!["0 ms", "outcome: completed", ""],
        ]
    );
    let when: Vec<_> = page.all("time").filter_map(|time| time.attribute("datetime")).collect();
    assert!(when.contains(&"2023-11-14T22:13:20.250Z"), "{when:?}");
    let payloads: Vec<&str> = page.all("pre").map(|pre| pre.text.as_str()).collect();
    assert_eq!(payloads, ["seat 7", "seat 7", "receipt", "done"]);
    assert!(page.text().contains("succeeded completed; its outcome is kept and replayed"));
}

/// An operation may be old and its run young: only a run that is at work for long may hang.
#[test]
fn p7_since_when_a_run_is_at_work_is_told_and_not_how_old_its_operation_is() {
    let (store, clock) = store();
    let (served, at) = (serve(&store), key("k"));
    drop(run(&store, &at));
    clock.advance(Duration::from_secs(3600));
    let again = run(&store, &at);
    clock.advance(Duration::from_secs(61));
    assert!(served.get("operations?state=owned").text().contains("owned for 1 min 1 s"));
    let page = served.get(&link("operation", &at, &[]));
    assert!(page.text().contains("Age1 h 1 min") && page.text().contains("At work for1 min 1 s"), "{}", page.text());
    let rows: Vec<Vec<&str>> = page.rows().into_iter().skip(1).map(|row| row[1..4].to_vec()).collect();
    let entered = vec!["1 h 0 min", "claimed again, by the run that is at work", "2"];
    assert_eq!(rows, [vec!["", "claimed for the first time", "1"], entered]);
    drop(again);
    let page = served.get(&link("operation", &at, &[]));
    assert!(page.rows().len() == 2 && !page.text().contains("At work for"), "{}", page.text());
}

#[test]
fn p7_what_a_fenced_run_reported_late_is_in_the_timeline_as_evidence() {
    let (store, _clock) = store();
    let at = key("k");
    let mut first = run(&store, &at);
    let taken = store.clone();
    let reported = first.step("charge").run_keyed(|_| {
        taken.revoke(&at).wait().unwrap();
        Ok::<_, reentry::Failure>("paid late".to_owned())
    });
    drop((reported, first));
    super::support::settle(&store);
    let page = serve(&store).get(&link("operation", &at, &[]));
    assert!(page.text().contains("reported late, by a run that had lost the operation, that it happened"));
    assert!(page.all("pre").any(|pre| pre.text == "paid late"));
    let refused = run(&store, &at).step("mail").run_keyed(|_| {
        store.revoke(&at).wait().unwrap();
        Err::<(), _>(reentry::not_applied("no address"))
    });
    drop(refused);
    super::support::settle(&store);
    let page = serve(&store).get(&link("operation", &at, &[]));
    assert!(page.text().contains("reported late, by a run that had lost the operation, that it did not happen"));
    assert_eq!(page.all("pre").count(), 1, "what did not happen has no result: {}", page.text());
}

#[test]
fn a_long_timeline_is_shown_in_parts_and_nothing_is_left_out() {
    let (store, _clock) = store();
    let mut long = run(&store, &key("long"));
    (0..400).for_each(|nth| does(&mut long, &format!("step-{nth:03}"), "result"));
    drop(long.complete(&"done".to_owned()).wait().unwrap());
    let served = serve(&store);
    let (mut next, mut seen) = (Some(link("operation", &key("long"), &[])), Vec::new());
    let mut parts = 0;
    while let Some(link) = next {
        let page = served.get(&link);
        let rows = page.rows().into_iter().skip(1);
        seen.extend(rows.map(|row| row[2].to_owned()));
        let link = page.all("a").find(|link| link.attribute("rel") == Some("next"));
        next = link.map(|link| link.attribute("href").unwrap().to_owned());
        parts += 1;
    }
    assert_eq!((parts, seen.len(), seen.iter().collect::<BTreeSet<_>>().len()), (3, 802, 802));
}

#[test]
fn what_is_unknown_or_over_is_said() {
    let (store, clock) = store();
    completed(&store, &key("done"), "receipt");
    let served = serve(&store);
    assert!(served.get(&link("operation", &key("never"), &[])).text().contains("Nothing is known of it"));
    let kept = served.get(&link("operation", &key("done"), &[]));
    assert!(kept.text().contains("Outcome kept until2023-11-15 22:13:20.000 UTC"), "{}", kept.text());
    clock.advance(Duration::from_secs(25 * 3600));
    assert!(served.get(&link("operation", &key("done"), &[])).text().contains("Nothing is known of it"));
    let bad = served.get_as("writer", "operation?scope=&key=k");
    assert_eq!(bad.status, StatusCode::BAD_REQUEST);
    assert!(bad.document().text().contains("scope is empty"));
}

#[test]
fn p9_payloads_are_hidden_unless_the_server_shows_them() {
    let (store, _clock) = store();
    let at = key("k");
    let mut first = run(&store, &at);
    does(&mut first, "charge", "secret-result");
    first.advance("paid", &"secret-checkpoint".to_owned()).wait().unwrap();
    drop(first.complete(&"secret-outcome".to_owned()).wait().unwrap());
    let (hides, shows) = (
        serve_page(Page::new(&store).writable().unprotected()),
        serve_page(Page::new(&store).show_payloads().unprotected()),
    );
    for secret in ["secret-result", "secret-checkpoint", "secret-outcome"] {
        assert!(!hides.get_as("", &link("operation", &at, &[])).body.contains(secret), "{secret}");
        assert!(shows.get_as("", &link("operation", &at, &[])).body.contains(secret), "{secret}");
    }
    assert!(hides.get(&link("operation", &at, &[])).text().contains("13 bytes"));
}

/// Every page there is, from wherever the router is nested: whole, and with no link that leads nowhere.
#[test]
fn every_link_leads_somewhere_wherever_the_page_is_nested() {
    let (store, _clock) = store();
    stuck(&store, &key("st"));
    in_doubt(&store, &key("a \"b\" <c>&d=%41+/?#"), "charge & mail");
    let _run = owned_by(&store, &key("own"));
    completed(&store, &key("done"), "receipt");
    let page = || Page::new(&store).writable().show_payloads().unprotected().router().unwrap();
    let nested = Router::new().nest("/a", Router::new().nest("/b/c", page())).nest("/admin/", page()).merge(page());
    let served = serve_routes(nested);
    for root in ["/admin/", "/a/b/c", "/"] {
        let base = reqwest::Url::parse(&format!("http://{}{root}", served.address)).unwrap();
        let (mut seen, mut open) = (BTreeSet::new(), vec![base.clone()]);
        while let Some(url) = open.pop() {
            if !seen.insert(url.to_string()) {
                continue;
            }
            let path = url.query().map_or(url.path().to_owned(), |query| format!("{}?{query}", url.path()));
            let got = served.get_at(&path);
            assert!(path.starts_with(root.trim_end_matches('/')), "{path} is outside of {root}");
            if got.status == StatusCode::SEE_OTHER {
                open.push(url.join(got.location()).unwrap());
                continue;
            }
            assert_eq!(got.status, StatusCode::OK, "{path}");
            if got.headers["content-type"] != "text/html; charset=utf-8" || path.ends_with("/live") {
                continue;
            }
            let document = got.document();
            let sources = ["href", "src"].map(|name| document.elements.iter().filter_map(move |it| it.attribute(name)));
            open.extend(
                sources.into_iter().flatten().filter(|link| !link.starts_with('#')).map(|it| url.join(it).unwrap()),
            );
        }
        assert!(seen.len() > 12, "{root}: {seen:?}");
        for page in ["overview", "operations", "resolve", "release", "revoke", "forget", "style.css", "live.js"] {
            assert!(
                seen.iter().any(|seen| seen.contains(&format!("/{page}"))),
                "{page} is linked nowhere under {root}"
            );
        }
    }
}

#[test]
fn a_page_that_is_not_there_is_said_so() {
    let served = serve(&store().0);
    let got = served.get_as("reader", "nothing-here");
    assert_eq!(got.status, StatusCode::NOT_FOUND);
    assert_eq!(got.document().link("To the overview"), "overview");
    assert_eq!(served.get_at(NEST).location(), "page/overview");
}

/// A server's own routes have a state, whatever it is; the page asks for none.
#[test]
fn the_page_is_nested_among_routes_with_a_state() {
    let (store, _clock) = store();
    let own = |State(answer): State<u32>| async move { answer.to_string() };
    let page = Page::new(&store).unprotected().router().unwrap();
    let routes = Router::new().route("/answer", get(own)).nest(NEST, page).with_state(42_u32);
    let served = serve_routes(routes);
    served.get("overview");
    assert_eq!(served.get_at("/answer").body, "42");
}

/// A store of any age and any trouble has a whole overview: an empty one, and one of the machine's own clock.
#[test]
fn an_empty_store_has_whole_pages() {
    let store = Store::builder().in_memory().unwrap();
    let served = serve(&store);
    for page in
        ["overview", "operations", "operations?state=any", "operations?state=gone&after=7", "overview?refresh=5"]
    {
        served.get(page);
    }
    assert!(served.get("operations?state=gone").text().contains("None."));
}
