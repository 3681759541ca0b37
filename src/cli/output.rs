//! What goes to the terminal, and what a failure comes to.
//!
//! Invariant: text that a client or a file gave is escaped: no control character, no sequence that a terminal obeys, no
//! mark that turns the direction of what stands beside it, nothing that shows as nothing.

use std::any::Any;
use std::fmt::Display;
use std::io::{self, BufWriter, IsTerminal, StdoutLock, Write};
use std::path::Path;
use std::process::ExitCode;

use reentry::{ErrorKind, Timestamp};

/// The standard output.
pub(crate) struct Out(BufWriter<StdoutLock<'static>>);

/// Why a command did not come to its end, or not to a good one.
#[derive(Debug)]
pub(crate) enum Failure {
    /// It was wrongly asked.
    Asked(String),
    /// The store refused, or is damaged, or it was not found.
    Refused(String),
    /// Nobody reads what is written.
    Unread,
}

impl Failure {
    pub(crate) fn status(&self) -> ExitCode {
        match self {
            Self::Asked(_) => ExitCode::from(2),
            Self::Refused(_) => ExitCode::from(1),
            Self::Unread => ExitCode::SUCCESS,
        }
    }

    /// A fault of this tool.
    pub(crate) fn panicked(panic: &(dyn Any + Send)) -> Self {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
        Self::Refused(format!("this tool failed: {text}"))
    }

    /// Of a store that was opened to be read.
    pub(crate) fn unreadable(error: reentry::Error) -> Self {
        match error.kind() {
            ErrorKind::Corrupt => Self::Refused(format!(
                "{error}\n`verify` tells which rows; restore a copy, or take what is left with `export --skip-damaged`"
            )),
            _ => error.into(),
        }
    }

    /// Of a store of which what is left was asked for.
    pub(crate) fn lost(error: reentry::Error) -> Self {
        match error.kind() {
            ErrorKind::Corrupt => {
                Self::Refused(format!("{error}\nits tables cannot be found, so nothing of it is left: restore a copy"))
            }
            _ => error.into(),
        }
    }

    /// Of a file that is no store.
    pub(crate) fn of_file(what: &str, path: &Path, error: impl Display) -> Self {
        Self::Refused(format!("cannot {what} {}: {error}", shown(&path.display().to_string())))
    }
}

impl From<reentry::Error> for Failure {
    fn from(error: reentry::Error) -> Self {
        let hint = match error.kind() {
            ErrorKind::InUse => "\nask it, by its own page or figures, or stop it first",
            ErrorKind::Corrupt => {
                "\nrestore a copy; what can still be read, `ls` and `export` tell with --skip-damaged"
            }
            ErrorKind::InvalidConfig | ErrorKind::InvalidKey | ErrorKind::InvalidName => {
                return Self::Asked(error.to_string());
            }
            _ => "",
        };
        Self::Refused(format!("{error}{hint}"))
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::Unread,
            _ => Self::Refused(format!("cannot write: {error}")),
        }
    }
}

pub(crate) type Done<T = ()> = Result<T, Failure>;

impl Out {
    pub(crate) fn new() -> Self {
        Self(BufWriter::new(io::stdout().lock()))
    }

    pub(crate) fn line(&mut self, text: impl AsRef<str>) -> Done {
        self.0.write_all(text.as_ref().as_bytes())?;
        Ok(self.0.write_all(b"\n")?)
    }

    /// One JSON object on a line.
    pub(crate) fn json(&mut self, value: &serde_json::Value) -> Done {
        self.line(quiet_json(&value.to_string()))
    }

    /// Names and what stands for them, one below the other.
    pub(crate) fn facts(&mut self, facts: &[(&str, String)]) -> Done {
        let width = facts.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
        facts.iter().try_for_each(|(name, fact)| self.line(format!("{name:<width$}  {fact}")))
    }

    pub(crate) fn flush(&mut self) -> Done {
        Ok(self.0.flush()?)
    }

    /// What it writes to, for bytes that are no text for people.
    pub(crate) fn bytes(&mut self) -> &mut impl Write {
        &mut self.0
    }

    pub(crate) fn is_terminal() -> bool {
        io::stdout().is_terminal()
    }
}

/// Tells a failure to the terminal.
pub(crate) fn tell(failure: &Failure) {
    match failure {
        Failure::Asked(text) | Failure::Refused(text) => warn(text),
        Failure::Unread => {}
    }
}

/// Tells something beside what was asked for.
pub(crate) fn warn(text: &str) {
    let mut first = "reentry: ";
    let mut to = io::stderr().lock();
    for line in text.lines() {
        // Nobody is left to be told where this fails.
        drop(writeln!(to, "{first}{}", shown(line)));
        first = "         ";
    }
}

/// Text that somebody else gave, so that a terminal shows it and does nothing else.
pub(crate) fn shown(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\'' | '"' => shown.push(c),
            _ if is_blank(c) => shown.extend(c.escape_unicode()),
            _ => shown.extend(c.escape_debug()),
        }
    }
    shown
}

/// Whether it is a letter or a symbol to Unicode, so that Rust's own escaping leaves it, and shows as nothing: the
/// fillers of Hangul, and the pattern of Braille without a dot.
fn is_blank(c: char) -> bool {
    matches!(c, '\u{115f}' | '\u{1160}' | '\u{2800}' | '\u{3164}' | '\u{ffa0}')
}

/// JSON in which every character is escaped that [`shown`] would escape; what it means stays the same.
fn quiet_json(json: &str) -> String {
    let mut quiet = String::with_capacity(json.len());
    for c in json.chars() {
        if c.is_ascii() && c != '\x7f' || c.escape_debug().len() == 1 && !is_blank(c) {
            quiet.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                let digits = [12, 8, 4, 0].map(|shift| char::from_digit(u32::from(*unit >> shift & 15), 16));
                quiet.push_str("\\u");
                quiet.extend(digits.into_iter().flatten());
            }
        }
    }
    quiet
}

/// A moment as people read it, in UTC.
pub(crate) fn time(time: Timestamp) -> String {
    let millis = time.as_millis();
    let (days, of_day) = (millis / 86_400_000, millis % 86_400_000);
    if days > 365 * 8_000 {
        // Far from now: for ever, or a clock that is wrong.
        return format!("{millis} ms");
    }
    let (year, month, day) = date(days);
    let (hour, minute, second) = (of_day / 3_600_000, of_day / 60_000 % 60, of_day / 1000 % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}.{:03}", of_day % 1000)
}

/// Year, month and day, so many days after 1970-01-01, by the Gregorian calendar: counted in years that begin in March,
/// so that a leap day is the last of its year.
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

/// A number with its thousands apart.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut apart = String::new();
    for (nth, digit) in digits.chars().enumerate() {
        if nth > 0 && (digits.len() - nth).is_multiple_of(3) {
            apart.push(',');
        }
        apart.push(digit);
    }
    apart
}

/// A span as people read it: its two greatest units.
pub(crate) fn span(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{} h {} min", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_shown_and_not_sent() {
        let told = shown("a\u{1b}[2Jb\u{202e}c\u{9b}d\u{7f}\\e\u{2028}f\u{200b}g 'grün' \"日本\"\t");
        assert_eq!(told, "a\\u{1b}[2Jb\\u{202e}c\\u{9b}d\\u{7f}\\\\e\\u{2028}f\\u{200b}g 'grün' \"日本\"\\t");
    }

    #[test]
    fn quiet_json_means_the_same() {
        let value = serde_json::json!({"key": "a\u{1b}b\u{202e}c\u{9b}\u{7f}\u{e0001} grün \"x\" \\"});
        let quiet = quiet_json(&value.to_string());
        assert!(quiet.chars().all(|c| !c.is_control() && c != '\u{202e}' && c != '\u{e0001}'), "{quiet}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&quiet).unwrap(), value);
    }

    #[test]
    fn times_are_those_of_the_calendar() {
        let at = |millis| time(Timestamp::from_millis(millis));
        assert_eq!(at(0), "1970-01-01 00:00:00.000");
        assert_eq!(at(951_782_400_000), "2000-02-29 00:00:00.000");
        assert_eq!(at(951_868_799_999), "2000-02-29 23:59:59.999");
        assert_eq!(at(951_868_800_000), "2000-03-01 00:00:00.000");
        assert_eq!(at(1_700_000_000_123), "2023-11-14 22:13:20.123");
        assert_eq!(at(4_107_542_400_000), "2100-03-01 00:00:00.000");
        assert_eq!(at(u64::MAX), "18446744073709551615 ms");
    }

    #[test]
    fn numbers_and_spans_are_told_as_people_read_them() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
        let spans = [59, 60, 3_599, 3_600, 86_399, 86_400, 90_000_000].map(span);
        assert_eq!(spans, ["59 s", "1 min 0 s", "59 min 59 s", "1 h 0 min", "23 h 59 min", "1 d 0 h", "1041 d 16 h"]);
    }
}
