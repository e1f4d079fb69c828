//! What the two nodes say to each other.
//!
//! Handshake: [`Challenge`], [`Hello`], [`Welcome`] (or [`Refuse`]), [`Settled`]; then live messages, which are levels
//! and not edges: each says the whole truth about its subject, so any of them may be lost or repeated.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::id::{
    Attempt, BootId, Commit, Epoch, Generation, Incarnation, JobId, MasterId, ReportSeq, Run, Session,
    SlaveKey, StoreId,
};
use crate::job::State;
use crate::reconcile::Verdict;
use crate::slave::redial;
use crate::spec::{DesiredState, Spec, StartRule};
use crate::time::Time;

/// The protocol's version: the one that this build speaks, and the oldest that it understands.
pub const PROTOCOL: Versions = Versions { oldest: 1, newest: 1 };

/// A range of protocol versions, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Versions {
    /// The oldest that is understood.
    pub oldest: u16,
    /// The newest that is understood.
    pub newest: u16,
}

impl Versions {
    /// The newest version that both understand.
    pub fn common(self, other: Self) -> Option<u16> {
        let newest = self.newest.min(other.newest);
        (newest >= self.oldest.max(other.oldest)).then_some(newest)
    }
}

/// Everything that crosses a link, one to a binary WebSocket message. The order is the wire's: append only.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Message {
    /// Master, first: who I am, prove who you are.
    Challenge(Challenge),
    /// Slave, second: who I am and what I hold.
    Hello(Box<Hello>),
    /// Master, third: one verdict per job in either view.
    Welcome(Welcome),
    /// Master, instead: not now or not here.
    Refuse(Refuse),
    /// Slave, fourth: what the verdicts changed.
    Settled(Settled),
    /// Slave: the whole truth about one job.
    Report(Report),
    /// Slave: it does not hold this attempt, and why.
    Declined(Declined),
    /// Slave: the machine's condition.
    Machine(MachineReport),
    /// Master: the whole desired state for one job.
    DesiredState(DesiredState),
    /// Master: this ended job is on my disk.
    Forget(Forget),
    /// Master: how people want the slave to behave.
    OperatingMode(OperatingMode),
    /// Master: a question that needs its answer now.
    Ask(Ask),
    /// Slave: its answer.
    Answer(Answer),
    /// Either: are you there?
    Ping,
    /// Either: yes.
    Pong,
}

/// The master introduces itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Challenge {
    /// What it understands. First, and never changed.
    pub protocol: Versions,
    /// Its database.
    pub master: MasterId,
    /// How often that was restored.
    pub epoch: Epoch,
    /// Its durable commits.
    pub commit: Commit,
    /// The newest incarnations that its files tell of, oldest first; the last is the process that says this.
    pub begun: Vec<Begun>,
    /// Random bytes that the slave has to sign.
    pub nonce: [u8; 32],
    /// Its clock.
    pub time: Time,
}

/// The slave introduces itself, with a compact view of everything that it holds.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Hello {
    /// What it understands. First, and never changed.
    pub protocol: Versions,
    /// Its public key.
    pub key: SlaveKey,
    /// Its name: a label.
    pub name: String,
    /// The agent's version, for people.
    pub agent: String,
    /// The master that it belongs to, with what it has seen there; none before the first Welcome.
    pub binding: Option<MasterBinding>,
    /// Proof that it may be enrolled: an enrolment token's text.
    pub token: Option<String>,
    /// Its database.
    pub store: StoreId,
    /// The kernel's boot.
    pub boot: BootId,
    /// Its connections so far.
    pub session: Session,
    /// Its wall clock, when it said this.
    pub clock: Time,
    /// The machine's condition.
    pub machine: MachineReport,
    /// Programs that it offers.
    pub programs: Vec<String>,
    /// Labels for an order's `requires`.
    pub labels: BTreeMap<String, String>,
    /// How many unended jobs it keeps.
    pub capacity: u16,
    /// Every job that it holds.
    pub rows: Vec<Row>,
    /// Outcomes that it was told to forget, newest last: sent only to a master whose past is in doubt, since any
    /// other has them on its disk.
    pub recent_outcomes: Vec<Row>,
}

/// Which master a slave belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct MasterBinding {
    /// The master's database.
    pub master: MasterId,
    /// The highest epoch seen there.
    pub epoch: Epoch,
    /// The incarnation that was heard last...
    pub incarnation: Incarnation,
    /// ...and the highest commit number seen of it in that epoch; 0 until the first.
    pub commit: Commit,
}

/// When an incarnation of a master began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Begun {
    /// Which.
    pub incarnation: Incarnation,
    /// The durable commits of the files that it began with.
    pub at: Commit,
}

impl MasterBinding {
    /// Whether a master of the binding's epoch whose files hold this many commits and tell of these incarnations is behind what
    /// the binding's owner has seen: its files were put back to an earlier state, even if it has counted on since then.
    pub fn is_ahead_of(&self, commit: Commit, begun: &[Begun]) -> bool {
        let known = begun.iter().position(|one| one.incarnation == self.incarnation);
        // An incarnation counts until the next one begins. One that is not told of was before all that are, or comes after
        // the state to which the files were put back.
        let next = known.map_or(begun.first(), |at| begun.get(at + 1));
        self.commit > next.map_or(commit, |next| next.at)
    }
}

/// One job in a Hello: at most 64 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Row {
    /// Which job.
    pub job: JobId,
    /// Which attempt.
    pub attempt: Attempt,
    /// The newest desired state that it knows.
    pub generation: Generation,
    /// Its newest report.
    pub seq: ReportSeq,
    /// What it is.
    pub state: State,
    /// How far, in thousandths.
    pub progress: Option<u16>,
}

/// The master's answer to a Hello.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Welcome {
    /// Version spoken from here.
    pub protocol: u16,
    /// The session that this answers.
    pub session: Session,
    /// The master that the slave belongs to from here.
    pub binding: MasterBinding,
    /// How people want the slave to behave.
    pub operating_mode: OperatingMode,
    /// One ruling per job in either view.
    pub rulings: Vec<Ruling>,
}

/// One job in a Welcome.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Ruling {
    /// Which job.
    pub job: JobId,
    /// Which attempt.
    pub attempt: Attempt,
    /// What comes of it.
    pub verdict: Verdict,
    /// What the slave should tell in Settled.
    pub tell: Tell,
    /// The newest desired state, if the slave does not know it.
    pub desired_state: Option<DesiredState>,
}

/// How much of a job the master wants to hear.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Tell {
    /// The row was enough.
    Nothing,
    /// The report.
    Report,
    /// The report, the work and the desired state.
    Record,
}

/// The master does not take the slave, and why.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Refuse {
    /// Why, as a close code.
    pub code: CloseCode,
    /// Why and who can end it, for people.
    pub text: String,
    /// When it makes sense to try again, in milliseconds.
    pub retry_after_ms: Option<u32>,
}

/// The slave's answer to a Welcome: what it knows that the rows did not say.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Settled {
    /// The session that this ends the handshake of.
    pub session: Session,
    /// Reports that were asked for, or that the rulings changed.
    pub reports: Vec<Report>,
    /// Whole records, for jobs that the master did not know.
    pub records: Vec<Record>,
    /// Offers in the rulings that it did not take, and jobs that it gave back.
    pub declined: Vec<Declined>,
    /// The machine's condition now.
    pub machine: MachineReport,
}

/// The slave's whole truth about one job: to one job what Hello is to all.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Report {
    /// Which job.
    pub job: JobId,
    /// Which attempt.
    pub attempt: Attempt,
    /// Which beginning of it.
    pub run: Run,
    /// The newest desired state that it knows.
    pub generation: Generation,
    /// Orders the reports of one attempt.
    pub seq: ReportSeq,
    /// What it is.
    pub state: State,
    /// What an accepted job waits for.
    pub waiting_for: Option<WaitingFor>,
    /// How far, in thousandths.
    pub progress: Option<u16>,
    /// What the program says that it is doing.
    pub note: Option<String>,
    /// When it went to the slave's disk.
    pub accepted_at: Time,
    /// When the machine began.
    pub started_at: Option<Time>,
    /// Under which desired state it began.
    pub started_generation: Option<Generation>,
    /// When it ended.
    pub ended_at: Option<Time>,
    /// How the machine's work ended, if the machine said so.
    pub outcome: Option<Outcome>,
    /// Why it is what it is.
    pub reason: Option<Reason>,
    /// Beside the state.
    pub flags: Flags,
    /// Who caused the last change.
    pub source: Source,
}

/// How the machine's work ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Outcome {
    /// A process's exit status.
    pub exit_code: Option<i32>,
    /// The signal that ended a process.
    pub signal: Option<i32>,
    /// What the machine said.
    pub text: String,
}

/// A slave's whole record of one job, for a master that does not know it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Record {
    /// The work.
    pub spec: Spec,
    /// When it may start.
    pub start: StartRule,
    /// What it is.
    pub report: Report,
}

/// The slave does not hold this attempt.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Declined {
    /// Which job.
    pub job: JobId,
    /// Which attempt.
    pub attempt: Attempt,
    /// The desired state that this answers; an older one than the newest settles nothing.
    pub generation: Generation,
    /// Why.
    pub reason: Reason,
    /// It would not take it another time either.
    pub for_good: bool,
}

/// This ended job is on the master's disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Forget {
    /// Which job.
    pub job: JobId,
    /// Which attempt.
    pub attempt: Attempt,
    /// The report that is on the disk; a newer one would not be forgotten.
    pub seq: ReportSeq,
}

/// How people want the slave to behave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct OperatingMode {
    /// Orders the changes.
    pub generation: Generation,
    /// What people decided.
    pub mode: Mode,
}

/// What people decided about a slave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub enum Mode {
    /// It takes jobs.
    #[default]
    Production,
    /// It finishes what it has and takes no more.
    Draining,
    /// People work at it: nothing starts.
    Maintenance,
    /// Nothing starts until it is enabled again.
    Disabled,
    /// Its identity or memory is in doubt: nothing starts until a person has looked.
    Quarantined,
}

impl Mode {
    /// Every mode, in wire order.
    pub const ALL: [Self; 5] =
        [Self::Production, Self::Draining, Self::Maintenance, Self::Disabled, Self::Quarantined];

    /// The word that people and programs see.
    pub fn name(self) -> &'static str {
        match self {
            Self::Production => "production",
            Self::Draining => "draining",
            Self::Maintenance => "maintenance",
            Self::Disabled => "disabled",
            Self::Quarantined => "quarantined",
        }
    }

    /// The mode of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.name() == name)
    }

    /// A job that the slave holds may start.
    pub fn may_start(self) -> bool {
        match self {
            Self::Production | Self::Draining => true,
            Self::Maintenance | Self::Disabled | Self::Quarantined => false,
        }
    }
}

/// The machine's condition: a level, sent whenever it changes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct MachineReport {
    /// What it does.
    pub activity: Activity,
    /// The finished job whose work still lies in the machine.
    pub unloading: Option<JobId>,
    /// Why a person is needed.
    pub attention: Option<Attention>,
    /// The job of which nobody knows what became: a person has to say, before anything starts.
    pub uncertain: Option<JobId>,
    /// A person at the machine has locked remote starts out.
    pub local_lock: bool,
    /// The mode that the slave obeys.
    pub operating_mode: OperatingMode,
    /// What the machine said, with [`Attention::MachineUnfit`].
    pub cause: Option<String>,
}

impl MachineReport {
    /// Why a person is needed, for people: the cause and what ends it.
    pub fn attention_text(&self) -> Option<String> {
        match (self.attention?, &self.cause) {
            (Attention::MachineUnfit, Some(cause)) => {
                Some(format!("it could not begin a job: {cause}; mend that, then `clear`"))
            }
            (attention, _) => Some(attention.advice().to_owned()),
        }
    }
}

/// What a machine does, as its slave reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Activity {
    /// No job; it may not start one.
    Idle,
    /// It may start a job.
    Ready,
    /// A job is being started.
    Preparing,
    /// A job runs.
    Running,
    /// A job is paused.
    Paused,
    /// A job ended and nobody has confirmed that the machine is clear.
    Unloading,
    /// A person is needed.
    Attention,
    /// The machine is in fault.
    Fault,
    /// The slave is there, the machine's controller is not.
    MachineOff,
    /// The slave does not know yet.
    Unknown,
}

impl Activity {
    /// Every activity, in wire order.
    pub const ALL: [Self; 10] = [
        Self::Idle,
        Self::Ready,
        Self::Preparing,
        Self::Running,
        Self::Paused,
        Self::Unloading,
        Self::Attention,
        Self::Fault,
        Self::MachineOff,
        Self::Unknown,
    ];

    /// The word that people and programs see.
    pub fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Ready => "ready",
            Self::Preparing => "preparing",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Unloading => "unloading",
            Self::Attention => "attention",
            Self::Fault => "fault",
            Self::MachineOff => "machine_off",
            Self::Unknown => "unknown",
        }
    }
}

/// Why a person is needed at a machine. Each is ended by one action, `clear`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Attention {
    /// The slave's database is new while its key is not: nobody remembers what the machine did.
    StoreReplaced,
    /// The master knows a higher session: the slave's database went back in time.
    StoreRolledBack,
    /// The box has another fingerprint: it may stand on another machine.
    Moved,
    /// A job's work failed, and the config says that somebody has to look.
    Fault,
    /// The master knows of a job that was accepted here, and the slave's database does not.
    MemoryGap,
    /// It could not begin a job, for a cause at the machine: a full disk, a program that is not there.
    MachineUnfit,
}

impl Attention {
    /// The stable code that programs see.
    pub fn name(self) -> &'static str {
        match self {
            Self::StoreReplaced => "store_replaced",
            Self::StoreRolledBack => "store_rolled_back",
            Self::Moved => "moved",
            Self::Fault => "fault",
            Self::MemoryGap => "memory_gap",
            Self::MachineUnfit => "machine_unfit",
        }
    }

    /// For people: what it is, and what ends it.
    pub fn advice(self) -> &'static str {
        match self {
            Self::StoreReplaced => "its database is new: look at the machine, then `clear`",
            Self::StoreRolledBack => "its database went back in time: look at the machine, then `clear`",
            Self::Moved => "the box has another fingerprint: look at the machine, then `clear`",
            Self::Fault => "its last job failed: look at the machine, then `clear`",
            Self::MemoryGap => {
                "its database lacks a job that it had accepted: look at the machine, then `clear`"
            }
            Self::MachineUnfit => "it could not begin a job: mend what kept it from that, then `clear`",
        }
    }
}

/// What an accepted job waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum WaitingFor {
    /// Another job is first.
    Turn,
    /// Its time.
    Time,
    /// Something that it needs is not there yet.
    Artifact,
    /// The machine to be ready.
    Ready,
    /// A person's release.
    Operator,
    /// A clock that can be trusted.
    Clock,
}

impl WaitingFor {
    /// The word that people and programs see.
    pub fn name(self) -> &'static str {
        match self {
            Self::Turn => "turn",
            Self::Time => "time",
            Self::Artifact => "artifact",
            Self::Ready => "ready",
            Self::Operator => "operator",
            Self::Clock => "clock",
        }
    }
}

/// Who caused a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Source {
    /// A desired state of the master.
    Remote,
    /// A person at the machine.
    Local,
    /// The slave's own rules.
    Slave,
    /// The machine.
    Machine,
}

impl Source {
    /// The word that people and programs see.
    pub fn name(self) -> &'static str {
        match self {
            Self::Remote => "remote",
            Self::Local => "local",
            Self::Slave => "slave",
            Self::Machine => "machine",
        }
    }
}

/// Facts beside a job's state, never mixed into it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Flags(pub u16);

impl Flags {
    /// It runs longer than its order allows.
    pub const OVERDUE: Self = Self(1);
    /// The cancel came when it was over, or could no longer be stopped by its mode.
    pub const CANCEL_TOO_LATE: Self = Self(1 << 1);
    /// Two slaves had it under way.
    pub const DUPLICATE: Self = Self(1 << 2);
    /// The master learned of it from its slave.
    pub const ADOPTED: Self = Self(1 << 3);
    /// The outcome came after a person had given the job up.
    pub const LATE_RESULT: Self = Self(1 << 4);
    /// Its start was missed while the slave was off.
    pub const MISSED_START: Self = Self(1 << 5);
    /// It was interrupted and begun again.
    pub const INTERRUPTED: Self = Self(1 << 6);
    /// A slave speaks of an attempt that the master, by all that it knows, has never assigned to it.
    pub const CLAIMED: Self = Self(1 << 7);
    /// It waited when the master was restored, and a slave may have done it in the time that is forgotten.
    pub const RESTORED: Self = Self(1 << 8);

    const NAMES: [(Self, &'static str); 9] = [
        (Self::OVERDUE, "overdue"),
        (Self::CANCEL_TOO_LATE, "cancel_too_late"),
        (Self::DUPLICATE, "duplicate"),
        (Self::ADOPTED, "adopted"),
        (Self::LATE_RESULT, "late_result"),
        (Self::MISSED_START, "missed_start"),
        (Self::INTERRUPTED, "interrupted"),
        (Self::CLAIMED, "claimed"),
        (Self::RESTORED, "restored"),
    ];

    /// All of these are set.
    pub fn has(self, flags: Self) -> bool {
        self.0 & flags.0 == flags.0
    }

    /// Sets these.
    pub fn set(&mut self, flags: Self) {
        self.0 |= flags.0;
    }

    /// Takes these away.
    pub fn clear(&mut self, flags: Self) {
        self.0 &= !flags.0;
    }

    /// The words that people and programs see.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Self::NAMES.into_iter().filter(move |(flag, _)| self.has(*flag)).map(|(_, name)| name)
    }
}

impl std::fmt::Debug for Flags {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.names()).finish()
    }
}

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

/// A question that needs its answer now, and names what it assumes: a stale one has no force.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Ask {
    /// Pairs the answer with the question.
    pub id: u32,
    /// What.
    pub question: Question,
}

/// What a master may ask.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Question {
    /// Somebody confirms that the machine is clear of this job's work.
    Ready {
        /// The job that it was `unloading`.
        unloading: JobId,
    },
    /// Somebody has looked at what needed attention.
    Clear {
        /// What needed it.
        attention: Attention,
    },
    /// A part of a job's output.
    Log {
        /// Which job.
        job: JobId,
        /// Which attempt.
        attempt: Attempt,
        /// Which beginning of it.
        run: Run,
        /// From which byte; the end of the output if none.
        offset: Option<u64>,
        /// How many bytes at most.
        limit: u32,
    },
}

/// The answer to an [`Ask`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Answer {
    /// Pairs the answer with the question.
    pub id: u32,
    /// What.
    pub answer: Reply,
}

/// What a slave may answer.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Reply {
    /// Done, durably.
    Done,
    /// Not done, and what would do it.
    Refused(String),
    /// A part of a job's output.
    Log {
        /// Where the part begins.
        offset: u64,
        /// How long the output is.
        total: u64,
        /// The part.
        bytes: Vec<u8>,
    },
}

macro_rules! close_codes {
    ($($(#[$doc:meta])* $name:ident = $code:literal;)*) => {
        /// Why a link was closed: WebSocket close codes of the private range (RFC 6455, section 7.4.2).
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum CloseCode { $($(#[$doc])* $name,)* }

        impl CloseCode {
            /// Every code, in wire order.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The number on the wire.
            pub fn number(self) -> u16 {
                match self { $(Self::$name => $code,)* }
            }

            /// The code of that number.
            pub fn from_number(number: u16) -> Option<Self> {
                match number { $($code => Some(Self::$name),)* _ => None }
            }

            /// Trying again soon can help; otherwise a person has to do something first.
            pub fn is_passing(self) -> bool {
                !matches!(redial::after(self), redial::Redial::Person(_))
            }
        }
    };
}

close_codes! {
    /// A message could not be read, or came out of order.
    Protocol = 4400;
    /// The signature does not match the key.
    NotAuthentic = 4401;
    /// This slave is not enrolled here: approve it, or give it a token.
    NotEnrolled = 4403;
    /// This slave belongs to another master.
    WrongMaster = 4404;
    /// The handshake took too long.
    TooSlow = 4408;
    /// Another box with the same key is connected and answers.
    DuplicateIdentity = 4409;
    /// This slave was revoked.
    Revoked = 4410;
    /// A newer connection of the same slave took over.
    Superseded = 4411;
    /// A message was larger than allowed.
    TooLarge = 4413;
    /// The peer does not read what it is sent.
    SlowReader = 4414;
    /// No common protocol version.
    Version = 4426;
    /// Too many at once: come back when told.
    TryLater = 4429;
    /// This master is older than what the slave has seen.
    StaleMaster = 4440;
    /// This slave's name is taken by another key.
    NameTaken = 4441;
    /// The node shuts down.
    GoingAway = 4001;
    /// The node cannot write to its disk.
    Storage = 4507;
    /// Nothing was heard for too long.
    Silent = 4000;
}
