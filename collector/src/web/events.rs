//! The live stream (server-sent events): one small event for each snapshot, the current one first.
//! A slow reader misses snapshots in between and never delays anybody: the channel keeps only the
//! newest.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    http::{HeaderName, StatusCode, header},
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use futures_util::{Stream, stream};
use serde::Serialize;
use tocsin_proto::{incident::Phase, snapshot::Overall};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::api;
use crate::feed::Published;

/// Streams open at once. Each costs a connection and a few kilobytes; readers past it reload.
pub(super) const STREAMS_MAX: usize = 1024;
/// Proxies end a silent connection after 30 to 60 s.
const PING: Duration = Duration::from_secs(15);
/// How long a reader waits before it connects again.
const RETRY: Duration = Duration::from_secs(5);

#[derive(Serialize)]
struct Brief<'a> {
    sequence: u64,
    overall: Overall,
    incidents: Vec<BriefIncident<'a>>,
}

#[derive(Serialize)]
struct BriefIncident<'a> {
    id: &'a str,
    phase: Phase,
    title: &'a str,
}

/// Opens a stream, or says that there are too many.
pub(super) fn open(
    published: watch::Receiver<Arc<Published>>,
    streams: &Arc<Semaphore>,
) -> Response {
    let Ok(permit) = Arc::clone(streams).try_acquire_owned() else {
        let detail = "Too many live streams are open. Ask for the page or the API instead.";
        let mut response = api::problem(StatusCode::SERVICE_UNAVAILABLE, detail);
        response.headers_mut().insert(header::RETRY_AFTER, RETRY.as_secs().into());
        return response;
    };
    // nginx, which buffers by default, is told not to.
    let headers =
        [(header::CACHE_CONTROL, "no-store"), (HeaderName::from_static("x-accel-buffering"), "no")];
    let keep = KeepAlive::new().interval(PING).text("ping");
    (headers, Sse::new(events(published, permit)).keep_alive(keep)).into_response()
}

/// Ends when the collector stops publishing.
fn events(
    published: watch::Receiver<Arc<Published>>,
    permit: OwnedSemaphorePermit,
) -> impl Stream<Item = Result<Event, Infallible>> {
    stream::unfold((published, permit, true), async |(mut published, permit, first)| {
        if !first {
            published.changed().await.ok()?;
        }
        let event = event(&published.borrow_and_update());
        Some((Ok(event), (published, permit, false)))
    })
}

fn event(published: &Published) -> Event {
    let snapshot = &published.snapshot;
    let incidents = snapshot.incidents.iter().map(|incident| BriefIncident {
        id: &incident.id,
        phase: incident.phase,
        title: &incident.title,
    });
    let brief = Brief {
        sequence: snapshot.sequence,
        overall: snapshot.overall,
        incidents: incidents.collect(),
    };
    let data = serde_json::to_string(&brief).expect("numbers, names and texts are always JSON");
    Event::default().event("snapshot").id(snapshot.sequence.to_string()).retry(RETRY).data(data)
}
