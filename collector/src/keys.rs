//! The collector's keys and what the operator has said of them: files of mode 0600 in the data
//! folder. Made by `init`, never silently made again.

use std::{
    fs,
    io::Write,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use tocsin_proto::{
    delegation::{Delegation, DelegationError, KeyRole, SignedDelegation, delegated},
    limits::DELEGATION_DAYS_MAX,
    sign::{PublicKey, SecretKey},
    time::Timestamp,
    wire,
};

const OPERATOR: &str = "operator.key";
const OPERATOR_PUBLIC: &str = "operator.pub";
const DELEGATIONS: &str = "delegations.bin";

/// What a key is called on disk.
const fn file(role: KeyRole) -> &'static str {
    match role {
        KeyRole::Transport => "transport.key",
        KeyRole::Feed => "feed.key",
        KeyRole::Checkpoint => "checkpoint.key",
    }
}

const ROLES: [KeyRole; 3] = [KeyRole::Transport, KeyRole::Feed, KeyRole::Checkpoint];

/// Keys and delegations, checked against each other.
#[derive(Debug)]
pub struct Keys {
    /// The operator's public key: the one that agents pin.
    pub operator: PublicKey,
    /// Key of the TLS certificate.
    pub transport: SecretKey,
    /// Key of the public feed.
    pub feed: SecretKey,
    /// What the operator has said of them, as it goes out in every greeting.
    pub delegations: Vec<SignedDelegation>,
}

/// What can be wrong with the keys.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// There are none yet.
    #[error("{0} holds no keys yet: run `tocsin-collector init --data-dir {0}` first")]
    None(PathBuf),
    /// There are some already.
    #[error("{0} holds keys already; agents pin them, so they are not made again")]
    Already(PathBuf),
    /// A file could not be read or written.
    #[error("{path} cannot be {doing}")]
    File {
        /// Which file.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// A secret that others can read.
    #[error("{path} has mode {mode:03o}, so others can read this secret: run `chmod 600 {path}`")]
    Mode {
        /// Which file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// A file is not what was written.
    #[error("{0} is damaged; restore it from your copy")]
    Damaged(PathBuf),
    /// A delegation is refused.
    #[error("the delegations are refused; renew them with `tocsin-collector delegate`")]
    Delegation(#[source] DelegationError),
    /// The system gave no randomness.
    #[error("the system gave no randomness")]
    Random(#[source] getrandom::Error),
}

fn fresh() -> Result<SecretKey, KeysError> {
    let mut seed = zeroize::Zeroizing::new([0; 32]);
    getrandom::fill(seed.as_mut_slice()).map_err(KeysError::Random)?;
    Ok(SecretKey::from_seed(&seed))
}

fn io(path: &Path, doing: &'static str) -> impl Fn(std::io::Error) -> KeysError {
    move |source| KeysError::File { path: path.to_owned(), doing, source }
}

fn write_new(path: &Path, bytes: &[u8]) -> Result<(), KeysError> {
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(io(path, "made"))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(io(path, "written"))
}

fn write_secret(path: &Path, key: &SecretKey) -> Result<(), KeysError> {
    let seed = key.seed();
    let text = zeroize::Zeroizing::new(data_encoding::HEXLOWER.encode(seed.as_slice()) + "\n");
    write_new(path, text.as_bytes())
}

fn read_secret(path: &Path) -> Result<SecretKey, KeysError> {
    let mode = fs::metadata(path).map_err(io(path, "read"))?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(KeysError::Mode { path: path.to_owned(), mode });
    }
    let text = zeroize::Zeroizing::new(fs::read_to_string(path).map_err(io(path, "read"))?);
    let damaged = || KeysError::Damaged(path.to_owned());
    let bytes = data_encoding::HEXLOWER.decode(text.trim().as_bytes()).map_err(|_| damaged())?;
    let seed: [u8; 32] = bytes.try_into().map_err(|_| damaged())?;
    Ok(SecretKey::from_seed(&seed))
}

impl Keys {
    /// Makes the keys of a new collector. The operator key is left in the folder too, to be moved
    /// away by hand.
    ///
    /// # Errors
    /// When there are keys already, or the files cannot be written.
    pub fn init(dir: &Path, now: Timestamp) -> Result<PublicKey, KeysError> {
        if dir.join(OPERATOR_PUBLIC).exists() {
            return Err(KeysError::Already(dir.to_owned()));
        }
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(io(dir, "made"))?;
        let operator = fresh()?;
        write_secret(&dir.join(OPERATOR), &operator)?;
        for role in ROLES {
            write_secret(&dir.join(file(role)), &fresh()?)?;
        }
        Self::delegate(dir, &operator, now)?;
        let public = operator.public();
        write_new(&dir.join(OPERATOR_PUBLIC), format!("{public}\n").as_bytes())?;
        Ok(public)
    }

    /// Signs new delegations for the keys in the folder, good for 400 days.
    ///
    /// # Errors
    /// When the keys cannot be read or the delegations not be written.
    pub fn delegate(dir: &Path, operator: &SecretKey, now: Timestamp) -> Result<(), KeysError> {
        // A minute short, so that an agent whose clock is behind takes them too.
        let not_after = now.plus_ms(DELEGATION_DAYS_MAX * 86_400_000 - 60_000);
        let mut signed = Vec::new();
        for role in ROLES {
            let key = read_secret(&dir.join(file(role)))?.public();
            let delegation = Delegation { role, key, serial: now.as_s(), not_after };
            signed.push(delegation.sign(operator));
        }
        let path = dir.join(DELEGATIONS);
        let temporary = dir.join("delegations.tmp");
        let bytes = wire::encode(&signed);
        fs::write(&temporary, bytes).map_err(io(&temporary, "written"))?;
        fs::rename(&temporary, &path).map_err(io(&path, "replaced"))
    }

    /// The operator key from a file, for `delegate`.
    ///
    /// # Errors
    /// When the file is no secret of mode 0600.
    pub fn operator(path: &Path) -> Result<SecretKey, KeysError> {
        read_secret(path)
    }

    /// Reads the keys of a collector and checks that the operator stands behind them.
    ///
    /// # Errors
    /// When there are none, or one is damaged, readable by others, or not delegated.
    pub fn read(dir: &Path, now: Timestamp) -> Result<Self, KeysError> {
        let path = dir.join(OPERATOR_PUBLIC);
        if !path.exists() {
            return Err(KeysError::None(dir.to_owned()));
        }
        let text = fs::read_to_string(&path).map_err(io(&path, "read"))?;
        let operator: PublicKey =
            text.trim().parse().map_err(|_| KeysError::Damaged(path.clone()))?;
        let path = dir.join(DELEGATIONS);
        let bytes = fs::read(&path).map_err(io(&path, "read"))?;
        let delegations: Vec<SignedDelegation> =
            wire::decode(&bytes).map_err(|_| KeysError::Damaged(path.clone()))?;
        let secret = |role| {
            let key = read_secret(&dir.join(file(role)))?;
            let named =
                delegated(&delegations, role, &operator, 0, now).map_err(KeysError::Delegation)?;
            if named.key != key.public() {
                return Err(KeysError::Delegation(DelegationError::OtherKey {
                    delegated: named.key,
                    used: key.public(),
                }));
            }
            Ok(key)
        };
        let transport = secret(KeyRole::Transport)?;
        let feed = secret(KeyRole::Feed)?;
        Ok(Self { operator, transport, feed, delegations })
    }

    /// Whether the operator key still lies beside the others.
    #[must_use]
    pub fn operator_is_here(dir: &Path) -> bool {
        dir.join(OPERATOR).exists()
    }
}

/// A secret that is kept on disk and may be made anew when it is lost: tokens, reset keys, the key
/// of the day for prefixes.
///
/// # Errors
/// When it cannot be read or made.
pub fn keep_secret(path: &Path) -> Result<[u8; 32], KeysError> {
    if !path.exists() {
        write_secret(path, &fresh()?)?;
    }
    Ok(*read_secret(path)?.seed())
}

/// Reads a secret, where there is one.
///
/// # Errors
/// When it is there and cannot be read, or others may read it.
pub fn kept_secret(path: &Path) -> Result<Option<[u8; 32]>, KeysError> {
    if !path.exists() {
        return Ok(None);
    }
    Ok(Some(*read_secret(path)?.seed()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_s(1_800_000_000);

    #[test]
    fn keys_are_made_once_and_checked() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        assert!(matches!(Keys::read(dir, NOW), Err(KeysError::None(_))));
        let operator = Keys::init(dir, NOW).unwrap();
        assert_eq!(Keys::read(dir, NOW).unwrap().operator, operator);
        assert!(matches!(Keys::init(dir, NOW), Err(KeysError::Already(_))));
        let late = NOW.plus_ms(401 * 86_400_000);
        assert!(matches!(Keys::read(dir, late), Err(KeysError::Delegation(_))));
        let transport = dir.join("transport.key");
        fs::set_permissions(&transport, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(Keys::read(dir, NOW), Err(KeysError::Mode { mode: 0o640, .. })));
        fs::set_permissions(&transport, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&transport, "00").unwrap();
        assert!(matches!(Keys::read(dir, NOW), Err(KeysError::Damaged(_))));
        fs::write(&transport, "00".repeat(32)).unwrap();
        assert!(matches!(Keys::read(dir, NOW), Err(KeysError::Delegation(_))));
    }
}
