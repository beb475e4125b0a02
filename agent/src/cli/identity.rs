//! `tocsin identity`: where the seed is, and who this agent is to each operator.

use std::io;

use super::{Exit, say, say_json};
use crate::{config::Config, identity::Identity, network::Network, spool::Spool, words::Language};

/// What to do with it.
#[derive(Debug, Clone, Copy, clap::Subcommand)]
pub enum What {
    /// Become another observer, to everybody: from here on nothing is signed with a key of before.
    Rotate {
        /// Although collectors hold reports of before, which nobody can have deleted afterwards.
        #[arg(long)]
        leave: bool,
    },
}

/// Makes another seed. What waits to be sent as the old observer is dropped.
///
/// # Errors
/// When an agent runs, or the state directory cannot be used.
pub fn rotate(
    config: &Config,
    language: Language,
    leave: bool,
    json: bool,
) -> anyhow::Result<Exit> {
    let _alone = crate::lock(&config.state_dir)?;
    let identity = Identity::open(&config.state_dir)?;
    let mut spool = Spool::open(&config.state_dir, config.outbox_bytes_max)?;
    let held = !spool.places()?.is_empty() || !spool.observers()?.is_empty();
    if held && !leave {
        let text = language.say(
            "Collectors hold reports of the observer that this machine was, and nobody can have them deleted afterwards. \
             Run `tocsin forget` first, or say --leave.",
            "Des collecteurs gardent des rapports de l’observateur qu’était cette machine, et nul ne pourra les faire \
             effacer ensuite. Lancez d’abord « tocsin forget », ou dites --leave.",
        );
        match json {
            true => say_json(serde_json::json!({"ok": false, "error": text}))?,
            false => say(text)?,
        }
        return Ok(Exit::Problem);
    }
    let dropped = spool.start_afresh()?;
    identity.renew(&config.state_dir)?;
    if json {
        say_json(serde_json::json!({"ok": true, "dropped": dropped}))?;
        return Ok(Exit::Ok);
    }
    say(language.both(
        format!("This machine is another observer now. {dropped} reports that waited were dropped."),
        format!("Cette machine est maintenant un autre observateur. {dropped} rapports en attente ont été jetés."),
    ))?;
    Ok(Exit::Ok)
}

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
