//! Keys and signatures: Ed25519 (RFC 8032) under versioned domain strings, checked with the strict
//! rules. This is the only file that names `ed25519_dalek`.
//!
//! Signed are the exact bytes that travel, so nothing is ever encoded again to be checked. A
//! signature covers `domain || bytes`; each use has its own domain, so no signature of one kind
//! can be shown as another.

use std::fmt;

use ed25519_dalek::{Signer, SigningKey, VerifyingKey};
use hkdf::Hkdf;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::bounded::Fixed;

/// What a signature is for. The string is prefixed to the signed bytes; it ends with a NUL so that
/// none is a prefix of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Domain {
    /// A report, by its observer key.
    Report,
    /// A session proof, by the observer key.
    Prove,
    /// A delegation, by the operator key.
    Delegation,
    /// A catalogue, by a catalogue key.
    Catalogue,
    /// A public snapshot, by the feed key.
    Snapshot,
    /// What a person says, by their observer key.
    Human,
}

impl Domain {
    /// The bytes put before what is signed.
    #[must_use]
    pub const fn prefix(self) -> &'static [u8] {
        match self {
            Self::Report => b"tocsin/report/v1\0",
            Self::Prove => b"tocsin/prove/v1\0",
            Self::Delegation => b"tocsin/delegation/v1\0",
            Self::Catalogue => b"tocsin/catalogue/v1\0",
            Self::Snapshot => b"tocsin/snapshot/v1\0",
            Self::Human => b"tocsin/human/v1\0",
        }
    }

    fn message(self, bytes: &[u8]) -> Vec<u8> {
        [self.prefix(), bytes].concat()
    }
}

/// An Ed25519 signature, 64 bytes.
pub type Signature = Fixed<64>;

/// The 32 bytes of an Ed25519 public key as they travelled. Not yet known to be a good key:
/// [`PublicKey::verifier`] says so.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PublicKey(pub Fixed<32>);

impl PublicKey {
    /// From raw bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(Fixed(bytes))
    }

    /// The raw bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0.0
    }

    /// Checks the key once, for many verifications.
    ///
    /// # Errors
    /// When the bytes are no point of the curve, a point of small order, or one with a torsion
    /// component: with such keys one signature could fit several messages or verifiers could
    /// disagree.
    pub fn verifier(&self) -> Result<Verifier, KeyError> {
        let key = VerifyingKey::from_bytes(self.as_bytes()).map_err(|_| KeyError::NotAPoint)?;
        if key.is_weak() {
            return Err(KeyError::SmallOrder);
        }
        if !key.to_edwards().is_torsion_free() {
            return Err(KeyError::Torsion);
        }
        Ok(Verifier(key))
    }

    /// Checks the key and one signature.
    ///
    /// # Errors
    /// When the key is refused or the signature does not fit.
    pub fn verify(
        &self,
        domain: Domain,
        bytes: &[u8],
        signature: &Signature,
    ) -> Result<(), VerifyError> {
        self.verifier()
            .map_err(VerifyError::Key)?
            .verify(domain, bytes, signature)
            .map_err(|BadSignature| VerifyError::Signature)
    }
}

/// A short form for people: the first ten characters of the base32 text.
impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.to_string();
        write!(f, "{}..", text.get(..10).unwrap_or(&text))
    }
}

/// RFC 4648 base32, lower case, no padding: 52 characters.
impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = data_encoding::BASE32_NOPAD.encode(self.as_bytes());
        f.write_str(&text.to_ascii_lowercase())
    }
}

impl std::str::FromStr for PublicKey {
    type Err = KeyError;
    fn from_str(text: &str) -> Result<Self, KeyError> {
        let bytes = data_encoding::BASE32_NOPAD
            .decode(text.to_ascii_uppercase().as_bytes())
            .map_err(|_| KeyError::Text)?;
        Ok(Self::from_bytes(bytes.try_into().map_err(|_| KeyError::Text)?))
    }
}

/// Why bytes are refused as a public key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not 52 characters of base32.
    #[error("a key is written as 52 characters of base32 (a-z, 2-7)")]
    Text,
    /// The bytes do not decode.
    #[error("these 32 bytes are no Ed25519 public key")]
    NotAPoint,
    /// One of the eight points of small order.
    #[error("this Ed25519 public key has a small order and is refused")]
    SmallOrder,
    /// A point outside the prime-order group.
    #[error("this Ed25519 public key has a torsion component and is refused")]
    Torsion,
}

/// Why a signature was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// The key itself is refused.
    #[error("the signing key is refused")]
    Key(#[source] KeyError),
    /// The signature does not fit key, domain and bytes.
    #[error("the signature does not fit")]
    Signature,
}

/// The signature does not fit key, domain and bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the signature does not fit")]
pub struct BadSignature;

/// A checked public key, decompressed once.
#[derive(Debug, Clone)]
pub struct Verifier(VerifyingKey);

impl Verifier {
    /// Verifies by the strict rules: canonical S, no small-order R or A, no cofactor.
    ///
    /// # Errors
    /// When the signature does not fit.
    pub fn verify(
        &self,
        domain: Domain,
        bytes: &[u8],
        signature: &Signature,
    ) -> Result<(), BadSignature> {
        let signature = ed25519_dalek::Signature::from_bytes(&signature.0);
        self.0.verify_strict(&domain.message(bytes), &signature).map_err(|_| BadSignature)
    }
}

/// A private key. Wiped when dropped, never shown.
pub struct SecretKey(SigningKey);

impl SecretKey {
    /// From the 32 secret bytes.
    #[must_use]
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    /// The 32 secret bytes, to be written to a file of mode 0600.
    #[must_use]
    pub fn seed(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0.to_bytes())
    }

    /// The public half.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        PublicKey::from_bytes(self.0.verifying_key().to_bytes())
    }

    /// Signs `domain || bytes`.
    #[must_use]
    pub fn sign(&self, domain: Domain, bytes: &[u8]) -> Signature {
        Fixed(self.0.sign(&domain.message(bytes)).to_bytes())
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "secret key of {:?}", self.public())
    }
}

/// The one secret of an agent. Observer keys come from it by HKDF-SHA-256 (RFC 5869), so that
/// nobody who sees two of them can tell that they are of one machine.
pub struct MasterSeed(Zeroizing<[u8; 32]>);

impl MasterSeed {
    /// From 32 bytes of the system's randomness.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The secret bytes, to be written to a file of mode 0600.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The observer key for one operator in one context: HKDF with salt `tocsin/observer/v1`,
    /// the seed as input keying material, and `operator key || context` as info.
    #[must_use]
    pub fn observer_key(&self, operator: &PublicKey, context: &Context) -> SecretKey {
        let mut seed = Zeroizing::new([0; 32]);
        let info = [operator.as_bytes().as_slice(), context.0.as_slice()].concat();
        Hkdf::<Sha256>::new(Some(b"tocsin/observer/v1"), self.0.as_slice())
            .expand(&info, seed.as_mut_slice())
            .expect("32 bytes is far below HKDF's limit of 255 hashes");
        SecretKey::from_seed(&seed)
    }

    /// The keyed fingerprint of what names a network locally (a gateway's link address, an ASN).
    /// It never leaves the machine.
    #[must_use]
    pub fn context(&self, network: &[u8]) -> Context {
        let mut bytes = [0; 32];
        Hkdf::<Sha256>::new(Some(b"tocsin/context/v1"), self.0.as_slice())
            .expand(network, &mut bytes)
            .expect("32 bytes is far below HKDF's limit of 255 hashes");
        Context(bytes)
    }
}

impl fmt::Debug for MasterSeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("master seed")
    }
}

/// A local fingerprint of the network a machine is in.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Context(pub [u8; 32]);

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("context")
    }
}

/// SHA-256 of some parts, in order.
#[must_use]
pub fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part);
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u8) -> SecretKey {
        SecretKey::from_seed(&[n; 32])
    }

    #[test]
    fn a_signature_fits_its_key_domain_and_bytes_only() {
        let signature = key(1).sign(Domain::Report, b"seen");
        let check = |key: PublicKey, domain, bytes: &[u8]| key.verify(domain, bytes, &signature);
        assert_eq!(check(key(1).public(), Domain::Report, b"seen"), Ok(()));
        let refused = Err(VerifyError::Signature);
        assert_eq!(check(key(2).public(), Domain::Report, b"seen"), refused);
        assert_eq!(check(key(1).public(), Domain::Snapshot, b"seen"), refused);
        assert_eq!(check(key(1).public(), Domain::Report, b"seem"), refused);
    }

    #[test]
    fn weak_and_torsion_keys_are_refused() {
        // The neutral element, and the point of order two (RFC 7748's Edwards form).
        let mut neutral = [0; 32];
        neutral[0] = 1;
        let refused = |bytes| PublicKey::from_bytes(bytes).verifier().err();
        assert_eq!(refused(neutral), Some(KeyError::SmallOrder));
        let mut order_two = [0xff; 32];
        order_two[0] = 0xec;
        order_two[31] = 0x7f;
        assert_eq!(refused(order_two), Some(KeyError::SmallOrder));
        // y = 2 is on no point of the curve.
        let mut off = [0; 32];
        off[0] = 2;
        assert_eq!(refused(off), Some(KeyError::NotAPoint));
        // (x, y) + (0, -1) = (-x, -y): the key with p - y in place of y is outside the prime
        // group. p = 2^255 - 19, subtracted byte by byte.
        let p: [u8; 32] =
            std::array::from_fn(|at| [0xed, 0xff, 0x7f][at.div_ceil(31).min(1) + at / 31]);
        let mut mixed = *key(3).public().as_bytes();
        mixed[31] &= 0x7f;
        let mut borrow = 0;
        for (byte, p) in mixed.iter_mut().zip(p) {
            let difference = i16::from(p) - i16::from(*byte) - borrow;
            borrow = i16::from(difference < 0);
            *byte = difference.rem_euclid(256) as u8;
        }
        assert_eq!(refused(mixed), Some(KeyError::Torsion));
    }

    #[test]
    fn keys_are_written_in_base32() {
        let public = key(4).public();
        assert_eq!(public.to_string().len(), 52);
        assert_eq!(public.to_string().parse(), Ok(public));
        assert_eq!("abc1".parse::<PublicKey>(), Err(KeyError::Text));
    }

    #[test]
    fn observer_keys_differ_by_operator_and_context() {
        let seed = MasterSeed::from_bytes([7; 32]);
        let (home, office) = (seed.context(b"home"), seed.context(b"office"));
        let of = |operator: u8, context| seed.observer_key(&key(operator).public(), context);
        assert_eq!(of(1, &home).public(), of(1, &home).public());
        assert_ne!(of(1, &home).public(), of(1, &office).public());
        assert_ne!(of(1, &home).public(), of(2, &home).public());
    }

    #[test]
    fn secrets_are_not_shown() {
        let shown = format!("{:?} {:?}", key(5), MasterSeed::from_bytes([5; 32]));
        assert!(!shown.contains("0505") && !shown.contains("5, 5"), "{shown}");
    }
}
