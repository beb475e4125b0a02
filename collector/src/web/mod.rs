//! The public web: pages, the JSON API and the live stream, all from the newest
//! [`Published`]. Nothing is decided here, no request body is read, no
//! address of a reader is looked at, and nothing is loaded from elsewhere.

mod api;
mod events;
mod matrix;
mod operator;
pub mod pages;
mod words;

#[cfg(test)]
mod samples;
#[cfg(test)]
mod tests;

use std::{
    future::{Ready, ready},
    sync::{Arc, Mutex, PoisonError},
};

use axum::{
    Router,
    extract::{Path, Query, State, rejection::QueryRejection},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header},
    middleware::map_response,
    response::{IntoResponse, Response},
    routing::get,
};
use bytes::Bytes;
use tocsin_proto::catalogue::Catalogue;
use tokio::sync::{Semaphore, watch};

pub use self::operator::{Metrics, Readiness, operator_router};
use crate::feed::Published;

/// What the pages are made of.
#[derive(Debug, Clone)]
pub struct Site {
    /// The newest of what the collector publishes. When its sender is dropped, live streams end.
    pub published: watch::Receiver<Arc<Published>>,
    /// The names of providers and targets.
    pub catalogue: Arc<Catalogue>,
}

/// Nothing may be loaded but from here, and nobody may frame the page.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; \
     connect-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; \
     frame-ancestors 'none'";
/// Short, so that a cache in front takes a crowd of readers and is at most this late.
const CACHE: &str = "public, max-age=5";
/// Assets change with the program only; the tag below tells when.
const CACHE_ASSET: &str = "public, max-age=300";
const ASSET_TAG: &str = concat!("\"", env!("CARGO_PKG_VERSION"), "\"");

struct Shared {
    site: Site,
    streams: Arc<Semaphore>,
    /// The first page, made once per snapshot, for the hour in which everybody asks.
    index: Mutex<Option<(Arc<Published>, Bytes)>>,
}

type Web = State<Arc<Shared>>;

impl Shared {
    fn newest(&self) -> Arc<Published> {
        Arc::clone(&self.site.published.borrow())
    }

    fn index(&self, published: &Arc<Published>) -> Bytes {
        let mut kept = self.index.lock().unwrap_or_else(PoisonError::into_inner);
        match &*kept {
            Some((of, page)) if Arc::ptr_eq(of, published) => page.clone(),
            _ => {
                let page = Bytes::from(pages::index(published, &self.site.catalogue));
                *kept = Some((Arc::clone(published), page.clone()));
                page
            }
        }
    }
}

/// Routes of the public address.
pub fn router(site: Site) -> Router {
    let shared = Arc::new(Shared {
        site,
        streams: Arc::new(Semaphore::new(events::STREAMS_MAX)),
        index: Mutex::new(None),
    });
    let open = Router::new()
        .route("/api/v1/snapshot", get(api_snapshot))
        .route("/api/v1/incidents", get(api_incidents))
        .route("/api/v1/cells", get(api_cells))
        .route("/api/v1/parameters", get(api_parameters))
        .route("/api/v1/people", get(api_people))
        .route("/.well-known/tocsin", get(well_known))
        .layer(map_response(share));
    Router::new()
        .route("/", get(index))
        .route("/incidents/{id}", get(incident))
        .route("/cells", get(cells))
        .route("/probes", get(probes))
        .route("/events", get(live))
        .route("/healthz", get(operator::healthz))
        .merge(open)
        .merge(assets())
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(shared)
        .layer(map_response(secure))
}

fn assets() -> Router<Arc<Shared>> {
    let asset = |kind: &'static str, body: &'static str| {
        get(move |headers: HeaderMap| ready(asset(&headers, kind, body)))
    };
    Router::new()
        .route("/style.css", asset("text/css; charset=utf-8", include_str!("assets/style.css")))
        .route("/live.js", asset("text/javascript; charset=utf-8", include_str!("assets/live.js")))
        .route("/favicon.svg", asset("image/svg+xml", include_str!("assets/favicon.svg")))
        .route("/robots.txt", asset("text/plain; charset=utf-8", ROBOTS))
}

const ROBOTS: &str = "User-agent: *\nDisallow: /api/\nDisallow: /events\n";

fn index(State(web): Web, headers: HeaderMap) -> Ready<Response> {
    let published = web.newest();
    ready(unless_known(&published, &headers, || html(StatusCode::OK, web.index(&published))))
}

fn incident(State(web): Web, Path(id): Path<String>, headers: HeaderMap) -> Ready<Response> {
    let published = web.newest();
    let page = pages::incident(&published, &web.site.catalogue, &id);
    ready(match page {
        Some(page) => unless_known(&published, &headers, || html(StatusCode::OK, page.into())),
        None => {
            let text = "There is no such incident, or it ended long ago.";
            html(StatusCode::NOT_FOUND, pages::error(&published, "No such incident", text).into())
        }
    })
}

fn probes(State(web): Web, headers: HeaderMap) -> Ready<Response> {
    let published = web.newest();
    ready(unless_known(&published, &headers, || {
        html(StatusCode::OK, pages::probes(&published).into())
    }))
}

fn cells(State(web): Web, query: Parameters, headers: HeaderMap) -> Ready<Response> {
    let published = web.newest();
    ready(match question(query) {
        Ok(question) => unless_known(&published, &headers, || {
            let page = pages::cells(&published, &web.site.catalogue, question.span);
            html(StatusCode::OK, page.into())
        }),
        Err(detail) => {
            let page = pages::error(&published, "This cannot be shown", &detail);
            html(StatusCode::BAD_REQUEST, page.into())
        }
    })
}

fn api_snapshot(State(web): Web, headers: HeaderMap) -> Ready<Response> {
    let published = web.newest();
    ready(unless_known(&published, &headers, || api::snapshot(&published)))
}

fn api_incidents(State(web): Web, headers: HeaderMap) -> Ready<Response> {
    let published = web.newest();
    ready(unless_known(&published, &headers, || api::incidents(&published)))
}

fn api_parameters(State(web): Web, headers: HeaderMap) -> Ready<Response> {
    let published = web.newest();
    ready(unless_known(&published, &headers, || api::parameters(&published)))
}

fn api_people(State(web): Web, headers: HeaderMap) -> Ready<Response> {
    let published = web.newest();
    ready(unless_known(&published, &headers, || api::people(&published)))
}

type Parameters = Result<Query<Vec<(String, String)>>, QueryRejection>;

fn question(query: Parameters) -> Result<api::Question, String> {
    match query {
        Ok(Query(query)) => api::Question::parse(&query),
        Err(_) => Err("The query is no list of name=value.".to_owned()),
    }
}

fn api_cells(State(web): Web, query: Parameters, headers: HeaderMap) -> Ready<Response> {
    let published = web.newest();
    ready(match question(query) {
        Ok(question) => unless_known(&published, &headers, || api::cells(&published, question)),
        Err(detail) => api::problem(StatusCode::BAD_REQUEST, &detail),
    })
}

fn well_known(State(web): Web, headers: HeaderMap) -> Ready<Response> {
    let published = web.newest();
    ready(unless_known(&published, &headers, || api::keys(&published)))
}

fn live(State(web): Web) -> Ready<Response> {
    ready(events::open(web.site.published.clone(), &web.streams))
}

fn not_found(State(web): Web, uri: Uri) -> Ready<Response> {
    ready(refuse(&web, &uri, StatusCode::NOT_FOUND, "Not found", "There is nothing here."))
}

fn method_not_allowed(State(web): Web, uri: Uri) -> Ready<Response> {
    let text = "Everything here is read with GET or HEAD.";
    ready(refuse(&web, &uri, StatusCode::METHOD_NOT_ALLOWED, "Method not allowed", text))
}

/// An error as the reader wants it: JSON below the API, else a page.
fn refuse(web: &Shared, uri: &Uri, status: StatusCode, title: &str, text: &str) -> Response {
    if uri.path().starts_with("/api/") || uri.path().starts_with("/.well-known/") {
        api::problem(status, text)
    } else {
        html(status, pages::error(&web.newest(), title, text).into())
    }
}

fn html(status: StatusCode, page: Bytes) -> Response {
    (status, [(header::CONTENT_TYPE, "text/html; charset=utf-8")], page).into_response()
}

/// `304 Not Modified` to a reader who has this snapshot, else what `make` makes, with the tag. The
/// time is in the tag because a sequence may begin again, as in a lab.
fn unless_known(
    published: &Published,
    headers: &HeaderMap,
    make: impl FnOnce() -> Response,
) -> Response {
    let version = env!("CARGO_PKG_VERSION");
    let snapshot = &published.snapshot;
    let tag = format!("\"{}-{}-{version}\"", snapshot.sequence, snapshot.at.as_ms());
    tagged(headers, &tag, CACHE, make)
}

fn asset(headers: &HeaderMap, kind: &'static str, body: &'static str) -> Response {
    let make = || ([(header::CONTENT_TYPE, kind)], body).into_response();
    tagged(headers, ASSET_TAG, CACHE_ASSET, make)
}

fn tagged(
    headers: &HeaderMap,
    tag: &str,
    cache: &'static str,
    make: impl FnOnce() -> Response,
) -> Response {
    let mut response = match knows(headers, tag) {
        true => StatusCode::NOT_MODIFIED.into_response(),
        false => make(),
    };
    let tag = HeaderValue::from_str(tag).expect("numbers and a version are visible ASCII");
    response.headers_mut().insert(header::ETAG, tag);
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static(cache));
    response
}

/// Whether `If-None-Match` lists the tag (RFC 9110 section 13.1.2: the weak comparison).
fn knows(headers: &HeaderMap, tag: &str) -> bool {
    let listed = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|v| v.to_str().ok());
    listed
        .flat_map(|list| list.split(','))
        .map(str::trim)
        .any(|known| known == "*" || known.strip_prefix("W/").unwrap_or(known) == tag)
}

/// What every response carries.
fn secure(mut response: Response) -> Ready<Response> {
    let headers = response.headers_mut();
    let fixed = [
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ];
    for (name, value) in fixed {
        headers.insert(name, HeaderValue::from_static(value));
    }
    ready(response)
}

/// Scripts of any other site may read the public data.
fn share(mut response: Response) -> Ready<Response> {
    let fixed = [
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
        (header::ACCESS_CONTROL_EXPOSE_HEADERS, "tocsin-signature, tocsin-sequence, etag"),
    ];
    for (name, value) in fixed {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    ready(response)
}
