//! `tocsin doctor`: can each collector be reached, with which key, and how far apart are the
//! clocks?

use std::{
    error::Error,
    io,
    sync::{Arc, Mutex},
};

use tokio::sync::{mpsc, watch};

use super::{Exit, say, say_json};
use crate::{
    CLOCK_OFFSET_MAX_MS,
    clock::Clock,
    config::Config,
    identity::Identity,
    spool::Spool,
    uplink::{Status, Uplink},
    voice::Voice,
};

/// Tries every address of every collector.
///
/// # Errors
/// When the output is closed, or the outbox cannot be opened.
pub async fn doctor(config: &Config, identity: Identity, json: bool) -> io::Result<Exit> {
    let spool =
        Spool::open(&config.state_dir, config.outbox_bytes_max).map_err(io::Error::other)?;
    let identity = Arc::new(identity);
    let (mut all_well, mut checks) = (!config.collectors.is_empty(), Vec::new());
    for line in &config.collectors {
        for address in &line.addresses {
            let uplink = Uplink {
                line: line.clone(),
                // An observer of its own and an empty outbox: the running agent keeps its session
                // and its reports.
                voice: Arc::new(Voice::new(
                    line.operator,
                    Arc::clone(&identity),
                    Arc::new(Mutex::new(spool.scratch().map_err(io::Error::other)?)),
                    // Another one each time, so that nothing links the places it is run in.
                    Some(format!("doctor {:x}", getrandom::u64().unwrap_or(0))),
                    config.profile.unwrap_or_default(),
                )),
                clock: Clock::start(),
                sources: config.source_address.clone(),
                catalogue_version: config.catalogue.version(),
                asks: mpsc::channel(1).0,
                status: watch::channel(Status::default()).0,
            };
            let found = uplink.check(*address).await;
            let offset = found.as_ref().ok().and_then(|status| status.offset_ms);
            let good = offset.is_some_and(|ms| ms.unsigned_abs() <= CLOCK_OFFSET_MAX_MS);
            all_well &= good;
            let (key, error) = match &found {
                Ok(status) => (status.transport.map(|key| key.to_string()), None),
                Err(error) => (None, Some(chain(error))),
            };
            if !json {
                match (&error, offset) {
                    (Some(error), _) => say(format_args!("{address}: {error}"))?,
                    (None, offset) => {
                        say(format_args!(
                            "{address}: reached by QUIC, key {}, clock offset {} ms{}",
                            key.as_deref().unwrap_or("?"),
                            offset.unwrap_or(0),
                            if good { "" } else { ": set this machine's clock" }
                        ))?;
                    }
                }
            }
            checks.push(serde_json::json!({
                "operator": line.operator, "address": address, "ok": good, "via": "quic",
                "transport_key": key, "clock_offset_ms": offset, "error": error,
            }));
        }
    }
    if json {
        say_json(serde_json::json!({"ok": all_well, "collectors": checks}))?;
    } else if config.collectors.is_empty() {
        say("no collector is configured; add a tocsin:// line to collectors")?;
    }
    Ok(if all_well { Exit::Ok } else { Exit::Problem })
}

fn chain(error: &dyn Error) -> String {
    let causes = std::iter::successors(error.source(), |&error| error.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
