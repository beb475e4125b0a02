use super::super::table::Table;
use super::*;
use proptest::prelude::*;
use std::net::IpAddr;

type Rows<A, V> = Vec<Row<A, V>>;
type Plain = Inputs<
    Rows<Ipv4Addr, u32>,
    Rows<Ipv6Addr, u32>,
    Rows<Ipv4Addr, Country>,
    Rows<Ipv6Addr, Country>,
    Vec<ProviderPrefix>,
>;

fn nothing() -> Plain {
    Inputs {
        asn_v4: vec![],
        asn_v6: vec![],
        country_v4: vec![],
        country_v6: vec![],
        providers: vec![],
        built: "2026-11-23".into(),
        sources: vec!["a".into(), "b".into()],
    }
}

fn row<A: std::str::FromStr<Err: std::fmt::Debug>, V>(
    first: &str,
    last: &str,
    value: V,
) -> Row<A, V> {
    Row { first: first.parse().unwrap(), last: last.parse().unwrap(), value }
}

fn country(code: &str) -> Country {
    Country::new(code.as_bytes().try_into().unwrap()).unwrap()
}

fn prefix(net: &str, asns: &[u32]) -> ProviderPrefix {
    ProviderPrefix { net: net.parse().unwrap(), asns: asns.to_vec() }
}

fn table(inputs: Plain) -> Table {
    Table::decode(&build(inputs).unwrap()).unwrap()
}

fn at(table: &Table, ip: &str) -> (String, u32) {
    let place = table.lookup(ip.parse().unwrap());
    place.map_or(("ZZ".into(), 0), |place| (place.country.as_str().into(), place.asn))
}

fn asn_at(rows: Rows<Ipv4Addr, u32>, ip: &str) -> u32 {
    at(&table(Inputs { asn_v4: rows, ..nothing() }), ip).1
}

#[test]
fn an_empty_table_knows_nothing() {
    let table = table(nothing());
    assert_eq!(table.lookup("192.0.2.1".parse().unwrap()), None);
    assert_eq!(table.providers().network("192.0.2.1".parse().unwrap(), 7), 7);
    assert_eq!((table.about().built.as_str(), table.about().sources.len()), ("2026-11-23", 2));
}

#[test]
fn columns_are_laid_over_each_other() {
    let table = table(Inputs {
        asn_v4: vec![
            row("10.0.0.0", "10.0.9.255", 64_500),
            row("10.0.10.0", "10.0.11.255", 64_501),
        ],
        country_v4: vec![row("10.0.5.0", "10.0.10.255", country("FR"))],
        asn_v6: vec![row("2001:db8::", "2001:db8:1:ffff:ffff:ffff:ffff:ffff", 64_502)],
        country_v6: vec![row(
            "2001:db8:1::",
            "2001:db8:ff:ffff:ffff:ffff:ffff:ffff",
            country("DE"),
        )],
        ..nothing()
    });
    for (ip, code, asn) in [
        ("9.255.255.255", "ZZ", 0),
        ("10.0.0.0", "ZZ", 64_500),
        ("10.0.4.255", "ZZ", 64_500),
        ("10.0.5.0", "FR", 64_500),
        ("10.0.9.255", "FR", 64_500),
        ("10.0.10.0", "FR", 64_501),
        ("10.0.11.0", "ZZ", 64_501),
        ("10.0.12.0", "ZZ", 0),
        ("::ffff:10.0.5.0", "FR", 64_500),
        ("2001:db8::1", "ZZ", 64_502),
        ("2001:db8:1:ffff::1", "DE", 64_502),
        ("2001:db8:2::", "DE", 0),
        ("2001:db8:100::", "ZZ", 0),
    ] {
        assert_eq!(at(&table, ip), (code.to_owned(), asn), "{ip}");
    }
}

#[test]
fn the_edges_of_the_address_space_are_reached() {
    let all = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
    let table = table(Inputs {
        asn_v4: vec![row("0.0.0.0", "255.255.255.255", 1)],
        asn_v6: vec![row("::", all, 2), row("ffff::", all, 3)],
        providers: vec![
            prefix("0.0.0.0/0", &[4]),
            prefix("255.255.255.255/32", &[5]),
            prefix("::/0", &[6]),
        ],
        ..nothing()
    });
    let places = ["0.0.0.0", "255.255.255.255", "::", "fffe::", all].map(|ip| at(&table, ip).1);
    assert_eq!(places, [1, 1, 2, 2, 3]);
    let network = |ip: &str| table.providers().network(ip.parse().unwrap(), 0);
    let networks = ["0.0.0.0", "255.255.255.254", "255.255.255.255", "::", all].map(network);
    assert_eq!(networks, [4, 4, 5, 6, 6]);
    assert_eq!(table.about().rows_v4, 1);
}

#[test]
fn a_shared_block_goes_to_the_most_addresses() {
    let halves = |cut: u8| {
        let (below, from) = (format!("10.0.0.{}", cut - 1), format!("10.0.0.{cut}"));
        vec![row("10.0.0.0", &below, 7), row(&from, "10.0.3.4", 3)]
    };
    assert_eq!(asn_at(halves(129), "10.0.0.250"), 7);
    assert_eq!(asn_at(halves(127), "10.0.0.1"), 3);
    assert_eq!(asn_at(halves(128), "10.0.0.250"), 3, "a tie goes to the smallest");
    assert_eq!(asn_at(halves(129), "10.0.1.0"), 3);
    assert_eq!(asn_at(halves(129), "10.0.3.200"), 3, "nobody else claims the rest of the block");
    assert_eq!(asn_at(halves(129), "10.0.4.0"), 0);
}

#[test]
fn the_row_that_begins_later_wins_and_the_other_goes_on() {
    let rows = || {
        vec![
            row("10.0.0.0", "10.0.99.255", 1),
            row("10.0.10.0", "10.0.19.255", 2),
            row("10.0.12.0", "10.0.12.255", 3),
            row("10.0.15.0", "10.0.29.255", 4),
        ]
    };
    for (ip, asn) in [
        ("10.0.9.0", 1),
        ("10.0.11.0", 2),
        ("10.0.12.0", 3),
        ("10.0.13.0", 2),
        ("10.0.15.0", 4),
        ("10.0.29.0", 4),
        ("10.0.30.0", 1),
    ] {
        assert_eq!(asn_at(rows(), ip), asn, "{ip}");
    }
}

#[test]
fn the_longest_provider_prefix_wins() {
    let table = table(Inputs {
        providers: vec![
            prefix("192.0.2.64/26", &[3, 30]),
            prefix("192.0.2.0/24", &[2]),
            prefix("192.0.2.65/32", &[4]),
            prefix("192.0.2.65/32", &[5]),
            prefix("2001:db8::/32", &[6]),
            prefix("2001:db8:0:1::/64", &[7]),
        ],
        ..nothing()
    });
    let network = |ip: &str, by_table| table.providers().network(ip.parse().unwrap(), by_table);
    for (ip, asn) in [
        ("192.0.1.255", 0),
        ("192.0.2.63", 2),
        ("192.0.2.64", 3),
        ("192.0.2.65", 5),
        ("192.0.2.66", 3),
        ("192.0.2.128", 2),
        ("::ffff:192.0.2.65", 5),
        ("2001:db8::1", 6),
        ("2001:db8:0:1::1", 7),
        ("2001:db8:0:2::1", 6),
        ("2001:db9::", 0),
    ] {
        assert_eq!(network(ip, 0), asn, "{ip}");
    }
    assert_eq!([network("192.0.2.64", 30), network("192.0.2.64", 31)], [30, 3]);
}

#[test]
fn bad_inputs_are_named() {
    let inverted = vec![row("10.0.0.0", "10.0.0.1", 1), row("10.0.1.0", "10.0.0.2", 1)];
    assert!(matches!(
        build(Inputs { asn_v4: inverted, ..nothing() }),
        Err(BuildError::Inverted { column: Column::AsnV4, row: 1 })
    ));
    for asns in [&[][..], &[0], &[1; GROUP_MEMBERS_MAX + 1]] {
        let providers = vec![prefix("192.0.2.0/24", asns)];
        let refused = build(Inputs { providers, ..nothing() });
        assert!(matches!(refused, Err(BuildError::ProviderNetworks { row: 0, .. })), "{asns:?}");
    }
    let refused = build(Inputs { built: "x".repeat(TEXT_BYTES_MAX + 1), ..nothing() });
    assert!(matches!(refused, Err(BuildError::Texts { .. })));
    let refused = build(Inputs { sources: vec![String::new(); SOURCES_MAX + 1], ..nothing() });
    assert!(matches!(refused, Err(BuildError::Texts { .. })));
    let letters = || b'A'..=b'Z';
    let codes = letters().flat_map(|a| letters().map(move |b| Country::new([a, b]).unwrap()));
    let country_v4 = codes.zip(0_u32..).map(|(value, block)| {
        let first = Ipv4Addr::from_bits(block << 8);
        Row { first, last: first, value }
    });
    let refused = build(Inputs { country_v4: country_v4.collect(), ..nothing() });
    assert!(matches!(refused, Err(BuildError::Countries { countries: 676 })));
}

#[test]
fn ranks_stay_right_past_every_class_of_length() {
    let block = |number: u32| Ipv4Addr::from_bits(number << 8);
    let asn_of = |number: u32| number.wrapping_mul(2_654_435_761);
    let rows = (1..20_000).map(|number| Row {
        first: block(number),
        last: block(number),
        value: asn_of(number),
    });
    let table = table(Inputs { asn_v4: rows.collect(), ..nothing() });
    for number in 1..20_000 {
        let place = table.lookup(IpAddr::V4(block(number))).unwrap();
        assert_eq!(place.asn, asn_of(number));
    }
}

/// Every address of ten blocks by asking all rows, the rule of overlaps included.
fn naive(rows: &[(u32, u32, u32)], address: u32) -> Option<u32> {
    let holding = rows.iter().enumerate().filter(|(_, row)| (row.0..=row.1).contains(&address));
    holding.max_by_key(|(number, row)| (row.0, Reverse(row.1), *number)).map(|(_, row)| row.2)
}

fn naive_block(rows: &[(u32, u32, u32)], block: u32) -> u32 {
    let mut votes: BTreeMap<u32, u32> = BTreeMap::new();
    let addresses = (block << 8)..((block + 1) << 8);
    addresses
        .filter_map(|address| naive(rows, address))
        .for_each(|value| *votes.entry(value).or_default() += 1);
    votes
        .iter()
        .max_by_key(|(value, count)| (**count, Reverse(**value)))
        .map_or(0, |(value, _)| *value)
}

proptest! {
    #[test]
    fn what_is_looked_up_is_what_was_put_in(
        rows in prop::collection::vec((0_u32..2560, 0_u32..1200, 1_u32..5), 0..12),
    ) {
        let ranges = rows.into_iter().map(|(first, length, value)| (first, first + length, value));
        let rows: Vec<_> = ranges.collect();
        let as_v4 = |&(first, last, value): &(u32, u32, u32)| Row {
            first: Ipv4Addr::from_bits(first),
            last: Ipv4Addr::from_bits(last),
            value,
        };
        let as_v6 = |&(first, last, value): &(u32, u32, u32)| Row {
            first: Ipv6Addr::from_bits(u128::from(first) << 72),
            last: Ipv6Addr::from_bits((u128::from(last) << 72) | ((1 << 72) - 1)),
            value,
        };
        let table = table(Inputs {
            asn_v4: rows.iter().map(as_v4).collect(),
            asn_v6: rows.iter().map(as_v6).collect(),
            ..nothing()
        });
        for block in 0..16 {
            let expected = naive_block(&rows, block);
            let v4 = IpAddr::V4(Ipv4Addr::from_bits((block << 8) | 77));
            let v6 = IpAddr::V6(Ipv6Addr::from_bits((u128::from(block) << 80) | 77 << 64));
            prop_assert_eq!(table.lookup(v4).map_or(0, |place| place.asn), expected);
            if block != 0 {
                prop_assert_eq!(table.lookup(v6).map_or(0, |place| place.asn), expected);
            }
        }
    }

    #[test]
    fn providers_are_exact(
        nets in prop::collection::vec((0_u32..256, 20_u8..=32, 1_u32..5), 0..12),
    ) {
        let net = |&(address, length, asn): &(u32, u8, u32)| {
            let net = ipnet::Ipv4Net::new(Ipv4Addr::from_bits(address), length).unwrap();
            ProviderPrefix { net: net.into(), asns: vec![asn] }
        };
        let providers: Vec<_> = nets.iter().map(net).collect();
        let table = table(Inputs { providers: providers.clone(), ..nothing() });
        for address in (0..300).chain([4095, 4096]) {
            let ip = IpAddr::V4(Ipv4Addr::from_bits(address));
            let numbered = providers.iter().enumerate();
            let longest = numbered
                .filter(|(_, prefix)| prefix.net.contains(&ip))
                .max_by_key(|(number, prefix)| (prefix.net.prefix_len(), *number));
            let expected = longest.map_or(0, |(_, prefix)| prefix.asns[0]);
            prop_assert_eq!(table.providers().network(ip, 0), expected);
        }
    }

    #[test]
    fn order_does_not_matter(seed in prop::collection::vec((0_u32..50, 0_u32..9), 1..9)) {
        let rows = || seed.iter().map(|&(first, length)| Row {
            first: Ipv4Addr::from_bits(first << 8),
            last: Ipv4Addr::from_bits((first + length) << 8),
            value: first * 10 + length,
        });
        let there = build(Inputs { asn_v4: rows().collect(), ..nothing() }).unwrap();
        let back = build(Inputs { asn_v4: rows().rev().collect(), ..nothing() }).unwrap();
        prop_assert_eq!(there, back);
    }
}
