//! The lab: a real crowd over a real, small internet, all on this machine and without root.
//!
//! Ninety agents (the agent library, each bound to its own /24 of 127/8) probe thirty sites behind
//! three edges, and report to one collector with its page. Then something breaks. Only
//! documented settings are used: no tenure ramp, a vouched probe-core version, extra roots, a
//! resolver, allowed ranges, and a raised schedule.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use serde::Serialize;
use tocsin_agent::{
    config::{Config as AgentConfig, RawConfig as RawAgentConfig},
    engine::diagnose::{Cause, Evidence, Works},
    look::{self, Site},
    probe::profile::Profile,
    spool::Spool,
    uplink::way::Transport,
};
use tocsin_collector::{
    Collector,
    clock::Clock,
    config::{Config, RawConfig, RawOverride},
    feed::Published,
    keys::Keys,
};
use tocsin_proto::{
    catalogue::{Catalogue, Target},
    incident::{Factor, Incident, Phase, Scope},
    observation::Family,
    snapshot::Overall,
};
use tokio::{sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::internet::{Expected, Fault, Internet};

/// Scheduled probes a minute and agent, raised from 3 until the collector can ask back: each site
/// comes round once a minute.
pub const PROBES_PER_MINUTE: u16 = 30;
/// Longest wait for the crowd to be large enough.
const CROWD_WITHIN: Duration = Duration::from_secs(90);
/// Quiet that is watched before something breaks, so that windows hold evidence of health.
const QUIET: Duration = Duration::from_secs(20);
/// What is expected must be confirmed within this.
pub const CONFIRM_WITHIN: Duration = Duration::from_secs(90);
/// After it, nothing else may be confirmed for so long.
const SETTLE: Duration = Duration::from_secs(25);

/// The world to play in.
#[derive(Debug, Clone, Copy)]
pub struct Play {
    /// Decides the world and who is unlucky in it.
    pub seed: u64,
    /// Where the page is served; port 0 for any.
    pub web: SocketAddr,
    /// Whether the collector may ask its agents to look closer.
    pub ask_back: bool,
    /// What agents report over.
    pub transport: Transport,
}

/// What is told of a run, as it happens.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum News {
    /// The collector and its page are up.
    Page {
        /// Where.
        url: String,
    },
    /// The crowd grows.
    Crowd {
        /// Observers heard.
        observers: u32,
        /// Of them, those whose vote counts.
        eligible: u32,
        /// Networks.
        networks: u32,
        /// Zones.
        zones: u32,
    },
    /// Something was broken.
    Broken {
        /// What.
        fault: String,
        /// What should be confirmed.
        expected: String,
    },
    /// An incident changed its phase.
    Incident {
        /// Which.
        id: String,
        /// In words.
        title: String,
        /// How far it reaches.
        scope: String,
        /// Its phase now.
        phase: Phase,
        /// Share of the votes that see it, in thousandths.
        share_permille: u16,
    },
    /// The run is over.
    Verdict {
        /// Whether exactly the expected was confirmed in time.
        pass: bool,
        /// Why, in words.
        why: String,
        /// Seconds from the fault to the confirmation.
        confirmed_s: Option<u64>,
        /// Reports in the log.
        reports: u64,
        /// Requests that the edges answered.
        requests: u64,
    },
}

/// News with the seconds since the start.
#[derive(Debug, Clone, Serialize)]
pub struct Dated {
    /// Seconds since the start, in thousandths.
    pub at_ms: u64,
    /// What happened.
    #[serde(flatten)]
    pub news: News,
}

/// A lab that runs.
#[derive(Debug)]
pub struct Lab {
    internet: Internet,
    published: watch::Receiver<Arc<Published>>,
    tasks: JoinSet<anyhow::Result<()>>,
    shutdown: CancellationToken,
    started: Instant,
    url: String,
    data: tempfile::TempDir,
    bystander: AgentConfig,
}

#[expect(clippy::disallowed_methods, reason = "the lab is a shell: it times a real run")]
fn now() -> Instant {
    Instant::now()
}

impl Lab {
    /// Starts the internet, the collector, and the crowd.
    ///
    /// # Errors
    /// When an address cannot be bound or a part cannot start.
    pub async fn start(play: Play) -> anyhow::Result<Self> {
        let started = now();
        let shutdown = CancellationToken::new();
        let internet = Internet::start(play.seed, shutdown.child_token()).await?;
        let data = tempfile::tempdir().context("a temporary folder")?;
        let catalogue_file = data.path().join("catalogue.toml");
        std::fs::write(&catalogue_file, &internet.catalogue_toml)?;
        let mut tasks = JoinSet::new();

        let dir = data.path().join("collector");
        Keys::init(&dir, Clock.wall())?;
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut raw = RawConfig {
            data_dir: dir,
            listen: vec![any],
            web_listen: play.web,
            operator_listen: any,
            catalogue_file: Some(catalogue_file),
            ..RawConfig::default()
        };
        raw.schedule.probes_per_minute = PROBES_PER_MINUTE;
        raw.schedule.report_interval_s = 10;
        raw.admission.tenure_hours_min = 0;
        raw.admission.tenure_hours_full = 0;
        // Everybody reports every few seconds.
        raw.detector.settle_s = 20;
        raw.detector.established_versions = vec![tocsin_agent::PROBE_CORE];
        raw.detector.ask_back = play.ask_back;
        raw.location.overrides = internet
            .overrides
            .iter()
            .map(|o| RawOverride { cidr: o.cidr, country: o.country, asn: o.asn })
            .collect();
        let collector = Collector::bind(Config::try_from(raw)?).await?;
        let addresses = collector.addresses().clone();
        let published = collector.published();
        let stop = shutdown.clone();
        tasks.spawn(async move { Ok(collector.serve(stop).await?) });

        let catalogue = Arc::new(Catalogue::parse(&internet.catalogue_toml)?);
        let mut bystander = None;
        let ca = data.path().join("ca.pem");
        std::fs::write(&ca, &internet.ca_pem)?;
        for (at, agent) in internet.agents.iter().enumerate() {
            let raw = RawAgentConfig {
                state_dir: Some(data.path().join(format!("agent-{at}"))),
                collectors: vec![addresses.line.clone()],
                source_address: vec![agent.source.into()],
                resolvers: vec![internet.resolver],
                independent_roots: internet.roots.clone(),
                independent_port: Some(internet.dns_port),
                extra_roots_file: Some(ca.clone()),
                allowed_ranges: internet.allowed.clone(),
                families: Some(vec![Family::V4]),
                context: Some(format!("lab-{at}")),
                probes_per_minute_max: Some(PROBES_PER_MINUTE),
                transport: Some(play.transport),
                ..RawAgentConfig::default()
            };
            let mut config = AgentConfig::try_from(raw)?;
            config.catalogue = Arc::clone(&catalogue);
            // Somebody else in the first one's place, who only asks.
            bystander.get_or_insert_with(|| AgentConfig {
                state_dir: data.path().join("bystander"),
                ..config.clone()
            });
            let stop = shutdown.clone();
            tasks.spawn(async move { Ok(tocsin_agent::run(config, stop).await?) });
        }
        let url = format!("http://{}/", addresses.web);
        let bystander = bystander.context("the lab has agents")?;
        Ok(Self { internet, published, tasks, shutdown, started, url, data, bystander })
    }

    /// Where the page is.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Waits until the published state satisfies a condition, telling of every incident that
    /// changes meanwhile. `None` when time ran out.
    async fn until<T>(
        &mut self,
        within: Duration,
        tell: &mut impl FnMut(Dated),
        told: &mut Told,
        mut condition: impl FnMut(&Published) -> Option<T>,
    ) -> anyhow::Result<Option<T>> {
        let look = async {
            loop {
                let published = Arc::clone(&self.published.borrow_and_update());
                for news in told.fresh(&published) {
                    tell(Dated { at_ms: self.elapsed_ms(), news });
                }
                if let Some(found) = condition(&published) {
                    return Ok(found);
                }
                tokio::select! {
                    changed = self.published.changed() => changed.context("the collector ended")?,
                    Some(ended) = self.tasks.join_next() => {
                        ended.context("a part of the lab panicked")??;
                        bail!("a part of the lab ended by itself");
                    }
                }
            }
        };
        tokio::time::timeout(within, look).await.ok().transpose()
    }

    /// Plays a fault to its verdict.
    ///
    /// # Errors
    /// When a part of the lab fails; a wrong verdict is no error.
    pub async fn play(
        &mut self,
        fault: Fault,
        mut tell: impl FnMut(Dated),
    ) -> anyhow::Result<bool> {
        let mut told = Told::default();
        tell(Dated { at_ms: self.elapsed_ms(), news: News::Page { url: self.url.clone() } });
        let agents = self.internet.agents.len();
        let crowd = |published: &Published| {
            let snapshot = &published.snapshot;
            let all = u32::try_from(agents).unwrap_or(u32::MAX);
            (snapshot.overall == Overall::Quiet && snapshot.crowd.eligible >= all - 5).then_some(())
        };
        if self.until(CROWD_WITHIN, &mut tell, &mut told, crowd).await?.is_none() {
            return self.verdict(&mut tell, false, "the crowd did not come together", None);
        }
        self.until(QUIET, &mut tell, &mut told, |_| None::<()>).await?;
        let expected = self.internet.expected(fault);
        self.internet.break_it(fault).await?;
        let broken = now();
        let news = News::Broken { fault: fault.to_string(), expected: words(&expected) };
        tell(Dated { at_ms: self.elapsed_ms(), news });

        let wrong = |published: &Published| {
            confirmed(published).find(|i| !fits(i, &expected)).map(|i| i.title.clone())
        };
        let right = |published: &Published| confirmed(published).any(|i| fits(i, &expected));
        let outcome = self
            .until(CONFIRM_WITHIN, &mut tell, &mut told, |published| {
                wrong(published).map(Err).or_else(|| right(published).then_some(Ok(())))
            })
            .await?;
        let confirmed_s = broken.elapsed().as_secs();
        match outcome {
            Some(Err(title)) => {
                return self.verdict(&mut tell, false, &format!("{title} was confirmed"), None);
            }
            None if expected == Expected::NothingGlobal => {
                let why = "nothing global was confirmed, as expected";
                return self.verdict(&mut tell, true, why, None);
            }
            None => {
                return self.verdict(&mut tell, false, "nothing was confirmed in time", None);
            }
            Some(Ok(())) => {}
        }
        if let Some(title) = self.until(SETTLE, &mut tell, &mut told, wrong).await? {
            let why = format!("{title} was confirmed besides");
            return self.verdict(&mut tell, false, &why, Some(confirmed_s));
        }
        if let Some(why) = self.misled(&expected).await? {
            return self.verdict(&mut tell, false, &why, Some(confirmed_s));
        }
        let why = format!("{} was confirmed, and nothing else", words(&expected));
        self.verdict(&mut tell, true, &why, Some(confirmed_s))
    }

    /// What somebody who asks `tocsin why` about a site that is down is told instead of the incident, if anything.
    async fn misled(&self, expected: &Expected) -> anyhow::Result<Option<String>> {
        let config = &self.bystander;
        drop(tocsin_agent::identity::Identity::open(&config.state_dir)?);
        let mut spool = Spool::open(&config.state_dir, config.outbox_bytes_max)?;
        let prober = Arc::new(tocsin_agent::prober(config, Profile::default())?);
        let behind = |target: &&Target| match expected {
            Expected::ProviderGlobal { provider, role } => target.provider(*role) == Some(provider),
            Expected::Site { target: id } => target.id == *id,
            Expected::NothingGlobal => false,
        };
        let sites = config.catalogue.targets().values().filter(behind);
        let mut told = Some("no site that is down failed for who asked".to_owned());
        // Of a provider some sites may still work.
        for target in sites {
            let site = Site { target: target.clone(), listed: true };
            let gathered =
                look::gather(config, &mut spool, &prober, &site, tocsin_agent::clock::monotonic())
                    .await?;
            let evidence = Evidence {
                target: Some(&site.target),
                looks: gathered.looks,
                controls: gathered.controls,
                line: gathered.line,
                resolver: None,
                feeds: gathered.feeds,
            };
            let diagnosis = evidence.diagnose(&config.catalogue);
            if diagnosis.works == Works::Yes {
                continue;
            }
            match &diagnosis.cause {
                Cause::Incident(incident) if fits(incident, expected) => return Ok(None),
                other => told = Some(format!("why {} was told {other:?}", target.host)),
            }
        }
        Ok(told)
    }

    fn verdict(
        &self,
        tell: &mut impl FnMut(Dated),
        pass: bool,
        why: &str,
        confirmed_s: Option<u64>,
    ) -> anyhow::Result<bool> {
        let log = self.data.path().join("collector").join(tocsin_collector::LOG);
        let reports = tocsin_collector::store::LogReader::open(&log)?.last_position()?;
        let requests = self.internet.counts().requests;
        let news = News::Verdict { pass, why: why.to_owned(), confirmed_s, reports, requests };
        tell(Dated { at_ms: self.elapsed_ms(), news });
        Ok(pass)
    }

    /// Mends what was broken.
    ///
    /// # Errors
    /// When an edge cannot be brought back.
    pub async fn heal(&self) -> anyhow::Result<()> {
        self.internet.heal().await
    }

    /// Stops every part, in order.
    ///
    /// # Errors
    /// When a part ended with an error.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        self.shutdown.cancel();
        let mut first = Ok(());
        while let Some(ended) = self.tasks.join_next().await {
            let ended = ended.context("a part of the lab panicked").and_then(|ended| ended);
            first = first.and(ended);
        }
        self.internet.stop().await;
        first
    }
}

fn confirmed(published: &Published) -> impl Iterator<Item = &Incident> {
    published.snapshot.incidents.iter().filter(|incident| incident.confirmed_at().is_some())
}

fn fits(incident: &Incident, expected: &Expected) -> bool {
    match (expected, &incident.factor, &incident.scope) {
        (
            Expected::ProviderGlobal { provider, role },
            Factor::Provider { provider: found, role: as_role },
            Scope::Global,
        ) => provider == found && role == as_role,
        (Expected::Site { target }, Factor::Site { target: found }, _) => target == found,
        _ => false,
    }
}

fn words(expected: &Expected) -> String {
    match expected {
        Expected::ProviderGlobal { provider, role } => {
            format!("{provider} ({}), global", format!("{role:?}").to_ascii_lowercase())
        }
        Expected::Site { target } => format!("the site {target}"),
        Expected::NothingGlobal => "nothing".to_owned(),
    }
}

/// What has been told already.
#[derive(Debug, Default)]
struct Told {
    phases: BTreeSet<(String, Phase, u32)>,
    eligible: u32,
}

impl Told {
    fn fresh(&mut self, published: &Published) -> Vec<News> {
        let mut news = Vec::new();
        let crowd = &published.snapshot.crowd;
        if crowd.eligible >= self.eligible + 15 {
            self.eligible = crowd.eligible;
            news.push(News::Crowd {
                observers: crowd.observers,
                eligible: crowd.eligible,
                networks: crowd.networks,
                zones: crowd.zones,
            });
        }
        for incident in &published.snapshot.incidents {
            let Incident { id, title, phase, relapses, share_permille, .. } = incident;
            if self.phases.insert((id.clone(), *phase, *relapses)) {
                let scope = match &incident.scope {
                    Scope::Global => "global".to_owned(),
                    Scope::Family { family } => format!("global: over IP{}", family.name()),
                    Scope::Site => "site".to_owned(),
                    Scope::Observers => "observers".to_owned(),
                    Scope::Regional { zones, countries } => {
                        let zones = zones.iter().map(ToString::to_string);
                        let countries = countries.iter().map(ToString::to_string);
                        let names: Vec<_> = zones.chain(countries).collect();
                        format!("regional: {}", names.join(", "))
                    }
                };
                news.push(News::Incident {
                    id: id.clone(),
                    title: title.clone(),
                    scope,
                    phase: *phase,
                    share_permille: *share_permille,
                });
            }
        }
        news
    }
}
