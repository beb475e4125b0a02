//! One session with a collector, as a state machine: frames in, outputs out. No socket, no clock.
//!
//! Nothing but Hello is sent before the Greeting has shown that the operator delegated the TLS key
//! in use: who we are is for the operator's collector only.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use tocsin_proto::{
    bounded::List,
    delegation::{DelegationError, KeyRole, SignedDelegation, delegated},
    human::Heard,
    id::Country,
    limits::{POW_BITS_MAX, PROTOCOL_VERSION, REPORTS_IN_FLIGHT_MAX},
    message::{
        Ack, AskBack, Challenge, Forgotten, GoAway, GoAwayReason, Greeting, Hello, Message, Query,
        Ready, Rejection, Schedule, SignedSnapshot, Tag, Transcript,
    },
    report::SignedReport,
    sign::{PublicKey, SecretKey},
    time::Timestamp,
    wire::{DecodeError, Frame},
};

/// Work proofs in one session: the first, and the answer to one Challenge.
const PROOFS_MAX: u8 = 2;
/// A collector keeps an agent away for no longer, s: an outage may begin meanwhile.
const RETRY_AFTER_S_MAX: u16 = 3_600;

/// What a session is made from.
#[derive(Debug)]
pub struct Setup {
    /// The pinned operator key.
    pub operator: PublicKey,
    /// The key of the TLS certificate in use.
    pub transport: PublicKey,
    /// The TLS exporter of this connection.
    pub exporter: [u8; 32],
    /// The highest serial seen of the operator's transport delegations.
    pub serial_seen: u64,
    /// The highest serial seen of its feed delegations.
    pub feed_serial_seen: u64,
    /// Build of the probing code.
    pub probe_core: u16,
    /// Version of the catalogue in use.
    pub catalogue_version: u32,
    /// Whether it is only read from: then nobody is told who we are.
    pub reads: bool,
}

/// What the shell does for the session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// The collector is the operator's; this is what it says.
    Greeted {
        /// Its clock minus ours, milliseconds.
        offset_ms: i64,
        /// Where it sees us.
        country: Country,
        /// Our network, as it sees us.
        asn: u32,
        /// Serial of its delegation, to be kept.
        serial: u64,
    },
    /// Search this much work for the key of [`Session::identify`], then call
    /// [`Session::worked`].
    Work {
        /// Leading zero bits; often 0.
        bits: u8,
    },
    /// Reports may go; everything up to this number is done with.
    Ready {
        /// As in the message.
        committed_seq: u64,
        /// What is asked of us.
        schedule: Schedule,
    },
    /// Reports are done with.
    Acked {
        /// Everything up to this number.
        committed_seq: u64,
        /// Refused for good, by number.
        rejected: Vec<u64>,
        /// One was refused as coming from the future: the clocks have gone apart since the
        /// Greeting.
        clock_is_off: bool,
    },
    /// The schedule has changed.
    Schedule(Schedule),
    /// Probes are asked for, now.
    Ask(AskBack),
    /// The collector has deleted so many reports of ours.
    Forgotten(u64),
    /// What a person said was heard.
    Heard(Heard),
    /// A snapshot has come, signed by the feed key that the operator delegated.
    Snapshot {
        /// As it came.
        signed: SignedSnapshot,
        /// Its sequence.
        sequence: u64,
        /// Serial of the feed's delegation, to be kept.
        serial: u64,
    },
}

/// Why a session is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// A message does not decode.
    #[error("the collector sent a malformed message (tag {tag})")]
    Malformed {
        /// Its tag.
        tag: u8,
        /// How.
        #[source]
        source: DecodeError,
    },
    /// A message came out of order.
    #[error("the collector sent a message out of order (tag {0})")]
    Order(u8),
    /// It speaks another version.
    #[error(
        "the collector speaks protocol version {0}, which was not offered; update this program"
    )]
    Version(u16),
    /// It is not the operator's.
    #[error("this is not a collector of the pinned operator key; nothing was told to it")]
    Delegation(#[source] DelegationError),
    /// Its snapshot is not signed by a key that the operator delegated for the feed.
    #[error("the collector sent a snapshot that its operator's feed key did not sign")]
    Snapshot,
    /// It asks for too much work.
    #[error("the collector asks for {0} bits of work; at most {POW_BITS_MAX} are done")]
    Work(u8),
    /// It sent us away.
    #[error("the collector ended the session: {reason}; to be tried again in {retry_after_s} s")]
    GoAway {
        /// Why.
        reason: GoAwayReason,
        /// Seconds to stay away.
        retry_after_s: u16,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Greeting,
    Reading,
    Working,
    Proved,
    Ready,
}

/// The state of one session.
#[derive(Debug)]
pub struct Session {
    setup: Setup,
    hello: Frame,
    state: State,
    transcript: Option<Transcript>,
    proofs: u8,
    highest_sent: u64,
    sent_before: u64,
    in_flight: BTreeSet<u64>,
    /// Snapshots that were asked for and have not come.
    queries: u8,
    /// Bytes of the last that came; 0 before the first.
    news_bytes: usize,
    later: BTreeMap<u64, Timestamp>,
    delegations: Vec<SignedDelegation>,
    key: Option<Arc<SecretKey>>,
}

fn body<M: Message>(frame: &Frame) -> Result<M, SessionError> {
    M::from_body(&frame.body).map_err(|source| SessionError::Malformed { tag: frame.tag, source })
}

impl Session {
    /// A session, and the Hello to send.
    ///
    /// # Panics
    /// Never: one version fits a Hello.
    #[must_use]
    pub fn new(setup: Setup) -> (Self, Frame) {
        let hello = Hello {
            versions: List::new(vec![PROTOCOL_VERSION]).expect("one version fits"),
            probe_core: setup.probe_core,
            catalogue_version: setup.catalogue_version,
        }
        .to_frame();
        let session = Self {
            setup,
            hello: hello.clone(),
            state: State::Greeting,
            transcript: None,
            proofs: 0,
            highest_sent: 0,
            sent_before: 0,
            in_flight: BTreeSet::new(),
            queries: 0,
            news_bytes: 0,
            later: BTreeMap::new(),
            delegations: Vec::new(),
            key: None,
        };
        (session, hello)
    }

    /// Whether reports may be sent.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.state == State::Ready
    }

    /// Whether snapshots may be asked for.
    #[must_use]
    pub fn may_query(&self) -> bool {
        matches!(self.state, State::Ready | State::Reading)
    }

    /// Asks for the newest snapshot: one may come.
    pub fn query(&mut self) -> Frame {
        self.queries = self.queries.saturating_add(1);
        Query::Snapshot.to_frame()
    }

    /// Bytes of the last snapshot that came; 0 before the first.
    #[must_use]
    pub const fn news_bytes(&self) -> usize {
        self.news_bytes
    }

    /// Reports sent and not acked.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Reports that may be sent now.
    #[must_use]
    pub fn room(&self) -> usize {
        match self.state {
            State::Ready => REPORTS_IN_FLIGHT_MAX.saturating_sub(self.in_flight.len()),
            _ => 0,
        }
    }

    /// The number behind which new reports are wanted.
    #[must_use]
    pub const fn highest_sent(&self) -> u64 {
        self.highest_sent
    }

    /// This session takes over from one of the same observer that sent up to this number: what was
    /// under way there may be acked here.
    pub fn takes_over(&mut self, sent_before: u64) {
        self.sent_before = sent_before;
    }

    /// The deferred report that is due, if one is.
    #[must_use]
    pub fn due_again(&self, now: Timestamp) -> Option<u64> {
        self.later.iter().find_map(|(seq, at)| (*at <= now).then_some(*seq))
    }

    /// When the next deferred report is due.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Timestamp> {
        self.later.values().min().copied()
    }

    /// Forgets a deferred report that is no longer there.
    pub fn gone(&mut self, seq: u64) {
        self.later.remove(&seq);
    }

    /// Counts a report as sent, and gives its frame.
    #[must_use]
    pub fn send(&mut self, seq: u64, report: &SignedReport) -> Frame {
        self.later.remove(&seq);
        self.in_flight.insert(seq);
        self.highest_sent = self.highest_sent.max(seq);
        report.to_frame()
    }

    /// The transcript to search work for; present once [`Output::Work`] was given.
    #[must_use]
    pub const fn transcript(&self) -> Option<&Transcript> {
        self.transcript.as_ref()
    }

    /// Who we are in this session: chosen after the Greeting, which may tell in which network we
    /// are.
    pub fn identify(&mut self, key: Arc<SecretKey>) {
        self.key = Some(key);
    }

    /// The key of [`Session::identify`].
    #[must_use]
    pub const fn key(&self) -> Option<&Arc<SecretKey>> {
        self.key.as_ref()
    }

    /// Who we are; `None` before [`Session::identify`].
    #[must_use]
    pub fn observer(&self) -> Option<PublicKey> {
        self.key.as_ref().map(|key| key.public())
    }

    /// The work was found: the Prove to send.
    #[must_use]
    pub fn worked(&mut self, work: u64) -> Option<Frame> {
        let transcript = self.transcript.filter(|_| self.state == State::Working)?;
        let key = self.key.as_ref()?;
        self.state = State::Proved;
        self.proofs += 1;
        Some(transcript.prove(key, work).to_frame())
    }

    /// Takes a frame of the collector.
    ///
    /// # Errors
    /// When the session is over: by a breach of the protocol or the pin, or by its GoAway.
    pub fn receive(&mut self, now: Timestamp, frame: &Frame) -> Result<Vec<Output>, SessionError> {
        let is = |tag: Tag| frame.tag == tag as u8;
        if is(Tag::GoAway) {
            let GoAway { reason, retry_after_s } = body(frame)?;
            // Whoever has not shown a delegation may end a session, and keep nobody away.
            let most = if self.state == State::Greeting { 0 } else { RETRY_AFTER_S_MAX };
            let retry_after_s = retry_after_s.min(most);
            return Err(SessionError::GoAway { reason, retry_after_s });
        }
        let order = SessionError::Order(frame.tag);
        if is(Tag::Greeting) {
            return if self.state == State::Greeting {
                self.greeted(now, frame)
            } else {
                Err(order)
            };
        }
        if is(Tag::Challenge) {
            if self.state != State::Proved || self.proofs >= PROOFS_MAX {
                return Err(order);
            }
            let Challenge { pow_bits } = body(frame)?;
            return self.work(pow_bits);
        }
        if is(Tag::Ready) {
            if self.state != State::Proved {
                return Err(order);
            }
            let Ready { committed_seq, schedule } = body(frame)?;
            self.state = State::Ready;
            self.highest_sent = committed_seq;
            return Ok(vec![Output::Ready { committed_seq, schedule }]);
        }
        if is(Tag::Ack) {
            return if self.is_ready() { self.acked(now, body(frame)?) } else { Err(order) };
        }
        if is(Tag::Schedule) {
            return if self.is_ready() {
                Ok(vec![Output::Schedule(body(frame)?)])
            } else {
                Err(order)
            };
        }
        if is(Tag::AskBack) {
            return if self.is_ready() { Ok(vec![Output::Ask(body(frame)?)]) } else { Err(order) };
        }
        if is(Tag::Forgotten) {
            let Forgotten { reports } = body(frame)?;
            return if self.is_ready() { Ok(vec![Output::Forgotten(reports)]) } else { Err(order) };
        }
        if is(Tag::Heard) {
            return if self.is_ready() {
                Ok(vec![Output::Heard(body(frame)?)])
            } else {
                Err(order)
            };
        }
        if is(Tag::Snapshot) {
            // What nobody asked for could come without end.
            if !self.may_query() || self.queries == 0 {
                return Err(order);
            }
            self.queries -= 1;
            let snapshot: SignedSnapshot = body(frame)?;
            self.news_bytes = frame.body.len();
            let Setup { operator, feed_serial_seen, .. } = &self.setup;
            let feed =
                delegated(&self.delegations, KeyRole::Feed, operator, *feed_serial_seen, now)
                    .map_err(SessionError::Delegation)?;
            let document = snapshot
                .open(&self.delegations, operator, now)
                .map_err(|_| SessionError::Snapshot)?;
            // A field that a later version adds is no reason to throw the whole away.
            #[derive(serde::Deserialize)]
            struct Head {
                sequence: u64,
            }
            let Head { sequence } =
                serde_json::from_slice(document).map_err(|_| SessionError::Snapshot)?;
            let serial = feed.serial;
            return Ok(vec![Output::Snapshot { signed: snapshot, sequence, serial }]);
        }
        // Unknown tags, and those of a later version, are skipped.
        Ok(Vec::new())
    }

    fn greeted(&mut self, now: Timestamp, frame: &Frame) -> Result<Vec<Output>, SessionError> {
        let greeting: Greeting = body(frame)?;
        if greeting.version != PROTOCOL_VERSION {
            return Err(SessionError::Version(greeting.version));
        }
        let Setup { operator, transport, exporter, serial_seen, .. } = &self.setup;
        let delegation =
            delegated(&greeting.delegations, KeyRole::Transport, operator, *serial_seen, now)
                .map_err(SessionError::Delegation)?;
        if delegation.key != *transport {
            let (delegated, used) = (delegation.key, *transport);
            return Err(SessionError::Delegation(DelegationError::OtherKey { delegated, used }));
        }
        self.transcript = Some(Transcript::new(*exporter, &self.hello, frame, greeting.nonce));
        self.delegations = greeting.delegations.to_vec();
        let mut outputs = vec![Output::Greeted {
            offset_ms: greeting.collector_time - now,
            country: greeting.country,
            asn: greeting.asn,
            serial: delegation.serial,
        }];
        if self.setup.reads {
            self.state = State::Reading;
        } else {
            outputs.extend(self.work(greeting.pow_bits)?);
        }
        Ok(outputs)
    }

    fn work(&mut self, bits: u8) -> Result<Vec<Output>, SessionError> {
        if bits > POW_BITS_MAX {
            return Err(SessionError::Work(bits));
        }
        self.state = State::Working;
        Ok(vec![Output::Work { bits }])
    }

    fn acked(&mut self, now: Timestamp, ack: Ack) -> Result<Vec<Output>, SessionError> {
        let committed_seq = ack.committed_seq;
        // An ack of what was never sent would throw away reports that nobody has.
        if committed_seq > self.highest_sent.max(self.sent_before) {
            return Err(SessionError::Order(Tag::Ack as u8));
        }
        self.in_flight.retain(|seq| *seq > committed_seq);
        self.later.retain(|seq, _| *seq > committed_seq);
        let mut rejected = Vec::new();
        let mut clock_is_off = false;
        for refused in ack.rejected.iter() {
            self.later.remove(&refused.seq);
            if self.in_flight.remove(&refused.seq) {
                rejected.push(refused.seq);
                clock_is_off |= refused.reason == Rejection::Future;
            }
        }
        for deferred in ack.later.iter() {
            if self.in_flight.remove(&deferred.seq) {
                let wait_ms = u64::from(deferred.retry_after_s.max(1)) * 1000;
                self.later.insert(deferred.seq, now.plus_ms(wait_ms));
            }
        }
        Ok(vec![Output::Acked { committed_seq, rejected, clock_is_off }])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tocsin_proto::{
        bounded::{Bytes, Fixed},
        delegation::Delegation,
        message::{Deferred, Prove, Refused},
    };

    const NOW: Timestamp = Timestamp::from_s(1_800_000_000);

    fn key(n: u8) -> SecretKey {
        SecretKey::from_seed(&[n; 32])
    }

    fn session(serial_seen: u64) -> (Session, Frame) {
        Session::new(Setup {
            operator: key(1).public(),
            transport: key(2).public(),
            exporter: [9; 32],
            serial_seen,
            feed_serial_seen: 0,
            probe_core: 1,
            catalogue_version: 1,
            reads: false,
        })
    }

    fn greeting(operator: u8, transport: u8, pow_bits: u8) -> Frame {
        let delegation = Delegation {
            role: KeyRole::Transport,
            key: key(transport).public(),
            serial: 3,
            not_after: NOW.plus_ms(86_400_000),
        };
        Greeting {
            version: PROTOCOL_VERSION,
            country: Country::UNKNOWN,
            asn: 0,
            collector_time: NOW.plus_ms(1_500),
            nonce: Fixed([4; 16]),
            pow_bits,
            delegations: List::new(vec![delegation.sign(&key(operator))]).unwrap(),
        }
        .to_frame()
    }

    fn ready() -> Session {
        let (mut session, _) = session(0);
        session.receive(NOW, &greeting(1, 2, 0)).unwrap();
        session.identify(Arc::new(key(7)));
        assert!(session.worked(0).is_some());
        let ready = Ready { committed_seq: 5, schedule: Schedule::default() };
        session.receive(NOW, &ready.to_frame()).unwrap();
        session
    }

    #[test]
    fn proves_only_to_the_pinned_operator() {
        let check = |serial, operator, transport| {
            session(serial).0.receive(NOW, &greeting(operator, transport, 0))
        };
        let good = check(3, 1, 2).unwrap();
        assert!(matches!(good[0], Output::Greeted { offset_ms: 1_500, serial: 3, .. }));
        assert_eq!(good[1], Output::Work { bits: 0 });
        for bad in [check(4, 1, 2), check(0, 8, 2), check(0, 1, 8)] {
            assert!(matches!(bad, Err(SessionError::Delegation(_))));
        }
    }

    #[test]
    fn who_only_reads_says_nothing_of_itself() {
        let (mut session, _) = session(0);
        session.setup.reads = true;
        assert!(!session.may_query());
        let outputs = session.receive(NOW, &greeting(1, 2, 20)).unwrap();
        assert!(matches!(outputs[..], [Output::Greeted { .. }]), "and does no work: {outputs:?}");
        assert!(session.may_query() && !session.is_ready() && session.room() == 0);
        let ready = Ready { committed_seq: 5, schedule: Schedule::default() };
        assert!(session.receive(NOW, &ready.to_frame()).is_err());
    }

    #[test]
    fn a_snapshot_that_nobody_asked_for_is_a_breach_of_order() {
        let frame = Frame { tag: Tag::Snapshot as u8, body: Vec::new() };
        let reading = || {
            let (mut session, _) = session(0);
            session.setup.reads = true;
            session.receive(NOW, &greeting(1, 2, 20)).unwrap();
            session
        };
        let order = SessionError::Order(Tag::Snapshot as u8);
        assert_eq!(reading().receive(NOW, &frame), Err(order));
        // One that was asked for is looked at, and only one.
        let mut asked = reading();
        drop(asked.query());
        let malformed = |error| matches!(error, Err(SessionError::Malformed { .. }));
        assert!(malformed(asked.receive(NOW, &frame)));
        assert_eq!(asked.receive(NOW, &frame), Err(order));
    }

    #[test]
    fn the_proof_verifies_and_work_is_done_on_demand() {
        let (mut session, hello) = session(0);
        let greeting = greeting(1, 2, 6);
        let outputs = session.receive(NOW, &greeting).unwrap();
        assert_eq!(outputs[1], Output::Work { bits: 6 });
        session.identify(Arc::new(key(7)));
        let transcript = *session.transcript().unwrap();
        assert_eq!(transcript, Transcript::new([9; 32], &hello, &greeting, Fixed([4; 16])));
        let prove = session.worked(5).unwrap();
        let prove = Prove::from_body(&prove.body).unwrap();
        assert_eq!(transcript.verify(&prove), Ok(()));
        let challenge = |bits| Challenge { pow_bits: bits }.to_frame();
        let outputs = session.receive(NOW, &challenge(8)).unwrap();
        assert_eq!(outputs, [Output::Work { bits: 8 }]);
        assert!(session.worked(5).is_some());
        let again = session.receive(NOW, &challenge(8));
        assert_eq!(again, Err(SessionError::Order(Tag::Challenge as u8)));
        let greedy = super::tests::session(0).0.receive(NOW, &super::tests::greeting(1, 2, 29));
        assert_eq!(greedy, Err(SessionError::Work(29)));
    }

    #[test]
    fn acks_open_the_window_and_deferred_ones_come_again() {
        let mut session = ready();
        let report = SignedReport { signature: Fixed([0; 64]), body: Bytes::new(vec![1]).unwrap() };
        for seq in 6..70 {
            assert_eq!(session.send(seq, &report).tag, Tag::Report as u8);
        }
        assert_eq!((session.room(), session.highest_sent()), (0, 69));
        let ack = Ack {
            committed_seq: 66,
            rejected: List::new(vec![Refused { seq: 67, reason: Rejection::TooOld }]).unwrap(),
            later: List::new(vec![Deferred { seq: 68, retry_after_s: 2 }]).unwrap(),
        };
        let outputs = session.receive(NOW, &ack.to_frame()).unwrap();
        let rejected = vec![67];
        let acked = Output::Acked { committed_seq: 66, rejected, clock_is_off: false };
        assert_eq!(outputs, [acked]);
        assert_eq!(session.in_flight(), 1);
        assert_eq!(session.due_again(NOW.plus_ms(1_999)), None);
        assert_eq!(session.due_again(NOW.plus_ms(2_000)), Some(68));
        let ack = Ack { committed_seq: 70, ..Ack::default() };
        assert!(session.receive(NOW, &ack.to_frame()).is_err());
        // Unless the session before had sent it.
        let mut session = ready();
        session.takes_over(70);
        assert!(session.receive(NOW, &ack.to_frame()).is_ok());
        let ack = Ack { committed_seq: 71, ..Ack::default() };
        assert!(session.receive(NOW, &ack.to_frame()).is_err());
    }

    #[test]
    fn unknown_tags_are_skipped_and_order_is_kept() {
        let unknown = Frame { tag: 0x7e, body: vec![1, 2, 3] };
        assert_eq!(ready().receive(NOW, &unknown), Ok(Vec::new()));
        let ack = Ack::default().to_frame();
        let early = session(0).0.receive(NOW, &ack);
        assert_eq!(early, Err(SessionError::Order(Tag::Ack as u8)));
        let away = GoAway { reason: GoAwayReason::Overloaded, retry_after_s: 9 }.to_frame();
        let error = ready().receive(NOW, &away).unwrap_err();
        assert!(matches!(error, SessionError::GoAway { retry_after_s: 9, .. }));
        let long = GoAway { reason: GoAwayReason::Overloaded, retry_after_s: 60_000 }.to_frame();
        let error = ready().receive(NOW, &long).unwrap_err();
        assert!(matches!(error, SessionError::GoAway { retry_after_s: RETRY_AFTER_S_MAX, .. }));
        // Who has shown no delegation keeps nobody away.
        let error = session(0).0.receive(NOW, &long).unwrap_err();
        assert!(matches!(error, SessionError::GoAway { retry_after_s: 0, .. }));
    }
}
