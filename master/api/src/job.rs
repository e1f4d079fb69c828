//! Jobs: what became of an order.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Page, Word, schema};

/// A job: its last durable state, who said so, when that was heard, and whether its slave can be heard now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Job {
    /// The job's id.
    pub id: String,
    /// Its order's id.
    pub order: String,
    /// A name for people.
    pub name: Option<String>,
    /// The program to run.
    pub program: String,
    /// The program's parameters.
    pub params: BTreeMap<String, String>,
    /// The last durable fact.
    #[schema(schema_with = schema::state)]
    pub state: Word,
    /// What people want of it.
    #[schema(schema_with = schema::desired)]
    pub desired: Word,
    /// What an accepted job waits for.
    #[schema(value_type = Option<String>)]
    pub waiting_for: Option<Word>,
    /// Why it is in this state.
    pub reason: Option<Reason>,
    /// What is remarkable about it, as `stale` or `cancel_pending`.
    #[schema(value_type = Vec<String>)]
    pub flags: Vec<Word>,
    /// The number of its newest attempt; 0 before the first.
    pub attempt: u32,
    /// The slave that it is or was with.
    pub slave: Option<String>,
    /// The only slave that may take it.
    pub requested_slave: Option<String>,
    /// Labels that the slave must have.
    pub requires: BTreeMap<String, String>,
    /// How much of it is done.
    #[schema(minimum = 0, maximum = 1)]
    pub progress: Option<f64>,
    /// What its program says about the work.
    pub note: Option<String>,
    /// How fresh all that is.
    pub freshness: Freshness,
    /// The highest goes first.
    pub priority: i32,
    /// It does not start before this.
    #[schema(format = DateTime)]
    pub not_before: Option<String>,
    /// It does not start after this.
    #[schema(format = DateTime)]
    pub deadline: Option<String>,
    /// What happens if the slave finds `not_before` past by more than its tolerance.
    #[schema(schema_with = schema::late)]
    pub late: Word,
    /// Whether somebody has to release it.
    #[schema(schema_with = schema::gate)]
    pub gate: Word,
    /// When its order was placed.
    #[schema(format = DateTime)]
    pub created_at: String,
    /// When its slave took it, by the slave's clock.
    #[schema(format = DateTime)]
    pub accepted_at: Option<String>,
    /// When its run began, by the slave's clock.
    #[schema(format = DateTime)]
    pub started_at: Option<String>,
    /// When it ended; null until then.
    #[schema(format = DateTime)]
    pub ended_at: Option<String>,
    /// Until when it waits before it is tried again; null if it does not.
    #[schema(format = DateTime)]
    pub retry_at: Option<String>,
    /// How the machine's work ended.
    pub outcome: Option<Outcome>,
    /// Its attempts that do not speak for it.
    pub earlier: Vec<Earlier>,
    /// Raised with every change.
    pub revision: u32,
}

/// Why something is as it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Reason {
    /// A stable word for programs.
    #[schema(schema_with = schema::reason_code)]
    pub code: Word,
    /// A sentence for people.
    pub text: String,
}

/// How fresh a slave's word is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Freshness {
    /// The slave's link. Null while the job is with no slave.
    #[schema(value_type = Option<String>)]
    pub link: Option<Word>,
    /// When its slave was last heard. It never goes back while the job is with it.
    #[schema(format = DateTime)]
    pub observed_at: Option<String>,
    /// The slave was heard then, or later: the master has started since, and does not know.
    pub at_least: bool,
}

/// How the machine's work ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Outcome {
    /// The program's exit code.
    pub exit_code: Option<i32>,
    /// The signal that ended the program.
    pub signal: Option<i32>,
    /// What the machine said.
    pub text: String,
}

/// Another attempt of a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Earlier {
    /// The attempt's number.
    pub attempt: u32,
    /// The slave that it is or was with.
    pub slave: String,
    /// The last state that is known of it.
    #[schema(schema_with = schema::state)]
    pub state: Word,
    /// The slave was never handed this: nothing follows from it.
    pub claimed: bool,
    /// What is remarkable about it, as `late_result`.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    pub flags: Vec<Word>,
    /// When its run began, by the slave's clock.
    #[schema(format = DateTime)]
    pub started_at: Option<String>,
    /// When its run ended, by the slave's clock.
    #[schema(format = DateTime)]
    pub ended_at: Option<String>,
    /// How the machine's work ended.
    pub outcome: Option<Outcome>,
    /// Why it is in this state.
    pub reason: Option<Reason>,
}

/// Jobs, newest first.
pub type JobPage = Page<Job>;

/// A change that a job went through.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct JobEvent {
    /// When the master learned of it.
    #[schema(format = DateTime)]
    pub at: String,
    /// When it happened, by the slave's clock.
    #[schema(format = DateTime)]
    pub observed_at: Option<String>,
    /// The state after it.
    #[schema(schema_with = schema::state)]
    pub state: Word,
    /// The attempt that it belongs to.
    pub attempt: u32,
    /// Who brought it about: a slave's name, `client`, `operator`, `master`, or a rule in a few words.
    pub by: String,
}

/// The first and the newest changes of a job.
pub type JobEventPage = Page<JobEvent>;

/// Why a job has not started.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Explanation {
    /// The job's id.
    pub job: String,
    /// The job's state.
    #[schema(schema_with = schema::state)]
    pub state: Word,
    /// A sentence for people.
    pub summary: String,
    /// When something changes by itself: its `not_before`, or its next try. Null if nothing does.
    #[schema(format = DateTime)]
    pub next_at: Option<String>,
    /// How many jobs go before it; no more than 1000 are counted.
    pub in_front: usize,
    /// Every slave that was considered, by name.
    pub slaves: Vec<WhyNot>,
}

/// Why a slave does not take a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct WhyNot {
    /// The slave's name.
    pub slave: String,
    /// What keeps it from the job; null if it could take it.
    #[schema(schema_with = schema::why_not_or_null)]
    pub why_not: Option<Word>,
    /// The same for people, with what would change it.
    pub text: String,
}

/// How far a command to a job got: that it was taken does not mean that the machine knows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct JobCommand {
    /// The job's id.
    pub job: String,
    /// What was asked for.
    #[schema(value_type = String)]
    pub command: Word,
    /// How far the command got.
    #[schema(schema_with = schema::delivery)]
    pub delivery: Word,
    /// The job's state after the command.
    #[schema(schema_with = schema::state)]
    pub state: Word,
    /// The link of the job's slave. Null while the job is with no slave.
    #[schema(value_type = Option<String>)]
    pub slave_link: Option<Word>,
}

/// How long a release holds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReleaseRequest {
    /// The job starts only if it can within this time. If it is tried again by itself, it waits for another release.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = schema::valid_seconds)]
    pub valid_seconds: Option<u64>,
}

/// When a job may start from now on: what is absent no longer counts.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RescheduleRequest {
    /// It does not start before this.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false, format = DateTime)]
    pub not_before: Option<String>,
    /// It does not start after this, and expires then.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false, format = DateTime)]
    pub deadline: Option<String>,
    /// What happens if the slave finds `not_before` past by more than its tolerance.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = schema::late)]
    pub late: Option<Word>,
}

/// How an uncertain job ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ResolveRequest {
    /// What somebody saw at the machine.
    #[schema(schema_with = schema::end)]
    pub outcome: Word,
}
