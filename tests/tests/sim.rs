//! The simulated world: outages are confirmed and named, quiet days are quiet, and the same seed
//! gives the same bytes.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::process::Command;

use tocsin_tests::sim::{
    quiet,
    scenario::{self, Scenario},
    scorecard::{self, Form, Section},
    verdict::{self, Options, Outcome},
};

const SMALL: usize = 150;

/// Twelve minutes of one outage, after half an hour of nothing.
fn outage(targets: &str, symptom: &str, mode: &str, fraction: f64, expected: &str) -> Scenario {
    let text = format!(
        "[[incident]]
         id = \"a\"
         onset_utc = \"2026-03-02T10:00:00Z\"
         expected = \"{expected}\"
         [[incident.phase]]
         from_min = 0
         to_min = 12
         failure_fraction = {fraction}
         symptom = \"{symptom}\"
         targets = \"{targets}\"
         mode = \"{mode}\""
    );
    scenario::parse(&text).unwrap().remove(0)
}

fn play(scenario: &Scenario) -> Outcome {
    verdict::run(scenario, &Options::new(SMALL, 3)).unwrap()
}

#[test]
fn an_edge_that_fails_is_named_within_a_minute_and_resolved() {
    let outcome =
        play(&outage("provider:cloudflare", "http_5xx", "per_request", 0.5, "global:cloudflare"));
    assert!(outcome.pass, "{outcome:?}");
    assert_eq!(outcome.incidents, 1);
    assert!(outcome.confirmed_s.unwrap() < 60.0, "{outcome:?}");
    assert!(outcome.resolved_s.is_some(), "{outcome:?}");
}

#[test]
fn an_authority_whose_certificates_are_refused_is_named_and_no_edge_is() {
    let outcome =
        play(&outage("issuer:zerossl", "tls_cert", "per_request", 0.9, "global:issuer:zerossl"));
    assert!(outcome.pass && outcome.confirmed_s.unwrap() < 60.0, "{outcome:?}");
    assert_eq!(outcome.incidents, 1);
}

#[test]
fn names_fail_within_seconds_although_resolvers_have_kept_them() {
    let outcome =
        play(&outage("provider:google", "dns_servfail", "per_request", 1.0, "global:google"));
    assert!(outcome.pass && outcome.confirmed_s.unwrap() < 60.0, "{outcome:?}");
}

#[test]
fn a_site_that_is_looked_at_seldom_is_still_seen_to_be_down() {
    let mut scenario = outage("site:slack.com", "http_5xx", "per_request", 0.9, "site:slack.com");
    scenario.phases[0].to_ms = 3_600_000;
    let outcome = verdict::run(&scenario, &Options::new(400, 3)).unwrap();
    assert!(outcome.pass, "{outcome:?}");
}

#[test]
fn without_asking_back_it_takes_longer() {
    let scenario =
        outage("provider:cloudflare", "http_5xx", "per_request", 0.5, "global:cloudflare");
    let (with, without) = (
        play(&scenario),
        verdict::run(&scenario, &Options { asks_back: false, ..Options::new(SMALL, 3) }).unwrap(),
    );
    let confirmed = |outcome: &Outcome| outcome.confirmed_s.unwrap_or(f64::MAX);
    assert!(confirmed(&with) < confirmed(&without), "{with:?} {without:?}");
}

#[test]
fn what_is_everywhere_or_one_observers_own_is_no_incident() {
    for (targets, symptom, mode, fraction) in
        [("all", "tcp_timeout", "per_request", 0.3), ("all", "tls_handshake", "per_agent", 0.02)]
    {
        let outcome = play(&outage(targets, symptom, mode, fraction, "none"));
        assert!(outcome.pass, "{outcome:?}");
    }
}

#[test]
fn five_of_six_broken_lines_raise_nothing() {
    for symptom in ["tcp_timeout", "dns_timeout", "tls_handshake", "http_5xx"] {
        let outcome = play(&outage("all", symptom, "per_agent", 0.83, "none"));
        assert!(outcome.pass && outcome.verdicts.is_empty(), "{symptom}: {outcome:?}");
    }
}

/// Real outages, as they are measured.
fn corpus(id: &str) -> Scenario {
    let scenarios = scenario::parse(include_str!("../data/incidents.toml")).unwrap();
    scenarios.into_iter().find(|scenario| scenario.id == id).unwrap()
}

#[test]
fn a_network_whose_users_cannot_reach_us_is_told_of_when_they_can() {
    let outcome = play(&corpus("vodafone-uk-2025-10-13"));
    assert!(outcome.pass, "{outcome:?}");
    // Two hours of silence are a suspicion; the backlog confirms it.
    assert!(outcome.suspected_s.unwrap() < 600.0, "{outcome:?}");
    assert!((7_200.0..8_400.0).contains(&outcome.confirmed_s.unwrap()), "{outcome:?}");
}

#[test]
fn a_release_of_our_own_that_fails_is_nobodys_outage() {
    let mut scenario = corpus("syn-bad-agent-release");
    for phase in &mut scenario.phases {
        (phase.from_ms, phase.to_ms) = (phase.from_ms / 12, phase.to_ms / 12);
    }
    let outcome = play(&scenario);
    assert!(outcome.pass && outcome.verdicts.is_empty(), "{outcome:?}");
}

#[test]
fn names_that_resolvers_keep_are_found_broken_by_who_is_asked() {
    let mut scenario = corpus("de-dnssec-2026-05-05");
    // The worst hour of it.
    scenario.phases.retain(|phase| phase.from_ms == 7_200_000);
    (scenario.phases[0].from_ms, scenario.phases[0].to_ms) = (0, 3_600_000);
    let outcome = verdict::run(&scenario, &Options::new(400, 3)).unwrap();
    assert!(outcome.pass, "{outcome:?}");
}

#[test]
fn a_scorecard_goes_on_where_it_was_and_is_made_of_what_was_played() {
    let dir = tempfile::tempdir().unwrap();
    let results = dir.path().join("results.jsonl");
    let make = |minutes: u64| {
        let options = scorecard::Options {
            form: Form::Short,
            results: &results,
            threads: 2,
            within: std::time::Duration::from_secs(minutes * 60),
            only: Some(Section::Time),
        };
        scorecard::make(&options).unwrap()
    };
    let first = make(30);
    assert!(first.failures.is_empty(), "{:?}", first.failures);
    let played = std::fs::read_to_string(&results).unwrap();
    assert_eq!(make(30).page, first.page, "nothing is played twice");
    assert_eq!(std::fs::read_to_string(&results).unwrap(), played);
    // A line that was cut in the middle is played again, and comes to the same.
    let cut = &played[..played.len() - 40];
    std::fs::write(&results, cut).unwrap();
    assert_eq!(make(30).page, first.page);
}

#[test]
fn the_program_goes_on_past_what_it_cannot_read_or_play() {
    let good = "[[incident]]
         id = \"good\"
         onset_utc = \"2026-03-02T10:00:00.5+00:00\"
         expected = \"none\"
         [[incident.phase]]
         from_min = 0
         to_min = 1
         failure_fraction = 1.0
         symptom = \"http_5xx\"
         agents = \"one\"
         targets = \"site:canva.com\"
         mode = \"per_agent\"
         ";
    let other = |id: &str, from: &str, to: &str| good.replace("good", id).replace(from, to);
    let text = [
        other("unread", "site:canva.com", "planet:x"),
        other("unplayed", "canva.com", "no_host.test"),
        good.to_owned(),
    ];
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("scenarios.toml");
    std::fs::write(&file, text.concat()).unwrap();
    let run = Command::new(env!("CARGO_BIN_EXE_tocsin-sim"))
        .arg("--scenario")
        .arg(&file)
        .args(["--observers", "40", "--seed", "3", "--json"])
        .output()
        .unwrap();
    assert_eq!(run.status.code(), Some(1));
    let told = String::from_utf8(run.stderr).unwrap();
    assert!(told.contains("unread: ") && told.contains("unplayed: "), "{told}");
    let out = String::from_utf8(run.stdout).unwrap();
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines.len(), 4, "{out}");
    let keys = [
        "id",
        "expected",
        "acceptable",
        "verdicts",
        "pass",
        "incidents",
        "reopened",
        "suspected_s",
        "confirmed_s",
        "resolved_s",
        "observers",
        "seed",
        "bytes_per_observer_day",
    ];
    for (line, (id, pass)) in
        lines.iter().zip([("unread", false), ("unplayed", false), ("good", true)])
    {
        let places: Vec<_> = keys.iter().map(|key| line.find(&format!("\"{key}\":"))).collect();
        assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{line}");
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!((value["id"].as_str(), value["pass"].as_bool()), (Some(id), Some(pass)));
        assert_eq!(value["observers"].as_u64(), Some(40), "what was added is not counted");
    }
    assert!(lines[3].contains("\"summary\":true") && lines[3].contains("\"passed\":1"), "{out}");
}

#[test]
fn a_quiet_day_is_quiet_and_repeats_from_its_seed() {
    let run = || serde_json::to_string(&quiet::run(1, 60, 5, true)).unwrap();
    let first = run();
    assert!(first.contains("\"confirmed\":[]"), "{first}");
    assert_eq!(first, run());
}
