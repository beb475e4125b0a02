use proptest::prelude::*;
use tocsin_proto::catalogue::Catalogue;

use super::{
    super::fixed::{ONE, share},
    blame::dispersion,
    *,
};

const P: &Params = &Params::DEFAULT;

/// What an observer of the crowd below runs.
fn standing(observer: u32) -> Standing {
    Standing {
        country: Country::UNKNOWN,
        zone: None,
        asn: 0,
        slot: 0,
        version: (observer % 3) as u16,
        resolver: (observer % 2) as u8,
    }
}

const NOW: Timestamp = Timestamp::from_s(1_800_000_000);
const DUE: Timestamp = NOW.plus_ms(P.panel_due_ms);
const SECRET: [u8; 32] = [7; 32];

/// Forty sites: twenty behind the edge `big`, eight behind `small`, the others behind `rest`;
/// `nested` is the aux of twelve behind `big`.
fn plan() -> Plan {
    let mut text = "schema = 1\nversion = 1\n".to_owned();
    for id in ["big", "small", "rest", "nested"] {
        text += &format!("[[provider]]\nid = \"{id}\"\nname = \"{id}\"\norganisation = \"{id}\"\n");
    }
    for at in 0..40 {
        let edge = match at {
            0..20 => "big",
            20..28 => "small",
            _ => "rest",
        };
        let role = |role: &str, provider: &str| {
            format!("{{ role = \"{role}\", provider = \"{provider}\", evidence = \"operator\" }}")
        };
        let mut roles = vec![role("edge", edge)];
        if at < 12 {
            roles.push(role("aux", "nested"));
        }
        text += &format!(
            "[[target]]\nindex = {at}\nid = \"t{at}\"\nname = \"t\"\nhost = \"t{at}.test\"\n\
             roles = [{}]\n",
            roles.join(", ")
        );
    }
    Plan::new(&Catalogue::parse(&text).unwrap())
}

fn entity(plan: &Plan, name: &str) -> EntityIndex {
    plan.entities().find(|(_, entity)| entity.provider.as_str() == name).unwrap().0
}

/// 160 observers in 80 networks and 8 zones.
fn crowd() -> Vec<Candidate> {
    (0..160u32)
        .map(|n| Candidate {
            country: Country::UNKNOWN,
            observer: n,
            weight: ONE,
            zone: (n % 8) as u8,
            slot: n.into(),
            asn: n / 2,
            version: (n % 3) as u16,
            resolver: (n % 4) as u8,
        })
        .collect()
}

struct Asked {
    plan: Plan,
    panel: Panel,
    asks: Vec<Ask>,
    secret: [u8; 32],
}

fn ask(kind: Kind, of: &str, secret: [u8; 32]) -> Asked {
    let plan = plan();
    let panel = Panel::new(entity(&plan, of), kind, 1, 1, NOW);
    let mut asked = Asked { plan, panel, asks: Vec::new(), secret };
    asked.round(NOW);
    asked
}

impl Asked {
    fn round(&mut self, now: Timestamp) {
        let none = BTreeSet::new();
        let scene = Scene {
            now,
            plan: &self.plan,
            crowd: &crowd(),
            rivals: &none,
            shadows: &none,
            dead: &BTreeSet::new(),
            secret: &self.secret,
        };
        self.asks = self.panel.begin_round(P, &scene);
    }

    /// Everybody for whom `says` has an answer gives it.
    fn answer(&mut self, says: impl Fn(u32, u16) -> Option<bool>) {
        self.answer_over(says, |_, _| Family::V4);
    }

    fn answer_over(
        &mut self,
        says: impl Fn(u32, u16) -> Option<bool>,
        family: impl Fn(u32, u16) -> Family,
    ) {
        for Ask { observer, nonce, targets, .. } in self.asks.clone() {
            for target in targets {
                if let Some(failed) = says(observer, target.0) {
                    let who = (observer, &standing(observer));
                    let family = family(observer, target.0);
                    self.panel.answer(who, nonce, target, (failed, true), family);
                }
            }
        }
    }

    fn step(&mut self, now: Timestamp) -> Step {
        self.panel.step(P, now, &self.plan, &Settings::default(), |_| true)
    }
}

#[test]
fn nobody_can_foretell_who_is_asked_what() {
    let asks = |secret| ask(Kind::Screening, "big", [secret; 32]).asks;
    assert_eq!(asks(1), asks(1));
    let (one, other) = (asks(1), asks(2));
    assert_ne!(one, other);
    let nonces: BTreeSet<u64> = one.iter().chain(&other).map(|ask| ask.nonce).collect();
    assert_eq!(nonces.len(), one.len() + other.len(), "a nonce is of one ask");
    assert!((40..=P.panel_screen + 8).contains(&one.len()), "{}", one.len());
    for ask in one {
        let behind = ask.targets.iter().filter(|target| target.0 < 20).count();
        assert_eq!((behind, ask.targets.len()), (P.panel_sites_many, P.panel_probes()));
    }
}

#[test]
fn a_majority_of_those_asked_confirms_and_few_refute() {
    let mut asked = ask(Kind::Full, "small", SECRET);
    assert_eq!(asked.asks.len(), 160, "everybody");
    asked.answer(|observer, target| Some((20..28).contains(&target) && observer % 10 < 8));
    assert_eq!(asked.step(NOW.plus_ms(1_000)), Step::Wait, "it must hold twice");
    let Step::Confirmed(found) = asked.step(NOW.plus_ms(2_000)) else { panic!() };
    assert!(found.share >= 750_000 && found.holds, "{found:?}");
    let mut asked = ask(Kind::Full, "small", SECRET);
    asked.answer(|observer, target| Some((20..28).contains(&target) && observer % 20 == 0));
    assert!(matches!(asked.step(DUE), Step::Refuted(_)));
}

#[test]
fn where_everything_fails_now_and_then_nothing_stands_out() {
    let mut asked = ask(Kind::Full, "small", SECRET);
    let mut now = NOW;
    for round in 1..=P.panel_rounds {
        // A quarter of all that is asked for, of whomever.
        let fails = |observer: u32, target: u16| {
            let mixed = (u64::from(observer) << 24 | u64::from(target) << 8 | u64::from(round))
                .wrapping_mul(0x9e37_79b9_7f4a_7c15);
            mixed >> 62 == 0
        };
        asked.answer(|observer, target| Some(fails(observer, target)));
        now = now.plus_ms(P.panel_due_ms);
        match asked.step(now) {
            Step::Round => asked.round(now),
            Step::Refuted(found) | Step::Inconclusive(found) => {
                assert!(found.share < P.panel_stop_share, "round {round}: {found:?}");
                return;
            }
            step => panic!("{step:?}"),
        }
    }
}

#[test]
fn a_site_that_is_down_by_itself_is_not_asked_about_for_its_provider() {
    let plan = plan();
    let all = plan.entity(entity(&plan, "small")).targets.clone();
    let asked_of = |dead: usize| {
        let dead: BTreeSet<TargetIndex> = all.iter().copied().take(dead).collect();
        let none = BTreeSet::new();
        let mut panel = Panel::new(entity(&plan, "small"), Kind::Full, 1, 1, NOW);
        let scene = Scene {
            now: NOW,
            plan: &plan,
            crowd: &crowd(),
            rivals: &none,
            shadows: &none,
            dead: &dead,
            secret: &SECRET,
        };
        let asks = panel.begin_round(P, &scene);
        let asked = asks.iter().flat_map(|ask| ask.targets.iter().copied());
        asked.filter(|target| all.contains(target)).collect::<BTreeSet<_>>().len()
    };
    assert_eq!((all.len(), asked_of(0), asked_of(2)), (8, 8, 6));
    // So many that it may be the provider, and too few others to tell.
    assert_eq!(asked_of(6), 8);
}

#[test]
fn a_narrow_majority_waits_for_the_others_and_is_drawn_again_if_it_stays_narrow() {
    let come_to = |in_all: u32| {
        let mut asked = ask(Kind::Full, "big", SECRET);
        asked.panel.draw = 0;
        let sees = |observer: u32, of_twenty: u32| observer * 7 % 20 < of_twenty;
        asked.answer(|observer, target| sees(observer, 11).then_some(target < 20));
        for seconds in 1..7 {
            assert_eq!(asked.step(NOW.plus_ms(seconds * 1_000)), Step::Wait, "{seconds}");
        }
        asked.answer(|observer, target| {
            (!sees(observer, 11)).then_some(target < 20 && sees(observer, in_all))
        });
        asked.step(DUE)
    };
    assert!(matches!(come_to(11), Step::DrawAgain { .. }), "{:?}", come_to(11));
    assert!(matches!(come_to(14), Step::Confirmed(_)), "{:?}", come_to(14));
}

#[test]
fn quick_liars_decide_nothing_before_the_others_have_answered() {
    let mut asked = ask(Kind::Full, "small", SECRET);
    asked.answer(|observer, target| (observer % 10 < 3).then_some((20..28).contains(&target)));
    for second in 1..7 {
        assert_eq!(asked.step(NOW.plus_ms(second * 1_000)), Step::Wait);
    }
    asked.answer(|_, _| Some(false));
    let Step::Round = asked.step(DUE) else { panic!("30 % is no majority and not nothing") };
}

#[test]
fn silence_and_dead_lines_say_nothing() {
    let mut silent = ask(Kind::Full, "small", SECRET);
    assert_eq!(silent.step(DUE), Step::Unanswered);
    // A few who see it are no panel either; it is asked again.
    silent.answer(|observer, target| (observer < 20).then_some((20..28).contains(&target)));
    assert_eq!([silent.step(DUE), silent.step(DUE)], [Step::Round, Step::Round]);
    let mut dead = ask(Kind::Full, "small", SECRET);
    dead.answer(|_, _| Some(true));
    assert_eq!(dead.step(DUE), Step::Unanswered, "whose controls fail has no vote");
}

#[test]
fn answers_count_under_their_own_nonce_alone() {
    let mut asked = ask(Kind::Full, "small", SECRET);
    let asks = asked.asks.clone();
    for Ask { observer, nonce, targets, .. } in &asks {
        for target in targets {
            // By another, or under a nonce that was never given.
            asked.panel.answer(
                (observer + 1, &standing(observer + 1)),
                *nonce,
                *target,
                (target.0 >= 20, true),
                Family::V4,
            );
            asked.panel.answer(
                (*observer, &standing(*observer)),
                nonce + 1,
                *target,
                (target.0 >= 20, true),
                Family::V4,
            );
        }
    }
    assert_eq!(asked.step(DUE), Step::Unanswered);
}

#[test]
fn one_dead_site_is_no_dead_provider() {
    let mut asked = ask(Kind::Full, "small", SECRET);
    asked.answer(|_, target| Some(target == 20));
    assert!(matches!(asked.step(DUE), Step::Refuted(_)));
}

#[test]
fn where_the_rival_is_absent_it_must_fail_as_well() {
    // What is nested in the edge fails: the edge's other sites do not.
    let mut asked = ask(Kind::Full, "big", SECRET);
    asked.answer(|_, target| Some(target < 12));
    asked.step(DUE);
    let found = asked.panel.find(P, &asked.plan, &Settings::default(), true, |_| true);
    assert!(found.share >= P.confirm, "{found:?}");
    let attributed = found.reasons.iter().find(|r| r.rule == "c5.attributed").unwrap();
    assert!(!attributed.held && attributed.found.contains("nested"), "{attributed:?}");
    let mut asked = ask(Kind::Full, "nested", SECRET);
    asked.answer(|_, target| Some(target < 12));
    asked.step(DUE);
    assert!(matches!(asked.step(DUE), Step::Confirmed(_)));
}

#[test]
fn some_sites_that_fail_are_nobodys_by_luck() {
    // Ten of the edge's twenty fail, and happen to be among the twelve of what is nested.
    let rival = |fails: fn(u16) -> bool| {
        let mut asked = ask(Kind::Full, "big", SECRET);
        asked.answer(|_, target| Some(target < 20 && fails(target)));
        let (sites, _) = asked.panel.counts(P);
        asked.panel.rival(P, &asked.plan, &sites).is_some()
    };
    assert!(rival(|target| target < 12), "all of them, and none else");
    assert!(!rival(|target| target < 5), "five of twelve, and none of eight");
    assert!(!rival(|target| target % 2 == 0), "half of both");
}

#[test]
fn what_one_family_alone_sees_is_not_said_of_the_world() {
    let family = |_: u32, target: u16| match target % 2 {
        0 => Family::V4,
        _ => Family::V6,
    };
    let find = |fails: fn(u16) -> bool, liars: u32| {
        let mut asked = ask(Kind::Full, "big", SECRET);
        let says = |observer: u32, target: u16| {
            Some(target < 20 && if observer % 10 < liars { target % 2 == 1 } else { fails(target) })
        };
        asked.answer_over(says, family);
        let found = asked.panel.find(P, &asked.plan, &Settings::default(), true, |_| true);
        (found.holds, found.over)
    };
    assert_eq!(find(|_| true, 0), (true, None), "over both");
    assert_eq!(find(|target| target % 2 == 1, 0), (false, Some(Family::V6)));
    assert_eq!(find(|_| true, 3), (true, None), "liars say that all is well over IPv4");
}

#[test]
fn dispersion_is_that_of_the_textbook() {
    // Rates 1, 1, 0, 0 of ten answers each: chi-squared 40 over 3.
    assert_eq!(dispersion(&[(10, 10), (10, 10), (10, 0), (10, 0)]), 13_333_333);
    assert_eq!(dispersion(&[(10, 10), (7, 7)]), ONE);
    assert_eq!(dispersion(&[(10, 5), (10, 5)]), ONE, "at least one");
    assert_eq!(dispersion(&[]), ONE);
}

proptest! {
    /// Attackers move the share by no more than their part of the crowd.
    #[test]
    fn liars_are_worth_their_number(liars in 0u32..80) {
        let mut asked = ask(Kind::Full, "small", SECRET);
        asked.answer(|observer, target| {
            Some((20..28).contains(&target) && observer * 7 % 160 < liars)
        });
        let found = asked.panel.find(P, &asked.plan, &Settings::default(), true, |_| true);
        let part = share(i64::from(liars), 160);
        prop_assert!(found.share <= part + 60_000, "{} {part}", found.share);
        prop_assert!(!found.holds || liars >= 80);
    }
}
