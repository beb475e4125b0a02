//! The conditions for a verdict, each asked and each answered with what it found.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tocsin_proto::incident::{LiarBound, Reason};

use super::{
    fixed::{ONE, Ppm, divergence_q16, percent, scale, share, votes},
    params::{Params, Settings},
    tally::{NOWHERE, Tally},
};

/// Everything the conditions look at, for one entity at one evaluation.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Shares {
    /// Zones that count by themselves, and the residual zone under [`NOWHERE`].
    pub zones: BTreeMap<u8, Tally>,
    /// All eligible weight, in evaluated zones or not.
    pub all: Tally,
    /// Weight of everybody online.
    pub online: i64,
    /// The share over the zones, none counting for more than a quarter.
    pub share: Ppm,
}

impl Shares {
    /// From tallies by zone: thin zones are merged, and capped ones averaged.
    #[must_use]
    pub fn new(p: &Params, by_zone: impl IntoIterator<Item = (u8, Tally)>, online: i64) -> Self {
        let mut zones = BTreeMap::new();
        let mut residual = Tally::default();
        let mut all = Tally::default();
        for (zone, tally) in by_zone {
            all = all.plus(tally);
            if zone != NOWHERE && tally.eligible >= p.zone_min {
                zones.insert(zone, tally);
            } else {
                residual = residual.plus(tally);
            }
        }
        if residual.eligible >= p.zone_min {
            zones.insert(NOWHERE, residual);
        }
        let total: i64 = zones.values().map(|tally| tally.eligible).sum();
        let cap = scale(total, p.zone_cap);
        let (mut weight, mut flagging) = (0, 0);
        for tally in zones.values() {
            let counted = tally.eligible.min(cap);
            weight += counted;
            flagging += scale(counted, tally.share());
        }
        Self { zones, all, online, share: share(flagging, weight) }
    }

    /// Zones that see it.
    #[must_use]
    pub fn zones_seeing(&self, p: &Params) -> usize {
        self.zones.values().filter(|tally| tally.share() > p.zone_share).count()
    }

    fn zones_needed(&self, p: &Params) -> usize {
        let part = scale(i64::try_from(self.zones.len()).unwrap_or(0) * ONE, p.zones_share);
        usize::try_from((part + ONE - 1) / ONE).unwrap_or(usize::MAX).max(p.zones_min)
    }

    /// Share of the weight, no zone counting for more than a quarter, in zones that see it.
    #[must_use]
    pub fn weight_seeing(&self, p: &Params) -> Ppm {
        let total: i64 = self.zones.values().map(|tally| tally.eligible).sum();
        let cap = scale(total, p.zone_cap);
        let weight = |of: &mut dyn Iterator<Item = &Tally>| -> i64 {
            of.map(|tally| tally.eligible.min(cap)).sum()
        };
        let seeing = weight(&mut self.zones.values().filter(|tally| tally.share() > p.zone_share));
        share(seeing, weight(&mut self.zones.values()))
    }

    /// C2: in most zones; or in half of them, where those hold most of the weight. Zones are not
    /// equal: counted alone, a few votes in the thinnest could hide what everybody else sees.
    #[must_use]
    pub fn geography(&self, p: &Params) -> Reason {
        let (seeing, evaluated) = (self.zones_seeing(p), self.zones.len());
        let weight = self.weight_seeing(p);
        let by_weight = weight >= p.zones_share && 2 * seeing >= evaluated;
        let enough = evaluated >= p.zones_min && seeing >= p.zones_min;
        Reason {
            rule: "c2.geography".to_owned(),
            held: enough && (seeing >= self.zones_needed(p) || by_weight),
            found: format!(
                "{seeing} of {evaluated} zones with enough votes see it, with {} of the weight",
                percent(weight)
            ),
            needed: format!(
                "{} of at least {}, or half of them with {} of the weight",
                self.zones_needed(p),
                p.zones_min,
                percent(p.zones_share)
            ),
        }
    }

    /// C3: enough of those online can tell.
    #[must_use]
    pub fn coverage(&self, p: &Params) -> Reason {
        let part = share(self.all.eligible, self.online);
        Reason {
            rule: "c3.coverage".to_owned(),
            held: self.online > 0 && part >= p.coverage,
            found: format!(
                "{} of the votes online can tell ({} of {})",
                percent(part),
                votes(self.all.eligible),
                votes(self.online)
            ),
            needed: format!("at least {}", percent(p.coverage)),
        }
    }

    /// Whether enough can tell for a low share to be a recovery: half of what a verdict needs, since a provider
    /// of few sites is looked at seldom.
    #[must_use]
    pub fn is_told(&self, p: &Params) -> bool {
        2 * share(self.all.eligible, self.online) >= p.coverage
    }

    /// What liars it would take, at least, if everybody honest saw nothing: a prefix has one vote, a network
    /// its cap, and a zone no more than its part however many vote there. So they fill the zones whose
    /// votes count in full first; and a divided world needs fewer than half.
    #[must_use]
    pub fn liar_bound(&self, p: &Params) -> LiarBound {
        let total: i64 = self.zones.values().map(|tally| tally.eligible).sum();
        let zone_cap = scale(total, p.zone_cap);
        let counted: i64 = self.zones.values().map(|tally| tally.eligible.min(zone_cap)).sum();
        let mut left = scale(counted, p.confirm.min(p.divided));
        let mut sizes: Vec<i64> = self.zones.values().map(|tally| tally.eligible).collect();
        sizes.sort_unstable();
        let mut needed = 0;
        for size in sizes {
            // A vote of a capped zone counts for less.
            let of_it = left.min(size.min(zone_cap));
            needed += scale(of_it, share(size, size.min(zone_cap)));
            left -= of_it;
        }
        let cap = scale(self.online, p.network_cap_share).max(p.network_cap_min);
        let up = |weight: i64, by: i64| u32::try_from((weight + by - 1) / by).unwrap_or(u32::MAX);
        // Half of the zones are enough where they hold most of the weight.
        let zones = self.zones_needed(p).min(self.zones.len().div_ceil(2).max(p.zones_min));
        LiarBound {
            prefixes: up(needed, ONE),
            networks: up(needed, cap),
            zones: u32::try_from(zones).unwrap_or(u32::MAX),
        }
    }
}

/// How divided the world is: the regions that see it by a majority of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Divided {
    /// Their share of the weight that is online.
    pub weight: Ppm,
    /// The share in them that sees it, taken together.
    pub share: Ppm,
    /// Zones in which there is one.
    pub zones: usize,
    /// Of so many zones.
    pub of: usize,
}

/// C1: a majority. Or nearly one, where the world is divided into regions that see it by clear
/// majorities, most of it, and others that do not: half of the locations of an edge, say.
#[must_use]
pub fn majority(p: &Params, share: Ppm, all: Tally, divided: &Divided) -> Reason {
    let is_divided = share >= p.divided
        && divided.weight >= p.divided_weight
        && divided.share >= p.divided_share
        && divided.zones >= p.zones_min
        && 2 * divided.zones > divided.of;
    Reason {
        rule: "c1.majority".to_owned(),
        held: share >= p.confirm || is_divided,
        found: format!(
            "{} of the votes see it ({} of {}, no zone counted for more than a quarter); regions with \
             {} of the weight, in {} of {} zones, by a majority of their own ({})",
            percent(share),
            votes(all.flagging),
            votes(all.eligible),
            percent(divided.weight),
            divided.zones,
            divided.of,
            percent(divided.share)
        ),
        needed: format!(
            "at least {}; or {}, and {} in regions with {} of the weight in more than half of the zones",
            percent(p.confirm),
            percent(p.divided),
            percent(p.divided_share),
            percent(p.divided_weight)
        ),
    }
}

/// What a stratum test found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Strata {
    /// Whether the share holds inside and outside the largest stratum.
    pub holds: bool,
    /// Nobody outside the largest stratum can tell, and it is not established.
    pub unproved: bool,
    /// In words.
    pub reason: Reason,
}

/// C4: the failure is not one of a version of our own program, or of one resolver. Where nearly
/// everybody is in one stratum, `established` says whether that one is trusted by its age.
#[must_use]
pub fn strata<K: Copy + Ord + Default + std::fmt::Display>(
    p: &Params,
    rule: &str,
    what: &str,
    by_stratum: &BTreeMap<K, Tally>,
    overall: Ppm,
    established: impl Fn(K) -> bool,
) -> Strata {
    let largest = by_stratum.iter().max_by_key(|(key, t)| (t.eligible, std::cmp::Reverse(**key)));
    let Some((key, dominant)) = largest else {
        let reason = Reason {
            rule: rule.to_owned(),
            held: false,
            found: "nobody can tell".to_owned(),
            needed: "votes".to_owned(),
        };
        return Strata { holds: false, unproved: false, reason };
    };
    if *key == K::default() && by_stratum.len() == 1 {
        let reason = Reason {
            rule: rule.to_owned(),
            held: true,
            found: format!("not tested: no observer tells its {what}"),
            needed: "observers of more than one".to_owned(),
        };
        return Strata { holds: true, unproved: false, reason };
    }
    let rest = by_stratum
        .iter()
        .filter(|(other, _)| *other != key)
        .fold(Tally::default(), |sum, (_, tally)| sum.plus(*tally));
    let limit = scale(overall, p.strata_times).min(p.strata_max);
    let few = rest.eligible < p.zone_min;
    let unproved = few && !established(*key);
    // Of few votes some see anything by their own lines; with every try they are drawn anew.
    let bits = scale(rest.eligible, divergence_q16(rest.share(), p.stratum_background));
    let proved = rest.share() > p.stratum_background && bits >= p.stratum_bits_q16;
    let holds = dominant.share() >= limit && (few || (rest.share() >= limit && proved));
    let found = if few {
        let known = if unproved { "not established" } else { "established" };
        format!(
            "{} within {what} {key}; outside it {} votes only; {what} {key} is {known}",
            percent(dominant.share()),
            votes(rest.eligible)
        )
    } else {
        format!(
            "{} within {what} {key}, {} of {} votes outside it",
            percent(dominant.share()),
            percent(rest.share()),
            votes(rest.eligible)
        )
    };
    let needed = format!(
        "at least {} on both sides, outside it by {} bits more than {}",
        percent(limit),
        p.stratum_bits_q16 >> 16,
        percent(p.stratum_background)
    );
    let reason = Reason { rule: rule.to_owned(), held: holds && !unproved, found, needed };
    Strata { holds, unproved, reason }
}

/// Who takes part in a verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Participants {
    /// Observers.
    pub observers: u32,
    /// Their prefixes.
    pub prefixes: u32,
    /// Their networks.
    pub networks: u32,
    /// Their zones.
    pub zones: u32,
}

impl Participants {
    /// C0: enough to say something of the whole world.
    #[must_use]
    pub fn enough(&self, settings: &Settings) -> Reason {
        let Settings { crowd_observers, crowd_networks, crowd_zones, .. } = settings;
        Reason {
            rule: "c0.crowd".to_owned(),
            held: self.observers >= *crowd_observers
                && self.networks >= *crowd_networks
                && self.zones >= *crowd_zones,
            found: format!(
                "{} observers with a vote in {} prefixes, {} networks and {} zones can tell",
                self.observers, self.prefixes, self.networks, self.zones
            ),
            needed: format!(
                "{crowd_observers} observers, {crowd_networks} networks, {crowd_zones} zones"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const P: &Params = &Params::DEFAULT;

    fn tally(eligible: i64, flagging: i64) -> Tally {
        Tally { eligible: eligible * ONE, flagging: flagging * ONE }
    }

    #[test]
    fn the_worked_example() {
        let mut zones: BTreeMap<u8, Tally> = [(0, 40, 26), (1, 30, 21), (2, 20, 13), (3, 8, 5)]
            .map(|(zone, n, a)| (zone, tally(n, a)))
            .into();
        zones.insert(4, tally(2, 1));
        zones.insert(5, tally(1, 1));
        zones.insert(6, tally(1, 0));
        let shares = Shares::new(P, zones, 130 * ONE);
        assert_eq!(shares.share / 1000, 655, "54.425 of 83");
        assert_eq!((shares.zones.len(), shares.zones_seeing(P), shares.zones_needed(P)), (5, 5, 4));
        let c1 = |share| majority(P, share, shares.all, &Divided::default()).held;
        assert!(
            c1(shares.share) && !c1(490_000) && shares.geography(P).held && shares.coverage(P).held
        );
    }

    #[test]
    fn a_divided_world_needs_no_majority_of_all() {
        let check = |share, weight, zones| {
            let divided = Divided { weight, share: 700_000, zones, of: 15 };
            majority(P, share, Tally::default(), &divided).held
        };
        let blurred = Divided { weight: 500_000, share: 550_000, zones: 9, of: 15 };
        assert!(!majority(P, 450_000, Tally::default(), &blurred).held, "half of a half is chance");
        assert!(check(390_000, 400_000, 8));
        assert!(!check(350_000, 600_000, 9), "too few see it");
        assert!(!check(430_000, 600_000, 7), "half of the zones are no world");
        assert!(!check(490_000, 100_000, 15), "spread liars have no region");
    }

    #[test]
    fn strata_hold_back_what_one_version_alone_sees() {
        let check = |strata: &[(u16, i64, i64)], established: bool| {
            let map = strata.iter().map(|(k, n, a)| (*k, tally(*n, *a))).collect();
            let found = super::strata(P, "c4", "version", &map, 600_000, |_| established);
            (found.holds, found.unproved)
        };
        assert_eq!(check(&[(1, 78, 52), (2, 24, 15)], false), (true, false));
        assert_eq!(check(&[(1, 78, 70), (2, 24, 1)], true), (false, false));
        assert_eq!(check(&[(1, 98, 70), (2, 2, 0)], false), (true, true));
        assert_eq!(check(&[(1, 98, 70), (2, 2, 0)], true), (true, false));
        assert_eq!(
            check(&[(1, 98, 90), (2, 10, 3)], true),
            (false, false),
            "three of ten are chance"
        );
        assert_eq!(check(&[(1, 98, 90), (2, 10, 6)], true), (true, false));
        let unknown = [(0u16, tally(98, 90))].into();
        let found = super::strata(P, "c4", "version", &unknown, 600_000, |_| false);
        assert!(found.holds && !found.unproved && found.reason.found.contains("not tested"));
    }
}
