//! Is it me? What the agent's own probes say about its own line. It judges nothing else, and
//! censors nothing: the collector weighs what it is told.

use std::collections::{BTreeSet, VecDeque};

use tocsin_proto::{
    catalogue::Catalogue,
    id::{Id, TargetIndex},
    implicate::DnsPath,
    observation::Family,
    outcome::{Outcome, Phase},
    report::{Health, HealthCheck},
};

/// How many of the last probes are looked at (controls decay in probes, not in seconds).
pub const PROBES_KEPT: usize = 24;
/// Unrelated probes below which their share says nothing.
const UNRELATED_MIN: usize = 4;
/// Failures in a row, and no success, after which a family counts as down.
const FAMILY_MIN: usize = 3;

#[derive(Debug, Clone, Copy)]
struct Probed {
    target: TargetIndex,
    family: Family,
    ok: bool,
    connected: bool,
}

/// What is known of the line besides what probes tell; `None` where it was not measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Line {
    /// The byte budget thins the schedule.
    pub thinned: bool,
    /// There is a default route.
    pub route: Option<bool>,
    /// The gateway answers.
    pub gateway: Option<bool>,
    /// Nothing answers in the place of sites.
    pub no_portal: Option<bool>,
    /// The wall clock agrees with the collectors'.
    pub clock: Option<bool>,
    /// UDP reaches a collector.
    pub udp: Option<bool>,
}

/// The last probes, and what they tell of the line.
#[derive(Debug, Default)]
pub struct Judge {
    last: VecDeque<Probed>,
    resolver_ok: Option<bool>,
    independent_ok: Option<bool>,
}

impl Judge {
    /// Takes what a probe saw.
    pub fn record(&mut self, target: TargetIndex, family: Family, outcome: Outcome, dns: DnsPath) {
        let (ok, phase) = (outcome.is_answer(), outcome.phase());
        // The page came, where only the name's own servers fail.
        let connected =
            dns == DnsPath::IndependentOnly || !matches!(phase, Some(Phase::Dns | Phase::Tcp));
        if self.last.len() == PROBES_KEPT {
            self.last.pop_front();
        }
        self.last.push_back(Probed { target, family, ok, connected });
        match (phase, dns) {
            (Some(Phase::Dns), DnsPath::SystemOnly) => {
                self.resolver_ok = Some(false);
                self.independent_ok = Some(true);
            }
            (Some(Phase::Dns), _) => {}
            _ => self.resolver_ok = Some(true),
        }
    }

    /// Of the last probes behind none of the providers of the newest failure: how many there were
    /// and how many were fine.
    fn unrelated(&self, catalogue: &Catalogue) -> (usize, usize) {
        let Some(newest) = self.last.iter().rev().find(|probed| !probed.ok) else {
            return (self.last.len(), self.last.len());
        };
        let behind = providers(catalogue, newest.target);
        let unrelated = self.last.iter().filter(|probed| {
            probed.target != newest.target
                && providers(catalogue, probed.target).is_disjoint(&behind)
        });
        unrelated.fold((0, 0), |(all, fine), probed| (all + 1, fine + usize::from(probed.ok)))
    }

    /// The vector that a report carries.
    #[must_use]
    pub fn health(&self, catalogue: &Catalogue, line: Line) -> Health {
        let mut health = Health { unrelated_ok: u8::MAX, ..Health::default() };
        let (all, fine) = self.unrelated(catalogue);
        if let Some(share) = (fine * 255).checked_div(all) {
            health.unrelated_ok = u8::try_from(share).unwrap_or(u8::MAX);
        }
        if all >= UNRELATED_MIN {
            health.record(HealthCheck::Unrelated, fine * 2 >= all);
        }
        if let Some(ok) = self.resolver_ok {
            health.record(HealthCheck::SystemResolver, ok);
        }
        if let Some(ok) = self.independent_ok {
            health.record(HealthCheck::IndependentPath, ok);
        }
        for (family, check) in [(Family::V4, HealthCheck::Ipv4), (Family::V6, HealthCheck::Ipv6)] {
            let of = || self.last.iter().filter(|probed| probed.family == family);
            if of().any(|probed| probed.connected) {
                health.record(check, true);
            } else if of().count() >= FAMILY_MIN {
                health.record(check, false);
            }
        }
        let measured = [
            (HealthCheck::Route, line.route),
            (HealthCheck::Gateway, line.gateway),
            (HealthCheck::Captive, line.no_portal),
            (HealthCheck::Clock, line.clock),
            (HealthCheck::Udp, line.udp),
            (HealthCheck::Budget, Some(!line.thinned)),
        ];
        for (check, ok) in measured {
            if let Some(ok) = ok {
                health.record(check, ok);
            }
        }
        health
    }
}

/// Every provider behind a target, in whatever role and however that is known: for "unrelated",
/// a rumour is reason enough to stay away.
#[must_use]
pub fn providers(catalogue: &Catalogue, target: TargetIndex) -> BTreeSet<&Id> {
    let roles = catalogue.target(target).map(|target| target.roles.as_slice());
    roles.unwrap_or_default().iter().map(|role| &role.provider).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_well_until_something_fails() {
        let catalogue = Catalogue::builtin();
        let mut judge = Judge::default();
        for target in catalogue.targets().keys().take(30) {
            judge.record(*target, Family::V4, Outcome::Ok, DnsPath::Unconfirmed);
        }
        let health = judge.health(catalogue, Line::default());
        assert_eq!(health.unrelated_ok, 255);
        assert_eq!(health.failing, 0);
        assert_eq!(health.check(HealthCheck::Ipv4), Some(true));
        assert_eq!(health.check(HealthCheck::Ipv6), None);
    }

    #[test]
    fn a_dead_line_shows() {
        let catalogue = Catalogue::builtin();
        let mut judge = Judge::default();
        for target in catalogue.targets().keys() {
            judge.record(*target, Family::V4, Outcome::TcpTimeout, DnsPath::Unconfirmed);
        }
        let line = Line {
            thinned: true,
            route: Some(true),
            gateway: Some(false),
            udp: Some(false),
            ..Line::default()
        };
        let health = judge.health(catalogue, line);
        assert_eq!(health.check(HealthCheck::Route), Some(true));
        assert_eq!(health.check(HealthCheck::Gateway), Some(false));
        assert_eq!(health.check(HealthCheck::Captive), None);
        assert_eq!(health.check(HealthCheck::Clock), None);
        assert_eq!(health.check(HealthCheck::Udp), Some(false));
        assert_eq!(health.unrelated_ok, 0);
        assert_eq!(health.check(HealthCheck::Ipv4), Some(false));
        assert_eq!(health.check(HealthCheck::Unrelated), Some(false));
        assert_eq!(health.check(HealthCheck::Budget), Some(false));
    }
}
