//! The sizes that the kernel programs and the loader agree on.

/// How many slots one group has. A worker beyond that isn't steered, and keeps the share that the
/// kernel's hash gives it.
pub const MAX_SLOTS: u32 = 256;

/// The largest weight of a worker.
pub const MAX_WEIGHT: u32 = 64;

/// How many turns one half of the map `TURNS` has: enough for every slot at the largest weight.
pub const MAX_TURNS: u32 = MAX_SLOTS * MAX_WEIGHT;

/// How many groups all attachments of a host can have together.
pub const MAX_GROUPS: u32 = 1024;

/// How many attachments a host can have.
pub const MAX_ATTACHMENTS: u32 = 256;

/// How many listeners of one group steer can know of, with a slot or excluded.
pub const MAX_KNOWN: u32 = 1024;

/// How many open connections of a host can have migrated. A connection beyond that counts where it
/// was born.
pub const MAX_MOVED: u32 = 16 * 1024;

/// Size in bytes of the ring buffer that carries the events of one attachment.
pub const EVENT_BYTES: u32 = 64 * 1024;

/// How many slots one selection tries before the packet is left to the kernel's hash.
pub const MAX_TRIES: u32 = 8;

/// How many slots one part of a scan over all slots looks at.
pub const PART: u32 = 16;
