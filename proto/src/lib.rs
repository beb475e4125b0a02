//! The words both sides of Tocsin speak. No IO, no clock, no runtime.
//!
//! An **agent** probes **targets** and says what it saw in **observations**. A minute of them is a
//! **report**, signed by the agent's **observer key** ([`report`], [`sign`]). A session with a
//! **collector** is one stream of frames ([`wire`], [`message`]):
//!
//! ```text
//! agent                                   collector
//! Hello                    ->
//!                          <-             Greeting { delegations, nonce, ... }
//! Prove { observer, ... }  ->
//!                          <-             Ready { committed_seq, schedule }
//! Report, Report, ...      ->
//!                          <-             Ack { committed_seq, ... }   after the commit
//! ```
//!
//! The agent pins an **operator key** ([`mod@line`]); the Greeting must show that the operator has
//! delegated the TLS key in use ([`delegation`]), before the agent says who it is. Which layers an
//! outcome blames is one table ([`implicate`]), and whose fault a response is another ([`rules`]).
//! What readers get is an [`incident`] in a signed [`snapshot`]. Every bound is in [`limits`].
//!
//! `docs/PROTOCOL.md` has the whole protocol, for those who write another implementation.

pub mod bounded;
pub mod catalogue;
pub mod delegation;
pub mod human;
pub mod id;
pub mod implicate;
pub mod incident;
pub mod limits;
pub mod line;
pub mod message;
pub mod observation;
pub mod outcome;
pub mod report;
pub mod rules;
pub mod sign;
pub mod snapshot;
pub mod time;
pub mod wire;
