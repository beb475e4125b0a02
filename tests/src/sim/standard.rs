//! A catalogue with a known shape, for what is measured by shape: 200 sites of which one edge has
//! 120, edges down to 8 sites, name servers of 12 to 80, and a challenge provider nested in the
//! largest edge.

use tocsin_proto::{
    catalogue::{Catalogue, Evidence, Provider, Role, Target},
    id::{Id, TargetIndex},
    implicate::Layer,
};

/// The largest edge: 120 sites.
pub const LARGEST: &str = "p0";
/// The smallest edge: 8 sites.
pub const SMALLEST: &str = "p5";
/// A provider of names: 12 sites, 9 of them behind the largest edge.
pub const NAMES: &str = "p9";
/// A challenge provider: 30 sites, 24 of them behind the largest edge.
pub const NESTED: &str = "p10";

const SITES: u16 = 200;
/// Edges, each with its sites.
const EDGES: &[(&str, std::ops::Range<u16>)] = &[
    (LARGEST, 0..120),
    ("p1", 120..144),
    ("p2", 144..160),
    ("p3", 160..172),
    ("p4", 172..182),
    (SMALLEST, 182..190),
];
/// Challenge providers, each with its sites.
const CHALLENGES: &[(&str, &[std::ops::Range<u16>])] =
    &[(NESTED, &[10..34, 144..150]), ("p11", &[60..75, 150..155])];
/// Top-level domains, in turn.
const TLDS: &[&str] = &["com", "org", "net", "fr", "de", "uk", "io", "jp"];

/// A site's top-level domain.
#[must_use]
pub fn tld(site: u16) -> &'static str {
    TLDS.get(usize::from(site) % TLDS.len()).copied().unwrap_or("com")
}

/// Which provider answers for a site's name.
fn names(site: u16) -> &'static str {
    // The largest edge is also the names of 80 of its sites; four others share the rest.
    match site {
        40..120 => LARGEST,
        0..9 | 120..123 => NAMES,
        9..40 | 123..142 => "p6",
        142..178 => "p7",
        _ => "p8",
    }
}

/// The catalogue.
///
/// # Panics
/// Never: it is fixed, and a test makes it.
#[must_use]
pub fn catalogue() -> Catalogue {
    let id = |text: &str| text.parse::<Id>().expect("it is an identifier");
    let role =
        |role, provider: &str| Role { role, provider: id(provider), evidence: Evidence::Operator };
    let targets = (0..SITES).map(|site| {
        let mut roles = vec![role(Layer::Dns, names(site))];
        let edge = EDGES.iter().find(|(_, sites)| sites.contains(&site));
        roles.extend(edge.map(|(edge, _)| role(Layer::Edge, edge)));
        let challenge =
            CHALLENGES.iter().find(|(_, sites)| sites.iter().any(|part| part.contains(&site)));
        roles.extend(challenge.map(|(provider, _)| role(Layer::Aux, provider)));
        let tld = tld(site);
        Target {
            max_total_rps: None,
            index: TargetIndex(site),
            id: id(&format!("s{site}")),
            name: format!("Site {site}"),
            host: format!("s{site}.{tld}"),
            port: 443,
            path: "/".to_owned(),
            category: "standard".to_owned(),
            countries: Vec::new(),
            status_page: None,
            roles,
        }
    });
    let providers = (0..12).map(|n| Provider::unlisted(id(&format!("p{n}"))));
    Catalogue::from_parts(1, providers.collect(), targets.collect())
        .expect("the catalogue is well formed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_has_its_shape() {
        let catalogue = catalogue();
        let count = |layer, provider: &str| {
            let of = |t: &&Target| t.provider(layer).is_some_and(|p| p.as_str() == provider);
            catalogue.targets().values().filter(of).count()
        };
        assert_eq!((count(Layer::Edge, LARGEST), count(Layer::Edge, SMALLEST)), (120, 8));
        assert_eq!((count(Layer::Dns, NAMES), count(Layer::Aux, NESTED)), (12, 30));
        let dns = ["p6", "p7", "p8"].map(|p| count(Layer::Dns, p));
        assert_eq!(dns, [50, 36, 22]);
    }
}
