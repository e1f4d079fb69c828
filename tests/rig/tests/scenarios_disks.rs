//! Disks that go back in time, or are full: nothing that was acknowledged is lost, and an old copy gives no commands.
#![cfg(test)]
#![allow(clippy::unwrap_used, reason = "all of it is test")]

use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use reloop_protocol::message::CloseCode;
use reloop_rig::daemon::binary;
use reloop_rig::disk::{self, Disk, DiskKind};
use reloop_rig::factory::{
    Factory, for_s0, gated, has_flag, held, in_ms, job_of, ms, passed, starting, with, work,
};
use reloop_rig::process::{Master, MasterOptions, SlaveOptions};
use reloop_rig::proxy::Close;
use serde_json::{Value, json};

/// The lines that `reloop slave ls` prints below its table.
fn remarks(f: &Factory) -> String {
    let mut command = Command::new(binary("reloop"));
    command.args(["--master", &format!("http://{}", f.master.addr()), "--token-file"]);
    command.arg(f.master.data_dir().join("admin.token")).args(["slave", "ls"]).stdin(Stdio::null());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}

/// Waits until a slave is online and obeys nothing, because it has seen a later state of this master.
async fn doubts(f: &Factory, slave: usize) {
    f.at_machine(slave, "doubting", |status| {
        status["link"]["state"] == "online" && status["link"]["doubtful"] == true
    })
    .await;
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
    f.restore(&backup).await;
    assert_eq!(f.job(&job).await["state"], "assigned", "it has forgotten");
    f.confirm_restore().await;
    f.nets[0].pass();
    assert_eq!(f.state(&job, "succeeded").await["attempt"], 1);
    f.holds_nothing(0).await;
    f.started_once(&["again"]);
}

#[tokio::test]
async fn c3_a_slaves_store_that_went_back_fires_nothing_and_asks_a_person() {
    let mut f = Factory::new().await;
    let first = f.running(gated("first")).await;
    let second = f.waiting(work("second", 0.0), "turn").await;
    let due = in_ms(8000);
    let timed = starting(work("timed", 0.0), json!({ "not_before": due, "late": "run" }));
    let timed = f.waiting(timed, "time").await;
    let backup = f.slaves[0].backup();
    f.finish(&first, "first").await;
    f.state(&second, "succeeded").await;
    f.reconnect(0).await;

    f.slaves[0].put_back(&backup);
    f.slaves[0].restart();
    f.attention(0, "store_rolled_back").await;
    f.state(&timed, "uncertain").await;
    passed(ms(&json!(due)) + 500).await;
    f.never_started(&["timed"]);
    for job in [&first, &second] {
        assert_eq!(f.job(job).await["state"], "succeeded", "what is known is not unlearned");
    }
    f.resolve(&timed, "canceled").await;
    f.state(&timed, "canceled").await;
    f.slave_command(0, "clear", json!({})).await;
    f.done(work("next", 0.0)).await;
    f.started_once(&["first", "second", "next"]);
    f.never_started(&["timed"]);
}

#[tokio::test]
async fn d3_after_a_restore_the_slaves_close_the_gap_and_nothing_fires_in_mass() {
    let mut f = Factory::new().await;
    let running = f.running(gated("running")).await;
    let missed = starting(work("missed", 0.0), json!({ "not_before": in_ms(500) }));
    let missed = f.place(with(missed, json!({ "slave": "s1" }))).await;
    let backup = f.master.backup();
    f.finish(&running, "running").await;
    let before = f.done(work("unknown", 0.0)).await;
    let unknown = before["id"].as_str().unwrap();
    f.holds_nothing(0).await;

    f.restore(&backup).await;
    f.client.job(unknown).await.unwrap().expect(404);
    f.confirm_restore().await;
    let fresh = f.place(work("fresh", 0.0)).await;
    f.never_started(&["fresh"]);
    f.nets[0].pass();
    f.state(&running, "succeeded").await;
    let seen = f.state(unknown, "succeeded").await;
    assert_eq!((has_flag(&seen, "adopted"), &seen["ended_at"]), (true, &before["ended_at"]), "{seen:#}");
    f.state(&fresh, "succeeded").await;

    // Its slave may have done it since the backup: it waits until a person has looked.
    assert_eq!(f.job(&missed).await["reason"]["code"], "restored");
    f.add(|_| {}).await;
    f.done(with(work("barrier", 0.0), json!({ "slave": "s1" }))).await;
    f.never_started(&["missed"]);
    f.job_command(&missed, "release", json!({})).await;
    f.state(&missed, "succeeded").await;
    f.started_once(&["running", "unknown", "fresh", "missed"]);
}

#[tokio::test]
async fn d4_a_master_whose_files_were_put_back_gives_no_orders_until_a_person_confirms() {
    const HINT: &str = "`reloop restore confirm`";
    let mut f = Factory::new().await;
    let confirm = async |f: &Factory| f.client.post("/v1/master/confirm-restore", &json!({})).await.unwrap();
    let has_no_doubt = async |f: &Factory| {
        confirm(f).await.expect(409);
        assert_eq!(f.client.readyz().await.unwrap().expect(200), "ok\n");
        assert_eq!(remarks(f), "");
    };
    has_no_doubt(&f).await;
    f.session(0, 1).await;
    let backup = f.master.backup();
    let job = f.running(gated("since")).await;
    f.reconnect(0).await;

    f.restore(&backup).await;
    f.nets[0].pass();
    doubts(&f, 0).await;
    let ready = f.client.readyz().await.unwrap().expect(200);
    for said in [ready.as_str().unwrap(), &f.master.log(), &remarks(&f)] {
        assert!(said.contains(HINT), "{said}");
    }
    let other = f.place(for_s0(work("other", 0.0))).await;
    assert_eq!(f.why_not(&other).await, ["doubts"]);
    f.held_as(0, &job, "running").await;
    f.slaves[0].open_gate("since");
    f.held_as(0, &job, "succeeded").await;
    f.never_started(&["other"]);

    confirm(&f).await.expect(200);
    has_no_doubt(&f).await;
    let seen = f.state(&job, "succeeded").await;
    assert!(has_flag(&seen, "adopted"), "{seen:#}");
    f.at_machine(0, "without what it had told", |status| held(status, &job).is_none()).await;
    let waits = f.until(&other, "held", |job| job["reason"]["code"] == "restored").await;
    assert_eq!((&waits["state"], &waits["gate"]), (&json!("queued"), &json!("held")));
    f.job_command(&other, "release", json!({})).await;
    f.state(&other, "succeeded").await;
    f.started_once(&["since", "other"]);
}

#[tokio::test]
async fn d4_files_that_were_copied_while_the_links_were_live_start_nothing_twice() {
    const TAGS: [&str; 6] = ["one", "two", "three", "four", "five", "six"];
    let mut f = Factory::new().await;
    f.add(|_| {}).await;
    let mut jobs = vec![];
    for tag in TAGS {
        jobs.push(f.place(gated(tag)).await);
    }
    f.state(&jobs[0], "running").await;
    f.state(&jobs[1], "running").await;
    let backup = f.master.backup();
    for (job, tag) in jobs.iter().zip(TAGS) {
        f.finish(job, tag).await;
    }
    for slave in 0..2 {
        f.holds_nothing(slave).await;
    }

    // The restore is not confirmed, and no link has ended before the master itself.
    f.restore(&backup).await;
    for slave in 0..2 {
        f.nets[slave].pass();
        doubts(&f, slave).await;
    }
    let since = f.place(work("since", 0.0)).await;
    assert_eq!(f.why_not(&since).await, ["doubts", "doubts"]);
    f.started_once(&TAGS);
    f.confirm_restore().await;
    for job in &jobs {
        f.state(job, "succeeded").await;
    }
    f.started_once(&TAGS);
}

#[tokio::test]
async fn d5_of_two_copies_of_a_master_the_older_is_refused_and_told_so() {
    let f = Factory::new().await;
    let backup = f.master.backup();
    let epoch = f.confirm_restore().await["epoch"].as_u64().unwrap();
    f.at_machine(0, "obeying the newer copy", |status| {
        status["link"]["state"] == "online" && status["link"]["epoch"] == epoch
    })
    .await;
    let job = f.running(gated("kept")).await;

    let old = Master::start_from(&backup, MasterOptions::default()).await;
    let order = old.client().place(&for_s0(work("old", 0.0)), None).await.unwrap().expect(201);
    f.nets[0].redirect(old.addr());
    f.nets[0].drop_existing(Close::Fin);
    let number = CloseCode::StaleMaster.number().to_string();
    f.at_machine(0, "refusing the older copy", |status| {
        status["link"]["trouble"].as_str().is_some_and(|trouble| trouble.contains(&number))
    })
    .await;
    assert_eq!(old.client().job(&job_of(&order)).await.unwrap().expect(200)["state"], "queued");
    f.held_as(0, &job, "running").await;
    f.nets[0].redirect(f.master.addr());
    f.finish(&job, "kept").await;
    f.never_started(&["old"]);
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
    let order = work("refused", 0.0);
    let refused = f.client.place(&order, Some("key")).await.unwrap().expect(503);
    assert_eq!(refused["code"], "storage_unavailable", "{refused:#}");
    f.client.livez().await.unwrap().expect(200);
    f.client.readyz().await.unwrap().expect(503);
    assert_eq!(f.job(&job).await["started_at"], before["started_at"], "it answers questions");
    let ended = f.finish(&job, "full").await;
    f.holds_nothing(0).await;

    f.master.options_mut().config = roomy;
    f.master.restart().await;
    assert_eq!(f.job(&job).await["ended_at"], ended["ended_at"], "the slave's report was written");
    let order = f.client.place(&order, Some("key")).await.unwrap().expect(201);
    f.state(&job_of(&order), "succeeded").await;
    f.started_once(&["refused"]);
}

const RUNS_WELL: &str = "#!/bin/sh\nexit 0\n";

/// Gives a slave one program, `tool`, which is this file.
fn own_program(options: &mut SlaveOptions, program: &Path) {
    let command = json!([program]);
    options.tables = format!("[programs.tool]\ndriver = \"process\"\ncommand = {command}\n");
}

fn tool() -> Value {
    json!({ "program": "tool", "params": {} })
}

fn put_program(path: &Path, text: &str, mode: u32) {
    // A file that is being executed cannot be written to.
    let _ = fs::remove_file(path);
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Two slaves with a `tool` each, in this directory.
async fn two_with_tools(dir: &Path) -> Factory {
    let mut f = Factory::empty(MasterOptions::default()).await;
    for slave in 0..2 {
        let tool = dir.join(format!("tool{slave}"));
        put_program(&tool, RUNS_WELL, 0o755);
        f.add(|options| own_program(options, &tool)).await;
    }
    f
}

/// Twenty jobs for two machines, of which the first can start none: all are done by the second, and none ends badly. After the repair
/// and `clear` the first one works again.
async fn one_of_two_is_unfit(f: &Factory, cause: &str, mend: impl FnOnce()) {
    let mut jobs = vec![];
    for _ in 0..20 {
        jobs.push(f.place(tool()).await);
    }
    let unfit = f.slave(0, "in need of a person", |slave| slave["status"] == "attention").await;
    assert_eq!(unfit["attention"]["code"], "machine_unfit", "{unfit:#}");
    let text = unfit["attention"]["text"].as_str().unwrap();
    assert!(text.contains(cause) && text.contains("`clear`"), "{text}");
    let mut at_the_other = 0;
    for job in &jobs {
        at_the_other += usize::from(f.state(job, "succeeded").await["slave"] == "s1");
    }
    // Some may have begun here before the machine turned out to be unfit.
    assert!(at_the_other > jobs.len() / 2, "{at_the_other}");
    let status = f.locally(0, &["status"]).await;
    assert!(status.contains(cause) && status.contains("reloop-slave clear"), "{status}");
    let own = f.place(for_s0(tool())).await;
    f.state(&own, "queued").await;
    mend();
    f.slave_command(0, "clear", json!({})).await;
    f.state(&own, "succeeded").await;
    f.slave(0, "ready", |slave| slave["status"] == "ready").await;
}

/// Including the space that a file system reserves for root.
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
    let mended = || put_program(&tool, RUNS_WELL, 0o755);
    fs::remove_file(&tool).unwrap();
    one_of_two_is_unfit(&f, "No such file", mended).await;
    put_program(&tool, RUNS_WELL, 0o644);
    one_of_two_is_unfit(&f, "Permission denied", mended).await;
    put_program(&tool, "\0 no program", 0o755);
    one_of_two_is_unfit(&f, "Exec format error", mended).await;
    put_program(&tool, "#!/no/such/interpreter\n", 0o755);
    one_of_two_is_unfit(&f, "No such file", mended).await;
}

#[tokio::test]
async fn e6_a_full_disk_under_the_runs_of_one_of_two_machines_ends_no_job() {
    if !disk::available() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let f = two_with_tools(dir.path()).await;
    let disk = Disk::mount(DiskKind::Ext4 { mib: 16 }, &f.slaves[0].state_dir().join("runs")).unwrap();
    // Each leaves too little room for another step of the preparation.
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
    let program = dir.path().join("tool");
    let mut f = Factory::with(|options| own_program(options, &program)).await;
    let job = f.place(tool()).await;
    f.until(&job, "held back", |job| job["reason"]["code"] == "machine_unfit").await;
    let canceled = f.place(tool()).await;
    assert_eq!(f.job(&canceled).await["state"], "queued", "an unfit machine is given nothing");
    f.job_command(&canceled, "cancel", json!({})).await;
    put_program(&program, RUNS_WELL, 0o755);
    f.slaves[0].restart();
    f.session(0, 2).await;
    f.nets[0].cut(Close::Reset);
    f.slaves[0].reboot();
    let is_unfit = |status: &Value| status["machine"]["attention"] == "machine_unfit";
    let status = f.at_machine(0, "in need of a person", is_unfit).await;
    assert!(status["machine"]["attention_text"].as_str().unwrap().contains("No such file"), "{status:#}");
    f.held_as(0, &job, "accepted").await;
    assert!(f.locally(0, &["clear"]).await.contains("machine_unfit"));
    f.held_as(0, &job, "succeeded").await;
    f.nets[0].pass();
    assert_eq!(f.state(&job, "succeeded").await["attempt"], 1);
    f.state(&canceled, "canceled").await;
}
