//! Decisions: pure functions of state, time and event. No runtime, files, sockets, clock or
//! randomness. The same log gives the same bytes, in debug and in release: integers only, ordered
//! maps only.
//!
//! `admit` says whether a report is taken; `locate` says where it came from; what was taken becomes
//! the log, and `detector` is a function of the log: `observer` keeps one row per observer, `weigh`
//! gives each its vote, `window` counts by target, `attribute` finds the shared layer, `judge` asks
//! every condition, and `incident` holds the phases. `cells` counts for display and decides nothing; `people`
//! is the curve of what persons say, which the detector never hears of.

pub mod admit;
pub mod alert;
pub mod attribute;
pub mod cells;
pub mod detector;
pub mod fixed;
pub mod groups;
pub mod incident;
pub mod judge;
pub mod line;
pub mod locate;
mod lot;
pub mod observer;
pub mod panel;
pub mod params;
pub mod people;
pub mod plan;
pub mod second_look;
pub mod seen;
pub mod sites;
pub mod tally;
pub mod weigh;
pub mod window;
