//! Who this agent is to one operator, and what it has to say to it.
//!
//! The observer key depends on the network that something was seen in, and a report's times are
//! the collector's. Until the first Greeting of a run has told that time, and, where no gateway
//! names the network, which network this is, reports are kept as drafts; the Greeting turns them
//! into signed reports. Numbers are given in the same transaction, so they never repeat.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tocsin_proto::{
    report::{Health, Report, ResolverClass, SignedReport},
    sign::{PublicKey, SecretKey},
    time::Timestamp,
    wire,
};
use tokio::sync::{Notify, watch};

use crate::{
    PROBE_CORE,
    engine::outbox::{Batch, Stamp},
    identity::Identity,
    spool::{Spool, SpoolError},
    uplink::SharedSpool,
};

/// Drafts signed in one go.
const DRAFTS_AT_ONCE: usize = 64;

/// What a report says besides its observations, its number and its time.
#[derive(Debug, Clone, Copy)]
pub struct Remarks {
    /// The own line.
    pub health: Health,
    /// The system's resolver.
    pub resolver: ResolverClass,
}

#[derive(Debug, Default)]
struct Known {
    /// The network; `None` when only a collector can tell.
    context: Option<String>,
    key: Option<Arc<SecretKey>>,
    /// The collector's clock minus ours, milliseconds.
    offset_ms: Option<i64>,
}

/// This agent, as one operator hears it.
#[derive(Debug)]
pub struct Voice {
    operator: PublicKey,
    identity: Arc<Identity>,
    spool: SharedSpool,
    known: Mutex<Known>,
    wake: Notify,
    moves: watch::Sender<u64>,
}

fn context_of(asn: u32) -> String {
    format!("asn {asn}")
}

impl Voice {
    /// To an operator, from the network of this context.
    #[must_use]
    pub fn new(
        operator: PublicKey,
        identity: Arc<Identity>,
        spool: SharedSpool,
        context: Option<String>,
    ) -> Self {
        let voice = Self {
            operator,
            identity,
            spool,
            known: Mutex::default(),
            wake: Notify::new(),
            moves: watch::channel(0).0,
        };
        voice.moved(context);
        voice
    }

    /// The outbox. Every call on it is one transaction: a panic between two leaves it whole.
    pub fn spool(&self) -> MutexGuard<'_, Spool> {
        self.spool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // Only whole values are written, so a panic elsewhere leaves them good.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The machine is in another network. What was said before is signed and kept already; what
    /// is said from now on is another observer's.
    pub fn moved(&self, context: Option<String>) {
        let key = context.as_deref().map(|context| self.key_in(context));
        let mut known = self.known();
        known.key = key;
        known.context = context;
        drop(known);
        self.moves.send_modify(|moves| *moves += 1);
    }

    /// The session is over. Where only a collector can name the network, the next one must.
    pub fn lost(&self) {
        let mut known = self.known();
        if known.context.is_none() {
            known.key = None;
        }
    }

    /// The network, where something else than a collector names it.
    #[must_use]
    pub fn context(&self) -> Option<String> {
        self.known().context.clone()
    }

    /// Rises with every move.
    #[must_use]
    pub fn moves(&self) -> watch::Receiver<u64> {
        self.moves.subscribe()
    }

    /// Rings when there is something to send.
    #[must_use]
    pub const fn wake(&self) -> &Notify {
        &self.wake
    }

    fn key_in(&self, context: &str) -> Arc<SecretKey> {
        Arc::new(self.identity.observer_key(&self.operator, context))
    }

    /// The collector has said what time it is and, where nothing else tells, in which network we
    /// are. Drafts become reports; the key to prove is given.
    ///
    /// # Errors
    /// When the outbox fails.
    pub fn greeted(&self, offset_ms: i64, asn: u32) -> Result<Arc<SecretKey>, SpoolError> {
        let mut known = self.known();
        known.offset_ms = Some(offset_ms);
        let context = known.context.clone().unwrap_or_else(|| context_of(asn));
        let here = match &known.key {
            Some(key) if known.context.is_some() => Arc::clone(key),
            _ => self.key_in(&context),
        };
        known.key = Some(Arc::clone(&here));
        loop {
            let drafts = self.spool().drafts(&self.operator, DRAFTS_AT_ONCE)?;
            if drafts.is_empty() {
                return Ok(here);
            }
            for draft in drafts {
                let Ok(report) = wire::decode::<Report>(&draft.body) else {
                    self.spool().drop_draft(draft.id)?;
                    continue;
                };
                let key = match &draft.context {
                    Some(there) if *there != context => self.key_in(there),
                    _ => Arc::clone(&here),
                };
                let sign = |seq| shifted(report, seq, offset_ms).sign(&key);
                self.spool().sign_draft(&draft, &key.public(), sign)?;
            }
        }
    }

    /// Keeps what was seen, signed if it can be.
    ///
    /// # Errors
    /// When the outbox fails.
    pub fn say(&self, now: Timestamp, batch: &Batch, remarks: Remarks) -> Result<(), SpoolError> {
        let known = self.known();
        let Remarks { health, resolver } = remarks;
        let stamp = |seq, offset_ms| {
            batch.report(Stamp { seq, offset_ms, probe_core: PROBE_CORE, health, resolver })
        };
        let failure = batch.has_failure();
        if let (Some(key), Some(offset_ms)) = (&known.key, known.offset_ms) {
            let sign = |seq| -> SignedReport { stamp(seq, offset_ms).sign(key) };
            self.spool().push(&key.public(), now, failure, sign)?;
        } else {
            let body = wire::encode(&stamp(0, 0));
            let context = known.context.as_deref();
            self.spool().draft(&self.operator, context, &body, failure, now)?;
        }
        self.wake.notify_one();
        Ok(())
    }
}

/// The report in the collector's time. Its base is in whole seconds, so half a second may be lost.
fn shifted(report: Report, seq: u64, offset_ms: i64) -> Report {
    let base = i64::from(report.base_s) + (offset_ms + 500).div_euclid(1000);
    let base_s = u32::try_from(base.max(0)).unwrap_or(u32::MAX);
    Report { seq, base_s, ..report }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tocsin_proto::{
        id::TargetIndex,
        observation::{Cause, Family, LogMs},
        outcome::Outcome,
    };

    use crate::engine::outbox::{Outbox, Seen};

    const NOW: Timestamp = Timestamp::from_s(1_800_000_000);

    fn batch(at_s: u64) -> Batch {
        let mut outbox = Outbox::new(60);
        let seen = Seen {
            at: NOW.plus_ms(at_s * 1000),
            target: TargetIndex(1),
            family: Family::V4,
            cause: Cause::Scheduled,
            outcome: Outcome::Ok,
            latency: LogMs(1),
            failure: None,
        };
        assert!(outbox.push(NOW, seen).is_empty());
        outbox.flush().remove(0)
    }

    struct Agent {
        voice: Voice,
        identity: Arc<Identity>,
        operator: PublicKey,
        _dir: tempfile::TempDir,
    }

    fn agent(context: Option<&str>) -> Agent {
        let dir = tempfile::tempdir().unwrap();
        let identity = Arc::new(Identity::open(dir.path()).unwrap());
        let spool = Arc::new(Mutex::new(Spool::open(dir.path(), 1 << 20).unwrap()));
        let operator = SecretKey::from_seed(&[1; 32]).public();
        let context = context.map(str::to_owned);
        let voice = Voice::new(operator, Arc::clone(&identity), spool, context);
        Agent { voice, identity, operator, _dir: dir }
    }

    impl Agent {
        fn say(&self, at_s: u64) {
            let remarks = Remarks { health: Health::default(), resolver: ResolverClass::Unknown };
            self.voice.say(NOW, &batch(at_s), remarks).unwrap();
        }

        /// Number and base of every report signed in that network, each verified.
        fn reports(&self, context: &str) -> Vec<(u64, u64)> {
            let key = self.identity.observer_key(&self.operator, context).public();
            let unsent = self.voice.spool().unsent(&key, 0, 99).unwrap();
            let verifier = key.verifier().unwrap();
            let open = |unsent: &crate::spool::Unsent| unsent.report.open(&verifier).unwrap();
            unsent.iter().map(open).map(|r| (r.seq, r.base().since_ms(NOW) / 1000)).collect()
        }
    }

    #[test]
    fn nothing_is_signed_before_the_collector_has_told_the_time() {
        let agent = agent(Some("home"));
        agent.say(1);
        agent.say(2);
        assert!(agent.reports("home").is_empty());
        agent.voice.greeted(600_000, 64_500).unwrap();
        agent.say(3);
        assert_eq!(agent.reports("home"), [(1, 601), (2, 602), (3, 603)]);
    }

    #[test]
    fn without_a_gateway_the_collector_names_the_network() {
        let agent = agent(None);
        agent.say(1);
        let key = agent.voice.greeted(0, 64_500).unwrap();
        assert_eq!(
            key.public(),
            agent.identity.observer_key(&agent.operator, "asn 64500").public()
        );
        assert_eq!(agent.reports("asn 64500"), [(1, 1)]);
        // The session breaks: by the next one we may be elsewhere.
        agent.voice.lost();
        agent.say(2);
        assert_eq!(agent.reports("asn 64500"), [(1, 1)]);
        agent.voice.greeted(0, 64_501).unwrap();
        assert_eq!(agent.reports("asn 64501"), [(1, 2)]);
    }

    #[test]
    fn what_was_seen_in_a_network_is_signed_with_its_key() {
        let agent = agent(Some("home"));
        let mut moves = agent.voice.moves();
        moves.mark_unchanged();
        agent.say(1);
        agent.voice.moved(Some("office".to_owned()));
        assert!(moves.has_changed().unwrap());
        agent.say(2);
        agent.voice.greeted(0, 64_500).unwrap();
        assert_eq!((agent.reports("home"), agent.reports("office")), (vec![(1, 1)], vec![(1, 2)]));
        agent.voice.moved(None);
        agent.say(3);
        assert!(agent.reports("asn 64500").is_empty(), "a draft until a collector names it");
        agent.voice.greeted(0, 64_500).unwrap();
        assert_eq!(agent.reports("asn 64500"), [(1, 3)]);
    }
}
