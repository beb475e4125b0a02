//! Metrics on request, for who runs Prometheus: `/metrics` of the agent, and `/probe?target=HOST` under the names that
//! blackbox_exporter's HTTP prober has, so that its dashboards and alerts go on. What is told is the newest look; one that is
//! older than a minute is made anew where the caps allow it, as `tocsin why` does.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    fmt::Write,
    net::IpAddr,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tocsin_proto::{
    catalogue::{Catalogue, Target},
    id::TargetIndex,
    implicate::DnsPath,
    observation::Family,
    outcome::Outcome,
    time::Timestamp,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::{
    clock::Clock,
    engine::{
        courtesy::{Quiet, Start, Use, wire_bytes},
        planner::Names,
    },
    means::Pause,
    probe::{self, ProbeResult, Prober},
    spool::{Spool, SpoolError},
    state::State,
};

/// A look that is older is made anew, ms.
const FRESH_MS: u64 = 60_000;
/// Scrapers at once.
const CONNECTIONS_MAX: usize = 16;
/// For a request's head to arrive.
const HEAD_WITHIN: Duration = Duration::from_secs(30);
/// Of a request's head, bytes.
const HEAD_MAX: usize = 16 * 1024;
/// What blackbox_exporter calls the parts of a request (`prober/http.go`), in the order of a probe's; it has a fifth for
/// the body, which is not read here.
const PHASES: [&str; 4] = ["resolve", "connect", "tls", "processing"];

/// What was met last.
#[derive(Debug, Clone)]
struct Last {
    at: Timestamp,
    result: ProbeResult,
}

/// The newest look at each target, over each family; and how many there were, by what came of them.
#[derive(Debug, Default)]
pub struct Board {
    last: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    last: BTreeMap<(TargetIndex, Family), Last>,
    outcomes: BTreeMap<&'static str, u64>,
    /// At which somebody looks for a scraper.
    under_way: BTreeSet<TargetIndex>,
}

/// Whether a Host header names this machine as somebody near it does: a page of the web that has its own name point here
/// (DNS rebinding) names that.
fn is_near(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name.parse::<IpAddr>().is_ok() || !name.trim_end_matches('.').contains('.')
}

/// Whether the name has no address of this family; what the own resolver alone says is no news of the name.
fn has_no_address(result: &ProbeResult) -> bool {
    result.outcome == Outcome::DnsNodata && result.dns != DnsPath::SystemOnly
}

impl Board {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A look has come to this.
    pub fn probed(&self, at: Timestamp, target: TargetIndex, family: Family, result: &ProbeResult) {
        let mut known = self.known();
        *known.outcomes.entry(result.outcome.name()).or_default() += 1;
        // That a name has no address of one family is how it is, and no failure.
        if has_no_address(result) {
            return;
        }
        known.last.insert((target, family), Last { at, result: result.clone() });
    }

    /// Whether nobody looks at it for a scraper; from then on somebody does.
    fn begins(&self, target: TargetIndex) -> bool {
        self.known().under_way.insert(target)
    }

    fn ends(&self, target: TargetIndex) {
        self.known().under_way.remove(&target);
    }

    fn newest(&self, target: TargetIndex) -> Option<(Family, Last)> {
        let known = self.known();
        let of = known.last.iter().filter(|((of, _), _)| *of == target);
        of.max_by_key(|(_, last)| last.at).map(|((_, family), last)| (*family, last.clone()))
    }
}

/// What serves them.
pub struct Exporter {
    /// The targets.
    pub catalogue: Arc<Catalogue>,
    /// Which families are looked at, in turn.
    pub families: Vec<Family>,
    /// Bytes of the rolling day.
    pub day_bytes_max: u64,
    /// The newest looks.
    pub board: Arc<Board>,
    /// Makes new ones.
    pub prober: Arc<Prober>,
    /// Where the caps are kept: they are read anew for each look, as another process does.
    pub state_dir: PathBuf,
    /// Bytes of the outbox.
    pub outbox_bytes_max: u64,
    /// What holds looks back now.
    pub held: watch::Receiver<Vec<Pause>>,
    /// The time.
    pub clock: Clock,
}

impl Exporter {
    /// Serves until stopped.
    pub async fn serve(self: Arc<Self>, listener: TcpListener, stop: CancellationToken) {
        let mut scrapers = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => return,
                Some(_) = scrapers.join_next() => continue,
                accepted = listener.accept(), if scrapers.len() < CONNECTIONS_MAX => accepted,
            };
            match accepted {
                Ok((stream, _)) => drop(scrapers.spawn(Arc::clone(&self).scraped(stream))),
                // Such as no descriptors left: it passes, or the next try says so again.
                Err(error) => {
                    tracing::warn!(%error, "a scraper was not accepted");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }

    async fn scraped(self: Arc<Self>, stream: TcpStream) {
        let answer = service_fn(move |request| {
            let own = Arc::clone(&self);
            async move { Ok::<_, Infallible>(own.answer(&request).await) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_WITHIN)
            .max_buf_size(HEAD_MAX)
            .serve_connection(TokioIo::new(stream), answer);
        // How it ends is the scraper's affair.
        drop(connection.await);
    }

    async fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let query = request.uri().query().unwrap_or_default();
        let host = request.headers().get(http::header::HOST).and_then(|host| host.to_str().ok());
        let (status, text) = match request.uri().path() {
            _ if !host.is_none_or(is_near) => {
                (403, "ask by address, localhost or a plain machine name\n".to_owned())
            }
            "/metrics" => self.metrics().map_or_else(failed, |text| (200, text)),
            "/probe" => match self.target(query) {
                Ok(target) => self.probe(target).await.unwrap_or_else(failed),
                Err(said) => (400, said),
            },
            _ => (404, "there are /metrics and /probe?target=HOST\n".to_owned()),
        };
        let content = match status {
            200 => "text/plain; version=0.0.4; charset=utf-8",
            _ => "text/plain; charset=utf-8",
        };
        let mut response = Response::new(Full::new(Bytes::from(text)));
        *response.status_mut() = http::StatusCode::from_u16(status).unwrap_or_default();
        let content = http::HeaderValue::from_static(content);
        response.headers_mut().insert(http::header::CONTENT_TYPE, content);
        response
    }

    /// The target that is meant: only of the catalogue, so that nobody can have this machine look elsewhere.
    fn target(&self, query: &str) -> Result<&Target, String> {
        let named = query.split('&').find_map(|pair| pair.strip_prefix("target="));
        let named = named.ok_or("name one: /probe?target=example.com\n")?;
        let plain =
            named.replace("%3A", ":").replace("%3a", ":").replace("%2F", "/").replace("%2f", "/");
        let host =
            plain.strip_prefix("https://").or(plain.strip_prefix("http://")).unwrap_or(&plain);
        let host = host.split(['/', ':', '?']).next().unwrap_or_default();
        let found = self.catalogue.find(host);
        found.ok_or_else(|| {
            format!("{host:?} is not in the catalogue: only what is in it is looked at; set catalogue_file for others\n")
        })
    }

    /// The newest look at a target, made anew where it is old and the caps allow it.
    async fn probe(&self, target: &Target) -> Result<(u16, String), SpoolError> {
        let old = |last: &Last| self.clock.now().since_ms(last.at) >= FRESH_MS;
        let known = self.board.newest(target.index);
        // One look at a time: who comes meanwhile is told of the one before.
        if known.as_ref().is_none_or(|(_, last)| old(last))
            && self.held.borrow().is_empty()
            && self.board.begins(target.index)
        {
            let looked = self.look(target, known.map(|(family, _)| family)).await;
            self.board.ends(target.index);
            looked?;
        }
        let mut text = String::new();
        let Some((family, last)) = self.board.newest(target.index) else {
            return Ok((
                503,
                "it was not looked at yet, and may not be now: its caps are used up\n".to_owned(),
            ));
        };
        of_probe(&mut text, family, &last, self.clock.now());
        Ok((200, text))
    }

    /// Looks over the family whose turn it is, and where the name has no address of that, over the next.
    async fn look(&self, target: &Target, before: Option<Family>) -> Result<(), SpoolError> {
        let at = before.and_then(|before| self.families.iter().position(|of| *of == before));
        let turns = self.families.iter().cycle().skip(at.map_or(0, |at| at + 1));
        for family in turns.take(self.families.len()) {
            let now = self.clock.now();
            // Opened anew each time, so that it has the whole history, and not what is new of it.
            let mut spool = self.open()?;
            let mut courtesy = spool.courtesy(now, self.day_bytes_max, false)?;
            if courtesy.admit(now, target.index, Use::Verification).is_err() {
                break;
            }
            spool.started(Start { at: now, target: target.index, of: Use::Verification })?;
            drop(spool);
            let look = probe::Look { full_handshake: false, names: Names::Own, within: None };
            let result = self.prober.probe(target, *family, look).await;
            let http1 = result.http_version == Some("http/1.1");
            let bytes = wire_bytes(result.bytes_in + result.bytes_out, http1);
            let quiet = result.retry_after_s.map(|seconds| Quiet {
                target: target.index,
                until: now.plus_ms(u64::from(seconds) * 1_000),
            });
            self.open()?.spent_beside(bytes, quiet)?;
            self.board.probed(now, target.index, *family, &result);
            if !has_no_address(&result) {
                break;
            }
        }
        Ok(())
    }

    fn open(&self) -> Result<Spool, SpoolError> {
        Spool::open(&self.state_dir, self.outbox_bytes_max)
    }

    fn metrics(&self) -> Result<String, SpoolError> {
        let state = self.open()?.state()?;
        let mut text = String::new();
        let known = self.board.known();
        let outcomes: Vec<(String, f64)> = known
            .outcomes
            .iter()
            .map(|(name, count)| (format!("{{outcome=\"{name}\"}}"), *count as f64))
            .collect();
        family(
            &mut text,
            "tocsin_probes_total",
            "counter",
            "Looks, by what came of them",
            &outcomes,
        );
        let looks = |of: fn(&Last) -> f64| -> Vec<(String, f64)> {
            let labels = |target: TargetIndex, family: Family| {
                let host = &self.catalogue.target(target)?.host;
                Some(format!("{{target=\"{host}\",ip_protocol=\"{}\"}}", protocol(family)))
            };
            let all = known.last.iter();
            all.filter_map(|((target, family), last)| Some((labels(*target, *family)?, of(last))))
                .collect()
        };
        let success = looks(|last| f64::from(u8::from(last.result.outcome.is_answer())));
        family(&mut text, "probe_success", "gauge", "Whether the target answered", &success);
        let seconds = looks(|last| last.result.total.as_secs_f64());
        family(&mut text, "probe_duration_seconds", "gauge", "Length of the newest look", &seconds);
        let at = looks(|last| last.at.as_ms() as f64 / 1_000.0);
        family(&mut text, "tocsin_probe_timestamp_seconds", "gauge", "When that was", &at);
        if let Some(state) = state {
            of_state(&mut text, &state);
        }
        Ok(text)
    }
}

fn failed(error: SpoolError) -> (u16, String) {
    (500, format!("{error}\n"))
}

const fn protocol(family: Family) -> u8 {
    match family {
        Family::V4 => 4,
        Family::V6 => 6,
    }
}

/// A family of metrics in the text format (Prometheus, exposition formats, version 0.0.4). Labels are of names that the
/// catalogue and this program allow, which have nothing to escape.
fn family(
    text: &mut String,
    name: &str,
    kind: &str,
    help: &str,
    values: &[(impl AsRef<str>, f64)],
) {
    let written = write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    debug_assert!(written.is_ok(), "a string takes everything");
    for (labels, value) in values {
        let written = writeln!(text, "{name}{} {value}", labels.as_ref());
        debug_assert!(written.is_ok(), "a string takes everything");
    }
}

fn gauge(text: &mut String, name: &str, help: &str, values: &[(&str, f64)]) {
    family(text, name, "gauge", help, values);
}

fn of_probe(text: &mut String, of: Family, Last { at, result }: &Last, now: Timestamp) {
    let bool = |is: bool| f64::from(u8::from(is));
    let seconds = |phase: Option<Duration>| phase.map_or(0.0, |spent| spent.as_secs_f64());
    let dns = result.phases.first().copied().flatten();
    let phases: Vec<(String, f64)> = PHASES
        .iter()
        .zip(result.phases)
        .map(|(name, spent)| (format!("{{phase=\"{name}\"}}"), seconds(spent)))
        .collect();
    let version = match result.http_version {
        Some("h2") => 2.0,
        Some(_) => 1.1,
        None => 0.0,
    };
    let tls = result.phases.get(2).copied().flatten().is_some();
    let simple = [
        ("probe_success", "Whether the target answered", bool(result.outcome.is_answer())),
        ("probe_duration_seconds", "Length of the whole look", result.total.as_secs_f64()),
        ("probe_dns_lookup_time_seconds", "Time for the name", seconds(dns)),
        ("probe_ip_protocol", "4 or 6", f64::from(protocol(of))),
        ("probe_http_status_code", "Status of the answer; 0 without one", f64::from(result.status)),
        ("probe_http_version", "Version of HTTP", version),
        ("probe_http_ssl", "Whether TLS was spoken", bool(tls)),
        ("tocsin_probe_age_seconds", "How old this look is", now.since_ms(*at) as f64 / 1_000.0),
    ];
    for (name, help, value) in simple {
        gauge(text, name, help, &[("", value)]);
    }
    family(text, "probe_http_duration_seconds", "gauge", "Time by phase", &phases);
    let outcome = format!("{{outcome=\"{}\"}}", result.outcome.name());
    family(text, "tocsin_probe_outcome", "gauge", "What came of it", &[(outcome, 1.0)]);
}

fn of_state(text: &mut String, state: &State) {
    let checks: Vec<(String, f64)> = state
        .checks
        .iter()
        .map(|check| (format!("{{check=\"{}\"}}", check.name), f64::from(u8::from(check.ok))))
        .collect();
    family(text, "tocsin_check_ok", "gauge", "Checks of the own line", &checks);
    let reached = state.sessions.iter().filter(|session| session.way.is_some()).count();
    let simple = [
        ("tocsin_collectors_reached", "Collectors that are reached", reached as f64),
        ("tocsin_collectors", "Collectors that are set", state.sessions.len() as f64),
        ("tocsin_day_bytes", "Bytes of the rolling day that are used up", state.day_bytes as f64),
        ("tocsin_day_bytes_max", "Bytes of the rolling day", state.day_bytes_max as f64),
    ];
    for (name, help, value) in simple {
        gauge(text, name, help, &[("", value)]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_names_this_machine_from_near_is_answered() {
        for near in
            ["127.0.0.1:9115", "[::1]:9115", "::1", "localhost", "LOCALHOST.:80", "box:9115"]
        {
            assert!(is_near(near), "{near}");
        }
        for far in ["evil.example", "evil.example:9115", "127.0.0.1.evil.example", "[evil.example]"]
        {
            assert!(!is_near(far), "{far}");
        }
    }
}
