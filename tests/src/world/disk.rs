//! The disks of the world: they keep exactly the durable writes.

use std::collections::BTreeMap;

use reloop_protocol::id::{JobId, OrderId, SlaveKey};
use reloop_protocol::master::{self, Order, Receipt};
use reloop_protocol::slave;

/// What is on a slave's disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct SlaveDisk {
    node: Option<slave::Write>,
    jobs: BTreeMap<JobId, slave::Write>,
    ring: Option<slave::Write>,
}

impl SlaveDisk {
    pub(super) fn write(&mut self, write: slave::Write) {
        match &write {
            slave::Write::Node(_) => self.node = Some(write),
            slave::Write::Job(id, Some(_)) => drop(self.jobs.insert(*id, write)),
            slave::Write::Job(id, None) => drop(self.jobs.remove(id)),
            slave::Write::Ring(_) => self.ring = Some(write),
        }
    }

    /// The same disk, one job short.
    #[must_use]
    pub fn without(mut self, job: JobId) -> Self {
        self.jobs.remove(&job);
        self
    }

    /// A job's record.
    pub fn job(&self, id: JobId) -> Option<&slave::Job> {
        match self.jobs.get(&id)? {
            slave::Write::Job(_, job) => job.as_deref(),
            slave::Write::Node(_) | slave::Write::Ring(_) => None,
        }
    }

    /// Every job's record.
    pub fn held(&self) -> impl Iterator<Item = &slave::Job> {
        self.jobs.keys().filter_map(|id| self.job(*id))
    }

    /// The node's record, if it was ever written.
    pub fn node(&self) -> Option<&slave::Node> {
        match self.node.as_ref()? {
            slave::Write::Node(node) => Some(node),
            slave::Write::Job(..) | slave::Write::Ring(_) => None,
        }
    }

    pub(super) fn ring(&self) -> Option<&slave::Write> {
        self.ring.as_ref()
    }

    pub(super) fn records(&self) -> impl Iterator<Item = slave::Write> {
        self.node.iter().chain(self.jobs.values()).chain(&self.ring).cloned()
    }
}

/// What is on the master's disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct MasterDisk {
    node: Option<master::Write>,
    /// Every job, live or ended.
    pub jobs: BTreeMap<JobId, master::Job>,
    desks: BTreeMap<SlaveKey, master::Write>,
    tokens: BTreeMap<[u8; 32], master::Write>,
    keys: BTreeMap<String, (OrderId, [u8; 32])>,
    /// Every order.
    pub orders: BTreeMap<OrderId, Order>,
    /// Every receipt.
    pub receipts: Vec<Receipt>,
}

impl MasterDisk {
    pub(super) fn write(&mut self, write: master::Write) {
        match write {
            master::Write::Node(_) => self.node = Some(write),
            master::Write::Job(job) => drop(self.jobs.insert(job.id, *job)),
            master::Write::Order(order) => drop(self.orders.insert(order.id, *order)),
            master::Write::Desk(ref desk) => drop(self.desks.insert(desk.key, write)),
            master::Write::Token(hash, Some(_)) => drop(self.tokens.insert(hash, write)),
            master::Write::Token(hash, None) => drop(self.tokens.remove(&hash)),
            master::Write::Key(key, order) => drop(self.keys.insert(key.key, (order, key.fingerprint))),
            master::Write::Receipt(receipt) => self.receipts.push(*receipt),
        }
    }

    pub(super) fn node(&self) -> Option<&master::Node> {
        let Some(master::Write::Node(node)) = &self.node else { return None };
        Some(node)
    }

    pub(super) fn desks(&self) -> impl Iterator<Item = &master::Desk> {
        self.desks.values().filter_map(|write| {
            let master::Write::Desk(desk) = write else { return None };
            Some(&**desk)
        })
    }

    pub(super) fn records(&self) -> impl Iterator<Item = master::Write> {
        let jobs = self.jobs.values().map(|job| master::Write::Job(Box::new(job.clone())));
        self.node.iter().chain(self.desks.values()).chain(self.tokens.values()).cloned().chain(jobs)
    }

    /// The same disk with only the jobs that a master keeps in memory: what a restart would bring back, cheaply.
    pub(super) fn live_records(&self) -> impl Iterator<Item = master::Write> {
        let live = self.jobs.values().filter(|job| !job.state.is_ended());
        let jobs = live.map(|job| master::Write::Job(Box::new(job.clone())));
        self.node.iter().chain(self.desks.values()).chain(self.tokens.values()).cloned().chain(jobs)
    }
}
