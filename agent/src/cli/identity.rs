//! `tocsin identity`: where the seed is, and who this agent is to each operator.

use std::io;

use super::{Exit, say, say_json};
use crate::{config::Config, identity::Identity, network::Network};

/// Shows the observer keys of the network that this machine is in.
///
/// # Errors
/// When the output is closed.
pub fn identity(config: &Config, identity: &Identity, json: bool) -> io::Result<Exit> {
    let context = Network::now(config.context.as_deref()).context;
    let keys: Vec<_> = config
        .collectors
        .iter()
        .map(|line| {
            let key = |context: &String| identity.observer_key(&line.operator, context).public();
            (line.operator.to_string(), context.as_ref().map(key).map(|key| key.to_string()))
        })
        .collect();
    if json {
        let keys: Vec<_> = keys
            .iter()
            .map(|(operator, key)| serde_json::json!({"operator": operator, "observer": key}))
            .collect();
        say_json(serde_json::json!({
            "seed": identity.path(), "network": context, "observers": keys,
        }))?;
        return Ok(Exit::Ok);
    }
    say(format_args!("seed {}", identity.path().display()))?;
    say(match &context {
        Some(context) => format!("network {context} (this name stays here)"),
        None => "network not known by its gateway: the collector will name it".to_owned(),
    })?;
    for (operator, key) in keys {
        let key = key.unwrap_or_else(|| "decided when the collector has named the network".into());
        say(format_args!("to operator {operator}\n  observer {key}"))?;
    }
    Ok(Exit::Ok)
}
