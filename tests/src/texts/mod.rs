//! What steer says, in the words that the tests look for: whoever words a message differently changes this table,
//! and no test.
//!
//! Names of fields and values of `--json`, exit codes and what systemd is told by name (`READY=1`) are
//! contracts rather than words, and aren't here. Nor is what a test itself has put in: pids, ports, paths.

pub mod attach;
pub mod demo;
pub mod doctor;
pub mod refused;
pub mod reload;
pub mod status;

/// What a warning begins with.
pub const WARNING: &str = "warning";

/// The beginning of a warning.
pub fn warning(what: &str) -> String {
    format!("{WARNING}: {what}")
}

/// Whether a text has all of these words.
pub fn has_all(text: &str, words: &[impl AsRef<str>]) -> bool {
    words.iter().all(|word| text.contains(word.as_ref()))
}

/// Words that are looked for in one message.
fn words<const COUNT: usize>(words: [&dyn ToString; COUNT]) -> Vec<String> {
    words.map(ToString::to_string).to_vec()
}
