//! The conformance suite on disk, and what needs a look inside.

use std::{
    cell::RefCell,
    path::{Path, PathBuf},
};

use herold_store::{
    ChangeSet, Snapshot, Store, StoreError, Table, conformance::StoreFactory, store_conformance,
};
use tempfile::TempDir;

use crate::{SqliteStore, StoreKey, StoreOptions};

fn key() -> StoreKey {
    StoreKey::raw([7; 32])
}

/// How a test's store comes to be opened again.
#[derive(Clone, Copy)]
enum Ending {
    Closed,
    /// Its files are taken as they are at an instant, as a kill leaves them.
    Killed,
    /// It is let go of and taken again; somebody else has it in between.
    LetGo,
}

struct OnDisk {
    directory: TempDir,
    place: RefCell<PathBuf>,
    ending: Ending,
    checkpoint_pages: u32,
}

impl OnDisk {
    fn new(ending: Ending, checkpoint_pages: u32) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let place = RefCell::new(directory.path().join("store"));
        Self { directory, place, ending, checkpoint_pages }
    }

    fn options(&self) -> StoreOptions {
        let shared = matches!(self.ending, Ending::LetGo);
        StoreOptions { checkpoint_pages: self.checkpoint_pages, shared, ..StoreOptions::default() }
    }
}

impl StoreFactory for OnDisk {
    type Store = SqliteStore;

    fn create(&self) -> Result<SqliteStore, StoreError> {
        SqliteStore::create(&*self.place.borrow(), &key(), &self.options())
    }

    fn reopen(&self, mut store: SqliteStore) -> Result<SqliteStore, StoreError> {
        match self.ending {
            Ending::Closed => store.close()?,
            Ending::LetGo => {
                store.suspend()?;
                SqliteStore::open(&*self.place.borrow(), &key(), &self.options())?.close()?;
                store.resume()?;
                return Ok(store);
            }
            Ending::Killed => {
                let copy = TempDir::new_in(self.directory.path()).unwrap().keep();
                copy_files(&self.place.borrow(), &copy);
                self.place.replace(copy);
            }
        }
        SqliteStore::open(&*self.place.borrow(), &key(), &self.options())
    }

    fn fail_commit_after(&self, store: &mut SqliteStore, rows: usize) -> bool {
        store.held.as_mut().unwrap().fail_after = Some(rows);
        true
    }

    fn damage(
        &self,
        store: SqliteStore,
        _table: Table,
        _key: &[u8],
    ) -> Option<Result<SqliteStore, StoreError>> {
        let path = store.files.database();
        store.close().unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        // Where a row is cannot be seen from outside: every page that an empty store does not have.
        let empty = OnDisk::new(Ending::Closed, 1000);
        let store = empty.create().unwrap();
        let empty = store.files.database();
        let from = usize::try_from(std::fs::metadata(empty).unwrap().len()).unwrap();
        assert!(from < bytes.len());
        for at in (from..bytes.len()).step_by(4096) {
            bytes[at + 1000] ^= 1;
        }
        std::fs::write(&path, bytes).unwrap();
        let opened = SqliteStore::open(&*self.place.borrow(), &key(), &self.options());
        assert!(opened.is_ok(), "the damage is to be met by reads: {opened:?}");
        Some(opened)
    }
}

fn copy_files(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

store_conformance!(closed_and_opened, OnDisk::new(Ending::Closed, 1000));
store_conformance!(killed_and_opened, OnDisk::new(Ending::Killed, 1000));
store_conformance!(killed_and_opened_with_a_short_log, OnDisk::new(Ending::Killed, 3));
store_conformance!(let_go_and_taken_again, OnDisk::new(Ending::LetGo, 20));

fn connection(store: &SqliteStore) -> &rusqlite::Connection {
    &store.held().unwrap().connection
}

fn is_send<T: Send>() {}

#[test]
fn a_store_can_be_sent_to_another_thread() {
    is_send::<SqliteStore>();
}

#[test]
fn a_full_disk_fails_the_commit_and_changes_nothing() {
    let place = OnDisk::new(Ending::Closed, 1000);
    let mut store = place.create().unwrap();
    let mut changes = ChangeSet::new();
    changes.put_row(Table::Sync, Vec::new(), b"before".to_vec());
    store.commit(&changes).unwrap();
    let pages: u32 =
        connection(&store).pragma_query_value(None, "page_count", |row| row.get(0)).unwrap();
    connection(&store)
        .pragma_update_and_check(None, "max_page_count", pages + 4, |_| Ok(()))
        .unwrap();
    let mut changes = ChangeSet::new();
    changes.put_row(Table::Sync, Vec::new(), b"after".to_vec());
    changes.put_row(Table::Event, b"big".to_vec(), vec![1; 1 << 20]);
    let error = store.commit(&changes).unwrap_err();
    assert!(matches!(error, StoreError::Io(_)), "{error:?}");
    assert_eq!(store.get(Table::Sync, b"").unwrap().as_deref(), Some(&b"before"[..]));
    assert_eq!(store.get(Table::Event, b"big").unwrap(), None);
    // When there is room again the same commit goes through.
    connection(&store)
        .pragma_update_and_check(None, "max_page_count", 1 << 20, |_| Ok(()))
        .unwrap();
    store.commit(&changes).unwrap();
    let store = place.reopen(store).unwrap();
    assert_eq!(store.get(Table::Sync, b"").unwrap().as_deref(), Some(&b"after"[..]));
    assert_eq!(store.get(Table::Event, b"big").unwrap().map(|value| value.len()), Some(1 << 20));
}

#[test]
fn the_log_stays_bounded() {
    let place = OnDisk::new(Ending::Closed, 40);
    let mut store = place.create().unwrap();
    for at in 0..300_u32 {
        let mut changes = ChangeSet::new();
        changes.put_row(Table::Event, at.to_be_bytes().to_vec(), vec![3; 3000]);
        store.commit(&changes).unwrap();
        let length = std::fs::metadata(store.files.log()).unwrap().len();
        assert!(length < 60 * 4200, "{length} bytes");
    }
}

#[test]
fn a_commit_waits_for_the_medium_when_it_must() {
    let place = OnDisk::new(Ending::Closed, 1000);
    let mut store = place.create().unwrap();
    let mut commit = |full: bool| {
        let mut changes = ChangeSet::new();
        changes.put_row(Table::Sync, Vec::new(), b"token".to_vec());
        if full {
            changes.require_full();
        }
        store.commit(&changes).unwrap();
        let set: u32 =
            connection(&store).pragma_query_value(None, "synchronous", |row| row.get(0)).unwrap();
        set == 2
    };
    assert!(commit(false), "the first in a log is taken to the medium");
    assert!(!commit(false));
    assert!(commit(true));
    assert!(commit(true));
    assert!(!commit(false));
}

#[test]
fn a_making_that_was_cut_short_is_begun_again() {
    let place = OnDisk::new(Ending::Closed, 1000);
    let path = place.place.borrow().clone();
    let open = || SqliteStore::open(&path, &key(), &place.options());
    place.create().unwrap().close().unwrap();
    let whole = place.directory.path().join("whole");
    std::fs::rename(&path, &whole).unwrap();
    // What is there at each point of the making, in its order.
    let states: [&[(&str, &str)]; 4] = [
        &[],
        &[("herold.lock", "herold.lock")],
        &[("herold.lock", "herold.lock"), ("herold.db", "herold.db.new")],
        &[
            ("herold.lock", "herold.lock"),
            ("herold.db", "herold.db.new"),
            ("herold.mark", "herold.mark"),
            ("herold.salt", "herold.salt.new"),
        ],
    ];
    for state in states {
        std::fs::create_dir(&path).unwrap();
        for (from, to) in state {
            std::fs::copy(whole.join(from), path.join(to)).unwrap();
        }
        assert!(matches!(open(), Err(StoreError::NotFound)));
        place.create().unwrap().close().unwrap();
        open().unwrap();
        std::fs::remove_dir_all(&path).unwrap();
    }
    // All but the last step: the store is whole, and opening it finishes.
    std::fs::create_dir(&path).unwrap();
    copy_files(&whole, &path);
    std::fs::rename(path.join("herold.db"), path.join("herold.db.new")).unwrap();
    assert!(matches!(place.create(), Err(StoreError::Exists)));
    open().unwrap();
    assert!(path.join("herold.db").exists() && !path.join("herold.db.new").exists());
}

#[test]
fn clearing_the_database_out_leaves_no_clear_byte_and_no_other_file() {
    let place = OnDisk::new(Ending::Closed, 1000);
    let mut store = place.create().unwrap();
    let mut changes = ChangeSet::new();
    for at in 0..500_u32 {
        let value = b"value-canary ".repeat(200);
        changes.put_row(Table::Event, format!("key-canary {at}").into_bytes(), value);
    }
    store.commit(&changes).unwrap();
    store.held.as_mut().unwrap().log_is_empty = false;
    connection(&store).execute_batch("PRAGMA cache_size = -64; VACUUM").unwrap();
    for _ in 0..2 {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&*place.place.borrow()).unwrap() {
            let entry = entry.unwrap();
            let bytes = std::fs::read(entry.path()).unwrap();
            assert!(!bytes.windows(6).any(|part| part == b"canary"), "{:?}", entry.file_name());
            names.push(entry.file_name());
        }
        assert_eq!(names.len(), 5, "{names:?}");
        store.checkpoint().unwrap();
    }
    assert!(store.get(Table::Event, b"key-canary 7").unwrap().is_some());
}
