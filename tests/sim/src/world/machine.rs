//! The machines of the world: they work with or without the agent.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use reloop_protocol::id::JobId;
use reloop_protocol::job::End;
use reloop_protocol::message::{Outcome, Reason, ReasonCode};
use reloop_protocol::slave::{Ended, Fact, Probed, RunKey};
use reloop_protocol::time::Time;

use super::progress::note_of;

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Machine {
    /// Every run that it was told to start.
    pub works: BTreeMap<RunKey, Work>,
    /// How often each run really began.
    pub begun: BTreeMap<RunKey, u32>,
    /// It does not answer probes.
    pub silent: bool,
    /// It answers a probe only when time passes, with the facts of that moment.
    pub ponders: bool,
    /// Probes without an answer so far.
    pub(super) pondered: BTreeSet<RunKey>,
    /// It refuses to stop.
    pub unstoppable: bool,
    /// The runs that it refused to stop.
    pub(super) went_on: BTreeSet<RunKey>,
    /// It refuses to start.
    pub refuses: bool,
    /// It can't start anything, and proves that nothing began.
    pub unfit: bool,
    /// The program is missing: it was removed from the settings.
    pub rejects: bool,
    /// It was asked whether it could begin something now, and has not answered.
    pub is_asked: bool,
    /// It accepts a start and begins only when time passes, like a runner that has to come up first.
    pub slow: bool,
    /// Accepted and not begun yet.
    pub(super) coming: BTreeSet<RunKey>,
    /// Runs that it has proved never to have begun: they never do.
    pub(super) void: BTreeSet<RunKey>,
    /// It has begun the run whose start it refuses: the reply to an earlier start was lost.
    pub begins_all_the_same: bool,
    /// How often it refused to start.
    pub refused: u32,
    /// How often the program was missing.
    pub rejected: u32,
    /// It reports progress, from time to time and when it is asked.
    pub tells_progress: bool,
    /// Broken on purpose, to test the search for faults: after a power cut it begins a run twice.
    pub stutters: bool,
    pub(super) was_cut: bool,
    /// How long work takes; [`Machine::UNTIL_TOLD`] if it ends only by [`Machine::finish`].
    pub length_ms: i64,
    pub fails: bool,
    pub(super) facts: VecDeque<(RunKey, Fact)>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Work {
    left_ms: i64,
    paused: bool,
    ended: Option<Ended>,
    gone: bool,
    /// Its progress, in thousandths.
    permille: u16,
}

impl Machine {
    /// A [length](Machine::length_ms) that no time exceeds.
    pub const UNTIL_TOLD: i64 = i64::MAX;

    /// The runs that have neither ended nor been ended by a person or a power cut.
    pub fn alive(&self) -> impl Iterator<Item = RunKey> {
        self.works.iter().filter(|(_, work)| work.ended.is_none() && !work.gone).map(|(key, _)| *key)
    }

    /// Removes a run without a trace.
    pub fn let_go(&mut self, key: RunKey) {
        if let Some(work) = self.works.get_mut(&key) {
            work.gone |= work.ended.is_none();
        }
    }

    /// Whether this machine was ever told to start the job.
    pub fn knows(&self, job: JobId) -> bool {
        self.begun.keys().any(|work| work.job == job)
    }

    /// How a run ended, if the machine still knows.
    pub fn ended(&self, key: RunKey) -> Option<&Ended> {
        self.works.get(&key)?.ended.as_ref()
    }

    /// The runs that are not paused.
    pub fn working(&self) -> impl Iterator<Item = RunKey> {
        self.alive().filter(|key| self.works.get(key).is_some_and(|work| !work.paused))
    }

    /// A run ends by itself; the agent gets the fact if it is up.
    pub fn finish(&mut self, key: RunKey, end: End, at: Time, agent: bool) {
        let Some(work) = self.works.get_mut(&key) else { return };
        let ended = Ended { end, outcome: outcome("done"), at: Some(at) };
        work.ended = Some(ended.clone());
        if agent {
            self.facts.push_back((key, Fact::Ended(ended)));
        }
    }

    /// A power cut: what was running has stopped, and its progress is unknown.
    pub(super) fn lose_power(&mut self) {
        self.was_cut = true;
        self.coming.clear();
        self.pondered.clear();
        self.is_asked = false;
        for work in self.works.values_mut() {
            work.gone |= work.ended.is_none();
        }
        self.facts.clear();
    }

    /// A person has made sure that nothing but `known` runs in the machine.
    pub(super) fn clear_by_hand(&mut self, known: Option<RunKey>) {
        self.coming.retain(|key| Some(*key) == known);
        for (key, work) in &mut self.works {
            if work.ended.is_none() && !work.gone && Some(*key) != known {
                work.gone = true;
                // Facts about that run that the agent has not received become invalid.
                for (of, fact) in &mut self.facts {
                    if of == key {
                        *fact = Fact::Probed(Probed::Gone);
                    }
                }
            }
        }
    }

    /// What keeps it from beginning something now, if it is asked.
    pub(super) fn could_begin(&self) -> Result<(), String> {
        match (self.unfit, self.refuses) {
            (true, _) => Err("the disk is full".to_owned()),
            (false, true) => Err("the machine refuses".to_owned()),
            (false, false) => Ok(()),
        }
    }

    pub(super) fn start(&mut self, key: RunKey) {
        if self.rejects {
            self.rejected += 1;
            let reason = Reason::new(ReasonCode::UnknownProgram, "it is not there any more");
            return self.facts.push_back((key, Fact::StartRejected(reason)));
        }
        if self.unfit {
            self.void.insert(key);
            return self
                .facts
                .push_back((key, Fact::Probed(Probed::NotBegun("the disk is full".to_owned()))));
        }
        let refuses = self.refuses || self.void.contains(&key);
        if self.slow && !refuses {
            self.coming.insert(key);
            return;
        }
        if !refuses || self.begins_all_the_same {
            self.begin(key);
        }
        self.refused += u32::from(refuses);
        let refusal = || Fact::StartRefused("the machine refuses".to_owned());
        self.facts.push_back((key, if refuses { refusal() } else { Fact::Started }));
    }

    fn begin(&mut self, key: RunKey) {
        *self.begun.entry(key).or_default() += if self.stutters && self.was_cut { 2 } else { 1 };
        self.works.insert(
            key,
            Work { left_ms: self.length_ms, paused: false, ended: None, gone: false, permille: 0 },
        );
    }

    /// Whether a probe has no answer yet.
    pub fn was_asked(&self) -> bool {
        !self.pondered.is_empty()
    }

    /// Whether an accepted run will begin by itself.
    pub fn has_in_hand(&self) -> bool {
        !self.coming.is_empty()
    }

    /// The accepted runs begin. Returns them.
    pub(super) fn begin_what_comes(&mut self, agent: bool) -> BTreeSet<RunKey> {
        let coming = std::mem::take(&mut self.coming);
        for key in &coming {
            self.begin(*key);
            if agent {
                self.facts.push_back((*key, Fact::Started));
            }
        }
        coming
    }

    /// Proof that a run never began, which stays true.
    fn never_begins(&mut self, key: RunKey) -> Fact {
        self.coming.remove(&key);
        self.void.insert(key);
        Fact::Probed(Probed::NeverStarted)
    }

    pub(super) fn stop(&mut self, key: RunKey) {
        if self.unstoppable {
            self.went_on.insert(key);
            self.facts.push_back((key, Fact::StopRefused("the machine cannot stop now".to_owned())));
            return;
        }
        let Some(work) = self.works.get_mut(&key) else {
            let proof = self.never_begins(key);
            return self.facts.push_back((key, proof));
        };
        if work.ended.is_none() {
            if work.gone {
                return self.facts.push_back((key, Fact::Probed(Probed::Gone)));
            }
            let ended = Ended { end: End::Stopped, outcome: outcome("stopped"), at: None };
            work.ended = Some(ended.clone());
            self.facts.push_back((key, Fact::Ended(ended)));
        }
    }

    pub(super) fn pause(&mut self, key: RunKey, pause: bool) {
        if self.coming.contains(&key) {
            return self.facts.push_back((key, Fact::PauseRefused("it has not begun".to_owned())));
        }
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
        if self.ponders {
            self.pondered.insert(key);
        } else {
            self.answer(key);
        }
    }

    /// Answers the open probes.
    pub fn answer_what_was_asked(&mut self) {
        for key in std::mem::take(&mut self.pondered) {
            self.answer(key);
        }
    }

    fn answer(&mut self, key: RunKey) {
        let probed = match self.works.get(&key) {
            _ if self.silent => return,
            None => {
                let proof = self.never_begins(key);
                return self.facts.push_back((key, proof));
            }
            Some(Work { gone: true, .. }) => Probed::Gone,
            Some(Work { ended: Some(ended), .. }) => Probed::Ended(ended.clone()),
            Some(work) => {
                let permille = self.tells_progress.then_some(work.permille);
                Probed::Alive { paused: work.paused, permille }
            }
        };
        self.facts.push_back((key, Fact::Probed(probed)));
    }

    pub(super) fn work(&mut self, ms: i64, wall: i64, agent: bool) {
        for (key, work) in &mut self.works {
            if work.ended.is_some() || work.paused || work.gone || work.left_ms == Self::UNTIL_TOLD {
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
            } else if self.tells_progress {
                let left = work.left_ms * 1_000 / self.length_ms.max(1);
                work.permille = u16::try_from(1_000 - left).unwrap_or(0).max(work.permille);
                if agent {
                    self.facts.push_back((*key, progressed(*key, work)));
                }
            }
        }
    }

    /// Whether a run can still report more progress.
    pub fn may_progress(&self, up_to: u16) -> bool {
        let further = |key: RunKey| self.works.get(&key).is_some_and(|work| work.permille < up_to);
        self.tells_progress && self.working().any(further)
    }

    /// Increases the progress of running work; the agent gets the fact if it is up.
    pub fn advance(&mut self, by: u16, agent: bool) {
        let working: Vec<_> = self.working().collect();
        for key in working {
            let Some(work) = self.works.get_mut(&key) else { continue };
            work.permille = (work.permille + by).min(999);
            if agent {
                self.facts.push_back((key, progressed(key, work)));
            }
        }
    }
}

fn progressed(run: RunKey, work: &Work) -> Fact {
    Fact::Progressed { permille: Some(work.permille), note: Some(note_of(run)) }
}

fn outcome(text: &str) -> Outcome {
    Outcome { exit_code: None, signal: None, text: text.to_owned() }
}
