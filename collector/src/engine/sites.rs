//! The rule for sites: a site fails in most zones, and neither a provider behind it nor its siblings
//! explain that.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use tocsin_proto::{
    catalogue::Catalogue,
    id::{Id, TargetIndex},
    implicate::{DnsPath, Layer, implication},
    incident::{Confidence, LiarBound, Phase, Reason},
    time::Timestamp,
};

use super::{
    detector::{Changed, Symptoms, stamp},
    fixed::{ONE, Ppm, divergence_q16, median, percent, scale, votes},
    incident::{Grounds, Incident, Reach},
    observer::Observer,
    params::{Params, ROUND_MS, WINDOW_BUCKETS},
    plan::{Behind, Entities, EntityIndex, Plan},
    second_look::{Asked, SecondLooks},
    seen::SeenBy,
    tally::NOWHERE,
    window::{Counts, Windows},
};

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
struct Site {
    run: u8,
    first_failure: Option<Timestamp>,
    symptoms: Symptoms,
    open: Option<Incident>,
    last: Option<Incident>,
    /// The provider's incident in which this site failed, until it is well again: what began in one
    /// incident and has not ended is no other.
    part_of: Option<(String, Timestamp)>,
    well_since: Option<Timestamp>,
}

impl Site {
    fn confirm(
        &mut self,
        p: &Params,
        now: Timestamp,
        id: &Id,
        grounds: Grounds,
        changed: &mut Vec<Changed>,
        reopened: &mut Vec<String>,
    ) {
        let incident = match self.last.take_if(|last| last.may_reopen(p, now)) {
            Some(mut last) => {
                last.reopen(now, grounds);
                reopened.push(last.id.clone());
                last
            }
            None => {
                let started = self.first_failure.unwrap_or(now);
                let id = format!("{}-site-{id}", stamp(now));
                Incident::open(id, now, started, Phase::Confirmed, Reach::Site, grounds)
            }
        };
        let id = incident.id.clone();
        changed.push(Changed { incident: id, at: now, phase: Phase::Confirmed });
        self.open = Some(incident);
    }
}

/// What the rule looks at.
pub struct Scene<'a, F> {
    /// The time.
    pub now: Timestamp,
    /// The entities.
    pub plan: &'a Plan,
    /// The targets.
    pub catalogue: &'a Catalogue,
    /// What failed in the last two minutes.
    pub windows: &'a Windows,
    /// And in the last twelve: where a site is looked at too seldom for two to tell.
    pub slow: &'a Windows,
    /// Whether attribution has named an entity lately.
    pub named: F,
    /// What is known from those who were asked; `None` where nobody can be.
    pub looks: Option<&'a SecondLooks>,
    /// Organisations of which a provider's incident stands, in whatever role: its name, and since when
    /// it is.
    pub standing: BTreeMap<&'a Id, (&'a str, Timestamp)>,
}

impl<'a, F> Scene<'a, F> {
    /// The incident that explains a site's failures: of what is behind it, however faintly that is known, since
    /// while it is down that is the likelier reason; of its top-level domain too.
    pub fn explains(&self, target: TargetIndex) -> Option<(&'a str, Timestamp)> {
        let target = self.catalogue.target(target)?;
        let tld = target.tld().parse::<Id>().ok();
        let organisations =
            target.roles.iter().map(|role| self.catalogue.organisation(&role.provider));
        organisations.chain(&tld).find_map(|of| self.standing.get(of).copied())
    }

    /// The windows to judge a site by, and how much time they hold, ms.
    fn of(&self, p: &Params, target: TargetIndex) -> (&Windows, u64) {
        let enough = self.windows.of(target).observed >= p.site_weight;
        let zones = self.windows.by_zone(target).filter(|of| is_counted(p, of)).count();
        let short_ms = WINDOW_BUCKETS as u64 * ROUND_MS;
        if enough && zones >= p.zones_min {
            (self.windows, short_ms)
        } else {
            (self.slow, 6 * short_ms)
        }
    }
}

/// Whether a zone has enough votes to count by itself.
fn is_counted(p: &Params, (zone, counts): &(u8, Counts)) -> bool {
    *zone != NOWHERE && counts.observed >= p.site_zone_weight
}

/// A site that is down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Down {
    /// Which.
    pub target: TargetIndex,
    /// Since when; of one that is part of another incident, when it last failed.
    pub since: Timestamp,
    /// The incident that explains it.
    pub part_of: Option<String>,
    /// What liars its own verdict would have taken, at least.
    pub bound: LiarBound,
}

/// An incident that has ended, of a site.
pub type Ended = (TargetIndex, Incident, Symptoms);

/// What is known of the sites that have failed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Sites(BTreeMap<TargetIndex, Site>);

impl Sites {
    /// Notes a failure, with what was met.
    pub fn failed(
        &mut self,
        target: TargetIndex,
        at: Timestamp,
        met: (tocsin_proto::outcome::Outcome, tocsin_proto::rules::RuleNumber),
    ) {
        let site = self.0.entry(target).or_default();
        site.first_failure.get_or_insert(at);
        *site.symptoms.entry(met).or_default() += 1;
    }

    /// Sites with an open incident.
    #[must_use]
    pub fn dead(&self) -> BTreeSet<TargetIndex> {
        let open = self.0.iter().filter(|(_, site)| site.open.is_some());
        open.map(|(target, _)| *target).collect()
    }

    /// Sites that are down now: by an incident of their own, or in one that explains them.
    #[must_use]
    pub fn down(&self, now: Timestamp) -> Vec<Down> {
        let of = |(target, site): (&TargetIndex, &Site)| {
            let target = *target;
            if let Some(open) = &site.open {
                let bound = open.grounds.liar_bound;
                return Some(Down { target, since: open.started_at, part_of: None, bound });
            }
            let (whole, at) = site.part_of.as_ref()?;
            (now.since_ms(*at) <= 2 * ROUND_MS).then(|| Down {
                target,
                since: *at,
                part_of: Some(whole.clone()),
                bound: LiarBound::default(),
            })
        };
        self.0.iter().filter_map(of).collect()
    }

    /// Sites that have been down by themselves since then.
    #[must_use]
    pub fn dead_before(&self, at: Timestamp) -> BTreeSet<TargetIndex> {
        let old = |site: &Site| site.open.as_ref().is_some_and(|open| open.since() <= at);
        self.0.iter().filter(|(_, site)| old(site)).map(|(target, _)| *target).collect()
    }

    /// What is behind a site that is down by itself, and has been for a while, and does not fail by that: fewer
    /// of its sites are down so than would have to be hit.
    #[must_use]
    pub fn excused(
        &self,
        p: &Params,
        now: Timestamp,
        plan: &Plan,
        target: TargetIndex,
    ) -> Entities {
        let old = now.minus_ms(p.site_alone_ms);
        let is_dead = |target: &TargetIndex| {
            let open = self.0.get(target).and_then(|site| site.open.as_ref());
            open.is_some_and(|open| open.since() <= old)
        };
        let mut excused = Entities::default();
        if is_dead(&target) {
            for (_, entity) in plan.behind(target).map_or(&[][..], Behind::entities) {
                let all = &plan.entity(*entity).targets;
                let dead = all.iter().filter(|target| is_dead(target)).count();
                if p.are_few(dead, all.len()) {
                    excused.insert(*entity);
                }
            }
        }
        excused
    }

    /// Sites that have failed lately and have no incident, nor are part of one.
    pub fn failing(&self) -> impl Iterator<Item = TargetIndex> {
        let unexplained = |site: &Site| site.open.is_none() && site.part_of.is_none();
        self.0.iter().filter(move |(_, site)| unexplained(site)).map(|(target, _)| *target)
    }

    /// What a site fails of, as far as it is the same for most: its names, its certificate, or itself.
    #[must_use]
    pub fn fails_of(&self, target: TargetIndex) -> Layer {
        let symptoms = self.0.get(&target).map(|site| &site.symptoms);
        let (mut names, mut certificates, mut all) = (0, 0, 0);
        for ((outcome, _), count) in symptoms.into_iter().flatten() {
            let says = implication(*outcome, None, DnsPath::Both).full;
            names += if says.has(Layer::Dns) { *count } else { 0 };
            certificates += if says.has(Layer::Issuer) { *count } else { 0 };
            all += count;
        }
        match (2 * names > all, 2 * certificates > all) {
            (true, _) => Layer::Dns,
            (_, true) => Layer::Issuer,
            _ => Layer::Site,
        }
    }

    /// Sites that seem to be down for so long that a look at them waits for nothing else.
    pub fn waiting(&self, p: &Params) -> BTreeSet<TargetIndex> {
        let waits = |site: &Site| site.run >= p.look_wait && site.open.is_none();
        self.0.iter().filter(|(_, site)| waits(site)).map(|(target, _)| *target).collect()
    }

    /// A second look has confirmed it. An incident that has come back is named in `reopened`.
    pub fn confirm(
        &mut self,
        p: &Params,
        now: Timestamp,
        (target, id): (TargetIndex, &Id),
        grounds: Grounds,
        changed: &mut Vec<Changed>,
        reopened: &mut Vec<String>,
    ) {
        let site = self.0.entry(target).or_default();
        if site.open.is_none() && site.part_of.is_none() {
            site.confirm(p, now, id, grounds, changed, reopened);
        }
    }

    /// Open incidents, with what was met.
    pub fn open(&self) -> impl Iterator<Item = (TargetIndex, &Incident, &Symptoms)> {
        self.0
            .iter()
            .filter_map(|(target, site)| Some((*target, site.open.as_ref()?, &site.symptoms)))
    }

    /// One round. Tells what changed and what ended; an incident that has come back is named in
    /// `reopened`, and is no longer among the ended. `strata` asks whether the looks of so many ms that failed are
    /// those of one release of our program, or of one resolver: it goes through everybody.
    pub fn judge(
        &mut self,
        p: &Params,
        scene: &Scene<'_, impl Fn(EntityIndex) -> bool>,
        strata: impl Fn(TargetIndex, u64) -> [Reason; 2],
        changed: &mut Vec<Changed>,
        reopened: &mut Vec<String>,
    ) -> Vec<Ended> {
        let now = scene.now;
        let mut ended = Vec::new();
        for (target, site) in &mut self.0 {
            let total = scene.of(p, *target).0.of(*target);
            let rate = total.failure_rate();
            let explained = scene.explains(*target);
            if let Some((by, since)) = explained {
                if rate >= p.site_up {
                    site.part_of = Some((by.to_owned(), now));
                    site.well_since = None;
                }
                // One that began with it is not another.
                let began =
                    site.open.as_ref().map(|incident| incident.started_at.plus_ms(p.merge_ms));
                if began.is_some_and(|began| began >= since)
                    && let Some(mut merged) = site.open.take()
                {
                    merged.merge(now, by.to_owned());
                    let id = merged.id.clone();
                    changed.push(Changed { incident: id, at: now, phase: Phase::Resolved });
                    ended.push((*target, merged, std::mem::take(&mut site.symptoms)));
                    (site.first_failure, site.part_of) = (None, Some((by.to_owned(), now)));
                    continue;
                }
                // Nobody is asked about what is explained.
                if site.open.is_none() {
                    site.run = 0;
                    continue;
                }
            } else if let Some((_, explained_at)) = site.part_of {
                let well = total.observed >= p.site_weight && rate < p.site_up;
                site.well_since = if well { site.well_since.or(Some(now)) } else { None };
                let well = site.well_since.is_some_and(|at| now.since_ms(at) >= p.site_resolve_ms);
                if well || now.since_ms(explained_at) >= p.part_of_ms {
                    (site.part_of, site.well_since) = (None, None);
                }
            }
            if let Some(incident) = &mut site.open {
                if let Some(phase) =
                    incident.step_site(p, now, rate, total.observed >= p.site_weight)
                {
                    changed.push(Changed { incident: incident.id.clone(), at: now, phase });
                    if let Some(over) = site.open.take() {
                        site.first_failure = None;
                        site.last = Some(over.clone());
                        ended.push((*target, over, std::mem::take(&mut site.symptoms)));
                    }
                }
                continue;
            }
            let Ok(mut grounds) = is_down(p, scene, *target, &total) else {
                site.run = 0;
                if rate < p.site_siblings {
                    site.first_failure = None;
                    site.symptoms.clear();
                }
                continue;
            };
            site.run = site.run.saturating_add(1);
            // Who was asked decides; where nobody could be, or nobody answered, what is overheard.
            let asked = scene.looks.map_or(Asked::Unanswered, |looks| looks.asked(p, now, *target));
            let needed = match asked {
                Asked::UnderWay | Asked::Refuted => {
                    site.run = 0;
                    continue;
                }
                // They will be, whatever it costs.
                Asked::Nobody if scene.looks.is_some() => continue,
                Asked::Nobody => p.look_wait,
                Asked::Unanswered => p.hold,
            };
            if site.run < needed || site.part_of.is_some() {
                continue;
            }
            site.run = 0;
            let strata = strata(*target, scene.of(p, *target).1);
            if strata.iter().any(|reason| !reason.held) {
                continue;
            }
            grounds.reasons.extend(strata);
            let Some(entry) = scene.catalogue.target(*target) else { continue };
            site.confirm(p, now, &entry.id, grounds, changed, reopened);
        }
        // What is at rest needs no row.
        self.0.retain(|_, site| {
            site.last.take_if(|last| !last.may_reopen(p, now));
            site.open.is_some()
                || site.last.is_some()
                || site.first_failure.is_some()
                || site.part_of.is_some()
        });
        ended
    }
}

/// How much of a site's looks may fail before that says anything: half more than at its siblings, and
/// than at all sites; of these are siblings of one that has no provider in common with any.
fn usual(
    p: &Params,
    scene: &Scene<'_, impl Fn(EntityIndex) -> bool>,
    target: TargetIndex,
    windows: &Windows,
) -> Ppm {
    let behind = scene.plan.behind(target).into_iter().flat_map(|b| b.entities());
    let rate = |entity: EntityIndex| {
        let mut all = Counts::default();
        let of = scene.plan.entity(entity);
        let siblings = of.targets.iter().filter(|s| **s != target);
        siblings.for_each(|sibling| all.add(&windows.of(*sibling)));
        scale(all.rate(of.layer), p.usual_times)
    };
    // Of the sites, and not of the looks: who looks more often is not more of the world.
    let rates = scene.plan.targets().map(|(target, _)| windows.of(target));
    let rates = rates.filter(|counts| counts.observed > 0).map(|counts| counts.failure_rate());
    let everywhere = scale(median(rates.collect()).unwrap_or(0), p.usual_times);
    behind.map(|(_, entity)| rate(*entity)).fold(p.background.max(everywhere), Ppm::max)
}

/// Whether a site seems to be down by what is overheard.
pub fn seems_down(
    p: &Params,
    scene: &Scene<'_, impl Fn(EntityIndex) -> bool>,
    target: TargetIndex,
) -> bool {
    is_down(p, scene, target, &scene.of(p, target).0.of(target)).is_ok()
}

/// Whether a site fails often enough, in either window, and in enough zones, for a second look.
pub fn is_worth_a_look(
    p: &Params,
    scene: &Scene<'_, impl Fn(EntityIndex) -> bool>,
    target: TargetIndex,
) -> bool {
    [scene.windows, scene.slow].into_iter().any(|windows| {
        let total = windows.of(target);
        let rate = total.failure_rate();
        if total.failed < p.look_worth_votes || rate < p.site_up {
            return false;
        }
        let zones = windows.by_zone(target).filter(|(zone, c)| *zone != NOWHERE && c.failed > 0);
        let usual = usual(p, scene, target, windows);
        zones.count() >= p.zones_min
            && rate > usual
            && scale(total.observed, divergence_q16(rate, usual)) >= p.look_worth_bits_q16
    })
}

fn is_down(
    p: &Params,
    scene: &Scene<'_, impl Fn(EntityIndex) -> bool>,
    target: TargetIndex,
    total: &Counts,
) -> Result<Grounds, Reason> {
    let rate = total.failure_rate();
    if total.observed < p.site_weight || rate < p.site_down {
        // The common case, told apart before anything is put into words.
        return Err(Reason {
            rule: "site.rate".to_owned(),
            held: false,
            found: String::new(),
            needed: String::new(),
        });
    }
    let reason = |rule: &str, held, found: String, needed: String| {
        let reason = Reason { rule: rule.to_owned(), held, found, needed };
        if held { Ok(reason) } else { Err(reason) }
    };
    let share = reason(
        "site.rate",
        true,
        format!("{} of {} votes fail", percent(rate), votes(total.observed)),
        format!("{} of at least {}", percent(p.site_down), votes(p.site_weight)),
    )?;
    let (windows, within_ms) = scene.of(p, target);
    let zones: Vec<Counts> =
        windows.by_zone(target).filter(|of| is_counted(p, of)).map(|(_, counts)| counts).collect();
    let seeing = zones.iter().filter(|counts| counts.failure_rate() >= p.site_down).count();
    let needed = p.site_zones(zones.len());
    let geography = reason(
        "site.geography",
        zones.len() >= p.zones_min && seeing >= needed,
        format!("{seeing} of {} zones with enough votes see it", zones.len()),
        format!("{needed} of at least {}", p.zones_min),
    )?;
    let mut unexplained = Vec::new();
    let usual = usual(p, scene, target, windows);
    for (_, entity) in scene.plan.behind(target).into_iter().flat_map(|b| b.entities()) {
        let provider = scene.plan.entity(*entity);
        let siblings = provider.targets.iter().filter(|sibling| **sibling != target);
        // Over the same time: what began a minute ago is not seen in a quarter of an hour.
        let counts = siblings.map(|sibling| windows.of(*sibling));
        // Of failures that can be its own: a host behind an edge fails nobody's connections.
        let layer = provider.layer;
        let rates: Vec<Ppm> =
            counts.filter(|counts| counts.observed > 0).map(|c| c.rate(layer)).collect();
        let middle = median(rates).unwrap_or(0);
        unexplained.push(reason(
            "site.alone",
            !(scene.named)(*entity) && middle < p.site_siblings,
            format!("the other sites of {} fail at {}", provider.provider, percent(middle)),
            format!("under {}, and no suspicion of it", percent(p.site_siblings)),
        )?);
    }
    // Of many sites that fail now and then a few are looked at by the unlucky.
    let bits = scale(total.observed, divergence_q16(rate, usual));
    let evidence = reason(
        "site.evidence",
        rate > usual && bits >= p.contrast_bits_q16,
        format!(
            "{} against {} of its siblings: {} bits",
            percent(rate),
            percent(usual),
            bits >> 16
        ),
        format!("{} bits", p.contrast_bits_q16 >> 16),
    )?;
    let mut seen = SeenBy::default();
    seen.votes(target, total, total.failed);
    // Whoever looks as often as it may has several votes.
    let looks = Observer::looks_max(p, within_ms);
    let needed = scale(total.observed, p.site_down) / looks;
    let up = |n: i64| u32::try_from(n).unwrap_or(u32::MAX);
    Ok(Grounds {
        reasons: vec![share, geography, evidence],
        ruled_out: unexplained,
        liar_bound: LiarBound {
            prefixes: up((needed + ONE - 1) / ONE),
            networks: up(needed / p.network_cap_min + 1),
            zones: u32::try_from(seeing).unwrap_or(u32::MAX),
        },
        confidence: Confidence::Low,
        seen,
    })
}
