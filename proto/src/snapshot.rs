//! The public snapshot: everything that a reader needs to judge what is down, in one signed
//! document. Its bytes are made once per change and served as they are, by anybody.

use serde::{Deserialize, Serialize};

use crate::{
    delegation::{DelegationError, KeyRole, SignedDelegation, delegated},
    human::HumanSuspicion,
    id::{Country, Id},
    implicate::Layer,
    incident::Incident,
    message::SignedSnapshot,
    sign::{Domain, PublicKey, VerifyError},
    time::Timestamp,
};

/// What can be said on the whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Overall {
    /// Something is confirmed and not resolved.
    Incident,
    /// Nothing is confirmed, and the crowd is large enough to say so.
    Quiet,
    /// The crowd is large, but too new: there are suspicions only.
    YoungCrowd,
    /// Too few observers, networks or zones to say anything global.
    InsufficientEvidence,
}

/// The crowd that was heard lately, and what it must be to say something global.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Crowd {
    /// Observers heard lately.
    pub observers: u32,
    /// Of them, those whose vote has weight.
    pub eligible: u32,
    /// Their prefixes.
    pub prefixes: u32,
    /// Their networks.
    pub networks: u32,
    /// Their zones.
    pub zones: u32,
    /// Observers needed.
    pub observers_needed: u32,
    /// Networks needed.
    pub networks_needed: u32,
    /// Zones needed.
    pub zones_needed: u32,
}

/// State of a cell. There is no green without evidence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CellState {
    /// Under 5 % of the observations fail.
    Ok,
    /// 5 to 25 % fail.
    Degraded,
    /// 25 to 75 % fail.
    Partial,
    /// 75 % or more fail.
    Down,
    /// An incident on it is recovering.
    Recovering,
    /// An incident on it has come back at least twice.
    Flapping,
    /// Fewer than three observers.
    InsufficientEvidence,
}

impl CellState {
    /// Stable name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Degraded => "degraded",
            Self::Partial => "partial",
            Self::Down => "down",
            Self::Recovering => "recovering",
            Self::Flapping => "flapping",
            Self::InsufficientEvidence => "insufficient_evidence",
        }
    }
}

/// Where a cell is: a country, or the zone into which countries with fewer than three observers
/// are folded.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Region {
    /// A country.
    Country(Country),
    /// The countries of a zone that have too few observers each.
    Zone(Id),
}

impl std::fmt::Display for Region {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Country(country) => write!(f, "{country}"),
            Self::Zone(zone) => write!(f, "{zone}"),
        }
    }
}

/// What a cell is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    /// A provider in a role.
    Provider {
        /// Which.
        provider: Id,
        /// In which role.
        role: Layer,
    },
    /// A target.
    Target(Id),
}

impl std::fmt::Display for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Provider { provider, role } => {
                write!(f, "{provider}/{}", format!("{role:?}").to_ascii_lowercase())
            }
            Self::Target(target) => write!(f, "{target}"),
        }
    }
}

/// What was seen of one subject in one region in one window. Late observations are in no cell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cell {
    /// Where.
    pub region: Region,
    /// Of what.
    pub subject: Subject,
    /// Observations that say something of the subject.
    pub observed: u64,
    /// Those that implicate it.
    pub failing: u64,
    /// Distinct prefixes among the observers.
    pub prefixes: u32,
    /// Distinct networks among the observers.
    pub networks: u32,
    /// When the newest of them arrived.
    pub newest_at: Timestamp,
    /// What that amounts to.
    pub state: CellState,
}

/// The numbers of the detector that are in force, by which anybody can check the document that a
/// collector serves of them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ParametersInForce {
    /// Version of the defaults.
    pub version: u16,
    /// The day of that version, `YYYY-MM-DD`.
    pub dated: String,
    /// SHA-256 of the document at `/api/v1/parameters`, which has every number as this operator has set it, in
    /// lower-case hexadecimal.
    pub sha256: String,
}

/// What was seen of one site, everywhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SiteCounts {
    /// Which.
    pub target: Id,
    /// Observations that say something of it.
    pub observed: u64,
    /// Those that it failed.
    pub failing: u64,
    /// Prefixes among the observers, summed over the regions.
    pub prefixes: u32,
    /// Regions in which at least one observation failed.
    pub regions: u32,
}

/// What was seen of one site in a region where it fails for at least half of the looks, and not for most of the world.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SiteThere {
    /// Where.
    pub region: Region,
    /// Which.
    pub target: Id,
    /// Observations there that say something of it.
    pub observed: u64,
    /// Those that it failed.
    pub failing: u64,
    /// Distinct prefixes among the observers there.
    pub prefixes: u32,
    /// Distinct networks among them.
    pub networks: u32,
}

/// Every site of which enough was seen lately: what tells "only me" from "others too". What is in neither list was
/// seen by too few.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Sites {
    /// Length of the window, seconds.
    pub window_s: u32,
    /// Those of which under 5 % of the observations fail.
    pub well: Vec<Id>,
    /// The others, worst first; of more than fit the worst.
    pub failing: Vec<SiteCounts>,
    /// Where some fail that do not for most of the world, worst first: what a country blocks, or cannot reach.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failing_there: Vec<SiteThere>,
}

/// Hosts whose owners want no probes, with all below them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LeftAlone(Vec<String>);

impl LeftAlone {
    /// Hosts at most: a list that is longer is no list of exceptions, and what is behind is not honoured.
    pub const MAX: usize = 256;

    /// Of hosts in lower case; nothing where there are too many.
    #[must_use]
    pub fn new(hosts: Vec<String>) -> Option<Self> {
        (hosts.len() <= Self::MAX).then_some(Self(hosts))
    }

    /// The hosts.
    pub fn hosts(&self) -> impl Iterator<Item = &str> {
        self.0.iter().take(Self::MAX).map(String::as_str)
    }

    /// Whether a host is one of them, or below one. A name without a dot is a top-level domain, and no site.
    #[must_use]
    pub fn has(&self, host: &str) -> bool {
        self.hosts().any(|own| {
            let below = host.strip_suffix(own);
            own.contains('.') && below.is_some_and(|below| below.is_empty() || below.ends_with('.'))
        })
    }
}

/// Who runs a collector, as its operator says.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Public {
    /// Where a site's owner can write to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contact: Option<String>,
    /// Hosts whose owners want no probes.
    #[serde(default)]
    pub left_alone: LeftAlone,
}

/// The snapshot document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Version of the schema: [`crate::incident::SCHEMA`].
    pub schema: u16,
    /// The operator whose collector this is.
    pub operator: PublicKey,
    /// Rises with every snapshot; a reader refuses a lower one.
    pub sequence: u64,
    /// When it was made.
    pub at: Timestamp,
    /// What can be said on the whole.
    pub overall: Overall,
    /// On whose evidence.
    pub crowd: Crowd,
    /// Settings of this collector that differ from the defaults and change verdicts.
    pub settings: Vec<String>,
    /// The detector's numbers.
    #[serde(default)]
    pub parameters: ParametersInForce,
    /// Attribution that the location data asks for.
    pub attribution: String,
    /// Open incidents, and those that ended lately, newest first.
    pub incidents: Vec<Incident>,
    /// Region by provider, over the last five minutes.
    pub cells: Vec<Cell>,
    /// Sites, over the last five minutes.
    #[serde(default)]
    pub sites: Sites,
    /// Who runs the collector, and which sites want no probes.
    #[serde(default)]
    pub public: Public,
    /// Sites of which more people than usual say that they do not work. No incident comes of it.
    #[serde(default)]
    pub people: Vec<HumanSuspicion>,
}

/// Why a snapshot was refused.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The feed key is not delegated.
    #[error("the snapshot's key is not delegated by the pinned operator")]
    Delegation(#[source] DelegationError),
    /// It is not signed by that key.
    #[error("the snapshot is not signed by the delegated feed key")]
    Signature(#[source] VerifyError),
}

impl SignedSnapshot {
    /// Verifies the document under the feed key that the operator delegated.
    ///
    /// # Errors
    /// When no valid delegation names a feed key, or that key did not sign the document.
    pub fn open(
        &self,
        delegations: &[SignedDelegation],
        operator: &PublicKey,
        now: Timestamp,
    ) -> Result<&[u8], SnapshotError> {
        let feed = delegated(delegations, KeyRole::Feed, operator, 0, now)
            .map_err(SnapshotError::Delegation)?;
        feed.key
            .verify(Domain::Snapshot, &self.document, &self.signature)
            .map_err(SnapshotError::Signature)?;
        Ok(&self.document)
    }
}
