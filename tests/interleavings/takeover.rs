//! Runs that end or are taken over while what they reported is on its way (P3, P4, P7).

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use reentry::{Claim, ErrorKind, Key, ManualClock, Run, StepState, Timestamp, pass_time};
use shuttle::thread;

use crate::world::{Living, builder, check, claim_after_others, disk, end, key, open, request, run_of};

fn mail(run: &mut Run, sent: &Arc<AtomicU32>) -> reentry::Result<String> {
    let sent = Arc::clone(sent);
    run.step("mail").run_at_most_once(move |_| {
        sent.fetch_add(1, Ordering::SeqCst);
        Ok::<_, Infallible>("sent".to_owned())
    })
}

#[test]
fn p4_what_a_run_reported_before_it_left_is_known_to_the_next() {
    check(|| {
        let (store, living, sent) = (open(), Living::default(), Arc::new(AtomicU32::new(0)));
        let runs = [store.clone(), store.clone()].map(|store| {
            let (living, sent) = (living.clone(), Arc::clone(&sent));
            thread::spawn(move || {
                // It leaves without waiting for its report to be on disk.
                let run = run_of(claim_after_others(&store).unwrap());
                assert_eq!(living.with(run, |run| mail(run, &sent)).unwrap(), "sent");
            })
        });
        runs.into_iter().for_each(|run| run.join().unwrap());
        assert_eq!(sent.load(Ordering::SeqCst), 1);
        let run = run_of(store.claim(&key(), request()).wait().unwrap());
        assert_eq!(run.steps().iter().map(reentry::Step::state).collect::<Vec<_>>(), [StepState::Done]);
        drop(run);
        end(&store);
    });
}

/// The story: what was reported was taken in between a look at the record and the question whether that is so.
#[test]
fn p3_a_run_that_refreshes_beside_its_own_report_knows_what_it_reported() {
    check(|| {
        let (store, sent) = (open(), Arc::new(AtomicU32::new(0)));
        let mut run = run_of(store.claim(&key(), request()).wait().unwrap());
        let (reads, counts) = (store.clone(), Arc::clone(&sent));
        let sent = run.step("mail").run_at_most_once(move |_| {
            // Now redb knows the row of the intent, and shows it until it is told what followed.
            reads.read(|_| ()).unwrap();
            counts.fetch_add(1, Ordering::SeqCst);
            Ok::<_, Infallible>("sent".to_owned())
        });
        assert_eq!(sent.unwrap(), "sent");
        let other = store.clone();
        // Whoever waits for an answer takes the report along.
        let other = thread::spawn(move || assert!(!other.revoke(&Key::new("scope", "other").unwrap()).wait().unwrap()));
        run.refresh().unwrap();
        assert_eq!(run.steps().iter().map(reentry::Step::state).collect::<Vec<_>>(), [StepState::Done]);
        other.join().unwrap();
        run.complete(&()).wait().unwrap();
        end(&store);
    });
}

#[test]
fn p7_a_run_whose_lease_is_over_changes_nothing_once_another_runs() {
    check(|| {
        let clock = ManualClock::at(Timestamp::from_millis(1_000_000));
        let lease = Duration::from_secs(1);
        let store = builder().lease(lease).clock(clock.clone()).open_on(&disk()).unwrap();
        let mut hung = run_of(store.claim(&key(), request()).wait().unwrap());
        let hung = thread::spawn(move || {
            let moved = hung.advance("far", &()).wait().map(drop).map_err(|error| error.kind());
            assert!(matches!(moved, Ok(()) | Err(ErrorKind::Fenced)), "{moved:?}");
            (moved.is_ok(), hung)
        });
        let time = thread::spawn(move || {
            clock.advance(lease);
            pass_time(lease);
        });
        let claim = store.claim(&key(), request()).wait().unwrap();
        let (has_moved, hung) = hung.join().unwrap();
        time.join().unwrap();
        match claim {
            Claim::Run(run) => {
                assert_eq!(run.attempt(), 2);
                // It moved before the take-over or not at all.
                assert_eq!(run.checkpoint().is_some(), has_moved);
                run.complete(&()).wait().unwrap();
                let late = hung.complete(&()).wait().unwrap_err().kind();
                assert!(matches!(late, ErrorKind::Fenced | ErrorKind::Finished), "{late:?}");
            }
            Claim::Wait(_) => drop(hung),
            other => panic!("the claim came to {other:?}"),
        }
        end(&store);
    });
}

#[test]
fn p7_what_a_fenced_run_reports_late_is_kept_and_changes_nothing() {
    check(|| {
        let (store, sent) = (open(), Arc::new(AtomicU32::new(0)));
        let mut fenced = run_of(store.claim(&key(), request()).wait().unwrap());
        let by_fenced = Arc::clone(&sent);
        let fenced = thread::spawn(move || mail(&mut fenced, &by_fenced).map_err(|error| error.kind()));
        store.revoke(&key()).wait().unwrap();
        let run = run_of(store.claim(&key(), request()).wait().unwrap());
        let answer = fenced.join().unwrap();
        drop(run);
        let run = run_of(store.claim(&key(), request()).wait().unwrap());
        let steps = run.steps();
        let step = steps.iter().find(|step| step.name() == "mail");
        match (answer, sent.load(Ordering::SeqCst)) {
            (Ok(_), 1) => assert_eq!(step.unwrap().state(), StepState::Done),
            (Err(ErrorKind::Fenced), 0) => assert!(step.is_none_or(|step| step.state() == StepState::InDoubt)),
            (Err(ErrorKind::Fenced), 1) => {
                let step = step.unwrap();
                assert!(step.state() == StepState::Done || step.late().len() == 1, "{step:?}");
            }
            other => panic!("{other:?}"),
        }
        drop(run);
        end(&store);
    });
}
