//! A load on a node's store whose result can be checked byte by byte.
//!
//! Some writers each commit numbered batches, and print a batch's number on stdout when it is acknowledged. What a
//! batch changes follows from the writer and the number alone, so what the store must contain later is known: for each
//! writer the complete state after some batch that is not older than the last acknowledged one.

use std::collections::BTreeMap;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use reloop_node::store::{Op, Options, Store, StoreError};
use rustix::process::Pid;

use crate::daemon::freeze;
use crate::disk::Disk;
use reloop_sim::simulation::Random;

/// The node whose store it resembles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Shape {
    /// Many commits wait at the same time and are grouped. Some values have two pieces. There are few keys, so that
    /// everything is overwritten again and again and the database has to clean up.
    Master,
    /// One commit at a time to a handful of short records: the log grows by segments while hardly anything in it is
    /// live.
    Slave,
}

impl Shape {
    fn writers(self) -> u64 {
        match self {
            Shape::Master => 6,
            Shape::Slave => 1,
        }
    }

    fn slots(self) -> usize {
        match self {
            Shape::Master => 48,
            Shape::Slave => 8,
        }
    }

    fn longest_value(self) -> usize {
        match self {
            Shape::Master => 8000,
            Shape::Slave => 900,
        }
    }
}

/// How a worker with a limited number of commits ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum End {
    /// It closes the store.
    Close,
    Kill,
}

/// strace attaches within milliseconds; the rest is for a busy box.
const ATTACH_DEADLINE: Duration = Duration::from_secs(20);
const ATTACH_PAUSE: Duration = Duration::from_millis(5);

const OPTIONS: Options = Options { cache_bytes: 1 << 20, min_free_bytes: 0 };

/// The result of a check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// The last batch of each writer; nothing acknowledged is missing.
    Whole(BTreeMap<u64, u64>),
    /// An acknowledged batch is missing, or a batch is there in part.
    Lost(String),
    /// The store was set aside, or did not open.
    Unopened(String),
}

/// Writes batches, continuing from what is there, and prints `writer number` for each acknowledged one. Runs until it
/// is killed, or until it has made `commits` (at least one for each writer unless it is 0), and then ends as `end`
/// says.
pub fn write(dir: &Path, shape: Shape, commits: Option<u64>, end: End) -> Result<(), StoreError> {
    let store = Store::open(dir, OPTIONS)?.store;
    let mut last = BTreeMap::new();
    store.load(b"last/", |key, value| {
        last.insert(key.to_vec(), number_in(value));
    })?;
    let for_each = commits.map(|commits| commits.div_ceil(shape.writers()));
    let writers: Vec<JoinHandle<Result<(), StoreError>>> = (0..shape.writers())
        .map(|writer| {
            let store = store.clone();
            let written = last.get(&last_key(writer)).copied().unwrap_or(0);
            let until = for_each.map_or(u64::MAX, |more| written + more);
            std::thread::spawn(move || {
                (written + 1..=until).try_for_each(|n| commit(&store, shape, writer, n))
            })
        })
        .collect();
    for writer in writers {
        writer.join().unwrap_or(Err(StoreError::Closed))?;
    }
    match end {
        End::Close => store.close(),
        End::Kill => {
            // If it fails, the caller sees another exit status.
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
            Err(StoreError::Closed)
        }
    }
}

fn commit(store: &Store, shape: Shape, writer: u64, number: u64) -> Result<(), StoreError> {
    let (answer, answered) = mpsc::channel();
    store.commit(batch(shape, writer, number), move |result| {
        let said = result.and_then(|()| {
            // One short write, so that the reader gets whole lines.
            let line = format!("{writer} {number}\n");
            io::stdout().lock().write_all(line.as_bytes()).map_err(|_| StoreError::Closed)
        });
        drop(answer.send(said));
    });
    answered.recv().unwrap_or(Err(StoreError::Closed))
}

/// Opens the store and compares it with what was acknowledged.
pub fn verify(dir: &Path, shape: Shape, acknowledged: &BTreeMap<u64, u64>) -> Found {
    let store = match Store::open(dir, OPTIONS) {
        Ok(opened) => match opened.set_aside {
            None => opened.store,
            Some(aside) => return Found::Unopened(format!("set aside as {}", aside.display())),
        },
        Err(error) => return Found::Unopened(error.to_string()),
    };
    let mut found = BTreeMap::new();
    if let Err(error) = store.load(b"", |key, value| drop(found.insert(key.to_vec(), value.to_vec()))) {
        return Found::Lost(error.to_string());
    }
    let mut last = BTreeMap::new();
    for writer in 0..shape.writers() {
        let number = found.get(&last_key(writer)).map_or(0, |value| number_in(value));
        let wanted = acknowledged.get(&writer).copied().unwrap_or(0);
        if number < wanted {
            return Found::Lost(format!("writer {writer}: {wanted} was acknowledged, {number} is there"));
        }
        let expected = state_after(shape, writer, number);
        let prefix = slot_prefix(writer);
        let there: BTreeMap<_, _> = found
            .iter()
            .filter(|(key, _)| key.starts_with(&prefix))
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect();
        if there != expected {
            return Found::Lost(format!("writer {writer}: what is there is no state after batch {number}"));
        }
        last.insert(writer, number);
    }
    Found::Whole(last)
}

/// The store's directory on a disk.
pub fn dir_on(disk: &Path) -> PathBuf {
    disk.join("store")
}

fn batch(shape: Shape, writer: u64, number: u64) -> Vec<Op> {
    let mut ops: Vec<Op> = changes(shape, writer, number)
        .into_iter()
        .map(|(key, value)| match value {
            Some(value) => Op::Put { key, value },
            None => Op::Delete { key },
        })
        .collect();
    ops.push(Op::Put { key: last_key(writer), value: number.to_le_bytes().to_vec() });
    ops
}

fn changes(shape: Shape, writer: u64, number: u64) -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
    let mut random = Random::new(writer << 48 | number);
    let slot = |slot: usize| [slot_prefix(writer), format!("{slot:02}").into_bytes()].concat();
    let mut changes = Vec::new();
    for _ in 0..=random.below(3) {
        // Most records are short, some are not.
        let longest = if random.one_in(8) { shape.longest_value() } else { 400 };
        let value = vec![random.any().to_le_bytes()[0]; random.below(longest)];
        changes.push((slot(random.below(shape.slots())), Some(value)));
    }
    if random.one_in(3) {
        changes.push((slot(random.below(shape.slots())), None));
    }
    changes
}

fn state_after(shape: Shape, writer: u64, number: u64) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut state: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    for (key, value) in (1..=number).flat_map(|number| changes(shape, writer, number)) {
        match value {
            Some(value) => state.insert(key, value),
            None => state.remove(&key),
        };
    }
    state
}

fn slot_prefix(writer: u64) -> Vec<u8> {
    format!("slot/{writer}/").into_bytes()
}

fn last_key(writer: u64) -> Vec<u8> {
    format!("last/{writer}").into_bytes()
}

fn number_in(value: &[u8]) -> u64 {
    value.try_into().map_or(0, u64::from_le_bytes)
}

/// A process that runs [`write()`].
#[derive(Debug)]
pub struct Worker {
    child: Child,
    /// Reads the worker's output; ends with it.
    reader: Option<JoinHandle<()>>,
    acknowledged: Arc<Mutex<BTreeMap<u64, u64>>>,
    /// Ends with the worker.
    tracer: Option<Child>,
}

impl Worker {
    /// Starts it; `program` is the path of the binary `store_load`.
    pub fn start(program: &Path, dir: &Path) -> Self {
        let mut child = Command::new(program)
            .arg(dir)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot run {}: {error}", program.display()));
        let said = BufReader::new(child.stdout.take().expect("its stdout is a pipe"));
        let acknowledged = Arc::new(Mutex::new(BTreeMap::new()));
        let noted = Arc::clone(&acknowledged);
        let reader = std::thread::spawn(move || {
            for line in said.lines().map_while(Result::ok) {
                let parsed = line.split_once(' ').and_then(|(writer, number)| {
                    Some((writer.parse::<u64>().ok()?, number.parse::<u64>().ok()?))
                });
                let (writer, number) = parsed.unwrap_or_else(|| panic!("no acknowledgement: {line:?}"));
                noted.lock().expect("nothing panics while it holds this").insert(writer, number);
            }
        });
        Self { child, reader: Some(reader), acknowledged, tracer: None }
    }

    /// From now on its fdatasync does nothing and reports success, as in a store without syncs. Ends with the worker.
    pub fn leave_syncs_out(&mut self) {
        let words =
            ["-f", "-qq", "-o", "/dev/null", "-e", "trace=fdatasync", "-e", "inject=fdatasync:retval=0"];
        let mut strace = Command::new("strace");
        strace
            .args(words)
            .arg("-p")
            .arg(self.child.id().to_string())
            .stdin(Stdio::null())
            .stderr(Stdio::null());
        self.tracer = Some(strace.spawn().expect("strace was just found"));
        let end = Instant::now() + ATTACH_DEADLINE;
        let tasks = format!("/proc/{}/task", self.child.id());
        while !all_traced(&tasks) {
            assert!(Instant::now() < end, "strace does not attach");
            std::thread::sleep(ATTACH_PAUSE);
        }
    }

    /// The sum of the newest acknowledged numbers of all writers: it grows by one with each batch.
    pub fn progress(&self) -> u64 {
        self.acknowledged.lock().expect("nothing panics while it holds this").values().sum()
    }

    pub fn is_alive(&mut self) -> bool {
        self.child.try_wait().is_ok_and(|ended| ended.is_none())
    }

    /// A power cut: the worker is gone, and the disk keeps what had reached it by then. Returns what had been
    /// acknowledged.
    pub fn lose_power(mut self, disk: &mut Disk) -> BTreeMap<u64, u64> {
        freeze(&[Pid::from_child(&self.child)]);
        let left = disk.as_the_power_cut_leaves_it();
        self.kill();
        disk.come_back_as(left);
        self.acknowledged.lock().expect("nothing panics while it holds this").clone()
    }

    /// Returns when all its output has been read.
    fn kill(&mut self) {
        // Fails if it has exited already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(mut tracer) = self.tracer.take() {
            let _ = tracer.wait();
        }
        if let Some(reader) = self.reader.take() {
            reader.join().expect("it said nothing but acknowledgements");
        }
    }
}

fn all_traced(tasks: &str) -> bool {
    let Ok(tasks) = std::fs::read_dir(tasks) else { return false };
    tasks.flatten().all(|task| {
        let status = std::fs::read_to_string(task.path().join("status")).unwrap_or_default();
        !status.contains("\nTracerPid:\t0\n")
    })
}

impl Drop for Worker {
    fn drop(&mut self) {
        if self.reader.is_some() && !std::thread::panicking() {
            self.kill();
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
