//! Sync v2: one response, one step, one transaction, the token included.

use herold_store::{
    Snapshot, SnapshotExt as _,
    records::{Membership, Only, RoomRecord, SlidingSyncRecord, SyncRecord, TrackedUserRecord},
};
use herold_trust::Policy;
use ruma::{OwnedRoomId, RoomId};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    DropReason, MachineError, Notice, SyncMode, account, ahead, devices,
    hot::Hot,
    key_backup,
    rooms::{self, RoomUpdate},
    to_device,
    txn::Txn,
    wire::{Events, RawMap, Rooms, SyncBody, parse_section},
};

/// What a sync response brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyncReport {
    /// To-device events.
    pub to_device: usize,
    /// Room events in timelines.
    pub events: usize,
    /// Something of the account's secret storage may have changed. Only sync v2 tells.
    pub secret_storage: bool,
    /// The token the next request asks from.
    pub next_batch: String,
}

/// From where a sync request asks: the token, or the position and the to-device token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyncPosition {
    mode: SyncMode,
    tokens: [Option<String>; 2],
}

impl SyncPosition {
    pub(crate) fn of(snapshot: &dyn Snapshot, mode: SyncMode) -> Result<Self, MachineError> {
        let tokens = match mode {
            SyncMode::V2 => {
                [snapshot.load::<SyncRecord>(&Only)?.unwrap_or_default().next_batch, None]
            }
            SyncMode::Sliding => {
                let record = snapshot.load::<SlidingSyncRecord>(&Only)?.unwrap_or_default();
                [record.pos, record.to_device]
            }
        };
        Ok(Self { mode, tokens })
    }

    /// The kind of sync.
    #[must_use]
    pub fn mode(&self) -> SyncMode {
        self.mode
    }

    pub(crate) fn is_current(&self, snapshot: &dyn Snapshot) -> Result<bool, MachineError> {
        Ok(Self::of(snapshot, self.mode)? == *self)
    }
}

/// Takes a response of `GET /sync`.
///
/// The order matters: changes of device lists before anything is encrypted or shown by them, to-device
/// events before the room events whose keys they bring.
pub(crate) fn handle(
    txn: &mut Txn<'_, '_>,
    hot: &mut Hot,
    policy: &Policy,
    body: &[u8],
) -> Result<SyncReport, MachineError> {
    let body: SyncBody = serde_json::from_slice(body)
        .map_err(|_| MachineError::Malformed("a sync response without a token"))?;
    let before: Option<SyncRecord> = txn.load(&Only)?;
    if before.as_ref().is_none_or(|before| before.next_batch.is_none()) {
        // A response without a beginning does not say what changed before it.
        lose_track(txn)?;
    }
    devices::handle_device_lists(txn, body.device_lists.as_deref())?;
    let to_device: Events = section(txn, "to_device", body.to_device.as_deref())?;
    take_to_device(txn, hot, policy, &to_device)?;

    let mut events = 0;
    let rooms: Rooms = section(txn, "rooms", body.rooms.as_deref())?;
    let invites: RawMap = section(txn, "rooms.invite", rooms.invite.as_deref())?;
    for (room_id, raw) in &invites {
        if let Some(room_id) = room_id_or_notice(txn, room_id)? {
            let state = rooms::read_invite(txn, &room_id, raw)?;
            rooms::handle_invite(txn, policy, &room_id, &state)?;
        }
    }
    let mut updates = Vec::new();
    for (name, raw, membership) in [
        ("rooms.join", rooms.join, Membership::Join),
        ("rooms.leave", rooms.leave, Membership::Leave),
    ] {
        let rooms: RawMap = section(txn, name, raw.as_deref())?;
        for (room_id, raw) in &rooms {
            if let Some(room_id) = room_id_or_notice(txn, room_id)? {
                let update = rooms::read_section(txn, &room_id, raw)?;
                updates.push((room_id, membership, update));
            }
        }
    }
    decrypt_ahead(txn, hot, &updates)?;
    for (room_id, membership, update) in updates {
        events += rooms::handle_room(txn, hot, policy, &room_id, membership, update)?;
    }

    account::handle_counts(
        txn,
        body.device_one_time_keys_count.as_deref(),
        body.device_unused_fallback_key_types.as_deref(),
    )?;
    let token = SyncRecord { next_batch: Some(body.next_batch.clone()) };
    if before.as_ref() != Some(&token) {
        txn.put(&Only, &token);
    }
    Ok(SyncReport {
        to_device: to_device.events.len(),
        events,
        secret_storage: is_of_secret_storage(body.account_data.as_deref()),
        next_batch: body.next_batch,
    })
}

/// Whether there is something of the secret storage among the account's data.
fn is_of_secret_storage(account_data: Option<&RawValue>) -> bool {
    #[derive(Deserialize)]
    struct AccountData {
        #[serde(default)]
        events: Vec<Typed>,
    }
    #[derive(Deserialize)]
    struct Typed {
        #[serde(rename = "type")]
        kind: String,
    }
    let data = account_data.and_then(crate::wire::parse::<AccountData>);
    data.is_some_and(|data| {
        data.events.iter().any(|event| {
            event.kind.starts_with("m.secret_storage.")
                || event.kind.starts_with("m.cross_signing.")
                || event.kind == key_backup::SECRET
        })
    })
}

/// Decrypts the messages of all timelines, several at a time if somebody does that.
fn decrypt_ahead(
    txn: &Txn<'_, '_>,
    hot: &mut Hot,
    updates: &[(OwnedRoomId, Membership, RoomUpdate)],
) -> Result<(), MachineError> {
    let timelines: Vec<(&RoomId, &[Box<RawValue>])> = updates
        .iter()
        .map(|(room_id, _, update)| (&**room_id, update.timeline.as_slice()))
        .collect();
    ahead::decrypt(txn, hot, &timelines)
}

/// Takes the to-device events of a response.
pub(crate) fn take_to_device(
    txn: &mut Txn<'_, '_>,
    hot: &mut Hot,
    policy: &Policy,
    to_device: &Events,
) -> Result<(), MachineError> {
    for raw in &to_device.events {
        to_device::handle(txn, hot, policy, raw)?;
    }
    if !to_device.events.is_empty() {
        to_device::sweep(txn)?;
        // The next request makes the server forget them.
        txn.require_full();
    }
    Ok(())
}

/// What has happened since the last response will never be told: every device list is outdated, every room's
/// members are to be fetched, and the next message uses a new session everywhere.
pub(crate) fn lose_track(txn: &mut Txn<'_, '_>) -> Result<(), MachineError> {
    for (key, tracked) in txn.list::<TrackedUserRecord>(&[])? {
        devices::mark_outdated(txn, &key, tracked)?;
    }
    txn.next_number(devices::GENERATION)?;
    for (key, mut room) in txn.list::<RoomRecord>(&[])? {
        if room.membership == Membership::Join {
            rooms::lose_members(txn, &key.room_id, &mut room)?;
            txn.put(&key, &room);
        }
    }
    Ok(())
}

/// A section, or the default with a notice if it is malformed.
pub(crate) fn section<T: serde::de::DeserializeOwned + Default>(
    txn: &mut Txn<'_, '_>,
    name: &str,
    raw: Option<&RawValue>,
) -> Result<T, MachineError> {
    match raw.map(parse_section) {
        None => Ok(T::default()),
        Some(Some(section)) => Ok(section),
        Some(None) => {
            txn.notice(Notice::SectionDropped { section: name.to_owned() })?;
            Ok(T::default())
        }
    }
}

/// A room's id, or a notice.
pub(crate) fn room_id_or_notice(
    txn: &mut Txn<'_, '_>,
    room_id: &str,
) -> Result<Option<OwnedRoomId>, MachineError> {
    match OwnedRoomId::try_from(room_id) {
        Ok(room_id) => Ok(Some(room_id)),
        Err(_) => {
            txn.notice(Notice::EventDropped { room_id: None, reason: DropReason::Malformed })?;
            Ok(None)
        }
    }
}
