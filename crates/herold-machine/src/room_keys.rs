//! Room keys received: what is believed of them, and the events that waited for them.

use herold_crypto::{InboundGroupSession, SessionId, SessionRelation};
use herold_store::{
    StoreError,
    records::{
        InboundSessionKey, InboundSessionRecord, RoomSessionKey, SessionKey, SessionRoomRecord,
        WaitingKey, WaitingRecord, WithheldRecord,
    },
};
use herold_trust::{KeySource, MEGOLM, WithheldCode};
use ruma::{OwnedRoomId, OwnedUserId};
use serde_json::value::RawValue;

use crate::{
    DropReason, MachineError, Notice, claims,
    history_import::is_not_shared,
    hot::Hot,
    key_backup, key_requests, timeline,
    to_device::{OlmEvent, dropped},
    txn::Txn,
    wire::{RoomKeyContent, WithheldContent, parse},
};

/// As many notes of `m.room_key.withheld` are kept.
const MAX_WITHHELD: usize = 1000;
/// Longer session ids and codes from outside are refused.
pub(crate) const MAX_TEXT: usize = 255;

/// Takes an `m.room_key` whose Olm payload has been checked. Answers what became of it.
pub(crate) fn handle_room_key(
    txn: &mut Txn<'_, '_>,
    hot: &mut Hot,
    event: OlmEvent,
) -> Result<Taken, MachineError> {
    let Some(content) = parse::<RoomKeyContent>(&event.content) else {
        return refused(txn, event.sender, DropReason::Malformed);
    };
    if content.algorithm != MEGOLM {
        return refused(txn, event.sender, DropReason::UnsupportedAlgorithm);
    }
    let (Ok(room_id), Ok(session)) = (
        OwnedRoomId::try_from(content.room_id.as_str()),
        InboundGroupSession::from_session_key(&content.session_key),
    ) else {
        return refused(txn, event.sender, DropReason::Malformed);
    };
    if session.session_id().as_str() != content.session_id {
        return refused(txn, event.sender, DropReason::RoomKeyConflict);
    }
    let sender_key = event.sender_key;
    let key = InboundSessionKey { room_id, session_id: session.session_id(), sender_key };
    let record = InboundSessionRecord {
        pickle: session.to_record(),
        sender_key,
        sender_ed25519: Some(event.sender_ed25519),
        sender: Some(event.sender.clone()),
        source: KeySource::Olm,
        first_known_index: session.first_known_index(),
        shared_history: content.is_shared_history(),
        received_at: txn.cx.now,
        forwarders: Vec::new(),
        shared_by: None,
    };
    match take(txn, hot, &key, record)? {
        Taken::Refused => refused(txn, event.sender, DropReason::RoomKeyConflict),
        taken => Ok(taken),
    }
}

fn refused(
    txn: &mut Txn<'_, '_>,
    sender: OwnedUserId,
    reason: DropReason,
) -> Result<Taken, MachineError> {
    dropped(txn, Some(sender), reason)?;
    Ok(Taken::Refused)
}

/// What became of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// It decrypts what could not be decrypted before.
    New,
    /// It says nothing new.
    Known,
    /// It contradicts what is known of its claimant, or there are too many claimants.
    Refused,
}

/// Stores a key as that of its claimant, if it may stand beside what is known, and decrypts what waited for
/// it.
pub(crate) fn take(
    txn: &mut Txn<'_, '_>,
    hot: &mut Hot,
    key: &InboundSessionKey,
    new: InboundSessionRecord,
) -> Result<Taken, MachineError> {
    let source = new.source;
    let prefix = InboundSessionKey::of(&key.room_id, &key.session_id);
    let mut claims = txn.list::<InboundSessionRecord>(&prefix)?;
    let known = claims.iter().position(|(claim, _)| claim == key);
    let record = match known.map(|known| claims.swap_remove(known).1) {
        None if !claims::make_room(txn, key, &new, claims)? => return Ok(Taken::Refused),
        None => new,
        Some(known) => match merge(known, new)? {
            Ok(Some(merged)) => merged,
            Ok(None) => return Ok(Taken::Known),
            Err(Conflict) => return Ok(Taken::Refused),
        },
    };
    txn.put(key, &record);
    // What has come out of the backup is there already.
    if source != KeySource::Backup {
        key_backup::note(txn, key)?;
    }
    let by_session = SessionKey { session_id: key.session_id.clone() };
    if !txn.contains::<SessionRoomRecord>(&by_session)? {
        txn.put(&by_session, &SessionRoomRecord { room_id: key.room_id.clone() });
    }
    txn.require_full();
    let session =
        RoomSessionKey { room_id: key.room_id.clone(), session_id: key.session_id.clone() };
    let withheld = txn.load::<WithheldRecord>(&session)?;
    if withheld
        .is_some_and(|note| record.sender.as_ref().is_none_or(|sender| *sender == note.sender))
    {
        txn.delete::<WithheldRecord>(&session);
    }
    hot.forget_inbound(&session);
    let waiting =
        txn.list::<WaitingRecord>(&WaitingKey::for_session(&key.room_id, &key.session_id))?;
    for (waiting, _) in waiting {
        timeline::decrypt_late(txn, hot, &waiting, record.sender.as_deref())?;
    }
    key_requests::note_key(txn, &session)?;
    Ok(Taken::New)
}

/// A key that is not the same claimant's, or not of the same ratchet.
struct Conflict;

/// What is known of a claimant's session once a second key of it has come (attack N24); `None` if that is
/// no more than before.
///
/// Whose it is follows from the key that came by Olm, from which index on from the one that knows more: a
/// ratchet that leads to the proved one is as good.
fn merge(
    known: InboundSessionRecord,
    new: InboundSessionRecord,
) -> Result<Result<Option<InboundSessionRecord>, Conflict>, StoreError> {
    let same_owner = known.sender_ed25519 == new.sender_ed25519 && known.sender == new.sender;
    let (known_proved, new_proved) = (known.source == KeySource::Olm, new.source == KeySource::Olm);
    if known_proved && new_proved && !same_owner {
        return Ok(Err(Conflict));
    }
    let better = match restore(&new)?.relation(&mut restore(&known)?) {
        SessionRelation::Better => true,
        SessionRelation::Equal | SessionRelation::Worse => false,
        // A bogus copy must not keep the owner out.
        SessionRelation::Unconnected if new_proved && !known_proved => return Ok(Ok(Some(new))),
        SessionRelation::Unconnected => return Ok(Err(Conflict)),
    };
    let proves = new_proved && !known_proved;
    if !better && !proves {
        return Ok(Ok(None));
    }
    let (ratchet, claim) = match (better, proves) {
        (true, true) => return Ok(Ok(Some(new))),
        (true, false) => (new, known),
        (false, _) => (known, new),
    };
    Ok(Ok(Some(InboundSessionRecord {
        pickle: ratchet.pickle,
        first_known_index: ratchet.first_known_index,
        ..claim
    })))
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
    if is_not_shared(&content.code) {
        return Ok(()); // it has a meaning only where it is believed: in a bundle
    }
    if sender == txn.own().user_id && content.code == WithheldCode::Unavailable.as_str() {
        return Ok(()); // one of our own devices that does not have it either
    }
    let room_id = content.room_id.and_then(|room_id| OwnedRoomId::try_from(room_id).ok());
    if let (Some(room_id), Some(session_id)) = (&room_id, content.session_id)
        && session_id.len() <= MAX_TEXT
    {
        let key =
            RoomSessionKey { room_id: room_id.clone(), session_id: SessionId::new(session_id) };
        let known = txn.load::<WithheldRecord>(&key)?;
        let claims = txn
            .list::<InboundSessionRecord>(&InboundSessionKey::of(&key.room_id, &key.session_id))?;
        if claims.iter().any(|(_, claim)| claim.sender.as_ref() == Some(&sender))
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
pub(crate) fn forget_oldest_withheld(txn: &mut Txn<'_, '_>) -> Result<(), MachineError> {
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
