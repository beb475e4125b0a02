//! When is a suspicion worth asking about? Distinct networks that flag one entity within half a
//! minute or two, against the usual number, under a budget that liars cannot empty at will.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};
use tocsin_proto::time::Timestamp;

use super::{
    fixed::{ONE, Ppm, log2_q16, scale, smooth},
    panel::Kind,
    params::Params,
    plan::EntityIndex,
    tally::NOWHERE,
};

const DAY_MS: u64 = 86_400_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Flag {
    at: Timestamp,
    slot: u64,
    asn: u32,
    zone: u8,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
struct Alert {
    flags: VecDeque<Flag>,
    /// The usual number of networks in the short and the long window, in millionths.
    usual: [Ppm; 2],
    /// No panel before this.
    rest_until: Timestamp,
    rest_ms: u64,
    /// Networks of the trigger that led to the last panel.
    last: u32,
    /// What an inconclusive panel came to, and until when a screening must show more.
    star: Option<(Ppm, Timestamp)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
struct Strikes {
    count: u8,
    struck_at: Timestamp,
    muted_until: Timestamp,
    mute_ms: u64,
}

/// Probes an agent may be asked for, in millionths: fills over a day, up to a burst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Budget {
    left: i64,
    at: Timestamp,
}

impl Budget {
    /// One that has its burst, however large that is.
    pub const FULL: Self = Self { left: i64::MAX / 2, at: Timestamp::EPOCH };

    /// Whether it has so much.
    fn has(&mut self, now: Timestamp, day: i64, burst: i64, cost: i64) -> bool {
        let since = i64::try_from(now.since_ms(self.at).min(DAY_MS)).unwrap_or(0);
        self.left = (self.left + day * since / DAY_MS.cast_signed()).min(burst);
        self.at = now;
        self.left >= cost
    }

    /// Takes so much, where it has it.
    pub fn take(&mut self, now: Timestamp, day: i64, burst: i64, cost: i64) -> bool {
        let enough = self.has(now, day, burst, cost);
        self.left -= if enough { cost } else { 0 };
        enough
    }
}

/// Whether a round may be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Paid {
    /// Now.
    Yes,
    /// Not while so many are being asked: an agent answers only so many probes in a minute, and what
    /// is asked beyond them takes the answers away from every panel.
    NotYet,
    /// Not today.
    No,
}

/// A suspicion that is worth a panel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trigger {
    /// Networks that flag it.
    pub networks: u32,
}

/// What is flagged, how often that is usual, and what has been asked about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alerts {
    alerts: BTreeMap<EntityIndex, Alert>,
    strikes: BTreeMap<u64, Strikes>,
    screening: Budget,
    full: Budget,
    pace: Budget,
    forced_at: Timestamp,
}

impl Default for Alerts {
    fn default() -> Self {
        Self {
            alerts: BTreeMap::new(),
            strikes: BTreeMap::new(),
            screening: Budget::FULL,
            full: Budget::FULL,
            pace: Budget::FULL,
            forced_at: Timestamp::EPOCH,
        }
    }
}

/// Whether `n` or more events are this unlikely where `usual` (in millionths) are: the Chernoff
/// bound of the Poisson tail, P(X >= n) <= e^-m (e m / n)^n (Mitzenmacher and Upfal, Probability
/// and Computing, theorem 5.4), taken in bits. It asks for at most one more than the tail itself.
fn is_unusual(p: &Params, n: u32, usual: Ppm) -> bool {
    let n_ppm = i64::from(n) * ONE;
    let m = usual.max(1_000);
    if n_ppm <= m {
        return false;
    }
    // n log2(n/m) - (n - m) log2 e, in 1/65536 bits; log2 e is 94,548 of them.
    let ratio = log2_q16(n_ppm) - log2_q16(m);
    let bits = i64::from(n) * ratio - scale(n_ppm - m, 94_548);
    bits >= p.alert_alpha_bits_q16
}

impl Alerts {
    /// An observer flags an entity.
    pub fn flag(&mut self, now: Timestamp, entity: EntityIndex, slot: u64, asn: u32, zone: u8) {
        let muted = self.strikes.get(&slot).is_some_and(|strikes| now < strikes.muted_until);
        if muted {
            return;
        }
        let flags = &mut self.alerts.entry(entity).or_default().flags;
        flags.retain(|flag| flag.slot != slot);
        flags.push_back(Flag { at: now, slot, asn, zone });
    }

    /// Distinct networks that flag it within so long, no more than two prefixes of one; and zones.
    fn count(&self, p: &Params, now: Timestamp, entity: EntityIndex, span_ms: u64) -> (u32, usize) {
        let Some(alert) = self.alerts.get(&entity) else { return (0, 0) };
        let mut by_network: BTreeMap<u32, u32> = BTreeMap::new();
        let mut zones = BTreeSet::new();
        for flag in alert.flags.iter().rev() {
            if now.since_ms(flag.at) >= span_ms {
                break;
            }
            let count = by_network.entry(flag.asn).or_default();
            *count = (*count + 1).min(p.alert_per_network);
            if flag.zone != NOWHERE {
                zones.insert(flag.zone);
            }
        }
        (by_network.values().sum(), zones.len())
    }

    /// Networks that flag it within a minute.
    #[must_use]
    pub fn flagging(&self, p: &Params, now: Timestamp, entity: EntityIndex) -> u32 {
        self.count(p, now, entity, p.alert_beside_ms).0
    }

    /// Every ten seconds: what is usual, of entities that are not suspected.
    pub fn rest(
        &mut self,
        p: &Params,
        now: Timestamp,
        elapsed_ms: u64,
        online: i64,
        at_rest: impl Fn(EntityIndex) -> bool,
    ) {
        let most = scale(online, p.alert_usual_max);
        let entities: Vec<EntityIndex> = self.alerts.keys().copied().collect();
        for entity in entities {
            let counts =
                [p.alert_short_ms, p.alert_long_ms].map(|span| self.count(p, now, entity, span).0);
            let Some(alert) = self.alerts.get_mut(&entity) else { continue };
            if at_rest(entity) {
                for (usual, count) in alert.usual.iter_mut().zip(counts) {
                    let count = i64::from(count) * ONE;
                    *usual = smooth(*usual, count, elapsed_ms, p.alert_usual_tau_ms).min(most);
                }
            }
            while alert.flags.front().is_some_and(|flag| now.since_ms(flag.at) >= p.alert_long_ms) {
                alert.flags.pop_front();
            }
        }
    }

    /// Whether an entity is worth a panel now.
    #[must_use]
    pub fn trigger(&self, p: &Params, now: Timestamp, entity: EntityIndex) -> Option<Trigger> {
        let alert = self.alerts.get(&entity)?;
        if alert.flags.len() < p.alert_min as usize {
            return None;
        }
        let spans = [p.alert_short_ms, p.alert_long_ms];
        let worth = spans.into_iter().zip(alert.usual).any(|(span, usual)| {
            let (networks, zones) = self.count(p, now, entity, span);
            networks >= p.alert_min && zones >= p.zones_min && is_unusual(p, networks, usual)
        });
        let networks = self.count(p, now, entity, p.alert_short_ms).0;
        let rested = now >= alert.rest_until || networks >= 2 * alert.last.min(8) + 3;
        (worth && rested).then_some(Trigger { networks })
    }

    /// Pays for a round of so many probes by a crowd of so many; one that `must` be is not held back by
    /// what was asked today.
    pub fn pay(
        &mut self,
        p: &Params,
        now: Timestamp,
        kind: Kind,
        probes: usize,
        online: usize,
        must: bool,
    ) -> Paid {
        let cost = probes as i64 * ONE / (online.max(1) as i64);
        // Of confirmed incidents; the agents' own caps bound these.
        if kind == Kind::Tracking {
            return Paid::Yes;
        }
        if !self.pace.has(now, p.panel_pace_day, p.panel_pace_burst, cost) {
            return Paid::NotYet;
        }
        let paid = match kind {
            Kind::Screening => {
                let paid = self.screening.take(now, p.panel_screen_day, p.panel_screen_burst, cost);
                // What much of the crowd cries must be looked at, whoever emptied the budget.
                let forced = must && now.since_ms(self.forced_at) >= p.panel_forced_every_ms;
                if !paid && forced {
                    self.forced_at = now;
                }
                paid || forced
            }
            Kind::Full => self.full.take(now, p.panel_full_day, p.panel_full_burst, cost) || must,
            Kind::Tracking => true,
        };
        if !paid {
            return Paid::No;
        }
        self.pace.take(now, p.panel_pace_day, p.panel_pace_burst, cost);
        Paid::Yes
    }

    /// A panel was begun on a trigger.
    pub fn asked(&mut self, entity: EntityIndex, trigger: Trigger) {
        if let Some(alert) = self.alerts.get_mut(&entity) {
            alert.last = trigger.networks;
        }
    }

    /// What a screening must show before the full panel is called.
    #[must_use]
    pub fn bar(&self, p: &Params, now: Timestamp, entity: EntityIndex) -> Ppm {
        let star = self.alerts.get(&entity).and_then(|alert| alert.star);
        star.filter(|(_, until)| now < *until)
            .map_or(0, |(share, _)| share.min(p.panel_star_max) + p.panel_star_step)
    }

    /// A panel came to nothing: a rest that doubles, and strikes for those who raised it.
    pub fn refuted(&mut self, p: &Params, now: Timestamp, entity: EntityIndex, share: Ppm) {
        let Some(alert) = self.alerts.get_mut(&entity) else { return };
        alert.rest_ms = (alert.rest_ms * 2).clamp(p.panel_backoff_ms, p.panel_backoff_max_ms);
        alert.rest_until = now.plus_ms(alert.rest_ms);
        self.strike(p, now, entity, if share < p.strike_double_below { 2 } else { 1 });
    }

    /// Nothing can be asked, or nobody answers: a rest, and no blame.
    pub fn pause(&mut self, p: &Params, now: Timestamp, entity: EntityIndex) {
        let alert = self.alerts.entry(entity).or_default();
        alert.rest_until = now.plus_ms(p.panel_backoff_ms);
        alert.last = alert.last.max(8);
    }

    /// Strikes for those who raised it.
    fn strike(&mut self, p: &Params, now: Timestamp, entity: EntityIndex, points: u8) {
        let Some(alert) = self.alerts.get_mut(&entity) else { return };
        let slots: Vec<u64> = alert.flags.iter().map(|flag| flag.slot).collect();
        alert.flags.clear();
        for slot in slots {
            let strikes = self.strikes.entry(slot).or_default();
            strikes.count += points;
            strikes.struck_at = now;
            if strikes.count >= p.strikes_max {
                strikes.count = 0;
                strikes.mute_ms = (strikes.mute_ms * 2).clamp(p.strike_ms, DAY_MS);
                strikes.muted_until = now.plus_ms(strikes.mute_ms);
            }
        }
    }

    /// A panel could not tell.
    pub fn inconclusive(&mut self, p: &Params, now: Timestamp, entity: EntityIndex, share: Ppm) {
        let alert = self.alerts.entry(entity).or_default();
        alert.star = Some((share, now.plus_ms(p.panel_star_ms)));
        alert.rest_ms =
            (alert.rest_ms * 2).clamp(2 * p.panel_backoff_ms, 2 * p.panel_backoff_max_ms);
        alert.rest_until = now.plus_ms(alert.rest_ms);
        self.strike(p, now, entity, 1);
    }

    /// It was confirmed: who raised it was right.
    pub fn confirmed(&mut self, entity: EntityIndex) {
        if let Some(alert) = self.alerts.get_mut(&entity) {
            for flag in &alert.flags {
                self.strikes.remove(&flag.slot);
            }
            *alert = Alert { usual: alert.usual, ..Alert::default() };
        }
    }

    /// What was confirmed explains what was flagged so far: who still sees it elsewhere says so again.
    pub fn explained(&mut self, entity: EntityIndex) {
        if let Some(alert) = self.alerts.get_mut(&entity) {
            alert.flags.clear();
        }
    }

    /// Once in a while: strikes that are long over.
    pub fn forget(&mut self, now: Timestamp) {
        self.strikes
            .retain(|_, strikes| now.since_ms(strikes.muted_until.max(strikes.struck_at)) < DAY_MS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const P: &Params = &Params::DEFAULT;

    const NOW: Timestamp = Timestamp::from_s(1_800_000_000);
    const IT: EntityIndex = EntityIndex(3);

    #[test]
    fn unusual_is_one_in_a_thousand() {
        // Smallest n with P(X >= n) <= 0.001 for means 0.01, 0.1, 1 and 4: 2, 3, 6, 12; the bound asks one or two more.
        for (usual, least) in [(10_000, 2), (100_000, 3), (ONE, 7), (4 * ONE, 14)] {
            assert!(is_unusual(P, least, usual) && !is_unusual(P, least - 1, usual), "{usual}");
        }
    }

    #[test]
    fn three_networks_in_three_zones_are_worth_asking_about() {
        let mut alerts = Alerts::default();
        for n in 0..3 {
            assert_eq!(alerts.trigger(P, NOW, IT), None);
            alerts.flag(NOW, IT, n, n as u32, n as u8);
        }
        assert_eq!(alerts.trigger(P, NOW, IT), Some(Trigger { networks: 3 }));
        assert_eq!(alerts.trigger(P, NOW.plus_ms(P.alert_long_ms), IT), None, "it is over");
        // One network, or one zone, is not enough.
        let mut alerts = Alerts::default();
        for n in 0..9 {
            alerts.flag(NOW, IT, n, 1, n as u8);
        }
        assert_eq!(alerts.trigger(P, NOW, IT), None);
        let mut alerts = Alerts::default();
        for n in 0..9 {
            alerts.flag(NOW, IT, n, n as u32, 1);
        }
        assert_eq!(alerts.trigger(P, NOW, IT), None);
    }

    #[test]
    fn crying_wolf_costs_the_right_to_cry() {
        let mut alerts = Alerts::default();
        let cry = |alerts: &mut Alerts, now: Timestamp| {
            for n in 0..3 {
                alerts.flag(now, IT, n, n as u32, n as u8);
            }
            alerts.trigger(P, now, IT).is_some()
        };
        assert!(cry(&mut alerts, NOW));
        alerts.refuted(P, NOW, IT, 0);
        assert!(!cry(&mut alerts, NOW.plus_ms(600_000)), "muted for an hour");
        let later = NOW.plus_ms(P.strike_ms + 1);
        assert!(cry(&mut alerts, later));
        alerts.refuted(P, later, IT, 0);
        assert!(!cry(&mut alerts, later.plus_ms(P.strike_ms + 1)), "and for two the next time");
        alerts.confirmed(IT);
    }

    #[test]
    fn the_budget_bounds_what_can_be_asked_in_a_day() {
        let mut alerts = Alerts::default();
        let asked = (0..2_000u64)
            .map(|n| alerts.pay(P, NOW.plus_ms(n * 43_200), Kind::Full, 4_800, 1_000, false))
            .filter(|paid| *paid == Paid::Yes)
            .count();
        // 4.8 probes an agent each: a burst of 400 and 600 over the day.
        assert!((190..=209).contains(&asked), "{asked}");
    }

    #[test]
    fn no_more_is_asked_at_once_than_an_agent_answers() {
        let mut alerts = Alerts::default();
        let pay = |alerts: &mut Alerts, s: u64| {
            alerts.pay(P, NOW.plus_ms(s * 1000), Kind::Full, 1_200, 100, true)
        };
        let asked = (0..60).filter(|s| pay(&mut alerts, *s) == Paid::Yes).count();
        // Of an agent's sixty in a minute, whatever for.
        assert!(asked * 12 < 60 && asked >= 4, "{asked}");
        assert_eq!([0, 0].map(|_| pay(&mut alerts, 600)), [Paid::Yes; 2], "two at once");
        assert_eq!(pay(&mut alerts, 600), Paid::NotYet);
    }
}
