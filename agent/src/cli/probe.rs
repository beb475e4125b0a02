//! `tocsin probe HOST`: one probe of a target of the catalogue, phase by phase. Nothing is
//! reported.

use std::io;

use tocsin_proto::{observation::Family, rules::RuleTable};

use super::{Exit, say, say_json};
use crate::{config::Config, probe::Prober};

/// Probes one target.
///
/// # Errors
/// When the output is closed.
pub async fn probe(config: &Config, prober: &Prober, name: &str, json: bool) -> io::Result<Exit> {
    let Some(target) = config.catalogue.find(name) else {
        say(format_args!("{name} is no target of the catalogue; only its targets are probed"))?;
        return Ok(Exit::Unknown);
    };
    let family = config.families.first().copied().unwrap_or(Family::V4);
    let result = prober.probe(target, family, true).await;
    let ms = |duration: std::time::Duration| duration.as_secs_f64() * 1000.0;
    let phases = ["dns", "tcp", "tls", "http"].into_iter().zip(result.phases);
    let rule = RuleTable::builtin().get(result.rule).map(|rule| rule.id.as_str());
    if json {
        let phases: serde_json::Map<String, serde_json::Value> =
            phases.map(|(name, phase)| (format!("{name}_ms"), phase.map(ms).into())).collect();
        say_json(serde_json::json!({
            "target": target.id, "url": target.url(), "family": family,
            "outcome": result.outcome, "rule": rule, "status": result.status,
            "phases": phases, "total_ms": ms(result.total),
            "address": result.address.map(|ip| ip.to_string()),
            "http_version": result.http_version, "cname": result.cname,
            "bytes_in": result.bytes_in, "bytes_out": result.bytes_out,
        }))?;
    } else {
        say(format_args!("{} {}: {}", target.id, target.url(), result.outcome))?;
        for (name, phase) in phases {
            match phase {
                Some(phase) => say(format_args!("  {name:<5}{:>8.1} ms", ms(phase)))?,
                None => say(format_args!("  {name:<5}       -"))?,
            }
        }
        say(format_args!("  total{:>8.1} ms", ms(result.total)))?;
        if let Some(address) = result.address {
            say(format_args!("  address {address}, status {}", result.status))?;
        }
        if let Some(rule) = rule {
            say(format_args!("  rule {rule}"))?;
        }
    }
    Ok(if result.outcome.is_answer() { Exit::Ok } else { Exit::Problem })
}
