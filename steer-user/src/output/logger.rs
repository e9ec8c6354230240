//! The log: lines on stderr, for those who ask for more by -v.

use log::{LevelFilter, Log, Metadata, Record};

use crate::output::print::message;

struct Stderr;

impl Log for Stderr {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        // aya logs under its own name. Only its warnings are of use here.
        let own = !record.target().starts_with("aya");
        if self.enabled(record.metadata()) && (own || record.level() <= log::Level::Warn) {
            let level = record.level().as_str().to_lowercase();
            message(&format!("{level}: {}", record.args()));
        }
    }

    fn flush(&self) {}
}

/// Starts logging. With `verbose` 0 the log has only warnings, with 1 also what happens, with
/// more also every event.
pub fn init(verbose: u8) {
    let level = match verbose {
        0 => LevelFilter::Warn,
        1 => LevelFilter::Info,
        _ => LevelFilter::Debug,
    };
    if log::set_logger(&Stderr).is_ok() {
        log::set_max_level(level);
    }
}
