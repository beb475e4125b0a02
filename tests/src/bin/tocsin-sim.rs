//! `tocsin-sim`: plays outages through the real engines on a virtual clock.

use std::{io::Write, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Context;
use clap::{Parser, Subcommand};
use tocsin_proto::catalogue::Catalogue;
use tocsin_tests::sim::{
    quiet, scenario,
    scorecard::background,
    scorecard::{self, Form, Section},
    standard, verdict,
};

/// Plays scenarios of outages through the real engines, in a simulated world.
///
/// Exit codes: 0 every scenario passed, 1 one did not, 2 failure, 3 wrong usage.
#[derive(Debug, Parser)]
#[command(name = "tocsin-sim", version, args_conflicts_with_subcommands = true)]
struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// File of scenarios.
    #[arg(long, required_unless_present_any = ["quiet_days", "busy_day"])]
    scenario: Option<PathBuf>,
    /// Instead: so many days on which nothing is broken. Passes when nothing is confirmed.
    #[arg(long, conflicts_with_all = ["scenario", "only"])]
    quiet_days: Option<u64>,
    /// Instead: a day on which much is broken somewhere, and nothing everywhere. Passes when no
    /// provider is confirmed worldwide.
    #[arg(long, conflicts_with_all = ["scenario", "only", "quiet_days"])]
    busy_day: bool,
    /// Only the scenario of this name.
    #[arg(long)]
    only: Option<String>,
    /// Observers in the world.
    #[arg(long, default_value_t = 1_000)]
    observers: usize,
    /// Decides everything that is left to chance.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Without asking back: the scheduled observations alone decide.
    #[arg(long)]
    no_panels: bool,
    /// Tell on stderr of every panel and every change of phase.
    #[arg(long)]
    trace: bool,
    /// Instead of the built-in catalogue, the one of known shape that the scorecard measures on.
    #[arg(long)]
    standard: bool,
    /// One line of JSON per scenario, and one for all.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measures how good the detector is, and writes it down. What was played is kept: it goes on
    /// where it was.
    Scorecard(Scorecard),
}

#[derive(Debug, clap::Args)]
struct Scorecard {
    /// Few cells once, in some five minutes, and nothing is kept: fails when any of them does, or when not all
    /// could be played in twelve.
    #[arg(long)]
    short: bool,
    /// Where plays are kept.
    #[arg(long, default_value = "scorecard.jsonl")]
    results: PathBuf,
    /// The page.
    #[arg(long, default_value = "docs/SCORECARD.md")]
    page: PathBuf,
    /// Threads.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// No play begins after so many minutes; the page is made of what there is.
    #[arg(long, default_value_t = 240)]
    minutes: u64,
    /// Only one part: time, time_outs, subset, providers, pairs, rates, traps, corpus, liars, keys, guards, quiet
    /// or days.
    #[arg(long, value_parser = section)]
    only: Option<Section>,
    /// Play this cell once, as it is named in the results, and tell on stderr what panels came to.
    #[arg(long, value_name = "NAME")]
    cell: Option<String>,
    /// From this seed.
    #[arg(long, default_value_t = 9_000, requires = "cell")]
    cell_seed: u64,
}

fn section(name: &str) -> Result<Section, String> {
    serde_json::from_value(serde_json::Value::from(name))
        .map_err(|_| format!("{name:?} is no part of the scorecard"))
}

fn scorecard(args: &Scorecard) -> anyhow::Result<bool> {
    if let Some(cell) = &args.cell {
        let line = scorecard::once(args.only, cell, args.cell_seed)?;
        writeln!(std::io::stdout(), "{}", serde_json::to_string(&line)?)?;
        return Ok(true);
    }
    let kept = tempfile::tempdir()?;
    let results = if args.short { kept.path().join("short.jsonl") } else { args.results.clone() };
    let made = scorecard::make(&scorecard::Options {
        form: if args.short { Form::Short } else { Form::Whole },
        results: &results,
        threads: args.threads,
        within: Duration::from_secs(60 * args.minutes.min(if args.short { 12 } else { u64::MAX })),
        only: args.only,
    })?;
    if args.short {
        writeln!(std::io::stdout(), "{}", made.page)?;
    } else {
        std::fs::write(&args.page, made.page)
            .with_context(|| format!("{} cannot be written", args.page.display()))?;
        let picture = args.page.with_file_name("scorecard.svg");
        std::fs::write(&picture, made.picture)
            .with_context(|| format!("{} cannot be written", picture.display()))?;
    }
    for failure in &made.failures {
        writeln!(std::io::stderr(), "failed: {failure}")?;
    }
    Ok(made.failures.is_empty())
}

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            drop(error.print());
            return ExitCode::from(if error.use_stderr() { 3 } else { 0 });
        }
    };
    match run(&args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            drop(writeln!(std::io::stderr(), "tocsin-sim: {error:#}"));
            ExitCode::from(2)
        }
    }
}

fn run(args: &Args) -> anyhow::Result<bool> {
    if let Some(Command::Scorecard(args)) = &args.command {
        return scorecard(args);
    }
    if let Some(days) = args.quiet_days {
        return quiet(args, days);
    }
    if args.busy_day {
        let day = background::run(Catalogue::builtin(), args.observers, args.seed, args.trace);
        writeln!(std::io::stdout().lock(), "{}", serde_json::to_string_pretty(&day)?)?;
        return Ok(day.false_global.is_empty());
    }
    let path = args.scenario.as_ref().context("name a file of scenarios")?;
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("{} cannot be read", path.display()))?;
    let mut wanted = scenario::read(&text)?;
    let all = wanted.len();
    wanted.retain(|entry| args.only.as_ref().is_none_or(|only| *only == entry.id));
    anyhow::ensure!(!wanted.is_empty(), "no such scenario; the file has {all}");
    let mut options = verdict::Options::new(args.observers, args.seed);
    (options.asks_back, options.trace) = (!args.no_panels, args.trace);
    if args.standard {
        options.catalogue = standard::catalogue();
    }
    let mut out = std::io::stdout().lock();
    let (mut passed, mut all) = (0, 0);
    for entry in wanted {
        let scenario::Entry { id, expected, acceptable, scenario } = entry;
        let came = scenario.and_then(|scenario| play(&scenario, &options));
        let outcome = came.or_else(|error| {
            // It has failed, and the others go on.
            writeln!(std::io::stderr(), "{id}: {error:#}")?;
            anyhow::Ok(verdict::Outcome::unplayed(id, expected, acceptable, &options))
        })?;
        all += 1;
        passed += usize::from(outcome.pass);
        if args.json {
            writeln!(out, "{}", serde_json::to_string(&outcome)?)?;
        } else {
            let seconds = |s: Option<f64>| s.map_or("-".to_owned(), |s| format!("{s:.0} s"));
            let word = if outcome.pass { "pass" } else { "FAIL" };
            writeln!(
                out,
                "{word}  {:<26} suspected {:>7}  confirmed {:>7}  resolved {:>8}  {}  (expected {})",
                outcome.id,
                seconds(outcome.suspected_s),
                seconds(outcome.confirmed_s),
                seconds(outcome.resolved_s),
                if outcome.verdicts.is_empty() {
                    "none".to_owned()
                } else {
                    outcome.verdicts.join(", ")
                },
                outcome.expected,
            )?;
        }
        out.flush()?;
    }
    if args.json {
        let summary = serde_json::json!({
            "summary": true, "scenarios": all, "passed": passed,
            "observers": args.observers, "seed": args.seed,
        });
        writeln!(out, "{summary}")?;
    } else {
        writeln!(
            out,
            "{passed} of {all} passed, {} observers, seed {}",
            args.observers, args.seed
        )?;
    }
    Ok(passed == all)
}

/// Plays one. A broken invariant, which panics, ends this one alone.
fn play(
    scenario: &scenario::Scenario,
    options: &verdict::Options,
) -> anyhow::Result<verdict::Outcome> {
    let play = std::panic::AssertUnwindSafe(|| verdict::run(scenario, options));
    std::panic::catch_unwind(play).unwrap_or_else(|_| Err(anyhow::anyhow!("it panicked")))
}

fn quiet(args: &Args, days: u64) -> anyhow::Result<bool> {
    let quiet = quiet::run(days, args.observers, args.seed, !args.no_panels);
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{}", serde_json::to_string(&quiet)?)?;
    } else {
        writeln!(
            out,
            "{} quiet days, {} observers, seed {}: {} confirmed, {} suspected; an agent and day: {:.1} \
             asks, {:.0} probes, {:.1} MB",
            quiet.days,
            quiet.observers,
            quiet.seed,
            quiet.confirmed.len(),
            quiet.suspected,
            quiet.asks_per_agent_day,
            quiet.probes_per_agent_day,
            quiet.megabytes_per_agent_day,
        )?;
        for false_alarm in &quiet.confirmed {
            writeln!(out, "  false: {false_alarm}")?;
        }
    }
    Ok(quiet.confirmed.is_empty())
}
