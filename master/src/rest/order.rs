//! An order, as a client writes it.

use std::collections::BTreeMap;

use reloop_api::limits::{
    ATTEMPTS_LIMIT, BACKOFF_LIMIT_SECONDS, KEY_LIMIT, NAME_LIMIT, QUANTITY_LIMIT, RUNTIME_LIMIT_SECONDS,
    WORK_LIMIT,
};
use reloop_api::words::{LATE, ON_INTERRUPT, ON_OVERDUE, RETRY_ON};
use reloop_node::digest::sha256;
use reloop_protocol::id::{JobId, OrderId};
use reloop_protocol::job::OnInterrupt;
use reloop_protocol::master::{IdempotencyKey, Order, RETRY_BACKOFF, Retry};
use reloop_protocol::spec::{Gate, Late, Spec, StartRule};
use reloop_protocol::time::{Millis, Time};
use serde_json::Value;

use super::fields::{Fields, bad_text, canonical};
use super::problem::Problem;

/// Reads an order. It and its jobs, so many of them, get their ids from `new_ids` if all of it is right.
pub(super) fn parse(
    body: Option<Value>,
    now: Time,
    new_ids: impl FnOnce(usize) -> (OrderId, Vec<JobId>),
) -> Result<Order, Problem> {
    let mut fields = Fields::new(body)?;
    let name = fields.text("name", NAME_LIMIT);
    let program = fields.needed_text("program", NAME_LIMIT);
    let params = fields.texts("params");
    let quantity = fields.int("quantity", 1..=QUANTITY_LIMIT).unwrap_or(1);
    let slave = fields.text("slave", NAME_LIMIT);
    let requires = fields.texts("requires");
    let priority = fields.int("priority", i64::from(i32::MIN)..=i64::from(i32::MAX)).unwrap_or(0);
    let (window, gate) = fields.object("start", |start| {
        let window = window(start);
        let held = start.flag("hold").unwrap_or(false);
        (window, if held { Gate::Held } else { Gate::Open })
    });
    let max_runtime = fields.int("max_runtime_seconds", 1..=RUNTIME_LIMIT_SECONDS);
    let on_overdue = fields.word("on_overdue", &ON_OVERDUE).unwrap_or_default();
    let (retry, retry_backoff) = fields.object("retry", |retry| {
        let max_attempts = retry.int("max_attempts", 1..=ATTEMPTS_LIMIT).unwrap_or(1);
        let on = retry.words("on", &RETRY_ON);
        if max_attempts > 1 && on.is_empty() {
            retry.wrong("on", "empty, so it would never be tried again; allowed are failed, rejected");
        }
        let max_attempts = u32::try_from(max_attempts).expect("it was checked against its limit");
        let backoff = retry.int("backoff_seconds", 0..=BACKOFF_LIMIT_SECONDS);
        let backoff = backoff.and_then(|seconds| u64::try_from(seconds).ok()).map(Millis::seconds);
        (Retry { max_attempts, on: on.into_iter().collect() }, backoff.unwrap_or(RETRY_BACKOFF))
    });
    let on_interrupt = fields.word("on_interrupt", &ON_INTERRUPT).unwrap_or(OnInterrupt::Hold);
    let external_id = fields.text("external_id", NAME_LIMIT);
    let labels = fields.texts("labels");
    let size = weight(&params) + weight(&requires) + weight(&labels);
    if size > WORK_LIMIT {
        let text = "bytes with requires and labels, names and values together";
        fields.wrong("params", format!("{size} {text}; at most {WORK_LIMIT}"));
    }
    fields.end()?;

    let (id, jobs) = new_ids(usize::try_from(quantity).expect("it was checked against its limit"));
    Ok(Order {
        id,
        created_at: now,
        jobs,
        spec: Spec {
            order: id,
            name,
            program,
            params,
            max_runtime: max_runtime.and_then(|seconds| u64::try_from(seconds).ok()).map(Millis::seconds),
            on_overdue,
            on_interrupt,
        },
        slave,
        requires,
        start: StartRule {
            not_before: window.not_before,
            deadline: window.deadline,
            late: window.late,
            gate,
            priority: i32::try_from(priority).expect("it was checked against its limit"),
        },
        retry,
        external_id,
        labels,
        retry_backoff,
    })
}

/// When a job may start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) not_before: Option<Time>,
    pub(super) deadline: Option<Time>,
    /// What happens if the slave finds the first past by more than its tolerance.
    pub(super) late: Late,
}

/// Reads the fields of a window.
pub(super) fn window(fields: &mut Fields) -> Window {
    let not_before = fields.time("not_before");
    let deadline = fields.time("deadline");
    if let (Some(not_before), Some(deadline)) = (not_before, deadline)
        && deadline < not_before
    {
        fields.wrong("deadline", "it is before not_before, so it would never start");
    }
    Window { not_before, deadline, late: fields.word("late", &LATE).unwrap_or_default() }
}

/// A client's key, with what it stands for.
pub(super) fn idempotency_key(key: &[u8], body: &Value) -> Result<IdempotencyKey, Problem> {
    let text =
        std::str::from_utf8(key).ok().filter(|text| text.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
    match text {
        Some(text) if bad_text(text, KEY_LIMIT).is_none() => Ok(IdempotencyKey {
            key: text.to_owned(),
            fingerprint: sha256(canonical(body).to_string().as_bytes()),
        }),
        _ => {
            let detail = format!("allowed are 1 to {KEY_LIMIT} printable ASCII characters");
            Err(Problem::field("Idempotency-Key", detail))
        }
    }
}

fn weight(texts: &BTreeMap<String, String>) -> usize {
    texts.iter().map(|(name, value)| name.len() + value.len()).sum()
}

#[cfg(test)]
mod tests {
    use reloop_protocol::id::NewestId;
    use serde_json::json;

    use super::*;
    use crate::handle::new_ids;

    const NOW: Time = Time(1_700_000_000_000);

    fn read(body: Option<Value>, now: Time) -> Result<Order, Problem> {
        super::parse(body, now, |jobs| new_ids(&mut NewestId::default(), now, jobs))
    }

    fn errors(body: Value) -> Vec<String> {
        let problem = read(Some(body), NOW).unwrap_err();
        problem.errors.into_iter().map(|error| format!("{}: {}", error.field, error.detail)).collect()
    }

    #[test]
    fn an_order_needs_a_program_and_nothing_else() {
        let order = read(Some(json!({"program": "mill"})), NOW).unwrap();
        assert_eq!(order.jobs.len(), 1);
        assert_eq!(order.start, StartRule::default());
        assert_eq!(order.retry, Retry { max_attempts: 1, on: [].into() });
        assert_eq!(order.retry_backoff, Millis::seconds(10));
        assert_eq!(order.spec.order, order.id);
        assert_eq!(errors(json!({})), ["/program: missing"]);
        assert_eq!(errors(json!({"program": 1})), ["/program: a number; expected a string"]);
    }

    #[test]
    fn everything_that_an_order_may_say_is_taken() {
        let body = json!({
            "name": "bracket", "program": "mill", "params": {"file": "a.nc"}, "quantity": 3.0, "slave": "mill-3",
            "requires": {"material": "pla"}, "priority": -5, "max_runtime_seconds": 60, "on_overdue": "stop",
            "start": {"not_before": "2026-03-01T06:00:00Z", "deadline": "2026-03-01T08:00:00+01:00", "late": "run",
                      "hold": true},
            "retry": {"max_attempts": 3, "on": ["failed", "rejected"], "backoff_seconds": 60}, "on_interrupt": "restart",
            "external_id": "ERP-1", "labels": {"line": "2"},
        });
        let order = read(Some(body), NOW).unwrap();
        assert_eq!(order.jobs.len(), 3);
        assert!(order.jobs.is_sorted(), "jobs are in the order's order");
        assert_eq!(order.start.gate, Gate::Held);
        assert_eq!(order.start.late, Late::Run);
        let window = order.start.deadline.unwrap().since(order.start.not_before.unwrap());
        assert_eq!(window, Millis::seconds(3600));
        assert_eq!(order.spec.max_runtime, Some(Millis::seconds(60)));
        assert_eq!(order.spec.on_interrupt, OnInterrupt::Restart);
        assert_eq!((order.retry.on.len(), order.retry_backoff), (2, Millis::seconds(60)));
    }

    #[test]
    fn everything_that_is_wrong_is_said_at_once() {
        let errors = errors(json!({
            "program": "", "quantity": 1001, "retry": {"max_attempts": 2}, "colour": "red",
            "start": {"not_before": "2026-03-01T06:00:00Z", "deadline": "2026-03-01T05:00:00Z", "dead_line": 1},
        }));
        let places: Vec<_> = errors.iter().map(|error| error.split(':').next().unwrap()).collect();
        let expected =
            ["/program", "/quantity", "/start/deadline", "/retry/on", "/start/dead_line", "/colour"];
        assert_eq!(places, expected, "{errors:?}");
    }

    #[test]
    fn an_order_that_would_not_fit_a_record_is_refused() {
        let params: BTreeMap<_, _> = (0..5).map(|n| (format!("p{n}"), "x".repeat(4000))).collect();
        let errors = errors(json!({"program": "mill", "params": params}));
        assert!(errors[0].starts_with("/params: 20010 bytes"), "{errors:?}");
    }

    #[test]
    fn a_key_stands_for_the_body_however_it_is_written() {
        let key = |body| idempotency_key(b"k", &body).unwrap().fingerprint;
        assert_eq!(
            key(json!({"quantity": 2.0, "program": "mill"})),
            key(json!({"program": "mill", "quantity": 2}))
        );
        assert_ne!(key(json!({"program": "mill"})), key(json!({"program": "bake"})));
        for bad in [&b""[..], b"a\tb", "schl\u{fc}ssel".as_bytes(), &[b'k'; KEY_LIMIT + 1]] {
            idempotency_key(bad, &json!({})).unwrap_err();
        }
    }
}
