//! `tocsin service install|uninstall`: has systemd run the agent where no package did it. The units are those of the
//! package, with this program in the place of the package's.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Context;

use super::{Exit, init, say};
use crate::{
    config::{Config, RawConfig},
    consent,
    words::Language,
};

const SYSTEM_UNIT: &str = include_str!("../../packaging/tocsin.service");
const USER_UNIT: &str = include_str!("../../packaging/tocsin-user.service");
/// Stands in every unit that was written here: others are not touched.
const MARK: &str =
    "# Written by `tocsin service install`; `tocsin service uninstall` removes it.\n";
const NAME: &str = "tocsin.service";
/// Where a package's would be.
const PACKAGED: [&str; 2] =
    ["/usr/lib/systemd/system/tocsin.service", "/lib/systemd/system/tocsin.service"];

/// What to do.
#[derive(Debug, Clone, Copy, clap::Subcommand)]
pub enum What {
    /// Write the unit, and start it: for everybody as root, else for you.
    Install {
        /// Print the unit, and do nothing.
        #[arg(long)]
        print: bool,
    },
    /// Stop it, and remove the unit. What the agent keeps stays: `tocsin forget` deletes it.
    Uninstall,
}

/// For whom.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Scope {
    System,
    User(PathBuf),
}

impl Scope {
    fn now() -> anyhow::Result<Self> {
        if rustix::process::geteuid().is_root() {
            return Ok(Self::System);
        }
        let dir = crate::config::user_dir().context("HOME is not set: where are your units?")?;
        Ok(Self::User(dir))
    }

    fn path(&self) -> PathBuf {
        match self {
            Self::System => PathBuf::from("/etc/systemd/system").join(NAME),
            Self::User(config) => config.join("systemd/user").join(NAME),
        }
    }

    fn systemctl(&self, verb: &[&str]) -> anyhow::Result<()> {
        let mut command = Command::new("systemctl");
        if matches!(self, Self::User(_)) {
            command.arg("--user");
        }
        let status = command.args(verb).status();
        let status = status.context("systemctl cannot be run: is this a system with systemd? Without it, start `tocsin run` as your system starts programs")?;
        anyhow::ensure!(status.success(), "systemctl {} failed, see above", verb.join(" "));
        Ok(())
    }
}

/// The unit, for a program.
fn unit(scope: &Scope, program: &str) -> String {
    let of = match scope {
        Scope::System => SYSTEM_UNIT,
        Scope::User(_) => USER_UNIT,
    };
    // systemd expands `%`, and takes a quoted path for one word (systemd.service(5), command lines).
    let program = program.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%");
    format!("{MARK}{}", of.replace("/usr/bin/tocsin", &format!("\"{program}\"")))
}

/// Installs, or removes.
///
/// # Errors
/// When there is no systemd, a unit that is not ours stands there, or a file cannot be written.
pub fn service(
    config: &Config,
    named: Option<&Path>,
    what: What,
    language: Language,
) -> anyhow::Result<Exit> {
    let scope = Scope::now()?;
    let path = scope.path();
    match what {
        What::Install { print } => {
            let program = env::current_exe().context("where this program is cannot be told")?;
            let program = program.to_str().context("this program's path is no text")?;
            let unit = unit(&scope, program);
            if print {
                say(unit.trim_end())?;
                return Ok(Exit::Ok);
            }
            if let Some(packaged) = PACKAGED.iter().find(|path| fs::exists(path).unwrap_or(false)) {
                anyhow::bail!(
                    "the package's unit is there ({packaged}): `systemctl enable --now tocsin`"
                );
            }
            if let Some(named) = named {
                anyhow::bail!(
                    "the service reads its own file, not {}: see `tocsin --help` at --config for where that is",
                    named.display()
                );
            }
            agreed(&scope, program, config, language)?;
            is_ours(&path)?;
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent)
                    .with_context(|| format!("{} cannot be made", parent.display()))?;
            }
            fs::write(&path, unit)
                .with_context(|| format!("{} cannot be written", path.display()))?;
            scope.systemctl(&["daemon-reload"])?;
            scope.systemctl(&["enable", NAME])?;
            scope.systemctl(&["restart", NAME])?;
            // Where its condition does not hold systemd says nothing.
            scope.systemctl(&["--quiet", "is-active", NAME]).context(
                "the unit is written, and the agent does not run: `systemctl status tocsin` says why",
            )?;
            say(format_args!("{} {}", language.say("It runs:", "Il tourne :"), path.display()))?;
            if matches!(scope, Scope::User(_)) {
                say(language.say(
                    "It stops when you log out, unless you say `loginctl enable-linger`.",
                    "Il s’arrête quand vous vous déconnectez, sauf après « loginctl enable-linger ».",
                ))?;
            }
        }
        What::Uninstall => {
            if !is_ours(&path)? {
                say(language.say("There is nothing to remove.", "Il n’y a rien à retirer."))?;
                return Ok(Exit::Unknown);
            }
            scope.systemctl(&["disable", "--now", NAME])?;
            fs::remove_file(&path)
                .with_context(|| format!("{} cannot be removed", path.display()))?;
            scope.systemctl(&["daemon-reload"])?;
            say(language.say(
                "It is stopped and removed. What it kept stays: `tocsin forget` deletes it.",
                "Il est arrêté et retiré. Ce qu’il gardait reste : « tocsin forget » l’efface.",
            ))?;
        }
    }
    Ok(Exit::Ok)
}

/// A service of the system has a state directory of its own, so its file is what agrees; and it does not see homes.
fn agreed(scope: &Scope, program: &str, config: &Config, language: Language) -> anyhow::Result<()> {
    if matches!(scope, Scope::User(_)) {
        anyhow::ensure!(init::is_given(config), init::missing(language));
        return Ok(());
    }
    let hidden = ["/home/", "/root/", "/run/user/", "/tmp/", "/var/tmp/"];
    if hidden.iter().any(|dir| program.starts_with(dir)) {
        anyhow::bail!(
            "a service of the system does not see {program}: `install` it to /usr/local/bin first, or run this as yourself"
        );
    }
    let file = Path::new(crate::config::SYSTEM_FILE);
    let raw = if file.exists() { RawConfig::read(file)? } else { RawConfig::default() };
    let accepts = raw.accept.is_some_and(consent::is_present) && !raw.collectors.is_empty();
    anyhow::ensure!(
        accepts,
        "{0} must say `accept = {1}`, and name collectors: `tocsin --print-config >{0}`, then edit it; \
         what it agrees to is the text of `tocsin init`, in that version",
        file.display(),
        consent::VERSION
    );
    Ok(())
}

/// Whether a unit stands there that was written here.
fn is_ours(path: &std::path::Path) -> anyhow::Result<bool> {
    match fs::read_to_string(path) {
        Ok(text) if text.starts_with(MARK) => Ok(true),
        Ok(_) => {
            anyhow::bail!("{} is not of `tocsin service`: it is left as it is", path.display())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).with_context(|| format!("{} cannot be read", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_packages_units_run_this_program_wherever_it_is() {
        for scope in [Scope::System, Scope::User(PathBuf::new())] {
            let unit = unit(&scope, "/opt/a b/100%/tocsin");
            assert!(unit.starts_with(MARK));
            assert!(unit.contains("\nExecStart=\"/opt/a b/100%%/tocsin\" "), "{unit}");
            assert!(unit.contains("\nExecCondition=\"/opt/a b/100%%/tocsin\" "), "{unit}");
            assert!(!unit.contains("/usr/bin/tocsin"));
        }
    }

    #[test]
    fn a_unit_that_somebody_else_wrote_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(NAME);
        assert!(!is_ours(&path).unwrap());
        fs::write(&path, "[Unit]\n").unwrap();
        assert!(is_ours(&path).is_err());
        fs::write(&path, unit(&Scope::System, "/bin/tocsin")).unwrap();
        assert!(is_ours(&path).unwrap());
    }
}
