//! Exports: lossless, of one moment, known when they are cut short or damaged, and harmless when imported twice.

mod imports;
#[path = "../support/mod.rs"]
mod support;

use std::io::{self, Write};
use std::ops::ControlFlow;
use std::time::Duration;

use reentry::{
    DiskCall, DiskFault, ErrorKind, Failure, Fingerprint, Imported, Key, Loss, ManualClock, Request, Resolution,
    SimulatedDisk, State, Store, check_export, not_applied,
};
use support::{START, does, key, kind, request, run, run_of, times_out};

const HOUR: Duration = Duration::from_secs(3600);

const GO_ON: ControlFlow<()> = ControlFlow::Continue(());

fn builder(clock: &ManualClock) -> reentry::Builder {
    Store::builder().clock(clock.clone()).retention(HOUR).tombstones(1_000 * HOUR).attempts_max(3)
}

fn exported(store: &Store) -> String {
    let mut lines = Vec::new();
    store.export(&mut lines, |_| GO_ON).unwrap();
    String::from_utf8(lines).unwrap()
}

fn import(store: &Store, lines: &str) -> reentry::Result<Imported> {
    store.import(lines.as_bytes(), |_| GO_ON, |_| {})
}

/// Operations in every state, with everything that can be kept of one.
fn fill(store: &Store, clock: &ManualClock) {
    run(store, &key("gone")).complete(&vec![7_u8; 2_000]).wait().unwrap();
    clock.advance(HOUR);
    run(store, &key("done")).complete(&(0..=255).collect::<Vec<u8>>()).wait().unwrap();
    let foreign = Fingerprint::from_digest([0xAB; 32]);
    run_of(store.claim(&key("grün \u{202e}"), foreign).wait().unwrap()).fail(&vec![9_u8; 70_000]).wait().unwrap();
    let kept = Request::from(request()).keep(&"two pizzas".to_owned());
    let mut open = run_of(store.claim(&Key::new("other", "open").unwrap(), kept).wait().unwrap());
    does(&mut open, "charge", &"receipt".repeat(1_000));
    open.step("sms").run_at_most_once(|_| Err::<(), _>(not_applied("no such number"))).unwrap_err();
    open.advance("paid", &vec![5_u8; 4_000]).wait().unwrap();
    times_out(&mut open, "mail");
    drop(open);
    let key_of_it = Key::new("other", "open").unwrap();
    store.resolve(&key_of_it, "mail", Resolution::DidNotHappen, "the mailer said so").wait().unwrap();
    let mut again = run_of(store.claim_unfinished(&key_of_it).wait().unwrap());
    times_out(&mut again, "mail");
    // What a run reports that was taken over is kept beside the step.
    let fenced = again.step("mail").run_keyed(|_| {
        store.revoke(&key_of_it).wait().unwrap();
        drop(run_of(store.claim_unfinished(&key_of_it).wait().unwrap()));
        Ok::<_, Failure>(vec![4_u8; 1_500])
    });
    assert_eq!(kind(fenced), ErrorKind::Fenced);
    drop(again);
    for _ in 0..4 {
        drop(run(store, &key("stuck")));
    }
    assert!(store.release_stuck(&key("stuck")).wait().unwrap());
    drop(run(store, &key("fresh")));
    clock.advance(HOUR / 2);
}

fn filled() -> (Store, ManualClock) {
    let clock = ManualClock::at(START);
    let store = builder(&clock).in_memory().unwrap();
    fill(&store, &clock);
    (store, clock)
}

/// All that can be asked about everything, but for when it was written.
fn told(store: &Store) -> Vec<String> {
    let mut told: Vec<_> = store
        .operations()
        .map(|progress| {
            let it = progress.unwrap();
            let key = (it.key().scope(), it.key().key());
            let times = (it.since(), it.changed_at(), it.ended_at(), it.kept_until(), it.known_until());
            let (checkpoint, outcome) = (it.checkpoint(), it.outcome());
            let checkpoint = checkpoint.map(|it| (it.name(), it.revision(), it.at(), it.bytes()));
            let outcome = outcome.map(|it| (it.is_success(), it.completed_at(), it.bytes()));
            let steps: Vec<_> = it
                .steps()
                .iter()
                .map(|step| {
                    let late: Vec<_> =
                        step.late().iter().map(|late| (late.attempt(), late.at(), late.bytes())).collect();
                    (
                        step.name(),
                        step.attempt(),
                        step.state(),
                        step.begun_at(),
                        step.settled_at(),
                        step.bytes(),
                        late,
                        step.notes(),
                    )
                })
                .collect();
            format!(
                "{key:?} {} {} {} {times:?} {:?} {checkpoint:?} {outcome:?} {steps:?}",
                it.state(),
                it.attempt(),
                it.released(),
                it.request()
            )
        })
        .collect();
    told.sort();
    told
}

#[test]
fn p3_p5_what_is_imported_tells_all_that_was_exported() {
    let (one, clock) = filled();
    let lines = exported(&one);
    assert_eq!(check_export(lines.as_bytes(), |_| GO_ON).unwrap(), 6);
    let other = builder(&clock).in_memory().unwrap();
    let imported = import(&other, &lines).unwrap();
    assert_eq!((imported.new, imported.same, imported.differing, imported.over), (6, 0, 0, 0));
    assert_eq!(told(&other), told(&one));
    assert_eq!(exported(&other), lines);
    other.verify().unwrap();
    // The fingerprints too.
    for progress in one.operations() {
        let progress = progress.unwrap();
        let same = other.progress(progress.key()).unwrap().unwrap();
        assert!(same.fingerprint() == progress.fingerprint());
    }
    let states: Vec<_> = one.operations().map(|it| it.unwrap().state()).collect();
    for state in [State::Unfinished, State::Succeeded, State::Failed, State::Gone] {
        assert!(states.contains(&state), "none is {state}");
    }
}

/// One line holds all of an operation, and each of its payloads may be as large as one is by default.
#[test]
fn p3_an_operation_with_several_large_results_comes_back_from_its_line() {
    let clock = ManualClock::at(START);
    let [one, other] = [0, 1].map(|_| builder(&clock).in_memory().unwrap());
    let mut large = run(&one, &key("large"));
    for nth in 0..6_u8 {
        let result = vec![nth; 1_000_000];
        large.step(&nth.to_string()).run_keyed(|_| Ok::<_, Failure>(result)).unwrap();
    }
    drop(large);
    let lines = exported(&one);
    assert_eq!(check_export(lines.as_bytes(), |_| GO_ON).unwrap(), 1);
    assert_eq!(import(&other, &lines).unwrap().new, 1);
    assert!(exported(&other) == lines, "it came back as another");
}

/// A late result of no bytes would say that the effect happened.
#[test]
fn p4_p7_a_late_report_that_nothing_happened_is_no_late_result_after_an_import() {
    let (clock, key) = (ManualClock::at(START), key("order"));
    let (one, other) = (builder(&clock).in_memory().unwrap(), builder(&clock).in_memory().unwrap());
    for came_to in [Err(not_applied("no such card")), Ok(())] {
        let mut fenced = run(&one, &key);
        let told = fenced.step("charge").run_keyed(|_| {
            assert!(one.revoke(&key).wait().unwrap());
            drop(run(&one, &key));
            came_to
        });
        assert_eq!(kind(told), ErrorKind::Fenced);
    }
    support::settle(&one);
    assert_eq!(import(&other, &exported(&one)).unwrap().new, 1);
    for store in [&one, &other] {
        let step = support::step_of(store, &key, "charge").unwrap();
        let late: Vec<_> = step.late().iter().map(|late| late.bytes()).collect();
        assert_eq!(late, [None, Some(&b""[..])]);
    }
    assert_eq!((told(&other), exported(&other)), (told(&one), exported(&one)));
    other.verify().unwrap();
}

#[test]
fn an_import_that_is_done_again_is_harmless_and_one_that_was_broken_off_is_completed() {
    let (one, clock) = filled();
    let lines = exported(&one);
    let disk = SimulatedDisk::new();
    let other = builder(&clock).open_on(&disk).unwrap();
    let mut seen = 0;
    let broken_off = other.import(
        lines.as_bytes(),
        |_| {
            seen += 1;
            if seen == 4 { ControlFlow::Break(()) } else { GO_ON }
        },
        |_| {},
    );
    assert_eq!(kind(broken_off), ErrorKind::Cancelled);
    let again = import(&other, &lines).unwrap();
    assert_eq!((again.new + again.same, again.same >= 2), (6, true));
    assert_eq!(told(&other), told(&one));
    // Durable when it returns, and harmless when what it brought is over by now.
    let cut = builder(&clock).open_on(&disk.cut(disk.calls(), |_| Loss::Lost)).unwrap();
    assert_eq!(told(&cut), told(&one));
    clock.advance(HOUR * 2);
    assert!(!other.revoke(&key("settle")).wait().unwrap());
    let again = import(&other, &lines).unwrap();
    assert_eq!((again.new, again.same, again.differing), (0, 6, 0));
    other.verify().unwrap();
}

#[test]
fn p6_what_is_known_otherwise_is_left_as_it_is_and_told() {
    let (one, clock) = filled();
    let lines = exported(&one);
    let other = builder(&clock).in_memory().unwrap();
    run(&other, &key("done")).complete(&"another outcome".to_owned()).wait().unwrap();
    let owner = run(&other, &key("fresh"));
    drop(run_of(other.claim(&key("stuck"), Fingerprint::of("another request")).wait().unwrap()));
    let (before, mut differing) = (told(&other), Vec::new());
    let imported = other.import(lines.as_bytes(), |_| GO_ON, |key| differing.push(key.key().to_owned())).unwrap();
    differing.sort();
    // What was claimed just now is told at another time, and otherwise alike.
    assert_eq!((imported.new, imported.same, imported.differing), (3, 1, 2));
    assert_eq!(differing, ["done", "stuck"]);
    drop(owner);
    let after = told(&other);
    assert!(before.iter().filter(|it| !it.contains("fresh")).all(|it| after.contains(it)));
    other.verify().unwrap();
}

/// A run here may be in the midst of an effect: what it comes to is for that run, or the next one, to say.
#[test]
fn p5_p6_what_is_unfinished_here_is_not_ended_by_an_import_whether_a_run_is_at_work_on_it_or_not() {
    let clock = ManualClock::at(START);
    let (one, other) = (builder(&clock).in_memory().unwrap(), builder(&clock).in_memory().unwrap());
    for name in ["free", "owned"] {
        run(&one, &key(name)).complete(&"ended elsewhere".to_owned()).wait().unwrap();
    }
    drop(run(&other, &key("free")));
    let owner = run(&other, &key("owned"));
    let mut differing = Vec::new();
    let lines = exported(&one);
    let imported = other.import(lines.as_bytes(), |_| GO_ON, |key| differing.push(key.key().to_owned())).unwrap();
    differing.sort();
    assert_eq!((imported.new, imported.differing, differing), (0, 2, vec!["free".to_owned(), "owned".to_owned()]));
    let state = |name| other.progress(&key(name)).unwrap().unwrap().state();
    assert_eq!((state("free"), state("owned")), (State::Unfinished, State::Owned));
    let outcome = owner.complete(&"ended here".to_owned()).wait().unwrap();
    assert_eq!(outcome.decode::<String>().unwrap(), "ended here");
    other.verify().unwrap();
}

#[test]
fn p10_an_export_that_was_cut_short_or_changed_is_refused() {
    let (one, _) = filled();
    let lines = exported(&one).into_bytes();
    let refused = |lines: &[u8], what: &str| match check_export(lines, |_| GO_ON) {
        Err(error) => assert!(matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::NewerFormat), "{what}: {error:?}"),
        Ok(_) => panic!("{what} was not noticed"),
    };
    let stride = lines.len() / 200;
    for cut in (0..lines.len()).step_by(stride).chain(lines.len() - 200..lines.len()) {
        refused(&lines[..cut], &format!("a cut at {cut}"));
    }
    for bit in (0..lines.len() * 8).step_by(stride * 8 + 1) {
        let mut changed = lines.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        refused(&changed, &format!("bit {bit}"));
    }
    let text = String::from_utf8(lines.clone()).unwrap();
    let mut swapped: Vec<_> = text.lines().collect();
    swapped.swap(1, 2);
    refused((swapped.join("\n") + "\n").as_bytes(), "a line in another's place");
    refused(&[&lines[..], b"\n"].concat(), "a line too many");
    refused(b"{\"reentry_export\":2}\n", "a newer version");
    refused(b"something else\n", "something else");
    assert_eq!(kind(check_export(&b"{\"reentry_export\":2}\n"[..], |_| GO_ON)), ErrorKind::NewerFormat);
}

#[test]
fn what_no_store_could_keep_is_refused() {
    let (one, _) = filled();
    let lines = exported(&one);
    let other = Store::builder().in_memory().unwrap();
    let changes = [
        ("\"key\":\"done\"", "\"key\":\"do\\nne\""),
        ("\"attempt\":1", "\"attempt\":0"),
        ("\"state\":\"succeeded\"", "\"state\":\"unfinished\""),
        ("\"revision\":1", "\"revision\":0"),
        ("\"name\":\"charge\"", "\"name\":\"mail\""),
        ("\"name\":\"charge\"", "\"name\":\"\""),
        ("\"released\":4", "\"released\":5"),
        ("\"since\":", "\"until\":1,\"since\":"),
        ("{\"blake3\":\"", "{\"blake3\":\"0"),
        // Its outcome would be kept for longer than its key.
        ("\"kept_until\":1", "\"kept_until\":9"),
    ];
    for (from, to) in changes {
        assert!(lines.contains(from), "{from}");
        let error = import(&other, &lines.replace(from, to)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{to}");
        assert!(!error.to_string().contains("digest does not match"), "{to} itself is to be refused: {error}");
    }
    other.verify().unwrap();
}

#[test]
fn p11_what_is_over_is_left_out_and_no_retention_is_shortened() {
    let (one, ahead) = filled();
    ahead.advance(HOUR * 24 * 3650);
    drop(run(&one, &key("far ahead")));
    let lines = exported(&one);
    // What has ended was over long before, and the clock of the other store stands where this one began.
    assert!(!lines.contains("succeeded") && lines.contains("unfinished"));
    let (disk, clock) = (SimulatedDisk::new(), ManualClock::at(START));
    let other = builder(&clock).open_on(&disk).unwrap();
    run(&other, &key("kept here")).complete(&()).wait().unwrap();
    import(&other, &lines).unwrap();
    other.close().unwrap();
    let other = builder(&clock).open_on(&disk).unwrap();
    assert_eq!(other.progress(&key("kept here")).unwrap().unwrap().state(), State::Succeeded);
    assert_eq!(other.progress(&key("far ahead")).unwrap().unwrap().since(), START);
    // And one whose clock is ahead takes in nothing that is over.
    let (one, _) = filled();
    let later = ManualClock::at(START + HOUR * 2_000);
    let imported = import(&builder(&later).in_memory().unwrap(), &exported(&one)).unwrap();
    assert_eq!((imported.new, imported.over), (3, 3));
}

#[test]
fn p6_what_is_unfinished_stays_in_order_and_old_ones_are_found_behind_younger_ones() {
    let clock = ManualClock::at(START);
    let one = builder(&clock).in_memory().unwrap();
    let names: Vec<_> = (0..300).map(|nth| (nth * 7 % 300).to_string()).collect();
    for name in &names {
        drop(run(&one, &key(name)));
    }
    // Changed last, and claimed first.
    drop(run(&one, &key(&names[0])));
    clock.advance(HOUR);
    let other = builder(&clock).in_memory().unwrap();
    drop(run(&other, &key("young")));
    import(&other, &exported(&one)).unwrap();
    let listed = |store: &Store| -> Vec<_> {
        store.unfinished().older_than(HOUR).map(|it| it.unwrap().key().key().to_owned()).collect()
    };
    assert_eq!(listed(&one), names);
    assert_eq!(listed(&other), names);
}

/// What the disk fails to read is no damage: another time it may be there.
#[test]
fn a_disk_that_fails_is_not_passed_over_as_damage() {
    let (clock, disk) = (ManualClock::at(START), SimulatedDisk::new());
    let open = || builder(&clock).cache_bytes(0).open_on(&disk).unwrap();
    let store = open();
    fill(&store, &clock);
    store.close().unwrap();
    let store = open();
    disk.fail([DiskFault::kind(io::ErrorKind::PermissionDenied).on(&[DiskCall::Read])]);
    let mut damaged = 0;
    assert_eq!(kind(store.export_undamaged(io::sink(), |_| GO_ON, |_| damaged += 1)), ErrorKind::Io);
    assert_eq!(damaged, 0);
}

/// Other programs read these lines: `docs/format.md` says what is left out.
#[test]
fn a_line_says_what_there_is_to_say_of_its_operation_and_no_more() {
    let clock = ManualClock::at(START);
    let store = builder(&clock).in_memory().unwrap();
    let order = store.claim(&key("order"), Fingerprint::from_digest([0xAB; 32])).wait().unwrap();
    run_of(order).advance("paid", &vec![0_u8; 3]).wait().unwrap();
    let at = START.as_millis();
    let digest = "ab".repeat(32);
    let expected = format!(
        "{{\"scope\":\"scope\",\"key\":\"order\",\"fingerprint\":{{\"foreign\":\"{digest}\"}},\"state\":\"unfinished\",\
         \"attempt\":1,\"since\":{at},\"changed_at\":{at},\
         \"checkpoint\":{{\"name\":\"paid\",\"revision\":1,\"at\":{at},\"payload\":\"AAAA\"}}}}"
    );
    assert_eq!(exported(&store).lines().nth(1), Some(&*expected));
}

#[test]
fn whoever_imports_is_told_how_many_bytes_are_read() {
    let (store, _) = filled();
    let lines = exported(&store);
    let mut told = Vec::new();
    let taken = store.import(
        lines.as_bytes(),
        |read| {
            told.push(read);
            GO_ON
        },
        |_| {},
    );
    taken.unwrap();
    let ends = lines.split_inclusive('\n').scan(0, |read, line| {
        *read += line.len() as u64;
        Some(*read)
    });
    let without_trailer = lines.lines().count() - 1;
    assert_eq!(told, ends.take(without_trailer).collect::<Vec<_>>());
}

/// A writer through which the store changes while it is exported.
struct Busy<'s>(&'s Store, Vec<u8>);

impl Write for Busy<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let nth = self.1.len();
        run(self.0, &key(&format!("meanwhile {nth}"))).complete(&()).wait().unwrap();
        if self.0.progress(&key("fresh")).unwrap().is_some() {
            self.0.forget(&key("fresh")).wait().unwrap();
        }
        self.1.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn an_export_shows_one_moment_while_the_store_serves() {
    let (one, _) = filled();
    let before = exported(&one);
    let mut busy = Busy(&one, Vec::new());
    // The first line is written before that moment.
    busy.0.verify().unwrap();
    let exported = one.export(&mut busy, |_| GO_ON).unwrap();
    let lines = String::from_utf8(busy.1).unwrap();
    assert_eq!(exported.operations + 2, lines.lines().count() as u64);
    assert!(exported.operations <= 7, "{lines}");
    assert!(lines.matches("meanwhile").count() <= 1);
    assert!(before.lines().filter(|line| !line.contains("\"fresh\"")).take(4).all(|line| lines.contains(line)));
}

/// A writer that lets something be done to the store as the second line comes, which is behind the export's moment.
struct Meanwhile<F>(Option<F>, Vec<u8>);

impl<F: FnOnce()> Write for Meanwhile<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if !self.1.is_empty() {
            self.0.take().into_iter().for_each(|change| change());
        }
        self.1.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// It is written last, when all that has ended is written, and may long stand elsewhere by then: left out, its effects
/// would happen again wherever this is imported.
#[test]
fn p3_p6_what_is_unfinished_is_exported_as_it_was_though_it_goes_on_or_ends_meanwhile() {
    type Change = fn(&Store);
    let changes: [(&str, Change); 4] = [
        ("is claimed", |store| drop(run(store, &key("stuck")))),
        ("goes on", |store| assert!(run(store, &key("stuck")).advance("paid", &()).wait().is_ok())),
        ("ends", |store| drop(run(store, &key("stuck")).complete(&()).wait().unwrap())),
        ("is forgotten", |store| assert!(store.forget(&key("stuck")).wait().unwrap())),
    ];
    for (what, change) in changes {
        let (one, _) = filled();
        let before = exported(&one);
        let change = || {
            change(&one);
            // Whoever looks at all rows has the engine told of what the journal says.
            one.verify().unwrap();
        };
        let mut to = Meanwhile(Some(change), Vec::new());
        assert_eq!(one.export(&mut to, |_| GO_ON).unwrap().operations, 6, "it {what}");
        assert!(to.0.is_none() && exported(&one) != before, "it {what}");
        assert_eq!(String::from_utf8(to.1).unwrap(), before, "it {what}");
    }
}

/// A disk without room.
struct Full;

impl Write for Full {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::StorageFull.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn p2_all_of_an_export_is_written_when_it_answers_through_a_buffer_too() {
    let (one, _) = filled();
    let lines = exported(&one);
    // It has room for all of them, so nothing goes on but as it is flushed.
    let mut buffered = io::BufWriter::with_capacity(2 * lines.len(), Vec::new());
    one.export(&mut buffered, |_| GO_ON).unwrap();
    assert!(buffered.get_ref() == lines.as_bytes(), "{} bytes of {}", buffered.get_ref().len(), lines.len());
    let mut buffered = io::BufWriter::with_capacity(2 * lines.len(), Full);
    assert_eq!(kind(one.export(&mut buffered, |_| GO_ON)), ErrorKind::Full);
}

#[test]
fn what_cannot_be_written_or_is_broken_off_is_an_error() {
    let (one, _) = filled();
    assert_eq!(kind(one.export(Full, |_| GO_ON)), ErrorKind::Full);
    let mut lines = Vec::new();
    assert_eq!(kind(one.export(&mut lines, |_| ControlFlow::Break(()))), ErrorKind::Cancelled);
    assert_eq!(kind(check_export(&lines[..], |_| GO_ON)), ErrorKind::Corrupt);
    let mut shares = Vec::new();
    one.export(io::sink(), |share| {
        shares.push(share);
        GO_ON
    })
    .unwrap();
    assert!(shares.is_sorted() && shares.iter().all(|share| (0.0..=1.0).contains(share)), "{shares:?}");
    one.close().unwrap();
    assert_eq!(kind(one.export(io::sink(), |_| GO_ON)), ErrorKind::Closed);
    assert_eq!(kind(import(&one, "{\"reentry_export\":1}\n")), ErrorKind::Corrupt);
}
