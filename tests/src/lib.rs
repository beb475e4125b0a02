//! x
pub mod internet;
