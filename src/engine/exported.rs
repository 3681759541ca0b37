//! What goes into an export, and what comes from one.

use std::sync::Arc;

use super::error::unwound;
use super::list::{Order, len};
use super::log::{at, share};
use super::place::Place;
use super::queue::Shut;
use super::request::{Adopted, Carried, Reply};
use super::{Engine, ErrorKind};
use crate::clock::Timestamp;
use crate::error::Result;
use crate::pending::{Pending, promise};
use crate::record::Record;
use crate::record::transitions::{Command, is_over};
use crate::sync::Ordering;

impl Engine {
    /// Gives every record that counts to `each`, as they were at one moment, with the share of the work that is done:
    /// what has ended first, then what is unfinished, oldest first. Returns that moment.
    ///
    /// As long as it lasts the file cannot use again what is freed.
    pub(crate) fn each(self: &Arc<Self>, mut each: impl FnMut(Result<Record>, f64) -> Result<()>) -> Result<Timestamp> {
        if let Some(Shut::Closed) = self.shared.queue.is_shut() {
            return Err(Shut::Closed.error());
        }
        let (log, time) = (&self.shared.log, self.time());
        let reader = log.moment()?;
        let rows = Place::STARTS.map(|place| unwound(|| len(&reader, place)).unwrap_or_default());
        let (total, mut seen) = (rows.iter().sum::<u64>(), 0);
        let (mut unfinished, mut left) = (Vec::new(), Order::OldestFirst.starts().to_vec());
        let mut over = None;
        while let Some(from) = left.pop() {
            let page = log.page_at(&reader, from, Order::OldestFirst, u64::MAX, |place, record| {
                let counts = log.counts(place);
                unfinished.extend((counts && record.is_unfinished()).then_some((record.born, place)));
                let is_left_out = counts && is_over(record, time);
                if is_left_out {
                    over.get_or_insert_with(|| record.key.clone());
                }
                counts && !record.is_unfinished() && !is_left_out
            })?;
            seen += page.looked;
            let done = share(seen.saturating_sub(unfinished.len() as u64), total);
            page.found.into_iter().try_for_each(|(_, row)| each(row, done))?;
            left.extend(page.after);
        }
        unfinished.sort_unstable();
        let ended = total.saturating_sub(unfinished.len() as u64);
        for (nth, (_, place)) in unfinished.into_iter().enumerate() {
            let record = unwound(|| log.read_at(&reader, place)).map_err(|e| at(place, e));
            if let Some(record) = record.transpose() {
                each(record, share(ended + nth as u64, total))?;
            }
        }
        if let Some(over) = over {
            // What is left out as over stays so (P11), as far as the disk takes that.
            drop(self.keep_time(&over, time));
        }
        Ok(time)
    }

    /// Takes a record in that comes from an export.
    pub(crate) fn adopt(self: &Arc<Self>, record: Record) -> Pending<Adopted> {
        self.shared.adopted_at.fetch_max(self.time().as_millis(), Ordering::AcqRel);
        let (promise, answer) = promise();
        let (key, hash) = (record.key.clone(), self.shared.index.hash(&record.key));
        let command = Command::Adopt(Arc::new(record));
        let unsent = self.push(&key, hash, command, Carried::default(), None, Reply::Adopt(promise));
        self.follow(ErrorKind::OutcomeUnknown, unsent, answer, |_, adopted| Ok(adopted))
    }
}
