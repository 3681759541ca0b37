//! A ledger on disk: what was asked of somebody, and what was done about it, once for each id.
//!
//! The bank and the mailer each keep one. It is one line of JSON an entry, and nothing is answered before its line is
//! synced: what has been done stays done, whoever is killed next.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};

use crate::Result;

/// How often something was asked for, and how often it was done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Count {
    pub(crate) done: u32,
    pub(crate) asked: u32,
}

impl std::ops::Add for Count {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { done: self.done + other.done, asked: self.asked + other.asked }
    }
}

/// One request, as it is told to a ledger.
pub(crate) struct Request {
    /// The id by which a retry is known: equal ids are one effect.
    pub(crate) id: String,
    /// On whose account the counts go. Ids say nothing here: a server that makes up a new id for each retry
    /// is caught by its customers.
    pub(crate) customer: String,
}

/// A handle to one ledger; clones share it.
#[derive(Clone)]
pub(crate) struct Ledger(Arc<Mutex<Book>>);

/// What its keeper does when it is asked again under an id.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Repeats {
    /// Nothing: the answer is the old one.
    Answered,
    /// The same once more.
    DoneAgain,
}

struct Book {
    file: File,
    repeats: Repeats,
    /// The answer to each id that was done.
    answers: HashMap<String, String>,
    counts: HashMap<String, Count>,
}

/// One entry.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Line {
    Asked { id: String, customer: String },
    Done { id: String, customer: String, answer: String },
}

impl Ledger {
    /// Opens the ledger at `path`, creates it if need be, and reads what is there.
    pub(crate) fn open(path: &Path, repeats: Repeats) -> Result<Self> {
        let book =
            Book::open(path, repeats).map_err(|error| format!("cannot open the ledger {}: {error}", path.display()))?;
        Ok(Self(Arc::new(Mutex::new(book))))
    }

    /// Does what was asked for. What was done before under this id is done again only by a keeper who does not care.
    pub(crate) async fn perform(&self, request: Request, answer: String) -> Result<String> {
        self.write(move |book| {
            let old = book.answers.get(&request.id).filter(|_| book.repeats == Repeats::Answered).cloned();
            if let Some(old) = old {
                book.append(&[request.asked()])?;
                return Ok(old);
            }
            book.append(&[request.asked(), request.done(&answer)])?;
            Ok(answer)
        })
        .await
    }

    /// Notes that something was asked for that will not be done.
    pub(crate) async fn refuse(&self, request: Request) -> Result<()> {
        self.write(move |book| book.append(&[request.asked()])).await
    }

    /// What was answered under this id, if anything was done.
    pub(crate) fn answer(&self, id: &str) -> Result<Option<String>> {
        let book = self.0.lock().map_err(|_| "an earlier write to the ledger panicked")?;
        Ok(book.answers.get(id).cloned())
    }

    /// What was asked and done on one customer's account.
    pub(crate) fn count(&self, customer: &str) -> Result<Count> {
        let book = self.0.lock().map_err(|_| "an earlier write to the ledger panicked")?;
        Ok(book.counts.get(customer).copied().unwrap_or_default())
    }

    /// A sync takes as long as the disk wants, so it runs where it holds up no other task.
    async fn write<T: Send + 'static>(&self, work: impl FnOnce(&mut Book) -> Result<T> + Send + 'static) -> Result<T> {
        let shared = Arc::clone(&self.0);
        tokio::task::spawn_blocking(move || {
            let mut book = shared.lock().map_err(|_| "an earlier write to the ledger panicked")?;
            work(&mut book)
        })
        .await?
    }
}

impl Book {
    fn open(path: &Path, repeats: Repeats) -> Result<Self> {
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        // A line without its end was never synced, so nobody was told of it: the next one takes its place.
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        file.set_len(whole as u64)?;
        file.seek(SeekFrom::End(0))?;
        let mut book = Self { file, repeats, answers: HashMap::new(), counts: HashMap::new() };
        for line in text[..whole].lines() {
            book.note(&serde_json::from_str(line)?);
        }
        Ok(book)
    }

    fn append(&mut self, lines: &[Line]) -> Result<()> {
        let mut text = String::new();
        for line in lines {
            text.push_str(&serde_json::to_string(line)?);
            text.push('\n');
        }
        self.file.write_all(text.as_bytes())?;
        self.file.sync_data()?;
        for line in lines {
            self.note(line);
        }
        Ok(())
    }

    fn note(&mut self, line: &Line) {
        match line {
            Line::Asked { customer, .. } => self.counts.entry(customer.clone()).or_default().asked += 1,
            Line::Done { id, customer, answer } => {
                self.counts.entry(customer.clone()).or_default().done += 1;
                self.answers.insert(id.clone(), answer.clone());
            }
        }
    }
}

impl Request {
    fn asked(&self) -> Line {
        Line::Asked { id: self.id.clone(), customer: self.customer.clone() }
    }

    fn done(&self, answer: &str) -> Line {
        Line::Done { id: self.id.clone(), customer: self.customer.clone(), answer: answer.to_owned() }
    }
}
