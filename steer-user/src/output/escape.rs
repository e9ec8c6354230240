//! Makes foreign text safe to show.
//!
//! The author of a worker, or an attacker, may write anything into the worker's name and command
//! line. If steer showed that as it is, it could move the cursor, forge a log line or reverse the
//! reading direction.

/// The longest result in characters, not counting the ellipsis of a longer text.
pub const LIMIT: usize = 120;

/// Makes `text` safe for a terminal and a log: one line of printable characters, at most
/// [`LIMIT`] of them. If anything is left off, `…` follows.
///
/// Control characters, line ends, escape sequences, bidirectional overrides, invisible characters
/// and combining marks are shown as Rust writes them (`\n`, `\u{202e}`). Bytes that aren't UTF-8
/// are shown as `\xff`, and a backslash as two. So no two texts look the same.
pub fn foreign(text: impl AsRef<[u8]>) -> String {
    let mut shown = String::new();
    let mut length = 0;
    for chunk in text.as_ref().utf8_chunks() {
        let characters = chunk.valid().chars().map(escaped);
        let bytes = chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}"));
        for piece in characters.chain(bytes) {
            length += piece.chars().count();
            if length > LIMIT {
                shown.push('…');
                return shown;
            }
            shown.push_str(&piece);
        }
    }
    shown
}

fn escaped(character: char) -> String {
    match character {
        // The standard library would escape quotes, too. They are harmless and frequent.
        '\'' | '"' => character.to_string(),
        other => other.escape_debug().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{LIMIT, foreign};

    #[test]
    fn ordinary_text_is_kept() {
        assert_eq!(
            foreign("node /srv/app.js --name='größe'"),
            "node /srv/app.js --name='größe'"
        );
    }

    #[test]
    fn what_could_act_on_a_terminal_is_shown_escaped() {
        assert_eq!(foreign("a\nb\r\tc"), "a\\nb\\r\\tc");
        assert_eq!(foreign("\x1b[31mred"), "\\u{1b}[31mred");
        assert_eq!(foreign("\u{9b}31m"), "\\u{9b}31m");
        assert_eq!(
            foreign("abc\u{202e}def\u{2066}"),
            "abc\\u{202e}def\\u{2066}"
        );
        assert_eq!(foreign("a\u{200b}b\u{feff}"), "a\\u{200b}b\\u{feff}");
        assert_eq!(foreign("nul\0\x7f"), "nul\\0\\u{7f}");
        assert_eq!(foreign("a\u{2028}b"), "a\\u{2028}b");
    }

    #[test]
    fn invalid_utf8_and_backslashes_stay_apart() {
        assert_eq!(foreign(b"a\xff\xfeb"), "a\\xff\\xfeb");
        assert_eq!(foreign("a\\xff"), "a\\\\xff");
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        let shown = foreign("\u{1b}".repeat(1000));
        assert!(shown.ends_with("\\u{1b}…"), "{shown}");
        assert!(shown.chars().count() <= LIMIT + 1);
        assert_eq!(foreign("x".repeat(LIMIT)), "x".repeat(LIMIT));
    }

    proptest! {
        #[test]
        fn the_result_is_one_short_printable_line(text in proptest::collection::vec(any::<u8>(), 0..400)) {
            let shown = foreign(&text);
            prop_assert!(shown.chars().count() <= LIMIT + 1);
            prop_assert!(!shown.chars().any(char::is_control));
            let unsafe_ones = ['\u{202a}', '\u{202e}', '\u{2028}', '\u{2029}'];
            prop_assert!(!shown.contains(unsafe_ones), "{}", shown);
        }
    }
}
