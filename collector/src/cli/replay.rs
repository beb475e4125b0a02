//! `replay` runs the detector over recorded observations, or over this collector's own log with
//! other settings, and prints each change of each incident.

use std::{io::Write, path::PathBuf};

use super::ConfigArgs;
use crate::{
    LOG,
    config::Config,
    engine::{
        detector::{Changed, Detector, Subject},
        incident::Reach,
    },
    replay::{Recording, Tenure},
    store::LogReader,
};
use tocsin_proto::time::Timestamp;

/// Arguments of `replay`.
#[derive(Debug, clap::Args)]
pub struct ReplayArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Observations as JSON lines; without it, the log in the data folder.
    #[arg(long)]
    observations: Option<PathBuf>,
    /// How long the observers of the file count as known.
    #[arg(long, value_enum, default_value = "file")]
    tenure: Tenure,
    /// Seconds between an observer's observations, in place of what the file shows.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    period_s: Option<u64>,
    /// One line of JSON per change, and one for all.
    #[arg(long)]
    json: bool,
}

/// Replays.
///
/// # Errors
/// When the file or the log cannot be read.
pub fn replay(args: &ReplayArgs) -> anyhow::Result<()> {
    let config = Config::try_from(args.config.raw()?)?;
    let mut out = std::io::stdout().lock();
    let mut closed = None;
    let mut tell = |at: Timestamp, change: &Changed, detector: &Detector| {
        let line = describe(at, change, detector, args.json);
        if let Err(error) = writeln!(out, "{line}") {
            closed.get_or_insert(error);
        }
    };
    let summary = if let Some(path) = &args.observations {
        let recording = Recording::open(path, args.period_s)?;
        for (number, why) in &recording.told.malformed_lines {
            tracing::warn!("line {number} is passed over: {why}");
        }
        let outer = |at| recording.outer(at);
        recording.play(config.settings, args.tenure, |change, detector| {
            tell(outer(change.at), change, detector);
        })?;
        serde_json::to_value(&recording.told)?
    } else {
        let log = LogReader::open(&config.data_dir.join(LOG))?;
        let settings = crate::engine::params::Settings { ask_back: false, ..config.settings };
        let mut detector = Detector::new(config.catalogue, settings);
        let mut records = 0u64;
        log.replay(0, |record, _| {
            records += 1;
            for change in detector.record(&record) {
                tell(change.at, &change, &detector);
            }
        })?;
        serde_json::json!({ "records": records })
    };
    if let Some(error) = closed {
        return Err(error.into());
    }
    if args.json {
        let mut summary = summary;
        if let Some(fields) = summary.as_object_mut() {
            fields.insert("schema".to_owned(), 1.into());
            fields.insert("summary".to_owned(), true.into());
        }
        writeln!(out, "{summary}")?;
    } else {
        writeln!(out, "{summary:#}")?;
    }
    Ok(())
}

fn describe(at: Timestamp, change: &Changed, detector: &Detector, json: bool) -> String {
    let incidents = detector.incidents();
    let shown = incidents.iter().find(|shown| shown.incident.id == change.incident);
    let (kind, name, role) = match shown.map(|shown| shown.subject) {
        Some(Subject::Entity(entity)) => {
            let entity = detector.plan().entity(entity);
            let role = format!("{:?}", entity.layer).to_ascii_lowercase();
            ("provider", entity.provider.to_string(), Some(role))
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
    if json {
        let grounds = shown.map(|shown| &shown.incident.grounds);
        return serde_json::json!({
            "schema": 1, "at_ms": at.as_ms(), "at": at.to_string(), "incident": change.incident,
            "phase": change.phase.name(), "kind": kind, "name": name, "role": role, "scope": scope,
            "confidence": grounds.map(|grounds| grounds.confidence),
            "reasons": grounds.map(|grounds| &grounds.reasons),
            "ruled_out": grounds.map(|grounds| &grounds.ruled_out),
        })
        .to_string();
    }
    let role = role.map_or(String::new(), |role| format!(" ({role})"));
    format!("{at}  {:<10} {name}{role}, {scope}  [{}]", change.phase.name(), change.incident)
}
