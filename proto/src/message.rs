//! The messages of a session, their tags, and their order. See `docs/PROTOCOL.md`.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{
    bounded::{Bytes, Fixed, List},
    delegation::SignedDelegation,
    human::{Heard, SignedHumanReport},
    id::{Country, TargetIndex},
    implicate::Layer,
    limits::{
        ACK_ENTRIES_MAX, ASK_TARGETS_MAX, DELEGATIONS_MAX, FRAME_TO_AGENT_MAX,
        FRAME_TO_COLLECTOR_MAX, HELLO_VERSIONS_MAX, POW_BITS_MAX, SNAPSHOT_BYTES_MAX,
    },
    report::SignedReport,
    sign::{Domain, PublicKey, SecretKey, Signature, VerifyError, sha256},
    time::Timestamp,
    wire::{self, DecodeError, Frame},
};

/// Kinds of message. Numbers are never given another meaning; a reader skips those it does not
/// know. Numbers with no type in this crate are reserved for what the protocol's design names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Tag {
    /// Agent to collector, first: [`Hello`].
    Hello = 0x01,
    /// Collector to agent: [`Greeting`].
    Greeting = 0x02,
    /// Agent to collector: [`Prove`].
    Prove = 0x03,
    /// Collector to agent: [`Ready`].
    Ready = 0x04,
    /// Collector to agent: [`Challenge`].
    Challenge = 0x05,
    /// Either way, last: [`GoAway`].
    GoAway = 0x06,
    /// Agent to collector: [`SignedReport`].
    Report = 0x10,
    /// Collector to agent: [`Ack`].
    Ack = 0x11,
    /// Collector to agent: [`Schedule`].
    Schedule = 0x12,
    /// Collector to agent: a signed catalogue (reserved).
    Catalogue = 0x13,
    /// Collector to agent: probe these now (reserved).
    AskBack = 0x14,
    /// Agent to collector: [`Query`].
    Query = 0x15,
    /// Collector to agent: [`SignedSnapshot`].
    Snapshot = 0x16,
    /// Agent to collector: what a person says, [`SignedHumanReport`].
    HumanReport = 0x17,
    /// Agent to collector: delete what you hold of me: [`Forget`].
    Forget = 0x18,
    /// Agent to collector: what stands behind a target, when it changed (reserved).
    Facts = 0x19,
    /// Agent to collector: the successor of my key (reserved).
    KeyUpdate = 0x1a,
    /// Collector to agent: [`Forgotten`].
    Forgotten = 0x1b,
    /// Collector to agent: [`Heard`].
    Heard = 0x1c,
}

/// A message that has a tag and a direction of travel.
pub trait Message: Serialize + for<'de> Deserialize<'de> {
    /// Its tag.
    const TAG: Tag;
    /// Bytes that its body may have at most.
    const BYTES_MAX: usize;

    /// As a frame.
    #[must_use]
    fn to_frame(&self) -> Frame {
        Frame { tag: Self::TAG as u8, body: wire::encode(self) }
    }

    /// From the body of a frame with its tag.
    ///
    /// # Errors
    /// When the body is not exactly one such message.
    fn from_body(body: &[u8]) -> Result<Self, DecodeError> {
        if body.len() > Self::BYTES_MAX { Err(DecodeError::Malformed) } else { wire::decode(body) }
    }
}

macro_rules! messages {
    ($($message:ty = $tag:ident, $max:expr;)*) => {
        $(impl Message for $message {
            const TAG: Tag = Tag::$tag;
            const BYTES_MAX: usize = $max;
        })*
    };
}

messages! {
    Hello = Hello, 64;
    Greeting = Greeting, 2048;
    Prove = Prove, 128;
    Ready = Ready, 64;
    Challenge = Challenge, 8;
    GoAway = GoAway, 16;
    SignedReport = Report, FRAME_TO_COLLECTOR_MAX;
    Ack = Ack, 2048;
    Schedule = Schedule, 16;
    AskBack = AskBack, 64;
    Query = Query, 16;
    SignedSnapshot = Snapshot, FRAME_TO_AGENT_MAX;
    Forget = Forget, 8;
    Forgotten = Forgotten, 16;
    SignedHumanReport = HumanReport, 128;
    Heard = Heard, 16;
}

/// A closed list of numbered codes that a newer peer may have more of: an unknown number is kept
/// as `Other` and never an error.
macro_rules! open_codes {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $code:literal, $text:literal;)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $($(#[$vdoc])* $variant,)*
            /// A code that this program does not know.
            Other(u8),
        }

        impl $name {
            /// Every known code.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The number on the wire.
            #[must_use]
            pub const fn code(self) -> u8 {
                match self { $(Self::$variant => $code,)* Self::Other(code) => code }
            }

            /// Stable name, for logs and metrics.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text,)* Self::Other(_) => "other" }
            }
        }

        impl From<u8> for $name {
            fn from(code: u8) -> Self {
                match code { $($code => Self::$variant,)* other => Self::Other(other) }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.name())
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_u8(self.code())
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                u8::deserialize(deserializer).map(Self::from)
            }
        }
    };
}

pub(crate) use open_codes;

open_codes! {
    /// Why a report will never be taken. The agent drops it; it is counted on both sides.
    Rejection {
        /// The signature does not fit the session's key and the bytes.
        Signature = 1, "signature";
        /// The signed bytes are no report, or one of no observation.
        Malformed = 2, "malformed";
        /// Its number is too far behind the highest taken to tell whether it is a duplicate.
        StaleSeq = 3, "stale_seq";
        /// An observation lies in the future by the collector's clock.
        Future = 4, "future";
        /// An observation is more than a week old.
        TooOld = 5, "too_old";
        /// An observation names no target of the catalogue in force.
        UnknownTarget = 6, "unknown_target";
        /// It claims more scheduled probes than any agent may make.
        Implausible = 7, "implausible";
    }
}

open_codes! {
    /// Why a session ends.
    GoAwayReason {
        /// None of the protocol versions offered is spoken here.
        Version = 1, "version";
        /// The proof does not fit the key, this connection, or this greeting.
        Proof = 2, "proof";
        /// The key is refused: weak, or no point of the curve.
        Key = 3, "key";
        /// A message came out of order.
        Order = 4, "order";
        /// A frame was malformed or too long.
        Frame = 5, "frame";
        /// Too many sessions or reports from there; come back later.
        Overloaded = 6, "overloaded";
        /// The program is stopping; come back soon.
        Shutdown = 7, "shutdown";
        /// The peer said nothing for too long.
        Idle = 8, "idle";
        /// The path changed to another country or network: start anew.
        Moved = 9, "moved";
        /// Another session of the same key has taken its place.
        Replaced = 10, "replaced";
        /// Not enough work was shown, twice.
        Work = 11, "work";
    }
}

/// The first message: what the agent speaks. It says nothing of who the agent is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Protocol versions, best first.
    pub versions: List<u16, HELLO_VERSIONS_MAX>,
    /// Build of the code that resolves, connects and classifies.
    pub probe_core: u16,
    /// Version of the catalogue whose numbers the reports will use.
    pub catalogue_version: u32,
}

/// The collector's answer: who it is, by delegations, and where it sees the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Greeting {
    /// The protocol version that is spoken from here on.
    pub version: u16,
    /// Country of the agent's address, `ZZ` when it is not known.
    pub country: Country,
    /// Network of the agent's address, 0 when it is not known.
    pub asn: u32,
    /// The collector's clock.
    pub collector_time: Timestamp,
    /// Random; makes this greeting like no other.
    pub nonce: Fixed<16>,
    /// Leading zero bits of work asked of keys that are new here; 0 unless there is a rush.
    pub pow_bits: u8,
    /// Which keys the operator has given to this collector.
    pub delegations: List<SignedDelegation, DELEGATIONS_MAX>,
}

/// The agent proves that it holds its observer key, on this very connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prove {
    /// The observer key.
    pub observer: PublicKey,
    /// Over `tocsin/prove/v1\0`, the TLS exporter, and the hash of Hello and Greeting.
    pub signature: Signature,
    /// The work found; anything when none was asked.
    pub work: u64,
}

/// The session stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// Every report up to this number is on the collector's disk, or was refused for good.
    pub committed_seq: u64,
    /// What the collector asks of this agent.
    pub schedule: Schedule,
}

/// More work is wanted for a key that is new here; answered by a second [`Prove`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Challenge {
    /// Leading zero bits.
    pub pow_bits: u8,
}

/// The session ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GoAway {
    /// Why.
    pub reason: GoAwayReason,
    /// Seconds to stay away, before the agent's own jitter.
    pub retry_after_s: u16,
}

/// What became of reports. Sent after the commit, never before.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Ack {
    /// Every report up to this number is on the collector's disk, or was refused for good.
    pub committed_seq: u64,
    /// Refused for good: do not send again.
    pub rejected: List<Refused, ACK_ENTRIES_MAX>,
    /// Not taken now: send again after so many seconds.
    pub later: List<Deferred, ACK_ENTRIES_MAX>,
}

/// A report that was refused for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// Its number.
    pub seq: u64,
    /// Why.
    pub reason: Rejection,
}

/// A report that was not taken now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deferred {
    /// Its number.
    pub seq: u64,
    /// Seconds to wait before it is sent again.
    pub retry_after_s: u16,
}

/// What a collector asks of an agent. The agent's own caps stand above it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schedule {
    /// Scheduled probes a minute, at most 60.
    pub probes_per_minute: u16,
    /// Seconds between reports when all is well, 1 to 170.
    pub report_interval_s: u16,
}

/// The collector asks for probes, now: the answers to a suspicion. The agent's own caps stand above
/// it, and targets outside its catalogue are passed over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AskBack {
    /// Stands in the observations that answer it (`Cause::Asked`); fresh for every ask and agent.
    pub nonce: u64,
    /// What to probe, once each; answers are wanted within 7 s.
    pub targets: List<TargetIndex, ASK_TARGETS_MAX>,
    /// What is suspected: the number of a [`Layer`], or of one that this reader does not know and need not.
    /// Of names ([`Layer::Dns`], [`Layer::Tld`]) the independent paths are asked too, whatever the own
    /// resolver keeps; of an issuer the certificate is wanted, so nothing is resumed.
    pub layer: u8,
    /// Whether it is about an incident that is confirmed: the agent has a larger cap for those.
    pub standing: bool,
}

impl AskBack {
    /// The layer that is suspected, where it is known here.
    #[must_use]
    pub fn suspected(&self) -> Option<Layer> {
        Layer::ALL.iter().copied().find(|layer| *layer as u8 == self.layer)
    }
}

impl Default for Schedule {
    /// Three probes and one report a minute: 25 MB a day.
    fn default() -> Self {
        Self { probes_per_minute: 3, report_interval_s: 60 }
    }
}

open_codes! {
    /// What is asked of a collector over the session.
    Query {
        /// The newest signed snapshot.
        Snapshot = 1, "snapshot";
    }
}

/// Delete what you hold of the observer of this session: its key and its reports. Who it is has been proved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Forget;

/// It was done, on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forgotten {
    /// Reports that were deleted. What was published of them stays, and names nobody.
    pub reports: u64,
}

/// A snapshot as it travels: canonical JSON and its signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedSnapshot {
    /// Over `tocsin/snapshot/v1\0 || document`, by the feed key of a delegation.
    pub signature: Signature,
    /// The [`crate::snapshot::Snapshot`] as JSON, exactly as it was signed.
    pub document: Bytes<SNAPSHOT_BYTES_MAX>,
}

/// What both sides hash and sign of a handshake: the two frames as they travelled, and the TLS
/// exporter of the connection they travelled on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transcript {
    exporter: [u8; 32],
    hash: [u8; 32],
    nonce: [u8; 16],
}

impl Transcript {
    /// From the TLS exporter and the frames of Hello and Greeting, headers included.
    #[must_use]
    pub fn new(exporter: [u8; 32], hello: &Frame, greeting: &Frame, nonce: Fixed<16>) -> Self {
        let hash = sha256(&[&hello.to_bytes(), &greeting.to_bytes()]);
        Self { exporter, hash, nonce: nonce.0 }
    }

    fn message(&self) -> [u8; 64] {
        let mut message = [0; 64];
        let (exporter, hash) = message.split_at_mut(32);
        exporter.copy_from_slice(&self.exporter);
        hash.copy_from_slice(&self.hash);
        message
    }

    /// The agent's proof, with the work found before.
    #[must_use]
    pub fn prove(&self, key: &SecretKey, work: u64) -> Prove {
        let signature = key.sign(Domain::Prove, &self.message());
        Prove { observer: key.public(), signature, work }
    }

    /// Checks a proof; not its work.
    ///
    /// # Errors
    /// When the key is refused, or the signature is of another key, connection or handshake.
    pub fn verify(&self, prove: &Prove) -> Result<(), VerifyError> {
        prove.observer.verify(Domain::Prove, &self.message(), &prove.signature)
    }

    /// Leading zero bits of `SHA-256("tocsin/pow/v1\0" || nonce || observer || work)`, with the
    /// work as eight little-endian bytes.
    #[must_use]
    pub fn work_bits(&self, observer: &PublicKey, work: u64) -> u32 {
        let parts: [&[u8]; 4] =
            [b"tocsin/pow/v1\0", &self.nonce, observer.as_bytes(), &work.to_le_bytes()];
        let hash = sha256(&parts);
        let zeros = hash.iter().take_while(|byte| **byte == 0).count();
        let next = hash.get(zeros).map_or(0, |byte| byte.leading_zeros());
        u32::try_from(zeros).unwrap_or(32) * 8 + next
    }

    /// Searches work from `from`, at most `tries` times, so that the caller can yield in between.
    #[must_use]
    pub fn search_work(
        &self,
        observer: &PublicKey,
        bits: u8,
        from: u64,
        tries: u64,
    ) -> Option<u64> {
        debug_assert!(bits <= POW_BITS_MAX, "the caller refuses more work than the limit");
        (from..from.saturating_add(tries))
            .find(|work| self.work_bits(observer, *work) >= u32::from(bits))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transcript(exporter: u8, greeting: u8) -> Transcript {
        let hello = Frame { tag: 1, body: vec![1] };
        let greeting = Frame { tag: 2, body: vec![greeting] };
        Transcript::new([exporter; 32], &hello, &greeting, Fixed([5; 16]))
    }

    #[test]
    fn a_proof_fits_its_connection_and_handshake_only() {
        let key = SecretKey::from_seed(&[1; 32]);
        let prove = transcript(1, 1).prove(&key, 0);
        assert_eq!(transcript(1, 1).verify(&prove), Ok(()));
        assert_eq!(transcript(2, 1).verify(&prove), Err(VerifyError::Signature));
        assert_eq!(transcript(1, 2).verify(&prove), Err(VerifyError::Signature));
    }

    #[test]
    fn work_is_found_and_checked() {
        let key = SecretKey::from_seed(&[1; 32]).public();
        let transcript = transcript(1, 1);
        let work = transcript.search_work(&key, 10, 0, 100_000).unwrap();
        assert!(transcript.work_bits(&key, work) >= 10);
        assert_eq!(transcript.search_work(&key, 10, 0, work), None);
    }

    #[test]
    fn unknown_codes_are_kept() {
        let reason: Rejection = wire::decode(&[200]).unwrap();
        assert_eq!(reason, Rejection::Other(200));
        assert_eq!(wire::encode(&reason), [200]);
        for reason in Rejection::ALL {
            assert_eq!(Rejection::from(reason.code()), *reason);
        }
    }
}
