//! Network faults while a job runs: the job is not disturbed.
#![cfg(test)]
#![allow(clippy::unwrap_used, reason = "all of it is test")]

use std::time::Duration;

use reloop_rig::client::Client;
use reloop_rig::factory::{Factory, gated, has_flag, in_ms, ms, now_ms, printed, printer, starting, work};
use reloop_rig::nginx::Nginx;
use reloop_rig::process::{LinkSettings, MasterOptions};
use reloop_rig::proxy::{Close, Direction, Proxy};
use reloop_rig::wait::{PATIENCE, eventually};
use serde_json::{Value, json};

#[tokio::test]
async fn a8_a_job_that_ends_while_the_link_is_cut_is_recorded_with_its_own_time_and_then_forgotten() {
    let f = Factory::new().await;
    let job = f.running(printer("cut", 0)).await;
    f.nets[0].cut(Close::Reset);
    f.offline(0).await;
    let seen = f.job(&job).await;
    assert_eq!(seen["state"], "running", "a cut says nothing about a job");
    assert_eq!((has_flag(&seen, "stale"), &seen["freshness"]["link"]), (true, &json!("offline")), "{seen:#}");
    f.slaves[0].open_gate("cut");
    let ended = f.held_as(0, &job, "succeeded").await;

    let back = now_ms();
    f.nets[0].pass();
    let seen = f.finish(&job, "cut").await;
    assert_eq!(ms(&seen["ended_at"]), ms(&ended["ended_at"]));
    assert!(ms(&seen["ended_at"]) <= back && !has_flag(&seen, "stale"), "{seen:#}");
    assert_eq!(seen["outcome"]["exit_code"], 0);
    f.holds_nothing(0).await;
    assert_eq!(f.output(0, &job), printed());
    assert_eq!(f.verdict("s0", &job).await, "forget");
}

/// When the slave of a job was last heard, and whether that is only a lower bound.
fn heard(job: &Value) -> (i64, bool) {
    let freshness = &job["freshness"];
    (ms(&freshness["observed_at"]), freshness["at_least"].as_bool().unwrap())
}

#[tokio::test]
async fn when_the_slave_of_a_quiet_job_was_last_heard_never_goes_back() {
    let mut f = Factory::new().await;
    let job = f.place(gated("quiet")).await;
    let started = heard(&f.state(&job, "running").await).0;
    // Heartbeats go on, and the job reports nothing.
    let online = f.until(&job, "heard since", |job| heard(job).0 > started + 1000).await;
    assert!(!heard(&online).1);
    f.nets[0].cut(Close::Reset);
    f.offline(0).await;
    let (offline, at_least) = heard(&f.job(&job).await);
    assert!(offline >= heard(&online).0, "{offline} after {online:#}");
    assert!(!at_least, "this master heard it");

    // A master that was killed knows only that it was heard then or later.
    f.nets[0].pass();
    f.online(0).await;
    let later =
        f.waiting(starting(work("later", 0.0), json!({ "not_before": in_ms(600_000) })), "time").await;
    f.master.kill();
    f.nets[0].cut(Close::Reset);
    f.master.restart().await;
    let seen = f.job(&later).await;
    assert!(heard(&seen).1 && heard(&seen).0 >= ms(&seen["created_at"]), "{seen:#}");
    assert_eq!(f.offline(0).await["last_contact_at_least"], true);
    f.nets[0].pass();
    f.until(&job, "heard by this master", |job| !heard(job).1).await;
    f.finish(&job, "quiet").await;
}

#[tokio::test]
async fn a_flapping_link_changes_nothing_about_a_running_job() {
    let f = Factory::new().await;
    let job = f.place(gated("flap")).await;
    let waits = f.place(work("behind", 0.0)).await;
    f.state(&job, "running").await;
    for round in 1..=25 {
        let connections = f.nets[0].counts().connections;
        f.nets[0].drop_existing(if round % 2 == 0 { Close::Fin } else { Close::Reset });
        f.nets[0].wait_for_connections(connections + 1).await;
        if round % 5 == 0 {
            f.online(0).await;
            assert_eq!(f.job(&job).await["state"], "running");
        }
    }
    f.finish(&job, "flap").await;
    f.state(&waits, "succeeded").await;
    f.started_once(&["behind"]);
    f.holds_nothing(0).await;
    f.ran_undisturbed(&job).await;
}

#[tokio::test]
async fn a_half_open_link_is_noticed_by_its_silence_and_the_job_goes_on() {
    let f = Factory::new().await;
    let job = f.running(gated("half")).await;
    let before = now_ms();
    f.nets[0].half_open();
    let slave = f.offline(0).await;
    assert!(ms(&slave["last_contact_at"]) <= before + 1500, "last heard before the silence: {slave:#}");
    let seen = f.job(&job).await;
    assert_eq!((seen["state"].as_str(), has_flag(&seen, "stale")), (Some("running"), true));
    f.slaves[0].open_gate("half");
    f.held_as(0, &job, "succeeded").await;
    assert_eq!(f.job(&job).await["state"], "running", "nothing else was reported");
    f.nets[0].pass();
    f.nets[0].drop_existing(Close::Reset);
    f.finish(&job, "half").await;
}

#[tokio::test]
async fn c5_a_slave_that_comes_back_over_a_half_open_link_takes_over_at_once() {
    let f = Factory::new().await;
    let job = f.running(gated("again")).await;
    // The slave notices by its own limit of silence and dials again, while the master may still have the dead link.
    f.nets[0].half_open_existing();
    f.session(0, 2).await;
    assert_eq!(f.job(&job).await["state"], "running");
    f.finish(&job, "again").await;
}

/// The handshake is Challenge and Welcome to the slave, Hello and Settled to the master. It is cut before and after
/// each of them, with one running job, one waiting job and one that was placed while the link was down.
#[tokio::test]
async fn d9_a_cut_at_any_message_of_the_handshake_has_no_effect() {
    let f = Factory::new().await;
    let running = f.running(gated("running")).await;
    let mut waiting = vec![(f.waiting(work("waiting", 0.0), "turn").await, "waiting".to_owned())];
    let cuts = [
        (Direction::ToSlave, 0, false),
        (Direction::ToSlave, 1, true),
        (Direction::ToSlave, 1, false),
        (Direction::ToMaster, 1, true),
        (Direction::ToMaster, 1, false),
        (Direction::ToSlave, 2, true),
        (Direction::ToSlave, 2, false),
        (Direction::ToMaster, 2, true),
        (Direction::ToMaster, 2, false),
        (Direction::ToSlave, 3, true),
        (Direction::ToSlave, 3, false),
    ];
    for (round, (direction, frame, before)) in cuts.into_iter().enumerate() {
        // A stopped agent does not dial before the cut is planned.
        f.slaves[0].pause();
        let connections = f.nets[0].counts().connections;
        f.nets[0].drop_existing(Close::Fin);
        f.offline(0).await;
        let tag = format!("placed-{round}");
        waiting.push((f.place(work(&tag, 0.0)).await, tag));
        f.nets[0].cut_after_frame(direction, frame, before);
        f.slaves[0].cont();
        f.nets[0].wait_for_connections(connections + 2).await;
        f.online(0).await;
        let seen = f.job(&running).await;
        assert_eq!(seen["state"], "running", "{direction:?} {frame} before={before}: {seen:#}");
        f.never_started(&["waiting"]);
    }
    f.finish(&running, "running").await;
    for (job, tag) in &waiting {
        f.state(job, "succeeded").await;
        f.started_once(&[tag]);
    }
    f.holds_nothing(0).await;
}

/// For each of these cuts: a job that is offered over that connection starts once, under its first attempt.
async fn cut_an_offer(f: &Factory, name: &str, cuts: &[(Direction, u64, bool)]) {
    for (round, (direction, frame, before)) in cuts.iter().enumerate() {
        let connections = f.nets[0].counts().connections;
        f.nets[0].cut_after_frame(*direction, *frame, *before);
        f.nets[0].drop_existing(Close::Fin);
        f.nets[0].wait_for_connections(connections + 1).await;
        let tag = format!("{name}-{round}");
        let job = f.done(work(&tag, 0.0)).await;
        assert_eq!(job["attempt"], 1, "{direction:?} {frame} before={before}");
        f.started_once(&[&tag]);
    }
    f.holds_nothing(0).await;
}

#[tokio::test]
async fn a1_an_offer_that_the_link_lost_is_made_again_under_the_same_attempt() {
    let f = Factory::new().await;
    let cuts = [(Direction::ToSlave, 3, true), (Direction::ToSlave, 3, false)];
    cut_an_offer(&f, "offer", &cuts).await;
    // Here the offer has certainly been sent: the agent is stopped, and the connection breaks.
    f.slaves[0].pause();
    let job = f.place(work("paused", 0.0)).await;
    assert_eq!(f.job(&job).await["state"], "assigned");
    f.nets[0].drop_existing(Close::Reset);
    f.offline(0).await;
    assert_eq!(f.job(&job).await["state"], "assigned", "silence proves nothing");
    f.slaves[0].cont();
    assert_eq!(f.state(&job, "succeeded").await["attempt"], 1);
    f.started_once(&["paused"]);
}

#[tokio::test]
async fn a2_a_confirmation_that_the_link_lost_is_made_good_by_the_next_handshake() {
    let f = Factory::new().await;
    let cuts = [
        (Direction::ToMaster, 3, true),
        (Direction::ToMaster, 3, false),
        (Direction::ToMaster, 4, true),
        (Direction::ToMaster, 4, false),
        (Direction::ToMaster, 5, false),
        (Direction::ToSlave, 4, true),
        (Direction::ToSlave, 4, false),
    ];
    cut_an_offer(&f, "word", &cuts).await;
}

#[tokio::test]
async fn a2_what_the_slave_began_unheard_is_running_at_the_next_handshake_and_not_sent_again() {
    // The counted frame must not be a heartbeat.
    let calm = |link: &mut LinkSettings| {
        link.insert("heartbeat_seconds", 30);
        link.insert("dead_after_seconds", 90);
    };
    let mut options = MasterOptions::default();
    calm(&mut options.link);
    let mut f = Factory::empty(options).await;
    f.add(|options| calm(&mut options.link)).await;
    // Hello and Settled are forwarded, the report that the job was taken is not, and new connections are refused.
    f.nets[0].cut_after_frame(Direction::ToMaster, 3, true);
    f.nets[0].drop_existing(Close::Reset);
    f.session(0, 2).await;
    f.nets[0].refuse();
    let job = f.place(gated("unheard")).await;
    f.held_as(0, &job, "running").await;
    f.offline(0).await;
    assert_eq!(f.job(&job).await["state"], "assigned");
    f.nets[0].pass();
    f.state(&job, "running").await;
    assert_eq!(f.verdict("s0", &job).await, "keep");
    assert_eq!(f.finish(&job, "unheard").await["attempt"], 1);
}

#[tokio::test]
async fn e4_a_stretch_of_output_is_the_same_however_often_and_over_whichever_link_it_is_asked_for() {
    let f = Factory::new().await;
    let job = f.running(printer("log", 0)).await;
    f.finish(&job, "log").await;
    let whole = printed();
    let mut read = String::new();
    while read.len() < whole.len() {
        let query = format!("offset={}&limit=1000", read.len());
        let part = f.client.job_log(&job, &query).await.unwrap();
        assert_eq!(part.headers["reloop-log-offset"], read.len().to_string());
        assert_eq!(part.headers["reloop-log-total"], whole.len().to_string());
        let part = part.expect(200).as_str().unwrap().to_owned();
        // Over another link than the first answer.
        f.nets[0].drop_existing(Close::Reset);
        let again = eventually("the same stretch again", PATIENCE, async || {
            let answer = f.client.job_log(&job, &query).await.map_err(|error| format!("{error:?}"))?;
            if answer.status == 200 { Ok(answer.body) } else { Err(format!("{answer:?}")) }
        });
        assert_eq!(again.await, part.as_str());
        read.push_str(&part);
    }
    assert_eq!(read, whole, "no doubles and no gaps");
    let past = f.client.job_log(&job, &format!("offset={}", whole.len() + 500)).await.unwrap();
    assert_eq!(past.headers["reloop-log-offset"], whole.len().to_string());
    assert_eq!(past.expect(200), Value::Null, "behind the end there is an empty stretch");
}

#[tokio::test]
async fn a_slow_and_distant_network_only_makes_it_later() {
    let f = Factory::new().await;
    f.nets[0].delay(Duration::from_millis(150));
    f.nets[0].throttle(20_000);
    let due = in_ms(3000);
    let job = f.waiting(starting(work("slow", 0.0), json!({ "not_before": due })), "time").await;
    f.never_started(&["slow"]);
    let job = f.state(&job, "succeeded").await;
    let late = ms(&job["started_at"]) - ms(&json!(due));
    assert!((0..3000).contains(&late), "{late} ms after its time: {job:#}");
    f.started_once(&["slow"]);
}

#[tokio::test]
async fn the_shipped_nginx_site_carries_links_and_events_through_reload_and_restart() {
    let mut f = Factory::empty(MasterOptions::default()).await;
    let Some(nginx) = Nginx::start(f.master.addr().port()).await else { return };
    let net = Proxy::start(nginx.addr());
    let url = net.url();
    f.dial_through(net, url, |_| {});
    let session = f.online(0).await["session"].clone();
    let through = Client::new(nginx.addr(), Some(f.master.admin_token()));
    let mut events = through.events().await.unwrap();
    let job = f.running(gated("nginx")).await;
    let heard = async {
        while let Some(event) = events.next().await.unwrap() {
            if event["id"] == job.as_str() && event["state"] == "running" {
                return;
            }
        }
        panic!("the stream ended");
    };
    tokio::time::timeout(PATIENCE, heard).await.expect("events pass at once");

    nginx.reload();
    through.livez().await.unwrap().expect(200);
    assert_eq!(f.job(&job).await["state"], "running");
    drop(nginx);
    f.offline(0).await;
    let nginx = Nginx::start(f.master.addr().port()).await.unwrap();
    f.nets[0].redirect(nginx.addr());
    assert_ne!(f.online(0).await["session"], session);
    f.finish(&job, "nginx").await;
    f.ran_undisturbed(&job).await;
}
