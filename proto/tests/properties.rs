//! Properties of everything that is read from a peer: it comes back as it was, and nothing that
//! arrives makes the reader panic, allocate past a limit, or believe a changed byte.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::fmt::Debug;

use proptest::{collection::vec, prelude::*};
use serde::{Serialize, de::DeserializeOwned};
use tocsin_proto::{
    bounded::{Bytes, Fixed, List},
    delegation::{Delegation, KeyRole, SignedDelegation},
    id::{Country, TargetIndex},
    implicate::DnsPath,
    limits::{
        ACK_ENTRIES_MAX, DELEGATION_BYTES_MAX, DELEGATIONS_MAX, FRAME_TO_COLLECTOR_MAX,
        HELLO_VERSIONS_MAX, REPORT_BYTES_MAX, REPORT_OBSERVATIONS_MAX,
    },
    message::{
        Ack, AskBack, Challenge, Deferred, GoAway, GoAwayReason, Greeting, Hello, Message, Prove,
        Query, Ready, Refused, Rejection, Schedule, SignedSnapshot,
    },
    observation::{Cause, Failure, Family, LogMs, Observation},
    outcome::Outcome,
    report::{Health, Report, ResolverClass, SignedReport},
    rules::RuleNumber,
    sign::{Domain, PublicKey, SecretKey},
    time::Timestamp,
    wire::{DecodeError, Deframer, decode, encode},
};

fn fixed<const N: usize>() -> impl Strategy<Value = Fixed<N>> {
    any::<[u8; N]>().prop_map(Fixed)
}

fn key() -> impl Strategy<Value = PublicKey> {
    any::<[u8; 32]>().prop_map(PublicKey::from_bytes)
}

fn list<T: Debug + Clone, const MAX: usize>(
    value: impl Strategy<Value = T>,
) -> impl Strategy<Value = List<T, MAX>> {
    vec(value, 0..=MAX).prop_map(|values| List::new(values).unwrap())
}

fn bytes<const MAX: usize>(most: usize) -> impl Strategy<Value = Bytes<MAX>> {
    vec(any::<u8>(), 0..=most).prop_map(|bytes| Bytes::new(bytes).unwrap())
}

fn hello() -> impl Strategy<Value = Hello> {
    let versions = list::<u16, HELLO_VERSIONS_MAX>(any::<u16>());
    (versions, any::<u16>(), any::<u32>()).prop_map(|(versions, probe_core, catalogue_version)| {
        Hello { versions, probe_core, catalogue_version }
    })
}

fn delegation() -> impl Strategy<Value = Delegation> {
    let role =
        prop_oneof![Just(KeyRole::Transport), Just(KeyRole::Feed), Just(KeyRole::Checkpoint),];
    (role, key(), any::<u64>(), any::<u64>()).prop_map(|(role, key, serial, ms)| Delegation {
        role,
        key,
        serial,
        not_after: Timestamp::from_ms(ms),
    })
}

fn greeting() -> impl Strategy<Value = Greeting> {
    let signed = (fixed(), bytes(DELEGATION_BYTES_MAX))
        .prop_map(|(signature, body)| SignedDelegation { signature, body });
    let country = [b'A'..=b'Z', b'A'..=b'Z'].prop_map(|code| Country::new(code).unwrap());
    let delegations = list::<_, DELEGATIONS_MAX>(signed);
    (any::<u16>(), country, any::<u32>(), any::<u64>(), fixed(), any::<u8>(), delegations).prop_map(
        |(version, country, asn, ms, nonce, pow_bits, delegations)| Greeting {
            version,
            country,
            asn,
            collector_time: Timestamp::from_ms(ms),
            nonce,
            pow_bits,
            delegations,
        },
    )
}

fn schedule() -> impl Strategy<Value = Schedule> {
    any::<(u16, u16)>().prop_map(|(probes_per_minute, report_interval_s)| Schedule {
        probes_per_minute,
        report_interval_s,
    })
}

fn ack() -> impl Strategy<Value = Ack> {
    let refused =
        any::<(u64, u8)>().prop_map(|(seq, code)| Refused { seq, reason: Rejection::from(code) });
    let deferred =
        any::<(u64, u16)>().prop_map(|(seq, retry_after_s)| Deferred { seq, retry_after_s });
    let (rejected, later) =
        (list::<_, ACK_ENTRIES_MAX>(refused), list::<_, ACK_ENTRIES_MAX>(deferred));
    (any::<u64>(), rejected, later).prop_map(|(committed_seq, rejected, later)| Ack {
        committed_seq,
        rejected,
        later,
    })
}

fn observation() -> impl Strategy<Value = Observation> {
    let family = prop_oneof![Just(Family::V4), Just(Family::V6)];
    let cause = prop_oneof![
        Just(Cause::Scheduled),
        Just(Cause::Verification),
        any::<u64>().prop_map(|nonce| Cause::Asked { nonce }),
    ];
    let dns = prop_oneof![
        Just(DnsPath::Unconfirmed),
        Just(DnsPath::Both),
        Just(DnsPath::SystemOnly),
        Just(DnsPath::IndependentOnly),
    ];
    let failure = (any::<u16>(), dns, any::<u16>(), any::<[u8; 4]>()).prop_map(
        |(rule, dns, status, phases)| Failure {
            rule: RuleNumber(rule),
            dns,
            status,
            phases: phases.map(LogMs),
        },
    );
    let result = prop_oneof![
        Just((Outcome::Ok, None)),
        (proptest::sample::select(Outcome::ALL.split_first().unwrap().1), failure)
            .prop_map(|(outcome, failure)| (outcome, Some(failure))),
    ];
    (any::<u16>(), any::<u16>(), family, cause, result, any::<u8>()).prop_map(
        |(target, after_ds, family, cause, (outcome, failure), latency)| Observation {
            target: TargetIndex(target),
            after_ds,
            family,
            cause,
            outcome,
            latency: LogMs(latency),
            failure,
        },
    )
}

fn report() -> impl Strategy<Value = Report> {
    let health = any::<(u16, u16, u8)>().prop_map(|(measured, failing, unrelated_ok)| Health {
        measured,
        failing,
        unrelated_ok,
    });
    let resolver = proptest::sample::select(ResolverClass::ALL);
    let observations = list::<_, REPORT_OBSERVATIONS_MAX>(observation());
    (any::<u64>(), any::<u32>(), any::<u16>(), health, resolver, observations).prop_map(
        |(seq, base_s, probe_core, health, resolver, observations)| Report {
            seq,
            base_s,
            probe_core,
            health,
            resolver,
            observations,
        },
    )
}

/// It comes back whole, and neither shorter nor longer.
fn comes_back<T>(value: &T) -> Result<(), TestCaseError>
where
    T: Serialize + DeserializeOwned + PartialEq + Debug,
{
    let mut bytes = encode(value);
    prop_assert_eq!(&decode::<T>(&bytes).unwrap(), value);
    prop_assert!(decode::<T>(bytes.get(..bytes.len() - 1).unwrap()).is_err());
    bytes.push(0);
    prop_assert_eq!(decode::<T>(&bytes).unwrap_err(), DecodeError::Trailing { extra: 1 });
    Ok(())
}

fn message_comes_back<M: Message + PartialEq + Debug>(message: &M) -> Result<(), TestCaseError> {
    let frame = message.to_frame();
    prop_assert!(frame.body.len() <= M::BYTES_MAX, "{} bytes", frame.body.len());
    prop_assert_eq!(&M::from_body(&frame.body).unwrap(), message);
    comes_back(message)
}

proptest! {
    #[test]
    fn messages_come_back(
        (hello, greeting, ack, schedule) in (hello(), greeting(), ack(), schedule()),
        (seq, seconds, code, bits) in any::<(u64, u16, u8, u8)>(),
        (observer, signature) in (key(), fixed::<64>()),
        document in bytes(300),
    ) {
        message_comes_back(&hello)?;
        message_comes_back(&greeting)?;
        message_comes_back(&Prove { observer, signature, work: seq })?;
        message_comes_back(&Ready { committed_seq: seq, schedule })?;
        message_comes_back(&Challenge { pow_bits: bits })?;
        let reason = GoAwayReason::from(code);
        message_comes_back(&GoAway { reason, retry_after_s: seconds })?;
        message_comes_back(&ack)?;
        message_comes_back(&schedule)?;
        let targets = List::new(vec![TargetIndex(seq as u16); (seq % 17) as usize]).unwrap();
        message_comes_back(&AskBack { nonce: seq, targets, layer: seq as u8, standing: seq % 3 == 0 })?;
        message_comes_back(&Query::from(code))?;
        message_comes_back(&SignedSnapshot { signature, document })?;
    }

    #[test]
    fn delegations_come_back(delegation in delegation()) {
        comes_back(&delegation)?;
        prop_assert!(encode(&delegation).len() <= DELEGATION_BYTES_MAX);
    }

    #[test]
    fn reports_come_back(report in report()) {
        comes_back(&report)?;
        let key = SecretKey::from_seed(&[4; 32]);
        let signed = report.sign(&key);
        message_comes_back(&signed)?;
        prop_assert_eq!(signed.open(&key.public().verifier().unwrap()).unwrap(), report);
    }

    #[test]
    fn whatever_arrives_is_read_without_panic(bytes in vec(any::<u8>(), 0..400)) {
        fn read<M: Message>(bytes: &[u8]) {
            // What decodes must also encode; what does not is an error, and that is all.
            if let Ok(message) = M::from_body(bytes) {
                assert!(!message.to_frame().body.is_empty());
            }
        }
        read::<Hello>(&bytes);
        read::<Greeting>(&bytes);
        read::<Prove>(&bytes);
        read::<Ready>(&bytes);
        read::<Challenge>(&bytes);
        read::<GoAway>(&bytes);
        read::<SignedReport>(&bytes);
        read::<Ack>(&bytes);
        read::<Schedule>(&bytes);
        read::<AskBack>(&bytes);
        read::<Query>(&bytes);
        read::<SignedSnapshot>(&bytes);
        std::hint::black_box(decode::<Report>(&bytes).is_ok());
        std::hint::black_box(decode::<Delegation>(&bytes).is_ok());
    }

    #[test]
    fn a_changed_byte_of_a_report_is_no_panic(
        report in report(), at in any::<prop::sample::Index>(), byte in any::<u8>(),
    ) {
        let mut bytes = encode(&report);
        *at.get_mut(&mut bytes) = byte;
        if let Ok(other) = decode::<Report>(&bytes) {
            prop_assert!(other.observations.len() <= REPORT_OBSERVATIONS_MAX);
            prop_assert!(other.last_at() >= other.base());
        }
    }

    #[test]
    fn whatever_arrives_is_cut_without_panic(
        pieces in vec(vec(any::<u8>(), 0..64), 0..32), max in 0usize..100,
    ) {
        let mut deframer = Deframer::new(max);
        let (mut pushed, mut taken) = (0, 0);
        'stream: for piece in &pieces {
            deframer.push(piece);
            pushed += piece.len();
            loop {
                match deframer.next_frame() {
                    Ok(Some(frame)) => {
                        prop_assert!(frame.body.len() <= max);
                        taken += frame.body.len() + 2;
                    }
                    Ok(None) => break,
                    Err(refused) => {
                        prop_assert!(refused.length > max as u64);
                        break 'stream;
                    }
                }
            }
            prop_assert!(taken + deframer.pending() <= pushed);
        }
    }

    #[test]
    fn a_flipped_bit_never_verifies(
        body in vec(any::<u8>(), 1..100), at in any::<prop::sample::Index>(), bit in 0u8..8,
    ) {
        let key = SecretKey::from_seed(&[4; 32]);
        let verifier = key.public().verifier().unwrap();
        let signature = key.sign(Domain::Report, &body);
        prop_assert!(verifier.verify(Domain::Report, &body, &signature).is_ok());
        let mut changed = body.clone();
        *at.get_mut(&mut changed) ^= 1 << bit;
        prop_assert!(verifier.verify(Domain::Report, &changed, &signature).is_err());
        let mut changed = signature;
        *at.get_mut(&mut changed.0) ^= 1 << bit;
        prop_assert!(verifier.verify(Domain::Report, &body, &changed).is_err());
        let mut other = *key.public().as_bytes();
        *at.get_mut(&mut other) ^= 1 << bit;
        let other = PublicKey::from_bytes(other);
        prop_assert!(other.verify(Domain::Report, &body, &signature).is_err());
        for domain in [Domain::Prove, Domain::Delegation, Domain::Catalogue, Domain::Snapshot] {
            prop_assert!(verifier.verify(domain, &body, &signature).is_err());
        }
    }
}

/// The count or length that is announced, with nothing or little behind it.
fn announced(length: u64) -> Vec<u8> {
    encode(&length)
}

#[test]
fn a_huge_announced_length_is_refused_and_not_allocated() {
    // Memory for 2^40 of anything is not there: had it been asked for, the test would abort.
    for length in [1 << 40, u64::from(u32::MAX), u64::MAX, 1 << 20] {
        let bytes = announced(length);
        assert!(decode::<List<u8, { usize::MAX }>>(&bytes).is_err(), "{length}");
        assert!(decode::<List<u64, 8>>(&bytes).is_err(), "{length}");
        assert!(decode::<Bytes<{ usize::MAX }>>(&bytes).is_err(), "{length}");
        assert!(decode::<Bytes<8>>(&bytes).is_err(), "{length}");
    }
}

#[test]
fn a_length_just_past_its_bound_is_refused() {
    fn bound<const MAX: usize>() {
        for (length, good) in [(MAX, true), (MAX + 1, false)] {
            let mut bytes = announced(length as u64);
            bytes.extend(std::iter::repeat_n(1, length));
            assert_eq!(decode::<List<u8, MAX>>(&bytes).is_ok(), good, "{length} of {MAX} values");
            assert_eq!(decode::<Bytes<MAX>>(&bytes).is_ok(), good, "{length} of {MAX} bytes");
            assert_eq!(List::<u8, MAX>::new(vec![1; length]).is_ok(), good);
            assert_eq!(Bytes::<MAX>::new(vec![1; length]).is_ok(), good);
        }
    }
    bound::<HELLO_VERSIONS_MAX>();
    bound::<DELEGATION_BYTES_MAX>();
    bound::<REPORT_BYTES_MAX>();
    let long = vec![0; FRAME_TO_COLLECTOR_MAX + 1];
    assert_eq!(SignedReport::from_body(&long), Err(DecodeError::Malformed));
    let mut deframer = Deframer::new(FRAME_TO_COLLECTOR_MAX);
    deframer.push(&[0x10, 0xfb, 0x01, 0x40]);
    assert!(deframer.next_frame().is_err(), "16,385 bytes");
    let mut deframer = Deframer::new(FRAME_TO_COLLECTOR_MAX);
    deframer.push(&[0x10, 0xfb, 0x00, 0x40]);
    assert_eq!(deframer.next_frame(), Ok(None), "16,384 bytes");
}

#[test]
fn the_widest_report_is_under_its_bound() {
    let failure = Failure {
        rule: RuleNumber(u16::MAX),
        dns: DnsPath::SystemOnly,
        status: u16::MAX,
        phases: [LogMs(255); 4],
    };
    let widest = Observation {
        target: TargetIndex(u16::MAX),
        after_ds: u16::MAX,
        family: Family::V6,
        cause: Cause::Asked { nonce: u64::MAX },
        outcome: Outcome::Intercepted,
        latency: LogMs(255),
        failure: Some(failure),
    };
    let report = Report {
        seq: u64::MAX,
        base_s: u32::MAX,
        probe_core: u16::MAX,
        health: Health { measured: u16::MAX, failing: u16::MAX, unrelated_ok: u8::MAX },
        resolver: ResolverClass::OtherPublic,
        observations: List::new(vec![widest; REPORT_OBSERVATIONS_MAX]).unwrap(),
    };
    let bytes = encode(&report);
    assert_eq!(decode::<Report>(&bytes), Ok(report.clone()));
    assert_eq!(bytes.len(), 9 + 5 + 3 + (3 + 3 + 1) + 1 + 1 + 64 * 29);
    assert!(bytes.len() <= REPORT_BYTES_MAX);
    assert_eq!(*report.sign(&SecretKey::from_seed(&[4; 32])).body, *bytes);
}

#[test]
fn codes_are_closed_where_they_must_be_and_open_elsewhere() {
    for code in 0..=u8::MAX {
        let known = Outcome::ALL.iter().find(|outcome| outcome.code() == code);
        assert_eq!(Outcome::from_code(code).as_ref(), known);
        assert_eq!(decode::<Outcome>(&[code]).ok().as_ref(), known);
        let rejection = decode::<Rejection>(&[code]).unwrap();
        assert_eq!((rejection.code(), encode(&rejection)), (code, vec![code]));
        assert_eq!(matches!(rejection, Rejection::Other(_)), !(1..=7).contains(&code));
        let reason = decode::<GoAwayReason>(&[code]).unwrap();
        assert_eq!((reason.code(), encode(&reason)), (code, vec![code]));
        assert_eq!(matches!(reason, GoAwayReason::Other(_)), !(1..=11).contains(&code));
        assert_eq!(decode::<ResolverClass>(&[code]).is_ok(), code < 7);
        // Details follow, with outcome `code`: `ok` with details is refused.
        let bytes = [3, 0, 8, 9, code, 0, 0, 0, 0, 0, 0, 0];
        let details = decode::<Observation>(&bytes).is_ok();
        assert_eq!(details, known.is_some_and(|outcome| *outcome != Outcome::Ok), "{code}");
        // An observation's head: four bits are known, and cause 3 is none.
        let mut bytes = vec![3, 0, code, 9];
        bytes.extend((code & 6 == 4).then_some(5));
        bytes.extend((code & 8 != 0).then_some([48, 0, 0, 0, 0, 0, 0, 0]).into_iter().flatten());
        let head = decode::<Observation>(&bytes).is_ok();
        assert_eq!(head, code < 16 && code & 6 != 6, "head {code}");
    }
}

#[test]
fn wider_varints_than_needed_are_read_and_never_written() {
    assert_eq!(decode::<u8>(&[0xfb]), Ok(251));
    assert_eq!(decode::<u16>(&[0xfb, 5, 0]), Ok(5));
    assert_eq!(encode(&5u16), [5]);
    assert!(decode::<u16>(&[0xfc, 5, 0, 0, 0]).is_err());
    assert_eq!(decode::<u64>(&[0xfc, 5, 0, 0, 0]), Ok(5));
    assert!(decode::<u32>(&[0xfd, 5, 0, 0, 0, 0, 0, 0, 0]).is_err());
    assert!(decode::<u64>(&[0xfe; 17]).is_err() && decode::<u64>(&[0xff; 17]).is_err());
    assert_eq!(decode::<DnsPath>(&[0xfc, 2, 0, 0, 0]), Ok(DnsPath::SystemOnly));
    let mut deframer = Deframer::new(100);
    deframer.push(&[7, 0xfb, 1, 0, 9]);
    let frame = deframer.next_frame().unwrap().unwrap();
    assert_eq!(frame.to_bytes(), [7, 1, 9], "which is what a transcript hashes");
}
