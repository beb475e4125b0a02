//! The pages: pure functions from what is published to HTML. What the first page says first is
//! chosen in `headline`; how things are called is in `words`, the tables of cells in `matrix`.

mod incident;
mod probes;

use askama::Template;
use tocsin_proto::{
    catalogue::Catalogue,
    incident::{Factor, Incident, Phase},
    snapshot::{Crowd, Overall, Snapshot},
    time::Timestamp,
};

pub use self::{incident::incident, probes::probes};
use super::{
    api::Span,
    matrix::{self, Line, Matrix, Rows},
    words::{self, Badge, Moment},
};
use crate::feed::Published;

/// Cells in the providers' table of the first page, and in that of the sites: some 25 kB each.
const INDEX_CELLS_MAX: usize = 320;
/// Lines in the list of sites that are not ok.
const TROUBLED_MAX: usize = 60;
/// Cards and lines of incidents.
const CARDS_MAX: usize = 50;
/// Cells in each table of the page of all cells: some 3 MB.
const CELLS_MAX: usize = 40_000;

/// What stands below every page.
struct Foot {
    sequence: u64,
    at: Moment,
    operator: String,
    attribution: String,
}

impl Foot {
    fn new(snapshot: &Snapshot) -> Self {
        Self {
            sequence: snapshot.sequence,
            at: words::moment(snapshot.at),
            operator: snapshot.operator.to_string(),
            attribution: snapshot.attribution.clone(),
        }
    }
}

/// What a page says first.
struct Headline {
    /// Class of the colour; the symbol and the text say the same.
    tone: &'static str,
    symbol: &'static str,
    text: String,
    /// On what evidence.
    evidence: String,
    more: Vec<String>,
}

/// An incident in a list.
struct Card {
    path: String,
    title: String,
    phase: Badge,
    scope: String,
    since: Moment,
    lasted: String,
    share: String,
    affected: String,
    relapses: u32,
}

impl Card {
    fn new(incident: &Incident, at: Timestamp) -> Self {
        let failing = incident.targets.iter().filter(|target| target.failing > 0).count();
        Self {
            path: words::segment(&incident.id),
            title: incident.title.clone(),
            phase: words::phase(incident.phase),
            scope: words::scope(&incident.scope),
            since: words::moment(incident.started_at),
            lasted: lasted(incident, at),
            share: words::percent(incident.share_permille),
            affected: match incident.factor {
                Factor::Provider { .. } => format!(
                    "{} of the {} watched behind it",
                    words::count(failing as u64, "site", "sites"),
                    incident.targets.len()
                ),
                Factor::Site { .. } => "this site alone".to_owned(),
                _ => "everything, for those who use it".to_owned(),
            },
            relapses: incident.relapses,
        }
    }
}

#[derive(Template)]
#[template(path = "index.html", whitespace = "minimize")]
struct IndexPage {
    foot: Foot,
    headline: Headline,
    settings: Vec<String>,
    open: Vec<Card>,
    suspicions: Vec<Card>,
    recent: Vec<Card>,
    corrections: Vec<Card>,
    providers: Matrix,
    troubled: Vec<Line>,
    troubled_note: String,
    /// `None` when there are too many for this page.
    sites: Option<Matrix>,
    site_cells: usize,
}

/// The first page.
#[must_use]
pub fn index(published: &Published, catalogue: &Catalogue) -> String {
    let snapshot = &published.snapshot;
    let cards = |wanted: fn(Phase) -> bool| -> Vec<Card> {
        let own = |i: &&Incident| wanted(i.phase) && (i.part_of.is_none() || !i.phase.is_open());
        let incidents = snapshot.incidents.iter().filter(own);
        incidents.take(CARDS_MAX).map(|incident| Card::new(incident, snapshot.at)).collect()
    };
    let cells = &published.cells_5m;
    let site_cells = cells.iter().filter(|cell| Rows::Targets.has(&cell.subject)).count();
    let (troubled, left_out) = matrix::troubled(cells, catalogue, TROUBLED_MAX);
    render(&IndexPage {
        foot: Foot::new(snapshot),
        headline: headline(snapshot, catalogue),
        settings: snapshot.settings.clone(),
        open: cards(is_confirmed),
        suspicions: cards(|phase| phase == Phase::Suspected),
        recent: cards(|phase| phase == Phase::Resolved),
        corrections: cards(|phase| phase == Phase::Retracted),
        providers: matrix::matrix(cells, catalogue, Rows::Providers, INDEX_CELLS_MAX),
        troubled_note: troubled_note(site_cells, troubled.len(), left_out),
        troubled,
        sites: (site_cells <= INDEX_CELLS_MAX)
            .then(|| matrix::matrix(cells, catalogue, Rows::Targets, INDEX_CELLS_MAX)),
        site_cells,
    })
}

fn troubled_note(cells: usize, shown: usize, left_out: usize) -> String {
    match (cells, shown, left_out) {
        (0, ..) => "No site was observed in this window.".to_owned(),
        (_, 0, _) => "No site fails in any region with enough observers to tell.".to_owned(),
        (_, _, 0) => "Only where a site is not ok, worst first.".to_owned(),
        _ => format!("Only where a site is not ok, worst first; {left_out} more are not shown."),
    }
}

const fn is_confirmed(phase: Phase) -> bool {
    matches!(phase, Phase::Confirmed | Phase::Recovering)
}

fn headline(snapshot: &Snapshot, catalogue: &Catalogue) -> Headline {
    let mut headline = match snapshot.overall {
        Overall::Incident => down(snapshot, catalogue),
        Overall::Quiet => Headline {
            tone: "fine",
            symbol: "✓",
            text: "Nothing is confirmed down.".to_owned(),
            evidence: format!("On the evidence of {}.", crowd(&snapshot.crowd)),
            more: vec![needed(&snapshot.crowd)],
        },
        Overall::YoungCrowd => Headline {
            tone: "unsure",
            symbol: "◌",
            text: "Young crowd: suspicions only.".to_owned(),
            evidence: format!(
                "{} are heard, but only {} of them have been known long enough for a vote.",
                crowd(&snapshot.crowd),
                snapshot.crowd.eligible
            ),
            more: vec![needed(&snapshot.crowd)],
        },
        Overall::InsufficientEvidence => Headline {
            tone: "unsure",
            symbol: "?",
            text: "Insufficient evidence.".to_owned(),
            evidence: missing(&snapshot.crowd),
            more: vec![format!("Heard lately: {}.", crowd(&snapshot.crowd))],
        },
    };
    let watched = snapshot.incidents.iter().filter(|i| i.phase == Phase::Suspected).count();
    if watched > 0 {
        let suspicions = words::count(watched as u64, "suspicion is", "suspicions are");
        headline.more.push(format!("{suspicions} watched, below."));
    }
    headline
}

fn down(snapshot: &Snapshot, catalogue: &Catalogue) -> Headline {
    // Roles of one organisation that fail together are one for the reader.
    let open = || {
        let of_its_own = |i: &&Incident| is_confirmed(i.phase) && i.part_of.is_none();
        snapshot.incidents.iter().filter(of_its_own)
    };
    let names = |phase: Phase| -> Vec<String> {
        let of_phase = open().filter(|incident| incident.phase == phase);
        of_phase
            .map(|incident| {
                let culprit = words::culprit(catalogue, &incident.factor);
                format!("{culprit}, {}", words::scope(&incident.scope))
            })
            .collect()
    };
    let (failing, recovering) = (names(Phase::Confirmed), names(Phase::Recovering));
    let (tone, symbol, text) = match (failing.as_slice(), recovering.as_slice()) {
        ([], []) => ("down", "●", "An incident is confirmed.".to_owned()),
        ([], some) => ("unsure", "↑", format!("Recovering: {}.", words::short_list(some, 3))),
        (some, _) => ("down", "●", format!("Down now: {}.", joined(some))),
    };
    let mut first = open().filter(|incident| incident.phase == Phase::Confirmed).chain(open());
    let evidence = match (failing.len(), recovering.len(), first.next()) {
        (1, _, Some(main)) | (0, 1, Some(main)) => only_one(main, catalogue),
        _ => "The fault is with what is named, not with your connection. Each is confirmed by \
              itself, with its own evidence, below."
            .to_owned(),
    };
    let mut more = vec![format!("Witnesses: {}.", crowd(&snapshot.crowd))];
    if !failing.is_empty() && !recovering.is_empty() {
        more.insert(0, format!("Recovering: {}.", words::short_list(&recovering, 3)));
    }
    Headline { tone, symbol, text, evidence, more }
}

/// Names with their scopes have commas in them, so they are kept apart by semicolons.
fn joined(names: &[String]) -> String {
    const SHOWN: usize = 3;
    let mut text = names.iter().take(SHOWN).cloned().collect::<Vec<_>>().join("; ");
    if let Some(more) = names.len().checked_sub(SHOWN).filter(|more| *more > 0) {
        text.push_str(&format!("; and {more} more"));
    }
    text
}

fn only_one(incident: &Incident, catalogue: &Catalogue) -> String {
    let failing = incident.targets.iter().filter(|target| target.failing > 0).count() as u64;
    let share = words::percent(incident.share_permille);
    let since = words::moment(incident.started_at).text;
    match &incident.factor {
        Factor::Provider { provider, .. } => format!(
            "The fault is {}’s: not your connection, and not the {} behind it that fail. Seen in \
             {share} of networks, since {since}.",
            words::provider(catalogue, provider),
            words::count(failing, "site", "sites"),
        ),
        Factor::Site { .. } => format!(
            "The fault is the site’s own: not your connection, and no provider it shares with \
             others. Seen in {share} of networks, since {since}."
        ),
        other => format!(
            "The sites are well. Whoever depends on {} is cut off from them: {share} of those, \
             since {since}.",
            words::culprit(catalogue, other),
        ),
    }
}

fn crowd(crowd: &Crowd) -> String {
    words::list(&[
        words::count(crowd.observers.into(), "observer", "observers"),
        words::count(crowd.prefixes.into(), "prefix", "prefixes"),
        words::count(crowd.networks.into(), "network", "networks"),
        words::count(crowd.zones.into(), "zone", "zones"),
    ])
    .replacen(", ", " in ", 1)
}

fn needed(crowd: &Crowd) -> String {
    format!(
        "To confirm something worldwide takes at least {} with a vote (there are {}), {} (there \
         are {}) and {} (there are {}).",
        words::count(crowd.observers_needed.into(), "observer", "observers"),
        crowd.eligible,
        words::count(crowd.networks_needed.into(), "network", "networks"),
        crowd.networks,
        words::count(crowd.zones_needed.into(), "zone", "zones"),
        crowd.zones,
    )
}

/// What the crowd lacks, in a sentence.
fn missing(crowd: &Crowd) -> String {
    let lacks = |have: u32, need: u32, one, many| {
        need.checked_sub(have)
            .filter(|gap| *gap > 0)
            .map(|gap| format!("{} ({have} of {need})", words::count(gap.into(), one, many)))
    };
    let gaps: Vec<String> = [
        lacks(crowd.observers, crowd.observers_needed, "observer", "observers"),
        lacks(crowd.networks, crowd.networks_needed, "network", "networks"),
        lacks(crowd.zones, crowd.zones_needed, "zone", "zones"),
    ]
    .into_iter()
    .flatten()
    .collect();
    if gaps.is_empty() {
        "Too few of the observers that are heard have a vote to say anything worldwide.".to_owned()
    } else {
        format!("Nothing worldwide can be said. Missing: {}.", words::list(&gaps))
    }
}

/// How long an incident has gone on, or went on.
fn lasted(incident: &Incident, at: Timestamp) -> String {
    let ended = [Phase::Resolved, Phase::Retracted].map(|phase| incident.entered(phase));
    match ended.into_iter().flatten().max() {
        Some(end) if !incident.phase.is_open() => {
            format!("lasted {}", words::lasted(end.since_ms(incident.started_at)))
        }
        _ => format!("for {}", words::lasted(at.since_ms(incident.started_at))),
    }
}

#[derive(Template)]
#[template(path = "cells.html", whitespace = "minimize")]
struct CellsPage {
    foot: Foot,
    window: &'static str,
    key: &'static str,
    other: &'static str,
    providers: Matrix,
    sites: Matrix,
}

/// The page of all cells of one window.
pub(super) fn cells(published: &Published, catalogue: &Catalogue, span: Span) -> String {
    let cells = span.cells(published);
    let (window, key) = match span {
        Span::FiveMinutes => ("last 5 minutes", "5m"),
        Span::Hour => ("last hour", "1h"),
    };
    render(&CellsPage {
        foot: Foot::new(&published.snapshot),
        window,
        key,
        other: "Countries with fewer than three observers are counted together by zone.",
        providers: matrix::matrix(cells, catalogue, Rows::Providers, CELLS_MAX),
        sites: matrix::matrix(cells, catalogue, Rows::Targets, CELLS_MAX),
    })
}

#[derive(Template)]
#[template(path = "notfound.html", whitespace = "minimize")]
struct ErrorPage<'a> {
    foot: Foot,
    title: &'a str,
    text: &'a str,
}

/// A page that says what went wrong.
#[must_use]
pub fn error(published: &Published, title: &str, text: &str) -> String {
    render(&ErrorPage { foot: Foot::new(&published.snapshot), title, text })
}

fn render(page: &impl Template) -> String {
    page.render().expect("writing texts and numbers to a string does not fail")
}
