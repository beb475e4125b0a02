use super::*;
use tocsin_proto::{
    incident::{Confidence, LiarBound, Transition},
    sign::SecretKey,
    snapshot::{Crowd, Overall, ParametersInForce, Sites},
    time::Timestamp,
};

const NOW: Timestamp = Timestamp::from_s(1_800_000_000);

pub(crate) fn catalogue() -> &'static Catalogue {
    Catalogue::builtin()
}

/// A site behind an edge.
pub(crate) fn site() -> &'static Target {
    let edge = |target: &&Target| target.provider(Layer::Edge).is_some();
    catalogue().targets().values().find(edge).unwrap()
}

fn look(outcome: Outcome, dns: DnsPath) -> Look {
    Look { family: Family::V4, outcome, rule: RuleNumber::NONE, dns, status: 0, total_ms: 20 }
}

pub(crate) fn plain(outcome: Outcome) -> Look {
    look(outcome, DnsPath::Unconfirmed)
}

fn over_v6(outcome: Outcome) -> Look {
    Look { family: Family::V6, ..plain(outcome) }
}

fn others(outcomes: &[Look]) -> Vec<Control> {
    let host = |n: usize| format!("control{n}.invalid");
    outcomes.iter().enumerate().map(|(n, look)| Control { host: host(n), look: *look }).collect()
}

pub(crate) fn incident(factor: Factor, phase: Phase, scope: Scope) -> Incident {
    Incident {
        id: "x".to_owned(),
        title: factor.to_string(),
        factor,
        organisation: None,
        part_of: None,
        scope,
        phase,
        started_at: NOW,
        transitions: vec![Transition { at: NOW, phase }],
        relapses: 0,
        reported_late: false,
        share_permille: 900,
        peak_permille: 900,
        symptoms: Vec::new(),
        targets: Vec::new(),
        regions: Vec::new(),
        networks: Vec::new(),
        reasons: Vec::new(),
        ruled_out: Vec::new(),
        confidence: Confidence::High,
        liar_bound: LiarBound::default(),
        parameters: 1,
    }
}

pub(crate) fn edge_of(target: &Target) -> Factor {
    let provider = target.provider(Layer::Edge).unwrap().clone();
    Factor::Provider { provider, role: Layer::Edge }
}

pub(crate) fn feed(incidents: Vec<Incident>, well: bool) -> Feed {
    let well = if well { vec![site().id.clone()] } else { Vec::new() };
    Feed {
        age_ms: 5_000,
        live: true,
        country: "FR".parse().ok(),
        asn: 64_500,
        snapshot: Snapshot {
            people: Vec::new(),
            public: Default::default(),
            schema: 1,
            operator: SecretKey::from_seed(&[1; 32]).public(),
            sequence: 1,
            at: NOW,
            overall: Overall::Quiet,
            crowd: Crowd::default(),
            settings: Vec::new(),
            parameters: ParametersInForce::default(),
            attribution: String::new(),
            incidents,
            cells: Vec::new(),
            sites: Sites { window_s: 300, well, ..Sites::default() },
        },
    }
}

/// Everything well but the site, which times out.
fn evidence(feeds: Vec<Feed>) -> Evidence<'static> {
    Evidence {
        target: Some(site()),
        looks: vec![plain(Outcome::TcpTimeout)],
        controls: others(&[plain(Outcome::Ok); 4]),
        line: OwnLine { route: Some(true), collector: Some(true), ..OwnLine::default() },
        resolver: Some("local"),
        feeds,
    }
}

fn cause(evidence: &Evidence<'_>) -> Cause {
    evidence.diagnose(catalogue()).cause
}

fn is_incident(cause: &Cause, factor: &Factor) -> bool {
    matches!(cause, Cause::Incident(incident) if incident.factor == *factor)
}

#[test]
fn the_own_line_is_looked_at_from_the_inside_out() {
    let dead = |line| Evidence {
        looks: vec![plain(Outcome::TcpTimeout)],
        controls: others(&[plain(Outcome::TcpTimeout); 4]),
        line,
        ..evidence(vec![feed(Vec::new(), true)])
    };
    let line = OwnLine { route: Some(true), ..OwnLine::default() };
    let check = |line, expected| assert_eq!(cause(&dead(line)), expected);
    check(OwnLine { route: Some(false), gateway: Some(false), ..line }, Cause::Link);
    let dead_line = Cause::Line { tunnel: false };
    check(OwnLine { route: Some(false), collector: Some(true), ..line }, dead_line.clone());
    check(OwnLine { no_portal: Some(false), ..line }, Cause::Portal);
    check(OwnLine { gateway: Some(false), ..line }, Cause::Gateway);
    check(OwnLine { gateway: Some(true), ..line }, dead_line.clone());
    check(line, dead_line);
    check(OwnLine { tunnel: true, ..line }, Cause::Line { tunnel: true });
    // Certificates that have run out everywhere are this machine's clock.
    let expired = |clock| Evidence {
        looks: vec![plain(Outcome::TlsCertExpired)],
        controls: others(&[plain(Outcome::TlsCertExpired); 3]),
        line: OwnLine { clock, ..line },
        ..evidence(Vec::new())
    };
    assert_eq!(cause(&expired(None)), Cause::Clock);
    assert_eq!(cause(&expired(Some(false))), Cause::Clock);
    assert_ne!(cause(&expired(Some(true))), Cause::Clock);
}

#[test]
fn a_resolver_is_told_from_a_name() {
    let own = look(Outcome::DnsTimeout, DnsPath::SystemOnly);
    let alone = Evidence { looks: vec![own], ..evidence(Vec::new()) };
    assert_eq!(cause(&alone), Cause::Resolver { this_name_alone: true });
    let all = Evidence { controls: others(&[own; 3]), ..alone };
    assert_eq!(cause(&all), Cause::Resolver { this_name_alone: false });
    // Port 53 is closed to all but the resolver, and a collector is reached by its address.
    let silent = plain(Outcome::DnsTimeout);
    let closed = Evidence { looks: vec![silent], controls: others(&[silent; 3]), ..all };
    assert_eq!(cause(&closed), Cause::Resolver { this_name_alone: false });
    let line = OwnLine { collector: Some(false), ..closed.line };
    let closed = Evidence { line, ..closed };
    assert_eq!(cause(&closed), Cause::Line { tunnel: false });
    // It answers that nothing exists; or everything is at one place that is no site's: a portal's way.
    let all = |outcome| Evidence {
        looks: vec![plain(outcome)],
        controls: others(&[plain(outcome); 3]),
        ..closed.clone()
    };
    let resolver = Cause::Resolver { this_name_alone: false };
    assert_eq!(cause(&all(Outcome::DnsNxdomain)), resolver);
    assert_eq!(cause(&all(Outcome::DnsNonPublic)), Cause::Portal);
    assert_eq!(cause(&all(Outcome::DnsServfail)), Cause::Line { tunnel: false });
    // A resolver that hides the name is no name without an address.
    let hidden = look(Outcome::DnsNodata, DnsPath::SystemOnly);
    let hides = Evidence { looks: vec![hidden], ..evidence(vec![feed(Vec::new(), true)]) };
    assert_eq!(cause(&hides), Cause::Resolver { this_name_alone: true });
}

#[test]
fn one_family_is_told_from_the_site() {
    let looks = vec![plain(Outcome::Ok), over_v6(Outcome::TcpTimeout)];
    let dead = [Outcome::TcpTimeout, Outcome::TcpUnreachable].map(over_v6);
    let dead = [plain(Outcome::Ok), dead[0], dead[1]];
    let own = Evidence { looks, controls: others(&dead), ..evidence(Vec::new()) };
    let diagnosis = own.diagnose(catalogue());
    assert_eq!(diagnosis.works, Works::NotOver(Family::V6));
    assert_eq!(diagnosis.cause, Cause::Family(Family::V6));
    // One control is no proof; nor is it said then that it is only you.
    let one = Evidence {
        controls: others(&dead[..2]),
        feeds: vec![feed(Vec::new(), true)],
        ..own.clone()
    };
    assert_eq!(cause(&one), Cause::Unknown(Why::OneFamily));
    // The site has no other family.
    let only = Evidence {
        looks: vec![over_v6(Outcome::TcpTimeout), plain(Outcome::DnsNodata)],
        ..own.clone()
    };
    assert_eq!(cause(&only), Cause::Family(Family::V6));
    // Others answer over it: it is the site's, or that of what is before it.
    let controls = others(&[plain(Outcome::Ok), over_v6(Outcome::Ok)]);
    let scope = Scope::Family { family: Family::V6 };
    let edge = incident(edge_of(site()), Phase::Confirmed, scope);
    let sites = Evidence { controls, feeds: vec![feed(vec![edge], false)], ..own };
    assert!(is_incident(&cause(&sites), &edge_of(site())));
    // Over a family that it has no address for nothing is wrong.
    let looks = vec![plain(Outcome::Ok), over_v6(Outcome::DnsNodata)];
    let none = Evidence { looks, ..evidence(vec![feed(Vec::new(), true)]) };
    let expected = Diagnosis { works: Works::Yes, cause: Cause::Nothing };
    assert_eq!(none.diagnose(catalogue()), expected);
}

#[test]
fn an_incident_explains_what_fits_it() {
    let confirmed = |factor, scope| incident(factor, Phase::Confirmed, scope);
    let edge = confirmed(edge_of(site()), Scope::Global);
    let found = |incidents| cause(&evidence(vec![feed(incidents, false)]));
    assert!(is_incident(&found(vec![edge.clone()]), &edge.factor));
    // The site's own is nearer.
    let own = confirmed(Factor::Site { target: site().id.clone() }, Scope::Site);
    assert!(is_incident(&found(vec![edge.clone(), own.clone()]), &own.factor));
    // Elsewhere is not here.
    let regional = |countries: &[&str]| Scope::Regional {
        zones: Vec::new(),
        countries: countries.iter().map(|country| country.parse().unwrap()).collect(),
    };
    let far = confirmed(edge_of(site()), regional(&["JP"]));
    assert_eq!(found(vec![far]), Cause::Unknown(Why::TooFew));
    let near = confirmed(edge_of(site()), regional(&["JP", "FR"]));
    assert!(is_incident(&found(vec![near]), &edge.factor));
    // Names that fail are not the edge's fault.
    let names = Evidence {
        looks: vec![look(Outcome::DnsServfail, DnsPath::Both)],
        ..evidence(vec![feed(vec![edge.clone()], false)])
    };
    assert_eq!(cause(&names), Cause::Unknown(Why::TooFew));
    // Another's edge is not this one's.
    let other = Factor::Provider { provider: "nobody".parse().unwrap(), role: Layer::Edge };
    let found_other = found(vec![confirmed(other, Scope::Global)]);
    assert_eq!(found_other, Cause::Unknown(Why::TooFew));
    // What is suspected is said to be so; what is over is not said.
    let suspected = Incident { phase: Phase::Suspected, ..edge.clone() };
    assert!(matches!(found(vec![suspected]), Cause::Suspicion(_)));
    let over = Incident { phase: Phase::Resolved, ..edge.clone() };
    assert_eq!(found(vec![over]), Cause::Unknown(Why::TooFew));
    // It works from here, and is told of all the same.
    let fine = Evidence {
        looks: vec![plain(Outcome::Ok)],
        ..evidence(vec![feed(vec![edge.clone()], false)])
    };
    let diagnosis = fine.diagnose(catalogue());
    assert_eq!(diagnosis.works, Works::Yes);
    assert!(is_incident(&diagnosis.cause, &edge.factor));
}

#[test]
fn what_is_known_of_our_network_says_more_than_that_the_line_is_dead() {
    let of = |factor| {
        let incident = incident(factor, Phase::Confirmed, Scope::Observers);
        Evidence {
            controls: others(&[plain(Outcome::TcpTimeout); 4]),
            ..evidence(vec![feed(vec![incident], true)])
        }
    };
    let own = Factor::Network { asn: 64_500 };
    assert!(is_incident(&cause(&of(own.clone())), &own));
    let dead = Cause::Line { tunnel: false };
    assert_eq!(cause(&of(Factor::Network { asn: 64_501 })), dead);
    // Who reaches all else is not cut off with the network; whose names resolve, not by its resolver.
    let network = incident(own.clone(), Phase::Confirmed, Scope::Observers);
    let resolver = Factor::NetworkResolver { asn: 64_500 };
    let resolver = incident(resolver, Phase::Confirmed, Scope::Observers);
    let feeds = vec![feed(vec![network, resolver], true)];
    assert_eq!(cause(&evidence(feeds)), Cause::OnlyYou);
    let country = Factor::Country { country: "FR".parse().unwrap() };
    assert!(is_incident(&cause(&of(country.clone())), &country));
}

#[test]
fn only_you_is_said_where_others_were_seen_to_reach_it_now() {
    let with = |feeds| cause(&evidence(feeds));
    assert_eq!(with(vec![feed(Vec::new(), true)]), Cause::OnlyYou);
    assert_eq!(with(vec![feed(Vec::new(), false)]), Cause::Unknown(Why::TooFew));
    let old = |incidents, age_ms| Feed { age_ms, live: false, ..feed(incidents, true) };
    assert_eq!(with(vec![old(Vec::new(), FRESH_MS + 1)]), Cause::Unknown(Why::NoNews));
    // An incident is told of for longer, where nothing newer is known.
    let edge = incident(edge_of(site()), Phase::Confirmed, Scope::Global);
    let kept = old(vec![edge.clone()], OLD_MS);
    assert!(is_incident(&with(vec![kept.clone()]), &edge.factor));
    assert_eq!(with(vec![feed(Vec::new(), true), kept]), Cause::OnlyYou);
    let older = old(vec![edge], OLD_MS + 1);
    assert_eq!(with(vec![older]), Cause::Unknown(Why::NoNews));
    assert_eq!(with(Vec::new()), Cause::Unknown(Why::NoNews));
    let mut failing = feed(Vec::new(), false);
    let counts = SiteCounts {
        target: site().id.clone(),
        observed: 100,
        failing: 40,
        prefixes: 30,
        regions: 7,
    };
    failing.snapshot.sites.failing.push(counts.clone());
    assert_eq!(with(vec![failing]), Cause::OthersToo(counts));
    // What is well for most may be closed to all who are where we are.
    let there = |region: Region| {
        let there = SiteThere {
            region,
            target: site().id.clone(),
            observed: 20,
            failing: 20,
            prefixes: 9,
            networks: 4,
        };
        let mut feed = feed(Vec::new(), true);
        feed.country = Some("FR".parse().unwrap());
        feed.snapshot.sites.failing_there.push(there.clone());
        (with(vec![feed]), there)
    };
    for region in ["FR", "DE"] {
        let (cause, there) = there(Region::Country(region.parse().unwrap()));
        let expected = if region == "FR" { Cause::HereToo(there) } else { Cause::OnlyYou };
        assert_eq!(cause, expected);
    }
    let (met, zone) = there(Region::Zone(zone_of("FR".parse().unwrap()).unwrap().clone()));
    assert_eq!(met, Cause::HereToo(zone));
    let unlisted = Evidence { target: None, ..evidence(vec![feed(Vec::new(), true)]) };
    assert_eq!(cause(&unlisted), Cause::Unknown(Why::Unlisted));
    let alone = Evidence { line: OwnLine::default(), ..evidence(Vec::new()) };
    assert_eq!(cause(&alone), Cause::Unknown(Why::NoCollector));
    let mixed = [Outcome::Ok, Outcome::TcpTimeout, Outcome::TcpTimeout, Outcome::TlsTimeout];
    let shaky =
        Evidence { controls: others(&mixed.map(plain)), ..evidence(vec![feed(Vec::new(), true)]) };
    assert_eq!(cause(&shaky), Cause::Unknown(Why::Unsteady));
}

#[test]
fn a_control_that_is_down_for_everybody_tells_nothing_of_the_line() {
    // All that was looked at stands behind one edge that is down, but for two that answer.
    let behind = |target: &&Target| target.provider(Layer::Edge) == site().provider(Layer::Edge);
    let down = catalogue().targets().values().filter(behind).skip(1).take(3);
    let mut controls: Vec<Control> = down
        .map(|target| Control { host: target.host.clone(), look: plain(Outcome::TcpTimeout) })
        .collect();
    assert_eq!(controls.len(), 3);
    controls.extend(others(&[plain(Outcome::Ok), plain(Outcome::Ok)]));
    let edge = incident(edge_of(site()), Phase::Confirmed, Scope::Global);
    let evidence = Evidence { controls, ..evidence(vec![feed(vec![edge], false)]) };
    assert!(is_incident(&cause(&evidence), &edge_of(site())));
}
