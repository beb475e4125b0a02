//! The public incident: what a reader of the feed is told, and on what evidence. Shares are in
//! thousandths; counts of observers are observers, not reports.

use serde::{Deserialize, Serialize};

use crate::{
    id::{Country, Id},
    implicate::Layer,
    observation::Family,
    outcome::Outcome,
    time::Timestamp,
};

/// Version of this schema, in every document that carries incidents.
pub const SCHEMA: u16 = 1;

/// What observations can share, and so what can be named as the culprit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Factor {
    /// A provider in a role.
    Provider {
        /// Which.
        provider: Id,
        /// In which role.
        role: Layer,
    },
    /// A site.
    Site {
        /// Which target.
        target: Id,
    },
    /// A network of observers.
    Network {
        /// Its ASN.
        asn: u32,
    },
    /// The resolver that a network gives its users.
    NetworkResolver {
        /// Its ASN.
        asn: u32,
    },
    /// A country of observers.
    Country {
        /// Which.
        country: Country,
    },
    /// A zone of observers.
    Zone {
        /// Its name.
        zone: Id,
    },
    /// A public resolver.
    Resolver {
        /// The name of its class.
        resolver: Id,
    },
    /// A version of the probe core: Tocsin's own fault, never more than suspected, and what those
    /// who run it report counts nowhere.
    ProbeCore {
        /// Its number.
        version: u16,
    },
}

impl Factor {
    /// What a group of observers is called; `None` for a provider and a site, whose names are the
    /// catalogue's.
    #[must_use]
    pub fn group_title(&self) -> Option<String> {
        Some(match self {
            Self::Provider { .. } | Self::Site { .. } => return None,
            Self::Network { asn } => format!("AS{asn} (network)"),
            Self::NetworkResolver { asn } => format!("AS{asn} (its resolver)"),
            Self::Country { country } => format!("{country} (country)"),
            Self::Zone { zone } => format!("{} (zone)", zone.as_str().replace('-', " ")),
            Self::Resolver { resolver } => format!("{resolver} (public resolver)"),
            Self::ProbeCore { version } => format!("Probe core {version} (our own program)"),
        })
    }
}

impl std::fmt::Display for Factor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Provider { provider, role } => {
                let role = format!("{role:?}").to_ascii_lowercase();
                write!(f, "{provider}/{role}")
            }
            Self::Site { target } => write!(f, "site/{target}"),
            Self::Network { asn } => write!(f, "network/as{asn}"),
            Self::NetworkResolver { asn } => write!(f, "network-resolver/as{asn}"),
            Self::Country { country } => write!(f, "country/{country}"),
            Self::Zone { zone } => write!(f, "zone/{zone}"),
            Self::Resolver { resolver } => write!(f, "resolver/{resolver}"),
            Self::ProbeCore { version } => write!(f, "probe-core/{version}"),
        }
    }
}

/// How far an incident reaches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Scope {
    /// A majority of the networks in most zones.
    Global,
    /// A majority in these zones and countries.
    Regional {
        /// The zones' names.
        zones: Vec<Id>,
        /// Single countries, where the rest of their zone does not see it.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        countries: Vec<Country>,
    },
    /// A majority of the networks in most zones, of those who use one address family, over it alone.
    Family {
        /// Which.
        family: Family,
    },
    /// One site, everywhere.
    Site,
    /// The observers that have the culprit in common, and nobody else.
    Observers,
}

/// Where an incident stands. The one table of transitions is in the collector's
/// `engine/incident.rs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// A watch-list state; nobody is notified.
    Suspected,
    /// Every condition held.
    Confirmed,
    /// It gets better, and is watched.
    Recovering,
    /// Over.
    Resolved,
    /// A suspicion that came to nothing, or a false alarm withdrawn.
    Retracted,
}

impl Phase {
    /// Stable name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Suspected => "suspected",
            Self::Confirmed => "confirmed",
            Self::Recovering => "recovering",
            Self::Resolved => "resolved",
            Self::Retracted => "retracted",
        }
    }

    /// Whether the incident goes on.
    #[must_use]
    pub const fn is_open(self) -> bool {
        matches!(self, Self::Suspected | Self::Confirmed | Self::Recovering)
    }
}

/// How sure a reader may be, by a documented rule and no invented percentage. Of a provider: `low`
/// while fewer than 100 prefixes can tell, `high` when the share is at least 0.75 (of those who were
/// asked; of what was overheard, in every evaluated zone), `medium` else. Of a site: `medium` where at
/// least half of a full look's members had a vote, else `low`, as is what was only overheard. Of a
/// network or country: `low` below a majority or below five prefixes that were cut off, else `medium`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Confidence {
    /// Few took part, or all are new.
    Low,
    /// The conditions held.
    Medium,
    /// They held by far, everywhere.
    High,
}

/// One rule of the detector, with what it found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// Stable name of the rule.
    pub rule: String,
    /// Whether it held.
    pub held: bool,
    /// What was measured, with its denominator, in words.
    pub found: String,
    /// What was needed, in words.
    pub needed: String,
}

/// Failing of observed, for one thing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Affected<T> {
    /// What is counted.
    #[serde(flatten)]
    pub what: T,
    /// Observers whose evidence counts here.
    pub observed: u32,
    /// Those of them that see the failure.
    pub failing: u32,
}

/// A target that fails. Its counts are answers of those who were asked; where nobody was, votes of the
/// last two minutes, rounded, since a target's window keeps weights and no list of observers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AffectedTarget {
    /// Its identifier.
    pub target: Id,
    /// Its name for people.
    pub name: String,
}

/// A country in which it is seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AffectedRegion {
    /// The country.
    pub country: Country,
}

/// A network in which it is seen. Only networks with at least three observers are named.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AffectedNetwork {
    /// Its ASN.
    pub asn: u32,
}

/// A symptom and how often it was seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Symptom {
    /// What the probes met.
    pub outcome: Outcome,
    /// The rule that told whose fault it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// The rule in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Observations.
    pub count: u64,
}

/// What liars it would take to make this verdict: at least so many of each, all lying alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LiarBound {
    /// Prefixes (/24 or /48).
    pub prefixes: u32,
    /// Networks.
    pub networks: u32,
    /// Zones.
    pub zones: u32,
}

/// A change of phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transition {
    /// When, by the collector's log.
    pub at: Timestamp,
    /// Into which phase.
    pub phase: Phase,
}

/// An incident as it is published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incident {
    /// Stable identifier, also in its URL.
    pub id: String,
    /// What is at fault.
    pub factor: Factor,
    /// The same in words, such as `Cloudflare (edge)`.
    pub title: String,
    /// Whoever runs it; `None` for a site.
    pub organisation: Option<Id>,
    /// The incident that it turned out to be part of; `None` for one of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part_of: Option<String>,
    /// How far it reaches.
    pub scope: Scope,
    /// Where it stands.
    pub phase: Phase,
    /// First evidence.
    pub started_at: Timestamp,
    /// Every change of phase, in order.
    pub transitions: Vec<Transition>,
    /// How often it came back.
    pub relapses: u32,
    /// It was over before anybody could tell of it: from a backlog.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reported_late: bool,
    /// Share of networks that see it now, in thousandths.
    pub share_permille: u16,
    /// Failure rate over its targets at the worst, in thousandths.
    pub peak_permille: u16,
    /// What the probes met.
    pub symptoms: Vec<Symptom>,
    /// Which sites, when it was last confirmed (a suspicion: now); so the next two.
    pub targets: Vec<Affected<AffectedTarget>>,
    /// In which countries.
    pub regions: Vec<Affected<AffectedRegion>>,
    /// In which networks.
    pub networks: Vec<Affected<AffectedNetwork>>,
    /// Every rule that was asked, and what it found, when the incident was last confirmed.
    pub reasons: Vec<Reason>,
    /// What else it could have been, and why it is not.
    pub ruled_out: Vec<Reason>,
    /// How sure a reader may be.
    pub confidence: Confidence,
    /// What liars it would take.
    pub liar_bound: LiarBound,
    /// Version of the parameters in force.
    pub parameters: u16,
}

impl Incident {
    /// When it last entered a phase.
    #[must_use]
    pub fn entered(&self, phase: Phase) -> Option<Timestamp> {
        self.transitions.iter().rev().find(|t| t.phase == phase).map(|t| t.at)
    }

    /// When it was first confirmed.
    #[must_use]
    pub fn confirmed_at(&self) -> Option<Timestamp> {
        self.transitions.iter().find(|t| t.phase == Phase::Confirmed).map(|t| t.at)
    }
}
