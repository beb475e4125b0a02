//! Sums over observers, kept as they change: for every entity the eligible and the flagging weight
//! in each zone, of each probe-core version and of each resolver class.
//!
//! One observer's change costs an addition for each bit that changed, not for each entity.

use serde::{Deserialize, Serialize};
use tocsin_proto::report::ResolverClass;

use super::{
    fixed::{Ppm, share},
    plan::{Entities, EntityIndex},
};

/// The zone number of observers whose zone is not known.
pub const NOWHERE: u8 = u8::MAX;
/// Zones that are counted apart; one more place is for those that are in none.
pub const ZONES_MAX: usize = 16;

/// Eligible and flagging weight of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Tally {
    /// Eligible weight.
    pub eligible: i64,
    /// Of it, flagging.
    pub flagging: i64,
}

impl Tally {
    /// The share that flags.
    #[must_use]
    pub const fn share(self) -> Ppm {
        share(self.flagging, self.eligible)
    }

    /// Both together.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self { eligible: self.eligible + other.eligible, flagging: self.flagging + other.flagging }
    }
}

/// What of one observer is in the sums, so that it can be taken out again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Vote {
    /// Its weight, in millionths; 0 when it is offline.
    pub weight: i64,
    /// Its zone.
    pub zone: u8,
    /// Its probe-core version.
    pub version: u16,
    /// Its resolver class.
    pub resolver: u8,
    /// Entities on which its vote counts.
    pub eligible: Entities,
    /// Entities that it flags.
    pub flags: Entities,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
struct Groups {
    zones: [Tally; ZONES_MAX + 1],
    resolvers: [Tally; ResolverClass::ALL.len()],
    /// By version, in order; there are few in the field at a time.
    versions: Vec<(u16, Tally)>,
}

impl Groups {
    fn add(&mut self, vote: &Vote, eligible: i64, flagging: i64) {
        let more = Tally { eligible, flagging };
        let zone = usize::from(vote.zone).min(ZONES_MAX);
        if let Some(tally) = self.zones.get_mut(zone) {
            *tally = tally.plus(more);
        }
        if let Some(tally) = self.resolvers.get_mut(usize::from(vote.resolver)) {
            *tally = tally.plus(more);
        }
        match self.versions.binary_search_by_key(&vote.version, |(version, _)| *version) {
            Ok(at) => {
                if let Some((_, tally)) = self.versions.get_mut(at) {
                    *tally = tally.plus(more);
                    if *tally == Tally::default() {
                        self.versions.remove(at);
                    }
                }
            }
            Err(at) => self.versions.insert(at, (vote.version, more)),
        }
    }
}

/// The sums.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Tallies {
    /// Weight of everybody online.
    online: i64,
    /// How many those are that have any.
    voters: usize,
    entities: Vec<Groups>,
}

impl Tallies {
    /// Weight of everybody online.
    #[must_use]
    pub const fn online(&self) -> i64 {
        self.online
    }

    /// Observers online that have a vote.
    #[must_use]
    pub const fn voters(&self) -> usize {
        self.voters
    }

    /// Puts one vote in another's place.
    pub fn replace(&mut self, old: &Vote, new: &Vote) {
        self.online += new.weight - old.weight;
        self.voters = self.voters + usize::from(new.weight > 0) - usize::from(old.weight > 0);
        let same = Vote { eligible: old.eligible, flags: old.flags, ..*new } == *old;
        let changed = if same {
            old.eligible.differing(new.eligible).or(old.flags.differing(new.flags))
        } else {
            old.eligible.or(new.eligible)
        };
        for entity in changed.iter() {
            self.add(entity, old, -1);
            self.add(entity, new, 1);
        }
    }

    fn add(&mut self, entity: EntityIndex, vote: &Vote, sign: i64) {
        if !vote.eligible.has(entity) || vote.weight == 0 {
            return;
        }
        let at = usize::from(entity.0);
        if self.entities.len() <= at {
            self.entities.resize_with(at + 1, Groups::default);
        }
        let weight = vote.weight * sign;
        if let Some(groups) = self.entities.get_mut(at) {
            groups.add(vote, weight, if vote.flags.has(entity) { weight } else { 0 });
        }
    }

    fn of(&self, entity: EntityIndex) -> Option<&Groups> {
        self.entities.get(usize::from(entity.0))
    }

    /// By zone; [`NOWHERE`] for those who are in none.
    pub fn zones(&self, entity: EntityIndex) -> impl Iterator<Item = (u8, Tally)> {
        let zones = self.of(entity).into_iter().flat_map(|groups| groups.zones);
        let numbers =
            (0u8..).map(|zone| if usize::from(zone) == ZONES_MAX { NOWHERE } else { zone });
        numbers.zip(zones).filter(|(_, tally)| *tally != Tally::default())
    }

    /// By probe-core version.
    pub fn versions(&self, entity: EntityIndex) -> impl Iterator<Item = (u16, Tally)> {
        self.of(entity).into_iter().flat_map(|groups| groups.versions.iter().copied())
    }

    /// By resolver class.
    pub fn resolvers(&self, entity: EntityIndex) -> impl Iterator<Item = (u8, Tally)> {
        let resolvers = self.of(entity).into_iter().flat_map(|groups| groups.resolvers);
        (0u8..).zip(resolvers).filter(|(_, tally)| *tally != Tally::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn votes() -> impl Strategy<Value = Vote> {
        let small = (0i64..4, 0u8..3, 0u16..3, 0u8..3, 0u128..16, 0u128..16);
        small.prop_map(|(weight, zone, version, resolver, eligible, flags)| Vote {
            weight,
            zone: if zone == 2 { NOWHERE } else { zone },
            version,
            resolver,
            eligible: Entities(eligible),
            flags: Entities(flags),
        })
    }

    proptest! {
        #[test]
        fn sums_are_those_of_the_votes(
            changes in proptest::collection::vec((0usize..5, votes()), 0..60),
        ) {
            let mut now = [Vote::default(); 5];
            let mut kept = Tallies::default();
            for (who, vote) in changes {
                kept.replace(&now[who], &vote);
                now[who] = vote;
            }
            let mut anew = Tallies::default();
            for vote in &now {
                anew.replace(&Vote::default(), vote);
            }
            prop_assert_eq!(kept.online(), anew.online());
            for entity in (0..4).map(EntityIndex) {
                prop_assert!(kept.zones(entity).eq(anew.zones(entity)));
                prop_assert!(kept.versions(entity).eq(anew.versions(entity)));
                prop_assert!(kept.resolvers(entity).eq(anew.resolvers(entity)));
                for (_, tally) in kept.zones(entity) {
                    prop_assert!(0 <= tally.flagging && tally.flagging <= tally.eligible);
                }
            }
        }
    }
}
