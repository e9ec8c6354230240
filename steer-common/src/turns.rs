//! The order of turns under round robin.
//!
//! A worker of weight `w` has `w` of `W` turns, if `W` is the sum of all weights. Its turns are
//! spread as evenly as they can be: its `k`-th turn is due at `(2k + 1) / 2w` of the way round.
//! Turns are laid out in the order in which they are due (the earliest-due-first order of weighted
//! fair queueing).

/// One worker's claim to turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The worker's slot.
    pub slot: u32,
    /// The worker's weight, at least 1.
    pub weight: u32,
}

/// Lays out one round of turns and returns how many turns there are: the sum of the weights, after
/// division by their greatest common divisor. A weight of 0 counts as 1.
///
/// `turns` takes as many turns as it has room for. With room for [`crate::limits::MAX_TURNS`],
/// that is all of them.
///
/// `taken` is scratch space, one element for each claim.
pub fn lay_out(claims: &[Claim], taken: &mut [u32], turns: &mut [u32]) -> usize {
    let divisor = claims
        .iter()
        .fold(0, |all, claim| gcd(all, claim.weight.max(1)));
    let weight = |claim: &Claim| u64::from(claim.weight.max(1) / divisor.max(1));
    let total = claims.iter().map(weight).sum::<u64>() as usize;
    let count = total.min(turns.len());
    taken.fill(0);
    for turn in &mut turns[..count] {
        let mut next: Option<usize> = None;
        for (index, claim) in claims.iter().enumerate() {
            let due =
                |index: usize, claim: &Claim| (2 * u64::from(taken[index]) + 1, weight(claim));
            if u64::from(taken[index]) >= weight(claim) {
                continue;
            }
            let earlier = next.is_none_or(|best| {
                let (mine, my_weight) = due(index, claim);
                let (other, other_weight) = due(best, &claims[best]);
                mine * other_weight < other * my_weight
            });
            if earlier {
                next = Some(index);
            }
        }
        let Some(index) = next else { break };
        taken[index] += 1;
        *turn = claims[index].slot;
    }
    count
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}
