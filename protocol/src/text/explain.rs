//! Why a job has not started, and what would change that.

use crate::id::JobId;
use crate::limits::shown;
use crate::master::{Considered, Enrolled, Explanation, Gated, Job, SlaveRecord, Waits, WhyNot};
use crate::message::WaitingFor;
use crate::time::Time;

impl Explanation {
    /// Why the job has not started, in one sentence, with what would change it; `show` writes a time as people read it.
    pub fn text(&self, show: impl Fn(Time) -> String) -> String {
        let gate = self.gate.map_or("", Gated::text);
        let due = match (&self.waits, self.at) {
            (Waits::ForRetry { .. }, _) | (_, None) => String::new(),
            (_, Some(at)) => format!("; its time is {}", show(at)),
        };
        let in_front = match self.in_front {
            0 => String::new(),
            1 => "; one job goes before it".to_owned(),
            Explanation::MANY => format!("; {} jobs or more go before it", Explanation::MANY),
            count => format!("; {count} jobs go before it"),
        };
        format!("{}{in_front}{due}{gate}", self.waits.text(self.at, &show))
    }
}

impl Waits {
    fn text(&self, at: Option<Time>, show: impl Fn(Time) -> String) -> String {
        let stale = |is_offline: bool| if is_offline { " by its last word: it is offline" } else { "" };
        let text = match self {
            Self::Paused => "it is paused: `resume` lets it go on",
            Self::ForPerson => "it waits for a person",
            Self::NoSlaves => "there are no slaves: enrol one",
            Self::Assignable => "a slave has room: the job is being assigned to it",
            Self::ForRetry { attempt, ended } => {
                let when = at.map_or_else(String::new, |at| format!(" at {}", show(at)));
                return format!(
                    "attempt {attempt} {}, and it is tried again{when}: `release` lets it start now",
                    ended.name()
                );
            }
            Self::ForSlave(WhyNot::Program | WhyNot::OtherSlave, _) => {
                "no slave that it is for offers its program"
            }
            Self::ForSlave(WhyNot::Label, _) => "no slave with its program has the labels that it requires",
            Self::ForSlave(_, nearest) => return format!("no slave can take it now; the nearest: {nearest}"),
            Self::Offered { slave, is_offline: true } => {
                return format!(
                    "offered to {slave}, which is offline: whether it has it shows when it is back"
                );
            }
            Self::Offered { slave, is_offline: false } => {
                return format!("offered to {slave}, which has not answered yet");
            }
            Self::ForMachine { slave, is_offline, attention, cause } => {
                let (stale, needs) = (stale(*is_offline), attention.text(cause.as_deref()));
                return format!("{slave} has it and needs a person{stale}: {needs}");
            }
            Self::Recall { slave, is_offline } => {
                return format!(
                    "{slave} has it and is asked to give it back, so that it starts sooner elsewhere or makes room{}",
                    stale(*is_offline)
                );
            }
            Self::AtSlave { slave, is_offline, waiting_for, said } => {
                let waits = match waiting_for {
                    None | Some(WaitingFor::Turn) => "its turn",
                    Some(WaitingFor::Ready) => "its machine, which has to be ready first",
                    Some(WaitingFor::Operator) => "a person",
                    Some(WaitingFor::Time) => "its time",
                    Some(WaitingFor::Clock) => "the master's time, which it does not know yet",
                    Some(WaitingFor::Elsewhere) => "the master, which recalls it: its config has changed",
                    Some(WaitingFor::Artifact) => "an artifact",
                };
                let said = said.as_ref().map_or_else(String::new, |said| format!(": {said}"));
                return format!("{slave} has it and waits for {waits}{}{said}", stale(*is_offline));
            }
            Self::Not(state) => return format!("it is {}", state.name()),
        };
        text.to_owned()
    }
}

impl Gated {
    fn text(self) -> &'static str {
        match self {
            Self::HeldByRestore => {
                "; held since the master was restored, and a slave may have done it after the backup: `release` lets it start"
            }
            Self::Held => "; held: `release` lets it start",
            Self::MissedStart => {
                "; its start was missed: `release` lets it start, `reschedule` plans another time"
            }
            Self::ReleaseLapsed => "; its release has lapsed: `release` it again",
        }
    }
}

impl Considered {
    /// The sentence that lets a person act: what keeps the slave from the job, or what it does before that.
    pub(crate) fn sentence(
        slave: &SlaveRecord,
        job: &Job,
        why: Option<WhyNot>,
        is_deferred: bool,
        before: usize,
        first: Option<JobId>,
    ) -> String {
        let name = &slave.name;
        let machine = slave.machine.as_ref();
        let after = match before {
            0 => "once it is free".to_owned(),
            1 => "after the job that it has".to_owned(),
            count => format!("after the {count} jobs that it has"),
        };
        let Some(why) = why else {
            return if before == 0 {
                "it could take it now".to_owned()
            } else {
                format!("it could take it {after}")
            };
        };
        match why {
            WhyNot::OtherSlave => {
                format!("the order is for {} alone", job.slave.as_deref().unwrap_or("another"))
            }
            WhyNot::Program => {
                format!("it does not offer {}; it has {}", job.spec.program, listed(&slave.programs))
            }
            WhyNot::Label => {
                let lacks =
                    job.requires.iter().find(|(label, value)| slave.labels.get(*label) != Some(*value));
                match lacks {
                    None => "it lacks a label".to_owned(),
                    Some((label, value)) => {
                        let (label, value) = (shown(label), shown(value));
                        match slave.labels.get(label) {
                            Some(has) => {
                                format!("{label}={value} is required, and it has {label}={}", shown(has))
                            }
                            None => format!("{label}={value} is required, and it has no {label}"),
                        }
                    }
                }
            }
            WhyNot::Rejected => {
                let said = job.rejection_of(slave).and_then(|rejection| rejection.reason.as_ref());
                let said = said.map_or("its reason is not kept", |reason| &reason.text);
                format!(
                    "it rejected the job: {said}; change its config and restart its agent, or `retry` the job once it has ended"
                )
            }
            WhyNot::NotEnrolled if slave.enrolled == Enrolled::Revoked => {
                format!("it is revoked: a new token lets it in again, `reloop slave enroll-token --name {name}`")
            }
            WhyNot::NotEnrolled => {
                format!("it is not enrolled: `reloop slave approve {name}`, or a new token")
            }
            WhyNot::Offline => "it is offline: look at its agent and at the network".to_owned(),
            WhyNot::Mode => {
                let mode = slave.operating_mode.mode.name();
                format!("it is in mode {mode}: `reloop slave mode {name} production`")
            }
            WhyNot::LocalLock => {
                "a person at the machine has locked it: `reloop-slave local off` there".to_owned()
            }
            WhyNot::Attention => {
                let needs = machine.and_then(|machine| machine.attention_text()).unwrap_or_default();
                format!(
                    "it needs a person: {}",
                    needs.replace("`clear`", &format!("`reloop slave clear {name}`"))
                )
            }
            WhyNot::Doubts => {
                "it has seen a later state of this master: `reloop restore confirm` if this is the right one"
                    .to_owned()
            }
            WhyNot::Declined => {
                "it declined another job for want of room, and says when it has room".to_owned()
            }
            WhyNot::Capacity if is_deferred => {
                "it has as many jobs that wait for their time as it may (`deferred_capacity`), and takes one more when one of them starts"
                    .to_owned()
            }
            WhyNot::Capacity => format!("it has as many jobs as it may, and could take it {after}"),
            WhyNot::Ready => match machine {
                Some(machine) if machine.unloading.is_some() => {
                    format!("its machine has to be cleared of its last job: `reloop slave ready {name}`")
                }
                Some(machine) if machine.uncertain.is_some() => {
                    let job = machine.uncertain.map(|job| job.to_string()).unwrap_or_default();
                    format!("nobody knows how {job} ended there: `reloop job resolve {job} succeeded|failed|canceled`")
                }
                Some(machine) => format!("its machine is {}", machine.activity.name()),
                None => "its machine has not said what it does".to_owned(),
            },
            WhyNot::MoreUrgent => {
                let first = first.map_or_else(|| "another job".to_owned(), |first| first.to_string());
                format!("it gets {first} first, which goes before this one and waits at another slave")
            }
        }
    }
}

/// Some names for people, not all of many.
fn listed(names: &[String]) -> String {
    const SHOWN: usize = 8;
    match names {
        [] => "none".to_owned(),
        names if names.len() <= SHOWN => names.join(", "),
        names => format!("{} and {} more", names[..SHOWN].join(", "), names.len() - SHOWN),
    }
}
