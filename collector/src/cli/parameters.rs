//! `tocsin-collector parameters`: every number that decides, as a page or as JSON.

use std::{io::Write, path::PathBuf};

use crate::{
    config::{Config, RawConfig},
    publish,
};

/// Print the numbers of the detector.
#[derive(Debug, clap::Args)]
pub struct ParametersArgs {
    /// Configuration file; without one the defaults.
    #[arg(long, env = "TOCSIN_COLLECTOR_CONFIG")]
    config: Option<PathBuf>,
    /// As the document that travels with the feed.
    #[arg(long)]
    json: bool,
}

/// Prints them.
///
/// # Errors
/// When the configuration cannot be read or is none.
pub fn parameters(args: &ParametersArgs) -> anyhow::Result<()> {
    let raw = args.config.as_deref().map_or_else(|| Ok(RawConfig::default()), RawConfig::read)?;
    let settings = Config::try_from(raw)?.settings;
    let text = match args.json {
        true => publish::parameters(&settings),
        false => publish::parameters_page(&settings),
    };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(())
}
