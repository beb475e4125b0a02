//! The compact table from an address to a country and a network, as a file and in memory.
//!
//! The file holds what a block of addresses is (/24 for IPv4, /48 for IPv6) in two lists of rows,
//! and the ranges that providers publish themselves, at single addresses for IPv4 and /64 for IPv6,
//! in two more. A row says "from here on": it ends where the next begins, and a gap is a row of
//! network 0 and country `ZZ`. The module does not choose between the lists;
//! [`Locator`](super::Locator) does.
//!
//! # The file
//! | bytes | what |
//! |---|---|
//! | 8 | [`MAGIC`], the last byte is the version of the layout |
//! | 4 | length of the payload once unpacked, u32 little-endian |
//! | n | the payload, one zstd frame |
//! | 8 | CRC-64/XZ of everything before it, u64 little-endian |
//!
//! The payload, where *number* is an unsigned LEB128 and *text* a number of bytes and as many bytes
//! of UTF-8: text built, number of sources, that many texts; number of countries, two letters each;
//! number of networks, then for each by rank the zigzag difference from the AS number before (the
//! first from 0), then for each one byte, the index of its usual country; number of groups, for
//! each a number of members and the members (the first names the group); then four sections: blocks
//! IPv4, blocks IPv6, providers IPv4, providers IPv6. A section is its number of rows and three
//! columns of that length, one after the other because alike bytes pack better side by side: starts
//! (number, difference from the row before; the first row from 0), networks (number, a rank),
//! countries (one byte: 0 for the usual country of the row's network, else index + 1). Nothing may
//! follow.
//!
//! The checksum finds damage, not malice: who can replace the table can say what they like in it,
//! as who can replace the program can. Hostile bytes still never panic and never make the decoder
//! hold more than [`DECODE_BYTES_MAX`].

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use thiserror::Error;
use tocsin_proto::id::Country;

use super::Place;

/// The table that ships in the program, built from the sources named in `collector/data/README.md`.
pub static BUNDLED: &[u8] = include_bytes!("../../../data/location.tbl");

/// First bytes of every table; the last is the version of the layout, and another layout gets
/// another byte.
pub const MAGIC: [u8; 8] = *b"tocsinL\x01";

/// Most bytes a payload may unpack to. The bundled one is under 4 MB; twice that leaves room for
/// years of growth of the routing table.
pub const PAYLOAD_BYTES_MAX: usize = 8 << 20;

/// Most bytes the decoder holds at any moment, its argument not counted: the unpacked payload, 14
/// bytes in memory for every 3 of it (the least that an IPv6 row takes in the file), and two
/// megabytes for what is limited by number (groups, texts) and what zstd needs itself.
pub const DECODE_BYTES_MAX: usize = PAYLOAD_BYTES_MAX + PAYLOAD_BYTES_MAX / 3 * 14 + (2 << 20);

/// Most sources a table may name, so that a page which lists them stays a page.
pub const SOURCES_MAX: usize = 32;

/// Most bytes of one text (the build date, the name of a source).
pub const TEXT_BYTES_MAX: usize = 512;

/// Most countries: a row names one in a byte, and 0 stands for "the usual one of this network". ISO
/// 3166-1 has 249.
pub const COUNTRIES_MAX: usize = 255;

/// Most groups of networks; there is one per provider with published ranges, so tens.
pub const GROUPS_MAX: usize = 1024;

/// Most networks in one group.
pub const GROUP_MEMBERS_MAX: usize = 64;

const HEAD_BYTES: usize = MAGIC.len() + 4;
const CHECKSUM_BYTES: usize = 8;

/// Why bytes are not a table.
#[derive(Debug, Error)]
pub enum TableError {
    /// Fewer bytes than the head and the checksum take.
    #[error("a location table of {bytes} bytes is too short")]
    Short {
        /// How many bytes there were.
        bytes: usize,
    },
    /// The first bytes are another file's, or those of another version of the layout.
    #[error("not a location table of this version: it begins with {found:02x?}")]
    Magic {
        /// The first bytes found.
        found: [u8; 8],
    },
    /// The bytes were damaged on their way.
    #[error("location table damaged: checksum {computed:016x}, written {written:016x}")]
    Checksum {
        /// Checksum of the bytes at hand.
        computed: u64,
        /// Checksum that the file carries.
        written: u64,
    },
    /// The payload says that it unpacks to more than [`PAYLOAD_BYTES_MAX`].
    #[error("location table would unpack to {bytes} bytes, more than {PAYLOAD_BYTES_MAX}")]
    TooLarge {
        /// Bytes announced.
        bytes: usize,
    },
    /// zstd could not unpack the payload.
    #[error("location table could not be unpacked")]
    Unpack {
        /// What zstd said.
        #[source]
        source: std::io::Error,
    },
    /// The payload unpacked to another length than announced.
    #[error("location table unpacked to {unpacked} bytes, {announced} announced")]
    Length {
        /// Bytes announced.
        announced: usize,
        /// Bytes there were.
        unpacked: usize,
    },
    /// The payload does not follow the layout.
    #[error("location table malformed in {part:?} at byte {at}")]
    Malformed {
        /// Which part was being read.
        part: Part,
        /// Offset in the unpacked payload.
        at: usize,
    },
}

/// A part of the payload, for error messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Build date and sources.
    About,
    /// The list of countries.
    Countries,
    /// The list of networks and their usual countries.
    Networks,
    /// The groups of networks that belong together.
    Groups,
    /// Blocks of IPv4 addresses.
    BlocksV4,
    /// Blocks of IPv6 addresses.
    BlocksV6,
    /// Provider ranges, IPv4.
    ProvidersV4,
    /// Provider ranges, IPv6.
    ProvidersV6,
    /// What follows the last section: nothing may.
    End,
}

/// What a table says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct About {
    /// The date of the data, as given to whoever built it.
    pub built: String,
    /// Where the data comes from, one source a line, with the attribution that its licence asks
    /// for.
    pub sources: Vec<String>,
    /// Rows of IPv4 blocks (gaps are rows too).
    pub rows_v4: usize,
    /// Rows of IPv6 blocks.
    pub rows_v6: usize,
    /// Rows of provider ranges, both families.
    pub rows_providers: usize,
    /// Different networks named.
    pub networks: usize,
    /// Different countries named, `ZZ` included when it occurs.
    pub countries: usize,
}

/// A decoded table: sorted columns, searched by halving.
pub struct Table {
    about: About,
    v4: Ranges<u32>,
    v6: Ranges<u64>,
    providers: Providers,
}

impl Table {
    /// Reads a table, checking everything once, so that look-ups cannot fail.
    ///
    /// # Errors
    /// [`TableError`] names what is wrong with the bytes; nothing of them is kept.
    pub fn decode(bytes: &[u8]) -> Result<Table, TableError> {
        let payload = unpack(bytes)?;
        let mut cursor = Cursor { bytes: &payload, at: 0, part: Part::About };
        let built = cursor.text()?;
        let sources = cursor.list(SOURCES_MAX, Cursor::text)?;
        cursor.part = Part::Countries;
        let countries = cursor.list(COUNTRIES_MAX, Cursor::country)?;
        cursor.part = Part::Networks;
        let networks = cursor.networks(&countries)?;
        cursor.part = Part::Groups;
        let groups =
            cursor.list(GROUPS_MAX, |cursor| cursor.list(GROUP_MEMBERS_MAX, Cursor::asn))?;
        let names = Names { countries, networks };
        let v4 = cursor.section(Part::BlocksV4, &names)?;
        let v6 = cursor.section(Part::BlocksV6, &names)?;
        let providers = Providers {
            v4: cursor.section(Part::ProvidersV4, &names)?,
            v6: cursor.section(Part::ProvidersV6, &names)?,
            groups: by_first(groups),
        };
        cursor.part = Part::End;
        if cursor.left() != 0 {
            return Err(cursor.malformed());
        }
        let about = About {
            built,
            sources,
            rows_v4: v4.starts.len(),
            rows_v6: v6.starts.len(),
            rows_providers: providers.v4.starts.len() + providers.v6.starts.len(),
            networks: names.networks.len(),
            countries: names.countries.len(),
        };
        Ok(Table { about, v4, v6, providers })
    }

    /// Country and network of the block that an address lies in; `None` when neither is known. A
    /// mapped IPv6 address is judged by the IPv4 address in it. The provider ranges are not asked.
    #[must_use]
    pub fn lookup(&self, ip: IpAddr) -> Option<Place> {
        let place = match ip.to_canonical() {
            IpAddr::V4(ip) => self.v4.find(ip.to_bits() >> BLOCK_SHIFT_V4),
            IpAddr::V6(ip) => self.v6.find((ip.to_bits() >> BLOCK_SHIFT_V6) as u64),
        }?;
        (place != Place::UNKNOWN).then_some(place)
    }

    /// What the table says of itself.
    #[must_use]
    pub fn about(&self) -> &About {
        &self.about
    }

    /// The ranges that providers publish.
    #[must_use]
    pub fn providers(&self) -> &Providers {
        &self.providers
    }

    /// Bytes held by the rows.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.v4.memory_bytes()
            + self.v6.memory_bytes()
            + self.providers.v4.memory_bytes()
            + self.providers.v6.memory_bytes()
    }
}

impl std::fmt::Debug for Table {
    /// Half a million rows help nobody: what the table says of itself stands for them.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Table").field(&self.about).finish()
    }
}

/// Bits of an IPv4 address below a block (/24).
pub(super) const BLOCK_SHIFT_V4: u32 = 8;
/// Bits of an IPv6 address below a block (/48).
pub(super) const BLOCK_SHIFT_V6: u32 = 80;
/// Bits of an IPv6 address below the finest provider range (/64).
pub(super) const PROVIDER_SHIFT_V6: u32 = 64;

/// The ranges that providers publish, and which networks belong to the same provider.
///
/// Routing tables have gaps just where providers announce late or selectively (a fifth of one
/// provider's addresses, measured), so a published range fills them and overrules a stranger. Where
/// the routing table already names one of the provider's own networks it knows better: a published
/// list says "ours", not which of ours.
#[derive(Clone, Default)]
pub struct Providers {
    v4: Ranges<u32>,
    v6: Ranges<u64>,
    groups: BTreeMap<u32, BTreeSet<u32>>,
}

impl Providers {
    /// The network of an address, given what the table says (0 = unknown): the provider's main
    /// network inside its ranges, unless the table already names one of that provider's.
    #[must_use]
    pub fn network(&self, ip: IpAddr, by_table: u32) -> u32 {
        let found = match ip.to_canonical() {
            IpAddr::V4(ip) => self.v4.find(ip.to_bits()),
            IpAddr::V6(ip) => self.v6.find((ip.to_bits() >> PROVIDER_SHIFT_V6) as u64),
        };
        let Some(Place { asn: main @ 1.., .. }) = found else {
            return by_table;
        };
        let own = self.groups.get(&main).is_some_and(|group| group.contains(&by_table));
        if own { by_table } else { main }
    }
}

impl std::fmt::Debug for Providers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let rows = self.v4.starts.len() + self.v6.starts.len();
        f.debug_struct("Providers").field("rows", &rows).field("groups", &self.groups).finish()
    }
}

/// Rows in columns, sorted by start; each reaches to the next.
#[derive(Clone)]
struct Ranges<K> {
    starts: Vec<K>,
    asns: Vec<u32>,
    countries: Vec<Country>,
}

impl<K> Default for Ranges<K> {
    fn default() -> Self {
        Ranges { starts: Vec::new(), asns: Vec::new(), countries: Vec::new() }
    }
}

impl<K: Copy + Ord> Ranges<K> {
    /// The row that a key lies in; `None` before the first.
    fn find(&self, key: K) -> Option<Place> {
        let row = self.starts.partition_point(|start| *start <= key).checked_sub(1)?;
        Some(Place { country: *self.countries.get(row)?, asn: *self.asns.get(row)? })
    }

    fn memory_bytes(&self) -> usize {
        self.starts.capacity() * size_of::<K>()
            + self.asns.capacity() * size_of::<u32>()
            + self.countries.capacity() * size_of::<Country>()
    }
}

/// What ranks and indices stand for.
struct Names {
    countries: Vec<Country>,
    /// By rank: AS number and usual country.
    networks: Vec<(u32, Country)>,
}

fn by_first(groups: Vec<Vec<u32>>) -> BTreeMap<u32, BTreeSet<u32>> {
    let named =
        groups.into_iter().filter_map(|group| Some((*group.first()?, group.into_iter().collect())));
    named.collect()
}

fn unpack(bytes: &[u8]) -> Result<Vec<u8>, TableError> {
    let short = TableError::Short { bytes: bytes.len() };
    let Some((body, written)) = bytes.split_last_chunk::<CHECKSUM_BYTES>() else {
        return Err(short);
    };
    let Some((head, packed)) = body.split_at_checked(HEAD_BYTES) else { return Err(short) };
    let Some((found, announced)) = head.split_first_chunk::<8>() else { return Err(short) };
    let Some((announced, _)) = announced.split_first_chunk::<4>() else { return Err(short) };
    if *found != MAGIC {
        return Err(TableError::Magic { found: *found });
    }
    let (computed, written) = (crc64(body), u64::from_le_bytes(*written));
    if computed != written {
        return Err(TableError::Checksum { computed, written });
    }
    let announced = u32::from_le_bytes(*announced) as usize;
    if announced > PAYLOAD_BYTES_MAX {
        return Err(TableError::TooLarge { bytes: announced });
    }
    let mut payload = vec![0; announced];
    // Into a buffer of fixed capacity: zstd then never allocates for its window, whatever the frame
    // asks for.
    let unpacked = zstd::bulk::decompress_to_buffer(packed, &mut payload)
        .map_err(|source| TableError::Unpack { source })?;
    if unpacked != announced {
        return Err(TableError::Length { announced, unpacked });
    }
    Ok(payload)
}

/// Reads the payload from front to back; every refusal says where it was.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
    part: Part,
}

impl Cursor<'_> {
    fn malformed(&self) -> TableError {
        TableError::Malformed { part: self.part, at: self.at }
    }

    fn left(&self) -> usize {
        self.bytes.len().saturating_sub(self.at)
    }

    fn take(&mut self, count: usize) -> Result<&[u8], TableError> {
        let end = self.at.checked_add(count).ok_or(self.malformed())?;
        let taken = self.bytes.get(self.at..end).ok_or(self.malformed())?;
        self.at = end;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, TableError> {
        let byte = self.bytes.get(self.at).copied().ok_or(self.malformed())?;
        self.at += 1;
        Ok(byte)
    }

    fn number(&mut self) -> Result<u64, TableError> {
        let mut number = 0_u64;
        for shift in (0..u64::BITS).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if (bits << shift) >> shift != bits {
                return Err(self.malformed());
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(self.malformed())
    }

    /// A number of things that follow, refused when it is over the limit, or when that many things
    /// of `bytes_each` cannot follow any more.
    fn count(&mut self, max: usize, bytes_each: usize) -> Result<usize, TableError> {
        let count = usize::try_from(self.number()?).map_err(|_| self.malformed())?;
        if count > max || count > self.left() / bytes_each {
            return Err(self.malformed());
        }
        Ok(count)
    }

    fn list<T>(
        &mut self,
        max: usize,
        mut item: impl FnMut(&mut Self) -> Result<T, TableError>,
    ) -> Result<Vec<T>, TableError> {
        let count = self.count(max, 1)?;
        (0..count).map(|_| item(self)).collect()
    }

    fn text(&mut self) -> Result<String, TableError> {
        let count = self.count(TEXT_BYTES_MAX, 1)?;
        let text = std::str::from_utf8(self.take(count)?).map(str::to_owned);
        text.map_err(|_| self.malformed())
    }

    fn country(&mut self) -> Result<Country, TableError> {
        let code = [self.byte()?, self.byte()?];
        Country::new(code).ok_or(self.malformed())
    }

    fn asn(&mut self) -> Result<u32, TableError> {
        u32::try_from(self.number()?).map_err(|_| self.malformed())
    }

    fn networks(&mut self, countries: &[Country]) -> Result<Vec<(u32, Country)>, TableError> {
        let count = self.count(usize::MAX, 2)?;
        let mut networks = Vec::with_capacity(count);
        let mut asn = 0_i64;
        for _ in 0..count {
            asn = asn.checked_add(unzigzag(self.number()?)).ok_or(self.malformed())?;
            networks.push((u32::try_from(asn).map_err(|_| self.malformed())?, Country::UNKNOWN));
        }
        for network in &mut networks {
            let index = usize::from(self.byte()?);
            network.1 = *countries.get(index).ok_or(self.malformed())?;
        }
        Ok(networks)
    }

    fn section<K: TryFrom<u64>>(
        &mut self,
        part: Part,
        names: &Names,
    ) -> Result<Ranges<K>, TableError> {
        self.part = part;
        let count = self.count(usize::MAX, 3)?;
        let mut starts = Vec::with_capacity(count);
        let mut start = 0_u64;
        for row in 0..count {
            let step = self.number()?;
            if step == 0 && row != 0 {
                return Err(self.malformed());
            }
            start = start.checked_add(step).ok_or(self.malformed())?;
            starts.push(K::try_from(start).map_err(|_| self.malformed())?);
        }
        let mut asns = Vec::with_capacity(count);
        let mut countries = Vec::with_capacity(count);
        for _ in 0..count {
            let rank = usize::try_from(self.number()?).map_err(|_| self.malformed())?;
            let &(asn, usual) = names.networks.get(rank).ok_or(self.malformed())?;
            asns.push(asn);
            countries.push(usual);
        }
        for country in &mut countries {
            if let Some(index) = usize::from(self.byte()?).checked_sub(1) {
                *country = *names.countries.get(index).ok_or(self.malformed())?;
            }
        }
        Ok(Ranges { starts, asns, countries })
    }
}

fn unzigzag(number: u64) -> i64 {
    (number >> 1).cast_signed() ^ -(number & 1).cast_signed()
}

/// CRC-64/XZ: reflected ECMA-182 polynomial, all ones before and after. It finds every burst of up
/// to 64 bits, so every flipped bit or byte.
pub(super) fn crc64(bytes: &[u8]) -> u64 {
    const TABLE: [u64; 256] = crc64_table();
    #[expect(clippy::indexing_slicing, reason = "a byte is always below 256")]
    let step = |crc: u64, byte: &u8| TABLE[usize::from(crc as u8 ^ byte)] ^ (crc >> 8);
    !bytes.iter().fold(!0, step)
}

const fn crc64_table() -> [u64; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u64;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0xc96c_5795_d787_0f42 } else { crc >> 1 };
            bit += 1;
        }
        #[expect(clippy::indexing_slicing, reason = "the loop ends at the length of the table")]
        {
            table[byte] = crc;
        }
        byte += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn payload_of(bytes: &[u8]) -> Vec<u8> {
        unpack(bytes).unwrap()
    }

    fn seal(announced: usize, payload: &[u8]) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(u32::try_from(announced).unwrap().to_le_bytes());
        bytes.extend(zstd::bulk::compress(payload, 1).unwrap());
        let checksum = crc64(&bytes);
        bytes.extend(checksum.to_le_bytes());
        bytes
    }

    /// Built by hand from the description at the top, so that the description is tested too.
    fn by_hand() -> Vec<u8> {
        let mut payload = vec![3, b'n', b'o', b'w', 1, 2, b'u', b's'];
        payload.extend(*b"\x02FRZZ"); // countries
        payload.extend([2, 0, 30, 1, 0]); // AS0 (usually ZZ), AS15 (usually FR)
        payload.extend([1, 2, 15, 3]); // AS15 and AS3 are of one provider
        payload.extend([2, 5, 2, 1, 0, 0, 0]); // 0.0.5.0 to 0.0.6.255: AS15 FR
        payload.extend([1, 7, 1, 2]); // from 0:0:7:: on: AS15 in ZZ
        payload.extend([2, 9, 1, 1, 0, 2, 0]); // 0.0.0.9: provider AS15
        payload.extend([0]);
        payload
    }

    fn at(table: &Table, ip: &str) -> Option<(String, u32)> {
        let place = table.lookup(ip.parse().unwrap())?;
        Some((place.country.as_str().to_owned(), place.asn))
    }

    #[test]
    fn the_description_of_the_file_is_what_is_read() {
        let payload = by_hand();
        let table = Table::decode(&seal(payload.len(), &payload)).unwrap();
        assert_eq!(at(&table, "0.0.4.255"), None);
        assert_eq!(at(&table, "0.0.5.0"), Some(("FR".into(), 15)));
        assert_eq!(at(&table, "0.0.6.255"), Some(("FR".into(), 15)));
        assert_eq!(at(&table, "0.0.7.0"), None);
        assert_eq!(at(&table, "::ffff:0.0.6.1"), Some(("FR".into(), 15)));
        assert_eq!(at(&table, "0:0:6:ffff::"), None);
        assert_eq!(at(&table, "0:0:7::"), Some(("ZZ".into(), 15)));
        let network = |ip: &str, by_table| table.providers().network(ip.parse().unwrap(), by_table);
        assert_eq!(network("0.0.0.9", 0), 15);
        assert_eq!(network("0.0.0.9", 77), 15, "a stranger is overruled");
        assert_eq!(network("0.0.0.9", 3), 3, "a sister network is believed");
        assert_eq!(network("0.0.0.10", 77), 77);
        let about = table.about();
        assert_eq!(
            (about.built.as_str(), about.sources.as_slice()),
            ("now", &["us".to_owned()][..])
        );
        assert_eq!((about.rows_v4, about.rows_v6, about.rows_providers), (2, 1, 2));
        assert_eq!((about.networks, about.countries), (2, 2));
    }

    #[test]
    fn checksum_is_crc_64_xz() {
        assert_eq!(crc64(b"123456789"), 0x995d_c9bb_df19_39fa);
    }

    #[test]
    fn every_shortened_payload_is_malformed() {
        let payload = by_hand();
        for length in 0..payload.len() {
            let refused = Table::decode(&seal(length, &payload[..length])).unwrap_err();
            assert!(matches!(refused, TableError::Malformed { .. }), "{length}: {refused}");
        }
    }

    #[test]
    fn nothing_may_follow() {
        let mut payload = by_hand();
        payload.push(0);
        let refused = Table::decode(&seal(payload.len(), &payload)).unwrap_err();
        assert!(matches!(refused, TableError::Malformed { part: Part::End, .. }), "{refused}");
    }

    #[test]
    fn starts_must_rise() {
        let mut payload = by_hand();
        let section = payload.len() - 19;
        assert_eq!(payload[section..section + 3], [2, 5, 2]);
        payload[section + 2] = 0;
        let refused = Table::decode(&seal(payload.len(), &payload)).unwrap_err();
        assert!(matches!(refused, TableError::Malformed { part: Part::BlocksV4, .. }), "{refused}");
    }

    #[test]
    fn lengths_are_checked_before_memory_is_taken() {
        let payload = by_hand();
        let refused = Table::decode(&seal(PAYLOAD_BYTES_MAX + 1, &payload)).unwrap_err();
        assert!(matches!(refused, TableError::TooLarge { .. }), "{refused}");
        let refused = Table::decode(&seal(payload.len() + 1, &payload)).unwrap_err();
        assert!(matches!(refused, TableError::Length { .. }), "{refused}");
        let refused = Table::decode(&seal(payload.len() - 1, &payload)).unwrap_err();
        assert!(matches!(refused, TableError::Unpack { .. }), "{refused}");
    }

    #[test]
    fn the_fullest_payload_stays_inside_the_memory_bound() {
        // IPv6 rows of three bytes each are the most that memory can be made of.
        let head = [0, 0, 1, b'Z', b'Z', 1, 0, 0, 0, 0];
        let rows = (PAYLOAD_BYTES_MAX - head.len() - 6) / 3;
        let mut payload = head.to_vec();
        let mut count = rows;
        while count > 0x7f {
            payload.push(count as u8 | 0x80);
            count >>= 7;
        }
        payload.push(count as u8);
        payload.extend(vec![1; rows]);
        payload.extend(vec![0; 2 * rows + 2]);
        let table = Table::decode(&seal(payload.len(), &payload)).unwrap();
        assert_eq!(table.about().rows_v6, rows);
        let held = payload.len() + table.memory_bytes();
        assert!(held <= DECODE_BYTES_MAX && held > DECODE_BYTES_MAX - (3 << 20), "{held}");
        // One row more than there are bytes for is refused by its number alone.
        payload.truncate(payload.len() - 3);
        assert!(matches!(
            Table::decode(&seal(payload.len(), &payload)),
            Err(TableError::Malformed { .. })
        ));
    }

    #[test]
    fn numbers_end_at_64_bits() {
        let read = |bytes: &[u8]| Cursor { bytes, at: 0, part: Part::End }.number().ok();
        assert_eq!(read(&[0xe5, 0x8e, 0x26]), Some(624_485));
        let mut most = [0xff; 10];
        most[9] = 1;
        assert_eq!(read(&most), Some(u64::MAX));
        most[9] = 2;
        assert_eq!(read(&most), None);
        assert_eq!(read(&[0x80; 11]), None);
        assert_eq!(read(&[0x80]), None);
    }

    #[test]
    fn the_bundled_table_is_whole_and_small() {
        assert!(BUNDLED.len() <= 1_600_000, "{}", BUNDLED.len());
        let table = Table::decode(BUNDLED).unwrap();
        let about = table.about();
        assert!(about.rows_v4 > 400_000 && about.rows_v6 > 150_000 && about.rows_providers > 5_000);
        assert!(about.networks > 70_000 && about.countries > 200);
        assert!(about.sources.iter().any(|source| source.contains("db-ip.com")), "attribution");
        assert!(payload_of(BUNDLED).len() * 2 <= PAYLOAD_BYTES_MAX, "room to grow");
        for byte in [0, 7, 9, 12, 1000, BUNDLED.len() / 2, BUNDLED.len() - 9, BUNDLED.len() - 1] {
            let mut bytes = BUNDLED.to_vec();
            bytes[byte] ^= 0x10;
            assert!(Table::decode(&bytes).is_err(), "byte {byte}");
        }
    }

    #[test]
    fn errors_and_debug_name_no_address() {
        let payload = by_hand();
        let table = Table::decode(&seal(payload.len(), &payload)).unwrap();
        let shown = format!("{table:?} {:?}", table.providers());
        assert!(!shown.contains("0.0.5") && !shown.contains("starts"), "{shown}");
    }

    proptest! {
        #[test]
        fn any_flipped_bit_or_cut_is_refused(bit in 0_usize..4096, cut in 0_usize..512) {
            let payload = by_hand();
            let whole = seal(payload.len(), &payload);
            let mut flipped = whole.clone();
            let bit = bit % (whole.len() * 8);
            flipped[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(Table::decode(&flipped).is_err());
            prop_assert!(Table::decode(&whole[..cut % whole.len()]).is_err());
        }

        #[test]
        fn hostile_bytes_under_a_right_checksum_never_panic(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
            ip in any::<u128>(),
        ) {
            let mut payload = by_hand();
            for (index, byte) in changes {
                let index = index.index(payload.len());
                payload[index] = byte;
            }
            if let Ok(table) = Table::decode(&seal(payload.len(), &payload)) {
                let ip = IpAddr::V6(ip.into());
                let by_table = table.lookup(ip).map_or(0, |place| place.asn);
                let network = table.providers().network(ip, by_table);
                prop_assert!(network == by_table || network != 0);
            }
        }

        #[test]
        fn hostile_frames_never_panic(
            announced in any::<u32>(),
            frame in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let mut bytes = MAGIC.to_vec();
            bytes.extend(announced.to_le_bytes());
            bytes.extend([0x28, 0xb5, 0x2f, 0xfd]);
            bytes.extend(frame);
            let checksum = crc64(&bytes);
            bytes.extend(checksum.to_le_bytes());
            prop_assert!(Table::decode(&bytes).is_err());
        }
    }
}
