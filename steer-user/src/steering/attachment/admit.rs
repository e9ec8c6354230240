//! Which groups this attachment takes, depending on the program that is attached to them.

use super::Attachment;
use crate::{
    output::{exit::Fail, print::message},
    steering::{
        abandoned::{self, Loaded},
        admission,
    },
    survey::{address, groups::FoundGroup},
};

impl Attachment {
    pub(super) fn admit(&self, found: &FoundGroup) -> Result<(), Fail> {
        admission::check(found)?;
        if !found.has_program || self.is_ours(found) || self.is_older(found) {
            return Ok(());
        }
        match abandoned::among(|program| program.is_of(found)).first() {
            Some(program) if self.is_anothers(program) => Err(admission::followed_elsewhere(found)),
            None if !self.request.replace => Err(admission::foreign_program(found)),
            _ => Ok(()),
        }
    }

    /// Whether another steer follows the group that a program of steer chooses for.
    pub(super) fn is_anothers(&self, program: &Loaded) -> bool {
        // This steer has the port's lock. So it knows that nobody follows what its own tracker
        // serves on the port.
        program.is_tracked && !(program.is_of_tracker(self.host.id()) && self.lock.is_current())
    }

    /// Whether the attached program is one that a steer of an earlier version has left.
    pub(super) fn is_older(&self, found: &FoundGroup) -> bool {
        let older = self.older.as_ref();
        older.is_some_and(|older| older.group(found.program_id).is_some())
    }

    pub(super) fn is_ours(&self, found: &FoundGroup) -> bool {
        let mut groups = self.groups.iter();
        groups.any(|group| group.is_program(found.program_id))
    }

    /// Prepares to take the place of a program whose steer and pins are gone.
    pub(super) fn succeed(&mut self, left: Loaded) {
        self.succeeded.push(left.program_id);
        self.say(format!(
            "tcp {}: taking the place of eBPF program {} of a steer that is gone, and so are its pins",
            address::shown(&left.key),
            left.program_id
        ));
        left.release();
    }

    /// Says that another program is attached to a group. It is said once each time that a program
    /// appears.
    pub(super) fn displaced(&mut self, found: &FoundGroup) {
        if !self.displaced.insert(found.key) {
            return;
        }
        let was_steered = self
            .group_of(found)
            .is_some_and(|index| self.groups[index].live() > 0);
        let replace = self.request.replace;
        if was_steered {
            message(&format!(
                "warning: {}",
                admission::displaced(found, replace)
            ));
        } else if !replace {
            message(&format!("warning: {}", admission::foreign_program(found)));
        }
    }
}
