//! What edges answer over HTTP, in the manner of three vendors: a pure function of who is asked
//! for what under which fault. Shapes are those that vendors document, shortened.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use serde_json::json;

use super::{
    fault::EdgeFault,
    world::{SITES_PER_EDGE, Site, Vendor},
};

/// Bytes of a healthy page, about.
const PAGE_BYTES: usize = 64 * 1024;
const HTML: &str = "text/html; charset=UTF-8";

/// A response of an edge.
pub(super) type Page = Response<Full<Bytes>>;

/// What is asked of an edge.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ask<'a> {
    pub(super) vendor: Vendor,
    pub(super) site: &'a Site,
    pub(super) fault: EdgeFault,
    /// Whether the site's own servers are broken.
    pub(super) site_down: bool,
    /// The request's `Accept`.
    pub(super) accept: &'a str,
    /// A number that no other request has, for the vendor's request id.
    pub(super) serial: u64,
}

/// The answer.
pub(super) fn page(ask: &Ask<'_>) -> Page {
    let own_error = match ask.fault {
        EdgeFault::Error500 => true,
        EdgeFault::Half => ask.site.place < SITES_PER_EDGE / 2,
        _ => false,
    };
    match ask.fault {
        _ if own_error => edge_error(ask),
        EdgeFault::Refusal => respond(ask, 500, HTML, REFUSAL.to_owned()),
        EdgeFault::Challenge => challenge(ask),
        _ if ask.site_down => respond(ask, 500, "text/html", NGINX_500.to_owned()),
        _ => respond(ask, 200, HTML, healthy(ask.site)),
    }
}

/// The answer for a host that this edge does not serve.
pub(super) fn misdirected() -> Page {
    let mut page = Response::new(Full::from("misdirected\n"));
    *page.status_mut() = StatusCode::MISDIRECTED_REQUEST;
    page
}

/// The page of nginx itself, as its source has it: the origin made it, the edge passes it on.
const NGINX_500: &str = "<html>\r\n<head><title>500 Internal Server Error</title></head>\r\n<body>\r\n\
    <center><h1>500 Internal Server Error</h1></center>\r\n<hr><center>nginx</center>\r\n\
    </body>\r\n</html>\r\n";

/// What visitors of challenged sites read on 2025-11-18.
const REFUSAL: &str = "<!DOCTYPE html><html lang=\"en-US\"><head><title>Just a moment...</title></head>\
    <body><noscript>Enable JavaScript and cookies to continue</noscript>\
    <p>Please unblock challenges.cloudflare.com to proceed.</p></body></html>\n";

fn healthy(site: &Site) -> String {
    let mut page = format!("<!DOCTYPE html><html><head><title>{}</title></head><body>", site.id);
    let line = format!("<p>All is well at {}.</p>\n", site.host);
    page.push_str(&line.repeat(PAGE_BYTES / line.len()));
    page.push_str("</body></html>\n");
    page
}

fn edge_error(ask: &Ask<'_>) -> Page {
    let Ask { site, serial, .. } = ask;
    match ask.vendor {
        Vendor::Cloudflare if ask.accept.contains("application/problem+json") => {
            let problem = json!({
                "type": "https://developers.cloudflare.com/support/troubleshooting/http-status-codes/cloudflare-5xx-errors/error-500/",
                "title": "Error 500: Internal server error",
                "status": 500,
                "detail": "An internal error occurred on Cloudflare's network.",
                "instance": ray(*serial),
                "error_code": 500,
                "error_name": "internal_server_error",
                "error_category": "cloudflare",
                "ray_id": ray(*serial),
                "zone": site.host,
                "cloudflare_error": true,
                "retryable": true,
                "retry_after": 30,
                "owner_action_required": false,
            });
            let kind = "application/problem+json; charset=utf-8";
            let mut page = respond(ask, 500, kind, problem.to_string());
            page.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("30"));
            page
        }
        Vendor::Cloudflare => {
            let body = format!(
                "<!DOCTYPE html><html lang=\"en-US\"><head><title>{host} | 500: Internal server error\
                 </title></head><body><div id=\"cf-wrapper\"><div id=\"cf-error-details\">\
                 <h1><span>Internal server error</span> <span>Error code 500</span></h1>\
                 <div>Visit <a href=\"https://www.cloudflare.com/5xx-error-landing\">cloudflare.com\
                 </a> for more information.</div><h2>What happened?</h2><p>There is an internal \
                 server error on Cloudflare's network.</p><span class=\"cf-footer-item\">Cloudflare \
                 Ray ID: <strong>{ray}</strong></span></div></div></body></html>\n",
                host = site.host,
                ray = ray(*serial),
            );
            respond(ask, 500, HTML, body)
        }
        Vendor::Fastly => {
            let body = format!(
                "\n<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<html><head><title>503 Service \
                 Unavailable</title></head><body><h1>Error 503 Service Unavailable</h1>\
                 <p>Service Unavailable</p><h3>Guru Mediation:</h3><p>Details: \
                 cache-lab2{serial:05}-LAB {serial} {serial}</p><hr><p>Varnish cache server</p>\
                 </body></html>\n",
            );
            respond(ask, 503, "text/html; charset=utf-8", body)
        }
        Vendor::Cloudfront => {
            let body = format!(
                "<HTML><HEAD><TITLE>ERROR: The request could not be satisfied</TITLE></HEAD><BODY>\
                 <H1>503 ERROR</H1><H2>The request could not be satisfied.</H2><HR>\
                 <PRE>Generated by cloudfront (CloudFront)\nRequest ID: {serial:040x}==\n</PRE>\
                 </BODY></HTML>\n",
            );
            let mut page = respond(ask, 503, "text/html", body);
            page.headers_mut().insert(header::SERVER, HeaderValue::from_static("CloudFront"));
            let error = HeaderValue::from_static("Error from cloudfront");
            page.headers_mut().insert("x-cache", error);
            page
        }
    }
}

fn challenge(ask: &Ask<'_>) -> Page {
    let body = "<!DOCTYPE html><html lang=\"en-US\"><head><title>Just a moment...</title></head><body>\
        <noscript>Enable JavaScript and cookies to continue</noscript>\
        <script src=\"/cdn-cgi/challenge-platform/h/g/orchestrate/chl_page/v1\"></script>\
        </body></html>\n";
    let mut page = respond(ask, 403, HTML, body.to_owned());
    page.headers_mut().insert("cf-mitigated", HeaderValue::from_static("challenge"));
    page
}

/// A response with the marks that the vendor puts on everything.
fn respond(ask: &Ask<'_>, status: u16, kind: &'static str, body: String) -> Page {
    let serial = ask.serial;
    let marks: Vec<(&str, String)> = match ask.vendor {
        Vendor::Cloudflare => vec![
            ("server", "cloudflare".to_owned()),
            ("cf-ray", ray(serial) + "-LAB"),
            ("cf-cache-status", "DYNAMIC".to_owned()),
        ],
        Vendor::Fastly => vec![
            ("via", "1.1 varnish".to_owned()),
            ("x-served-by", format!("cache-lab2{:05}-LAB", serial % 100_000)),
            ("x-cache", "MISS".to_owned()),
            ("x-cache-hits", "0".to_owned()),
            ("x-timer", format!("S{serial}.000000,VS0,VE1")),
        ],
        Vendor::Cloudfront => vec![
            ("via", format!("1.1 {serial:032x}.cloudfront.net (CloudFront)")),
            ("x-cache", "Miss from cloudfront".to_owned()),
            ("x-amz-cf-pop", "LAB50-P1".to_owned()),
            ("x-amz-cf-id", format!("{serial:054x}==")),
        ],
    };
    let mut page = Response::builder()
        .status(status)
        .header(header::CONTENT_TYPE, kind)
        .header(header::CACHE_CONTROL, "private, no-store");
    for (name, value) in marks {
        page = page.header(name, value);
    }
    page.body(Full::from(body)).expect("every header above is plain text")
}

fn ray(serial: u64) -> String {
    format!("9a{serial:014x}")
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::{super::world::World, *};

    #[tokio::test]
    async fn each_vendor_has_an_error_page_of_its_own() {
        let world = World::new(1);
        let check = async |vendor, status: u16, name: &str, mark: &str| {
            let site = &world.sites[0];
            let fault = EdgeFault::Error500;
            let ask = Ask { vendor, site, fault, site_down: true, accept: "*/*", serial: 7 };
            let page = page(&ask);
            assert_eq!(page.status(), status);
            assert!(page.headers().contains_key(name), "{vendor:?}");
            let body = page.into_body().collect().await.unwrap().to_bytes();
            assert!(std::str::from_utf8(&body).unwrap().contains(mark), "{vendor:?}");
        };
        check(Vendor::Cloudflare, 500, "cf-ray", "on Cloudflare's network").await;
        check(Vendor::Fastly, 503, "x-served-by", "Varnish cache server").await;
        check(Vendor::Cloudfront, 503, "x-amz-cf-id", "Generated by cloudfront").await;
    }
}
