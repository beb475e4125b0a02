//! Every number the detector uses, in one place. Defaults are those measured in simulation;
//! `VERSION` rises when one of them changes, and stands with every incident.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tocsin_proto::{id::ObserverId, incident::Confidence, limits::ASK_TARGETS_MAX};

use super::fixed::{ONE, Ppm, scale, share};

/// Version of the defaults below.
pub const VERSION: u16 = 17;
/// Since when they are these.
pub const DATED: &str = "2026-12-01";

/// Evaluation period, ms: shares, conditions and the state machine. Part of the log's meaning: fixed.
pub const TICK_MS: u64 = 5_000;
/// Attribution and site round, ms; also the width of a window bucket.
pub const ROUND_MS: u64 = 10_000;
/// Buckets in a target's window: 120 s.
pub const WINDOW_BUCKETS: usize = 12;
/// Probes an observer remembers as its own controls.
pub const RING: usize = 24;
/// Panels are looked at this often, ms.
pub const PANEL_TICK_MS: u64 = 1_000;

/// A factor, in millionths.
pub type Times = i64;

/// One number of the detector, for who reads its verdicts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Parameter {
    /// Its name in the configuration.
    pub name: &'static str,
    /// What it belongs to.
    pub section: &'static str,
    /// Its value, in its unit.
    pub value: i64,
    /// What it is where nobody sets it.
    pub default: i64,
    /// `ms`, `share`, `times` or `votes` (in millionths), `bits` (1/65536), `probes` of an agent
    /// (millionths), `h`, `s`, or nothing for a count.
    pub unit: &'static str,
    /// What it does.
    pub meaning: String,
    /// What its default is from.
    pub source: &'static str,
    /// What happens when it is raised; lowered, the contrary.
    pub raised: &'static str,
}

/// Why parameters are refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParamsError {
    /// A value that means nothing.
    #[error("detector.parameters.{name} is {value}; it must be {needed}")]
    Range {
        /// Of which.
        name: &'static str,
        /// What was given.
        value: i64,
        /// What would do.
        needed: &'static str,
    },
    /// No number has that name.
    #[error("{0:?} is no number of the detector; /api/v1/parameters lists them")]
    Unknown(String),
    /// Two that contradict each other.
    #[error("detector.parameters: {smaller} must be below {larger}")]
    Order {
        /// The one.
        smaller: &'static str,
        /// The other.
        larger: &'static str,
    },
}

/// Defines the numbers, their defaults, and the table of them that travels with the feed: what is not in
/// it is not a number of the detector.
macro_rules! parameters {
    ($(
        $section:literal: $source:literal;
        $($(#[doc = $doc:literal])+ $name:ident: $type:ty = $value:expr, $raised:literal,)+
    )+) => {
        /// The numbers of the detector, each of which an operator may set (`detector.parameters` in the
        /// configuration). Who sets one sees what would have been different with `replay`.
        #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct Params {
            $($($(#[doc = $doc])+ pub $name: $type,)+)+
        }

        impl Params {
            /// Those that were measured.
            pub const DEFAULT: Self = Self { $($($name: $value,)+)+ };

            /// Sets one by its name.
            ///
            /// # Errors
            /// When there is none of that name, or its type cannot hold the value.
            pub fn set(&mut self, name: &str, value: i64) -> Result<(), ParamsError> {
                match name {
                    $($(stringify!($name) => {
                        self.$name = value.try_into().map_err(|_| ParamsError::Range {
                            name: stringify!($name),
                            value,
                            needed: concat!("a number of the type ", stringify!($type)),
                        })?;
                    })+)+
                    _ => return Err(ParamsError::Unknown(name.to_owned())),
                }
                Ok(())
            }

            /// Every number, in the order of the source.
            #[must_use]
            pub fn table(&self) -> Vec<Parameter> {
                vec![$($(Parameter {
                    name: stringify!($name),
                    section: $section,
                    value: self.$name as i64,
                    default: Self::DEFAULT.$name as i64,
                    unit: unit(stringify!($name), stringify!($type), stringify!($value)),
                    meaning: [$($doc),+].map(str::trim).join(" "),
                    source: $source,
                    raised: $raised,
                }),+),+]
            }
        }
    };
}

impl Default for Params {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl Params {
    /// Probes of a member of a panel in a round, at most.
    #[must_use]
    pub const fn panel_probes(&self) -> usize {
        self.panel_sites_many + self.panel_controls
    }

    /// Sites that must be hit, of so many.
    #[must_use]
    pub fn elevated_of(&self, sites: usize) -> usize {
        part_of(sites, self.elevated_share).max(self.elevated_min)
    }

    /// Whether so many sites that are down by themselves are fewer than would have to be hit of so many: then they are no
    /// outage of what is behind them.
    #[must_use]
    pub fn are_few(&self, down: usize, sites: usize) -> bool {
        down < self.elevated_of(sites).min(sites)
    }

    /// Zones that must see a site fail, of so many with enough votes.
    #[must_use]
    pub fn site_zones(&self, zones: usize) -> usize {
        part_of(zones, self.site_zones_share).max(self.zones_min)
    }

    /// Flags from which another suspect is seen beside one with so many.
    #[must_use]
    pub fn beside_of(&self, flags: u32) -> u32 {
        u32::try_from(part_of(flags as usize, self.beside_share)).unwrap_or(u32::MAX).max(2)
    }

    /// Whether a rate is far above the usual one.
    #[must_use]
    pub const fn stands_out(&self, rate: Ppm, usual: Ppm) -> bool {
        rate >= scale(usual, self.contrast_times)
            || (rate > ONE / 2 && rate > scale(usual, self.contrast_times_high))
    }

    /// Whether so many bad controls of so many let a member's line pass.
    #[must_use]
    pub fn is_line_fine(&self, bad: usize, controls: usize) -> bool {
        share(bad as i64, controls as i64) <= self.panel_controls_bad
    }

    /// How sure a reader may be: of so many prefixes, and the share that sees it (of what is overheard, in
    /// the zone that sees least of it).
    #[must_use]
    pub const fn confidence(&self, prefixes: u32, share: Ppm) -> Confidence {
        if prefixes < self.confidence_prefixes {
            Confidence::Low
        } else if share >= self.confidence_share {
            Confidence::High
        } else {
            Confidence::Medium
        }
    }

    /// Whether they mean something: shares are shares, nothing is zero, what must be below another is.
    ///
    /// # Errors
    /// With the first that does not.
    pub fn check(&self) -> Result<(), ParamsError> {
        for Parameter { name, value, unit, .. } in self.table() {
            let (good, needed) = match unit {
                "share" => ((1..=ONE).contains(&value), "a share in millionths, 1 to 1,000,000"),
                "ms" => ((1..=31_536_000_000).contains(&value), "1 ms to a year"),
                _ => ((1..=1 << 40).contains(&value), "positive"),
            };
            if !good {
                return Err(ParamsError::Range { name, value, needed });
            }
        }
        // What would not fit where it is counted.
        let limits = [
            (i64::from(self.asked_doublings), 16, "asked_doublings", "1 to 16"),
            (i64::from(self.strikes_max), 100, "strikes_max", "1 to 100"),
            (i64::from(self.looks_turn), 10_000, "looks_turn", "1 to 10,000"),
            (self.late_wait_ms.cast_signed(), 2_500_000, "late_wait_ms", "1 to 2,500,000 ms"),
            (self.seen_max_ms.cast_signed(), 32_400_000, "seen_max_ms", "at most nine hours"),
            (self.picks_max as i64, 16, "picks_max", "1 to 16"),
        ];
        for (value, most, name, needed) in limits {
            if value > most {
                return Err(ParamsError::Range { name, value, needed });
            }
        }
        if self.panel_probes() > ASK_TARGETS_MAX {
            let value = self.panel_sites_many as i64;
            let needed =
                "at most 16 together with panel_controls, as many as can be asked for at once";
            return Err(ParamsError::Range { name: "panel_sites_many", value, needed });
        }
        let orders = [
            (self.clear, self.release, "clear", "release"),
            (self.release, self.confirm, "release", "confirm"),
            (self.candidate, self.confirm, "candidate", "confirm"),
            (
                self.panel_sites as i64 - 1,
                self.panel_sites_many as i64,
                "panel_sites",
                "panel_sites_many",
            ),
            (self.site_up, self.site_down, "site_up", "site_down"),
            (self.cusum_flag.into(), self.cusum_cap.into(), "cusum_flag", "cusum_cap"),
            (self.online_ms as i64, self.forget_ms as i64, "online_ms", "forget_ms"),
            (self.seen_min_ms as i64, self.seen_max_ms as i64, "seen_min_ms", "seen_max_ms"),
            (
                self.panel_backoff_ms as i64,
                self.panel_backoff_max_ms as i64,
                "panel_backoff_ms",
                "panel_backoff_max_ms",
            ),
            (
                self.panel_backoff_ms as i64,
                self.look_rest_max_ms as i64,
                "panel_backoff_ms",
                "look_rest_max_ms",
            ),
            (self.strike_ms as i64, 86_400_001, "strike_ms", "a day"),
            (self.line_cut.into(), self.line_cap.into(), "line_cut", "line_cap"),
        ];
        for (small, large, smaller, larger) in orders {
            if small >= large {
                return Err(ParamsError::Order { smaller, larger });
            }
        }
        Ok(())
    }

    /// For time that runs `by` to `to` as fast: what goes by people and their days, and not by looks, is made so
    /// much shorter, and never shorter than a window.
    pub fn compress(&mut self, by: u64, to: u64) {
        for (ms, least) in [
            (&mut self.recover_ms, 120_000),
            (&mut self.resolve_ms, 120_000),
            (&mut self.resolve_held_ms, 240_000),
            (&mut self.retract_ms, 60_000),
            (&mut self.flap_ms, 60_000),
            (&mut self.reopen_ms, 240_000),
            (&mut self.unseen_ms, 1_800_000),
            (&mut self.merge_ms, 120_000),
            (&mut self.lead_ms, 120_000),
            (&mut self.part_of_ms, 240_000),
            (&mut self.site_resolve_ms, 120_000),
            (&mut self.slow_share_ms, 60_000),
            (&mut self.held_share_ms, 120_000),
            (&mut self.usual_online_ms, 600_000),
            (&mut self.slow_ms, 3_600_000),
            (&mut self.baseline_ms, 1_200_000),
            (&mut self.established_ms, 3_600_000),
        ] {
            *ms = (*ms * to / by.max(1)).clamp(least.min(*ms), *ms);
        }
    }

    /// Those that are not as measured, in words.
    #[must_use]
    pub fn differences(&self) -> Vec<String> {
        let table = self.table().into_iter();
        table
            .filter(|p| p.value != p.default)
            .map(|p| format!("{} is {} instead of {}", p.name, p.value, p.default))
            .collect()
    }
}

/// A part of some things, in whole ones, rounded up.
fn part_of(things: usize, part: Ppm) -> usize {
    usize::try_from((scale(things as i64 * ONE, part) + ONE - 1) / ONE).unwrap_or(usize::MAX)
}

/// The unit of a number, from how it is written.
fn unit(name: &str, of: &str, value: &str) -> &'static str {
    match of {
        _ if name.ends_with("_ms") => "ms",
        _ if name.ends_with("_q16") => "bits",
        _ if name.ends_with("_day") || name.ends_with("_burst") => "probes",
        "Ppm" => "share",
        "Times" => "times",
        _ if value.contains("ONE") => "votes",
        _ => "",
    }
}

parameters! {
"Observers":
    "a cumulative sum (Page 1954) whose step is the log-likelihood ratio of a failure rate of 24 % to one of 1 %; the rest from simulation";
/// CUSUM step of a failure: ln(0.24/0.01) over ln(0.99/0.76) is 12.
cusum_up: u8 = 12, "flags come after fewer failures, and more of them are chance",
/// Step of a failure of unknown making.
cusum_half: u8 = 6, "failures that could be the site's as well count for more",
/// An observer flags at or above this: two failures of different sites.
cusum_flag: u8 = 18, "flags need more failures: later, and fewer by chance",
/// The sum is clipped here, so that it forgets.
cusum_cap: u8 = 36, "a flag outlives its outage by more answers",
/// A target that an observer looks at again within this time counts once in the windows, ms.
look_again_ms: u64 = 30_000, "who looks often at one site has fewer votes on it",
/// Scheduled looks of an observer that the windows take in each such time: those of some minutes may arrive at
/// once. A schedule that asks for more than a third of it a minute raises it.
looks_turn: u16 = 12, "who looks more often than the schedule asks has more votes in the windows",
/// Sites not behind the suspect that must be fine at an observer for it to be believed.
controls_min: usize = 3, "fewer observers can tell, and those better",
/// Failures over different edges in a row that silence an observer.
streak_max: u8 = 6, "a dead line is believed for longer",
/// An entity counts as seen for three of the observer's own touch periods, and at least this, ms.
seen_min_ms: u64 = 90_000, "an observer counts for longer after its last look; a change shows later",
/// What an observer's last probes no longer hold still counts for this long, ms: of who looks more often than
/// they reach.
lost_ms: u64 = 90_000, "observers that look at very many sites can tell of more, and are told of changes later",
/// An entity counts as seen for at most this long, ms.
seen_max_ms: u64 = 900_000, "slow observers count for longer after their last look",
/// An observer that was not heard for this long is offline, ms.
online_ms: u64 = 180_000, "who fell silent weighs for longer; a group that went dark shows later",
/// An observer that was not heard for this long has its row dropped, ms.
forget_ms: u64 = 3_600_000, "memory is kept for longer",
/// Weights are recomputed at least this often, ms.
weigh_ms: u64 = 600_000, "less work; a change of the crowd counts later",
/// Time constant of an observer's habits (`chron_max`, `sick_max`), ms.
slow_ms: u64 = 86_400_000, "habits form and fade more slowly",
/// Tenure is at most so many times the time for which an observer was heard, in millionths: three times, so that
/// a machine that is on for eight hours a day has all of it.
presence_times: Times = 3 * ONE, "who is seldom there has a vote sooner, and so has who keeps many keys in reserve",
/// An observer that flagged an entity for this share of a day abstains on it.
chron_max: Ppm = 500_000, "observers with a broken path to one provider keep their vote on it for longer",
/// An observer with this failure ratio over a day abstains on everything.
sick_max: Ppm = 200_000, "observers that mostly fail keep their vote",
"Votes":
    "caps by simulation against liars who are spread or crowded";
/// Most of all weight that one network has.
network_cap_share: Ppm = 20_000, "one network's users weigh more, and so does who controls it",
/// A network has at least so many votes, whatever its share.
network_cap_min: i64 = 3 * ONE, "small crowds hang more on single networks",
/// Most of the weight that one zone has in the share of the world.
zone_cap: Ppm = 250_000, "large zones weigh more",
/// Votes a zone needs to be evaluated by itself; thinner ones are taken together.
zone_min: i64 = 4 * ONE, "fewer zones stand for themselves",
"Conditions of a verdict":
    "majorities by definition; the others by simulation, against liars, divided outages and chance";
/// A zone above this share sees it.
zone_share: Ppm = 250_000, "fewer zones see it: outages of half of the world are missed",
/// Zones that must be evaluated, and that must see it.
zones_min: usize = 3, "small crowds confirm nothing",
/// Share of the evaluated zones that must see it; or of their weight, where half of them do.
zones_share: Ppm = 666_666, "liars who are crowded into zones need more of them; outages that some zones do not meet are missed",
/// Share of the votes that makes a suspicion of what is overheard.
suspect: Ppm = 100_000, "fewer and later suspicions",
/// Share of the votes from which attribution looks at a provider.
candidate: Ppm = 80_000, "fewer providers are looked at by attribution",
/// Share of the votes that confirms: a majority.
confirm: Ppm = 500_000, "later and fewer verdicts; liars need more",
/// Share that is enough where the world is divided (`divided_share`, `divided_weight`).
divided: Ppm = 360_000, "outages that part of the world does not meet are missed",
/// Where the world is divided: share of their votes with which the regions that have a majority of their
/// own see it.
divided_share: Ppm = 650_000, "the regions that see it must be clearer",
/// Share of the world's weight that those regions need, in more than half of the zones. Liars who are
/// spread have a majority in none.
divided_weight: Ppm = 360_000, "those regions must be more of the world",
/// Share of the weight online, or asked, that must be able to tell.
coverage: Ppm = 500_000, "verdicts wait for more who can tell; silence hides more",
/// Evaluations running for which the conditions must hold.
hold: u8 = 2, "verdicts come later by so many evaluations or rounds",
/// Each side of the probe-core versions, and of the resolvers, must see it at this part of the whole share.
strata_times: Ppm = 400_000, "releases and resolvers that do not see it hold a verdict back more often",
/// But never more than at this share.
strata_max: Ppm = 400_000, "the same, where most see it",
/// Share of observers that may see any suspect fail by their own lines.
stratum_background: Ppm = 100_000, "smaller outages need more votes outside the largest version",
/// Outside the largest stratum more must see it than that, by so many bits, 1/65536: 6.
stratum_bits_q16: i64 = 393_216, "verdicts wait for more votes outside the largest version",
/// A probe-core version that most run for this long is trusted by itself, ms.
established_ms: u64 = 86_400_000, "a new release is not believed by itself for longer",
/// Every zone must see it at this share for high confidence.
confidence_share: Ppm = 750_000, "fewer verdicts are called sure",
/// Prefixes below which confidence is low.
confidence_prefixes: u32 = 100, "small crowds are believed less",
"Regions":
    "the same conditions, within a zone or country";
/// Votes a zone or country needs for a regional verdict.
regional_min: i64 = 8 * ONE, "small countries have no incidents of their own",
/// Networks in it that it needs.
regional_networks: usize = 3, "countries with few networks have none",
/// Share of the networks, and of the votes, elsewhere that see it at least, for the tests against chance.
regional_background: Ppm = 50_000, "bad paths of many countries are less often taken for an outage of one",
/// Of a zone's other countries no more than that see it where it is told of the countries that do, and not of the zone.
regional_rest: Ppm = 400_000, "countries are told of, where it may be their zone",
/// A region must see it by so many bits more than `regional_background`, 1/65536: 12. Dozens of regions are looked at all the time, and what is seen in one
/// of them lasts for minutes.
regional_bits_q16: i64 = 786_432, "small countries are told of later; fewer are by chance",
/// Share of some zone from which its countries are looked at.
regional_look: Ppm = 50_000, "less work; small countries show later",
"Attribution":
    "greedy cover of failures by hit ratio, with tests against everybody else; by simulation over every provider of the catalogue";
/// Failure rate of any site by itself.
background: Ppm = 20_000, "less is taken for an outage",
/// Failure rate of its sites below which a provider is not named.
rate_floor: Ppm = 40_000, "small parts of a provider that fail go unnamed",
/// So many times the median of the other sites must a provider's fail, in millionths.
contrast_times: Times = 3 * ONE, "outages while much else fails go unnamed",
/// Or so many where they fail for more than half, in millionths.
contrast_times_high: Times = 2 * ONE, "the same, of great outages",
/// And so many times their mean, in millionths.
contrast_mean_times: Times = 9 * ONE / 5, "outages beside others go unnamed",
/// How much better its sites' failures must be explained by a suspect that fails at their rate than by one
/// that fails at everybody's, in bits, 1/65536: 12 against chance (1 in 4,000), and 6 more since some sixty
/// suspects are looked at. Where everything fails a little more, some suspect's few probes always stand out
/// by their mean alone.
contrast_bits_q16: i64 = 1_179_648, "verdicts of few looks come later",
/// Sites that a provider is not behind, from which its rate is compared with theirs.
rest_min: usize = 5, "the tests against the others are made later",
/// Rate of its own that a suspect needs whose sites are partly explained already.
nested_min: Ppm = 500_000, "what is nested in a culprit is named less often",
/// Share of a provider's sites that must be hit.
elevated_share: Ppm = 200_000, "a provider of many sites needs more of them",
/// Sites that must be hit, whatever their share.
elevated_min: usize = 3, "small providers go unnamed",
/// Failure rate from which a site may count as hit; else half of the provider's.
elevated_rate: Ppm = 50_000, "slight failures do not make a site hit",
/// Votes of failures that make a site count as hit.
elevated_votes: i64 = 5 * ONE / 2, "sites that are looked at seldom do not count",
/// Providers picked in one round at most.
picks_max: usize = 4, "more providers are named at once",
/// A pick counts as recent for this long, ms.
pick_recent_ms: u64 = 30_000, "a name stands for longer without new evidence",
/// Candidates within this share of the best hit ratio compete by likelihood.
hit_ratio_band: Ppm = 700_000, "more candidates compete by likelihood",
/// Time constant of a provider's usual failure rate, ms.
baseline_ms: u64 = 21_600_000, "what is usual for a provider follows more slowly",
/// A provider's usual failure rate is never taken above this.
baseline_max: Ppm = 50_000, "a provider may fail more before its recovery is doubted",
"Sites":
    "by simulation";
/// A site is down from this rate.
site_down: Ppm = 400_000, "sites that fail for part of the requests go unnoticed in the windows",
/// A site is up again below this rate, and looked at again above it.
site_up: Ppm = 150_000, "a site is called well earlier",
/// Votes that a site's window needs.
site_weight: i64 = 8 * ONE, "small crowds tell of sites later",
/// Votes that a zone needs to count for a site.
site_zone_weight: i64 = 5 * ONE / 2, "fewer zones count for a site",
/// Share of the zones with enough votes that must see a site fail.
site_zones_share: Ppm = 600_000, "a site must fail in more of the world",
/// Siblings' median rate from which a site is not alone.
site_siblings: Ppm = 100_000, "a site may be named beside siblings that fail too",
/// What others fail at is taken so many times, in millionths, before anything counts as more.
usual_times: Times = 3 * ONE / 2, "what stands out must do so more clearly",
/// A site that is up for this long is resolved, ms.
site_resolve_ms: u64 = 600_000, "site incidents end later",
/// Sites of one provider that began to fail within this long of each other went down together, ms.
together_ms: u64 = 900_000, "a provider is named by its sites more often, also by chance",
/// And so many bits from the part of all other sites that did, 1/65536: 12.
together_bits_q16: i64 = 786_432, "a provider is named by its sites less often, and hardly by chance",
/// A site that has been down by itself for this long is not asked about for its providers any more, ms:
/// three that fail at the same hour by three causes are no outage of what they share.
site_alone_ms: u64 = 600_000, "a site's own outage is held against its providers for longer",
/// So long after the end of a provider's incident a site that failed in it and still does is a remainder of
/// it; then it is down by itself, ms.
part_of_ms: u64 = 6 * 3_600_000, "remainders of a provider's outage are told apart later",
"Phases":
    "enter at a majority, leave well below it and only after a while";
/// Below this share it recovers.
release: Ppm = 400_000, "incidents recover earlier, and flap more",
/// Below this share it is clear.
clear: Ppm = 50_000, "suspicions are dropped, and incidents resolved, earlier",
/// A failure rate of at most this part of the worst counts as recovering.
low_part: Ppm = 250_000, "incidents recover earlier",
/// A relapse needs this part of the worst failure rate.
relapse_part: Ppm = 500_000, "fewer relapses",
/// A failure rate up to this is quiet, however low the usual one.
quiet_rate: Ppm = 25_000, "incidents are resolved earlier",
/// Low for this long is recovering, ms; doubled per relapse, twice at most. Three times the five minutes at which
/// configurations and caches are made anew: what flaps with them seldom rests for longer.
recover_ms: u64 = 900_000, "incidents recover later, and flap less",
/// Low for this long and then not is a flap, ms: an incident that has flapped waits twice as long.
flap_ms: u64 = 240_000, "fewer incidents are thought to flap",
/// Quiet for this long is resolved, ms.
resolve_ms: u64 = 1_800_000, "incidents are resolved later, and flap less",
/// Below the majority for this long is resolved too, ms: bounds what liars can hold open.
resolve_held_ms: u64 = 7_200_000, "liars hold an incident open for longer",
/// An incident of which nobody could tell for this long is closed, ms.
unseen_ms: u64 = 43_200_000, "incidents of which nothing is known any more stay open for longer",
/// Time constant of the weight that is usually online, ms. While less than `coverage` of it is, silence is no
/// recovery.
usual_online_ms: u64 = 3_600_000, "incidents wait for longer for those who fell silent",
/// Time constant of the share and rate by which an incident is left, ms.
slow_share_ms: u64 = 300_000, "one panel more or less decides less",
/// Time constant of the share by which a recovering incident is held open, ms.
held_share_ms: u64 = 900_000, "the same, of those that liars may hold open",
/// A new outage within this time re-opens the incident, ms.
reopen_ms: u64 = 3_600_000, "more outages are one incident",
/// A suspicion below `clear` for this long is retracted, ms.
retract_ms: u64 = 300_000, "suspicions stay for longer",
/// Incidents of what one layer explains that began within this long of each other are one, ms.
merge_ms: u64 = 1_800_000, "more is told as one incident",
/// Roles of one organisation whose first failures lie within this time are one incident, ms.
lead_ms: u64 = 900_000, "roles of one organisation that fail one after the other are told as one incident",
"When a suspicion is worth asking about":
    "flags as a Poisson process, with chance at one in a thousand; by simulation";
/// Windows in which flags are counted, ms.
alert_short_ms: u64 = 30_000, "more flags are taken together: earlier, and more by chance",
/// The longer window in which flags are counted, ms: a small provider shows in it.
alert_long_ms: u64 = 120_000, "small providers are asked about earlier, and more by chance",
/// Networks that must flag, in three zones.
alert_min: u32 = 3, "suspicions come later, and fewer by chance; liars need more networks",
/// Prefixes of one network that count.
alert_per_network: u32 = 2, "one network raises more of a suspicion",
/// One in a thousand, as bits in 1/65536: log2(1000) is 9.966.
alert_alpha_bits_q16: i64 = 653_116, "fewer suspicions by chance, and later ones",
/// Time constant of the usual number of flags, ms.
alert_usual_tau_ms: u64 = 21_600_000, "a new habit is noticed for longer",
/// The usual number of flags is never taken above this share of the online weight.
alert_usual_max: Ppm = 20_000, "who cries wolf raises the bar further",
/// How fresh the failures behind a flag are, ms: two sites within this.
alert_fresh_ms: u64 = 60_000, "older failures make a flag",
/// Flags of the last so many ms tell which other suspects are rivals.
alert_beside_ms: u64 = 60_000, "more is taken for a rival",
/// Flags, as a share of the suspect's own, from which another is seen beside it.
beside_share: Ppm = 150_000, "fewer suspects count as seen by the same observers",
/// Strikes after which a prefix raises no suspicion.
strikes_max: u8 = 2, "liars raise more alarms",
/// A prefix with that many strikes raises no suspicion for this long, ms, doubling up to a day.
strike_ms: u64 = 3_600_000, "who raised false alarms is muted for longer, the honest too",
/// A panel that sees less than this strikes twice.
strike_double_below: Ppm = 50_000, "more alarms cost two strikes",
"Panels":
    "a random sample of the crowd; sizes, shares and rests by simulation (`docs/SCORECARD.md`)";
/// Members of a screening.
panel_screen: usize = 48, "screenings cost more and tell more",
/// Members of a full panel.
panel_full: usize = 400, "verdicts cost more and are surer",
/// Members of a tracking panel.
panel_track: usize = 48, "tracking costs more and is steadier",
/// Members of a tracking panel in a small crowd, at least, or everybody.
panel_track_min: usize = 16, "small crowds are tracked better, for more",
/// Of a small crowd a tracking panel takes this share.
panel_track_share: Ppm = 250_000, "the same",
/// A crowd smaller than this is asked in full at once.
panel_screen_from: usize = 150, "larger crowds are asked in full at once: earlier, for more",
/// A crowd smaller than this is not asked at all: it confirms nothing of the world.
panel_online_min: usize = 20, "small crowds are not asked",
/// Sites that each member probes in a round.
panel_sites: usize = 8, "a round costs more and tells more",
/// Sites that each member probes in a screening, or where fewer than `panel_many_below` of the looks
/// failed: of a tenth that fails two are met in two such rounds by seven of ten, and in one by a third.
panel_sites_many: usize = 12, "partial outages show in fewer rounds, for more",
/// Failure rate below which that many are looked at.
panel_many_below: Ppm = 250_000, "the larger rounds are asked more often",
/// Sites that must fail at a member for its vote, after up to three rounds; one more after that.
panel_yes_sites: usize = 2, "slight outages are missed; bad lines count less",
/// Controls that each member probes in a round.
panel_controls: usize = 4, "a round costs more; bad lines are told better",
/// Controls that must be fine at a member for its vote.
panel_controls_ok: usize = 3, "fewer members have a vote",
/// Share of a member's controls that may fail for its no to count, and its answers.
panel_controls_bad: Ppm = 333_333, "members with bad lines have a vote",
/// A screening of this share goes on to the full panel whatever the budget says.
panel_force_share: Ppm = 450_000, "the budget holds more back",
/// When a third of the crowd flags, it is screened this often whatever the budget says, ms.
panel_forced_every_ms: u64 = 300_000, "a crowd of which a third flags is screened less often",
/// Answers are due after this, ms.
panel_due_ms: u64 = 7_000, "slow answers count; verdicts come later",
/// Rounds of a full panel.
panel_rounds: u8 = 5, "small outages are found, for more",
/// The fourth and fifth round come this long after the one before, ms.
panel_late_round_gap_ms: u64 = 20_000, "late rounds find what began just now, later",
/// A screening of this share calls the full panel, with `panel_screen_votes`.
panel_screen_share: Ppm = 150_000, "fewer full panels",
/// Votes a screening needs to call the full panel.
panel_screen_votes: usize = 4, "fewer full panels of small crowds",
/// Below this share a full panel has refuted the suspicion.
panel_stop_share: Ppm = 120_000, "suspicions are refuted earlier",
/// Below this share a second panel, freshly drawn, must pass too.
panel_second_below: Ppm = 600_000, "more verdicts wait for a second draw; liars win by luck less often",
/// The rate among the controls, which is a sample too, must differ by so many bits, 1/65536: 12, one in
/// 4,000.
panel_apart_bits_q16: i64 = 786_432, "verdicts of small panels come later",
/// A rival explains failures that go away without it by so many bits, 1/65536: 6.
rival_bits_q16: i64 = 393_216, "fewer suspects are let off for a rival",
/// Where a rival is absent the sites must fail at less than this part of where it is, for the rival to
/// explain them.
rival_part: Ppm = 400_000, "more suspects are let off for a rival",
/// Sites that a rival must be behind.
rival_sites: usize = 3, "rivals of few sites explain nothing",
/// Answers needed with the rival, and without.
rival_answers: i64 = 8, "the same, of few answers",
/// Votes over one address family below which nothing is said of it.
family_votes: u32 = 12, "nothing is said of one address family in small crowds",
/// The other family may fail at this part of the rate at most, for it to be an outage of one.
family_part: Ppm = 250_000, "less is called an outage of one address family",
/// Seats of a zone at least.
zone_seats_min: usize = 4, "small zones are heard better, for larger ones",
/// How long a verdict waits for that on a larger suspect, ms: five rounds and a second draw.
panel_held_ms: u64 = 120_000, "a verdict waits for longer for the panel on what it is nested in",
/// Time between two tracking panels, ms.
panel_track_every_ms: u64 = 60_000, "tracking is cheaper and slower",
/// What a tracking panel found is good for this long, ms.
panel_track_good_ms: u64 = 150_000, "a tracking panel decides for longer",
/// What a full panel came to is good for this long, ms: what is overheard does not overrule it.
asked_good_ms: u64 = 300_000, "what is overheard is heard later after a panel",
/// Where so much fails of what a suspect is not behind, everything does, and those who were asked and did not answer are not stood in
/// for by what is overheard: from a failure in thirteen on every observer's sums rise by themselves.
heard_noise: Ppm = 50_000, "what is overheard decides on bad days too, where nobody answers; wrongly now and then",
/// A panel that was called by what is overheard and confirmed nothing is good for so much longer each time:
/// twice, up to two to the power of this.
asked_doublings: u8 = 5, "what is overheard in vain calls panels less often",
"What asking may cost":
    "an agent's own caps are 900 probes a day, and 2,000 with incidents; by simulation";
/// Rest after a panel that came to nothing, ms, doubling up to the next.
panel_backoff_ms: u64 = 60_000, "a suspicion that came to nothing is asked about again later",
/// The longest rest of a suspicion, ms.
panel_backoff_max_ms: u64 = 1_800_000, "the same, after many that came to nothing",
/// After an inconclusive panel a screening must show so much more than it did.
panel_star_step: Ppm = 100_000, "what was inconclusive must show more to be asked about again",
/// What an inconclusive panel showed is taken as at most this.
panel_star_max: Ppm = 350_000, "the same",
/// An inconclusive panel is remembered for this long, ms.
panel_star_ms: u64 = 86_400_000, "the same, for longer",
/// Probes a day and agent that full rounds may cost, in millionths.
panel_full_day: i64 = 600 * ONE, "more full panels a day",
/// Probes per agent that full rounds may cost at once, before any of a day has passed, in millionths.
panel_full_burst: i64 = 400 * ONE, "more full panels at once",
/// Probes a day and agent that screenings may cost, in millionths.
panel_screen_day: i64 = 400 * ONE, "more screenings a day",
/// Probes per agent that screenings may cost at once, in millionths.
panel_screen_burst: i64 = 120 * ONE, "more screenings at once",
/// Probes a day and agent that panels of suspicions may cost, in millionths: twenty-four a minute.
panel_pace_day: i64 = 34_560 * ONE, "more is asked in a minute, which agents may refuse",
/// Probes per agent that they may cost at once, in millionths: two rounds. Together with the pace fewer
/// than the sixty that an agent makes in a minute for all reasons.
panel_pace_burst: i64 = 32 * ONE, "the same, at once",
"Second looks at a site":
    "binomial tests against the share that may lie; by simulation";
/// Members of a second look at a site.
look_seats: usize = 48, "a look costs more and is surer",
/// Sites behind the same providers that each probes beside it.
look_siblings: usize = 2, "the same, of the providers behind it",
/// Sites that have nothing to do with it.
look_controls: usize = 2, "the same, of the members' lines",
/// Looks at most.
look_rounds: u8 = 4, "sites that fail for few requests are found, for more",
/// Observers that may lie, as a share: that more of them saw the site fail must be more than chance.
look_liars: Ppm = 333_333, "liars may be more; fewer sites are confirmed",
/// And by so many bits, 1/65536: 8, as one draw in 250.
look_bits_q16: i64 = 524_288, "looks of few members confirm less",
/// A look is begun where a site's failures are less likely than this, in bits, 1/65536: 17, since some two
/// hundred sites are watched in some seven hundred windows a day.
look_worth_bits_q16: i64 = 1_114_112, "fewer looks are begun",
/// Votes of failures from which a look is worth it, from as many zones as any verdict needs.
look_worth_votes: i64 = 5 * ONE / 2, "fewer looks are begun in small crowds",
/// Probes a day and agent that second looks may cost, in millionths.
look_day: i64 = 100 * ONE, "more looks a day",
/// Probes per agent that second looks may cost at once, in millionths.
look_burst: i64 = 50 * ONE, "more looks at once",
/// The longest rest of a site after a look that came to nothing, ms.
look_rest_max_ms: u64 = 7_200_000, "sites are looked at again later",
/// What a look at a site came to is good for this long at most, ms: then what is overheard calls another.
look_good_ms: u64 = 600_000, "the same, of those that seem to be down",
/// Rounds for which a site that seems to be down waits for a look that others may have first and that the
/// budget allows; where nobody can be asked, what is overheard decides then.
look_wait: u8 = 8, "looks that may not begin are forced later",
/// So often such a look goes before all others and whatever the budget says, ms: who forces looks at what
/// is well does not hide what is down.
look_forced_every_ms: u64 = 600_000, "outages of sites behind a doubted provider show later; less can be forced",
/// Second looks that begin at once, at most.
looks_at_once: usize = 4, "more sites are looked at in one round",
/// Second looks under way, at most.
looks_max: usize = 16, "more sites are looked at at a time",
"The observer's own line, and what those have in common who are cut off":
    "a cumulative sum (Page 1954); likelihood ratios against the share that is always out of order; by simulation and recorded outages";
/// Step of a scheduled probe that nothing answered, in the CUSUM of an observer's own line.
line_up: u8 = 2, "a line counts as cut earlier",
/// Step of a probe that was answered: the sum rises from a failure ratio of five sevenths on, which is more
/// than the largest provider's share of the sites.
line_down: u8 = 5, "a line counts as mended earlier",
/// From here on the line counts as cut: five failures running.
line_cut: u8 = 10, "a line counts as cut later",
/// Clipped here, so that three answers mend it.
line_cap: u8 = 15, "a line counts as mended later",
/// Over a pause this long nothing is carried on, ms.
line_gap_ms: u64 = 1_800_000, "spells go on over longer pauses",
/// Share of what failed that must be names, for a spell or a group to be the resolver's.
names_share: Ppm = 800_000, "fewer spells are called those of a resolver",
/// A spell that is over is remembered from this length on, ms: longer than a bad moment on the radio.
spell_min_ms: u64 = 300_000, "short spells are not told of later",
/// One that goes on counts from this length on, ms.
spell_counts_ms: u64 = 120_000, "network outages show later",
/// A spell that was told of later counts for this long after it was heard, ms: those who were cut off
/// together come back within minutes of each other.
spell_fresh_ms: u64 = 1_800_000, "late tellers count together for longer",
/// What is told of only when it is over is looked at for this long, ms: who comes back later may be of a
/// wider group, and there is no hurry.
late_wait_ms: u64 = 300_000, "what is told late is published later",
/// Share of the time for which some line is out of order by itself.
line_background: Ppm = 5_000, "more must be cut off",
/// Prefixes that a network, country, resolver or version needs before anything is said of it.
group_prefixes: u32 = 5, "small networks have no incidents of their own",
/// And of them, those that must be cut off.
group_cut: usize = 3, "the same",
/// Share of a network that must be cut off together.
network_share: Ppm = 240_000, "outages of part of a network go unnoticed",
/// Share of anything larger that must be cut off together.
group_share: Ppm = 500_000, "outages of part of a country go unnoticed",
/// A group must be cut off so many times as much as all others.
group_contrast: i64 = 3, "cuts during wider trouble go unnoticed",
/// The evidence that is needed, in bits of log-likelihood ratio, 1/65536: 5.5 nats.
group_bits_q16: i64 = 520_022, "small groups go unnoticed, and fewer are named by chance",
/// Below this part of the share it needs a group's cut is over when it is told of.
group_late_part: Ppm = 500_000, "more is published as over already",
/// Share of a group below which it counts as well again.
group_well: Ppm = 100_000, "incidents of groups end earlier",
/// Those lost within this time are lost together, ms.
dark_within_ms: u64 = 300_000, "slower losses count as one",
/// Share of a group that must fall silent together for a suspicion.
dark_share: Ppm = 500_000, "fewer suspicions of silence",
/// A group of which half is back for this long, without telling of a cut, was not cut, ms.
dark_back_ms: u64 = 900_000, "suspicions of silence stay for longer",
/// A group that stays silent is forgotten after this long, ms: as old as a report may be.
dark_max_ms: u64 = 7 * 86_400_000, "the same",
}

/// What an operator may set. Every field that differs from its default is shown on the page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Hours for which a new observer has no vote.
    pub tenure_hours_min: u64,
    /// Hours after which it has a whole one; 0 = at once, for a lab or a closed fleet.
    pub tenure_hours_full: u64,
    /// Probe-core versions the operator vouches for as established.
    pub established_versions: Vec<u16>,
    /// Observers needed for a global verdict.
    pub crowd_observers: u32,
    /// Networks needed.
    pub crowd_networks: u32,
    /// Zones needed.
    pub crowd_zones: u32,
    /// After a start, or when nobody was heard for so long that all are offline, nothing is confirmed for
    /// so many seconds: until everybody who is there has been heard. Who streams failures is heard first.
    pub settle_s: u64,
    /// Observers with a whole vote from their first report: machines that the operator runs. They
    /// are bound by the caps of their prefix, network and zone like everybody.
    pub anchors: Vec<ObserverId>,
    /// Whether observers are asked to look closer at a suspicion; else the scheduled observations
    /// alone decide.
    pub ask_back: bool,
    /// Under which panels are drawn: nobody outside may foretell who is asked.
    pub panel_secret: [u8; 32],
    /// Every other number.
    pub params: Arc<Params>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            tenure_hours_min: 24,
            tenure_hours_full: 14 * 24,
            established_versions: Vec::new(),
            crowd_observers: 60,
            crowd_networks: 25,
            crowd_zones: 3,
            settle_s: Params::DEFAULT.online_ms / 1_000,
            anchors: Vec::new(),
            ask_back: true,
            panel_secret: [0; 32],
            params: Arc::new(Params::DEFAULT),
        }
    }
}

impl Settings {
    /// What differs from the defaults, in words.
    #[must_use]
    pub fn differences(&self) -> Vec<String> {
        let usual = Self::default();
        let mut words = Vec::new();
        if (self.tenure_hours_min, self.tenure_hours_full)
            != (usual.tenure_hours_min, usual.tenure_hours_full)
        {
            words.push(match self.tenure_hours_full {
                0 => "new observers have a full vote at once (tenure ramp 0)".to_owned(),
                full => format!(
                    "new observers have no vote for {} h and a full one after {full} h",
                    self.tenure_hours_min
                ),
            });
        }
        if !self.established_versions.is_empty() {
            words.push(format!(
                "the operator vouches for probe-core versions {:?}",
                self.established_versions
            ));
        }
        if !self.anchors.is_empty() {
            words.push(match self.anchors.len() {
                1 => "1 observer of the operator has a full vote at once (anchor)".to_owned(),
                n => format!("{n} observers of the operator have a full vote at once (anchors)"),
            });
        }
        if !self.ask_back {
            words.push("nobody is asked back: scheduled observations alone decide".to_owned());
        }
        if self.settle_s != usual.settle_s {
            words.push(format!("verdicts begin {} s after a start", self.settle_s));
        }
        let crowd = (self.crowd_observers, self.crowd_networks, self.crowd_zones);
        if crowd != (usual.crowd_observers, usual.crowd_networks, usual.crowd_zones) {
            words.push(format!(
                "a global verdict needs {} observers, {} networks and {} zones",
                crowd.0, crowd.1, crowd.2
            ));
        }
        words.extend(self.params.differences());
        words
    }

    /// Every number that decides, in force and by default.
    #[must_use]
    pub fn table(&self) -> Vec<Parameter> {
        let usual = Self::default();
        let own = |name, unit, of: fn(&Self) -> u64, meaning: &str, raised| Parameter {
            name,
            section: "What a verdict needs at all",
            value: of(self).cast_signed(),
            default: of(&usual).cast_signed(),
            unit,
            meaning: meaning.to_owned(),
            source: "a choice, with simulation: Sybil keys need weeks, and below these crowds liars and \
                     chance weigh too much",
            raised,
        };
        let mut table = vec![
            own(
                "admission.tenure_hours_min",
                "h",
                |s| s.tenure_hours_min,
                "Hours for which a new observer has no vote.",
                "keys that were made for an attack wait for longer; a new crowd too",
            ),
            own(
                "admission.tenure_hours_full",
                "h",
                |s| s.tenure_hours_full,
                "Hours after which it has a whole one; 0: at once.",
                "the same",
            ),
            own(
                "detector.crowd_observers",
                "",
                |s| s.crowd_observers.into(),
                "Observers who can tell that a verdict on the world needs.",
                "small crowds confirm nothing; chance and liars need more",
            ),
            own(
                "detector.crowd_networks",
                "",
                |s| s.crowd_networks.into(),
                "And in so many networks.",
                "the same",
            ),
            own("detector.crowd_zones", "", |s| s.crowd_zones.into(), "And zones.", "the same"),
            own(
                "detector.settle_s",
                "s",
                |s| s.settle_s,
                "Seconds after a start for which nothing is confirmed: until everybody who is there has been \
                 heard.",
                "verdicts come later after a start; who streams failures gains less",
            ),
        ];
        table.extend(self.params.table());
        table
    }

    /// Sets one by its name, as the table has it.
    ///
    /// # Errors
    /// When there is none of that name, or its type cannot hold the value.
    pub fn set(&mut self, name: &str, value: i64) -> Result<(), ParamsError> {
        let whole = |name, most: u64| {
            let needed =
                "a whole number that is not negative, and no larger than such settings are";
            let value_of = u64::try_from(value).ok().filter(|value| *value <= most);
            value_of.ok_or(ParamsError::Range { name, value, needed })
        };
        match name {
            "admission.tenure_hours_min" => {
                self.tenure_hours_min = whole("tenure_hours_min", 87_600)?
            }
            "admission.tenure_hours_full" => {
                self.tenure_hours_full = whole("tenure_hours_full", 87_600)?;
            }
            "detector.settle_s" => self.settle_s = whole("settle_s", 3_600)?,
            "detector.crowd_observers" => {
                self.crowd_observers = whole("crowd_observers", 1_000_000)? as u32;
            }
            "detector.crowd_networks" => {
                self.crowd_networks = whole("crowd_networks", 1_000_000)? as u32;
            }
            "detector.crowd_zones" => self.crowd_zones = whole("crowd_zones", 15)? as u32,
            _ => Arc::make_mut(&mut self.params).set(name, value)?,
        }
        Ok(())
    }

    /// A new observer's vote after so long.
    #[must_use]
    pub fn tenure(&self, present_ms: u64) -> i64 {
        let (start, full) = (self.tenure_hours_min * 3_600_000, self.tenure_hours_full * 3_600_000);
        if present_ms >= full {
            return ONE;
        }
        let ramp = full.saturating_sub(start).max(1);
        let part = present_ms.saturating_sub(start);
        i64::try_from(u128::from(part) * ONE.unsigned_abs() as u128 / u128::from(ramp))
            .unwrap_or(ONE)
            .min(ONE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_tells_every_number_with_its_unit() {
        let table = Params { confirm: 510_000, ..Params::DEFAULT }.table();
        let of = |name: &str| table.iter().find(|p| p.name == name).unwrap();
        let confirm = of("confirm");
        assert_eq!((confirm.value, confirm.default, confirm.unit), (510_000, 500_000, "share"));
        assert_eq!((of("seen_min_ms").value, of("seen_min_ms").unit), (90_000, "ms"));
        assert_eq!((of("site_weight").unit, of("look_bits_q16").unit), ("votes", "bits"));
        assert_eq!(of("hold").unit, "");
        assert!(table.iter().all(|p| p.meaning.len() > 7 && p.value > 0));
        let names: std::collections::BTreeSet<_> = table.iter().map(|p| p.name).collect();
        assert_eq!(names.len(), table.len());
        for Parameter { name, source, raised, .. } in Settings::default().table() {
            assert!(!source.is_empty() && !raised.is_empty(), "{name}");
        }
    }

    #[test]
    fn what_means_nothing_is_refused_by_its_name() {
        assert_eq!(Params::DEFAULT.check(), Ok(()));
        let refused = |params: Params| params.check().unwrap_err().to_string();
        let usual = Params::DEFAULT;
        let text = refused(Params { confirm: 0, ..usual.clone() });
        assert!(text.contains("detector.parameters.confirm is 0"), "{text}");
        assert!(refused(Params { confirm: 2_000_000, ..usual.clone() }).contains("1 to 1,000,000"));
        assert!(refused(Params { panel_sites_many: 14, ..usual.clone() }).contains("16"));
        let text = refused(Params { confirm: 300_000, ..usual });
        assert!(text.contains("release must be below confirm"), "{text}");
    }

    #[test]
    fn who_sets_one_says_so() {
        let params = Params { confirm: 600_000, ..Params::DEFAULT };
        let settings = Settings { params: params.into(), ..Settings::default() };
        assert_eq!(settings.differences(), ["confirm is 600000 instead of 500000"]);
    }

    #[test]
    fn tenure_ramps() {
        let settings = Settings::default();
        let hours = |h: u64| settings.tenure(h * 3_600_000);
        assert_eq!((hours(0), hours(24), hours(14 * 24)), (0, 0, ONE));
        assert_eq!(hours(24 + 156), ONE / 2);
        let lab = Settings { tenure_hours_min: 0, tenure_hours_full: 0, ..Settings::default() };
        assert_eq!(lab.tenure(0), ONE);
        assert_eq!(Settings::default().differences(), Vec::<String>::new());
        assert_eq!(lab.differences().len(), 1);
    }
}
