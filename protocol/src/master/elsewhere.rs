//! What waits unstarted at one slave and could go to another, and what goes there first because of that.

use super::availability::Ability;
use super::line::{Line, Place};
use super::{Job, Master, SlaveRecord};
use crate::id::{JobId, SlaveKey};

impl Master {
    /// It waits unstarted at this slave, which can't start it or may start it later only.
    pub(super) fn is_movable_from(&self, holder: SlaveKey, job: &Job) -> bool {
        let view = self.book.view();
        let Some(slave) = self.slaves.get(&holder) else { return false };
        match slave.ability() {
            Ability::Away => false,
            Ability::Barred => job.is_movable(view),
            // It may be free by the time of a deferred job.
            Ability::Declining | Ability::Able => job.is_movable(view) && job.is_spare(view),
        }
    }

    /// What of a slave's jobs this other slave could take.
    fn movable(&self, holder: SlaveKey, taker: &SlaveRecord) -> impl Iterator<Item = &Job> {
        let can_have = move |job: &Job| taker.can_do(job) && !self.would_overtake(taker.key, job);
        self.book.held_by(holder).filter(move |job| self.is_movable_from(holder, job) && can_have(job))
    }

    /// A job that this slave could do, at another one that can't start it; or, for an idle slave, at one that is at work.
    pub(super) fn spare_for(&self, key: SlaveKey, is_idle: bool) -> Option<JobId> {
        let slave = self.slaves.get(&key)?;
        let first = |program: &String| {
            let lists = &self.availability;
            let place = |job: &Job| job.place(self.book.view().placement);
            let first_at = |(_, holder)| self.movable(holder, slave).map(place).min();
            let stuck = lists.stuck(program).find_map(first_at);
            let behind = || lists.behind(program).find_map(first_at);
            stuck.into_iter().chain(if is_idle { behind() } else { None }).min()
        };
        slave.programs.iter().filter_map(first).min().map(|(_, id)| id)
    }

    /// The slave is to have another job before this queued one. One that is recalled for it, or that waits at a slave which can't start
    /// it; or a clearly more urgent one that waits behind the work of another slave, and comes here as soon as this slave idles. Nobody
    /// knows who of the two will be free first, so that one stays where it is until then, and this slave is given nothing to do instead.
    pub(super) fn goes_there_first(&self, key: SlaveKey, queued: Place) -> Option<JobId> {
        let Self { slaves, book, availability, .. } = self;
        if !availability.lends_any() {
            return None;
        }
        let slave = slaves.get(&key)?;
        let view = book.view();
        let placement = view.placement;
        let goes_before = |first: &Place| *first < queued;
        let is_more_urgent = |first: &Place| first.0.saturating_add(placement.step_of_priority()) <= queued.0;
        let expected = availability.expected(key).and_then(|id| book.jobs.get_assigned(&id));
        // What waits for its time takes no place of what could start.
        let expected = expected.filter(|job| job.line(view) == Some(Line::Now));
        let expected = expected.map(|job| job.place(placement)).filter(goes_before);
        let elsewhere = |program: &String| {
            let first_at = |(_, holder): (Place, SlaveKey)| {
                let spare = self.movable(holder, slave).filter(|job| job.is_spare(view));
                spare.map(|job| job.place(placement)).min()
            };
            let stuck = availability.stuck(program).take_while(|(first, _)| goes_before(first));
            let behind = availability.behind(program).take_while(|(first, _)| is_more_urgent(first));
            let stuck = stuck.filter_map(first_at).find(goes_before);
            stuck.or_else(|| {
                let behind = behind.filter(|(_, holder)| *holder != key);
                behind.filter_map(first_at).find(is_more_urgent)
            })
        };
        expected.or_else(|| slave.programs.iter().find_map(elsewhere)).map(|(_, id)| id)
    }

    /// The slave has a job that goes before this one and that it would start after it. It gets nothing of that kind until it has begun
    /// that job: otherwise a stream of urgent jobs would keep it from that for ever.
    pub(super) fn would_overtake(&self, key: SlaveKey, job: &Job) -> bool {
        let view = self.book.view();
        let is_kept_waiting = |held: &Job| held.waits_there(view) && job.overtakes(held, view);
        view.placement.ageing.is_some() && self.book.held_by(key).any(is_kept_waiting)
    }
}
