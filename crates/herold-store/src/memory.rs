//! [`MemoryStore`]: a store without a disk, for tests and simulations.

use std::{
    collections::BTreeMap,
    fmt,
    ops::{Bound, ControlFlow},
};

use zeroize::Zeroizing;

use crate::{ChangeSet, ScanControl, Snapshot, Store, StoreError, Table, prefix_end};

type Rows = BTreeMap<Vec<u8>, Zeroizing<Vec<u8>>>;

/// A store in memory: one ordered map for each table.
///
/// A clone is a full, independent copy, so a test can keep the state of an instant and go back to
/// it. Every commit is as durable as the process, whatever [`crate::Durability`] it asks for.
#[derive(Clone, Default)]
pub struct MemoryStore {
    tables: BTreeMap<Table, Rows>,
    fail_next: bool,
}

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes the next commit fail as a full disk does: [`StoreError::Io`], and nothing applied.
    pub fn fail_next_commit(&mut self) {
        self.fail_next = true;
    }

    fn rows(&self, table: Table) -> &Rows {
        static NONE: Rows = Rows::new();
        self.tables.get(&table).unwrap_or(&NONE)
    }
}

impl Snapshot for MemoryStore {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.rows(table).get(key).map(|value| value.to_vec()))
    }

    fn scan(
        &self,
        table: Table,
        prefix: &[u8],
        from: Option<&[u8]>,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ScanControl,
    ) -> Result<(), StoreError> {
        let start = from.map_or(prefix, |from| from.max(prefix));
        for (key, value) in
            self.rows(table).range::<[u8], _>((Bound::Included(start), Bound::Unbounded))
        {
            if !key.starts_with(prefix) || visit(key, value) == ControlFlow::Break(()) {
                break;
            }
        }
        Ok(())
    }

    fn scan_back(
        &self,
        table: Table,
        prefix: &[u8],
        before: Option<&[u8]>,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ScanControl,
    ) -> Result<(), StoreError> {
        // Keys with the prefix stand together: what comes before them ends the scan, what comes
        // after them is skipped by starting below their upper bound.
        let after_prefix = prefix_end(prefix);
        let end = match (before, after_prefix.as_deref()) {
            (Some(before), Some(after)) => Bound::Excluded(before.min(after)),
            (Some(bound), None) | (None, Some(bound)) => Bound::Excluded(bound),
            (None, None) => Bound::Unbounded,
        };
        for (key, value) in self.rows(table).range::<[u8], _>((Bound::Unbounded, end)).rev() {
            if !key.starts_with(prefix) || visit(key, value) == ControlFlow::Break(()) {
                break;
            }
        }
        Ok(())
    }
}

impl Store for MemoryStore {
    fn commit(&mut self, changes: &ChangeSet) -> Result<(), StoreError> {
        if std::mem::take(&mut self.fail_next) {
            return Err(StoreError::Io("a failure that was asked for".to_owned()));
        }
        for (table, key, value) in changes.iter() {
            let rows = self.tables.entry(table).or_default();
            match value {
                Some(value) => rows.insert(key.to_vec(), Zeroizing::new(value.to_vec())),
                None => rows.remove(key),
            };
        }
        Ok(())
    }

    fn snapshot(&self) -> &dyn Snapshot {
        self
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = self.tables.iter().map(|(table, rows)| (table.name(), rows.len()));
        f.debug_map().entries(rows.filter(|(_, count)| *count > 0)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        SnapshotExt,
        records::{CounterRecord, NameKey},
    };

    fn commit(store: &mut MemoryStore, next: u64) {
        let mut changes = ChangeSet::new();
        changes.put(&NameKey { name: "n".to_owned() }, &CounterRecord { next });
        store.commit(&changes).unwrap();
    }

    fn next(store: &MemoryStore) -> u64 {
        store.load::<CounterRecord>(&NameKey { name: "n".to_owned() }).unwrap().unwrap().next
    }

    #[test]
    fn a_clone_keeps_the_state_of_its_instant() {
        let mut store = MemoryStore::new();
        commit(&mut store, 1);
        let mut kept = store.clone();
        commit(&mut store, 2);
        assert_eq!((next(&store), next(&kept)), (2, 1));
        commit(&mut kept, 3);
        assert_eq!((next(&store), next(&kept)), (2, 3));
    }

    #[test]
    fn debug_output_counts_rows_and_prints_none() {
        let mut store = MemoryStore::new();
        let mut changes = ChangeSet::new();
        changes.put_row(Table::Account, b"a key".to_vec(), b"a value".to_vec());
        store.commit(&changes).unwrap();
        assert_eq!(format!("{store:?}"), r#"{"account": 1}"#);
    }
}
