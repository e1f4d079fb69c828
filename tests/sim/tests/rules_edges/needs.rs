//! What needs a person: all of it is found, counted and listed with the command that ends it.

use reloop_protocol::id::{Attempt, Generation, JobId};
use reloop_protocol::job::{End, State};
use reloop_protocol::master::{
    self, Answer, Basis, Enrolled, Gated, Job, JobCommand, Need, Needed, NothingToDo, OtherAttempt, Refusal,
    RequestId, SlaveCommand, Subject, count_needs, explain, needs,
};
use reloop_protocol::message::{Attention, Flags, Reason, ReasonCode, Report, WaitingFor};
use reloop_protocol::spec::{CancelMode, Desired, Gate, Late};
use reloop_protocol::time::{Millis, Time};
use reloop_sim::world::World;

use crate::stage::*;

/// More than any list here is long.
const ALL: usize = 10_000;

fn master(world: &World) -> &master::Master {
    world.master.as_ref().unwrap()
}

fn needed(world: &World) -> Vec<Needed> {
    let (state, now) = (master(world), world.now());
    let all = needs(state, now, None, ALL);
    assert_eq!(count_needs(state, now), all.len(), "{all:#?}");
    all
}

/// The job's need, and the command that ends it.
fn need_of(world: &World, job: JobId) -> Option<(Need, String)> {
    let found = needed(world).into_iter().find(|needed| needed.subject == Subject::Job(job))?;
    Some((found.need, found.command()))
}

fn gate(world: &World, job: JobId) -> Option<Gated> {
    explain(master(world), &world.job(job), world.now()).gate
}

/// A job at the slave whose start passed while the slave was down.
fn missed() -> (World, JobId) {
    let mut world = World::new(1);
    let job = deferred(&mut world, 5_000, |order| order.start.late = Late::Hold);
    off_for(&mut world, 70_000);
    assert_eq!(world.state(job), State::Accepted);
    (world, job)
}

#[test]
fn a_missed_start_is_listed_with_its_release_also_after_a_restart_of_the_master() {
    let (mut world, job) = missed();
    let release = || Some((Need::MissedStart, format!("reloop job release {job}")));
    assert_eq!(need_of(&world, job), release());
    assert_eq!(gate(&world, job), Some(Gated::MissedStart));
    assert!(!needed(&world)[0].is_offline);
    world.cut(0);
    world.settle();
    assert!(needed(&world)[0].is_offline, "that is its last word");
    world.kill_master();
    world.start_master();
    assert_eq!(need_of(&world, job), release(), "what the slave waits for is not on the disk, the reason is");
    reconnect(&mut world, 0);
    command(&mut world, job, JobCommand::Release { valid: Millis::seconds(60) });
    assert_eq!((world.state(job), need_of(&world, job)), (State::Running, None));
}

#[test]
fn a_late_start_that_needs_nobody_is_not_listed() {
    for late in [Late::Run, Late::Skip] {
        let mut world = World::new(1);
        let job = deferred(&mut world, 5_000, |order| order.start.late = late);
        off_for(&mut world, 70_000);
        assert!(world.job(job).all_flags().has(Flags::MISSED_START));
        assert_eq!(needed(&world), []);
    }
}

#[test]
fn a_job_held_by_a_restore_is_listed_with_the_risk_that_it_was_done() {
    let mut world = World::new(1);
    let job = placed(&mut world, |order| order.slave = Some("another".to_owned()));
    world.master_event(master::Event::RestoreConfirmed { request: RequestId(0), forced: true });
    world.settle();
    let found = needed(&world).remove(0);
    assert_eq!((found.need, &*found.command()), (Need::Restored, &*format!("reloop job release {job}")));
    assert!(found.need.risk().contains("done twice"), "{}", found.need.risk());
    assert_eq!(gate(&world, job), Some(Gated::HeldByRestore));
    // A release that had no effect does not remove the risk.
    world.command(job, JobCommand::Release { valid: Millis(1) });
    assert_eq!(need_of(&world, job), None);
    world.pass(10);
    assert_eq!(need_of(&world, job).map(|(need, _)| need), Some(Need::Restored));
    // Neither does a new time.
    world.command(job, JobCommand::Reschedule { not_before: None, deadline: None, late: Late::Hold });
    assert_eq!(world.job(job).start.gate, Gate::Held);
    assert_eq!(need_of(&world, job).map(|(need, _)| need), Some(Need::Restored));
}

#[test]
fn a_held_job_needs_a_person_until_it_is_released_and_again_when_the_release_lapses() {
    let mut world = World::new(1);
    let job = placed(&mut world, |order| {
        order.slave = Some("another".to_owned());
        order.start.gate = Gate::Held;
    });
    let at = |world: &World| need_of(world, job).map(|(need, _)| need);
    assert_eq!(at(&world), Some(Need::Held));
    world.command(job, JobCommand::Pause);
    assert!(needed(&world)[0].is_paused);
    world.command(job, JobCommand::Resume);
    assert!(!needed(&world)[0].is_paused);
    world.command(job, JobCommand::Release { valid: Millis(5_000) });
    let latest = match world.job(job).start.gate {
        Gate::Released { latest } => latest,
        other => panic!("{other:?}"),
    };
    let at_time = |world: &World, now| needs(master(world), now, None, ALL).len();
    assert_eq!((at_time(&world, latest), at_time(&world, Time(latest.0 + 1))), (0, 1));
    world.pass(6_000);
    assert_eq!(at(&world), Some(Need::ReleaseLapsed));
    world.command(job, JobCommand::Cancel(CancelMode::SafePoint));
    assert_eq!(at(&world), None);
}

#[test]
fn the_needs_of_a_job_follow_from_its_record() {
    let (world, job) = missed();
    let base = world.job(job);
    let with = |change: &dyn Fn(&mut Job)| {
        let mut job = base.clone();
        change(&mut job);
        job.need()
    };
    assert_eq!(with(&|_| {}), Some(Need::MissedStart));
    let waits = |job: &mut Job, waiting_for, reason| {
        let report = job.report.as_mut().unwrap();
        (report.waiting_for, report.reason) = (waiting_for, reason);
    };
    let runs_late = |job: &mut Job| {
        job.report.as_mut().unwrap().waiting_for = None;
        job.start.late = Late::Run;
    };
    assert_eq!(with(&runs_late), None);
    assert_eq!(with(&|job| job.generation = job.generation.next()), None, "it has another time now");
    let lapsed = Reason::new(ReasonCode::ReleaseLapsed, "release it again");
    let asks = Some(WaitingFor::Operator);
    assert_eq!(with(&|job| waits(job, None, None)), None);
    assert_eq!(with(&|job| waits(job, asks, None)), Some(Need::Held), "its slave waits for a person");
    assert_eq!(with(&|job| waits(job, asks, Some(lapsed.clone()))), Some(Need::ReleaseLapsed));
    let local = Reason::new(ReasonCode::PausedLocally, "resume it there");
    assert_eq!(with(&|job| waits(job, asks, Some(local.clone()))), None, "only people there resume it");
    let paused = |job: &mut Job| {
        waits(job, asks, None);
        job.desired = Desired::Pause;
    };
    assert_eq!(with(&paused), None);
    let is_answered = |job: &mut Job| {
        waits(job, asks, Some(lapsed.clone()));
        job.generation = job.generation.next();
    };
    assert_eq!(with(&is_answered), None, "its slave has not heard the answer yet");
    assert_eq!(with(&|job| job.desired = Desired::Cancel(CancelMode::Now)), None);
    assert_eq!(with(&|job| job.start.gate = Gate::Held), Some(Need::Held));
    let released = |job: &mut Job| {
        job.start.gate = Gate::Released { latest: Time(0) };
        job.generation = job.generation.next();
    };
    assert_eq!(with(&released), None, "whether that has lapsed takes a clock");
    let mismatch = Reason::new(ReasonCode::DigestMismatch, "other work");
    assert_eq!(
        with(&|job| job.report.as_mut().unwrap().reason = Some(mismatch.clone())),
        Some(Need::Mismatch)
    );
    for state in [State::Starting, State::Running, State::Paused, State::Stopping] {
        assert_eq!(with(&|job| job.state = state), None, "{state:?}");
        let overdue = |job: &mut Job| {
            job.state = state;
            job.report.as_mut().unwrap().flags.set(Flags::OVERDUE);
        };
        assert_eq!(with(&overdue), Some(Need::Overdue), "{state:?}");
        let canceled = |job: &mut Job, mode, ahead| {
            overdue(job);
            job.desired = Desired::Cancel(mode);
            job.generation = Generation(job.generation.0 + ahead);
        };
        let is_heard = with(&|job| canceled(job, CancelMode::SafePoint, 0));
        assert_eq!(is_heard, Some(Need::Overdue), "{state:?}: it goes on all the same");
        let is_unheard = with(&|job| canceled(job, CancelMode::SafePoint, 1));
        assert_eq!(is_unheard, None, "{state:?}: its slave is still to be told");
        assert_eq!(with(&|job| canceled(job, CancelMode::Now, 0)), None, "{state:?}: nothing is harder");
    }
    assert_eq!(with(&|job| job.state = State::Uncertain), Some(Need::Uncertain));
    let resolved =
        |job: &mut Job| (job.state, job.desired) = (State::Uncertain, Desired::Resolve(End::Failed));
    assert_eq!(with(&resolved), None, "its slave is still to be told");
    for state in State::ALL.into_iter().filter(|state| state.is_ended()) {
        assert_eq!(with(&|job| job.state = state), None, "{state:?}");
    }
}

#[test]
fn the_needs_of_a_slave_are_listed_unless_it_was_revoked() {
    let (world, job) = endless_job(|_, _| {});
    let key = world.boxes[0].settings.key;
    let now = world.now();
    let listed = |change: &dyn Fn(&mut master::SlaveRecord)| {
        let mut state = master(&world).clone();
        change(state.slaves.get_mut(&key).unwrap());
        let found = needs(&state, now, None, ALL);
        assert_eq!(count_needs(&state, now), found.len());
        found.into_iter().map(|needed| (needed.need, needed.command())).collect::<Vec<_>>()
    };
    let machine = |slave: &mut master::SlaveRecord| slave.machine.clone().unwrap();
    assert_eq!(listed(&|_| {}), []);
    let nothing = Answer::Refused(Refusal::NothingToDo(NothingToDo::Clear));
    assert_eq!(world.clone().command_slave(0, SlaveCommand::Clear), Some(nothing));
    // Not in memory any more.
    let ended = JobId([7; 16]);
    let everything = |slave: &mut master::SlaveRecord| {
        let mut report = machine(slave);
        report.attention = Some(Attention::Moved);
        report.unloading = Some(job);
        report.uncertain = Some(ended);
        report.local_lock = true;
        slave.machine = Some(report);
        slave.cloned_at = Some(now);
    };
    let words = [
        (Need::Cloned, "reloop slave clear s0".to_owned()),
        (Need::Attention, "reloop slave clear s0".to_owned()),
        (Need::Unresolved, format!("reloop job resolve {ended} succeeded|failed|canceled")),
        (Need::Unloading, "reloop slave ready s0".to_owned()),
        (Need::LocalLock, "reloop-slave local off".to_owned()),
    ];
    assert_eq!(listed(&everything), words);
    let doubts = |slave: &mut master::SlaveRecord| {
        everything(slave);
        slave.doubts = true;
    };
    let confirm = (Need::Doubts, "reloop restore confirm".to_owned());
    let [cloned, .., locked] = words;
    assert_eq!(listed(&doubts), [confirm, cloned, locked], "it answers nothing before that");
    let revoked = |slave: &mut master::SlaveRecord| {
        everything(slave);
        slave.enrolled = Enrolled::Revoked;
    };
    assert_eq!(listed(&revoked), []);
    let newcomer = |slave: &mut master::SlaveRecord| {
        slave.enrolled = Enrolled::Pending;
        slave.name = "-rf *".to_owned();
    };
    let approve = format!("reloop slave approve {}", key.fingerprint());
    assert_eq!(listed(&newcomer), [(Need::Approval, approve)]);
    let odd = |slave: &mut master::SlaveRecord| {
        slave.name = "-rf *".to_owned();
        slave.cloned_at = Some(now);
    };
    let clear = format!("reloop slave clear {}", key.fingerprint());
    assert_eq!(listed(&odd), [(Need::Cloned, clear)], "a name that a shell would take apart is not printed");
}

#[test]
fn an_uncertain_job_is_listed_once_and_an_uncertain_abandoned_attempt_too() {
    let (world, job) = running();
    let key = world.boxes[0].settings.key;
    let mut state = master(&world).clone();
    let uncertain = |state: &mut master::Master| {
        state.slaves.get_mut(&key).unwrap().machine.as_mut().unwrap().uncertain = Some(job);
    };
    uncertain(&mut state);
    let found = |state: &master::Master| -> Vec<_> {
        needs(state, world.now(), None, ALL).into_iter().map(|needed| needed.need).collect()
    };
    assert_eq!(found(&state), [], "it runs, and nobody could say how it ended");
    let when = |is_live: bool, change: &dyn Fn(&mut Job, Report)| {
        let mut record = world.job(job);
        let asked = Report { state: State::Uncertain, ..record.report.clone().unwrap() };
        change(&mut record, asked);
        let mut of_disk = master::newborn(state.settings, state.node.id);
        let slave = state.slaves[&key].clone();
        let link = if is_live { slave.link.clone() } else { master::SlaveLink::Down };
        of_disk.restore(master::Write::Slave(Box::new(master::SlaveRecord { link, ..slave })));
        of_disk.restore(master::Write::Job(Box::new(record)));
        found(&of_disk)
    };
    let with = |change: &dyn Fn(&mut Job, Report)| when(true, change);
    let uncertain = |job: &mut Job, asked| (job.state, job.report) = (State::Uncertain, Some(asked));
    assert_eq!(with(&uncertain), [Need::Uncertain]);
    let given_up = |job: &mut Job, asked: Report| {
        let (attempt, state) = (asked.attempt, State::Lost);
        job.others =
            vec![OtherAttempt { attempt, holder: key, state, report: Some(asked), basis: Basis::Assigned }];
        (job.attempt, job.last_attempt, job.holder, job.report) = (Attempt(2), Attempt(2), None, None);
        job.state = State::Queued;
    };
    assert_eq!(with(&given_up), [Need::Unresolved]);
    assert_eq!(when(false, &given_up), [], "it asks again when it is there");
    let answered = |job: &mut Job, asked: Report| {
        let reason = Some(Reason::new(ReasonCode::Resolved, "a person said it"));
        given_up(job, Report { reason, ..asked });
    };
    assert_eq!(with(&answered), [], "its slave is still to be told");
}

#[test]
fn the_report_of_an_end_takes_the_question_off_the_list_though_the_link_is_lost_before_the_machine_says_so() {
    for (state, is_listed) in [(State::Uncertain, true), (State::Succeeded, false)] {
        let (mut seat, report) = runs_live();
        let key = seat.key;
        seat.state.slaves.get_mut(&key).unwrap().machine.as_mut().unwrap().uncertain = Some(report.job);
        let step = reports(&mut seat, None, numbered(&report, 20, state));
        let machine = step.state.slaves[&key].machine.as_ref().unwrap();
        assert_eq!(machine.uncertain == Some(report.job), is_listed, "{state:?}");
    }
}

#[test]
fn pages_of_needs_show_each_once_however_many_there_are() {
    let mut world = World::new(1);
    for gate in [Gate::Held, Gate::Open, Gate::Released { latest: Time(0) }].into_iter().cycle().take(30) {
        placed(&mut world, |order| {
            order.slave = Some("another".to_owned());
            order.start.gate = gate;
        });
    }
    let key = world.boxes[0].settings.key;
    let mut state = master(&world).clone();
    let slave = state.slaves.get_mut(&key).unwrap();
    slave.cloned_at = Some(world.now());
    slave.machine.as_mut().unwrap().local_lock = true;
    let all = needs(&state, world.now(), None, ALL);
    assert_eq!((all.len(), count_needs(&state, world.now())), (22, 22));
    assert!(all.is_sorted_by_key(|needed| (needed.need, needed.subject)));
    for limit in [1, 2, 3, 7, 21, 22, 23] {
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let page = needs(&state, world.now(), after, limit);
            assert!(page.len() <= limit);
            let Some(last) = page.last() else { break };
            after = Some((last.need, last.subject));
            found.extend(page);
        }
        assert_eq!(found, all, "in pages of {limit}");
    }
}

#[test]
fn every_need_has_its_own_word() {
    let words: std::collections::BTreeSet<_> = Need::ALL.iter().map(|need| need.name()).collect();
    assert_eq!(words.len(), Need::ALL.len());
    assert!(Need::ALL.is_sorted());
    for need in Need::ALL {
        assert_eq!(Need::from_name(need.name()), Some(need));
        assert!(!need.action().is_empty() && !need.risk().is_empty());
    }
    assert_eq!(Need::from_name("rest"), None);
}

#[test]
fn a_job_was_observed_when_its_slave_was_last_heard() {
    let mut world = World::new(1);
    let begin = world.now();
    let job = placed(&mut world, |_| {});
    world.pass(5_000);
    let running = world.job(job);
    let began = running.events.back().unwrap().at;
    assert_eq!(running.state, State::Running);
    assert!(began >= begin);
    assert_eq!(running.witnessed_at(), Some(began));
    world.cut(0);
    world.pass(600_000);
    world.command(job, JobCommand::Abandon);
    let lost = world.job(job);
    assert_eq!(
        (lost.state, lost.witnessed_at()),
        (State::Lost, Some(began)),
        "a person's word is no sign of it"
    );
    world.command(job, JobCommand::Retry);
    assert_eq!(world.job(job).witnessed_at(), None, "the next attempt is with nobody");
    world.plug(0);
    world.pass(30_000);
    let ended = world.job(job);
    assert_eq!(ended.state, State::Succeeded);
    assert!(ended.witnessed_at() > Some(began));
}
