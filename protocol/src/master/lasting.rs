//! What holds for a length of time: a release, an enrolment token. Each is kept as the moment at which it lapses, by a wall
//! clock that people and time services set.
//!
//! While the master is there, it notices that its clock was set back, and moves those moments by as much: what is left stays. If it was
//! set forwards, they lapse early: a box that stood still looks the same, and then more time has passed. It can't notice that while it is off. So what it makes to last is written with the time at which it was made, and a clock that shows an earlier
//! time than that has gone back: nobody knows how long it was, and all of it has lapsed.

use super::{Event, Rules, Write};
use crate::spec::Gate;
use crate::time::{CLOCK_STEP, Time};

impl Rules {
    /// Something was made that lasts for a length of time from now.
    pub(super) fn count_from_now(&mut self) {
        if self.now > self.state.counted_until {
            self.state.counted_until = self.now;
            self.persist.push(Write::CountedUntil(self.now));
        }
    }

    /// The clock was set by so many milliseconds, under the eyes of the master.
    pub(super) fn follow_a_clock_that_was_set(&mut self, step_ms: i64) {
        if step_ms >= 0 || self.state.counted_until == Time(i64::MIN) {
            return;
        }
        self.move_what_lasts(|moment| moment.shifted(step_ms));
        self.state.counted_until = self.state.counted_until.shifted(step_ms);
        self.persist.push(Write::CountedUntil(self.state.counted_until));
    }

    /// Takes back what lasts only so long if the clock went back while nobody looked. Not at an event that says by how much it was
    /// set, nor at one that only loads records.
    pub(super) fn distrust_a_clock_that_went_back(&mut self, event: &Event) {
        let is_judged =
            !matches!(event, Event::ClockSet { .. } | Event::JobsLoaded(_) | Event::OrdersLoaded(_));
        if !is_judged || self.now.after(CLOCK_STEP) >= self.state.counted_until {
            return;
        }
        let lapsed = self.now.shifted(-1);
        self.move_what_lasts(|moment| moment.min(lapsed));
        self.state.counted_until = self.now;
        self.persist.push(Write::CountedUntil(self.now));
    }

    /// Changes until when each release and each token holds. Slaves are told of it: one that was rebooted has no other measure.
    pub(super) fn move_what_lasts(&mut self, to: impl Fn(Time) -> Time) {
        let released = |gate| match gate {
            Gate::Released { latest } => Some(to(latest)),
            Gate::Open | Gate::Held => None,
        };
        let jobs = self.state.book.jobs.values().filter(|job| !job.state.is_started());
        let jobs: Vec<_> = jobs.filter_map(|job| Some((job.id, released(job.start.gate)?))).collect();
        for (id, latest) in jobs {
            self.edit(id, |job| {
                job.start.gate = Gate::Released { latest };
                job.generation = job.generation.next();
            });
        }
        for (hash, token) in &mut self.state.tokens {
            token.expires_at = to(token.expires_at);
            self.persist.push(Write::Token(*hash, Some(token.clone())));
        }
    }
}
