//! Agents come in here: one QUIC endpoint per address, a TCP listener on its port for those whose
//! UDP is blocked, one session per connection.
//!
//! Everything that a peer can use up is bounded before it is accepted: connections at once and per
//! prefix, handshakes, streams, windows, frames, reports in flight, and the time until it has proved
//! itself.

pub mod endpoint;
pub mod gate;
pub mod living;
pub mod prefix;
pub mod quic;
pub mod session;
pub mod tcp;
mod tls;
