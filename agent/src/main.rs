//! `tocsin`: arguments, then configuration, then the verb, then the exit code.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    process::ExitCode,
};

use clap::{CommandFactory, Parser, Subcommand};
use tocsin_agent::{
    cli::{self, Exit, report::What, why::Form},
    config::{Config, RawConfig},
    identity::Identity,
    words::Language,
};
use tocsin_proto::line::CollectorLine;
use tracing_subscriber::{Layer, layer::SubscriberExt, util::SubscriberInitExt};

/// Tells with others whether it is only you: probes well-known sites and reports what it sees.
#[derive(Debug, Parser)]
#[command(
    name = "tocsin",
    version,
    after_help = "Exit codes: 0 all well, 1 a problem was found, 2 the site does not work, 3 nothing \
                  known, wrong usage or failure.\nSettings: flags, then TOCSIN_* variables, then the file, then \
                  defaults."
)]
struct Arguments {
    /// Configuration file (TOML). Default: ~/.config/tocsin/tocsin.toml, else /etc/tocsin/tocsin.toml.
    #[arg(long, global = true, env = "TOCSIN_CONFIG")]
    config: Option<PathBuf>,
    /// Where the seed and the outbox are.
    #[arg(long, global = true, env = "TOCSIN_STATE_DIR")]
    state_dir: Option<PathBuf>,
    /// A collector's tocsin:// line; may be given again.
    #[arg(long = "collector", global = true, env = "TOCSIN_COLLECTORS", value_delimiter = ' ')]
    collectors: Vec<CollectorLine>,
    /// Address to probe and connect from; one of each family.
    #[arg(long, global = true, env = "TOCSIN_SOURCE_ADDRESS", value_delimiter = ',')]
    source_address: Vec<IpAddr>,
    /// Scheduled probes a minute, at most.
    #[arg(long, global = true, env = "TOCSIN_PROBES_PER_MINUTE_MAX")]
    probes_per_minute_max: Option<u16>,
    /// Bytes in a rolling day.
    #[arg(long, global = true, env = "TOCSIN_DAY_BYTES_MAX")]
    day_bytes_max: Option<u64>,
    /// Address on which `run` serves metrics in Prometheus' form, such as 127.0.0.1:9115.
    #[arg(long, global = true, env = "TOCSIN_METRICS")]
    metrics: Option<SocketAddr>,
    /// JSON on the standard output.
    #[arg(long, global = true)]
    json: bool,
    /// The language of answers. Default: the system's, where it is one of these, else English.
    #[arg(long, global = true, env = "TOCSIN_LANG")]
    lang: Option<Language>,
    /// Print every setting with what is in force, as a configuration file, and stop.
    #[arg(long)]
    print_config: bool,
    /// Say what is wrong with the configuration, and stop.
    #[arg(long)]
    check_config: bool,
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Say what this program would do, and note that you agree: before the first probe.
    Init {
        /// Agree without being asked: for unattended machines.
        #[arg(long, conflicts_with = "check")]
        accept: bool,
        /// Only tell, by the exit code, whether it was agreed to.
        #[arg(long)]
        check: bool,
    },
    /// Probe and report, until stopped.
    Run,
    /// Is it only me? Tells within 3 s whether a site works from here, and whose fault it is if not.
    Why {
        /// A host name, an address of a page, or a name that the catalogue has.
        site: String,
        /// One line for a monitoring system.
        #[arg(long)]
        nagios: bool,
    },
    /// Say that a site does not work for you. It raises a suspicion, and confirms nothing.
    Report {
        /// A site of the catalogue: its host, its name, or an address of a page.
        site: String,
        /// What is wrong.
        #[arg(long, value_enum, default_value_t)]
        trouble: What,
    },
    /// How the agent of this machine stands, and what is known to be down.
    Status,
    /// What is down, as the collectors last said.
    Incidents {
        /// Those that ended lately too.
        #[arg(long)]
        all: bool,
    },
    /// Tell of every incident as it changes, until stopped.
    Watch,
    /// Probe one target of the catalogue, by host or identifier.
    Probe {
        /// Its host name or identifier.
        host: String,
    },
    /// Show exactly what would be sent, to the byte.
    Show {
        /// And the last reports that were sent.
        #[arg(long)]
        sent: bool,
    },
    /// Have systemd run the agent, where no package does.
    Service {
        #[command(subcommand)]
        what: cli::service::What,
    },
    /// Show where the seed is, and who this agent is to each operator; or become another.
    Identity {
        #[command(subcommand)]
        what: Option<cli::identity::What>,
    },
    /// Check whether the collectors can be reached.
    Doctor,
    /// Have the collectors delete what they hold of this machine, and delete what is kept here.
    Forget,
    /// Print the completions of a shell.
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
    /// Write the manual pages into a folder.
    Man {
        /// Which folder.
        dir: PathBuf,
    },
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let code = if error.use_stderr() { Exit::Unknown } else { Exit::Ok };
            drop(error.print());
            return ExitCode::from(code as u8);
        }
    };
    let filter = tocsin_agent::config::log_filter();
    let colour = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let log = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(colour);
    let registry = tracing_subscriber::registry();
    if tocsin_agent::config::is_journal() {
        registry.with(log.without_time().with_filter(filter)).init();
    } else {
        registry.with(log.with_filter(filter)).init();
    }
    match act(arguments) {
        Ok(exit) => ExitCode::from(exit as u8),
        Err(error) => {
            eprintln!("tocsin: {}", cli::clean(&format!("{error:#}")));
            ExitCode::from(Exit::Unknown as u8)
        }
    }
}

fn act(arguments: Arguments) -> anyhow::Result<Exit> {
    let named = arguments.config.clone();
    let path = named.clone().or_else(RawConfig::default_file);
    let file = path.as_deref().map(RawConfig::read).transpose()?.unwrap_or_default();
    let raw = file.overlaid(RawConfig {
        state_dir: arguments.state_dir,
        collectors: arguments.collectors,
        source_address: arguments.source_address,
        probes_per_minute_max: arguments.probes_per_minute_max,
        day_bytes_max: arguments.day_bytes_max,
        metrics: arguments.metrics,
        ..RawConfig::default()
    });
    if arguments.print_config {
        cli::say(raw.print().trim_end())?;
    }
    let config = Config::try_from(raw)?;
    if arguments.check_config {
        let of = path.as_deref().map_or("no file".into(), |path| path.to_string_lossy());
        cli::say(format_args!("the configuration is well ({of})"))?;
    }
    let Some(verb) = arguments.verb else {
        if arguments.print_config || arguments.check_config {
            return Ok(Exit::Ok);
        }
        anyhow::bail!(
            "what shall it do? `tocsin --help` lists the verbs; begin with `tocsin init`"
        );
    };
    let json = arguments.json;
    let language = arguments.lang.unwrap_or_else(tocsin_agent::config::language);
    let probes = matches!(verb, Verb::Run | Verb::Probe { .. } | Verb::Why { .. });
    if probes && !cli::init::is_given(&config) {
        anyhow::bail!(cli::init::missing(language));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        Ok(match verb {
            Verb::Init { check: true, .. } => cli::init::check(&config),
            Verb::Init { accept, .. } => {
                cli::init::init(&config, language, accept, json, named.as_deref())?
            }
            Verb::Run => cli::run::run(config, json).await?,
            Verb::Why { site, nagios } => {
                let prober = tocsin_agent::prober(&config, config.profile.unwrap_or_default())?;
                let form = match (nagios, json) {
                    (true, _) => Form::Nagios,
                    (_, true) => Form::Json,
                    _ => Form::Text,
                };
                let prober = std::sync::Arc::new(prober);
                cli::why::why(&config, &prober, &site, language, form).await?
            }
            Verb::Report { site, trouble } => {
                cli::report::report(&config, &site, trouble, language, json).await?
            }
            Verb::Status => cli::status::status(&config, language, json).await?,
            Verb::Incidents { all } => {
                cli::incidents::incidents(&config, language, all, json).await?
            }
            Verb::Watch => cli::incidents::watch(&config, language, json).await?,
            Verb::Probe { host } => {
                let prober = tocsin_agent::prober(&config, config.profile.unwrap_or_default())?;
                cli::probe::probe(&config, &prober, &host, json).await?
            }
            Verb::Show { sent } => cli::show::show(&config, sent, json)?,
            Verb::Identity { what: Some(cli::identity::What::Rotate { leave }) } => {
                cli::identity::rotate(&config, language, leave, json)?
            }
            Verb::Identity { what: None } => {
                let identity = Identity::open(&config.state_dir)?;
                cli::identity::identity(&config, &identity, json)?
            }
            Verb::Service { what } => {
                cli::service::service(&config, named.as_deref(), what, language)?
            }
            Verb::Forget => cli::forget::forget(&config, language, json).await?,
            Verb::Completions { shell } => cli::pages::completions(Arguments::command(), shell),
            Verb::Man { dir } => cli::pages::man(Arguments::command(), &dir)?,
            Verb::Doctor => {
                let identity = Identity::open(&config.state_dir)?;
                cli::doctor::doctor(&config, identity, json).await?
            }
        })
    })
}
