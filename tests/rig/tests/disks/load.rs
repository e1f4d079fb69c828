//! Clients that place, cancel and read at the same time, and remember each answer: nothing that was acknowledged may be
//! lost.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use reloop_rig::client::Client;
use reloop_rig::factory::{bake, for_nobody, with};
use reloop_rig::wait::{PATIENCE, eventually};
use reloop_sim::simulation::Random;
use serde_json::{Value, json};
use tokio::task::{JoinHandle, LocalSet, spawn_local};
use tokio::time::sleep;

use super::all;

/// Clients that place orders at the same time.
const PLACERS: u64 = 6;
/// The pause before a refused order is placed again.
const PLACE_AGAIN: Duration = Duration::from_millis(10);
/// The pause of clients that only read.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Runs `work` with clients as tasks beside it.
pub(super) async fn beside_clients<T>(work: impl Future<Output = T>) -> T {
    LocalSet::new().run_until(work).await
}

/// What clients have been told, over all faults.
#[derive(Default)]
pub(super) struct Told {
    /// By idempotency key: the order, and its id.
    pub(super) orders: BTreeMap<String, (Value, String)>,
    /// Jobs that were seen to have ended, with their states.
    ended: BTreeMap<String, String>,
    /// By slave: the newest session of which a receipt was read.
    sessions: BTreeMap<String, u64>,
}

impl Told {
    fn jobs(&mut self, jobs: &Value) {
        for job in jobs.as_array().unwrap().iter().filter(|job| job["ended_at"].is_string()) {
            let (id, state) = (job["id"].as_str().unwrap(), job["state"].as_str().unwrap());
            let before = self.ended.insert(id.to_owned(), state.to_owned());
            assert!(before.is_none_or(|before| before == state), "an ended job has another end: {job:#}");
        }
    }
}

pub(super) struct Load {
    pub(super) told: Rc<RefCell<Told>>,
    stopped: Rc<Cell<bool>>,
    tasks: Vec<JoinHandle<()>>,
}

#[derive(Clone)]
struct Shared {
    client: Client,
    told: Rc<RefCell<Told>>,
    stopped: Rc<Cell<bool>>,
}

impl Load {
    pub(super) fn start(client: &Client, seed: u64, slaves: &[&str]) -> Self {
        Self::start_on(client, seed, slaves, Rc::default(), 0)
    }

    /// Starts clients with keys of their own for this round, which add to what was told before.
    pub(super) fn start_on(
        client: &Client,
        seed: u64,
        slaves: &[&str],
        told: Rc<RefCell<Told>>,
        round: u64,
    ) -> Self {
        let stopped = Rc::default();
        let shared = Shared { client: client.clone(), told: Rc::clone(&told), stopped: Rc::clone(&stopped) };
        let slaves = slaves.iter().map(|&slave| slave.to_owned()).collect();
        let mut tasks = vec![
            spawn_local(cancel(shared.clone(), Random::new(seed ^ 77))),
            spawn_local(look(shared.clone(), slaves)),
        ];
        tasks.extend((0..PLACERS).map(|placer| {
            let random = Random::new(seed ^ placer << 32);
            spawn_local(place(shared.clone(), random, format!("{round}-{placer}")))
        }));
        Self { told, stopped, tasks }
    }

    /// Waits until so many more orders were acknowledged.
    pub(super) async fn more_orders(&self, count: usize) {
        let wanted = self.told.borrow().orders.len() + count;
        eventually("orders to be acknowledged", PATIENCE, async || {
            let placed = self.told.borrow().orders.len();
            if placed >= wanted { Ok(()) } else { Err(placed) }
        })
        .await;
    }

    pub(super) async fn stop(&mut self) {
        self.stopped.set(true);
        for task in self.tasks.drain(..) {
            task.await.unwrap();
        }
    }
}

/// Places each order under its key until it is acknowledged.
async fn place(Shared { client, told, stopped }: Shared, mut random: Random, keys: String) {
    for number in 0.. {
        let key = format!("{keys}-{number}");
        let order = match random.below(8) {
            0 => with(bake(0.0), json!({ "quantity": 2 })),
            1 => bake(0.0),
            // Two slaves can't do so many jobs: most wait at the master until they are canceled.
            _ => for_nobody(),
        };
        loop {
            if stopped.get() {
                return;
            }
            match client.place(&order, Some(&key)).await {
                Ok(reply) if reply.status == 201 => {
                    let id = reply.body["id"].as_str().unwrap().to_owned();
                    told.borrow_mut().orders.insert(key, (order, id));
                    break;
                }
                Ok(reply) => assert_eq!(reply.status, 503, "{:#}", reply.body),
                Err(_) => {}
            }
            sleep(PLACE_AGAIN).await;
        }
    }
}

/// Cancels a random order, and reads the result.
async fn cancel(Shared { client, told, stopped }: Shared, mut random: Random) {
    while !stopped.get() {
        let some = {
            let orders = &told.borrow().orders;
            orders.values().nth(random.below(orders.len())).map(|(_, id)| id.clone())
        };
        let Some(order) = some else {
            sleep(LOOK_AGAIN).await;
            continue;
        };
        drop(client.cancel_order(&order, &json!({})).await);
        if let Ok(reply) = client.order(&order).await
            && reply.status == 200
        {
            told.borrow_mut().jobs(&reply.body["jobs"]);
        }
    }
}

/// Reads lists and receipts.
async fn look(Shared { client, told, stopped }: Shared, slaves: Vec<String>) {
    while !stopped.get() {
        if let Ok(reply) = client.jobs("limit=50").await
            && reply.status == 200
        {
            told.borrow_mut().jobs(&reply.body["data"]);
        }
        for slave in &slaves {
            let newest = newest_session(&client, slave).await;
            let mut told = told.borrow_mut();
            let session = told.sessions.entry(slave.clone()).or_default();
            *session = newest.unwrap_or(0).max(*session);
        }
        sleep(LOOK_AGAIN).await;
    }
}

async fn newest_session(client: &Client, slave: &str) -> Option<u64> {
    let reply = client.receipts(slave).await.ok().filter(|reply| reply.status == 200)?;
    reply.body["data"].as_array()?.iter().filter_map(|receipt| receipt["session"].as_u64()).max()
}

/// Nothing that a client was told may be missing or older.
pub(super) async fn assert_kept(client: &Client, told: &RefCell<Told>, random: &mut Random, when: &str) {
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
        let newest = newest_session(client, slave).await.unwrap_or(0);
        assert!(newest >= *session, "{when}: a receipt of {slave} is gone");
    }
    let keys: Vec<_> = orders.iter().collect();
    for _ in 0..10.min(keys.len()) {
        // A random old one, or the newest.
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
