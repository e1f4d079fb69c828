//! A slave's work: its machine, its people, its store.

use reloop_protocol::id::{Attempt, Generation, JobId, ReportSeq, Run};
use reloop_protocol::job::{End, OnInterrupt, Rejection, State};
use reloop_protocol::master::{Answer, JobCommand, SlaveCommand};
use reloop_protocol::message::{
    Activity, Attention, Flags, Forget, Message, Mode, OperatingMode, ReasonCode, Record, Source, WaitingFor,
};
use reloop_protocol::slave::{self, AfterFailure, Damage, Done, Fact, Ignored, Local, NotDone, Release};
use reloop_protocol::spec::{CancelMode, Desired, DesiredState, Gate, SPEC_BYTES, StartRule};
use reloop_protocol::time::{Millis, Time};
use reloop_sim::world::{Machine, World};
use std::collections::BTreeMap;

use crate::stage::*;

#[test]
fn a_machine_reports_its_activity() {
    let mut world = endless();
    world.boxes[0].settings.release = Release::Ack;
    assert_eq!(machine(&world).activity, Activity::Ready);
    let job = placed(&mut world, |_| {});
    assert_eq!(machine(&world).activity, Activity::Running);
    command(&mut world, job, JobCommand::Pause);
    assert_eq!((world.state(job), machine(&world).activity), (State::Paused, Activity::Paused));
    command(&mut world, job, JobCommand::Cancel(CancelMode::Now));
    world.pass(1_000);
    assert_eq!(world.state(job), State::Canceled);
    world.local(0, Local::Lock(true));
    assert_eq!(machine(&world).activity, Activity::Idle);
    world.local(0, Local::Lock(false));
    world.command_slave(0, SlaveCommand::Mode(Mode::Maintenance));
    assert_eq!(machine(&world).activity, Activity::Idle);
}

#[test]
fn a_machine_whose_job_failed_is_at_fault_until_a_person_has_cleared_it() {
    let mut world = world_with(|settings| settings.after_failure = AfterFailure::Hold);
    world.boxes[0].machine.fails = true;
    let job = placed(&mut world, |_| {});
    assert_eq!(world.state(job), State::Running);
    world.pass(12_000);
    assert_eq!((world.state(job), machine(&world).activity), (State::Failed, Activity::Fault));
    assert_eq!(machine(&world).attention, Some(Attention::Fault));
    world.local(0, Local::Clear);
    assert_eq!(machine(&world).activity, Activity::Ready);
}

#[test]
fn while_a_job_is_starting_the_machine_is_preparing() {
    let (world, _) = starting();
    assert_eq!(machine(&world).activity, Activity::Preparing);
}

#[test]
fn damage_is_total_only_if_everything_is_lost() {
    assert!(Damage { node: true, jobs: 0 }.is_total());
    assert!(!Damage { node: false, jobs: 3 }.is_total());
}

#[test]
fn progress_is_at_most_all_of_it_and_the_last_note_stays() {
    let (mut world, job) = endless_job(|_, _| {});
    let mut tell = |permille, note: Option<&str>| {
        machine_tells(&mut world, job, Fact::Progressed { permille, note: note.map(str::to_owned) });
        let report = &kept(&world, job).report;
        (report.progress, report.note.clone())
    };
    assert_eq!(tell(Some(5_000), Some("roughing")), (Some(1_000), Some("roughing".to_owned())));
    assert_eq!(tell(Some(300), None), (Some(300), Some("roughing".to_owned())));
    assert_eq!(tell(None, Some("done soon")), (Some(300), Some("done soon".to_owned())));
}

#[test]
fn the_text_of_a_failure_is_the_machines() {
    let mut world = World::new(1);
    world.boxes[0].machine.fails = true;
    let failed = placed(&mut world, |_| {});
    world.pass(12_000);
    let report = world.job(failed).report.unwrap();
    assert_eq!(report.reason.as_ref().map(|reason| reason.code), Some(ReasonCode::MachineFault));
    assert_eq!(report.outcome.unwrap().text, report.reason.unwrap().text);
    world.boxes[0].machine.fails = false;
    let done = placed(&mut world, |_| {});
    world.pass(12_000);
    let report = world.job(done).report.unwrap();
    assert_eq!((report.state, report.reason), (State::Succeeded, None));
    assert_eq!(
        world
            .command(done, JobCommand::Resolve(End::Failed))
            .map(|answer| matches!(answer, Answer::Refused(..))),
        Some(true)
    );
}

#[test]
fn a_machine_that_has_to_be_cleared_says_so() {
    let mut world = world_with(|settings| settings.release = Release::Ack);
    let job = placed(&mut world, |_| {});
    world.pass(12_000);
    assert_eq!(world.state(job), State::Succeeded);
    assert_eq!((machine(&world).activity, machine(&world).unloading), (Activity::Unloading, Some(job)));
    world.local(0, Local::Ready);
    assert_eq!(machine(&world).activity, Activity::Ready);
}

#[test]
fn the_invariants_notice_a_slave_whose_records_contradict_each_other() {
    let mut world = World::new(1);
    let running = placed(&mut world, |_| {});
    let waiting = placed(&mut world, |_| {});
    let sound = agent(&world).clone();
    assert_eq!(slave::broken_invariant(&sound), None);
    let broken = |change: &dyn Fn(&mut slave::Slave)| {
        let mut state = sound.clone();
        change(&mut state);
        slave::broken_invariant(&state).unwrap_or("nothing")
    };
    let report =
        |state: &mut slave::Slave, job: JobId, to: State| state.jobs.get_mut(&job).unwrap().report.state = to;
    assert_eq!(
        broken(&|state| report(state, waiting, State::Running)),
        "at most one executing job per slave"
    );
    assert_eq!(broken(&|state| report(state, waiting, State::Lost)), "a slave says only what is its to say");
    assert_eq!(broken(&|state| report(state, waiting, State::Uncertain)), "nothing");
    let unbegun = |state: &mut slave::Slave| state.jobs.get_mut(&running).unwrap().report.run = Run(0);
    assert_eq!(broken(&unbegun), "what executes was begun");
    let other =
        |state: &mut slave::Slave| state.jobs.get_mut(&waiting).unwrap().spec.program = "bake".to_owned();
    assert_eq!(broken(&other), "the work is what was agreed");
    let job = &sound.jobs[&waiting];
    let record = Record {
        requires: Default::default(),
        spec: job.spec.clone(),
        start: job.start,
        report: job.report.clone(),
    };
    assert_eq!(
        broken(&|state| state.recent_outcomes = vec![record.clone(); slave::RECENT_OUTCOMES].into()),
        "nothing"
    );
    assert_eq!(
        broken(&|state| state.recent_outcomes = vec![record.clone(); slave::RECENT_OUTCOMES + 1].into()),
        "the recent outcomes are bounded"
    );
}

#[test]
fn a_stop_is_as_hard_as_it_was_asked_for_and_is_only_ever_made_harder() {
    use CancelMode::{IfNotStarted, Now, SafePoint};
    let stops = |modes: &[CancelMode]| {
        let (mut world, job) = endless_job(|_, _| {});
        let known = world.job(job);
        let (link, session) = live(&world);
        let mut stops = vec![];
        for (number, mode) in modes.iter().enumerate() {
            let generation = Generation(known.generation.0 + 1 + number as u32);
            let desired = Desired::Cancel(*mode);
            let desired_state =
                DesiredState { generation, spec: None, desired, ..desired_state(&world, job) };
            let (state, effects) = hears(&world, link, session, Message::DesiredState(desired_state));
            world.boxes[0].state = Some(state);
            stops.extend(effects.iter().filter_map(|effect| match effect {
                slave::Effect::Stop { now, .. } => Some(*now),
                _ => None,
            }));
        }
        stops
    };
    assert_eq!(stops(&[SafePoint]), [false]);
    assert_eq!(stops(&[Now]), [true]);
    assert!(stops(&[IfNotStarted]).is_empty());
    assert_eq!(stops(&[SafePoint, Now]), [false, true]);
    assert_eq!(stops(&[SafePoint, SafePoint]), [false]);
    assert_eq!(stops(&[Now, SafePoint]), [true]);
}

#[test]
fn a_slave_accepts_the_largest_job_and_the_last_possible_moment() {
    let offered = |specs: &[usize], deadline: Option<i64>| {
        let mut world = World::new(1);
        let now = world.now();
        let (link, session) = live(&world);
        let mut declined = vec![];
        for (number, bytes) in specs.iter().enumerate() {
            let mut order = world.order("mill");
            order.spec.params = BTreeMap::from([("p".to_owned(), String::new())]);
            let missing = bytes - order.spec.size();
            let mut text = "x".repeat(missing);
            loop {
                order.spec.params.insert("p".to_owned(), text.clone());
                if order.spec.size() <= *bytes {
                    break;
                }
                text.pop();
            }
            assert_eq!(order.spec.size(), *bytes);
            let deadline = deadline.map(|ms| Time(now.0 + ms));
            let start = StartRule { gate: Gate::Held, deadline, ..StartRule::default() };
            let desired_state = DesiredState {
                requires: Default::default(),
                job: JobId([200 + number as u8; 16]),
                attempt: Attempt(1),
                generation: Generation(1),
                digest: order.spec.digest(),
                spec: Some(order.spec),
                desired: Desired::Run,
                start,
            };
            let (state, effects) = hears(&world, link, session, Message::DesiredState(desired_state));
            world.boxes[0].state = Some(state);
            declined.extend(effects.into_iter().filter_map(|effect| match effect {
                slave::Effect::Send { message: Message::Declined(declined), .. } => {
                    Some((declined.reason.code, declined.for_good))
                }
                _ => None,
            }));
        }
        declined
    };
    assert!(offered(&[SPEC_BYTES], None).is_empty());
    assert_eq!(offered(&[SPEC_BYTES + 1], None), [(ReasonCode::BadParams, true)]);
    assert!(offered(&[slave::HELD_BYTES / 4; 4], None).is_empty());
    let more = [
        slave::HELD_BYTES / 4,
        slave::HELD_BYTES / 4,
        slave::HELD_BYTES / 4,
        slave::HELD_BYTES / 4 - 200,
        201,
    ];
    assert_eq!(offered(&more, None), [(ReasonCode::AtCapacity, false)]);
    assert!(offered(&[1_000], Some(0)).is_empty());
    assert_eq!(offered(&[1_000], Some(-1)), [(ReasonCode::WindowClosed, false)]);
}

#[test]
fn after_an_interruption_the_machine_has_to_be_cleared_only_if_the_job_ended() {
    for (policy, stopping, state, cleared) in [
        (OnInterrupt::Hold, false, State::Uncertain, false),
        (OnInterrupt::Fail, false, State::Failed, true),
        (OnInterrupt::Restart, false, State::Accepted, false),
        (OnInterrupt::Restart, true, State::Canceled, true),
        (OnInterrupt::Hold, true, State::Canceled, true),
    ] {
        let mut world = world_with(|settings| {
            (settings.release, settings.after_failure) = (Release::Ack, AfterFailure::Hold);
        });
        world.boxes[0].machine.length_ms = Machine::UNTIL_TOLD;
        let job = placed(&mut world, |order| order.spec.on_interrupt = policy);
        let mut before = agent(&world).clone();
        let kept = before.jobs.get_mut(&job).unwrap();
        if stopping {
            kept.report.state = State::Stopping;
            kept.run.stopping = Some(CancelMode::Now);
            kept.desired = Desired::Cancel(CancelMode::Now);
        }
        let work = kept.work();
        before.node.local_lock = true;
        let event = slave::Event::Machine { work, fact: Fact::Probed(slave::Probed::Gone) };
        let after = slave::step(before, world.slave_now(0), event).state;
        assert_eq!(after.jobs[&job].report.state, state, "{policy:?} {stopping}");
        assert_eq!(after.node.unloading.is_some(), cleared, "{policy:?} {stopping}");
        let fault = (state == State::Failed).then_some(Attention::Fault);
        assert_eq!(after.node.attention, fault, "{policy:?} {stopping}");
    }
}

#[test]
fn what_has_no_consequence_changes_nothing_and_says_why() {
    let (mut world, job) = endless_job(|_, _| {});
    let waits = placed(&mut world, |_| {});
    world.command_slave(0, SlaveCommand::Mode(Mode::Draining));
    let (link, session) = live(&world);
    let says = |message| heard(link, session, message);
    let older = OperatingMode { generation: Generation(0), mode: Mode::Production };
    let forget = |job| Forget { job, attempt: Attempt(1), seq: ReportSeq::default() };
    let work = kept(&world, job).work();
    let of = |work, fact| slave::Event::Machine { work, fact };
    let unasked = || Fact::Probed(slave::Probed::NeverStarted);
    let sound = agent(&world).clone();
    let now = world.slave_now(0);
    let done = machine_says(sound.clone(), now, job, ended(End::Succeeded)).state;
    for (state, event, why) in [
        (&sound, of(slave::RunKey { run: Run(9), ..work }, Fact::Started), Ignored::OtherRun),
        (&sound, of(work, unasked()), Ignored::NotProbed),
        (&sound, of(kept(&world, waits).work(), ended(End::Failed)), Ignored::Job(Rejection::NotStarted)),
        (&done, of(work, ended(End::Failed)), Ignored::Ended),
        (&sound, heard(link, session.next(), Message::Ping), Ignored::OtherSession),
        (&sound, says(Message::OperatingMode(older)), Ignored::OlderMode),
        (&sound, says(Message::Forget(forget(job))), Ignored::NotEnded),
        (&sound, says(Message::Forget(forget(JobId([9; 16])))), Ignored::NothingToForget),
        (&done, says(Message::Forget(forget(job))), Ignored::NewerReport),
    ] {
        let step = slave::step(state.clone(), now, event);
        assert_eq!((&step.state, step.persist), (state, vec![]), "{why:?}");
        assert_eq!(step.effects, [slave::Effect::Ignored(why)]);
    }
}

/// Found by fuzzing: the slave took it, and had two jobs that execute.
#[test]
fn a_machine_that_says_it_works_on_two_jobs_is_believed_of_neither() {
    let (mut world, _) = endless_job(|_, _| {});
    let other = placed(&mut world, |_| {});
    let mut state = agent(&world).clone();
    let asks = state.jobs.get_mut(&other).unwrap();
    (asks.report.state, asks.report.run, asks.report.waiting_for) = (State::Uncertain, Run(1), None);
    let now = world.slave_now(0);
    let alive = |paused| Fact::Probed(slave::Probed::Alive { paused, permille: None });
    for fact in [Fact::Started, Fact::Paused, Fact::Resumed, alive(false), alive(true)] {
        let step = machine_says(state.clone(), now, other, fact.clone());
        assert_eq!((&step.state, step.persist), (&state, vec![]), "{fact:?}");
        assert_eq!(step.effects, [slave::Effect::Ignored(Ignored::OtherJobWorks)], "{fact:?}");
    }
    let gone = machine_says(state.clone(), now, other, ended(End::Failed)).state;
    assert_eq!(gone.jobs[&other].report.state, State::Failed, "how it ended is believed");
}

#[test]
fn after_a_crash_a_pause_or_stop_is_repeated_if_the_machine_does_otherwise() {
    for (asked, paused, again) in [
        (Some(true), false, Some(true)),
        (Some(true), true, None),
        (Some(false), true, Some(false)),
        (Some(false), false, None),
        (None, false, None),
    ] {
        let (world, job) = endless_job(|_, _| {});
        let mut before = agent(&world).clone();
        let kept = before.jobs.get_mut(&job).unwrap();
        kept.run.asked_to_pause = asked;
        kept.desired = if paused && again.is_none() { Desired::Pause } else { Desired::Run };
        if asked == Some(true) {
            kept.desired = Desired::Pause;
        }
        let work = kept.work();
        let fact = Fact::Probed(slave::Probed::Alive { paused, permille: None });
        let step = slave::step(before, world.slave_now(0), slave::Event::Machine { work, fact });
        let repeated = step.effects.iter().find_map(|effect| match effect {
            slave::Effect::Pause(_) => Some(true),
            slave::Effect::Resume(_) => Some(false),
            _ => None,
        });
        assert_eq!(repeated, again, "{asked:?} {paused}");
        let asked = step.state.jobs[&job].run.asked_to_pause;
        assert_eq!(asked.is_some(), again.is_some());
    }
}

#[test]
fn work_that_ended_in_time_does_not_become_overdue_afterwards() {
    let mut world = World::new(1);
    let job = placed(&mut world, |order| order.spec.max_runtime = Some(Millis(11_000)));
    world.cut(0);
    world.pass(60_000);
    let report = &kept(&world, job).report;
    assert_eq!((report.state, report.flags.has(Flags::OVERDUE)), (State::Succeeded, false));
}

/// A job whose machine refused the start and is being asked whether it has begun.
fn refused_to_start() -> (slave::Slave, slave::Now, JobId, JobId) {
    let (mut state, now, job, waits) = at_work();
    let kept = state.jobs.get_mut(&job).unwrap();
    kept.report.state = State::Starting;
    (kept.report.started_at, kept.report.started_generation) = (None, None);
    let step = machine_says(state, now, job, Fact::StartRefused("too cold".to_owned()));
    assert!(step.effects.iter().any(|effect| matches!(effect, slave::Effect::Probe { .. })));
    (step.state, now, job, waits)
}

#[test]
fn a_success_after_a_cancel_is_flagged_whoever_canceled() {
    for (by_person, by_master, flagged) in
        [(false, false, false), (true, false, true), (false, true, true), (true, true, true)]
    {
        let (mut state, now, job, _) = at_work();
        if by_person {
            state = person_says(state, now, Local::Stop { now: false }).state;
        }
        if by_master {
            state.jobs.get_mut(&job).unwrap().desired = Desired::Cancel(CancelMode::Now);
        }
        let after = machine_says(state, now, job, ended(End::Succeeded)).state;
        let report = &after.jobs[&job].report;
        assert_eq!(report.state, State::Succeeded);
        assert_eq!(report.flags.has(Flags::CANCEL_TOO_LATE), flagged, "{by_person} {by_master}");
    }
}

#[test]
fn after_a_refused_start_the_answer_that_nothing_is_known_depends_on_the_jobs_state() {
    let never = || Fact::Probed(slave::Probed::NeverStarted);
    let (state, now, job, _) = refused_to_start();
    let after = machine_says(state.clone(), now, job, never()).state;
    assert_eq!(word(&after, job), (State::Accepted, Some(ReasonCode::MachineUnfit)));
    let begun = machine_says(state.clone(), now, job, Fact::Started).state;
    let after = machine_says(begun, now, job, never()).state;
    assert_eq!(word(&after, job), (State::Uncertain, Some(ReasonCode::NoProof)), "it had said that it began");
    let stopping = person_says(state, now, Local::Stop { now: true }).state;
    let after = machine_says(stopping, now, job, never()).state;
    assert_eq!(word(&after, job), (State::Canceled, Some(ReasonCode::StoppedLocally)));
}

#[test]
fn while_a_machine_is_being_asked_other_jobs_wait_for_it() {
    let waits_for = |state: &slave::Slave, job: JobId| state.jobs[&job].report.waiting_for;
    let (state, now, job, waits) = refused_to_start();
    assert_eq!(waits_for(&state, waits), Some(WaitingFor::Ready));
    let alive = Fact::Probed(slave::Probed::Alive { paused: false, permille: None });
    let after = machine_says(state, now, job, alive).state;
    assert_eq!((word(&after, job).0, waits_for(&after, waits)), (State::Running, Some(WaitingFor::Turn)));
}

#[test]
fn a_machine_is_asked_only_about_jobs_that_it_may_have_until_it_answers() {
    let (mut state, now, job, _) = at_work();
    state.volatile = slave::Volatile::default();
    let step = slave::step(state, now, agent_started());
    let asked = step.effects.iter().filter_map(|effect| match effect {
        slave::Effect::Probe { work, .. } => Some(work.job),
        _ => None,
    });
    assert_eq!(asked.collect::<Vec<_>>(), [job]);
    let after = machine_says(step.state, now, job, ended(End::Succeeded)).state;
    assert!(after.volatile.probing.is_empty(), "it has said what there is to know");
}

#[test]
fn a_job_that_was_being_stopped_is_stopped_again_as_hard_when_it_is_found_working() {
    for hard in [false, true] {
        let (state, now, job, _) = at_work();
        let state = person_says(state, now, Local::Stop { now: hard }).state;
        let mode = if hard { CancelMode::Now } else { CancelMode::SafePoint };
        let alive = Fact::Probed(slave::Probed::Alive { paused: false, permille: None });
        let step = machine_says(state, now, job, alive);
        let stops = step.effects.iter().filter_map(|effect| match effect {
            slave::Effect::Stop { now, .. } => Some(*now),
            _ => None,
        });
        assert_eq!(stops.collect::<Vec<_>>(), [hard]);
        assert_eq!(word(&step.state, job), (State::Stopping, Some(ReasonCode::StoppedLocally)));
        assert_eq!(step.state.jobs[&job].run.stopping, Some(mode));
    }
}

#[test]
fn an_uncertain_job_that_somebody_stopped_is_stopped_once_it_is_found_working() {
    for (stopping, desired, state, reason) in [
        (None, Desired::Run, State::Running, None),
        (Some(CancelMode::Now), Desired::Run, State::Stopping, Some(ReasonCode::StoppedLocally)),
        (
            Some(CancelMode::Now),
            Desired::Cancel(CancelMode::Now),
            State::Stopping,
            Some(ReasonCode::Canceled),
        ),
        (None, Desired::Cancel(CancelMode::Now), State::Stopping, Some(ReasonCode::Canceled)),
    ] {
        let (mut before, now, job, _) = at_work();
        let kept = before.jobs.get_mut(&job).unwrap();
        if stopping.is_some() {
            kept.report.state = State::Stopping;
            kept.run.stop_decided = (desired == Desired::Run).then_some(Source::Local);
        }
        (kept.run.stopping, kept.desired) = (stopping, desired);
        let unknown = Fact::Probed(slave::Probed::Unknown("no answer".to_owned()));
        let doubtful = machine_says(before, now, job, unknown).state;
        assert_eq!(word(&doubtful, job), (State::Uncertain, Some(ReasonCode::NoProof)));
        let alive = Fact::Probed(slave::Probed::Alive { paused: false, permille: None });
        let found = machine_says(doubtful, now, job, alive).state;
        assert_eq!(word(&found, job), (state, reason), "{stopping:?} {desired:?}");
    }
}

#[test]
fn a_resume_takes_back_a_stop_that_waits_for_the_machine_but_not_the_masters_cancel() {
    for (desired, state) in
        [(Desired::Run, State::Running), (Desired::Cancel(CancelMode::Now), State::Stopping)]
    {
        let (mut before, now, job, _) = at_work();
        let kept = before.jobs.get_mut(&job).unwrap();
        (kept.report.state, kept.run.paused, kept.paused_locally) = (State::Paused, true, true);
        before.volatile.probing.insert(job, slave::Probing { since: now.boot_ms, refused: None });
        let stopped = person_says(before, now, Local::Stop { now: true }).state;
        assert_eq!(stopped.jobs[&job].run.stopping, Some(CancelMode::Now));
        let mut resumed = person_says(stopped, now, Local::Resume).state;
        resumed.jobs.get_mut(&job).unwrap().desired = desired;
        if desired != Desired::Run {
            resumed = person_says(resumed, now, Local::Stop { now: true }).state;
            resumed = person_says(resumed, now, Local::Resume).state;
        }
        let alive = Fact::Probed(slave::Probed::Alive { paused: false, permille: None });
        assert_eq!(
            machine_says(resumed, now, job, alive).state.jobs[&job].report.state,
            state,
            "{desired:?}"
        );
    }
}

#[test]
fn resolve_at_the_machine_needs_no_name_for_the_only_uncertain_job() {
    let resolve = |uncertain: usize| {
        let (mut state, now, job, waits) = at_work();
        for id in [job, waits].into_iter().take(uncertain) {
            state.jobs.get_mut(&id).unwrap().report.state = State::Uncertain;
        }
        let step = person_says(state, now, Local::Resolve { job: None, end: End::Failed });
        let reply = step.effects.iter().find_map(|effect| match effect {
            slave::Effect::Reply { reply, .. } => Some(reply.clone()),
            _ => None,
        });
        (reply.unwrap(), word(&step.state, job).0, job)
    };
    let (reply, state, _) = resolve(0);
    assert_eq!((reply, state), (Err(NotDone::NothingUncertain), State::Running));
    let (reply, state, job) = resolve(1);
    assert_eq!((reply, state), (Ok(Done::Resolved(job)), State::Failed));
    let (reply, state, _) = resolve(2);
    assert_eq!((reply, state), (Err(NotDone::ManyUncertain), State::Uncertain));
}

#[test]
fn a_machine_is_asked_to_pause_only_once_and_only_a_running_job() {
    let asks = |step: &slave::Step| {
        step.effects.iter().filter(|effect| matches!(effect, slave::Effect::Pause(_))).count()
    };
    let (state, now, _, _) = at_work();
    let first = person_says(state, now, Local::Pause);
    let second = person_says(first.state.clone(), now, Local::Pause);
    assert_eq!((asks(&first), asks(&second)), (1, 0));

    let (mut world, job) = unstarted();
    world.acts = Some(vec![]);
    command(&mut world, job, JobCommand::Pause);
    assert_eq!((world.state(job), world.job(job).desired), (State::Accepted, Desired::Pause));
    let asked = world.acts.unwrap().iter().any(|act| matches!(act, slave::Effect::Pause(_)));
    assert!(!asked, "nothing of it is in the machine");
}

#[test]
fn a_desired_state_that_is_not_followed_is_answered_with_the_current_state() {
    for (newer_attempt, older_desired_state, declined) in [(0, 0, false), (0, 1, false), (1, 0, true)] {
        let (world, job) = running();
        let known = world.job(job);
        let before = kept(&world, job).report.clone();
        let (link, session) = live(&world);
        let desired_state = DesiredState {
            attempt: Attempt(known.attempt.0 + newer_attempt),
            generation: Generation(known.generation.0 - older_desired_state),
            ..desired_state(&world, job)
        };
        let (_, effects) = hears(&world, link, session, Message::DesiredState(desired_state));
        let said = |is: &dyn Fn(&Message) -> bool| {
            effects.iter().any(|effect| matches!(effect, slave::Effect::Send { message, .. } if is(message)))
        };
        let told_again = |message: &Message| matches!(message, Message::Report(report) if report.seq > before.seq && report.state == before.state);
        assert!(said(&told_again), "{newer_attempt} {older_desired_state}: {effects:?}");
        assert_eq!(said(&|message| matches!(message, Message::Declined(_))), declined);
    }
}

/// The master offers nothing more to a slave that has declined, until it hears of its machine.
#[test]
fn a_slave_that_declined_for_want_of_room_says_when_there_is_room_again() {
    let (mut world, job) = endless_job(|_, _| {});
    world.boxes[0].state.as_mut().unwrap().settings.capacity = 1;
    let more = place_as(&mut world, |_| {});
    while world.to_slave(0) {}
    let state = agent(&world).clone();
    assert!(state.volatile.lacks_room && !state.jobs.contains_key(&more));
    let tells = |step: &slave::Step| {
        let is_machine = |effect: &slave::Effect| {
            matches!(effect, slave::Effect::Send { message: Message::Machine(_), .. })
        };
        (step.effects.iter().any(is_machine), step.state.volatile.lacks_room)
    };
    let (link, session) = live(&world);
    let now = world.slave_now(0);
    let paused = slave::step(state.clone(), now, heard(link, session, Message::Ping));
    assert_eq!(tells(&paused), (false, true), "nothing has changed");
    let over = machine_says(state, now, job, ended(End::Succeeded));
    assert_eq!(tells(&over), (true, false), "a place is free");
    // The outcome is still there, and takes room until the master has it.
    let mut full = over.state;
    full.volatile.lacks_room = true;
    let seq = full.jobs[&job].report.seq;
    let forget = Forget { job, attempt: Attempt(1), seq };
    let forgotten = slave::step(full.clone(), now, heard(link, session, Message::Forget(forget)));
    assert_eq!(tells(&forgotten), (true, false));
    full.volatile.lacks_room = false;
    let forgotten = slave::step(full, now, heard(link, session, Message::Forget(forget)));
    assert_eq!(tells(&forgotten), (false, false), "nobody waits for that");
}
