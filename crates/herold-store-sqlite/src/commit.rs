//! Commits and checkpoints.

use std::{path::Path, sync::atomic::Ordering};

use herold_store::{ChangeSet, Changed, Durability, Snapshot, Store, StoreError, Table};
use rusqlite::{CachedStatement, params};

use crate::{
    SqliteStore,
    error::{from_io, from_sqlite},
    journal,
    mark::Demand,
    open::Held,
    rollback::Rollback,
    schema::Place,
    wal,
};

impl Store for SqliteStore {
    fn commit(&mut self, changes: &ChangeSet) -> Result<(), StoreError> {
        let held = self.held.as_mut().ok_or(StoreError::Suspended)?;
        held.usable()?;
        if changes.is_empty() {
            return Ok(());
        }
        // The first commit after the log was emptied goes to the medium, so that a mark can ask for it.
        let full = changes.durability() == Durability::Full || !held.marked;
        held.set_synchronous(full)?;
        held.set_wiping(changes.iter().any(|(table, ..)| !was_sent(table)))?;
        held.log_is_empty = false;
        let guard = self.rollback.as_ref().filter(|_| full);
        let raised = match held.apply(changes, self.options.shared, guard) {
            Ok(applied) => {
                held.journal = applied.entry;
                applied.raised
            }
            Err(error) => {
                held.take_back();
                return Err(error);
            }
        };
        // It is committed: from here on nothing may say otherwise.
        held.journal_is_right = true;
        self.resident.committed(changes);
        if full {
            held.marked = held.demand_log(&self.files.log()).is_ok();
        }
        if let Some(rollback) = &mut self.rollback {
            rollback.committed(full, raised);
        }
        if held.frames.load(Ordering::Relaxed) >= self.options.checkpoint_pages {
            let _ = held.rewind_log();
        }
        Ok(())
    }

    fn snapshot(&self) -> &dyn Snapshot {
        self
    }

    fn suspend(&mut self) -> Result<(), StoreError> {
        self.let_go();
        Ok(())
    }

    fn resume(&mut self) -> Result<Changed, StoreError> {
        self.take_again()
    }

    fn is_suspended(&self) -> bool {
        self.held.is_none()
    }

    fn is_shared(&self) -> bool {
        self.options.shared
    }

    fn is_wanted(&self) -> bool {
        self.held.as_ref().is_some_and(|held| held.lock.is_wanted())
    }
}

/// Whether a table has only what is on its way to the server: who reads it learns no more than the server does. A
/// commit that touches nothing else need not overwrite the pages it frees, which would be as many again as were
/// written.
fn was_sent(table: Table) -> bool {
    matches!(table, Table::Outbox | Table::OutboxBody)
}

impl SqliteStore {
    /// Moves the log's pages into the database and empties the log.
    ///
    /// A commit does much the same when the log has grown to
    /// [`StoreOptions::checkpoint_pages`](crate::StoreOptions::checkpoint_pages), closing does it always.
    ///
    /// # Errors
    /// [`StoreError::Io`] if it could not all be moved; every commit is safe in the log.
    pub fn checkpoint(&mut self) -> Result<(), StoreError> {
        self.held.as_mut().ok_or(StoreError::Suspended)?.empty_log()
    }
}

/// What a commit has written beside its rows.
struct Applied {
    /// The journal's last entry.
    entry: Option<i64>,
    /// What the number of the rollback guard was raised to, if it was.
    raised: Option<u64>,
}

impl Held {
    /// Moves the log's pages into the database and empties the log.
    pub(crate) fn empty_log(&mut self) -> Result<(), StoreError> {
        self.move_log("PRAGMA wal_checkpoint(TRUNCATE)")?;
        self.log_is_empty = true;
        Ok(())
    }

    /// Moves the log's pages into the database and has the next commit write from the log's beginning.
    /// The file keeps its length: a commit that need not lengthen it is on the medium in half the time.
    fn rewind_log(&mut self) -> Result<(), StoreError> {
        self.move_log("PRAGMA wal_checkpoint(RESTART)")
    }

    fn move_log(&mut self, statement: &str) -> Result<(), StoreError> {
        self.usable()?;
        if self.log_is_empty {
            return Ok(());
        }
        // First the mark: a log may be emptied only when nothing asks for it any more.
        self.marked = false;
        self.mark.clear().map_err(|error| from_io(&error, "writing the mark"))?;
        let busy: bool = self
            .connection
            .query_row(statement, [], |row| row.get(0))
            .map_err(|error| from_sqlite(&error, "emptying the log"))?;
        if busy {
            return Err(StoreError::Io("the log is in use".to_owned()));
        }
        self.frames.store(0, Ordering::Relaxed);
        Ok(())
    }

    /// Makes the changes in one transaction, and raises the guard's number with it if it is time to.
    fn apply(
        &mut self,
        changes: &ChangeSet,
        shared: bool,
        guard: Option<&Rollback>,
    ) -> Result<Applied, StoreError> {
        let doing = "committing";
        let run = |sql: &str| -> rusqlite::Result<()> {
            self.connection.prepare_cached(sql)?.execute([]).map(|_| ())
        };
        run("BEGIN IMMEDIATE").map_err(|error| from_sqlite(&error, doing))?;
        #[cfg(test)]
        let mut left = self.fail_after.take();
        // The rows come table by table, so the statements are at hand for most of them.
        let mut at_hand: Option<(&str, CachedStatement<'_>)> = None;
        for (table, key, value) in changes.iter() {
            let place = Place::of(table);
            let key = place.key(key);
            #[cfg(test)]
            tests_fail(&mut left)?;
            let written = match (value, &mut at_hand) {
                (Some(value), Some((of, put))) if *of == place.table => {
                    put.execute(params![key.as_ref(), value])
                }
                (Some(value), _) => self.connection.prepare_cached(&place.put).and_then(|put| {
                    let (_, put) = at_hand.insert((place.table, put));
                    put.execute(params![key.as_ref(), value])
                }),
                (None, _) => self
                    .connection
                    .prepare_cached(&place.delete)
                    .and_then(|mut delete| delete.execute(params![key.as_ref()])),
            };
            written.map_err(|error| from_sqlite(&error, doing))?;
        }
        drop(at_hand);
        #[cfg(test)]
        if left.is_some() {
            tests_fail(&mut Some(0))?;
        }
        let entry = if shared {
            Some(journal::add(&self.connection, self.journal, changes)?)
        } else {
            if !self.journal_is_right {
                journal::clear(&self.connection)?;
            }
            None
        };
        let raised = guard.map_or(Ok(None), |guard| guard.raise_with(&self.connection))?;
        run("COMMIT").map_err(|error| from_sqlite(&error, doing))?;
        Ok(Applied { entry, raised })
    }

    /// Rolls back what a failed commit has left, if SQLite has not done so itself.
    fn take_back(&mut self) {
        if !self.connection.is_autocommit() {
            let _ = self.connection.execute_batch("ROLLBACK");
        }
        self.broken = !self.connection.is_autocommit();
    }

    /// Has the mark ask for the log as it is now.
    pub(crate) fn demand_log(&mut self, log: &Path) -> std::io::Result<()> {
        let salts = wal::salts(log)?.ok_or(std::io::ErrorKind::UnexpectedEof)?;
        self.mark.demand(Demand::new(salts, self.frames.load(Ordering::Relaxed)))
    }

    /// Whether pages that a commit frees are overwritten.
    fn set_wiping(&mut self, wipe: bool) -> Result<(), StoreError> {
        if self.wiping != Some(wipe) {
            self.wiping = None;
            self.connection
                .execute_batch(if wipe {
                    "PRAGMA secure_delete = ON"
                } else {
                    "PRAGMA secure_delete = FAST"
                })
                .map_err(|error| from_sqlite(&error, "preparing a commit"))?;
            self.wiping = Some(wipe);
        }
        Ok(())
    }

    pub(crate) fn set_synchronous(&mut self, full: bool) -> Result<(), StoreError> {
        if self.synchronous != Some(full) {
            self.synchronous = None;
            self.connection
                .execute_batch(if full {
                    "PRAGMA synchronous = FULL"
                } else {
                    "PRAGMA synchronous = NORMAL"
                })
                .map_err(|error| from_sqlite(&error, "preparing a commit"))?;
            self.synchronous = Some(full);
        }
        Ok(())
    }
}

/// Fails as a full disk does when so many rows have been written, or all of them.
#[cfg(test)]
fn tests_fail(left: &mut Option<usize>) -> Result<(), StoreError> {
    match left {
        Some(0) => Err(StoreError::Io("a failure that was asked for".to_owned())),
        Some(rows) => {
            *rows -= 1;
            Ok(())
        }
        None => Ok(()),
    }
}
