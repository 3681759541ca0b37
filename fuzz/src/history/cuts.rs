//! Restarts, and what a process or a power that goes leaves behind.

use reentry::{Loss, SimulatedDisk, Unsynced};

use super::command::{Command, Cut};
use super::{KEYS, World, key, open, worked};

impl Cut {
    fn loss(self, call: Unsynced) -> Loss {
        match self.losses.rotate_right(call.nth as u32) & 3 {
            0 => Loss::Kept,
            1 => Loss::Torn(call.bytes / 2 / 512 * 512),
            _ => Loss::Lost,
        }
    }
}

impl World {
    pub(super) fn restart(&mut self) {
        self.forget_runs();
        self.model.lose_what_is_deferred();
        self.store.close().expect("close");
        self.disk = SimulatedDisk::from_image(self.disk.image());
        self.store = open(&self.disk, &self.clock);
    }

    /// Does a command and lets the process or the power go meanwhile: afterwards it was done wholly, not at all, or, where it is more
    /// than one commit, up to one of them.
    pub(super) fn cut_during(&mut self, command: &Command, cut: Cut) {
        let (before, first) = (self.model.clone(), self.disk.calls());
        self.run_command(command);
        self.settle();
        let calls = self.disk.calls();
        // A command may have restarted the store, on a disk of its own.
        let first = first.min(calls);
        let at = first + usize::from(cut.at) % (calls - first + 1);
        self.forget_runs();
        self.disk = if cut.only_the_process { self.disk.killed(at) } else { self.disk.cut(at, |call| cut.loss(call)) };
        self.store = open(&self.disk, &self.clock);
        if let Some(again) = cut.again {
            let at = usize::from(again) % (self.disk.calls() + 1);
            self.disk = self.disk.cut(at, |call| cut.loss(call));
            self.store = open(&self.disk, &self.clock);
        }
        let after = self.model.clone();
        let halfway = std::mem::take(&mut self.halfway);
        for mut model in [after].into_iter().chain(halfway).chain([before]) {
            model.lose_what_is_deferred();
            self.model = model;
            if self.agrees() {
                break;
            }
        }
        // Whether this was done shows in nothing until it is stuck, so it is done again.
        if let Command::ReleaseStuck { key: n } = *command {
            let n = n % KEYS;
            drop(worked(&self.store, self.store.release_stuck(&key(n))));
            if let Some(known) = self.model.operations.get_mut(&n).filter(|known| known.is_unfinished()) {
                known.released = known.attempt;
            }
        }
    }
}
