//! The agent that people install: probes what the catalogue names, says what it saw, and keeps it
//! until a collector has it on disk.
//!
//! [`run`] is a whole agent. It has no process-wide state, so a lab runs many in one process.

pub mod cli;
pub mod clock;
pub mod config;
pub mod engine;
pub mod identity;
pub mod probe;
pub mod spool;
pub mod uplink;

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tocsin_proto::{
    observation::{Failure, LogMs, Observation},
    report::{ResolverClass, SignedReport},
    sign::SecretKey,
    time::Timestamp,
};
use tokio::{
    sync::{Notify, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use clock::Clock;
use config::Config;
use engine::{
    address::Allowed,
    courtesy::wire_bytes,
    judge::Judge,
    outbox::{Batch, Outbox, Seen, Stamp, resolver_class},
    planner::{self, Action, Done, Event, Planner, Request},
};
use identity::{Identity, IdentityError};
use probe::{Independent, ProbeResult, ProbeSettings, ProbeSetupError, Prober};
use spool::{Spool, SpoolError};
use uplink::{SharedSpool, Status, Uplink, UplinkError};

/// Build of the code that resolves, connects and classifies: a stratum of the detector. It rises
/// when a change there could change an outcome.
pub const PROBE_CORE: u16 = 1;
/// Operators that are reported to; the configuration refuses more.
pub const OPERATORS_MAX: usize = 2;
/// How often the outbox is looked through for what is a week old.
const EXPIRE_EVERY_MS: u64 = 3_600_000;

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
    key: Arc<SecretKey>,
    wake: Arc<Notify>,
    status: watch::Receiver<Status>,
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

/// Runs an agent until the shutdown, or until a task fails.
///
/// # Errors
/// When there is no identity or outbox, or a task fails.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), RunError> {
    let shutdown = shutdown.child_token();
    let identity = Identity::open(&config.state_dir)?;
    let spool = Spool::open(&config.state_dir, config.outbox_bytes_max)?;
    let spool: SharedSpool = Arc::new(Mutex::new(spool));
    let prober = Arc::new(prober(&config).map_err(RunError::Probe)?);
    let clock = Clock::start();
    let mut tasks: JoinSet<(&'static str, Result<(), RunError>)> = JoinSet::new();
    let mut operators: Vec<Operator> = Vec::new();
    for line in config.collectors.iter().take(OPERATORS_MAX) {
        let key = Arc::new(identity.observer_key(&line.operator, &config.context));
        let wake = Arc::new(Notify::new());
        let (sender, status) = watch::channel(Status::default());
        let uplink = Uplink {
            line: line.clone(),
            key: Arc::clone(&key),
            spool: Arc::clone(&spool),
            wake: Arc::clone(&wake),
            clock,
            sources: config.source_address.clone(),
            catalogue_version: config.catalogue.version(),
            status: sender,
        };
        operators.push(Operator { key, wake, status });
        let shutdown = shutdown.clone();
        tasks.spawn(async move { ("uplink", uplink.run(shutdown).await.map_err(RunError::from)) });
    }
    let resolver = resolver_class(&config.resolvers);
    let planner = Planner::new(planner::Setup {
        catalogue: Arc::clone(&config.catalogue),
        families: config.families.clone(),
        seed: identity.plan_seed(),
        probes_per_minute_max: config.probes_per_minute_max,
        day_bytes_max: config.day_bytes_max,
    });
    let outbox = Outbox::new(60);
    let judge = Judge::default();
    let work = Work { config, clock, prober, planner, outbox, judge, spool, operators, resolver };
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

/// The probing loop: planner, probes, judge, outbox.
struct Work {
    config: Config,
    clock: Clock,
    prober: Arc<Prober>,
    planner: Planner,
    outbox: Outbox,
    judge: Judge,
    spool: SharedSpool,
    operators: Vec<Operator>,
    resolver: ResolverClass,
}

struct Probed {
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
                self.spool.lock().unwrap_or_else(PoisonError::into_inner).expire(now)?;
            }
            self.follow_schedules(now, &mut probes);
            let actions = self.planner.step(now, Event::Tick);
            self.start(actions, &mut probes);
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

    /// The most careful of the collectors is followed.
    fn follow_schedules(&mut self, now: Timestamp, probes: &mut JoinSet<Option<Probed>>) {
        let changed = self.operators.iter().any(|op| op.status.has_changed().unwrap_or(false));
        if !changed {
            return;
        }
        let of = |op: &mut Operator| op.status.borrow_and_update().schedule;
        let schedules: Vec<_> = self.operators.iter_mut().filter_map(of).collect();
        if let Some(least) = schedules.iter().map(|s| s.probes_per_minute).min() {
            let actions = self.planner.step(now, Event::ProbesPerMinute(least));
            self.start(actions, probes);
        }
        if let Some(shortest) = schedules.iter().map(|s| s.report_interval_s).min() {
            self.outbox.interval(shortest);
        }
    }

    fn start(&self, actions: Vec<Action>, probes: &mut JoinSet<Option<Probed>>) {
        for Action::Probe(request) in actions {
            let Some(target) = self.config.catalogue.target(request.target).cloned() else {
                continue;
            };
            let (prober, clock) = (Arc::clone(&self.prober), self.clock);
            probes.spawn(async move {
                let at = clock.now();
                let result = prober.probe(&target, request.family, request.full_handshake).await;
                Some(Probed { at, request, result })
            });
        }
    }

    fn take(
        &mut self,
        probed: &Probed,
        probes: &mut JoinSet<Option<Probed>>,
    ) -> Result<(), RunError> {
        let now = self.clock.now();
        let Probed { at, request, result } = probed;
        let seen = seen(*at, *request, result);
        let observation = observation(&seen);
        self.judge.record(request.target, request.family, result.outcome, result.dns);
        let batches = self.outbox.push(now, seen);
        self.store(now, &batches)?;
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
            }),
        );
        self.start(actions, probes);
        Ok(())
    }

    /// Signs each batch for each operator, in that collector's time, and wakes its uplink.
    fn store(&self, now: Timestamp, batches: &[Batch]) -> Result<(), RunError> {
        if batches.is_empty() {
            return Ok(());
        }
        let health = self.judge.health(&self.config.catalogue, self.planner.thinned(now));
        for operator in &self.operators {
            let offset_ms = operator.status.borrow().offset_ms.unwrap_or(0);
            for batch in batches {
                let (probe_core, resolver) = (PROBE_CORE, self.resolver);
                let sign = |seq| -> SignedReport {
                    let stamp = Stamp { seq, offset_ms, probe_core, health, resolver };
                    batch.report(stamp).sign(&operator.key)
                };
                self.spool.lock().unwrap_or_else(PoisonError::into_inner).push(
                    &operator.key.public(),
                    now,
                    batch.has_failure(),
                    sign,
                )?;
            }
            operator.wake.notify_one();
        }
        Ok(())
    }
}

fn log_ms(duration: Duration) -> LogMs {
    LogMs::from_ms(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

fn seen(at: Timestamp, request: Request, result: &ProbeResult) -> Seen {
    let failure = (result.outcome != tocsin_proto::outcome::Outcome::Ok).then(|| Failure {
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
        outcome: result.outcome,
        latency: log_ms(result.total),
        failure,
    }
}

fn observation(seen: &Seen) -> Observation {
    let Seen { target, family, cause, outcome, latency, failure, .. } = *seen;
    Observation { target, after_ds: 0, family, cause, outcome, latency, failure }
}
