//! Disks that go back in time, or are full: nothing that was acknowledged is lost, and nothing old gives orders.
#![cfg(test)]
#![allow(clippy::unwrap_used, reason = "all of it is test")]

mod scenario;

use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use reloop_protocol::message::CloseCode;
use reloop_rig::daemon::binary;
use reloop_rig::disk::{self, Disk, DiskKind};
use reloop_rig::process::{Master, MasterOptions, SlaveOptions};
use reloop_rig::proxy::Close;
use reloop_rig::wait::eventually;
use scenario::{Factory, PATIENCE, gated, has_flag, held, in_ms, ms, now_ms, with, work};
use serde_json::{Value, json};

/// A person says that this copy of the master is the one, whatever its slaves say.
async fn confirm_restore(f: &Factory) -> Value {
    f.client.post("/v1/master/confirm-restore", &json!({ "force": true })).await.unwrap().expect(200)
}

/// What `reloop slave ls` says to people beside its table.
fn remarks(f: &Factory) -> String {
    let mut command = Command::new(binary("reloop"));
    command.args(["--master", &format!("http://{}", f.master.addr()), "--token-file"]);
    command.arg(f.master.data_dir().join("admin.token")).args(["slave", "ls"]).stdin(Stdio::null());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}

/// Kills the master, and lets it come up on its old files while no slave can reach it.
async fn come_up_on(f: &mut Factory, backup: &reloop_rig::process::Backup) {
    f.master.put_back(backup);
    for net in &f.nets {
        net.cut(Close::Fin);
    }
    f.master.restart().await;
    f.client = f.master.client();
}

#[tokio::test]
async fn a20_an_offer_that_an_old_backup_repeats_is_answered_with_the_outcome() {
    let mut f = Factory::new().await;
    f.slaves[0].pause();
    let job = f.place(work("again", 0.0)).await;
    assert_eq!(f.job(&job).await["state"], "assigned");
    let backup = f.master.backup();
    f.slaves[0].cont();
    f.state(&job, "succeeded").await;
    f.holds_nothing(0).await;
    come_up_on(&mut f, &backup).await;
    assert_eq!(f.job(&job).await["state"], "assigned", "it has forgotten");
    confirm_restore(&f).await;
    f.nets[0].pass();
    assert_eq!(f.state(&job, "succeeded").await["attempt"], 1);
    f.holds_nothing(0).await;
    assert_eq!(f.slaves[0].starts("again"), 1);
}

#[tokio::test]
async fn c3_a_slaves_store_that_went_back_fires_nothing_and_asks_a_person() {
    let mut f = Factory::new().await;
    let first = f.place(gated("first")).await;
    f.state(&first, "running").await;
    let second = f.place(work("second", 0.0)).await;
    f.until(&second, "on the slave's disk", |job| job["waiting_for"] == "turn").await;
    let due = in_ms(8000);
    let timed = f.place(with(work("timed", 0.0), json!({"start": {"not_before": due, "late": "run"}}))).await;
    f.until(&timed, "on the slave's disk", |job| job["waiting_for"] == "time").await;
    let backup = f.slaves[0].backup();
    f.slaves[0].open_gate("first");
    f.state(&first, "succeeded").await;
    f.state(&second, "succeeded").await;
    f.nets[0].drop_existing(Close::Fin);
    f.slave(0, "on its second session", |slave| slave["link"] == "online" && slave["session"] == 2).await;

    f.slaves[0].put_back(&backup);
    f.slaves[0].restart();
    let seen = f.slave(0, "asking", |slave| slave["link"] == "online" && !slave["attention"].is_null()).await;
    assert_eq!(seen["attention"]["code"], "store_rolled_back", "{seen:#}");
    f.state(&timed, "uncertain").await;
    eventually("its time to pass", PATIENCE, async || (now_ms() > ms(&json!(due)) + 500).then_some(())).await;
    assert_eq!(f.slaves[0].starts("timed"), 0, "nothing deferred fires");
    for job in [&first, &second] {
        assert_eq!(f.job(job).await["state"], "succeeded", "what is known is not unlearned");
    }
    f.client.resolve(&timed, &json!({"outcome": "canceled"})).await.unwrap().expect(202);
    f.state(&timed, "canceled").await;
    f.client.clear("s0", &json!({})).await.unwrap().expect(202);
    let next = f.place(work("next", 0.0)).await;
    f.state(&next, "succeeded").await;
    for (tag, starts) in [("first", 1), ("second", 1), ("timed", 0), ("next", 1)] {
        assert_eq!(f.slaves[0].starts(tag), starts, "{tag}");
    }
}

#[tokio::test]
async fn d3_after_a_restore_the_slaves_close_the_gap_and_nothing_fires_in_mass() {
    let mut f = Factory::new().await;
    let running = f.place(gated("running")).await;
    f.state(&running, "running").await;
    let missed = json!({"start": {"not_before": in_ms(500)}, "slave": "s1"});
    let missed = f.place(with(work("missed", 0.0), missed)).await;
    let backup = f.master.backup();
    f.slaves[0].open_gate("running");
    f.state(&running, "succeeded").await;
    let unknown = f.place(work("unknown", 0.0)).await;
    let unknown_before = f.state(&unknown, "succeeded").await;
    f.holds_nothing(0).await;

    come_up_on(&mut f, &backup).await;
    f.client.job(&unknown).await.unwrap().expect(404);
    confirm_restore(&f).await;
    let fresh = f.place(work("fresh", 0.0)).await;
    assert_eq!(f.slaves[0].starts("fresh"), 0, "nothing is handed out before a handshake");
    f.nets[0].pass();
    f.state(&running, "succeeded").await;
    let seen = f.state(&unknown, "succeeded").await;
    assert!(has_flag(&seen, "adopted"), "{seen:#}");
    assert_eq!(seen["ended_at"], unknown_before["ended_at"]);
    f.state(&fresh, "succeeded").await;

    // The slave that it was for may have done it since the backup: a person lets it go, or does not.
    let seen = f.job(&missed).await;
    assert_eq!(seen["reason"]["code"], "restored", "{seen:#}");
    f.add(|_| {});
    f.online(1).await;
    let barrier = f.place(with(work("barrier", 0.0), json!({"slave": "s1"}))).await;
    f.state(&barrier, "succeeded").await;
    assert_eq!(f.slaves[1].starts("missed"), 0);
    f.client.release(&missed, &json!({})).await.unwrap().expect(202);
    f.state(&missed, "succeeded").await;
    for (slave, tag) in [(0, "running"), (0, "unknown"), (0, "fresh"), (1, "missed")] {
        assert_eq!(f.slaves[slave].starts(tag), 1, "{tag}");
    }
}

#[tokio::test]
async fn d4_a_master_whose_files_were_put_back_gives_no_orders_until_a_person_confirms() {
    const HINT: &str = "`reloop restore confirm`";
    let mut f = Factory::new().await;
    let confirm = async |f: &Factory| f.client.post("/v1/master/confirm-restore", &json!({})).await.unwrap();
    confirm(&f).await.expect(409);
    assert_eq!(f.client.readyz().await.unwrap().expect(200), "ok\n");
    assert_eq!(remarks(&f), "");
    assert_eq!(f.online(0).await["session"], 1, "its link stands");
    let backup = f.master.backup();
    let job = f.place(gated("since")).await;
    f.state(&job, "running").await;
    f.nets[0].drop_existing(Close::Fin);
    f.slave(0, "on its second session", |slave| slave["link"] == "online" && slave["session"] == 2).await;

    come_up_on(&mut f, &backup).await;
    f.nets[0].pass();
    f.at_machine(0, "doubting", |status| {
        status["link"]["state"] == "online" && status["link"]["doubtful"] == true
    })
    .await;
    let ready = f.client.readyz().await.unwrap().expect(200);
    for said in [ready.as_str().unwrap(), &f.master.log(), &remarks(&f)] {
        assert!(said.contains(HINT), "{said}");
    }
    let other = f.place(with(work("other", 0.0), json!({"slave": "s0"}))).await;
    let why = f.client.explain(&other).await.unwrap().expect(200);
    assert_eq!(why["slaves"][0]["why_not"], "doubts", "{why:#}");
    f.held_as(0, &job, "running").await;
    f.slaves[0].open_gate("since");
    f.held_as(0, &job, "succeeded").await;
    assert_eq!(f.slaves[0].starts("other"), 0);

    confirm(&f).await.expect(200);
    assert_eq!(f.client.readyz().await.unwrap().expect(200), "ok\n");
    assert_eq!(remarks(&f), "");
    confirm(&f).await.expect(409);
    let seen = f.state(&job, "succeeded").await;
    assert!(has_flag(&seen, "adopted"), "{seen:#}");
    f.at_machine(0, "without what it had told", |status| held(status, &job).is_none()).await;
    let waits = f.until(&other, "held", |job| job["reason"]["code"] == "restored").await;
    assert_eq!((&waits["state"], &waits["gate"]), (&json!("queued"), &json!("held")));
    f.client.release(&other, &json!({})).await.unwrap().expect(202);
    f.state(&other, "succeeded").await;
    assert_eq!((f.slaves[0].starts("since"), f.slaves[0].starts("other")), (1, 1));
}

#[tokio::test]
async fn d4_files_that_were_copied_while_the_links_were_live_start_nothing_twice() {
    const TAGS: [&str; 6] = ["one", "two", "three", "four", "five", "six"];
    let mut f = Factory::new().await;
    f.add(|_| {});
    f.online(1).await;
    let mut jobs = vec![];
    for tag in TAGS {
        jobs.push(f.place(gated(tag)).await);
    }
    f.state(&jobs[0], "running").await;
    f.state(&jobs[1], "running").await;
    let backup = f.master.backup();
    for tag in TAGS {
        f.slaves.iter().for_each(|slave| slave.open_gate(tag));
    }
    for job in &jobs {
        f.state(job, "succeeded").await;
    }
    for slave in 0..2 {
        f.holds_nothing(slave).await;
    }

    // Nobody says that the files were put back, and no link has ended before the master itself.
    come_up_on(&mut f, &backup).await;
    for slave in 0..2 {
        f.nets[slave].pass();
        f.at_machine(slave, "doubting", |status| {
            status["link"]["state"] == "online" && status["link"]["doubtful"] == true
        })
        .await;
    }
    let since = f.place(work("since", 0.0)).await;
    let why = f.client.explain(&since).await.unwrap().expect(200);
    for slave in why["slaves"].as_array().unwrap() {
        assert_eq!(slave["why_not"], "doubts", "{why:#}");
    }
    let starts = |f: &Factory, tag: &str| f.slaves.iter().map(|slave| slave.starts(tag)).sum::<usize>();
    for tag in TAGS {
        assert_eq!(starts(&f, tag), 1, "{tag}");
    }

    confirm_restore(&f).await;
    for job in &jobs {
        f.state(job, "succeeded").await;
    }
    for tag in TAGS {
        assert_eq!(starts(&f, tag), 1, "{tag}");
    }
}

#[tokio::test]
async fn d5_of_two_copies_of_a_master_the_older_is_refused_and_told_so() {
    let f = Factory::new().await;
    let backup = f.master.backup();
    let epoch = confirm_restore(&f).await["epoch"].as_u64().unwrap();
    f.at_machine(0, "obeying the newer copy", |status| {
        status["link"]["state"] == "online" && status["link"]["epoch"] == epoch
    })
    .await;
    let job = f.place(gated("kept")).await;
    f.state(&job, "running").await;

    let old = Master::start_from(&backup, MasterOptions::default()).await;
    let order = with(work("old", 0.0), json!({"slave": "s0"}));
    let ignored = scenario::job_of(&old.client().place(&order, None).await.unwrap().expect(201));
    f.nets[0].redirect(old.addr());
    f.nets[0].drop_existing(Close::Fin);
    let number = CloseCode::StaleMaster.number().to_string();
    f.at_machine(0, "refusing the older copy", |status| {
        status["link"]["trouble"].as_str().is_some_and(|trouble| trouble.contains(&number))
    })
    .await;
    assert_eq!(old.client().job(&ignored).await.unwrap().expect(200)["state"], "queued");
    f.held_as(0, &job, "running").await;
    f.nets[0].redirect(f.master.addr());
    f.slaves[0].open_gate("kept");
    f.state(&job, "succeeded").await;
    assert_eq!((f.slaves[0].starts("kept"), f.slaves[0].starts("old")), (1, 0));
}

#[tokio::test]
async fn d10_a_master_below_its_free_space_refuses_orders_and_goes_on_with_what_it_has() {
    let mut f = Factory::new().await;
    let job = f.place(gated("full")).await;
    let before = f.state(&job, "running").await;
    let roomy =
        std::mem::replace(&mut f.master.options_mut().config, "min_free_bytes = 9000000000000000000".into());
    f.master.restart().await;
    f.online(0).await;
    let refused = f.client.place(&work("refused", 0.0), Some("key")).await.unwrap().expect(503);
    assert_eq!(refused["code"], "storage_unavailable", "{refused:#}");
    f.client.livez().await.unwrap().expect(200);
    f.client.readyz().await.unwrap().expect(503);
    assert_eq!(f.job(&job).await["started_at"], before["started_at"], "it answers questions");
    f.slaves[0].open_gate("full");
    let ended = f.state(&job, "succeeded").await;
    f.holds_nothing(0).await;
    f.master.options_mut().config = roomy;
    f.master.restart().await;
    assert_eq!(f.job(&job).await["ended_at"], ended["ended_at"], "what slaves report finds its place");
    let order = f.client.place(&work("refused", 0.0), Some("key")).await.unwrap().expect(201);
    f.state(&scenario::job_of(&order), "succeeded").await;
    assert_eq!((f.slaves[0].starts("full"), f.slaves[0].starts("refused")), (1, 1));
}

/// Gives a slave one program, `tool`, which is this file.
fn own_program(options: &mut SlaveOptions, program: &Path) {
    let command = json!([program]);
    options.tables = format!("[programs.tool]\ndriver = \"process\"\ncommand = {command}\n");
}

/// Whether no job has ended otherwise than well.
async fn all_well(f: &Factory, jobs: &[String]) {
    for job in jobs {
        let seen = f.job(job).await;
        assert!(seen["ended_at"].is_null() || seen["state"] == "succeeded", "{seen:#}");
        assert_eq!(seen["attempt"].as_u64().unwrap_or(1), 1, "{seen:#}");
    }
}

/// Twenty jobs for two machines, of which the first can't begin any: those that it has wait there, and all others are done
/// elsewhere. Once it is mended and somebody has said so, it does what it has.
async fn one_of_two_is_unfit(f: &Factory, cause: &str, mend: impl FnOnce()) {
    let mut jobs = Vec::new();
    for _ in 0..20 {
        jobs.push(f.place(json!({"program": "tool", "params": {}})).await);
    }
    let unfit = f.slave(0, "in need of a person", |slave| slave["status"] == "attention").await;
    assert_eq!(unfit["attention"]["code"], "machine_unfit", "{unfit:#}");
    let text = unfit["attention"]["text"].as_str().unwrap();
    assert!(text.contains(cause) && text.contains("`clear`"), "{text}");
    let there: Vec<String> =
        unfit["jobs"].as_array().unwrap().iter().map(|job| job.as_str().unwrap().into()).collect();
    assert!(!there.is_empty(), "{unfit:#}");
    for job in jobs.iter().filter(|job| !there.contains(job)) {
        f.state(job, "succeeded").await;
    }
    all_well(f, &jobs).await;
    let mut begun = 0;
    for job in &there {
        let seen = f.state(job, "accepted").await;
        assert_eq!((&seen["waiting_for"], &seen["started_at"]), (&json!("ready"), &Value::Null), "{seen:#}");
        begun += usize::from(seen["reason"]["code"] == "machine_unfit");
        let why = f.client.explain(job).await.unwrap().expect(200);
        let why = why["summary"].as_str().unwrap();
        assert!(why.contains("s0") && why.contains(cause) && why.contains("`clear`"), "{why}");
    }
    assert_eq!(begun, 1, "one was to begin, and nothing after it");
    let (done, status) = f.local(0, &["status"]).await;
    assert!(done && status.contains(cause) && status.contains("reloop-slave clear"), "{status}");
    mend();
    f.client.clear("s0", &json!({})).await.unwrap().expect(202);
    for job in &jobs {
        f.state(job, "succeeded").await;
    }
    all_well(f, &jobs).await;
    f.slave(0, "ready", |slave| slave["status"] == "ready").await;
}

/// Two slaves with a `tool` each, in this directory.
async fn two_with_tools(dir: &Path) -> Factory {
    let mut f = Factory::empty(MasterOptions::default()).await;
    for slave in 0..2 {
        let tool = dir.join(format!("tool{slave}"));
        put_program(&tool, "#!/bin/sh\nexit 0\n", 0o755);
        f.add(|options| own_program(options, &tool));
        f.online(slave).await;
    }
    f
}

fn put_program(path: &Path, text: &str, mode: u32) {
    // A file that is executed can't be written to.
    let _ = fs::remove_file(path);
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Also what a file system keeps back for root.
fn write_until_full(path: &Path) {
    let mut file = File::create(path).unwrap();
    let mut piece = 1 << 20;
    while piece > 0 {
        match file.write(&vec![1; piece]) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::StorageFull => piece /= 2,
            Err(error) => panic!("{}: {error}", path.display()),
        }
    }
    file.sync_all().unwrap();
}

#[tokio::test]
async fn e6_a_program_that_one_of_two_machines_can_not_execute_ends_no_job() {
    let dir = tempfile::tempdir().unwrap();
    let f = two_with_tools(dir.path()).await;
    let tool = dir.path().join("tool0");
    let whole = || put_program(&tool, "#!/bin/sh\nexit 0\n", 0o755);
    fs::remove_file(&tool).unwrap();
    one_of_two_is_unfit(&f, "No such file", whole).await;
    put_program(&tool, "#!/bin/sh\nexit 0\n", 0o644);
    one_of_two_is_unfit(&f, "Permission denied", whole).await;
    put_program(&tool, "\0 no program", 0o755);
    one_of_two_is_unfit(&f, "Exec format error", whole).await;
    put_program(&tool, "#!/no/such/interpreter\n", 0o755);
    one_of_two_is_unfit(&f, "No such file", whole).await;
}

#[tokio::test]
async fn e6_a_full_disk_under_the_runs_of_one_of_two_machines_ends_no_job() {
    if !disk::available() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let f = two_with_tools(dir.path()).await;
    let disk = Disk::mount(DiskKind::Ext4 { mib: 16 }, &f.slaves[0].state_dir().join("runs")).unwrap();
    // It gives out at one step of the preparation or another.
    for room in [0, 4 * 1024, 12 * 1024, 24 * 1024] {
        let [ballast, rest] = ["ballast", "rest"].map(|name| disk.path().join(name));
        fs::write(&ballast, vec![1; room]).unwrap();
        File::open(&ballast).unwrap().sync_all().unwrap();
        write_until_full(&rest);
        fs::remove_file(&ballast).unwrap();
        one_of_two_is_unfit(&f, "No space left", || fs::remove_file(&rest).unwrap()).await;
    }
    drop(disk);
}

#[tokio::test]
async fn e6_a_machine_that_can_not_begin_stays_so_until_it_is_cleared_whatever_starts_anew() {
    let dir = tempfile::tempdir().unwrap();
    let tool = dir.path().join("tool");
    let mut f = Factory::with(|options| own_program(options, &tool)).await;
    let job = f.place(json!({"program": "tool", "params": {}})).await;
    f.until(&job, "held back", |job| job["reason"]["code"] == "machine_unfit").await;
    let canceled = f.place(json!({"program": "tool", "params": {}})).await;
    assert_eq!(f.job(&canceled).await["state"], "queued", "nothing is given to a machine that can't begin");
    f.client.cancel(&canceled, &json!({})).await.unwrap().expect(202);
    put_program(&tool, "#!/bin/sh\nexit 0\n", 0o755);
    f.slaves[0].restart();
    f.slave(0, "on its second session", |slave| slave["link"] == "online" && slave["session"] == 2).await;
    f.nets[0].cut(Close::Reset);
    f.slaves[0].reboot();
    let status = f
        .at_machine(0, "in need of a person", |status| status["machine"]["attention"] == "machine_unfit")
        .await;
    assert!(status["machine"]["attention_text"].as_str().unwrap().contains("No such file"), "{status:#}");
    f.held_as(0, &job, "accepted").await;
    assert!(f.locally(0, &["clear"]).await.contains("machine_unfit"));
    f.held_as(0, &job, "succeeded").await;
    f.nets[0].pass();
    assert_eq!(f.state(&job, "succeeded").await["attempt"], 1);
    f.state(&canceled, "canceled").await;
}
