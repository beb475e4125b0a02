use tocsin_agent::engine::planner::Purpose;
use tocsin_proto::catalogue::Catalogue;

use super::*;
use crate::sim::scenario;

const CROWD: usize = 200;

/// Where, who, what, how it shows and how it falls.
type Said<'a> = [&'a str; 5];

fn phase((from, to): (u32, u32), said: Said<'_>, fraction: f64) -> String {
    let [region, agents, targets, symptom, mode] = said;
    format!(
        "[[incident.phase]]\nfrom_min = {from}\nto_min = {to}\nregion = \"{region}\"\n\
         failure_fraction = {fraction:?}\nsymptom = \"{symptom}\"\nagents = \"{agents}\"\n\
         targets = \"{targets}\"\nmode = \"{mode}\"\n"
    )
}

fn staged(layer: &str, phases: &[String]) -> (World, Truth) {
    let head = format!(
        "[[incident]]\nid = \"a\"\nonset_utc = \"2026-01-01T12:00:00Z\"\n\
         layer = \"{layer}\"\nexpected = \"none\"\n"
    );
    let scenario = scenario::parse(&(head + &phases.concat())).unwrap().remove(0);
    let catalogue = scenario.catalogue(Catalogue::builtin(), Dice::new(1)).unwrap();
    let mut world = World::new(catalogue, CROWD, 1);
    scenario.mark(&mut world);
    let truth = Truth::new(&scenario, &world);
    (world, truth)
}

fn one(layer: &str, said: Said<'_>) -> (World, Truth) {
    staged(layer, &[phase((0, 10), said, 1.0)])
}

fn people<'a>(world: &'a World, truth: &Truth, at: usize) -> Vec<&'a Person> {
    let all = world.people.iter().zip(&truth.phases[at].people);
    all.filter(|(_, hit)| **hit).map(|(person, _)| person).collect()
}

fn networks_of(people: &[&Person]) -> usize {
    people.iter().map(|person| person.asn).collect::<BTreeSet<_>>().len()
}

fn probe(world: &World, truth: &Truth, person: usize, target: &Target, names: Names) -> Finding {
    let request = Request {
        target: target.index,
        family: Family::V4,
        purpose: Purpose::Turn,
        full_handshake: false,
        names,
    };
    // After whatever resolvers have kept.
    let moment = Moment { ms: Some(400_000), minute: 600 };
    truth.probe(world, person, target, moment, &request, world.dice.named("test"))
}

fn host<'a>(world: &'a World, host: &str) -> &'a Target {
    world.catalogue.find(host).unwrap()
}

#[test]
fn every_combination_of_the_grammar_is_played() {
    let modes =
        ["per_request", "per_target", "per_target_flap", "per_region", "per_path", "per_agent"];
    let symptoms = [
        "http_5xx",
        "tcp_timeout",
        "dns_servfail",
        "tls_cert",
        "edge_error",
        "origin_error",
        "slow",
        "block",
        "nxdomain",
        "captive",
        "timeout",
    ];
    let regions = ["*", "FR", "continent:SA", "IS", "*", "VE", "continent:AN"];
    let agents = [
        "all",
        "one",
        "share:0.3",
        "share:0.05 networks:3",
        "isp:acme",
        "isp:acme share:0.5",
        "resolver:isp",
        "resolver:8.8.4.4",
        "resolver:adguard",
        "resolver:validating",
        "resolver:isp+isp:acme",
        "client:firefox",
        "os:windows share:0.2",
        "version:B",
        "version:B share:0.3 networks:4",
        "trust_store:legacy",
        "fresh_keys",
        "fresh_keys share:0.4 networks:3",
        "client:firefox+resolver:google",
    ];
    let targets = [
        "all",
        "provider:cloudflare",
        "provider:unheard-of",
        "provider:Oracle",
        "hosted:aws:us-east-1",
        "hosted:nocloud:moon",
        "origin:cloudflare+aws-us-east-1",
        "origin:nobody+aws:eu-west-1",
        "site:canva.com",
        "site:New.test",
        "host:shared-fr",
        "name:api.example.net",
        "tld:de",
        "tld:CO.UK",
        "issuer:letsencrypt",
    ];
    let mut n = 0;
    for agents in agents {
        for targets in targets {
            n += 1;
            let (symptom, mode) = (symptoms[n % symptoms.len()], modes[n % modes.len()]);
            let region = regions[n % regions.len()];
            let said = [region, agents, targets, symptom, mode];
            let (world, truth) = one("edge", said);
            let prepared = &truth.phases[0];
            assert!(!prepared.targets.is_empty(), "{said:?}");
            // Of a tenth of a tenth there may be nobody.
            if region == "*" && !agents.starts_with("client:firefox+") {
                assert!(prepared.people.contains(&true), "{said:?}");
            }
            let target = prepared.targets.keys().next().copied().unwrap();
            let target = world.catalogue.target(target).unwrap();
            for person in (0..world.people.len()).step_by(37) {
                for names in [Names::Own, Names::Direct, Names::Walk] {
                    probe(&world, &truth, person, target, names);
                }
                let loss = truth.loss(person, &world.people[person], 1);
                assert!((0..=LOST).contains(&loss) && !truth.is_silent(person, 1));
            }
        }
    }
}

#[test]
fn what_is_selected_has_the_footprint_that_is_stated() {
    let builtin = Catalogue::builtin().targets().len();
    for (layer, targets, symptom, selected, added) in [
        ("edge", "provider:unheard-of", "http_5xx", 10, 10),
        ("dns", "provider:unheard-of", "dns_servfail", 10, 10),
        // Known in one role, with one target: as many are added as make ten in the scenario's.
        ("edge", "provider:imperva", "http_5xx", 10, 9),
        ("hosting", "provider:oracle", "http_5xx", 11, 10),
        ("hosting", "hosted:google-cloud:us-central1", "http_5xx", 8, 0),
        ("edge", "origin:cloudflare+aws-us-east-1", "http_5xx", 8, 0),
        ("edge", "origin:nobody+aws:eu-west-1", "http_5xx", 10, 10),
        ("site", "site:canva.com", "http_5xx", 1, 0),
        ("site", "site:www.Slack.com", "http_5xx", 1, 0),
        ("site", "site:nobody.test", "http_5xx", 1, 1),
        ("site", "host:shared-fr", "http_5xx", 3, 3),
        ("dns", "tld:co.uk", "dns_servfail", 12, 11),
        ("dns", "tld:DE", "dns_servfail", 12, 5),
        ("pki", "issuer:letsencrypt", "tls_cert", 12, 0),
    ] {
        let (world, truth) = one(layer, ["*", "all", targets, symptom, "per_request"]);
        let got = (truth.phases[0].targets.len(), world.catalogue.targets().len() - builtin);
        assert_eq!(got, (selected, added), "{targets}");
    }
    for (region, agents, least, most, networks) in [
        ("IS", "all", 12, 12, 12),
        ("IS", "one", 1, 1, 1),
        ("FR", "isp:acme", 12, 12, 1),
        ("*", "isp:acme", 12, 12, 1),
        ("continent:SA", "isp:acme", 12, 12, 1),
        ("FR", "isp:acme share:0.5", 6, 6, 1),
        ("FR", "resolver:isp+isp:acme", 6, 12, 1),
        ("*", "share:0.05 networks:3", 3, 10, 3),
        ("*", "share:0.3", 60, 60, 60),
        ("*", "client:firefox", 8, 35, 35),
        ("*", "client:firefox share:0.5", 70, 130, 130),
        ("*", "version:B", 8, 35, 35),
        ("*", "version:B share:0.3", 40, 80, 80),
        ("*", "version:B share:0.3 networks:4", 4, 60, 4),
        ("*", "resolver:adguard", 8, 35, 35),
        ("*", "resolver:adguard share:0.4", 55, 105, 105),
        ("*", "fresh_keys share:0.4 networks:5", 133, 133, 5),
        ("*", "fresh_keys share:1.0", 1_800, 1_800, 3),
    ] {
        let said = [region, agents, "all", "tcp_timeout", "per_agent"];
        let (world, truth) = one("isp", said);
        let people = people(&world, &truth, 0);
        assert!((least..=most).contains(&people.len()), "{said:?}: {}", people.len());
        assert!(networks_of(&people) <= networks, "{said:?}: {}", networks_of(&people));
        if agents.starts_with("isp:") {
            let prefixes = people.iter().map(|p| p.slot).collect::<BTreeSet<_>>().len();
            assert_eq!(prefixes, people.len(), "{said:?}");
        }
        if agents.starts_with("resolver:adguard") {
            let other = tocsin_proto::report::ResolverClass::OtherPublic;
            assert!(people.iter().all(|person| person.resolver == other));
        }
    }
}

#[test]
fn each_named_network_is_its_own_in_each_country() {
    let said = |region, agents| [region, agents, "all", "tcp_timeout", "per_agent"];
    let phases =
        [("FR", "isp:acme"), ("DE", "isp:acme"), ("FR", "isp:other"), ("continent:EU", "isp:acme")];
    let phases = phases.map(|(region, agents)| phase((0, 10), said(region, agents), 1.0));
    let (world, truth) = staged("isp", &phases);
    let asns: BTreeSet<u32> = (0..3).map(|at| people(&world, &truth, at)[0].asn).collect();
    assert_eq!(asns.len(), 3);
    assert_eq!((0..3).map(|at| people(&world, &truth, at).len()).max(), Some(12));
    // Where two countries name it, the continent means both.
    assert_eq!(people(&world, &truth, 3).len(), 24);
    let members = people(&world, &truth, 0);
    let differ = |of: fn(&Person) -> u64| {
        members.iter().map(|person| of(person)).collect::<BTreeSet<_>>().len()
    };
    assert!(differ(|person| person.burst_minute.into()) >= 10);
    assert!(differ(|person| person.resolver as u64) >= 2);
}

#[test]
fn a_larger_share_of_keys_adds_to_a_smaller_and_others_leave_them_alone() {
    let said = |agents| ["*", agents, "provider:cloudflare", "http_5xx", "per_agent"];
    let agents = ["fresh_keys share:0.2", "fresh_keys share:0.4", "share:0.5", "version:B", "all"];
    let phases = agents.map(|agents| phase((0, 10), said(agents), 1.0));
    let (world, truth) = staged("edge", &phases);
    let count = |at| people(&world, &truth, at).len();
    assert_eq!((count(0), count(1), count(2), count(4)), (50, 133, 100, 333));
    let fresh = |at| people(&world, &truth, at).iter().filter(|p| p.is_fresh()).count();
    assert_eq!((fresh(0), fresh(1), fresh(2), fresh(3)), (50, 133, 0, 0));
}

#[test]
fn what_stands_behind_anothers_edge_is_met_through_it() {
    let met = |targets: &str, symptom: &str, site: &str| {
        let (world, truth) = one("hosting", ["*", "all", targets, symptom, "per_request"]);
        let finding = probe(&world, &truth, 0, host(&world, site), Names::Own);
        let rule = RuleTable::builtin().get(finding.rule);
        (finding.outcome, rule.map(|rule| rule.fault))
    };
    let origin = (Outcome::Http5xx, Some(Fault::Origin));
    let edge = (Outcome::Http5xx, Some(Fault::Edge));
    for symptom in ["tcp_timeout", "tls_handshake", "http_5xx", "timeout"] {
        assert_eq!(met("provider:aws", symptom, "canva.com"), origin, "{symptom}");
    }
    assert_eq!(met("provider:aws", "tcp_timeout", "slack.com").0, Outcome::TcpTimeout);
    assert_eq!(met("provider:cloudflare", "tcp_reset", "canva.com").0, Outcome::TcpReset);
    assert_eq!(met("provider:cloudflare", "http_5xx", "canva.com"), edge);
    assert_eq!(met("provider:cloudflare", "origin_error", "canva.com"), origin);
    assert_eq!(met("site:canva.com", "http_5xx", "canva.com"), origin);
    assert_eq!(met("site:canva.com", "edge_error", "canva.com"), edge);
    assert_eq!(met("site:canva.com", "challenge", "canva.com").0, Outcome::Challenged);
    assert_eq!(met("site:canva.com", "captive", "canva.com").0, Outcome::Intercepted);
}

#[test]
fn names_that_fail_are_seen_by_those_who_ask_where_they_fail() {
    let met = |said: Said<'_>, names: Names| {
        let (world, truth) = one("dns", said);
        // One of those who are selected, and who does not validate.
        let at = (0..world.people.len())
            .find(|at| truth.phases[0].people[*at] && !validates(&world, *at))
            .unwrap();
        let finding = probe(&world, &truth, at, host(&world, "slack.com"), names);
        (finding.outcome, finding.dns)
    };
    let failing = |dns| (Outcome::DnsTimeout, dns);
    let dns = "dns_timeout";
    // A name that fails for all.
    for mode in ["per_agent", "per_request"] {
        let aws = ["*", "all", "provider:aws", dns, mode];
        assert_eq!(met(aws, Names::Own), failing(DnsPath::Both), "{mode}");
    }
    // A resolver that fails, wherever it stands in what is said.
    for agents in ["resolver:isp+isp:acme", "isp:acme+resolver:isp", "resolver:google"] {
        for targets in ["all", "provider:aws"] {
            let said = ["*", agents, targets, dns, "per_agent"];
            assert_eq!(met(said, Names::Own), failing(DnsPath::SystemOnly), "{said:?}");
        }
    }
    // A line on which nothing goes.
    let line = ["FR", "isp:acme", "all", dns, "per_agent"];
    assert_eq!(met(line, Names::Own), failing(DnsPath::Unconfirmed));
    // What only those see who validate.
    for targets in ["all", "provider:aws"] {
        let signed = ["*", "resolver:validating", targets, dns, "per_request"];
        assert_ne!(met(signed, Names::Own).1, DnsPath::Both, "{targets}");
        assert_eq!(met(signed, Names::Walk), failing(DnsPath::IndependentOnly), "{targets}");
    }
}

#[test]
fn what_resolvers_have_kept_runs_out_once_for_phases_that_follow_each_other() {
    let said = ["*", "all", "provider:aws", "dns_servfail", "per_target"];
    let phases = [((0, 10), 0.2), ((10, 20), 0.8), ((30, 40), 0.8)];
    let (_, truth) = staged("dns", &phases.map(|(at, fraction)| phase(at, said, fraction)));
    let began = |at: usize, rank| truth.phases[at].began(rank);
    // The first target has failed since the first phase, the last but few since the second.
    let most = truth.phases[1].targets.len() * 7 / 10;
    assert_eq!((began(1, 0), began(1, most)), (0, 600_000));
    assert_eq!((began(2, 0), began(2, most)), (1_800_000, 1_800_000));
}

#[test]
fn places_fail_country_by_country_and_in_one_country_by_its_fraction() {
    let hit = |region: &str| {
        let said = [region, "all", "provider:cloudflare", "http_5xx", "per_region"];
        let (world, truth) = staged("edge", &[phase((0, 10), said, 0.5)]);
        let mut countries: BTreeMap<String, BTreeSet<bool>> = BTreeMap::new();
        let (mut hit, mut all) = (0_usize, 0_usize);
        for (at, person) in world.people.iter().enumerate() {
            if truth.phases[0].people[at] {
                let is_hit = Truth::hits_person(&truth.phases[0], at, person, 0);
                countries.entry(person.country.to_string()).or_default().insert(is_hit);
                (hit, all) = (hit + usize::from(is_hit), all + 1);
            }
        }
        assert!((2 * hit).abs_diff(all) <= 2, "{region}: {hit} of {all}");
        countries.values().filter(|of| of.len() == 2).count()
    };
    assert_eq!(hit("FR"), 1);
    assert!(hit("*") <= 1, "countries are hit as a whole, but for the last");
}

#[test]
fn of_phases_on_the_same_targets_the_closest_region_holds() {
    let said = |region| [region, "all", "provider:fastly", "http_5xx", "per_agent"];
    let regions = [("*", 0.1), ("continent:EU", 0.2), ("FR", 0.9)];
    let phases = regions.map(|(region, fraction)| phase((0, 10), said(region), fraction));
    let (world, truth) = staged("edge", &phases);
    for (at, person) in world.people.iter().enumerate() {
        let holding: Vec<u64> = truth.holding(at, 1).map(|prepared| prepared.number).collect();
        let closest = match person.country.as_str() {
            "FR" => 3,
            "DE" | "GB" | "IT" => 2,
            "US" | "JP" | "TR" => 1,
            _ => continue,
        };
        assert_eq!(holding, [closest], "{}", person.country);
    }
    // The fraction of the widest is of everyone else.
    let here = |code: &str, at: usize| world.people[at].country.as_str() == code;
    let wide = (0..world.people.len()).filter(|at| {
        let hit = Truth::hits_person(&truth.phases[0], *at, &world.people[*at], 0);
        hit && truth.holding(*at, 1).any(|prepared| prepared.number == 1)
    });
    let wide: Vec<usize> = wide.collect();
    assert!(wide.iter().all(|at| !here("FR", *at)));
    let elsewhere = (0..world.people.len())
        .filter(|at| truth.holding(*at, 1).any(|prepared| prepared.number == 1))
        .count();
    assert!((10 * wide.len()).abs_diff(elsewhere) <= 10, "{} of {elsewhere}", wide.len());
}

#[test]
fn who_is_silenced_is_the_part_that_fails_and_bad_lines_lose_reports() {
    for mode in ["per_request", "per_target", "per_agent", "per_region"] {
        let said = ["*", "all", "all", "tcp_timeout", mode];
        let silent = phase((0, 10), said, 0.3) + "agents_silent = true\n";
        let (world, truth) = staged("isp", &[silent]);
        let count = (0..world.people.len()).filter(|at| truth.is_silent(*at, 1)).count();
        assert!((55..=65).contains(&count), "{mode}: {count}");
    }
    let loss = |targets: &str, symptom: &str| {
        let said = ["*", "all", targets, symptom, "per_request"];
        let (world, truth) = staged("isp", &[phase((0, 10), said, 0.5)]);
        truth.loss(0, &world.people[0], 1)
    };
    assert_eq!(loss("all", "tcp_timeout"), LOST / 2);
    assert_eq!(loss("all", "dns_timeout"), 0, "we are asked for by our address");
    assert_eq!(loss("provider:cloudflare", "tcp_timeout"), 0);
}

#[test]
fn what_fails_hides_what_is_only_slow() {
    let said = |symptom| ["*", "all", "provider:fastly", symptom, "per_request"];
    let slow = phase((0, 10), said("slow"), 1.0) + "overlay = true\n";
    let phases = [slow, phase((0, 10), said("tls_alert"), 1.0)];
    let (world, truth) = staged("edge", &phases);
    let edge =
        |target: &&Target| target.provider(Layer::Edge).is_some_and(|id| id.as_str() == "fastly");
    let target = truth.sites.values().find(edge).unwrap();
    let finding = probe(&world, &truth, 0, target, Names::Own);
    assert_eq!(finding.outcome, Outcome::TlsAlert);
}
