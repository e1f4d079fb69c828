//! What the master says on a link, and what only a live one brings.

use std::collections::BTreeMap;

use super::step::Rules;
use super::{AskRefused, Closing, Effect, Ignored, Link, LinkId, RunKey};
use crate::id::{Commit, JobId, Session};
use crate::limits::{self, LOG_BYTES};
use crate::message::{Forget, Message, OperatingMode, Question, Reason};

impl Rules {
    pub(super) fn received(
        &mut self,
        link: LinkId,
        session: Session,
        commit: Commit,
        message: Message,
        unfit: &BTreeMap<JobId, Reason>,
    ) {
        match (self.state().link, message) {
            (Link::Opened { link: ours }, Message::Challenge(challenge)) if ours == link => {
                self.challenged(link, &challenge);
            }
            (
                Link::Opened { link: ours }
                | Link::Introduced { link: ours, .. }
                | Link::Challenged { link: ours, .. },
                Message::Refuse(refuse),
            ) if ours == link => {
                let text = limits::one_line(&refuse.text);
                self.uplink().drop_link(Closing::Refused { code: refuse.code, text });
            }
            (Link::Introduced { link: l, session: s, doubtful }, Message::Welcome(welcome))
                if l == link && s == session && welcome.session == session =>
            {
                self.welcomed(link, session, doubtful, welcome, unfit);
            }
            (Link::Live { link: l, session: s, doubtful }, message) if l == link && s == session => {
                self.live(link, session, doubtful, commit, message, unfit);
            }
            (
                Link::Live { .. }
                | Link::Introduced { .. }
                | Link::Challenged { .. }
                | Link::Opened { .. }
                | Link::Down,
                _,
            ) => self.out().ignore(Ignored::OtherSession),
        }
    }

    fn live(
        &mut self,
        link: LinkId,
        session: Session,
        doubtful: bool,
        commit: Commit,
        message: Message,
        unfit: &BTreeMap<JobId, Reason>,
    ) {
        self.uplink().settled_has_arrived();
        match message {
            Message::DesiredState(_) | Message::Forget(_) | Message::OperatingMode(_) | Message::Ask(_)
                if doubtful =>
            {
                self.out().ignore(Ignored::MasterDoubted);
            }
            Message::DesiredState(desired_state) => {
                self.uplink().saw(commit);
                self.wanted(desired_state, unfit);
            }
            Message::Forget(forget) => {
                self.uplink().saw(commit);
                self.forget(forget);
            }
            Message::OperatingMode(operating_mode) => {
                self.uplink().saw(commit);
                self.operating_mode(operating_mode);
            }
            Message::Ask(ask) => match ask.question {
                Question::Ready { unloading } => {
                    self.uplink().saw(commit);
                    let answer = self.unloaded(unloading);
                    self.uplink().answer(ask.id, answer);
                }
                Question::Clear { attention } => {
                    self.uplink().saw(commit);
                    let answer = self.looked_at(attention);
                    self.uplink().answer(ask.id, answer);
                }
                // No commit is noted: reading changes nothing. The job need not be held: the machine may keep an output longer.
                Question::Log { job, attempt, run, offset, limit } => {
                    let work = RunKey { job, attempt, run };
                    let limit = limit.min(LOG_BYTES);
                    self.out().act(Effect::ReadLog { link, session, id: ask.id, work, offset, limit });
                }
            },
            Message::Ping | Message::Pong => {}
            Message::Challenge(_)
            | Message::Hello(_)
            | Message::Welcome(_)
            | Message::Refuse(_)
            | Message::Settled(_)
            | Message::Report(_)
            | Message::Declined(_)
            | Message::Machine(_)
            | Message::Answer(_) => self.uplink().drop_link(Closing::OutOfPlace),
        }
    }

    pub(super) fn operating_mode(&mut self, operating_mode: OperatingMode) {
        if let Err(why) = self.machine().enter(operating_mode) {
            self.out().ignore(why);
        }
    }

    /// The job's outcome is on the master's disk: its record moves to the recent outcomes.
    fn forget(&mut self, forget: Forget) {
        let is_meant = |job: &&super::Job| job.report.attempt == forget.attempt;
        let Some(job) = self.state().jobs.get(&forget.job).filter(is_meant) else {
            return self.out().ignore(Ignored::NothingToForget);
        };
        if !job.report.state.is_ended() {
            return self.out().ignore(Ignored::NotEnded);
        }
        if job.report.seq > forget.seq {
            return self.out().ignore(Ignored::NewerReport);
        }
        let Some(job) = self.jobs().remove(forget.job) else { return };
        self.out().act(Effect::Dismiss(job.work()));
        self.jobs().remember(job);
    }

    /// A person at the master says that the machine is clear of a job.
    fn unloaded(&mut self, job: JobId) -> Result<(), AskRefused> {
        if self.state().node.unloading != Some(job) {
            return Err(AskRefused::NotUnloading);
        }
        self.machine().unload();
        Ok(())
    }

    /// A person at the master says that what needed attention was looked at.
    fn looked_at(&mut self, attention: crate::message::Attention) -> Result<(), AskRefused> {
        if self.state().node.attention != Some(attention) {
            return Err(AskRefused::NoAttention);
        }
        self.clear();
        Ok(())
    }
}
