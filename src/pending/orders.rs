//! Every order of what a promise and its answer can come to, under the model checker loom. None is left out; but where
//! three threads meet at a bell, those in which threads are interrupted more than three times are.
//!
//! ```sh
//! RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR=target/loom cargo test --release --lib orders
//! ```

#[cfg(test)]
mod tests {
    use super::super::*;
    use crate::sync::{in_every_order, in_every_order_of, pass_time};

    fn pending<T: Send + 'static>(answer: Answer<T>) -> Pending<T> {
        Pending::coming(ErrorKind::OutcomeUnknown, answer)
    }

    /// Knows whether it was woken.
    struct Bell(AtomicBool);

    impl Bell {
        fn new() -> Arc<Self> {
            Arc::new(Self(AtomicBool::new(false)))
        }

        fn has_rung(&self) -> bool {
            self.0.load(Ordering::SeqCst)
        }
    }

    impl Wake for Bell {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::SeqCst);
        }
    }

    fn poll_once<T>(answer: &mut Answer<T>, bell: &Arc<Bell>) -> Poll<Result<T>> {
        Pin::new(answer).poll(&mut Context::from_waker(&Waker::from(Arc::clone(bell))))
    }

    #[test]
    fn who_waits_gets_the_answer_that_another_gives() {
        in_every_order(|| {
            let (promise, answer) = promise();
            let gives = thread::spawn(move || promise.keep(Ok(7)));
            assert_eq!(pending(answer).wait().unwrap(), 7);
            gives.join().unwrap();
        });
    }

    #[test]
    fn who_waits_hears_of_a_promise_that_breaks() {
        in_every_order(|| {
            let (promise, answer) = promise::<u8>();
            let breaks = thread::spawn(move || drop(promise));
            assert_eq!(pending(answer).wait().unwrap_err().kind(), ErrorKind::OutcomeUnknown);
            breaks.join().unwrap();
        });
    }

    #[test]
    fn a_thread_that_waits_twice_is_not_misled_by_the_first_answer() {
        in_every_order(|| {
            let (first, second) = (promise(), promise());
            let gives = thread::spawn(move || {
                first.0.keep(Ok(1));
                second.0.keep(Ok(2));
            });
            assert_eq!(pending(first.1).wait().unwrap(), 1);
            assert_eq!(pending(second.1).wait().unwrap(), 2);
            gives.join().unwrap();
        });
    }

    #[test]
    fn all_who_sleep_by_a_bell_get_the_answers_that_another_gives_before_it_rings() {
        in_every_order_of(3, || {
            let ringer = Ringer::default();
            let (first, second) = (promise(), promise());
            let [mine, other] = [first.1, second.1].map(|answer| answer.rung_by(Some(Arc::clone(ringer.bell()))));
            let waits = thread::spawn(move || assert_eq!(pending(other).wait().unwrap(), 2));
            let gives = thread::spawn(move || {
                first.0.keep(Ok(1));
                second.0.keep(Ok(2));
                drop(ringer);
            });
            assert_eq!(pending(mine).wait().unwrap(), 1);
            gives.join().unwrap();
            waits.join().unwrap();
        });
    }

    #[test]
    fn who_sleeps_by_a_bell_gets_an_answer_that_comes_after_it_rang() {
        in_every_order(|| {
            let ringer = Ringer::default();
            let (promise, answer) = promise();
            let answer = answer.rung_by(Some(Arc::clone(ringer.bell())));
            let gives = thread::spawn(move || {
                drop(ringer);
                promise.keep(Ok(7));
            });
            assert_eq!(pending(answer).wait().unwrap(), 7);
            gives.join().unwrap();
        });
    }

    #[test]
    fn a_bell_that_rings_as_the_time_is_over_loses_no_answer() {
        in_every_order_of(3, || {
            let ringer = Ringer::default();
            let (promise, answer) = promise();
            let answer = answer.rung_by(Some(Arc::clone(ringer.bell())));
            let gives = thread::spawn(move || {
                promise.keep(Ok(7));
                drop(ringer);
            });
            let time = thread::spawn(|| pass_time(Duration::from_secs(1)));
            match pending(answer).wait_for(Duration::from_secs(1)) {
                Ok(taken) => assert_eq!(taken, 7),
                Err(error) => assert_eq!(error.kind(), ErrorKind::OutcomeUnknown),
            }
            gives.join().unwrap();
            time.join().unwrap();
        });
    }

    #[test]
    fn a_task_that_moved_is_woken_where_it_is_now() {
        in_every_order(|| {
            let (promise, mut answer) = promise();
            let gives = thread::spawn(move || promise.keep(Ok(7)));
            let (before, now) = (Bell::new(), Bell::new());
            let is_there = poll_once(&mut answer, &before).is_ready() || poll_once(&mut answer, &now).is_ready();
            gives.join().unwrap();
            if !is_there {
                assert!(now.has_rung());
                assert!(matches!(poll_once(&mut answer, &now), Poll::Ready(Ok(7))));
            }
        });
    }

    #[test]
    fn an_answer_given_up_after_a_poll_is_dropped_with_what_it_carries() {
        in_every_order(|| {
            let (promise, mut answer) = promise();
            let carried = Arc::new(());
            let given = Arc::clone(&carried);
            let gives = thread::spawn(move || promise.keep(Ok(given)));
            let taken = poll_once(&mut answer, &Bell::new());
            drop(answer);
            gives.join().unwrap();
            let expected = if taken.is_ready() { 2 } else { 1 };
            assert_eq!(Arc::strong_count(&carried), expected);
        });
    }

    #[test]
    fn an_answer_that_comes_as_the_time_is_over_is_taken_or_dropped() {
        in_every_order(|| {
            let (promise, answer) = promise();
            let carried = Arc::new(());
            let given = Arc::clone(&carried);
            let gives = thread::spawn(move || promise.keep(Ok(given)));
            let time = thread::spawn(|| pass_time(Duration::from_secs(1)));
            match pending(answer).wait_for(Duration::from_secs(1)) {
                Ok(taken) => assert!(Arc::ptr_eq(&taken, &carried)),
                Err(error) => assert_eq!(error.kind(), ErrorKind::OutcomeUnknown),
            }
            gives.join().unwrap();
            time.join().unwrap();
            assert_eq!(Arc::strong_count(&carried), 1);
        });
    }
}
