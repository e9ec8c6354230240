//! A port of a network namespace: what an attachment steers.

use steer_common::config::GroupKey;

/// A port of a network namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Port {
    /// Cookie of the network namespace.
    pub netns_cookie: u64,
    /// Local port.
    pub port: u16,
}

impl Port {
    /// Whether a group is on this port.
    pub fn has(self, group: &GroupKey) -> bool {
        self.netns_cookie == group.netns_cookie && u32::from(self.port) == group.port
    }
}
