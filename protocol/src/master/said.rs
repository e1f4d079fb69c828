//! Which fields of a slave's report the master accepts: fields that only the master may set are left out, and impossible values are
//! replaced.
//!
//! Such a report is not refused, because a job's outcome would be lost with it. [`limits`](crate::limits) has what is refused.

use super::visit::Visit;
use crate::message::{ALL_OF_IT, Flags, Record, Report};
use crate::spec::{Gate, StartRule};
use crate::time::{Millis, Time};

/// By how much a slave's idea of the master's time may be ahead: a clock that is set back takes its slaves' earlier stamps with it.
const AHEAD: Millis = Millis::seconds(3600);

/// By how much it may be behind: the way of a Challenge, and what a box's clock loses while its slave is offline.
const BEHIND: Millis = Millis::seconds(60);

/// The last moment that can be written as a date of four digits for the year.
const LAST: Time = Time(253_402_300_799_999);

/// The progress in thousandths, or `None` if it is more than all.
pub(super) fn progress(said: Option<u16>) -> Option<u16> {
    said.filter(|permille| *permille <= ALL_OF_IT)
}

impl Visit<'_> {
    /// The report with the fields that the master accepts. A time that is not possible is replaced by the known one, or by the
    /// nearest possible one.
    pub(super) fn taken(&self, report: Report) -> Report {
        let job = self.book().jobs.get(&report.job);
        let known = job.as_ref().and_then(|job| {
            let is_current = job.is_current(self.key, report.attempt);
            job.report.as_ref().filter(|_| is_current)
        });
        let made = job.as_ref().map_or(Time(0), |job| job.created_at);
        taken(report, known, made, self.moment.now)
    }

    /// The same for the record of a job that the master does not know.
    pub(super) fn taken_up(&self, record: Record) -> Record {
        let at = |at: Option<Time>| at.map(|at| at.clamp(Time(0), LAST));
        let StartRule { not_before, deadline, gate, .. } = record.start;
        let gate = match gate {
            Gate::Released { latest } => Gate::Released { latest: latest.clamp(Time(0), LAST) },
            Gate::Open | Gate::Held => gate,
        };
        let start = StartRule { not_before: at(not_before), deadline: at(deadline), gate, ..record.start };
        let mut report = taken(record.report, None, Time(0), self.moment.now);
        // The job counts as made when its slave took it.
        for at in [&mut report.started_at, &mut report.ended_at].into_iter().flatten() {
            *at = report.accepted_at.max(*at);
        }
        Record { report, start, ..record }
    }
}

fn taken(report: Report, known: Option<&Report>, made: Time, now: Time) -> Report {
    let has_ended = report.state.is_ended();
    let earliest = made.min(now);
    let sane = |said: Option<Time>, known: Option<Time>| said.map(|said| within(said, known, earliest, now));
    Report {
        progress: progress(report.progress),
        outcome: report.outcome.filter(|_| has_ended),
        flags: report.flags.among(Flags::OF_SLAVE),
        accepted_at: within(report.accepted_at, known.map(|known| known.accepted_at), earliest, now),
        started_at: sane(report.started_at, known.and_then(|known| known.started_at)),
        ended_at: sane(report.ended_at.filter(|_| has_ended), known.and_then(|known| known.ended_at)),
        ..report
    }
}

/// The time that a slave reports, if it is possible. Otherwise the known one, which does not change with each report after the
/// master's clock was set; if none is known, the nearest possible one.
fn within(said: Time, known: Option<Time>, earliest: Time, now: Time) -> Time {
    let behind = Time(earliest.0.saturating_sub(BEHIND.0.cast_signed()));
    if (behind..=now.after(AHEAD)).contains(&said) {
        return said;
    }
    known.unwrap_or(said.clamp(earliest, now))
}
