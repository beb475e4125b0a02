//! Delegations: the operator key, kept offline, says which keys a collector may use, and how long.

use serde::{Deserialize, Serialize};

use crate::{
    bounded::Bytes,
    limits::{DELEGATION_BYTES_MAX, DELEGATION_DAYS_MAX},
    sign::{Domain, PublicKey, SecretKey, Signature, VerifyError},
    time::Timestamp,
    wire::{self, DecodeError},
};

/// What a delegated key may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyRole {
    /// Be the key of the collector's TLS certificate.
    Transport,
    /// Sign the public feed.
    Feed,
    /// Sign checkpoints over the incident log.
    Checkpoint,
}

/// The statement that the operator key signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delegation {
    /// What for.
    pub role: KeyRole,
    /// The key.
    pub key: PublicKey,
    /// Rises with every delegation of a role; the highest seen wins and lower ones are refused.
    pub serial: u64,
    /// After this time it is worth nothing. At most 400 days ahead.
    pub not_after: Timestamp,
}

/// A delegation as it travels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedDelegation {
    /// Ed25519 over `tocsin/delegation/v1\0 || body`, by the operator key.
    pub signature: Signature,
    /// The encoded [`Delegation`].
    pub body: Bytes<DELEGATION_BYTES_MAX>,
}

/// Why a delegation was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DelegationError {
    /// Not signed by the pinned operator key.
    #[error("the delegation is not signed by the pinned operator key")]
    Signature(#[source] VerifyError),
    /// The signed bytes are no delegation.
    #[error("the delegation does not decode")]
    Body(#[source] DecodeError),
    /// Its time is over.
    #[error("the delegation with serial {serial} ended at {not_after}")]
    Expired {
        /// Its serial.
        serial: u64,
        /// Its end.
        not_after: Timestamp,
    },
    /// It would hold longer than any delegation may.
    #[error("the delegation holds until {not_after}, more than {DELEGATION_DAYS_MAX} days ahead")]
    TooLong {
        /// Its end.
        not_after: Timestamp,
    },
    /// A newer one has been seen.
    #[error("the delegation has serial {serial}, but {seen} has been seen: it was replaced")]
    Superseded {
        /// Its serial.
        serial: u64,
        /// The highest serial seen for this role.
        seen: u64,
    },
    /// No delegation for that role was offered.
    #[error("the collector offers no delegation for its {0:?} key")]
    Missing(KeyRole),
    /// It names another key than the one in use.
    #[error("the delegation names the key {delegated:?}, but the collector used {used:?}")]
    OtherKey {
        /// The key that the operator named.
        delegated: PublicKey,
        /// The key that was used.
        used: PublicKey,
    },
}

impl Delegation {
    /// Signs it with the operator key.
    ///
    /// # Panics
    /// Never: every delegation encodes to fewer bytes than the bound, as the golden vectors show.
    #[must_use]
    pub fn sign(&self, operator: &SecretKey) -> SignedDelegation {
        let body = Bytes::new(wire::encode(self)).expect("a delegation fits its bound");
        SignedDelegation { signature: operator.sign(Domain::Delegation, &body), body }
    }
}

impl SignedDelegation {
    /// Verifies, decodes, and checks the time.
    ///
    /// # Errors
    /// By cause, as in [`DelegationError`].
    pub fn open(
        &self,
        operator: &PublicKey,
        now: Timestamp,
    ) -> Result<Delegation, DelegationError> {
        operator
            .verify(Domain::Delegation, &self.body, &self.signature)
            .map_err(DelegationError::Signature)?;
        let delegation: Delegation = wire::decode(&self.body).map_err(DelegationError::Body)?;
        let Delegation { serial, not_after, .. } = delegation;
        if now > not_after {
            return Err(DelegationError::Expired { serial, not_after });
        }
        if not_after.since_ms(now) > DELEGATION_DAYS_MAX * 86_400_000 {
            return Err(DelegationError::TooLong { not_after });
        }
        Ok(delegation)
    }
}

/// The key in force for a role: of the delegations offered, the one of the highest serial, which
/// may not be below the highest seen before.
///
/// # Errors
/// When none is offered for the role, when the best is refused, or when it has been superseded.
pub fn delegated(
    offered: &[SignedDelegation],
    role: KeyRole,
    operator: &PublicKey,
    seen: u64,
    now: Timestamp,
) -> Result<Delegation, DelegationError> {
    let mut best: Option<Delegation> = None;
    let mut refused = None;
    for signed in offered {
        match signed.open(operator, now) {
            Ok(delegation) if delegation.role == role => {
                if best.is_none_or(|best| delegation.serial > best.serial) {
                    best = Some(delegation);
                }
            }
            Ok(_) => {}
            Err(error) => refused = Some(error),
        }
    }
    match best {
        Some(Delegation { serial, .. }) if serial < seen => {
            Err(DelegationError::Superseded { serial, seen })
        }
        Some(delegation) => Ok(delegation),
        None => Err(refused.unwrap_or(DelegationError::Missing(role))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_s(1_800_000_000);

    fn delegation(serial: u64, days: u64) -> Delegation {
        Delegation {
            role: KeyRole::Transport,
            key: SecretKey::from_seed(&[9; 32]).public(),
            serial,
            not_after: NOW.plus_ms(days * 86_400_000),
        }
    }

    #[test]
    fn the_highest_serial_wins_and_never_goes_back() {
        let operator = SecretKey::from_seed(&[1; 32]);
        let offered = [delegation(3, 10).sign(&operator), delegation(4, 10).sign(&operator)];
        let check = |seen| delegated(&offered, KeyRole::Transport, &operator.public(), seen, NOW);
        assert_eq!(check(0).map(|d| d.serial), Ok(4));
        assert_eq!(check(4).map(|d| d.serial), Ok(4));
        assert_eq!(check(5), Err(DelegationError::Superseded { serial: 4, seen: 5 }));
        let feed = delegated(&offered, KeyRole::Feed, &operator.public(), 0, NOW);
        assert_eq!(feed, Err(DelegationError::Missing(KeyRole::Feed)));
    }

    #[test]
    fn time_and_operator_are_checked() {
        let operator = SecretKey::from_seed(&[1; 32]);
        let open = |d: Delegation, now| d.sign(&operator).open(&operator.public(), now);
        assert!(open(delegation(1, 400), NOW).is_ok());
        assert!(matches!(open(delegation(1, 401), NOW), Err(DelegationError::TooLong { .. })));
        let later = NOW.plus_ms(2 * 86_400_000);
        assert!(matches!(open(delegation(1, 1), later), Err(DelegationError::Expired { .. })));
        let other = SecretKey::from_seed(&[2; 32]).public();
        let foreign = delegation(1, 1).sign(&operator).open(&other, NOW);
        assert!(matches!(foreign, Err(DelegationError::Signature(_))));
    }
}
