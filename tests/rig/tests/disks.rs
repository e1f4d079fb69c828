//! Disks that lose their power, give errors, are full or come back damaged, under real nodes: what was acknowledged is
//! there, and what cannot be kept is said.
//!
//! `RELOOP_POWER_CUTS` and `RELOOP_DISK_FAULTS` set how many there are of each, `RELOOP_SEED` picks which.
#![cfg(test)]
#![allow(clippy::unwrap_used, reason = "all of it is test")]

mod scenario;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::future::Future;
use std::io::Write as _;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use reloop_node::store::{Op, Options, Store};
use reloop_rig::client::Client;
use reloop_rig::daemon::binary;
use reloop_rig::disk::{self, Disk, DiskKind};
use reloop_rig::process::MasterOptions;
use reloop_rig::proxy::Close;
use reloop_rig::store_load::{self, Found, Shape, Worker};
use reloop_rig::wait::eventually;
use reloop_sim::simulation::Random;
use scenario::{Factory, PATIENCE, bake, gated, held, job_of, with, work};
use serde_json::{Value, json};

/// Power cuts of each kind if RELOOP_POWER_CUTS says nothing.
const POWER_CUTS: u64 = 5;
/// Failing system calls of each kind if RELOOP_DISK_FAULTS says nothing.
const DISK_FAULTS: u64 = 3;
/// No thread of a starting master writes more often before it answers.
const WRITES_OF_A_START: u32 = 4;

fn env(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

/// The same faults at every run of the test command; `RELOOP_SEED` tries others.
const SEED: u64 = 1;

fn seed() -> u64 {
    env("RELOOP_SEED").unwrap_or(SEED)
}

/// Not captured by the test runner: it is needed to repeat a failure.
fn say(what: &str) {
    writeln!(std::io::stderr(), "{what}").unwrap();
}

/// The store alone, at the rate that it can take: each power cut is survived by the store that survived the last one.
#[test]
fn a_store_under_load_outlives_power_cuts_with_every_acknowledged_batch_whole() {
    if !disk::available() {
        return;
    }
    let (seed, cuts) = (seed(), 2 * env("RELOOP_POWER_CUTS").unwrap_or(POWER_CUTS));
    let tally = cut_a_stores_power(seed, cuts, |_| {});
    say(&format!("power cuts of a store: {tally}"));
    assert_eq!((tally.lost, tally.unopened), (0, 0), "RELOOP_SEED={seed}: {:#?}", tally.failures);
}

/// Otherwise the cuts would show nothing.
#[test]
fn the_same_power_cuts_lose_writes_when_fdatasync_does_nothing() {
    if !disk::available() || !disk::faults_available() {
        return;
    }
    let tally =
        cut_a_stores_power(seed(), env("RELOOP_POWER_CUTS").unwrap_or(POWER_CUTS), Worker::leave_syncs_out);
    say(&format!("power cuts of a store without fdatasync: {tally}"));
    assert!(tally.lost + tally.unopened > 0, "all writes outlived power cuts without a sync");
}

/// A write-back that fails leaves pages in the kernel's memory that the disk never gets and that nobody writes again.
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
        // An error that nobody was told of yet is told to whoever opens the store next.
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

#[derive(Default)]
struct Tally {
    cuts: u64,
    batches: u64,
    lost: u64,
    unopened: u64,
    failures: Vec<String>,
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { cuts, batches, lost, unopened, .. } = self;
        write!(f, "{cuts}, at most {batches} batches in one store, {lost} lost some, {unopened} did not open")
    }
}

fn cut_a_stores_power(seed: u64, cuts: u64, prepare: impl Fn(&mut Worker)) -> Tally {
    let mut random = Random::new(seed);
    let home = tempfile::tempdir().unwrap();
    let fresh = |number: u64| {
        let at = home.path().join(format!("disk-{number}"));
        Disk::mount(DiskKind::Ext4 { mib: 64 }, &at).unwrap()
    };
    let mut disk = fresh(0);
    let mut acknowledged = BTreeMap::new();
    let mut tally = Tally { cuts, ..Tally::default() };
    for cut in 1..=cuts {
        let mut worker = Worker::start(&binary("store-load"), &store_load::dir_on(disk.path()));
        prepare(&mut worker);
        let enough = worker.progress().max(acknowledged.values().sum()) + 1 + random.below(800) as u64;
        let end = Instant::now() + PATIENCE;
        while worker.progress() < enough {
            assert!(worker.is_alive() && Instant::now() < end, "the worker does not write (seed {seed})");
            std::thread::yield_now();
        }
        acknowledged.extend(worker.lose_power(&mut disk));
        tally.batches = tally.batches.max(acknowledged.values().sum());
        let failure = match store_load::verify(&store_load::dir_on(disk.path()), Shape::Master, &acknowledged)
        {
            Found::Whole(last) => {
                acknowledged = last;
                continue;
            }
            Found::Lost(how) => {
                tally.lost += 1;
                how
            }
            Found::Unopened(how) => {
                tally.unopened += 1;
                how
            }
        };
        tally.failures.push(format!("cut {cut}: {failure}"));
        acknowledged.clear();
        disk = fresh(cut);
    }
    tally
}

/// What clients have been told, over all power cuts.
#[derive(Default)]
struct Told {
    /// By idempotency key: the order, and its id.
    orders: BTreeMap<String, (Value, String)>,
    /// Jobs that were seen to have ended, and how.
    ended: BTreeMap<String, String>,
    /// The newest session of which a receipt was read, by slave.
    sessions: BTreeMap<String, u64>,
}

impl Told {
    fn job(&mut self, job: &Value) {
        if job["ended_at"].is_string() {
            let (id, state) = (job["id"].as_str().unwrap(), job["state"].as_str().unwrap());
            let before = self.ended.insert(id.to_owned(), state.to_owned());
            assert!(before.is_none_or(|before| before == state), "an ended job has another end: {job:#}");
        }
    }
}

/// Clients that place, cancel and look, all at once, until they are stopped.
struct Load {
    told: Rc<RefCell<Told>>,
    stopped: Rc<Cell<bool>>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Load {
    fn start(client: &Client, seed: u64, slaves: &[String]) -> Self {
        Self::start_on(client, seed, slaves, Rc::default(), 0)
    }

    /// Clients with keys of their own that add to what was told before.
    fn start_on(client: &Client, seed: u64, slaves: &[String], told: Rc<RefCell<Told>>, round: u64) -> Self {
        const PLACERS: u64 = 6;
        let mut load = Self { told, stopped: Rc::default(), tasks: vec![] };
        for placer in 0..PLACERS {
            let (told, stopped, client) = load.shared(client);
            load.tasks.push(tokio::task::spawn_local(async move {
                let mut random = Random::new(seed ^ placer << 32);
                let mut number = 0;
                while !stopped.get() {
                    let key = format!("{round}-{placer}-{number}");
                    let order = match random.below(8) {
                        0 => with(bake(0.0), json!({"quantity": 2})),
                        1 => bake(0.0),
                        // No slave has that: it waits at the master until it is canceled. Two slaves could not keep up
                        // with so many orders.
                        _ => with(bake(0.0), json!({"requires": {"place": "nowhere"}})),
                    };
                    // A client never gives up: the key sees to it that the order is there once.
                    while !stopped.get() {
                        match client.place(&order, Some(&key)).await {
                            Ok(reply) if reply.status == 201 => {
                                let id = reply.body["id"].as_str().unwrap().to_owned();
                                told.borrow_mut().orders.insert(key, (order, id));
                                break;
                            }
                            Ok(reply) => assert_eq!(reply.status, 503, "{:#}", reply.body),
                            Err(_) => {}
                        }
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                    number += 1;
                }
            }));
        }
        let (told, stopped, client_) = load.shared(client);
        load.tasks.push(tokio::task::spawn_local(async move {
            let mut random = Random::new(seed ^ 77);
            while !stopped.get() {
                let some = {
                    let told = told.borrow();
                    let at = random.below(told.orders.len());
                    told.orders.values().nth(at).map(|(_, id)| id.clone())
                };
                let Some(order) = some else {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    continue;
                };
                // If nobody answers, it is not canceled; what came of it is looked at.
                drop(client_.cancel_order(&order, &json!({})).await);
                if let Ok(reply) = client_.order(&order).await
                    && reply.status == 200
                {
                    let mut told = told.borrow_mut();
                    reply.body["jobs"].as_array().unwrap().iter().for_each(|job| told.job(job));
                }
            }
        }));
        let (told, stopped, client_) = load.shared(client);
        let slaves = slaves.to_vec();
        load.tasks.push(tokio::task::spawn_local(async move {
            while !stopped.get() {
                if let Ok(reply) = client_.jobs("limit=50").await
                    && reply.status == 200
                {
                    let mut told = told.borrow_mut();
                    reply.body["data"].as_array().unwrap().iter().for_each(|job| told.job(job));
                }
                for slave in &slaves {
                    let newest = newest_session(&client_, slave).await;
                    let mut told = told.borrow_mut();
                    let session = told.sessions.entry(slave.clone()).or_default();
                    *session = newest.unwrap_or(0).max(*session);
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }));
        load
    }

    fn shared(&self, client: &Client) -> (Rc<RefCell<Told>>, Rc<Cell<bool>>, Client) {
        (Rc::clone(&self.told), Rc::clone(&self.stopped), client.clone())
    }

    /// Waits until so many more orders were acknowledged.
    async fn more_orders(&self, count: usize) {
        let wanted = self.told.borrow().orders.len() + count;
        eventually("orders to be acknowledged", PATIENCE, async || {
            let placed = self.told.borrow().orders.len();
            if placed >= wanted { Ok(()) } else { Err(placed) }
        })
        .await;
    }

    async fn stop(&mut self) {
        self.stopped.set(true);
        for task in self.tasks.drain(..) {
            task.await.unwrap();
        }
    }
}

async fn newest_session(client: &Client, slave: &str) -> Option<u64> {
    let reply = client.receipts(slave).await.ok().filter(|reply| reply.status == 200)?;
    reply.body["data"].as_array()?.iter().filter_map(|receipt| receipt["session"].as_u64()).max()
}

/// A whole list, page by page.
async fn all(client: &Client, path: &str) -> BTreeMap<String, Value> {
    let mut found = BTreeMap::new();
    let mut cursor = String::new();
    loop {
        let page = client.get(&format!("{path}?limit=200{cursor}")).await.unwrap().expect(200);
        for one in page["data"].as_array().unwrap() {
            found.insert(one["id"].as_str().unwrap().to_owned(), one.clone());
        }
        let Some(next) = page["next_cursor"].as_str() else { return found };
        cursor = format!("&cursor={next}");
    }
}

/// Nothing that a client was told may be missing or have gone back.
async fn assert_kept(client: &Client, told: &RefCell<Told>, random: &mut Random, when: &str) {
    let (orders, ended, sessions) = {
        let told = told.borrow();
        (told.orders.clone(), told.ended.clone(), told.sessions.clone())
    };
    let (there, jobs) = (all(client, "/v1/orders").await, all(client, "/v1/jobs").await);
    let missing: Vec<_> = orders.values().filter(|(_, id)| !there.contains_key(id)).collect();
    assert!(missing.is_empty(), "{when}: {} of {} orders are gone: {missing:?}", missing.len(), orders.len());
    let back: Vec<_> = ended.iter().filter(|(id, state)| jobs[*id]["state"] != **state).collect();
    assert!(back.is_empty(), "{when}: ended jobs went back: {back:?}");
    for (slave, session) in &sessions {
        assert!(
            newest_session(client, slave).await.unwrap_or(0) >= *session,
            "{when}: a receipt of {slave} is gone"
        );
    }
    let keys: Vec<_> = orders.iter().collect();
    for _ in 0..10.min(keys.len()) {
        // Old ones and the very last ones.
        let at = if random.one_in(2) {
            random.below(keys.len())
        } else {
            keys.len() - 1 - random.below(keys.len().min(6))
        };
        let (key, (order, id)) = keys[at];
        let again = client.place(order, Some(key)).await.unwrap().expect(201);
        assert_eq!(again["id"], **id, "{when}: the key {key} stands for another order");
    }
}

/// Runs something whose clients are tasks beside it.
async fn local<T>(work: impl Future<Output = T>) -> T {
    tokio::task::LocalSet::new().run_until(work).await
}

#[tokio::test]
async fn a_master_outlives_power_cuts_with_all_that_its_clients_were_told() {
    if disk::available() {
        local(cut_the_masters_power()).await;
    }
}

async fn cut_the_masters_power() {
    /// A history grows with every order: a new factory now and then keeps it on its disk and quick to read.
    const CUTS_PER_FACTORY: u64 = 10;
    let (seed, cuts) = (seed(), env("RELOOP_POWER_CUTS").unwrap_or(POWER_CUTS));
    let mut random = Random::new(seed);
    let (mut done, mut orders, mut ended) = (0, 0, 0);
    while done < cuts {
        let disk = DiskKind::Ext4 { mib: 192 };
        let mut f = Factory::empty(MasterOptions {
            config: "min_free_bytes = 0".to_owned(),
            disk,
            ..MasterOptions::default()
        })
        .await;
        for slave in 0..2 {
            f.add(|_| {});
            f.online(slave).await;
        }
        let mut load = Load::start(&f.client, random.any(), &["s0".to_owned(), "s1".to_owned()]);
        for _ in 0..CUTS_PER_FACTORY.min(cuts - done) {
            done += 1;
            load.more_orders(1 + random.below(150)).await;
            f.master.cut_power();
            f.master.restart().await;
            let when = format!("RELOOP_SEED={seed}, power cut {done}");
            assert!(!f.master.log().contains("ERROR"), "{when}:\n{}", f.master.log());
            assert_kept(&f.client, &load.told, &mut random, &when).await;
        }
        load.stop().await;
        for slave in 0..2 {
            let seen = f.online(slave).await;
            assert!(seen["attention"].is_null(), "RELOOP_SEED={seed}: {seen:#}");
            f.holds_nothing(slave).await;
        }
        let jobs = all(&f.client, "/v1/jobs").await;
        ended += jobs.values().filter(|job| job["ended_at"].is_string()).count();
        let adopted: Vec<_> = jobs.values().filter(|job| scenario::has_flag(job, "adopted")).collect();
        assert!(
            adopted.is_empty(),
            "RELOOP_SEED={seed}: jobs were handed out that the master forgot: {adopted:#?}"
        );
        orders += load.told.borrow().orders.len();
    }
    say(&format!("power cuts of a master: {cuts}, {orders} orders, {ended} ended jobs, none lost"));
}

#[tokio::test]
async fn a_slave_outlives_power_cuts_and_knows_every_start_of_its_machine() {
    if disk::available() {
        local(cut_the_slaves_power()).await;
    }
}

async fn cut_the_slaves_power() {
    let (seed, cuts) = (seed(), env("RELOOP_POWER_CUTS").unwrap_or(POWER_CUTS));
    let mut random = Random::new(seed);
    let mut f = Factory::with(|options| options.disk = DiskKind::Ext4 { mib: 64 }).await;
    // Jobs by tag. So many wait that one begins as soon as another ends.
    let mut jobs: BTreeMap<String, String> = BTreeMap::new();
    let mut uncertain = 0;
    for cut in 1..=cuts {
        let when = format!("RELOOP_SEED={seed}, power cut {cut}");
        let enough = 1 + random.below(4);
        let ended_before = ended_jobs(&f.client).await.len();
        // Short jobs, so that ends, reports, forgets and starts come close together.
        for number in 0..enough + 4 {
            let tag = format!("c{cut}-{number}");
            let seconds = random.below(120) as f64 / 1000.0;
            jobs.insert(tag.clone(), f.place(work(&tag, seconds)).await);
        }
        eventually("jobs to end", PATIENCE, async || {
            let ended = ended_jobs(&f.client).await.len();
            if ended >= ended_before + enough { Ok(()) } else { Err(ended) }
        })
        .await;
        // At any moment of a start or an end.
        tokio::time::sleep(Duration::from_micros(random.below(150_000) as u64)).await;
        f.slaves[0].cut_power();
        f.nets[0].cut(Close::Reset);
        let told = ended_jobs(&f.client).await;

        f.slaves[0].restart();
        let status =
            f.at_machine(0, "back without a link", |status| status["machine"]["attention"].is_null()).await;
        let begun: BTreeSet<String> = f.slaves[0]
            .machine_log()
            .into_iter()
            .filter(|(what, ..)| what == "start")
            .map(|(_, tag, _)| tag)
            .collect();
        for tag in &begun {
            let job = &jobs[tag];
            match held(&status, job) {
                Some(held) => assert_ne!(held["state"], "accepted", "{when}: {tag} was begun: {held:#}"),
                None => assert!(told.contains_key(job), "{when}: {tag} was begun, and nobody knows of it"),
            }
        }
        f.nets[0].pass();
        f.online(0).await;
        let newest = f.client.receipts("s0").await.unwrap().expect(200);
        let newest = newest["data"]
            .as_array()
            .unwrap()
            .iter()
            .max_by_key(|receipt| receipt["session"].as_u64())
            .unwrap();
        for line in newest["lines"].as_array().unwrap() {
            let distrust = [
                "a_promise_was_broken",
                "the_memory_is_gone",
                "the_memory_is_old",
                "an_ended_attempt_is_not_alive",
            ];
            let text = line.to_string();
            assert!(!distrust.iter().any(|rule| text.contains(rule)), "{when}: {line:#}");
        }
        // The one that the cut interrupted is a person's to settle; all others go on by themselves.
        eventually("all jobs to end", PATIENCE, async || {
            let seen = all(&f.client, "/v1/jobs").await;
            for job in seen.values().filter(|job| job["state"] == "uncertain") {
                let id = job["id"].as_str().unwrap();
                if f.client
                    .resolve(id, &json!({"outcome": "failed"}))
                    .await
                    .is_ok_and(|reply| reply.status == 202)
                {
                    uncertain += 1;
                }
            }
            let open: Vec<_> = seen.into_values().filter(|job| !job["ended_at"].is_string()).collect();
            if open.is_empty() { Ok(()) } else { Err(open) }
        })
        .await;
        let now = ended_jobs(&f.client).await;
        assert!(told.iter().all(|(job, state)| now[job] == *state), "{when}: {told:?} {now:?}");
        for tag in jobs.keys() {
            assert!(f.slaves[0].starts(tag) <= 1, "{when}: {tag} was begun twice");
        }
    }
    assert!(!f.slaves[0].log().contains("ERROR"), "{}", f.slaves[0].log());
    let jobs = jobs.len();
    say(&format!(
        "power cuts of a slave: {cuts}, {jobs} jobs, {uncertain} interrupted, none begun twice or forgotten"
    ));
}

async fn ended_jobs(client: &Client) -> BTreeMap<String, String> {
    let jobs = all(client, "/v1/jobs").await.into_values().filter(|job| job["ended_at"].is_string());
    jobs.map(|job| (job["id"].as_str().unwrap().to_owned(), job["state"].as_str().unwrap().to_owned()))
        .collect()
}

/// A wrapper under which one system call on the store's database file fails, or all from then on.
fn failing(store: &Path, call: &str, error: &str, when: &str) -> Vec<String> {
    let database = store.join("db").to_str().unwrap().to_owned();
    let inject = format!("inject={call}:error={error}:when={when}");
    let words = [
        "strace",
        "-f",
        "-qq",
        "-o",
        "/dev/null",
        "-P",
        &database,
        "-e",
        &format!("trace={call}"),
        "-e",
        &inject,
    ];
    words.map(str::to_owned).to_vec()
}

/// Which call fails, how, and when it is called for the how manieth time by its thread.
fn any_fault(random: &mut Random) -> (&'static str, &'static str, String) {
    let call = ["pwrite64", "fdatasync"][random.below(2)];
    let error = ["EIO", "ENOSPC"][random.below(2)];
    // A disk that fails once and then seems fine again is the more dangerous one.
    let when = format!("{}{}", 2 + random.below(40), if random.one_in(2) { "+" } else { "" });
    (call, error, when)
}

/// Until the master says that it takes no orders.
async fn not_ready(client: &Client, when: &str) {
    eventually(&format!("not ready ({when})"), PATIENCE, async || match client.readyz().await {
        Ok(reply) if reply.status == 503 => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
}

/// A master that cannot write refuses what it would have to write, says why, and answers questions.
async fn assert_read_only(f: &Factory, job: &str, when: &str) {
    let refused = f.client.place(&bake(0.0), Some("refused")).await.unwrap();
    assert_eq!((refused.status, &refused.body["code"]), (503, &json!("storage_unavailable")), "{when}");
    assert!(!refused.body["detail"].as_str().unwrap().is_empty(), "{when}");
    let refused = f.client.cancel(job, &json!({})).await.unwrap();
    assert_eq!((refused.status, &refused.body["code"]), (503, &json!("storage_unavailable")), "{when}");
    assert_eq!(f.client.livez().await.unwrap().status, 200, "{when}");
    // What is on the disk is shown, as far as it can be read; either way there is an answer.
    let one = f.client.job(job).await.unwrap();
    if f.master.log().contains("questions are refused") {
        assert_eq!((one.status, &one.body["code"]), (503, &json!("storage_unavailable")), "{when}: {one:?}");
    } else {
        let one = one.expect(200);
        assert_eq!(
            (&one["id"], &one["freshness"]["link"]),
            (&json!(job), &json!("offline")),
            "{when}: {one:#}"
        );
    }
    let history = f.client.jobs("limit=10").await.unwrap();
    assert!(history.status == 200 || history.body["code"] == "storage_unavailable", "{when}: {history:?}");
    let why = f.client.get("/readyz?verbose").await.unwrap();
    assert!(why.status == 503 && why.body.to_string().contains("store failed"), "{when}: {why:?}");
}

#[tokio::test]
async fn a_master_whose_disk_gives_errors_acknowledges_nothing_that_is_not_there_afterwards() {
    if disk::faults_available() {
        local(fail_the_masters_disk()).await;
    }
}

async fn fail_the_masters_disk() {
    let (seed, faults) = (seed(), env("RELOOP_DISK_FAULTS").unwrap_or(DISK_FAULTS));
    let mut random = Random::new(seed);
    let mut f = Factory::new().await;
    let store = f.master.data_dir().join("store");
    let mut told = Rc::new(RefCell::new(Told::default()));
    for fault in 1..=faults {
        let (call, error, at) = any_fault(&mut random);
        let when = format!("RELOOP_SEED={seed}, fault {fault}: {call} {error} at {at}");
        let running = f.place(gated(&format!("g{fault}"))).await;
        f.state(&running, "running").await;
        f.master.options_mut().wrapper = failing(&store, call, error, &at);
        // It may come so early that the master does not get its store.
        if let Err(status) = f.master.try_restart().await {
            assert_eq!(status.code(), Some(74), "{when}:\n{}", f.master.log());
        } else {
            let mut load =
                Load::start_on(&f.client, random.any(), &["s0".to_owned()], Rc::clone(&told), fault);
            not_ready(&f.client, &when).await;
            assert_read_only(&f, &running, &when).await;
            load.stop().await;
            told = load.told;
        }
        assert!(
            f.master.log().contains("no write is acknowledged any more") || !f.master.is_alive(),
            "{when}"
        );
        f.master.options_mut().wrapper.clear();
        f.master.restart().await;
        assert_kept(&f.client, &told, &mut random, &when).await;
        f.online(0).await;
        f.slaves[0].open_gate(&format!("g{fault}"));
        f.state(&running, "succeeded").await;
        assert_eq!(f.slaves[0].starts(&format!("g{fault}")), 1, "{when}");
        f.holds_nothing(0).await;
        assert!(!f.master.log().contains("panicked"), "{when}:\n{}", f.master.log());
    }
    say(&format!("failing disks of a master: {faults}, {} orders, none lost", told.borrow().orders.len()));
}

/// A master's first write of each start says that it has started. Where that fails it answers, and tries again by itself.
#[tokio::test]
async fn a_master_whose_start_can_not_be_written_down_answers_and_tries_again_by_itself() {
    if !disk::faults_available() {
        return;
    }
    let mut f = Factory::empty(MasterOptions::default()).await;
    let placed = f.client.place(&work("kept", 0.0), Some("kept")).await.unwrap().expect(201);
    let job = placed["jobs"][0]["id"].as_str().unwrap().to_owned();
    let store = f.master.data_dir().join("store");
    let when = "a start that is not written down";
    // Opening a store writes too, and where that fails there is no master.
    for nth in 1..=WRITES_OF_A_START {
        f.master.options_mut().wrapper = failing(&store, "pwrite64", "ENOSPC", &nth.to_string());
        let is_up = f.master.try_restart().await.is_ok();
        if is_up && f.master.log().contains("this start can't be written down") {
            break;
        }
    }
    assert!(f.master.log().contains("this start can't be written down"), "{}", f.master.log());
    not_ready(&f.client, when).await;
    assert_eq!(f.client.job(&job).await.unwrap().expect(200)["state"], "queued", "it answers");
    let refused = f.client.place(&bake(0.0), None).await.unwrap();
    assert_eq!((refused.status, &refused.body["code"]), (503, &json!("storage_unavailable")));
    eventually("another try", PATIENCE, async || {
        let log = f.master.log();
        let again = log.split("this start can't be written down").nth(1);
        if again.is_some_and(|since| since.contains("starts anew")) { Ok(()) } else { Err(log) }
    })
    .await;
    f.master.options_mut().wrapper.clear();
    f.master.restart().await;
    ready(&f.client).await;
    let again = f.client.place(&work("kept", 0.0), Some("kept")).await.unwrap().expect(201);
    assert_eq!(again["id"], placed["id"]);
}

/// What is shown is what was on the disk before, whatever the kernel makes of the rest.
#[tokio::test]
async fn a_cancel_that_never_reached_the_masters_disk_is_not_shown_while_it_fails() {
    if !disk::faults_available() {
        return;
    }
    let mut f = Factory::empty(MasterOptions::default()).await;
    let store = f.master.data_dir().join("store");
    let mut jobs = vec![];
    for _ in 0..20 {
        jobs.push(f.place(with(bake(0.0), json!({"requires": {"place": "nowhere"}}))).await);
    }
    f.master.options_mut().wrapper = failing(&store, "fdatasync", "EIO", "8+");
    f.master.restart().await;
    let mut shown = BTreeMap::new();
    for job in &jobs {
        let canceled = f.client.cancel(job, &json!({})).await.unwrap().status == 202;
        shown.insert(job.clone(), if canceled { "canceled" } else { "queued" });
    }
    let canceled = shown.values().filter(|state| **state == "canceled").count();
    assert!((1..jobs.len()).contains(&canceled), "it fails in the middle: {canceled}");
    // It takes a moment until what is on the disk has been read.
    eventually("questions to be answered", PATIENCE, async || match f.client.jobs("limit=1").await {
        Ok(reply) if reply.status == 200 => Ok(()),
        Ok(reply) if reply.body["code"] == "storage_unavailable" => Err(format!("{reply:?}")),
        other => panic!("{other:?}"),
    })
    .await;
    assert_states(&f.client, &shown, "while the disk fails").await;
    let refused = f.client.cancel(&jobs[jobs.len() - 1], &json!({})).await.unwrap();
    assert_eq!(refused.status, 503);
    assert!(refused.body["detail"].as_str().unwrap().contains("every 10 s"), "{:#}", refused.body);
    f.master.options_mut().wrapper.clear();
    f.master.restart().await;
    shown.retain(|_, state| *state == "canceled");
    assert_states(&f.client, &shown, "after a new start").await;
}

/// One by one, in the list, and through their orders.
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
    let (seed, faults) = (seed(), env("RELOOP_DISK_FAULTS").unwrap_or(DISK_FAULTS));
    let mut random = Random::new(seed);
    let mut f = Factory::new().await;
    let store = f.slaves[0].state_dir().join("store");
    for fault in 1..=faults {
        let (call, error, _) = any_fault(&mut random);
        // One start and some offers are fewer writes than a load of orders.
        let at = format!("{}{}", 2 + random.below(12), if random.one_in(2) { "+" } else { "" });
        let when = format!("RELOOP_SEED={seed}, fault {fault}: {call} {error} at {at}");
        let (tag, behind) = (format!("g{fault}"), format!("b{fault}"));
        let running = f.place(gated(&tag)).await;
        f.state(&running, "running").await;
        let waiting = f.place(work(&behind, 0.0)).await;
        f.until(&waiting, "on the slave's disk", |job| job["waiting_for"] == "turn").await;
        f.slaves[0].options_mut().wrapper = failing(&store, call, error, &at);
        f.slaves[0].restart();
        let mut canceled = vec![];
        eventually(&format!("the store to fail ({when})"), PATIENCE, async || {
            // It may come so early that the agent does not get its store.
            if let Some(status) = f.slaves[0].ended() {
                return if status.code() == Some(74) { Ok(()) } else { Err(format!("{when}: {status}")) };
            }
            let (done, text) = f.local(0, &["status", "--json"]).await;
            let status: Value = serde_json::from_str(&text).unwrap_or_default();
            if done && status["store"]["healthy"] == false {
                assert!(!status["store"]["text"].as_str().unwrap().is_empty(), "{when}");
                return Ok(());
            }
            // Offers that come and go are what makes it write.
            let job =
                f.place(with(work("never", 0.0), json!({"slave": "s0", "start": {"hold": true}}))).await;
            drop(f.client.cancel(&job, &json!({})).await);
            canceled.push(job);
            Err(text)
        })
        .await;
        // The machine goes on to its end, and nothing follows it: that could not be known after a power cut.
        f.slaves[0].open_gate(&tag);
        f.machine_ended(0, &tag).await;
        assert_eq!(f.slaves[0].starts(&behind), 0, "{when}");
        f.slaves[0].options_mut().wrapper.clear();
        f.slaves[0].restart();
        f.state(&running, "succeeded").await;
        f.state(&waiting, "succeeded").await;
        for job in &canceled {
            f.state(job, "canceled").await;
        }
        assert_eq!((f.slaves[0].starts(&tag), f.slaves[0].starts(&behind)), (1, 1), "{when}");
        f.holds_nothing(0).await;
        assert!(!f.slaves[0].log().contains("panicked"), "{when}:\n{}", f.slaves[0].log());
    }
    assert_eq!(f.slaves[0].starts("never"), 0);
    say(&format!("failing disks of a slave: {faults}, no job lost, stopped or begun twice"));
}

/// D2, of a master that has not lost its orders.
#[tokio::test]
async fn a_master_whose_own_record_is_lost_goes_on_with_its_orders_and_slaves_and_says_so() {
    let mut f = Factory::new().await;
    let running = f.place(gated("mine")).await;
    f.state(&running, "running").await;
    let waiting = f.place(with(bake(0.0), json!({"requires": {"place": "nowhere"}}))).await;
    f.master.kill();
    let store =
        Store::open(&f.master.data_dir().join("store"), Options { cache_bytes: 1 << 20, min_free_bytes: 0 });
    let store = store.unwrap().store;
    let (done, written) = std::sync::mpsc::channel();
    let damaged = Op::Put { key: b"node".to_vec(), value: b"damaged".to_vec() };
    store.commit(vec![damaged], move |result| done.send(result).unwrap());
    written.recv().unwrap().unwrap();
    store.close().unwrap();
    f.master.restart().await;
    assert!(f.master.log().contains("the master's own record is lost"), "{}", f.master.log());
    f.online(0).await;
    f.state(&running, "running").await;
    assert_eq!(f.job(&waiting).await["state"], "queued");
    f.slaves[0].open_gate("mine");
    f.state(&running, "succeeded").await;
    assert_eq!(f.slaves[0].starts("mine"), 1);
    f.master.restart().await;
    f.online(0).await;
    assert_eq!(f.master.log().matches("own record is lost").count(), 1, "it has a name again");
}

/// D10.
#[tokio::test]
async fn a_master_that_runs_low_on_space_refuses_orders_takes_reports_and_needs_no_restart() {
    if !disk::available() {
        return;
    }
    let mut f = Factory::empty(MasterOptions {
        config: format!("min_free_bytes = {}", 16 << 20),
        disk: DiskKind::Tmpfs { kib: 40 << 10 },
        ..MasterOptions::default()
    })
    .await;
    f.add(|_| {});
    f.online(0).await;
    let job = f.place(gated("low")).await;
    f.state(&job, "running").await;
    f.master.disk().fill(8 << 20);
    not_ready(&f.client, "low space").await;
    let refused = f.client.place(&bake(0.0), None).await.unwrap();
    assert_eq!((refused.status, &refused.body["code"]), (503, &json!("storage_unavailable")));
    f.nets[0].drop_existing(Close::Reset);
    f.slaves[0].open_gate("low");
    f.state(&job, "succeeded").await;
    f.holds_nothing(0).await;
    f.online(0).await;
    f.master.disk().make_room();
    ready(&f.client).await;
    let job = f.place(work("after", 0.0)).await;
    f.state(&job, "succeeded").await;
}

async fn ready(client: &Client) {
    eventually("the master to take orders again", PATIENCE, async || match client.readyz().await {
        Ok(reply) if reply.status == 200 => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
}

/// D10.
#[tokio::test]
async fn a_master_on_a_full_disk_loses_nothing_and_goes_on_by_itself_when_there_is_room() {
    if disk::available() {
        local(fill_the_masters_disk()).await;
    }
}

async fn fill_the_masters_disk() {
    let mut f = Factory::empty(MasterOptions {
        config: "min_free_bytes = 0".to_owned(),
        disk: DiskKind::Tmpfs { kib: 24 << 10 },
        ..MasterOptions::default()
    })
    .await;
    f.add(|_| {});
    f.online(0).await;
    let job = f.place(gated("full")).await;
    f.state(&job, "running").await;
    let mut load = Load::start(&f.client, 5, &["s0".to_owned()]);
    load.more_orders(30).await;
    f.master.disk().fill(0);
    not_ready(&f.client, "full").await;
    assert_read_only(&f, &job, "full").await;
    f.slaves[0].open_gate("full");
    f.machine_ended(0, "full").await;
    f.master.disk().make_room();
    ready(&f.client).await;
    let before = load.told.borrow().orders.len();
    eventually("more orders", PATIENCE, async || (load.told.borrow().orders.len() > before).then_some(()))
        .await;
    load.stop().await;
    assert_kept(&f.client, &load.told, &mut Random::new(5), "full").await;
    f.state(&job, "succeeded").await;
    f.online(0).await;
    f.holds_nothing(0).await;
    assert_eq!(f.master.log().matches("starts anew").count(), 1, "{}", f.master.log());
}

#[tokio::test]
async fn a_slave_on_a_full_disk_lets_its_job_run_and_begins_nothing() {
    if !disk::available() {
        return;
    }
    let mut f = Factory::with(|options| options.disk = DiskKind::Tmpfs { kib: 24 << 10 }).await;
    let running = f.place(gated("full")).await;
    f.state(&running, "running").await;
    let waiting = f.place(work("behind", 0.0)).await;
    f.until(&waiting, "on the slave's disk", |job| job["waiting_for"] == "turn").await;
    f.slaves[0].disk().fill(0);
    f.at_machine(0, "a full disk", |status| status["store"]["healthy"] == false).await;
    f.slaves[0].open_gate("full");
    f.machine_ended(0, "full").await;
    // The runner keeps room for how it ended; what the end needs in the store has no room.
    assert_eq!((f.slaves[0].starts("full"), f.slaves[0].starts("behind")), (1, 0));
    f.slaves[0].restart();
    f.slaves[0].disk().make_room();
    f.slaves[0].restart();
    let ended = f.state(&running, "succeeded").await;
    assert_eq!(ended["attempt"], 1);
    f.state(&waiting, "succeeded").await;
    assert_eq!((f.slaves[0].starts("full"), f.slaves[0].starts("behind")), (1, 1));
}

#[tokio::test]
async fn a_master_whose_file_system_turns_read_only_answers_and_loses_nothing() {
    if !disk::available() {
        return;
    }
    let mut f = Factory::empty(MasterOptions {
        config: "min_free_bytes = 0".to_owned(),
        disk: DiskKind::Ext4 { mib: 64 },
        ..MasterOptions::default()
    })
    .await;
    f.add(|_| {});
    f.online(0).await;
    let job = f.place(gated("ro")).await;
    f.state(&job, "running").await;
    let placed = f.client.place(&work("kept", 0.0), Some("kept")).await.unwrap().expect(201);
    f.master.disk().turn_read_only();
    eventually("a write to fail", PATIENCE, async || match f.client.place(&bake(0.0), None).await {
        Ok(reply) if reply.status == 503 => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    assert_read_only(&f, &job, "read-only").await;
    // The disk is checked and mounted again, as after any repair.
    f.master.cut_power();
    f.master.restart().await;
    let again = f.client.place(&work("kept", 0.0), Some("kept")).await.unwrap().expect(201);
    assert_eq!(again["id"], placed["id"]);
    f.slaves[0].open_gate("ro");
    f.state(&job, "succeeded").await;
}

/// The master mends itself and takes orders again, before and after which the power fails.
#[tokio::test]
async fn a_master_that_goes_on_after_its_disk_failed_keeps_all_orders_through_a_power_cut() {
    if disk::available() {
        local(fail_the_masters_disk_and_cut_its_power()).await;
    }
}

async fn fail_the_masters_disk_and_cut_its_power() {
    let mut f = Factory::empty(MasterOptions {
        config: "min_free_bytes = 0".to_owned(),
        disk: DiskKind::Failing { mib: 48 },
        ..MasterOptions::default()
    })
    .await;
    let waiting = || with(bake(0.0), json!({"requires": {"place": "nowhere"}}));
    let mut placed = vec![];
    for _ in 0..5 {
        placed.push(f.place(waiting()).await);
    }
    f.master.disk().fail_writes(&f.master.data_dir().join("store/db"));
    // So many records that the write is longer than what the next commits write again.
    let large = with(waiting(), json!({"quantity": 60}));
    eventually("a write to fail", PATIENCE, async || match f.client.place(&large, None).await {
        Ok(reply) if reply.status == 201 => {
            placed.push(job_of(&reply.body));
            Err("it was taken".to_owned())
        }
        Ok(reply) if reply.status == 503 => Ok(()),
        other => panic!("{other:?}"),
    })
    .await;
    f.master.disk().take_writes();
    eventually("orders to be taken again", PATIENCE, async || match f.client.readyz().await {
        Ok(reply) if reply.status == 200 => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    for _ in 0..6 {
        placed.push(f.place(waiting()).await);
    }
    f.master.cut_power();
    f.master.restart().await;
    assert!(!f.master.log().contains("set aside"), "{}", f.master.log());
    for job in &placed {
        assert_eq!(f.job(job).await["state"], "queued");
    }
}

/// What can happen to the files of a store. A leftover is no obstacle, and a flip may hit what nobody needs any more.
const DAMAGES: [&str; 7] = ["leftover", "snapshot", "shortened", "flip", "flip", "empty", "missing"];

fn damage(store: &Path, how: &str, random: &mut Random) {
    let db = store.join("db");
    match how {
        "leftover" => fs::write(store.join("snap.FFFFFFFFFFFFFF00.generating"), b"half").unwrap(),
        "shortened" => {
            // Beyond its last record it is only room for more.
            let bytes = fs::read(&db).unwrap();
            let end = bytes.iter().rposition(|byte| *byte != 0).unwrap();
            let left = random.below(end) as u64;
            fs::File::options().write(true).open(&db).unwrap().set_len(left).unwrap();
        }
        "flip" => {
            let mut bytes = fs::read(&db).unwrap();
            // Where something stands: most of a young database is empty.
            let full: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at] != 0).collect();
            bytes[full[random.below(full.len())]] ^= 1 << random.below(8);
            fs::write(&db, bytes).unwrap();
        }
        "empty" => fs::write(&db, b"").unwrap(),
        "missing" => fs::remove_file(&db).unwrap(),
        "snapshot" => {
            let mut names = fs::read_dir(store).unwrap().map(|entry| entry.unwrap().path());
            let is_one =
                |path: &std::path::PathBuf| path.file_name().unwrap().to_string_lossy().starts_with("snap.");
            let snapshot = names.find(is_one).expect("a store that was opened twice has one");
            fs::write(snapshot, b"no snapshot").unwrap();
        }
        other => panic!("{other}"),
    }
}

/// The stores that were set aside beside the one in use.
fn set_aside(dir: &Path) -> BTreeSet<String> {
    let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with("store.unreadable-")).collect()
}

/// C2.
#[tokio::test]
async fn a_slave_with_a_damaged_store_knows_all_or_asks_and_never_touches_its_machine() {
    let seed = seed();
    let mut random = Random::new(seed);
    let mut f = Factory::new().await;
    for (number, how) in DAMAGES.into_iter().enumerate() {
        let (when, tag) = (format!("RELOOP_SEED={seed}, {number}: {how}"), format!("d{number}"));
        let job = f.place(gated(&tag)).await;
        f.state(&job, "running").await;
        let before = set_aside(&f.slaves[0].state_dir());
        f.slaves[0].kill();
        damage(&f.slaves[0].state_dir().join("store"), how, &mut random);
        f.slaves[0].restart();
        f.offline(0).await;
        let seen = f.online(0).await;
        if set_aside(&f.slaves[0].state_dir()).len() == before.len() {
            assert!(["leftover", "flip"].contains(&how), "{when}: it went unnoticed");
            assert!(seen["attention"].is_null(), "{when}: {seen:#}");
            assert_eq!(f.job(&job).await["state"], "running", "{when}");
            f.slaves[0].open_gate(&tag);
            f.state(&job, "succeeded").await;
        } else {
            assert_ne!(how, "leftover", "{when}");
            assert_eq!(seen["attention"]["code"], "store_replaced", "{when}: {seen:#}");
            f.state(&job, "uncertain").await;
            let noted = f.slaves[0].machine_log();
            let of_job: Vec<_> =
                noted.iter().filter(|(_, noted, _)| *noted == tag).map(|(what, ..)| what).collect();
            assert_eq!(of_job, ["start"], "{when}: the machine is not touched");
            assert!(!f.slaves[0].runs().is_empty(), "{when}: what ran still runs");
            f.slaves[0].open_gate(&tag);
            f.machine_ended(0, &tag).await;
            f.client.resolve(&job, &json!({"outcome": "succeeded"})).await.unwrap().expect(202);
            f.client.clear("s0", &json!({})).await.unwrap().expect(202);
            f.state(&job, "succeeded").await;
        }
        let next = f.place(work(&format!("n{number}"), 0.0)).await;
        f.state(&next, "succeeded").await;
        f.holds_nothing(0).await;
        assert_eq!((f.slaves[0].starts(&tag), f.slaves[0].starts(&format!("n{number}"))), (1, 1), "{when}");
        assert!(!f.slaves[0].log().contains("panicked"), "{when}:\n{}", f.slaves[0].log());
    }
    assert!(set_aside(&f.slaves[0].state_dir()).len() >= 4, "damage was noticed (seed {seed})");
}

#[tokio::test]
async fn a_master_with_a_damaged_store_knows_all_or_sets_it_aside_and_adopts_what_runs() {
    let seed = seed();
    let mut random = Random::new(seed);
    let mut f = Factory::new().await;
    for (number, how) in DAMAGES.into_iter().enumerate() {
        let (when, tag) = (format!("RELOOP_SEED={seed}, {number}: {how}"), format!("d{number}"));
        let kept =
            f.client.place(&with(bake(0.0), json!({"requires": {"place": "nowhere"}})), None).await.unwrap();
        let kept = kept.expect(201)["id"].as_str().unwrap().to_owned();
        let job = f.place(gated(&tag)).await;
        let running = f.state(&job, "running").await;
        let before = set_aside(&f.master.data_dir());
        f.master.kill();
        damage(&f.master.data_dir().join("store"), how, &mut random);
        f.master.restart().await;
        ready(&f.client).await;
        f.online(0).await;
        let seen = f.state(&job, "running").await;
        assert_eq!(seen["started_at"], running["started_at"], "{when}");
        let aside = set_aside(&f.master.data_dir());
        if aside.len() == before.len() {
            assert!(["leftover", "flip"].contains(&how), "{when}: it went unnoticed");
            f.client.order(&kept).await.unwrap().expect(200);
        } else {
            assert_ne!(how, "leftover", "{when}");
            let aside = aside.difference(&before).next().unwrap();
            assert!(f.master.log().contains(aside.as_str()), "{when}: it says where the old one is");
            assert!(scenario::has_flag(&seen, "adopted"), "{when}: {seen:#}");
            assert_eq!(f.client.order(&kept).await.unwrap().status, 404, "{when}");
        }
        f.slaves[0].open_gate(&tag);
        f.state(&job, "succeeded").await;
        f.holds_nothing(0).await;
        assert_eq!(f.slaves[0].starts(&tag), 1, "{when}");
        assert!(!f.master.log().contains("panicked"), "{when}:\n{}", f.master.log());
    }
    assert!(set_aside(&f.master.data_dir()).len() >= 4, "damage was noticed (seed {seed})");
}

/// The disk may be fine, and only somebody's change of its rights is not: nothing is set aside for that.
#[tokio::test]
async fn a_store_that_may_not_be_opened_is_left_as_it_is_and_opens_when_it_may() {
    if !disk::available() {
        return;
    }
    let ext4 = DiskKind::Ext4 { mib: 64 };
    let config = "min_free_bytes = 0".to_owned();
    let mut f = Factory::empty(MasterOptions { disk: ext4, config, ..MasterOptions::default() }).await;
    f.add(|options| options.disk = ext4);
    f.online(0).await;
    let job = f.place(gated("mine")).await;
    f.state(&job, "running").await;
    let (at_master, at_slave) =
        (f.master.data_dir().join("store/db"), f.slaves[0].state_dir().join("store/db"));
    f.master.kill();
    f.slaves[0].kill();
    f.master.disk().make_immutable(&at_master, true);
    f.slaves[0].disk().make_immutable(&at_slave, true);
    neither_starts(&mut f).await;
    f.master.disk().make_immutable(&at_master, false);
    f.slaves[0].disk().make_immutable(&at_slave, false);
    for database in [&at_master, &at_slave] {
        fs::rename(database, database.with_extension("mine")).unwrap();
        fs::create_dir(database).unwrap();
    }
    neither_starts(&mut f).await;
    for database in [&at_master, &at_slave] {
        fs::remove_dir(database).unwrap();
        fs::rename(database.with_extension("mine"), database).unwrap();
    }
    assert!(set_aside(&f.master.data_dir()).is_empty() && set_aside(&f.slaves[0].state_dir()).is_empty());
    f.master.restart().await;
    f.slaves[0].restart();
    f.online(0).await;
    assert_eq!(f.job(&job).await["state"], "running");
    f.slaves[0].open_gate("mine");
    f.state(&job, "succeeded").await;
    assert_eq!(f.slaves[0].starts("mine"), 1);
}

/// Both end with the status of a disk that does not do, and say what would help.
async fn neither_starts(f: &mut Factory) {
    let status = f.master.try_restart().await.unwrap_err();
    assert_eq!(status.code(), Some(74), "{}", f.master.log());
    f.slaves[0].restart();
    let status =
        eventually("the agent to give up", PATIENCE, async || f.slaves[0].ended().ok_or("it runs")).await;
    assert_eq!(status.code(), Some(74), "{}", f.slaves[0].log());
    for log in [f.master.log(), f.slaves[0].log()] {
        assert!(log.trim_end().ends_with("mend the cause and start again"), "{log}");
    }
}
