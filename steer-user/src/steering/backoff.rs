//! When to look again at what the last look has left open: soon at first, then ever more rarely.
//!
//! Each listener has a schedule of its own. So a listener that is open again and again doesn't
//! hurry or delay the looks at others.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

/// The shortest time between two looks.
const SHORTEST: Duration = Duration::from_millis(10);
/// The longest time between two looks.
const LONGEST: Duration = Duration::from_secs(2);
/// The next look comes after one eighth of the time for which a listener has been open.
const PART: u32 = 8;

/// The cookies of open listeners, each with the time since when it is open, and the time of the
/// next look.
#[derive(Debug, Default)]
pub struct Backoff(BTreeMap<u64, (Instant, Instant)>);

impl Backoff {
    /// Notes what a look at the time `now` has left open.
    pub fn note(&mut self, open: &BTreeSet<u64>, now: Instant) {
        self.0.retain(|cookie, _| open.contains(cookie));
        for &cookie in open {
            let (since, next) = self.0.entry(cookie).or_insert((now, now));
            if *next <= now {
                let age = now.saturating_duration_since(*since);
                *next = now + (age / PART).clamp(SHORTEST, LONGEST);
            }
        }
    }

    /// When the next look is due. None if nothing is open.
    pub fn next(&self) -> Option<Instant> {
        self.0.values().map(|(_, next)| *next).min()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn looks_become_rare_and_never_end() {
        let begin = Instant::now();
        let open = BTreeSet::from([1]);
        let mut backoff = Backoff::default();
        let mut now = begin;
        let mut looks = 0;
        while now < begin + Duration::from_secs(600) {
            backoff.note(&open, now);
            let next = backoff.next().expect("it is open");
            assert!(next > now && next <= now + LONGEST);
            now = next;
            looks += 1;
        }
        assert!((300..400).contains(&looks), "{looks}");
        backoff.note(&BTreeSet::new(), now);
        assert_eq!(backoff.next(), None);
    }

    proptest! {
        /// Listeners that come and go, at whatever times, change nothing for a listener that
        /// stays.
        #[test]
        fn each_has_its_own_schedule(
            others in prop::collection::vec((0_u64..50, prop::collection::btree_set(2_u64..9, 0..4)), 1..200),
        ) {
            let begin = Instant::now();
            let mut alone = Backoff::default();
            let mut among = Backoff::default();
            let mut now = begin;
            for (wait, mut open) in others {
                open.insert(1);
                among.note(&open, now);
                alone.note(&BTreeSet::from([1]), now);
                prop_assert_eq!(among.0[&1], alone.0[&1]);
                prop_assert!(among.next().expect("open") <= alone.next().expect("open"));
                now += Duration::from_millis(wait);
            }
        }
    }
}
