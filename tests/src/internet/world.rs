//! The lab's world, a pure function of a seed: who serves which site, who answers for its name,
//! and from where the agents look. No sockets here.

use std::{
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::{IpNet, Ipv4Net};
use tocsin_proto::id::Country;

/// Where a world stands: on loopback for the lab, or in a network namespace that a test made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ground {
    /// The first byte of every address.
    pub net: u8,
    /// The port of the edges; 0 for any.
    pub edge_port: u16,
    /// The port of the name servers; 0 for any.
    pub dns_port: u16,
    /// Whether edges and the resolver are reached over IPv6 too.
    pub v6: bool,
}

impl Ground {
    /// This machine's own 127/8, on whatever ports are free.
    pub const LOOPBACK: Self = Self { net: 127, edge_port: 0, dns_port: 0, v6: false };
    /// Private addresses and the usual ports.
    pub const NETWORK: Self = Self { net: 10, edge_port: 443, dns_port: 53, v6: true };

    const fn address(self, a: u8, b: u8, c: u8) -> Ipv4Addr {
        Ipv4Addr::new(self.net, a, b, c)
    }

    /// What an address is over IPv6, where there is IPv6: of the local range (RFC 4193), with its four bytes behind.
    #[must_use]
    pub fn v6_of(self, address: Ipv4Addr) -> Option<Ipv6Addr> {
        let [a, b, c, d] = address.octets().map(u16::from);
        self.v6.then(|| Ipv6Addr::new(0xfd10, 0, 0, 0, a, b, c, d))
    }
}

/// Sites of each edge provider.
pub const SITES_PER_EDGE: usize = 10;
/// Sites of Cloudflare's that need its challenge host besides.
pub const CHALLENGED_SITES: usize = 8;
/// Networks of the agents.
pub const NETWORKS: u8 = 30;
/// Agents in each network.
pub const AGENTS_PER_NETWORK: u8 = 3;
/// The lowest number of the agents' networks: the first of RFC 6996's private range.
pub const FIRST_ASN: u32 = 64_512;

/// Three top-level domains that nobody can register, so that a DNS provider is not also a
/// top-level domain.
const TLDS: [&str; 3] = ["test", "example", "internal"];
/// Five zones of two countries each.
const COUNTRIES: [&str; 10] = ["US", "BR", "DE", "JP", "AU", "CA", "AR", "AT", "KR", "NZ"];
/// Each of them serves some names behind every edge.
const DNS_PROVIDERS: [(&str, &str); 3] =
    [("ns1", "NS1"), ("ultradns", "UltraDNS"), ("dnsimple", "DNSimple")];
const NAMES: [&str; 30] = [
    "harbour",
    "bakery",
    "kiosk",
    "library",
    "museum",
    "theatre",
    "clinic",
    "railway",
    "airport",
    "stadium",
    "orchard",
    "lantern",
    "meadow",
    "quarry",
    "vineyard",
    "foundry",
    "gazette",
    "observatory",
    "pharmacy",
    "tannery",
    "brewery",
    "arcade",
    "botany",
    "chess",
    "ferry",
    "glacier",
    "hostel",
    "island",
    "jukebox",
    "kitchen",
];

/// Whose manners an edge copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Vendor {
    /// Cloudflare.
    Cloudflare,
    /// Fastly.
    Fastly,
    /// Amazon CloudFront.
    Cloudfront,
}

impl Vendor {
    /// All of them, in the order of [`World::edges`].
    pub const ALL: [Self; 3] = [Self::Cloudflare, Self::Fastly, Self::Cloudfront];

    /// Its identifier in the catalogue.
    #[must_use]
    pub const fn id(self) -> &'static str {
        match self {
            Self::Cloudflare => "cloudflare",
            Self::Fastly => "fastly",
            Self::Cloudfront => "cloudfront",
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Cloudflare => "Cloudflare",
            Self::Fastly => "Fastly",
            Self::Cloudfront => "Amazon CloudFront",
        }
    }
}

/// A provider of authoritative DNS.
#[derive(Debug, Clone)]
pub struct DnsProvider {
    /// Its identifier in the catalogue.
    pub id: &'static str,
    /// Its name for people.
    pub name: &'static str,
    /// Its name servers and their addresses.
    pub servers: Vec<(String, Ipv4Addr)>,
}

/// A site, and a DNS zone of the same name.
#[derive(Debug, Clone)]
pub struct Site {
    /// Its number in the catalogue and in [`World::sites`].
    pub index: usize,
    /// Its identifier in the catalogue.
    pub id: String,
    /// Its host name.
    pub host: String,
    /// Which of [`World::edges`] serves it.
    pub edge: usize,
    /// Its place among the sites of its edge; the lower half is what fails by halves.
    pub place: usize,
    /// Which of [`World::dns`] answers for its name.
    pub dns: usize,
    /// Whether its pages need Cloudflare's challenge host.
    pub challenged: bool,
}

/// Where an agent of the lab stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LabAgent {
    /// The source address to bind; no other agent has one in the same /24.
    pub source: Ipv4Addr,
    /// What the collector's overrides make of it.
    pub country: Country,
    /// Likewise.
    pub asn: u32,
}

/// One line of the collector's location overrides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Override {
    /// Addresses of this range
    pub cidr: IpNet,
    /// are in this country
    pub country: Country,
    /// and in this network.
    pub asn: u32,
}

/// The whole of it.
#[derive(Debug, Clone)]
pub struct World {
    /// Where it stands.
    pub ground: Ground,
    /// The system resolver of every agent.
    pub resolver: Ipv4Addr,
    /// The root name server.
    pub root: Ipv4Addr,
    /// The edge providers and their addresses.
    pub edges: Vec<(Vendor, Ipv4Addr)>,
    /// The DNS providers.
    pub dns: Vec<DnsProvider>,
    /// The sites by number.
    pub sites: Vec<Site>,
    /// The agents; the first thirty are of thirty different networks.
    pub agents: Vec<LabAgent>,
    /// One line per network.
    pub overrides: Vec<Override>,
    /// Which edge, DNS provider, site and network are the ones that break.
    pub unlucky: Unlucky,
}

/// What breaks where a fault does not say it itself; drawn from the seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unlucky {
    /// Index of an edge.
    pub edge: usize,
    /// Index of a DNS provider.
    pub dns: usize,
    /// Index of a site.
    pub site: usize,
    /// Number of a network.
    pub asn: u32,
}

impl World {
    /// The world of a seed, on loopback.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self::at(seed, Ground::LOOPBACK)
    }

    /// The world of a seed.
    ///
    /// # Panics
    /// Never: the tables above are constants, and a test walks them.
    #[must_use]
    pub fn at(seed: u64, ground: Ground) -> Self {
        let mut dice = Dice(seed);
        let mut names = NAMES;
        for at in (1..names.len()).rev() {
            names.swap(at, dice.below(at + 1));
        }
        let edges: Vec<_> =
            Vendor::ALL.into_iter().zip(2u8..).map(|(v, n)| (v, ground.address(2, n, 1))).collect();
        let dns = DNS_PROVIDERS.into_iter().zip(2u8..);
        let dns = dns.map(|(of, subnet)| dns_provider(ground, of, subnet)).collect();
        let sites = names.into_iter().enumerate().map(site).collect();
        let networks: Vec<_> = (0..NETWORKS).map(|n| network(ground, n)).collect();
        let agents = (1..=AGENTS_PER_NETWORK)
            .flat_map(|host| {
                networks.iter().zip(0..).map(move |(of, n)| LabAgent {
                    source: ground.address(10 + n, host, 1),
                    country: of.country,
                    asn: of.asn,
                })
            })
            .collect();
        let unlucky = Unlucky {
            edge: dice.below(edges.len()),
            dns: dice.below(DNS_PROVIDERS.len()),
            site: dice.below(NAMES.len()),
            asn: FIRST_ASN + u32::try_from(dice.below(usize::from(NETWORKS))).unwrap_or(0),
        };
        let (resolver, root) = (ground.address(3, 0, 53), ground.address(3, 0, 1));
        Self { ground, resolver, root, edges, dns, sites, agents, overrides: networks, unlucky }
    }

    /// The site of a host name (lower case, no trailing dot).
    #[must_use]
    pub fn site(&self, host: &str) -> Option<&Site> {
        self.sites.iter().find(|site| site.host == host)
    }

    /// The sites of an edge.
    pub fn sites_of(&self, edge: usize) -> impl Iterator<Item = &Site> {
        self.sites.iter().filter(move |site| site.edge == edge)
    }

    /// The network of an agent's address; `None` for one that is no agent's.
    #[must_use]
    pub fn asn_of(&self, address: IpAddr) -> Option<u32> {
        self.overrides.iter().find(|line| line.cidr.contains(&address)).map(|line| line.asn)
    }

    /// The ranges that agents must be allowed to probe, since they are no public addresses: all
    /// the edges, the name servers that they walk to, and nothing else of this machine.
    #[must_use]
    pub fn allowed(&self) -> Vec<IpNet> {
        let edges = self.edges.iter().map(|(_, address)| *address);
        let servers = self.dns.iter().flat_map(|dns| &dns.servers).map(|(_, address)| *address);
        let v6 = edges.clone().filter_map(|address| self.ground.v6_of(address)).map(IpAddr::from);
        edges.chain(servers).map(IpAddr::from).chain(v6).map(IpNet::from).collect()
    }

    /// The catalogue, given the port of each edge.
    #[must_use]
    pub fn catalogue(&self, edge_ports: &[u16]) -> String {
        let mut text = "schema = 1\nversion = 1\n".to_owned();
        let mut provider = |id: &str, name: &str, organisation: &str| {
            let line = format!(
                "\n[[provider]]\nid = \"{id}\"\nname = \"{name}\"\norganisation = \"{organisation}\"\n"
            );
            text.push_str(&line);
        };
        for (vendor, _) in &self.edges {
            provider(vendor.id(), vendor.name(), vendor.id());
        }
        provider("cloudflare-challenge", "Cloudflare challenge pages", "cloudflare");
        for dns in &self.dns {
            provider(dns.id, dns.name, dns.id);
        }
        for site in &self.sites {
            let edge = self.edges.get(site.edge).map_or("", |(vendor, _)| vendor.id());
            let dns = self.dns.get(site.dns).map_or("", |dns| dns.id);
            let mut roles = vec![("edge", edge), ("dns", dns)];
            if site.challenged {
                roles.push(("aux", "cloudflare-challenge"));
            }
            let roles: Vec<_> = roles
                .into_iter()
                .map(|(role, id)| {
                    format!("{{ role = \"{role}\", provider = \"{id}\", evidence = \"operator\" }}")
                })
                .collect();
            let port = edge_ports.get(site.edge).copied().unwrap_or(443);
            writeln!(
                text,
                "\n[[target]]\nindex = {}\nid = \"{id}\"\nname = \"{id}\"\nhost = \"{}\"\n\
                 port = {port}\ncategory = \"lab\"\ncountries = [\"*\"]\nroles = [{}]",
                site.index,
                site.host,
                roles.join(", "),
                id = site.id,
            )
            .expect("a String takes any text");
        }
        text
    }
}

fn dns_provider(
    ground: Ground,
    (id, name): (&'static str, &'static str),
    subnet: u8,
) -> DnsProvider {
    let server = |n: u8| {
        let name = format!("{}.{id}.internal", char::from(b'a' + n));
        (name, ground.address(3, subnet, 1 + n))
    };
    let servers = (0..2).map(server).collect();
    DnsProvider { id, name, servers }
}

/// Every edge has names of every DNS provider, every DNS provider names behind every edge, and
/// both under every top-level domain: no two of the three are ever the same set.
fn site((index, name): (usize, &str)) -> Site {
    let (edge, place) = (index / SITES_PER_EDGE, index % SITES_PER_EDGE);
    let tld = TLDS.iter().cycle().nth(place / 3 + edge).expect("the cycle has no end");
    Site {
        index,
        id: name.to_owned(),
        host: format!("{name}.{tld}"),
        edge,
        place,
        dns: (place + edge) % DNS_PROVIDERS.len(),
        challenged: edge == 0 && place < CHALLENGED_SITES,
    }
}

fn network(ground: Ground, n: u8) -> Override {
    let code = COUNTRIES.iter().cycle().nth(usize::from(n)).expect("the cycle has no end");
    let range = Ipv4Net::new(ground.address(10 + n, 0, 0), 16).expect("16 is a length");
    Override {
        cidr: range.into(),
        country: code.parse().expect("the table has codes only"),
        asn: FIRST_ASN + u32::from(n),
    }
}

/// SplitMix64 (Steele, Lea and Flood 2014): enough to draw names.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^= z >> 31;
        let end = u64::try_from(end.max(1)).unwrap_or(u64::MAX);
        usize::try_from(z % end).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use tocsin_proto::{
        catalogue::{Catalogue, Zones},
        implicate::Layer,
    };

    use super::*;

    #[test]
    fn the_catalogue_is_accepted() {
        for seed in 0..20 {
            let catalogue = Catalogue::parse(&World::new(seed).catalogue(&[1, 2, 3])).unwrap();
            assert_eq!(catalogue.targets().len(), 30);
            let mut sets: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
            for (index, target) in catalogue.targets() {
                for role in target.deciding_roles() {
                    sets.entry((role.role, role.provider.clone())).or_default().insert(*index);
                }
                sets.entry((Layer::Tld, target.tld().parse().unwrap())).or_default().insert(*index);
            }
            assert_eq!(sets.len(), 10);
            assert_eq!(sets.values().collect::<BTreeSet<_>>().len(), 10, "each set is its own");
            for ((layer, id), set) in sets {
                assert_eq!(set.len(), if layer == Layer::Aux { 8 } else { 10 }, "{layer:?} {id}");
            }
        }
    }

    #[test]
    fn the_crowd_is_spread() {
        let world = World::new(7);
        let distinct = |of: fn(&LabAgent) -> String| {
            world.agents.iter().map(of).collect::<BTreeSet<_>>().len()
        };
        assert_eq!(world.agents.len(), 90);
        assert_eq!(distinct(|a| Ipv4Net::new(a.source, 24).unwrap().trunc().to_string()), 90);
        assert_eq!(distinct(|a| a.asn.to_string()), 30);
        assert_eq!(distinct(|a| a.country.to_string()), 10);
        assert_eq!(distinct(|a| format!("{:?}", Zones::builtin().of(a.country))), 5);
        let first: BTreeSet<_> = world.agents.iter().take(30).map(|a| a.asn).collect();
        assert_eq!(first.len(), 30);
        for agent in &world.agents {
            assert_eq!(world.asn_of(agent.source.into()), Some(agent.asn));
        }
        for address in world.edges.iter().map(|edge| edge.1).chain([world.resolver, world.root]) {
            assert_eq!(world.asn_of(address.into()), None);
        }
    }

    #[test]
    fn the_seed_decides() {
        let hosts = |seed| World::new(seed).sites.into_iter().map(|s| s.host).collect::<Vec<_>>();
        assert_eq!(hosts(1), hosts(1));
        assert_ne!(hosts(1), hosts(2));
    }
}
