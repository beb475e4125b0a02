//! Who lives where, with which line: observers with countries, networks, prefixes, resolvers,
//! versions and habits, drawn from a seed.

use std::{collections::BTreeSet, sync::Arc};

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
/// What else the public resolvers are called: their names, and the addresses that they answer at.
const ALSO_CALLED: &[(&str, &[&str])] = &[
    (
        "1.1.1.1",
        &[
            "cloudflare",
            "1.0.0.1",
            "cloudflare-1.1.1.1",
            "2606:4700:4700::1111",
            "2606:4700:4700::1001",
        ],
    ),
    (
        "8.8.8.8",
        &["google", "8.8.4.4", "google-public-dns", "2001:4860:4860::8888", "2001:4860:4860::8844"],
    ),
    ("9.9.9.9", &["quad9", "149.112.112.112", "2620:fe::fe", "2620:fe::9"]),
    ("opendns", &["208.67.222.222", "208.67.220.220", "cisco-opendns"]),
];
/// Networks that give their customers IPv6, and sites that have an address there, of a million: about
/// what Google and APNIC measure at users and what lists of the top thousand sites show.
const WITH_V6: i64 = 450_000;
/// Probe-core versions and their shares of a hundred.
const VERSIONS: &[(u16, u32)] = &[(1, 20), (2, 75), (3, 5)];
/// The versions that are in the field for long.
pub const ESTABLISHED: &[u16] = &[1, 2];
/// Of all clocks, in a million, that are off by minutes, or drift: what the agent knows of the
/// collector's clock is old by then, and up to so many milliseconds remain.
const BAD_CLOCKS: i64 = 20_000;
const BAD_CLOCK_MS: u64 = 8_000;
/// The mark of keys that nobody knows yet.
pub const FRESH: &str = "fresh_keys";
/// Where the numbers of those countries begin that are not in [`COUNTRIES`].
const OTHER_PLACES: usize = 1_000;

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
    /// `isp`, a public resolver's name, or `other` for one that only a scenario knows.
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

impl Person {
    /// Whether it is one of a crowd of keys that nobody knows.
    #[must_use]
    pub fn is_fresh(&self) -> bool {
        self.marks.iter().any(|mark| mark == FRESH)
    }
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

/// The public resolver of a name or an address, as it is called in [`RESOLVERS`]; `isp` is the
/// provider's own.
#[must_use]
pub fn resolver(name: &str) -> Option<(&'static str, ResolverClass)> {
    let name = name.to_ascii_lowercase();
    let is = |known: &str| known == name || also_called(known).any(|other| other == name);
    RESOLVERS.iter().find(|(known, ..)| is(known)).map(|(known, class, _)| (*known, *class))
}

/// What else a public resolver of [`RESOLVERS`] is called.
pub fn also_called(known: &str) -> impl Iterator<Item = &'static str> + use<> {
    let names = ALSO_CALLED.iter().find(|(own, _)| *own == known).map(|(_, names)| *names);
    names.unwrap_or_default().iter().copied()
}

/// The continent of a country, by its two usual letters; `None` for what is in no zone.
#[must_use]
pub fn continent(country: Country) -> Option<[u8; 2]> {
    // Islands that are in a zone for their owner's sake, or for want of people.
    match country.as_str() {
        "AQ" | "BV" | "GS" | "HM" | "TF" => return Some(*b"AN"),
        "UM" => return Some(*b"OC"),
        _ => {}
    }
    // Zones were drawn within continents.
    let zone = Zones::builtin().of(country)?;
    Some(match Zones::builtin().id(zone)?.as_str() {
        "north-america" | "central-america-caribbean" => *b"NA",
        "south-america" => *b"SA",
        "britain-ireland" | "france-benelux" | "central-europe" | "southern-europe"
        | "nordics-baltics" | "eastern-europe" => *b"EU",
        "africa" => *b"AF",
        "middle-east-central-asia" | "south-asia" | "east-asia" | "south-east-asia" => *b"AS",
        "oceania" => *b"OC",
        _ => return None,
    })
}

/// The country with most observers in any world, of those that fit.
#[must_use]
pub fn densest(fits: impl Fn(Country) -> bool) -> Option<Country> {
    let known = COUNTRIES.iter().filter_map(|(code, weight)| Some((code.parse().ok()?, *weight)));
    let known = known.filter(|(country, _): &(Country, u32)| fits(*country));
    known.max_by_key(|(_, weight)| *weight).map(|(country, _)| country)
}

/// The country's place in the numbers of networks.
fn place(country: Country) -> usize {
    let known = COUNTRIES.iter().position(|(code, _)| *code == country.as_str());
    known.unwrap_or_else(|| {
        let [first, second] = country.bytes().map(|letter| usize::from(letter - b'A'));
        OTHER_PLACES + first * 26 + second
    })
}

/// The observer of a number, somewhere in a country: its network, line and habits.
fn draw(dice: Dice, at: u64, country: Country, providers: &[Id]) -> Person {
    let of = |what: &str| dice.named(what).of(at);
    let asn = network(place(country), of("network").pick(&NETWORKS));
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
    let skew_ms = match of("bad clock").happens(BAD_CLOCKS) {
        true => of("how bad").below(2 * BAD_CLOCK_MS) as i64 - BAD_CLOCK_MS as i64,
        false => of("skew").normal_milli() * 2 / 5,
    };
    Person {
        country,
        zone: Zones::builtin().of(country),
        asn,
        slot: of("slot").throw(),
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
        skew_ms,
        marks: Vec::new(),
        known_days: 60,
        lie: None,
    }
}

impl World {
    /// A world of so many observers.
    #[must_use]
    pub fn new(catalogue: Catalogue, observers: usize, seed: u64) -> Self {
        let dice = Dice::new(seed);
        let people = Vec::with_capacity(observers);
        let mut world = Self { catalogue: Arc::new(catalogue), people, dice };
        let providers = world.providers();
        let weights: Vec<u32> = COUNTRIES.iter().map(|(_, weight)| *weight).collect();
        for at in 0..observers as u64 {
            let place = dice.named("country").of(at).pick(&weights);
            let country = COUNTRIES
                .get(place)
                .and_then(|(code, _)| code.parse().ok())
                .unwrap_or(Country::UNKNOWN);
            let mut person = draw(dice, at, country, &providers);
            let shared = dice.named("shared").of(at).happens(SHARED_PREFIX);
            let same = |other: &&Person| shared && other.asn == person.asn;
            if let Some(slot) = world.people.iter().rev().find(same).map(|other| other.slot) {
                person.slot = slot;
            }
            world.people.push(person);
        }
        world
    }

    /// Adds an observer in a country: in one of its networks, in a prefix of its own, with a line
    /// and habits of its own. Tells its place.
    pub fn add(&mut self, country: Country) -> usize {
        let at = self.people.len();
        let person = draw(self.dice, at as u64, country, &self.providers());
        self.people.push(person);
        at
    }

    /// Every provider that stands behind something.
    fn providers(&self) -> Vec<Id> {
        let roles = self.catalogue.targets().values().flat_map(|target| &target.roles);
        let providers: BTreeSet<&Id> = roles.map(|role| &role.provider).collect();
        providers.into_iter().cloned().collect()
    }

    /// Whether a site has an address of IPv6.
    #[must_use]
    pub fn has_v6(&self, target: TargetIndex) -> bool {
        self.dice.named("aaaa").of(target.0.into()).happens(WITH_V6)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn every_country_of_a_zone_is_on_a_continent() {
        let letters = (b'A'..=b'Z').flat_map(|a| (b'A'..=b'Z').map(move |b| [a, b]));
        let countries = letters.filter_map(Country::new);
        let countries = countries.filter(|country| Zones::builtin().of(*country).is_some());
        let on: BTreeSet<_> = countries.map(|country| continent(country).unwrap()).collect();
        assert_eq!(on.len(), 7, "{on:?}");
        let of = |code: &str| continent(code.parse().unwrap());
        assert_eq!(of("IS"), Some(*b"EU"));
        assert_eq!(of("VE"), Some(*b"SA"));
        assert_eq!(of("CN"), Some(*b"AS"));
        assert_eq!(of("ZZ"), None);
        assert_eq!(densest(|country| continent(country) == Some(*b"OC")), "AU".parse().ok());
    }

    #[test]
    fn who_is_added_is_nobodys_copy() {
        let mut world = World::new(Catalogue::builtin().clone(), 50, 1);
        let iceland: Country = "IS".parse().unwrap();
        (0..12).for_each(|_| {
            world.add(iceland);
        });
        let added = &world.people[50..];
        let differ = |of: fn(&Person) -> u64| added.iter().map(of).collect::<BTreeSet<_>>().len();
        assert_eq!(differ(|person| person.slot), 12);
        assert!(differ(|person| person.asn.into()) >= 3);
        assert!(differ(|person| person.burst_minute.into()) >= 10);
        assert!(added.iter().all(|p| p.country == iceland && p.zone.is_some()));
        let known: BTreeSet<u32> = world.people[..50].iter().map(|p| p.asn).collect();
        assert!(added.iter().all(|p| !known.contains(&p.asn)));
    }

    #[test]
    fn resolvers_are_known_by_their_names_and_addresses() {
        let name = |name: &str| resolver(name).map(|(known, _)| known);
        for google in ["google", "Google", "8.8.8.8", "8.8.4.4"] {
            assert_eq!(name(google), Some("8.8.8.8"), "{google}");
        }
        assert_eq!(name("cloudflare"), Some("1.1.1.1"));
        assert_eq!(name("208.67.222.222"), Some("opendns"));
        assert_eq!(name("isp"), Some("isp"));
        assert_eq!(name("adguard"), None);
    }

    #[test]
    fn most_clocks_are_right_and_a_few_are_seconds_off() {
        let world = World::new(Catalogue::builtin().clone(), 5_000, 1);
        let off = world.people.iter().filter(|p| p.skew_ms.abs() > 2_000).count();
        assert!((30..130).contains(&off), "{off}");
        assert!(world.people.iter().all(|p| p.skew_ms.abs() <= 8_000));
    }
}
