//! Decides where an address is: country and network (ASN).
//!
//! In the order of trust: the operator's own entries, the longest prefix first; then the ranges
//! that providers publish, for the network only; then the table in the program, or MMDB files that
//! the operator gave. An address is an argument here and nothing else: it is not kept, and no type
//! of this module prints one. Inputs are bytes and configuration; the output is a `Place`, `ZZ` and
//! 0 where nothing is known.
//!
//! Anycast addresses have no country and satellite or roaming users have a wrong one, so a place is
//! where a network says it is, not where a person sits. IPv4 addresses mapped into IPv6 are judged
//! as IPv4; other embeddings (NAT64, 6to4) are not unfolded, since a session's source address is
//! never one of them unless the collector itself sits behind the translator.

pub mod build;
pub mod table;

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};
use maxminddb::{MaxMindDbError, PathElement, Reader};
use thiserror::Error;
use tocsin_proto::id::Country;

use table::{Providers, Table};

/// Where an address is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Country, `ZZ` when unknown.
    pub country: Country,
    /// AS number of the network, 0 when unknown.
    pub asn: u32,
}

impl Place {
    /// Nothing is known.
    pub const UNKNOWN: Place = Place { country: Country::UNKNOWN, asn: 0 };
}

/// An entry of the operator's, believed over everything else: a lab, a campus, a correction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Override {
    /// The addresses meant.
    pub net: IpNet,
    /// Their country; `ZZ` says that none is to be assumed.
    pub country: Country,
    /// Their network; 0 says that none is to be assumed.
    pub asn: u32,
}

/// What answers where no override does.
#[derive(Debug)]
pub enum Source {
    /// A table of our own format: the bundled one or a rebuilt one.
    Bundled(Table),
    /// The operator's MMDB files.
    Mmdb {
        /// Answers for the country.
        country: Option<Mmdb>,
        /// Answers for the network.
        asn: Option<Mmdb>,
        /// Answers what the files leave open, one of them missing included.
        rest: Option<Table>,
    },
}

impl Source {
    fn lookup(&self, ip: IpAddr) -> Place {
        match self {
            Source::Bundled(table) => table.lookup(ip).unwrap_or(Place::UNKNOWN),
            Source::Mmdb { country, asn, rest } => {
                let rest =
                    rest.as_ref().and_then(|table| table.lookup(ip)).unwrap_or(Place::UNKNOWN);
                Place {
                    country: country
                        .as_ref()
                        .and_then(|mmdb| mmdb.country(ip))
                        .unwrap_or(rest.country),
                    asn: asn.as_ref().and_then(|mmdb| mmdb.asn(ip)).unwrap_or(rest.asn),
                }
            }
        }
    }
}

/// Bytes that are not an MMDB file.
#[derive(Debug, Error)]
#[error("no MMDB file in these {bytes} bytes")]
pub struct MmdbError {
    /// How many bytes there were.
    pub bytes: usize,
    /// What the reader said.
    #[source]
    pub source: MaxMindDbError,
}

/// An MMDB file in memory: GeoLite2, GeoIP2 and DB-IP layouts (`country.iso_code`,
/// `autonomous_system_number`), and the flat `country_code` of ip-location-db.
pub struct Mmdb(Box<Reader<Vec<u8>>>);

impl Mmdb {
    /// Reads the bytes of a file. Only the head is checked: a record that turns out broken counts
    /// as unknown when it is looked up.
    ///
    /// # Errors
    /// When the bytes are no MMDB file, or one of an unknown version.
    pub fn parse(bytes: Vec<u8>) -> Result<Mmdb, MmdbError> {
        let count = bytes.len();
        Reader::from_source(bytes)
            .map(|reader| Mmdb(Box::new(reader)))
            .map_err(|source| MmdbError { bytes: count, source })
    }

    fn country(&self, ip: IpAddr) -> Option<Country> {
        let found = self.0.lookup(ip.to_canonical()).ok()?;
        let nested =
            found.decode_path::<&str>(&[PathElement::Key("country"), PathElement::Key("iso_code")]);
        let flat = || found.decode_path::<&str>(&[PathElement::Key("country_code")]).ok().flatten();
        let code = nested.ok().flatten().or_else(flat)?;
        Country::new(code.as_bytes().try_into().ok()?)
    }

    fn asn(&self, ip: IpAddr) -> Option<u32> {
        let found = self.0.lookup(ip.to_canonical()).ok()?;
        found.decode_path(&[PathElement::Key("autonomous_system_number")]).ok()?
    }
}

impl fmt::Debug for Mmdb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Mmdb").field(&self.0.metadata().database_type).finish()
    }
}

/// Turns addresses into places.
#[derive(Debug)]
pub struct Locator {
    /// By falling prefix length, then by prefix: the first hit is the longest.
    overrides: BTreeMap<Reverse<u8>, BTreeMap<IpNet, Place>>,
    providers: Providers,
    source: Source,
}

impl Locator {
    /// Of two overrides for the same prefix the later one stands. `providers` usually come from a
    /// table: `table.providers().clone()`.
    #[must_use]
    pub fn new(
        overrides: impl IntoIterator<Item = Override>,
        providers: Providers,
        source: Source,
    ) -> Locator {
        let mut by_length: BTreeMap<_, BTreeMap<_, _>> = BTreeMap::new();
        for Override { net, country, asn } in overrides {
            let net = unmapped(net).trunc();
            by_length
                .entry(Reverse(net.prefix_len()))
                .or_default()
                .insert(net, Place { country, asn });
        }
        Locator { overrides: by_length, providers, source }
    }

    /// A locator over one table and the provider ranges in it.
    #[must_use]
    pub fn of_table(overrides: impl IntoIterator<Item = Override>, table: Table) -> Locator {
        Locator::new(overrides, table.providers().clone(), Source::Bundled(table))
    }

    /// The place of an address, [`Place::UNKNOWN`] when nobody knows it.
    #[must_use]
    pub fn locate(&self, ip: IpAddr) -> Place {
        let ip = ip.to_canonical();
        if let Some(place) = self.overridden(ip) {
            return place;
        }
        let Place { country, asn } = self.source.lookup(ip);
        Place { country, asn: self.providers.network(ip, asn) }
    }

    fn overridden(&self, ip: IpAddr) -> Option<Place> {
        let mut hits = self.overrides.iter().filter_map(|(Reverse(length), nets)| {
            let net = IpNet::new(ip, *length).ok()?;
            nets.get(&net.trunc()).copied()
        });
        hits.next()
    }
}

/// A prefix inside ::ffff:0:0/96 as the IPv4 prefix it means.
fn unmapped(net: IpNet) -> IpNet {
    let IpNet::V6(v6) = net else { return net };
    let (Some(ip), Some(length)) = (v6.addr().to_ipv4_mapped(), v6.prefix_len().checked_sub(96))
    else {
        return net;
    };
    Ipv4Net::new(ip, length).map_or(net, IpNet::V4)
}

/// The block that casts one vote: /24 for IPv4, /48 for IPv6. It lives from the socket to the keyed
/// hash and is never printed, stored or sent: `Debug` and `Display` name the family only.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix([u8; 7]);

impl Prefix {
    /// The bytes to hash: the family (4 or 6), then 3 or 6 bytes of address, padded with zeros.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 7] {
        &self.0
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [family, ..] = self.0;
        f.write_str(if family == 4 { "an IPv4 /24" } else { "an IPv6 /48" })
    }
}

/// The block of an address; an IPv4 address mapped into IPv6 gives the block of the IPv4 address.
#[must_use]
pub fn prefix_of(ip: IpAddr) -> Prefix {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            let [a, b, c, _] = ip.octets();
            Prefix([4, a, b, c, 0, 0, 0])
        }
        IpAddr::V6(ip) => {
            let [a, b, c, d, e, f, ..] = ip.octets();
            Prefix([6, a, b, c, d, e, f])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::table::BUNDLED;
    use super::*;
    use proptest::prelude::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn entry(net: &str, code: &[u8; 2], asn: u32) -> Override {
        Override { net: net.parse().unwrap(), country: Country::new(*code).unwrap(), asn }
    }

    fn bundled() -> Table {
        Table::decode(BUNDLED).unwrap()
    }

    fn seen(locator: &Locator, text: &str) -> (String, u32) {
        let place = locator.locate(ip(text));
        (place.country.as_str().to_owned(), place.asn)
    }

    #[test]
    fn well_known_addresses_are_where_they_are() {
        let locator = Locator::of_table([], bundled());
        for (text, asn) in [
            ("8.8.8.8", 15_169),
            ("::ffff:8.8.8.8", 15_169),
            ("1.1.1.1", 13_335),
            ("1.0.0.1", 13_335),
            ("104.16.0.1", 13_335),
            ("2606:4700:4700::1111", 13_335),
            ("151.101.1.1", 54_113),
            ("185.199.108.153", 54_113),
            ("13.224.0.1", 16_509),
            ("13.107.42.14", 8_068),
            ("157.240.1.35", 32_934),
        ] {
            assert_eq!(locator.locate(ip(text)).asn, asn, "{text}");
        }
        for (text, code, asn) in [
            ("90.0.0.1", "FR", 3_215),
            ("90.100.0.1", "FR", 3_215),
            ("86.192.0.1", "FR", 3_215),
            ("82.64.0.1", "FR", 12_322),
            ("78.192.0.1", "FR", 12_322),
            ("176.128.0.1", "FR", 5_410),
            ("77.128.0.1", "FR", 15_557),
            ("213.186.33.5", "FR", 16_276),
            ("88.198.0.1", "DE", 24_940),
            ("95.216.0.1", "FI", 24_940),
            ("3.5.140.1", "KR", 16_509),
        ] {
            assert_eq!(seen(&locator, text), (code.to_owned(), asn), "{text}");
        }
        for text in ["10.0.0.1", "127.0.0.1", "::1", "fe80::1", "fd00::1"] {
            assert_eq!(locator.locate(ip(text)), Place::UNKNOWN, "{text}");
        }
    }

    #[test]
    fn provider_ranges_fill_the_gaps_of_the_table() {
        let table = bundled();
        let gap = ip("13.224.0.1");
        assert_eq!(
            table.lookup(gap).map_or(0, |place| place.asn),
            0,
            "the gap has closed: pick another"
        );
        assert_eq!(table.providers().network(gap, 0), 16_509);
        // Virginia's own network is not overruled by the provider's main one.
        assert_eq!(Locator::of_table([], table).locate(ip("3.80.0.1")).asn, 14_618);
    }

    #[test]
    fn overrides_win_and_the_longest_of_them() {
        let entries = [
            entry("8.8.0.0/16", b"AA", 1),
            entry("8.8.8.0/24", b"BB", 2),
            entry("8.8.8.9/24", b"CC", 3),
            entry("8.8.8.8/32", b"DD", 4),
            entry("10.0.0.0/8", b"ZZ", 5),
            entry("::ffff:192.0.2.0/120", b"EE", 6),
            entry("2001:db8::/32", b"FF", 7),
            entry("2001:db8:1::/48", b"GG", 8),
        ];
        let locator = Locator::of_table(entries, bundled());
        for (text, code, asn) in [
            ("8.8.1.1", "AA", 1),
            ("8.8.8.7", "CC", 3),
            ("8.8.8.8", "DD", 4),
            ("::ffff:8.8.8.8", "DD", 4),
            ("10.9.8.7", "ZZ", 5),
            ("192.0.2.255", "EE", 6),
            ("2001:db8:2::", "FF", 7),
            ("2001:db8:1::1", "GG", 8),
        ] {
            assert_eq!(seen(&locator, text), (code.to_owned(), asn), "{text}");
        }
        assert_eq!(
            locator.locate(ip("8.9.0.0")),
            Locator::of_table([], bundled()).locate(ip("8.9.0.0"))
        );
    }

    #[test]
    fn an_override_of_everything_is_still_the_shortest() {
        let locator = Locator::of_table(
            [entry("0.0.0.0/0", b"AA", 1), entry("1.0.0.0/8", b"BB", 2)],
            bundled(),
        );
        assert_eq!(seen(&locator, "1.1.1.1"), ("BB".to_owned(), 2));
        assert_eq!(seen(&locator, "8.8.8.8"), ("AA".to_owned(), 1));
        assert_eq!(
            locator.locate(ip("2606:4700:4700::1111")).asn,
            13_335,
            "the other family is not meant"
        );
    }

    /// A one-record MMDB file for 192.0.2.0/24, from the format's specification (MaxMind DB 2.0): a
    /// search tree of 24-bit records, sixteen zero bytes, the data, and the metadata behind its
    /// marker.
    fn mmdb(record: &[u8]) -> Vec<u8> {
        let (net, length) = (0xc000_0200_u32, 24_u32);
        let mut bytes = Vec::new();
        for depth in 0..length {
            let next = if depth + 1 == length { length + 16 } else { depth + 1 };
            let branches =
                if (net >> (31 - depth)) & 1 == 1 { [length, next] } else { [next, length] };
            branches.iter().for_each(|branch| bytes.extend(&branch.to_be_bytes()[1..]));
        }
        bytes.extend([0; 16]);
        bytes.extend(record);
        bytes.extend(b"\xab\xcd\xefMaxMind.com");
        bytes.push(0xe0 | 9);
        for (key, value) in [
            ("node_count", &[0xc1, 24][..]),
            ("record_size", &[0xa1, 24]),
            ("ip_version", &[0xa1, 4]),
            ("binary_format_major_version", &[0xa1, 2]),
            ("binary_format_minor_version", &[0xa0]),
            ("database_type", b"\x44Test"),
            ("build_epoch", &[0x01, 0x02, 7]),
            ("languages", &[0x00, 0x04]),
            ("description", &[0xe0]),
        ] {
            bytes.extend(text(key));
            bytes.extend(value);
        }
        bytes
    }

    fn text(text: &str) -> Vec<u8> {
        let mut bytes = vec![0x40 | u8::try_from(text.len().min(29)).unwrap()];
        bytes.extend(text.len().checked_sub(29).map(|over| u8::try_from(over).unwrap()));
        bytes.extend(text.as_bytes());
        bytes
    }

    fn country_record() -> Vec<u8> {
        [vec![0xe1], text("country"), vec![0xe1], text("iso_code"), text("NL")].concat()
    }

    fn asn_record() -> Vec<u8> {
        [vec![0xe1], text("autonomous_system_number"), vec![0xc4, 0, 0, 0xfb, 0xf4]].concat()
    }

    #[test]
    fn mmdb_files_answer_and_the_table_fills_in() {
        let open = |record: Vec<u8>| Some(Mmdb::parse(mmdb(&record)).unwrap());
        let flat = [vec![0xe1], text("country_code"), text("BE")].concat();
        let locate = |source, text| {
            let place = Locator::new([], Providers::default(), source).locate(ip(text));
            (place.country.as_str().to_owned(), place.asn)
        };
        let both = || Source::Mmdb {
            country: open(country_record()),
            asn: open(asn_record()),
            rest: None,
        };
        assert_eq!(locate(both(), "192.0.2.1"), ("NL".to_owned(), 64_500));
        assert_eq!(locate(both(), "::ffff:192.0.2.1"), ("NL".to_owned(), 64_500));
        assert_eq!(locate(both(), "192.0.3.1"), ("ZZ".to_owned(), 0));
        assert_eq!(
            locate(both(), "2001:db8::1"),
            ("ZZ".to_owned(), 0),
            "an IPv4 file knows no IPv6"
        );
        let only_flat = Source::Mmdb { country: open(flat), asn: None, rest: None };
        assert_eq!(locate(only_flat, "192.0.2.1"), ("BE".to_owned(), 0));
        let filled =
            Source::Mmdb { country: open(country_record()), asn: None, rest: Some(bundled()) };
        assert_eq!(locate(filled, "90.0.0.1"), ("FR".to_owned(), 3_215));
    }

    #[test]
    fn providers_are_asked_before_an_mmdb_file() {
        let asn = Some(Mmdb::parse(mmdb(&asn_record())).unwrap());
        let source = Source::Mmdb { country: None, asn, rest: None };
        let locator = Locator::new([], bundled().providers().clone(), source);
        assert_eq!(locator.locate(ip("13.224.0.1")).asn, 16_509);
        assert_eq!(locator.locate(ip("192.0.2.1")).asn, 64_500);
    }

    #[test]
    fn prefixes_are_blocks() {
        let same = |a: &str, b: &str| prefix_of(ip(a)) == prefix_of(ip(b));
        assert!(same("192.0.2.0", "192.0.2.255"));
        assert!(!same("192.0.2.255", "192.0.3.0"));
        assert!(same("192.0.2.7", "::ffff:192.0.2.200"));
        assert!(same("2001:db8:1::", "2001:db8:1:ffff:ffff:ffff:ffff:ffff"));
        assert!(!same("2001:db8:1::", "2001:db8:2::"));
        assert!(!same("0.0.0.0", "::"));
        assert_eq!(prefix_of(ip("192.0.2.7")).as_bytes(), &[4, 192, 0, 2, 0, 0, 0]);
    }

    proptest! {
        #[test]
        fn a_prefix_never_prints_its_address(bits in any::<u128>()) {
            for address in [IpAddr::V6(bits.into()), IpAddr::V4((bits as u32).into())] {
                let prefix = prefix_of(address);
                let shown = format!("{prefix} {prefix:?} {prefix:#?}");
                let family = if prefix.as_bytes()[0] == 4 { "an IPv4 /24" } else { "an IPv6 /48" };
                prop_assert_eq!(shown, format!("{family} {family} {family}"));
            }
        }

        #[test]
        fn broken_mmdb_files_never_panic(
            cut in any::<prop::sample::Index>(),
            flip in any::<prop::sample::Index>(),
            bits in 1_u8..=255,
            record in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            let mut flipped = mmdb(&country_record());
            let at = flip.index(flipped.len());
            flipped[at] ^= bits;
            let whole = mmdb(&asn_record());
            let cut = whole[..cut.index(whole.len())].to_vec();
            for bytes in [flipped, cut, mmdb(&record)] {
                if let Ok(mmdb) = Mmdb::parse(bytes) {
                    let country = mmdb.country(ip("192.0.2.1"));
                    prop_assert!(country.is_none_or(|country| country.as_str().len() == 2));
                    mmdb.asn(ip("192.0.2.1"));
                }
            }
        }
    }
}
