//! The master's records in the store: their keys, and how they are read and written.
//!
//! | key | value |
//! |---|---|
//! | `node` | the master's id, epoch and commit |
//! | `begun` | the master's newest incarnations |
//! | `clock` | what its clock showed when the master last made a release or an enrolment token |
//! | `live/` id | a job that has not ended; all of them are loaded at the start |
//! | `job/` id | a job that has ended. A job that was tried again is under both keys, and only the live record counts |
//! | `order/` id | an order |
//! | `key/` SHA-256 of an idempotency key | the key and the order that was placed with it |
//! | `desk/` public key | a slave record |
//! | `token/` SHA-256 of its text | an enrolment token |
//! | `receipt/` public key, number | the receipt of a handshake; numbers repeat, so a slave has a limited number of them |
//! | `unreadable/` key | a record that could not be read, kept for a person |
//!
//! Ids sort by their time of creation, so a page of the newest is a short scan.

use std::fmt::Debug;

use reloop_node::digest::sha256;
use reloop_node::record::{self, Unreadable, key};
use reloop_node::store::{Op, Store, StoreError};
use reloop_protocol::id::{JobId, OrderId, SlaveKey};
use reloop_protocol::master::{
    IdempotencyKey, Job, Loaded, Node, Order, Origin, Receipt, SlaveRecord, Token, Unknown, Write, origin,
};
use reloop_protocol::message::Begun;
use reloop_protocol::time::Time;
use serde::Serialize;

use crate::layout::Stored;

/// The layout of every record's payload. A change of the layout needs a new number. [`crate::layout`] has the ones before it.
const SCHEMA: u8 = 4;

/// How many entries are read at once: a few hundred kilobytes.
const LOAD_PAGE: usize = 1024;

const NODE: &[u8] = b"node";
const BEGUN: &[u8] = b"begun";
const CLOCK: &[u8] = b"clock";
const JOB: &[u8] = b"job/";
const LIVE: &[u8] = b"live/";
const ORDER: &[u8] = b"order/";
const KEY: &[u8] = b"key/";
const DESK: &[u8] = b"desk/";
const TOKEN: &[u8] = b"token/";
const RECEIPT: &[u8] = b"receipt/";
const UNREADABLE: &[u8] = b"unreadable/";

fn put<T: Serialize>(key: Vec<u8>, value: &T) -> Op {
    record::put(SCHEMA, key, value)
}

fn read<T: Stored>(value: &[u8]) -> Result<T, Unreadable> {
    record::read(SCHEMA, value, T::former)
}

/// The record key of a client's idempotency key.
pub fn idempotency(text: &str) -> Vec<u8> {
    key(KEY, &sha256(text.as_bytes()))
}

/// Appends the store's operations for a write of the rules.
pub fn ops(write: &Write, ops: &mut Vec<Op>) {
    match write {
        Write::Node(node) => ops.push(put(NODE.to_vec(), node)),
        Write::Begun(begun) => ops.push(put(BEGUN.to_vec(), begun)),
        Write::ClockMark(time) => ops.push(put(CLOCK.to_vec(), time)),
        Write::Order(order) => ops.push(put(key(ORDER, &order.id.0), order)),
        Write::Key(client, order) => ops.push(put(idempotency(&client.key), &(client, order))),
        Write::Job(job) => {
            let live = key(LIVE, &job.id.0);
            if job.state.is_ended() {
                ops.push(Op::Delete { key: live });
                ops.push(put(key(JOB, &job.id.0), job));
            } else {
                ops.push(put(live, job));
            }
        }
        Write::Slave(slave) => ops.push(put(key(DESK, &slave.key.0), slave)),
        Write::Token(hash, Some(token)) => ops.push(put(key(TOKEN, hash), token)),
        Write::Token(hash, None) => ops.push(Op::Delete { key: key(TOKEN, hash) }),
        Write::Receipt(receipt) => {
            let slot = key(&receipt.slave.0, &receipt.number.to_be_bytes());
            ops.push(put(key(RECEIPT, &slot), receipt));
        }
    }
}

/// Shows the rules each record that they start from. A record that cannot be read is moved to `unreadable/` and logged.
///
/// # Errors
/// The store cannot be read, or an unreadable record cannot be moved.
pub async fn load(store: &Store, mut show: impl FnMut(Write)) -> Result<Origin, StoreError> {
    let mut own = false;
    let show = |write| {
        own |= matches!(write, Write::Node(_));
        show(write);
    };
    let aside = entries(store, show).await?;
    let other = !store.scan(Vec::new(), None, false, 1).await?.is_empty();
    if !aside.is_empty() {
        let (done, written) = tokio::sync::oneshot::channel();
        store.commit(aside, move |result| drop(done.send(result)));
        written.await.unwrap_or(Err(StoreError::Closed))?;
    }
    Ok(origin(own, other))
}

/// The same for a store that takes no writes.
///
/// # Errors
/// The store or one of the records cannot be read.
pub async fn reread(store: Store, show: impl FnMut(Write)) -> Result<(), StoreError> {
    if entries(&store, show).await?.is_empty() {
        return Ok(());
    }
    Err(StoreError::Read { detail: "some records make no sense".to_owned() })
}

/// Shows every record that can be read, and returns the operations that move the others to `unreadable/`: commit them before
/// anything else.
async fn entries(store: &Store, mut show: impl FnMut(Write)) -> Result<Vec<Op>, StoreError> {
    let mut aside = Vec::new();
    for prefix in [NODE, BEGUN, CLOCK, DESK, TOKEN] {
        each(store, prefix, |at, value| entry(at, value, &mut aside).into_iter().for_each(&mut show)).await?;
    }
    let mut marks = Vec::new();
    each(store, LIVE, |at, value| match value {
        [] => marks.push(at.to_vec()),
        value => entry(at, value, &mut aside).into_iter().for_each(&mut show),
    })
    .await?;
    // An earlier build kept a live job under `job/`, and an empty mark under `live/`: move the job.
    for live in marks {
        let Some(value) = store.get(key(JOB, &live[LIVE.len()..])).await? else { continue };
        if let Some(job) = entry(&live, &value, &mut aside) {
            show(job);
            aside.push(Op::Put { key: live, value });
        }
    }
    // A job whose live record cannot be read may have been tried again: its record as an ended job is out of date.
    let lost = |op: &Op| match op {
        Op::Delete { key: at } => at.strip_prefix(LIVE).map(|id| key(JOB, id)),
        Op::Put { .. } => None,
    };
    for former in aside.iter().filter_map(lost).collect::<Vec<_>>() {
        if let Some(value) = store.get(former.clone()).await? {
            aside.extend(record::set_aside(UNREADABLE, &former, &value));
        }
    }
    Ok(aside)
}

/// Shows all entries under a prefix. The next page is read while one is shown.
async fn each(store: &Store, prefix: &[u8], mut show: impl FnMut(&[u8], &[u8])) -> Result<(), StoreError> {
    let read = |after| store.scan(prefix.to_vec(), after, false, LOAD_PAGE);
    let mut page = read(None).await?;
    while let Some((last, _)) = page.last() {
        let next = read(Some(last.clone()));
        page.iter().for_each(|(key, value)| show(key, value));
        page = next.await?;
    }
    Ok(())
}

/// Reads one entry that the rules start from, or adds the operations that move it to `unreadable/`.
pub fn entry(at: &[u8], value: &[u8], aside: &mut Vec<Op>) -> Option<Write> {
    fn take<T: Stored>(value: &[u8], write: impl FnOnce(T) -> Option<Write>) -> Result<Write, Unreadable> {
        write(read(value)?).ok_or(Unreadable::WrongKey)
    }
    let taken = if at == NODE {
        take(value, |node: Node| Some(Write::Node(node)))
    } else if at == BEGUN {
        take(value, |begun: Vec<Begun>| Some(Write::Begun(begun)))
    } else if at == CLOCK {
        take(value, |time: Time| Some(Write::ClockMark(time)))
    } else if let Some(key) = at.strip_prefix(DESK) {
        take(value, |slave: SlaveRecord| (slave.key.0 == key).then(|| Write::Slave(Box::new(slave))))
    } else if let Some(id) = at.strip_prefix(LIVE) {
        take(value, |job: Job| (job.id.0 == id).then(|| Write::Job(Box::new(job))))
    } else {
        let hash = at.strip_prefix(TOKEN)?;
        take(value, |token: Token| Some(Write::Token(hash.try_into().ok()?, Some(token))))
    };
    let unreadable = |error: &Unreadable| {
        let name = String::from_utf8_lossy(at).into_owned();
        tracing::error!(key = name, %error, "a record cannot be read and is set aside: slaves tell what they know of it");
        aside.extend(record::set_aside(UNREADABLE, at, value));
    };
    taken.inspect_err(unreadable).ok()
}

/// What a record decodes to, for people; `None` if it cannot be read.
pub fn explain(at: &[u8], value: &[u8]) -> Option<String> {
    fn debug<T: Stored + Debug>(value: &[u8]) -> Option<String> {
        read::<T>(value).ok().map(|found| format!("{found:?}"))
    }
    let is = |prefix| at.starts_with(prefix);
    match at {
        NODE => debug::<Node>(value),
        BEGUN => debug::<Vec<Begun>>(value),
        CLOCK => debug::<Time>(value),
        _ if is(JOB) || is(LIVE) => debug::<Job>(value),
        _ if is(ORDER) => debug::<Order>(value),
        _ if is(KEY) => debug::<(IdempotencyKey, OrderId)>(value),
        _ if is(DESK) => debug::<SlaveRecord>(value),
        _ if is(TOKEN) => debug::<Token>(value),
        _ if is(RECEIPT) => debug::<Receipt>(value),
        _ => None,
    }
}

/// `None` if there is no such record, or it cannot be read.
async fn one<T: Stored>(store: &Store, at: Vec<u8>) -> Result<Option<T>, StoreError> {
    let Some(value) = store.get(at.clone()).await? else { return Ok(None) };
    Ok(readable(&at, &value))
}

/// `None`, and an error in the log, if the record cannot be read.
pub fn readable<T: Stored>(at: &[u8], value: &[u8]) -> Option<T> {
    read(value)
        .inspect_err(|error| {
            tracing::error!(key = %String::from_utf8_lossy(at), %error, "a record cannot be read");
        })
        .ok()
}

async fn page<T: Stored>(
    store: &Store,
    prefix: &[u8],
    before: Option<Vec<u8>>,
    limit: usize,
) -> Result<Vec<T>, StoreError> {
    let entries = store.scan(prefix.to_vec(), before, true, limit).await?;
    Ok(entries.iter().filter_map(|(at, value)| readable(at, value)).collect())
}

/// What the disk has of what is not in memory.
pub async fn look_up(store: &Store, unknown: &Unknown) -> Result<Loaded, StoreError> {
    let mut loaded = Loaded::default();
    for id in &unknown.orders {
        loaded.orders.extend(order(store, *id).await?);
    }
    for id in &unknown.jobs {
        loaded.jobs.extend(ended_job(store, *id).await?);
    }
    for key in &unknown.keys {
        let found: Option<(IdempotencyKey, OrderId)> = one(store, idempotency(key)).await?;
        loaded.keys.insert(key.clone(), found.map(|(client, order)| (order, client.fingerprint)));
    }
    Ok(loaded)
}

pub async fn ended_job(store: &Store, id: JobId) -> Result<Option<Job>, StoreError> {
    one(store, key(JOB, &id.0)).await
}

/// Jobs that have ended, newest first, older than `before`.
pub async fn ended_jobs(store: &Store, before: Option<JobId>, limit: usize) -> Result<Vec<Job>, StoreError> {
    page(store, JOB, before.map(|id| key(JOB, &id.0)), limit).await
}

pub async fn order(store: &Store, id: OrderId) -> Result<Option<Order>, StoreError> {
    one(store, key(ORDER, &id.0)).await
}

/// Orders, newest first, older than `before`.
pub async fn orders(store: &Store, before: Option<OrderId>, limit: usize) -> Result<Vec<Order>, StoreError> {
    page(store, ORDER, before.map(|id| key(ORDER, &id.0)), limit).await
}

/// A slave's receipts, newest first.
pub async fn receipts(store: &Store, slave: SlaveKey) -> Result<Vec<Receipt>, StoreError> {
    let limit = reloop_protocol::master::RECEIPTS as usize;
    let mut receipts: Vec<Receipt> = page(store, &key(RECEIPT, &slave.0), None, limit).await?;
    Receipt::sort_newest_first(&mut receipts);
    Ok(receipts)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use reloop_node::store::Options;
    use reloop_protocol::id::{Attempt, BootId, Epoch, Generation, MasterId, Session, StoreId};
    use reloop_protocol::job::State;
    use reloop_protocol::master::{
        self, Basis, Enrolled, Enrollment, Event, OtherAttempt, RETRY_BACKOFF, RejectedBy, RequestId,
        Settings,
    };
    use reloop_protocol::message::{Activity, Attention, Mode, OperatingMode};
    use reloop_protocol::time::Time;
    use reloop_protocol::wire;

    use super::*;

    async fn commit(store: &Store, ops: Vec<Op>) {
        let (done, written) = tokio::sync::oneshot::channel();
        store.commit(ops, move |result| drop(done.send(result)));
        written.await.unwrap().unwrap();
    }

    /// What the rules write for an order of two jobs.
    fn placed() -> Vec<Write> {
        let body = br#"{"program": "mill", "quantity": 2}"#;
        let (order, _) = crate::rest::bodies::order(body, None, Time(1)).ok().unwrap();
        let state = master::recover(
            Settings { enrollment: Enrollment::Open, placement: Default::default() },
            MasterId([1; 16]),
            vec![],
        );
        let (request, order) = (RequestId(1), Box::new(order));
        master::step(state, Time(1), Event::OrderPlaced { request, order, key: None }).persist
    }

    async fn loaded(store: &Store) -> Vec<Write> {
        let mut loaded = Vec::new();
        load(store, |write| loaded.push(write)).await.unwrap();
        loaded
    }

    fn jobs(writes: &[Write]) -> Vec<&Job> {
        writes
            .iter()
            .filter_map(|write| if let Write::Job(job) = write { Some(&**job) } else { None })
            .collect()
    }

    #[test]
    fn what_a_record_means_can_be_read_without_a_master() {
        for write in placed() {
            let mut puts = Vec::new();
            ops(&write, &mut puts);
            for put in puts {
                let Op::Put { key, value } = put else { continue };
                assert!(explain(&key, &value).is_some(), "{write:?}");
                assert_eq!(explain(&key, &value[1..]), None, "a damaged record means nothing");
            }
        }
    }

    #[tokio::test]
    async fn a_live_job_that_lies_among_the_ended_ones_with_a_mark_is_loaded_and_moves() {
        let dir = tempfile::tempdir().unwrap();
        let options = Options { cache_bytes: 1 << 20, min_free_bytes: 0 };
        let store = Store::open(&dir.path().join("store"), options).unwrap().store;
        let writes = placed();
        let mut old = Vec::new();
        for job in jobs(&writes) {
            old.push(put(key(JOB, &job.id.0), job));
            old.push(Op::Put { key: key(LIVE, &job.id.0), value: Vec::new() });
        }
        commit(&store, old).await;
        for start in ["the first", "every later"] {
            let loaded = loaded(&store).await;
            assert_eq!(jobs(&loaded), jobs(&writes), "at {start} start");
            for job in jobs(&loaded) {
                let live: Option<Job> = one(&store, key(LIVE, &job.id.0)).await.unwrap();
                assert_eq!(live.as_ref(), Some(job), "at {start} start");
            }
        }
    }

    #[test]
    fn what_the_build_before_claims_wrote_is_read_as_what_it_means_now() {
        let mut job = jobs(&placed())[0].clone();
        let (ours, others) = (SlaveKey([7; 32]), SlaveKey([8; 32]));
        job.assigned.push_back((Attempt(1), ours));
        let earlier = |attempt, holder, basis| OtherAttempt {
            attempt: Attempt(attempt),
            holder,
            state: State::Succeeded,
            report: None,
            basis,
        };
        job.others = vec![earlier(1, ours, Basis::Assigned), earlier(2, others, Basis::Claim)];
        // In the order in which layout 1 has them, each as it was.
        let head = (&job.id, &job.spec, &job.digest, &job.slave, &job.requires, &job.start, &job.retry);
        let state = (&job.created_at, job.state, &job.desired, job.generation, job.recalled);
        let attempt = (job.attempt, job.last_attempt, job.holder, &job.report, job.heard_at);
        let was: Vec<_> = job.others.iter().map(|e| (e.attempt, e.holder, e.state, &e.report)).collect();
        let tail = (&job.assigned, &job.reason, job.flags, job.ended_at, job.revision, &job.events);
        let old = wire::encode(&(head, state, attempt, was, tail));
        assert_eq!(read::<Job>(&record::seal(1, &old)).unwrap(), job);
        assert_eq!(read::<Job>(&record::seal(SCHEMA, &wire::encode(&job))).unwrap(), job);

        let operating_mode = OperatingMode { generation: Generation(3), mode: Mode::Draining };
        let machine = Some((
            Activity::Ready,
            None::<JobId>,
            Some(Attention::Moved),
            None::<JobId>,
            false,
            operating_mode,
        ));
        let who =
            (ours, "mill-3", "0.1.0", Enrolled::Yes, Some(StoreId([2; 16])), None::<BootId>, Session(9));
        let offers = (vec!["mill"], BTreeMap::from([("bed", "large")]), 4_u16, operating_mode, machine);
        let old = wire::encode(&(who, offers, Some(Time(5)), -3_i64, None::<Time>, 2_u32));
        let slave: SlaveRecord = read(&record::seal(1, &old)).unwrap();
        assert_eq!(
            (slave.name.as_str(), slave.session, slave.operating_mode),
            ("mill-3", Session(9), operating_mode)
        );
        assert_eq!((slave.settled_in, slave.receipts, slave.clock_offset_ms), (Epoch(0), 2, -3));
        // Layout 2 had one capacity for all jobs.
        let who =
            (&slave.key, &slave.name, &slave.agent, slave.enrolled, &slave.store, &slave.boot, slave.session);
        let offers = (slave.settled_in, &slave.programs, &slave.labels, slave.capacity, slave.operating_mode);
        let rest =
            (&slave.machine, slave.last_contact, slave.clock_offset_ms, slave.cloned_at, slave.receipts);
        let layout_2 = record::seal(2, &wire::encode(&(who, offers, rest)));
        assert_eq!(read::<SlaveRecord>(&layout_2).unwrap(), slave);
        // Layout 3 ends before what retries and rejections need.
        let short = |whole: Vec<u8>, end: Vec<u8>| whole.strip_suffix(&*end).expect("it ends so").to_vec();
        let end = wire::encode(&(RETRY_BACKOFF, 0_u32, None::<Time>, Vec::<RejectedBy>::new()));
        assert_eq!(read::<Job>(&record::seal(3, &short(wire::encode(&job), end))).unwrap(), job);
        let layout_3 = record::seal(3, &short(wire::encode(&slave), wire::encode(&0_u32)));
        assert_eq!(read::<SlaveRecord>(&layout_3).unwrap(), slave);
        let order = placed().into_iter().find_map(|write| match write {
            Write::Order(order) => Some(*order),
            _ => None,
        });
        let order = order.expect("an order was placed");
        let layout_3 = record::seal(3, &short(wire::encode(&order), wire::encode(&RETRY_BACKOFF)));
        assert_eq!(read::<Order>(&layout_3).unwrap(), order);
        let machine = slave.machine.unwrap();
        assert_eq!((machine.attention, machine.cause), (Some(Attention::Moved), None));
        assert!(matches!(
            read::<SlaveRecord>(&record::seal(SCHEMA + 1, &old)),
            Err(Unreadable::Newer { .. })
        ));
    }

    #[tokio::test]
    async fn the_former_end_of_a_job_whose_live_record_is_damaged_does_not_speak_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let options = Options { cache_bytes: 1 << 20, min_free_bytes: 0 };
        let store = Store::open(&dir.path().join("store"), options).unwrap().store;
        let writes = placed();
        let former = jobs(&writes)[0];
        let (live, ended) = (key(LIVE, &former.id.0), key(JOB, &former.id.0));
        let damaged = Op::Put { key: live.clone(), value: b"damaged".to_vec() };
        commit(&store, vec![put(ended.clone(), former), damaged]).await;
        assert_eq!(ended_job(&store, former.id).await.unwrap().as_ref(), Some(former));
        let loaded = loaded(&store).await;
        assert!(jobs(&loaded).is_empty());
        assert_eq!(ended_job(&store, former.id).await.unwrap(), None);
        for of in [live, ended] {
            assert!(store.get(key(UNREADABLE, &of)).await.unwrap().is_some(), "it is kept for a look");
        }
    }
}
