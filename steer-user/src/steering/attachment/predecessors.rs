//! Ends what earlier steers have left of the port and this steer doesn't go on with.

use super::Attachment;
use crate::{output::print::message, steering::teardown::hand_back};

impl Attachment {
    /// Hands the groups that an earlier steer has left, and that aren't asked for, back to the
    /// kernel's hash. If that fails, a message says so. The end of the attachment tries it again.
    pub(super) fn hand_back(&mut self) {
        for group in std::mem::take(&mut self.unwanted) {
            let handed = hand_back(&self.lock, &mut self.host, &mut self.members, group);
            let line = match handed {
                Ok(group) => format!(
                    "tcp {group}: given back to the kernel's hash, as an earlier steer steered it and \
                     --bind leaves it out"
                ),
                Err(error) => format!(
                    "warning: listeners that an earlier steer steered and that --bind leaves out stay steered \
                     until this steer stops: {error:#}"
                ),
            };
            self.say(line);
        }
    }

    /// Ends what a steer of an earlier version has left. By now this steer has taken its place in
    /// every group that has a worker.
    pub(super) fn end_older(&mut self) {
        let ended = self.older.take().map(|older| older.end(&mut self.members));
        if let Some(Err(error)) = ended {
            message(&format!(
                "warning: failed to remove what an earlier version of steer has left of tcp port {} (the next \
                 `steer attach` tries again): {error:#}",
                self.place.port.port
            ));
        }
    }
}
