//! C5 over a panel's own answers: whether it is the suspect that its failures are of.

use std::collections::{BTreeMap, BTreeSet};

use tocsin_proto::{id::TargetIndex, implicate::Layer, incident::Reason, time::Timestamp};

use super::{
    super::{
        attribute::class,
        fixed::{ONE, Ppm, apart_q16, divergence_q16, median, percent, scale, share},
        params::Params,
        plan::{EntityIndex, Plan},
    },
    Panel,
    member::Member,
};

/// Answers, failures, and the zones that fail, by site.
pub(super) type Sites = BTreeMap<TargetIndex, (i64, i64, BTreeSet<u8>)>;

/// How much further apart the sites' failure rates lie than their answers' number explains, in
/// millionths, at least one: Pearson's chi-squared over its degrees of freedom, as quasi-likelihood takes
/// it (McCullagh and Nelder, Generalized Linear Models, 4.5).
pub(super) fn dispersion(sites: &[(i64, i64)]) -> Ppm {
    let (n, f) = sites.iter().fold((0, 0), |(n, f), (more, failed)| (n + more, f + failed));
    if f == 0 || f == n {
        return ONE;
    }
    // Of (f_i - n_i f/n)^2 / (n_i f/n (1 - f/n)), with numerator and denominator times n^2.
    let terms = sites.iter().map(|(of, failed)| {
        let apart = i128::from(failed * n - of * f);
        apart * apart * i128::from(ONE) / i128::from(of * f * (n - f)).max(1)
    });
    let freedom = (sites.len() as i128 - 1).max(1);
    i64::try_from(terms.sum::<i128>() / freedom).unwrap_or(i64::MAX).max(ONE)
}

/// Rivals that are named as ruled out at most.
const RULED_OUT_MAX: usize = 6;

/// Another that the same failures may be of: how they are where it is behind the sites, and where not.
#[derive(Debug, Clone, Copy)]
struct Rival {
    entity: EntityIndex,
    answers: i64,
    rate: Ppm,
    rate_without: Ppm,
    /// Below which rate without it, it explains them.
    limit: Ppm,
    /// Whether the difference is more than chance.
    enough: bool,
}

impl Rival {
    /// Whether its absence makes the failures go away.
    const fn explains(&self) -> bool {
        self.rate_without < self.limit && self.enough
    }

    /// Whether they fail about as much without it.
    const fn is_ruled_out(&self) -> bool {
        self.rate_without >= self.limit
    }
}

fn sum(of: impl Iterator<Item = (i64, i64)>) -> (i64, i64) {
    of.fold((0, 0), |(n, f), (more, failed)| (n + more, f + failed))
}

impl Panel {
    /// The suspect that makes this one's failures go away where it is absent, once a round has been
    /// answered.
    #[must_use]
    pub fn explained_by(&self, p: &Params, plan: &Plan, now: Timestamp) -> Option<EntityIndex> {
        let answered = self.rounds > 1 || self.is_due(p, now);
        answered.then(|| self.rival(p, plan, &self.counts(p).0)).flatten()
    }

    /// Answers and failures by site, with the zones that fail, and by control.
    pub(super) fn counts(&self, p: &Params) -> (Sites, BTreeMap<TargetIndex, (i64, i64)>) {
        let mut sites: Sites = BTreeMap::new();
        let mut controls: BTreeMap<TargetIndex, (i64, i64)> = BTreeMap::new();
        for member in self.members.values() {
            // Whose controls fail has a line that fails, and tells of nothing else. A control is judged by
            // the others alone: to pick those who are well by it would make it look well.
            let (controls_seen, bad) = Member::tally(&member.controls);
            for answer in &member.controls {
                let Some(failed) = answer.failed else { continue };
                if p.is_line_fine(bad - usize::from(failed), controls_seen - 1) {
                    let (n, f) = controls.entry(answer.target).or_default();
                    *n += 1;
                    *f += i64::from(failed);
                }
            }
            if !p.is_line_fine(bad, controls_seen) {
                continue;
            }
            for answer in &member.sites {
                let Some(failed) = answer.failed else { continue };
                let (n, f, zones) = sites.entry(answer.target).or_default();
                *n += 1;
                *f += i64::from(failed);
                if failed {
                    zones.insert(member.zone);
                }
            }
        }
        (sites, controls)
    }

    /// The rate at which the controls fail, those of members with a sound line.
    pub(super) fn usual(&self, p: &Params) -> Ppm {
        let (n, f) = sum(self.counts(p).1.values().copied());
        share(f, n)
    }

    /// C5 over the panel's own answers: the suspect's sites fail, the controls do not, and where a
    /// rival is absent they fail as well.
    pub(super) fn attributed(&self, p: &Params, plan: &Plan) -> (Reason, Ppm, Ppm) {
        let (sites, controls) = self.counts(p);
        let (n, f) = sum(sites.values().map(|(n, f, _)| (*n, *f)));
        let (control_n, control_f) = sum(controls.values().copied());
        let rate = share(f, n);
        let control_rate = share(control_f, control_n);
        let middle = median(controls.values().map(|(n, f)| share(*f, *n)).collect()).unwrap_or(0);
        let mean_answers = n / (sites.len() as i64).max(1);
        let limit = (rate / 2).max(p.elevated_rate);
        let elevated = sites
            .values()
            .filter(|(n, f, zones)| {
                (f * ONE >= p.elevated_votes.min(mean_answers * ONE / 2))
                    && share(*f, *n) >= limit
                    && zones.len() >= 2
            })
            .count();
        let needed = sites.len().min(p.elevated_of(sites.len()));
        let contrast = rate >= p.rate_floor
            && p.stands_out(rate, middle)
            && rate >= scale(control_rate, p.contrast_mean_times)
            && divergence_q16(rate, control_rate.max(p.background / 2)) * n >= p.contrast_bits_q16
            && apart_q16((f, n), (control_f, control_n)) >= p.panel_apart_bits_q16;
        let rival = self.rival(p, plan, &sites);
        let held = contrast && elevated >= needed && elevated > 0 && rival.is_none();
        let found = match rival {
            Some(rival) => format!(
                "its sites fail at {} where {} is behind them too, and not where it is not",
                percent(rate),
                plan.entity(rival).provider
            ),
            None => format!(
                "its asked sites fail at {}, the controls at {}; {elevated} of {} sites are hit",
                percent(rate),
                percent(control_rate),
                sites.len()
            ),
        };
        let reason = Reason {
            rule: "c5.attributed".to_owned(),
            held,
            found,
            needed: format!(
                "{}, three times the controls' median, {needed} sites hit, and no rival that explains it",
                percent(p.rate_floor)
            ),
        };
        (reason, rate, control_rate)
    }

    /// A rival whose absence makes the failures go away: by more than chance, and by more than which
    /// sites happen to be behind it.
    pub(super) fn rival(&self, p: &Params, plan: &Plan, sites: &Sites) -> Option<EntityIndex> {
        self.rivals(p, plan, sites).find(Rival::explains).map(|rival| rival.entity)
    }

    /// What else the failures could be of, and why it is not that.
    pub(super) fn ruled_out(&self, p: &Params, plan: &Plan) -> Vec<Reason> {
        let (sites, controls) = self.counts(p);
        let mut rivals: Vec<Rival> =
            self.rivals(p, plan, &sites).filter(Rival::is_ruled_out).collect();
        rivals.sort_by_key(|rival| (std::cmp::Reverse(rival.answers), rival.entity));
        let (n, f) = sum(controls.values().copied());
        let everything = Reason {
            rule: "not.everything".to_owned(),
            held: true,
            found: format!(
                "{f} of {n} answers of {} sites that have nothing to do with it failed",
                controls.len()
            ),
            needed: "as many failures there, if it were the observers or the whole Internet"
                .to_owned(),
        };
        let of_rival = |rival: &Rival| Reason {
            rule: plan.entity(rival.entity).not(),
            held: true,
            found: format!(
                "where it is not behind them its sites fail too: {}, and {} where it is",
                percent(rival.rate_without),
                percent(rival.rate)
            ),
            needed: "sites that are well without it".to_owned(),
        };
        [everything].into_iter().chain(rivals.iter().take(RULED_OUT_MAX).map(of_rival)).collect()
    }

    /// Who else may be behind the sites' failures, as far as the sites can tell them apart.
    fn rivals<'a>(
        &self,
        p: &'a Params,
        plan: &'a Plan,
        sites: &'a Sites,
    ) -> impl Iterator<Item = Rival> + use<'a> {
        let own: Layer = plan.entity(self.entity).layer;
        let entity = self.entity;
        plan.entities().filter_map(move |(rival, of)| {
            // What is in front of a site renews its certificates.
            let renews = own == Layer::Issuer && matches!(of.layer, Layer::Edge | Layer::Hosting);
            if rival == entity || !(renews || class(of.layer) == class(own)) {
                return None;
            }
            let (mut with, mut without): (Vec<_>, Vec<_>) = (Vec::new(), Vec::new());
            for (target, (n, f, _)) in sites {
                let behind = plan.behind(*target).is_some_and(|b| b.has(rival));
                if behind { &mut with } else { &mut without }.push((*n, *f));
            }
            let (n, f) = sum(with.iter().copied());
            let (n_without, f_without) = sum(without.iter().copied());
            let (rate, rate_without) = (share(f, n), share(f_without, n_without));
            // Answers of one site are not so many sites: where some fail and some do not, the rest may
            // be fine by luck.
            let bits = share(divergence_q16(rate_without, rate) * n_without, dispersion(&with));
            let comparable = with.len() >= p.rival_sites && n.min(n_without) >= p.rival_answers;
            let enough = bits >= p.rival_bits_q16;
            let limit = scale(rate, p.rival_part);
            comparable.then_some(Rival {
                entity: rival,
                answers: n,
                rate,
                rate_without,
                limit,
                enough,
            })
        })
    }
}
