//! Which shared layer is at fault: greedy cover of the failing targets, hit ratio first, then
//! likelihood, with contrast tests against everything that does not depend on the suspect (after
//! SCORE: Kompella et al., IP Fault Localization Via Risk Modeling, NSDI 2005).
//!
//! That is what defeats the trap of the provider behind most sites: blamed is who fails while the
//! others do not, not who is everywhere.

use std::collections::{BTreeMap, BTreeSet};

use tocsin_proto::{id::TargetIndex, implicate::Layer};

use super::{
    fixed::{Ppm, divergence_q16, median, percent, scale},
    params::Params,
    plan::{EntityIndex, Plan},
    window::{Counts, Windows},
};

/// A failure class of a target that is already explained: names by one culprit and connections by
/// another are apart, but an edge and what is nested in it fail alike.
pub type Explained = BTreeSet<(TargetIndex, Class)>;

/// Classes of failure that tell roles apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Names.
    Dns,
    /// Certificates.
    Certificate,
    /// Everything else.
    Answer,
}

impl Class {
    const ALL: [Self; 3] = [Self::Dns, Self::Certificate, Self::Answer];
}

/// The class in which a role fails.
#[must_use]
pub const fn class(layer: Layer) -> Class {
    match layer {
        Layer::Dns | Layer::Tld | Layer::Resolver => Class::Dns,
        Layer::Issuer => Class::Certificate,
        _ => Class::Answer,
    }
}

/// A suspect that passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pick {
    /// Who.
    pub entity: EntityIndex,
    /// Mean failure rate over its unexplained targets.
    pub rate: Ppm,
}

/// Why a suspect did not pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejected {
    /// Fewer than two targets that nothing else explains.
    Explained,
    /// Its targets do not fail more than those that do not depend on it.
    Contrast {
        /// Its mean rate.
        rate: Ppm,
        /// What it would have needed.
        needed: Ppm,
    },
    /// So few probes can differ so much by chance.
    Chance {
        /// Its mean rate.
        rate: Ppm,
        /// The rest's.
        usual: Ppm,
    },
    /// It is nested in a culprit and shows too little of its own.
    Nested {
        /// The rate of its own.
        rate: Ppm,
    },
    /// Too few of its targets are elevated.
    Few {
        /// How many are.
        elevated: usize,
        /// How many were needed.
        needed: usize,
    },
    /// Another explains the failures better.
    Outscored {
        /// Who.
        by: EntityIndex,
    },
}

impl Rejected {
    /// In words, for the incident's page.
    #[must_use]
    pub fn words(self, plan: &Plan) -> String {
        match self {
            Self::Explained => "its failing sites are explained by what is confirmed".to_owned(),
            Self::Contrast { rate, needed } => format!(
                "its sites fail at {}, and {} was needed to stand out from the rest",
                percent(rate),
                percent(needed)
            ),
            Self::Chance { rate, usual } => format!(
                "its sites fail at {} and all others at {}, which so few probes may by chance",
                percent(rate),
                percent(usual)
            ),
            Self::Nested { rate } => {
                format!("its own sites, apart from the culprit's, fail at {} only", percent(rate))
            }
            Self::Few { elevated, needed } => {
                format!("{elevated} of its sites fail, and {needed} were needed")
            }
            Self::Outscored { by } => {
                let other = plan.entity(by);
                format!("{} explains the failures better", other.provider)
            }
        }
    }
}

/// Failing or not, over the targets of one suspect.
#[must_use]
pub fn mean_rate(plan: &Plan, windows: &Windows, entity: EntityIndex) -> Ppm {
    let suspect = plan.entity(entity);
    let rates: Vec<Ppm> = suspect
        .targets
        .iter()
        .map(|target| windows.of(*target))
        .filter(|counts| counts.observed > 0)
        .map(|counts| counts.rate(suspect.layer))
        .collect();
    mean(&rates)
}

fn mean(rates: &[Ppm]) -> Ppm {
    match i64::try_from(rates.len()) {
        Ok(count) if count > 0 => rates.iter().sum::<i64>() / count,
        _ => 0,
    }
}

struct Evidence {
    rate: Ppm,
    score: i64,
}

/// Tests one suspect against everything else. `dead` are sites with an incident of their own.
fn test(
    p: &Params,
    plan: &Plan,
    windows: &Windows,
    entity: EntityIndex,
    regional: Option<&BTreeSet<u8>>,
    explained: &Explained,
    dead: &BTreeSet<TargetIndex>,
) -> Result<Evidence, Rejected> {
    // What fails in a region is looked at where it fails.
    let zones_min = if regional.is_some() { 1 } else { 2 };
    let here = |zone: u8| regional.is_none_or(|zones| zones.contains(&zone));
    let of = |target: TargetIndex| match regional {
        None => windows.of(target),
        Some(_) => {
            let mut sum = Counts::default();
            windows.by_zone(target).filter(|(z, _)| here(*z)).for_each(|(_, c)| sum.add(&c));
            sum
        }
    };
    let suspect = plan.entity(entity);
    let layer = suspect.layer;
    let all = suspect.targets.len();
    let few = p.elevated_of(all);
    let own_dead = suspect.targets.iter().filter(|target| dead.contains(target)).count();
    let mut targets: Vec<_> = suspect
        .targets
        .iter()
        .filter(|target| !explained.contains(&(**target, class(layer))))
        .filter(|target| own_dead >= few || !dead.contains(target))
        .map(|target| (*target, of(*target)))
        .collect();
    let overlap = suspect.targets.iter().any(|t| explained.contains(&(*t, class(layer))));
    targets.retain(|(_, counts)| counts.observed > 0);
    if targets.len() < 2 {
        return Err(Rejected::Explained);
    }
    let rates: Vec<Ppm> = targets.iter().map(|(_, counts)| counts.rate(layer)).collect();
    let rate = mean(&rates);
    let rest: Vec<Ppm> = plan
        .targets()
        .filter(|(target, behind)| {
            !behind.has(entity)
                && Class::ALL.iter().all(|class| !explained.contains(&(*target, *class)))
        })
        .map(|(target, _)| of(target))
        .filter(|counts| counts.observed > 0)
        .map(|counts| counts.failure_rate())
        .collect();
    let enough = rest.len() >= p.rest_min;
    let rest_median =
        if enough { median(rest.clone()).unwrap_or(p.background) } else { p.background };
    let needed = p.rate_floor.max(scale(rest_median, p.contrast_times));
    if rate < p.rate_floor || !p.stands_out(rate, rest_median) {
        return Err(Rejected::Contrast { rate, needed });
    }
    let over_mean = scale(mean(&rest), p.contrast_mean_times);
    if enough && rate < over_mean {
        return Err(Rejected::Contrast { rate, needed: over_mean });
    }
    let votes: i64 = targets.iter().map(|(_, counts)| counts.observed).sum();
    let usual = if enough { mean(&rest).max(p.background / 2) } else { p.background };
    let bits = scale(votes, divergence_q16(rate, usual));
    if rate <= usual || bits < p.contrast_bits_q16 {
        return Err(Rejected::Chance { rate, usual });
    }
    if overlap && rate < p.nested_min {
        return Err(Rejected::Nested { rate });
    }
    let limit = (rate / 2).max(p.elevated_rate);
    let elevated = targets
        .iter()
        .filter(|(target, counts)| {
            counts.implicating(layer) >= p.elevated_votes
                && counts.rate(layer) >= limit
                && windows
                    .by_zone(*target)
                    .filter(|(zone, c)| here(*zone) && c.implicating(layer) > 0)
                    .count()
                    >= zones_min
        })
        .count();
    // A top-level domain that fails takes nearly all its names along; a provider of names that nobody lists takes
    // some of many domains.
    let few = if layer == Layer::Tld { few.max(all.div_ceil(2)) } else { few };
    let needed = few.min(targets.len());
    if elevated < needed {
        return Err(Rejected::Few { elevated, needed });
    }
    Ok(Evidence { rate, score: scale(votes, divergence_q16(rate, p.background)) })
}

/// One round: whom the failures blame, best first, and why the others are not.
///
/// `standing` are entities with a confirmed or recovering incident: their failures are explained,
/// and they are picked again without competition while they stand out. `regional` are those with a
/// majority in some region only, with its zones: they are looked at there, over the longer windows,
/// since one zone has few probes.
#[must_use]
pub fn attribute(
    p: &Params,
    plan: &Plan,
    (windows, slow): (&Windows, &Windows),
    candidates: &[EntityIndex],
    standing: &[EntityIndex],
    regional: &BTreeMap<EntityIndex, BTreeSet<u8>>,
    dead: &BTreeSet<TargetIndex>,
) -> (Vec<Pick>, BTreeMap<EntityIndex, Rejected>) {
    let mut picks = Vec::new();
    let mut rejected = BTreeMap::new();
    let mut explained = Explained::new();
    let test = |entity: EntityIndex, explained: &Explained| {
        let local = regional.get(&entity);
        let windows = if local.is_some() { slow } else { windows };
        test(p, plan, windows, entity, local, explained, dead)
    };
    for entity in standing {
        match test(*entity, &Explained::new()) {
            Ok(evidence) => picks.push(Pick { entity: *entity, rate: evidence.rate }),
            Err(why) => {
                rejected.insert(*entity, why);
            }
        }
    }
    for entity in standing {
        explain(plan, *entity, &mut explained);
    }
    for _ in 0..p.picks_max {
        let mut passed = Vec::new();
        for entity in candidates {
            if picks.iter().any(|pick| pick.entity == *entity) || standing.contains(entity) {
                continue;
            }
            match test(*entity, &explained) {
                Ok(evidence) => passed.push((*entity, evidence)),
                Err(why) => {
                    rejected.insert(*entity, why);
                }
            }
        }
        let best_rate = passed.iter().map(|(_, evidence)| evidence.rate).max().unwrap_or(0);
        let best = passed
            .iter()
            .filter(|(_, evidence)| evidence.rate >= scale(best_rate, p.hit_ratio_band))
            .max_by_key(|(entity, evidence)| (evidence.score, std::cmp::Reverse(*entity)));
        let Some((entity, evidence)) = best else { break };
        for (other, _) in &passed {
            rejected.insert(*other, Rejected::Outscored { by: *entity });
        }
        rejected.remove(entity);
        picks.push(Pick { entity: *entity, rate: evidence.rate });
        explain(plan, *entity, &mut explained);
    }
    (picks, rejected)
}

fn explain(plan: &Plan, entity: EntityIndex, explained: &mut Explained) {
    let culprit = plan.entity(entity);
    explained.extend(culprit.targets.iter().map(|target| (*target, class(culprit.layer))));
}

#[cfg(test)]
mod tests {
    use tocsin_proto::catalogue::Catalogue;

    use super::*;
    use crate::engine::fixed::ONE;

    const P: &Params = &Params::DEFAULT;

    const TARGETS: u16 = 28;

    /// 28 sites: 12 behind the edge `big`, 5 behind `small`, 11 behind none; `dns` serves 6 of
    /// them, 4 of those behind `big`; `nested` is the aux of 5 behind `big` and none else.
    fn plan() -> Plan {
        let mut text = "schema = 1\nversion = 1\n".to_owned();
        for id in ["big", "small", "dns", "nested"] {
            text +=
                &format!("[[provider]]\nid = \"{id}\"\nname = \"{id}\"\norganisation = \"{id}\"\n");
        }
        for at in 0..TARGETS {
            let mut roles = Vec::new();
            let mut role = |role: &str, provider: &str| {
                roles.push(format!(
                    "{{ role = \"{role}\", provider = \"{provider}\", evidence = \"operator\" }}"
                ));
            };
            match at {
                0..12 => role("edge", "big"),
                12..17 => role("edge", "small"),
                _ => {}
            }
            if (8..14).contains(&at) {
                role("dns", "dns");
            }
            if at < 5 {
                role("aux", "nested");
            }
            text += &format!(
                "[[target]]\nindex = {at}\nid = \"t{at}\"\nname = \"t\"\nhost = \"t{at}.test\"\n\
                 roles = [{}]\n",
                roles.join(", ")
            );
        }
        Plan::new(&Catalogue::parse(&text).unwrap())
    }

    /// Windows where each target fails at a rate, for some layers.
    fn windows(rate: impl Fn(u16) -> (Ppm, &'static [Layer])) -> Windows {
        let mut windows = Windows::default();
        for target in 0..TARGETS {
            let (rate, layers) = rate(target);
            for zone in 0..4 {
                let failed = scale(10 * ONE, rate);
                let mut counts = Counts::of(10 * ONE, false);
                counts.failed = failed;
                for layer in layers {
                    counts.implicate(*layer, failed);
                }
                windows.count(TargetIndex(target), zone, &counts);
            }
        }
        windows
    }

    const HTTP: &[Layer] = &[Layer::Edge, Layer::Aux];
    const QUIET: Ppm = 10_000;

    fn check(rate: impl Fn(u16) -> (Ppm, &'static [Layer]), expect: &[&str]) {
        let plan = plan();
        let all: Vec<_> = plan.entities().map(|(entity, _)| entity).collect();
        let of = windows(rate);
        let (picks, rejected) =
            attribute(P, &plan, (&of, &of), &all, &[], &BTreeMap::new(), &BTreeSet::new());
        let names: Vec<_> =
            picks.iter().map(|p| plan.entity(p.entity).provider.as_str().to_owned()).collect();
        assert_eq!(names, expect, "{rejected:?}");
    }

    #[test]
    fn blames_who_fails_while_the_others_do_not() {
        check(|t| (if t < 12 { ONE } else { QUIET }, HTTP), &["big"]);
        check(|t| (if t < 12 { 300_000 } else { QUIET }, HTTP), &["big"]);
        check(|t| (if (12..17).contains(&t) { 300_000 } else { QUIET }, HTTP), &["small"]);
        check(|t| (if (8..14).contains(&t) { ONE } else { QUIET }, &[Layer::Dns]), &["dns"]);
        check(|t| (if t < 5 { ONE } else { QUIET }, HTTP), &["nested"]);
    }

    #[test]
    fn blames_nobody_when_everything_rises_or_one_site_is_down() {
        check(|_| (200_000, HTTP), &[]);
        check(|_| (900_000, HTTP), &[]);
        check(|t| (if t == 3 { ONE } else { QUIET }, HTTP), &[]);
    }

    #[test]
    fn one_zone_is_enough_for_a_regional_suspect() {
        let plan = plan();
        let small = plan.entities().find(|(_, e)| e.provider.as_str() == "small").unwrap().0;
        let mut windows = Windows::default();
        for target in 0..TARGETS {
            for zone in 0..4 {
                let failing = zone == 0 && (12..17).contains(&target);
                let mut counts = Counts::of(10 * ONE, failing);
                if failing {
                    counts.implicate(Layer::Edge, 10 * ONE);
                }
                windows.count(TargetIndex(target), zone, &counts);
            }
        }
        let picked = |regional: &[EntityIndex]| {
            let regional = regional.iter().map(|e| (*e, BTreeSet::from([0]))).collect();
            let of = (&windows, &windows);
            let (picks, _) = attribute(P, &plan, of, &[small], &[], &regional, &BTreeSet::new());
            picks.len()
        };
        assert_eq!((picked(&[]), picked(&[small])), (0, 1));
    }

    #[test]
    fn two_at_once_are_two() {
        check(|t| (if t < 17 { ONE } else { QUIET }, HTTP), &["big", "small"]);
    }

    #[test]
    fn what_is_nested_in_a_culprit_is_not_blamed_again() {
        let plan = plan();
        let big = plan.entities().find(|(_, e)| e.provider.as_str() == "big").unwrap().0;
        let all: Vec<_> = plan.entities().map(|(entity, _)| entity).collect();
        let windows = windows(|t| (if t < 12 { ONE } else { QUIET }, HTTP));
        let (picks, rejected) = attribute(
            P,
            &plan,
            (&windows, &windows),
            &all,
            &[big],
            &BTreeMap::new(),
            &BTreeSet::new(),
        );
        assert_eq!(picks.iter().map(|p| p.entity).collect::<Vec<_>>(), [big]);
        assert!(rejected.values().any(|why| *why == Rejected::Explained));
    }
}
