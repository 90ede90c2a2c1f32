//! [`Snapshot`] (reads), [`Store`] (commits) and what can go wrong with either.

use std::ops::ControlFlow;

use zeroize::Zeroizing;

use crate::{ChangeSet, Changed, Record, RecordKey, Table};

/// What a [`Snapshot::scan`] callback answers: go on, or stop here.
pub type ScanControl = ControlFlow<()>;

/// Why a store could not do what was asked.
///
/// The variants are named after what a host should do about them.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// There is no store at this place. Make one, on purpose.
    #[error("there is no store here")]
    NotFound,
    /// A store was to be made where there is one already. Open it; nothing was changed.
    #[error("there is a store here already")]
    Exists,
    /// The key or passphrase does not open this store. Ask for the right one; nothing was changed.
    #[error("the store key is wrong")]
    WrongKey,
    /// The store is damaged: a row, a page or the file cannot be read. Never treated as an empty store.
    #[error("the store is damaged: {0}")]
    Corrupt(String),
    /// Another process holds the store.
    #[error("the store is locked by {holder}")]
    Locked {
        /// What the holder calls itself (a process id and a label; no secret).
        holder: String,
    },
    /// The store was let go by [`Store::suspend`]: resume it. Nothing was read or changed.
    #[error("the store is suspended")]
    Suspended,
    /// The store is older than the host's secure hardware knows: somebody has put it back to an earlier
    /// state. Going on with it would use ratchets a second time; log in anew, as another device.
    #[error("the store was put back to an earlier state: it says {found}, the host knows {sealed}")]
    RolledBack {
        /// The counter in the store.
        found: u64,
        /// The counter that the host has kept.
        sealed: u64,
    },
    /// The store was written by a newer version than this one.
    #[error("the store has version {found}, newer than the {supported} supported here")]
    TooNew {
        /// The version found in the file.
        found: u32,
        /// The newest version this code reads.
        supported: u32,
    },
    /// The medium failed (disk full, I/O error). The commit was not applied; trying again is allowed.
    #[error("the store's medium failed: {0}")]
    Io(String),
}

/// A consistent view of a store's committed state. Reads are synchronous and cheap.
pub trait Snapshot {
    /// The value at `key`, or `None` if there is none.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] or [`StoreError::Io`] if it cannot be read, which is not absence.
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// Calls `visit` with each (key, value) whose key starts with `prefix`, in ascending order of the
    /// key bytes, from `from` (inclusive, a whole key) if given, until it answers
    /// [`ControlFlow::Break`].
    ///
    /// # Errors
    /// As [`Snapshot::get`].
    fn scan(
        &self,
        table: Table,
        prefix: &[u8],
        from: Option<&[u8]>,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ScanControl,
    ) -> Result<(), StoreError>;

    /// As [`Snapshot::scan`], in descending order, from the last key with `prefix` that is lower than
    /// `before` (exclusive) if given.
    ///
    /// # Errors
    /// As [`Snapshot::get`].
    fn scan_back(
        &self,
        table: Table,
        prefix: &[u8],
        before: Option<&[u8]>,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ScanControl,
    ) -> Result<(), StoreError>;
}

/// Typed reads over any [`Snapshot`].
pub trait SnapshotExt: Snapshot {
    /// The record at `key`.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] if the row is there but does not decode.
    fn load<R: Record>(&self, key: &R::Key) -> Result<Option<R>, StoreError> {
        match self.get(R::TABLE, &key.to_bytes())? {
            None => Ok(None),
            Some(bytes) => R::decode(&Zeroizing::new(bytes)).map(Some),
        }
    }

    /// Whether there is a record at `key`.
    ///
    /// # Errors
    /// As [`Snapshot::get`].
    fn contains<R: Record>(&self, key: &R::Key) -> Result<bool, StoreError> {
        Ok(self.get(R::TABLE, &key.to_bytes())?.is_some())
    }

    /// All records whose key starts with `prefix` (made by a `prefix` function of the key type), in
    /// key order, `limit` at most.
    ///
    /// # Errors
    /// The first key or row that does not decode is [`StoreError::Corrupt`].
    fn list<R: Record>(&self, prefix: &[u8], limit: usize) -> Result<Vec<(R::Key, R)>, StoreError> {
        self.list_after::<R>(prefix, None, limit)
    }

    /// As [`SnapshotExt::list`], from the key behind `after` on: the next page.
    ///
    /// # Errors
    /// As [`SnapshotExt::list`].
    fn list_after<R: Record>(
        &self,
        prefix: &[u8],
        after: Option<&R::Key>,
        limit: usize,
    ) -> Result<Vec<(R::Key, R)>, StoreError> {
        // The first key behind another is that one with a zero byte.
        let from = after.map(|after| [after.to_bytes().as_slice(), &[0]].concat());
        collect::<R>(limit, |visit| self.scan(R::TABLE, prefix, from.as_deref(), visit))
    }

    /// The last `limit` records with `prefix` and a key below `before`, newest key first.
    ///
    /// # Errors
    /// As [`SnapshotExt::list`].
    fn list_back<R: Record>(
        &self,
        prefix: &[u8],
        before: Option<&R::Key>,
        limit: usize,
    ) -> Result<Vec<(R::Key, R)>, StoreError> {
        let before = before.map(RecordKey::to_bytes);
        collect::<R>(limit, |visit| self.scan_back(R::TABLE, prefix, before.as_deref(), visit))
    }
}

impl<S: Snapshot + ?Sized> SnapshotExt for S {}

/// The typed rows of a scan, `limit` at most; the first that does not decode ends it as an error.
fn collect<R: Record>(
    limit: usize,
    scan: impl FnOnce(&mut dyn FnMut(&[u8], &[u8]) -> ScanControl) -> Result<(), StoreError>,
) -> Result<Vec<(R::Key, R)>, StoreError> {
    let mut rows = Vec::new();
    let mut failed = None;
    scan(&mut |key, value| {
        if rows.len() >= limit {
            return ControlFlow::Break(());
        }
        match decode_row::<R>(key, value) {
            Ok(row) => {
                rows.push(row);
                ControlFlow::Continue(())
            }
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        }
    })?;
    failed.map_or(Ok(rows), Err)
}

fn decode_row<R: Record>(key: &[u8], value: &[u8]) -> Result<(R::Key, R), StoreError> {
    let key = R::Key::from_bytes(key)
        .map_err(|_| StoreError::Corrupt(format!("a key of table {}", R::TABLE.name())))?;
    Ok((key, R::decode(value)?))
}

/// A place where change sets are committed.
pub trait Store: Snapshot {
    /// Applies all of `changes`, in order, in one transaction.
    ///
    /// # Errors
    /// On any error nothing was applied.
    fn commit(&mut self, changes: &ChangeSet) -> Result<(), StoreError>;

    /// The store as a snapshot of its committed state.
    fn snapshot(&self) -> &dyn Snapshot;

    /// Lets go of the store, so that another process can have it: afterwards no lock of a file is held. Reads and
    /// commits are [`StoreError::Suspended`] until [`Store::resume`]. Doing it again is no error. A store that no
    /// other process can open has nothing to let go of, and goes on as it is.
    ///
    /// # Errors
    /// None that would leave a lock.
    fn suspend(&mut self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Takes the store again, and tells what others have changed meanwhile; nothing if it was not let go. Whoever keeps
    /// anything made from rows has to drop what that names.
    ///
    /// # Errors
    /// [`StoreError::Locked`] if another process does not let go of it in time; else as for opening. The store
    /// is still suspended then, and what others have changed will be told by the next call that succeeds.
    fn resume(&mut self) -> Result<Changed, StoreError> {
        Ok(Changed::nothing())
    }

    /// Whether the store has been let go of.
    fn is_suspended(&self) -> bool {
        false
    }

    /// Whether it is shared: to be let go of whenever there is nothing to do for a while.
    fn is_shared(&self) -> bool {
        false
    }

    /// Whether another process waits for it now.
    fn is_wanted(&self) -> bool {
        false
    }
}
