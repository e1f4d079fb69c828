//! Disks that lose their power, give errors, are full or come back damaged, under real nodes: what was acknowledged is
//! there, and what cannot be kept is said.
//!
//! `RELOOP_POWER_CUTS` and `RELOOP_DISK_FAULTS` set how many there are of each, `RELOOP_SEED` picks which.
#![cfg(test)]
#![allow(clippy::unwrap_used, reason = "all of it is test")]

mod scenario;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::io::Write as _;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use reloop_tests::client::Client;
use reloop_tests::disk::{self, Disk, DiskKind};
use reloop_tests::process::MasterOptions;
use reloop_tests::proxy::Close;
use reloop_tests::simulation::Random;
use reloop_tests::store_load::{self, Found, Worker};
use reloop_tests::wait::eventually;
use scenario::{Factory, PATIENCE, bake, held, now_ms, with, work};
use serde_json::{Value, json};

/// Power cuts of each kind if RELOOP_POWER_CUTS says nothing.
const POWER_CUTS: u64 = 5;
/// Failing system calls of each kind if RELOOP_DISK_FAULTS says nothing.
const DISK_FAULTS: u64 = 4;

fn env(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

fn seed() -> u64 {
    env("RELOOP_SEED").unwrap_or_else(|| u64::from(std::process::id()) ^ now_ms().unsigned_abs())
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
    let mut random = Random::new(seed);
    let home = tempfile::tempdir().unwrap();
    let fresh = |number: u64| {
        let at = home.path().join(format!("disk-{number}"));
        Disk::mount(DiskKind::Ext4 { mib: 64 }, &at).unwrap()
    };
    let mut disk = fresh(0);
    let (mut acknowledged, mut batches) = (BTreeMap::new(), 0);
    let mut failures = vec![];
    for cut in 1..=cuts {
        let mut worker = Worker::start(Path::new(env!("CARGO_BIN_EXE_harness")), &store_load::dir_on(disk.path()));
        let enough = acknowledged.values().sum::<u64>() + 1 + random.below(800) as u64;
        let end = Instant::now() + PATIENCE;
        while worker.progress() < enough {
            assert!(worker.is_alive() && Instant::now() < end, "the worker does not write (seed {seed})");
            std::thread::yield_now();
        }
        acknowledged.extend(worker.lose_power(&mut disk));
        match store_load::verify(&store_load::dir_on(disk.path()), &acknowledged) {
            Found::Whole(last) => acknowledged = last,
            failure => {
                failures.push(format!("cut {cut}: {failure:?}"));
                batches += acknowledged.values().sum::<u64>();
                acknowledged.clear();
                disk = fresh(cut);
            }
        }
    }
    batches += acknowledged.values().sum::<u64>();
    let lost = failures.iter().filter(|failure| failure.contains("Lost")).count();
    let unopened = failures.len() - lost;
    say(&format!("power cuts of a store: {cuts}, {batches} batches, {lost} lost some, {unopened} did not open"));
    assert!(failures.is_empty(), "RELOOP_SEED={seed}: {failures:#?}");
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
        const PLACERS: u64 = 6;
        let mut load = Self { told: Rc::default(), stopped: Rc::default(), tasks: vec![] };
        for placer in 0..PLACERS {
            let (told, stopped, client) = load.shared(client);
            load.tasks.push(tokio::task::spawn_local(async move {
                let mut random = Random::new(seed ^ placer << 32);
                let mut number = 0;
                while !stopped.get() {
                    let key = format!("{placer}-{number}");
                    let order = match random.below(4) {
                        // No slave has that: it waits at the master until it is canceled.
                        0 => with(bake(0.0), json!({"requires": {"place": "nowhere"}})),
                        1 => with(bake(0.0), json!({"quantity": 1 + random.below(3)})),
                        _ => with(bake(0.0), json!({"name": key})),
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
                            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
                        }
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
        assert!(newest_session(client, slave).await.unwrap_or(0) >= *session, "{when}: a receipt of {slave} is gone");
    }
    let keys: Vec<_> = orders.iter().collect();
    for _ in 0..10.min(keys.len()) {
        // Old ones and the very last ones.
        let at = if random.one_in(2) { random.below(keys.len()) } else { keys.len() - 1 - random.below(keys.len().min(6)) };
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
    const CUTS_PER_FACTORY: u64 = 20;
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
        assert!(adopted.is_empty(), "RELOOP_SEED={seed}: jobs were handed out that the master forgot: {adopted:#?}");
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
    let jobs: Rc<RefCell<BTreeMap<String, String>>> = Rc::default();
    let mut uncertain = 0;
    for cut in 1..=cuts {
        let when = format!("RELOOP_SEED={seed}, power cut {cut}");
        let enough = 1 + random.below(4);
        let ended_before = ended_jobs(&f.client).await.len();
        // Short jobs, so that ends, reports, forgets and starts come close together.
        for number in 0..enough + 4 {
            let tag = format!("c{cut}-{number}");
            let seconds = random.below(120) as f64 / 1000.0;
            jobs.borrow_mut().insert(tag.clone(), f.place(work(&tag, seconds)).await);
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
        let status = f.at_machine(0, "back without a link", |status| status["machine"]["attention"].is_null()).await;
        let begun: BTreeSet<String> =
            f.slaves[0].machine_log().into_iter().filter(|(what, ..)| what == "start").map(|(_, tag, _)| tag).collect();
        for tag in &begun {
            let job = &jobs.borrow()[tag];
            match held(&status, job) {
                Some(held) => assert_ne!(held["state"], "accepted", "{when}: {tag} was begun: {held:#}"),
                None => assert!(told.contains_key(job), "{when}: {tag} was begun, and nobody knows of it"),
            }
        }
        f.nets[0].pass();
        f.online(0).await;
        let newest = f.client.receipts("s0").await.unwrap().expect(200);
        let newest = newest["data"].as_array().unwrap().iter().max_by_key(|receipt| receipt["session"].as_u64()).unwrap();
        for line in newest["lines"].as_array().unwrap() {
            let distrust =
                ["a_promise_was_broken", "the_memory_is_gone", "the_memory_is_old", "an_ended_attempt_is_not_alive"];
            let text = line.to_string();
            assert!(!distrust.iter().any(|rule| text.contains(rule)), "{when}: {line:#}");
        }
        // The one that the cut interrupted is a person's to settle; all others go on by themselves.
        eventually("all jobs to end", PATIENCE, async || {
            let seen = all(&f.client, "/v1/jobs").await;
            for job in seen.values().filter(|job| job["state"] == "uncertain") {
                let id = job["id"].as_str().unwrap();
                if f.client.resolve(id, &json!({"outcome": "failed"})).await.is_ok_and(|reply| reply.status == 202) {
                    uncertain += 1;
                }
            }
            let open: Vec<_> = seen.into_values().filter(|job| !job["ended_at"].is_string()).collect();
            if open.is_empty() { Ok(()) } else { Err(open) }
        })
        .await;
        let now = ended_jobs(&f.client).await;
        assert!(told.iter().all(|(job, state)| now[job] == *state), "{when}: {told:?} {now:?}");
        for tag in jobs.borrow().keys() {
            assert!(f.slaves[0].starts(tag) <= 1, "{when}: {tag} was begun twice");
        }
    }
    assert!(!f.slaves[0].log().contains("ERROR"), "{}", f.slaves[0].log());
    let jobs = jobs.borrow().len();
    say(&format!("power cuts of a slave: {cuts}, {jobs} jobs, {uncertain} interrupted, none begun twice or forgotten"));
}

async fn ended_jobs(client: &Client) -> BTreeMap<String, String> {
    let jobs = all(client, "/v1/jobs").await.into_values().filter(|job| job["ended_at"].is_string());
    jobs.map(|job| (job["id"].as_str().unwrap().to_owned(), job["state"].as_str().unwrap().to_owned())).collect()
}
