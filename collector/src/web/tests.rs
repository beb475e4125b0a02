use std::sync::Arc;

use axum::{
    Router,
    body::{Body, to_bytes},
    http::{HeaderMap, Request, StatusCode},
};
use data_encoding::{BASE64, HEXLOWER};
use futures_util::StreamExt;
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use serde_json::Value;
use tocsin_proto::{
    bounded::{Bytes, Fixed},
    catalogue::Catalogue,
    delegation::SignedDelegation,
    incident::{Phase, Scope},
    message::SignedSnapshot,
    snapshot::Overall,
};
use tokio::sync::watch;

use super::{
    Site, operator_router, pages, router,
    samples::{AT, incident, operator, published},
};
use crate::feed::Published;

fn site(published: Published) -> (watch::Sender<Arc<Published>>, Router) {
    let (sender, receiver) = watch::channel(Arc::new(published));
    let catalogue = Arc::new(Catalogue::builtin().clone());
    (sender, router(Site { published: receiver, catalogue }))
}

fn down() -> Published {
    let incidents = vec![
        incident("2025-11-18-1", Phase::Confirmed),
        incident("2025-11-18-2", Phase::Suspected),
        incident("2025-11-17-9", Phase::Resolved),
    ];
    published(Overall::Incident, incidents, 7)
}

async fn ask(
    router: &Router,
    method: &str,
    path: &str,
    tag: Option<&str>,
) -> axum::response::Response {
    let request = Request::builder().method(method).uri(path);
    let request = match tag {
        Some(tag) => request.header("if-none-match", tag),
        None => request,
    };
    let service = TowerToHyperService::new(router.clone());
    service.call(request.body(Body::empty()).unwrap()).await.unwrap()
}

async fn get(router: &Router, path: &str) -> (StatusCode, HeaderMap, Vec<u8>) {
    let response = ask(router, "GET", path, None).await;
    let (parts, body) = response.into_parts();
    (parts.status, parts.headers, to_bytes(body, 4 << 20).await.unwrap().to_vec())
}

async fn get_json(router: &Router, path: &str) -> Value {
    let (status, _, body) = get(router, path).await;
    assert_eq!(status, StatusCode::OK, "{path}");
    serde_json::from_slice(&body).unwrap()
}

fn index(published: &Published) -> String {
    let page = pages::index(published, Catalogue::builtin());
    assert!(page.len() < 60_000, "{} bytes", page.len());
    page
}

#[track_caller]
fn has(page: &str, parts: &[&str]) {
    // Templates escape apostrophes and spaces vary: compare as it is read.
    let read = page.split_whitespace().collect::<Vec<_>>().join(" ");
    for part in parts {
        assert!(read.contains(part), "{part:?} is missing in\n{read}");
    }
}

#[test]
fn an_incident_is_said_first() {
    let page = index(&down());
    has(
        &page,
        &[
            "Down now: Cloudflare (edge), worldwide.",
            "The fault is Cloudflare’s",
            "87.3 % of networks",
            "12 sites",
            "aria-live=\"polite\"",
            "href=\"/incidents/2025-11-18-1\"",
            "tenure_ramp_days = 0",
            "iptoasn.com",
            "lang=\"en\"",
        ],
    );
    assert!(page.find("<h1>").unwrap() < page.find("Open incidents").unwrap());
    assert!(!page.contains("style=") && !page.contains("<style"));
}

#[test]
fn several_incidents_are_told_apart() {
    let mut other = incident("b", Phase::Confirmed);
    other.factor = tocsin_proto::incident::Factor::Site { target: "discord".parse().unwrap() };
    other.scope = Scope::Site;
    let first = incident("a", Phase::Confirmed);
    let both = published(Overall::Incident, vec![first.clone(), other.clone()], 1);
    has(&index(&both), &["Down now: Cloudflare (edge), worldwide; Discord, one site, everywhere."]);
    other.phase = Phase::Recovering;
    let one = published(Overall::Incident, vec![other.clone(), first], 1);
    has(&index(&one), &["The fault is Cloudflare’s", "Recovering: Discord"]);
    has(
        &index(&published(Overall::Incident, vec![other], 1)),
        &[
            "<h1><span class=\"sym\" aria-hidden=\"true\">↑</span> Recovering: Discord",
            "The fault is the site’s own",
        ],
    );
}

#[test]
fn quiet_says_on_what_evidence() {
    has(
        &index(&published(Overall::Quiet, vec![], 1)),
        &[
            "Nothing is confirmed down.",
            "90 observers in 88 prefixes, 30 networks and 5 zones",
            "at least 60 observers with a vote (there are 84), 4 networks (there are 30) and 3 zones",
        ],
    );
}

#[test]
fn a_young_crowd_has_suspicions_only() {
    let mut young = published(Overall::YoungCrowd, vec![incident("s", Phase::Suspected)], 1);
    young.snapshot.crowd.eligible = 3;
    has(
        &index(&young),
        &[
            "Young crowd: suspicions only.",
            "only 3 of them",
            "1 suspicion is watched",
            "Watched, not confirmed.",
        ],
    );
}

#[test]
fn insufficient_evidence_says_what_is_missing() {
    let mut few = published(Overall::InsufficientEvidence, vec![], 1);
    few.snapshot.crowd.observers = 12;
    few.snapshot.crowd.zones = 2;
    few.cells_5m.clear();
    has(
        &index(&few),
        &[
            "Insufficient evidence.",
            "Missing: 48 observers (12 of 60) and 1 zone (2 of 3).",
            "No site was observed",
        ],
    );
}

#[test]
fn an_incident_page_shows_each_number_with_its_denominator() {
    let page = pages::incident(&down(), Catalogue::builtin(), "2025-11-18-1").unwrap();
    has(
        &page,
        &[
            "77/84",
            "20/21",
            "AS3215",
            "6/6",
            "cf-500-html",
            "1204",
            "at least 0.50",
            "did not hold",
            "common-mode",
            "at least 44 prefixes in 15 networks in 4 zones would have to lie",
            "https://www.cloudflarestatus.com",
            "<strong>low</strong>",
            "2025-11-18 11:28:05 UTC",
        ],
    );
    assert_eq!(pages::incident(&down(), Catalogue::builtin(), "none"), None);
}

#[test]
fn hostile_names_are_text() {
    const EVIL: &str = "<script>alert(1)</script>\"'&";
    let mut evil = incident("../<script>\"", Phase::Confirmed);
    evil.title = EVIL.to_owned();
    evil.targets[0].what.name = EVIL.to_owned();
    evil.reasons[0].rule = EVIL.to_owned();
    evil.reasons[0].found = EVIL.to_owned();
    evil.symptoms[0].text = Some(EVIL.to_owned());
    evil.scope =
        Scope::Regional { zones: vec!["south-asia".parse().unwrap()], countries: Vec::new() };
    let mut hostile = published(Overall::Incident, vec![evil], 1);
    hostile.snapshot.settings = vec![EVIL.to_owned()];
    hostile.snapshot.attribution = EVIL.to_owned();
    let id = "../<script>\"";
    let pages = [
        index(&hostile),
        pages::incident(&hostile, Catalogue::builtin(), id).unwrap(),
        pages::error(&hostile, EVIL, EVIL),
    ];
    for page in pages {
        assert!(!page.contains("<script>"), "{page}");
        has(&page, &["&#60;script&#62;"]);
    }
}

#[test]
fn a_crowded_index_stays_small() {
    let mut crowded = down();
    let sample = crowded.cells_5m.clone();
    for n in 0..40 {
        let country = tocsin_proto::id::Country::new([b'A' + n % 26, b'B' + n / 26]).unwrap();
        crowded.cells_5m.extend(sample.iter().map(|cell| {
            let mut cell = cell.clone();
            cell.region = tocsin_proto::snapshot::Region::Country(country);
            cell
        }));
    }
    has(&index(&crowded), &["more rows, in better state", "all of them on their own page"]);
}

#[tokio::test]
async fn every_route_is_strict() {
    let (_sender, router) = site(down());
    let check = [
        ("/", 200, "text/html; charset=utf-8"),
        ("/incidents/2025-11-18-1", 200, "text/html; charset=utf-8"),
        ("/incidents/none", 404, "text/html; charset=utf-8"),
        ("/cells?window=1h", 200, "text/html; charset=utf-8"),
        ("/cells?window=2h", 400, "text/html; charset=utf-8"),
        ("/api/v1/snapshot", 200, "application/json"),
        ("/api/v1/incidents", 200, "application/json"),
        ("/api/v1/cells", 200, "application/json"),
        ("/api/v1/parameters", 200, "application/json"),
        ("/api/v1/none", 404, "application/problem+json"),
        ("/.well-known/tocsin", 200, "application/json"),
        ("/healthz", 200, "text/plain; charset=utf-8"),
        ("/style.css", 200, "text/css; charset=utf-8"),
        ("/live.js", 200, "text/javascript; charset=utf-8"),
        ("/favicon.svg", 200, "image/svg+xml"),
        ("/robots.txt", 200, "text/plain; charset=utf-8"),
        ("/events", 200, "text/event-stream"),
        ("/none", 404, "text/html; charset=utf-8"),
    ];
    for (path, status, kind) in check {
        let response = ask(&router, "GET", path, None).await;
        let headers = response.headers();
        assert_eq!(response.status().as_u16(), status, "{path}");
        assert_eq!(headers["content-type"], kind, "{path}");
        let policy = headers["content-security-policy"].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'; style-src 'self';"), "{path}");
        assert!(!policy.contains("unsafe"), "{path}");
        assert_eq!(headers["x-content-type-options"], "nosniff", "{path}");
        assert_eq!(headers["referrer-policy"], "no-referrer", "{path}");
        let shared = headers.contains_key("access-control-allow-origin");
        let public = path.starts_with("/api/v1") && path != "/api/v1/none";
        assert_eq!(shared, public || path.starts_with("/.well"), "{path}");
    }
    let response = ask(&router, "POST", "/", None).await;
    assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(response.headers()["allow"], "GET,HEAD");
    assert!(response.headers().contains_key("content-security-policy"));
}

#[tokio::test]
async fn a_known_snapshot_is_not_sent_again() {
    let (sender, router) = site(down());
    for path in ["/", "/api/v1/snapshot", "/incidents/2025-11-18-1", "/style.css"] {
        let response = ask(&router, "GET", path, None).await;
        let tag = response.headers()["etag"].to_str().unwrap().to_owned();
        let again = ask(&router, "GET", path, Some(&format!("\"x\", W/{tag}"))).await;
        assert_eq!(again.status(), StatusCode::NOT_MODIFIED, "{path}");
        assert_eq!(again.headers()["etag"], tag.as_str(), "{path}");
        assert!(to_bytes(again.into_body(), 10).await.unwrap().is_empty(), "{path}");
    }
    let old = ask(&router, "GET", "/", None).await.headers()["etag"].to_str().unwrap().to_owned();
    sender.send(Arc::new(published(Overall::Quiet, vec![], 8))).unwrap();
    assert_eq!(ask(&router, "GET", "/", Some(&old)).await.status(), StatusCode::OK);
    let (_, _, page) = get(&router, "/").await;
    has(&String::from_utf8(page).unwrap(), &["Nothing is confirmed down."]);
}

#[tokio::test]
async fn the_snapshot_verifies_from_the_response_alone() {
    let (_sender, router) = site(down());
    let (_, headers, body) = get(&router, "/api/v1/snapshot").await;
    assert_eq!(headers["tocsin-sequence"], "7");
    let text = headers["tocsin-signature"].to_str().unwrap();
    let text = text.strip_prefix("ed25519=:").unwrap().strip_suffix(':').unwrap();
    let signature = Fixed(BASE64.decode(text.as_bytes()).unwrap().try_into().unwrap());
    let keys = get_json(&router, "/.well-known/tocsin").await;
    assert_eq!(keys["operator"], operator().public().to_string());
    let hex = |value: &Value| HEXLOWER.decode(value.as_str().unwrap().as_bytes()).unwrap();
    let delegation = &keys["delegations"][0];
    assert_eq!(delegation["role"], "feed");
    let delegation = SignedDelegation {
        signature: Fixed(hex(&delegation["signature"]).try_into().unwrap()),
        body: Bytes::new(hex(&delegation["body"])).unwrap(),
    };
    let signed = SignedSnapshot { signature, document: Bytes::new(body).unwrap() };
    let document = signed.open(&[delegation], &operator().public(), AT).unwrap();
    // The numbers of the detector are served apart, and what is signed says which.
    let document: Value = serde_json::from_slice(document).unwrap();
    let (_, _, numbers) = get(&router, "/api/v1/parameters").await;
    let digest = tocsin_proto::sign::sha256(&[&numbers]);
    assert_eq!(document["parameters"]["sha256"], HEXLOWER.encode(&digest));
    let numbers: Value = serde_json::from_slice(&numbers).unwrap();
    for field in ["version", "dated"] {
        assert_eq!(document["parameters"][field], numbers[field]);
    }
}

#[tokio::test]
async fn cells_are_filtered_and_bad_questions_are_explained() {
    let (_sender, router) = site(down());
    let all = get_json(&router, "/api/v1/cells").await;
    assert_eq!((all["window_s"].as_u64(), all["schema"].as_u64()), (Some(300), Some(1)));
    let count = |value: &Value| value["cells"].as_array().unwrap().len();
    let providers = get_json(&router, "/api/v1/cells?window=1h&subject=provider").await;
    let targets = get_json(&router, "/api/v1/cells?window=1h&subject=target").await;
    assert_eq!(providers["window_s"], 3600);
    assert_eq!(count(&providers) + count(&targets), count(&all));
    for query in ["window=2h", "subject=site", "windows=5m", "window=%3Cscript%3E"] {
        let (status, headers, body) = get(&router, &format!("/api/v1/cells?{query}")).await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
        assert_eq!(headers["content-type"], "application/problem+json");
        let problem: Value = serde_json::from_slice(&body).unwrap();
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains("5m or 1h") || detail.contains("provider or target"), "{detail}");
    }
    let incidents = get_json(&router, "/api/v1/incidents").await;
    assert_eq!(incidents["incidents"][0]["id"], "2025-11-18-1");
}

#[tokio::test]
async fn the_numbers_of_the_page_are_those_of_the_cells() {
    let published = down();
    let page = pages::index(&published, Catalogue::builtin());
    for cell in &published.cells_5m {
        let numbers = format!(
            "<b>{}/{}</b>{} p {} n",
            cell.failing, cell.observed, cell.prefixes, cell.networks
        );
        assert!(page.contains(&numbers), "{numbers}");
    }
}

#[tokio::test]
async fn a_stream_begins_with_the_current_state() {
    let (sender, router) = site(down());
    let response = ask(&router, "GET", "/events", None).await;
    let mut events = response.into_body().into_data_stream();
    let first = String::from_utf8(events.next().await.unwrap().unwrap().to_vec()).unwrap();
    for part in
        ["event: snapshot\n", "id: 7\n", "\"phase\":\"confirmed\"", "\"overall\":\"incident\""]
    {
        assert!(first.contains(part), "{part} in {first}");
    }
    sender.send(Arc::new(published(Overall::Quiet, vec![], 8))).unwrap();
    let second = String::from_utf8(events.next().await.unwrap().unwrap().to_vec()).unwrap();
    assert!(second.contains("id: 8\n"), "{second}");
    drop(sender);
    assert!(events.next().await.is_none());
}

#[tokio::test]
async fn streams_are_bounded_and_given_back() {
    let (_sender, router) = site(down());
    let mut open = Vec::new();
    for _ in 0..super::events::STREAMS_MAX {
        open.push(ask(&router, "GET", "/events", None).await);
    }
    let refused = ask(&router, "GET", "/events", None).await;
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(refused.headers().contains_key("retry-after"));
    open.pop();
    assert_eq!(ask(&router, "GET", "/events", None).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn the_operator_sees_metrics_and_readiness() {
    let metrics = || "# EOF\n".to_owned();
    let router = operator_router(Arc::new(metrics), Arc::new(|| Err("the log is behind".into())));
    let (status, headers, body) = get(&router, "/metrics").await;
    assert_eq!((status, body.as_slice()), (StatusCode::OK, b"# EOF\n".as_slice()));
    assert!(
        headers["content-type"]
            .to_str()
            .unwrap()
            .starts_with("application/openmetrics-text; version=1.0.0")
    );
    let (status, _, body) = get(&router, "/readyz").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(body, b"not ready: the log is behind\n");
    assert_eq!(get(&router, "/healthz").await.0, StatusCode::OK);
}
