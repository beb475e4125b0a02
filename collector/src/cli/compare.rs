//! What other parameters would have changed: two tellings of one recording, side by side.

use std::collections::BTreeMap;

use serde::Serialize;
use tocsin_proto::{
    id::{Country, Id},
    incident::{Confidence, LiarBound, Reason},
    time::Timestamp,
};

use crate::engine::{
    detector::{Changed, Detector, Subject, stamp},
    incident::{Incident, Reach},
    seen::Of,
};

/// Tellings of one incident lie within this time of each other, ms; further apart they are of two.
const SAME_WITHIN_MS: u64 = 3_600_000;

/// A change of an incident, as it is told.
#[derive(Debug, Clone, Serialize)]
pub struct Line {
    /// When, ms.
    pub at_ms: u64,
    /// When, to read.
    pub at: String,
    /// The incident's name.
    pub incident: String,
    /// First evidence, ms.
    pub started_at_ms: Option<u64>,
    /// Its phase from then on.
    pub phase: &'static str,
    /// `provider`, `site`, `group` or `unknown`.
    pub kind: &'static str,
    /// Whose.
    pub name: String,
    /// As what.
    pub role: Option<String>,
    /// How far it reaches.
    pub scope: String,
    /// How sure.
    pub confidence: Option<Confidence>,
    /// What it goes by.
    pub reasons: Option<Vec<Reason>>,
    /// What else was thought of.
    pub ruled_out: Option<Vec<Reason>>,
    /// What liars it would take, at least.
    pub liar_bound: Option<LiarBound>,
    /// Observers that could tell, by country, and those of them that saw it.
    pub countries: Option<BTreeMap<Country, Of>>,
    /// The same by network.
    pub networks: Option<BTreeMap<u32, Of>>,
    /// It was over when it was told of.
    pub late: bool,
    /// The incident that it is part of.
    pub part_of: Option<String>,
}

impl Line {
    /// Of a change, in the recording's own time and words: `outer` tells them of the detector's.
    #[must_use]
    pub fn new(
        change: &Changed,
        detector: &Detector,
        outer: impl Fn(Timestamp) -> Timestamp,
        named: impl Fn(&Id) -> String,
    ) -> Self {
        let at = outer(change.at);
        let incidents = detector.incidents();
        let shown = incidents.iter().find(|shown| shown.incident.id == change.incident);
        let (kind, name, role) = match shown.map(|shown| shown.subject) {
            Some(Subject::Entity(entity)) => {
                let entity = detector.plan().entity(entity);
                let role = format!("{:?}", entity.layer).to_ascii_lowercase();
                ("provider", named(&entity.provider), Some(role))
            }
            Some(Subject::Site(target)) => {
                let target = detector.catalogue().target(target);
                ("site", target.map_or(String::new(), |target| target.name.clone()), None)
            }
            Some(Subject::Group(group)) => ("group", group.name(), None),
            None => ("unknown", String::new(), None),
        };
        let scope = match shown.map(|shown| &shown.incident.reach) {
            Some(Reach::Global) => "global".to_owned(),
            Some(Reach::Regional(zones)) => {
                let names: Vec<String> = zones.iter().map(Detector::region_name).collect();
                format!("regional: {}", names.join(", "))
            }
            Some(Reach::Over(family)) => format!("global: over IP{}", family.name()),
            Some(Reach::Observers) => "observers".to_owned(),
            Some(Reach::Site) | None => "site".to_owned(),
        };
        let grounds = shown.map(|shown| &shown.incident.grounds);
        Self {
            at_ms: at.as_ms(),
            at: at.to_string(),
            incident: renamed(&change.incident, shown.map(|shown| shown.incident), &outer),
            started_at_ms: shown.map(|shown| outer(shown.incident.started_at).as_ms()),
            phase: change.phase.name(),
            kind,
            name,
            role,
            scope,
            confidence: grounds.map(|grounds| grounds.confidence),
            reasons: grounds.map(|grounds| grounds.reasons.clone()),
            ruled_out: grounds.map(|grounds| grounds.ruled_out.clone()),
            liar_bound: grounds.map(|grounds| grounds.liar_bound),
            countries: grounds.map(|grounds| grounds.seen.countries.clone()),
            networks: grounds.map(|grounds| grounds.seen.networks.clone()),
            late: shown.is_some_and(|shown| shown.incident.late),
            part_of: shown.and_then(|shown| shown.incident.part_of.as_deref()).map(|id| {
                let whole = incidents.iter().find(|shown| shown.incident.id == id);
                renamed(id, whole.map(|shown| shown.incident), &outer)
            }),
        }
    }

    /// In one line, to read.
    #[must_use]
    pub fn text(&self) -> String {
        let Self { at, phase, scope, incident, .. } = self;
        let whole = self.part_of.as_ref().map_or(String::new(), |id| format!(", part of {id}"));
        format!("{at}  {phase:<10} {}, {scope}  [{incident}{whole}]", self.whose())
    }

    fn whose(&self) -> String {
        let role = self.role.as_ref().map_or(String::new(), |role| format!(" ({role})"));
        format!("{}{role}", self.name)
    }

    fn is_of(&self, other: &Self) -> bool {
        (self.phase, self.kind, &self.name, &self.role)
            == (other.phase, other.kind, &other.name, &other.role)
    }
}

/// An incident's name, with the time in it told in the recording's own.
fn renamed(
    id: &str,
    incident: Option<&Incident>,
    outer: impl Fn(Timestamp) -> Timestamp,
) -> String {
    let first = incident.and_then(|incident| incident.transitions.first());
    match (first, id.split_once('-')) {
        (Some(first), Some((_, rest))) => format!("{}-{rest}", stamp(outer(first.at))),
        _ => id.to_owned(),
    }
}

/// What is told in one of two tellings, or otherwise.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "difference", rename_all = "snake_case")]
pub enum Difference<'a> {
    /// With the parameters in force alone.
    Gone {
        /// What.
        was: &'a Line,
    },
    /// With the others alone.
    New {
        /// What.
        now: &'a Line,
    },
    /// At another time, or of another reach.
    Moved {
        /// With the parameters in force.
        was: &'a Line,
        /// With the others.
        now: &'a Line,
    },
}

impl Difference<'_> {
    const fn at(&self) -> u64 {
        match self {
            Self::Gone { was: line } | Self::New { now: line } | Self::Moved { was: line, .. } => {
                line.at_ms
            }
        }
    }

    /// In one line, to read.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Self::Gone { was } => format!("- {}", was.text()),
            Self::New { now } => format!("+ {}", now.text()),
            Self::Moved { was, now } => {
                let seconds = |ms: u64| ms.div_ceil(1_000);
                let mut how = Vec::new();
                if now.at_ms > was.at_ms {
                    how.push(format!("{} s later", seconds(now.at_ms - was.at_ms)));
                }
                if now.at_ms < was.at_ms {
                    how.push(format!("{} s earlier", seconds(was.at_ms - now.at_ms)));
                }
                if now.scope != was.scope {
                    how.push(format!("{} instead of {}", now.scope, was.scope));
                }
                format!("~ {}  {:<10} {}: {}", was.at, was.phase, was.whose(), how.join(", "))
            }
        }
    }
}

/// What differs between two tellings, in order of time. Lines of the same incident and phase within an
/// hour are the same.
#[must_use]
pub fn differences<'a>(was: &'a [Line], now: &'a [Line]) -> Vec<Difference<'a>> {
    let mut found = Vec::new();
    let mut left: Vec<&Line> = now.iter().collect();
    for line in was {
        let near = |other: &Line| line.at_ms.abs_diff(other.at_ms) <= SAME_WITHIN_MS;
        let same = left.iter().position(|other| line.is_of(other) && near(other));
        let Some(at) = same else {
            found.push(Difference::Gone { was: line });
            continue;
        };
        let other = left.remove(at);
        if other.at_ms != line.at_ms || other.scope != line.scope {
            found.push(Difference::Moved { was: line, now: other });
        }
    }
    found.extend(left.into_iter().map(|line| Difference::New { now: line }));
    found.sort_by_key(Difference::at);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(at_s: u64, name: &str, scope: &str) -> Line {
        let at = Timestamp::from_s(1_800_000_000 + at_s);
        Line {
            at_ms: at.as_ms(),
            at: at.to_string(),
            incident: format!("{at_s}-{name}"),
            phase: "confirmed",
            kind: "provider",
            name: name.to_owned(),
            role: Some("edge".to_owned()),
            scope: scope.to_owned(),
            confidence: None,
            reasons: None,
            ruled_out: None,
            liar_bound: None,
            started_at_ms: None,
            countries: None,
            networks: None,
            late: false,
            part_of: None,
        }
    }

    #[test]
    fn what_differs_is_told_and_what_does_not_is_not() {
        let was = [
            line(10, "a", "global"),
            line(20, "b", "global"),
            line(30, "c", "global"),
            line(9_000, "c", "global"),
        ];
        let now = [
            line(10, "a", "global"),
            line(65, "b", "regional: Europe"),
            line(9_000, "c", "global"),
            line(9_500, "d", "global"),
        ];
        let told: Vec<String> = differences(&was, &now).iter().map(Difference::text).collect();
        assert_eq!(told.len(), 3, "{told:?}");
        assert!(told[0].ends_with("b (edge): 45 s later, regional: Europe instead of global"));
        assert!(told[1].starts_with("- ") && told[1].contains("c (edge), global"), "{told:?}");
        assert!(told[2].starts_with("+ ") && told[2].contains("d (edge), global"), "{told:?}");
        assert!(differences(&was, &was).is_empty());
    }
}
