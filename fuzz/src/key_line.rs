//! Any line of a header: no key, or one that is printable, not too long, and the same when it is written as a String of
//! structured fields; what strict syntax takes, lenient syntax takes for the same key.

pub fn run(line: &[u8]) {
    let (strict, lenient) = (reentry::fuzz_key_line(line, true), reentry::fuzz_key_line(line, false));
    assert!(strict.is_none() || strict == lenient, "a line is two keys");
    if let Some(key) = lenient {
        assert!((1..=255).contains(&key.len()) && key.bytes().all(|byte| matches!(byte, b' '..=b'~')));
        let escaped = key.replace('\\', "\\\\").replace('"', "\\\"");
        assert_eq!(reentry::fuzz_key_line(format!("\"{escaped}\"").as_bytes(), true), Some(key));
    }
}
