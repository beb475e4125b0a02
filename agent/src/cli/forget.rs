//! `tocsin forget`: has every collector delete what it holds of this machine's observers, and then deletes what is kept
//! here.

use std::{fs, io, sync::Arc};

use serde_json::json;

use super::{Exit, chain, say, say_json, scratch};
use crate::{
    config::Config,
    consent,
    identity::{Identity, SEED_FILE},
    network::Network,
    spool::{OUTBOX_FILE, Spool},
    words::Language,
};

/// Forgets. What is kept here goes only once every collector has said that it is done.
///
/// # Errors
/// When the output is closed, or the state directory cannot be used.
pub async fn forget(config: &Config, language: Language, json: bool) -> anyhow::Result<Exit> {
    if !config.state_dir.join(SEED_FILE).exists() {
        let text = format!(
            "{} {}",
            language.say(
                "There is nothing to forget: no agent has run with the state directory",
                "Il n’y a rien à oublier\u{a0}: aucun agent n’a tourné avec le répertoire",
            ),
            config.state_dir.display()
        );
        match json {
            true => say_json(json!({"ok": true, "forgotten": [], "note": text}))?,
            false => say(text)?,
        }
        return Ok(Exit::Unknown);
    }
    // An agent that runs, or comes up meanwhile, would go on reporting.
    let _alone = crate::lock(&config.state_dir)?;
    let identity = Arc::new(Identity::open(&config.state_dir)?);
    let spool = Spool::open(&config.state_dir, config.outbox_bytes_max)?;
    let (mut ok, mut documents) = (true, Vec::new());
    // Who reported before places were noted did so from here, or nobody knows from where.
    let mut places = spool.places()?;
    let mut strangers = spool.observers()?;
    let here = Network::now(config.context.as_deref()).context;
    for (line, here) in config.collectors.iter().zip(here.iter().cycle()) {
        let place = (line.operator, here.clone());
        let own = identity.observer_key(&line.operator, here).public();
        if strangers.contains(&own) && !places.contains(&place) {
            places.push(place);
        }
    }
    for (operator, context) in places {
        let observer = identity.observer_key(&operator, &context).public();
        strangers.retain(|other| *other != observer);
        let line = config.collectors.iter().find(|line| line.operator == operator);
        let done = match line {
            Some(line) => {
                let asked = scratch(config, line, &spool, &identity, Some(context.clone()))?;
                let asked = asked.forget().await;
                asked.map_err(|error| chain(&error))
            }
            // Only its operator's line tells where to ask.
            None => Err(language
                .say(
                    "its tocsin:// line is not set: name it with --collector",
                    "sa ligne tocsin:// n’est pas indiquée : donnez-la avec --collector",
                )
                .to_owned()),
        };
        match &done {
            Ok(_) => spool.drop_place(&operator, &context, &observer)?,
            Err(_) => ok = false,
        }
        let operator = operator.to_string();
        let short = operator.get(..8).unwrap_or(&operator);
        match &done {
            Ok(reports) if !json => say(format_args!(
                "{short}…: {reports} {}",
                language.say("reports deleted", "rapports effacés")
            ))?,
            Err(error) if !json => {
                say(format_args!(
                    "{short}…: {}: {error}",
                    language.say("NOT deleted", "PAS effacés")
                ))?;
            }
            _ => {}
        }
        documents.push(json!({
            "operator": operator, "observer": observer.to_string(),
            "reports": done.as_ref().ok(), "error": done.as_ref().err(),
        }));
    }
    for observer in strangers {
        ok = false;
        let error = language.say(
            "it reported from a network that this machine is not in now: run this there",
            "il a rapporté d’un réseau où cette machine n’est pas\u{a0}: relancez la commande là-bas",
        );
        if !json {
            say(format_args!(
                "{observer}: {}: {error}",
                language.say("NOT deleted", "PAS effacés")
            ))?;
        }
        documents.push(json!({"observer": observer.to_string(), "error": error}));
    }
    drop(spool);
    if ok {
        remove(config)?;
    }
    if json {
        say_json(json!({"ok": ok, "forgotten": documents}))?;
    } else {
        say(match ok {
            true => language.say(
                "What was kept here is deleted too. Copies of what was published cannot be called back.",
                "Ce qui était gardé ici est effacé aussi. Les copies de ce qui a été publié ne peuvent être reprises.",
            ),
            false => language.say(
                "What is kept here stays until all have done it: run it again.",
                "Ce qui est gardé ici reste tant que tous ne l’ont pas fait\u{a0}: relancez la commande.",
            ),
        })?;
    }
    Ok(if ok { Exit::Ok } else { Exit::Problem })
}

/// The seed last: without it nobody could ask again.
fn remove(config: &Config) -> io::Result<()> {
    let outbox =
        [OUTBOX_FILE.to_owned(), format!("{OUTBOX_FILE}-wal"), format!("{OUTBOX_FILE}-shm")];
    let others = [consent::FILE.to_owned(), "lock".to_owned(), SEED_FILE.to_owned()];
    for name in outbox.into_iter().chain(others) {
        match fs::remove_file(config.state_dir.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}
