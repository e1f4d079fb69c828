//! Mutants that nobody notices, and why that is no gap: what they change makes no difference, or none that is promised.

/// The mutants by name, and why each survives.
pub const EXPLAINED: &[(&str, &str)] = &[
    (
        "protocol/src/master/order.rs: replace match guard state.is_ended() with true in Job::enter in `_ if state.is_ended() => report.ended_at,`",
        "a report of a state that has not ended has no time of an end",
    ),
    (
        "protocol/src/master/report.rs: replace match guard settling with true in Visit<'_>::received in `Message::Settled(settled) if settling => self.settled(link, settled),`",
        "who settles twice has no handshake under way: the next check closes with the same code",
    ),
    (
        "protocol/src/master/placement.rs: replace == with != in is_pressing in `|| job.start.gate == Gate::Held;`",
        "the slave's own report says what it waits for; this counts only until that report is there",
    ),
    (
        "protocol/src/master/placement.rs: replace || with && in is_pressing in `if job.state.is_started() || job.state == State::Assigned && job.start.not_before.is_none() {`",
        "a slave that executes is not ready, and is not idle for that reason alone",
    ),
    (
        "protocol/src/master/placement.rs: replace || with && in is_pressing in `|| job.start.gate == Gate::Held;`",
        "the slave's own report says that it waits for a person; this counts only until that report is there",
    ),
    (
        "protocol/src/master/placement.rs: replace || with && in is_pressing in `|| job.start.not_before.is_some()`",
        "the slave's own report says that it waits for its time; this counts only until that report is there",
    ),
    (
        "protocol/src/master/report.rs: replace > with >= in Rules::judge_report in `let older = job.report.as_ref().is_some_and(|known| known.seq > report.seq);`",
        "a report that comes twice under one number says the same twice",
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
        "without a beginning the slave is asked, and says that there is no output",
    ),
    (
        "protocol/src/slave/jobs.rs: replace > with >= in Jobs<'a>::remember in `while recent_outcomes.len() > RECENT_OUTCOMES || bytes(recent_outcomes) > RECENT_OUTCOMES_BYTES {` (2)",
        "differs only for recent outcomes of exactly that many bytes, which are as good as one record less",
    ),
    (
        "protocol/src/slave/waiting.rs: replace && with || in Rules::say_what_is_waited_for in `job.report.waiting_for != waiting_for || reason.is_some() && job.report.reason != reason`",
        "a job that says the same already is given what it says",
    ),
];
