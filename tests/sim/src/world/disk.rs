//! The disks of the world: they contain exactly the durable writes.

use std::collections::BTreeMap;

use reloop_protocol::id::{Attempt, JobId, OrderId, SlaveKey};
use reloop_protocol::job::State;
use reloop_protocol::limits::RECORD_BYTES;
use reloop_protocol::master::{self, Order, Receipt};
use reloop_protocol::message::{Begun, Record, Report};
use reloop_protocol::time::Time;
use reloop_protocol::{slave, wire};
use serde::Serialize;

/// The nodes stop at a record that the store does not accept.
fn fits<T: Serialize>(record: &T) {
    let size = wire::encode(record).len();
    assert!(size <= RECORD_BYTES, "a record of {size} bytes was to be written: no store takes it");
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct SlaveDisk {
    node: Option<slave::Write>,
    jobs: BTreeMap<JobId, slave::Write>,
    recent_outcomes: Option<slave::Write>,
}

impl SlaveDisk {
    pub(super) fn write(&mut self, write: slave::Write) {
        match &write {
            slave::Write::Node(node) => fits(node),
            slave::Write::Job(_, job) => fits(job),
            slave::Write::RecentOutcomes(recent_outcomes) => recent_outcomes.iter().for_each(fits),
        }
        match &write {
            slave::Write::Node(_) => self.node = Some(write),
            slave::Write::Job(id, Some(_)) => drop(self.jobs.insert(*id, write)),
            slave::Write::Job(id, None) => drop(self.jobs.remove(id)),
            slave::Write::RecentOutcomes(_) => self.recent_outcomes = Some(write),
        }
    }

    /// The same disk without one job.
    #[must_use]
    pub fn without(mut self, job: JobId) -> Self {
        self.jobs.remove(&job);
        self
    }

    pub fn job(&self, id: JobId) -> Option<&slave::Job> {
        match self.jobs.get(&id)? {
            slave::Write::Job(_, job) => job.as_deref(),
            slave::Write::Node(_) | slave::Write::RecentOutcomes(_) => None,
        }
    }

    pub fn held(&self) -> impl Iterator<Item = &slave::Job> {
        self.jobs.keys().filter_map(|id| self.job(*id))
    }

    /// The node's record, if it was ever written.
    pub fn node(&self) -> Option<&slave::Node> {
        match self.node.as_ref()? {
            slave::Write::Node(node) => Some(node),
            slave::Write::Job(..) | slave::Write::RecentOutcomes(_) => None,
        }
    }

    pub fn jobs(&self) -> impl Iterator<Item = &slave::Job> {
        self.jobs.keys().filter_map(|id| self.job(*id))
    }

    /// The outcomes that it was told to forget.
    pub fn recent_outcomes(&self) -> &[Record] {
        match &self.recent_outcomes {
            Some(slave::Write::RecentOutcomes(recent_outcomes)) => recent_outcomes,
            Some(slave::Write::Node(_) | slave::Write::Job(..)) | None => &[],
        }
    }

    /// Whether a job, or this attempt of it, is on the disk or among its recent outcomes.
    pub(super) fn remembers(&self, id: JobId, attempt: Option<Attempt>) -> bool {
        let kept = self.job(id).map(|job| &job.report);
        let reports = kept.into_iter().chain(self.recent_outcomes().iter().map(|record| &record.report));
        reports
            .filter(|report| report.job == id)
            .any(|report| attempt.is_none_or(|attempt| report.attempt == attempt))
    }

    /// Whether `recover` would return this state, record by record; true of an empty disk.
    pub(super) fn holds(&self, state: &slave::Slave) -> bool {
        let Some(on_disk) = self.node() else { return true };
        let (node, jobs, recent_outcomes) = slave::durable(state);
        *on_disk == node
            && self.jobs.len() == jobs.len()
            && jobs.iter().all(|(id, job)| self.job(*id) == Some(job))
            && self.recent_outcomes() == recent_outcomes
    }

    pub(super) fn records(&self) -> impl Iterator<Item = slave::Write> {
        self.node.iter().chain(self.jobs.values()).chain(&self.recent_outcomes).cloned()
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct MasterDisk {
    node: Option<master::Write>,
    pub(super) begun: Vec<Begun>,
    pub(super) clock_mark: Option<Time>,
    /// Live and ended jobs.
    pub jobs: BTreeMap<JobId, master::Job>,
    slaves: BTreeMap<SlaveKey, master::Write>,
    tokens: BTreeMap<[u8; 32], master::Write>,
    keys: BTreeMap<String, (OrderId, [u8; 32])>,
    pub orders: BTreeMap<OrderId, Order>,
    pub receipts: Vec<Receipt>,
}

impl MasterDisk {
    /// What the disk has of what the master does not hold in memory.
    pub(super) fn read(&self, unknown: &master::Unknown) -> master::Loaded {
        master::Loaded {
            jobs: unknown.jobs.iter().filter_map(|id| self.jobs.get(id).cloned()).collect(),
            orders: unknown.orders.iter().filter_map(|id| self.orders.get(id).cloned()).collect(),
            keys: unknown.keys.iter().map(|key| (key.clone(), self.keys.get(key).copied())).collect(),
        }
    }

    pub(super) fn write(&mut self, write: master::Write) {
        match &write {
            master::Write::Node(node) => fits(node),
            master::Write::Job(job) => fits(job),
            master::Write::Order(order) => fits(order),
            master::Write::Slave(slave) => fits(slave),
            master::Write::Token(_, token) => fits(token),
            master::Write::Key(key, order) => fits(&(key, order)),
            master::Write::Receipt(receipt) => fits(receipt),
            master::Write::Begun(begun) => fits(begun),
            master::Write::ClockMark(time) => fits(time),
        }
        match write {
            master::Write::Node(_) => self.node = Some(write),
            master::Write::Job(job) => drop(self.jobs.insert(job.id, *job)),
            master::Write::Order(order) => drop(self.orders.insert(order.id, *order)),
            master::Write::Slave(ref slave) => drop(self.slaves.insert(slave.key, write)),
            master::Write::Token(hash, Some(_)) => drop(self.tokens.insert(hash, write)),
            master::Write::Token(hash, None) => drop(self.tokens.remove(&hash)),
            master::Write::Key(key, order) => drop(self.keys.insert(key.key, (order, key.fingerprint))),
            master::Write::Receipt(receipt) => self.receipts.push(*receipt),
            master::Write::Begun(begun) => self.begun = begun,
            master::Write::ClockMark(time) => self.clock_mark = Some(time),
        }
    }

    pub(super) fn slaves(&self) -> impl Iterator<Item = &master::SlaveRecord> {
        self.slaves.values().filter_map(|write| {
            let master::Write::Slave(slave) = write else { return None };
            Some(&**slave)
        })
    }

    pub(super) fn records(&self) -> impl Iterator<Item = master::Write> {
        let jobs = self.jobs.values().map(|job| master::Write::Job(Box::new(job.clone())));
        let begun = (!self.begun.is_empty()).then(|| master::Write::Begun(self.begun.clone()));
        self.node
            .iter()
            .chain(self.slaves.values())
            .chain(self.tokens.values())
            .cloned()
            .chain(begun)
            .chain(self.clock_mark.map(master::Write::ClockMark))
            .chain(jobs)
    }

    /// The node's record, if it was ever written.
    pub(super) fn node(&self) -> Option<&master::Node> {
        match self.node.as_ref()? {
            master::Write::Node(node) => Some(node),
            master::Write::Order(_)
            | master::Write::Key(..)
            | master::Write::Job(_)
            | master::Write::Slave(_)
            | master::Write::Token(..)
            | master::Write::Receipt(_)
            | master::Write::Begun(_)
            | master::Write::ClockMark(_) => None,
        }
    }

    /// Whether this attempt is known to be in this state.
    pub(super) fn knows(&self, id: JobId, attempt: Attempt, state: State) -> bool {
        let Some(job) = self.jobs.get(&id) else { return false };
        let told = |report: &Option<Report>| {
            report.as_ref().is_some_and(|report| report.attempt == attempt && report.state == state)
        };
        told(&job.report) || job.others.iter().any(|earlier| told(&earlier.report))
    }

    /// Whether `recover` would return this state, record by record.
    pub(super) fn holds(&self, state: &master::Master) -> bool {
        let (node, jobs, slaves, tokens) = master::durable(state);
        let live = self.jobs.values().filter(|job| !job.state.is_ended()).count();
        let slave = |slave: &master::SlaveRecord| match self.slaves.get(&slave.key) {
            Some(master::Write::Slave(kept)) => **kept == *slave,
            _ => false,
        };
        let token = |(hash, token): (&[u8; 32], &master::Token)| match self.tokens.get(hash) {
            Some(master::Write::Token(_, Some(kept))) => kept == token,
            _ => false,
        };
        self.node == Some(master::Write::Node(node))
            && self.begun == state.begun
            && self.clock_mark.unwrap_or(Time(i64::MIN)) == state.clock_mark
            && live == jobs.len()
            && jobs.iter().all(|job| self.jobs.get(&job.id) == Some(job))
            && self.slaves.len() == slaves.len()
            && slaves.iter().all(slave)
            && self.tokens.len() == tokens.len()
            && tokens.iter().all(token)
    }

    /// The disk with only the jobs that a master keeps in memory: the result of a restart, at less cost.
    pub(super) fn live_records(&self) -> impl Iterator<Item = master::Write> {
        let live = self.jobs.values().filter(|job| !job.state.is_ended());
        let jobs = live.map(|job| master::Write::Job(Box::new(job.clone())));
        let begun = (!self.begun.is_empty()).then(|| master::Write::Begun(self.begun.clone()));
        self.node
            .iter()
            .chain(self.slaves.values())
            .chain(self.tokens.values())
            .cloned()
            .chain(begun)
            .chain(self.clock_mark.map(master::Write::ClockMark))
            .chain(jobs)
    }
}

/// A write in a few words.
pub(super) fn name_slave_write(write: &slave::Write) -> String {
    match write {
        slave::Write::Node(node) => format!("node (session {})", node.session),
        slave::Write::Job(id, Some(job)) => {
            format!(
                "{id} attempt {} {:?} rev {}",
                job.report.attempt, job.report.state, job.report.generation
            )
        }
        slave::Write::Job(id, None) => format!("{id} gone"),
        slave::Write::RecentOutcomes(recent_outcomes) => format!("ring of {}", recent_outcomes.len()),
    }
}

/// A write in a few words.
pub(super) fn name_master_write(write: &master::Write) -> String {
    match write {
        master::Write::Node(node) => format!("node (epoch {}, commit {})", node.epoch, node.commit),
        master::Write::Order(order) => order.id.to_string(),
        master::Write::Key(key, order) => format!("key {} of {order}", key.key),
        master::Write::Job(job) => {
            format!("{} attempt {} {:?} rev {}", job.id, job.attempt, job.state, job.generation)
        }
        master::Write::Slave(slave) => format!("desk of {} (session {})", slave.name, slave.session),
        master::Write::Token(_, Some(_)) => "a token".to_owned(),
        master::Write::Token(_, None) => "a token spent".to_owned(),
        master::Write::Begun(begun) => format!("{} incarnations", begun.len()),
        master::Write::ClockMark(time) => format!("the clock showed {time}"),
        master::Write::Receipt(receipt) => format!("receipt {}", receipt.number),
    }
}
