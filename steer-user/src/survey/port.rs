//! A port of a network namespace, which is what steer is attached to.

use steer_common::config::GroupKey;

/// One attachment: a port of a network namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Port {
    /// Cookie of the network namespace.
    pub netns_cookie: u64,
    /// Local port.
    pub port: u16,
}

impl Port {
    /// Whether a group belongs to it.
    pub fn has(self, group: &GroupKey) -> bool {
        self.netns_cookie == group.netns_cookie && u32::from(self.port) == group.port
    }
}
