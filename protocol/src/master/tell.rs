//! What slaves are told.

use super::slave_record::SlaveRecord;
use super::{Delivery, Effect, Rules};
use crate::id::{Attempt, Commit, Generation, JobId, SlaveKey};
use crate::job::State;
use crate::message::{CloseCode, Message};
use crate::slave::LinkId;
use crate::spec::{CancelMode, Desired, DesiredState};

impl Rules {
    pub(super) fn send(&mut self, link: LinkId, message: Message) {
        // The end of the step fills the commit in.
        self.effects.push(Effect::Send { link, commit: Commit(0), message });
    }

    pub(super) fn close(&mut self, link: LinkId, code: CloseCode, text: String) {
        self.effects.push(Effect::Close { link, code, text });
    }

    /// Tells a slave to let an attempt go that has not begun, by a desired state that is newer than the one that it knows.
    pub(super) fn withdraw(&mut self, key: SlaveKey, id: JobId, attempt: Attempt, known: Generation) {
        let Some(job) = self.state.book.jobs.get(&id) else { return };
        let desired = Desired::Cancel(CancelMode::IfNotStarted);
        let desired_state =
            DesiredState { attempt, generation: known.next(), desired, ..job.desired_state(false) };
        self.send_to(key, Message::DesiredState(desired_state));
    }

    pub(super) fn send_to(&mut self, key: SlaveKey, message: Message) {
        if let Some(link) = self.state.slaves.get(&key).and_then(SlaveRecord::live) {
            self.send(link, message);
        }
    }

    /// Tells the slave the newest desired state, if its last report does not know it.
    pub(super) fn tell_if_newer(&mut self, key: SlaveKey, id: JobId) -> Delivery {
        let Some(job) = self.state.book.jobs.get(&id) else { return Delivery::TooLate };
        let live = self.state.slaves.get(&key).filter(|slave| !slave.doubts).and_then(SlaveRecord::live);
        let Some(link) = live else { return Delivery::PendingOnReconnect };
        let knows = job.report.as_ref().map(|report| report.generation);
        if knows.is_none_or(|generation| generation < job.generation) {
            let desired_state = job.desired_state(knows.is_none());
            self.send(link, Message::DesiredState(desired_state));
        }
        Delivery::Sent
    }

    pub(super) fn tell_newer_desired_states(&mut self, key: SlaveKey) {
        let Some(slave) = self.state.slaves.get(&key) else { return };
        if slave.doubts {
            return;
        }
        if slave
            .machine
            .as_ref()
            .is_some_and(|machine| machine.operating_mode.generation < slave.operating_mode.generation)
        {
            let operating_mode = slave.operating_mode;
            self.send_to(key, Message::OperatingMode(operating_mode));
        }
        let ids: Vec<_> =
            self.state.book.held_by(key).filter(|job| job.state != State::Uncertain).map(|j| j.id).collect();
        for id in ids {
            self.tell_if_newer(key, id);
        }
    }
}
