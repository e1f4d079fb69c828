//! Either node's disk: any bytes are a record or are set aside, and none of them prevents a start.

use std::collections::BTreeMap;

use reloop_master::records as of_master;
use reloop_node::record;
use reloop_node::store::{Entry, Op};
use reloop_protocol::id::{MasterId, OrderId, SlaveKey, StoreId};
use reloop_protocol::master::{self, Enrollment};
use reloop_protocol::slave::{self, LATE_TOLERANCE, TrustClock};
use reloop_protocol::wire;
use reloop_slave::records as of_slave;

use super::any::Source;

/// The keys that the nodes read when they start.
const KEYS: [&[u8]; 7] = [b"node", b"desk/", b"token/", b"live/", b"job/", b"receipt/", b"ring/"];

/// The bytes are the entries of a disk: some as they are, some in a correct envelope, some as the node would write
/// them.
pub fn run(bytes: &[u8]) {
    let mut source = Source::new(bytes);
    let mut entries: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    while !source.is_empty() {
        let prefix = source.pick(&KEYS);
        let id = source.pick(&[0, 1, 16, 32]);
        let mut key = prefix.to_vec();
        if prefix.ends_with(b"/") {
            key.extend(std::iter::repeat_n(source.byte() % 3, id));
        }
        let length = usize::from(source.byte());
        let payload: Vec<u8> = (0..length).take_while(|_| !source.is_empty()).map(|_| 0).collect();
        let payload: Vec<u8> = payload.iter().map(|_| source.byte()).collect();
        let value = match source.below(8) {
            0 | 1 => payload,
            2 => record::seal(source.byte(), &payload),
            3 => record::seal(2, &payload),
            _ => record::seal(1, &payload),
        };
        entries.insert(key, value);
    }
    masters(&entries);
    slaves(&entries);
    written(bytes);
}

fn masters(entries: &BTreeMap<Vec<u8>, Vec<u8>>) {
    let settings = master::Settings { enrollment: Enrollment::Open, placement: Default::default() };
    let mut state = master::newborn(settings, MasterId([9; 16]));
    for (key, value) in entries {
        let mut aside = Vec::new();
        let read = of_master::entry(key, value, &mut aside);
        let is_read = read.is_some() && aside.is_empty();
        read.into_iter().for_each(|record| state.restore(record));
        let is_kept = aside
            .iter()
            .any(|op| matches!(op, Op::Put { key: at, value: kept } if at.ends_with(key) && kept == value));
        let starts = [&b"node"[..], b"desk/", b"token/", b"live/"].iter().any(|of| key.starts_with(of));
        assert!(is_read || is_kept || !starts, "{} is neither read nor kept", key.escape_ascii());
        // Read only on demand.
        of_master::readable::<master::Order>(key, value);
        of_master::readable::<master::Receipt>(key, value);
        of_master::readable::<(master::IdempotencyKey, OrderId)>(key, value);
    }
    master::durable(&state);
    master::next_deadline(&state);
}

fn slaves(entries: &BTreeMap<Vec<u8>, Vec<u8>>) {
    let mine = |key: &[u8]| [&b"node"[..], b"job/", b"ring/"].iter().any(|of| key.starts_with(of));
    let mine: Vec<Entry> = entries
        .iter()
        .filter(|(key, _)| mine(key))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    let loaded = match of_slave::understand(mine.clone(), 7) {
        Ok(loaded) => loaded,
        Err(of_slave::LoadError::Newer(schema)) => return assert!(schema > 2),
        Err(of_slave::LoadError::Store(error)) => panic!("there is no store: {error}"),
    };
    for op in &loaded.set_aside {
        if let Op::Put { key, value } = op {
            let kept = mine.iter().any(|(old, bytes)| key.ends_with(old) && bytes == value);
            assert!(kept && key.starts_with(b"unreadable/7/"), "{}", key.escape_ascii());
        }
    }
    let puts = loaded.set_aside.iter().filter(|op| matches!(op, Op::Put { .. })).count();
    let read: usize = loaded
        .records
        .iter()
        .map(|write| match write {
            slave::Write::RecentOutcomes(recent_outcomes) => recent_outcomes.len(),
            slave::Write::Node(_) | slave::Write::Job(..) => 1,
        })
        .sum();
    assert_eq!(puts + read, mine.len(), "every entry is read or set aside");
    let state = slave::recover(settings(), StoreId([9; 16]), loaded.records);
    slave::durable(&state);
    slave::snapshot(&state);
}

/// What a node writes, it can read.
fn written(bytes: &[u8]) {
    let mut source = Source::new(bytes);
    let job: master::Job = source.any();
    let slave: master::SlaveRecord = source.any();
    let writes = [
        master::Write::Node(source.any()),
        master::Write::Job(Box::new(job)),
        master::Write::Slave(Box::new(slave)),
        master::Write::Token([3; 32], Some(source.any())),
    ];
    for write in &writes {
        let mut ops = Vec::new();
        of_master::ops(write, &mut ops);
        for op in &ops {
            if let Op::Put { key, value } = op
                && value.len() < wire::MAX_MESSAGE
            {
                let read = if key.starts_with(b"job/") {
                    // An ended job is read only on demand.
                    of_master::readable::<master::Job>(key, value)
                        .map(|job| master::Write::Job(Box::new(job)))
                } else {
                    of_master::entry(key, value, &mut Vec::new())
                };
                assert!(read.as_ref() == Some(write), "{write:?} was read as {read:?}");
            }
        }
    }
    let job: slave::Job = source.any();
    let writes = [slave::Write::Node(source.any()), slave::Write::Job(job.report.job, Some(Box::new(job)))];
    let mut entries = Vec::new();
    for write in &writes {
        let mut ops = Vec::new();
        of_slave::ops(write, &mut ops);
        for op in ops {
            if let Op::Put { key, value } = op {
                entries.push((key, value));
            }
        }
    }
    if entries.iter().all(|(_, value)| value.len() < wire::MAX_MESSAGE) {
        let loaded = of_slave::understand(entries, 7).expect("this version wrote it");
        assert!(writes.iter().all(|write| loaded.records.contains(write)), "{writes:?}");
        assert_eq!(loaded.set_aside, []);
    }
}

fn settings() -> slave::Settings {
    slave::Settings {
        name: "s".to_owned(),
        agent: "fuzz".to_owned(),
        key: SlaveKey([1; 32]),
        programs: vec![],
        labels: BTreeMap::new(),
        capacity: 4,
        deferred_capacity: 16,
        release: slave::Release::Auto,
        after_failure: slave::AfterFailure::Release,
        trust_clock: TrustClock::Always,
        late_tolerance: LATE_TOLERANCE,
        max_interruptions: 3,
        max_failures_in_row: 3,
        token: None,
    }
}
