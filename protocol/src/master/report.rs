//! What a slave says on a live link, and what follows from a report of the attempt that speaks for its job.

use super::handshake::is_current;
use super::order::durable_report;
use super::slave_record::{Enrolled, SlaveLink, SlaveRecord};
use super::{Answer, Effect, Ignored, Job, Rules};
use crate::id::{Epoch, JobId, SlaveKey};
use crate::job::{self, State};
use crate::message::{CloseCode, Flags, Forget, MachineReport, Message, Reason, ReasonCode, Report, Row};
use crate::reconcile::{Store, Theirs, Verdict};
use crate::slave::LinkId;
use crate::spec::Desired;

impl Rules {
    pub(super) fn received(&mut self, link: LinkId, message: Message) {
        let Some(key) = self.state.links.get(&link).copied().flatten() else {
            return self.effects.push(Effect::Ignored(Ignored::UnknownConnection));
        };
        let Some(slave) = self.state.slaves.get(&key) else { return };
        if slave.enrolled != Enrolled::Yes {
            return self.effects.push(Effect::Ignored(Ignored::Revoked));
        }
        if slave.current() != Some(link) {
            return self.effects.push(Effect::Ignored(Ignored::UnknownConnection));
        }
        let settling = matches!(slave.link, SlaveLink::Welcomed { .. });
        let live = slave.live() == Some(link);
        match message {
            Message::Settled(settled) if settling => self.settled(key, link, settled),
            Message::Report(report) if live => self.heard(key, report),
            Message::Declined(declined) if live => self.declined(key, declined),
            Message::Machine(machine) if live => self.machine(key, machine),
            Message::Answer(answer) if live => {
                let asked = self.state.asked.get(&answer.id).filter(|asked| asked.link == link).copied();
                if let Some(asked) = asked {
                    self.state.asked.remove(&answer.id);
                    self.answer(asked.request, Answer::Replied(answer.answer));
                }
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
            | Message::DesiredState(_)
            | Message::Forget(_)
            | Message::OperatingMode(_)
            | Message::Ask(_)
            | Message::Answer(_) => {
                self.close(link, CloseCode::Protocol, "a message that a slave does not send here".to_owned());
            }
        }
    }

    fn machine(&mut self, key: SlaveKey, machine: MachineReport) {
        if let Some(slave) = self.state.slaves.get_mut(&key) {
            slave.declining = false;
            if slave.machine.as_ref() != Some(&machine) {
                slave.machine = Some(machine);
                self.touch_slave(key);
            }
        }
    }

    /// A report on a live link.
    pub(super) fn heard(&mut self, key: SlaveKey, report: Report) {
        if report.state.is_ended()
            && let Some(slave) = self.state.slaves.get_mut(&key)
        {
            slave.declining = false;
        }
        self.judge_report(key, report, None);
        self.look_for_work.insert(key);
    }

    /// A slave's report of an attempt; in a handshake with what is known of the slave's memory.
    pub(super) fn judge_report(&mut self, key: SlaveKey, mut report: Report, settled: Option<Store>) {
        let Some(job) = self.state.book.jobs.get(&report.job) else {
            return self.effects.push(Effect::Ignored(Ignored::MissingRecord));
        };
        if !job.generation.may_be_followed_by(report.generation, self.state.node.epoch) {
            self.effects.push(Effect::Ignored(Ignored::UnknownGeneration));
            report.generation = job.generation;
        }
        if !is_current(&job, key, report.attempt) {
            return self.hear_other(key, report);
        }
        let row = Row {
            job: report.job,
            attempt: report.attempt,
            generation: report.generation,
            seq: report.seq,
            state: report.state,
            progress: report.progress,
        };
        let theirs = Theirs::of(report.state);
        let line = self.line(Some(&job), key, Some(&row), theirs, settled.unwrap_or(Store::Trusted));
        let id = report.job;
        let older = job.report.as_ref().is_some_and(|known| known.seq > report.seq);
        let over = job.state.is_ended() && job.state != State::Lost && report.state.is_ended();
        let differs = report.state != job.state;
        if over && (older || differs) {
            // Another memory of the attempt: what was known first stays, and that one is not needed.
            let forget = Forget { job: id, attempt: report.attempt, seq: report.seq };
            self.send_to(key, Message::Forget(forget));
            if differs {
                self.flag(id, Flags::DUPLICATE, "the slave says that this attempt ended otherwise");
            }
            return;
        }
        // After a handshake its word is the newest, whatever its number: another memory counts anew.
        let link = self.state.slaves.get(&key).and_then(SlaveRecord::current);
        let same_memory = settled.is_none() && job.heard_on == link;
        if same_memory && older {
            return self.effects.push(Effect::Ignored(Ignored::OlderReport));
        }
        if line.verdict == Verdict::Quarantine && !report.state.is_ended() && job.state.is_ended() {
            return self.flag(id, Flags::DUPLICATE, "the slave says that an ended attempt is alive");
        }
        if line.verdict == Verdict::Cancel && job.state == State::Lost {
            return self.withdraw(key, id, report.attempt, report.generation);
        }
        self.take(key, report);
    }

    /// The slave's word about the attempt that speaks for the job.
    fn take(&mut self, key: SlaveKey, report: Report) {
        let id = report.job;
        let Some(job) = self.state.book.jobs.get(&id) else { return };
        let generation = job.generation.max(report.generation);
        // What has begun is not given back any more, not even if it was interrupted and waits to begin again.
        let has_begun = report.state.is_started() || report.started_at.is_some();
        // A machine may turn out to be unfit after the intent to start was told: a slave that hears of the recall only then
        // gives it back after all.
        let is_intent = report.state == State::Starting && report.started_at.is_none();
        let may_come_back = is_intent && job.recalled.is_some_and(|asked| report.generation < asked);
        let stays = has_begun && !may_come_back && job.recalled.is_some();
        let was_lost = job.state == State::Lost;
        let link = self.state.slaves.get(&key).and_then(SlaveRecord::current);
        let durable_change = (job.state, job.generation) != (report.state, generation)
            || stays
            || job.report.as_ref().map(durable_report) != Some(durable_report(&report));
        let now = self.now;
        if durable_change {
            self.edit(id, |job| {
                job.generation = generation;
                if stays {
                    // The slave is told what is wanted of it instead.
                    job.recalled = None;
                    job.generation = job.generation.next();
                }
                job.report = Some(report.clone());
                job.heard_at = Some(now);
                job.heard_on = link;
                job.reason = None;
                if has_begun {
                    job.flags.clear(Flags::RESTORED);
                }
                if was_lost {
                    job.flags.set(Flags::LATE_RESULT);
                }
                if job.is_canceled() && report.state == State::Succeeded {
                    job.flags.set(Flags::CANCEL_TOO_LATE);
                }
            });
            let by = self.state.slaves.get(&key).map_or_else(String::new, |slave| slave.name.clone());
            self.apply(id, job::Event::Reported(report.state), &by);
        } else if let Some(job) = self.state.book.jobs.get_mut(&id) {
            job.report = Some(report.clone());
            job.heard_at = Some(now);
            job.heard_on = link;
            self.stirred.insert(id);
        }
        if report.state.is_ended() {
            let forget = Forget { job: id, attempt: report.attempt, seq: report.seq };
            self.send_to(key, Message::Forget(forget));
            self.try_again(id);
        } else {
            self.tell_if_newer(key, id);
        }
    }

    /// The order's own policy may want another attempt.
    pub(super) fn try_again(&mut self, id: JobId) {
        // A success speaks for the job, whichever attempt it was.
        self.weigh(id);
        let Some(job) = self.state.book.jobs.get(&id) else { return };
        let wanted = match job.state {
            State::Failed => job.retry.on.contains(&super::RetryOn::Failed),
            State::Rejected => job.retry.on.contains(&super::RetryOn::Rejected),
            _ => false,
        };
        if wanted && job.desired == Desired::Run && job.last_attempt.0 < job.retry.max_attempts {
            self.edit(id, |job| {
                let text = format!("attempt {} {}", job.attempt, job.state.name());
                job.set_aside();
                job.reason = Some(Reason::new(ReasonCode::Retrying, text));
            });
            self.apply(id, job::Event::Retried, "the order's retry");
            // Another one may be under way already.
            self.weigh(id);
            let in_gap = self.state.node.epoch > Epoch(1) && self.gap_of.is_some();
            let is_queued = self.state.book.jobs.get(&id).is_some_and(|job| job.state == State::Queued);
            if is_queued && (in_gap || self.state.doubters() > 0) {
                // It may have been tried again in the time that a restored master has forgotten.
                self.edit(id, Job::hold_after_restore);
            }
        }
    }
}
