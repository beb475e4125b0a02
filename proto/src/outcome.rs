//! What can come of one probe: one list, with its numbers on the wire and its names in text.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

/// The phase of a probe, in the order in which they run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Name resolution.
    Dns,
    /// TCP connection.
    Tcp,
    /// TLS handshake.
    Tls,
    /// HTTP request up to the end of the response headers.
    Http,
}

macro_rules! outcomes {
    ($($(#[$doc:meta])* $variant:ident = $code:literal, $name:literal, $phase:expr;)*) => {
        /// What came of a probe. The numbers travel and are never given another meaning.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum Outcome { $($(#[$doc])* $variant = $code,)* }

        impl Outcome {
            /// Every outcome, in the order of the numbers.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The name in text formats: `snake_case`, stable.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The phase in which the probe ended; `None` when it got its answer.
            #[must_use]
            pub const fn phase(self) -> Option<Phase> {
                match self { $(Self::$variant => $phase,)* }
            }

            /// From the number on the wire.
            #[must_use]
            pub const fn from_code(code: u8) -> Option<Self> {
                match code { $($code => Some(Self::$variant),)* _ => None }
            }
        }
    };
}

outcomes! {
    /// The site answered as it should.
    Ok = 0, "ok", None;
    /// The name does not exist (RFC 1035 RCODE 3).
    DnsNxdomain = 1, "dns_nxdomain", Some(Phase::Dns);
    /// The name exists but has no address of this family.
    DnsNodata = 2, "dns_nodata", Some(Phase::Dns);
    /// The resolver could not get an answer (RCODE 2).
    DnsServfail = 3, "dns_servfail", Some(Phase::Dns);
    /// The server refused the question (RCODE 5).
    DnsRefused = 4, "dns_refused", Some(Phase::Dns);
    /// No answer within 2 s.
    DnsTimeout = 5, "dns_timeout", Some(Phase::Dns);
    /// The answer failed DNSSEC validation (RFC 8914 extended error 6 to 12 where it is given).
    DnsBogus = 6, "dns_bogus", Some(Phase::Dns);
    /// The name resolved to no globally reachable address; it was not connected to.
    DnsNonPublic = 7, "dns_non_public", Some(Phase::Dns);
    /// The resolver could not be reached at all.
    DnsUnreachable = 8, "dns_unreachable", Some(Phase::Dns);
    /// The connection was refused.
    TcpRefused = 16, "tcp_refused", Some(Phase::Tcp);
    /// The connection was reset while it was made.
    TcpReset = 17, "tcp_reset", Some(Phase::Tcp);
    /// No connection within 3 s.
    TcpTimeout = 18, "tcp_timeout", Some(Phase::Tcp);
    /// No route, or an ICMP error said so.
    TcpUnreachable = 19, "tcp_unreachable", Some(Phase::Tcp);
    /// The handshake failed other than by an alert or a certificate.
    TlsHandshake = 32, "tls_handshake", Some(Phase::Tls);
    /// The server sent a fatal alert (RFC 8446 section 6).
    TlsAlert = 33, "tls_alert", Some(Phase::Tls);
    /// The certificate's time is over, or has not come.
    TlsCertExpired = 34, "tls_cert_expired", Some(Phase::Tls);
    /// The certificate is for other names.
    TlsCertName = 35, "tls_cert_name", Some(Phase::Tls);
    /// No trusted authority stands behind the certificate.
    TlsCertUntrusted = 36, "tls_cert_untrusted", Some(Phase::Tls);
    /// No handshake within 3 s.
    TlsTimeout = 37, "tls_timeout", Some(Phase::Tls);
    /// A 5xx status; the rule tells whose.
    Http5xx = 48, "http_5xx", Some(Phase::Http);
    /// A 4xx status that is no challenge and no block: the site answered.
    Http4xx = 49, "http_4xx", None;
    /// The connection ended before the response headers did.
    HttpReset = 50, "http_reset", Some(Phase::Http);
    /// No response headers within 4 s.
    HttpTimeout = 51, "http_timeout", Some(Phase::Http);
    /// What came was not HTTP.
    HttpProtocol = 52, "http_protocol", Some(Phase::Http);
    /// The response headers were cut short or past their limit.
    HttpTruncated = 53, "http_truncated", Some(Phase::Http);
    /// It answered well, but over five times later than usual. For display only.
    Slow = 64, "slow", None;
    /// A bot wall, or a block of this client: an answer, not an outage.
    Challenged = 65, "challenged", None;
    /// Something between here and the site answered in its place (a captive portal).
    Intercepted = 66, "intercepted", Some(Phase::Http);
}

/// Names that others use for the same thing, read but never written.
const ALIASES: &[(&str, Outcome)] = &[
    ("success", Outcome::Ok),
    ("up", Outcome::Ok),
    ("dns_error", Outcome::DnsServfail),
    ("nxdomain", Outcome::DnsNxdomain),
    ("nodata", Outcome::DnsNodata),
    ("servfail", Outcome::DnsServfail),
    ("bogus", Outcome::DnsBogus),
    // Who says no more than that has waited for a connection.
    ("timeout", Outcome::TcpTimeout),
    ("connect_timeout", Outcome::TcpTimeout),
    ("tls_error", Outcome::TlsHandshake),
    ("tls_cert", Outcome::TlsCertUntrusted),
    // Whose error it is, the rule tells.
    ("edge_error", Outcome::Http5xx),
    ("origin_error", Outcome::Http5xx),
    ("http_4xx_challenge", Outcome::Challenged),
    ("challenge", Outcome::Challenged),
    ("block", Outcome::Challenged),
    ("blocked", Outcome::Challenged),
    ("captive", Outcome::Intercepted),
];

/// A name that no outcome has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no outcome; see Outcome::ALL in docs/PROTOCOL.md for the list")]
pub struct UnknownOutcome(pub String);

impl Outcome {
    /// The number on the wire.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// Whether the target gave an answer that is no failure.
    #[must_use]
    pub const fn is_answer(self) -> bool {
        self.phase().is_none()
    }
}

impl Outcome {
    /// The outcome that a name means which field reports use: that of this list, what others write for
    /// it (`timeout`, `tls_cert`), or a status. In any case, and with space around it.
    #[must_use]
    pub fn from_field_name(name: &str) -> Option<Self> {
        let name = name.trim().to_ascii_lowercase();
        let own = Self::ALL.iter().map(|outcome| (outcome.name(), *outcome));
        let mut known = own.chain(ALIASES.iter().copied());
        if let Some((_, outcome)) = known.find(|(known, _)| *known == name) {
            return Some(outcome);
        }
        let status = name.strip_prefix("http_").unwrap_or(&name);
        match status.as_bytes() {
            [b'5', b'0'..=b'9' | b'x', b'0'..=b'9' | b'x'] => Some(Self::Http5xx),
            [b'4', b'0'..=b'9' | b'x', b'0'..=b'9' | b'x'] => Some(Self::Http4xx),
            [b'1'..=b'3', b'0'..=b'9', b'0'..=b'9'] => Some(Self::Ok),
            _ => None,
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Outcome {
    type Err = UnknownOutcome;
    fn from_str(text: &str) -> Result<Self, UnknownOutcome> {
        Self::from_field_name(text).ok_or_else(|| UnknownOutcome(text.chars().take(80).collect()))
    }
}

impl Serialize for Outcome {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.serialize_str(self.name())
        } else {
            serializer.serialize_u8(self.code())
        }
    }
}

impl<'de> Deserialize<'de> for Outcome {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
        } else {
            Self::from_code(u8::deserialize(deserializer)?)
                .ok_or_else(|| D::Error::custom("no such outcome"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_names_come_back() {
        for outcome in Outcome::ALL {
            assert_eq!(Outcome::from_code(outcome.code()), Some(*outcome));
            assert_eq!(outcome.name().parse(), Ok(*outcome));
        }
        assert_eq!("http_4xx_challenge".parse(), Ok(Outcome::Challenged));
        assert!("http 5xx".parse::<Outcome>().is_err());
    }

    #[test]
    fn names_from_the_field_are_understood() {
        for outcome in Outcome::ALL {
            assert_eq!(Outcome::from_field_name(outcome.name()), Some(*outcome));
        }
        for (name, outcome) in [
            ("http_503", Outcome::Http5xx),
            ("http_52x", Outcome::Http5xx),
            ("404", Outcome::Http4xx),
            ("200", Outcome::Ok),
            ("http_4xx_challenge", Outcome::Challenged),
            (" TCP_TIMEOUT ", Outcome::TcpTimeout),
            ("tls_cert", Outcome::TlsCertUntrusted),
            ("timeout", Outcome::TcpTimeout),
            ("edge_error", Outcome::Http5xx),
            ("origin_error", Outcome::Http5xx),
            ("challenge", Outcome::Challenged),
            ("block", Outcome::Challenged),
            ("blocked", Outcome::Challenged),
            ("nxdomain", Outcome::DnsNxdomain),
            ("servfail", Outcome::DnsServfail),
            ("captive", Outcome::Intercepted),
        ] {
            assert_eq!(Outcome::from_field_name(name), Some(outcome), "{name}");
            assert_eq!(name.parse(), Ok(outcome), "{name}");
        }
        assert_eq!(Outcome::from_field_name("broken"), None);
    }
}
