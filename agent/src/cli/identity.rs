//! `tocsin identity`: where the seed is, and who this agent is to each operator.

use std::io;

use super::{Exit, say, say_json};
use crate::{config::Config, identity::Identity};

/// Shows the observer keys.
///
/// # Errors
/// When the output is closed.
pub fn identity(config: &Config, identity: &Identity, json: bool) -> io::Result<Exit> {
    let keys: Vec<_> = config
        .collectors
        .iter()
        .map(|line| {
            let key = identity.observer_key(&line.operator, &config.context).public();
            (line.operator.to_string(), key.to_string())
        })
        .collect();
    if json {
        let keys: Vec<_> = keys
            .iter()
            .map(|(operator, key)| serde_json::json!({"operator": operator, "observer": key}))
            .collect();
        say_json(serde_json::json!({"seed": identity.path(), "observers": keys}))?;
        return Ok(Exit::Ok);
    }
    say(format_args!("seed {}", identity.path().display()))?;
    for (operator, key) in keys {
        say(format_args!("to operator {operator}\n  observer {key}"))?;
    }
    Ok(Exit::Ok)
}
