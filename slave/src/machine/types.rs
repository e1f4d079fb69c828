//! What a machine is told, and the interface of its drivers. What it answers are [`Fact`]s of the rules.

use std::collections::BTreeMap;
use std::io;

use reloop_protocol::message::{Reason, ReasonCode};
use reloop_protocol::slave::{Fact, Probed, RunKey};
use reloop_protocol::spec::Spec;
use tokio::sync::mpsc;

use crate::config::ParamError;

/// The longest text of an outcome, in bytes: it travels in reports and is kept for every job.
pub(crate) const TEXT_LIMIT: usize = 512;

/// What a machine is to do under a key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Work {
    /// A key is started at most once, ever.
    pub key: RunKey,
    /// The name of a configured program.
    pub program: String,
    /// As the order gave them: not yet checked, and without the program's defaults.
    pub params: BTreeMap<String, String>,
}

impl Work {
    pub(crate) fn new(key: RunKey, spec: &Spec) -> Self {
        Self { key, program: spec.program.clone(), params: spec.params.clone() }
    }
}

/// What the agent wants of a machine.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Command {
    /// Answered by [`Fact::Started`], or if the work did not begin by [`Fact::StartRejected`], [`Fact::StartRefused`] or
    /// [`Probed::NotBegun`].
    Start(Work),
    /// Answered by [`Fact::Ended`] when the work has ended, by [`Fact::StopRefused`], or by [`Fact::Probed`] if there is
    /// nothing to stop.
    Stop {
        /// The run to stop.
        key: RunKey,
        /// At once, not at a safe point.
        now: bool,
    },
    /// Answered by [`Fact::Paused`] or [`Fact::PauseRefused`].
    Pause(RunKey),
    /// Answered by [`Fact::Resumed`] or [`Fact::PauseRefused`].
    Resume(RunKey),
    /// Answered by [`Fact::Probed`].
    Probe(Work),
    /// The outcome is durable elsewhere: the run's files may be removed when their space is needed. Not answered.
    Dismiss(RunKey),
}

impl Command {
    /// The run that the command is about.
    pub fn key(&self) -> RunKey {
        match self {
            Self::Start(work) | Self::Probe(work) => work.key,
            Self::Stop { key, .. } | Self::Pause(key) | Self::Resume(key) | Self::Dismiss(key) => *key,
        }
    }

    /// The answer if the command is not followed; none if it has no answer.
    pub(super) fn refused(&self, why: String) -> Option<Fact> {
        Some(match self {
            Self::Start(_) => Fact::StartRefused(why),
            Self::Stop { .. } => Fact::StopRefused(why),
            Self::Pause(_) | Self::Resume(_) => Fact::PauseRefused(why),
            Self::Probe(_) => Fact::Probed(Probed::Unknown(why)),
            Self::Dismiss(_) => return None,
        })
    }
}

/// Why this slave's configuration does not allow some work.
#[derive(Debug, Clone, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Rejection {
    /// Both texts are for people: the program's name may be shortened, and `known` is a list.
    #[error("this slave has no program {program:?}; it has {known}")]
    UnknownProgram {
        /// The program that the order names.
        program: String,
        /// The programs of this slave.
        known: String,
    },
    /// The program exists and does not take these parameters.
    #[error(transparent)]
    Params(#[from] ParamError),
}

impl Rejection {
    /// The same for the master.
    pub fn reason(&self) -> Reason {
        let code = match self {
            Self::UnknownProgram { .. } => ReasonCode::UnknownProgram,
            Self::Params(_) => ReasonCode::BadParams,
        };
        Reason::new(code, self.to_string())
    }
}

/// A driver of one machine. Its calls may block; they are made one at a time, from one thread at a time. For whatever else
/// a driver does (watching, ticking) it has threads of its own, which end soon after it is dropped or when nobody receives
/// its facts any more.
///
/// An `Err` is the reason why a command is refused, and a panic counts as a refusal. Facts go out through the [`Reporter`]
/// that the driver was built with, except for the answer to [`probe`](Machine::probe), which is returned.
pub(super) trait Machine: Send + Sync {
    /// Whether the machine has a trace of a start under this key. Must be quick and not touch a controller: it is called
    /// to find the machine for a command that names no program.
    fn knows(&self, key: RunKey) -> bool;
    /// Whether the configuration allows this work. The program is one of this machine's.
    fn check(&self, program: &str, params: &BTreeMap<String, String>) -> Result<(), Rejection>;
    /// Whether it could begin a run of this program now; without one, whether it has what all of them need. If not, what stands in the
    /// way. May take as long as the disk does.
    fn could_begin(&self, program: Option<&str>) -> Result<(), String>;
    /// Begins the work if the key was never seen before, and watches the run from then on.
    fn start(&self, work: &Work) -> Result<(), String>;
    /// Stops the run if it runs, else reports how it ended.
    fn stop(&self, key: RunKey, now: bool) -> Result<(), String>;
    fn pause(&self, key: RunKey) -> Result<(), String>;
    fn resume(&self, key: RunKey) -> Result<(), String>;
    /// Asks the machine about the run. The program may be one that is no longer configured.
    fn probe(&self, work: &Work) -> Probed;
    /// Watches a run that a probe found alive, unless it is watched already. Called after the probe's answer was
    /// reported.
    fn watch(&self, key: RunKey);
    /// Allows the run's files to be removed when their space is needed.
    fn dismiss(&self, key: RunKey);
    /// At most `max` bytes of the run's output from this offset on, and the output's total length. `None` if the machine
    /// keeps no output of the run.
    fn output(&self, key: RunKey, offset: u64, max: usize) -> io::Result<Option<(Vec<u8>, u64)>>;
}

/// Reports facts to the agent. Only for plain threads: it blocks while the channel is full.
#[derive(Debug, Clone)]
pub(super) struct Reporter(mpsc::Sender<(RunKey, Fact)>);

impl Reporter {
    pub(super) fn new(facts: mpsc::Sender<(RunKey, Fact)>) -> Self {
        Self(facts)
    }

    /// False if nobody receives facts any more: the agent is ending, and the next one will probe.
    pub(super) fn tell(&self, key: RunKey, fact: Fact) -> bool {
        self.0.blocking_send((key, fact)).is_ok()
    }
}

/// The key as text: in logs, in messages, and as a name on disk.
pub(crate) fn run_name(RunKey { job, attempt, run }: RunKey) -> String {
    format!("{job}-{attempt}-{run}")
}

/// At most `limit` bytes of a text, cut between two characters.
pub(super) fn clip(text: &str, limit: usize) -> String {
    text[..text.floor_char_boundary(limit)].to_owned()
}

/// A share of the way, written as `0.42` or `42%`, from 0 to 1.
pub(super) fn fraction(text: &str) -> Option<f64> {
    let share = match text.strip_suffix('%') {
        Some(percent) => percent.parse::<f64>().ok()? / 100.0,
        None => text.parse().ok()?,
    };
    (0.0..=1.0).contains(&share).then_some(share)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_between_characters() {
        assert_eq!(clip("äöü", 3), "ä");
        assert_eq!(clip("abc", 3), "abc");
    }
}
