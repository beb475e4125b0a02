//! Votes: keys are free, so votes are not keys. A prefix has at most one vote, a network at most
//! 2 % of all (but three), and a new observer none until it has been there for a while.

use std::collections::{BTreeMap, HashMap};

use super::{
    fixed::{ONE, scale, share},
    params::Params,
};

/// An observer as the votes see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Voter {
    /// Its vote by tenure alone, 0 to [`ONE`].
    pub tenure: i64,
    /// Its prefix.
    pub slot: u64,
    /// Its network.
    pub asn: u32,
}

/// Rounds until the network cap, itself a share of the capped total, stands still.
const ROUNDS_MAX: usize = 6;

/// What an observer's word weighs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Weight {
    /// In the world: capped by prefix and by network.
    pub vote: i64,
    /// Within its network: capped by prefix only.
    pub within: i64,
}

/// The weight of each, in the order given.
#[must_use]
pub fn weigh(p: &Params, voters: &[Voter]) -> Vec<Weight> {
    // Prefixes are as many as observers, and nobody asks for them in order.
    let mut by_prefix: HashMap<u64, i64> = HashMap::with_capacity(voters.len());
    for voter in voters {
        *by_prefix.entry(voter.slot).or_default() += voter.tenure;
    }
    let prefix_capped: Vec<i64> = voters
        .iter()
        .map(|voter| {
            let sum = by_prefix.get(&voter.slot).copied().unwrap_or_default();
            if sum > ONE { scale(voter.tenure, share(ONE, sum)) } else { voter.tenure }
        })
        .collect();
    let mut by_network: BTreeMap<u32, i64> = BTreeMap::new();
    for (voter, weight) in voters.iter().zip(&prefix_capped) {
        *by_network.entry(voter.asn).or_default() += weight;
    }
    let mut cap = i64::MAX;
    for _ in 0..ROUNDS_MAX {
        let total: i64 = by_network.values().map(|sum| (*sum).min(cap)).sum();
        let next = scale(total, p.network_cap_share).max(p.network_cap_min);
        if next == cap {
            break;
        }
        cap = next;
    }
    let capped = |(voter, within): (&Voter, &i64)| {
        let sum = by_network.get(&voter.asn).copied().unwrap_or_default();
        let vote = if sum > cap { scale(*within, share(cap, sum)) } else { *within };
        Weight { vote, within: *within }
    };
    voters.iter().zip(&prefix_capped).map(capped).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const P: &Params = &Params::DEFAULT;

    #[test]
    fn ten_thousand_keys_in_one_prefix_are_one_vote() {
        let mut voters = vec![Voter { tenure: ONE, slot: 1, asn: 1 }; 10_000];
        voters.extend((2..100).map(|n| Voter { tenure: ONE, slot: n, asn: n as u32 }));
        let weights = weigh(P, &voters);
        let sybil: i64 = weights.iter().take(10_000).map(|weight| weight.within).sum();
        assert!(sybil <= ONE, "{sybil}");
        assert_eq!(weights.last(), Some(&Weight { vote: ONE, within: ONE }));
    }

    proptest! {
        #[test]
        fn caps_hold(voters in prop::collection::vec((0..=ONE, 0u64..50, 0u32..10), 0..200)) {
            let voters: Vec<_> = voters
                .into_iter()
                .map(|(tenure, slot, asn)| Voter { tenure, slot, asn })
                .collect();
            let weights = weigh(P, &voters);
            let total: i64 = weights.iter().map(|weight| weight.vote).sum();
            let (mut prefixes, mut networks) = (BTreeMap::new(), BTreeMap::new());
            for (voter, weight) in voters.iter().zip(&weights) {
                let Weight { vote, within } = *weight;
                prop_assert!(0 <= vote && vote <= within && within <= voter.tenure);
                *prefixes.entry(voter.slot).or_insert(0) += within;
                *networks.entry(voter.asn).or_insert(0) += vote;
            }
            prop_assert!(prefixes.values().all(|sum| *sum <= ONE));
            // The cap stands still only nearly after six rounds: a hundredth of slack.
            let cap = (scale(total, P.network_cap_share) + ONE / 100).max(P.network_cap_min);
            prop_assert!(networks.values().all(|sum| *sum <= cap));
        }
    }
}
