//! Every command in every situation, as a table; and what every change leaves of a record.

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use crate::clock::Now;
    use crate::key::Fingerprint;
    use crate::record::format::size;
    use crate::record::step::StepChange;
    use crate::record::transitions::tests::{POLICY, at, key};
    use crate::record::transitions::{
        Ask, Change, Command, Decision, Fate, Policy, Reporter, Situation, Tenure, apply, decide, due, fate,
    };
    use crate::record::{BODY_HERE_BYTES_MAX, Body, Late, Phase, Record, Revision, Step};

    /// The run that asks, and another.
    const OURS: u64 = 7;
    const THEIRS: u64 = 8;

    fn bytes(text: &str) -> Arc<[u8]> {
        text.as_bytes().into()
    }

    fn changed(record: Option<Record>, change: Change, now: Now) -> Record {
        apply(record, &key(), change, OURS, now).unwrap()
    }

    fn step(change: StepChange) -> Change {
        Change::Step { name: "charge".into(), change }
    }

    /// Claimed at 1 s with its request, at its first checkpoint, one step in doubt.
    fn unfinished() -> Record {
        let change =
            Change::Begin { fingerprint: Fingerprint::of("ours"), request: Some(bytes("pizza")), deferred: false };
        let begun = changed(None, change, at(1));
        let moved = changed(Some(begun), moved("paid", 1), at(2));
        changed(Some(moved), step(StepChange::Intend { attempt: 1 }), at(3))
    }

    fn moved(name: &str, revision: u64) -> Change {
        Change::Move { revision: Revision(revision), name: name.into(), bytes: bytes("half") }
    }

    /// Ended at 10 s; its outcome is kept until 110 s, its tombstone until 160 s.
    fn ended() -> Record {
        let (until, gone) = (at(110).time, at(160).time);
        changed(Some(unfinished()), Change::End { success: true, bytes: bytes("done"), until, gone }, at(10))
    }

    /// Ended at 10 s, and over at 20 s.
    fn over() -> Record {
        let ended = ended();
        let phase = Phase::Completed { outcome: outcome(&ended), until: at(15).time, gone: at(20).time };
        Record { phase, ..ended }
    }

    fn commands() -> Vec<(&'static str, Command)> {
        let claim = |fingerprint| Command::Claim(Ask { fingerprint, request: None, deferred: false });
        let advance = |token, revision| {
            let (expected, name) = (Revision(revision), "shipped".into());
            Command::Advance { token, expected, name, bytes: bytes("half") }
        };
        let intend = |name: &str, again| Command::Intend { token: OURS, name: name.into(), again };
        let by = Reporter { token: OURS, born: OURS, attempt: 1, was_owner: false };
        let report = Command::Report { by, name: "charge".into(), result: None };
        let resolve = |token, name: &str| Command::Resolve {
            token,
            name: name.into(),
            of: token.and_then(|_| unfinished().step(name).map(Step::last_try)),
            result: None,
            note: "asked".into(),
        };
        vec![
            ("claim", claim(Some(Fingerprint::of("ours")))),
            ("claim what is known", claim(None)),
            ("claim for another request", claim(Some(Fingerprint::of("another")))),
            ("advance", advance(Some(OURS), 1)),
            ("advance by anybody", advance(None, 1)),
            ("advance what was", advance(None, 0)),
            ("intend", intend("ship", false)),
            ("intend in doubt", intend("charge", false)),
            ("intend again", intend("charge", true)),
            ("report", report),
            ("resolve", resolve(Some(OURS), "charge")),
            ("resolve by anybody", resolve(None, "charge")),
            ("resolve no step", resolve(None, "ship")),
            ("renew", Command::Renew { token: OURS }),
            ("end", Command::End { token: OURS, success: true, bytes: bytes(""), kept: None }),
            ("free", Command::Free),
            ("forget", Command::Forget),
            ("revoke", Command::Revoke),
            ("adopt", Command::Adopt(Arc::new(unfinished()))),
            ("adopt what is over", Command::Adopt(Arc::new(over()))),
            ("adopt what ended", Command::Adopt(Arc::new(ended()))),
            ("look", Command::Look),
        ]
    }

    /// Absent, free, ours, theirs, with an outcome, with a tombstone only, over.
    const TABLE: &str = "\
    claim:                     Begin    Enter    Wait       Wait   Replay   Gone     Begin
    claim what is known:       NotFound Enter    Wait       Wait   Replay   Gone     NotFound
    claim for another request: Begin    Reject   Reject     Reject Reject   Reject   Begin
    advance:                   Fenced   Fenced   Move       Fenced Fenced   Fenced   Fenced
    advance by anybody:        NotFound Move     Move       Move   Finished Finished NotFound
    advance what was:          NotFound Lost     Lost       Lost   Finished Finished NotFound
    intend:                    Fenced   Fenced   Step       Fenced Fenced   Fenced   Fenced
    intend in doubt:           Fenced   Fenced   InDoubt    Fenced Fenced   Fenced   Fenced
    intend again:              Fenced   Fenced   Step       Fenced Fenced   Fenced   Fenced
    report:                    Nothing  Step     Step       Step   Step     Step     Nothing
    resolve:                   Fenced   Fenced   Step       Fenced Fenced   Fenced   Fenced
    resolve by anybody:        NotFound Step     Busy       Busy   Finished Finished NotFound
    resolve no step:           NotFound NotFound Busy       Busy   Finished Finished NotFound
    renew:                     Fenced   Fenced   Renewed    Fenced Fenced   Fenced   Fenced
    end:                       Fenced   Fenced   End        Fenced Fenced   Fenced   Fenced
    free:                      NotFound Free     Free       Free   Finished Finished NotFound
    forget:                    Nothing  Remove   Busy       Busy   Remove   Remove   Nothing
    revoke:                    Nothing  Nothing  Unseat     Unseat Nothing  Nothing  Nothing
    adopt:                     Adopt    Same     Same       Same   Differs  Differs  Adopt
    adopt what is over:        Over     Over     Over       Over   Over     Over     Over
    adopt what ended:          Adopt    Differs  Differs    Differs Same    Same     Over
    look:                      Nothing  Nothing  Nothing    Nothing Nothing Nothing  Nothing";

    /// The variant inside a decision: `Enter` of `Change(Enter { .. })`.
    fn word(decision: &Decision) -> String {
        let shown = format!("{decision:?}");
        shown.split(['(', ')', ' ']).nth(1).unwrap().to_owned()
    }

    #[test]
    fn p1_p4_p5_p6_p7_every_command_comes_to_one_answer_in_every_situation() {
        let (unfinished, ended) = (unfinished(), ended());
        let owned = |token| Some(Tenure { token, moved: at(3).time });
        let situations = [
            (None, None, 20),
            (Some(&unfinished), None, 20),
            (Some(&unfinished), owned(OURS), 20),
            (Some(&unfinished), owned(THEIRS), 20),
            (Some(&ended), None, 109),
            (Some(&ended), None, 110),
            (Some(&ended), None, 160),
        ];
        let rows: Vec<_> = TABLE.lines().map(|row| row.trim().split_once(':').unwrap()).collect();
        assert_eq!(rows.len(), commands().len());
        for ((name, command), (row, expected)) in commands().iter().zip(rows) {
            assert_eq!(*name, row);
            let decided = situations.iter().map(|(record, owner, time)| {
                let situation = Situation { record: *record, owner: *owner };
                word(&decide(situation, command, at(*time), POLICY))
            });
            assert_eq!(decided.collect::<Vec<_>>(), expected.split_whitespace().collect::<Vec<_>>(), "{name}");
        }
    }

    #[test]
    fn what_every_change_leaves_of_a_record() {
        let before = Record { released: 1, ..unfinished() };
        let request = Some(Body::Here(bytes("pizza")));
        let begun =
            changed(None, Change::Begin { fingerprint: Fingerprint::of("ours"), request: None, deferred: true }, at(5));
        assert_eq!((begun.born, begun.attempt, begun.released), (OURS, 1, 0));
        assert_eq!((begun.since, begun.written, &begun.request), (at(5).time, at(5).time, &None));
        let entered = changed(Some(before.clone()), Change::Enter { attempt: 2 }, at(5));
        assert_eq!(entered, Record { attempt: 2, written: at(5).time, ..before.clone() });
        let advanced = changed(Some(before.clone()), moved("shipped", 2), at(6));
        let point = advanced.checkpoint.clone().unwrap();
        assert_eq!(
            (point.name(), point.revision().get(), point.at(), point.bytes()),
            ("shipped", 2, at(6).time, &b"half"[..])
        );
        assert_eq!(advanced, Record { checkpoint: Some(point), written: at(6).time, ..before.clone() });
        let freed = changed(Some(Record { attempt: 4, ..before.clone() }), Change::Free, at(7));
        assert_eq!(freed, Record { attempt: 4, released: 4, written: at(7).time, ..before.clone() });
        assert_eq!(before.request, request);
        let ended = ended();
        let Phase::Completed { outcome, until, gone } = &ended.phase else { panic!("it has an outcome") };
        assert_eq!((outcome.is_success(), outcome.completed_at(), outcome.bytes()), (true, at(10).time, &b"done"[..]));
        assert_eq!((*until, *gone, ended.written), (at(110).time, at(160).time, at(10).time));
        assert_eq!(ended.request, None, "nobody finishes it without its client any more");
        assert_eq!(apply(Some(ended.clone()), &key(), Change::Remove, OURS, at(11)), None);
        assert_eq!(changed(Some(before.clone()), Change::Unseat, at(11)), before);
    }

    #[test]
    fn p6_what_retention_makes_of_a_row_at_the_head() {
        let ended = Record { released: 1, ..ended() };
        assert_eq!(fate(&ended, at(109).time, POLICY), Fate::Stays, "its turn is a retention after it was written");
        let later = Record {
            phase: Phase::Completed { outcome: outcome(&ended), until: at(200).time, gone: at(200).time },
            ..ended.clone()
        };
        assert_eq!(fate(&later, at(110).time, POLICY), Fate::Moves, "it would hold up those behind it");
        let phase = Phase::Tombstone { completed_at: at(10).time, gone: at(160).time };
        let (checkpoint, steps, written) = (None, Vec::new(), at(110).time);
        let tombstone = Record { checkpoint, steps, released: 0, written, phase, ..ended.clone() };
        assert_eq!(fate(&ended, at(110).time, POLICY), Fate::Fades(Box::new(tombstone.clone())));
        assert_eq!(fate(&tombstone, at(159).time, POLICY), Fate::Stays);
        assert_eq!(fate(&tombstone, at(160).time, POLICY), Fate::Goes);
        assert_eq!(fate(&unfinished(), at(100_000).time, POLICY), Fate::Stays, "it is never removed");
    }

    #[test]
    fn p5_p11_what_is_adopted_is_as_it_was_but_for_its_number_and_times_that_are_not_yet() {
        let exported = Record { born: 99, released: 1, ..ended() };
        let adopt = |now| changed(None, Change::Adopt(Arc::new(exported.clone())), now);
        assert_eq!(adopt(at(10)), Record { born: OURS, ..exported.clone() });
        assert_eq!(adopt(at(50)), Record { born: OURS, ..exported.clone() });
        let behind = adopt(at(0));
        // What happened did so by then; a deadline stays what it is.
        let mut expected = Record { born: OURS, since: at(0).time, written: at(0).time, ..exported.clone() };
        expected.checkpoint.iter_mut().for_each(|checkpoint| checkpoint.at = at(0).time);
        expected.steps.iter_mut().for_each(|step| step.begun_at = at(0).time);
        let Phase::Completed { outcome, .. } = &mut expected.phase else { panic!("it has an outcome") };
        outcome.completed_at = at(0).time;
        assert_eq!(behind, expected);
        // Done again it is the same, wherever its payloads stand by now, and when it has become a tombstone.
        let decided = |known: &Record, time| {
            let situation = Situation { record: Some(known), owner: None };
            word(&decide(situation, &Command::Adopt(Arc::new(exported.clone())), at(time), POLICY))
        };
        let mut apart = behind.clone();
        for body in apart.bodies_mut() {
            let (len, crc) = (u32::try_from(body.bytes().len()).unwrap(), crc32fast::hash(body.bytes()));
            *body = Body::Apart { row: 7, len, crc };
        }
        let Fate::Fades(faded) = fate(&behind, at(110).time, POLICY) else { panic!("it fades") };
        assert_eq!((decided(&behind, 20), decided(&apart, 20), decided(&faded, 110)), three("Same"));
        // What differs in anything else is another.
        let others = [
            Record { attempt: 2, ..behind.clone() },
            Record { fingerprint: Fingerprint::of("another"), ..faded.as_ref().clone() },
            Record { phase: Phase::Tombstone { completed_at: at(11).time, gone: at(160).time }, ..*faded },
        ];
        let [one, another, third] = others.each_ref().map(|other| decided(other, 110));
        assert_eq!((one, another, third), three("Differs"));
    }

    fn three(word: &str) -> (String, String, String) {
        (word.to_owned(), word.to_owned(), word.to_owned())
    }

    fn outcome(record: &Record) -> crate::record::Outcome {
        let Phase::Completed { outcome, .. } = &record.phase else { panic!("it has an outcome") };
        outcome.clone()
    }

    #[test]
    fn a_command_names_its_run_and_its_step() {
        let told = |name: &str| {
            let (_, command) = commands().into_iter().find(|(other, _)| *other == name).unwrap();
            (command.token(), command.step().map(ToString::to_string))
        };
        let (charge, ship) = (Some("charge".to_owned()), Some("ship".to_owned()));
        assert_eq!(told("advance"), (Some(OURS), None));
        assert_eq!(told("advance by anybody"), (None, None));
        assert_eq!(told("intend"), (Some(OURS), ship));
        assert_eq!(told("report"), (Some(OURS), charge.clone()));
        assert_eq!(told("resolve"), (Some(OURS), charge.clone()));
        assert_eq!(told("resolve by anybody"), (None, charge));
        assert_eq!(told("renew"), (Some(OURS), None));
        assert_eq!(told("end"), (Some(OURS), None));
        for by_name in ["claim", "free", "forget", "revoke", "look"] {
            assert_eq!(told(by_name), (None, None), "{by_name}");
        }
        let ask = Ask { fingerprint: None, request: Some(bytes("pizza")), deferred: true };
        assert_eq!(format!("{ask:?}"), "Ask { deferred: true, .. }", "what the client sent is not shown");
    }

    /// What is kept free for later is what a later change takes at most, to the byte.
    #[test]
    fn an_end_and_a_result_take_at_most_what_is_kept_free_for_them() {
        let large = vec![7; BODY_HERE_BYTES_MAX + 1];
        let change = Change::Begin { fingerprint: Fingerprint::of("ours"), request: None, deferred: false };
        let begun = changed(None, change, at(1));
        let (until, gone) = (at(110).time, at(160).time);
        let end = Change::End { success: true, bytes: large.as_slice().into(), until, gone };
        let ended = changed(changed(Some(begun.clone()), Change::Free, at(2)).into(), end, at(3));
        let moved = Record { written: at(4).time, ..ended };
        let apart = large.len() as u64;
        assert_eq!(size::bytes(&moved) - size::bytes(&begun), size::END_BYTES_MAX + apart);
        let doubtful = changed(Some(begun), step(StepChange::Intend { attempt: 1 }), at(2));
        let resolve = StepChange::Resolve { result: Some(large.as_slice().into()), note: "asked".into() };
        let resolved = changed(Some(doubtful.clone()), step(resolve), at(3));
        assert_eq!(size::bytes(&resolved) - size::bytes(&doubtful), size::SETTLE_BYTES_MAX + apart + 5);
    }

    /// Who looks at a head stops there by the one, and removes by the other.
    #[test]
    fn p6_a_row_stays_for_exactly_as_long_as_it_is_not_due() {
        let spans = [0, 1, 70, 100, 300].map(Duration::from_secs);
        for (retention, tombstones) in spans.into_iter().flat_map(|one| spans.map(|other| (one, other))) {
            let policy = Policy { retention, tombstones, ..POLICY };
            for (record, seconds) in
                [unfinished(), ended(), over()].iter().flat_map(|it| (0..600).map(move |s| (it, s)))
            {
                let is_due = at(seconds).time >= due(record, policy);
                assert_eq!(fate(record, at(seconds).time, policy) != Fate::Stays, is_due, "{record:?} at {seconds} s");
            }
        }
    }

    #[test]
    fn what_is_not_written_yet_counts_as_it_will_be() {
        for bytes in [vec![], vec![7; BODY_HERE_BYTES_MAX], vec![7; BODY_HERE_BYTES_MAX + 1]] {
            let shared: Arc<[u8]> = bytes.as_slice().into();
            let change = Change::Begin {
                fingerprint: Fingerprint::of("ours"),
                request: Some(Arc::clone(&shared)),
                deferred: false,
            };
            let begun = changed(None, change, at(1));
            assert_eq!(size::bytes(&begun), size::begun(&key(), Some(&bytes)));
            let doubtful = changed(Some(begun.clone()), step(StepChange::Intend { attempt: 1 }), at(1));
            assert_eq!(size::bytes(&doubtful) - size::bytes(&begun), size::new_step("charge"));
            let witness = StepChange::Witness { attempt: 1, result: Some(Arc::clone(&shared)), most: 16 };
            let told = changed(Some(doubtful.clone()), step(witness), at(1));
            assert_eq!(size::bytes(&told) - size::bytes(&doubtful), size::new_late(Some(&bytes)));
            let late = Late { attempt: 1, at: at(1).time, body: Some(Body::Here(shared)) };
            assert_eq!(size::late(&late), size::new_late(Some(&bytes)));
            assert_eq!(size::new_late(Some(&bytes)), size::new_late(None) + size::new_checkpoint("", &bytes) - 17);
            // In a row of its own it takes a reference beside, and no byte sooner.
            let reference = if bytes.len() > BODY_HERE_BYTES_MAX { 12 } else { 0 };
            assert_eq!(size::new_checkpoint("", &bytes), 17 + 5 + reference + bytes.len() as u64);
        }
    }
}
