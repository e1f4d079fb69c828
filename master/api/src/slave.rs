//! Slaves: three axes (link, mode, activity) that are never folded into one.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Page, Word, schema};

/// A slave.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Slave {
    /// Its name: a label, which several keys may carry.
    pub name: String,
    /// Its key's fingerprint: its identity.
    pub key: String,
    /// Whether it is connected.
    #[schema(schema_with = schema::link)]
    pub link: Word,
    /// The operating mode that people have put it into.
    #[schema(schema_with = schema::mode)]
    pub mode: Word,
    /// The slave has not confirmed the mode.
    pub mode_pending: bool,
    /// What its machine does, by its last word.
    #[schema(schema_with = schema::activity)]
    pub activity: Word,
    /// One word for displays, derived from the three axes.
    #[schema(value_type = String)]
    pub status: Word,
    /// Whether it belongs to this master.
    #[schema(schema_with = schema::enrolled)]
    pub enrolled: Word,
    /// What somebody has to look at before it works again.
    pub attention: Option<Attention>,
    /// The job whose machine nobody has confirmed to be clear.
    pub unloading: Option<String>,
    /// The job of which nobody knows how it ended.
    pub uncertain: Option<String>,
    /// Somebody at the machine has locked it.
    pub local_lock: bool,
    /// Two boxes have its key.
    pub cloned: bool,
    /// It has seen a later state of this master, and takes no orders from it.
    pub doubts: bool,
    /// When it was last heard.
    #[schema(format = DateTime)]
    pub last_contact_at: Option<String>,
    /// It was heard then, or later: the master has started since, and does not know.
    pub last_contact_at_least: bool,
    /// The number of its newest connection.
    pub session: u64,
    /// Programs that it can run.
    pub programs: Vec<String>,
    /// Its labels, which orders may require.
    pub labels: BTreeMap<String, String>,
    /// How many jobs it keeps that could start, the one that runs included.
    pub capacity: u16,
    /// How many jobs it keeps besides that wait for their time or for a person.
    pub deferred_capacity: u16,
    /// Ids of the jobs that are with it, also those of which another attempt speaks for the job.
    pub jobs: Vec<String>,
    /// How far its clock is ahead of the master's.
    pub clock_offset_ms: i64,
    /// The version of its agent.
    pub agent_version: String,
}

/// What needs a look at the machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Attention {
    /// A stable word for programs.
    #[schema(value_type = String)]
    pub code: Word,
    /// A sentence for people.
    pub text: String,
}

/// Slaves, by name.
pub type SlavePage = Page<Slave>;

/// What one handshake came to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Receipt {
    /// Raised with each handshake.
    pub number: u32,
    /// When the slave had settled.
    #[schema(format = DateTime)]
    pub at: String,
    /// How long it took.
    pub took_ms: u64,
    /// The slave's session: the number of its connection.
    pub session: u64,
    /// Whether the slave's store is the one that was known.
    #[schema(schema_with = schema::receipt_store)]
    pub store: Word,
    /// The slave's box was started since the last handshake.
    pub rebooted: bool,
    /// One line for each job in either view.
    pub lines: Vec<ReceiptLine>,
}

/// What a handshake came to for one job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ReceiptLine {
    /// The job's id.
    pub job: String,
    /// The attempt that was compared.
    pub attempt: u32,
    /// The state that the master held.
    #[schema(schema_with = schema::state_or_null)]
    pub master: Option<Word>,
    /// The state that the slave held.
    #[schema(schema_with = schema::state_or_null)]
    pub slave: Option<Word>,
    /// The line of the verdict table.
    pub line: String,
    /// What followed for the job.
    #[schema(value_type = String)]
    pub verdict: Word,
}

/// What a slave's handshakes came to, newest first.
pub type ReceiptPage = Page<Receipt>;

/// A person's word about a slave.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PersonRequest {
    /// Why, for the master's log.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = schema::for_the_log)]
    pub reason: Option<String>,
}

/// The mode that a slave shall be in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ModeRequest {
    /// The operating mode to put it into.
    #[schema(schema_with = schema::mode)]
    pub mode: Word,
    /// Why, for the master's log.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = schema::for_the_log)]
    pub reason: Option<String>,
}

/// How far a command to a slave got.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SlaveCommand {
    /// The slave's name.
    pub slave: String,
    /// What was asked for.
    #[schema(value_type = String)]
    pub command: Word,
    /// How far the command got.
    #[schema(schema_with = schema::delivery)]
    pub delivery: Word,
    /// The slave's mode after the command.
    #[schema(schema_with = schema::mode)]
    pub mode: Word,
    /// The slave's link.
    #[schema(schema_with = schema::link)]
    pub slave_link: Word,
}
