//! `tocsin run`: the agent, until SIGINT or SIGTERM.

use std::{
    io::{self, IsTerminal},
    sync::Arc,
};

use sd_notify::NotifyState;
use tocsin_proto::catalogue::Catalogue;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::{Exit, say, say_json};
use crate::{RunError, Told, config::Config};

/// Runs the agent. With `json` every probe and session is a line on the standard output; else, on
/// a terminal, every failure and session.
///
/// # Errors
/// As [`crate::run`].
pub async fn run(config: Config, json: bool) -> Result<Exit, RunError> {
    let shutdown = CancellationToken::new();
    if config.collectors.is_empty() {
        tracing::warn!("no collector is configured: what is seen stays here; set collectors");
    }
    let catalogue = Arc::clone(&config.catalogue);
    let terminal = io::stdout().is_terminal();
    let closed = shutdown.clone();
    let tell = move |told: Told| {
        if let Told::Alive { failing, reached } = &told {
            notify(*failing, *reached);
        }
        let said = match (json, terminal) {
            (true, _) => say_json(document(&catalogue, &told)),
            (false, true) => sentence(&catalogue, &told).map_or(Ok(()), say),
            (false, false) => Ok(()),
        };
        if said.is_err() {
            // Whoever read is gone: so are we.
            closed.cancel();
        }
    };
    let agent = crate::run_and_tell(config, shutdown.clone(), Arc::new(tell));
    tokio::pin!(agent);
    let stop = async {
        match signal(SignalKind::terminate()) {
            Ok(mut terminate) => tokio::select! {
                _ = terminate.recv() => {}
                _ = tokio::signal::ctrl_c() => {}
            },
            Err(_) => drop(tokio::signal::ctrl_c().await),
        }
    };
    tokio::select! {
        ended = &mut agent => return ended.map(|()| Exit::Ok),
        () = stop => shutdown.cancel(),
    }
    agent.await.map(|()| Exit::Ok)
}

/// Tells the service manager that the loop is at work, and how it stands (sd_notify(3)); where there is none, nobody.
fn notify(failing: usize, (reached, all): (usize, usize)) {
    let status = format!("{failing} checks fail; {reached} of {all} collectors reached");
    let states = [NotifyState::Ready, NotifyState::Watchdog, NotifyState::Status(status.as_str())];
    if let Err(error) = sd_notify::notify(&states) {
        tracing::debug!(%error, "the service manager was not told");
    }
}

fn document(catalogue: &Catalogue, told: &Told) -> serde_json::Value {
    match told {
        Told::Probed { at, request, outcome, took } => serde_json::json!({
            "event": "probe", "at": at.to_string(),
            "target": catalogue.target(request.target).map(|target| &target.id),
            "family": request.family, "cause": request.purpose.cause(),
            "outcome": outcome, "total_ms": took.as_secs_f64() * 1000.0,
        }),
        Told::Alive { failing, reached: (reached, collectors) } => serde_json::json!({
            "event": "alive", "failing": failing, "reached": reached, "collectors": collectors,
        }),
        Told::Session { at, operator, way } => serde_json::json!({
            "event": "session", "at": at.to_string(), "operator": operator,
            "address": way.map(|way| way.address), "via": way.map(|way| way.via.name()),
        }),
    }
}

fn sentence(catalogue: &Catalogue, told: &Told) -> Option<String> {
    match told {
        Told::Alive { .. } => None,
        Told::Probed { outcome, .. } if outcome.is_answer() => None,
        Told::Probed { at, request, outcome, took } => {
            let target = catalogue.target(request.target)?;
            let (family, ms) = (request.family.name(), took.as_millis());
            Some(format!("{at}  {}  {family}  {outcome}  {ms} ms", target.host))
        }
        Told::Session { at, way: Some(way), .. } => Some(format!("{at}  reporting to {way}")),
        Told::Session { at, .. } => Some(format!("{at}  not connected; what is seen is kept")),
    }
}
