//! What the detector said, of what and how far, as results are kept.

use std::fmt;

use serde::{Deserialize, Serialize};
use tocsin_collector::engine::{
    detector::{Detector, Shown, Subject},
    incident::Reach,
};
use tocsin_proto::incident::Phase;

/// What is said to be at fault.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Culprit {
    /// A provider.
    Provider(String),
    /// A site, by its host.
    Site(String),
    /// Observers that have something in common.
    Group(String),
}

/// A verdict, or a suspicion.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Said {
    /// Of what.
    pub culprit: Culprit,
    /// In which parts of the world; empty where it is all of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub regions: Vec<String>,
    /// Over which address family alone, 4 or 6.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub family: Option<String>,
}

impl Said {
    /// What is shown of an incident.
    #[must_use]
    pub fn of(detector: &Detector, shown: &Shown<'_>) -> Self {
        let culprit = match shown.subject {
            Subject::Entity(entity) => {
                Culprit::Provider(detector.plan().entity(entity).provider.to_string())
            }
            Subject::Site(target) => {
                let target = detector.catalogue().target(target);
                Culprit::Site(target.map_or(String::new(), |target| target.host.clone()))
            }
            Subject::Group(group) => Culprit::Group(group.name()),
        };
        let regions = match &shown.incident.reach {
            // How far a suspicion will reach is not known yet.
            Reach::Regional(regions) if shown.incident.phase() != Phase::Suspected => {
                regions.iter().map(Detector::region_name).collect()
            }
            _ => Vec::new(),
        };
        let family = match shown.incident.reach {
            Reach::Over(family) => Some(family.name().to_owned()),
            _ => None,
        };
        Self { culprit, regions, family }
    }

    /// Whether it is said of a provider or a site for everybody: of regions and groups of observers those who are
    /// there can say what they like.
    #[must_use]
    pub fn is_worldwide(&self) -> bool {
        self.regions.is_empty() && !matches!(self.culprit, Culprit::Group(_))
    }

    /// Whether it is said of a provider for everybody.
    #[must_use]
    pub fn is_of_provider(&self) -> bool {
        self.is_worldwide() && matches!(self.culprit, Culprit::Provider(_))
    }
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.culprit {
            Culprit::Provider(name) | Culprit::Group(name) => f.write_str(name)?,
            Culprit::Site(host) => write!(f, "site:{host}")?,
        }
        if !self.regions.is_empty() {
            write!(f, " in {}", self.regions.join("+"))?;
        }
        self.family.iter().try_for_each(|family| write!(f, " over IP{family}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_said_of_everybody_is_worldwide() {
        let said = |culprit, regions: &[&str]| Said {
            culprit,
            regions: regions.iter().map(ToString::to_string).collect(),
            family: None,
        };
        let provider = || Culprit::Provider("p0".to_owned());
        assert!(said(provider(), &[]).is_of_provider());
        assert!(!said(provider(), &["CH"]).is_worldwide());
        assert!(said(Culprit::Site("s3.fr".to_owned()), &[]).is_worldwide());
        assert!(!said(Culprit::Site("s3.fr".to_owned()), &[]).is_of_provider());
        // A provider may be called what a group would be.
        assert!(said(Culprit::Provider("network-solutions".to_owned()), &[]).is_worldwide());
        assert!(!said(Culprit::Group("network-as64500".to_owned()), &[]).is_worldwide());
        let over = Said { family: Some("v6".to_owned()), ..said(provider(), &[]) };
        assert_eq!(over.to_string(), "p0 over IPv6");
        assert_eq!(said(provider(), &["CH", "africa"]).to_string(), "p0 in CH+africa");
        let kept = serde_json::to_string(&over).unwrap();
        assert_eq!(serde_json::from_str::<Said>(&kept).unwrap(), over);
    }
}
