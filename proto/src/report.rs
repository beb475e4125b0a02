//! A report: the observations of a minute, or a failure at once, signed by the observer.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

use crate::{
    bounded::{Bytes, List},
    limits::{REPORT_BYTES_MAX, REPORT_OBSERVATIONS_MAX},
    observation::Observation,
    sign::{BadSignature, Domain, SecretKey, Signature, Verifier},
    time::Timestamp,
    wire::{self, DecodeError},
};

/// Which resolver an agent's system uses, as a class: a stratum of the detector, and no more than
/// that is told of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(u8)]
pub enum ResolverClass {
    /// Not known, or none.
    #[default]
    Unknown = 0,
    /// A resolver of the own network or its provider: everything that is not in this list.
    Local = 1,
    /// Cloudflare 1.1.1.1.
    Cloudflare = 2,
    /// Google Public DNS.
    Google = 3,
    /// Quad9.
    Quad9 = 4,
    /// Cisco OpenDNS.
    OpenDns = 5,
    /// Another public resolver.
    OtherPublic = 6,
}

impl ResolverClass {
    /// Every class.
    pub const ALL: &[Self] = &[
        Self::Unknown,
        Self::Local,
        Self::Cloudflare,
        Self::Google,
        Self::Quad9,
        Self::OpenDns,
        Self::OtherPublic,
    ];

    /// Stable name, for pages and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Local => "local",
            Self::Cloudflare => "cloudflare",
            Self::Google => "google",
            Self::Quad9 => "quad9",
            Self::OpenDns => "opendns",
            Self::OtherPublic => "other_public",
        }
    }
}

impl Serialize for ResolverClass {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u8(*self as u8)
    }
}

impl<'de> Deserialize<'de> for ResolverClass {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let code = u8::deserialize(deserializer)?;
        let class = Self::ALL.get(usize::from(code)).copied();
        class.ok_or_else(|| D::Error::custom("unknown resolver class"))
    }
}

/// What an agent found out about its own line before it said anything of the world: which checks
/// it made, and which of them failed. Bit numbers are those of [`HealthCheck`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Health {
    /// Checks made.
    pub measured: u16,
    /// Checks made that failed: a subset of `measured`.
    pub failing: u16,
    /// Share of targets behind unrelated providers that were fine lately, in 1/255; 255 when all.
    pub unrelated_ok: u8,
}

/// A check of the own line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum HealthCheck {
    /// Unrelated targets answer.
    Unrelated = 0,
    /// The system's resolver answers.
    SystemResolver = 1,
    /// The independent way of resolving names answers.
    IndependentPath = 2,
    /// IPv4 reaches something.
    Ipv4 = 3,
    /// IPv6 reaches something.
    Ipv6 = 4,
    /// There is a link and a default route.
    Route = 5,
    /// The gateway answers.
    Gateway = 6,
    /// No captive portal stands between.
    Captive = 7,
    /// The own clock agrees with the collectors'.
    Clock = 8,
    /// UDP to the collector passes.
    Udp = 9,
    /// The byte budget allows the full schedule; failing means `thinned`.
    Budget = 10,
}

impl HealthCheck {
    /// Every check, by its bit.
    pub const ALL: &[Self] = &[
        Self::Unrelated,
        Self::SystemResolver,
        Self::IndependentPath,
        Self::Ipv4,
        Self::Ipv6,
        Self::Route,
        Self::Gateway,
        Self::Captive,
        Self::Clock,
        Self::Udp,
        Self::Budget,
    ];

    /// Stable name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unrelated => "unrelated",
            Self::SystemResolver => "system_resolver",
            Self::IndependentPath => "independent_path",
            Self::Ipv4 => "ipv4",
            Self::Ipv6 => "ipv6",
            Self::Route => "route",
            Self::Gateway => "gateway",
            Self::Captive => "captive",
            Self::Clock => "clock",
            Self::Udp => "udp",
            Self::Budget => "budget",
        }
    }
}

impl Health {
    /// Records a check.
    pub const fn record(&mut self, check: HealthCheck, ok: bool) {
        let bit = 1 << check as u16;
        self.measured |= bit;
        if ok { self.failing &= !bit } else { self.failing |= bit }
    }

    /// `None` when the check was not made.
    #[must_use]
    pub const fn check(self, check: HealthCheck) -> Option<bool> {
        let bit = 1 << check as u16;
        if self.measured & bit == 0 { None } else { Some(self.failing & bit == 0) }
    }
}

/// The body of a report. Its observer is the key of the session, bound by the signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Number of the report, from 1, rising by at least 1; of this observer key alone.
    pub seq: u64,
    /// Seconds since the Unix epoch, by the agent's estimate of the collector's clock.
    pub base_s: u32,
    /// Build of the code that resolves, connects and classifies.
    pub probe_core: u16,
    /// What the agent found out about its own line.
    pub health: Health,
    /// Which resolver the system uses.
    pub resolver: ResolverClass,
    /// What was seen, in order of time.
    pub observations: List<Observation, REPORT_OBSERVATIONS_MAX>,
}

impl Report {
    /// Base time.
    #[must_use]
    pub const fn base(&self) -> Timestamp {
        Timestamp::from_s(self.base_s as u64)
    }

    /// The observations with the time at which each was made.
    pub fn timed(&self) -> impl Iterator<Item = (Timestamp, &Observation)> {
        self.observations.iter().scan(self.base(), |at, observation| {
            *at = at.plus_ms(u64::from(observation.after_ds) * 100);
            Some((*at, observation))
        })
    }

    /// Time of the last observation; the base time when there is none.
    #[must_use]
    pub fn last_at(&self) -> Timestamp {
        self.timed().last().map_or(self.base(), |(at, _)| at)
    }

    /// Signs the report.
    ///
    /// # Panics
    /// Never: the bounds of [`Report`] keep every body under [`REPORT_BYTES_MAX`], as a test
    /// shows with each field at its widest.
    #[must_use]
    pub fn sign(&self, key: &SecretKey) -> SignedReport {
        let body = Bytes::new(wire::encode(self)).expect("a report of bounded fields fits");
        SignedReport { signature: key.sign(Domain::Report, &body), body }
    }
}

/// A report as it travels and as it is kept: the exact bytes and their signature.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedReport {
    /// Ed25519 over `tocsin/report/v1\0 || body`, by the session's observer key.
    pub signature: Signature,
    /// The encoded [`Report`].
    pub body: Bytes<REPORT_BYTES_MAX>,
}

/// Why a signed report was not opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The signature does not fit the observer and the bytes.
    #[error("the report's signature does not fit")]
    Signature(#[source] BadSignature),
    /// The bytes, though signed, are no report.
    #[error("the report's body does not decode")]
    Body(#[source] DecodeError),
}

impl SignedReport {
    /// Verifies, then decodes.
    ///
    /// # Errors
    /// When the signature does not fit, or the signed bytes are no report.
    pub fn open(&self, observer: &Verifier) -> Result<Report, OpenError> {
        observer
            .verify(Domain::Report, &self.body, &self.signature)
            .map_err(OpenError::Signature)?;
        wire::decode(&self.body).map_err(OpenError::Body)
    }

    /// The sequence number, from the first field of the body: enough to answer a duplicate before
    /// any signature is checked.
    ///
    /// # Errors
    /// When not even that can be read.
    pub fn peek_seq(&self) -> Result<u64, DecodeError> {
        wire::decode_prefix(&self.body)
    }
}

impl fmt::Debug for SignedReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "signed report of {:?}", self.body)
    }
}
