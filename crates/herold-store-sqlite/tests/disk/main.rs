//! The store on disk against what happens to disks, processes and keys.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod canaries;
mod damage;
mod figures;
mod fixture;
mod keys;
#[cfg(unix)]
mod kills;
#[cfg(target_os = "linux")]
mod power;
mod processes;
mod random;
mod rekeying;
mod rollback;
#[cfg(target_os = "linux")]
mod scale;
mod secrets;
mod sharing;
#[cfg(unix)]
mod work;

use std::{
    fs,
    path::{Path, PathBuf},
};

use herold_store::{ChangeSet, Store, Table};
use herold_store_sqlite::{PassphraseCost, SqliteStore, StoreKey, StoreOptions};
use tempfile::TempDir;

/// A directory for a store that goes with the test.
struct Place {
    directory: TempDir,
}

impl Place {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    fn store(&self) -> PathBuf {
        self.directory.path().join("store")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.store().join(name)
    }

    /// The files of `from` as they are now, as a kill would leave them.
    fn copy_of(from: &Path) -> Self {
        let place = Self::new();
        copy_files(from, &place.store());
        place
    }
}

fn copy_files(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

fn raw(byte: u8) -> StoreKey {
    StoreKey::raw([byte; 32])
}

fn passphrase(text: &str) -> StoreKey {
    StoreKey::passphrase(text.to_owned())
}

/// A cost that tests can pay.
fn cheap() -> StoreOptions {
    StoreOptions { passphrase_cost: PassphraseCost::new(0, 0), ..StoreOptions::default() }
}

fn create(place: &Place, key: &StoreKey) -> SqliteStore {
    SqliteStore::create(place.store(), key, &cheap()).unwrap()
}

fn put(store: &mut SqliteStore, table: Table, key: &[u8], value: &[u8], full: bool) {
    let mut changes = ChangeSet::new();
    changes.put_row(table, key.to_vec(), value.to_vec());
    if full {
        changes.require_full();
    }
    store.commit(&changes).unwrap();
}
