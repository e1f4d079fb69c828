//! How the slave's records lie in the store. No other module knows the keys.
//!
//! | key | value |
//! |---|---|
//! | `node` | the slave's own record |
//! | `job/` id | a job that the slave holds |
//! | `ring/` number | an outcome that it was told to forget, oldest first |
//! | `unreadable/` time `/` key | a record that could not be read, unchanged |
//!
//! A record that cannot be read does not keep the agent from starting: it is set aside, and the rules are told of the damage.

mod before_runs;
mod before_work_time;

use std::collections::{BTreeMap, BTreeSet};

use reloop_node::record::{self, Unreadable};
use reloop_node::store::{Entry, Op, Store, StoreError};
use reloop_protocol::id::JobId;
use reloop_protocol::message::Record;
use reloop_protocol::slave::{Damage, Job, Node, RECENT_OUTCOMES, Write};
use serde::Serialize;

use self::before_runs::{JobBeforeRuns, NodeBeforeRuns};
use self::before_work_time::{JobBeforeWorkTime, NodeBeforeWorkTime};

/// The number of the present layout of the records. Layout 1 is that of [`before_runs`], and layout 2 that of [`before_work_time`].
/// Those of layout 3 end where failures in a row and required labels are kept now.
const SCHEMA: u8 = 4;

const NODE: &[u8] = b"node";
const JOB: &[u8] = b"job/";
const RECENT_OUTCOME: &[u8] = b"ring/";
const UNREADABLE: &str = "unreadable/";

/// The content of the store.
#[derive(Debug)]
pub struct Loaded {
    /// The input of [`recover`](reloop_protocol::slave::recover).
    pub records: Vec<Write>,
    /// What could not be read.
    pub damage: Damage,
    /// Sets aside what does not count. To be committed together with what the rules conclude from the damage, and before
    /// anything else.
    pub set_aside: Vec<Op>,
}

/// Why the records cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The store cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A newer program wrote a record, in this layout.
    #[error(
        "the store's records have layout {0}, and this version knows {SCHEMA}: use the version that wrote them, or a \
         newer one"
    )]
    Newer(u8),
}

/// Adds the operations for a write of the rules.
pub fn ops(write: &Write, ops: &mut Vec<Op>) {
    match write {
        Write::Node(node) => ops.push(put(NODE.to_vec(), node)),
        Write::Job(id, Some(job)) => ops.push(put(job_key(*id), &**job)),
        Write::Job(id, None) => ops.push(Op::Delete { key: job_key(*id) }),
        // One value each: together they may be larger than the largest value of the store.
        Write::RecentOutcomes(recent_outcomes) => {
            ops.extend((0..RECENT_OUTCOMES).map(|index| match recent_outcomes.get(index) {
                Some(record) => put(recent_outcome_key(index), record),
                None => Op::Delete { key: recent_outcome_key(index) },
            }))
        }
    }
}

/// Reads everything. `now_ms` becomes part of the keys of records that are set aside. Blocks.
///
/// # Errors
/// The store cannot be read at all, or belongs to a newer program.
pub fn load(store: &Store, now_ms: i64) -> Result<Loaded, LoadError> {
    let mut entries = Vec::new();
    for prefix in [NODE, JOB, RECENT_OUTCOME] {
        store.load(prefix, |key, value| entries.push((key.to_vec(), value.to_vec())))?;
    }
    understand(entries, now_ms)
}

/// Decodes the entries of a store. `now_ms` becomes part of the keys of records that are set aside.
///
/// # Errors
/// A newer program wrote a record.
pub fn understand(mut entries: Vec<Entry>, now_ms: i64) -> Result<Loaded, LoadError> {
    let (mut node, mut jobs, mut recent_outcomes) = (None::<Node>, Vec::new(), Vec::new());
    let mut unreadable = BTreeSet::new();
    for (key, value) in &entries {
        let found = if key == NODE {
            read_node(value).map(|found| node = Some(found))
        } else if let Some(id) = key.strip_prefix(JOB) {
            read_job(id, value).map(|job| jobs.push(job))
        } else {
            read_outcome(value).map(|record| recent_outcomes.push(record))
        };
        match found {
            Ok(()) => {}
            Err(Unreadable::Newer { found, .. }) => return Err(LoadError::Newer(found)),
            Err(error) => {
                tracing::error!(key = %key.escape_ascii(), %error, "a record can't be read and is set aside");
                unreadable.insert(key.clone());
            }
        }
    }
    let damage = Damage {
        node: node.is_none() && !entries.is_empty(),
        jobs: u32::try_from(unreadable.iter().filter(|key| key.starts_with(JOB)).count()).unwrap_or(u32::MAX),
    };
    if damage.is_total() {
        tracing::error!(
            "the slave's own record is lost: the store counts as new, and all of it is set aside"
        );
    } else {
        entries.retain(|(key, _)| unreadable.contains(key));
    }
    let jobs = jobs.into_iter().map(|job| Write::Job(job.report.job, Some(Box::new(job))));
    let all = node.map(Write::Node).into_iter().chain([Write::RecentOutcomes(recent_outcomes)]).chain(jobs);
    let records = if damage.is_total() { Vec::new() } else { all.collect() };
    Ok(Loaded { records, damage, set_aside: set_aside(&entries, now_ms) })
}

/// What a record decodes to, for people; `None` if it cannot be read.
pub fn explain(key: &[u8], value: &[u8]) -> Option<String> {
    if key == NODE {
        read_node(value).ok().map(|node| format!("{node:?}"))
    } else if let Some(id) = key.strip_prefix(JOB) {
        read_job(id, value).ok().map(|job| format!("{job:?}"))
    } else if key.starts_with(RECENT_OUTCOME) {
        read_outcome(value).ok().map(|record| format!("{record:?}"))
    } else {
        None
    }
}

fn set_aside(entries: &[Entry], now_ms: i64) -> Vec<Op> {
    let place = format!("{UNREADABLE}{now_ms}/");
    entries.iter().flat_map(|(key, value)| record::set_aside(place.as_bytes(), key, value)).collect()
}

fn read_node(value: &[u8]) -> Result<Node, Unreadable> {
    record::read(SCHEMA, value, |layout, payload| match layout {
        1 => record::decode::<NodeBeforeRuns>(payload).map(Into::into),
        2 => record::decode::<NodeBeforeWorkTime>(payload).map(Into::into),
        _ => record::decode_short(payload, &Vec::<JobId>::new()),
    })
}

fn read_job(id: &[u8], value: &[u8]) -> Result<Job, Unreadable> {
    let job: Job = record::read(SCHEMA, value, |layout, payload| match layout {
        1 => record::decode::<JobBeforeRuns>(payload).map(Into::into),
        2 => record::decode::<JobBeforeWorkTime>(payload).map(Into::into),
        _ => record::decode_short(payload, &no_labels()),
    })?;
    if job.report.job.0 == id { Ok(job) } else { Err(Unreadable::WrongKey) }
}

fn read_outcome(value: &[u8]) -> Result<Record, Unreadable> {
    record::read(SCHEMA, value, |_, payload| record::decode_short(payload, &no_labels()))
}

fn no_labels() -> BTreeMap<String, String> {
    BTreeMap::new()
}

fn job_key(id: JobId) -> Vec<u8> {
    record::key(JOB, &id.0)
}

fn recent_outcome_key(index: usize) -> Vec<u8> {
    record::key(RECENT_OUTCOME, &[u8::try_from(index).expect("there are fewer than 256 recent outcomes")])
}

fn put<T: Serialize>(key: Vec<u8>, value: &T) -> Op {
    record::put(SCHEMA, key, value)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;
    use std::sync::mpsc;

    use reloop_node::store::Options;
    use reloop_protocol::id::{
        Attempt, BootId, Generation, Incarnation, OrderId, Session, SlaveKey, StoreId,
    };
    use reloop_protocol::job::State;
    use reloop_protocol::message::{
        Attention, Challenge, MasterBinding, Message, Mode, OperatingMode, PROTOCOL, Record, Report, Source,
        Welcome,
    };
    use reloop_protocol::slave::{
        AfterFailure, Event, LATE_TOLERANCE, LinkId, Now, Release, RunState, Settings, Slave, Stretch,
        TrustClock, durable, recover, step,
    };
    use reloop_protocol::spec::{CancelMode, Desired, DesiredState, Spec, StartRule};
    use reloop_protocol::time::{Millis, Time};
    use reloop_protocol::wire;

    use super::*;

    fn open(dir: &Path) -> Store {
        Store::open(dir, Options { cache_bytes: 1 << 20, min_free_bytes: 0 }).unwrap().store
    }

    fn commit(store: &Store, ops: Vec<Op>) {
        let (done, written) = mpsc::channel();
        store.commit(ops, move |result| done.send(result).unwrap());
        written.recv().unwrap().unwrap();
    }

    fn settings() -> Settings {
        Settings {
            name: "mill".into(),
            agent: "test".into(),
            key: SlaveKey([1; 32]),
            programs: vec![],
            labels: BTreeMap::from([("material".to_owned(), "pla".to_owned())]),
            capacity: 4,
            deferred_capacity: 16,
            release: Release::Auto,
            after_failure: AfterFailure::Release,
            trust_clock: TrustClock::Never,
            late_tolerance: LATE_TOLERANCE,
            max_interruptions: 3,
            max_failures_in_row: 3,
            token: None,
        }
    }

    fn recovered(records: Vec<Write>) -> Slave {
        recover(settings(), StoreId([9; 16]), records)
    }

    /// A slave with this many jobs, whose writes are all in the store.
    fn with_jobs(store: &Store, jobs: u64) -> Slave {
        let (link, session) = (LinkId(1), Session(1));
        let received = |message| Event::Received {
            link,
            session,
            commit: Default::default(),
            message,
            unfit: BTreeMap::new(),
        };
        let binding = MasterBinding {
            master: reloop_protocol::id::MasterId([2; 16]),
            epoch: Default::default(),
            incarnation: Default::default(),
            commit: Default::default(),
        };
        let mut events = vec![
            Event::AgentStarted {
                boot: BootId([3; 16]),
                fingerprint: None,
                known_key: false,
                next_store: StoreId([8; 16]),
                damage: Damage::default(),
                unfit: BTreeMap::new(),
            },
            Event::LinkOpened { link, token: None },
            received(Message::Challenge(Challenge {
                protocol: PROTOCOL,
                master: binding.master,
                epoch: binding.epoch,
                commit: binding.commit,
                begun: vec![],
                nonce: [0; 32],
                time: Time(1000),
            })),
            received(Message::Welcome(Welcome {
                protocol: 1,
                session,
                binding,
                operating_mode: OperatingMode { generation: Generation(0), mode: Mode::Production },
                rulings: vec![],
            })),
        ];
        events.extend((0..jobs).map(|number| {
            let spec = Spec {
                order: OrderId::from_parts(1, 1),
                name: None,
                program: "mill".into(),
                params: BTreeMap::new(),
                max_runtime: None,
                on_overdue: Default::default(),
                on_interrupt: Default::default(),
            };
            received(Message::DesiredState(DesiredState {
                job: JobId::from_parts(number, 1),
                attempt: Attempt(1),
                generation: Generation(1),
                digest: spec.digest(),
                spec: Some(spec),
                requires: BTreeMap::from([("material".to_owned(), "pla".to_owned())]),
                desired: Desired::Run,
                start: StartRule::default(),
            }))
        }));
        let mut state = recovered(vec![]);
        for event in events {
            let done = step(state, Now { wall: Time(0), boot_ms: 0, synchronized: false }, event);
            let mut writes = Vec::new();
            done.persist.iter().for_each(|write| ops(write, &mut writes));
            commit(store, writes);
            state = done.state;
        }
        assert_eq!(state.jobs.len() as u64, jobs);
        state
    }

    fn damage(store: &Store, key: Vec<u8>) {
        commit(store, vec![Op::Put { key, value: b"not a record".to_vec() }]);
    }

    fn keys(store: &Store) -> Vec<String> {
        let mut keys = Vec::new();
        store.load(b"", |key, _| keys.push(key.escape_ascii().to_string())).unwrap();
        keys
    }

    #[test]
    fn what_was_written_is_what_is_recovered() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let mut state = with_jobs(&store, 3);
        let record = |job: &Job| Record {
            spec: job.spec.clone(),
            start: job.start,
            report: job.report.clone(),
            requires: job.requires.clone(),
        };
        let all: Vec<Record> = state.jobs.values().map(record).collect();
        for recent_outcomes in [all.clone(), all[1..].to_vec()] {
            let mut writes = Vec::new();
            ops(&Write::RecentOutcomes(recent_outcomes.clone()), &mut writes);
            commit(&store, writes);
            state.recent_outcomes = recent_outcomes.into();
            let loaded = load(&store, 5).unwrap();
            assert_eq!(loaded.set_aside, []);
            assert_eq!(durable(&recovered(loaded.records)), durable(&state));
        }
    }

    #[test]
    fn what_a_record_means_can_be_read_without_an_agent() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let state = with_jobs(&store, 1);
        let mut meanings = Vec::new();
        store.load(b"", |key, value| meanings.push(explain(key, value).unwrap())).unwrap();
        let job = state.jobs.keys().next().unwrap().to_string();
        assert_eq!(meanings.iter().filter(|means| means.contains(&job)).count(), 1);
        assert!(meanings.iter().any(|means| means.contains(&state.node.store.to_string())));
    }

    #[test]
    fn a_job_that_cannot_be_read_is_set_aside_and_counted() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        with_jobs(&store, 2);
        damage(&store, job_key(JobId::from_parts(0, 1)));
        damage(&store, recent_outcome_key(3));
        let loaded = load(&store, 77).unwrap();
        assert_eq!(loaded.damage, Damage { node: false, jobs: 1 });
        let state = recovered(loaded.records);
        assert_eq!(state.jobs.keys().collect::<Vec<_>>(), [&JobId::from_parts(1, 1)]);
        commit(&store, loaded.set_aside);
        assert_eq!(keys(&store).iter().filter(|key| key.starts_with("unreadable/77/")).count(), 2);
        assert_eq!(load(&store, 78).unwrap().set_aside, [], "once");
    }

    #[test]
    fn without_its_own_record_the_store_counts_as_new_and_nothing_is_thrown_away() {
        for missing in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let store = open(dir.path());
            with_jobs(&store, 2);
            let before = keys(&store).len();
            match missing {
                false => damage(&store, NODE.to_vec()),
                true => commit(&store, vec![Op::Delete { key: NODE.to_vec() }]),
            }
            let loaded = load(&store, 77).unwrap();
            assert_eq!(loaded.damage, Damage { node: true, jobs: 0 });
            assert_eq!(recovered(loaded.records), recovered(vec![]));
            commit(&store, loaded.set_aside);
            let kept = keys(&store);
            assert_eq!(kept.len(), before - usize::from(missing));
            assert!(kept.iter().all(|key| key.starts_with("unreadable/77/")), "{kept:?}");
        }
    }

    #[test]
    fn what_was_lost_and_that_somebody_has_to_look_are_one_commit() {
        let lost = [
            (NODE.to_vec(), Attention::StoreReplaced),
            (job_key(JobId::from_parts(0, 1)), Attention::StoreRolledBack),
        ];
        for (key, expected) in lost {
            let dir = tempfile::tempdir().unwrap();
            let store = open(dir.path());
            with_jobs(&store, 2);
            damage(&store, key);
            let Loaded { records, damage, mut set_aside } = load(&store, 77).unwrap();
            let started = Event::AgentStarted {
                boot: BootId([3; 16]),
                fingerprint: None,
                known_key: false,
                next_store: StoreId([8; 16]),
                damage,
                unfit: BTreeMap::new(),
            };
            let done =
                step(recovered(records), Now { wall: Time(0), boot_ms: 0, synchronized: false }, started);
            done.persist.iter().for_each(|write| ops(write, &mut set_aside));
            commit(&store, set_aside);
            let loaded = load(&store, 78).unwrap();
            assert_eq!((loaded.damage, loaded.set_aside), (Damage::default(), vec![]), "once");
            assert_eq!(recovered(loaded.records).node.attention, Some(expected));
        }
    }

    #[test]
    fn what_was_written_before_runs_had_a_state_of_their_own_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let state = with_jobs(&store, 1);
        let (id, job) = state.jobs.iter().next().unwrap();
        let started = Some(Time(7));
        let report = Report { state: State::Stopping, started_at: started, ..job.report.clone() };
        let before = JobBeforeRuns {
            spec: job.spec.clone(),
            digest: job.digest,
            desired: job.desired,
            start: job.start,
            report: report.clone(),
            due: true,
            missed: false,
            paused_locally: false,
            paused: true,
            asked_to_pause: Some(false),
            stopping: Some(CancelMode::Now),
            interruptions: 1,
            overrun: true,
        };
        let value = record::seal(1, &wire::encode(&before));
        let node = &state.node;
        let binding = node.binding.map(|binding| (binding.master, binding.epoch, binding.commit));
        let sync = node.sync.map(|sync| (sync.boot, sync.boot_ms, sync.wall, sync.master));
        assert!(binding.is_some() && sync.is_some());
        let old = wire::encode(&(
            (node.store, node.starts, node.session, binding, sync, node.fingerprint),
            (node.unloading, node.attention, node.local_lock, node.operating_mode),
        ));
        let node = record::seal(1, &old);
        commit(
            &store,
            vec![Op::Put { key: job_key(*id), value }, Op::Put { key: NODE.to_vec(), value: node }],
        );
        let loaded = load(&store, 77).unwrap();
        assert_eq!((loaded.damage, &loaded.set_aside), (Damage::default(), &vec![]));
        let found = recovered(loaded.records);
        // It was paused: what it had worked before is not known.
        let run = RunState {
            worked: Millis(0),
            works_since: None,
            overrun: true,
            paused: true,
            asked_to_pause: Some(false),
            stopping: Some(CancelMode::Now),
            stop_decided: Some(Source::Local),
        };
        let binding = state
            .node
            .binding
            .map(|binding| MasterBinding { incarnation: Incarnation::default(), ..binding });
        assert_eq!(found.node, Node { binding, cause: None, ..state.node.clone() });
        let expected =
            Job { report, due: true, window_met: true, interruptions: 1, run, ..found.jobs[id].clone() };
        assert_eq!(found.jobs[id], expected);
    }

    #[test]
    fn what_was_written_before_work_time_was_counted_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let state = with_jobs(&store, 1);
        let (id, job) = state.jobs.iter().next().unwrap();
        let started = Time(7);
        let report = Report { state: State::Running, started_at: Some(started), ..job.report.clone() };
        let run = (Some(started), false, false, None::<bool>, None::<CancelMode>, None::<Source>);
        let old_job = wire::encode(&(
            (&job.spec, job.digest, job.desired, job.start, &report),
            (true, false, false, false, 0u32, run),
        ));
        let node = &state.node;
        let sync = node.sync.map(|sync| (sync.boot, sync.boot_ms, sync.wall, sync.master));
        let old_node = wire::encode(&(
            (node.store, node.starts, node.session, node.binding, sync, node.fingerprint),
            (node.unloading, node.attention, node.local_lock, node.operating_mode, &node.cause),
        ));
        let put = |key, old: &[u8]| Op::Put { key, value: record::seal(2, old) };
        commit(&store, vec![put(job_key(*id), &old_job), put(NODE.to_vec(), &old_node)]);
        let loaded = load(&store, 77).unwrap();
        assert_eq!((loaded.damage, &loaded.set_aside), (Damage::default(), &vec![]));
        let found = recovered(loaded.records);
        assert_eq!(found.node, state.node);
        let works_since = Some(Stretch { boot: BootId([0; 16]), boot_ms: 0, at: started });
        let run = RunState { works_since, ..RunState::default() };
        assert_eq!(found.jobs[id], Job { report, due: true, run, ..found.jobs[id].clone() });
    }

    #[test]
    fn what_was_written_before_required_labels_were_kept_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let state = with_jobs(&store, 1);
        let (_, jobs, _) = reloop_protocol::slave::durable(&state);
        let (id, job) = jobs.first_key_value().unwrap();
        let (spec, start) = (job.spec.clone(), job.start);
        let outcome = Record { spec, start, report: job.report.clone(), requires: job.requires.clone() };
        assert!(!job.requires.is_empty(), "that is what layout 3 ends before");
        let short = |whole: Vec<u8>, end: Vec<u8>| whole.strip_suffix(&*end).expect("it ends so").to_vec();
        let labels = || wire::encode(&job.requires);
        let put = |key, old: Vec<u8>| Op::Put { key, value: record::seal(3, &old) };
        let old = vec![
            put(job_key(*id), short(wire::encode(job), labels())),
            put(recent_outcome_key(0), short(wire::encode(&outcome), labels())),
            put(NODE.to_vec(), short(wire::encode(&state.node), wire::encode(&state.node.failed))),
        ];
        commit(&store, old);
        let loaded = load(&store, 77).unwrap();
        assert_eq!((loaded.damage, &loaded.set_aside), (Damage::default(), &vec![]));
        let found = recovered(loaded.records);
        assert_eq!(found.node, state.node);
        assert_eq!(found.jobs[id], Job { requires: BTreeMap::new(), ..job.clone() });
        assert_eq!(*found.recent_outcomes, [Record { requires: BTreeMap::new(), ..outcome }]);
    }

    #[test]
    fn a_newer_programs_records_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        with_jobs(&store, 1);
        commit(&store, vec![Op::Put { key: NODE.to_vec(), value: record::seal(SCHEMA + 1, b"") }]);
        assert!(matches!(load(&store, 77), Err(LoadError::Newer(5))));
    }
}
