//! One agent's session: the handshake, then reports in and acks out, over any byte stream.

use std::{net::IpAddr, sync::Arc, time::Duration};

use tocsin_proto::{
    bounded::{Fixed, List},
    catalogue::{Catalogue, Zones},
    delegation::SignedDelegation,
    human::{HUMAN_CLOCK_MS, Heard, Hearing, SignedHumanReport},
    limits::{
        ACK_ENTRIES_MAX, FRAME_TO_COLLECTOR_MAX, HANDSHAKE_TIMEOUT_MS, IDLE_TIMEOUT_MS,
        PROTOCOL_VERSION, REPORTS_IN_FLIGHT_MAX,
    },
    message::{
        Ack, AskBack, Challenge, Deferred, Forget, Forgotten, GoAway, GoAwayReason, Greeting,
        Hello, Message, Prove, Query, Ready, Refused, Schedule, Tag, Transcript,
    },
    report::SignedReport,
    sign::{PublicKey, Verifier},
    wire::{Deframer, Frame},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::{mpsc, oneshot, watch},
};
use tokio_util::sync::CancellationToken;

use super::{living::Living, prefix::Slots};
use crate::{
    clock::Clock,
    engine::{
        admit::admit,
        locate::{Locator, Place},
        observer::Standing,
        people::Voice,
    },
    feed::Published,
    metrics::{Metrics, Transport},
    store::{Append, Human, Outcome, Request},
};

/// Frames an agent may send at once, as after a long absence, and frames a second after that.
const BURST: u32 = 512;
const FRAMES_PER_S: u32 = 4;
/// Snapshots for somebody who has not said who it is.
const QUERIES_UNPROVED_MAX: u32 = 2;
/// Seconds after which a report that could not be kept may come again.
const RETRY_S: u16 = 5;
/// Longest wait for work that was asked of a new key.
const WORK_TIMEOUT_MS: u64 = 60_000;
/// Longest wait for a peer to take what is written to it.
const WRITE_TIMEOUT: Duration = Duration::from_secs(20);
/// Bytes read at once.
const PIECE: usize = 4096;

/// What every session needs.
#[derive(Debug)]
pub struct Context {
    /// The catalogue in force.
    pub catalogue: Arc<Catalogue>,
    /// Where addresses are.
    pub locator: Locator,
    /// Prefixes without addresses.
    pub slots: Slots,
    /// Which observers have a session.
    pub living: Living,
    /// What the operator has said.
    pub delegations: List<SignedDelegation, { tocsin_proto::limits::DELEGATIONS_MAX }>,
    /// What agents are asked to do.
    pub schedule: Schedule,
    /// Work asked of new keys, bits.
    pub pow_bits: u8,
    /// The writer.
    pub requests: mpsc::Sender<Request>,
    /// What is published.
    pub published: watch::Receiver<Arc<Published>>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Time.
    pub clock: Clock,
}

/// Why a session ended.
#[derive(Debug)]
enum End {
    /// The peer closed, or its stream broke.
    Peer,
    /// The collector ends it, for a reason that the peer is told.
    Ours(GoAwayReason),
}

type Ended<T> = Result<T, End>;

/// A stream of frames to and from one peer, with a deadline on every wait.
struct Link<R, W> {
    reader: R,
    writer: W,
    deframer: Deframer,
}

impl<R: AsyncRead + Unpin, W: AsyncWrite + Unpin> Link<R, W> {
    async fn frame(&mut self) -> Ended<Frame> {
        loop {
            let next = self.deframer.next_frame();
            if let Some(frame) = next.map_err(|_| End::Ours(GoAwayReason::Frame))? {
                return Ok(frame);
            }
            let mut piece = [0; PIECE];
            let read = self.reader.read(&mut piece).await.map_err(|_| End::Peer)?;
            if read == 0 {
                return Err(End::Peer);
            }
            self.deframer.push(piece.get(..read).unwrap_or_default());
        }
    }

    /// The next message of a kind. Frames with unknown tags are skipped; known ones out of order
    /// end the session.
    async fn expect<M: Message>(&mut self) -> Ended<(M, Frame)> {
        loop {
            let frame = self.frame().await?;
            if frame.tag == M::TAG as u8 {
                let message =
                    M::from_body(&frame.body).map_err(|_| End::Ours(GoAwayReason::Frame))?;
                return Ok((message, frame));
            }
            if is_known(frame.tag) {
                return Err(End::Ours(GoAwayReason::Order));
            }
        }
    }

    async fn send(&mut self, frame: &Frame) -> Ended<()> {
        let bytes = frame.to_bytes();
        let write = async {
            self.writer.write_all(&bytes).await?;
            self.writer.flush().await
        };
        match tokio::time::timeout(WRITE_TIMEOUT, write).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(End::Peer),
            Err(_) => Err(End::Ours(GoAwayReason::Idle)),
        }
    }
}

fn is_known(tag: u8) -> bool {
    (Tag::Hello as u8..=Tag::GoAway as u8).contains(&tag)
        || (Tag::Report as u8..=Tag::Heard as u8).contains(&tag)
}

/// Who the peer is, once it has proved it.
struct Peer {
    key: PublicKey,
    verifier: Verifier,
    place: Place,
}

/// Serves one session to its end, over any transport. `address` is asked again with every report: a
/// path that has moved to another country or network ends the session.
pub async fn serve<R, W>(
    context: &Context,
    reader: R,
    writer: W,
    exporter: [u8; 32],
    over: Transport,
    address: impl Fn() -> IpAddr,
    shutdown: CancellationToken,
) where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut link = Link { reader, writer, deframer: Deframer::new(FRAME_TO_COLLECTOR_MAX) };
    context.metrics.session_began(over);
    let handshake = handshake(context, &mut link, exporter, address());
    let work = if context.pow_bits > 0 { WORK_TIMEOUT_MS } else { 0 };
    let limit = Duration::from_millis(HANDSHAKE_TIMEOUT_MS + work);
    let end = match tokio::time::timeout(limit, handshake).await {
        Err(_) => End::Ours(GoAwayReason::Idle),
        Ok(Err(end)) => end,
        Ok(Ok(peer)) => {
            // One session an observer: the older one is the one that is dead, or a copied key.
            let (here, asked) = context.living.begin(peer.key);
            tokio::select! {
                biased;
                () = here.replaced() => End::Ours(GoAwayReason::Replaced),
                end = run(context, &mut link, &peer, address, asked, shutdown) => end,
            }
        }
    };
    let reason = match end {
        End::Peer => None,
        End::Ours(reason) => {
            let away = GoAway { reason, retry_after_s: retry_after(reason) };
            let goodbye = async {
                if link.send(&away.to_frame()).await.is_ok() {
                    drop(link.writer.shutdown().await);
                }
            };
            // The peer may be gone, or not read; then nobody can be told.
            drop(tokio::time::timeout(WRITE_TIMEOUT, goodbye).await);
            Some(reason)
        }
    };
    context.metrics.session_ended(over, reason);
}

const fn retry_after(reason: GoAwayReason) -> u16 {
    match reason {
        GoAwayReason::Overloaded => 30,
        GoAwayReason::Shutdown | GoAwayReason::Moved | GoAwayReason::Idle => 1,
        _ => 300,
    }
}

async fn handshake<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
    context: &Context,
    link: &mut Link<R, W>,
    exporter: [u8; 32],
    address: IpAddr,
) -> Ended<Peer> {
    let (hello, hello_frame) = link.expect::<Hello>().await?;
    if !hello.versions.contains(&PROTOCOL_VERSION) {
        return Err(End::Ours(GoAwayReason::Version));
    }
    let place = context.locator.locate(address);
    let mut nonce = Fixed([0; 16]);
    getrandom::fill(&mut nonce.0).map_err(|_| End::Ours(GoAwayReason::Overloaded))?;
    let greeting = Greeting {
        version: PROTOCOL_VERSION,
        country: place.country,
        asn: place.asn,
        collector_time: context.clock.wall(),
        nonce,
        pow_bits: 0,
        delegations: context.delegations.clone(),
    };
    let greeting_frame = greeting.to_frame();
    link.send(&greeting_frame).await?;
    let transcript = Transcript::new(exporter, &hello_frame, &greeting_frame, nonce);
    let prove = proof(context, link).await?;
    let verifier = verified(&transcript, &prove)?;
    let high = high(context, prove.observer).await?;
    if high == 0 && !context.slots.admit_new_key(context.clock.wall(), address) {
        return Err(End::Ours(GoAwayReason::Overloaded));
    }
    if high == 0 && context.pow_bits > 0 {
        link.send(&Challenge { pow_bits: context.pow_bits }.to_frame()).await?;
        let (again, _) = link.expect::<Prove>().await?;
        verified(&transcript, &again)?;
        let enough = transcript.work_bits(&again.observer, again.work) >= context.pow_bits.into();
        if again.observer != prove.observer || !enough {
            return Err(End::Ours(GoAwayReason::Work));
        }
    }
    let ready = Ready { committed_seq: high, schedule: context.schedule };
    link.send(&ready.to_frame()).await?;
    Ok(Peer { key: prove.observer, verifier, place })
}

/// The proof of who it is. Who only reads needs not say that, and leaves after the answer.
async fn proof<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
    context: &Context,
    link: &mut Link<R, W>,
) -> Ended<Prove> {
    let mut left = QUERIES_UNPROVED_MAX;
    loop {
        let frame = link.frame().await?;
        if frame.tag == Tag::Prove as u8 {
            return Prove::from_body(&frame.body).map_err(|_| End::Ours(GoAwayReason::Frame));
        } else if frame.tag == Tag::Query as u8 && left > 0 {
            left -= 1;
            answer(context, link, &frame).await?;
        } else if is_known(frame.tag) {
            return Err(End::Ours(GoAwayReason::Order));
        }
    }
}

fn verified(transcript: &Transcript, prove: &Prove) -> Ended<Verifier> {
    let verifier = prove.observer.verifier().map_err(|_| End::Ours(GoAwayReason::Key))?;
    transcript.verify(prove).map_err(|_| End::Ours(GoAwayReason::Proof))?;
    Ok(verifier)
}

async fn high(context: &Context, observer: PublicKey) -> Ended<u64> {
    let (reply, answer) = oneshot::channel();
    let stopping = |_| End::Ours(GoAwayReason::Shutdown);
    context.requests.send(Request::High(observer, reply)).await.map_err(|_| stopping(()))?;
    answer.await.map_err(|_| stopping(()))
}

/// What wakes a session.
enum Event {
    Frame(Ended<Frame>),
    Verdict(Outcome),
    Ask(AskBack),
    Second,
    Shutdown,
}

async fn run<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
    context: &Context,
    link: &mut Link<R, W>,
    peer: &Peer,
    address: impl Fn() -> IpAddr,
    mut asked: mpsc::Receiver<AskBack>,
    shutdown: CancellationToken,
) -> End {
    let (reply, mut verdicts) = mpsc::unbounded_channel();
    let mut in_flight = 0usize;
    let mut tokens = BURST;
    let mut idle_s = 0;
    let mut second = tokio::time::interval(Duration::from_secs(1));
    loop {
        let event = tokio::select! {
            biased;
            () = shutdown.cancelled() => Event::Shutdown,
            Some(verdict) = verdicts.recv() => Event::Verdict(verdict),
            Some(ask) = asked.recv() => Event::Ask(ask),
            _ = second.tick() => Event::Second,
            // Who is too fast, or has too much under way, is not read from: flow control stops it.
            frame = link.frame(), if tokens > 0 && in_flight < REPORTS_IN_FLIGHT_MAX => {
                Event::Frame(frame)
            }
        };
        let done = match event {
            Event::Shutdown => Err(End::Ours(GoAwayReason::Shutdown)),
            Event::Ask(ask) => link.send(&ask.to_frame()).await,
            Event::Second => {
                tokens = (tokens + FRAMES_PER_S).min(BURST);
                idle_s += 1;
                if idle_s * 1000 > IDLE_TIMEOUT_MS && in_flight == 0 {
                    Err(End::Ours(GoAwayReason::Idle))
                } else {
                    Ok(())
                }
            }
            Event::Verdict(first) => {
                let mut ack = Acks::default();
                ack.add(first);
                in_flight -= 1;
                while let Ok(more) = verdicts.try_recv() {
                    ack.add(more);
                    in_flight -= 1;
                }
                link.send(&ack.message().to_frame()).await
            }
            Event::Frame(Err(end)) => Err(end),
            Event::Frame(Ok(frame)) => {
                idle_s = 0;
                // Whatever it is: queries and what is skipped cost work too.
                tokens -= 1;
                let here = context.locator.locate(address());
                if here != peer.place {
                    Err(End::Ours(GoAwayReason::Moved))
                } else if frame.tag == Tag::Report as u8 {
                    in_flight += 1;
                    report(context, peer, address(), &frame, &reply).await
                } else if frame.tag == Tag::Query as u8 {
                    answer(context, link, &frame).await
                } else if frame.tag == Tag::Forget as u8 {
                    forget(context, link, peer, &frame).await
                } else if frame.tag == Tag::HumanReport as u8 {
                    hear(context, link, peer, address(), &frame).await
                } else if (Tag::Hello as u8..Tag::GoAway as u8).contains(&frame.tag) {
                    Err(End::Ours(GoAwayReason::Order))
                } else if frame.tag == Tag::GoAway as u8 {
                    Err(End::Peer)
                } else {
                    // Reserved for later versions, or not known: skipped.
                    Ok(())
                }
            }
        };
        if let Err(end) = done {
            return end;
        }
    }
}

async fn report(
    context: &Context,
    peer: &Peer,
    address: IpAddr,
    frame: &Frame,
    reply: &mpsc::UnboundedSender<Outcome>,
) -> Ended<()> {
    let signed =
        SignedReport::from_body(&frame.body).map_err(|_| End::Ours(GoAwayReason::Frame))?;
    let Ok(seq) = signed.peek_seq() else { return Err(End::Ours(GoAwayReason::Frame)) };
    let now = context.clock.wall();
    let report = match admit(now, &peer.verifier, &context.catalogue, &signed) {
        Ok(report) => report,
        Err(reason) => {
            context.metrics.rejected(reason);
            return reply.send(Outcome::Rejected { seq, reason }).map_err(|_| End::Peer);
        }
    };
    let standing = Standing {
        country: peer.place.country,
        zone: Zones::builtin().of(peer.place.country),
        asn: peer.place.asn,
        slot: context.slots.slot(now, address),
        version: report.probe_core,
        resolver: report.resolver as u8,
    };
    let reply = reply.clone();
    let append = Append { observer: peer.key, standing, seq, signed, report, reply };
    let append = Request::Append(Box::new(append));
    context.requests.send(append).await.map_err(|_| End::Ours(GoAwayReason::Shutdown))
}

async fn forget<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
    context: &Context,
    link: &mut Link<R, W>,
    peer: &Peer,
    frame: &Frame,
) -> Ended<()> {
    Forget::from_body(&frame.body).map_err(|_| End::Ours(GoAwayReason::Frame))?;
    let (reply, answer) = oneshot::channel();
    let stopping = |_| End::Ours(GoAwayReason::Shutdown);
    let request = Request::Forget(peer.key, reply);
    context.requests.send(request).await.map_err(|_| stopping(()))?;
    // Without an answer it was not done: the agent is to ask again.
    let reports = answer.await.map_err(|_| End::Ours(GoAwayReason::Overloaded))?;
    link.send(&Forgotten { reports }.to_frame()).await?;
    // Whoever comes back is new, and comes in by the door.
    Err(End::Ours(GoAwayReason::Shutdown))
}

/// What a person says of a site. Answered once it is on disk.
async fn hear<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
    context: &Context,
    link: &mut Link<R, W>,
    peer: &Peer,
    address: IpAddr,
    frame: &Frame,
) -> Ended<()> {
    let signed =
        SignedHumanReport::from_body(&frame.body).map_err(|_| End::Ours(GoAwayReason::Frame))?;
    let now = context.clock.wall();
    let Some(said) = signed.open(&peer.verifier) else {
        return Err(End::Ours(GoAwayReason::Frame));
    };
    let off_ms = now.since_ms(said.at).max(said.at.since_ms(now));
    let hearing = if off_ms > HUMAN_CLOCK_MS {
        Hearing::Clock
    } else if context.catalogue.target(said.target).is_none() {
        Hearing::UnknownTarget
    } else {
        let (reply, answer) = oneshot::channel();
        let voice = Voice {
            at: now,
            said,
            country: peer.place.country,
            asn: peer.place.asn,
            slot: context.slots.slot(now, address),
        };
        let human = Box::new(Human { observer: peer.key, voice, signed, reply });
        let stopping = |_| End::Ours(GoAwayReason::Shutdown);
        context.requests.send(Request::Hear(human)).await.map_err(stopping)?;
        answer.await.map_err(|_| End::Ours(GoAwayReason::Shutdown))?
    };
    if matches!(hearing, Hearing::Clock | Hearing::UnknownTarget) {
        context.metrics.heard(hearing);
    }
    link.send(&Heard { target: said.target, hearing }.to_frame()).await
}

async fn answer<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
    context: &Context,
    link: &mut Link<R, W>,
    frame: &Frame,
) -> Ended<()> {
    let query = Query::from_body(&frame.body).map_err(|_| End::Ours(GoAwayReason::Frame))?;
    if query != Query::Snapshot {
        return Ok(());
    }
    let signed = Arc::clone(&context.published.borrow().signed);
    link.send(&signed.to_frame()).await
}

/// Verdicts on their way into one ack.
#[derive(Debug, Default)]
struct Acks {
    committed: u64,
    rejected: Vec<Refused>,
    later: Vec<Deferred>,
}

impl Acks {
    fn add(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Committed { high, .. } => self.committed = self.committed.max(high),
            Outcome::Rejected { seq, reason } => self.rejected.push(Refused { seq, reason }),
            Outcome::Later { seq } => {
                self.later.push(Deferred { seq, retry_after_s: RETRY_S });
            }
        }
    }

    fn message(self) -> Ack {
        const { assert!(ACK_ENTRIES_MAX >= REPORTS_IN_FLIGHT_MAX) };
        Ack {
            committed_seq: self.committed,
            rejected: List::new(self.rejected).expect("no more than are in flight"),
            later: List::new(self.later).expect("no more than are in flight"),
        }
    }
}
