//! `SIGKILL` at random moments, under load.

use std::env;
use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use super::audit::Told;
use super::server::Process;
use super::support::Dice;
use super::{folder, seed};

/// So many kills hit one store, then a new one begins, so that an audit stays short.
const KILLS_OF_ONE_STORE: usize = 20;

const THREADS: usize = 8;

#[test]
fn p2_p3_p4_p5_p8_a_server_killed_at_random_moments_under_load_does_everything_once() {
    let kills: usize = env::var("REENTRY_KILLS").map_or(12, |kills| kills.parse().unwrap());
    println!("{kills} kills, seed {}", seed());
    let mut dice = Dice::new(seed());
    let (mut done, mut orders) = (0, 0);
    while done < kills {
        let (folder, mut told) = (folder(), Told::default());
        for round in 0..KILLS_OF_ONE_STORE.min(kills - done) {
            let mut process = Process::start(folder.path(), round, usize::MAX, THREADS, &[]);
            // One in four dies while it starts.
            if dice.below(4) > 0 {
                told.hear(&[process.hear_first("claimed")]);
            }
            told.hear(&process.hear_for(Duration::from_micros(dice.below(150_000) as u64)));
            process.child.kill().unwrap();
            let status = process.child.wait().unwrap();
            assert_eq!(status.signal(), Some(9), "it ended by itself; its own error stands above");
            let rest = process.hear_out();
            let error = rest.iter().find(|line| line.starts_with("error"));
            assert_eq!(error, None, "seed {}, round {round}", seed());
            told.hear(&rest);
            told.audit(folder.path());
            done += 1;
        }
        told.finish(folder.path());
        orders += told.orders();
    }
    println!("killed {done} times, {orders} orders");
    assert!(orders > 0, "none of them came to work");
}
