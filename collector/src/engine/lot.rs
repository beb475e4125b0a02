//! Drawing lots that nobody without the secret can foretell: who is asked, and what.

use std::collections::{BTreeMap, BTreeSet};

use tocsin_proto::sign::sha256;

use super::{
    fixed::{ONE, scale, share},
    panel::Candidate,
    params::Params,
};

/// Numbers that nobody without the secret can foretell: SHA-256 of the secret, a purpose and a
/// count, four from each hash.
#[derive(Debug)]
pub(super) struct Luck {
    key: [u8; 32],
    count: u64,
    left: std::array::IntoIter<u64, 4>,
}

impl Luck {
    pub(super) fn new(secret: &[u8; 32], what: &[u8], numbers: [u64; 3]) -> Self {
        let bytes: Vec<u8> = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
        let key = sha256(&[b"tocsin/panel/v2\0", secret, what, &[0], &bytes]);
        let mut left = [0; 4].into_iter();
        left.by_ref().for_each(drop);
        Self { key, count: 0, left }
    }

    pub(super) fn number(&mut self) -> u64 {
        if let Some(number) = self.left.next() {
            return number;
        }
        let hash = sha256(&[&self.key, &self.count.to_le_bytes()]);
        self.count += 1;
        let mut numbers = [0u64; 4];
        for (number, bytes) in numbers.iter_mut().zip(hash.chunks_exact(8)) {
            *number = bytes.iter().fold(0, |value, byte| value << 8 | u64::from(*byte));
        }
        self.left = numbers.into_iter();
        self.left.next().unwrap_or_default()
    }

    /// Below `n`, each as likely but for one part in 2^64 / n (Lemire, Fast Random Integer Generation
    /// in an Interval, ACM TOMACS 2019, without the rejection).
    fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.number()) * n as u128) >> 64) as usize
    }

    /// Deals one after the other, none twice (Fisher and Yates): only as many as are taken are drawn.
    pub(super) fn deal<T: Copy>(&mut self, mut deck: Vec<T>) -> impl Iterator<Item = T> {
        let mut dealt = 0;
        std::iter::from_fn(move || {
            let left = deck.len().checked_sub(dealt).filter(|left| *left > 0)?;
            deck.swap(dealt, dealt + self.below(left));
            dealt += 1;
            deck.get(dealt - 1).copied()
        })
    }
}

/// Draws so many of a crowd, each with what its vote weighs; zones by their weight, none more than a
/// quarter, or than its part where they are fewer than four, and none fewer than a few.
///
/// Accepted by weight, at most one of a prefix; then each has one vote. Where everybody is asked, the
/// vote is the weight. Never both.
pub(super) fn draw(
    p: &Params,
    crowd: &[Candidate],
    secret: &[u8; 32],
    number: u64,
    seats: usize,
) -> Vec<(Candidate, i64)> {
    if seats >= crowd.len() {
        return crowd.iter().map(|candidate| (*candidate, candidate.weight)).collect();
    }
    let mut by_zone: BTreeMap<u8, Vec<Candidate>> = BTreeMap::new();
    for candidate in crowd {
        by_zone.entry(candidate.zone).or_default().push(*candidate);
    }
    let total: i64 = crowd.iter().map(|candidate| candidate.weight).sum();
    let most = p.zone_cap.max(share(1, by_zone.len() as i64));
    let mut drawn = Vec::new();
    for (zone, candidates) in by_zone {
        let of_zone = candidates.iter().map(|candidate| candidate.weight).sum();
        let part = share(of_zone, total).min(most);
        let quota = usize::try_from(scale(seats as i64, part)).unwrap_or(0).max(p.zone_seats_min);
        let numbers = [number, u64::from(zone), 0];
        let mut lot = Luck::new(secret, b"accept", numbers);
        let mut prefixes = BTreeSet::new();
        let accepted = Luck::new(secret, b"draw", numbers)
            .deal(candidates)
            .filter(|candidate| {
                (lot.below(ONE as usize) as i64) < candidate.weight
                    && prefixes.insert(candidate.slot)
            })
            .take(quota)
            .map(|candidate| (candidate, ONE))
            .collect::<Vec<_>>();
        drawn.extend(accepted);
    }
    drawn
}
