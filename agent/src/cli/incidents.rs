//! `tocsin incidents` and `tocsin watch`: what is down, as the collectors last said, without a browser, a name or a
//! certificate authority on the way.

use std::{collections::BTreeMap, time::Duration};

use serde_json::json;
use tocsin_proto::{
    incident::{Incident, Phase},
    snapshot::Overall,
};

use super::{Exit, beside, say, say_json};
use crate::{
    clock::{Clock, wall},
    config::Config,
    look::{self, Gathered},
    words::{self, Language},
};

/// For collectors to answer.
const WITHIN: Duration = Duration::from_millis(2_500);
/// How often `watch` asks: a snapshot is some 30 kB.
const WATCH_EVERY: Duration = Duration::from_secs(20);

/// Incidents that go on, and with `all` those that ended lately, of every collector; suspicions too. One that
/// several tell of stands for each.
pub(super) fn shown(news: &Gathered, all: bool) -> impl Iterator<Item = &Incident> {
    let of = news.feeds.iter().flat_map(|feed| &feed.snapshot.incidents);
    of.filter(move |incident| all || (incident.phase.is_open() && incident.part_of.is_none()))
}

async fn read(config: &Config) -> anyhow::Result<Gathered> {
    let spool = beside(config)?;
    Ok(look::news_beside(config, spool.as_ref(), Clock::start(), WITHIN).await?)
}

/// Shows them.
///
/// # Errors
/// When the output is closed, or the outbox cannot be read.
pub async fn incidents(
    config: &Config,
    language: Language,
    all: bool,
    json: bool,
) -> anyhow::Result<Exit> {
    let news = read(config).await?;
    if json {
        say_json(json!({
            "incidents": shown(&news, all).collect::<Vec<_>>(),
            "news": news.feeds.iter().map(|feed| json!({
                "operator": feed.snapshot.operator, "age_ms": feed.age_ms, "live": feed.live,
                "overall": feed.snapshot.overall,
            })).collect::<Vec<_>>(),
            "unreached": news.unreached.iter().map(|(operator, why)| {
                json!({"operator": operator, "error": why})
            }).collect::<Vec<_>>(),
        }))?;
    } else {
        text(config, language, &news, all)?;
    }
    Ok(exit(&news))
}

fn exit(news: &Gathered) -> Exit {
    let confirmed = shown(news, false).any(|incident| incident.phase == Phase::Confirmed);
    match (confirmed, shown(news, false).next().is_some()) {
        _ if !news.feeds.iter().any(crate::engine::diagnose::Feed::is_fresh) => Exit::Unknown,
        (true, _) => Exit::Critical,
        (false, true) => Exit::Problem,
        (false, false) => Exit::Ok,
    }
}

fn line(config: &Config, language: Language, incident: &Incident) -> String {
    let now = wall();
    let spread = words::spread(language, incident);
    let spread = if spread.is_empty() { spread } else { format!("; {spread}") };
    format!(
        "{:<12}{}: {} {} ({}), {}{spread}",
        words::phase(language, incident.phase),
        words::culprit(language, incident, &config.catalogue),
        language.say("since", "depuis"),
        words::clock_time(incident.started_at, now),
        words::length(language, now.since_ms(incident.started_at)),
        words::reach(language, incident),
    )
}

/// In words.
pub(super) fn text(
    config: &Config,
    language: Language,
    news: &Gathered,
    all: bool,
) -> std::io::Result<()> {
    for incident in shown(news, all) {
        say(line(config, language, incident))?;
    }
    let fresh = news.feeds.iter().find(|feed| feed.is_fresh());
    let said = match fresh.map(|feed| feed.snapshot.overall) {
        _ if shown(news, all).next().is_some() => None,
        Some(Overall::Quiet) => {
            Some(language.say("Nothing is known to be down.", "Aucune panne connue."))
        }
        Some(Overall::YoungCrowd) => Some(language.say(
            "Nothing is known to be down; the crowd is too young to confirm anything.",
            "Aucune panne connue ; la foule est trop jeune pour confirmer quoi que ce soit.",
        )),
        Some(Overall::InsufficientEvidence) => Some(language.say(
            "Too few observers report to say whether anything is down.",
            "Trop peu d’observateurs rapportent pour dire si quelque chose est en panne.",
        )),
        Some(Overall::Incident) => None,
        None => Some(language.say(
            "What is down is not known: no collector was reached.",
            "On ne sait pas ce qui est en panne : aucun collecteur n’a été joint.",
        )),
    };
    if let Some(said) = said {
        say(said)?;
    }
    let none_live = !news.feeds.iter().any(|feed| feed.live);
    if let Some(feed) = news.feeds.first().filter(|_| none_live) {
        say(format_args!(
            "{} {}",
            language.say(
                "No collector was reached; this is as old as",
                "Aucun collecteur n’a été joint ; ceci date de"
            ),
            words::length(language, feed.age_ms)
        ))?;
    }
    for (operator, why) in &news.unreached {
        let operator = operator.get(..8).unwrap_or(operator);
        say(format_args!("{} {operator}…: {why}", language.say("collector", "collecteur")))?;
    }
    Ok(())
}

/// Tells of every change, until it is stopped.
///
/// # Errors
/// When the output is closed, or the outbox cannot be read.
pub async fn watch(config: &Config, language: Language, json: bool) -> anyhow::Result<Exit> {
    let mut known: BTreeMap<String, Phase> = BTreeMap::new();
    let (mut reached, mut begun) = (None, false);
    loop {
        let news = read(config).await?;
        let now_reached = news.feeds.iter().any(|feed| feed.live);
        if reached != Some(now_reached) {
            reached = Some(now_reached);
            let said = match now_reached {
                true => language.say("watching", "à l’écoute"),
                false => language.say("no collector is reached", "aucun collecteur n’est joint"),
            };
            match json {
                true => say_json(json!({"event": "reached", "reached": now_reached}))?,
                false => say(format_args!("{}  {said}", wall()))?,
            }
        }
        for incident in shown(&news, true) {
            let before = known.insert(incident.id.clone(), incident.phase);
            // Of what was over when this began nothing is news.
            let old = !begun && !incident.phase.is_open();
            if before == Some(incident.phase) || old {
                continue;
            }
            match json {
                true => say_json(json!({"event": "incident", "incident": incident}))?,
                false => say(format_args!("{}  {}", wall(), line(config, language, incident)))?,
            }
        }
        begun |= now_reached;
        tokio::select! {
            _ = tokio::signal::ctrl_c() => return Ok(exit(&news)),
            () = tokio::time::sleep(WATCH_EVERY) => {}
        }
    }
}
