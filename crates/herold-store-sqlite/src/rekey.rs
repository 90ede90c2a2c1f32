//! Re-keying: every byte of the database encrypted anew under a new data key.
//!
//! The rows are copied into a new database beside the old one, some megabytes at a time, and the copy is read
//! back. Then the new key file takes the place of the old one, which is the instant at which the store changes:
//! a key file names the database it belongs to ([`header`]), so whoever opens the store before that
//! instant throws the copy away and whoever opens it afterwards throws the old database away. What had to
//! be on the medium before it:
//!
//! - the log, emptied: under the new database SQLite would take the old pages in it for damage;
//! - the copy, its content and its name.

use std::{fs::File, io::ErrorKind, time::Instant};

use herold_store::StoreError;
use rusqlite::{Connection, params_from_iter, types::ToSqlOutput};

use crate::{
    SqliteStore, StoreKey, StoreOptions,
    error::{from_io, from_sqlite},
    files::Files,
    header::{self, DataKey},
    open::{connect, make_database},
};

/// How much is copied in one transaction, in bytes. The log of the new database grows no larger than about that.
const PORTION: usize = 4 << 20;

impl SqliteStore {
    /// Encrypts the whole store anew: with a new data key, under `new`. Whoever has the old store key and copies of
    /// the old files can read those, and nothing of what is written from now on; [`SqliteStore::change_key`]
    /// does not give that. Freed pages and all that was deleted are not copied.
    ///
    /// Takes about as long as reading and writing all of it, needs as much room once more on the medium, and no
    /// more memory than [`StoreOptions::cache_kib`] and the largest row. A kill or a power loss leaves
    /// the store as it was, under one of the two keys.
    ///
    /// Other processes that share the store wait meanwhile, and may be told that it is locked. Taking it again is
    /// [`StoreError::WrongKey`] for them, and changes nothing: they open it anew, with `new`.
    ///
    /// The old files are deleted. What was on the medium may be there still until it is written over; only
    /// a medium that forgets can do better.
    ///
    /// # Errors
    /// The store is closed then, with nothing lost; the old key opens it, or the new one if only the
    /// opening under it has failed.
    /// - [`StoreError::Io`] if the medium failed, or is full.
    /// - [`StoreError::Corrupt`] if a part of the store cannot be read.
    /// - [`StoreError::Suspended`] if it is let go of.
    pub fn rekey(mut self, new: &StoreKey, options: &StoreOptions) -> Result<Self, StoreError> {
        let files = self.files.clone();
        // From here on until the new database is opened: whoever waits must not get in between.
        let lock = self.held()?.lock.another(&files, options.shared)?;
        // What is raised after the copy would be missing from it.
        self.part_from_guard()?;
        self.checkpoint()?;
        let header = self.copy_database(&files, new, options)?;
        // If this fails, one of the two key files is there, and whichever it is has its database.
        files.replace_header(&header)?;
        drop(self);
        // This gives the new database its name.
        Self::open_with(files, lock, new, options, Instant::now() + options.patience)
    }

    /// Makes the new database, whole and on the medium, and the key file for it.
    fn copy_database(
        &self,
        files: &Files,
        new: &StoreKey,
        options: &StoreOptions,
    ) -> Result<Vec<u8>, StoreError> {
        let data_key = header::new_data_key()?;
        files.remove_new_database()?;
        let copied = self.copy_into(files, &data_key, options).and_then(|database| {
            // An emptied log may come back with a power loss.
            match File::options().write(true).open(files.log()).and_then(|log| log.sync_all()) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(from_io(&error, "synchronising the log"));
                }
                _ => {}
            }
            header::seal(&data_key, &database, new, options.passphrase_cost)
        });
        if copied.is_err() {
            // The copy is of no use; what cannot be removed is thrown away by the next opening.
            let _ = files.remove_new_database();
        }
        copied
    }

    fn copy_into(
        &self,
        files: &Files,
        data_key: &DataKey,
        options: &StoreOptions,
    ) -> Result<header::DatabaseId, StoreError> {
        let doing = "copying the database";
        let mut rows = Vec::new();
        let database = make_database(files, data_key, options, |connection| {
            rows = copy(&self.held()?.connection, connection)
                .map_err(|error| from_sqlite(&error, doing))?;
            Ok(())
        })?;
        // What was written is read back, from the file, before anything depends on it.
        let connection = connect(&files.new_database(), data_key, options)?;
        let check = || -> rusqlite::Result<bool> {
            let mut good = true;
            for (name, expected) in &rows {
                let sql = format!("SELECT count(*) FROM {}", quoted(name));
                let found: i64 = connection.query_row(&sql, [], |row| row.get(0))?;
                good &= found == *expected;
            }
            let mut faults = connection.prepare("PRAGMA cipher_integrity_check")?;
            good &= faults.query([])?.next()?.is_none();
            Ok(good)
        };
        match check() {
            Ok(true) => {}
            Ok(false) => return Err(StoreError::Io("the copy is not what was written".to_owned())),
            Err(error) => return Err(from_sqlite(&error, doing)),
        }
        connection.close().map_err(|(_, error)| from_sqlite(&error, doing))?;
        files.remove_new_log()?;
        Ok(database)
    }
}

/// Copies the schema and all rows. Returns the tables and how many rows each has.
fn copy(from: &Connection, into: &Connection) -> rusqlite::Result<Vec<(String, i64)>> {
    // It is taken to the medium when it is whole.
    into.execute_batch("PRAGMA synchronous = OFF")?;
    let version: i64 = from.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let mut objects = from.prepare(
        "SELECT type, name, sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY type = 'table' DESC, name",
    )?;
    let mut objects = objects.query([])?;
    let mut tables = Vec::new();
    while let Some(object) = objects.next()? {
        let kind: String = object.get(0)?;
        into.execute_batch(&object.get::<_, String>(2)?)?;
        if kind == "table" {
            let name: String = object.get(1)?;
            let rows = copy_rows(from, into, &name)?;
            tables.push((name, rows));
        }
    }
    into.pragma_update(None, "user_version", version)?;
    Ok(tables)
}

fn copy_rows(from: &Connection, into: &Connection, table: &str) -> rusqlite::Result<i64> {
    let name = quoted(table);
    let mut read = from.prepare(&format!("SELECT * FROM {name}"))?;
    let columns = read.column_count();
    let places = vec!["?"; columns].join(", ");
    let mut write = into.prepare(&format!("INSERT INTO {name} VALUES ({places})"))?;
    let mut rows = read.query([])?;
    let (mut count, mut bytes) = (0, 0);
    into.execute_batch("BEGIN")?;
    while let Some(row) = rows.next()? {
        let mut values = Vec::with_capacity(columns);
        for column in 0..columns {
            let value = row.get_ref(column)?;
            bytes += value.as_bytes().map_or(8, <[u8]>::len) + 16;
            values.push(ToSqlOutput::Borrowed(value));
        }
        write.execute(params_from_iter(values))?;
        count += 1;
        if bytes >= PORTION {
            bytes = 0;
            into.execute_batch("COMMIT; PRAGMA wal_checkpoint(TRUNCATE); BEGIN")?;
        }
    }
    into.execute_batch("COMMIT")?;
    Ok(count)
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
