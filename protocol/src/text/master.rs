//! What a master says: to clients, to the slaves whose connections it closes, and to the people that it needs.

use crate::job::End;
use crate::master::{
    CloseReason, Ignored, JobReason, Need, Needed, NotEnrolled, NothingToDo, Offline, Refusal, SlaveRefused,
    WrongState,
};
use crate::message::{Attention, PROTOCOL};

/// What `resolve` takes.
const RESOLUTIONS: &str = "succeeded|failed|canceled";

/// How a slave gets an enrolment token.
const MAKE_TOKEN: &str = "make one with `reloop slave enroll-token`, and let `reloop-slave enroll` have it";

impl Ignored {
    pub fn text(self) -> &'static str {
        match self {
            Self::Job(why) => why.text(),
            Self::OlderReport => "a newer report is known",
            Self::OlderAnswer => "it answers an older desired state",
            Self::NeverAssigned => "this attempt was never assigned to this slave",
            Self::UnrequestedRecord => "a record that was not asked for",
            Self::TooManyJobs => "the slave holds as many jobs as one handshake can report",
            Self::UnknownGeneration => "the slave names a generation that this master cannot have issued",
            Self::OutOfRange => "the attempt or the generation is past all that a master counts to",
            Self::MissingRecord => "the slave did not send the record that it was asked for",
            Self::Revoked => "the slave was revoked, and the connection is being closed",
            Self::UnknownConnection => "the connection is not one on which a slave may speak",
        }
    }
}

fn already_resolved(end: End) -> String {
    format!("somebody has said already that it ended as {}, and the first word counts", end.state().name())
}

impl Refusal {
    pub fn text(&self) -> String {
        match self {
            Self::NoSuchJob(job) => format!("there is no job {job}"),
            Self::NoSuchSlave => "there is no such slave".to_owned(),
            Self::KeyReused(order) => {
                format!("the key stands for {order}, which was placed with another body: use a new key")
            }
            Self::WrongState { job, state, why } => format!("{job} is {}: {}", state.name(), why.text()),
            Self::AlreadyResolved(reason) => reason.text.clone(),
            Self::SlaveOnline(job, state) => {
                let state = state.name();
                format!("the slave of {job} is connected and has it {state}: `cancel` it instead")
            }
            Self::SlaveOffline(who) => who.text(),
            Self::NothingToDo(what) => what.text().to_owned(),
            Self::SlaveRefused(why) => why.text().to_owned(),
            Self::SlaveRevoked => {
                "this slave was revoked: an admin lets it in again by a token, made with `reloop slave \
                                   enroll-token` and shown to `reloop-slave enroll`"
                    .to_owned()
            }
        }
    }
}

impl WrongState {
    pub fn text(self) -> String {
        match self {
            Self::AlreadyResolved(end) => already_resolved(end),
            Self::BeingCanceled => {
                "it was canceled, which is not taken back: `cancel` it again if it goes on".to_owned()
            }
            Self::NotRetried => {
                "only a job that ended without success is tried again: order the work anew, or `abandon` first what a slave that is gone holds"
                    .to_owned()
            }
            Self::NotUncertain => "only an uncertain job is resolved".to_owned(),
        }
    }
}

impl Offline {
    pub fn text(self) -> String {
        match self {
            Self::Slave => {
                "the slave is not connected: do it at the machine with `reloop-slave`, or when it is back"
                    .to_owned()
            }
            Self::Holder(attempt) => format!("the slave that holds attempt {attempt} is not connected"),
            Self::Lost => "the link was lost before the slave answered: try again".to_owned(),
        }
    }
}

impl NothingToDo {
    pub fn text(self) -> &'static str {
        match self {
            Self::Ready => "the machine is not waiting to be cleared of a job",
            Self::Clear => "nothing there needs attention",
            Self::Log => "it has not begun, so there is no output",
            Self::ConfirmRestore => {
                "no slave has seen a later state of this master, so there is nothing to confirm; if its files were \
                 put back and the slaves that could tell are away: `reloop restore confirm --force`"
            }
        }
    }
}

impl SlaveRefused {
    pub fn text(&self) -> &str {
        match self {
            Self::Doubts => {
                "the slave has seen a later state of this master, and answers nothing: `reloop restore confirm`"
            }
            Self::NoAnswer => "what the slave said is no answer to what it was asked",
            Self::Said(text) => text,
        }
    }
}

impl CloseReason {
    pub fn text(&self) -> String {
        let text = match self {
            Self::SecondHello => "a second Hello",
            Self::Version(theirs) => {
                return format!(
                    "this master speaks protocol {} to {}, the slave {} to {}: upgrade the older one; its job goes on",
                    PROTOCOL.oldest, PROTOCOL.newest, theirs.oldest, theirs.newest
                );
            }
            Self::StaleMaster { seen, own } => {
                return format!(
                    "this slave has seen epoch {seen} of this master, which is now at {own}: another copy of it was restored; \
                     stop this one, or confirm it with `reloop restore confirm`"
                );
            }
            Self::NameTaken { name, key } => {
                return format!(
                    "the name {name} belongs to the key {}: rename this slave, or `reloop slave forget {name}` if that \
                     one is gone",
                    key.fingerprint()
                );
            }
            Self::NotEnrolled { name, key, why, foreign, was_revoked: _ } => {
                let foreign =
                    foreign.map(|[theirs, own]| format!(" (it belongs to {theirs}, this is {own})"));
                return format!(
                    "{name}, key {}, is not enrolled here{}: {}",
                    key.fingerprint(),
                    foreign.unwrap_or_default(),
                    why.text(name)
                );
            }
            Self::Superseded => "a newer connection of the same slave took over",
            Self::SupersededInLine => "a newer connection of the same box waits in its place",
            Self::Unanswered => "it did not answer, and the same slave came from elsewhere",
            Self::Contended => "two boxes say that they are this slave; one of them is being asked",
            Self::Copy(name) => {
                return format!(
                    "another box with the key of {name} is connected and answers: this one is a copy; give it a key of its own \
                     by removing identity.key from its state directory"
                );
            }
            Self::ClockSet => "this master's clock was set: introduce yourself again",
            Self::Restored => "this master was restored and confirmed: introduce yourself again",
            Self::OtherSession => "Settled of another session",
            Self::Unexpected => "a message that a slave does not send here",
            Self::Revoked => "this slave was revoked by a person: its job goes on, and it keeps the outcome",
        };
        text.to_owned()
    }
}

impl NotEnrolled {
    fn text(self, name: &str) -> String {
        match self {
            Self::NoToken => format!("it needs an enrolment token: {MAKE_TOKEN}"),
            Self::UnknownToken => format!("its enrolment token is not known, or spent: {MAKE_TOKEN}"),
            Self::ExpiredToken => format!("its enrolment token has expired: {MAKE_TOKEN}"),
            Self::OtherName => format!("its enrolment token is for another name: {MAKE_TOKEN}"),
            Self::Revoked => "this slave was revoked: only a token enrols it again".to_owned(),
            Self::Pending => format!("`reloop slave approve {name}` enrols it"),
        }
    }
}

impl JobReason {
    pub fn text(self) -> String {
        let text = match self {
            Self::CanceledInQueue => "canceled before a slave had it",
            Self::CanceledUnstarted => "canceled before it started",
            Self::WindowClosed => "its latest start passed",
            Self::ReleaseLapsed => "the release was for a start before now: release it again",
            Self::Resolved => "a person said how it ended",
            Self::ResolvedAs(end) => return already_resolved(end),
            Self::Abandoned => "a person gave it up",
            Self::Retrying(attempt, state) => return format!("attempt {attempt} {}", state.name()),
            Self::HeldByRestore => {
                "the master was restored, and a slave may have done it after the backup: `release` lets it start"
            }
            Self::LetGoBeforeRestore => {
                "the master was restored, and its slave let it go after the backup: another may have it or have done it; \
                 if none tells of it, say how it ended with `resolve`"
            }
            Self::Vanished => {
                "the slave had promised to keep it, and has neither the job nor its outcome: say how it ended \
                 with `resolve`"
            }
            Self::StoreReplaced => {
                "the slave's store is new: nobody knows what became of it; say how it ended with `resolve`"
            }
            Self::StoreRolledBack => "the slave's store went back in time: say how it ended with `resolve`",
            Self::OtherSucceeded(attempt) => {
                return format!("attempt {attempt} succeeded elsewhere: cancel this one if it is not needed");
            }
            Self::OtherPaused(attempt) => {
                return format!(
                    "attempt {attempt} is paused elsewhere: `reloop-slave resume` or `stop` at that machine"
                );
            }
            Self::OtherRuns(attempt) => {
                return format!(
                    "attempt {attempt} runs elsewhere too: both finish unless somebody cancels one"
                );
            }
            Self::OtherGoesOn(attempt) => {
                return format!(
                    "attempt {attempt} goes on although the job has ended: `reloop-slave stop` at that machine, if it is not \
                     needed"
                );
            }
            Self::OtherEndedOtherwise(attempt) => {
                return format!("the slave says that attempt {attempt} ended otherwise");
            }
            Self::EndedOtherwise => "the slave says that this attempt ended otherwise",
            Self::AliveAfterEnd => "the slave says that an ended attempt is alive",
        };
        text.to_owned()
    }
}

impl Need {
    /// The command that ends it.
    pub fn action(self) -> &'static str {
        match self {
            Self::Doubts => "restore confirm",
            Self::Cloned | Self::Attention => "clear",
            Self::Uncertain | Self::Unresolved => "resolve",
            Self::Mismatch | Self::Overdue => "cancel",
            Self::Unloading => "ready",
            Self::Approval => "approve",
            Self::MissedStart | Self::Restored | Self::ReleaseLapsed | Self::Held => "release",
            Self::LocalLock => "local off",
        }
    }

    /// What can go wrong if it is ended so, and what else could be done.
    pub fn risk(self) -> &'static str {
        match self {
            Self::Doubts => "if another copy of this master still runs, both hand out the same orders",
            Self::Cloned => "the other box comes again until it has a key of its own",
            Self::Attention => "the machine may start its next job at once",
            Self::Uncertain | Self::Unresolved => {
                "the machine may have done all of it, a part or nothing: look first; a `retry` afterwards begins anew"
            }
            Self::Mismatch => "it ends without having started; order the work again if it is still wanted",
            Self::MissedStart => {
                "it starts as soon as its machine is ready, later than planned; `reschedule` plans another time"
            }
            Self::Unloading => "the machine may start its next job at once: it has to be clear",
            Self::Overdue => "the machine stops in the middle of its work; without it the job goes on",
            Self::Approval => {
                "whoever has this key gets work from here on: compare it with what `reloop-slave check` shows there"
            }
            Self::Restored => {
                "a slave that has not been back since the restore may have done it: then it is done twice"
            }
            Self::ReleaseLapsed | Self::Held => "it starts as soon as a machine is ready for it",
            Self::LocalLock => "somebody may be working at the machine: only people there can know",
        }
    }
}

impl Needed {
    /// Why a person is needed. What a slave said is marked as old where the slave can't be heard.
    pub fn text(&self) -> String {
        let (text, is_slaves_word) = match self.need {
            Need::Doubts => ("it has seen a later state of this master and obeys nothing".to_owned(), false),
            Need::Cloned => {
                ("another box came with its key: give that one a key of its own".to_owned(), false)
            }
            Need::Attention => {
                let attention = self.attention.map_or("something there needs a look", Attention::advice);
                (attention.to_owned(), true)
            }
            Need::Uncertain => ("nobody knows how it ended: look at the machine".to_owned(), false),
            Need::Unresolved => {
                let text = format!(
                    "nobody knows there how an attempt of {} ended, and nothing starts until that is said",
                    self.named_job()
                );
                (text, true)
            }
            Need::Mismatch => ("its slave holds other work under its name".to_owned(), true),
            Need::MissedStart => ("its start was missed".to_owned(), true),
            Need::Unloading => {
                let text = "its last job has ended, and nobody has confirmed that the machine is clear";
                (text.to_owned(), true)
            }
            Need::Overdue if self.is_canceled => {
                ("it runs longer than its order allows; it was canceled and goes on".to_owned(), true)
            }
            Need::Overdue => ("it runs longer than its order allows".to_owned(), true),
            Need::Approval => (format!("it waits for approval with the key {}", self.fingerprint()), false),
            Need::Restored => (
                "held since the master was restored: a slave may have done it after the backup".to_owned(),
                false,
            ),
            Need::ReleaseLapsed => ("it was released for a start that is over".to_owned(), false),
            Need::Held => match &self.why {
                Some(why) => {
                    (format!("its slave does not start it before somebody releases it: {why}"), true)
                }
                None => ("it is held until somebody releases it".to_owned(), false),
            },
            Need::LocalLock => ("a person at the machine has locked remote starts out".to_owned(), true),
        };
        let is_old = is_slaves_word && self.is_offline;
        let old = if is_old { " (the last word of a slave that is offline)" } else { "" };
        let paused = if self.is_paused { "; it is paused too: `resume` it" } else { "" };
        format!("{text}{old}{paused}")
    }

    /// The whole command that ends it.
    pub fn command(&self) -> String {
        let action = self.need.action();
        match self.need {
            Need::Doubts => format!("reloop {action}"),
            Need::Cloned | Need::Attention | Need::Unloading => {
                format!("reloop slave {action} {}", self.slave_in_commands())
            }
            Need::Uncertain | Need::Unresolved => {
                format!("reloop job {action} {} {RESOLUTIONS}", self.named_job())
            }
            Need::Overdue if self.is_canceled => {
                format!("reloop job {action} --mode now {}", self.named_job())
            }
            Need::Mismatch
            | Need::MissedStart
            | Need::Overdue
            | Need::Restored
            | Need::ReleaseLapsed
            | Need::Held => format!("reloop job {action} {}", self.named_job()),
            Need::Approval => format!("reloop slave {action} {}", self.fingerprint()),
            Need::LocalLock => format!("reloop-slave {action}"),
        }
    }

    fn named_job(&self) -> String {
        self.job.map(|job| job.to_string()).unwrap_or_default()
    }

    fn fingerprint(&self) -> String {
        self.slave.map(|key| key.fingerprint()).unwrap_or_default()
    }

    /// The slave's name, or its key where the name is not one plain word.
    fn slave_in_commands(&self) -> String {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if !self.name.is_empty() && !self.name.starts_with('-') && self.name.chars().all(is_plain) {
            return self.name.clone();
        }
        self.fingerprint()
    }
}
