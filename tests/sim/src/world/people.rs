//! Clients that place orders, and people who give commands at the master and at the machines.

use reloop_protocol::id::{JobId, OrderId};
use reloop_protocol::job::{End, OnInterrupt, State};
use reloop_protocol::master::{
    self, Answer, Delivery, JobCommand, Need, Needed, Offline, Order, Refusal, RequestId, Retry,
    SlaveCommand, Subject, Token,
};
use reloop_protocol::slave::{self, Local};
use reloop_protocol::spec::{CancelMode, Late, OnOverdue, Spec, StartRule};
use reloop_protocol::time::Millis;
use std::collections::{BTreeMap, BTreeSet};

use super::{Invariant, Station, World};

/// Longer than any schedule.
const TOKEN_LIVES: Millis = Millis::seconds(10 * 365 * 86_400);

/// How long a person's release is valid.
pub const RELEASED_FOR: Millis = Millis::seconds(3_600);

impl World {
    /// A plain order of one job.
    pub fn order(&mut self, program: &str) -> Order {
        let job = JobId(self.bytes());
        let order = OrderId(self.bytes());
        Order {
            id: order,
            created_at: self.now(),
            jobs: vec![job],
            spec: Spec {
                order,
                name: None,
                program: program.to_owned(),
                params: BTreeMap::new(),
                max_runtime: None,
                on_overdue: OnOverdue::Flag,
                on_interrupt: OnInterrupt::Hold,
            },
            slave: None,
            requires: BTreeMap::new(),
            start: StartRule::default(),
            retry: Retry { max_attempts: 1, on: BTreeSet::new() },
            external_id: None,
            labels: BTreeMap::new(),
            retry_backoff: Millis(0),
        }
    }

    /// Places an order. Returns its first job.
    pub fn place(&mut self, order: Order) -> JobId {
        let job = order.jobs[0];
        if order.start.deadline.is_some() || order.start.late == Late::Skip {
            self.ledger.timed.insert(job);
        }
        let request = RequestId(self.fresh());
        self.master_event(master::Event::OrderPlaced { request, order: Box::new(order), key: None });
        job
    }

    /// Gives a command for a job. Returns the answer.
    pub fn command(&mut self, job: JobId, command: JobCommand) -> Option<Answer> {
        let request = RequestId(self.fresh());
        match command {
            // People are responsible for what these commands cause.
            JobCommand::Abandon => {
                self.ledger.given_away.insert(job);
                self.ledger.abandoned.insert(job);
            }
            JobCommand::Resolve(_) => {
                self.ledger.given_away.insert(job);
                self.ledger.resolved.insert(job);
                self.look_at_machines(Some(job));
            }
            JobCommand::Retry => drop(self.ledger.given_away.insert(job)),
            JobCommand::Release { .. } if self.ledger.masters_forgot => {
                self.ledger.given_away.insert(job);
            }
            JobCommand::Reschedule { deadline, late, .. } => {
                let of = |master: &reloop_protocol::master::Master| {
                    master.book.jobs.get(&job).is_some_and(|job| job.holder.is_some())
                };
                let was_assigned = self.master.as_ref().is_some_and(of);
                if was_assigned || self.boxes.iter().any(|held| held.machine.knows(job)) {
                    self.ledger.planned_again.insert(job);
                }
                if deadline.is_some() || late == Late::Skip {
                    self.ledger.timed.insert(job);
                }
            }
            JobCommand::Cancel(_) => drop(self.ledger.cancel_asked.insert(job)),
            JobCommand::Pause | JobCommand::Resume | JobCommand::Release { .. } => {}
        }
        let thought_begun =
            self.master.as_ref().and_then(|master| Some(master.book.jobs.get(&job)?.state.is_started()));
        self.master_event(master::Event::JobsCommanded { request, jobs: vec![job], command });
        let answer = self.answers.get(&request).cloned();
        let in_time = |told: &[(JobId, Delivery)]| told.iter().any(|(_, told)| *told != Delivery::TooLate);
        if matches!(&answer, Some(Answer::Taken(told)) if in_time(told)) {
            let refused = |held: &Station| held.machine.went_on.iter().any(|work| work.job == job);
            let begun = |held: &Station| held.machine.begun.keys().any(|work| work.job == job);
            let is_over = match self.ledger.canceled.get(&job) {
                // If it is uncertain, it may have begun.
                Some(CancelMode::IfNotStarted) => thought_begun == Some(true) || self.boxes.iter().any(begun),
                Some(CancelMode::SafePoint | CancelMode::Now) => self.boxes.iter().any(refused),
                None => false,
            };
            match command {
                JobCommand::Cancel(mode) => {
                    let hardest = self.ledger.canceled.entry(job).or_insert(mode);
                    *hardest = mode.max(*hardest);
                }
                // Resuming a job that could not be stopped withdraws the cancel.
                JobCommand::Pause | JobCommand::Resume if is_over => drop(self.ledger.canceled.remove(&job)),
                _ => {}
            }
        }
        answer
    }

    /// A person who resolves an uncertain job, or says that a machine is clear, has made sure that nothing runs there
    /// that the slave does not know.
    pub(super) fn look_at_machines(&mut self, job: Option<JobId>) {
        for held in &mut self.boxes {
            let concerned = job.is_none_or(|job| held.machine.knows(job));
            if concerned {
                let executing = held.state.as_ref().and_then(|state| {
                    state.jobs.values().find(|job| job.report.state.is_executing()).map(slave::Job::work)
                });
                held.machine.clear_by_hand(executing);
            }
        }
    }

    /// Gives a command for a slave. Returns the answer, if there is one yet.
    pub fn command_slave(&mut self, slave: usize, command: SlaveCommand) -> Option<Answer> {
        let request = self.command_slave_now(slave, command);
        self.settle();
        self.answers.get(&request).cloned()
    }

    /// Gives a command for a slave, without moving anything.
    pub fn command_slave_now(&mut self, slave: usize, command: SlaveCommand) -> RequestId {
        let request = RequestId(self.fresh());
        let key = self.boxes[slave].settings.key;
        if command == SlaveCommand::Clear {
            self.look_at_machines(None);
        }
        // Commands at the second master are lost when it is removed.
        let alone = self.master.is_some() && self.double.is_none();
        if command == SlaveCommand::Forget && alone {
            self.ledger.revoked.insert(key);
        }
        self.master_event(master::Event::SlaveCommanded { request, slave: key, command });
        request
    }

    /// An admin makes a token and gives it to the slave, which shows it at its next connection.
    pub fn enroll(&mut self, slave: usize) {
        let request = RequestId(self.fresh());
        let mut hash = [0; 32];
        // Not from the common counter: two states that differ in nothing else must have the same token.
        let made = self.master.as_ref().map_or(0, |master| master.tokens.len());
        hash[..8].copy_from_slice(&(slave as u64).to_be_bytes());
        hash[8..16].copy_from_slice(&(made as u64).to_be_bytes());
        let token = Token { expires_at: self.now().after(TOKEN_LIVES), uses_left: 1, name: None };
        self.master_event(master::Event::TokenMade { request, hash, token });
        self.boxes[slave].token = Some(hash);
        self.plug_again(slave);
    }

    /// Gives a command at a machine.
    pub fn local(&mut self, slave: usize, command: Local) -> Option<Result<slave::Done, slave::NotDone>> {
        let request = self.fresh();
        if let Local::Resolve { .. } = command {
            let uncertain = self.boxes[slave].state.iter().flat_map(|state| state.jobs.values());
            let uncertain = uncertain.filter(|job| job.report.state == State::Uncertain);
            self.ledger.resolved.extend(uncertain.map(|job| job.report.job));
        }
        if matches!(command, Local::Clear | Local::Resolve { .. }) {
            let held = &mut self.boxes[slave];
            let executing = held.state.as_ref().and_then(|state| {
                state.jobs.values().find(|job| job.report.state.is_executing()).map(slave::Job::work)
            });
            held.machine.clear_by_hand(executing);
        }
        let executing = self.boxes[slave].state.as_ref().and_then(|state| {
            state.jobs.values().find(|job| job.report.state.is_executing()).map(slave::Job::work)
        });
        match (&command, executing) {
            (Local::Stop { .. }, Some(work)) => drop(self.ledger.stopped_here.insert((slave, work))),
            (Local::Resume, Some(work)) => drop(self.ledger.stopped_here.remove(&(slave, work))),
            _ => {}
        }
        self.slave_event(slave, slave::Event::Local { request, command });
        self.boxes[slave].replies.last().cloned()
    }

    /// People do all that the master says it needs of them. True if they were needed.
    pub fn answer_needs(&mut self) -> bool {
        let mut last = None;
        let mut were_needed = false;
        while self.broken.is_none()
            && let Some(needed) = self.next_need(last)
        {
            last = Some((needed.need, needed.subject));
            were_needed |= self.answer_need(&needed);
        }
        were_needed
    }

    fn next_need(&self, after: Option<(Need, Subject)>) -> Option<Needed> {
        master::needs(self.master.as_ref()?, self.now(), after, 1).pop()
    }

    /// The master has to grant what it has named. True if a person was needed.
    fn answer_need(&mut self, needed: &Needed) -> bool {
        let slave =
            self.boxes.iter().position(|held| Some(held.settings.key) == needed.slave && !held.retired);
        let (is_of_slave, job) = (matches!(needed.subject, Subject::Slave(_)), needed.job);
        if is_of_slave && needed.is_offline && needed.need != Need::Doubts {
            // It is the slave's last word, and only the slave can be told the answer.
            return false;
        }
        let answer = match (needed.need, slave, job) {
            // A job that runs longer than it may ends by itself in the world: nobody has to cancel it.
            (Need::Overdue, ..) => return false,
            (Need::Doubts, ..) => self.confirm_restore(),
            (Need::Cloned | Need::Attention, Some(slave), _) => {
                self.command_slave(slave, SlaveCommand::Clear)
            }
            (Need::Unloading, Some(slave), _) => self.command_slave(slave, SlaveCommand::Ready),
            (Need::Approval, Some(slave), _) => self.command_slave(slave, SlaveCommand::Approve),
            (Need::LocalLock, Some(slave), _) => {
                self.local(slave, Local::Lock(false));
                None
            }
            (Need::Uncertain | Need::Unresolved, _, Some(job)) => {
                self.command(job, JobCommand::Resolve(End::Failed))
            }
            (Need::Mismatch, _, Some(job)) => self.command(job, JobCommand::Cancel(CancelMode::SafePoint)),
            (Need::MissedStart | Need::Restored | Need::ReleaseLapsed | Need::Held, _, Some(job)) => {
                self.command(job, JobCommand::Release { valid: RELEASED_FOR })
            }
            // Its box is not of this world any more.
            _ => return false,
        };
        self.settle();
        // On a link that is lost, and not yet known to be, an answer does not come, or somebody's word has not arrived.
        let is_underway = |why: &Refusal| {
            matches!(why, Refusal::SlaveOffline(Offline::Lost))
                || needed.need == Need::Unresolved && matches!(why, Refusal::AlreadyResolved(_))
        };
        if let Some(Answer::Refused(why)) = answer
            && !is_underway(&why)
        {
            self.violate(Invariant::NeedsGranted, format!("`{}`: {why:?}", needed.command()));
        }
        true
    }
}
