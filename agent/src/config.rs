//! What the user set: [`RawConfig`] as it was typed, [`Config`] as it was checked. The only file
//! that reads the environment.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
};

use ipnet::IpNet;
use rustls_pki_types::{CertificateDer, pem::PemObject};
use serde::{Deserialize, Serialize};
use tocsin_proto::{
    catalogue::{Catalogue, CatalogueError},
    limits::PROBES_PER_MINUTE_MAX,
    line::CollectorLine,
    observation::Family,
    sign::PublicKey,
};

use tracing_subscriber::filter::Targets;

use crate::{
    consent, identity, means::Pause, network::default_v6, probe::profile::Profile,
    uplink::way::Transport, words::Language,
};

/// A sample file: every setting with its default, as a comment.
pub const SAMPLE: &str = include_str!("../tocsin.toml");
/// The system's configuration file.
pub const SYSTEM_FILE: &str = "/etc/tocsin/tocsin.toml";
/// Where the system's service keeps its state (StateDirectory= of its unit).
pub const SYSTEM_STATE_DIR: &str = "/var/lib/tocsin-agent";
/// Bytes of a configuration file, at most.
const FILE_BYTES_MAX: u64 = 256 * 1024;
/// Collectors that may be named.
pub const COLLECTORS_MAX: usize = crate::OPERATORS_MAX;

/// The configuration as it is typed. Every field has a default; an unknown one is an error.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawConfig {
    /// The version of the text of `tocsin init` that is agreed to. Default: what was noted in the state directory.
    #[serde(deserialize_with = "consent::version")]
    pub accept: Option<u16>,
    /// Where the seed and the outbox are. Default: `$STATE_DIRECTORY`, else for root that of the system's service
    /// where one has run, else `$XDG_STATE_HOME/tocsin`, else `~/.local/state/tocsin`.
    pub state_dir: Option<PathBuf>,
    /// `tocsin://` lines, in order; the first two operators are reported to.
    pub collectors: Vec<CollectorLine>,
    /// Families to probe: `v4`, `v6` or both. Default: `v4`, and `v6` where it has a default route.
    pub families: Option<Vec<Family>>,
    /// Addresses to probe and connect from, one of each family at most. Default: the system's.
    pub source_address: Vec<IpAddr>,
    /// Resolvers, as ADDRESS:PORT. Default: those of `/etc/resolv.conf`.
    pub resolvers: Vec<SocketAddr>,
    /// Root servers of the independent path. Default: the bundled hints.
    pub independent_roots: Vec<IpAddr>,
    /// Port of those. Default 53.
    pub independent_port: Option<u16>,
    /// PEM file of certificate authorities to trust besides the bundled ones.
    pub extra_roots_file: Option<PathBuf>,
    /// Networks that may be probed although they are not globally reachable: an intranet, a lab.
    pub allowed_ranges: Vec<IpNet>,
    /// Catalogue to use in place of the compiled one. A file named here is the user's own word.
    pub catalogue_file: Option<PathBuf>,
    /// Keys whose signed catalogues are taken.
    pub catalogue_keys: Vec<String>,
    /// Names the network this machine is in. Default: the default gateway's link address, or
    /// where none is to be seen, the network that the collector sees us in.
    pub context: Option<String>,
    /// Scheduled probes a minute, whatever a collector asks: 1 to 60, default 60.
    pub probes_per_minute_max: Option<u16>,
    /// Bytes in a rolling day, at least 1,000,000; default 30,000,000.
    pub day_bytes_max: Option<u64>,
    /// Bytes of the outbox, at least 65,536; default 8 MiB.
    pub outbox_bytes_max: Option<u64>,
    /// How connections are opened: `modern` or `classic`. Default: one agent in eight is classic, so that
    /// a change at a server that breaks the one is told from an outage.
    pub profile: Option<Profile>,
    /// How collectors are reached: `auto` is over QUIC, and over TCP on the same port where UDP is
    /// blocked, until it is not; `quic` and `tcp` are over that alone. Default: `auto`.
    pub transport: Option<Transport>,
    /// How a site's operator can reach you: a URL or an address, part of the User-Agent.
    pub contact: Option<String>,
    /// What pauses the schedule, where the system tells of it: `metered` links, a low `battery`. Default: both.
    pub pause_on: Option<Vec<Pause>>,
    /// Whether the desktop shows a notice when an incident explains what fails here; default no.
    pub notify: Option<bool>,
    /// Address on which metrics are served in Prometheus' form; none by default.
    pub metrics: Option<SocketAddr>,
}

/// The configuration as it is used.
#[derive(Debug, Clone)]
pub struct Config {
    /// Whether the configuration agrees to what `tocsin init` says.
    pub accept: bool,
    /// Where the seed and the outbox are.
    pub state_dir: PathBuf,
    /// Collectors, in order.
    pub collectors: Vec<CollectorLine>,
    /// Families to probe; not empty.
    pub families: Vec<Family>,
    /// Addresses to probe and connect from.
    pub source_address: Vec<IpAddr>,
    /// Resolvers.
    pub resolvers: Vec<SocketAddr>,
    /// Root servers of the independent path; empty for the bundled ones.
    pub independent_roots: Vec<IpAddr>,
    /// Port of those.
    pub independent_port: u16,
    /// Certificate authorities besides the bundled ones.
    pub extra_roots: Vec<CertificateDer<'static>>,
    /// Networks that may be probed besides the globally reachable ones.
    pub allowed_ranges: Vec<IpNet>,
    /// The targets.
    pub catalogue: Arc<Catalogue>,
    /// Keys whose signed catalogues are taken.
    pub catalogue_keys: Vec<PublicKey>,
    /// Names the network this machine is in, whatever its gateway; never sent.
    pub context: Option<String>,
    /// Scheduled probes a minute, at most.
    pub probes_per_minute_max: u16,
    /// Bytes in a rolling day.
    pub day_bytes_max: u64,
    /// Bytes of the outbox.
    pub outbox_bytes_max: u64,
    /// How a site's operator can reach this agent's user.
    pub contact: Option<String>,
    /// What pauses the schedule.
    pub pause_on: Vec<Pause>,
    /// Whether the desktop shows notices.
    pub notify: bool,
    /// Where metrics are served.
    pub metrics: Option<SocketAddr>,
    /// How connections are opened; `None` leaves it to the agent's own seed.
    pub profile: Option<Profile>,
    /// How collectors are reached.
    pub transport: Transport,
}

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file cannot be read.
    #[error("cannot read {path}, named by {key}")]
    File {
        /// Which.
        path: PathBuf,
        /// The key that names it.
        key: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The configuration file is too long.
    #[error("{0} is longer than any configuration: {FILE_BYTES_MAX} bytes are allowed")]
    TooLong(PathBuf),
    /// The configuration file is not of its form.
    #[error("{path} is not understood")]
    Form {
        /// Which.
        path: PathBuf,
        /// Where, and what is allowed there.
        #[source]
        source: toml::de::Error,
    },
    /// A value is out of its range.
    #[error("{key} = {got}: allowed is {allowed}")]
    Value {
        /// The key.
        key: &'static str,
        /// The value.
        got: String,
        /// What would be right.
        allowed: &'static str,
    },
    /// No certificate in the file.
    #[error("extra_roots_file {0} holds no readable PEM certificate")]
    Roots(PathBuf),
    /// The catalogue is refused.
    #[error("catalogue_file {path} is refused")]
    Catalogue {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: CatalogueError,
    },
    /// Nowhere to keep state.
    #[error("no place for the state: set state_dir, or HOME")]
    NoStateDir,
}

impl RawConfig {
    /// Reads a file.
    ///
    /// # Errors
    /// When it cannot be read, or has a key or a value that is not allowed.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let error = |source| ConfigError::File { path: path.to_owned(), key: "--config", source };
        if fs::metadata(path).map_err(error)?.len() > FILE_BYTES_MAX {
            return Err(ConfigError::TooLong(path.to_owned()));
        }
        let text = fs::read_to_string(path).map_err(error)?;
        toml::from_str(&text).map_err(|source| ConfigError::Form { path: path.to_owned(), source })
    }

    /// Every setting with its meaning, as a file of this configuration: those that are set stand there with
    /// their values, the others as comments with their defaults.
    ///
    /// # Panics
    /// Never: a configuration that was read can be written.
    #[must_use]
    pub fn print(&self) -> String {
        let set = toml::Table::try_from(self).expect("a configuration is plain data");
        // A list that is empty is one that nobody set, but where nothing is an answer.
        let is_set = |key: &str, value: &toml::Value| {
            key == "pause_on" || value.as_array().is_none_or(|list| !list.is_empty())
        };
        let mut text = String::new();
        for line in SAMPLE.lines() {
            let key = line.strip_prefix("# ").and_then(|line| line.split_once(" = "));
            match key.and_then(|(key, _)| set.get_key_value(key)) {
                Some((key, value)) if is_set(key, value) => {
                    text.push_str(&format!("{key} = {value}\n"));
                }
                _ => {
                    text.push_str(line);
                    text.push('\n');
                }
            }
        }
        text
    }

    /// The file that is read where none is named: the user's, else the system's, where there is one.
    #[must_use]
    pub fn default_file() -> Option<PathBuf> {
        user_file().into_iter().chain([PathBuf::from(SYSTEM_FILE)]).find(|path| path.is_file())
    }

    /// Takes from `over` what it sets.
    #[must_use]
    pub fn overlaid(self, over: Self) -> Self {
        fn list<T>(under: Vec<T>, over: Vec<T>) -> Vec<T> {
            if over.is_empty() { under } else { over }
        }
        Self {
            accept: over.accept.or(self.accept),
            state_dir: over.state_dir.or(self.state_dir),
            collectors: list(self.collectors, over.collectors),
            families: over.families.or(self.families),
            source_address: list(self.source_address, over.source_address),
            resolvers: list(self.resolvers, over.resolvers),
            independent_roots: list(self.independent_roots, over.independent_roots),
            independent_port: over.independent_port.or(self.independent_port),
            extra_roots_file: over.extra_roots_file.or(self.extra_roots_file),
            allowed_ranges: list(self.allowed_ranges, over.allowed_ranges),
            catalogue_file: over.catalogue_file.or(self.catalogue_file),
            catalogue_keys: list(self.catalogue_keys, over.catalogue_keys),
            context: over.context.or(self.context),
            probes_per_minute_max: over.probes_per_minute_max.or(self.probes_per_minute_max),
            day_bytes_max: over.day_bytes_max.or(self.day_bytes_max),
            outbox_bytes_max: over.outbox_bytes_max.or(self.outbox_bytes_max),
            profile: over.profile.or(self.profile),
            transport: over.transport.or(self.transport),
            contact: over.contact.or(self.contact),
            pause_on: over.pause_on.or(self.pause_on),
            notify: over.notify.or(self.notify),
            metrics: over.metrics.or(self.metrics),
        }
    }
}

fn in_range<T: PartialOrd + std::fmt::Display>(
    key: &'static str,
    value: T,
    range: std::ops::RangeInclusive<T>,
    allowed: &'static str,
) -> Result<T, ConfigError> {
    if range.contains(&value) {
        Ok(value)
    } else {
        Err(ConfigError::Value { key, got: value.to_string(), allowed })
    }
}

impl Config {
    /// Sent with every request: who asks, and where its owner can read why.
    #[must_use]
    pub fn user_agent(&self) -> String {
        let contact = self.contact.as_ref().map(|contact| format!("; {contact}"));
        format!(
            "tocsin/{} (outage crowd{})",
            env!("CARGO_PKG_VERSION"),
            contact.unwrap_or_default()
        )
    }
}

impl TryFrom<RawConfig> for Config {
    type Error = ConfigError;
    fn try_from(raw: RawConfig) -> Result<Self, ConfigError> {
        let value = |key, got: String, allowed| ConfigError::Value { key, got, allowed };
        let most = "at most 2 lines, of different operators; put several addresses in one line";
        in_range("collectors", raw.collectors.len(), 0..=COLLECTORS_MAX, most)?;
        let mut operators: Vec<_> = raw.collectors.iter().map(|line| line.operator).collect();
        operators.sort_unstable();
        if operators.windows(2).any(|pair| pair.first() == pair.get(1)) {
            // One operator is one observer key: two sessions of it would say everything twice.
            return Err(value("collectors", "two lines of one operator".into(), most));
        }
        let families = raw.families.unwrap_or_else(default_families);
        if families.is_empty() {
            return Err(value("families", "[]".into(), "[\"v4\"], [\"v6\"] or both"));
        }
        let of = |v4: bool| raw.source_address.iter().filter(|ip| ip.is_ipv4() == v4).count();
        if of(true) > 1 || of(false) > 1 {
            let got = format!("{:?}", raw.source_address);
            return Err(value("source_address", got, "at most one address of each family"));
        }
        let catalogue_keys = raw.catalogue_keys.into_iter().map(|text| {
            let error = || value("catalogue_keys", text.clone(), "keys of 52 base32 characters");
            text.parse::<PublicKey>().map_err(|_| error())
        });
        let contact = raw.contact.unwrap_or_default();
        if contact.len() > 200 || !contact.bytes().all(|c| (0x20..0x7f).contains(&c)) {
            return Err(value("contact", contact, "up to 200 printable ASCII characters"));
        }
        let contact = (!contact.is_empty()).then_some(contact);
        Ok(Self {
            accept: raw.accept.is_some_and(consent::is_present),
            state_dir: raw.state_dir.or_else(default_state_dir).ok_or(ConfigError::NoStateDir)?,
            collectors: raw.collectors,
            families,
            source_address: raw.source_address,
            resolvers: match raw.resolvers.is_empty() {
                true => system_resolvers(),
                false => raw.resolvers,
            },
            independent_roots: raw.independent_roots,
            independent_port: raw.independent_port.unwrap_or(53),
            extra_roots: raw.extra_roots_file.map_or(Ok(Vec::new()), |path| roots(&path))?,
            allowed_ranges: raw.allowed_ranges,
            catalogue: match raw.catalogue_file {
                Some(path) => Arc::new(catalogue(path)?),
                None => Arc::new(Catalogue::builtin().clone()),
            },
            catalogue_keys: catalogue_keys.collect::<Result<_, _>>()?,
            context: raw.context,
            probes_per_minute_max: in_range(
                "probes_per_minute_max",
                raw.probes_per_minute_max.unwrap_or(PROBES_PER_MINUTE_MAX),
                1..=PROBES_PER_MINUTE_MAX,
                "1 to 60",
            )?,
            day_bytes_max: in_range(
                "day_bytes_max",
                raw.day_bytes_max.unwrap_or(30_000_000),
                1_000_000..=1 << 40,
                "1000000 and more",
            )?,
            outbox_bytes_max: in_range(
                "outbox_bytes_max",
                raw.outbox_bytes_max.unwrap_or(8 << 20),
                65_536..=1 << 40,
                "65536 and more",
            )?,
            contact,
            pause_on: raw.pause_on.unwrap_or_else(|| Pause::ALL.to_vec()),
            notify: raw.notify.unwrap_or(false),
            metrics: raw.metrics,
            profile: raw.profile,
            transport: raw.transport.unwrap_or_default(),
        })
    }
}

fn roots(path: &Path) -> Result<Vec<CertificateDer<'static>>, ConfigError> {
    let text = fs::read(path).map_err(|source| ConfigError::File {
        path: path.to_owned(),
        key: "extra_roots_file",
        source,
    })?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match certificates {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => Err(ConfigError::Roots(path.to_owned())),
    }
}

fn catalogue(path: PathBuf) -> Result<Catalogue, ConfigError> {
    let read = fs::read_to_string(&path);
    let text = read.map_err(|source| ConfigError::File {
        path: path.clone(),
        key: "catalogue_file",
        source,
    })?;
    Catalogue::parse(&text).map_err(|source| ConfigError::Catalogue { path, source })
}

fn default_state_dir() -> Option<PathBuf> {
    let of = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    // systemd gives several directories divided by colons; the first is ours.
    if let Some(given) = of("STATE_DIRECTORY") {
        let first = given.to_string_lossy().split(':').next().map(PathBuf::from);
        return first;
    }
    // Whoever administers this machine means the agent that it has.
    let system = PathBuf::from(SYSTEM_STATE_DIR);
    if rustix::process::geteuid().is_root() && system.join(identity::SEED_FILE).exists() {
        return Some(system);
    }
    let home = || of("HOME").map(|home| PathBuf::from(home).join(".local/state"));
    of("XDG_STATE_HOME").map(PathBuf::from).or_else(home).map(|base| base.join("tocsin"))
}

/// The user's folder of configurations (XDG Base Directory Specification).
#[must_use]
pub fn user_dir() -> Option<PathBuf> {
    let of = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let home = || of("HOME").map(|home| PathBuf::from(home).join(".config"));
    of("XDG_CONFIG_HOME").map(PathBuf::from).or_else(home)
}

/// The user's own configuration file, whether it is there or not (XDG Base Directory Specification).
#[must_use]
pub fn user_file() -> Option<PathBuf> {
    Some(user_dir()?.join("tocsin/tocsin.toml"))
}

/// What is logged: `TOCSIN_LOG`, levels by part of the program such as `warn,tocsin_agent::uplink=debug`; `info` where it
/// is not set, or says nothing that is understood.
#[must_use]
pub fn log_filter() -> Targets {
    let set = std::env::var_os("TOCSIN_LOG");
    let set = set.and_then(|text| text.to_str()?.parse().ok());
    set.unwrap_or_else(|| Targets::new().with_default(tracing::Level::INFO))
}

/// Whether the standard error goes to the journal, which has its own times (systemd.exec(5)).
#[must_use]
pub fn is_journal() -> bool {
    std::env::var_os("JOURNAL_STREAM").is_some()
}

/// The system's language, where it is spoken here.
#[must_use]
pub fn language() -> Language {
    Language::of(
        ["LC_ALL", "LC_MESSAGES", "LANG"]
            .map(|name| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned())),
    )
}

fn default_families() -> Vec<Family> {
    let routes = fs::read_to_string("/proc/net/ipv6_route").unwrap_or_default();
    if default_v6(&routes) { vec![Family::V4, Family::V6] } else { vec![Family::V4] }
}

fn system_resolvers() -> Vec<SocketAddr> {
    let text = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let servers = text.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
    servers.filter_map(|ip| ip.trim().parse().ok()).map(|ip: IpAddr| (ip, 53).into()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_valid_and_flags_win() {
        let file: RawConfig =
            toml::from_str("probes_per_minute_max = 5\nstate_dir = '/a'").unwrap();
        let flags = RawConfig { state_dir: Some("/b".into()), ..RawConfig::default() };
        let config = Config::try_from(file.overlaid(flags)).unwrap();
        assert_eq!((config.state_dir, config.probes_per_minute_max), ("/b".into(), 5));
        assert_eq!(config.day_bytes_max, 30_000_000);
        assert_eq!(config.transport, Transport::Auto);
    }

    #[test]
    fn the_sample_has_every_setting_and_is_right() {
        // As it is, it sets nothing.
        assert_eq!(toml::from_str::<RawConfig>(SAMPLE).unwrap(), RawConfig::default());
        // Each of its comments is a setting, with a value that is taken.
        let line = |line: &str| {
            let setting = line.strip_prefix("# ")?;
            let (key, _) = setting.split_once(" = ")?;
            key.bytes().all(|c| c.is_ascii_lowercase() || c == b'_').then(|| setting.to_owned())
        };
        let settings: Vec<String> = SAMPLE.lines().filter_map(line).collect();
        let all: RawConfig = toml::from_str(&settings.join("\n")).unwrap();
        let fields = |raw: &RawConfig| toml::Table::try_from(raw).unwrap().len();
        assert_eq!(fields(&all), settings.len(), "a setting is not in the sample");
        let everything = RawConfig {
            accept: Some(1),
            state_dir: Some("/a".into()),
            families: Some(vec![Family::V4]),
            independent_port: Some(1),
            extra_roots_file: Some("/a".into()),
            catalogue_file: Some("/a".into()),
            context: Some(String::new()),
            probes_per_minute_max: Some(1),
            day_bytes_max: Some(1),
            outbox_bytes_max: Some(1),
            profile: Some(Profile::Classic),
            transport: Some(Transport::Tcp),
            contact: Some(String::new()),
            pause_on: Some(Vec::new()),
            notify: Some(true),
            metrics: Some(SocketAddr::from(([127, 0, 0, 1], 1))),
            ..RawConfig::default()
        };
        assert_eq!(fields(&everything), settings.len());
        // What is printed is what was set, and can be read again.
        let some = RawConfig { day_bytes_max: Some(5_000_000), ..RawConfig::default() };
        assert!(some.print().contains("\nday_bytes_max = 5000000\n"));
        assert_eq!(toml::from_str::<RawConfig>(&some.print()).unwrap(), some);
        assert_eq!(toml::from_str::<RawConfig>(&everything.print()).unwrap(), everything);
        assert_eq!(RawConfig::default().print(), SAMPLE);
    }

    #[test]
    fn what_is_wrong_is_named_with_what_is_allowed() {
        let check = |text: &str, parts: &[&str]| {
            let error = match toml::from_str::<RawConfig>(text) {
                Err(error) => error.to_string(),
                Ok(raw) => Config::try_from(raw).unwrap_err().to_string(),
            };
            assert!(parts.iter().all(|part| error.contains(part)), "{error}");
        };
        check("colectors = []", &["colectors", "collectors"]);
        check("collectors = ['https://x']", &["tocsin://KEY@ADDRESS:PORT"]);
        check(
            "state_dir='/a'\nprobes_per_minute_max = 61",
            &["probes_per_minute_max", "61", "1 to 60"],
        );
        check("families = ['v5']", &["v5", "v4", "v6"]);
        check("families = []", &["families", "both"]);
        check("pause_on = ['rain']", &["rain", "metered", "battery"]);
        check("metrics = 'here'", &["metrics"]);
        check("transport = 'udp'", &["udp", "auto", "quic", "tcp"]);
        check("catalogue_keys = ['x']", &["catalogue_keys", "base32"]);
        check("catalogue_file = '/no/such'", &["/no/such", "catalogue_file"]);
    }
}
