//! One event in, one step out.

use super::jobs::{Jobs, Moment, Roster};
use super::out::Out;
use super::visit::Visit;
use super::{Event, Master, Step};
use crate::id::SlaveKey;
use crate::time::{Millis, Time};

/// What a master does when something happens.
pub fn step(state: Master, now: Time, event: Event) -> Step {
    let mut rules = Rules { state, now, out: Out::default() };
    rules.lapse_if_clock_went_back(&event);
    match event {
        Event::Loaded(loaded) => {
            rules.state.book.load(loaded);
            return Step { state: rules.state, persist: vec![], effects: vec![], archived: vec![] };
        }
        Event::OrderPlaced { request, order, key } => rules.order_placed(request, *order, key),
        Event::JobsCommanded { request, jobs, command } => rules.jobs_commanded(request, &jobs, command),
        Event::SlaveCommanded { request, slave, command } => rules.slave_commanded(request, slave, command),
        Event::LogAsked { request, job, offset, limit } => rules.log_asked(request, job, offset, limit),
        Event::TokenMade { request, hash, token } => rules.token_made(request, hash, token),
        Event::RestoreConfirmed { request, forced } => rules.restore_confirmed(request, forced),
        Event::LinkOpened { link, nonce } => rules.link_opened(link, nonce),
        Event::HelloReceived { link, hello, token } => rules.hello_received(link, hello, token),
        Event::Received { link, message } => rules.received(link, message),
        Event::LinkProbed { link, alive } => rules.link_probed(link, alive),
        Event::LinkClosed { link, last_heard } => rules.link_closed(link, last_heard),
        Event::TimePassed => {}
        Event::ClockSet { step_ms } => rules.clock_set(step_ms),
    }
    rules.jobs().close_windows();
    rules.dispatch();
    rules.write_clock_mark();
    rules.out.conclude(rules.state)
}

/// When something happens in a master by itself: the window of a queued job closes, 1 ms after its latest start, or a job's time comes
/// or is near.
pub fn next_deadline(state: &Master) -> Option<Time> {
    let index = &state.book.index;
    let by_book = index.next_window().map(|at| at.after(Millis(1))).into_iter().chain(index.next_turn());
    by_book.chain(state.availability.next_patience()).min()
}

/// A step under way. What concerns the book alone runs on [`Jobs`], what concerns one slave on [`Visit`]; here is what
/// looks at more than one slave, or at the master itself.
pub(super) struct Rules {
    pub(super) state: Master,
    pub(super) now: Time,
    pub(super) out: Out,
}

impl Rules {
    pub(super) fn jobs(&mut self) -> Jobs<'_> {
        let moment = self.moment();
        Jobs::new(&mut self.state.book, &mut self.out, moment, Roster::new(&self.state.slaves))
    }

    /// `None`: there is no such slave.
    pub(super) fn visit(&mut self, key: SlaveKey) -> Option<Visit<'_>> {
        let moment = self.moment();
        let Master { slaves, book, begun, .. } = &mut self.state;
        Visit::new(key, slaves, book, &mut self.out, moment, begun)
    }

    fn moment(&self) -> Moment {
        let is_doubted = self.state.doubters() > 0;
        Moment { now: self.now, node: self.state.node, is_doubted, gap_of: None, settled_before: None }
    }
}
