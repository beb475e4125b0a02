//! The simulated world: a crowd of agents that run the real planner, classifier, courtesy and
//! outbox, and a collector that runs the real admission and detector, on a virtual clock.
//!
//! What is left out is what has no say in a verdict: sockets, signatures, disks. Everything is a
//! function of a printed seed; the same seed gives the same bytes.
//!
//! ```text
//! scenario (what is broken, for whom, when) -> truth -> play: agents -> admission -> detector -> verdict
//! world (who lives where, with which line)  -/
//! ```

pub mod dice;
pub mod play;
pub mod quiet;
pub mod scenario;
pub mod scorecard;
pub mod standard;
pub mod truth;
pub mod verdict;
pub mod world;

/// Version of the simulated world: plays in another are not compared.
pub const VERSION: u16 = 3;
