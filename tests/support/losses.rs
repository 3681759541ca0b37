//! The ways in which a power cut can lose what was not synced.

use reentry::{Loss, SimulatedDisk, Unsynced};

use super::support::Dice;

/// How many ways are tried.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Thoroughness {
    /// Of so many unsynced calls every subset is lost; of more, this many subsets.
    pub(crate) all_subsets_max: usize,
    pub(crate) subsets: usize,
    /// Places at which each write is torn.
    pub(crate) tears: usize,
}

/// The calls that a cut after the first `at` may lose.
pub(crate) fn unsynced(disk: &SimulatedDisk, at: usize) -> Vec<Unsynced> {
    let mut unsynced = Vec::new();
    drop(disk.cut(at, |call| {
        unsynced.push(call);
        Loss::Kept
    }));
    unsynced
}

/// The disk that a cut after the first `at` calls leaves, with these losses.
pub(crate) fn cut(disk: &SimulatedDisk, at: usize, losses: &[Loss]) -> SimulatedDisk {
    disk.cut(at, |call| losses[call.nth])
}

/// The ways in which the calls that no sync covers yet are lost.
pub(crate) fn ways(disk: &SimulatedDisk, at: usize, how: Thoroughness, dice: &mut Dice) -> Vec<Vec<Loss>> {
    let calls = unsynced(disk, at);
    let (kept, lost) = (vec![Loss::Kept; calls.len()], vec![Loss::Lost; calls.len()]);
    let mut ways = vec![kept.clone(), lost.clone()];
    // Any subset of fewer calls is one of all calls up to the next sync as well, so those are tried once, there.
    let is_last_before_a_sync = at == disk.calls() || unsynced(disk, at + 1).is_empty();
    if !is_last_before_a_sync {
        return ways;
    }
    let kept_or_lost = |is_kept: bool| if is_kept { Loss::Kept } else { Loss::Lost };
    let chosen = |bits: usize| (0..calls.len()).map(move |nth| kept_or_lost(bits >> nth & 1 == 1));
    for nth in 0..calls.len() {
        ways.push(with(&kept, nth, Loss::Lost));
        ways.push(with(&lost, nth, Loss::Kept));
        ways.push((0..calls.len()).map(|other| kept_or_lost(other < nth)).collect());
    }
    if calls.len() <= how.all_subsets_max {
        ways.extend((0..1_usize << calls.len()).map(|bits| chosen(bits).collect()));
    } else {
        ways.extend((0..how.subsets).map(|_| chosen(dice.below(usize::MAX)).collect()));
    }
    for call in &calls {
        for bytes in tears(call.bytes, how.tears, dice) {
            ways.push(with(&kept, call.nth, Loss::Torn(bytes)));
            ways.push(with(&lost, call.nth, Loss::Torn(bytes)));
            let some: Vec<_> = chosen(dice.below(usize::MAX)).collect();
            ways.push(with(&some, call.nth, Loss::Torn(bytes)));
        }
    }
    ways
}

fn with(losses: &[Loss], nth: usize, loss: Loss) -> Vec<Loss> {
    let mut losses = losses.to_vec();
    losses[nth] = loss;
    losses
}

/// After how many bytes a write is torn: at the borders of sectors, and where no disk would.
fn tears(bytes: usize, most: usize, dice: &mut Dice) -> Vec<usize> {
    let mut tears: Vec<_> = (512..bytes).step_by(512).collect();
    tears.extend([1, 3, 511, 513, bytes / 2 + 1, bytes.saturating_sub(1)].into_iter().filter(|at| *at < bytes));
    while tears.len() > most {
        tears.swap_remove(dice.below(tears.len()));
    }
    tears
}
