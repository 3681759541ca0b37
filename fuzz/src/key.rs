//! Any two strings: a key is made exactly where the limits hold, gives back what it was made from, is equal to no
//! other key, and shows nothing of itself in logs.

use reentry::{ErrorKind, Key};

fn is_valid(text: &str, bytes_max: usize) -> bool {
    (1..=bytes_max).contains(&text.len()) && !text.chars().any(char::is_control)
}

/// The first byte says how long the scope is; what stands behind it is the key.
pub fn run(bytes: &[u8]) {
    let Some((len, texts)) = bytes.split_first() else { return };
    let (scope, text) = texts.split_at(texts.len().min((*len).into()));
    let (Ok(scope), Ok(text)) = (str::from_utf8(scope), str::from_utf8(text)) else { return };
    match Key::new(scope, text) {
        Ok(key) => {
            assert!(is_valid(scope, 128) && is_valid(text, 255));
            assert_eq!((key.scope(), key.key()), (scope, text));
            assert_eq!(format!("{key:?}").len(), "Key(#0123456789ab)".len());
            let joined = format!("{scope}{text}");
            for (border, _) in joined.char_indices().skip(1).filter(|(border, _)| *border != scope.len()) {
                let (other_scope, other_text) = joined.split_at(border);
                assert!(Key::new(other_scope, other_text).ok().is_none_or(|other| other != key));
            }
        }
        Err(error) => {
            assert!(!is_valid(scope, 128) || !is_valid(text, 255));
            assert_eq!(error.kind(), ErrorKind::InvalidKey);
            assert!(!error.to_string().chars().any(char::is_control));
        }
    }
}
