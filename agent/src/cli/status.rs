//! `tocsin status`: how the agent of this machine stands, and what is known to be down.

use std::{fs, path::Path, time::Duration};

use serde_json::json;
use tocsin_proto::{incident::Phase, report::HealthCheck};

use super::{Exit, beside, incidents, say, say_json};
use crate::{
    clock::{Clock, wall},
    config::Config,
    look::{self, Gathered},
    means::Pause,
    spool::{Lost, Spool},
    state::{STALE_MS, State},
    words::{self, Language},
};

/// For collectors to answer.
const WITHIN: Duration = Duration::from_millis(2_500);

/// Whether an agent holds the state directory.
fn runs(state_dir: &Path) -> bool {
    let Ok(file) = fs::File::open(state_dir.join("lock")) else { return false };
    matches!(file.try_lock_shared(), Err(fs::TryLockError::WouldBlock))
}

/// Shows it.
///
/// # Errors
/// When the output is closed, or the outbox cannot be read.
pub async fn status(config: &Config, language: Language, json: bool) -> anyhow::Result<Exit> {
    let spool = beside(config)?;
    let running = runs(&config.state_dir);
    let state = spool.as_ref().map(Spool::state).transpose()?.flatten();
    let state = state.filter(|state| running && wall().since_ms(state.at) < STALE_MS);
    let lost = spool.as_ref().map(Spool::lost).transpose()?.unwrap_or_default();
    let waiting = spool.as_ref().map_or(Ok(0), waiting)?;
    // What is kept cannot be changed through a look from beside.
    let news = look::news_beside(config, spool.as_ref(), Clock::start(), WITHIN).await?;
    let exit = exit(running, state.as_ref(), &news);
    if json {
        say_json(document(running, state.as_ref(), &lost, waiting, &news))?;
    } else {
        text(config, language, running, state.as_ref(), &lost, waiting, &news)?;
    }
    Ok(exit)
}

fn waiting(spool: &Spool) -> anyhow::Result<usize> {
    let mut waiting = 0;
    for observer in spool.observers()? {
        waiting += spool.unsent(&observer, 0, usize::from(u16::MAX))?.len();
    }
    Ok(waiting)
}

fn exit(running: bool, state: Option<&State>, news: &Gathered) -> Exit {
    let Some(state) = state.filter(|_| running) else { return Exit::Unknown };
    let failing = |check: &HealthCheck| state.check(check.name()) == Some(false);
    // Without these nothing of the world is seen at all.
    if [HealthCheck::Route, HealthCheck::Unrelated].iter().any(failing) {
        return Exit::Critical;
    }
    let unreached = state.sessions.iter().all(|session| session.way.is_none());
    let down = incidents::shown(news, false).any(|i| i.phase != Phase::Suspected);
    let any = state.checks.iter().any(|check| !check.ok);
    if any || unreached || down { Exit::Problem } else { Exit::Ok }
}

fn document(
    running: bool,
    state: Option<&State>,
    lost: &Lost,
    waiting: usize,
    news: &Gathered,
) -> serde_json::Value {
    json!({
        "running": running, "state": state, "waiting": waiting,
        "lost": {"no_room": lost.no_room, "too_old": lost.too_old, "rejected": lost.rejected},
        "news": news.feeds.iter().map(|feed| json!({
            "operator": feed.snapshot.operator, "age_ms": feed.age_ms, "live": feed.live,
            "overall": feed.snapshot.overall, "crowd": feed.snapshot.crowd,
        })).collect::<Vec<_>>(),
        "incidents": incidents::shown(news, false).collect::<Vec<_>>(),
    })
}

/// A check in words, for people who do not know its name.
const fn check(language: Language, check: HealthCheck) -> &'static str {
    let (en, fr) = match check {
        HealthCheck::Unrelated => ("unrelated sites answer", "d’autres sites répondent"),
        HealthCheck::SystemResolver => ("your resolver (DNS)", "votre résolveur (DNS)"),
        HealthCheck::IndependentPath => ("names past your resolver", "noms sans votre résolveur"),
        HealthCheck::Ipv4 => ("IPv4", "IPv4"),
        HealthCheck::Ipv6 => ("IPv6", "IPv6"),
        HealthCheck::Route => ("a way out (route)", "une sortie (route)"),
        HealthCheck::Gateway => ("your router", "votre box ou routeur"),
        HealthCheck::Captive => ("no login page between", "pas de page de connexion"),
        HealthCheck::Clock => ("your clock", "votre horloge"),
        HealthCheck::Udp => ("UDP to the collector", "UDP jusqu’au collecteur"),
        HealthCheck::Budget => ("the byte budget", "le budget d’octets"),
    };
    match language {
        Language::En => en,
        Language::Fr => fr,
    }
}

fn text(
    config: &Config,
    language: Language,
    running: bool,
    state: Option<&State>,
    lost: &Lost,
    waiting: usize,
    news: &Gathered,
) -> std::io::Result<()> {
    let now = wall();
    match (running, state) {
        (false, _) => say(language.say(
            "No agent runs with this state directory: start it with `tocsin run`.",
            "Aucun agent ne tourne avec ce répertoire : lancez-le avec « tocsin run ».",
        ))?,
        (true, None) => say(language.say(
            "The agent runs, and has not said yet how it stands.",
            "L’agent tourne, et n’a pas encore dit comment il va.",
        ))?,
        (true, Some(state)) => {
            let since = words::length(language, now.since_ms(state.started_at));
            say(format_args!(
                "{} {since}",
                language.say("The agent runs since", "L’agent tourne depuis")
            ))?;
            for of in HealthCheck::ALL {
                let Some(ok) = state.check(of.name()) else { continue };
                let word = if ok { "ok" } else { language.say("FAILING", "EN PANNE") };
                say(format_args!("  {:<32}{word}", check(language, *of)))?;
            }
            for session in &state.sessions {
                let key = session.operator.to_string();
                let key = key.get(..8).unwrap_or(&key);
                let way = session.way.clone().unwrap_or_else(|| {
                    language
                        .say(
                            "not reached; what is seen is kept",
                            "non joint ; ce qui est vu est gardé",
                        )
                        .to_owned()
                });
                say(format_args!(
                    "  {:<32}{key}…: {way}",
                    language.say("collector", "collecteur")
                ))?;
            }
            if !state.paused_on.is_empty() {
                let on = state.paused_on.iter().map(|on| match on {
                    Pause::Metered => language.say("a metered link", "connexion limitée"),
                    Pause::Battery => language.say("a low battery", "batterie faible"),
                });
                let on: Vec<&str> = on.collect();
                say(format_args!(
                    "  {:<32}{}",
                    language.say("paused by", "en pause"),
                    on.join(", ")
                ))?;
            }
            if !state.left_alone.is_empty() {
                say(format_args!(
                    "  {:<32}{}",
                    language.say("left alone, as they wish", "laissés en paix, à leur demande"),
                    state.left_alone.join(", ")
                ))?;
            }
            say(format_args!(
                "  {:<32}{:.1} / {:.0} {}",
                language.say("bytes of the rolling day", "octets de la journée glissante"),
                state.day_bytes as f64 / 1e6,
                state.day_bytes_max as f64 / 1e6,
                language.say("MB", "Mo")
            ))?;
        }
    }
    if config.collectors.is_empty() {
        say(language.say(
            "No collector is set: add a tocsin:// line to collectors.",
            "Aucun collecteur n’est indiqué : ajoutez une ligne tocsin:// à collectors.",
        ))?;
    }
    let lost = lost.no_room + lost.too_old + lost.rejected;
    if waiting > 0 || lost > 0 {
        say(format_args!(
            "  {waiting} {}, {lost} {}",
            language.say("reports wait", "rapports attendent"),
            language.say("were lost", "ont été perdus")
        ))?;
    }
    incidents::text(config, language, news, false)
}
