//! What is said of a file that steer is told to execute in its place.

use super::warning;

/// The beginning of every reason why it isn't executed.
pub fn not_reloaded() -> String {
    warning("not reloaded")
}

/// The same for a file.
pub fn not_reloaded_file(file: &str) -> String {
    format!("{}: {file}", not_reloaded())
}

/// It can't be executed.
pub fn doesnt_run(file: &str) -> String {
    format!("{} doesn't run: ", not_reloaded_file(file))
}

/// It ended with an exit code and said nothing.
pub const ENDED_WITH_3: &str = "can't take over: it ended with exit status: 3";

/// It ended well and didn't say that it can.
pub const NO_STEER: &str = "can't take over: it isn't a steer";

/// It is one from before there was the question, and says so.
pub const UNEXPECTED_ARGUMENT: &str =
    "can't take over: error: unexpected argument '--can-resume' found";

/// It can read an earlier layout of the maps only.
pub const OLDER: &str = "it is an older version";

/// It may not do what it has to: what steer itself says of that.
pub const NOT_PERMITTED: &str =
    "can't take over: steer: not permitted: the capability CAP_BPF is missing";

/// It didn't end in time.
pub const TOO_LATE: &str = "didn't tell within";

/// What a steer says that is asked whether it can read a later layout.
pub const NEWER_MAPS: &str = "a newer version made them";

/// What a steer says that is asked whether it can read a layout that it has forgotten.
pub const FORGOTTEN_MAPS: &str = "too old for this one to take over";
