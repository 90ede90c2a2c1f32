//! Simplified sliding sync (MSC4186, with the extensions of MSC3884 and MSC3885): one response, one step, one
//! transaction, `pos` and the to-device token included.
//!
//! It brings what sync v2 brings in other shapes, and what is done with it is the same code. Two things differ:
//!
//! - The server forgets connections. What is told relative to `pos` (rooms, changed device lists) is lost
//!   then, and everything that may have changed is fetched anew ([`lose_track`]). To-device messages have a token
//!   of their own and are not lost.
//! - The first responses cover the most active rooms only, later ones more, until all have come. From then on the
//!   range has no end to speak of, also in a later connection, so that no room's news can stay outside of it.

use std::collections::BTreeSet;

use herold_store::{
    Snapshot, SnapshotExt,
    records::{Membership, Only, RoomKey, RoomRecord, SlidingSyncRecord},
};
use herold_trust::Policy;
use ruma::OwnedRoomId;
use serde_json::{json, value::RawValue};

use crate::{
    HttpRequest, MachineError, Method, Notice, SyncReport, account, ahead, devices,
    hot::Hot,
    outgoing::SYNC_GRACE,
    rooms::{self, RoomUpdate, own_membership, section_or_notice},
    sync::{lose_track, room_id_or_notice, section, take_to_device},
    txn::Txn,
    wire::{
        EventIdOnly, Events, RawMap, SlidingBody, SlidingE2ee, SlidingExtensions, SlidingRoom,
        SlidingToDevice, parse_section,
    },
};

/// The only connection of this device.
const CONNECTION: &str = "herold";
/// The only list: all rooms, by activity.
const LIST: &str = "all";
/// So many rooms are asked for first...
const FIRST_ROOMS: u64 = 20;
/// ...and so many times as many by each request after, until all have come.
const GROWTH: u64 = 5;
/// The end of the range that has all rooms. (Synapse sends no room of a list without ranges, whatever the
/// proposal says.)
const ALL_ROOMS: u64 = 1_000_000;
/// Events of a room's timeline at most. It never grows: the server would send old events again as if new.
const TIMELINE_LIMIT: u32 = 50;
/// To-device messages in a response at most.
const TO_DEVICE_LIMIT: u32 = 100;

/// What encryption needs of a room's state.
const REQUIRED_STATE: [[&str; 2]; 6] = [
    ["m.room.create", ""],
    ["m.room.encryption", ""],
    ["m.room.history_visibility", ""],
    ["m.room.name", ""],
    ["m.room.member", "$ME"],
    ["m.room.member", "$LAZY"],
];

/// By which endpoint a device synchronises.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SyncMode {
    /// `GET /_matrix/client/v3/sync`.
    #[default]
    V2,
    /// Simplified sliding sync (MSC4186), where the homeserver has it.
    Sliding,
}

/// The kind of sync the app has chosen.
pub(crate) fn mode(snapshot: &dyn Snapshot) -> Result<SyncMode, MachineError> {
    let record: SlidingSyncRecord = snapshot.load(&Only)?.unwrap_or_default();
    Ok(if record.chosen { SyncMode::Sliding } else { SyncMode::V2 })
}

/// Chooses the kind of sync.
pub(crate) fn set_mode(txn: &mut Txn<'_, '_>, mode: SyncMode) -> Result<(), MachineError> {
    let before: Option<SlidingSyncRecord> = txn.load(&Only)?;
    let chosen = mode == SyncMode::Sliding;
    if before.as_ref().is_some_and(|record| record.chosen) != chosen {
        txn.put(&Only, &SlidingSyncRecord { chosen, ..before.unwrap_or_default() });
    }
    Ok(())
}

/// The request for the next response, from the last position committed.
pub(crate) fn request(
    snapshot: &dyn Snapshot,
    timeout_ms: u64,
) -> Result<HttpRequest, MachineError> {
    let record: SlidingSyncRecord = snapshot.load(&Only)?.unwrap_or_default();
    let rooms = if record.all_rooms { ALL_ROOMS } else { record.rooms.max(FIRST_ROOMS) };
    let list = json!({
        "ranges": [[0, rooms.saturating_sub(1)]],
        "required_state": REQUIRED_STATE,
        "timeline_limit": TIMELINE_LIMIT,
    });
    let mut to_device = json!({ "enabled": true, "limit": TO_DEVICE_LIMIT });
    if let (Some(since), Some(to_device)) = (record.to_device, to_device.as_object_mut()) {
        to_device.insert("since".to_owned(), json!(since));
    }
    let body = json!({
        "conn_id": CONNECTION,
        "lists": { LIST: list },
        "extensions": { "to_device": to_device, "e2ee": { "enabled": true } },
    });
    let segments = ["org.matrix.simplified_msc3575", "sync"];
    let timeout = if record.pos.is_some() { timeout_ms } else { 0 };
    let mut request = HttpRequest::new(Method::Post, "/_matrix/client/unstable", &segments)
        .query("timeout", timeout.to_string())
        .timeout(timeout_ms.saturating_add(SYNC_GRACE))
        .json(body.to_string());
    if let Some(pos) = record.pos {
        request = request.query("pos", pos);
    }
    Ok(request)
}

/// Takes a response. The order is that of sync v2.
pub(crate) fn handle(
    txn: &mut Txn<'_, '_>,
    hot: &mut Hot,
    policy: &Policy,
    body: &[u8],
) -> Result<SyncReport, MachineError> {
    let body: SlidingBody = serde_json::from_slice(body)
        .map_err(|_| MachineError::Malformed("a sliding sync response without a position"))?;
    let before: SlidingSyncRecord = txn.load(&Only)?.unwrap_or_default();
    let mut record = before.clone();
    if before.pos.is_none() {
        // Changes are told from this response on. A list that was asked for before may lack the last one.
        lose_track(txn)?;
    }
    let extensions: SlidingExtensions = section(txn, "extensions", body.extensions.as_deref())?;
    let e2ee: SlidingE2ee = section(txn, "extensions.e2ee", extensions.e2ee.as_deref())?;
    devices::handle_device_lists(txn, e2ee.device_lists.as_deref())?;

    let name = "extensions.to_device";
    let to_device: SlidingToDevice = section(txn, name, extensions.to_device.as_deref())?;
    let events = Events { events: section(txn, name, to_device.events.as_deref())? };
    take_to_device(txn, hot, policy, &events)?;
    if let Some(token) = to_device.next_batch.as_deref().and_then(parse_section) {
        record.to_device = Some(token);
    }

    let mut count = 0;
    let rooms: RawMap = section(txn, "rooms", body.rooms.as_deref())?;
    for (room_id, raw) in &rooms {
        if let Some(room_id) = room_id_or_notice(txn, room_id)? {
            count += handle_room(txn, hot, policy, room_id, raw)?;
        }
    }
    account::handle_counts(
        txn,
        e2ee.device_one_time_keys_count.as_deref(),
        e2ee.device_unused_fallback_key_types.as_deref(),
    )?;

    let listed = rooms_in_list(txn, body.lists.as_deref())?;
    if before.pos.is_none() && listed.is_some_and(|listed| listed <= rooms.len() as u64) {
        leave_unlisted(txn, hot, policy, &rooms)?;
    }
    if !record.all_rooms {
        let asked = before.rooms.max(FIRST_ROOMS);
        match listed {
            Some(listed) if listed > asked => record.rooms = asked.saturating_mul(GROWTH),
            _ => record.all_rooms = true,
        }
    }
    record.pos = Some(body.pos.clone());
    if record != before {
        txn.put(&Only, &record);
    }
    Ok(SyncReport {
        to_device: events.events.len(),
        events: count,
        secret_storage: false,
        next_batch: body.pos,
    })
}

/// The server does not know the position any more. The next request starts a new connection, with the same
/// to-device token.
pub(crate) fn handle_unknown_pos(txn: &mut Txn<'_, '_>) -> Result<(), MachineError> {
    let record: SlidingSyncRecord = txn.load(&Only)?.unwrap_or_default();
    if record.pos.is_some() {
        txn.put(&Only, &SlidingSyncRecord { pos: None, ..record });
        // Nothing is to be sent by what may be outdated, however long the new connection takes.
        lose_track(txn)?;
        txn.notice(Notice::SyncStartsOver)?;
    }
    Ok(())
}

/// How many rooms there are in the list.
fn rooms_in_list(
    txn: &mut Txn<'_, '_>,
    lists: Option<&RawValue>,
) -> Result<Option<u64>, MachineError> {
    #[derive(serde::Deserialize)]
    struct Counted {
        count: u64,
    }
    let lists: RawMap = section(txn, "lists", lists)?;
    Ok(lists.get(LIST).and_then(|raw| parse_section::<Counted>(raw)).map(|list| list.count))
}

/// A new connection has brought every room there is: a room that is not among them was left, or its invitation
/// rejected, by another of our devices. The server does not list rooms that their user has left.
fn leave_unlisted(
    txn: &mut Txn<'_, '_>,
    hot: &mut Hot,
    policy: &Policy,
    listed: &RawMap,
) -> Result<(), MachineError> {
    for (RoomKey { room_id }, room) in txn.list::<RoomRecord>(&[])? {
        if room.membership != Membership::Leave && !listed.contains_key(room_id.as_str()) {
            let update = RoomUpdate::default();
            rooms::handle_room(txn, hot, policy, &room_id, Membership::Leave, update)?;
        }
    }
    Ok(())
}

/// Takes a room. Answers how many events its timeline had.
fn handle_room(
    txn: &mut Txn<'_, '_>,
    hot: &mut Hot,
    policy: &Policy,
    room_id: OwnedRoomId,
    raw: &RawValue,
) -> Result<usize, MachineError> {
    let section: SlidingRoom = section_or_notice(txn, Some(&room_id), Some(raw))?;
    let mut gap = [
        &section.initial,
        &section.limited,
        &section.expanded_timeline,
        &section.unstable_expanded_timeline,
    ]
    .into_iter()
    .any(|flag| is_set(flag.as_deref()));
    let shown = section.invite_state.or(section.stripped_state);
    let mut list = |raw: Option<&RawValue>| -> Result<Vec<Box<RawValue>>, MachineError> {
        // What cannot be read may have been a leave.
        gap |= raw.is_some_and(|raw| parse_section::<Vec<Box<RawValue>>>(raw).is_none());
        section_or_notice(txn, Some(&room_id), raw)
    };
    let required = list(section.required_state.as_deref())?;
    let timeline = list(section.timeline.as_deref())?;
    let known: Option<RoomRecord> = txn.load(&RoomKey { room_id: room_id.clone() })?;

    if let Some(shown) = shown {
        let state: Vec<Box<RawValue>> =
            section_or_notice(txn, Some(&room_id), Some(shown.as_ref()))?;
        // Who has knocked waits outside, as in sync v2.
        if own_membership(txn, &state) != Some(Membership::Knock) {
            rooms::handle_invite(txn, policy, &room_id, &state)?;
        }
        return Ok(0);
    }
    let said = section.membership.as_deref().and_then(parse_section);
    let membership = said
        .or_else(|| own_membership(txn, &required))
        .or_else(|| own_membership(txn, &timeline))
        .or_else(|| known.map(|room| room.membership))
        .unwrap_or(Membership::Join);
    let membership = match membership {
        Membership::Join => Membership::Join,
        Membership::Leave | Membership::Ban => Membership::Leave,
        Membership::Invite => {
            rooms::handle_invite(txn, policy, &room_id, &required)?;
            return Ok(0);
        }
        Membership::Knock => return Ok(0),
    };
    // Required state is the state now. What of it is not in the timeline held before it, or nearly so: state
    // resolution may have put it behind.
    let in_timeline: BTreeSet<String> = timeline.iter().filter_map(|raw| event_id(raw)).collect();
    let state = required
        .iter()
        .filter(|raw| event_id(raw).is_none_or(|id| !in_timeline.contains(&id)))
        .cloned()
        .collect();
    let prev_batch = section.prev_batch.as_deref().and_then(parse_section);
    ahead::decrypt(txn, hot, &[(&room_id, &timeline)])?;
    let update = RoomUpdate { state, timeline, state_after: required, gap, prev_batch };
    rooms::handle_room(txn, hot, policy, &room_id, membership, update)
}

/// A flag that is there and not `false`. What is no truth value counts as set: that costs a member list.
fn is_set(raw: Option<&RawValue>) -> bool {
    raw.is_some_and(|raw| parse_section(raw) != Some(false))
}

fn event_id(raw: &RawValue) -> Option<String> {
    Some(parse_section::<EventIdOnly>(raw)?.event_id)
}
