//! What `steer doctor` shows: a line a check, which begins with how it ended.

/// The beginning of the line of what works.
pub const OK: &str = "ok ";

/// The first two words of the line that says that this kernel can't migrate.
pub const NO_MIGRATION: [&str; 2] = ["off", "migration"];
