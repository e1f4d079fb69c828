//! Orders, as they were placed.

use reloop_api::words::{LATE, ON_INTERRUPT, ON_OVERDUE, RETRY_ON, word};
use reloop_api::{Job, Order, OrderIds, Placed, Retry, Start};
use reloop_protocol::master;
use reloop_protocol::spec::{Gate, StartRule};
use reloop_protocol::time::Millis;

use super::time;

/// An order with its jobs as they are now.
pub(in crate::rest) fn order(order: &master::Order, jobs: Vec<Job>) -> Order {
    Order { placed: placed(order), jobs }
}

/// An order with its jobs' ids.
pub(in crate::rest) fn order_ids(order: &master::Order) -> OrderIds {
    OrderIds { placed: placed(order), jobs: order.jobs.iter().map(ToString::to_string).collect() }
}

fn placed(order: &master::Order) -> Placed {
    Placed {
        id: order.id.to_string(),
        name: order.spec.name.clone(),
        program: order.spec.program.clone(),
        params: order.spec.params.clone(),
        quantity: order.jobs.len(),
        slave: order.slave.clone(),
        requires: order.requires.clone(),
        priority: order.start.priority,
        start: start(&order.start),
        max_runtime_seconds: order.spec.max_runtime.map(seconds),
        on_overdue: word(&ON_OVERDUE, &order.spec.on_overdue).into(),
        retry: Retry {
            max_attempts: order.retry.max_attempts,
            on: order.retry.on.iter().map(|on| word(&RETRY_ON, on).into()).collect(),
            backoff_seconds: seconds(order.retry_backoff),
        },
        on_interrupt: word(&ON_INTERRUPT, &order.spec.on_interrupt).into(),
        external_id: order.external_id.clone(),
        labels: order.labels.clone(),
        created_at: time(order.created_at),
    }
}

fn start(start: &StartRule) -> Start {
    Start {
        not_before: start.not_before.map(time),
        deadline: start.deadline.map(time),
        late: word(&LATE, &start.late).into(),
        hold: start.gate != Gate::Open,
    }
}

fn seconds(length: Millis) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "exact for 285,000 years")]
    let ms = length.0 as f64;
    ms / 1000.0
}
