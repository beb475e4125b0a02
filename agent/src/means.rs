//! What the machine's services say of its means: whether the link is paid by the byte (NetworkManager), and whether the battery
//! runs low (UPower). Asked over D-Bus with `busctl`, which every system has that runs these two: a library of the bus would
//! make this program a fifth larger. Where nobody answers nothing is known, and nothing is held back.

use std::{path::Path, process::Stdio, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::{process::Command, sync::watch, time::timeout};
use tokio_util::sync::CancellationToken;

/// How often they are asked.
const EVERY: Duration = Duration::from_secs(120);
/// For one answer.
const WITHIN: Duration = Duration::from_secs(3);
/// Of one answer, bytes.
const ANSWER_MAX: usize = 4_096;
/// The program that asks.
pub const BUSCTL: &str = "busctl";

/// What can hold probes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pause {
    /// The link is paid by the byte.
    Metered,
    /// The battery runs low.
    Battery,
}

impl Pause {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Metered, Self::Battery];

    /// As in the configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Metered => "metered",
            Self::Battery => "battery",
        }
    }

    /// Where it stands: service, object, interface, property.
    const fn property(self) -> [&'static str; 4] {
        match self {
            Self::Metered => [
                "org.freedesktop.NetworkManager",
                "/org/freedesktop/NetworkManager",
                "org.freedesktop.NetworkManager",
                "Metered",
            ],
            Self::Battery => [
                "org.freedesktop.UPower",
                "/org/freedesktop/UPower/devices/DisplayDevice",
                "org.freedesktop.UPower.Device",
                "WarningLevel",
            ],
        }
    }

    /// Whether a value of the property means it. `NMMetered`: 1 yes, 3 guessed yes (NetworkManager D-Bus API, type
    /// `NMMetered`); `WarningLevel`: 3 low, 4 critical, 5 action (UPower D-Bus API, `Device:WarningLevel`).
    const fn is_meant_by(self, value: u64) -> bool {
        match self {
            Self::Metered => matches!(value, 1 | 3),
            Self::Battery => matches!(value, 3..=5),
        }
    }
}

/// Asks one thing. `None` where the program is not there, nobody answers, or not in time.
async fn ask(busctl: &Path, of: Pause) -> Option<bool> {
    let [service, object, interface, property] = of.property();
    let mut command = Command::new(busctl);
    command
        .args(["--system", "--json=short", "--auto-start=no", "call", service, object])
        .args(["org.freedesktop.DBus.Properties", "Get", "ss", interface, property])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    let output = timeout(WITHIN, command.output()).await.ok()?.ok()?;
    if !output.status.success() || output.stdout.len() > ANSWER_MAX {
        return None;
    }
    // A value in a variant, in the list of what the call returned.
    #[derive(Deserialize)]
    struct Holds<T> {
        data: T,
    }
    let answer: Holds<[Holds<u64>; 1]> = serde_json::from_slice(&output.stdout).ok()?;
    let [value] = answer.data;
    Some(of.is_meant_by(value.data))
}

/// What holds probes back now.
pub async fn now(busctl: &Path, respected: &[Pause]) -> Vec<Pause> {
    let mut held = Vec::new();
    for of in respected {
        if ask(busctl, *of).await == Some(true) {
            held.push(*of);
        }
    }
    held
}

/// Follows it, until stopped.
pub async fn follow(
    respected: Vec<Pause>,
    held: watch::Sender<Vec<Pause>>,
    stop: CancellationToken,
) {
    loop {
        let found = now(Path::new(BUSCTL), &respected).await;
        held.send_if_modified(|held| {
            let changed = *held != found;
            held.clone_from(&found);
            changed
        });
        let pause = tokio::time::sleep(EVERY);
        if stop.run_until_cancelled(pause).await.is_none() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf};

    use super::*;

    /// A program in the place of `busctl` that answers so for each service.
    fn bus(dir: &Path, metered: &str, level: &str) -> PathBuf {
        let path = dir.join("busctl");
        let text = format!(
            "#!/bin/sh\ncase \"$*\" in\n*Metered) {metered};;\n*WarningLevel) {level};;\nesac\n"
        );
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[tokio::test]
    async fn what_the_system_says_holds_back_and_what_it_does_not_say_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let said =
            |value: u32| format!(r#"echo '{{"type":"v","data":[{{"type":"u","data":{value}}}]}}'"#);
        let all = Pause::ALL;
        for (metered, level, expected) in [
            (said(1), said(1), vec![Pause::Metered]),
            (said(3), said(0), vec![Pause::Metered]),
            (said(4), said(4), vec![Pause::Battery]),
            (said(2), said(2), vec![]),
            (said(1), said(5), vec![Pause::Metered, Pause::Battery]),
            ("exit 1".to_owned(), "echo nonsense".to_owned(), vec![]),
            (format!("{}; exit 1", said(1)), "yes | head -c 9999".to_owned(), vec![]),
        ] {
            let bus = bus(dir.path(), &metered, &level);
            assert_eq!(now(&bus, &all).await, expected, "{metered} {level}");
            assert_eq!(now(&bus, &[]).await, [], "who does not care is not held back");
        }
        assert_eq!(now(&dir.path().join("nothing"), &all).await, [], "no bus at all");
    }
}
