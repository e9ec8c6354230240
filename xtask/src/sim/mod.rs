//! `cargo xtask sim`: the simulator of steer-common on the command line, with tables and pictures.

mod args;
mod course;
mod file;
mod picture;
mod row;
mod run;
mod scale;
mod table;
mod words;

pub(crate) use args::Args;
pub(crate) use file::{read, write};
pub(crate) use run::run;
pub(crate) use words::discipline;
