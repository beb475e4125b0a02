//! The probing loop: what the core wants done, and what came of it; beside it what is looked at now and then: the own line,
//! what sites wish, and what the desktop is to be told.

use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};

use tocsin_proto::{
    message::AskBack,
    observation::Family,
    report::{HealthCheck, ResolverClass},
    sign::PublicKey,
    snapshot::Public,
    time::Timestamp,
    wire,
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::{
    CLOCK_OFFSET_MAX_MS, RunError, Told,
    clock::Clock,
    config::{self, Config},
    engine::{
        core::{Core, Effect, Finding},
        courtesy::{Others, Quiet, Start, Use, wire_bytes},
        diagnose::OwnLine,
        judge::Line,
        outbox::{Batch, Stamp},
        planner::Request,
    },
    gateway, look,
    means::Pause,
    metrics::Board,
    network::Network,
    notice::{self, Witness},
    probe::{self, ProbeResult, Prober, portal::Answered, profile::Profile},
    spool::Spool,
    state::{self, State},
    uplink::{SharedSpool, Status, way::Way},
    voice::{Remarks, Voice},
    wishes,
};

/// How often the outbox is looked through for what is a week old.
const EXPIRE_EVERY_MS: u64 = 3_600_000;
/// How often the gateway is asked whether it is there.
const GATEWAY_EVERY_MS: u64 = 60_000;
/// While something is wrong here.
const GATEWAY_AGAIN_MS: u64 = 10_000;
/// For it to answer: two rounds of the kernel's, a second apart.
const GATEWAY_WITHIN: Duration = Duration::from_millis(2_500);
/// How often it is asked, while something is wrong here, whether something answers in the place of sites.
const PORTAL_EVERY_MS: u64 = 60_000;
const PORTAL_WITHIN: Duration = Duration::from_secs(4);
/// How often `tocsin status` is told how it stands.
const STATE_EVERY_MS: u64 = 15_000;

/// One operator as the probing loop sees it.
pub(crate) struct Operator {
    pub(crate) operator: PublicKey,
    pub(crate) voice: Arc<Voice>,
    pub(crate) status: watch::Receiver<Status>,
    /// As it was told last.
    pub(crate) connected: Option<Way>,
    /// The newest of its snapshots whose wishes are followed, 0 for none.
    pub(crate) sequence: u64,
}

/// The probing loop: what the core wants done, and what came of it.
pub(crate) struct Work {
    pub(crate) config: Config,
    pub(crate) clock: Clock,
    pub(crate) prober: Arc<Prober>,
    pub(crate) profile: Profile,
    pub(crate) core: Core,
    pub(crate) spool: SharedSpool,
    pub(crate) operators: Vec<Operator>,
    pub(crate) resolver: ResolverClass,
    pub(crate) network: watch::Receiver<Network>,
    pub(crate) asked: mpsc::Receiver<AskBack>,
    /// Keeps the channel open where there is no collector.
    pub(crate) _asks: mpsc::Sender<AskBack>,
    /// How often this machine has moved to another network.
    pub(crate) moves: u64,
    /// What was found out about the own line beside the probes.
    pub(crate) checked: Checked,
    pub(crate) started_at: Timestamp,
    /// When it is next looked which sites are to be left alone.
    pub(crate) wishes_at: Timestamp,
    /// When that was done last.
    pub(crate) wished_at: Timestamp,
    /// Those, by host.
    pub(crate) left_alone: Vec<String>,
    /// What holds the schedule back now.
    pub(crate) held: watch::Receiver<Vec<Pause>>,
    /// The newest looks, for metrics.
    pub(crate) board: Arc<Board>,
    /// And those that notices are made of.
    pub(crate) witness: Witness,
    pub(crate) notices: JoinSet<()>,
    pub(crate) tell: Arc<dyn Fn(Told) + Send + Sync>,
}

/// What was found out about the own line beside the probes, and when it is looked at again.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Checked {
    gateway: Option<bool>,
    no_portal: Option<bool>,
    /// Whether a site answered in this round.
    site_answered: bool,
    gateway_at: Timestamp,
    portal_at: Timestamp,
    told_at: Timestamp,
}

/// What a check of the own line came to.
enum Check {
    Gateway(Option<bool>),
    Plain(Answered),
}

struct Probed {
    /// Moves when it began: what was under way during a move was seen from nowhere.
    moves: u64,
    at: Timestamp,
    request: Request,
    result: ProbeResult,
}

impl Work {
    pub(crate) async fn run(mut self, shutdown: CancellationToken) -> Result<(), RunError> {
        let mut probes: JoinSet<Option<Probed>> = JoinSet::new();
        // What was asked before a move was answered elsewhere: its word is of no use here.
        let mut checks: JoinSet<(u64, Check)> = JoinSet::new();
        let mut expire_at = self.clock.now();
        loop {
            let now = self.clock.now();
            // Only by a clock that a collector has confirmed: a wrong one would throw away much.
            let offset = self.operators.iter().find_map(|operator| operator.voice.offset_ms());
            let right = offset.is_some_and(|ms| ms.unsigned_abs() <= CLOCK_OFFSET_MAX_MS);
            if right && now >= expire_at {
                expire_at = now.plus_ms(EXPIRE_EVERY_MS);
                self.spool().expire(now)?;
            }
            if self.network.has_changed().unwrap_or(false) {
                self.follow_network(now)?;
            }
            self.follow_schedules(now, &mut probes)?;
            self.follow_wishes(now, &mut probes)?;
            let others = self.spool().others()?;
            if others != Others::default() {
                let effects = self.core.others(now, &others);
                self.spool().spent(self.core.courtesy().fill(now), None)?;
                self.carry_out(now, effects, &mut probes)?;
            }
            let effects = self.core.tick(now);
            self.carry_out(now, effects, &mut probes)?;
            self.check_line(now, &mut checks)?;
            self.keep_state(now)?;
            let next = self.core.next_deadline(now).min(now.plus_ms(1_000));
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = tokio::time::sleep_until(self.clock.instant(next).into()) => {}
                Some(ask) = self.asked.recv() => {
                    let now = self.clock.now();
                    let effects = self.core.ask(now, ask);
                    self.carry_out(now, effects, &mut probes)?;
                }
                Some(Ok((moves, check))) = checks.join_next() => {
                    if moves == self.moves {
                        self.checked(&check);
                    }
                }
                Some(probed) = probes.join_next() => {
                    let name = "probe";
                    let probed = probed.map_err(|source| RunError::Task { name, source })?;
                    if let Some(probed) = probed {
                        self.take(&probed, &mut probes)?;
                    }
                }
            }
        }
        // What is under way is ours to abandon; what was seen is kept.
        probes.shutdown().await;
        let now = self.clock.now();
        let batches = self.core.flush();
        self.store(now, &batches)
    }

    fn spool(&self) -> std::sync::MutexGuard<'_, Spool> {
        // Every call on it is one transaction: a panic between two leaves it whole.
        self.spool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was seen so far was seen in the network before; it is signed as such before anything
    /// is said from the new one.
    fn follow_network(&mut self, now: Timestamp) -> Result<(), RunError> {
        let context = self.network.borrow_and_update().context.clone();
        let moved = self.operators.iter().any(|op| op.voice.context() != context);
        if !moved {
            return Ok(());
        }
        let batches = self.core.flush();
        self.store(now, &batches)?;
        self.core.moved();
        self.moves += 1;
        self.checked = Checked { told_at: self.checked.told_at, ..Checked::default() };
        self.prober.moved();
        for operator in &self.operators {
            operator.voice.moved(context.clone());
        }
        Ok(())
    }

    /// Sites whose owners want no probes, as the operators' signed snapshots say, are left alone. Said again before it
    /// runs out; what is taken off the list is looked at again after a day.
    fn follow_wishes(
        &mut self,
        now: Timestamp,
        probes: &mut JoinSet<Option<Probed>>,
    ) -> Result<(), RunError> {
        if now < self.wishes_at {
            return Ok(());
        }
        self.wishes_at = now.plus_ms(wishes::EVERY_MS);
        self.wished_at = now;
        self.notice(now)?;
        let wishes = self.operators.iter().map(|op| wishes::of(&self.spool(), &op.operator));
        let wishes: Vec<Public> = wishes.collect::<Result<_, _>>()?;
        let quiets = wishes::quiets(&self.config.catalogue, &wishes, now);
        let host = |quiet: &Quiet| Some(self.config.catalogue.target(quiet.target)?.host.clone());
        self.left_alone = quiets.iter().filter_map(host).collect();
        // For `why` and scrapers, who look from beside.
        for quiet in &quiets {
            self.spool().spent(self.core.courtesy().fill(now), Some(*quiet))?;
        }
        if !quiets.is_empty() {
            let effects = self.core.others(now, &Others { quiets, ..Others::default() });
            self.carry_out(now, effects, probes)?;
        }
        Ok(())
    }

    /// Tells on the desktop of an incident that explains what fails here, once.
    fn notice(&mut self, now: Timestamp) -> Result<(), RunError> {
        while self.notices.try_join_next().is_some() {}
        if !self.config.notify {
            return Ok(());
        }
        let feeds = look::kept_feeds(&self.config, &self.spool(), self.clock)?;
        let line = OwnLine {
            route: self.network.borrow().route,
            gateway: self.checked.gateway,
            no_portal: self.checked.no_portal,
            collector: Some(self.operators.iter().any(|op| op.status.borrow().connected.is_some())),
            clock: None,
            tunnel: self.network.borrow().is_tunnel(),
        };
        let resolver = self.resolver.name();
        let language = config::language();
        for (title, text) in
            self.witness.told(&self.config.catalogue, now, &feeds, line, resolver, language)
        {
            self.notices.spawn(notice::show(title, text));
        }
        Ok(())
    }

    /// The most careful of the collectors is followed.
    fn follow_schedules(
        &mut self,
        now: Timestamp,
        probes: &mut JoinSet<Option<Probed>>,
    ) -> Result<(), RunError> {
        let changed = self.operators.iter().any(|op| op.status.has_changed().unwrap_or(false));
        if !changed {
            return Ok(());
        }
        for operator in &mut self.operators {
            let (way, sequence) = {
                let status = operator.status.borrow();
                (status.connected, status.sequence)
            };
            if sequence != operator.sequence {
                // Other wishes may have come. A collector that sends one after another is not followed sooner.
                let again = self.wished_at.plus_ms(wishes::AGAIN_MS);
                let first = operator.sequence == 0;
                self.wishes_at = self.wishes_at.min(if first { now } else { again });
                operator.sequence = sequence;
            }
            if way != operator.connected {
                operator.connected = way;
                (self.tell)(Told::Session { at: now, operator: operator.operator, way });
            }
        }
        let of = |op: &mut Operator| op.status.borrow_and_update().schedule;
        let schedules: Vec<_> = self.operators.iter_mut().filter_map(of).collect();
        let least = schedules.iter().map(|schedule| schedule.probes_per_minute).min();
        let shortest = schedules.iter().map(|schedule| schedule.report_interval_s).min();
        let Some((least, shortest)) = least.zip(shortest) else { return Ok(()) };
        let effects = self.core.schedule(now, least, shortest);
        self.carry_out(now, effects, probes)
    }

    fn carry_out(
        &self,
        now: Timestamp,
        effects: Vec<Effect>,
        probes: &mut JoinSet<Option<Probed>>,
    ) -> Result<(), RunError> {
        let mut requests = Vec::new();
        let mut batches = Vec::new();
        for effect in effects {
            match effect {
                Effect::Say(batch) => batches.push(batch),
                Effect::Probe(request) => requests.push(request),
            }
        }
        self.store(now, &batches)?;
        self.start(requests, probes)
    }

    /// Each start is on disk before it is made: a restart does not make a target pay twice.
    fn start(
        &self,
        requests: Vec<Request>,
        probes: &mut JoinSet<Option<Probed>>,
    ) -> Result<(), RunError> {
        // What is paused is not made up for.
        let held = !self.held.borrow().is_empty();
        for request in requests.into_iter().filter(|_| !held) {
            let Some(target) = self.config.catalogue.target(request.target).cloned() else {
                continue;
            };
            let (prober, clock) = (Arc::clone(&self.prober), self.clock);
            let (at, moves) = (clock.now(), self.moves);
            let of = request.purpose.of();
            self.spool().started(Start { at, target: request.target, of })?;
            probes.spawn(async move {
                let look = probe::Look {
                    full_handshake: request.full_handshake,
                    names: request.names,
                    within: None,
                };
                let result = prober.probe(&target, request.family, look).await;
                Some(Probed { moves, at, request, result })
            });
        }
        Ok(())
    }

    fn take(
        &mut self,
        probed: &Probed,
        probes: &mut JoinSet<Option<Probed>>,
    ) -> Result<(), RunError> {
        let now = self.clock.now();
        let Probed { moves, at, request, result } = probed;
        if *moves != self.moves {
            return Ok(());
        }
        let (outcome, effects) = self.core.found(now, *at, *request, &finding(result));
        self.board.probed(*at, request.target, request.family, result);
        if self.config.notify {
            self.witness.saw(now, request.target, look::look(request.family, result).0);
        }
        (self.tell)(Told::Probed { at: *at, request: *request, outcome, took: result.total });
        if !outcome.is_answer() {
            self.operators.iter().for_each(|operator| operator.voice.news().notify_one());
        }
        self.carry_out(now, effects, probes)?;
        self.keep_waiting(now)?;
        let courtesy = self.core.courtesy();
        let quiet = result.retry_after_s.and_then(|_| courtesy.quiet(request.target));
        Ok(self.spool().spent(courtesy.fill(now), quiet)?)
    }

    /// What waits for its report is kept too: `tocsin show` shows it, and a crash does not lose it.
    fn keep_waiting(&self, now: Timestamp) -> Result<(), RunError> {
        let body = self.core.waiting().map(|batch| {
            let health = self.core.health(now, self.line());
            let (probe_core, resolver) = (self.profile.probe_core(), self.resolver);
            wire::encode(&batch.report(Stamp {
                seq: 0,
                offset_ms: 0,
                probe_core,
                health,
                resolver,
            }))
        });
        // Any operator's voice knows where we are; without one nothing is kept.
        let place = self.operators.first().map(|operator| operator.voice.here());
        let waiting = place.as_deref().zip(body.as_deref());
        Ok(self.spool().batching(waiting)?)
    }

    /// Says each batch to each operator.
    fn store(&self, now: Timestamp, batches: &[Batch]) -> Result<(), RunError> {
        if batches.is_empty() {
            return Ok(());
        }
        // Forgotten before it is signed: after a crash in between, nothing is said twice.
        self.spool().batching(None)?;
        let health = self.core.health(now, self.line());
        let remarks = Remarks { health, resolver: self.resolver };
        for operator in &self.operators {
            for batch in batches {
                operator.voice.say(now, batch, remarks)?;
            }
        }
        Ok(())
    }

    /// Looks at the own line where that is due: the gateway now and then, and, while most of the unrelated rest fails,
    /// whether something answers in its place.
    fn check_line(
        &mut self,
        now: Timestamp,
        checks: &mut JoinSet<(u64, Check)>,
    ) -> Result<(), RunError> {
        let moves = self.moves;
        let health = self.core.health(now, self.line());
        let troubled = health.check(HealthCheck::Unrelated) == Some(false)
            || health.check(HealthCheck::SystemResolver) == Some(false);
        let gateway = self.network.borrow().gateway();
        if now >= self.checked.gateway_at {
            let pause = if troubled { GATEWAY_AGAIN_MS } else { GATEWAY_EVERY_MS };
            self.checked.gateway_at = now.plus_ms(pause);
            match gateway {
                Some(gateway) => drop(checks.spawn(async move {
                    (moves, Check::Gateway(gateway::answers(gateway, GATEWAY_WITHIN).await))
                })),
                None => self.checked.gateway = None,
            }
        }
        if !troubled {
            // What answers over https is no portal.
            let fine = health.check(HealthCheck::Unrelated) == Some(true);
            self.checked.no_portal = fine.then_some(true);
            self.checked.portal_at = Timestamp::EPOCH;
            return Ok(());
        }
        if now < self.checked.portal_at {
            return Ok(());
        }
        // What was known was of better times.
        if self.checked.portal_at == Timestamp::EPOCH {
            self.checked.no_portal = None;
        }
        self.checked.site_answered = false;
        self.checked.portal_at = now.plus_ms(PORTAL_EVERY_MS);
        let family = self.config.families.first().copied().unwrap_or(Family::V4);
        let start = getrandom::u64().unwrap_or(0);
        let held = !self.held.borrow().is_empty();
        let chosen = look::controls(&self.config.catalogue, None, start).into_iter().take(2);
        for target in chosen.filter(|_| !held) {
            // It is a visit like any other, and counted as one.
            let (index, of) = (target.index, Use::Verification);
            if self.core.courtesy().may(now, index, of).is_err() {
                continue;
            }
            let start = Start { at: now, target: index, of };
            self.spool().started(start)?;
            let others = Others { starts: vec![start], ..Others::default() };
            // It has nothing to do for others' starts but to count them.
            drop(self.core.others(now, &others));
            let (prober, host) = (Arc::clone(&self.prober), target.host.clone());
            checks.spawn(async move {
                (moves, Check::Plain(prober.plain(&host, family, PORTAL_WITHIN).await))
            });
        }
        Ok(())
    }

    const fn checked(&mut self, check: &Check) {
        match check {
            Check::Gateway(answers) => self.checked.gateway = *answers,
            Check::Plain(Answered::Site) => {
                (self.checked.no_portal, self.checked.site_answered) = (Some(true), true);
            }
            Check::Plain(Answered::Other) if !self.checked.site_answered => {
                self.checked.no_portal = Some(false);
            }
            Check::Plain(_) => {}
        }
    }

    /// Tells `tocsin status` how it stands.
    fn keep_state(&mut self, now: Timestamp) -> Result<(), RunError> {
        if now < self.checked.told_at.plus_ms(STATE_EVERY_MS) {
            return Ok(());
        }
        self.checked.told_at = now;
        let health = self.core.health(now, self.line());
        let statuses = self.operators.iter().map(|op| (op.operator, *op.status.borrow()));
        let statuses: Vec<(PublicKey, Status)> = statuses.collect();
        let state = State {
            at: now,
            started_at: self.started_at,
            checks: State::checks(&health),
            unrelated_ok: health.unrelated_ok,
            resolver: self.resolver.name().to_owned(),
            probes_per_minute: statuses
                .iter()
                .filter_map(|(_, status)| Some(status.schedule?.probes_per_minute))
                .min(),
            sessions: statuses.iter().map(|(op, status)| state::Session::of(*op, status)).collect(),
            left_alone: self.left_alone.clone(),
            paused_on: self.held.borrow().clone(),
            day_bytes: self.core.courtesy().fill(now).bytes,
            day_bytes_max: self.config.day_bytes_max,
        };
        (self.tell)(Told::Alive {
            failing: state.checks.iter().filter(|check| !check.ok).count(),
            reached: (
                state.sessions.iter().filter(|session| session.way.is_some()).count(),
                state.sessions.len(),
            ),
        });
        Ok(self.spool().keep_state(&state)?)
    }

    /// What is known of the own line besides the probes.
    fn line(&self) -> Line {
        let statuses: Vec<Status> = self.operators.iter().map(|op| *op.status.borrow()).collect();
        // Our wall clock is off when every collector says so.
        let offsets = statuses.iter().filter_map(|status| status.offset_ms);
        let nearest = offsets.map(i64::unsigned_abs).min();
        Line {
            route: self.network.borrow().route,
            gateway: self.checked.gateway,
            no_portal: self.checked.no_portal,
            clock: nearest.map(|ms| ms <= CLOCK_OFFSET_MAX_MS),
            // It passes when it does to one of them.
            udp: statuses.iter().filter_map(|status| status.udp).max(),
            ..Line::default()
        }
    }
}

fn finding(result: &ProbeResult) -> Finding {
    let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let body_comes = result.http_version.map(|version| version == "http/1.1");
    Finding {
        outcome: result.outcome,
        rule: result.rule,
        dns: result.dns,
        status: result.status,
        phases_ms: result.phases.map(|phase| phase.map_or(0, ms)),
        total_ms: ms(result.total),
        bytes: wire_bytes(result.bytes_in + result.bytes_out, body_comes == Some(true)),
        retry_after_s: result.retry_after_s,
        body_comes,
    }
}
