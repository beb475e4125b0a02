//! The program's verbs. Each file is one.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Parser, Subcommand};

pub mod compare;
pub mod init;
pub mod location;
pub mod parameters;
pub mod replay;
pub mod serve;

/// Takes signed outage reports from agents, and publishes what is down.
///
/// Exit codes: 0 done, 2 failed (the message says what to do), 3 wrong usage.
#[derive(Debug, Parser)]
#[command(name = "tocsin-collector", version)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Make keys and print the `tocsin://` line to hand out.
    Init(init::InitArgs),
    /// Sign new delegations for the keys of a collector, good for 400 days.
    Delegate(init::DelegateArgs),
    /// Serve agents and readers.
    Serve(serve::ServeArgs),
    /// Build or ask the table of locations.
    Location(location::LocationArgs),
    /// Print every number that decides: its default, unit, source and what moves with it.
    Parameters(parameters::ParametersArgs),
    /// Run the detector over recorded observations, or over the log with other settings.
    Replay(replay::ReplayArgs),
}

/// Where configuration comes from: flags, then `TOCSIN_COLLECTOR_*`, then the file, then defaults.
#[derive(Debug, clap::Args)]
pub struct ConfigArgs {
    /// Configuration file; none is needed.
    #[arg(long, env = "TOCSIN_COLLECTOR_CONFIG")]
    pub config: Option<PathBuf>,
    /// Folder of keys, log and state.
    #[arg(long, env = "TOCSIN_COLLECTOR_DATA_DIR")]
    pub data_dir: Option<PathBuf>,
    /// Address to serve agents on, over UDP and on the same port over TCP; may be given several
    /// times.
    #[arg(long, env = "TOCSIN_COLLECTOR_LISTEN", value_delimiter = ',')]
    pub listen: Vec<SocketAddr>,
    /// TCP address of the public page.
    #[arg(long, env = "TOCSIN_COLLECTOR_WEB_LISTEN")]
    pub web_listen: Option<SocketAddr>,
    /// TCP address of metrics and readiness.
    #[arg(long, env = "TOCSIN_COLLECTOR_OPERATOR_LISTEN")]
    pub operator_listen: Option<SocketAddr>,
}

impl ConfigArgs {
    /// The configuration as it was asked for.
    ///
    /// # Errors
    /// When the file cannot be read or is no configuration.
    pub fn raw(&self) -> Result<crate::config::RawConfig, crate::config::ConfigError> {
        let mut raw = match &self.config {
            Some(path) => crate::config::RawConfig::read(path)?,
            None => crate::config::RawConfig::default(),
        };
        if let Some(dir) = &self.data_dir {
            raw.data_dir.clone_from(dir);
        }
        if !self.listen.is_empty() {
            raw.listen.clone_from(&self.listen);
        }
        raw.web_listen = self.web_listen.unwrap_or(raw.web_listen);
        raw.operator_listen = self.operator_listen.unwrap_or(raw.operator_listen);
        Ok(raw)
    }
}
