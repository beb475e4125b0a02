//! The catalogue: which targets there are, and which providers stand behind each in which role.
//! One is compiled in; others are signed by keys that the user's own configuration names.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::OnceLock,
};

use serde::{Deserialize, Serialize};

use crate::{
    id::{Country, Id, TargetIndex},
    implicate::Layer,
    limits::{CATALOGUE_BYTES_MAX, PROVIDERS_MAX, ROLES_MAX, TARGET_MINUTE_MAX, TARGETS_MAX},
    sign::{Domain, PublicKey, Signature, VerifyError},
};

/// How it is known that a provider stands behind a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Evidence {
    /// From memory, likely. Shown, but decides nothing until agents have seen it.
    MemoryMedium,
    /// From memory, with confidence.
    MemoryHigh,
    /// Published by the vendor or in a public document.
    Documented,
    /// The site is the provider's own.
    Operator,
}

/// A provider in a role behind a target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Role {
    /// In which role: dns, edge, hosting or aux.
    pub role: Layer,
    /// Which provider.
    pub provider: Id,
    /// How that is known.
    pub evidence: Evidence,
}

/// A provider, or one product of a provider that can fail alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provider {
    /// Its identifier.
    pub id: Id,
    /// Its name for people.
    pub name: String,
    /// Who runs it. Incidents of one organisation that open together are one for the reader.
    pub organisation: Id,
    /// Its own status page, to compare with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status_page: Option<String>,
    /// `statuspage` where that page speaks the Statuspage v2 API.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status_api: Option<String>,
    /// Its networks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub asn: Vec<u32>,
}

impl Provider {
    /// A provider of which only the identifier is known: its name and organisation are the same,
    /// it has no status page and no networks.
    #[must_use]
    pub fn unlisted(id: Id) -> Self {
        Self {
            name: id.to_string(),
            organisation: id.clone(),
            id,
            status_page: None,
            status_api: None,
            asn: Vec::new(),
        }
    }
}

/// A site that is probed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// Its number on the wire.
    pub index: TargetIndex,
    /// Its identifier.
    pub id: Id,
    /// Its name for people.
    pub name: String,
    /// The host name that is asked, over https.
    pub host: String,
    /// The port.
    #[serde(default = "https_port", skip_serializing_if = "is_https_port")]
    pub port: u16,
    /// The path that is asked for: a real page.
    #[serde(default = "root_path")]
    pub path: String,
    /// What kind of site it is.
    #[serde(default)]
    pub category: String,
    /// Where it is of interest; `*` is everywhere.
    #[serde(default)]
    pub countries: Vec<String>,
    /// Its operator's status page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status_page: Option<String>,
    /// Requests a second that all agents together may make of it at most; the catalogue's where it says nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_total_rps: Option<u32>,
    /// Providers behind it. A role that is not listed is unknown.
    #[serde(default)]
    pub roles: Vec<Role>,
}

const fn https_port() -> u16 {
    443
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
const fn is_https_port(port: &u16) -> bool {
    *port == 443
}

fn root_path() -> String {
    "/".to_owned()
}

impl Target {
    /// The provider in a role, if it is known well enough to decide something.
    #[must_use]
    pub fn provider(&self, layer: Layer) -> Option<&Id> {
        self.deciding_roles().find(|role| role.role == layer).map(|role| &role.provider)
    }

    /// The roles that are known well enough to decide something.
    pub fn deciding_roles(&self) -> impl Iterator<Item = &Role> {
        self.roles.iter().filter(|role| role.evidence > Evidence::MemoryMedium)
    }

    /// The URL that is asked for.
    #[must_use]
    pub fn url(&self) -> String {
        let port = if self.port == 443 { String::new() } else { format!(":{}", self.port) };
        format!("https://{}{port}{}", self.host, self.path)
    }

    /// The top-level domain of its host.
    #[must_use]
    pub fn tld(&self) -> &str {
        self.host.rsplit('.').next().unwrap_or_default()
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCatalogue {
    schema: u16,
    version: u32,
    /// Agents that it is made for. Where it is 0 nobody is left out.
    #[serde(default)]
    crowd: u32,
    #[serde(default = "max_total_rps")]
    max_total_rps: u32,
    #[serde(default)]
    provider: Vec<Provider>,
    #[serde(default)]
    target: Vec<Target>,
}

/// Requests a second that a well-known site does not notice.
const fn max_total_rps() -> u32 {
    100
}

/// A valid catalogue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Catalogue {
    version: u32,
    crowd: u32,
    max_total_rps: u32,
    providers: BTreeMap<Id, Provider>,
    targets: BTreeMap<TargetIndex, Target>,
}

/// Why a catalogue was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CatalogueError {
    /// Longer than any catalogue may be.
    #[error("the catalogue has {0} bytes; at most {CATALOGUE_BYTES_MAX} are allowed")]
    TooLong(usize),
    /// It is no TOML of the expected form.
    #[error("the catalogue cannot be read: {0}")]
    Form(toml::de::Error),
    /// It is of another schema.
    #[error("the catalogue has schema {0}; this program reads schema 1")]
    Schema(u16),
    /// There are too many entries.
    #[error("the catalogue has {got} {what}; at most {max} are allowed")]
    TooMany {
        /// Entries of what.
        what: &'static str,
        /// How many.
        got: usize,
        /// How many are allowed.
        max: usize,
    },
    /// Two entries have the same name or number.
    #[error("{0} stands twice in the catalogue")]
    Twice(String),
    /// A target's role names a provider that the catalogue lacks.
    #[error("target {target} names the provider {provider}, which has no entry")]
    NoSuchProvider {
        /// The target.
        target: Id,
        /// The provider.
        provider: Id,
    },
    /// A role that no provider can have.
    #[error(
        "target {target} has the role {role:?}; only dns, edge, hosting, aux and issuer are roles"
    )]
    NoSuchRole {
        /// The target.
        target: Id,
        /// The role.
        role: Layer,
    },
    /// A host that cannot be asked.
    #[error("target {target}: {host:?} is no host name (lower-case letters, digits, '-', '.')")]
    Host {
        /// The target.
        target: Id,
        /// Its host.
        host: String,
    },
    /// A path that cannot be asked for.
    #[error("target {target}: {path:?} is no path (visible ASCII, beginning with '/')")]
    Path {
        /// The target.
        target: Id,
        /// Its path.
        path: String,
    },
    /// Not signed by a key that the configuration names.
    #[error("the catalogue is signed by none of the configured catalogue keys")]
    Signature(#[source] VerifyError),
}

impl Catalogue {
    /// The catalogue compiled into this program.
    ///
    /// # Panics
    /// Never: a test parses it.
    #[must_use]
    pub fn builtin() -> &'static Self {
        static BUILTIN: OnceLock<Catalogue> = OnceLock::new();
        BUILTIN.get_or_init(|| {
            Self::parse(include_str!("../data/catalogue.toml")).expect("the builtin one is valid")
        })
    }

    /// Reads a catalogue from TOML.
    ///
    /// # Errors
    /// By cause, as in [`CatalogueError`].
    pub fn parse(text: &str) -> Result<Self, CatalogueError> {
        if text.len() > CATALOGUE_BYTES_MAX {
            return Err(CatalogueError::TooLong(text.len()));
        }
        let raw: RawCatalogue = toml::from_str(text).map_err(CatalogueError::Form)?;
        if raw.schema != 1 {
            return Err(CatalogueError::Schema(raw.schema));
        }
        let parsed = Self::from_parts(raw.version, raw.provider, raw.target)?;
        Ok(parsed.made_for(raw.crowd, raw.max_total_rps))
    }

    /// The same for a crowd of so many agents, which together make at most `max_total_rps` requests a second of any
    /// target that says nothing else.
    #[must_use]
    pub fn made_for(self, crowd: u32, max_total_rps: u32) -> Self {
        Self { crowd, max_total_rps, ..self }
    }

    /// Which share of the agents looks at a target, millionths: so many that its bound holds even if a collector makes
    /// each of them look as often as its caps allow ([`TARGET_MINUTE_MAX`] in a minute). The bound is of a minute's mean:
    /// what falls on one second is the collector's choice.
    #[must_use]
    pub fn share_ppm(&self, target: &Target) -> u32 {
        const ALL: u64 = 1_000_000;
        let most = u64::from(target.max_total_rps.unwrap_or(self.max_total_rps)) * 60 * ALL;
        let worst = u64::from(self.crowd) * TARGET_MINUTE_MAX as u64;
        u32::try_from(most.checked_div(worst).unwrap_or(ALL).min(ALL)).unwrap_or(0)
    }

    /// From its parts, which are checked.
    ///
    /// # Errors
    /// By cause, as in [`CatalogueError`].
    pub fn from_parts(
        version: u32,
        parts: Vec<Provider>,
        sites: Vec<Target>,
    ) -> Result<Self, CatalogueError> {
        let at_most = |what, got, max| match got > max {
            true => Err(CatalogueError::TooMany { what, got, max }),
            false => Ok(()),
        };
        at_most("providers", parts.len(), PROVIDERS_MAX)?;
        at_most("targets", sites.len(), TARGETS_MAX)?;
        let mut providers = BTreeMap::new();
        for provider in parts {
            let id = provider.id.clone();
            if providers.insert(id.clone(), provider).is_some() {
                return Err(CatalogueError::Twice(format!("provider {id}")));
            }
        }
        let mut targets = BTreeMap::new();
        let mut ids = BTreeSet::new();
        for target in sites {
            at_most("roles in one target", target.roles.len(), ROLES_MAX)?;
            check_target(&target, &providers)?;
            if !ids.insert(target.id.clone()) {
                return Err(CatalogueError::Twice(format!("target {}", target.id)));
            }
            let index = target.index;
            if targets.insert(index, target).is_some() {
                return Err(CatalogueError::Twice(format!("target number {}", index.0)));
            }
        }
        Ok(Self { version, crowd: 0, max_total_rps: max_total_rps(), providers, targets })
    }

    /// Reads a catalogue that must be signed by one of the given keys.
    ///
    /// # Errors
    /// When none of the keys has signed it, or it is refused for itself.
    pub fn open(
        text: &str,
        signature: &Signature,
        keys: &[PublicKey],
    ) -> Result<Self, CatalogueError> {
        let mut refused = VerifyError::Signature;
        for key in keys {
            match key.verify(Domain::Catalogue, text.as_bytes(), signature) {
                Ok(()) => return Self::parse(text),
                Err(error) => refused = error,
            }
        }
        Err(CatalogueError::Signature(refused))
    }

    /// Version; strictly rising over updates.
    #[must_use]
    pub const fn version(&self) -> u32 {
        self.version
    }

    /// The providers by name.
    #[must_use]
    pub const fn providers(&self) -> &BTreeMap<Id, Provider> {
        &self.providers
    }

    /// Who runs a provider; itself where the catalogue does not know it.
    #[must_use]
    pub fn organisation<'a>(&'a self, provider: &'a Id) -> &'a Id {
        self.providers.get(provider).map_or(provider, |known| &known.organisation)
    }

    /// The targets by number.
    #[must_use]
    pub const fn targets(&self) -> &BTreeMap<TargetIndex, Target> {
        &self.targets
    }

    /// One target.
    #[must_use]
    pub fn target(&self, index: TargetIndex) -> Option<&Target> {
        self.targets.get(&index)
    }

    /// The target that is asked under a host name, or has this identifier.
    #[must_use]
    pub fn find(&self, text: &str) -> Option<&Target> {
        let is = |target: &&Target| target.host == text || target.id.as_str() == text;
        self.targets.values().find(is).or_else(|| {
            self.targets.values().find(|t| t.host.strip_prefix("www.").is_some_and(|h| h == text))
        })
    }
}

fn check_target(target: &Target, providers: &BTreeMap<Id, Provider>) -> Result<(), CatalogueError> {
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-')
    };
    let host = &target.host;
    let numeric = host.bytes().all(|c| c.is_ascii_digit() || c == b'.');
    if host.len() > 253 || numeric || !host.contains('.') || !host.split('.').all(label) {
        return Err(CatalogueError::Host { target: target.id.clone(), host: host.clone() });
    }
    let path = &target.path;
    if !path.starts_with('/') || path.len() > 512 || !path.bytes().all(|c| c.is_ascii_graphic()) {
        return Err(CatalogueError::Path { target: target.id.clone(), path: path.clone() });
    }
    for Role { role, provider, .. } in &target.roles {
        if matches!(role, Layer::Site | Layer::Tld | Layer::Resolver) {
            return Err(CatalogueError::NoSuchRole { target: target.id.clone(), role: *role });
        }
        if !providers.contains_key(provider) {
            return Err(CatalogueError::NoSuchProvider {
                target: target.id.clone(),
                provider: provider.clone(),
            });
        }
    }
    Ok(())
}

/// The zones of the global quorum: fixed groups of countries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Zones {
    ids: Vec<Id>,
    of: BTreeMap<Country, u8>,
}

/// Number of a zone in [`Zones`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ZoneIndex(pub u8);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawZones {
    schema: u16,
    zone: Vec<RawZone>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawZone {
    id: Id,
    countries: Vec<Country>,
}

impl Zones {
    /// The zones compiled into this program.
    ///
    /// # Panics
    /// Never: a test parses them.
    #[must_use]
    pub fn builtin() -> &'static Self {
        static BUILTIN: OnceLock<Zones> = OnceLock::new();
        BUILTIN.get_or_init(|| {
            let raw: RawZones =
                toml::from_str(include_str!("../data/zones.toml")).expect("the zones are valid");
            assert!(raw.schema == 1, "the zones have schema 1");
            let mut zones = Self { ids: Vec::new(), of: BTreeMap::new() };
            for (at, zone) in raw.zone.into_iter().enumerate() {
                let index = u8::try_from(at).expect("there are far fewer than 256 zones");
                zones.ids.push(zone.id);
                for country in zone.countries {
                    let twice = zones.of.insert(country, index);
                    assert!(twice.is_none(), "{country} is in one zone only");
                }
            }
            zones
        })
    }

    /// The zone of a country; `None` for one that is unknown.
    #[must_use]
    pub fn of(&self, country: Country) -> Option<ZoneIndex> {
        self.of.get(&country).copied().map(ZoneIndex)
    }

    /// The zone's name.
    #[must_use]
    pub fn id(&self, zone: ZoneIndex) -> Option<&Id> {
        self.ids.get(usize::from(zone.0))
    }

    /// How many zones there are.
    #[must_use]
    pub const fn count(&self) -> usize {
        self.ids.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_builtin_ones_are_valid() {
        let catalogue = Catalogue::builtin();
        assert!(catalogue.targets().len() >= 200);
        assert!(catalogue.targets().values().all(|target| target.port == 443));
        assert!(Zones::builtin().of("FR".parse().unwrap()).is_some());
        assert_eq!(Zones::builtin().of(Country::UNKNOWN), None);
    }

    #[test]
    fn says_what_is_wrong() {
        let check = |target: &str, expect: fn(&CatalogueError) -> bool| {
            let text = format!("schema = 1\nversion = 1\n{target}");
            let error = Catalogue::parse(&text).unwrap_err();
            assert!(expect(&error), "{target}: {error}");
        };
        let target = |host: &str, rest: &str| {
            format!("[[target]]\nindex = 0\nid = \"a\"\nname = \"A\"\nhost = \"{host}\"\n{rest}")
        };
        check(&target("10.0.0.1", ""), |e| matches!(e, CatalogueError::Host { .. }));
        check(&target("localhost", ""), |e| matches!(e, CatalogueError::Host { .. }));
        check(&target("a.b", "path = \"x\""), |e| matches!(e, CatalogueError::Path { .. }));
        check(&target("a.b", "path = \"/\\r\\nx\""), |e| matches!(e, CatalogueError::Path { .. }));
        let role = "roles = [{ role = \"edge\", provider = \"x\", evidence = \"operator\" }]";
        check(&target("a.b", role), |e| matches!(e, CatalogueError::NoSuchProvider { .. }));
        let twice = target("a.b", "") + &target("a.c", "");
        check(&twice, |e| matches!(e, CatalogueError::Twice(_)));
        check("colour = 1", |e| matches!(e, CatalogueError::Form(_)));
    }
}
