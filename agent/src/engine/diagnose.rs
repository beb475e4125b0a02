//! Is it only me? What a look at one site, looks at a few others, the state of the own line and what a
//! collector last published come to. Pure: the same evidence gives the same answer.
//!
//! The order is that of the way out: link, gateway, portal, resolver, provider, address family; only what
//! is behind all of them can be the site's. Of the world nothing is said that no collector has said.

use tocsin_proto::{
    catalogue::{Catalogue, Target, Zones},
    id::{Country, Id},
    implicate::{DnsPath, Layer, implication},
    incident::{Factor, Incident, Phase, Scope},
    observation::Family,
    outcome::{Outcome, Phase as Step},
    rules::{RuleNumber, RuleTable},
    snapshot::{Region, SiteCounts, SiteThere, Snapshot},
};

/// A snapshot that is older than this tells of the past, ms.
pub const FRESH_MS: u64 = 600_000;
/// Where nothing newer is known, an incident that is no older than this is told of, with its age, ms.
pub const OLD_MS: u64 = 6 * 3_600_000;
/// Controls that must have been looked at for their share to mean something.
const CONTROLS_MIN: usize = 2;

/// What one look at a site came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    /// Over which family.
    pub family: Family,
    /// What came of it.
    pub outcome: Outcome,
    /// The rule that told whose fault it is.
    pub rule: RuleNumber,
    /// What the two ways of resolving said.
    pub dns: DnsPath,
    /// The HTTP status; 0 when there was none.
    pub status: u16,
    /// Milliseconds of the whole look.
    pub total_ms: u64,
}

impl Look {
    /// Whether the site answered.
    #[must_use]
    pub const fn is_fine(&self) -> bool {
        self.outcome.is_answer()
    }

    /// Whether the name has no address of this family: no failure of anybody. What the own resolver alone says is no
    /// news of the name.
    #[must_use]
    pub fn has_no_address(&self) -> bool {
        self.outcome == Outcome::DnsNodata && self.dns != DnsPath::SystemOnly
    }

    fn implicates(&self, layer: Layer, has_edge: bool) -> bool {
        let fault = RuleTable::builtin().get(self.rule).map(|rule| rule.fault);
        let of = implication(self.outcome, fault, self.dns);
        let named = of.full.and(of.half);
        // Where there is no edge, what is said of the edge is said of the hosting.
        named.has(layer) || (layer == Layer::Hosting && !has_edge && named.has(Layer::Edge))
    }
}

/// A look at a site that shares nothing with the one in question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Control {
    /// Its host.
    pub host: String,
    /// What came of it.
    pub look: Look,
}

/// What is known of the own line; `None` where it was not measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OwnLine {
    /// There is a default route.
    pub route: Option<bool>,
    /// The gateway answers.
    pub gateway: Option<bool>,
    /// Nothing stands between that answers in the place of sites.
    pub no_portal: Option<bool>,
    /// A collector was reached, by its address alone.
    pub collector: Option<bool>,
    /// This machine's clock agrees with the collector's.
    pub clock: Option<bool>,
    /// The way out is a tunnel, such as a VPN's.
    pub tunnel: bool,
}

/// What a collector published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Feed {
    /// How old it is, ms.
    pub age_ms: u64,
    /// Whether it was fetched just now.
    pub live: bool,
    /// The document.
    pub snapshot: Snapshot,
    /// Where the collector sees us; `None` where it was not asked.
    pub country: Option<Country>,
    /// Our network as it sees us; 0 when unknown.
    pub asn: u32,
}

impl Feed {
    /// Whether it tells of now.
    #[must_use]
    pub const fn is_fresh(&self) -> bool {
        self.age_ms <= FRESH_MS
    }
}

/// All that is known.
#[derive(Debug, Clone, Default)]
pub struct Evidence<'a> {
    /// The site, where the catalogue has it.
    pub target: Option<&'a Target>,
    /// Looks at it.
    pub looks: Vec<Look>,
    /// Looks at others.
    pub controls: Vec<Control>,
    /// The own line.
    pub line: OwnLine,
    /// The name of the own resolver's class, where it is a public one.
    pub resolver: Option<&'static str>,
    /// What collectors published, the newest first.
    pub feeds: Vec<Feed>,
}

/// Whether the site works from here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Works {
    /// Over every family that it has.
    Yes,
    /// Not over this family.
    NotOver(Family),
    /// Not at all.
    No,
}

/// Whose fault it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// Nobody's: it works, and nothing is known to be wrong.
    Nothing,
    /// This machine has no way out.
    Link,
    /// The own gateway does not answer.
    Gateway,
    /// A portal wants a login, or something answers in the place of sites.
    Portal,
    /// The own resolver: for all names, or for this one alone.
    Resolver {
        /// Whether other names resolve.
        this_name_alone: bool,
    },
    /// This machine's clock: certificates seem to have run out.
    Clock,
    /// The own line, or the provider of it: nothing answers behind the gateway, or behind a tunnel.
    Line {
        /// Whether the way out is a tunnel.
        tunnel: bool,
    },
    /// The own line over one family.
    Family(Family),
    /// A confirmed incident, which others see too.
    Incident(Box<Incident>),
    /// A suspicion of a collector, not confirmed.
    Suspicion(Box<Incident>),
    /// Others fail at this site too; what it is nobody has named yet.
    OthersToo(SiteCounts),
    /// Others where we are fail at it too, and the rest of the world reaches it.
    HereToo(SiteThere),
    /// Others reach it, now.
    OnlyYou,
    /// It cannot be told.
    Unknown(Why),
}

/// Why it cannot be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// No collector is set.
    NoCollector,
    /// None was reached, and what was kept is too old.
    NoNews,
    /// Too few look at this site.
    TooFew,
    /// The site is in no catalogue: nobody else looks at it.
    Unlisted,
    /// Some controls answer and as many do not.
    Unsteady,
    /// It works over the other family, and others were not told apart by theirs.
    OneFamily,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnosis {
    /// Whether the site works from here.
    pub works: Works,
    /// Whose fault it is.
    pub cause: Cause,
}

/// What a control is good for: those whose own providers are down tell nothing of the line.
fn counts(control: &Control, feeds: &[Feed], catalogue: &Catalogue) -> bool {
    let Some(target) = catalogue.find(&control.host) else { return true };
    !feeds.iter().filter(|feed| feed.is_fresh()).any(|feed| {
        feed.snapshot.incidents.iter().any(|open| stands(open) && is_about(open, target))
    })
}

const fn stands(incident: &Incident) -> bool {
    matches!(incident.phase, Phase::Confirmed | Phase::Recovering)
}

/// Whether an incident is of this site, or of what stands behind it.
fn is_about(incident: &Incident, target: &Target) -> bool {
    match &incident.factor {
        Factor::Site { target: site } => *site == target.id,
        Factor::Provider { provider, role: Layer::Tld } => provider.as_str() == target.tld(),
        Factor::Provider { provider, role } => {
            target.roles.iter().any(|of| of.role == *role && of.provider == *provider)
        }
        _ => false,
    }
}

/// Whether it is of the likes of us: our network, country, zone or resolver.
fn is_of_us(incident: &Incident, feed: &Feed, resolver: Option<&str>) -> bool {
    let zone = feed.country.and_then(zone_of);
    match &incident.factor {
        Factor::Network { asn } => *asn != 0 && *asn == feed.asn,
        Factor::NetworkResolver { asn } => {
            *asn != 0 && *asn == feed.asn && resolver == Some("local")
        }
        Factor::Country { country } => feed.country == Some(*country),
        Factor::Zone { zone: own } => zone == Some(own),
        Factor::Resolver { resolver: own } => resolver == Some(own.as_str()),
        _ => false,
    }
}

fn zone_of(country: Country) -> Option<&'static Id> {
    let zones = Zones::builtin();
    zones.of(country).and_then(|zone| zones.id(zone))
}

/// Whether it reaches us: what is regional reaches those who are there.
fn reaches_us(incident: &Incident, feed: &Feed) -> bool {
    let Scope::Regional { zones, countries } = &incident.scope else { return true };
    // Who does not know where it is cannot rule it out.
    let Some(country) = feed.country else { return true };
    countries.contains(&country) || zone_of(country).is_some_and(|zone| zones.contains(zone))
}

impl Evidence<'_> {
    /// Whether the site works from here. A family of which it has no address does not count.
    fn works(&self) -> Works {
        // A resolver that hides the addresses of one family harms nobody who has the other.
        let fine = self.looks.iter().any(Look::is_fine);
        let hidden = |look: &Look| fine && look.outcome == Outcome::DnsNodata;
        let looked =
            || self.looks.iter().filter(move |look| !look.has_no_address() && !hidden(look));
        let failing: Vec<Family> =
            looked().filter(|look| !look.is_fine()).map(|look| look.family).collect();
        match (looked().any(Look::is_fine), failing.first()) {
            (true, None) => Works::Yes,
            (true, Some(family)) => Works::NotOver(*family),
            (false, _) => Works::No,
        }
    }

    /// Controls over a family, or over any: how many there were, and how many were fine.
    fn controls(&self, catalogue: &Catalogue, over: Option<Family>) -> (usize, usize) {
        let of = self.controls.iter().filter(|control| {
            let own = over.is_none_or(|family| control.look.family == family);
            own && !control.look.has_no_address() && counts(control, &self.feeds, catalogue)
        });
        of.fold((0, 0), |(all, fine), control| {
            (all + 1, fine + usize::from(control.look.is_fine()))
        })
    }

    /// An incident that explains what was met here: of the site or of a provider behind it in a role that
    /// fits, or of those we belong to. What is confirmed before what is suspected, the narrowest first.
    fn incident(&self, confirmed: bool) -> Option<&Incident> {
        let phase = |incident: &&Incident| match confirmed {
            true => stands(incident),
            false => incident.phase == Phase::Suspected,
        };
        let rank = |incident: &Incident| match incident.factor {
            Factor::Site { .. } => 0,
            Factor::Provider { .. } => 1,
            _ => 2,
        };

        let all =
            self.newest().flat_map(|feed| {
                feed.snapshot.incidents.iter().filter(phase).filter(move |incident| {
                    self.explains(incident, feed) && incident.part_of.is_none()
                })
            });
        all.min_by_key(|incident| rank(incident))
    }

    /// What tells of now; where nothing does, what is not too old.
    fn newest(&self) -> impl Iterator<Item = &Feed> {
        let fresh = self.feeds.iter().any(Feed::is_fresh);
        self.feeds.iter().filter(move |feed| match fresh {
            true => feed.is_fresh(),
            false => feed.age_ms <= OLD_MS,
        })
    }

    /// Whether what we met is what those meet who have our network, country or resolver in common.
    fn is_met_with(&self, incident: &Incident) -> bool {
        let failing = || self.looks.iter().filter(|look| !look.is_fine() && !look.has_no_address());
        match incident.factor {
            Factor::Resolver { .. } | Factor::NetworkResolver { .. } => failing()
                .any(|look| look.outcome.phase() == Some(Step::Dns) && look.dns != DnsPath::Both),
            _ => {
                let fine = self.controls.iter().filter(|control| control.look.is_fine()).count();
                failing().next().is_some() && 2 * fine < self.controls.len()
            }
        }
    }

    fn explains(&self, incident: &Incident, feed: &Feed) -> bool {
        if is_of_us(incident, feed, self.resolver) {
            return self.is_met_with(incident);
        }
        let Some(target) = self.target.filter(|target| is_about(incident, target)) else {
            return false;
        };
        let over = match incident.scope {
            Scope::Family { family } => Some(family),
            _ => None,
        };
        let has_edge = target.provider(Layer::Edge).is_some();
        let fits = |look: &&Look| match &incident.factor {
            Factor::Provider { role, .. } => look.implicates(*role, has_edge),
            _ => true,
        };
        let met = self.looks.iter().filter(|look| !look.is_fine() && !look.has_no_address());
        let mut met = met.filter(|look| over.is_none_or(|family| look.family == family));
        // Where it works from here it is said all the same.
        let works = self.works() == Works::Yes;
        reaches_us(incident, feed) && (works || met.any(|look| fits(&look)))
    }

    /// The answer.
    #[must_use]
    pub fn diagnose(&self, catalogue: &Catalogue) -> Diagnosis {
        let works = self.works();
        let cause = match works {
            Works::Yes => self
                .incident(true)
                .map_or(Cause::Nothing, |incident| Cause::Incident(Box::new(incident.clone()))),
            Works::NotOver(family) => match self.controls(catalogue, Some(family)) {
                (all, 0) if all >= CONTROLS_MIN => Cause::Family(family),
                _ => match self.world(catalogue) {
                    // Over which family others reach it is not known.
                    Cause::OnlyYou => Cause::Unknown(Why::OneFamily),
                    cause => cause,
                },
            },
            Works::No => self
                .dead_family(catalogue)
                .or_else(|| self.own_side(catalogue))
                .unwrap_or_else(|| self.world(catalogue)),
        };
        Diagnosis { works, cause }
    }

    /// The only family that the site has, where nothing answers over it here and something does over the other.
    fn dead_family(&self, catalogue: &Catalogue) -> Option<Cause> {
        let has = |family: Family| {
            self.looks.iter().any(|look| look.family == family && !look.has_no_address())
        };
        let (own, other) = match (has(Family::V4), has(Family::V6)) {
            (true, false) => (Family::V4, Family::V6),
            (false, true) => (Family::V6, Family::V4),
            _ => return None,
        };
        let (all, fine) = self.controls(catalogue, Some(own));
        let dead = all >= CONTROLS_MIN && fine == 0 && self.controls(catalogue, Some(other)).1 > 0;
        dead.then_some(Cause::Family(own))
    }

    /// What is wrong on this side, if it is on this side.
    fn own_side(&self, catalogue: &Catalogue) -> Option<Cause> {
        let OwnLine { route, gateway, no_portal, collector, clock, tunnel } = self.line;
        let (all, fine) = self.controls(catalogue, None);
        // Whatever answers was reached somehow.
        if route == Some(false) && fine == 0 && collector != Some(true) {
            return Some(Cause::Link);
        }
        let names_fail = |look: &Look| look.outcome.phase() == Some(Step::Dns);
        let own_resolver = |look: &Look| look.dns == DnsPath::SystemOnly;
        let failing = || self.looks.iter().filter(|look| !look.is_fine() && !look.has_no_address());
        let expired = |look: &Look| look.outcome == Outcome::TlsCertExpired;
        let met = || self.controls.iter().map(|control| &control.look).chain(failing());
        let by_clock = match clock {
            Some(false) => met().any(expired),
            Some(true) => false,
            None => fine == 0 && all >= CONTROLS_MIN && met().all(expired),
        };
        if by_clock {
            return Some(Cause::Clock);
        }
        if fine == 0 && all >= CONTROLS_MIN {
            if no_portal == Some(false) {
                return Some(Cause::Portal);
            }
            let names = met;
            let answered = |look: &Look| own_resolver(look);
            if names().all(names_fail) && (names().any(answered) || collector == Some(true)) {
                return Some(Cause::Resolver { this_name_alone: false });
            }
            if gateway == Some(false) {
                return Some(Cause::Gateway);
            }
            // It answers, and says that no name exists, or where none of them can be.
            let nowhere = |look: &Look| look.outcome == Outcome::DnsNonPublic;
            if names().all(nowhere) {
                return Some(Cause::Portal);
            }
            if names().all(|look| {
                matches!(look.outcome, Outcome::DnsNxdomain | Outcome::DnsRefused) || nowhere(look)
            }) {
                return Some(Cause::Resolver { this_name_alone: false });
            }
            // What is known of our network says more than that it does not work.
            if let Some(incident) = self
                .incident(true)
                .filter(|i| !matches!(i.factor, Factor::Site { .. } | Factor::Provider { .. }))
            {
                return Some(Cause::Incident(Box::new(incident.clone())));
            }
            return Some(Cause::Line { tunnel });
        }
        if failing().count() > 0 && failing().all(own_resolver) {
            return Some(Cause::Resolver { this_name_alone: true });
        }
        if all >= CONTROLS_MIN && 2 * fine < all {
            return Some(Cause::Unknown(Why::Unsteady));
        }
        None
    }

    /// What the world says of it.
    fn world(&self, catalogue: &Catalogue) -> Cause {
        if let Some(incident) = self.incident(true) {
            return Cause::Incident(Box::new(incident.clone()));
        }
        if let Some(incident) = self.incident(false) {
            return Cause::Suspicion(Box::new(incident.clone()));
        }
        let Some(target) = self.target else { return Cause::Unknown(Why::Unlisted) };
        let fresh = || self.feeds.iter().filter(|feed| feed.is_fresh());
        let there = fresh().find_map(|feed| {
            let country = feed.country?;
            feed.snapshot.sites.failing_there.iter().find(|there| {
                there.target == target.id
                    && match &there.region {
                        Region::Country(of) => *of == country,
                        Region::Zone(zone) => zone_of(country) == Some(zone),
                    }
            })
        });
        if let Some(there) = there {
            return Cause::HereToo(there.clone());
        }
        let failing = fresh().find_map(|feed| {
            feed.snapshot.sites.failing.iter().find(|counts| counts.target == target.id)
        });
        if let Some(counts) = failing {
            return Cause::OthersToo(counts.clone());
        }
        // That others reach it counts only where our own line was seen to carry something.
        let (_, fine) = self.controls(catalogue, None);
        if fine > 0 && fresh().any(|feed| feed.snapshot.sites.well.contains(&target.id)) {
            return Cause::OnlyYou;
        }
        Cause::Unknown(match self.feeds.is_empty() {
            true if self.line.collector.is_none() => Why::NoCollector,
            true => Why::NoNews,
            // Who was reached and has nothing new to tell has no crowd.
            false if !self.feeds.iter().any(|feed| feed.live || feed.is_fresh()) => Why::NoNews,
            false => Why::TooFew,
        })
    }
}

#[cfg(test)]
pub(crate) mod tests;
