//! Quiet days: nothing of the world is broken, and lines are as they are. Whatever is confirmed
//! here is false.

use serde::{Deserialize, Serialize};
use tocsin_collector::engine::detector::Subject;
use tocsin_proto::{catalogue::Catalogue, incident::Phase, time::Timestamp};

use super::{
    play::{Setup, play},
    truth::Truth,
    world::World,
};

/// What quiet days came to.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Quiet {
    /// Days played.
    pub days: u64,
    /// Observers in the world.
    pub observers: usize,
    /// The seed.
    pub seed: u64,
    /// Confirmations of a provider or a site: each of them is false.
    pub confirmed: Vec<String>,
    /// Suspicions opened.
    pub suspected: usize,
    /// Asks of an agent and day.
    pub asks_per_agent_day: f64,
    /// Probes of an agent and day.
    pub probes_per_agent_day: f64,
    /// Megabytes of an agent and day, probes and reports.
    pub megabytes_per_agent_day: f64,
}

/// Plays so many quiet days.
#[must_use]
pub fn run(days: u64, observers: usize, seed: u64, asks_back: bool) -> Quiet {
    let world = World::new(Catalogue::builtin().clone(), observers, seed);
    let start = Timestamp::from_s(1_790_000_000);
    let end = start.plus_ms(days * 86_400_000);
    let setup = Setup { asks_back, ..Setup::new(start, end, end) };
    let (mut suspected, mut confirmed) = (0, Vec::new());
    let played = play(&world, &Truth::quiet(), setup, |change, detector| {
        match change.phase {
            Phase::Suspected => suspected += 1,
            Phase::Confirmed => {
                let incidents = detector.incidents();
                let of = incidents.iter().find(|shown| shown.incident.id == change.incident);
                let what = of.map_or("?".to_owned(), |shown| match shown.subject {
                    Subject::Entity(_) => format!("{} {:?}", change.incident, shown.incident.reach),
                    Subject::Site(_) | Subject::Group(_) => change.incident.clone(),
                });
                confirmed.push(what);
            }
            _ => {}
        }
        true
    });
    let per = |count: u64| count as f64 / (days.max(1) as f64 * observers.max(1) as f64);
    Quiet {
        days,
        observers,
        seed,
        confirmed,
        suspected,
        asks_per_agent_day: per(played.asks),
        probes_per_agent_day: per(played.probes),
        megabytes_per_agent_day: per(played.bytes + played.report_bytes) / 1e6,
    }
}
