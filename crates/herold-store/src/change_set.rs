//! [`ChangeSet`]: what one step changes, in order.

use std::{collections::BTreeMap, ops::Bound};

use zeroize::Zeroize;

use crate::{Record, RecordKey, Table};

/// How far a commit must reach before [`crate::Store::commit`] returns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Durability {
    /// The commit survives the death of the process, not necessarily a power loss.
    #[default]
    Process,
    /// The commit survives a power loss.
    Full,
}

/// One change of one row.
#[derive(Clone, PartialEq, Eq)]
pub enum Change {
    /// The row at `key` becomes `value`.
    Put {
        /// The table.
        table: Table,
        /// The row's key.
        key: Vec<u8>,
        /// The encoded record. Secret for most tables.
        value: Vec<u8>,
    },
    /// The row at `key` goes; none there is no error.
    Delete {
        /// The table.
        table: Table,
        /// The row's key.
        key: Vec<u8>,
    },
}

impl std::fmt::Debug for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Put { table, .. } => write!(f, "Put({})", table.name()),
            Self::Delete { table, .. } => write!(f, "Delete({})", table.name()),
        }
    }
}

/// What becomes of a table's rows: `None` is a deletion.
type Rows = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// The ordered changes of one step. A later change of a row replaces an earlier one.
///
/// A change set also answers reads ([`ChangeSet::get`]), so that a step sees what it has itself
/// changed. Dropping it wipes the values.
#[derive(Clone, Default)]
pub struct ChangeSet {
    tables: BTreeMap<Table, Rows>,
    durability: Durability,
}

impl ChangeSet {
    /// An empty change set that needs [`Durability::Process`].
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Stores `record` at `key`.
    pub fn put<R: Record>(&mut self, key: &R::Key, record: &R) {
        self.set(R::TABLE, key.to_bytes(), Some(record.encode()));
    }

    /// Deletes the record at `key`, if any.
    pub fn delete<R: Record>(&mut self, key: &R::Key) {
        self.set(R::TABLE, key.to_bytes(), None);
    }

    /// Makes the row at `key` the bytes `value`, which need not decode: for tools that copy rows from
    /// store to store, and for tests of damage.
    pub fn put_row(&mut self, table: Table, key: Vec<u8>, value: Vec<u8>) {
        self.set(table, key, Some(value));
    }

    /// Deletes the row at `key`, if any. The counterpart of [`ChangeSet::put_row`].
    pub fn delete_row(&mut self, table: Table, key: Vec<u8>) {
        self.set(table, key, None);
    }

    /// Asks for [`Durability::Full`]: the step advances a ratchet, publishes a key, or takes a sync
    /// token that makes the server forget.
    pub fn require_full(&mut self) {
        self.durability = Durability::Full;
    }

    /// The durability this commit needs.
    #[must_use]
    pub fn durability(&self) -> Durability {
        self.durability
    }

    /// What this change set makes of a row: `None` if it does not touch it, `Some(None)` if it deletes
    /// it.
    #[must_use]
    pub fn get(&self, table: Table, key: &[u8]) -> Option<Option<&[u8]>> {
        self.tables.get(&table)?.get(key).map(|row| row.as_deref())
    }

    /// The touched rows of a table, in key order: `None` is a deletion.
    pub fn rows(&self, table: Table) -> impl DoubleEndedIterator<Item = (&[u8], Option<&[u8]>)> {
        self.rows_from(table, &[])
    }

    /// The touched rows of a table from the key `from` on.
    pub fn rows_from(
        &self,
        table: Table,
        from: &[u8],
    ) -> impl DoubleEndedIterator<Item = (&[u8], Option<&[u8]>)> {
        let from = (Bound::Included(from), Bound::Unbounded);
        let rows = self.tables.get(&table).into_iter();
        rows.flat_map(move |rows| rows.range::<[u8], _>(from))
            .map(|(key, value)| (key.as_slice(), value.as_deref()))
    }

    /// The changes, ordered by table and key.
    pub fn changes(&self) -> impl Iterator<Item = Change> + '_ {
        self.iter().map(|(table, key, value)| match value {
            Some(value) => Change::Put { table, key: key.to_vec(), value: value.to_vec() },
            None => Change::Delete { table, key: key.to_vec() },
        })
    }

    /// The changes as borrowed rows (`None` deletes), ordered by table and key.
    pub fn iter(&self) -> impl Iterator<Item = (Table, &[u8], Option<&[u8]>)> {
        self.tables.iter().flat_map(|(table, rows)| {
            rows.iter().map(|(key, value)| (*table, key.as_slice(), value.as_deref()))
        })
    }

    /// Whether nothing would change.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tables.is_empty()
    }

    /// How many rows are touched.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tables.values().map(Rows::len).sum()
    }

    /// Adds `other` after these changes; the stronger durability wins.
    pub fn append(&mut self, mut other: ChangeSet) {
        for (table, rows) in std::mem::take(&mut other.tables) {
            for (key, value) in rows {
                self.set(table, key, value);
            }
        }
        self.durability = self.durability.max(other.durability);
    }

    fn set(&mut self, table: Table, key: Vec<u8>, value: Option<Vec<u8>>) {
        let rows = self.tables.entry(table).or_default();
        if let Some(Some(mut replaced)) = rows.insert(key, value) {
            replaced.zeroize();
        }
    }
}

impl Drop for ChangeSet {
    fn drop(&mut self) {
        for value in self.tables.values_mut().flat_map(Rows::values_mut).flatten() {
            value.zeroize();
        }
    }
}

impl std::fmt::Debug for ChangeSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let tables: BTreeMap<&str, usize> =
            self.tables.iter().map(|(table, rows)| (table.name(), rows.len())).collect();
        f.debug_struct("ChangeSet")
            .field("rows", &tables)
            .field("durability", &self.durability)
            .finish()
    }
}
