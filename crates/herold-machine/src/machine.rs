//! [`Machine`]: the inputs, commands and getters. What they do is in the modules beside this one.

use std::sync::Arc;

use herold_crypto::{
    BackupDecryptionKey, EncryptedFile, ExportedSession, IdentityKeys, SecretBytes, SecretString,
};
use herold_store::{
    Changed, Snapshot, SnapshotExt, StoreError, Table,
    records::{
        AccountRecord, BlockedRecord, DeviceKey, DeviceRecord, EventKey, EventRecord,
        IdentityRecord, InboundSessionKey, LoginRecord, MemberKey, MemberRecord, Membership,
        NameKey, Only, OutboundSessionRecord, OutdatedUserRecord, PolicyRecord, QueueRecord,
        RoomKey, RoomRecord, SecretRecord, SequenceKey, TimelineKey, TimelineRecord,
        TrackedUserRecord, UserKey, VerifiedDeviceRecord,
    },
};
use herold_trust::{
    DecryptTrust, Device, Identity, IdentityState, KeySource, Methods, Policy, PolicyFloor,
    Recipients, Timestamp, is_cross_signed,
};
use ruma::{
    DeviceId, EventId, OwnedDeviceId, OwnedEventId, OwnedRoomId, OwnedTransactionId, OwnedUserId,
    RoomId, TransactionId, UserId,
};
use serde_json::Value;

use crate::{
    Answer, AppEvent, AppEventRecord, BackupStatus, Context, Forgotten, HistoryBundle, HttpRequest,
    Imported, MachineError, Outgoing, Pending, RestoredKey, Retention, RetentionCursor, RoomEvent,
    Step, SyncMode, SyncReport, ToDeviceRecipient, VerificationAction, VerificationView, Workers,
    account, ahead, app_to_device, devices, history, history_import, history_share,
    hot::Hot,
    key_backup, olm, outgoing, own_identity, queue,
    request::RequestKind,
    retention, rooms, secrets, sliding, sync,
    sync::SyncPosition,
    timeline,
    timeline::Origin,
    txn::{Left, Own, Txn},
    verification, view, wire,
};

/// As many rows of app events are read at once.
const ROWS_AT_ONCE: usize = 16;

/// The state machine of one device. It holds nothing but caches: the state is in the store.
pub struct Machine {
    own: Own,
    policy: Policy,
    hot: Hot,
}

impl std::fmt::Debug for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Machine")
            .field("user_id", &self.own.user_id)
            .field("device_id", &self.own.device_id)
            .finish_non_exhaustive()
    }
}

/// A user's devices as known.
#[derive(Clone, Debug)]
pub struct UserDevices {
    /// The list is tracked.
    pub tracked: bool,
    /// The list is known to be outdated.
    pub outdated: bool,
    /// The user's cross-signing identity.
    pub identity: Option<Identity>,
    /// The devices.
    pub devices: Vec<DeviceView>,
}

/// A device as known.
#[derive(Clone, Debug)]
pub struct DeviceView {
    /// The device.
    pub device: Device,
    /// It is signed by its owner's self-signing key.
    pub cross_signed: bool,
    /// It is known to be its owner's: the owner's identity is verified and has signed it, it was verified by
    /// itself, or it is this very device.
    pub verified: bool,
    /// The app's user has blocked it.
    pub blocked: bool,
}

fn stored_policy(snapshot: &dyn Snapshot) -> Result<Policy, StoreError> {
    let record: Option<PolicyRecord> = snapshot.load(&Only)?;
    let missing = || StoreError::Corrupt("an account without a policy".to_owned());
    Ok(record.ok_or_else(missing)?.policy)
}

/// Making and loading.
impl Machine {
    /// Makes a new device: its identity, its first one-time keys and its fallback key. Commit the step,
    /// then [`Machine::load`].
    ///
    /// # Errors
    /// [`MachineError::AccountExists`] if the store has an account: one identity for a device id, for
    /// ever.
    pub fn create(
        snapshot: &dyn Snapshot,
        cx: &mut Context<'_>,
        user_id: OwnedUserId,
        device_id: OwnedDeviceId,
        policy: Policy,
        login: Option<&LoginRecord>,
    ) -> Result<Step<Pending>, MachineError> {
        if snapshot.contains::<AccountRecord>(&Only)? {
            return Err(MachineError::AccountExists);
        }
        let record = account::make(user_id, device_id, cx.now)?;
        let own = Own::new((&record).into());
        let mut txn = Txn::new(snapshot, cx, own, Left::default());
        account::store(&mut txn, &record)?;
        txn.put(&Only, &PolicyRecord { policy });
        if let Some(login) = login {
            txn.put(&Only, login);
        }
        Ok(txn.finish(())?.0)
    }

    /// The machine of the account in the store; `None` if there is none.
    ///
    /// # Errors
    /// Those of the store.
    pub fn load(snapshot: &dyn Snapshot) -> Result<Option<Self>, MachineError> {
        let Some(account) = snapshot.load::<AccountRecord>(&Only)? else { return Ok(None) };
        let policy = stored_policy(snapshot)?;
        Ok(Some(Self { own: Own::new((&account).into()), policy, hot: Hot::default() }))
    }

    /// The account's user.
    #[must_use]
    pub fn user_id(&self) -> &UserId {
        &self.own.user_id
    }

    /// The device.
    #[must_use]
    pub fn device_id(&self) -> &DeviceId {
        &self.own.device_id
    }

    /// The device's public identity keys.
    #[must_use]
    pub fn identity_keys(&self) -> IdentityKeys {
        self.own.keys
    }

    /// The policy in force.
    #[must_use]
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    fn begin<'a, 'c>(
        &mut self,
        snapshot: &'a dyn Snapshot,
        cx: &'a mut Context<'c>,
    ) -> Txn<'a, 'c> {
        // Should the step fail, the account is not put back, and is loaded anew.
        Txn::new(snapshot, cx, Own::clone(&self.own), std::mem::take(&mut self.hot.left))
    }

    fn end<T>(&mut self, txn: Txn<'_, '_>, reply: T) -> Result<Step<Pending, T>, MachineError> {
        let (step, left) = txn.finish(reply)?;
        self.hot.left = left;
        self.hot.forget_ahead();
        Ok(step)
    }

    /// Drops every cached object. To be called when a step has failed, was not committed or could not be, and
    /// when another process may have changed the store.
    pub fn forget_cached(&mut self) {
        self.hot.clear();
    }

    /// Has arithmetic that can be cut into pieces done by these workers. The outcome is the same; without, it is done in
    /// turn.
    pub fn set_workers(&mut self, workers: Arc<dyn Workers>) {
        self.hot.workers = workers;
    }

    /// Drops the cached objects that were made from rows which another process has changed, and takes its changes of
    /// the policy. To be called before the next step when a store was taken again.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] if there is another account in the store now; those of the store. Everything cached is
    /// dropped then; call it again before the next step.
    pub fn forget(
        &mut self,
        snapshot: &dyn Snapshot,
        changed: &Changed,
    ) -> Result<(), MachineError> {
        let taken = self.take_changes(snapshot, changed);
        if taken.is_err() {
            self.forget_cached();
        }
        taken
    }

    fn take_changes(
        &mut self,
        snapshot: &dyn Snapshot,
        changed: &Changed,
    ) -> Result<(), MachineError> {
        if changed.touches_table(Table::Account) {
            let account: Option<AccountRecord> = snapshot.load(&Only)?;
            if account.is_none_or(|account| account.keys != self.own.keys) {
                return Err(StoreError::Corrupt("another account".to_owned()).into());
            }
        }
        if changed.touches_table(Table::Policy) {
            self.policy = stored_policy(snapshot)?;
        }
        self.hot.forget_changed(changed);
        Ok(())
    }

    /// How many live room keys were made from their records since the machine was loaded: a figure for tests of what
    /// stays cached.
    #[must_use]
    pub fn restored_room_keys(&self) -> u64 {
        self.hot.restored()
    }
}

/// Inputs.
impl Machine {
    /// Takes a response of `GET /sync`: one step, one transaction, the token included.
    ///
    /// # Errors
    /// [`MachineError::Malformed`] if it has no token; else those of the store.
    pub fn handle_sync(
        &mut self,
        snapshot: &dyn Snapshot,
        cx: &mut Context<'_>,
        body: &[u8],
    ) -> Result<Step<Pending, SyncReport>, MachineError> {
        let mut txn = self.begin(snapshot, cx);
        let report = sync::handle(&mut txn, &mut self.hot, &self.policy, body)?;
        self.end(txn, report)
    }

    /// Takes a response of simplified sliding sync (MSC4186), the answer of
    /// [`Machine::sliding_sync_request`]: one step, one transaction, the position included. Which of the two
    /// kinds of sync is used is the caller's choice, and may change: each has its own tokens.
    ///
    /// # Errors
    /// [`MachineError::Malformed`] if it has no position; else those of the store.
    pub fn handle_sliding_sync(
        &mut self,
        snapshot: &dyn Snapshot,
        cx: &mut Context<'_>,
        body: &[u8],
    ) -> Result<Step<Pending, SyncReport>, MachineError> {
        let mut txn = self.begin(snapshot, cx);
        let report = sliding::handle(&mut txn, &mut self.hot, &self.policy, body)?;
        self.end(txn, report)
    }

    /// Sliding sync was answered with `M_UNKNOWN_POS`: the next request starts over. To-device messages are not
    /// lost by that; whatever else may have changed meanwhile is fetched anew before it is relied on.
    ///
    /// # Errors
    /// Those of the store.
    pub fn handle_unknown_pos(
        &mut self,
        snapshot: &dyn Snapshot,
        cx: &mut Context<'_>,
    ) -> Result<Step<Pending>, MachineError> {
        let mut txn = self.begin(snapshot, cx);
        sliding::handle_unknown_pos(&mut txn)?;
        self.end(txn, ())
    }

    /// Takes what came of a request of [`Machine::requests`]. Answers may come in any order, twice, or
    /// never.
    ///
    /// # Errors
    /// Those of the store.
    pub fn handle_answer(
        &mut self,
        snapshot: &dyn Snapshot,
        cx: &mut Context<'_>,
        request: &Outgoing,
        answer: Answer<'_>,
    ) -> Result<Step<Pending>, MachineError> {
        let mut txn = self.begin(snapshot, cx);
        match &request.kind {
            RequestKind::KeysUpload { keys } => account::handle_upload(&mut txn, keys, answer)?,
            RequestKind::KeysQuery { users } => devices::handle_query(&mut txn, users, answer)?,
            RequestKind::KeysClaim { devices } => olm::handle_claim(&mut txn, devices, answer)?,
            RequestKind::ToDevice { sequence, txn_id } => {
                queue::handle_to_device_sent(&mut txn, *sequence, txn_id, answer)?;
            }
            RequestKind::Members { room_id, generation } => {
                outgoing::handle_members(&mut txn, room_id, *generation, answer)?;
            }
            RequestKind::Send { sequence, txn_id } => {
                queue::handle_sent(&mut txn, *sequence, txn_id, answer)?;
            }
            RequestKind::BackupVersion => key_backup::handle_version(&mut txn, answer)?,
            RequestKind::BackupUpload { sent } => {
                key_backup::handle_upload(&mut txn, sent, answer)?;
            }
            RequestKind::History { key, sent } => {
                history::handle_download(&mut txn, &mut self.hot, key, sent, answer)?;
            }
            RequestKind::Signatures { sent } => {
                own_identity::handle_signatures(&mut txn, sent, answer)?;
            }
        }
        self.end(txn, ())
    }

    /// As [`Machine::handle_sync`] and [`Machine::handle_sliding_sync`], for a store that others sync too: `asked` is
    /// [`Machine::sync_position`] as it was when the request was made. Replies `None`, and changes nothing, if that is
    /// no longer the position stored: another process was quicker, and what this response brings will come again from
    /// where it is now. A position never goes back, and no gap is passed over.
    ///
    /// # Errors
    /// As [`Machine::handle_sync`].
    pub fn handle_response(
        &mut self,
        snapshot: &dyn Snapshot,
        cx: &mut Context<'_>,
        asked: &SyncPosition,
        body: &[u8],
    ) -> Result<Step<Pending, Option<SyncReport>>, MachineError> {
        let mut txn = self.begin(snapshot, cx);
        let report = if asked.is_current(snapshot)? {
            Some(match asked.mode() {
                SyncMode::V2 => sync::handle(&mut txn, &mut self.hot, &self.policy, body)?,
                SyncMode::Sliding => sliding::handle(&mut txn, &mut self.hot, &self.policy, body)?,
            })
        } else {
            None
        };
        self.end(txn, report)
    }

    /// As [`Machine::handle_unknown_pos`], for a store that others sync too: changes nothing if the position is no
    /// longer the one that was `asked` from.
    ///
    /// # Errors
    /// Those of the store.
    pub fn handle_unknown_position(
        &mut self,
        snapshot: &dyn Snapshot,
        cx: &mut Context<'_>,
        asked: &SyncPosition,
    ) -> Result<Step<Pending>, MachineError> {
        let mut txn = self.begin(snapshot, cx);
        if asked.is_current(snapshot)? {
            sliding::handle_unknown_pos(&mut txn)?;
        }
        self.end(txn, ())
    }

    /// Puts off what another process should not do at the same time: an upload of keys that is made twice may give a
    /// key out twice. To be called before these requests are made, if others share the store.
    ///
    /// # Errors
    /// Those of the store.
    pub fn put_off(
        &mut self,
        snapshot: &dyn Snapshot,
        cx: &mut Context<'_>,
        requests: &[Outgoing],
    ) -> Result<Step<Pending>, MachineError> {
        let mut txn = self.begin(snapshot, cx);
        if requests.iter().any(Outgoing::is_for_one) {
            account::put_off(&mut txn)?;
        }
        self.end(txn, ())
    }

    /// Notes that these requests are being made. To be called before they are: a message waits for their
    /// answers from then on, not from when it was queued.
    ///
    /// # Errors
    /// Those of the store.
    pub fn note_asked(
        &mut self,
        snapshot: &dyn Snapshot,
        cx: &mut Context<'_>,
        requests: &[Outgoing],
    ) -> Result<Step<Pending>, MachineError> {
        let mut txn = self.begin(snapshot, cx);
        for request in requests {
            if let RequestKind::KeysClaim { devices } = &request.kind {
                olm::note_asked(&mut txn, devices)?;
            }
        }
        self.end(txn, ())
    }

    /// Takes a page of history: the answer of the request of [`Machine::messages_request`]. Replies with
    /// the events' ids, oldest first.
    ///
    /// # Errors
    /// [`MachineError::UnknownRoom`], [`MachineError::Malformed`], or those of the store.
    pub fn handle_messages(
        &mut self,
        snapshot: &dyn Snapshot,
        cx: &mut Context<'_>,
        room_id: &RoomId,
        body: &[u8],
    ) -> Result<Step<Pending, Vec<OwnedEventId>>, MachineError> {
        let mut txn = self.begin(snapshot, cx);
        let chunk: wire::Chunk = serde_json::from_slice(body)
            .map_err(|_| MachineError::Malformed("a page of history"))?;
        let key = RoomKey { room_id: room_id.to_owned() };
        let mut room: RoomRecord = txn.load(&key)?.ok_or(MachineError::UnknownRoom)?;
        let mut events = Vec::new();
        ahead::decrypt(&txn, &mut self.hot, &[(room_id, chunk.chunk.as_slice())])?;
        for raw in &chunk.chunk {
            let taken =
                timeline::ingest(&mut txn, &mut self.hot, room_id, &mut room, raw, Origin::Older)?;
            events.extend(taken);
        }
        events.reverse();
        room.prev_batch = if chunk.chunk.is_empty() { None } else { chunk.end };
        txn.put(&key, &room);
        self.end(txn, events)
    }

    /// Takes an event fetched on its own: the answer of the request of [`Machine::event_request`].
    ///
    /// # Errors
    /// [`MachineError::UnknownRoom`], [`MachineError::Malformed`], or those of the store.
    pub fn handle_event(
        &mut self,
        snapshot: &dyn Snapshot,
        cx: &mut Context<'_>,
        room_id: &RoomId,
        body: &[u8],
    ) -> Result<Step<Pending, OwnedEventId>, MachineError> {
        let mut txn = self.begin(snapshot, cx);
        let raw: Box<serde_json::value::RawValue> =
            serde_json::from_slice(body).map_err(|_| MachineError::Malformed("an event"))?;
        let mut room: RoomRecord =
            txn.load(&RoomKey { room_id: room_id.to_owned() })?.ok_or(MachineError::UnknownRoom)?;
        let taken =
            timeline::ingest(&mut txn, &mut self.hot, room_id, &mut room, &raw, Origin::Single)?;
        let event_id = taken.ok_or(MachineError::Malformed("an event"))?;
        self.end(txn, event_id)
    }

    /// Takes the answer of the request of [`Machine::keys_changes_request`]: the device lists that
    /// changed in a stretch of time that no sync response covered.
    ///
    /// # Errors
    /// [`MachineError::Malformed`], or those of the store.
    pub fn handle_keys_changes(
        &mut self,
        snapshot: &dyn Snapshot,
        cx: &mut Context<'_>,
        body: &[u8],
    ) -> Result<Step<Pending>, MachineError> {
        let mut txn = self.begin(snapshot, cx);
        let raw: Box<serde_json::value::RawValue> = serde_json::from_slice(body)
            .map_err(|_| MachineError::Malformed("a list of changed devices"))?;
        devices::handle_device_lists(&mut txn, Some(&raw))?;
        self.end(txn, ())
    }

    /// Takes a room's complete member list: the answer of the request of
    /// [`Machine::members_request`]. `generation` is the room's
    /// [`member_generation`](RoomRecord::member_generation) when the request was made. Replies `false`,
    /// and changes nothing, if somebody has come or gone since: a leave must not be undone by an older
    /// list.
    ///
    /// # Errors
    /// [`MachineError::Malformed`], or those of the store.
    pub fn handle_members(
        &mut self,
        snapshot: &dyn Snapshot,
        cx: &mut Context<'_>,
        room_id: &RoomId,
        generation: u64,
        body: &[u8],
    ) -> Result<Step<Pending, bool>, MachineError> {
        let mut txn = self.begin(snapshot, cx);
        let members: wire::Chunk =
            serde_json::from_slice(body).map_err(|_| MachineError::Malformed("a member list"))?;
        let key = RoomKey { room_id: room_id.to_owned() };
        let current =
            txn.load::<RoomRecord>(&key)?.is_some_and(|room| room.member_generation == generation);
        if current {
            rooms::handle_members(&mut txn, room_id, &members.chunk)?;
        }
        self.end(txn, current)
    }

    /// Moves the send queue on: looks at recipients, shares room keys, encrypts. To be called after each
    /// committed step and when [`Machine::next_timeout`] has come, until it changes nothing.
    ///
    /// # Errors
    /// Those of the store.
    pub fn advance(
        &mut self,
        snapshot: &dyn Snapshot,
        cx: &mut Context<'_>,
    ) -> Result<Step<Pending>, MachineError> {
        let mut txn = self.begin(snapshot, cx);
        app_to_device::advance(&mut txn, &self.policy)?;
        queue::advance(&mut txn, &mut self.hot, &self.policy)?;
        verification::advance(&mut txn)?;
        history_import::advance(&mut txn, &mut self.hot)?;
        key_backup::advance(&mut txn)?;
        self.end(txn, ())
    }
}

/// Commands.
impl Machine {
    /// Queues an event for a room. It is encrypted if the room is, and sent in its order. Replies with
    /// its transaction id; the same id again names the same item.
    ///
    /// # Errors
    /// [`MachineError::UnknownRoom`], [`MachineError::NotJoined`],
    /// [`MachineError::UnsupportedAlgorithm`], [`MachineError::Malformed`], or those of the store.
    pub fn queue_event(
        &mut self,
        snapshot: &dyn Snapshot,
        cx: &mut Context<'_>,
        room_id: &RoomId,
        event_type: &str,
        content: &Value,
        txn_id: Option<OwnedTransactionId>,
    ) -> Result<Step<Pending, OwnedTransactionId>, MachineError> {
        let mut txn = self.begin(snapshot, cx);
        let txn_id = queue::enqueue(&mut txn, room_id, event_type, content, txn_id)?;
        // If nothing stands in its way it is encrypted in the same transaction.
        queue::advance_room(&mut txn, &mut self.hot, &self.policy, room_id)?;
        self.end(txn, txn_id)
    }

    /// Removes a queued event that has not been encrypted yet. Replies whether it was there.
    ///
    /// # Errors
    /// Those of the store.
    pub fn cancel_queued(
        &mut self,
        snapshot: &dyn Snapshot,
        cx: &mut Context<'_>,
        txn_id: &TransactionId,
    ) -> Result<Step<Pending, bool>, MachineError> {
        let mut txn = self.begin(snapshot, cx);
        let found = queue::cancel(&mut txn, txn_id)?;
        self.end(txn, found)
    }

    /// Tries a queued event again that was refused. Replies whether it was there.
    ///
    /// # Errors
    /// Those of the store.
    pub fn retry_queued(
        &mut self,
        snapshot: &dyn Snapshot,
        cx: &mut Context<'_>,
        txn_id: &TransactionId,
    ) -> Result<Step<Pending, bool>, MachineError> {
        let mut txn = self.begin(snapshot, cx);
        let found = queue::retry(&mut txn, txn_id)?;
        self.end(txn, found)
    }

    /// Forgets what this says, as far as one step goes: a thousand rows are looked at. Replies what was forgotten, and
    /// where the next step begins; none if that was all.
    ///
    /// # Errors
    /// Those of the store.
    pub fn apply_retention(
        &mut self,
        snapshot: &dyn Snapshot,
        cx: &mut Context<'_>,
        retention: &Retention,
        cursor: Option<&RetentionCursor>,
    ) -> Result<Step<Pending, (Forgotten, Option<RetentionCursor>)>, MachineError> {
        let plan = retention::plan(snapshot, cx.now, retention, cursor)?;
        let mut txn = self.begin(snapshot, cx);
        let reply = retention::carry_out(&mut txn, &mut self.hot, plan)?;
        self.end(txn, reply)
    }

    /// Forgets everything about a room that was left: its keys, events and members. Replies how much that was.
    ///
    /// # Errors
    /// [`MachineError::UnknownRoom`], [`MachineError::NotLeft`] while this user is joined, invited or has knocked, or those
    /// of the store.
    pub fn forget_room(
        &mut self,
        snapshot: &dyn Snapshot,
        cx: &mut Context<'_>,
        room_id: &RoomId,
    ) -> Result<Step<Pending, Forgotten>, MachineError> {
        let mut txn = self.begin(snapshot, cx);
        let forgotten = retention::forget_room(&mut txn, &mut self.hot, room_id)?;
        self.end(txn, forgotten)
    }

    /// The app has taken all events up to this number: they are forgotten.
    ///
    /// # Errors
    /// Those of the store.
    pub fn acknowledge(
        &mut self,
        snapshot: &dyn Snapshot,
        cx: &mut Context<'_>,
        up_to: u64,
    ) -> Result<Step<Pending>, MachineError> {
        let mut txn = self.begin(snapshot, cx);
        let mut rows = snapshot.list::<AppEventRecord>(&[], ROWS_AT_ONCE)?;
        while let Some((last, _)) = rows.last() {
            let next = SequenceKey { sequence: last.sequence.saturating_add(1) };
            for (key, record) in rows {
                if key.sequence > up_to {
                    return self.end(txn, ());
                }
                txn.delete::<AppEventRecord>(&key);
                let seen = usize::try_from(up_to - key.sequence).unwrap_or(usize::MAX);
                let events: Vec<AppEvent> =
                    record.events.into_iter().skip(seen.saturating_add(1)).collect();
                if !events.is_empty() {
                    let sequence = up_to.saturating_add(1);
                    txn.put(&SequenceKey { sequence }, &AppEventRecord { events });
                }
            }
            rows = snapshot.list_from::<AppEventRecord>(&[], Some(&next), ROWS_AT_ONCE)?;
        }
        self.end(txn, ())
    }

    /// Has a user's devices asked for anew. The user is tracked from then on.
    ///
    /// # Errors
    /// Those of the store.
    pub fn refresh_devices(
        &mut self,
        snapshot: &dyn Snapshot,
        cx: &mut Context<'_>,
        user_id: &UserId,
    ) -> Result<Step<Pending>, MachineError> {
        let mut txn = self.begin(snapshot, cx);
        let key = UserKey { user_id: user_id.to_owned() };
        let tracked: TrackedUserRecord = txn.load(&key)?.unwrap_or_default();
        devices::mark_outdated(&mut txn, &key, tracked)?;
        txn.next_number(devices::GENERATION)?;
        self.end(txn, ())
    }

    /// The server has accepted an invitation, a kick or the like of ours: takes it before a sync shows
    /// it, so that the next message already goes by it.
    ///
    /// # Errors
    /// Those of the store.
    pub fn note_membership(
        &mut self,
        snapshot: &dyn Snapshot,
        cx: &mut Context<'_>,
        room_id: &RoomId,
        user_id: &UserId,
        membership: Membership,
    ) -> Result<Step<Pending>, MachineError> {
        let mut txn = self.begin(snapshot, cx);
        let key = RoomKey { room_id: room_id.to_owned() };
        if let Some(mut room) = txn.load::<RoomRecord>(&key)? {
            let member = MemberKey { room_id: room_id.to_owned(), user_id: user_id.to_owned() };
            let name = txn.load::<MemberRecord>(&member)?.and_then(|member| member.display_name);
            rooms::set_member(&mut txn, room_id, &mut room, user_id, membership, name)?;
            txn.put(&key, &room);
        }
        self.end(txn, ())
    }

    /// Ends the room's outbound session: the next message uses a new one.
    ///
    /// # Errors
    /// Those of the store.
    pub fn discard_room_key(
        &mut self,
        snapshot: &dyn Snapshot,
        cx: &mut Context<'_>,
        room_id: &RoomId,
    ) -> Result<Step<Pending>, MachineError> {
        let mut txn = self.begin(snapshot, cx);
        rooms::discard_session(&mut txn, room_id)?;
        self.end(txn, ())
    }

    /// Blocks a device, or lets it be used again. A blocked device gets no room keys; a session it has
    /// is replaced before the next message.
    ///
    /// # Errors
    /// [`MachineError::UnknownDevice`], or those of the store.
    pub fn set_blocked(
        &mut self,
        snapshot: &dyn Snapshot,
        cx: &mut Context<'_>,
        user_id: &UserId,
        device_id: &DeviceId,
        blocked: bool,
    ) -> Result<Step<Pending>, MachineError> {
        let mut txn = self.begin(snapshot, cx);
        let key = DeviceKey { user_id: user_id.to_owned(), device_id: device_id.to_owned() };
        if !txn.contains::<DeviceRecord>(&key)? {
            return Err(MachineError::UnknownDevice);
        }
        if blocked {
            txn.put(&key, &BlockedRecord { since: txn.cx.now });
        } else {
            txn.delete::<BlockedRecord>(&key);
        }
        txn.next_number(devices::GENERATION)?;
        // A block that a power loss undid would be one the user relies on in vain.
        txn.require_full();
        self.end(txn, ())
    }

    /// The app's user has seen that a user's identity is another one, and accepts it: pins its master key.
    ///
    /// # Errors
    /// [`MachineError::UnknownIdentity`], or those of the store.
    pub fn pin_identity(
        &mut self,
        snapshot: &dyn Snapshot,
        cx: &mut Context<'_>,
        user_id: &UserId,
    ) -> Result<Step<Pending>, MachineError> {
        self.change_identity(snapshot, cx, user_id, Identity::acknowledge)
    }

    /// Changes who gets room keys and whose messages are shown, within what the deployment allows. Every
    /// room's session is replaced before its next message.
    ///
    /// # Errors
    /// [`MachineError::PolicyDenied`] if the deployment asks for more; else those of the store.
    pub fn set_policy(
        &mut self,
        snapshot: &dyn Snapshot,
        cx: &mut Context<'_>,
        recipients: Recipients,
        decrypt_trust: DecryptTrust,
    ) -> Result<Step<Pending>, MachineError> {
        let policy = self
            .policy
            .tighten(recipients, decrypt_trust)
            .map_err(|_| MachineError::PolicyDenied)?;
        self.put_policy(snapshot, cx, policy)
    }

    /// A deployment has become stricter since the account was made: its floor holds from now on, what was chosen is
    /// raised to it, and what it does not allow is not done any more. A laxer one changes nothing.
    ///
    /// # Errors
    /// Those of the store.
    pub fn raise_floor(
        &mut self,
        snapshot: &dyn Snapshot,
        cx: &mut Context<'_>,
        deployment: &Policy,
    ) -> Result<Step<Pending>, MachineError> {
        let floor: &PolicyFloor = &deployment.floor;
        let mut policy = self.policy.clone();
        policy.share_history &= deployment.share_history;
        policy.accept_history &= deployment.accept_history;
        policy.floor.recipients = policy.floor.recipients.max(floor.recipients);
        policy.floor.decrypt_trust = policy.floor.decrypt_trust.max(floor.decrypt_trust);
        policy.recipients = policy.recipients.max(policy.floor.recipients);
        policy.decrypt_trust = policy.decrypt_trust.max(policy.floor.decrypt_trust);
        self.put_policy(snapshot, cx, policy)
    }

    fn put_policy(
        &mut self,
        snapshot: &dyn Snapshot,
        cx: &mut Context<'_>,
        policy: Policy,
    ) -> Result<Step<Pending>, MachineError> {
        let mut txn = self.begin(snapshot, cx);
        if policy != self.policy {
            txn.put(&Only, &PolicyRecord { policy: policy.clone() });
            for (room, _) in txn.list::<OutboundSessionRecord>(&[])? {
                rooms::discard_session(&mut txn, &room.room_id)?;
            }
            txn.next_number(devices::GENERATION)?;
            txn.require_full();
        }
        let step = self.end(txn, ())?;
        // Should the commit fail, the new one is in force until the next load all the same.
        self.policy = policy;
        Ok(step)
    }

    /// Chooses the kind of sync, for this device from now on. It says no more than what
    /// [`Machine::sync_mode`] answers: a caller may also choose anew each time.
    ///
    /// # Errors
    /// Those of the store.
    pub fn set_sync_mode(
        &mut self,
        snapshot: &dyn Snapshot,
        cx: &mut Context<'_>,
        mode: SyncMode,
    ) -> Result<Step<Pending>, MachineError> {
        let mut txn = self.begin(snapshot, cx);
        sliding::set_mode(&mut txn, mode)?;
        self.end(txn, ())
    }

    /// Stores the login.
    ///
    /// # Errors
    /// Those of the store.
    pub fn set_login(
        &mut self,
        snapshot: &dyn Snapshot,
        cx: &mut Context<'_>,
        login: &LoginRecord,
    ) -> Result<Step<Pending>, MachineError> {
        let mut txn = self.begin(snapshot, cx);
        let before: Option<LoginRecord> = txn.load(&Only)?;
        if login.logged_out && before.is_some_and(|login| !login.logged_out) {
            txn.emit(AppEvent::LoggedOut)?;
        }
        txn.put(&Only, login);
        txn.require_full();
        self.end(txn, ())
    }

    /// Queues an app's own event for devices, encrypted with Olm for each. Who may be given room keys may be
    /// sent it. Replies with its transaction id; the same id again, while it is queued, names the same event. What
    /// became of it comes as [`AppEvent::ToDeviceSent`], once for all its devices: within seconds if the servers
    /// answer, within an hour of being online in any case.
    ///
    /// # Errors
    /// [`MachineError::ReservedType`]; [`MachineError::TooLarge`] for a content of more than 40 kB or more than a
    /// thousand recipients; [`MachineError::Malformed`], or those of the store.
    pub fn send_to_device(
        &mut self,
        snapshot: &dyn Snapshot,
        cx: &mut Context<'_>,
        recipients: &[ToDeviceRecipient],
        event_type: &str,
        content: &Value,
        txn_id: Option<OwnedTransactionId>,
    ) -> Result<Step<Pending, OwnedTransactionId>, MachineError> {
        let mut txn = self.begin(snapshot, cx);
        let txn_id = app_to_device::enqueue(&mut txn, recipients, event_type, content, txn_id)?;
        app_to_device::advance(&mut txn, &self.policy)?;
        self.end(txn, txn_id)
    }
}

/// Commands: the user's own identity.
impl Machine {
    /// Begins to make a cross-signing identity: replies with the body of `/keys/device_signing/upload`, always the same
    /// one until [`Machine::identity_published`]. The private keys are in the store before anybody else has the
    /// public ones. Replies `None` if the published identity is this device's to use already and is not to be
    /// replaced.
    ///
    /// # Errors
    /// [`MachineError::Crypto`], or those of the store.
    pub fn prepare_identity(
        &mut self,
        snapshot: &dyn Snapshot,
        cx: &mut Context<'_>,
        replace: bool,
    ) -> Result<Step<Pending, Option<String>>, MachineError> {
        let mut txn = self.begin(snapshot, cx);
        let body = own_identity::prepare(&mut txn, replace)?;
        self.end(txn, body)
    }

    /// The homeserver has accepted what [`Machine::prepare_identity`] gave: that is the own identity now, verified on this
    /// device, which is signed with it. Replies `false` if nothing was prepared.
    ///
    /// # Errors
    /// [`MachineError::Crypto`], or those of the store.
    pub fn identity_published(
        &mut self,
        snapshot: &dyn Snapshot,
        cx: &mut Context<'_>,
    ) -> Result<Step<Pending, bool>, MachineError> {
        let mut txn = self.begin(snapshot, cx);
        let published = own_identity::published(&mut txn)?;
        self.end(txn, published)
    }

    /// Takes a private key of the own identity under its name in secret storage. Replies whether it is the private half of
    /// the published key; anything else changes nothing (attacks N08 and N11). The master key's makes the
    /// identity verified on this device, which is signed as soon as the self-signing key is there too.
    ///
    /// # Errors
    /// Those of the store.
    pub fn import_identity_key(
        &mut self,
        snapshot: &dyn Snapshot,
        cx: &mut Context<'_>,
        name: &str,
        secret: &SecretString,
    ) -> Result<Step<Pending, bool>, MachineError> {
        let mut txn = self.begin(snapshot, cx);
        let taken = own_identity::import(&mut txn, name, secret)?;
        self.end(txn, taken)
    }

    /// The app's user does not insist on a verification that another master key has broken: the current one is pinned, as
    /// one that nobody has verified.
    ///
    /// # Errors
    /// [`MachineError::UnknownIdentity`], or those of the store.
    pub fn withdraw_verification(
        &mut self,
        snapshot: &dyn Snapshot,
        cx: &mut Context<'_>,
        user_id: &UserId,
    ) -> Result<Step<Pending>, MachineError> {
        self.change_identity(snapshot, cx, user_id, Identity::withdraw_verification)
    }

    fn change_identity(
        &mut self,
        snapshot: &dyn Snapshot,
        cx: &mut Context<'_>,
        user_id: &UserId,
        change: impl FnOnce(&mut Identity),
    ) -> Result<Step<Pending>, MachineError> {
        let mut txn = self.begin(snapshot, cx);
        let key = UserKey { user_id: user_id.to_owned() };
        let mut record: IdentityRecord = txn.load(&key)?.ok_or(MachineError::UnknownIdentity)?;
        let before = record.identity.clone();
        change(&mut record.identity);
        if record.identity != before {
            txn.put(&key, &record);
            txn.next_number(devices::GENERATION)?;
            txn.require_full();
        }
        self.end(txn, ())
    }
}

/// Commands: verification.
impl Machine {
    /// Asks devices of a user (these, or all that are known) to verify each other, by to-device messages. Replies with the
    /// flow's id.
    ///
    /// # Errors
    /// [`MachineError::UnknownDevice`] if there is none to ask; those of the store.
    pub fn request_verification(
        &mut self,
        snapshot: &dyn Snapshot,
        cx: &mut Context<'_>,
        user_id: &UserId,
        devices: Option<Vec<OwnedDeviceId>>,
        methods: Methods,
    ) -> Result<Step<Pending, String>, MachineError> {
        let mut txn = self.begin(snapshot, cx);
        let flow_id = verification::request(&mut txn, user_id, devices, methods)?;
        self.end(txn, flow_id)
    }

    /// Asks a user to verify each other, in a room. Replies with the transaction id of the request, `txn_id` if that is given:
    /// the event's id, as [`AppEvent::Sent`] tells it, is the flow's.
    ///
    /// # Errors
    /// [`MachineError::UnknownRoom`], [`MachineError::NotJoined`], or those of the store.
    pub fn request_room_verification(
        &mut self,
        snapshot: &dyn Snapshot,
        cx: &mut Context<'_>,
        room_id: &RoomId,
        user_id: &UserId,
        txn_id: Option<OwnedTransactionId>,
    ) -> Result<Step<Pending, OwnedTransactionId>, MachineError> {
        let mut txn = self.begin(snapshot, cx);
        let txn_id = verification::request_in_room(&mut txn, room_id, user_id, txn_id)?;
        queue::advance_room(&mut txn, &mut self.hot, &self.policy, room_id)?;
        self.end(txn, txn_id)
    }

    /// Does what the app's user has decided about a verification. What does not fit where it stands changes nothing, or
    /// cancels it. Replies `false` if there is no such verification.
    ///
    /// # Errors
    /// Those of the store.
    pub fn act_on_verification(
        &mut self,
        snapshot: &dyn Snapshot,
        cx: &mut Context<'_>,
        user_id: &UserId,
        flow_id: &str,
        action: VerificationAction,
    ) -> Result<Step<Pending, bool>, MachineError> {
        let mut txn = self.begin(snapshot, cx);
        let known = verification::act(&mut txn, user_id, flow_id, action)?;
        self.end(txn, known)
    }

    /// The QR code to show: its bytes, always the same ones for one flow. Replies `None` if none can be shown now.
    ///
    /// # Errors
    /// Those of the store.
    pub fn show_verification_code(
        &mut self,
        snapshot: &dyn Snapshot,
        cx: &mut Context<'_>,
        user_id: &UserId,
        flow_id: &str,
    ) -> Result<Step<Pending, Option<SecretBytes>>, MachineError> {
        let mut txn = self.begin(snapshot, cx);
        let code = verification::show_qr(&mut txn, user_id, flow_id)?;
        self.end(txn, code)
    }

    /// Takes the bytes of the QR code that the other side shows. Replies `false` if it is no code of this flow: nothing has
    /// changed then.
    ///
    /// # Errors
    /// Those of the store.
    pub fn scan_verification_code(
        &mut self,
        snapshot: &dyn Snapshot,
        cx: &mut Context<'_>,
        user_id: &UserId,
        flow_id: &str,
        code: &[u8],
    ) -> Result<Step<Pending, bool>, MachineError> {
        let mut txn = self.begin(snapshot, cx);
        let taken = verification::scan_qr(&mut txn, user_id, flow_id, code)?;
        self.end(txn, taken)
    }

    /// Asks the own verified devices for the secrets that are not here.
    ///
    /// # Errors
    /// Those of the store.
    pub fn request_secrets(
        &mut self,
        snapshot: &dyn Snapshot,
        cx: &mut Context<'_>,
    ) -> Result<Step<Pending>, MachineError> {
        let mut txn = self.begin(snapshot, cx);
        secrets::ask(&mut txn)?;
        self.end(txn, ())
    }
}

/// Commands: the key backup.
impl Machine {
    /// Begins to make a backup: replies with the body of `POST /room_keys/version`, with the same key until
    /// [`Machine::backup_created`].
    ///
    /// # Errors
    /// [`MachineError::UnknownIdentity`] if the private master key is not here; those of the store.
    pub fn prepare_backup(
        &mut self,
        snapshot: &dyn Snapshot,
        cx: &mut Context<'_>,
    ) -> Result<Step<Pending, String>, MachineError> {
        let mut txn = self.begin(snapshot, cx);
        let body = key_backup::prepare(&mut txn)?;
        self.end(txn, body)
    }

    /// The homeserver has accepted what [`Machine::prepare_backup`] gave, as this version: every room key is uploaded to it.
    /// Replies `false` if nothing was prepared.
    ///
    /// # Errors
    /// Those of the store.
    pub fn backup_created(
        &mut self,
        snapshot: &dyn Snapshot,
        cx: &mut Context<'_>,
        version: &str,
    ) -> Result<Step<Pending, bool>, MachineError> {
        let mut txn = self.begin(snapshot, cx);
        let created = key_backup::created(&mut txn, version.to_owned())?;
        self.end(txn, created)
    }

    /// Takes the backup's private key. `version` is the body of `GET /room_keys/version`. Replies whether it is that backup's: then
    /// it is used; anything else changes nothing.
    ///
    /// # Errors
    /// Those of the store.
    pub fn import_backup_key(
        &mut self,
        snapshot: &dyn Snapshot,
        cx: &mut Context<'_>,
        secret: &SecretString,
        version: &[u8],
    ) -> Result<Step<Pending, bool>, MachineError> {
        let mut txn = self.begin(snapshot, cx);
        let taken = key_backup::import_key(&mut txn, secret, version)?;
        self.end(txn, taken)
    }

    /// The homeserver's backup is looked at again, whatever is known of it.
    ///
    /// # Errors
    /// Those of the store.
    pub fn check_backup(
        &mut self,
        snapshot: &dyn Snapshot,
        cx: &mut Context<'_>,
    ) -> Result<Step<Pending>, MachineError> {
        let mut txn = self.begin(snapshot, cx);
        key_backup::look_again(&mut txn)?;
        self.end(txn, ())
    }

    /// Takes room keys out of a backup or a file, and decrypts what waited for them. They prove nothing of who made
    /// them, and never take the place of what came by Olm.
    ///
    /// # Errors
    /// Those of the store.
    pub fn import_room_keys(
        &mut self,
        snapshot: &dyn Snapshot,
        cx: &mut Context<'_>,
        keys: Vec<RestoredKey>,
        source: KeySource,
    ) -> Result<Step<Pending, Imported>, MachineError> {
        let source = if source == KeySource::Olm { KeySource::Imported } else { source };
        let mut txn = self.begin(snapshot, cx);
        let imported = key_backup::import(&mut txn, &mut self.hot, keys, source)?;
        self.end(txn, imported)
    }
}

/// Commands: a room's history (MSC4268).
impl Machine {
    /// The app's user accepts an invitation, and the room's history if the inviter has shared it or does so within a day. To
    /// be called before the homeserver is asked to join. The room keys come by themselves once the room is joined
    /// ([`Notice::HistoryReceived`](crate::Notice::HistoryReceived)). Replies `false` if none can come: nobody has invited us, or
    /// the policy does not take any.
    ///
    /// # Errors
    /// Those of the store.
    pub fn accept_history(
        &mut self,
        snapshot: &dyn Snapshot,
        cx: &mut Context<'_>,
        room_id: &RoomId,
    ) -> Result<Step<Pending, bool>, MachineError> {
        let mut txn = self.begin(snapshot, cx);
        let accepted = history::accept(&mut txn, &self.policy, room_id)?;
        self.end(txn, accepted)
    }

    /// Has those devices of a user that are cross-signed told of the room keys in a bundle ([`HistoryBundle`]) which was
    /// encrypted as an attachment and uploaded. To be called when the app's user has decided to invite that user, and at no
    /// other time. Replies with the id under which it is queued; what came of it is told as
    /// [`Notice::HistoryShared`](crate::Notice::HistoryShared).
    ///
    /// # Errors
    /// [`MachineError::PolicyDenied`] if the policy forbids it or the room's history is not open to later members;
    /// [`MachineError::UnknownRoom`], [`MachineError::NotJoined`], [`MachineError::Malformed`] for the own user, or
    /// those of the store.
    pub fn share_history(
        &mut self,
        snapshot: &dyn Snapshot,
        cx: &mut Context<'_>,
        room_id: &RoomId,
        user_id: &UserId,
        file: &EncryptedFile,
    ) -> Result<Step<Pending, OwnedTransactionId>, MachineError> {
        let mut txn = self.begin(snapshot, cx);
        let txn_id = history_share::share(&mut txn, &self.policy, room_id, user_id, file)?;
        self.end(txn, txn_id)
    }

    /// Reads the next `limit` room keys of a room into a bundle to be shared. Replies whether that were all. If the
    /// room's history is not open to later members now, there are none.
    ///
    /// # Errors
    /// Those of the store.
    pub fn collect_history(
        &self,
        snapshot: &dyn Snapshot,
        bundle: &mut HistoryBundle,
        limit: usize,
    ) -> Result<bool, MachineError> {
        bundle.collect(snapshot, limit)
    }

    /// Whether devices are still to be told of a bundle that was shared under this id.
    ///
    /// # Errors
    /// Those of the store.
    pub fn history_is_under_way(
        &self,
        snapshot: &dyn Snapshot,
        txn_id: &OwnedTransactionId,
    ) -> Result<bool, MachineError> {
        history_share::is_under_way(snapshot, txn_id)
    }
}

/// Getters: requests.
impl Machine {
    /// The request for the next sync, from the last token committed.
    ///
    /// # Errors
    /// Those of the store.
    pub fn sync_request(
        &self,
        snapshot: &dyn Snapshot,
        timeout_ms: u64,
    ) -> Result<HttpRequest, MachineError> {
        outgoing::sync_request(snapshot, timeout_ms)
    }

    /// The request for the next response of simplified sliding sync, from the last position committed.
    ///
    /// # Errors
    /// Those of the store.
    pub fn sliding_sync_request(
        &self,
        snapshot: &dyn Snapshot,
        timeout_ms: u64,
    ) -> Result<HttpRequest, MachineError> {
        sliding::request(snapshot, timeout_ms)
    }

    /// From where the next request of this kind asks: see [`Machine::handle_response`].
    ///
    /// # Errors
    /// Those of the store.
    pub fn sync_position(
        &self,
        snapshot: &dyn Snapshot,
        mode: SyncMode,
    ) -> Result<SyncPosition, MachineError> {
        SyncPosition::of(snapshot, mode)
    }

    /// Every request that is due. Derived from committed state alone: after a restart the same come
    /// again.
    ///
    /// # Errors
    /// Those of the store.
    pub fn requests(
        &self,
        snapshot: &dyn Snapshot,
        now: Timestamp,
    ) -> Result<Vec<Outgoing>, MachineError> {
        let mut requests = outgoing::requests(snapshot, now)?;
        // What is being taken in has been fetched.
        if self.hot.history.is_some() {
            requests.retain(|request| !matches!(request.kind, RequestKind::History { .. }));
        }
        Ok(requests)
    }

    /// When something that has been put off is due, or a waiting message has waited long enough.
    ///
    /// # Errors
    /// Those of the store.
    pub fn next_timeout(
        &self,
        snapshot: &dyn Snapshot,
        now: Timestamp,
    ) -> Result<Option<Timestamp>, MachineError> {
        outgoing::next_timeout(snapshot, now)
    }

    /// The request for the page of history before what is known; `None` at the room's beginning.
    ///
    /// # Errors
    /// [`MachineError::UnknownRoom`], or those of the store.
    pub fn messages_request(
        &self,
        snapshot: &dyn Snapshot,
        room_id: &RoomId,
        limit: u32,
    ) -> Result<Option<HttpRequest>, MachineError> {
        outgoing::messages_request(snapshot, room_id, limit)
    }

    /// The request for the device lists that changed between two sync tokens: needed when syncing
    /// starts over without a token, or with one that another process took further.
    #[must_use]
    pub fn keys_changes_request(from: &str, to: &str) -> HttpRequest {
        outgoing::keys_changes_request(from, to)
    }

    /// The request for a room's complete member list.
    #[must_use]
    pub fn members_request(room_id: &RoomId) -> HttpRequest {
        outgoing::members_request(room_id)
    }

    /// The request for all room keys of a backup.
    #[must_use]
    pub fn backup_request(version: &str) -> HttpRequest {
        outgoing::backup_request(version)
    }

    /// The request for one event.
    #[must_use]
    pub fn event_request(room_id: &RoomId, event_id: &EventId) -> HttpRequest {
        outgoing::event_request(room_id, event_id)
    }
}

/// Getters: what is known.
impl Machine {
    /// What [`Machine::apply_retention`] would forget in its next step, and where the one after begins.
    ///
    /// # Errors
    /// Those of the store.
    pub fn preview_retention(
        &self,
        snapshot: &dyn Snapshot,
        now: Timestamp,
        retention: &Retention,
        cursor: Option<&RetentionCursor>,
    ) -> Result<(Forgotten, Option<RetentionCursor>), MachineError> {
        let plan = retention::plan(snapshot, now, retention, cursor)?;
        Ok((plan.forgotten, plan.next))
    }

    /// An event as an app may show it.
    ///
    /// # Errors
    /// Those of the store.
    pub fn room_event(
        &self,
        snapshot: &dyn Snapshot,
        room_id: &RoomId,
        event_id: &EventId,
    ) -> Result<Option<RoomEvent>, MachineError> {
        let key = EventKey { room_id: room_id.to_owned(), event_id: event_id.to_owned() };
        match snapshot.load::<EventRecord>(&key)? {
            None => Ok(None),
            Some(record) => {
                view::room_event(snapshot, &self.policy, self.own.keys, key, record).map(Some)
            }
        }
    }

    /// The newest events of a room, newest last.
    ///
    /// # Errors
    /// Those of the store.
    pub fn timeline(
        &self,
        snapshot: &dyn Snapshot,
        room_id: &RoomId,
        limit: usize,
    ) -> Result<Vec<RoomEvent>, MachineError> {
        let places =
            snapshot.list_back::<TimelineRecord>(&TimelineKey::of(room_id), None, limit)?;
        let mut events = Vec::with_capacity(places.len());
        for (_, place) in places.into_iter().rev() {
            events.extend(self.room_event(snapshot, room_id, &place.event_id)?);
        }
        Ok(events)
    }

    /// All rooms.
    ///
    /// # Errors
    /// Those of the store.
    pub fn rooms(
        &self,
        snapshot: &dyn Snapshot,
    ) -> Result<Vec<(OwnedRoomId, RoomRecord)>, MachineError> {
        let rooms = snapshot.list::<RoomRecord>(&[], usize::MAX)?;
        Ok(rooms.into_iter().map(|(key, room)| (key.room_id, room)).collect())
    }

    /// A room.
    ///
    /// # Errors
    /// Those of the store.
    pub fn room(
        &self,
        snapshot: &dyn Snapshot,
        room_id: &RoomId,
    ) -> Result<Option<RoomRecord>, MachineError> {
        Ok(snapshot.load(&RoomKey { room_id: room_id.to_owned() })?)
    }

    /// The members of a room as known.
    ///
    /// # Errors
    /// Those of the store.
    pub fn members(
        &self,
        snapshot: &dyn Snapshot,
        room_id: &RoomId,
    ) -> Result<Vec<(OwnedUserId, MemberRecord)>, MachineError> {
        let members = snapshot.list::<MemberRecord>(&MemberKey::of(room_id), usize::MAX)?;
        Ok(members.into_iter().map(|(key, member)| (key.user_id, member)).collect())
    }

    /// One member of a room.
    ///
    /// # Errors
    /// Those of the store.
    pub fn member(
        &self,
        snapshot: &dyn Snapshot,
        room_id: &RoomId,
        user_id: &UserId,
    ) -> Result<Option<MemberRecord>, MachineError> {
        let key = MemberKey { room_id: room_id.to_owned(), user_id: user_id.to_owned() };
        Ok(snapshot.load(&key)?)
    }

    /// The devices of a user as known.
    ///
    /// # Errors
    /// Those of the store.
    pub fn devices(
        &self,
        snapshot: &dyn Snapshot,
        user_id: &UserId,
    ) -> Result<UserDevices, MachineError> {
        let key = UserKey { user_id: user_id.to_owned() };
        let identity = snapshot.load::<IdentityRecord>(&key)?.map(|record| record.identity);
        let mut views = Vec::new();
        for (key, record) in snapshot.list::<DeviceRecord>(&DeviceKey::of(user_id), usize::MAX)? {
            let cross_signed = is_cross_signed(&record.device, identity.as_ref());
            let is_own = key.user_id == self.own.user_id && key.device_id == self.own.device_id;
            let sure = identity.as_ref().map(Identity::state) == Some(IdentityState::Verified);
            let by_itself: Option<VerifiedDeviceRecord> = snapshot.load(&key)?;
            let by_itself =
                by_itself.is_some_and(|known| known.ed25519 == record.device.keys.ed25519);
            views.push(DeviceView {
                cross_signed,
                verified: is_own || (sure && cross_signed) || by_itself,
                blocked: snapshot.contains::<BlockedRecord>(&key)?,
                device: record.device,
            });
        }
        Ok(UserDevices {
            tracked: snapshot.contains::<TrackedUserRecord>(&key)?,
            outdated: snapshot.contains::<OutdatedUserRecord>(&key)?,
            identity,
            devices: views,
        })
    }

    /// The events the app has not acknowledged, from after `sequence` on.
    ///
    /// # Errors
    /// Those of the store.
    pub fn events_after(
        &self,
        snapshot: &dyn Snapshot,
        sequence: Option<u64>,
        limit: usize,
    ) -> Result<Vec<(u64, AppEvent)>, MachineError> {
        let from = sequence.map(|sequence| SequenceKey { sequence: sequence.saturating_add(1) });
        // The row before may reach beyond where the reading starts.
        let mut rows = match &from {
            Some(from) => snapshot.list_back::<AppEventRecord>(&[], Some(from), 1)?,
            None => Vec::new(),
        };
        let first = from.as_ref().map_or(0, |from| from.sequence);
        let mut events = Vec::new();
        let mut next = from;
        loop {
            for (key, record) in &rows {
                let numbered = (key.sequence..).zip(&record.events);
                let wanted = numbered.filter(|(sequence, _)| *sequence >= first);
                let left = limit.saturating_sub(events.len());
                events.extend(wanted.take(left).map(|(sequence, event)| (sequence, event.clone())));
            }
            if events.len() >= limit {
                return Ok(events);
            }
            rows = snapshot.list_from::<AppEventRecord>(&[], next.as_ref(), ROWS_AT_ONCE)?;
            let Some((last, _)) = rows.last() else { return Ok(events) };
            next = Some(SequenceKey { sequence: last.sequence.saturating_add(1) });
        }
    }

    /// The send queue, in order.
    ///
    /// # Errors
    /// Those of the store.
    pub fn queue(&self, snapshot: &dyn Snapshot) -> Result<Vec<(u64, QueueRecord)>, MachineError> {
        let rows = snapshot.list::<QueueRecord>(&[], usize::MAX)?;
        Ok(rows.into_iter().map(|(key, row)| (key.sequence, row)).collect())
    }

    /// The kind of sync that was chosen: sync v2 if none was.
    ///
    /// # Errors
    /// Those of the store.
    pub fn sync_mode(&self, snapshot: &dyn Snapshot) -> Result<SyncMode, MachineError> {
        sliding::mode(snapshot)
    }

    /// A verification that is under way, or was a day ago.
    ///
    /// # Errors
    /// Those of the store.
    pub fn verification(
        &self,
        snapshot: &dyn Snapshot,
        user_id: &UserId,
        flow_id: &str,
    ) -> Result<Option<VerificationView>, MachineError> {
        verification::one(snapshot, user_id, flow_id)
    }

    /// All verifications that are under way, or were a day ago.
    ///
    /// # Errors
    /// Those of the store.
    pub fn verifications(
        &self,
        snapshot: &dyn Snapshot,
    ) -> Result<Vec<VerificationView>, MachineError> {
        verification::all(snapshot)
    }

    /// Whether an identity was prepared that the homeserver may not have accepted yet, and no other one is known.
    ///
    /// # Errors
    /// Those of the store.
    pub fn identity_is_prepared(&self, snapshot: &dyn Snapshot) -> Result<bool, MachineError> {
        own_identity::is_prepared(snapshot, &self.own.user_id)
    }

    /// How things stand with the backup.
    ///
    /// # Errors
    /// Those of the store.
    pub fn backup_status(&self, snapshot: &dyn Snapshot) -> Result<BackupStatus, MachineError> {
        key_backup::status(snapshot)
    }

    /// The version of the backup in use and its private key, to restore with. Secret.
    ///
    /// # Errors
    /// Those of the store.
    pub fn backup_key(
        &self,
        snapshot: &dyn Snapshot,
    ) -> Result<Option<(String, BackupDecryptionKey)>, MachineError> {
        key_backup::decryption_key(snapshot)
    }

    /// A page of all room keys, for a key file, and where the next page begins: `None` after the last one. Secret.
    ///
    /// # Errors
    /// Those of the store.
    pub fn room_keys(
        &self,
        snapshot: &dyn Snapshot,
        after: Option<&InboundSessionKey>,
        limit: usize,
    ) -> Result<(Vec<ExportedSession>, Option<InboundSessionKey>), MachineError> {
        key_backup::export(snapshot, after, limit)
    }

    /// A secret of the user's own, by its name in secret storage. Secret.
    ///
    /// # Errors
    /// Those of the store.
    pub fn secret(
        &self,
        snapshot: &dyn Snapshot,
        name: &str,
    ) -> Result<Option<SecretString>, MachineError> {
        let key = NameKey { name: name.to_owned() };
        Ok(snapshot.load::<SecretRecord>(&key)?.map(|record| record.secret))
    }

    /// Whether the private keys of the published own identity are in the store: master, self-signing, user-signing.
    ///
    /// # Errors
    /// Those of the store.
    pub fn identity_keys_here(&self, snapshot: &dyn Snapshot) -> Result<[bool; 3], MachineError> {
        own_identity::private_keys(snapshot, &self.own.user_id)
    }

    /// The login.
    ///
    /// # Errors
    /// Those of the store.
    pub fn login(&self, snapshot: &dyn Snapshot) -> Result<Option<LoginRecord>, MachineError> {
        Ok(snapshot.load(&Only)?)
    }
}
