//! What `/proc` and the kernel's list of open files tell of processes.

pub mod blocked;
pub mod epoll;
pub mod holders;
