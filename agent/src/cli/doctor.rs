//! `tocsin doctor`: can each collector be reached, over which transport, with which key, and how
//! far apart are the clocks?

use std::{io, net::SocketAddr, sync::Arc};

use tocsin_proto::line::CollectorLine;

use super::{Exit, chain, say, say_json, scratch};
use crate::{
    CLOCK_OFFSET_MAX_MS,
    config::Config,
    identity::Identity,
    spool::Spool,
    uplink::{
        Status, UplinkError,
        link::LinkError,
        way::{Via, Way},
    },
};

/// What one way led to.
struct Check {
    way: Way,
    found: Result<Status, UplinkError>,
}

impl Check {
    fn offset_ms(&self) -> Option<i64> {
        self.found.as_ref().ok().and_then(|status| status.offset_ms)
    }

    fn key(&self) -> Option<String> {
        self.found.as_ref().ok().and_then(|status| status.transport).map(|key| key.to_string())
    }

    fn is_good(&self) -> bool {
        self.offset_ms().is_some_and(|ms| ms.unsigned_abs() <= CLOCK_OFFSET_MAX_MS)
    }

    fn sentence(&self) -> String {
        let way = self.way;
        match &self.found {
            Err(error) => format!("{way}: {}", chain(error)),
            Ok(_) => format!(
                "{way}: reached, key {}, clock offset {} ms{}",
                self.key().as_deref().unwrap_or("?"),
                self.offset_ms().unwrap_or(0),
                if self.is_good() { "" } else { ": set this machine's clock" }
            ),
        }
    }

    fn document(&self, line: &CollectorLine) -> serde_json::Value {
        serde_json::json!({
            "operator": line.operator, "address": self.way.address, "ok": self.is_good(),
            "via": self.way.via.name(), "transport_key": self.key(),
            "clock_offset_ms": self.offset_ms(),
            "error": self.found.as_ref().err().map(|error| chain(error)),
        })
    }
}

/// Tries every address of every collector, over each transport that is allowed. An address is well
/// when one of them is.
///
/// # Errors
/// When the output is closed, or the outbox cannot be opened.
pub async fn doctor(config: &Config, identity: Identity, json: bool) -> io::Result<Exit> {
    let spool =
        Spool::open(&config.state_dir, config.outbox_bytes_max).map_err(io::Error::other)?;
    let identity = Arc::new(identity);
    let (mut all_well, mut documents) = (!config.collectors.is_empty(), Vec::new());
    for line in &config.collectors {
        for address in &line.addresses {
            let mut checks = Vec::new();
            for via in config.transport.vias() {
                // Another one each time, so that nothing links the places it is run in.
                let context = format!("doctor {:x}", getrandom::u64().unwrap_or(0));
                let uplink = scratch(config, line, &spool, &identity, Some(context))
                    .map_err(io::Error::other)?;
                let way = Way { via: *via, address: *address };
                let check = Check { way, found: uplink.check(way).await };
                if !json {
                    say(check.sentence())?;
                }
                documents.push(check.document(line));
                checks.push(check);
            }
            all_well &= checks.iter().any(Check::is_good);
            if !json && udp_is_blocked(&checks) {
                say(advice(*address))?;
            }
        }
    }
    if json {
        say_json(serde_json::json!({"ok": all_well, "collectors": documents}))?;
    } else if config.collectors.is_empty() {
        say("no collector is configured; add a tocsin:// line to collectors")?;
    }
    Ok(if all_well { Exit::Ok } else { Exit::Problem })
}

/// TCP reaches it, and what is sent over UDP is not answered at all: a collector that refuses QUIC says so.
fn udp_is_blocked(checks: &[Check]) -> bool {
    let found = |via| checks.iter().find(|check| check.way.via == via).map(|check| &check.found);
    let silent =
        |found: &Result<_, _>| matches!(found, Err(UplinkError::Link(LinkError::Timeout(_))));
    found(Via::Quic).is_some_and(silent) && found(Via::Tcp).is_some_and(Result::is_ok)
}

fn advice(address: SocketAddr) -> String {
    format!("{address}: UDP seems to be blocked on the way; reports go over TCP until it passes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocked_udp_is_told_from_a_collector_that_is_away() {
        let check = |via, reached: bool| {
            let way = Way { via, address: SocketAddr::from(([192, 0, 2, 1], 1)) };
            let silent = || Err(UplinkError::Link(LinkError::Timeout(way)));
            Check { way, found: if reached { Ok(Status::default()) } else { silent() } }
        };
        for (quic, tcp, blocked) in
            [(true, true, false), (false, true, true), (true, false, false), (false, false, false)]
        {
            assert_eq!(udp_is_blocked(&[check(Via::Quic, quic), check(Via::Tcp, tcp)]), blocked);
        }
        assert!(!udp_is_blocked(&[check(Via::Tcp, true)]));
        let refused = Check { found: Err(UplinkError::Ended), ..check(Via::Quic, false) };
        assert!(!udp_is_blocked(&[refused, check(Via::Tcp, true)]), "UDP came and went");
    }
}
