//! `tocsin-collector`: arguments, and one place where errors become exit codes.

use std::{io::IsTerminal, process::ExitCode};

use clap::Parser;
use tocsin_collector::cli::{Args, Verb, init, location, serve};

fn main() -> ExitCode {
    let args = Args::parse();
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("TOCSIN_LOG")
                .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info")),
        )
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    match run(args.verb) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(verb: Verb) -> anyhow::Result<()> {
    match verb {
        Verb::Init(args) => init::init(&args),
        Verb::Delegate(args) => init::delegate(&args),
        Verb::Location(args) => location::run(args),
        Verb::Serve(args) => tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?
            .block_on(serve::serve(&args)),
    }
}
