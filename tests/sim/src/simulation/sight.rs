//! Sights: moments that schedules have to hit, because a fault that never falls into its critical moment proves
//! nothing.
//!
//! Each name says what happened and when. A schedule counts how often it did ([`Outcome::sights`](super::Outcome)), and
//! the test of the schedules requires each.

use std::collections::BTreeMap;

use reloop_protocol::id::Run;
use reloop_protocol::master::{Enrolled, SlaveLink, SlaveRecord};
use reloop_protocol::message::{Flags, ReasonCode};
use reloop_protocol::slave::Link;

use crate::world::{Act, SlaveAct, World, job_id};

/// How often each was seen.
pub type Sights = BTreeMap<&'static str, usize>;

/// Everything that schedules have to show.
pub const SIGHTS: &[&str] = &[
    "a machine was asked, and its link was lost before it answered",
    "a machine was asked, and its agent died before it answered",
    "a machine was asked, and a person at it gave a command before it answered",
    "a machine was asked, and somebody gave a command for the job before it answered",
    "a link was asked whether it lives, and a link was lost before it answered",
    "a link was asked whether it lives, and an agent died before it answered",
    "a link was asked whether it lives, and somebody gave a command for a job before it answered",
    "a slave was revoked between Hello and Welcome",
    "a slave was approved between Hello and Welcome",
    "a slave was enrolled between Hello and Welcome",
    "a slave was revoked between Welcome and Settled",
    "a slave was approved between Welcome and Settled",
    "a slave was enrolled between Welcome and Settled",
    "a slave was revoked while a newcomer waited behind its older link",
    "a slave was approved while a newcomer waited behind its older link",
    "a slave was enrolled while a newcomer waited behind its older link",
    "a slave showed the progress of a run",
    "the master showed the progress of a run",
    "the master showed the progress of a second run",
    "a paused job stayed paused until it was resumed",
    "a job ran longer than it may and was flagged",
    "a job ran longer than it may and was stopped",
    "a job missed its start",
    "a job's latest start passed",
];

/// The phase of a slave's handshake, seen from both ends.
fn moment(world: &World, slave: usize) -> Option<(&'static str, &SlaveRecord)> {
    let held = world.boxes.get(slave)?;
    let record = world.master.as_ref()?.slaves.get(&held.settings.key)?;
    let introduced = matches!(held.state.as_ref()?.link, Link::Introduced { .. });
    let welcomed = matches!(record.link, SlaveLink::Welcomed { .. });
    let moment = match (record.contender.is_some(), welcomed, introduced) {
        (true, ..) => "while a newcomer waited behind its older link",
        (false, true, _) => "between Welcome and Settled",
        (false, false, true) => "between Hello and Welcome",
        (false, false, false) => return None,
    };
    Some((moment, record))
}

/// The sights of an act, if it is performed in the world as it is now.
pub(super) fn of(world: &World, act: &Act) -> Vec<String> {
    let mut seen = Vec::new();
    let asked = |slave: usize| {
        let state = world.boxes.get(slave).and_then(|held| held.state.as_ref());
        state.is_some_and(|state| !state.volatile.probing.is_empty())
    };
    let what = match act {
        Act::Cut { slave } | Act::HalfOpen { slave } | Act::Swallow { slave }
            if world.boxes.get(*slave).is_some_and(|held| held.cable) && world.link(*slave).is_some() =>
        {
            Some(("and its link was lost", "and a link was lost", asked(*slave)))
        }
        Act::Kill { slave } | Act::Reboot { slave } => {
            Some(("and its agent died", "and an agent died", asked(*slave)))
        }
        Act::Local { slave, .. } => Some(("and a person at it gave a command", "", asked(*slave))),
        Act::Job { job, .. } => {
            let id = job_id(*job);
            let mut states = world.boxes.iter().filter_map(|held| held.state.as_ref());
            let asked = states.any(|state| state.volatile.probing.contains_key(&id));
            let of_it = "and somebody gave a command for the job";
            Some((of_it, "and somebody gave a command for a job", asked))
        }
        _ => None,
    };
    if let Some((of_machine, of_link, asked)) = what {
        if asked {
            seen.push(format!("a machine was asked, {of_machine} before it answered"));
        }
        if world.asks_links() && !of_link.is_empty() {
            seen.push(format!("a link was asked whether it lives, {of_link} before it answered"));
        }
    }
    let enrolment = match act {
        Act::Slave { slave, command: SlaveAct::Forget } => Some((*slave, "revoked", true)),
        Act::Slave { slave, command: SlaveAct::Approve } => Some((*slave, "approved", false)),
        Act::Enroll { slave } => Some((*slave, "enrolled", false)),
        _ => None,
    };
    if let Some((slave, what, was_enrolled)) = enrolment
        && let Some((moment, record)) = moment(world, slave)
        && (record.enrolled == Enrolled::Yes || !was_enrolled)
    {
        seen.push(format!("a slave was {what} {moment}"));
    }
    seen
}

/// The sights of the jobs at the end of a schedule.
pub(super) fn of_jobs(world: &World) -> Vec<&'static str> {
    let mut seen = Vec::new();
    seen.extend(world.progress_of_slaves().map(|_| "a slave showed the progress of a run"));
    for run in world.progress_of_master() {
        seen.push("the master showed the progress of a run");
        seen.extend((run.run > Run(1)).then_some("the master showed the progress of a second run"));
    }
    for job in world.numbered.iter().filter_map(|id| world.find_job(*id)) {
        let flags = job.all_flags();
        let reason = job.report.as_ref().and_then(|report| report.reason.as_ref()).or(job.reason.as_ref());
        let reason = reason.map(|reason| reason.code);
        let overran = flags.has(Flags::OVERDUE);
        let stopped = reason == Some(ReasonCode::MaxRuntime);
        seen.extend(overran.then_some("a job ran longer than it may and was flagged"));
        seen.extend(stopped.then_some("a job ran longer than it may and was stopped"));
        seen.extend(flags.has(Flags::MISSED_START).then_some("a job missed its start"));
        seen.extend((reason == Some(ReasonCode::WindowClosed)).then_some("a job's latest start passed"));
    }
    seen
}

pub(super) fn count(sights: &mut Sights, seen: impl IntoIterator<Item = impl AsRef<str>>) {
    for seen in seen {
        if let Some(name) = SIGHTS.iter().find(|name| **name == seen.as_ref()) {
            *sights.entry(name).or_default() += 1;
        }
    }
}
