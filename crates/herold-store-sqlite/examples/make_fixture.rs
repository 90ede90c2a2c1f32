//! Makes the store that is frozen under `fixtures/` when a schema version is released:
//! `cargo run --example make_fixture -- DIRECTORY`. The directory must not hold a store.
//!
//! `herold.salt` opens with the raw key, `herold.salt.passphrase` in its place with the passphrase.

use std::{env, error::Error, fs, path::PathBuf};

use herold_store::{Store, conformance::sample_changes};
use herold_store_sqlite::{PassphraseCost, SqliteStore, StoreKey, StoreOptions};

fn main() -> Result<(), Box<dyn Error>> {
    let directory = PathBuf::from(env::args_os().nth(1).ok_or("a directory is needed")?);
    // As cheap as it gets: the passphrase stands here, and each test run pays for it.
    let options =
        StoreOptions { passphrase_cost: PassphraseCost::new(0, 0), ..StoreOptions::default() };
    let passphrase = StoreKey::passphrase("a passphrase, not secret".to_owned());
    let mut store = SqliteStore::create(&directory, &passphrase, &options)?;
    store.commit(&sample_changes())?;
    let header = directory.join("herold.salt");
    fs::copy(&header, directory.join("herold.salt.passphrase"))?;
    store.change_key(&passphrase, &StoreKey::raw([0x42; 32]), &options)?;
    store.close()?;
    fs::remove_file(directory.join("herold.lock"))?;
    fs::remove_file(directory.join("herold.db-wal"))?;
    Ok(())
}
