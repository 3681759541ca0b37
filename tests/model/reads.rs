//! What only reads: how far an operation got, what is unfinished, figures.

use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use reentry::Result;

use crate::answers::{Answer, Bytes, Figures, Progress, Step};
use crate::commands::{KEYS, REQUESTS};
use crate::rules::Model;
use crate::world::{Compared, World, fingerprint, key_of};

impl World {
    /// Compares what was read. Of what runs only reported a part may be on disk by now, in their order: what is shown
    /// once stays.
    pub(crate) fn compare_read<T>(&mut self, real: &T, expected: impl Fn(&mut Model) -> T) -> Compared
    where
        T: PartialEq + std::fmt::Debug,
    {
        for count in 0..=self.model.reports.len() {
            let mut model = self.model.clone();
            model.take_in(count);
            if expected(&mut model) == *real {
                self.model = model;
                return Ok(());
            }
        }
        let expected = expected(&mut self.model);
        Err(TestCaseError::fail(format!("the store shows {real:?},\nthe model {expected:?}")))
    }

    pub(crate) fn progress(&mut self, key: usize) -> Compared {
        let real = self.ask_progress(key)?;
        self.compare_read(&real, |model| model.progress(key))?;
        self.count(&real);
        Ok(())
    }

    pub(crate) fn progress_of_all(&mut self) -> Compared {
        (0..KEYS.len()).try_for_each(|key| self.progress(key))
    }

    pub(crate) fn ask_progress(&mut self, key: usize) -> Compared<Answer> {
        match self.store.progress(&key_of(key)) {
            Ok(None) => Ok(Answer::Progress(None)),
            Ok(Some(progress)) => Ok(Answer::Progress(Some(Box::new(self.told(&progress)?)))),
            Err(error) => Ok(Answer::Refused(error.kind())),
        }
    }

    fn told(&mut self, progress: &reentry::Progress) -> Compared<Progress> {
        let key = (0..KEYS.len()).find(|key| key_of(*key) == *progress.key());
        let request = (0..REQUESTS.len()).find(|request| fingerprint(*request) == progress.fingerprint());
        let (Some(key), Some(fingerprint)) = (key, request) else {
            return Err(TestCaseError::fail(format!("nobody ever claimed this: {progress:?}")));
        };
        let outcome = progress.outcome();
        let steps: Vec<_> = progress.steps().iter().map(Step::from).collect();
        let in_doubt: Vec<_> = progress.in_doubt().map(Step::from).collect();
        let expected: Vec<_> = steps.iter().filter(|step| step.is_in_doubt()).cloned().collect();
        prop_assert_eq!(in_doubt, expected, "what is in doubt");
        Ok(Progress {
            key,
            fingerprint,
            state: progress.state(),
            attempt: progress.attempt(),
            since: progress.since().as_millis(),
            mark: progress.checkpoint().map(|checkpoint| self.mark(checkpoint)),
            request: progress.request().map(Bytes::from),
            steps,
            outcome: outcome.map(|o| (o.is_success(), o.bytes().into(), o.completed_at().as_millis())),
        })
    }

    /// Lists what is unfinished: of the scope of this key, of this age, behind some operation that was listed before.
    pub(crate) fn unfinished(&mut self, scope: Option<usize>, age: Option<u64>, after: Option<usize>) -> Compared {
        let scope = scope.map(|key| KEYS[key].0);
        let (born, position) = *self
            .positions
            .iter()
            .map(|(b, p)| (*b, *p))
            .collect::<Vec<_>>()
            .get(after.map_or(0, |nth| nth % self.positions.len()))
            .unwrap();
        let mut list = self.store.unfinished();
        if let Some(scope) = scope {
            list = list.of_scope(scope);
        }
        if let Some(age) = age {
            list = list.older_than(Duration::from_millis(age));
        }
        if after.is_some() {
            list = list.after(position);
        }
        let listed: Vec<_> = list.collect::<Result<_>>().map_err(|e| TestCaseError::fail(e.to_string()))?;
        for progress in &listed {
            let key = (0..KEYS.len()).find(|key| key_of(*key) == *progress.key());
            if let Some(operation) = key.and_then(|key| self.model.operations.get(&key)) {
                let position = *self.positions.entry(operation.born).or_insert(progress.position());
                prop_assert_eq!(progress.position(), position, "a position never changes");
            }
        }
        let told: Compared<Vec<_>> = listed.iter().map(|progress| self.told(progress)).collect();
        let real = Answer::Unfinished(told?);
        self.compare_read(&real, |model| model.unfinished(scope, age, born))?;
        self.count(&real);
        Ok(())
    }

    pub(crate) fn check_figures(&mut self) -> Compared {
        let stats = self.store.stats().map_err(|e| TestCaseError::fail(e.to_string()))?;
        let (unfinished, in_doubt, stuck) = (stats.unfinished, stats.in_doubt, stats.stuck);
        let figures = Figures { unfinished, in_doubt, stuck, owned: stats.owned, waiting: stats.waiting };
        self.compare_read(&figures, |model| model.figures())
    }
}
