//! The play: every agent's core, the collector's admission and its detector, on one virtual clock.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    sync::Arc,
};

use tocsin_agent::engine::{
    core::{Core, Effect, Finding},
    courtesy::Courtesy,
    judge::Line,
    outbox::{Batch, Stamp},
    planner::{self, Request},
};
use tocsin_collector::engine::{
    admit::{Verified, check},
    detector::{Changed, Detector, Record, State},
    observer::Standing,
    panel::Ask,
    params::Settings,
};
use tocsin_proto::{
    bounded::List,
    id::{ObserverId, TargetIndex},
    incident::Phase,
    message::AskBack,
    observation::Family,
    time::Timestamp,
};

use super::{
    dice::Dice,
    truth::{Moment, Truth},
    world::{ESTABLISHED, World},
};

/// How a play is set up.
#[derive(Debug, Clone, Copy)]
pub struct Setup {
    /// Scheduled probes a minute and agent.
    pub per_minute: u16,
    /// Seconds between reports when all is well.
    pub report_interval_s: u16,
    /// When it begins.
    pub start: Timestamp,
    /// When what is broken breaks.
    pub onset: Timestamp,
    /// When it ends.
    pub end: Timestamp,
    /// Whether the collector asks back.
    pub asks_back: bool,
    /// Whether panels and changes are told of on stderr.
    pub trace: bool,
    /// Numbers of the detector that are not the defaults.
    pub sets: &'static [(&'static str, i64)],
}

impl Setup {
    /// The default schedule, asked back, and nothing told of on the way.
    #[must_use]
    pub const fn new(start: Timestamp, onset: Timestamp, end: Timestamp) -> Self {
        let (per_minute, report_interval_s) = (3, 60);
        let (asks_back, trace, sets) = (true, false, &[]);
        Self { per_minute, report_interval_s, start, onset, end, asks_back, trace, sets }
    }
}

/// What came of it.
#[derive(Debug)]
pub struct Played {
    /// Every change of phase, in order.
    pub changes: Vec<Changed>,
    /// The detector at the end.
    pub detector: Detector,
    /// Observers in the world.
    pub observers: usize,
    /// Probes made.
    pub probes: u64,
    /// Bytes of probes on the wire, both ways.
    pub bytes: u64,
    /// Bytes of reports.
    pub report_bytes: u64,
    /// Reports delivered.
    pub reports: u64,
    /// Asks sent.
    pub asks: u64,
    /// Probes that were asked for in them.
    pub asked: u64,
    /// Panels that came to something, screening or full; those that track an incident not.
    pub panels: u64,
}

enum Event {
    /// An agent's core has something to do.
    Wake(usize),
    /// A probe has ended.
    Found { person: usize, at: Timestamp, request: Request, finding: Finding },
    /// A report arrives.
    Deliver(Box<Record>),
    /// An ask arrives.
    Ask { person: usize, ask: AskBack },
    /// The collector's clock.
    Tick,
}

struct Timed {
    at: Timestamp,
    number: u64,
    event: Event,
}

impl PartialEq for Timed {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.number) == (other.at, other.number)
    }
}
impl Eq for Timed {}
impl PartialOrd for Timed {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Timed {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

struct Agent {
    core: Core,
    seq: u64,
    wake: Option<Timestamp>,
    probes: u64,
    backlog: Vec<Batch>,
}

struct Stage<'a> {
    world: &'a World,
    truth: &'a Truth,
    setup: Setup,
    agents: Vec<Agent>,
    queue: BinaryHeap<Reverse<Timed>>,
    number: u64,
    position: u64,
    played: Played,
}

/// Plays it to the end. `watch` sees every change as it happens, and may end the play.
pub fn play(
    world: &World,
    truth: &Truth,
    setup: Setup,
    mut watch: impl FnMut(&Changed, &Detector) -> bool,
) -> Played {
    let mut panel_secret = [0; 32];
    panel_secret[..8].copy_from_slice(&world.dice.named("panel").throw().to_le_bytes());
    let mut settings = Settings {
        established_versions: ESTABLISHED.to_vec(),
        ask_back: setup.asks_back,
        panel_secret,
        ..Settings::default()
    };
    for (name, value) in setup.sets {
        settings.set(name, *value).expect("a play sets numbers that there are");
    }
    let day = 86_400_000;
    let tenure: BTreeMap<u32, Timestamp> = (1u32..)
        .zip(&world.people)
        .map(|(id, person)| (id, setup.start.minus_ms(person.known_days * day)))
        .collect();
    let state = State::with_tenure(tenure);
    let catalogue = world.catalogue.as_ref().clone();
    let detector = Detector::resume(catalogue, settings, state);
    let agents = (0u64..)
        .zip(&world.people)
        .map(|(at, person)| {
            let dice = world.dice.named("agent").of(at);
            let mut seed = [0; 32];
            for (part, n) in seed.chunks_mut(8).zip(0u64..) {
                part.copy_from_slice(&dice.of(n).throw().to_le_bytes());
            }
            let planner = planner::Setup {
                catalogue: Arc::clone(&world.catalogue),
                families: match person.v6 {
                    true => vec![Family::V4, Family::V6],
                    false => vec![Family::V4],
                },
                seed,
                probes_per_minute_max: 60,
            };
            let core = Core::new(planner, Courtesy::new(30_000_000), setup.report_interval_s);
            Agent { core, seq: 0, wake: None, probes: 0, backlog: Vec::new() }
        })
        .collect();
    let mut stage = Stage {
        world,
        truth,
        setup,
        agents,
        queue: BinaryHeap::new(),
        number: 0,
        position: 0,
        played: Played {
            changes: Vec::new(),
            detector,
            observers: world.people.len(),
            probes: 0,
            bytes: 0,
            report_bytes: 0,
            reports: 0,
            asks: 0,
            asked: 0,
            panels: 0,
        },
    };
    for person in 0..world.people.len() {
        stage.push(setup.start, Event::Wake(person));
    }
    stage.push(setup.start, Event::Tick);
    stage.run(&mut watch);
    stage.played
}

impl Stage<'_> {
    fn push(&mut self, at: Timestamp, event: Event) {
        self.number += 1;
        self.queue.push(Reverse(Timed { at, number: self.number, event }));
    }

    fn coin(&self, person: usize, what: &str, n: u64) -> Dice {
        self.world.dice.named(what).of(person as u64).of(n)
    }

    /// Milliseconds since the onset.
    fn since_onset(&self, at: Timestamp) -> Option<u64> {
        (at >= self.setup.onset).then(|| at.since_ms(self.setup.onset))
    }

    fn is_awake(&self, person: usize, at: Timestamp) -> Option<Timestamp> {
        let (from, length) = self.world.people.get(person)?.awake?;
        let minute = (at.as_ms() / 60_000 % 1_440) as u32;
        let into = (minute + 1_440 - from) % 1_440;
        // When it is switched on again, if it is off.
        (into >= length).then(|| at.plus_ms(u64::from(1_440 - into) * 60_000))
    }

    fn run(&mut self, watch: &mut impl FnMut(&Changed, &Detector) -> bool) {
        while let Some(Reverse(Timed { at, event, .. })) = self.queue.pop() {
            if at >= self.setup.end {
                break;
            }
            let changed = match event {
                Event::Wake(person) => {
                    self.wake(person, at);
                    continue;
                }
                Event::Found { person, at: began, request, finding } => {
                    self.found(person, at, began, request, &finding);
                    continue;
                }
                Event::Deliver(record) => {
                    self.position += 1;
                    self.played.reports += 1;
                    let record = Record { position: self.position, ..*record };
                    self.played.detector.record(&record)
                }
                Event::Ask { person, ask } => {
                    if self.is_awake(person, at).is_none()
                        && let Some(agent) = self.agents.get_mut(person)
                    {
                        let effects = agent.core.ask(at, ask);
                        self.act(person, at, effects);
                        self.plan(person, at);
                    }
                    continue;
                }
                Event::Tick => {
                    self.push(at.plus_ms(1_000), Event::Tick);
                    self.played.detector.advance(at)
                }
            };
            self.forward(at);
            for change in changed {
                if self.setup.trace {
                    eprintln!("{}  {}  {}", change.at, change.phase.name(), change.incident);
                    self.tell_grounds(&change);
                }
                let go_on = watch(&change, &self.played.detector);
                self.played.changes.push(change);
                if !go_on {
                    return;
                }
            }
        }
        let changed = self.played.detector.advance(self.setup.end);
        self.played.changes.extend(changed);
    }

    /// What a confirmation rests on, on stderr.
    fn tell_grounds(&self, change: &Changed) {
        let incidents = self.played.detector.incidents();
        let confirmed = incidents
            .iter()
            .find(|shown| shown.incident.id == change.incident)
            .filter(|_| change.phase == Phase::Confirmed);
        let Some(shown) = confirmed else { return };
        eprintln!("  {:?}", shown.incident.reach);
        for reason in &shown.incident.grounds.reasons {
            eprintln!("  {}: {}; needed {}", reason.rule, reason.found, reason.needed);
        }
    }

    /// Whether what is sent to or from an observer is lost: it cannot reach the collector, or its line is
    /// as bad for us as for others.
    fn is_lost(&self, person: usize, at: Timestamp, coin: Dice) -> bool {
        let (Some(of), Some(ms)) = (self.world.people.get(person), self.since_onset(at)) else {
            return false;
        };
        self.truth.is_silent(person, ms) || coin.happens(self.truth.loss(person, of, ms))
    }

    /// Asks go out to whoever is connected; one in twenty never answers.
    fn forward(&mut self, at: Timestamp) {
        for note in self.played.detector.take_panels() {
            let went_on = matches!(note.came_to, "another round" | "measured");
            self.played.panels += u64::from(!went_on);
            let detector = &self.played.detector;
            if self.setup.trace {
                eprintln!("{}  {}", note.at, note.line(detector.catalogue(), detector.plan()));
            }
        }
        for ask in self.played.detector.take_asks() {
            let person = ask.observer as usize - 1;
            self.played.asks += 1;
            self.played.asked += ask.targets.len() as u64;
            let lost = self.is_lost(person, at, self.coin(person, "lost ask", ask.nonce));
            if lost || self.coin(person, "deaf", ask.nonce).happens(50_000) {
                continue;
            }
            let transit = 20 + self.coin(person, "ask", ask.nonce).below(180);
            let Ask { nonce, targets, layer, standing, .. } = ask;
            let Ok(targets) = List::new(targets) else { continue };
            let ask = AskBack { nonce, targets, layer: layer as u8, standing };
            self.push(at.plus_ms(transit), Event::Ask { person, ask });
        }
    }

    fn wake(&mut self, person: usize, at: Timestamp) {
        if let Some(on) = self.is_awake(person, at) {
            self.push(on, Event::Wake(person));
            return;
        }
        let per_minute = self.setup.per_minute;
        let interval = self.setup.report_interval_s;
        let Some(agent) = self.agents.get_mut(person) else { return };
        if agent.wake.is_some_and(|planned| at < planned) {
            return;
        }
        let first = agent.wake.is_none();
        let mut effects =
            if first { agent.core.schedule(at, per_minute, interval) } else { Vec::new() };
        effects.extend(agent.core.tick(at));
        self.act(person, at, effects);
        self.plan(person, at);
    }

    /// Plans the next look at a core, unless one is planned that is early enough.
    fn plan(&mut self, person: usize, at: Timestamp) {
        let Some(agent) = self.agents.get_mut(person) else { return };
        let next = agent.core.next_deadline(at).max(at.plus_ms(1));
        if agent.wake.is_none_or(|planned| planned <= at || next < planned) {
            agent.wake = Some(next);
            self.push(next, Event::Wake(person));
        }
    }

    fn act(&mut self, person: usize, at: Timestamp, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Say(batch) => self.say(person, at, batch),
                Effect::Probe(request) => self.probe(person, at, request),
            }
        }
    }

    fn probe(&mut self, person: usize, at: Timestamp, request: Request) {
        let Some(agent) = self.agents.get_mut(person) else { return };
        agent.probes += 1;
        let n = agent.probes;
        let coin = self.coin(person, "probe", n);
        let request = self.picked(person, request, coin);
        let Some(target) = self.world.catalogue.target(request.target) else { return };
        let minute = (at.as_ms() / 60_000 % 1_440) as u32;
        let ms = self.since_onset(at);
        let moment = Moment { ms, minute };
        let finding = self.truth.probe(self.world, person, target, moment, &request, coin);
        self.played.probes += 1;
        self.played.bytes += finding.bytes;
        let done = at.plus_ms(finding.total_ms);
        self.push(done, Event::Found { person, at, request, finding });
    }

    /// A liar may look where it likes, and say that its turn was there.
    fn picked(&self, person: usize, request: Request, coin: Dice) -> Request {
        let lie = self.world.people.get(person).and_then(|of| of.lie.as_ref());
        let Some(lie) = lie.filter(|lie| lie.picks) else { return request };
        let mine: Vec<TargetIndex> = self
            .world
            .catalogue
            .targets()
            .values()
            .filter(|target| target.roles.iter().any(|role| lie.blames.contains(&role.provider)))
            .map(|target| target.index)
            .collect();
        // One of five elsewhere, to have controls.
        let pick = coin.named("pick").below(mine.len() as u64 * 5 / 4 + 1) as usize;
        let scheduled = request.purpose.cause() == tocsin_proto::observation::Cause::Scheduled;
        match mine.get(pick).filter(|_| scheduled) {
            Some(target) => Request { target: *target, ..request },
            None => request,
        }
    }

    fn found(
        &mut self,
        person: usize,
        now: Timestamp,
        at: Timestamp,
        request: Request,
        finding: &Finding,
    ) {
        let Some(agent) = self.agents.get_mut(person) else { return };
        let (_, effects) = agent.core.found(now, at, request, finding);
        self.act(person, now, effects);
        self.plan(person, now);
    }

    fn say(&mut self, person: usize, at: Timestamp, batch: Batch) {
        let lost = self.is_lost(person, at, self.coin(person, "lost", at.as_ms()));
        let Some(agent) = self.agents.get_mut(person) else { return };
        agent.backlog.push(batch);
        // It goes with the next.
        if lost {
            return;
        }
        let transit = 20 + self.coin(person, "transit", at.as_ms()).below(180);
        self.send(person, at, at.plus_ms(transit));
    }

    /// Sends everything that waits.
    fn send(&mut self, person: usize, at: Timestamp, arrives: Timestamp) {
        let Some(of) = self.world.people.get(person) else { return };
        let version = match self.since_onset(at) {
            Some(ms) => self.truth.version(person, of, ms),
            None => of.version,
        };
        let Some(agent) = self.agents.get_mut(person) else { return };
        let health = agent.core.health(at, Line::default());
        let mut records = Vec::new();
        for batch in std::mem::take(&mut agent.backlog) {
            agent.seq += 1;
            let report = batch.report(Stamp {
                seq: agent.seq,
                offset_ms: of.skew_ms,
                probe_core: version,
                health,
                resolver: of.resolver,
            });
            let bytes = tocsin_proto::wire::encode(&report).len() as u64 + 64;
            self.played.report_bytes += bytes;
            let Ok(report) = check(arrives, &self.world.catalogue, Verified::assumed(report))
            else {
                continue;
            };
            let mut key = [0; 32];
            key[..8].copy_from_slice(&(person as u64 + 1).to_le_bytes());
            records.push(Record {
                position: 0,
                received_at: arrives,
                observer: u32::try_from(person + 1).unwrap_or(u32::MAX),
                key: ObserverId::from_bytes(key),
                standing: Standing {
                    country: of.country,
                    zone: of.zone,
                    asn: of.asn,
                    slot: of.slot,
                    version,
                    resolver: of.resolver as u8,
                },
                report,
            });
        }
        for record in records {
            self.push(arrives, Event::Deliver(Box::new(record)));
        }
    }
}
