//! Any history of commits, reads and reopenings reads like an ordered map.

use std::collections::BTreeMap;

use proptest::{
    collection::vec,
    prelude::*,
    test_runner::{Config, TestRunner},
};

use super::{
    StoreFactory,
    facts::{scanned, scanned_back},
};
use crate::{ChangeSet, Snapshot, Store, Table};

/// Few keys of few bytes, so that histories meet themselves: neighbours, prefixes, bounds.
fn key() -> impl Strategy<Value = Vec<u8>> {
    vec(prop::sample::select(vec![0x00, 0x01, b'\'', b'a', 0xfe, 0xff]), 0..4)
}

fn value() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => vec(any::<u8>(), 0..24),
        1 => (any::<u8>(), 900..5000_usize).prop_map(|(byte, length)| vec![byte; length]),
    ]
}

const TABLES: [Table; 3] = [Table::Account, Table::Event, Table::Timeline];

fn table() -> impl Strategy<Value = Table> {
    prop::sample::select(TABLES.to_vec())
}

/// What a commit makes of a row; `None` deletes it.
type Row = (Table, Vec<u8>, Option<Vec<u8>>);

#[derive(Clone, Debug)]
enum Operation {
    Commit { rows: Vec<Row>, full: bool },
    FailedCommit { rows: Vec<Row>, after: usize },
    Reopen,
    Get(Table, Vec<u8>),
    Scan(Table, Vec<u8>, Option<Vec<u8>>),
    ScanBack(Table, Vec<u8>, Option<Vec<u8>>),
}

fn operation() -> impl Strategy<Value = Operation> {
    let rows = || vec((table(), key(), prop::option::weighted(0.7, value())), 0..8);
    prop_oneof![
        6 => (rows(), any::<bool>()).prop_map(|(rows, full)| Operation::Commit { rows, full }),
        1 => (rows(), 0..9_usize)
            .prop_map(|(rows, after)| Operation::FailedCommit { rows, after }),
        1 => Just(Operation::Reopen),
        2 => (table(), key()).prop_map(|(table, key)| Operation::Get(table, key)),
        2 => (table(), key(), prop::option::of(key()))
            .prop_map(|(table, prefix, from)| Operation::Scan(table, prefix, from)),
        2 => (table(), key(), prop::option::of(key()))
            .prop_map(|(table, prefix, before)| Operation::ScanBack(table, prefix, before)),
    ]
}

type Model = BTreeMap<(Table, Vec<u8>), Vec<u8>>;

fn expected(model: &Model, table: Table, prefix: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    model
        .iter()
        .filter(|((in_table, key), _)| *in_table == table && key.starts_with(prefix))
        .map(|((_, key), value)| (key.clone(), value.clone()))
        .collect()
}

/// Compares a store with a map through random histories, smallest counterexample first.
pub fn any_history_reads_like_an_ordered_map<F: StoreFactory>(new: impl Fn() -> F) {
    compare(new, 40, 24, false);
}

/// The same, opened again after each operation: nothing that counts is in memory only.
pub fn a_reopening_between_any_two_operations_changes_nothing<F: StoreFactory>(
    new: impl Fn() -> F,
) {
    compare(new, 10, 12, true);
}

fn compare<F: StoreFactory>(new: impl Fn() -> F, cases: u32, length: usize, reopening: bool) {
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let outcome = TestRunner::new(config).run(&vec(operation(), 1..length), |history| {
        let place = new();
        let mut store = place.create().expect("a store");
        let mut model = Model::new();
        for operation in history {
            store = step(&place, store, &mut model, operation)?;
            if reopening {
                store = place.reopen(store).expect("the store again");
            }
        }
        for table in TABLES {
            prop_assert_eq!(scanned(&store, table, b"", None), expected(&model, table, b""));
        }
        Ok(())
    });
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
}

fn step<F: StoreFactory>(
    place: &F,
    mut store: F::Store,
    model: &mut Model,
    operation: Operation,
) -> Result<F::Store, TestCaseError> {
    match operation {
        Operation::Commit { rows, full } => {
            let mut changes = change_set(&rows);
            if full {
                changes.require_full();
            }
            for (table, key, value) in rows {
                match value {
                    Some(value) => model.insert((table, key), value),
                    None => model.remove(&(table, key)),
                };
            }
            store.commit(&changes).expect("a commit");
        }
        Operation::FailedCommit { rows, after } => {
            let mut changes = change_set(&rows);
            changes.put_row(TABLES[0], b"a row at least".to_vec(), Vec::new());
            if place.fail_commit_after(&mut store, after) {
                prop_assert!(store.commit(&changes).is_err());
            }
        }
        Operation::Reopen => store = place.reopen(store).expect("the store again"),
        Operation::Get(table, key) => {
            let found = store.get(table, &key).expect("a read");
            prop_assert_eq!(found.as_ref(), model.get(&(table, key)));
        }
        Operation::Scan(table, prefix, from) => {
            let mut rows = expected(model, table, &prefix);
            rows.retain(|(key, _)| from.as_ref().is_none_or(|from| key >= from));
            prop_assert_eq!(scanned(&store, table, &prefix, from.as_deref()), rows);
        }
        Operation::ScanBack(table, prefix, before) => {
            let mut rows = expected(model, table, &prefix);
            rows.retain(|(key, _)| before.as_ref().is_none_or(|before| key < before));
            rows.reverse();
            prop_assert_eq!(scanned_back(&store, table, &prefix, before.as_deref()), rows);
        }
    }
    Ok(store)
}

fn change_set(rows: &[Row]) -> ChangeSet {
    let mut changes = ChangeSet::new();
    for (table, key, value) in rows {
        match value {
            Some(value) => changes.put_row(*table, key.clone(), value.clone()),
            None => changes.delete_row(*table, key.clone()),
        }
    }
    changes
}
