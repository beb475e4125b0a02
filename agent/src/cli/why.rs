//! `tocsin why SITE`: does it work from here, and if not, whose fault is it?

use std::{net::IpAddr, sync::Arc};

use serde_json::{Value, json};
use tocsin_proto::{rules::RuleTable, time::Timestamp};

use super::{Exit, say, say_json};
use crate::{
    clock::{monotonic, wall},
    config::Config,
    engine::{
        diagnose::{Cause, Diagnosis, Evidence, Look, OwnLine, Why, Works},
        outbox::resolver_class,
    },
    identity::Identity,
    look::{self, Gathered, Site},
    probe::Prober,
    spool::Spool,
    words::{self, Answer, Language},
};

/// How an answer is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// For people.
    Text,
    /// A JSON document.
    Json,
    /// One line for a monitoring system (Monitoring Plugins Development Guidelines, section 2).
    Nagios,
}

/// Answers. Takes at most three seconds.
///
/// # Errors
/// When the output is closed, or the state directory cannot be used.
pub async fn why(
    config: &Config,
    prober: &Arc<Prober>,
    typed: &str,
    language: Language,
    form: Form,
) -> anyhow::Result<Exit> {
    let site = match Site::find(&config.catalogue, typed) {
        Ok(site) => site,
        Err(error) => {
            match form {
                Form::Json => say_json(json!({"target": typed, "error": error.to_string()}))?,
                Form::Nagios => say(format_args!("TOCSIN UNKNOWN - {error}"))?,
                Form::Text => say(&error)?,
            }
            return Ok(Exit::Unknown);
        }
    };
    let began = monotonic();
    // The caps lie beside the seed, and a state directory without one would look damaged.
    Identity::open(&config.state_dir)?;
    let mut spool = Spool::open(&config.state_dir, config.outbox_bytes_max)?;
    let gathered = look::gather(config, &mut spool, prober, &site, began).await?;
    let evidence = Evidence {
        target: site.listed.then_some(&site.target),
        looks: gathered.looks.clone(),
        controls: gathered.controls.clone(),
        line: gathered.line,
        resolver: Some(resolver_class(&config.resolvers).name()),
        feeds: gathered.feeds.clone(),
    };
    let diagnosis = evidence.diagnose(&config.catalogue);
    let name = if site.listed { &site.target.name } else { &site.target.host };
    let answer = Answer {
        language,
        site: name,
        diagnosis: &diagnosis,
        gateway: gathered.gateway,
        resolver: config.resolvers.first().map(std::net::SocketAddr::ip),
        catalogue: &config.catalogue,
        now: wall(),
        old_ms: gathered.feeds.first().filter(|feed| !feed.is_fresh()).map(|feed| feed.age_ms),
    };
    let mut lines = match (gathered.looks.is_empty(), &gathered.refused) {
        (true, Some(refusal)) => vec![format!(
            "{name}: {}: {}",
            language.say("not looked at, out of courtesy", "non regardé, par courtoisie"),
            words::refusal(language, refusal)
        )],
        _ => answer.lines(),
    };
    if site.listed {
        let heard = gathered.feeds.iter().filter(|feed| feed.is_fresh());
        let mut said = heard.flat_map(|feed| &feed.snapshot.people);
        let said = said.find(|said| said.target == site.target.id);
        lines.extend(said.map(|said| words::people(language, said, wall())));
    }
    let exit = exit(&gathered, &diagnosis);
    match form {
        Form::Text => {
            text(&lines, &gathered, language)?;
            if exit == Exit::Ok && site.listed {
                let otherwise =
                    language.say("Not for you? Say so", "Pas pour vous\u{a0}? Dites-le");
                say(format_args!("\n{otherwise}: tocsin report {}", site.target.host))?;
            }
        }
        Form::Json => say_json(document(&site, &lines, &gathered, &diagnosis))?,
        Form::Nagios => say(nagios(exit, &lines, &gathered))?,
    }
    Ok(exit)
}

fn exit(gathered: &Gathered, diagnosis: &Diagnosis) -> Exit {
    match (&diagnosis.works, &diagnosis.cause) {
        _ if gathered.looks.is_empty() => Exit::Unknown,
        (Works::Yes, Cause::Nothing) => Exit::Ok,
        (Works::Yes | Works::NotOver(_), _) => Exit::Problem,
        (Works::No, _) => Exit::Critical,
    }
}

/// One line of evidence for each look: what was met, over which family, how fast.
fn evidence_of(look: &Look) -> String {
    let rule = RuleTable::builtin().get(look.rule).map(|rule| rule.id.as_str());
    let rule = rule.map_or(String::new(), |rule| format!(", {rule}"));
    let status = if look.status == 0 { String::new() } else { format!(", HTTP {}", look.status) };
    let family = words::family_name(look.family);
    format!("{family} {} ({} ms{status}{rule})", look.outcome, look.total_ms)
}

fn text(lines: &[String], gathered: &Gathered, language: Language) -> std::io::Result<()> {
    for line in lines {
        say(line)?;
    }
    say("")?;
    for look in &gathered.looks {
        say(format_args!("  {:<12}{}", language.say("site", "site"), evidence_of(look)))?;
    }
    for control in &gathered.controls {
        let (host, met) = (&control.host, evidence_of(&control.look));
        say(format_args!("  {:<12}{host}: {met}", language.say("others", "autres")))?;
    }
    let OwnLine { route, gateway, no_portal, collector, clock, .. } = gathered.line;
    let checks = [
        (language.say("route", "route"), route),
        (language.say("gateway", "routeur"), gateway),
        (language.say("no portal", "pas de portail"), no_portal),
        (language.say("collector", "collecteur"), collector),
        (language.say("clock", "horloge"), clock),
    ];
    let known: Vec<String> = checks
        .into_iter()
        .filter_map(|(name, ok)| {
            let word = if ok? { "ok" } else { language.say("FAILING", "EN PANNE") };
            Some(format!("{name} {word}"))
        })
        .collect();
    if !known.is_empty() {
        say(format_args!(
            "  {:<12}{}",
            language.say("your line", "votre ligne"),
            known.join(", ")
        ))?;
    }
    for feed in &gathered.feeds {
        let age = match feed.snapshot.at == Timestamp::EPOCH {
            true => {
                language.say("nobody has reported yet", "personne n’a encore rapporté").to_owned()
            }
            false => words::length(language, feed.age_ms),
        };
        let live = if feed.live {
            language.say("just read", "lu à l’instant")
        } else {
            language.say("kept; no collector was reached", "gardé ; aucun collecteur n’a été joint")
        };
        say(format_args!("  {:<12}{age}, {live}", language.say("news", "nouvelles")))?;
    }
    for (operator, why) in &gathered.unreached {
        let operator = operator.get(..8).unwrap_or(operator);
        say(format_args!("  {:<12}{operator}…: {why}", language.say("collector", "collecteur")))?;
    }
    Ok(())
}

fn cause_name(cause: &Cause) -> &'static str {
    match cause {
        Cause::Nothing => "nothing",
        Cause::Link => "link",
        Cause::Gateway => "gateway",
        Cause::Portal => "portal",
        Cause::Resolver { this_name_alone: false } => "resolver",
        Cause::Resolver { this_name_alone: true } => "resolver_this_name",
        Cause::Clock => "clock",
        Cause::Line { .. } => "line",
        Cause::Family(_) => "family",
        Cause::Incident(_) => "incident",
        Cause::Suspicion(_) => "suspicion",
        Cause::OthersToo(_) => "others_too",
        Cause::HereToo(_) => "here_too",
        Cause::OnlyYou => "only_you",
        Cause::Unknown(_) => "unknown",
    }
}

const fn why_name(why: Why) -> &'static str {
    match why {
        Why::NoCollector => "no_collector",
        Why::NoNews => "no_news",
        Why::TooFew => "too_few",
        Why::Unlisted => "unlisted",
        Why::Unsteady => "unsteady",
        Why::OneFamily => "one_family",
    }
}

fn document(site: &Site, lines: &[String], gathered: &Gathered, diagnosis: &Diagnosis) -> Value {
    let seen = |look: &Look| {
        json!({
            "family": look.family, "outcome": look.outcome, "dns": look.dns, "status": look.status,
            "rule": RuleTable::builtin().get(look.rule).map(|rule| rule.id.as_str()),
            "total_ms": look.total_ms,
        })
    };
    let cause = &diagnosis.cause;
    let mut named = json!({ "kind": cause_name(cause) });
    if let Some(fields) = named.as_object_mut() {
        let more = match cause {
            Cause::Incident(incident) | Cause::Suspicion(incident) => {
                Some(("incident", json!(incident)))
            }
            Cause::OthersToo(counts) => Some(("counts", json!(counts))),
            Cause::HereToo(there) => Some(("there", json!(there))),
            Cause::Family(family) => Some(("family", json!(family))),
            Cause::Unknown(why) => Some(("why", json!(why_name(*why)))),
            _ => None,
        };
        fields.extend(more.map(|(key, value)| (key.to_owned(), value)));
    }
    let (works, not_over) = match diagnosis.works {
        Works::Yes => ("yes", None),
        Works::NotOver(family) => ("partly", Some(family)),
        Works::No => ("no", None),
    };
    let OwnLine { route, gateway, no_portal, collector, clock, tunnel } = gathered.line;
    // What was not looked at neither works nor does not.
    let looked = !gathered.looks.is_empty();
    let (works, named) = (looked.then_some(works), looked.then_some(named));
    json!({
        "refused": gathered.refused.as_ref().filter(|_| !looked).map(ToString::to_string),
        "target": site.listed.then_some(&site.target.id), "host": site.target.host,
        "answer": lines, "works": works, "not_over": not_over, "cause": named,
        "looks": gathered.looks.iter().map(seen).collect::<Vec<_>>(),
        "controls": gathered.controls.iter().map(|control| {
            json!({"host": control.host, "look": seen(&control.look)})
        }).collect::<Vec<_>>(),
        "line": {
            "route": route, "gateway": gateway, "no_portal": no_portal, "collector": collector,
            "clock": clock, "tunnel": tunnel,
        },
        "gateway": gathered.gateway.map(IpAddr::from),
        "news": gathered.feeds.iter().map(|feed| {
            json!({
                "operator": feed.snapshot.operator, "age_ms": feed.age_ms, "live": feed.live,
                "overall": feed.snapshot.overall,
            })
        }).collect::<Vec<_>>(),
        "unreached": gathered.unreached.iter().map(|(operator, why)| {
            json!({"operator": operator, "error": why})
        }).collect::<Vec<_>>(),
    })
}

/// `TOCSIN CRITICAL - text | 'time'=0.123s;;;0`; a bar would begin the performance data, so none is in the text.
fn nagios(exit: Exit, lines: &[String], gathered: &Gathered) -> String {
    let text = lines.first().map_or("", String::as_str).replace('|', "/");
    let times = gathered.looks.iter().map(|look| {
        format!("'time_{}'={:.3}s;;;0", look.family.name(), look.total_ms as f64 / 1_000.0)
    });
    let fine = gathered.controls.iter().filter(|control| control.look.is_fine()).count();
    let controls = format!("'others_fine'={fine};;;0;{}", gathered.controls.len());
    let data: Vec<String> = times.chain([controls]).collect();
    format!("TOCSIN {} - {text} | {}", exit.plugin_word(), data.join(" "))
}
