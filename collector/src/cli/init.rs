//! `init` makes a collector's keys; `delegate` renews what the operator says of them.

use std::{io::Write, net::SocketAddr, path::PathBuf};

use anyhow::Context;
use tocsin_proto::line::CollectorLine;

use super::ConfigArgs;
use crate::{clock::Clock, keys::Keys};

/// Arguments of `init`.
#[derive(Debug, clap::Args)]
pub struct InitArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Address at which agents will reach this collector, such as 203.0.113.7:4433; several are
    /// tried in order.
    #[arg(long, value_delimiter = ',')]
    public: Vec<SocketAddr>,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

/// Arguments of `delegate`.
#[derive(Debug, clap::Args)]
pub struct DelegateArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// The operator key, from wherever you keep it.
    #[arg(long)]
    operator_key: PathBuf,
}

const SAMPLE_HEAD: &str = "\
# Every setting of this collector, with what is in force. Flags and TOCSIN_COLLECTOR_* variables
# go before it. What each means: tocsin-collector serve --help, and the README.

";
const SAMPLE_TAIL: &str = "
# Not set:
#
# catalogue_file = \"/path\"      a catalogue in place of the built-in one; put it above the tables
#
# In [location]:
# country_mmdb = \"/path\"        a country table in MMDB form, asked before the bundled one
# asn_mmdb = \"/path\"            the same for networks
#
# [[location.overrides]]         a range that you know better; the longest prefix wins
# cidr = \"203.0.113.0/24\"
# country = \"FR\"
# asn = 64500
";

/// Makes keys, and a configuration file with every default beside them.
///
/// # Errors
/// When there are keys already, or files cannot be written.
pub fn init(args: &InitArgs) -> anyhow::Result<()> {
    let raw = args.config.raw()?;
    let dir = raw.data_dir.clone();
    let operator = Keys::init(&dir, Clock.wall())?;
    let sample = dir.join("collector.toml");
    let text = toml::to_string_pretty(&raw).context("the configuration cannot be written")?;
    let text = format!("{SAMPLE_HEAD}{text}{SAMPLE_TAIL}");
    // One that is there already is the operator's own.
    if !sample.exists() {
        std::fs::write(&sample, text)
            .with_context(|| format!("{} cannot be written", sample.display()))?;
    }
    let mut addresses = args.public.clone();
    if addresses.is_empty() {
        addresses.clone_from(&raw.listen);
    }
    let anywhere = addresses.iter().any(|address| address.ip().is_unspecified());
    let line = CollectorLine { operator, addresses };
    let mut out = std::io::stdout().lock();
    if args.json {
        let json = serde_json::json!({
            "schema": 1, "line": line.to_string(), "operator": operator.to_string(),
            "data_dir": dir, "configuration": sample,
        });
        writeln!(out, "{json}")?;
        return Ok(());
    }
    writeln!(out, "{line}\n")?;
    writeln!(out, "Hand this line to the agents.")?;
    if anywhere {
        writeln!(out, "In it, replace 0.0.0.0 by the address at which they reach this machine.")?;
    }
    writeln!(
        out,
        "Then move {} to a safe place away from this machine: whoever has it can\n\
         speak for you. It is needed again only to renew the delegations, within 400 days:\n\
         tocsin-collector delegate --operator-key FILE --data-dir {}",
        dir.join("operator.key").display(),
        dir.display()
    )?;
    writeln!(out, "The settings are in {}.", sample.display())?;
    Ok(())
}

/// Signs new delegations.
///
/// # Errors
/// When a key cannot be read, or the delegations cannot be written.
pub fn delegate(args: &DelegateArgs) -> anyhow::Result<()> {
    let raw = args.config.raw()?;
    let operator = Keys::operator(&args.operator_key)?;
    Keys::delegate(&raw.data_dir, &operator, Clock.wall())?;
    Keys::read(&raw.data_dir, Clock.wall())?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "The delegations are good for 400 days. Restart the collector to use them.")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, RawConfig};

    #[test]
    fn the_sample_is_a_configuration_with_every_line_taken() {
        let text = toml::to_string_pretty(&RawConfig::default()).unwrap();
        let read = |text: &str| Config::try_from(toml::from_str::<RawConfig>(text).unwrap());
        assert!(read(&format!("{SAMPLE_HEAD}{text}{SAMPLE_TAIL}")).is_ok());
        let override_ = SAMPLE_TAIL.split("# [[").nth(1).unwrap();
        let uncommented: String = override_
            .lines()
            .map(|line| line.trim_start_matches("# "))
            .map(|line| line.split("  ").next().unwrap().to_owned() + "\n")
            .collect();
        let text = text.replace("overrides = []", "");
        let config = read(&format!("{text}[[{uncommented}")).unwrap();
        assert_eq!(config.overrides.len(), 1);
    }
}
