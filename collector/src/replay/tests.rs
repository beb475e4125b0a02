use super::*;
use crate::engine::detector::Subject;
use tocsin_proto::incident::Phase;

/// Eighty observers in forty networks and eight countries look at thirty sites, ten of them
/// behind one edge, each every five minutes; from the second hour on that edge fails.
pub(crate) fn file(dir: &Path, extra: &str) -> PathBuf {
    use std::fmt::Write;
    let countries = ["US", "GB", "FR", "DE", "IT", "SE", "PL", "JP"];
    let mut text = String::new();
    for step in 0..48u64 {
        for observer in 0..80u64 {
            for look in 0..4u64 {
                let site = (step * 7 + observer * 11 + look * 13) % 30;
                let at = 1_763_460_000_000 + step * 300_000 + observer * 3_000 + look * 75_000;
                let broken = site < 10 && (24..36).contains(&step);
                let edge = if site < 10 { "acme" } else { "other" };
                let outcome = if broken { "tcp_timeout" } else { "ok" };
                let country = countries[observer as usize % 8];
                let asn = 64_500 + observer / 2;
                let target = format!("site{site}.example.com");
                writeln!(
                    text,
                    r#"{{"received_at_ms":{at},"observer":"o{observer}","country":"{country}","asn":{asn},"target":"{target}","providers":[{{"role":"edge","id":"{edge}"}}],"outcome":"{outcome}"}}"#
                )
                .unwrap();
            }
        }
    }
    let path = dir.join("observations.jsonl");
    std::fs::write(&path, text + extra).unwrap();
    path
}

#[test]
fn an_outage_in_a_file_is_found_in_its_own_time() {
    let dir = tempfile::tempdir().unwrap();
    let path = file(dir.path(), "\nnonsense\n{\"received_at_ms\":1}\n");
    let recording = Recording::open(&path, None).unwrap();
    assert_eq!((recording.told.malformed, recording.told.observers), (2, 80));
    assert_eq!(recording.told.period_s, 75.0);
    assert_eq!(recording.told.notes.len(), 2);
    let mut phases = Vec::new();
    recording
        .play(Settings::default(), Tenure::File, |change, _| {
            let minutes = recording.outer(change.at).since_ms(recording.start) / 60_000;
            phases.push((change.phase, minutes));
        })
        .unwrap();
    let confirmed = phases.iter().find(|(phase, _)| *phase == Phase::Confirmed);
    // It broke after two hours.
    assert!(confirmed.is_some_and(|(_, minutes)| (120..135).contains(minutes)), "{phases:?}");
    // It recovers; that it is over for good, the rest of the file is too short to tell.
    assert_eq!(phases.last().map(|(phase, _)| *phase), Some(Phase::Recovering), "{phases:?}");
    let young = recording.play(Settings::default(), Tenure::None, |change, _| {
        assert_ne!(change.phase, Phase::Confirmed, "nobody has a vote yet");
    });
    assert!(young.is_ok());
}

fn confirmed(recording: &Recording, settings: Settings) -> Vec<(String, u64)> {
    let mut found = Vec::new();
    recording
        .play(settings, Tenure::File, |change, detector| {
            if change.phase != Phase::Confirmed {
                return;
            }
            let shown = detector.incidents();
            let shown = shown.iter().find(|s| s.incident.id == change.incident).unwrap();
            let name = match shown.subject {
                Subject::Entity(entity) => {
                    recording.name_of(&detector.plan().entity(entity).provider).to_owned()
                }
                Subject::Site(target) => detector.catalogue().target(target).unwrap().name.clone(),
                Subject::Group(group) => group.name(),
            };
            let minutes = recording.outer(change.at).since_ms(recording.start) / 60_000;
            found.push((name, minutes));
        })
        .unwrap();
    found
}

/// Sixty observers look at so many sites every five minutes, all at once; those of the first third are
/// behind `Acme:EU/1`, which fails from the second hour on.
fn rounds(dir: &Path, sites: u64, shuffled: bool) -> PathBuf {
    let countries = ["US", "GB", "FR", "DE", "IT", "SE", "PL", "JP"];
    let mut lines = Vec::new();
    for round in 0..36u64 {
        for observer in 0..60u64 {
            let at = 1_763_460_000_000 + round * 300_000 + observer * 4_900;
            for site in 0..sites {
                let acme = site < sites / 3;
                let outcome = if acme && round >= 24 { "http_500" } else { "ok" };
                let id = if acme { "Acme:EU/1" } else { "other" };
                let country = countries[observer as usize % 8];
                lines.push(
                    serde_json::json!({
                        "received_at_ms": at, "observer": format!("o{observer}"),
                        "country": country, "target": format!("s{site}"),
                        "providers": [{"role": "edge", "id": id}, {"role": "dance", "id": "x"}],
                        "outcome": outcome, "scheduled": null, "resolver": null,
                        "asn": if observer % 2 == 0 { serde_json::Value::Null } else {
                        format!("AS{}", 64_500 + observer / 4).into()
                    },
                    })
                    .to_string(),
                );
            }
        }
    }
    if shuffled {
        let last = lines.len() - 1;
        lines.swap(0, last);
        lines.swap(100, last / 2);
    }
    let path = dir.join("rounds.jsonl");
    std::fs::write(&path, lines.join("\n")).unwrap();
    path
}

#[test]
fn rounds_of_many_sites_are_found_whatever_their_size_and_order() {
    for (sites, shuffled) in [(12, false), (21, true), (90, false)] {
        let dir = tempfile::tempdir().unwrap();
        let recording = Recording::open(&rounds(dir.path(), sites, shuffled), None).unwrap();
        let Told { period_s, sites_a_round, unknown_roles, malformed, .. } = recording.told;
        assert_eq!((period_s, sites_a_round, malformed), (300.0, sites, 0));
        assert_eq!(unknown_roles, recording.told.observations);
        assert_eq!(recording.told.out_of_order > 0, shuffled);
        let found = confirmed(&recording, Settings::default());
        assert_eq!(found.len(), 1, "{sites}: {found:?}");
        assert_eq!(found[0].0, "Acme:EU/1");
        assert!((120..135).contains(&found[0].1), "{sites}: {found:?}");
    }
}

/// Where an observer of a stream lives, and in which network: eight countries, five networks each.
fn home(observer: u64) -> (&'static str, u64) {
    let country = ["US", "GB", "FR", "DE", "IT", "SE", "PL", "JP"][observer as usize % 8];
    (country, 64_500 + observer % 40)
}

/// Two hundred observers who each look at one of sixty sites every 25 s, by chance; two looks of a
/// hundred fail. `meets` tells what a look comes to in a minute; `away` who does not look, ms after the
/// beginning.
fn stream(
    dir: &Path,
    minutes: u64,
    away: impl Fn(u64, u64) -> bool,
    meets: impl Fn(u64, u64, u64) -> Option<&'static str>,
    more: impl Fn(u64, &mut serde_json::Value),
) -> PathBuf {
    let mut lines = Vec::new();
    for step in 0..minutes * 60 / 25 {
        for observer in 0..200u64 {
            let throw = number_of(&format!("{step} {observer}"));
            let at = step * 25_000 + observer * 120;
            let (minute, site) = (at / 60_000, throw % 60);
            if away(at, observer) {
                continue;
            }
            let usual = if (throw / 64).is_multiple_of(50) { "tcp_timeout" } else { "ok" };
            let outcome = meets(minute, observer, site).unwrap_or(usual);
            let (country, asn) = home(observer);
            let edge = format!("edge{}", site / 15);
            let mut line = serde_json::json!({
                "received_at_ms": 1_763_460_000_000u64 + at, "observer": format!("o{observer}"),
                "country": country, "asn": asn, "target": format!("s{site}.com"),
                "providers": [{"role": "edge", "id": edge}], "outcome": outcome,
            });
            more(observer, &mut line);
            lines.push(line.to_string());
        }
    }
    let path = dir.join("stream.jsonl");
    std::fs::write(&path, lines.join("\n")).unwrap();
    path
}

fn told_of(path: &Path) -> Vec<(String, u64)> {
    let recording = Recording::open(path, None).unwrap();
    assert_eq!(recording.told.period_s, 25.0);
    confirmed(&recording, Settings::default())
}

#[test]
fn a_hole_in_a_file_changes_no_pace() {
    let dir = tempfile::tempdir().unwrap();
    let hole = |at, _| (30..47).contains(&(at / 60_000));
    let fails = |minute, _, site| (minute >= 60 && site < 15).then_some("http_503");
    let found = told_of(&stream(dir.path(), 75, hole, fails, |_, _| {}));
    assert!(matches!(&found[..], [(name, 60..70)] if name == "edge0"), "{found:?}");
}

#[test]
fn a_host_is_named_behind_edges_that_pass_its_errors_on() {
    let dir = tempfile::tempdir().unwrap();
    // Every fifth site is on one host, behind four edges; what it answers says nothing of whose fault it is.
    let fails = |minute, _, site| (minute >= 60 && site % 5 == 2).then_some("http_503");
    let host = |_, line: &mut serde_json::Value| {
        let site: u64 =
            line["target"].as_str().unwrap()[1..].trim_end_matches(".com").parse().unwrap();
        let roles = line["providers"].as_array_mut().unwrap();
        roles.push(serde_json::json!({"role": "hosting", "id": format!("cloud:{}", site % 5)}));
    };
    let found = told_of(&stream(dir.path(), 80, |_, _| false, fails, host));
    assert!(matches!(&found[..], [(name, 60..75)] if name == "cloud:2"), "{found:?}");
    // And an edge that fails in the same way is not taken for its hosts.
    let fails = |minute, _, site| (minute >= 60 && site < 15).then_some("http_503");
    let found = told_of(&stream(dir.path(), 80, |_, _| false, fails, host));
    assert!(matches!(&found[..], [(name, 60..75)] if name == "edge0"), "{found:?}");
}

#[test]
fn who_looks_seldom_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let seldom = |observer| ["FR", "DE", "IT"].contains(&home(observer).0);
    let away = |at, observer| seldom(observer) && at / 25_000 % 12 != observer % 12;
    let path = stream(dir.path(), 60, away, |_, _, _| None, |_, _| {});
    let recording = Recording::open(&path, None).unwrap();
    assert_eq!(recording.paces.len(), 75);
    assert!(recording.paces.values().all(|pace| *pace == 12));
    let detector = recording.play(Settings::default(), Tenure::File, |_, _| {}).unwrap();
    assert_eq!(detector.online().count(), 200);
    let given = Recording::open(&path, Some(25)).unwrap();
    assert!(given.paces.is_empty(), "whoever says so says it of all");
}

#[test]
fn a_country_is_named_though_everybody_runs_one_release() {
    let dir = tempfile::tempdir().unwrap();
    let fails =
        |minute, observer, _| (minute >= 60 && home(observer).0 == "FR").then_some("tcp_timeout");
    let version = |_, line: &mut serde_json::Value| line["agent_version"] = "1.4.2".into();
    let found = told_of(&stream(dir.path(), 80, |_, _| false, fails, version));
    assert!(matches!(&found[..], [(name, 60..75)] if name == "country-fr"), "{found:?}");
}

#[test]
fn a_resolver_that_answers_nothing_is_named_and_no_domain() {
    let dir = tempfile::tempdir().unwrap();
    let asks = |observer: u64| if observer.is_multiple_of(7) { "google" } else { "isp" };
    let fails = |minute, observer, _| {
        (minute >= 60 && asks(observer) == "google").then_some("dns_servfail")
    };
    let resolver =
        |observer, line: &mut serde_json::Value| line["resolver"] = asks(observer).into();
    let found = told_of(&stream(dir.path(), 90, |_, _| false, fails, resolver));
    assert!(matches!(&found[..], [(name, 60..72)] if name == "resolver-google"), "{found:?}");
}

#[test]
fn a_provider_of_names_that_nobody_lists_is_no_top_level_domain() {
    let dir = tempfile::tempdir().unwrap();
    let fails = |minute, _, site| (minute >= 60 && site % 3 == 0).then_some("dns_timeout");
    let found = told_of(&stream(dir.path(), 80, |_, _| false, fails, |_, _| {}));
    assert!(found.iter().all(|(name, _)| name != "com"), "{found:?}");
}

#[test]
fn what_an_edge_says_of_its_origin_is_no_fault_of_the_edge() {
    let met = |outcome: &str, status: Option<u16>| {
        let text = serde_json::json!({
            "received_at_ms": 1_763_460_000_000u64, "observer": "o", "target": "t",
            "outcome": outcome, "http_status": status,
        });
        let line: Line = serde_json::from_value(text).unwrap();
        let (outcome, rule) = line.met().unwrap();
        (outcome, RuleTable::builtin().get(rule).map(|rule| rule.fault))
    };
    let server = Outcome::Http5xx;
    assert_eq!(met("http_5xx", Some(522)), (server, Some(Fault::Origin)));
    assert_eq!(met("http_522", None), (server, Some(Fault::Origin)));
    assert_eq!(met("origin_error", Some(502)), (server, Some(Fault::Origin)));
    assert_eq!(met("edge_error", None), (server, Some(Fault::Edge)));
    assert_eq!(met("http_5xx", Some(503)), (server, None));
}

#[test]
fn a_file_of_nothing_is_said_to_be_so() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x");
    for (text, lines) in [(b"\n\n[]\n".to_vec(), 1), (vec![b'x'; 200_000], 1)] {
        std::fs::write(&path, text).unwrap();
        let mut recording = Recording::open(&path, None).unwrap();
        let Told { lines: all, malformed, observations, .. } = recording.told;
        assert_eq!((all, malformed, observations), (lines, lines, 0));
        recording.told.judge(&Settings::default(), Tenure::File);
        assert!(recording.told.notes.iter().any(|note| note.contains("no line is an observation")));
        recording.play(Settings::default(), Tenure::File, |_, _| panic!("of nothing")).unwrap();
    }
    let missing = Recording::open(&dir.path().join("none"), None);
    assert!(matches!(missing, Err(ReplayError::Read { .. })));
}

#[test]
fn numbers_and_marks_are_taken_as_others_write_them() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x");
    let plain = serde_json::json!({
        "received_at_ms": 1_763_460_000_000u64, "observer": "7", "target": "a.example",
        "outcome": "http_5xx", "http_status": 502, "scheduled": true, "asn": 64500,
    });
    let odd = serde_json::json!({
        "received_at_ms": 1_763_460_000_500.0, "observer": 7, "target": "a.example",
        "outcome": "http_5xx", "http_status": "502", "scheduled": 1, "asn": "AS64500",
    });
    // The same once more, and one whose time is none.
    let wrong = serde_json::json!({
        "received_at_ms": 1.5, "observer": "7", "target": "a.example", "outcome": "ok",
    });
    std::fs::write(&path, format!("\u{feff}{plain}\n{odd}\n{odd}\n{wrong}\n")).unwrap();
    let told = Recording::open(&path, None).unwrap().told;
    assert_eq!((told.lines, told.observations, told.repeated, told.malformed), (4, 2, 1, 1));
    assert_eq!((told.observers, told.networks, told.scheduled), (1, 1, 2));
    assert!(told.malformed_lines[0].1.contains("received_at_ms 1.5"), "{told:?}");
}

#[test]
fn a_provider_that_half_of_the_world_has_lost_is_named_there() {
    let dir = tempfile::tempdir().unwrap();
    let lost = ["US", "FR", "IT", "PL"];
    let fails = |minute, observer, site| {
        (minute >= 60 && site < 15 && lost.contains(&home(observer).0)).then_some("tcp_timeout")
    };
    let found = told_of(&stream(dir.path(), 90, |_, _| false, fails, |_, _| {}));
    // First where most have looked.
    let right = |(name, minute): &(String, u64)| name == "edge0" && (60..80).contains(minute);
    assert!(!found.is_empty() && found.iter().all(right), "{found:?}");
}
