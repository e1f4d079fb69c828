//! The interface as a client meets it: the whole router, over a real loop and a real store.

use std::time::Duration;

use axum::body::Body;
use axum::http::Request as HttpRequest;
use futures_util::StreamExt as _;
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use reloop_node::store::{Options, Store};
use reloop_protocol::id::{Attempt, Epoch, Generation, MasterId, ReportSeq, Run, Session, StoreId};
use reloop_protocol::job::State as JobState;
use reloop_protocol::master::{self, Enrolled, Enrollment, Settings, SlaveLink, SlaveRecord, Write};
use reloop_protocol::message::{Activity, Flags, MachineReport, Mode, OperatingMode, Report, Source};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::config::Overrides;

const PATIENCE: Duration = Duration::from_secs(10);
const MILL: SlaveKey = SlaveKey([7; 32]);

/// A master without a port.
struct Master {
    router: Router,
    tokens: Arc<Tokens>,
    admin: String,
    _dir: TempDir,
}

/// What it answered.
struct Reply {
    status: u16,
    headers: HeaderMap,
    text: String,
}

impl Reply {
    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    #[track_caller]
    fn expect(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.text);
        self.json()
    }

    #[track_caller]
    fn problem(&self, status: u16, code: &str) -> Value {
        let problem = self.expect(status);
        assert_eq!(problem["code"], code, "{problem:#}");
        assert_eq!(problem["status"], status);
        assert_eq!(self.headers["content-type"], "application/problem+json");
        assert_eq!(self.headers["x-request-id"], problem["request_id"].as_str().unwrap());
        problem
    }
}

impl Master {
    async fn start(records: Vec<Write>) -> Self {
        Self::start_with(records, 0).await
    }

    async fn start_with(records: Vec<Write>, min_free_bytes: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = Options { cache_bytes: 1 << 20, min_free_bytes };
        let store = Store::open(&dir.path().join("store"), options).unwrap().store;
        let settings = Settings { enrollment: Enrollment::Token };
        let mut ops = Vec::new();
        records.iter().for_each(|record| crate::records::ops(record, &mut ops));
        let (done, written) = tokio::sync::oneshot::channel();
        store.commit(ops, move |result| drop(done.send(result)));
        written.await.unwrap().unwrap();
        let state = master::recover(settings, MasterId([1; 16]), records);
        let (node, handle, inbox) = crate::driver::new(state, store.clone(), PATIENCE);
        tokio::spawn(reloop_node::driver::run(node, store, inbox, std::future::pending()));
        let tokens = Arc::new(Tokens::open(dir.path()).unwrap());
        let config = Config::parse("", None, Overrides::default()).unwrap();
        let router = router(RestState::new(handle, Arc::clone(&tokens), &config));
        let admin = tokens.create("test", Role::Admin).unwrap().1;
        Self { router, tokens, admin, _dir: dir }
    }

    async fn empty() -> Self {
        Self::start(vec![]).await
    }

    async fn send(&self, request: HttpRequest<Body>) -> Response {
        TowerToHyperService::new(self.router.clone()).call(request).await.unwrap()
    }

    async fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: impl Into<Body>) -> Reply {
        let mut request = HttpRequest::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (head, body) = self.send(request.body(body.into()).unwrap()).await.into_parts();
        let bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        Reply { status: head.status.as_u16(), headers: head.headers, text }
    }

    async fn get(&self, path: &str) -> Reply {
        self.ask("GET", path, &[("authorization", &format!("Bearer {}", self.admin))], "").await
    }

    async fn post(&self, path: &str, body: Value) -> Reply {
        let body = body.to_string();
        self.ask("POST", path, &[("authorization", &format!("Bearer {}", self.admin))], body).await
    }

    async fn place(&self, body: Value, key: &str) -> Reply {
        let headers = [("authorization", &*format!("Bearer {}", self.admin)), ("idempotency-key", key)];
        self.ask("POST", "/v1/orders", &headers, body.to_string()).await
    }

    async fn job(&self, id: &Value) -> Value {
        self.get(&format!("/v1/jobs/{}", id.as_str().unwrap())).await.expect(200)
    }
}

fn mill() -> SlaveRecord {
    SlaveRecord {
        key: MILL,
        name: "mill-3".to_owned(),
        agent: "0.1.0".to_owned(),
        enrolled: Enrolled::Yes,
        store: Some(StoreId([2; 16])),
        boot: None,
        session: Session(5),
        settled_in: Epoch(1),
        programs: vec!["mill".to_owned()],
        labels: BTreeMap::from([("material".to_owned(), "pla".to_owned())]),
        capacity: 4,
        operating_mode: OperatingMode { generation: Generation(1), mode: Mode::Production },
        machine: Some(MachineReport {
            activity: Activity::Running,
            unloading: None,
            attention: None,
            local_lock: false,
            uncertain: None,
            operating_mode: OperatingMode { generation: Generation(1), mode: Mode::Production },
            cause: None,
        }),
        last_contact: Some(Time(1_700_000_100_000)),
        clock_offset_ms: -3,
        cloned_at: None,
        receipts: 0,
        link: SlaveLink::Down,
        contender: None,
        declining: false,
        doubts: false,
    }
}

/// A job that a slave has, which is away.
fn away(state: JobState) -> (JobId, Vec<Write>) {
    let body = json!({ "program": "mill", "name": "bracket", "params": { "file": "a.nc" } });
    let order = order::parse(Some(body), Time(1_700_000_000_000)).unwrap();
    let id = order.jobs[0];
    let mut job = Job::new(id, &order);
    job.state = state;
    job.holder = Some(MILL);
    job.attempt = Attempt(1);
    job.last_attempt = Attempt(1);
    job.revision = 3;
    job.report = Some(Report {
        job: id,
        attempt: Attempt(1),
        run: Run(1),
        generation: Generation(1),
        seq: ReportSeq { start: 1, count: 4 },
        state,
        waiting_for: None,
        progress: Some(460),
        note: Some("layer 3".to_owned()),
        accepted_at: Time(1_700_000_010_000),
        started_at: Some(Time(1_700_000_020_000)),
        started_generation: Some(Generation(1)),
        ended_at: None,
        outcome: None,
        reason: None,
        flags: Flags::default(),
        source: Source::Machine,
    });
    (id, vec![Write::Order(Box::new(order)), Write::Slave(Box::new(mill())), Write::Job(Box::new(job))])
}

/// A value has exactly the fields of its schema, and of the right types.
fn check(document: &Value, schema: &Value, value: &Value, at: &str) {
    if let Some(target) = schema["$ref"].as_str() {
        return check(document, document.pointer(&target[1..]).unwrap(), value, at);
    }
    if let Some(choices) = schema["oneOf"].as_array() {
        let choice = usize::from(value.is_null());
        return check(document, &choices[choice], value, at);
    }
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let allowed = match &schema["type"] {
        Value::Array(kinds) => kinds.iter().any(|allowed| allowed == kind),
        allowed => allowed == kind,
    };
    assert!(allowed, "{at} is {kind}, and its schema says {}", schema["type"]);
    if let Some(words) = schema["enum"].as_array() {
        assert!(words.contains(value), "{at}: {value} is not in {words:?}");
    }
    for (n, item) in value.as_array().into_iter().flatten().enumerate() {
        check(document, &schema["items"], item, &format!("{at}/{n}"));
    }
    if let (Some(map), Some(properties)) = (value.as_object(), schema["properties"].as_object()) {
        let fields: Vec<_> = map.keys().collect();
        let named: Vec<_> = properties.keys().collect();
        assert_eq!(fields, named, "{at}");
        for (name, value) in map {
            check(document, &properties[name], value, &format!("{at}/{name}"));
        }
    }
}

#[tokio::test]
async fn an_order_is_answered_with_its_jobs_and_is_there_afterwards() {
    let master = Master::empty().await;
    let body = json!({ "program": "mill", "name": "bracket", "quantity": 3, "params": { "file": "a.nc" } });
    let placed = master.post("/v1/orders", body).await;
    let order = placed.expect(201);
    assert_eq!(placed.headers["location"], format!("/v1/orders/{}", order["id"].as_str().unwrap()));
    assert_eq!(order["jobs"].as_array().unwrap().len(), 3);
    assert_eq!(order["jobs"][0]["state"], "queued");
    assert_eq!(
        order["jobs"][0]["freshness"],
        json!({ "link": null, "observed_at": null, "at_least": false })
    );
    let again = master.get(placed.headers["location"].to_str().unwrap()).await.expect(200);
    assert_eq!(again, order);
    assert_eq!(master.job(&order["jobs"][1]["id"]).await, order["jobs"][1]);
    let listed = master.get("/v1/orders").await.expect(200);
    assert_eq!(listed["data"][0]["jobs"][2], order["jobs"][2]["id"]);
    let id = order["jobs"][0]["id"].as_str().unwrap();
    let explained = master.get(&format!("/v1/jobs/{id}/explain")).await.expect(200);
    assert_eq!(explained["summary"], "there are no slaves: enrol one");
    let events = master.get(&format!("/v1/jobs/{id}/events")).await.expect(200);
    assert_eq!(events["data"][0]["state"], "queued");
    assert_eq!(events["data"][0]["by"], "client");
}

#[tokio::test]
async fn an_order_that_is_sent_again_with_its_key_is_placed_once() {
    let master = Master::empty().await;
    let first = master.place(json!({ "program": "mill", "quantity": 2 }), "k 1").await;
    assert!(first.headers.get("idempotency-replayed").is_none());
    let again = master.place(json!({ "quantity": 2.0, "program": "mill" }), "k 1").await;
    assert_eq!(again.expect(201)["id"], first.expect(201)["id"]);
    assert_eq!(again.headers["idempotency-replayed"], "true");
    assert_eq!(again.headers["location"], first.headers["location"]);
    let other = master.place(json!({ "program": "bake" }), "k 1").await;
    assert!(
        other.problem(422, "idempotency_key_reused")["detail"].as_str().unwrap().contains("use a new key")
    );
    assert_eq!(master.get("/v1/jobs").await.expect(200)["data"].as_array().unwrap().len(), 2);
    master.place(json!({ "program": "bake" }), "").await.problem(400, "bad_request");
}

#[tokio::test]
async fn a_canceled_order_says_how_far_each_cancel_got() {
    let master = Master::empty().await;
    let order = master.post("/v1/orders", json!({ "program": "mill", "quantity": 2 })).await.expect(201);
    let path = format!("/v1/orders/{}/cancel", order["id"].as_str().unwrap());
    master.post(&path, json!({ "mode": "gently" })).await.problem(400, "bad_request");
    let canceled = master.post(&path, json!({})).await.expect(202);
    let expected = order["jobs"].as_array().unwrap().iter();
    let expected: Vec<_> = expected.map(|job| json!({ "id": job["id"], "delivery": "applied" })).collect();
    assert_eq!(canceled["jobs"], Value::Array(expected));
    let job = master.job(&order["jobs"][0]["id"]).await;
    assert_eq!((&job["state"], &job["reason"]["code"]), (&json!("canceled"), &json!("canceled")));
    assert!(job["ended_at"].is_string());
    let again = master.post(&path, json!({})).await.expect(202);
    assert_eq!(again["jobs"][1]["delivery"], "too_late");
}

#[tokio::test]
async fn lists_go_on_where_the_last_page_ended() {
    let master = Master::empty().await;
    let mut orders = Vec::new();
    for program in ["mill", "bake", "mill"] {
        orders
            .push(master.post("/v1/orders", json!({ "program": program, "quantity": 2 })).await.expect(201));
    }
    master
        .post(&format!("/v1/jobs/{}/cancel", orders[0]["jobs"][0]["id"].as_str().unwrap()), json!({}))
        .await;
    for (query, expected) in
        [("", 6), ("&state=queued", 5), ("&state=canceled,queued", 6), ("&state=canceled", 1)]
    {
        let (mut found, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = master.get(&format!("/v1/jobs?limit=2{query}{cursor}")).await.expect(200);
            found.extend(
                page["data"].as_array().unwrap().iter().map(|job| job["id"].as_str().unwrap().to_owned()),
            );
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
        assert_eq!(found.len(), expected, "{query}");
        assert!(found.is_sorted_by(|newer, older| newer > older), "newest first, each once: {query}");
    }
    let of_order = format!("/v1/jobs?order={}", orders[1]["id"].as_str().unwrap());
    assert_eq!(master.get(&of_order).await.expect(200)["data"].as_array().unwrap().len(), 2);
    master.get("/v1/jobs?state=busy").await.problem(400, "bad_request");
    master.get("/v1/jobs?limit=0").await.problem(400, "bad_request");
    master.get("/v1/jobs?colour=red").await.problem(400, "unknown_field");
    master.get("/v1/jobs?slave=nobody").await.problem(404, "not_found");
}

#[tokio::test]
async fn what_is_wrong_with_a_request_is_a_problem_with_a_code() {
    let master = Master::empty().await;
    master.get("/v1/nothing").await.problem(404, "not_found");
    master.get("/v1/jobs/job_1").await.problem(404, "not_found");
    master.get("/v1/jobs/job_01J8ZK7000000000000000000A").await.problem(404, "not_found");
    master.get("/v1/jobs/%ff").await.problem(400, "bad_request");
    master.get("/v1/slaves/nobody").await.problem(404, "not_found");
    let wrong = master
        .ask("DELETE", "/v1/orders", &[("authorization", &format!("Bearer {}", master.admin))], "")
        .await;
    wrong.problem(405, "method_not_allowed");
    assert!(wrong.headers["allow"].to_str().unwrap().contains("POST"));
    let headers = [("authorization", &*format!("bearer {}", master.admin))];
    master.ask("POST", "/v1/orders", &headers, "{\"program\": ").await.problem(400, "bad_request");
    master.ask("POST", "/v1/orders", &headers, vec![b' '; 300_000]).await.problem(413, "body_too_large");
    master.post("/v1/orders", json!([1])).await.problem(400, "bad_request");
    let unknown = master.post("/v1/orders", json!({ "program": "mill", "colour": "red" })).await;
    assert_eq!(unknown.problem(400, "unknown_field")["errors"][0]["field"], "/colour");
    assert!(
        master.get("/v1/orders").await.expect(200)["data"].as_array().unwrap().is_empty(),
        "nothing was placed"
    );
}

#[tokio::test]
async fn every_route_asks_for_its_role_and_tells_strangers_nothing() {
    let master = Master::empty().await;
    let bearers = Role::ALL.map(|role| (role, master.tokens.create(role.name(), role).unwrap().1));
    for route in routes() {
        let path = route.path.replace("{id}", "none").replace("{name}", "none");
        let method = route.method.as_str();
        let needed = match route.access {
            Access::Everybody => None,
            Access::Metrics => Some(Role::Viewer),
            Access::From(role) => Some(role),
        };
        let stranger = master.ask(method, &path, &[], "").await;
        match needed {
            None => assert_eq!(stranger.status, 200, "{method} {path}"),
            Some(_) => {
                stranger.problem(401, "unauthorized");
                assert_eq!(stranger.headers["www-authenticate"], "Bearer realm=\"reloop\"");
            }
        }
        // Streams do not end, and the effects of what is granted are for other tests.
        for (role, token) in
            bearers.iter().filter(|_| path != "/v1/events" && !path.ends_with("confirm-restore"))
        {
            let reply = master.ask(method, &path, &[("authorization", &format!("Bearer {token}"))], "").await;
            let refused = needed.is_some_and(|needed| *role < needed);
            assert_eq!(reply.status == 403, refused, "{role} {method} {path}: {}", reply.text);
            assert_ne!(reply.status, 500, "{method} {path}: {}", reply.text);
        }
    }
    for (header, token) in
        [("authorization", "Basic YTpi"), ("authorization", "Bearer"), ("x-token", &master.admin)]
    {
        master.ask("GET", "/v1/jobs", &[(header, token)], "").await.problem(401, "unauthorized");
    }
    master.ask("GET", "/v1/nothing", &[], "").await.problem(401, "unauthorized");
}

#[tokio::test]
async fn tokens_are_made_listed_and_revoked() {
    let master = Master::empty().await;
    let made = master.post("/v1/tokens", json!({ "name": "wall", "role": "viewer" })).await.expect(201);
    let headers = [("authorization", &*format!("Bearer {}", made["token"].as_str().unwrap()))];
    master.ask("GET", "/v1/jobs", &headers, "").await.expect(200);
    master.ask("POST", "/v1/orders", &headers, "{}").await.problem(403, "forbidden");
    let list = master.get("/v1/tokens").await.expect(200);
    assert!(list["data"].as_array().unwrap().iter().any(|token| token["id"] == made["id"]));
    assert!(!list.to_string().contains(made["token"].as_str().unwrap()), "the text is shown once");
    let path = format!("/v1/tokens/{}", made["id"].as_str().unwrap());
    let admin = [("authorization", &*format!("Bearer {}", master.admin))];
    assert_eq!(master.ask("DELETE", &path, &admin, "").await.status, 204);
    master.ask("GET", "/v1/jobs", &headers, "").await.problem(401, "unauthorized");
    master.ask("DELETE", &path, &admin, "").await.problem(404, "not_found");
    master.post("/v1/tokens", json!({ "role": "king" })).await.problem(400, "bad_request");
    let enroll =
        master.post("/v1/enroll-tokens", json!({ "name": "mill-3", "ttl_seconds": 60 })).await.expect(201);
    assert!(enroll["token"].as_str().unwrap().starts_with("xenr1."));
    assert_eq!((&enroll["uses"], &enroll["name"]), (&json!(1), &json!("mill-3")));
}

#[tokio::test]
async fn a_job_whose_slave_is_away_shows_its_last_word_and_how_old_that_is() {
    let (id, records) = away(JobState::Running);
    let master = Master::start(records).await;
    let id = json!(id.to_string());
    let job = master.job(&id).await;
    assert_eq!(
        (&job["state"], &job["slave"], &job["attempt"]),
        (&json!("running"), &json!("mill-3"), &json!(1))
    );
    assert_eq!(job["flags"], json!(["stale"]));
    let freshness = json!({ "link": "offline", "observed_at": "2023-11-14T22:15:00Z", "at_least": true });
    assert_eq!(job["freshness"], freshness, "this master has not heard the slave");
    assert_eq!(job["started_at"], "2023-11-14T22:13:40Z");
    assert_eq!(job["revision"], 3);
    let path = format!("/v1/jobs/{}", id.as_str().unwrap());

    let log = master.get(&format!("{path}/log")).await;
    log.problem(409, "slave_offline");
    let most = reloop_protocol::limits::LOG_BYTES;
    master.get(&format!("{path}/log?limit={most}")).await.problem(409, "slave_offline");
    master.get(&format!("{path}/log?limit={}", most + 1)).await.problem(400, "bad_request");
    let described = master.get("/v1/openapi.json").await.expect(200).to_string();
    assert!(
        described.contains(&format!("Bytes at most: 1 to {most},")),
        "the description tells the same limit"
    );
    master.post(&format!("{path}/resolve"), json!({})).await.problem(400, "bad_request");
    master.post(&format!("{path}/resolve"), json!({ "outcome": "failed" })).await.problem(409, "wrong_state");
    let canceled = master.post(&format!("{path}/cancel"), json!({ "mode": "now" })).await.expect(202);
    let expected = json!({
        "job": id, "command": "cancel", "delivery": "pending_on_reconnect", "state": "running",
        "slave_link": "offline",
    });
    assert_eq!(canceled, expected);
    let job = master.job(&id).await;
    assert_eq!((&job["desired"], &job["flags"]), (&json!("cancel"), &json!(["stale", "cancel_pending"])));
    master.post(&format!("{path}/resume"), json!({})).await.problem(409, "wrong_state");

    assert_eq!(master.post(&format!("{path}/abandon"), json!({})).await.expect(202)["state"], "lost");
    let job = master.job(&id).await;
    assert_eq!(
        (&job["state"], &job["reason"]["code"], &job["flags"]),
        (&json!("lost"), &json!("abandoned"), &json!([]))
    );
    assert_eq!(master.post(&format!("{path}/retry"), json!({})).await.expect(202)["state"], "queued");
    let job = master.job(&id).await;
    assert_eq!(job["earlier"][0]["slave"], "mill-3");
}

#[tokio::test]
async fn a_slave_shows_its_axes_and_what_people_decide() {
    let (id, records) = away(JobState::Running);
    let master = Master::start(records).await;
    let slave = master.get("/v1/slaves/mill-3").await.expect(200);
    assert_eq!((&slave["link"], &slave["mode"]), (&json!("offline"), &json!("production")));
    assert_eq!((&slave["activity"], &slave["status"]), (&json!("running"), &json!("offline")));
    assert_eq!(slave["jobs"], json!([id.to_string()]));
    assert_eq!(slave["last_contact_at"], "2023-11-14T22:15:00Z");
    assert_eq!(slave["last_contact_at_least"], true);
    let by_key = master.get(&format!("/v1/slaves/{}", slave["key"].as_str().unwrap())).await.expect(200);
    assert_eq!(by_key, slave);
    let list = master.get("/v1/slaves?link=offline&mode=production").await.expect(200);
    assert_eq!(list["data"], json!([slave]));
    assert!(master.get("/v1/slaves?link=online").await.expect(200)["data"].as_array().unwrap().is_empty());

    let moved =
        master.post("/v1/slaves/mill-3/mode", json!({ "mode": "maintenance", "reason": "oil" })).await;
    assert_eq!(moved.expect(202)["delivery"], "pending_on_reconnect");
    let slave = master.get("/v1/slaves/mill-3").await.expect(200);
    assert_eq!((&slave["status"], &slave["mode_pending"]), (&json!("maintenance"), &json!(true)));
    master.post("/v1/slaves/mill-3/mode", json!({ "mode": "resting" })).await.problem(400, "bad_request");
    master.post("/v1/slaves/mill-3/mode", json!({})).await.problem(400, "bad_request");
    master.post("/v1/slaves/mill-3/ready", json!({})).await.problem(409, "nothing_to_do");
    assert_eq!(master.post("/v1/slaves/mill-3/forget", json!({})).await.expect(202)["delivery"], "applied");
    assert_eq!(master.get("/v1/slaves/mill-3").await.expect(200)["enrolled"], "revoked");
    let refused = master.post("/v1/slaves/mill-3/approve", json!({})).await;
    let detail = refused.problem(409, "slave_revoked")["detail"].to_string();
    assert!(detail.contains("reloop slave enroll-token"), "{detail}");
    assert_eq!(master.get("/v1/slaves/mill-3").await.expect(200)["enrolled"], "revoked");
}

#[tokio::test]
async fn a_name_that_two_newcomers_carry_approves_neither() {
    let newcomer = |first: u8| {
        let mut slave = mill();
        slave.key = SlaveKey([first; 32]);
        slave.enrolled = Enrolled::Pending;
        slave.store = None;
        Write::Slave(Box::new(slave))
    };
    let master = Master::start(vec![newcomer(1), newcomer(2)]).await;
    let refused = master.post("/v1/slaves/mill-3/approve", json!({})).await;
    assert!(refused.problem(409, "conflict")["detail"].as_str().unwrap().contains("0101010101010101"));
    master.post("/v1/slaves/0202020202020202/approve", json!({})).await.expect(202);
    let slave = master.get("/v1/slaves/mill-3").await.expect(200);
    assert_eq!((&slave["key"], &slave["link"]), (&json!("0202020202020202"), &json!("never")));
}

#[tokio::test]
async fn what_is_shown_is_what_the_document_says() {
    let (id, records) = away(JobState::Uncertain);
    let master = Master::start(records).await;
    let document = master.get("/v1/openapi.json").await.expect(200);
    let id = id.to_string();
    let placed = master
        .place(json!({ "program": "mill", "retry": { "max_attempts": 2, "on": ["failed"] } }), "k")
        .await;
    let document_of = |name: &str| document["components"]["schemas"][name].clone();
    for (schema, value) in [
        ("Order", placed.expect(201)),
        ("OrderPage", master.get("/v1/orders").await.expect(200)),
        ("Job", master.job(&json!(id)).await),
        ("JobPage", master.get("/v1/jobs").await.expect(200)),
        ("JobEventPage", master.get(&format!("/v1/jobs/{id}/events")).await.expect(200)),
        ("Explanation", master.get(&format!("/v1/jobs/{id}/explain")).await.expect(200)),
        ("SlavePage", master.get("/v1/slaves").await.expect(200)),
        ("NeedPage", master.get("/v1/needs").await.expect(200)),
        ("Counts", master.get("/v1/counts").await.expect(200)),
        (
            "SlaveCommand",
            master.post("/v1/slaves/mill-3/mode", json!({ "mode": "draining" })).await.expect(202),
        ),
        ("ReceiptPage", master.get("/v1/slaves/mill-3/receipts").await.expect(200)),
        ("JobCommand", master.post(&format!("/v1/jobs/{id}/abandon"), json!({})).await.expect(202)),
        ("JobCommand", master.post(&format!("/v1/jobs/{id}/retry"), json!({})).await.expect(202)),
        ("Job", master.job(&json!(id)).await),
        ("EnrollToken", master.post("/v1/enroll-tokens", json!({})).await.expect(201)),
        ("NewToken", master.post("/v1/tokens", json!({ "name": "x", "role": "client" })).await.expect(201)),
        ("TokenPage", master.get("/v1/tokens").await.expect(200)),
        ("Restored", master.post("/v1/master/confirm-restore", json!({ "force": true })).await.expect(200)),
    ] {
        check(&document, &document_of(schema), &value, schema);
    }
    let canceled = format!("/v1/orders/{}/cancel", placed.json()["id"].as_str().unwrap());
    check(
        &document,
        &document_of("OrderCommand"),
        &master.post(&canceled, json!({})).await.expect(202),
        "OrderCommand",
    );
    let problem = master.post("/v1/orders", json!({})).await.problem(400, "bad_request");
    check(&document, &document_of("Problem"), &problem, "Problem");
}

#[tokio::test]
async fn health_and_metrics_tell_what_is() {
    let (_, records) = away(JobState::Running);
    let master = Master::start(records).await;
    assert_eq!(master.ask("GET", "/livez", &[], "").await.text, "ok\n");
    let ready = master.ask("GET", "/readyz?verbose", &[], "").await;
    assert_eq!((ready.status, &*ready.text), (200, "[+]store ok\n[+]loop ok\nready\n"));
    let metrics = master.get("/metrics").await.text;
    for line in [
        "reloop_jobs{state=\"running\"} 1",
        "reloop_jobs{state=\"queued\"} 0",
        "reloop_slaves{link=\"offline\",mode=\"production\"} 1",
        "reloop_slaves{link=\"online\",mode=\"production\"} 0",
        "reloop_store_healthy 1",
        "reloop_needs_person 0",
        "# TYPE reloop_jobs gauge",
    ] {
        assert!(metrics.lines().any(|at| at == line), "{line} is not in\n{metrics}");
    }
}

#[tokio::test]
async fn what_needs_a_person_is_counted_and_listed_whatever_waits_beside_it() {
    let (uncertain, records) = away(JobState::Uncertain);
    let master = Master::start(records).await;
    let held = json!({ "program": "mill", "quantity": 30, "start": { "hold": true } });
    master.post("/v1/orders", held).await.expect(201);
    for _ in 0..3 {
        master.post("/v1/orders", json!({ "program": "mill", "quantity": 1000 })).await.expect(201);
    }
    let counts = master.get("/v1/counts").await.expect(200);
    let jobs = json!({
        "queued": 3030, "assigned": 0, "accepted": 0, "starting": 0, "running": 0, "paused": 0, "stopping": 0,
        "uncertain": 1,
    });
    let slaves = json!({ "online": 0, "offline": 1, "never": 0 });
    assert_eq!(counts, json!({ "jobs": jobs, "slaves": slaves, "needs": 31 }));
    let (mut found, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = master.get(&format!("/v1/needs?limit=7{cursor}")).await.expect(200);
        found.extend(page["data"].as_array().unwrap().iter().cloned());
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={}", next.replace(' ', "%20")),
            None => break,
        }
    }
    let uncertain = uncertain.to_string();
    let first = json!({
        "need": "uncertain", "slave": "mill-3", "slave_key": "0707070707070707", "job": uncertain,
        "text": "nobody knows how it ended: look at the machine", "action": "resolve",
        "command": format!("reloop job resolve {uncertain} succeeded|failed|canceled"),
        "risk": found[0]["risk"],
    });
    assert_eq!(found[0], first);
    assert_eq!(
        (found.len(), found[30]["need"].as_str(), found[30]["action"].as_str()),
        (31, Some("held"), Some("release"))
    );
    for cursor in ["held", "held%20job_1", "rest%200707", "held%20zz"] {
        master.get(&format!("/v1/needs?cursor={cursor}")).await.problem(400, "bad_request");
    }
}

#[test]
fn a_job_is_never_shown_as_heard_earlier_than_before() {
    let (_, records) = away(JobState::Running);
    let job = records
        .iter()
        .find_map(|record| if let Write::Job(job) = record { Some((**job).clone()) } else { None });
    let job = job.unwrap();
    let seen = |job: &Job, live: bool, heard: Option<i64>, last_contact: Option<i64>| {
        let holder = view::Holder { name: "mill-3".to_owned(), live, last_contact: last_contact.map(Time) };
        let view = view::job(job, &BTreeMap::from([(MILL, holder)]), |_| heard.map(Time));
        let freshness = serde_json::to_value(view.freshness).unwrap();
        (freshness["observed_at"].as_str().map(str::to_owned), freshness["at_least"] == true)
    };
    let at = |ms: i64| Some(view::time(Time(ms)));
    let job = Job { heard_at: Some(Time(10_000)), ..job };
    // It is quiet for 40 s, and then its link ends.
    assert_eq!(seen(&job, true, Some(50_000), Some(5_000)), (at(50_000), false));
    assert_eq!(seen(&job, false, Some(50_000), Some(50_000)), (at(50_000), false));
    // The look came before the link ended, and the last sign is asked for after that.
    assert_eq!(seen(&job, true, Some(50_000), Some(5_000)), (at(50_000), false));
    // A master that has started since does not know what it heard, but not less than the job's own facts.
    let mut restored = Job { heard_at: None, ..job };
    assert_eq!(seen(&restored, false, None, Some(5_000)), (at(5_000), true));
    restored.events.push_back(master::JobEvent {
        at: Time(20_000),
        observed_at: None,
        state: JobState::Running,
        attempt: Attempt(1),
        by: "mill-3".to_owned(),
    });
    assert_eq!(seen(&restored, false, None, Some(5_000)), (at(20_000), true));
    assert_eq!(seen(&restored, false, None, None), (at(20_000), true));
}

#[tokio::test]
async fn a_master_whose_disk_is_full_takes_no_orders_and_goes_on_answering() {
    let (id, records) = away(JobState::Running);
    let master = Master::start_with(records, u64::MAX).await;
    let refused = master.post("/v1/orders", json!({ "this": "is not even looked at" })).await;
    refused.problem(503, "storage_unavailable");
    assert_eq!(refused.headers["retry-after"], "5");
    assert_eq!(master.job(&json!(id.to_string())).await["state"], "running");
    assert_eq!(master.ask("GET", "/livez", &[], "").await.status, 200);
    let ready = master.ask("GET", "/readyz?verbose", &[], "").await;
    assert!(ready.status == 503 && ready.text.starts_with("[-]store failed: "), "{}", ready.text);
    assert!(master.get("/metrics").await.text.contains("\nreloop_store_healthy 0\n"));
}

#[tokio::test]
async fn a_restore_that_no_slave_speaks_of_is_confirmed_only_by_force() {
    let master = Master::empty().await;
    let path = "/v1/master/confirm-restore";
    let refused = master.post(path, json!({})).await;
    refused.problem(409, "nothing_to_do");
    assert!(refused.text.contains("--force"), "{}", refused.text);
    assert!(!refused.headers.contains_key(DOUBTED));
    master.post(path, json!({ "force": "yes" })).await.problem(400, "bad_request");
    assert_eq!(master.post(path, json!({ "force": true })).await.expect(200)["epoch"], 2);
}

#[tokio::test]
async fn the_page_loads_nothing_from_elsewhere() {
    let master = Master::empty().await;
    for path in ["/", "/assets/app.js", "/assets/app.css"] {
        let file = master.ask("GET", path, &[], "").await;
        assert_eq!(file.status, 200);
        assert!(file.headers["content-security-policy"].to_str().unwrap().starts_with("default-src 'self';"));
        for foreign in ["http://", "https://", "innerHTML", "style=", " onclick"] {
            assert!(!file.text.contains(foreign), "{path} has {foreign}");
        }
    }
}

/// The stream's blocks as they come.
struct Events {
    body: axum::body::BodyDataStream,
    unread: String,
}

impl Events {
    async fn open(master: &Master, last: Option<&str>) -> Self {
        let mut request =
            HttpRequest::get("/v1/events").header("authorization", format!("Bearer {}", master.admin));
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let response = master.send(request.body(Body::empty()).unwrap()).await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["x-accel-buffering"], "no");
        Self { body: response.into_body().into_data_stream(), unread: String::new() }
    }

    /// The next block's fields; none when the stream has ended.
    async fn next(&mut self) -> Option<BTreeMap<String, String>> {
        loop {
            if let Some((block, rest)) = self.unread.split_once("\n\n") {
                let fields = block.lines().filter_map(|line| line.split_once(": "));
                let fields = fields.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
                self.unread = rest.to_owned();
                return Some(fields);
            }
            let part = tokio::time::timeout(PATIENCE, self.body.next())
                .await
                .expect("an event within the patience")?;
            self.unread.push_str(std::str::from_utf8(&part.unwrap()).unwrap());
        }
    }
}

#[tokio::test]
async fn changes_are_streamed_and_a_client_that_comes_back_misses_none() {
    let master = Master::empty().await;
    let mut events = Events::open(&master, None).await;
    let begin = events.next().await.unwrap();
    assert!(!begin.contains_key("data"), "the beginning only says where it is");
    let order = master.post("/v1/orders", json!({ "program": "mill" })).await.expect(201);
    let changed = events.next().await.unwrap();
    assert_eq!(changed["event"], "job.changed");
    let job: Value = serde_json::from_str(&changed["data"]).unwrap();
    assert_eq!(job, order["jobs"][0]);
    drop(events);

    let cancel = format!("/v1/jobs/{}/cancel", job["id"].as_str().unwrap());
    master.post(&cancel, json!({})).await.expect(202);
    let mut events = Events::open(&master, Some(&changed["id"])).await;
    assert_eq!(events.next().await.unwrap()["id"], changed["id"]);
    let missed: Value = serde_json::from_str(&events.next().await.unwrap()["data"]).unwrap();
    assert_eq!(missed["state"], "canceled");
    let mut events = Events::open(&master, Some(&begin["id"])).await;
    let from_begin = [events.next().await.unwrap(), events.next().await.unwrap()];
    assert_eq!(from_begin[1]["id"], changed["id"]);
}

#[tokio::test]
async fn a_client_that_was_away_too_long_is_told_to_look_again() {
    let master = Master::empty().await;
    for last in ["17", "no number"] {
        let mut events = Events::open(&master, Some(last)).await;
        assert_eq!(events.next().await.unwrap()["event"], "reset");
        master.post("/v1/orders", json!({ "program": "mill" })).await.expect(201);
        assert_eq!(events.next().await.unwrap()["event"], "job.changed");
    }
}

#[tokio::test]
async fn a_stream_ends_with_its_token() {
    let master = Master::empty().await;
    let (info, text) = master.tokens.create("wall", Role::Viewer).unwrap();
    let mut events = Events::open(&Master { admin: text, ..master.again() }, None).await;
    events.next().await.unwrap();
    master.tokens.revoke(&info.id).unwrap();
    master.post("/v1/orders", json!({ "program": "mill" })).await.expect(201);
    assert_eq!(events.next().await, None);
}

impl Master {
    /// The same master, for another client.
    fn again(&self) -> Self {
        Self {
            router: self.router.clone(),
            tokens: Arc::clone(&self.tokens),
            admin: self.admin.clone(),
            _dir: tempfile::tempdir().unwrap(),
        }
    }
}
