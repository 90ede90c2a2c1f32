//! Room keys received: what is believed of them, and the events that waited for them.

use herold_crypto::{InboundGroupSession, SessionId, SessionRelation};
use herold_store::{
    StoreError,
    records::{
        InboundSessionRecord, RoomSessionKey, SessionKey, SessionRoomRecord, WaitingKey,
        WaitingRecord, WithheldRecord,
    },
};
use herold_trust::{KeySource, MEGOLM};
use ruma::{OwnedRoomId, OwnedUserId};
use serde_json::value::RawValue;

use crate::{
    DropReason, MachineError, Notice,
    hot::Hot,
    timeline,
    to_device::{OlmEvent, dropped},
    txn::Txn,
    wire::{RoomKeyContent, WithheldContent, parse},
};

/// As many notes of `m.room_key.withheld` are kept.
const MAX_WITHHELD: usize = 1000;
/// Longer session ids and codes from outside are refused.
const MAX_TEXT: usize = 255;

/// Takes an `m.room_key` whose Olm payload has been checked.
pub(crate) fn handle_room_key(
    txn: &mut Txn<'_, '_>,
    hot: &mut Hot,
    event: OlmEvent,
) -> Result<(), MachineError> {
    let Some(content) = parse::<RoomKeyContent>(&event.content) else {
        return dropped(txn, Some(event.sender), DropReason::Malformed);
    };
    if content.algorithm != MEGOLM {
        return dropped(txn, Some(event.sender), DropReason::UnsupportedAlgorithm);
    }
    let (Ok(room_id), Ok(session)) = (
        OwnedRoomId::try_from(content.room_id.as_str()),
        InboundGroupSession::from_session_key(&content.session_key),
    ) else {
        return dropped(txn, Some(event.sender), DropReason::Malformed);
    };
    if session.session_id().as_str() != content.session_id {
        return dropped(txn, Some(event.sender), DropReason::RoomKeyConflict);
    }
    let key = RoomSessionKey { room_id, session_id: session.session_id() };
    let record = InboundSessionRecord {
        pickle: session.to_record(),
        sender_key: event.sender_key,
        sender_ed25519: Some(event.sender_ed25519),
        sender: Some(event.sender.clone()),
        source: KeySource::Olm,
        first_known_index: session.first_known_index(),
        shared_history: content.shared_history.unwrap_or(false),
        received_at: txn.cx.now,
        backed_up: None,
    };
    if !accepts(txn, &key, &record, session)? {
        return dropped(txn, Some(event.sender), DropReason::RoomKeyConflict);
    }
    take(txn, hot, &key, &record)
}

/// Whether a new key may stand beside what is known of its session (attack N24). A second key of the
/// same sender at a later index is right, but changes nothing, and is quietly not taken.
fn accepts(
    txn: &Txn<'_, '_>,
    key: &RoomSessionKey,
    new: &InboundSessionRecord,
    mut session: InboundGroupSession,
) -> Result<bool, MachineError> {
    let Some(known) = txn.load::<InboundSessionRecord>(key)? else { return Ok(true) };
    let mut stored = restore(&known)?;
    let same_owner = known.sender_key == new.sender_key
        && known.sender_ed25519 == new.sender_ed25519
        && known.sender == new.sender;
    Ok(match session.relation(&mut stored) {
        // The same ratchet from the owner's own Olm channel is worth more than a copy of it.
        SessionRelation::Equal | SessionRelation::Better => {
            known.source != KeySource::Olm || same_owner
        }
        SessionRelation::Worse => known.source == KeySource::Olm && same_owner,
        SessionRelation::Unconnected => false,
    })
}

/// Stores a key and decrypts what waited for it.
fn take(
    txn: &mut Txn<'_, '_>,
    hot: &mut Hot,
    key: &RoomSessionKey,
    record: &InboundSessionRecord,
) -> Result<(), MachineError> {
    let known = txn.load::<InboundSessionRecord>(key)?;
    if known.is_some_and(|known| {
        known.source == KeySource::Olm && known.first_known_index <= record.first_known_index
    }) {
        return Ok(());
    }
    txn.put(key, record);
    let by_session = SessionKey { session_id: key.session_id.clone() };
    if !txn.contains::<SessionRoomRecord>(&by_session)? {
        txn.put(&by_session, &SessionRoomRecord { room_id: key.room_id.clone() });
    }
    txn.require_full();
    txn.delete::<WithheldRecord>(key);
    hot.forget_inbound(key);
    let waiting =
        txn.list::<WaitingRecord>(&WaitingKey::for_session(&key.room_id, &key.session_id))?;
    for (waiting, _) in waiting {
        timeline::decrypt_late(txn, hot, &waiting)?;
    }
    Ok(())
}

/// Takes `m.room_key.withheld`. It is in the clear, so anybody may have made it: it explains an event
/// that cannot be decrypted, and nothing else.
pub(crate) fn handle_withheld(
    txn: &mut Txn<'_, '_>,
    sender: OwnedUserId,
    content: &RawValue,
) -> Result<(), MachineError> {
    let Some(content) = parse::<WithheldContent>(content) else {
        return dropped(txn, Some(sender), DropReason::Malformed);
    };
    if content.code.len() > MAX_TEXT {
        return dropped(txn, Some(sender), DropReason::Malformed);
    }
    let room_id = content.room_id.and_then(|room_id| OwnedRoomId::try_from(room_id).ok());
    if let (Some(room_id), Some(session_id)) = (&room_id, content.session_id)
        && session_id.len() <= MAX_TEXT
    {
        let key =
            RoomSessionKey { room_id: room_id.clone(), session_id: SessionId::new(session_id) };
        let known = txn.load::<WithheldRecord>(&key)?;
        if txn.contains::<InboundSessionRecord>(&key)?
            || known.as_ref().is_some_and(|known| known.sender == sender)
        {
            return Ok(()); // a key we have is not withheld; a second word changes nothing
        }
        if known.is_none() {
            forget_oldest_withheld(txn)?;
        }
        txn.put(
            &key,
            &WithheldRecord {
                code: content.code.clone(),
                sender: sender.clone(),
                received_at: txn.cx.now,
            },
        );
    }
    Ok(txn.notice(Notice::KeyWithheld { room_id, sender, code: content.code })?)
}

/// Anybody can write such notes, about anything: no more than some are kept.
fn forget_oldest_withheld(txn: &mut Txn<'_, '_>) -> Result<(), MachineError> {
    let notes = txn.list::<WithheldRecord>(&[])?;
    if notes.len() >= MAX_WITHHELD
        && let Some((key, _)) = notes.into_iter().min_by_key(|(_, note)| note.received_at)
    {
        txn.delete::<WithheldRecord>(&key);
    }
    Ok(())
}

/// The live session of a record.
pub(crate) fn restore(record: &InboundSessionRecord) -> Result<InboundGroupSession, StoreError> {
    InboundGroupSession::from_record(record.pickle.as_slice())
        .map_err(|_| StoreError::Corrupt("a room key".to_owned()))
}
