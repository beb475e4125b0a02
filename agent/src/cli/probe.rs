//! `tocsin probe HOST`: one probe of a target of the catalogue, phase by phase. Nothing is
//! reported, and the caps of the running agent bind it too.

use tocsin_proto::{catalogue::Target, observation::Family, rules::RuleTable};

use super::{Exit, say, say_json};
use crate::{
    clock::Clock,
    config::Config,
    engine::courtesy::{Start, Use, wire_bytes},
    identity::Identity,
    probe::{ProbeResult, Prober},
    spool::Spool,
};

/// Probes one target.
///
/// # Errors
/// When the output is closed, or the state directory cannot be used.
pub async fn probe(
    config: &Config,
    prober: &Prober,
    name: &str,
    json: bool,
) -> anyhow::Result<Exit> {
    let refuse = |error: String, exit| -> anyhow::Result<Exit> {
        match json {
            true => say_json(serde_json::json!({"target": name, "error": error}))?,
            false => say(format_args!("{name}: {error}"))?,
        }
        Ok(exit)
    };
    let Some(target) = config.catalogue.find(name) else {
        let error = "no target of the catalogue, and nothing else is probed".to_owned();
        return refuse(error, Exit::Unknown);
    };
    // The history lies beside the seed, and a state directory without one would look damaged.
    Identity::open(&config.state_dir)?;
    let mut spool = Spool::open(&config.state_dir, config.outbox_bytes_max)?;
    let clock = Clock::start();
    let now = clock.now();
    let mut courtesy = spool.courtesy(now, config.day_bytes_max, false)?;
    if let Err(refusal) = courtesy.admit(now, target.index, Use::Verification) {
        return refuse(format!("not probed, out of courtesy: {refusal}"), Exit::Unknown);
    }
    spool.started(Start { at: now, target: target.index, of: Use::Verification })?;
    let family = config.families.first().copied().unwrap_or(Family::V4);
    let result = prober
        .probe(target, family, crate::probe::Look { full_handshake: true, ..Default::default() })
        .await;
    let now = clock.now();
    let http1 = result.http_version == Some("http/1.1");
    if let Some(seconds) = result.retry_after_s {
        courtesy.retry_after(now, target.index, seconds);
    }
    let quiet = result.retry_after_s.and_then(|_| courtesy.quiet(target.index));
    spool.spent_beside(wire_bytes(result.bytes_in + result.bytes_out, http1), quiet)?;
    show(target, family, &result, json)?;
    Ok(if result.outcome.is_answer() { Exit::Ok } else { Exit::Problem })
}

fn show(target: &Target, family: Family, result: &ProbeResult, json: bool) -> std::io::Result<()> {
    let ms = |duration: std::time::Duration| duration.as_secs_f64() * 1000.0;
    let phases = ["dns", "tcp", "tls", "http"].into_iter().zip(result.phases);
    let rule = RuleTable::builtin().get(result.rule).map(|rule| rule.id.as_str());
    if json {
        let phases: serde_json::Map<String, serde_json::Value> =
            phases.map(|(name, phase)| (format!("{name}_ms"), phase.map(ms).into())).collect();
        return say_json(serde_json::json!({
            "target": target.id, "url": target.url(), "family": family,
            "outcome": result.outcome, "rule": rule, "status": result.status,
            "phases": phases, "total_ms": ms(result.total),
            "address": result.address.map(|ip| ip.to_string()),
            "http_version": result.http_version, "cname": result.cname,
            "bytes_in": result.bytes_in, "bytes_out": result.bytes_out,
        }));
    }
    say(format_args!("{} {}: {}", target.id, target.url(), result.outcome))?;
    for (name, phase) in phases {
        match phase {
            Some(phase) => say(format_args!("  {name:<5}{:>8.1} ms", ms(phase)))?,
            None => say(format_args!("  {name:<5}       -"))?,
        }
    }
    say(format_args!("  total{:>8.1} ms", ms(result.total)))?;
    if let Some(address) = result.address {
        say(format_args!("  address {address} ({}), status {}", family.name(), result.status))?;
    }
    if let Some(rule) = rule {
        say(format_args!("  rule {rule}"))?;
    }
    Ok(())
}
