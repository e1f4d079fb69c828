//! Sights: what has to happen in at least one state, because a model in which it never happens proves nothing.

use reloop_protocol::id::Run;
use reloop_protocol::job::State;
use reloop_protocol::master::{Enrolled, SlaveRecord};
use reloop_protocol::message::{Attention, CloseCode, Flags, ReasonCode, WaitingFor};
use reloop_protocol::slave::{Job, Link};
use stateright::Property;

use super::{Floor, Scene};

/// A name, and whether a state shows it.
type Sight = (&'static str, fn(&Floor, &Scene) -> bool);

/// Every sight of every configuration.
pub const SIGHTS: [Sight; 44] = [
    ("a job is queued", |f, s| is(f, s, State::Queued)),
    ("a job is assigned", |f, s| is(f, s, State::Assigned)),
    ("a job is accepted", |f, s| is(f, s, State::Accepted)),
    ("a job is starting", |f, s| is(f, s, State::Starting)),
    ("a job runs", |f, s| is(f, s, State::Running)),
    ("a job is paused", |f, s| is(f, s, State::Paused)),
    ("a job is stopping", |f, s| is(f, s, State::Stopping)),
    ("a job is uncertain", |f, s| is(f, s, State::Uncertain)),
    ("a job succeeded", |f, s| is(f, s, State::Succeeded)),
    ("a job failed", |f, s| is(f, s, State::Failed)),
    ("a job was canceled", |f, s| is(f, s, State::Canceled)),
    ("a job was rejected", |f, s| is(f, s, State::Rejected)),
    ("a job expired", |f, s| is(f, s, State::Expired)),
    ("a job was abandoned", |f, s| is(f, s, State::Lost)),
    ("two attempts of a job ran", |f, s| has(f, s, Flags::DUPLICATE)),
    ("a result came after the job was abandoned", |f, s| has(f, s, Flags::LATE_RESULT)),
    ("a cancel came too late", |f, s| has(f, s, Flags::CANCEL_TOO_LATE)),
    ("a start was missed", |f, s| has(f, s, Flags::MISSED_START)),
    ("a job was adopted", |f, s| has(f, s, Flags::ADOPTED)),
    ("a job was interrupted", |f, s| has(f, s, Flags::INTERRUPTED)),
    ("a reboot left a job uncertain", |_, s| {
        s.world.boxes.iter().any(|held| {
            held.machine.alive().next().is_none()
                && on_disk(held, &|job| job.report.state == State::Uncertain)
        })
    }),
    ("the intent to start is on disk, and the machine was told nothing", |_, s| {
        s.world.boxes.iter().any(|held| {
            held.state.is_none()
                && on_disk(held, &|job| {
                    job.report.state == State::Starting && !held.machine.begun.contains_key(&job.work())
                })
        })
    }),
    ("the intent to stop is on disk, and the machine was not told", |_, s| {
        s.world.boxes.iter().any(|held| {
            held.state.is_none()
                && on_disk(held, &|job| {
                    job.report.state == State::Stopping && held.machine.alive().any(|work| work == job.work())
                })
        })
    }),
    ("the intent to stop is on disk, and the machine has not begun yet", |_, s| {
        s.world.boxes.iter().any(|held| {
            held.machine.has_in_hand() && on_disk(held, &|job| job.report.state == State::Stopping)
        })
    }),
    ("an order is on disk, and its client got no answer", |_, s| {
        s.world.master_disk.orders.keys().any(|order| !s.world.ledger.acknowledged.contains(order))
    }),
    ("a machine works and its agent is dead", |_, s| {
        s.world.boxes.iter().any(|held| held.state.is_none() && held.machine.alive().next().is_some())
    }),
    ("a machine works and its slave is offline", |_, s| {
        (0..s.world.boxes.len()).any(|slave| {
            s.world.link(slave).is_none() && s.world.boxes[slave].machine.alive().next().is_some()
        })
    }),
    ("a job ended and no master knows", |f, s| {
        f.jobs(s).iter().any(|job| {
            let said = |slave| s.world.on_slave(slave, *job).is_some_and(State::is_ended);
            (0..s.world.boxes.len()).any(said)
                && s.world.find_job(*job).is_some_and(|job| !job.state.is_ended())
        })
    }),
    ("a slave is connected again, and the master still has its dead link", |_, s| {
        let back = (0..s.world.boxes.len()).filter(|slave| s.world.link(*slave).is_some()).count();
        let believed = s.world.master.as_ref().map_or(0, |master| master.links.len());
        back == s.world.boxes.len() && believed > back
    }),
    ("an older master was refused", |_, s| was_closed(s, CloseCode::StaleMaster)),
    ("a slave doubts its master", |_, s| {
        s.world.master.as_ref().is_some_and(|master| !master.doubted_by.is_empty())
    }),
    ("a job was recalled", |f, s| {
        f.jobs(s).iter().any(|job| s.world.find_job(*job).is_some_and(|job| job.recalled.is_some()))
    }),
    ("a job was assigned again", |f, s| {
        f.jobs(s).iter().any(|job| s.world.find_job(*job).is_some_and(|job| job.last_attempt.0 > 1))
    }),
    ("a job ran on two slaves", |f, s| {
        let places = |job| s.world.boxes.iter().filter(|held| held.machine.knows(job)).count();
        f.jobs(s).iter().any(|job| places(*job) > 1)
    }),
    ("a frame of a dead link arrived", |f, s| s.left.late < f.configuration.late.0),
    ("a machine could not begin, and its job waits", |_, s| {
        let held_back = |job: &Job| {
            let reason = job.report.reason.as_ref().map(|reason| reason.code);
            job.report.state == State::Accepted && reason == Some(ReasonCode::MachineUnfit)
        };
        s.world.boxes.iter().any(|held| on_disk(held, &held_back))
    }),
    ("a slave was revoked while a newcomer waited behind its older link", |_, s| {
        s.world.asks_links() && has_record(s, &|record| record.enrolled == Enrolled::Revoked)
    }),
    ("a revoked slave says Hello again", |_, s| {
        let away = has_record(s, &|record| record.enrolled == Enrolled::Revoked);
        away && s.world.boxes.iter().any(|held| {
            held.state.as_ref().is_some_and(|state| matches!(state.link, Link::Introduced { .. }))
        })
    }),
    ("a revoked slave was given a token", |_, s| {
        let away = has_record(s, &|record| record.enrolled == Enrolled::Revoked);
        away && s.world.master.as_ref().is_some_and(|master| !master.tokens.is_empty())
    }),
    ("the master shows the progress of a job", |f, s| {
        f.jobs(s).iter().any(|job| {
            let report = s.world.find_job(*job).and_then(|job| job.report.clone());
            report.is_some_and(|report| report.progress.is_some_and(|shown| shown < 1_000))
        })
    }),
    ("the master shows the progress of a second run", |_, s| {
        s.world.progress_of_master().any(|run| run.run > Run(1))
    }),
    ("a machine was barred by failures", |_, s| {
        let barred = Some(Attention::FailuresInRow);
        s.world.boxes.iter().any(|held| held.disk.node().is_some_and(|node| node.attention == barred))
    }),
    ("a slave waits to give back what its config does not allow any more", |_, s| {
        let mut agents = s.world.boxes.iter().filter_map(|held| held.state.as_ref());
        let waits = |job: &Job| job.report.waiting_for == Some(WaitingFor::Elsewhere);
        agents.any(|state| state.jobs.values().any(waits))
    }),
    ("a job runs that another slave has rejected", |f, s| {
        f.jobs(s).iter().any(|job| {
            let known = s.world.find_job(*job);
            known.is_some_and(|job| job.state == State::Running && !job.rejected_by.is_empty())
        })
    }),
];

macro_rules! properties {
    ($($number:literal)*) => {
        vec![$(Property::<Floor>::sometimes(SIGHTS[$number].0, |floor, scene| (SIGHTS[$number].1)(floor, scene))),*]
    };
}

pub fn all() -> Vec<Property<Floor>> {
    let all = properties![
        0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 36 37 38 39 40 41 42 43
    ];
    assert_eq!(all.len(), SIGHTS.len(), "each sight is a property");
    all
}

fn is(floor: &Floor, scene: &Scene, state: State) -> bool {
    floor.jobs(scene).iter().any(|job| scene.world.find_job(*job).is_some_and(|job| job.state == state))
}

fn has(floor: &Floor, scene: &Scene, flag: Flags) -> bool {
    floor
        .jobs(scene)
        .iter()
        .any(|job| scene.world.find_job(*job).is_some_and(|job| job.all_flags().has(flag)))
}

fn has_record(scene: &Scene, fits: &dyn Fn(&SlaveRecord) -> bool) -> bool {
    scene.world.master.iter().flat_map(|master| master.slaves.values()).any(fits)
}

fn was_closed(scene: &Scene, code: CloseCode) -> bool {
    scene.world.boxes.iter().any(|held| held.closed.last() == Some(&code))
}

fn on_disk(held: &crate::world::Station, fits: &dyn Fn(&Job) -> bool) -> bool {
    held.disk.held().any(fits)
}
