//! What waits unstarted at one slave and could go to another, and what goes there first because of that.

use super::availability::Ability;
use super::line::{Line, Place};
use super::{Job, Master, SlaveRecord};
use crate::id::{JobId, SlaveKey};

/// Only so many slaves, those whose jobs are the first in line, are looked at for what another slave could have from them: a look at
/// thousands would cost more than it finds.
const LENDERS: usize = 8;

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
        let place = |job: &Job| job.place(self.book.view().placement);
        let first = |program: &String| {
            let first_at = |(_, holder)| self.movable(holder, slave).map(place).min();
            let mut found = self.availability.stuck(program).find_map(first_at);
            let behind = self.availability.behind(program).filter(|_| is_idle).enumerate();
            for (number, lender) in behind {
                // Who is listed first may be so for a job that this slave can't do.
                if number >= LENDERS && found.is_some() {
                    break;
                }
                found = found.into_iter().chain(first_at(lender)).min();
            }
            found
        };
        slave.programs.iter().filter_map(first).min().map(|(_, id)| id)
    }

    /// The slave is to have another job before a queued one in this place. One that is recalled for it, or that waits at a slave which
    /// can't start it; or one of higher priority that waits behind the work of another slave, and comes here as soon as this slave idles.
    /// Nobody knows who of the two will be free first, so that one stays where it is until then, and this slave gets nothing else to do.
    pub(super) fn goes_there_first(&self, key: SlaveKey, queued: Place) -> Option<Place> {
        let Self { slaves, book, availability, .. } = self;
        if !availability.lends_any() {
            return None;
        }
        let slave = slaves.get(&key)?;
        let view = book.view();
        let place = |job: &Job| job.place(view.placement);
        let goes_before = |first: &Place| *first < queued;
        let expected = availability.expected(key).filter_map(|id| book.jobs.get_assigned(&id));
        // What waits for its time takes no place of what could start.
        let mut expected = expected.filter(|job| job.line(view) == Some(Line::Now)).map(place);
        let expected = expected.find(goes_before);
        // Where waiting counts like priority, each older job would hold back all later ones.
        let is_more_urgent = |first: &Place| view.placement.ageing.is_none() && first.0 < queued.0;
        let elsewhere = |program: &String| {
            let first_at = |(_, holder)| {
                let spare = self.movable(holder, slave).filter(|job| job.is_spare(view));
                spare.map(place).min()
            };
            let stuck = availability.stuck(program).take(LENDERS).take_while(|(first, _)| goes_before(first));
            let stuck = stuck.filter_map(first_at).find(goes_before);
            let behind = availability.behind(program).take(LENDERS);
            let behind =
                behind.take_while(|(first, _)| is_more_urgent(first)).filter(|(_, holder)| *holder != key);
            stuck.or_else(|| behind.filter_map(first_at).find(is_more_urgent))
        };
        expected.or_else(|| slave.programs.iter().find_map(elsewhere))
    }

    /// The slave has a job that goes before this one and that it would start after it. It gets nothing of that kind until it has begun
    /// that job: otherwise a stream of urgent jobs would keep it from that for ever.
    pub(super) fn would_overtake(&self, key: SlaveKey, job: &Job) -> bool {
        let view = self.book.view();
        let is_kept_waiting = |held: &Job| held.waits_there(view) && job.overtakes(held, view);
        view.placement.ageing.is_some() && self.book.held_by(key).any(is_kept_waiting)
    }
}
