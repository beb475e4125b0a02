//! Asking back: a suspicion is tested by asking observers, drawn at random, to look now.
//!
//! Spontaneous reports only raise a suspicion; what is volunteered can be chosen by liars. A panel
//! cannot: its members are drawn under a secret, and silence is not a vote. A small *screening*
//! panel looks first; a share of 15 % calls the *full* one, which alone confirms, by the same
//! conditions as the crowd (C1 to C5) over its own answers. While an incident is open a *tracking*
//! panel a minute measures how it goes on.
//!
//! This file draws, counts and tells; when to begin is [`super::alert`]'s, and what an incident
//! makes of it is the detector's.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use tocsin_proto::{
    id::{Country, TargetIndex},
    implicate::Layer,
    incident::{LiarBound, Reason},
    observation::Family,
    sign::sha256,
    time::Timestamp,
};

use super::{
    attribute::{Class, class},
    detector::{Here, divided, regions_of},
    fixed::{ONE, Ppm, divergence_q16, median, percent, scale, share, votes},
    incident::Region,
    judge::{Participants, Shares, Strata, majority, strata},
    observer::Standing,
    params::{Params, Settings},
    plan::{Behind, EntityIndex, Plan},
    tally::{NOWHERE, Tally},
};

/// What a panel is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// A first look by few.
    Screening,
    /// The look that can confirm.
    Full,
    /// How an open incident goes on.
    Tracking,
}

/// What an observer is asked: to probe these now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// Number of the observer in the log.
    pub observer: u32,
    /// Tells this ask from all others; nobody could have foretold it.
    pub nonce: u64,
    /// What to probe.
    pub targets: Vec<TargetIndex>,
    /// Whether names are suspected.
    pub names: bool,
}

/// An observer that may be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// Its number.
    pub observer: u32,
    /// Its capped weight.
    pub weight: i64,
    /// Its zone.
    pub zone: u8,
    /// Its country.
    pub country: Country,
    /// Its prefix.
    pub slot: u64,
    /// Its network.
    pub asn: u32,
    /// Its probe-core version.
    pub version: u16,
    /// Its resolver class.
    pub resolver: u8,
}

/// What is known when a panel is drawn.
#[derive(Debug, Clone, Copy)]
pub struct Scene<'a> {
    /// The time.
    pub now: Timestamp,
    /// Entities and targets.
    pub plan: &'a Plan,
    /// Everybody who may be asked, by number.
    pub crowd: &'a [Candidate],
    /// Who else is suspected, asked about or confirmed.
    pub rivals: &'a BTreeSet<EntityIndex>,
    /// Rivals that the same failures implicate: their sites are left out where enough remain.
    pub shadows: &'a BTreeSet<EntityIndex>,
    /// Sites that are down by themselves: left out where enough remain.
    pub dead: &'a BTreeSet<TargetIndex>,
    /// Nobody outside can foretell a hash under it.
    pub secret: &'a [u8; 32],
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Answer {
    target: TargetIndex,
    /// `None` until it came; else whether it failed in a way that implicates the suspect.
    failed: Option<bool>,
    /// Over which family it came.
    family: Family,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Member {
    zone: u8,
    country: Country,
    weight: i64,
    slot: u64,
    asn: u32,
    version: u16,
    resolver: u8,
    sites: Vec<Answer>,
    controls: Vec<Answer>,
}

impl Member {
    fn tally(answers: &[Answer]) -> (usize, usize) {
        let failed = answers.iter().filter(|answer| answer.failed == Some(true)).count();
        (answers.iter().filter(|answer| answer.failed.is_some()).count(), failed)
    }

    /// Whether it saw it over one family alone: `None` where it has not looked at enough, or its
    /// controls do not vouch for it there.
    fn vote_over(&self, family: Family) -> Option<bool> {
        let of = |answers: &[Answer]| -> Vec<Answer> {
            answers.iter().filter(|a| a.family == family && a.failed.is_some()).cloned().collect()
        };
        let (sites, controls) = (of(&self.sites), of(&self.controls));
        let (_, bad) = Self::tally(&controls);
        let failing = sites.iter().filter(|a| a.failed == Some(true)).map(|a| a.target);
        let failing = failing.collect::<BTreeSet<_>>().len();
        let fine = controls.len() > bad && 3 * bad <= controls.len();
        (fine && sites.len() >= 3).then_some(failing >= 2)
    }

    /// Its vote: `None` while its controls do not vouch for it. A no counts only once everything
    /// has been answered or is due.
    fn vote(&self, p: &Params, due: bool) -> Option<bool> {
        let (sites, _) = Self::tally(&self.sites);
        // Distinct sites: one that is asked again and fails again is no second one.
        let failing = self.sites.iter().filter(|a| a.failed == Some(true)).map(|a| a.target);
        let failing = failing.collect::<BTreeSet<_>>().len();
        let (controls, bad) = Self::tally(&self.controls);
        let fine = controls - bad;
        // Of a tenth that fails two are met in three rounds, by seven of ten.
        let needed = if sites <= 3 * p.panel_sites { 2 } else { 3 };
        // More failing among the suspect's sites than twice the share among the controls.
        let stands_out = failing * controls >= 2 * bad * sites;
        if failing >= needed && fine >= p.panel_controls_ok && stands_out {
            return Some(true);
        }
        let complete = due || (sites == self.sites.len() && controls == self.controls.len());
        (complete && sites > 0 && fine >= p.panel_controls_ok && 3 * bad <= controls)
            .then_some(false)
    }
}

/// A panel under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Panel {
    /// Whom it is about.
    pub entity: EntityIndex,
    /// What it is for.
    pub kind: Kind,
    /// Which of the draws that must all pass this is, from 0.
    pub draw: u8,
    /// Its number: of all panels of this log.
    pub number: u64,
    /// When its round began.
    pub began: Timestamp,
    /// Rounds begun.
    pub rounds: u8,
    /// Whether the budget must not prevent it.
    pub forced: bool,
    /// What a screening must show before the full panel is called.
    pub bar: Ppm,
    /// Failure rate that the panel before it met, if there was one.
    pub expected: Option<Ppm>,
    /// Evaluations running that passed.
    passes: u8,
    members: BTreeMap<u32, Member>,
    nonces: BTreeMap<u64, u32>,
    zones_online: BTreeMap<u8, i64>,
}

/// What a panel has come to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Share of the votes that see it.
    pub share: Ppm,
    /// Failure rate over the suspect's asked sites.
    pub rate: Ppm,
    /// And over the controls.
    pub usual: Ppm,
    /// Zones and countries with a majority of their own.
    pub regional: Vec<Region>,
    /// Each rule that was asked.
    pub reasons: Vec<Reason>,
    /// Whether all of them held.
    pub holds: bool,
    /// Whether those that are not of the whole world held.
    pub holds_in_zones: bool,
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

/// Answers, failures, and the zones that fail, by site.
type Sites = BTreeMap<TargetIndex, (i64, i64, BTreeSet<u8>)>;

/// What to do with a panel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Wait.
    Wait,
    /// Begin another round of it.
    Round,
    /// Call the full panel.
    CallFull {
        /// Share of the votes that see it, so far.
        seen: Ppm,
        /// Failure rate over the suspect's asked sites.
        rate: Ppm,
    },
    /// It must pass once more, freshly drawn.
    DrawAgain {
        /// Failure rate over the suspect's asked sites.
        rate: Ppm,
    },
    /// It has confirmed.
    Confirmed(Finding),
    /// It has measured (tracking).
    Measured(Finding),
    /// It could not tell.
    Inconclusive(Finding),
    /// Too few answered for anything to be said.
    Unanswered,
    /// It shows no more than a full panel that could not tell has seen already.
    NoMore,
    /// It came to nothing.
    Refuted(Finding),
}

impl Step {
    /// What was found, where it was counted.
    #[must_use]
    pub const fn found(&self) -> Option<&Finding> {
        match self {
            Self::Confirmed(found)
            | Self::Measured(found)
            | Self::Inconclusive(found)
            | Self::Refuted(found) => Some(found),
            Self::Wait
            | Self::Round
            | Self::CallFull { .. }
            | Self::DrawAgain { .. }
            | Self::Unanswered
            | Self::NoMore => None,
        }
    }

    /// In a word or two.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Wait => "waiting",
            Self::Round => "another round",
            Self::CallFull { .. } => "full panel called",
            Self::DrawAgain { .. } => "second draw",
            Self::Confirmed(_) => "confirmed",
            Self::Measured(_) => "measured",
            Self::Inconclusive(_) => "inconclusive",
            Self::Unanswered => "unanswered",
            Self::NoMore => "no more than before",
            Self::Refuted(_) => "refuted",
        }
    }
}

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
/// quarter, and none fewer than a few.
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
    let mut drawn = Vec::new();
    for (zone, candidates) in by_zone {
        let of_zone = candidates.iter().map(|candidate| candidate.weight).sum();
        let part = share(of_zone, total).min(p.zone_cap);
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

/// How much further apart the sites' failure rates lie than their answers' number explains, in
/// millionths, at least one: Pearson's chi-squared over its degrees of freedom, as quasi-likelihood takes
/// it (McCullagh and Nelder, Generalized Linear Models, 4.5).
fn dispersion(sites: &[(i64, i64)]) -> Ppm {
    let (n, f) = sites.iter().fold((0, 0), |(n, f), (more, failed)| (n + more, f + failed));
    if f == 0 || f == n {
        return ONE;
    }
    // Of (f_i - n_i f/n)^2 / (n_i f/n (1 - f/n)), with numerator and denominator times n^2.
    let terms = sites.iter().map(|(of, failed)| {
        let apart = i128::from(failed * n - of * f);
        apart * apart * i128::from(ONE) / i128::from(of * f * (n - f)).max(1)
    });
    let freedom = (sites.len() as i128 - 1).max(1);
    i64::try_from(terms.sum::<i128>() / freedom).unwrap_or(i64::MAX).max(ONE)
}

impl Panel {
    /// A panel with nobody asked yet.
    #[must_use]
    pub const fn new(
        entity: EntityIndex,
        kind: Kind,
        draw: u8,
        number: u64,
        now: Timestamp,
    ) -> Self {
        Self {
            entity,
            kind,
            draw,
            number,
            began: now,
            rounds: 0,
            forced: false,
            bar: 0,
            expected: None,
            passes: 0,
            members: BTreeMap::new(),
            nonces: BTreeMap::new(),
            zones_online: BTreeMap::new(),
        }
    }

    /// Sites that each member looks at in the next round: more where few of them fail.
    fn sites_wanted(&self, p: &Params) -> usize {
        let rate = match self.rounds {
            0 => self.expected,
            _ => {
                let (sites, _) = self.counts();
                let sum = |(n, f), (more, failed, _): &(i64, i64, _)| (n + more, f + failed);
                let (n, f) = sites.values().fold((0, 0), sum);
                Some(share(f, n))
            }
        };
        let few = rate.is_some_and(|rate| rate < p.panel_many_below);
        match self.kind {
            Kind::Screening => p.panel_sites_many,
            Kind::Full if few => p.panel_sites_many,
            Kind::Full | Kind::Tracking => p.panel_sites,
        }
    }

    /// Probes that each member makes in the next round, at most.
    #[must_use]
    pub fn probes(&self, p: &Params) -> usize {
        self.sites_wanted(p) + p.panel_controls
    }

    /// Draws the members, in the first round, and what each is asked in this one.
    #[must_use]
    pub fn begin_round(&mut self, p: &Params, scene: &Scene<'_>) -> Vec<Ask> {
        if self.rounds == 0 {
            self.draw_members(p, scene);
        }
        self.rounds += 1;
        self.began = scene.now;
        self.passes = 0;
        let suspect = scene.plan.entity(self.entity);
        let narrowed = |of: &[TargetIndex], keeps: &dyn Fn(&TargetIndex) -> bool| {
            let kept: Vec<TargetIndex> = of.iter().copied().filter(keeps).collect();
            if kept.len() >= 4 { kept } else { of.to_vec() }
        };
        let alive = narrowed(&suspect.targets, &|target| !scene.dead.contains(target));
        let sites = narrowed(&alive, &|target| {
            let behind = scene.plan.behind(*target);
            !scene.shadows.iter().any(|rival| behind.is_some_and(|b| b.has(*rival)))
        });
        let wanted = self.sites_wanted(p);
        let controls: Vec<TargetIndex> = scene
            .plan
            .targets()
            .filter(|(_, behind)| {
                let used = |entity: &EntityIndex| behind.has(*entity);
                !used(&self.entity)
                    && !scene.rivals.iter().any(used)
                    && !behind.entities().is_empty()
            })
            .map(|(target, _)| target)
            .collect();
        // Where suspicions are so many that nothing is left, any other site must do.
        let unrelated = |(_, behind): &(TargetIndex, &Behind)| !behind.has(self.entity);
        let controls = if controls.len() >= p.panel_controls {
            controls
        } else {
            scene.plan.targets().filter(unrelated).map(|(target, _)| target).collect()
        };
        let key = [self.number, self.rounds.into()];
        let names = class(suspect.layer) == Class::Dns;
        let mut asks = Vec::new();
        for (observer, member) in &mut self.members {
            let seen: BTreeSet<TargetIndex> = member.sites.iter().map(|a| a.target).collect();
            let mut luck = Luck::new(scene.secret, b"ask", [key[0], key[1], (*observer).into()]);
            let nonce = luck.number();
            // Sites already asked come again only where all have been.
            let (again, fresh): (Vec<_>, Vec<_>) =
                sites.iter().copied().partition(|target| seen.contains(target));
            let mut mine: Vec<TargetIndex> = luck.deal(fresh).take(wanted).collect();
            let more = wanted - mine.len();
            mine.extend(luck.deal(again).take(more));
            let own: Vec<TargetIndex> =
                luck.deal(controls.clone()).take(p.panel_controls).collect();
            self.nonces.insert(nonce, *observer);
            let open =
                |target: &TargetIndex| Answer { target: *target, failed: None, family: Family::V4 };
            member.sites.extend(mine.iter().map(open));
            member.controls.extend(own.iter().map(open));
            let targets = mine.into_iter().chain(own).collect();
            asks.push(Ask { observer: *observer, nonce, targets, names });
        }
        asks
    }

    const fn wanted(&self, p: &Params, online: usize) -> usize {
        match self.kind {
            Kind::Screening => p.panel_screen,
            Kind::Full => p.panel_full,
            Kind::Tracking => {
                let part =
                    if online / 4 > p.panel_track_min { online / 4 } else { p.panel_track_min };
                if part < p.panel_track { part } else { p.panel_track }
            }
        }
    }

    /// Members that it has, or will have of a crowd of so many.
    #[must_use]
    pub fn seats(&self, p: &Params, online: usize) -> usize {
        if self.rounds == 0 { self.wanted(p, online).min(online) } else { self.members.len() }
    }

    fn draw_members(&mut self, p: &Params, scene: &Scene<'_>) {
        for candidate in scene.crowd {
            *self.zones_online.entry(candidate.zone).or_default() += candidate.weight;
        }
        let seats = self.wanted(p, scene.crowd.len());
        for (candidate, weight) in draw(p, scene.crowd, scene.secret, self.number, seats) {
            self.members.insert(
                candidate.observer,
                Member {
                    zone: candidate.zone,
                    country: candidate.country,
                    weight,
                    slot: candidate.slot,
                    asn: candidate.asn,
                    version: candidate.version,
                    resolver: candidate.resolver,
                    sites: Vec::new(),
                    controls: Vec::new(),
                },
            );
        }
    }

    /// Takes an answer under a nonce. Of no use: one that was not asked for, or by another.
    pub fn answer(
        &mut self,
        (observer, standing): (u32, &Standing),
        nonce: u64,
        target: TargetIndex,
        (failed, blames): (bool, bool),
        family: Family,
    ) {
        if self.nonces.get(&nonce) != Some(&observer) {
            return;
        }
        let Some(member) = self.members.get_mut(&observer) else { return };
        // Of what it runs now, which may be newer than what it ran when it was drawn. What was seen
        // by one release is not the word of another.
        let is_first = member.sites.iter().chain(&member.controls).all(|a| a.failed.is_none());
        if !is_first && member.version != standing.version {
            member.sites.clear();
            member.controls.clear();
        }
        (member.version, member.resolver) = (standing.version, standing.resolver);
        let open = |answers: &mut Vec<Answer>, says: bool| {
            let asked = answers.iter_mut().find(|a| a.target == target && a.failed.is_none());
            asked.is_some_and(|answer| {
                (answer.failed, answer.family) = (Some(says), family);
                true
            })
        };
        // Of the suspect's sites, failures that do not point at it are dropped.
        if failed && !blames && member.sites.iter().any(|a| a.target == target) {
            member.sites.retain(|a| a.target != target || a.failed.is_some());
            return;
        }
        if !open(&mut member.sites, failed) {
            open(&mut member.controls, failed);
        }
    }

    /// Observers that were asked.
    #[must_use]
    pub fn asked(&self) -> usize {
        self.members.len()
    }

    fn is_due(&self, p: &Params, now: Timestamp) -> bool {
        now.since_ms(self.began) >= p.panel_due_ms
    }

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
        let mut countries: BTreeMap<Region, (u8, Here)> = BTreeMap::new();
        for member in self.members.values() {
            asked += member.weight;
            let vote = member.vote(p, due);
            if member.zone != NOWHERE {
                let country = countries.entry(Region::Country(member.country));
                let (_, here) = country.or_insert((member.zone, Here::default()));
                here.add(member.asn, member.weight, vote.or((!due).then_some(false)));
            }
            let Some(yes) = vote else {
                // Who has not answered yet counts as a no: those who have might be the quick liars.
                if !due {
                    let pending = Tally { eligible: member.weight, flagging: 0 };
                    let tally = zones.entry(member.zone).or_default();
                    *tally = tally.plus(pending);
                }
                continue;
            };
            answered += member.weight;
            let more =
                Tally { eligible: member.weight, flagging: if yes { member.weight } else { 0 } };
            let add = |tally: &mut Tally| *tally = tally.plus(more);
            add(zones.entry(member.zone).or_default());
            add(versions.entry(member.version).or_default());
            add(resolvers.entry(member.resolver).or_default());
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
            strata(p, "c4.versions", "probe-core version", &versions, overall, established);
        let by_resolver: Strata =
            strata(p, "c4.resolvers", "resolver class", &resolvers, overall, |_| true);
        let (attributed, rate, usual) = self.attributed(p, plan);
        let enough = participants.enough(settings);
        let crowd = enough.held;
        let world = [enough, majority, shares.geography(p)];
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
        Finding {
            families,
            over,
            share: overall,
            rate,
            usual,
            regional: regions_of(p, &countries),
            reasons: world
                .into_iter()
                .chain(any)
                .chain(confined.filter(|_| over.is_none()))
                .collect(),
            holds,
            holds_in_zones,
            answered: asked > 0 && part >= p.coverage,
            crowd,
            liar_bound,
            prefixes,
        }
    }

    /// The shares that see it over each family, and the one over which alone it fails, with what that
    /// goes by: those who use it are a crowd of its own.
    ///
    /// Who looked over which family is what they say themselves: so those who see it must be more of all
    /// who were asked than may lie.
    fn by_family(&self, p: &Params, settings: &Settings, asked: i64) -> Families {
        let of = |family: Family| {
            let mut zones: BTreeMap<u8, Tally> = BTreeMap::new();
            let (mut prefixes, mut networks) = (BTreeSet::new(), BTreeSet::new());
            let (mut observers, mut looks, mut failed) = (0, 0, 0);
            for member in self.members.values() {
                let own = member.sites.iter().filter(|answer| answer.family == family);
                let own: Vec<bool> = own.filter_map(|answer| answer.failed).collect();
                looks += own.len() as i64;
                failed += own.iter().filter(|failed| **failed).count() as i64;
                let Some(sees) = member.vote_over(family) else { continue };
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
            if other_rate > rate / 4 || bits < p.contrast_bits_q16 || fine < p.look_liars {
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

    /// The suspect that makes this one's failures go away where it is absent, once a round has been
    /// answered.
    #[must_use]
    pub fn explained_by(&self, p: &Params, plan: &Plan, now: Timestamp) -> Option<EntityIndex> {
        let answered = self.rounds > 1 || self.is_due(p, now);
        answered.then(|| self.rival(p, plan, &self.counts().0)).flatten()
    }

    /// Answers and failures by site, with the zones that fail, and by control.
    fn counts(&self) -> (Sites, BTreeMap<TargetIndex, (i64, i64)>) {
        let mut sites: Sites = BTreeMap::new();
        let mut controls: BTreeMap<TargetIndex, (i64, i64)> = BTreeMap::new();
        for member in self.members.values() {
            // Whose controls fail has a line that fails, and tells of nothing else.
            let (controls_seen, bad) = Member::tally(&member.controls);
            if 3 * bad > controls_seen {
                continue;
            }
            for answer in &member.sites {
                let Some(failed) = answer.failed else { continue };
                let (n, f, zones) = sites.entry(answer.target).or_default();
                *n += 1;
                *f += i64::from(failed);
                if failed {
                    zones.insert(member.zone);
                }
            }
            for answer in &member.controls {
                let Some(failed) = answer.failed else { continue };
                let (n, f) = controls.entry(answer.target).or_default();
                *n += 1;
                *f += i64::from(failed);
            }
        }
        (sites, controls)
    }

    /// C5 over the panel's own answers: the suspect's sites fail, the controls do not, and where a
    /// rival is absent they fail as well.
    fn attributed(&self, p: &Params, plan: &Plan) -> (Reason, Ppm, Ppm) {
        let (sites, controls) = self.counts();
        let sum = |values: &mut dyn Iterator<Item = (i64, i64)>| {
            values.fold((0, 0), |(n, f), (more, failed)| (n + more, f + failed))
        };
        let (n, f) = sum(&mut sites.values().map(|(n, f, _)| (*n, *f)));
        let (control_n, control_f) = sum(&mut controls.values().copied());
        let rate = share(f, n);
        let control_rate = share(control_f, control_n);
        let middle = median(controls.values().map(|(n, f)| share(*f, *n)).collect()).unwrap_or(0);
        let mean_answers = n / (sites.len() as i64).max(1);
        let limit = (rate / 2).max(50_000);
        let elevated = sites
            .values()
            .filter(|(n, f, zones)| {
                // In halves, so that two and a half failures can be asked for.
                2 * f >= 5.min(mean_answers) && share(*f, *n) >= limit && zones.len() >= 2
            })
            .count();
        let needed = sites.len().min(3.max((sites.len() * 20).div_ceil(100)));
        let contrast = rate >= 40_000
            && (rate >= 3 * middle || (rate > ONE / 2 && rate > 2 * middle))
            && rate >= control_rate * 9 / 5
            && divergence_q16(rate, control_rate.max(p.background / 2)) * n >= p.contrast_bits_q16;
        let rival = self.rival(p, plan, &sites);
        let held = contrast && elevated >= needed && elevated > 0 && rival.is_none();
        let found = match rival {
            Some(rival) => format!(
                "its sites fail at {} where {} is behind them too, and not where it is not",
                percent(rate),
                plan.entity(rival).provider
            ),
            None => format!(
                "its asked sites fail at {}, the controls at {}; {elevated} of {} sites are hit",
                percent(rate),
                percent(control_rate),
                sites.len()
            ),
        };
        let reason = Reason {
            rule: "c5.attributed".to_owned(),
            held,
            found,
            needed: format!(
                "4 %, three times the controls' median, {needed} sites hit, and no rival that explains it"
            ),
        };
        (reason, rate, control_rate)
    }

    /// A rival whose absence makes the failures go away: by more than chance, and by more than which
    /// sites happen to be behind it.
    fn rival(&self, p: &Params, plan: &Plan, sites: &Sites) -> Option<EntityIndex> {
        let own: Layer = plan.entity(self.entity).layer;
        plan.entities().map(|(entity, _)| entity).find(|rival| {
            let other = plan.entity(*rival).layer;
            if *rival == self.entity || class(other) != class(own) {
                return false;
            }
            let (mut with, mut without): (Vec<_>, Vec<_>) = (Vec::new(), Vec::new());
            for (target, (n, f, _)) in sites {
                let behind = plan.behind(*target).is_some_and(|b| b.has(*rival));
                if behind { &mut with } else { &mut without }.push((*n, *f));
            }
            let sum = |of: &[(i64, i64)]| {
                of.iter().fold((0, 0), |(n, f), (more, failed)| (n + more, f + failed))
            };
            let ((n, f), (n_without, f_without)) = (sum(&with), sum(&without));
            let (rate, rate_without) = (share(f, n), share(f_without, n_without));
            // Answers of one site are not so many sites: where some fail and some do not, the rest may
            // be fine by luck.
            let bits = share(divergence_q16(rate_without, rate) * n_without, dispersion(&with));
            with.len() >= 3
                && n >= 8
                && n_without >= 8
                && rate_without < scale(rate, 400_000)
                && bits >= p.rival_bits_q16
        })
    }

    /// One evaluation.
    #[must_use]
    pub fn step(
        &mut self,
        p: &Params,
        now: Timestamp,
        plan: &Plan,
        settings: &Settings,
        established: impl Fn(u16) -> bool,
    ) -> Step {
        let due = self.is_due(p, now);
        let found = self.find(p, plan, settings, due, established);
        match self.kind {
            Kind::Tracking if due => Step::Measured(found),
            Kind::Tracking => Step::Wait,
            Kind::Screening => {
                let voted = self.members.values().filter(|m| m.vote(p, due).is_some()).count();
                let seeing: BTreeSet<u8> = self
                    .members
                    .values()
                    .filter(|member| member.vote(p, due) == Some(true))
                    .map(|member| member.zone)
                    .collect();
                let enough = voted >= p.panel_screen_votes && seeing.len() >= p.zones_min;
                // Of all who were asked: who is silent has not seen it.
                let yes = self.members.values().filter(|m| m.vote(p, due) == Some(true)).count();
                let part = share(yes as i64, self.members.len().max(1) as i64);
                let needed = p.panel_screen_share.max(self.bar);
                // Of those who use one family, it may be many more.
                let of_family = |family| {
                    let votes = self.members.values().filter_map(|m| m.vote_over(family));
                    let votes: Vec<bool> = votes.collect();
                    let seen = votes.iter().filter(|sees| **sees).count();
                    let part = share(seen as i64, votes.len() as i64);
                    votes.len() >= p.family_votes as usize && part >= p.confirm.max(self.bar)
                };
                let of_some = due && enough && [Family::V4, Family::V6].into_iter().any(of_family);
                if of_some || enough && (part >= needed || (due && found.share >= needed)) {
                    let found = self.find(p, plan, settings, true, |_| true);
                    Step::CallFull { seen: found.share, rate: found.rate }
                } else if !due {
                    Step::Wait
                } else if found.answered && found.share >= p.panel_screen_share {
                    Step::NoMore
                } else if found.answered {
                    Step::Refuted(found)
                } else {
                    Step::Unanswered
                }
            }
            Kind::Full => {
                self.passes = if found.holds { self.passes + 1 } else { 0 };
                if self.passes >= 2 {
                    return match found.share < p.panel_second_below && self.draw == 0 {
                        true => Step::DrawAgain { rate: found.rate },
                        false => Step::Confirmed(found),
                    };
                }
                if !due {
                    return Step::Wait;
                }
                // Each has looked over each family, by then.
                if found.over.is_some() && self.rounds >= 2 {
                    return match self.draw {
                        0 => Step::DrawAgain { rate: found.rate },
                        _ => Step::Confirmed(found),
                    };
                }
                let last = self.rounds >= p.panel_rounds;
                let gap = if self.rounds >= 3 { p.panel_late_round_gap_ms } else { 0 };
                if !found.answered && (last || found.share < p.panel_stop_share) {
                    Step::Unanswered
                } else if found.share < p.panel_stop_share
                    && found.regional.is_empty()
                    && found.families.iter().flatten().all(|share| *share < p.confirm)
                {
                    Step::Refuted(found)
                } else if self.passes > 0 {
                    Step::Wait
                } else if last {
                    Step::Inconclusive(found)
                } else if now.since_ms(self.began) >= gap {
                    Step::Round
                } else {
                    Step::Wait
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tocsin_proto::catalogue::Catalogue;

    use super::*;

    const P: &Params = &Params::DEFAULT;

    /// What an observer of the crowd below runs.
    fn standing(observer: u32) -> Standing {
        Standing {
            country: Country::UNKNOWN,
            zone: None,
            asn: 0,
            slot: 0,
            version: (observer % 3) as u16,
            resolver: (observer % 2) as u8,
        }
    }

    const NOW: Timestamp = Timestamp::from_s(1_800_000_000);
    const DUE: Timestamp = NOW.plus_ms(P.panel_due_ms);
    const SECRET: [u8; 32] = [7; 32];

    /// Forty sites: twenty behind the edge `big`, eight behind `small`, the others behind `rest`;
    /// `nested` is the aux of twelve behind `big`.
    fn plan() -> Plan {
        let mut text = "schema = 1\nversion = 1\n".to_owned();
        for id in ["big", "small", "rest", "nested"] {
            text +=
                &format!("[[provider]]\nid = \"{id}\"\nname = \"{id}\"\norganisation = \"{id}\"\n");
        }
        for at in 0..40 {
            let edge = match at {
                0..20 => "big",
                20..28 => "small",
                _ => "rest",
            };
            let role = |role: &str, provider: &str| {
                format!(
                    "{{ role = \"{role}\", provider = \"{provider}\", evidence = \"operator\" }}"
                )
            };
            let mut roles = vec![role("edge", edge)];
            if at < 12 {
                roles.push(role("aux", "nested"));
            }
            text += &format!(
                "[[target]]\nindex = {at}\nid = \"t{at}\"\nname = \"t\"\nhost = \"t{at}.test\"\n\
                 roles = [{}]\n",
                roles.join(", ")
            );
        }
        Plan::new(&Catalogue::parse(&text).unwrap())
    }

    fn entity(plan: &Plan, name: &str) -> EntityIndex {
        plan.entities().find(|(_, entity)| entity.provider.as_str() == name).unwrap().0
    }

    /// 160 observers in 80 networks and 8 zones.
    fn crowd() -> Vec<Candidate> {
        (0..160u32)
            .map(|n| Candidate {
                country: Country::UNKNOWN,
                observer: n,
                weight: ONE,
                zone: (n % 8) as u8,
                slot: n.into(),
                asn: n / 2,
                version: (n % 3) as u16,
                resolver: (n % 4) as u8,
            })
            .collect()
    }

    struct Asked {
        plan: Plan,
        panel: Panel,
        asks: Vec<Ask>,
    }

    fn ask(kind: Kind, of: &str, secret: [u8; 32]) -> Asked {
        let (plan, crowd) = (plan(), crowd());
        let mut panel = Panel::new(entity(&plan, of), kind, 1, 1, NOW);
        let none = BTreeSet::new();
        let scene = Scene {
            now: NOW,
            plan: &plan,
            crowd: &crowd,
            rivals: &none,
            shadows: &none,
            dead: &BTreeSet::new(),
            secret: &secret,
        };
        let asks = panel.begin_round(P, &scene);
        Asked { plan, panel, asks }
    }

    impl Asked {
        /// Everybody for whom `says` has an answer gives it.
        fn answer(&mut self, says: impl Fn(u32, u16) -> Option<bool>) {
            self.answer_over(says, |_, _| Family::V4);
        }

        fn answer_over(
            &mut self,
            says: impl Fn(u32, u16) -> Option<bool>,
            family: impl Fn(u32, u16) -> Family,
        ) {
            for Ask { observer, nonce, targets, .. } in self.asks.clone() {
                for target in targets {
                    if let Some(failed) = says(observer, target.0) {
                        let who = (observer, &standing(observer));
                        let family = family(observer, target.0);
                        self.panel.answer(who, nonce, target, (failed, true), family);
                    }
                }
            }
        }

        fn step(&mut self, now: Timestamp) -> Step {
            self.panel.step(P, now, &self.plan, &Settings::default(), |_| true)
        }
    }

    #[test]
    fn nobody_can_foretell_who_is_asked_what() {
        let asks = |secret| ask(Kind::Screening, "big", [secret; 32]).asks;
        assert_eq!(asks(1), asks(1));
        let (one, other) = (asks(1), asks(2));
        assert_ne!(one, other);
        let nonces: BTreeSet<u64> = one.iter().chain(&other).map(|ask| ask.nonce).collect();
        assert_eq!(nonces.len(), one.len() + other.len(), "a nonce is of one ask");
        assert!((40..=P.panel_screen + 8).contains(&one.len()), "{}", one.len());
        for ask in one {
            let behind = ask.targets.iter().filter(|target| target.0 < 20).count();
            assert_eq!((behind, ask.targets.len()), (P.panel_sites_many, P.panel_probes()));
        }
    }

    #[test]
    fn a_majority_of_those_asked_confirms_and_few_refute() {
        let mut asked = ask(Kind::Full, "small", SECRET);
        assert_eq!(asked.asks.len(), 160, "everybody");
        asked.answer(|observer, target| Some((20..28).contains(&target) && observer % 10 < 8));
        assert_eq!(asked.step(NOW.plus_ms(1_000)), Step::Wait, "it must hold twice");
        let Step::Confirmed(found) = asked.step(NOW.plus_ms(2_000)) else { panic!() };
        assert!(found.share >= 750_000 && found.holds, "{found:?}");
        let mut asked = ask(Kind::Full, "small", SECRET);
        asked.answer(|observer, target| Some((20..28).contains(&target) && observer % 20 == 0));
        assert!(matches!(asked.step(DUE), Step::Refuted(_)));
    }

    #[test]
    fn quick_liars_decide_nothing_before_the_others_have_answered() {
        let mut asked = ask(Kind::Full, "small", SECRET);
        asked.answer(|observer, target| (observer % 10 < 3).then_some((20..28).contains(&target)));
        for second in 1..7 {
            assert_eq!(asked.step(NOW.plus_ms(second * 1_000)), Step::Wait);
        }
        asked.answer(|_, _| Some(false));
        let Step::Round = asked.step(DUE) else { panic!("30 % is no majority and not nothing") };
    }

    #[test]
    fn silence_and_dead_lines_say_nothing() {
        let mut silent = ask(Kind::Full, "small", SECRET);
        assert_eq!(silent.step(DUE), Step::Unanswered);
        // A few who see it are no panel either; it is asked again.
        silent.answer(|observer, target| (observer < 20).then_some((20..28).contains(&target)));
        assert_eq!([silent.step(DUE), silent.step(DUE)], [Step::Round, Step::Round]);
        let mut dead = ask(Kind::Full, "small", SECRET);
        dead.answer(|_, _| Some(true));
        assert_eq!(dead.step(DUE), Step::Unanswered, "whose controls fail has no vote");
    }

    #[test]
    fn answers_count_under_their_own_nonce_alone() {
        let mut asked = ask(Kind::Full, "small", SECRET);
        let asks = asked.asks.clone();
        for Ask { observer, nonce, targets, .. } in &asks {
            for target in targets {
                // By another, or under a nonce that was never given.
                asked.panel.answer(
                    (observer + 1, &standing(observer + 1)),
                    *nonce,
                    *target,
                    (target.0 >= 20, true),
                    Family::V4,
                );
                asked.panel.answer(
                    (*observer, &standing(*observer)),
                    nonce + 1,
                    *target,
                    (target.0 >= 20, true),
                    Family::V4,
                );
            }
        }
        assert_eq!(asked.step(DUE), Step::Unanswered);
    }

    #[test]
    fn one_dead_site_is_no_dead_provider() {
        let mut asked = ask(Kind::Full, "small", SECRET);
        asked.answer(|_, target| Some(target == 20));
        assert!(matches!(asked.step(DUE), Step::Refuted(_)));
    }

    #[test]
    fn where_the_rival_is_absent_it_must_fail_as_well() {
        // What is nested in the edge fails: the edge's other sites do not.
        let mut asked = ask(Kind::Full, "big", SECRET);
        asked.answer(|_, target| Some(target < 12));
        asked.step(DUE);
        let found = asked.panel.find(P, &asked.plan, &Settings::default(), true, |_| true);
        assert!(found.share >= P.confirm, "{found:?}");
        let attributed = found.reasons.iter().find(|r| r.rule == "c5.attributed").unwrap();
        assert!(!attributed.held && attributed.found.contains("nested"), "{attributed:?}");
        let mut asked = ask(Kind::Full, "nested", SECRET);
        asked.answer(|_, target| Some(target < 12));
        asked.step(DUE);
        assert!(matches!(asked.step(DUE), Step::Confirmed(_)));
    }

    #[test]
    fn some_sites_that_fail_are_nobodys_by_luck() {
        // Ten of the edge's twenty fail, and happen to be among the twelve of what is nested.
        let rival = |fails: fn(u16) -> bool| {
            let mut asked = ask(Kind::Full, "big", SECRET);
            asked.answer(|_, target| Some(target < 20 && fails(target)));
            let (sites, _) = asked.panel.counts();
            asked.panel.rival(P, &asked.plan, &sites).is_some()
        };
        assert!(rival(|target| target < 12), "all of them, and none else");
        assert!(!rival(|target| target < 5), "five of twelve, and none of eight");
        assert!(!rival(|target| target % 2 == 0), "half of both");
    }

    #[test]
    fn what_one_family_alone_sees_is_not_said_of_the_world() {
        let family = |_: u32, target: u16| match target % 2 {
            0 => Family::V4,
            _ => Family::V6,
        };
        let find = |fails: fn(u16) -> bool, liars: u32| {
            let mut asked = ask(Kind::Full, "big", SECRET);
            let says = |observer: u32, target: u16| {
                Some(
                    target < 20
                        && if observer % 10 < liars { target % 2 == 1 } else { fails(target) },
                )
            };
            asked.answer_over(says, family);
            let found = asked.panel.find(P, &asked.plan, &Settings::default(), true, |_| true);
            (found.holds, found.over)
        };
        assert_eq!(find(|_| true, 0), (true, None), "over both");
        assert_eq!(find(|target| target % 2 == 1, 0), (false, Some(Family::V6)));
        assert_eq!(find(|_| true, 3), (true, None), "liars say that all is well over IPv4");
    }

    #[test]
    fn dispersion_is_that_of_the_textbook() {
        // Rates 1, 1, 0, 0 of ten answers each: chi-squared 40 over 3.
        assert_eq!(dispersion(&[(10, 10), (10, 10), (10, 0), (10, 0)]), 13_333_333);
        assert_eq!(dispersion(&[(10, 10), (7, 7)]), ONE);
        assert_eq!(dispersion(&[(10, 5), (10, 5)]), ONE, "at least one");
        assert_eq!(dispersion(&[]), ONE);
    }

    proptest! {
        /// Attackers move the share by no more than their part of the crowd.
        #[test]
        fn liars_are_worth_their_number(liars in 0u32..80) {
            let mut asked = ask(Kind::Full, "small", SECRET);
            asked.answer(|observer, target| {
                Some((20..28).contains(&target) && observer * 7 % 160 < liars)
            });
            let found = asked.panel.find(P, &asked.plan, &Settings::default(), true, |_| true);
            let part = share(i64::from(liars), 160);
            prop_assert!(found.share <= part + 60_000, "{} {part}", found.share);
            prop_assert!(!found.holds || liars >= 80);
        }
    }
}
