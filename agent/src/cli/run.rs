//! `tocsin run`: the agent, until SIGINT or SIGTERM.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::Exit;
use crate::{RunError, config::Config};

/// Runs the agent.
///
/// # Errors
/// As [`crate::run`].
pub async fn run(config: Config) -> Result<Exit, RunError> {
    let shutdown = CancellationToken::new();
    if config.collectors.is_empty() {
        tracing::warn!("no collector is configured: what is seen stays here; set collectors");
    }
    let agent = crate::run(config, shutdown.clone());
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
