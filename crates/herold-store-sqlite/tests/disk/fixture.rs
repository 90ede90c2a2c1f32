//! Stores of released versions still open. The files are made by the example `make_fixture`, once for
//! each version of the key file or the schema, and never again.

use std::path::PathBuf;

use herold_store::{Store, conformance};
use herold_store_sqlite::SqliteStore;

use crate::{Place, cheap, passphrase, raw};

/// How a database is authenticated is all that version 2 of the key file has changed.
const VERSIONS: [&str; 2] = ["v1", "v2"];

fn fixture(version: &str) -> Place {
    let fixtures = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    Place::copy_of(&fixtures.join(version))
}

/// The version of the key file.
fn version(place: &Place) -> u8 {
    std::fs::read(place.file("herold.salt")).unwrap()[16]
}

#[test]
fn a_store_of_each_version_opens_with_its_raw_key() {
    for (at, name) in VERSIONS.iter().enumerate() {
        let place = fixture(name);
        assert_eq!(usize::from(version(&place)), at + 1);
        let mut store = SqliteStore::open(place.store(), &raw(0x42), &cheap()).unwrap();
        conformance::assert_samples(&store);
        store.integrity_check().unwrap();
    }
}

#[test]
fn a_store_of_each_version_opens_with_its_passphrase() {
    for name in VERSIONS {
        let place = fixture(name);
        std::fs::rename(place.file("herold.salt.passphrase"), place.file("herold.salt")).unwrap();
        let key = passphrase("a passphrase, not secret");
        let store = SqliteStore::open(place.store(), &key, &cheap()).unwrap();
        conformance::assert_samples(&store);
    }
}

#[test]
fn a_store_of_version_1_is_written_as_it_was_made_until_it_is_rekeyed() {
    let place = fixture("v1");
    let mut store = SqliteStore::open(place.store(), &raw(0x42), &cheap()).unwrap();
    store.commit(&conformance::sample_changes()).unwrap();
    store.change_key(&raw(0x42), &raw(0x43), &cheap()).unwrap();
    store.close().unwrap();
    assert_eq!(version(&place), 1, "another store key, the same pages");

    let mut store = SqliteStore::open(place.store(), &raw(0x43), &cheap()).unwrap();
    store.integrity_check().unwrap();
    let store = store.rekey(&raw(0x44), &cheap()).unwrap();
    conformance::assert_samples(&store);
    store.close().unwrap();
    assert_eq!(version(&place), 2, "every page anew");
    let mut store = SqliteStore::open(place.store(), &raw(0x44), &cheap()).unwrap();
    conformance::assert_samples(&store);
    store.integrity_check().unwrap();
}
