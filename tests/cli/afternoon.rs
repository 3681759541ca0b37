//! An operator's afternoon: a damaged, a stuck, a full and a huge store, each diagnosed and mended with this tool
//! alone.

use std::fmt::Write;
use std::fs;
use std::process::Command;

use reentry::{Claim, Key, Store};

use super::support::{key, request, run, run_of};
use super::tool::{HOUR, NEW_YEAR_2100, Place, shop};

const STORE: &str = "orders.reentry";

const MARK: &[u8] = b"what one operation came to";

/// A store of some hundred operations, one of which can be found in the file.
fn large_shop() -> Place {
    Place::new(|store, clock| {
        shop(store, clock);
        let claims: Vec<_> = (0..300).map(|nth| store.claim(&key(&format!("{nth:04}")), request())).collect();
        for (nth, claim) in claims.into_iter().enumerate() {
            let run = run_of(claim.wait().unwrap());
            if nth == 150 {
                run.complete(&MARK.to_vec()).wait().unwrap();
            }
        }
    })
}

/// Damages one row of the store.
fn damage(place: &Place) {
    let mut image = place.image();
    let at: Vec<_> = (0..image.len()).filter(|at| image[*at..].starts_with(MARK)).collect();
    for at in at {
        image[at] ^= 1;
    }
    fs::write(place.store(), image).unwrap();
}

#[test]
fn a_damaged_store_is_told_by_its_rows_and_what_is_left_makes_a_new_one() {
    let place = large_shop();
    place.ok(&["backup", STORE, "monday.reentry"]);
    damage(&place);
    let before = place.state();
    // What is wrong?
    for command in ["stat", "ls", "verify", "export"] {
        let told = place.run(&[command, STORE]);
        assert_eq!((told.status, &*told.out.replace("{\"reentry_export\":1}\n", "")), (1, ""), "{told:?}");
        assert!(told.err.contains("orders.reentry: ") && told.err.contains("--skip-damaged"), "{told:?}");
    }
    let verified = place.run(&["verify", STORE]);
    assert!(verified.err.contains(" of table reentry/log"), "{verified:?}");
    place.snapshot("damaged_verify", &["verify", STORE]);
    let backup = place.run(&["backup", STORE, "bad.reentry"]);
    assert!(backup.status == 1 && !place.path("bad.reentry").exists(), "{backup:?}");
    // What is left?
    let listed = place.run(&["ls", STORE, "--skip-damaged"]);
    assert_eq!((listed.status, listed.out.lines().count()), (1, 1 + 305), "{}", listed.err);
    assert!(listed.err.contains("1 damaged row"), "{}", listed.err);
    assert!(!listed.out.contains("0150") && listed.out.contains("0151"));
    let missing = place.run(&["show", STORE, "scope", "0150", "--skip-damaged"]);
    assert!(missing.status == 1 && missing.err.contains("it may have been in what is damaged"), "{missing:?}");
    assert!(missing.out.is_empty() && missing.err.contains(" of table reentry/log"), "{missing:?}");
    for json in [&[][..], &["--json"]] {
        // Whoever looks at one of what is left hears too that it is not all.
        let shown = place.run(&[&["show", STORE, "scope", "0151", "--skip-damaged"], json].concat());
        assert!(shown.status == 1 && shown.out.contains("unfinished"), "{shown:?}");
        assert!(shown.err.contains(" of table reentry/log") && shown.err.contains("1 damaged row"), "{shown:?}");
        let stat = place.run(&[&["stat", STORE, "--skip-damaged"], json].concat());
        assert!(stat.status == 1 && stat.out.contains("operations"), "{stat:?}");
        assert!(stat.err.contains(" of table reentry/log") && stat.err.contains("1 damaged row"), "{stat:?}");
    }
    let listed = place.run(&["ls", STORE, "--skip-damaged", "--scope", "mails", "--state", "stuck"]);
    assert!(
        listed.status == 1 && listed.out.lines().count() == 2 && listed.err.contains("1 damaged row"),
        "{listed:?}"
    );
    // A list that ends early looks no further.
    let first = place.run(&["ls", STORE, "--skip-damaged", "--oldest-first", "--limit", "1"]);
    assert_eq!((first.status, first.out.lines().count(), &*first.err), (0, 2, ""));
    let rescued = place.run(&["export", STORE, "rescued.jsonl", "--skip-damaged"]);
    assert_eq!((rescued.status, rescued.out.contains("305 operations")), (1, true), "{rescued:?}");
    assert!(place.state() == before, "the damaged file changed");
    // Either the copy is put in its place, or a new store is made of what is left.
    assert!(place.ok(&["verify", "monday.reentry"]).contains("306 operations"));
    place.ok(&["import", "mended.reentry", "rescued.jsonl"]);
    assert!(place.ok(&["verify", "mended.reentry"]).contains("305 operations"));
    // What is whole has nothing to be passed over.
    place.ok(&["show", "mended.reentry", "scope", "0151", "--skip-damaged"]);
    place.ok(&["stat", "mended.reentry", "--skip-damaged"]);
    let unknown = place.run(&["show", "mended.reentry", "scope", "0150", "--skip-damaged"]);
    assert!(unknown.status == 1 && !unknown.err.contains("damaged"), "{unknown:?}");
    let store = Store::open(place.path("mended.reentry")).unwrap();
    assert!(matches!(store.claim(&key("0151"), request()).wait().unwrap(), Claim::Run(run) if run.attempt() == 2));
}

#[test]
fn a_store_with_a_page_that_is_gone_gives_all_that_stands_on_the_others() {
    let place = large_shop();
    let image = place.image();
    // A leaf of the log, and no page that only holds what is left of an older one.
    let leaves = (1..image.len() / 4096).rev().filter(|page| image[page * 4096] == 1);
    let (verified, rescued) = leaves
        .map(|page| {
            let mut damaged = image.clone();
            // All of it, but that redb with its debug assertions looks at every page's first byte, and gives up.
            let first = if cfg!(debug_assertions) { 2 } else { 0 };
            damaged[page * 4096..][first..4096].fill(0x5A);
            fs::write(place.store(), damaged).unwrap();
            drop(fs::remove_file(place.path("rescued.jsonl")));
            (place.run(&["verify", STORE]), place.run(&["export", STORE, "rescued.jsonl", "--skip-damaged"]))
        })
        .find(|(_, rescued)| rescued.err.contains("rows ") && !rescued.out.is_empty())
        .unwrap();
    assert!(verified.status == 1 && verified.err.contains("rows ") && verified.err.contains("cannot"), "{verified:?}");
    assert_eq!(rescued.status, 1);
    assert_eq!(place.run(&["stat", STORE]).status, 1);
    let told = place.ok(&["import", "mended.reentry", "rescued.jsonl"]);
    let taken_in: usize = told.split(' ').next().unwrap().parse().unwrap();
    assert!((200..306).contains(&taken_in), "{told}");
    place.ok(&["verify", "mended.reentry"]);
}

#[test]
fn a_store_whose_tables_cannot_be_found_is_told_to_be_beyond_this_tool() {
    let place = Place::new(shop);
    let mut image = place.image();
    // The header's slots, which lead to everything.
    let head = super::support::head_bytes(&image);
    image[head..][64..320].fill(0x5A);
    fs::write(place.store(), &image).unwrap();
    for args in [&["verify", STORE][..], &["ls", STORE, "--skip-damaged"], &["export", STORE, "--skip-damaged"]] {
        let told = place.run(args);
        assert!(told.status == 1 && told.out.is_empty() && told.err.contains("damaged"), "{told:?}");
        assert!(told.err.contains("nothing of it is left: restore a copy") && !told.err.contains('`'), "{told:?}");
    }
    assert!(place.image() == image);
}

/// Whoever makes a new store of what is left must know what it lacks: once, an operation whose payload stood on a
/// damaged page was left out of it without a word, and with status 0.
#[test]
fn an_operation_that_lost_its_payload_is_told_by_whoever_passes_over_it_and_costs_no_other() {
    let place = Place::new(|store, _| {
        for nth in 0..12 {
            run(store, &key(&nth.to_string())).complete(&vec![nth; 1_500]).wait().unwrap();
        }
    });
    let image = place.image();
    let mut lost = 0;
    let leaves = (1..image.len() / 4096).filter(|page| image[page * 4096] == 1);
    // All of a page, and where its first values end: redb panics as it reads them.
    for (page, part) in leaves.flat_map(|page| [(page, 2..4096), (page, 4..12)]) {
        let mut damaged = image.clone();
        damaged[page * 4096..][part].fill(0xFF);
        fs::write(place.store(), damaged).unwrap();
        drop(fs::remove_file(place.path("rescued.jsonl")));
        let rescued = place.run(&["export", STORE, "rescued.jsonl", "--skip-damaged"]);
        let Some(whole) = rescued.out.split(' ').next().and_then(|count| count.parse::<u64>().ok()) else { continue };
        // What says which entries of the journal count is on a page as well.
        let is_told = whole < 12 || rescued.err.contains("the journal cannot be read");
        assert_eq!(rescued.status, i32::from(is_told), "page {page}: {rescued:?}");
        let listed = place.run(&["ls", STORE, "--skip-damaged"]);
        assert_eq!((listed.out.lines().count() as u64, listed.status), (1 + whole, rescued.status), "page {page}");
        let verified = place.run(&["verify", STORE]);
        let told = format!("reentry: {whole} operations can be read; ");
        assert!(whole == 12 || verified.err.contains(&told), "page {page}: {whole}, {verified:?}");
        assert!(is_told || !verified.err.contains("rows"), "page {page}: {verified:?}");
        if (8..12).contains(&whole) && !listed.err.contains("reentry: rows ") {
            // Each by its own row, where it is not the rows themselves that are lost.
            let told = listed.err.lines().filter(|line| line.starts_with("reentry: row ")).count() as u64;
            assert_eq!(told, 12 - whole, "page {page}: {listed:?}");
            lost += 1;
        }
    }
    assert!(lost > 3, "only {lost} pages of payloads were damaged");
}

#[test]
fn what_is_stuck_or_in_doubt_is_found_looked_at_and_set_going() {
    let place = Place::new(shop);
    let figure = |name: &str| {
        let told: serde_json::Value = serde_json::from_str(&place.ok(&["stat", STORE, "--json"])).unwrap();
        told[name].as_u64().unwrap()
    };
    assert_eq!((figure("unfinished"), figure("stuck"), figure("in_doubt")), (3, 1, 1));
    // Which, how far, and what would the other side know it by?
    assert!(place.ok(&["ls", STORE, "--state", "stuck"]).contains("mails             order-1"));
    assert!(place.ok(&["ls", STORE, "--in-doubt"]).contains("in doubt: mail"));
    let shown = place.ok(&["show", STORE, "checkout/ada", "order-3"]);
    assert!(shown.contains("effect id 137e70ba-2f78-826b-8660-b9c34c982de0"), "{shown}");
    place.ok(&["release", STORE, "mails", "order-1", "--yes"]);
    let resolve = ["resolve", STORE, "checkout/ada", "order-3", "mail", "--did-not-happen"];
    place.ok(&[&resolve[..], &["--note", "ada: the mailer has no such id", "--yes"]].concat());
    assert_eq!((figure("unfinished"), figure("stuck"), figure("in_doubt")), (3, 0, 0));
    // The server goes on with them.
    let store = place.builder().open(place.store()).unwrap();
    let key = Key::new("checkout/ada", "order-3").unwrap();
    let mut order = run_of(store.claim_unfinished(&key).wait().unwrap());
    let mut calls = 0;
    let mut send = || -> Result<(), reentry::Failure> {
        calls += 1;
        Ok(())
    };
    order.step("mail").run_at_most_once(|_| send()).unwrap();
    order.complete(&"receipt 3".to_owned()).wait().unwrap();
    store.close().unwrap();
    assert_eq!((calls, figure("unfinished")), (1, 2));
}

/// What is done on a disk that is full to its last page, in a mount of its own, so that nothing stays mounted.
const ON_A_FULL_DISK: &str = r#"
mount -t tmpfs -o size=4m none "$1" || exit 77
cp "$2" "$1/orders.reentry" && cd "$1" || exit 77
cat /dev/zero > ballast 2>/dev/null
step() { echo "== $*"; "$0" "$@" 2>&1; echo "== exit status $?"; }
step stat orders.reentry
step verify orders.reentry
step backup orders.reentry copy.reentry
step export orders.reentry copy.jsonl
echo "== left: $(echo *)"
step compact orders.reentry
step forget orders.reentry scope unwanted --yes
step backup orders.reentry copy.reentry
step verify copy.reentry
echo "== the end"
"#;

#[test]
fn on_a_full_disk_all_is_told_nothing_half_made_is_left_and_compacting_makes_room() {
    let place = Place::new(|store, clock| {
        for nth in 0..100 {
            run(store, &key(&nth.to_string())).complete(&vec![1_u8; 15_000]).wait().unwrap();
        }
        drop(run(store, &key("unwanted")));
        drop(run(store, &key("kept")));
        clock.advance(2_000 * HOUR);
    });
    let store = place.builder().open(place.store()).unwrap();
    while store.stats().unwrap().operations > 2 {
        store.forget(&key("nobody's")).wait().unwrap();
    }
    store.close().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new("unshare");
    command.args(["-rm", "sh", "-c", ON_A_FULL_DISK, env!("CARGO_BIN_EXE_reentry")]);
    let told = match command.arg(folder.path()).arg(place.store()).output() {
        Ok(output) if String::from_utf8_lossy(&output.stdout).contains("== the end") => output.stdout,
        other => return println!("skipped: nothing may be mounted here: {other:?}"),
    };
    let told = String::from_utf8(told).unwrap();
    let steps: Vec<_> = told.split("== ").filter(|part| !part.is_empty()).collect();
    let of = |nth: usize| (steps[nth * 2], steps[nth * 2 + 1].trim());
    assert!(of(0).0.contains("unfinished  2") && of(0).1 == "exit status 0", "{told}");
    assert_eq!(of(1).1, "exit status 0", "{told}");
    for copy in [of(2), of(3)] {
        assert!(copy.0.contains("No space left") && copy.1 == "exit status 1", "{told}");
    }
    assert_eq!(steps[8].trim(), "left: ballast orders.reentry", "{told}");
    let rest: Vec<_> = steps[9..].chunks(2).map(|step| (step[0], step.get(1).map(|status| status.trim()))).collect();
    assert!(rest[0].0.contains("bytes before"), "{told}");
    assert!(rest[..4].iter().all(|(_, status)| *status == Some("exit status 0")), "{told}");
    assert!(rest[3].0.contains("1 operations"), "{told}");
}

/// An export of so many operations, as a program may write one.
fn export_of(operations: u64) -> String {
    let mut lines = "{\"reentry_export\":1}\n".to_owned();
    let now = NEW_YEAR_2100.as_millis();
    for nth in 0..operations {
        let at = now + nth;
        let digest = blake3::hash(&nth.to_le_bytes()).to_hex();
        let (state, end) = match nth % 100 {
            0 => ("unfinished", String::new()),
            1 => ("failed", "\"ZmFpbGVk\"".to_owned()),
            _ => ("succeeded", "\"cmVjZWlwdA==\"".to_owned()),
        };
        write!(lines, "{{\"scope\":\"tenant-{}\",\"key\":\"order-{nth}\",", nth % 1_000).unwrap();
        write!(lines, "\"fingerprint\":{{\"blake3\":\"{digest}\"}},\"state\":\"{state}\",\"attempt\":1,").unwrap();
        write!(lines, "\"since\":{at},\"changed_at\":{at}").unwrap();
        if !end.is_empty() {
            let until = at + 86_400_000;
            write!(lines, ",\"ended_at\":{at},\"kept_until\":{until},\"known_until\":{until},\"outcome\":{end}")
                .unwrap();
        }
        lines.push_str("}\n");
    }
    let digest = blake3::hash(lines.as_bytes()).to_hex();
    writeln!(lines, "{{\"operations\":{operations},\"blake3\":\"{digest}\"}}").unwrap();
    lines
}

/// 20,000 operations; with `REENTRY_HUGE=1` a million, and how long each command took.
#[test]
fn a_huge_store_is_filled_counted_listed_checked_and_copied() {
    let is_huge = std::env::var_os("REENTRY_HUGE").is_some_and(|value| value == "1");
    let operations: u64 = if is_huge { 1_000_000 } else { 20_000 };
    let place = Place::new(|_, _| {});
    fs::write(place.path("import.jsonl"), export_of(operations)).unwrap();
    let timed = |args: &[&str]| {
        let began = std::time::Instant::now();
        let told = place.ok(args);
        if is_huge {
            println!("{}: {:?}", args[0], began.elapsed());
        }
        told
    };
    let told = timed(&["import", STORE, "import.jsonl"]);
    assert!(told.replace(',', "").starts_with(&format!("{operations} operations taken in")), "{told}");
    let stat: serde_json::Value = serde_json::from_str(&timed(&["stat", STORE, "--json"])).unwrap();
    assert_eq!((stat["operations"].as_u64(), stat["unfinished"].as_u64()), (Some(operations), Some(operations / 100)));
    assert_eq!(timed(&["ls", STORE, "--quick"]).lines().count() as u64, operations + 1);
    assert_eq!(timed(&["ls", STORE, "--state", "failed", "--json"]).lines().count() as u64, operations / 100);
    assert_eq!(timed(&["ls", STORE, "--scope", "tenant-7"]).lines().count() as u64, operations / 1_000 + 1);
    timed(&["show", STORE, "tenant-7", "order-1007"]);
    timed(&["verify", STORE]);
    timed(&["backup", STORE, "copy.reentry"]);
    timed(&["export", STORE, "export.jsonl"]);
    let lines = fs::read_to_string(place.path("export.jsonl")).unwrap();
    assert_eq!(lines.lines().count() as u64, operations + 2);
}
