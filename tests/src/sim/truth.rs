//! What a probe meets: the scenario and the habits of the observer's own line, put into findings as
//! the real prober would make them.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    sync::OnceLock,
};

use serde::Deserialize;
use tocsin_agent::engine::{
    classify::{Response, classify},
    core::Finding,
    courtesy::wire_bytes,
    planner::{Names, Request},
};
use tocsin_proto::{
    catalogue::{Evidence, Role, Target},
    id::{Id, TargetIndex},
    implicate::{DnsPath, Layer},
    observation::Family,
    outcome::{Outcome, Phase as Step},
    rules::{Fault, RuleNumber, RuleTable},
};

use super::{
    dice::Dice,
    scenario::{
        Mode, Page, Phase, Scenario, Targets, Who, bare, conditions, fresh_keys, is_under,
        networks, owner, slug,
    },
    world::{FRESH, Lie, Person, Trouble, World, resolver},
};

/// How long a resolver keeps an answer, milliseconds: a usual time to live.
const TTL_MS: u64 = 300_000;
/// How long a subset of targets stands before it changes, milliseconds.
const FLAP_MS: u64 = 300_000;
/// Observers whose own resolver validates, of a million.
const VALIDATING: i64 = 100_000;
/// Roles that the catalogue calls likely (`memory-medium`) and that are so, of a million: it lets them
/// decide nothing, so here they are as often wrong as right.
const LIKELY: i64 = 500_000;
/// Of the reports that an observer sends, and of the asks that are sent to it, those that are lost when
/// everything else that it does fails as well, in millionths; in proportion where not everything fails.
/// One in five, because who is cut off for good is `agents_silent`: this is what a bad line does besides.
/// A lost report waits for the next.
const LOST: i64 = 200_000;
/// Of all targets, in millionths, those that make a failure one of the line: of fewer it is theirs.
const MOST: i64 = 750_000;
/// Full handshakes cost so many bytes of payload, resumed ones less (measured with OpenSSL 3.0).
const FULL_BYTES: u64 = 6_500;
const RESUMED_BYTES: u64 = 3_300;
/// Bytes of asking a name's own servers, for a name with an alias or none; and of a walk from the roots
/// beside a pair of validating resolvers over TLS.
const DIRECT_BYTES: u64 = 400;
const WALK_BYTES: u64 = 9_000;
/// Version of the probe core that a scenario's `version:` mark stands for.
const NEW_VERSION: u16 = 900;

/// A phase with its selections worked out.
struct Prepared {
    /// Which of the scenario's, from 1.
    number: u64,
    phase: Phase,
    /// Whose page its server errors are, where the scenario says it.
    page: Option<Page>,
    people: Vec<bool>,
    /// Where only what validates fails: whose own resolver does. Every independent path does.
    validating: Option<Vec<bool>>,
    /// Whether it is a resolver that fails, and every other path is well.
    of_resolver: bool,
    /// For each observer the part of those selected that come before it in the order of failing,
    /// millionths: one by one, place by place, or by network where the mode is by path.
    before: Vec<i64>,
    /// Selected targets, each with its rank in the order of failing.
    targets: BTreeMap<TargetIndex, usize>,
    /// Phases of which it is the sequel, without a break: since when each held, and its fraction; the
    /// latest first.
    earlier: Vec<(u64, i64)>,
    dice: Dice,
}

impl Prepared {
    /// Since when a target of this rank fails, milliseconds after the onset.
    fn began(&self, rank: usize) -> u64 {
        let failed = |fraction: i64| {
            self.phase.mode != Mode::PerTarget
                || Truth::is_among(rank, fraction, self.targets.len())
        };
        let since = self.earlier.iter().take_while(|(_, fraction)| failed(*fraction)).last();
        since.map_or(self.phase.from_ms, |(from, _)| *from)
    }
}

/// When a probe starts.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// Milliseconds after the onset; `None` before it.
    pub ms: Option<u64>,
    /// Minute of the day.
    pub minute: u32,
}

/// The scenario, as it meets this world.
pub struct Truth {
    phases: Vec<Prepared>,
    answers: &'static Answers,
    /// Targets with the providers that do stand behind them: all that the catalogue is sure of, and of
    /// the likely ones those that are so. What fails, and what its page says, goes by these.
    sites: BTreeMap<TargetIndex, Target>,
}

/// What an answer of a broken edge is, by the real rules.
struct Answers {
    by_edge: BTreeMap<Id, (Outcome, RuleNumber, u16)>,
    /// What the edge says when what stands behind it failed.
    origin: BTreeMap<Id, (Outcome, RuleNumber, u16)>,
}

#[derive(Deserialize)]
struct Shapes {
    response: Vec<Shape>,
}

#[derive(Deserialize)]
struct Shape {
    edge: Option<String>,
    status: u16,
    headers: Vec<(String, String)>,
    #[serde(default)]
    body: String,
    expect: String,
}

fn verdict(
    edge: Option<&str>,
    status: u16,
    headers: &[(&str, &str)],
    body: &[u8],
) -> (Outcome, RuleNumber, u16) {
    let response = Response { status, headers, body, host: "www.example.com" };
    let verdict = classify(RuleTable::builtin(), edge, &response);
    let rule = verdict.rule.map_or(RuleNumber::NONE, |rule| rule.number);
    (verdict.outcome.outcome(), rule, status)
}

impl Answers {
    fn builtin() -> &'static Self {
        static BUILTIN: OnceLock<Answers> = OnceLock::new();
        BUILTIN.get_or_init(Self::new)
    }

    fn new() -> Self {
        // The shapes that the classifier is tested with; one of the edge's own errors for each.
        let text = include_str!("../../../agent/tests/responses.toml");
        let shapes: Shapes = toml::from_str(text).expect("the agent's tests read the same file");
        let (mut by_edge, mut origin) = (BTreeMap::new(), BTreeMap::new());
        for shape in &shapes.response {
            let Some(Ok(edge)) = shape.edge.as_deref().map(str::parse::<Id>) else { continue };
            let kind = match shape.expect.as_str() {
                "edge" => &mut by_edge,
                "origin" => &mut origin,
                _ => continue,
            };
            if kind.contains_key(&edge) {
                continue;
            }
            let headers: Vec<(&str, &str)> =
                shape.headers.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
            let said =
                verdict(shape.edge.as_deref(), shape.status, &headers, shape.body.as_bytes());
            kind.insert(edge, said);
        }
        Self { by_edge, origin }
    }

    /// A 5xx of a target, by who made it: as the scenario says, or else the edge where it is the
    /// culprit.
    fn server_error(
        &self,
        target: &Target,
        culprit: Option<&str>,
        page: Option<Page>,
    ) -> (Outcome, RuleNumber, u16) {
        // A challenge provider that fails is named by the page that needed it.
        let aux = target.provider(Layer::Aux).map(Id::as_str);
        if culprit.is_some() && aux == culprit && page != Some(Page::Origin) {
            let aux = RuleTable::builtin().rules().iter().find(|rule| rule.fault == Fault::Aux);
            let number = aux.map_or(RuleNumber::NONE, |rule| rule.number);
            return (Outcome::Http5xx, number, 503);
        }
        let edge = target.provider(Layer::Edge);
        let is_edge = match page {
            Some(page) => page == Page::Edge,
            None => edge.is_some_and(|id| culprit == Some(id.as_str())),
        };
        match edge.filter(|_| is_edge) {
            Some(edge) => {
                self.by_edge.get(edge).copied().unwrap_or((Outcome::Http5xx, RuleNumber::NONE, 503))
            }
            // The origin failed; through an edge that says so, or with nobody in front.
            None if let Some(said) = edge.and_then(|edge| self.origin.get(edge)) => *said,
            None => verdict(
                edge.map(Id::as_str),
                500,
                &[("server", "nginx")],
                b"<html><head><title>500 Internal Server Error</title></head></html>",
            ),
        }
    }
}

/// A failure, and who made it.
#[derive(Clone, Copy)]
struct Made<'a> {
    symptom: Outcome,
    /// The provider that failed.
    culprit: Option<&'a str>,
    /// Whose page a server error is, where the scenario says it.
    page: Option<Page>,
}

impl Made<'_> {
    /// One of which nobody is the culprit.
    const fn of(symptom: Outcome) -> Self {
        Self { symptom, culprit: None, page: None }
    }
}

fn selects(targets: &Targets, target: &Target) -> bool {
    let has = |name: &str| {
        let id = slug(name);
        target.roles.iter().any(|role| role.provider.as_str() == id)
    };
    match targets {
        Targets::All => true,
        Targets::Provider(name) | Targets::Hosted(name) => has(name),
        Targets::Role(name, layer) => {
            target.roles.iter().any(|role| role.role == *layer && role.provider.as_str() == name)
        }
        Targets::Origin(edge, host) => has(edge) && has(host),
        Targets::Site(host) | Targets::Name(host) => bare(&target.host) == bare(host),
        Targets::Host(name) => has(&owner(name)),
        Targets::Tld(tld) => is_under(&target.host, tld),
        Targets::Issuer(name) => {
            target.provider(Layer::Issuer).is_some_and(|id| id.as_str() == slug(name))
        }
    }
}

/// The targets with the providers that do stand behind them.
fn as_they_are(world: &World) -> BTreeMap<TargetIndex, Target> {
    let dice = world.dice.named("likely");
    let as_it_is = |target: &Target| {
        let own = dice.of(u64::from(target.index.0));
        let mut target = target.clone();
        target.roles.retain(|role| {
            let sure = role.evidence > Evidence::MemoryMedium;
            sure || own.named(role.provider.as_str()).happens(LIKELY)
        });
        target.roles.iter_mut().for_each(|role| role.evidence = Evidence::Operator);
        (target.index, target)
    };
    world.catalogue.targets().values().map(as_it_is).collect()
}

/// Whether another's edge stands between the visitor and what fails, and answers in its place.
fn is_behind(targets: &Targets, target: &Target) -> bool {
    let Some(edge) = target.provider(Layer::Edge) else { return false };
    match targets {
        Targets::Hosted(_) | Targets::Origin(..) => true,
        Targets::Provider(name) => {
            let id = slug(name);
            let fronts = |role: &Role| {
                matches!(role.role, Layer::Edge | Layer::Aux) && role.provider.as_str() == id
            };
            edge.as_str() != id && !target.roles.iter().any(fronts)
        }
        _ => false,
    }
}

fn validates(world: &World, at: usize) -> bool {
    world.dice.named("validating").of(at as u64).happens(VALIDATING)
}

/// Whom a phase selects.
fn selected(phase: &Phase, world: &World) -> Vec<bool> {
    let dice = world.dice.named("who");
    let here: Vec<(usize, &Person)> =
        world.people.iter().enumerate().filter(|(_, p)| phase.region.has(p.country)).collect();
    let of_names = phase.symptom.phase() == Some(Step::Dns);
    let keys = conditions(&phase.who)
        .find(|(who, _)| matches!(who, Who::Marked(mark) if mark == FRESH))
        .map(|(_, share)| fresh(&here, share.unwrap_or(1_000_000)));
    // Keys are made in their networks; others are found there.
    let confined = networks(&phase.who).filter(|_| keys.is_none());
    let (mut part, mut drawn) = (1_000_000, false);
    for (who, own) in conditions(&phase.who) {
        let share = match who {
            Who::Share(share) => Some(*share),
            Who::Marked(_) if confined.is_some() => own,
            _ => None,
        };
        part = share.map_or(part, |share| part * share / 1_000_000);
        drawn |= own.is_some() || !matches!(who, Who::All | Who::Marked(_) | Who::Resolver(_));
    }
    let bears = |person: &Person, mark: &str| person.marks.iter().any(|own| own == mark);
    let among = |at: usize, mark: &str, share: Option<i64>| {
        share.is_none_or(|share| world.dice.named(mark).of(at as u64).happens(share))
    };
    let is = |at: usize, person: &Person| {
        conditions(&phase.who).all(|(who, share)| match who {
            Who::All | Who::One | Who::Share(_) | Who::Networks(_) => true,
            Who::Marked(mark) if mark == FRESH => {
                keys.as_ref().is_some_and(|keys| keys.contains(&at))
            }
            Who::Marked(mark) => {
                bears(person, mark) && (confined.is_some() || among(at, mark, share))
            }
            // Each meets it by the independent path, where it is one of names; see
            // `Prepared::validating`.
            Who::Resolver(name) if name == "validating" => of_names || validates(world, at),
            Who::Resolver(name) => match resolver(name) {
                Some((known, _)) => person.resolver_name == known,
                None => {
                    let mark = format!("resolver:{name}");
                    bears(person, &mark) && among(at, &mark, share)
                }
            },
        })
    };
    // Of a crowd of keys that nobody knows none is drawn for anything else.
    let counts = |person: &Person| keys.is_some() || !drawn || !person.is_fresh();
    let mut chosen: Vec<usize> = here
        .iter()
        .filter(|(at, person)| counts(person) && is(*at, person))
        .map(|(at, _)| *at)
        .collect();
    if phase.who.contains(&Who::One) {
        chosen.truncate(1);
    }
    if part < 1_000_000 || confined.is_some() {
        let want = (chosen.len() as i64 * part + 500_000) / 1_000_000;
        let want = want.max(i64::from(part > 0)).unsigned_abs() as usize;
        if let Some(count) = confined {
            confine(&mut chosen, world, want, count.max(1) as usize);
        }
        chosen.sort_by_key(|at| dice.of(*at as u64).named("share").throw());
        chosen.truncate(want);
    }
    let mut people = vec![false; world.people.len()];
    for at in chosen {
        if let Some(place) = people.get_mut(at) {
            *place = true;
        }
    }
    people
}

/// The first keys of the crowd, so many that they are this share of all who are here.
fn fresh(here: &[(usize, &Person)], share: i64) -> BTreeSet<usize> {
    let keys = || here.iter().filter(|(_, person)| person.is_fresh()).map(|(at, _)| *at);
    let known = here.len() - keys().count();
    keys().take(fresh_keys(known, share)).collect()
}

/// Leaves those in so many networks: some that hold their part of those who are wanted, by chance, and
/// where there are none the largest.
fn confine(chosen: &mut Vec<usize>, world: &World, want: usize, count: usize) {
    let network = |at: &usize| world.people.get(*at).map_or(0, |person| person.asn);
    let mut people: BTreeMap<u32, usize> = BTreeMap::new();
    for at in chosen.iter() {
        *people.entry(network(at)).or_default() += 1;
    }
    let each = want.div_ceil(count);
    let dice = world.dice.named("networks");
    let mut order: Vec<(u32, usize)> = people.into_iter().collect();
    order.sort_by_key(|(asn, people)| {
        (Reverse((*people).min(each)), dice.of(u64::from(*asn)).throw())
    });
    let these: BTreeSet<u32> = order.into_iter().take(count).map(|(asn, _)| asn).collect();
    chosen.retain(|at| these.contains(&network(at)));
}

/// In an order by chance, how many of the selected observers come before each, millionths. By path it
/// goes network by network up to the middle of its own, so that those hit hold about the fraction that
/// is said, however large the largest are. By serving location it goes country by country, each served
/// from a place of its own; the last of those hit is hit in part, as where there are several places, so
/// that the fraction holds in a single country too.
fn before(world: &World, selected: &[bool], mode: Mode, dice: Dice) -> Vec<i64> {
    let by_network = mode == Mode::PerPath;
    let own = |at: usize| u128::from(dice.named("agent").of(at as u64).throw());
    let group = |at: usize, person: &Person| match mode {
        Mode::PerPath => u128::from(dice.named("path").of(u64::from(person.asn)).throw()),
        Mode::PerRegion => {
            let place = dice.named("place").named(person.country.as_str()).throw();
            u128::from(place) << 64 | own(at)
        }
        _ => own(at),
    };
    let place: Vec<u128> =
        world.people.iter().enumerate().map(|(at, person)| group(at, person)).collect();
    let mut order: Vec<u128> =
        place.iter().zip(selected).filter(|(_, hit)| **hit).map(|(place, _)| *place).collect();
    order.sort_unstable();
    let all = order.len().max(1);
    place
        .iter()
        .map(|own| {
            let first = order.partition_point(|other| other < own);
            let own = order.iter().skip(first).take_while(|other| *other == own).count();
            let middle = if by_network { first + own / 2 } else { first };
            (middle * 1_000_000 / all) as i64
        })
        .collect()
}

/// The phases right before one that are the same but for how much fails, the latest first: since when
/// each holds, and its fraction.
fn earlier(phases: &[Phase], of: &Phase) -> Vec<(u64, i64)> {
    let is_of_names = |phase: &Phase| phase.symptom.phase() == Some(Step::Dns);
    let same = |other: &&Phase| {
        (&other.targets, &other.who, other.region, other.mode, other.family)
            == (&of.targets, &of.who, of.region, of.mode, of.family)
            && is_of_names(other) == is_of_names(of)
            && other.fraction > 0
    };
    let mut earlier = Vec::new();
    let mut from = of.from_ms;
    while let Some(other) = phases
        .iter()
        .filter(same)
        .filter(|other| other.from_ms < from && from <= other.to_ms)
        .min_by_key(|other| other.from_ms)
    {
        earlier.push((other.from_ms, other.fraction));
        from = other.from_ms;
    }
    earlier
}

impl Truth {
    /// What the scenario means here.
    #[must_use]
    pub fn new(scenario: &Scenario, world: &World) -> Self {
        let sites = as_they_are(world);
        let phases = &scenario.phases;
        let everybody: Vec<Vec<bool>> = phases.iter().map(|p| selected(p, world)).collect();
        let prepare = |(at, phase): (usize, &Phase)| {
            // The same selection in a later phase fails in the same order.
            let dice = world.dice.named(&format!("{:?} {:?}", phase.targets, phase.who));
            let mut chosen: Vec<TargetIndex> = sites
                .values()
                .filter(|target| selects(&phase.targets, target))
                .map(|target| target.index)
                .collect();
            chosen.sort_by_key(|target| dice.of(u64::from(target.0)).throw());
            let targets =
                chosen.into_iter().enumerate().map(|(rank, target)| (target, rank)).collect();
            let people = everybody.get(at).cloned().unwrap_or_default();
            // Whom a closer phase names is not among those of whom this one's fraction is said.
            let is_closer = |other: &Phase| {
                !other.overlay
                    && other.targets == phase.targets
                    && other.region.specificity() > phase.region.specificity()
                    && other.from_ms < phase.to_ms
                    && phase.from_ms < other.to_ms
            };
            let mut counted = people.clone();
            let closer = phases.iter().zip(&everybody).filter(|(other, _)| is_closer(other));
            for (_, theirs) in closer.filter(|_| !phase.overlay) {
                for (own, taken) in counted.iter_mut().zip(theirs) {
                    *own &= !*taken;
                }
            }
            let by_validation = |who: &Who| matches!(who, Who::Resolver(r) if r == "validating");
            let validating = phase
                .who
                .iter()
                .any(by_validation)
                .then(|| (0..world.people.len()).map(|at| validates(world, at)).collect());
            Prepared {
                number: at as u64 + 1,
                phase: phase.clone(),
                page: scenario.pages.get(&at).copied(),
                people,
                of_resolver: validating.is_none()
                    && phase.who.iter().any(|who| matches!(who, Who::Resolver(_))),
                validating,
                before: before(world, &counted, phase.mode, dice),
                targets,
                earlier: earlier(phases, phase),
                dice,
            }
        };
        let phases = phases.iter().enumerate().map(prepare).collect();
        Self { phases, answers: Answers::builtin(), sites }
    }

    /// Nothing but the habits of lines.
    #[must_use]
    pub fn quiet() -> Self {
        Self { phases: Vec::new(), answers: Answers::builtin(), sites: BTreeMap::new() }
    }

    /// In how many prefixes those are whom a phase selects, by its place.
    #[must_use]
    pub fn prefixes(&self, world: &World, phase: usize) -> usize {
        let people = self.phases.get(phase).map(|phase| phase.people.as_slice());
        let selected =
            people.unwrap_or_default().iter().zip(&world.people).filter(|(hit, _)| **hit);
        selected.map(|(_, person)| person.slot).collect::<BTreeSet<u64>>().len()
    }

    /// Phases that hold for an observer at a time: of those with the same targets, the most
    /// specific region's alone, and what comes on top.
    fn holding(&self, person: usize, ms: u64) -> impl Iterator<Item = &Prepared> {
        let active = move |p: &&Prepared| {
            p.phase.from_ms <= ms
                && ms < p.phase.to_ms
                && p.people.get(person).copied().unwrap_or(false)
        };
        self.phases.iter().filter(active).filter(move |p| {
            p.phase.overlay
                || !self.phases.iter().filter(active).any(|other| {
                    !other.phase.overlay
                        && other.phase.targets == p.phase.targets
                        && other.phase.region.specificity() > p.phase.region.specificity()
                })
        })
    }

    /// Whether an observer is hit on its way to a destination.
    fn hits_person(prepared: &Prepared, person: usize, of: &Person, to: u64) -> bool {
        let Prepared { phase, dice, before, .. } = prepared;
        match phase.mode {
            // A path leads from the observer's network to whoever answers for the target: of many
            // destinations each has its own bad paths.
            Mode::PerPath if phase.targets == Targets::All => {
                dice.named("path").of(of.asn.into()).of(to).happens(phase.fraction)
            }
            // So many of those selected, as of targets: the fraction is what is known of them. Of
            // one destination, and of serving locations, a network has the one it comes to.
            Mode::PerAgent | Mode::PerPath | Mode::PerRegion => {
                before.get(person).is_some_and(|before| *before < phase.fraction)
            }
            Mode::PerRequest | Mode::PerTarget | Mode::PerTargetFlap => true,
        }
    }

    /// Sites of which every request fails for good.
    #[must_use]
    pub fn dead(&self) -> BTreeSet<TargetIndex> {
        let of_it = self.phases.iter().filter(|p| matches!(p.phase.mode, Mode::PerTarget));
        let dead = of_it.flat_map(|p| {
            let hit = |rank: usize| Self::is_among(rank, p.phase.fraction, p.targets.len());
            p.targets.iter().filter(move |(_, rank)| hit(**rank)).map(|(target, _)| *target)
        });
        dead.collect()
    }

    /// Whether a site of this rank is among the part that fails.
    const fn is_among(rank: usize, fraction: i64, of: usize) -> bool {
        (rank as i64 * 1_000_000) < fraction * of as i64
    }

    /// Whether the observer cannot reach the collector, milliseconds after the onset: of those whom a
    /// phase silences the same part as fails, whatever that falls by.
    #[must_use]
    pub fn is_silent(&self, person: usize, ms: u64) -> bool {
        let hit = |p: &Prepared| p.before.get(person).is_some_and(|b| *b < p.phase.fraction);
        self.holding(person, ms).any(|p| p.phase.silent && hit(p))
    }

    /// Of the reports that an observer sends, and of the asks that are sent to it, the part that is lost
    /// on a line where most of all else fails, in millionths. The collector is asked for by its
    /// address: names that fail lose nothing.
    #[must_use]
    pub fn loss(&self, person: usize, of: &Person, ms: u64) -> i64 {
        let all = self.sites.len().max(1) as i64;
        let affected = self.holding(person, ms).filter_map(|p| {
            let whole = p.phase.targets == Targets::All;
            let hit = match (p.phase.symptom.phase()?, p.phase.mode) {
                (Step::Dns, _) => return None,
                (_, Mode::PerPath) if whole => p.phase.fraction,
                (_, Mode::PerAgent | Mode::PerRegion | Mode::PerPath) => {
                    if Self::hits_person(p, person, of, 0) { 1_000_000 } else { 0 }
                }
                (_, Mode::PerRequest | Mode::PerTarget | Mode::PerTargetFlap) => p.phase.fraction,
            };
            let part = hit * p.targets.len() as i64 / all;
            (whole || part >= MOST).then_some(part)
        });
        LOST * affected.max().unwrap_or(0) / 1_000_000
    }

    /// The probe-core version that it runs.
    #[must_use]
    pub fn version(&self, person: usize, of: &Person, ms: u64) -> u16 {
        let new = |who: &Who| matches!(who, Who::Marked(mark) if mark.starts_with("version:"));
        match self.holding(person, ms).any(|p| p.phase.who.iter().any(new)) {
            true => NEW_VERSION,
            false => of.version,
        }
    }

    fn broken(
        &self,
        person: usize,
        of: &Person,
        target: &Target,
        ms: u64,
        request: &Request,
        coin: Dice,
    ) -> Option<(&Prepared, bool)> {
        // Who answers: the edge, the hosting, or the site itself.
        let edge = target.provider(Layer::Edge).or(target.provider(Layer::Hosting));
        let answers = edge.map_or(target.host.as_str(), Id::as_str);
        let number = |name: &str| {
            name.bytes().fold(7u64, |hash, byte| hash.wrapping_mul(131).wrapping_add(byte.into()))
        };
        let to = number(answers);
        let target = target.index;
        let met = self.holding(person, ms).filter_map(|prepared| {
            let Prepared { phase, targets, dice, .. } = prepared;
            let rank = targets.get(&target)?;
            phase.family.is_none_or(|family| family == request.family).then_some(())?;
            let hit = match phase.mode {
                // What comes on top has a coin of its own.
                Mode::PerRequest => {
                    let number = if phase.overlay { prepared.number } else { 0 };
                    coin.named("request").of(number).happens(phase.fraction)
                }
                Mode::PerTarget => Self::is_among(*rank, phase.fraction, targets.len()),
                Mode::PerTargetFlap => {
                    let own = dice.named("flap").of(u64::from(target.0));
                    let turn = (ms + own.below(FLAP_MS)) / FLAP_MS;
                    own.of(turn).happens(phase.fraction)
                }
                _ => Self::hits_person(prepared, person, of, to),
            };
            // A resolver that has the answer goes on giving it, and one that does not validate does
            // not mind: then only who asks beyond it meets the failure.
            let of_names = phase.symptom.phase() == Some(Step::Dns);
            let group = if of.resolver_name == "isp" { u64::from(of.asn) } else { 7 };
            let ttl = dice.named("ttl").of(group).of(u64::from(target.0)).below(TTL_MS);
            let kept =
                of_names && phase.targets != Targets::All && ms < prepared.began(*rank) + ttl;
            let lenient = prepared
                .validating
                .as_ref()
                .is_some_and(|own| !own.get(person).copied().unwrap_or(false));
            let hidden = kept || (of_names && lenient);
            let seen = match request.names {
                // Where the resolver is what fails, it fails nobody who asks beyond it.
                _ if prepared.of_resolver => !hidden,
                // Who asks the name's own servers has kept where they are, and does not validate.
                Names::Own => !hidden,
                Names::Direct => !hidden || !(lenient || matches!(phase.targets, Targets::Tld(_))),
                Names::Walk => true,
            };
            (hit && seen).then_some((prepared, hidden))
        });
        // The first step that fails ends the probe; what is an answer comes after all of them.
        met.min_by_key(|(prepared, _)| {
            prepared.phase.symptom.phase().map_or(u8::MAX, |step| step as u8)
        })
    }

    /// What a probe that starts at a moment finds.
    #[must_use]
    pub fn probe(
        &self,
        world: &World,
        person: usize,
        target: &Target,
        moment: Moment,
        request: &Request,
        coin: Dice,
    ) -> Finding {
        let found = self.meets(world, person, target, moment, request, coin);
        let names = match request.names {
            Names::Own => 0,
            Names::Direct => DIRECT_BYTES,
            Names::Walk => WALK_BYTES,
        };
        Finding { bytes: found.bytes + names, ..found }
    }

    fn meets(
        &self,
        world: &World,
        person: usize,
        target: &Target,
        Moment { ms, minute }: Moment,
        request: &Request,
        coin: Dice,
    ) -> Finding {
        let Request { full_handshake: full, family, .. } = *request;
        let Some(of) = world.people.get(person) else { return fine(full, 100) };
        if family == Family::V6 && !world.has_v6(target.index) {
            let (outcome, path) = (Outcome::DnsNodata, DnsPath::Both);
            return self.failed(target, Made::of(outcome), path, 30, full);
        }
        let lies = |lie: &&Lie| lie.from_ms.is_none_or(|from| ms.is_some_and(|ms| ms >= from));
        if let Some(lie) = of.lie.as_ref().filter(lies) {
            return self.lie(lie, target, full);
        }
        let usual = 60
            + world
                .dice
                .named("distance")
                .of(person as u64)
                .of(u64::from(target.index.0))
                .below(340);
        let usual = usual + coin.named("jitter").below(usual / 4 + 1);
        let site = self.sites.get(&target.index).unwrap_or(target);
        let broken = ms.and_then(|ms| self.broken(person, of, site, ms, request, coin));
        if let Some((prepared, hidden)) = broken {
            let phase = &prepared.phase;
            let culprit = match &phase.targets {
                Targets::Provider(name) | Targets::Role(name, _) => Some(slug(name)),
                _ => None,
            };
            // Where it is some who are hit, or all that they do, it is a line or a resolver; keys that
            // are made to lie say of a name what they like.
            let of_all = phase.targets == Targets::All;
            let some = !phase.who.iter().all(|who| *who == Who::All) && !of.is_fresh();
            let by_agent = phase.mode == Mode::PerAgent;
            let own_side = of_all && (by_agent || some);
            let path = match phase.symptom.phase() {
                Some(Step::Dns) if hidden => DnsPath::IndependentOnly,
                Some(Step::Dns) if prepared.of_resolver => DnsPath::SystemOnly,
                Some(Step::Dns) if own_side && prepared.validating.is_none() => {
                    DnsPath::Unconfirmed
                }
                Some(Step::Dns) => DnsPath::Both,
                _ => DnsPath::Unconfirmed,
            };
            // What stands behind an edge is met through it: the edge answers, and says so.
            let behind = is_behind(&phase.targets, site)
                && matches!(phase.symptom.phase(), Some(Step::Tcp | Step::Tls | Step::Http));
            let symptom = if behind { Outcome::Http5xx } else { phase.symptom };
            let made = Made { symptom, culprit: culprit.as_deref(), page: prepared.page };
            return self.failed(site, made, path, usual, full);
        }
        let chance = match &of.trouble {
            Trouble::Broken => 350_000,
            Trouble::Blocked(id) if target.roles.iter().any(|r| r.provider == *id) => 1_000_000,
            Trouble::Half(ids) if target.roles.iter().any(|r| ids.contains(&r.provider)) => 500_000,
            _ if (of.burst_minute..of.burst_minute + 3).contains(&minute) => 500_000,
            // Evenings are half as bad again, nights half as good.
            _ => {
                let from_noon =
                    i64::from(minute.abs_diff(1_200).min(1_440 - minute.abs_diff(1_200)));
                of.failures * (1_500 - from_noon * 1_000 / 720) / 1_000
            }
        };
        if !coin.named("own").happens(chance) {
            return fine(full, usual);
        }
        let outcome = match coin.named("kind").below(100) {
            0..50 => Outcome::TcpTimeout,
            50..70 => Outcome::TcpReset,
            70..80 => Outcome::TlsHandshake,
            80..90 => Outcome::HttpTimeout,
            _ => Outcome::DnsTimeout,
        };
        self.failed(target, Made::of(outcome), DnsPath::Unconfirmed, usual, full)
    }

    /// What a liar says of a target.
    fn lie(&self, lie: &Lie, target: &Target, full: bool) -> Finding {
        let behind =
            |ids: &[Id]| target.roles.iter().find(|role| ids.contains(&role.provider)).cloned();
        let blamed = match (behind(&lie.clears), behind(&lie.blames)) {
            (Some(_), _) => return fine(full, 50),
            (None, Some(role)) => role,
            (None, None) if lie.blames.is_empty() => {
                let made = Made::of(Outcome::TcpTimeout);
                return self.failed(target, made, DnsPath::Unconfirmed, 50, full);
            }
            (None, None) => return fine(full, 50),
        };
        let (symptom, path) = match blamed.role {
            Layer::Dns => (Outcome::DnsServfail, DnsPath::Both),
            _ => (Outcome::TcpReset, DnsPath::Unconfirmed),
        };
        let made = Made { culprit: Some(blamed.provider.as_str()), ..Made::of(symptom) };
        self.failed(target, made, path, 50, full)
    }

    fn failed(
        &self,
        target: &Target,
        Made { symptom, culprit, page }: Made<'_>,
        dns: DnsPath,
        usual_ms: u64,
        full: bool,
    ) -> Finding {
        let (outcome, rule, status) = match symptom {
            Outcome::Http5xx => self.answers.server_error(target, culprit, page),
            Outcome::Challenged => (Outcome::Challenged, RuleNumber::NONE, 403),
            other => (other, RuleNumber::NONE, 0),
        };
        let total_ms = match outcome {
            Outcome::DnsTimeout => 2_000,
            Outcome::TcpTimeout | Outcome::TlsTimeout => 3_000 + usual_ms / 4,
            Outcome::HttpTimeout => 4_000 + usual_ms / 2,
            Outcome::Slow => usual_ms * 6,
            _ => usual_ms,
        };
        let bytes = match outcome.phase() {
            Some(Step::Dns) => 300,
            Some(Step::Tcp) => 500,
            _ => wire_bytes(if full { FULL_BYTES } else { RESUMED_BYTES }, false),
        };
        // The core itself finds out what is slow.
        let outcome = if outcome == Outcome::Slow { Outcome::Ok } else { outcome };
        Finding {
            outcome,
            rule,
            dns,
            status,
            phases_ms: [total_ms / 8, total_ms / 4, total_ms / 4, total_ms / 4],
            total_ms,
            bytes,
            retry_after_s: None,
            body_comes: None,
        }
    }
}

fn fine(full: bool, total_ms: u64) -> Finding {
    Finding {
        outcome: Outcome::Ok,
        rule: RuleNumber::NONE,
        dns: DnsPath::Unconfirmed,
        status: 200,
        phases_ms: [total_ms / 8, total_ms / 4, total_ms / 4, total_ms / 4],
        total_ms,
        bytes: wire_bytes(if full { FULL_BYTES } else { RESUMED_BYTES }, false),
        retry_after_s: None,
        body_comes: Some(false),
    }
}

#[cfg(test)]
mod tests;
