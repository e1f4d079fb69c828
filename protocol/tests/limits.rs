//! A peer that says as much as it may still fits into one record on disk, and what says more is refused.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use reloop_protocol::id::{Attempt, JobId, OrderId, ReportSeq, Run, SlaveKey, WishRev};
use reloop_protocol::job::{OnInterrupt, State};
use reloop_protocol::limits::{self, TEXT_BYTES};
use reloop_protocol::master::{Earlier, Job, JobEvent, Order, Retry};
use reloop_protocol::message::{Flags, Message, Outcome, Reason, ReasonCode, Report, Source};
use reloop_protocol::spec::{OnOverdue, SPEC_BYTES, Spec, StartRule};
use reloop_protocol::time::Time;
use reloop_protocol::wire;

/// What one value of the store may hold, less the envelope.
const RECORD_BYTES: usize = 64 * 1024 - 64;

fn report(text: usize) -> Report {
    let text = "x".repeat(text);
    Report {
        job: JobId([1; 16]),
        attempt: Attempt(limits::COUNT),
        run: Run(u32::MAX),
        rev: WishRev(limits::COUNT),
        seq: ReportSeq { start: u32::MAX, count: u32::MAX },
        state: State::Failed,
        waiting_for: None,
        progress: Some(1000),
        note: Some(text.clone()),
        accepted_at: Time(i64::MAX),
        started_at: Some(Time(i64::MAX)),
        started_rev: Some(WishRev(u32::MAX)),
        ended_at: Some(Time(i64::MAX)),
        outcome: Some(Outcome { exit_code: Some(i32::MIN), signal: Some(i32::MAX), text: text.clone() }),
        reason: Some(Reason::new(ReasonCode::MachineFault, text)),
        flags: Flags(u16::MAX),
        source: Source::Machine,
    }
}

#[test]
fn the_largest_job_fits_into_a_record() {
    let mut spec = Spec {
        order: OrderId([2; 16]),
        name: None,
        program: "mill".to_owned(),
        params: BTreeMap::new(),
        max_runtime: None,
        on_overdue: OnOverdue::Flag,
        on_interrupt: OnInterrupt::Hold,
    };
    spec.params.insert("p".to_owned(), "x".repeat(SPEC_BYTES - spec.size() - 16));
    assert!(spec.size() <= SPEC_BYTES && spec.size() > SPEC_BYTES - 32, "{}", spec.size());
    let order = Order {
        id: spec.order,
        created_at: Time(i64::MAX),
        jobs: vec![],
        spec,
        slave: Some("s".repeat(63)),
        requires: BTreeMap::new(),
        start: StartRule::default(),
        retry: Retry { max_attempts: u32::MAX, on: BTreeSet::new() },
        external_id: None,
        labels: BTreeMap::new(),
    };
    let mut job = Job::new(JobId([1; 16]), &order);
    job.report = Some(report(TEXT_BYTES));
    let earlier = Earlier {
        attempt: Attempt(u32::MAX),
        holder: SlaveKey([3; 32]),
        state: State::Failed,
        report: Some(report(256)),
    };
    job.earlier = vec![earlier; 16];
    let event = JobEvent {
        at: Time(i64::MAX),
        observed_at: Some(Time(i64::MAX)),
        state: State::Failed,
        attempt: Attempt(u32::MAX),
        by: format!("dispatch to {}", "s".repeat(63)),
    };
    job.events = VecDeque::from(vec![event; 64]);
    job.reason = Some(Reason::new(ReasonCode::AtCapacity, "x".repeat(TEXT_BYTES)));
    let size = wire::encode(&job).len();
    assert!(size <= RECORD_BYTES, "{size}");
}

#[test]
fn what_says_more_than_it_may_is_refused() {
    assert_eq!(limits::check(&Message::Report(report(TEXT_BYTES))), Ok(()));
    assert!(limits::check(&Message::Report(report(TEXT_BYTES + 1))).is_err());
    let masters_word = Report { state: State::Lost, ..report(1) };
    assert!(limits::check(&Message::Report(masters_word)).is_err());
}
