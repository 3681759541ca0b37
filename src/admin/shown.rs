//! How texts, times, spans and payloads are shown: so that nobody mistakes one for another, whatever a client sent.

use std::fmt::Write;
use std::time::Duration;

use maud::{Markup, html};

use crate::clock::Timestamp;
use crate::key::Key;

/// Most bytes of one payload that are shown, and of all payloads on one page.
const PAYLOAD_BYTES_MAX: usize = 4 * 1024;
const PAGE_BYTES_MAX: usize = 256 * 1024;
/// Bytes in a line of a payload that is no text.
const DUMP_BYTES: usize = 16;

/// A text that somebody else chose: each character that has no looks of its own, or could move others, by its number;
/// set apart from what stands around it, so that a text from right to left turns nothing but itself.
pub(super) fn text(text: &str) -> Markup {
    html! { bdi { (visible(text, is_invisible)) } }
}

/// A key, with its scope in front.
pub(super) fn key(key: &Key) -> Markup {
    html! {
        span.scope { span.quiet { "scope " } (text(key.scope())) } " "
        span.key { span.quiet { "key " } (text(key.key())) }
    }
}

fn visible(text: &str, is_marked: fn(char) -> bool) -> Markup {
    html! {
        @for piece in text.split_inclusive(is_marked) {
            @match piece.chars().next_back().filter(|last| is_marked(*last)) {
                Some(last) => {
                    (piece.strip_suffix(last).unwrap_or_default()) span.mark { (last.escape_unicode()) }
                }
                None => (piece),
            }
        }
    }
}

/// Controls, spaces that are no plain space, and what Unicode calls ignorable by default (`DerivedCoreProperties.txt`),
/// among which are the marks that change the direction of a text.
fn is_invisible(c: char) -> bool {
    let is_ignorable = matches!(
        c,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{2800}' | '\u{3164}'
            | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}'
    );
    c != ' ' && (is_ignorable || c.is_control() || c.is_whitespace())
}

/// In a payload lines and tabs are what they are.
fn is_invisible_in_lines(c: char) -> bool {
    !matches!(c, '\n' | '\t') && is_invisible(c)
}

/// A moment: UTC, to the millisecond.
pub(super) fn time(at: Timestamp) -> Markup {
    let (date, clock) = utc(at);
    html! { time datetime=(format!("{date}T{clock}Z")) { (date) " " (clock) } }
}

/// Date and clock of a moment. The calendar is that of `civil_from_days` in Howard Hinnant's
/// "chrono-compatible low-level date algorithms": years begin in March, so that a leap day is a year's last.
fn utc(at: Timestamp) -> (String, String) {
    let (seconds, millis) = (at.as_millis() / 1000, at.as_millis() % 1000);
    let (days, second) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let clock = format!("{:02}:{:02}:{:02}.{millis:03}", second / 3600, second / 60 % 60, second % 60);
    (format!("{year:04}-{month:02}-{day:02}"), clock)
}

/// A span, in its two largest units.
pub(super) fn span(span: Duration) -> String {
    let seconds = span.as_secs();
    let two = |large: u64, one: &str, small: u64, other: &str| format!("{large} {one} {small} {other}");
    match seconds {
        0 if span.as_millis() == 0 && !span.is_zero() => format!("{} µs", span.as_micros()),
        0 => format!("{} ms", span.as_millis()),
        1..60 => format!("{seconds}.{} s", span.subsec_millis() / 100),
        60..3600 => two(seconds / 60, "min", seconds % 60, "s"),
        3600..86_400 => two(seconds / 3600, "h", seconds / 60 % 60, "min"),
        _ => two(seconds / 86_400, "d", seconds / 3600 % 24, "h"),
    }
}

/// A number, in groups of three digits.
pub(super) fn number(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// A size, in the unit that fits.
pub(super) fn size(bytes: u64) -> String {
    let units = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
    match units.into_iter().find(|(_, shift)| bytes >> shift > 0) {
        Some((unit, shift)) => format!("{}.{} {unit}", bytes >> shift, (bytes >> (shift - 10)) % 1024 * 10 / 1024),
        None => format!("{bytes} B"),
    }
}

/// One of something, or more.
pub(super) fn counted(count: u64, one: &str, more: &str) -> String {
    if count == 1 { format!("1 {one}") } else { format!("{} {more}", number(count)) }
}

/// The payloads of one page: shown where that is allowed, and as many as a page can hold.
pub(super) struct Payloads {
    left: usize,
}

impl Payloads {
    pub(super) fn new(are_shown: bool) -> Self {
        Self { left: if are_shown { PAGE_BYTES_MAX } else { 0 } }
    }

    /// How long it is, and what it holds, or as much as may be shown.
    pub(super) fn show(&mut self, what: &str, bytes: &[u8]) -> Markup {
        let length = counted(bytes.len() as u64, "byte", "bytes");
        let shown = bytes.get(..bytes.len().min(PAYLOAD_BYTES_MAX).min(self.left)).unwrap_or_default();
        if shown.is_empty() {
            return html! { span.quiet { (length) } };
        }
        self.left -= shown.len();
        html! {
            details.payload {
                summary { (length) span.unseen { " of the " (what) } }
                @match as_text(shown) {
                    Some(text) => pre dir="auto" { (visible(text, is_invisible_in_lines)) },
                    None => pre { (dump(shown)) },
                }
                @if shown.len() < bytes.len() { p.quiet { "The first " (number(shown.len() as u64)) " are shown." } }
            }
        }
    }
}

/// The bytes as text; a character that was cut off at their end is left out.
fn as_text(bytes: &[u8]) -> Option<&str> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Some(text),
        Err(error) if error.error_len().is_none() && error.valid_up_to() > 0 => {
            bytes.get(..error.valid_up_to()).and_then(|valid| std::str::from_utf8(valid).ok())
        }
        Err(_) => None,
    }
}

/// Bytes as hexadecimal numbers, and beside them the ASCII among them.
fn dump(bytes: &[u8]) -> Markup {
    let mut lines = String::new();
    for (nth, line) in bytes.chunks(DUMP_BYTES).enumerate() {
        let mut numbers = String::new();
        line.iter().try_for_each(|byte| write!(numbers, "{byte:02x} ")).ok();
        let ascii: String = line.iter().map(|b| if matches!(b, b' '..=b'~') { char::from(*b) } else { '.' }).collect();
        writeln!(lines, "{:06x}  {numbers:<48} {ascii}", nth * DUMP_BYTES).ok();
    }
    html! { (lines) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_those_of_the_calendar() {
        // By GNU date: `date -u -d @SECONDS '+%F %T'`.
        for (seconds, date, clock) in [
            (0, "1970-01-01", "00:00:00.000"),
            (951_782_400, "2000-02-29", "00:00:00.000"),
            (951_868_799, "2000-02-29", "23:59:59.000"),
            (951_868_800, "2000-03-01", "00:00:00.000"),
            (1_700_000_000, "2023-11-14", "22:13:20.000"),
            (4_107_542_400, "2100-03-01", "00:00:00.000"),
            (253_402_300_799, "9999-12-31", "23:59:59.000"),
        ] {
            let at = Timestamp::from_millis(seconds * 1000);
            assert_eq!(utc(at), (date.to_owned(), clock.to_owned()));
        }
        assert_eq!(utc(Timestamp::from_millis(u64::MAX)).0, "584556019-04-03");
        let shown = time(Timestamp::from_millis(1_700_000_000_042)).into_string();
        assert_eq!(shown, "<time datetime=\"2023-11-14T22:13:20.042Z\">2023-11-14 22:13:20.042</time>");
    }

    #[test]
    fn text_that_is_cut_off_within_a_character_is_text_and_other_bytes_are_none() {
        assert_eq!(as_text("grün".as_bytes()), Some("grün"));
        assert_eq!(as_text(&"grün".as_bytes()[..3]), Some("gr"));
        assert_eq!(as_text(&"ü".as_bytes()[..1]), None, "nothing of it is text");
        assert_eq!(as_text(b"gr\xfcn"), None);
    }

    #[test]
    fn spans_numbers_and_sizes_are_shown_in_the_units_that_fit() {
        for (millis, shown) in [
            (0, "0 ms"),
            (999, "999 ms"),
            (1_250, "1.2 s"),
            (59_999, "59.9 s"),
            (60_000, "1 min 0 s"),
            (3_600_000, "1 h 0 min"),
            (86_399_999, "23 h 59 min"),
            (11_100_000, "3 h 5 min"),
            (90_000_000, "1 d 1 h"),
            (788_400_000, "9 d 3 h"),
        ] {
            assert_eq!(span(Duration::from_millis(millis)), shown);
        }
        assert_eq!(span(Duration::from_micros(7)), "7 µs");
        assert_eq!([0, 999, 1_000, 1_234_567].map(number), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!(
            [0, 1023, 1536, 1 << 20, u64::MAX].map(size),
            ["0 B", "1023 B", "1.5 KiB", "1.0 MiB", "17179869183.9 GiB"]
        );
    }

    #[test]
    fn p9_no_character_hides_or_turns_what_stands_around_it() {
        let shown = text("a\u{202e}b<\u{200b}\u{a0}&").into_string();
        let mark = |number: &str| format!("<span class=\"mark\">\\u{{{number}}}</span>");
        let (rlo, zero, hard) = (mark("202e"), mark("200b"), mark("a0"));
        assert_eq!(shown, format!("<bdi>a{rlo}b&lt;{zero}{hard}&amp;</bdi>"));
        for c in ['\0', '\u{1b}', '\u{85}', '\u{2066}', '\u{2028}', '\u{feff}', '\u{e0041}', '\u{3000}'] {
            assert!(is_invisible(c), "{c:?}");
        }
        // Both ends of everything that Unicode 16 calls ignorable by default.
        let ignorable = "\u{ad}\u{34f}\u{61c}\u{115f}\u{1160}\u{17b4}\u{17b5}\u{180b}\u{180f}\u{200b}\u{200f}\u{202a}\
                         \u{202e}\u{2060}\u{206f}\u{3164}\u{fe00}\u{fe0f}\u{feff}\u{ffa0}\u{fff0}\u{fff8}\u{1bca0}\
                         \u{1bca3}\u{1d173}\u{1d17a}\u{e0000}\u{e0fff}";
        assert!(ignorable.chars().all(is_invisible));
        for c in [' ', 'a', '~', '\u{e9}', '\u{5d0}', '\u{1f355}', '\u{4e2d}'] {
            assert!(!is_invisible(c), "{c:?}");
        }
    }

    #[test]
    fn p9_a_payload_is_shown_where_that_is_allowed_and_as_far_as_a_page_holds() {
        let secret = "<script>alert(1)</script>";
        assert_eq!(Payloads::new(false).show("result", secret.as_bytes()).into_string().matches("script").count(), 0);
        let shown = Payloads::new(true).show("result", secret.as_bytes()).into_string();
        assert!(shown.contains("&lt;script&gt;alert(1)&lt;/script&gt;"), "{shown}");
        let shown = Payloads::new(true).show("result", b"a\tb\nc\x1b[2J").into_string();
        assert!(shown.contains("a\tb\nc<span class=\"mark\">\\u{1b}</span>[2J"), "{shown}");
        let shown = Payloads::new(true).show("result", &[0xff, 0, b'<', b'a']).into_string();
        assert!(shown.contains("000000  ff 00 3c 61") && shown.contains(" ..&lt;a\n"), "{shown}");
        let long = "\u{e9}".repeat(PAYLOAD_BYTES_MAX);
        let mut payloads = Payloads::new(true);
        let all: Vec<String> = (0..100).map(|_| payloads.show("result", long.as_bytes()).into_string()).collect();
        assert!(all.iter().all(|shown| shown.len() < 2 * PAYLOAD_BYTES_MAX));
        assert_eq!(all.iter().filter(|shown| shown.contains('\u{e9}')).count(), PAGE_BYTES_MAX / PAYLOAD_BYTES_MAX);
        assert!(all[0].contains("The first 4,096 are shown") && all[99].contains("8,192 bytes"));
    }
}
