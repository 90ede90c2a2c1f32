//! Sessions that have been replaced, for devices that were to have them and could not be reached, or that
//! turn out to have been sent them in vain: what was sent under them must not stay unreadable for ever.
//!
//! Nobody gets more by being late: a device gets a session from the index on at which it missed it, and only
//! if it may still have a key of the room. One that was left out by policy is not served at all.

use std::time::Duration;

use herold_crypto::SessionId;
use herold_store::records::{
    Membership, OutboundSessionRecord, RetiredSessionRecord, RoomKey, RoomRecord, RoomSessionKey,
    SessionKey, SessionRoomRecord, ShareKey, ShareRecord, ShareState,
};
use herold_trust::{Device, Policy};
use ruma::{OwnedRoomId, RoomId};

use crate::{
    MachineError,
    messages::Messages,
    olm::{self, OwnIdentity},
    share::{self, PATIENCE, Recipients, SessionKeys},
    txn::Txn,
    unseen,
};

/// A session is kept for late devices for so long.
const KEEP: Duration = Duration::from_secs(30 * 24 * 3600);
/// As many sessions of a room that somebody misses are kept; the oldest go.
const MAX_OWED: usize = 32;
/// As many of those that everybody was given.
const MAX_GIVEN: usize = 8;

/// The session is used for no further message. It is kept with who was given it: the Olm session that it
/// went by may turn out to be broken.
pub(crate) fn retire(
    txn: &mut Txn<'_, '_>,
    room_id: &RoomId,
    session: &OutboundSessionRecord,
) -> Result<(), MachineError> {
    let (mut given, mut owed) = (false, false);
    for (key, share) in txn.list::<ShareRecord>(&ShareKey::of(&session.session_id))? {
        owed |= share::was_only_missed(&share.state);
        if share::was_only_missed(&share.state) || share.state == ShareState::Shared {
            given = true;
        } else {
            txn.delete::<ShareRecord>(&key);
        }
    }
    if !given && session.unseen.is_empty() {
        return Ok(());
    }
    owed |= !session.unseen.is_empty();
    let mut known = txn.list::<RetiredSessionRecord>(&RoomSessionKey::of(room_id))?;
    known.retain(|(_, known)| known.owed == owed);
    known.sort_by_key(|(_, session)| std::cmp::Reverse(session.retired_at));
    let most = if owed { MAX_OWED } else { MAX_GIVEN };
    for (key, _) in known.iter().skip(most - 1) {
        forget(txn, key)?;
    }
    txn.put(
        &RoomSessionKey { room_id: room_id.to_owned(), session_id: session.session_id.clone() },
        &RetiredSessionRecord {
            initial: session.initial.clone(),
            retired_at: txn.cx.now,
            owed,
            unseen: session.unseen.clone(),
        },
    );
    Ok(())
}

fn forget(txn: &mut Txn<'_, '_>, key: &RoomSessionKey) -> Result<(), MachineError> {
    for (share, _) in txn.list::<ShareRecord>(&ShareKey::of(&key.session_id))? {
        txn.delete::<ShareRecord>(&share);
    }
    txn.delete::<RetiredSessionRecord>(key);
    Ok(())
}

/// Forgets the sessions that have been kept long enough.
pub(crate) fn sweep(txn: &mut Txn<'_, '_>) -> Result<(), MachineError> {
    for (key, session) in txn.list::<RetiredSessionRecord>(&[])? {
        if is_old(txn, &session) {
            forget(txn, &key)?;
        }
    }
    Ok(())
}

fn is_old(txn: &Txn<'_, '_>, session: &RetiredSessionRecord) -> bool {
    session.retired_at.saturating_add(KEEP) < txn.cx.now
}

/// Gives each device that can be reached now what it has missed. Answers whether that is done; if not, a
/// member list or a device list is missing.
pub(crate) fn serve(txn: &mut Txn<'_, '_>, policy: &Policy) -> Result<bool, MachineError> {
    let mut done = true;
    let mut looked_at: Option<(OwnedRoomId, Option<Recipients>)> = None;
    for (key, mut session) in txn.list::<RetiredSessionRecord>(&[])? {
        if !session.owed {
            continue;
        }
        if unseen::resolve(txn, &key.session_id, &mut session.unseen)? {
            txn.put(&key, &session);
        }
        let room: Option<RoomRecord> = txn.load(&RoomKey { room_id: key.room_id.clone() })?;
        let room = room.filter(|room| room.membership == Membership::Join);
        let Some(room) = room.filter(|_| !is_old(txn, &session)) else {
            forget(txn, &key)?;
            continue;
        };
        if looked_at.as_ref().is_none_or(|(room_id, _)| *room_id != key.room_id) {
            let recipients = if room.members_complete {
                share::recipients(txn, policy, &key.room_id, &room, PATIENCE)?
            } else {
                None
            };
            looked_at = Some((key.room_id.clone(), recipients));
        }
        match looked_at.as_ref().and_then(|(_, recipients)| recipients.as_ref()) {
            Some(recipients) => serve_session(txn, &key, session, recipients)?,
            None => done = false,
        }
    }
    Ok(done)
}

fn serve_session(
    txn: &mut Txn<'_, '_>,
    key: &RoomSessionKey,
    session: RetiredSessionRecord,
    recipients: &Recipients,
) -> Result<(), MachineError> {
    let mut keys =
        SessionKeys::new(txn, &key.room_id, key.session_id.clone(), session.initial.clone())?;
    let mut owed = !session.unseen.is_empty();
    let mut own: Option<OwnIdentity> = None;
    let mut messages = Messages::default();
    for (share_key, share) in txn.list::<ShareRecord>(&ShareKey::of(&key.session_id))? {
        if !share::was_only_missed(&share.state) {
            continue;
        }
        let place = (share_key.user_id.clone(), share_key.device_id.clone());
        let device = recipients
            .entitled
            .get(&place)
            .filter(|device| device.keys.curve25519 == share.curve25519);
        let Some(device) = device else {
            txn.delete::<ShareRecord>(&share_key);
            continue;
        };
        let Some(channel) = olm::channel(txn, &device.keys)? else {
            olm::want_claim(txn, device)?;
            owed = true;
            continue;
        };
        let own = own.get_or_insert_with(|| OwnIdentity::new(txn));
        let content = keys.content_at(share.index)?;
        let encrypted = olm::encrypt_through(txn, own, channel, device, "m.room_key", content)?;
        messages.add_share(device, encrypted, share_key.session_id.clone());
        txn.put(&share_key, &ShareRecord { state: ShareState::Shared, ..share });
    }
    messages.enqueue(txn, "m.room.encrypted")?;
    Ok(txn.put_changed(key, &RetiredSessionRecord { owed, ..session })?)
}

/// The shares of a session did not arrive, or were of no use: if it has been replaced, it is to be looked at
/// again.
pub(crate) fn owe(txn: &mut Txn<'_, '_>, session_id: &SessionId) -> Result<(), MachineError> {
    let by_session = SessionKey { session_id: session_id.clone() };
    let Some(SessionRoomRecord { room_id }) = txn.load(&by_session)? else { return Ok(()) };
    let key = RoomSessionKey { room_id, session_id: session_id.clone() };
    if let Some(session) = txn.load::<RetiredSessionRecord>(&key)? {
        txn.put_changed(&key, &RetiredSessionRecord { owed: true, ..session })?;
    }
    Ok(())
}

/// What `device` was given is to be given to it again. Answers whether there is anything.
pub(crate) fn forget_shares(txn: &mut Txn<'_, '_>, device: &Device) -> Result<bool, MachineError> {
    let mut any = false;
    for (key, session) in txn.list::<RetiredSessionRecord>(&[])? {
        let share_key = ShareKey {
            session_id: key.session_id.clone(),
            user_id: device.user_id.clone(),
            device_id: device.device_id.clone(),
        };
        let Some(share) = txn.load::<ShareRecord>(&share_key)? else { continue };
        if share.state == ShareState::Shared && share.curve25519 == device.keys.curve25519 {
            txn.put(&share_key, &ShareRecord { state: ShareState::Failed, ..share });
            txn.put_changed(&key, &RetiredSessionRecord { owed: true, ..session })?;
            any = true;
        }
    }
    Ok(any)
}
