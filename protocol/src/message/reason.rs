//! Why a job or a slave is in its state: a code for programs and a sentence for people.

use serde::{Deserialize, Serialize};

/// Why a job is in its state, or why an offer was declined.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Reason {
    pub code: ReasonCode,
    /// At most [`TEXT_BYTES`](crate::limits::TEXT_BYTES), for people.
    pub text: String,
}

impl Reason {
    pub fn new(code: ReasonCode, text: impl Into<String>) -> Self {
        Self { code, text: text.into() }
    }
}

macro_rules! reason_codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// A reason for programs. The order is the wire's and the names are the REST interface's: append only.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum ReasonCode { $($(#[$doc])* $name,)* }

        impl ReasonCode {
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// Its name in the REST interface, in the command line and in logs.
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

reason_codes! {
    /// The slave holds as many jobs, or as much work, as it may.
    AtCapacity = "at_capacity",
    /// The slave does not offer the program.
    UnknownProgram = "unknown_program",
    /// A parameter is missing, unknown, or does not match its pattern.
    BadParams = "bad_params",
    /// People have taken the slave out of production.
    NotInProduction = "not_in_production",
    /// A person at the machine has locked remote starts out.
    LocalLock = "local_lock",
    /// Its window closed before it started.
    WindowClosed = "window_closed",
    /// Its slave found its `not_before` past by more than the slave's tolerance.
    MissedStart = "missed_start",
    /// The release no longer holds: the start did not come in time.
    ReleaseLapsed = "release_lapsed",
    /// The slave holds nothing of this attempt.
    NotHeld = "not_held",
    /// The slave gave it back because the master recalled it.
    GivenBack = "given_back",
    /// The digest is not that of the work.
    DigestMismatch = "digest_mismatch",
    /// Another attempt of the same job is still held, or still runs.
    OlderAttempt = "older_attempt",
    /// The machine refused to start it. Not used: a machine that refuses a start is asked what it did.
    StartRefused = "start_refused",
    /// The machine refused to stop.
    StopRefused = "stop_refused",
    /// The machine refused to pause or to resume.
    PauseRefused = "pause_refused",
    /// A person at the machine paused it, and only a person there can resume it.
    PausedLocally = "paused_locally",
    /// A person at the machine stopped it.
    StoppedLocally = "stopped_locally",
    /// It had begun and runs no more, and the machine does not know how it ended.
    Interrupted = "interrupted",
    /// It was interrupted more often than the slave's config allows.
    InterruptedTooOften = "interrupted_too_often",
    /// The machine could not say what it did with it.
    NoProof = "no_proof",
    /// It ran longer than allowed.
    MaxRuntime = "max_runtime",
    /// It was canceled at the master.
    Canceled = "canceled",
    /// The slave had accepted it, and has neither the job nor its outcome.
    Vanished = "vanished",
    /// The slave's store is new.
    StoreReplaced = "store_replaced",
    /// The slave's store went back in time.
    StoreRolledBack = "store_rolled_back",
    /// Its attempt was given up, or another one took its place.
    Abandoned = "abandoned",
    /// A person said how it ended.
    Resolved = "resolved",
    /// The order's retry rule wants another attempt.
    Retrying = "retrying",
    /// The machine reported a fault, or the program failed.
    MachineFault = "machine_fault",
    /// The master was restored from a backup, and a slave may have done the job since the backup was made.
    Restored = "restored",
    /// The machine could not begin it, for a cause of its own. It begins when that is mended.
    MachineUnfit = "machine_unfit",
    /// The slave lacks a label that the order requires.
    MissingLabel = "missing_label",
}
