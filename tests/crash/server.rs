//! A server on a simulated disk that keeps the history of what it asked for and was told.

use std::collections::BTreeMap;
use std::time::Duration;

use reentry::{
    Advance, Claim, Clock, Fingerprint, Key, Outcome, Pending, Resolution, Revision, Run, SimulatedDisk, State, Store,
};

use super::history::{
    Bytes, Effect, End, Expected, Guarded, History, Known, NOT_YET, Position, RETENTION, Shown, Step, TOMBSTONES, put,
};
use super::support::{Gate, key, request, run_of};

/// How many of the operations are claimed after a cut; the progress of all is looked at.
const ASKED_MAX: usize = 8;

pub(crate) struct Server {
    pub(crate) disk: SimulatedDisk,
    clock: Gate,
    pub(crate) history: History,
    store: Option<Store>,
    known: BTreeMap<Key, Known>,
    born: usize,
}

/// Opens the store on this disk as every server of these tests does.
pub(crate) fn open(disk: &SimulatedDisk, clock: &Gate) -> reentry::Result<Store> {
    Store::builder().clock(clock.clone()).retention(RETENTION).tombstones(TOMBSTONES).open_on(disk)
}

impl Server {
    /// A server on an empty disk, before the store is created.
    pub(crate) fn new() -> Self {
        Self {
            disk: SimulatedDisk::new().with_journal(1),
            clock: Gate::new(),
            history: History::default(),
            store: None,
            known: BTreeMap::new(),
            born: 0,
        }
    }

    /// A server on what a cut left, of which `expected` is known: opens it and looks at every one of `keys`. What was
    /// in flight at the cut is told now, as it is found.
    pub(crate) fn after_a_cut(disk: SimulatedDisk, expected: &Expected, keys: &[Key]) -> Self {
        let clock = Gate::new();
        clock.clock.set_wall(expected.wall);
        let mut server =
            Self { clock, history: History::default(), store: None, known: BTreeMap::new(), born: expected.born, disk };
        let asked = server.disk.calls();
        let told = expected.told.iter().map(|(key, known)| (key.clone(), Some(known.clone()))).collect();
        server.note("what was told before", (asked, asked), told, expected.token);
        server.store = Some(open(&server.disk, &server.clock).unwrap());
        let found = server.look(expected, keys);
        let told = server.disk.calls();
        server.note("opening it after a cut", (asked, told), found, 0);
        server
    }

    /// How much of what was in flight is there, after all that was told is found to be there, and nothing else.
    fn look(&self, expected: &Expected, keys: &[Key]) -> Vec<Effect> {
        let mut shown = BTreeMap::new();
        for key in keys {
            let progress = self.store().progress(key).unwrap();
            shown.extend(progress.map(|progress| (key.clone(), Shown::of(&progress))));
        }
        let in_flight = &expected.in_flight;
        let should = |most: usize| -> BTreeMap<_, _> {
            let mut known = expected.told.clone();
            put(&mut known, &in_flight[..most]);
            known.into_iter().filter_map(|(key, known)| Some((key, known.shown(expected.wall)?))).collect()
        };
        match (0..=in_flight.len()).find(|most| should(*most) == shown) {
            Some(most) => in_flight[..most].to_vec(),
            None => {
                let differs = |key: &&Key| should(0).get(*key) != shown.get(*key);
                let faults: Vec<_> = keys.iter().filter(differs).collect();
                let (told, found) = (should(0), faults.iter().map(|key| shown.get(*key)));
                let told: Vec<_> = faults.iter().map(|key| told.get(*key)).collect();
                panic!("neither what was told nor that and what was in flight: told {told:#?} found {found:#?}");
            }
        }
    }

    pub(crate) fn store(&self) -> &Store {
        self.store.as_ref().expect("the store is open")
    }

    fn note(&mut self, what: &str, (asked, told): (usize, usize), effects: Vec<Effect>, token: u64) {
        put(&mut self.known, &effects);
        if told > asked && told != NOT_YET {
            // What was only reported went with this.
            self.history
                .steps
                .iter_mut()
                .rev()
                .take_while(|step| step.told == NOT_YET)
                .for_each(|step| step.told = told);
        }
        let wall = self.clock.wall();
        self.history.steps.push(Step { what: what.to_owned(), asked, told, wall, effects, token });
    }

    /// Asks for something and notes the answer, with what it means for the operations.
    fn step<T>(
        &mut self,
        what: &str,
        ask: impl FnOnce(&Store) -> T,
        means: impl FnOnce(&mut Self, &T) -> (Vec<Effect>, u64),
    ) -> T {
        let asked = self.disk.calls();
        let answer = ask(self.store());
        let told = self.disk.calls();
        let (effects, token) = means(self, &answer);
        self.note(what, (asked, told), effects, token);
        answer
    }

    pub(crate) fn open(&mut self) {
        let asked = self.disk.calls();
        self.store = Some(open(&self.disk, &self.clock).unwrap());
        self.note("opening", (asked, self.disk.calls()), Vec::new(), 0);
    }

    pub(crate) fn close(&mut self) {
        let asked = self.disk.calls();
        self.store.take().unwrap().close().unwrap();
        self.note("closing", (asked, self.disk.calls()), Vec::new(), 0);
    }

    pub(crate) fn pass(&mut self, span: Duration) {
        self.clock.clock.advance(span);
        let calls = self.disk.calls();
        self.note("waiting", (calls, calls), Vec::new(), 0);
    }

    pub(crate) fn claim(&mut self, key: &Key) -> Run {
        self.claims(std::slice::from_ref(key)).remove(0)
    }

    /// Claims several keys in one batch; each is a new operation or an unfinished one that nobody owns.
    pub(crate) fn claims(&mut self, keys: &[Key]) -> Vec<Run> {
        let what = format!("claiming {} of {}", keys[0].key(), keys.len());
        let gate = self.clock.clone();
        let ask = |store: &Store| {
            gate.hold(store);
            let asked: Vec<_> = keys.iter().map(|key| store.claim(key, request())).collect();
            gate.open();
            asked.into_iter().map(|claim| run_of(claim.wait().unwrap())).collect::<Vec<_>>()
        };
        self.step(&what, ask, |server, runs| {
            let effects = keys.iter().zip(runs).map(|(key, run)| (key.clone(), Some(server.entered(key, run))));
            let effects: Vec<_> = effects.collect();
            (effects, runs.iter().map(Run::token).max().unwrap())
        })
    }

    /// What a claim that came to a run means.
    fn entered(&mut self, key: &Key, run: &Run) -> Known {
        let wall = self.clock.wall();
        let known = match self.known.get(key).filter(|known| known.shown(wall).is_some()) {
            Some(known) => Known { attempt: known.attempt + 1, ..known.clone() },
            None => {
                self.born += 1;
                let (born, since) = (self.born - 1, wall);
                Known { born, request: request(), attempt: 1, since, checkpoint: None, guarded: Vec::new(), end: None }
            }
        };
        assert_eq!((run.attempt(), run.since()), (known.attempt, known.since));
        assert_eq!(run.checkpoint().as_ref().map(Position::of), known.checkpoint);
        assert_eq!(run.steps().iter().map(Guarded::of).collect::<Vec<_>>(), known.guarded);
        known
    }

    pub(crate) fn advance(&mut self, run: &mut Run, name: &str, payload: &[u8]) {
        let what = format!("advancing {} to {name}", run.key().key());
        let key = run.key().clone();
        self.step(
            &what,
            |_| run.advance(name, &payload.to_vec()).wait().unwrap(),
            |server, revision| {
                let after = server.moved(&key, name, *revision, payload);
                (vec![(key.clone(), Some(after))], 0)
            },
        );
    }

    /// Guards an effect that gives this result; none where it comes to an error, and nobody knows.
    pub(crate) fn guard(&mut self, run: &mut Run, name: &str, result: Option<&[u8]>) {
        let key = run.key().clone();
        let attempt = run.attempt();
        let effect = |_| result.map(<[u8]>::to_vec).ok_or("a time-out");
        let guard = |_: &Store| assert_eq!(run.step(name).run_keyed(effect).ok().as_deref(), result);
        self.step(&format!("guarding {name} of {}", key.key()), guard, |server, ()| {
            let begun = server.guarded(&key, name, |step| (step.attempt, step.result) = (attempt, None));
            (vec![(key.clone(), Some(begun))], 0)
        });
        if let Some(result) = result {
            let done = self.guarded(&key, name, |step| step.result = Some(Bytes(result.to_vec())));
            let calls = self.disk.calls();
            self.note(&format!("reporting {name}"), (calls, NOT_YET), vec![(key, Some(done))], 0);
        }
    }

    /// Asks for a step that has this result already, whatever would happen now.
    pub(crate) fn guard_again(&mut self, run: &mut Run, name: &str, result: &[u8]) {
        let again = |_: &Store| run.step(name).run_keyed(|_| Err::<Vec<u8>, _>("it runs again")).unwrap();
        assert_eq!(self.step(&format!("asking for {name}"), again, |_, _| (Vec::new(), 0)), result, "P4");
    }

    /// Says that a step in doubt happened, with this result.
    pub(crate) fn resolve(&mut self, key: &Key, name: &str, result: &[u8]) {
        let resolve = |store: &Store| {
            store.resolve(key, name, Resolution::Happened(result.to_vec()), "looked").wait().unwrap();
        };
        self.step(&format!("resolving {name} of {}", key.key()), resolve, |server, ()| {
            let resolved = server.guarded(key, name, |step| {
                (step.result, step.notes) = (Some(Bytes(result.to_vec())), step.notes + 1);
            });
            (vec![(key.clone(), Some(resolved))], 0)
        });
    }

    /// The operation after a change to one of its steps.
    fn guarded(&self, key: &Key, name: &str, change: impl FnOnce(&mut Guarded)) -> Known {
        let mut known = self.known[key].clone();
        match known.guarded.iter_mut().find(|step| step.name == name) {
            Some(step) => change(step),
            None => {
                let mut step = Guarded { name: name.to_owned(), attempt: 0, result: None, notes: 0 };
                change(&mut step);
                known.guarded.push(step);
            }
        }
        known
    }

    /// Moves a checkpoint without owning the operation.
    pub(crate) fn advance_from_outside(&mut self, key: &Key, name: &str, payload: &[u8]) {
        let expected = self.store().progress(key).unwrap().unwrap();
        let expected = expected.checkpoint().map_or(Revision::NONE, reentry::Checkpoint::revision);
        let what = format!("advancing {} from outside to {name}", key.key());
        let ask = |store: &Store| match store.advance(key, expected, name, &payload.to_vec()).wait().unwrap() {
            Advance::Moved(checkpoint) => checkpoint.revision(),
            Advance::Lost(_) => panic!("nobody else moves it"),
        };
        self.step(&what, ask, |server, revision| {
            (vec![(key.clone(), Some(server.moved(key, name, *revision, payload)))], 0)
        });
    }

    fn moved(&self, key: &Key, name: &str, revision: Revision, payload: &[u8]) -> Known {
        let known = self.known[key].clone();
        let next = known.checkpoint.as_ref().map_or(1, |before| before.revision + 1);
        assert_eq!(revision.get(), next);
        let (name, at, bytes) = (name.to_owned(), self.clock.wall(), Bytes(payload.to_vec()));
        Known { checkpoint: Some(Position { name, revision: next, at, bytes }), ..known }
    }

    pub(crate) fn complete(&mut self, run: Run, payload: &[u8]) {
        self.end(vec![run], true, payload);
    }

    pub(crate) fn fail(&mut self, run: Run, payload: &[u8]) {
        self.end(vec![run], false, payload);
    }

    /// Completes several runs in one batch.
    pub(crate) fn completes(&mut self, runs: Vec<Run>, payload: &[u8]) {
        self.end(runs, true, payload);
    }

    fn end(&mut self, runs: Vec<Run>, success: bool, payload: &[u8]) {
        let keys: Vec<_> = runs.iter().map(|run| run.key().clone()).collect();
        let what = format!("ending {} of {}", keys[0].key(), keys.len());
        let gate = self.clock.clone();
        let ask = |store: &Store| {
            gate.hold(store);
            let end = |run: Run| if success { run.complete(&payload.to_vec()) } else { run.fail(&payload.to_vec()) };
            let asked: Vec<Pending<Outcome>> = runs.into_iter().map(end).collect();
            gate.open();
            asked.into_iter().map(|end| End::of(&end.wait().unwrap())).collect::<Vec<_>>()
        };
        let at = self.clock.wall();
        self.step(&what, ask, |server, ends| {
            let end = End { success, at, bytes: Bytes(payload.to_vec()) };
            assert!(ends.iter().all(|told| *told == end));
            let ended = |key: &Key| Known { end: Some(end.clone()), ..server.known[key].clone() };
            (keys.iter().map(|key| (key.clone(), Some(ended(key)))).collect(), 0)
        });
    }

    pub(crate) fn forget(&mut self, key: &Key) {
        let what = format!("forgetting {}", key.key());
        self.step(&what, |store| assert!(store.forget(key).wait().unwrap()), |_, ()| (vec![(key.clone(), None)], 0));
    }

    /// Claims what needs no run: the answer rests on what is durable already.
    pub(crate) fn ask(&mut self, key: &Key, fingerprint: Fingerprint) -> Claim {
        let what = format!("asking about {}", key.key());
        self.step(&what, |store| store.claim(key, fingerprint).wait().unwrap(), |_, _| (Vec::new(), 0))
    }

    /// What a server does with any store it finds: everything known shows, and work goes on.
    pub(crate) fn go_on(&mut self) {
        self.unfinished_are_listed();
        let wall = self.clock.wall();
        let known: Vec<_> = self.known.iter().map(|(key, known)| (key.clone(), known.shown(wall))).collect();
        for (key, shown) in known.iter().filter_map(|(key, shown)| Some((key, shown.as_ref()?))).take(ASKED_MAX) {
            assert!(matches!(self.ask(key, Fingerprint::of("another request")), Claim::Reject(_)));
            match (shown.state(), &shown.end) {
                (State::Gone, _) => assert!(matches!(self.ask(key, request()), Claim::Gone(_))),
                (_, Some(end)) => {
                    let Claim::Replay(outcome) = self.ask(key, request()) else { panic!("it is over") };
                    assert_eq!(End::of(&outcome), *end);
                }
                (_, None) => {}
            }
        }
        let highest = self.history.at(self.disk.calls()).token;
        let free =
            known.iter().find(|(_, shown)| shown.as_ref().is_some_and(|shown| shown.state() == State::Unfinished));
        if let Some((key, _)) = free {
            let mut run = self.claim(key);
            assert!(run.token() > highest, "{} was given before, as {highest} was", run.token());
            self.advance(&mut run, "after the cut", &[7; 3]);
        }
        let run = self.claim(&key(&format!("further {}", self.born)));
        assert!(run.token() > highest, "{} was given before, as {highest} was", run.token());
        self.complete(run, &[8; 2_000]);
        let operations = usize::try_from(self.store().verify().unwrap().operations).unwrap();
        let shown = self.known.values().filter(|known| known.shown(wall).is_some()).count();
        assert!((shown..=self.known.len()).contains(&operations), "{operations} of {}", self.known.len());
    }

    /// The unfinished are listed, all of them and nothing else, oldest first.
    fn unfinished_are_listed(&self) {
        let listed: Vec<_> = self.store().unfinished().map(|progress| progress.unwrap().key().clone()).collect();
        let mut unfinished: Vec<_> = self.known.iter().filter(|(_, known)| known.end.is_none()).collect();
        unfinished.sort_unstable_by_key(|(_, known)| known.born);
        assert_eq!(listed, unfinished.into_iter().map(|(key, _)| key.clone()).collect::<Vec<_>>());
    }
}
