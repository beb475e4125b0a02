//! What an outcome says about the layers behind a target: which it implicates, and which it
//! clears. A table, used by the agent (what to verify) and by the detector (what to count).

use serde::{Deserialize, Serialize};

use crate::{
    outcome::{Outcome, Phase},
    rules::Fault,
};

/// A layer that can be at fault for one target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Layer {
    /// The authoritative DNS provider.
    Dns = 0,
    /// The CDN or front.
    Edge = 1,
    /// Where the site's own servers stand.
    Hosting = 2,
    /// A challenge or subresource provider that pages need.
    Aux = 3,
    /// The site itself.
    Site = 4,
    /// The certificate authority.
    Issuer = 5,
    /// The top-level domain.
    Tld = 6,
    /// The observer's own resolver: on the observer's side, not the target's.
    Resolver = 7,
}

impl Layer {
    /// Every layer.
    pub const ALL: &[Self] = &[
        Self::Dns,
        Self::Edge,
        Self::Hosting,
        Self::Aux,
        Self::Site,
        Self::Issuer,
        Self::Tld,
        Self::Resolver,
    ];
}

/// A set of layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Layers(u8);

impl Layers {
    /// No layer.
    pub const NONE: Self = Self(0);

    /// A set of these.
    #[must_use]
    pub const fn of(layers: &[Layer]) -> Self {
        let (mut set, mut rest) = (0, layers);
        while let [first, others @ ..] = rest {
            set |= 1 << *first as u8;
            rest = others;
        }
        Self(set)
    }

    /// Whether the layer is in the set.
    #[must_use]
    pub const fn has(self, layer: Layer) -> bool {
        self.0 & (1 << layer as u8) != 0
    }

    /// Whether no layer is.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// All but this one.
    #[must_use]
    pub const fn without(self, layer: Layer) -> Self {
        Self(self.0 & !(1 << layer as u8))
    }

    /// The layers in either set.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// What the agent's two ways of resolving a name said together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum DnsPath {
    /// The independent path was not asked, or gave no answer of its own: nothing is proved.
    #[default]
    Unconfirmed = 0,
    /// The independent path failed too: the name is at fault.
    Both = 1,
    /// The independent path resolved the name: the resolver is at fault.
    SystemOnly = 2,
    /// The own resolver has an answer still, or does not validate, and the other paths have none:
    /// the name is at fault before its users notice.
    IndependentOnly = 3,
}

/// One row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Implication {
    /// Stable name of the row, shown with an incident.
    pub id: &'static str,
    /// Layers under suspicion. `Edge` falls to `Hosting` where the target has no edge.
    pub full: Layers,
    /// Layers under half suspicion: the making of the failure is not known.
    pub half: Layers,
    /// Layers that this outcome shows to work.
    pub clears: Layers,
    /// In words, for the page.
    pub text: &'static str,
}

/// What an outcome says of the target, apart from whom it implicates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Says {
    /// It answered.
    Answers,
    /// It failed, or something in front of it did.
    Fails,
    /// Nothing: the fault is on the observer's side, or nothing is proved. It is in no count of a
    /// target or provider, neither as failing nor as fine.
    Nothing,
}

impl Implication {
    /// What it says of the target.
    #[must_use]
    pub const fn says(&self) -> Says {
        let suspects = self.full.and(self.half);
        if suspects.without(Layer::Resolver).is_empty() {
            if suspects.is_empty() && !self.clears.is_empty() {
                Says::Answers
            } else {
                Says::Nothing
            }
        } else {
            Says::Fails
        }
    }
}

use Layer::{Aux, Dns, Edge, Hosting, Issuer, Resolver, Site, Tld};

const OK: Implication = Implication {
    id: "imply.ok",
    full: Layers::NONE,
    half: Layers::NONE,
    clears: Layers::of(Layer::ALL),
    text: "an answer clears every layer it used",
};
const DNS: Implication = Implication {
    id: "imply.dns",
    full: Layers::of(&[Dns, Tld]),
    half: Layers::NONE,
    clears: Layers::NONE,
    text: "a name that two independent paths cannot resolve implicates its DNS provider",
};
const RESOLVER: Implication = Implication {
    id: "imply.resolver",
    full: Layers::of(&[Resolver]),
    half: Layers::NONE,
    clears: Layers::of(&[Dns, Tld]),
    text: "a name that only the own resolver cannot resolve implicates that resolver",
};
const NOTHING: Implication = Implication {
    id: "imply.nothing",
    full: Layers::NONE,
    half: Layers::NONE,
    clears: Layers::NONE,
    text: "nothing is proved",
};
const CONNECT: Implication = Implication {
    id: "imply.connect",
    full: Layers::of(&[Edge]),
    half: Layers::NONE,
    clears: Layers::of(&[Dns, Tld]),
    text: "no connection implicates the edge, or the hosting where there is no edge",
};
const CERTIFICATE: Implication = Implication {
    id: "imply.certificate",
    full: Layers::of(&[Issuer, Site]),
    half: Layers::NONE,
    clears: Layers::of(&[Dns, Tld, Edge]),
    text: "a bad certificate implicates its issuer and the site",
};
const EDGE: Implication = Implication {
    id: "imply.edge_error",
    full: Layers::of(&[Edge]),
    half: Layers::NONE,
    clears: Layers::of(&[Dns, Tld, Resolver]),
    text: "an error that the edge itself made implicates the edge",
};
const AUX: Implication = Implication {
    id: "imply.aux_error",
    full: Layers::of(&[Edge, Aux]),
    half: Layers::NONE,
    clears: Layers::of(&[Dns, Tld, Resolver]),
    text: "a page that cannot reach its challenge host implicates that host and the edge",
};
const ORIGIN: Implication = Implication {
    id: "imply.origin_error",
    full: Layers::of(&[Hosting, Site]),
    half: Layers::NONE,
    clears: Layers::of(&[Dns, Tld, Resolver, Edge]),
    text: "an error of the origin through a healthy edge implicates hosting and site",
};
const SITE: Implication = Implication {
    id: "imply.site_error",
    full: Layers::of(&[Site]),
    half: Layers::NONE,
    clears: Layers::of(&[Dns, Tld, Resolver, Edge]),
    text: "an error of the site's own settings implicates the site",
};
const UNKNOWN: Implication = Implication {
    id: "imply.unknown_error",
    full: Layers::of(&[Site]),
    half: Layers::of(&[Edge, Hosting]),
    clears: Layers::of(&[Dns, Tld, Resolver]),
    text: "an error of unknown making implicates the site, and edge and hosting by half",
};
const ANSWER: Implication = Implication {
    id: "imply.answer",
    full: Layers::NONE,
    half: Layers::NONE,
    clears: Layers::of(&[Dns, Tld, Resolver, Edge, Hosting, Issuer]),
    text: "a slow answer or a 4xx is an answer",
};
const WALL: Implication = Implication {
    id: "imply.wall",
    full: Layers::NONE,
    half: Layers::NONE,
    clears: Layers::of(&[Dns, Tld, Resolver, Edge, Issuer]),
    text: "a challenge or a block is an answer of the edge, and says nothing of what is behind it",
};

/// Every row, for documents and tests.
pub const TABLE: &[Implication] = &[
    OK,
    DNS,
    RESOLVER,
    NOTHING,
    CONNECT,
    CERTIFICATE,
    EDGE,
    AUX,
    ORIGIN,
    SITE,
    UNKNOWN,
    ANSWER,
    WALL,
];

/// What an outcome says. `fault` is that of the rule that matched, if one did.
#[must_use]
pub const fn implication(
    outcome: Outcome,
    fault: Option<Fault>,
    dns: DnsPath,
) -> &'static Implication {
    match outcome {
        Outcome::Ok => &OK,
        Outcome::Challenged => &WALL,
        Outcome::Http4xx if matches!(fault, Some(Fault::Challenge | Fault::Block)) => &WALL,
        Outcome::Slow | Outcome::Http4xx => &ANSWER,
        Outcome::Intercepted => &NOTHING,
        Outcome::TlsCertExpired | Outcome::TlsCertName | Outcome::TlsCertUntrusted => &CERTIFICATE,
        Outcome::Http5xx => match fault {
            Some(Fault::Edge) => &EDGE,
            Some(Fault::Aux) => &AUX,
            Some(Fault::Origin) => &ORIGIN,
            Some(Fault::Site) => &SITE,
            Some(Fault::Challenge | Fault::Block) => &WALL,
            Some(Fault::Captive) => &NOTHING,
            Some(Fault::Unknown) | None => &UNKNOWN,
        },
        _ => match outcome.phase() {
            Some(Phase::Dns) => match dns {
                DnsPath::Both | DnsPath::IndependentOnly => &DNS,
                DnsPath::SystemOnly => &RESOLVER,
                DnsPath::Unconfirmed => &NOTHING,
            },
            Some(Phase::Tcp | Phase::Tls) => &CONNECT,
            // Nothing but headers that never came: as a 5xx of unknown making.
            Some(Phase::Http) | None => &UNKNOWN,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_outcome_says_what_the_table_says() {
        let check = |outcome, fault, dns, id| {
            assert_eq!(implication(outcome, fault, dns).id, id, "{outcome} {fault:?} {dns:?}");
        };
        let plain = DnsPath::Unconfirmed;
        check(Outcome::Ok, None, plain, "imply.ok");
        check(Outcome::DnsServfail, None, DnsPath::Both, "imply.dns");
        check(Outcome::DnsTimeout, None, DnsPath::SystemOnly, "imply.resolver");
        check(Outcome::DnsServfail, None, DnsPath::IndependentOnly, "imply.dns");
        check(Outcome::DnsTimeout, None, plain, "imply.nothing");
        check(Outcome::DnsNodata, None, DnsPath::Both, "imply.dns");
        check(Outcome::TcpTimeout, None, plain, "imply.connect");
        check(Outcome::TlsAlert, None, plain, "imply.connect");
        check(Outcome::TlsCertName, None, plain, "imply.certificate");
        check(Outcome::Http5xx, Some(Fault::Edge), plain, "imply.edge_error");
        check(Outcome::Http5xx, Some(Fault::Aux), plain, "imply.aux_error");
        check(Outcome::Http5xx, Some(Fault::Origin), plain, "imply.origin_error");
        check(Outcome::Http5xx, None, plain, "imply.unknown_error");
        check(Outcome::HttpTimeout, None, plain, "imply.unknown_error");
        check(Outcome::Challenged, None, plain, "imply.wall");
        check(Outcome::Http4xx, None, plain, "imply.answer");
        check(Outcome::Http4xx, Some(Fault::Block), plain, "imply.wall");
        check(Outcome::Slow, None, plain, "imply.answer");
        check(Outcome::Intercepted, None, plain, "imply.nothing");
    }

    #[test]
    fn the_observers_own_trouble_says_nothing_of_a_target() {
        let says = |outcome, dns| implication(outcome, None, dns).says();
        assert_eq!(says(Outcome::Ok, DnsPath::Unconfirmed), Says::Answers);
        assert_eq!(says(Outcome::Challenged, DnsPath::Unconfirmed), Says::Answers);
        assert_eq!(says(Outcome::DnsTimeout, DnsPath::Both), Says::Fails);
        assert_eq!(says(Outcome::DnsTimeout, DnsPath::Unconfirmed), Says::Nothing);
        assert_eq!(says(Outcome::DnsTimeout, DnsPath::SystemOnly), Says::Nothing);
        assert_eq!(says(Outcome::Intercepted, DnsPath::Unconfirmed), Says::Nothing);
        assert_eq!(says(Outcome::TlsCertName, DnsPath::Unconfirmed), Says::Fails);
        assert_eq!(says(Outcome::Http5xx, DnsPath::Unconfirmed), Says::Fails);
    }

    #[test]
    fn no_row_clears_what_it_implicates() {
        for row in TABLE {
            for layer in Layer::ALL {
                let blamed = row.full.has(*layer) || row.half.has(*layer);
                assert!(!(blamed && row.clears.has(*layer)), "{} {layer:?}", row.id);
            }
        }
    }

    #[test]
    fn ids_are_unique() {
        let mut ids: Vec<_> = TABLE.iter().map(|row| row.id).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), TABLE.len());
    }
}
