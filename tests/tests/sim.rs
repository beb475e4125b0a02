//! The simulated world: outages are confirmed and named, quiet days are quiet, and the same seed
//! gives the same bytes.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use tocsin_tests::sim::{
    quiet,
    scenario::{self, Scenario},
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
fn a_quiet_day_is_quiet_and_repeats_from_its_seed() {
    let run = || serde_json::to_string(&quiet::run(1, 60, 5, true)).unwrap();
    let first = run();
    assert!(first.contains("\"confirmed\":[]"), "{first}");
    assert_eq!(first, run());
}
