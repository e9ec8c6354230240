//! What steer's maps say, and how it differs from the model.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::ensure;
use steer_common::{
    policy::Policy,
    slot::{SlotState, flags},
};
use steer_user::sockdiag;

use super::model::{Model, Rules, Steered};
use crate::churn::monitor::groups;

/// Checks the maps of a port that is steered against the model, and where a loader follows it
/// against the kernel's listeners.
///
/// # Errors
/// When they differ; the error tells how.
pub fn check(port: u16, model: &Model) -> anyhow::Result<()> {
    let groups = groups(port)?;
    ensure!(groups.len() == 1, "{} groups", groups.len());
    for group in groups {
        let policy = Policy::from_raw(group.config.policy);
        ensure!(
            Some(policy) == model.steered.policy(),
            "policy {policy:?}, not {:?}",
            model.steered
        );
        let mut live = BTreeMap::new();
        let mut cookies = BTreeSet::new();
        for (_, slot, _) in &group.slots {
            if slot.state == SlotState::Live as u32 {
                let rules = Rules {
                    weight: slot.weight,
                    draining: slot.flags & flags::DRAINING != 0,
                };
                live.insert(slot.pid, rules);
                cookies.insert(slot.cookie);
            }
        }
        let wanted = model.rules();
        if matches!(model.steered, Steered::Followed(_)) {
            let listeners = sockdiag::listeners(port)?;
            let listeners: BTreeSet<u64> =
                listeners.iter().map(|listener| listener.cookie).collect();
            ensure!(
                cookies == listeners,
                "the maps have {cookies:?}, the kernel {listeners:?}"
            );
        } else {
            // Nobody takes those out that have left.
            live.retain(|pid, _| wanted.contains_key(pid));
        }
        ensure!(live == wanted, "the maps have {live:?}, not {wanted:?}");
    }
    Ok(())
}
