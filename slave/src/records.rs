//! How the slave's records lie in the store: the one place that knows the keys.
//!
//! | key | value |
//! |---|---|
//! | `node` | about itself |
//! | `job/` id | a job that it holds |
//! | `ring/` number | an outcome that it was told to forget, oldest first |
//! | `unreadable/` time `/` key | a record that could not be read, as it was |
//!
//! An unreadable record is an ordinary start state. What cannot be known any more is handled as if the database had
//! been replaced (its own record) or had gone back in time (a job): either way nothing starts until a person has
//! looked at the machine, because it may be busy with what was lost.

use std::collections::BTreeSet;

use reloop_node::record::{self, RecordError};
use reloop_node::store::{Entry, Op, Store, StoreError};
use reloop_protocol::id::JobId;
use reloop_protocol::message::Attention;
use reloop_protocol::slave::{Job, Node, RING, Write};
use reloop_protocol::wire::{self, WireError};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The layout of every record's payload; another one gets another number.
const SCHEMA: u8 = 1;

const NODE: &[u8] = b"node";
const JOB: &[u8] = b"job/";
const RING_KEYS: &[u8] = b"ring/";
const UNREADABLE: &str = "unreadable/";

/// What the disk holds.
#[derive(Debug)]
pub struct Loaded {
    /// For `recover`.
    pub records: Vec<Write>,
    /// To be committed before anything else: puts aside what could not be read.
    pub set_aside: Vec<Op>,
}

/// The records can't be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The store doesn't give them.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A newer program wrote them.
    #[error(
        "the store's records have layout {0}, and this version knows {SCHEMA}: use the version that wrote them, or a \
         newer one"
    )]
    Newer(u8),
}

/// Why one record can't be read.
#[derive(Debug, thiserror::Error)]
enum Unreadable {
    #[error(transparent)]
    Envelope(#[from] RecordError),
    #[error("it has layout {0}")]
    Newer(u8),
    #[error(transparent)]
    Payload(#[from] WireError),
    #[error("it stands under another job's key")]
    WrongKey,
}

/// What a write of the rules is to the store.
pub fn ops(write: &Write, ops: &mut Vec<Op>) {
    match write {
        Write::Node(node) => ops.push(put(NODE.to_vec(), node)),
        Write::Job(id, Some(job)) => ops.push(put(job_key(*id), &**job)),
        Write::Job(id, None) => ops.push(Op::Delete { key: job_key(*id) }),
        // One value each: together they could be more than the store takes in one.
        Write::Ring(ring) => ops.extend((0..RING).map(|index| match ring.get(index) {
            Some(record) => put(ring_key(index), record),
            None => Op::Delete { key: ring_key(index) },
        })),
    }
}

/// Reads everything; `now_ms` names the place of what can't be read. Blocks.
///
/// # Errors
/// The store can't be read at all, or belongs to a newer program.
pub fn load(store: &Store, now_ms: i64) -> Result<Loaded, LoadError> {
    let mut entries = Vec::new();
    for prefix in [NODE, JOB, RING_KEYS] {
        store.load(prefix, |key, value| entries.push((key.to_vec(), value.to_vec())))?;
    }
    let (mut node, mut jobs, mut ring) = (None::<Node>, Vec::new(), Vec::new());
    let mut unreadable = BTreeSet::new();
    for (key, value) in &entries {
        let found = if key == NODE {
            read(value).map(|found| node = Some(found))
        } else if let Some(id) = key.strip_prefix(JOB) {
            read_job(id, value).map(|job| jobs.push(job))
        } else {
            read(value).map(|record| ring.push(record))
        };
        match found {
            Ok(()) => {}
            Err(Unreadable::Newer(schema)) => return Err(LoadError::Newer(schema)),
            Err(error) => {
                tracing::error!(key = %key.escape_ascii(), %error, "a record can't be read and is set aside");
                unreadable.insert(key.clone());
            }
        }
    }
    let Some(mut node) = node else {
        if !entries.is_empty() {
            tracing::error!("the slave's own record is lost: the store counts as new, and all of it is set aside");
        }
        return Ok(Loaded { records: Vec::new(), set_aside: set_aside(&entries, now_ms) });
    };
    if unreadable.iter().any(|key| key.starts_with(JOB)) {
        node.attention.get_or_insert(Attention::StoreRolledBack);
    }
    entries.retain(|(key, _)| unreadable.contains(key));
    let jobs = jobs.into_iter().map(|job| Write::Job(job.report.job, Some(Box::new(job))));
    let records = [Write::Node(node), Write::Ring(ring)].into_iter().chain(jobs).collect();
    Ok(Loaded { records, set_aside: set_aside(&entries, now_ms) })
}

fn set_aside(entries: &[Entry], now_ms: i64) -> Vec<Op> {
    let aside = |(key, value): &Entry| {
        let place = [format!("{UNREADABLE}{now_ms}/").as_bytes(), key].concat();
        [Op::Put { key: place, value: value.clone() }, Op::Delete { key: key.clone() }]
    };
    entries.iter().flat_map(aside).collect()
}

fn read_job(id: &[u8], value: &[u8]) -> Result<Job, Unreadable> {
    let job: Job = read(value)?;
    if job.report.job.0 == id { Ok(job) } else { Err(Unreadable::WrongKey) }
}

fn job_key(id: JobId) -> Vec<u8> {
    [JOB, &id.0].concat()
}

fn ring_key(index: usize) -> Vec<u8> {
    [RING_KEYS, &[u8::try_from(index).expect("the ring has fewer than 256 places")]].concat()
}

fn put<T: Serialize>(key: Vec<u8>, value: &T) -> Op {
    Op::Put { key, value: record::seal(SCHEMA, &wire::encode(value)) }
}

fn read<T: DeserializeOwned>(value: &[u8]) -> Result<T, Unreadable> {
    let (schema, payload) = record::open(value)?;
    match schema {
        SCHEMA => Ok(wire::decode(payload, wire::MAX_MESSAGE)?),
        0 => Err(Unreadable::Payload(WireError::Malformed("there is no layout 0".to_owned()))),
        newer => Err(Unreadable::Newer(newer)),
    }
}
