//! After re-keying nothing of the new database opens with what opened the old one.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use herold_store::{ChangeSet, Snapshot, Store, StoreError, Table, conformance};
use herold_store_sqlite::{SqliteStore, StoreKey};

use crate::{Place, cheap, create, passphrase, put, raw, sharing::shared};

fn open(place: &Place, key: &StoreKey) -> Result<SqliteStore, StoreError> {
    SqliteStore::open(place.store(), key, &cheap())
}

#[test]
fn a_store_that_was_re_keyed_has_the_same_rows_under_the_new_key_only() {
    let place = Place::new();
    let mut store = create(&place, &raw(1));
    store.commit(&conformance::sample_changes()).unwrap();
    put(&mut store, Table::AppEvent, b"large", &[7; 300_000], true);
    let mut store = store.rekey(&passphrase("new"), &cheap()).unwrap();
    conformance::assert_samples(&store);
    // It goes on.
    put(&mut store, Table::AppEvent, b"later", b"later", true);
    store.integrity_check().unwrap();
    store.close().unwrap();
    assert!(matches!(open(&place, &raw(1)), Err(StoreError::WrongKey)));
    let store = open(&place, &passphrase("new")).unwrap();
    conformance::assert_samples(&store);
    let mut names: Vec<_> = fs::read_dir(place.store())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(
        names,
        ["herold.db", "herold.db-wal", "herold.lock", "herold.mark", "herold.salt"],
        "something was left behind"
    );
}

#[test]
fn the_old_key_with_the_old_key_file_opens_nothing_of_the_new_database() {
    let place = Place::new();
    let mut store = create(&place, &raw(1));
    store.commit(&conformance::sample_changes()).unwrap();
    store.checkpoint().unwrap();
    let old = Place::copy_of(&place.store());
    store.rekey(&raw(2), &cheap()).unwrap().close().unwrap();
    let (before, after) =
        (fs::read(old.file("herold.db")).unwrap(), fs::read(place.file("herold.db")).unwrap());
    for block in after.chunks(16) {
        assert!(!before.chunks(16).any(|old| old == block), "a block of the old database");
    }
    // The old key file with the new database, as it is and as if it were the one it names.
    let mixed = Place::copy_of(&place.store());
    fs::copy(old.file("herold.salt"), mixed.file("herold.salt")).unwrap();
    assert!(matches!(open(&mixed, &raw(1)), Err(StoreError::Corrupt(_))));
    let mut forged = after;
    forged[..16].copy_from_slice(&before[..16]);
    fs::write(mixed.file("herold.db"), &forged).unwrap();
    let error = open(&mixed, &raw(1)).unwrap_err();
    assert!(matches!(error, StoreError::Corrupt(_)), "{error:?}");
    // The old files are still the old store: nothing else can be done about a copy.
    conformance::assert_samples(&open(&old, &raw(1)).unwrap());
}

#[test]
fn a_re_keying_that_fails_leaves_the_store_under_the_old_key() {
    let place = Place::new();
    let mut store = create(&place, &raw(1));
    store.commit(&conformance::sample_changes()).unwrap();
    // Where the copy would go there is something that cannot be removed.
    fs::create_dir(place.file("herold.db.new")).unwrap();
    let error = store.rekey(&raw(2), &cheap()).unwrap_err();
    assert!(matches!(error, StoreError::Io(_)), "{error:?}");
    fs::remove_dir(place.file("herold.db.new")).unwrap();
    conformance::assert_samples(&open(&place, &raw(1)).unwrap());
}

#[test]
fn a_damaged_store_is_not_re_keyed() {
    let place = Place::new();
    let mut store = create(&place, &raw(1));
    let mut changes = ChangeSet::new();
    for at in 0..200_u8 {
        changes.put_row(Table::Event, vec![at], vec![at; 1000]);
    }
    store.commit(&changes).unwrap();
    store.close().unwrap();
    let path = place.file("herold.db");
    let whole = fs::read(&path).unwrap();
    let mut damaged = whole.clone();
    for at in (4096 * 100..whole.len()).step_by(4096 * 7) {
        damaged[at] ^= 1;
    }
    fs::write(&path, damaged).unwrap();
    let error = open(&place, &raw(1)).unwrap().rekey(&raw(2), &cheap()).unwrap_err();
    assert!(matches!(error, StoreError::Corrupt(_)), "{error:?}");
    fs::write(&path, whole).unwrap();
    open(&place, &raw(1)).unwrap().integrity_check().unwrap();
}

#[test]
fn what_a_cut_short_re_keying_has_left_is_removed_or_finished() {
    let place = Place::new();
    let mut store = create(&place, &raw(1));
    store.commit(&conformance::sample_changes()).unwrap();
    store.close().unwrap();
    let before = Place::copy_of(&place.store());
    open(&place, &raw(1)).unwrap().rekey(&raw(2), &cheap()).unwrap().close().unwrap();
    // Just before the new key file, and just after it.
    for (header, key) in [("herold.salt.new", 1), ("herold.salt", 2)] {
        let cut = Place::copy_of(&before.store());
        fs::copy(place.file("herold.db"), cut.file("herold.db.new")).unwrap();
        fs::copy(place.file("herold.salt"), cut.file(header)).unwrap();
        fs::write(cut.file("herold.db.new-wal"), b"").unwrap();
        conformance::assert_samples(&open(&cut, &raw(key)).unwrap());
        assert!(matches!(open(&cut, &raw(3 - key)), Err(StoreError::WrongKey)));
        for name in ["herold.db.new", "herold.db.new-wal", "herold.salt.new"] {
            assert!(!cut.file(name).exists(), "{name}");
        }
    }
}

/// The content of every file, and what it is called.
fn files(place: &Place) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = fs::read_dir(place.store())
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap()))
        // Who holds the store may be said by anybody who has held it.
        .filter(|(name, _)| name != "herold.lock")
        .collect();
    files.sort();
    files
}

#[test]
fn who_let_go_of_a_store_that_is_re_keyed_meanwhile_cannot_write_into_the_old_one() {
    for cut_short in [false, true] {
        // The same store key is no excuse: the data key is another.
        for new in [raw(2), raw(1)] {
            let place = Place::new();
            let mut app =
                SqliteStore::open_or_create(place.store(), &raw(1), &shared("app")).unwrap();
            put(&mut app, Table::Event, b"event", &[7; 20_000], true);
            put(&mut app, Table::Account, b"ratchet", b"1", true);
            app.suspend().unwrap();
            let before = Place::copy_of(&place.store());
            let other = SqliteStore::open(place.store(), &raw(1), &shared("other")).unwrap();
            let mut other = other.rekey(&new, &shared("other")).unwrap();
            if cut_short {
                other.close().unwrap();
                fs::rename(place.file("herold.db"), place.file("herold.db.new")).unwrap();
                fs::copy(before.file("herold.db"), place.file("herold.db")).unwrap();
                fs::remove_file(place.file("herold.db-wal")).unwrap();
            } else {
                put(&mut other, Table::Account, b"ratchet", b"2", true);
                other.suspend().unwrap();
            }
            let found = files(&place);
            for _ in 0..2 {
                assert!(matches!(app.resume(), Err(StoreError::WrongKey)));
                assert!(app.is_suspended());
                let error = app.change_key(&raw(1), &raw(3), &cheap()).unwrap_err();
                assert!(matches!(error, StoreError::Suspended), "{error:?}");
            }
            assert!(matches!(app.rekey(&raw(3), &cheap()), Err(StoreError::Suspended)));
            assert!(found == files(&place), "a store that is not its own any more was changed");
            // With the new key it goes on from what the other has committed.
            let mut app = SqliteStore::open(place.store(), &new, &shared("app")).unwrap();
            let event = app.get(Table::Event, b"event").unwrap();
            assert_eq!(event.as_deref(), Some(&[7; 20_000][..]));
            let ratchet = app.get(Table::Account, b"ratchet").unwrap();
            assert_eq!(ratchet.as_deref(), Some(if cut_short { b"1" } else { &b"2"[..] }));
            app.integrity_check().unwrap();
        }
    }
}

#[test]
fn who_waits_while_a_store_is_re_keyed_gets_in_afterwards_and_not_into_the_old_one() {
    let place = Place::new();
    let mut app = SqliteStore::create(place.store(), &raw(1), &shared("app")).unwrap();
    put(&mut app, Table::AppEvent, b"large", &[7; 3_000_000], true);
    app.suspend().unwrap();
    let mut holder = SqliteStore::open(place.store(), &raw(1), &shared("holder")).unwrap();
    let path = place.store();
    let waiting = thread::spawn(move || {
        let taken = app.resume();
        assert!(matches!(taken, Err(StoreError::WrongKey)), "{taken:?}");
        let opened = SqliteStore::open(&path, &raw(1), &shared("app"));
        assert!(matches!(opened, Err(StoreError::WrongKey)), "{opened:?}");
        let mut app = SqliteStore::open(&path, &raw(2), &shared("app")).unwrap();
        let ratchet = app.get(Table::Account, b"ratchet").unwrap();
        assert_eq!(ratchet.as_deref(), Some(&b"2"[..]), "it came in between");
        put(&mut app, Table::Account, b"ratchet", b"3", true);
        app.suspend().unwrap();
    });
    let end = Instant::now() + Duration::from_secs(30);
    while !holder.is_wanted() {
        assert!(Instant::now() < end, "nobody waits");
        thread::sleep(Duration::from_millis(1));
    }
    put(&mut holder, Table::Account, b"ratchet", b"1", true);
    let mut holder = holder.rekey(&raw(2), &shared("holder")).unwrap();
    assert!(holder.is_wanted(), "who waits is still seen");
    put(&mut holder, Table::Account, b"ratchet", b"2", true);
    holder.suspend().unwrap();
    waiting.join().unwrap();
    assert!(holder.resume().unwrap().touches(Table::Account, b"ratchet"));
    let ratchet = holder.get(Table::Account, b"ratchet").unwrap();
    assert_eq!(ratchet.as_deref(), Some(&b"3"[..]));
    holder.integrity_check().unwrap();
}

#[test]
fn who_let_go_of_a_store_goes_on_when_only_its_key_was_changed() {
    let place = Place::new();
    let mut app = SqliteStore::create(place.store(), &raw(1), &shared("app")).unwrap();
    app.suspend().unwrap();
    let mut other = SqliteStore::open(place.store(), &raw(1), &shared("other")).unwrap();
    other.change_key(&raw(1), &raw(2), &cheap()).unwrap();
    put(&mut other, Table::Account, b"ratchet", b"1", true);
    other.suspend().unwrap();
    assert!(app.resume().unwrap().touches(Table::Account, b"ratchet"));
    put(&mut app, Table::Account, b"ratchet", b"2", true);
    app.suspend().unwrap();
    let app = SqliteStore::open(place.store(), &raw(2), &shared("app")).unwrap();
    assert_eq!(app.get(Table::Account, b"ratchet").unwrap().as_deref(), Some(&b"2"[..]));
}
