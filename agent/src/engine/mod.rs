//! Decisions of the agent: pure functions of (state, now, event). No tokio, file, socket, clock,
//! or randomness of the system in here.

pub mod address;
pub mod classify;
pub mod core;
pub mod courtesy;
pub mod diagnose;
pub mod judge;
pub mod outbox;
pub mod planner;
pub mod usual;
