//! `tocsin init`: says what the program would do, asks whether that is agreed to, and notes the answer.

use std::{
    fs,
    io::{self, BufRead, IsTerminal},
    path::Path,
};

use super::{Exit, say, say_json};
use crate::{
    clock::wall,
    config::{Config, user_file},
    consent,
    identity::Identity,
    words::Language,
};

/// Asks, or with `accept` takes it as answered. Collectors that were given are written into the user's configuration
/// file, where there is none.
///
/// # Errors
/// When the output is closed, or a file cannot be written.
pub fn init(
    config: &Config,
    language: Language,
    accept: bool,
    json: bool,
    file: Option<&Path>,
) -> anyhow::Result<Exit> {
    if !json {
        say(consent::text(language))?;
    }
    if !accept {
        if !io::stdin().is_terminal() {
            say(language.say(
                "Nobody is there to be asked: run `tocsin init --accept` to agree.",
                "Personne n’est là pour répondre : « tocsin init --accept » vaut accord.",
            ))?;
            return Ok(Exit::Unknown);
        }
        say(language.say("Do you agree? [y/N]", "Êtes-vous d’accord ? [o/N]"))?;
        let mut answer = String::new();
        io::stdin().lock().read_line(&mut answer)?;
        if !is_yes(&answer) {
            say(language.say("Nothing was done.", "Rien n’a été fait."))?;
            return Ok(Exit::Problem);
        }
    }
    let identity = Identity::open(&config.state_dir)?;
    consent::give(&config.state_dir, wall())?;
    let written = match (file, user_file()) {
        // Whoever names a file, or has one, writes it.
        (None, Some(path)) if !config.collectors.is_empty() && !path.exists() => {
            let lines: Vec<String> =
                config.collectors.iter().map(|line| format!("{:?}", line.to_string())).collect();
            let text = format!(
                "# Written by `tocsin init`; `tocsin --print-config` prints every setting.\ncollectors = [{}]\n",
                lines.join(", ")
            );
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent)?;
            }
            fs::write(&path, text)?;
            Some(path)
        }
        _ => None,
    };
    if json {
        say_json(serde_json::json!({
            "consent": consent::VERSION, "state_dir": config.state_dir, "seed": identity.path(),
            "config": written,
        }))?;
        return Ok(Exit::Ok);
    }
    let state = config.state_dir.display();
    say(format_args!("{} {state}", language.say("Noted in", "Noté dans")))?;
    if let Some(path) = written {
        say(format_args!(
            "{} {}",
            language.say("Collectors written to", "Collecteurs écrits dans"),
            path.display()
        ))?;
    }
    say(language.say(
        "Next: `tocsin run`, or `tocsin why SITE`.",
        "Ensuite : « tocsin run », ou « tocsin why SITE ».",
    ))?;
    Ok(Exit::Ok)
}

/// Whether it was agreed to: says nothing, for a service manager to ask.
#[must_use]
pub fn check(config: &Config) -> Exit {
    if is_given(config) { Exit::Ok } else { Exit::Problem }
}

/// Whether it was agreed to, in the configuration or in the state directory.
#[must_use]
pub fn is_given(config: &Config) -> bool {
    config.accept || consent::is_given(&config.state_dir)
}

/// In either language, whichever was asked in.
fn is_yes(answer: &str) -> bool {
    matches!(answer.trim().to_lowercase().as_str(), "y" | "yes" | "o" | "oui")
}

/// What is said where nobody has agreed yet.
#[must_use]
pub const fn missing(language: Language) -> &'static str {
    language.say(
        "Nothing is probed before you have agreed to it: run `tocsin init` (or `tocsin init --accept`).",
        "Rien n’est sondé avant votre accord : lancez « tocsin init » (ou « tocsin init --accept »).",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_yes_is_one() {
        assert!(["y\n", "Yes", " OUI ", "o"].into_iter().all(is_yes));
        assert!(!["", "n", "non", "no", "yeah?", "1"].into_iter().any(is_yes));
    }
}
