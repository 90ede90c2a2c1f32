//! Flipped bytes, cut files, lost files (attack N45): an error or the same rows, never others, never a
//! new store.

use std::{fs, ops::ControlFlow};

use herold_store::{Snapshot, Store, StoreError, Table, conformance};
use herold_store_sqlite::{SqliteStore, StoreKey, StoreOptions};

use crate::{Place, cheap, create, put, raw};

type Rows = Vec<(Table, Vec<u8>, Vec<u8>)>;

fn rows(store: &SqliteStore) -> Result<Rows, StoreError> {
    let mut rows = Rows::new();
    for table in Table::ALL {
        store.scan(*table, b"", None, &mut |key, value| {
            rows.push((*table, key.to_vec(), value.to_vec()));
            ControlFlow::Continue(())
        })?;
    }
    Ok(rows)
}

/// One row of each type, small and large events, rows deleted: pages of every kind.
fn fill(store: &mut SqliteStore) {
    store.commit(&conformance::sample_changes()).unwrap();
    for at in 0..60_u32 {
        let value = vec![u8::try_from(at).unwrap(); usize::try_from(at * at * 4).unwrap()];
        put(store, Table::Event, &at.to_be_bytes(), &value, true);
        put(store, Table::Timeline, &at.to_be_bytes(), &[1; 80], true);
    }
    let mut changes = herold_store::ChangeSet::new();
    for at in 20..40_u32 {
        changes.delete_row(Table::Event, at.to_be_bytes().to_vec());
    }
    changes.require_full();
    store.commit(&changes).unwrap();
}

/// A store that was closed, and its rows.
fn closed() -> (Place, Rows) {
    let place = Place::new();
    let mut store = create(&place, &raw(1));
    fill(&mut store);
    let rows = rows(&store).unwrap();
    store.close().unwrap();
    (place, rows)
}

/// A store that was killed with all of its rows in the log.
fn killed() -> (Place, Rows) {
    let place = Place::new();
    let options = StoreOptions { checkpoint_pages: u32::MAX, ..cheap() };
    let mut store = SqliteStore::create(place.store(), &raw(1), &options).unwrap();
    fill(&mut store);
    let rows = rows(&store).unwrap();
    (Place::copy_of(&place.store()), rows)
}

#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    /// Opened, and every row as it was.
    Same,
    /// [`StoreError::Corrupt`], when it was opened or when it was read.
    Corrupt,
}

/// Opens a damaged store in both ways and reads all of it.
fn outcome(place: &Place, key: &StoreKey, expected: &Rows, what: &str) -> Outcome {
    let mut outcomes = Vec::new();
    for open in [SqliteStore::open_or_create, SqliteStore::open] {
        let read = open(place.store(), key, &cheap()).and_then(|store| rows(&store));
        outcomes.push(match read {
            Ok(rows) => {
                assert!(rows == *expected, "{what}: other rows");
                Outcome::Same
            }
            Err(StoreError::Corrupt(_)) => Outcome::Corrupt,
            Err(error) => panic!("{what}: {error:?}"),
        });
        if outcomes == [Outcome::Same] {
            break;
        }
    }
    assert_eq!(outcomes.first(), outcomes.last(), "{what}");
    outcomes.remove(0)
}

/// Puts `damage` in place of a file, looks, and puts the file back.
fn with(place: &Place, rows: &Rows, name: &str, damage: Option<&[u8]>, what: &str) -> Outcome {
    let copy = Place::copy_of(&place.store());
    match damage {
        Some(bytes) => fs::write(copy.file(name), bytes).unwrap(),
        None => fs::remove_file(copy.file(name)).unwrap(),
    }
    outcome(&copy, &raw(1), rows, &format!("{name}: {what}"))
}

/// Offsets all over a file of `length` bytes: its beginning, and some in every page.
fn offsets(length: usize) -> impl Iterator<Item = usize> {
    (0..100).chain((100..length).step_by(1999)).filter(move |at| *at < length)
}

#[test]
fn undamaged_stores_read_the_same() {
    for (place, rows) in [closed(), killed()] {
        assert_eq!(outcome(&place, &raw(1), &rows, "undamaged"), Outcome::Same);
    }
}

#[test]
fn a_flipped_byte_in_the_database_is_damage_or_nothing() {
    let (place, rows) = closed();
    let whole = fs::read(place.file("herold.db")).unwrap();
    let mut corrupt = 0;
    let mut tried = 0;
    for at in offsets(whole.len()) {
        let mut flipped = whole.clone();
        flipped[at] ^= 0x10;
        tried += 1;
        let seen = with(&place, &rows, "herold.db", Some(&flipped), &format!("byte {at} flipped"));
        corrupt += usize::from(seen == Outcome::Corrupt);
    }
    // What is left are pages that hold no row.
    assert!(corrupt * 10 > tried * 7, "{corrupt} of {tried}");
}

#[test]
fn a_page_of_zeros_or_from_elsewhere_is_damage_or_nothing() {
    let (place, rows) = closed();
    let whole = fs::read(place.file("herold.db")).unwrap();
    let pages = whole.len() / 4096;
    for page in 0..pages {
        for (what, bytes) in [
            ("zeroed", vec![0; 4096]),
            ("swapped", whole[(page + 1) % pages * 4096..][..4096].to_vec()),
        ] {
            let mut changed = whole.clone();
            changed[page * 4096..][..4096].copy_from_slice(&bytes);
            with(&place, &rows, "herold.db", Some(&changed), &format!("page {page} {what}"));
        }
    }
}

#[test]
fn a_cut_database_is_damage() {
    let (place, rows) = closed();
    let whole = fs::read(place.file("herold.db")).unwrap();
    for length in (0..whole.len()).step_by(4096 * 3 + 1000).chain([1, 15, 4095, 4096, 8192]) {
        let seen =
            with(&place, &rows, "herold.db", Some(&whole[..length]), &format!("cut {length}"));
        assert_eq!(seen, Outcome::Corrupt, "cut to {length} bytes");
    }
}

#[test]
fn any_flipped_byte_of_the_key_file_is_damage() {
    let (place, rows) = closed();
    let whole = fs::read(place.file("herold.salt")).unwrap();
    for at in 0..whole.len() {
        let mut flipped = whole.clone();
        flipped[at] ^= 0x10;
        let seen = with(&place, &rows, "herold.salt", Some(&flipped), "flipped");
        assert_eq!(seen, Outcome::Corrupt, "byte {at}");
    }
    for length in [0, 1, 94, whole.len() - 1] {
        let seen = with(&place, &rows, "herold.salt", Some(&whole[..length]), "cut");
        assert_eq!(seen, Outcome::Corrupt, "cut to {length} bytes");
    }
}

#[test]
fn a_flipped_byte_in_the_log_is_damage() {
    let (place, rows) = killed();
    let whole = fs::read(place.file("herold.db-wal")).unwrap();
    for at in offsets(whole.len()).chain([whole.len() - 1]) {
        let mut flipped = whole.clone();
        flipped[at] ^= 0x10;
        let seen = with(&place, &rows, "herold.db-wal", Some(&flipped), "flipped");
        assert_eq!(seen, Outcome::Corrupt, "byte {at}");
    }
}

#[test]
fn a_log_lost_emptied_or_cut_after_a_kill_is_damage() {
    let (place, rows) = killed();
    let whole = fs::read(place.file("herold.db-wal")).unwrap();
    assert_eq!(with(&place, &rows, "herold.db-wal", None, "lost"), Outcome::Corrupt);
    for length in [0, 1, 31, 32, 33, 32 + 24 + 4096, whole.len() / 2, whole.len() - 1] {
        let seen = with(&place, &rows, "herold.db-wal", Some(&whole[..length]), "cut");
        assert_eq!(seen, Outcome::Corrupt, "cut to {length} bytes");
    }
}

#[test]
fn one_commit_that_need_not_be_durable_is_enough_to_notice_a_lost_log() {
    let place = Place::new();
    let mut store = create(&place, &raw(1));
    put(&mut store, Table::Account, b"", b"identity", false);
    let killed = Place::copy_of(&place.store());
    fs::remove_file(killed.file("herold.db-wal")).unwrap();
    let expected = rows(&store).unwrap();
    assert_eq!(outcome(&killed, &raw(1), &expected, "lost"), Outcome::Corrupt);
}

#[test]
fn an_older_log_or_another_stores_log_is_damage() {
    let place = Place::new();
    let mut store = create(&place, &raw(1));
    put(&mut store, Table::Account, b"", b"ratchet 1", true);
    let earlier = fs::read(place.file("herold.db-wal")).unwrap();
    put(&mut store, Table::Account, b"", b"ratchet 2", true);
    let expected = rows(&store).unwrap();
    let now = Place::copy_of(&place.store());
    assert_eq!(with(&now, &expected, "herold.db-wal", Some(&earlier), "older"), Outcome::Corrupt);
    // The filling before the last emptying.
    store.checkpoint().unwrap();
    put(&mut store, Table::Account, b"", b"ratchet 3", true);
    let expected = rows(&store).unwrap();
    let now = Place::copy_of(&place.store());
    assert_eq!(with(&now, &expected, "herold.db-wal", Some(&earlier), "older"), Outcome::Corrupt);
    let theirs = Place::new();
    let mut other = create(&theirs, &raw(1));
    put(&mut other, Table::Account, b"", b"ratchet 9", true);
    let log = fs::read(theirs.file("herold.db-wal")).unwrap();
    assert_eq!(with(&now, &expected, "herold.db-wal", Some(&log), "theirs"), Outcome::Corrupt);
}

#[test]
fn a_mark_that_a_power_loss_has_set_back_is_no_damage() {
    let place = Place::new();
    let mut store = create(&place, &raw(1));
    put(&mut store, Table::Account, b"", b"ratchet 1", true);
    // Marks reach the medium when the system likes; these are all that can be there later on.
    let mut marks = vec![fs::read(place.file("herold.mark")).unwrap()];
    for ratchet in 2..6 {
        put(&mut store, Table::Account, b"", &[ratchet; 9], true);
        marks.push(fs::read(place.file("herold.mark")).unwrap());
    }
    let expected = rows(&store).unwrap();
    let now = Place::copy_of(&place.store());
    for mark in marks {
        assert_eq!(with(&now, &expected, "herold.mark", Some(&mark), "set back"), Outcome::Same);
    }
}

#[test]
fn a_refused_store_is_left_as_it_was() {
    let (place, expected) = killed();
    let log = fs::read(place.file("herold.db-wal")).unwrap();
    fs::remove_file(place.file("herold.db-wal")).unwrap();
    for _ in 0..3 {
        assert_eq!(outcome(&place, &raw(1), &expected, "lost"), Outcome::Corrupt);
    }
    // The log is found again, in a backup for instance: nothing is missing.
    fs::write(place.file("herold.db-wal"), log).unwrap();
    assert_eq!(outcome(&place, &raw(1), &expected, "found"), Outcome::Same);
}

/// The files of a store but for the note of who holds it.
fn files(place: &Place) -> Vec<(std::ffi::OsString, Vec<u8>)> {
    let entries = fs::read_dir(place.store()).unwrap().map(Result::unwrap);
    let mut files: Vec<_> = entries
        .filter(|entry| entry.file_name() != "herold.lock")
        .map(|entry| (entry.file_name(), fs::read(entry.path()).unwrap()))
        .collect();
    files.sort();
    files
}

// Found by the fuzz target `store_file`.
#[test]
fn a_store_with_a_damaged_database_keeps_its_log() {
    let (place, _) = killed();
    let mut whole = fs::read(place.file("herold.db")).unwrap();
    for at in (100..whole.len()).step_by(4096) {
        whole[at] ^= 1;
    }
    // Cut too, so that pages are missing that the log does not have.
    fs::write(place.file("herold.db"), &whole[..whole.len() / 2]).unwrap();
    let mut log = fs::read(place.file("herold.db-wal")).unwrap();
    log[32 + 24 + 100] ^= 1;
    for damaged_log in [false, true] {
        if damaged_log {
            fs::write(place.file("herold.db-wal"), &log).unwrap();
        }
        let before = files(&place);
        let opened = SqliteStore::open(place.store(), &raw(1), &cheap());
        if opened.is_err() {
            assert!(files(&place) == before, "an opening that failed has changed a file");
        }
    }
}

// Found by the fuzz target `store_file`.
#[test]
fn a_database_of_less_than_a_page_is_damage_and_stays_as_it_is() {
    for (place, _) in [closed(), killed()] {
        let whole = fs::read(place.file("herold.db")).unwrap();
        for length in [0, 1, 511, 512, 4095] {
            fs::write(place.file("herold.db"), &whole[..length]).unwrap();
            let before = files(&place);
            let opened = SqliteStore::open(place.store(), &raw(1), &cheap());
            assert!(matches!(opened, Err(StoreError::Corrupt(_))), "{length}: {opened:?}");
            assert!(files(&place) == before, "an opening that failed has changed a file");
        }
    }
}

#[test]
fn a_lost_file_is_damage_and_never_a_new_store() {
    let (place, rows) = closed();
    for lost in [
        &["herold.db"][..],
        &["herold.salt"],
        &["herold.mark"],
        &["herold.db", "herold.salt"],
        &["herold.db", "herold.mark"],
        &["herold.db", "herold.salt", "herold.db-wal"],
    ] {
        let copy = Place::copy_of(&place.store());
        for name in lost {
            fs::remove_file(copy.file(name)).unwrap();
        }
        assert_eq!(outcome(&copy, &raw(1), &rows, "lost"), Outcome::Corrupt, "{lost:?}");
        let made = SqliteStore::create(copy.store(), &raw(1), &cheap());
        assert!(matches!(made, Err(StoreError::Exists)), "{lost:?}");
    }
}

#[test]
fn a_flipped_byte_of_the_mark_is_damage_or_nothing() {
    for (place, rows) in [closed(), killed()] {
        let whole = fs::read(place.file("herold.mark")).unwrap();
        for at in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 0x10;
            with(&place, &rows, "herold.mark", Some(&flipped), &format!("byte {at} flipped"));
        }
        for length in [0, 63, 100, 512, 575] {
            with(&place, &rows, "herold.mark", Some(&whole[..length]), "cut");
        }
    }
}

#[test]
fn somebody_elses_journal_is_not_played_back() {
    let (place, rows) = closed();
    fs::write(place.file("herold.db-journal"), [0xd9, 0xd5, 0x05, 0xf9]).unwrap();
    assert_eq!(outcome(&place, &raw(1), &rows, "a journal"), Outcome::Corrupt);
}

#[test]
fn the_integrity_check_finds_what_no_read_has_met() {
    let (place, _) = closed();
    SqliteStore::open(place.store(), &raw(1), &cheap()).unwrap().integrity_check().unwrap();
    let whole = fs::read(place.file("herold.db")).unwrap();
    for page in (1..whole.len() / 4096).step_by(7) {
        let copy = Place::copy_of(&place.store());
        let mut flipped = whole.clone();
        flipped[page * 4096 + 2000] ^= 1;
        fs::write(copy.file("herold.db"), flipped).unwrap();
        let checked = SqliteStore::open(copy.store(), &raw(1), &cheap())
            .and_then(|mut store| store.integrity_check());
        assert!(matches!(checked, Err(StoreError::Corrupt(_))), "page {page}: {checked:?}");
    }
}
