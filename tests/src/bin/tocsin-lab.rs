//! `tocsin-lab`: see on your own machine what Tocsin is for.

use std::{
    io::{IsTerminal, Write},
    net::SocketAddr,
    process::ExitCode,
};

use clap::Parser;
use tocsin_agent::uplink::way::Transport;
use tocsin_tests::{
    internet::Fault,
    lab::{Dated, Lab, News, Play},
};

/// Runs ninety real agents, thirty real sites and one real collector on this machine, breaks
/// something, and shows what the collector makes of it.
///
/// Everything stays on 127/8. Exit codes: 0 exactly the expected was confirmed within 90 s of the
/// fault, 1 it was not, 2 the lab itself failed, 3 wrong usage. `TOCSIN_LOG=tocsin_collector=debug`
/// tells on standard error what each panel came to.
#[derive(Debug, Parser)]
#[command(name = "tocsin-lab", version)]
struct Args {
    /// What breaks: edge-500, edge-refusal, tcp-timeout, tls-alert, edge-half, edge-challenge,
    /// dns-servfail, one-site, one-network, none.
    #[arg(long, default_value = "edge-500")]
    fault: Fault,
    /// Decides the world, and who is unlucky in it.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// One line of JSON per event.
    #[arg(long)]
    json: bool,
    /// The collector asks nobody to look closer: what agents report by themselves decides.
    #[arg(long)]
    no_ask_back: bool,
    /// The agents report over TCP alone, as they do where UDP is blocked.
    #[arg(long)]
    tcp: bool,
    /// Instead of one run: these faults, each with asking back over QUIC and over TCP, and without it; prints a
    /// table of the seconds to confirm. Two minutes a run.
    #[arg(long, value_name = "FAULT,...", value_delimiter = ',', conflicts_with_all = ["fault", "hold", "json", "tcp", "no_ask_back"])]
    compare: Vec<Fault>,
    /// Keep the page up until Ctrl-C.
    #[arg(long)]
    hold: bool,
    /// Where the page is served.
    #[arg(long, default_value = "127.0.0.1:0")]
    web: SocketAddr,
}

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            drop(error.print());
            return ExitCode::from(if error.use_stderr() { 3 } else { 0 });
        }
    };
    let wanted = tracing_subscriber::EnvFilter::try_from_env("TOCSIN_LOG").unwrap_or_default();
    tracing_subscriber::fmt().with_env_filter(wanted).with_writer(std::io::stderr).init();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let outcome = runtime.map_err(anyhow::Error::from).and_then(|r| r.block_on(run(&args)));
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            // Nothing is left to be done when even this cannot be written.
            drop(writeln!(std::io::stderr(), "tocsin-lab: {error:#}"));
            ExitCode::from(2)
        }
    }
}

/// Plays each fault in each way, and prints how long it took.
async fn compare(args: &Args) -> anyhow::Result<bool> {
    let mut out = std::io::stdout();
    writeln!(out, "| fault | asked, QUIC | asked, TCP | overheard |\n|---|---|---|---|")?;
    let mut all = true;
    for fault in &args.compare {
        let mut row = format!("| {fault} |");
        for (ask_back, transport) in
            [(true, Transport::Auto), (true, Transport::Tcp), (false, Transport::Auto)]
        {
            let mut lab =
                Lab::start(Play { seed: args.seed, web: args.web, ask_back, transport }).await?;
            let mut seconds = None;
            all &= lab
                .play(*fault, |dated| {
                    if let News::Verdict { confirmed_s, .. } = dated.news {
                        seconds = confirmed_s;
                    }
                })
                .await?;
            lab.stop().await?;
            let seconds = seconds.map_or("–".to_owned(), |s| format!("{s} s"));
            row.push_str(&format!(" {seconds} |"));
        }
        writeln!(out, "{row}")?;
        out.flush()?;
    }
    Ok(all)
}

async fn run(args: &Args) -> anyhow::Result<bool> {
    if !args.compare.is_empty() {
        return compare(args).await;
    }
    let colour = std::io::stdout().is_terminal() && !args.json;
    let transport = if args.tcp { Transport::Tcp } else { Transport::Auto };
    let (seed, web, ask_back) = (args.seed, args.web, !args.no_ask_back);
    let mut lab = Lab::start(Play { seed, web, ask_back, transport }).await?;
    let mut broken = false;
    let tell = |dated: Dated| {
        let line = if args.json {
            serde_json::to_string(&dated).unwrap_or_default()
        } else {
            line(&dated, colour)
        };
        if writeln!(std::io::stdout().lock(), "{line}").is_err() {
            broken = true;
        }
    };
    let interrupt = async || tokio::signal::ctrl_c().await;
    let pass = tokio::select! {
        pass = lab.play(args.fault, tell) => pass?,
        stopped = interrupt() => {
            stopped?;
            lab.stop().await?;
            return Ok(false);
        }
    };
    if args.hold && !broken {
        if !args.json {
            writeln!(std::io::stdout().lock(), "         {} stays up; Ctrl-C ends it", lab.url())?;
        }
        interrupt().await?;
    }
    lab.stop().await?;
    Ok(pass)
}

fn line(dated: &Dated, colour: bool) -> String {
    let paint = |code: u8, text: String| {
        if colour { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text }
    };
    let text = match &dated.news {
        News::Page { url } => format!("page     {url}"),
        News::Crowd { observers, eligible, networks, zones } => format!(
            "crowd    {observers} observers, {eligible} with a vote, {networks} networks, \
             {zones} zones"
        ),
        News::Broken { fault, expected } => {
            paint(33, format!("fault    {fault}; to be confirmed: {expected}"))
        }
        News::Incident { id, title, scope, phase, share_permille } => {
            let seen = format!("{}.{} %", share_permille / 10, share_permille % 10);
            let text = format!("{:<8} {title}, {scope}, seen by {seen} ({id})", phase.name());
            paint(31, text)
        }
        News::Verdict { pass, why, confirmed_s, reports, requests } => {
            let mark = if *pass { "pass" } else { "FAIL" };
            let after = confirmed_s.map_or(String::new(), |s| format!(", {s} s after the fault"));
            let work = format!("{reports} reports, {requests} requests");
            paint(if *pass { 32 } else { 31 }, format!("{mark}     {why}{after} ({work})"))
        }
    };
    format!("{:>6.1} s {text}", dated.at_ms as f64 / 1000.0)
}
