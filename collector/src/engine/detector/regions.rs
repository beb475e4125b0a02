//! Where a failure is one of a region: a zone or a country with a majority of its own.
//!
//! A region is more than its largest networks. So the votes of it must be a majority, and so must
//! its networks, each counted once; and most of those online there must be able to tell.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tocsin_proto::incident::{LiarBound, Reason};

use super::{Detector, EntityIndex, Shares};
use crate::engine::{
    fixed::{ONE, divergence_q16, scale, share},
    incident::Region,
    judge::{self, Divided},
    params::Params,
    tally::{NOWHERE, Tally},
};

/// What is seen in one country or zone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Here {
    online: i64,
    tally: Tally,
    networks: BTreeMap<u32, Tally>,
}

impl Here {
    /// Counts one who is online there: whether it can tell, and whether it sees it.
    pub(crate) fn add(&mut self, asn: u32, weight: i64, vote: Option<bool>) {
        self.online += weight;
        let Some(sees) = vote else { return };
        let more = Tally { eligible: weight, flagging: if sees { weight } else { 0 } };
        self.tally = self.tally.plus(more);
        let network = self.networks.entry(asn).or_default();
        *network = network.plus(more);
    }

    fn merge(&mut self, other: &Self) {
        self.online += other.online;
        self.tally = self.tally.plus(other.tally);
        for (asn, tally) in &other.networks {
            let network = self.networks.entry(*asn).or_default();
            *network = network.plus(*tally);
        }
    }

    /// What is seen in a region: a country, or all of a zone's.
    fn of(countries: &BTreeMap<Region, (u8, Self)>, region: &Region) -> Self {
        let mut all = Self::default();
        for (country, (zone, here)) in countries {
            if country == region || Region::Zone(*zone) == *region {
                all.merge(here);
            }
        }
        all
    }

    /// Networks that can tell, by more than a passer-by.
    fn telling(&self) -> impl Iterator<Item = &Tally> {
        self.networks.values().filter(|tally| tally.eligible >= ONE / 2)
    }

    /// Networks that see it.
    fn seeing(&self, p: &Params) -> usize {
        self.telling().filter(|tally| tally.share() >= p.confirm).count()
    }

    /// Whether its networks see it so much more often than those elsewhere that it is no chance:
    /// with one path in seven broken, some small country has most of the bad ones.
    fn stands_out(&self, p: &Params, world: &Self) -> bool {
        let networks = self.telling().count();
        let elsewhere = world.telling().count().saturating_sub(networks);
        let seeing = world.seeing(p).saturating_sub(self.seeing(p));
        let rest = share(seeing as i64, elsewhere as i64);
        let background = scale(rest, p.usual_times).max(p.regional_background);
        let own = share(self.seeing(p) as i64, networks as i64);
        own > background && divergence_q16(own, background) * networks as i64 >= p.group_bits_q16
    }

    /// What liars it would take, at least, to say it of this region: half of its votes, and of its networks.
    fn liar_bound(&self, p: &Params) -> LiarBound {
        let up = |n: i64| u32::try_from(n).unwrap_or(u32::MAX);
        LiarBound {
            prefixes: up((scale(self.tally.eligible, p.confirm) + ONE - 1) / ONE),
            networks: up(self.telling().count().div_ceil(2) as i64),
            zones: 1,
        }
    }

    /// Whether it is an outage of this region, and not of a few in it.
    fn sees(&self, p: &Params) -> bool {
        let telling = self.telling().count();
        self.tally.eligible >= p.regional_min
            && self.tally.share() >= p.confirm
            && share(self.tally.eligible, self.online) >= p.coverage
            && telling >= p.regional_networks
            && 2 * self.seeing(p) >= telling
    }
}

/// Parts of the world that see it: whole zones, or single countries where the rest of their zone does
/// not.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Regional {
    /// Which.
    pub regions: Vec<Region>,
    /// What liars it would take, at least, to say it of any of them.
    pub liar_bound: LiarBound,
}

impl Regional {
    /// From what is seen in each country of each zone.
    pub(crate) fn of(p: &Params, countries: &BTreeMap<Region, (u8, Here)>) -> Self {
        let mut world = Here::default();
        countries.values().for_each(|(_, here)| world.merge(here));
        let mut regions = majorities(p, countries);
        let mut liar_bound: Option<LiarBound> = None;
        regions.retain(|region| {
            let here = Here::of(countries, region);
            let stands_out = here.stands_out(p, &world);
            if stands_out {
                let bound = here.liar_bound(p);
                liar_bound =
                    liar_bound.filter(|least| least.prefixes <= bound.prefixes).or(Some(bound));
            }
            stands_out
        });
        Self { regions, liar_bound: liar_bound.unwrap_or_default() }
    }

    /// Whether no part does.
    pub(crate) const fn is_empty(&self) -> bool {
        self.regions.is_empty()
    }
}

/// The regions with a majority of their own, whatever is seen elsewhere.
fn majorities(p: &Params, countries: &BTreeMap<Region, (u8, Here)>) -> Vec<Region> {
    let mut zones: BTreeMap<u8, Here> = BTreeMap::new();
    for (zone, here) in countries.values() {
        zones.entry(*zone).or_default().merge(here);
    }
    let mut regions = Vec::new();
    for (zone, whole) in zones {
        let own = || countries.iter().filter(|(_, (of, _))| *of == zone);
        let seeing: Vec<Region> =
            own().filter(|(_, (_, here))| here.sees(p)).map(|(country, _)| *country).collect();
        let mut others = Here::default();
        for (_, (_, here)) in own().filter(|(country, _)| !seeing.contains(country)) {
            others.merge(here);
        }
        // Of few votes elsewhere in the zone nothing is known: then it is the zone's.
        let apart = others.tally.eligible >= p.zone_min && others.tally.share() <= p.zone_share;
        match (whole.sees(p), seeing.is_empty()) {
            (true, true) => regions.push(Region::Zone(zone)),
            (true, false) if !apart => regions.push(Region::Zone(zone)),
            _ => regions.extend(seeing),
        }
    }
    regions
}

/// How much of the world these regions are.
pub(crate) fn divided(p: &Params, countries: &BTreeMap<Region, (u8, Here)>) -> Divided {
    let regions = majorities(p, countries);
    let mut zones: BTreeMap<u8, (i64, bool)> = BTreeMap::new();
    let (mut all, mut seeing, mut votes) = (0, 0, Tally::default());
    for (country, (zone, here)) in countries {
        let sees = regions.contains(country) || regions.contains(&Region::Zone(*zone));
        let (online, any) = zones.entry(*zone).or_default();
        *online += here.online;
        *any |= sees;
        all += here.online;
        if sees {
            seeing += here.online;
            votes = votes.plus(here.tally);
        }
    }
    let counted = || zones.values().filter(|(online, _)| *online >= p.zone_min);
    Divided {
        weight: share(seeing, all),
        share: votes.share(),
        zones: counted().filter(|(_, any)| *any).count(),
        of: counted().count(),
    }
}

impl Detector {
    /// C1 over what is overheard.
    pub(super) fn majority(&self, entity: EntityIndex, shares: &Shares) -> Reason {
        let p = &*self.settings.params;
        let near = (p.divided..p.confirm).contains(&shares.share);
        let divided = if near { divided(p, &self.by_country(entity)) } else { Divided::default() };
        judge::majority(p, shares.share, shares.all, &divided)
    }

    /// The regions in which an entity fails by a majority of their own.
    pub(super) fn regions(&self, entity: EntityIndex, shares: &Shares) -> Regional {
        let p = &*self.settings.params;
        let worth = |(zone, tally): (&u8, &Tally)| {
            *zone != NOWHERE && tally.flagging >= 4 * ONE && tally.share() >= p.regional_look
        };
        if !shares.zones.iter().any(worth) {
            return Regional::default();
        }
        Regional::of(p, &self.by_country(entity))
    }

    pub(super) fn by_country(&self, entity: EntityIndex) -> BTreeMap<Region, (u8, Here)> {
        let p = &*self.settings.params;
        let now = self.state.now;
        let mut countries: BTreeMap<Region, (u8, Here)> = BTreeMap::new();
        for (_, observer) in self.observers() {
            let online = now < observer.last_seen.plus_ms(p.online_ms);
            let Some(zone) = observer.standing.zone.filter(|_| online && observer.weight > 0)
            else {
                continue;
            };
            let country = Region::Country(observer.standing.country);
            let (_, here) = countries.entry(country).or_insert((zone.0, Here::default()));
            let vote = observer.vote;
            let sees = vote.eligible.has(entity).then(|| vote.flags.has(entity));
            here.add(observer.standing.asn, observer.weight, sees);
        }
        countries
    }

    /// The largest share that sees it in any of these regions.
    pub(super) fn regional_share(
        &self,
        entity: EntityIndex,
        shares: &Shares,
        regions: &[Region],
    ) -> i64 {
        let countries = match regions.iter().any(|r| matches!(r, Region::Country(_))) {
            true => self.by_country(entity),
            false => BTreeMap::new(),
        };
        let of = |region: &Region| match region {
            Region::Zone(zone) => shares.zones.get(zone).map(|tally| tally.share()),
            Region::Country(_) => countries.get(region).map(|(_, here)| here.tally.share()),
        };
        regions.iter().filter_map(of).max().unwrap_or(shares.share)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::params::Params;

    const P: &Params = &Params::DEFAULT;

    fn here(networks: &[(u32, i64, i64)]) -> Here {
        let mut here = Here::default();
        for (asn, eligible, flagging) in networks {
            for n in 0..*eligible {
                here.add(*asn, ONE, Some(n < *flagging));
            }
        }
        here
    }

    fn country(code: &str) -> Region {
        Region::Country(code.parse().unwrap())
    }

    #[test]
    fn a_region_is_more_than_its_largest_network() {
        assert!(here(&[(1, 6, 6), (2, 3, 2), (3, 3, 0)]).sees(P));
        assert!(!here(&[(1, 9, 9), (2, 1, 0), (3, 1, 0), (4, 1, 0)]).sees(P), "one network");
        assert!(!here(&[(1, 4, 4), (2, 3, 3)]).sees(P), "too few");
        let mut silent = here(&[(1, 6, 6), (2, 3, 3), (3, 3, 0)]);
        silent.add(4, 13 * ONE, None);
        assert!(!silent.sees(P), "most cannot tell");
    }

    #[test]
    fn a_country_by_chance_is_none() {
        let country = |code: &str, asn: u32, bad: u32| {
            let networks: Vec<_> =
                (0..6).map(|n| (asn + n, 3, if n < bad { 3 } else { 0 })).collect();
            (super::tests::country(code), (1u8, here(&networks)))
        };
        // One path in six is broken; in one small country it is half of them.
        let mut world = BTreeMap::from([country("IT", 10, 3)]);
        let names = ["ES", "PT", "FR", "DE", "PL", "SE"];
        world.extend(names.iter().zip(1..).map(|(code, n)| country(code, 100 * n, 1)));
        assert_eq!(Regional::of(P, &world).regions, []);
        let mut world = BTreeMap::from([country("IT", 10, 5)]);
        world.extend(names.iter().zip(1..).map(|(code, n)| country(code, 100 * n, 0)));
        assert_eq!(Regional::of(P, &world).regions, [super::tests::country("IT")]);
    }

    #[test]
    fn a_country_is_named_where_the_rest_of_its_zone_is_well() {
        let down = || here(&[(1, 6, 6), (2, 3, 3), (3, 3, 2)]);
        let well = || here(&[(7, 6, 0), (8, 6, 0)]);
        let of = |zone: u8, code: &str, here: Here| (country(code), (zone, here));
        let spain = BTreeMap::from([of(1, "ES", down()), of(1, "IT", well())]);
        assert_eq!(Regional::of(P, &spain).regions, [country("ES")]);
        let far = || here(&[(20, 6, 0), (21, 6, 0), (22, 6, 0)]);
        let also = here(&[(11, 6, 6), (12, 3, 3), (13, 3, 3)]);
        let both = BTreeMap::from([of(1, "ES", down()), of(1, "IT", also), of(2, "FR", far())]);
        assert_eq!(Regional::of(P, &both).regions, [Region::Zone(1)]);
        let few = here(&[(9, 2, 0)]);
        let all = here(&[(1, 4, 4), (2, 3, 3), (3, 3, 3), (4, 3, 2)]);
        let few = BTreeMap::from([of(1, "ES", all), of(1, "IT", few), of(2, "FR", far())]);
        assert_eq!(Regional::of(P, &few).regions, [Region::Zone(1)]);
        assert_eq!(
            Regional::of(P, &BTreeMap::from([of(1, "IT", well()), of(2, "FR", far())])).regions,
            []
        );
    }
}
