//! What `steer attach` says while it runs, line by line, and tells systemd as its status.

use super::warning;

/// The beginning of the line that says that a group is steered.
pub const STEERING: &str = "steering ";

/// The same of any group.
pub const STEERING_TCP: &str = "steering tcp";

/// The same for the group at an address, such as `127.0.0.1:3000`.
pub fn steering(group: &str) -> String {
    format!("{STEERING_TCP} {group}")
}

/// The same with the number of its workers, which are several.
pub fn steering_workers(group: &str, workers: usize) -> String {
    format!("{}: {workers} workers", steering(group))
}

/// The beginning of the line that says that steer waits for a first listener or worker.
pub const WAITING: &str = "waiting for a ";

/// The same where nobody listens.
pub const WAITING_FOR_LISTENER: &str = "waiting for a listener";

/// The same with the port.
pub fn waiting_for_listener(port: u16) -> String {
    format!("{WAITING_FOR_LISTENER} on tcp port {port}")
}

/// The same where listeners are there that can't be steered yet.
pub const WAITING_FOR_WORKER: &str = "waiting for a worker";

/// The status of a service that waits.
pub fn status_waiting(port: u16) -> String {
    format!("STATUS={}\n", waiting_for_listener(port))
}

/// The status of a service that steers.
pub fn status_steering(port: u16, workers: usize) -> String {
    format!("STATUS={}", text_steering(port, workers))
}

/// The same as `systemctl` shows it.
pub fn text_steering(port: u16, workers: usize) -> String {
    format!("steering tcp port {port}{}", text_workers(workers))
}

/// How that ends.
pub fn text_workers(workers: usize) -> String {
    let plural = if workers == 1 { "" } else { "s" };
    format!(": {workers} worker{plural}")
}

/// Nothing can be told to whoever started steer.
pub fn nobody_listens() -> String {
    warning("NOTIFY_SOCKET")
}

/// What killed steers had left of any port was removed.
pub const REMOVED: &str = "removed";

/// The same of one port.
pub fn removed(port: u16) -> String {
    format!("{REMOVED} what a killed steer had left of tcp port {port}")
}

/// A group that an earlier steer had steered and this one isn't asked for.
pub fn handed_back(group: &str) -> String {
    format!("tcp {group}: given back to the kernel's hash")
}

/// This steer comes after another one.
pub const TAKING_THE_PLACE: &str = "taking the place";

/// It comes after one whose pins are gone.
pub const TAKING_THE_PLACE_OF_PROGRAM: &str = "taking the place of eBPF program";

/// The same for a group.
pub fn taking_the_place_of_program(group: &str) -> String {
    format!("tcp {group}: {TAKING_THE_PLACE_OF_PROGRAM}")
}

/// It comes after one of an earlier version.
pub fn taking_the_place_of_earlier(port: u16) -> String {
    format!("tcp port {port}: {TAKING_THE_PLACE} of an earlier")
}

/// A group is another steer's.
pub fn steered_already(group: &str) -> String {
    warning(&format!("tcp {group} is steered already"))
}

/// That of a steer whose pins can't be seen, as one in another container.
pub const PINS_ELSEWHERE: &str = "aren't in this bpffs";

/// Something about a group.
pub fn warning_of(group: &str) -> String {
    warning(&format!("tcp {group}"))
}

/// The workers of a group are of another pid namespace.
pub fn sees_no_process(group: &str) -> String {
    format!("{}: no process that steer sees", warning_of(group))
}

/// A member of a group has no `SO_REUSEPORT`: what is said of it.
pub fn cant_be_steered(address: &str) -> Vec<String> {
    super::words([&super::WARNING, &address, &"SO_REUSEPORT"])
}

/// The pins are gone while steer runs, in a word.
pub const GONE: &str = "gone";

/// The same as it is said.
pub const PINS_GONE: &str = "steer's pins are gone; was the bpffs unmounted?";

/// Another program was attached over steer's.
pub const DISPLACED: &str = "isn't steered any more: another program was attached over steer's";

/// The same for a group.
pub fn displaced(group: &str) -> String {
    warning(&format!("tcp {group} {DISPLACED}"))
}

/// The kernel had more events than the ring buffer takes.
pub const EVENTS_LOST: &str = "events were lost; looking at every process";

/// There are more workers than slots.
pub fn surplus(more: usize, slots: usize) -> String {
    format!(
        "{more} more workers than the {slots} that steer takes; they keep the share that the kernel's hash \
         gives them"
    )
}

/// The kernel program's own log of its first SYN that was left to the hash for this reason.
pub fn left_to_the_hash(reason: &str) -> String {
    format!("left to the kernel's hash: {reason}, 0 times before")
}

/// The kernel loses connections that wait for a worker that ends, and so steer doesn't have it move them.
pub fn cant_migrate() -> String {
    warning("this kernel")
}

/// The same, and what comes of it.
pub const ARE_RESET: &str = "are reset, as without steer";

/// The same by the name of what is wrong with such kernels.
pub const UNSOUND_MIGRATION: &str = "CVE-2026-46015";

/// A worker that steer may not take, as Yama forbids it since.
pub const FORBIDDEN_BY_YAMA: [&str; 2] = ["ptrace_scope is 3", "keeps the share"];

/// steer may open no more files.
pub const RAISE_THE_LIMIT: &str = "LimitNOFILE";

/// The same with what the kernel says.
pub const TOO_MANY_FILES: [&str; 2] = ["Too many open files", RAISE_THE_LIMIT];

/// steer was told to stop, and couldn't detach.
pub fn try_detach(port: u16) -> String {
    format!("steer detach --port {port}")
}
