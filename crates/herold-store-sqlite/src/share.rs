//! Letting go of the store, and taking it again.

use std::{sync::atomic::Ordering, time::Instant};

use herold_store::{Changed, StoreError};

use crate::{
    SqliteStore, header, journal,
    open::{Held, read_header, take_lock},
    wal::{LogState, Salts},
};

/// A longer log, in pages, is emptied when the store is let go of: whoever takes it next has to read it.
const LONG_LOG: u32 = 256;

/// What the store was like when this process let go of it.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// How often the mark had been written, and the log's filling: every commit changes one or the other.
    state: Option<(u64, Salts, u32)>,
    /// The journal's last entry.
    journal: Option<i64>,
}

impl SqliteStore {
    /// Lets go of every lock. Commits stay in the log as they are.
    pub(crate) fn let_go(&mut self) {
        let Some(mut held) = self.held.take() else { return };
        if held.frames.load(Ordering::Relaxed) > LONG_LOG {
            // If it fails, the log is read.
            let _ = held.empty_log();
        }
        let frames = held.frames.load(Ordering::Relaxed);
        let salts = crate::wal::salts(&self.files.log()).ok().flatten();
        self.seen = Seen {
            state: salts
                .filter(|_| frames > 0 && !held.broken)
                .map(|salts| (held.mark.sequence(), salts, frames)),
            journal: held.journal.filter(|_| !held.broken),
        };
    }

    /// Takes the store again, and finds out what others have changed.
    pub(crate) fn take_again(&mut self) -> Result<Changed, StoreError> {
        if self.held.is_some() {
            return Ok(Changed::nothing());
        }
        let end = Instant::now() + self.options.patience;
        let lock = take_lock(&self.files, &self.options, end)?;
        let key_file = header::identify(&read_header(&self.files)?)?;
        if key_file.database != self.key_file.database {
            // Somebody has re-keyed the store: under the old key only the old database could be written, which is thrown
            // away, or gone by its name. Whoever has the new key finishes what may have been cut short.
            return Err(StoreError::WrongKey);
        }
        if key_file != self.key_file {
            self.files.settle(&key_file.database)?;
        }
        let (held, log) = Held::open(&self.files, lock, &self.data_key, &self.options, end)?;
        if let Some(rollback) = &self.rollback {
            rollback.check(&held.connection)?;
        }
        let changed = self.seen.changed(&held, log.as_ref())?;
        self.resident.changed(&changed, |table, key| held.get(table, key))?;
        self.key_file = key_file;
        self.held = Some(held);
        Ok(changed)
    }
}

impl Seen {
    fn changed(&self, held: &Held, log: Option<&LogState>) -> Result<Changed, StoreError> {
        let now = log.map(|log| (held.mark.sequence(), log.salts, log.frames));
        if self.state.is_some() && self.state == now {
            return Ok(Changed::nothing());
        }
        journal::since(&held.connection, self.journal)
    }
}
