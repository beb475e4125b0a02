//! The observers' side: whom nothing answers any more, and what they have in common.
//!
//! A provider's outage shows in sites that fail while others do not; an outage of a network, a
//! country, a resolver or a release of the probe core shows in observers that are cut off while
//! others are not. Each observer tells of its own line ([`super::line`]), live or in a backlog that
//! arrives when it can. A group is named when enough of it was cut off at the same time, when the
//! others were not, and when no larger group explains it. Loss of most of a group at once, with no
//! word yet, is a suspicion: *dark*.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use tocsin_proto::{
    catalogue::{ZoneIndex, Zones},
    id::Country,
    incident::{Confidence, LiarBound, Phase, Reason},
    report::ResolverClass,
    time::Timestamp,
};

use super::{
    detector::{Changed, Symptoms, stamp},
    fixed::{ONE, Ppm, divergence_q16, log2_q16, percent, scale, share, votes},
    incident::{Grounds, GroupReading, Incident, Reach},
    line::Spell,
    observer::Standing,
    params::{Params, ROUND_MS},
    seen::SeenBy,
};

/// What observers can have in common, from the widest to the narrowest: the first that explains a
/// cut is named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Group {
    /// The probe core's version: our own fault, which is never published as a verdict.
    Version(u16),
    /// A public resolver, by the number of its class.
    Resolver(u8),
    /// A zone.
    Zone(u8),
    /// A country.
    Country(Country),
    /// A network.
    Network(u32),
    /// The resolver of a network, of those who use it.
    OwnResolver(u32),
}

impl Group {
    fn of(standing: &Standing) -> impl Iterator<Item = Self> {
        let own = standing.resolver_class() == ResolverClass::Local;
        let public = !matches!(
            standing.resolver_class(),
            ResolverClass::Local | ResolverClass::OtherPublic | ResolverClass::Unknown
        );
        let network = (standing.asn != 0).then_some(standing.asn);
        [
            (standing.version != 0).then_some(Self::Version(standing.version)),
            public.then_some(Self::Resolver(standing.resolver)),
            standing.zone.map(|zone| Self::Zone(zone.0)),
            (standing.country != Country::UNKNOWN).then_some(Self::Country(standing.country)),
            network.map(Self::Network),
            network.filter(|_| own).map(Self::OwnResolver),
        ]
        .into_iter()
        .flatten()
    }

    /// Whether who stands there is of it.
    #[must_use]
    pub fn has(self, standing: &Standing) -> bool {
        Self::of(standing).any(|own| own == self)
    }

    /// Groups of one kind are rivals for the same evidence.
    const fn kind(self) -> u8 {
        match self {
            Self::Version(_) => 0,
            Self::Resolver(_) => 1,
            Self::Zone(_) => 2,
            Self::Country(_) => 3,
            Self::Network(_) => 4,
            Self::OwnResolver(_) => 5,
        }
    }

    /// Whether only those count who cannot resolve names.
    const fn is_of_names(self) -> bool {
        matches!(self, Self::Resolver(_) | Self::OwnResolver(_))
    }

    const fn share_needed(self, p: &Params) -> Ppm {
        match self {
            Self::Network(_) | Self::OwnResolver(_) => p.network_share,
            _ => p.group_share,
        }
    }

    /// Parts of it that must each be cut off: a country is not its largest network.
    fn part(self, standing: &Standing) -> u32 {
        match self {
            Self::Zone(_) => {
                standing.country.as_str().bytes().fold(0, |n, b| n << 8 | u32::from(b))
            }
            _ => standing.asn,
        }
    }

    const fn parts_needed(self) -> usize {
        match self {
            Self::Network(_) | Self::OwnResolver(_) => 1,
            _ => 3,
        }
    }

    /// Stable name, as in an incident's identifier.
    #[must_use]
    pub fn name(self) -> String {
        match self {
            Self::Version(version) => format!("version-{version}"),
            Self::Resolver(class) => format!("resolver-{}", resolver(class)),
            Self::Zone(zone) => {
                let zone = Zones::builtin().id(ZoneIndex(zone));
                format!("zone-{}", zone.map_or("unknown", |zone| zone.as_str()))
            }
            Self::Country(country) => {
                format!("country-{}", country.as_str().to_ascii_lowercase())
            }
            Self::Network(asn) => format!("network-as{asn}"),
            Self::OwnResolver(asn) => format!("resolver-as{asn}"),
        }
    }
}

/// The name of a resolver class, by its number.
#[must_use]
pub fn resolver(class: u8) -> &'static str {
    ResolverClass::ALL.get(usize::from(class)).copied().unwrap_or_default().name()
}

/// How much weight each group has: of everybody who was heard in the last hour.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Census {
    all: i64,
    groups: BTreeMap<Group, i64>,
}

impl Census {
    /// Counts one more, by its weight within its network.
    pub fn add(&mut self, standing: &Standing, within: i64) {
        self.all += within;
        for group in Group::of(standing) {
            *self.groups.entry(group).or_default() += within;
        }
    }

    /// The weight of a group.
    #[must_use]
    pub fn of(&self, group: Group) -> i64 {
        self.groups.get(&group).copied().unwrap_or(0)
    }

    /// Groups of the kind that are large enough to be named: as many tests are made.
    fn rivals(&self, p: &Params, group: Group) -> usize {
        let large = |(other, weight): &(&Group, &i64)| {
            other.kind() == group.kind() && is_votes(**weight, i64::from(p.group_prefixes))
        };
        self.groups.iter().filter(large).count()
    }
}

/// Whether a weight is that of so many prefixes; what three share may be short of one by a hair.
const fn is_votes(weight: i64, prefixes: i64) -> bool {
    weight >= prefixes * ONE - ONE / 10
}

/// One that is or was cut off.
#[derive(Debug, Clone, Copy)]
pub struct Cut {
    /// Number of the observer.
    pub observer: u32,
    /// Where it stands.
    pub standing: Standing,
    /// Its weight within its network.
    pub within: i64,
    /// When.
    pub spell: Spell,
    /// Whether it is now.
    pub now: bool,
}

/// Weights over time: how much was cut off when.
struct Timeline {
    starts: Vec<(Timestamp, i64)>,
    ends: Vec<(Timestamp, i64)>,
}

impl Timeline {
    fn new<'a>(cuts: impl Iterator<Item = &'a Cut> + Clone) -> Self {
        let sums = |mut at: Vec<(Timestamp, i64)>| {
            at.sort_unstable();
            let mut sum = 0;
            for (_, weight) in &mut at {
                sum += *weight;
                *weight = sum;
            }
            at
        };
        Self {
            starts: sums(cuts.clone().map(|cut| (cut.spell.from, cut.within)).collect()),
            ends: sums(cuts.map(|cut| (cut.spell.to, cut.within)).collect()),
        }
    }

    fn at(&self, time: Timestamp) -> i64 {
        let sum = |of: &[(Timestamp, i64)], end: usize| {
            end.checked_sub(1).and_then(|last| of.get(last)).map_or(0, |(_, sum)| *sum)
        };
        let began = self.starts.partition_point(|(at, _)| *at <= time);
        let ended = self.ends.partition_point(|(at, _)| *at < time);
        sum(&self.starts, began) - sum(&self.ends, ended)
    }

    /// When the most were cut off, for the first time.
    fn peak(&self) -> Option<Timestamp> {
        let times = self.starts.iter().map(|(at, _)| *at);
        times.max_by_key(|at| (self.at(*at), std::cmp::Reverse(*at)))
    }
}

/// What was found of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Found {
    /// Share that was cut off at the same time.
    share: Ppm,
    /// Share that is now.
    live: Ppm,
    /// Since when.
    from: Timestamp,
    grounds: Grounds,
}

/// What a round looks at.
#[derive(Clone, Copy)]
pub struct Scene<'a> {
    /// The time.
    pub now: Timestamp,
    /// Everybody who is or was cut off.
    pub cuts: &'a [Cut],
    /// Those who fell silent lately and still are: when, who, where and with which weight.
    pub lost: &'a [(Timestamp, u32, Standing, i64)],
    /// Who of a group was heard in the last hour and has a vote.
    pub members: &'a dyn Fn(Group) -> Vec<(u32, Standing)>,
    /// Whether an observer was heard after a time.
    pub heard_since: &'a dyn Fn(u32, Timestamp) -> bool,
    /// How much weight each group has.
    pub census: &'a Census,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
struct Row {
    run: u8,
    open: Option<Incident>,
    last: Option<Incident>,
    symptoms: Symptoms,
    /// What began before this has been told.
    told_until: Timestamp,
    /// Who fell silent together, and when.
    dark: Vec<u32>,
    dark_at: Timestamp,
    back_since: Option<Timestamp>,
}

impl Row {
    /// Whether most of those who fell silent still are.
    fn is_dark(&self, scene: &Scene<'_>) -> bool {
        let back = self.dark.iter().filter(|id| (scene.heard_since)(**id, self.dark_at)).count();
        2 * back < self.dark.len()
    }
}

/// An incident that has ended, of a group.
pub type Ended = (Group, Incident, Symptoms);

/// What is known of the groups that are or were cut off.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Groups(BTreeMap<Group, Row>);

impl Groups {
    /// Open incidents, with what was met.
    pub fn open(&self) -> impl Iterator<Item = (Group, &Incident, &Symptoms)> {
        self.0.iter().filter_map(|(group, row)| Some((*group, row.open.as_ref()?, &row.symptoms)))
    }

    /// Whether somebody who stands there is known to be in an outage: that is not its habit.
    #[must_use]
    pub fn excuse(&self, standing: &Standing) -> bool {
        !self.0.is_empty()
            && Group::of(standing).any(|group| self.0.get(&group).is_some_and(|r| r.open.is_some()))
    }

    /// Notes what somebody met who is cut off.
    pub fn met(
        &mut self,
        standing: &Standing,
        met: (tocsin_proto::outcome::Outcome, tocsin_proto::rules::RuleNumber),
    ) {
        if self.0.is_empty() {
            return;
        }
        for group in Group::of(standing) {
            if let Some(row) = self.0.get_mut(&group).filter(|row| row.open.is_some()) {
                *row.symptoms.entry(met).or_default() += 1;
            }
        }
    }

    /// One round. Tells what changed and what ended; an incident that has come back is named in
    /// `reopened`, and is no longer among the ended.
    pub fn judge(
        &mut self,
        p: &Params,
        scene: &Scene<'_>,
        changed: &mut Vec<Changed>,
        reopened: &mut Vec<String>,
    ) -> Vec<Ended> {
        let mut found = self.attribute(p, scene);
        let mut ended = Vec::new();
        for (group, lost) in self.fallen_silent(p, scene) {
            let row = self.0.entry(group).or_default();
            if row.open.is_none() && !found.contains_key(&group) {
                row.fall_silent(p, scene.now, group, &lost, scene, changed);
            }
            (row.dark, row.dark_at) = (lost, scene.now);
        }
        for group in found.keys() {
            self.0.entry(*group).or_default();
        }
        self.merge(p, scene, &found, changed);
        for (group, row) in &mut self.0 {
            row.step(p, scene, *group, found.remove(group), changed, reopened);
            if let Some(over) = row.open.take_if(|open| !open.phase().is_open()) {
                row.told_until = scene.now;
                if over.phase() == Phase::Resolved {
                    row.last = Some(over.clone());
                }
                ended.push((*group, over, std::mem::take(&mut row.symptoms)));
            }
            row.last.take_if(|last| !last.may_reopen(p, scene.now));
        }
        self.0.retain(|_, row| row.open.is_some() || row.last.is_some() || row.run > 0);
        ended
    }

    /// What was said of a part is the whole's, once the whole is known: of a network that was
    /// heard before the rest of its country.
    fn merge(
        &mut self,
        p: &Params,
        scene: &Scene<'_>,
        found: &BTreeMap<Group, Found>,
        changed: &mut Vec<Changed>,
    ) {
        let wide: Vec<(Group, String, Timestamp)> = self
            .0
            .iter()
            .filter(|(group, _)| found.contains_key(*group))
            .filter_map(|(group, row)| Some((*group, row.open.as_ref()?)))
            .filter(|(_, open)| open.phase() == Phase::Confirmed)
            .map(|(group, open)| (group, open.id.clone(), open.started_at))
            .collect();
        for (group, row) in &mut self.0 {
            let Some(open) = &mut row.open else { continue };
            let within = |wide: Group| {
                let mut own = scene.cuts.iter().filter(|cut| group.has(&cut.standing)).peekable();
                wide.kind() < group.kind()
                    && own.peek().is_some()
                    && own.all(|cut| wide.has(&cut.standing))
            };
            let part = |(wide, _, since): &&(Group, String, Timestamp)| {
                within(*wide) && open.started_at.plus_ms(p.merge_ms) >= *since
            };
            if let Some((_, into, _)) = wide.iter().find(part) {
                if open.phase() == Phase::Suspected {
                    open.retract(scene.now);
                } else {
                    open.merge(scene.now, into.clone());
                }
                let (incident, phase) = (open.id.clone(), open.phase());
                changed.push(Changed { incident, at: scene.now, phase });
            }
        }
    }

    /// Whether it is over and was told of already, by whatever group explained it.
    fn is_told(&self, cut: &Cut) -> bool {
        Group::of(&cut.standing)
            .any(|group| self.0.get(&group).is_some_and(|row| cut.spell.from < row.told_until))
    }

    /// The groups that explain who is cut off: the widest first, and of one kind the best
    /// supported. Who is explained is no evidence for another.
    fn attribute(&self, p: &Params, scene: &Scene<'_>) -> BTreeMap<Group, Found> {
        let mut found = BTreeMap::new();
        let mut left: Vec<&Cut> = scene
            .cuts
            .iter()
            .filter(|cut| {
                let fresh = scene.now.since_ms(cut.spell.heard_at) <= p.spell_fresh_ms;
                let counts = cut.within > 0 && fresh && cut.spell.length_ms() >= p.spell_counts_ms;
                counts && (cut.now || !self.is_told(cut))
            })
            .collect();
        let mut explained = Census::default();
        while left.len() >= p.group_cut {
            let mut members: BTreeMap<Group, Vec<&Cut>> = BTreeMap::new();
            for cut in &left {
                for group in Group::of(&cut.standing) {
                    if cut.spell.names || !group.is_of_names() {
                        members.entry(group).or_default().push(cut);
                    }
                }
            }
            let all = Timeline::new(left.iter().copied());
            let best = members
                .iter()
                .filter(|(group, cuts)| cuts.len() >= p.group_cut && !found.contains_key(*group))
                .filter_map(|(group, cuts)| {
                    let (bits, found) = test(p, scene, *group, cuts, &all, &explained)?;
                    Some((*group, bits, found))
                })
                // The widest kind; of one kind, who fails most and is supported best. A network
                // whose names alone fail is its resolver's.
                .min_by_key(|(group, bits, _)| {
                    (group.order(p, &members), std::cmp::Reverse(*bits), *group)
                });
            let Some((group, _, mut what)) = best else { break };
            what.grounds.ruled_out = ruled_out(p, scene, group, &members, &explained);
            left.retain(|cut| {
                let stays = !group.has(&cut.standing);
                if !stays {
                    explained.add(&cut.standing, cut.within);
                }
                stays
            });
            found.insert(group, what);
        }
        found
    }

    /// Groups of which most fell silent together while the others did not.
    fn fallen_silent(&self, p: &Params, scene: &Scene<'_>) -> Vec<(Group, Vec<u32>)> {
        let mut by_group: BTreeMap<Group, (i64, Vec<u32>, BTreeSet<u32>)> = BTreeMap::new();
        let mut all = 0;
        for (at, id, standing, within) in scene.lost {
            if scene.now.since_ms(*at) > p.dark_within_ms {
                continue;
            }
            all += within;
            for group in Group::of(standing) {
                if matches!(group, Group::Zone(_) | Group::Country(_) | Group::Network(_)) {
                    let (weight, ids, parts) = by_group.entry(group).or_default();
                    *weight += within;
                    ids.push(*id);
                    parts.insert(group.part(standing));
                }
            }
        }
        let mut silent: Vec<(Group, Vec<u32>)> = Vec::new();
        for (group, (weight, ids, parts)) in by_group {
            let of = scene.census.of(group).max(weight);
            let rest = share(all - weight, (scene.census.all - of).max(1));
            let part = share(weight, of);
            let explained =
                silent.iter().any(|(_, others)| ids.iter().all(|id| others.contains(id)));
            if ids.len() >= p.group_cut
                && parts.len() >= group.parts_needed()
                && is_votes(of, p.group_prefixes.into())
                && part >= p.dark_share
                && part >= p.group_contrast * rest
                && !explained
            {
                silent.push((group, ids));
            }
        }
        silent
    }
}

/// Groups that are named as ruled out at most.
const RULED_OUT_MAX: usize = 4;

/// What else those have in common who were cut off, and why it is not that: those with whom it shares most.
fn ruled_out(
    p: &Params,
    scene: &Scene<'_>,
    group: Group,
    members: &BTreeMap<Group, Vec<&Cut>>,
    explained: &Census,
) -> Vec<Reason> {
    let mut others: Vec<(usize, Group, Reason)> = members
        .iter()
        .filter(|(other, _)| **other != group)
        .filter_map(|(other, cuts)| {
            let shared = cuts.iter().filter(|cut| group.has(&cut.standing)).count();
            let cut: i64 = cuts.iter().map(|cut| cut.within).sum();
            let of = (scene.census.of(*other) - explained.of(*other)).max(cut);
            let part = share(cut, of);
            // Of which as many are cut off is no rival that was ruled out: it is within, or goes with it.
            let needed = other.share_needed(p);
            let reason = Reason {
                rule: format!("not.{}", other.name()),
                held: true,
                found: format!("{} of {} prefixes of it were cut off", votes(cut), votes(of)),
                needed: percent(needed),
            };
            (shared > 0 && part < needed).then_some((shared, *other, reason))
        })
        .collect();
    others.sort_by_key(|(shared, other, ..)| (std::cmp::Reverse(*shared), *other));
    others.into_iter().take(RULED_OUT_MAX).map(|(.., reason)| reason).collect()
}

impl Group {
    fn order(self, p: &Params, members: &BTreeMap<Self, Vec<&Cut>>) -> u8 {
        let count = |group| members.get(&group).map_or(0, Vec::len) as i64;
        match self {
            // Where most cannot resolve names only, the resolver goes before its network.
            Self::OwnResolver(asn)
                if share(count(self), count(Self::Network(asn))) >= p.names_share =>
            {
                Self::Network(asn).kind()
            }
            Self::OwnResolver(_) | Self::Network(_) => self.kind() + 1,
            other => other.kind(),
        }
    }
}

/// Whether a group was cut off, with the weight of the evidence in bits.
fn test(
    p: &Params,
    scene: &Scene<'_>,
    group: Group,
    cuts: &[&Cut],
    all: &Timeline,
    explained: &Census,
) -> Option<(i64, Found)> {
    let own = Timeline::new(cuts.iter().copied());
    let at = own.peak()?;
    let cut = own.at(at);
    let of = (scene.census.of(group) - explained.of(group)).max(cut);
    let part = share(cut, of);
    let enough = is_votes(of, p.group_prefixes.into()) && is_votes(cut, p.group_cut as i64);
    let needed = group.share_needed(p);
    if !enough || part < needed {
        return None;
    }
    let others = scene.census.all - explained.all - of;
    // A release that nearly everybody runs has nobody to be compared with.
    if matches!(group, Group::Version(_)) && !is_votes(others, p.group_prefixes.into()) {
        return None;
    }
    let rest = share((all.at(at) - cut).max(0), others.max(1));
    if part < p.group_contrast * rest {
        return None;
    }
    let background = p.line_background.max(scale(rest, p.usual_times));
    let tests = i64::try_from(scene.census.rivals(p, group).max(1)).unwrap_or(i64::MAX);
    let bits = scale(of, divergence_q16(part, background)) - log2_q16(tests.saturating_mul(ONE));
    if bits < p.group_bits_q16 {
        return None;
    }
    // What is left when the largest of its parts is taken away.
    let mut parts: BTreeMap<u32, i64> = BTreeMap::new();
    let then = |cut: &&&Cut| cut.spell.from <= at && at <= cut.spell.to;
    for cut in cuts.iter().filter(then) {
        *parts.entry(group.part(&cut.standing)).or_default() += cut.within;
    }
    let largest = parts.iter().max_by_key(|(_, weight)| **weight);
    let (without, wide) = match (group, largest) {
        (Group::Network(_) | Group::OwnResolver(_), _) | (_, None) => (part, true),
        (_, Some((number, most))) => {
            let whole = match group {
                Group::Zone(_) => cuts
                    .iter()
                    .find(|cut| group.part(&cut.standing) == *number)
                    .map_or(0, |cut| scene.census.of(Group::Country(cut.standing.country))),
                _ => scene.census.of(Group::Network(*number)),
            };
            let without = share(cut - most, (of - whole.min(of)).max(1));
            (without, parts.len() >= group.parts_needed() && 2 * without >= part)
        }
    };
    if !wide {
        return None;
    }
    let live = share(cuts.iter().filter(|cut| cut.now).map(|cut| cut.within).sum(), of);
    // Since when at least so many say so that one or two could not have made it up.
    let mut froms: Vec<Timestamp> = cuts.iter().filter(then).map(|cut| cut.spell.from).collect();
    froms.sort_unstable();
    let from = froms.get(p.group_cut - 1).or(froms.last()).copied().unwrap_or(at);
    let reason = |rule: &str, found: String, needed: String| Reason {
        rule: rule.to_owned(),
        held: true,
        found,
        needed,
    };
    let nats = |bits: i64| {
        let tenths = bits * 45_426 / 65_536 * 10 / 65_536;
        format!("{}.{}", tenths / 10, tenths % 10)
    };
    let reasons = vec![
        reason(
            "group.share",
            format!(
                "{} of {} prefixes were cut off together ({})",
                votes(cut),
                votes(of),
                percent(part)
            ),
            format!("{} of at least {}, and {}", p.group_cut, p.group_prefixes, percent(needed)),
        ),
        reason(
            "group.contrast",
            format!("{} of everybody else was, then", percent(rest)),
            format!("at most a third of {}", percent(part)),
        ),
        reason(
            "group.evidence",
            format!("{} nats against chance, over {tests} groups of its kind", nats(bits)),
            nats(p.group_bits_q16),
        ),
        reason(
            "group.parts",
            format!("{} of it without its largest part", percent(without)),
            format!("half of {}, over {} parts", percent(part), group.parts_needed()),
        ),
    ];
    let confidence = if part < p.group_share || !is_votes(cut, p.group_prefixes.into()) {
        Confidence::Low
    } else {
        Confidence::Medium
    };
    let up = |n: i64| u32::try_from(n).unwrap_or(u32::MAX);
    let networks: BTreeSet<u32> = cuts.iter().map(|cut| cut.standing.asn).collect();
    let zones: BTreeSet<u8> = cuts.iter().filter_map(|c| c.standing.zone).map(|z| z.0).collect();
    let liar_bound = LiarBound {
        prefixes: up((scale(of, needed) + ONE - 1) / ONE).max(p.group_cut as u32),
        networks: up(networks.len().min(group.parts_needed()) as i64),
        zones: up(zones.len().min(1) as i64),
    };
    let mut seen = SeenBy::default();
    let told: BTreeSet<u32> = cuts.iter().filter(then).map(|cut| cut.observer).collect();
    seen.observers((scene.members)(group).into_iter().map(|(id, at)| (at, told.contains(&id))));
    let grounds = Grounds { reasons, ruled_out: Vec::new(), liar_bound, confidence, seen };
    Some((bits, Found { share: part, live, from, grounds }))
}

impl Row {
    fn fall_silent(
        &mut self,
        p: &Params,
        now: Timestamp,
        group: Group,
        lost: &[u32],
        scene: &Scene<'_>,
        changed: &mut Vec<Changed>,
    ) {
        let of = scene.census.of(group);
        let first = scene.lost.iter().filter(|(_, id, ..)| lost.contains(id)).map(|(at, ..)| *at);
        let started = first.min().unwrap_or(now);
        let reasons = vec![Reason {
            rule: "group.dark".to_owned(),
            held: true,
            found: format!("{} of {} prefixes fell silent together", lost.len(), votes(of)),
            needed: format!("{} within five minutes, while the others stay", percent(p.dark_share)),
        }];
        let liar_bound = LiarBound::default();
        let grounds = Grounds {
            reasons,
            ruled_out: Vec::new(),
            liar_bound,
            confidence: Confidence::Low,
            seen: SeenBy::default(),
        };
        let id = format!("{}-{}", stamp(now), group.name());
        changed.push(Changed { incident: id.clone(), at: now, phase: Phase::Suspected });
        let reach = Reach::Observers;
        self.open = Some(Incident::open(id, now, started, Phase::Suspected, reach, grounds));
        self.back_since = None;
    }

    fn step(
        &mut self,
        p: &Params,
        scene: &Scene<'_>,
        group: Group,
        found: Option<Found>,
        changed: &mut Vec<Changed>,
        reopened: &mut Vec<String>,
    ) {
        let now = scene.now;
        self.run = if found.is_some() { self.run.saturating_add(1) } else { 0 };
        // What is over can wait for the rest of the story.
        let late = found
            .as_ref()
            .is_some_and(|found| found.live < scale(group.share_needed(p), p.group_late_part));
        let hold = if late { (p.late_wait_ms / ROUND_MS) as u8 } else { p.hold };
        let dark = !self.dark.is_empty() && self.is_dark(scene);
        // A release of ours that fails is ours to mend, and no verdict on anybody.
        let ours = matches!(group, Group::Version(_));
        let phase = self.open.as_ref().map(Incident::phase);
        match (phase, found) {
            (None, Some(found)) if self.run >= hold => {
                let open = match self.last.take_if(|last| last.may_reopen(p, now)) {
                    Some(mut last) => {
                        last.reopen(now, found.grounds);
                        reopened.push(last.id.clone());
                        last
                    }
                    None => {
                        let id = format!("{}-{}", stamp(now), group.name());
                        let phase = if ours { Phase::Suspected } else { Phase::Confirmed };
                        let (reach, grounds) = (Reach::Observers, found.grounds);
                        let mut open = Incident::open(id, now, found.from, phase, reach, grounds);
                        open.peak = found.share;
                        open
                    }
                };
                let (incident, phase) = (open.id.clone(), open.phase());
                changed.push(Changed { incident, at: now, phase });
                self.open = Some(open);
                self.close_if_over(p, now, found.live, group, changed);
            }
            (Some(Phase::Suspected), Some(found)) if self.run >= hold && !ours => {
                let Some(open) = &mut self.open else { return };
                open.started_at = open.started_at.min(found.from);
                open.confirm(now, Reach::Observers, found.grounds, found.share);
                changed.push(Changed {
                    incident: open.id.clone(),
                    at: now,
                    phase: Phase::Confirmed,
                });
                self.close_if_over(p, now, found.live, group, changed);
            }
            (Some(Phase::Suspected), found) => {
                // Who was cut off and has something to say of it says it when it is back.
                let back = !dark && found.is_none();
                let since = if back { self.back_since.or(Some(now)) } else { None };
                self.back_since = since;
                let Some(open) = &mut self.open else { return };
                let over = since.is_some_and(|since| now.since_ms(since) >= p.dark_back_ms)
                    || (!ours && now.since_ms(open.since()) >= p.dark_max_ms);
                if over {
                    open.retract(now);
                    changed.push(Changed {
                        incident: open.id.clone(),
                        at: now,
                        phase: Phase::Retracted,
                    });
                    self.dark.clear();
                }
            }
            (Some(phase), found) if phase.is_open() => {
                // Whoever else may explain it: it is not over while so much of it is cut off.
                let own = scene.cuts.iter().filter(|cut| cut.now && group.has(&cut.standing));
                let live = share(own.map(|cut| cut.within).sum(), scene.census.of(group));
                let Some(open) = &mut self.open else { return };
                let reading = GroupReading {
                    share: live,
                    // But who is switched off does not hold it open for ever.
                    known: !dark || now.since_ms(self.dark_at) >= p.resolve_held_ms,
                    holds: found.is_some() && live >= group.share_needed(p),
                };
                if let Some(found) = found {
                    open.started_at = open.started_at.min(found.from);
                    if reading.holds {
                        open.grounds = found.grounds;
                    }
                }
                if let Some(phase) = open.step_group(p, now, &reading) {
                    changed.push(Changed { incident: open.id.clone(), at: now, phase });
                }
            }
            (Some(_) | None, _) => {}
        }
    }

    /// What is told of only when it is over is published as that.
    fn close_if_over(
        &mut self,
        p: &Params,
        now: Timestamp,
        live: Ppm,
        group: Group,
        changed: &mut Vec<Changed>,
    ) {
        let Some(open) = &mut self.open else { return };
        if open.phase() == Phase::Confirmed
            && live < scale(group.share_needed(p), p.group_late_part)
        {
            open.reported_late(now);
            changed.push(Changed { incident: open.id.clone(), at: now, phase: Phase::Resolved });
        }
    }
}

#[cfg(test)]
mod tests;
