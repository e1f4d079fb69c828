//! Disks that are full, or nearly full.

use reloop_rig::disk::{self, DiskKind};
use reloop_rig::factory::{Factory, bake, gated, work};
use reloop_rig::process::MasterOptions;
use reloop_sim::simulation::Random;
use serde_json::json;

use super::load::{Load, assert_kept, beside_clients};
use super::{assert_read_only, on, readyz};

#[tokio::test]
async fn d10_a_master_that_runs_low_on_space_refuses_orders_takes_reports_and_needs_no_restart() {
    if !disk::available() {
        return;
    }
    let config = format!("min_free_bytes = {}", 16 << 20);
    let disk = DiskKind::Tmpfs { kib: 40 << 10 };
    let f = Factory::at(MasterOptions { config, disk, ..MasterOptions::default() }).await;
    let job = f.running(gated("low")).await;
    f.master.disk().fill(8 << 20);
    readyz(&f.client, 503, "low space").await;
    let refused = f.client.place(&bake(0.0), None).await.unwrap();
    assert_eq!((refused.status, &refused.body["code"]), (503, &json!("storage_unavailable")));
    f.reconnect(0).await;
    f.finish(&job, "low").await;
    f.holds_nothing(0).await;
    f.master.disk().make_room();
    readyz(&f.client, 200, "there is room").await;
    f.done(work("after", 0.0)).await;
}

#[tokio::test]
async fn d10_a_master_on_a_full_disk_loses_nothing_and_goes_on_by_itself_when_there_is_room() {
    if disk::available() {
        beside_clients(fill_the_masters_disk()).await;
    }
}

async fn fill_the_masters_disk() {
    let f = Factory::at(on(DiskKind::Tmpfs { kib: 24 << 10 })).await;
    let job = f.running(gated("full")).await;
    let mut load = Load::start(&f.client, 5, &["s0"]);
    load.more_orders(30).await;
    f.master.disk().fill(0);
    readyz(&f.client, 503, "full").await;
    assert_read_only(&f, &job, "full").await;
    f.slaves[0].open_gate("full");
    f.machine_ended(0, "full").await;
    f.master.disk().make_room();
    readyz(&f.client, 200, "there is room").await;
    load.more_orders(1).await;
    load.stop().await;
    assert_kept(&f.client, &load.told, &mut Random::new(5), "full").await;
    f.finish(&job, "full").await;
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
    let running = f.running(gated("full")).await;
    let waiting = f.waiting(work("behind", 0.0), "turn").await;
    f.slaves[0].disk().fill(0);
    f.at_machine(0, "a full disk", |status| status["store"]["healthy"] == false).await;
    f.slaves[0].open_gate("full");
    f.machine_ended(0, "full").await;
    // The runner has reserved room for the exit status; only the store has no room for the outcome.
    f.started_once(&["full"]);
    f.never_started(&["behind"]);
    f.slaves[0].restart();
    f.slaves[0].disk().make_room();
    f.slaves[0].restart();
    assert_eq!(f.finish(&running, "full").await["attempt"], 1);
    f.state(&waiting, "succeeded").await;
    f.started_once(&["behind"]);
}
