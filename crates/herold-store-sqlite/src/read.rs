//! Reads: each sees the last commit, since nobody else writes and a commit needs the store for itself.

use std::ops::ControlFlow;

use herold_store::{ScanControl, Snapshot, StoreError, Table, prefix_end};
use rusqlite::{OptionalExtension, params, params_from_iter};

use crate::{SqliteStore, error::from_sqlite};

impl Snapshot for SqliteStore {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.usable()?;
        let read = || -> rusqlite::Result<Option<Vec<u8>>> {
            self.connection
                .prepare_cached(&format!("SELECT v FROM t_{} WHERE k = ?1", table.name()))?
                .query_row(params![key], |row| Ok(row.get_ref(0)?.as_blob()?.to_vec()))
                .optional()
        };
        read().map_err(|error| from_sqlite(&error, "reading"))
    }

    fn scan(
        &self,
        table: Table,
        prefix: &[u8],
        from: Option<&[u8]>,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ScanControl,
    ) -> Result<(), StoreError> {
        let start = from.map_or(prefix, |from| from.max(prefix));
        self.range(table, start, prefix_end(prefix).as_deref(), "ASC", visit)
    }

    fn scan_back(
        &self,
        table: Table,
        prefix: &[u8],
        before: Option<&[u8]>,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ScanControl,
    ) -> Result<(), StoreError> {
        let after = prefix_end(prefix);
        let end = match (before, after.as_deref()) {
            (Some(before), Some(after)) => Some(before.min(after)),
            (before, after) => before.or(after),
        };
        self.range(table, prefix, end, "DESC", visit)
    }
}

impl SqliteStore {
    /// Visits the rows from `start` up to but without `end`, in this order.
    fn range(
        &self,
        table: Table,
        start: &[u8],
        end: Option<&[u8]>,
        order: &'static str,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ScanControl,
    ) -> Result<(), StoreError> {
        self.usable()?;
        let below = if end.is_some() { "AND k < ?2" } else { "" };
        let name = table.name();
        let mut read = || -> rusqlite::Result<()> {
            let mut statement = self.connection.prepare_cached(&format!(
                "SELECT k, v FROM t_{name} WHERE k >= ?1 {below} ORDER BY k {order}"
            ))?;
            let mut rows = statement.query(params_from_iter(std::iter::once(start).chain(end)))?;
            while let Some(row) = rows.next()? {
                let (key, value) = (row.get_ref(0)?.as_blob()?, row.get_ref(1)?.as_blob()?);
                if visit(key, value) == ControlFlow::Break(()) {
                    break;
                }
            }
            Ok(())
        };
        read().map_err(|error| from_sqlite(&error, "scanning"))
    }
}
