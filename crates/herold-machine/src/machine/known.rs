//! Getters of what is known.

use herold_crypto::{BackupDecryptionKey, ExportedSession, SecretString};
use herold_store::{
    Snapshot, SnapshotExt as _,
    records::{
        BlockedRecord, DeviceKey, DeviceRecord, EventKey, EventRecord, IdentityRecord,
        InboundSessionKey, LoginRecord, MemberKey, MemberRecord, NameKey, Only, OutdatedUserRecord,
        QueueRecord, RoomKey, RoomRecord, SecretRecord, TimelineKey, TimelineRecord,
        TrackedUserRecord, UserKey, VerifiedDeviceRecord,
    },
};
use herold_trust::{Device, Identity, IdentityState, Timestamp, is_cross_signed};
use ruma::{EventId, OwnedRoomId, OwnedUserId, RoomId, UserId};

use crate::{
    BackupStatus, Forgotten, Health, Machine, MachineError, Retention, RetentionCursor, RoomEvent,
    SyncMode, VerificationView, health, key_backup, own_identity, retention, sliding, verification,
    view,
};

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
        let plan = retention::plan(snapshot, now, &self.policy, retention, cursor)?;
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

    /// The device in figures, for a report of what is wrong with it. It names nobody and nothing; reads most of the
    /// store.
    ///
    /// # Errors
    /// Those of the store.
    pub fn health(&self, snapshot: &dyn Snapshot, now: Timestamp) -> Result<Health, MachineError> {
        health::look(snapshot, now)
    }
}
