//! A provider by its sites: each of them is down by a verdict of its own, and more of its went down together than of others'.
//!
//! An observer that looks at one site after the other seldom meets two of a few that are down before it meets many that
//! are not: of a fixed part of a provider's sites few observers flag the provider. What was said of each site says it.

use tocsin_proto::incident::LiarBound;

use super::{
    super::fixed::{divergence_q16, scale},
    *,
};

/// What says it, and what liars it would take, at least.
pub(super) type Together = (Reason, LiarBound);

impl Detector {
    /// One round: who is named by its sites, best hit first.
    pub(super) fn look_at_sites_together(&mut self) {
        let p = &Arc::clone(&self.settings.params);
        let State { sites, suspects, slow, windows, now, .. } = &self.state;
        let mut down = sites.down(*now);
        let mut found: BTreeMap<EntityIndex, Together> = BTreeMap::new();
        for _ in 0..p.picks_max {
            let passed: Vec<(EntityIndex, Found, Hit)> = self
                .plan
                .entities()
                .filter(|(entity, _)| !found.contains_key(entity))
                .filter_map(|(entity, of)| {
                    let own = suspects.get(&entity).and_then(|suspect| suspect.open.as_ref());
                    // What its failures cannot be of is not what its sites share.
                    let implicated = |target: TargetIndex| {
                        [windows, slow].into_iter().any(|windows| {
                            let counts = windows.of(target);
                            counts.failed > 0
                                && 5 * counts.rate(of.layer) >= 2 * counts.failure_rate()
                        })
                    };
                    let is_own =
                        |site: &&Down| of.targets.contains(&site.target) && implicated(site.target);
                    let hit = Hit::of(p, &down, is_own, own.map(|open| open.id.as_str()));
                    Some((
                        entity,
                        hit.judge(p, of.targets.len(), self.plan.targets().count())?,
                        hit,
                    ))
                })
                .collect();
            // As attribution has it: the best hit, and of about as good ones what is surest.
            let most = passed.iter().map(|(_, found, _)| found.rate).max().unwrap_or(0);
            let best = passed
                .into_iter()
                .filter(|(_, found, _)| found.rate >= scale(most, p.hit_ratio_band))
                .max_by_key(|(entity, found, _)| (found.bits, std::cmp::Reverse(*entity)));
            let Some((entity, _, hit)) = best else { break };
            found.insert(entity, hit.reason(&self.plan, entity));
            down.retain(|site| !self.plan.entity(entity).targets.contains(&site.target));
        }
        for (entity, suspect) in &mut self.state.suspects {
            suspect.together = found.remove(entity);
        }
        for (entity, together) in found {
            self.state.suspects.entry(entity).or_default().together = Some(together);
        }
    }
}

/// The part of its sites, and how far from chance that is, bits, 1/65536.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Found {
    rate: Ppm,
    bits: i64,
}

/// Sites that are down together, of one provider and of the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Hit {
    own: usize,
    others: usize,
    /// What liars the least of its own verdicts would have taken.
    bound: LiarBound,
}

impl Hit {
    /// The most of its sites that went down within `together_ms`, with those that are part of its incident.
    fn of(
        p: &Params,
        down: &[Down],
        is_own: impl Fn(&&Down) -> bool,
        incident: Option<&str>,
    ) -> Self {
        let is_part = |site: &&Down| incident.is_some() && site.part_of.as_deref() == incident;
        let parts = down.iter().filter(&is_own).filter(is_part).count();
        let alone = |site: &&Down| site.part_of.is_none();
        let mut starts: Vec<&Down> = down.iter().filter(&is_own).filter(alone).collect();
        starts.sort_by_key(|site| (site.since, site.target));
        let within = |from: Timestamp, site: &Down| {
            site.since >= from && site.since.since_ms(from) <= p.together_ms
        };
        let most = starts.iter().map(|first| first.since).max_by_key(|from| {
            let own = starts.iter().filter(|site| within(*from, site)).count();
            (own, std::cmp::Reverse(*from))
        });
        let own: Vec<&Down> = most.map_or(Vec::new(), |from| {
            starts.iter().copied().filter(|site| within(from, site)).collect()
        });
        let others = most.map_or(0, |from| {
            let other = |site: &&Down| !is_own(site) && alone(site) && within(from, site);
            down.iter().filter(other).count()
        });
        let bound = own.iter().map(|site| site.bound).min_by_key(|bound| bound.prefixes);
        Self { own: own.len() + parts, others, bound: bound.unwrap_or_default() }
    }

    /// The part of its sites that are down, where they are enough, and too many to be chance.
    fn judge(&self, p: &Params, all: usize, world: usize) -> Option<Found> {
        let rate = share(self.own as i64, all as i64);
        let usual =
            share(self.others as i64, world.saturating_sub(all) as i64).max(p.background / 4);
        let bits = divergence_q16(rate, usual) * all as i64;
        (self.own >= p.elevated_of(all)
            && rate >= scale(usual, p.contrast_times)
            && bits >= p.together_bits_q16)
            .then_some(Found { rate, bits })
    }

    fn reason(&self, plan: &Plan, entity: EntityIndex) -> Together {
        let all = plan.entity(entity).targets.len();
        let reason = Reason {
            rule: "c5.together".to_owned(),
            held: true,
            found: format!(
                "{} of its {all} sites are down by verdicts of their own and began together, as {} of all others did",
                self.own, self.others
            ),
            needed: "a fifth of its sites, at least three, three times the part of the others"
                .to_owned(),
        };
        (reason, self.bound)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const P: &Params = &Params::DEFAULT;

    fn down(target: u16, minute: u64, part_of: Option<&str>) -> Down {
        Down {
            target: TargetIndex(target),
            since: Timestamp::from_s(1_800_000_000 + minute * 60),
            part_of: part_of.map(str::to_owned),
            bound: LiarBound { prefixes: 20 + u32::from(target), networks: 3, zones: 3 },
        }
    }

    fn hit(down: &[Down], of: std::ops::Range<u16>, incident: Option<&str>) -> Hit {
        Hit::of(P, down, |site| of.contains(&site.target.0), incident)
    }

    #[test]
    fn sites_of_one_provider_that_go_down_together_name_it() {
        let three: Vec<Down> = [0, 1, 2].map(|n| down(n, n.into(), None)).into();
        let found = hit(&three, 0..8, None);
        assert_eq!((found.own, found.others, found.bound.prefixes), (3, 0, 20));
        assert!(found.judge(P, 8, 200).is_some());
        assert!(hit(&three[..2], 0..8, None).judge(P, 8, 200).is_none(), "two are two sites");
        assert!(found.judge(P, 120, 200).is_none(), "of so many it is chance");
        let later: Vec<Down> = [0, 30, 60].map(|at| down(at as u16 / 30, at, None)).into();
        assert_eq!(hit(&later, 0..8, None).own, 1, "one after the other");
    }

    #[test]
    fn where_others_go_down_as_well_it_is_not_this_one() {
        let many: Vec<Down> = (0..60).map(|n| down(n * 3, 1, None)).collect();
        let found = hit(&many, 0..24, None);
        assert_eq!((found.own, found.others), (8, 52));
        assert!(found.judge(P, 24, 200).is_none());
    }

    #[test]
    fn what_is_part_of_its_incident_stays_its() {
        let mine: Vec<Down> = (0..3).map(|n| down(n, 0, Some("a"))).collect();
        assert_eq!(hit(&mine, 0..8, Some("a")).own, 3);
        assert_eq!(hit(&mine, 0..8, Some("b")).own, 0);
        assert_eq!(hit(&mine, 0..8, None).own, 0);
    }
}
