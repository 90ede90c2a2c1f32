//! A host with secure hardware notices a store that was put back. (That no kill and no power loss between the two raises
//! locks a good store out is in `kills` and `power`: their stores have such a guard.)

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering},
};

use herold_store::{Snapshot, Store, StoreError, Table};
use herold_store_sqlite::{RollbackGuard, SqliteStore, StoreOptions};

use crate::{Place, cheap, put, raw};

#[derive(Debug, Default)]
struct Hardware {
    sealed: Mutex<u64>,
    raises: Mutex<u32>,
    fails: AtomicBool,
}

impl Hardware {
    fn answer(&self) -> Result<(), StoreError> {
        if self.fails.load(Ordering::Relaxed) {
            return Err(StoreError::Io("the hardware is away".to_owned()));
        }
        Ok(())
    }
}

impl RollbackGuard for Hardware {
    fn sealed(&self) -> Result<u64, StoreError> {
        self.answer().map(|()| *self.sealed.lock().unwrap())
    }

    fn raise(&self, to: u64) -> Result<(), StoreError> {
        self.answer()?;
        let mut sealed = self.sealed.lock().unwrap();
        *sealed = to.max(*sealed);
        *self.raises.lock().unwrap() += 1;
        Ok(())
    }

    fn every(&self) -> u32 {
        5
    }
}

fn guarded() -> (Arc<Hardware>, StoreOptions) {
    let hardware = Arc::new(Hardware::default());
    let guard: Arc<dyn RollbackGuard> = hardware.clone();
    (hardware, StoreOptions { rollback_guard: Some(guard), ..cheap() })
}

fn open(place: &Place, options: &StoreOptions) -> Result<SqliteStore, StoreError> {
    SqliteStore::open(place.store(), &raw(1), options)
}

fn refused(place: &Place, options: &StoreOptions) {
    match open(place, options) {
        Err(StoreError::RolledBack { found, sealed }) => assert!(found < sealed),
        other => panic!("{other:?}"),
    }
    // It is the whole directory of that day, so without the guard nobody can tell.
    open(place, &cheap()).unwrap();
}

#[test]
fn a_copy_from_before_the_last_opening_does_not_open() {
    let place = Place::new();
    let (_, options) = guarded();
    SqliteStore::create(place.store(), &raw(1), &options).unwrap().close().unwrap();
    let earlier = Place::copy_of(&place.store());
    open(&Place::copy_of(&earlier.store()), &options).unwrap();
    // That one has met the guard now, so the first is old already.
    refused(&earlier, &options);
    refused(&place, &options);
}

#[test]
fn a_copy_taken_while_the_store_was_open_does_not_open_after_it_was_closed() {
    let place = Place::new();
    let (_, options) = guarded();
    let mut store = SqliteStore::create(place.store(), &raw(1), &options).unwrap();
    put(&mut store, Table::Account, b"", b"ratchet 1", true);
    let earlier = Place::copy_of(&place.store());
    put(&mut store, Table::Account, b"", b"ratchet 2", true);
    store.close().unwrap();
    refused(&earlier, &options);
    let store = open(&place, &options).unwrap();
    assert_eq!(store.get(Table::Account, b"").unwrap().as_deref(), Some(&b"ratchet 2"[..]));
}

#[test]
fn a_session_that_was_killed_can_be_taken_back_by_few_commits() {
    let place = Place::new();
    let (hardware, options) = guarded();
    let mut store = SqliteStore::create(place.store(), &raw(1), &options).unwrap();
    let mut copies = Vec::new();
    for at in 0..23_u8 {
        put(&mut store, Table::Account, b"", &[at], true);
        // Those that need not be durable do not wear the hardware out.
        put(&mut store, Table::Sync, b"", &[at], false);
        copies.push(Place::copy_of(&place.store()));
    }
    assert_eq!(*hardware.raises.lock().unwrap(), 1 + 23 / 5);
    let sealed = *hardware.sealed.lock().unwrap();
    let opens = copies.iter().map(|copy| {
        let at_that_time = Arc::new(Hardware { sealed: Mutex::new(sealed), ..Hardware::default() });
        open(copy, &StoreOptions { rollback_guard: Some(at_that_time), ..cheap() }).is_ok()
    });
    let opens: Vec<bool> = opens.collect();
    let first = opens.iter().position(|opens| *opens).unwrap();
    assert_eq!(first, 19, "{opens:?}");
    assert!(opens[first..].iter().all(|opens| *opens));
}

#[test]
fn a_store_made_in_place_of_another_is_not_taken_for_an_older_one() {
    let (place, other) = (Place::new(), Place::new());
    let (_, options) = guarded();
    for _ in 0..5 {
        drop(SqliteStore::open_or_create(place.store(), &raw(1), &options).unwrap());
    }
    SqliteStore::create(other.store(), &raw(1), &options).unwrap().close().unwrap();
    open(&other, &options).unwrap();
    refused(&place, &options);
}

#[test]
fn a_store_keeps_its_number_when_it_is_re_keyed_and_while_nobody_guards_it() {
    let place = Place::new();
    let (_, options) = guarded();
    let store = SqliteStore::create(place.store(), &raw(1), &options).unwrap();
    store.close().unwrap();
    let mut store = open(&place, &cheap()).unwrap();
    put(&mut store, Table::Account, b"", b"identity", true);
    store.close().unwrap();
    let store = open(&place, &options).unwrap();
    let earlier = Place::copy_of(&place.store());
    store.rekey(&raw(1), &options).unwrap().close().unwrap();
    open(&place, &options).unwrap();
    refused(&earlier, &options);
}

#[test]
fn hardware_that_is_away_stops_an_opening_and_no_commit() {
    let place = Place::new();
    let (hardware, options) = guarded();
    let mut store = SqliteStore::create(place.store(), &raw(1), &options).unwrap();
    hardware.fails.store(true, Ordering::Relaxed);
    for at in 0..12_u8 {
        put(&mut store, Table::Account, b"", &[at], true);
    }
    assert!(matches!(store.close(), Err(StoreError::Io(_))));
    let before = *hardware.sealed.lock().unwrap();
    assert!(matches!(open(&place, &options), Err(StoreError::Io(_))));
    hardware.fails.store(false, Ordering::Relaxed);
    // The store is ahead, which is no fault, and the hardware catches up.
    let mut store = open(&place, &options).unwrap();
    assert!(*hardware.sealed.lock().unwrap() > before + 1);
    hardware.fails.store(true, Ordering::Relaxed);
    for at in 0..5_u8 {
        put(&mut store, Table::Account, b"", &[at], true);
    }
    let behind = *hardware.sealed.lock().unwrap();
    hardware.fails.store(false, Ordering::Relaxed);
    put(&mut store, Table::Account, b"", b"next", false);
    assert!(*hardware.sealed.lock().unwrap() > behind, "the next commit tries again");
}

/// Puts the files of `of` in the place of those of `place`.
fn put_back(place: &Place, of: &Place) {
    for name in ["herold.db", "herold.db-wal", "herold.mark", "herold.salt"] {
        std::fs::copy(of.file(name), place.file(name)).unwrap();
    }
}

#[test]
fn a_store_that_is_put_back_while_it_is_let_go_of_is_not_taken_again() {
    let place = Place::new();
    let (hardware, options) = guarded();
    let options = StoreOptions { shared: true, ..options };
    let mut app = SqliteStore::create(place.store(), &raw(1), &options).unwrap();
    put(&mut app, Table::Account, b"", b"ratchet 1", true);
    let raises = *hardware.raises.lock().unwrap();
    app.suspend().unwrap();
    for _ in 0..20 {
        app.resume().unwrap();
        app.suspend().unwrap();
    }
    assert_eq!(*hardware.raises.lock().unwrap(), raises, "turns wear nothing out");
    let earlier = Place::copy_of(&place.store());
    // Its commits count over all of its turns.
    for at in 2..7_u8 {
        app.resume().unwrap();
        put(&mut app, Table::Account, b"", &[at], true);
        app.suspend().unwrap();
    }
    assert_eq!(*hardware.raises.lock().unwrap(), raises + 1);
    let later = Place::copy_of(&place.store());
    put_back(&place, &earlier);
    for _ in 0..2 {
        let error = app.resume().unwrap_err();
        assert!(matches!(error, StoreError::RolledBack { found: 1, sealed: 2 }), "{error:?}");
        assert!(app.is_suspended());
    }
    put_back(&place, &later);
    app.resume().unwrap();
    assert_eq!(app.get(Table::Account, b"").unwrap().as_deref(), Some(&[6][..]));
    app.suspend().unwrap();
    // Another one's opening raises it, which is no news to this one.
    let other = open(&place, &options).unwrap();
    drop(other);
    assert!(app.resume().unwrap().is_nothing());
    app.suspend().unwrap();
    // The hardware being away is no reason to go on unguarded.
    hardware.fails.store(true, Ordering::Relaxed);
    assert!(matches!(app.resume(), Err(StoreError::Io(_))) && app.is_suspended());
    hardware.fails.store(false, Ordering::Relaxed);
    app.resume().unwrap();
}
