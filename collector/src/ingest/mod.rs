//! Agents come in here: one QUIC endpoint per address, one session per connection.
//!
//! Everything that a peer can use up is bounded before it is accepted: connections at once and per
//! prefix, streams, windows, frames, reports in flight, and the time until it has proved itself.

pub mod endpoint;
pub mod living;
pub mod prefix;
pub mod session;
