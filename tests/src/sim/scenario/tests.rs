use super::*;

const ONE: &str = r#"
    [[incident]]
    id = "a"
    onset_utc = "2025-11-18T11:20:00Z"
    first_customer_error_utc = "2025-11-18T11:28:00Z"
    layer = "dns"
    expected = "global:x"
    [[incident.phase]]
    from_min = 0
    to_min = 8.5
    failure_fraction = 0.05
    symptom = "http_5xx"
    targets = "TARGETS"
    agents = "AGENTS"
    mode = "per_request"
"#;

fn with(targets: &str, agents: &str) -> anyhow::Result<Scenario> {
    let text = ONE.replace("TARGETS", targets).replace("AGENTS", agents);
    parse(&text).map(|mut scenarios| scenarios.remove(0))
}

#[test]
fn every_selector_is_read_and_nothing_else() {
    let scenario = with("provider:x", "share:0.05 networks:3").unwrap();
    assert_eq!(scenario.onset.to_string(), "2025-11-18T11:20:00.000Z");
    assert_eq!((scenario.clock_ms, scenario.length_ms()), (480_000, 510_000));
    assert_eq!(scenario.phases[0].who, [Who::Share(50_000), Who::Networks(3)]);
    for targets in [
        "all",
        "hosted:aws:us-east-1",
        "origin:a+b",
        "site:a.b",
        "host:a",
        "name:a.b",
        "tld:de",
        "issuer:x",
    ] {
        assert!(with(targets, "all").is_ok(), "{targets}");
    }
    for agents in [
        "one",
        "isp:a",
        "isp:a+resolver:isp",
        "client:f",
        "os:o",
        "version:B share:0.3",
        "trust_store:t",
        "fresh_keys share:0.4 networks:3",
    ] {
        assert!(with("all", agents).is_ok(), "{agents}");
    }
    for (targets, agents) in
        [("everything", "all"), ("planet:x", "all"), ("all", "nobody"), ("all", "share:2")]
    {
        assert!(with(targets, agents).is_err(), "{targets} {agents}");
    }
}

#[test]
fn a_share_is_that_of_the_part_that_it_follows() {
    let part = |mark: &str| Who::Marked(mark.to_owned());
    let check = |agents: &str, expect: &[Who]| {
        assert_eq!(with("all", agents).unwrap().phases[0].who, expect, "{agents}");
    };
    check("version:B", &[part("version:B"), Who::Share(100_000)]);
    check("version:B share:0.3", &[part("version:B"), Who::Share(300_000)]);
    let three = [part("os:o"), Who::Share(300_000), Who::Networks(3)];
    check("os:o networks:3 share:0.3", &three);
    check("isp:a share:0.3", &[part("isp:a"), Who::Share(300_000)]);
    let both = [part("client:f"), Who::Share(100_000), part("os:o"), Who::Share(500_000)];
    check("client:f+os:o share:0.5", &both);
    let adguard = Who::Resolver("adguard".to_owned());
    check("resolver:adguard", &[adguard, Who::Share(100_000)]);
    check("resolver:8.8.4.4", &[Who::Resolver("8.8.4.4".to_owned())]);
    check("resolver:validating", &[Who::Resolver("validating".to_owned())]);
}

#[test]
fn times_are_those_of_rfc_3339() {
    for text in [
        "2025-11-18T11:20:00.000Z",
        "2025-11-18T11:20:00+00:00",
        "2025-11-18t11:20:00z",
        "2025-11-18 12:20:00+01:00",
        "2025-11-17T22:20:00.0-13:00",
    ] {
        assert_eq!(utc(text).unwrap().to_string(), "2025-11-18T11:20:00.000Z", "{text}");
    }
    let odd = utc("2024-02-29T23:59:59.1239+05:30").unwrap();
    assert_eq!(odd.to_string(), "2024-02-29T18:29:59.123Z");
    for text in ["", "2025-11-18", "2025-11-18T11:20:00", "2025-13-18T11:20:00Z", "now"] {
        assert!(utc(text).is_err(), "{text}");
    }
}

#[test]
fn what_is_wrong_with_one_scenario_is_no_others_concern() {
    let good = ONE.replace("TARGETS", "site:a.test").replace("AGENTS", "all");
    let check = |text: &str, expect: &[(&str, bool)]| {
        let entries = read(text).unwrap();
        let got: Vec<_> = entries.iter().map(|e| (e.id.as_str(), e.scenario.is_ok())).collect();
        assert_eq!(got, expect);
        assert!(entries.iter().all(|entry| entry.expected == "global:x"));
        assert!(parse(text).is_err());
    };
    let second = |from: &str, to: &str| good.replace("\"a\"", "\"b\"").replace(from, to);
    for (from, to) in [
        ("per_request", "per_chance"),
        ("http_5xx", "no_such_thing"),
        ("site:a.test", "planet:x"),
        ("failure_fraction = 0.05", "failure_fraction = 5"),
        ("onset_utc", "onset"),
        // This one is no TOML.
        ("mode =", "mode"),
    ] {
        let text = [good.as_str(), &second(from, to), &good].concat();
        check(&text, &[("a", true), ("b", false), ("a", true)]);
    }
    assert!(read("a = 1").is_err() && read("").is_err());
}

#[test]
fn names_are_the_same_in_any_case_and_symptoms_have_their_pages() {
    let of = |targets: &str| with(targets, "all").unwrap().phases[0].targets.clone();
    assert_eq!(of("site:Canva.COM"), Targets::Site("canva.com".to_owned()));
    assert_eq!(of("tld:.CO.UK"), Targets::Tld("co.uk".to_owned()));
    assert!(is_under("a.co.uk", "co.uk") && is_under("a.co.uk", "uk"));
    assert!(!is_under("a.fco.uk", "co.uk") && !is_under("co.uk", "co.uk"));
    for (symptom, outcome, page) in [
        ("edge_error", Outcome::Http5xx, Some(Page::Edge)),
        ("origin_error", Outcome::Http5xx, Some(Page::Origin)),
        ("http_5xx", Outcome::Http5xx, None),
        ("timeout", Outcome::TcpTimeout, None),
        ("block", Outcome::Challenged, None),
    ] {
        let text = ONE.replace("TARGETS", "all").replace("AGENTS", "all");
        let scenario = parse(&text.replace("http_5xx", symptom)).unwrap().remove(0);
        assert_eq!(scenario.phases[0].symptom, outcome, "{symptom}");
        assert_eq!(scenario.pages.get(&0).copied(), page, "{symptom}");
    }
    let region = |text: &str| text.parse::<Region>().unwrap();
    assert_eq!(region("UK"), region("gb"));
    assert_eq!(region("continent:eu"), Region::Continent(*b"EU"));
}

#[test]
fn what_the_world_lacks_is_added() {
    let dice = super::super::dice::Dice::new(1);
    let of = |targets: &str| {
        let scenario = with(targets, "all").unwrap();
        scenario.catalogue(Catalogue::builtin(), dice).unwrap()
    };
    let builtin = Catalogue::builtin().targets().len();
    let behind = |catalogue: &Catalogue, id: &str| {
        let targets = catalogue.targets().values();
        targets.filter(|t| t.roles.iter().any(|r| r.provider.as_str() == id)).count()
    };
    let added = of("provider:unheard-of");
    assert_eq!((added.targets().len(), behind(&added, "unheard-of")), (builtin + 10, 10));
    let region = of("hosted:aws:us-east-1");
    assert_eq!(region.targets().len(), builtin);
    assert_eq!(behind(&region, "aws-us-east-1"), (builtin * 3).div_ceil(100));
    assert_eq!(of("site:nobody.test").targets().len(), builtin + 1);
    let tld = of("tld:zz");
    assert!(tld.targets().values().filter(|t| t.tld() == "zz").count() >= 12);
}
