//! The sizes that both halves agree on.

/// Slots of one group. A worker beyond it isn't steered and keeps the share that the kernel's hash
/// gives it.
pub const MAX_SLOTS: u32 = 256;

/// The largest weight of a worker.
pub const MAX_WEIGHT: u32 = 64;

/// Turns in one half of the map `TURNS`: every slot at the largest weight.
pub const MAX_TURNS: u32 = MAX_SLOTS * MAX_WEIGHT;

/// Groups that all attachments of a host can have together.
pub const MAX_GROUPS: u32 = 1024;

/// Attachments of a host.
pub const MAX_ATTACHMENTS: u32 = 256;

/// Listeners of one group that steer can know of, taken or excluded.
pub const MAX_KNOWN: u32 = 1024;

/// Open connections of a host that migrated. What exceeds it counts where it was born.
pub const MAX_MOVED: u32 = 16 * 1024;

/// Bytes of the ring buffer that carries the events of one attachment.
pub const EVENT_BYTES: u32 = 64 * 1024;

/// How many slots one selection tries before the packet is left to the kernel's hash.
pub const MAX_TRIES: u32 = 8;

/// Slots of one part of a scan over all of them.
pub const PART: u32 = 16;
