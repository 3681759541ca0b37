//! Operations that are moved one after the other, each when the one before it was acknowledged: at every moment the
//! first of them are one ahead of the rest, and a picture of two moments shows it.

use reentry::{Run, Store, Table};

use crate::support::{key, run};

const LINKS: u64 = 5;
const COUNTED: Table = Table::new("counted");

pub(crate) struct Chain {
    name: String,
    runs: Vec<Run>,
    moves: u64,
}

impl Chain {
    pub(crate) fn new(store: &Store, name: &str) -> Self {
        let runs = (0..LINKS).map(|link| run(store, &key(&link_name(name, link)))).collect();
        Self { name: name.to_owned(), runs, moves: 0 }
    }

    /// Moves the next of them, with a row of the server's own. Returns how many moves there were.
    pub(crate) fn go_on(&mut self) -> u64 {
        let (link, to) = (self.moves % LINKS, self.moves / LINKS + 1);
        let name = link_name(&self.name, link);
        let run = &mut self.runs[usize::try_from(link).unwrap()];
        let moved = run.advance_with("counted", &to.to_string().repeat(30), move |tx| {
            tx.open_table(COUNTED)?.insert(name.as_bytes(), to.to_le_bytes())?;
            Ok(())
        });
        moved.wait().unwrap();
        self.moves += 1;
        self.moves
    }
}

fn link_name(chain: &str, link: u64) -> String {
    format!("{chain} {link}")
}

/// How many moves a store shows, where it shows one moment.
#[track_caller]
pub(crate) fn moves_of(store: &Store, chain: &str) -> u64 {
    let moved: Vec<u64> = (0..LINKS)
        .map(|link| {
            let name = link_name(chain, link);
            let progress = store.progress(&key(&name)).unwrap();
            let moved = progress.as_ref().and_then(|p| p.checkpoint()).map_or(0, |c| c.revision().get());
            let row = store.read(|tx| tx.open_table(COUNTED)?.get(name.as_bytes())).unwrap().unwrap();
            let row = row.map_or(0, |row| u64::from_le_bytes(row.as_slice().try_into().unwrap()));
            assert_eq!(row, moved, "P8: {name} and its row are of two moments");
            moved
        })
        .collect();
    let (first, last) = (moved[0], moved[moved.len() - 1]);
    assert!(first - last <= 1 && moved.is_sorted_by(|one, next| one >= next), "of several moments: {moved:?}");
    moved.iter().sum()
}
