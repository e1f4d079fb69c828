//! The machine, as far as the slave knows it, and one job at it.

use std::collections::BTreeMap;
use std::ops::Deref;

use super::checks::Checks;
use super::clock::Clock;
use super::held::Held;
use super::out::Out;
use super::{AfterFailure, Effect, Ignored, Job, Node, Probing, Release, Settings, Slave, Volatile};
use crate::id::{Generation, JobId};
use crate::job::{End, State};
use crate::limits::{CAUSE_BYTES, clip};
use crate::message::{Activity, Attention, MachineReport, OperatingMode};

/// The machine's condition, from everything that the slave knows.
pub fn machine_report(state: &Slave) -> MachineReport {
    let executing = state.jobs.values().find(|job| job.report.state.is_executing());
    let uncertain =
        state.jobs.values().find(|job| job.report.state == State::Uncertain).map(|job| job.report.job);
    let activity = match executing.map(|job| job.report.state) {
        _ if !state.volatile.probing.is_empty() => Activity::Unknown,
        Some(State::Starting) => Activity::Preparing,
        Some(State::Paused) => Activity::Paused,
        Some(_) => Activity::Running,
        None if state.node.attention == Some(Attention::Fault) => Activity::Fault,
        None if state.node.attention.is_some() || uncertain.is_some() => Activity::Attention,
        None if state.node.unloading.is_some() => Activity::Unloading,
        None if state.node.local_lock || !state.node.operating_mode.mode.may_start() => Activity::Idle,
        None => Activity::Ready,
    };
    MachineReport {
        activity,
        unloading: state.node.unloading,
        attention: state.node.attention,
        uncertain,
        local_lock: state.node.local_lock,
        operating_mode: state.node.operating_mode,
        cause: state.node.cause.clone(),
    }
}

/// Whether something other than a job that runs keeps the machine from starting.
pub(super) fn is_barred(state: &Slave) -> bool {
    let node = &state.node;
    node.unloading.is_some()
        || node.attention.is_some()
        || node.local_lock
        || !node.operating_mode.mode.may_start()
        || !state.volatile.probing.is_empty()
        || state.volatile.boot.is_none()
        || state.jobs.values().any(|job| job.report.state == State::Uncertain)
}

/// What bars the machine, and what it was asked.
pub(super) struct Machine<'a> {
    unloading: &'a mut Option<JobId>,
    attention: &'a mut Option<Attention>,
    cause: &'a mut Option<String>,
    failed: &'a mut Vec<JobId>,
    local_lock: &'a mut bool,
    operating_mode: &'a mut OperatingMode,
    probing: &'a mut BTreeMap<JobId, Probing>,
    checks: &'a mut Checks,
    settings: &'a Settings,
}

impl<'a> Machine<'a> {
    pub(super) fn new(node: &'a mut Node, volatile: &'a mut Volatile, settings: &'a Settings) -> Self {
        let Volatile { probing, checks, .. } = volatile;
        let Node { unloading, attention, cause, failed, local_lock, operating_mode, .. } = node;
        Self { unloading, attention, cause, failed, local_lock, operating_mode, probing, checks, settings }
    }

    /// A person has to look. What people were asked for first stays, unless the machine could end it by itself.
    pub(super) fn need(&mut self, attention: Attention) {
        if self.attention.is_none_or(|known| known == Attention::MachineUnfit) {
            self.need_above_all(attention);
        }
    }

    /// A person has to look for this, whatever was there before.
    pub(super) fn need_above_all(&mut self, attention: Attention) {
        (*self.attention, *self.cause) = (Some(attention), None);
    }

    /// The same, and this is what the machine said.
    fn need_because(&mut self, attention: Attention, mut cause: String) {
        let before = *self.attention;
        self.need(attention);
        if *self.attention != before || before.is_none() {
            clip(&mut cause, CAUSE_BYTES);
            *self.cause = Some(cause);
        }
    }

    /// A job has begun: what kept the machine from that is gone.
    fn has_begun(&mut self) {
        *self.checks = Checks { is_asked: self.checks.is_asked, ..Checks::default() };
    }

    /// What keeps the machine from beginning a job is this by now.
    pub(super) fn is_still_unfit(&mut self, mut cause: String) {
        clip(&mut cause, CAUSE_BYTES);
        *self.cause = Some(cause);
    }

    pub(super) fn checks(&mut self) -> &mut Checks {
        self.checks
    }

    /// A job has succeeded: the machine can do its work.
    fn succeeded(&mut self) {
        self.failed.clear();
    }

    /// A job has failed, with these words. After too many in a row it is the machine that is suspected; the same job again, which may
    /// itself be at fault, counts once.
    fn failed(&mut self, id: JobId, said: String) {
        let most = usize::from(self.settings.max_failures_in_row);
        if most == 0 {
            return;
        }
        if !self.failed.contains(&id) {
            self.failed.push(id);
        }
        if self.failed.len() >= most {
            self.need_because(Attention::FailuresInRow, said);
        }
    }

    /// A person has looked.
    pub(super) fn clear(&mut self) -> Option<Attention> {
        self.failed.clear();
        self.end_attention()
    }

    /// What needed attention is gone.
    pub(super) fn end_attention(&mut self) -> Option<Attention> {
        *self.cause = None;
        self.attention.take()
    }

    /// A run has ended: sets what the settings ask of people before the next job.
    fn occupy(&mut self, id: JobId, end: End) {
        if self.settings.release == Release::Ack {
            *self.unloading = Some(id);
        }
        if end == End::Failed && self.settings.after_failure == AfterFailure::Hold {
            self.need(Attention::Fault);
        }
    }

    /// A person has cleared the machine of a finished job.
    pub(super) fn unload(&mut self) -> Option<JobId> {
        self.unloading.take()
    }

    pub(super) fn set_locked(&mut self, lock: bool) {
        *self.local_lock = lock;
    }

    /// The master wants this operating mode.
    pub(super) fn enter(&mut self, operating_mode: OperatingMode) -> Result<(), Ignored> {
        if operating_mode.generation < self.operating_mode.generation {
            return Err(Ignored::OlderMode);
        }
        *self.operating_mode = operating_mode;
        Ok(())
    }

    /// Another master counts its operating modes from the beginning.
    pub(super) fn count_modes_anew(&mut self) {
        self.operating_mode.generation = Generation(0);
    }

    /// Takes back the question about a job, if one was not answered.
    pub(super) fn take_question(&mut self, id: JobId) -> Option<Probing> {
        self.probing.remove(&id)
    }
}

/// One job and the machine, for the rules of what the machine does with it.
pub(super) struct AtMachine<'a> {
    job: &'a mut Job,
    machine: Machine<'a>,
    clock: Clock,
    out: &'a mut Out,
}

impl Deref for AtMachine<'_> {
    type Target = Job;

    fn deref(&self) -> &Job {
        self.job
    }
}

impl<'a> AtMachine<'a> {
    pub(super) fn new(job: &'a mut Job, machine: Machine<'a>, clock: Clock, out: &'a mut Out) -> Self {
        Self { job, machine, clock, out }
    }

    /// The job without the machine.
    pub(super) fn held(&mut self) -> Held<'_> {
        let is_unanswered = self.machine.probing.contains_key(&self.job.report.job);
        Held::new(self.job, self.clock, is_unanswered, self.out)
    }

    /// The job, to be changed.
    pub(super) fn edit(&mut self) -> &mut Job {
        self.out.note(self.job.report.job, Some(self.job));
        self.job
    }

    pub(super) fn clock(&self) -> Clock {
        self.clock
    }

    pub(super) fn act(&mut self, effect: Effect) {
        self.out.act(effect);
    }

    pub(super) fn ignore(&mut self, why: Ignored) {
        self.out.ignore(why);
    }

    pub(super) fn max_interruptions(&self) -> u32 {
        self.machine.settings.max_interruptions
    }

    /// Asks the machine what it did with the job, because it refused to start in these words, or because the agent started.
    pub(super) fn probe(&mut self, refused: Option<String>) {
        let asked = Probing { since: self.clock.boot_ms(), refused };
        self.machine.probing.insert(self.job.report.job, asked);
        self.out.act(Effect::Probe { work: self.job.work(), spec: self.job.spec.clone() });
    }

    pub(super) fn take_question(&mut self) -> Option<Probing> {
        self.machine.take_question(self.job.report.job)
    }

    /// The job's run has ended, and its work may still be in the machine.
    pub(super) fn occupy_machine(&mut self, end: End) {
        self.machine.occupy(self.job.report.job, end);
    }

    /// The machine could not begin the job, for this cause: nothing starts until that is mended.
    pub(super) fn bar_machine(&mut self, cause: String) {
        self.machine.checks.program = Some(self.job.spec.program.clone());
        self.machine.need_because(Attention::MachineUnfit, cause);
    }

    /// The job has begun.
    pub(super) fn note_beginning(&mut self) {
        self.machine.has_begun();
    }

    /// The job has succeeded.
    pub(super) fn trust_machine(&mut self) {
        self.machine.succeeded();
    }

    /// The job has failed, with these words.
    pub(super) fn suspect_machine(&mut self, said: String) {
        self.machine.failed(self.job.report.job, said);
    }
}
