//! Answers as data, and what the classifier must make of them.

use proptest::prelude::*;
use serde::Deserialize;
use tocsin_agent::engine::classify::{
    KnownEdge, Response, Verdict, classify, classify_behind, wants_problem_json,
};
use tocsin_proto::rules::RuleTable;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Cases {
    response: Vec<Case>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    status: u16,
    headers: Vec<(String, String)>,
    #[serde(default)]
    body: String,
    #[serde(default)]
    bytes: Vec<u8>,
    #[serde(default)]
    pad: usize,
    host: Option<String>,
    edge: Option<String>,
    expect: String,
    rule: Option<String>,
    again: Option<bool>,
}

impl Case {
    fn body(&self) -> Vec<u8> {
        [vec![b' '; self.pad], self.body.clone().into_bytes(), self.bytes.clone()].concat()
    }

    fn with<R>(&self, headers: &[(String, String)], f: impl FnOnce(&Response<'_>) -> R) -> R {
        let headers: Vec<_> = headers.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        let host = self.host.as_deref().unwrap_or("www.example.org");
        f(&Response { status: self.status, headers: &headers, body: &self.body(), host })
    }

    fn verdict(&self, headers: &[(String, String)]) -> Verdict {
        let edge = match self.edge.as_deref() {
            None => KnownEdge::Unasked,
            Some("none") => KnownEdge::None,
            Some(id) => KnownEdge::Provider(id),
        };
        self.with(headers, |response| classify_behind(RuleTable::builtin(), response, edge))
    }
}

fn cases() -> Vec<Case> {
    let cases: Cases = toml::from_str(include_str!("responses.toml")).expect("valid cases");
    cases.response
}

#[test]
fn every_answer_is_taken_for_what_it_is() {
    let table = RuleTable::builtin();
    let mut wrong = Vec::new();
    for case in cases() {
        let verdict = case.verdict(&case.headers);
        let rule = table.get(verdict.rule).map(|rule| rule.id.clone());
        if verdict.outcome.name() != case.expect || rule != case.rule {
            wrong.push(format!(
                "{}: {} {rule:?}, expected {} {:?}",
                case.name, verdict.outcome, case.expect, case.rule
            ));
        }
        let again = case.with(&case.headers, wants_problem_json);
        if case.again.is_some_and(|expected| expected != again) {
            wrong.push(format!("{}: asks again: {again}", case.name));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn there_are_enough_answers_and_no_edge_rule_is_untried() {
    let cases = cases();
    assert!(cases.len() >= 70, "{}", cases.len());
    for rule in RuleTable::builtin().rules() {
        let tried = cases.iter().any(|case| case.rule.as_ref() == Some(&rule.id));
        let one_of_many = rule.id.starts_with("google.page.");
        let blames = matches!(
            rule.fault,
            tocsin_proto::rules::Fault::Edge | tocsin_proto::rules::Fault::Aux
        );
        assert!(tried || one_of_many || !blames, "{} is untried", rule.id);
    }
}

#[test]
fn without_its_headers_no_answer_blames_an_edge() {
    use tocsin_proto::rules::Fault;
    for case in cases() {
        let verdict = case.verdict(&[]);
        let fault = RuleTable::builtin().get(verdict.rule).map(|rule| rule.fault);
        assert!(!matches!(fault, Some(Fault::Edge | Fault::Aux)), "{}", case.name);
    }
}

fn case() -> impl Strategy<Value = Case> {
    prop::sample::select(cases())
}

proptest! {
    #[test]
    fn unknown_headers_change_nothing(
        case in case(),
        extra in prop::collection::vec(("[a-zA-Z-]{1,16}", "[ -~]{0,40}"), 0..6),
        front in any::<bool>(),
    ) {
        let known = RuleTable::builtin().header_names();
        let extra: Vec<_> = extra
            .into_iter()
            .filter(|(name, _)| !known.contains(name.to_ascii_lowercase().as_str()))
            .collect();
        let headers = if front {
            [extra, case.headers.clone()].concat()
        } else {
            [case.headers.clone(), extra].concat()
        };
        prop_assert_eq!(case.verdict(&headers), case.verdict(&case.headers));
    }

    #[test]
    fn the_order_and_case_of_headers_do_not_matter(
        (case, shuffled) in case().prop_flat_map(|case| {
            let headers = case.headers.clone();
            (Just(case), Just(headers).prop_shuffle())
        }),
    ) {
        prop_assert_eq!(case.verdict(&shuffled), case.verdict(&case.headers));
        let upper: Vec<_> =
            shuffled.iter().map(|(k, v)| (k.to_ascii_uppercase(), v.clone())).collect();
        prop_assert_eq!(case.verdict(&upper), case.verdict(&case.headers));
    }

    #[test]
    fn any_answer_gets_a_verdict(
        status in any::<u16>(),
        headers in prop::collection::vec(
            (
                prop_oneof![
                    "\\PC{0,12}",
                    prop::sample::select(
                        RuleTable::builtin().header_names().into_iter().map(str::to_owned).collect::<Vec<_>>()
                    ),
                ],
                prop_oneof!["\\PC{0,40}", "(https?:)?[/\\\\]{0,3}[@:.\\[\\]a-z0-9]{0,20}"],
            ),
            0..6,
        ),
        body in prop::collection::vec(any::<u8>(), 0..512),
        host in "\\PC{0,20}",
    ) {
        let headers: Vec<_> = headers.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        let response = Response { status, headers: &headers, body: &body, host: &host };
        let verdict = classify(RuleTable::builtin(), &response);
        let _asks = wants_problem_json(&response);
        let fault = RuleTable::builtin().get(verdict.rule).map(|rule| rule.fault);
        prop_assert!(status >= 400 || fault.is_none() || fault == Some(tocsin_proto::rules::Fault::Captive));
    }
}
