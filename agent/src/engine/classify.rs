//! What an HTTP answer means, and whose fault it is: the matching of [`tocsin_proto::rules`].
//!
//! Pure: an answer and a table go in, a verdict comes out. Nothing here trusts the answer; any
//! bytes are fine. Only headers that a rule names can matter, and neither their order nor their
//! case does.

use std::{cell::OnceCell, net::IpAddr};

use serde_json::Value;
use tocsin_proto::{
    outcome::Outcome,
    rules::{
        BODY_PREFIX_BYTES, Condition, EdgeTest, Fault, HeaderTest, Redirect, Rule, RuleNumber,
        RuleTable, Scalar,
    },
};

/// An HTTP answer, as far as it was read.
#[derive(Debug, Clone, Copy)]
pub struct Response<'a> {
    /// The status.
    pub status: u16,
    /// The headers, in any order and case; a name may come more than once.
    pub headers: &'a [(&'a str, &'a str)],
    /// The beginning of the body; what lies past [`BODY_PREFIX_BYTES`] is not looked at.
    pub body: &'a [u8],
    /// The host that was asked; a port after it does no harm.
    pub host: &'a str,
}

/// What came of an HTTP answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// What it is.
    pub outcome: Outcome,
    /// The rule that told, or [`RuleNumber::NONE`].
    pub rule: RuleNumber,
}

/// What the caller knows, from the catalogue, of an edge in front of the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KnownEdge<'a> {
    /// Nobody looked: no condition on the edge holds.
    Unasked,
    /// None is known.
    None,
    /// This provider.
    Provider(&'a str),
}

/// What the answer means, without knowledge of an edge: only what the answer itself proves.
#[must_use]
pub fn classify(table: &RuleTable, response: &Response<'_>) -> Verdict {
    classify_behind(table, response, KnownEdge::Unasked)
}

/// What the answer means, given what is known of the edge in front of the target.
#[must_use]
pub fn classify_behind(table: &RuleTable, response: &Response<'_>, edge: KnownEdge<'_>) -> Verdict {
    let answer = Answer::new(response, edge);
    let below_400 = response.status < 400;
    // A page that was served is served, whatever its body says; only an interception counts.
    let applies = |rule: &&Rule| {
        rule.covers(response.status)
            && (!below_400 || rule.fault == Fault::Captive)
            && rule.when.iter().all(|condition| answer.holds(condition))
            && !rule.unless.iter().any(|condition| answer.holds(condition))
    };
    let rule = table.rules().iter().find(applies);
    let outcome = match (rule.map(|rule| rule.fault), response.status) {
        (Some(Fault::Captive), _) => Outcome::Intercepted,
        (Some(Fault::Challenge | Fault::Block), _) => Outcome::Challenged,
        (_, 0..100) => Outcome::HttpProtocol,
        (_, 100..400) => Outcome::Ok,
        (_, 400..500) => Outcome::Http4xx,
        (_, 500..) => Outcome::Http5xx,
    };
    Verdict { outcome, rule: rule.map_or(RuleNumber::NONE, |rule| rule.number) }
}

/// Whether to ask once more with `Accept: application/problem+json`: Cloudflare answered with a
/// failure or something like a challenge, and not yet in JSON.
#[must_use]
pub fn wants_problem_json(response: &Response<'_>) -> bool {
    let answer = Answer::new(response, KnownEdge::Unasked);
    let cloudflare = answer.values("cf-ray").next().is_some()
        || answer.values("server").any(|value| value.eq_ignore_ascii_case("cloudflare"));
    let walled = response.status >= 400 && answer.values("cf-mitigated").next().is_some();
    let failed = response.status >= 500 || matches!(response.status, 403 | 429);
    let is_json = answer.values("content-type").any(|value| {
        let media = media_type(value).to_ascii_lowercase();
        media == "application/json" || media.ends_with("+json")
    }) || response.body.trim_ascii_start().first() == Some(&b'{');
    cloudflare && (failed || walled) && !is_json
}

/// The verdict of two requests, the second of which asked for problem JSON.
///
/// The second may explain the first but not replace it: it came later, and may itself have been
/// refused for coming so soon. So it counts only when it is the same outcome and either the edge's
/// own word (`second_is_problem`) or the only one with a rule, or when it shows that a 4xx was a
/// block.
#[must_use]
pub fn merge(first: Verdict, second: Verdict, second_is_problem: bool) -> Verdict {
    let told = second.rule != RuleNumber::NONE;
    let same = first.outcome == second.outcome;
    let better = second_is_problem || first.rule == RuleNumber::NONE;
    let block = second_is_problem
        && first.outcome == Outcome::Http4xx
        && second.outcome == Outcome::Challenged;
    if told && (block || (same && better)) { second } else { first }
}

/// An answer with what is derived from it once, on first use.
struct Answer<'a> {
    response: &'a Response<'a>,
    edge: KnownEdge<'a>,
    lower_body: OnceCell<Vec<u8>>,
    json: OnceCell<Option<Value>>,
}

impl<'a> Answer<'a> {
    const fn new(response: &'a Response<'a>, edge: KnownEdge<'a>) -> Self {
        Self { response, edge, lower_body: OnceCell::new(), json: OnceCell::new() }
    }

    fn values<'n>(&self, name: &'n str) -> impl Iterator<Item = &'a str> + use<'a, 'n> {
        let named = move |(key, _): &&(&str, &str)| key.eq_ignore_ascii_case(name);
        self.response.headers.iter().filter(named).map(|(_, value)| value.trim())
    }

    fn body(&self) -> &'a [u8] {
        let body = self.response.body;
        body.get(..BODY_PREFIX_BYTES).unwrap_or(body)
    }

    fn lower_body(&self) -> &[u8] {
        self.lower_body.get_or_init(|| self.body().to_ascii_lowercase())
    }

    fn json(&self) -> Option<&Value> {
        self.json.get_or_init(|| serde_json::from_slice(self.body()).ok()).as_ref()
    }

    fn holds(&self, condition: &Condition) -> bool {
        match condition {
            Condition::Header { name, test } => {
                self.values(name).any(|value| header_holds(test, value))
            }
            Condition::Body(texts) => {
                texts.iter().any(|text| contains(self.lower_body(), text.as_bytes()))
            }
            Condition::Json { path, one_of } => {
                let root = self.json().filter(|value| value.is_object());
                let field = root.and_then(|root| {
                    path.iter().try_fold(root, |value, name| value.as_object()?.get(name))
                });
                field.is_some_and(|value| one_of.iter().any(|scalar| is_scalar(value, scalar)))
            }
            Condition::Media(media) => {
                self.values("content-type").any(|v| media_type(v).eq_ignore_ascii_case(media))
            }
            Condition::Redirect(kind) => {
                let host = host_of(self.response.host);
                self.values("location").filter_map(location_host).any(|to| {
                    !same_site(to, host)
                        && match kind {
                            Redirect::Foreign => true,
                            Redirect::Private => is_private(to),
                        }
                })
            }
            Condition::Edge(test) => match (test, self.edge) {
                (_, KnownEdge::Unasked) => false,
                (EdgeTest::None, edge) => edge == KnownEdge::None,
                (EdgeTest::Known, edge) => edge != KnownEdge::None,
                (EdgeTest::Is(id), edge) => edge == KnownEdge::Provider(id),
            },
        }
    }
}

fn header_holds(test: &HeaderTest, value: &str) -> bool {
    let value = value.as_bytes();
    match test {
        HeaderTest::Present => true,
        HeaderTest::Equals(text) => value.eq_ignore_ascii_case(text.as_bytes()),
        HeaderTest::Contains(text) => {
            value.windows(text.len().max(1)).any(|w| w.eq_ignore_ascii_case(text.as_bytes()))
        }
        HeaderTest::Prefix(text) => {
            value.get(..text.len()).is_some_and(|v| v.eq_ignore_ascii_case(text.as_bytes()))
        }
    }
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len().max(1)).any(|window| window == needle)
}

fn is_scalar(value: &Value, scalar: &Scalar) -> bool {
    match scalar {
        Scalar::Bool(wanted) => value.as_bool() == Some(*wanted),
        Scalar::Int(wanted) => value.as_i64() == Some(*wanted),
        Scalar::Text(wanted) => value.as_str() == Some(wanted),
    }
}

fn media_type(value: &str) -> &str {
    value.split(';').next().unwrap_or_default().trim()
}

/// The host of an absolute or scheme-relative URL; `None` for a relative one, which stays home.
fn location_host(location: &str) -> Option<&str> {
    let slash = |c: char| c == '/' || c == '\\';
    let after_scheme = match location.split_once(':') {
        Some((scheme, rest))
            if scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https") =>
        {
            rest
        }
        _ => location,
    };
    let authority = after_scheme.strip_prefix(slash)?.strip_prefix(slash)?;
    let authority = authority.split(['/', '\\', '?', '#']).next()?;
    let host = host_of(authority.rsplit('@').next()?);
    (!host.is_empty()).then_some(host)
}

/// The host without its port, brackets and last dot.
fn host_of(authority: &str) -> &str {
    let authority = authority.trim();
    if let Some(rest) = authority.strip_prefix('[') {
        return rest.split(']').next().unwrap_or_default();
    }
    let host = match authority.split_once(':') {
        // Two colons and no brackets: an IPv6 address, not a port.
        Some((host, port)) if !port.contains(':') => host,
        _ => authority,
    };
    host.strip_suffix('.').unwrap_or(host)
}

/// Whether one host is the other or lies under it, "www." aside.
///
/// Simple and on the safe side: this needs no list of public suffixes, and calls two subdomains of
/// one site foreign to each other. No rule rests on that alone.
fn same_site(a: &str, b: &str) -> bool {
    fn bare(host: &str) -> &str {
        match host.get(..4) {
            Some(prefix) if prefix.eq_ignore_ascii_case("www.") => host.get(4..).unwrap_or(host),
            _ => host,
        }
    }
    let (a, b) = (bare(a), bare(b));
    is_under(a, b) || is_under(b, a)
}

/// Whether the name is `parent` or ends with it after a dot.
fn is_under(name: &str, parent: &str) -> bool {
    let (name, parent) = (name.as_bytes(), parent.as_bytes());
    let Some(cut) = name.len().checked_sub(parent.len()) else { return false };
    let tail = name.get(cut..).is_some_and(|tail| tail.eq_ignore_ascii_case(parent));
    let boundary = cut == 0 || cut.checked_sub(1).and_then(|dot| name.get(dot)) == Some(&b'.');
    !parent.is_empty() && tail && boundary
}

/// Whether the host is an address, or a name that only a local network resolves.
fn is_private(host: &str) -> bool {
    const LOCAL: &[&str] = &[
        "local",
        "localhost",
        "localdomain",
        "lan",
        "home",
        "home.arpa",
        "internal",
        "intranet",
        "corp",
        "private",
    ];
    host.parse::<IpAddr>().is_ok()
        || !host.contains(['.', ':'])
        || LOCAL.iter().any(|suffix| is_under(host, suffix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_leads_to_its_host() {
        for (location, host) in [
            ("/login", None),
            ("login?to=http://10.0.0.1/", None),
            ("", None),
            ("http:", None),
            ("http://", None),
            ("//portal.lan/x", Some("portal.lan")),
            ("HTTPS://user:pw@Example.org:8443/x", Some("Example.org")),
            ("http://[fe80::1]:80/", Some("fe80::1")),
            ("http://10.0.0.1?x", Some("10.0.0.1")),
            ("http:\\\\10.0.0.1\\x", Some("10.0.0.1")),
            ("https://example.org./", Some("example.org")),
        ] {
            assert_eq!(location_host(location), host, "{location}");
        }
    }

    #[test]
    fn sites_are_compared_on_labels() {
        assert!(same_site("www.example.org", "example.org"));
        assert!(same_site("WWW.example.org", "shop.EXAMPLE.org"));
        assert!(!same_site("notexample.org", "example.org"));
        assert!(!same_site("", "example.org"));
        assert!(!same_site("10.0.0.1", "example.org"));
    }

    #[test]
    fn private_hosts_are_addresses_and_local_names() {
        for host in
            ["10.0.0.1", "192.168.1.254", "fe80::1", "router", "fritz.box.lan", "a.home.arpa"]
        {
            assert!(is_private(host), "{host}");
        }
        for host in ["example.org", "lan.example.org", "mylan.de"] {
            assert!(!is_private(host), "{host}");
        }
    }

    #[test]
    fn the_second_request_explains_but_does_not_replace() {
        let verdict = |outcome, rule| Verdict { outcome, rule: RuleNumber(rule) };
        let bare = verdict(Outcome::Http5xx, 0);
        let edge = verdict(Outcome::Http5xx, 1);
        let page = verdict(Outcome::Http5xx, 9);
        let block = verdict(Outcome::Challenged, 7);
        let fine = verdict(Outcome::Ok, 0);
        let plain = verdict(Outcome::Http4xx, 0);
        assert_eq!(merge(bare, edge, true), edge);
        assert_eq!(merge(page, edge, true), edge);
        assert_eq!(merge(page, edge, false), page);
        assert_eq!(merge(bare, page, false), page);
        assert_eq!(merge(bare, block, true), bare);
        assert_eq!(merge(bare, fine, true), bare);
        assert_eq!(merge(page, bare, true), page);
        assert_eq!(merge(plain, block, true), block);
        assert_eq!(merge(block, edge, true), block);
    }
}
