//! What the master says on a link, and what only a live one brings.

use alloc::sync::Arc;
use std::collections::BTreeMap;

use super::step::Rules;
use super::{Effect, Ignored, Link, LinkId, RECENT_OUTCOMES, RECENT_OUTCOMES_BYTES, RunKey};
use crate::id::{Commit, JobId, Session};
use crate::limits::{self, LOG_BYTES};
use crate::message::{CloseCode, Forget, Message, OperatingMode, Question, Reason, Record, Reply};

impl Rules {
    pub(super) fn received(
        &mut self,
        link: LinkId,
        session: Session,
        commit: Commit,
        message: Message,
        unfit: &BTreeMap<JobId, Reason>,
    ) {
        match (self.state.link, message) {
            (Link::Opened { link: ours }, Message::Challenge(challenge)) if ours == link => {
                self.challenged(link, &challenge);
            }
            (
                Link::Opened { link: ours }
                | Link::Introduced { link: ours, .. }
                | Link::Challenged { link: ours, .. },
                Message::Refuse(refuse),
            ) if ours == link => {
                self.state.link = Link::Down;
                let text = limits::one_line(&refuse.text);
                self.effects.push(Effect::Close { link, code: refuse.code, text });
            }
            (Link::Introduced { link: l, session: s, doubtful }, Message::Welcome(welcome))
                if l == link && s == session && welcome.session == session =>
            {
                self.welcomed(link, session, doubtful, welcome, unfit);
            }
            (Link::Live { link: l, session: s, doubtful }, message) if l == link && s == session => {
                self.live(doubtful, commit, message, unfit);
            }
            (
                Link::Live { .. }
                | Link::Introduced { .. }
                | Link::Challenged { .. }
                | Link::Opened { .. }
                | Link::Down,
                _,
            ) => {
                self.effects.push(Effect::Ignored(Ignored::OtherSession));
            }
        }
    }

    pub(super) fn live(
        &mut self,
        doubtful: bool,
        commit: Commit,
        message: Message,
        unfit: &BTreeMap<JobId, Reason>,
    ) {
        if let (Some(commit), Some(binding)) = (self.state.volatile.owed.take(), &mut self.state.node.binding)
        {
            binding.commit = commit;
        }
        match message {
            Message::DesiredState(_) | Message::Forget(_) | Message::OperatingMode(_) | Message::Ask(_)
                if doubtful =>
            {
                self.effects.push(Effect::Ignored(Ignored::MasterDoubted));
            }
            Message::DesiredState(desired_state) => {
                self.saw(commit);
                self.wanted(desired_state, unfit);
            }
            Message::Forget(forget) => {
                self.saw(commit);
                self.forget(forget);
            }
            Message::OperatingMode(operating_mode) => {
                self.saw(commit);
                self.operating_mode(operating_mode);
            }
            Message::Ask(ask) => {
                match ask.question {
                    Question::Ready { .. } | Question::Clear { .. } => self.saw(commit),
                    // Reading changes nothing here, and whoever follows an output asks often.
                    Question::Log { .. } => {}
                }
                self.asked(ask.id, ask.question);
            }
            Message::Ping | Message::Pong => {}
            Message::Challenge(_)
            | Message::Hello(_)
            | Message::Welcome(_)
            | Message::Refuse(_)
            | Message::Settled(_)
            | Message::Report(_)
            | Message::Declined(_)
            | Message::Machine(_)
            | Message::Answer(_) => {
                if let Link::Live { link, .. } = self.state.link {
                    let text = "a message that a master does not send on a live link".to_owned();
                    self.state.link = Link::Down;
                    self.effects.push(Effect::Close { link, code: CloseCode::Protocol, text });
                }
            }
        }
    }

    /// The master has come this far: what follows from its message is on disk only together with that.
    pub(super) fn saw(&mut self, commit: Commit) {
        if let Some(binding) = &mut self.state.node.binding {
            binding.commit = binding.commit.max(commit);
        }
    }

    pub(super) fn operating_mode(&mut self, operating_mode: OperatingMode) {
        if operating_mode.generation >= self.state.node.operating_mode.generation {
            self.state.node.operating_mode = operating_mode;
        } else {
            self.effects.push(Effect::Ignored(Ignored::OlderMode));
        }
    }

    pub(super) fn forget(&mut self, forget: Forget) {
        let Some(job) = self.state.jobs.get(&forget.job).filter(|job| job.report.attempt == forget.attempt)
        else {
            self.effects.push(Effect::Ignored(Ignored::NothingToForget));
            return;
        };
        if !job.report.state.is_ended() {
            self.effects.push(Effect::Ignored(Ignored::NotEnded));
            return;
        }
        if job.report.seq > forget.seq {
            self.effects.push(Effect::Ignored(Ignored::NewerReport));
            return;
        }
        let Some(job) = self.state.jobs.remove(&forget.job) else { return };
        self.effects.push(Effect::Dismiss(job.work()));
        let recent_outcomes = Arc::make_mut(&mut self.state.recent_outcomes);
        recent_outcomes.retain(|record| record.report.job != forget.job);
        recent_outcomes.push(Record { spec: job.spec, start: job.start, report: job.report });
        let bytes = |recent_outcomes: &[Record]| {
            recent_outcomes.iter().map(|record| record.spec.size()).sum::<usize>()
        };
        while recent_outcomes.len() > RECENT_OUTCOMES || bytes(recent_outcomes) > RECENT_OUTCOMES_BYTES {
            recent_outcomes.remove(0);
        }
    }

    pub(super) fn asked(&mut self, id: u32, question: Question) {
        let Link::Live { link, session, .. } = self.state.link else { return };
        let reply = match question {
            Question::Ready { unloading } => {
                if self.state.node.unloading == Some(unloading) {
                    self.state.node.unloading = None;
                    Reply::Done
                } else {
                    Reply::Refused("the machine is not waiting to be cleared of that job".to_owned())
                }
            }
            Question::Clear { attention } => {
                if self.state.node.attention == Some(attention) {
                    self.clear();
                    Reply::Done
                } else {
                    Reply::Refused("the machine does not need attention for that".to_owned())
                }
            }
            // The machine may have kept it for longer than the slave has kept the job.
            Question::Log { job, attempt, run, offset, limit } => {
                let work = RunKey { job, attempt, run };
                let limit = limit.min(LOG_BYTES);
                self.effects.push(Effect::ReadLog { link, session, id, work, offset, limit });
                return;
            }
        };
        let message = Message::Answer(crate::message::Answer { id, answer: reply });
        self.effects.push(Effect::Send { link, session, message });
    }
}
