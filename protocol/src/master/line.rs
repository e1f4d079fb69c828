//! What placement asks of a job: in which line it waits, whether its slave could be without it, and when that changes by itself.

use std::cmp::Reverse;

use super::{Job, Placement};
use crate::id::JobId;
use crate::job::State;
use crate::message::{Reason, WaitingFor};
use crate::spec::{Desired, Gate};
use crate::time::{Millis, Time};

/// Who goes first: the lowest rank, then the oldest.
pub(super) type Place = (i64, JobId);

/// In the queue and at each slave there are two lines, each with a bound of its own: what can't start yet takes no place of what can.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Line {
    /// It could start, or executes: `capacity` bounds it.
    Now,
    /// It waits for its time, or at its slave for a person: `deferred_capacity` bounds it.
    Later,
}

/// The time by which jobs are listed, with the settings that matter for that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) struct View {
    pub(super) now: Time,
    pub(super) placement: Placement,
}

impl Job {
    /// The highest priority goes first, then the oldest. With ageing, each step of priority counts like so long a wait: a low job that has
    /// waited that much longer goes before a high one. Waiting lasts for all jobs alike, so the place of a job never changes by itself.
    pub(super) fn place(&self, placement: Placement) -> Place {
        let priority = i64::from(self.start.priority);
        let rank = match placement.ageing {
            None => -priority,
            Some(step) => {
                let step = i64::try_from(step.0).unwrap_or(i64::MAX);
                self.created_at.0.saturating_sub(priority.saturating_mul(step))
            }
        };
        (rank, self.id)
    }

    /// A slave that has both starts it before the other one: a slave knows priorities and no ageing.
    pub(super) fn starts_before(&self, other: &Self) -> bool {
        let order = |job: &Self| (Reverse(job.start.priority), job.id);
        order(self) < order(other)
    }

    /// A slave would start it before the other one although that goes first.
    pub(super) fn overtakes(&self, other: &Self, view: View) -> bool {
        other.place(view.placement) < self.place(view.placement) && self.starts_before(other)
    }

    /// It waits unstarted at its slave and could start there.
    pub(super) fn waits_there(&self, view: View) -> bool {
        self.is_unstarted() && self.line(view) == Some(Line::Now)
    }

    /// It is nobody's, and nothing but its time keeps it from a slave. What a person has to release waits for that in the queue.
    pub(super) fn seeks_a_slave(&self) -> bool {
        self.state == State::Queued && self.desired == Desired::Run && self.start.gate != Gate::Held
    }

    /// The line in which it waits for a slave; none while it is to be tried again later.
    pub(super) fn queue_line(&self, view: View) -> Option<Line> {
        let seeks_now = self.seeks_a_slave() && !self.waits_for_retry(view.now);
        seeks_now.then(|| if self.waits_for_its_time(view.now) { Line::Later } else { Line::Now })
    }

    /// The line in which it stands at its slave. One that the slave does not have any more stands in none: a person was asked about it.
    pub(super) fn line(&self, view: View) -> Option<Line> {
        if self.state == State::Uncertain && self.report.is_none() {
            return None;
        }
        let is_held = match self.start.gate {
            Gate::Held => true,
            Gate::Released { latest } => latest < view.now,
            Gate::Open => false,
        };
        // Its slave knows more, for example that its start was missed.
        let says_later = matches!(
            self.says_it_waits_for(),
            Some(WaitingFor::Time | WaitingFor::Operator | WaitingFor::Clock | WaitingFor::Elsewhere)
        );
        // A window that an earlier run has met counts no more.
        let is_early = !self.has_begun() && self.waits_for_its_time(view.now);
        let is_later = self.desired == Desired::Pause || is_held || is_early || says_later;
        Some(if self.is_with_a_slave() && is_later { Line::Later } else { Line::Now })
    }

    /// A slave has it or gets it, and it does not execute.
    fn is_with_a_slave(&self) -> bool {
        matches!(self.state, State::Assigned | State::Accepted)
    }

    /// It could be recalled, because it waits at its slave and could start as soon as a machine is free.
    pub(super) fn is_spare(&self, view: View) -> bool {
        self.is_unstarted() && self.wanted() == Desired::Run && self.line(view) == Some(Line::Now)
    }

    /// Its slave may still give it back.
    pub(super) fn is_being_recalled(&self) -> bool {
        self.recalled.is_some() && matches!(self.state, State::Assigned | State::Accepted | State::Starting)
    }

    /// Why its slave can't do it by its config of today, if it can't: it waits for the recall.
    pub(super) fn is_unfit_there(&self) -> Option<&Reason> {
        let report = self.report.as_ref().filter(|report| report.waiting_for == Some(WaitingFor::Elsewhere));
        report.filter(|_| self.state == State::Accepted).and_then(|report| report.reason.as_ref())
    }

    /// It could be recalled from a slave that can't start it: it could start, or its time is near, and no person has tied it to
    /// that slave.
    pub(super) fn is_movable(&self, view: View) -> bool {
        let is_near = self.nears(view.placement).is_some_and(|at| at <= view.now);
        let waits_for_time = is_near
            && self.start.gate == Gate::Open
            && self.says_it_waits_for().is_none_or(|it| it == WaitingFor::Time);
        let may_start = self.line(view) == Some(Line::Now) || waits_for_time;
        self.slave.is_none() && self.is_unstarted() && self.wanted() == Desired::Run && may_start
    }

    /// The moments at which it may change lines, or become movable, by itself.
    pub(super) fn turns(&self, placement: Placement) -> [Option<Time>; 2] {
        let waits = self.seeks_a_slave() || self.is_unstarted();
        match self.start.gate {
            Gate::Open if waits => {}
            // At its slave it waits for a person again, 1 ms after its latest start; in the queue that ends its window.
            Gate::Released { latest } if self.is_with_a_slave() => {
                return [Some(latest.after(Millis(1))), None];
            }
            Gate::Open | Gate::Held | Gate::Released { .. } => return [None, None],
        }
        let by_state = if self.state == State::Queued { self.retry_at } else { self.nears(placement) };
        [self.start.not_before, by_state]
    }

    /// When its time is near enough to recall it.
    fn nears(&self, placement: Placement) -> Option<Time> {
        let before = i64::try_from(placement.recall_before.0).unwrap_or(i64::MAX);
        self.start.not_before.map(|at| Time(at.0.saturating_sub(before)))
    }

    fn waits_for_its_time(&self, now: Time) -> bool {
        self.start.gate == Gate::Open && self.start.not_before.is_some_and(|at| at > now)
    }

    /// A slave has it, and no machine has begun it under its present attempt.
    fn is_unstarted(&self) -> bool {
        self.is_with_a_slave() && !self.has_begun()
    }

    /// What its slave says, if that has heard all that is wanted.
    fn says_it_waits_for(&self) -> Option<WaitingFor> {
        let report = self.report.as_ref().filter(|report| report.generation >= self.generation);
        report.and_then(|report| report.waiting_for)
    }
}

#[cfg(test)]
mod tests {
    use super::super::order::tests::{accepted, job};
    use super::*;
    use crate::message::Flags;
    use crate::time::Millis;

    const NOW: Time = Time(1_800_000_000_000);
    const HOUR: i64 = 3_600_000;

    fn view() -> View {
        View { now: NOW, placement: Placement { recall_before: Millis(HOUR.unsigned_abs()), ageing: None } }
    }

    fn in_ms(ms: i64) -> Option<Time> {
        Some(NOW.shifted(ms))
    }

    fn released(ms: i64) -> Gate {
        Gate::Released { latest: NOW.shifted(ms) }
    }

    /// What its slave says that it waits for, knowing all that is wanted.
    fn waits_for(job: &mut Job, waiting_for: WaitingFor) {
        let generation = job.generation;
        let report = job.report.as_mut().expect("it was accepted");
        (report.waiting_for, report.generation) = (Some(waiting_for), generation);
    }

    type Change = fn(&mut Job);

    #[test]
    fn in_the_queue_only_its_time_makes_it_wait_in_the_later_line() {
        let cases: [(&str, Change, Option<Line>); 8] = [
            ("plain", |_| {}, Some(Line::Now)),
            ("its time has come", |job| job.start.not_before = in_ms(0), Some(Line::Now)),
            ("its time comes", |job| job.start.not_before = in_ms(1), Some(Line::Later)),
            ("it is held", |job| job.start.gate = Gate::Held, None),
            (
                "it was released before its time",
                |job| (job.start.gate, job.start.not_before) = (released(0), in_ms(HOUR)),
                Some(Line::Now),
            ),
            ("it is paused", |job| job.desired = Desired::Pause, None),
            ("a slave has it", |job| job.state = State::Assigned, None),
            ("it has ended", |job| job.state = State::Failed, None),
        ];
        for (what, change, line) in cases {
            let mut job = job(1);
            change(&mut job);
            assert_eq!(job.queue_line(view()), line, "{what}");
        }
    }

    #[test]
    fn at_its_slave_it_stands_in_the_line_that_its_start_rule_and_its_slave_say() {
        let cases: [(&str, Change, Option<Line>); 14] = [
            ("plain", |_| {}, Some(Line::Now)),
            ("it has not answered", |job| (job.state, job.report) = (State::Assigned, None), Some(Line::Now)),
            ("its time comes", |job| job.start.not_before = in_ms(1), Some(Line::Later)),
            ("its time has come", |job| job.start.not_before = in_ms(0), Some(Line::Now)),
            ("it is held", |job| job.start.gate = Gate::Held, Some(Line::Later)),
            ("its release holds", |job| job.start.gate = released(0), Some(Line::Now)),
            ("its release has lapsed", |job| job.start.gate = released(-1), Some(Line::Later)),
            ("it is paused", |job| job.desired = Desired::Pause, Some(Line::Later)),
            ("its start was missed", |job| waits_for(job, WaitingFor::Operator), Some(Line::Later)),
            ("it waits for its turn", |job| waits_for(job, WaitingFor::Turn), Some(Line::Now)),
            (
                "its slave has not heard the newest",
                |job| {
                    waits_for(job, WaitingFor::Operator);
                    job.generation = job.generation.next();
                },
                Some(Line::Now),
            ),
            (
                "it is paused at work",
                |job| (job.state, job.desired) = (State::Paused, Desired::Pause),
                Some(Line::Now),
            ),
            (
                "it was begun in its window",
                |job| {
                    job.start.not_before = in_ms(1);
                    job.report.as_mut().unwrap().flags.set(Flags::INTERRUPTED);
                },
                Some(Line::Now),
            ),
            ("it has vanished", |job| (job.state, job.report) = (State::Uncertain, None), None),
        ];
        for (what, change, line) in cases {
            let mut job = accepted();
            change(&mut job);
            assert_eq!(job.line(view()), line, "{what}");
        }
    }

    #[test]
    fn only_what_has_not_begun_and_could_start_is_asked_back() {
        let cases: [(&str, Change, bool, bool); 11] = [
            ("plain", |_| {}, true, true),
            ("it is nobody's", |job| job.state = State::Queued, false, false),
            ("it is paused", |job| job.desired = Desired::Pause, false, false),
            ("it was recalled already", Job::recall, false, false),
            ("it is held", |job| job.start.gate = Gate::Held, false, false),
            ("it is for one slave", |job| job.slave = Some("mill-3".to_owned()), true, false),
            ("its time is near", |job| job.start.not_before = in_ms(HOUR), false, true),
            ("its time is far", |job| job.start.not_before = in_ms(HOUR + 1), false, false),
            (
                "its time is near, and it waits for a person",
                |job| {
                    job.start.not_before = in_ms(1);
                    waits_for(job, WaitingFor::Operator);
                },
                false,
                false,
            ),
            (
                "its time is near, and its slave says so",
                |job| {
                    job.start.not_before = in_ms(1);
                    waits_for(job, WaitingFor::Time);
                },
                false,
                true,
            ),
            (
                "it was interrupted, and may have begun",
                |job| job.report.as_mut().unwrap().flags.set(Flags::INTERRUPTED),
                false,
                false,
            ),
        ];
        for (what, change, is_spare, is_movable) in cases {
            let mut job = accepted();
            change(&mut job);
            assert_eq!((job.is_spare(view()), job.is_movable(view())), (is_spare, is_movable), "{what}");
        }
    }

    #[test]
    fn a_recall_is_open_until_its_slave_has_begun_the_job_or_has_lost_it() {
        let mut job = accepted();
        assert!(!job.is_being_recalled());
        job.recall();
        for (state, is_open) in [
            (State::Accepted, true),
            (State::Starting, true),
            (State::Running, false),
            (State::Uncertain, false),
        ] {
            job.state = state;
            assert_eq!(job.is_being_recalled(), is_open, "{state:?}");
        }
    }

    #[test]
    fn it_turns_when_its_time_comes_and_at_a_slave_when_that_is_near() {
        let placement = view().placement;
        let mut waits = job(1);
        assert_eq!(waits.turns(placement), [None, None]);
        waits.start.not_before = in_ms(2 * HOUR);
        assert_eq!(waits.turns(placement), [in_ms(2 * HOUR), None]);
        waits.start.gate = released(0);
        assert_eq!(waits.turns(placement), [None, None]);
        let mut held = accepted();
        held.start.not_before = in_ms(2 * HOUR);
        assert_eq!(held.turns(placement), [in_ms(2 * HOUR), in_ms(HOUR)]);
        held.start.gate = released(0);
        assert_eq!(held.turns(placement), [in_ms(1), None]);
        held.report.as_mut().unwrap().flags.set(Flags::INTERRUPTED);
        assert_eq!(held.turns(placement), [in_ms(1), None], "it was interrupted, and waits to begin anew");
        held.state = State::Running;
        assert_eq!(held.turns(placement), [None, None]);
    }
}
