//! A machine that could not begin a job is asked from time to time whether it could begin one now: what is mended without a word, such
//! as a full disk, needs no person to say so.

use super::step::Rules;
use super::{Effect, Ignored};
use crate::message::Attention;
use crate::time::Millis;

/// How long after it could not begin a job a machine is first asked: people who mend it at once find it ready a moment later.
const FIRST_CHECK: Millis = Millis::seconds(15);

/// The longest wait between two questions, each of which waits twice as long as the one before: a question costs a small board a write.
const LAST_CHECK: Millis = Millis::seconds(600);

// What people are told says "within 10 minutes".
const _: () = assert!(LAST_CHECK.0 == 10 * 60 * 1000);

/// When the machine is asked. How often it was asked is not forgotten by a start that fails again, so that a machine that is mended only
/// in appearance is asked less and less often.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Checks {
    /// When it is asked next, in milliseconds since the boot; `None` while nothing keeps it from beginning, and while it has not answered.
    pub at: Option<u64>,
    /// It was asked and has not answered: on a disk that hangs, that may take long.
    pub is_asked: bool,
    /// How often it was asked since a job began.
    pub count: u32,
    /// The program that it could not begin; `None` if the agent has started since: the question is for what all programs need then, and
    /// the next job shows the rest.
    pub program: Option<String>,
}

impl Checks {
    fn pause(&self) -> u64 {
        let times = 1_u64.checked_shl(self.count).unwrap_or(u64::MAX);
        FIRST_CHECK.0.saturating_mul(times).min(LAST_CHECK.0)
    }
}

impl Rules {
    /// Asks the machine whether it could begin a job now, if that is due.
    pub(super) fn check_machine(&mut self) {
        let now = self.clock().boot_ms();
        let is_unfit = self.state().node.attention == Some(Attention::MachineUnfit);
        let mut machine = self.machine();
        let checks = machine.checks();
        let is_due = is_unfit && checks.at.is_some_and(|at| at <= now);
        checks.is_asked |= is_due;
        checks.count = checks.count.saturating_add(u32::from(is_due));
        let waits = is_unfit && !checks.is_asked;
        if checks.at.is_some() != waits {
            checks.at = waits.then(|| now.saturating_add(checks.pause()));
        }
        let program = checks.program.clone();
        if is_due {
            self.out().act(Effect::CheckMachine { program });
        }
    }

    /// The machine's answer. That it could begin says nothing of jobs that have failed.
    pub(super) fn machine_checked(&mut self, found: Result<(), String>) {
        self.machine().checks().is_asked = false;
        if self.state().node.attention != Some(Attention::MachineUnfit) {
            return self.out().ignore(Ignored::NotAsked);
        }
        match found {
            Ok(()) => {
                self.drop_reasons_of_unfitness();
                self.machine().end_attention();
            }
            Err(cause) => self.machine().is_still_unfit(cause),
        }
    }
}
