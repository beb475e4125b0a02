//! Gathers, within three seconds, what [`crate::engine::diagnose`] judges: looks at the site and at a few that share
//! nothing with it, the own line, and what collectors published. Nothing of it is reported to anybody.

use std::{
    net::Ipv4Addr,
    sync::Arc,
    time::{Duration, Instant},
};

use tocsin_proto::{
    catalogue::{Catalogue, Target},
    delegation::KeyRole,
    id::{Id, TargetIndex},
    implicate::DnsPath,
    line::CollectorLine,
    observation::Family,
    outcome::Phase,
    snapshot::Snapshot,
    time::Timestamp,
};
use tokio::task::JoinSet;

use crate::{
    CLOCK_OFFSET_MAX_MS, PROBE_CORE,
    clock::{Clock, monotonic},
    config::Config,
    engine::{
        courtesy::{Refusal, Start, Use, wire_bytes},
        diagnose::{Control, Feed, Look, OwnLine},
        judge::providers,
        planner::Names,
    },
    gateway,
    network::Network,
    probe::{self, Prober, portal::Answered},
    spool::{Spool, SpoolError},
    uplink::{
        UplinkError,
        dial::Dialer,
        link::LinkError,
        reader::{News, Reader, Serials},
        way::Pace,
    },
};

/// A look is over by then, and so is the reading of what a collector published.
const LOOK_WITHIN: Duration = Duration::from_millis(2_500);
/// What was not found out by then is not known.
const WITHIN: Duration = Duration::from_millis(2_800);
/// If nothing has answered by then it is asked whether something answers in its place.
const PORTAL_AFTER: Duration = Duration::from_millis(1_200);
const PORTAL_WITHIN: Duration = Duration::from_millis(1_200);
/// For the gateway to answer: two rounds of the kernel's, a second apart.
const GATEWAY_WITHIN: Duration = Duration::from_millis(2_200);
/// Somebody waits: TCP is tried sooner than an agent that has all day would.
const PACE: Pace = Pace {
    stagger: Duration::from_millis(150),
    tcp_after: Duration::from_millis(700),
    back_after: Duration::from_secs(600),
    back_after_max: Duration::from_secs(600),
};
/// Sites that share nothing with the one in question.
const CONTROLS: usize = 4;
/// The number of a site that the catalogue does not have.
const UNLISTED: TargetIndex = TargetIndex(u16::MAX);

/// The site that was asked about.
#[derive(Debug, Clone)]
pub struct Site {
    /// As it is looked at.
    pub target: Target,
    /// Whether others look at it too.
    pub listed: bool,
}

/// What was typed is no site.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no site; type a host name, such as example.com")]
pub struct NoSite(pub String);

impl Site {
    /// A site by what somebody typed: an address of a page, a host, or a name that the catalogue has.
    ///
    /// # Errors
    /// When it is none of these.
    pub fn find(catalogue: &Catalogue, typed: &str) -> Result<Self, NoSite> {
        let refused = || NoSite(typed.to_owned());
        let text = typed.trim().trim_end_matches('/').to_ascii_lowercase();
        let text = text.strip_prefix("https://").or(text.strip_prefix("http://")).unwrap_or(&text);
        let host = text.split(['/', '?', '#']).next().unwrap_or_default();
        let host = host.split(':').next().unwrap_or_default().trim_end_matches('.');
        let bare = host.strip_prefix("www.").unwrap_or(host);
        let www = format!("www.{bare}");
        let named = |target: &&Target| target.name.eq_ignore_ascii_case(host);
        let listed = [host, bare, &www].into_iter().find_map(|name| catalogue.find(name));
        if let Some(target) = listed.or_else(|| catalogue.targets().values().find(named)) {
            return Ok(Self { target: target.clone(), listed: true });
        }
        let label = |label: &str| {
            !label.is_empty()
                && label.len() <= 63
                && label.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-')
        };
        let numbers = host.bytes().all(|c| c.is_ascii_digit() || c == b'.');
        if host.len() > 253 || numbers || !host.contains('.') || !host.split('.').all(label) {
            return Err(refused());
        }
        let id: Id = "unlisted".parse().map_err(|_| refused())?;
        Ok(Self {
            target: Target {
                max_total_rps: None,
                index: UNLISTED,
                id,
                name: host.to_owned(),
                host: host.to_owned(),
                port: 443,
                path: "/".to_owned(),
                category: String::new(),
                countries: Vec::new(),
                status_page: None,
                roles: Vec::new(),
            },
            listed: false,
        })
    }
}

/// What was found out.
#[derive(Debug, Default)]
pub struct Gathered {
    /// Looks at the site.
    pub looks: Vec<Look>,
    /// Why it was not looked at.
    pub refused: Option<Refusal>,
    /// Looks at others.
    pub controls: Vec<Control>,
    /// The own line.
    pub line: OwnLine,
    /// The gateway, where there is one.
    pub gateway: Option<Ipv4Addr>,
    /// What collectors published, the newest first.
    pub feeds: Vec<Feed>,
    /// Collectors that were not reached, with why.
    pub unreached: Vec<(String, String)>,
}

enum Found {
    /// With its bytes, and for how many seconds the site asked to be left alone.
    Site(Look, u64, Option<u32>),
    Control(Control, u64),
    Names(DnsPath, String, Family),
    Gateway(Option<bool>),
    Plain(Answered),
    News(Box<(CollectorLine, Result<News, UplinkError>)>),
}

/// Sites with nothing in common with this one, nor with each other: beginning anywhere, so that no site is
/// everybody's control.
#[must_use]
pub fn controls(catalogue: &Catalogue, site: Option<TargetIndex>, from: u64) -> Vec<&Target> {
    let all: Vec<&Target> = catalogue.targets().values().collect();
    let start = usize::try_from(from).unwrap_or(0).checked_rem(all.len()).unwrap_or(0);
    let mut taken = site.map_or_else(Default::default, |site| providers(catalogue, site));
    let mut chosen = Vec::new();
    for target in all.iter().cycle().skip(start).take(all.len()) {
        let own = providers(catalogue, target.index);
        // Of what is behind a site that nobody knows, nothing is known to be apart from it either.
        if Some(target.index) != site && !own.is_empty() && own.is_disjoint(&taken) {
            taken.extend(own);
            chosen.push(*target);
        }
        if chosen.len() == CONTROLS {
            break;
        }
    }
    chosen
}

pub(crate) fn look(family: Family, result: &probe::ProbeResult) -> (Look, u64) {
    let http1 = result.http_version == Some("http/1.1");
    let total_ms = u64::try_from(result.total.as_millis()).unwrap_or(u64::MAX);
    let look = Look {
        family,
        outcome: result.outcome,
        rule: result.rule,
        dns: result.dns,
        status: result.status,
        total_ms,
    };
    (look, wire_bytes(result.bytes_in + result.bytes_out, http1))
}

/// Reads what each collector published, within a time; what was kept of those that are not reached. From beside a
/// running agent: nothing is kept of it.
///
/// # Errors
/// When the outbox cannot be read.
pub async fn news_beside(
    config: &Config,
    spool: Option<&Spool>,
    clock: Clock,
    within: Duration,
) -> Result<Gathered, SpoolError> {
    let mut gathered = Gathered::default();
    let mut tasks = JoinSet::new();
    spawn_news(config, spool, clock, within, &mut tasks)?;
    while let Some(found) = tasks.join_next().await {
        if let Ok(Found::News(news)) = found {
            take_news(&mut gathered, spool, false, clock, *news)?;
        }
    }
    kept(config, spool, clock, &mut gathered)?;
    Ok(gathered)
}

fn spawn_news(
    config: &Config,
    spool: Option<&Spool>,
    clock: Clock,
    within: Duration,
    tasks: &mut JoinSet<Found>,
) -> Result<(), SpoolError> {
    for line in &config.collectors {
        let seen = |role| spool.map_or(Ok(0), |spool| spool.serial(&line.operator, role));
        let serials = Serials { transport: seen(KeyRole::Transport)?, feed: seen(KeyRole::Feed)? };
        let (line, transport) = (line.clone(), config.transport);
        let (sources, catalogue_version) =
            (config.source_address.clone(), config.catalogue.version());
        tasks.spawn(async move {
            let read = async {
                let dialer = Dialer::new(&sources)?;
                let probe_core = PROBE_CORE;
                let reader = Reader {
                    dialer: &dialer,
                    transport,
                    pace: PACE,
                    clock,
                    probe_core,
                    catalogue_version,
                };
                reader.read(&line, serials).await
            };
            let read = tokio::time::timeout(within, read).await;
            let read = read.unwrap_or(Err(UplinkError::Deadline("answer")));
            Found::News(Box::new((line, read)))
        });
    }
    Ok(())
}

fn take_news(
    gathered: &mut Gathered,
    kept_by: Option<&Spool>,
    keeps: bool,
    clock: Clock,
    (line, news): (CollectorLine, Result<News, UplinkError>),
) -> Result<(), SpoolError> {
    let operator = line.operator;
    let news = match news {
        Ok(news) => news,
        Err(error) => {
            // What answers, though it refuses, was reached.
            let silent = matches!(
                error,
                UplinkError::Link(LinkError::Timeout(_) | LinkError::Nowhere)
                    | UplinkError::Deadline(_)
            );
            let reached = gathered.line.collector.unwrap_or(false) || !silent && is_answer(&error);
            gathered.line.collector = Some(reached);
            gathered.unreached.push((operator.to_string(), crate::cli::chain(&error)));
            return Ok(());
        }
    };
    // A snapshot from before one that was seen already is played back.
    let sequence_of = |document: &[u8]| {
        serde_json::from_slice::<Snapshot>(document).map_or(0, |snapshot| snapshot.sequence)
    };
    let kept = kept_by.map_or(Ok(None), |spool| spool.snapshot(&operator))?;
    gathered.line.collector = Some(true);
    if kept.is_some_and(|(kept, _)| sequence_of(&kept.document) > news.sequence) {
        let why = "what it published is older than what it had published before".to_owned();
        gathered.unreached.push((operator.to_string(), why));
        return Ok(());
    }
    gathered.line.clock = Some(news.offset_ms.unsigned_abs() <= CLOCK_OFFSET_MAX_MS);
    if let Some(spool) = kept_by.filter(|_| keeps) {
        spool.saw_serial(&operator, KeyRole::Transport, news.transport_serial)?;
        spool.saw_serial(&operator, KeyRole::Feed, news.feed_serial)?;
        spool.keep_snapshot(&operator, &news.signed, news.sequence, clock.now())?;
    }
    if let Ok(snapshot) = serde_json::from_slice::<Snapshot>(&news.signed.document) {
        let now = Timestamp::from_ms(clock.now().as_ms().saturating_add_signed(news.offset_ms));
        gathered.feeds.push(Feed {
            age_ms: now.since_ms(snapshot.at),
            live: true,
            snapshot,
            country: Some(news.country),
            asn: news.asn,
        });
    }
    Ok(())
}

/// Whether an error shows that something at the collector's address answered.
const fn is_answer(error: &UplinkError) -> bool {
    matches!(error, UplinkError::Session(_) | UplinkError::Ended | UplinkError::Frame(_))
}

/// What was kept of collectors that were not reached.
fn kept(
    config: &Config,
    spool: Option<&Spool>,
    clock: Clock,
    gathered: &mut Gathered,
) -> Result<(), SpoolError> {
    let Some(spool) = spool else { return Ok(()) };
    // Where the collector saw us last.
    let state = spool.state()?;
    for line in &config.collectors {
        if gathered.feeds.iter().any(|feed| feed.snapshot.operator == line.operator) {
            continue;
        }
        let Some((signed, received)) = spool.snapshot(&line.operator)? else { continue };
        if let Ok(snapshot) = serde_json::from_slice::<Snapshot>(&signed.document) {
            // By our own clock both times: it may be wrong, but it is the same one. What comes from the future was
            // kept before the clock was set back.
            let age_ms = match clock.now() < received {
                true => u64::MAX,
                // One that nobody has reported for yet has no age but that.
                false if snapshot.at == Timestamp::EPOCH => clock.now().since_ms(received),
                false => clock.now().since_ms(received) + received.since_ms(snapshot.at),
            };
            let session = state.iter().flat_map(|state| &state.sessions);
            let session = session.into_iter().find(|of| of.operator == line.operator);
            let (country, asn) = session.map_or((None, 0), |of| (of.country, of.asn));
            let live = false;
            gathered.feeds.push(Feed { age_ms, live, snapshot, country, asn });
        }
    }
    gathered.feeds.sort_by_key(|feed| feed.age_ms);
    Ok(())
}

/// What was last published, as it was kept.
///
/// # Errors
/// When the outbox cannot be read.
pub(crate) fn kept_feeds(
    config: &Config,
    spool: &Spool,
    clock: Clock,
) -> Result<Vec<Feed>, SpoolError> {
    let mut gathered = Gathered::default();
    kept(config, Some(spool), clock, &mut gathered)?;
    Ok(gathered.feeds)
}

/// Looks at everything, within what is left of three seconds since it `began`.
///
/// # Errors
/// When the outbox fails.
pub async fn gather(
    config: &Config,
    spool: &mut Spool,
    prober: &Arc<Prober>,
    site: &Site,
    began: Instant,
) -> Result<Gathered, SpoolError> {
    let clock = Clock::start();
    let now = clock.now();
    let mut gathered = Gathered::default();
    let network = Network::now(config.context.as_deref());
    gathered.line.route = network.route;
    gathered.line.tunnel = network.is_tunnel();
    gathered.gateway = network.gateway();
    let mut courtesy = spool.courtesy(now, config.day_bytes_max, false)?;
    let mut tasks: JoinSet<Found> = JoinSet::new();
    spawn_news(config, Some(spool), clock, LOOK_WITHIN, &mut tasks)?;
    if let Some(gateway) = gathered.gateway.filter(|_| network.route == Some(true)) {
        tasks.spawn(async move { Found::Gateway(gateway::answers(gateway, GATEWAY_WITHIN).await) });
    }
    let spawn = |tasks: &mut JoinSet<Found>, target: &Target, family: Family, control: bool| {
        let (prober, target) = (Arc::clone(prober), target.clone());
        tasks.spawn(async move {
            let how =
                probe::Look { full_handshake: true, names: Names::Own, within: Some(LOOK_WITHIN) };
            let result = prober.probe(&target, family, how).await;
            let (look, bytes) = look(family, &result);
            match control {
                true => Found::Control(Control { host: target.host, look }, bytes),
                false => Found::Site(look, bytes, result.retry_after_s),
            }
        });
    };
    let compare = |tasks: &mut JoinSet<Found>, host: &str, family: Family| {
        let (prober, host) = (Arc::clone(prober), host.to_owned());
        tasks.spawn(async move {
            let path = prober.compare_names(&host, family, LOOK_WITHIN).await;
            Found::Names(path, host, family)
        });
    };
    let mut start = |spool: &mut Spool, target: &Target| -> Result<Option<Refusal>, SpoolError> {
        // Of a site that is in no catalogue nobody keeps count: one look, because a person asked.
        if target.index == UNLISTED {
            return Ok(None);
        }
        if let Err(refusal) = courtesy.admit(now, target.index, Use::Verification) {
            return Ok(Some(refusal));
        }
        spool.started(Start { at: now, target: target.index, of: Use::Verification })?;
        Ok(None)
    };
    for family in &config.families {
        match start(spool, &site.target)? {
            None => spawn(&mut tasks, &site.target, *family, false),
            Some(refusal) => gathered.refused = Some(refusal),
        }
    }
    let first = config.families.first().copied().unwrap_or(Family::V4);
    compare(&mut tasks, &site.target.host, first);
    let from = getrandom::u64().unwrap_or(0);
    let chosen = controls(&config.catalogue, Some(site.target.index), from);
    for (n, target) in chosen.iter().enumerate() {
        for family in &config.families {
            if start(spool, target)?.is_none() {
                spawn(&mut tasks, target, *family, true);
            }
        }
        if n == 0 {
            compare(&mut tasks, &target.host, first);
        }
    }
    let mut names: Vec<(DnsPath, String, Family)> = Vec::new();
    let mut plain: Vec<Answered> = Vec::new();
    let (mut bytes, mut portal_asked, mut retry_after) = (0, false, None);
    // Where nothing has answered: what answers in its place? These are visits like all others.
    let mut ask_plainly = |tasks: &mut JoinSet<Found>, gathered: &Gathered, spool: &mut Spool| {
        let fine = gathered.looks.iter().any(Look::is_fine)
            || gathered.controls.iter().any(|control| control.look.is_fine());
        for target in chosen.iter().take(2).filter(|_| !fine) {
            if start(spool, target)?.is_some() {
                continue;
            }
            let (prober, host) = (Arc::clone(prober), target.host.clone());
            tasks.spawn(
                async move { Found::Plain(prober.plain(&host, first, PORTAL_WITHIN).await) },
            );
        }
        Ok::<_, SpoolError>(())
    };
    loop {
        let elapsed = monotonic().saturating_duration_since(began);
        let until = if portal_asked { WITHIN } else { PORTAL_AFTER };
        let left = until.saturating_sub(elapsed);
        let found = tokio::select! {
            biased;
            found = tasks.join_next() => match found {
                Some(Ok(found)) => found,
                Some(Err(_)) => continue,
                None if portal_asked => break,
                None => {
                    portal_asked = true;
                    ask_plainly(&mut tasks, &gathered, spool)?;
                    continue;
                }
            },
            () = tokio::time::sleep(left) => {
                if portal_asked {
                    break;
                }
                portal_asked = true;
                ask_plainly(&mut tasks, &gathered, spool)?;
                continue;
            }
        };
        match found {
            Found::Site(look, spent, asked) => {
                gathered.looks.push(look);
                bytes += spent;
                retry_after = retry_after.max(asked);
            }
            Found::Control(control, spent) => {
                gathered.controls.push(control);
                bytes += spent;
            }
            Found::Names(path, host, family) => names.push((path, host, family)),
            Found::Gateway(answers) => gathered.line.gateway = answers,
            Found::Plain(answered) => plain.push(answered),
            Found::News(news) => take_news(&mut gathered, Some(spool), true, clock, *news)?,
        }
    }
    tasks.shutdown().await;
    settle(&mut gathered, site, &names, &plain);
    let quiet = retry_after.filter(|_| site.listed).and_then(|seconds| {
        courtesy.retry_after(clock.now(), site.target.index, seconds);
        courtesy.quiet(site.target.index)
    });
    spool.spent_beside(bytes, quiet)?;
    kept(config, Some(spool), clock, &mut gathered)?;
    Ok(gathered)
}

/// What the ways of asking say together.
fn settle(
    gathered: &mut Gathered,
    site: &Site,
    names: &[(DnsPath, String, Family)],
    plain: &[Answered],
) {
    let path = |host: &str, family: Family| {
        let own = names.iter().find(|(_, of, over)| of == host && *over == family);
        own.map(|(path, ..)| *path)
    };
    let confirm = |look: &mut Look, host: &str| {
        let unconfirmed = look.dns == DnsPath::Unconfirmed;
        if unconfirmed
            && look.outcome.phase() == Some(Phase::Dns)
            && let Some(path) = path(host, look.family)
        {
            look.dns = path;
        }
    };
    gathered.looks.iter_mut().for_each(|look| confirm(look, &site.target.host));
    for control in &mut gathered.controls {
        confirm(&mut control.look, &control.host);
    }
    let fine = gathered.controls.iter().any(|control| control.look.is_fine());
    let stands_in = plain.contains(&Answered::Other) && !plain.contains(&Answered::Site);
    gathered.line.no_portal = match (fine, stands_in, plain.is_empty()) {
        (true, ..) => Some(true),
        (false, true, _) => Some(false),
        _ => None,
    };
    gathered.looks.sort_by_key(|look| look.family);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_type_is_a_site() {
        let catalogue = Catalogue::builtin();
        let some = catalogue.targets().values().find(|t| t.host.starts_with("www.")).unwrap();
        let bare = some.host.strip_prefix("www.").unwrap();
        for typed in [
            some.host.clone(),
            bare.to_owned(),
            format!("https://{}/a/b?c", some.host),
            format!(" HTTP://{} ", bare.to_uppercase()),
            some.name.to_lowercase(),
        ] {
            let site = Site::find(catalogue, &typed).unwrap();
            assert!(site.listed && site.target.host == some.host, "{typed}");
        }
        let own = Site::find(catalogue, "https://blog.example.org:8443/x").unwrap();
        assert_eq!((own.target.host.as_str(), own.listed), ("blog.example.org", false));
        for typed in ["", "nonsense", "192.0.2.1", "a..b", "exa mple.com", "-", "https://", "b_c.d"]
        {
            assert_eq!(Site::find(catalogue, typed).unwrap_err(), NoSite(typed.to_owned()));
        }
    }

    #[test]
    fn controls_share_nothing() {
        let catalogue = Catalogue::builtin();
        for (n, site) in (0u64..).zip(catalogue.targets().values()) {
            let chosen = controls(catalogue, Some(site.index), n * 7);
            assert!(chosen.len() >= 2, "{}: {}", site.host, chosen.len());
            let mut seen = providers(catalogue, site.index);
            for target in chosen {
                let own = providers(catalogue, target.index);
                assert!(own.is_disjoint(&seen), "{}: {}", site.host, target.host);
                seen.extend(own);
            }
        }
    }
}
