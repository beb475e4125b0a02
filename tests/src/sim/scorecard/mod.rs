//! The scorecard: how good the detector is, measured, and written down by the program that measures.
//!
//! Every play is a function of its cell and its seed. What was played is kept in a file of JSON
//! lines, so that a scorecard that was interrupted goes on where it was; the page is made of that
//! file alone.

pub mod background;
pub mod cells;
pub mod outage;
mod page;
mod plot;
pub mod said;

use std::{
    collections::BTreeSet,
    fs::{File, OpenOptions},
    io::{BufRead, BufReader, Write},
    path::Path,
    sync::Mutex,
    time::Duration,
};

use anyhow::Context;
use serde::{Deserialize, Serialize};
use tocsin_proto::catalogue::Catalogue;

pub use self::cells::{Form, Section};
use self::{
    background::Day,
    cells::{Cell, Play},
    outage::Came,
    said::Said,
};
use crate::sim::{
    quiet::{self, Quiet},
    verdict,
};

/// The first seed. The scorecard's seeds are not those that anything was tuned on, which are below.
const FIRST_SEED: u64 = 9_000;

/// What came of one play, as it stands in the file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Line {
    /// Version of the detector's parameters: plays of another are not counted.
    parameters: u16,
    /// And of the simulated world.
    #[serde(default)]
    world: u16,
    section: Section,
    cell: String,
    seed: u64,
    #[serde(flatten)]
    result: Result,
}

/// By what was played.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Result {
    Came(Came),
    Day(Box<Day>),
    Scenario {
        verdicts: Vec<String>,
        pass: bool,
        suspected_s: Option<f64>,
        confirmed_s: Option<f64>,
        resolved_s: Option<f64>,
        incidents: usize,
        reopened: u32,
    },
    Quiet(Quiet),
}

fn played(cell: &Cell, seed: u64, trace: bool) -> anyhow::Result<Line> {
    let result = match &cell.play {
        Play::Outage(outage) => Result::Came(outage::run(outage, seed, trace)),
        Play::Day(observers) => {
            Result::Day(Box::new(background::run(Catalogue::builtin(), *observers, seed, trace)))
        }
        Play::Quiet(observers) => Result::Quiet(quiet::run(1, *observers, seed, true)),
        Play::Scenario(scenario) => {
            let options = verdict::Options { trace, ..verdict::Options::new(1_000, seed) };
            let outcome = verdict::run(scenario, &options)?;
            Result::Scenario {
                verdicts: outcome.verdicts,
                pass: outcome.pass,
                suspected_s: outcome.suspected_s,
                confirmed_s: outcome.confirmed_s,
                resolved_s: outcome.resolved_s,
                incidents: outcome.incidents,
                reopened: outcome.reopened,
            }
        }
    };
    let parameters = tocsin_collector::engine::params::VERSION;
    let world = crate::sim::VERSION;
    Ok(Line { parameters, world, section: cell.section, cell: cell.name.clone(), seed, result })
}

/// How a scorecard is made.
#[derive(Debug, Clone)]
pub struct Options<'a> {
    /// Hours, or minutes.
    pub form: Form,
    /// Where plays are kept; what is in it is not played again.
    pub results: &'a Path,
    /// Threads.
    pub threads: usize,
    /// No play begins after so long; the page is made of what there is.
    pub within: Duration,
    /// Only this part, where one is named.
    pub only: Option<Section>,
}

fn known(path: &Path) -> anyhow::Result<Vec<Line>> {
    if !path.exists() {
        return Ok(Vec::new());
    }
    let file = File::open(path).with_context(|| format!("{} cannot be read", path.display()))?;
    let mut lines = Vec::new();
    for line in BufReader::new(file).lines() {
        // The last line of a run that was killed may be cut.
        let line: Option<Line> = serde_json::from_str(&line?).ok();
        let now = tocsin_collector::engine::params::VERSION;
        let same = |line: &Line| (line.parameters, line.world) == (now, crate::sim::VERSION);
        lines.extend(line.filter(same));
    }
    Ok(lines)
}

/// What must not happen in any play, with where it did.
fn failures(lines: &[Line]) -> Vec<String> {
    let failed = |line: &&Line| match &line.result {
        // The day that this is for: one incident, which came once and went, told of within a minute.
        Result::Scenario { pass, confirmed_s, resolved_s, incidents, .. }
            if line.cell == "cf-2025-11-18" =>
        {
            !pass
                || *incidents != 1
                || resolved_s.is_none()
                || confirmed_s.is_none_or(|seconds| seconds > 60.0)
        }
        Result::Scenario { pass, .. } => !pass,
        Result::Quiet(quiet) => !quiet.confirmed.is_empty(),
        Result::Day(day) => !day.false_global.is_empty(),
        Result::Came(came) => match line.section {
            // A third of the requests, and who is named must be right.
            Section::Time => {
                let fraction = line.cell.split('|').nth(1).and_then(|f| f.parse::<u32>().ok());
                !came.wrong.is_empty()
                    || (fraction.is_some_and(|f| f >= 300) && came.confirmed_s.is_none())
            }
            Section::Providers => !came.wrong.is_empty(),
            // A fifth of liars, wherever they are, is in vain.
            Section::Liars => {
                let parts: Vec<&str> = line.cell.split('|').collect();
                let [attack, "spread", "200", _, "asked"] = parts[..] else { return false };
                !page::resisted(attack, came)
            }
            Section::Keys => !page::resisted(line.cell.split('|').next().unwrap_or_default(), came),
            Section::Pairs => came.wrong.iter().any(Said::is_worldwide),
            // That a rule left out does harm is no failure.
            Section::Guards => {
                line.cell.ends_with("|on") && came.wrong.iter().any(Said::is_worldwide)
            }
            // Of the zones that see it, it may be said.
            Section::Traps if line.cell.starts_with("half of the zones") => {
                came.wrong.iter().any(Said::is_worldwide)
            }
            Section::Traps | Section::TimeOuts | Section::Subset | Section::Rates => {
                came.wrong.iter().any(Said::is_of_provider)
            }
            Section::Corpus | Section::Days | Section::Quiet => false,
        },
    };
    lines
        .iter()
        .filter(failed)
        .map(|line| {
            format!("{:?}: {}, seed {}: {:?}", line.section, line.cell, line.seed, line.result)
        })
        .collect()
}

/// A scorecard.
#[derive(Debug)]
pub struct Scorecard {
    /// The page.
    pub page: String,
    /// The picture beside it, SVG.
    pub picture: String,
    /// What must not have happened.
    pub failures: Vec<String>,
}

/// Plays one cell once, telling on stderr what panels came to: why a number of the page is what it is.
///
/// # Errors
/// When there is no such cell, with the names that come near, or it cannot be played.
pub fn once(section: Option<Section>, name: &str, seed: u64) -> anyhow::Result<Line> {
    let cells = cells::all(Form::Whole)?;
    let of_it = |cell: &&Cell| section.is_none_or(|section| cell.section == section);
    let Some(cell) = cells.iter().filter(of_it).find(|cell| cell.name == name) else {
        let near: Vec<&str> = cells
            .iter()
            .filter(of_it)
            .map(|cell| cell.name.as_str())
            .filter(|other| other.contains(name))
            .take(100)
            .collect();
        anyhow::bail!("no cell is named {name:?}; those that contain it: {}", near.join("; "));
    };
    played(cell, seed, true)
}

/// Plays what has not been played, and makes the page.
///
/// # Errors
/// When the file of results cannot be read or written, or a scenario cannot be played.
pub fn make(options: &Options<'_>) -> anyhow::Result<Scorecard> {
    let cells = cells::all(options.form)?;
    let done: BTreeSet<(Section, String, u64)> = known(options.results)?
        .into_iter()
        .map(|line| (line.section, line.cell, line.seed))
        .collect();
    let mut jobs: Vec<(u64, usize, u64)> = Vec::new();
    for (at, cell) in cells.iter().enumerate() {
        if options.only.is_some_and(|only| only != cell.section) {
            continue;
        }
        for n in 0..cell.seeds {
            let seed = FIRST_SEED + n;
            if !done.contains(&(cell.section, cell.name.clone(), seed)) {
                // All parts of the page fill evenly, however early it is stopped.
                jobs.push((n * 1_000 / cell.seeds, at, seed));
            }
        }
    }
    jobs.sort_unstable();
    jobs.reverse();
    let file = OpenOptions::new().create(true).append(true).open(options.results);
    let mut file =
        file.with_context(|| format!("{} cannot be written", options.results.display()))?;
    // Behind a line that was cut a new one begins.
    if std::fs::read(options.results)?.last().is_some_and(|last| *last != b'\n') {
        file.write_all(b"\n")?;
    }
    let (jobs, file, begun) =
        (Mutex::new(jobs), Mutex::new(file), tocsin_agent::clock::monotonic());
    std::thread::scope(|scope| -> anyhow::Result<()> {
        let work = || -> anyhow::Result<()> {
            while begun.elapsed() < options.within {
                let Some((_, at, seed)) = jobs.lock().expect("no thread panics").pop() else {
                    break;
                };
                let Some(cell) = cells.get(at) else { continue };
                let line = serde_json::to_string(&played(cell, seed, false)?)? + "\n";
                file.lock().expect("no thread panics").write_all(line.as_bytes())?;
            }
            Ok(())
        };
        let threads: Vec<_> = (0..options.threads.max(1)).map(|_| scope.spawn(work)).collect();
        for thread in threads {
            thread.join().map_err(|_| anyhow::anyhow!("a play has failed, see above"))??;
        }
        Ok(())
    })?;
    let left = jobs.into_inner().expect("no thread panics").len();
    let lines = known(options.results)?;
    let mut failures = failures(&lines);
    if left > 0 && options.form == Form::Short {
        failures.push(format!("{left} plays were not begun in the time that they have"));
    }
    let (page, picture) = (page::page(&cells, &lines), page::picture(&lines));
    Ok(Scorecard { page, picture, failures })
}
