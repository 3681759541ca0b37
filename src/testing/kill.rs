//! Where and how a process is killed, and in which order all of that is tried.

use std::fmt;

/// One kill of one process, or one call of the world that comes to nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Kill {
    pub(super) moment: Moment,
    pub(super) death: Death,
}

/// When a process is killed. Calls of the disk and of the world are counted from its beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Moment {
    BeforeDisk(usize),
    AfterDisk(usize),
    /// Before the effect happens.
    BeforeWorld(usize),
    /// After it happened, before its answer arrives.
    Unheard(usize),
    /// After its answer arrived: at the next thing that anybody could see.
    AfterWorld(usize),
    /// As soon as the client was told that it is done.
    Told,
    /// Nobody is killed: the request is lost, and the caller gets an error.
    RequestLost(usize),
    /// Nobody is killed: it happened, and the caller gets an error.
    AnswerLost(usize),
}

/// What is left of what the disk was told and not made to keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Death {
    /// The process alone dies: all of it.
    Killed,
    /// The power goes: nothing of it.
    PowerCut,
}

const DEATHS: [Death; 2] = [Death::Killed, Death::PowerCut];

/// How many calls of each kind a process made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Calls {
    pub(super) disk: usize,
    pub(super) world: usize,
}

impl Calls {
    /// How many kills `kill` knows of a process that makes so many calls: before and after each call of the disk;
    /// before, within and after each call of the world; and when it told. Each in both ways.
    pub(super) fn kills(self) -> usize {
        (2 * self.disk + 3 * self.world + 1) * DEATHS.len()
    }

    /// The kill of this number; none behind the last.
    pub(super) fn kill(self, nth: usize) -> Option<Kill> {
        let death = *DEATHS.get(nth % DEATHS.len())?;
        let at_disk: [fn(usize) -> Moment; 2] = [Moment::BeforeDisk, Moment::AfterDisk];
        let at_world: [fn(usize) -> Moment; 3] = [Moment::BeforeWorld, Moment::Unheard, Moment::AfterWorld];
        // What a developer finds easiest to picture comes first: it is the place that a mistake is shown by.
        let (place, behind) = (nth / DEATHS.len(), 3 * self.world);
        let moment = match place {
            _ if place < behind => at_world.get(place % 3)?(place / 3),
            _ if place < behind + 2 * self.disk => at_disk.get((place - behind) % 2)?((place - behind) / 2),
            _ if place == behind + 2 * self.disk => Moment::Told,
            _ => return None,
        };
        Some(Kill { moment, death })
    }

    /// Every call of the world that comes to nothing, in both ways.
    pub(super) fn losses(self) -> impl Iterator<Item = Kill> {
        let ways: [fn(usize) -> Moment; 2] = [Moment::RequestLost, Moment::AnswerLost];
        let moments = (0..self.world).flat_map(move |nth| ways.map(|way| way(nth)));
        moments.map(|moment| Kill { moment, death: Death::Killed })
    }
}

impl fmt::Display for Death {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Killed => "killed",
            Self::PowerCut => "power cut",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kill_is_counted_once() {
        let calls = Calls { disk: 5, world: 2 };
        let mut kills: Vec<_> = (0..calls.kills()).map(|nth| calls.kill(nth).unwrap()).collect();
        assert_eq!((kills.len(), calls.kill(kills.len())), (2 * (2 * 5 + 3 * 2 + 1), None));
        kills.sort();
        kills.dedup();
        assert_eq!(kills.len(), calls.kills());
    }
}
