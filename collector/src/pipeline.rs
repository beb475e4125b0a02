//! The one loop right of the log: records and ticks go into the detector, what changed comes out
//! signed. A thread of its own; it owns the detector.

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    path::{Path, PathBuf},
    sync::Arc,
};

use tocsin_proto::{
    bounded::List, catalogue::Catalogue, id::ObserverId, incident::Phase, message::AskBack,
    sign::sha256, time::Timestamp, wire,
};
use tokio::sync::{mpsc, watch};

use crate::{
    engine::{
        cells::Cells,
        detector::{Changed, Detector, Record, State},
        panel::Ask,
        params::{self, Settings},
        people::{self, People},
    },
    feed::Published,
    ingest::living::Living,
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
const MAGIC: &[u8; 8] = b"tocsin06";

/// Everything that is a function of the log.
#[derive(Debug)]
pub struct Follower {
    /// What decides.
    pub detector: Detector,
    /// What is counted for display.
    pub cells: Cells,
    /// The key of each observer, by its number: who is asked is reached by it.
    pub keys: BTreeMap<u32, ObserverId>,
    /// What persons say.
    pub people: People,
}

/// What of it is kept.
#[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
struct Kept {
    detector: State,
    cells: Cells,
}

impl Follower {
    fn record(&mut self, record: &Record) -> Vec<Changed> {
        self.keys.insert(record.observer, record.key);
        let changed = self.detector.record(record);
        self.cells.record(self.detector.now(), self.detector.plan(), record);
        changed
    }

    fn advance(&mut self, now: Timestamp) -> Vec<Changed> {
        let changed = self.detector.advance(now);
        self.cells.advance(self.detector.now());
        self.people.advance(now);
        changed
    }
}

/// A follower of the log that publishes.
#[derive(Debug)]
pub struct Pipeline {
    follower: Follower,
    publisher: Publisher,
    published: watch::Sender<Arc<Published>>,
    metrics: Arc<Metrics>,
    living: Living,
    state_file: PathBuf,
    fingerprint: [u8; 32],
    sequence: u64,
    published_at: Timestamp,
    saved_at: Timestamp,
}

/// What a state file belongs to: another catalogue or other parameters need another. Settings may
/// change: they count from the restart on.
fn fingerprint(catalogue: &Catalogue) -> [u8; 32] {
    let catalogue = format!("{catalogue:?}");
    sha256(&[&params::VERSION.to_le_bytes(), catalogue.as_bytes()])
}

/// What a state file holds, and whether it fits.
enum Found {
    /// All of it goes on.
    Fits(Kept),
    /// Of another catalogue or other parameters: only how long observers have been there is good.
    Other(Kept),
    /// None, or damaged.
    Nothing,
}

/// Reads a state file: magic, fingerprint, checksum, state.
fn read_state(path: &Path, fingerprint: &[u8; 32]) -> Found {
    let Ok(bytes) = fs::read(path) else { return Found::Nothing };
    let kept = || {
        let rest = bytes.strip_prefix(MAGIC)?;
        let (of, rest) = rest.split_at_checked(32)?;
        let (checksum, body) = rest.split_at_checked(32)?;
        if sha256(&[body]) != checksum {
            return None;
        }
        let kept: Kept = wire::decode_own_file(body).ok()?;
        Some(if of == fingerprint { Found::Fits(kept) } else { Found::Other(kept) })
    };
    kept().unwrap_or_else(|| {
        tracing::warn!(
            "the detector's state is damaged or of another version; the log is read anew"
        );
        Found::Nothing
    })
}

fn write_state(
    path: &Path,
    fingerprint: &[u8; 32],
    state: &impl serde::Serialize,
) -> std::io::Result<()> {
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
) -> Result<Follower, StoreError> {
    let last = log.last_position()?;
    // The log knows best since when observers are there; an older one may not have kept it.
    let known = log.tenure()?;
    let anew = |old: Option<&State>| {
        let mut tenure = old.map(State::tenure).unwrap_or_default();
        tenure.extend(known.clone());
        (State::with_tenure(tenure), Cells::default())
    };
    let (detector, cells) = match read_state(state_file, &fingerprint(catalogue)) {
        Found::Fits(kept) if kept.detector.position <= last => (kept.detector, kept.cells),
        Found::Fits(kept) | Found::Other(kept) => anew(Some(&kept.detector)),
        Found::Nothing => anew(None),
    };
    let behind = detector.position;
    let mut detector = Detector::resume(catalogue.clone(), settings.clone(), detector);
    let keys = log.keys()?;
    detector.vouch(&keys);
    detector.mute(behind == 0);
    // A week of it is small, and read anew.
    let mut people = People::default();
    log.people(people::KEPT_MS, |voice| people.hear(voice))?;
    let mut follower = Follower { detector, cells, keys, people };
    log.replay(behind, |record, _| drop(follower.record(&record)))?;
    // What was asked then is answered or over.
    drop(follower.detector.take_asks());
    follower.detector.mute(false);
    Ok(follower)
}

impl Pipeline {
    /// Begins with a detector that is at the end of the log.
    #[must_use]
    pub fn new(
        mut follower: Follower,
        publisher: Publisher,
        metrics: Arc<Metrics>,
        living: Living,
        state_file: PathBuf,
        now: Timestamp,
    ) -> (Self, watch::Receiver<Arc<Published>>) {
        let fingerprint = fingerprint(follower.detector.catalogue());
        // What was said when it was last heard is long over.
        follower.people.advance(now);
        // Rises over restarts too, as long as the clock does.
        let sequence = now.as_ms();
        let first =
            publisher.publish(&follower.detector, &follower.cells, &follower.people, sequence);
        let (published, reader) = watch::channel(Arc::new(first));
        let pipeline = Self {
            follower,
            publisher,
            published,
            metrics,
            living,
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
                LogEvent::Record(record) => self.follower.record(&record),
                LogEvent::Tick(now) => self.follower.advance(now),
                LogEvent::Heard(voice) => {
                    self.follower.people.hear(&voice);
                    Vec::new()
                }
                LogEvent::Forgot(id) => {
                    self.follower.keys.remove(&id);
                    Vec::new()
                }
            };
            for change in &changed {
                announce(change);
            }
            self.ask();
            let now = self.follower.detector.now();
            let due = now.since_ms(self.published_at) >= PUBLISH_MS;
            if !changed.is_empty() || (due && events.is_empty()) {
                self.publish(now);
            }
            if now.since_ms(self.saved_at) >= SAVE_MS {
                self.save(now);
            }
        }
        self.save(self.follower.detector.now());
    }

    /// Sends what the detector wants to be asked.
    fn ask(&mut self) {
        for Ask { observer, nonce, targets, layer, standing } in self.follower.detector.take_asks()
        {
            let Some(key) = self.follower.keys.get(&observer) else { continue };
            let Ok(targets) = List::new(targets) else { continue };
            let sent =
                self.living.ask(key, AskBack { nonce, targets, layer: layer as u8, standing });
            self.metrics.asked(sent);
        }
        let notes = self.follower.detector.take_panels();
        for note in notes {
            let Follower { detector, .. } = &self.follower;
            tracing::debug!(note = note.line(detector.catalogue(), detector.plan()), "panel");
        }
    }

    fn publish(&mut self, now: Timestamp) {
        self.published_at = now;
        self.sequence = (self.sequence + 1).max(now.as_ms());
        let Follower { detector, cells, people, .. } = &self.follower;
        let published = self.publisher.publish(detector, cells, people, self.sequence);
        let standing = |phase| matches!(phase, Phase::Confirmed | Phase::Recovering);
        let open = published.snapshot.incidents.iter().filter(|i| standing(i.phase)).count();
        self.metrics.detector_at(self.follower.detector.state().position, open);
        self.published.send_replace(Arc::new(published));
    }

    fn save(&mut self, now: Timestamp) {
        self.saved_at = now;
        let Follower { detector, cells, .. } = &self.follower;
        let kept = (detector.state(), cells);
        if let Err(error) = write_state(&self.state_file, &self.fingerprint, &kept) {
            tracing::error!(error = %with_sources(&error), "the detector's state was not kept");
        }
    }
}

fn announce(change: &Changed) {
    let Changed { incident, at, phase } = change;
    tracing::info!(%incident, %at, phase = phase.name(), "incident");
}
