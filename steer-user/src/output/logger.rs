//! The log: lines on stderr, for those who asked for more.

use log::{LevelFilter, Log, Metadata, Record};

use crate::output::print::message;

struct Stderr;

impl Log for Stderr {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        // aya logs under its own name; what it has to say beyond warnings is of no use here.
        let own = !record.target().starts_with("aya");
        if self.enabled(record.metadata()) && (own || record.level() <= log::Level::Warn) {
            let level = record.level().as_str().to_lowercase();
            message(&format!("{level}: {}", record.args()));
        }
    }

    fn flush(&self) {}
}

/// Starts logging: warnings only, with `verbose` 1 what happens, with more every event.
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
