//! Which slots are ejected. Several processors change the set at once, and never more than half of
//! the live slots are in it.

use crate::config::SlotSet;

/// A set of slots that others change meanwhile.
pub trait Ejected {
    /// Reads a word of the set.
    fn word(&self, index: usize) -> u64;

    /// Adds bits to a word, and returns the word's former value. What is read afterwards is as new
    /// as this.
    fn add(&self, index: usize, bits: u64) -> u64;

    /// Takes bits away from a word.
    fn remove(&self, index: usize, bits: u64);
}

/// Puts a slot into the set, and returns whether the set has grown by it.
///
/// If more than half of the live slots would be in the set then, any slot that is in it already is
/// taken out in exchange. So if all workers are stuck, each of them is used now and then.
#[inline(always)]
pub fn eject(set: &impl Ejected, live: &SlotSet, slot: u32, random: u32) -> bool {
    let grows = !is_more_than_half(set, live, 1);
    if !grows {
        let Some(other) = any(set, random) else {
            return false;
        };
        take_back(set, other);
    }
    let (word, bit) = place(slot);
    let before = set.add(word, bit);
    // Another processor may have counted at the same moment, and added another slot. Whoever adds
    // last sees what all have added.
    if is_more_than_half(set, live, 0) {
        set.remove(word, bit);
        return false;
    }
    grows && before & bit == 0
}

/// Takes a slot out of the set.
#[inline(always)]
pub fn take_back(set: &impl Ejected, slot: u32) {
    let (word, bit) = place(slot);
    set.remove(word, bit);
}

/// Any slot of the set. None if the set is empty.
#[inline(always)]
pub fn any(set: &impl Ejected, random: u32) -> Option<u32> {
    for step in 0..WORDS {
        let word = (random as usize + step) % WORDS;
        let bits = set.word(word);
        if bits != 0 {
            let turn = (random >> 8) % 64;
            let bit = (bits.rotate_right(turn).trailing_zeros() + turn) % 64;
            return Some(64 * word as u32 + bit);
        }
    }
    None
}

const WORDS: usize = size_of::<SlotSet>() / size_of::<u64>();

/// Whether more than half of the live slots would be in the set if this many more of them were.
#[inline(always)]
fn is_more_than_half(set: &impl Ejected, live: &SlotSet, more: u32) -> bool {
    let mut out = more;
    let mut all = 0;
    for (word, live) in live.iter().enumerate() {
        out += (live & set.word(word)).count_ones();
        all += live.count_ones();
    }
    2 * out > all
}

#[inline(always)]
fn place(slot: u32) -> (usize, u64) {
    (slot as usize / 64 % WORDS, 1 << (slot % 64))
}

#[cfg(test)]
mod tests {
    extern crate std;

    use core::{
        cell::Cell,
        sync::atomic::{AtomicU64, Ordering::SeqCst},
    };
    use std::{thread, vec::Vec};

    use super::*;

    #[derive(Default)]
    struct Shared([AtomicU64; WORDS]);

    impl Ejected for Shared {
        fn word(&self, index: usize) -> u64 {
            self.0[index].load(SeqCst)
        }

        fn add(&self, index: usize, bits: u64) -> u64 {
            self.0[index].fetch_or(bits, SeqCst)
        }

        fn remove(&self, index: usize, bits: u64) {
            self.0[index].fetch_and(!bits, SeqCst);
        }
    }

    impl Shared {
        fn len(&self) -> u32 {
            let words = self.0.iter();
            words.map(|word| word.load(SeqCst).count_ones()).sum()
        }
    }

    /// A processor that is held up at its n-th access, while another one does all that it has to
    /// do.
    struct HeldUp<'a, F> {
        set: &'a Shared,
        left: Cell<u32>,
        meanwhile: F,
    }

    impl<F: Fn()> HeldUp<'_, F> {
        fn access(&self) {
            self.left.set(self.left.get().wrapping_sub(1));
            if self.left.get() == 0 {
                (self.meanwhile)();
            }
        }
    }

    impl<F: Fn()> Ejected for HeldUp<'_, F> {
        fn word(&self, index: usize) -> u64 {
            self.access();
            self.set.word(index)
        }

        fn add(&self, index: usize, bits: u64) -> u64 {
            self.access();
            self.set.add(index, bits)
        }

        fn remove(&self, index: usize, bits: u64) {
            self.access();
            self.set.remove(index, bits);
        }
    }

    /// The slots from 60 on, `count` of them, which lie in two words.
    fn live(count: u32) -> SlotSet {
        let mut live = SlotSet::default();
        for slot in 60..60 + count {
            crate::config::insert(&mut live, slot);
        }
        live
    }

    #[test]
    fn one_after_the_other_half_are_ejected() {
        for count in 1..10 {
            let set = Shared::default();
            let grown = (0..count).filter(|slot| eject(&set, &live(count), 60 + slot, *slot));
            assert_eq!(grown.count() as u32, count / 2);
            assert_eq!(set.len(), count / 2);
        }
    }

    #[test]
    fn two_at_once_never_eject_more_than_half() {
        for count in 2..8 {
            for ejected in 0..=count / 2 {
                for held_up_at in 1..40 {
                    let set = Shared::default();
                    for slot in 0..ejected {
                        eject(&set, &live(count), 60 + slot, 0);
                    }
                    let one = HeldUp {
                        set: &set,
                        left: Cell::new(held_up_at),
                        meanwhile: || {
                            eject(&set, &live(count), 59 + count, 1);
                        },
                    };
                    eject(&one, &live(count), 58 + count, 2);
                    assert!(
                        2 * set.len() <= count,
                        "{} of {count}, held up at {held_up_at}",
                        set.len()
                    );
                }
            }
        }
    }

    #[test]
    fn nor_do_many() {
        for round in 0..300 {
            let set = Shared::default();
            thread::scope(|scope| {
                let threads: Vec<_> = (0..6)
                    .map(|slot| {
                        let set = &set;
                        scope.spawn(move || eject(set, &live(6), 60 + slot, round + slot))
                    })
                    .collect();
                drop(threads);
            });
            assert!(set.len() <= 3, "{} of 6", set.len());
        }
    }
}
