//! The machines of the world: they work by themselves, with the agent or without.

use std::collections::{BTreeMap, VecDeque};

use reloop_protocol::id::JobId;
use reloop_protocol::job::End;
use reloop_protocol::message::{Outcome, Reason, ReasonCode};
use reloop_protocol::slave::{Ended, Fact, Probed, RunKey};
use reloop_protocol::time::Time;

/// A machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Machine {
    /// Everything that it was told to begin.
    pub works: BTreeMap<RunKey, Work>,
    /// How often each beginning really began.
    pub begun: BTreeMap<RunKey, u32>,
    /// It does not answer probes.
    pub silent: bool,
    /// It refuses to stop.
    pub unstoppable: bool,
    /// It refuses to start.
    pub refuses: bool,
    /// How often it refused to start.
    pub refused: u32,
    /// It is broken on purpose, so that whoever looks for faults can be tried: after a power cut it begins twice.
    pub stutters: bool,
    pub(super) was_cut: bool,
    /// Work takes this long.
    pub length_ms: i64,
    /// Work fails.
    pub fails: bool,
    pub(super) facts: VecDeque<(RunKey, Fact)>,
}

/// One beginning.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Work {
    left_ms: i64,
    paused: bool,
    ended: Option<Ended>,
    gone: bool,
}

impl Machine {
    /// The beginnings that have neither ended nor been ended by a person or a power cut.
    pub fn alive(&self) -> impl Iterator<Item = RunKey> {
        self.works.iter().filter(|(_, work)| work.ended.is_none() && !work.gone).map(|(key, _)| *key)
    }

    /// Whether this machine was ever told to begin the job.
    pub fn knows(&self, job: JobId) -> bool {
        self.begun.keys().any(|work| work.job == job)
    }

    /// How a beginning ended, if the machine can still tell.
    pub fn ended(&self, key: RunKey) -> Option<&Ended> {
        self.works.get(&key)?.ended.as_ref()
    }

    /// The power is cut: what worked works no more, and nobody can know how far it came.
    pub(super) fn lose_power(&mut self) {
        self.was_cut = true;
        for work in self.works.values_mut() {
            work.gone |= work.ended.is_none();
        }
        self.facts.clear();
    }

    /// A person has seen to it that nothing but `known` works in the machine.
    pub(super) fn clear_by_hand(&mut self, known: Option<RunKey>) {
        for (key, work) in &mut self.works {
            let cleared = work.ended.is_none() && !work.gone && Some(*key) != known;
            if cleared {
                work.gone = true;
                // What it was about to say of it is not true any more.
                self.facts.retain(|(of, _)| of != key);
            }
        }
    }

    pub(super) fn start(&mut self, key: RunKey) {
        if self.refuses {
            self.refused += 1;
            let reason = Reason::new(ReasonCode::StartRefused, "the machine refuses");
            self.facts.push_back((key, Fact::StartRefused(reason)));
            return;
        }
        *self.begun.entry(key).or_default() += if self.stutters && self.was_cut { 2 } else { 1 };
        self.works.insert(key, Work { left_ms: self.length_ms, paused: false, ended: None, gone: false });
        self.facts.push_back((key, Fact::Started));
    }

    pub(super) fn stop(&mut self, key: RunKey) {
        if self.unstoppable {
            self.facts.push_back((key, Fact::StopRefused("the machine cannot stop now".to_owned())));
            return;
        }
        if let Some(work) = self.works.get_mut(&key)
            && work.ended.is_none()
        {
            if work.gone {
                return self.facts.push_back((key, Fact::Probed(Probed::Gone)));
            }
            let ended = Ended { end: End::Stopped, outcome: outcome("stopped"), at: None };
            work.ended = Some(ended.clone());
            self.facts.push_back((key, Fact::Ended(ended)));
        }
    }

    pub(super) fn pause(&mut self, key: RunKey, pause: bool) {
        if let Some(work) = self.works.get_mut(&key)
            && work.ended.is_none()
        {
            if work.gone {
                return self.facts.push_back((key, Fact::PauseRefused("there is no such work".to_owned())));
            }
            work.paused = pause;
            self.facts.push_back((key, if pause { Fact::Paused } else { Fact::Resumed }));
        }
    }

    pub(super) fn probe(&mut self, key: RunKey) {
        let probed = match self.works.get(&key) {
            _ if self.silent => return,
            None => Probed::NeverStarted,
            Some(Work { gone: true, .. }) => Probed::Gone,
            Some(Work { ended: Some(ended), .. }) => Probed::Ended(ended.clone()),
            Some(work) => Probed::Alive { paused: work.paused, permille: None },
        };
        self.facts.push_back((key, Fact::Probed(probed)));
    }

    pub(super) fn work(&mut self, ms: i64, wall: i64, agent: bool) {
        for (key, work) in &mut self.works {
            if work.ended.is_some() || work.paused || work.gone {
                continue;
            }
            work.left_ms -= ms;
            if work.left_ms <= 0 {
                let end = if self.fails { End::Failed } else { End::Succeeded };
                let ended = Ended { end, outcome: outcome("done"), at: Some(Time(wall + work.left_ms)) };
                work.ended = Some(ended.clone());
                if agent {
                    self.facts.push_back((*key, Fact::Ended(ended)));
                }
            }
        }
    }
}

fn outcome(text: &str) -> Outcome {
    Outcome { exit_code: None, signal: None, text: text.to_owned() }
}
