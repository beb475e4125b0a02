//! One session for each observer: a new one ends the old one. Asks find their observer here.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tocsin_proto::{id::ObserverId, message::AskBack};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Asks that wait for a session to send them.
const ASKS_MAX: usize = 4;

#[derive(Debug)]
struct Session {
    number: u64,
    replaced: CancellationToken,
    asks: mpsc::Sender<AskBack>,
}

type Sessions = BTreeMap<ObserverId, Session>;

/// The observers that have a session.
#[derive(Debug, Clone, Default)]
pub struct Living {
    sessions: Arc<Mutex<(u64, Sessions)>>,
}

/// A session's place among the living; given back when it is dropped.
#[derive(Debug)]
pub struct Here {
    living: Living,
    observer: ObserverId,
    number: u64,
    replaced: CancellationToken,
}

impl Living {
    fn lock(&self) -> MutexGuard<'_, (u64, Sessions)> {
        // Every change is one insertion or removal: a panic leaves the map whole.
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A session begins; one that the observer had is told that it was replaced.
    #[must_use]
    pub fn begin(&self, observer: ObserverId) -> (Here, mpsc::Receiver<AskBack>) {
        let replaced = CancellationToken::new();
        let (asks, asked) = mpsc::channel(ASKS_MAX);
        let mut sessions = self.lock();
        let (next, sessions) = &mut *sessions;
        *next += 1;
        let number = *next;
        let session = Session { number, replaced: replaced.clone(), asks };
        if let Some(before) = sessions.insert(observer, session) {
            before.replaced.cancel();
        }
        (Here { living: self.clone(), observer, number, replaced }, asked)
    }

    /// Asks an observer. False when it has no session, or one that does not take what it is sent:
    /// then it will not answer, which is no vote.
    #[must_use]
    pub fn ask(&self, observer: &ObserverId, ask: AskBack) -> bool {
        self.lock().1.get(observer).is_some_and(|session| session.asks.try_send(ask).is_ok())
    }
}

impl Here {
    /// Waits until the observer has another session.
    pub async fn replaced(&self) {
        self.replaced.cancelled().await;
    }
}

impl Drop for Here {
    fn drop(&mut self) {
        let mut sessions = self.living.lock();
        if sessions.1.get(&self.observer).is_some_and(|session| session.number == self.number) {
            sessions.1.remove(&self.observer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tocsin_proto::sign::SecretKey;

    #[test]
    fn the_newest_session_lives() {
        let living = Living::default();
        let observer = |n| SecretKey::from_seed(&[n; 32]).public();
        let (first, _) = living.begin(observer(1));
        let (other, mut asked) = living.begin(observer(2));
        let (second, _) = living.begin(observer(1));
        assert!(first.replaced.is_cancelled());
        assert!(!second.replaced.is_cancelled() && !other.replaced.is_cancelled());
        let ask = |nonce| AskBack {
            nonce,
            targets: tocsin_proto::bounded::List::default(),
            layer: 1,
            standing: false,
        };
        assert!(living.ask(&observer(2), ask(7)) && !living.ask(&observer(3), ask(7)));
        assert_eq!(asked.try_recv().map(|ask| ask.nonce), Ok(7));
        drop(first);
        assert!(living.begin(observer(1)).0.number > second.number);
        assert!(second.replaced.is_cancelled(), "the first one's end took nobody's place");
    }
}
