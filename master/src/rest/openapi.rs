//! The interface as an OpenAPI 3.1 document, kept by hand beside the code that it describes: tests hold every route,
//! and every field of what is shown, against it.

use axum::Json;
use reloop_protocol::job::State;
use reloop_protocol::master::{Need, WhyNot};
use reloop_protocol::message::{Activity, Mode, ReasonCode};
use serde_json::{Map, Value, json};

use super::fields::{ENTRIES_LIMIT, NAME_LIMIT, VALUE_LIMIT};
use super::order::{ATTEMPTS_LIMIT, QUANTITY_LIMIT, RUNTIME_LIMIT_SECONDS};
use super::problem::{Code, MEDIA_TYPE};
use super::tokens::Role;
use super::view::LINKS;
use super::{Access, Route, routes};

pub(super) async fn show() -> Json<Value> {
    Json(document())
}

/// The whole document.
pub(super) fn document() -> Value {
    let mut paths = Map::new();
    for route in routes() {
        let operation = operation(&route);
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        path[route.method.as_str().to_lowercase()] = operation;
    }
    let codes = Code::ALL.iter().map(|code| {
        (code.name().to_owned(), json!({ "status": code.status().as_u16(), "title": code.title() }))
    });
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Reloop master",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Takes orders and hands them to machines. Additive only: tolerate fields and words that \
                            you do not know.",
            "license": { "name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0" },
        },
        "servers": [{ "url": "/" }],
        "paths": paths,
        "components": {
            "securitySchemes": { "token": { "type": "http", "scheme": "bearer" } },
            "schemas": schemas(),
        },
        "x-problem-codes": codes.collect::<Map<_, _>>(),
    })
}

/// A parameter's name, type and words.
type Parameter = (&'static str, &'static str, &'static str);
/// A status, a schema or a media type, and words.
type Success = (u16, &'static str, &'static str);
/// What a route takes and gives, beside what its path says: a summary, its query, its body's schema, its answer.
type Words = (&'static str, &'static [Parameter], Option<&'static str>, Success);

const PAGE: [Parameter; 2] = [
    ("limit", "integer", "Entries of a page: 1 to 500, 50 by default."),
    ("cursor", "string", "The `next_cursor` of the page before."),
];

fn words_of(method: &str, path: &str) -> Option<Words> {
    let command =
        "Taken; `delivery` says how far it got. That it was taken does not mean that the machine knows.";
    let words: Words = match (method, path) {
        ("POST", "/v1/orders") => (
            "Place an order. With an `Idempotency-Key` the same request may be sent again: it is placed once.",
            &[],
            Some("OrderRequest"),
            (
                201,
                "Order",
                "The order is on disk. `Idempotency-Replayed: true`: it was placed before, with this key.",
            ),
        ),
        ("GET", "/v1/orders") => {
            ("Orders, newest first.", &PAGE, None, (200, "OrderPage", "A page, with the jobs' ids."))
        }
        ("GET", "/v1/orders/{id}") => ("An order with its jobs.", &[], None, (200, "Order", "The order.")),
        ("POST", "/v1/orders/{id}/cancel") => (
            "Cancel all jobs of an order that have not ended.",
            &[],
            Some("CancelRequest"),
            (202, "OrderCommand", command),
        ),
        ("GET", "/v1/jobs") => (
            "Jobs, newest first. A filtered page may have fewer entries than `limit`, or none, and still a next one.",
            &[
                PAGE[0],
                PAGE[1],
                ("state", "string", "Only in these states; several with commas."),
                ("slave", "string", "Only at, or last at, the slave of this name or key."),
                ("order", "string", "Only of this order."),
            ],
            None,
            (200, "JobPage", "A page."),
        ),
        ("GET", "/v1/jobs/{id}") => ("A job.", &[], None, (200, "Job", "The job.")),
        ("GET", "/v1/jobs/{id}/events") => (
            "What a job went through: the first and the newest 63 changes.",
            &[],
            None,
            (200, "JobEventPage", "All of it."),
        ),
        ("GET", "/v1/jobs/{id}/log") => (
            "A part of a job's output, from its slave, which has to be connected. `Reloop-Log-Offset` says where the \
             part begins, `Reloop-Log-Total` how long the output is.",
            &[
                ("offset", "integer", "From this byte; the end of the output if absent."),
                ("limit", "integer", "Bytes at most: 1 to 65536, 16384 by default."),
            ],
            None,
            (200, "text/plain", "The bytes."),
        ),
        ("GET", "/v1/jobs/{id}/explain") => {
            ("Why a job has not started, slave by slave.", &[], None, (200, "Explanation", "Why."))
        }
        ("POST", "/v1/jobs/{id}/cancel") => {
            ("End a job.", &[], Some("CancelRequest"), (202, "JobCommand", command))
        }
        ("POST", "/v1/jobs/{id}/pause") => {
            ("Do not start a job; pause it if it runs.", &[], Some("Nothing"), (202, "JobCommand", command))
        }
        ("POST", "/v1/jobs/{id}/resume") => {
            ("Let a paused job go on.", &[], Some("Nothing"), (202, "JobCommand", command))
        }
        ("POST", "/v1/jobs/{id}/release") => (
            "Let a held job start, within some time from now.",
            &[],
            Some("ReleaseRequest"),
            (202, "JobCommand", command),
        ),
        ("POST", "/v1/jobs/{id}/reschedule") => (
            "Change when a job may start: what is absent no longer counts.",
            &[],
            Some("RescheduleRequest"),
            (202, "JobCommand", command),
        ),
        ("POST", "/v1/jobs/{id}/retry") => (
            "Begin a new attempt of a job that ended without success.",
            &[],
            Some("Nothing"),
            (202, "JobCommand", command),
        ),
        ("POST", "/v1/jobs/{id}/resolve") => (
            "Say how an uncertain job ended: look at the machine first.",
            &[],
            Some("ResolveRequest"),
            (202, "JobCommand", command),
        ),
        ("POST", "/v1/jobs/{id}/abandon") => (
            "Give a job up whose slave is gone: its outcome will not be known. The machine may still run.",
            &[],
            Some("Nothing"),
            (202, "JobCommand", command),
        ),
        ("GET", "/v1/needs") => (
            "What needs a person, the most urgent first: why, the command that ends it, and its risk.",
            &PAGE,
            None,
            (200, "NeedPage", "A page."),
        ),
        ("GET", "/v1/counts") => (
            "How many jobs have not ended, by state; how many slaves there are, by link; how much needs a person.",
            &[],
            None,
            (200, "Counts", "The numbers."),
        ),
        ("GET", "/v1/slaves") => (
            "Slaves, by name.",
            &[
                PAGE[0],
                PAGE[1],
                ("link", "string", "Only with this link."),
                ("mode", "string", "Only in this mode."),
            ],
            None,
            (200, "SlavePage", "A page."),
        ),
        ("GET", "/v1/slaves/{name}") => ("A slave.", &[], None, (200, "Slave", "The slave.")),
        ("GET", "/v1/slaves/{name}/receipts") => (
            "What its handshakes came to, newest first.",
            &[],
            None,
            (200, "ReceiptPage", "All that are kept."),
        ),
        ("POST", "/v1/slaves/{name}/ready") => {
            ("Confirm that the machine is clear.", &[], Some("PersonRequest"), (202, "SlaveCommand", command))
        }
        ("POST", "/v1/slaves/{name}/clear") => (
            "Confirm that somebody has looked at what needed attention.",
            &[],
            Some("PersonRequest"),
            (202, "SlaveCommand", command),
        ),
        ("POST", "/v1/slaves/{name}/mode") => {
            ("Put a slave into a mode.", &[], Some("ModeRequest"), (202, "SlaveCommand", command))
        }
        ("POST", "/v1/slaves/{name}/approve") => {
            ("Enrol a key that waits for it.", &[], Some("PersonRequest"), (202, "SlaveCommand", command))
        }
        ("POST", "/v1/slaves/{name}/forget") => (
            "Revoke a slave's key; what it holds stays with it.",
            &[],
            Some("PersonRequest"),
            (202, "SlaveCommand", command),
        ),
        ("POST", "/v1/enroll-tokens") => (
            "Make a token that enrols slaves.",
            &[],
            Some("EnrollTokenRequest"),
            (201, "EnrollToken", "The token: it is shown this once."),
        ),
        ("POST", "/v1/master/confirm-restore") => (
            "Confirm that this master was restored from a backup and is the one: its slaves obey it from here.",
            &[],
            Some("RestoreRequest"),
            (200, "Restored", "The new epoch."),
        ),
        ("POST", "/v1/tokens") => (
            "Make a token for a client.",
            &[],
            Some("TokenRequest"),
            (201, "NewToken", "The token: it is shown this once."),
        ),
        ("GET", "/v1/tokens") => {
            ("The tokens, without their text.", &[], None, (200, "TokenPage", "All of them."))
        }
        ("DELETE", "/v1/tokens/{id}") => {
            ("Revoke a token.", &[], None, (204, "", "It is worth nothing any more."))
        }
        ("GET", "/v1/events") => (
            "Changes as server-sent events: `job.changed` and `slave.changed` with the whole resource, `reset` when \
             changes were missed. Goes on after `Last-Event-ID`.",
            &[],
            None,
            (200, "text/event-stream", "The stream."),
        ),
        ("GET", "/v1/openapi.json") => {
            ("This document.", &[], None, (200, "application/json", "OpenAPI 3.1."))
        }
        ("GET", "/livez") => ("Whether the master runs.", &[], None, (200, "text/plain", "It does.")),
        ("GET", "/readyz") => (
            "Whether orders are taken; 503 if not.",
            &[("verbose", "string", "Say what was looked at, line by line.")],
            None,
            (200, "text/plain", "They are."),
        ),
        ("GET", "/metrics") => {
            ("Numbers for Prometheus.", &[], None, (200, "text/plain", "Text exposition format."))
        }
        ("GET", "/") => ("The web page.", &[], None, (200, "text/html", "The page.")),
        ("GET", "/assets/app.js") => ("Its script.", &[], None, (200, "text/javascript", "The script.")),
        ("GET", "/assets/app.css") => ("Its style.", &[], None, (200, "text/css", "The style.")),
        _ => return None,
    };
    Some(words)
}

fn operation(route: &Route) -> Value {
    let words = words_of(route.method.as_str(), route.path);
    let (summary, query, body, (status, kind, words)) = words.unwrap_or(("", &[], None, (200, "", "")));
    let mut parameters: Vec<Value> = query.iter().map(|(name, kind, words)| {
        json!({ "name": name, "in": "query", "description": words, "schema": { "type": kind } })
    }).collect();
    let in_path = route.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    parameters.extend(
        in_path.map(
            |name| json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } }),
        ),
    );
    let header = |name: &str, words: &str| json!({ "name": name, "in": "header", "description": words, "schema": { "type": "string" } });
    match route.path {
        "/v1/orders" if body.is_some() => {
            parameters
                .push(header("Idempotency-Key", "1 to 255 printable characters; kept as long as the order."));
        }
        "/v1/events" => parameters.push(header("Last-Event-ID", "The id of the last event that was seen.")),
        _ => {}
    }
    let success = match kind {
        "" => json!({ "description": words }),
        media if media.contains('/') => json!({ "description": words, "content": { media: {} } }),
        schema => {
            json!({ "description": words, "content": { "application/json": { "schema": reference(schema) } } })
        }
    };
    let mut responses = json!({ status.to_string(): success });
    let mut operation = json!({ "summary": summary });
    if route.access == Access::Everybody {
        operation["security"] = json!([]);
    } else {
        let problem = json!({ MEDIA_TYPE: { "schema": reference("Problem") } });
        responses["default"] = json!({ "description": "A problem, with a stable code.", "content": problem });
        operation["security"] = json!([{ "token": [] }]);
    }
    if let Access::From(role) = route.access {
        operation["x-role"] = json!(role.name());
    }
    operation["responses"] = responses;
    if !parameters.is_empty() {
        operation["parameters"] = Value::Array(parameters);
    }
    if let Some(schema) = body {
        let content = json!({ "application/json": { "schema": reference(schema) } });
        let required = schemas()[schema].get("required").is_some();
        operation["requestBody"] = json!({ "required": required, "content": content });
    }
    operation
}

fn reference(schema: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{schema}") })
}

fn object(properties: Value, required: &[&str]) -> Value {
    let mut object = json!({ "type": "object", "properties": properties });
    if !required.is_empty() {
        object["required"] = json!(required);
    }
    object
}

/// A body: what is not named is refused.
fn request(properties: Value, required: &[&str]) -> Value {
    let mut object = object(properties, required);
    object["additionalProperties"] = json!(false);
    object
}

/// An answer: everything that is named is there.
fn shown(properties: Value) -> Value {
    let required: Vec<String> =
        properties.as_object().into_iter().flatten().map(|(name, _)| name.clone()).collect();
    json!({ "type": "object", "properties": properties, "required": required })
}

fn page_of(schema: &str) -> Value {
    shown(json!({
        "data": { "type": "array", "items": reference(schema) },
        "next_cursor": { "type": ["string", "null"], "description": "For the next page; null on the last." },
    }))
}

fn words<T: Copy>(all: &[T], name: impl Fn(T) -> &'static str) -> Value {
    json!({ "type": "string", "enum": all.iter().map(|one| name(*one)).collect::<Vec<_>>() })
}

/// An object of whole numbers.
fn numbers<'a>(names: impl Iterator<Item = &'a str>) -> Value {
    shown(names.map(|name| (name.to_owned(), json!({ "type": "integer" }))).collect::<Map<_, _>>().into())
}

fn schemas() -> Value {
    let text = || json!({ "type": "string" });
    let text_or_null = || json!({ "type": ["string", "null"] });
    let name = || json!({ "type": "string", "minLength": 1, "maxLength": NAME_LIMIT });
    let time = || json!({ "type": "string", "format": "date-time" });
    let time_or_null = || json!({ "type": ["string", "null"], "format": "date-time" });
    let whole = || json!({ "type": "integer" });
    let flag = || json!({ "type": "boolean" });
    let texts = || json!({ "type": "object", "additionalProperties": { "type": "string" } });
    let short_texts = || {
        json!({
            "type": "object", "maxProperties": ENTRIES_LIMIT,
            "additionalProperties": { "type": "string", "maxLength": VALUE_LIMIT },
        })
    };
    let one_of = |words: &[&str]| json!({ "type": "string", "enum": words });
    let nullable = |schema: &str| json!({ "oneOf": [reference(schema), { "type": "null" }] });
    let list = |items: Value| json!({ "type": "array", "items": items });
    let state = || words(&State::ALL, State::name);
    let state_or_null = || json!({ "oneOf": [state(), { "type": "null" }] });
    let mode = || words(&Mode::ALL, Mode::name);
    let late = || one_of(&["hold", "run", "skip"]);
    let delivery = || one_of(&["applied", "sent", "pending_on_reconnect", "too_late"]);
    let link = || one_of(&["online", "offline", "never"]);
    let on_overdue = || one_of(&["flag", "stop"]);
    let on_interrupt = || one_of(&["hold", "fail", "restart"]);
    let retry = |max: Value| json!({ "max_attempts": max, "on": list(one_of(&["failed", "rejected"])) });
    let order = |jobs: Value| {
        shown(json!({
            "id": text(), "name": text_or_null(), "program": text(), "params": texts(), "quantity": whole(),
            "slave": text_or_null(), "requires": texts(), "priority": whole(),
            "start": shown(json!({
                "not_before": time_or_null(), "deadline": time_or_null(), "late": late(), "hold": flag(),
            })),
            "max_runtime_seconds": { "type": ["number", "null"] }, "on_overdue": on_overdue(),
            "retry": shown(retry(whole())), "on_interrupt": on_interrupt(), "external_id": text_or_null(),
            "labels": texts(), "created_at": time(), "jobs": list(jobs),
        }))
    };
    let token = || json!({ "id": text(), "name": text(), "role": words(&Role::ALL, Role::name), "created_at": time() });
    let mut new_token = token();
    new_token["token"] = text();
    let person =
        || json!({ "reason": { "type": "string", "maxLength": VALUE_LIMIT, "description": "For the log." } });
    let mut mode_request = person();
    mode_request["mode"] = mode();
    let schemas = [
        (
            "OrderRequest",
            request(
                json!({
                    "name": name(), "program": name(), "params": short_texts(),
                    "quantity": { "type": "integer", "minimum": 1, "maximum": QUANTITY_LIMIT, "default": 1 },
                    "slave": name(), "requires": short_texts(),
                    "priority": { "type": "integer", "default": 0, "description": "The highest goes first." },
                    "start": request(json!({
                        "not_before": time(), "deadline": time(), "late": late(),
                        "hold": { "type": "boolean", "default": false, "description": "Somebody has to release it." },
                    }), &[]),
                    "max_runtime_seconds": { "type": "integer", "minimum": 1, "maximum": RUNTIME_LIMIT_SECONDS },
                    "on_overdue": on_overdue(),
                    "retry": request(retry(json!({
                        "type": "integer", "minimum": 1, "maximum": ATTEMPTS_LIMIT, "default": 1,
                    })), &[]),
                    "on_interrupt": on_interrupt(), "external_id": name(), "labels": short_texts(),
                }),
                &["program"],
            ),
        ),
        ("Order", order(reference("Job"))),
        ("OrderIds", order(text())),
        ("OrderPage", page_of("OrderIds")),
        ("Reason", shown(json!({ "code": words(ReasonCode::ALL, ReasonCode::name), "text": text() }))),
        ("Attention", shown(json!({ "code": text(), "text": text() }))),
        (
            "Outcome",
            shown(json!({
                "exit_code": { "type": ["integer", "null"] }, "signal": { "type": ["integer", "null"] }, "text": text(),
            })),
        ),
        (
            "Job",
            shown(json!({
                "id": text(), "order": text(), "name": text_or_null(), "program": text(), "params": texts(),
                "state": state(), "desired": one_of(&["run", "pause", "cancel", "resolve"]),
                "waiting_for": text_or_null(), "reason": nullable("Reason"), "flags": list(text()), "attempt": whole(),
                "slave": text_or_null(), "requested_slave": text_or_null(), "requires": texts(),
                "progress": { "type": ["number", "null"], "minimum": 0, "maximum": 1 }, "note": text_or_null(),
                "freshness": shown(json!({
                    "link": { "type": ["string", "null"], "description": "Null while the job is with no slave." },
                    "observed_at": { "type": ["string", "null"], "format": "date-time",
                        "description": "When its slave was last heard. It never goes back while the job is with it." },
                    "at_least": { "type": "boolean", "description": "The slave was heard then, or later: the master has \
                        started since, and does not know." },
                })),
                "priority": whole(), "not_before": time_or_null(), "deadline": time_or_null(), "late": late(),
                "gate": one_of(&["open", "held", "released"]), "created_at": time(), "accepted_at": time_or_null(),
                "started_at": time_or_null(), "ended_at": time_or_null(), "outcome": nullable("Outcome"),
                "earlier": list(shown(json!({
                    "attempt": whole(), "slave": text(), "state": state(), "started_at": time_or_null(),
                    "claimed": { "type": "boolean", "description": "The slave was never handed this: nothing follows from it." },
                    "ended_at": time_or_null(), "outcome": nullable("Outcome"), "reason": nullable("Reason"),
                }))),
                "revision": whole(),
            })),
        ),
        ("JobPage", page_of("Job")),
        (
            "JobEvent",
            shown(json!({
                "at": time(), "observed_at": time_or_null(), "state": state(), "attempt": whole(), "by": text(),
            })),
        ),
        ("JobEventPage", page_of("JobEvent")),
        (
            "Explanation",
            shown(json!({
                "job": text(), "state": state(), "summary": text(),
                "slaves": list(shown(json!({
                    "slave": text(),
                    "why_not": { "oneOf": [words(&WhyNot::ALL, WhyNot::name), { "type": "null" }] },
                }))),
            })),
        ),
        (
            "JobCommand",
            shown(json!({
                "job": text(), "command": text(), "delivery": delivery(), "state": state(), "slave_link": text_or_null(),
            })),
        ),
        (
            "OrderCommand",
            shown(json!({
                "order": text(), "command": text(),
                "jobs": list(shown(json!({ "id": text(), "delivery": delivery() }))),
            })),
        ),
        (
            "Slave",
            shown(json!({
                "name": text(), "key": text(), "link": link(), "mode": mode(),
                "mode_pending": { "type": "boolean", "description": "The slave has not confirmed the mode." },
                "activity": words(&Activity::ALL, Activity::name),
                "status": { "type": "string", "description": "One word for displays, derived from the three axes." },
                "enrolled": one_of(&["yes", "pending", "revoked"]), "attention": nullable("Attention"),
                "unloading": text_or_null(), "uncertain": text_or_null(), "local_lock": flag(), "cloned": flag(), "doubts": flag(),
                "last_contact_at": time_or_null(), "last_contact_at_least": flag(), "session": whole(), "programs": list(text()), "labels": texts(),
                "capacity": whole(), "jobs": list(text()), "clock_offset_ms": whole(), "agent_version": text(),
            })),
        ),
        ("SlavePage", page_of("Slave")),
        (
            "Counts",
            shown(json!({
                "jobs": numbers(State::ALL.iter().filter(|state| !state.is_ended()).map(|state| state.name())),
                "slaves": numbers(LINKS.into_iter()), "needs": whole(),
            })),
        ),
        (
            "Need",
            shown(json!({
                "need": words(&Need::ALL, Need::name), "slave": text_or_null(), "slave_key": text_or_null(),
                "job": { "type": ["string", "null"], "description": "Null if it is about the slave." },
                "text": text(), "action": text(), "command": text(), "risk": text(),
            })),
        ),
        ("NeedPage", page_of("Need")),
        (
            "SlaveCommand",
            shown(json!({
                "slave": text(), "command": text(), "delivery": delivery(), "mode": mode(), "slave_link": link(),
            })),
        ),
        (
            "Receipt",
            shown(json!({
                "number": whole(), "at": time(), "took_ms": whole(), "session": whole(),
                "store": one_of(&["trusted", "replaced", "rolled_back", "ahead", "doubting"]), "rebooted": flag(),
                "lines": list(shown(json!({
                    "job": text(), "attempt": whole(), "master": state_or_null(), "slave": state_or_null(),
                    "line": text(), "verdict": text(),
                }))),
            })),
        ),
        ("ReceiptPage", page_of("Receipt")),
        ("Nothing", request(json!({}), &[])),
        (
            "RestoreRequest",
            request(
                json!({
                    "force": {
                        "type": "boolean", "default": false,
                        "description": "Also if no slave doubts this master: those that could tell are away.",
                    },
                }),
                &[],
            ),
        ),
        (
            "CancelRequest",
            request(
                json!({
                    "mode": {
                        "type": "string", "enum": ["if_not_started", "safe_point", "now"], "default": "safe_point",
                    },
                }),
                &[],
            ),
        ),
        (
            "ReleaseRequest",
            request(
                json!({
                    "valid_seconds": { "type": "integer", "minimum": 1, "maximum": 604_800, "default": 600 },
                }),
                &[],
            ),
        ),
        (
            "RescheduleRequest",
            request(
                json!({
                    "not_before": time(), "deadline": time(), "late": late(),
                }),
                &[],
            ),
        ),
        (
            "ResolveRequest",
            request(
                json!({
                    "outcome": one_of(&["succeeded", "failed", "canceled"]),
                }),
                &["outcome"],
            ),
        ),
        ("PersonRequest", request(person(), &[])),
        ("ModeRequest", request(mode_request, &["mode"])),
        (
            "EnrollTokenRequest",
            request(
                json!({
                    "name": name(), "ttl_seconds": { "type": "integer", "minimum": 1, "maximum": 2_678_400, "default": 3600 },
                    "uses": { "type": "integer", "minimum": 1, "maximum": 10_000, "default": 1 },
                }),
                &[],
            ),
        ),
        (
            "EnrollToken",
            shown(json!({
                "token": text(), "name": text_or_null(), "uses": whole(), "expires_at": time(),
            })),
        ),
        ("Restored", shown(json!({ "master": text(), "epoch": whole() }))),
        (
            "TokenRequest",
            request(
                json!({
                    "name": name(), "role": words(&Role::ALL, Role::name),
                }),
                &["name", "role"],
            ),
        ),
        ("Token", shown(token())),
        ("NewToken", shown(new_token)),
        ("TokenPage", page_of("Token")),
        (
            "Problem",
            object(
                json!({
                    "type": text(), "title": text(), "status": whole(), "detail": text(),
                    "code": words(Code::ALL, Code::name), "request_id": text(),
                    "errors": list(object(json!({ "field": text(), "detail": text() }), &["field", "detail"])),
                }),
                &["type", "title", "status", "detail", "code", "request_id"],
            ),
        ),
    ];
    Value::Object(schemas.into_iter().map(|(name, schema)| (name.to_owned(), schema)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
        match value {
            Value::Object(map) => {
                for (key, value) in map {
                    match value {
                        Value::String(target) if key == "$ref" => found.push(target),
                        value => references(value, found),
                    }
                }
            }
            Value::Array(items) => items.iter().for_each(|item| references(item, found)),
            _ => {}
        }
    }

    #[test]
    fn every_route_is_described_with_what_it_takes_and_gives() {
        for route in routes() {
            let (method, path) = (route.method.as_str(), route.path);
            let words = words_of(method, path);
            let (_, _, body, (_, kind, _)) = words.unwrap_or_else(|| panic!("no words for {method} {path}"));
            assert!(!kind.is_empty() || method == "DELETE", "{method} {path}");
            assert!((method == "POST") == body.is_some(), "{method} {path}: a POST has a body");
            assert!(document()["paths"][path][method.to_lowercase()].is_object());
        }
    }

    #[test]
    fn every_reference_leads_somewhere() {
        let document = document();
        let mut found = Vec::new();
        references(&document, &mut found);
        assert!(found.len() > 50);
        for target in found {
            let pointer = target.strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{target}");
        }
    }

    #[test]
    fn every_schema_is_used() {
        let document = document();
        let mut found = Vec::new();
        references(&document, &mut found);
        for name in document["components"]["schemas"].as_object().unwrap().keys() {
            assert!(found.iter().any(|target| target.ends_with(&format!("/{name}"))), "{name}");
        }
    }

    #[test]
    fn every_problem_code_can_be_looked_up() {
        let document = document();
        for code in Code::ALL {
            let pointer = format!("/x-problem-codes/{}/title", code.name());
            assert_eq!(document.pointer(&pointer), Some(&Value::from(code.title())));
        }
    }
}
