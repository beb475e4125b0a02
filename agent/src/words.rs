//! What is said to people, in English and in French. Nothing is decided here.

use tocsin_proto::{
    catalogue::Catalogue,
    human::HumanSuspicion,
    id::Id,
    implicate::Layer,
    incident::{Factor, Incident, Phase, Scope},
    limits::{TARGET_HOUR_MAX, TARGET_MINUTE_MAX},
    observation::Family,
    time::Timestamp,
};

use crate::engine::{
    courtesy::{ASKED_DAY_ALL_MAX, ASKED_DAY_MAX, MINUTE_MAX, Refusal},
    diagnose::{Cause, Diagnosis, Why, Works},
};

/// A language that is spoken here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Language {
    /// English.
    #[default]
    En,
    /// French.
    Fr,
}

impl Language {
    /// By what the system is set to: the first of `LC_ALL`, `LC_MESSAGES` and `LANG` that is not empty (POSIX,
    /// Base Definitions 8.2).
    #[must_use]
    pub fn of(variables: [Option<String>; 3]) -> Self {
        let set = variables.into_iter().flatten().find(|value| !value.is_empty());
        match set.is_some_and(|value| value.starts_with("fr")) {
            true => Self::Fr,
            false => Self::En,
        }
    }

    /// The one or the other.
    pub const fn say<'a>(self, en: &'a str, fr: &'a str) -> &'a str {
        match self {
            Self::En => en,
            Self::Fr => fr,
        }
    }

    /// The sentence of this language, of two that were made.
    #[must_use]
    pub fn both(self, en: String, fr: String) -> String {
        match self {
            Self::En => en,
            Self::Fr => fr,
        }
    }
}

/// What people say of a site, beside what was measured.
#[must_use]
pub fn people(language: Language, said: &HumanSuspicion, now: Timestamp) -> String {
    let HumanSuspicion { prefixes, networks, countries, .. } = said;
    let since = clock_time(said.since, now);
    language.both(
        format!(
            "People report that it does not work: {prefixes} connections in {networks} networks of {countries} countries within a \
             quarter of an hour, more than usual since {since}. That is hearsay; probes decide."
        ),
        format!(
            "Des gens signalent que cela ne marche pas\u{a0}: {prefixes} connexions dans {networks} réseaux de {countries} pays en un \
             quart d’heure, plus que d’habitude depuis {since}. Ce sont des dires\u{a0}; les sondes tranchent."
        ),
    )
}

/// What there is to say of one site.
#[derive(Debug)]
pub struct Answer<'a> {
    /// In which language.
    pub language: Language,
    /// The site, as people call it.
    pub site: &'a str,
    /// What it comes to.
    pub diagnosis: &'a Diagnosis,
    /// The gateway, where there is one.
    pub gateway: Option<std::net::Ipv4Addr>,
    /// The own resolver, where it is known.
    pub resolver: Option<std::net::IpAddr>,
    /// The catalogue, for names.
    pub catalogue: &'a Catalogue,
    /// Now, by our own clock.
    pub now: Timestamp,
    /// How old the newest news is, ms, where it does not tell of now.
    pub old_ms: Option<u64>,
}

/// `14:03 UTC`, with the day where it is not this one.
#[must_use]
pub fn clock_time(at: Timestamp, now: Timestamp) -> String {
    let (at, now) = (at.to_string(), now.to_string());
    let (day, time) = (at.get(..10).unwrap_or_default(), at.get(11..16).unwrap_or_default());
    match now.starts_with(day) {
        true => format!("{time} UTC"),
        false => format!("{day} {time} UTC"),
    }
}

/// `3 min`, `2 h 05`, `4 d`.
#[must_use]
pub fn length(language: Language, ms: u64) -> String {
    let minutes = ms / 60_000;
    match (ms, minutes) {
        (..60_000, _) => format!("{} s", ms / 1_000),
        (_, ..60) => format!("{minutes} min"),
        (_, ..2_880) => format!("{} h {:02}", minutes / 60, minutes % 60),
        _ => format!("{} {}", minutes / 1_440, language.say("d", "j")),
    }
}

/// A role, as people may have heard of it.
#[must_use]
pub const fn role(language: Language, layer: Layer) -> &'static str {
    let (en, fr) = match layer {
        Layer::Dns => ("names (DNS)", "noms (DNS)"),
        Layer::Edge => ("edge network (CDN)", "réseau de façade (CDN)"),
        Layer::Hosting => ("hosting", "hébergement"),
        Layer::Aux => ("page dependency", "dépendance des pages"),
        Layer::Site => ("site", "site"),
        Layer::Issuer => ("certificate authority", "autorité de certification"),
        Layer::Tld => ("top-level domain", "domaine de premier niveau"),
        Layer::Resolver => ("resolver", "résolveur"),
    };
    match language {
        Language::En => en,
        Language::Fr => fr,
    }
}

/// A phase.
#[must_use]
pub const fn phase(language: Language, phase: Phase) -> &'static str {
    match (language, phase) {
        (Language::En, _) => phase.name(),
        (Language::Fr, Phase::Suspected) => "soupçonné",
        (Language::Fr, Phase::Confirmed) => "confirmé",
        (Language::Fr, Phase::Recovering) => "en rétablissement",
        (Language::Fr, Phase::Resolved) => "résolu",
        (Language::Fr, Phase::Retracted) => "retiré",
    }
}

/// What an incident is of.
#[must_use]
pub fn culprit(language: Language, incident: &Incident, catalogue: &Catalogue) -> String {
    let provider = |id: &Id| {
        catalogue.providers().get(id).map_or_else(|| id.to_string(), |of| of.name.clone())
    };
    match &incident.factor {
        Factor::Provider { provider: id, role: Layer::Tld } => {
            format!("{} .{id}", language.say("the domain", "le domaine"))
        }
        Factor::Provider { provider: id, role: of } => {
            format!("{}, {}", provider(id), role(language, *of))
        }
        Factor::Site { target } => {
            let of = catalogue.targets().values().find(|of| of.id == *target);
            of.map_or_else(|| target.to_string(), |target| target.name.clone())
        }
        Factor::Network { asn } => format!("{} AS{asn}", language.say("network", "réseau")),
        Factor::NetworkResolver { asn } => {
            format!("{} AS{asn}", language.say("the resolver of network", "le résolveur du réseau"))
        }
        Factor::Country { country } => format!("{} {country}", language.say("country", "pays")),
        Factor::Zone { zone } => format!("{} {zone}", language.say("zone", "zone")),
        Factor::Resolver { resolver } => {
            format!("{} {resolver}", language.say("public resolver", "résolveur public"))
        }
        Factor::ProbeCore { version } => {
            format!("{} {version}", language.say("our own probe core", "notre propre sonde"))
        }
    }
}

/// Why a site was not looked at.
#[must_use]
pub fn refusal(language: Language, refusal: &Refusal) -> String {
    if language == Language::En {
        return refusal.to_string();
    }
    match refusal {
        Refusal::TargetMinute => {
            format!("ce site a été regardé {TARGET_MINUTE_MAX} fois dans la dernière minute")
        }
        Refusal::TargetHour => {
            format!("ce site a été regardé {TARGET_HOUR_MAX} fois dans la dernière heure")
        }
        Refusal::TargetScheduled => "ce site a eu son essai régulier dans la dernière minute".to_owned(),
        Refusal::Minute => format!("{MINUTE_MAX} essais ont commencé dans la dernière minute"),
        Refusal::AskedDay => format!(
            "{ASKED_DAY_MAX} essais ont été faits pour des collecteurs dans la journée, ou {ASKED_DAY_ALL_MAX} avec ceux \
             sur les incidents"
        ),
        Refusal::RetryAfter(until) => {
            format!("le site a demandé qu’on ne lui demande rien jusqu’au {until}")
        }
        Refusal::Budget => {
            "le budget d’octets est épuisé pour l’instant : augmentez day_bytes_max pour en permettre plus"
                .to_owned()
        }
    }
}

/// For whom.
#[must_use]
pub fn reach(language: Language, incident: &Incident) -> String {
    match &incident.scope {
        Scope::Global => language.say("everywhere", "partout").to_owned(),
        Scope::Site => language.say("for everybody", "pour tous").to_owned(),
        Scope::Observers => language.say("for those in it", "pour ceux qui y sont").to_owned(),
        Scope::Family { family } => {
            format!("{} {}", language.say("everywhere, over", "partout, en"), family_name(*family))
        }
        Scope::Regional { zones, countries } => {
            let names: Vec<String> = zones
                .iter()
                .map(ToString::to_string)
                .chain(countries.iter().map(ToString::to_string))
                .collect();
            format!("{} {}", language.say("in", "en"), names.join(", "))
        }
    }
}

/// `IPv4` or `IPv6`.
#[must_use]
pub const fn family_name(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}

/// In how many networks of how many countries it is seen, as far as they are named.
#[must_use]
pub fn spread(language: Language, incident: &Incident) -> String {
    let networks = incident.networks.iter().filter(|of| of.failing > 0).count();
    let countries = incident.regions.iter().filter(|of| of.failing > 0).count();
    let observers: u32 = incident.regions.iter().map(|of| of.failing).sum();
    let all: u32 = incident.regions.iter().map(|of| of.observed).sum();
    let places = match (networks, countries) {
        (_, 0) => return String::new(),
        (0, countries) => format!("{countries} {}", language.say("countries", "pays")),
        (networks, countries) => format!(
            "{networks} {} {countries} {}",
            language.say("networks of", "réseaux de"),
            language.say("countries", "pays")
        ),
    };
    let seen = language.say("seen by", "vu par");
    let of = language.say("of", "sur");
    let observer = language.say("observers, in", "observateurs, dans");
    format!("{seen} {observers} {of} {all} {observer} {places}")
}

impl Answer<'_> {
    /// The answer in one sentence, then what else there is to say, a line each.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let mut lines = match self.language {
            Language::En => self.english(),
            Language::Fr => self.french(),
        };
        let told = matches!(self.diagnosis.cause, Cause::Incident(_) | Cause::Suspicion(_));
        if let Some(age) = self.old_ms.filter(|_| told) {
            let say = self.language.say(
                "No collector was reached. This is as it was so long ago:",
                "Aucun collecteur n’a été joint. Voici ce qui était connu il y a",
            );
            lines.push(format!("{say} {}.", length(self.language, age)));
        }
        lines
    }

    fn about(&self, incident: &Incident) -> String {
        let (language, now) = (self.language, self.now);
        let spread = spread(language, incident);
        let since = clock_time(incident.started_at, now);
        let ago = length(language, now.since_ms(incident.started_at));
        let text = format!(
            "{}: {} {since} ({ago}), {}",
            phase(language, incident.phase),
            language.say("since", "depuis"),
            reach(language, incident)
        );
        let text = if spread.is_empty() { text } else { format!("{text}; {spread}") };
        format!("{text} ({})", incident.id)
    }

    fn resolver_name(&self) -> String {
        self.resolver.map_or(String::new(), |ip| format!(" ({ip})"))
    }

    fn english(&self) -> Vec<String> {
        let Self { site, diagnosis: Diagnosis { works, cause }, catalogue, .. } = self;
        let culprit = |incident| culprit(Language::En, incident, catalogue);
        let line = |text: String| vec![text];
        let with = |text: String, more: &str| vec![text, more.to_owned()];
        match cause {
            Cause::Nothing => line(format!("{site} works from here.")),
            Cause::Link => with(
                "It is you: this machine has no way out, there is no default route.".into(),
                "Look at the cable, the Wi-Fi or the flight mode.",
            ),
            Cause::Gateway => with(
                format!(
                    "It is your own network: the router{} does not answer.",
                    self.gateway.map_or(String::new(), |ip| format!(" ({ip})"))
                ),
                "Look whether it is on, and whether this machine is still connected to it.",
            ),
            Cause::Portal => with(
                "It is the network you are in: something answers in the place of sites, as a login page does."
                    .into(),
                "Open a browser on a plain address such as http://example.com and log in.",
            ),
            Cause::Resolver { this_name_alone: false } => with(
                format!(
                    "It is your DNS: the resolver of this machine{} does not resolve names.",
                    self.resolver_name()
                ),
                "The rest of the line works. Restart the router, or set another resolver.",
            ),
            Cause::Resolver { this_name_alone: true } => with(
                format!(
                    "It is your DNS: the resolver of this machine{} does not resolve {site}; others do.",
                    self.resolver_name()
                ),
                "It may block this name, or have failed for it alone.",
            ),
            Cause::Clock => with(
                "It is your clock: by it the certificates of sites have run out.".into(),
                "Set the date and time of this machine.",
            ),
            Cause::Line { tunnel: true } => with(
                format!("It is your connection: nothing answers, and {site} is no exception."),
                "Your way out is a tunnel, such as a VPN: switch it off, and try again.",
            ),
            Cause::Line { tunnel: false } => with(
                format!("It is your connection: nothing answers, and {site} is no exception."),
                match self.gateway {
                    Some(_) => "Behind your router nothing comes back: restart it, then ask your provider.",
                    None => "Nothing comes back from beyond this machine's own network: ask your provider.",
                },
            ),
            Cause::Family(family) => with(
                format!(
                    "It is your {}: nothing answers over it. Over the other {site} works.",
                    family_name(*family)
                ),
                "Programs that try it first are slow or fail. Ask your provider, or switch it off.",
            ),
            Cause::Incident(incident) => {
                let about = self.about(incident);
                let culprit = culprit(incident);
                match (&incident.factor, works) {
                    (_, Works::Yes) => vec![
                        format!("{site} works from here, but others have trouble: {culprit}."),
                        about,
                    ],
                    (Factor::Site { .. }, _) => vec![
                        format!("It is {site} itself, not you."),
                        about,
                        "Nothing on your side will help: it is not your cookies, nor your browser.".into(),
                    ],
                    (Factor::Provider { .. }, _) => vec![
                        format!("It is not you, and not {site} alone: {culprit}."),
                        about,
                        format!("{site} stands behind it. Clearing cookies will not help, nor will restarting."),
                    ],
                    _ => vec![
                        format!("It is not only you: {culprit}."),
                        about,
                        "Others who are connected as you are have the same trouble.".into(),
                    ],
                }
            }
            Cause::Suspicion(incident) => vec![
                format!("{site} does not work from here, and others may see it too: {}.", culprit(incident)),
                self.about(incident),
                "It is not confirmed. Ask again in a minute.".into(),
            ],
            Cause::OthersToo(counts) => vec![
                format!("It is not only you: {site} fails for others too."),
                format!(
                    "{} of {} looks at it failed within five minutes, in {} regions; nobody has said why yet.",
                    counts.failing, counts.observed, counts.regions
                ),
            ],
            Cause::HereToo(there) => vec![
                format!("It is not only you: in {} others cannot reach {site} either; elsewhere it works.", there.region),
                format!(
                    "{} of {} looks at it from there failed within five minutes, from {} networks: it is blocked or broken on the way.",
                    there.failing, there.observed, there.networks
                ),
            ],
            Cause::OnlyYou => with(
                format!("It is only you: others reach {site} now, and your line works."),
                "It may be blocked on your way or for your address. Try another network.",
            ),
            Cause::Unknown(why) => {
                let first = match works {
                    Works::NotOver(family) => format!(
                        "{site} works from here, but not over {}; whose fault that is cannot be told.",
                        family_name(*family)
                    ),
                    _ => format!("{site} does not work from here; whose fault that is cannot be told."),
                };
                with(first, unknown(Language::En, *why))
            }
        }
    }

    fn french(&self) -> Vec<String> {
        let Self { site, diagnosis: Diagnosis { works, cause }, catalogue, .. } = self;
        let culprit = |incident| culprit(Language::Fr, incident, catalogue);
        let line = |text: String| vec![text];
        let with = |text: String, more: &str| vec![text, more.to_owned()];
        match cause {
            Cause::Nothing => line(format!("{site} fonctionne d’ici.")),
            Cause::Link => with(
                "C’est chez vous : cette machine n’a aucune sortie, il n’y a pas de route par défaut.".into(),
                "Voyez le câble, le Wi-Fi ou le mode avion.",
            ),
            Cause::Gateway => with(
                format!(
                    "C’est votre réseau : la box ou le routeur{} ne répond pas.",
                    self.gateway.map_or(String::new(), |ip| format!(" ({ip})"))
                ),
                "Voyez s’il est allumé, et si cette machine y est encore reliée.",
            ),
            Cause::Portal => with(
                "C’est le réseau où vous êtes : quelque chose répond à la place des sites, comme le fait une page de connexion."
                    .into(),
                "Ouvrez un navigateur sur une adresse simple, comme http://example.com, et connectez-vous.",
            ),
            Cause::Resolver { this_name_alone: false } => with(
                format!(
                    "C’est votre DNS : le résolveur de cette machine{} ne résout aucun nom.",
                    self.resolver_name()
                ),
                "Le reste de la ligne marche. Redémarrez la box, ou choisissez un autre résolveur.",
            ),
            Cause::Resolver { this_name_alone: true } => with(
                format!(
                    "C’est votre DNS : le résolveur de cette machine{} ne résout pas {site} ; d’autres le résolvent.",
                    self.resolver_name()
                ),
                "Il bloque peut-être ce nom, ou n’a échoué que pour lui.",
            ),
            Cause::Clock => with(
                "C’est votre horloge : d’après elle, les certificats des sites ont expiré.".into(),
                "Réglez la date et l’heure de cette machine.",
            ),
            Cause::Line { tunnel: true } => with(
                format!("C’est votre connexion : rien ne répond, {site} comme le reste."),
                "Votre sortie est un tunnel, comme un VPN : coupez-le, et réessayez.",
            ),
            Cause::Line { tunnel: false } => with(
                format!("C’est votre connexion : rien ne répond, {site} comme le reste."),
                "Derrière votre box rien ne revient : redémarrez-la, puis voyez avec votre opérateur.",
            ),
            Cause::Family(family) => with(
                format!(
                    "C’est votre {} : rien n’y répond. Par l’autre, {site} fonctionne.",
                    family_name(*family)
                ),
                "Les programmes qui l’essaient d’abord sont lents ou échouent. Voyez avec votre opérateur, ou coupez-le.",
            ),
            Cause::Incident(incident) => {
                let about = self.about(incident);
                let culprit = culprit(incident);
                match (&incident.factor, works) {
                    (_, Works::Yes) => vec![
                        format!("{site} fonctionne d’ici, mais d’autres ont des ennuis : {culprit}."),
                        about,
                    ],
                    (Factor::Site { .. }, _) => vec![
                        format!("C’est {site}, pas vous."),
                        about,
                        "Rien de votre côté n’y fera : ni vos cookies ni votre navigateur n’y sont pour rien.".into(),
                    ],
                    (Factor::Provider { .. }, _) => vec![
                        format!("Ce n’est pas vous, ni {site} seul : {culprit}."),
                        about,
                        format!("{site} est derrière. Effacer les cookies n’y fera rien, redémarrer non plus."),
                    ],
                    _ => vec![
                        format!("Ce n’est pas seulement vous : {culprit}."),
                        about,
                        "D’autres, connectés comme vous, ont les mêmes ennuis.".into(),
                    ],
                }
            }
            Cause::Suspicion(incident) => vec![
                format!(
                    "{site} ne fonctionne pas d’ici, et d’autres le voient peut-être aussi : {}.",
                    culprit(incident)
                ),
                self.about(incident),
                "Ce n’est pas confirmé. Redemandez dans une minute.".into(),
            ],
            Cause::OthersToo(counts) => vec![
                format!("Ce n’est pas seulement vous : {site} échoue chez d’autres aussi."),
                format!(
                    "{} essais sur {} ont échoué en cinq minutes, dans {} régions ; personne n’a encore dit pourquoi.",
                    counts.failing, counts.observed, counts.regions
                ),
            ],
            Cause::HereToo(there) => vec![
                format!("Ce n’est pas seulement vous : en {}, d’autres ne joignent pas {site} non plus ; ailleurs il marche.", there.region),
                format!(
                    "{} essais sur {} y ont échoué en cinq minutes, depuis {} réseaux : il est bloqué ou coupé en chemin.",
                    there.failing, there.observed, there.networks
                ),
            ],
            Cause::OnlyYou => with(
                format!("C’est seulement vous : d’autres joignent {site} maintenant, et votre ligne marche."),
                "Il est peut-être bloqué sur votre chemin ou pour votre adresse. Essayez un autre réseau.",
            ),
            Cause::Unknown(why) => {
                let first = match works {
                    Works::NotOver(family) => format!(
                        "{site} fonctionne d’ici, mais pas en {} ; on ne peut pas dire à qui en est la faute.",
                        family_name(*family)
                    ),
                    _ => format!("{site} ne fonctionne pas d’ici ; on ne peut pas dire à qui en est la faute."),
                };
                with(first, unknown(Language::Fr, *why))
            }
        }
    }
}

/// Why it cannot be told.
#[must_use]
pub const fn unknown(language: Language, why: Why) -> &'static str {
    match (language, why) {
        (Language::En, Why::NoCollector) => {
            "No collector is set, so nobody knows what others see. Add a tocsin:// line to collectors."
        }
        (Language::Fr, Why::NoCollector) => {
            "Aucun collecteur n’est indiqué : on ne sait pas ce que voient les autres. Ajoutez une ligne tocsin:// à collectors."
        }
        (Language::En, Why::NoNews) => {
            "No collector was reached, and what is kept of them is too old to tell of now."
        }
        (Language::Fr, Why::NoNews) => {
            "Aucun collecteur n’a été joint, et ce qu’on en garde est trop vieux pour parler de maintenant."
        }
        (Language::En, Why::TooFew) => "Too few have looked at it lately to say what others see.",
        (Language::Fr, Why::TooFew) => {
            "Trop peu l’ont regardé ces derniers temps pour dire ce que voient les autres."
        }
        (Language::En, Why::Unlisted) => "It is in no catalogue: nobody else looks at it.",
        (Language::Fr, Why::Unlisted) => {
            "Il n’est dans aucun catalogue : personne d’autre ne le regarde."
        }
        (Language::En, Why::OneFamily) => {
            "Over the other family it works; over which one others reach it is not known."
        }
        (Language::Fr, Why::OneFamily) => {
            "Par l’autre, cela fonctionne ; on ne sait pas par laquelle d’autres le joignent."
        }
        (Language::En, Why::Unsteady) => {
            "Your own line is unsteady: of sites that have nothing to do with it most do not answer either."
        }
        (Language::Fr, Why::Unsteady) => {
            "Votre propre ligne est instable : la plupart des sites qui n’ont rien à voir ne répondent pas non plus."
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_language_is_the_systems() {
        let of =
            |a: &str, b: &str, c: &str| Language::of([a, b, c].map(|text| Some(text.to_owned())));
        assert_eq!(of("", "", "fr_FR.UTF-8"), Language::Fr);
        assert_eq!(of("C", "", "fr_FR.UTF-8"), Language::En);
        assert_eq!(of("", "fr_CA", "en_US"), Language::Fr);
        assert_eq!(Language::of([None, None, None]), Language::En);
    }

    #[test]
    fn refusals_are_in_the_readers_language() {
        use Refusal::{
            AskedDay, Budget, Minute, RetryAfter, TargetHour, TargetMinute, TargetScheduled,
        };
        let at = Timestamp::from_s(1_800_000_000);
        for of in
            [TargetMinute, TargetHour, TargetScheduled, Minute, AskedDay, RetryAfter(at), Budget]
        {
            assert_eq!(refusal(Language::En, &of), of.to_string());
            let french = refusal(Language::Fr, &of);
            let digits = |text: &str| text.chars().filter(char::is_ascii_digit).collect::<String>();
            assert!(
                french != of.to_string() && digits(&french) == digits(&of.to_string()),
                "{french}"
            );
        }
    }

    #[test]
    fn times_are_short() {
        let now = Timestamp::from_s(1_800_000_000);
        assert_eq!(clock_time(now, now).len(), "08:00 UTC".len());
        assert!(clock_time(now.minus_ms(86_400_000), now).starts_with("20"));
        let of = |s: u64| length(Language::Fr, s * 1_000);
        assert_eq!([of(59), of(60), of(3_660), of(3 * 86_400)], ["59 s", "1 min", "1 h 01", "3 j"]);
    }
}
