//! The tables that every step asks, kept in memory as they are on disk: counters, and what is under way.
//! They are small and mostly empty, and a look at an empty table costs as much as at a full one.
//!
//! While the store is held only this process writes, so what a commit has changed is all that changes. What others
//! have changed meanwhile is read again when the store is taken back.

use std::{cell::OnceCell, collections::BTreeMap, ops::Bound};

use herold_store::{ChangeSet, Changed, ScanControl, StoreError, Table};
use zeroize::Zeroizing;

/// A table is kept while its rows are together no larger, in bytes.
const LIMIT: usize = 4 << 20;

const TABLES: [Table; 20] = [
    Table::KeyUpload,
    Table::Login,
    Table::Sync,
    Table::Counter,
    Table::Blocked,
    Table::OutdatedUser,
    Table::Claim,
    Table::Waiting,
    Table::Outbox,
    Table::Queue,
    Table::Room,
    Table::Backoff,
    Table::SlidingSync,
    Table::ToDeviceQueue,
    Table::UntrustedDevice,
    Table::Invitation,
    Table::Withheld,
    Table::KeyRequest,
    Table::Backup,
    Table::Dehydration,
];

/// Whether a table is one of those kept.
pub(crate) fn keeps(table: Table) -> bool {
    TABLES.contains(&table)
}

/// A table's rows, in order.
#[derive(Default)]
pub(crate) struct Rows {
    rows: BTreeMap<Vec<u8>, Zeroizing<Vec<u8>>>,
    bytes: usize,
}

impl Rows {
    /// Takes a row; `false` if that is too much.
    pub(crate) fn put(&mut self, key: &[u8], value: &[u8]) -> bool {
        self.bytes += key.len() + value.len();
        if let Some(old) = self.rows.insert(key.to_vec(), Zeroizing::new(value.to_vec())) {
            self.bytes -= key.len() + old.len();
        }
        self.bytes <= LIMIT
    }

    fn delete(&mut self, key: &[u8]) {
        if let Some(old) = self.rows.remove(key) {
            self.bytes -= key.len() + old.len();
        }
    }

    pub(crate) fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.rows.get(key).map(|value| value.to_vec())
    }

    /// Visits the rows from `start` up to but without `end`.
    pub(crate) fn visit(
        &self,
        start: &[u8],
        end: Option<&[u8]>,
        backwards: bool,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ScanControl,
    ) {
        if end.is_some_and(|end| end <= start) {
            return;
        }
        let end = end.map_or(Bound::Unbounded, Bound::Excluded);
        let mut rows = self.rows.range::<[u8], _>((Bound::Included(start), end));
        let mut next = || if backwards { rows.next_back() } else { rows.next() };
        while let Some((key, value)) = next() {
            if visit(key, value).is_break() {
                return;
            }
        }
    }
}

/// The tables kept. Each is read when it is first asked for; one that is too large is not kept.
pub(crate) struct Resident {
    tables: BTreeMap<Table, OnceCell<Option<Rows>>>,
}

impl Default for Resident {
    fn default() -> Self {
        Self { tables: TABLES.iter().map(|table| (*table, OnceCell::new())).collect() }
    }
}

impl Resident {
    /// The table, if it is one that is kept; `read` reads it from disk, `None` if it is too large.
    pub(crate) fn table(
        &self,
        table: Table,
        read: impl FnOnce() -> Result<Option<Rows>, StoreError>,
    ) -> Result<Option<&Rows>, StoreError> {
        let Some(cell) = self.tables.get(&table) else { return Ok(None) };
        if cell.get().is_none() {
            // Nobody else can have set it: reading does not come back here for the same table.
            let _ = cell.set(read()?);
        }
        Ok(cell.get().and_then(Option::as_ref))
    }

    /// Takes what has been committed.
    pub(crate) fn committed(&mut self, changes: &ChangeSet) {
        for (table, key, value) in changes.iter() {
            self.set(table, key, value);
        }
    }

    /// Brings what is kept up to date with what others have changed; `read` reads a row from disk.
    ///
    /// # Errors
    /// Those of `read`; the rest is as it was.
    pub(crate) fn changed(
        &mut self,
        changed: &Changed,
        read: impl Fn(Table, &[u8]) -> Result<Option<Vec<u8>>, StoreError>,
    ) -> Result<(), StoreError> {
        for table in TABLES {
            match changed.rows(table) {
                // It is read when it is asked for.
                None => {
                    self.tables.insert(table, OnceCell::new());
                }
                Some(keys) => {
                    for key in keys {
                        if self.tables.get(&table).and_then(OnceCell::get).is_some() {
                            let value = read(table, key)?.map(Zeroizing::new);
                            self.set(table, key, value.as_deref().map(Vec::as_slice));
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn set(&mut self, table: Table, key: &[u8], value: Option<&[u8]>) {
        let Some(kept) = self.tables.get_mut(&table).and_then(OnceCell::get_mut) else { return };
        let Some(rows) = kept else { return };
        let fits = match value {
            Some(value) => rows.put(key, value),
            None => {
                rows.delete(key);
                true
            }
        };
        if !fits {
            *kept = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use super::*;

    fn keys(rows: &Rows, start: &[u8], end: Option<&[u8]>, backwards: bool) -> Vec<Vec<u8>> {
        let mut seen = Vec::new();
        rows.visit(start, end, backwards, &mut |key, _| {
            seen.push(key.to_vec());
            ControlFlow::Continue(())
        });
        seen
    }

    #[test]
    fn rows_are_visited_in_both_directions_and_an_empty_range_has_none() {
        let mut rows = Rows::default();
        for key in [b"b", b"a", b"c"] {
            assert!(rows.put(key, b"value"));
        }
        assert_eq!(keys(&rows, b"a", Some(b"c"), false), [b"a", b"b"]);
        assert_eq!(keys(&rows, b"a", None, true), [b"c", b"b", b"a"]);
        assert!(keys(&rows, b"c", Some(b"a"), false).is_empty());
    }

    #[test]
    fn a_table_that_grows_too_large_is_let_go_and_counts_right() {
        let mut rows = Rows::default();
        assert!(rows.put(b"key", &vec![0; LIMIT - 3]));
        assert!(rows.put(b"key", &vec![0; LIMIT - 3]), "the old row no longer counts");
        assert!(!rows.put(b"k", b""));
        rows.delete(b"k");
        rows.delete(b"k");
        rows.delete(b"key");
        assert_eq!(rows.bytes, 0);

        let mut resident = Resident::default();
        assert!(resident.table(Table::Queue, || Ok(Some(Rows::default()))).unwrap().is_some());
        let mut changes = ChangeSet::new();
        changes.put_row(Table::Queue, b"key".to_vec(), vec![0; LIMIT + 1]);
        resident.committed(&changes);
        let gone = resident.table(Table::Queue, || panic!("it was read already")).unwrap();
        assert!(gone.is_none());
        assert!(resident.table(Table::Event, || panic!("not one of them")).unwrap().is_none());
    }
}
