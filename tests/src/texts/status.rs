//! What `steer status` shows to people.

/// Nothing is pinned where it looks.
pub const NOTHING_IS_STEERED: &str = "nothing is steered that has its pins in this bpffs\n";

/// A steer follows the port.
pub const FOLLOWED: &str = "followed by steer";

/// The group at an address, such as `127.0.0.1%lo:3000`.
pub fn group(address: &str) -> String {
    format!("  {address}")
}

/// The same where it is steered.
pub fn steered_group(address: &str) -> String {
    format!("{}: ", group(address))
}

/// Listeners beside the steered ones.
pub fn not_steered(address: &str) -> String {
    format!("{}: not steered", group(address))
}

/// The same where it is one.
pub fn not_steered_one(address: &str, uid: u32) -> String {
    format!("{}, 1 listener of uid {uid}\n", not_steered(address))
}

/// A column that every table of workers has.
pub const COLUMN_SLOT: &str = "slot";

/// A column that it has where one process has several listeners.
pub const COLUMN_DESCRIPTOR: &str = "fd";

/// How the row of a worker begins there.
pub fn worker_of_several(pid: u32, descriptor: i32) -> String {
    format!("{pid}  {descriptor:>4}  ")
}

/// Whether event loops wait can't be told of all workers.
pub const NO_EVENT_LOOPS: &str = "only open connections count";

/// How long jobs take was learned.
pub fn jobs_learned(jobs: u64) -> String {
    format!("jobs: {jobs} measured")
}

/// Several processes poll one listener.
pub const SEVERAL_PROCESSES: &str = "several processes";

/// A listener is in another tool's map.
pub const IN_ANOTHER_MAP: &str = "socket map";

/// Why a listener isn't steered: nobody gives it a slot.
pub const NOBODY_FOLLOWS: &str = "no steer follows the port";

/// Another program is the group's.
pub const DISPLACED: &str = "isn't attached to this group any more";
