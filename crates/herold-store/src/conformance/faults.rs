//! Facts about a store whose medium fails.

use std::ops::ControlFlow;

use super::{
    StoreFactory,
    facts::{Rows, scanned},
};
use crate::{
    ChangeSet, Record, RecordKey, Snapshot, SnapshotExt, Store, StoreError, Table,
    records::{CounterRecord, NameKey},
};

fn all_rows(store: &dyn Snapshot) -> Vec<Rows> {
    Table::ALL.iter().map(|table| scanned(store, *table, b"", None)).collect()
}

/// A commit that fails, at whichever of its rows, leaves every row as it was, and the store usable.
pub fn a_commit_that_fails_at_any_row_changes_nothing<F: StoreFactory>(new: impl Fn() -> F) {
    let place = new();
    let mut store = place.create().expect("a store");
    let mut before = ChangeSet::new();
    let mut failing = ChangeSet::new();
    for table in Table::ALL {
        before.put_row(*table, b"replaced".to_vec(), b"old".to_vec());
        before.put_row(*table, b"deleted".to_vec(), b"old".to_vec());
        failing.put_row(*table, b"new".to_vec(), vec![b'n'; 3000]);
        failing.put_row(*table, b"replaced".to_vec(), b"new".to_vec());
        failing.delete_row(*table, b"deleted".to_vec());
    }
    store.commit(&before).expect("a commit");
    let old = all_rows(&store);
    for (round, rows) in (0..=failing.len()).step_by(7).chain([1, failing.len()]).enumerate() {
        if !place.fail_commit_after(&mut store, rows) {
            return;
        }
        let error = store.commit(&failing).expect_err("a failure");
        assert!(matches!(error, StoreError::Io(_)), "{error:?}");
        assert!(all_rows(&store) == old, "a commit that failed after {rows} rows left changes");
        if round % 3 == 0 {
            store = place.reopen(store).expect("the store again");
            assert!(all_rows(&store) == old, "a failed commit left changes on the medium");
        }
    }
    store.commit(&failing).expect("the same commit, tried again");
    let new = all_rows(&store);
    assert!(new != old);
    let store = place.reopen(store).expect("the store again");
    assert!(all_rows(&store) == new);
}

/// A row that is there and cannot be read is an error of each read that meets it: it is never taken for
/// absent, and no scan passes over it.
pub fn a_row_that_cannot_be_read_is_an_error_and_not_absent<F: StoreFactory>(new: impl Fn() -> F) {
    let place = new();
    let mut store = place.create().expect("a store");
    let key = |at: u64| NameKey { name: format!("row {at}") };
    let damaged = key(20);
    let mut changes = ChangeSet::new();
    for at in 0..40 {
        changes.put(&key(at), &CounterRecord { next: at });
        let value = CounterRecord { next: at }.encode();
        changes.put_row(Table::Event, key(at).to_bytes(), [value, vec![7; 900]].concat());
    }
    changes.require_full();
    store.commit(&changes).expect("a commit");
    let Some(opened) = place.damage(store, Table::Event, &damaged.to_bytes()) else { return };
    let store = match opened {
        Ok(store) => store,
        Err(error) => {
            assert!(matches!(error, StoreError::Corrupt(_) | StoreError::Io(_)), "{error:?}");
            return;
        }
    };
    let bytes = damaged.to_bytes();
    let is_error = |what: &str, error: Option<StoreError>| match error {
        Some(StoreError::Corrupt(_) | StoreError::Io(_)) => {}
        other => panic!("{what}: {other:?}"),
    };
    let mut seen = |_: &[u8], _: &[u8]| ControlFlow::Continue(());
    // Twice: nothing remembers a failed read as a row that is not there.
    for _ in 0..2 {
        is_error("get", store.get(Table::Event, &bytes).err());
        is_error("scan", store.scan(Table::Event, b"", None, &mut seen).err());
        is_error("scan of it", store.scan(Table::Event, &bytes, None, &mut seen).err());
        is_error("scan from it", store.scan(Table::Event, b"", Some(&bytes), &mut seen).err());
        is_error("scan back", store.scan_back(Table::Event, b"", None, &mut seen).err());
    }
    // A row beside it may be lost with it, but not silently.
    for at in 0..40 {
        match store.load::<CounterRecord>(&key(at)) {
            Ok(record) => assert_eq!(record, Some(CounterRecord { next: at })),
            Err(error) => is_error("load", Some(error)),
        }
    }
}
