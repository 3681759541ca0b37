//! What a seed decides before a run begins.

use std::time::Duration;

use reentry::{Fingerprint, Key};

use super::rules::{Guard, Policy};
use super::support::Dice;

#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) policy: Policy,
    pub(crate) keys: Vec<KeyPlan>,
    /// How many turns the run has before it is driven to its end.
    pub(crate) turns: usize,
    pub(crate) clients: usize,
    pub(crate) resumers: usize,
    pub(crate) operators: usize,
    /// How often, in a thousand batches, each of these comes.
    pub(crate) cuts: usize,
    pub(crate) looks: usize,
    pub(crate) faults: usize,
    /// How many images are drawn at a time.
    pub(crate) images: usize,
    pub(crate) one_hash: bool,
    /// Where it is small redb writes ahead, and makes good what failed there.
    pub(crate) cache_bytes: usize,
    /// How many pages the journal has: none, so few that every other batch finds it full, or enough for many.
    pub(crate) journal: u32,
}

/// What is done under one key.
#[derive(Debug, Clone)]
pub(crate) struct KeyPlan {
    pub(crate) key: Key,
    pub(crate) bodies: [Vec<u8>; 2],
    pub(crate) guards: Vec<Guard>,
}

impl KeyPlan {
    pub(crate) fn fingerprint(&self, nth: u8) -> Fingerprint {
        Fingerprint::of(&self.bodies[usize::from(nth)])
    }
}

impl Plan {
    pub(crate) fn draw(dice: &mut Dice) -> Self {
        let pick = |dice: &mut Dice, all: &[u64]| all[dice.below(all.len())];
        let policy = Policy {
            retention: pick(dice, &[3_000, 20_000, 600_000]),
            tombstones: pick(dice, &[0, 0, 5_000, 60_000]),
            lease: Some(pick(dice, &[1_500, 10_000])).filter(|_| dice.below(2) == 0),
            attempts_max: 3 + u32::try_from(dice.below(4)).unwrap_or(0),
        };
        let keys = (0..=dice.below(4)).map(|nth| KeyPlan::draw(nth, dice)).collect();
        Self {
            policy,
            keys,
            turns: 150 + dice.below(500),
            clients: 1 + dice.below(4),
            resumers: dice.below(2),
            operators: dice.below(2),
            cuts: pick_usize(dice, &[20, 60, 120]),
            looks: pick_usize(dice, &[100, 250, 500]),
            faults: pick_usize(dice, &[0, 0, 30, 100]),
            images: 2 + dice.below(6),
            one_hash: dice.below(8) == 0,
            cache_bytes: pick_usize(dice, &[0, 64 * 1024]),
            journal: [0, 1, 3, 8, 16][dice.below(5)],
        }
    }

    pub(crate) fn lease(&self) -> Option<Duration> {
        self.policy.lease.map(Duration::from_millis)
    }
}

fn pick_usize(dice: &mut Dice, all: &[usize]) -> usize {
    all[dice.below(all.len())]
}

impl KeyPlan {
    fn draw(nth: usize, dice: &mut Dice) -> Self {
        // Keys that are alike but for where the scope ends.
        let key = match nth {
            0 => Key::new("a", "bc"),
            1 => Key::new("ab", "c"),
            2 => Key::new("a", "b"),
            _ => Key::new("orders", format!("{nth}")),
        };
        let long = "~".repeat([3, 40, 1_500][dice.below(3)]);
        let bodies = [format!("two pizzas {nth} {long}").into_bytes(), format!("three pizzas {nth}").into_bytes()];
        let guards = [Guard::Rechecked, Guard::Keyed, Guard::AtMostOnce];
        let guards = (0..dice.below(4)).map(|_| guards[dice.below(3)]).collect();
        Self { key: key.expect("a valid key"), bodies, guards }
    }
}
