//! Golden vectors: the bytes of the protocol, frozen. Each file of `golden` is hexadecimal with a
//! field to a line. It was written by another encoder than the one under test, and is never
//! written by this one: a mismatch prints what the program makes, and somebody decides.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::{fmt::Debug, path::Path};

use serde::{Serialize, de::DeserializeOwned};
use tocsin_proto::{
    bounded::{Bytes, Fixed, List},
    delegation::{Delegation, KeyRole, SignedDelegation, delegated},
    id::TargetIndex,
    implicate::{DnsPath, Layer},
    limits::{FRAME_TO_AGENT_MAX, PROTOCOL_VERSION},
    message::{
        Ack, AskBack, Challenge, Deferred, GoAway, GoAwayReason, Greeting, Hello, Message, Prove,
        Query, Ready, Refused, Rejection, Schedule, SignedSnapshot, Tag, Transcript,
    },
    observation::{Cause, Failure, Family, LogMs, Observation},
    outcome::Outcome,
    report::{Health, HealthCheck, Report, ResolverClass, SignedReport},
    rules::RuleNumber,
    sign::{Domain, SecretKey},
    time::Timestamp,
    wire::{Deframer, Frame, decode, encode},
};

const NOW: Timestamp = Timestamp::from_ms(1_800_000_410_250);
/// Target, tenths of a second since the one before, milliseconds.
const OK: [(u16, u16, u64); 20] = [
    (12, 83, 142),
    (87, 201, 88),
    (203, 187, 311),
    (45, 214, 97),
    (160, 196, 205),
    (7, 205, 64),
    (231, 179, 420),
    (98, 222, 133),
    (54, 190, 76),
    (179, 208, 158),
    (3, 185, 92),
    (140, 217, 247),
    (66, 193, 119),
    (215, 211, 181),
    (31, 182, 69),
    (122, 204, 356),
    (190, 199, 104),
    (77, 188, 228),
    (9, 220, 83),
    (168, 195, 150),
];

fn operator() -> SecretKey {
    SecretKey::from_seed(&[1; 32])
}

fn transport() -> SecretKey {
    SecretKey::from_seed(&[2; 32])
}

fn feed() -> SecretKey {
    SecretKey::from_seed(&[3; 32])
}

fn observer() -> SecretKey {
    SecretKey::from_seed(&[4; 32])
}

fn golden(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/{name}.hex"));
    let text = std::fs::read_to_string(&path).unwrap();
    let hex: String =
        text.lines().map(|line| line.split_once('#').map_or(line, |(hex, _)| hex).trim()).collect();
    data_encoding::HEXLOWER.decode(hex.as_bytes()).unwrap()
}

#[track_caller]
fn same(name: &str, made: &[u8]) {
    let hex = data_encoding::HEXLOWER.encode(made);
    assert!(golden(name) == made, "{name}.hex does not hold what is made now:\n{hex}");
}

/// The value encodes to the file's bytes, which decode to the value, which encodes to them again.
#[track_caller]
fn body<T: Serialize + DeserializeOwned + PartialEq + Debug>(name: &str, value: &T) {
    same(name, &encode(value));
    let back: T = decode(&golden(name)).unwrap();
    assert_eq!(back, *value, "{name}");
    same(name, &encode(&back));
}

/// The same for a message in its frame.
#[track_caller]
fn framed<M: Message + PartialEq + Debug>(name: &str, message: &M) {
    same(name, &message.to_frame().to_bytes());
    let frame = frame(name);
    assert_eq!(frame.tag, M::TAG as u8, "{name}");
    let back = M::from_body(&frame.body).unwrap();
    assert_eq!(back, *message, "{name}");
    same(name, &back.to_frame().to_bytes());
}

/// The one frame in a file.
fn frame(name: &str) -> Frame {
    let mut deframer = Deframer::new(FRAME_TO_AGENT_MAX);
    deframer.push(&golden(name));
    let frame = deframer.next_frame().unwrap().unwrap();
    assert_eq!(deframer.pending(), 0, "{name}");
    frame
}

fn delegations() -> [Delegation; 2] {
    let not_after = Timestamp::from_s(1_800_000_000).plus_ms(300 * 86_400_000);
    let of =
        |role, key: SecretKey, serial| Delegation { role, key: key.public(), serial, not_after };
    [of(KeyRole::Transport, transport(), 7), of(KeyRole::Feed, feed(), 3)]
}

fn hello() -> Hello {
    let versions = List::new(vec![PROTOCOL_VERSION]).unwrap();
    Hello { versions, probe_core: 1, catalogue_version: 1 }
}

fn greeting() -> Greeting {
    Greeting {
        version: PROTOCOL_VERSION,
        country: "FR".parse().unwrap(),
        asn: 64_500,
        collector_time: NOW,
        nonce: Fixed(std::array::from_fn(|at| 0x40 + at as u8)),
        pow_bits: 0,
        delegations: List::new(delegations().map(|d| d.sign(&operator())).to_vec()).unwrap(),
    }
}

fn transcript() -> Transcript {
    let (hello, greeting) = (frame("hello"), frame("greeting"));
    let nonce = Greeting::from_body(&greeting.body).unwrap().nonce;
    Transcript::new(std::array::from_fn(|at| at as u8), &hello, &greeting, nonce)
}

fn health() -> Health {
    let mut health = Health { unrelated_ok: 255, ..Health::default() };
    for check in [
        HealthCheck::Unrelated,
        HealthCheck::SystemResolver,
        HealthCheck::Ipv4,
        HealthCheck::Ipv6,
        HealthCheck::Budget,
    ] {
        health.record(check, true);
    }
    health
}

fn twenty_ok() -> Report {
    let observations = OK.map(|(target, after_ds, ms)| Observation {
        target: TargetIndex(target),
        after_ds,
        family: Family::V4,
        cause: Cause::Scheduled,
        outcome: Outcome::Ok,
        latency: LogMs::from_ms(ms),
        failure: None,
    });
    Report {
        seq: 40_000,
        base_s: 1_800_000_000,
        probe_core: 1,
        health: health(),
        resolver: ResolverClass::Local,
        observations: List::new(observations.to_vec()).unwrap(),
    }
}

fn failure() -> Report {
    let failure = Failure {
        rule: RuleNumber(33),
        dns: DnsPath::SystemOnly,
        status: 522,
        phases: [12, 30, 64, 4_090].map(LogMs::from_ms),
    };
    let observation = Observation {
        target: TargetIndex(140),
        after_ds: 83,
        family: Family::V6,
        cause: Cause::Asked { nonce: 0x0123_4567_89ab_cdef },
        outcome: Outcome::Http5xx,
        latency: LogMs::from_ms(4_200),
        failure: Some(failure),
    };
    let mut health = Health { unrelated_ok: 212, ..health() };
    health.record(HealthCheck::SystemResolver, false);
    Report {
        seq: 40_001,
        base_s: 1_800_000_420,
        probe_core: 1,
        health,
        resolver: ResolverClass::Google,
        observations: List::new(vec![observation]).unwrap(),
    }
}

#[test]
fn delegations_are_frozen() {
    for (name, delegation) in ["transport", "feed"].into_iter().zip(delegations()) {
        body(&format!("delegation-{name}-body"), &delegation);
        let signed = delegation.sign(&operator());
        same(&format!("delegation-{name}-body"), &signed.body);
        body(&format!("delegation-{name}-signature"), &signed.signature);
        let read = SignedDelegation {
            signature: decode(&golden(&format!("delegation-{name}-signature"))).unwrap(),
            body: Bytes::new(golden(&format!("delegation-{name}-body"))).unwrap(),
        };
        assert_eq!(read.open(&operator().public(), NOW), Ok(delegation));
    }
}

#[test]
fn the_handshake_is_frozen() {
    framed("hello", &hello());
    framed("greeting", &greeting());
    framed("prove", &transcript().prove(&observer(), 0));
    framed("challenge", &Challenge { pow_bits: 12 });
    let work = transcript().search_work(&observer().public(), 12, 0, 100_000).unwrap();
    framed("prove-with-work", &transcript().prove(&observer(), work));
    framed("ready", &Ready { committed_seq: 39_999, schedule: Schedule::default() });
    framed("goaway", &GoAway { reason: GoAwayReason::Shutdown, retry_after_s: 1 });
}

#[test]
fn the_frozen_handshake_verifies() {
    let greeting = Greeting::from_body(&frame("greeting").body).unwrap();
    for expected in delegations() {
        let offered = &greeting.delegations;
        let found = delegated(offered, expected.role, &operator().public(), 0, NOW);
        assert_eq!(found, Ok(expected));
    }
    for (name, bits) in [("prove", 0), ("prove-with-work", 12)] {
        let prove = Prove::from_body(&frame(name).body).unwrap();
        assert_eq!(transcript().verify(&prove), Ok(()));
        assert!(transcript().work_bits(&prove.observer, prove.work) >= bits);
    }
}

#[test]
fn reports_are_frozen() {
    for (name, report) in [("report-20-ok", twenty_ok()), ("report-failure", failure())] {
        framed(name, &report.sign(&observer()));
        let signed = SignedReport::from_body(&frame(name).body).unwrap();
        let verifier = observer().public().verifier().unwrap();
        assert_eq!(signed.open(&verifier), Ok(report.clone()));
        assert_eq!(signed.peek_seq(), Ok(report.seq));
        assert_eq!(encode(&report), *signed.body);
    }
    let asked = Observation {
        target: TargetIndex(3),
        after_ds: 251,
        family: Family::V4,
        cause: Cause::Asked { nonce: 0xfedc_ba98_7654_3210 },
        outcome: Outcome::Ok,
        latency: LogMs::from_ms(88),
        failure: None,
    };
    body("observation-asked", &asked);
}

#[test]
fn twenty_ok_observations_fit_in_160_signed_bytes() {
    let signed = twenty_ok().sign(&observer());
    let bytes = signed.signature.0.len() + signed.body.len();
    let frame = signed.to_frame().to_bytes().len();
    println!("20 ok observations: {bytes} bytes with the signature, {frame} in their frame");
    assert!(bytes <= 160, "{bytes}");
}

#[test]
fn what_follows_the_handshake_is_frozen() {
    framed("ack", &Ack { committed_seq: 40_000, ..Ack::default() });
    let rejected = vec![
        Refused { seq: 40_003, reason: Rejection::Future },
        Refused { seq: 40_005, reason: Rejection::UnknownTarget },
    ];
    let ack = Ack {
        committed_seq: 40_002,
        rejected: List::new(rejected).unwrap(),
        later: List::new(vec![Deferred { seq: 40_004, retry_after_s: 5 }]).unwrap(),
    };
    framed("ack-rejected-later", &ack);
    framed("schedule", &Schedule { probes_per_minute: 6, report_interval_s: 60 });
    let targets = List::new([4, 87, 203, 251].map(TargetIndex).to_vec()).unwrap();
    framed(
        "ask-back",
        &AskBack {
            nonce: 0x0123_4567_89ab_cdef,
            targets,
            layer: Layer::Dns as u8,
            standing: false,
        },
    );
    framed("query", &Query::Snapshot);
    let document = Bytes::new(br#"{"schema":1,"sequence":9}"#.to_vec()).unwrap();
    let signature = feed().sign(Domain::Snapshot, &document);
    let snapshot = SignedSnapshot { signature, document };
    framed("snapshot", &snapshot);
    let offered = delegations().map(|delegation| delegation.sign(&operator()));
    assert_eq!(snapshot.open(&offered, &operator().public(), NOW).unwrap(), &*snapshot.document);
}

#[test]
fn every_width_of_a_frame_header_is_frozen() {
    for length in [5, 300, 70_000] {
        let frame = Frame { tag: Tag::Snapshot as u8, body: vec![0x5a; length] };
        let bytes = frame.to_bytes();
        let (header, _) = bytes.split_at(bytes.len() - length);
        same(&format!("frame-header-{length}"), header);
        let mut deframer = Deframer::new(FRAME_TO_AGENT_MAX);
        deframer.push(&golden(&format!("frame-header-{length}")));
        assert_eq!(deframer.next_frame(), Ok(None));
        deframer.push(&frame.body);
        assert!(deframer.next_frame() == Ok(Some(frame)) && deframer.pending() == 0);
    }
}
