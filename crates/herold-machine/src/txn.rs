//! [`Txn`]: the state a step reads and writes while it runs.
//!
//! Reads see the step's own changes first, then the snapshot. Nothing reaches the store before the
//! step is committed.

use std::{collections::BTreeMap, ops::ControlFlow, sync::Arc};

use herold_crypto::{Account, IdentityKeys, SecretBytes};
use herold_store::{
    ChangeSet, Record, RecordKey, Snapshot, SnapshotExt, StoreError, Table, prefix_end,
    records::{AccountRecord, BackoffRecord, CounterRecord, NameKey, Only, SequenceKey},
};

use herold_trust::Timestamp;
use ruma::{OwnedDeviceId, OwnedUserId};

use crate::{AppEvent, Context, MachineError, Notice, Pending, Step, event::AppEventRecord};

/// The counter of app events.
const APP_EVENT: &str = "app_event";
/// Where the reserve of their numbers ends.
const RESERVED: &str = "app_event_reserved";
/// As many numbers are reserved at once, fully synchronously: a power loss makes a gap, and never a number
/// that the app has seen already.
const NUMBERS: u64 = 1024;
/// As many events share a row at most.
const EVENTS_PER_ROW: usize = 64;

/// Who this device is: what never changes about an account.
#[derive(Debug)]
pub(crate) struct OwnDevice {
    pub(crate) user_id: OwnedUserId,
    pub(crate) device_id: OwnedDeviceId,
    pub(crate) keys: IdentityKeys,
    /// The signed `device_keys` object, as JSON text.
    pub(crate) signed_keys: String,
}

/// [`OwnDevice`], shared.
pub(crate) type Own = Arc<OwnDevice>;

impl From<&AccountRecord> for OwnDevice {
    fn from(record: &AccountRecord) -> Self {
        Self {
            user_id: record.user_id.clone(),
            device_id: record.device_id.clone(),
            keys: record.keys,
            signed_keys: record.signed_keys.clone(),
        }
    }
}

/// What is at hand for the next step.
#[derive(Default)]
pub(crate) struct Left {
    pub(crate) account: Option<LiveAccount>,
    pub(crate) first_number: Option<u64>,
}

/// The live account, with the record it is the same as: it counts only while that is the one stored. An account that
/// went back would give one-time keys out twice.
pub(crate) struct LiveAccount {
    record: SecretBytes,
    account: Account,
}

/// A record with its key.
pub(crate) type Row<R> = (<R as Record>::Key, R);

/// A step under way.
pub(crate) struct Txn<'a, 'c> {
    snapshot: &'a dyn Snapshot,
    changes: ChangeSet,
    events: Vec<(u64, AppEvent)>,
    /// The first number this process may give: where the reserve ended when it first looked.
    first_number: Option<u64>,
    own: Own,
    /// The account as an earlier step has left it, not yet compared with what is stored.
    kept: Option<LiveAccount>,
    account: Option<LiveAccount>,
    account_changed: bool,
    /// Keys of a table of which the snapshot has none: from the first up to but without the second.
    absent: Option<(Table, Vec<u8>, Vec<u8>)>,
    /// The time and randomness of the step.
    pub(crate) cx: &'a mut Context<'c>,
}

impl<'a, 'c> Txn<'a, 'c> {
    /// A step of the device `own`; `account` is its account if that is at hand.
    pub(crate) fn new(
        snapshot: &'a dyn Snapshot,
        cx: &'a mut Context<'c>,
        own: Own,
        left: Left,
    ) -> Self {
        Self {
            snapshot,
            changes: ChangeSet::new(),
            events: Vec::new(),
            own,
            kept: left.account,
            account: None,
            first_number: left.first_number,
            account_changed: false,
            absent: None,
            cx,
        }
    }

    /// Ends the step. The account comes back, to be at hand for the next one.
    pub(crate) fn finish<T>(mut self, reply: T) -> Result<(Step<Pending, T>, Left), MachineError> {
        if self.account_changed
            && let Some(mut live) = self.account.take()
        {
            let mut record: AccountRecord = self.load(&Only)?.ok_or(MachineError::NoAccount)?;
            record.pickle = live.account.to_record();
            live.record = record.pickle.clone();
            self.changes.put(&Only, &record);
            self.changes.require_full();
            self.account = Some(live);
        }
        self.store_events()?;
        let left = Left { account: self.account.or(self.kept), first_number: self.first_number };
        Ok((Step::new(self.changes, reply, self.events), left))
    }

    /// This device.
    pub(crate) fn own(&self) -> Own {
        Own::clone(&self.own)
    }

    /// The state before this step.
    pub(crate) fn snapshot(&self) -> &'a dyn Snapshot {
        self.snapshot
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

    /// As [`Txn::put`], unless the row says the same already: a step that changes nothing is how the
    /// machine says that it is quiet.
    pub(crate) fn put_changed<R: Record>(
        &mut self,
        key: &R::Key,
        record: &R,
    ) -> Result<(), StoreError> {
        let bytes = key.to_bytes();
        let same = match self.changes.get(R::TABLE, &bytes) {
            Some(row) => row.is_some_and(|row| row == record.encode()),
            None => self.snapshot.get(R::TABLE, &bytes)?.is_some_and(|row| row == record.encode()),
        };
        if !same {
            self.changes.put(key, record);
        }
        Ok(())
    }

    pub(crate) fn delete<R: Record>(&mut self, key: &R::Key) {
        self.changes.delete::<R>(key);
    }

    /// All records with `prefix`, the step's own changes included, in key order.
    pub(crate) fn list<R: Record>(&self, prefix: &[u8]) -> Result<Vec<Row<R>>, StoreError> {
        let absent = self.absent.as_ref().is_some_and(|(table, from, end)| {
            *table == R::TABLE
                && **from <= *prefix
                && prefix_end(prefix).is_some_and(|to| to <= *end)
        });
        let stored =
            if absent { Vec::new() } else { self.snapshot.list::<R>(prefix, usize::MAX)? };
        self.merge(stored, prefix)
    }

    /// Looks at once whether the snapshot has anything of a table from `first` up to and with all that begins with `last`. If not,
    /// [`Txn::list`] need not look for any of it: for who is about to list many prefixes that lie together.
    pub(crate) fn look_ahead<R: Record>(
        &mut self,
        first: &[u8],
        last: &[u8],
    ) -> Result<(), StoreError> {
        let Some(end) = prefix_end(last) else { return Ok(()) };
        let mut absent = true;
        self.snapshot.scan(R::TABLE, &[], Some(first), &mut |key, _| {
            absent = *key >= *end;
            ControlFlow::Break(())
        })?;
        self.absent = absent.then(|| (R::TABLE, first.to_vec(), end));
        Ok(())
    }

    /// Whether a table surely has no rows. Costs next to nothing for the tables that stores keep at hand.
    pub(crate) fn is_empty<R: Record>(&self) -> Result<bool, StoreError> {
        let mut empty = self.changes.rows(R::TABLE).next().is_none();
        if empty {
            self.snapshot.scan(R::TABLE, &[], None, &mut |_, _| {
                empty = false;
                ControlFlow::Break(())
            })?;
        }
        Ok(empty)
    }

    /// The whole table, if it had `limit` rows at most before this step: for who is about to look at many of them.
    /// A row of a scan costs a fraction of one that is looked up.
    pub(crate) fn whole<R: Record>(&self, limit: usize) -> Result<Option<Vec<Row<R>>>, StoreError> {
        let stored = self.snapshot.list::<R>(&[], limit.saturating_add(1))?;
        if stored.len() > limit {
            return Ok(None);
        }
        self.merge(stored, &[]).map(Some)
    }

    /// Rows of the snapshot with `prefix`, as this step has changed them.
    fn merge<R: Record>(
        &self,
        stored: Vec<Row<R>>,
        prefix: &[u8],
    ) -> Result<Vec<Row<R>>, StoreError> {
        let mut touched = self
            .changes
            .rows_from(R::TABLE, prefix)
            .take_while(|(key, _)| key.starts_with(prefix))
            .peekable();
        if touched.peek().is_none() {
            return Ok(stored);
        }
        let mut merged: BTreeMap<Vec<u8>, Row<R>> =
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

    /// The first records of a table, the step's own changes included, in key order.
    pub(crate) fn list_first<R: Record>(
        &self,
        limit: usize,
    ) -> Result<Vec<(R::Key, R)>, StoreError> {
        if self.changes.rows(R::TABLE).next().is_none() {
            return self.snapshot.list::<R>(&[], limit);
        }
        let mut all = self.list::<R>(&[])?;
        all.truncate(limit);
        Ok(all)
    }

    /// The account, loaded if it is not at hand. It is costly to load: who only wants to know who this
    /// device is asks [`Txn::own`].
    pub(crate) fn account(&mut self) -> Result<&mut Account, MachineError> {
        if self.account.is_none() {
            let record: AccountRecord = self.load(&Only)?.ok_or(MachineError::NoAccount)?;
            let same = |kept: &LiveAccount| kept.record.as_slice() == record.pickle.as_slice();
            let live = match self.kept.take().filter(same) {
                Some(kept) => kept,
                None => LiveAccount {
                    account: Account::from_record(record.pickle.as_slice())
                        .map_err(|_| StoreError::Corrupt("the account".to_owned()))?,
                    record: record.pickle,
                },
            };
            self.account = Some(live);
        }
        self.account.as_mut().map(|live| &mut live.account).ok_or(MachineError::NoAccount)
    }

    /// The account, to be changed: it is stored when the step ends.
    pub(crate) fn change_account(&mut self) -> Result<&mut Account, MachineError> {
        self.account_changed = true;
        self.account()
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

    /// Counts a failure of the request called `name`, and says when to make it again.
    pub(crate) fn failed(
        &mut self,
        name: &str,
        retry_after: Option<u64>,
    ) -> Result<Timestamp, StoreError> {
        let key = NameKey { name: name.to_owned() };
        let known: BackoffRecord = self.load(&key)?.unwrap_or_default();
        let failures = known.failures.saturating_add(1);
        let retry_at = self.cx.retry_at(failures, retry_after);
        self.put(&key, &BackoffRecord { failures, retry_at });
        Ok(retry_at)
    }

    /// The request called `name` was answered: its failures are forgotten.
    pub(crate) fn answered(&mut self, name: &str) -> Result<(), StoreError> {
        let key = NameKey { name: name.to_owned() };
        if self.contains::<BackoffRecord>(&key)? {
            self.delete::<BackoffRecord>(&key);
        }
        Ok(())
    }

    /// Gives the app an event.
    pub(crate) fn emit(&mut self, event: AppEvent) -> Result<(), StoreError> {
        let sequence = match self.events.last() {
            Some((last, _)) => last.saturating_add(1),
            None => {
                let first = match self.first_number {
                    Some(first) => first,
                    None => self.current_number(RESERVED)?,
                };
                self.first_number = Some(first);
                first.max(self.current_number(APP_EVENT)?)
            }
        };
        self.events.push((sequence, event));
        Ok(())
    }

    /// Stores the events given so far.
    fn store_events(&mut self) -> Result<(), StoreError> {
        let Some((last, _)) = self.events.last() else { return Ok(()) };
        let last = *last;
        let next = last.saturating_add(1);
        self.put(&NameKey { name: APP_EVENT.to_owned() }, &CounterRecord { next });
        if last >= self.current_number(RESERVED)? {
            let next = last.saturating_add(NUMBERS);
            self.put(&NameKey { name: RESERVED.to_owned() }, &CounterRecord { next });
            self.require_full();
        }
        let rows: Vec<(SequenceKey, AppEventRecord)> = self
            .events
            .chunks(EVENTS_PER_ROW)
            .filter_map(|chunk| {
                let events = chunk.iter().map(|(_, event)| event.clone()).collect();
                Some((SequenceKey { sequence: chunk.first()?.0 }, AppEventRecord { events }))
            })
            .collect();
        for (key, record) in rows {
            self.put(&key, &record);
        }
        Ok(())
    }

    /// Tells the app that something was dropped or noticed.
    pub(crate) fn notice(&mut self, notice: Notice) -> Result<(), StoreError> {
        tracing::debug!(kind = notice.kind(), "notice");
        self.emit(AppEvent::Notice(notice))
    }
}
