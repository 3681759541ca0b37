//! The tool and the stores that it is used on.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, SystemTime};

use reentry::{Builder, Failure, Fingerprint, Key, ManualClock, Request, Resolution, Store, Timestamp};
use tempfile::TempDir;

use super::support::{does, key, request, run, run_of, times_out};

pub(crate) const HOUR: Duration = Duration::from_secs(3600);

/// When the stores are made. A store's time never goes back, so the tool sees them at this moment, whenever it runs.
pub(crate) const NEW_YEAR_2100: Timestamp = Timestamp::from_millis(4_102_444_800_000);

/// A folder with a store in it.
pub(crate) struct Place {
    folder: TempDir,
    pub(crate) clock: ManualClock,
}

/// What a command told, and how it ended.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) status: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Place {
    pub(crate) fn new(fill: impl FnOnce(&Store, &ManualClock)) -> Self {
        let place = Self { folder: tempfile::tempdir().unwrap(), clock: ManualClock::at(NEW_YEAR_2100) };
        let store = place.builder().open(place.store()).unwrap();
        fill(&store, &place.clock);
        store.close().unwrap();
        place
    }

    pub(crate) fn builder(&self) -> Builder {
        let builder = Store::builder().clock(self.clock.clone()).cache_bytes(1 << 20);
        builder.retention(24 * HOUR).tombstones(1_000 * HOUR)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.path("orders.reentry")
    }

    pub(crate) fn image(&self) -> Vec<u8> {
        fs::read(self.store()).unwrap()
    }

    /// What must not change.
    pub(crate) fn state(&self) -> (Vec<u8>, SystemTime) {
        (self.image(), fs::metadata(self.store()).unwrap().modified().unwrap())
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = self.program(env!("CARGO_BIN_EXE_reentry"));
        command.args(args);
        command
    }

    /// A program that is run in the folder of the store.
    pub(crate) fn program(&self, name: &str) -> Command {
        let mut command = Command::new(name);
        command.current_dir(self.folder.path()).stdin(Stdio::null()).env_remove("RUST_BACKTRACE");
        command
    }

    /// Runs the tool in the folder of the store, with no terminal.
    pub(crate) fn run(&self, args: &[&str]) -> Told {
        self.told(self.command(args).output().unwrap())
    }

    /// Likewise, with this on its standard input.
    pub(crate) fn run_with(&self, args: &[&str], input: &[u8]) -> Told {
        let mut command = self.command(args);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // It may have had enough of it.
        drop(child.stdin.take().unwrap().write_all(input));
        self.told(child.wait_with_output().unwrap())
    }

    pub(crate) fn told(&self, output: Output) -> Told {
        // Temporary folders have another name each time, and may be reached through a link.
        let folder = self.folder.path();
        let real = fs::canonicalize(folder).unwrap();
        let text = |bytes: Vec<u8>| {
            let text = String::from_utf8(bytes).unwrap();
            let text = text.replace(&*real.to_string_lossy(), "FOLDER");
            text.replace(&*folder.to_string_lossy(), "FOLDER")
        };
        Told { status: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) }
    }

    /// Runs the tool, which must succeed and say nothing beside its answer.
    #[track_caller]
    pub(crate) fn ok(&self, args: &[&str]) -> String {
        let told = self.run(args);
        assert_eq!((told.status, &*told.err), (0, ""), "{args:?}: {told:?}");
        told.out
    }

    /// Runs the tool, and compares what it tells with the snapshot of this name.
    #[track_caller]
    pub(crate) fn snapshot(&self, name: &str, args: &[&str]) {
        compare(name, args, &self.run(args));
    }
}

/// Compares what was told with the snapshot of this name.
#[track_caller]
pub(crate) fn compare(name: &str, args: &[&str], told: &Told) {
    let quoted = args.iter().map(|arg| if arg.contains([' ', '"']) { format!("'{arg}'") } else { (*arg).to_owned() });
    let asked = quoted.collect::<Vec<_>>().join(" ");
    let mut text = format!("$ reentry {asked}\n{}", told.out.split_inclusive('\n').map(steady).collect::<String>());
    if !told.err.is_empty() {
        text.push_str("--- standard error\n");
        text.push_str(&told.err);
    }
    writeln!(text, "--- exit status {}", told.status).unwrap();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cli/snapshots").join(format!("{name}.txt"));
    if std::env::var_os("REENTRY_SNAPSHOTS").is_some_and(|value| value == "1") {
        fs::write(&path, text).unwrap();
        return;
    }
    let expected = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    assert_eq!(text, expected, "{}", path.display());
}

/// A line without what depends on the moment: how long the tool took to begin, and how many pages redb has in use.
fn steady(line: &str) -> String {
    let steady = |before: &str, after: &str, fixed: &str| {
        let (head, rest) = line.split_once(before)?;
        let (moving, tail) = rest.split_once(after)?;
        let is_number = moving.chars().all(|c| c.is_ascii_digit() || ",.:".contains(c));
        is_number.then(|| format!("{head}{before}{fixed}{after}{tail}"))
    };
    steady("file        ", " bytes", "69,632")
        .or_else(|| steady("\"file_bytes\":", ",", "69632"))
        .or_else(|| steady("unfinished, ", " bytes, checked", "69,632"))
        .or_else(|| steady("as they were 2100-01-02 05:", "\n", "00:01.500"))
        .unwrap_or_else(|| line.to_owned())
}

/// A shop's afternoon: operations in every state, with everything that can be kept of one.
pub(crate) fn shop(store: &Store, clock: &ManualClock) {
    let checkout = |name: &str| Key::new("checkout/ada", name).unwrap();
    run(store, &key("forgotten long ago")).complete(&vec![7_u8; 2_000]).wait().unwrap();
    clock.advance(24 * HOUR);
    let mut paid = run(store, &checkout("order-1"));
    does(&mut paid, "charge", "receipt 1");
    paid.complete(&"receipt 1".to_owned()).wait().unwrap();
    clock.advance(Duration::from_millis(1_500));
    let refused = Fingerprint::from_digest([0xAB; 32]);
    let refused = run_of(store.claim(&checkout("order-2"), refused).wait().unwrap());
    refused.fail(&vec![0xFF_u8, 0, 1]).wait().unwrap();
    clock.advance(HOUR);
    let kept = Request::from(request()).keep(&"two pizzas".to_owned());
    let mut open = run_of(store.claim(&checkout("order-3"), kept).wait().unwrap());
    does(&mut open, "charge", "receipt 3");
    open.advance("charged", &"receipt 3".to_owned()).wait().unwrap();
    times_out(&mut open, "mail");
    drop(open);
    clock.advance(HOUR);
    for _ in 0..16 {
        drop(run(store, &Key::new("mails", "order-1").unwrap()));
    }
    clock.advance(3 * HOUR);
    drop(run(store, &key("fresh")));
    // The time that it is left at.
    store.forget(&key("nobody's")).wait().unwrap();
}

/// An operation with a step that was resolved, is in doubt again, and of which a fenced run reported late.
pub(crate) fn disputed(store: &Store, clock: &ManualClock) {
    let key = key("disputed");
    let mut first = run(store, &key);
    times_out(&mut first, "charge");
    drop(first);
    clock.advance(HOUR);
    store.resolve(&key, "charge", Resolution::DidNotHappen, "the bank said so, grün\u{202e}").wait().unwrap();
    let mut second = run(store, &key);
    let late = second.step("charge").run_keyed(|_| {
        store.revoke(&key).wait().unwrap();
        drop(run(store, &key));
        Ok::<_, Failure>("receipt 9".to_owned())
    });
    late.unwrap_err();
}
