//! What a person says: that a site does not work for them. It raises a suspicion of its own, beside what probes
//! measured, and confirms nothing.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{
    bounded::Bytes,
    id::{Id, TargetIndex},
    message::open_codes,
    sign::{Domain, SecretKey, Signature, Verifier},
    time::Timestamp,
    wire,
};

/// Bytes of an encoded [`HumanReport`] at most.
pub const HUMAN_REPORT_BYTES_MAX: usize = 32;
/// What a person says must be of now: their clock and the collector's may differ by so much, ms.
pub const HUMAN_CLOCK_MS: u64 = 600_000;
/// Who said it of a site is heard again after this, ms.
pub const HUMAN_AGAIN_MS: u64 = 1_800_000;

open_codes! {
    /// What is wrong, as a person would say it.
    Trouble {
        /// It does not open.
        Down = 1, "down";
        /// It is very slow.
        Slow = 2, "slow";
        /// It opens, and answers errors.
        Errors = 3, "errors";
        /// One cannot sign in.
        SignIn = 4, "sign_in";
        /// A part of it does not work.
        Part = 5, "part";
    }
}

open_codes! {
    /// What became of it.
    Hearing {
        /// It counts.
        Counted = 1, "counted";
        /// The same observer said it of the site within the half hour: it counts once.
        Again = 2, "again";
        /// Enough was heard from there for this hour.
        Enough = 3, "enough";
        /// The catalogue in force has no such target.
        UnknownTarget = 4, "unknown_target";
        /// It is not of now, by the collector's clock.
        Clock = 5, "clock";
        /// The collector could not keep it.
        Failed = 7, "failed";
    }
}

/// What a person says of a site.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HumanReport {
    /// When, by their machine's clock as corrected by the collector's.
    pub at: Timestamp,
    /// Of which target.
    pub target: TargetIndex,
    /// What is wrong.
    pub trouble: Trouble,
}

impl HumanReport {
    /// Signs it.
    ///
    /// # Panics
    /// Never: three numbers fit.
    #[must_use]
    pub fn sign(&self, key: &SecretKey) -> SignedHumanReport {
        let body = Bytes::new(wire::encode(self)).expect("three numbers fit");
        SignedHumanReport { signature: key.sign(Domain::Human, &body), body }
    }
}

/// The same as it travels and is kept: the exact bytes and their signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedHumanReport {
    /// Ed25519 over `tocsin/human/v1\0 || body`, by the session's observer key.
    pub signature: Signature,
    /// The encoded [`HumanReport`].
    pub body: Bytes<HUMAN_REPORT_BYTES_MAX>,
}

impl SignedHumanReport {
    /// Verifies, then decodes; nothing where either fails.
    #[must_use]
    pub fn open(&self, observer: &Verifier) -> Option<HumanReport> {
        observer.verify(Domain::Human, &self.body, &self.signature).ok()?;
        wire::decode(&self.body).ok()
    }
}

/// The collector's answer, once it is on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heard {
    /// Of which target.
    pub target: TargetIndex,
    /// What became of it.
    pub hearing: Hearing,
}

/// What people say of one site, as a snapshot tells it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HumanSuspicion {
    /// Of which target.
    pub target: Id,
    /// Since when it is more than usual.
    pub since: Timestamp,
    /// Prefixes from which it was said within the last quarter of an hour.
    pub prefixes: u32,
    /// Their networks.
    pub networks: u32,
    /// Their countries.
    pub countries: u32,
    /// What is said within a quarter of an hour as a rule, in thousandths.
    pub usual_permille: u32,
    /// What is said most.
    pub trouble: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_opens_under_its_key_and_no_other() {
        let [key, other] = [1, 2].map(|seed| SecretKey::from_seed(&[seed; 32]));
        let verifier = |key: &SecretKey| key.public().verifier().unwrap();
        let said = HumanReport {
            at: Timestamp::from_ms(u64::MAX),
            target: TargetIndex(u16::MAX),
            trouble: Trouble::Other(255),
        };
        let signed = said.sign(&key);
        assert_eq!(signed.open(&verifier(&key)), Some(said));
        assert_eq!(signed.open(&verifier(&other)), None);
        // What was signed as a report is none of these.
        let report = SignedHumanReport {
            signature: key.sign(Domain::Report, &signed.body),
            body: signed.body,
        };
        assert_eq!(report.open(&verifier(&key)), None);
    }
}
