//! Steps of both nodes: the writes go to their disks, then the effects are performed.

use std::collections::BTreeMap;

use reloop_protocol::id::{Attempt, Commit, JobId, Session};
use reloop_protocol::job::State;
use reloop_protocol::limits;
use reloop_protocol::master::{self, Answer, RequestId};
use reloop_protocol::message::{Message, Reason, ReasonCode};
use reloop_protocol::slave::{self, LinkId, Now, RunKey};
use reloop_protocol::spec::{CancelMode, Desired, DesiredState, Spec};
use reloop_protocol::time::Time;
use reloop_protocol::wire;

use super::checks::UnderWay;
use super::{COMPARED_ALWAYS, COMPARED_EVERY, GENESIS, Invariant, Station, Synced, WIDE, World, disk};

/// The bytes of session and signature around a message.
const FRAME_BYTES: usize = 9 + 1 + 64;

/// Checks a message as its receiver's shell does: the link would be closed otherwise.
fn is_heard(message: &Message) {
    assert_eq!(limits::check(message), Ok(()), "{} is not taken by any peer", kind(message));
    let size = wire::encode(message).len() + FRAME_BYTES;
    assert!(
        size <= wire::MAX_MESSAGE,
        "a {} of {size} bytes was to be sent: no peer takes it",
        kind(message)
    );
}

impl World {
    /// Steps the master; does nothing while it is down.
    pub fn master_event(&mut self, event: master::Event) {
        let now = self.now();
        let Some(mut state) = self.master.take() else { return };
        let loaded = self.master_disk.read(&master::unknown(&state, &event));
        if !loaded.is_empty() {
            state = master::step(state, now, master::Event::Loaded(loaded)).state;
        }
        if let master::Event::HelloReceived { hello, token: Some(token), .. } = &event
            && state.tokens.contains_key(token)
        {
            self.ledger.revoked.remove(&hello.key);
        }
        let shown = self.tracing.then(|| format!("{event:?}"));
        let spoken_of = self.spoken_of(&state, &event);
        let unstarted = Self::unstarted(&state);
        let step = master::step(state, now, event);
        self.steps += 1;
        self.note(|| {
            let seat = if self.swapped { "double" } else { "master" };
            let wrote: Vec<_> = step.persist.iter().map(disk::name_master_write).collect();
            format!("{seat} {} => {:?}; wrote {}", shown.unwrap_or_default(), step.effects, wrote.join(", "))
        });
        for write in step.persist {
            if let master::Write::Job(job) = &write {
                self.check_vanished(job);
            }
            self.master_disk.write(write);
        }
        let now_and_then = self.steps.is_multiple_of(COMPARED_EVERY);
        if step.state.book.jobs.len() <= COMPARED_ALWAYS || now_and_then {
            if let Some(broken) = master::broken_invariant(&step.state) {
                self.violate(Invariant::NodeInvariant, format!("master: {broken}"));
            }
            let mut same = self.master_disk.holds(&step.state);
            if same && now_and_then {
                let live = self.master_disk.live_records();
                let back = master::recover(step.state.settings, step.state.node.id, live);
                same = master::durable(&back) == master::durable(&step.state);
            }
            if !same {
                self.violate(Invariant::DiskIsState, "master");
            }
        }
        self.master = Some(step.state);
        self.check_masters_progress(&spoken_of);
        self.check_assigned(&unstarted);
        for effect in step.effects {
            if self.fuse == Some(0) {
                return self.kill_master();
            }
            self.fuse = self.fuse.map(|left| left - 1);
            self.master_effect(effect);
            if self.master.is_none() {
                return;
            }
        }
        self.check_enrolled();
    }

    pub(super) fn master_effect(&mut self, effect: master::Effect) {
        match effect {
            master::Effect::Send { link, commit, message } => {
                is_heard(&message);
                if let Message::DesiredState(desired_state) = &message
                    && desired_state.desired == Desired::Cancel(CancelMode::IfNotStarted)
                    && self.ledger.masters_forgot
                    && !self.ledger.cancel_asked.contains(&desired_state.job)
                {
                    self.ledger.called_off.insert(desired_state.job);
                }
                if let Some(wire) =
                    self.boxes.iter_mut().filter_map(|b| b.link.as_mut()).find(|w| w.id == link)
                    && !wire.half_open
                {
                    wire.to_slave.push_back((wire.session, commit, message));
                }
            }
            master::Effect::Close { link, why } => {
                let last_heard = self.now();
                if let Some(slave) =
                    self.boxes.iter().position(|b| b.link.as_ref().is_some_and(|w| w.id == link))
                {
                    let held = &mut self.boxes[slave];
                    held.closed.push(why.code());
                    // Messages that were sent before the close arrive before it.
                    let pending: Vec<_> =
                        held.link.take().into_iter().flat_map(|wire| wire.to_slave).collect();
                    for (session, commit, message) in pending {
                        self.receive(slave, link, session, commit, message);
                    }
                    self.slave_event(slave, slave::Event::LinkClosed { link });
                }
                self.dead_links.remove(&link);
                self.master_event(master::Event::LinkClosed { link, last_heard });
            }
            master::Effect::Probe { link } => {
                self.pings.push_back((self.swapped, link));
                if !self.pings_are_slow {
                    self.answer_ping();
                }
            }
            master::Effect::Answer { request, answer } => self.answered(request, answer),
            master::Effect::JobChanged(_) | master::Effect::SlaveChanged(_) | master::Effect::Ignored(_) => {}
        }
    }

    pub(super) fn answered(&mut self, request: RequestId, answer: Answer) {
        if let Answer::Placed { order, .. } = &answer {
            if !self.master_disk.orders.contains_key(order) {
                self.violate(Invariant::AcknowledgedOrderKept, "acknowledged before it was on the disk");
            }
            // The second master's orders go with it: a person decides which of the two stays.
            if !self.swapped {
                self.ledger.acknowledged.insert(*order);
            }
        }
        self.answers.insert(request, answer);
    }

    /// The time on a slave's wall clock.
    pub fn wall(&self, slave: usize) -> i64 {
        self.slave_now(slave).wall.0
    }

    pub fn slave_now(&self, slave: usize) -> Now {
        let held = &self.boxes[slave];
        let awake = self.ms - held.booted_at;
        let drifted = awake + awake * held.drift_ppm / 1_000_000;
        Now {
            wall: Time(GENESIS + held.booted_at + drifted + held.wall_off),
            boot_ms: u64::try_from(drifted).unwrap_or(0),
            synchronized: held.synchronized,
        }
    }

    /// Steps a slave; does nothing while its agent is down.
    pub fn slave_event(&mut self, slave: usize, event: slave::Event) {
        let now = self.slave_now(slave);
        let Some(state) = self.boxes[slave].state.take() else { return };
        let shown = self.tracing.then(|| format!("{event:?}"));
        let sync_before = state.node.sync;
        let under_way = UnderWay::of(&state);
        if let slave::Event::Machine { work, fact } = &event
            && self.boxes[slave].machine.tells_progress
        {
            self.note_progress(*work, fact);
        }
        let step = slave::step(state, now, event);
        self.steps += 1;
        self.note(|| {
            let wrote: Vec<_> = step.persist.iter().map(disk::name_slave_write).collect();
            format!(
                "slave {slave} {} => {:?}; wrote {}",
                shown.unwrap_or_default(),
                step.effects,
                wrote.join(", ")
            )
        });
        if let Some(sync) = step.state.node.sync
            && step.state.node.sync != sync_before
        {
            let late = self.now().0.saturating_sub(sync.master.0);
            self.boxes[slave].synced = Some(Synced { at: self.ms, late, master_off: self.master_off });
        }
        if let Some(how) = under_way.touched_in_silence(&step) {
            self.violate(Invariant::AnsweredFirst, format!("slave {slave}: {how}"));
        }
        for write in step.persist {
            self.check_slave_write(slave, &write);
            self.boxes[slave].disk.write(write);
        }
        if let Some(broken) = slave::broken_invariant(&step.state) {
            self.violate(Invariant::NodeInvariant, format!("slave {slave}: {broken}"));
        }
        let held = &mut self.boxes[slave];
        let mut same = held.disk.holds(&step.state);
        if same && held.disk.node().is_some() && self.steps.is_multiple_of(COMPARED_EVERY) {
            let back = slave::recover(held.settings.clone(), step.state.node.store, held.disk.records());
            same = slave::durable(&back) == slave::durable(&step.state);
        }
        held.state = Some(step.state);
        self.note_reading(slave);
        self.check_slaves_progress(slave);
        if !same {
            self.violate(Invariant::DiskIsState, format!("slave {slave}"));
        }
        if let Some(acts) = &mut self.acts {
            acts.extend(step.effects.iter().cloned());
        }
        for effect in step.effects {
            let fuse = &mut self.boxes[slave].fuse;
            if *fuse == Some(0) {
                return self.kill_agent(slave);
            }
            *fuse = fuse.map(|left| left - 1);
            self.slave_effect(slave, effect);
            if self.boxes[slave].state.is_none() {
                return;
            }
        }
    }

    pub(super) fn masters_know(&self, id: JobId, attempt: Attempt, state: State) -> bool {
        self.master_disk.knows(id, attempt, state)
            || self.double.as_ref().is_some_and(|seat| seat.disk.knows(id, attempt, state))
    }

    fn slave_effect(&mut self, slave: usize, effect: slave::Effect) {
        let held = &mut self.boxes[slave];
        match effect {
            slave::Effect::Send { link, session, message } => {
                is_heard(&message);
                if let Some(wire) = held.link.as_mut().filter(|wire| wire.id == link && !wire.half_open) {
                    wire.session = session;
                    wire.to_master.push_back(message);
                }
            }
            slave::Effect::Close { link, why } => {
                if held.link.as_ref().is_some_and(|wire| wire.id == link) {
                    held.closed.push(why.code());
                    self.drop_link(slave);
                }
            }
            slave::Effect::Start { work, .. } => self.begin(slave, work),
            slave::Effect::Stop { work, .. } => {
                held.machine.stop(work);
                self.check_stop(slave, work);
            }
            slave::Effect::Pause(work) => {
                held.told_to_pause.insert(work);
                held.machine.pause(work, true);
            }
            slave::Effect::Resume(work) => held.machine.pause(work, false),
            slave::Effect::Probe { work, .. } => held.machine.probe(work),
            slave::Effect::CheckMachine { .. } => held.machine.is_asked = true,
            slave::Effect::Dismiss(_) | slave::Effect::ReadLog { .. } | slave::Effect::Ignored(_) => {}
            slave::Effect::ForgetToken => held.token = None,
            slave::Effect::Reply { reply, .. } => held.replies.push(reply),
        }
    }

    /// A slave receives a message, with what its config says of the offers in it.
    pub(super) fn receive(
        &mut self,
        slave: usize,
        link: LinkId,
        session: Session,
        commit: Commit,
        message: Message,
    ) {
        let offers: Vec<&DesiredState> = match &message {
            Message::DesiredState(offer) => vec![offer],
            Message::Welcome(welcome) => {
                welcome.rulings.iter().filter_map(|ruling| ruling.desired_state.as_ref()).collect()
            }
            _ => vec![],
        };
        let held = &mut self.boxes[slave];
        let why = |offer: &&DesiredState| Some((offer.job, held.why_unfit(offer.spec.as_ref()?)?));
        let unfit: BTreeMap<_, _> = offers.iter().filter_map(why).collect();
        held.machine.rejected += u32::from(!unfit.is_empty());
        held.rejected.extend(unfit.keys());
        self.slave_event(slave, slave::Event::Received { link, session, commit, message, unfit });
    }

    /// A machine is told to start a run.
    fn begin(&mut self, slave: usize, work: RunKey) {
        self.check_start(slave, work);
        let held = &mut self.boxes[slave];
        held.machine.start(work);
        if held.machine.rejects {
            held.rejected.insert(work.job);
        }
        self.check_machine(slave, work);
    }

    /// A slow machine begins the runs that it has accepted.
    pub fn begin_what_comes(&mut self, slave: usize) {
        let held = &mut self.boxes[slave];
        for work in held.machine.begin_what_comes(held.state.is_some()) {
            self.check_machine(slave, work);
        }
    }

    pub(super) fn check_machine(&mut self, slave: usize, work: RunKey) {
        self.note_beginning(slave, work);
        let held = &self.boxes[slave];
        let torn = &self.ledger.torn;
        let again =
            held.machine.begun.get(&work).is_some_and(|count| *count > 1) && !torn.contains(&work.job);
        let alive: Vec<_> = held.machine.alive().filter(|work| !torn.contains(&work.job)).collect();
        if again {
            self.violate(Invariant::BegunOnce, format!("slave {slave} began {work:?} again"));
        }
        if alive.len() > 1 {
            self.violate(Invariant::OneWorkPerMachine, format!("slave {slave}: {alive:?}"));
        }
    }
}

impl Station {
    /// Why the config that its agent has read does not allow this work, if it does not.
    pub(super) fn why_unfit(&self, spec: &Spec) -> Option<Reason> {
        let is_wide = spec.params.get(WIDE.0).is_some_and(|size| size == WIDE.1);
        (self.runs_narrow && is_wide).then(|| Reason::new(ReasonCode::BadParams, "it is too wide"))
    }
}

pub(super) fn kind(message: &Message) -> &'static str {
    match message {
        Message::Challenge(_) => "challenge",
        Message::Hello(_) => "hello",
        Message::Welcome(_) => "welcome",
        Message::Refuse(_) => "refuse",
        Message::Settled(_) => "settled",
        Message::Report(_) => "report",
        Message::Declined(_) => "declined",
        Message::Machine(_) => "machine",
        Message::DesiredState(_) => "desired_state",
        Message::Forget(_) => "forget",
        Message::OperatingMode(_) => "operating_mode",
        Message::Ask(_) => "ask",
        Message::Answer(_) => "answer",
        Message::Ping => "ping",
        Message::Pong => "pong",
    }
}
