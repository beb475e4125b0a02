//! Decides which addresses may be connected to: IANA globally reachable unicast, and the
//! exceptions that the configuration lists. A catalogue, a resolver or a redirect can name any
//! address; this table keeps a probe out of the networks that its host stands in.
//!
//! Pure: an address in, yes or no out. It does not resolve and does not connect; `probe` asks it
//! about the very address it then connects to. Stricter than the registries in three points: the
//! few anycast addresses inside `192.0.0.0/24` and `2001::/23` that are globally reachable serve
//! no site and are refused; so are 6to4 and Teredo, which reach a host by way of an embedded
//! address; and of IPv6 only `2000::/3`, all that IANA has handed out, is let through.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// One row: addresses that no probe connects to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Special {
    /// The range.
    pub net: IpNet,
    /// Its name in the registry.
    pub name: &'static str,
    /// Where the range is set aside.
    pub source: &'static str,
}

const fn v4(octets: [u8; 4], length: u8, name: &'static str, source: &'static str) -> Special {
    let [a, b, c, d] = octets;
    let net = IpNet::new_assert(IpAddr::V4(Ipv4Addr::new(a, b, c, d)), length);
    Special { net, name, source }
}

const fn v6(head: [u16; 4], length: u8, name: &'static str, source: &'static str) -> Special {
    let [a, b, c, d] = head;
    let net = IpNet::new_assert(IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0)), length);
    Special { net, name, source }
}

/// The ranges of the IANA IPv4 and IPv6 special-purpose address registries that are not globally
/// reachable, with multicast and reserved space. IPv4-mapped addresses and the well-known NAT64
/// prefix are missing on purpose: they are judged by the IPv4 address inside.
pub const SPECIAL: &[Special] = &[
    v4([0, 0, 0, 0], 8, "this network", "RFC 791 section 3.2"),
    v4([10, 0, 0, 0], 8, "private use", "RFC 1918"),
    v4([100, 64, 0, 0], 10, "shared address space", "RFC 6598"),
    v4([127, 0, 0, 0], 8, "loopback", "RFC 1122 section 3.2.1.3"),
    v4([169, 254, 0, 0], 16, "link local", "RFC 3927"),
    v4([172, 16, 0, 0], 12, "private use", "RFC 1918"),
    v4([192, 0, 0, 0], 24, "IETF protocol assignments", "RFC 6890 section 2.1"),
    v4([192, 0, 2, 0], 24, "documentation (TEST-NET-1)", "RFC 5737"),
    v4([192, 88, 99, 0], 24, "deprecated 6to4 relay anycast", "RFC 7526"),
    v4([192, 168, 0, 0], 16, "private use", "RFC 1918"),
    v4([198, 18, 0, 0], 15, "benchmarking", "RFC 2544"),
    v4([198, 51, 100, 0], 24, "documentation (TEST-NET-2)", "RFC 5737"),
    v4([203, 0, 113, 0], 24, "documentation (TEST-NET-3)", "RFC 5737"),
    v4([224, 0, 0, 0], 4, "multicast", "RFC 5771"),
    v4([240, 0, 0, 0], 4, "reserved, with limited broadcast", "RFC 1112 section 4"),
    // `::` and `::1` lie in the first row.
    v6([0, 0, 0, 0], 96, "unspecified, loopback, IPv4-compatible", "RFC 4291 section 2.5"),
    v6([0x64, 0xff9b, 1, 0], 48, "local-use IPv4/IPv6 translation", "RFC 8215"),
    v6([0x100, 0, 0, 0], 64, "discard only", "RFC 6666"),
    v6([0x100, 0, 0, 1], 64, "dummy prefix", "RFC 9780"),
    v6([0x2001, 0, 0, 0], 32, "Teredo", "RFC 4380"),
    v6([0x2001, 2, 0, 0], 48, "benchmarking", "RFC 5180"),
    v6([0x2001, 0x10, 0, 0], 28, "deprecated ORCHID", "RFC 4843"),
    v6([0x2001, 0x20, 0, 0], 28, "ORCHIDv2", "RFC 7343"),
    v6([0x2001, 0, 0, 0], 23, "IETF protocol assignments", "RFC 2928"),
    v6([0x2001, 0xdb8, 0, 0], 32, "documentation", "RFC 3849"),
    v6([0x2002, 0, 0, 0], 16, "6to4", "RFC 3056"),
    v6([0x3fff, 0, 0, 0], 20, "documentation", "RFC 9637"),
    v6([0x5f00, 0, 0, 0], 16, "segment routing (SRv6) SIDs", "RFC 9602"),
    v6([0xfc00, 0, 0, 0], 7, "unique local", "RFC 4193"),
    v6([0xfe80, 0, 0, 0], 10, "link-local unicast", "RFC 4291 section 2.5.6"),
    v6([0xfec0, 0, 0, 0], 10, "deprecated site-local unicast", "RFC 3879"),
    v6([0xff00, 0, 0, 0], 8, "multicast", "RFC 4291 section 2.7"),
];

/// The row of [`SPECIAL`] that the address lies in; `None` when it lies in none. Embedded IPv4
/// addresses are looked up as such.
#[must_use]
pub fn special(ip: IpAddr) -> Option<&'static Special> {
    let ip = embedded(ip);
    SPECIAL.iter().find(|row| row.net.contains(&ip))
}

/// Whether the address is globally reachable unicast.
#[must_use]
pub fn is_global(ip: IpAddr) -> bool {
    match embedded(ip) {
        IpAddr::V4(_) => special(ip).is_none(),
        // RFC 4291 section 2.4 and the IANA IPv6 address space: only 2000::/3 is given out.
        IpAddr::V6(v6) => {
            v6.segments().first().is_some_and(|s| s >> 13 == 1) && special(ip).is_none()
        }
    }
}

/// The IPv4 address that traffic to this one ends at, where it is IPv4-mapped (RFC 4291 section
/// 2.5.5.2) or under the well-known NAT64 prefix `64:ff9b::/96` (RFC 6052); else itself.
fn embedded(ip: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = ip else { return ip };
    match v6.segments() {
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
            IpAddr::V4(Ipv4Addr::from(u32::from(high) << 16 | u32::from(low)))
        }
        _ => ip,
    }
}

/// Addresses that the configuration lets probes connect to although they are not globally
/// reachable: an intranet's, or a lab's.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Allowed(pub Vec<IpNet>);

impl Allowed {
    /// Whether a probe may connect to the address.
    #[must_use]
    pub fn may_connect(&self, ip: IpAddr) -> bool {
        let end = embedded(ip);
        is_global(ip) || self.0.iter().any(|net| net.contains(&ip) || net.contains(&end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn step(ip: IpAddr, up: bool) -> Option<IpAddr> {
        match ip {
            IpAddr::V4(v4) => {
                let n = u32::from(v4);
                let n = if up { n.checked_add(1) } else { n.checked_sub(1) };
                n.map(|n| IpAddr::V4(n.into()))
            }
            IpAddr::V6(v6) => {
                let n = u128::from(v6);
                let n = if up { n.checked_add(1) } else { n.checked_sub(1) };
                n.map(|n| IpAddr::V6(n.into()))
            }
        }
    }

    #[test]
    fn first_and_last_of_every_range_are_refused() {
        for row in SPECIAL {
            assert_eq!(row.net, row.net.trunc(), "{} has host bits", row.net);
            for end in [row.net.network(), row.net.broadcast()] {
                assert!(!is_global(end), "{end} is {}", row.name);
                assert!(special(end).is_some(), "{end}");
            }
        }
    }

    #[test]
    fn neighbours_of_every_range_are_judged_by_themselves() {
        // Written out by hand, so that a range drawn too wide is seen.
        let global = [
            "1.0.0.0",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "169.253.255.255",
            "169.255.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "191.255.255.255",
            "192.0.1.0",
            "192.0.1.255",
            "192.0.3.0",
            "192.88.98.255",
            "192.88.100.0",
            "192.167.255.255",
            "192.169.0.0",
            "198.17.255.255",
            "198.20.0.0",
            "198.51.99.255",
            "198.51.101.0",
            "203.0.112.255",
            "203.0.114.0",
            "223.255.255.255",
            "2001:200::",
            "2001:db7:ffff:ffff:ffff:ffff:ffff:ffff",
            "2001:db9::",
            "2001:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
            "2003::",
            "3ffe:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
            "3fff:1000::",
            "2000:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
        ];
        for row in SPECIAL {
            for (end, up) in [(row.net.network(), false), (row.net.broadcast(), true)] {
                let Some(next) = step(end, up) else { continue };
                let listed = global.contains(&next.to_string().as_str());
                assert_eq!(is_global(next), listed, "{next} beside {}", row.net);
            }
        }
        for text in global {
            assert!(is_global(ip(text)), "{text}");
        }
    }

    #[test]
    fn global_samples_pass() {
        for text in [
            "1.1.1.1",
            "8.8.8.8",
            "93.184.215.14",
            "104.16.0.1",
            "192.31.196.1",
            "192.52.193.1",
            "192.175.48.1",
            "2606:4700::1111",
            "2a00:1450:4001:80b::200e",
            "2620:4f:8000::1",
            "2400::1",
            "64:ff9b::808:808",
            "::ffff:8.8.8.8",
        ] {
            assert!(is_global(ip(text)), "{text}");
        }
    }

    #[test]
    fn embedded_addresses_decide() {
        for text in [
            "::ffff:10.0.0.1",
            "::ffff:127.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b::a00:1",
            "64:ff9b::c0a8:101",
            "2002:808:808::1",
            "2001::1",
            "::8.8.8.8",
            "64:ff9b:1::808:808",
            "64:ff9b::1:808:808",
            "4000::1",
            "::1",
            "::",
            "0.0.0.0",
            "255.255.255.255",
        ] {
            assert!(!is_global(ip(text)), "{text}");
        }
    }

    #[test]
    fn exceptions_are_let_through_alone() {
        let allowed = Allowed(vec!["10.1.0.0/16".parse().unwrap(), "fd00::/8".parse().unwrap()]);
        for (text, expect) in [
            ("10.1.2.3", true),
            ("::ffff:10.1.2.3", true),
            ("64:ff9b::a01:203", true),
            ("10.2.0.1", false),
            ("fd12::1", true),
            ("fc00::1", false),
            ("9.9.9.9", true),
        ] {
            assert_eq!(allowed.may_connect(ip(text)), expect, "{text}");
        }
        assert!(!Allowed::default().may_connect(ip("127.0.0.1")));
    }
}
