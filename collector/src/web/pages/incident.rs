//! The page of one incident: whose fault, since when, where, by which rules, and what else it could
//! have been. Pure.

use askama::Template;
use tocsin_proto::{
    catalogue::Catalogue,
    implicate::Layer,
    incident::{Affected, Factor, Incident, Phase, Reason},
    snapshot::Snapshot,
};

use super::{
    super::words::{self, Badge, Moment},
    Foot, lasted, only_one, render,
};
use crate::feed::Published;

/// Rows in a table of what an incident affects.
const AFFECTED_MAX: usize = 250;

#[derive(Template)]
#[template(path = "incident.html", whitespace = "minimize")]
struct IncidentPage<'a> {
    foot: Foot,
    id: &'a str,
    title: &'a str,
    tone: &'static str,
    phase: Badge,
    sentence: String,
    fault: Fault,
    scope: String,
    since: Moment,
    lasted: String,
    confirmed: Option<Moment>,
    share: String,
    peak: String,
    confidence: &'static str,
    confidence_rule: &'static str,
    bound: String,
    transitions: Vec<Step>,
    relapses: u32,
    reported_late: bool,
    part_of: Option<Link>,
    parts: Vec<Link>,
    symptoms: Vec<SymptomRow>,
    affected: [AffectedTable; 3],
    rules: [RuleTable<'a>; 2],
    parameters: u16,
}

/// The page of one incident; `None` when the snapshot has no such incident.
#[must_use]
pub fn incident(published: &Published, catalogue: &Catalogue, id: &str) -> Option<String> {
    let snapshot = &published.snapshot;
    let incident = snapshot.incidents.iter().find(|incident| incident.id == id)?;
    let (confidence, confidence_rule) = words::confidence(incident.confidence);
    let step = |at, phase| Step { at: words::moment(at), phase: words::phase(phase) };
    Some(render(&IncidentPage {
        foot: Foot::new(snapshot),
        id: &incident.id,
        title: &incident.title,
        tone: tone(incident.phase),
        phase: words::phase(incident.phase),
        sentence: sentence(incident, catalogue),
        fault: Fault::new(incident, catalogue),
        scope: words::scope(&incident.scope),
        since: words::moment(incident.started_at),
        lasted: lasted(incident, snapshot.at),
        confirmed: incident.confirmed_at().map(words::moment),
        share: words::percent(incident.share_permille),
        peak: words::percent(incident.peak_permille),
        confidence,
        confidence_rule,
        bound: bound(incident),
        transitions: incident.transitions.iter().map(|t| step(t.at, t.phase)).collect(),
        relapses: incident.relapses,
        reported_late: incident.reported_late,
        part_of: incident.part_of.as_ref().map(|id| link(snapshot, id)),
        parts: snapshot
            .incidents
            .iter()
            .filter(|part| part.part_of.as_deref() == Some(incident.id.as_str()))
            .map(|part| link(snapshot, &part.id))
            .collect(),
        symptoms: symptoms(incident),
        affected: affected(incident),
        rules: rules(incident),
        parameters: incident.parameters,
    }))
}

/// Another incident, to go to.
struct Link {
    path: String,
    title: String,
}

fn link(snapshot: &Snapshot, id: &str) -> Link {
    let known = snapshot.incidents.iter().find(|incident| incident.id == id);
    let title = known.map_or_else(|| id.to_owned(), |incident| incident.title.clone());
    Link { path: words::segment(id), title }
}

struct Fault {
    kind: &'static str,
    name: String,
    role: &'static str,
    organisation: Option<String>,
    status_page: Option<String>,
}

impl Fault {
    fn new(incident: &Incident, catalogue: &Catalogue) -> Self {
        let organisation = incident.organisation.as_ref().map(ToString::to_string);
        match &incident.factor {
            Factor::Provider { provider, role } => {
                let known = catalogue.providers().get(provider);
                Self {
                    kind: "Provider",
                    name: known.map_or_else(|| provider.to_string(), |known| known.name.clone()),
                    role: words::role_explained(*role),
                    organisation,
                    status_page: words::link(known.and_then(|known| known.status_page.as_ref())),
                }
            }
            Factor::Site { target } => {
                let known = words::target(catalogue, target);
                Self {
                    kind: "Site",
                    name: known.map_or_else(
                        || target.to_string(),
                        |known| format!("{} ({})", known.name, known.host),
                    ),
                    role: words::role_explained(Layer::Site),
                    organisation,
                    status_page: words::link(known.and_then(|known| known.status_page.as_ref())),
                }
            }
            other => {
                let (kind, role) = words::group_explained(other);
                let name = words::culprit(catalogue, other);
                Self { kind, name, role, organisation, status_page: None }
            }
        }
    }
}

struct Step {
    at: Moment,
    phase: Badge,
}

struct SymptomRow {
    outcome: &'static str,
    count: u64,
    rule: Option<String>,
    text: Option<String>,
}

struct AffectedTable {
    id: &'static str,
    caption: &'static str,
    what: &'static str,
    rows: Vec<AffectedRow>,
    left_out: usize,
}

struct AffectedRow {
    name: String,
    failing: u32,
    observed: u32,
    share: String,
}

impl AffectedTable {
    fn new<T>(
        [id, what, caption]: [&'static str; 3],
        affected: &[Affected<T>],
        name: impl Fn(&T) -> String,
    ) -> Self {
        let rows = affected.iter().take(AFFECTED_MAX).map(|row| AffectedRow {
            name: name(&row.what),
            failing: row.failing,
            observed: row.observed,
            share: words::share(row.failing, row.observed)
                .map_or_else(|| "–".to_owned(), words::percent),
        });
        let left_out = affected.len().saturating_sub(AFFECTED_MAX);
        Self { id, caption, what, rows: rows.collect(), left_out }
    }
}

struct RuleTable<'a> {
    id: &'static str,
    title: &'static str,
    lead: &'static str,
    /// Whether the rows are explanations that were excluded, rather than rules that were asked.
    excludes: bool,
    rows: &'a [Reason],
}

const fn tone(phase: Phase) -> &'static str {
    match phase {
        Phase::Confirmed => "down",
        Phase::Suspected | Phase::Recovering => "unsure",
        Phase::Resolved => "fine",
        Phase::Retracted => "over",
    }
}

fn sentence(incident: &Incident, catalogue: &Catalogue) -> String {
    match incident.phase {
        Phase::Confirmed => only_one(incident, catalogue),
        Phase::Recovering => {
            format!("It gets better and is watched. {}", only_one(incident, catalogue))
        }
        Phase::Suspected => {
            "Watched, not confirmed: some rules below do not hold. It may come to nothing.".into()
        }
        Phase::Resolved => "It is over.".into(),
        Phase::Retracted => "It came to nothing, or was a false alarm and is withdrawn.".into(),
    }
}

fn bound(incident: &Incident) -> String {
    let bound = incident.liar_bound;
    format!(
        "For this to be a lie, at least {} in {} in {} would have to lie, all alike.",
        words::count(bound.prefixes.into(), "prefix", "prefixes"),
        words::count(bound.networks.into(), "network", "networks"),
        words::count(bound.zones.into(), "zone", "zones"),
    )
}

fn symptoms(incident: &Incident) -> Vec<SymptomRow> {
    let symptoms = incident.symptoms.iter().map(|symptom| SymptomRow {
        outcome: symptom.outcome.name(),
        count: symptom.count,
        rule: symptom.rule.clone(),
        text: symptom.text.clone(),
    });
    symptoms.collect()
}

fn affected(incident: &Incident) -> [AffectedTable; 3] {
    [
        AffectedTable::new(
            ["targets", "Site", "Sites: observers that see the failure, of those that looked"],
            &incident.targets,
            |site| site.name.clone(),
        ),
        AffectedTable::new(
            ["regions", "Country", "Countries: failing of observers there"],
            &incident.regions,
            |region| region.country.to_string(),
        ),
        AffectedTable::new(
            ["networks", "Network", "Networks with at least three observers: failing of them"],
            &incident.networks,
            |network| format!("AS{}", network.asn),
        ),
    ]
}

fn rules(incident: &Incident) -> [RuleTable<'_>; 2] {
    [
        RuleTable {
            id: "rules",
            title: "Rules that were asked",
            lead: "Every one of them has to hold before anything is confirmed.",
            excludes: false,
            rows: &incident.reasons,
        },
        RuleTable {
            id: "ruled-out",
            title: "What else it could have been",
            lead: "Other explanations that were considered, and why they are not it.",
            excludes: true,
            rows: &incident.ruled_out,
        },
    ]
}
