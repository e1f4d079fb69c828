//! The agent as a process, against a master that is only a script: what crosses the link, in which order, and what
//! survives when it doesn't.
#![allow(clippy::unwrap_used, reason = "all of it is test")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use reloop_node::clock::wall_ms;
use reloop_protocol::id::{
    Attempt, Commit, Epoch, Generation, Incarnation, JobId, MasterId, OrderId, ReportSeq, Run, Session,
    SlaveKey,
};
use reloop_protocol::job::State;
use reloop_protocol::message::{
    Answer, Ask, Challenge, CloseCode, Forget, Hello, MasterBinding, Message, Mode, OperatingMode, PROTOCOL,
    Question, ReasonCode, Refuse, Reply, Report, Ruling, Settled, Welcome,
};
use reloop_protocol::spec::{CancelMode, Desired, DesiredState, Spec, StartRule};
use reloop_protocol::time::Time;
use reloop_protocol::wire::{self, Frame, SUBPROTOCOL, Signature};
use reloop_slave::local;
use ring::signature::{ED25519, UnparsedPublicKey};
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep, timeout};
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::http::{HeaderValue, header};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode as WsCode;
use tokio_tungstenite::tungstenite::{self};
use tokio_tungstenite::{WebSocketStream, accept_hdr_async};

/// Far longer than anything here takes, for the sake of a box that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(30);

const MASTER: MasterId = MasterId([7; 16]);

struct Agent {
    dir: TempDir,
    master: String,
    child: Option<Child>,
}

impl Agent {
    fn new(master: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("boot"), "00000000-0000-0000-0000-000000000001\n").unwrap();
        Self { dir, master: master.to_owned(), child: None }
    }

    fn started(master: &str) -> Self {
        let mut agent = Self::new(master);
        agent.start();
        agent
    }

    fn state_dir(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let config = self.dir.path().join("slave.toml");
        let (state_dir, boot) = (self.state_dir(), self.dir.path().join("boot"));
        let text = format!(
            "name = \"mill-3\"\nmaster = {:?}\nstate_dir = {state_dir:?}\nboot_id_file = {boot:?}\n\
             labels = {{ material = \"pla\" }}\n\
             [link]\nbackoff_min_ms = 5\nbackoff_max_ms = 50\n\
             [programs.bake]\ndriver = \"simulated\"\n\
             [programs.say]\ndriver = \"process\"\ncommand = [\"/bin/echo\", \"{{word}}\"]\n\
             [programs.say.params]\nword = {{ pattern = \"[a-z]+\" }}\n",
            self.master
        );
        fs::write(&config, text).unwrap();
        let mut command = Command::new("/bin/sh");
        // A write past the limit is an error that way, and not the end.
        command.args(["-c", "trap '' XFSZ; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_reloop-slave")]);
        command.args(arguments).arg("--config").arg(config).env("RELOOP_LOG", "debug");
        for name in ["NAME", "MASTER", "STATE_DIR", "ENROLL_TOKEN_FILE"] {
            command.env_remove(format!("RELOOP_SLAVE_{name}"));
        }
        command
    }

    fn start(&mut self) {
        let log = File::options().create(true).append(true).open(self.dir.path().join("log")).unwrap();
        let child = self.command(&["run"]).stdin(Stdio::null()).stderr(log).spawn().unwrap();
        self.child = Some(child);
    }

    fn pid(&self) -> Pid {
        Pid::from_child(self.child.as_ref().unwrap())
    }

    fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    async fn stop(&mut self) -> ExitStatus {
        kill_process(self.pid(), Signal::TERM).unwrap();
        self.ended().await
    }

    async fn ended(&mut self) -> ExitStatus {
        let mut child = self.child.take().unwrap();
        // An agent whose store has failed stays for as long as `PATIENCE`: the master is to hear why.
        let deadline = Instant::now() + PATIENCE * 2;
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "in vain: the agent ends");
            sleep(Duration::from_millis(10)).await;
        }
    }

    async fn run(&self, arguments: &[&str]) -> Output {
        let mut command = self.command(arguments);
        tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
    }

    /// A local command's exit status and words.
    async fn says(&self, arguments: &[&str]) -> (i32, String) {
        let output = self.run(arguments).await;
        let text = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap(), String::from_utf8(text).unwrap())
    }

    async fn status(&self) -> Value {
        let output = self.run(&["status", "--json"]).await;
        serde_json::from_slice(&output.stdout).unwrap_or(Value::Null)
    }

    async fn status_until(&self, what: &str, mut holds: impl FnMut(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = self.status().await;
            if holds(&status) {
                return status;
            }
            assert!(Instant::now() < deadline, "in vain: {what}: {status}");
            sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        if std::thread::panicking() {
            let log = fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
            println!("--- the agent's log\n{log}");
        }
    }
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "in vain: {what}");
        sleep(Duration::from_millis(10)).await;
    }
}

/// The master's clock is ahead of the slave's.
const AHEAD_MS: i64 = 5000;

struct Master {
    listener: TcpListener,
    challenges: u8,
}

struct Link {
    socket: WebSocketStream<TcpStream>,
    session: Session,
}

impl Master {
    async fn new() -> Self {
        Self { listener: TcpListener::bind("127.0.0.1:0").await.unwrap(), challenges: 0 }
    }

    fn url(&self) -> String {
        format!("ws://{}/v1/link", self.listener.local_addr().unwrap())
    }

    /// The next slave that dials, answered with this subprotocol.
    async fn accept_as(&self, subprotocol: Option<&'static str>) -> Link {
        let (tcp, _) = timeout(PATIENCE, self.listener.accept()).await.expect("nobody dials").unwrap();
        #[expect(clippy::result_large_err, reason = "the library wants it so")]
        let answer = |request: &Request, mut response: Response| -> Result<Response, ErrorResponse> {
            assert_eq!(request.uri().path(), "/v1/link");
            assert_eq!(request.headers()[header::SEC_WEBSOCKET_PROTOCOL], SUBPROTOCOL);
            if let Some(subprotocol) = subprotocol {
                let value = HeaderValue::from_static(subprotocol);
                response.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, value);
            }
            Ok(response)
        };
        let socket = timeout(PATIENCE, accept_hdr_async(tcp, answer)).await.unwrap().unwrap();
        Link { socket, session: Session(0) }
    }

    async fn accept(&self) -> Link {
        self.accept_as(Some(SUBPROTOCOL)).await
    }

    /// A connection up to the slave's Hello, whose signature is right.
    async fn hello(&mut self) -> (Link, Hello) {
        let mut link = self.accept().await;
        self.challenges += 1;
        let nonce = [self.challenges; 32];
        link.send(Message::Challenge(Challenge {
            protocol: PROTOCOL,
            master: MASTER,
            epoch: Epoch(1),
            commit: Commit(1),
            begun: vec![],
            nonce,
            time: Time(wall_ms() + AHEAD_MS),
        }))
        .await;
        let Frame { session, message, signature, .. } = link.frame().await;
        let Message::Hello(hello) = message else { panic!("no Hello: {message:?}") };
        assert_eq!(session, hello.session);
        let Signature(first, second) = signature.expect("a Hello is signed");
        let key = UnparsedPublicKey::new(&ED25519, hello.key.0);
        let signed = wire::signed_bytes(&nonce, &hello);
        key.verify(&signed, &[first, second].concat()).expect("the signature is the key's, over this nonce");
        link.session = session;
        (link, *hello)
    }

    /// A connection on which all is settled, with these rulings.
    async fn live(&mut self, rulings: Vec<Ruling>) -> (Link, Hello, Settled) {
        let (mut link, hello) = self.hello().await;
        link.send(Message::Welcome(Welcome {
            protocol: 1,
            session: link.session,
            binding: MasterBinding {
                master: MASTER,
                epoch: Epoch(1),
                incarnation: Incarnation::default(),
                commit: Commit(1),
            },
            operating_mode: OperatingMode { generation: Generation(0), mode: Mode::Production },
            rulings,
        }))
        .await;
        let Message::Settled(settled) = link.next().await else { panic!("no Settled") };
        assert_eq!(settled.session, hello.session);
        (link, hello, settled)
    }
}

impl Link {
    async fn send(&mut self, message: Message) {
        let frame = Frame { session: self.session, commit: Commit(0), message, signature: None };
        self.socket.send(tungstenite::Message::Binary(wire::encode(&frame).into())).await.unwrap();
    }

    /// The next frame that is no heartbeat.
    async fn frame(&mut self) -> Frame {
        loop {
            let message = timeout(PATIENCE, self.socket.next()).await.expect("the slave is silent");
            match message.expect("the slave hung up").unwrap() {
                tungstenite::Message::Binary(bytes) => {
                    let frame: Frame = wire::decode(&bytes, wire::MAX_MESSAGE).unwrap();
                    if !matches!(frame.message, Message::Ping | Message::Pong) {
                        return frame;
                    }
                }
                other => panic!("not a frame: {other:?}"),
            }
        }
    }

    async fn next(&mut self) -> Message {
        let frame = self.frame().await;
        assert_eq!(frame.session, self.session);
        assert_eq!(frame.signature, None, "only a Hello is signed");
        frame.message
    }

    /// The next report that is in this state; those before it go into `seen`.
    async fn report(&mut self, state: State, seen: &mut Vec<State>) -> Report {
        loop {
            if let Message::Report(report) = self.next().await {
                if seen.last() != Some(&report.state) {
                    seen.push(report.state);
                }
                if report.state == state {
                    return report;
                }
            }
        }
    }

    async fn answer(&mut self) -> Answer {
        loop {
            match self.next().await {
                Message::Answer(answer) => return answer,
                Message::Report(_) | Message::Machine(_) => {}
                other => panic!("no answer: {other:?}"),
            }
        }
    }

    /// With which code the slave hangs up.
    async fn close_code(&mut self) -> Option<u16> {
        loop {
            match timeout(PATIENCE, self.socket.next()).await.expect("the slave is silent") {
                Some(Ok(tungstenite::Message::Close(frame))) => return frame.map(|frame| frame.code.into()),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return None,
            }
        }
    }

    async fn refuse(mut self, code: CloseCode) {
        self.say_refused(code).await;
        self.hang_up(code).await;
    }

    async fn say_refused(&mut self, code: CloseCode) {
        let refuse = Refuse { code, text: REFUSAL.to_owned(), retry_after_ms: None };
        self.send(Message::Refuse(refuse)).await;
    }

    async fn hang_up(mut self, code: CloseCode) {
        let close = CloseFrame { code: WsCode::from(code.number()), reason: REFUSAL.into() };
        // The slave may have hung up already.
        let _ = self.socket.close(Some(close)).await;
        self.close_code().await;
    }
}

/// Why a master refuses a slave.
const REFUSAL: &str = "a person has to do something";

fn job(number: u64) -> JobId {
    JobId::from_parts(number, 1)
}

fn desired_state(id: JobId, program: &str, params: &[(&str, &str)], start: StartRule) -> DesiredState {
    let params = params.iter().map(|(name, value)| (name.to_string(), value.to_string()));
    let spec = Spec {
        order: OrderId::from_parts(1, 1),
        name: None,
        program: program.to_owned(),
        params: params.collect::<BTreeMap<_, _>>(),
        max_runtime: None,
        on_overdue: Default::default(),
        on_interrupt: Default::default(),
    };
    let digest = spec.digest();
    DesiredState {
        job: id,
        attempt: Attempt(1),
        generation: Generation(1),
        digest,
        spec: Some(spec),
        desired: Desired::Run,
        start,
    }
}

fn bake(id: JobId, seconds: &str) -> DesiredState {
    desired_state(id, "bake", &[("seconds", seconds)], StartRule::default())
}

fn set_desired(desired_state: &DesiredState, generation: u32, desired: Desired) -> Message {
    Message::DesiredState(DesiredState {
        generation: Generation(generation),
        spec: None,
        desired,
        ..desired_state.clone()
    })
}

/// How many runs the simulated machine remembers, dismissed or not.
fn bakes(agent: &Agent) -> usize {
    let file = agent.state_dir().join("machines/bake.json");
    let memory: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    let past = fs::read_to_string(file.with_extension("past")).unwrap_or_default();
    let past = past.lines().filter(|line| !line.is_empty()).map(|line| serde_json::from_str(line).unwrap());
    let runs = memory["runs"].as_array().unwrap().iter().cloned().chain(past);
    // The same run that began at another moment began twice.
    let start = |run: Value| (run["key"].to_string(), run["trace"]["begun"]["started_at_ms"].as_i64());
    runs.map(start).collect::<BTreeSet<_>>().len()
}

#[tokio::test]
async fn an_offered_job_is_taken_runs_and_is_forgotten_once_its_outcome_is_told() {
    let mut master = Master::new().await;
    let agent = Agent::started(&master.url());
    let (mut link, hello, settled) = master.live(vec![]).await;
    assert_eq!((hello.name.as_str(), hello.binding, hello.token), ("mill-3", None, None));
    assert_eq!((hello.programs, hello.capacity), (vec!["bake".to_owned(), "say".to_owned()], 4));
    assert_eq!((hello.rows, settled.reports, settled.declined), (vec![], vec![], vec![]));
    assert_eq!(hello.machine.attention, None, "a new slave needs nobody");

    link.send(Message::DesiredState(bake(job(1), "0.2"))).await;
    let mut seen = vec![];
    let report = link.report(State::Succeeded, &mut seen).await;
    assert_eq!(seen, [State::Starting, State::Running, State::Succeeded]);
    assert_eq!((report.run.0, report.progress), (1, Some(1000)));
    let (started, ended) = (report.started_at.unwrap(), report.ended_at.unwrap());
    assert!(started < ended && started.0 > wall_ms() + 2000, "times are by the master's clock");

    link.send(Message::Forget(Forget { job: job(1), attempt: Attempt(1), seq: report.seq })).await;
    agent
        .status_until("the job is forgotten", |status| {
            status["jobs"] == Value::Array(vec![]) && status["remembered"] == 1
        })
        .await;
}

/// What the loop hears at the very moment when a job comes due, and what is no step of the rules, keeps nothing from beginning.
#[tokio::test]
async fn a_job_that_comes_due_offline_begins_whatever_the_agent_is_asked_at_that_moment() {
    let mut master = Master::new().await;
    let agent = Agent::started(&master.url());
    let (mut link, ..) = master.live(vec![]).await;
    for number in 1..=3 {
        let soon = StartRule { not_before: Some(Time(wall_ms() + AHEAD_MS + 700)), ..StartRule::default() };
        link.send(Message::DesiredState(desired_state(job(number), "bake", &[("seconds", "0")], soon))).await;
        link.report(State::Accepted, &mut vec![]).await;
    }
    drop((link, master));
    let state_dir = agent.state_dir();
    let asking = tokio::task::spawn_blocking(move || {
        let deadline = Instant::now() + PATIENCE;
        let mut said = Value::Null;
        while Instant::now() < deadline {
            let answer = local::call(&state_dir, &local::Request::Status).unwrap();
            said = serde_json::to_value(answer).unwrap();
            if said.to_string().matches("\"succeeded\"").count() == 3 {
                return said;
            }
        }
        panic!("a job has not begun: {said}");
    });
    asking.await.unwrap();
    assert_eq!(bakes(&agent), 3);
}

#[tokio::test]
async fn what_was_accepted_is_on_disk() {
    let mut master = Master::new().await;
    let mut agent = Agent::started(&master.url());
    let (mut link, first, _) = master.live(vec![]).await;
    let later = StartRule { not_before: Some(Time(wall_ms() + 3_600_000)), ..StartRule::default() };
    link.send(Message::DesiredState(desired_state(job(1), "bake", &[], later))).await;
    let report = link.report(State::Accepted, &mut vec![]).await;
    agent.kill();
    agent.start();
    let (_link, second, _) = master.live(vec![]).await;
    assert_eq!((second.key, second.store), (first.key, first.store));
    assert_eq!(second.session, first.session.next());
    let [row] = second.rows[..] else { panic!("{:?}", second.rows) };
    assert_eq!((row.job, row.state), (job(1), State::Accepted));
    assert!(row.seq > report.seq);
}

#[tokio::test]
async fn a_link_that_drops_changes_nothing_about_a_running_job() {
    let mut master = Master::new().await;
    let agent = Agent::started(&master.url());
    let (mut link, first, _) = master.live(vec![]).await;
    let desired_state = bake(job(1), "3600");
    link.send(Message::DesiredState(desired_state.clone())).await;
    let report = link.report(State::Running, &mut vec![]).await;
    drop(link);
    let (mut link, second, _) = master.live(vec![]).await;
    assert!(second.session > first.session);
    let [row] = second.rows[..] else { panic!("{:?}", second.rows) };
    assert_eq!((row.job, row.state, row.generation), (job(1), State::Running, Generation(1)));
    assert!(row.seq >= report.seq);
    assert_eq!(bakes(&agent), 1, "it was begun once");
    link.send(set_desired(&desired_state, 2, Desired::Cancel(CancelMode::Now))).await;
    let report = link.report(State::Canceled, &mut vec![]).await;
    assert_eq!((report.run.0, report.generation), (1, Generation(2)));
}

#[tokio::test]
async fn the_end_of_the_agent_is_not_the_end_of_the_job() {
    let mut master = Master::new().await;
    let mut agent = Agent::started(&master.url());
    let (mut link, ..) = master.live(vec![]).await;
    link.send(Message::DesiredState(bake(job(1), "3600"))).await;
    link.report(State::Running, &mut vec![]).await;
    assert_eq!(agent.says(&["run"]).await.0, 74, "a second agent on the same state does not start");
    let (ended, code) = tokio::join!(agent.stop(), link.close_code());
    assert_eq!((ended.code(), code), (Some(0), Some(CloseCode::GoingAway.number())));
    assert!(!agent.state_dir().join("control.sock").exists());
    for _ in 0..2 {
        agent.start();
        let (_link, hello, _) = master.live(vec![]).await;
        let states: Vec<_> = hello.rows.iter().map(|row| (row.job, row.state)).collect();
        assert_eq!(states, [(job(1), State::Running)]);
        agent.kill();
    }
    assert_eq!(bakes(&agent), 1);
}

#[tokio::test]
async fn what_the_programs_cannot_do_is_declined_for_good_and_output_is_answered() {
    let mut master = Master::new().await;
    let _agent = Agent::started(&master.url());
    let (mut link, ..) = master.live(vec![]).await;
    let rule = StartRule::default();
    for (number, desired_state, code) in [
        (1, desired_state(job(1), "fly", &[], rule), ReasonCode::UnknownProgram),
        (2, desired_state(job(2), "say", &[("word", "NO; rm")], rule), ReasonCode::BadParams),
        (3, desired_state(job(3), "say", &[("word", &"x".repeat(40_000))], rule), ReasonCode::BadParams),
    ] {
        link.send(Message::DesiredState(desired_state)).await;
        let Message::Declined(declined) = link.next().await else { panic!("not declined") };
        assert_eq!((declined.job, declined.reason.code, declined.for_good), (job(number), code, true));
    }
    link.send(Message::DesiredState(desired_state(job(4), "say", &[("word", "hello")], rule))).await;
    link.report(State::Succeeded, &mut vec![]).await;
    // Held or not: the machine keeps it for longer.
    link.send(Message::Forget(Forget {
        job: job(4),
        attempt: Attempt(1),
        seq: ReportSeq { start: 9, count: 9 },
    }))
    .await;
    for (offset, limit, expected) in
        [(None, 100, (0, "hello\n")), (None, 3, (3, "lo\n")), (Some(1), 2, (1, "el"))]
    {
        let question = Question::Log { job: job(4), attempt: Attempt(1), run: Run(1), offset, limit };
        link.send(Message::Ask(Ask { id: 9, question })).await;
        let answer = link.answer().await;
        let bytes = expected.1.as_bytes().to_vec();
        assert_eq!((answer.id, answer.answer), (9, Reply::Log { offset: expected.0, total: 6, bytes }));
    }
}

#[tokio::test]
async fn people_at_the_machine_need_no_link() {
    let mut master = Master::new().await;
    let agent = Agent::started(&master.url());
    let (mut link, ..) = master.live(vec![]).await;
    link.send(Message::DesiredState(bake(job(1), "3600"))).await;
    link.report(State::Running, &mut vec![]).await;
    assert_eq!(agent.status().await["next"], Value::Null, "nothing comes by itself");
    let mut deferred = bake(job(2), "1");
    deferred.start.not_before = Some(Time(4_102_444_800_000));
    link.send(Message::DesiredState(deferred)).await;
    link.report(State::Accepted, &mut vec![]).await;
    drop((link, master));
    let status = agent.status_until("the link is down", |status| status["link"]["state"] == "offline").await;
    assert_eq!(
        (&status["jobs"][0]["state"], &status["clock"]["source"]),
        (&"running".into(), &"master".into())
    );

    assert_eq!(agent.says(&["ready"]).await.0, 1);
    assert_eq!(agent.says(&["pause"]).await.0, 0);
    agent.status_until("it is paused", |status| status["jobs"][0]["state"] == "paused").await;
    assert_eq!(agent.says(&["resume"]).await.0, 0);
    agent.status_until("it goes on", |status| status["jobs"][0]["state"] == "running").await;
    assert_eq!(agent.says(&["resolve", "succeeded"]).await.0, 1);
    assert_eq!(agent.says(&["resolve", &job(9).to_string(), "failed"]).await.0, 1);
    assert_eq!(agent.says(&["local", "on"]).await.0, 0);
    assert_eq!(agent.status().await["machine"]["local_lock"], true);
    assert_eq!(agent.says(&["stop", "--now"]).await.0, 0);
    let status = agent.status_until("it is stopped", |status| status["jobs"][0]["state"] == "canceled").await;
    assert_eq!(status["jobs"][0]["reason"], "stopped_locally");
    let (code, text) = agent.says(&["status"]).await;
    assert_eq!(code, 0);
    for expected in ["mill-3", "offline", "canceled", "local off", "healthy", "a job's time comes"] {
        assert!(text.contains(expected), "{expected:?} is not in {text}");
    }
}

#[tokio::test]
async fn a_command_without_an_agent_says_how_to_start_one() {
    let agent = Agent::new("ws://127.0.0.1:1/v1/link");
    let (code, text) = agent.says(&["status"]).await;
    assert_eq!(code, 6);
    assert!(text.contains("reloop-slave run"), "{text}");
    let bad = Agent::new("http://127.0.0.1:1/");
    for verb in ["run", "check"] {
        let (code, text) = bad.says(&[verb]).await;
        assert_eq!(code, 78);
        assert!(text.contains("slave.toml") && text.contains("master"), "{text}");
    }
    // A local command asks no master.
    let (code, text) = bad.says(&["status"]).await;
    assert_eq!(code, 6, "{text}");
}

#[tokio::test]
async fn a_refused_slave_tries_on_and_is_taken_in_with_a_token() {
    let mut master = Master::new().await;
    let mut agent = Agent::started(&master.url());
    let mut keys = vec![];
    // Whether the slave hears the refusal first or the close that comes with it.
    for heard in ["both", "refusal", "close"] {
        let (mut link, hello) = master.hello().await;
        keys.push((hello.key, hello.token));
        match heard {
            "refusal" => {
                link.say_refused(CloseCode::NotEnrolled).await;
                assert_eq!(link.close_code().await, Some(CloseCode::NotEnrolled.number()));
            }
            "close" => link.hang_up(CloseCode::NotEnrolled).await,
            _ => link.refuse(CloseCode::NotEnrolled).await,
        }
    }
    assert_eq!(keys, vec![(keys[0].0, None::<String>); 3]);
    let file = agent.dir.path().join("token");
    fs::write(&file, "a-token\n").unwrap();
    let (code, text) = agent.says(&["enroll", "--token-file", file.to_str().unwrap()]).await;
    assert_eq!(code, 0, "{text}");
    let kept = agent.state_dir().join("enroll.token");
    assert!(kept.exists());
    // One that was under way may still be without it.
    let token = loop {
        let (link, hello) = master.hello().await;
        link.refuse(CloseCode::NotEnrolled).await;
        if hello.token.is_some() {
            break hello.token;
        }
    };
    assert_eq!(token.as_deref(), Some("a-token"));
    let (link, hello, _) = master.live(vec![]).await;
    assert_eq!(hello.token.as_deref(), Some("a-token"));
    until("the token has done its work", || !kept.exists()).await;
    drop(link);
    let (_link, hello, _) = master.live(vec![]).await;
    assert_eq!(hello.token, None);
    assert_eq!(hello.binding.map(|binding| binding.master), Some(MASTER));
    agent.kill();
    let log = fs::read_to_string(agent.dir.path().join("log")).unwrap();
    assert!(log.contains("step") && !log.contains("a-token"), "a token is never logged");
    assert_eq!(log.matches("enroll-token").count(), 1, "it is said once what to do");
}

#[tokio::test]
async fn who_does_not_speak_the_subprotocol_is_told_nothing() {
    let mut master = Master::new().await;
    let agent = Agent::started(&master.url());
    for subprotocol in [None, Some("other.v1")] {
        let mut link = master.accept_as(subprotocol).await;
        let heard = timeout(PATIENCE, link.socket.next()).await.expect("the slave stays");
        assert!(!matches!(heard, Some(Ok(_))), "{heard:?}");
    }
    let trouble =
        |status: &Value| status["link"]["trouble"].as_str().is_some_and(|text| text.contains(SUBPROTOCOL));
    agent.status_until("the status says why", trouble).await;
    master.live(vec![]).await;
}

#[tokio::test]
async fn a_store_that_was_lost_makes_the_slave_ask_for_a_person() {
    let mut master = Master::new().await;
    let mut agent = Agent::started(&master.url());
    let (link, first, _) = master.live(vec![]).await;
    agent.kill();
    drop(link);
    fs::remove_dir_all(agent.state_dir().join("store")).unwrap();
    agent.start();
    let (_link, second, _) = master.live(vec![]).await;
    assert_eq!(first.key, second.key);
    assert_ne!(first.store, second.store);
    assert_eq!(second.machine.attention.map(|attention| attention.name()), Some("store_replaced"));
    assert_eq!(agent.says(&["clear"]).await.0, 0);
    assert_eq!(agent.status().await["machine"]["attention"], Value::Null);
}

#[tokio::test]
async fn a_store_that_fails_ends_the_link_and_the_agent_but_not_the_job() {
    let mut master = Master::new().await;
    let mut agent = Agent::started(&master.url());
    let (mut link, ..) = master.live(vec![]).await;
    link.send(Message::DesiredState(bake(job(1), "3600"))).await;
    link.report(State::Running, &mut vec![]).await;
    let nothing = Rlimit { current: Some(0), maximum: None };
    prlimit(Some(agent.pid()), Resource::Fsize, nothing).unwrap();
    let (code, text) = agent.says(&["local", "on"]).await;
    assert!(code == 1 && text.contains("cannot write") && text.contains("machine goes on"), "{text}");
    assert_eq!(link.close_code().await, Some(CloseCode::Storage.number()));
    let status = agent.status().await;
    assert_eq!(
        (&status["store"]["healthy"], &status["jobs"][0]["state"]),
        (&false.into(), &"running".into())
    );
    assert_eq!(agent.says(&["pause"]).await.0, 1, "nothing is decided any more");
    assert_eq!(timeout(Duration::from_secs(60), agent.ended()).await.unwrap().code(), Some(74));
    agent.start();
    let (_link, hello, _) = master.live(vec![]).await;
    assert_eq!(hello.rows.iter().map(|row| row.state).collect::<Vec<_>>(), [State::Running]);
    assert_eq!(bakes(&agent), 1);
}

#[tokio::test]
async fn a_check_looks_at_everything_and_changes_nothing() {
    let master = Master::new().await;
    let agent = Agent::new(&master.url());
    let serve = async {
        let mut link = master.accept().await;
        link.send(Message::Challenge(Challenge {
            protocol: PROTOCOL,
            master: MASTER,
            epoch: Epoch(3),
            commit: Commit(1),
            begun: vec![],
            nonce: [0; 32],
            time: Time(wall_ms()),
        }))
        .await;
        link
    };
    let ((code, text), _link) = tokio::join!(agent.says(&["check"]), serve);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains(&MASTER.to_string()) && text.contains("epoch 3"), "{text}");
    assert!(!agent.state_dir().exists());
    drop(master);
    let (code, text) = agent.says(&["check"]).await;
    assert!(code == 1 && text.contains("NOT OK") && text.contains("can't be reached"), "{text}");
    assert!(!agent.state_dir().exists());
}

#[tokio::test]
async fn the_supervisor_is_told_when_the_agent_is_ready_alive_and_stopping() {
    let mut agent = Agent::new("ws://127.0.0.1:1/v1/link");
    let path = agent.dir.path().join("notify");
    let supervisor = tokio::net::UnixDatagram::bind(&path).unwrap();
    let mut command = agent.command(&["run"]);
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "20000").stderr(Stdio::null());
    agent.child = Some(command.spawn().unwrap());
    let heard = async |wanted: &str| {
        let mut buffer = [0; 256];
        loop {
            let length = timeout(PATIENCE, supervisor.recv(&mut buffer)).await.expect("no word").unwrap();
            if buffer[..length].starts_with(wanted.as_bytes()) {
                return;
            }
        }
    };
    heard("READY=1").await;
    heard("WATCHDOG=1").await;
    heard("WATCHDOG=1").await;
    kill_process(agent.pid(), Signal::TERM).unwrap();
    heard("STOPPING=1").await;
    assert_eq!(agent.ended().await.code(), Some(0));
}

#[tokio::test]
async fn the_clients_master_is_not_the_slaves_and_local_commands_need_none() {
    let mut master = Master::new().await;
    let mut agent = Agent::new(&master.url());
    let mut command = agent.command(&["run"]);
    command.env("RELOOP_MASTER", "http://reloop.example.com").stderr(Stdio::null());
    agent.child = Some(command.spawn().unwrap());
    let _link = master.live(vec![]).await;
    // So that a check, which dials, is not made to wait.
    drop(master);
    for other in ["http://reloop.example.com", "wss://reloop.example.com/v1/link"] {
        let says = async |arguments: &[&str], name: &str| {
            let mut command = agent.command(arguments);
            command.env(name, other);
            let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
            let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
            (output.status.code().unwrap(), text)
        };
        for name in ["RELOOP_MASTER", "RELOOP_SLAVE_MASTER"] {
            for arguments in [&["status"][..], &["local", "on"], &["ready"]] {
                let (code, text) = says(arguments, name).await;
                assert!(code < 2, "{name} {arguments:?}: {code} {text}");
            }
        }
        let (code, text) = says(&["check"], "RELOOP_MASTER").await;
        assert!(code < 2 && text.contains("127.0.0.1"), "{text}");
    }
    let mut command = agent.command(&["check"]);
    let output = command.env("RELOOP_SLAVE_MASTER", "http://reloop.example.com").output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(78), "{text}");
    assert!(text.contains("environment") && !text.contains("slave.toml"), "{text}");
}

#[test]
fn a_token_can_come_through_the_standard_input() {
    let agent = Agent::new("ws://127.0.0.1:1/v1/link");
    let mut command = agent.command(&["enroll", "--token-file", "-"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"secret\n").unwrap();
    assert!(child.wait().unwrap().success());
    let kept: &Path = &agent.state_dir().join("enroll.token");
    assert_eq!(fs::read_to_string(kept).unwrap(), "secret");
}

/// Two slaves are two keys.
#[tokio::test]
async fn each_state_directory_has_a_key_of_its_own() {
    let mut master = Master::new().await;
    let mut keys: Vec<SlaveKey> = vec![];
    for _ in 0..2 {
        let _agent = Agent::started(&master.url());
        keys.push(master.hello().await.1.key);
    }
    assert_ne!(keys[0], keys[1]);
}
