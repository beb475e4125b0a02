use super::*;

const P: &Params = &Params::DEFAULT;

const NOW: Timestamp = Timestamp::from_s(1_800_000_000);
const MINUTE: u64 = 60_000;

/// Who stands where: the network, its country, and which resolver is asked.
fn standing(asn: u32, country: &str, resolver: ResolverClass) -> Standing {
    let country: Country = country.parse().unwrap();
    Standing {
        country,
        zone: Zones::builtin().of(country),
        asn,
        slot: 0,
        version: 1,
        resolver: resolver as u8,
    }
}

/// Networks of a country with so many observers each, of which some are cut off since ten minutes.
struct World {
    census: Census,
    cuts: Vec<Cut>,
    now: bool,
}

impl World {
    fn new() -> Self {
        let mut world = Self { census: Census::default(), cuts: Vec::new(), now: true };
        // The rest of the world, which is well.
        for n in 0..200 {
            let country = ["US", "GB", "JP", "BR"][n as usize % 4];
            world.census.add(&standing(1_000 + n / 4, country, ResolverClass::Google), ONE);
        }
        world
    }

    fn network(&mut self, asn: u32, country: &str, all: u32, cut: u32, names: bool) {
        for n in 0..all {
            let class =
                if n % 2 == 0 || !names { ResolverClass::Local } else { ResolverClass::Google };
            let standing = standing(asn, country, class);
            self.census.add(&standing, ONE);
            // Of the network's own resolver, those who ask it.
            let hit = if names { n % 2 == 0 && n / 2 < cut } else { n < cut };
            if hit {
                let from = NOW.minus_ms(10 * MINUTE);
                let spell = Spell { from, to: NOW, names, heard_at: NOW };
                let observer = asn * 1_000 + n;
                self.cuts.push(Cut { observer, standing, within: ONE, spell, now: self.now });
            }
        }
    }

    fn judge(&self, groups: &mut Groups, rounds: u64) -> (Vec<(String, Phase)>, Vec<Ended>) {
        let (mut told, mut over) = (Vec::new(), Vec::new());
        for round in 0..rounds {
            let scene = Scene {
                now: NOW.plus_ms(round * 10_000),
                cuts: &self.cuts,
                lost: &[],
                members: &|_| Vec::new(),
                heard_since: &|_, _| true,
                census: &self.census,
            };
            let mut changed = Vec::new();
            over.extend(groups.judge(P, &scene, &mut changed, &mut Vec::new()));
            told.extend(changed.into_iter().map(|c| {
                (c.incident.split_once('-').map_or(String::new(), |(_, n)| n.to_owned()), c.phase)
            }));
        }
        (told, over)
    }
}

fn named(world: &World) -> Vec<String> {
    let (told, _) = world.judge(&mut Groups::default(), 3);
    told.into_iter().filter(|(_, p)| *p == Phase::Confirmed).map(|(name, _)| name).collect()
}

#[test]
fn a_network_that_is_cut_off_is_named_and_few_are_not() {
    let check = |all, cut| {
        let mut world = World::new();
        world.network(7, "FR", all, cut, false);
        named(&world)
    };
    assert_eq!(check(12, 12), ["network-as7"]);
    assert_eq!(check(12, 5), ["network-as7"], "most of it need not be");
    assert!(check(12, 2).is_empty(), "two are two");
    assert!(check(40, 4).is_empty(), "one in ten");
    assert!(check(4, 4).is_empty(), "of four prefixes nothing is said");
}

#[test]
fn the_widest_that_explains_it_is_named() {
    let mut country = World::new();
    for asn in 1..6 {
        country.network(asn, "IR", 4, 4, false);
    }
    assert_eq!(named(&country), ["country-ir"]);
    // A country is not its largest network.
    let mut one = World::new();
    one.network(1, "IR", 12, 12, false);
    one.network(2, "IR", 3, 0, false);
    one.network(3, "IR", 3, 0, false);
    assert_eq!(named(&one), ["network-as1"]);
    // Where only who asks its resolver is cut off, it is that.
    let mut names = World::new();
    names.network(1, "AU", 12, 6, true);
    assert_eq!(named(&names), ["resolver-as1"]);
}

#[test]
fn what_is_cut_off_everywhere_is_no_network() {
    // A tenth of everybody, in every network: some client, some release.
    let mut world = World::new();
    for asn in 1..30 {
        world.network(asn, "FR", 10, if asn == 7 { 3 } else { 1 }, false);
    }
    assert!(named(&world).is_empty());
}

#[test]
fn what_is_told_of_when_it_is_over_is_reported_late_and_once() {
    let mut world = World::new();
    world.now = false;
    world.network(7, "FR", 12, 9, false);
    let mut groups = Groups::default();
    let (told, over) = world.judge(&mut groups, 60);
    let phases: Vec<Phase> = told.iter().map(|(_, phase)| *phase).collect();
    assert_eq!(phases, [Phase::Confirmed, Phase::Resolved]);
    assert!(over[0].1.late);
    assert_eq!(over[0].1.started_at, NOW.minus_ms(10 * MINUTE));
}

#[test]
fn silence_is_a_suspicion_and_no_more() {
    let world = {
        let mut world = World::new();
        world.network(7, "FR", 12, 0, false);
        world
    };
    let lost: Vec<_> =
        (0..8).map(|n| (NOW, n, standing(7, "FR", ResolverClass::Local), ONE)).collect();
    let mut groups = Groups::default();
    let mut play = |at_min: u64, back: bool, lost: &[(Timestamp, u32, Standing, i64)]| {
        let mut changed = Vec::new();
        let scene = Scene {
            now: NOW.plus_ms(at_min * MINUTE),
            cuts: &[],
            lost,
            members: &|_| Vec::new(),
            heard_since: &|_, _| back,
            census: &world.census,
        };
        groups.judge(P, &scene, &mut changed, &mut Vec::new());
        changed.into_iter().map(|change| change.phase).collect::<Vec<_>>()
    };
    assert_eq!(play(0, false, &lost), [Phase::Suspected]);
    assert_eq!(play(600, false, &[]), [], "it is still silent");
    assert_eq!(play(601, true, &[]), []);
    assert_eq!(play(617, true, &[]), [Phase::Retracted], "they are back, and tell of nothing");
}
