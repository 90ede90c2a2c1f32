//! Sync v2: one response, one step, one transaction, the token included.

use herold_store::records::{Membership, Only, SyncRecord};
use herold_trust::Policy;
use ruma::OwnedRoomId;
use serde_json::value::RawValue;

use crate::{
    DropReason, MachineError, Notice, account, devices,
    hot::Hot,
    rooms, to_device,
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
    /// The token the next request asks from.
    pub next_batch: String,
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
    devices::handle_device_lists(txn, body.device_lists.as_deref())?;

    let to_device: Events = section(txn, "to_device", body.to_device.as_deref())?;
    for raw in &to_device.events {
        to_device::handle(txn, hot, policy, raw)?;
    }
    if !to_device.events.is_empty() {
        to_device::sweep(txn)?;
        // The next request makes the server forget them.
        txn.require_full();
    }

    let mut events = 0;
    let rooms: Rooms = section(txn, "rooms", body.rooms.as_deref())?;
    let invites: RawMap = section(txn, "rooms.invite", rooms.invite.as_deref())?;
    for (room_id, raw) in &invites {
        if let Some(room_id) = room_id_or_notice(txn, room_id)? {
            rooms::handle_invite(txn, policy, room_id, raw)?;
        }
    }
    for (name, raw, membership) in [
        ("rooms.join", rooms.join, Membership::Join),
        ("rooms.leave", rooms.leave, Membership::Leave),
    ] {
        let rooms: RawMap = section(txn, name, raw.as_deref())?;
        for (room_id, raw) in &rooms {
            if let Some(room_id) = room_id_or_notice(txn, room_id)? {
                events += rooms::handle_room(txn, hot, policy, room_id, membership, raw)?;
            }
        }
    }

    account::handle_counts(
        txn,
        body.device_one_time_keys_count.as_deref(),
        body.device_unused_fallback_key_types.as_deref(),
    )?;
    let token = SyncRecord { next_batch: Some(body.next_batch.clone()) };
    if txn.load::<SyncRecord>(&Only)?.as_ref() != Some(&token) {
        txn.put(&Only, &token);
    }
    Ok(SyncReport { to_device: to_device.events.len(), events, next_batch: body.next_batch })
}

fn section<T: serde::de::DeserializeOwned + Default>(
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

fn room_id_or_notice(
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
