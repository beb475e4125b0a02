//! Counts for display: region by provider and region by target, over five minutes and an hour.
//! They decide nothing. Every number here can be counted again from the log.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use tocsin_proto::{
    catalogue::{Catalogue, Zones},
    id::{Country, Id, TargetIndex},
    implicate::{Implication, Layer, Says},
    snapshot::{Cell, CellState, Region, Subject},
    time::Timestamp,
};

use super::{
    admit::is_late,
    detector::Record,
    fixed::{Ppm, share},
    observer::Standing,
    plan::{EntityIndex, Plan},
};

/// Minutes of the short window.
pub const SHORT_MINUTES: u64 = 5;
/// Minutes of the long one; what is older is dropped.
pub const LONG_MINUTES: u64 = 60;
/// A region with fewer observers is folded into its zone, and says nothing by itself.
pub const OBSERVERS_MIN: usize = 3;
/// Of fewer prefixes nothing is said: keys are free, and one prefix has many.
pub const PREFIXES_MIN: usize = 5;

/// What a cell is about, in the engine's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Key {
    /// A provider in a role.
    Entity(EntityIndex),
    /// A target.
    Target(TargetIndex),
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
struct Row {
    /// Observed and failing, by minute.
    minutes: BTreeMap<u64, (u64, u64)>,
    /// When each observer last said something, with its prefix and network then.
    observers: BTreeMap<u32, Last>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Last {
    at: Timestamp,
    slot: u64,
    asn: u32,
}

#[derive(Debug, Default)]
struct Sum {
    observed: u64,
    failing: u64,
    observers: BTreeMap<u32, Last>,
}

/// All cells: a function of the log beside the detector, which never reads it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Cells {
    rows: BTreeMap<(Country, Key), Row>,
    forgot: u64,
}

const fn minute(at: Timestamp) -> u64 {
    at.as_ms() / 60_000
}

/// Which cells an observation is in, and whether it fails there: the target's always, an entity's
/// when the outcome blames or clears it. What says nothing of the target is not in its cell.
pub fn touched(
    plan: &Plan,
    target: TargetIndex,
    implication: &Implication,
) -> impl Iterator<Item = (Key, bool)> {
    let says = implication.says();
    let failed = says == Says::Fails;
    let behind = plan.behind(target);
    let blamed = behind.into_iter().flat_map(|b| b.blamed(implication));
    let half = behind.into_iter().flat_map(|b| b.half_blamed(implication));
    let cleared = behind.into_iter().flat_map(|b| b.cleared(implication));
    std::iter::once((Key::Target(target), failed))
        .filter(move |_| says != Says::Nothing)
        .chain(blamed.chain(half).map(|entity| (Key::Entity(entity), true)))
        .chain(cleared.map(|entity| (Key::Entity(entity), false)))
        // Top-level domains are told apart by the detector, and are no row of a table.
        .filter(|(key, _)| match key {
            Key::Entity(entity) => plan.entity(*entity).layer != Layer::Tld,
            Key::Target(_) => true,
        })
}

impl Cells {
    /// Takes one record; `now` is the time of the log.
    pub fn record(&mut self, now: Timestamp, plan: &Plan, record: &Record) {
        for (observed_at, observation) in record.report.timed() {
            if is_late(record.received_at, observed_at) || plan.behind(observation.target).is_none()
            {
                continue;
            }
            let touches = touched(plan, observation.target, observation.implication());
            self.count(now, record.observer, &record.standing, touches);
        }
        self.advance(now);
    }

    /// Lets time pass: once a minute, drops what is older than the long window.
    pub fn advance(&mut self, now: Timestamp) {
        if minute(now) != self.forgot {
            self.forgot = minute(now);
            self.forget(now);
        }
    }

    /// Counts an observation in every cell it touches.
    fn count(
        &mut self,
        now: Timestamp,
        observer: u32,
        standing: &Standing,
        touched: impl Iterator<Item = (Key, bool)>,
    ) {
        let last = Last { at: now, slot: standing.slot, asn: standing.asn };
        for (key, failing) in touched {
            let row = self.rows.entry((standing.country, key)).or_default();
            let counts = row.minutes.entry(minute(now)).or_default();
            counts.0 += 1;
            counts.1 += u64::from(failing);
            row.observers.insert(observer, last);
        }
    }

    fn forget(&mut self, now: Timestamp) {
        let oldest = minute(now).saturating_sub(LONG_MINUTES - 1);
        self.rows.retain(|_, row| {
            row.minutes = row.minutes.split_off(&oldest);
            row.observers.retain(|_, last| minute(last.at) >= oldest);
            !row.minutes.is_empty()
        });
    }

    /// The cells over the last `minutes`, the present one included. `standing` may replace the
    /// state of a cell whose subject has an incident.
    #[must_use]
    pub fn read(
        &self,
        now: Timestamp,
        minutes: u64,
        catalogue: &Catalogue,
        plan: &Plan,
        standing: impl Fn(Key) -> Option<CellState>,
    ) -> Vec<Cell> {
        let oldest = minute(now).saturating_sub(minutes - 1);
        let mut cells: BTreeMap<(Region, Key), Sum> = BTreeMap::new();
        for ((country, key), row) in &self.rows {
            let observers: BTreeMap<_, _> =
                row.observers.iter().filter(|(_, last)| minute(last.at) >= oldest).collect();
            if observers.is_empty() {
                continue;
            }
            let folded = observers.len() < OBSERVERS_MIN;
            let region = if folded { zone_of(*country) } else { Region::Country(*country) };
            let sum = cells.entry((region, *key)).or_default();
            for (observed, failing) in row.minutes.range(oldest..).map(|(_, counts)| counts) {
                sum.observed += observed;
                sum.failing += failing;
            }
            sum.observers.extend(observers);
        }
        cells
            .into_iter()
            .filter_map(|((region, key), sum)| {
                let subject = subject(key, catalogue, plan)?;
                Some(cell(region, subject, &sum, standing(key)))
            })
            .collect()
    }
}

fn zone_of(country: Country) -> Region {
    let zones = Zones::builtin();
    let zone: Option<&Id> = zones.of(country).and_then(|zone| zones.id(zone));
    zone.map_or(Region::Country(Country::UNKNOWN), |zone| Region::Zone(zone.clone()))
}

fn subject(key: Key, catalogue: &Catalogue, plan: &Plan) -> Option<Subject> {
    match key {
        Key::Entity(entity) => {
            let entity = plan.entity(entity);
            Some(Subject::Provider { provider: entity.provider.clone(), role: entity.layer })
        }
        Key::Target(target) => catalogue.target(target).map(|t| Subject::Target(t.id.clone())),
    }
}

fn cell(region: Region, subject: Subject, sum: &Sum, standing: Option<CellState>) -> Cell {
    let distinct = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    let prefixes: BTreeSet<u64> = sum.observers.values().map(|last| last.slot).collect();
    let networks: BTreeSet<u32> = sum.observers.values().map(|last| last.asn).collect();
    let newest_at = sum.observers.values().map(|last| last.at).max().unwrap_or_default();
    let state = if prefixes.len() < PREFIXES_MIN {
        CellState::InsufficientEvidence
    } else {
        standing.unwrap_or_else(|| by_rate(sum))
    };
    Cell {
        region,
        subject,
        observed: sum.observed,
        failing: sum.failing,
        prefixes: distinct(prefixes.len()),
        networks: distinct(networks.len()),
        newest_at,
        state,
    }
}

fn by_rate(sum: &Sum) -> CellState {
    let count = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    let rate: Ppm = share(count(sum.failing), count(sum.observed));
    match rate {
        ..50_000 => CellState::Ok,
        50_000..250_000 => CellState::Degraded,
        250_000..750_000 => CellState::Partial,
        _ => CellState::Down,
    }
}
