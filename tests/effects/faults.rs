//! A disk that fails, or is full, from each of its calls on, under a server at work.

use reentry::{Claim, DiskCall, Error, ErrorKind, Fingerprint, Loss, SimulatedDisk};

use super::cuts::Tally;
use super::handler::Plan;
use super::losses::{Thoroughness, cut, ways};
use super::server::Server;
use super::support::{Dice, PATIENCE, broken, full};
use super::world::{Present, Situation};

/// How many calls it takes to create the store, which a disk that fails lets through; and how many of them take room.
const CREATED: usize = 2;
const CREATED_GROWS: usize = 1;

/// How many sizes of a full disk are tried, in pages.
const ROOMS: u64 = 40;

/// How many calls of these kinds the disk sees until the operation has its outcome.
fn calls(plan: Plan, kinds: &[DiskCall]) -> usize {
    let mut server = Server::new(plan, SimulatedDisk::new().with_journal(1), None);
    server.open().unwrap();
    server.finish().unwrap();
    server.disk.seen(kinds)
}

/// A server whose disk was made to fail, and what stopped it; none where nothing did.
fn stopped(plan: Plan, is_patient: bool, fail: impl FnOnce(&SimulatedDisk)) -> (Server, Option<Error>) {
    let mut server = Server::new(plan, SimulatedDisk::new().with_journal(1), None);
    fail(&server.disk);
    server.outside.be_patient(is_patient);
    let stopped = match server.open() {
        Ok(()) => server.finish(),
        refused => refused,
    };
    assert_eq!(stopped.is_ok(), server.outside.now().told.outcome.is_some(), "P2: {stopped:?}");
    (server, stopped.err())
}

/// The disk breaks at every call in turn. Nothing more is told after that, and after a restart all that was told is
/// there, whatever of the rest the disk kept.
pub(crate) fn break_everywhere(plan: Plan) -> Tally {
    let (mut tally, mut dice) = (Tally::default(), Dice::new(3));
    let how = Thoroughness { all_subsets_max: 2, subsets: 2, tears: 0 };
    for from in CREATED..calls(plan, DiskCall::CHANGES) {
        let broken = broken(DiskCall::CHANGES).after(from);
        let (mut server, error) = stopped(plan, false, |disk| disk.fail(Some(broken)));
        let Some(error) = error else { continue };
        tally.cuts += 1;
        let kinds = [ErrorKind::OutcomeUnknown, ErrorKind::Failed, ErrorKind::Io];
        assert!(kinds.contains(&error.kind()), "broken from call {from} on: {:?} {error}", error.kind());
        // A disk that is well again is no reason to go on: nobody knows what it dropped.
        server.disk.fail(None);
        let told = server.outside.now();
        if server.store.is_some() {
            nothing_is_told_any_more(&server, from);
            server.outside.saw(Situation::Failed);
        }
        drop(server.store.take().map(|store| store.close()));
        let at = server.disk.calls();
        assert_eq!(at, from, "something was written after the disk had failed");
        for losses in ways(&server.disk, at, how, &mut dice) {
            tally.images += 1;
            goes_on(plan, cut(&server.disk, at, &losses), &told, &mut tally);
        }
        goes_on(plan, server.disk.killed(at), &told, &mut tally);
        tally.saw(&server);
    }
    tally
}

fn nothing_is_told_any_more(server: &Server, from: usize) {
    let claims = [
        server.store().claim(&server.plan.key(), server.plan.request()),
        server.store().claim_unfinished(&server.plan.key()),
    ];
    for claim in claims {
        match claim.wait_for(PATIENCE) {
            Err(error) if matches!(error.kind(), ErrorKind::Failed | ErrorKind::NotFound) => {}
            Ok(Claim::Replay(outcome)) => {
                assert_eq!(Some(outcome.decode().unwrap()), server.outside.now().told.outcome, "P2");
            }
            other => panic!("P10: after the disk failed from call {from} there is {other:?}"),
        }
    }
    let other = server.store().claim(&server.plan.key(), Fingerprint::of("another request")).wait_for(PATIENCE);
    assert!(!matches!(other, Ok(Claim::Run(_))), "P5: {other:?}");
}

/// A server on what is left, at the moment that is told of.
fn goes_on(plan: Plan, left: SimulatedDisk, present: &Present, tally: &mut Tally) {
    let mut server = Server::new(plan, left, Some(present));
    server.open().unwrap();
    server.look();
    server.finish().unwrap();
    server.audit();
    server.close();
    tally.saw(&server);
}

/// The disk is full at every call in turn, until there is room again, and the store mends itself.
pub(crate) fn fill_everywhere(plan: Plan) -> Tally {
    let mut tally = Tally::default();
    for from in CREATED_GROWS..calls(plan, DiskCall::GROWS) {
        filled(plan, false, &mut tally, |disk| disk.fail(Some(full().after(from))));
    }
    tally
}

/// The file may grow to some size and no further, until the run that is refused makes room and tries again.
pub(crate) fn fill_slowly(plan: Plan) -> Tally {
    let empty = {
        let mut server = Server::new(plan, SimulatedDisk::new().with_journal(1), None);
        server.open().unwrap();
        server.close();
        server.disk.image().len() as u64
    };
    let mut tally = Tally::default();
    for room in (0..ROOMS).map(|more| empty + more * 4_096) {
        filled(plan, true, &mut tally, |disk| disk.set_room(Some(room)));
    }
    tally
}

/// Lets the operation meet a full disk, and makes room then.
fn filled(plan: Plan, is_patient: bool, tally: &mut Tally, fill: impl FnOnce(&SimulatedDisk)) {
    let (mut server, error) = stopped(plan, is_patient, fill);
    tally.cuts += 1;
    if let Some(error) = &error {
        assert!(matches!(error.kind(), ErrorKind::Full | ErrorKind::OutcomeUnknown), "{:?} {error}", error.kind());
        let left = server.disk.cut(server.disk.calls(), |_| Loss::Lost);
        tally.images += 1;
        goes_on(plan, left, &server.outside.now(), tally);
    }
    server.outside.make_room();
    if server.store.is_none() {
        server.open().unwrap();
    }
    if error.is_some() {
        server.outside.saw(Situation::Refused);
        mends(&server);
    }
    server.audit();
    let after = server.disk.cut(server.disk.calls(), |_| Loss::Lost);
    goes_on(plan, after, &server.outside.now(), tally);
    tally.saw(&server);
}

/// There is room again: it goes on by itself, at a time of its own.
fn mends(server: &Server) {
    let began = std::time::Instant::now();
    loop {
        match server.finish() {
            Ok(()) => break,
            Err(error) if error.kind() == ErrorKind::Full => std::thread::yield_now(),
            Err(error) => panic!("it was full and is well again: {:?} {error}", error.kind()),
        }
        assert!(began.elapsed() < PATIENCE, "it never mended itself");
    }
    server.outside.saw(Situation::Mended);
}
