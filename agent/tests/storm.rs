//! A hostile collector: it asks for the fastest schedule and, every second, for whatever hurts one site most, and every
//! probe fails, so that every failure is verified too. The caps hold in each agent, and the load on a site in the crowd,
//! whoever holds the collector.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::{collections::BTreeMap, sync::Arc};

use tocsin_agent::engine::{
    core::{Core, Effect, Finding},
    courtesy::{
        ASKED_DAY_ALL_MAX, ASKED_DAY_MAX, Courtesy, MINUTE_MAX, TARGET_HOUR_MAX, TARGET_MINUTE_MAX,
    },
    planner::{Purpose, Request, Setup},
};
use tocsin_proto::{
    bounded::List,
    catalogue::Catalogue,
    id::TargetIndex,
    implicate::{DnsPath, Layer},
    message::AskBack,
    observation::Family,
    outcome::Outcome,
    rules::RuleNumber,
    time::Timestamp,
};

const START: Timestamp = Timestamp::from_s(1_800_000_000);
const DAY_BYTES: u64 = 30_000_000;
/// What a look and its verification cost at their dearest: certificates and a page that is pushed.
const PROBE_BYTES: u64 = 9_000;
const SECOND: u64 = 1_000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

fn finding(outcome: Outcome, bytes: u64) -> Finding {
    Finding {
        outcome,
        rule: RuleNumber::NONE,
        dns: DnsPath::Both,
        status: 0,
        phases_ms: [1; 4],
        total_ms: 300,
        bytes,
        retry_after_s: None,
        body_comes: Some(true),
    }
}

/// What a collector asks in a second.
type Asks = dyn Fn(u64) -> Vec<AskBack>;

fn ask(second: u64, n: u64, targets: Vec<TargetIndex>, layer: Layer, standing: bool) -> AskBack {
    let nonce = second << 8 | n;
    AskBack { nonce, targets: List::new(targets).unwrap(), layer: layer as u8, standing }
}

/// An agent for some time under a collector, looked at every `step` seconds; each start that it makes. Its probes have
/// failed by the next look.
fn live(
    catalogue: &Arc<Catalogue>,
    seed: [u8; 32],
    asks: &Asks,
    seconds: u64,
    step: usize,
) -> Vec<(Timestamp, Request)> {
    let setup = Setup {
        catalogue: Arc::clone(catalogue),
        families: vec![Family::V4, Family::V6],
        seed,
        probes_per_minute_max: u16::MAX,
    };
    let mut core = Core::new(setup, Courtesy::new(DAY_BYTES), 60);
    let (mut starts, mut running): (Vec<(Timestamp, Request)>, Vec<_>) = (Vec::new(), Vec::new());
    drop(core.schedule(START, u16::MAX, 0));
    for second in (0..seconds).step_by(step) {
        let now = START.plus_ms(second * SECOND);
        let mut effects = Vec::new();
        for (at, request) in std::mem::take(&mut running) {
            let (_, more) =
                core.found(now, at, request, &finding(Outcome::TlsTimeout, PROBE_BYTES));
            effects.extend(more);
        }
        for ask in asks(second) {
            effects.extend(core.ask(now, ask));
        }
        effects.extend(core.tick(now));
        for effect in effects {
            if let Effect::Probe(request) = effect {
                starts.push((now, request));
                running.push((now, request));
            }
        }
    }
    starts
}

/// The most starts within any span.
fn most_within(times: &[Timestamp], span: u64) -> usize {
    let mut from = 0;
    let mut most = 0;
    for (at, time) in times.iter().enumerate() {
        while time.since_ms(times[from]) >= span {
            from += 1;
        }
        most = most.max(at + 1 - from);
    }
    most
}

fn times(starts: &[(Timestamp, Request)], of: impl Fn(&Request) -> bool) -> Vec<Timestamp> {
    starts.iter().filter(|(_, request)| of(request)).map(|(at, _)| *at).collect()
}

#[test]
fn the_caps_of_one_agent_hold_for_two_days_of_storm() {
    let catalogue = Arc::new(Catalogue::builtin().clone());
    let indices: Vec<TargetIndex> = catalogue.targets().keys().copied().collect();
    let (one, many) = (indices[0], indices.clone());
    let storms: [(&str, Box<Asks>); 3] = [
        // One site, sixteen times in each of four asks a second, under every pretext.
        (
            "one site",
            Box::new(move |second| {
                let layers = [Layer::Dns, Layer::Edge, Layer::Issuer, Layer::Site];
                let asks = layers.into_iter().zip(0..);
                asks.map(|(layer, n)| ask(second, n, vec![one; 16], layer, n % 2 == 0)).collect()
            }),
        ),
        // All sites in turn, with the incident's larger allowance.
        (
            "all sites",
            Box::new(move |second| {
                let some = many.iter().cycle().skip(second as usize * 16 % many.len()).take(16);
                vec![ask(second, 0, some.copied().collect(), Layer::Tld, true)]
            }),
        ),
        // Numbers that no catalogue has.
        (
            "no sites",
            Box::new(|second| {
                vec![ask(
                    second,
                    0,
                    (0..16).map(|n| TargetIndex(u16::MAX - n)).collect(),
                    Layer::Edge,
                    true,
                )]
            }),
        ),
    ];
    for (name, asks) in &storms {
        let starts = live(&catalogue, [7; 32], asks, 2 * DAY / SECOND, 1);
        assert!(starts.len() > 100, "{name}: the schedule goes on: {}", starts.len());
        assert!(most_within(&times(&starts, |_| true), MINUTE) <= MINUTE_MAX, "{name}");
        let mut by_target: BTreeMap<TargetIndex, Vec<Timestamp>> = BTreeMap::new();
        for (at, request) in &starts {
            assert!(catalogue.target(request.target).is_some(), "{name}: {request:?}");
            by_target.entry(request.target).or_default().push(*at);
        }
        for times in by_target.values() {
            assert!(most_within(times, MINUTE) <= TARGET_MINUTE_MAX, "{name}");
            assert!(most_within(times, HOUR) <= TARGET_HOUR_MAX, "{name}");
        }
        let asked = |with: fn(bool) -> bool| {
            times(
                &starts,
                |request| matches!(request.purpose, Purpose::Asked { standing, .. } if with(standing)),
            )
        };
        assert!(most_within(&asked(|_| true), DAY) <= ASKED_DAY_ALL_MAX, "{name}");
        assert!(most_within(&asked(|standing| !standing), DAY) <= ASKED_DAY_MAX, "{name}");
        // No rolling day passes its bytes but by what is under way when the bucket is full.
        let bytes = most_within(&times(&starts, |_| true), DAY) as u64 * PROBE_BYTES;
        let under_way = MINUTE_MAX as u64 * PROBE_BYTES;
        assert!(bytes <= DAY_BYTES + under_way, "{name}: {bytes} bytes in a day");
    }
}

#[test]
fn ten_thousand_agents_do_not_storm_a_site_whoever_asks() {
    const AGENTS: u32 = 10_000;
    const RPS: u32 = 10;
    const SPAN: u64 = 5 * MINUTE;
    // A few sites are enough: the lot is drawn for each by itself.
    let text: String = (0..12)
        .map(|n| {
            format!("[[target]]\nindex = {n}\nid = 's{n}'\nname = 'S'\nhost = 's{n}.example'\n")
        })
        .collect();
    let parse = |head: &str| {
        Arc::new(Catalogue::parse(&format!("schema = 1\nversion = 1\n{head}{text}")).unwrap())
    };
    let small = parse("");
    let large = parse(&format!("crowd = {AGENTS}\nmax_total_rps = {RPS}\n"));
    let victim = TargetIndex(3);
    let asks: Box<Asks> =
        Box::new(move |second| vec![ask(second, 0, vec![victim], Layer::Edge, true)]);
    // Requests of the victim in the busiest minute, and how many agents made any.
    let load = |catalogue: &Arc<Catalogue>, agents: u32| -> (usize, u32) {
        let (mut requests, mut who) = (Vec::new(), 0);
        for n in 0..agents {
            let mut seed = [9; 32];
            seed[..4].copy_from_slice(&n.to_le_bytes());
            let starts = live(catalogue, seed, &asks, SPAN / SECOND, 1);
            let own = times(&starts, |request| request.target == victim);
            who += u32::from(!own.is_empty());
            requests.extend(own);
        }
        requests.sort_unstable();
        (most_within(&requests, MINUTE), who)
    };
    // Without the lot everybody obeys: so many of them would make five looks a minute each.
    let (busiest, who) = load(&small, 20);
    assert_eq!((busiest, who), (20 * TARGET_MINUTE_MAX, 20));
    // With it the busiest minute keeps the bound, but for the chance of the draw: four deviations of 120 of 10,000.
    let (busiest, who) = load(&large, AGENTS);
    let most = RPS as usize * 60;
    assert!(
        busiest <= most + 4 * 11 * TARGET_MINUTE_MAX,
        "{busiest} in a minute, {most} are allowed"
    );
    assert!(busiest >= most / 2 && who > 0, "but they do look: {busiest}");
}

#[test]
fn each_day_another_share_of_the_crowd_looks() {
    let text = "schema = 1\nversion = 1\ncrowd = 100000\nmax_total_rps = 750\n\
                [[target]]\nindex = 0\nid = 'a'\nname = 'A'\nhost = 'a.example'\n\
                [[target]]\nindex = 1\nid = 'b'\nname = 'B'\nhost = 'b.example'\nmax_total_rps = 100000\n";
    let catalogue = Arc::new(Catalogue::parse(text).unwrap());
    let [a, b] = [0, 1].map(|n| catalogue.target(TargetIndex(n)).unwrap());
    // 750 a second for 100,000 agents of five a minute each.
    assert_eq!((catalogue.share_ppm(a), catalogue.share_ppm(b)), (90_000, 1_000_000));
    let asks: Box<Asks> = Box::new(move |second| {
        let at = second % 600 == 0;
        at.then(|| ask(second, 0, vec![TargetIndex(0)], Layer::Edge, false)).into_iter().collect()
    });
    let mut days: BTreeMap<u64, u32> = BTreeMap::new();
    for n in 0..40u8 {
        let starts = live(&catalogue, [n; 32], &asks, 8 * DAY / SECOND, 20);
        let of = |target| times(&starts, move |request| request.target == TargetIndex(target));
        assert!(of(1).len() > 1_000, "what has room is looked at by everybody");
        let seen: std::collections::BTreeSet<u64> =
            of(0).iter().map(|at| at.as_ms() / DAY).collect();
        seen.into_iter().for_each(|day| *days.entry(day).or_default() += 1);
    }
    // Nine of a hundred on a day; of forty, some on most days, and never many.
    assert!(days.len() >= 6, "{days:?}");
    assert!(days.values().all(|who| *who <= 12), "{days:?}");
}
