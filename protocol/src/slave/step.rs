//! One event in, one step out: the event's own rules, then a look around, then the end of the step.

use super::clock::Clock;
use super::held::Held;
use super::jobs::Jobs;
use super::machine::{AtMachine, Machine};
use super::out::Out;
use super::place::Place;
use super::timekeeper::Timekeeper;
use super::uplink::Uplink;
use super::waiting::Judge;
use super::{Event, Job, Now, Slave, Step};
use crate::id::JobId;

/// What a slave does when something happens.
pub fn step(state: Slave, now: Now, event: Event) -> Step {
    let mut rules = Rules { out: Out::before(&state), state, now };
    match event {
        Event::AgentStarted { boot, fingerprint, known_key, next_store, damage, unfit } => {
            rules.agent_started(boot, fingerprint, known_key, next_store, damage);
            rules.judge_by_config(&unfit);
        }
        Event::LinkOpened { link, token } => rules.uplink().opened(link, token),
        Event::Received { link, session, commit, message, unfit } => {
            rules.received(link, session, commit, message, &unfit);
        }
        Event::LinkClosed { link } => rules.uplink().closed(link),
        Event::Machine { work, fact } => rules.machine_said(work, fact),
        Event::MachineChecked(found) => rules.machine_checked(found),
        Event::Local { request, command } => rules.local(request, command),
        Event::TimePassed => {}
    }
    rules.look_around();
    rules.out.conclude(rules.state)
}

/// A step under way. Every rule reads the whole state. What it changes it gets from here, as one of the things below, each of which
/// holds only what its own rules change; between them they hold all that a step may change.
pub(super) struct Rules {
    state: Slave,
    now: Now,
    out: Out,
}

impl Rules {
    /// After every event: what the passing of time and the machine's condition make of the whole.
    fn look_around(&mut self) {
        self.give_up_probing();
        self.check_machine();
        self.introduce();
        self.measure_again();
        self.come_due();
        self.overrun();
        self.lapse();
        self.begin();
        self.say_what_is_waited_for();
    }

    pub(super) fn state(&self) -> &Slave {
        &self.state
    }

    pub(super) fn clock(&self) -> Clock {
        Clock::of(&self.state, self.now)
    }

    pub(super) fn judge(&self) -> Judge {
        Judge::of(&self.state, self.now)
    }

    pub(super) fn out(&mut self) -> &mut Out {
        &mut self.out
    }

    /// One job. `None`: the slave does not hold it.
    pub(super) fn held(&mut self, id: JobId) -> Option<Held<'_>> {
        let (clock, is_unanswered) = (self.clock(), self.state.is_unanswered(id));
        let job = self.state.jobs.get_mut(&id)?;
        Some(Held::new(job, clock, is_unanswered, &mut self.out))
    }

    /// Changes each job of which `which` says so.
    pub(super) fn each(&mut self, which: impl Fn(&Job) -> bool, change: impl Fn(Held<'_>)) {
        let jobs = self.state.jobs.values().filter(|job| which(job));
        for id in jobs.map(|job| job.report.job).collect::<Vec<_>>() {
            self.held(id).into_iter().for_each(&change);
        }
    }

    /// One job and the machine. `None`: the slave does not hold it.
    pub(super) fn at_machine(&mut self, id: JobId) -> Option<AtMachine<'_>> {
        let clock = self.clock();
        let Slave { settings, node, jobs, volatile, .. } = &mut self.state;
        let machine = Machine::new(node, volatile, settings);
        Some(AtMachine::new(jobs.get_mut(&id)?, machine, clock, &mut self.out))
    }

    /// The machine alone.
    pub(super) fn machine(&mut self) -> Machine<'_> {
        let Slave { settings, node, volatile, .. } = &mut self.state;
        Machine::new(node, volatile, settings)
    }

    /// Which jobs there are.
    pub(super) fn jobs(&mut self) -> Jobs<'_> {
        Jobs::new(&mut self.state.jobs, &mut self.state.recent_outcomes, &mut self.out)
    }

    pub(super) fn uplink(&mut self) -> Uplink<'_> {
        Uplink::new(&mut self.state, &mut self.out)
    }

    pub(super) fn timekeeper(&mut self) -> Timekeeper<'_> {
        Timekeeper::new(&mut self.state)
    }

    pub(super) fn place(&mut self) -> Place<'_> {
        Place::new(&mut self.state)
    }
}
