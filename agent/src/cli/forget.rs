//! `tocsin forget`: has every collector delete what it holds of this machine's observers, and then deletes what is kept
//! here.

use std::{
    fs, io,
    sync::{Arc, Mutex},
};

use serde_json::json;
use tocsin_proto::line::CollectorLine;
use tokio::sync::{mpsc, watch};

use super::{Exit, chain, say, say_json, status::runs};
use crate::{
    clock::Clock,
    config::Config,
    consent,
    identity::{Identity, SEED_FILE},
    network::Network,
    spool::{OUTBOX_FILE, Spool},
    uplink::{Status, Uplink, way::Pace},
    voice::Voice,
    words::Language,
};

/// Forgets. What is kept here goes only once every collector has said that it is done.
///
/// # Errors
/// When the output is closed, or the state directory cannot be used.
pub async fn forget(config: &Config, language: Language, json: bool) -> anyhow::Result<Exit> {
    if !config.state_dir.join(SEED_FILE).exists() {
        let text = language.say(
            "There is nothing to forget: no agent has run with this state directory.",
            "Il n’y a rien à oublier\u{a0}: aucun agent n’a tourné avec ce répertoire.",
        );
        match json {
            true => say_json(json!({"ok": true, "forgotten": [], "note": text}))?,
            false => say(text)?,
        }
        return Ok(Exit::Ok);
    }
    if runs(&config.state_dir) {
        anyhow::bail!(language.say(
            "an agent runs here and would go on reporting: stop it first",
            "un agent tourne ici et continuerait\u{a0}: arrêtez-le d’abord",
        ));
    }
    let identity = Arc::new(Identity::open(&config.state_dir)?);
    let spool = Spool::open(&config.state_dir, config.outbox_bytes_max)?;
    let mut contexts = spool.contexts()?;
    let here = Network::now(config.context.as_deref()).context;
    contexts.extend(here.filter(|here| !contexts.contains(here)));
    let (mut ok, mut documents) = (true, Vec::new());
    for line in &config.collectors {
        for context in &contexts {
            let observer = identity.observer_key(&line.operator, context).public();
            let done = scratch(config, line, &spool, &identity, context)?.forget().await;
            ok &= done.is_ok();
            let operator = line.operator.to_string();
            match &done {
                Ok(reports) if !json => say(format_args!(
                    "{}…: {reports} {}",
                    operator.get(..8).unwrap_or(&operator),
                    language.say("reports deleted", "rapports effacés")
                ))?,
                Err(error) if !json => say(format_args!(
                    "{}…: {}: {}",
                    operator.get(..8).unwrap_or(&operator),
                    language.say("NOT deleted", "PAS effacés"),
                    chain(error)
                ))?,
                _ => {}
            }
            documents.push(json!({
                "operator": operator, "observer": observer.to_string(),
                "reports": done.as_ref().ok(), "error": done.as_ref().err().map(|e| chain(e)),
            }));
        }
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
                "Ce qui était gardé ici est effacé aussi. Les copies de ce qui a été publié ne se rappellent pas.",
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

/// A session as the observer of one network, with an empty outbox: what waits is not sent any more.
fn scratch(
    config: &Config,
    line: &CollectorLine,
    spool: &Spool,
    identity: &Arc<Identity>,
    context: &str,
) -> anyhow::Result<Uplink> {
    Ok(Uplink {
        line: line.clone(),
        transport: config.transport,
        pace: Pace::default(),
        voice: Arc::new(Voice::new(
            line.operator,
            Arc::clone(identity),
            Arc::new(Mutex::new(spool.scratch()?)),
            Some(context.to_owned()),
            config.profile.unwrap_or_default(),
        )),
        clock: Clock::start(),
        sources: config.source_address.clone(),
        catalogue_version: config.catalogue.version(),
        asks: mpsc::channel(1).0,
        status: watch::channel(Status::default()).0,
    })
}
