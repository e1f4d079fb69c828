//! A network that fails in every way that one does, while a job runs: the job must not notice.
#![cfg(test)]
#![allow(clippy::unwrap_used, reason = "all of it is test")]

mod scenario;

use std::time::Duration;

use reloop_rig::nginx::Nginx;
use reloop_rig::process::{LinkSettings, MasterOptions, Slave};
use reloop_rig::proxy::{Close, Direction, Proxy};
use reloop_rig::wait::eventually;
use scenario::{Factory, PATIENCE, gated, has_flag, in_ms, ms, now_ms, printed, printer, with, work};
use serde_json::{Value, json};

#[tokio::test]
async fn a8_a_job_that_ends_while_the_link_is_cut_is_recorded_with_its_own_time_and_then_forgotten() {
    let f = Factory::new().await;
    let job = f.place(printer("cut", 0)).await;
    f.state(&job, "running").await;
    f.nets[0].cut(Close::Reset);
    f.offline(0).await;
    let seen = f.job(&job).await;
    assert_eq!(seen["state"], "running", "a cut says nothing about a job");
    assert!(has_flag(&seen, "stale"), "{seen:#}");
    assert_eq!(seen["freshness"]["link"], "offline");
    f.slaves[0].open_gate("cut");
    let ended = f.held_as(0, &job, "succeeded").await;
    let back = now_ms();
    f.nets[0].pass();
    let seen = f.state(&job, "succeeded").await;
    assert_eq!(ms(&seen["ended_at"]), ms(&ended["ended_at"]));
    assert!(ms(&seen["ended_at"]) <= back, "{seen:#}");
    assert_eq!(seen["outcome"]["exit_code"], 0);
    assert!(!has_flag(&seen, "stale"), "{seen:#}");
    f.holds_nothing(0).await;
    assert_eq!(f.output(0, &job), printed());
    assert_eq!(f.slaves[0].starts("cut"), 1);
    assert_eq!(f.ruling(0, &job).await["verdict"], "forget");
}

/// When the slave of a job was last heard, and whether it may have been heard since.
fn heard(job: &Value) -> (i64, bool) {
    let freshness = &job["freshness"];
    (ms(&freshness["observed_at"]), freshness["at_least"].as_bool().unwrap())
}

#[tokio::test]
async fn when_the_slave_of_a_quiet_job_was_last_heard_never_goes_back() {
    let mut f = Factory::new().await;
    let job = f.place(gated("quiet")).await;
    let started = heard(&f.state(&job, "running").await).0;
    // Heartbeats go on, and the job says nothing.
    let online = f.until(&job, "heard since", |job| heard(job).0 > started + 1000).await;
    assert!(!heard(&online).1);
    f.nets[0].cut(Close::Reset);
    f.offline(0).await;
    let (offline, at_least) = heard(&f.job(&job).await);
    assert!(offline >= heard(&online).0, "{offline} after {online:#}");
    assert!(!at_least, "this master heard it");

    // A master that was killed knows less of it, says so, and does not go behind what the job went through.
    f.nets[0].pass();
    f.online(0).await;
    let later = f.place(with(work("later", 0.0), json!({ "start": { "not_before": in_ms(600_000) } }))).await;
    f.state(&later, "accepted").await;
    f.master.kill();
    f.nets[0].cut(Close::Reset);
    f.master.restart().await;
    let seen = f.job(&later).await;
    assert!(heard(&seen).1 && heard(&seen).0 >= ms(&seen["created_at"]), "{seen:#}");
    assert_eq!(f.offline(0).await["last_contact_at_least"], true);
    f.nets[0].pass();
    f.until(&job, "heard by this master", |job| !heard(job).1).await;
    f.slaves[0].open_gate("quiet");
    f.state(&job, "succeeded").await;
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
    f.slaves[0].open_gate("flap");
    f.state(&job, "succeeded").await;
    f.state(&waits, "succeeded").await;
    assert_eq!((f.slaves[0].starts("flap"), f.slaves[0].starts("behind")), (1, 1));
    f.holds_nothing(0).await;
    f.ran_undisturbed(&job).await;
}

#[tokio::test]
async fn a_half_open_link_is_noticed_by_its_silence_and_the_job_goes_on() {
    let f = Factory::new().await;
    let job = f.place(gated("half")).await;
    f.state(&job, "running").await;
    let before = now_ms();
    f.nets[0].half_open();
    let slave = f.offline(0).await;
    assert!(ms(&slave["last_contact_at"]) <= before + 1500, "last heard before the silence: {slave:#}");
    let seen = f.job(&job).await;
    assert_eq!((seen["state"].as_str(), has_flag(&seen, "stale")), (Some("running"), true));
    f.slaves[0].open_gate("half");
    f.held_as(0, &job, "succeeded").await;
    assert_eq!(f.job(&job).await["state"], "running", "only the slave says otherwise");
    f.nets[0].pass();
    f.nets[0].drop_existing(Close::Reset);
    f.state(&job, "succeeded").await;
    assert_eq!(f.slaves[0].starts("half"), 1);
}

#[tokio::test]
async fn c5_a_slave_that_comes_back_over_a_half_open_link_takes_over_at_once() {
    let f = Factory::new().await;
    let job = f.place(gated("again")).await;
    f.state(&job, "running").await;
    let session = f.online(0).await["session"].as_u64().unwrap();
    f.nets[0].half_open_existing();
    // The slave notices by its own silence limit and dials anew, while the master may still hold the dead link.
    f.slave(0, "on a newer session", |slave| {
        slave["link"] == "online" && slave["session"].as_u64() > Some(session)
    })
    .await;
    assert_eq!(f.job(&job).await["state"], "running");
    f.slaves[0].open_gate("again");
    f.state(&job, "succeeded").await;
    assert_eq!(f.slaves[0].starts("again"), 1);
}

/// The handshake is Challenge and Welcome one way, Hello and Settled the other: a cut before and after each of them,
/// with one job that runs, one that waits and one that was placed while the link was away.
#[tokio::test]
async fn d9_a_cut_at_any_message_of_the_handshake_has_no_effect() {
    let f = Factory::new().await;
    let running = f.place(gated("running")).await;
    f.state(&running, "running").await;
    let waiting = f.place(work("waiting", 0.0)).await;
    f.until(&waiting, "on the slave's disk", |job| job["waiting_for"] == "turn").await;
    let mut placed = vec![];
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
        // An agent that stands still does not dial before the cut is planned.
        f.slaves[0].pause();
        let connections = f.nets[0].counts().connections;
        f.nets[0].drop_existing(Close::Fin);
        f.offline(0).await;
        placed.push((f.place(work(&format!("placed-{round}"), 0.0)).await, format!("placed-{round}")));
        f.nets[0].cut_after_frame(direction, frame, before);
        f.slaves[0].cont();
        f.nets[0].wait_for_connections(connections + 2).await;
        f.online(0).await;
        let seen = f.job(&running).await;
        assert_eq!(seen["state"], "running", "{direction:?} {frame} before={before}: {seen:#}");
        assert_eq!(f.slaves[0].starts("waiting"), 0);
    }
    f.slaves[0].open_gate("running");
    f.state(&running, "succeeded").await;
    f.state(&waiting, "succeeded").await;
    for (job, tag) in &placed {
        f.state(job, "succeeded").await;
        assert_eq!(f.slaves[0].starts(tag), 1, "{tag}");
    }
    assert_eq!((f.slaves[0].starts("running"), f.slaves[0].starts("waiting")), (1, 1));
    f.holds_nothing(0).await;
}

/// One job for each of these cuts of the connection over which it is offered: it starts once, under its first attempt.
async fn cut_an_offer(f: &Factory, name: &str, cuts: &[(Direction, u64, bool)]) {
    for (round, (direction, frame, before)) in cuts.iter().enumerate() {
        let connections = f.nets[0].counts().connections;
        f.nets[0].cut_after_frame(*direction, *frame, *before);
        f.nets[0].drop_existing(Close::Fin);
        f.nets[0].wait_for_connections(connections + 1).await;
        let tag = format!("{name}-{round}");
        let job = f.place(work(&tag, 0.0)).await;
        let job = f.state(&job, "succeeded").await;
        assert_eq!(job["attempt"], 1, "{direction:?} {frame} before={before}");
        assert_eq!(f.slaves[0].starts(&tag), 1, "{direction:?} {frame} before={before}");
    }
    f.holds_nothing(0).await;
}

#[tokio::test]
async fn a1_an_offer_that_the_link_lost_is_made_again_under_the_same_attempt() {
    let f = Factory::new().await;
    let cuts = [(Direction::ToSlave, 3, true), (Direction::ToSlave, 3, false)];
    cut_an_offer(&f, "offer", &cuts).await;
    // And for certain on its way: the agent stands still, and the connection breaks with the offer in it.
    f.slaves[0].pause();
    let job = f.place(work("paused", 0.0)).await;
    assert_eq!(f.job(&job).await["state"], "assigned");
    f.nets[0].drop_existing(Close::Reset);
    f.offline(0).await;
    assert_eq!(f.job(&job).await["state"], "assigned", "silence proves nothing");
    f.slaves[0].cont();
    assert_eq!(f.state(&job, "succeeded").await["attempt"], 1);
    assert_eq!(f.slaves[0].starts("paused"), 1);
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
    // No heartbeat shall be the frame that is counted.
    let calm = |link: &mut LinkSettings| {
        link.insert("heartbeat_seconds", 30);
        link.insert("dead_after_seconds", 90);
    };
    let mut options = MasterOptions::default();
    calm(&mut options.link);
    let mut f = Factory::empty(options).await;
    f.add(|options| calm(&mut options.link));
    f.online(0).await;
    // Hello and Settled go through, the word that it was taken does not, and nobody comes back until we say so.
    f.nets[0].cut_after_frame(Direction::ToMaster, 3, true);
    f.nets[0].drop_existing(Close::Reset);
    f.slave(0, "on its second session", |slave| slave["link"] == "online" && slave["session"] == 2).await;
    f.nets[0].refuse();
    let job = f.place(gated("unheard")).await;
    f.held_as(0, &job, "running").await;
    f.offline(0).await;
    assert_eq!(f.job(&job).await["state"], "assigned");
    f.nets[0].pass();
    f.state(&job, "running").await;
    assert_eq!(f.ruling(0, &job).await["verdict"], "keep");
    f.slaves[0].open_gate("unheard");
    assert_eq!(f.state(&job, "succeeded").await["attempt"], 1);
    assert_eq!(f.slaves[0].starts("unheard"), 1);
}

#[tokio::test]
async fn e4_a_stretch_of_output_is_the_same_however_often_and_over_whichever_link_it_is_asked_for() {
    let f = Factory::new().await;
    let job = f.place(printer("log", 0)).await;
    f.state(&job, "running").await;
    f.slaves[0].open_gate("log");
    f.state(&job, "succeeded").await;
    let whole = printed();
    let mut read = String::new();
    while read.len() < whole.len() {
        let query = format!("offset={}&limit=1000", read.len());
        let part = f.client.job_log(&job, &query).await.unwrap();
        assert_eq!(part.headers["reloop-log-offset"], read.len().to_string());
        assert_eq!(part.headers["reloop-log-total"], whole.len().to_string());
        let part = part.expect(200).as_str().unwrap().to_owned();
        // Over another link than the one over which the first answer came.
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
    assert_eq!(past.headers["reloop-log-offset"], whole.len().to_string(), "what is not there is said");
    assert_eq!(past.expect(200), Value::Null, "an empty stretch");
}

#[tokio::test]
async fn a_slow_and_distant_network_only_makes_it_later() {
    let f = Factory::new().await;
    f.nets[0].delay(Duration::from_millis(150));
    f.nets[0].throttle(20_000);
    let due = in_ms(1200);
    let job = f.place(with(work("slow", 0.0), json!({"start": {"not_before": due}}))).await;
    let job = f.state(&job, "succeeded").await;
    assert!(ms(&job["started_at"]) >= ms(&json!(due)), "{job:#}");
    assert_eq!(f.slaves[0].starts("slow"), 1);
}

#[tokio::test]
async fn the_shipped_nginx_site_carries_links_and_events_through_reload_and_restart() {
    let mut f = Factory::empty(MasterOptions::default()).await;
    let Some(nginx) = Nginx::start(f.master.addr().port()).await else { return };
    let net = Proxy::start(nginx.addr());
    f.slaves.push(Slave::start(scenario::options("s0", &net.url())));
    f.nets.push(net);
    f.online(0).await;
    let through = reloop_rig::client::Client::new(nginx.addr(), Some(admin_token(&f)));
    let mut events = through.events(None).await.unwrap();
    let job = f.place(gated("nginx")).await;
    f.state(&job, "running").await;
    let heard = async {
        while let Some(event) = events.next().await.unwrap() {
            if event.data["id"] == job.as_str() && event.data["state"] == "running" {
                return;
            }
        }
        panic!("the stream ended");
    };
    tokio::time::timeout(PATIENCE, heard).await.expect("events pass at once");
    let session = f.online(0).await["session"].clone();
    nginx.reload();
    through.livez().await.unwrap().expect(200);
    assert_eq!(f.job(&job).await["state"], "running");
    drop(nginx);
    f.offline(0).await;
    let nginx = Nginx::start(f.master.addr().port()).await.unwrap();
    f.nets[0].redirect(nginx.addr());
    let slave = f.online(0).await;
    assert_ne!(slave["session"], session);
    f.slaves[0].open_gate("nginx");
    f.state(&job, "succeeded").await;
    assert_eq!(f.slaves[0].starts("nginx"), 1);
    f.ran_undisturbed(&job).await;
}

fn admin_token(f: &Factory) -> String {
    std::fs::read_to_string(f.master.data_dir().join("admin.token")).unwrap().trim().to_owned()
}
