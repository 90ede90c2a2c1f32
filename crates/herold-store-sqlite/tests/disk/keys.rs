//! Right keys, wrong keys, and stores that are not there.

use std::fs;

use herold_store::{Snapshot, StoreError, Table, conformance};
use herold_store_sqlite::{SqliteStore, StoreKey};

use crate::{Place, cheap, copy_files, create, passphrase, put, raw};

fn open(place: &Place, key: &StoreKey) -> Result<SqliteStore, StoreError> {
    SqliteStore::open(place.store(), key, &cheap())
}

/// Every file but the lock, which says who tried last.
fn contents(place: &Place) -> Vec<(std::ffi::OsString, Vec<u8>)> {
    let mut files: Vec<_> = fs::read_dir(place.store())
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.file_name() != "herold.lock")
        .map(|entry| (entry.file_name(), fs::read(entry.path()).unwrap()))
        .collect();
    files.sort();
    files
}

#[test]
fn a_wrong_key_is_refused_and_changes_nothing() {
    for (right, wrong) in [
        (raw(1), vec![raw(2), passphrase("p")]),
        (
            passphrase("correct horse battery"),
            vec![passphrase("correct horse"), passphrase(""), raw(1)],
        ),
    ] {
        let place = Place::new();
        let mut store = create(&place, &right);
        put(&mut store, Table::Account, b"", b"identity", true);
        store.close().unwrap();
        let before = contents(&place);
        for wrong in &wrong {
            assert!(matches!(open(&place, wrong), Err(StoreError::WrongKey)));
            let again = SqliteStore::open_or_create(place.store(), wrong, &cheap());
            assert!(matches!(again, Err(StoreError::WrongKey)));
            let made = SqliteStore::create(place.store(), wrong, &cheap());
            assert!(matches!(made, Err(StoreError::Exists)));
        }
        assert_eq!(contents(&place), before);
        let store = open(&place, &right).unwrap();
        assert_eq!(store.get(Table::Account, b"").unwrap().as_deref(), Some(&b"identity"[..]));
    }
}

#[test]
fn where_no_store_is_opening_finds_none_and_leaves_none() {
    let place = Place::new();
    assert!(matches!(open(&place, &raw(1)), Err(StoreError::NotFound)));
    assert!(!place.store().exists());
    fs::create_dir(place.store()).unwrap();
    fs::write(place.file("notes.txt"), "somebody else's").unwrap();
    assert!(matches!(open(&place, &raw(1)), Err(StoreError::NotFound)));
    assert_eq!(fs::read_dir(place.store()).unwrap().count(), 1);
}

#[test]
fn open_or_create_makes_a_store_once() {
    let place = Place::new();
    for round in 0..3 {
        let mut store = SqliteStore::open_or_create(place.store(), &raw(1), &cheap()).unwrap();
        let rows = store.table_counts().unwrap();
        let rows = rows.iter().find(|(table, _)| *table == Table::Event).unwrap().1;
        assert_eq!(rows, round);
        put(&mut store, Table::Event, &[u8::try_from(round).unwrap()], b"event", false);
    }
}

#[test]
fn after_a_change_of_the_key_only_the_new_one_opens() {
    let place = Place::new();
    let mut store = create(&place, &raw(1));
    put(&mut store, Table::Account, b"", b"identity", true);
    let wrong = store.change_key(&raw(3), &raw(2), &cheap());
    assert!(matches!(wrong, Err(StoreError::WrongKey)));
    store.change_key(&raw(1), &passphrase("new"), &cheap()).unwrap();
    // It goes on under the new one.
    put(&mut store, Table::Sync, b"", b"token", true);
    store.close().unwrap();
    assert!(matches!(open(&place, &raw(1)), Err(StoreError::WrongKey)));
    let mut store = open(&place, &passphrase("new")).unwrap();
    assert_eq!(store.get(Table::Account, b"").unwrap().as_deref(), Some(&b"identity"[..]));
    assert_eq!(store.get(Table::Sync, b"").unwrap().as_deref(), Some(&b"token"[..]));
    store.integrity_check().unwrap();
}

#[test]
fn another_stores_files_never_open_as_this_one() {
    let (ours, theirs, same_key) = (Place::new(), Place::new(), Place::new());
    for (place, key) in [(&ours, 1), (&theirs, 2), (&same_key, 1)] {
        let mut store = create(place, &raw(key));
        put(&mut store, Table::Account, b"", &[key; 30], true);
        store.close().unwrap();
    }
    // Their whole directory: it has another key.
    assert!(matches!(open(&theirs, &raw(1)), Err(StoreError::WrongKey)));
    for (from, name) in [
        (&theirs, "herold.db"),
        (&same_key, "herold.db"),
        (&theirs, "herold.salt"),
        (&same_key, "herold.salt"),
    ] {
        let place = Place::copy_of(&ours.store());
        fs::copy(from.file(name), place.file(name)).unwrap();
        let error = open(&place, &raw(1)).unwrap_err();
        let expected = matches!(
            (&error, name),
            (StoreError::Corrupt(_), _) | (StoreError::WrongKey, "herold.salt")
        );
        assert!(expected, "{name}: {error:?}");
        assert!(SqliteStore::open_or_create(place.store(), &raw(1), &cheap()).is_err());
    }
    let place = Place::new();
    copy_files(&ours.store(), &place.store());
    open(&place, &raw(1)).unwrap();
}

#[test]
fn a_store_that_wipes_its_memory_keeps_the_same_rows() {
    let place = Place::new();
    let mut store = create(&place, &raw(1));
    herold_store::Store::commit(&mut store, &conformance::sample_changes()).unwrap();
    drop(store);
    let options = herold_store_sqlite::StoreOptions { wipe_memory: true, ..cheap() };
    let store = SqliteStore::open(place.store(), &raw(1), &options).unwrap();
    conformance::assert_samples(&store);
}
