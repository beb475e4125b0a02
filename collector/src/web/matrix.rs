//! The tables of cells: subjects in rows, regions in columns, worst rows first. Pure.

use std::collections::{BTreeMap, BTreeSet};

use tocsin_proto::{
    catalogue::Catalogue,
    snapshot::{Cell, CellState, Region, Subject},
};

use super::words;

/// A cell as it is shown.
#[derive(Debug, Clone)]
pub(super) struct Shown {
    pub(super) class: &'static str,
    pub(super) symbol: &'static str,
    pub(super) word: &'static str,
    pub(super) observed: u64,
    pub(super) failing: u64,
    pub(super) prefixes: u32,
    pub(super) networks: u32,
}

impl Shown {
    fn new(cell: &Cell) -> Self {
        let words::Badge { class, symbol, word } = words::state(cell.state);
        let Cell { observed, failing, prefixes, networks, .. } = *cell;
        Self { class, symbol, word, observed, failing, prefixes, networks }
    }
}

/// All cells of one subject, in the order of [`Matrix::regions`].
#[derive(Debug)]
pub(super) struct Row {
    pub(super) name: String,
    pub(super) cells: Vec<Option<Shown>>,
}

/// A table of cells.
#[derive(Debug)]
pub(super) struct Matrix {
    /// For the anchors of the page; unique on it.
    pub(super) id: &'static str,
    /// What the rows are.
    pub(super) what: &'static str,
    pub(super) caption: &'static str,
    pub(super) regions: Vec<String>,
    pub(super) rows: Vec<Row>,
    /// Rows past the limit.
    pub(super) left_out: usize,
}

/// One cell in a list.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) subject: String,
    pub(super) region: String,
    pub(super) cell: Shown,
}

/// Which subjects a table has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rows {
    Providers,
    Targets,
}

impl Rows {
    pub(super) const fn has(self, subject: &Subject) -> bool {
        match self {
            Self::Providers => matches!(subject, Subject::Provider { .. }),
            Self::Targets => matches!(subject, Subject::Target(_)),
        }
    }
}

/// Makes the table of at most `cells_max` cells, by whole rows; at least one row.
pub(super) fn matrix(
    cells: &[Cell],
    catalogue: &Catalogue,
    rows: Rows,
    cells_max: usize,
) -> Matrix {
    let mut regions = BTreeSet::new();
    let mut subjects: BTreeMap<&Subject, BTreeMap<&Region, &Cell>> = BTreeMap::new();
    for cell in cells.iter().filter(|cell| rows.has(&cell.subject)) {
        regions.insert(&cell.region);
        subjects.entry(&cell.subject).or_default().insert(&cell.region, cell);
    }
    let mut shown: Vec<(u8, Row)> = subjects
        .into_iter()
        .map(|(subject, cells)| {
            let worst = cells.values().map(|cell| words::badness(cell.state)).max().unwrap_or(0);
            let cells = regions.iter().map(|region| cells.get(region).map(|cell| Shown::new(cell)));
            (worst, Row { name: subject_name(subject, catalogue), cells: cells.collect() })
        })
        .collect();
    shown.sort_by(|(a, x), (b, y)| b.cmp(a).then_with(|| x.name.cmp(&y.name)));
    let rows_max = (cells_max / regions.len().max(1)).max(1);
    let (id, what, caption) = match rows {
        Rows::Providers => ("providers", "Provider", "Providers in their roles, worst first."),
        Rows::Targets => ("sites", "Site", "Sites, worst first."),
    };
    Matrix {
        id,
        what,
        caption,
        regions: regions.into_iter().map(region_name).collect(),
        left_out: shown.len().saturating_sub(rows_max),
        rows: shown.into_iter().take(rows_max).map(|(_, row)| row).collect(),
    }
}

/// The cells of sites that are neither ok nor without evidence, worst first, and how many there
/// are past the limit.
pub(super) fn troubled(
    cells: &[Cell],
    catalogue: &Catalogue,
    lines_max: usize,
) -> (Vec<Line>, usize) {
    let trouble = |cell: &&Cell| {
        Rows::Targets.has(&cell.subject)
            && !matches!(cell.state, CellState::Ok | CellState::InsufficientEvidence)
    };
    let mut found: Vec<&Cell> = cells.iter().filter(trouble).collect();
    found.sort_by(|a, b| {
        let bad = |cell: &Cell| words::badness(cell.state);
        bad(b).cmp(&bad(a)).then_with(|| (&a.subject, &a.region).cmp(&(&b.subject, &b.region)))
    });
    let left_out = found.len().saturating_sub(lines_max);
    let lines = found.into_iter().take(lines_max).map(|cell| Line {
        subject: subject_name(&cell.subject, catalogue),
        region: region_name(&cell.region),
        cell: Shown::new(cell),
    });
    (lines.collect(), left_out)
}

fn subject_name(subject: &Subject, catalogue: &Catalogue) -> String {
    match subject {
        Subject::Provider { provider, role } => {
            format!("{} ({})", words::provider(catalogue, provider), words::role(*role))
        }
        Subject::Target(id) => {
            words::target(catalogue, id).map_or_else(|| id.to_string(), |found| found.name.clone())
        }
    }
}

fn region_name(region: &Region) -> String {
    match region {
        Region::Country(country) => country.to_string(),
        Region::Zone(zone) => format!("other {}", words::zone(zone)),
    }
}
