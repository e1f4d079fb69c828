//! Power cuts: the disk keeps what had reached it by then, and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::{Duration, Instant};

use reloop_rig::client::Client;
use reloop_rig::daemon::binary;
use reloop_rig::disk::{self, Disk, DiskKind};
use reloop_rig::factory::{Factory, for_nobody, has_flag, held, job_of, with, work};
use reloop_rig::proxy::Close;
use reloop_rig::store_load::{self, Found, Shape, Worker};
use reloop_rig::wait::{PATIENCE, eventually};
use reloop_sim::simulation::Random;
use serde_json::json;

use super::load::{Load, assert_kept, beside_clients};
use super::{all, env, on, readyz, say, seed, until_refused};

/// The default number of power cuts of each kind; `RELOOP_POWER_CUTS` sets another.
const POWER_CUTS: u64 = 5;

fn power_cuts() -> u64 {
    env("RELOOP_POWER_CUTS").unwrap_or(POWER_CUTS)
}

/// A store alone under full load. Each power cut hits the store that came out of the last one.
#[test]
fn a_store_under_load_outlives_power_cuts_with_every_acknowledged_batch_whole() {
    if !disk::available() {
        return;
    }
    let seed = seed();
    let tally = cut_a_stores_power(seed, 2 * power_cuts(), |_| {});
    say(&format!("power cuts of a store: {tally}"));
    assert_eq!((tally.lost, tally.unopened), (0, 0), "RELOOP_SEED={seed}: {:#?}", tally.failures);
}

/// The test above can fail: the same cuts without syncs lose writes.
#[test]
fn the_same_power_cuts_lose_writes_when_fdatasync_does_nothing() {
    if !disk::available() || !disk::faults_available() {
        return;
    }
    let tally = cut_a_stores_power(seed(), power_cuts(), Worker::leave_syncs_out);
    say(&format!("power cuts of a store without fdatasync: {tally}"));
    assert!(tally.lost + tally.unopened > 0, "all writes outlived power cuts without a sync");
}

#[derive(Default)]
struct Tally {
    cuts: u64,
    batches: u64,
    lost: u64,
    unopened: u64,
    failures: Vec<String>,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cuts, batches, lost, unopened, .. } = self;
        write!(f, "{cuts}, at most {batches} batches in one store, {lost} lost some, {unopened} did not open")
    }
}

fn cut_a_stores_power(seed: u64, cuts: u64, prepare: impl Fn(&mut Worker)) -> Tally {
    let mut random = Random::new(seed);
    let home = tempfile::tempdir().unwrap();
    let fresh = |number: u64| {
        Disk::mount(DiskKind::Ext4 { mib: 64 }, &home.path().join(format!("disk-{number}"))).unwrap()
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
        let found = store_load::verify(&store_load::dir_on(disk.path()), Shape::Master, &acknowledged);
        let failure = match found {
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

#[tokio::test]
async fn a_master_outlives_power_cuts_with_all_that_its_clients_were_told() {
    if disk::available() {
        beside_clients(cut_the_masters_power()).await;
    }
}

async fn cut_the_masters_power() {
    /// A history grows with every order: a new factory now and then keeps it small enough for its disk and quick to
    /// read.
    const CUTS_PER_FACTORY: u64 = 10;
    let (seed, cuts) = (seed(), power_cuts());
    let mut random = Random::new(seed);
    let (mut done, mut orders, mut ended) = (0, 0, 0);
    while done < cuts {
        let mut f = Factory::at(on(DiskKind::Ext4 { mib: 192 })).await;
        f.add(|_| {}).await;
        let mut load = Load::start(&f.client, random.any(), &["s0", "s1"]);
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
        let adopted: Vec<_> = jobs.values().filter(|job| has_flag(job, "adopted")).collect();
        assert!(adopted.is_empty(), "RELOOP_SEED={seed}: the master forgot what it assigned: {adopted:#?}");
        orders += load.told.borrow().orders.len();
    }
    say(&format!("power cuts of a master: {cuts}, {orders} orders, {ended} ended jobs, none lost"));
}

#[tokio::test]
async fn a_slave_outlives_power_cuts_and_knows_every_start_of_its_machine() {
    if disk::available() {
        cut_the_slaves_power().await;
    }
}

async fn cut_the_slaves_power() {
    let (seed, cuts) = (seed(), power_cuts());
    let mut random = Random::new(seed);
    let mut f = Factory::with(|options| options.disk = DiskKind::Ext4 { mib: 64 }).await;
    // By tag. So many wait that one begins as soon as another ends.
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
        let log = f.slaves[0].machine_log();
        let begun: BTreeSet<_> =
            log.iter().filter(|(what, ..)| what == "start").map(|(_, tag, _)| tag).collect();
        for tag in begun {
            let job = &jobs[tag];
            match held(&status, job) {
                Some(held) => assert_ne!(held["state"], "accepted", "{when}: {tag} was begun: {held:#}"),
                None => assert!(told.contains_key(job), "{when}: {tag} was begun, and nobody knows of it"),
            }
        }
        f.nets[0].pass();
        f.online(0).await;
        trusts_its_slave(&f.client, &when).await;
        uncertain += all_end(&f.client).await;
        let now = ended_jobs(&f.client).await;
        assert!(told.iter().all(|(job, state)| now[job] == *state), "{when}: {told:?} {now:?}");
        for tag in jobs.keys() {
            assert!(f.starts(tag) <= 1, "{when}: {tag} was begun twice");
        }
    }
    assert!(!f.slaves[0].log().contains("ERROR"), "{}", f.slaves[0].log());
    let jobs = jobs.len();
    say(&format!(
        "power cuts of a slave: {cuts}, {jobs} jobs, {uncertain} interrupted, none begun twice or forgotten"
    ));
}

/// No line of the newest handshake is one by which the master distrusts the slave's store.
async fn trusts_its_slave(client: &Client, when: &str) {
    const DISTRUST: [&str; 4] = [
        "a_job_that_it_accepted_is_missing",
        "the_store_is_new",
        "the_store_went_back",
        "an_ended_attempt_is_not_alive",
    ];
    let receipts = client.receipts("s0").await.unwrap().expect(200);
    let newest = receipts["data"].as_array().unwrap().iter().max_by_key(|one| one["session"].as_u64());
    for line in newest.unwrap()["lines"].as_array().unwrap() {
        let text = line.to_string();
        assert!(!DISTRUST.iter().any(|rule| text.contains(rule)), "{when}: {line:#}");
    }
}

/// Waits until all jobs have ended, and resolves uncertain ones. Returns how many were uncertain.
async fn all_end(client: &Client) -> usize {
    let mut uncertain = 0;
    eventually("all jobs to end", PATIENCE, async || {
        let seen = all(client, "/v1/jobs").await;
        for job in seen.values().filter(|job| job["state"] == "uncertain") {
            let id = job["id"].as_str().unwrap();
            let resolved = client.job_command(id, "resolve", &json!({ "outcome": "failed" })).await;
            uncertain += usize::from(resolved.is_ok_and(|reply| reply.status == 202));
        }
        let open: Vec<_> = seen.into_values().filter(|job| !job["ended_at"].is_string()).collect();
        if open.is_empty() { Ok(()) } else { Err(open) }
    })
    .await;
    uncertain
}

/// The states of the jobs that have ended.
async fn ended_jobs(client: &Client) -> BTreeMap<String, String> {
    let jobs = all(client, "/v1/jobs").await.into_iter().filter(|(_, job)| job["ended_at"].is_string());
    jobs.map(|(id, job)| (id, job["state"].as_str().unwrap().to_owned())).collect()
}

/// The master recovers by itself and takes orders again; the power fails before and after that.
#[tokio::test]
async fn a_master_that_goes_on_after_its_disk_failed_keeps_all_orders_through_a_power_cut() {
    if !disk::available() {
        return;
    }
    let mut f = Factory::empty(on(DiskKind::Failing { mib: 48 })).await;
    let mut placed = vec![];
    for _ in 0..5 {
        placed.push(f.place(for_nobody()).await);
    }
    f.master.disk().fail_writes(&f.master.data_dir().join("store/db"));
    // So many records that the write is longer than what the next commits overwrite.
    let large = with(for_nobody(), json!({ "quantity": 60 }));
    placed.extend(until_refused(&f.client, &large).await.iter().map(job_of));
    f.master.disk().take_writes();
    readyz(&f.client, 200, "the disk takes writes").await;
    for _ in 0..6 {
        placed.push(f.place(for_nobody()).await);
    }
    f.master.cut_power();
    f.master.restart().await;
    assert!(!f.master.log().contains("set aside"), "{}", f.master.log());
    for job in &placed {
        assert_eq!(f.job(job).await["state"], "queued");
    }
}
