//! One agent's decisions in one place: planner, outbox and what is known of the own line, driven by
//! time and by what probes find. No socket, no clock, no disk: the program and the simulation run
//! the same.

use std::sync::Arc;

use tocsin_proto::{
    catalogue::Catalogue,
    implicate::{DnsPath, implication},
    message::AskBack,
    observation::{Failure, LogMs, Observation},
    outcome::{Outcome, Phase},
    report::Health,
    rules::RuleNumber,
    time::Timestamp,
};

use super::{
    courtesy::{Courtesy, Others},
    judge::{Judge, Line},
    outbox::{Batch, Outbox, Seen},
    planner::{self, Action, Done, Event, Planner, Request},
    usual::Usual,
};

/// What a probe found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Finding {
    /// What came of it.
    pub outcome: Outcome,
    /// The rule that told whose fault it is.
    pub rule: RuleNumber,
    /// What the two ways of resolving said.
    pub dns: DnsPath,
    /// The HTTP status; 0 when there was none.
    pub status: u16,
    /// Milliseconds in dns, tcp, tls and http; 0 for phases not reached.
    pub phases_ms: [u64; 4],
    /// The whole probe's time, milliseconds.
    pub total_ms: u64,
    /// Bytes on the wire, both ways, headers included.
    pub bytes: u64,
    /// Seconds for which the target asks to be left alone.
    pub retry_after_s: Option<u32>,
    /// Whether a body comes unasked (HTTP/1.1); `None` when it did not come to that.
    pub body_comes: Option<bool>,
}

/// What the shell does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Say this to every operator, now.
    Say(Batch),
    /// Probe, now.
    Probe(Request),
}

/// An agent without its shell.
#[derive(Debug)]
pub struct Core {
    catalogue: Arc<Catalogue>,
    planner: Planner,
    outbox: Outbox,
    judge: Judge,
    usual: Usual,
}

fn effects(batches: Vec<Batch>, actions: Vec<Action>) -> Vec<Effect> {
    let batches = batches.into_iter().map(Effect::Say);
    batches
        .chain(actions.into_iter().map(|Action::Probe(request)| Effect::Probe(request)))
        .collect()
}

impl Core {
    /// One at rest, with what was probed before.
    #[must_use]
    pub fn new(setup: planner::Setup, courtesy: Courtesy, report_interval_s: u16) -> Self {
        Self {
            catalogue: Arc::clone(&setup.catalogue),
            planner: Planner::new(setup, courtesy),
            outbox: Outbox::new(report_interval_s),
            judge: Judge::default(),
            usual: Usual::default(),
        }
    }

    /// Time has passed.
    #[must_use]
    pub fn tick(&mut self, now: Timestamp) -> Vec<Effect> {
        let actions = self.planner.step(now, Event::Tick);
        effects(self.outbox.due(now), actions)
    }

    /// When [`Core::tick`] has something to do.
    #[must_use]
    pub fn next_deadline(&self, now: Timestamp) -> Timestamp {
        let planned = self.planner.next_deadline(now);
        self.outbox.next_deadline().map_or(planned, |at| at.min(planned))
    }

    /// A collector asks for so many scheduled probes a minute, and seconds between reports.
    #[must_use]
    pub fn schedule(&mut self, now: Timestamp, per_minute: u16, interval_s: u16) -> Vec<Effect> {
        self.outbox.interval(interval_s);
        effects(Vec::new(), self.planner.step(now, Event::ProbesPerMinute(per_minute)))
    }

    /// A collector asks for probes, now. The caps stand above it: what they forbid is not made, and a
    /// target that the catalogue does not have is passed over.
    #[must_use]
    pub fn ask(&mut self, now: Timestamp, ask: AskBack) -> Vec<Effect> {
        effects(Vec::new(), self.planner.step(now, Event::Ask(ask)))
    }

    /// What another process of this agent has done counts here too.
    #[must_use]
    pub fn others(&mut self, now: Timestamp, others: &Others) -> Vec<Effect> {
        let starts = others.starts.iter().map(|start| Event::Other(*start));
        let spent = (others.bytes > 0).then_some(Event::OtherSpent(others.bytes));
        let quiets = others.quiets.iter().map(|quiet| Event::OtherQuiet(*quiet));
        let mut actions = Vec::new();
        for event in starts.chain(spent).chain(quiets) {
            actions.extend(self.planner.step(now, event));
        }
        effects(Vec::new(), actions)
    }

    /// A probe that began at `at` has ended. Tells the outcome as it is reported, which may be
    /// `slow` where the probe itself found `ok`.
    #[must_use]
    pub fn found(
        &mut self,
        now: Timestamp,
        at: Timestamp,
        request: Request,
        finding: &Finding,
    ) -> (Outcome, Vec<Effect>) {
        let Request { target, family, .. } = request;
        let mut outcome = finding.outcome;
        // Most names have no address of one family. That is how they are, and no failure, unless
        // there was one lately; what the own resolver alone says is no news of the name at all.
        let missing = outcome == Outcome::DnsNodata && finding.dns != DnsPath::SystemOnly;
        if missing && !self.planner.had_address(now, target, family) {
            let done = Done {
                request,
                failed: false,
                implication: implication(Outcome::Intercepted, None, finding.dns),
                bytes: finding.bytes,
                retry_after_s: None,
                has_address: Some(false),
                body_comes: None,
            };
            let actions = self.planner.step(now, Event::Done(done));
            return (outcome, effects(Vec::new(), actions));
        }
        if outcome == Outcome::Ok && self.usual.is_slow(target, family, finding.total_ms) {
            outcome = Outcome::Slow;
        }
        let failure = (outcome != Outcome::Ok).then(|| Failure {
            rule: finding.rule,
            dns: finding.dns,
            status: finding.status,
            phases: finding.phases_ms.map(LogMs::from_ms),
        });
        let (cause, latency) = (request.purpose.cause(), LogMs::from_ms(finding.total_ms));
        let seen = Seen { at, target, family, cause, outcome, latency, failure };
        let observation =
            Observation { target, after_ds: 0, family, cause, outcome, latency, failure };
        self.judge.record(target, family, finding.outcome, finding.dns);
        let batches = self.outbox.push(now, seen);
        let done = Done {
            request,
            failed: !finding.outcome.is_answer(),
            implication: observation.implication(),
            bytes: finding.bytes,
            retry_after_s: finding.retry_after_s,
            has_address: (finding.outcome.phase() != Some(Phase::Dns)).then_some(true),
            body_comes: finding.body_comes,
        };
        let actions = self.planner.step(now, Event::Done(done));
        (outcome, effects(batches, actions))
    }

    /// Everything that waits, now.
    #[must_use]
    pub fn flush(&mut self) -> Vec<Batch> {
        self.outbox.flush()
    }

    /// The machine is in another network: what was learnt of the line is of the old one. Flush
    /// first.
    pub fn moved(&mut self) {
        self.judge = Judge::default();
    }

    /// What waits for its report, as it would be now.
    #[must_use]
    pub fn waiting(&self) -> Option<Batch> {
        self.outbox.waiting()
    }

    /// What it keeps to, and what has been spent.
    #[must_use]
    pub const fn courtesy(&self) -> &Courtesy {
        self.planner.courtesy()
    }

    /// The health vector, of the probes and of what else is known of the line.
    #[must_use]
    pub fn health(&self, now: Timestamp, line: Line) -> Health {
        let line = Line { thinned: self.planner.thinned(now), ..line };
        self.judge.health(&self.catalogue, line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tocsin_proto::{catalogue::Catalogue, observation::Family};

    use crate::engine::planner::{Names, Purpose};

    const NOW: Timestamp = Timestamp::from_s(1_800_000_000);

    fn core() -> Core {
        let setup = planner::Setup {
            catalogue: Arc::new(Catalogue::builtin().clone()),
            families: vec![Family::V4],
            seed: [1; 32],
            probes_per_minute_max: 60,
        };
        Core::new(setup, Courtesy::new(30_000_000), 60)
    }

    fn finding(outcome: Outcome, dns: DnsPath) -> Finding {
        Finding {
            outcome,
            rule: RuleNumber::NONE,
            dns,
            status: 0,
            phases_ms: [1; 4],
            total_ms: 9,
            bytes: 100,
            retry_after_s: None,
            body_comes: None,
        }
    }

    #[test]
    fn a_name_that_loses_its_address_fails_and_one_that_never_had_any_does_not() {
        let mut core = core();
        let target = *Catalogue::builtin().targets().keys().next().unwrap();
        let request = |family| Request {
            target,
            family,
            purpose: Purpose::Turn,
            full_handshake: false,
            names: Names::Own,
        };
        let mut find = |at_s: u64, family, outcome, dns| {
            let now = NOW.plus_ms(at_s * 1000);
            let (_, effects) = core.found(now, now, request(family), &finding(outcome, dns));
            let said = effects.iter().filter(|effect| matches!(effect, Effect::Say(_))).count();
            (said, core.waiting().is_some())
        };
        let (nodata, both) = (Outcome::DnsNodata, DnsPath::Both);
        assert_eq!(find(0, Family::V6, nodata, both), (0, false), "it has none");
        assert_eq!(find(1, Family::V4, Outcome::Ok, DnsPath::Unconfirmed), (0, true));
        assert_eq!(find(2, Family::V4, nodata, both), (1, false), "it had one a second ago");
        assert_eq!(find(3, Family::V4, nodata, DnsPath::SystemOnly), (1, false));
        assert_eq!(find(90_000, Family::V4, nodata, both), (0, false), "for a day it had none");
    }
}
