//! Orders: what a client wants to be done.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Job, Page, Word, schema};

/// An order, as a client writes it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(examples(json!({
    "program": "mill",
    "params": { "file": "bracket.nc" },
    "quantity": 2,
    "start": { "deadline": "2026-03-01T06:00:00Z" },
    "retry": { "max_attempts": 3, "on": ["failed"] },
})))]
pub struct OrderRequest {
    /// A name for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = schema::name)]
    pub name: Option<String>,
    /// The program to run, by its name in the slaves' configs.
    #[schema(schema_with = schema::name)]
    pub program: String,
    /// The program's parameters.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(schema_with = schema::short_texts)]
    pub params: BTreeMap<String, String>,
    /// How many jobs to make of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = schema::quantity)]
    pub quantity: Option<i64>,
    /// Only on the slave of this name.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = schema::name)]
    pub slave: Option<String>,
    /// Labels that the slave must have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(schema_with = schema::short_texts)]
    pub requires: BTreeMap<String, String>,
    /// The highest goes first.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = i32, required = false, default = 0)]
    pub priority: Option<i32>,
    /// When its jobs may start.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = StartRequest, required = false)]
    pub start: Option<StartRequest>,
    /// How long the machine may work in one run. Pauses do not count; the time in which only the agent is off does.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = schema::max_runtime)]
    pub max_runtime_seconds: Option<i64>,
    /// What happens to a job that runs longer than that.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = schema::on_overdue)]
    pub on_overdue: Option<Word>,
    /// Whether its jobs are tried again by themselves.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = RetryRequest, required = false)]
    pub retry: Option<RetryRequest>,
    /// What happens to a job whose run was interrupted.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = schema::on_interrupt)]
    pub on_interrupt: Option<Word>,
    /// The order's id in another system.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = schema::name)]
    pub external_id: Option<String>,
    /// Labels of the order itself.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(schema_with = schema::short_texts)]
    pub labels: BTreeMap<String, String>,
}

/// When a job may start, as a client writes it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StartRequest {
    /// It does not start before this.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false, format = DateTime)]
    pub not_before: Option<String>,
    /// It does not start after this, and expires then.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false, format = DateTime)]
    pub deadline: Option<String>,
    /// What happens if the start is missed: the slave finds `not_before` past by more than its `late_tolerance_seconds`, because it
    /// was off, suspended or without a clock, or because a clock was set.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = schema::late)]
    pub late: Option<Word>,
    /// It starts only when somebody releases it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = bool, required = false, default = false)]
    pub hold: Option<bool>,
}

/// Whether a job is tried again by itself, as a client writes it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RetryRequest {
    /// How often it is tried in all.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = schema::attempts)]
    pub max_attempts: Option<i64>,
    /// The ends after which it is tried again, if its latest start has not passed; needed if it may be tried more than once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(schema_with = schema::retry_on)]
    pub on: Vec<Word>,
    /// How many seconds the first retry waits. Each one waits twice as long as the one before, to at most 600 s, or to this if that is
    /// longer.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = schema::backoff)]
    pub backoff_seconds: Option<i64>,
}

/// How all jobs of an order are canceled.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CancelRequest {
    /// How a running job may be stopped.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = schema::cancel_mode)]
    pub mode: Option<Word>,
}

/// A command that takes no settings.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Nothing {}

/// An order as it was placed; its jobs are beside it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Placed {
    /// The order's id.
    pub id: String,
    /// A name for people.
    pub name: Option<String>,
    /// The program to run.
    pub program: String,
    /// The program's parameters.
    pub params: BTreeMap<String, String>,
    /// How many jobs it has.
    pub quantity: usize,
    /// The only slave that may take its jobs.
    pub slave: Option<String>,
    /// Labels that the slave must have.
    pub requires: BTreeMap<String, String>,
    /// The highest goes first.
    pub priority: i32,
    /// When its jobs may start.
    pub start: Start,
    /// How long the machine may work in one run. Pauses do not count; the time in which only the agent is off does.
    pub max_runtime_seconds: Option<f64>,
    /// What happens to a job that runs longer than that.
    #[schema(schema_with = schema::on_overdue)]
    pub on_overdue: Word,
    /// Whether its jobs are tried again by themselves.
    pub retry: Retry,
    /// What happens to a job whose run was interrupted.
    #[schema(schema_with = schema::on_interrupt)]
    pub on_interrupt: Word,
    /// The order's id in another system.
    pub external_id: Option<String>,
    /// Labels of the order itself.
    pub labels: BTreeMap<String, String>,
    /// When it was placed.
    #[schema(format = DateTime)]
    pub created_at: String,
}

/// When a job may start.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Start {
    /// It does not start before this.
    #[schema(format = DateTime)]
    pub not_before: Option<String>,
    /// It does not start after this.
    #[schema(format = DateTime)]
    pub deadline: Option<String>,
    /// What happens if the start is missed: the slave finds `not_before` past by more than its `late_tolerance_seconds`, because it
    /// was off, suspended or without a clock, or because a clock was set.
    #[schema(schema_with = schema::late)]
    pub late: Word,
    /// Somebody has to release it.
    pub hold: bool,
}

/// Whether a job is tried again by itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Retry {
    /// How often it is tried in all.
    pub max_attempts: u32,
    /// The ends after which it is tried again.
    #[schema(schema_with = schema::retry_on)]
    pub on: Vec<Word>,
    /// How many seconds the first retry waits; each one waits twice as long as the one before, to at most 600 s, or to this if that is more.
    pub backoff_seconds: f64,
}

/// An order with its jobs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Order {
    /// What was placed.
    #[serde(flatten)]
    pub placed: Placed,
    /// Its jobs as they are now.
    pub jobs: Vec<Job>,
}

/// An order with its jobs' ids.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct OrderIds {
    /// What was placed.
    #[serde(flatten)]
    pub placed: Placed,
    /// Its jobs' ids.
    pub jobs: Vec<String>,
}

/// Orders, newest first.
pub type OrderPage = Page<OrderIds>;

/// How far a command to all jobs of an order got.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct OrderCommand {
    /// The order's id.
    pub order: String,
    /// What was asked for.
    #[schema(value_type = String)]
    pub command: Word,
    /// How far it got with each of its jobs.
    pub jobs: Vec<JobDelivery>,
}

/// How far a command got with one job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct JobDelivery {
    /// The job's id.
    pub id: String,
    /// How far the command got.
    #[schema(schema_with = schema::delivery)]
    pub delivery: Word,
}
