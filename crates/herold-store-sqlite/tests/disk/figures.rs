//! What things cost here, printed (`--nocapture`). The limits are far above what any machine should
//! need: they catch a wrong order, not a slow disk.

use std::{
    fs,
    io::{Seek, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use herold_store::{ChangeSet, Snapshot, Store, StoreError, Table};
use herold_store_sqlite::{PassphraseCost, RollbackGuard, SqliteStore, StoreOptions};

use crate::{Place, cheap, create, passphrase, raw};

// `StoreOptions::wipe_memory` is left out: once on, it is on for all tests of this program.

fn timed<T>(what: &str, times: u32, run: impl FnOnce() -> T) -> T {
    let started = Instant::now();
    let result = run();
    let each = started.elapsed() / times;
    println!("{what}: {:.1} us", each.as_secs_f64() * 1e6);
    assert!(each < Duration::from_secs(10), "{what}");
    result
}

fn commits(store: &mut SqliteStore, count: u32, rows: u32, full: bool) {
    for at in 0..count {
        let mut changes = ChangeSet::new();
        for row in 0..rows {
            let at = u64::from(at * rows + row).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let key = [&b"!room:example.org"[..], &at.to_be_bytes()].concat();
            changes.put_row(Table::Event, key.clone(), vec![1; 700]);
            changes.put_row(Table::Timeline, key, vec![2; 60]);
        }
        changes.put_row(Table::Sync, Vec::new(), at.to_be_bytes().to_vec());
        if full {
            changes.require_full();
        }
        store.commit(&changes).unwrap();
    }
}

/// What the medium itself costs here: a page written over, and on the medium.
fn yardstick(place: &Place) {
    let mut file = fs::File::create(place.file("yardstick")).unwrap();
    file.write_all(&[1; 4096]).unwrap();
    file.sync_all().unwrap();
    timed("a page written and synchronised", 100, || {
        for at in 0..100 {
            file.rewind().unwrap();
            file.write_all(&[at; 4096]).unwrap();
            file.sync_data().unwrap();
        }
    });
}

#[test]
fn what_commits_reads_and_openings_cost() {
    let place = Place::new();
    let mut store = timed("create", 1, || create(&place, &raw(1)));
    yardstick(&place);
    timed("commit of 3 rows, Full", 300, || commits(&mut store, 300, 1, true));
    // A commit that finds the log full rewinds it.
    commits(&mut store, 300, 1, false);
    timed("commit of 3 rows, Full, log rewound", 300, || commits(&mut store, 300, 1, true));
    timed("commit of 3 rows, Process", 300, || commits(&mut store, 300, 1, false));
    timed("commit of 101 rows, Full", 40, || commits(&mut store, 40, 50, true));
    timed("a row of a commit of 20,001 rows", 20_001, || commits(&mut store, 1, 10_000, true));
    let key = [&b"!room:example.org"[..], &0_u64.to_be_bytes()].concat();
    timed("get, cached", 2000, || {
        for _ in 0..2000 {
            store.get(Table::Event, &key).unwrap().unwrap();
        }
    });
    timed("get, none there", 2000, || {
        for _ in 0..2000 {
            assert!(store.get(Table::OlmHash, &key).unwrap().is_none());
        }
    });
    let rows = store.table_counts().unwrap();
    println!("rows: {}", rows.iter().map(|(_, rows)| rows).sum::<u64>());
    timed("close", 1, || store.close().unwrap());
    let mut store =
        timed("open", 1, || SqliteStore::open(place.store(), &raw(1), &cheap()).unwrap());
    timed("integrity check", 1, || store.integrity_check().unwrap());
}

/// Hardware that takes no time: what is left is the store's own part.
#[derive(Debug)]
struct Instantly(AtomicU64);

impl RollbackGuard for Instantly {
    fn sealed(&self) -> Result<u64, StoreError> {
        Ok(self.0.load(Ordering::Relaxed))
    }

    fn raise(&self, to: u64) -> Result<(), StoreError> {
        self.0.fetch_max(to, Ordering::Relaxed);
        Ok(())
    }
}

#[test]
fn what_a_rollback_guard_costs() {
    let guard: Arc<dyn RollbackGuard> = Arc::new(Instantly(AtomicU64::new(0)));
    for (what, rollback_guard) in [("without", None), ("with", Some(guard))] {
        let place = Place::new();
        let options = StoreOptions { rollback_guard, ..cheap() };
        let mut store = SqliteStore::create(place.store(), &raw(1), &options).unwrap();
        commits(&mut store, 300, 1, true);
        timed(&format!("commit of 3 rows, Full, {what} a guard"), 1000, || {
            commits(&mut store, 1000, 1, true);
        });
        store.close().unwrap();
        timed(&format!("open and close, {what} a guard"), 20, || {
            for _ in 0..20 {
                let store = SqliteStore::open(place.store(), &raw(1), &options).unwrap();
                store.close().unwrap();
            }
        });
    }
}

#[test]
fn what_re_keying_costs() {
    let place = Place::new();
    let mut store = create(&place, &raw(1));
    commits(&mut store, 1, 30_000, true);
    store.checkpoint().unwrap();
    let size = fs::metadata(place.file("herold.db")).unwrap().len();
    println!("re-keying {size} bytes");
    timed("a row re-keyed", 60_001, || store.rekey(&raw(2), &cheap()).unwrap());
}

#[test]
fn what_turns_cost() {
    for shared in [false, true] {
        let place = Place::new();
        let options = StoreOptions { shared, ..cheap() };
        let open = || SqliteStore::open_or_create(place.store(), &raw(1), &options).unwrap();
        let mut store = open();
        commits(&mut store, 20, 50, true);
        let what = if shared { "shared" } else { "alone" };
        timed(&format!("{what}: commit of 3 rows, Process"), 300, || {
            commits(&mut store, 300, 1, false);
        });
        // About the few rows that a message changes, all of them in tables that are kept.
        let mut small = |count: u32| {
            for at in 0..count {
                let mut changes = ChangeSet::new();
                changes.put_row(Table::Queue, at.to_be_bytes().to_vec(), vec![7; 800]);
                if let Some(before) = at.checked_sub(1) {
                    changes.delete_row(Table::Queue, before.to_be_bytes().to_vec());
                }
                for name in ["queue", "messages/!room:example.org"] {
                    let value = at.to_be_bytes().to_vec();
                    changes.put_row(Table::Counter, name.as_bytes().to_vec(), value);
                }
                store.commit(&changes).unwrap();
            }
        };
        small(200);
        timed(&format!("{what}: commit of a message, Process"), 500, || small(500));
        store.checkpoint().unwrap();
        let turns = |store: &mut SqliteStore, what: &str| {
            timed(what, 100, || {
                for _ in 0..100 {
                    store.suspend().unwrap();
                    store.resume().unwrap();
                }
            });
        };
        turns(&mut store, &format!("{what}: a turn, empty log"));
        commits(&mut store, 60, 1, false);
        turns(&mut store, &format!("{what}: a turn, some log"));
        if shared {
            store.suspend().unwrap();
            let mut other = open();
            timed("a turn of two, each with a commit", 100, || {
                for _ in 0..50 {
                    commits(&mut other, 1, 1, false);
                    other.suspend().unwrap();
                    assert!(store.resume().unwrap().touches_table(Table::Event));
                    commits(&mut store, 1, 1, false);
                    store.suspend().unwrap();
                    other.resume().unwrap();
                }
            });
        }
    }
}

#[test]
fn what_a_passphrase_costs() {
    let place = Place::new();
    let cost = PassphraseCost::default();
    println!("Argon2id: {} KiB, {} passes", cost.memory_kib(), cost.passes());
    let options = StoreOptions::default();
    let key = passphrase("p");
    drop(timed("create with a passphrase", 1, || {
        SqliteStore::create(place.store(), &key, &options).unwrap()
    }));
    timed("open with a passphrase", 1, || {
        SqliteStore::open(place.store(), &key, &options).unwrap()
    });
}
