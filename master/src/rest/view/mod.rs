//! What clients see of orders, jobs and slaves, made from the master's state.
//!
//! Nothing here is folded into one word that hides how old it is: a job shows its last durable state, who said so, when
//! that was heard, and whether its slave can be heard now.

mod job;
mod need;
mod order;
mod slave;

use reloop_api::Reason;
use reloop_protocol::message;
use reloop_protocol::time::Time;

pub(super) use self::job::{Holders, event, explanation, holders, job, keys};
pub(super) use self::need::{counts, need};
pub(super) use self::order::{order, order_ids};
pub(super) use self::slave::{link, receipt, slave};

#[cfg(test)]
pub(super) use self::job::Holder;

/// A moment as RFC 3339, UTC.
pub(super) fn time(time: Time) -> String {
    let far = if time.0 < 0 { jiff::Timestamp::MIN } else { jiff::Timestamp::MAX };
    jiff::Timestamp::from_millisecond(time.0).unwrap_or(far).to_string()
}

fn reason(reason: &message::Reason) -> Reason {
    Reason { code: reason.code.name().into(), text: reason.text.clone() }
}
