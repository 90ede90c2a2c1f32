//! Asking our own other devices for room keys, and taking what they forward
//! (Matrix specification, "Key requests").
//!
//! Only verified devices of our own user are asked and believed, and each key is asked for once. A key that
//! was passed on proves nothing of who made it: it is stored as such, and its messages are shown so
//! (CVE-2022-39246 and its kin).

use std::time::Duration;

use herold_crypto::{
    Curve25519PublicKey, InboundGroupSession, SessionId, curve25519_from_base64,
    ed25519_from_base64,
};
use herold_store::records::{
    BackoffRecord, BlockedRecord, CounterRecord, DeviceKey, DeviceRecord, EventKey, EventRecord,
    IdentityRecord, InboundSessionKey, InboundSessionRecord, KeyRequestRecord, KeyRequestState,
    NameKey, RoomSessionKey, UserKey, VerifiedIdentityRecord, WaitingKey, WaitingRecord,
};
use herold_trust::{Device, KeySource, MEGOLM, Timestamp, is_verified};
use ruma::{OwnedRoomId, RoomId};
use serde_json::{Value, json};

use crate::{
    DropReason, MachineError,
    hot::Hot,
    messages::Messages,
    room_keys::{self, Taken},
    to_device::{OlmEvent, dropped},
    txn::Txn,
    wire::{ForwardedRoomKeyContent, parse},
};

/// A key is given so long to come by itself.
const GRACE: Duration = Duration::from_secs(5);
/// As many keys are asked for in [`WINDOW`]: no more than our other devices answer.
const MAX_ASKED: u64 = 40;
const WINDOW: Duration = Duration::from_secs(3600);
/// As many keys wait to be asked for. Anybody can send events under sessions that do not exist.
const MAX_NOTED: u64 = 1000;
/// A key that has been passed on more often is refused.
const MAX_FORWARDERS: usize = 16;

/// When keys are next to be asked for.
const TIMER: &str = "key_requests";
/// How many keys are noted, and not asked for yet.
const NOTED: &str = "key_requests/noted";
/// How many have been asked for in this window, and when the window ends, in milliseconds.
const ASKED: &str = "key_requests/asked";
const WINDOW_END: &str = "key_requests/window_end";

fn name(name: &str) -> NameKey {
    NameKey { name: name.to_owned() }
}

fn set_number(txn: &mut Txn<'_, '_>, of: &str, next: u64) {
    txn.put(&name(of), &CounterRecord { next });
}

fn set_timer(txn: &mut Txn<'_, '_>, retry_at: Timestamp) {
    txn.put(&name(TIMER), &BackoffRecord { failures: 0, retry_at });
}

/// An event waits for this session's key.
pub(crate) fn note_missing(
    txn: &mut Txn<'_, '_>,
    room_id: &RoomId,
    session_id: &SessionId,
) -> Result<(), MachineError> {
    let key = RoomSessionKey { room_id: room_id.to_owned(), session_id: session_id.clone() };
    let noted = txn.current_number(NOTED)?;
    if txn.contains::<KeyRequestRecord>(&key)? || noted >= MAX_NOTED {
        return Ok(());
    }
    let due = txn.cx.now.saturating_add(GRACE);
    let request_id = txn.cx.random_hex(16);
    txn.put(&key, &KeyRequestRecord { request_id, state: KeyRequestState::Noted(due) });
    set_number(txn, NOTED, noted + 1);
    if !txn.contains::<BackoffRecord>(&name(TIMER))? {
        set_timer(txn, due);
    }
    Ok(())
}

/// Our own devices or our identity have changed: there may be somebody to ask now.
pub(crate) fn look_again(txn: &mut Txn<'_, '_>) -> Result<(), MachineError> {
    if txn.current_number(NOTED)? > 0 {
        set_timer(txn, txn.cx.now);
    }
    Ok(())
}

/// Our own user's other devices that are verified and not blocked.
pub(crate) fn verified_devices(txn: &Txn<'_, '_>) -> Result<Vec<Device>, MachineError> {
    let own = txn.own();
    let mut verified = Vec::new();
    for (_, record) in txn.list::<DeviceRecord>(&DeviceKey::of(&own.user_id))? {
        if is_verified_own(txn, &record.device)? && !is_blocked(txn, &record.device)? {
            verified.push(record.device);
        }
    }
    Ok(verified)
}

/// Whether this is another device of our own user, and verified. It is its keys that count. A dehydrated one neither asks
/// nor answers.
pub(crate) fn is_verified_own(txn: &Txn<'_, '_>, device: &Device) -> Result<bool, MachineError> {
    let own = txn.own();
    if device.dehydrated
        || device.user_id != own.user_id
        || device.device_id == own.device_id
        || device.keys.curve25519 == own.keys.curve25519
    {
        return Ok(false);
    }
    let user = UserKey { user_id: own.user_id.clone() };
    let identity = txn.load::<IdentityRecord>(&user)?.map(|record| record.identity);
    let master = txn.load::<VerifiedIdentityRecord>(&user)?.map(|record| record.master);
    Ok(is_verified(device, identity.as_ref(), master.as_ref()))
}

/// Whether the app's user has blocked the device.
pub(crate) fn is_blocked(txn: &Txn<'_, '_>, device: &Device) -> Result<bool, MachineError> {
    let key = DeviceKey { user_id: device.user_id.clone(), device_id: device.device_id.clone() };
    Ok(txn.contains::<BlockedRecord>(&key)?)
}

/// Asks for the keys that have not come in time, if there is anybody to ask.
pub(crate) fn ask(txn: &mut Txn<'_, '_>) -> Result<(), MachineError> {
    let now = txn.cx.now;
    let Some(timer) = txn.load::<BackoffRecord>(&name(TIMER))? else { return Ok(()) };
    // A time further ahead than a window comes from a clock that was wrong.
    if now < timer.retry_at && timer.retry_at <= now.saturating_add(WINDOW) {
        return Ok(());
    }
    txn.delete::<BackoffRecord>(&name(TIMER));
    let devices = verified_devices(txn)?;
    if devices.is_empty() {
        return Ok(()); // see `look_again`
    }
    let mut window_end = Timestamp::from_millis(txn.current_number(WINDOW_END)?);
    let mut asked = txn.current_number(ASKED)?;
    if window_end <= now || window_end > now.saturating_add(WINDOW) {
        window_end = now.saturating_add(WINDOW);
        asked = 0;
    }
    let mut noted = txn.current_number(NOTED)?;
    let mut next: Option<Timestamp> = None;
    for (key, record) in txn.list::<KeyRequestRecord>(&[])? {
        let KeyRequestState::Noted(due) = record.state else { continue };
        let waiting = WaitingKey::for_session(&key.room_id, &key.session_id);
        let waiting = txn.list::<WaitingRecord>(&waiting)?;
        let Some((waiting, _)) = waiting.into_iter().next() else {
            txn.delete::<KeyRequestRecord>(&key);
            noted = noted.saturating_sub(1);
            continue;
        };
        let due = if asked >= MAX_ASKED { due.max(window_end) } else { due };
        if due > now && due <= now.saturating_add(WINDOW) {
            next = Some(next.map_or(due, |next| next.min(due)));
            continue;
        }
        let content = request(txn, &key, &waiting, &record.request_id)?;
        send(txn, &devices, &content)?;
        let ids = devices.iter().map(|device| device.device_id.clone()).collect();
        let state = KeyRequestState::Asked(ids);
        txn.put(&key, &KeyRequestRecord { state, ..record });
        noted = noted.saturating_sub(1);
        asked += 1;
    }
    set_number(txn, NOTED, noted);
    set_number(txn, ASKED, asked);
    set_number(txn, WINDOW_END, window_end.as_millis());
    if let Some(next) = next {
        set_timer(txn, next);
    }
    Ok(())
}

/// The content of an `m.room_key_request`.
fn request(
    txn: &Txn<'_, '_>,
    key: &RoomSessionKey,
    waiting: &WaitingKey,
    request_id: &str,
) -> Result<Value, MachineError> {
    let mut body = json!({
        "algorithm": MEGOLM,
        "room_id": key.room_id,
        "session_id": key.session_id.as_str(),
    });
    // Deprecated, but still to be sent if the event has it.
    let event = EventKey { room_id: waiting.room_id.clone(), event_id: waiting.event_id.clone() };
    let event: Option<EventRecord> = txn.load(&event)?;
    let event = event.and_then(|event| serde_json::from_str::<Value>(&event.raw).ok());
    let sender_key = event.as_ref().and_then(|event| event.get("content")?.get("sender_key"));
    if let (Some(object), Some(Value::String(sender_key))) = (body.as_object_mut(), sender_key)
        && sender_key.len() <= room_keys::MAX_TEXT
    {
        object.insert("sender_key".to_owned(), json!(sender_key));
    }
    Ok(json!({
        "action": "request",
        "body": body,
        "request_id": request_id,
        "requesting_device_id": txn.own().device_id,
    }))
}

fn send(txn: &mut Txn<'_, '_>, devices: &[Device], content: &Value) -> Result<(), MachineError> {
    let content = content.to_string();
    let mut messages = Messages::default();
    for device in devices {
        messages.add(device, content.clone());
    }
    messages.enqueue(txn, "m.room_key_request")?;
    Ok(())
}

/// A key has come. If no event waits for the session any more, it is not asked for, or no longer.
pub(crate) fn note_key(txn: &mut Txn<'_, '_>, key: &RoomSessionKey) -> Result<(), MachineError> {
    let Some(record) = txn.load::<KeyRequestRecord>(key)? else { return Ok(()) };
    let waiting = WaitingKey::for_session(&key.room_id, &key.session_id);
    if !txn.list::<WaitingRecord>(&waiting)?.is_empty() {
        return Ok(());
    }
    match &record.state {
        KeyRequestState::Done => {}
        KeyRequestState::Noted(_) => {
            txn.delete::<KeyRequestRecord>(key);
            let noted = txn.current_number(NOTED)?.saturating_sub(1);
            set_number(txn, NOTED, noted);
        }
        KeyRequestState::Asked(device_ids) => {
            let own = txn.own();
            let mut devices = Vec::new();
            for device_id in device_ids {
                let device =
                    DeviceKey { user_id: own.user_id.clone(), device_id: device_id.clone() };
                devices.extend(txn.load::<DeviceRecord>(&device)?.map(|record| record.device));
            }
            let content = json!({
                "action": "request_cancellation",
                "request_id": record.request_id,
                "requesting_device_id": own.device_id,
            });
            send(txn, &devices, &content)?;
            txn.put(key, &KeyRequestRecord { state: KeyRequestState::Done, ..record });
        }
    }
    Ok(())
}

/// Takes an `m.forwarded_room_key` whose Olm payload has been checked: if that very key has been asked for,
/// and a verified device of our own forwards it (attacks N05 and N06).
pub(crate) fn handle_forwarded(
    txn: &mut Txn<'_, '_>,
    hot: &mut Hot,
    event: OlmEvent,
) -> Result<(), MachineError> {
    let Some(content) = parse::<ForwardedRoomKeyContent>(&event.content) else {
        return dropped(txn, Some(event.sender), DropReason::Malformed);
    };
    if content.algorithm != MEGOLM {
        return dropped(txn, Some(event.sender), DropReason::UnsupportedAlgorithm);
    }
    let Ok(room_id) = OwnedRoomId::try_from(content.room_id.as_str()) else {
        return dropped(txn, Some(event.sender), DropReason::Malformed);
    };
    let session_id = SessionId::new(content.session_id.clone());
    let key = RoomSessionKey { room_id: room_id.clone(), session_id: session_id.clone() };
    let asked = txn
        .load::<KeyRequestRecord>(&key)?
        .is_some_and(|record| matches!(record.state, KeyRequestState::Asked(_)));
    if !asked {
        return dropped(txn, Some(event.sender), DropReason::Unsolicited);
    }
    let verified = match &event.device {
        Some(device) => is_verified_own(txn, device)? && !is_blocked(txn, device)?,
        None => false,
    };
    if !verified {
        return dropped(txn, Some(event.sender), DropReason::SenderUntrusted);
    }
    let (Ok(session), Ok(sender_key), Ok(sender_ed25519), Some(mut forwarders)) = (
        InboundGroupSession::import(&content.session_key),
        curve25519_from_base64(&content.sender_key),
        ed25519_from_base64(&content.sender_claimed_ed25519_key),
        chain(&content.forwarding_curve25519_key_chain),
    ) else {
        return dropped(txn, Some(event.sender), DropReason::Malformed);
    };
    if session.session_id() != session_id {
        return dropped(txn, Some(event.sender), DropReason::RoomKeyConflict);
    }
    forwarders.push(event.sender_key);
    let key = InboundSessionKey { room_id, session_id, sender_key };
    let record = InboundSessionRecord {
        pickle: session.to_record(),
        sender_key,
        sender_ed25519: Some(sender_ed25519),
        sender: None,
        source: KeySource::Forwarded,
        first_known_index: session.first_known_index(),
        shared_history: false,
        received_at: txn.cx.now,
        forwarders,
        shared_by: None,
    };
    match room_keys::take(txn, hot, &key, record)? {
        Taken::Refused => dropped(txn, Some(event.sender), DropReason::RoomKeyConflict),
        Taken::New | Taken::Known => Ok(()),
    }
}

/// The devices that a key has gone through. `None` if these are no keys, or too many.
fn chain(keys: &[String]) -> Option<Vec<Curve25519PublicKey>> {
    if keys.len() > MAX_FORWARDERS {
        return None;
    }
    keys.iter().map(|key| curve25519_from_base64(key).ok()).collect()
}
