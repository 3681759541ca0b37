//! One total function decides what a command does to an operation, another applies it.
//!
//! Invariants:
//! 1. The fingerprint is checked before anything else of a claim (P5).
//! 2. `Begin` and `Enter` are only decided where nobody owns the operation (P1); a run's own changes only where it
//!    does (P7).
//! 3. An outcome is never changed or replaced before its retention and its tombstone are over (P5); what is unfinished
//!    ends only by its outcome or by name (P6).
//! 4. `now >= deadline` is expired, everywhere (P11).
//! 5. A step with a result is never begun again, and one in doubt only where the run says that it knows (P4).

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::room::Room;
use super::step::{self, StepChange, Try};
use super::{Body, Checkpoint, Outcome, Phase, Record, Revision, adopt};
use crate::clock::{Now, Timestamp};
use crate::key::{Fingerprint, Key};

/// Least time a row stands at the head before it is moved out of the way of others.
const TURN_MIN: Duration = Duration::from_secs(60);

/// What the server decided for all of its operations.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Policy {
    /// How long things are kept, counted from completion.
    pub(crate) retention: Duration,
    pub(crate) tombstones: Duration,
    /// How long an owner may stand still before others may take over; none where it may for ever.
    pub(crate) lease: Option<Duration>,
    /// How many runs there may be before an operation that nobody finishes is stuck.
    pub(crate) attempts_max: u32,
    /// How large an operation may become.
    pub(crate) room: Room,
}

/// What the rules look at: the record, if there is one, and the run that owns it, if one does.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Situation<'a> {
    pub(crate) record: Option<&'a Record>,
    pub(crate) owner: Option<Tenure>,
}

/// A run that owns an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tenure {
    /// Its fencing token.
    pub(crate) token: u64,
    /// When it last moved or renewed.
    pub(crate) moved: Timestamp,
}

/// What a claim asks for.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Ask {
    /// None where only what is known already can be claimed.
    pub(crate) fingerprint: Option<Fingerprint>,
    /// The request's bytes, to be kept with the operation.
    pub(crate) request: Option<Arc<[u8]>>,
    /// Whether a first claim may wait for the run's first change to become durable.
    pub(crate) deferred: bool,
}

/// Shows no bytes: they are the client's.
impl fmt::Debug for Ask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ask").field("deferred", &self.deferred).finish_non_exhaustive()
    }
}

/// The run that reports what became of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reporter {
    pub(crate) token: u64,
    /// The incarnation of the key it runs for, and which attempt at it it is.
    pub(crate) born: u64,
    pub(crate) attempt: u32,
    /// Whether it owned the operation when it reported; it may have given it free since.
    pub(crate) was_owner: bool,
}

/// What a caller wants of one operation.
#[derive(Debug, Clone)]
pub(crate) enum Command {
    /// Claim or get.
    Claim(Ask),
    /// Move the checkpoint, by the run with this token or (none) by anybody.
    Advance { token: Option<u64>, expected: Revision, name: Arc<str>, bytes: Arc<[u8]> },
    /// Record that a step is about to run; `again` where the run knows that it is in doubt.
    Intend { token: u64, name: Arc<str>, again: bool },
    /// Record what became of a step: its result, or (none) that nothing happened.
    Report { by: Reporter, name: Arc<str>, result: Option<Arc<[u8]>> },
    /// Say by name what became of a step in doubt, by the run with this token or (none) while no run is at work; of
    /// this try alone, where it says which.
    Resolve { token: Option<u64>, name: Arc<str>, of: Option<Try>, result: Option<Arc<[u8]>>, note: Arc<str> },
    /// Begin the lease anew.
    Renew { token: u64 },
    /// End it with an outcome.
    End { token: u64, success: bool, bytes: Arc<[u8]>, kept: Option<Duration> },
    /// Let what is stuck be tried again.
    Free,
    /// Remove all that is known of it.
    Forget,
    /// Take it from the run that owns it.
    Revoke,
    /// Take this record in, which comes from an export.
    #[cfg_attr(not(feature = "export"), expect(dead_code, reason = "nothing else makes it"))]
    Adopt(Arc<Record>),
    /// Change nothing; the answer comes when what it rests on is durable, the time too.
    Look,
}

impl Command {
    /// The step that it is about, where it is about one.
    pub(crate) fn step(&self) -> Option<&Arc<str>> {
        match self {
            Self::Intend { name, .. } | Self::Report { name, .. } | Self::Resolve { name, .. } => Some(name),
            _ => None,
        }
    }

    /// Its name, where somebody gives it by hand: an operator, or the server in an operator's place.
    pub(crate) fn by_hand(&self) -> Option<&'static str> {
        match self {
            Self::Resolve { token: None, .. } => Some("resolve"),
            Self::Free => Some("release"),
            Self::Forget => Some("forget"),
            Self::Revoke => Some("revoke"),
            _ => None,
        }
    }

    /// The token of the run that asks, where a run does and what it asks shows that it is at work.
    pub(crate) fn token(&self) -> Option<u64> {
        match self {
            Self::Advance { token, .. } | Self::Resolve { token, .. } => *token,
            Self::Intend { token, .. } | Self::Renew { token } | Self::End { token, .. } => Some(*token),
            Self::Report { by, .. } => Some(by.token),
            Self::Claim(_) | Self::Free | Self::Forget | Self::Revoke | Self::Adopt(_) | Self::Look => None,
        }
    }
}

/// What a command comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Something changes; the caller is told when it is durable.
    Change(Change),
    /// Nothing changes; this is the answer.
    Stand(Standing),
    /// Nothing changes, and the caller must stop or ask otherwise.
    Refuse(Refusal),
}

/// A change to one operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    /// A key is claimed for the first time, or anew after its tombstone.
    Begin { fingerprint: Fingerprint, request: Option<Arc<[u8]>>, deferred: bool },
    /// An unfinished operation is entered again.
    Enter { attempt: u32 },
    /// The checkpoint moves.
    Move { revision: Revision, name: Arc<str>, bytes: Arc<[u8]> },
    /// One of its steps changes.
    Step { name: Arc<str>, change: StepChange },
    /// Its runs so far no longer count towards its being stuck.
    Free,
    /// It ends.
    End { success: bool, bytes: Arc<[u8]>, until: Timestamp, gone: Timestamp },
    /// All that is known of it is removed.
    Remove,
    /// It is known from an export.
    Adopt(Arc<Record>),
    /// Its run loses it; the record stays as it is.
    Unseat,
}

/// How things stand, where nothing changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Standing {
    Replay,
    Wait,
    Reject {
        since: Timestamp,
    },
    Gone {
        completed_at: Timestamp,
        until: Timestamp,
    },
    /// A compare-and-set lost against the checkpoint that stands.
    Lost,
    /// The step has a result already.
    Done,
    /// The lease runs anew.
    Renewed,
    /// What an export tells of it is known.
    Same,
    /// Something else is known than an export tells.
    Differs,
    /// What an export tells is over.
    Over,
    /// There was nothing to do.
    Nothing,
}

/// Why a command is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    NotFound,
    Finished,
    Fenced,
    Busy,
    /// The step is in doubt, which the run does not know.
    InDoubt,
    /// The step is not in doubt: there is nothing to resolve.
    NotInDoubt,
    TooManySteps,
    /// It would take of the room that the operation keeps for what is still to come.
    NoRoom,
    /// A counter reached its end.
    Exhausted,
}

/// Decides what `command` does, without doing it.
pub(crate) fn decide(situation: Situation<'_>, command: &Command, now: Now, policy: Policy) -> Decision {
    let record = situation.record.filter(|record| !is_over(record, now.time));
    let owner = situation.owner;
    let token = owner.map(|owner| owner.token);
    let decided = match command {
        Command::Claim(ask) => Ok(claim(record, owner, ask, now, policy)),
        Command::Advance { token: by, expected, name, bytes } => {
            unfinished(record, token, *by).and_then(|record| advance(record, *expected, name, bytes, policy.room))
        }
        Command::Intend { token: by, name, again } => {
            unfinished(record, token, Some(*by)).and_then(|record| step::intend(record, name, *again, policy.room))
        }
        Command::Report { by, name, result } => {
            Ok(step::report(record, token, *by, name, result.as_ref(), policy.room))
        }
        Command::Resolve { token: by, name, of, result, note } => {
            unfinished(record, token, *by).and_then(|record| match record.step(name) {
                // Nobody else can tell what a run at work is doing at this moment.
                _ if token != *by => Err(Refusal::Busy),
                None => Err(Refusal::NotFound),
                Some(step) if !step.is_in_doubt() => Err(Refusal::NotInDoubt),
                // It was begun anew since it was looked at. A run always knows which try it speaks of.
                Some(step) if (by.is_some() || of.is_some()) && *of != Some(step.last_try()) => {
                    Err(Refusal::NotInDoubt)
                }
                Some(_) => {
                    let change = StepChange::Resolve { result: result.clone(), note: Arc::clone(note) };
                    Ok(Decision::Change(Change::Step { name: Arc::clone(name), change }))
                }
            })
        }
        Command::Renew { token: by } => {
            unfinished(record, token, Some(*by)).map(|_| Decision::Stand(Standing::Renewed))
        }
        Command::End { token: by, success, bytes, kept } => unfinished(record, token, Some(*by)).map(|_| {
            let until = now.ahead + kept.unwrap_or(policy.retention);
            let gone = until + policy.tombstones;
            Decision::Change(Change::End { success: *success, bytes: Arc::clone(bytes), until, gone })
        }),
        Command::Free => unfinished(record, token, None).map(|record| match record.tries() {
            0 => Decision::Stand(Standing::Nothing),
            _ => Decision::Change(Change::Free),
        }),
        Command::Forget => match (record, owner) {
            (None, _) => Ok(Decision::Stand(Standing::Nothing)),
            (Some(_), Some(_)) => Err(Refusal::Busy),
            (Some(_), None) => Ok(Decision::Change(Change::Remove)),
        },
        Command::Adopt(exported) => Ok(adopt::decide(record, exported, now)),
        Command::Revoke if owner.is_some() => Ok(Decision::Change(Change::Unseat)),
        Command::Revoke | Command::Look => Ok(Decision::Stand(Standing::Nothing)),
    };
    decided.unwrap_or_else(Decision::Refuse)
}

fn claim(record: Option<&Record>, owner: Option<Tenure>, ask: &Ask, now: Now, policy: Policy) -> Decision {
    let Some(record) = record else {
        return match ask.fingerprint {
            Some(fingerprint) => {
                let (request, deferred) = (ask.request.clone(), ask.deferred);
                Decision::Change(Change::Begin { fingerprint, request, deferred })
            }
            None => Decision::Refuse(Refusal::NotFound),
        };
    };
    if ask.fingerprint.is_some_and(|given| given != record.fingerprint) {
        return Decision::Stand(Standing::Reject { since: record.since });
    }
    match &record.phase {
        Phase::Unfinished if owner.is_some_and(|owner| !has_lapsed(owner, now.time, policy)) => {
            Decision::Stand(Standing::Wait)
        }
        Phase::Unfinished => match record.attempt.checked_add(1) {
            Some(attempt) => Decision::Change(Change::Enter { attempt }),
            None => Decision::Refuse(Refusal::Exhausted),
        },
        Phase::Completed { .. } if is_kept(record, now.time) => Decision::Stand(Standing::Replay),
        Phase::Completed { outcome, gone, .. } => {
            Decision::Stand(Standing::Gone { completed_at: outcome.completed_at, until: *gone })
        }
        Phase::Tombstone { completed_at, gone } => {
            Decision::Stand(Standing::Gone { completed_at: *completed_at, until: *gone })
        }
    }
}

fn advance(
    record: &Record,
    expected: Revision,
    name: &Arc<str>,
    bytes: &Arc<[u8]>,
    room: Room,
) -> Result<Decision, Refusal> {
    if record.revision() != expected {
        return Ok(Decision::Stand(Standing::Lost));
    }
    let revision = Revision(record.revision().0.checked_add(1).ok_or(Refusal::Exhausted)?);
    if !room.has_for_checkpoint(record, name, bytes) {
        return Err(Refusal::NoRoom);
    }
    Ok(Decision::Change(Change::Move { revision, name: Arc::clone(name), bytes: Arc::clone(bytes) }))
}

/// Whether an owner stood still for so long that others may take over.
pub(crate) fn has_lapsed(owner: Tenure, time: Timestamp, policy: Policy) -> bool {
    policy.lease.is_some_and(|lease| time >= owner.moved + lease)
}

/// Whether there were so many runs that no resumer tries again by itself.
pub(crate) fn is_stuck(record: &Record, policy: Policy) -> bool {
    record.is_unfinished() && record.tries() >= policy.attempts_max
}

/// The record that a change may be made to: unfinished, and owned by the run that asks, if a run does.
fn unfinished(record: Option<&Record>, owner: Option<u64>, token: Option<u64>) -> Result<&Record, Refusal> {
    match record {
        _ if token.is_some() && token != owner => Err(Refusal::Fenced),
        None => Err(Refusal::NotFound),
        Some(record) if record.is_unfinished() => Ok(record),
        Some(_) => Err(Refusal::Finished),
    }
}

/// The record after a change that is written under `sequence`; none where it is removed.
pub(crate) fn apply(record: Option<Record>, key: &Key, change: Change, sequence: u64, now: Now) -> Option<Record> {
    match change {
        Change::Begin { fingerprint, request, deferred: _ } => Some(Record {
            key: key.clone(),
            fingerprint,
            born: sequence,
            attempt: 1,
            released: 0,
            since: now.time,
            written: now.time,
            request: request.map(Body::Here),
            checkpoint: None,
            steps: Vec::new(),
            phase: Phase::Unfinished,
        }),
        Change::Enter { attempt } => record.map(|record| Record { attempt, written: now.time, ..record }),
        Change::Move { revision, name, bytes } => record.map(|record| {
            let checkpoint = Checkpoint { name, revision, at: now.time, body: Body::Here(bytes) };
            Record { checkpoint: Some(checkpoint), written: now.time, ..record }
        }),
        Change::Step { name, change } => record.map(|record| step::apply(record, &name, change, now.time)),
        Change::Free => record.map(|record| Record { released: record.attempt, written: now.time, ..record }),
        Change::End { success, bytes, until, gone } => record.map(|record| {
            let outcome = Outcome { success, completed_at: now.time, body: Body::Here(bytes) };
            // The request was kept for those who finish without the client; nobody does any more.
            Record { phase: Phase::Completed { outcome, until, gone }, request: None, written: now.time, ..record }
        }),
        Change::Remove => None,
        Change::Adopt(taken) => Some(adopt::apply(&taken, sequence, now)),
        Change::Unseat => record,
    }
}

/// Whether all of it is kept still: it is unfinished, or its outcome is replayed.
pub(crate) fn is_kept(record: &Record, time: Timestamp) -> bool {
    match &record.phase {
        Phase::Unfinished => true,
        Phase::Completed { until, .. } => time < *until,
        Phase::Tombstone { .. } => false,
    }
}

/// Whether nothing of it counts any more, removed or not.
pub(crate) fn is_over(record: &Record, time: Timestamp) -> bool {
    match &record.phase {
        Phase::Unfinished => false,
        Phase::Completed { gone, .. } | Phase::Tombstone { gone, .. } => time >= *gone,
    }
}

/// What retention does with a row at the head.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It is not its turn yet, nor that of any row behind it.
    Stays,
    /// Nothing of it counts any more.
    Goes,
    /// Its outcome is over; this tombstone stands in its place.
    Fades(Box<Record>),
    /// It must be kept longer than its neighbours: it is written again at the tail.
    Moves,
}

/// Decides the fate of the row that stands at the head of its table.
pub(crate) fn fate(record: &Record, time: Timestamp, policy: Policy) -> Fate {
    match &record.phase {
        _ if is_over(record, time) => Fate::Goes,
        Phase::Completed { outcome, until, gone } if time >= *until => Fate::Fades(Box::new(Record {
            checkpoint: None,
            steps: Vec::new(),
            released: 0,
            written: time,
            phase: Phase::Tombstone { completed_at: outcome.completed_at, gone: *gone },
            ..record.clone()
        })),
        // A row older than the retention that cannot go yet would hold up all behind it.
        _ if time >= due(record, policy) => Fate::Moves,
        _ => Fate::Stays,
    }
}

/// When the row at the head next has a fate other than to stay. What is unfinished has none.
pub(crate) fn due(record: &Record, policy: Policy) -> Timestamp {
    // No retention is so short that a row moves all the time.
    let turn = |span: Duration| record.written + span.max(TURN_MIN);
    match &record.phase {
        Phase::Unfinished => Timestamp::from_millis(u64::MAX),
        Phase::Completed { until, .. } => (*until).min(turn(policy.retention)),
        Phase::Tombstone { gone, .. } => (*gone).min(turn(policy.tombstones)),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::record) const POLICY: Policy = Policy {
        retention: Duration::from_secs(100),
        tombstones: Duration::from_secs(50),
        lease: None,
        attempts_max: 3,
        room: Room { operation_bytes_max: 1 << 20, payload_bytes_max: 1 << 10 },
    };
    const SECOND: Duration = Duration::from_secs(1);

    pub(in crate::record) fn at(seconds: u64) -> Now {
        let time = Timestamp::from_millis(seconds * 1000);
        Now { time, ahead: time }
    }

    pub(in crate::record) fn key() -> Key {
        Key::new("scope", "key").unwrap()
    }

    fn fingerprint() -> Fingerprint {
        Fingerprint::of("request")
    }

    fn begin() -> Change {
        Change::Begin { fingerprint: fingerprint(), request: None, deferred: false }
    }

    fn claim_of(fingerprint: Option<Fingerprint>) -> Command {
        Command::Claim(Ask { fingerprint, request: None, deferred: false })
    }

    fn begun() -> Record {
        apply(None, &key(), begin(), 7, at(0)).unwrap()
    }

    fn done_at(record: &Record, owner: Option<u64>, command: &Command, now: Now) -> Decision {
        let owner = owner.map(|token| Tenure { token, moved: at(0).time });
        decide(Situation { record: Some(record), owner }, command, now, POLICY)
    }

    fn completed(now: Now) -> Record {
        let command = Command::End { token: 7, success: true, bytes: Arc::from(&b"out"[..]), kept: None };
        let Decision::Change(change) = done_at(&begun(), Some(7), &command, now) else { panic!("its run ends it") };
        apply(Some(begun()), &key(), change, 8, now).unwrap()
    }

    #[test]
    fn p7_only_the_owner_ends_or_moves_and_a_stale_token_is_fenced() {
        let end = Command::End { token: 6, success: true, bytes: Arc::from(&b""[..]), kept: None };
        assert_eq!(done_at(&begun(), Some(7), &end, at(1)), Decision::Refuse(Refusal::Fenced));
        assert_eq!(done_at(&begun(), None, &end, at(1)), Decision::Refuse(Refusal::Fenced));
    }

    #[test]
    fn p7_an_owner_can_be_taken_over_at_its_lease_and_not_before() {
        let leased = Policy { lease: Some(SECOND * 10), ..POLICY };
        let owner = Some(Tenure { token: 7, moved: at(5).time });
        let record = begun();
        let decided = |command: &Command, now| decide(Situation { record: Some(&record), owner }, command, now, leased);
        assert_eq!(decided(&claim_of(None), at(14)), Decision::Stand(Standing::Wait));
        assert_eq!(decided(&claim_of(None), at(15)), Decision::Change(Change::Enter { attempt: 2 }));
        // As long as nobody does, it goes on, and its lease begins anew.
        assert_eq!(decided(&Command::Renew { token: 7 }, at(99)), Decision::Stand(Standing::Renewed));
        assert_eq!(decided(&Command::Renew { token: 6 }, at(5)), Decision::Refuse(Refusal::Fenced));
    }

    #[test]
    fn p6_what_had_its_runs_is_stuck_until_it_is_freed_and_never_ends_by_itself() {
        let mut record = begun();
        for attempt in 2..=3 {
            assert!(!is_stuck(&record, POLICY));
            record = apply(Some(record), &key(), Change::Enter { attempt }, 8, at(1)).unwrap();
        }
        assert!(is_stuck(&record, POLICY));
        assert_eq!(done_at(&record, None, &claim_of(None), at(2)), Decision::Change(Change::Enter { attempt: 4 }));
        assert_eq!(done_at(&record, None, &Command::Free, at(2)), Decision::Change(Change::Free));
        let record = apply(Some(record), &key(), Change::Free, 9, at(2)).unwrap();
        assert_eq!((record.tries(), record.attempt, is_stuck(&record, POLICY)), (0, 3, false));
        assert_eq!(done_at(&record, None, &Command::Free, at(2)), Decision::Stand(Standing::Nothing));
    }

    #[test]
    fn p5_p11_an_outcome_counts_until_its_deadline_and_not_at_it() {
        let record = completed(at(10));
        let claim = claim_of(Some(fingerprint()));
        assert_eq!(done_at(&record, None, &claim, at(109)), Decision::Stand(Standing::Replay));
        let gone = Standing::Gone { completed_at: at(10).time, until: at(160).time };
        assert_eq!(done_at(&record, None, &claim, at(110)), Decision::Stand(gone));
        let begin = Decision::Change(begin());
        assert_eq!(done_at(&record, None, &claim, at(160)), begin);
    }

    #[test]
    fn p11_a_deadline_is_counted_from_the_clock_that_is_ahead() {
        let record = completed(Now { time: at(10).time, ahead: at(1000).time });
        let Phase::Completed { until, .. } = record.phase else { panic!("it was completed") };
        assert_eq!(until, at(1100).time);
    }

    #[test]
    fn p6_retention_has_nothing_to_do_with_what_is_unfinished() {
        let record = begun();
        for time in [at(0).time, at(100).time, Timestamp::from_millis(u64::MAX - 1)] {
            assert_eq!(fate(&record, time, POLICY), Fate::Stays);
            assert!(time < due(&record, POLICY));
        }
        assert!(!is_over(&record, Timestamp::from_millis(u64::MAX)));
    }

    #[test]
    fn p6_a_completed_row_fades_to_its_tombstone_and_then_goes() {
        let record = completed(at(10));
        assert_eq!(due(&record, POLICY), at(110).time);
        assert_eq!(fate(&record, at(110).time - SECOND, POLICY), Fate::Stays);
        let Fate::Fades(tombstone) = fate(&record, at(110).time, POLICY) else { panic!("its outcome is over") };
        assert_eq!(tombstone.phase, Phase::Tombstone { completed_at: at(10).time, gone: at(160).time });
        assert_eq!(tombstone.fingerprint, record.fingerprint, "another request is still rejected");
        assert_eq!(fate(&tombstone, at(160).time - SECOND, POLICY), Fate::Stays);
        assert_eq!(fate(&tombstone, at(160).time, POLICY), Fate::Goes);
    }

    #[test]
    fn p6_a_row_kept_longer_than_todays_policy_moves_out_of_the_way() {
        let shorter = Policy { retention: Duration::from_secs(70), tombstones: Duration::ZERO, ..POLICY };
        assert_eq!(fate(&completed(at(10)), at(80).time, shorter), Fate::Moves);
        let hasty = Policy { retention: SECOND, tombstones: Duration::ZERO, ..POLICY };
        assert_eq!(fate(&completed(at(10)), at(69).time, hasty), Fate::Stays, "no row moves all the time");
    }

    #[test]
    fn a_counter_at_its_end_is_refused_and_never_wraps() {
        let mut record = begun();
        record.attempt = u32::MAX;
        let claim = claim_of(None);
        assert_eq!(done_at(&record, None, &claim, at(1)), Decision::Refuse(Refusal::Exhausted));
        let name: Arc<str> = "x".into();
        let bytes: Arc<[u8]> = Arc::from(&b""[..]);
        let body = Body::Here(Arc::clone(&bytes));
        let revision = Revision(u64::MAX);
        record.checkpoint = Some(Checkpoint { name: Arc::clone(&name), revision, at: at(0).time, body });
        let advance = Command::Advance { token: None, expected: revision, name, bytes };
        assert_eq!(done_at(&record, None, &advance, at(1)), Decision::Refuse(Refusal::Exhausted));
    }

    impl std::ops::Sub<Duration> for Timestamp {
        type Output = Self;

        fn sub(self, span: Duration) -> Self {
            Self::from_millis(self.as_millis() - u64::try_from(span.as_millis()).unwrap())
        }
    }
}
