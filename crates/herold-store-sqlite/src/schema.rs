//! The schema and its migrations.
//!
//! A released step is never changed: a new version is a new step at the end. The tables of a step are
//! named here and not taken from [`Table::ALL`](herold_store::Table::ALL), which grows.

use std::{
    borrow::Cow,
    sync::{LazyLock, OnceLock},
};

use herold_store::{StoreError, Table};
use rusqlite::Connection;

use crate::{error::from_sqlite, journal};

/// How a table lies on disk. Measured: a row inside the key's tree is found and scanned fastest while it
/// is small, but from some hundred bytes on it makes that tree so coarse that a random insert dirties
/// several times as many pages.
#[derive(Clone, Copy)]
enum Layout {
    /// Rows in the tree of their keys: small rows.
    Small,
    /// Rows in a tree of their own, found through an index of keys: ratchets, events, JSON.
    Large,
    /// Rows in one tree with all others of this kind, behind this byte: the few small rows that nearly every
    /// commit writes. A commit costs by the page, and so they share one.
    Shared(u8),
}

enum Step {
    Table(&'static str, Layout),
    /// The journal of what changed, which is no table of the contract.
    Journal,
}

use Layout::{Large, Shared, Small};

/// The steps to each version, from 1.
const MIGRATIONS: &[&[Step]] = &[&[
    Step::Table("account", Large),
    Step::Table("key_upload", Small),
    Step::Table("login", Small),
    Step::Table("sync", Shared(1)),
    Step::Table("policy", Small),
    Step::Table("counter", Shared(2)),
    Step::Table("olm_session", Large),
    Step::Table("olm_hash", Small),
    Step::Table("inbound_session", Large),
    Step::Table("outbound_session", Large),
    Step::Table("retired_session", Large),
    Step::Table("share", Small),
    Step::Table("device", Large),
    Step::Table("device_by_key", Small),
    Step::Table("blocked", Small),
    Step::Table("identity", Large),
    Step::Table("verified_identity", Small),
    Step::Table("tracked_user", Small),
    Step::Table("outdated_user", Small),
    Step::Table("claim", Small),
    Step::Table("room", Small),
    Step::Table("member", Small),
    Step::Table("event", Large),
    Step::Table("timeline", Small),
    Step::Table("waiting", Small),
    Step::Table("megolm_index", Small),
    Step::Table("session_room", Small),
    Step::Table("withheld", Small),
    Step::Table("key_request", Small),
    Step::Table("key_answers", Small),
    Step::Table("outbox", Small),
    Step::Table("queue", Shared(3)),
    Step::Table("app_event", Shared(4)),
    Step::Table("backoff", Shared(5)),
    Step::Table("sliding_sync", Shared(6)),
    Step::Table("to_device_queue", Large),
    Step::Table("untrusted_device", Small),
    Step::Table("outbox_body", Large),
    Step::Table("secret", Small),
    Step::Table("pending_identity", Small),
    Step::Table("signature", Large),
    Step::Table("backup", Small),
    Step::Table("backup_due", Small),
    Step::Table("backup_batch", Large),
    Step::Table("verification", Large),
    Step::Table("verification_request", Small),
    Step::Table("parked", Small),
    Step::Table("secret_request", Small),
    Step::Table("verified_device", Small),
    Step::Table("invitation", Small),
    Step::Table("history_bundle", Large),
    Step::Table("recovery", Large),
    Step::Table("dehydration", Small),
    Step::Table("rehydration", Large),
    Step::Table("rehydrated_session", Large),
    Step::Table("dehydrated_upload", Large),
    Step::Journal,
]];

/// The newest version, which this code reads and writes.
pub(crate) const VERSION: u32 = MIGRATIONS.len() as u32;

/// Where a table's rows are: the name of the SQL table, what stands before each key there, and the
/// statements for one row.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) table: &'static str,
    pub(crate) prefix: Option<u8>,
    pub(crate) get: String,
    pub(crate) put: String,
    pub(crate) delete: String,
    /// The statements of [`Place::range`]: few are asked for, and opening a store has no time for the others.
    ranges: [OnceLock<String>; 4],
}

/// The SQL table of the rows that share one.
const SHARED: &str = "shared";

/// The key in it of the store's own row, which no table of the contract has: the counter of [`crate::rollback`].
pub(crate) const OWN_ROW: &[u8] = b"\0sealed counter";

impl Place {
    /// The place of a table.
    pub(crate) fn of(table: Table) -> &'static Self {
        static PLACES: LazyLock<Vec<Place>> =
            LazyLock::new(|| Table::ALL.iter().copied().map(Place::new).collect());
        static NOWHERE: LazyLock<Place> = LazyLock::new(|| Place::at("", None));
        PLACES.get(table as usize).unwrap_or(&NOWHERE)
    }

    fn new(table: Table) -> Self {
        let layout = MIGRATIONS.iter().copied().flatten().find_map(|step| match step {
            Step::Table(name, layout) if *name == table.name() => Some(*layout),
            Step::Table(..) | Step::Journal => None,
        });
        match layout {
            Some(Shared(prefix)) => Self::at(SHARED, Some(prefix)),
            _ => Self::at(table.name(), None),
        }
    }

    fn at(table: &'static str, prefix: Option<u8>) -> Self {
        Self {
            table,
            prefix,
            get: format!("SELECT v FROM t_{table} WHERE k = ?1"),
            put: format!(
                "INSERT INTO t_{table}(k, v) VALUES (?1, ?2) ON CONFLICT(k) DO UPDATE SET v = excluded.v"
            ),
            delete: format!("DELETE FROM t_{table} WHERE k = ?1"),
            ranges: Default::default(),
        }
    }

    /// The statement for the rows from a key on, up to another if it is `bounded`.
    pub(crate) fn range(&self, bounded: bool, backwards: bool) -> &str {
        let [up, up_to, down, down_to] = &self.ranges;
        let (statement, below, order) = match (bounded, backwards) {
            (false, false) => (up, "", "ASC"),
            (true, false) => (up_to, "AND k < ?2", "ASC"),
            (false, true) => (down, "", "DESC"),
            (true, true) => (down_to, "AND k < ?2", "DESC"),
        };
        statement.get_or_init(|| {
            let table = self.table;
            format!("SELECT k, v FROM t_{table} WHERE k >= ?1 {below} ORDER BY k {order}")
        })
    }

    /// A row's key as it stands in the SQL table.
    pub(crate) fn key<'a>(&self, key: &'a [u8]) -> Cow<'a, [u8]> {
        match self.prefix {
            None => Cow::Borrowed(key),
            Some(prefix) => Cow::Owned([&[prefix], key].concat()),
        }
    }

    /// The end of a range as it stands in the SQL table; where it has none, that of the logical table.
    pub(crate) fn end<'a>(&self, end: Option<&'a [u8]>) -> Option<Cow<'a, [u8]>> {
        match (end, self.prefix) {
            (Some(end), _) => Some(self.key(end)),
            (None, Some(prefix)) => Some(Cow::Owned(vec![prefix + 1])),
            (None, None) => None,
        }
    }

    /// The row's key, from one of the SQL table.
    pub(crate) fn strip<'a>(&self, key: &'a [u8]) -> &'a [u8] {
        key.get(usize::from(self.prefix.is_some())..).unwrap_or_default()
    }
}

/// Gives a new database its tables.
pub(crate) fn create(connection: &mut Connection) -> Result<(), StoreError> {
    migrate_from(connection, 0)
}

/// Brings an existing database to [`VERSION`], all steps in one transaction.
///
/// # Errors
/// [`StoreError::TooNew`], and then nothing was changed.
pub(crate) fn migrate(connection: &mut Connection) -> Result<(), StoreError> {
    let found: u32 = connection
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .map_err(|error| from_sqlite(&error, "reading the schema version"))?;
    match found {
        0 => Err(StoreError::Corrupt("the database has no schema".to_owned())),
        VERSION => Ok(()),
        older if older < VERSION => migrate_from(connection, older),
        _ => Err(StoreError::TooNew { found, supported: VERSION }),
    }
}

fn migrate_from(connection: &mut Connection, found: u32) -> Result<(), StoreError> {
    let mut apply = || -> rusqlite::Result<()> {
        let transaction = connection.transaction()?;
        for step in MIGRATIONS.iter().skip(found as usize).copied().flatten() {
            match step {
                Step::Journal => transaction.execute_batch(journal::CREATE)?,
                Step::Table(_, Shared(_)) => transaction.execute_batch(&format!(
                    "CREATE TABLE IF NOT EXISTS t_{SHARED}(k BLOB NOT NULL PRIMARY KEY, v BLOB NOT NULL) WITHOUT ROWID"
                ))?,
                Step::Table(name, Small) => transaction.execute_batch(&format!(
                    "CREATE TABLE t_{name}(k BLOB NOT NULL PRIMARY KEY, v BLOB NOT NULL) WITHOUT ROWID"
                ))?,
                Step::Table(name, Large) => transaction.execute_batch(&format!(
                    "CREATE TABLE t_{name}(k BLOB NOT NULL PRIMARY KEY, v BLOB NOT NULL)"
                ))?,
            }
        }
        transaction.pragma_update(None, "user_version", VERSION)?;
        transaction.commit()
    };
    apply().map_err(|error| from_sqlite(&error, "bringing the schema up to date"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_table_of_the_contract_is_made() {
        let mut connection = Connection::open_in_memory().unwrap();
        create(&mut connection).unwrap();
        let mut query =
            connection.prepare("SELECT name FROM sqlite_schema WHERE type = 'table'").unwrap();
        let made: BTreeSet<String> =
            query.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
        let mut asked: BTreeSet<String> =
            Table::ALL.iter().map(|table| format!("t_{}", Place::of(*table).table)).collect();
        asked.insert("journal".to_owned());
        assert_eq!(made, asked, "a new table is a new migration step");
    }

    #[test]
    fn tables_that_share_one_do_not_meet_in_it() {
        let mut prefixes = BTreeSet::new();
        let mut steps = MIGRATIONS.iter().copied().flatten();
        assert!(steps.all(|step| match step {
            Step::Table(_, Shared(prefix)) => {
                // 0 is the store's own.
                (1..u8::MAX).contains(prefix) && prefixes.insert(*prefix)
            }
            Step::Table(..) | Step::Journal => true,
        }));
        assert!(prefixes.len() > 1);
        let place = Place::of(Table::Queue);
        assert_eq!(place.strip(&place.key(b"key")), b"key");
        assert!(place.end(None).unwrap() > place.key(&[255; 300]));
        for (place, table) in Table::ALL.iter().enumerate() {
            assert_eq!(*table as usize, place, "the order is the tables'");
        }
        let own = Place::of(Table::Event);
        assert_eq!((own.key(b"key").as_ref(), own.end(None)), (b"key".as_slice(), None));
    }

    #[test]
    fn a_newer_schema_is_refused_and_a_missing_one_is_damage() {
        let mut connection = Connection::open_in_memory().unwrap();
        assert!(matches!(migrate(&mut connection), Err(StoreError::Corrupt(_))));
        create(&mut connection).unwrap();
        migrate(&mut connection).unwrap();
        connection.pragma_update(None, "user_version", VERSION + 1).unwrap();
        let error = migrate(&mut connection).unwrap_err();
        assert!(matches!(error, StoreError::TooNew { found, .. } if found == VERSION + 1));
    }
}
