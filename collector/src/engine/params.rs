//! Every number the detector uses, in one place. Defaults are those measured in simulation;
//! `VERSION` rises when one of them changes, and stands with every incident.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tocsin_proto::{id::ObserverId, limits::ASK_TARGETS_MAX};

use super::fixed::{ONE, Ppm};

/// Version of the defaults below.
pub const VERSION: u16 = 11;
/// Since when they are these.
pub const DATED: &str = "2026-11-24";

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

/// One number of the detector, for who reads its verdicts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Parameter {
    /// Its name in the configuration.
    pub name: &'static str,
    /// Its value, in its unit.
    pub value: i64,
    /// What it is where nobody sets it.
    pub default: i64,
    /// `ms`, `share` (millionths), `votes` (millionths), `bits` (1/65536), `probes`
    /// of an agent (millionths), or nothing for a count.
    pub unit: &'static str,
    /// What it does, and where it is from.
    pub meaning: String,
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
    ($($(#[doc = $doc:literal])+ $name:ident: $type:ty = $value:expr,)+) => {
        /// The numbers of the detector, each of which an operator may set (`detector.parameters` in the
        /// configuration). Who sets one sees what would have been different with `replay`.
        #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct Params {
            $($(#[doc = $doc])+ pub $name: $type,)+
        }

        impl Params {
            /// Those that were measured.
            pub const DEFAULT: Self = Self { $($name: $value,)+ };

            /// Sets one by its name.
            ///
            /// # Errors
            /// When there is none of that name, or its type cannot hold the value.
            pub fn set(&mut self, name: &str, value: i64) -> Result<(), ParamsError> {
                match name {
                    $(stringify!($name) => {
                        self.$name = value.try_into().map_err(|_| ParamsError::Range {
                            name: stringify!($name),
                            value,
                            needed: concat!("a number of the type ", stringify!($type)),
                        })?;
                    })+
                    _ => return Err(ParamsError::Unknown(name.to_owned())),
                }
                Ok(())
            }

            /// Every number, in the order of the source.
            #[must_use]
            pub fn table(&self) -> Vec<Parameter> {
                vec![$(Parameter {
                    name: stringify!($name),
                    value: self.$name as i64,
                    default: Self::DEFAULT.$name as i64,
                    unit: unit(stringify!($name), stringify!($type), stringify!($value)),
                    meaning: [$($doc),+].map(str::trim).join(" "),
                }),+]
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

/// The unit of a number, from how it is written.
fn unit(name: &str, of: &str, value: &str) -> &'static str {
    match of {
        _ if name.ends_with("_ms") => "ms",
        _ if name.ends_with("_q16") => "bits",
        _ if name.ends_with("_day") || name.ends_with("_burst") => "probes",
        "Ppm" => "share",
        _ if value.contains("ONE") => "votes",
        _ => "",
    }
}

parameters! {
/// Weights are recomputed at least this often, ms.
weigh_ms: u64 = 600_000,
/// CUSUM step of a failure: ln(0.24/0.01) over ln(0.99/0.76) is 12.0 (Page 1954).
cusum_up: u8 = 12,
/// Step of a failure of unknown making.
cusum_half: u8 = 6,
/// The observer flags at or above this.
cusum_flag: u8 = 18,
/// Clipped here, so that it forgets.
cusum_cap: u8 = 36,
/// A target that an observer looks at again within this time counts once in the windows, ms: agents
/// schedule one probe a minute and target, of which clocks and batches may take a part.
look_again_ms: u64 = 30_000,
/// Of them, fine ones not behind the suspect that are needed to be believed.
controls_min: usize = 3,
/// Failures over different edges in a row that silence an observer.
streak_max: u8 = 6,
/// An entity counts as seen for three of the observer's own touch periods, and at least this, ms.
seen_min_ms: u64 = 90_000,
/// And at most this, ms.
seen_max_ms: u64 = 900_000,
/// An observer that was not heard for this long is offline, ms.
online_ms: u64 = 180_000,
/// An observer that was not heard for this long has its row dropped, ms.
forget_ms: u64 = 3_600_000,
/// Time constant of `chron` and `sick`, ms.
slow_ms: u64 = 86_400_000,
/// An observer that flagged an entity for this share of a day abstains on it.
chron_max: Ppm = 500_000,
/// An observer with this failure ratio over a day abstains on everything.
sick_max: Ppm = 200_000,
/// A network's votes: this share of all weight,
network_cap_share: Ppm = 20_000,
/// but at least so many.
network_cap_min: i64 = 3 * ONE,
/// No zone counts for more than this share.
zone_cap: Ppm = 250_000,
/// Votes a zone needs to be evaluated by itself.
zone_min: i64 = 4 * ONE,
/// A zone above this share sees it.
zone_share: Ppm = 250_000,
/// Zones that must be evaluated, and that must see it.
zones_min: usize = 3,
/// Share of the evaluated zones that must see it; or of their weight, where half of them do.
zones_share: Ppm = 666_666,
/// Share that makes a suspicion.
suspect: Ppm = 100_000,
/// Share that makes a candidate for attribution.
candidate: Ppm = 80_000,
/// Majority.
confirm: Ppm = 500_000,
/// A share that is enough where the world is divided: where regions with a majority of their own,
divided: Ppm = 360_000,
/// clearly, by this share of their votes together,
divided_share: Ppm = 650_000,
/// and of this share of the weight, in more than half of the zones, see it. Liars who are spread
/// have a majority in no region, and crowded into some they are too few for the share.
divided_weight: Ppm = 360_000,
/// Below this share it is no longer confirmed.
release: Ppm = 400_000,
/// Below this share it is clear.
clear: Ppm = 50_000,
/// Eligible weight needed, of online weight.
coverage: Ppm = 500_000,
/// Evaluations running for which the conditions must hold.
hold: u8 = 2,
/// Votes a zone or country needs for a regional verdict.
regional_min: i64 = 8 * ONE,
/// Networks in it that it needs.
regional_networks: usize = 3,
/// Share of the networks elsewhere that see it at least, for the test against chance.
regional_background: Ppm = 50_000,
/// Share of some zone from which its countries are looked at.
regional_look: Ppm = 50_000,
/// Background failure rate that attribution scores against.
background: Ppm = 20_000,
/// How much better its sites' failures must be explained by a suspect that fails at their rate than by
/// one that fails at everybody's, in bits, 1/65536: 12 against chance (1 in 4,000), and 6 more since
/// some sixty suspects are looked at. Where everything fails a little more, some suspect's few probes
/// always stand out by their mean alone.
contrast_bits_q16: i64 = 1_179_648,
/// Providers picked in one round at most.
picks_max: usize = 4,
/// A pick counts as recent for this long, ms.
pick_recent_ms: u64 = 30_000,
/// Candidates within this share of the best hit ratio compete by likelihood.
hit_ratio_band: Ppm = 700_000,
/// A site is down from this rate.
site_down: Ppm = 400_000,
/// And up again below this.
site_up: Ppm = 150_000,
/// Votes in a site's window.
site_weight: i64 = 8 * ONE,
/// Votes in each zone of a site's window.
site_zone_weight: i64 = 5 * ONE / 2,
/// Siblings' median rate from which a site is not alone.
site_siblings: Ppm = 100_000,
/// Low for this long is recovering, ms; doubled per relapse, twice at most.
recover_ms: u64 = 600_000,
/// Quiet for this long is resolved, ms.
resolve_ms: u64 = 1_800_000,
/// Below the majority for this long is resolved too, ms: bounds what liars can hold open.
resolve_held_ms: u64 = 7_200_000,
/// A new outage within this time re-opens the incident, ms.
reopen_ms: u64 = 3_600_000,
/// A suspicion below `CLEAR` for this long is retracted, ms.
retract_ms: u64 = 300_000,
/// Incidents of what one layer explains that began within this long of each other are one, ms.
merge_ms: u64 = 1_800_000,
/// So long after the end of a provider's incident a site that failed in it and still does is a
/// remainder of it; then it is down by itself, ms.
part_of_ms: u64 = 6 * 3_600_000,
/// A site that is up for this long is resolved, ms.
site_resolve_ms: u64 = 600_000,
/// A site that has been down by itself for this long is not asked about for its providers any more, ms:
/// three that fail at the same hour by three causes are no outage of what they share.
site_alone_ms: u64 = 600_000,
/// Windows in which flags are counted, ms.
alert_short_ms: u64 = 30_000,
/// The longer one: a small provider shows in it.
alert_long_ms: u64 = 120_000,
/// Networks that must flag, in three zones.
alert_min: u32 = 3,
/// Prefixes of one network that count.
alert_per_network: u32 = 2,
/// One in a thousand, as bits in 1/65536: log2(1000) is 9.966.
alert_alpha_bits_q16: i64 = 653_116,
/// Time constant of the usual number of flags, ms.
alert_usual_tau_ms: u64 = 21_600_000,
/// It is never taken above this share of the online weight: crying wolf must not raise it for ever.
alert_usual_max: Ppm = 20_000,
/// How fresh the failures behind a flag are, ms: two sites within this.
alert_fresh_ms: u64 = 60_000,
/// Members of a screening panel.
panel_screen: usize = 48,
/// Members of a full panel.
panel_full: usize = 400,
/// Members of a tracking panel.
panel_track: usize = 48,
/// And at least so many, or everybody.
panel_track_min: usize = 16,
/// A crowd smaller than this is asked in full at once.
panel_screen_from: usize = 150,
/// A crowd smaller than this is not asked at all: it confirms nothing of the world.
panel_online_min: usize = 20,
/// Sites that each member probes in a round.
panel_sites: usize = 8,
/// And in a screening, or where so far fewer than the next of the looks have failed: of a tenth that fails
/// two are met in two such rounds by seven of ten, and in one by a third.
panel_sites_many: usize = 12,
/// Failure rate below which that many are looked at.
panel_many_below: Ppm = 250_000,
/// Controls that each member probes in a round.
panel_controls: usize = 4,
/// Controls that must be fine.
panel_controls_ok: usize = 3,
/// A screening of this share goes on to the full panel whatever the budget says.
panel_force_share: Ppm = 450_000,
/// And when a third of the crowd flags, it is screened this often whatever the budget says, ms.
panel_forced_every_ms: u64 = 300_000,
/// Answers are due after this, ms.
panel_due_ms: u64 = 7_000,
/// Rounds of a full panel.
panel_rounds: u8 = 5,
/// The fourth and fifth round come this long after the one before, ms.
panel_late_round_gap_ms: u64 = 20_000,
/// A screening of this share calls the full panel,
panel_screen_share: Ppm = 150_000,
/// with at least so many votes.
panel_screen_votes: usize = 4,
/// Below this share a full panel has refuted the suspicion.
panel_stop_share: Ppm = 120_000,
/// Below this share a second panel, freshly drawn, must pass too.
panel_second_below: Ppm = 600_000,
/// Seats of a zone at least.
zone_seats_min: usize = 4,
/// Rest after a panel that came to nothing, ms, doubling up to the next.
panel_backoff_ms: u64 = 60_000,
/// The longest rest, ms.
panel_backoff_max_ms: u64 = 1_800_000,
/// After an inconclusive panel a screening must show so much more than it,
panel_star_step: Ppm = 100_000,
/// it being taken as at most this,
panel_star_max: Ppm = 350_000,
/// for this long, ms.
panel_star_ms: u64 = 86_400_000,
/// Probes a day and agent that full rounds may cost, millionths,
panel_full_day: i64 = 600 * ONE,
/// and at once, before any of a day has passed.
panel_full_burst: i64 = 400 * ONE,
/// Probes a day and agent that screenings may cost, millionths,
panel_screen_day: i64 = 400 * ONE,
/// and at once.
panel_screen_burst: i64 = 120 * ONE,
/// Probes a day and agent that panels of suspicions may cost, millionths: twenty-four a minute,
panel_pace_day: i64 = 34_560 * ONE,
/// and at once: two rounds. Together fewer than the sixty that an agent makes in a minute for all reasons.
panel_pace_burst: i64 = 32 * ONE,
/// Between two tracking panels, ms.
panel_track_every_ms: u64 = 60_000,
/// What a tracking panel found is good for this long, ms.
panel_track_good_ms: u64 = 150_000,
/// Strikes after which a prefix raises no suspicion,
strikes_max: u8 = 2,
/// for this long, ms, doubling up to a day.
strike_ms: u64 = 3_600_000,
/// Members of a second look at a site.
look_seats: usize = 48,
/// Sites behind the same providers that each probes beside it.
look_siblings: usize = 2,
/// Sites that have nothing to do with it.
look_controls: usize = 2,
/// Looks at most.
look_rounds: u8 = 4,
/// Observers that may lie, as a share: that more of them saw the site fail must be more than chance,
look_liars: Ppm = 333_333,
/// by so many bits, 1/65536: 8, as one draw in 250.
look_bits_q16: i64 = 524_288,
/// A look is begun where a site's failures are less likely than this, in bits, 1/65536: 17, since some
/// two hundred sites are watched in some seven hundred windows a day.
look_worth_bits_q16: i64 = 1_114_112,
/// And where they are of so many votes, from as many zones as any verdict needs.
look_worth_votes: i64 = 5 * ONE / 2,
/// Probes a day and agent that second looks may cost, millionths,
look_day: i64 = 100 * ONE,
/// and at once.
look_burst: i64 = 50 * ONE,
/// The longest rest of a site after a look that came to nothing, ms.
look_rest_max_ms: u64 = 7_200_000,
/// What a look at a site came to is good for this long at most, ms: then what is overheard calls another.
look_good_ms: u64 = 600_000,
/// Rounds for which a site that seems to be down waits for a look before what is overheard decides.
look_wait: u8 = 8,
/// Share of observers who see any suspect fail by their own lines, in a panel's five rounds.
stratum_background: Ppm = 100_000,
/// A rival explains failures that go away without it by so many bits, 1/65536: 6.
rival_bits_q16: i64 = 393_216,
/// Outside the largest stratum more must see it than that, by so many bits, 1/65536: 6.
stratum_bits_q16: i64 = 393_216,
/// Votes over one address family below which nothing is said of it.
family_votes: u32 = 12,
/// Second looks that begin at once, at most;
looks_at_once: usize = 4,
/// and that are under way.
looks_max: usize = 16,
/// A panel that was called by what is overheard and confirmed nothing is good for so much longer each
/// time: twice, up to two to the power of this.
asked_doublings: u8 = 5,
/// What a full panel came to is good for this long, ms: what is overheard does not overrule it.
asked_good_ms: u64 = 300_000,
/// Step of a scheduled probe that nothing answered, in the CUSUM of an observer's own line,
line_up: u8 = 2,
/// and of one that was answered: it rises from a failure ratio of five sevenths on, which is more than
/// the largest provider's share of the sites.
line_down: u8 = 5,
/// From here on the line counts as cut: five failures running.
line_cut: u8 = 10,
/// Clipped here, so that three answers mend it.
line_cap: u8 = 15,
/// Over a pause this long nothing is carried on, ms.
line_gap_ms: u64 = 1_800_000,
/// A spell that is over is remembered from this length on, ms: longer than a bad moment on the radio.
spell_min_ms: u64 = 300_000,
/// One that goes on counts from this length on, ms.
spell_counts_ms: u64 = 120_000,
/// A spell that was told of later counts for this long after it was heard, ms: those who were cut
/// off together come back within minutes of each other.
spell_fresh_ms: u64 = 1_800_000,
/// What is told of only when it is over is looked at for this long, ms: who comes back later may be of
/// a wider group, and there is no hurry.
late_wait_ms: u64 = 300_000,
/// Share of the time for which some line is out of order by itself.
line_background: Ppm = 5_000,
/// Prefixes that a network, country, resolver or version needs before anything is said of it,
group_prefixes: u32 = 5,
/// and of them, those that must be cut off.
group_cut: usize = 3,
/// Share of a network that must be cut off together.
network_share: Ppm = 240_000,
/// Share of anything larger.
group_share: Ppm = 500_000,
/// So many times the share among all others.
group_contrast: i64 = 3,
/// The evidence that is needed, in bits of log-likelihood ratio, 1/65536: 5.5 nats.
group_bits_q16: i64 = 520_022,
/// Share of a group below which it counts as well again.
group_well: Ppm = 100_000,
/// Those lost within this time are lost together, ms.
dark_within_ms: u64 = 300_000,
/// Share of a group that must fall silent together for a suspicion.
dark_share: Ppm = 500_000,
/// A group of which half is back for this long, without telling of a cut, was not cut, ms.
dark_back_ms: u64 = 900_000,
/// A group that stays silent is forgotten after this long, ms: as old as a report may be.
dark_max_ms: u64 = 7 * 86_400_000,
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
