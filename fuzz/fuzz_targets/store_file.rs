//! A store's file with damage to it, opened with either check. It may be refused; it never panics or hangs. What it
//! still answers under the full check is what was acknowledged: no key is lost, no outcome is another.
#![no_main]

use std::panic;
use std::sync::{LazyLock, Mutex};
use std::time::Duration;

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use reentry::{
    Claim, ErrorKind, Fingerprint, Key, Loss, ManualClock, OpenCheck, Result, Run, SimulatedDisk, State, Store,
    Timestamp,
};

const HOUR: Duration = Duration::from_secs(3600);
const START: Timestamp = Timestamp::from_millis(1_700_000_000_000);

/// Damage to a file. Places are taken as a remainder of its length.
#[derive(Debug, Arbitrary)]
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
        bytes: [u8; 8],
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

#[derive(Debug, Arbitrary)]
struct Case {
    was_closed: bool,
    full_check: bool,
    damage: Vec<Damage>,
}

/// The whole file closed, the file as a power cut leaves it, and what is known of its keys.
struct Files {
    closed: Vec<u8>,
    cut: Vec<u8>,
    known: Vec<(Key, State, Vec<u8>)>,
}

static FILES: LazyLock<Files> = LazyLock::new(|| make_files().expect("a whole store works"));

fn key(name: &str) -> Key {
    Key::new("scope", name).expect("a valid key")
}

fn request() -> Fingerprint {
    Fingerprint::of("two pizzas")
}

fn open(disk: &SimulatedDisk, check: OpenCheck, at: Timestamp) -> Result<Store> {
    let builder = Store::builder().clock(ManualClock::at(at)).retention(24 * HOUR).tombstones(24 * HOUR);
    builder.check(check).open_on(disk)
}

fn make_files() -> Result<Files> {
    let disk = SimulatedDisk::new();
    let clock = ManualClock::at(START);
    let builder = Store::builder().clock(clock.clone()).retention(24 * HOUR).tombstones(24 * HOUR);
    let store = builder.open_on(&disk)?;
    let run = |name: &str| -> Result<Run> {
        match store.claim(&key(name), request()).wait()? {
            Claim::Run(run) => Ok(run),
            other => panic!("a new key can be run, got {other:?}"),
        }
    };
    let mut known = Vec::new();
    run("gone")?.complete(&vec![9_u8; 10]).wait()?;
    known.push((key("gone"), State::Gone, Vec::new()));
    clock.advance(24 * HOUR);
    for n in 0..40_u8 {
        let name = format!("order-{n}");
        let mut run = run(&name)?;
        // Every third has a payload in a row of its own.
        let bytes = vec![n; if n % 3 == 0 { 1500 } else { 20 }];
        let state = match n % 4 {
            0 => {
                run.complete(&bytes).wait()?;
                State::Succeeded
            }
            1 => {
                run.fail(&bytes).wait()?;
                State::Failed
            }
            _ => {
                run.advance("paid", &bytes).wait()?;
                State::Unfinished
            }
        };
        known.push((key(&name), state, bytes));
    }
    // The last commit of a file that was not closed may be lost to damage, as one that a power cut tore: redb cannot
    // tell the two apart. So nothing is asked about these.
    run("last")?.release();
    run("very last")?.release();
    let cut = disk.cut(disk.calls(), |_| Loss::Lost).image();
    store.close()?;
    Ok(Files { closed: disk.image(), cut, known })
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
        Damage::Overwrite { at, bytes } => {
            let at = place(at, file);
            let end = file.len().min(at + bytes.len());
            file[at..end].copy_from_slice(&bytes[..end - at]);
        }
        Damage::CopyPage { from, to } => {
            let pages = file.len() / 4096;
            if pages > 0 {
                let (from, to) = (usize::from(from) % pages * 4096, usize::from(to) % pages * 4096);
                file.copy_within(from..from + 4096, to);
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

/// Asks for every key. Under the full check only the truth counts; without it only that there is an answer.
fn ask(store: &Store, check: OpenCheck) {
    for (key, state, bytes) in &FILES.known {
        let progress = match store.progress(key) {
            Ok(progress) => progress,
            Err(error) => {
                assert!(matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Failed | ErrorKind::Io), "{error:?}");
                continue;
            }
        };
        if check == OpenCheck::Full {
            let progress = progress.expect("a key that was acknowledged is known");
            assert_eq!(progress.state(), *state);
            let found = match state {
                State::Succeeded | State::Failed => progress.outcome().map(|outcome| outcome.bytes()),
                _ => progress.checkpoint().map(|checkpoint| checkpoint.bytes()),
            };
            assert_eq!(found.unwrap_or_default(), bytes);
        }
        let claim = store.claim(key, request()).wait();
        if let (OpenCheck::Full, Ok(claim)) = (check, claim) {
            match claim {
                Claim::Run(run) => assert_eq!((*state, run.attempt()), (State::Unfinished, 2)),
                Claim::Replay(outcome) => assert_eq!(outcome.bytes(), bytes),
                Claim::Gone(_) => assert_eq!(*state, State::Gone),
                other => panic!("nobody else is at work, got {other:?}"),
            }
        }
    }
}

/// What the last panic said.
static LAST_PANIC: Mutex<String> = Mutex::new(String::new());

fn try_case(case: &Case) {
    let mut file = if case.was_closed { FILES.closed.clone() } else { FILES.cut.clone() };
    case.damage.iter().take(16).for_each(|one| damage(&mut file, one));
    // An empty disk is one to make a store on.
    if file.is_empty() {
        return;
    }
    let check = if case.full_check { OpenCheck::Full } else { OpenCheck::Quick };
    let disk = SimulatedDisk::from_image(file.clone());
    match open(&disk, check, START + 24 * HOUR) {
        Ok(store) => {
            ask(&store, check);
            let verdict = store.verify();
            assert!(verdict.is_ok() || check == OpenCheck::Quick, "{verdict:?}");
            // Closing writes, and may meet damage that nobody has met yet.
            drop(store.close());
        }
        Err(error) => {
            use ErrorKind::{Corrupt, Failed, Io, NewerFormat, NotAStore};
            assert!(matches!(error.kind(), Corrupt | Failed | Io | NewerFormat | NotAStore), "{error:?}");
            assert!(disk.image() == file, "a file that is refused stays as it was: {error:?}");
        }
    }
}

fuzz_target!(
    init: {
        // Panics of redb on damaged pages are caught and made errors of, so a panic alone must not end the run.
        panic::set_hook(Box::new(|panic| *LAST_PANIC.lock().unwrap() = panic.to_string()));
        LazyLock::force(&FILES);
    },
    |case: Case| {
        if panic::catch_unwind(|| try_case(&case)).is_err() {
            eprintln!("{}", LAST_PANIC.lock().unwrap());
            std::process::abort();
        }
    }
);
