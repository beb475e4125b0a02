//! What one probe saw, and its compact form on the wire: four bytes when all is well.

use std::fmt;

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error, SeqAccess, Visitor},
    ser::SerializeTuple,
};

use crate::{
    id::TargetIndex,
    implicate::{DnsPath, Implication, implication},
    outcome::Outcome,
    rules::{RuleNumber, RuleTable},
};

/// The address family that was probed. Families are probed and judged apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Stable name, as in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::V4 => "v4",
            Self::V6 => "v6",
        }
    }
}

/// Why a probe was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Its turn had come.
    Scheduled,
    /// A scheduled probe had failed; this one looks closer.
    Verification,
    /// A collector asked, under this nonce.
    Asked {
        /// The nonce of the ask.
        nonce: u64,
    },
}

/// A duration in one byte, as a float of four bits of exponent and four of mantissa: below 16 the
/// milliseconds themselves, above that `(16 + mantissa) << (exponent - 1)`. Exact in integers,
/// never more than 1/16 too low, up to 507,904 ms.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LogMs(pub u8);

impl LogMs {
    /// Rounds milliseconds down to the nearest step.
    #[must_use]
    pub const fn from_ms(ms: u64) -> Self {
        if ms < 16 {
            return Self(ms as u8);
        }
        let exponent = ms.ilog2() - 3;
        if exponent > 15 {
            return Self(u8::MAX);
        }
        let mantissa = (ms >> (exponent - 1)) - 16;
        Self((exponent as u8) << 4 | mantissa as u8)
    }

    /// The milliseconds of this step.
    #[must_use]
    pub const fn as_ms(self) -> u64 {
        let (exponent, mantissa) = (self.0 >> 4, (self.0 & 15) as u64);
        if exponent == 0 { mantissa } else { (16 + mantissa) << (exponent - 1) }
    }
}

impl fmt::Debug for LogMs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ms", self.as_ms())
    }
}

/// What is said besides when the outcome is not `ok`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The rule that told whose fault it is; 0 on the wire when none matched.
    pub rule: RuleNumber,
    /// What the two ways of resolving the name said; `unconfirmed` when DNS did not fail.
    pub dns: DnsPath,
    /// The HTTP status; 0 when there was none.
    pub status: u16,
    /// Time spent in dns, tcp, tls and http; 0 in a phase that was not reached.
    pub phases: [LogMs; 4],
}

/// What one probe saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Observation {
    /// Which target, by its number in the catalogue.
    pub target: TargetIndex,
    /// Tenths of a second since the observation before it in the report, or since the report's
    /// base time for the first one.
    pub after_ds: u16,
    /// The address family.
    pub family: Family,
    /// Why it was probed.
    pub cause: Cause,
    /// What came of it.
    pub outcome: Outcome,
    /// The whole probe's time.
    pub latency: LogMs,
    /// Present exactly when the outcome is not `ok`.
    pub failure: Option<Failure>,
}

impl Observation {
    /// What this observation implicates and clears, under this program's rule table. A rule that
    /// is not known here (from a newer agent) counts as none.
    #[must_use]
    pub fn implication(&self) -> &'static Implication {
        let fault = self.failure.and_then(|failure| RuleTable::builtin().get(failure.rule));
        let dns = self.failure.map(|failure| failure.dns).unwrap_or_default();
        implication(self.outcome, fault.map(|rule| rule.fault), dns)
    }
}

// The head byte: bit 0 family, bits 1 and 2 cause, bit 3 whether details follow. Others are 0.
const HEAD_V6: u8 = 1;
const HEAD_VERIFICATION: u8 = 1 << 1;
const HEAD_ASKED: u8 = 2 << 1;
const HEAD_CAUSE: u8 = 3 << 1;
const HEAD_DETAILS: u8 = 1 << 3;
const HEAD_KNOWN: u8 = HEAD_V6 | HEAD_CAUSE | HEAD_DETAILS;

impl Serialize for Observation {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut head = 0;
        head |= if self.family == Family::V6 { HEAD_V6 } else { 0 };
        head |= match self.cause {
            Cause::Scheduled => 0,
            Cause::Verification => HEAD_VERIFICATION,
            Cause::Asked { .. } => HEAD_ASKED,
        };
        head |= if self.failure.is_some() { HEAD_DETAILS } else { 0 };
        let mut tuple = serializer.serialize_tuple(7)?;
        tuple.serialize_element(&self.target)?;
        tuple.serialize_element(&self.after_ds)?;
        tuple.serialize_element(&head)?;
        tuple.serialize_element(&self.latency)?;
        if let Cause::Asked { nonce } = self.cause {
            tuple.serialize_element(&nonce)?;
        }
        if let Some(failure) = &self.failure {
            tuple.serialize_element(&self.outcome.code())?;
            tuple.serialize_element(failure)?;
        }
        tuple.end()
    }
}

impl<'de> Deserialize<'de> for Observation {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ObservationVisitor;
        impl<'de> Visitor<'de> for ObservationVisitor {
            type Value = Observation;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an observation")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Observation, A::Error> {
                fn next<'de, T: Deserialize<'de>, A: SeqAccess<'de>>(
                    seq: &mut A,
                ) -> Result<T, A::Error> {
                    seq.next_element()?.ok_or_else(|| A::Error::custom("cut observation"))
                }
                let target = next(&mut seq)?;
                let after_ds = next(&mut seq)?;
                let head: u8 = next(&mut seq)?;
                let latency = next(&mut seq)?;
                if head & !HEAD_KNOWN != 0 {
                    return Err(A::Error::custom("unknown bits in an observation's head"));
                }
                let cause = match head & HEAD_CAUSE {
                    0 => Cause::Scheduled,
                    HEAD_VERIFICATION => Cause::Verification,
                    HEAD_ASKED => Cause::Asked { nonce: next(&mut seq)? },
                    _ => return Err(A::Error::custom("unknown cause")),
                };
                let (outcome, failure) = if head & HEAD_DETAILS == 0 {
                    (Outcome::Ok, None)
                } else {
                    let code: u8 = next(&mut seq)?;
                    let outcome = Outcome::from_code(code)
                        .filter(|outcome| *outcome != Outcome::Ok)
                        .ok_or_else(|| A::Error::custom("unknown outcome"))?;
                    (outcome, Some(next(&mut seq)?))
                };
                let family = if head & HEAD_V6 == 0 { Family::V4 } else { Family::V6 };
                Ok(Observation { target, after_ds, family, cause, outcome, latency, failure })
            }
        }
        deserializer.deserialize_tuple(7, ObservationVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_ms_is_close_and_monotone() {
        let mut before = LogMs(0);
        for ms in 0..600_000 {
            let step = LogMs::from_ms(ms);
            assert!(step >= before, "{ms}");
            let back = step.as_ms();
            assert!(back <= ms && (ms >= 507_904 || back + back / 16 + 1 > ms), "{ms} {back}");
            before = step;
        }
        assert_eq!(LogMs::from_ms(u64::MAX).as_ms(), 507_904);
    }
}
