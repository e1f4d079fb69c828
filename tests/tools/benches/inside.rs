//! The cost of one frame, one record and one commit, each alone: `cargo bench -p reloop-tools`.
//!
//! Criterion compares every figure with that of the run before it. `harness bench` measures the rules and whole processes.

use std::hint::black_box;
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use reloop_node::record;
use reloop_node::store::{Op, Options, Store};
use reloop_protocol::wire::{self, Frame};

/// Every message of the protocol's version 1, one per line: its name and its frame in hexadecimal digits.
const VECTORS: &str = include_str!("../../../protocol/tests/golden/v1.txt");

/// The most frequent messages, and the largest of the handshake.
const FRAMES: [&str; 4] = ["hello", "welcome", "report", "ping"];

/// Orders of one commit: one, and as many as a busy master groups.
const GROUPS: [u64; 2] = [1, 64];

/// Records that an order of one job writes, and the approximate length of each.
const RECORDS: u64 = 3;
const RECORD_BYTES: usize = 120;

fn bytes(digits: &str) -> Vec<u8> {
    let byte =
        |pair: &[u8]| std::str::from_utf8(pair).ok().and_then(|pair| u8::from_str_radix(pair, 16).ok());
    digits.as_bytes().chunks(2).map(|pair| byte(pair).expect("golden vectors are hexadecimal")).collect()
}

fn frames(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("frame");
    for name in FRAMES {
        let line = VECTORS.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        let bytes = bytes(line.expect("each has a golden vector"));
        let frame: Frame = wire::decode_frame(&bytes, wire::MAX_MESSAGE).expect("a golden vector is a frame");
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function(BenchmarkId::new("encode", name), |bencher| {
            bencher.iter(|| wire::encode(black_box(&frame)));
        });
        group.bench_function(BenchmarkId::new("decode", name), |bencher| {
            bencher.iter(|| wire::decode_frame(black_box(&bytes), wire::MAX_MESSAGE));
        });
    }
    group.finish();
}

fn records(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("record");
    let sealed = record::seal(1, &[7; RECORD_BYTES]);
    group.throughput(Throughput::Bytes(sealed.len() as u64));
    group.bench_function("seal", |bencher| bencher.iter(|| record::seal(1, black_box(&[7; RECORD_BYTES]))));
    group.bench_function("open", |bencher| bencher.iter(|| record::open(black_box(&sealed)).is_ok()));
    group.finish();
}

fn orders(first: u64, count: u64) -> Vec<Op> {
    let numbers = first * RECORDS..(first + count) * RECORDS;
    let put = |number: u64| Op::Put { key: number.to_be_bytes().to_vec(), value: vec![7; RECORD_BYTES] };
    numbers.map(put).collect()
}

/// On the disk where temporary files lie; a file system in memory syncs in no time.
fn commits(criterion: &mut Criterion) {
    let dir = tempfile::tempdir().expect("there is a place for temporary files");
    let options = Options { cache_bytes: 64 << 20, min_free_bytes: 0 };
    let store = Store::open(Path::new(dir.path()), options).expect("an empty store opens").store;
    let mut group = criterion.benchmark_group("durable commit");
    let mut next = 0;
    for size in GROUPS {
        group.throughput(Throughput::Elements(size));
        group.bench_function(BenchmarkId::new("orders", size), |bencher| {
            bencher.iter(|| {
                let (done, written) = mpsc::channel();
                store.commit(orders(next, size), move |result| {
                    // The receiver waits below.
                    let _ = done.send(result);
                });
                next += size;
                written.recv().expect("the store answers").expect("the disk takes it");
            });
        });
    }
    group.finish();
}

criterion_group! {
    name = inside;
    config = Criterion::default().warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3));
    targets = frames, records, commits
}
criterion_main!(inside);
