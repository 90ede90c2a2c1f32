//! Looking at a store as a whole, for support tools.

use herold_store::{StoreError, Table};

use rusqlite::{Connection, params};

use crate::{SqliteStore, error::from_sqlite, schema::Place};

/// What a store was written by and is read with. No secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versions {
    /// The version of the tables.
    pub schema: i64,
    /// SQLite's.
    pub sqlite: String,
    /// SQLCipher's.
    pub cipher: String,
}

impl SqliteStore {
    /// The versions of what the store consists of.
    ///
    /// # Errors
    /// [`StoreError::Io`] if the database does not answer.
    pub fn versions(&self) -> Result<Versions, StoreError> {
        let connection = &self.held()?.usable()?.connection;
        let ask = || -> rusqlite::Result<Versions> {
            Ok(Versions {
                schema: connection.pragma_query_value(None, "user_version", |row| row.get(0))?,
                sqlite: rusqlite::version().to_owned(),
                cipher: connection.pragma_query_value(None, "cipher_version", |row| row.get(0))?,
            })
        };
        ask().map_err(|error| from_sqlite(&error, "asking for versions"))
    }

    /// How many rows each table has, in the order of [`Table::ALL`]. No secret.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] or [`StoreError::Io`] if a table cannot be read.
    pub fn table_counts(&self) -> Result<Vec<(Table, u64)>, StoreError> {
        let connection = &self.held()?.usable()?.connection;
        let count = |table: &Table| -> rusqlite::Result<(Table, u64)> {
            let place = Place::of(*table);
            let bounds = (place.key(&[]), place.end(None));
            let (from, to) = (bounds.0.as_ref(), bounds.1.as_deref());
            let sql = format!(
                "SELECT count(*) FROM t_{} WHERE k >= ?1 AND (?2 IS NULL OR k < ?2)",
                place.table
            );
            let rows: i64 = connection.query_row(&sql, params![from, to], |row| row.get(0))?;
            Ok((*table, rows.unsigned_abs()))
        };
        Table::ALL
            .iter()
            .map(|table| count(table).map_err(|error| from_sqlite(&error, "counting rows")))
            .collect()
    }

    /// Authenticates every page of the database and checks that its trees and indices agree. Reads the
    /// whole file.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] if anything is wrong.
    pub fn integrity_check(&mut self) -> Result<(), StoreError> {
        // The pages are checked in the file, so they have to be there.
        self.checkpoint()?;
        let connection = &self.held()?.connection;
        for (sql, good) in
            [("PRAGMA cipher_integrity_check", None), ("PRAGMA integrity_check", Some("ok"))]
        {
            let problems = problems(connection, sql, good)
                .map_err(|error| from_sqlite(&error, "checking the database"))?;
            if problems > 0 {
                return Err(StoreError::Corrupt(format!("{problems} faults in the database")));
            }
        }
        Ok(())
    }
}

/// How many rows a check returns other than the `good` one.
fn problems(connection: &Connection, sql: &str, good: Option<&str>) -> rusqlite::Result<usize> {
    let mut statement = connection.prepare(sql)?;
    let mut rows = statement.query([])?;
    let mut problems = 0;
    while let Some(row) = rows.next()? {
        let text: String = row.get(0)?;
        problems += usize::from(Some(text.as_str()) != good);
    }
    Ok(problems)
}
