//! The observers' side, as the detector keeps it: who is cut off, who fell silent, and what those have
//! in common. The rule is [`groups`]'.

use super::*;

impl Detector {
    /// Who is cut off, and what those have in common.
    pub(super) fn judge_groups(&mut self, changed: &mut Vec<Changed>) {
        let p = &Arc::clone(&self.settings.params);
        let State { groups, census, cut, lost, observers, now, ended, .. } = &mut self.state;
        let now = *now;
        let of = |id: u32| observers.get(id as usize).and_then(Option::as_deref);
        let mut cuts = Vec::new();
        cut.retain(|id| {
            let Some(observer) = of(*id) else { return false };
            let online = observer.is_online(p, now);
            let current = observer.line.current();
            let fresh = |spell: &Spell| now.since_ms(spell.heard_at) <= p.spell_fresh_ms;
            let Some(spell) = current.or(observer.line.past()).filter(fresh) else { return false };
            if !observer.is_sick(p) {
                let (standing, within) = (observer.standing, observer.within.into());
                let cut_now = online && current.is_some();
                cuts.push(Cut { observer: *id, standing, within, spell, now: cut_now });
            }
            true
        });
        lost.retain(|_, at| now.since_ms(*at) <= p.dark_within_ms);
        let silent: Vec<_> = lost
            .iter()
            .filter_map(|(id, at)| {
                let observer = of(*id).filter(|o| !o.is_online(p, now))?;
                Some((*at, *id, observer.standing, observer.within.into()))
            })
            .collect();
        let scene = groups::Scene {
            now,
            cuts: &cuts,
            lost: &silent,
            members: &|group| members_of(p, now, observers, group).collect(),
            heard_since: &|id, at| of(id).is_none_or(|observer| observer.last_seen > at),
            census,
        };
        let mut reopened = Vec::new();
        let over = groups.judge(p, &scene, changed, &mut reopened);
        ended.retain(|(_, incident, _)| !reopened.contains(&incident.id));
        ended.extend(over.into_iter().map(|(group, i, met)| (Subject::Group(group), i, met)));
    }

    /// Who of a group was heard in the last hour and has a vote: where it stands, and whether it is
    /// cut off now.
    pub fn members(&self, group: Group) -> impl Iterator<Item = (Standing, bool)> {
        let observers = &self.state.observers;
        let of = members_of(&self.settings.params, self.state.now, observers, group);
        of.map(|(id, standing)| {
            let observer = observers.get(id as usize).and_then(Option::as_deref);
            (standing, observer.is_some_and(|observer| observer.line.current().is_some()))
        })
    }

    /// The share of a group that is cut off now.
    #[must_use]
    pub fn cut_share(&self, group: Group) -> Ppm {
        let p = &*self.settings.params;
        let cut = |id: &u32| {
            let observer = self.state.observers.get(*id as usize)?.as_deref()?;
            let online = observer.is_online(p, self.state.now);
            let counts = online && observer.line.current().is_some() && !observer.is_sick(p);
            (counts && group.has(&observer.standing)).then_some(i64::from(observer.within))
        };
        share(self.state.cut.iter().filter_map(cut).sum(), self.state.census.of(group))
    }
}

/// Who of a group was heard in the last hour and has a vote.
fn members_of(
    p: &Params,
    now: Timestamp,
    observers: &[Option<Box<Observer>>],
    group: Group,
) -> impl Iterator<Item = (u32, Standing)> {
    (0u32..).zip(observers).filter_map(move |(id, observer)| {
        let observer = observer.as_deref()?;
        let heard = now.since_ms(observer.last_seen) <= p.forget_ms;
        let counts = heard && observer.within > 0 && group.has(&observer.standing);
        counts.then_some((id, observer.standing))
    })
}
