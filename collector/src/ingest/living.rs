//! One session for each observer: a new one ends the old one.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tocsin_proto::id::ObserverId;
use tokio_util::sync::CancellationToken;

type Sessions = BTreeMap<ObserverId, (u64, CancellationToken)>;

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
    pub fn begin(&self, observer: ObserverId) -> Here {
        let replaced = CancellationToken::new();
        let mut sessions = self.lock();
        let (next, sessions) = &mut *sessions;
        *next += 1;
        let number = *next;
        if let Some((_, before)) = sessions.insert(observer, (number, replaced.clone())) {
            before.cancel();
        }
        Here { living: self.clone(), observer, number, replaced }
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
        if sessions.1.get(&self.observer).is_some_and(|(number, _)| *number == self.number) {
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
        let first = living.begin(observer(1));
        let other = living.begin(observer(2));
        let second = living.begin(observer(1));
        assert!(first.replaced.is_cancelled());
        assert!(!second.replaced.is_cancelled() && !other.replaced.is_cancelled());
        drop(first);
        assert!(living.begin(observer(1)).number > second.number);
        assert!(second.replaced.is_cancelled(), "the first one's end took nobody's place");
    }
}
