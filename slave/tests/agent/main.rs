//! The agent as a process, against a master that is only a script: what crosses the link, in which order, and what
//! survives the end of a link or of the agent.
#![allow(clippy::unwrap_used, reason = "all of it is test")]
#![allow(unreachable_pub, reason = "the modules are used here only")]

mod master;
mod process;

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use futures_util::StreamExt as _;
use reloop_node::clock::wall_ms;
use reloop_protocol::id::{Attempt, Epoch, Generation, ReportSeq, Run, SlaveKey};
use reloop_protocol::job::State;
use reloop_protocol::message::{Ask, CloseCode, Forget, Message, Question, ReasonCode, Reply};
use reloop_protocol::spec::{CancelMode, Desired, StartRule};
use reloop_protocol::time::Time;
use reloop_protocol::wire::SUBPROTOCOL;
use reloop_slave::local;
use rustix::process::{Resource, Rlimit, Signal, kill_process, prlimit};
use serde_json::Value;
use tokio::time::{Instant, timeout};

use master::{AHEAD_MS, MASTER, Master, bake, challenge, desired_state, job, set_desired};
use process::{Agent, PATIENCE, until};

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

/// Inputs that are no step of the rules, at the very moment when a job comes due, do not keep it from beginning.
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
    assert_eq!(agent.bakes(), 3);
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
    assert_eq!(agent.bakes(), 1, "it was begun once");
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
    assert_eq!(agent.bakes(), 1);
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
    // The machine keeps the output for longer than the slave holds the job.
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
    // A connection that was being made meanwhile may still be without it.
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
    assert_eq!(agent.bakes(), 1);
}

#[tokio::test]
async fn a_check_looks_at_everything_and_changes_nothing() {
    let master = Master::new().await;
    let agent = Agent::new(&master.url());
    let serve = async {
        let mut link = master.accept().await;
        link.send(challenge(Epoch(3), [0; 32])).await;
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
    // Without a listener the checks, which dial, fail at once.
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

#[tokio::test]
async fn each_state_directory_has_a_key_of_its_own() {
    let mut master = Master::new().await;
    let mut keys: Vec<SlaveKey> = vec![];
    for _ in 0..2 {
        let agent = Agent::started(&master.url());
        let (_link, hello) = master.hello().await;
        keys.push(hello.key);
        // Before its link: an agent whose link drops dials again, and the next one would not be the first to dial.
        drop(agent);
    }
    assert_ne!(keys[0], keys[1]);
}
