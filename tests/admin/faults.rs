//! A damaged store, a full one and one that has stopped: each is told for what it is, with what to do next.

use http::StatusCode;
use reentry::{DiskCall, Request, SimulatedDisk, Store};

use super::server::{ATTEMPTS_MAX, in_doubt, link, serve, stuck};
use super::support::{broken, damage_payloads, keep_one_damaged_of_three, key, run, run_of};

/// A row of the list says that it is damaged, and the next ones follow; so does the operation's own page.
#[test]
fn p10_a_damaged_record_is_told_in_its_place_and_stops_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("damaged.reentry");
    keep_one_damaged_of_three(&path);

    let served = serve(&Store::open(&path).unwrap());
    for list in ["operations", "operations?state=any"] {
        let page = served.get(list);
        let rows: Vec<String> = page.rows().into_iter().skip(1).map(|row| row[0].to_owned()).collect();
        assert_eq!(rows.len(), 3, "{list}: {rows:?}");
        assert!(rows.iter().filter(|row| row.contains("key after") || row.contains("key before")).count() == 2);
        assert!(rows[1].contains("does not match its record"), "{list}: {rows:?}");
    }
    let got = served.get_as("writer", &link("operation", &key("damaged"), &[]));
    assert_eq!(got.status, StatusCode::INTERNAL_SERVER_ERROR);
    let text = got.document().text().to_owned();
    assert!(text.contains("The file is damaged") && text.contains("restore"), "{text}");
}

#[test]
fn p10_a_page_full_of_damaged_records_leads_on_to_what_stands_behind() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("damaged.reentry");
    let store = Store::open(&path).unwrap();
    for nth in 0..120 {
        drop(run_of(store.claim(&key(&format!("{nth}")), Request::of(vec![0; 2000])).wait().unwrap()));
    }
    drop(run(&store, &key("whole")));
    store.close().unwrap();
    damage_payloads(&path);
    let served = serve(&Store::open(&path).unwrap());
    let (mut next, mut rows) = (Some("operations".to_owned()), Vec::new());
    while let Some(link) = next {
        assert!(rows.len() < 122, "it goes round");
        let page = served.get(&link);
        rows.extend(page.rows().into_iter().skip(1).map(|row| row[0].to_owned()));
        let link = page.all("a").find(|link| link.attribute("rel") == Some("next"));
        next = link.map(|link| link.attribute("href").unwrap().to_owned());
    }
    assert_eq!(rows.iter().filter(|row| row.contains("does not match its record")).count(), 120);
    assert!(rows.len() == 121 && rows[120].contains("key whole"), "{:?}", rows.last());
}

#[test]
fn p10_a_full_disk_is_told_nothing_is_done_and_it_is_done_when_there_is_room() {
    let disk = SimulatedDisk::new();
    let store = Store::builder().attempts_max(ATTEMPTS_MAX).open_on(&disk).unwrap();
    in_doubt(&store, &key("k"), "charge");
    let served = serve(&store);
    disk.set_room(Some(disk.image().len() as u64));
    let (resolve, result) = (link("resolve", &key("k"), &[("step", "charge")]), "x".repeat(900_000));
    let answer = [("happened", "yes"), ("form", "text"), ("note", "why"), ("result", &*result)];
    let got = served.act(&resolve, &answer);
    assert_eq!(got.status, StatusCode::SERVICE_UNAVAILABLE);
    let text = got.document().text().to_owned();
    assert!(text.contains("The disk is full") && text.contains("Make room on the disk"), "{text}");
    served.get("operations");
    let overview = served.get("overview").text().to_owned();
    assert!(overview.contains("changes are refused, replays go on. Nothing was changed. Make room"), "{overview}");
    disk.set_room(None);
    super::support::until("the store mends itself", || served.act(&resolve, &answer).status == StatusCode::SEE_OTHER);
}

#[test]
fn p10_a_store_that_has_stopped_says_what_to_do_next() {
    let disk = SimulatedDisk::new();
    let store = Store::builder().attempts_max(ATTEMPTS_MAX).open_on(&disk).unwrap();
    stuck(&store, &key("k"));
    in_doubt(&store, &key("doubt"), "charge");
    let served = serve(&store);
    disk.fail([broken(&[DiskCall::Sync])]);
    let release = link("release", &key("k"), &[]);
    let unknown = served.act(&release, &[]);
    assert_eq!(unknown.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(unknown.document().text().contains("Not known whether it was done"), "{}", unknown.document().text());
    let stopped = served.act(&release, &[]);
    assert_eq!(stopped.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(stopped.document().text().contains("Restart the server"), "{}", stopped.document().text());
    let overview = served.get("overview").text().to_owned();
    assert!(overview.contains("The store has stopped: it changes nothing any more. Restart the server"), "{overview}");
    assert!(overview.contains("1 fault of the store or its disk, the last at "), "{overview}");
}

#[test]
fn a_store_that_is_closed_says_so_on_every_page() {
    let store = Store::builder().in_memory().unwrap();
    let served = serve(&store);
    store.close().unwrap();
    assert!(served.get("overview").text().contains("The store is closed."), "{}", served.get("overview").text());
    let closed = served.get_as("writer", "operations");
    assert_eq!(closed.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(closed.document().text().contains("The store is closed"), "{}", closed.document().text());
}
