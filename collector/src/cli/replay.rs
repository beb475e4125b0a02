//! `replay` runs the detector over recorded observations, or over this collector's own log with
//! other settings, and prints each change of each incident, or what other numbers would have changed.

use std::{io::Write, path::PathBuf};

use anyhow::Context;
use tocsin_proto::id::Id;

use super::{
    ConfigArgs,
    compare::{Line, differences},
};
use crate::{
    LOG, PANEL_SECRET,
    config::Config,
    engine::{
        detector::{Detector, State},
        params::Settings,
    },
    keys,
    replay::{Recording, Tenure},
    store::LogReader,
};

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
    /// Another value for a number of the detector, as NAME=VALUE (`/api/v1/parameters` lists them). Told is
    /// then what would have been different.
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = setting)]
    sets: Vec<(String, i64)>,
    /// One line of JSON per change, and one for all.
    #[arg(long)]
    json: bool,
}

fn setting(text: &str) -> Result<(String, i64), String> {
    let (name, value) = text.split_once('=').ok_or("name a number and its value, as NAME=VALUE")?;
    let value = value.parse().map_err(|_| format!("{value:?} is no whole number"))?;
    Ok((name.to_owned(), value))
}

/// What is replayed.
enum Source {
    /// The copy that it is read from, where it came through a pipe, goes with it.
    File(
        Box<Recording>,
        Tenure,
        #[expect(dead_code, reason = "kept for its end")] Option<tempfile::NamedTempFile>,
    ),
    Log(LogReader),
}

impl Source {
    /// Tells each change, with these settings. What was recorded, in JSON.
    fn play(
        &self,
        config: &Config,
        settings: Settings,
        mut tell: impl FnMut(Line),
    ) -> anyhow::Result<serde_json::Value> {
        Ok(match self {
            Self::File(recording, tenure, _) => {
                recording.play(settings, *tenure, |change, detector| {
                    let named = |id: &Id| recording.name_of(id).to_owned();
                    tell(Line::new(change, detector, |at| recording.outer(at), named));
                })?;
                serde_json::to_value(&recording.told)?
            }
            Self::Log(log) => {
                let state = State::with_tenure(log.tenure()?);
                let mut detector = Detector::resume(config.catalogue.clone(), settings, state);
                detector.vouch(&log.keys()?);
                let mut records = 0u64;
                log.replay(0, |record, _| {
                    records += 1;
                    for change in detector.record(&record) {
                        tell(Line::new(&change, &detector, |at| at, ToString::to_string));
                    }
                    // Who was asked then has answered then.
                    drop((detector.take_asks(), detector.take_panels()));
                })?;
                serde_json::json!({ "records": records })
            }
        })
    }
}

/// Replays.
///
/// # Errors
/// When the file or the log cannot be read, or a number is refused.
pub fn replay(args: &ReplayArgs) -> anyhow::Result<()> {
    tell(args, &mut std::io::stdout().lock())
}

fn tell(args: &ReplayArgs, out: &mut impl Write) -> anyhow::Result<()> {
    let config = Config::try_from(args.config.raw()?)?;
    let mut settings = config.settings.clone();
    let source = match &args.observations {
        Some(path) => {
            // What comes through a pipe is read twice too.
            let kept = if path.is_file() { None } else { Some(kept(path)?) };
            let path = kept.as_ref().map_or(path.as_path(), |kept| kept.path());
            let mut recording = Recording::open(path, args.period_s)?;
            recording.told.judge(&settings, args.tenure);
            for (number, why) in &recording.told.malformed_lines {
                tracing::warn!("line {number} is passed over: {why}");
            }
            Source::File(Box::new(recording), args.tenure, kept)
        }
        None => {
            // Under the same secret the same observers are asked at the same moments, and their answers
            // stand in the log.
            let secret = keys::kept_secret(&config.data_dir.join(PANEL_SECRET))?;
            settings.panel_secret = secret.unwrap_or_default();
            Source::Log(LogReader::open(&config.data_dir.join(LOG))?)
        }
    };
    let mut summary = if args.sets.is_empty() {
        let mut closed = None;
        let summary = source.play(&config, settings, |line| {
            let line = if args.json { in_json(&line) } else { Ok(line.text()) };
            let written = line.map_err(std::io::Error::other).and_then(|l| writeln!(out, "{l}"));
            if let Err(error) = written {
                closed.get_or_insert(error);
            }
        })?;
        if let Some(error) = closed {
            return Err(error.into());
        }
        summary
    } else {
        let mut other = settings.clone();
        for (name, value) in &args.sets {
            other.set(name, *value)?;
        }
        other.params.check()?;
        let (mut was, mut now) = (Vec::new(), Vec::new());
        let mut summary = source.play(&config, settings, |line| was.push(line))?;
        source.play(&config, other, |line| now.push(line))?;
        let found = differences(&was, &now);
        for difference in &found {
            let line = if args.json { in_json(difference)? } else { difference.text() };
            writeln!(out, "{line}")?;
        }
        if let Some(fields) = summary.as_object_mut() {
            fields.insert("changes".to_owned(), was.len().into());
            fields.insert("changes_otherwise".to_owned(), now.len().into());
            fields.insert("differences".to_owned(), found.len().into());
        }
        summary
    };
    if args.json {
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

/// A copy of what can be read once only.
fn kept(path: &std::path::Path) -> anyhow::Result<tempfile::NamedTempFile> {
    let mut kept = tempfile::NamedTempFile::new().context("no room for a copy of what is read")?;
    let mut once =
        std::fs::File::open(path).with_context(|| format!("{} cannot be read", path.display()))?;
    std::io::copy(&mut once, &mut kept)
        .with_context(|| format!("{} cannot be copied", path.display()))?;
    Ok(kept)
}

fn in_json(line: &impl serde::Serialize) -> serde_json::Result<String> {
    let mut value = serde_json::to_value(line)?;
    if let Some(fields) = value.as_object_mut() {
        fields.insert("schema".to_owned(), 1.into());
    }
    serde_json::to_string(&value)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: ReplayArgs,
    }

    #[test]
    fn other_numbers_tell_what_they_would_have_changed() {
        let dir = tempfile::tempdir().unwrap();
        let file = crate::replay::tests::file(dir.path(), "");
        let told = |sets: &[&str]| {
            let mut words = vec!["replay", "--observations", file.to_str().unwrap()];
            words.extend(sets.iter().flat_map(|set| ["--set", *set]));
            let args = Cli::try_parse_from(words)?.args;
            let mut out = Vec::new();
            tell(&args, &mut out)?;
            anyhow::Ok(String::from_utf8(out)?)
        };
        let usual = told(&[]).unwrap();
        assert!(usual.contains("confirmed  acme (edge), global"), "{usual}");
        let gone = told(&["elevated_votes=2000000000"]).unwrap();
        let line = gone.lines().find(|line| line.contains("confirmed")).unwrap();
        assert!(line.starts_with("- ") && line.contains("acme"), "{gone}");
        let later = told(&["hold=40"]).unwrap();
        assert!(later.contains("s later"), "{later}");
        let same = told(&["regional_look=50000"]).unwrap();
        assert!(same.contains("\"differences\": 0"), "{same}");
        for (set, why) in [
            ("confirn=1", "/api/v1/parameters"),
            ("detector.crowd_zones=99", "no larger"),
            ("confirm=0", "1 to 1,000,000"),
            ("hold=300", "u8"),
            ("hold", "NAME=VALUE"),
            ("hold=often", "no whole number"),
        ] {
            let error = format!("{:#}", told(&[set]).unwrap_err());
            assert!(error.contains(why), "{set}: {error}");
        }
    }
}
