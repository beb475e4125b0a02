//! The writer thread: batches by size or age, commits, answers, and tells the detector what was
//! committed, in order, with ticks in between.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use tocsin_proto::{human::Hearing, message::Rejection, sign::PublicKey, time::Timestamp};
use tokio::sync::{mpsc, oneshot};

use super::{
    Append, Human, LogEvent, Outcome, Request, StoreError,
    sqlite::{Known, Row, SqliteLog},
};
use crate::{
    clock::Clock,
    engine::{
        admit::Seen,
        detector::Record,
        people::{self, Door},
    },
    metrics::Metrics,
};

/// Reports in one commit at most.
pub const BATCH_MAX: usize = 2_000;
/// How long the first of a batch waits for others, ms.
pub const BATCH_AGE_MS: u64 = 8;
/// Requests that may wait for the writer. When it is full, sessions stop reading, QUIC's flow
/// control stops the agents, and they keep their reports: nothing is lost.
const DAY_MS: u64 = 86_400_000;
/// An observer that was not heard for this long is forgotten, its sequence numbers too. No report
/// that old is taken.
const OBSERVERS_KEPT_MS: u64 = 60 * DAY_MS;
const QUEUE: usize = 8_192;
/// How often the detector is told the time when nothing else happens, ms.
const TICK_MS: u64 = 250;
/// Wait before a commit that failed is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// How often the log is looked through for days past their retention, ms.
const RETENTION_CHECK_MS: u64 = 3_600_000;

/// The handle of the writer thread.
#[derive(Debug)]
pub struct Writer {
    /// Where requests go.
    pub requests: mpsc::Sender<Request>,
    /// The thread; it ends when every sender is gone.
    pub thread: std::thread::JoinHandle<()>,
}

struct State {
    log: SqliteLog,
    known: BTreeMap<PublicKey, Known>,
    next_id: u32,
    position: u64,
    /// Time never goes back in the log, whatever the machine's clock does.
    now: Timestamp,
    retention_ms: u64,
    checked_at: Timestamp,
    clock: Clock,
    metrics: Arc<Metrics>,
    events: mpsc::Sender<LogEvent>,
    /// Who is to be forgotten once what came before is committed, and who waits for that.
    to_forget: VecDeque<(PublicKey, oneshot::Sender<u64>)>,
    /// What persons said and is to be kept.
    to_hear: Vec<Human>,
    door: Door,
    /// The log could not be written while the collector stopped.
    failed: bool,
}

impl Writer {
    /// Starts the thread over an open log.
    ///
    /// # Errors
    /// When the log cannot be read, or the thread cannot be started.
    pub fn start(
        log: SqliteLog,
        retention_ms: u64,
        clock: Clock,
        metrics: Arc<Metrics>,
        events: mpsc::Sender<LogEvent>,
    ) -> Result<Self, StoreError> {
        let known = log.observers()?;
        let next_id = known.values().map(|known| known.id + 1).max().unwrap_or(1);
        let position = log.last_position()?;
        // Time never goes back in the log, whatever was done to the clock in between.
        let now = clock.wall().max(log.last_time()?);
        let mut state = State {
            log,
            known,
            next_id,
            position,
            now,
            retention_ms,
            checked_at: Timestamp::EPOCH,
            clock,
            metrics,
            events,
            to_forget: VecDeque::new(),
            to_hear: Vec::new(),
            door: Door::default(),
            failed: false,
        };
        let (requests, mut queue) = mpsc::channel(QUEUE);
        let thread = std::thread::Builder::new()
            .name("writer".to_owned())
            .spawn(move || {
                let waiting = tokio::runtime::Builder::new_current_thread().enable_time().build();
                match waiting {
                    Ok(runtime) => runtime.block_on(state.run(&mut queue)),
                    Err(error) => tracing::error!(%error, "the writer's timer failed"),
                }
            })
            .map_err(StoreError::Thread)?;
        Ok(Self { requests, thread })
    }
}

impl State {
    async fn run(&mut self, queue: &mut mpsc::Receiver<Request>) {
        let mut batch = Vec::new();
        loop {
            let first = tokio::time::timeout(Duration::from_millis(TICK_MS), queue.recv()).await;
            match first {
                Ok(None) => return,
                Ok(Some(request)) => self.take(request, &mut batch),
                Err(_) => {}
            }
            if !batch.is_empty() {
                let more = async {
                    while batch.len() < BATCH_MAX {
                        let Some(request) = queue.recv().await else { break };
                        self.take(request, &mut batch);
                    }
                };
                // Elapsing is how a batch usually ends.
                drop(tokio::time::timeout(Duration::from_millis(BATCH_AGE_MS), more).await);
            }
            self.now = self.now.max(self.clock.wall());
            if self.failed {
                // What comes behind what could not be kept is not kept either: its numbers would be
                // taken for committed.
                for append in std::mem::take(&mut batch) {
                    answer(&append, Outcome::Later { seq: append.seq });
                }
            } else if !batch.is_empty() {
                self.commit(std::mem::take(&mut batch), queue).await;
            }
            self.hear().await;
            self.forget().await;
            self.tell(LogEvent::Tick(self.now)).await;
            self.keep_retention();
        }
    }

    fn take(&mut self, request: Request, batch: &mut Vec<Append>) {
        match request {
            Request::Append(append) => batch.push(*append),
            Request::Forget(observer, reply) => self.to_forget.push_back((observer, reply)),
            Request::Hear(human) => self.to_hear.push(*human),
            Request::High(observer, reply) => {
                let high = self.known.get(&observer).map_or(0, |known| known.window.high);
                if reply.send(high).is_err() {
                    tracing::trace!("the session that asked is gone");
                }
            }
        }
    }

    async fn tell(&self, event: LogEvent) {
        if self.events.send(event).await.is_err() {
            tracing::debug!("the detector is gone; the log goes on");
        }
    }

    async fn commit(&mut self, batch: Vec<Append>, queue: &mpsc::Receiver<Request>) {
        let mut changed: BTreeMap<PublicKey, Known> = BTreeMap::new();
        let mut fresh = Vec::new();
        let mut duplicates = Vec::new();
        let mut next_id = self.next_id;
        for append in batch {
            let known = changed.entry(append.observer).or_insert_with(|| {
                self.known.get(&append.observer).copied().unwrap_or_else(|| {
                    next_id += 1;
                    let (id, since) = (next_id - 1, self.now);
                    Known { id, window: Default::default(), seen_day: 0, since }
                })
            });
            known.seen_day = self.now.as_ms() / DAY_MS;
            match known.window.take(append.seq) {
                Seen::New => fresh.push((known.id, append)),
                Seen::Duplicate => duplicates.push(append),
                Seen::Stale => {
                    let reason = Rejection::StaleSeq;
                    self.metrics.rejected(reason);
                    answer(&append, Outcome::Rejected { seq: append.seq, reason });
                }
            }
        }
        let rows: Vec<Row<'_>> = (self.position + 1..)
            .zip(&fresh)
            .map(|(position, (observer, append))| Row {
                position,
                received_at: self.now,
                observer: *observer,
                standing: &append.standing,
                signed: &append.signed,
            })
            .collect();
        while !rows.is_empty()
            && let Err(error) = self.log.commit(&rows, &changed)
        {
            tracing::error!(error = %with_sources(&error), "reports are not kept; trying again");
            if queue.is_closed() {
                // The collector stops: the agents still have these, and will send them again.
                for append in fresh.iter().map(|(_, append)| append).chain(&duplicates) {
                    answer(append, Outcome::Later { seq: append.seq });
                }
                self.failed = true;
                return;
            }
            // Nothing that comes behind may be kept before these, or their numbers would be passed
            // over: so everybody waits, and the agents keep what they have.
            tokio::time::sleep(RETRY).await;
        }
        self.next_id = next_id;
        self.known.extend(changed);
        self.metrics.committed(fresh.len(), duplicates.len());
        let high =
            |observer: &PublicKey| self.known.get(observer).map_or(0, |known| known.window.high);
        for append in &duplicates {
            let outcome = Outcome::Committed { seq: append.seq, high: high(&append.observer) };
            answer(append, outcome);
        }
        for (observer, append) in fresh {
            self.position += 1;
            let outcome = Outcome::Committed { seq: append.seq, high: high(&append.observer) };
            answer(&append, outcome);
            let record = Record {
                position: self.position,
                received_at: self.now,
                observer,
                key: append.observer,
                standing: append.standing,
                report: append.report,
            };
            self.tell(LogEvent::Record(Box::new(record))).await;
        }
    }

    /// Keeps what persons said, once for each site and half hour.
    async fn hear(&mut self) {
        let (mut kept, mut refused) = (Vec::new(), Vec::new());
        for mut human in std::mem::take(&mut self.to_hear) {
            human.voice.at = self.now;
            match self.door.knock(human.observer, &human.voice) {
                Ok(()) => kept.push(human),
                Err(hearing) => refused.push((human, hearing)),
            }
        }
        let failed = match kept.is_empty() {
            true => None,
            false => self.log.hear(&kept.iter().collect::<Vec<_>>()).err(),
        };
        let mut told = Vec::new();
        for human in kept {
            if failed.is_some() {
                self.door.unsay(human.observer, human.voice.said.target);
                refused.push((human, Hearing::Failed));
            } else {
                told.push(human.voice);
                refused.push((human, Hearing::Counted));
            }
        }
        if let Some(error) = failed {
            tracing::error!(error = %with_sources(&error), "what people say was not kept");
        }
        for (human, hearing) in refused {
            self.metrics.heard(hearing);
            if human.reply.send(hearing).is_err() {
                tracing::trace!("who said it is gone");
            }
        }
        for voice in told {
            self.tell(LogEvent::Heard(voice)).await;
        }
    }

    /// Forgets one of those who asked to be: it goes through the whole log, so commits come in between. What cannot
    /// be deleted now is not said to be.
    async fn forget(&mut self) {
        let Some((observer, reply)) = self.to_forget.pop_front() else { return };
        let id = self.known.get(&observer).map(|known| known.id);
        let reports = match self.log.forget(&observer, id) {
            Ok(reports) => reports,
            Err(error) => {
                tracing::error!(error = %with_sources(&error), "an observer was not forgotten");
                return;
            }
        };
        self.metrics.forgot(reports);
        if let Some(id) = id {
            self.known.remove(&observer);
            self.tell(LogEvent::Forgot(id)).await;
        }
        if reply.send(reports).is_err() {
            tracing::trace!("who asked to be forgotten is gone; it was done");
        }
    }

    fn keep_retention(&mut self) {
        if self.now.since_ms(self.checked_at) < RETENTION_CHECK_MS {
            return;
        }
        self.checked_at = self.now;
        if let Err(error) = self.log.drop_before(self.now.minus_ms(self.retention_ms)) {
            tracing::error!(error = %with_sources(&error), "old segments were not dropped");
        }
        if let Err(error) = self.log.unhear_before(self.now.minus_ms(people::KEPT_MS)) {
            tracing::error!(error = %with_sources(&error), "what people said was not dropped");
        }
        let before = self.now.minus_ms(OBSERVERS_KEPT_MS.max(self.retention_ms + DAY_MS));
        match self.log.forget_before(before) {
            Ok(_) => {
                let newest = self.next_id.saturating_sub(1);
                let oldest_day = before.as_ms() / DAY_MS;
                self.known.retain(|_, known| {
                    known.id == newest || known.seen_day == 0 || known.seen_day >= oldest_day
                });
            }
            Err(error) => {
                tracing::error!(error = %with_sources(&error), "observers were not forgotten");
            }
        }
    }
}

fn answer(append: &Append, outcome: Outcome) {
    if append.reply.send(outcome).is_err() {
        tracing::trace!("the session that waits is gone; the agent will ask again");
    }
}

/// An error and what caused it, on one line.
pub(crate) fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text += &format!(": {source}");
        next = source.source();
    }
    text
}
