//! The agent that people install: probes what the catalogue names, says what it saw, and keeps it
//! until a collector has it on disk.
//!
//! [`run`] is a whole agent. It has no process-wide state, so a lab runs many in one process.

pub mod cli;
pub mod clock;
pub mod config;
pub mod engine;
pub mod identity;
pub mod network;
pub mod probe;
pub mod spool;
pub mod uplink;
pub mod voice;

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tocsin_proto::{
    observation::{Failure, LogMs, Observation},
    outcome::Outcome,
    report::ResolverClass,
    sign::PublicKey,
    time::Timestamp,
    wire,
};
use tokio::{sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;

use clock::Clock;
use config::Config;
use engine::{
    address::Allowed,
    courtesy::{Start, wire_bytes},
    judge::{Judge, Line},
    outbox::{Batch, Outbox, Seen, Stamp, resolver_class},
    planner::{self, Action, Done, Event, Planner, Request},
    usual::Usual,
};
use identity::{Identity, IdentityError};
use network::Network;
use probe::{Independent, ProbeResult, ProbeSettings, ProbeSetupError, Prober};
use spool::{Spool, SpoolError};
use uplink::{SharedSpool, Status, Uplink, UplinkError};
use voice::{Remarks, Voice};

/// Build of the code that resolves, connects and classifies: a stratum of the detector. It rises
/// when a change there could change an outcome.
pub const PROBE_CORE: u16 = 1;
/// Operators that are reported to; the configuration refuses more.
pub const OPERATORS_MAX: usize = 2;
/// How often the outbox is looked through for what is a week old.
const EXPIRE_EVERY_MS: u64 = 3_600_000;
/// A wall clock that is further from a collector's than this is wrong, milliseconds.
pub const CLOCK_OFFSET_MAX_MS: u64 = 30_000;

/// Why an agent stopped, or did not start.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// No identity.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The outbox fails.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// The prober cannot be made.
    #[error("the prober cannot be set up")]
    Probe(#[source] ProbeSetupError),
    /// The uplink fails for good.
    #[error(transparent)]
    Uplink(#[from] UplinkError),
    /// A task of this program failed: a bug.
    #[error("the task {name} failed; this is a bug, please report it")]
    Task {
        /// Its name.
        name: &'static str,
        /// How.
        #[source]
        source: tokio::task::JoinError,
    },
}

/// One operator as the probing loop sees it.
struct Operator {
    operator: PublicKey,
    voice: Arc<Voice>,
    status: watch::Receiver<Status>,
    /// As it was told last.
    connected: Option<SocketAddr>,
}

/// The prober that a configuration describes.
///
/// # Errors
/// When an extra root or the User-Agent is refused.
pub fn prober(config: &Config) -> Result<Prober, ProbeSetupError> {
    let mut independent = Independent::default();
    if !config.independent_roots.is_empty() {
        independent.roots.clone_from(&config.independent_roots);
        // Who names own roots lives apart from the public DNS.
        independent.fallback.clear();
    }
    independent.port = config.independent_port;
    let v4 = |ip: &IpAddr| if let IpAddr::V4(ip) = ip { Some(*ip) } else { None };
    let v6 = |ip: &IpAddr| if let IpAddr::V6(ip) = ip { Some(*ip) } else { None };
    Prober::new(ProbeSettings {
        source_v4: config.source_address.iter().find_map(v4),
        source_v6: config.source_address.iter().find_map(v6),
        resolvers: config.resolvers.clone(),
        independent,
        extra_roots: config.extra_roots.clone(),
        allowed: Allowed(config.allowed_ranges.clone()),
        user_agent: config.user_agent.clone(),
    })
}

/// What a running agent tells whoever watches it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// A probe has ended.
    Probed {
        /// When it began, by the agent's own clock.
        at: Timestamp,
        /// What it was for, and of which target.
        request: Request,
        /// What came of it.
        outcome: Outcome,
        /// The whole probe's time.
        took: Duration,
    },
    /// A session with a collector began, or ended.
    Session {
        /// When, by the agent's own clock.
        at: Timestamp,
        /// Whose collector.
        operator: PublicKey,
        /// Where it is reached; `None` when the session is over.
        address: Option<SocketAddr>,
    },
}

/// Runs an agent until the shutdown, or until a task fails.
///
/// # Errors
/// When there is no identity or outbox, or a task fails.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), RunError> {
    run_and_tell(config, shutdown, Arc::new(|_| {})).await
}

/// As [`run`], and tells what happens as it happens. The teller must return at once.
///
/// # Errors
/// As [`run`].
pub async fn run_and_tell(
    config: Config,
    shutdown: CancellationToken,
    tell: Arc<dyn Fn(Told) + Send + Sync>,
) -> Result<(), RunError> {
    let shutdown = shutdown.child_token();
    let identity = Arc::new(Identity::open(&config.state_dir)?);
    let spool = Spool::open(&config.state_dir, config.outbox_bytes_max)?;
    let spool: SharedSpool = Arc::new(Mutex::new(spool));
    let prober = Arc::new(prober(&config).map_err(RunError::Probe)?);
    let clock = Clock::start();
    let courtesy = spool
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .courtesy(clock.now(), config.day_bytes_max)?;
    let mut tasks: JoinSet<(&'static str, Result<(), RunError>)> = JoinSet::new();
    let (moves, network) = watch::channel(Network::now(config.context.as_deref()));
    let (named, stop) = (config.context.clone(), shutdown.clone());
    tasks.spawn(async move {
        network::follow(named, moves, stop).await;
        ("network", Ok(()))
    });
    let mut operators: Vec<Operator> = Vec::new();
    for line in config.collectors.iter().take(OPERATORS_MAX) {
        let voice = Arc::new(Voice::new(
            line.operator,
            Arc::clone(&identity),
            Arc::clone(&spool),
            network.borrow().context.clone(),
        ));
        let (sender, status) = watch::channel(Status::default());
        let uplink = Uplink {
            line: line.clone(),
            voice: Arc::clone(&voice),
            clock,
            sources: config.source_address.clone(),
            catalogue_version: config.catalogue.version(),
            status: sender,
        };
        let operator = line.operator;
        operators.push(Operator { operator, voice, status, connected: None });
        let shutdown = shutdown.clone();
        tasks.spawn(async move { ("uplink", uplink.run(shutdown).await.map_err(RunError::from)) });
    }
    let resolver = resolver_class(&config.resolvers);
    let setup = planner::Setup {
        catalogue: Arc::clone(&config.catalogue),
        families: config.families.clone(),
        seed: identity.plan_seed(),
        probes_per_minute_max: config.probes_per_minute_max,
    };
    let work = Work {
        planner: Planner::new(setup, courtesy),
        outbox: outbox(&spool)?,
        config,
        clock,
        prober,
        judge: Judge::default(),
        usual: Usual::default(),
        spool,
        operators,
        resolver,
        network,
        moves: 0,
        tell,
    };
    let stop = shutdown.clone();
    tasks.spawn(async move { ("probing", work.run(stop).await) });

    let mut ended = Ok(());
    while let Some(exit) = tasks.join_next().await {
        // The first exit ends all; its error is the one that is told.
        shutdown.cancel();
        let result = match exit {
            Ok((_, result)) => result,
            Err(source) => Err(RunError::Task { name: "agent", source }),
        };
        if ended.is_ok() {
            ended = result;
        }
    }
    ended
}

/// The outbox, with what the last run had not yet put into a report.
fn outbox(spool: &SharedSpool) -> Result<Outbox, SpoolError> {
    let mut outbox = Outbox::new(60);
    let batched = spool.lock().unwrap_or_else(PoisonError::into_inner).batched()?;
    if let Some(report) = batched.and_then(|body| wire::decode(&body).ok()) {
        outbox.restore(&report);
    }
    Ok(outbox)
}

/// The probing loop: planner, probes, judge, outbox.
struct Work {
    config: Config,
    clock: Clock,
    prober: Arc<Prober>,
    planner: Planner,
    outbox: Outbox,
    judge: Judge,
    usual: Usual,
    spool: SharedSpool,
    operators: Vec<Operator>,
    resolver: ResolverClass,
    network: watch::Receiver<Network>,
    /// How often this machine has moved to another network.
    moves: u64,
    tell: Arc<dyn Fn(Told) + Send + Sync>,
}

struct Probed {
    /// Moves when it began: what was under way during a move was seen from nowhere.
    moves: u64,
    at: Timestamp,
    request: Request,
    result: ProbeResult,
}

impl Work {
    async fn run(mut self, shutdown: CancellationToken) -> Result<(), RunError> {
        let mut probes: JoinSet<Option<Probed>> = JoinSet::new();
        let mut expire_at = self.clock.now();
        loop {
            let now = self.clock.now();
            if now >= expire_at {
                expire_at = now.plus_ms(EXPIRE_EVERY_MS);
                self.spool().expire(now)?;
            }
            if self.network.has_changed().unwrap_or(false) {
                self.follow_network(now)?;
            }
            self.follow_schedules(now, &mut probes)?;
            let others = self.spool().starts_of_others()?;
            for start in others {
                let actions = self.planner.step(now, Event::Other(start));
                self.start(actions, &mut probes)?;
            }
            let actions = self.planner.step(now, Event::Tick);
            self.start(actions, &mut probes)?;
            let batches = self.outbox.due(now);
            self.store(now, &batches)?;
            let planned = self.planner.next_deadline(now).min(now.plus_ms(1_000));
            let next = self.outbox.next_deadline().map_or(planned, |at| at.min(planned));
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = tokio::time::sleep_until(self.clock.instant(next).into()) => {}
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
        let batches = self.outbox.flush();
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
        let batches = self.outbox.flush();
        self.store(now, &batches)?;
        self.judge = Judge::default();
        self.moves += 1;
        for operator in &self.operators {
            operator.voice.moved(context.clone());
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
            let address = operator.status.borrow().connected;
            if address != operator.connected {
                operator.connected = address;
                (self.tell)(Told::Session { at: now, operator: operator.operator, address });
            }
        }
        let of = |op: &mut Operator| op.status.borrow_and_update().schedule;
        let schedules: Vec<_> = self.operators.iter_mut().filter_map(of).collect();
        if let Some(least) = schedules.iter().map(|s| s.probes_per_minute).min() {
            let actions = self.planner.step(now, Event::ProbesPerMinute(least));
            self.start(actions, probes)?;
        }
        if let Some(shortest) = schedules.iter().map(|s| s.report_interval_s).min() {
            self.outbox.interval(shortest);
        }
        Ok(())
    }

    /// Each start is on disk before it is made: a restart does not make a target pay twice.
    fn start(
        &self,
        actions: Vec<Action>,
        probes: &mut JoinSet<Option<Probed>>,
    ) -> Result<(), RunError> {
        for Action::Probe(request) in actions {
            let Some(target) = self.config.catalogue.target(request.target).cloned() else {
                continue;
            };
            let (prober, clock) = (Arc::clone(&self.prober), self.clock);
            let (at, moves) = (clock.now(), self.moves);
            let cause = request.purpose.cause();
            self.spool().started(Start { at, target: request.target, cause })?;
            probes.spawn(async move {
                let result = prober.probe(&target, request.family, request.full_handshake).await;
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
        let mut outcome = result.outcome;
        let ms = u64::try_from(result.total.as_millis()).unwrap_or(u64::MAX);
        if outcome == Outcome::Ok && self.usual.is_slow(request.target, request.family, ms) {
            outcome = Outcome::Slow;
        }
        (self.tell)(Told::Probed { at: *at, request: *request, outcome, took: result.total });
        let seen = seen(*at, *request, outcome, result);
        let observation = observation(&seen);
        self.judge.record(request.target, request.family, result.outcome, result.dns);
        let batches = self.outbox.push(now, seen);
        self.store(now, &batches)?;
        self.keep_waiting()?;
        let actions = self.planner.step(
            now,
            Event::Done(Done {
                request: *request,
                failed: !result.outcome.is_answer(),
                implication: observation.implication(),
                bytes: wire_bytes(
                    result.bytes_in + result.bytes_out,
                    result.http_version == Some("http/1.1"),
                ),
                retry_after_s: result.retry_after_s,
                no_address: result.outcome == Outcome::DnsNodata,
                body_comes: result.http_version.map(|version| version == "http/1.1"),
            }),
        );
        let courtesy = self.planner.courtesy();
        let quiet = result.retry_after_s.and_then(|_| courtesy.quiet(request.target));
        self.spool().spent(courtesy.fill(now), quiet)?;
        self.start(actions, probes)
    }

    /// What waits for its report is kept too: `tocsin show` shows it, and a crash does not lose it.
    fn keep_waiting(&self) -> Result<(), RunError> {
        let body = self.outbox.waiting().map(|batch| {
            let line = Line { thinned: false, ..Line::default() };
            let health = self.judge.health(&self.config.catalogue, line);
            let (probe_core, resolver) = (PROBE_CORE, self.resolver);
            wire::encode(&batch.report(Stamp {
                seq: 0,
                offset_ms: 0,
                probe_core,
                health,
                resolver,
            }))
        });
        Ok(self.spool().batching(body.as_deref())?)
    }

    /// Says each batch to each operator.
    fn store(&self, now: Timestamp, batches: &[Batch]) -> Result<(), RunError> {
        if batches.is_empty() {
            return Ok(());
        }
        // Forgotten before it is signed: after a crash in between, nothing is said twice.
        self.spool().batching(None)?;
        let health = self.judge.health(&self.config.catalogue, self.line(now));
        let remarks = Remarks { health, resolver: self.resolver };
        for operator in &self.operators {
            for batch in batches {
                operator.voice.say(now, batch, remarks)?;
            }
        }
        Ok(())
    }

    /// What is known of the own line besides the probes.
    fn line(&self, now: Timestamp) -> Line {
        let statuses: Vec<Status> = self.operators.iter().map(|op| *op.status.borrow()).collect();
        // Our wall clock is off when every collector says so.
        let offsets = statuses.iter().filter_map(|status| status.offset_ms);
        let nearest = offsets.map(i64::unsigned_abs).min();
        Line {
            thinned: self.planner.thinned(now),
            route: self.network.borrow().route,
            clock: nearest.map(|ms| ms <= CLOCK_OFFSET_MAX_MS),
            udp: statuses.iter().any(|status| status.connected.is_some()).then_some(true),
        }
    }
}

fn log_ms(duration: Duration) -> LogMs {
    LogMs::from_ms(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

fn seen(at: Timestamp, request: Request, outcome: Outcome, result: &ProbeResult) -> Seen {
    let failure = (outcome != Outcome::Ok).then(|| Failure {
        rule: result.rule,
        dns: result.dns,
        status: result.status,
        phases: result.phases.map(|phase| phase.map_or(LogMs(0), log_ms)),
    });
    Seen {
        at,
        target: request.target,
        family: request.family,
        cause: request.purpose.cause(),
        outcome,
        latency: log_ms(result.total),
        failure,
    }
}

fn observation(seen: &Seen) -> Observation {
    let Seen { target, family, cause, outcome, latency, failure, .. } = *seen;
    Observation { target, after_ds: 0, family, cause, outcome, latency, failure }
}
