//! Reads: each sees the last commit, since nobody else writes while the store is held and a commit needs the store
//! for itself.

use std::ops::ControlFlow;

use herold_store::{ScanControl, Snapshot, StoreError, Table, prefix_end};
use rusqlite::{OptionalExtension, params, params_from_iter};

use crate::{SqliteStore, error::from_sqlite, open::Held, resident::Rows, schema::Place};

impl Snapshot for SqliteStore {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let held = self.held()?.usable()?;
        match self.resident.table(table, || held.whole(table))? {
            Some(rows) => Ok(rows.get(key)),
            None => held.get(table, key),
        }
    }

    fn scan(
        &self,
        table: Table,
        prefix: &[u8],
        from: Option<&[u8]>,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ScanControl,
    ) -> Result<(), StoreError> {
        let start = from.map_or(prefix, |from| from.max(prefix));
        self.range(table, start, prefix_end(prefix).as_deref(), false, visit)
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
        self.range(table, prefix, end, true, visit)
    }
}

impl SqliteStore {
    /// Visits the rows from `start` up to but without `end`.
    fn range(
        &self,
        table: Table,
        start: &[u8],
        end: Option<&[u8]>,
        backwards: bool,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ScanControl,
    ) -> Result<(), StoreError> {
        let held = self.held()?.usable()?;
        if let Some(rows) = self.resident.table(table, || held.whole(table))? {
            rows.visit(start, end, backwards, visit);
            return Ok(());
        }
        held.range(table, start, end, backwards, visit)
    }
}

impl Held {
    /// A row on disk.
    pub(crate) fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let place = Place::of(table);
        let read = || -> rusqlite::Result<Option<Vec<u8>>> {
            self.connection
                .prepare_cached(&place.get)?
                .query_row(params![place.key(key).as_ref()], |row| {
                    Ok(row.get_ref(0)?.as_blob()?.to_vec())
                })
                .optional()
        };
        read().map_err(|error| from_sqlite(&error, "reading"))
    }

    /// A table to be kept in memory; `None` if it is too large.
    fn whole(&self, table: Table) -> Result<Option<Rows>, StoreError> {
        let mut rows = Rows::default();
        let mut fits = true;
        self.range(table, &[], None, false, &mut |key, value| {
            fits = rows.put(key, value);
            if fits { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        Ok(fits.then_some(rows))
    }

    /// Visits the rows on disk from `start` up to but without `end`.
    fn range(
        &self,
        table: Table,
        start: &[u8],
        end: Option<&[u8]>,
        backwards: bool,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ScanControl,
    ) -> Result<(), StoreError> {
        let place = Place::of(table);
        let (start, end) = (place.key(start), place.end(end));
        let mut read = || -> rusqlite::Result<()> {
            let sql = place.range(end.is_some(), backwards);
            let mut statement = self.connection.prepare_cached(sql)?;
            let bounds = std::iter::once(start.as_ref()).chain(end.as_deref());
            let mut rows = statement.query(params_from_iter(bounds))?;
            while let Some(row) = rows.next()? {
                let (key, value) = (row.get_ref(0)?.as_blob()?, row.get_ref(1)?.as_blob()?);
                if visit(place.strip(key), value) == ControlFlow::Break(()) {
                    break;
                }
            }
            Ok(())
        };
        read().map_err(|error| from_sqlite(&error, "scanning"))
    }
}
