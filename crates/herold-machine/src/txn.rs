//! [`Txn`]: the state a step reads and writes while it runs.
//!
//! Reads see the step's own changes first, then the snapshot. Nothing reaches the store before the
//! step is committed.

use std::collections::BTreeMap;

use herold_crypto::Account;
use herold_store::{
    ChangeSet, Record, RecordKey, Snapshot, SnapshotExt, StoreError,
    records::{AccountRecord, CounterRecord, NameKey, Only},
};

use crate::{AppEvent, Context, MachineError, Notice, Pending, Step, event::AppEventRecord};

/// A step under way.
pub(crate) struct Txn<'a, 'c> {
    snapshot: &'a dyn Snapshot,
    changes: ChangeSet,
    events: Vec<(u64, AppEvent)>,
    account: Option<(AccountRecord, Account)>,
    account_changed: bool,
    /// The time and randomness of the step.
    pub(crate) cx: &'a mut Context<'c>,
}

impl<'a, 'c> Txn<'a, 'c> {
    pub(crate) fn new(snapshot: &'a dyn Snapshot, cx: &'a mut Context<'c>) -> Self {
        Self {
            snapshot,
            changes: ChangeSet::new(),
            events: Vec::new(),
            account: None,
            account_changed: false,
            cx,
        }
    }

    /// Ends the step.
    pub(crate) fn finish<T>(mut self, reply: T) -> Step<Pending, T> {
        if self.account_changed
            && let Some((mut record, account)) = self.account.take()
        {
            record.pickle = account.to_record();
            self.changes.put(&Only, &record);
            self.changes.require_full();
        }
        Step::new(self.changes, reply, self.events)
    }

    /// The step's commit must survive a power loss.
    pub(crate) fn require_full(&mut self) {
        self.changes.require_full();
    }

    pub(crate) fn load<R: Record>(&self, key: &R::Key) -> Result<Option<R>, StoreError> {
        match self.changes.get(R::TABLE, &key.to_bytes()) {
            Some(Some(bytes)) => R::decode(bytes).map(Some),
            Some(None) => Ok(None),
            None => self.snapshot.load(key),
        }
    }

    pub(crate) fn contains<R: Record>(&self, key: &R::Key) -> Result<bool, StoreError> {
        let key = key.to_bytes();
        match self.changes.get(R::TABLE, &key) {
            Some(row) => Ok(row.is_some()),
            None => Ok(self.snapshot.get(R::TABLE, &key)?.is_some()),
        }
    }

    pub(crate) fn put<R: Record>(&mut self, key: &R::Key, record: &R) {
        self.changes.put(key, record);
    }

    pub(crate) fn delete<R: Record>(&mut self, key: &R::Key) {
        self.changes.delete::<R>(key);
    }

    /// All records with `prefix`, the step's own changes included, in key order.
    pub(crate) fn list<R: Record>(&self, prefix: &[u8]) -> Result<Vec<(R::Key, R)>, StoreError> {
        let stored = self.snapshot.list::<R>(prefix, usize::MAX)?;
        let mut touched = self
            .changes
            .rows(R::TABLE)
            .skip_while(|(key, _)| *key < prefix)
            .take_while(|(key, _)| key.starts_with(prefix))
            .peekable();
        if touched.peek().is_none() {
            return Ok(stored);
        }
        let mut merged: BTreeMap<Vec<u8>, (R::Key, R)> =
            stored.into_iter().map(|row| (row.0.to_bytes(), row)).collect();
        for (key, value) in touched {
            match value {
                None => {
                    merged.remove(key);
                }
                Some(value) => {
                    let typed = R::Key::from_bytes(key).map_err(|_| {
                        StoreError::Corrupt(format!("a key of table {}", R::TABLE.name()))
                    })?;
                    merged.insert(key.to_vec(), (typed, R::decode(value)?));
                }
            }
        }
        Ok(merged.into_values().collect())
    }

    /// The account, loaded once a step. [`Txn::change_account`] must be called if it is changed.
    pub(crate) fn account(&mut self) -> Result<&mut (AccountRecord, Account), MachineError> {
        if self.account.is_none() {
            let record: AccountRecord = self.load(&Only)?.ok_or(MachineError::NoAccount)?;
            let account = Account::from_record(record.pickle.as_slice())
                .map_err(|_| StoreError::Corrupt("the account".to_owned()))?;
            self.account = Some((record, account));
        }
        self.account.as_mut().ok_or(MachineError::NoAccount)
    }

    /// The account, to be changed: it is stored when the step ends.
    pub(crate) fn change_account(&mut self) -> Result<&mut Account, MachineError> {
        self.account_changed = true;
        self.account().map(|(_, account)| account)
    }

    /// Puts a new account in place.
    pub(crate) fn set_account(&mut self, record: AccountRecord, account: Account) {
        self.account = Some((record, account));
        self.account_changed = true;
    }

    /// The counter's number, counting it up.
    pub(crate) fn next_number(&mut self, name: &str) -> Result<u64, StoreError> {
        let key = NameKey { name: name.to_owned() };
        let counter: CounterRecord = self.load(&key)?.unwrap_or_default();
        self.put(&key, &CounterRecord { next: counter.next.saturating_add(1) });
        Ok(counter.next)
    }

    /// The counter's number, without counting.
    pub(crate) fn current_number(&self, name: &str) -> Result<u64, StoreError> {
        let key = NameKey { name: name.to_owned() };
        Ok(self.load::<CounterRecord>(&key)?.unwrap_or_default().next)
    }

    /// Gives the app an event.
    pub(crate) fn emit(&mut self, event: AppEvent) -> Result<(), StoreError> {
        let sequence = self.next_number("app_event")?;
        self.put(
            &herold_store::records::SequenceKey { sequence },
            &AppEventRecord { event: event.clone() },
        );
        self.events.push((sequence, event));
        Ok(())
    }

    /// Tells the app that something was dropped or noticed.
    pub(crate) fn notice(&mut self, notice: Notice) -> Result<(), StoreError> {
        tracing::debug!(kind = notice.kind(), "notice");
        self.emit(AppEvent::Notice(notice))
    }

    /// Whether the step has changed nothing so far.
    pub(crate) fn is_empty(&self) -> bool {
        self.changes.is_empty() && !self.account_changed
    }
}
