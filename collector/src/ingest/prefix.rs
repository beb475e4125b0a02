//! Prefixes without addresses: a keyed hash of the /24 or /48 under a random key of the day. The
//! key is kept apart from the log and goes when its day ends; what stands in the log then says
//! nothing of any address.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::PathBuf,
    sync::{Arc, Mutex},
};

use tocsin_proto::{sign::sha256, time::Timestamp};

use crate::{
    engine::locate::{Prefix, prefix_of},
    keys::{KeysError, keep_secret},
};

/// Keys that may come for the first time from one prefix in a day: a household's or an office's,
/// over every network that their machines move between.
const NEW_KEYS_A_DAY_MAX: u32 = 256;

/// Gives each prefix its slot of the day.
#[derive(Debug)]
pub struct Slots {
    dir: PathBuf,
    today: Mutex<Today>,
}

struct Today {
    day: u64,
    key: [u8; 32],
    /// Keys that came for the first time today, by slot.
    new_keys: BTreeMap<u64, u32>,
}

impl std::fmt::Debug for Today {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "key of day {}", self.day)
    }
}

fn open(dir: &std::path::Path, now: Timestamp) -> Result<Today, KeysError> {
    let day = now.as_ms() / 86_400_000;
    let today = format!("prefix-{day}.key");
    let failed = |path: PathBuf, doing| move |source| KeysError::File { path, doing, source };
    // A past day's key is of no use to anybody but to find out who was there.
    let entries = std::fs::read_dir(dir).map_err(failed(dir.to_owned(), "listed"))?;
    for entry in entries.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("prefix-") && name.ends_with(".key") && name != today {
            std::fs::remove_file(entry.path()).map_err(failed(entry.path(), "removed"))?;
        }
    }
    Ok(Today { day, key: keep_secret(&dir.join(today))?, new_keys: BTreeMap::new() })
}

impl Slots {
    /// Reads or makes today's key.
    ///
    /// # Errors
    /// When the key cannot be read or made.
    pub fn open(dir: PathBuf, now: Timestamp) -> Result<Self, KeysError> {
        let today = Mutex::new(open(&dir, now)?);
        Ok(Self { dir, today })
    }

    /// The slot of an address's prefix today.
    #[must_use]
    pub fn slot(&self, now: Timestamp, address: IpAddr) -> u64 {
        self.of(&mut self.lock(), now, address)
    }

    /// Lets the day change, also where nobody reports.
    pub fn turn(&self, now: Timestamp) {
        let mut today = self.lock();
        self.turn_to(&mut today, now);
    }

    /// Whether one more key that nobody knows may come from there today. Keys are free; what is
    /// kept of each is not.
    #[must_use]
    pub fn admit_new_key(&self, now: Timestamp, address: IpAddr) -> bool {
        let mut today = self.lock();
        let slot = self.of(&mut today, now, address);
        let count = today.new_keys.entry(slot).or_default();
        *count = count.saturating_add(1);
        *count <= NEW_KEYS_A_DAY_MAX
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Today> {
        self.today.lock().expect("no thread panics while it holds the key")
    }

    fn turn_to(&self, today: &mut Today, now: Timestamp) {
        if now.as_ms() / 86_400_000 > today.day {
            match open(&self.dir, now) {
                Ok(next) => *today = next,
                Err(error) => tracing::error!(%error, "the key of the day could not be changed"),
            }
        }
    }

    fn of(&self, today: &mut Today, now: Timestamp, address: IpAddr) -> u64 {
        self.turn_to(today, now);
        let hash = sha256(&[b"tocsin/prefix/v1\0", &today.key, prefix_of(address).as_bytes()]);
        let (slot, _) = hash.split_at(8);
        u64::from_be_bytes(slot.try_into().expect("eight bytes were split off"))
    }
}

/// Sessions at once, by prefix.
#[derive(Debug, Clone)]
pub struct PrefixLimit {
    open: Arc<Mutex<BTreeMap<Prefix, usize>>>,
    max: usize,
}

/// A session's place; given back when it is dropped.
#[derive(Debug)]
pub struct Place {
    open: Arc<Mutex<BTreeMap<Prefix, usize>>>,
    prefix: Prefix,
}

impl PrefixLimit {
    /// At most so many from one prefix.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self { open: Arc::default(), max }
    }

    /// A place for one more session from there, if there is one.
    #[must_use]
    pub fn take(&self, address: IpAddr) -> Option<Place> {
        let prefix = prefix_of(address);
        let mut open = self.open.lock().expect("no thread panics while it counts");
        let count = open.entry(prefix).or_default();
        if *count >= self.max {
            return None;
        }
        *count += 1;
        Some(Place { open: Arc::clone(&self.open), prefix })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.open.lock().expect("no thread panics while it counts");
        if let Some(count) = open.get_mut(&self.prefix) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.prefix);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_has_one_slot_a_day_and_another_tomorrow() {
        let dir = tempfile::tempdir().unwrap();
        let now = Timestamp::from_s(1_800_000_000);
        let tomorrow = now.plus_ms(86_400_000);
        let open = || Slots::open(dir.path().to_owned(), now).unwrap();
        let slots = open();
        let slot = |slots: &Slots, now, ip: &str| slots.slot(now, ip.parse().unwrap());
        let here = slot(&slots, now, "192.0.2.1");
        assert_eq!(slot(&slots, now, "192.0.2.200"), here);
        assert_eq!(slot(&slots, now, "::ffff:192.0.2.7"), here);
        assert_ne!(slot(&slots, now, "192.0.3.1"), here);
        assert_eq!(slot(&open(), now, "192.0.2.1"), here, "the same after a restart");
        assert_ne!(slot(&slots, tomorrow, "192.0.2.1"), here);
        let left = std::fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(left, 1, "yesterday's key is gone");
        let months = tomorrow.plus_ms(100 * 86_400_000);
        slots.turn(months);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "however long ago it was");
    }

    #[test]
    fn new_keys_are_bounded_by_prefix_and_day() {
        let dir = tempfile::tempdir().unwrap();
        let now = Timestamp::from_s(1_800_000_000);
        let slots = Slots::open(dir.path().to_owned(), now).unwrap();
        let admit = |now, ip: &str| slots.admit_new_key(now, ip.parse().unwrap());
        for n in 0..NEW_KEYS_A_DAY_MAX {
            assert!(admit(now, &format!("192.0.2.{}", n % 250)));
        }
        assert!(!admit(now, "192.0.2.1"));
        assert!(admit(now, "192.0.3.1"));
        assert!(admit(now.plus_ms(86_400_000), "192.0.2.1"));
    }

    #[test]
    fn places_are_given_back() {
        let limit = PrefixLimit::new(2);
        let ip = |ip: &str| ip.parse().unwrap();
        let first = limit.take(ip("192.0.2.1")).unwrap();
        let _second = limit.take(ip("192.0.2.2")).unwrap();
        assert!(limit.take(ip("192.0.2.3")).is_none());
        assert!(limit.take(ip("192.0.3.3")).is_some());
        drop(first);
        assert!(limit.take(ip("192.0.2.3")).is_some());
    }
}
