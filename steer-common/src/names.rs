//! The names of programs, maps and constants in the kernel object.

/// The SK_REUSEPORT program that selects a slot.
pub const PROGRAM_SELECT: &str = "select";
/// The SK_REUSEPORT program that selects a slot, and also moves connections away from a listener
/// that closes.
pub const PROGRAM_MIGRATE: &str = "migrate";
/// The tracepoint program that counts connections and reports listeners.
pub const PROGRAM_TRACK: &str = "track";
/// The tracepoint program that reports closed listeners, and counts ends that [`PROGRAM_TRACK`]
/// was not called for.
pub const PROGRAM_DESTROYED: &str = "destroyed";
/// The iterator that lists the listeners of the host's TCP tables with their groups.
pub const PROGRAM_MEMBERS: &str = "members";
/// [`PROGRAM_TRACK`] once more. It counts what [`PROGRAM_TRACK`] is not called for because it is
/// running already.
pub const PROGRAM_TRACK_AGAIN: &str = "track_again";
/// The tracepoint program that follows what workers read from.
pub const PROGRAM_READS: &str = "reads";
/// The iterator that lists the open connections of the workers, and counts those that aren't
/// counted yet.
pub const PROGRAM_RECOUNT: &str = "recount";
/// The iterator that lists who has the port's sockets open.
pub const PROGRAM_HOLDERS: &str = "holders";

/// Tracepoint that [`PROGRAM_TRACK`] and [`PROGRAM_TRACK_AGAIN`] are attached to.
pub const TRACEPOINT: &str = "inet_sock_set_state";
/// Tracepoint that [`PROGRAM_DESTROYED`] is attached to.
pub const TRACEPOINT_DESTROYED: &str = "tcp_destroy_sock";
/// Tracepoint that [`PROGRAM_READS`] is attached to.
pub const TRACEPOINT_READS: &str = "tcp_rcv_space_adjust";
/// Iterator target of [`PROGRAM_MEMBERS`] and [`PROGRAM_RECOUNT`].
pub const ITERATOR: &str = "tcp";
/// Iterator target of [`PROGRAM_HOLDERS`].
pub const ITERATOR_FILES: &str = "task_file";

/// Group map: slot to listener.
pub const MAP_SOCKETS: &str = "SOCKETS";
/// Group map: slot to worker, written by the loader.
pub const MAP_SLOTS: &str = "SLOTS";
/// Group map: slot to counters, written by the kernel programs.
pub const MAP_COUNTERS: &str = "COUNTERS";
/// Group map: the configuration of the group, written by the loader.
pub const MAP_CONFIG: &str = "CONFIG";
/// Group map: the counters of the group, written by the kernel programs.
pub const MAP_GROUP: &str = "GROUP";
/// Group map: the order of turns under round robin.
pub const MAP_TURNS: &str = "TURNS";
/// Group map: how long the jobs of the group's workers take.
pub const MAP_LEARNED: &str = "LEARNED";
/// Group map: socket cookie to slot, for every listener that steer has or has excluded.
pub const MAP_KNOWN: &str = "KNOWN";

/// Host map: the tags of listeners and of the connections that were born on them.
pub const MAP_TAGS: &str = "TAGS";
/// Map of [`PROGRAM_RECOUNT`]: socket cookie or kernel address of a connection to its tag.
pub const MAP_EARLIER: &str = "EARLIER";

/// Map of [`PROGRAM_MEMBERS`]: how far the list goes.
pub const MAP_LISTING: &str = "LISTING";

/// Host map: network namespace and port to attachment.
pub const MAP_PORTS: &str = "PORTS";
/// Host map: what the tracker tells each attachment's programs.
pub const MAP_ATTACHMENTS: &str = "ATTACHMENTS";
/// Host map: group to the counters of its slots.
pub const MAP_GROUPS: &str = "GROUPS";
/// Host map: group to what it has learned.
pub const MAP_LEARNING: &str = "LEARNING";
/// Host map: attachment to its ring buffer.
pub const MAP_RINGS: &str = "RINGS";

/// Host map: socket cookie of a connection to the tag of the slot that it migrated to.
pub const MAP_MOVED: &str = "MOVED";

/// The maps that one group has to itself.
pub const GROUP_MAPS: [&str; 8] = [
    MAP_SOCKETS,
    MAP_SLOTS,
    MAP_COUNTERS,
    MAP_CONFIG,
    MAP_GROUP,
    MAP_TURNS,
    MAP_LEARNED,
    MAP_KNOWN,
];

/// The maps that all attachments of a host share.
pub const HOST_MAPS: [&str; 7] = [
    MAP_TAGS,
    MAP_PORTS,
    MAP_ATTACHMENTS,
    MAP_GROUPS,
    MAP_LEARNING,
    MAP_RINGS,
    MAP_MOVED,
];

/// Constant: where the kernel keeps the fields that the programs read,
/// [`crate::offsets::KernelOffsets`].
pub const GLOBAL_OFFSETS: &str = "OFFSETS";
/// Constant: the index of the attachment that a `select` program belongs to.
pub const GLOBAL_ATTACHMENT: &str = "ATTACHMENT";
/// Constant: the port whose sockets `members` and `holders` list, and whose earlier connections
/// `recount` tags.
pub const GLOBAL_PORT: &str = "PORT";

/// The number of the layout. It changes whenever the layout of a pinned map or the meaning of a
/// tag does. It is part of the path of every pin, so that a newer steer never misreads an older
/// one's maps.
pub const LAYOUT: u32 = 5;
