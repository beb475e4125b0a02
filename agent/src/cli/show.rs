//! `tocsin show`: exactly what would be sent, and what was sent last.

use std::{fmt::Write, io};

use tocsin_proto::{
    observation::Failure,
    report::{HealthCheck, Report},
    rules::RuleTable,
    wire,
};

use super::{Exit, say, say_json};
use crate::{
    config::Config,
    spool::{OUTBOX_FILE, Spool, Unsent},
};

/// Where a report stands on its way.
#[derive(Clone, Copy)]
enum Stage<'a> {
    /// Being filled by the running agent.
    Batching,
    /// Waits for a collector's word of time and network to be numbered and signed.
    Draft,
    /// Signed, and not taken by a collector yet.
    Waiting(&'a str, &'a Unsent),
    /// Taken by a collector.
    Sent(&'a str, &'a Unsent),
}

impl Stage<'_> {
    const fn name(self) -> &'static str {
        match self {
            Self::Batching => "batching",
            Self::Draft => "draft",
            Self::Waiting(..) => "waiting",
            Self::Sent(..) => "sent",
        }
    }

    const fn signed(&self) -> Option<(&str, &Unsent)> {
        match self {
            Self::Batching | Self::Draft => None,
            Self::Waiting(observer, unsent) | Self::Sent(observer, unsent) => {
                Some((observer, unsent))
            }
        }
    }
}

/// Shows every report that waits, and with `sent` those that were sent last.
///
/// # Errors
/// When the output is closed, or the outbox cannot be read.
pub fn show(config: &Config, sent: bool, json: bool) -> anyhow::Result<Exit> {
    if !config.state_dir.join(OUTBOX_FILE).exists() {
        let note = "nothing waits: no agent has run with this state directory";
        match json {
            true => say_json(serde_json::json!({ "waiting": 0, "note": note }))?,
            false => say(note)?,
        }
        return Ok(Exit::Ok);
    }
    let spool = Spool::peek(&config.state_dir)?;
    let mut waiting = 0;
    for observer in spool.observers()? {
        let name = observer.to_string();
        if sent {
            for report in spool.sent(&observer)? {
                print(config, Stage::Sent(&name, &report), &report.report.body, json)?;
            }
        }
        let mut after = 0;
        loop {
            let page = spool.unsent(&observer, after, 64)?;
            let Some(last) = page.last() else { break };
            after = last.seq;
            for report in &page {
                waiting += 1;
                print(config, Stage::Waiting(&name, report), &report.report.body, json)?;
            }
        }
    }
    for line in &config.collectors {
        for draft in spool.drafts(&line.operator, usize::MAX)? {
            waiting += 1;
            print(config, Stage::Draft, &draft.body, json)?;
        }
    }
    if let Some((_, body)) = spool.batched()? {
        waiting += 1;
        print(config, Stage::Batching, &body, json)?;
    }
    if !json {
        say(format_args!("{waiting} reports wait; --sent shows those that were sent last"))?;
    }
    Ok(Exit::Ok)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String cannot fail.
        write!(text, "{byte:02x}").ok();
        text
    })
}

fn print(config: &Config, stage: Stage<'_>, body: &[u8], json: bool) -> io::Result<()> {
    let signed = stage.signed();
    let signature = signed.map(|(_, unsent)| hex(&unsent.report.signature.0));
    let Ok(report) = wire::decode::<Report>(body) else {
        // Made by another version of this program; it goes as it is.
        return match json {
            true => say_json(serde_json::json!({
                "stage": stage.name(), "observer": signed.map(|(observer, _)| observer),
                "error": "not understood by this version", "bytes": hex(body),
                "signature": signature,
            })),
            false => {
                say(format_args!("{}: not understood by this version: {}", stage.name(), hex(body)))
            }
        };
    };
    match json {
        true => say_json(document(config, stage, &report, body, signature)),
        false => text(config, stage, &report, body, signature),
    }
}

fn rule(failure: &Failure) -> Option<&'static str> {
    RuleTable::builtin().get(failure.rule).map(|rule| rule.id.as_str())
}

fn checks(report: &Report) -> impl Iterator<Item = (HealthCheck, bool)> {
    let health = report.health;
    HealthCheck::ALL.iter().filter_map(move |check| Some((*check, health.check(*check)?)))
}

fn document(
    config: &Config,
    stage: Stage<'_>,
    report: &Report,
    body: &[u8],
    signature: Option<String>,
) -> serde_json::Value {
    let seen = report.timed().map(|(at, seen)| {
        let target = config.catalogue.target(seen.target);
        serde_json::json!({
            "at": at.to_string(), "index": seen.target.0,
            "target": target.map(|target| &target.id), "host": target.map(|target| &target.host),
            "family": seen.family, "cause": seen.cause, "outcome": seen.outcome,
            "latency_ms": seen.latency.as_ms(),
            "failure": seen.failure.map(|failure| serde_json::json!({
                "rule": rule(&failure), "dns": failure.dns, "status": failure.status,
                "phases_ms": failure.phases.map(|phase| phase.as_ms()),
            })),
        })
    });
    let checks: serde_json::Map<String, serde_json::Value> =
        checks(report).map(|(check, ok)| (check.name().to_owned(), ok.into())).collect();
    serde_json::json!({
        "stage": stage.name(), "observer": stage.signed().map(|(observer, _)| observer),
        "seq": report.seq, "base": report.base().to_string(), "probe_core": report.probe_core,
        "health": checks, "unrelated_ok": report.health.unrelated_ok,
        "resolver": report.resolver.name(), "observations": seen.collect::<Vec<_>>(),
        "bytes": hex(body), "signature": signature,
    })
}

fn text(
    config: &Config,
    stage: Stage<'_>,
    report: &Report,
    body: &[u8],
    signature: Option<String>,
) -> io::Result<()> {
    match stage.signed() {
        Some((observer, _)) => {
            say(format_args!("{}: report {} of observer {observer}", stage.name(), report.seq))?;
        }
        None => say(format_args!("{}: not numbered or signed yet", stage.name()))?,
    }
    let health = checks(report).fold(String::new(), |mut text, (check, ok)| {
        write!(text, " {}={}", check.name(), if ok { "ok" } else { "failing" }).ok();
        text
    });
    say(format_args!(
        "  base {}, probe core {}, resolver {}, unrelated fine {}/255, health{health}",
        report.base(),
        report.probe_core,
        report.resolver.name(),
        report.health.unrelated_ok
    ))?;
    for (at, seen) in report.timed() {
        let host = config.catalogue.target(seen.target).map(|target| target.host.as_str());
        let (family, ms) = (seen.family.name(), seen.latency.as_ms());
        let (host, cause) = (host.unwrap_or("?"), seen.cause);
        say(format_args!("  {at} {host} {family} {} {ms} ms {cause:?}", seen.outcome))?;
        if let Some(failure) = seen.failure {
            let [dns, tcp, tls, http] = failure.phases.map(|phase| phase.as_ms());
            say(format_args!(
                "    rule {}, status {}, dns path {:?}, dns {dns} tcp {tcp} tls {tls} http {http} ms",
                rule(&failure).unwrap_or("none"),
                failure.status,
                failure.dns
            ))?;
        }
    }
    say(format_args!("  {} bytes {}", body.len(), hex(body)))?;
    match signature {
        Some(signature) => say(format_args!("  signature {signature}")),
        None => Ok(()),
    }
}
