//! A notice on the desktop, for who wants one: when a confirmed incident explains what this machine meets. Once an incident.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    process::Stdio,
    time::Duration,
};

use tocsin_proto::{catalogue::Catalogue, id::TargetIndex, time::Timestamp};
use tokio::{process::Command, time::timeout};

use crate::{
    engine::{
        diagnose::{Cause, Control, Evidence, Feed, Look, OwnLine},
        judge::providers,
    },
    means::BUSCTL,
    words::{Answer, Language},
};

/// Looks that are remembered at most, and for how long, ms.
const LOOKS_MAX: usize = 64;
const LATELY_MS: u64 = 600_000;
/// Notices in an hour, and incidents that are remembered as told of.
const HOURLY: usize = 4;
const HOUR_MS: u64 = 3_600_000;
const TOLD_MAX: usize = 256;
const WITHIN: Duration = Duration::from_secs(5);
/// How long it is shown, milliseconds, as a string of `busctl`'s; the desktop may do otherwise.
const SHOWN_MS: &str = "15000";

/// What this machine met lately, and of which incidents its user was told.
#[derive(Debug, Default)]
pub struct Witness {
    looks: VecDeque<(Timestamp, TargetIndex, Look)>,
    told: BTreeSet<String>,
    /// When, within the last hour.
    shown: Vec<Timestamp>,
}

impl Witness {
    /// A look has come to this.
    pub fn saw(&mut self, now: Timestamp, target: TargetIndex, look: Look) {
        self.looks.push_back((now, target, look));
        while self.looks.len() > LOOKS_MAX
            || self.looks.front().is_some_and(|(at, ..)| now.since_ms(*at) > LATELY_MS)
        {
            self.looks.pop_front();
        }
    }

    /// Titles and texts of what is to be told now: of each site that fails here by a confirmed incident that nobody was
    /// told of yet.
    pub fn told(
        &mut self,
        catalogue: &Catalogue,
        now: Timestamp,
        feeds: &[Feed],
        line: OwnLine,
        resolver: &'static str,
        language: Language,
    ) -> Vec<(String, String)> {
        // What was published long ago explains nothing of now.
        let feeds: Vec<Feed> = feeds.iter().filter(|feed| feed.is_fresh()).cloned().collect();
        self.shown.retain(|at| now.since_ms(*at) < HOUR_MS);
        // One site that failed last is not cured by an older look that went well.
        let mut newest: BTreeMap<TargetIndex, Vec<Look>> = BTreeMap::new();
        for (_, target, look) in &self.looks {
            let of = newest.entry(*target).or_default();
            of.retain(|older| older.family != look.family);
            of.push(*look);
        }
        let mut told = Vec::new();
        for (index, looks) in &newest {
            let Some(target) =
                catalogue.target(*index).filter(|_| !looks.iter().any(Look::is_fine))
            else {
                continue;
            };
            let own = providers(catalogue, *index);
            let apart = newest.iter().filter(|(other, _)| {
                *other != index && providers(catalogue, **other).is_disjoint(&own)
            });
            let controls = apart.filter_map(|(other, looks)| {
                let host = catalogue.target(*other)?.host.clone();
                Some(Control { host, look: *looks.last()? })
            });
            let evidence = Evidence {
                target: Some(target),
                looks: looks.clone(),
                controls: controls.collect(),
                line,
                resolver: Some(resolver),
                feeds: feeds.clone(),
            };
            let diagnosis = evidence.diagnose(catalogue);
            let Cause::Incident(incident) = &diagnosis.cause else { continue };
            // Whoever publishes one incident after another is believed a few times an hour.
            if self.shown.len() >= HOURLY || !self.told.insert(incident.id.clone()) {
                continue;
            }
            while self.told.len() > TOLD_MAX {
                self.told.pop_first();
            }
            self.shown.push(now);
            let answer = Answer {
                language,
                site: &target.name,
                diagnosis: &diagnosis,
                gateway: None,
                resolver: None,
                catalogue,
                now,
                old_ms: None,
            };
            told.push(words(language, &target.name, &answer.lines()));
        }
        told
    }
}

/// Shows one (Desktop Notifications Specification 1.2, `Notify`). Where there is no desktop nothing happens.
pub async fn show(title: String, text: String) {
    let mut command = Command::new(BUSCTL);
    command
        .args(["--user", "--quiet", "call"])
        .args(["org.freedesktop.Notifications", "/org/freedesktop/Notifications"])
        .args(["org.freedesktop.Notifications", "Notify", "susssasa{sv}i"])
        .args(["tocsin", "0", "network-error", &title, &text, "0", "0", SHOWN_MS])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    match timeout(WITHIN, command.status()).await {
        Ok(Ok(status)) if status.success() => {}
        _ => tracing::debug!("no desktop took the notice"),
    }
}

/// Title and text of one, of a site that fails here.
#[must_use]
pub fn words(language: Language, site: &str, answer: &[String]) -> (String, String) {
    let title = language.both(
        format!("{site} fails, and not because of you"),
        format!("{site} est en panne, et ce n’est pas vous"),
    );
    // The body may be markup there (section "Markup").
    let text = answer.first().map_or_else(String::new, |line| {
        line.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
    });
    (title, text)
}

#[cfg(test)]
mod tests {
    use tocsin_proto::{
        id::Id,
        incident::{Phase, Scope},
        outcome::Outcome,
    };

    use super::*;
    use crate::engine::diagnose::tests::{catalogue, edge_of, feed, incident, plain, site};

    const NOW: Timestamp = Timestamp::from_s(1_800_000_000);

    fn told(witness: &mut Witness, feeds: &[Feed]) -> Vec<(String, String)> {
        let line = OwnLine { route: Some(true), collector: Some(true), ..OwnLine::default() };
        witness.told(catalogue(), NOW, feeds, line, "local", Language::En)
    }

    /// One site fails, and some that share nothing with it answer.
    fn witness(failing: Outcome) -> Witness {
        let mut witness = Witness::default();
        let own = providers(catalogue(), site().index);
        let apart = catalogue().targets().keys().filter(|other| {
            let of: BTreeSet<&Id> = providers(catalogue(), **other);
            !of.is_empty() && of.is_disjoint(&own)
        });
        apart.take(4).for_each(|other| witness.saw(NOW, *other, plain(Outcome::Ok)));
        witness.saw(NOW, site().index, plain(failing));
        witness
    }

    #[test]
    fn an_incident_that_explains_what_fails_is_told_of_once() {
        let is_down = incident(edge_of(site()), Phase::Confirmed, Scope::Global);
        let feeds = [feed(vec![is_down], false)];
        let mut own = witness(Outcome::TcpTimeout);
        let [(title, text)] = &told(&mut own, &feeds)[..] else { panic!("one notice") };
        assert!(title.contains(&site().name), "{title}");
        assert!(!text.is_empty());
        assert_eq!(told(&mut own, &feeds), [], "it is no news any more");
        assert_eq!(told(&mut witness(Outcome::Ok), &feeds), [], "here nothing fails");
        assert_eq!(told(&mut witness(Outcome::TcpTimeout), &[feed(vec![], false)]), []);
        assert_eq!(told(&mut witness(Outcome::TcpTimeout), &[]), []);
    }

    #[test]
    fn what_was_met_long_ago_explains_nothing() {
        let mut own = witness(Outcome::TcpTimeout);
        own.saw(NOW.plus_ms(LATELY_MS + 1), TargetIndex(0), plain(Outcome::Ok));
        assert_eq!(own.looks.len(), 1);
    }
}
