//! What stands outside the programs to try them: a small internet on loopback, the lab that runs
//! a crowd over it, a simulated world on a virtual clock, and helpers of the end-to-end suites. The only crate that may import both
//! agent and collector.

pub mod internet;
pub mod lab;
pub mod peer;
pub mod relay;
pub mod sim;
pub mod streets;
