//! Opening a store and reading one row cost the same however many rows it has, in time and in memory: ten thousand room
//! keys against a hundred thousand, and against a million in the long mode. The figures are printed (`--nocapture`).
//! Linux only: that is where the memory's peak can be read.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use herold_store::{ChangeSet, Snapshot, Store, Table};
use herold_store_sqlite::{SqliteStore, StoreOptions};

use crate::{
    Place, cheap,
    random::{Random, long},
    raw,
};

/// What a child is to do, and where; only a child has it.
const CHILD: &str = "HEROLD_TEST_SCALE";

/// Rows of a commit while a store is filled.
const PORTION: usize = 2000;

/// The key of a room key: its room, a random session, its claimant.
fn key(at: usize) -> Vec<u8> {
    let mut random = Random::new(at as u64);
    let room = format!("!{:016x}:example.org", random.next() % 5000);
    let mut key = room.into_bytes();
    for _ in 0..8 {
        key.extend(random.next().to_be_bytes());
    }
    key
}

fn value(at: usize) -> Vec<u8> {
    vec![u8::try_from(at % 251).unwrap(); 320]
}

fn options() -> StoreOptions {
    StoreOptions { cache_kib: 8 * 1024, ..cheap() }
}

/// The most memory this process has had, in KiB.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn child_that_fills_or_reads() {
    let Ok(child) = std::env::var(CHILD) else { return };
    let [what, rows, path] = child.splitn(3, ' ').collect::<Vec<_>>().try_into().unwrap();
    let (rows, path): (usize, PathBuf) = (rows.parse().unwrap(), path.into());
    let began = peak();
    let mut best = Duration::MAX;
    if what == "fill" {
        let started = Instant::now();
        let mut store = SqliteStore::create(path, &raw(1), &options()).unwrap();
        for from in (0..rows).step_by(PORTION) {
            let mut changes = ChangeSet::new();
            for at in from..rows.min(from + PORTION) {
                changes.put_row(Table::InboundSession, key(at), value(at));
            }
            store.commit(&changes).unwrap();
        }
        store.close().unwrap();
        best = started.elapsed();
    } else {
        for round in 0..20 {
            let at = round * 7919 % rows;
            let started = Instant::now();
            let store = SqliteStore::open(&path, &raw(1), &options()).unwrap();
            let found = store.get(Table::InboundSession, &key(at)).unwrap();
            best = best.min(started.elapsed());
            assert!(found == Some(value(at)));
        }
    }
    println!("\nfigures {} {}", best.as_micros(), peak() - began);
}

/// Runs a child. Returns microseconds, and how much its memory has grown in KiB.
fn child(what: &str, rows: usize, store: &Path) -> (u64, u64) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "scale::child_that_fills_or_reads", "--nocapture"])
        .arg("--test-threads=1")
        .env(CHILD, format!("{what} {rows} {}", store.display()))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let figures = lines.filter_map(|line| {
        let (time, memory) = line.strip_prefix("figures ")?.split_once(' ')?;
        Some((time.parse().ok()?, memory.parse().ok()?))
    });
    let figures = figures.last();
    assert!(child.wait().unwrap().success());
    figures.expect("figures")
}

#[test]
fn opening_and_one_read_cost_the_same_in_a_large_store() {
    let (few, many) = (10_000, if long() { 1_000_000 } else { 100_000 });
    let mut read = Vec::new();
    for rows in [few, many] {
        let place = Place::new();
        let (time, memory) = child("fill", rows, &place.store());
        println!("{rows} rows filled in {:.1} s, {memory} KiB", time as f64 / 1e6);
        // The cache, a portion of rows on its way, and what SQLite needs besides.
        assert!(memory < 8 * 1024 + 24 * 1024, "{memory} KiB to fill {rows} rows");
        let (mut time, mut memory) = child("read", rows, &place.store());
        // Once more where something else had the processor.
        for _ in 0..4 {
            let again = child("read", rows, &place.store());
            (time, memory) = (time.min(again.0), memory.max(again.1));
        }
        let size = fs::metadata(place.file("herold.db")).unwrap().len();
        println!("{rows} rows, {size} bytes: open and read {time} us, {memory} KiB");
        read.push((time, memory));
    }
    let [(few, small), (many, large)] = read.try_into().unwrap();
    assert!(many < 2 * few, "{many} us against {few} us");
    assert!(large < small + 2048, "{large} KiB against {small} KiB");
}
