//! `tocsin-collector`: arguments, and one place where errors become exit codes.

use std::{io::IsTerminal, process::ExitCode};

use clap::Parser;
use tocsin_collector::cli::{Args, Verb, init, location, parameters, replay, serve};
use tracing::Level;
use tracing_subscriber::{Layer, filter::filter_fn, layer::SubscriberExt, util::SubscriberInitExt};

/// Exit code of a failure; the same in every program of the project.
const FAILURE: u8 = 2;
/// Exit code of wrong usage.
const USAGE: u8 = 3;

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            drop(error.print());
            return ExitCode::from(if error.use_stderr() { USAGE } else { 0 });
        }
    };
    let wanted = tracing_subscriber::EnvFilter::try_from_env("TOCSIN_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let terminal = std::io::stderr().is_terminal();
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(terminal);
    // Libraries log addresses of peers, which are kept nowhere: from them errors alone.
    let own = filter_fn(|of| of.target().starts_with("tocsin") || *of.level() == Level::ERROR);
    tracing_subscriber::registry().with(lines.with_filter(wanted).with_filter(own)).init();
    match run(args.verb) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::from(FAILURE)
        }
    }
}

fn run(verb: Verb) -> anyhow::Result<()> {
    match verb {
        Verb::Init(args) => init::init(&args),
        Verb::Delegate(args) => init::delegate(&args),
        Verb::Location(args) => location::run(args),
        Verb::Parameters(args) => parameters::parameters(&args),
        Verb::Replay(args) => replay::replay(&args),
        Verb::Serve(args) => tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?
            .block_on(serve::serve(&args)),
    }
}
