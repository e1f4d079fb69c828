//! System calls on the store that fail once or permanently, and a file system that becomes read-only.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::rc::Rc;

use reloop_node::store::{Op, Options, Store};
use reloop_rig::client::Client;
use reloop_rig::disk::{self, Disk, DiskKind};
use reloop_rig::factory::{Factory, bake, for_nobody, for_s0, gated, much_later, work};
use reloop_rig::process::MasterOptions;
use reloop_rig::store_load;
use reloop_rig::wait::{PATIENCE, eventually};
use reloop_sim::simulation::Random;
use serde_json::{Value, json};

use super::load::{Load, Told, assert_kept, beside_clients};
use super::{all, assert_read_only, env, on, readyz, say, seed, until_refused};

/// The default number of failing system calls of each kind; `RELOOP_DISK_FAULTS` sets another.
const DISK_FAULTS: u64 = 3;
/// No thread of a starting master writes more often before it answers.
const WRITES_OF_A_START: u32 = 4;
/// The exit status of a node after a disk error.
const IO_ERROR: i32 = 74;

fn disk_faults() -> u64 {
    env("RELOOP_DISK_FAULTS").unwrap_or(DISK_FAULTS)
}

/// A wrapper under which one system call on the store's database file fails, or all from then on.
fn failing(store: &Path, call: &str, error: &str, when: &str) -> Vec<String> {
    let database = store.join("db").to_str().unwrap().to_owned();
    let (trace, inject) = (format!("trace={call}"), format!("inject={call}:error={error}:when={when}"));
    let words = ["strace", "-f", "-qq", "-o", "/dev/null", "-P", &database, "-e", &trace, "-e", &inject];
    words.map(str::to_owned).to_vec()
}

/// The call that fails, its error, and the number of the call in its thread, from `2..2 + calls`.
fn any_fault(random: &mut Random, calls: usize) -> (&'static str, &'static str, String) {
    let call = ["pwrite64", "fdatasync"][random.below(2)];
    let error = ["EIO", "ENOSPC"][random.below(2)];
    // A disk that fails once and works again afterwards is the more dangerous one.
    let when = format!("{}{}", 2 + random.below(calls), if random.one_in(2) { "+" } else { "" });
    (call, error, when)
}

/// A failed write-back leaves clean pages in the kernel's memory that are not on the disk and that nobody writes again.
#[test]
fn a_store_that_goes_on_after_its_disk_failed_builds_on_nothing_that_only_memory_holds() {
    if !disk::available() {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let mut disk = Disk::mount(DiskKind::Failing { mib: 24 }, &home.path().join("disk")).unwrap();
    let dir = store_load::dir_on(disk.path());
    let options = Options { cache_bytes: 1 << 20, min_free_bytes: 0 };
    let mut acknowledged = BTreeSet::new();
    let mut commit = |store: &Store, key: String| {
        let (answer, answered) = std::sync::mpsc::channel();
        let put = Op::Put { key: key.clone().into_bytes(), value: vec![7; 10_000] };
        store.commit(vec![put], move |result| answer.send(result).unwrap());
        let result = answered.recv_timeout(PATIENCE).unwrap();
        if result.is_ok() {
            acknowledged.insert(key);
        }
        result
    };
    let mut store = Store::open(&dir, options.clone()).unwrap().store;
    for round in 0..3 {
        for number in 0..10 {
            commit(&store, format!("{round} before {number}")).unwrap();
        }
        disk.fail_writes(&dir.join("db"));
        let failed = (0..100).find_map(|number| commit(&store, format!("{round} during {number}")).err());
        assert!(failed.is_some(), "the disk takes all writes");
        store.close().unwrap_err();
        disk.take_writes();
        // The kernel reports an error that it has not reported yet to the next one who opens the file.
        let again = (0..10).find_map(|_| Store::open(&dir, options.clone()).ok());
        let again = again.expect("the disk takes writes again");
        assert_eq!(again.set_aside, None);
        store = again.store;
        for number in 0..10 {
            commit(&store, format!("{round} after {number}")).unwrap();
        }
    }
    let left = disk.as_the_power_cut_leaves_it();
    drop(store);
    disk.come_back_as(left);
    let opened = Store::open(&dir, options).unwrap();
    assert_eq!(opened.set_aside, None, "{} commits were acknowledged", acknowledged.len());
    let mut found = BTreeSet::new();
    opened.store.load(b"", |key, _| found.extend([String::from_utf8(key.to_vec()).unwrap()])).unwrap();
    let lost: Vec<_> = acknowledged.difference(&found).collect();
    assert!(lost.is_empty(), "{lost:?}");
}

#[tokio::test]
async fn a_master_whose_disk_gives_errors_acknowledges_nothing_that_is_not_there_afterwards() {
    if disk::faults_available() {
        beside_clients(fail_the_masters_disk()).await;
    }
}

async fn fail_the_masters_disk() {
    let (seed, faults) = (seed(), disk_faults());
    let mut random = Random::new(seed);
    let mut f = Factory::new().await;
    let store = f.master.data_dir().join("store");
    let mut told = Rc::new(RefCell::new(Told::default()));
    for fault in 1..=faults {
        let (call, error, at) = any_fault(&mut random, 40);
        let when = format!("RELOOP_SEED={seed}, fault {fault}: {call} {error} at {at}");
        let tag = format!("g{fault}");
        let running = f.running(gated(&tag)).await;
        f.master.options_mut().wrapper = failing(&store, call, error, &at);
        // The error may come before the master has its store.
        if let Err(status) = f.master.try_restart().await {
            assert_eq!(status.code(), Some(IO_ERROR), "{when}:\n{}", f.master.log());
        } else {
            let mut load = Load::start_on(&f.client, random.any(), &["s0"], Rc::clone(&told), fault);
            readyz(&f.client, 503, &when).await;
            assert_read_only(&f, &running, &when).await;
            load.stop().await;
            told = load.told;
        }
        let said_so = f.master.log().contains("no write is acknowledged any more");
        assert!(said_so || !f.master.is_alive(), "{when}");
        f.master.options_mut().wrapper.clear();
        f.master.restart().await;
        assert_kept(&f.client, &told, &mut random, &when).await;
        f.online(0).await;
        f.finish(&running, &tag).await;
        f.holds_nothing(0).await;
        assert!(!f.master.log().contains("panicked"), "{when}:\n{}", f.master.log());
    }
    say(&format!("failing disks of a master: {faults}, {} orders, none lost", told.borrow().orders.len()));
}

/// A master's first write after a start records the start. If it fails, the master answers, and tries again by itself.
#[tokio::test]
async fn a_master_whose_start_can_not_be_written_down_answers_and_tries_again_by_itself() {
    const FAILED: &str = "this start can't be written down";
    if !disk::faults_available() {
        return;
    }
    let mut f = Factory::empty(MasterOptions::default()).await;
    let order = work("kept", 0.0);
    let placed = f.client.place(&order, Some("kept")).await.unwrap().expect(201);
    let job = reloop_rig::factory::job_of(&placed);
    let store = f.master.data_dir().join("store");
    // Opening a store writes too; if that fails the master exits.
    for nth in 1..=WRITES_OF_A_START {
        f.master.options_mut().wrapper = failing(&store, "pwrite64", "ENOSPC", &nth.to_string());
        if f.master.try_restart().await.is_ok() && f.master.log().contains(FAILED) {
            break;
        }
    }
    assert!(f.master.log().contains(FAILED), "{}", f.master.log());
    readyz(&f.client, 503, "a start that is not written down").await;
    assert_eq!(f.job(&job).await["state"], "queued", "it answers");
    let refused = f.client.place(&bake(0.0), None).await.unwrap();
    assert_eq!((refused.status, &refused.body["code"]), (503, &json!("storage_unavailable")));
    eventually("another try", PATIENCE, async || {
        let log = f.master.log();
        let since = log.split(FAILED).nth(1);
        if since.is_some_and(|since| since.contains("starts anew")) { Ok(()) } else { Err(log) }
    })
    .await;
    f.master.options_mut().wrapper.clear();
    f.master.restart().await;
    readyz(&f.client, 200, "a start that is written down").await;
    let again = f.client.place(&order, Some("kept")).await.unwrap().expect(201);
    assert_eq!(again["id"], placed["id"]);
}

/// What is shown is what was on the disk before the error.
#[tokio::test]
async fn a_cancel_that_never_reached_the_masters_disk_is_not_shown_while_it_fails() {
    if !disk::faults_available() {
        return;
    }
    let mut f = Factory::empty(MasterOptions::default()).await;
    let store = f.master.data_dir().join("store");
    let mut jobs = vec![];
    for _ in 0..20 {
        jobs.push(f.place(for_nobody()).await);
    }
    f.master.options_mut().wrapper = failing(&store, "fdatasync", "EIO", "8+");
    f.master.restart().await;
    let cancel = async |f: &Factory, job| f.client.job_command(job, "cancel", &json!({})).await.unwrap();
    let mut shown = BTreeMap::new();
    for job in &jobs {
        let is_canceled = cancel(&f, job).await.status == 202;
        shown.insert(job.clone(), if is_canceled { "canceled" } else { "queued" });
    }
    let canceled = shown.values().filter(|state| **state == "canceled").count();
    assert!((1..jobs.len()).contains(&canceled), "it fails in the middle: {canceled}");
    // The master first reads its state again from the disk.
    eventually("questions to be answered", PATIENCE, async || match f.client.jobs("limit=1").await {
        Ok(reply) if reply.status == 200 => Ok(()),
        Ok(reply) if reply.body["code"] == "storage_unavailable" => Err(format!("{reply:?}")),
        other => panic!("{other:?}"),
    })
    .await;
    assert_states(&f.client, &shown, "while the disk fails").await;
    let refused = cancel(&f, &jobs[jobs.len() - 1]).await.expect(503);
    assert!(refused["detail"].as_str().unwrap().contains("every 10 s"), "{refused:#}");
    f.master.options_mut().wrapper.clear();
    f.master.restart().await;
    shown.retain(|_, state| *state == "canceled");
    assert_states(&f.client, &shown, "after a new start").await;
}

/// Checks the jobs one by one, in the list, and through their orders.
async fn assert_states(client: &Client, shown: &BTreeMap<String, &str>, when: &str) {
    let listed = all(client, "/v1/jobs").await;
    for (job, state) in shown {
        assert_eq!(listed[job]["state"], *state, "{when}: {:#}", listed[job]);
        let one = client.job(job).await.unwrap().expect(200);
        assert_eq!(one["state"], *state, "{when}: {one:#}");
        let order = client.order(one["order"].as_str().unwrap()).await.unwrap().expect(200);
        assert_eq!(order["jobs"][0]["state"], *state, "{when}: {order:#}");
    }
}

#[tokio::test]
async fn a_slave_whose_disk_gives_errors_leaves_its_machine_alone_and_begins_nothing() {
    if !disk::faults_available() {
        return;
    }
    let (seed, faults) = (seed(), disk_faults());
    let mut random = Random::new(seed);
    let mut f = Factory::new().await;
    let store = f.slaves[0].state_dir().join("store");
    for fault in 1..=faults {
        // A start and some offers are fewer writes than a load of orders.
        let (call, error, at) = any_fault(&mut random, 12);
        let when = format!("RELOOP_SEED={seed}, fault {fault}: {call} {error} at {at}");
        let (tag, behind) = (format!("g{fault}"), format!("b{fault}"));
        let running = f.running(gated(&tag)).await;
        let waiting = f.waiting(work(&behind, 0.0), "turn").await;
        f.slaves[0].options_mut().wrapper = failing(&store, call, error, &at);
        f.slaves[0].restart();
        let canceled = write_until_the_store_fails(&mut f, &when).await;
        // The work ends but nothing follows from it: its end is not durable.
        f.slaves[0].open_gate(&tag);
        f.machine_ended(0, &tag).await;
        assert_eq!(f.starts(&behind), 0, "{when}");
        f.slaves[0].options_mut().wrapper.clear();
        f.slaves[0].restart();
        f.state(&running, "succeeded").await;
        f.state(&waiting, "succeeded").await;
        for job in &canceled {
            f.state(job, "canceled").await;
        }
        f.started_once(&[&tag, &behind]);
        f.holds_nothing(0).await;
        assert!(!f.slaves[0].log().contains("panicked"), "{when}:\n{}", f.slaves[0].log());
    }
    f.never_started(&["never"]);
    say(&format!("failing disks of a slave: {faults}, no job lost, stopped or begun twice"));
}

/// Makes offers and cancels them, which makes the slave write, until its store fails. Returns the canceled jobs.
async fn write_until_the_store_fails(f: &mut Factory, when: &str) -> Vec<String> {
    let mut canceled = vec![];
    eventually(&format!("the store to fail ({when})"), PATIENCE, async || {
        // The error may come before the agent has its store.
        if let Some(status) = f.slaves[0].ended() {
            let is_right = status.code() == Some(IO_ERROR);
            return if is_right { Ok(()) } else { Err(format!("{when}: {status}")) };
        }
        let (done, text) = f.local(0, &["status", "--json"]).await;
        let status: Value = serde_json::from_str(&text).unwrap_or_default();
        if done && status["store"]["healthy"] == false {
            assert!(!status["store"]["text"].as_str().unwrap().is_empty(), "{when}");
            return Ok(());
        }
        let job = f.place(much_later(for_s0(work("never", 0.0)))).await;
        drop(f.client.job_command(&job, "cancel", &json!({})).await);
        canceled.push(job);
        Err(text)
    })
    .await;
    canceled
}

#[tokio::test]
async fn a_master_whose_file_system_turns_read_only_answers_and_loses_nothing() {
    if !disk::available() {
        return;
    }
    let mut f = Factory::at(on(DiskKind::Ext4 { mib: 64 })).await;
    let job = f.running(gated("ro")).await;
    let order = work("kept", 0.0);
    let placed = f.client.place(&order, Some("kept")).await.unwrap().expect(201);
    f.master.disk().turn_read_only();
    until_refused(&f.client, &bake(0.0)).await;
    assert_read_only(&f, &job, "read-only").await;
    // The disk is checked and mounted again, as after a repair.
    f.master.cut_power();
    f.master.restart().await;
    let again = f.client.place(&order, Some("kept")).await.unwrap().expect(201);
    assert_eq!(again["id"], placed["id"]);
    f.finish(&job, "ro").await;
}
