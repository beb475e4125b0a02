//! Hand-made states of the world, for the tests of the pages.

use std::sync::Arc;

use tocsin_proto::{
    bounded::Bytes,
    catalogue::Catalogue,
    delegation::{Delegation, KeyRole},
    id::Id,
    implicate::Layer,
    incident::{
        Affected, AffectedNetwork, AffectedRegion, AffectedTarget, Confidence, Factor, Incident,
        LiarBound, Phase, Reason, SCHEMA, Scope, Symptom, Transition,
    },
    message::SignedSnapshot,
    outcome::Outcome,
    sign::{Domain, SecretKey},
    snapshot::{Cell, CellState, Crowd, Overall, Public, Region, Snapshot, Subject},
    time::Timestamp,
};

use crate::feed::Published;

pub(super) const AT: Timestamp = Timestamp::from_ms(1_763_466_000_000);

pub(super) fn operator() -> SecretKey {
    SecretKey::from_seed(&[1; 32])
}

fn id(text: &str) -> Id {
    text.parse().unwrap()
}

pub(super) fn crowd() -> Crowd {
    Crowd {
        observers: 90,
        eligible: 84,
        prefixes: 88,
        networks: 30,
        zones: 5,
        observers_needed: 60,
        networks_needed: 4,
        zones_needed: 3,
    }
}

pub(super) fn incident(id_text: &str, phase: Phase) -> Incident {
    let started_at = AT.minus_ms(754_000);
    let targets = Catalogue::builtin().targets().values().take(12);
    let reason = |rule: &str, held, found: &str, needed: &str| Reason {
        rule: rule.to_owned(),
        held,
        found: found.to_owned(),
        needed: needed.to_owned(),
    };
    let mut transitions =
        vec![Transition { at: started_at.plus_ms(9_000), phase: Phase::Suspected }];
    if phase != Phase::Suspected {
        transitions.push(Transition { at: started_at.plus_ms(39_000), phase: Phase::Confirmed });
    }
    if !matches!(phase, Phase::Suspected | Phase::Confirmed) {
        transitions.push(Transition { at: started_at.plus_ms(700_000), phase });
    }
    Incident {
        part_of: None,
        id: id_text.to_owned(),
        factor: Factor::Provider { provider: id("cloudflare"), role: Layer::Edge },
        title: "Cloudflare (edge)".to_owned(),
        organisation: Some(id("cloudflare")),
        scope: Scope::Global,
        phase,
        started_at,
        transitions,
        relapses: 0,
        reported_late: false,
        share_permille: 873,
        peak_permille: 941,
        symptoms: vec![
            Symptom {
                outcome: Outcome::Http5xx,
                rule: Some("cf-500-html".to_owned()),
                text: Some(
                    "Cloudflare’s own error page: the edge answered, not the site".to_owned(),
                ),
                count: 1204,
            },
            Symptom { outcome: Outcome::TcpTimeout, rule: None, text: None, count: 31 },
        ],
        targets: targets
            .map(|target| Affected {
                what: AffectedTarget { target: target.id.clone(), name: target.name.clone() },
                observed: 84,
                failing: 77,
            })
            .collect(),
        regions: [("FR", 21, 20), ("DE", 18, 15), ("US", 30, 28)]
            .map(|(country, observed, failing)| Affected {
                what: AffectedRegion { country: country.parse().unwrap() },
                observed,
                failing,
            })
            .to_vec(),
        networks: [(3215, 6, 6), (3320, 5, 4), (7018, 9, 8)]
            .map(|(asn, observed, failing)| Affected {
                what: AffectedNetwork { asn },
                observed,
                failing,
            })
            .to_vec(),
        reasons: vec![
            reason("majority", true, "0.87 of the weight of 30 networks", "at least 0.50"),
            reason("zones", true, "5 of 5 zones above 0.25", "at least 3 zones, and 75 % of them"),
            reason("persistence", false, "1 round", "2 rounds in a row"),
        ],
        ruled_out: vec![reason(
            "common-mode",
            true,
            "failures of other providers: 3 of 812",
            "60 % of all providers failing alike",
        )],
        confidence: Confidence::Low,
        liar_bound: LiarBound { prefixes: 44, networks: 15, zones: 4 },
        parameters: 1,
    }
}

fn cells(factor: u64, down: bool) -> Vec<Cell> {
    let providers = [
        ("cloudflare", Layer::Edge),
        ("cloudflare", Layer::Dns),
        ("fastly", Layer::Edge),
        ("akamai", Layer::Edge),
        ("cloudfront", Layer::Edge),
        ("google", Layer::Edge),
        ("aws", Layer::Dns),
        ("aws", Layer::Hosting),
        ("meta", Layer::Edge),
    ];
    let subjects = providers
        .map(|(provider, role)| Subject::Provider { provider: id(provider), role })
        .into_iter()
        .chain(
            Catalogue::builtin().targets().values().take(30).map(|t| Subject::Target(t.id.clone())),
        );
    let regions = ["FR", "DE", "GB", "US", "BR", "JP", "IN", "AU"]
        .map(|country| Region::Country(country.parse().unwrap()))
        .into_iter()
        .chain([Region::Zone(id("africa"))]);
    let regions: Vec<Region> = regions.collect();
    let mut cells = Vec::new();
    for (n, subject) in subjects.enumerate() {
        for (r, region) in regions.iter().enumerate() {
            let observed = factor * (24 + (n * 7 + r * 5) as u64 % 40);
            let fails = down && (n == 0 || (n > 8 && n < 14 && r < 4));
            let (failing, state) = match (fails, r) {
                (_, 8) => (0, CellState::InsufficientEvidence),
                (true, 3) => (observed * 2 / 5, CellState::Partial),
                (true, _) => (observed * 9 / 10, CellState::Down),
                (false, _) => (u64::from((n + r) % 11 == 0), CellState::Ok),
            };
            cells.push(Cell {
                region: region.clone(),
                subject: subject.clone(),
                observed,
                failing,
                prefixes: 9 + r as u32,
                networks: 3 + r as u32 % 4,
                newest_at: AT.minus_ms(3_000),
                state,
            });
        }
    }
    cells
}

/// Signs a snapshot, as the collector does.
pub(super) fn published(overall: Overall, incidents: Vec<Incident>, sequence: u64) -> Published {
    let feed = SecretKey::from_seed(&[2; 32]);
    let cells_5m = cells(1, overall == Overall::Incident);
    let parameters = crate::publish::parameters(&crate::engine::params::Settings::default());
    let snapshot = Snapshot {
        schema: SCHEMA,
        operator: operator().public(),
        sequence,
        at: AT,
        overall,
        crowd: crowd(),
        settings: vec!["tenure_ramp_days = 0 (default 7)".to_owned()],
        parameters: crate::publish::in_force(&parameters),
        attribution: "IP location: iptoasn.com (public domain)".to_owned(),
        incidents,
        cells: cells_5m.iter().take(81).cloned().collect(),
        sites: crate::publish::sites(&cells_5m, 5),
        people: Vec::new(),
        public: Public::default(),
    };
    let document = serde_json::to_vec(&snapshot).unwrap();
    let delegation = Delegation {
        role: KeyRole::Feed,
        key: feed.public(),
        serial: 1,
        not_after: AT.plus_ms(86_400_000),
    };
    Published {
        signed: Arc::new(SignedSnapshot {
            signature: feed.sign(Domain::Snapshot, &document),
            document: Bytes::new(document).unwrap(),
        }),
        snapshot,
        cells_1h: cells(12, overall == Overall::Incident),
        people: Vec::new(),
        cells_5m,
        parameters: Arc::new(parameters),
        delegations: vec![delegation.sign(&operator())],
    }
}
