//! What lapses: a release, an enrolment token, and the wait before a retry. Each is kept as the moment at which it lapses, by the master's wall clock, which
//! people and time services set.
//!
//! If the clock is set back while the master is up, those moments move with it, so that what is left stays the same. If it is set
//! forwards, they stay, and lapse early: a box that was suspended looks the same, and then that time has really passed. A clock
//! that was set while the master was off can't be measured. So the master writes what the clock showed when it last made something that
//! lapses; if the clock shows an earlier time later, everything that was made has lapsed.

use super::{Event, Rules, Write};
use crate::spec::Gate;
use crate::time::{CLOCK_STEP, Time};

impl Rules {
    /// At the end of a step: writes what the clock shows, if something was made that lapses.
    pub(super) fn write_clock_mark(&mut self) {
        if self.out.is_clock_marked() && self.now > self.state.clock_mark {
            self.set_clock_mark(self.now);
        }
    }

    /// The clock was set by `step_ms` while the master was up.
    pub(super) fn move_with_clock(&mut self, step_ms: i64) {
        if step_ms >= 0 {
            return;
        }
        self.change_lapses(|moment| moment.shifted(step_ms));
        if self.state.clock_mark != Time(i64::MIN) {
            self.set_clock_mark(self.state.clock_mark.shifted(step_ms));
        }
    }

    /// Ends all that lapses if the clock shows an earlier time than when the newest of it was made. Not at
    /// [`Event::ClockSet`], which says by how much the clock was set, and not at an event that only loads records.
    pub(super) fn lapse_if_clock_went_back(&mut self, event: &Event) {
        let is_judged = !matches!(event, Event::ClockSet { .. } | Event::Loaded(_));
        if !is_judged || self.now.after(CLOCK_STEP) >= self.state.clock_mark {
            return;
        }
        let lapsed = self.now.shifted(-1);
        self.change_lapses(|moment| moment.min(lapsed));
        self.set_clock_mark(self.now);
    }

    fn set_clock_mark(&mut self, to: Time) {
        self.state.clock_mark = to;
        self.out.persist.push(Write::ClockMark(to));
    }

    /// Changes when releases and tokens lapse, and when jobs are tried again. Slaves are told in the handshakes that follow, by a higher generation: one that was
    /// rebooted can't measure by how much the clock was set.
    fn change_lapses(&mut self, to: impl Fn(Time) -> Time) {
        let changed = |at: Time| Some(to(at)).filter(|new| *new != at);
        let waiting =
            self.state.book.jobs.values().filter(|job| !job.state.is_started() && !job.state.is_ended());
        let released = waiting.filter_map(|job| match job.start.gate {
            Gate::Released { latest } => Some((job.id, changed(latest)?)),
            Gate::Open | Gate::Held => None,
        });
        for (id, latest) in released.collect::<Vec<_>>() {
            self.jobs().edit(id, |job| {
                job.start.gate = Gate::Released { latest };
                job.generation = job.generation.next();
            });
        }
        let retried =
            self.state.book.jobs.assigned().filter_map(|job| Some((job.id, changed(job.retry_at?)?)));
        for (id, at) in retried.collect::<Vec<_>>() {
            self.jobs().edit(id, |job| job.retry_at = Some(at));
        }
        for (hash, token) in &mut self.state.tokens {
            if let Some(expires_at) = changed(token.expires_at) {
                token.expires_at = expires_at;
                self.out.persist.push(Write::Token(*hash, Some(token.clone())));
            }
        }
    }
}
