//! The `tocsin://` line that an operator hands out: a key, and where to find its collector. IP
//! literals only: neither DNS nor a certificate authority stands between.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    str::FromStr,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

use crate::{
    limits::PORT_DEFAULT,
    sign::{KeyError, PublicKey},
};

/// Addresses in one line, at most.
pub const ADDRESSES_MAX: usize = 8;

/// A collector as its operator names it: `tocsin://KEY@203.0.113.7:4433,[2001:db8::7]:443`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CollectorLine {
    /// The pinned operator key.
    pub operator: PublicKey,
    /// Where the collector listens, in order of preference; 1 to 8.
    pub addresses: Vec<SocketAddr>,
}

/// Why a text is no `tocsin://` line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LineError {
    /// It does not begin as one.
    #[error("a collector is written as tocsin://KEY@ADDRESS:PORT; this does not begin so")]
    Scheme,
    /// The key is none.
    #[error("the part before the '@' is no operator key")]
    Key(#[source] KeyError),
    /// An address is no IP literal.
    #[error(
        "{0:?} is no IP address; names are not allowed here, so that no DNS is needed \
         (write 203.0.113.7:4433 or [2001:db8::7]:4433)"
    )]
    Address(String),
    /// There are too many.
    #[error("at most {ADDRESSES_MAX} addresses fit in one line")]
    TooMany,
}

impl FromStr for CollectorLine {
    type Err = LineError;
    fn from_str(text: &str) -> Result<Self, LineError> {
        let rest = text.trim().strip_prefix("tocsin://").ok_or(LineError::Scheme)?;
        let (key, addresses) = rest.split_once('@').ok_or(LineError::Scheme)?;
        let operator = key.parse().map_err(LineError::Key)?;
        let addresses = addresses
            .trim_end_matches('/')
            .split(',')
            .map(address)
            .collect::<Result<Vec<_>, _>>()?;
        if addresses.len() > ADDRESSES_MAX {
            return Err(LineError::TooMany);
        }
        Ok(Self { operator, addresses })
    }
}

fn address(text: &str) -> Result<SocketAddr, LineError> {
    let bare_v6 = text.strip_prefix('[').and_then(|t| t.strip_suffix(']'));
    let bare = bare_v6
        .and_then(|t| t.parse::<Ipv6Addr>().ok().map(IpAddr::V6))
        .or_else(|| text.parse::<std::net::Ipv4Addr>().ok().map(IpAddr::V4));
    let refused = || LineError::Address(text.chars().take(80).collect());
    let address = match bare {
        Some(ip) => SocketAddr::new(ip, PORT_DEFAULT),
        None => text.parse().map_err(|_| refused())?,
    };
    // A scope means something on one machine only, and nobody listens on port 0.
    let scoped = matches!(address, SocketAddr::V6(v6) if v6.scope_id() != 0);
    if scoped || address.port() == 0 { Err(refused()) } else { Ok(address) }
}

impl fmt::Display for CollectorLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tocsin://{}@", self.operator)?;
        for (at, address) in self.addresses.iter().enumerate() {
            write!(f, "{}{address}", if at == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

impl Serialize for CollectorLine {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for CollectorLine {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sign::SecretKey;

    #[test]
    fn reads_and_writes_lines() {
        let key = SecretKey::from_seed(&[3; 32]).public();
        let check = |addresses: &str, expect: &str| {
            let line: CollectorLine = format!("tocsin://{key}@{addresses}").parse().unwrap();
            assert_eq!(line.to_string(), format!("tocsin://{key}@{expect}"));
        };
        check("203.0.113.7:443", "203.0.113.7:443");
        check("203.0.113.7", "203.0.113.7:4433");
        check("[2001:db8::7],203.0.113.7:1", "[2001:db8::7]:4433,203.0.113.7:1");
    }

    #[test]
    fn says_what_is_wrong() {
        let key = SecretKey::from_seed(&[3; 32]).public();
        let check = |text: &str, expect: fn(&LineError) -> bool| {
            let error = text.parse::<CollectorLine>().unwrap_err();
            assert!(expect(&error), "{text}: {error}");
        };
        check("https://x", |e| *e == LineError::Scheme);
        check("tocsin://abc@1.2.3.4", |e| matches!(e, LineError::Key(_)));
        check(&format!("tocsin://{key}@example.org:1"), |e| matches!(e, LineError::Address(_)));
        for bad in ["1.2.3.4:0", "[fe80::1%2]:4433", "[::1]:0", "[fe80::1%2]"] {
            check(&format!("tocsin://{key}@{bad}"), |e| matches!(e, LineError::Address(_)));
        }
        check(&format!("tocsin://{key}@"), |e| matches!(e, LineError::Address(_)));
        let many = ["1.2.3.4"; 9].join(",");
        check(&format!("tocsin://{key}@{many}"), |e| *e == LineError::TooMany);
    }
}
