//! An enrolled slave that lies: it reports jobs that it was never assigned.
//!
//! It offers no program, so it is assigned nothing, and its reports must not change any job.

use reloop_protocol::id::{Attempt, BootId, Generation, JobId, ReportSeq, Run, Session, SlaveKey, StoreId};
use reloop_protocol::job::State;
use reloop_protocol::master;
use reloop_protocol::message::{
    Activity, Flags, Hello, MachineReport, Message, Mode, OperatingMode, PROTOCOL, Report, Settled, Source,
};
use reloop_protocol::slave::LinkId;

use super::{Invariant, World};

/// No other slave of a world has this key.
const LIAR: SlaveKey = SlaveKey([0xEE; 32]);

fn machine() -> MachineReport {
    MachineReport {
        activity: Activity::Ready,
        unloading: None,
        attention: None,
        uncertain: None,
        local_lock: false,
        operating_mode: OperatingMode { generation: Generation(1), mode: Mode::Production },
        cause: None,
    }
}

/// The parts of a job that a lie must not change.
fn told(job: &master::Job) -> impl PartialEq + std::fmt::Debug + use<> {
    let assigned: Vec<_> = job.assigned.iter().copied().collect();
    let reported = job.report.clone().map(|report| (report.attempt, report.state, report.seq));
    (job.state, job.holder, job.attempt, job.last_attempt, job.desired, job.generation, assigned, reported)
}

impl World {
    /// Connects with an empty Hello, like a newly enrolled slave.
    fn liar_link(&mut self) -> LinkId {
        let live = self
            .master
            .as_ref()
            .and_then(|master| master.slaves.get(&LIAR))
            .and_then(master::SlaveRecord::live);
        if let Some(link) = live {
            return link;
        }
        let link = LinkId(self.fresh());
        let hello = Hello {
            protocol: PROTOCOL,
            key: LIAR,
            name: "liar".to_owned(),
            agent: String::new(),
            binding: None,
            token: None,
            store: StoreId([0xEE; 16]),
            boot: BootId([0xEE; 16]),
            starts: 1,
            session: Session(link.0),
            clock: self.now(),
            machine: machine(),
            programs: vec![],
            labels: std::collections::BTreeMap::new(),
            capacity: 0,
            deferred_capacity: 0,
            rows: vec![],
            recent_outcomes: vec![],
        };
        let settled = Settled {
            session: hello.session,
            reports: vec![],
            records: vec![],
            declined: vec![],
            machine: machine(),
        };
        self.master_event(master::Event::LinkOpened { link, nonce: [0; 32] });
        self.master_event(master::Event::HelloReceived { link, hello: Box::new(hello), token: None });
        self.master_event(master::Event::Received { link, message: Message::Settled(settled) });
        link
    }

    /// It reports this state of a job, so many attempts after the newest one.
    pub(crate) fn lie(&mut self, id: JobId, ahead: u32, said: State) -> bool {
        if self.master.is_none() || self.find_job(id).is_none() {
            return false;
        }
        let link = self.liar_link();
        // The effects of time alone are taken out first.
        self.master_event(master::Event::TimePassed);
        let (true, Some(before)) = (self.master.is_some(), self.find_job(id).map(|job| told(&job))) else {
            return true;
        };
        let newest = self.find_job(id).map_or(Attempt(0), |job| job.last_attempt);
        let report = Report {
            job: id,
            attempt: Attempt(newest.0.saturating_add(ahead).max(1)),
            run: Run(1),
            generation: Generation(1 + ahead),
            seq: ReportSeq { start: 1, count: 1 },
            state: said,
            waiting_for: None,
            progress: None,
            note: None,
            accepted_at: self.now(),
            started_at: None,
            started_generation: None,
            ended_at: None,
            outcome: None,
            reason: None,
            flags: Flags::default(),
            source: Source::Machine,
        };
        self.master_event(master::Event::Received { link, message: Message::Report(report) });
        if self.master.is_none() {
            // The master crashed, and what was not on its disk yet is gone.
            return true;
        }
        let after = self.find_job(id).map(|job| told(&job));
        if after.as_ref() != Some(&before) {
            let how = format!("{id}, {said:?}, {ahead} ahead: {before:?} became {after:?}");
            self.violate(Invariant::LiesMoveNothing, how);
        }
        true
    }
}
