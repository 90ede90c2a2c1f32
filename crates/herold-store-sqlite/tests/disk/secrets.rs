//! Nothing in clear: not in any file, not in `Debug` output, not in error texts (oracle W9).

use std::{fs, path::Path};

use herold_store::{ChangeSet, Store, StoreError, Table, conformance};
use herold_store_sqlite::{SqliteStore, StoreOptions};

use crate::{Place, cheap, create, passphrase, put, raw};

const PASSPHRASE: &str = "passphrase-canary-7f3a";
const KEY_BYTE: u8 = 0x5c;

/// What must not be found: parts of sample rows and keys, of large rows, and the store's keys.
fn canaries() -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = [
        "canary",
        "example.org",
        "@alice",
        "!hall",
        "HEROLDDEV",
        "The hall",
        "m.room.message",
        "m.megolm",
        "session id",
        "t_account",
        "CREATE TABLE",
        "SQLite format",
    ]
    .iter()
    .map(|text| text.as_bytes().to_vec())
    .collect();
    all.push(vec![KEY_BYTE; 16]);
    all.push(format!("{KEY_BYTE:02x}").repeat(8).into_bytes());
    all
}

fn assert_clean(directory: &Path) {
    let mut files = 0;
    for entry in fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        files += 1;
        let bytes = fs::read(entry.path()).unwrap();
        for canary in canaries() {
            let found = bytes.windows(canary.len()).any(|window| window == canary);
            assert!(!found, "{:?} in {:?}", String::from_utf8_lossy(&canary), entry.file_name());
        }
    }
    assert!(files >= 4);
}

#[test]
fn no_file_of_the_store_holds_a_clear_byte() {
    for key in [raw(KEY_BYTE), passphrase(PASSPHRASE)] {
        let place = Place::new();
        // A small cache, so that a large commit spills before it is whole.
        let options = StoreOptions { cache_kib: 64, ..cheap() };
        let mut store = SqliteStore::create(place.store(), &key, &options).unwrap();
        store.commit(&conformance::sample_changes()).unwrap();
        assert_clean(&place.store());
        let mut changes = ChangeSet::new();
        for at in 0..400_u32 {
            let value = b"value-canary ".repeat(100);
            changes.put_row(Table::Event, format!("key-canary-{at}").into_bytes(), value);
        }
        store.commit(&changes).unwrap();
        assert_clean(&place.store());
        let mut changes = ChangeSet::new();
        for at in 0..200_u32 {
            changes.delete_row(Table::Event, format!("key-canary-{at}").into_bytes());
        }
        changes.require_full();
        store.commit(&changes).unwrap();
        assert_clean(&place.store());
        store.change_key(&key, &passphrase(PASSPHRASE), &options).unwrap();
        store.integrity_check().unwrap();
        assert_clean(&place.store());
        store.close().unwrap();
        assert_clean(&place.store());
    }
}

#[cfg(unix)]
#[test]
fn the_files_are_for_their_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new();
    let mut store = create(&place, &raw(1));
    put(&mut store, Table::Account, b"", b"identity", true);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&place.store()), 0o700);
    for entry in fs::read_dir(place.store()).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{path:?}");
    }
}

#[test]
fn neither_debug_output_nor_errors_hold_a_secret() {
    let place = Place::new();
    let key = passphrase(PASSPHRASE);
    let mut store = create(&place, &key);
    store.commit(&conformance::sample_changes()).unwrap();
    let mut printed = format!("{key:?} {:?} {store:?} {:?}", raw(KEY_BYTE), cheap());
    let mut note = |error: StoreError| printed += &format!(" {error} {error:?}");
    let open = |key| SqliteStore::open(place.store(), &key, &cheap());
    note(open(passphrase(PASSPHRASE)).unwrap_err());
    drop(store);
    note(open(raw(KEY_BYTE)).unwrap_err());
    let path = place.file("herold.db");
    let whole = fs::read(&path).unwrap();
    for at in (10..whole.len()).step_by(5000) {
        let mut flipped = whole.clone();
        flipped[at] ^= 1;
        fs::write(&path, flipped).unwrap();
        if let Err(error) =
            open(passphrase(PASSPHRASE)).and_then(|mut store| store.integrity_check())
        {
            note(error);
        }
    }
    for canary in canaries() {
        let canary = String::from_utf8_lossy(&canary);
        assert!(!printed.contains(&*canary), "{canary} in {printed}");
    }
    assert!(printed.contains("Passphrase(..)") && printed.contains("Raw(..)"));
}
