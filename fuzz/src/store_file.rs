//! A store's file with damage to it, opened with either check, to be written or to be read. It may be refused; it never
//! panics or hangs. One that is refused, or only read, stays as it was. What it still answers under the full check is
//! what was acknowledged: no key is lost, no outcome is another. To be written without that check, damage is to rows
//! alone.

use std::ops::Range;
use std::sync::LazyLock;
use std::time::Duration;

use reentry::{
    Builder, Claim, ErrorKind, Fingerprint, Key, Loss, ManualClock, OpenCheck, Pending, Result, Run, SimulatedDisk,
    State, Store, Timestamp,
};

use super::bytes::Bytes;

/// More damage than this in one file is only slower.
const DAMAGE_MAX: usize = 16;
/// Where redb's pages begin, and how long one is.
const PAGES_AT: usize = 0;
const PAGE: usize = 4096;
/// Where the journal of a simulated disk ends: behind its head and eight pages.
const JOURNAL_ENDS: usize = 9 * PAGE;
/// No row of these files is longer, beside a payload that has a row of its own.
const ROW_MAX: usize = 256;
const HOUR: Duration = Duration::from_secs(3600);
const START: Timestamp = Timestamp::from_millis(1_700_000_000_000);

/// Damage to a file, of eight bytes. Places are taken as a remainder of its length.
#[derive(Debug)]
enum Damage {
    FlipBit {
        at: u32,
        bit: u8,
    },
    SetByte {
        at: u32,
        byte: u8,
    },
    Overwrite {
        at: u32,
        with: [u8; 3],
    },
    /// A page stands where another belongs.
    CopyPage {
        from: u16,
        to: u16,
    },
    Zero {
        at: u32,
        len: u16,
    },
    Truncate {
        at: u32,
    },
    Extend {
        by: u16,
    },
}

impl Damage {
    fn read(bytes: &[u8]) -> Self {
        let mut bytes = Bytes::new(bytes);
        match bytes.byte() % 7 {
            0 => Self::FlipBit { at: bytes.u32(), bit: bytes.byte() },
            1 => Self::SetByte { at: bytes.u32(), byte: bytes.byte() },
            2 => Self::Overwrite { at: bytes.u32(), with: [bytes.byte(), bytes.byte(), bytes.byte()] },
            3 => Self::CopyPage { from: bytes.u16(), to: bytes.u16() },
            4 => Self::Zero { at: bytes.u32(), len: bytes.u16() },
            5 => Self::Truncate { at: bytes.u32() },
            _ => Self::Extend { by: bytes.u16() },
        }
    }
}

/// The whole file closed, the file as a power cut leaves it, and what is known of its keys.
struct Files {
    closed: File,
    cut: File,
    known: Vec<Known>,
}

/// A key that was acknowledged, with its state, and the payload of its checkpoint or outcome.
type Known = (Key, State, Vec<u8>);

struct File {
    image: Vec<u8>,
    /// Which of its bytes are those of rows, and not redb's own.
    is_row: Vec<bool>,
    /// Where its last two commits wrote, if it was not closed.
    last: Option<[Vec<usize>; 2]>,
}

impl File {
    fn new(image: Vec<u8>, known: &[Known], last: Option<[Vec<usize>; 2]>) -> Self {
        let mut is_row = vec![false; image.len()];
        for (key, _, payload) in known {
            let rows = rows(&image, key);
            assert!(!rows.is_empty(), "{key:?} stands nowhere in the file");
            rows.into_iter().for_each(|row| is_row[row].fill(true));
            if payload.len() > ROW_MAX {
                places(&image, payload).for_each(|at| is_row[at..at + payload.len()].fill(true));
            }
        }
        Self { image, is_row, last }
    }

    /// Whether the last two commits were damaged. Then those before them may be lost too, where damage went on to them:
    /// nothing behind them tells that they were there.
    fn is_end_damaged(&self, file: &[u8]) -> bool {
        let is_damaged = |commit: &Vec<usize>| commit.iter().any(|at| file.get(*at) != self.image.get(*at));
        self.last.as_ref().is_some_and(|last| last.iter().all(is_damaged))
    }

    /// Takes back every damage but that to rows. Any other page that a commit writes anew can end the process there
    /// where it is damaged, and only the full check keeps that out (docs/reliability.md).
    fn mend_all_but_rows(&self, file: &mut Vec<u8>) {
        file.resize(self.image.len(), 0);
        for ((byte, was), _) in file.iter_mut().zip(&self.image).zip(&self.is_row).filter(|(_, is_row)| !**is_row) {
            *byte = *was;
        }
    }
}

/// Where these bytes stand in a file.
fn places<'a>(file: &'a [u8], bytes: &'a [u8]) -> impl Iterator<Item = usize> + 'a {
    file.windows(bytes.len()).enumerate().filter(move |(_, window)| *window == bytes).map(|(at, _)| at)
}

/// The rows of a key, those that were removed too, by what docs/format.md says of one: its version, how long scope and
/// key are, these, and a checksum behind it all.
fn rows(file: &[u8], key: &Key) -> Vec<Range<usize>> {
    let text = format!("{}{}", key.scope(), key.key());
    let lengths = [key.scope(), key.key()].map(|name| name.len() as u8);
    let mut rows = Vec::new();
    for at in places(file, text.as_bytes()) {
        let starts =
            (at.saturating_sub(ROW_MAX)..at).filter(|start| file[*start] == 1 && file[start + 2..][..2] == lengths);
        rows.extend(starts.filter_map(|start| {
            let ends = at + text.len()..file.len().min(start + ROW_MAX).saturating_sub(3);
            let end =
                ends.into_iter().find(|end| crc32fast::hash(&file[start..*end]).to_le_bytes() == file[*end..][..4])?;
            Some(start..end + 4)
        }));
    }
    rows
}

static FILES: LazyLock<Files> = LazyLock::new(|| make_files().expect("a whole store works"));

fn key(name: &str) -> Key {
    Key::new("scope", name).expect("a valid key")
}

fn request() -> Fingerprint {
    Fingerprint::of("two pizzas")
}

fn builder(check: OpenCheck, at: Timestamp) -> Builder {
    Store::builder().clock(ManualClock::at(at)).retention(24 * HOUR).tombstones(24 * HOUR).check(check)
}

/// Lets the writer work, and waits.
fn worked<T>(store: &Store, pending: Pending<T>) -> Result<T> {
    store.work_by_hand();
    pending.wait()
}

fn make_files() -> Result<Files> {
    let disk = SimulatedDisk::new();
    let clock = ManualClock::at(START);
    let builder = Store::builder().clock(clock.clone()).retention(24 * HOUR).tombstones(24 * HOUR);
    let store = builder.open_by_hand(&disk)?;
    let run = |name: &str| -> Result<Run> {
        match worked(&store, store.claim(&key(name), request()))? {
            Claim::Run(run) => Ok(run),
            other => panic!("a new key can be run, got {other:?}"),
        }
    };
    let mut known = Vec::new();
    worked(&store, run("gone")?.complete(&vec![9_u8; 10]))?;
    known.push((key("gone"), State::Gone, Vec::new()));
    clock.advance(24 * HOUR);
    for n in 0..40_u8 {
        let name = format!("order-{n}");
        let mut run = run(&name)?;
        // Every third has a payload in a row of its own. None is what stands between rows.
        let bytes = vec![100 + n; if n % 3 == 0 { 1500 } else { 20 }];
        let state = match n % 4 {
            0 => {
                worked(&store, run.complete(&bytes))?;
                State::Succeeded
            }
            1 => {
                worked(&store, run.fail(&bytes))?;
                State::Failed
            }
            _ => {
                worked(&store, run.advance("paid", &bytes))?;
                State::Unfinished
            }
        };
        known.push((key(&name), state, bytes));
    }
    // The last commit of a file that was not closed may be lost to damage, as one that a power cut tore: redb cannot
    // tell the two apart. So nothing is asked about these.
    let left = || disk.cut(disk.calls(), |_| Loss::Lost).image();
    let before = left();
    run("last")?.release();
    let between = left();
    run("very last")?.release();
    let cut = left();
    store.close()?;
    let last = [differences(&before, &between), differences(&between, &cut)];
    assert!(last.iter().flatten().all(|at| *at < JOURNAL_ENDS), "both are in the journal alone");
    Ok(Files { closed: File::new(disk.image(), &known, None), cut: File::new(cut, &known, Some(last)), known })
}

/// Where the second file is another than the first.
fn differences(one: &[u8], other: &[u8]) -> Vec<usize> {
    (0..other.len()).filter(|at| one.get(*at) != other.get(*at)).collect()
}

/// Where a page stands, whose number is taken as a remainder of how many there are.
fn page(number: u16, file: &[u8]) -> Option<Range<usize>> {
    let pages = file.len().saturating_sub(PAGES_AT) / PAGE;
    let start = PAGES_AT + usize::from(number).checked_rem(pages)? * PAGE;
    Some(start..start + PAGE)
}

fn damage(file: &mut Vec<u8>, damage: &Damage) {
    let place = |at: u32, file: &[u8]| at as usize % file.len().max(1);
    match *damage {
        _ if file.is_empty() => {}
        Damage::FlipBit { at, bit } => {
            let at = place(at, file);
            file[at] ^= 1 << (bit % 8);
        }
        Damage::SetByte { at, byte } => {
            let at = place(at, file);
            file[at] = byte;
        }
        Damage::Overwrite { at, with } => {
            let at = place(at, file);
            let end = file.len().min(at + with.len());
            file[at..end].copy_from_slice(&with[..end - at]);
        }
        Damage::CopyPage { from, to } => {
            if let (Some(from), Some(to)) = (page(from, file), page(to, file)) {
                file.copy_within(from, to.start);
            }
        }
        Damage::Zero { at, len } => {
            let at = place(at, file);
            let end = file.len().min(at + usize::from(len));
            file[at..end].fill(0);
        }
        Damage::Truncate { at } => file.truncate(place(at, file)),
        Damage::Extend { by } => file.resize(file.len() + usize::from(by), 0),
    }
}

/// Asks for every key. Only the truth counts, or where that cannot be had only that there is an answer.
fn ask(store: &Store, is_true: bool) {
    for (key, state, bytes) in &FILES.known {
        let progress = match store.progress(key) {
            Ok(progress) => progress,
            Err(error) => {
                assert!(matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Failed | ErrorKind::Io), "{error:?}");
                continue;
            }
        };
        if is_true {
            let progress = progress.expect("a key that was acknowledged is known");
            assert_eq!(progress.state(), *state);
            let found = match state {
                State::Succeeded | State::Failed => progress.outcome().map(|outcome| outcome.bytes()),
                _ => progress.checkpoint().map(|checkpoint| checkpoint.bytes()),
            };
            assert_eq!(found.unwrap_or_default(), bytes);
        }
        let claim = worked(store, store.claim(key, request()));
        if let (true, Ok(claim)) = (is_true, claim) {
            match claim {
                Claim::Run(run) => assert_eq!((*state, run.attempt()), (State::Unfinished, 2)),
                Claim::Replay(outcome) => assert_eq!(outcome.bytes(), bytes),
                Claim::Gone(_) => assert_eq!(*state, State::Gone),
                other => panic!("nobody else is at work, got {other:?}"),
            }
        }
    }
}

/// The first byte says how the file was left, how it is checked, and whether it is opened to be read; behind it stands
/// the damage.
pub fn run(bytes: &[u8]) {
    let Some((how, bytes)) = bytes.split_first() else { return };
    let (was_closed, check) = (how & 1 == 0, if how & 2 == 0 { OpenCheck::Full } else { OpenCheck::Quick });
    let is_written = how & 4 == 0;
    let (whole, mut file) = damaged(was_closed, bytes);
    if check == OpenCheck::Quick && is_written {
        whole.mend_all_but_rows(&mut file);
    }
    // An empty disk is one to make a store on.
    if file.is_empty() {
        return;
    }
    let disk = SimulatedDisk::from_image(file.clone());
    let builder = builder(check, START + 24 * HOUR);
    let opened = if is_written { builder.open_by_hand(&disk) } else { builder.open_to_read_on(&disk) };
    let is_refused = opened.is_err();
    match opened {
        Ok(store) => {
            ask(&store, check == OpenCheck::Full && !whole.is_end_damaged(&file));
            let verdict = store.verify();
            assert!(verdict.is_ok() || check == OpenCheck::Quick, "{verdict:?}");
            // Closing writes, and may meet damage that nobody has met yet.
            drop(store.close());
        }
        Err(error) => {
            use ErrorKind::{Corrupt, Failed, Io, NewerFormat, NotAStore};
            assert!(matches!(error.kind(), Corrupt | Failed | Io | NewerFormat | NotAStore), "{error:?}");
        }
    }
    if is_refused || !is_written {
        assert!(disk.image() == file, "a file that is refused, or read alone, stays as it was");
    }
}

/// One of the files, whole and damaged.
fn damaged(was_closed: bool, bytes: &[u8]) -> (&'static File, Vec<u8>) {
    let whole = if was_closed { &FILES.closed } else { &FILES.cut };
    let mut file = whole.image.clone();
    bytes.chunks(8).take(DAMAGE_MAX).for_each(|one| damage(&mut file, &Damage::read(one)));
    (whole, file)
}

/// What is left of a damaged file is read. The first byte says how it was left; behind it stands the damage. Where a
/// store opens in full, all of it is left.
pub fn rescue(bytes: &[u8]) {
    let Some((how, bytes)) = bytes.split_first() else { return };
    let (whole, file) = damaged(how & 1 == 0, bytes);
    if file.is_empty() {
        return;
    }
    let disk = SimulatedDisk::from_image(file.clone());
    let builder = || builder(OpenCheck::Full, START + 24 * HOUR);
    let is_whole = builder().open_to_read_on(&disk).is_ok();
    match builder().open_damaged_on(&disk) {
        Ok(store) => {
            ask(&store, is_whole && !whole.is_end_damaged(&file));
            let (told, errors): (Vec<_>, Vec<_>) = store.operations().partition(Result::is_ok);
            let (again, _): (Vec<_>, Vec<_>) = store.operations().oldest_first().partition(Result::is_ok);
            assert!(!is_whole || errors.is_empty() && told.len() == again.len(), "{errors:?}");
        }
        Err(error) => {
            use ErrorKind::{Corrupt, Failed, Io, NewerFormat, NotAStore};
            assert!(!is_whole && matches!(error.kind(), Corrupt | Failed | Io | NewerFormat | NotAStore), "{error:?}");
        }
    }
    assert!(disk.image() == file, "a file that is read alone stays as it was");
}

/// Makes the whole files, which takes a while.
pub fn init() {
    LazyLock::force(&FILES);
}
