//! `serve` runs the collector until it is told to stop.

use std::io::Write;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::ConfigArgs;
use crate::{Collector, config::Config, keys::Keys};

/// Arguments of `serve`.
#[derive(Debug, clap::Args)]
pub struct ServeArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Print every setting in force and end.
    #[arg(long)]
    print_config: bool,
    /// Print the addresses as one line of JSON when ready.
    #[arg(long)]
    json: bool,
}

/// Serves until SIGTERM or SIGINT.
///
/// # Errors
/// When it cannot start, or a part of it fails.
pub async fn serve(args: &ServeArgs) -> anyhow::Result<()> {
    let raw = args.config.raw()?;
    if args.print_config {
        let text = toml::to_string_pretty(&raw)?;
        return Ok(std::io::stdout().lock().write_all(text.as_bytes())?);
    }
    let shutdown = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM cannot be awaited")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT cannot be awaited")?;
    let config = Config::try_from(raw)?;
    if Keys::operator_is_here(&config.data_dir) {
        tracing::warn!("operator.key is still on this machine: move it to a safe place");
    }
    let collector = Collector::bind(config).await?;
    let addresses = collector.addresses().clone();
    let mut out = std::io::stdout().lock();
    if args.json {
        let json = serde_json::json!({
            "schema": 1, "line": addresses.line.to_string(),
            "web": addresses.web, "operator": addresses.operator,
        });
        writeln!(out, "{json}")?;
    } else {
        writeln!(out, "agents   {}", addresses.line)?;
        writeln!(out, "page     http://{}/", addresses.web)?;
        writeln!(out, "metrics  http://{}/metrics", addresses.operator)?;
    }
    out.flush()?;
    drop(out);
    let stop = shutdown.clone();
    let serving = collector.serve(shutdown);
    tokio::pin!(serving);
    tokio::select! {
        ended = &mut serving => return Ok(ended?),
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping");
    stop.cancel();
    Ok(serving.await?)
}
