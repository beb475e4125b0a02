//! C5 over a panel's own answers: whether it is the suspect that its failures are of.

use std::collections::{BTreeMap, BTreeSet};

use tocsin_proto::{id::TargetIndex, implicate::Layer, incident::Reason, time::Timestamp};

use super::{
    super::{
        attribute::class,
        fixed::{ONE, Ppm, divergence_q16, median, percent, scale, share},
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

impl Panel {
    /// The suspect that makes this one's failures go away where it is absent, once a round has been
    /// answered.
    #[must_use]
    pub fn explained_by(&self, p: &Params, plan: &Plan, now: Timestamp) -> Option<EntityIndex> {
        let answered = self.rounds > 1 || self.is_due(p, now);
        answered.then(|| self.rival(p, plan, &self.counts().0)).flatten()
    }

    /// Answers and failures by site, with the zones that fail, and by control.
    pub(super) fn counts(&self) -> (Sites, BTreeMap<TargetIndex, (i64, i64)>) {
        let mut sites: Sites = BTreeMap::new();
        let mut controls: BTreeMap<TargetIndex, (i64, i64)> = BTreeMap::new();
        for member in self.members.values() {
            // Whose controls fail has a line that fails, and tells of nothing else.
            let (controls_seen, bad) = Member::tally(&member.controls);
            if 3 * bad > controls_seen {
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
            for answer in &member.controls {
                let Some(failed) = answer.failed else { continue };
                let (n, f) = controls.entry(answer.target).or_default();
                *n += 1;
                *f += i64::from(failed);
            }
        }
        (sites, controls)
    }

    /// C5 over the panel's own answers: the suspect's sites fail, the controls do not, and where a
    /// rival is absent they fail as well.
    pub(super) fn attributed(&self, p: &Params, plan: &Plan) -> (Reason, Ppm, Ppm) {
        let (sites, controls) = self.counts();
        let sum = |values: &mut dyn Iterator<Item = (i64, i64)>| {
            values.fold((0, 0), |(n, f), (more, failed)| (n + more, f + failed))
        };
        let (n, f) = sum(&mut sites.values().map(|(n, f, _)| (*n, *f)));
        let (control_n, control_f) = sum(&mut controls.values().copied());
        let rate = share(f, n);
        let control_rate = share(control_f, control_n);
        let middle = median(controls.values().map(|(n, f)| share(*f, *n)).collect()).unwrap_or(0);
        let mean_answers = n / (sites.len() as i64).max(1);
        let limit = (rate / 2).max(50_000);
        let elevated = sites
            .values()
            .filter(|(n, f, zones)| {
                // In halves, so that two and a half failures can be asked for.
                2 * f >= 5.min(mean_answers) && share(*f, *n) >= limit && zones.len() >= 2
            })
            .count();
        let needed = sites.len().min(3.max((sites.len() * 20).div_ceil(100)));
        let contrast = rate >= 40_000
            && (rate >= 3 * middle || (rate > ONE / 2 && rate > 2 * middle))
            && rate >= control_rate * 9 / 5
            && divergence_q16(rate, control_rate.max(p.background / 2)) * n >= p.contrast_bits_q16;
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
                "4 %, three times the controls' median, {needed} sites hit, and no rival that explains it"
            ),
        };
        (reason, rate, control_rate)
    }

    /// A rival whose absence makes the failures go away: by more than chance, and by more than which
    /// sites happen to be behind it.
    pub(super) fn rival(&self, p: &Params, plan: &Plan, sites: &Sites) -> Option<EntityIndex> {
        let own: Layer = plan.entity(self.entity).layer;
        plan.entities().map(|(entity, _)| entity).find(|rival| {
            let other = plan.entity(*rival).layer;
            // What is in front of a site renews its certificates.
            let renews = own == Layer::Issuer && matches!(other, Layer::Edge | Layer::Hosting);
            if *rival == self.entity || !(renews || class(other) == class(own)) {
                return false;
            }
            let (mut with, mut without): (Vec<_>, Vec<_>) = (Vec::new(), Vec::new());
            for (target, (n, f, _)) in sites {
                let behind = plan.behind(*target).is_some_and(|b| b.has(*rival));
                if behind { &mut with } else { &mut without }.push((*n, *f));
            }
            let sum = |of: &[(i64, i64)]| {
                of.iter().fold((0, 0), |(n, f), (more, failed)| (n + more, f + failed))
            };
            let ((n, f), (n_without, f_without)) = (sum(&with), sum(&without));
            let (rate, rate_without) = (share(f, n), share(f_without, n_without));
            // Answers of one site are not so many sites: where some fail and some do not, the rest may
            // be fine by luck.
            let bits = share(divergence_q16(rate_without, rate) * n_without, dispersion(&with));
            with.len() >= 3
                && n >= 8
                && n_without >= 8
                && rate_without < scale(rate, 400_000)
                && bits >= p.rival_bits_q16
        })
    }
}
