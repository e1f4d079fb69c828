//! What clients write, from bytes to what the rules take: the edge at which a body is checked, once and completely.

use reloop_protocol::id::NewestId;
use reloop_protocol::master::{IdempotencyKey, JobCommand, Order, SlaveCommand};
use reloop_protocol::time::Time;
use serde_json::Value;

use super::problem::Problem;
use super::{fields, job_commands, order, slave_commands};
use crate::handle::new_ids;

/// An order, with new ids, and what an idempotency key stands for if it comes with one.
pub fn order(body: &[u8], key: Option<&[u8]>, now: Time) -> Result<(Order, Option<IdempotencyKey>), Problem> {
    let body = fields::parse(body)?;
    let key = key.map(|key| order::idempotency_key(key, body.as_ref().unwrap_or(&Value::Null)));
    let key = key.transpose()?;
    let new_ids = |jobs| new_ids(&mut NewestId::default(), now, jobs);
    Ok((order::parse(body, now, new_ids)?, key))
}

/// A command to a job, by its verb; none if there is no such verb.
pub fn job_command(verb: &str, body: &[u8]) -> Option<Result<JobCommand, Problem>> {
    let verb = job_commands::Verb::ALL.into_iter().find(|known| known.name() == verb)?;
    Some(fields::parse(body).and_then(|body| verb.read(body)))
}

/// A command to a slave, by its verb; none if there is no such verb.
pub fn slave_command(verb: &str, body: &[u8]) -> Option<Result<SlaveCommand, Problem>> {
    let verb = slave_commands::Verb::ALL.into_iter().find(|known| known.name() == verb)?;
    Some(fields::parse(body).and_then(|body| verb.read(body)).map(|(command, _)| command))
}
