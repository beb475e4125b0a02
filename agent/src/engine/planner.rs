//! What to probe, and when: the schedule, and bursts that look closer at a failure. Every choice
//! is a hash of (observer, slot or failure), so that a day can be replayed from its seed.
//!
//! It does not judge outcomes, does not report, and asks [`Courtesy`] before every probe.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use tocsin_proto::{
    catalogue::{Catalogue, Target},
    id::{Id, TargetIndex},
    implicate::{Implication, Layer},
    limits::PROBES_PER_MINUTE_MAX,
    message::AskBack,
    observation::{Cause, Family},
    sign::sha256,
    time::Timestamp,
};

use super::{
    courtesy::{Courtesy, Quiet, Start, Use},
    judge::providers,
};

/// Siblings of the implicated provider in a burst: more confirm little sooner, and cost.
pub const SIBLINGS: usize = 4;
/// Siblings of the same top-level domain in a burst where names fail.
pub const TLD_SIBLINGS: usize = 2;
/// Controls in a burst, behind none of the failing target's providers.
pub const CONTROLS: usize = 2;
/// Bursts in a minute.
pub const BURSTS_PER_MINUTE: usize = 2;
/// How long a failing control silences bursts, milliseconds.
pub const SILENCE_MS: u64 = 60_000;
/// Another target is tried this often when courtesy refuses the first.
const CANDIDATES: u64 = 8;
const MINUTE_MS: u64 = 60_000;
const DAY_MS: u64 = 86_400_000;
const ALL_PPM: u32 = 1_000_000;

/// What a probe is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Purpose {
    /// Its turn had come.
    Turn,
    /// The failing target once more.
    Again,
    /// Another target of the implicated provider.
    Sibling,
    /// A target with nothing in common with the failing one.
    Control,
    /// A collector asked.
    Asked {
        /// Under this nonce.
        nonce: u64,
        /// About a confirmed incident.
        standing: bool,
    },
}

impl Purpose {
    /// What the report calls it.
    #[must_use]
    pub const fn cause(self) -> Cause {
        match self {
            Self::Turn => Cause::Scheduled,
            Self::Again | Self::Sibling | Self::Control => Cause::Verification,
            Self::Asked { nonce, .. } => Cause::Asked { nonce },
        }
    }

    /// What the caps call it.
    #[must_use]
    pub const fn of(self) -> Use {
        match self {
            Self::Turn => Use::Scheduled,
            Self::Again | Self::Sibling | Self::Control => Use::Verification,
            Self::Asked { standing, .. } => Use::Asked { standing },
        }
    }
}

/// A probe to be made now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// Of what.
    pub target: TargetIndex,
    /// Over which family.
    pub family: Family,
    /// What for.
    pub purpose: Purpose,
    /// Whether TLS is not to be resumed, so that the certificate is seen.
    pub full_handshake: bool,
    /// How closely the name is looked at.
    pub names: Names,
}

/// How closely a target's name is looked at. The own resolver may have kept what nobody else can resolve
/// any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Names {
    /// As the own resolver has it.
    #[default]
    Own,
    /// Its own name servers are asked too, once all else went well: they fail minutes before resolvers
    /// forget. Costs a question or two, about 400 bytes.
    Direct,
    /// The independent paths are asked too, from the roots, and first.
    Walk,
}

/// How a target is to be probed, and what for.
#[derive(Debug, Clone, Copy)]
struct How {
    family: Family,
    purpose: Purpose,
    names: Names,
    /// Whether the certificate is wanted.
    full: bool,
}

impl How {
    /// As a collector that suspects a layer wants it.
    const fn asked(layer: Option<Layer>) -> (Names, bool) {
        let names = match layer {
            Some(Layer::Dns | Layer::Tld) => Names::Walk,
            _ => Names::Own,
        };
        (names, matches!(layer, Some(Layer::Issuer)))
    }
}

/// What came of a request.
#[derive(Debug, Clone, Copy)]
pub struct Done {
    /// The request.
    pub request: Request,
    /// Whether the target failed to answer.
    pub failed: bool,
    /// What the outcome says of the layers.
    pub implication: &'static Implication,
    /// Bytes it cost, both ways.
    pub bytes: u64,
    /// What the target said of coming back.
    pub retry_after_s: Option<u32>,
    /// Whether the name has an address of this family; `None` when that is not known.
    pub has_address: Option<bool>,
    /// The target speaks HTTP/1.1, so that a body comes whether we want it or not; `None` when it
    /// did not come to that.
    pub body_comes: Option<bool>,
}

/// What the planner hears.
#[derive(Debug, Clone)]
pub enum Event {
    /// Time has passed.
    Tick,
    /// A probe has ended.
    Done(Done),
    /// A collector asks for so many scheduled probes a minute.
    ProbesPerMinute(u16),
    /// A collector asks for probes, now, under a nonce.
    Ask(AskBack),
    /// Another process of this agent has probed.
    Other(Start),
    /// It cost this many bytes.
    OtherSpent(u64),
    /// A target asked it to be left alone.
    OtherQuiet(Quiet),
}

/// What the planner wants done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Probe now.
    Probe(Request),
}

/// What the planner is made from.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The targets.
    pub catalogue: Arc<Catalogue>,
    /// Families to probe, in turn; at least one.
    pub families: Vec<Family>,
    /// Makes this observer's choices its own: the hash of a key of its.
    pub seed: [u8; 32],
    /// Scheduled probes a minute, whatever a collector asks.
    pub probes_per_minute_max: u16,
}

/// Which targets this observer looks at in an epoch, whoever asks. Only its seed decides, so no collector can have all of a
/// crowd look at one site; and each epoch another share of the crowd is drawn, so that nobody is blind to a site for long.
#[derive(Debug, Default)]
struct Lot {
    epoch: Option<u64>,
    joined: BTreeSet<TargetIndex>,
}

/// The schedule and its bursts.
#[derive(Debug)]
pub struct Planner {
    setup: Setup,
    courtesy: Courtesy,
    /// Targets behind each provider, by what is known well enough; providers in this observer's
    /// own order.
    quotas: Vec<Vec<TargetIndex>>,
    all: Vec<TargetIndex>,
    interval_ms: u64,
    /// Makes the slots of this observer its own.
    phase: u64,
    /// The next slot, and when it is.
    next_slot: Option<(u64, Timestamp)>,
    full_handshakes: BTreeMap<TargetIndex, Timestamp>,
    /// Whether a name was found to have an address of a family, and when.
    addresses: BTreeMap<(TargetIndex, Family), (bool, Timestamp)>,
    /// Targets whose probes are dear.
    dear: BTreeSet<TargetIndex>,
    /// Where the crowd is so large that not everybody may look at everything: what the lot says for this epoch.
    lot: Option<Lot>,
    bursts: VecDeque<Timestamp>,
    silent_until: Timestamp,
}

impl Planner {
    /// A planner at rest, with what was probed before: the first tick starts it.
    #[must_use]
    pub fn new(setup: Setup, courtesy: Courtesy) -> Self {
        let everybody = |target| setup.catalogue.share_ppm(target) == ALL_PPM;
        let lot = !setup.catalogue.targets().values().all(everybody);
        let mut planner = Self {
            courtesy,
            quotas: quotas(&setup, |_| true),
            all: setup.catalogue.targets().keys().copied().collect(),
            lot: lot.then(Lot::default),
            interval_ms: MINUTE_MS,
            phase: prf(&setup.seed, b"phase", &[], 0),
            next_slot: None,
            full_handshakes: BTreeMap::new(),
            addresses: BTreeMap::new(),
            dear: BTreeSet::new(),
            bursts: VecDeque::new(),
            silent_until: Timestamp::EPOCH,
            setup,
        };
        planner.pace(None, planner.setup.probes_per_minute_max.min(3));
        planner
    }

    /// What it keeps to, and what has been spent.
    #[must_use]
    pub const fn courtesy(&self) -> &Courtesy {
        &self.courtesy
    }

    /// Whether the name had an address of the family within a day: then its having none is a
    /// failure, and not how the name is.
    #[must_use]
    pub fn had_address(&self, now: Timestamp, target: TargetIndex, family: Family) -> bool {
        let known = self.addresses.get(&(target, family));
        known.is_some_and(|(has, at)| *has && now.since_ms(*at) < DAY_MS)
    }

    /// Whether the byte budget thins the schedule.
    #[must_use]
    pub fn thinned(&self, now: Timestamp) -> bool {
        self.courtesy.thinned(now)
    }

    /// What to do now.
    #[must_use]
    pub fn step(&mut self, now: Timestamp, event: Event) -> Vec<Action> {
        self.draw(now);
        let mut actions = Vec::new();
        match event {
            Event::Tick => {}
            Event::ProbesPerMinute(asked) => self.pace(Some(now), asked),
            Event::Done(done) => self.done(now, done, &mut actions),
            Event::Ask(ask) => {
                let (names, full) = How::asked(ask.suspected());
                let AskBack { nonce, targets, standing, .. } = ask;
                for target in targets.iter() {
                    if let Some(family) = self.family(now, nonce, *target) {
                        let purpose = Purpose::Asked { nonce, standing };
                        let how = How { family, purpose, names, full };
                        self.request(now, *target, how, &mut actions);
                    }
                }
            }
            Event::Other(start) => {
                self.courtesy.started(Start { at: start.at.min(now), ..start });
            }
            Event::OtherSpent(bytes) => self.courtesy.spent(now, bytes),
            Event::OtherQuiet(quiet) => self.courtesy.leave_alone(now, quiet),
        }
        self.run_slot(now, &mut actions);
        actions
    }

    /// When the next slot is.
    #[must_use]
    pub fn next_deadline(&self, now: Timestamp) -> Timestamp {
        let (_, at) = self.next_slot.unwrap_or_else(|| self.slot_after(now));
        at
    }

    fn pace(&mut self, now: Option<Timestamp>, asked: u16) {
        let most = self.setup.probes_per_minute_max.clamp(1, PROBES_PER_MINUTE_MAX);
        let interval_ms = MINUTE_MS / u64::from(asked.clamp(1, most));
        if interval_ms != self.interval_ms {
            self.interval_ms = interval_ms;
            self.next_slot = now.map(|now| self.slot_after(now));
        }
    }

    /// Draws which targets are this observer's, once in an epoch.
    fn draw(&mut self, now: Timestamp) {
        let Some(lot) = &mut self.lot else { return };
        let epoch = now.as_ms() / DAY_MS;
        if lot.epoch == Some(epoch) {
            return;
        }
        let Setup { catalogue, seed, .. } = &self.setup;
        let drawn = |target: &&Target| {
            let salt = target.index.0.to_le_bytes();
            let throw = prf(seed, b"lot", &salt, epoch) % u64::from(ALL_PPM);
            throw < u64::from(catalogue.share_ppm(target))
        };
        lot.joined = catalogue.targets().values().filter(drawn).map(|of| of.index).collect();
        lot.epoch = Some(epoch);
        self.quotas = quotas(&self.setup, |target| lot.joined.contains(&target));
        self.all = lot.joined.iter().copied().collect();
    }

    /// Each observer has its own phase, and each slot a jitter of up to a quarter of the interval.
    fn slot_at(&self, slot: u64) -> Timestamp {
        let phase = self.phase % self.interval_ms;
        let jitter = prf(&self.setup.seed, b"jitter", &[], slot) % (self.interval_ms / 4).max(1);
        Timestamp::from_ms(slot.saturating_mul(self.interval_ms)).plus_ms(phase + jitter)
    }

    /// The first slot that is still to come, and when.
    fn slot_after(&self, now: Timestamp) -> (u64, Timestamp) {
        let about = (now.as_ms() / self.interval_ms).saturating_sub(2);
        let timed = |slot| (slot, self.slot_at(slot));
        (about..about + 5).map(timed).find(|(_, at)| *at > now).unwrap_or_else(|| timed(about + 5))
    }

    fn run_slot(&mut self, now: Timestamp, actions: &mut Vec<Action>) {
        let Some((slot, at)) = self.next_slot else {
            self.next_slot = Some(self.slot_after(now));
            return;
        };
        if now < at {
            return;
        }
        let next = self.slot_at(slot + 1);
        // Slots that a sleeping machine has missed stay missed.
        self.next_slot = Some(if next > now { (slot + 1, next) } else { self.slot_after(now) });
        if !slot.is_multiple_of(self.courtesy.stretch(now)) {
            return;
        }
        for attempt in 0..CANDIDATES {
            let Some(target) = self.candidate(slot, attempt) else { continue };
            let Some(family) = self.family(now, slot, target) else { continue };
            // Three of four turns of a dear target go to the next one.
            let salt = target.0.to_le_bytes();
            let passed = self.dear.contains(&target)
                && !prf(&self.setup.seed, b"dear", &salt, slot).is_multiple_of(4);
            let how = How { family, purpose: Purpose::Turn, names: Names::Direct, full: false };
            if !passed && self.request(now, target, how, actions) {
                return;
            }
        }
    }

    /// The family whose turn it is, of those in which the target is not known to have no address.
    fn family(&self, now: Timestamp, slot: u64, target: TargetIndex) -> Option<Family> {
        let has = |family: &Family| match self.addresses.get(&(target, *family)) {
            Some((false, at)) => now.since_ms(*at) >= DAY_MS,
            _ => true,
        };
        let families = || self.setup.families.iter().copied().filter(has);
        let turn = (slot / 4).wrapping_add(slot) as usize;
        families().nth(turn.checked_rem(families().count())?)
    }

    /// Three of four slots go round the providers; the rest, and further tries, are uniform.
    fn candidate(&self, slot: u64, attempt: u64) -> Option<TargetIndex> {
        let among = if slot % 4 != 3 && attempt < CANDIDATES / 2 && !self.quotas.is_empty() {
            let turn = slot - slot / 4;
            self.quotas.get(turn as usize % self.quotas.len())?
        } else {
            &self.all
        };
        let random = prf(&self.setup.seed, b"target", &slot.to_le_bytes(), attempt);
        among.get(random as usize % among.len().max(1)).copied()
    }

    fn request(
        &mut self,
        now: Timestamp,
        target: TargetIndex,
        how: How,
        actions: &mut Vec<Action>,
    ) -> bool {
        let How { family, purpose, names, full } = how;
        let known = self.setup.catalogue.target(target).is_some()
            && self.lot.as_ref().is_none_or(|lot| lot.joined.contains(&target));
        if !known || self.courtesy.admit(now, target, purpose.of()).is_err() {
            return false;
        }
        let last_full = self.full_handshakes.get(&target);
        let full_handshake = full || last_full.is_none_or(|at| now.since_ms(*at) >= DAY_MS);
        if full_handshake {
            self.full_handshakes.insert(target, now);
        }
        actions.push(Action::Probe(Request { target, family, purpose, full_handshake, names }));
        true
    }

    fn done(&mut self, now: Timestamp, done: Done, actions: &mut Vec<Action>) {
        self.courtesy.spent(now, done.bytes);
        if let Some(seconds) = done.retry_after_s {
            self.courtesy.retry_after(now, done.request.target, seconds);
        }
        let Request { target, family, purpose, names, full_handshake: full } = done.request;
        if let Some(has) = done.has_address {
            self.addresses.insert((target, family), (has, now));
        }
        // Who asked is waiting: what has no address of this family is looked at over the other.
        if done.has_address == Some(false)
            && let Purpose::Asked { nonce, .. } = purpose
            && let Some(family) = self.family(now, nonce, target)
        {
            self.request(now, target, How { family, purpose, names, full }, actions);
        }
        match done.body_comes {
            Some(true) => drop(self.dear.insert(target)),
            Some(false) => drop(self.dear.remove(&target)),
            None => {}
        }
        if !done.failed {
            return;
        }
        match done.request.purpose {
            Purpose::Control => self.silent_until = now.plus_ms(SILENCE_MS),
            Purpose::Turn => self.burst(now, done, actions),
            Purpose::Again | Purpose::Sibling | Purpose::Asked { .. } => {}
        }
    }

    fn burst(&mut self, now: Timestamp, done: Done, actions: &mut Vec<Action>) {
        while self.bursts.front().is_some_and(|at| now.since_ms(*at) >= MINUTE_MS) {
            self.bursts.pop_front();
        }
        if now < self.silent_until || self.bursts.len() >= BURSTS_PER_MINUTE {
            return;
        }
        let catalogue = Arc::clone(&self.setup.catalogue);
        let Some(target) = catalogue.target(done.request.target) else { return };
        self.bursts.push_back(now);
        let family = done.request.family;
        // A session that is resumed shows no certificate.
        let certified = done.implication.full.has(Layer::Issuer);
        let how = |purpose, names| {
            let full = purpose == Purpose::Again || certified && purpose == Purpose::Sibling;
            How { family, purpose, names, full }
        };
        let implicated = implicated(target, done.implication);
        let of_names = done.implication.full.has(Layer::Tld);
        // What resolvers have kept would hide which names are broken.
        let names = if of_names { Names::Walk } else { Names::Own };
        self.request(now, target.index, how(Purpose::Again, names), actions);
        let sibling = how(Purpose::Sibling, names);
        let mut siblings = 0;
        if let Some((layer, provider)) = implicated {
            let of_it = behind(&catalogue, layer, provider, target.index);
            siblings = self.some(now, of_it, SIBLINGS, sibling, actions);
        }
        if of_names {
            // Of the same top-level domain, and of another provider of names: the one or the other.
            let of_tld = |other: &&Target| {
                other.index != target.index
                    && other.tld() == target.tld()
                    && implicated.is_none_or(|(layer, id)| other.provider(layer) != Some(id))
            };
            let of_tld = catalogue.targets().values().filter(of_tld).map(|t| t.index).collect();
            let wanted = (SIBLINGS - siblings).max(TLD_SIBLINGS);
            self.some(now, of_tld, wanted, sibling, actions);
        }
        let aux = target.provider(Layer::Aux).filter(|aux| {
            implicated.is_none_or(|(layer, provider)| layer != Layer::Dns && provider != *aux)
        });
        if let Some(aux) = aux {
            let siblings = behind(&catalogue, Layer::Aux, aux, target.index);
            self.some(now, siblings, 1, how(Purpose::Sibling, Names::Own), actions);
        }
        let shared = providers(&catalogue, target.index);
        let controls = catalogue.targets().values().filter(|other| {
            other.index != target.index
                && providers(&catalogue, other.index).is_disjoint(&shared)
                && !(of_names && other.tld() == target.tld())
        });
        let controls = controls.map(|other| other.index).collect();
        self.some(now, controls, CONTROLS, how(Purpose::Control, Names::Own), actions);
    }

    /// Up to `count` of the targets, in an order of this observer and moment. Tells how many.
    fn some(
        &mut self,
        now: Timestamp,
        targets: Vec<TargetIndex>,
        count: usize,
        how: How,
        actions: &mut Vec<Action>,
    ) -> usize {
        let (mut targets, mut left) = (targets, count);
        for draw in 0..targets.len() as u64 {
            if left == 0 {
                break;
            }
            // Of those that are left, one by chance.
            let random = prf(&self.setup.seed, b"burst", &now.as_ms().to_le_bytes(), draw);
            let target = targets.swap_remove((random % targets.len() as u64) as usize);
            if self.request(now, target, how, actions) {
                left -= 1;
            }
        }
        count - left
    }
}

/// Targets behind each provider, in this observer's own order of providers.
fn quotas(setup: &Setup, joined: impl Fn(TargetIndex) -> bool) -> Vec<Vec<TargetIndex>> {
    let mut by_provider: BTreeMap<&Id, BTreeSet<TargetIndex>> = BTreeMap::new();
    for target in setup.catalogue.targets().values().filter(|target| joined(target.index)) {
        for role in target.deciding_roles() {
            by_provider.entry(&role.provider).or_default().insert(target.index);
        }
    }
    let mut quotas: Vec<(u64, Vec<TargetIndex>)> = by_provider
        .into_iter()
        .map(|(id, targets)| {
            let order = prf(&setup.seed, b"provider", id.as_str().as_bytes(), 0);
            (order, targets.into_iter().collect())
        })
        .collect();
    quotas.sort();
    quotas.into_iter().map(|(_, targets)| targets).collect()
}

/// The provider that an outcome points at; `edge` falls to `hosting` where there is no edge.
fn implicated<'a>(target: &'a Target, says: &Implication) -> Option<(Layer, &'a Id)> {
    let suspect = says.full.and(says.half);
    let layers = [Layer::Dns, Layer::Issuer, Layer::Edge, Layer::Hosting, Layer::Aux];
    layers.into_iter().find_map(|layer| {
        if !suspect.has(layer) {
            return None;
        }
        let of = |layer| target.provider(layer).map(|provider| (layer, provider));
        if layer == Layer::Edge { of(layer).or_else(|| of(Layer::Hosting)) } else { of(layer) }
    })
}

fn behind(
    catalogue: &Catalogue,
    layer: Layer,
    provider: &Id,
    except: TargetIndex,
) -> Vec<TargetIndex> {
    let targets = catalogue.targets().values();
    targets
        .filter(|target| target.index != except && target.provider(layer) == Some(provider))
        .map(|target| target.index)
        .collect()
}

/// A number that only this observer could have foretold.
fn prf(seed: &[u8; 32], what: &[u8], salt: &[u8], number: u64) -> u64 {
    let hash = sha256(&[b"tocsin/plan/v1\0", seed, what, &[0], salt, &number.to_le_bytes()]);
    hash.iter().take(8).fold(0, |value, byte| value << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tocsin_proto::{
        implicate::{DnsPath, implication},
        outcome::Outcome,
    };

    const START: Timestamp = Timestamp::from_s(1_800_000_000);

    fn planner(seed: u8, ppm: u16) -> Planner {
        let setup = Setup {
            catalogue: Arc::new(Catalogue::builtin().clone()),
            families: vec![Family::V4],
            seed: [seed; 32],
            probes_per_minute_max: 60,
        };
        let mut planner = Planner::new(setup, Courtesy::new(30_000_000));
        let _starts = planner.step(START, Event::ProbesPerMinute(ppm));
        planner
    }

    fn done(request: Request, outcome: Outcome) -> Event {
        Event::Done(Done {
            request,
            failed: !outcome.is_answer(),
            implication: implication(outcome, None, DnsPath::Unconfirmed),
            bytes: 5_000,
            retry_after_s: None,
            has_address: Some(outcome != Outcome::DnsNodata),
            body_comes: None,
        })
    }

    fn run(planner: &mut Planner, minutes: u64) -> Vec<(Timestamp, Request)> {
        let (mut now, mut seen) = (START, Vec::new());
        while now < START.plus_ms(minutes * 60_000) {
            now = planner.next_deadline(now).max(now.plus_ms(1));
            for Action::Probe(request) in planner.step(now, Event::Tick) {
                seen.push((now, request));
            }
        }
        seen
    }

    #[test]
    fn the_schedule_keeps_its_pace_and_repeats_from_its_seed() {
        for ppm in [1, 3, 30] {
            let seen = run(&mut planner(1, ppm), 60);
            let expect = usize::from(ppm) * 60;
            assert!(seen.len().abs_diff(expect) <= expect / 20 + 1, "{ppm}: {}", seen.len());
            assert_eq!(seen, run(&mut planner(1, ppm), 60));
        }
        assert_ne!(run(&mut planner(1, 3), 10), run(&mut planner(2, 3), 10));
    }

    #[test]
    fn a_failure_is_looked_at_closer() {
        let catalogue = Catalogue::builtin();
        let mut planner = planner(1, 3);
        let edge = |t: &&Target| {
            t.provider(Layer::Edge)
                .is_some_and(|p| behind(catalogue, Layer::Edge, p, t.index).len() >= 10)
        };
        let target = catalogue.targets().values().find(edge).unwrap();
        let request = Request {
            target: target.index,
            family: Family::V4,
            purpose: Purpose::Turn,
            full_handshake: false,
            names: Names::Own,
        };
        let actions = planner.step(START, done(request, Outcome::TcpTimeout));
        let of = |purpose| {
            actions
                .iter()
                .filter_map(|Action::Probe(r)| (r.purpose == purpose).then_some(r.target))
                .collect::<Vec<_>>()
        };
        assert_eq!(of(Purpose::Again), [target.index]);
        assert!(of(Purpose::Sibling).len() >= SIBLINGS);
        assert_eq!(of(Purpose::Control).len(), CONTROLS);
        let shared = providers(catalogue, target.index);
        assert!(of(Purpose::Control).iter().all(|c| providers(catalogue, *c).is_disjoint(&shared)));

        let control = Request { purpose: Purpose::Control, ..request };
        assert!(planner.step(START, done(control, Outcome::TcpTimeout)).is_empty());
        let silent = planner.step(START.plus_ms(100), done(request, Outcome::TcpTimeout));
        assert!(silent.iter().all(|Action::Probe(r)| r.purpose == Purpose::Turn));
    }

    #[test]
    fn a_name_without_an_address_of_a_family_is_left_alone_in_it_for_a_day() {
        let mut planner = planner(1, 60);
        planner.setup.families = vec![Family::V4, Family::V6];
        let (mut now, mut seen) = (START, BTreeMap::<_, Vec<Timestamp>>::new());
        while now < START.plus_ms(DAY_MS + 2 * 3_600_000) {
            now = planner.next_deadline(now).max(now.plus_ms(1));
            for Action::Probe(request) in planner.step(now, Event::Tick) {
                let v6 = request.family == Family::V6;
                seen.entry((request.target, v6)).or_default().push(now);
                let outcome = if v6 { Outcome::DnsNodata } else { Outcome::Ok };
                let _more = planner.step(now, done(request, outcome));
            }
        }
        for ((_, v6), probes) in seen {
            let often = probes.windows(2).any(|pair| pair[1].since_ms(pair[0]) < DAY_MS);
            assert!(!v6 || !often);
        }
    }

    #[test]
    fn what_is_asked_is_looked_at_over_the_family_that_the_name_has() {
        let mut planner = planner(1, 60);
        planner.setup.families = vec![Family::V4, Family::V6];
        for nonce in 0..8 {
            let targets =
                tocsin_proto::bounded::List::new(vec![TargetIndex(nonce as u16)]).unwrap();
            let asked = planner.step(
                START,
                Event::Ask(AskBack { nonce, targets, layer: Layer::Edge as u8, standing: false }),
            );
            let [Action::Probe(request)] = asked.as_slice() else { panic!("{asked:?}") };
            let outcome = match request.family {
                Family::V4 => Outcome::Ok,
                Family::V6 => Outcome::DnsNodata,
            };
            let more = planner.step(START, done(*request, outcome));
            let more: Vec<Family> = more.iter().map(|Action::Probe(r)| r.family).collect();
            let expected = if request.family == Family::V6 { vec![Family::V4] } else { vec![] };
            assert_eq!(more, expected, "asked under {nonce}");
        }
    }

    #[test]
    fn dear_targets_get_fewer_turns() {
        let mut planner = planner(1, 60);
        let dear = |target: TargetIndex| target.0.is_multiple_of(2);
        planner.dear = planner.all.iter().copied().filter(|target| dear(*target)).collect();
        let seen = run(&mut planner, 600);
        let of = seen.iter().filter(|(_, request)| dear(request.target)).count();
        // A quarter of the turns against all of them: about one in five.
        assert!((seen.len() / 8..seen.len() / 3).contains(&of), "{of} of {}", seen.len());
    }

    proptest! {
        #[test]
        fn caps_hold_whatever_fails(seed: u8, ppm in 1u16..200, fails in proptest::collection::vec(any::<bool>(), 50)) {
            let mut planner = planner(seed, ppm);
            let (mut now, mut log, mut n) = (START, Vec::<(Timestamp, Request)>::new(), 0);
            let mut open = VecDeque::new();
            while now < START.plus_ms(600_000) {
                now = planner.next_deadline(now).max(now.plus_ms(1));
                let mut actions = planner.step(now, Event::Tick);
                while let Some(request) = open.pop_front() {
                    n += 1;
                    let outcome = if fails[n % 50] { Outcome::TcpReset } else { Outcome::Ok };
                    actions.extend(planner.step(now, done(request, outcome)));
                }
                for Action::Probe(request) in actions {
                    log.push((now, request));
                    open.push_back(request);
                }
                let recent: Vec<_> = log.iter().filter(|(at, _)| now.since_ms(*at) < 60_000).collect();
                prop_assert!(recent.len() <= 60);
                if let Some((_, last)) = log.last() {
                    prop_assert!(recent.iter().filter(|(_, r)| r.target == last.target).count() <= 5);
                }
                let bursts = recent.iter().filter(|(_, r)| r.purpose == Purpose::Again).count();
                prop_assert!(bursts <= BURSTS_PER_MINUTE);
            }
        }
    }
}
