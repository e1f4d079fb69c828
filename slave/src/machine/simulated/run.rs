//! Where a run stands: a function of what is remembered of it and of the wall clock.

use reloop_protocol::id::BootId;
use reloop_protocol::job::End;
use reloop_protocol::message::Outcome;
use reloop_protocol::slave::Ended;
use reloop_protocol::time::Time;
use serde::{Deserialize, Serialize};

/// A run that was begun. The settings are those of its beginning; all times are by the wall clock.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Begun {
    pub(super) boot: BootId,
    pub(super) forget_on_boot: bool,
    pub(super) started_at_ms: i64,
    pub(super) length_ms: i64,
    pub(super) fault_after_ms: Option<i64>,
    pub(super) refuse_stop: bool,
    pub(super) pauses: Vec<Pause>,
    pub(super) stop_at_ms: Option<i64>,
    pub(super) ended: Option<Ending>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Pause {
    pub(super) from_ms: i64,
    pub(super) to_ms: Option<i64>,
}

/// How a run ended. A simulated machine has no exit code and no signal, but its memory has always had them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Ending {
    #[serde(with = "EndName")]
    pub(super) result: End,
    pub(super) exit_code: Option<i32>,
    pub(super) signal: Option<i32>,
    pub(super) text: String,
    pub(super) at_ms: Option<i64>,
}

/// The names of an [`End`] in the memory.
#[derive(Serialize, Deserialize)]
#[serde(remote = "End", rename_all = "snake_case")]
enum EndName {
    Succeeded,
    Failed,
    Stopped,
}

impl Ending {
    pub(super) fn new(result: End, text: String, at_ms: i64) -> Self {
        Self { result, exit_code: None, signal: None, text, at_ms: Some(at_ms) }
    }
}

impl From<Ending> for Ended {
    fn from(Ending { result, exit_code, signal, text, at_ms }: Ending) -> Self {
        Self { end: result, outcome: Outcome { exit_code, signal, text }, at: at_ms.map(Time) }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Condition {
    Alive { paused: bool, permille: u16 },
    Ended(Ending),
    Gone,
}

impl Begun {
    /// Where the run stands at this moment, in this boot.
    pub(super) fn at(&self, now_ms: i64, boot: BootId) -> Condition {
        if let Some(ending) = &self.ended {
            return Condition::Ended(ending.clone());
        }
        if self.forget_on_boot && self.boot != boot {
            return Condition::Gone;
        }
        let end_ms = self.end_ms();
        if let Some(stop_ms) = self.stop_at_ms.filter(|stop| end_ms.is_none_or(|end| *stop < end)) {
            if stop_ms <= now_ms {
                let text = format!("stopped on request at {}", percent(self.permille(stop_ms)));
                return Condition::Ended(Ending::new(End::Stopped, text, stop_ms));
            }
        } else if let Some(end_ms) = end_ms.filter(|end| *end <= now_ms) {
            return Condition::Ended(match self.fault_after_ms {
                Some(_) => {
                    let text = format!("the simulated machine faulted at {}", percent(self.permille(end_ms)));
                    Ending::new(End::Failed, text, end_ms)
                }
                None => Ending::new(End::Succeeded, "the simulated machine is done".into(), end_ms),
            });
        }
        Condition::Alive { paused: self.is_paused(), permille: self.permille(now_ms) }
    }

    /// When the run is done or faults; `None` while it is paused before that.
    pub(super) fn end_ms(&self) -> Option<i64> {
        let mut from_ms = self.started_at_ms;
        let mut left_ms = self.fault_after_ms.unwrap_or(self.length_ms);
        for pause in &self.pauses {
            let worked_ms = (pause.from_ms - from_ms).max(0);
            if left_ms <= worked_ms {
                break;
            }
            left_ms -= worked_ms;
            from_ms = pause.to_ms?;
        }
        Some(from_ms + left_ms)
    }

    fn permille(&self, now_ms: i64) -> u16 {
        let mut worked_ms = 0;
        let mut from_ms = Some(self.started_at_ms);
        for pause in &self.pauses {
            if let Some(from_ms) = from_ms {
                worked_ms += (pause.from_ms.min(now_ms) - from_ms).max(0);
            }
            from_ms = pause.to_ms;
        }
        if let Some(from_ms) = from_ms {
            worked_ms += (now_ms - from_ms).max(0);
        }
        let permille =
            if self.length_ms == 0 { 1000 } else { worked_ms.saturating_mul(1000) / self.length_ms };
        u16::try_from(permille.clamp(0, 1000)).expect("clamped")
    }

    pub(super) fn is_paused(&self) -> bool {
        self.pauses.last().is_some_and(|pause| pause.to_ms.is_none())
    }
}

fn percent(permille: u16) -> String {
    format!("{} %", f64::from(permille) / 10.0)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    const BOOT: BootId = BootId([1; 16]);

    pub(in super::super) fn run() -> Begun {
        Begun {
            boot: BOOT,
            forget_on_boot: false,
            started_at_ms: 1000,
            length_ms: 10_000,
            fault_after_ms: None,
            refuse_stop: false,
            pauses: Vec::new(),
            stop_at_ms: None,
            ended: None,
        }
    }

    pub(in super::super) fn ended_run() -> Begun {
        Begun { ended: Some(Ending::new(End::Succeeded, String::new(), 11_000)), ..run() }
    }

    fn result(condition: Condition) -> (End, i64) {
        match condition {
            Condition::Ended(ending) => (ending.result, ending.at_ms.unwrap()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn where_a_run_stands_follows_from_the_clock_alone() {
        let mut run = run();
        assert_eq!(run.at(3500, BOOT), Condition::Alive { paused: false, permille: 250 });
        assert_eq!(
            run.at(0, BOOT),
            Condition::Alive { paused: false, permille: 0 },
            "a clock that went back"
        );
        assert_eq!(result(run.at(99_000, BOOT)), (End::Succeeded, 11_000));
        run.fault_after_ms = Some(5000);
        assert_eq!(result(run.at(99_000, BOOT)), (End::Failed, 6000));
        run.stop_at_ms = Some(4000);
        assert_eq!(result(run.at(99_000, BOOT)), (End::Stopped, 4000));
        run.stop_at_ms = Some(7000);
        assert_eq!(result(run.at(99_000, BOOT)), (End::Failed, 6000), "the stop came too late");
    }

    #[test]
    fn a_pause_moves_the_end() {
        let mut run = run();
        run.pauses.push(Pause { from_ms: 3000, to_ms: None });
        assert_eq!(run.at(99_000, BOOT), Condition::Alive { paused: true, permille: 200 });
        run.stop_at_ms = Some(50_000);
        assert_eq!(result(run.at(99_000, BOOT)), (End::Stopped, 50_000));
        run.stop_at_ms = None;
        run.pauses[0].to_ms = Some(8000);
        assert_eq!(run.at(9000, BOOT), Condition::Alive { paused: false, permille: 300 });
        assert_eq!(result(run.at(99_000, BOOT)), (End::Succeeded, 16_000));
    }

    #[test]
    fn a_power_cut_kills_only_what_forgets() {
        let other = BootId([2; 16]);
        let mut forgetful = run();
        assert!(matches!(forgetful.at(3000, other), Condition::Alive { .. }));
        forgetful.forget_on_boot = true;
        assert_eq!(forgetful.at(99_000, other), Condition::Gone);
        let ended = Begun { forget_on_boot: true, ..ended_run() };
        assert_eq!(result(ended.at(99_000, other)), (End::Succeeded, 11_000), "it ended before");
    }

    #[test]
    fn an_ending_is_kept_as_it_always_was() {
        let ending = Ending::new(End::Succeeded, "done".into(), 7);
        let text = r#"{"result":"succeeded","exit_code":null,"signal":null,"text":"done","at_ms":7}"#;
        assert_eq!(serde_json::to_string(&ending).unwrap(), text);
        assert_eq!(serde_json::from_str::<Ending>(text).unwrap(), ending);
    }
}
