//! Asking back: a suspicion is tested by asking observers, drawn at random, to look now.
//!
//! Spontaneous reports only raise a suspicion; what is volunteered can be chosen by liars. A panel
//! cannot: its members are drawn under a secret, and silence is not a vote. A small *screening*
//! panel looks first; a share of 15 % calls the *full* one, which alone confirms, by the same
//! conditions as the crowd (C1 to C5) over its own answers. While an incident is open a *tracking*
//! panel a minute measures how it goes on.
//!
//! This file asks and takes answers; `found` counts them, `blame` asks whether they are the
//! suspect's. When to begin is [`super::alert`]'s, and what an incident makes of it is the detector's.

mod blame;
mod found;
mod member;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use tocsin_proto::{
    id::{Country, TargetIndex},
    implicate::Layer,
    observation::Family,
    time::Timestamp,
};

pub use self::found::Finding;
use self::member::{Answer, Member};
use super::{
    fixed::{Ppm, scale, share},
    lot::{Luck, draw},
    observer::Standing,
    params::{Params, Settings},
    plan::{Behind, EntityIndex, Plan},
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
    /// What is suspected.
    pub layer: Layer,
    /// Whether it is about an incident that is confirmed.
    pub standing: bool,
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
                let (sites, _) = self.counts(p);
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
        // Fewer sites than would have to be hit are no outage of the suspect, down as they are.
        let all = &suspect.targets;
        let own_dead = all.iter().filter(|target| scene.dead.contains(target)).count();
        let is_alive = |target: &TargetIndex| !scene.dead.contains(target);
        let alive = match p.are_few(own_dead, all.len()) {
            true => all.iter().copied().filter(is_alive).collect(),
            false => narrowed(all, &is_alive),
        };
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
        let layer = suspect.layer;
        let standing = self.kind == Kind::Tracking;
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
            asks.push(Ask { observer: *observer, nonce, targets, layer, standing });
        }
        asks
    }

    fn wanted(&self, p: &Params, online: usize) -> usize {
        match self.kind {
            Kind::Screening => p.panel_screen,
            Kind::Full => p.panel_full,
            Kind::Tracking => {
                let part = scale(online as i64, p.panel_track_share) as usize;
                part.max(p.panel_track_min).min(p.panel_track)
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
                let usual = self.usual(p);
                let vote = |member: &Member| member.vote(p, usual, due);
                let voted = self.members.values().filter(|m| vote(m).is_some()).count();
                let seeing: BTreeSet<u8> = self
                    .members
                    .values()
                    .filter(|member| vote(member) == Some(true))
                    .map(|member| member.zone)
                    .collect();
                let enough = voted >= p.panel_screen_votes && seeing.len() >= p.zones_min;
                // Of all who were asked: who is silent has not seen it.
                let yes = self.members.values().filter(|m| vote(m) == Some(true)).count();
                let part = share(yes as i64, self.members.len().max(1) as i64);
                let needed = p.panel_screen_share.max(self.bar);
                // Of those who use one family, it may be many more.
                let of_family = |family| {
                    let votes = self.members.values().filter_map(|m| m.vote_over(p, usual, family));
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
                    let narrow = found.share < p.panel_second_below && self.draw == 0;
                    return match narrow {
                        // Answers that are to come may spare another draw.
                        true if !due => Step::Wait,
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
mod tests;
