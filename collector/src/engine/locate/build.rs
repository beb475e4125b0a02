//! Builds a location table: rows of (first, last, network) and (first, last, country) for both
//! families, and provider prefixes, into the bytes that
//! [`Table::decode`](super::table::Table::decode) reads.
//!
//! Sources overlap, so rows do: the row that begins later wins, of equal beginnings the narrower,
//! of equal ranges the one given later; where the winner ends, the loser goes on. Rows are then
//! rounded to blocks (/24, /48): a block that several share goes to the value with the most
//! addresses in it, the smallest value when two are equal; addresses without a row do not vote. The
//! same rows in any order give the same bytes, equal ranges aside. No file is read here: rows
//! arrive as iterators.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use thiserror::Error;
use tocsin_proto::id::Country;

use super::table::{
    BLOCK_SHIFT_V4, BLOCK_SHIFT_V6, COUNTRIES_MAX, GROUP_MEMBERS_MAX, GROUPS_MAX, MAGIC,
    PAYLOAD_BYTES_MAX, PROVIDER_SHIFT_V6, SOURCES_MAX, TEXT_BYTES_MAX, crc64,
};

/// zstd level: the table is packed once and shipped often, and unpacking costs the same at every
/// level.
const ZSTD_LEVEL: i32 = 22;

/// One row of a source: addresses from first to last, both included, and what they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row<A, V> {
    /// First address.
    pub first: A,
    /// Last address.
    pub last: A,
    /// AS number or country.
    pub value: V,
}

/// A prefix that a provider publishes as its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProviderPrefix {
    /// The prefix. Of nested ones the longest wins, of equal ones the last given.
    pub net: IpNet,
    /// The provider's networks: first the one to assume, then those that the network rows are
    /// believed about. Never empty.
    pub asns: Vec<u32>,
}

/// Everything a table is made of, in any order.
pub struct Inputs<A4, A6, C4, C6, P> {
    /// Networks of IPv4 addresses.
    pub asn_v4: A4,
    /// Networks of IPv6 addresses.
    pub asn_v6: A6,
    /// Countries of IPv4 addresses.
    pub country_v4: C4,
    /// Countries of IPv6 addresses.
    pub country_v6: C6,
    /// Prefixes of providers.
    pub providers: P,
    /// The date of the data.
    pub built: String,
    /// Where it comes from, with the attribution asked for.
    pub sources: Vec<String>,
}

/// A source, for error messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Column {
    /// Networks of IPv4 addresses.
    AsnV4,
    /// Networks of IPv6 addresses.
    AsnV6,
    /// Countries of IPv4 addresses.
    CountryV4,
    /// Countries of IPv6 addresses.
    CountryV6,
}

/// Why no table could be built.
#[derive(Debug, Error)]
pub enum BuildError {
    /// A row ends before it begins.
    #[error("row {row} of {column:?} ends before it begins")]
    Inverted {
        /// The source.
        column: Column,
        /// The row, from 0.
        row: usize,
    },
    /// A provider prefix names no network, network 0, or too many.
    #[error(
        "provider prefix {row} names {asns} networks, expected 1 to {GROUP_MEMBERS_MAX}, none of them 0"
    )]
    ProviderNetworks {
        /// The prefix, from 0.
        row: usize,
        /// How many it names.
        asns: usize,
    },
    /// Too many providers, or too many networks of one when its prefixes are taken together.
    #[error(
        "{groups} providers, the largest with {members} networks: over the limits of {GROUPS_MAX} and {GROUP_MEMBERS_MAX}"
    )]
    ProviderGroups {
        /// Providers.
        groups: usize,
        /// Networks of the largest.
        members: usize,
    },
    /// More countries than a byte can name.
    #[error("{countries} countries, the layout has room for {COUNTRIES_MAX}")]
    Countries {
        /// How many.
        countries: usize,
    },
    /// Too many sources, or one of the texts is too long.
    #[error(
        "{sources} sources, longest text {bytes} bytes: over the limits of {SOURCES_MAX} and {TEXT_BYTES_MAX}"
    )]
    Texts {
        /// Sources given.
        sources: usize,
        /// Bytes of the longest text.
        bytes: usize,
    },
    /// The payload would be refused by the decoder.
    #[error("table of {bytes} bytes before packing, the limit is {PAYLOAD_BYTES_MAX}")]
    TooLarge {
        /// Bytes before packing.
        bytes: usize,
    },
    /// zstd failed.
    #[error("table could not be packed")]
    Pack {
        /// What zstd said.
        #[source]
        source: std::io::Error,
    },
}

/// Builds the bytes of a table.
///
/// # Errors
/// [`BuildError`] names the source and row that is wrong, or the limit that the whole is over.
pub fn build<A4, A6, C4, C6, P>(inputs: Inputs<A4, A6, C4, C6, P>) -> Result<Vec<u8>, BuildError>
where
    A4: IntoIterator<Item = Row<Ipv4Addr, u32>>,
    A6: IntoIterator<Item = Row<Ipv6Addr, u32>>,
    C4: IntoIterator<Item = Row<Ipv4Addr, Country>>,
    C6: IntoIterator<Item = Row<Ipv6Addr, Country>>,
    P: IntoIterator<Item = ProviderPrefix>,
{
    let Inputs { asn_v4, asn_v6, country_v4, country_v6, providers, built, sources } = inputs;
    check_texts(&built, &sources)?;
    let asn_v4 = quantise(BLOCKS_V4, checked(Column::AsnV4, asn_v4.into_iter().map(row_v4))?);
    let asn_v6 = quantise(BLOCKS_V6, checked(Column::AsnV6, asn_v6.into_iter().map(row_v6))?);
    let country_v4 =
        quantise(BLOCKS_V4, checked(Column::CountryV4, country_v4.into_iter().map(row_v4))?);
    let country_v6 =
        quantise(BLOCKS_V6, checked(Column::CountryV6, country_v6.into_iter().map(row_v6))?);
    let providers = Prefixes::collect(providers)?;
    let provider_v4 = quantise(ADDRESSES_V4, providers.v4);
    let provider_v6 = quantise(PROVIDERS_V6, providers.v6);
    let sections = [
        join(&changes(&asn_v4, 0, BLOCKS_V4), &changes(&country_v4, Country::UNKNOWN, BLOCKS_V4)),
        join(&changes(&asn_v6, 0, BLOCKS_V6), &changes(&country_v6, Country::UNKNOWN, BLOCKS_V6)),
        join(&changes(&provider_v4, 0, ADDRESSES_V4), &[]),
        join(&changes(&provider_v6, 0, PROVIDERS_V6), &[]),
    ];
    seal(&payload(&built, &sources, &providers.groups, &sections)?)
}

/// How addresses become keys.
#[derive(Clone, Copy)]
struct Grid {
    /// Bits of an address below a key.
    shift: u32,
    /// Last key there is.
    last: u64,
}

const BLOCKS_V4: Grid = Grid { shift: BLOCK_SHIFT_V4, last: (1 << 24) - 1 };
const BLOCKS_V6: Grid = Grid { shift: BLOCK_SHIFT_V6, last: (1 << 48) - 1 };
const ADDRESSES_V4: Grid = Grid { shift: 0, last: u32::MAX as u64 };
const PROVIDERS_V6: Grid = Grid { shift: PROVIDER_SHIFT_V6, last: u64::MAX };

/// Keys from first to last with one value.
struct Run<V> {
    first: u64,
    last: u64,
    value: V,
}

/// A row of a section: from this key on.
struct Change {
    key: u64,
    asn: u32,
    country: Country,
}

fn row_v4<V>(row: Row<Ipv4Addr, V>) -> Row<u128, V> {
    Row { first: row.first.to_bits().into(), last: row.last.to_bits().into(), value: row.value }
}

fn row_v6<V>(row: Row<Ipv6Addr, V>) -> Row<u128, V> {
    Row { first: row.first.to_bits(), last: row.last.to_bits(), value: row.value }
}

fn check_texts(built: &str, sources: &[String]) -> Result<(), BuildError> {
    let bytes = sources.iter().map(String::len).fold(built.len(), usize::max);
    if sources.len() > SOURCES_MAX || bytes > TEXT_BYTES_MAX {
        return Err(BuildError::Texts { sources: sources.len(), bytes });
    }
    Ok(())
}

fn checked<V>(
    column: Column,
    rows: impl Iterator<Item = Row<u128, V>>,
) -> Result<Vec<Row<u128, V>>, BuildError> {
    let numbered = rows.enumerate();
    numbered
        .map(|(number, row)| {
            if row.first > row.last {
                Err(BuildError::Inverted { column, row: number })
            } else {
                Ok(row)
            }
        })
        .collect()
}

/// Settles overlaps and rounds rows of addresses to runs of keys.
fn quantise<V: Copy + Ord>(grid: Grid, rows: Vec<Row<u128, V>>) -> Vec<Run<V>> {
    let mut runs = Runs::default();
    flatten(rows).into_iter().for_each(|row| runs.add(grid, row));
    runs.settle();
    runs.done
}

/// Runs so far, and the votes for the one key that rows share.
struct Runs<V> {
    done: Vec<Run<V>>,
    shared: Option<(u64, BTreeMap<V, u128>)>,
}

impl<V> Default for Runs<V> {
    fn default() -> Self {
        Runs { done: Vec::new(), shared: None }
    }
}

impl<V: Copy + Ord> Runs<V> {
    /// Splits a row into the part of its first key, the keys that it fills, and the part of its
    /// last key.
    fn add(&mut self, grid: Grid, row: Row<u128, V>) {
        let within = (1_u128 << grid.shift) - 1;
        let (mut first, last) = ((row.first >> grid.shift) as u64, (row.last >> grid.shift) as u64);
        if first == last {
            return self.vote(first, row.value, row.last - row.first + 1);
        }
        if row.first & within != 0 {
            self.vote(first, row.value, within + 1 - (row.first & within));
            first += 1;
        }
        if row.last & within == within {
            return self.push(first, last, row.value);
        }
        if first < last {
            self.push(first, last - 1, row.value);
        }
        self.vote(last, row.value, (row.last & within) + 1);
    }

    fn vote(&mut self, key: u64, value: V, addresses: u128) {
        if self.shared.as_ref().is_some_and(|(shared, _)| *shared != key) {
            self.settle();
        }
        let (_, votes) = self.shared.get_or_insert_with(|| (key, BTreeMap::new()));
        *votes.entry(value).or_default() += addresses;
    }

    /// Gives the shared key to the value with the most addresses, to the smallest among equals.
    fn settle(&mut self) {
        let Some((key, votes)) = self.shared.take() else { return };
        let winner = votes.iter().rev().max_by_key(|(_, addresses)| **addresses);
        if let Some((value, _)) = winner {
            self.extend(key, key, *value);
        }
    }

    fn push(&mut self, first: u64, last: u64, value: V) {
        self.settle();
        self.extend(first, last, value);
    }

    fn extend(&mut self, first: u64, last: u64, value: V) {
        match self.done.last_mut() {
            Some(run) if run.value == value && run.last.checked_add(1) == Some(first) => {
                run.last = last
            }
            _ => self.done.push(Run { first, last, value }),
        }
    }
}

/// Provider prefixes as rows, and the networks that belong together, by the first.
#[derive(Default)]
struct Prefixes {
    v4: Vec<Row<u128, u32>>,
    v6: Vec<Row<u128, u32>>,
    groups: BTreeMap<u32, BTreeSet<u32>>,
}

impl Prefixes {
    fn collect(prefixes: impl IntoIterator<Item = ProviderPrefix>) -> Result<Prefixes, BuildError> {
        let mut all = Prefixes::default();
        for (row, ProviderPrefix { net, asns }) in prefixes.into_iter().enumerate() {
            let Some(&main) =
                asns.first().filter(|_| asns.len() <= GROUP_MEMBERS_MAX && !asns.contains(&0))
            else {
                return Err(BuildError::ProviderNetworks { row, asns: asns.len() });
            };
            all.groups.entry(main).or_default().extend(asns);
            match net {
                IpNet::V4(net) => all.v4.push(row_v4(Row {
                    first: net.network(),
                    last: net.broadcast(),
                    value: main,
                })),
                IpNet::V6(net) => all.v6.push(row_v6(Row {
                    first: net.network(),
                    last: net.broadcast(),
                    value: main,
                })),
            }
        }
        let members = all.groups.values().map(BTreeSet::len).max().unwrap_or(0);
        if all.groups.len() > GROUPS_MAX || members > GROUP_MEMBERS_MAX {
            return Err(BuildError::ProviderGroups { groups: all.groups.len(), members });
        }
        Ok(all)
    }
}

/// Turns rows into rows that do not overlap, by the rule at the top of this file.
fn flatten<V: Copy>(mut rows: Vec<Row<u128, V>>) -> Vec<Row<u128, V>> {
    rows.sort_by_key(|row| (row.first, Reverse(row.last)));
    let mut flat = Vec::with_capacity(rows.len());
    // Rows begun and not over, the winner last; `first` is where the rest of a row begins, past
    // `last` when nothing is left of it.
    let mut open: Vec<Row<u128, V>> = Vec::new();
    for row in rows {
        while let Some(inner) = open.pop_if(|inner| inner.last < row.first) {
            close(&mut flat, &mut open, inner);
        }
        if let Some(outer) = open.last_mut() {
            if outer.first < row.first {
                flat.push(Row { last: row.first - 1, ..*outer });
            }
            outer.first = row.first;
        }
        open.push(row);
    }
    while let Some(inner) = open.pop() {
        close(&mut flat, &mut open, inner);
    }
    flat
}

/// Ends a row: the rest of it is settled, and the one around it goes on behind it.
fn close<V: Copy>(flat: &mut Vec<Row<u128, V>>, open: &mut Vec<Row<u128, V>>, inner: Row<u128, V>) {
    if inner.first <= inner.last {
        flat.push(inner);
    }
    // Rows that are over go at once: at the last address there is no "behind it" that a `first`
    // could say.
    while open.pop_if(|outer| outer.last <= inner.last).is_some() {}
    if let Some(outer) = open.last_mut() {
        outer.first = outer.first.max(inner.last.saturating_add(1));
    }
}

/// Runs as (key, value from there on), gaps made explicit.
fn changes<V: Copy>(runs: &[Run<V>], unknown: V, grid: Grid) -> Vec<(u64, V)> {
    let mut changes = Vec::with_capacity(runs.len() + 1);
    for (number, run) in runs.iter().enumerate() {
        changes.push((run.first, run.value));
        let follower = runs.get(number + 1).map(|next| next.first);
        let behind = run.last.checked_add(1).filter(|key| *key <= grid.last);
        if let Some(key) = behind.filter(|key| follower != Some(*key)) {
            changes.push((key, unknown));
        }
    }
    changes
}

/// Lays two columns over each other.
fn join(asns: &[(u64, u32)], countries: &[(u64, Country)]) -> Vec<Change> {
    let (mut asns, mut countries) = (asns.iter().peekable(), countries.iter().peekable());
    let (mut asn, mut country) = (0, Country::UNKNOWN);
    let mut joined: Vec<Change> = Vec::new();
    while let Some(key) = asns
        .peek()
        .map(|change| change.0)
        .into_iter()
        .chain(countries.peek().map(|change| change.0))
        .min()
    {
        if let Some(change) = asns.next_if(|change| change.0 == key) {
            asn = change.1;
        }
        if let Some(change) = countries.next_if(|change| change.0 == key) {
            country = change.1;
        }
        let same = joined.last().is_some_and(|row| (row.asn, row.country) == (asn, country));
        if !same {
            joined.push(Change { key, asn, country });
        }
    }
    joined
}

/// Ranks for networks and countries: what occurs often gets a small number.
struct Ranks {
    countries: Vec<Country>,
    country_of: BTreeMap<Country, u8>,
    /// By rank: AS number and usual country.
    networks: Vec<(u32, Country)>,
    rank_of: BTreeMap<u32, usize>,
}

impl Ranks {
    fn count(sections: &[Vec<Change>]) -> Result<Ranks, BuildError> {
        let mut countries: BTreeMap<Country, usize> = BTreeMap::new();
        let mut networks: BTreeMap<u32, BTreeMap<Country, usize>> = BTreeMap::new();
        for row in sections.iter().flatten() {
            *countries.entry(row.country).or_default() += 1;
            *networks.entry(row.asn).or_default().entry(row.country).or_default() += 1;
        }
        let mut countries: Vec<(Country, usize)> = countries.into_iter().collect();
        countries.sort_by_key(|(country, rows)| (Reverse(*rows), *country));
        if countries.len() > COUNTRIES_MAX {
            return Err(BuildError::Countries { countries: countries.len() });
        }
        let countries: Vec<Country> = countries.into_iter().map(|(country, _)| country).collect();
        let networks = by_rank(networks);
        Ok(Ranks {
            country_of: countries.iter().copied().zip(0..).collect(),
            countries,
            rank_of: networks.iter().map(|(asn, _)| *asn).zip(0..).collect(),
            networks,
        })
    }
}

/// Networks by number of rows, but inside the ranks that take one byte, two bytes and so on, by AS
/// number: the list itself is then small steps.
fn by_rank(networks: BTreeMap<u32, BTreeMap<Country, usize>>) -> Vec<(u32, Country)> {
    let mut ranked: Vec<(usize, u32, Country)> = networks
        .into_iter()
        .map(|(asn, countries)| {
            let usual = countries
                .iter()
                .rev()
                .max_by_key(|(_, rows)| **rows)
                .map_or(Country::UNKNOWN, |(country, _)| *country);
            (countries.values().sum(), asn, usual)
        })
        .collect();
    ranked.sort_by_key(|(rows, asn, _)| (Reverse(*rows), *asn));
    let mut rest = ranked.as_mut_slice();
    for bytes in 1.. {
        let class = if bytes == 1 { 1 << 7 } else { (1 << (7 * bytes)) - (1 << (7 * (bytes - 1))) };
        let (now, later) = rest.split_at_mut(class.min(rest.len()));
        now.sort_by_key(|(_, asn, _)| *asn);
        rest = later;
        if rest.is_empty() {
            break;
        }
    }
    ranked.into_iter().map(|(_, asn, usual)| (asn, usual)).collect()
}

fn payload(
    built: &str,
    sources: &[String],
    groups: &BTreeMap<u32, BTreeSet<u32>>,
    sections: &[Vec<Change>],
) -> Result<Vec<u8>, BuildError> {
    let ranks = Ranks::count(sections)?;
    let mut out = Vec::new();
    put_text(&mut out, built);
    put_number(&mut out, sources.len() as u64);
    sources.iter().for_each(|source| put_text(&mut out, source));
    put_number(&mut out, ranks.countries.len() as u64);
    out.extend(ranks.countries.iter().flat_map(|country| country.bytes()));
    put_number(&mut out, ranks.networks.len() as u64);
    let mut before = 0;
    for (asn, _) in &ranks.networks {
        put_number(&mut out, zigzag(i64::from(*asn) - before));
        before = i64::from(*asn);
    }
    out.extend(ranks.networks.iter().filter_map(|(_, usual)| ranks.country_of.get(usual)));
    put_number(&mut out, groups.len() as u64);
    for (main, members) in groups {
        put_number(&mut out, members.len() as u64);
        put_number(&mut out, u64::from(*main));
        members
            .iter()
            .filter(|asn| *asn != main)
            .for_each(|asn| put_number(&mut out, u64::from(*asn)));
    }
    for rows in sections {
        put_section(&mut out, rows, &ranks);
    }
    Ok(out)
}

fn put_section(out: &mut Vec<u8>, rows: &[Change], ranks: &Ranks) {
    put_number(out, rows.len() as u64);
    let mut before = 0;
    for row in rows {
        put_number(out, row.key - before);
        before = row.key;
    }
    let ranked = rows.iter().map(|row| {
        ranks.rank_of.get(&row.asn).copied().expect("every network of a row was counted")
    });
    let ranked: Vec<usize> = ranked.collect();
    ranked.iter().for_each(|rank| put_number(out, *rank as u64));
    for (row, rank) in rows.iter().zip(ranked) {
        let usual = ranks.networks.get(rank).is_some_and(|(_, usual)| *usual == row.country);
        let index = ranks
            .country_of
            .get(&row.country)
            .copied()
            .expect("every country of a row was counted");
        out.push(if usual { 0 } else { index + 1 });
    }
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    put_number(out, text.len() as u64);
    out.extend(text.as_bytes());
}

fn put_number(out: &mut Vec<u8>, mut number: u64) {
    while number > 0x7f {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn zigzag(number: i64) -> u64 {
    ((number << 1) ^ (number >> 63)).cast_unsigned()
}

fn seal(payload: &[u8]) -> Result<Vec<u8>, BuildError> {
    let too_large = BuildError::TooLarge { bytes: payload.len() };
    let Some(length) =
        u32::try_from(payload.len()).ok().filter(|_| payload.len() <= PAYLOAD_BYTES_MAX)
    else {
        return Err(too_large);
    };
    let packed =
        zstd::bulk::compress(payload, ZSTD_LEVEL).map_err(|source| BuildError::Pack { source })?;
    let mut bytes = MAGIC.to_vec();
    bytes.extend(length.to_le_bytes());
    bytes.extend(packed);
    let checksum = crc64(&bytes);
    bytes.extend(checksum.to_le_bytes());
    Ok(bytes)
}

#[cfg(test)]
mod tests;
