//! The one loop right of the log: records and ticks go into the detector, what changed comes out
//! signed. A thread of its own; it owns the detector.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    sync::Arc,
};

use tocsin_proto::{catalogue::Catalogue, incident::Phase, sign::sha256, time::Timestamp, wire};
use tokio::sync::{mpsc, watch};

use crate::{
    engine::{
        detector::{Changed, Detector, State},
        params::{self, Settings},
    },
    feed::Published,
    metrics::Metrics,
    publish::Publisher,
    store::{LogEvent, LogReader, StoreError, with_sources},
};

/// Publications are at least this far apart, ms: a burst of reports is one change.
const PUBLISH_MS: u64 = 1_000;
/// The state is kept at least this often, ms.
const SAVE_MS: u64 = 60_000;
/// Events between the writer and the detector. When it is full the writer waits.
pub const QUEUE: usize = 16_384;
/// First bytes of a state file.
const MAGIC: &[u8; 8] = b"tocsin01";

/// A detector that follows the log.
#[derive(Debug)]
pub struct Pipeline {
    detector: Detector,
    publisher: Publisher,
    published: watch::Sender<Arc<Published>>,
    metrics: Arc<Metrics>,
    state_file: PathBuf,
    fingerprint: [u8; 32],
    sequence: u64,
    published_at: Timestamp,
    saved_at: Timestamp,
}

/// What a state file belongs to: another catalogue, other settings or parameters need another.
fn fingerprint(catalogue: &Catalogue, settings: &Settings) -> [u8; 32] {
    let catalogue = format!("{catalogue:?}");
    sha256(&[
        &params::VERSION.to_le_bytes(),
        catalogue.as_bytes(),
        format!("{settings:?}").as_bytes(),
    ])
}

/// Reads a state file: magic, fingerprint, checksum, state. `None` when there is none, or it is of
/// another catalogue or damaged: then the log is read from its beginning.
fn read_state(path: &Path, fingerprint: &[u8; 32]) -> Option<State> {
    let bytes = fs::read(path).ok()?;
    let rest = bytes.strip_prefix(MAGIC)?;
    let rest = rest.strip_prefix(fingerprint)?;
    let (checksum, body) = rest.split_at_checked(32)?;
    if sha256(&[body]) != checksum {
        tracing::warn!("the detector's state is damaged; the log is read from its beginning");
        return None;
    }
    wire::decode_own_file(body).ok()
}

fn write_state(path: &Path, fingerprint: &[u8; 32], state: &State) -> std::io::Result<()> {
    let body = wire::encode(state);
    let temporary = path.with_extension("tmp");
    let mut file = fs::File::create(&temporary)?;
    for part in [MAGIC.as_slice(), fingerprint, &sha256(&[&body]), &body] {
        file.write_all(part)?;
    }
    file.sync_all()?;
    fs::rename(&temporary, path)
}

/// Brings a detector up to the end of the log: from the state file, and the records behind it.
///
/// # Errors
/// When the log cannot be read.
pub fn resume(
    catalogue: &Catalogue,
    settings: &Settings,
    state_file: &Path,
    log: &LogReader,
) -> Result<Detector, StoreError> {
    let kept = read_state(state_file, &fingerprint(catalogue, settings));
    let kept = kept.filter(|state| log.last_position().is_ok_and(|last| state.position <= last));
    let state = kept.unwrap_or_default();
    let behind = state.position;
    let mut detector = Detector::resume(catalogue.clone(), settings.clone(), state);
    log.replay(behind, |record, _| drop(detector.record(&record)))?;
    Ok(detector)
}

impl Pipeline {
    /// Begins with a detector that is at the end of the log.
    #[must_use]
    pub fn new(
        detector: Detector,
        publisher: Publisher,
        metrics: Arc<Metrics>,
        state_file: PathBuf,
        now: Timestamp,
    ) -> (Self, watch::Receiver<Arc<Published>>) {
        let fingerprint = fingerprint(detector.catalogue(), detector.settings());
        // Rises over restarts too, as long as the clock does.
        let sequence = now.as_ms();
        let first = publisher.publish(&detector, sequence);
        let (published, reader) = watch::channel(Arc::new(first));
        let pipeline = Self {
            detector,
            publisher,
            published,
            metrics,
            state_file,
            fingerprint,
            sequence,
            published_at: now,
            saved_at: now,
        };
        (pipeline, reader)
    }

    /// Follows the log until the writer is gone, then keeps the state.
    pub fn run(mut self, mut events: mpsc::Receiver<LogEvent>) {
        while let Some(event) = events.blocking_recv() {
            let changed = match event {
                LogEvent::Record(record) => self.detector.record(&record),
                LogEvent::Tick(now) => self.detector.advance(now),
            };
            for change in &changed {
                announce(change);
            }
            let now = self.detector.now();
            let due = now.since_ms(self.published_at) >= PUBLISH_MS;
            if !changed.is_empty() || (due && events.is_empty()) {
                self.publish(now);
            }
            if now.since_ms(self.saved_at) >= SAVE_MS {
                self.save(now);
            }
        }
        self.save(self.detector.now());
    }

    fn publish(&mut self, now: Timestamp) {
        self.published_at = now;
        self.sequence = (self.sequence + 1).max(now.as_ms());
        let published = self.publisher.publish(&self.detector, self.sequence);
        let standing = |phase| matches!(phase, Phase::Confirmed | Phase::Recovering);
        let open = published.snapshot.incidents.iter().filter(|i| standing(i.phase)).count();
        self.metrics.detector_at(self.detector.state().position, open);
        self.published.send_replace(Arc::new(published));
    }

    fn save(&mut self, now: Timestamp) {
        self.saved_at = now;
        let state = self.detector.state();
        if let Err(error) = write_state(&self.state_file, &self.fingerprint, state) {
            tracing::error!(error = %with_sources(&error), "the detector's state was not kept");
        }
    }
}

fn announce(change: &Changed) {
    let Changed { incident, at, phase } = change;
    tracing::info!(%incident, %at, phase = phase.name(), "incident");
}
