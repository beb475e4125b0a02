//! Whose fault an HTTP answer is: the matcher of the rule table.
//!
//! Decides, from a status, the headers and the beginning of a body, what an answer was and which
//! rule says so. It does not follow redirects, ask twice or read more of a body: the probe does,
//! and asks here whether to. It trusts nothing in the answer: any bytes give a verdict, and a
//! header that no rule names never changes one.

use std::{cell::OnceCell, net::IpAddr};

use serde_json::Value;
use tocsin_proto::{
    outcome::Outcome,
    rules::{
        BODY_PREFIX_BYTES, Condition, EdgeTest, Fault, HeaderTest, Redirect, Rule, RuleTable,
        Scalar,
    },
};

/// What the second request asks for, in `Accept`: Cloudflare then says whose fault it is
/// (RFC 9457), and others may answer as they like.
pub const PROBLEM_ACCEPT: &str = "application/problem+json, application/json;q=0.9";

/// One answer to a GET, as far as it was read.
#[derive(Debug, Clone, Copy)]
pub struct Response<'a> {
    /// The status code, as it came.
    pub status: u16,
    /// Names, in lower case, and values, in the order received; a name may repeat.
    pub headers: &'a [(&'a str, &'a str)],
    /// The beginning of the body, not compressed. It may end anywhere and be anything; what lies
    /// past [`BODY_PREFIX_BYTES`] is not looked at.
    pub body: &'a [u8],
    /// The host that was asked, without a port.
    pub host: &'a str,
}

/// What an answer was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HttpVerdict {
    /// The site answered.
    Ok,
    /// A bot wall answered.
    Challenged,
    /// This client was refused: too many requests, a forbidden country, a firewall rule.
    Blocked,
    /// Something failed. The status is a 5xx, or a mark in the answer says so.
    ServerError {
        /// Whose fault it is.
        fault: Fault,
    },
    /// Another 4xx: the site answered.
    ClientError,
    /// Something between here and the site answered in its place.
    Captive,
}

impl HttpVerdict {
    /// The outcome of the probe that got this answer.
    #[must_use]
    pub const fn outcome(self) -> Outcome {
        match self {
            Self::Ok => Outcome::Ok,
            Self::Challenged | Self::Blocked => Outcome::Challenged,
            Self::ServerError { .. } => Outcome::Http5xx,
            Self::ClientError => Outcome::Http4xx,
            Self::Captive => Outcome::Intercepted,
        }
    }
}

/// What an answer was, and the rule that says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict<'t> {
    /// What the answer was.
    pub outcome: HttpVerdict,
    /// The rule; `None` when the status alone decided.
    pub rule: Option<&'t Rule>,
}

/// The verdict on one answer. `edge` is the provider's id of the target's edge where the
/// catalogue knows one.
#[must_use]
pub fn classify<'t>(table: &'t RuleTable, edge: Option<&str>, r: &Response<'_>) -> Verdict<'t> {
    let seen = Seen::new(edge, r);
    let rule = table.rules().iter().find(|rule| rule.covers(r.status) && seen.matches(rule));
    let outcome = match rule {
        Some(rule) => of_fault(rule.fault),
        None => of_status(r.status, edge),
    };
    Verdict { outcome, rule }
}

/// Whether to ask once more with [`PROBLEM_ACCEPT`]: the answer is a 5xx or a challenge, it came
/// through Cloudflare, and it is not yet in that form.
#[must_use]
pub fn wants_problem_json(r: &Response<'_>) -> bool {
    let seen = Seen::new(None, r);
    let cloudflare = seen.values("server").any(|value| begins(value, "cloudflare"))
        || seen.values("cf-ray").next().is_some();
    let challenge =
        seen.values("cf-mitigated").any(|value| value.eq_ignore_ascii_case("challenge"))
            || (matches!(r.status, 403 | 429) && seen.body_has("_cf_chl_opt"));
    let failed = !(100..500).contains(&r.status);
    let said = seen.json().and_then(|json| json.get("cloudflare_error")).is_some();
    cloudflare && (failed || challenge) && !said
}

/// The verdict after the second request: the second answer decides when it is the edge's own
/// statement in JSON. Any other second answer, a good one included, leaves the first standing:
/// a failure that is gone a moment later was still seen.
#[must_use]
pub fn merge<'t>(first: Verdict<'t>, second: Verdict<'t>) -> Verdict<'t> {
    if second.rule.is_some_and(Rule::reads_json) { second } else { first }
}

const fn of_fault(fault: Fault) -> HttpVerdict {
    match fault {
        Fault::Edge | Fault::Origin | Fault::Aux | Fault::Site | Fault::Unknown => {
            HttpVerdict::ServerError { fault }
        }
        Fault::Challenge => HttpVerdict::Challenged,
        Fault::Block => HttpVerdict::Blocked,
        Fault::Captive => HttpVerdict::Captive,
    }
}

/// A status outside 100 to 599 counts as a 5xx (RFC 9110 section 15).
const fn of_status(status: u16, edge: Option<&str>) -> HttpVerdict {
    match status {
        100..=399 => HttpVerdict::Ok,
        400..=499 => HttpVerdict::ClientError,
        _ if edge.is_some() => HttpVerdict::ServerError { fault: Fault::Unknown },
        _ => HttpVerdict::ServerError { fault: Fault::Origin },
    }
}

/// An answer with what has been worked out from it so far; most rules need neither form of body.
struct Seen<'a> {
    edge: Option<&'a str>,
    r: &'a Response<'a>,
    text: OnceCell<Vec<u8>>,
    json: OnceCell<Option<Value>>,
}

impl<'a> Seen<'a> {
    fn new(edge: Option<&'a str>, r: &'a Response<'a>) -> Self {
        Self { edge, r, text: OnceCell::new(), json: OnceCell::new() }
    }

    fn matches(&self, rule: &Rule) -> bool {
        rule.when.iter().all(|condition| self.holds(condition))
            && !rule.unless.iter().any(|condition| self.holds(condition))
    }

    fn holds(&self, condition: &Condition) -> bool {
        match condition {
            Condition::Header { name, test } => self.values(name).any(|value| match test {
                HeaderTest::Present => true,
                HeaderTest::Equals(texts) => any(texts, |text| value.eq_ignore_ascii_case(text)),
                HeaderTest::Contains(texts) => any(texts, |text| contains(value, text)),
                HeaderTest::Prefix(texts) => any(texts, |text| begins(value, text)),
            }),
            Condition::Body(texts) => any(texts, |text| self.body_has(text)),
            Condition::Json { path, one_of } => self.field(path).is_some_and(|value| {
                one_of.iter().any(|scalar| match scalar {
                    Scalar::Bool(expected) => value.as_bool() == Some(*expected),
                    Scalar::Int(expected) => value.as_i64() == Some(*expected),
                    Scalar::Text(expected) => value.as_str() == Some(expected),
                })
            }),
            Condition::Media(media) => self.values("content-type").any(|value| {
                value.split(';').next().unwrap_or(value).trim().eq_ignore_ascii_case(media)
            }),
            Condition::Redirect(redirect) => {
                self.values("location").filter_map(location_host).any(|host| match redirect {
                    Redirect::Foreign => !same_site(host, self.r.host),
                    Redirect::Private => {
                        is_private(host) && !host.eq_ignore_ascii_case(self.r.host)
                    }
                })
            }
            Condition::Edge(test) => match test {
                EdgeTest::None => self.edge.is_none(),
                EdgeTest::Known => self.edge.is_some(),
                EdgeTest::Is(provider) => self.edge == Some(provider),
            },
        }
    }

    fn values(&self, name: &str) -> impl Iterator<Item = &'a str> {
        let headers = self.r.headers.iter();
        headers.filter(move |(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }

    /// `text` is in lower case and not empty.
    fn body_has(&self, text: &str) -> bool {
        let body = self.text.get_or_init(|| plain_text(self.r.body));
        body.windows(text.len()).any(|window| window == text.as_bytes())
    }

    /// The whole body as JSON, if it is that and no longer than is looked at. Nesting is bounded
    /// by `serde_json`'s own limit of 128.
    fn json(&self) -> Option<&Value> {
        let parse = || match self.r.body.len() {
            0..=BODY_PREFIX_BYTES => serde_json::from_slice(self.r.body).ok(),
            _ => None,
        };
        self.json.get_or_init(parse).as_ref()
    }

    fn field(&self, path: &[String]) -> Option<&Value> {
        path.iter().try_fold(self.json()?, |value, name| value.as_object()?.get(name))
    }
}

/// The beginning of a body in lower case, with numeric character references to plain ASCII
/// decoded: Akamai writes `Reference&#32;&#35;18`. References to the characters that make markup
/// stay as they are, so that a page which quotes markup is not taken for one that has it.
fn plain_text(body: &[u8]) -> Vec<u8> {
    let mut rest = body.get(..BODY_PREFIX_BYTES).unwrap_or(body);
    let mut text = Vec::with_capacity(rest.len());
    while let Some((first, after)) = rest.split_first() {
        if *first == b'&'
            && let Some((byte, after)) = reference(after)
        {
            text.push(byte.to_ascii_lowercase());
            rest = after;
        } else {
            text.push(first.to_ascii_lowercase());
            rest = after;
        }
    }
    text
}

/// Reads `#32;` or `#x20;`: the byte, and what follows.
fn reference(text: &[u8]) -> Option<(u8, &[u8])> {
    let text = text.strip_prefix(b"#")?;
    let end = text.iter().take(5).position(|byte| *byte == b';')?;
    let (digits, after) = (text.get(..end)?, text.get(end + 1..)?);
    let digits = std::str::from_utf8(digits).ok()?;
    let byte = match digits.strip_prefix(['x', 'X']) {
        Some(hex) => u8::from_str_radix(hex, 16).ok()?,
        None => digits.parse().ok()?,
    };
    let markup = b"<>&\"".contains(&byte);
    ((b' '..=b'~').contains(&byte) && !markup).then_some((byte, after))
}

fn any(texts: &[String], test: impl Fn(&str) -> bool) -> bool {
    texts.iter().any(|text| test(text))
}

/// `text` is in lower case and not empty.
fn contains(value: &str, text: &str) -> bool {
    let same = |window: &[u8]| window.eq_ignore_ascii_case(text.as_bytes());
    value.as_bytes().windows(text.len()).any(same)
}

fn begins(value: &str, text: &str) -> bool {
    let start = value.as_bytes().get(..text.len());
    start.is_some_and(|start| start.eq_ignore_ascii_case(text.as_bytes()))
}

/// The host that a `Location` names; `None` when it stays on the host that was asked.
fn location_host(location: &str) -> Option<&str> {
    let at = |scheme: &str| begins(location, scheme).then(|| location.get(scheme.len()..))?;
    let rest = at("https://").or_else(|| at("http://")).or_else(|| at("//"))?;
    let authority = rest.split(['/', '?', '#', '\\']).next()?;
    let host = authority.rsplit('@').next()?;
    let host = match host.strip_prefix('[') {
        Some(v6) => v6.split(']').next()?,
        None => host.split(':').next()?,
    };
    let host = host.trim_end_matches('.');
    (!host.is_empty()).then_some(host)
}

/// Whether a host is an address, or a name that only a local network resolves (RFC 6761, 6762,
/// 8375, and the `.internal` that ICANN reserved).
fn is_private(host: &str) -> bool {
    const LOCAL: &[&str] = &["local", "lan", "home", "internal", "localhost", "localdomain"];
    let last = host.rsplit('.').next().unwrap_or(host);
    host.parse::<IpAddr>().is_ok()
        || !host.contains('.')
        || last.bytes().all(|byte| byte.is_ascii_digit())
        || LOCAL.iter().any(|local| last.eq_ignore_ascii_case(local))
        || host.to_ascii_lowercase().ends_with("home.arpa")
}

fn same_site(a: &str, b: &str) -> bool {
    site(a).eq_ignore_ascii_case(site(b))
}

/// The registrable part of a host, near enough without the Public Suffix List: the last two
/// labels, or three where the country's second level is a common generic one (`co.uk`). Where
/// this is wrong it takes two sites for one, which leaves an answer an answer.
fn site(host: &str) -> &str {
    const GENERIC: &[&str] =
        &["ac", "co", "com", "edu", "go", "gob", "gouv", "gov", "ne", "net", "or", "org"];
    if host.parse::<IpAddr>().is_ok() {
        return host;
    }
    let host = host.trim_end_matches('.');
    let mut dots = host.rmatch_indices('.').map(|(at, _)| at);
    let (Some(last), Some(second)) = (dots.next(), dots.next()) else { return host };
    let country = host.len() - last == 3;
    let level = host.get(second + 1..last).unwrap_or_default();
    let generic = country && GENERIC.iter().any(|name| level.eq_ignore_ascii_case(name));
    let start = if generic { dots.next() } else { Some(second) };
    start.and_then(|dot| host.get(dot + 1..)).unwrap_or(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sites_are_registrable_names() {
        let check = |a, b, same| assert_eq!(same_site(a, b), same, "{a} {b}");
        check("www.example.com", "example.com", true);
        check("WWW.Example.com.", "login.example.COM", true);
        check("example.com", "example.net", false);
        check("www.bbc.co.uk", "bbc.co.uk", true);
        check("bbc.co.uk", "itv.co.uk", false);
        check("impots.gouv.fr", "caf.gouv.fr", false);
        check("a.example.fr", "b.example.fr", true);
        check("192.0.2.1", "198.51.100.1", false);
        check("example.com", "192.0.2.1", false);
    }

    #[test]
    fn a_location_names_a_host_or_stays() {
        let check = |location, host: Option<&str>| assert_eq!(location_host(location), host);
        check("https://Example.com/x", Some("Example.com"));
        check("HTTP://user:pass@example.com:8080?x", Some("example.com"));
        check("//example.com", Some("example.com"));
        check("http://[2001:db8::1]:80/", Some("2001:db8::1"));
        check("http://192.0.2.1/login", Some("192.0.2.1"));
        check("/login?next=https://example.net/", None);
        check("login", None);
        check("https:///x", None);
        check("", None);
    }

    #[test]
    fn private_hosts_are_addresses_and_local_names() {
        for host in ["10.0.0.1", "2001:db8::1", "gateway", "router.lan", "1.2.3.999", "a.home.arpa"]
        {
            assert!(is_private(host), "{host}");
        }
        assert!(!is_private("example.com") && !is_private("login.example.co.uk"));
    }

    #[test]
    fn references_to_text_are_decoded_and_those_to_markup_are_not() {
        let check = |body: &str, text: &str| {
            assert_eq!(String::from_utf8(plain_text(body.as_bytes())).unwrap(), text);
        };
        check("Reference&#32;&#35;18&#46;A", "reference #18.a");
        check("Cloudflare&#x27;s", "cloudflare's");
        check("&#60;center&#62;nginx", "&#60;center&#62;nginx");
        check("&#32", "&#32");
        check("&#999;&#;&", "&#999;&#;&");
    }
}
