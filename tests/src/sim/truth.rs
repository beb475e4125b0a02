//! What a probe meets: the scenario and the habits of the observer's own line, put into findings as
//! the real prober would make them.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use tocsin_agent::engine::{
    classify::{Response, classify},
    core::Finding,
    courtesy::wire_bytes,
    planner::{Names, Request},
};
use tocsin_proto::{
    catalogue::Target,
    id::{Id, TargetIndex},
    implicate::{DnsPath, Layer},
    observation::Family,
    outcome::{Outcome, Phase as Step},
    rules::{Fault, RuleNumber, RuleTable},
};

use super::{
    dice::Dice,
    scenario::{Mode, Phase, Region, Scenario, Targets, Who, slug},
    world::{Lie, Person, Trouble, World},
};

/// How long a resolver keeps an answer, milliseconds: a usual time to live.
const TTL_MS: u64 = 300_000;
/// How long a subset of targets stands before it changes, milliseconds.
const FLAP_MS: u64 = 300_000;
/// Observers whose own resolver validates, of a million.
const VALIDATING: i64 = 100_000;
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
    people: Vec<bool>,
    /// Where only what validates fails: whose own resolver does. Every independent path does.
    validating: Option<Vec<bool>>,
    /// For each observer the part of those selected that come before it in the order of failing,
    /// millionths: one by one, or by network where the mode is by place or path.
    before: Vec<i64>,
    /// Selected targets, each with its rank in the order of failing.
    targets: BTreeMap<TargetIndex, usize>,
    dice: Dice,
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
    answers: Answers,
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

    /// A 5xx of a target, by who made it.
    fn server_error(&self, target: &Target, culprit: Option<&str>) -> (Outcome, RuleNumber, u16) {
        // A challenge provider that fails is named by the page that needed it.
        if culprit.is_some() && target.provider(Layer::Aux).map(Id::as_str) == culprit {
            let aux = RuleTable::builtin().rules().iter().find(|rule| rule.fault == Fault::Aux);
            let number = aux.map_or(RuleNumber::NONE, |rule| rule.number);
            return (Outcome::Http5xx, number, 503);
        }
        let edge = target.provider(Layer::Edge);
        let is_edge = edge.is_some_and(|id| culprit == Some(id.as_str()));
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
        Targets::Site(host) | Targets::Name(host) => {
            target.host == *host || target.host.strip_prefix("www.") == Some(host)
        }
        Targets::Host(name) => has(&format!("{name}-own")),
        Targets::Tld(tld) => target.tld() == tld,
        Targets::Issuer(name) => {
            target.provider(Layer::Issuer).is_some_and(|id| id.as_str() == slug(name))
        }
    }
}

const fn continent(country: &str) -> Option<[u8; 2]> {
    // The continents of the observers' countries (United Nations M49, by their usual letters).
    Some(match country.as_bytes() {
        b"US" | b"CA" | b"MX" | b"CR" | b"DO" | b"PR" => *b"NA",
        b"BR" | b"AR" | b"CL" | b"CO" | b"PE" => *b"SA",
        b"ZA" | b"EG" | b"NG" | b"KE" | b"MA" | b"TN" => *b"AF",
        b"AU" | b"NZ" => *b"OC",
        b"TR" | b"IL" | b"AE" | b"IR" | b"SA" | b"KZ" | b"IN" | b"PK" | b"BD" | b"LK" | b"JP"
        | b"KR" | b"TW" | b"HK" | b"SG" | b"ID" | b"MY" | b"TH" | b"PH" | b"VN" => *b"AS",
        _ => *b"EU",
    })
}

fn in_region(region: Region, person: &Person) -> bool {
    match region {
        Region::Everyone => true,
        Region::Country(country) => person.country == country,
        Region::Continent(code) => continent(person.country.as_str()) == Some(code),
    }
}

const fn specificity(region: Region) -> u8 {
    match region {
        Region::Everyone => 0,
        Region::Continent(_) => 1,
        Region::Country(_) => 2,
    }
}

fn is_one_of(who: &[Who], at: usize, person: &Person, world: &World) -> bool {
    let dice = world.dice.named("who").of(at as u64);
    who.iter().all(|who| match who {
        Who::All | Who::Networks(_) => true,
        Who::One => at == 0,
        Who::Share(share) => person.known_days == 0 || dice.named("share").happens(*share),
        Who::Marked(mark) => person.marks.iter().any(|own| own == mark),
        Who::Resolver(name) => match name.as_str() {
            "isp" => person.resolver_name == "isp",
            // Each meets it by the independent path; see `Prepared::validating`.
            "validating" => true,
            known if ["1.1.1.1", "8.8.8.8", "9.9.9.9", "opendns"].contains(&known) => {
                person.resolver_name == known
            }
            other => dice.named(other).happens(100_000),
        },
    })
}

/// In an order by chance, how many of the selected observers come before each, millionths: by
/// networks up to the middle of its own, so that those hit hold about the fraction that is said,
/// however large the largest are.
fn before(world: &World, selected: &[bool], mode: Mode, dice: Dice) -> Vec<i64> {
    let by_network = matches!(mode, Mode::PerPath | Mode::PerRegion);
    let group = |at: usize, person: &Person| match by_network {
        true => dice.named("path").of(u64::from(person.asn)).throw(),
        false => dice.named("agent").of(at as u64).throw(),
    };
    let place: Vec<u64> =
        world.people.iter().enumerate().map(|(at, person)| group(at, person)).collect();
    let mut order: Vec<u64> =
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

impl Truth {
    /// What the scenario means here.
    #[must_use]
    pub fn new(scenario: &Scenario, world: &World) -> Self {
        let prepare = |(number, phase): (u64, &Phase)| {
            // The same selection in a later phase fails in the same order.
            let dice = world.dice.named(&format!("{:?} {:?}", phase.targets, phase.who));
            let mut chosen: Vec<TargetIndex> = world
                .catalogue
                .targets()
                .values()
                .filter(|target| selects(&phase.targets, target))
                .map(|target| target.index)
                .collect();
            chosen.sort_by_key(|target| dice.of(u64::from(target.0)).throw());
            let targets =
                chosen.into_iter().enumerate().map(|(rank, target)| (target, rank)).collect();
            let people = world.people.iter().enumerate();
            let people: Vec<bool> = people
                .map(|(at, person)| {
                    in_region(phase.region, person) && is_one_of(&phase.who, at, person, world)
                })
                .collect();
            let by_validation = |who: &Who| matches!(who, Who::Resolver(r) if r == "validating");
            let validating = phase.who.iter().any(by_validation).then(|| {
                let own = world.dice.named("validating");
                (0..world.people.len()).map(|at| own.of(at as u64).happens(VALIDATING)).collect()
            });
            let before = before(world, &people, phase.mode, dice);
            Prepared { number, phase: phase.clone(), people, validating, before, targets, dice }
        };
        Self { phases: (1..).zip(&scenario.phases).map(prepare).collect(), answers: Answers::new() }
    }

    /// Nothing but the habits of lines.
    #[must_use]
    pub fn quiet() -> Self {
        Self { phases: Vec::new(), answers: Answers::new() }
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
                        && specificity(other.phase.region) > specificity(p.phase.region)
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

    /// Whether the observer cannot reach the collector, milliseconds after the onset.
    #[must_use]
    pub fn is_silent(&self, person: usize, of: &Person, ms: u64) -> bool {
        self.holding(person, ms).any(|p| p.phase.silent && Self::hits_person(p, person, of, 0))
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
        self.holding(person, ms).find_map(|prepared| {
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
            let of_names =
                phase.symptom.phase() == Some(Step::Dns) && !matches!(phase.targets, Targets::All);
            let group = if of.resolver_name == "isp" { u64::from(of.asn) } else { 7 };
            let kept = dice.named("ttl").of(group).of(u64::from(target.0)).below(TTL_MS);
            let lenient = prepared
                .validating
                .as_ref()
                .is_some_and(|own| !own.get(person).copied().unwrap_or(false));
            let hidden = of_names && (lenient || ms < phase.from_ms + kept);
            // Who asks the name's own servers has kept where they are, and does not validate.
            let seen = match request.names {
                Names::Own => !hidden,
                Names::Direct => !hidden || !(lenient || matches!(phase.targets, Targets::Tld(_))),
                Names::Walk => true,
            };
            (hit && seen).then_some((prepared, hidden))
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
            return self.failed(target, outcome, None, path, 30, full);
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
        let broken = ms.and_then(|ms| self.broken(person, of, target, ms, request, coin));
        if let Some((prepared, hidden)) = broken {
            let phase = &prepared.phase;
            let culprit = match &phase.targets {
                Targets::Provider(name) | Targets::Role(name, _) => Some(slug(name)),
                _ => None,
            };
            // Who is hit alone has a resolver or a line that is hit, and another path is not.
            let own_side = phase.mode == Mode::PerAgent
                || phase.who.iter().any(|w| matches!(w, Who::Resolver(_)));
            let path = match (phase.symptom.phase(), own_side) {
                (Some(Step::Dns), _) if hidden => DnsPath::IndependentOnly,
                (Some(Step::Dns), _) if prepared.validating.is_some() => DnsPath::Both,
                (Some(Step::Dns), true)
                    if matches!(phase.who.as_slice(), [.., Who::Resolver(_)]) =>
                {
                    DnsPath::SystemOnly
                }
                (Some(Step::Dns), true) => DnsPath::Unconfirmed,
                (Some(Step::Dns), false) => DnsPath::Both,
                _ => DnsPath::Unconfirmed,
            };
            // What stands behind an edge is met through it: the edge answers, and says so.
            let behind = matches!(phase.targets, Targets::Hosted(_) | Targets::Origin(..))
                && target.provider(Layer::Edge).is_some()
                && matches!(phase.symptom.phase(), Some(Step::Tcp | Step::Tls | Step::Http));
            let symptom = if behind { Outcome::Http5xx } else { phase.symptom };
            return self.failed(target, symptom, culprit.as_deref(), path, usual, full);
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
        self.failed(target, outcome, None, DnsPath::Unconfirmed, usual, full)
    }

    /// What a liar says of a target.
    fn lie(&self, lie: &Lie, target: &Target, full: bool) -> Finding {
        let behind =
            |ids: &[Id]| target.roles.iter().find(|role| ids.contains(&role.provider)).cloned();
        let blamed = match (behind(&lie.clears), behind(&lie.blames)) {
            (Some(_), _) => return fine(full, 50),
            (None, Some(role)) => role,
            (None, None) if lie.blames.is_empty() => {
                return self.failed(
                    target,
                    Outcome::TcpTimeout,
                    None,
                    DnsPath::Unconfirmed,
                    50,
                    full,
                );
            }
            (None, None) => return fine(full, 50),
        };
        let (symptom, path) = match blamed.role {
            Layer::Dns => (Outcome::DnsServfail, DnsPath::Both),
            _ => (Outcome::TcpReset, DnsPath::Unconfirmed),
        };
        self.failed(target, symptom, Some(blamed.provider.as_str()), path, 50, full)
    }

    fn failed(
        &self,
        target: &Target,
        symptom: Outcome,
        culprit: Option<&str>,
        dns: DnsPath,
        usual_ms: u64,
        full: bool,
    ) -> Finding {
        let (outcome, rule, status) = match symptom {
            Outcome::Http5xx => self.answers.server_error(target, culprit),
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
