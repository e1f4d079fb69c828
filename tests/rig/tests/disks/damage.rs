//! Stores that are damaged or may not be opened.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use reloop_node::store::{Op, Options, Store};
use reloop_rig::disk::{self, DiskKind};
use reloop_rig::factory::{Factory, for_nobody, gated, has_flag, work};
use reloop_rig::wait::{PATIENCE, eventually};
use reloop_sim::simulation::Random;
use serde_json::json;

use super::{on, readyz, seed};

/// Kinds of damage. A leftover file does no harm, and a flipped bit may be one that nothing reads.
const DAMAGES: [&str; 8] =
    ["leftover", "snapshot", "shortened", "flip", "flip", "garbage", "empty", "missing"];

fn damage(store: &Path, how: &str, random: &mut Random) {
    let db = store.join("db");
    match how {
        "leftover" => fs::write(store.join("snap.FFFFFFFFFFFFFF00.generating"), b"half").unwrap(),
        "shortened" => {
            // After the last record the file contains only free space.
            let bytes = fs::read(&db).unwrap();
            let end = bytes.iter().rposition(|byte| *byte != 0).unwrap();
            let left = random.below(end) as u64;
            fs::File::options().write(true).open(&db).unwrap().set_len(left).unwrap();
        }
        "flip" => {
            let mut bytes = fs::read(&db).unwrap();
            // Only where there is data: most of a young database is zeros.
            let full: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at] != 0).collect();
            bytes[full[random.below(full.len())]] ^= 1 << random.below(8);
            fs::write(&db, bytes).unwrap();
        }
        "garbage" => {
            let length = fs::metadata(&db).unwrap().len().max(4096);
            fs::write(&db, b"not a database\n".repeat(usize::try_from(length).unwrap() / 15)).unwrap();
            fs::write(store.join("conf"), "neither is this").unwrap();
        }
        "empty" => fs::write(&db, b"").unwrap(),
        "missing" => fs::remove_file(&db).unwrap(),
        "snapshot" => {
            let mut names = fs::read_dir(store).unwrap().map(|entry| entry.unwrap().path());
            let is_one = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().starts_with("snap.");
            let snapshot = names.find(is_one).expect("a store that was opened twice has one");
            fs::write(snapshot, b"no snapshot").unwrap();
        }
        other => panic!("{other}"),
    }
}

/// The stores that were set aside beside the current one.
fn set_aside(dir: &Path) -> BTreeSet<String> {
    let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with("store.unreadable-")).collect()
}

#[tokio::test]
async fn c2_a_slave_with_a_damaged_store_knows_all_or_asks_and_never_touches_its_machine() {
    let seed = seed();
    let mut random = Random::new(seed);
    let mut f = Factory::new().await;
    let state = f.slaves[0].state_dir();
    for (number, how) in DAMAGES.into_iter().enumerate() {
        let (when, tag) = (format!("RELOOP_SEED={seed}, {number}: {how}"), format!("d{number}"));
        let job = f.running(gated(&tag)).await;
        let before = set_aside(&state).len();
        f.slaves[0].kill();
        damage(&state.join("store"), how, &mut random);
        f.slaves[0].restart();
        f.offline(0).await;
        let seen = f.online(0).await;
        if set_aside(&state).len() == before {
            assert!(["leftover", "flip"].contains(&how), "{when}: it went unnoticed");
            assert!(seen["attention"].is_null(), "{when}: {seen:#}");
            assert_eq!(f.job(&job).await["state"], "running", "{when}");
        } else {
            assert_ne!(how, "leftover", "{when}");
            assert_eq!(seen["attention"]["code"], "store_replaced", "{when}: {seen:#}");
            f.state(&job, "uncertain").await;
            let log = f.slaves[0].machine_log();
            let of_job: Vec<_> = log.iter().filter(|(_, noted, _)| *noted == tag).map(|one| &one.0).collect();
            assert_eq!(of_job, ["start"], "{when}: the machine is not touched");
            assert!(!f.slaves[0].runs().is_empty(), "{when}: what ran still runs");
            f.slaves[0].open_gate(&tag);
            f.machine_ended(0, &tag).await;
            f.resolve(&job, "succeeded").await;
            f.slave_command(0, "clear", json!({})).await;
        }
        f.finish(&job, &tag).await;
        let next = format!("n{number}");
        f.done(work(&next, 0.0)).await;
        f.holds_nothing(0).await;
        f.started_once(&[&next]);
        assert!(!f.slaves[0].log().contains("panicked"), "{when}:\n{}", f.slaves[0].log());
    }
    assert!(set_aside(&state).len() >= 5, "damage was noticed (seed {seed})");
}

#[tokio::test]
async fn d2_a_master_with_a_damaged_store_knows_all_or_sets_it_aside_and_adopts_what_runs() {
    let seed = seed();
    let mut random = Random::new(seed);
    let mut f = Factory::new().await;
    let data = f.master.data_dir();
    for (number, how) in DAMAGES.into_iter().enumerate() {
        let (when, tag) = (format!("RELOOP_SEED={seed}, {number}: {how}"), format!("d{number}"));
        let kept = f.client.place(&for_nobody(), None).await.unwrap().expect(201);
        let kept = kept["id"].as_str().unwrap();
        let job = f.place(gated(&tag)).await;
        let running = f.state(&job, "running").await;
        let before = set_aside(&data);
        f.master.kill();
        damage(&data.join("store"), how, &mut random);
        f.master.restart().await;
        readyz(&f.client, 200, &when).await;
        f.online(0).await;
        let seen = f.state(&job, "running").await;
        assert_eq!(seen["started_at"], running["started_at"], "{when}");
        let aside = set_aside(&data);
        if aside.len() == before.len() {
            assert!(["leftover", "flip"].contains(&how), "{when}: it went unnoticed");
            f.client.order(kept).await.unwrap().expect(200);
        } else {
            assert_ne!(how, "leftover", "{when}");
            let aside = aside.difference(&before).next().unwrap();
            assert!(f.master.log().contains(aside.as_str()), "{when}: it says where the old one is");
            assert!(has_flag(&seen, "adopted"), "{when}: {seen:#}");
            assert_eq!(f.client.order(kept).await.unwrap().status, 404, "{when}");
        }
        f.finish(&job, &tag).await;
        f.holds_nothing(0).await;
        assert!(!f.master.log().contains("panicked"), "{when}:\n{}", f.master.log());
    }
    assert!(set_aside(&data).len() >= 5, "damage was noticed (seed {seed})");
}

#[tokio::test]
async fn d2_a_master_whose_own_record_is_lost_goes_on_with_its_orders_and_slaves_and_says_so() {
    let mut f = Factory::new().await;
    let running = f.running(gated("mine")).await;
    let waiting = f.place(for_nobody()).await;
    f.master.kill();
    let options = Options { cache_bytes: 1 << 20, min_free_bytes: 0 };
    let store = Store::open(&f.master.data_dir().join("store"), options).unwrap().store;
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
    f.finish(&running, "mine").await;
    f.master.restart().await;
    f.online(0).await;
    assert_eq!(f.master.log().matches("own record is lost").count(), 1, "it has an id again");
}

/// Only the permissions are wrong, so nothing is set aside.
#[tokio::test]
async fn a_store_that_may_not_be_opened_is_left_as_it_is_and_opens_when_it_may() {
    if !disk::available() {
        return;
    }
    let ext4 = DiskKind::Ext4 { mib: 64 };
    let mut f = Factory::empty(on(ext4)).await;
    f.add(|options| options.disk = ext4).await;
    let job = f.running(gated("mine")).await;
    let databases = [f.master.data_dir().join("store/db"), f.slaves[0].state_dir().join("store/db")];
    f.master.kill();
    f.slaves[0].kill();
    let make_immutable = |f: &Factory, on| {
        f.master.disk().make_immutable(&databases[0], on);
        f.slaves[0].disk().make_immutable(&databases[1], on);
    };
    make_immutable(&f, true);
    neither_starts(&mut f).await;
    make_immutable(&f, false);
    for database in &databases {
        fs::rename(database, database.with_extension("mine")).unwrap();
        fs::create_dir(database).unwrap();
    }
    neither_starts(&mut f).await;
    for database in &databases {
        fs::remove_dir(database).unwrap();
        fs::rename(database.with_extension("mine"), database).unwrap();
    }
    assert!(set_aside(&f.master.data_dir()).is_empty() && set_aside(&f.slaves[0].state_dir()).is_empty());
    f.master.restart().await;
    f.slaves[0].restart();
    f.online(0).await;
    assert_eq!(f.job(&job).await["state"], "running");
    f.finish(&job, "mine").await;
}

/// Both nodes exit with the status for a disk error, and say what would help.
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
