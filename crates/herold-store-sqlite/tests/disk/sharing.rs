//! Processes that share a store and take turns. The children are this test program itself.

use std::{
    collections::BTreeMap,
    env, thread,
    time::{Duration, Instant},
};

use herold_store::{ChangeSet, Snapshot, Store, StoreError, Table};
use herold_store_sqlite::{SqliteStore, StoreOptions};

use crate::{
    Place, cheap,
    processes::{Running, child_store},
    put, raw,
};

const SEED: &str = "HEROLD_TEST_SEED";

pub fn shared(label: &str) -> StoreOptions {
    StoreOptions {
        shared: true,
        label: label.to_owned(),
        checkpoint_pages: 60,
        patience: Duration::from_secs(60),
        ..cheap()
    }
}

fn open(place: &Place, label: &str) -> SqliteStore {
    SqliteStore::open_or_create(place.store(), &raw(1), &shared(label)).unwrap()
}

/// Numbers that look random, the same for a seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

#[test]
fn what_one_lets_go_of_another_takes_and_each_learns_what_the_other_changed() {
    let place = Place::new();
    let mut app = open(&place, "app");
    put(&mut app, Table::InboundSession, b"mine", b"1", true);
    put(&mut app, Table::Counter, b"n", b"1", false);
    assert_eq!(app.get(Table::Counter, b"n").unwrap().unwrap(), b"1");
    app.suspend().unwrap();
    app.suspend().unwrap();
    assert!(app.is_suspended());
    assert!(matches!(app.get(Table::Counter, b"n"), Err(StoreError::Suspended)));
    assert!(matches!(app.commit(&one(Table::Counter)), Err(StoreError::Suspended)));
    assert!(app.resume().unwrap().is_nothing(), "nobody was there");
    assert!(app.resume().unwrap().is_nothing(), "it was held");

    app.suspend().unwrap();
    let mut other = open(&place, "notification");
    assert_eq!(other.get(Table::Counter, b"n").unwrap().unwrap(), b"1");
    put(&mut other, Table::InboundSession, b"theirs", b"2", true);
    put(&mut other, Table::Counter, b"n", b"2", false);
    put(&mut other, Table::Event, b"e", b"2", false);
    other.suspend().unwrap();

    let changed = app.resume().unwrap();
    assert!(changed.touches(Table::InboundSession, b"theirs"));
    assert!(!changed.touches(Table::InboundSession, b"mine"));
    assert!(changed.touches_table(Table::Event) && !changed.touches_table(Table::Account));
    assert_eq!(app.get(Table::Counter, b"n").unwrap().unwrap(), b"2");
    app.suspend().unwrap();
    assert!(app.resume().unwrap().is_nothing());
    app.suspend().unwrap();
    assert!(!other.resume().unwrap().touches_table(Table::Counter), "its own changes are no news");
}

fn one(table: Table) -> ChangeSet {
    let mut changes = ChangeSet::new();
    changes.put_row(table, b"k".to_vec(), b"v".to_vec());
    changes
}

#[test]
fn who_was_away_for_long_or_meets_one_that_does_not_share_forgets_everything() {
    let place = Place::new();
    let mut app = open(&place, "app");
    put(&mut app, Table::Counter, b"n", b"0", true);
    for alone in [false, true] {
        assert_eq!(app.get(Table::Counter, b"n").unwrap().unwrap().len(), 1);
        app.suspend().unwrap();
        let options = if alone { cheap() } else { shared("other") };
        let mut other = SqliteStore::open(place.store(), &raw(1), &options).unwrap();
        for _ in 0..if alone { 1 } else { 200 } {
            put(&mut other, Table::Counter, b"n", b"7", false);
        }
        drop(other);
        assert!(app.resume().unwrap().is_everything());
        assert_eq!(app.get(Table::Counter, b"n").unwrap().unwrap(), b"7");
        put(&mut app, Table::Counter, b"n", b"8", false);
    }
    // Nothing but a checkpoint of somebody else's is no change.
    app.suspend().unwrap();
    open(&place, "other").close().unwrap();
    assert!(app.resume().unwrap().is_nothing());
}

#[test]
fn a_store_that_is_not_shared_can_be_let_go_of_too() {
    let place = Place::new();
    let mut app = SqliteStore::create(place.store(), &raw(1), &cheap()).unwrap();
    put(&mut app, Table::Counter, b"n", b"1", false);
    app.suspend().unwrap();
    assert!(app.resume().unwrap().is_nothing());
    app.suspend().unwrap();
    let mut other = SqliteStore::open(place.store(), &raw(1), &cheap()).unwrap();
    put(&mut other, Table::Counter, b"n", b"2", false);
    other.suspend().unwrap();
    assert!(app.resume().unwrap().is_everything());
    assert_eq!(app.get(Table::Counter, b"n").unwrap().unwrap(), b"2");
    drop(other);
}

#[test]
fn damage_done_meanwhile_is_found_when_the_store_is_taken_again() {
    let place = Place::new();
    let mut app = open(&place, "app");
    put(&mut app, Table::Counter, b"n", b"1", true);
    app.suspend().unwrap();
    let log = std::fs::read(place.file("herold.db-wal")).unwrap();
    for name in ["herold.db-wal", "herold.mark", "herold.salt", "herold.db"] {
        std::fs::rename(place.file(name), place.file("away")).unwrap();
        let error = app.resume().unwrap_err();
        assert!(matches!(error, StoreError::Corrupt(_)), "{name}: {error:?}");
        assert!(app.is_suspended());
        std::fs::rename(place.file("away"), place.file(name)).unwrap();
    }
    assert_eq!(std::fs::read(place.file("herold.db-wal")).unwrap(), log);
    assert!(app.resume().unwrap().is_nothing(), "mended, it is as it was");
}

/// Holds the store until it is killed; lets go of it first if it is told to.
#[test]
fn child_that_shares() {
    let Some(path) = child_store() else { return };
    let mut store =
        SqliteStore::open_or_create(path, &raw(1), &shared("the notification process")).unwrap();
    if env::var_os(SEED).is_some() {
        store.suspend().unwrap();
    }
    println!("\ncommitted 0");
    thread::sleep(Duration::from_secs(120));
}

#[test]
fn a_process_that_let_go_is_not_in_the_way_and_one_that_holds_is_named() {
    let place = Place::new();
    let name = "sharing::child_that_shares";
    let mut gone = Running::start_with(name, &place.store(), &[(SEED, "1")]);
    gone.next_number().expect("the child opens the store");
    let impatient = StoreOptions { patience: Duration::from_millis(30), ..shared("app") };
    let mut app = SqliteStore::open(place.store(), &raw(1), &impatient).unwrap();
    // Neither does it stand in the way of a store that is not shared.
    app.suspend().unwrap();
    SqliteStore::open(place.store(), &raw(1), &cheap()).unwrap();
    let mut holder = Running::start(name, &place.store());
    holder.next_number().expect("the child opens the store");
    let pid = holder.child.id().to_string();
    match app.resume() {
        Err(StoreError::Locked { holder }) => {
            assert!(holder.contains(&pid) && holder.contains("notification"), "{holder}");
        }
        other => panic!("{other:?}"),
    }
    assert!(app.is_suspended());
    // Killed, it is out of the way at once.
    holder.kill(0);
    app.resume().unwrap();
    gone.kill(0);
}

#[test]
fn who_waits_is_seen_and_is_not_overtaken() {
    let place = Place::new();
    let mut app = open(&place, "app");
    assert!(!app.is_wanted());
    app.suspend().unwrap();
    let mut other = open(&place, "other");
    other.suspend().unwrap();
    app.resume().unwrap();
    let waiting = thread::spawn(move || {
        other.resume().unwrap();
        put(&mut other, Table::Counter, b"turn", b"other", false);
        other.suspend().unwrap();
    });
    let end = Instant::now() + Duration::from_secs(30);
    while !app.is_wanted() {
        assert!(Instant::now() < end, "nobody waits");
        thread::sleep(Duration::from_millis(1));
    }
    app.suspend().unwrap();
    // At once again: but it is the other's turn.
    app.resume().unwrap();
    assert_eq!(app.get(Table::Counter, b"turn").unwrap().unwrap(), b"other");
    waiting.join().unwrap();
}

/// Takes turns for ever: counts one up in rows it keeps a copy of, which it only drops when it is told to.
#[test]
fn child_that_takes_turns() {
    let Some(path) = child_store() else { return };
    let seed = env::var(SEED).unwrap().parse().unwrap();
    let mut dice = Dice(seed);
    let mut store = SqliteStore::open_or_create(path, &raw(1), &shared("a child")).unwrap();
    let mut copies: BTreeMap<Vec<u8>, Option<Vec<u8>>> = BTreeMap::new();
    println!("\ncommitted 0");
    loop {
        for _ in 0..1 + dice.below(3) {
            let row = vec![u8::try_from(dice.below(6)).unwrap()];
            let now = store.get(Table::OutboundSession, &row).unwrap();
            // What was kept and not named as changed is what is there.
            let kept = copies.entry(row.clone()).or_insert_with(|| now.clone());
            assert_eq!(*kept, now, "a change that was not told");
            let number = store.get(Table::Counter, b"n").unwrap();
            let number = number.map_or(0, |n| u64::from_be_bytes(n.try_into().unwrap())) + 1;
            let mut changes = ChangeSet::new();
            changes.put_row(Table::Counter, b"n".to_vec(), number.to_be_bytes().to_vec());
            changes.put_row(Table::OutboundSession, row.clone(), number.to_be_bytes().to_vec());
            changes.put_row(Table::Event, number.to_be_bytes().to_vec(), vec![9; 500]);
            if dice.below(2) == 0 {
                changes.require_full();
            }
            store.commit(&changes).unwrap();
            copies.insert(row, Some(number.to_be_bytes().to_vec()));
            println!("committed {number}");
        }
        if dice.below(8) == 0 {
            drop(store);
            copies.clear();
            let path = child_store().unwrap();
            store = SqliteStore::open(path, &raw(1), &shared("a child")).unwrap();
            continue;
        }
        store.suspend().unwrap();
        thread::sleep(Duration::from_micros(dice.below(3000)));
        let changed = store.resume().unwrap();
        copies.retain(|row, _| !changed.touches(Table::OutboundSession, row));
    }
}

/// An alternation is one process doing something, then the other, one of them killed at a random instant.
#[test]
fn in_150_alternations_with_kills_nothing_is_lost_counted_twice_or_stale() {
    let place = Place::new();
    let name = "sharing::child_that_takes_turns";
    let mut dice = Dice(41);
    let start = |dice: &mut Dice| {
        let seed = dice.below(1 << 30).to_string();
        Running::start_with(name, &place.store(), &[(SEED, &seed)])
    };
    // Each number is committed once, so each is printed once at most.
    let mut told: BTreeMap<u64, u32> = BTreeMap::new();
    let mut note = |number: u64| {
        if number > 0 {
            *told.entry(number).or_default() += 1;
        }
    };
    let mut pair = [start(&mut dice), start(&mut dice)];
    for _ in 0..150 {
        for running in &mut pair {
            for _ in 0..1 + dice.below(3) {
                note(running.next_number().expect("the child goes on"));
            }
        }
        if dice.below(3) > 0 {
            thread::sleep(Duration::from_micros(dice.below(5000)));
            let victim = usize::try_from(dice.below(2)).unwrap();
            let fresh = start(&mut dice);
            for number in std::mem::replace(&mut pair[victim], fresh).kill_and_drain() {
                note(number);
            }
        }
    }
    for running in pair {
        for number in running.kill_and_drain() {
            note(number);
        }
    }
    let mut store = open(&place, "app");
    let last = store.get(Table::Counter, b"n").unwrap().unwrap();
    let last = u64::from_be_bytes(last.try_into().unwrap());
    assert!(last >= 600, "only {last} commits");
    assert!(told.values().all(|times| *times == 1), "a number was committed twice");
    assert!(told.keys().all(|number| *number <= last), "a commit was lost");
    for number in 1..=last {
        let event = store.get(Table::Event, &number.to_be_bytes()).unwrap();
        assert_eq!(event.map(|event| event.len()), Some(500), "commit {number} of {last}");
    }
    store.integrity_check().unwrap();
}
