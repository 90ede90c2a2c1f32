//! [`Health`]: a device in figures, for whoever has to find out from afar what is wrong with it.
//!
//! It has counts, ages and states, and nothing that says who or what: no id of a user, a device, a room, an event or a
//! session, no key, no token, no text that somebody else has written.

use std::{collections::BTreeMap, ops::ControlFlow};

use herold_store::{
    Record, Snapshot, SnapshotExt, StoreError,
    records::{
        AccountRecord, BackoffRecord, BackupRecord, BlockedRecord, ClaimRecord, Decryption,
        DeviceRecord, EventKey, EventRecord, IdentityRecord, InboundSessionRecord,
        KeyRequestRecord, KeyRequestState, KeyUploadRecord, NameKey, OlmSessionKey,
        OlmSessionRecord, Only, OutboundSessionRecord, OutboxRecord, OutdatedUserRecord,
        QueueRecord, QueueState, RetiredSessionRecord, SlidingSyncRecord, SyncRecord,
        TrackedUserRecord, WaitingKey, WaitingRecord,
    },
};
use herold_trust::{IdentityState, KeySource, Timestamp};
use serde::Serialize;

use crate::{MachineError, Utd, event::AppEventRecord};

/// What requests that are put off are for: how the names of their records begin.
const KINDS: [&str; 8] = [
    "history",
    "keys/claim",
    "keys/query",
    "keys/upload",
    "members",
    "room_keys/keys",
    "room_keys/version",
    "signatures",
];

/// How many there are of each kind.
type Counts = BTreeMap<&'static str, u64>;

/// A device in figures. Ages and waits are in seconds. It names nobody and nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Health {
    /// Since the device was made.
    pub age: u64,
    /// Synchronisation.
    pub sync: SyncHealth,
    /// The device's own keys on the server.
    pub own_keys: OwnKeysHealth,
    /// Room keys received.
    pub room_keys: RoomKeysHealth,
    /// Room keys sent.
    pub sending: SendingHealth,
    /// Channels to other devices.
    pub olm: OlmHealth,
    /// Device lists.
    pub devices: DevicesHealth,
    /// Cross-signing identities known, by how they stand to what was known before.
    pub identities: Counts,
    /// The key backup: whether there is one, and is used.
    pub backup: &'static str,
    /// Events that cannot be decrypted and wait for a key, by the reason.
    pub undecryptable: Counts,
    /// Room keys asked of own devices, by what came of it.
    pub key_requests: Counts,
    /// The send queue.
    pub queue: QueueHealth,
    /// Requests that have failed and wait, by what they are for.
    pub waiting_requests: BTreeMap<&'static str, Wait>,
    /// Rows of events that the app has not acknowledged.
    pub unacknowledged: u64,
}

/// Synchronisation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SyncHealth {
    /// Simplified sliding sync is used.
    pub sliding: bool,
    /// There is a position to go on from.
    pub has_position: bool,
}

/// The device's own keys on the server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct OwnKeysHealth {
    /// The device keys are published.
    pub published: bool,
    /// One-time keys on the server, as it said last.
    pub one_time_keys: Option<u64>,
    /// There are keys to be uploaded.
    pub unpublished: bool,
    /// The fallback key was used and is to be replaced.
    pub fallback_used: bool,
    /// The fallback key's age.
    pub fallback_age: Option<u64>,
    /// Since the last upload.
    pub since_upload: Option<u64>,
}

/// Room keys received.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RoomKeysHealth {
    /// By where they came from.
    pub by_source: Counts,
    /// Those that do not begin at their session's first message.
    pub partial: u64,
    /// The age of the oldest.
    pub oldest: Option<u64>,
    /// The age of the newest.
    pub newest: Option<u64>,
}

/// Room keys sent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SendingHealth {
    /// Sessions in use.
    pub sessions: u64,
    /// Of these, those that some device lacks and is to be given.
    pub retrying: u64,
    /// Users whose device lists could not be had when something was sent.
    pub unseen_users: u64,
    /// Sessions replaced and kept for late devices.
    pub retired: u64,
    /// Of these, those that some device still lacks.
    pub owed: u64,
    /// The age of the oldest session in use.
    pub oldest: Option<u64>,
    /// To-device requests to be made.
    pub requests: u64,
    /// The most times that one of them has failed.
    pub most_failures: u32,
}

/// Channels to other devices.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct OlmHealth {
    /// Olm sessions.
    pub sessions: u64,
    /// Devices they are with.
    pub devices: u64,
    /// The most sessions with one device.
    pub most: u64,
    /// Devices whose one-time keys could not be had.
    pub unclaimed: u64,
    /// The most times that this has failed.
    pub most_failures: u32,
}

/// Device lists.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DevicesHealth {
    /// Users whose lists are tracked.
    pub tracked: u64,
    /// Of these, those whose list is outdated.
    pub outdated: u64,
    /// For how long one has been outdated.
    pub longest_outdated: Option<u64>,
    /// The most times that asking for one has failed.
    pub most_failures: u32,
    /// Devices known.
    pub devices: u64,
    /// Devices blocked.
    pub blocked: u64,
}

/// The send queue.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct QueueHealth {
    /// By state.
    pub by_state: Counts,
    /// The age of the oldest item that was not refused.
    pub oldest: Option<u64>,
}

/// A request that has failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Wait {
    /// As many such requests wait.
    pub count: u64,
    /// The most times that one of them has failed.
    pub failures: u32,
    /// Until the last of them is made again.
    pub seconds: u64,
}

/// Looks at every row once; what it holds at a time is one.
struct Look<'a> {
    snapshot: &'a dyn Snapshot,
    now: Timestamp,
}

/// Takes a device's figures. Reads most of the store.
pub(crate) fn look(snapshot: &dyn Snapshot, now: Timestamp) -> Result<Health, MachineError> {
    let look = Look { snapshot, now };
    let account: Option<AccountRecord> = snapshot.load(&Only)?;
    Ok(Health {
        age: account.map_or(0, |account| look.since(account.created_at)),
        sync: look.sync()?,
        own_keys: look.own_keys()?,
        room_keys: look.room_keys()?,
        sending: look.sending()?,
        olm: look.olm()?,
        devices: look.devices()?,
        identities: look.identities()?,
        backup: look.backup()?,
        undecryptable: look.undecryptable()?,
        key_requests: look.key_requests()?,
        queue: look.queue()?,
        waiting_requests: look.waiting_requests()?,
        unacknowledged: look.count::<AppEventRecord>()?,
    })
}

impl Look<'_> {
    fn since(&self, then: Timestamp) -> u64 {
        self.now.saturating_since(then).as_secs()
    }

    /// Visits every row, a page at a time.
    fn each<R: Record>(&self, mut visit: impl FnMut(R::Key, R)) -> Result<(), StoreError> {
        const PAGE: usize = 500;
        let mut after: Option<R::Key> = None;
        loop {
            let rows = self.snapshot.list_after::<R>(&[], after.as_ref(), PAGE)?;
            let Some((last, _)) = rows.last() else { return Ok(()) };
            after = Some(last.clone());
            rows.into_iter().for_each(|(key, record)| visit(key, record));
        }
    }

    fn count<R: Record>(&self) -> Result<u64, StoreError> {
        let mut count = 0;
        self.snapshot.scan(R::TABLE, &[], None, &mut |_, _| {
            count += 1;
            ControlFlow::Continue(())
        })?;
        Ok(count)
    }

    fn sync(&self) -> Result<SyncHealth, StoreError> {
        let v2: SyncRecord = self.snapshot.load(&Only)?.unwrap_or_default();
        let sliding: SlidingSyncRecord = self.snapshot.load(&Only)?.unwrap_or_default();
        let has_position =
            if sliding.chosen { sliding.pos.is_some() } else { v2.next_batch.is_some() };
        Ok(SyncHealth { sliding: sliding.chosen, has_position })
    }

    fn own_keys(&self) -> Result<OwnKeysHealth, StoreError> {
        let keys: KeyUploadRecord = self.snapshot.load(&Only)?.unwrap_or_default();
        Ok(OwnKeysHealth {
            published: keys.device_keys_published,
            one_time_keys: keys.server_one_time_keys,
            unpublished: keys.unpublished_keys,
            fallback_used: keys.fallback_used,
            fallback_age: keys.fallback_created_at.map(|then| self.since(then)),
            since_upload: keys.uploaded_at.map(|then| self.since(then)),
        })
    }

    fn room_keys(&self) -> Result<RoomKeysHealth, StoreError> {
        let mut keys = RoomKeysHealth::default();
        self.each(|_, record: InboundSessionRecord| {
            *keys.by_source.entry(source_name(record.source)).or_default() += 1;
            keys.partial += u64::from(record.first_known_index > 0);
            let age = self.since(record.received_at);
            keys.oldest = Some(keys.oldest.map_or(age, |oldest| oldest.max(age)));
            keys.newest = Some(keys.newest.map_or(age, |newest| newest.min(age)));
        })?;
        Ok(keys)
    }

    fn sending(&self) -> Result<SendingHealth, StoreError> {
        let mut sending = SendingHealth::default();
        self.each(|_, record: OutboundSessionRecord| {
            sending.sessions += 1;
            sending.retrying += u64::from(record.retry_at.is_some());
            sending.unseen_users += record.unseen.len() as u64;
            sending.oldest = sending.oldest.max(Some(self.since(record.created_at)));
        })?;
        self.each(|_, record: RetiredSessionRecord| {
            sending.retired += 1;
            sending.owed += u64::from(record.owed);
        })?;
        self.each(|_, record: OutboxRecord| {
            sending.requests += 1;
            sending.most_failures = sending.most_failures.max(record.failures);
        })?;
        Ok(sending)
    }

    fn olm(&self) -> Result<OlmHealth, StoreError> {
        let mut olm = OlmHealth::default();
        let mut with: BTreeMap<[u8; 32], u64> = BTreeMap::new();
        self.each(|key: OlmSessionKey, _: OlmSessionRecord| {
            *with.entry(key.sender_key.to_bytes()).or_default() += 1;
        })?;
        olm.sessions = with.values().sum();
        olm.devices = with.len() as u64;
        olm.most = with.values().copied().max().unwrap_or(0);
        self.each(|_, record: ClaimRecord| {
            olm.unclaimed += u64::from(record.failures > 0);
            olm.most_failures = olm.most_failures.max(record.failures);
        })?;
        Ok(olm)
    }

    fn devices(&self) -> Result<DevicesHealth, StoreError> {
        let mut devices = DevicesHealth::default();
        self.each(|_, record: TrackedUserRecord| {
            devices.tracked += 1;
            devices.most_failures = devices.most_failures.max(record.failures);
            let outdated = record.outdated_since.map(|then| self.since(then));
            devices.longest_outdated = devices.longest_outdated.max(outdated);
        })?;
        devices.outdated = self.count::<OutdatedUserRecord>()?;
        devices.devices = self.count::<DeviceRecord>()?;
        devices.blocked = self.count::<BlockedRecord>()?;
        Ok(devices)
    }

    fn identities(&self) -> Result<Counts, StoreError> {
        let mut counts = Counts::new();
        self.each(|_, record: IdentityRecord| {
            let state = match record.identity.state() {
                IdentityState::Pinned => "pinned",
                IdentityState::PinViolation => "pin_violation",
                IdentityState::Verified => "verified",
                IdentityState::VerificationViolation => "verification_violation",
            };
            *counts.entry(state).or_default() += 1;
        })?;
        Ok(counts)
    }

    fn backup(&self) -> Result<&'static str, StoreError> {
        Ok(match self.snapshot.load(&Only)? {
            None | Some(BackupRecord::Unknown) => "unknown",
            Some(BackupRecord::Absent) => "absent",
            Some(BackupRecord::Untrusted { .. }) => "untrusted",
            Some(BackupRecord::Enabled { .. }) => "enabled",
        })
    }

    fn undecryptable(&self) -> Result<Counts, StoreError> {
        let mut waiting = Vec::new();
        self.each(|key: WaitingKey, _: WaitingRecord| {
            waiting.push(EventKey { room_id: key.room_id, event_id: key.event_id });
        })?;
        let mut counts = Counts::new();
        for key in waiting {
            let event: Option<EventRecord> = self.snapshot.load(&key)?;
            if let Some(Decryption::Undecryptable { reason, .. }) =
                event.map(|event| event.decryption)
            {
                *counts.entry(reason_name(&Utd::parse(&reason))).or_default() += 1;
            }
        }
        Ok(counts)
    }

    fn key_requests(&self) -> Result<Counts, StoreError> {
        let mut counts = Counts::new();
        self.each(|_, record: KeyRequestRecord| {
            let state = match record.state {
                KeyRequestState::Noted(_) => "noted",
                KeyRequestState::Asked(_) => "asked",
                KeyRequestState::Done => "done",
            };
            *counts.entry(state).or_default() += 1;
        })?;
        Ok(counts)
    }

    fn queue(&self) -> Result<QueueHealth, StoreError> {
        let mut queue = QueueHealth::default();
        self.each(|_, record: QueueRecord| {
            let state = match record.state {
                QueueState::Queued => "queued",
                QueueState::Ready { .. } => "ready",
                QueueState::Failed { .. } => "failed",
            };
            *queue.by_state.entry(state).or_default() += 1;
            if state != "failed" {
                queue.oldest = queue.oldest.max(Some(self.since(record.queued_at)));
            }
        })?;
        Ok(queue)
    }

    fn waiting_requests(&self) -> Result<BTreeMap<&'static str, Wait>, StoreError> {
        let mut waits: BTreeMap<&'static str, Wait> = BTreeMap::new();
        self.each(|key: NameKey, record: BackoffRecord| {
            // What follows may be a room's or a server's name.
            let kind = KINDS.into_iter().find(|kind| key.name.starts_with(kind));
            let wait = waits.entry(kind.unwrap_or("other")).or_default();
            wait.count += 1;
            wait.failures = wait.failures.max(record.failures);
            wait.seconds = wait.seconds.max(record.retry_at.saturating_since(self.now).as_secs());
        })?;
        Ok(waits)
    }
}

fn source_name(source: KeySource) -> &'static str {
    match source {
        KeySource::Olm => "olm",
        KeySource::Forwarded => "forwarded",
        KeySource::Imported => "imported",
        KeySource::Backup => "backup",
        KeySource::SharedHistory => "shared_history",
    }
}

/// A reason without what somebody else has put into it.
fn reason_name(reason: &Utd) -> &'static str {
    match reason {
        Utd::MissingKey => "missing_key",
        Utd::NotMemberThen => "not_member_then",
        Utd::IndexTooEarly => "index_too_early",
        Utd::Withheld(_) => "withheld",
        Utd::SenderUntrusted => "sender_untrusted",
        Utd::Replay => "replay",
        Utd::RoomMismatch => "room_mismatch",
        Utd::BadCiphertext => "bad_ciphertext",
        Utd::UnsupportedAlgorithm => "unsupported_algorithm",
    }
}
