//! Manual pages and completions, made of the arguments and settings themselves.

use std::{fs, io, path::Path};

use clap_complete::Shell;

use super::Exit;
use crate::config::SAMPLE;

/// Writes the manual pages into a folder: one of each verb, and one of the settings.
///
/// # Errors
/// When the folder cannot be written.
pub fn man(command: clap::Command, dir: &Path) -> io::Result<Exit> {
    clap_mangen::generate_to(command, dir)?;
    fs::write(dir.join("tocsin.toml.5"), settings())?;
    Ok(Exit::Ok)
}

/// Prints the completions of a shell.
#[must_use]
pub fn completions(mut command: clap::Command, shell: Shell) -> Exit {
    clap_complete::generate(shell, &mut command, "tocsin", &mut io::stdout());
    Exit::Ok
}

/// The settings as a manual page (man-pages(7)): the sample file, whose comments say what each is.
fn settings() -> String {
    let escaped = |text: &str| text.replace('\\', "\\e").replace('-', "\\-");
    let mut page = String::from(
        ".TH tocsin.toml 5\n.SH NAME\ntocsin.toml \\- settings of the Tocsin agent\n.SH DESCRIPTION\n",
    );
    let mut meaning = String::new();
    for line in SAMPLE.lines().chain([""]) {
        match line.strip_prefix("# ") {
            Some(setting) if setting.split_once(" = ").is_some_and(|(key, _)| is_key(key)) => {
                page.push_str(&format!(".TP\n\\fB{}\\fR\n{meaning}", escaped(setting)));
                meaning.clear();
            }
            Some(text) => meaning.push_str(&format!("{}\n", escaped(text))),
            None => {
                if !meaning.is_empty() {
                    page.push_str(&format!("{meaning}.SH SETTINGS\n"));
                }
                meaning.clear();
            }
        }
    }
    page.push_str(".SH SEE ALSO\n\\fBtocsin\\fR(1)\n");
    page
}

fn is_key(text: &str) -> bool {
    text.bytes().all(|c| c.is_ascii_lowercase() || c == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_setting_is_in_the_page() {
        let page = settings();
        let keys: Vec<&str> = SAMPLE
            .lines()
            .filter_map(|line| line.strip_prefix("# ")?.split_once(" = "))
            .map(|(key, _)| key)
            .filter(|key| is_key(key))
            .collect();
        assert!(keys.len() > 15);
        for key in keys {
            assert!(page.contains(&format!("\\fB{key} = ")), "{key}");
        }
        assert_eq!(page.matches(".SH SETTINGS").count(), 1);
        assert!(!page.lines().any(|line| line.starts_with('\'')));
    }
}
