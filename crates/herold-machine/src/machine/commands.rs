//! What the app wants: to send, to forget, to set.

use herold_store::{
    Snapshot,
    records::{
        BlockedRecord, DeviceKey, DeviceRecord, LoginRecord, MemberKey, MemberRecord, Membership,
        Only, OutboundSessionRecord, PolicyRecord, RoomKey, RoomRecord, TrackedUserRecord, UserKey,
    },
};
use herold_trust::{DecryptTrust, Identity, Policy, PolicyFloor, Recipients};
use ruma::{DeviceId, OwnedTransactionId, RoomId, TransactionId, UserId};
use serde_json::Value;

use crate::{
    AppEvent, Context, Forgotten, Machine, MachineError, Pending, Retention, RetentionCursor, Step,
    SyncMode, ToDeviceRecipient, app_to_device, devices, queue, retention, rooms, sliding,
};

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
        let plan = retention::plan(snapshot, cx.now, &self.policy, retention, cursor)?;
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
        policy.lifetimes = policy.lifetimes.shortest(deployment.lifetimes);
        policy.dehydration &= deployment.dehydration;
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
