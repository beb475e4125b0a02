//! The way to the collectors: connects, runs the session, sends what the spool holds, and comes
//! back after a failure. One uplink for each operator.

pub mod quic;
pub mod session;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use tocsin_proto::{
    delegation::KeyRole,
    id::Country,
    limits::{FRAME_TO_AGENT_MAX, HANDSHAKE_TIMEOUT_MS},
    line::CollectorLine,
    message::{AskBack, Schedule},
    sign::PublicKey,
    wire::{Deframer, Frame, FrameTooLong},
};
use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::{
    clock::Clock,
    spool::{Spool, SpoolError},
    voice::Voice,
};
use quic::{Link, QuicError};
use session::{Output, Session, SessionError, Setup};

/// First wait after a failure.
const BACKOFF_MIN: Duration = Duration::from_millis(500);
/// Longest wait after failures.
const BACKOFF_MAX: Duration = Duration::from_secs(60);
/// A write that takes longer ends the session.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// Reports in flight and no ack for this long end the session.
const ACK_TIMEOUT: Duration = Duration::from_secs(30);
/// Hashes between two yields of the work search: about a millisecond.
const WORK_PIECE: u64 = 4096;
/// A session is made anew after this long: only a Greeting tells the collector's clock.
const SESSION_MAX: Duration = Duration::from_secs(6 * 3600);
/// Bytes read at once.
const READ_BYTES: usize = 16 * 1024;

/// The spool, shared by tasks of one agent; calls are short.
pub type SharedSpool = Arc<Mutex<Spool>>;

/// What an uplink knows of its collector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Status {
    /// Where the session stands; `None` when there is none.
    pub connected: Option<SocketAddr>,
    /// The collector's clock minus ours, milliseconds; `None` before the first Greeting.
    pub offset_ms: Option<i64>,
    /// What it asks for; `None` before the first Ready.
    pub schedule: Option<Schedule>,
    /// Where it sees us.
    pub country: Option<Country>,
    /// Our network as it sees us; 0 when unknown.
    pub asn: u32,
    /// The transport key it used.
    pub transport: Option<PublicKey>,
}

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
pub enum UplinkError {
    /// No connection.
    #[error(transparent)]
    Quic(#[from] QuicError),
    /// By the protocol.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The outbox fails.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// A frame past its limit.
    #[error(transparent)]
    Frame(#[from] FrameTooLong),
    /// The stream broke while it was read.
    #[error("the connection to the collector broke")]
    Read(#[source] quinn::ReadError),
    /// The stream broke while it was written.
    #[error("the connection to the collector broke")]
    Write(#[source] quinn::WriteError),
    /// The collector ended the stream.
    #[error("the collector closed the session without a reason")]
    Ended,
    /// The collector was too slow.
    #[error("the collector did not {0} in time")]
    Deadline(&'static str),
    /// It is time to ask for the collector's clock again.
    #[error("the session is old; a new one will tell the time")]
    Old,
    /// The machine is in another network: this session is not to be seen there.
    #[error("this machine is in another network now")]
    Moved,
}

/// One operator's uplink.
#[derive(Debug)]
pub struct Uplink {
    /// The collector.
    pub line: CollectorLine,
    /// Who we are to it, and what there is to send.
    pub voice: Arc<Voice>,
    /// The time.
    pub clock: Clock,
    /// Addresses to connect from.
    pub sources: Vec<std::net::IpAddr>,
    /// Version of the catalogue in use.
    pub catalogue_version: u32,
    /// Where asks of the collector go.
    pub asks: mpsc::Sender<AskBack>,
    /// Where to tell what is known.
    pub status: watch::Sender<Status>,
}

fn random() -> u64 {
    // Only jitter depends on it, so a system without randomness gets none.
    getrandom::u64().unwrap_or(0)
}

impl Uplink {
    /// Connects and reports until the shutdown.
    ///
    /// # Errors
    /// When the outbox fails: nothing else ends it.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), UplinkError> {
        let config = quic::client_config()?;
        let (mut backoff, mut turn) = (BACKOFF_MIN, 0usize);
        loop {
            let address = self.line.addresses.get(turn % self.line.addresses.len().max(1));
            let Some(address) = address.copied() else { return Ok(()) };
            let ended = tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                ended = self.attempt(&config, address, &shutdown) => ended,
            };
            self.voice.lost();
            let was_ready = self.status.borrow().connected.is_some();
            self.status.send_modify(|status| status.connected = None);
            let error = match ended {
                Ok(()) => return Ok(()),
                Err(error @ UplinkError::Spool(_)) => return Err(error),
                Err(error) => error,
            };
            if was_ready {
                backoff = BACKOFF_MIN;
            } else {
                turn += 1;
            }
            tracing::info!(
                operator = ?self.line.operator,
                error = &error as &dyn std::error::Error,
                "no session with the collector"
            );
            if matches!(error, UplinkError::Moved | UplinkError::Old) {
                backoff = BACKOFF_MIN;
            }
            let asked = match error {
                UplinkError::Session(SessionError::GoAway { retry_after_s, .. }) => {
                    Duration::from_secs(retry_after_s.into())
                }
                _ => Duration::ZERO,
            };
            // Between half and all of the back-off, so that a crowd does not return at once.
            let wait = asked + backoff.mul_f64(0.5 + (random() % 1000) as f64 / 2000.0);
            backoff = (backoff * 2).min(BACKOFF_MAX);
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// One session, up to its end.
    async fn attempt(
        &self,
        config: &quinn::ClientConfig,
        address: SocketAddr,
        shutdown: &CancellationToken,
    ) -> Result<(), UplinkError> {
        let mut live = self.connect(config, address).await?;
        self.session(&mut live, shutdown).await
    }

    /// Connects, shakes hands up to Ready, and leaves: what `doctor` does.
    ///
    /// # Errors
    /// With what stands in the way.
    pub async fn check(&self, address: SocketAddr) -> Result<Status, UplinkError> {
        let mut live = self.connect(&quic::client_config()?, address).await?;
        self.shake_hands(&mut live).await?;
        live.close().await;
        Ok(*self.status.borrow())
    }

    async fn connect(
        &self,
        config: &quinn::ClientConfig,
        address: SocketAddr,
    ) -> Result<Live, UplinkError> {
        let mut moves = self.voice.moves();
        moves.mark_unchanged();
        let link = quic::connect(config, address, &self.sources).await?;
        self.status.send_modify(|status| status.transport = Some(link.transport));
        let seen = |role| self.voice.spool().serial(&self.line.operator, role);
        let (session, hello) = Session::new(Setup {
            operator: self.line.operator,
            transport: link.transport,
            exporter: link.exporter,
            serial_seen: seen(KeyRole::Transport)?,
            feed_serial_seen: seen(KeyRole::Feed)?,
            probe_core: self.voice.profile().probe_core(),
            catalogue_version: self.catalogue_version,
        });
        let deframer = Deframer::new(FRAME_TO_AGENT_MAX);
        let mut live = Live { link, session, deframer, moves, address };
        live.write(&hello).await?;
        Ok(live)
    }

    async fn shake_hands(&self, live: &mut Live) -> Result<(), UplinkError> {
        let mut buffer = vec![0; READ_BYTES];
        while !live.session.is_ready() {
            let wait = Duration::from_millis(HANDSHAKE_TIMEOUT_MS);
            let read = timeout(wait, live.link.recv.read(&mut buffer)).await;
            let read = read.map_err(|_| UplinkError::Deadline("shake hands"))?;
            self.take(live, &buffer, read).await?;
        }
        Ok(())
    }

    async fn session(
        &self,
        live: &mut Live,
        shutdown: &CancellationToken,
    ) -> Result<(), UplinkError> {
        self.shake_hands(live).await?;
        let mut buffer = vec![0; READ_BYTES];
        let mut heard = crate::clock::monotonic();
        let old = heard + SESSION_MAX;
        loop {
            let before = live.session.in_flight();
            self.send_waiting(live).await?;
            if before == 0 {
                heard = crate::clock::monotonic();
            }
            let far = self.clock.now().plus_ms(3_600_000);
            let deferred = self.clock.instant(live.session.next_deadline().unwrap_or(far));
            let deadline = match live.session.in_flight() {
                0 => deferred,
                _ => deferred.min(heard + ACK_TIMEOUT),
            };
            tokio::select! {
                () = shutdown.cancelled() => {
                    live.close().await;
                    return Ok(());
                }
                _ = live.moves.changed() => {
                    live.link.connection.close(quinn::VarInt::from_u32(0), b"");
                    return Err(UplinkError::Moved);
                }
                () = tokio::time::sleep_until(old.into()) => {
                    live.close().await;
                    return Err(UplinkError::Old);
                }
                () = self.voice.wake().notified() => {}
                read = live.link.recv.read(&mut buffer) => {
                    self.take(live, &buffer, read).await?;
                    heard = crate::clock::monotonic();
                }
                () = tokio::time::sleep_until(deadline.into()) => {
                    let waited = crate::clock::monotonic() >= heard + ACK_TIMEOUT;
                    if live.session.in_flight() > 0 && waited {
                        return Err(UplinkError::Deadline("ack"));
                    }
                }
            }
        }
    }

    async fn send_waiting(&self, live: &mut Live) -> Result<(), UplinkError> {
        let Some(observer) = live.session.observer() else { return Ok(()) };
        let now = self.clock.now();
        while let Some(seq) = live.session.due_again(now).filter(|_| live.session.room() > 0) {
            let found = self.voice.spool().one(&observer, seq)?;
            match found {
                Some(unsent) => {
                    let frame = live.session.send(seq, &unsent.report);
                    live.write(&frame).await?;
                }
                None => live.session.gone(seq),
            }
        }
        let (after, room) = (live.session.highest_sent(), live.session.room());
        let unsent = self.voice.spool().unsent(&observer, after, room)?;
        for unsent in unsent {
            let frame = live.session.send(unsent.seq, &unsent.report);
            live.write(&frame).await?;
        }
        Ok(())
    }

    async fn take(
        &self,
        live: &mut Live,
        buffer: &[u8],
        read: Result<Option<usize>, quinn::ReadError>,
    ) -> Result<(), UplinkError> {
        let length = read.map_err(UplinkError::Read)?.ok_or(UplinkError::Ended)?;
        live.deframer.push(buffer.get(..length).unwrap_or_default());
        while let Some(frame) = live.deframer.next_frame()? {
            for output in live.session.receive(self.clock.now(), &frame)? {
                self.act(live, output).await?;
            }
        }
        Ok(())
    }

    async fn act(&self, live: &mut Live, output: Output) -> Result<(), UplinkError> {
        match output {
            Output::Greeted { offset_ms, country, asn, serial } => {
                if live.moves.has_changed().unwrap_or(true) {
                    return Err(UplinkError::Moved);
                }
                let operator = &self.line.operator;
                self.voice.spool().saw_serial(operator, KeyRole::Transport, serial)?;
                live.session.identify(self.voice.greeted(asn));
                self.status.send_modify(|status| {
                    status.offset_ms = Some(offset_ms);
                    status.country = Some(country);
                    status.asn = asn;
                });
            }
            Output::Work { bits } => {
                let Some((transcript, observer)) =
                    live.session.transcript().copied().zip(live.session.observer())
                else {
                    return Ok(());
                };
                let mut from = 0;
                let work = loop {
                    if let Some(work) = transcript.search_work(&observer, bits, from, WORK_PIECE) {
                        break work;
                    }
                    from += WORK_PIECE;
                    tokio::task::yield_now().await;
                };
                if let Some(frame) = live.session.worked(work) {
                    live.write(&frame).await?;
                }
            }
            Output::Ready { committed_seq, schedule } => {
                // The numbers first: what is signed now must not have one that was used before.
                self.acked(&live.session, committed_seq, &[])?;
                let (offset_ms, asn) = {
                    let status = self.status.borrow();
                    (status.offset_ms.unwrap_or(0), status.asn)
                };
                if let Some(key) = live.session.key() {
                    self.voice.ready(key, offset_ms, asn)?;
                }
                self.status.send_modify(|status| {
                    status.connected = Some(live.address);
                    status.schedule = Some(schedule);
                });
            }
            Output::Acked { committed_seq, rejected, clock_is_off } => {
                self.acked(&live.session, committed_seq, &rejected)?;
                if clock_is_off {
                    return Err(UplinkError::Old);
                }
            }
            Output::Schedule(schedule) => {
                self.status.send_modify(|status| status.schedule = Some(schedule));
            }
            Output::Ask(ask) => {
                // Who is asked more than it can take up answers less: that is no vote, and no harm.
                if self.asks.try_send(ask).is_err() {
                    tracing::debug!("an ask was passed over");
                }
            }
            Output::Snapshot { signed, sequence, serial } => {
                let (now, operator) = (self.clock.now(), &self.line.operator);
                let spool = self.voice.spool();
                spool.saw_serial(operator, KeyRole::Feed, serial)?;
                spool.keep_snapshot(operator, &signed, sequence, now)?;
            }
        }
        Ok(())
    }

    fn acked(
        &self,
        session: &Session,
        committed_seq: u64,
        rejected: &[u64],
    ) -> Result<(), UplinkError> {
        let Some(observer) = session.observer() else { return Ok(()) };
        Ok(self.voice.spool().acked(&observer, committed_seq, rejected)?)
    }
}

/// A session under way.
struct Live {
    link: Link,
    session: Session,
    deframer: Deframer,
    /// Moves of this machine since the connection was begun.
    moves: watch::Receiver<u64>,
    address: SocketAddr,
}

impl Live {
    async fn write(&mut self, frame: &Frame) -> Result<(), UplinkError> {
        timeout(WRITE_TIMEOUT, self.link.send.write_all(&frame.to_bytes()))
            .await
            .map_err(|_| UplinkError::Deadline("read"))?
            .map_err(UplinkError::Write)
    }

    async fn close(&mut self) {
        self.link.connection.close(quinn::VarInt::from_u32(0), b"");
        drop(timeout(Duration::from_secs(1), self.link.endpoint.wait_idle()).await);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
    use tocsin_proto::{
        bounded::{Fixed, List},
        delegation::Delegation,
        limits::{ALPN, EXPORTER_LABEL, FRAME_TO_COLLECTOR_MAX},
        message::{Ack, Greeting, Message, Prove, Ready, Transcript},
        report::{Health, Report, ResolverClass, SignedReport},
        sign::SecretKey,
        time::Timestamp,
    };

    async fn next(recv: &mut quinn::RecvStream, deframer: &mut Deframer) -> Frame {
        let mut buffer = [0; 2048];
        loop {
            if let Some(frame) = deframer.next_frame().unwrap() {
                return frame;
            }
            let length = recv.read(&mut buffer).await.unwrap().unwrap();
            deframer.push(&buffer[..length]);
        }
    }

    /// A collector that greets, checks the proof, takes one report and acks it.
    async fn collector(endpoint: quinn::Endpoint, operator: SecretKey) -> SignedReport {
        let connection = endpoint.accept().await.unwrap().await.unwrap();
        let (mut send, mut recv) = connection.accept_bi().await.unwrap();
        let mut deframer = Deframer::new(FRAME_TO_COLLECTOR_MAX);
        let hello = next(&mut recv, &mut deframer).await;
        let now = crate::clock::wall();
        let delegation = Delegation {
            role: KeyRole::Transport,
            key: transport().1,
            serial: 1,
            not_after: now.plus_ms(86_400_000),
        };
        let greeting = Greeting {
            version: 1,
            country: Country::UNKNOWN,
            asn: 0,
            collector_time: now.plus_ms(5_000),
            nonce: Fixed([1; 16]),
            pow_bits: 4,
            delegations: List::new(vec![delegation.sign(&operator)]).unwrap(),
        }
        .to_frame();
        send.write_all(&greeting.to_bytes()).await.unwrap();
        let prove = Prove::from_body(&next(&mut recv, &mut deframer).await.body).unwrap();
        let mut exporter = [0; 32];
        connection.export_keying_material(&mut exporter, EXPORTER_LABEL, b"").unwrap();
        let transcript = Transcript::new(exporter, &hello, &greeting, Fixed([1; 16]));
        assert_eq!(transcript.verify(&prove), Ok(()));
        assert!(transcript.work_bits(&prove.observer, prove.work) >= 4);
        let ready = Ready { committed_seq: 0, schedule: Schedule::default() };
        send.write_all(&ready.to_frame().to_bytes()).await.unwrap();
        let frame = next(&mut recv, &mut deframer).await;
        let report = SignedReport::from_body(&frame.body).unwrap();
        report.open(&prove.observer.verifier().unwrap()).unwrap();
        let ack = Ack { committed_seq: 1, ..Ack::default() };
        send.write_all(&ack.to_frame().to_bytes()).await.unwrap();
        connection.closed().await;
        report
    }

    thread_local! {
        static TRANSPORT: rcgen::KeyPair =
            rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    }

    /// The collector's key as PKCS#8, and its public half; one for each test.
    fn transport() -> (Vec<u8>, PublicKey) {
        TRANSPORT.with(|pair| {
            let key = PublicKey::from_bytes(pair.public_key_raw().try_into().unwrap());
            (pair.serialize_der(), key)
        })
    }

    fn server() -> quinn::Endpoint {
        let certificate = TRANSPORT.with(|pair| {
            rcgen::CertificateParams::new(vec!["x".to_owned()]).unwrap().self_signed(pair).unwrap()
        });
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(transport().0));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        tls.alpn_protocols = vec![ALPN.to_vec()];
        let tls = quinn::crypto::rustls::QuicServerConfig::try_from(tls).unwrap();
        let config = quinn::ServerConfig::with_crypto(Arc::new(tls));
        quinn::Endpoint::server(config, "127.0.0.1:0".parse().unwrap()).unwrap()
    }

    fn uplink(dir: &std::path::Path, operator: PublicKey, address: SocketAddr) -> Uplink {
        let identity = Arc::new(crate::identity::Identity::open(dir).unwrap());
        let spool = Arc::new(Mutex::new(Spool::open(dir, 1 << 20).unwrap()));
        Uplink {
            line: CollectorLine { operator, addresses: vec![address] },
            voice: Arc::new(Voice::new(
                operator,
                identity,
                spool,
                Some("home".to_owned()),
                crate::probe::profile::Profile::Modern,
            )),
            clock: Clock::start(),
            sources: vec!["127.0.0.1".parse().unwrap()],
            catalogue_version: 1,
            asks: mpsc::channel(1).0,
            status: watch::channel(Status::default()).0,
        }
    }

    #[tokio::test]
    async fn a_report_arrives_and_its_ack_empties_the_spool() {
        let dir = tempfile::tempdir().unwrap();
        let (endpoint, operator) = (server(), SecretKey::from_seed(&[1; 32]));
        let uplink = uplink(dir.path(), operator.public(), endpoint.local_addr().unwrap());
        let voice = Arc::clone(&uplink.voice);
        let identity = crate::identity::Identity::open(dir.path()).unwrap();
        let key = identity.observer_key(&operator.public(), "home");
        let shutdown = CancellationToken::new();
        let report = |seq| Report {
            seq,
            base_s: 1_800_000_000,
            probe_core: 1,
            health: Health::default(),
            resolver: ResolverClass::Local,
            observations: List::default(),
        };
        let waiting = || voice.spool().unsent(&key.public(), 0, 9).unwrap().len();
        let drive = async {
            let sign = |seq| report(seq).sign(&key);
            voice.spool().push(&key.public(), Timestamp::from_s(1), true, sign).unwrap();
            voice.wake().notify_one();
            while waiting() > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            shutdown.cancel();
        };
        let all = async {
            tokio::join!(uplink.run(shutdown.clone()), collector(endpoint, operator), drive)
        };
        let (ended, got, ()) = timeout(Duration::from_secs(20), all).await.unwrap();
        assert!(ended.is_ok());
        assert_eq!(got.peek_seq(), Ok(1));
    }

    #[tokio::test]
    async fn another_operator_is_told_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let endpoint = server();
        let address = endpoint.local_addr().unwrap();
        let pinned = SecretKey::from_seed(&[2; 32]).public();
        let uplink = uplink(dir.path(), pinned, address);
        let error = tokio::select! {
            checked = uplink.check(address) => checked.unwrap_err(),
            _ = collector(endpoint, SecretKey::from_seed(&[1; 32])) => panic!("a proof was sent"),
        };
        assert!(matches!(error, UplinkError::Session(SessionError::Delegation(_))));
    }
}
