//! Why something is as it is: a code for programs and words for people.

use serde::{Deserialize, Serialize};

/// Why something is as it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Reason {
    /// For programs.
    pub code: ReasonCode,
    /// For people.
    pub text: String,
}

impl Reason {
    /// A code with its words.
    pub fn new(code: ReasonCode, text: impl Into<String>) -> Self {
        Self { code, text: text.into() }
    }
}

macro_rules! reason_codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// Why, for programs: stable words, append only.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum ReasonCode { $($(#[$doc])* $name,)* }

        impl ReasonCode {
            /// Every code, in wire order.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The word that people and programs see.
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

reason_codes! {
    /// The slave holds as many jobs as it may.
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
    /// Its time passed while the slave was off.
    MissedStart = "missed_start",
    /// The release came too late to count.
    ReleaseLapsed = "release_lapsed",
    /// The slave holds nothing of this attempt.
    NotHeld = "not_held",
    /// It was given back, as asked.
    GivenBack = "given_back",
    /// The work is not what was agreed.
    DigestMismatch = "digest_mismatch",
    /// An older attempt of the same job is still there.
    OlderAttempt = "older_attempt",
    /// The machine refused to start it.
    StartRefused = "start_refused",
    /// The machine refused to stop.
    StopRefused = "stop_refused",
    /// The machine refused to pause or to resume.
    PauseRefused = "pause_refused",
    /// A person at the machine paused it: only there can it go on.
    PausedLocally = "paused_locally",
    /// A person at the machine stopped it.
    StoppedLocally = "stopped_locally",
    /// The agent or the box went down while it ran.
    Interrupted = "interrupted",
    /// It was interrupted too often.
    InterruptedTooOften = "interrupted_too_often",
    /// The machine could not say what it did.
    NoProof = "no_proof",
    /// It ran longer than allowed.
    MaxRuntime = "max_runtime",
    /// Somebody canceled it.
    Canceled = "canceled",
    /// The slave lost what it had promised to keep.
    Vanished = "vanished",
    /// The slave's database is new.
    StoreReplaced = "store_replaced",
    /// The slave's database went back in time.
    StoreRolledBack = "store_rolled_back",
    /// A person gave it up.
    Abandoned = "abandoned",
    /// A person said how it ended.
    Resolved = "resolved",
    /// The order wants another attempt.
    Retrying = "retrying",
    /// The machine reported a fault, or the program failed.
    MachineFault = "machine_fault",
    /// The master was restored from a backup that is older than this start.
    Restored = "restored",
    /// The machine could not begin it, for a cause of its own: it begins when that is mended and cleared.
    MachineUnfit = "machine_unfit",
}
