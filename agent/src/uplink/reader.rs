//! What a collector publishes, read without saying who we are: no key is shown, so nothing is counted as another
//! session of this observer, and nobody learns who asked.

use std::{io, time::Duration};

use tocsin_proto::{
    id::Country, limits::FRAME_TO_AGENT_MAX, line::CollectorLine, message::SignedSnapshot,
    wire::Deframer,
};
use tokio::time::timeout;

use super::{
    READ_BYTES, UplinkError,
    dial::Dialer,
    session::{Output, Session, Setup},
    way::{Pace, Race, Transport, Way},
};
use crate::clock::Clock;

/// For a goodbye to leave.
const GOODBYE_WITHIN: Duration = Duration::from_millis(100);

/// What was read.
#[derive(Debug, Clone)]
pub struct News {
    /// The snapshot, verified under the operator's feed key.
    pub signed: SignedSnapshot,
    /// Its sequence.
    pub sequence: u64,
    /// Serial of the feed's delegation.
    pub feed_serial: u64,
    /// Serial of the transport key's delegation.
    pub transport_serial: u64,
    /// The collector's clock minus ours, milliseconds.
    pub offset_ms: i64,
    /// Where it sees us.
    pub country: Country,
    /// Our network, as it sees us; 0 when unknown.
    pub asn: u32,
    /// Which way it was reached.
    pub way: Way,
}

/// The highest serials seen of an operator's delegations.
#[derive(Debug, Clone, Copy, Default)]
pub struct Serials {
    /// Of the transport key.
    pub transport: u64,
    /// Of the feed key.
    pub feed: u64,
}

/// Who reads, and how.
#[derive(Debug)]
pub struct Reader<'a> {
    /// Connects.
    pub dialer: &'a Dialer,
    /// Over what.
    pub transport: Transport,
    /// How long is waited before another way is tried.
    pub pace: Pace,
    /// The time.
    pub clock: Clock,
    /// Build of the probing code.
    pub probe_core: u16,
    /// Version of the catalogue in use.
    pub catalogue_version: u32,
}

impl Reader<'_> {
    /// Connects, reads the newest snapshot, and leaves. The caller keeps the deadline.
    ///
    /// # Errors
    /// When the collector is not reached, is not the operator's, or its snapshot is not signed as it must be.
    pub async fn read(&self, line: &CollectorLine, seen: Serials) -> Result<News, UplinkError> {
        let race =
            Race::new(&line.addresses, self.transport.vias(), &Default::default(), self.pace);
        let mut link = self.dialer.race(race).await?;
        let (mut session, hello) = Session::new(Setup {
            operator: line.operator,
            transport: link.transport,
            exporter: link.exporter,
            serial_seen: seen.transport,
            feed_serial_seen: seen.feed,
            probe_core: self.probe_core,
            catalogue_version: self.catalogue_version,
            reads: true,
        });
        let write = |error: io::Error| UplinkError::Write(error);
        link.write(&hello.to_bytes()).await.map_err(write)?;
        let mut deframer = Deframer::new(FRAME_TO_AGENT_MAX);
        let mut buffer = vec![0; READ_BYTES];
        let mut greeted = None;
        loop {
            let length = link.read(&mut buffer).await.map_err(UplinkError::Read)?;
            if length == 0 {
                return Err(UplinkError::Ended);
            }
            deframer.push(buffer.get(..length).unwrap_or_default());
            while let Some(frame) = deframer.next_frame()? {
                for output in session.receive(self.clock.now(), &frame)? {
                    match output {
                        Output::Greeted { offset_ms, country, asn, serial } => {
                            greeted = Some((offset_ms, country, asn, serial));
                            let query = session.query();
                            link.write(&query.to_bytes()).await.map_err(write)?;
                        }
                        Output::Snapshot { signed, sequence, serial: feed_serial } => {
                            let Some((offset_ms, country, asn, transport_serial)) = greeted else {
                                continue;
                            };
                            let way = link.way;
                            // Whoever waits for the news does not wait long for the goodbye.
                            drop(timeout(GOODBYE_WITHIN, link.close()).await);
                            return Ok(News {
                                signed,
                                sequence,
                                feed_serial,
                                transport_serial,
                                offset_ms,
                                country,
                                asn,
                                way,
                            });
                        }
                        _ => {}
                    }
                }
            }
        }
    }
}
