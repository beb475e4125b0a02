//! A second look at one site: observers drawn at random are asked to look at it now, up to four
//! times, beside siblings behind the same providers and sites that have nothing to do with it.
//!
//! The windows tell of a site that fails for most, once enough have looked; a small crowd looks at
//! each site so seldom that it takes a quarter of an hour, and a site that fails for a third of the
//! requests is told from liars by nothing in them. Here each member's vote is whether it saw the site
//! fail in *any* of its looks: of a site that fails for a third, two thirds have in three looks, while
//! a liar is one member whatever it says. A majority must.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use tocsin_proto::{
    id::{Country, TargetIndex},
    implicate::Layer,
    incident::{Confidence, LiarBound, Reason},
    time::Timestamp,
};

use super::{
    alert::Budget,
    fixed::{ONE, Ppm, divergence_q16, percent, scale, share},
    incident::Grounds,
    judge::strata,
    lot::{Luck, draw},
    observer::Standing,
    panel::{Ask, Candidate},
    params::Params,
    plan::{Behind, Entities, Plan},
    seen::SeenBy,
    tally::{NOWHERE, Tally},
};

/// What is known when members are drawn or asked.
#[derive(Debug, Clone, Copy)]
pub struct Scene<'a> {
    /// The time.
    pub now: Timestamp,
    /// Entities and targets.
    pub plan: &'a Plan,
    /// Everybody who may be asked, by number; only of use in the first round.
    pub crowd: &'a [Candidate],
    /// Sites that fail at most now and then, of which siblings and controls are taken.
    pub well: &'a BTreeSet<TargetIndex>,
    /// What it fails of, as far as is known.
    pub layer: Layer,
    /// What nobody outside knows.
    pub secret: &'a [u8; 32],
}

/// What is asked of a member in a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Role {
    Site,
    Sibling,
    Control,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Member {
    zone: u8,
    country: Country,
    slot: u64,
    asn: u32,
    version: u16,
    resolver: u8,
    weight: i64,
    /// What it has not answered in this round.
    open: Vec<(TargetIndex, Role)>,
    looks: u8,
    failed: u8,
    siblings: u8,
    siblings_failed: u8,
    controls: u8,
    controls_failed: u8,
}

impl Member {
    /// Whether it saw the site fail; `None` while that is not known, or its own line is in doubt.
    fn vote(&self, due: bool) -> Option<bool> {
        let complete = due || self.open.is_empty();
        (complete && self.is_fit() && self.looks > 0).then_some(self.failed > 0)
    }

    /// Whether what has nothing to do with the site answers it.
    const fn is_fit(&self) -> bool {
        self.controls > 0 && 2 * self.controls_failed < self.controls
    }
}

/// A second look under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecondLook {
    target: TargetIndex,
    /// Of this moment and site: a replay that begins elsewhere comes to the same.
    number: u64,
    began: Timestamp,
    rounds: u8,
    members: BTreeMap<u32, Member>,
    nonces: BTreeMap<u64, u32>,
    /// Answers of siblings, and those that failed.
    siblings: BTreeMap<TargetIndex, (i64, i64)>,
}

/// Looks under way, which sites are at rest after one, and what more may be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecondLooks {
    under_way: BTreeMap<TargetIndex, SecondLook>,
    rests: BTreeMap<TargetIndex, Rest>,
    budget: Budget,
    /// When one was last begun that had to be.
    forced_at: Timestamp,
}

/// A site after a look that came to nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Rest {
    since: Timestamp,
    for_ms: u64,
    /// Whether those who were asked answered; `None` where nobody was, for want of budget.
    answered: Option<bool>,
}

/// What is known of a site from who was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// Nobody was, lately.
    Nobody,
    /// They are being asked.
    UnderWay,
    /// They did not see it.
    Refuted,
    /// They did not answer, or could not be asked.
    Unanswered,
}

impl Default for SecondLooks {
    fn default() -> Self {
        Self {
            under_way: BTreeMap::new(),
            rests: BTreeMap::new(),
            budget: Budget::FULL,
            forced_at: Timestamp::EPOCH,
        }
    }
}

impl SecondLooks {
    /// Whether a look at a site may begin; where it seems to be down for most, the rest is short.
    #[must_use]
    pub fn may_begin(
        &self,
        p: &Params,
        now: Timestamp,
        target: TargetIndex,
        seems_down: bool,
    ) -> bool {
        let most_ms = if seems_down { p.look_good_ms } else { u64::MAX };
        let rested = |rest: &Rest| now.since_ms(rest.since) >= rest.for_ms.min(most_ms);
        !self.under_way.contains_key(&target) && self.rests.get(&target).is_none_or(rested)
    }

    /// What is known of a site.
    #[must_use]
    pub fn asked(&self, p: &Params, now: Timestamp, target: TargetIndex) -> Asked {
        let fresh = |rest: &&Rest| now.since_ms(rest.since) < rest.for_ms.min(p.look_good_ms);
        match self.rests.get(&target).filter(fresh) {
            _ if self.under_way.contains_key(&target) => Asked::UnderWay,
            Some(Rest { answered: Some(true), .. }) => Asked::Refuted,
            Some(Rest { answered: Some(false), .. }) => Asked::Unanswered,
            Some(Rest { answered: None, .. }) | None => Asked::Nobody,
        }
    }

    /// Whether the members of the look at a site are still to be drawn.
    #[must_use]
    pub fn is_new(&self, target: TargetIndex) -> bool {
        !self.under_way.contains_key(&target)
    }

    /// Sites that are looked at.
    pub fn under_way(&self) -> impl Iterator<Item = TargetIndex> {
        self.under_way.keys().copied()
    }

    /// Whether one may begin before all others and whatever the budget says.
    #[must_use]
    pub const fn may_force(&self, p: &Params, now: Timestamp) -> bool {
        now.since_ms(self.forced_at) >= p.look_forced_every_ms
    }

    /// Begins one, or its next round; nothing is asked where the budget is empty and it need not be.
    pub fn round(
        &mut self,
        p: &Params,
        target: TargetIndex,
        online: usize,
        must: bool,
        scene: &Scene<'_>,
    ) -> Vec<Ask> {
        let now = scene.now;
        let look = self.under_way.entry(target).or_insert_with(|| SecondLook::new(target, now));
        let cost = look.probes(p, online) as i64 * ONE / (online.max(1) as i64);
        // What was begun is brought to its end.
        let paid = self.budget.take(now, p.look_day, p.look_burst, cost) || look.rounds > 0;
        if !paid && must {
            self.forced_at = now;
        }
        if paid || must {
            return look.begin_round(p, scene);
        }
        self.under_way.remove(&target);
        let rest = Rest { since: now, for_ms: p.panel_backoff_ms, answered: None };
        self.rests.insert(target, rest);
        Vec::new()
    }

    /// Takes an answer to whichever look asked for it.
    pub fn answer(&mut self, who: (u32, &Standing), nonce: u64, target: TargetIndex, failed: bool) {
        for look in self.under_way.values_mut() {
            look.answer(who, nonce, target, failed);
        }
    }

    /// One evaluation of the look at a site; one that is over is gone, and its site rests.
    pub fn step(
        &mut self,
        p: &Params,
        plan: &Plan,
        now: Timestamp,
        target: TargetIndex,
        established: impl Fn(u16) -> bool,
    ) -> (u8, Step) {
        let Some(look) = self.under_way.get(&target) else { return (0, Step::Wait) };
        let (rounds, step) = (look.rounds, look.step(p, plan, now, established));
        match &step {
            Step::Wait | Step::Round => {}
            Step::Confirmed(_) => {
                self.under_way.remove(&target);
                self.rests.remove(&target);
            }
            Step::Over { came_to, .. } => {
                self.under_way.remove(&target);
                let before = self.rests.get(&target).map_or(0, |rest| rest.for_ms);
                let for_ms = (2 * before).clamp(p.panel_backoff_ms, p.look_rest_max_ms);
                let answered = Some(*came_to != UNANSWERED);
                self.rests.insert(target, Rest { since: now, for_ms, answered });
            }
        }
        (rounds, step)
    }

    /// Once in a while: rests that are long over.
    pub fn forget(&mut self, p: &Params, now: Timestamp) {
        self.rests
            .retain(|_, rest| now.since_ms(rest.since) < rest.for_ms + 2 * p.look_rest_max_ms);
    }
}

/// What to do with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Wait for answers.
    Wait,
    /// Ask once more.
    Round,
    /// The site fails, and nothing behind it does.
    Confirmed(Box<Grounds>),
    /// It does not, or that cannot be told.
    Over {
        /// In a word or two.
        came_to: &'static str,
        /// The share that saw it fail.
        share: Ppm,
        /// Rules that did not hold.
        missing: Vec<Reason>,
    },
}

const UNANSWERED: &str = "unanswered";

/// Answers that were counted: of votes, of looks, of other sites.
#[derive(Debug, Default)]
struct Found {
    votes: i64,
    seen: i64,
    members: i64,
    looks: i64,
    failed: i64,
    /// Weight of those who saw a control fail, and of voters who saw a sibling fail.
    elsewhere: i64,
    beside: i64,
    zones: BTreeMap<u8, (i64, i64)>,
    versions: BTreeMap<u16, Tally>,
    resolvers: BTreeMap<u8, Tally>,
    prefixes: BTreeSet<u64>,
    networks: BTreeSet<u32>,
}

impl SecondLook {
    /// One with nobody asked yet.
    #[must_use]
    pub fn new(target: TargetIndex, now: Timestamp) -> Self {
        Self {
            target,
            number: now.as_ms() << 16 | u64::from(target.0),
            began: now,
            rounds: 0,
            members: BTreeMap::new(),
            nonces: BTreeMap::new(),
            siblings: BTreeMap::new(),
        }
    }

    /// Probes that a round costs, in a crowd of so many.
    #[must_use]
    pub fn probes(&self, p: &Params, online: usize) -> usize {
        let members = if self.rounds == 0 { p.look_seats.min(online) } else { self.members.len() };
        members * (1 + p.look_siblings + p.look_controls)
    }

    /// Draws the members, in the first round, and what each is asked in this one.
    #[must_use]
    pub fn begin_round(&mut self, p: &Params, scene: &Scene<'_>) -> Vec<Ask> {
        if self.rounds == 0 {
            for (candidate, weight) in draw(p, scene.crowd, scene.secret, self.number, p.look_seats)
            {
                let member = Member {
                    zone: candidate.zone,
                    country: candidate.country,
                    slot: candidate.slot,
                    asn: candidate.asn,
                    version: candidate.version,
                    resolver: candidate.resolver,
                    weight,
                    open: Vec::new(),
                    looks: 0,
                    failed: 0,
                    siblings: 0,
                    siblings_failed: 0,
                    controls: 0,
                    controls_failed: 0,
                };
                self.members.insert(candidate.observer, member);
            }
        }
        self.rounds += 1;
        self.began = scene.now;
        // A top-level domain is behind half of the world: what shares no more is no sibling.
        let mut behind = Entities::default();
        for (layer, entity) in scene.plan.behind(self.target).map_or(&[][..], Behind::entities) {
            if *layer != Layer::Tld {
                behind.insert(*entity);
            }
        }
        let others = scene.well.iter().copied().filter(|target| *target != self.target);
        let (siblings, controls): (Vec<_>, Vec<_>) = others.partition(|target| {
            scene.plan.behind(*target).is_some_and(|other| !other.set().and(behind).is_empty())
        });
        let layer = scene.layer;
        let mut asks = Vec::new();
        for (observer, member) in &mut self.members {
            let numbers = [self.number, self.rounds.into(), (*observer).into()];
            let mut luck = Luck::new(scene.secret, b"second look", numbers);
            let nonce = luck.number();
            let siblings: Vec<_> = luck.deal(siblings.clone()).take(p.look_siblings).collect();
            let controls: Vec<_> = luck.deal(controls.clone()).take(p.look_controls).collect();
            member.open = vec![(self.target, Role::Site)];
            member.open.extend(siblings.iter().map(|target| (*target, Role::Sibling)));
            member.open.extend(controls.iter().map(|target| (*target, Role::Control)));
            self.nonces.insert(nonce, *observer);
            let targets = member.open.iter().map(|(target, _)| *target).collect();
            asks.push(Ask { observer: *observer, nonce, targets, layer, standing: false });
        }
        asks
    }

    /// Takes an answer under a nonce. Of no use: one that was not asked for, or by another.
    pub fn answer(
        &mut self,
        (observer, standing): (u32, &Standing),
        nonce: u64,
        target: TargetIndex,
        failed: bool,
    ) {
        if self.nonces.get(&nonce) != Some(&observer) {
            return;
        }
        let Some(member) = self.members.get_mut(&observer) else { return };
        let Some(at) = member.open.iter().position(|(open, _)| *open == target) else { return };
        let role = member.open.swap_remove(at).1;
        // What was seen by one release of our program is not the word of another.
        if member.version != standing.version {
            (member.looks, member.failed) = (0, 0);
            (member.siblings, member.siblings_failed) = (0, 0);
            (member.controls, member.controls_failed) = (0, 0);
        }
        (member.version, member.resolver) = (standing.version, standing.resolver);
        let (count, bad) = match role {
            Role::Site => (&mut member.looks, &mut member.failed),
            Role::Sibling => (&mut member.siblings, &mut member.siblings_failed),
            Role::Control => (&mut member.controls, &mut member.controls_failed),
        };
        *count += 1;
        *bad += u8::from(failed);
        if role == Role::Sibling {
            let (answers, failures) = self.siblings.entry(target).or_default();
            *answers += 1;
            *failures += i64::from(failed);
        }
    }

    fn find(&self, due: bool) -> Found {
        let mut found = Found::default();
        for member in self.members.values() {
            found.members += member.weight;
            // Also of those who have no vote: where everything fails, it is theirs that do.
            found.elsewhere += if member.controls_failed > 0 { member.weight } else { 0 };
            let Some(seen) = member.vote(due) else { continue };
            found.votes += member.weight;
            found.looks += i64::from(member.looks);
            found.failed += i64::from(member.failed);
            found.beside += if member.siblings_failed > 0 { member.weight } else { 0 };
            found.prefixes.insert(member.slot);
            found.networks.insert(member.asn);
            let flagging = if seen { member.weight } else { 0 };
            let vote = Tally { eligible: member.weight, flagging };
            let add = |tally: &mut Tally| *tally = tally.plus(vote);
            add(found.versions.entry(member.version).or_default());
            add(found.resolvers.entry(member.resolver).or_default());
            let (votes, seeing) = found.zones.entry(member.zone).or_default();
            *votes += member.weight;
            if seen {
                found.seen += member.weight;
                *seeing += member.weight;
            }
        }
        found
    }

    /// Each rule, and what it found.
    fn judge(
        &self,
        p: &Params,
        found: &Found,
        established: impl Fn(u16) -> bool,
    ) -> (Ppm, Vec<Reason>) {
        let seen = share(found.seen, found.votes);
        let more = seen.max(p.look_liars);
        let bits = scale(found.votes, divergence_q16(more, p.look_liars));
        let majority = Reason {
            rule: "look.majority".to_owned(),
            held: seen >= p.confirm && bits >= p.look_bits_q16,
            found: format!(
                "{} of {} observers drawn at random saw it fail in {} looks each: {} bits that more \
                 than {} do",
                percent(seen),
                found.prefixes.len(),
                self.rounds,
                bits >> 16,
                percent(p.look_liars)
            ),
            needed: format!("{}, and {} bits", percent(p.confirm), p.look_bits_q16 >> 16),
        };
        // Of one vote nothing is told.
        let zones: Vec<Ppm> = found
            .zones
            .iter()
            .filter(|(zone, (votes, _))| **zone != NOWHERE && *votes > ONE)
            .map(|(_, (votes, seeing))| share(*seeing, *votes))
            .collect();
        let seeing = zones.iter().filter(|share| **share >= p.look_liars).count();
        let needed = p.site_zones(zones.len());
        let geography = Reason {
            rule: "look.geography".to_owned(),
            held: zones.len() >= p.zones_min && seeing >= needed,
            found: format!("{seeing} of {} zones with enough votes see it", zones.len()),
            needed: format!("{needed} of at least {}", p.zones_min),
        };
        let rate = share(found.failed, found.looks);
        let elsewhere = share(found.elsewhere, found.members);
        let beside = share(found.beside, found.votes);
        let alone = Reason {
            rule: "look.alone".to_owned(),
            held: elsewhere < p.look_liars && beside < p.look_liars,
            found: format!(
                "{} of the looks at it failed; {} saw a sibling fail, and {} what has nothing to do \
                 with it",
                percent(rate),
                percent(beside),
                percent(elsewhere)
            ),
            needed: format!("both under {}", percent(p.look_liars)),
        };
        let of = &found.versions;
        let versions = strata(p, "c4.versions", "probe-core version", of, seen, established);
        let of = &found.resolvers;
        let resolvers = strata(p, "c4.resolvers", "resolver class", of, seen, |_| true);
        (seen, vec![majority, geography, alone, versions.reason, resolvers.reason])
    }

    /// What is behind it, and why it is not that.
    fn ruled_out(&self, p: &Params, plan: &Plan) -> Vec<Reason> {
        let behind = plan.behind(self.target).map_or(&[][..], Behind::entities);
        behind
            .iter()
            .filter_map(|(_, entity)| {
                let of = plan.entity(*entity);
                let asked =
                    self.siblings.iter().filter(|(sibling, _)| of.targets.contains(sibling));
                let (answers, failures) =
                    asked.fold((0, 0), |(n, f), (_, (more, failed))| (n + more, f + failed));
                (answers > 0).then(|| Reason {
                    rule: of.not(),
                    held: true,
                    found: format!(
                        "{failures} of {answers} looks at other sites behind it failed, then"
                    ),
                    needed: percent(p.look_liars),
                })
            })
            .collect()
    }

    /// Who voted, and the looks at it.
    fn seen_by(&self, due: bool) -> SeenBy {
        let mut seen = SeenBy::default();
        for member in self.members.values() {
            let Some(sees) = member.vote(due) else { continue };
            seen.observer(member.country, member.asn, sees);
            for look in 0..member.looks {
                seen.answer(self.target, look < member.failed);
            }
        }
        seen
    }

    /// One evaluation.
    #[must_use]
    pub fn step(
        &self,
        p: &Params,
        plan: &Plan,
        now: Timestamp,
        established: impl Fn(u16) -> bool,
    ) -> Step {
        let due = now.since_ms(self.began) >= p.panel_due_ms;
        let found = self.find(due);
        let (seen, reasons) = self.judge(p, &found, established);
        let complete = self.members.values().all(|member| member.open.is_empty());
        // The quickest decide nothing: liars answer at once.
        if !due && !complete {
            return Step::Wait;
        }
        let over = |came_to, reasons: Vec<Reason>| Step::Over {
            came_to,
            share: seen,
            missing: reasons.into_iter().filter(|reason| !reason.held).collect(),
        };
        // Too few to tell, whatever they said.
        let most_bits = scale(found.votes, divergence_q16(ONE, p.look_liars));
        let places =
            found.zones.iter().filter(|(zone, (votes, _))| **zone != NOWHERE && *votes > ONE);
        let can_tell = most_bits >= p.look_bits_q16 && places.count() >= p.zones_min;
        if 2 * found.votes < found.members || found.members == 0 || !can_tell {
            return over(UNANSWERED, reasons);
        }
        if reasons.iter().all(|reason| reason.held) {
            let up = |n: i64| u32::try_from(n).unwrap_or(u32::MAX);
            let needed = scale(found.prefixes.len() as i64, p.confirm);
            return Step::Confirmed(Box::new(Grounds {
                reasons,
                ruled_out: self.ruled_out(p, plan),
                seen: self.seen_by(due),
                liar_bound: LiarBound {
                    prefixes: up(needed),
                    networks: up(scale(found.networks.len() as i64, p.confirm)),
                    zones: u32::try_from(p.zones_min).unwrap_or(u32::MAX),
                },
                confidence: if found.prefixes.len() < p.look_seats / 2 {
                    Confidence::Low
                } else {
                    Confidence::Medium
                },
            }));
        }
        if seen < p.panel_stop_share {
            over("refuted", reasons)
        } else if self.rounds >= p.look_rounds {
            over("inconclusive", reasons)
        } else {
            Step::Round
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use tocsin_proto::catalogue::Catalogue;

    use super::*;

    const P: &Params = &Params::DEFAULT;

    const NOW: Timestamp = Timestamp::from_s(1_800_000_000);
    const DUE: Timestamp = NOW.plus_ms(P.panel_due_ms);
    const IT: TargetIndex = TargetIndex(3);

    /// Twenty sites behind one edge, twenty behind another.
    fn plan() -> Plan {
        let mut text = "schema = 1\nversion = 1\n".to_owned();
        for id in ["one", "other"] {
            writeln!(text, "[[provider]]\nid = \"{id}\"\nname = \"{id}\"\norganisation = \"{id}\"")
                .unwrap();
        }
        for at in 0..40 {
            let edge = if at < 20 { "one" } else { "other" };
            writeln!(
                text,
                "[[target]]\nindex = {at}\nid = \"t{at}\"\nname = \"t\"\nhost = \"t{at}.test\"\n\
                 roles = [{{ role = \"edge\", provider = \"{edge}\", evidence = \"operator\" }}]"
            )
            .unwrap();
        }
        Plan::new(&Catalogue::parse(&text).unwrap())
    }

    /// So many observers in half as many networks and eight zones.
    fn crowd(size: u32) -> Vec<Candidate> {
        let candidate = |n: u32| Candidate {
            observer: n,
            weight: ONE,
            zone: (n % 8) as u8,
            country: Country::UNKNOWN,
            slot: n.into(),
            asn: n / 2,
            version: standing(n).version,
            resolver: 0,
        };
        (0..size).map(candidate).collect()
    }

    /// A quarter runs another release.
    fn standing(observer: u32) -> Standing {
        Standing {
            country: Country::UNKNOWN,
            zone: None,
            asn: observer / 2,
            slot: observer.into(),
            version: if observer.is_multiple_of(4) { 2 } else { 1 },
            resolver: 0,
        }
    }

    /// Plays a look at [`IT`] to its end: `says` answers for an observer, target and round.
    fn play(size: u32, says: impl Fn(u32, u16, u8) -> Option<bool>) -> (u8, Step) {
        let (plan, crowd) = (plan(), crowd(size));
        let well = plan.targets().map(|(target, _)| target).filter(|t| *t != IT).collect();
        let (mut looks, mut at) = (SecondLooks::default(), NOW);
        for round in 1.. {
            let scene = Scene {
                now: at,
                plan: &plan,
                crowd: &crowd,
                well: &well,
                layer: Layer::Site,
                secret: &[7; 32],
            };
            let asks = looks.round(P, IT, crowd.len(), false, &scene);
            assert!(!asks.is_empty());
            for Ask { observer, nonce, targets, .. } in asks {
                assert_eq!(targets.len(), 1 + P.look_siblings + P.look_controls);
                for target in targets {
                    // Under a nonce of another it counts for nothing.
                    looks.answer((observer + 1, &standing(observer + 1)), nonce, target, true);
                    if let Some(failed) = says(observer, target.0, round) {
                        looks.answer((observer, &standing(observer)), nonce, target, failed);
                    }
                }
            }
            at = at.plus_ms(P.panel_due_ms);
            match looks.step(P, &plan, at, IT, |_| true) {
                (_, Step::Round) => {}
                (rounds, step) => return (rounds, step),
            }
        }
        unreachable!()
    }

    #[test]
    fn a_site_that_is_down_is_told_by_one_look() {
        for size in [40, 300, 5_000] {
            let (rounds, step) = play(size, |_, target, _| Some(target == IT.0));
            let Step::Confirmed(grounds) = step else { panic!("{step:?}") };
            assert_eq!(rounds, 1);
            assert!(grounds.reasons.iter().all(|reason| reason.held) && grounds.reasons.len() == 5);
        }
    }

    #[test]
    fn one_that_fails_for_a_third_is_told_by_a_few() {
        let (rounds, step) = play(300, |who, target, round| {
            Some(target == IT.0 && (who + u32::from(round)) % 3 == 0)
        });
        assert!(matches!(step, Step::Confirmed(_)) && rounds > 1, "{rounds} {step:?}");
    }

    #[test]
    fn two_fifths_of_liars_tell_of_nothing() {
        for size in [100, 300, 5_000] {
            let (rounds, step) = play(size, |who, target, _| Some(target == IT.0 && who % 5 < 2));
            assert!(matches!(step, Step::Over { .. }), "{step:?}");
            assert_eq!(rounds, P.look_rounds);
        }
        let (rounds, step) = play(300, |who, target, _| Some(target == IT.0 && who % 20 == 0));
        assert!(matches!(step, Step::Over { came_to: "refuted", .. }) && rounds == 1);
    }

    #[test]
    fn where_its_siblings_fail_too_it_is_not_the_site() {
        let (_, step) = play(300, |_, target, _| Some(target < 20));
        let Step::Over { missing, .. } = step else { panic!("{step:?}") };
        assert_eq!(missing.iter().map(|r| r.rule.as_str()).collect::<Vec<_>>(), ["look.alone"]);
    }

    #[test]
    fn what_one_release_of_ours_sees_is_not_the_site() {
        let (_, step) = play(300, |who, target, _| Some(target == IT.0 && who % 4 > 0));
        let Step::Over { missing, .. } = step else { panic!("{step:?}") };
        assert_eq!(missing.iter().map(|r| r.rule.as_str()).collect::<Vec<_>>(), ["c4.versions"]);
    }

    #[test]
    fn silence_and_dead_lines_say_nothing() {
        let (_, step) = play(300, |who, target, _| (who % 3 == 0).then_some(target == IT.0));
        assert!(matches!(step, Step::Over { came_to: "unanswered", .. }), "{step:?}");
        let (_, step) = play(300, |_, _, _| Some(true));
        assert!(matches!(step, Step::Over { came_to: "unanswered", .. }), "{step:?}");
    }

    #[test]
    fn the_quick_ones_decide_nothing_and_a_site_rests_after_a_look() {
        let (plan, crowd) = (plan(), crowd(300));
        let well = plan.targets().map(|(target, _)| target).collect();
        let scene = Scene {
            now: NOW,
            plan: &plan,
            crowd: &crowd,
            well: &well,
            layer: Layer::Site,
            secret: &[7; 32],
        };
        let mut looks = SecondLooks::default();
        let asks = looks.round(P, IT, crowd.len(), false, &scene);
        for Ask { observer, nonce, targets, .. } in asks.iter().filter(|ask| ask.observer % 3 != 0)
        {
            for target in targets {
                let who = (*observer, &standing(*observer));
                looks.answer(who, *nonce, *target, *target == IT);
            }
        }
        assert_eq!(looks.step(P, &plan, NOW.plus_ms(3_000), IT, |_| true), (1, Step::Wait));
        assert!(!looks.may_begin(P, NOW, IT, true) && looks.asked(P, NOW, IT) == Asked::UnderWay);
        assert!(matches!(looks.step(P, &plan, DUE, IT, |_| true), (1, Step::Confirmed(_))));
        let mut asked = 0;
        for minute in 0..2 * 1_440 {
            let now = DUE.plus_ms(minute * 60_000);
            if looks.may_begin(P, now, IT, false) {
                let asks = looks.round(P, IT, crowd.len(), false, &Scene { now, ..scene });
                asked += asks.iter().map(|ask| ask.targets.len()).sum::<usize>();
                looks.step(P, &plan, now.plus_ms(P.panel_due_ms), IT, |_| true);
            }
        }
        let each = asked as f64 / crowd.len() as f64;
        assert_eq!(
            looks.asked(P, DUE.plus_ms(2 * 86_400_000 + 9 * P.look_good_ms), IT),
            Asked::Nobody
        );
        assert!((10.0..50.0).contains(&each), "{each} probes an agent in two days of false alarms");
    }
}
