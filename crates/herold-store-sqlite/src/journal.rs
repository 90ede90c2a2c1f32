//! The journal of a shared store: which rows each recent commit has changed.
//!
//! A process that takes the store again reads what others have written in it since, and drops exactly what it had made
//! from those rows. It is a table in the database, so a commit and its entry are one, and what it says is encrypted
//! and authenticated as everything is.
//!
//! - Every commit of a process that shares the store adds an entry, numbered without a gap. Old ones go.
//! - A process that does not share pays nothing for it, but its first commit empties the journal. The numbers begin
//!   anew at a random place, so nobody takes what comes after it for a continuation.
//! - Rows are named in the tables that something is made from and kept; of others the table only.

use herold_store::{ChangeSet, Changed, StoreError, Table};
use rusqlite::{Connection, OptionalExtension, params};

use crate::{error::from_sqlite, resident};

/// So many entries are kept at least, and no more than twice as many.
const KEPT: i64 = 64;
/// More rows of a table, or more bytes of keys, are noted as the whole table.
const MAX_ROWS: usize = 64;
const MAX_BYTES: usize = 1024;
/// In place of a number of rows: all of the table.
const WHOLE: u16 = u16::MAX;

/// The statement that makes the journal's table.
pub(crate) const CREATE: &str =
    "CREATE TABLE journal(g INTEGER NOT NULL PRIMARY KEY, v BLOB NOT NULL)";

/// Tables beside those kept in memory that live objects are made from.
const CACHED: [Table; 5] = [
    Table::Account,
    Table::Policy,
    Table::OlmSession,
    Table::InboundSession,
    Table::OutboundSession,
];

/// The number of the last entry; `None` if there is none.
pub(crate) fn last(connection: &Connection) -> Result<Option<i64>, StoreError> {
    connection
        .prepare_cached("SELECT max(g) FROM journal")
        .and_then(|mut query| query.query_row([], |row| row.get(0)))
        .map_err(|error| from_sqlite(&error, "reading the journal"))
}

/// Adds the entry of a commit after entry `last`, in the commit's own transaction. Answers its number.
pub(crate) fn add(
    connection: &Connection,
    last: Option<i64>,
    changes: &ChangeSet,
) -> Result<i64, StoreError> {
    let doing = "committing";
    let number = match last {
        Some(last) => last.saturating_add(1),
        None => random_start()?,
    };
    let run = || -> rusqlite::Result<()> {
        connection
            .prepare_cached("INSERT INTO journal(g, v) VALUES (?1, ?2)")?
            .execute(params![number, encode(changes)])?;
        if number % KEPT == 0 {
            connection
                .prepare_cached("DELETE FROM journal WHERE g <= ?1")?
                .execute([number - KEPT])?;
        }
        Ok(())
    };
    run().map_err(|error| from_sqlite(&error, doing))?;
    Ok(number)
}

/// Empties the journal: whoever comes back will take it that anything may have changed.
pub(crate) fn clear(connection: &Connection) -> Result<(), StoreError> {
    connection
        .prepare_cached("DELETE FROM journal")
        .and_then(|mut delete| delete.execute([]))
        .map(drop)
        .map_err(|error| from_sqlite(&error, "committing"))
}

/// What has changed since entry `seen` was the last.
pub(crate) fn since(connection: &Connection, seen: Option<i64>) -> Result<Changed, StoreError> {
    let Some(seen) = seen else { return Ok(Changed::everything()) };
    let read = || -> rusqlite::Result<Changed> {
        let is_there = connection
            .prepare_cached("SELECT 1 FROM journal WHERE g = ?1")?
            .query_row([seen], |_| Ok(()))
            .optional()?
            .is_some();
        if !is_there {
            return Ok(Changed::everything());
        }
        let mut query =
            connection.prepare_cached("SELECT g, v FROM journal WHERE g > ?1 ORDER BY g")?;
        let mut rows = query.query([seen])?;
        let mut changed = Changed::nothing();
        let mut number = seen;
        while let Some(row) = rows.next()? {
            number = number.saturating_add(1);
            let entry = row.get_ref(1)?.as_blob()?;
            if row.get::<_, i64>(0)? != number || decode(entry, &mut changed).is_none() {
                return Ok(Changed::everything());
            }
        }
        Ok(changed)
    };
    read().map_err(|error| from_sqlite(&error, "reading the journal"))
}

/// Far from any other start, and far from the end of the numbers.
fn random_start() -> Result<i64, StoreError> {
    let mut random = [0; 8];
    getrandom::fill(&mut random)
        .map_err(|_| StoreError::Io("there is no randomness".to_owned()))?;
    Ok(i64::from_be_bytes(random) >> 2 & !(1 << 62))
}

/// Of each table: its place, how many rows, and each key with its length.
fn encode(changes: &ChangeSet) -> Vec<u8> {
    let mut entry = Vec::with_capacity(256);
    let mut rows = changes.iter().map(|(table, key, _)| (table, key)).peekable();
    while let Some(&(table, _)) = rows.peek() {
        entry.push(u8::try_from(table as usize).unwrap_or(u8::MAX));
        let start = entry.len();
        entry.extend_from_slice(&WHOLE.to_be_bytes());
        let mut count: u16 = 0;
        let mut whole = !(CACHED.contains(&table) || resident::keeps(table));
        while let Some((_, key)) = rows.next_if(|(of, _)| *of == table) {
            count = count.saturating_add(1);
            whole |= usize::from(count) > MAX_ROWS || entry.len() - start + key.len() > MAX_BYTES;
            if !whole {
                entry.extend_from_slice(&u32::try_from(key.len()).unwrap_or(0).to_be_bytes());
                entry.extend_from_slice(key);
            }
        }
        if whole {
            entry.truncate(start + 2);
        } else if let Some(place) = entry.get_mut(start..start + 2) {
            place.copy_from_slice(&count.to_be_bytes());
        }
    }
    entry
}

/// Adds what an entry names; `None` if it cannot be read.
fn decode(entry: &[u8], changed: &mut Changed) -> Option<()> {
    let mut rest = entry;
    while let Some((&table, after)) = rest.split_first() {
        let table = *Table::ALL.get(usize::from(table))?;
        let (count, after) = after.split_first_chunk::<2>()?;
        rest = after;
        match u16::from_be_bytes(*count) {
            WHOLE => changed.add_table(table),
            count => {
                for _ in 0..count {
                    let (length, after) = rest.split_first_chunk::<4>()?;
                    let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
                    let (key, after) = after.split_at_checked(length)?;
                    changed.add(table, key);
                    rest = after;
                }
            }
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection() -> Connection {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(CREATE).unwrap();
        connection
    }

    fn put(table: Table, key: &[u8]) -> ChangeSet {
        let mut changes = ChangeSet::new();
        changes.put_row(table, key.to_vec(), b"value".to_vec());
        changes
    }

    #[test]
    fn an_entry_names_rows_that_something_is_made_from_and_tables_else() {
        let mut changes = put(Table::InboundSession, b"one");
        changes.delete_row(Table::InboundSession, b"two".to_vec());
        changes.put_row(Table::Counter, Vec::new(), b"v".to_vec());
        changes.put_row(Table::Event, b"three".to_vec(), b"v".to_vec());
        for key in 0..=MAX_ROWS {
            changes.put_row(Table::Claim, key.to_be_bytes().to_vec(), Vec::new());
        }
        changes.put_row(Table::Queue, vec![7; MAX_BYTES], Vec::new());
        let mut changed = Changed::nothing();
        decode(&encode(&changes), &mut changed).unwrap();
        let expected: Vec<&[u8]> = vec![b"one", b"two"];
        assert_eq!(changed.rows(Table::InboundSession), Some(expected));
        assert_eq!(changed.rows(Table::Counter), Some(vec![b"".as_slice()]));
        for table in [Table::Event, Table::Claim, Table::Queue] {
            assert_eq!(changed.rows(table), None);
        }
        assert!(!changed.touches_table(Table::Account));
    }

    #[test]
    fn an_entry_that_was_cut_is_not_taken_for_less() {
        let entry = encode(&put(Table::Account, b"a key"));
        for length in 1..entry.len() {
            assert!(decode(&entry[..length], &mut Changed::nothing()).is_none(), "{length}");
        }
        assert!(decode(&[250, 0, 0], &mut Changed::nothing()).is_none());
    }

    #[test]
    fn who_has_seen_an_entry_is_told_what_came_after() {
        let connection = connection();
        assert!(since(&connection, None).unwrap().is_everything());
        assert_eq!(last(&connection).unwrap(), None);
        let first = add(&connection, None, &put(Table::Room, b"1")).unwrap();
        assert!(since(&connection, Some(first)).unwrap().is_nothing());
        let second = add(&connection, Some(first), &put(Table::Room, b"2")).unwrap();
        assert_eq!(last(&connection).unwrap(), Some(second));
        let changed = since(&connection, Some(first)).unwrap();
        assert!(changed.touches(Table::Room, b"2") && !changed.touches(Table::Room, b"1"));
        assert!(since(&connection, Some(first - 1)).unwrap().is_everything());
        assert!(since(&connection, Some(second + 1)).unwrap().is_everything());
    }

    #[test]
    fn who_is_too_far_behind_or_meets_an_emptied_journal_is_told_everything() {
        let connection = connection();
        let first = add(&connection, None, &put(Table::Room, b"1")).unwrap();
        let mut number = first;
        for _ in 0..3 * KEPT {
            number = add(&connection, Some(number), &put(Table::Room, b"2")).unwrap();
        }
        assert!(since(&connection, Some(first)).unwrap().is_everything());
        assert!(!since(&connection, Some(number - KEPT + 1)).unwrap().is_everything());
        let rows: i64 =
            connection.query_row("SELECT count(*) FROM journal", [], |row| row.get(0)).unwrap();
        assert!(rows <= 2 * KEPT, "{rows}");
        clear(&connection).unwrap();
        assert!(since(&connection, Some(number)).unwrap().is_everything());
        let anew = add(&connection, None, &put(Table::Room, b"3")).unwrap();
        assert!((anew - number).abs() > 1_000_000, "a start of its own");
        assert!(since(&connection, Some(number)).unwrap().is_everything());
    }
}
