//! `tocsin report SITE`: says that a site does not work for the person who types it. Signed like a report of the agent,
//! and told apart from those: it raises a suspicion of its own, and confirms nothing.

use std::{sync::Arc, time::Duration};

use serde_json::json;
use tocsin_proto::human::{Hearing, Trouble};
use tokio::{task::JoinSet, time::timeout};

use super::{Exit, chain, say, say_json, scratch};
use crate::{
    config::Config, identity::Identity, look::Site, network::Network, spool::Spool, words::Language,
};

/// For a collector to be reached, with the work that it may ask of a key that is new to it, and to keep it.
const WITHIN: Duration = Duration::from_secs(45);

/// What can be wrong with a site, as typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum What {
    /// It does not open.
    #[default]
    Down,
    /// It is very slow.
    Slow,
    /// It opens, and answers errors.
    Errors,
    /// One cannot sign in.
    SignIn,
    /// A part of it does not work.
    Part,
}

impl From<What> for Trouble {
    fn from(what: What) -> Self {
        match what {
            What::Down => Self::Down,
            What::Slow => Self::Slow,
            What::Errors => Self::Errors,
            What::SignIn => Self::SignIn,
            What::Part => Self::Part,
        }
    }
}

/// Tells every collector. Well is that one of them counts it, or has counted it within the half hour.
///
/// # Errors
/// When the output is closed, or the state directory cannot be used.
pub async fn report(
    config: &Config,
    typed: &str,
    what: What,
    language: Language,
    json: bool,
) -> anyhow::Result<Exit> {
    let site = match Site::find(&config.catalogue, typed) {
        Ok(site) if site.listed => site,
        found => {
            let error = found.map_or_else(
                |error| error.to_string(),
                |site| {
                    let host = site.target.host;
                    language.both(
                        format!("{host} is not among the sites that Tocsin watches; `tocsin why {host}` looks at it"),
                        format!("{host} n’est pas parmi les sites que Tocsin surveille\u{a0}; `tocsin why {host}` le regarde"),
                    )
                },
            );
            match json {
                true => say_json(json!({"target": typed, "error": error}))?,
                false => say(error)?,
            }
            return Ok(Exit::Unknown);
        }
    };
    let target = &site.target;
    if config.collectors.is_empty() {
        let error = language.say(
            "No collector is set, so there is nobody to tell: add a tocsin:// line to collectors.",
            "Aucun collecteur n’est indiqué, il n’y a personne à prévenir\u{a0}: ajoutez une ligne tocsin:// à collectors.",
        );
        match json {
            true => say_json(json!({"target": target.id, "ok": false, "error": error}))?,
            false => say(error)?,
        }
        return Ok(Exit::Unknown);
    }
    let identity = Arc::new(Identity::open(&config.state_dir)?);
    let spool = Spool::open(&config.state_dir, config.outbox_bytes_max)?;
    let mut visits = JoinSet::new();
    for line in &config.collectors {
        // Who proves the key of the agent that runs here takes its session's place, and it would be away for minutes: a
        // person is another observer.
        let here = Network::now(config.context.as_deref()).context;
        let here = here.unwrap_or_else(|| format!("{:x}", getrandom::u64().unwrap_or(0)));
        let here = Some(format!("{here} person"));
        let uplink = scratch(config, line, &spool, &identity, here)?;
        let (operator, index) = (line.operator, target.index);
        visits.spawn(async move {
            let told = timeout(WITHIN, uplink.say(index, what.into())).await;
            let told = match told {
                Ok(told) => told.map_err(|error| chain(&error)),
                Err(_) => Err("it does not answer".to_owned()),
            };
            (operator, uplink.voice.spool().places(), told)
        });
    }
    let mut told = Vec::new();
    for (operator, places, heard) in visits.join_all().await {
        // `tocsin forget` is to find it.
        for (operator, here) in places? {
            spool.saw_place(&operator, &here)?;
        }
        told.push((operator, heard));
    }
    told.sort_by_key(|(operator, _)| *operator);
    let counts = |hearing: &Hearing| matches!(hearing, Hearing::Counted | Hearing::Again);
    let ok = told.iter().any(|(_, told)| told.as_ref().is_ok_and(counts));
    if json {
        let document = |(operator, told): &(_, Result<Hearing, String>)| {
            json!({
                "operator": operator, "hearing": told.as_ref().ok().map(|hearing| hearing.name()),
                "error": told.as_ref().err(),
            })
        };
        let told: Vec<_> = told.iter().map(document).collect();
        say_json(json!({
            "target": target.id, "host": target.host, "ok": ok, "told": told,
            "trouble": Trouble::from(what).name(),
        }))?;
    } else {
        for (operator, told) in &told {
            let operator = operator.to_string();
            let short = operator.get(..8).unwrap_or(&operator);
            match told {
                Ok(hearing) => say(format_args!("{short}…: {}", hearing_text(language, *hearing)))?,
                Err(error) => say(format_args!(
                    "{short}…: {}: {error}",
                    language.say("not told", "pas prévenu")
                ))?,
            }
        }
        if ok {
            let name = &target.host;
            say(language.both(
                format!("What people say raises a suspicion; only probes confirm. `tocsin why {name}` tells what is known."),
                format!("Ce que disent les gens éveille un soupçon\u{a0}; seules les sondes confirment. `tocsin why {name}` dit ce qui est connu."),
            ))?;
        }
    }
    Ok(if ok { Exit::Ok } else { Exit::Unknown })
}

fn hearing_text(language: Language, hearing: Hearing) -> &'static str {
    match hearing {
        Hearing::Counted => language.say("it counts", "c’est compté"),
        Hearing::Again => language.say(
            "you said so within the half hour; it counts once",
            "vous l’avez dit dans la demi-heure\u{a0}; cela compte une fois",
        ),
        Hearing::Enough => language.say(
            "enough was heard from your network for this hour",
            "votre réseau a assez parlé pour cette heure",
        ),
        Hearing::UnknownTarget => language.say(
            "it does not watch this site: its catalogue is another",
            "il ne surveille pas ce site\u{a0}: son catalogue est différent",
        ),
        Hearing::Clock => language.say(
            "your clock and its are more than ten minutes apart: set yours",
            "votre horloge et la sienne diffèrent de plus de dix minutes\u{a0}: réglez la vôtre",
        ),
        _ => language
            .say("it could not keep it; try again", "il n’a pas pu le garder\u{a0}; réessayez"),
    }
}
