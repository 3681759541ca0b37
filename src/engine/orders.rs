//! Every order of the small parts of the engine, under the model checker loom: the queue's hand-over, what the index
//! publishes, and the end of an ownership beside a claim that goes into line. None is left out; but where three threads
//! meet at the queue, or one waits outside while it is full, those in which threads are interrupted more than three
//! times are.
//!
//! ```sh
//! RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR=target/loom cargo test --release --lib orders
//! ```

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::super::index::{Index, KeyHash, Owner, Waiter};
    use super::super::place::Place;
    use super::super::queue::{HandOver, Pushed, Queue, QueueLimits, Shut, Taken};
    use super::super::request::{Carried, Claimed, Reply, Request};
    use crate::clock::Timestamp;
    use crate::error::{ErrorKind, Result};
    use crate::key::{Fingerprint, Key};
    use crate::pending::{Answer, Promise, block_on, promise};
    use crate::record::transitions::{Ask, Command};
    use crate::sync::{in_every_order, in_every_order_of, thread};

    const LONG: Duration = Duration::from_secs(60 * 60);

    fn key() -> Key {
        Key::new("orders", "1").unwrap()
    }

    fn queue(commands_max: usize) -> Arc<Queue> {
        Arc::new(Queue::new(QueueLimits { commands_max, bytes_max: usize::MAX }))
    }

    fn request(hash: KeyHash, reply: Reply) -> Request {
        let (command, carried) = (Command::Look, Carried::default());
        Request { key: key(), hash, command, carried, rows: None, report: None, reply }
    }

    /// Hands one request over, however long that takes, and waits for its answer.
    fn ask(queue: &Arc<Queue>, hash: KeyHash) -> Result<bool> {
        let (promise, answer) = promise();
        let pushed = queue.push(request(hash, Reply::Done(promise)));
        let queue = Arc::clone(queue);
        block_on(async move {
            let bell = HandOver::new(queue, pushed).await;
            answer.rung_by(bell).await
        })
    }

    fn is_taken(pushed: Pushed) -> bool {
        matches!(pushed, Pushed::In(_))
    }

    fn answer_all(taken: &mut Taken) -> usize {
        let all = taken.requests.len();
        for request in taken.requests.drain(..) {
            match request.reply {
                Reply::Done(promise) => promise.keep(Ok(true)),
                other => panic!("nobody asked for {other:?}"),
            }
        }
        taken.clear();
        all
    }

    /// Answers until so many were.
    fn answer_in_turns(queue: &Queue, all: usize) {
        let (mut taken, mut answered) = (Taken::default(), 0);
        while answered < all {
            assert_eq!(queue.take(&mut taken, LONG), None);
            answered += answer_all(&mut taken);
        }
    }

    /// Does what the writer does: answers until the queue is shut, then refuses what is left.
    fn answer_until_shut(queue: &Queue) {
        let mut taken = Taken::default();
        loop {
            let shut = queue.take(&mut taken, LONG);
            if shut.is_some() && taken.requests.is_empty() {
                break;
            }
            answer_all(&mut taken);
        }
        queue.take(&mut taken, Duration::ZERO);
        taken.requests.drain(..).for_each(|request| request.refuse(Shut::Closed.error()));
    }

    #[test]
    fn whoever_pushes_into_a_queue_that_is_taken_is_answered() {
        in_every_order(|| {
            let (queue, hash) = (queue(8), Index::new(0, 1).hash(&key()));
            let asks = Arc::clone(&queue);
            let asks = thread::spawn(move || assert!(ask(&asks, hash).unwrap()));
            answer_in_turns(&queue, 1);
            asks.join().unwrap();
        });
    }

    #[test]
    fn who_waits_outside_a_full_queue_gets_in_and_is_answered() {
        in_every_order_of(3, || {
            let (queue, hash) = (queue(1), Index::new(0, 1).hash(&key()));
            // It is full from the start.
            let (promise, first) = promise();
            assert!(is_taken(queue.push(request(hash, Reply::Done(promise)))));
            let asks = Arc::clone(&queue);
            let asks = thread::spawn(move || assert!(ask(&asks, hash).unwrap()));
            answer_in_turns(&queue, 2);
            asks.join().unwrap();
            assert!(block_on(first).unwrap());
        });
    }

    #[test]
    fn a_queue_that_is_shut_beside_a_push_answers_or_refuses_it() {
        in_every_order_of(3, || {
            let (queue, hash) = (queue(8), Index::new(0, 1).hash(&key()));
            let writer = Arc::clone(&queue);
            let writer = thread::spawn(move || answer_until_shut(&writer));
            let shuts = Arc::clone(&queue);
            let shuts = thread::spawn(move || shuts.shut(Shut::Closed));
            match ask(&queue, hash) {
                Ok(answer) => assert!(answer),
                Err(error) => assert_eq!(error.kind(), ErrorKind::Closed),
            }
            shuts.join().unwrap();
            writer.join().unwrap();
        });
    }

    #[test]
    fn a_full_queue_that_is_shut_answers_or_refuses_who_waits_outside() {
        in_every_order_of(3, || {
            let (queue, hash) = (queue(1), Index::new(0, 1).hash(&key()));
            let (promise, first) = promise();
            assert!(is_taken(queue.push(request(hash, Reply::Done(promise)))));
            let asks = Arc::clone(&queue);
            let asks = thread::spawn(move || match ask(&asks, hash) {
                Ok(answer) => assert!(answer),
                Err(error) => assert_eq!(error.kind(), ErrorKind::Closed),
            });
            let shuts = Arc::clone(&queue);
            let shuts = thread::spawn(move || shuts.shut(Shut::Closed));
            answer_until_shut(&queue);
            asks.join().unwrap();
            shuts.join().unwrap();
            assert!(block_on(first).unwrap());
        });
    }

    #[test]
    fn a_reader_of_the_index_finds_the_old_place_or_the_new_one_and_never_none() {
        in_every_order(|| {
            let index = Arc::new(Index::new(0, 1));
            let hash = index.hash(&key());
            index.replace(hash, None, Some(Place::Log(1)));
            let moves = Arc::clone(&index);
            let moves = thread::spawn(move || {
                moves.replace(hash, Some(Place::Log(1)), Some(Place::Log(2)));
                moves.replace(hash, Some(Place::Log(2)), Some(Place::Log(3)));
            });
            let mut last = 0;
            for _ in 0..2 {
                let places: Vec<_> = index.shard(hash).places(hash).map(Place::number).collect();
                assert!(matches!(places[..], [now] if now >= last), "{places:?} after {last}");
                last = places[0];
            }
            moves.join().unwrap();
        });
    }

    fn owner(token: u64) -> Owner {
        let (since, fingerprint) = (Timestamp::from_millis(1), Fingerprint::of("two pizzas"));
        Owner { token, attempt: 1, since, moved: since, born: 1, fingerprint }
    }

    fn claim() -> (Promise<Claimed>, Answer<Claimed>, Ask) {
        let (promise, answer) = promise();
        let ask = Ask { fingerprint: None, request: None, deferred: false };
        (promise, answer, ask)
    }

    #[test]
    fn p7_a_claim_that_goes_into_line_as_the_owner_leaves_has_its_turn_once() {
        in_every_order(|| {
            let (index, queue) = (Arc::new(Index::new(0, 1)), queue(8));
            let hash = index.hash(&key());
            assert!(index.shard(hash).seat(hash, &key(), owner(1), None).is_empty());
            let leaves = (Arc::clone(&index), Arc::clone(&queue));
            let leaves = thread::spawn(move || {
                let (index, queue) = leaves;
                let next = index.shard(hash).unseat(hash, &key(), 1, Vec::new);
                if let Some(Waiter { promise, .. }) = next {
                    queue.readmit(request(hash, Reply::Claim { turn: None, promise }));
                }
            });
            let (promise, answer, ask) = claim();
            let parked = index.shard(hash).park(hash, &key(), Waiter { ask, promise });
            if let Err(Waiter { promise, .. }) = parked {
                assert!(is_taken(queue.push(request(hash, Reply::Claim { turn: None, promise }))));
            }
            leaves.join().unwrap();
            assert_eq!((queue.len(), index.shard(hash).seats().count()), (1, 0));
            drop(answer);
        });
    }
}
