//! Every number the detector uses, in one place. Defaults are those measured in simulation;
//! `VERSION` rises when one of them changes, and stands with every incident.

use serde::{Deserialize, Serialize};
use tocsin_proto::id::ObserverId;

use super::fixed::{ONE, Ppm};

/// Version of the defaults below.
pub const VERSION: u16 = 8;
/// Since when they are these.
pub const DATED: &str = "2026-11-23";

/// One number of the detector, for who reads its verdicts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Parameter {
    /// Its name in the source.
    pub name: &'static str,
    /// Its value, in its unit.
    pub value: i64,
    /// `ms`, `share` (millionths), `votes` (millionths), `bits` (1/65536), `probes`
    /// of an agent (millionths), or nothing for a count.
    pub unit: &'static str,
    /// What it does, and where it is from.
    pub meaning: String,
}

/// Defines the numbers, and the table of them that travels with the feed: what is not in the table is
/// not a number of the detector.
macro_rules! parameters {
    ($($(#[doc = $doc:literal])+ pub const $name:ident: $type:ty = $value:expr;)+) => {
        $($(#[doc = $doc])+ pub const $name: $type = $value;)+

        /// Every number, in the order of the source.
        #[must_use]
        pub fn table() -> Vec<Parameter> {
            vec![$(Parameter {
                name: stringify!($name),
                value: $name as i64,
                unit: unit(stringify!($name), stringify!($type), stringify!($value)),
                meaning: [$($doc),+].map(str::trim).join(" "),
            }),+]
        }
    };
}

/// The unit of a number, from how it is written.
fn unit(name: &str, of: &str, value: &str) -> &'static str {
    match of {
        _ if name.ends_with("_MS") => "ms",
        _ if name.ends_with("_Q16") => "bits",
        _ if name.ends_with("_DAY") || name.ends_with("_BURST") => "probes",
        "Ppm" => "share",
        _ if value.contains("ONE") => "votes",
        _ => "",
    }
}

parameters! {
/// Evaluation period, ms: shares, conditions and the state machine.
pub const TICK_MS: u64 = 5_000;
/// Attribution and site round, ms; also the width of a window bucket.
pub const ROUND_MS: u64 = 10_000;
/// Buckets in a target's window: 120 s.
pub const WINDOW_BUCKETS: usize = 12;
/// Weights are recomputed at least this often, ms.
pub const WEIGH_MS: u64 = 600_000;

/// CUSUM step of a failure: ln(0.24/0.01) over ln(0.99/0.76) is 12.0 (Page 1954).
pub const CUSUM_UP: u8 = 12;
/// Step of a failure of unknown making.
pub const CUSUM_HALF: u8 = 6;
/// The observer flags at or above this.
pub const CUSUM_FLAG: u8 = 18;
/// Clipped here, so that it forgets.
pub const CUSUM_CAP: u8 = 36;

/// A target that an observer looks at again within this time counts once in the windows, ms: agents
/// schedule one probe a minute and target, of which clocks and batches may take a part.
pub const LOOK_AGAIN_MS: u64 = 30_000;
/// Probes an observer remembers as its own controls.
pub const RING: usize = 24;
/// Of them, fine ones not behind the suspect that are needed to be believed.
pub const CONTROLS_MIN: usize = 3;
/// Failures over different edges in a row that silence an observer.
pub const STREAK_MAX: u8 = 6;
/// An entity counts as seen for three of the observer's own touch periods, and at least this, ms.
pub const SEEN_MIN_MS: u64 = 90_000;
/// And at most this, ms.
pub const SEEN_MAX_MS: u64 = 900_000;
/// An observer that was not heard for this long is offline, ms.
pub const ONLINE_MS: u64 = 180_000;
/// An observer that was not heard for this long has its row dropped, ms.
pub const FORGET_MS: u64 = 3_600_000;
/// Time constant of `chron` and `sick`, ms.
pub const SLOW_MS: u64 = 86_400_000;
/// An observer that flagged an entity for this share of a day abstains on it.
pub const CHRON_MAX: Ppm = 500_000;
/// An observer with this failure ratio over a day abstains on everything.
pub const SICK_MAX: Ppm = 200_000;

/// A network's votes: this share of all weight,
pub const NETWORK_CAP_SHARE: Ppm = 20_000;
/// but at least so many.
pub const NETWORK_CAP_MIN: i64 = 3 * ONE;
/// No zone counts for more than this share.
pub const ZONE_CAP: Ppm = 250_000;
/// Votes a zone needs to be evaluated by itself.
pub const ZONE_MIN: i64 = 4 * ONE;
/// A zone above this share sees it.
pub const ZONE_SHARE: Ppm = 250_000;
/// Zones that must be evaluated, and that must see it.
pub const ZONES_MIN: usize = 3;
/// Share of the evaluated zones that must see it; or of their weight, where half of them do.
pub const ZONES_SHARE: Ppm = 750_000;

/// Share that makes a suspicion.
pub const SUSPECT: Ppm = 100_000;
/// Share that makes a candidate for attribution.
pub const CANDIDATE: Ppm = 80_000;
/// Majority.
pub const CONFIRM: Ppm = 500_000;
/// A share that is enough where the world is divided: where regions with a majority of their own,
pub const DIVIDED: Ppm = 360_000;
/// clearly, by this share of their votes together,
pub const DIVIDED_SHARE: Ppm = 650_000;
/// and of this share of the weight, in more than half of the zones, see it. Liars who are spread
/// have a majority in no region, and crowded into some they are too few for the share.
pub const DIVIDED_WEIGHT: Ppm = 360_000;
/// Below this share it is no longer confirmed.
pub const RELEASE: Ppm = 400_000;
/// Below this share it is clear.
pub const CLEAR: Ppm = 50_000;
/// Eligible weight needed, of online weight.
pub const COVERAGE: Ppm = 500_000;
/// Evaluations running for which the conditions must hold.
pub const HOLD: u8 = 2;
/// Votes a zone or country needs for a regional verdict.
pub const REGIONAL_MIN: i64 = 8 * ONE;
/// Networks in it that it needs.
pub const REGIONAL_NETWORKS: usize = 3;
/// Share of the networks elsewhere that see it at least, for the test against chance.
pub const REGIONAL_BACKGROUND: Ppm = 50_000;
/// Share of some zone from which its countries are looked at.
pub const REGIONAL_LOOK: Ppm = 50_000;

/// Background failure rate that attribution scores against.
pub const BACKGROUND: Ppm = 20_000;
/// How much better its sites' failures must be explained by a suspect that fails at their rate than by
/// one that fails at everybody's, in bits, 1/65536: 12 against chance (1 in 4,000), and 6 more since
/// some sixty suspects are looked at. Where everything fails a little more, some suspect's few probes
/// always stand out by their mean alone.
pub const CONTRAST_BITS_Q16: i64 = 1_179_648;
/// Providers picked in one round at most.
pub const PICKS_MAX: usize = 4;
/// A pick counts as recent for this long, ms.
pub const PICK_RECENT_MS: u64 = 30_000;
/// Candidates within this share of the best hit ratio compete by likelihood.
pub const HIT_RATIO_BAND: Ppm = 700_000;

/// A site is down from this rate.
pub const SITE_DOWN: Ppm = 400_000;
/// And up again below this.
pub const SITE_UP: Ppm = 150_000;
/// Votes in a site's window.
pub const SITE_WEIGHT: i64 = 8 * ONE;
/// Votes in each zone of a site's window.
pub const SITE_ZONE_WEIGHT: i64 = 5 * ONE / 2;
/// Siblings' median rate from which a site is not alone.
pub const SITE_SIBLINGS: Ppm = 100_000;

/// Low for this long is recovering, ms; doubled per relapse, twice at most.
pub const RECOVER_MS: u64 = 600_000;
/// Quiet for this long is resolved, ms.
pub const RESOLVE_MS: u64 = 1_800_000;
/// Below the majority for this long is resolved too, ms: bounds what liars can hold open.
pub const RESOLVE_HELD_MS: u64 = 7_200_000;
/// A new outage within this time re-opens the incident, ms.
pub const REOPEN_MS: u64 = 3_600_000;
/// A suspicion below `CLEAR` for this long is retracted, ms.
pub const RETRACT_MS: u64 = 300_000;
/// Incidents of what one layer explains that began within this long of each other are one, ms.
pub const MERGE_MS: u64 = 1_800_000;
/// So long after the end of a provider's incident a site that failed in it and still does is a
/// remainder of it; then it is down by itself, ms.
pub const PART_OF_MS: u64 = 6 * 3_600_000;
/// A site that is up for this long is resolved, ms.
pub const SITE_RESOLVE_MS: u64 = 600_000;

/// Windows in which flags are counted, ms.
pub const ALERT_SHORT_MS: u64 = 30_000;
/// The longer one: a small provider shows in it.
pub const ALERT_LONG_MS: u64 = 120_000;
/// Networks that must flag, in three zones.
pub const ALERT_MIN: u32 = 3;
/// Prefixes of one network that count.
pub const ALERT_PER_NETWORK: u32 = 2;
/// One in a thousand, as bits in 1/65536: log2(1000) is 9.966.
pub const ALERT_ALPHA_BITS_Q16: i64 = 653_116;
/// Time constant of the usual number of flags, ms.
pub const ALERT_USUAL_TAU_MS: u64 = 21_600_000;
/// It is never taken above this share of the online weight: crying wolf must not raise it for ever.
pub const ALERT_USUAL_MAX: Ppm = 20_000;
/// How fresh the failures behind a flag are, ms: two sites within this.
pub const ALERT_FRESH_MS: u64 = 60_000;

/// Members of a screening panel.
pub const PANEL_SCREEN: usize = 48;
/// Members of a full panel.
pub const PANEL_FULL: usize = 400;
/// Members of a tracking panel.
pub const PANEL_TRACK: usize = 48;
/// And at least so many, or everybody.
pub const PANEL_TRACK_MIN: usize = 16;
/// A crowd smaller than this is asked in full at once.
pub const PANEL_SCREEN_FROM: usize = 150;
/// A crowd smaller than this is not asked at all: it confirms nothing of the world.
pub const PANEL_ONLINE_MIN: usize = 20;
/// Sites that each member probes in a round.
pub const PANEL_SITES: usize = 8;
/// Controls that each member probes in a round.
pub const PANEL_CONTROLS: usize = 4;
/// Controls that must be fine.
pub const PANEL_CONTROLS_OK: usize = 3;
/// Probes of a member in a round.
pub const PANEL_PROBES: usize = PANEL_SITES + PANEL_CONTROLS;
/// A screening of this share goes on to the full panel whatever the budget says.
pub const PANEL_FORCE_SHARE: Ppm = 450_000;
/// And when a third of the crowd flags, it is screened this often whatever the budget says, ms.
pub const PANEL_FORCED_EVERY_MS: u64 = 300_000;
/// Answers are due after this, ms.
pub const PANEL_DUE_MS: u64 = 7_000;
/// Rounds of a full panel.
pub const PANEL_ROUNDS: u8 = 5;
/// The fourth and fifth round come this long after the one before, ms.
pub const PANEL_LATE_ROUND_GAP_MS: u64 = 20_000;
/// A screening of this share calls the full panel,
pub const PANEL_SCREEN_SHARE: Ppm = 150_000;
/// with at least so many votes.
pub const PANEL_SCREEN_VOTES: usize = 4;
/// Below this share a full panel has refuted the suspicion.
pub const PANEL_STOP_SHARE: Ppm = 120_000;
/// Below this share a second panel, freshly drawn, must pass too.
pub const PANEL_SECOND_BELOW: Ppm = 600_000;
/// Seats of a zone at least.
pub const ZONE_SEATS_MIN: usize = 4;
/// Rest after a panel that came to nothing, ms, doubling up to the next.
pub const PANEL_BACKOFF_MS: u64 = 60_000;
/// The longest rest, ms.
pub const PANEL_BACKOFF_MAX_MS: u64 = 1_800_000;
/// After an inconclusive panel a screening must show so much more than it,
pub const PANEL_STAR_STEP: Ppm = 100_000;
/// it being taken as at most this,
pub const PANEL_STAR_MAX: Ppm = 350_000;
/// for this long, ms.
pub const PANEL_STAR_MS: u64 = 86_400_000;
/// Probes a day and agent that full rounds may cost, millionths,
pub const PANEL_FULL_DAY: i64 = 600 * ONE;
/// and at once, before any of a day has passed.
pub const PANEL_FULL_BURST: i64 = 400 * ONE;
/// Probes a day and agent that screenings may cost, millionths,
pub const PANEL_SCREEN_DAY: i64 = 400 * ONE;
/// and at once.
pub const PANEL_SCREEN_BURST: i64 = 120 * ONE;
/// Probes a day and agent that panels of suspicions may cost, millionths: thirty a minute, half of what
/// an agent does for all reasons together,
pub const PANEL_PACE_DAY: i64 = 43_200 * ONE;
/// and at once: two rounds.
pub const PANEL_PACE_BURST: i64 = 26 * ONE;
/// Between two tracking panels, ms.
pub const PANEL_TRACK_EVERY_MS: u64 = 60_000;
/// What a tracking panel found is good for this long, ms.
pub const PANEL_TRACK_GOOD_MS: u64 = 150_000;
/// Strikes after which a prefix raises no suspicion,
pub const STRIKES_MAX: u8 = 2;
/// for this long, ms, doubling up to a day.
pub const STRIKE_MS: u64 = 3_600_000;
/// Members of a second look at a site.
pub const LOOK_SEATS: usize = 48;
/// Sites behind the same providers that each probes beside it.
pub const LOOK_SIBLINGS: usize = 2;
/// Sites that have nothing to do with it.
pub const LOOK_CONTROLS: usize = 2;
/// Looks at most.
pub const LOOK_ROUNDS: u8 = 4;
/// Observers that may lie, as a share: that more of them saw the site fail must be more than chance,
pub const LOOK_LIARS: Ppm = 333_333;
/// by so many bits, 1/65536: 8, as one draw in 250.
pub const LOOK_BITS_Q16: i64 = 524_288;
/// A look is begun where a site's failures are less likely than this, in bits, 1/65536: 17, since some
/// two hundred sites are watched in some seven hundred windows a day.
pub const LOOK_WORTH_BITS_Q16: i64 = 1_114_112;
/// And where they are of so many votes, from as many zones as any verdict needs.
pub const LOOK_WORTH_VOTES: i64 = 5 * ONE / 2;
/// Probes a day and agent that second looks may cost, millionths,
pub const LOOK_DAY: i64 = 100 * ONE;
/// and at once.
pub const LOOK_BURST: i64 = 50 * ONE;
/// The longest rest of a site after a look that came to nothing, ms.
pub const LOOK_REST_MAX_MS: u64 = 7_200_000;
/// What a look at a site came to is good for this long at most, ms: then what is overheard calls another.
pub const LOOK_GOOD_MS: u64 = 600_000;
/// Rounds for which a site that seems to be down waits for a look before what is overheard decides.
pub const LOOK_WAIT: u8 = 8;
/// Share of observers who see any suspect fail by their own lines, in a panel's five rounds.
pub const STRATUM_BACKGROUND: Ppm = 100_000;
/// A rival explains failures that go away without it by so many bits, 1/65536: 6.
pub const RIVAL_BITS_Q16: i64 = 393_216;
/// Outside the largest stratum more must see it than that, by so many bits, 1/65536: 6.
pub const STRATUM_BITS_Q16: i64 = 393_216;
/// Votes over one address family below which nothing is said of it.
pub const FAMILY_VOTES: u32 = 12;
/// Second looks that begin at once, at most;
pub const LOOKS_AT_ONCE: usize = 4;
/// and that are under way.
pub const LOOKS_MAX: usize = 16;
/// A panel that was called by what is overheard and confirmed nothing is good for so much longer each
/// time: twice, up to two to the power of this.
pub const ASKED_DOUBLINGS: u8 = 5;
/// What a full panel came to is good for this long, ms: what is overheard does not overrule it.
pub const ASKED_GOOD_MS: u64 = 300_000;
/// Panels are looked at this often, ms.
pub const PANEL_TICK_MS: u64 = 1_000;

/// Step of a scheduled probe that nothing answered, in the CUSUM of an observer's own line,
pub const LINE_UP: u8 = 2;
/// and of one that was answered: it rises from a failure ratio of five sevenths on, which is more than
/// the largest provider's share of the sites.
pub const LINE_DOWN: u8 = 5;
/// From here on the line counts as cut: five failures running.
pub const LINE_CUT: u8 = 10;
/// Clipped here, so that three answers mend it.
pub const LINE_CAP: u8 = 15;
/// Over a pause this long nothing is carried on, ms.
pub const LINE_GAP_MS: u64 = 1_800_000;
/// A spell that is over is remembered from this length on, ms: longer than a bad moment on the radio.
pub const SPELL_MIN_MS: u64 = 300_000;
/// One that goes on counts from this length on, ms.
pub const SPELL_COUNTS_MS: u64 = 120_000;
/// A spell that was told of later counts for this long after it was heard, ms: those who were cut
/// off together come back within minutes of each other.
pub const SPELL_FRESH_MS: u64 = 1_800_000;
/// What is told of only when it is over is looked at for this long, ms: who comes back later may be of
/// a wider group, and there is no hurry.
pub const LATE_WAIT_MS: u64 = 300_000;
/// Share of the time for which some line is out of order by itself.
pub const LINE_BACKGROUND: Ppm = 5_000;
/// Prefixes that a network, country, resolver or version needs before anything is said of it,
pub const GROUP_PREFIXES: u32 = 5;
/// and of them, those that must be cut off.
pub const GROUP_CUT: usize = 3;
/// Share of a network that must be cut off together.
pub const NETWORK_SHARE: Ppm = 300_000;
/// Share of anything larger.
pub const GROUP_SHARE: Ppm = 500_000;
/// So many times the share among all others.
pub const GROUP_CONTRAST: i64 = 3;
/// The evidence that is needed, in bits of log-likelihood ratio, 1/65536: 8 nats.
pub const GROUP_BITS_Q16: i64 = 756_388;
/// Share of a group below which it counts as well again.
pub const GROUP_WELL: Ppm = 100_000;
/// Those lost within this time are lost together, ms.
pub const DARK_WITHIN_MS: u64 = 300_000;
/// Share of a group that must fall silent together for a suspicion.
pub const DARK_SHARE: Ppm = 500_000;
/// A group of which half is back for this long, without telling of a cut, was not cut, ms.
pub const DARK_BACK_MS: u64 = 900_000;
/// A group that stays silent is forgotten after this long, ms: as old as a report may be.
pub const DARK_MAX_MS: u64 = 7 * 86_400_000;
}

/// What an operator may set. Every field that differs from its default is shown on the page.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
            settle_s: ONLINE_MS / 1_000,
            anchors: Vec::new(),
            ask_back: true,
            panel_secret: [0; 32],
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
        let table = table();
        let of = |name: &str| table.iter().find(|p| p.name == name).unwrap();
        assert_eq!((of("CONFIRM").value, of("CONFIRM").unit), (CONFIRM, "share"));
        assert_eq!((of("TICK_MS").value, of("TICK_MS").unit), (5_000, "ms"));
        assert_eq!((of("SITE_WEIGHT").unit, of("LOOK_BITS_Q16").unit), ("votes", "bits"));
        assert_eq!(of("RING").unit, "");
        assert!(table.iter().all(|p| p.meaning.len() > 7 && p.value > 0));
        let source = include_str!("params.rs");
        let numbers = source.lines().filter(|line| line.starts_with("pub const ")).count();
        assert_eq!(table.len() + 2, numbers, "all but the version and its date");
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
