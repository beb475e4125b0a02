//! The agent's one secret, on disk, and the observer keys that come from it.
//!
//! `seed` in the state directory: one line of 64 hexadecimal digits, a space, and the first eight
//! digits of their SHA-256. It is made once, by the first start, and never made anew over a
//! damaged one: that would silently make another observer of this agent.

use std::{
    fs, io,
    io::Write,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use tocsin_proto::sign::{MasterSeed, PublicKey, SecretKey, sha256};
use zeroize::Zeroizing;

/// Name of the seed's file in the state directory.
pub const SEED_FILE: &str = "seed";

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The state directory cannot be made or looked at.
    #[error("cannot use the state directory {path}; set state_dir to one that this user may write")]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The seed cannot be read or written.
    #[error("cannot read or write the seed {path}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Others may read it.
    #[error(
        "{path} has mode {mode:04o}, but only its owner may read it: run `chmod {want:o} {path}`, \
         and move the whole state directory away to start afresh if others could have read it"
    )]
    Mode {
        /// Which.
        path: PathBuf,
        /// What it is.
        mode: u32,
        /// What it must be.
        want: u32,
    },
    /// It is not what was written.
    #[error(
        "the seed {path} is damaged (its length or checksum is wrong): restore it from a backup, or \
         move the whole state directory away to start as a new observer"
    )]
    Damaged {
        /// Which.
        path: PathBuf,
    },
    /// It is gone while the rest is there.
    #[error(
        "{path} is missing although this agent has run here before: restore it from a backup, or \
         move the whole state directory away to start as a new observer"
    )]
    Missing {
        /// Which.
        path: PathBuf,
    },
    /// The system gives no randomness.
    #[error("the system gives no random bytes")]
    Random(#[source] getrandom::Error),
}

/// The seed of this agent.
#[derive(Debug)]
pub struct Identity {
    seed: MasterSeed,
    path: PathBuf,
}

impl Identity {
    /// Reads the seed; makes one at the first start.
    ///
    /// # Errors
    /// When the directory or the file cannot be used, when others may read the seed, when it is
    /// damaged, or when it is gone while the outbox is there.
    pub fn open(state_dir: &Path) -> Result<Self, IdentityError> {
        make_directory(state_dir)?;
        let path = state_dir.join(SEED_FILE);
        match fs::metadata(&path) {
            Ok(meta) => {
                let mode = meta.permissions().mode() & 0o777;
                if mode & 0o077 != 0 {
                    return Err(IdentityError::Mode { path, mode, want: 0o600 });
                }
                let file = |source| IdentityError::File { path: path.clone(), source };
                let text = Zeroizing::new(fs::read(&path).map_err(file)?);
                let seed =
                    parse(&text).ok_or_else(|| IdentityError::Damaged { path: path.clone() })?;
                Ok(Self { seed, path })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if state_dir.join(crate::spool::OUTBOX_FILE).exists() {
                    return Err(IdentityError::Missing { path });
                }
                let mut bytes = [0; 32];
                getrandom::fill(&mut bytes).map_err(IdentityError::Random)?;
                let seed = MasterSeed::from_bytes(bytes);
                write(state_dir, &path, &seed, false)
                    .map_err(|source| IdentityError::File { path: path.clone(), source })?;
                Ok(Self { seed, path })
            }
            Err(source) => Err(IdentityError::File { path, source }),
        }
    }

    /// Makes another seed in the place of this one, which is gone then.
    ///
    /// # Errors
    /// When the system gives no randomness, or the file cannot be written: then the old one stays.
    pub fn renew(self, state_dir: &Path) -> Result<Self, IdentityError> {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).map_err(IdentityError::Random)?;
        let (seed, path) = (MasterSeed::from_bytes(bytes), self.path);
        write(state_dir, &path, &seed, true)
            .map_err(|source| IdentityError::File { path: path.clone(), source })?;
        Ok(Self { seed, path })
    }

    /// Where the seed is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The observer key for an operator, in the network that `context` names.
    #[must_use]
    pub fn observer_key(&self, operator: &PublicKey, context: &str) -> SecretKey {
        self.seed.observer_key(operator, &self.seed.context(context.as_bytes()))
    }

    /// What makes this agent's schedule its own; tells nothing of any key.
    #[must_use]
    pub fn plan_seed(&self) -> [u8; 32] {
        sha256(&[b"tocsin/agent/plan/v1\0", self.seed.as_bytes()])
    }
}

fn make_directory(path: &Path) -> Result<(), IdentityError> {
    let error = |source| IdentityError::Directory { path: path.to_owned(), source };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(error)?;
    let mode = fs::metadata(path).map_err(error)?.permissions().mode() & 0o777;
    // Others may not write here; a service manager may have made it readable.
    if mode & 0o022 != 0 {
        return Err(IdentityError::Mode { path: path.to_owned(), mode, want: 0o700 });
    }
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        for digit in [byte >> 4, byte & 15] {
            text.push(char::from_digit(u32::from(digit), 16).unwrap_or('0'));
        }
        text
    })
}

fn text_of(seed: &[u8; 32]) -> Zeroizing<String> {
    let check = hex(sha256(&[b"tocsin/seed/v1\0", seed]).get(..4).unwrap_or_default());
    Zeroizing::new(format!("{} {check}\n", *Zeroizing::new(hex(seed))))
}

fn parse(text: &[u8]) -> Option<MasterSeed> {
    let digits = text.get(..64)?;
    let mut seed = Zeroizing::new([0; 32]);
    for (byte, pair) in seed.iter_mut().zip(digits.chunks_exact(2)) {
        let pair = std::str::from_utf8(pair).ok()?;
        *byte = u8::from_str_radix(pair, 16).ok()?;
    }
    (text == text_of(&seed).as_bytes()).then(|| MasterSeed::from_bytes(*seed))
}

/// Written aside, flushed, and moved into place without replacing anything, so that a crash leaves
/// no half seed and a second start at the same moment no second one.
/// A seed that is there is only replaced where that is meant.
fn write(state_dir: &Path, path: &Path, seed: &MasterSeed, replaces: bool) -> io::Result<()> {
    let aside = state_dir.join(format!("{SEED_FILE}.new.{}", std::process::id()));
    let mut file =
        fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&aside)?;
    file.write_all(text_of(seed.as_bytes()).as_bytes())?;
    file.sync_all()?;
    if replaces {
        fs::rename(&aside, path)?;
    } else {
        let linked = fs::hard_link(&aside, path);
        fs::remove_file(&aside)?;
        linked?;
    }
    fs::File::open(state_dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_once_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        let operator = SecretKey::from_seed(&[1; 32]).public();
        let key =
            |context| Identity::open(&state).unwrap().observer_key(&operator, context).public();
        assert_eq!(key("home"), key("home"));
        assert_ne!(key("home"), key("office"));
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&state), mode(&state.join(SEED_FILE))), (0o700, 0o600));
    }

    #[test]
    fn never_made_anew_over_a_bad_one() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        let path = Identity::open(&state).unwrap().path().to_owned();
        let good = fs::read(&path).unwrap();
        let open = || Identity::open(&state).map(|_| ());
        for bad in [&good[..10], &good[..good.len() - 1], &[&good[..], b"x"].concat(), b""] {
            fs::write(&path, bad).unwrap();
            assert!(matches!(open(), Err(IdentityError::Damaged { .. })));
        }
        let mut flipped = good.clone();
        flipped[3] = if flipped[3] == b'0' { b'1' } else { b'0' };
        fs::write(&path, &flipped).unwrap();
        assert!(matches!(open(), Err(IdentityError::Damaged { .. })));
        fs::write(&path, &good).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(open(), Err(IdentityError::Mode { mode: 0o644, .. })));
        fs::remove_file(&path).unwrap();
        fs::write(state.join(crate::spool::OUTBOX_FILE), b"").unwrap();
        assert!(matches!(open(), Err(IdentityError::Missing { .. })));
    }
}
