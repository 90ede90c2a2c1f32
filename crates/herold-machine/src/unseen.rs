//! Users whose device lists could not be had when a message went out, because their server did not answer. When it is back,
//! the devices that nobody knew of are given the key from that message on (behaviour 35).
//!
//! Which of them there were then cannot be told: one that was made while the server was away is served like the others.
//! That gives nothing to anybody but the member, whom the message was for, and no more to a server than it could have
//! taken before by naming a device of its own; the policy on recipients holds for each.

use std::collections::HashSet;

use herold_crypto::SessionId;
use herold_store::records::{
    DeviceKey, DeviceRecord, OutboundSessionRecord, OutdatedUserRecord, ShareKey, ShareRecord,
    ShareState, TrackedUserRecord, UnseenUser, UserKey,
};
use herold_trust::WithheldCode;
use ruma::OwnedUserId;

use crate::{MachineError, txn::Txn};

/// Notes that the session's messages from `index` on go out without the devices of these users that are not known.
pub(crate) fn note(session: &mut OutboundSessionRecord, users: &[OwnedUserId], index: u32) {
    let known: HashSet<OwnedUserId> =
        session.unseen.iter().map(|unseen| unseen.user_id.clone()).collect();
    let new = users.iter().filter(|user_id| !known.contains(*user_id));
    session.unseen.extend(new.map(|user_id| UnseenUser { user_id: user_id.clone(), index }));
}

/// Takes those users out whose lists have come: their devices count from now on as missed. Answers whether there were
/// any.
pub(crate) fn resolve(
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
