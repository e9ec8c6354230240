//! What earlier steers have left of the port, and this one doesn't go on with.

use super::Attachment;
use crate::{output::print::message, steering::teardown::hand_back};

impl Attachment {
    /// Hands back to the kernel's hash what an earlier steer left of the port and nobody asks for. Where that
    /// fails it is said, and tried again when the attachment ends.
    pub(super) fn hand_back(&mut self) {
        for group in std::mem::take(&mut self.unwanted) {
            let handed = hand_back(&self.lock, &mut self.host, &mut self.members, group);
            let line = match handed {
                Ok(group) => format!(
                    "tcp {group}: handed back to the kernel's hash: an earlier steer steered it, and \
                     --bind leaves it out"
                ),
                Err(error) => format!(
                    "warning: a group that an earlier steer left, and that --bind leaves out, stays \
                     steered: {error:#}"
                ),
            };
            self.say(line);
        }
    }

    /// Ends what a steer of an earlier version has left: its place is taken wherever there is a worker.
    pub(super) fn end_older(&mut self) {
        let ended = self.older.take().map(|older| older.end(&mut self.members));
        if let Some(Err(error)) = ended {
            message(&format!(
                "warning: failed to remove what an earlier version of steer has left of tcp port {}, which the next \
                 `steer attach` tries again: {error:#}",
                self.place.port.port
            ));
        }
    }
}
