//! Mutants that survive although the tests have no gap: the change makes no difference, or none that is promised.

/// Mutants by name, with the reason why each survives.
pub const EXPLAINED: &[(&str, &str)] = &[
    (
        "protocol/src/master/attempts.rs: replace > with >= in Job::speaker in `let is_replaced = self.holder == Some(other.holder) && other.attempt > self.attempt;`",
        "the attempt that speaks is not among the others",
    ),
    (
        "protocol/src/master/state.rs: replace > with >= in Master::doubters in `self.doubted_by.len().max(usize::from(self.later > self.node.epoch))`",
        "only an epoch later than the master's own is noted, and the master's next one comes after it",
    ),
    (
        "protocol/src/master/order.rs: replace match guard state.is_ended() with true in Job::enter in `_ if state.is_ended() => report.ended_at,`",
        "a report of a job that has not ended has no end time",
    ),
    (
        "protocol/src/master/report.rs: replace match guard settling with true in Visit<'_>::received in `Message::Settled(settled) if settling => self.settled(link, settled),`",
        "after a second Settled no handshake is under way, and the next check closes the link with the same code",
    ),
    (
        "protocol/src/master/report.rs: replace > with >= in Visit<'_>::judge_report in `let older = job.report.as_ref().is_some_and(|known| known.seq > report.seq);`",
        "two reports with the same number are equal",
    ),
    (
        "protocol/src/master/live.rs: replace < with <= in Live::values in `merged(self.jobs.iter(), self.waiting.iter(), |assigned, waiting| assigned < waiting)`",
        "no job is both assigned and waiting, so no two are equal",
    ),
    (
        "protocol/src/master/live.rs: replace > with >= in Live::newest_first in `merged(assigned, waiting, |assigned, waiting| assigned > waiting)`",
        "no job is both assigned and waiting, so no two are equal",
    ),
    (
        "protocol/src/master/command.rs: replace > with >= in Rules::log_asked in `let run = found.report.as_ref().map(|report| report.run).filter(|run| *run > Run(0));`",
        "if nothing has begun the slave is asked, and answers that there is no output",
    ),
    (
        "protocol/src/slave/clock.rs: replace < with <= in masters_step_back in `step.filter(|step| *step < 0)`",
        "a step is more than a second, so none is 0",
    ),
    (
        "protocol/src/slave/jobs.rs: replace > with >= in Jobs<'a>::remember in `while recent_outcomes.len() > RECENT_OUTCOMES || bytes(recent_outcomes) > RECENT_OUTCOMES_BYTES {` (2)",
        "it differs only if the recent outcomes have exactly that many bytes, and one record less is as good",
    ),
    (
        "protocol/src/master/lapse.rs: replace > with >= in Rules::write_clock_mark in `if self.out.is_clock_marked() && self.now > self.state.clock_mark {`",
        "it writes the same time again",
    ),
    (
        "protocol/src/message/live.rs: replace | with ^ in `pub const MASTERS_OF_ATTEMPT: Self = Self(Self::LATE_RESULT.0 | Self::OVERTAKEN.0);`",
        "no two flags share a bit",
    ),
    (
        "protocol/src/message/live.rs: replace | with ^ in `pub const OF_ATTEMPT: Self = Self(Self::CANCEL_TOO_LATE.0 | Self::MASTERS_OF_ATTEMPT.0);`",
        "no two flags share a bit",
    ),
    (
        "protocol/src/message/live.rs: replace | with ^ in `Self(Self::OVERDUE.0 | Self::CANCEL_TOO_LATE.0 | Self::MISSED_START.0 | Self::INTERRUPTED.0);`",
        "no two flags share a bit",
    ),
    (
        "protocol/src/message/live.rs: replace | with ^ in `Self(Self::OVERDUE.0 | Self::CANCEL_TOO_LATE.0 | Self::MISSED_START.0 | Self::INTERRUPTED.0);` (2)",
        "no two flags share a bit",
    ),
    (
        "protocol/src/message/live.rs: replace | with ^ in `Self(Self::OVERDUE.0 | Self::CANCEL_TOO_LATE.0 | Self::MISSED_START.0 | Self::INTERRUPTED.0);` (3)",
        "no two flags share a bit",
    ),
];
