//! What steer's parsers of foreign input must do with any input: each target takes bytes, gives them to
//! a group of parsers, and panics where what they make of them can't be right.
//!
//! `cargo xtask fuzz` has libFuzzer search for such bytes; `cargo test` feeds the seeds in
//! `seeds`, real input and what was found once.

mod args;
mod btf;
mod http;
mod sockdiag;
mod state;
mod text;

/// A group of parsers.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, also that of its directory of seeds and of its program.
    pub name: &'static str,
    /// Gives input to the parsers.
    pub check: fn(&[u8]),
}

/// Every target.
pub const TARGETS: [Target; 6] = [
    Target {
        name: "args",
        check: args::check,
    },
    Target {
        name: "btf",
        check: btf::check,
    },
    Target {
        name: "http",
        check: http::check,
    },
    Target {
        name: "sockdiag",
        check: sockdiag::check,
    },
    Target {
        name: "state",
        check: state::check,
    },
    Target {
        name: "text",
        check: text::check,
    },
];

/// Gives input to the target with this name.
///
/// # Panics
/// Where there is no such target, and where a parser is wrong.
pub fn check(name: &str, input: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name);
    (target.expect("a target's name").check)(input);
}
