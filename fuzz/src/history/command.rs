//! What a history is made of, and how bytes tell of it.

use super::super::bytes::Bytes;

/// The bytes of one command. What is spared of them is skipped.
pub const COMMAND_BYTES: usize = 8;

#[derive(Debug, Clone)]
pub enum Command {
    Claim {
        key: u8,
        request: bool,
        /// How many bytes it carries.
        carries: Option<u16>,
        deferred: bool,
    },
    ClaimUnfinished {
        key: u8,
    },
    Advance {
        key: u8,
        bytes: u16,
        row: Option<Row>,
    },
    Step {
        key: u8,
        step: u8,
        method: Method,
        effect: Effect,
    },
    /// By the run, or from outside.
    Resolve {
        key: u8,
        step: u8,
        happened: Option<u16>,
        outside: bool,
    },
    ReleaseStuck {
        key: u8,
    },
    AdvanceFromOutside {
        key: u8,
        ahead: u8,
        bytes: u16,
    },
    End {
        key: u8,
        success: bool,
        bytes: u16,
        row: Option<Row>,
    },
    Release {
        key: u8,
    },
    Forget {
        key: u8,
    },
    Revoke {
        key: u8,
    },
    Pass {
        seconds: u16,
    },
    Restart,
    /// The process or the power goes during the command that follows.
    Cut(Cut),
}

/// At which call to the disk it goes, and which of those not yet synced are lost, bit by bit.
#[derive(Debug, Clone, Copy)]
pub struct Cut {
    pub at: u8,
    pub losses: u32,
    /// Only the process goes: what was written can be read, but is not yet synced.
    pub only_the_process: bool,
    /// It goes once more while the store is opened, at this call.
    pub again: Option<u8>,
}

/// A row of the server's own, in the same commit.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    pub bytes: u16,
    pub fails: bool,
}

/// What guards a step.
#[derive(Debug, Clone, Copy)]
pub enum Method {
    /// With what the recheck finds.
    Recheck(Found),
    Keyed,
    AtMostOnce,
}

#[derive(Debug, Clone, Copy)]
pub enum Found {
    Happened(u16),
    DidNot,
    CannotTell,
}

/// What an effect comes to.
#[derive(Debug, Clone, Copy)]
pub enum Effect {
    Happens(u16),
    Fails,
    IsNotApplied,
    /// It happens, but the run loses the operation meanwhile.
    HappensLate(u16),
}

impl Command {
    pub fn read(bytes: &[u8]) -> Self {
        let mut bytes = Bytes::new(bytes);
        let (kind, key) = (bytes.byte(), bytes.byte());
        match kind % 18 {
            0 | 1 => {
                let how = bytes.byte();
                let carries = (how & 4 != 0).then(|| bytes.u16());
                Self::Claim { key, request: how & 1 != 0, carries, deferred: how & 2 != 0 }
            }
            2 => Self::ClaimUnfinished { key },
            3 => Self::Advance { key, bytes: bytes.u16(), row: Row::read(&mut bytes) },
            4..=6 => Self::step(key, &mut bytes),
            7 => {
                let (step, how, result) = (bytes.byte(), bytes.byte(), bytes.u16());
                Self::Resolve { key, step, happened: (how & 1 != 0).then_some(result), outside: how & 2 != 0 }
            }
            8 => Self::ReleaseStuck { key },
            9 => Self::AdvanceFromOutside { key, ahead: bytes.byte(), bytes: bytes.u16() },
            10 => Self::End { key, success: bytes.bool(), bytes: bytes.u16(), row: Row::read(&mut bytes) },
            11 => Self::Release { key },
            12 => Self::Forget { key },
            13 => Self::Revoke { key },
            14 => Self::Pass { seconds: bytes.u16() },
            15 => Self::Restart,
            // What the key would be is how it is cut.
            _ => Self::Cut(Cut {
                at: bytes.byte(),
                losses: bytes.u32(),
                only_the_process: key & 1 != 0,
                again: (key & 2 != 0).then(|| bytes.byte()),
            }),
        }
    }

    fn step(key: u8, bytes: &mut Bytes<'_>) -> Self {
        let (step, how, result, found) = (bytes.byte(), bytes.byte(), bytes.u16(), u16::from(bytes.byte()));
        let method = match how % 5 {
            0 => Method::Recheck(Found::Happened(found)),
            1 => Method::Recheck(Found::DidNot),
            2 => Method::Recheck(Found::CannotTell),
            3 => Method::Keyed,
            _ => Method::AtMostOnce,
        };
        let effect = match how / 5 % 4 {
            0 => Effect::Happens(result),
            1 => Effect::Fails,
            2 => Effect::IsNotApplied,
            _ => Effect::HappensLate(result),
        };
        Self::Step { key, step, method, effect }
    }
}

impl Row {
    fn read(bytes: &mut Bytes<'_>) -> Option<Self> {
        let how = bytes.byte();
        (how & 1 != 0).then(|| Self { bytes: bytes.u16(), fails: how & 2 != 0 })
    }
}
