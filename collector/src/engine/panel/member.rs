//! One who was asked, and its vote.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use tocsin_proto::{
    id::{Country, TargetIndex},
    observation::Family,
};

use super::super::{
    fixed::{Ppm, share},
    params::Params,
};

/// A question, and what came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Answer {
    pub(super) target: TargetIndex,
    /// `None` until it came; else whether it failed in a way that implicates the suspect.
    pub(super) failed: Option<bool>,
    /// Over which family it came.
    pub(super) family: Family,
}

/// Where it stands, what its vote weighs, and its answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Member {
    pub(super) zone: u8,
    pub(super) country: Country,
    pub(super) weight: i64,
    pub(super) slot: u64,
    pub(super) asn: u32,
    pub(super) version: u16,
    pub(super) resolver: u8,
    pub(super) sites: Vec<Answer>,
    pub(super) controls: Vec<Answer>,
}

impl Member {
    pub(super) fn tally(answers: &[Answer]) -> (usize, usize) {
        let failed = answers.iter().filter(|answer| answer.failed == Some(true)).count();
        (answers.iter().filter(|answer| answer.failed.is_some()).count(), failed)
    }

    /// Whether it saw it over one family alone: `None` where it has not looked at enough, or its
    /// controls do not vouch for it there.
    pub(super) fn vote_over(&self, p: &Params, usual: Ppm, family: Family) -> Option<bool> {
        let of = |answers: &[Answer]| -> Vec<Answer> {
            answers.iter().filter(|a| a.family == family && a.failed.is_some()).cloned().collect()
        };
        let (sites, controls) = (of(&self.sites), of(&self.controls));
        let (_, bad) = Self::tally(&controls);
        let more = Self::is_more(&sites, usual);
        let failing = sites.iter().filter(|a| a.failed == Some(true)).map(|a| a.target);
        let failing = failing.collect::<BTreeSet<_>>().len();
        let fine = controls.len() > bad && p.is_line_fine(bad, controls.len());
        (fine && sites.len() > p.panel_yes_sites).then_some(more && failing >= p.panel_yes_sites)
    }

    /// Whether they fail at twice the rate of what has nothing to do with it: where everything fails now and
    /// then, who looks often enough meets some failures anywhere, and its own few controls are too few to tell.
    fn is_more(sites: &[Answer], usual: Ppm) -> bool {
        let (answered, failed) = Self::tally(sites);
        share(failed as i64, answered as i64) >= 2 * usual
    }

    /// Its vote: `None` while its controls do not vouch for it. A no counts only once everything
    /// has been answered or is due. `usual` is the rate at which the controls of all fail.
    pub(super) fn vote(&self, p: &Params, usual: Ppm, due: bool) -> Option<bool> {
        let (sites, _) = Self::tally(&self.sites);
        // Distinct sites: one that is asked again and fails again is no second one.
        let failing = self.sites.iter().filter(|a| a.failed == Some(true)).map(|a| a.target);
        let failing = failing.collect::<BTreeSet<_>>().len();
        let (controls, bad) = Self::tally(&self.controls);
        let fine = controls - bad;
        // Of a tenth that fails two are met in three rounds, by seven of ten.
        let needed = p.panel_yes_sites + usize::from(sites > 3 * p.panel_sites);
        // More failing among the suspect's sites than twice the share among the controls.
        let stands_out = failing * controls >= 2 * bad * sites;
        let more = stands_out && Self::is_more(&self.sites, usual);
        if failing >= needed && fine >= p.panel_controls_ok && more {
            return Some(true);
        }
        let complete = due || (sites == self.sites.len() && controls == self.controls.len());
        (complete && sites > 0 && fine >= p.panel_controls_ok && p.is_line_fine(bad, controls))
            .then_some(false)
    }
}
