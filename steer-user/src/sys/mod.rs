//! Thin system calls.

pub mod descriptors;
pub mod listening;
pub mod netns;
pub mod orphan;
pub mod pidfd;
pub mod privilege;
pub mod procfs;
pub mod readable;
pub mod sockdiag;
pub mod sockopt;
pub mod trusted;
