//! The collector: takes signed reports from agents, keeps them in an ordered log, and publishes
//! what the detector makes of it.
//!
//! ```text
//! ingest (sessions) -> admit -> store (writer thread, commit, ack) -> pipeline (detector)
//!                                                                              -> publish -> web
//! ```
//!
//! One way, left to right. [`engine`] is pure; everything else is a thin shell around it. Only
//! this file and `pipeline` know several shells.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use tocsin_proto::{bounded::List, line::CollectorLine, message::GoAwayReason};
use tokio::{
    net::TcpListener,
    sync::{Semaphore, mpsc},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

pub mod cli;
pub mod clock;
pub mod config;
pub mod engine;
pub mod feed;
pub mod ingest;
pub mod keys;
pub mod metrics;
pub mod pipeline;
pub mod publish;
pub mod replay;
pub mod store;
pub mod web;

use crate::{
    clock::Clock,
    config::Config,
    engine::{
        locate::{Locator, Mmdb, MmdbError, Source, table},
        params::Settings,
    },
    ingest::{
        endpoint::{Endpoint, EndpointError, EndpointSecrets},
        gate::Gate,
        living::Living,
        prefix::{PrefixLimit, Slots},
        quic,
        session::Context,
        tcp,
    },
    keys::{Keys, KeysError, keep_secret},
    metrics::Metrics,
    pipeline::Pipeline,
    publish::Publisher,
    store::{LogReader, SqliteLog, StoreError, Writer},
};

/// Name of the log in the data folder.
pub const LOG: &str = "log.sqlite";
/// Name of the detector's state in the data folder.
pub const STATE: &str = "detector.state";
/// Name of the secret under which panels are drawn, in the data folder.
pub const PANEL_SECRET: &str = "panel.secret";
/// Attribution that the bundled location table asks for, as it stands on every page.
pub const ATTRIBUTION: &str = "Locations: ip-location-db (RouteViews, NRO, DB-IP https://db-ip.com), \
     CC BY 4.0; provider ranges: cdncheck, MIT";
/// How often it is looked whether a day has ended.
const TURN_EVERY: Duration = Duration::from_secs(60);
/// Longest wait for sessions to end when the collector stops.
const DRAIN: Duration = Duration::from_secs(5);

/// Where a running collector can be reached.
#[derive(Debug, Clone)]
pub struct Addresses {
    /// The line to hand out.
    pub line: CollectorLine,
    /// The public page.
    pub web: SocketAddr,
    /// Metrics and readiness.
    pub operator: SocketAddr,
}

/// Why a collector does not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Its keys.
    #[error("the keys cannot be used")]
    Keys(#[source] KeysError),
    /// Its log.
    #[error("the log cannot be used")]
    Store(#[source] StoreError),
    /// Its endpoint.
    #[error("agents cannot be served")]
    Endpoint(#[source] EndpointError),
    /// A location table.
    #[error("a location table cannot be used")]
    Mmdb(#[source] MmdbError),
    /// The bundled location table.
    #[error("the bundled location table is damaged; build the program again")]
    Table(#[source] table::TableError),
    /// A web address.
    #[error("{what} on TCP {address} cannot be served")]
    Web {
        /// Which of the two.
        what: &'static str,
        /// Its address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A thread.
    #[error("a thread could not be started")]
    Thread(#[source] std::io::Error),
    /// A task ended that should not have.
    #[error("the task {0} ended by itself; the log above may say why")]
    Task(&'static str),
}

fn locator(config: &Config) -> Result<Locator, RunError> {
    let bundled = table::Table::decode(table::BUNDLED).map_err(RunError::Table)?;
    if config.country_mmdb.is_none() && config.asn_mmdb.is_none() {
        return Ok(Locator::of_table(config.overrides.clone(), bundled));
    }
    let parse = |bytes: &Option<Vec<u8>>| {
        bytes.clone().map(Mmdb::parse).transpose().map_err(RunError::Mmdb)
    };
    let providers = bundled.providers().clone();
    let source = Source::Mmdb {
        country: parse(&config.country_mmdb)?,
        asn: parse(&config.asn_mmdb)?,
        rest: Some(bundled),
    };
    Ok(Locator::new(config.overrides.clone(), providers, source))
}

/// A collector that is bound and has read its log, but serves nobody yet.
#[derive(Debug)]
pub struct Collector {
    addresses: Addresses,
    endpoints: Vec<Endpoint>,
    context: Arc<Context>,
    sessions: Arc<Semaphore>,
    prefixes: PrefixLimit,
    web: TcpListener,
    operator: TcpListener,
    threads: Vec<(&'static str, std::thread::JoinHandle<()>)>,
}

impl Collector {
    /// Reads keys and log, brings the detector up to date, and binds every address.
    ///
    /// # Errors
    /// By cause, as in [`RunError`].
    pub async fn bind(config: Config) -> Result<Self, RunError> {
        let clock = Clock;
        let now = clock.wall();
        let dir = config.data_dir.clone();
        let keys = Keys::read(&dir, now).map_err(RunError::Keys)?;
        let secret = |name: &str| keep_secret(&dir.join(name)).map_err(RunError::Keys);
        let secrets =
            EndpointSecrets { reset: secret("reset.secret")?, token: secret("token.secret")? };
        let slots = Slots::open(dir.clone(), now).map_err(RunError::Keys)?;
        let metrics = Arc::new(Metrics::default());
        let log = SqliteLog::open(&dir.join(LOG)).map_err(RunError::Store)?;
        let reader = LogReader::open(&dir.join(LOG)).map_err(RunError::Store)?;
        let state_file: PathBuf = dir.join(STATE);
        let living = Living::default();
        let settings = Settings { panel_secret: secret(PANEL_SECRET)?, ..config.settings.clone() };
        let follower = pipeline::resume(&config.catalogue, &settings, &state_file, &reader)
            .map_err(RunError::Store)?;
        drop(reader);
        let publisher = Publisher {
            operator: keys.operator,
            feed: keys.feed,
            delegations: keys.delegations.clone(),
            attribution: ATTRIBUTION.to_owned(),
            public: config.public.clone(),
            parameters: Arc::new(publish::parameters(&settings)),
        };
        let (pipeline, published) = Pipeline::new(
            follower,
            publisher,
            Arc::clone(&metrics),
            living.clone(),
            state_file,
            now,
        );
        let (events, followed) = mpsc::channel(pipeline::QUEUE);
        let writer = Writer::start(log, config.retention_ms, clock, Arc::clone(&metrics), events)
            .map_err(RunError::Store)?;
        let detector = std::thread::Builder::new()
            .name("detector".to_owned())
            .spawn(move || pipeline.run(followed))
            .map_err(RunError::Thread)?;

        let mut endpoints = Vec::new();
        let mut reached = Vec::new();
        for address in &config.listen {
            let endpoint = Endpoint::bind(*address, config.tcp, &keys.transport, secrets)
                .map_err(RunError::Endpoint)?;
            reached.push(endpoint.address);
            endpoints.push(endpoint);
        }
        let listen = async |what, address| {
            let failed = |source| RunError::Web { what, address, source };
            let listener = TcpListener::bind(address).await.map_err(failed)?;
            let address = listener.local_addr().map_err(failed)?;
            Ok((listener, address))
        };
        let (web, web_address) = listen("the public page", config.web_listen).await?;
        let (operator, operator_address) = listen("metrics", config.operator_listen).await?;
        let delegations = List::new(keys.delegations).expect("a collector has one of each role");
        let context = Context {
            catalogue: Arc::new(config.catalogue.clone()),
            locator: locator(&config)?,
            slots,
            living,
            delegations,
            schedule: config.schedule,
            pow_bits: config.pow_bits,
            requests: writer.requests,
            published,
            metrics,
            clock,
        };
        let line = CollectorLine { operator: keys.operator, addresses: reached };
        Ok(Self {
            addresses: Addresses { line, web: web_address, operator: operator_address },
            endpoints,
            context: Arc::new(context),
            sessions: Arc::new(Semaphore::new(config.sessions_max)),
            prefixes: PrefixLimit::new(config.sessions_per_prefix_max),
            web,
            operator,
            threads: vec![("writer", writer.thread), ("detector", detector)],
        })
    }

    /// Where it can be reached.
    #[must_use]
    pub const fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// Its counters.
    #[must_use]
    pub fn metrics(&self) -> Arc<Metrics> {
        Arc::clone(&self.context.metrics)
    }

    /// Who has a session, and can be asked.
    #[must_use]
    pub fn living(&self) -> Living {
        self.context.living.clone()
    }

    /// What it publishes, as it changes.
    #[must_use]
    pub fn published(&self) -> tokio::sync::watch::Receiver<Arc<feed::Published>> {
        self.context.published.clone()
    }

    /// Serves until shutdown: then says goodbye to every session, commits what was taken, keeps
    /// the detector's state, and returns.
    ///
    /// # Errors
    /// When a part ends that should not have.
    pub async fn serve(self, shutdown: CancellationToken) -> Result<(), RunError> {
        let mut tasks: JoinSet<&'static str> = JoinSet::new();
        let gate = Gate {
            context: Arc::clone(&self.context),
            sessions: self.sessions,
            prefixes: self.prefixes,
        };
        for Endpoint { quic: endpoint, tcp: listener, .. } in self.endpoints {
            let (opened, stop) = (gate.clone(), shutdown.clone());
            tasks.spawn(async move {
                quic::accept(endpoint, opened, stop).await;
                "QUIC endpoint"
            });
            let Some(listener) = listener else { continue };
            let (opened, stop) = (gate.clone(), shutdown.clone());
            tasks.spawn(async move {
                tcp::accept(listener, opened, stop).await;
                "TCP listener"
            });
        }
        // What is left of it are the acceptors' own: with the last session the context goes.
        drop(gate);
        let site = web::Site {
            published: self.context.published.clone(),
            catalogue: Arc::clone(&self.context.catalogue),
        };
        let metrics = Arc::clone(&self.context.metrics);
        // Weak, so that a scraper's open connection does not keep the writer alive.
        let requests = self.context.requests.downgrade();
        let stopping = shutdown.clone();
        let operator = web::operator_router(
            Arc::new(move || metrics.text()),
            Arc::new(move || {
                if stopping.is_cancelled() {
                    return Err("stopping".to_owned());
                }
                let open = requests.upgrade().is_some_and(|requests| !requests.is_closed());
                if open { Ok(()) } else { Err("the log's writer is gone".to_owned()) }
            }),
        );
        let served = [("page", self.web, web::router(site)), ("operator", self.operator, operator)];
        for (name, listener, router) in served {
            let shutdown = shutdown.clone();
            tasks.spawn(async move {
                let serve = axum::serve(listener, router).into_future();
                tokio::select! {
                    () = shutdown.cancelled() => {}
                    ended = serve => {
                        if let Err(error) = ended {
                            tracing::error!(%error, "{name} ended");
                        }
                    }
                }
                name
            });
        }
        let (context, stop) = (Arc::downgrade(&self.context), shutdown.clone());
        tasks.spawn(async move {
            // The key of the day goes with its day, also in a night without reports.
            while let Some(context) = context.upgrade() {
                context.slots.turn(context.clock.wall());
                drop(context);
                tokio::select! {
                    () = stop.cancelled() => break,
                    () = tokio::time::sleep(TURN_EVERY) => {}
                }
            }
            "days"
        });
        drop(self.context);
        let first = tasks.join_next().await;
        let stopping = shutdown.is_cancelled();
        shutdown.cancel();
        let drain = async { while tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(DRAIN, drain).await.is_err() {
            tracing::warn!(reason = GoAwayReason::Shutdown.name(), "sessions were cut off");
        }
        drop(tasks);
        // With the last session gone the writer commits what it has, and the detector follows.
        for (name, thread) in self.threads {
            let ended = tokio::task::spawn_blocking(move || thread.join()).await;
            if !matches!(ended, Ok(Ok(()))) {
                return Err(RunError::Task(name));
            }
        }
        match first {
            Some(Ok(name)) if !stopping => Err(RunError::Task(name)),
            Some(Err(_)) => Err(RunError::Task("web")),
            _ => Ok(()),
        }
    }
}
