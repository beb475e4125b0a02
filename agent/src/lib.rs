//! The agent that people install: probes what the catalogue names, says what it saw, and keeps it
//! until a collector has it on disk.
//!
//! [`run`] is a whole agent. It has no process-wide state, so a lab runs many in one process.

pub mod cli;
pub mod clock;
pub mod config;
pub mod consent;
pub mod engine;
pub mod gateway;
pub mod identity;
pub mod look;
pub mod means;
pub mod metrics;
pub mod network;
pub mod notice;
pub mod probe;
pub mod spool;
pub mod state;
pub mod uplink;
pub mod voice;
pub mod wishes;
pub mod words;
mod work;

use std::{
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tocsin_proto::{outcome::Outcome, sign::PublicKey, time::Timestamp};
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use clock::Clock;
use config::Config;
use engine::{
    address::Allowed,
    core::Core,
    outbox::resolver_class,
    planner::{self, Request},
};
use identity::{Identity, IdentityError};
use metrics::{Board, Exporter};
use network::Network;
use notice::Witness;
use probe::{Independent, ProbeSettings, ProbeSetupError, Prober, profile::Profile};
use spool::{Spool, SpoolError};
use uplink::{
    SharedSpool, Status, Uplink, UplinkError,
    way::{Pace, Way},
};
use voice::Voice;
use work::{Checked, Operator, Work};

/// Build of the code that resolves, connects and classifies: a stratum of the detector. It rises
/// when a change there could change an outcome.
pub const PROBE_CORE: u16 = 2;
/// Operators that are reported to; the configuration refuses more.
pub const OPERATORS_MAX: usize = 2;
/// Asks that wait to be looked at: more than a minute's probes allow.
const ASKS_MAX: usize = 8;
/// Seconds between reports until a collector says otherwise.
const REPORT_INTERVAL_S: u16 = 60;
/// A wall clock that is further from a collector's than this is wrong, milliseconds.
pub const CLOCK_OFFSET_MAX_MS: u64 = 30_000;

/// Why an agent stopped, or did not start.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Another agent runs there.
    #[error("another agent runs with the state directory {0}; stop it, or set another state_dir")]
    Running(PathBuf),
    /// The lock file cannot be made.
    #[error("cannot lock the state directory {path}")]
    Lock {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Metrics cannot be served there.
    #[error("metrics cannot be served on {address}: set another address, or none")]
    Metrics {
        /// Where.
        address: std::net::SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
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

/// The prober that a configuration describes.
///
/// # Errors
/// When an extra root or the User-Agent is refused.
pub fn prober(config: &Config, profile: Profile) -> Result<Prober, ProbeSetupError> {
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
        user_agent: config.user_agent(),
        profile,
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
    /// It is at work: told every few seconds by the loop that does it.
    Alive {
        /// Checks of the own line that fail.
        failing: usize,
        /// Collectors that are reached, of those that are set.
        reached: (usize, usize),
    },
    /// A session with a collector began, or ended.
    Session {
        /// When, by the agent's own clock.
        at: Timestamp,
        /// Whose collector.
        operator: PublicKey,
        /// Which way it is reached; `None` when the session is over.
        way: Option<Way>,
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
    let _alone = lock(&config.state_dir)?;
    let spool = Spool::open(&config.state_dir, config.outbox_bytes_max)?;
    let spool: SharedSpool = Arc::new(Mutex::new(spool));
    let profile = config.profile.unwrap_or_else(|| Profile::of(&identity.plan_seed()));
    let prober = Arc::new(prober(&config, profile).map_err(RunError::Probe)?);
    let clock = Clock::start();
    let courtesy = spool.lock().unwrap_or_else(PoisonError::into_inner).courtesy(
        clock.now(),
        config.day_bytes_max,
        true,
    )?;
    let mut tasks: JoinSet<(&'static str, Result<(), RunError>)> = JoinSet::new();
    let (moves, network) = watch::channel(Network::now(config.context.as_deref()));
    let (named, stop) = (config.context.clone(), shutdown.clone());
    tasks.spawn(async move {
        network::follow(named, moves, stop).await;
        ("network", Ok(()))
    });
    let (asks, asked) = mpsc::channel(ASKS_MAX);
    let mut operators: Vec<Operator> = Vec::new();
    for line in config.collectors.iter().take(OPERATORS_MAX) {
        let voice = Arc::new(Voice::new(
            line.operator,
            Arc::clone(&identity),
            Arc::clone(&spool),
            config.context.clone(),
            profile,
        ));
        let (sender, status) = watch::channel(Status::default());
        let uplink = Uplink {
            line: line.clone(),
            transport: config.transport,
            pace: Pace::default(),
            voice: Arc::clone(&voice),
            clock,
            sources: config.source_address.clone(),
            catalogue_version: config.catalogue.version(),
            asks: asks.clone(),
            status: sender,
        };
        let operator = line.operator;
        operators.push(Operator { operator, voice, status, connected: None, sequence: 0 });
        let shutdown = shutdown.clone();
        tasks.spawn(async move { ("uplink", uplink.run(shutdown).await.map_err(RunError::from)) });
    }
    recover(&spool, &operators, clock.now())?;
    let (holds, held) = watch::channel(Vec::new());
    let (respected, stop) = (config.pause_on.clone(), shutdown.clone());
    if !respected.is_empty() {
        tasks.spawn(async move {
            means::follow(respected, holds, stop).await;
            ("means", Ok(()))
        });
    }
    let board = Arc::new(Board::default());
    if let Some(address) = config.metrics {
        let failed = |source| RunError::Metrics { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let exporter = Arc::new(Exporter {
            catalogue: Arc::clone(&config.catalogue),
            families: config.families.clone(),
            day_bytes_max: config.day_bytes_max,
            board: Arc::clone(&board),
            prober: Arc::clone(&prober),
            state_dir: config.state_dir.clone(),
            outbox_bytes_max: config.outbox_bytes_max,
            held: held.clone(),
            clock,
        });
        let stop = shutdown.clone();
        tasks.spawn(async move {
            exporter.serve(listener, stop).await;
            ("metrics", Ok(()))
        });
    }
    let resolver = resolver_class(&config.resolvers);
    let setup = planner::Setup {
        catalogue: Arc::clone(&config.catalogue),
        families: config.families.clone(),
        seed: identity.plan_seed(),
        probes_per_minute_max: config.probes_per_minute_max,
    };
    let work = Work {
        core: Core::new(setup, courtesy, REPORT_INTERVAL_S),
        config,
        clock,
        prober,
        profile,
        spool,
        operators,
        resolver,
        network,
        asked,
        _asks: asks,
        moves: 0,
        checked: Checked::default(),
        started_at: clock.now(),
        wishes_at: Timestamp::EPOCH,
        wished_at: Timestamp::EPOCH,
        left_alone: Vec::new(),
        held,
        board,
        witness: Witness::default(),
        notices: JoinSet::new(),
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

/// Holds the state directory for one agent, until it is dropped or the process ends.
pub(crate) fn lock(state_dir: &Path) -> Result<fs::File, RunError> {
    let path = state_dir.join("lock");
    let failed = |source| RunError::Lock { path: state_dir.to_owned(), source };
    let file = fs::File::create(&path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(RunError::Running(state_dir.to_owned())),
        Err(fs::TryLockError::Error(source)) => Err(failed(source)),
    }
}

/// What the last run had not yet put into a report becomes a draft of the network it was seen in.
fn recover(spool: &SharedSpool, operators: &[Operator], now: Timestamp) -> Result<(), SpoolError> {
    let mut spool = spool.lock().unwrap_or_else(PoisonError::into_inner);
    let Some((place, body)) = spool.batched()? else { return Ok(()) };
    spool.batching(None)?;
    for operator in operators {
        spool.draft(&operator.operator, &place, &body, false, now)?;
    }
    Ok(())
}
