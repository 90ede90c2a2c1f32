//! Users whose device lists could not be had when a message went out, because their server did not answer. When it is back,
//! the devices that nobody knew of are given the key from that message on (behaviour 35).

use herold_crypto::SessionId;
use herold_store::records::{
    DeviceKey, DeviceRecord, OutboundSessionRecord, OutdatedUserRecord, RetiredSessionRecord,
    ShareKey, ShareRecord, ShareState, TrackedUserRecord, UnseenUser, UserKey,
};
use herold_trust::WithheldCode;
use ruma::OwnedUserId;

use crate::{MachineError, txn::Txn};

/// Notes that the session's messages from `index` on go out without the devices of these users that are not known.
pub(crate) fn note(session: &mut OutboundSessionRecord, users: &[OwnedUserId], index: u32) {
    for user_id in users {
        if !session.unseen.iter().any(|unseen| unseen.user_id == *user_id) {
            session.unseen.push(UnseenUser { user_id: user_id.clone(), index });
        }
    }
}

/// The devices of those whose lists have come count from now on as missed.
pub(crate) fn resolve(txn: &mut Txn<'_, '_>) -> Result<(), MachineError> {
    for (key, mut session) in txn.list::<OutboundSessionRecord>(&[])? {
        if take(txn, &session.session_id, &mut session.unseen)? {
            session.retry_at = Some(txn.cx.now);
            txn.put(&key, &session);
        }
    }
    for (key, mut session) in txn.list::<RetiredSessionRecord>(&[])? {
        if take(txn, &key.session_id, &mut session.unseen)? {
            session.owed = true;
            txn.put(&key, &session);
        }
    }
    Ok(())
}

/// Takes those users out whose lists have come; whether there are any.
fn take(
    txn: &mut Txn<'_, '_>,
    session_id: &SessionId,
    unseen: &mut Vec<UnseenUser>,
) -> Result<bool, MachineError> {
    let before = unseen.len();
    for user in std::mem::take(unseen) {
        let key = UserKey { user_id: user.user_id.clone() };
        if txn.contains::<OutdatedUserRecord>(&key)? || !txn.contains::<TrackedUserRecord>(&key)? {
            unseen.push(user);
            continue;
        }
        for (_, DeviceRecord { device, .. }) in
            txn.list::<DeviceRecord>(&DeviceKey::of(&user.user_id))?
        {
            let key = ShareKey {
                session_id: session_id.clone(),
                user_id: device.user_id.clone(),
                device_id: device.device_id.clone(),
            };
            if !txn.contains::<ShareRecord>(&key)? {
                let state = ShareState::Withheld(WithheldCode::NoOlm.as_str().to_owned());
                let (curve25519, index) = (device.keys.curve25519, user.index);
                txn.put(&key, &ShareRecord { curve25519, index, state });
            }
        }
    }
    Ok(unseen.len() < before)
}
