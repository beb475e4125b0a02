//! Who this agent is to one operator, and what it has to say to it.
//!
//! The observer key depends on the network that something was seen in, and a report's times are
//! the collector's. Until the first session of a run is ready reports are kept as drafts: before
//! it nobody has told the time, nor which number is the next, nor, where no gateway names it,
//! which network this is. A draft says where it was made: in a network that has a name, or on a
//! *visit*, which is a run of the program between two moves. Only the session that is made on the
//! same visit can name that network; when the visit is over without one, its drafts are dropped.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tocsin_proto::{
    report::{Health, Report, ResolverClass, SignedReport},
    sign::{PublicKey, SecretKey},
    time::Timestamp,
    wire,
};
use tokio::sync::{Notify, watch};

use crate::{
    engine::outbox::{Batch, Stamp},
    identity::Identity,
    network::Network,
    probe::profile::Profile,
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
    /// The network that the last session on this visit named.
    asn: Option<u32>,
    /// The collector's clock minus ours, milliseconds.
    offset_ms: Option<i64>,
    /// With which key reports are signed; `None` until a session is ready.
    key: Option<Arc<SecretKey>>,
}

/// This agent, as one operator hears it.
#[derive(Debug)]
pub struct Voice {
    operator: PublicKey,
    identity: Arc<Identity>,
    spool: SharedSpool,
    named: Option<String>,
    profile: Profile,
    /// Tells this run of the program from others.
    run: u64,
    known: Mutex<Known>,
    news: Notify,
    wake: Notify,
    moves: watch::Sender<u64>,
}

fn context_of(asn: u32) -> String {
    format!("asn {asn}")
}

/// First character of a draft's place that is a visit, and no network's name.
const VISIT: char = '?';

impl Voice {
    /// To an operator. `named` is the network's name by the user's word; else it is looked for.
    #[must_use]
    pub fn new(
        operator: PublicKey,
        identity: Arc<Identity>,
        spool: SharedSpool,
        named: Option<String>,
        profile: Profile,
    ) -> Self {
        let context = Network::now(named.as_deref()).context;
        Self {
            operator,
            identity,
            spool,
            named,
            profile,
            // Only that two runs are told apart depends on it.
            run: getrandom::u64().unwrap_or(0),
            known: Mutex::new(Known { context, ..Known::default() }),
            wake: Notify::new(),
            news: Notify::new(),
            moves: watch::channel(0).0,
        }
    }

    /// The outbox. Every call on it is one transaction: a panic between two leaves it whole.
    pub fn spool(&self) -> MutexGuard<'_, Spool> {
        self.spool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // Only whole values are written, so a panic elsewhere leaves them good.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The machine is in another network. What was said before is signed or drafted already; what
    /// is said from now on is another observer's.
    pub fn moved(&self, context: Option<String>) {
        let mut known = self.known();
        known.key = None;
        known.asn = None;
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

    /// Where something is seen now, as drafts tell it.
    fn place(&self, known: &Known) -> String {
        known.context.clone().unwrap_or_else(|| {
            let (run, moves) = (self.run, *self.moves.borrow());
            format!("{VISIT}{run:x} {moves} {}", known.asn.map_or(String::new(), |n| n.to_string()))
        })
    }

    /// Where something is seen now, as drafts tell it: for what waits for its report.
    #[must_use]
    pub fn here(&self) -> String {
        self.place(&self.known())
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

    /// Rings when something fails here: what a collector says of the world is of interest then.
    #[must_use]
    pub const fn news(&self) -> &Notify {
        &self.news
    }

    /// Rings when there is something to send.
    #[must_use]
    pub const fn wake(&self) -> &Notify {
        &self.wake
    }

    fn key_in(&self, context: &str) -> Arc<SecretKey> {
        Arc::new(self.identity.observer_key(&self.operator, context))
    }

    /// The collector has said in which network it sees us. The key to prove is given.
    #[must_use]
    pub fn greeted(&self, asn: u32) -> Arc<SecretKey> {
        let mut known = self.known();
        if known.context.is_none() {
            // The gateway may have answered since the last look: speaking through it makes it.
            known.context = Network::now(self.named.as_deref()).context;
        }
        let context = known.context.clone().unwrap_or_else(|| context_of(asn));
        self.key_in(&context)
    }

    /// The session is ready: the time is known, and the spool knows which numbers are taken.
    /// Drafts become reports; from here on reports are signed as they are made. `false`, and nothing is
    /// signed, where the machine has come into another network since the key was proved.
    ///
    /// # Errors
    /// When the outbox fails.
    pub fn ready(
        &self,
        key: &Arc<SecretKey>,
        offset_ms: i64,
        asn: u32,
    ) -> Result<bool, SpoolError> {
        let mut known = self.known();
        // A visit's drafts are of this network if nothing says that they are of another.
        let visits = match known.context {
            Some(_) => Vec::new(),
            None => {
                let first = self.place(&Known { asn: None, ..Known::default() });
                vec![first, self.place(&Known { asn: Some(asn), ..Known::default() })]
            }
        };
        let visit_now = format!("{VISIT}{:x} {} ", self.run, *self.moves.borrow());
        let context = known.context.clone().unwrap_or_else(|| context_of(asn));
        if self.key_in(&context).public() != key.public() {
            return Ok(false);
        }
        loop {
            let drafts = self.spool().drafts(&self.operator, DRAFTS_AT_ONCE)?;
            if drafts.is_empty() {
                break;
            }
            for draft in drafts {
                let there = &draft.context;
                let key = match there.starts_with(VISIT) {
                    false if *there == context => Some(Arc::clone(key)),
                    false => Some(self.key_in(there)),
                    // Drafted before the gateway was seen, on this visit.
                    true if known.context.is_some() && there.starts_with(&visit_now) => {
                        Some(Arc::clone(key))
                    }
                    true => visits.contains(there).then(|| Arc::clone(key)),
                };
                let report = wire::decode::<Report>(&draft.body).ok();
                match key.zip(report) {
                    Some((key, report)) => {
                        let sign = |seq| shifted(report, seq, offset_ms).sign(&key);
                        self.spool().sign_draft(&draft, &key.public(), sign)?;
                    }
                    None => self.spool().drop_draft(draft.id)?,
                }
            }
        }
        self.spool().saw_place(&self.operator, &context)?;
        known.asn = Some(asn);
        known.offset_ms = Some(offset_ms);
        known.key = Some(Arc::clone(key));
        Ok(true)
    }

    /// The collector's clock minus ours, milliseconds; `None` before the first session.
    #[must_use]
    pub fn offset_ms(&self) -> Option<i64> {
        self.known().offset_ms
    }

    /// Signs with the key of the session, for the collector's clock; nothing where there is no session.
    pub fn sign<T>(
        &self,
        now: Timestamp,
        sign: impl FnOnce(Timestamp, &SecretKey) -> T,
    ) -> Option<T> {
        let known = self.known();
        let theirs = now.as_ms().saturating_add_signed(known.offset_ms?);
        Some(sign(Timestamp::from_ms(theirs), known.key.as_ref()?))
    }

    /// How what it says was probed.
    #[must_use]
    pub const fn profile(&self) -> Profile {
        self.profile
    }

    /// Keeps what was seen, signed if it can be.
    ///
    /// # Errors
    /// When the outbox fails.
    pub fn say(&self, now: Timestamp, batch: &Batch, remarks: Remarks) -> Result<(), SpoolError> {
        let known = self.known();
        let Remarks { health, resolver } = remarks;
        let stamp = |seq, offset_ms| {
            batch.report(Stamp {
                seq,
                offset_ms,
                probe_core: self.profile.probe_core(),
                health,
                resolver,
            })
        };
        let failure = batch.has_failure();
        if let (Some(key), Some(offset_ms)) = (&known.key, known.offset_ms) {
            let sign = |seq| -> SignedReport { stamp(seq, offset_ms).sign(key) };
            self.spool().push(&key.public(), now, failure, sign)?;
        } else {
            let body = wire::encode(&stamp(0, 0));
            let place = self.place(&known);
            self.spool().draft(&self.operator, &place, &body, failure, now)?;
        }
        self.wake.notify_one();
        Ok(())
    }
}

/// The report in the collector's time. Its base is in whole seconds, so half a second may be lost.
fn shifted(report: Report, seq: u64, offset_ms: i64) -> Report {
    let base = i64::from(report.base_s) + offset_ms.saturating_add(500).div_euclid(1000);
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

    /// An agent in a network of this name, or in one that only a collector can name.
    fn agent(context: Option<&str>) -> Agent {
        let dir = tempfile::tempdir().unwrap();
        let identity = Arc::new(Identity::open(dir.path()).unwrap());
        let spool = Arc::new(Mutex::new(Spool::open(dir.path(), 1 << 20).unwrap()));
        let operator = SecretKey::from_seed(&[1; 32]).public();
        let voice = Voice::new(operator, Arc::clone(&identity), spool, None, Profile::Modern);
        voice.moved(context.map(str::to_owned));
        Agent { voice, identity, operator, _dir: dir }
    }

    impl Agent {
        fn say(&self, at_s: u64) {
            let remarks = Remarks { health: Health::default(), resolver: ResolverClass::Unknown };
            self.voice.say(NOW, &batch(at_s), remarks).unwrap();
        }

        /// A session as the uplink makes one, in a network that is not to be seen from here.
        fn session(&self, offset_ms: i64, asn: u32) {
            let context = self.voice.context().unwrap_or_else(|| context_of(asn));
            let key = self.voice.key_in(&context);
            self.voice.ready(&key, offset_ms, asn).unwrap();
        }

        /// Number and base of every report signed in that network, each verified.
        fn reports(&self, context: &str) -> Vec<(u64, u64)> {
            let key = self.identity.observer_key(&self.operator, context).public();
            let unsent = self.voice.spool().unsent(&key, 0, 99).unwrap();
            let verifier = key.verifier().unwrap();
            let open = |unsent: &crate::spool::Unsent| unsent.report.open(&verifier).unwrap();
            unsent.iter().map(open).map(|r| (r.seq, r.base().since_ms(NOW) / 1000)).collect()
        }

        fn drafts(&self) -> usize {
            self.voice.spool().drafts(&self.operator, 99).unwrap().len()
        }
    }

    #[test]
    fn nothing_is_signed_before_a_session_is_ready() {
        let agent = agent(Some("home"));
        agent.say(1);
        agent.say(2);
        assert!(agent.reports("home").is_empty());
        agent.session(600_000, 64_500);
        agent.say(3);
        assert_eq!(agent.reports("home"), [(1, 601), (2, 602), (3, 603)]);
        // A network with a name is still itself when the session breaks.
        agent.voice.lost();
        agent.say(4);
        assert_eq!(agent.reports("home").len(), 4);
    }

    #[test]
    fn without_a_gateway_the_collector_names_the_network() {
        let agent = agent(None);
        agent.say(1);
        agent.session(0, 64_500);
        assert_eq!(agent.reports("asn 64500"), [(1, 1)]);
        // The session breaks. If the next one is seen from the same network, we have not moved.
        agent.voice.lost();
        agent.say(2);
        assert_eq!(agent.drafts(), 1);
        agent.session(0, 64_500);
        assert_eq!(agent.reports("asn 64500"), [(1, 1), (2, 2)]);
        // If it is not, nobody can tell where that was.
        agent.voice.lost();
        agent.say(3);
        agent.session(0, 64_501);
        assert_eq!((agent.reports("asn 64501"), agent.drafts()), (Vec::new(), 0));
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
        agent.session(0, 64_500);
        assert_eq!((agent.reports("home"), agent.reports("office")), (vec![(1, 1)], vec![(1, 2)]));
        // On a train nobody names the network; at home again it is not to be told any more.
        agent.voice.moved(None);
        agent.say(3);
        agent.voice.moved(Some("home".to_owned()));
        agent.session(0, 64_500);
        assert_eq!((agent.reports("home"), agent.drafts()), (vec![(1, 1)], 0));
    }
}
