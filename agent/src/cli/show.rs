//! `tocsin show`: exactly what would be sent.

use std::{fmt::Write, io};

use tocsin_proto::{report::Report, wire};

use super::{Exit, say, say_json};
use crate::{
    config::Config,
    spool::{OUTBOX_FILE, Spool},
};

/// Shows every report that waits.
///
/// # Errors
/// When the output is closed, or the outbox cannot be read.
pub fn show(config: &Config, verbose: bool, json: bool) -> io::Result<Exit> {
    if !config.state_dir.join(OUTBOX_FILE).exists() {
        let said = "nothing waits: no agent has run with this state directory";
        return if json {
            say_json(serde_json::json!({ "waiting": 0, "note": said }))?;
            Ok(Exit::Ok)
        } else {
            say(format_args!("{said}"))?;
            Ok(Exit::Ok)
        };
    }
    let spool = Spool::peek(&config.state_dir).map_err(io::Error::other)?;
    let mut waiting = 0;
    for observer in spool.observers().map_err(io::Error::other)? {
        let mut after = 0;
        loop {
            let page = spool.unsent(&observer, after, 64).map_err(io::Error::other)?;
            let Some(last) = page.last() else { break };
            after = last.seq;
            for unsent in page {
                waiting += 1;
                let Ok(report) = wire::decode::<Report>(&unsent.report.body) else { continue };
                let bytes = unsent.report.body.iter().fold(String::new(), |mut text, byte| {
                    // Writing to a String cannot fail.
                    write!(text, "{byte:02x}").ok();
                    text
                });
                print(config, &observer.to_string(), &report, &bytes, verbose, json)?;
            }
        }
    }
    if !json {
        say(format_args!("{waiting} reports wait"))?;
    }
    Ok(Exit::Ok)
}

fn print(
    config: &Config,
    observer: &str,
    report: &Report,
    bytes: &str,
    verbose: bool,
    json: bool,
) -> io::Result<()> {
    let seen: Vec<_> = report
        .timed()
        .map(|(at, seen)| {
            let target = config.catalogue.target(seen.target).map(|target| target.host.as_str());
            (at, target.unwrap_or("?"), seen)
        })
        .collect();
    if json {
        let seen: Vec<_> = seen.iter().map(|(at, host, seen)| serde_json::json!({
            "at": at.to_string(), "host": host, "family": seen.family, "cause": seen.cause,
            "outcome": seen.outcome, "latency_ms": seen.latency.as_ms(), "details": seen.failure,
        })).collect();
        return say_json(serde_json::json!({
            "observer": observer, "seq": report.seq, "base": report.base().to_string(),
            "health": report.health, "resolver": report.resolver.name(), "observations": seen,
            "bytes": if verbose { Some(bytes) } else { None },
        }));
    }
    say(format_args!(
        "report {} of {observer}, resolver {}, unrelated fine {}/255",
        report.seq,
        report.resolver.name(),
        report.health.unrelated_ok
    ))?;
    for (at, host, seen) in seen {
        let ms = seen.latency.as_ms();
        say(format_args!("  {at} {host} {:?} {} {ms} ms", seen.family, seen.outcome))?;
    }
    if verbose { say(format_args!("  {bytes}")) } else { Ok(()) }
}
