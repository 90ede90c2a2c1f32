//! Room events: taken once, decrypted, attributed, kept in their order.
//!
//! A plaintext is stored with a sender only after the owner of the session and the sender the server
//! names were compared (attack N13).

use herold_crypto::{MegolmError, SessionId, megolm_message_index};
use herold_store::records::{
    Decryption, EventKey, EventRecord, InboundSessionKey, InboundSessionRecord, MegolmIndexKey,
    MegolmIndexRecord, RoomRecord, RoomSessionKey, SessionKey, SessionRoomRecord, TimelineKey,
    TimelineRecord, WaitingKey, WaitingRecord,
};
use herold_trust::{KeySource, MEGOLM};
use ruma::{OwnedEventId, OwnedUserId, RoomId, UserId};
use serde_json::{Value, value::RawValue};

use crate::{
    AppEvent, DropReason, MachineError, Notice, Utd, claims,
    hot::Hot,
    key_requests,
    txn::Txn,
    verification,
    wire::{EventHead, MegolmContent, MegolmPayload, parse},
};

/// A session id longer than this is not one.
pub(crate) const MAX_SESSION_ID: usize = 255;

/// Where an event comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The timeline of a sync response: after everything known.
    Live,
    /// A page of history: before everything known.
    Older,
    /// Fetched on its own.
    Single,
}

/// Takes one event of a room. `None` if it was dropped, with a notice.
pub(crate) fn ingest(
    txn: &mut Txn<'_, '_>,
    hot: &mut Hot,
    room_id: &RoomId,
    room: &mut RoomRecord,
    raw: &RawValue,
    origin: Origin,
) -> Result<Option<OwnedEventId>, MachineError> {
    let head = parse::<EventHead>(raw).and_then(|head| {
        let sender = OwnedUserId::try_from(head.sender.as_str()).ok()?;
        let event_id = OwnedEventId::try_from(head.event_id.as_deref()?).ok()?;
        Some((head, sender, event_id))
    });
    let Some((head, sender, event_id)) = head else {
        txn.notice(Notice::EventDropped {
            room_id: Some(room_id.to_owned()),
            reason: DropReason::Malformed,
        })?;
        return Ok(None);
    };
    let key = EventKey { room_id: room_id.to_owned(), event_id: event_id.clone() };
    if let Some(mut known) = txn.load::<EventRecord>(&key)? {
        if known.order.is_none() && origin != Origin::Single {
            known.order = Some(place(txn, room_id, room, &event_id, origin));
            txn.put(&key, &known);
        }
        return Ok(Some(event_id));
    }
    let origin_server_ts =
        head.origin_server_ts.as_ref().and_then(Value::as_u64).unwrap_or_default();
    let mut record = EventRecord {
        sender,
        event_type: head.event_type,
        origin_server_ts,
        raw: raw.get().to_owned(),
        order: None,
        in_encrypted_room: room.encryption.is_some(),
        decryption: Decryption::Clear,
    };
    if origin != Origin::Single {
        record.order = Some(place(txn, room_id, room, &event_id, origin));
    }
    if record.event_type == "m.room.encrypted" {
        let decryption = match (&head.state_key, &head.content) {
            // Encrypted state is not supported; a ciphertext must not pass for state.
            (Some(_), _) => undecryptable(Utd::UnsupportedAlgorithm, None),
            (None, None) => undecryptable(Utd::BadCiphertext, None),
            (None, Some(content)) => decrypt(txn, hot, &key, &record, content)?,
        };
        set_decryption(&mut record, decryption);
    }
    txn.put(&key, &record);
    if record.event_type == REDACTION {
        redact(txn, room_id, raw)?;
    }
    if origin == Origin::Live {
        verify(txn, &key, &record)?;
        txn.emit(AppEvent::RoomEvent { room_id: room_id.to_owned(), event_id: event_id.clone() })?;
    }
    Ok(Some(event_id))
}

/// Gives an event to the verification that it may belong to.
fn verify(txn: &mut Txn<'_, '_>, key: &EventKey, event: &EventRecord) -> Result<(), MachineError> {
    let ts = event.origin_server_ts;
    let (room_id, event_id, sender) = (&key.room_id, &key.event_id, &event.sender);
    match &event.decryption {
        Decryption::Decrypted { event_type, content, .. } => {
            verification::handle_room_event(txn, room_id, event_id, sender, ts, event_type, content)
        }
        Decryption::Clear if event.raw.contains(verification::PREFIX) => {
            let head = serde_json::from_str::<EventHead>(&event.raw).ok();
            let Some(content) = head.and_then(|head| head.content) else { return Ok(()) };
            let (kind, content) = (&event.event_type, content.get());
            verification::handle_room_event(txn, room_id, event_id, sender, ts, kind, content)
        }
        _ => Ok(()),
    }
}

fn place(
    txn: &mut Txn<'_, '_>,
    room_id: &RoomId,
    room: &mut RoomRecord,
    event_id: &OwnedEventId,
    origin: Origin,
) -> u64 {
    let order = if origin == Origin::Older {
        let order = room.previous_order;
        room.previous_order = order.saturating_sub(1);
        order
    } else {
        let order = room.next_order;
        room.next_order = order.saturating_add(1);
        order
    };
    let key = TimelineKey { room_id: room_id.to_owned(), order };
    txn.put(&key, &TimelineRecord { event_id: event_id.clone() });
    order
}

/// A gap: what is before it is no longer part of the contiguous timeline, and can be fetched again.
pub(crate) fn start_over(
    txn: &mut Txn<'_, '_>,
    room_id: &RoomId,
    room: &mut RoomRecord,
) -> Result<(), MachineError> {
    for (key, place) in txn.list::<TimelineRecord>(&TimelineKey::of(room_id))? {
        txn.delete::<TimelineRecord>(&key);
        let event = EventKey { room_id: room_id.to_owned(), event_id: place.event_id };
        if let Some(mut record) = txn.load::<EventRecord>(&event)? {
            record.order = None;
            txn.put(&event, &record);
        }
    }
    room.next_order = room.next_order.saturating_add(1);
    room.previous_order = room.next_order.saturating_sub(1);
    Ok(())
}

fn undecryptable(reason: Utd, session_id: Option<SessionId>) -> Decryption {
    Decryption::Undecryptable { reason: reason.to_text(), session_id }
}

/// Decrypts the event at `key`. An event whose key is missing, or starts too late, is noted as waiting.
fn decrypt(
    txn: &mut Txn<'_, '_>,
    hot: &mut Hot,
    key: &EventKey,
    event: &EventRecord,
    content: &RawValue,
) -> Result<Decryption, MachineError> {
    let Some(content) = parse::<MegolmContent>(content) else {
        return Ok(undecryptable(Utd::BadCiphertext, None));
    };
    if content.algorithm != MEGOLM {
        return Ok(undecryptable(Utd::UnsupportedAlgorithm, None));
    }
    let (Some(session_id), Some(ciphertext)) = (content.session_id, content.ciphertext) else {
        return Ok(undecryptable(Utd::BadCiphertext, None));
    };
    if session_id.len() > MAX_SESSION_ID {
        return Ok(undecryptable(Utd::BadCiphertext, None));
    }
    let session_id = SessionId::new(session_id);
    let failed = |reason: Utd| undecryptable(reason, Some(session_id.clone()));
    let session_key =
        RoomSessionKey { room_id: key.room_id.clone(), session_id: session_id.clone() };
    let wait = |txn: &mut Txn<'_, '_>| wait_for(txn, key, &session_id, &ciphertext);
    let known = hot.inbound(txn, &session_key)?;
    if known.is_empty() {
        wait(txn)?;
        let by_session = SessionKey { session_id: session_id.clone() };
        // Whoever has the key may have filed it there first: its owner's may still come.
        let elsewhere = txn
            .load::<SessionRoomRecord>(&by_session)?
            .is_some_and(|known| known.room_id != key.room_id);
        return Ok(failed(if elsewhere {
            Utd::RoomMismatch
        } else if was_outside(&event.raw) {
            Utd::NotMemberThen
        } else {
            Utd::MissingKey
        }));
    }
    let records: Vec<&InboundSessionRecord> = known.iter().map(|claim| &claim.record).collect();
    let fitting = claims::fitting(txn, &records, &event.sender)?;
    if fitting.is_empty() {
        // Only others have claimed the session: the sender's own claim may still come.
        wait(txn)?;
        return Ok(failed(Utd::SenderUntrusted));
    }
    let mut decrypted = None;
    let (mut too_early, mut unproved) = (false, false);
    for place in fitting {
        let Some(claim) = known.get_mut(place) else { continue };
        match claim.decrypt(&ciphertext) {
            Ok(found) => {
                decrypted = Some((found, place));
                break;
            }
            Err(error) => {
                too_early |= matches!(error, MegolmError::IndexTooEarly { .. });
                unproved |= claim.record.source != KeySource::Olm;
            }
        }
    }
    let Some(((plaintext, index), place)) = decrypted else {
        if too_early || unproved {
            // A key that was passed on may be wrong.
            wait(txn)?;
        }
        return Ok(failed(if too_early { Utd::IndexTooEarly } else { Utd::BadCiphertext }));
    };
    let Ok(payload) = serde_json::from_slice::<MegolmPayload>(&plaintext) else {
        return Ok(failed(Utd::BadCiphertext));
    };
    if payload.room_id != key.room_id.as_str() {
        return Ok(failed(Utd::RoomMismatch));
    }
    let index_key = MegolmIndexKey {
        room_id: key.room_id.clone(),
        session_id: session_id.clone(),
        index: u64::from(index),
    };
    let this = MegolmIndexRecord {
        event_id: key.event_id.clone(),
        origin_server_ts: event.origin_server_ts,
    };
    match txn.load::<MegolmIndexRecord>(&index_key)? {
        Some(known) if known != this => return Ok(failed(Utd::Replay)),
        Some(_) => {}
        None => {
            let earlier = claims::earlier_ciphertexts(
                txn,
                key,
                event,
                &session_id,
                u64::from(index),
                &ciphertext,
            )?;
            if let Some(claim) = known.get_mut(place)
                && earlier.iter().any(|text| claim.session.decrypt(text).is_ok())
            {
                return Ok(failed(Utd::Replay));
            }
            txn.put(&index_key, &this);
        }
    }
    Ok(Decryption::Decrypted {
        event_type: payload.event_type,
        content: with_relation(payload.content.get(), content.relates_to),
        session_id,
    })
}

/// Notes what came of decrypting an event. If it is clear now, its ciphertext, half of what would be stored,
/// is not kept.
fn set_decryption(event: &mut EventRecord, decryption: Decryption) {
    if matches!(decryption, Decryption::Decrypted { .. }) {
        drop_ciphertext(&mut event.raw);
    }
    event.decryption = decryption;
}

/// Takes the content out of an event.
fn drop_ciphertext(raw: &mut String) {
    #[derive(serde::Deserialize)]
    struct Event<'a> {
        #[serde(borrow)]
        content: &'a RawValue,
    }
    let Ok(event) = serde_json::from_str::<Event<'_>>(raw) else { return };
    let content = event.content.get();
    // The content is a part of the text it was parsed from.
    let start = (content.as_ptr() as usize).saturating_sub(raw.as_ptr() as usize);
    let end = start + content.len();
    if raw.get(start..end).is_some_and(|part| part.starts_with('{')) {
        raw.replace_range(start..end, "{}");
    }
}

/// The decrypted content; a relation that is only outside of the ciphertext, as some clients send it,
/// is copied in (Matrix specification, "Encrypting events", on `m.relates_to`).
fn with_relation(content: &str, outer: Option<Value>) -> String {
    let Some(outer) = outer else { return content.to_owned() };
    match serde_json::from_str::<serde_json::Map<String, Value>>(content) {
        Ok(mut object) if !object.contains_key("m.relates_to") => {
            // An edit is believed only if the sender encrypted that it is one (attack N31).
            if outer.get("rel_type").and_then(Value::as_str) == Some("m.replace") {
                return content.to_owned();
            }
            object.insert("m.relates_to".to_owned(), outer);
            Value::Object(object).to_string()
        }
        _ => content.to_owned(),
    }
}

/// The server says that we were not in the room when the event was sent (`unsigned.membership`). It
/// only words the reason for which nothing can be shown.
fn was_outside(raw: &str) -> bool {
    #[derive(serde::Deserialize)]
    struct Event {
        unsigned: Unsigned,
    }
    #[derive(serde::Deserialize)]
    struct Unsigned {
        membership: String,
    }
    serde_json::from_str::<Event>(raw)
        .is_ok_and(|event| matches!(event.unsigned.membership.as_str(), "leave" | "ban"))
}

fn wait_for(
    txn: &mut Txn<'_, '_>,
    key: &EventKey,
    session_id: &SessionId,
    ciphertext: &str,
) -> Result<(), MachineError> {
    // What names no index is not decrypted by any key, but it is the key that shows it.
    let index = megolm_message_index(ciphertext).map_or(u64::MAX, u64::from);
    txn.put(
        &WaitingKey {
            room_id: key.room_id.clone(),
            session_id: session_id.clone(),
            index,
            event_id: key.event_id.clone(),
        },
        &WaitingRecord,
    );
    key_requests::note_missing(txn, &key.room_id, session_id)
}

/// Tries an event again whose key has come, as that of `claimant` if that is proved.
pub(crate) fn decrypt_late(
    txn: &mut Txn<'_, '_>,
    hot: &mut Hot,
    waiting: &WaitingKey,
    claimant: Option<&UserId>,
) -> Result<(), MachineError> {
    let key = EventKey { room_id: waiting.room_id.clone(), event_id: waiting.event_id.clone() };
    let event = txn.load::<EventRecord>(&key)?;
    if event.as_ref().is_some_and(|event| {
        claimant.is_some_and(|claimant| claimant != event.sender)
            && matches!(&event.decryption, Decryption::Undecryptable { reason, .. }
                if Utd::parse(reason) == Utd::SenderUntrusted)
    }) {
        return Ok(()); // one more that is not its sender's
    }
    txn.delete::<WaitingRecord>(waiting);
    let Some(mut event) = event else { return Ok(()) };
    let content = serde_json::from_str::<EventHead>(&event.raw).ok().and_then(|head| head.content);
    let Some(content) = content else { return Ok(()) };
    let decryption = decrypt(txn, hot, &key, &event, &content)?;
    set_decryption(&mut event, decryption);
    txn.put(&key, &event);
    if matches!(event.decryption, Decryption::Decrypted { .. }) {
        verify(txn, &key, &event)?;
        txn.emit(AppEvent::Decrypted { room_id: key.room_id, event_id: key.event_id })?;
    }
    Ok(())
}

/// The type of an event that takes another's content away.
pub(crate) const REDACTION: &str = "m.room.redaction";

/// The event that a redaction names: beside its content up to room version 10, within it from 11 on.
pub(crate) fn redacts(raw: &str) -> Option<OwnedEventId> {
    let event: Value = serde_json::from_str(raw).ok()?;
    let target = event.get("redacts").or_else(|| event.get("content")?.get("redacts"))?;
    OwnedEventId::try_from(target.as_str()?).ok()
}

/// Takes the content of a redacted event away, decrypted text included.
fn redact(txn: &mut Txn<'_, '_>, room_id: &RoomId, raw: &RawValue) -> Result<(), MachineError> {
    let Some(event_id) = redacts(raw.get()) else { return Ok(()) };
    let key = EventKey { room_id: room_id.to_owned(), event_id };
    let Some(mut event) = txn.load::<EventRecord>(&key)? else { return Ok(()) };
    if let Ok(Value::Object(mut object)) = serde_json::from_str::<Value>(&event.raw) {
        object.insert("content".to_owned(), Value::Object(serde_json::Map::new()));
        event.raw = Value::Object(object).to_string();
    }
    if let Decryption::Decrypted { content, .. } = &mut event.decryption {
        "{}".clone_into(content);
    }
    txn.put(&key, &event);
    Ok(())
}

/// The claim that a decrypted event of `sender` is attributed to, as far as is known now.
pub(crate) fn owner(
    snapshot: &dyn herold_store::Snapshot,
    room_id: &RoomId,
    session_id: &SessionId,
    sender: &UserId,
) -> Result<Option<InboundSessionRecord>, MachineError> {
    use herold_store::SnapshotExt as _;
    let prefix = InboundSessionKey::of(room_id, session_id);
    let known = snapshot.list::<InboundSessionRecord>(&prefix, usize::MAX)?;
    let records: Vec<&InboundSessionRecord> = known.iter().map(|(_, record)| record).collect();
    let best = claims::fitting(&snapshot, &records, sender)?.first().copied();
    Ok(best.and_then(|place| known.into_iter().nth(place)).map(|(_, record)| record))
}
