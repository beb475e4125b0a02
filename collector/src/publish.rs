//! From the detector to what readers get. Pure: the same state gives the same documents.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    sync::Arc,
};

use data_encoding::HEXLOWER;
use tocsin_proto::{
    bounded::Bytes,
    catalogue::Catalogue,
    delegation::SignedDelegation,
    human::HumanSuspicion,
    id::{Country, Id, TargetIndex},
    incident::{
        Affected, AffectedNetwork, AffectedRegion, AffectedTarget, Factor, Incident, Phase, SCHEMA,
        Scope, Symptom,
    },
    message::SignedSnapshot,
    rules::RuleTable,
    sign::{Domain, PublicKey, SecretKey, sha256},
    snapshot::{
        Cell, CellState, Crowd, Overall, ParametersInForce, Public, SiteCounts, SiteThere, Sites,
        Snapshot, Subject as CellSubject,
    },
};

use crate::{
    engine::{
        cells::{Cells, Key, LONG_MINUTES, PREFIXES_MIN, SHORT_MINUTES},
        detector::{Detector, Shown, Subject, Symptoms},
        fixed::permille,
        groups::{self, Group},
        incident::{Reach, Region},
        params::{self, Parameter, Settings},
        people::{Heard, People},
        seen::{Of, SeenBy},
    },
    feed::{PeopleCurve, Published},
};

/// Incidents in a snapshot at most; the open ones come first.
const INCIDENTS_MAX: usize = 100;
/// Sites that are told of as failing, at most.
const SITES_FAILING_MAX: usize = 200;
/// Networks of a region that must have looked at a site before it is said to fail there.
const NETWORKS_THERE_MIN: u32 = 3;
/// A site is well where less than one observation in so many fails: under 5 %, as for [`CellState::Ok`].
const SITE_WELL_PART: u64 = 20;
/// Networks with fewer observers are not named.
const NETWORK_OBSERVERS_MIN: u32 = 3;
/// Relapses from which a cell is said to flap.
const FLAPPING: u32 = 2;

/// Who publishes.
#[derive(Debug)]
pub struct Publisher {
    /// The pinned operator key.
    pub operator: PublicKey,
    /// The feed key.
    pub feed: SecretKey,
    /// What the operator has said of it.
    pub delegations: Vec<SignedDelegation>,
    /// Attribution that the location data asks for.
    pub attribution: String,
    /// Who runs this.
    pub public: Public,
    /// What [`parameters`] says of the detector's numbers.
    pub parameters: Arc<String>,
}

impl Publisher {
    /// Makes and signs everything, from the detector as it stands.
    ///
    /// # Panics
    /// Never: a document is cut to its bound before it is signed.
    #[must_use]
    pub fn publish(
        &self,
        detector: &Detector,
        cells: &Cells,
        people: &People,
        sequence: u64,
    ) -> Published {
        let mut incidents: Vec<Incident> =
            detector.incidents().into_iter().map(|shown| incident(detector, shown)).collect();
        incidents.sort_by_key(|incident| {
            (!incident.phase.is_open(), incident.phase == Phase::Retracted)
        });
        incidents.truncate(INCIDENTS_MAX);
        let crowd = crowd(detector);
        let (now, plan, catalogue) = (detector.now(), detector.plan(), detector.catalogue());
        let read = |minutes| {
            let standing = |key| standing(detector, key);
            cells.read(now, minutes, catalogue, plan, standing)
        };
        let (cells_5m, cells_1h) = (read(SHORT_MINUTES), read(LONG_MINUTES));
        let providers = |cell: &&Cell| matches!(cell.subject, CellSubject::Provider { .. });
        let mut snapshot = Snapshot {
            schema: SCHEMA,
            operator: self.operator,
            sequence,
            at: now,
            overall: overall(&incidents, &crowd),
            crowd,
            settings: detector.settings().differences(),
            parameters: in_force(&self.parameters),
            attribution: self.attribution.clone(),
            incidents,
            cells: cells_5m.iter().filter(providers).cloned().collect(),
            sites: sites(&cells_5m, SHORT_MINUTES),
            public: self.public.clone(),
            people: said_of(people, catalogue),
        };
        let document = loop {
            let json = serde_json::to_vec(&snapshot).expect("a snapshot is plain data");
            if let Ok(document) = Bytes::new(json) {
                break document;
            }
            // Too much to say at once: the cells are served apart, so they give way.
            let half = snapshot.cells.len() / 2;
            if half > 0 { snapshot.cells.truncate(half) } else { drop(snapshot.incidents.pop()) }
        };
        let signature = self.feed.sign(Domain::Snapshot, &document);
        let signed = Arc::new(SignedSnapshot { signature, document });
        let delegations = self.delegations.clone();
        let parameters = Arc::clone(&self.parameters);
        let people = curves(people, catalogue);
        Published { snapshot, signed, cells_5m, cells_1h, people, parameters, delegations }
    }
}

/// Sites of which more people than usual say that they do not work.
fn said_of(people: &People, catalogue: &Catalogue) -> Vec<HumanSuspicion> {
    let enough = |heard: &Heard| heard.prefixes as usize >= PREFIXES_MIN;
    let raised = people.raised().into_iter().filter(enough).take(SITES_FAILING_MAX);
    let told = raised.filter_map(|heard| {
        let target = catalogue.target(heard.target)?.id.clone();
        let Heard { since, prefixes, networks, countries, usual_permille, trouble, .. } = heard;
        let trouble = trouble.name().to_owned();
        Some(HumanSuspicion {
            target,
            since: since?,
            prefixes,
            networks,
            countries,
            usual_permille,
            trouble,
        })
    });
    told.collect()
}

/// The curves of what people say. Points of few prefixes say nothing to strangers.
fn curves(people: &People, catalogue: &Catalogue) -> Vec<PeopleCurve> {
    let told = people.curves().filter_map(|(target, points)| {
        let target = catalogue.target(target)?;
        let points: Vec<_> =
            points.into_iter().filter(|(_, prefixes)| *prefixes as usize >= PREFIXES_MIN).collect();
        let told = !points.is_empty();
        told.then(|| PeopleCurve { target: target.id.clone(), host: target.host.clone(), points })
    });
    told.collect()
}

/// Every number of the detector, of the version that incidents name, with what this operator has set.
#[must_use]
pub fn parameters(settings: &Settings) -> String {
    let document = serde_json::json!({
        "schema": SCHEMA,
        "version": params::VERSION,
        "dated": params::DATED,
        "parameters": settings.table(),
    });
    format!("{document:#}\n")
}

/// What the snapshot, which is signed, says of that document.
#[must_use]
pub fn in_force(document: &str) -> ParametersInForce {
    ParametersInForce {
        version: params::VERSION,
        dated: params::DATED.to_owned(),
        sha256: HEXLOWER.encode(&sha256(&[document.as_bytes()])),
    }
}

/// The same as a page.
#[must_use]
pub fn parameters_page(settings: &Settings) -> String {
    let mut page = format!(
        "# The numbers of the detector\n\n\
         Made by `tocsin-collector parameters`, never typed. Version {}, of {}; the version stands with every \
         incident, and `/api/v1/parameters` of a collector has the same with what its operator has set. \
         Shares, times and votes are in millionths, bits in 1/65536, probes in millionths of one of an agent. \
         What has a dot in its name is set under that name; all others under `[detector.parameters]`. \
         *Raised* tells what happens when it is raised; lowered, the contrary. Ask `tocsin-collector replay --set \
         NAME=VALUE` what another one would have changed.\n",
        params::VERSION,
        params::DATED,
    );
    let mut section = "";
    for of in settings.table() {
        if of.section != section {
            section = of.section;
            write!(
                page,
                "\n## {section}\n\nFrom: {}.\n\n| number | default | unit | what it does | raised |\n\
                 |---|---:|---|---|---|\n",
                of.source
            )
            .expect("a text takes more");
        }
        let value = match of.value == of.default {
            true => of.default.to_string(),
            false => format!("{} (set: {})", of.default, of.value),
        };
        let Parameter { name, unit, meaning, raised, .. } = of;
        writeln!(page, "| `{name}` | {value} | {unit} | {meaning} | {raised} |")
            .expect("a text takes more");
    }
    page
}

/// What the cells say of sites, everywhere taken together.
#[must_use]
pub fn sites(cells: &[Cell], minutes: u64) -> Sites {
    let mut all: BTreeMap<&Id, SiteCounts> = BTreeMap::new();
    for cell in cells {
        let CellSubject::Target(target) = &cell.subject else { continue };
        let counts = all.entry(target).or_insert_with(|| SiteCounts {
            target: target.clone(),
            observed: 0,
            failing: 0,
            prefixes: 0,
            regions: 0,
        });
        counts.observed += cell.observed;
        counts.failing += cell.failing;
        counts.prefixes += cell.prefixes;
        counts.regions += u32::from(cell.failing > 0);
    }
    let failing_there = failing_there(cells, &all);
    let enough = |counts: &SiteCounts| counts.prefixes as usize >= PREFIXES_MIN;
    let (well, mut failing): (Vec<_>, Vec<_>) = all
        .into_values()
        .filter(enough)
        .partition(|counts| counts.failing * SITE_WELL_PART < counts.observed);
    // By their rates, without a division: a / b < c / d where a d < c b.
    failing.sort_by(|a, b| {
        let rate =
            |x: &SiteCounts, y: &SiteCounts| u128::from(x.failing) * u128::from(y.observed.max(1));
        rate(b, a).cmp(&rate(a, b)).then_with(|| a.target.cmp(&b.target))
    });
    failing.truncate(SITES_FAILING_MAX);
    Sites {
        window_s: u32::try_from(minutes * 60).unwrap_or(u32::MAX),
        well: well.into_iter().map(|counts| counts.target).collect(),
        failing,
        failing_there,
    }
}

/// Where sites fail for at least half of the looks, of those that do not for most of the world.
fn failing_there(cells: &[Cell], all: &BTreeMap<&Id, SiteCounts>) -> Vec<SiteThere> {
    let fails = |failing: u64, observed: u64| observed > 0 && 2 * failing >= observed;
    let mut there: Vec<SiteThere> = cells
        .iter()
        .filter(|cell| {
            cell.prefixes as usize >= PREFIXES_MIN
                && cell.networks >= NETWORKS_THERE_MIN
                && fails(cell.failing, cell.observed)
        })
        .filter_map(|cell| {
            let CellSubject::Target(target) = &cell.subject else { return None };
            all.get(target).filter(|counts| !fails(counts.failing, counts.observed))?;
            Some(SiteThere {
                region: cell.region.clone(),
                target: target.clone(),
                observed: cell.observed,
                failing: cell.failing,
                prefixes: cell.prefixes,
                networks: cell.networks,
            })
        })
        .collect();
    there.sort_by(|a, b| {
        (b.prefixes, &a.target, &a.region).cmp(&(a.prefixes, &b.target, &b.region))
    });
    there.truncate(SITES_FAILING_MAX);
    there
}

fn overall(incidents: &[Incident], crowd: &Crowd) -> Overall {
    let standing =
        |incident: &Incident| matches!(incident.phase, Phase::Confirmed | Phase::Recovering);
    let enough = crowd.observers >= crowd.observers_needed
        && crowd.networks >= crowd.networks_needed
        && crowd.zones >= crowd.zones_needed;
    if incidents.iter().any(standing) {
        Overall::Incident
    } else if !enough {
        Overall::InsufficientEvidence
    } else if crowd.eligible < crowd.observers_needed {
        Overall::YoungCrowd
    } else {
        Overall::Quiet
    }
}

fn crowd(detector: &Detector) -> Crowd {
    let (mut prefixes, mut networks, mut zones) =
        (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let settings = detector.settings();
    let mut crowd = Crowd {
        observers_needed: settings.crowd_observers,
        networks_needed: settings.crowd_networks,
        zones_needed: settings.crowd_zones,
        ..Crowd::default()
    };
    for observer in detector.online() {
        let vote = observer.vote;
        crowd.observers += 1;
        crowd.eligible += u32::from(vote.weight > 0 && vote.eligible.0 != 0);
        prefixes.insert(observer.standing.slot);
        networks.insert(observer.standing.asn);
        zones.extend(observer.standing.zone);
    }
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    crowd.prefixes = count(prefixes.len());
    crowd.networks = count(networks.len());
    crowd.zones = count(zones.len());
    crowd
}

fn standing(detector: &Detector, key: Key) -> Option<CellState> {
    let subject = match key {
        Key::Entity(entity) => Subject::Entity(entity),
        Key::Target(target) => Subject::Site(target),
    };
    let shown = detector
        .incidents()
        .into_iter()
        .find(|shown| shown.subject == subject && shown.incident.phase().is_open())?;
    match (shown.incident.phase(), shown.incident.relapses) {
        (_, FLAPPING..) => Some(CellState::Flapping),
        (Phase::Recovering, _) => Some(CellState::Recovering),
        _ => None,
    }
}

fn incident(detector: &Detector, shown: Shown<'_>) -> Incident {
    let Shown { subject, incident, symptoms } = shown;
    let open = incident.phase().is_open();
    let (factor, title, organisation) = match subject {
        Subject::Entity(entity) => {
            let suspect = detector.plan().entity(entity);
            let provider = detector.catalogue().providers().get(&suspect.provider);
            let name = provider.map_or(suspect.provider.as_str(), |p| p.name.as_str());
            let role = format!("{:?}", suspect.layer).to_ascii_lowercase();
            (
                Factor::Provider { provider: suspect.provider.clone(), role: suspect.layer },
                format!("{name} ({role})"),
                provider.map(|p| p.organisation.clone()),
            )
        }
        Subject::Site(target) => {
            let site = detector.catalogue().target(target).expect("sites are of the catalogue");
            (Factor::Site { target: site.id.clone() }, site.name.clone(), None)
        }
        Subject::Group(group) => {
            let factor = of_group(group);
            let title = factor.group_title().unwrap_or_default();
            (factor, title, None)
        }
    };
    let scope = match &incident.reach {
        Reach::Global => Scope::Global,
        Reach::Regional(regions) => {
            let (mut zones, mut countries) = (Vec::new(), Vec::new());
            for region in regions {
                match region {
                    Region::Zone(zone) => zones.extend(Detector::zone_name(*zone).cloned()),
                    Region::Country(country) => countries.push(*country),
                }
            }
            Scope::Regional { zones, countries }
        }
        Reach::Over(family) => Scope::Family { family: *family },
        Reach::Site => Scope::Site,
        Reach::Observers => Scope::Observers,
    };
    // A suspicion rests on nothing yet: what is seen of it now.
    let seen = match incident.phase() {
        Phase::Suspected => &detector.seen_by(subject),
        _ => &incident.grounds.seen,
    };
    let share = match subject {
        Subject::Entity(entity) => detector.shares(entity).share,
        Subject::Site(target) => detector.window(target).failure_rate(),
        Subject::Group(group) => detector.cut_share(group),
    };
    Incident {
        id: incident.id.clone(),
        factor,
        title,
        organisation,
        part_of: incident.part_of.clone(),
        scope,
        phase: incident.phase(),
        started_at: incident.started_at,
        transitions: incident.transitions.clone(),
        relapses: incident.relapses,
        reported_late: incident.late,
        share_permille: if open { permille(share) } else { 0 },
        peak_permille: permille(incident.peak),
        symptoms: words(symptoms),
        targets: targets(detector.catalogue(), seen),
        regions: regions(seen),
        networks: networks(seen),
        reasons: incident.grounds.reasons.clone(),
        ruled_out: incident.grounds.ruled_out.clone(),
        confidence: incident.grounds.confidence,
        liar_bound: incident.grounds.liar_bound,
        parameters: params::VERSION,
    }
}

fn of_group(group: Group) -> Factor {
    let unknown = || "unknown".parse::<Id>().expect("it is an identifier");
    match group {
        Group::Network(asn) => Factor::Network { asn },
        Group::OwnResolver(asn) => Factor::NetworkResolver { asn },
        Group::Country(country) => Factor::Country { country },
        Group::Zone(zone) => {
            Factor::Zone { zone: Detector::zone_name(zone).cloned().unwrap_or_else(unknown) }
        }
        Group::Resolver(class) => {
            let name = groups::resolver(class).replace('_', "-");
            Factor::Resolver { resolver: name.parse().unwrap_or_else(|_| unknown()) }
        }
        Group::Version(version) => Factor::ProbeCore { version },
    }
}

fn words(symptoms: &Symptoms) -> Vec<Symptom> {
    let mut words: Vec<Symptom> = symptoms
        .iter()
        .map(|((outcome, number), count)| {
            let rule = RuleTable::builtin().get(*number);
            Symptom {
                outcome: *outcome,
                rule: rule.map(|rule| rule.id.to_string()),
                text: rule.map(|rule| rule.text.clone()),
                count: *count,
            }
        })
        .collect();
    words.sort_by_key(|symptom| std::cmp::Reverse(symptom.count));
    words.truncate(12);
    words
}

fn affected<T>(what: T, of: &Of) -> Affected<T> {
    Affected { what, observed: of.observed, failing: of.failing }
}

fn targets(catalogue: &Catalogue, seen: &SeenBy) -> Vec<Affected<AffectedTarget>> {
    let of = |(target, of): (&TargetIndex, &Of)| {
        let entry = catalogue.target(*target)?;
        let what = AffectedTarget { target: entry.id.clone(), name: entry.name.clone() };
        Some(affected(what, of))
    };
    seen.targets.iter().filter_map(of).collect()
}

fn regions(seen: &SeenBy) -> Vec<Affected<AffectedRegion>> {
    let of = |(country, of): (&Country, &Of)| affected(AffectedRegion { country: *country }, of);
    seen.countries.iter().map(of).collect()
}

fn networks(seen: &SeenBy) -> Vec<Affected<AffectedNetwork>> {
    let many = |(_, of): &(&u32, &Of)| of.observed >= NETWORK_OBSERVERS_MIN;
    let of = |(asn, of): (&u32, &Of)| affected(AffectedNetwork { asn: *asn }, of);
    seen.networks.iter().filter(many).map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tocsin_proto::{snapshot::Region as CellRegion, time::Timestamp};

    #[test]
    fn sites_are_well_or_fail_or_were_seen_by_too_few() {
        let cell = |target: &str, country: &str, observed, failing, prefixes| Cell {
            region: CellRegion::Country(country.parse().unwrap()),
            subject: CellSubject::Target(target.parse().unwrap()),
            observed,
            failing,
            prefixes,
            networks: prefixes,
            newest_at: Timestamp::EPOCH,
            state: CellState::Ok,
        };
        let cells = [
            cell("good", "FR", 60, 1, 3),
            cell("good", "DE", 40, 0, 2),
            cell("bad", "FR", 10, 9, 4),
            cell("bad", "JP", 10, 0, 4),
            cell("worse", "FR", 10, 9, 9),
            cell("rare", "FR", 10, 10, 4),
        ];
        let sites = sites(&cells, 5);
        assert_eq!(sites.window_s, 300);
        assert_eq!(sites.well, ["good".parse().unwrap()]);
        let failing: Vec<_> = sites
            .failing
            .iter()
            .map(|of| (of.target.as_str(), of.failing, of.observed, of.prefixes, of.regions))
            .collect();
        assert_eq!(failing, [("worse", 9, 10, 9, 1), ("bad", 9, 20, 8, 1)]);
        assert_eq!(sites.failing_there, [], "too few, or everywhere");
    }

    #[test]
    fn what_one_country_cannot_reach_is_told_of_there() {
        let cell = |target: &str, country: &str, failing, (prefixes, networks)| Cell {
            region: CellRegion::Country(country.parse().unwrap()),
            subject: CellSubject::Target(target.parse().unwrap()),
            observed: 10,
            failing,
            prefixes,
            networks,
            newest_at: Timestamp::EPOCH,
            state: CellState::Ok,
        };
        let cells = [
            cell("blocked", "TR", 10, (7, 4)),
            cell("blocked", "FR", 0, (9, 5)),
            cell("blocked", "DE", 0, (9, 5)),
            cell("thin", "TR", 10, (4, 4)),
            cell("thin", "FR", 0, (20, 5)),
            cell("narrow", "TR", 10, (9, 2)),
            cell("narrow", "FR", 0, (20, 5)),
            cell("down", "TR", 10, (9, 5)),
            cell("down", "FR", 10, (9, 5)),
        ];
        let there = sites(&cells, 5).failing_there;
        let there: Vec<_> =
            there.iter().map(|of| (of.target.as_str(), of.region.to_string())).collect();
        assert_eq!(there, [("blocked", "TR".to_owned())]);
    }

    #[test]
    fn the_page_of_numbers_is_that_of_the_code() {
        let page = parameters_page(&Settings::default());
        let kept = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/PARAMETERS.md");
        let known = std::fs::read_to_string(kept).unwrap_or_default();
        assert!(
            page == known,
            "docs/PARAMETERS.md is old: cargo run --bin tocsin-collector -- parameters > docs/PARAMETERS.md"
        );
    }
}
