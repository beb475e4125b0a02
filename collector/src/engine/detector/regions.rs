//! Where a failure is one of a region: a zone or a country with a majority of its own.
//!
//! A region is more than its largest networks. So the votes of it must be a majority, and so must
//! its networks, each counted once; and most of those online there must be able to tell.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};
use tocsin_proto::incident::{LiarBound, Reason};

use super::{Detector, EntityIndex, Shares};
use crate::engine::{
    fixed::{ONE, Ppm, divergence_q16, percent, scale, share, votes},
    incident::{Reach, Region},
    judge::{self, Divided, strata},
    observer::Standing,
    params::Params,
    tally::{NOWHERE, Tally},
};

/// Regions whose rules are spelt out in a verdict, at most: of more the first ones tell how it was found.
const REGIONS_TOLD_MAX: usize = 8;

/// What of an observer matters to a region.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Voice {
    /// Its network.
    pub(crate) asn: u32,
    /// Its probe-core version.
    pub(crate) version: u16,
    /// Its resolver class.
    pub(crate) resolver: u8,
    /// Its vote's weight.
    pub(crate) weight: i64,
}

/// What is seen in each country, with its zone.
pub(crate) type Countries = BTreeMap<Region, (u8, Here)>;

/// Where nothing is looked at.
static NOWHERE_LOOKED: Countries = BTreeMap::new();

/// What is seen in one country or zone.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Here {
    online: i64,
    /// Votes within their networks of those who were heard within the hour, of those of them who are online, and
    /// of those who can tell.
    heard: (i64, i64, i64),
    /// Observers that can tell.
    observers: u32,
    tally: Tally,
    networks: BTreeMap<u32, Tally>,
    versions: BTreeMap<u16, Tally>,
    resolvers: BTreeMap<u8, Tally>,
}

fn add_to<K: Ord>(tallies: &mut BTreeMap<K, Tally>, key: K, more: Tally) {
    let tally = tallies.entry(key).or_default();
    *tally = tally.plus(more);
}

impl Here {
    /// Counts one who is online there: whether it can tell, and whether it sees it.
    pub(crate) fn add(&mut self, voice: Voice, vote: Option<bool>) {
        let Voice { asn, version, resolver, weight } = voice;
        self.online += weight;
        let Some(sees) = vote else { return };
        let more = Tally { eligible: weight, flagging: if sees { weight } else { 0 } };
        self.observers += 1;
        self.tally = self.tally.plus(more);
        add_to(&mut self.networks, asn, more);
        add_to(&mut self.versions, version, more);
        add_to(&mut self.resolvers, resolver, more);
    }

    fn hear(&mut self, within: i64, online: bool, can_tell: bool) {
        let (heard, there, telling) = &mut self.heard;
        *heard += within;
        *there += if online { within } else { 0 };
        *telling += if online && can_tell { within } else { 0 };
    }

    fn merge(&mut self, other: &Self) {
        self.online += other.online;
        self.observers += other.observers;
        self.tally = self.tally.plus(other.tally);
        other.networks.iter().for_each(|(key, tally)| add_to(&mut self.networks, *key, *tally));
    }

    fn merge_strata(&mut self, other: &Self) {
        other.versions.iter().for_each(|(key, tally)| add_to(&mut self.versions, *key, *tally));
        other.resolvers.iter().for_each(|(key, tally)| add_to(&mut self.resolvers, *key, *tally));
    }

    /// What is seen in a region: a country, or all of a zone's.
    fn of(countries: &Countries, region: &Region) -> Self {
        let mut all = Self::default();
        for (country, (zone, here)) in countries {
            if country == region || Region::Zone(*zone) == *region {
                all.merge(here);
                all.merge_strata(here);
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

    /// Whether its votes and its networks see it so much more often than those elsewhere that it is no chance:
    /// with one path in seven broken, or one observer in five that lies, some small country has most of them.
    /// Networks alone would not do: of two or three votes most are soon of one mind.
    ///
    /// Elsewhere is where no region sees it by a majority of its own: of what is down in half of the world no part would stand out
    /// from the other parts.
    fn stands_out(&self, p: &Params, elsewhere: &Self, name: &str) -> Reason {
        let count = |n: usize| n as i64;
        let networks = |of: &Self| (count(of.seeing(p)), count(of.telling().count()));
        let votes = |of: &Self| (of.tally.flagging, of.tally.eligible);
        // Votes are counted in millionths.
        let tests =
            [(networks(self), networks(elsewhere), 1), (votes(self), votes(elsewhere), ONE)];
        let tests = tests.map(|(own, rest, one)| {
            let rest = share(rest.0, rest.1);
            let background = scale(rest, p.usual_times).max(p.regional_background);
            let seeing = share(own.0, own.1);
            let bits = divergence_q16(seeing, background) * own.1 / one;
            (seeing, rest, background, seeing > background && bits >= p.regional_bits_q16)
        });
        let [networks, votes] = tests;
        Reason {
            rule: "region.contrast".to_owned(),
            held: networks.3 && votes.3,
            found: format!(
                "{name}: {} of its networks and {} of its votes see it, {} and {} elsewhere",
                percent(networks.0),
                percent(votes.0),
                percent(networks.1),
                percent(votes.1)
            ),
            needed: format!(
                "more than {} and {}, by {} bits each",
                percent(networks.2),
                percent(votes.2),
                p.regional_bits_q16 >> 16
            ),
        }
    }

    /// The rules of a region: a majority of its votes and of its networks, enough who can tell, and
    /// neither one version of our own program nor one resolver.
    fn rules(
        &self,
        p: &Params,
        elsewhere: &Self,
        name: &str,
        established: impl Fn(u16) -> bool,
    ) -> Vec<Reason> {
        let (telling, seeing) = (self.telling().count(), self.seeing(p));
        let told = share(self.tally.eligible, self.online);
        let named =
            |reason: Reason| Reason { found: format!("{name}: {}", reason.found), ..reason };
        let own = self.tally.share();
        let versions =
            strata(p, "c4.versions", "probe-core version", &self.versions, own, established);
        let resolvers = strata(p, "c4.resolvers", "resolver class", &self.resolvers, own, |_| true);
        vec![
            Reason {
                rule: "region.majority".to_owned(),
                held: self.tally.eligible >= p.regional_min && own >= p.confirm,
                found: format!(
                    "{name}: {} of the votes see it ({} of {})",
                    percent(own),
                    votes(self.tally.flagging),
                    votes(self.tally.eligible)
                ),
                needed: format!("{} of at least {}", percent(p.confirm), votes(p.regional_min)),
            },
            Reason {
                rule: "region.networks".to_owned(),
                held: telling >= p.regional_networks && 2 * seeing >= telling,
                found: format!("{name}: {seeing} of {telling} networks see it"),
                needed: format!("half of at least {}", p.regional_networks),
            },
            Reason {
                rule: "region.coverage".to_owned(),
                held: told >= p.coverage,
                found: format!("{name}: {} of the votes online can tell", percent(told)),
                needed: format!("at least {}", percent(p.coverage)),
            },
            self.stands_out(p, elsewhere, name),
            named(versions.reason),
            named(resolvers.reason),
        ]
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
    /// The rules that each of them keeps.
    pub reasons: Vec<Reason>,
    /// Observers that can tell in the one that has fewest.
    pub observers: u32,
    /// The share that sees it in the one where that is least.
    pub share: Ppm,
}

impl Regional {
    /// From what is seen in each country of each zone.
    pub(crate) fn of(p: &Params, countries: &Countries, established: impl Fn(u16) -> bool) -> Self {
        let mut of = Self { observers: u32::MAX, share: ONE, ..Self::default() };
        let candidates = majorities(p, countries);
        let mut elsewhere = Here::default();
        for (country, (zone, here)) in countries {
            if !candidates.contains(country) && !candidates.contains(&Region::Zone(*zone)) {
                elsewhere.merge(here);
            }
        }
        for region in candidates {
            let here = Here::of(countries, &region);
            let name = Detector::region_name(&region);
            let rules = here.rules(p, &elsewhere, &name, &established);
            if rules.iter().any(|rule| !rule.held) {
                continue;
            }
            let bound = here.liar_bound(p);
            if of.regions.is_empty() || bound.prefixes < of.liar_bound.prefixes {
                of.liar_bound = bound;
            }
            if of.regions.len() < REGIONS_TOLD_MAX {
                of.reasons.extend(rules);
            }
            of.observers = of.observers.min(here.observers);
            of.share = of.share.min(here.tally.share());
            of.regions.push(region);
        }
        if of.is_empty() { Self::default() } else { of }
    }

    /// Whether no part does.
    pub(crate) const fn is_empty(&self) -> bool {
        self.regions.is_empty()
    }
}

/// The regions with a majority of their own, whatever is seen elsewhere.
fn majorities(p: &Params, countries: &Countries) -> Vec<Region> {
    let mut zones: BTreeMap<u8, Here> = BTreeMap::new();
    for (zone, here) in countries.values() {
        zones.entry(*zone).or_default().merge(here);
    }
    let mut regions = Vec::new();
    for (zone, whole) in zones {
        // Where nobody is online nobody can be asked.
        let own = || countries.iter().filter(|(_, (of, here))| *of == zone && here.online > 0);
        let seeing: Vec<Region> =
            own().filter(|(_, (_, here))| here.sees(p)).map(|(country, _)| *country).collect();
        let mut others = Here::default();
        for (_, (_, here)) in own().filter(|(country, _)| !seeing.contains(country)) {
            others.merge(here);
        }
        // Of few votes elsewhere in the zone nothing is known: then it is the zone's.
        let apart = others.tally.eligible >= p.zone_min && others.tally.share() <= p.regional_rest;
        // Where nobody else of the zone is there to be asked, it is the country's.
        let apart = apart || own().count() == 1;
        match (whole.sees(p), seeing.is_empty()) {
            (true, true) => regions.push(Region::Zone(zone)),
            (true, false) if !apart => regions.push(Region::Zone(zone)),
            _ => regions.extend(seeing),
        }
    }
    regions
}

/// How much of the world these regions are.
pub(crate) fn divided(p: &Params, countries: &Countries) -> Divided {
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
        let near = Self::is_near(p, shares);
        let divided = if near { divided(p, self.by_country(entity)) } else { Divided::default() };
        judge::majority(p, shares.share, shares.all, &divided)
    }

    /// The regions in which an entity fails by a majority of their own.
    pub(super) fn regions(&self, entity: EntityIndex, shares: &Shares) -> Regional {
        let p = &*self.settings.params;
        if !Self::is_worth_a_look(p, shares) {
            return Regional::default();
        }
        Regional::of(p, self.by_country(entity), self.is_established())
    }

    /// Whether the votes are so near to a majority that it matters in which regions they are.
    fn is_near(p: &Params, shares: &Shares) -> bool {
        (p.divided..p.confirm).contains(&shares.share)
    }

    /// Whether some zone sees enough of it for its countries to be looked at.
    fn is_worth_a_look(p: &Params, shares: &Shares) -> bool {
        shares.zones.iter().any(|(zone, tally)| {
            *zone != NOWHERE && tally.flagging >= p.zone_min && tally.share() >= p.regional_look
        })
    }

    /// Counts what is seen in each country, of every entity of which that matters: by going through everybody, so
    /// no more often than [`Detector::pause_ms`].
    pub(super) fn look_by_country(&mut self, shares: &BTreeMap<EntityIndex, Shares>) {
        let p = &Arc::clone(&self.settings.params);
        let (now, pause_ms) = (self.state.now, self.pause_ms());
        for (entity, shares) in shares {
            let suspect = self.state.suspects.get(entity);
            let open = suspect.and_then(|suspect| suspect.open.as_ref());
            let regional = open.is_some_and(|open| matches!(open.reach, Reach::Regional(_)));
            let matters = regional || Self::is_near(p, shares) || Self::is_worth_a_look(p, shares);
            let known = suspect.and_then(|suspect| suspect.countries.as_ref()).map(|(at, _)| *at);
            let fresh = known.is_some_and(|at| now.since_ms(at) < pause_ms);
            let counted = match matters {
                true if fresh => continue,
                true => Some((now, self.counted_by_country(*entity))),
                false if known.is_none() => continue,
                false => None,
            };
            self.state.suspects.entry(*entity).or_default().countries = counted;
        }
    }

    /// What is seen in each country, as it was counted last.
    fn by_country(&self, entity: EntityIndex) -> &Countries {
        let counted = self.state.suspects.get(&entity).and_then(|s| s.countries.as_ref());
        counted.map_or(&NOWHERE_LOOKED, |(_, countries)| countries)
    }

    fn counted_by_country(&self, entity: EntityIndex) -> Countries {
        let p = &*self.settings.params;
        let now = self.state.now;
        let mut countries = Countries::new();
        for (_, observer) in self.observers() {
            let heard = now.since_ms(observer.last_seen) <= p.forget_ms && observer.weight > 0;
            let Some(zone) = observer.standing.zone.filter(|_| heard) else { continue };
            let online = observer.is_online(p, now);
            let country = Region::Country(observer.standing.country);
            let (_, here) = countries.entry(country).or_insert((zone.0, Here::default()));
            let vote = observer.vote;
            let can_tell = vote.eligible.has(entity);
            here.hear(observer.within.into(), online, can_tell);
            if online {
                let sees = can_tell.then(|| vote.flags.has(entity));
                let Standing { asn, version, resolver, .. } = observer.standing;
                here.add(Voice { asn, version, resolver, weight: observer.weight }, sees);
            }
        }
        countries
    }

    /// The largest share that sees it in any of these regions.
    pub(super) fn regional_share(&self, entity: EntityIndex, regions: &[Region]) -> Ppm {
        let countries = self.by_country(entity);
        let of = |region| Here::of(countries, region).tally.share();
        regions.iter().map(of).max().unwrap_or(0)
    }

    /// Whether a low share means something in these regions: most of those who were heard there within the hour
    /// are online, and enough of them can tell.
    pub(super) fn are_told(&self, entity: EntityIndex, regions: &[Region]) -> bool {
        let p = &*self.settings.params;
        let (mut heard, mut online, mut telling) = (0, 0, 0);
        for (country, (zone, here)) in self.by_country(entity) {
            if regions.contains(country) || regions.contains(&Region::Zone(*zone)) {
                heard += here.heard.0;
                online += here.heard.1;
                telling += here.heard.2;
            }
        }
        share(online, heard) >= p.coverage && 2 * share(telling, online) >= p.coverage
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::params::Params;

    const P: &Params = &Params::DEFAULT;

    fn voice(asn: u32, votes: i64) -> Voice {
        Voice { asn, version: 1, resolver: (asn % 3) as u8, weight: votes * ONE }
    }

    fn of(countries: &Countries) -> Vec<Region> {
        Regional::of(P, countries, |_| true).regions
    }

    fn here(networks: &[(u32, i64, i64)]) -> Here {
        let mut here = Here::default();
        for (asn, eligible, flagging) in networks {
            for n in 0..*eligible {
                here.add(voice(*asn, 1), Some(n < *flagging));
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
        silent.add(voice(4, 13), None);
        assert!(!silent.sees(P), "most cannot tell");
    }

    #[test]
    fn who_went_offline_within_the_hour_makes_no_zone_of_a_country() {
        let down = || here(&[(1, 6, 6), (2, 3, 3), (3, 3, 2)]);
        let mut gone = Here::default();
        gone.hear(ONE, false, false);
        let far = here(&[(20, 6, 0), (21, 6, 0), (22, 6, 0)]);
        let world = BTreeMap::from([
            (country("ES"), (1u8, down())),
            (country("PT"), (1, gone)),
            (country("FR"), (2, far)),
        ]);
        assert_eq!(of(&world), [country("ES")]);
    }

    #[test]
    fn most_networks_by_few_votes_are_no_region() {
        // A fifth of the world sees it, by votes and by networks. In one country each of six networks has one vote
        // too many that does: all of them see it, and not two thirds of the votes.
        let rest: Vec<(u32, i64, i64)> =
            (0..60).map(|n| (100 + n, 2, if n % 4 == 0 { 2 } else { 0 })).collect();
        let few = here(&[(1, 2, 1), (2, 2, 1), (3, 2, 1), (4, 2, 1), (5, 2, 2), (6, 1, 1)]);
        let world =
            BTreeMap::from([(country("CH"), (1u8, few)), (country("DE"), (1, here(&rest)))]);
        assert_eq!(of(&world), []);
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
        assert_eq!(of(&world), []);
        let mut world = BTreeMap::from([country("IT", 10, 5)]);
        world.extend(names.iter().zip(1..).map(|(code, n)| country(code, 100 * n, 0)));
        assert_eq!(of(&world), [super::tests::country("IT")]);
    }

    #[test]
    fn a_country_is_named_where_the_rest_of_its_zone_is_well() {
        let down = || here(&[(1, 6, 6), (2, 3, 3), (3, 3, 2)]);
        let well = || here(&[(7, 6, 0), (8, 6, 0)]);
        let of = |zone: u8, code: &str, here: Here| (country(code), (zone, here));
        let spain = BTreeMap::from([of(1, "ES", down()), of(1, "IT", well())]);
        assert_eq!(super::tests::of(&spain), [country("ES")]);
        let far = || here(&[(20, 6, 0), (21, 6, 0), (22, 6, 0)]);
        let also = here(&[(11, 6, 6), (12, 3, 3), (13, 3, 3)]);
        let both = BTreeMap::from([of(1, "ES", down()), of(1, "IT", also), of(2, "FR", far())]);
        assert_eq!(super::tests::of(&both), [Region::Zone(1)]);
        let few = here(&[(9, 2, 0)]);
        let all = here(&[(1, 4, 4), (2, 3, 3), (3, 3, 3), (4, 3, 2)]);
        let few = BTreeMap::from([of(1, "ES", all), of(1, "IT", few), of(2, "FR", far())]);
        assert_eq!(super::tests::of(&few), [Region::Zone(1)]);
        assert_eq!(
            super::tests::of(&BTreeMap::from([of(1, "IT", well()), of(2, "FR", far())])),
            []
        );
    }
}
