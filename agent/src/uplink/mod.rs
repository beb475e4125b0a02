//! The way to the collectors: connects, runs the session, sends what the spool holds, and comes
//! back after a failure. One uplink for each operator.
//!
//! Over QUIC where it passes, else over TCP; from there it goes back as soon as QUIC is ready, and
//! only then gives up what it has.

pub mod dial;
pub mod link;
mod quic;
pub mod reader;
pub mod session;
mod tcp;
mod tls;
pub mod way;

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use tocsin_proto::{
    delegation::KeyRole,
    human::{Hearing, HumanReport, Trouble},
    id::{Country, TargetIndex},
    limits::{FRAME_TO_AGENT_MAX, HANDSHAKE_TIMEOUT_MS},
    line::CollectorLine,
    message::{AskBack, Forget, GoAwayReason, Message, Schedule},
    sign::PublicKey,
    wire::{Deframer, Frame, FrameTooLong},
};
use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::{
    clock::{Clock, monotonic},
    spool::{Spool, SpoolError},
    voice::Voice,
};
use dial::Dialer;
use link::{Link, LinkError};
use session::{Output, Session, SessionError, Setup};
use way::{Learned, Pace, Race, Transport, Via, Way};

/// First wait after a failure.
const BACKOFF_MIN: Duration = Duration::from_millis(500);
/// A session that stood for less is no reason to come back at once: a collector may take everybody and fall over.
const STOOD_MIN: Duration = Duration::from_secs(30);
/// Longest wait after failures.
const BACKOFF_MAX: Duration = Duration::from_secs(60);
/// From Hello to Ready, the work of a new key included: some 30 s of it at the most that is asked for.
const HANDSHAKE_MAX: Duration = Duration::from_secs(120);
/// A write that takes longer ends the session.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// Reports in flight and no ack for this long end the session.
const ACK_TIMEOUT: Duration = Duration::from_secs(30);
/// Hashes between two yields of the work search: about a millisecond.
const WORK_PIECE: u64 = 4096;
/// A session is made anew after this long: only a Greeting tells the collector's clock.
const SESSION_MAX: Duration = Duration::from_secs(6 * 3600);
/// What a collector published is kept for `why` and `status` when it cannot be reached. It is asked for again after
/// this long: a snapshot is some 30 kB, so that is under a megabyte a day.
const NEWS_EVERY: Duration = Duration::from_secs(3600);
/// And where something fails here, after this long.
const NEWS_AGAIN: Duration = Duration::from_secs(300);
/// A second is waited for every so many bytes of the last, so that whatever a collector publishes takes under 9 MB a day.
const NEWS_BYTES_A_SECOND: u64 = 100;
/// What is under way when this program stops may take so long to say goodbye.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);
/// Bytes read at once.
const READ_BYTES: usize = 16 * 1024;

/// The spool, shared by tasks of one agent; calls are short.
pub type SharedSpool = Arc<Mutex<Spool>>;

/// What an uplink knows of its collector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Status {
    /// Which way the session goes; `None` when there is none.
    pub connected: Option<Way>,
    /// Whether UDP reaches the collector; `None` where that was not tried, or there is no session.
    pub udp: Option<bool>,
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
    /// Sequence of the snapshot that it sent last; 0 before the first.
    pub sequence: u64,
}

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
pub enum UplinkError {
    /// No connection.
    #[error(transparent)]
    Link(#[from] LinkError),
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
    Read(#[source] io::Error),
    /// The stream broke while it was written.
    #[error("the connection to the collector broke")]
    Write(#[source] io::Error),
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
    /// The other way leads out of another network, where we are another observer.
    #[error("the collector sees another network on that way")]
    OtherNetwork,
}

/// One operator's uplink.
#[derive(Debug)]
pub struct Uplink {
    /// The collector.
    pub line: CollectorLine,
    /// Over what it may be reached.
    pub transport: Transport,
    /// How long is waited before another way is tried.
    pub pace: Pace,
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

/// Between half and all of it, so that a crowd does not come at once.
fn jittered(wait: Duration) -> Duration {
    wait.mul_f64(0.5 + (random() % 1000) as f64 / 2000.0)
}

/// A session that is being made beside the one in use; boxed, for it is rare.
type Beside<'a> = Pin<Box<dyn Future<Output = Result<Live, UplinkError>> + Send + 'a>>;

/// How a session ended well.
enum Over {
    /// This program stops.
    Shutdown,
    /// A better one stands in its place.
    Better(Box<Live>),
}

impl Uplink {
    /// Connects and reports until the shutdown.
    ///
    /// # Errors
    /// When the outbox fails: nothing else ends it.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), UplinkError> {
        let dialer = Dialer::new(&self.sources)?;
        let (mut backoff, mut learned) = (BACKOFF_MIN, Learned::default());
        if self.line.addresses.is_empty() {
            return Ok(());
        }
        loop {
            let stuck = async {
                shutdown.cancelled().await;
                tokio::time::sleep(STOP_TIMEOUT).await;
            };
            let began = monotonic();
            let ended = tokio::select! {
                ended = self.attempt(&dialer, &mut learned, &shutdown) => ended,
                () = stuck => return Ok(()),
            };
            self.voice.lost();
            let was_ready = self.status.borrow().connected.is_some();
            self.status.send_modify(|status| {
                status.connected = None;
                status.udp = None;
            });
            let error = match ended {
                Ok(()) => return Ok(()),
                Err(error @ UplinkError::Spool(_)) => return Err(error),
                Err(error) => error,
            };
            learned.ended(was_ready, matches!(error, UplinkError::Deadline(_)));
            if was_ready && monotonic().saturating_duration_since(began) >= STOOD_MIN {
                backoff = BACKOFF_MIN;
            }
            tracing::info!(
                operator = ?self.line.operator,
                error = &error as &dyn std::error::Error,
                "no session with the collector"
            );
            if matches!(error, UplinkError::Moved | UplinkError::Old) {
                backoff = BACKOFF_MIN;
                learned = Learned::default();
            }
            let asked = match error {
                UplinkError::Session(SessionError::GoAway { retry_after_s, .. }) => {
                    Duration::from_secs(retry_after_s.into())
                }
                _ => Duration::ZERO,
            };
            let wait = asked + jittered(backoff);
            backoff = (backoff * 2).min(BACKOFF_MAX);
            // What a collector said in another network holds there.
            let mut moves = self.voice.moves();
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                () = tokio::time::sleep(wait) => {}
                Ok(()) = moves.changed() => learned = Learned::default(),
            }
        }
    }

    /// One session after another without a gap, up to the end of the last.
    async fn attempt(
        &self,
        dialer: &Dialer,
        learned: &mut Learned,
        shutdown: &CancellationToken,
    ) -> Result<(), UplinkError> {
        let race = learned.race(&self.line.addresses, self.transport, self.pace);
        let first = async {
            let mut live = self.open(dialer, race, None).await?;
            learned.connected(live.link.way);
            self.shake_hands(&mut live).await?;
            Ok::<_, UplinkError>(live)
        };
        let mut live = tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            live = first => live?,
        };
        loop {
            learned.connected(live.link.way);
            let mut beside = None;
            let ended = self.session(&mut live, dialer, &mut beside, shutdown).await;
            let over = match (ended, beside) {
                // The session beside may be what ended this one: a collector has one of each
                // observer, and its goodbye here may come before its Ready there.
                (Err(error), Some(beside)) if !error.is_final() => match beside.await {
                    Ok(better) => Over::Better(Box::new(better)),
                    // We replaced it ourselves, and in vain: there is nobody to stay away for.
                    Err(_) if error.is_replaced() => return Err(UplinkError::Ended),
                    Err(_) => return Err(error),
                },
                (ended, _) => ended?,
            };
            match over {
                Over::Shutdown => return Ok(()),
                Over::Better(mut better) => {
                    better.session.takes_over(live.session.highest_sent());
                    live.link.close().await;
                    live = *better;
                }
            }
        }
    }

    /// Connects, shakes hands up to Ready, and leaves: what `doctor` does.
    ///
    /// # Errors
    /// With what stands in the way.
    pub async fn check(&self, way: Way) -> Result<Status, UplinkError> {
        let mut live = self.open(&Dialer::new(&self.sources)?, Race::of(way), None).await?;
        self.shake_hands(&mut live).await?;
        live.link.close().await;
        Ok(*self.status.borrow())
    }

    /// Has the collector delete what it holds of this observer. Tells how many reports that were.
    ///
    /// # Errors
    /// When it is not reached, or does not say that it was done.
    pub async fn forget(&self) -> Result<u64, UplinkError> {
        let answer = |output| match output {
            Output::Forgotten(reports) => Some(reports),
            _ => None,
        };
        self.visit(|| Some(Forget.to_frame()), answer, "say that it was deleted").await
    }

    /// Tells the collector what a person says of a target, now.
    ///
    /// # Errors
    /// When it is not reached, or does not answer: those before version 1.1 of the protocol pass over it.
    pub async fn say(&self, target: TargetIndex, trouble: Trouble) -> Result<Hearing, UplinkError> {
        let said = || {
            self.voice.sign(self.clock.now(), |at, key| {
                HumanReport { at, target, trouble }.sign(key).to_frame()
            })
        };
        let answer = |output| match output {
            Output::Heard(heard) if heard.target == target => Some(heard.hearing),
            _ => None,
        };
        self.visit(said, answer, "say whether it counts").await
    }

    /// Connects, shakes hands, sends one frame, made once the session is ready, and waits for its answer.
    async fn visit<T>(
        &self,
        frame: impl FnOnce() -> Option<Frame>,
        answer: impl Fn(Output) -> Option<T>,
        what: &'static str,
    ) -> Result<T, UplinkError> {
        let vias = self.transport.vias();
        let race = Race::new(&self.line.addresses, vias, &Default::default(), self.pace);
        let mut live = self.open(&Dialer::new(&self.sources)?, race, None).await?;
        self.shake_hands(&mut live).await?;
        let frame = frame().ok_or(UplinkError::Ended)?;
        live.write(&frame).await?;
        let answered = async {
            let mut buffer = vec![0; READ_BYTES];
            loop {
                let length = live.link.read(&mut buffer).await.map_err(UplinkError::Read)?;
                if length == 0 {
                    return Err(UplinkError::Ended);
                }
                live.deframer.push(buffer.get(..length).unwrap_or_default());
                while let Some(frame) = live.deframer.next_frame()? {
                    for output in live.session.receive(self.clock.now(), &frame)? {
                        if let Some(answer) = answer(output) {
                            return Ok(answer);
                        }
                    }
                }
            }
        };
        let answered = timeout(ACK_TIMEOUT, answered).await;
        let answered = answered.unwrap_or(Err(UplinkError::Deadline(what)))?;
        live.link.close().await;
        Ok(answered)
    }

    /// A connection with a Hello on its way. `observer`: whom the session must be of, where it is to
    /// take over from another.
    async fn open(
        &self,
        dialer: &Dialer,
        race: Race,
        observer: Option<PublicKey>,
    ) -> Result<Live, UplinkError> {
        let mut moves = self.voice.moves();
        moves.mark_unchanged();
        let udp_asked = race.is_over(Via::Quic);
        let link = dialer.race(race).await?;
        let udp = match link.way.via {
            Via::Quic => Some(true),
            Via::Tcp => udp_asked.then_some(false),
        };
        let seen = |role| self.voice.spool().serial(&self.line.operator, role);
        let (session, hello) = Session::new(Setup {
            operator: self.line.operator,
            transport: link.transport,
            exporter: link.exporter,
            serial_seen: seen(KeyRole::Transport)?,
            feed_serial_seen: seen(KeyRole::Feed)?,
            probe_core: self.voice.profile().probe_core(),
            catalogue_version: self.catalogue_version,
            reads: false,
        });
        let deframer = Deframer::new(FRAME_TO_AGENT_MAX);
        let mut live = Live { link, session, deframer, moves, udp, observer };
        live.write(&hello).await?;
        Ok(live)
    }

    /// A session over QUIC, up to Ready, to take over from one over TCP.
    async fn back(
        &self,
        dialer: &Dialer,
        observer: Option<PublicKey>,
    ) -> Result<Live, UplinkError> {
        let vias = Transport::Quic.vias();
        let race = Race::new(&self.line.addresses, vias, &Default::default(), self.pace);
        let mut live = self.open(dialer, race, observer).await?;
        self.shake_hands(&mut live).await?;
        Ok(live)
    }

    /// Up to Ready, within [`HANDSHAKE_MAX`] however busily the peer talks.
    async fn shake_hands(&self, live: &mut Live) -> Result<(), UplinkError> {
        let hands = timeout(HANDSHAKE_MAX, self.hands(live)).await;
        hands.unwrap_or(Err(UplinkError::Deadline("shake hands")))
    }

    async fn hands(&self, live: &mut Live) -> Result<(), UplinkError> {
        let mut buffer = vec![0; READ_BYTES];
        while !live.session.is_ready() {
            let wait = Duration::from_millis(HANDSHAKE_TIMEOUT_MS);
            let read = timeout(wait, live.link.read(&mut buffer)).await;
            let read = read.map_err(|_| UplinkError::Deadline("shake hands"))?;
            self.take(live, &buffer, read).await?;
        }
        Ok(())
    }

    /// A session that is ready, to its end. What is made to take over from it is left in `beside` when
    /// it ends.
    async fn session<'a>(
        &'a self,
        live: &mut Live,
        dialer: &'a Dialer,
        beside: &mut Option<Beside<'a>>,
        shutdown: &CancellationToken,
    ) -> Result<Over, UplinkError> {
        let mut buffer = vec![0; READ_BYTES];
        let mut heard = monotonic();
        let old = heard + SESSION_MAX;
        let falls_back = self.transport == Transport::Auto && live.link.way.via == Via::Tcp;
        let kept = self.voice.spool().snapshot(&self.line.operator)?;
        // Sessions may follow on each other quickly, and the news are no newer for that.
        let kept_bytes = kept.as_ref().map_or(0, |(kept, _)| kept.document.len());
        let mut asked = kept.and_then(|(_, at)| {
            heard.checked_sub(Duration::from_millis(self.clock.now().since_ms(at)))
        });
        let mut pause = self.pace.back_after;
        let mut back_at = heard + jittered(pause);
        loop {
            let before = live.session.in_flight();
            self.send_waiting(live).await?;
            if before == 0 {
                heard = monotonic();
            }
            let far = self.clock.now().plus_ms(3_600_000);
            let deferred = self.clock.instant(live.session.next_deadline().unwrap_or(far));
            let deadline = match live.session.in_flight() {
                0 => deferred,
                _ => deferred.min(heard + ACK_TIMEOUT),
            };
            let news_bytes = live.session.news_bytes().max(kept_bytes) as u64;
            let paid = Duration::from_secs(news_bytes / NEWS_BYTES_A_SECOND);
            tokio::select! {
                () = shutdown.cancelled() => {
                    live.link.close().await;
                    return Ok(Over::Shutdown);
                }
                _ = live.moves.changed() => return Err(UplinkError::Moved),
                () = tokio::time::sleep_until(old.into()) => {
                    live.link.close().await;
                    return Err(UplinkError::Old);
                }
                () = self.voice.wake().notified() => {}
                () = tokio::time::sleep_until(asked.map_or(heard, |at| at + NEWS_EVERY.max(paid)).into()) => {
                    self.query(live, &mut asked).await?;
                }
                () = self.voice.news().notified() => {
                    if asked.is_none_or(|at| monotonic() >= at + NEWS_AGAIN.max(paid)) {
                        self.query(live, &mut asked).await?;
                    }
                }
                read = live.link.read(&mut buffer) => {
                    self.take(live, &buffer, read).await?;
                    heard = monotonic();
                }
                () = tokio::time::sleep_until(deadline.into()) => {
                    let waited = monotonic() >= heard + ACK_TIMEOUT;
                    if live.session.in_flight() > 0 && waited {
                        return Err(UplinkError::Deadline("ack"));
                    }
                }
                () = tokio::time::sleep_until(back_at.into()), if falls_back && beside.is_none() => {
                    *beside = Some(Box::pin(self.back(dialer, live.session.observer())));
                }
                made = made(beside), if beside.is_some() => {
                    *beside = None;
                    match made {
                        Ok(better) => return Ok(Over::Better(Box::new(better))),
                        Err(error @ UplinkError::Spool(_)) => return Err(error),
                        Err(error) => tracing::debug!(
                            error = &error as &dyn std::error::Error,
                            "no way back to QUIC yet"
                        ),
                    }
                    pause = (pause * 2).min(self.pace.back_after_max);
                    back_at = monotonic() + jittered(pause);
                }
            }
        }
    }

    async fn query(
        &self,
        live: &mut Live,
        asked: &mut Option<std::time::Instant>,
    ) -> Result<(), UplinkError> {
        *asked = Some(monotonic());
        let query = live.session.query();
        live.write(&query).await
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
        read: io::Result<usize>,
    ) -> Result<(), UplinkError> {
        let length = read.map_err(UplinkError::Read)?;
        if length == 0 {
            return Err(UplinkError::Ended);
        }
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
                let key = self.voice.greeted(asn);
                if live.observer.is_some_and(|observer| observer != key.public()) {
                    return Err(UplinkError::OtherNetwork);
                }
                live.session.identify(key);
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
                if let Some(key) = live.session.key()
                    && !self.voice.ready(key, offset_ms, asn)?
                {
                    return Err(UplinkError::Moved);
                }
                self.status.send_modify(|status| {
                    status.connected = Some(live.link.way);
                    status.udp = live.udp;
                    status.transport = Some(live.link.transport);
                    status.schedule = Some(schedule);
                });
            }
            Output::Acked { committed_seq, rejected, clock_is_off } => {
                self.acked(&live.session, committed_seq, &rejected)?;
                if clock_is_off {
                    return Err(UplinkError::Old);
                }
            }
            // Nobody asked for it here.
            Output::Forgotten(_) | Output::Heard(_) => {}
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
                drop(spool);
                self.status.send_modify(|status| status.sequence = sequence);
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

impl UplinkError {
    /// Whether no other session of this moment may go on.
    const fn is_final(&self) -> bool {
        matches!(self, Self::Moved | Self::Spool(_))
    }

    fn is_replaced(&self) -> bool {
        let Self::Session(SessionError::GoAway { reason, .. }) = self else { return false };
        *reason == GoAwayReason::Replaced
    }
}

/// Waits for what is being made beside, where something is.
async fn made(beside: &mut Option<Beside<'_>>) -> Result<Live, UplinkError> {
    match beside {
        Some(beside) => beside.await,
        None => std::future::pending().await,
    }
}

/// A session under way.
struct Live {
    link: Link,
    session: Session,
    deframer: Deframer,
    /// Moves of this machine since the connection was begun.
    moves: watch::Receiver<u64>,
    /// What its making told of UDP.
    udp: Option<bool>,
    /// Whom it must be of, where it is to take over from another.
    observer: Option<PublicKey>,
}

impl Live {
    async fn write(&mut self, frame: &Frame) -> Result<(), UplinkError> {
        timeout(WRITE_TIMEOUT, self.link.write(&frame.to_bytes()))
            .await
            .map_err(|_| UplinkError::Deadline("read"))?
            .map_err(UplinkError::Write)
    }
}

#[cfg(test)]
mod tests;
