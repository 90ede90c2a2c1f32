//! Stores of released versions still open. The files are made by the example `make_fixture`, once for
//! each schema version, and never again.

use std::path::PathBuf;

use herold_store::conformance;
use herold_store_sqlite::SqliteStore;

use crate::{Place, cheap, passphrase, raw};

fn fixture(version: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(version)
}

#[test]
fn a_store_of_version_1_opens_with_its_raw_key() {
    let place = Place::copy_of(&fixture("v1"));
    let mut store = SqliteStore::open(place.store(), &raw(0x42), &cheap()).unwrap();
    conformance::assert_samples(&store);
    store.integrity_check().unwrap();
}

#[test]
fn a_store_of_version_1_opens_with_its_passphrase() {
    let place = Place::copy_of(&fixture("v1"));
    std::fs::rename(place.file("herold.salt.passphrase"), place.file("herold.salt")).unwrap();
    let key = passphrase("a passphrase, not secret");
    let store = SqliteStore::open(place.store(), &key, &cheap()).unwrap();
    conformance::assert_samples(&store);
}
