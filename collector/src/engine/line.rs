//! The observer's own line: whether anything answers it at all, and since when not.
//!
//! The same statistic as for a provider, an integer CUSUM (Page 1954), over everything that was
//! scheduled: +2 for what does not answer, -5 for what does, so that it rises once more than five of
//! seven fail. It goes by the time of the observations, so a backlog that arrives hours later
//! tells the same story as live reports would have.

use serde::{Deserialize, Serialize};
use tocsin_proto::time::Timestamp;

use super::{fixed::share, params::Params};

/// A time for which next to nothing answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spell {
    /// Its first failure.
    pub from: Timestamp,
    /// Its last.
    pub to: Timestamp,
    /// Whether names failed by the observer's own resolver, and not by the other path.
    pub names: bool,
    /// When the last of its failures arrived.
    pub heard_at: Timestamp,
}

impl Spell {
    /// How long it lasted, so far, milliseconds.
    #[must_use]
    pub const fn length_ms(&self) -> u64 {
        self.to.since_ms(self.from)
    }
}

/// The line.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Line {
    seen: Timestamp,
    /// `None` while it has nothing to tell.
    trouble: Option<Box<Trouble>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
struct Trouble {
    level: u8,
    cut: bool,
    /// Failures of the run, and those of the own resolver among them; both stop at 255.
    failures: u8,
    of_resolver: u8,
    /// Whether those of the own resolver are most.
    names: bool,
    began: Timestamp,
    failed: Timestamp,
    heard_at: Timestamp,
    past: Option<Spell>,
}

impl Line {
    /// Takes what came of a scheduled probe at `at`, which is heard of `now`. What is older than
    /// what was heard before changes nothing.
    pub fn observe(
        &mut self,
        p: &Params,
        now: Timestamp,
        at: Timestamp,
        answered: bool,
        own_resolver: bool,
    ) {
        if at < self.seen {
            return;
        }
        // Nobody looked for so long that this is another story.
        if at.since_ms(self.seen) > p.line_gap_ms {
            self.end(p);
        }
        self.seen = at;
        if answered {
            if let Some(trouble) = &mut self.trouble {
                trouble.level = trouble.level.saturating_sub(p.line_down);
                if trouble.level == 0 {
                    self.end(p);
                }
            }
            return;
        }
        let trouble = self.trouble.get_or_insert_default();
        if trouble.level == 0 {
            (trouble.began, trouble.failures, trouble.of_resolver) = (at, 0, 0);
        }
        trouble.level = trouble.level.saturating_add(p.line_up).min(p.line_cap);
        trouble.failures = trouble.failures.saturating_add(1);
        trouble.of_resolver = trouble.of_resolver.saturating_add(own_resolver.into());
        let of_resolver = share(trouble.of_resolver.into(), trouble.failures.into());
        trouble.names = of_resolver >= p.names_share;
        (trouble.failed, trouble.heard_at) = (at, now);
        trouble.cut |= trouble.level >= p.line_cut;
    }

    fn end(&mut self, p: &Params) {
        // Three bad minutes on the radio are no outage.
        let over = self.current().filter(|spell| spell.length_ms() >= p.spell_min_ms);
        let past = over.or(self.past());
        self.trouble =
            past.map(|past| Box::new(Trouble { past: Some(past), ..Trouble::default() }));
    }

    /// The spell that goes on.
    #[must_use]
    pub fn current(&self) -> Option<Spell> {
        let trouble = self.trouble.as_ref().filter(|trouble| trouble.cut)?;
        Some(Spell {
            from: trouble.began,
            to: trouble.failed,
            names: trouble.names,
            heard_at: trouble.heard_at,
        })
    }

    /// The last one that is over.
    #[must_use]
    pub fn past(&self) -> Option<Spell> {
        self.trouble.as_ref()?.past
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp::from_s(1_800_000_000);

    /// Probes every 20 s, by what came of them.
    fn line(probes: &[(usize, bool)]) -> (Line, Timestamp) {
        let (mut line, mut at) = (Line::default(), START);
        for (count, answered) in probes {
            for _ in 0..*count {
                line.observe(&Params::DEFAULT, at, at, *answered, false);
                at = at.plus_ms(20_000);
            }
        }
        (line, at)
    }

    #[test]
    fn what_fails_for_minutes_is_a_spell_with_its_own_times() {
        let (cut, _) = line(&[(30, true), (10, false)]);
        let spell = cut.current().unwrap();
        assert_eq!(spell.from, START.plus_ms(30 * 20_000));
        assert_eq!(spell.length_ms(), 9 * 20_000);
        assert_eq!(cut.past(), None);
        let (over, _) = line(&[(30, true), (30, false), (3, true)]);
        assert_eq!(over.current(), None);
        assert_eq!(over.past().map(|spell| spell.length_ms()), Some(29 * 20_000));
        let (short, _) = line(&[(30, true), (9, false), (3, true)]);
        assert_eq!((short.current(), short.past()), (None, None), "three minutes are none");
    }

    #[test]
    fn one_provider_of_three_fifths_of_the_sites_is_no_dead_line() {
        let mut line = Line::default();
        for n in 0..300 {
            let at = START.plus_ms(n * 20_000);
            line.observe(&Params::DEFAULT, at, at, n % 5 > 2, false);
            assert_eq!(line.current(), None, "{n}");
        }
    }

    #[test]
    fn after_a_night_off_it_is_another_story() {
        let (mut line, at) = line(&[(4, false)]);
        let morning = at.plus_ms(8 * 3_600_000);
        line.observe(&Params::DEFAULT, morning, morning, false, false);
        assert_eq!(line.current(), None);
        // And what is older than what is known changes nothing.
        line.observe(&Params::DEFAULT, morning, START, false, false);
        line.observe(&Params::DEFAULT, morning, START, false, false);
        line.observe(&Params::DEFAULT, morning, START, false, false);
        assert_eq!(line.current(), None);
    }
}
