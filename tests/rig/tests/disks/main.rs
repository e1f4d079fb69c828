//! Disks that lose their power, fail, are full or damaged, under real nodes: what was acknowledged is kept, and what
//! cannot be stored is refused with the reason.
//!
//! `RELOOP_POWER_CUTS` and `RELOOP_DISK_FAULTS` set how many there are of each, `RELOOP_SEED` which.
#![cfg(test)]
#![allow(clippy::unwrap_used, reason = "all of it is test")]

mod damage;
mod failing;
mod full;
mod load;
mod power_cuts;

use std::collections::BTreeMap;
use std::io::Write as _;

use reloop_rig::client::Client;
use reloop_rig::disk::DiskKind;
use reloop_rig::factory::Factory;
use reloop_rig::process::MasterOptions;
use reloop_rig::wait::{PATIENCE, eventually};
use serde_json::{Value, json};

/// The same faults at every run; `RELOOP_SEED` tries others.
const SEED: u64 = 1;

fn env(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

fn seed() -> u64 {
    env("RELOOP_SEED").unwrap_or(SEED)
}

/// Not captured by the test runner: the seed is needed to repeat a failure.
fn say(what: &str) {
    writeln!(std::io::stderr(), "{what}").unwrap();
}

/// A master on this disk, without a limit of free space.
fn on(disk: DiskKind) -> MasterOptions {
    MasterOptions { config: "min_free_bytes = 0".to_owned(), disk, ..MasterOptions::default() }
}

/// A whole list, page by page, by id.
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

/// Waits until `/readyz` answers with this status: 200 if the master takes orders, 503 if it does not.
async fn readyz(client: &Client, status: u16, when: &str) {
    eventually(&format!("readyz {status} ({when})"), PATIENCE, async || match client.readyz().await {
        Ok(reply) if reply.status == status => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
}

/// Places orders until one is refused. Returns the accepted ones.
async fn until_refused(client: &Client, order: &Value) -> Vec<Value> {
    let mut taken = vec![];
    eventually("an order to be refused", PATIENCE, async || match client.place(order, None).await {
        Ok(reply) if reply.status == 503 => Ok(()),
        Ok(reply) => {
            taken.push(reply.expect(201));
            Err("it was taken")
        }
        Err(error) => panic!("{error:?}"),
    })
    .await;
    taken
}

/// A master that cannot write refuses commands, says why, and answers questions.
async fn assert_read_only(f: &Factory, job: &str, when: &str) {
    let order = reloop_rig::factory::bake(0.0);
    for refused in [
        f.client.place(&order, Some("refused")).await.unwrap(),
        f.client.job_command(job, "cancel", &json!({})).await.unwrap(),
    ] {
        assert_eq!((refused.status, &refused.body["code"]), (503, &json!("storage_unavailable")), "{when}");
        assert!(!refused.body["detail"].as_str().unwrap().is_empty(), "{when}");
    }
    assert_eq!(f.client.livez().await.unwrap().status, 200, "{when}");
    // The disk may not be readable either, but there is an answer.
    let one = f.client.job(job).await.unwrap();
    if f.master.log().contains("questions are refused") {
        assert_eq!((one.status, &one.body["code"]), (503, &json!("storage_unavailable")), "{when}: {one:?}");
    } else {
        let one = one.expect(200);
        let seen = (&one["id"], &one["freshness"]["link"]);
        assert_eq!(seen, (&json!(job), &json!("offline")), "{when}: {one:#}");
    }
    let history = f.client.jobs("limit=10").await.unwrap();
    assert!(history.status == 200 || history.body["code"] == "storage_unavailable", "{when}: {history:?}");
    let why = f.client.get("/readyz?verbose").await.unwrap();
    assert!(why.status == 503 && why.body.to_string().contains("store failed"), "{when}: {why:?}");
}
