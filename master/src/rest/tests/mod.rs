//! The interface as a client meets it: the whole router, over a real loop and a real store.

mod access;
mod document;
mod events;
mod jobs;
mod numbers;
mod orders;
mod slaves;

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, Request as HttpRequest};
use axum::response::Response;
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use reloop_api::Role;
use reloop_node::store::{Options, Store};
use reloop_protocol::id::{Attempt, Epoch, Generation, MasterId, NewestId, ReportSeq, Run, Session, StoreId};
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

/// The master's answer to a request.
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
        let settings = Settings { enrollment: Enrollment::Token, placement: Default::default() };
        let mut ops = Vec::new();
        records.iter().for_each(|record| crate::records::ops(record, &mut ops));
        let (done, written) = tokio::sync::oneshot::channel();
        store.commit(ops, move |result| drop(done.send(result)));
        written.await.unwrap().unwrap();
        let state = master::recover(settings, MasterId([1; 16]), records);
        let (node, handle, inbox) = crate::driver::new(state, store.clone(), PATIENCE);
        handle.note_stored_ids().await.unwrap();
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

fn mill() -> SlaveRecord {
    SlaveRecord {
        starts: 1,
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
        deferred_capacity: 16,
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
        other_attempts: Default::default(),
    }
}

/// A job that a slave has, which is away.
fn away(state: JobState) -> (JobId, Vec<Write>) {
    let body = json!({ "program": "mill", "name": "bracket", "params": { "file": "a.nc" } });
    let now = Time(1_700_000_000_000);
    let new_ids = |jobs| crate::handle::new_ids(&mut NewestId::default(), now, jobs);
    let order = order::parse(Some(body), now, new_ids).unwrap();
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
