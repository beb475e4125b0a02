//! Who lives where, with which line: observers with countries, networks, prefixes, resolvers,
//! versions and habits, drawn from a seed.

use std::{collections::BTreeMap, sync::Arc};

use tocsin_proto::{
    catalogue::{Catalogue, ZoneIndex, Zones},
    id::{Country, Id, TargetIndex},
    report::ResolverClass,
};

use super::dice::Dice;

/// Countries and how many of a thousand observers live there: where self-hosters and probe
/// networks are dense, not where people are (after the distribution of RIPE Atlas probes, rounded).
const COUNTRIES: &[(&str, u32)] = &[
    ("US", 130),
    ("CA", 40),
    ("MX", 12),
    ("CR", 4),
    ("DO", 4),
    ("PR", 4),
    ("BR", 40),
    ("AR", 14),
    ("CL", 10),
    ("CO", 10),
    ("PE", 5),
    ("GB", 70),
    ("IE", 10),
    ("FR", 90),
    ("BE", 20),
    ("NL", 45),
    ("LU", 5),
    ("DE", 110),
    ("AT", 20),
    ("CH", 25),
    ("ES", 25),
    ("PT", 10),
    ("IT", 35),
    ("GR", 8),
    ("SE", 20),
    ("NO", 12),
    ("DK", 12),
    ("FI", 14),
    ("EE", 5),
    ("LT", 5),
    ("PL", 22),
    ("CZ", 18),
    ("RO", 12),
    ("HU", 8),
    ("BG", 7),
    ("UA", 12),
    ("RU", 20),
    ("TR", 10),
    ("IL", 8),
    ("AE", 6),
    ("IR", 14),
    ("SA", 5),
    ("KZ", 5),
    ("ZA", 14),
    ("EG", 5),
    ("NG", 6),
    ("KE", 6),
    ("MA", 5),
    ("TN", 4),
    ("IN", 28),
    ("PK", 6),
    ("BD", 5),
    ("LK", 4),
    ("JP", 25),
    ("KR", 10),
    ("TW", 9),
    ("HK", 8),
    ("SG", 16),
    ("ID", 12),
    ("MY", 8),
    ("TH", 8),
    ("PH", 8),
    ("VN", 8),
    ("AU", 30),
    ("NZ", 14),
];
/// Networks of a country; their sizes fall as 1/n (Zipf).
const NETWORKS: [u32; 8] = [840, 420, 280, 210, 168, 140, 120, 105];
/// Observers that share their prefix with another, of a million.
const SHARED_PREFIX: i64 = 100_000;
/// Observers that are always on.
const ALWAYS_ON: i64 = 500_000;
/// Public resolvers and their shares of a thousand; the rest asks its own provider's.
pub const RESOLVERS: &[(&str, ResolverClass, u32)] = &[
    ("isp", ResolverClass::Local, 500),
    ("1.1.1.1", ResolverClass::Cloudflare, 200),
    ("8.8.8.8", ResolverClass::Google, 200),
    ("9.9.9.9", ResolverClass::Quad9, 60),
    ("opendns", ResolverClass::OpenDns, 40),
];
/// Networks that give their customers IPv6, and sites that have an address there, of a million: about
/// what Google and APNIC measure at users and what lists of the top thousand sites show.
const WITH_V6: i64 = 450_000;
/// Probe-core versions and their shares of a hundred.
const VERSIONS: &[(u16, u32)] = &[(1, 20), (2, 75), (3, 5)];
/// The versions that are in the field for long.
pub const ESTABLISHED: &[u16] = &[1, 2];

/// What is wrong with a line for good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// Nothing.
    None,
    /// Many probes fail, whatever they ask.
    Broken,
    /// One provider is blocked there.
    Blocked(Id),
    /// Half of the probes to these fail.
    Half(Vec<Id>),
}

/// An observer.
#[derive(Debug, Clone)]
pub struct Person {
    /// Where.
    pub country: Country,
    /// In which zone that is.
    pub zone: Option<ZoneIndex>,
    /// The network.
    pub asn: u32,
    /// Stands for the prefix.
    pub slot: u64,
    /// Probe-core version.
    pub version: u16,
    /// Whether it has IPv6 as well.
    pub v6: bool,
    /// Which resolver, by its class and by name.
    pub resolver: ResolverClass,
    /// `isp`, or a public resolver's name.
    pub resolver_name: &'static str,
    /// Minute of the day at which the machine is switched on, and for how many; `None` is always.
    pub awake: Option<(u32, u32)>,
    /// Failures of a quiet day, of a million probes.
    pub failures: i64,
    /// What is wrong for good.
    pub trouble: Trouble,
    /// Minute of the day of its three bad minutes on the radio.
    pub burst_minute: u32,
    /// Its clock, as it is told of it by the collector: what is left of the error, milliseconds.
    pub skew_ms: i64,
    /// Marks given by a scenario: `isp:rogers`, `client:firefox`.
    pub marks: Vec<String>,
    /// Since when the collector knows it, days before the play begins; 0 = a new key.
    pub known_days: u64,
    /// What it tells instead of what it sees.
    pub lie: Option<Lie>,
}

/// What a liar tells. Of everything else it says that all is well, always and at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lie {
    /// Providers whose sites it says to fail; none of them all is everything.
    pub blames: Vec<Id>,
    /// Providers whose sites it says to be well, whatever it blames.
    pub clears: Vec<Id>,
    /// Whether it looks only where it can blame, instead of where its turn is.
    pub picks: bool,
    /// From when on, milliseconds after the onset; `None` is always.
    pub from_ms: Option<u64>,
}

/// The world.
#[derive(Debug, Clone)]
pub struct World {
    /// What is probed.
    pub catalogue: Arc<Catalogue>,
    /// Who probes.
    pub people: Vec<Person>,
    /// Where all chance comes from.
    pub dice: Dice,
}

/// Number of a country's network.
#[must_use]
pub fn network(country: usize, rank: usize) -> u32 {
    // Numbers for private use (RFC 6996), so that no real network is meant.
    let (country, rank) = (u32::try_from(country), u32::try_from(rank));
    4_200_000_000 + country.unwrap_or(0) * 100 + rank.unwrap_or(0)
}

fn failures(dice: Dice) -> i64 {
    // Log-normal with a median of one in a hundred, between 0.3 and 5 %: base 2^(1/1000) steps.
    let exponent = dice.normal_milli().clamp(-1_737, 2_321);
    let mut rate = 10_000_i64;
    let whole = exponent.div_euclid(1_000);
    let part = exponent.rem_euclid(1_000);
    // 2^part is near to 1 + part (within 9 %), which is close enough for a habit.
    rate += rate * part / 1_000;
    if whole >= 0 { rate << whole } else { rate >> -whole }
}

impl World {
    /// A world of so many observers.
    #[must_use]
    pub fn new(catalogue: Catalogue, observers: usize, seed: u64) -> Self {
        let dice = Dice::new(seed);
        let mut providers: BTreeMap<&Id, usize> = BTreeMap::new();
        for target in catalogue.targets().values() {
            for role in &target.roles {
                *providers.entry(&role.provider).or_default() += 1;
            }
        }
        let providers: Vec<Id> = providers.keys().map(|id| (*id).clone()).collect();
        let weights: Vec<u32> = COUNTRIES.iter().map(|(_, weight)| *weight).collect();
        let mut people: Vec<Person> = Vec::with_capacity(observers);
        for at in 0..observers as u64 {
            let of = |what: &str| dice.named(what).of(at);
            let place = of("country").pick(&weights);
            let country: Country = COUNTRIES
                .get(place)
                .and_then(|(code, _)| code.parse().ok())
                .unwrap_or(Country::UNKNOWN);
            let asn = network(place, of("network").pick(&NETWORKS));
            let shared = of("shared").happens(SHARED_PREFIX);
            let neighbour = people.iter().rev().find(|other| shared && other.asn == asn);
            let slot = neighbour.map_or_else(|| of("slot").throw(), |other| other.slot);
            let resolvers: Vec<u32> = RESOLVERS.iter().map(|(_, _, share)| *share).collect();
            let (resolver_name, resolver, _) = RESOLVERS
                .get(of("resolver").pick(&resolvers))
                .copied()
                .unwrap_or(("isp", ResolverClass::Local, 0));
            let versions: Vec<u32> = VERSIONS.iter().map(|(_, share)| *share).collect();
            let version = VERSIONS.get(of("version").pick(&versions)).map_or(1, |(v, _)| *v);
            let some = |n: u64| {
                let pick = of("some provider").of(n).below(providers.len() as u64);
                providers.get(pick as usize).cloned()
            };
            let trouble = match of("trouble").below(100) {
                0..3 => Trouble::Broken,
                3..5 => some(0).map_or(Trouble::None, Trouble::Blocked),
                5 => Trouble::Half((0..3).filter_map(some).collect()),
                _ => Trouble::None,
            };
            people.push(Person {
                country,
                zone: Zones::builtin().of(country),
                asn,
                slot,
                version,
                v6: dice.named("v6").of(asn.into()).happens(WITH_V6),
                resolver,
                resolver_name,
                awake: (!of("always").happens(ALWAYS_ON)).then(|| {
                    let from = of("from").below(1_440) as u32;
                    (from, 600 + of("hours").below(360) as u32)
                }),
                failures: failures(of("failures")),
                trouble,
                burst_minute: of("burst").below(1_440) as u32,
                skew_ms: of("skew").normal_milli() * 2 / 5,
                marks: Vec::new(),
                known_days: 60,
                lie: None,
            });
        }
        Self { catalogue: Arc::new(catalogue), people, dice }
    }

    /// Whether a site has an address of IPv6.
    #[must_use]
    pub fn has_v6(&self, target: TargetIndex) -> bool {
        self.dice.named("aaaa").of(target.0.into()).happens(WITH_V6)
    }

    /// The country's place in the list of networks, for observers that are added.
    #[must_use]
    pub fn country_number(country: &str) -> Option<usize> {
        COUNTRIES.iter().position(|(code, _)| *code == country)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_crowd_is_spread_and_repeats_from_its_seed() {
        let world = |seed| World::new(Catalogue::builtin().clone(), 1_000, seed);
        let one = world(1);
        let zones: BTreeSet<_> = one.people.iter().filter_map(|p| p.zone).collect();
        let networks: BTreeSet<_> = one.people.iter().map(|p| p.asn).collect();
        let slots: BTreeSet<_> = one.people.iter().map(|p| p.slot).collect();
        assert!(zones.len() >= 12, "{}", zones.len());
        assert!((200..520).contains(&networks.len()), "{}", networks.len());
        assert!((850..970).contains(&slots.len()), "{}", slots.len());
        let mut rates: Vec<_> = one.people.iter().map(|p| p.failures).collect();
        rates.sort_unstable();
        assert!((8_000..12_500).contains(&rates[500]), "{}", rates[500]);
        let same = |other: World| {
            one.people.iter().zip(&other.people).all(|(a, b)| (a.slot, a.asn) == (b.slot, b.asn))
        };
        assert!(same(world(1)) && !same(world(2)));
    }
}
