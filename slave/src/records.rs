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

use reloop_node::record::{self, RecordError};
use reloop_node::store::{Op, Store, StoreError};
use reloop_protocol::id::JobId;
use reloop_protocol::message::{Attention, Record};
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
    let mut set_aside = Vec::new();
    let mut aside = |key: &[u8], value: &[u8]| {
        let place = [format!("{UNREADABLE}{now_ms}/").as_bytes(), key].concat();
        set_aside.push(Op::Put { key: place, value: value.to_vec() });
        set_aside.push(Op::Delete { key: key.to_vec() });
    };
    let (mut node, mut jobs, mut ring) = (None::<Node>, Vec::new(), Vec::new());
    let (mut lost_node, mut lost_job) = (false, false);
    for (key, value) in &entries {
        let read = if key == NODE {
            read(value).map(|found| node = Some(found))
        } else if let Some(id) = key.strip_prefix(JOB) {
            read::<Job>(value).and_then(|job| {
                if job.report.job.0 != id {
                    return Err(Unreadable::WrongKey);
                }
                jobs.push(Write::Job(job.report.job, Some(Box::new(job))));
                Ok(())
            })
        } else {
            read::<Record>(value).map(|record| ring.push(record))
        };
        match read {
            Ok(()) => {}
            Err(Unreadable::Newer(schema)) => return Err(LoadError::Newer(schema)),
            Err(error) => {
                tracing::error!(key = %key.escape_ascii(), %error, "a record can't be read and is set aside");
                lost_node |= key == NODE;
                lost_job |= key.starts_with(JOB);
                aside(key, value);
            }
        }
    }
    if lost_node || (node.is_none() && !entries.is_empty()) {
        tracing::error!("the slave's own record is lost: the store counts as new, and its jobs are set aside too");
        set_aside.clear();
        let mut aside = |key: &[u8], value: &[u8]| {
            let place = [format!("{UNREADABLE}{now_ms}/").as_bytes(), key].concat();
            set_aside.push(Op::Put { key: place, value: value.to_vec() });
            set_aside.push(Op::Delete { key: key.to_vec() });
        };
        entries.iter().for_each(|(key, value)| aside(key, value));
        return Ok(Loaded { records: Vec::new(), set_aside });
    }
    if lost_job && let Some(node) = &mut node {
        node.attention.get_or_insert(Attention::StoreRolledBack);
    }
    let records = node.into_iter().map(Write::Node).chain(jobs).chain([Write::Ring(ring)]).collect();
    Ok(Loaded { records, set_aside })
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
