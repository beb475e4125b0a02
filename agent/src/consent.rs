//! Nothing is probed before somebody has agreed to it. What they agreed to is a text with a version, and when the text
//! comes to say more, they are asked again.

use std::{fmt, fs, io, os::unix::fs::OpenOptionsExt, path::Path};

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{self, Unexpected, Visitor},
};
use tocsin_proto::time::Timestamp;

use crate::words::Language;

/// Version of [`text`].
pub const VERSION: u16 = 1;
/// Name of the file in the state directory.
pub const FILE: &str = "consent.toml";

/// What was agreed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Consent {
    /// Which text.
    pub version: u16,
    /// When, milliseconds since the epoch.
    pub at_ms: u64,
}

/// Whether who agreed to this version of the text agreed to the present one.
#[must_use]
pub const fn is_present(version: u16) -> bool {
    version >= VERSION
}

/// Reads a version that is agreed to in a configuration: a plain yes would be one to whatever a later text says.
///
/// # Errors
/// When it is anything else.
pub fn version<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u16>, D::Error> {
    struct Number;
    impl Visitor<'_> for Number {
        type Value = Option<u16>;

        fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(to, "the version of the text of `tocsin init` that you agree to, {VERSION} now")
        }

        fn visit_i64<E: de::Error>(self, value: i64) -> Result<Self::Value, E> {
            let version = u16::try_from(value);
            version.map(Some).map_err(|_| E::invalid_value(Unexpected::Signed(value), &self))
        }

        fn visit_u64<E: de::Error>(self, value: u64) -> Result<Self::Value, E> {
            let version = u16::try_from(value);
            version.map(Some).map_err(|_| E::invalid_value(Unexpected::Unsigned(value), &self))
        }
    }
    from.deserialize_any(Number)
}

/// Whether the present text was agreed to.
#[must_use]
pub fn is_given(state_dir: &Path) -> bool {
    let text = fs::read_to_string(state_dir.join(FILE)).unwrap_or_default();
    toml::from_str::<Consent>(&text).is_ok_and(|consent| is_present(consent.version))
}

/// Notes that the present text was agreed to.
///
/// # Errors
/// When the file cannot be written.
pub fn give(state_dir: &Path, now: Timestamp) -> io::Result<()> {
    let consent = Consent { version: VERSION, at_ms: now.as_ms() };
    let text = toml::to_string(&consent).map_err(io::Error::other)?;
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(state_dir.join(FILE))?;
    io::Write::write_all(&mut file, text.as_bytes())
}

/// What somebody agrees to.
#[must_use]
pub const fn text(language: Language) -> &'static str {
    match language {
        Language::En => ENGLISH,
        Language::Fr => FRENCH,
    }
}

const ENGLISH: &str = "\
What this program does on your machine, if you agree:

- It looks at well-known public sites (a fixed list, never what you visit): some three a minute, and a little more
  when something fails or a collector asks. It asks for one page's headers, with a name that says what it is.
- It sends what it saw to the collectors that you set: which site, when, whether it answered and how fast, how your own
  line is, and which kind of resolver you use. It is signed with a key that is made for that collector and the network you
  are in. `tocsin show` prints it to the byte.
- A collector sees your address as any server does. It notes the country and the provider's network, and keeps no
  address beyond the day. What it publishes names neither you nor your address.
- It uses up to 30 MB a day, which you can lower (day_bytes_max), and keeps its state in one directory.
- Stop it at any time; `tocsin forget` has the collectors delete what they hold of this machine, and deletes what is kept here.
  What a collector has published names nobody, and others may have copied it: that cannot be called back.
";

const FRENCH: &str = "\
Ce que ce programme fait sur votre machine, si vous êtes d’accord :

- Il regarde des sites publics connus (une liste fixe, jamais ce que vous visitez) : environ trois par minute, et un peu
  plus quand quelque chose échoue ou qu’un collecteur le demande. Il demande les en-têtes d’une page, sous un nom qui dit ce
  qu’il est.
- Il envoie ce qu’il a vu aux collecteurs que vous indiquez : quel site, quand, s’il a répondu et à quelle vitesse,
  l’état de votre propre ligne et le genre de résolveur que vous utilisez. C’est signé d’une clé faite pour ce collecteur et
  pour le réseau où vous êtes. « tocsin show » l’affiche à l’octet près.
- Un collecteur voit votre adresse comme tout serveur. Il note le pays et le réseau de l’opérateur, et ne garde aucune
  adresse au-delà du jour. Ce qu’il publie ne nomme ni vous ni votre adresse.
- Il utilise jusqu’à 30 Mo par jour, que vous pouvez réduire (day_bytes_max), et garde son état dans un répertoire.
- Arrêtez-le quand vous voulez ; « tocsin forget » fait effacer par les collecteurs ce qu’ils gardent de cette machine, et efface
  ce qui est gardé ici. Ce qu’un collecteur a publié ne nomme personne, et d’autres ont pu le copier : on ne peut pas le
  reprendre.
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_text_was_not_this_one() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!is_given(dir.path()));
        give(dir.path(), Timestamp::from_s(1_800_000_000)).unwrap();
        assert!(is_given(dir.path()));
        fs::write(dir.path().join(FILE), "version = 0\nat_ms = 1\n").unwrap();
        assert!(!is_given(dir.path()));
        fs::write(dir.path().join(FILE), "yes").unwrap();
        assert!(!is_given(dir.path()));
    }

    #[test]
    fn a_plain_yes_is_to_no_text() {
        #[derive(Debug, Default, PartialEq, Eq, Deserialize)]
        #[serde(default)]
        struct Config {
            #[serde(deserialize_with = "version")]
            accept: Option<u16>,
        }
        let read = |text: &str| toml::from_str::<Config>(text).map(|config| config.accept);
        assert_eq!((read("accept = 1"), read("")), (Ok(Some(1)), Ok(None)));
        for wrong in ["accept = true", "accept = -1", "accept = 70000", "accept = 'yes'"] {
            let said = read(wrong).unwrap_err().to_string();
            assert!(said.contains("the version of the text of `tocsin init`"), "{said}");
        }
        assert!(is_present(VERSION) && !is_present(VERSION - 1));
    }
}
