//! Configuration: what was typed in, and what it means. Works with no file at all.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use tocsin_proto::{
    catalogue::{Catalogue, CatalogueError},
    id::{Country, ObserverId},
    limits::{POW_BITS_MAX, PROBES_PER_MINUTE_MAX, REPORT_INTERVAL_S_MAX},
    message::Schedule,
    snapshot::{LeftAlone, Public},
};

use crate::engine::{
    locate::Override,
    params::{Params, ParamsError, Settings},
};

/// The configuration as it is written: every field has a default, none is unknown.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawConfig {
    /// Where keys, the log and the detector's state are kept.
    pub data_dir: PathBuf,
    /// Addresses on which agents are served: UDP for QUIC, and TCP on the same port.
    pub listen: Vec<SocketAddr>,
    /// Whether agents whose UDP is blocked are served over TCP.
    pub tcp: bool,
    /// TCP address of the public page and feed.
    pub web_listen: SocketAddr,
    /// TCP address of metrics and readiness, for the operator alone.
    pub operator_listen: SocketAddr,
    /// A catalogue to use in place of the built-in one, for an intranet or a lab.
    pub catalogue_file: Option<PathBuf>,
    /// Hours for which the log keeps raw reports.
    pub retention_hours: u64,
    /// Sessions at once.
    pub sessions_max: usize,
    /// Sessions at once from one /24 or /48.
    pub sessions_per_prefix_max: usize,
    /// Leading zero bits of work asked of keys that are new; 0 asks none.
    pub pow_bits: u8,
    /// What agents are asked to do.
    pub schedule: RawSchedule,
    /// When a new observer gets its vote.
    pub admission: RawAdmission,
    /// What a global verdict needs.
    pub detector: RawDetector,
    /// Where addresses are.
    pub location: RawLocation,
    /// Who runs this, for the owners of sites.
    pub public: RawPublic,
}

/// Who runs this, and which sites want no probes.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawPublic {
    /// Where a site's owner can write to: an address of mail, or of a page.
    pub contact: Option<String>,
    /// Hosts whose owners want no probes, with all below them. Agents that hear this collector leave them alone.
    pub left_alone: Vec<String>,
}

/// What agents are asked to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawSchedule {
    /// Scheduled probes a minute and agent.
    pub probes_per_minute: u16,
    /// Seconds between reports.
    pub report_interval_s: u16,
}

/// When a new observer gets its vote.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawAdmission {
    /// Hours without a vote.
    pub tenure_hours_min: u64,
    /// Hours until a whole vote; 0 = at once, for a lab or a closed fleet.
    pub tenure_hours_full: u64,
}

/// What a global verdict needs.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawDetector {
    /// Probe-core versions you vouch for.
    pub established_versions: Vec<u16>,
    /// Observer keys with a whole vote at once: machines that you run yourself.
    pub anchors: Vec<ObserverId>,
    /// Whether observers are asked to look closer at a suspicion.
    pub ask_back: bool,
    /// Observers.
    pub crowd_observers: u32,
    /// Networks.
    pub crowd_networks: u32,
    /// Zones.
    pub crowd_zones: u32,
    /// Seconds after a start for which nothing is confirmed: until everybody has been heard.
    pub settle_s: u64,
    /// The other numbers of the detector, each as it was measured where it is not named here. `/api/v1/parameters`
    /// lists them with their units; `replay` tells what other ones would have changed.
    #[serde(skip_serializing_if = "is_default")]
    pub parameters: Params,
}

fn is_default(params: &Params) -> bool {
    *params == Params::DEFAULT
}

/// Where addresses are.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawLocation {
    /// A country table in MMDB form, used before the bundled one.
    pub country_mmdb: Option<PathBuf>,
    /// A network table in MMDB form, used before the bundled one.
    pub asn_mmdb: Option<PathBuf>,
    /// Ranges that you know better; the longest prefix wins.
    pub overrides: Vec<RawOverride>,
}

/// A range that the operator knows better.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawOverride {
    /// The range.
    pub cidr: IpNet,
    /// Its country.
    pub country: Country,
    /// Its network.
    pub asn: u32,
}

impl Default for RawConfig {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("tocsin-collector-data"),
            listen: vec![SocketAddr::from(([0, 0, 0, 0], 4433))],
            tcp: true,
            web_listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            operator_listen: SocketAddr::from(([127, 0, 0, 1], 9464)),
            catalogue_file: None,
            retention_hours: 72,
            sessions_max: 10_000,
            sessions_per_prefix_max: 32,
            pow_bits: 0,
            schedule: RawSchedule::default(),
            admission: RawAdmission::default(),
            detector: RawDetector::default(),
            location: RawLocation::default(),
            public: RawPublic::default(),
        }
    }
}

impl Default for RawSchedule {
    fn default() -> Self {
        let Schedule { probes_per_minute, report_interval_s } = Schedule::default();
        Self { probes_per_minute, report_interval_s }
    }
}

impl Default for RawAdmission {
    fn default() -> Self {
        let Settings { tenure_hours_min, tenure_hours_full, .. } = Settings::default();
        Self { tenure_hours_min, tenure_hours_full }
    }
}

impl Default for RawDetector {
    fn default() -> Self {
        let settings = Settings::default();
        Self {
            established_versions: settings.established_versions,
            anchors: settings.anchors,
            ask_back: settings.ask_back,
            crowd_observers: settings.crowd_observers,
            crowd_networks: settings.crowd_networks,
            crowd_zones: settings.crowd_zones,
            settle_s: settings.settle_s,
            parameters: Params::DEFAULT,
        }
    }
}

/// The configuration, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where keys, the log and the detector's state are kept.
    pub data_dir: PathBuf,
    /// Addresses on which agents are served: UDP for QUIC, and TCP on the same port.
    pub listen: Vec<SocketAddr>,
    /// Whether agents whose UDP is blocked are served over TCP.
    pub tcp: bool,
    /// TCP address of the public page and feed.
    pub web_listen: SocketAddr,
    /// TCP address of metrics and readiness.
    pub operator_listen: SocketAddr,
    /// The catalogue in force.
    pub catalogue: Catalogue,
    /// How long the log keeps raw reports, ms.
    pub retention_ms: u64,
    /// Sessions at once.
    pub sessions_max: usize,
    /// Sessions at once from one prefix.
    pub sessions_per_prefix_max: usize,
    /// Work asked of new keys, bits.
    pub pow_bits: u8,
    /// What agents are asked to do.
    pub schedule: Schedule,
    /// Settings of the detector.
    pub settings: Settings,
    /// Country table, bytes of an MMDB.
    pub country_mmdb: Option<Vec<u8>>,
    /// Network table, bytes of an MMDB.
    pub asn_mmdb: Option<Vec<u8>>,
    /// Ranges that the operator knows better.
    pub overrides: Vec<Override>,
    /// Who runs this, and which sites want no probes.
    pub public: Public,
}

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file could not be read.
    #[error("{path} cannot be read")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is no configuration; the message names the line and what is allowed.
    #[error("{path} is no configuration")]
    Form {
        /// Which file.
        path: PathBuf,
        /// Where, and what is allowed.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// The catalogue is refused.
    #[error("the catalogue {path} is refused")]
    Catalogue {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: CatalogueError,
    },
    /// A number is out of its range.
    #[error("{key} = {value}: it must be from {min} to {max}")]
    Range {
        /// Which setting.
        key: &'static str,
        /// What it says.
        value: u64,
        /// The least allowed.
        min: u64,
        /// The most allowed.
        max: u64,
    },
    /// A number of the detector is refused.
    #[error(transparent)]
    Params(#[from] ParamsError),
    /// What is said of the operator is not what it must be.
    #[error("public.{key} = {value:?}: it must be {allowed}")]
    Public {
        /// Which setting.
        key: &'static str,
        /// What it says.
        value: String,
        /// What may stand there.
        allowed: &'static str,
    },
    /// Nothing to listen on.
    #[error("listen is empty: name at least one address, such as \"0.0.0.0:4433\"")]
    NoListen,
}

fn read(path: &Path) -> Result<Vec<u8>, ConfigError> {
    std::fs::read(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })
}

impl RawConfig {
    /// Reads a file.
    ///
    /// # Errors
    /// When it cannot be read, or is no configuration.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let form = |source| ConfigError::Form { path: path.to_owned(), source: Box::new(source) };
        toml::from_str(&String::from_utf8_lossy(&read(path)?)).map_err(form)
    }
}

fn public(raw: RawPublic) -> Result<Public, ConfigError> {
    const TEXT_MAX: usize = 120;
    let plain = |text: &String| {
        text.len() <= TEXT_MAX && !text.is_empty() && text.bytes().all(|c| c.is_ascii_graphic())
    };
    let refused = |key, value: &String, allowed| {
        Err(ConfigError::Public { key, value: value.clone(), allowed })
    };
    if let Some(contact) = raw.contact.as_ref().filter(|contact| !plain(contact)) {
        return refused("contact", contact, "an address of up to 120 characters, without spaces");
    }
    let is_host = |host: &String| {
        let label = |label: &str| {
            !label.is_empty() && label.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-')
        };
        host.len() <= 253 && host.contains('.') && host.split('.').all(label)
    };
    let hosts: Vec<String> = raw.left_alone.iter().map(|host| host.to_ascii_lowercase()).collect();
    if let Some(host) = hosts.iter().find(|host| !is_host(host)) {
        return refused("left_alone", host, "a host name, such as \"example.com\"");
    }
    let Some(left_alone) = LeftAlone::new(hosts) else {
        let first = raw.left_alone.first().cloned().unwrap_or_default();
        return refused("left_alone", &first, "a list of at most 256 hosts");
    };
    Ok(Public { contact: raw.contact, left_alone })
}

impl TryFrom<RawConfig> for Config {
    type Error = ConfigError;

    fn try_from(raw: RawConfig) -> Result<Self, ConfigError> {
        if raw.listen.is_empty() {
            return Err(ConfigError::NoListen);
        }
        let range = |key, value: u64, min, max| {
            if (min..=max).contains(&value) {
                Ok(value)
            } else {
                Err(ConfigError::Range { key, value, min, max })
            }
        };
        let RawSchedule { probes_per_minute, report_interval_s } = raw.schedule;
        let most = u64::from(PROBES_PER_MINUTE_MAX);
        range("schedule.probes_per_minute", probes_per_minute.into(), 1, most)?;
        let most = u64::from(REPORT_INTERVAL_S_MAX);
        range("schedule.report_interval_s", report_interval_s.into(), 1, most)?;
        range("pow_bits", raw.pow_bits.into(), 0, POW_BITS_MAX.into())?;
        range("retention_hours", raw.retention_hours, 2, 24 * 3650)?;
        range("sessions_max", raw.sessions_max as u64, 1, 1_000_000)?;
        range("sessions_per_prefix_max", raw.sessions_per_prefix_max as u64, 1, 1_000_000)?;
        range("detector.crowd_observers", raw.detector.crowd_observers.into(), 4, 1_000_000)?;
        range("detector.crowd_networks", raw.detector.crowd_networks.into(), 3, 1_000_000)?;
        range("detector.crowd_zones", raw.detector.crowd_zones.into(), 3, 15)?;
        range("detector.settle_s", raw.detector.settle_s, 0, 3_600)?;
        raw.detector.parameters.check()?;
        // Who looks as often as it is asked to has its votes.
        let looks_turn = raw.detector.parameters.looks_turn.max((3 * probes_per_minute).min(32));
        let params = Params { looks_turn, ..raw.detector.parameters };
        let full = raw.admission.tenure_hours_full;
        let most = if full == 0 { u64::MAX } else { full };
        range("admission.tenure_hours_min", raw.admission.tenure_hours_min, 0, most)?;
        let catalogue = match &raw.catalogue_file {
            None => Catalogue::builtin().clone(),
            Some(path) => {
                let text = read(path)?;
                Catalogue::parse(&String::from_utf8_lossy(&text))
                    .map_err(|source| ConfigError::Catalogue { path: path.clone(), source })?
            }
        };
        let bytes = |path: &Option<PathBuf>| path.as_deref().map(read).transpose();
        Ok(Self {
            data_dir: raw.data_dir,
            listen: raw.listen,
            tcp: raw.tcp,
            web_listen: raw.web_listen,
            operator_listen: raw.operator_listen,
            catalogue,
            retention_ms: raw.retention_hours * 3_600_000,
            sessions_max: raw.sessions_max,
            sessions_per_prefix_max: raw.sessions_per_prefix_max,
            pow_bits: raw.pow_bits,
            schedule: Schedule { probes_per_minute, report_interval_s },
            settings: Settings {
                tenure_hours_min: raw.admission.tenure_hours_min,
                tenure_hours_full: raw.admission.tenure_hours_full,
                established_versions: raw.detector.established_versions,
                anchors: raw.detector.anchors,
                ask_back: raw.detector.ask_back,
                // Of the data folder, not of the configuration: see `Collector::bind`.
                panel_secret: [0; 32],
                crowd_observers: raw.detector.crowd_observers,
                crowd_networks: raw.detector.crowd_networks,
                crowd_zones: raw.detector.crowd_zones,
                settle_s: raw.detector.settle_s,
                params: params.into(),
            },
            country_mmdb: bytes(&raw.location.country_mmdb)?,
            asn_mmdb: bytes(&raw.location.asn_mmdb)?,
            overrides: raw
                .location
                .overrides
                .into_iter()
                .map(|o| Override { net: o.cidr, country: o.country, asn: o.asn })
                .collect(),
            public: public(raw.public)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_and_their_printed_form_are_valid() {
        let printed = toml::to_string(&RawConfig::default()).unwrap();
        let read: RawConfig = toml::from_str(&printed).unwrap();
        assert!(Config::try_from(read).is_ok());
    }

    #[test]
    fn a_wrong_key_or_value_is_named() {
        let error = toml::from_str::<RawConfig>("colour = 1").unwrap_err().to_string();
        assert!(error.contains("colour") && error.contains("data_dir"), "{error}");
        let mut raw = RawConfig::default();
        raw.schedule.probes_per_minute = 61;
        let error = Config::try_from(raw).unwrap_err().to_string();
        let anchor = "[detector]\nanchors = ['x']";
        assert!(toml::from_str::<RawConfig>(anchor).unwrap_err().to_string().contains("anchors"));
        assert!(error.contains("probes_per_minute = 61") && error.contains("60"), "{error}");
        // Of the detector's numbers one may be set alone; the others stay.
        let set =
            |text: &str| toml::from_str::<RawConfig>(&format!("[detector.parameters]\n{text}"));
        let raw = set("confirm = 550000").unwrap();
        assert_eq!(raw.detector.parameters, Params { confirm: 550_000, ..Params::DEFAULT });
        assert!(set("confirn = 1").unwrap_err().to_string().contains("confirn"));
        let error = Config::try_from(set("release = 600000").unwrap()).unwrap_err().to_string();
        assert!(error.contains("release must be below confirm"), "{error}");
    }
}
