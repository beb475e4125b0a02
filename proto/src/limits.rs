//! Every bound on the wire: its value, its unit, and why. A peer that passes one is refused with
//! a reason; nothing is allocated past one. Changing any of these is a change of the protocol.

/// Version of the protocol spoken in a session (`Hello.versions`).
pub const PROTOCOL_VERSION: u16 = 1;
/// ALPN identifier of the protocol, on QUIC and on TLS over TCP.
pub const ALPN: &[u8] = b"tocsin/1";
/// Label of the TLS exporter (RFC 8446 section 7.5) that binds `Prove` to its connection; the
/// context is empty and the output 32 bytes.
pub const EXPORTER_LABEL: &[u8] = b"EXPORTER-tocsin-session";
/// Port of a collector when its `tocsin://` line names none.
pub const PORT_DEFAULT: u16 = 4433;

/// Bytes of one frame body towards a collector. A full report is under 4 KiB; the rest is room.
pub const FRAME_TO_COLLECTOR_MAX: usize = 16 * 1024;
/// Bytes of one frame body towards an agent: a snapshot or a catalogue is the largest.
pub const FRAME_TO_AGENT_MAX: usize = 1024 * 1024;
/// Bytes of a frame's header at most: one tag, one varint of up to five bytes.
pub const FRAME_HEADER_MAX: usize = 6;

/// Protocol versions that a `Hello` may list.
pub const HELLO_VERSIONS_MAX: usize = 8;
/// Delegations in a `Greeting`: one per role, twice, so that keys can roll over.
pub const DELEGATIONS_MAX: usize = 8;
/// Bytes of one encoded delegation.
pub const DELEGATION_BYTES_MAX: usize = 64;
/// Days between now and a delegation's `not_after`, at most. A stolen transport key is useless
/// after that, whatever happens.
pub const DELEGATION_DAYS_MAX: u64 = 400;
/// Leading zero bits of work that a collector may ask for. 28 bits are about half a minute of one
/// core; an agent refuses to do more.
pub const POW_BITS_MAX: u8 = 28;

/// Observations in one report. A minute at the hard cap of 60 probes a minute fits, with asks.
pub const REPORT_OBSERVATIONS_MAX: usize = 64;
/// Bytes of an encoded report body. 64 failures with every field at its widest are under 2.5 KiB.
pub const REPORT_BYTES_MAX: usize = 4096;
/// Observations older than this when they arrive are `late`: logged and acked, but outside every
/// live window. Milliseconds.
pub const LATE_AFTER_MS: u64 = 120_000;
/// How far ahead of the collector's clock an observation may be before its report is refused.
/// Milliseconds. Agents stamp with the collector's own time, so this covers network delay only.
pub const FUTURE_TOLERANCE_MS: u64 = 30_000;
/// Oldest observation a collector takes at all: the outbox keeps a week. Milliseconds.
pub const AGE_MAX_MS: u64 = 7 * 24 * 3_600_000;
/// Reports of one observer that may be in flight, unacked. The collector stops reading beyond it.
pub const REPORTS_IN_FLIGHT_MAX: usize = 64;
/// Width of the de-duplication window behind an observer's highest sequence number. A report
/// further behind is refused as `stale_seq`: the agent sends in order, so it cannot happen to it.
pub const SEQ_WINDOW: u64 = 64;
/// Entries of `rejected` and of `later` in one ack.
pub const ACK_ENTRIES_MAX: usize = 64;
/// How long a collector may hold an ack back after the commit, so that it rides on QUIC's own.
pub const ACK_DELAY_MAX_MS: u64 = 25;

/// Bytes of a signed snapshot document.
pub const SNAPSHOT_BYTES_MAX: usize = 960 * 1024;
/// Bytes of a catalogue document.
pub const CATALOGUE_BYTES_MAX: usize = 512 * 1024;
/// Targets in a catalogue. The index travels as a varint: below 251 it is one byte.
pub const TARGETS_MAX: usize = 4096;
/// Providers in a catalogue.
pub const PROVIDERS_MAX: usize = 512;
/// Roles of one target.
pub const ROLES_MAX: usize = 8;
/// Bytes of an identifier (target, provider, organisation).
pub const ID_BYTES_MAX: usize = 64;

/// Targets in one `AskBack`.
pub const ASK_TARGETS_MAX: usize = 16;
/// Scheduled probes a minute that a `Schedule` may ask for; the agent's own caps stand above it.
pub const PROBES_PER_MINUTE_MAX: u16 = 60;
/// Seconds between reports that a `Schedule` may ask for.
pub const REPORT_INTERVAL_S_MAX: u16 = 170;

/// A peer that says nothing for this long during the handshake is dropped. Milliseconds.
pub const HANDSHAKE_TIMEOUT_MS: u64 = 10_000;
/// QUIC idle timeout of a session. Reports are the keep-alive. Milliseconds.
pub const IDLE_TIMEOUT_MS: u64 = 180_000;
/// Stream slots a collector offers. Two slots cost a `MAX_STREAMS` round per report.
pub const STREAM_SLOTS: u32 = 32;
/// QUIC stream receive window, bytes. A hostile connection costs at most its windows.
pub const STREAM_WINDOW: u32 = 16 * 1024;
/// QUIC connection receive window of a collector, bytes.
pub const CONNECTION_WINDOW: u32 = 64 * 1024;
/// Probes of one target by one agent in a minute, over all causes.
pub const TARGET_MINUTE_MAX: usize = 5;
/// Probes of one target by one agent in an hour, over all causes.
pub const TARGET_HOUR_MAX: usize = 40;
