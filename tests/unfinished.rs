//! What nobody finished: listed oldest first in pages, by scope and age, without reading anything else; and the request
//! that it carries for whoever finishes it.

mod support;

#[cfg(target_os = "linux")]
use std::fs;
use std::time::Duration;

use reentry::{
    Bincode, Claim, Error, ErrorKind, Fingerprint, Key, Loss, ManualClock, Payload, Position, Progress, Request, Run,
    SimulatedDisk, State, Store,
};
use support::{Dice, START, keep_one_damaged_of_three, key, request, run, run_of};

const SECOND: Duration = Duration::from_secs(1);
const RETENTION: Duration = Duration::from_secs(3600);

fn name(progress: &Progress) -> String {
    progress.key().key().to_owned()
}

fn names(found: impl Iterator<Item = reentry::Result<Progress>>) -> Vec<String> {
    found.map(|progress| name(&progress.unwrap())).collect()
}

fn numbered(numbers: impl Iterator<Item = u32>) -> Vec<String> {
    numbers.map(|nth| nth.to_string()).collect()
}

fn leave(store: &Store, name: &str) {
    drop(run(store, &key(name)));
}

/// All of the list, a page at a time, each from the number that the last one handed out.
fn paged(store: &Store, page: usize) -> Vec<String> {
    let (mut all, mut link) = (Vec::new(), 0);
    loop {
        let found: Vec<_> = store.unfinished().after(Position::from_number(link)).take(page).collect();
        let Some(Ok(last)) = found.last() else { return all };
        link = last.position().get();
        all.extend(found.into_iter().map(|progress| name(&progress.unwrap())));
    }
}

#[test]
fn p6_pages_of_any_size_come_to_the_whole_list_oldest_first() {
    // More than is read at a time, 256.
    let store = Store::builder().in_memory().unwrap();
    (0..600).for_each(|nth| leave(&store, &nth.to_string()));
    let all = numbered(0..600);
    assert_eq!(names(store.unfinished()), all);
    for page in [1, 7, 255, 256, 257, 512, 600, 1000] {
        assert_eq!(paged(&store, page), all, "pages of {page}");
    }
    assert_eq!(names(store.unfinished().after(Position::from_number(u64::MAX))), [""; 0]);
    store.verify().unwrap();
}

#[test]
fn p6_a_list_goes_on_while_what_it_lists_comes_and_goes() {
    let store = Store::builder().in_memory().unwrap();
    (0..600).for_each(|nth| leave(&store, &nth.to_string()));
    let mut list = store.unfinished();
    assert_eq!(names(list.by_ref().take(256)), numbered(0..256));
    // All on pages that are not read yet, but for the first.
    for finished in ["3", "300", "599"] {
        run(&store, &key(finished)).complete(&()).wait().unwrap();
    }
    assert!(store.forget(&key("400")).wait().unwrap());
    run(&store, &key("500")).advance("moved", &()).wait().unwrap();
    leave(&store, "new");
    let gone = [300, 400, 599];
    let rest: Vec<_> = (256..600).filter(|nth| !gone.contains(nth)).map(|nth: u32| nth.to_string()).collect();
    assert_eq!(names(list), [&rest[..], &["new".to_owned()]].concat());
    store.verify().unwrap();
}

/// Moves it in every way that there is.
fn stir(store: &Store, key: &Key, dice: &mut Dice) {
    let mut run = run(store, key);
    match dice.below(4) {
        0 => drop(run.advance("moved", &vec![0_u8; dice.below(3000)]).wait().unwrap()),
        1 => {
            let name = dice.roll().to_string();
            run.step(&name).run_keyed(|_| Ok::<_, Error>(())).unwrap();
            run.advance("stepped", &()).wait().unwrap();
        }
        2 => {
            let name = dice.roll().to_string();
            run.step(&name).run_at_most_once(|_| Err::<(), _>(std::io::Error::other("lost"))).unwrap_err();
        }
        _ => drop(store.release_stuck(key).wait().unwrap()),
    }
}

#[test]
fn p6_order_and_positions_outlast_moves_retention_and_restarts() {
    let (mut disk, clock, mut dice) = (SimulatedDisk::new(), ManualClock::at(START), Dice::new(7));
    let open = |disk: &SimulatedDisk| Store::builder().clock(clock.clone()).retention(RETENTION).open_on(disk).unwrap();
    let mut store = open(&disk);
    (0..20).for_each(|nth| leave(&store, &nth.to_string()));
    let position = |store: &Store, nth: u32| store.progress(&key(&nth.to_string())).unwrap().unwrap().position();
    let positions: Vec<_> = (0..20).map(|nth| position(&store, nth)).collect();
    for restart in 0..6 {
        for _ in 0..40 {
            stir(&store, &key(&dice.below(20).to_string()), &mut dice);
        }
        // What ended for this long ago goes from the head, and what is unfinished stays where it is.
        clock.advance(RETENTION);
        run(&store, &key("passing")).complete(&()).wait().unwrap();
        assert_eq!(names(store.unfinished()), numbered(0..20));
        if restart % 2 == 0 {
            store.close().unwrap();
            disk = SimulatedDisk::from_image(disk.image());
        } else {
            disk = disk.cut(disk.calls(), |_| Loss::Lost);
        }
        store = open(&disk);
        assert_eq!(names(store.unfinished()), numbered(0..20));
        assert_eq!((0..20).map(|nth| position(&store, nth)).collect::<Vec<_>>(), positions);
        assert_eq!(names(store.unfinished().after(positions[11])), numbered(12..20));
    }
    store.verify().unwrap();
}

#[test]
fn p9_only_one_scope_is_listed_where_one_is_asked_for() {
    let store = Store::builder().in_memory().unwrap();
    let scopes = ["a", "b", "ab", "A"];
    for nth in 0..400 {
        let key = Key::new(scopes[nth % 4], nth.to_string()).unwrap();
        drop(run(&store, &key));
    }
    for (at, scope) in scopes.into_iter().enumerate() {
        let found: Vec<_> = store.unfinished().of_scope(scope).map(Result::unwrap).collect();
        assert!(found.iter().all(|progress| progress.key().scope() == scope));
        let expected: Vec<_> = (at..400).step_by(4).map(|nth| nth.to_string()).collect();
        assert_eq!(found.iter().map(name).collect::<Vec<_>>(), expected);
        let behind = store.unfinished().of_scope(scope).after(found[60].position());
        assert_eq!(names(behind), expected[61..]);
    }
    assert_eq!(store.unfinished().of_scope("").count() + store.unfinished().of_scope("c").count(), 0);
    store.verify().unwrap();
}

#[test]
fn p11_what_is_exactly_as_old_is_old_enough() {
    let clock = ManualClock::at(START);
    let store = Store::builder().clock(clock.clone()).in_memory().unwrap();
    leave(&store, "first");
    clock.advance(SECOND);
    leave(&store, "second");
    clock.advance(Duration::from_millis(9_999));
    let older = |age| names(store.unfinished().older_than(age));
    // Entering it again does not make it younger.
    run(&store, &key("first")).advance("moved", &()).wait().unwrap();
    assert_eq!(older(10 * SECOND), ["first"]);
    assert_eq!(older(11 * SECOND), [""; 0]);
    clock.advance(Duration::from_millis(1));
    assert_eq!(older(11 * SECOND), ["first"]);
    assert_eq!(older(11 * SECOND + Duration::from_millis(1)), [""; 0]);
    assert_eq!(older(10 * SECOND), ["first", "second"]);
    assert_eq!(older(Duration::ZERO), ["first", "second"]);
    assert_eq!(older(Duration::MAX), [""; 0]);
    // The wall clock's jumps count for nothing.
    clock.set_wall(START + 1_000_000 * SECOND);
    assert_eq!(older(11 * SECOND), ["first"]);
    store.verify().unwrap();
}

#[test]
fn scope_age_and_position_narrow_the_list_together() {
    let clock = ManualClock::at(START);
    let store = Store::builder().clock(clock.clone()).in_memory().unwrap();
    for nth in 0..600 {
        let scope = if nth % 2 == 0 { "even" } else { "odd" };
        drop(run(&store, &Key::new(scope, nth.to_string()).unwrap()));
        clock.advance(SECOND);
    }
    // The last was claimed a second ago, so number n is 600 - n seconds old.
    let odd = || store.unfinished().of_scope("odd").older_than(99 * SECOND);
    let expected: Vec<_> = (1..=501).step_by(2).map(|nth: u32| nth.to_string()).collect();
    assert_eq!(names(odd()), expected);
    let behind = store.progress(&Key::new("even", "300").unwrap()).unwrap().unwrap().position();
    assert_eq!(names(odd().after(behind)), expected[150..]);
    assert_eq!(names(store.unfinished().after(behind).older_than(99 * SECOND).of_scope("odd")), expected[150..]);
    store.verify().unwrap();
}

/// Else whoever pages by where the list stands would be given the same rows to leave out again and again.
#[test]
fn p6_a_list_stands_behind_what_it_left_out_too() {
    let clock = ManualClock::at(START);
    let store = Store::builder().clock(clock.clone()).in_memory().unwrap();
    leave(&store, "old");
    clock.advance(10 * SECOND);
    // More than is read at a time, 256.
    for nth in 0..300 {
        drop(run(&store, &Key::new("others", nth.to_string()).unwrap()));
    }
    let position = |key: &Key| store.progress(key).unwrap().unwrap().position();
    let (first, last) = (position(&key("old")), position(&Key::new("others", "299").unwrap()));
    for mut list in [store.unfinished().of_scope("scope"), store.unfinished().older_than(10 * SECOND)] {
        assert_eq!(name(&list.next().unwrap().unwrap()), "old");
        assert_eq!(list.position(), first, "it has looked at nothing behind what it gave");
        assert!(list.next().is_none());
        assert_eq!(list.position(), last, "it has looked at all");
        assert!(list.next().is_none());
    }
    let unfound = |mut list: reentry::Unfinished| (list.by_ref().count(), list.position());
    assert_eq!(unfound(store.unfinished().of_scope("nobody's")), (0, last));
    assert_eq!(unfound(store.unfinished().older_than(11 * SECOND)), (0, last));
    leave(&store, "new");
    assert_eq!(names(store.unfinished().of_scope("scope").after(last)), ["new"]);
    store.verify().unwrap();
}

#[test]
fn p3_the_list_tells_how_far_each_got_and_who_is_at_work() {
    let store = Store::builder().attempts_max(2).in_memory().unwrap();
    leave(&store, "free");
    let owned = run(&store, &key("owned"));
    leave(&store, "stuck");
    let mut stuck = run(&store, &key("stuck"));
    stuck.advance("paid", &b"receipt".to_vec()).wait().unwrap();
    stuck.step("mail").run_at_most_once(|_| Err::<(), _>(std::io::Error::other("lost"))).unwrap_err();
    drop(stuck);
    run(&store, &key("done")).complete(&()).wait().unwrap();
    run(&store, &key("failed")).fail(&()).wait().unwrap();
    let found: Vec<_> = store.unfinished().map(Result::unwrap).collect();
    let listed: Vec<_> = found.iter().map(|progress| (name(progress), progress.state(), progress.attempt())).collect();
    let expected = [("free", State::Unfinished, 1), ("owned", State::Owned, 1), ("stuck", State::Stuck, 2)];
    assert_eq!(listed, expected.map(|(name, state, attempt)| (name.to_owned(), state, attempt)));
    let checkpoint = found[2].checkpoint().unwrap();
    assert_eq!((checkpoint.name(), checkpoint.bytes()), ("paid", &b"receipt"[..]));
    assert_eq!(found[2].in_doubt().map(reentry::Step::name).collect::<Vec<_>>(), ["mail"]);
    let stats = store.stats().unwrap();
    assert_eq!((stats.unfinished, stats.stuck, stats.in_doubt, stats.owned), (3, 1, 1, 1));
    drop(owned);
    store.verify().unwrap();
}

#[test]
fn p10_a_damaged_record_is_an_error_in_its_place_and_the_next_ones_follow() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("damaged.reentry");
    keep_one_damaged_of_three(&path);

    let store = Store::open(&path).unwrap();
    let found: Vec<_> = store.unfinished().map(|found| found.map(|p| name(&p)).map_err(|e| e.kind())).collect();
    assert_eq!(found, [Ok("before".to_owned()), Err(ErrorKind::Corrupt), Ok("after".to_owned())]);
}

#[test]
fn a_closed_store_says_so_even_where_nothing_is_unfinished() {
    let store = Store::builder().in_memory().unwrap();
    store.close().unwrap();
    let found: Vec<_> = store.unfinished().map(|found| found.unwrap_err().kind()).collect();
    assert_eq!(found, [ErrorKind::Closed]);
}

/// Bytes that the calling thread has read from files, by the system's own account.
#[cfg(target_os = "linux")]
fn bytes_read() -> u64 {
    let account = fs::read_to_string("/proc/thread-self/io").unwrap();
    account.lines().find_map(|line| line.strip_prefix("rchar: ")).unwrap().parse().unwrap()
}

/// The store reads on the thread that drives the list, and keeps next to nothing in memory here. 50,000 are completed;
/// `REENTRY_UNFINISHED_FULL=1` makes it 200,000, and lets the same be read.
#[cfg(target_os = "linux")]
#[test]
fn what_is_completed_is_not_read_to_list_what_is_not() {
    const BATCHES: u32 = 20;
    const UNFINISHED: usize = 10;
    let size = if std::env::var_os("REENTRY_UNFINISHED_FULL").is_some() { 10_000 } else { 2_500 };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("large.reentry");
    let store = Store::open(&path).unwrap();
    let mut left = Vec::new();
    for batch in 0..BATCHES {
        let claims = (0..size).map(|nth| store.claim(&key(&(batch * size + nth).to_string()), request()));
        let claims: Vec<_> = claims.collect();
        if batch % 2 == 0 {
            leave(&store, &format!("left {batch}"));
            left.push(format!("left {batch}"));
        }
        let ends = claims.into_iter().map(|claim| run_of(claim.wait().unwrap()).complete(&()));
        let ends: Vec<_> = ends.collect();
        for end in ends {
            end.wait().unwrap();
        }
    }
    store.close().unwrap();
    let store = Store::builder().cache_bytes(64 * 1024).open(&path).unwrap();
    assert_eq!((left.len(), store.stats().unwrap().unfinished), (UNFINISHED, UNFINISHED as u64));
    let before = bytes_read();
    assert_eq!(names(store.unfinished()), left);
    let read = bytes_read() - before;
    // A walk down the tree for each, of pages of 4 KiB; all of the file would be far more.
    let most = UNFINISHED as u64 * 16 * 4096;
    assert!(read <= most, "it read {read} bytes, where {most} are plenty");
    assert!(store.stats().unwrap().disk_bytes > 10 * most);
    store.verify().unwrap();
}

const REQUEST_BYTES_MAX: usize = 4096;

fn small_requests(disk: &SimulatedDisk) -> Store {
    Store::builder().payload_bytes_max(REQUEST_BYTES_MAX).open_on(disk).unwrap()
}

fn payload_rows(store: &Store) -> u64 {
    store.verify().unwrap().payload_rows
}

fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|at| u8::try_from(at % 251).unwrap()).collect()
}

#[test]
fn p3_a_request_of_any_allowed_size_is_there_for_whoever_finishes_it() {
    // Up to 1,024 bytes stand in the record itself.
    for (len, rows) in [(0, 0), (1, 0), (1024, 0), (1025, 1), (REQUEST_BYTES_MAX, 1)] {
        let disk = SimulatedDisk::new();
        let store = small_requests(&disk);
        let carried = bytes(len);
        let first = run_of(store.claim(&key("x"), Request::of(&carried)).wait().unwrap());
        assert_eq!(first.request(), Some(&carried[..]));
        drop(first);
        assert_eq!(payload_rows(&store), rows, "{len} bytes");
        let store = small_requests(&disk.cut(disk.calls(), |_| Loss::Lost));
        let listed = store.unfinished().next().unwrap().unwrap();
        assert_eq!(listed.request(), Some(&carried[..]));
        assert_eq!(listed.fingerprint(), Fingerprint::of(&carried));
        let mut again = run_of(store.claim_unfinished(&key("x")).wait().unwrap());
        assert_eq!((again.attempt(), again.request()), (2, Some(&carried[..])));
        assert_eq!(again.decode_request::<Vec<u8>>().unwrap(), Some(carried.clone()));
        again.advance("moved", &()).wait().unwrap();
        assert_eq!((again.request(), payload_rows(&store)), (Some(&carried[..]), rows), "moves leave it alone");
        again.complete(&()).wait().unwrap();
        let over = store.progress(&key("x")).unwrap().unwrap();
        assert_eq!((over.state(), over.request(), payload_rows(&store)), (State::Succeeded, None, 0));
    }
}

#[test]
fn a_request_over_the_limit_is_refused_and_nothing_is_claimed() {
    let store = small_requests(&SimulatedDisk::new());
    for request in [
        Request::of(bytes(REQUEST_BYTES_MAX + 1)),
        Request::from(request()).keep(&bytes(REQUEST_BYTES_MAX + 1)),
        Request::of(bytes(REQUEST_BYTES_MAX + 1)).deferred(),
    ] {
        let refused = store.claim(&key("x"), request).wait().unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::PayloadTooLarge);
        assert!(store.progress(&key("x")).unwrap().is_none());
    }
    assert_eq!((store.unfinished().count(), payload_rows(&store)), (0, 0));
    assert_eq!(run_of(store.claim(&key("x"), Request::of(bytes(REQUEST_BYTES_MAX))).wait().unwrap()).attempt(), 1);
    store.verify().unwrap();
}

#[test]
fn a_request_that_does_not_encode_is_refused_and_one_that_does_not_decode_is_kept() {
    struct Unspeakable;
    impl Payload for Unspeakable {
        fn encode(&self) -> reentry::Result<Vec<u8>> {
            Bincode::<u64>::decode(b"").map(|_| Vec::new())
        }
        fn decode(_: &[u8]) -> reentry::Result<Self> {
            Ok(Self)
        }
    }
    let store = Store::builder().in_memory().unwrap();
    let refused = store.claim(&key("x"), Request::from(request()).keep(&Unspeakable)).wait().unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Codec);
    assert!(store.progress(&key("x")).unwrap().is_none());
    let run = run_of(store.claim(&key("x"), Request::of("two pizzas")).wait().unwrap());
    assert_eq!(run.decode_request::<Bincode<u64>>().unwrap_err().kind(), ErrorKind::Codec);
    assert_eq!(run.decode_request::<String>().unwrap().unwrap(), "two pizzas");
    drop(run);
    store.verify().unwrap();
}

#[test]
fn p5_the_request_that_began_it_stays_whatever_later_claims_carry() {
    let store = Store::builder().in_memory().unwrap();
    let with = |bytes: Vec<u8>| Request::from(request()).keep(&bytes);
    let seen = |run: &Run| run.request().map(<[u8]>::len);
    assert_eq!(seen(&run_of(store.claim(&key("x"), with(bytes(2000))).wait().unwrap())), Some(2000));
    assert_eq!(seen(&run_of(store.claim(&key("x"), with(bytes(3000))).wait().unwrap())), Some(2000));
    assert_eq!(seen(&run(&store, &key("x"))), Some(2000));
    assert_eq!(seen(&run(&store, &key("without"))), None);
    assert_eq!(seen(&run_of(store.claim(&key("without"), with(bytes(2000))).wait().unwrap())), None);
    // The fingerprint decides, whatever the bytes are.
    let other = Request::of(bytes(2000));
    assert!(matches!(store.claim(&key("x"), other).wait().unwrap(), Claim::Reject(_)));
    assert_eq!(payload_rows(&store), 1);
}

#[test]
fn p6_no_end_leaves_a_request_behind() {
    let store = Store::builder().in_memory().unwrap();
    let carrying = |name: &str| run_of(store.claim(&key(name), Request::of(bytes(2000))).wait().unwrap());
    let mut runs = ["completed", "failed", "with rows", "forgotten"].map(carrying).into_iter();
    assert_eq!(payload_rows(&store), 4);
    runs.next().unwrap().complete(&()).wait().unwrap();
    runs.next().unwrap().fail(&()).wait().unwrap();
    runs.next().unwrap().complete_with(&(), |_| Ok(())).wait().unwrap();
    assert_eq!(payload_rows(&store), 1);
    drop(runs);
    assert!(store.forget(&key("forgotten")).wait().unwrap());
    assert_eq!(payload_rows(&store), 0);
    // A deferred claim keeps it from its first step on.
    let mut deferred = run_of(store.claim(&key("deferred"), Request::of(bytes(2000)).deferred()).wait().unwrap());
    assert_eq!((deferred.request().unwrap().len(), payload_rows(&store)), (2000, 0));
    deferred.step("charge").run_keyed(|_| Ok::<_, Error>(())).unwrap();
    assert_eq!(payload_rows(&store), 1);
    drop(deferred);
    let again = run_of(store.claim_unfinished(&key("deferred")).wait().unwrap());
    assert_eq!(again.request().unwrap(), bytes(2000));
    again.complete(&()).wait().unwrap();
    assert_eq!(payload_rows(&store), 0);
}

/// What is read ahead is bounded by its bytes too, and the next page goes on behind it.
#[cfg(target_os = "linux")]
#[test]
fn large_payloads_are_read_a_few_at_a_time_and_listed_once_each() {
    const MIB: usize = 1024 * 1024;
    let folder = tempfile::tempdir().unwrap();
    let store = Store::builder().cache_bytes(0).open(folder.path().join("large.reentry")).unwrap();
    let names: Vec<String> = (0..16).map(|nth| format!("large-{nth:02}")).collect();
    for name in &names {
        drop(run_of(store.claim(&key(name), Request::of(vec![7; MIB])).wait().unwrap()));
    }
    let before = bytes_read();
    let mut list = store.unfinished();
    assert_eq!(name(&list.next().unwrap().unwrap()), names[0]);
    let read = bytes_read() - before;
    assert!(read < 10 * MIB as u64, "{read} bytes were read for one operation of 1 MiB");
    let others: Vec<String> = list.map(|found| name(&found.unwrap())).collect();
    assert_eq!(others, names[1..]);
}
