//! What the answers of a panel amount to: C1 to C4 over those who answered, for the world, for the
//! regions, and for those who use one address family.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use tocsin_proto::{
    incident::{LiarBound, Reason},
    observation::Family,
};

use super::{
    super::{
        detector::{Countries, Here, Regional, Voice, divided},
        fixed::{Ppm, divergence_q16, percent, scale, share, votes},
        incident::Region,
        judge::{Participants, Shares, Strata, majority, strata},
        params::{Params, Settings},
        plan::Plan,
        seen::SeenBy,
        tally::{NOWHERE, Tally},
    },
    Panel,
};

/// What a panel has come to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Share of the votes that see it.
    pub share: Ppm,
    /// Failure rate over the suspect's asked sites.
    pub rate: Ppm,
    /// And over the controls.
    pub usual: Ppm,
    /// Parts of the world with a majority of their own.
    pub regional: Regional,
    /// Each rule that was asked.
    pub reasons: Vec<Reason>,
    /// What else was asked about, and why it is not that; of what may be confirmed.
    pub ruled_out: Vec<Reason>,
    /// Who answered what; of what may be confirmed.
    pub seen: SeenBy,
    /// Whether all of them held.
    pub holds: bool,
    /// Whether those that are not of the whole world held.
    pub holds_in_zones: bool,
    /// Whether those that are of no region's own held: coverage and attribution.
    pub holds_in_parts: bool,
    /// Whether enough of those asked answered for anything to be said.
    pub answered: bool,
    /// Whether those who voted are enough to say something of the whole world.
    pub crowd: bool,
    /// What liars it would take.
    pub liar_bound: LiarBound,
    /// Prefixes that voted.
    pub prefixes: u32,
    /// Of those who looked over IPv4, and over IPv6, the share that saw it there; `None` of few.
    pub families: [Option<Ppm>; 2],
    /// The one family over which it fails, where it does not over the other.
    pub over: Option<Family>,
}

impl Finding {
    /// The share that sees it of those who looked over a family, where they are enough to tell.
    #[must_use]
    pub const fn share_over(&self, family: Family) -> Option<Ppm> {
        let [v4, v6] = self.families;
        match family {
            Family::V4 => v4,
            Family::V6 => v6,
        }
    }
}

/// What a panel's answers say of the address families.
struct Families {
    /// Of those who looked over IPv4, and over IPv6, the share that saw it there; `None` of few.
    shares: [Option<Ppm>; 2],
    /// That it does not fail over the other family, so that nothing is said of the world.
    confined: Option<Reason>,
    /// The one family over which it fails, what that goes by, and what liars it would take of how many.
    over: Option<(Family, Vec<Reason>, (LiarBound, u32))>,
}

impl Panel {
    /// What the answers so far amount to.
    #[must_use]
    pub fn find(
        &self,
        p: &Params,
        plan: &Plan,
        settings: &Settings,
        due: bool,
        established: impl Fn(u16) -> bool,
    ) -> Finding {
        let mut zones: BTreeMap<u8, Tally> = BTreeMap::new();
        let mut versions: BTreeMap<u16, Tally> = BTreeMap::new();
        let mut resolvers: BTreeMap<u8, Tally> = BTreeMap::new();
        let (mut prefixes, mut networks, mut placed) =
            (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        let (mut asked, mut answered) = (0, 0);
        let mut participants = Participants::default();
        let mut countries = Countries::new();
        let usual = self.usual(p);
        for member in self.members.values() {
            asked += member.weight;
            let vote = member.vote(p, usual, due);
            if member.zone != NOWHERE {
                let country = countries.entry(Region::Country(member.country));
                let (_, here) = country.or_insert((member.zone, Here::default()));
                let voice = Voice {
                    asn: member.asn,
                    version: member.version,
                    resolver: member.resolver,
                    weight: member.weight,
                };
                here.add(voice, vote.or((!due).then_some(false)));
            }
            // Who has not answered yet counts as a no, also within its version and with its resolver: those who
            // have might be the quick liars, and a no is known later than a yes.
            if vote.is_none() && due {
                continue;
            }
            let flagging = if vote == Some(true) { member.weight } else { 0 };
            let more = Tally { eligible: member.weight, flagging };
            let add = |tally: &mut Tally| *tally = tally.plus(more);
            add(zones.entry(member.zone).or_default());
            add(versions.entry(member.version).or_default());
            add(resolvers.entry(member.resolver).or_default());
            if vote.is_none() {
                continue;
            }
            answered += member.weight;
            participants.observers += 1;
            prefixes.insert(member.slot);
            networks.insert(member.asn);
            if member.zone != NOWHERE {
                placed.insert(member.zone);
            }
        }
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        participants.prefixes = count(prefixes.len());
        participants.networks = count(networks.len());
        participants.zones = count(placed.len());
        let shares = Shares::new(p, zones, asked);
        // Zones stand for their crowds, not for how many of them were drawn.
        let total: i64 = self.zones_online.values().sum();
        let cap = scale(total, p.zone_cap);
        let (mut weight, mut seeing) = (0, 0);
        for (zone, tally) in &shares.zones {
            let online = match *zone {
                // The crowds of all that were too thin to stand for themselves.
                NOWHERE => {
                    let thin =
                        self.zones_online.iter().filter(|(z, _)| !shares.zones.contains_key(z));
                    let own = self.zones_online.get(&NOWHERE).copied().unwrap_or(0);
                    own + thin.map(|(_, weight)| weight).sum::<i64>()
                }
                zone => self.zones_online.get(&zone).copied().unwrap_or(0),
            };
            let counted = online.min(cap);
            weight += counted;
            seeing += scale(counted, tally.share());
        }
        let overall = share(seeing, weight);
        let majority = majority(p, overall, shares.all, &divided(p, &countries));
        let part = share(answered, asked);
        let coverage = Reason {
            rule: "c3.coverage".to_owned(),
            held: asked > 0 && part >= p.coverage,
            found: format!(
                "{} of those asked answered and can tell ({} of {})",
                percent(part),
                votes(answered),
                votes(asked)
            ),
            needed: format!("at least {}", percent(p.coverage)),
        };
        let by_version: Strata =
            strata(p, "c4.versions", "probe-core version", &versions, overall, &established);
        let by_resolver: Strata =
            strata(p, "c4.resolvers", "resolver class", &resolvers, overall, |_| true);
        let (attributed, rate, usual) = self.attributed(p, plan);
        let enough = participants.enough(settings);
        let crowd = enough.held;
        let world = [enough, majority, shares.geography(p)];
        // What asks the same of a part of the world has its own strata.
        let holds_in_parts = coverage.held && attributed.held;
        let mut regional = Regional::of(p, &countries, &established);
        regional.reasons.extend([coverage.clone(), attributed.clone()]);
        let any = [coverage, by_version.reason.clone(), by_resolver.reason.clone(), attributed];
        let holds_in_zones = any.iter().all(|reason| reason.held);
        let of_all = holds_in_zones && world.iter().all(|reason| reason.held);
        let Families { shares: families, confined, over } = self.by_family(p, settings, asked);
        // What fails over one family alone is judged among those who use it, even where those are most.
        let over = over.filter(|_| (due || of_all) && holds_in_zones);
        let holds = of_all && confined.is_none();
        let all = (shares.liar_bound(p), participants.prefixes);
        let (over, world, (liar_bound, prefixes)) = match over {
            Some((family, reasons, own)) => (Some(family), reasons, own),
            None => (None, world.into(), all),
        };
        let (ruled_out, seen) = match holds_in_parts {
            true => (self.ruled_out(p, plan), self.seen_by(p, due)),
            false => (Vec::new(), SeenBy::default()),
        };
        Finding {
            families,
            over,
            share: overall,
            rate,
            usual,
            regional,
            ruled_out,
            seen,
            reasons: world
                .into_iter()
                .chain(any)
                .chain(confined.filter(|_| over.is_none()))
                .collect(),
            holds,
            holds_in_zones,
            holds_in_parts,
            answered: asked > 0 && part >= p.coverage,
            crowd,
            liar_bound,
            prefixes,
        }
    }

    /// Who voted, and what they answered of each site.
    fn seen_by(&self, p: &Params, due: bool) -> SeenBy {
        let mut seen = SeenBy::default();
        let usual = self.usual(p);
        for member in self.members.values() {
            let Some(sees) = member.vote(p, usual, due) else { continue };
            seen.observer(member.country, member.asn, sees);
            for answer in &member.sites {
                if let Some(failed) = answer.failed {
                    seen.answer(answer.target, failed);
                }
            }
        }
        seen
    }

    /// The shares that see it over each family, and the one over which alone it fails, with what that
    /// goes by: those who use it are a crowd of its own.
    ///
    /// Who looked over which family is what they say themselves: so those who see it must be more of all
    /// who were asked than may lie.
    fn by_family(&self, p: &Params, settings: &Settings, asked: i64) -> Families {
        let usual = self.usual(p);
        let of = |family: Family| {
            let mut zones: BTreeMap<u8, Tally> = BTreeMap::new();
            let (mut prefixes, mut networks) = (BTreeSet::new(), BTreeSet::new());
            let (mut observers, mut looks, mut failed) = (0, 0, 0);
            for member in self.members.values() {
                let own = member.sites.iter().filter(|answer| answer.family == family);
                let own: Vec<bool> = own.filter_map(|answer| answer.failed).collect();
                looks += own.len() as i64;
                failed += own.iter().filter(|failed| **failed).count() as i64;
                let Some(sees) = member.vote_over(p, usual, family) else { continue };
                let flagging = if sees { member.weight } else { 0 };
                let tally = zones.entry(member.zone).or_default();
                *tally = tally.plus(Tally { eligible: member.weight, flagging });
                prefixes.insert(member.slot);
                networks.insert(member.asn);
                observers += 1;
            }
            let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
            let placed = zones.keys().filter(|zone| **zone != NOWHERE).count();
            let all = zones.values().map(|tally| tally.eligible).sum();
            let participants = Participants {
                observers,
                prefixes: count(prefixes.len()),
                networks: count(networks.len()),
                zones: count(placed),
            };
            (Shares::new(p, zones, all), participants, looks, failed)
        };
        let both = [Family::V4, Family::V6].map(|family| (family, of(family)));
        let families = both.each_ref().map(|(_, (shares, participants, ..))| {
            (participants.observers >= p.family_votes).then_some(shares.share)
        });
        let mut over = None;
        let mut confined = None;
        for ((family, one), (_, other)) in both.iter().zip(both.iter().rev()) {
            let ((shares, participants, looks, failed), (fine, _, other_looks, other_failed)) =
                (one, other);
            // By the looks, not by who has seen some: over one family there are many more of them.
            let (rate, other_rate) = (share(*failed, *looks), share(*other_failed, *other_looks));
            let bits = divergence_q16(other_rate, rate) * other_looks;
            // That all is well there is said by more than may lie.
            let fine = share(fine.all.eligible - fine.all.flagging, asked);
            if other_rate > scale(rate, p.family_part)
                || bits < p.contrast_bits_q16
                || fine < p.look_liars
            {
                continue;
            }
            let found = format!(
                "{} of those who looked over IP{} see it, {} of all who were asked; {} of their looks \
                 failed, and {} of those over the other",
                percent(shares.share),
                family.name(),
                percent(share(shares.all.flagging, asked)),
                percent(rate),
                percent(other_rate)
            );
            let majority = Reason {
                rule: "c1.family".to_owned(),
                held: shares.share >= p.panel_second_below
                    && share(shares.all.flagging, asked) >= p.look_liars,
                found: found.clone(),
                needed: format!(
                    "at least {} and {}, and at most a quarter by more than chance",
                    percent(p.panel_second_below),
                    percent(p.look_liars)
                ),
            };
            let reasons = vec![participants.enough(settings), majority, shares.geography(p)];
            if reasons.iter().all(|reason| reason.held) {
                over = Some((*family, reasons, (shares.liar_bound(p), participants.prefixes)));
            }
            confined = Some(Reason {
                rule: "c1.families".to_owned(),
                held: false,
                found,
                needed: "for the world: failures over the other family too".to_owned(),
            });
        }
        Families { shares: families, confined, over }
    }
}
