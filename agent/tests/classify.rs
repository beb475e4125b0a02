//! The rule table against shapes of answers, and what holds for any answer.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use std::collections::BTreeSet;

use proptest::prelude::*;
use serde::Deserialize;
use tocsin_agent::engine::classify::{
    HttpVerdict, Response, Verdict, classify, merge, wants_problem_json,
};
use tocsin_proto::rules::{Fault, RuleTable};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Shapes {
    response: Vec<Shape>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Shape {
    name: String,
    edge: Option<String>,
    #[serde(default = "asked_host")]
    host: String,
    status: u16,
    headers: Vec<(String, String)>,
    #[serde(default)]
    body: String,
    body_hex: Option<String>,
    pad: Option<(String, usize)>,
    #[serde(default)]
    tail: String,
    expect: String,
    rule: Option<String>,
    #[serde(default)]
    again: bool,
}

fn asked_host() -> String {
    "www.example.com".to_owned()
}

fn shapes() -> Vec<Shape> {
    toml::from_str::<Shapes>(include_str!("responses.toml")).unwrap().response
}

impl Shape {
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = match &self.body_hex {
            Some(hex) => (0..hex.len())
                .step_by(2)
                .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
                .collect(),
            None => self.body.clone().into_bytes(),
        };
        if let Some((unit, length)) = &self.pad {
            bytes.extend(unit.bytes().cycle().take(length - bytes.len()));
        }
        bytes.extend(self.tail.bytes());
        bytes
    }

    fn with<T>(&self, headers: &[(&str, &str)], test: impl FnOnce(&Response<'_>) -> T) -> T {
        let body = self.bytes();
        test(&Response { status: self.status, headers, body: &body, host: &self.host })
    }

    fn headers(&self) -> Vec<(&str, &str)> {
        self.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
    }
}

fn table() -> &'static RuleTable {
    RuleTable::builtin()
}

fn expected(text: &str) -> HttpVerdict {
    match text {
        "ok" => HttpVerdict::Ok,
        "challenged" => HttpVerdict::Challenged,
        "blocked" => HttpVerdict::Blocked,
        "client_error" => HttpVerdict::ClientError,
        "captive" => HttpVerdict::Captive,
        "edge" => HttpVerdict::ServerError { fault: Fault::Edge },
        "origin" => HttpVerdict::ServerError { fault: Fault::Origin },
        "aux" => HttpVerdict::ServerError { fault: Fault::Aux },
        "site" => HttpVerdict::ServerError { fault: Fault::Site },
        "unknown" => HttpVerdict::ServerError { fault: Fault::Unknown },
        other => panic!("{other:?} is no verdict"),
    }
}

#[test]
fn every_shape_gets_its_verdict() {
    let mut wrong = Vec::new();
    for shape in shapes() {
        let headers = shape.headers();
        let (verdict, again) = shape.with(&headers, |r| {
            (classify(table(), shape.edge.as_deref(), r), wants_problem_json(r))
        });
        let rule = verdict.rule.map(|rule| rule.id.as_str());
        let right = verdict.outcome == expected(&shape.expect)
            && rule == shape.rule.as_deref()
            && again == shape.again;
        if !right {
            wrong.push(format!("{}: {:?} by {rule:?}, again {again}", shape.name, verdict.outcome));
        }
    }
    assert!(wrong.is_empty(), "{} shapes\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn shapes_have_names_of_their_own_and_reach_every_rule() {
    let shapes = shapes();
    assert!(shapes.len() >= 70);
    let names: BTreeSet<_> = shapes.iter().map(|shape| &shape.name).collect();
    assert_eq!(names.len(), shapes.len());
    let reached: BTreeSet<_> = shapes.iter().filter_map(|shape| shape.rule.as_deref()).collect();
    let rules: BTreeSet<_> = table().rules().iter().map(|rule| rule.id.as_str()).collect();
    assert_eq!(reached.difference(&rules).next(), None, "a rule that is not in the table");
    let missed: Vec<_> = rules.difference(&reached).collect();
    assert!(missed.is_empty(), "rules without a shape: {missed:?}");
}

#[test]
fn an_edge_is_blamed_by_its_own_mark_only() {
    // The same page and status from a server that names itself never blames an edge.
    for shape in shapes() {
        let body = shape.bytes();
        for server in ["nginx/1.24.0", "Apache", "Caddy", "LiteSpeed"] {
            let headers = [("server", server)];
            let r = Response {
                status: shape.status,
                headers: &headers,
                body: &body,
                host: "a.example",
            };
            let verdict = classify(table(), shape.edge.as_deref(), &r);
            let blamed = matches!(
                verdict.outcome,
                HttpVerdict::ServerError { fault: Fault::Edge | Fault::Aux }
            );
            assert!(!blamed, "{} from {server}: {verdict:?}", shape.name);
        }
    }
}

fn answer<'a>(status: u16, headers: &'a [(&'a str, &'a str)], body: &'a str) -> Response<'a> {
    Response { status, headers, body: body.as_bytes(), host: "www.example.com" }
}

#[test]
fn the_second_answer_decides_when_it_is_the_edges_own_statement() {
    let cloudflare = [("server", "cloudflare")];
    let judge =
        |status, body| classify(table(), Some("cloudflare"), &answer(status, &cloudflare, body));
    let check = |first: Verdict<'static>, second: Verdict<'static>, rule: &str| {
        assert_eq!(merge(first, second).rule.map(|rule| rule.id.as_str()), Some(rule));
    };
    let vague = judge(500, "");
    let page = judge(500, "<hr><center>cloudflare</center>");
    let challenge = judge(403, "<script>window._cf_chl_opt={}</script>");
    let own = judge(500, r#"{"cloudflare_error":true,"error_category":"cloudflare"}"#);
    let origin = judge(522, r#"{"cloudflare_error":true,"error_category":"origin"}"#);
    let denied = judge(403, r#"{"cloudflare_error":true,"error_category":"access_denied"}"#);
    check(vague, own, "cloudflare.problem.cloudflare");
    check(vague, origin, "cloudflare.problem.origin");
    check(page, origin, "cloudflare.problem.origin");
    check(challenge, denied, "cloudflare.problem.access-denied");
    // Anything else leaves the first: a good answer, a page, a block, another failure.
    for second in
        [judge(200, "hello"), judge(404, ""), judge(429, ""), judge(500, "oops"), challenge]
    {
        check(page, second, "cloudflare.page.plain");
        check(vague, second, "cloudflare.unknown");
    }
    let captive = classify(table(), Some("cloudflare"), &answer(511, &[], ""));
    check(page, captive, "cloudflare.page.plain");
}

#[test]
fn verdicts_have_outcomes() {
    for shape in shapes() {
        let verdict = expected(&shape.expect);
        let fine = !matches!(verdict, HttpVerdict::ServerError { .. } | HttpVerdict::Captive);
        assert_eq!(verdict.outcome().is_answer(), fine, "{}", shape.name);
    }
}

/// Names that no rule reads, whatever the table becomes.
fn unknown_header() -> impl Strategy<Value = (String, String)> {
    let known = |name: &String| !table().header_names().contains(name.as_str());
    ("[a-z][a-z0-9-]{0,30}".prop_filter("a rule reads it", known), "[ -~]{0,60}")
}

/// Words from the table and the shapes among noise, so that rules are reached.
fn header() -> impl Strategy<Value = (String, String)> {
    let names: Vec<String> = table().header_names().iter().map(|name| (*name).to_owned()).collect();
    let values: Vec<String> =
        shapes().into_iter().flat_map(|shape| shape.headers).map(|(_, value)| value).collect();
    (prop::sample::select(names), prop_oneof![prop::sample::select(values), "\\PC{0,40}"])
}

fn body() -> impl Strategy<Value = Vec<u8>> {
    let bodies: Vec<Vec<u8>> =
        shapes().iter().filter(|shape| shape.pad.is_none()).map(Shape::bytes).collect();
    let known = (prop::sample::select(bodies), any::<prop::sample::Index>())
        .prop_map(|(body, cut)| body[..cut.index(body.len() + 1)].to_vec());
    prop_oneof![known, prop::collection::vec(any::<u8>(), 0..300)]
}

fn status() -> impl Strategy<Value = u16> {
    prop_oneof![Just(403), 300_u16..600, any::<u16>()]
}

fn edge() -> impl Strategy<Value = Option<&'static str>> {
    prop::sample::select(vec![None, Some("cloudflare"), Some("fastly"), Some("akamai"), Some("x")])
}

fn borrowed(headers: &[(String, String)]) -> Vec<(&str, &str)> {
    headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
}

proptest! {
    #[test]
    fn an_unknown_header_never_changes_a_shapes_verdict(
        index in any::<prop::sample::Index>(),
        extra in prop::collection::vec((unknown_header(), any::<prop::sample::Index>()), 1..5),
    ) {
        let shapes = shapes();
        let shape = index.get(&shapes);
        let plain = shape.headers();
        let mut more = plain.clone();
        for ((name, value), at) in &extra {
            more.insert(at.index(more.len() + 1), (name, value));
        }
        let edge = shape.edge.as_deref();
        let before = shape.with(&plain, |r| (classify(table(), edge, r), wants_problem_json(r)));
        let after = shape.with(&more, |r| (classify(table(), edge, r), wants_problem_json(r)));
        prop_assert_eq!(before, after);
    }

    #[test]
    fn an_unknown_header_never_changes_any_verdict(
        status in status(),
        headers in prop::collection::vec(header(), 0..6),
        extra in prop::collection::vec(unknown_header(), 1..5),
        body in body(),
        edge in edge(),
    ) {
        let plain = borrowed(&headers);
        let more: Vec<_> = borrowed(&extra).into_iter().chain(plain.iter().copied()).collect();
        let judge = |headers| classify(table(), edge, &Response { status, headers, body: &body, host: "a.example" });
        prop_assert_eq!(judge(&plain), judge(&more));
    }

    #[test]
    fn the_order_of_headers_does_not_matter(
        status in status(),
        (headers, shuffled) in prop::collection::vec(header(), 0..6)
            .prop_flat_map(|headers| (Just(headers.clone()), Just(headers).prop_shuffle())),
        body in body(),
        edge in edge(),
    ) {
        let (headers, shuffled) = (borrowed(&headers), borrowed(&shuffled));
        let judge = |headers| {
            let r = Response { status, headers, body: &body, host: "a.example" };
            (classify(table(), edge, &r), wants_problem_json(&r))
        };
        prop_assert_eq!(judge(&headers), judge(&shuffled));
    }

    #[test]
    fn any_bytes_give_a_verdict_that_fits_the_status(
        status in any::<u16>(),
        headers in prop::collection::vec(("\\PC{0,20}", "\\PC{0,80}"), 0..8),
        known in prop::collection::vec(header(), 0..4),
        body in prop::collection::vec(any::<u8>(), 0..2000),
        host in "\\PC{0,30}",
        edge in edge(),
    ) {
        let headers: Vec<_> =
            borrowed(&headers).into_iter().chain(borrowed(&known)).collect();
        let r = Response { status, headers: &headers, body: &body, host: &host };
        let verdict = classify(table(), edge, &r);
        prop_assert!(!wants_problem_json(&r) || !headers.is_empty());
        let failed = matches!(verdict.outcome, HttpVerdict::ServerError { .. });
        match status {
            100..=399 => prop_assert!(!failed),
            500..=u16::MAX => prop_assert!(
                !matches!(verdict.outcome, HttpVerdict::Ok | HttpVerdict::ClientError)
            ),
            _ => {}
        }
        prop_assert_eq!(merge(verdict, verdict), verdict);
    }
}
