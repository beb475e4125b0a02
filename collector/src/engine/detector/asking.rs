//! Asking back, as the detector does it: which suspicion is worth a panel, and what an incident makes
//! of what a panel found. Drawing and counting are [`panel`]'s, when to begin is [`Alerts`]'s.
//!
//! [`Alerts`]: crate::engine::alert::Alerts

use super::*;
use crate::engine::alert::Paid;

/// What a panel, or a round of one, came to: for the operator, who wants to know why nothing was said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PanelNote {
    /// When.
    pub at: Timestamp,
    /// What it was about.
    pub about: Subject,
    /// What it was for; a site has second looks.
    pub kind: Option<Kind>,
    /// Which round of which draw.
    pub round: (u8, u8),
    /// What came of it, as in [`Step`].
    pub came_to: &'static str,
    /// Share of the votes that see it, where that was counted.
    pub share: Option<Ppm>,
    /// The rules that did not hold, where they were asked.
    pub missing: Vec<Reason>,
}

impl PanelNote {
    /// In one line.
    #[must_use]
    pub fn line(&self, catalogue: &Catalogue, plan: &Plan) -> String {
        let about = match self.about {
            Subject::Entity(entity) => {
                let entity = plan.entity(entity);
                format!("{} ({:?})", entity.provider, entity.layer)
            }
            Subject::Site(target) => {
                catalogue.target(target).map_or_else(String::new, |target| target.id.to_string())
            }
            Subject::Group(group) => group.name(),
        };
        let kind = self.kind.map_or("second look".to_owned(), |kind| format!("{kind:?} panel"));
        let share =
            self.share.map_or(String::new(), |share| format!(", {} see it", percent(share)));
        let missing: Vec<String> =
            self.missing.iter().map(|r| format!("{}: {}", r.rule, r.found)).collect();
        let missing = if missing.is_empty() {
            String::new()
        } else {
            format!("; not held: {}", missing.join("; "))
        };
        let (draw, round) = self.round;
        format!("{about} {kind}, draw {draw} round {round}: {}{share}{missing}", self.came_to)
    }
}

/// How a panel is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Call {
    /// Which of the draws that must all pass it is, from 0.
    pub(super) draw: u8,
    /// Whether the budget must not prevent it.
    pub(super) forced: bool,
    /// Failure rate that the panel before it met.
    pub(super) expected: Option<Ppm>,
}

/// Panel notes that wait at most.
const PANEL_NOTES_MAX: usize = 1_000;

/// How far what a panel has confirmed reaches.
const fn reach_of(found: &panel::Finding) -> Reach {
    match found.over {
        Some(family) => Reach::Over(family),
        None => Reach::Global,
    }
}

fn note_down(notes: &mut Vec<PanelNote>, note: PanelNote) {
    if notes.len() < PANEL_NOTES_MAX {
        notes.push(note);
    }
}

impl Detector {
    /// Everybody who may be asked now.
    fn crowd(&self) -> Vec<Candidate> {
        let p = &*self.settings.params;
        let now = self.state.now;
        let able = |observer: &&Observer| observer.weight > 0 && observer.is_online(p, now);
        self.observers()
            .filter(|(_, observer)| able(observer))
            .map(|(id, observer)| Candidate {
                observer: id,
                weight: observer.weight,
                zone: observer.vote.zone,
                country: observer.standing.country,
                slot: observer.standing.slot,
                asn: observer.standing.asn,
                version: observer.standing.version,
                resolver: observer.standing.resolver,
            })
            .collect()
    }

    /// Once a second: panels that are under way, and suspicions that are worth one.
    pub(super) fn ask_back(&mut self, changed: &mut Vec<Changed>) {
        let p = &Arc::clone(&self.settings.params);
        if !self.settings.ask_back || self.mute || !self.is_settled() {
            return;
        }
        let now = self.state.now;
        self.look_at_sites(changed);
        // Where not all can be asked about at once, first what most see.
        let mut entities: Vec<_> = (0..self.plan.len())
            .map(|n| EntityIndex(n as u8))
            .filter(|entity| {
                self.state.suspects.contains_key(entity)
                    || self.state.alerts.trigger(p, now, *entity).is_some()
            })
            .collect();
        entities.sort_by_cached_key(|entity| std::cmp::Reverse(self.shares(*entity).share));
        for entity in entities {
            let Some(suspect) = self.state.suspects.get(&entity) else {
                if let Some(trigger) = self.state.alerts.trigger(p, now, entity) {
                    self.suspect(entity, trigger, changed);
                }
                continue;
            };
            if suspect.panel.is_some() {
                self.go_on(entity, changed);
                continue;
            }
            if let Some((parent, until, found)) = suspect.held.clone() {
                let asked = self.state.suspects.get(&parent).is_some_and(|s| s.panel.is_some());
                let explained = self.state.worldwide.has(parent);
                // The larger one's own panel may have found by now that this one explains it.
                let of_parent = self.state.suspects.get(&parent).and_then(|s| s.panel.as_ref());
                let cleared =
                    of_parent.is_some_and(|of| of.explained_by(p, &self.plan, now) == Some(entity));
                if explained || !asked || cleared || now >= until {
                    if let Some(suspect) = self.state.suspects.get_mut(&entity) {
                        suspect.held = None;
                    }
                    if !explained {
                        let mut found = found;
                        found.ruled_out.insert(
                            0,
                            Reason {
                                rule: self.plan.entity(parent).not(),
                                held: true,
                                found: if cleared {
                                    "what else is behind it does not fail".to_owned()
                                } else {
                                    "those who were asked about it did not confirm that it fails"
                                        .to_owned()
                                },
                                needed: "a verdict on it, which would explain these failures too"
                                    .to_owned(),
                            },
                        );
                        self.confirm(entity, reach_of(&found), found, changed);
                    }
                }
                continue;
            }
            let stands = suspect.open.as_ref().is_some_and(|i| i.phase() != Phase::Suspected);
            if stands {
                if now.since_ms(suspect.track_at) >= p.panel_track_every_ms {
                    self.call(entity, Kind::Tracking, Call::default());
                }
            } else if let Some(trigger) = self.state.alerts.trigger(p, now, entity) {
                self.suspect(entity, trigger, changed);
            }
        }
    }

    /// One that is suspected too, behind all of its sites and more (or as many, and nearer to the
    /// visitor): where that fails, nothing is left to blame the smaller one for.
    fn parent(&self, entity: EntityIndex) -> Option<EntityIndex> {
        let p = &*self.settings.params;
        let now = self.state.now;
        let own = self.plan.entity(entity);
        let flags = self.state.alerts.flagging(p, now, entity);
        self.plan.entities().find_map(|(other, of)| {
            let apart = own.targets.iter().filter(|target| !of.targets.contains(target)).count();
            let larger = (of.targets.len(), std::cmp::Reverse(of.layer))
                > (own.targets.len(), std::cmp::Reverse(own.layer));
            let nested = other != entity && class(of.layer) == class(own.layer) && apart < 2;
            let suspect = self.state.suspects.get(&other);
            let open = suspect.is_some_and(|s| s.panel.is_some() || s.open.is_some());
            let seen = self.state.alerts.flagging(p, now, other) >= p.beside_of(flags);
            (nested && larger && (open || seen)).then_some(other)
        })
    }

    fn suspect(
        &mut self,
        entity: EntityIndex,
        trigger: crate::engine::alert::Trigger,
        changed: &mut Vec<Changed>,
    ) {
        let p = &Arc::clone(&self.settings.params);
        let online = self.state.tallies.voters();
        if online < p.panel_online_min {
            return;
        }
        let now = self.state.now;
        let full = online < p.panel_screen_from && self.state.alerts.bar(p, now, entity) == 0;
        let kind = if full { Kind::Full } else { Kind::Screening };
        match self.call(entity, kind, Call::default()) {
            Paid::Yes if full => self.open_suspicion(entity, changed),
            Paid::Yes | Paid::No => {}
            Paid::NotYet => {
                // It raises its hand again in a second.
                if let Some(suspect) = self.state.suspects.get_mut(&entity) {
                    suspect.panel = None;
                }
                return;
            }
        }
        self.state.alerts.asked(entity, trigger);
    }

    /// Begins a panel, at once or as soon as there is room; not where there is no budget for it, which
    /// does not hold back one that is `forced`.
    pub(super) fn call(&mut self, entity: EntityIndex, kind: Kind, how: Call) -> Paid {
        let p = &Arc::clone(&self.settings.params);
        let now = self.state.now;
        // Of this moment and suspect: a replay that begins elsewhere comes to the same.
        let number = now.as_ms() << 8 | u64::from(entity.0);
        let mut panel = Panel::new(entity, kind, how.draw, number, now);
        (panel.forced, panel.expected) = (how.forced, how.expected);
        panel.bar = self.state.alerts.bar(p, now, entity);
        let suspect = self.state.suspects.entry(entity).or_default();
        if kind == Kind::Tracking {
            suspect.track_at = now;
        }
        suspect.panel = Some(panel);
        self.round(entity)
    }

    /// Begins a round of a panel.
    fn round(&mut self, entity: EntityIndex) -> Paid {
        let p = &Arc::clone(&self.settings.params);
        let now = self.state.now;
        let (rivals, shadows) = self.rivals(entity);
        let dead = self.state.sites.dead_before(now.minus_ms(p.site_alone_ms));
        let online = self.state.tallies.voters();
        let panel = |state: &State| Some(state.suspects.get(&entity)?.panel.as_ref()?.rounds);
        // Members are drawn in the first round; how a part of the world recovers is asked there.
        let mut crowd = if panel(&self.state) == Some(0) { self.crowd() } else { Vec::new() };
        let suspect = self.state.suspects.get(&entity);
        let tracks = suspect.and_then(|s| s.panel.as_ref()).map(|panel| panel.kind);
        if tracks == Some(Kind::Tracking)
            && let Some(Reach::Regional(regions)) =
                suspect.and_then(|s| s.open.as_ref()).map(|open| &open.reach)
        {
            crowd.retain(|candidate| {
                regions.contains(&Region::Zone(candidate.zone))
                    || regions.contains(&Region::Country(candidate.country))
            });
        }
        let Some(suspect) = self.state.suspects.get_mut(&entity) else { return Paid::No };
        let Some(panel) = &mut suspect.panel else { return Paid::No };
        let scene = panel::Scene {
            now,
            plan: &self.plan,
            crowd: &crowd,
            rivals: &rivals,
            shadows: &shadows,
            dead: &dead,
            secret: &self.settings.panel_secret,
        };
        let seats = panel.seats(p, online);
        let flags = self.state.alerts.flagging(p, now, entity) as usize;
        let must = match panel.kind {
            Kind::Screening => 3 * flags >= online,
            Kind::Full | Kind::Tracking => panel.forced,
        };
        let probes = seats * panel.probes(p);
        let paid = self.state.alerts.pay(p, now, panel.kind, probes, online, must);
        match paid {
            Paid::Yes => self.asks.extend(panel.begin_round(p, &scene)),
            Paid::NotYet => {}
            Paid::No => {
                suspect.panel = None;
                self.state.alerts.pause(p, now, entity);
            }
        }
        paid
    }

    /// Who else is suspected; and of those, whom the same failures implicate.
    fn rivals(&self, entity: EntityIndex) -> (BTreeSet<EntityIndex>, BTreeSet<EntityIndex>) {
        let p = &*self.settings.params;
        let now = self.state.now;
        let own = self.plan.entity(entity);
        let flags = self.state.alerts.flagging(p, now, entity);
        let (mut rivals, mut shadows) = (BTreeSet::new(), BTreeSet::new());
        for (other, of) in self.plan.entities().filter(|(other, _)| *other != entity) {
            let suspect = self.state.suspects.get(&other);
            let stands = self.state.frozen.has(other);
            let asked = suspect.is_some_and(|s| s.panel.is_some() || s.open.is_some());
            let seen = self.state.alerts.flagging(p, now, other);
            // Two prefixes that cry about everything must not take the controls away.
            if stands || asked || self.state.alerts.trigger(p, now, other).is_some() {
                rivals.insert(other);
            }
            let beside = seen >= p.beside_of(flags);
            if class(of.layer) == class(own.layer) && (stands || beside) {
                shadows.insert(other);
            }
        }
        (rivals, shadows)
    }

    fn open_suspicion(&mut self, entity: EntityIndex, changed: &mut Vec<Changed>) {
        let now = self.state.now;
        let Some(suspect) = self.state.suspects.get_mut(&entity) else { return };
        if suspect.open.is_some() {
            return;
        }
        let started = suspect.first_failure.unwrap_or(now);
        let id = id_of(&self.plan, entity, now);
        changed.push(Changed { incident: id.clone(), at: now, phase: Phase::Suspected });
        let grounds = Grounds {
            reasons: Vec::new(),
            ruled_out: Vec::new(),
            liar_bound: tocsin_proto::incident::LiarBound::default(),
            confidence: Confidence::Low,
            seen: SeenBy::default(),
        };
        let open = Incident::open(id, now, started, Phase::Suspected, Reach::Global, grounds);
        suspect.open = Some(open);
    }

    fn go_on(&mut self, entity: EntityIndex, changed: &mut Vec<Changed>) {
        let p = &Arc::clone(&self.settings.params);
        let now = self.state.now;
        let established = self.is_established();
        let Some(suspect) = self.state.suspects.get_mut(&entity) else { return };
        let Some(panel) = &mut suspect.panel else { return };
        let (kind, draw, round) = (panel.kind, panel.draw, panel.rounds);
        if round == 0 {
            self.round(entity);
            return;
        }
        let step = panel.step(p, now, &self.plan, &self.settings, established);
        if step == Step::Round && self.round(entity) == Paid::NotYet {
            return;
        }
        if step != Step::Wait {
            let found = step.found();
            let missing = found.map(|found| found.reasons.iter().filter(|r| !r.held).cloned());
            let note = PanelNote {
                at: now,
                about: Subject::Entity(entity),
                kind: Some(kind),
                round: (draw, round),
                came_to: step.name(),
                share: found.map(|found| found.share),
                missing: missing.into_iter().flatten().collect(),
            };
            note_down(&mut self.panels, note);
        }
        let Some(suspect) = self.state.suspects.get_mut(&entity) else { return };
        match step {
            Step::Wait | Step::Round => {}
            Step::DrawAgain { rate } => {
                let how = Call { draw: draw + 1, forced: true, expected: Some(rate) };
                self.call(entity, Kind::Full, how);
            }
            Step::CallFull { seen, rate } => {
                let forced = seen >= p.panel_force_share;
                let how = Call { forced, expected: Some(rate), ..Call::default() };
                if self.call(entity, Kind::Full, how) != Paid::No {
                    self.open_suspicion(entity, changed);
                }
            }
            Step::Confirmed(found) => {
                suspect.panel = None;
                match self.parent(entity) {
                    None => self.confirm(entity, reach_of(&found), found, changed),
                    Some(parent) => {
                        // Only its own panel can tell whether it is the larger one that fails.
                        let until = now.plus_ms(p.panel_held_ms);
                        if let Some(suspect) = self.state.suspects.get_mut(&entity) {
                            suspect.held = Some((parent, until, found));
                        }
                        let asked =
                            self.state.suspects.get(&parent).is_some_and(|s| s.panel.is_some());
                        if !asked && !self.state.worldwide.has(parent) {
                            self.call(parent, Kind::Full, Call::default());
                        }
                    }
                }
            }
            Step::Measured(found) => {
                suspect.panel = None;
                // Silence measures nothing: then what is overheard counts again.
                if found.answered {
                    let before = suspect.tracked.map_or(0, |tracked| tracked.passes);
                    let majority = found.reasons.iter().any(|r| r.rule == "c1.majority" && r.held);
                    let reach = suspect.open.as_ref().map(|open| &open.reach);
                    let (share, most) = match reach {
                        Some(Reach::Over(family)) => {
                            // Of too few who use it nothing was measured.
                            let Some(share) = found.share_over(*family) else { return };
                            (share, share >= p.confirm)
                        }
                        _ => (found.share, majority),
                    };
                    let sees_it = found.holds_in_zones && most;
                    let passes = if sees_it { before.saturating_add(1) } else { 0 };
                    let panel::Finding { rate, usual, .. } = found;
                    suspect.tracked = Some(Tracked { at: now, share, rate, usual, passes });
                }
            }
            Step::Inconclusive(found) => {
                suspect.panel = None;
                suspect.asked = Some((now, true));
                let in_zones = found.holds_in_parts && !found.regional.is_empty();
                if in_zones && draw == 0 {
                    // As a narrow majority, it must pass once more, freshly drawn.
                    self.call(entity, Kind::Full, Call { draw: 1, ..Call::default() });
                } else if in_zones && self.parent(entity).is_none() {
                    let Regional { regions, liar_bound, reasons, observers, share } =
                        found.regional.clone();
                    let prefixes = observers;
                    let found = panel::Finding { liar_bound, reasons, prefixes, share, ..found };
                    self.confirm(entity, Reach::Regional(regions), found, changed);
                } else if found.crowd {
                    self.state.alerts.inconclusive(p, now, entity, found.share);
                } else {
                    // Too few to tell are too few to be struck for it.
                    self.state.alerts.pause(p, now, entity);
                }
            }
            Step::Unanswered | Step::NoMore => {
                suspect.panel = None;
                if kind == Kind::Full {
                    suspect.asked = Some((now, false));
                }
                self.state.alerts.pause(p, now, entity);
            }
            Step::Refuted(found) => {
                suspect.panel = None;
                if kind == Kind::Full {
                    suspect.asked = Some((now, true));
                }
                if kind != Kind::Tracking {
                    self.state.alerts.refuted(p, now, entity, found.share);
                }
            }
        }
    }

    /// Sites that fail in a few looks: whether they do for most who look.
    pub(super) fn look_at_sites(&mut self, changed: &mut Vec<Changed>) {
        let p = &Arc::clone(&self.settings.params);
        let now = self.state.now;
        let online = self.state.tallies.voters();
        let mut due: Vec<TargetIndex> = Vec::new();
        let under_way: Vec<TargetIndex> = self.state.looks.under_way().collect();
        for target in under_way {
            // What a provider's outage explains is not asked about again.
            let established = self.is_established();
            let (rounds, step) = self.state.looks.step(p, &self.plan, now, target, established);
            let (came_to, share, missing) = match step {
                second_look::Step::Wait => continue,
                second_look::Step::Round => {
                    due.push(target);
                    ("another round", None, Vec::new())
                }
                second_look::Step::Confirmed(grounds) => {
                    self.confirm_site(target, *grounds, changed);
                    ("confirmed", None, Vec::new())
                }
                second_look::Step::Over { came_to, share, missing } => {
                    (came_to, Some(share), missing)
                }
            };
            let (about, kind) = (Subject::Site(target), None);
            let round = (0, rounds);
            let note = PanelNote { at: now, about, kind, round, came_to, share, missing };
            note_down(&mut self.panels, note);
        }
        if now.as_ms().is_multiple_of(ROUND_MS) && online >= p.panel_online_min {
            due.extend(self.sites_worth_a_look());
        }
        let mut forced = self.forced_look();
        due.extend(forced.filter(|target| !due.contains(target)));
        if due.is_empty() {
            return;
        }
        let drawn = due.iter().any(|target| self.state.looks.is_new(*target));
        let crowd = if drawn { self.crowd() } else { Vec::new() };
        let well = |target: &TargetIndex| {
            self.state.slow.of(*target).failure_rate() < p.site_siblings
                && self
                    .plan
                    .behind(*target)
                    .is_some_and(|b| b.set().and(self.state.frozen).is_empty())
        };
        let well = self.catalogue.targets().keys().copied().filter(well).collect();
        for target in due {
            let scene = second_look::Scene {
                now,
                plan: &self.plan,
                crowd: &crowd,
                well: &well,
                layer: self.state.sites.fails_of(target),
                secret: &self.settings.panel_secret,
            };
            let must = forced.take_if(|forced| *forced == target).is_some();
            self.asks.extend(self.state.looks.round(p, target, online, must, &scene));
        }
    }

    /// A site that has waited for long enough, once in a while: what is behind it is in doubt, or the
    /// budget is empty.
    fn forced_look(&self) -> Option<TargetIndex> {
        let p = &*self.settings.params;
        let now = self.state.now;
        let State { looks, sites, .. } = &self.state;
        if !looks.may_force(p, now) {
            return None;
        }
        sites.waiting(p).into_iter().find(|target| looks.may_begin(p, now, *target, true))
    }

    fn sites_worth_a_look(&self) -> Vec<TargetIndex> {
        let p = &*self.settings.params;
        let now = self.state.now;
        // Where something behind it is in doubt, the site is not the first to be asked about.
        let doubted = |entity: EntityIndex| {
            let suspect = self.state.suspects.get(&entity);
            suspect.is_some_and(|s| s.panel.is_some() || s.open.is_some() || s.held.is_some())
                || self.state.alerts.trigger(p, now, entity).is_some()
        };
        let under_way = self.state.looks.under_way().count();
        let room = p.looks_max.saturating_sub(under_way).min(p.looks_at_once);
        let scene = self.sites_scene();
        self.state
            .sites
            .failing()
            .filter(|target| {
                let down = seems_down(p, &scene, *target);
                self.state.looks.may_begin(p, now, *target, down)
                    && (down || is_worth_a_look(p, &scene, *target))
            })
            .filter(|target| {
                let behind = self.plan.behind(*target).map(Behind::set).unwrap_or_default();
                // A top-level domain is behind too much to put anything off.
                let nearer = |entity: &EntityIndex| self.plan.entity(*entity).layer != Layer::Tld;
                !behind.iter().filter(nearer).any(doubted)
            })
            .take(room)
            .collect()
    }

    fn confirm_site(&mut self, target: TargetIndex, grounds: Grounds, changed: &mut Vec<Changed>) {
        let p = &Arc::clone(&self.settings.params);
        let now = self.state.now;
        let Some(entry) = self.catalogue.target(target) else { return };
        // It was asked about before that was known.
        if self.sites_scene().explains(target).is_some() {
            return;
        }
        let mut reopened = Vec::new();
        self.state.sites.confirm(p, now, (target, &entry.id), grounds, changed, &mut reopened);
        self.state.ended.retain(|(_, incident, _)| !reopened.contains(&incident.id));
    }

    /// A panel has confirmed it.
    fn confirm(
        &mut self,
        entity: EntityIndex,
        reach: Reach,
        found: panel::Finding,
        changed: &mut Vec<Changed>,
    ) {
        let p = &Arc::clone(&self.settings.params);
        let now = self.state.now;
        self.open_suspicion(entity, changed);
        self.state.alerts.confirmed(entity);
        let own = self.plan.entity(entity);
        for (other, of) in self.plan.entities() {
            let shares = of.targets.iter().any(|target| own.targets.contains(target));
            if other != entity && class(of.layer) == class(own.layer) && shares {
                self.state.alerts.explained(other);
            }
        }
        let share = found.over.and_then(|family| found.share_over(family)).unwrap_or(found.share);
        let confidence = p.confidence(found.prefixes, share);
        let panel::Finding { reasons, mut ruled_out, seen, liar_bound, rate, usual, .. } = found;
        for overheard in self.ruled_out(entity) {
            if ruled_out.iter().all(|other| other.rule != overheard.rule) {
                ruled_out.push(overheard);
            }
        }
        let grounds = Grounds { reasons, ruled_out, liar_bound, confidence, seen };
        let lead = self.lead(entity, &reach);
        let Some(suspect) = self.state.suspects.get_mut(&entity) else { return };
        suspect.tracked = Some(Tracked { at: now, share, rate, usual, passes: 0 });
        suspect.track_at = now;
        suspect.fruitless = 0;
        let Some(incident) = &mut suspect.open else { return };
        if incident.phase() != Phase::Suspected {
            // How far it reaches is news, as a phase is.
            if incident.widen(reach, grounds) {
                let (incident, phase) = (incident.id.clone(), incident.phase());
                changed.push(Changed { incident, at: now, phase });
            }
            return;
        }
        match suspect.last.take_if(|last| last.comes_back_as(p, now, &reach)) {
            Some(mut last) => {
                last.reopen(now, grounds.clone());
                last.widen(reach, grounds);
                self.state.ended.retain(|(_, ended, _)| ended.id != last.id);
                *incident = last;
            }
            None => incident.confirm(now, reach, grounds, rate),
        }
        incident.part_of = incident.part_of.take().or(lead);
        let id = incident.id.clone();
        self.note_standing();
        changed.push(Changed { incident: id, at: now, phase: Phase::Confirmed });
    }
}
