//! Counts the connections that workers had before they were steered.

use steer_common::slot::Tag;

use super::Attachment;
use crate::steering::{earlier::Earlier, group::Group};

impl Attachment {
    /// Counts the earlier connections of all workers. This is done at the beginning, and once
    /// more later, for connections that were just passing from a listener to a process.
    pub(super) fn count_all(&mut self) {
        self.count_waiting();
        self.joined = self.groups.iter().flat_map(Group::tags).collect();
        self.count_accepted();
    }

    /// Counts the connections that wait for workers that have just joined.
    pub(super) fn count_waiting(&mut self) {
        if let Err(error) = self.try_count_waiting() {
            self.say_uncounted(&error);
        }
    }

    fn try_count_waiting(&mut self) -> anyhow::Result<()> {
        let mut earlier = match self.earlier.take() {
            Some(earlier) => earlier,
            None => Earlier::load(&self.kernel, &self.lock.pins().host(), self.place.port.port)?,
        };
        earlier.count_waiting()?;
        self.earlier = Some(earlier);
        Ok(())
    }

    /// Counts the connections that workers had accepted before they joined. The connections that
    /// wait for them are counted already.
    pub(super) fn count_accepted(&mut self) {
        let joined = std::mem::take(&mut self.joined);
        if joined.is_empty() {
            return;
        }
        let mut counted = self.try_count_accepted(&joined);
        if counted.is_err() {
            // There may be more connections than the map has room for. A new map is large enough.
            self.earlier = None;
            counted = self.try_count_accepted(&joined);
        }
        if let Err(error) = counted {
            self.say_uncounted(&error);
        }
    }

    fn try_count_accepted(&mut self, joined: &[(u32, Tag)]) -> anyhow::Result<()> {
        if self.earlier.is_none() {
            self.try_count_waiting()?;
        }
        let members = &mut self.members;
        self.earlier
            .as_mut()
            .map_or(Ok(()), |earlier| earlier.count_accepted(joined, members))
    }

    fn say_uncounted(&mut self, error: &anyhow::Error) {
        self.say(format!(
            "warning: connections that were open before steer came aren't counted as active: {error:#}"
        ));
    }
}
