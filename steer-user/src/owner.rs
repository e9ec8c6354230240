//! Whose a listener is: of those who hold it, the one process that polls it.

use crate::procfd::Holder;

/// Who serves a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// This process.
    Process(Holder),
    /// Nobody polls it: it gets nothing until somebody does.
    Nobody,
    /// Several processes poll it, so nothing tells which one a connection goes to.
    Several(Vec<Holder>),
}

/// Decides by who holds the listener and who polls it.
///
/// A process that is its only holder is its owner even where no poll is seen: it may be between
/// two calls of accept(), or use io_uring.
pub fn of(holders: &[Holder]) -> Owner {
    let mut polling = holders.iter().filter(|holder| holder.polls);
    match (polling.next(), polling.next(), holders) {
        (Some(only), None, _) | (None, None, [only]) => Owner::Process(only.clone()),
        (None, _, _) => Owner::Nobody,
        (Some(_), Some(_), _) => Owner::Several(
            holders
                .iter()
                .filter(|holder| holder.polls)
                .cloned()
                .collect(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(pid: u32, polls: bool) -> Holder {
        Holder {
            pid,
            comm: "worker".into(),
            fd: 3,
            polls,
            opaque: false,
        }
    }

    #[test]
    fn the_one_that_polls() {
        let nginx = [holder(1, false), holder(2, true), holder(3, false)];
        assert_eq!(of(&nginx), Owner::Process(holder(2, true)));
    }

    #[test]
    fn the_only_holder() {
        assert_eq!(of(&[holder(1, false)]), Owner::Process(holder(1, false)));
    }

    #[test]
    fn nobody() {
        assert_eq!(of(&[]), Owner::Nobody);
        assert_eq!(of(&[holder(1, false), holder(2, false)]), Owner::Nobody);
    }

    #[test]
    fn several() {
        let both = [holder(1, true), holder(2, true)];
        assert_eq!(of(&both), Owner::Several(both.to_vec()));
    }
}
