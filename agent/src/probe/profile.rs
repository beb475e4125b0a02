//! How a probe opens its connections, in two profiles that share as little as one program can: where a
//! server's change breaks the one of them, the agents of the other say that the site is up.
//!
//! We are no browser: a server that comes to mishandle TLS 1.3 as we speak it, or to refuse a window of 0
//! or the fingerprint of our handshake, is up for its visitors and down for us. The detector sees the
//! profile as a version of the probing code, and confirms nothing that one version alone sees (C4).

use serde::{Deserialize, Serialize};
use tocsin_proto::sign::sha256;

use crate::PROBE_CORE;

/// The bit of `probe_core` that tells the second profile.
const CLASSIC_BIT: u16 = 1 << 15;
/// Agents of 256 that use it. An eighth: at a hundred observers twelve of them look, and the others
/// speak as most visitors' browsers do.
const CLASSIC_OF_256: u8 = 32;

/// How connections are opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// TLS 1.3 or 1.2, HTTP/2 with a window of 0.
    #[default]
    Modern,
    /// TLS 1.2 alone, with other groups and in another order, HTTP/2 with a small window and without
    /// compression by reference (RFC 7541 section 4.2).
    Classic,
}

impl Profile {
    /// The profile of an agent, by a seed that is its own: it stays the same, so that an observer has
    /// one version.
    #[must_use]
    pub fn of(seed: &[u8; 32]) -> Self {
        let hash = sha256(&[b"tocsin/agent/profile/v1\0", seed]);
        match hash.first().is_some_and(|byte| *byte < CLASSIC_OF_256) {
            true => Self::Classic,
            false => Self::Modern,
        }
    }

    /// What reports call the code that probes so.
    #[must_use]
    pub const fn probe_core(self) -> u16 {
        match self {
            Self::Modern => PROBE_CORE,
            Self::Classic => PROBE_CORE | CLASSIC_BIT,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_eighth_speaks_as_before() {
        let classic = (0..2_000u16)
            .map(|n| sha256(&[b"an agent", &n.to_le_bytes()]))
            .filter(|seed| Profile::of(seed) == Profile::Classic)
            .count();
        assert!((200..=300).contains(&classic), "{classic} of 2,000");
        assert_ne!(Profile::Classic.probe_core(), Profile::Modern.probe_core());
    }
}
