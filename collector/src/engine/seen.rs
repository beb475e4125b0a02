//! Who could tell of what is said, and who of them saw it: a verdict's denominators, which stay with it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tocsin_proto::id::{Country, TargetIndex};

use super::{fixed::ONE, observer::Standing, window::Counts};

/// Failing of observed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Of {
    /// Those whose evidence counts.
    pub observed: u32,
    /// Those of them that see the failure.
    pub failing: u32,
}

impl Of {
    fn add(&mut self, failing: bool) {
        self.observed += 1;
        self.failing += u32::from(failing);
    }
}

/// By site, country and network. Where observers were asked these are they and their answers; else
/// everybody whose scheduled probes can tell, and of sites, which keep no list of them, rounded votes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SeenBy {
    /// Answers, or votes, by site.
    pub targets: BTreeMap<TargetIndex, Of>,
    /// Observers by country.
    pub countries: BTreeMap<Country, Of>,
    /// Observers by network.
    pub networks: BTreeMap<u32, Of>,
}

impl SeenBy {
    /// Counts an observer.
    pub fn observer(&mut self, country: Country, asn: u32, failing: bool) {
        self.countries.entry(country).or_default().add(failing);
        self.networks.entry(asn).or_default().add(failing);
    }

    /// Counts observers, each with whether it sees it.
    pub fn observers(&mut self, observers: impl Iterator<Item = (Standing, bool)>) {
        observers.for_each(|(standing, failing)| {
            self.observer(standing.country, standing.asn, failing);
        });
    }

    /// Counts an answer.
    pub fn answer(&mut self, target: TargetIndex, failing: bool) {
        self.targets.entry(target).or_default().add(failing);
    }

    /// Takes a site's votes, `failing` being those that count.
    pub fn votes(&mut self, target: TargetIndex, counts: &Counts, failing: i64) {
        let rounded = |weight: i64| u32::try_from((weight + ONE / 2) / ONE).unwrap_or(u32::MAX);
        let of = Of { observed: rounded(counts.observed), failing: rounded(failing) };
        self.targets.insert(target, of);
    }
}
