//! Thin system calls.

pub mod descriptors;
pub mod netns;
pub mod orphan;
pub mod pidfd;
pub mod privilege;
pub mod readable;
pub mod sockopt;
pub mod trusted;
