//! The words of the pages: how a state, a phase, a time or a factor is said to people. Every state
//! is a symbol and a word; colour only repeats it.

use tocsin_proto::{
    catalogue::{Catalogue, Target},
    id::Id,
    implicate::Layer,
    incident::{Confidence, Factor, Phase, Scope},
    snapshot::CellState,
    time::Timestamp,
};

/// A state or phase as it is shown: a class for the colour, a symbol and a word.
#[derive(Debug, Clone, Copy)]
pub(super) struct Badge {
    pub(super) class: &'static str,
    pub(super) symbol: &'static str,
    pub(super) word: &'static str,
}

pub(super) const fn phase(phase: Phase) -> Badge {
    let (symbol, word) = match phase {
        Phase::Suspected => ("◌", "suspected"),
        Phase::Confirmed => ("●", "confirmed"),
        Phase::Recovering => ("↑", "recovering"),
        Phase::Resolved => ("✓", "resolved"),
        Phase::Retracted => ("–", "retracted"),
    };
    Badge { class: phase.name(), symbol, word }
}

pub(super) const fn state(state: CellState) -> Badge {
    let (class, symbol, word) = match state {
        CellState::Ok => ("ok", "✓", "ok"),
        CellState::Degraded => ("degraded", "◔", "degraded"),
        CellState::Partial => ("partial", "◑", "partial"),
        CellState::Down => ("down", "✕", "down"),
        CellState::Recovering => ("recovering", "↑", "recovering"),
        CellState::Flapping => ("flapping", "⇅", "flapping"),
        CellState::InsufficientEvidence => ("few", "?", "too few"),
    };
    Badge { class, symbol, word }
}

/// How bad a state is, for the order of rows: worst first, and no evidence after what is fine.
pub(super) const fn badness(state: CellState) -> u8 {
    match state {
        CellState::Down => 6,
        CellState::Flapping => 5,
        CellState::Partial => 4,
        CellState::Degraded => 3,
        CellState::Recovering => 2,
        CellState::Ok => 1,
        CellState::InsufficientEvidence => 0,
    }
}

/// A role in words, after a name in parentheses or alone.
pub(super) const fn role(layer: Layer) -> &'static str {
    match layer {
        Layer::Dns => "DNS",
        Layer::Edge => "edge",
        Layer::Hosting => "hosting",
        Layer::Aux => "page dependency",
        Layer::Site => "site",
        Layer::Issuer => "certificate authority",
        Layer::Tld => "top-level domain",
        Layer::Resolver => "resolver",
    }
}

/// What a role does, for those who do not know the word.
pub(super) const fn role_explained(layer: Layer) -> &'static str {
    match layer {
        Layer::Dns => "DNS: answers for the sites’ names",
        Layer::Edge => "edge: the front (CDN) that visitors’ connections end at",
        Layer::Hosting => "hosting: where the sites’ own servers stand",
        Layer::Aux => "page dependency: a challenge or resource that the pages need",
        Layer::Site => "site: the site itself",
        Layer::Issuer => "certificate authority",
        Layer::Tld => "top-level domain of the sites’ names",
        Layer::Resolver => "resolver on the observers’ side",
    }
}

/// What kind of group it is that is cut off, and what that means.
pub(super) const fn group_explained(factor: &Factor) -> (&'static str, &'static str) {
    match factor {
        Factor::Network { .. } => ("Network", "network: whoever connects through it is cut off"),
        Factor::NetworkResolver { .. } => {
            ("Resolver", "resolver: whoever asks it for names gets no answer; another one works")
        }
        Factor::Resolver { .. } => ("Resolver", "resolver: whoever asks it gets no answer"),
        Factor::Country { .. } => ("Country", "country: its networks are cut off"),
        Factor::Zone { .. } => ("Zone", "zone: its countries are cut off"),
        Factor::ProbeCore { .. } => {
            ("Probe core", "our own program: a release that fails; its reports do not count")
        }
        Factor::Provider { .. } | Factor::Site { .. } => ("", ""),
    }
}

pub(super) fn scope(scope: &Scope) -> String {
    match scope {
        Scope::Global => "worldwide".to_owned(),
        Scope::Regional { zones, countries } => {
            let zones = zones.iter().map(zone);
            let names: Vec<String> =
                zones.chain(countries.iter().map(ToString::to_string)).collect();
            format!("in {}", list(&names))
        }
        Scope::Family { family } => format!("worldwide, over IP{} only", family.name()),
        Scope::Site => "one site, everywhere".to_owned(),
        Scope::Observers => "for its users only".to_owned(),
    }
}

/// A zone's identifier as words.
pub(super) fn zone(zone: &Id) -> String {
    zone.as_str().replace('-', " ")
}

pub(super) const fn confidence(confidence: Confidence) -> (&'static str, &'static str) {
    match confidence {
        Confidence::Low => ("low", "fewer than 100 prefixes can tell."),
        Confidence::Medium => (
            "medium",
            "every rule held, though not by 75 % in every zone; a single site is never above medium.",
        ),
        Confidence::High => {
            ("high", "at least 75 % of the evidence agrees in every zone that was evaluated.")
        }
    }
}

/// The name of a provider in headlines and tables, without what a long one explains in
/// parentheses; its identifier where the catalogue lacks it.
pub(super) fn provider(catalogue: &Catalogue, id: &Id) -> String {
    const LONG: usize = 30;
    match catalogue.providers().get(id).map(|found| found.name.as_str()) {
        Some(name) if name.len() > LONG => name.split(" (").next().unwrap_or(name).to_owned(),
        Some(name) => name.to_owned(),
        None => id.to_string(),
    }
}

pub(super) fn target<'a>(catalogue: &'a Catalogue, id: &Id) -> Option<&'a Target> {
    catalogue.targets().values().find(|target| target.id == *id)
}

/// What is at fault, in a headline: `Cloudflare (edge)`, `Discord`.
pub(super) fn culprit(catalogue: &Catalogue, factor: &Factor) -> String {
    match factor {
        Factor::Provider { provider: id, role: layer } => {
            format!("{} ({})", provider(catalogue, id), role(*layer))
        }
        Factor::Site { target: id } => {
            target(catalogue, id).map_or_else(|| id.to_string(), |found| found.name.clone())
        }
        group => group.group_title().unwrap_or_default(),
    }
}

/// An instant, for people and for programs.
#[derive(Debug, Clone)]
pub(super) struct Moment {
    pub(super) iso: String,
    pub(super) text: String,
}

pub(super) fn moment(at: Timestamp) -> Moment {
    let iso = at.to_string();
    let (day, rest) = iso.split_once('T').unwrap_or((&iso, ""));
    let time = rest.split('.').next().unwrap_or(rest);
    let text = format!("{day} {time} UTC");
    Moment { iso, text }
}

/// A length of time, rounded down to what matters.
pub(super) fn lasted(ms: u64) -> String {
    let (s, min, h) = (ms / 1000, ms / 60_000, ms / 3_600_000);
    match (h, min) {
        (0, 0) => format!("{s} s"),
        (0, _) => format!("{min} min"),
        (1..=47, _) => format!("{h} h {} min", min % 60),
        _ => format!("{} days", h / 24),
    }
}

/// Percent of a share in thousandths, with a decimal only where there is one.
pub(super) fn percent(permille: u16) -> String {
    match (permille / 10, permille % 10) {
        (whole, 0) => format!("{whole} %"),
        (whole, tenth) => format!("{whole}.{tenth} %"),
    }
}

/// `part` of `whole` in thousandths, rounded down; `None` of nothing.
pub(super) fn share(part: u32, whole: u32) -> Option<u16> {
    let permille = (u64::from(part) * 1000).checked_div(u64::from(whole))?;
    u16::try_from(permille.min(1000)).ok()
}

/// `1 site`, `2 sites`.
pub(super) fn count(n: u64, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}

/// `a`, `a and b`, `a, b and c`.
pub(super) fn list(words: &[String]) -> String {
    match words {
        [] => String::new(),
        [only] => only.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

/// At most `max` of the words, then how many are left.
pub(super) fn short_list(words: &[String], max: usize) -> String {
    let mut shown: Vec<String> = words.iter().take(max).cloned().collect();
    if words.len() > max {
        shown.push(format!("{} more", words.len() - max));
    }
    list(&shown)
}

/// A text as one segment of a path.
pub(super) fn segment(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// A link that a page may carry: https only, whatever a catalogue says.
pub(super) fn link(url: Option<&String>) -> Option<String> {
    url.filter(|url| url.starts_with("https://")).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_numbers_plainly() {
        assert_eq!(percent(1000), "100 %");
        assert_eq!(percent(333), "33.3 %");
        assert_eq!(share(1, 3), Some(333));
        assert_eq!(share(1, 0), None);
        assert_eq!(lasted(59_999), "59 s");
        assert_eq!(lasted(3_700_000), "1 h 1 min");
        let words = ["a", "b", "c"].map(str::to_owned);
        assert_eq!(list(&words), "a, b and c");
        assert_eq!(short_list(&words, 2), "a, b and 1 more");
        assert_eq!(moment(Timestamp::from_ms(1_763_465_280_123)).text, "2025-11-18 11:28:00 UTC");
    }

    #[test]
    fn hostile_text_is_no_path_and_no_link() {
        assert_eq!(segment("../<x>"), "%2E%2E%2F%3Cx%3E");
        assert_eq!(link(Some(&"javascript:alert(1)".to_owned())), None);
    }
}
