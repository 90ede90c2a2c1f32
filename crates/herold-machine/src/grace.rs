//! [`Recipients::IdentityBasedThenStrict`]: devices that are trusted too little for room keys are put up with for
//! a time, told of once, and then nothing goes to a room that still has one.

use herold_store::records::{
    BlockedRecord, DeviceKey, DeviceRecord, IdentityRecord, MemberKey, MemberRecord, Membership,
    UntrustedDeviceRecord, UserKey,
};
use herold_trust::{Device, Policy, Recipients, WithheldCode, may_receive};
use ruma::RoomId;

use crate::{MachineError, Notice, txn::Txn};

/// As many devices are noted, unless more are there at once: a user can have one after the other.
const MAX_NOTED: usize = 500;

/// Why nothing is sent to a room.
pub(crate) const UNTRUSTED_DEVICES: &str = "UNTRUSTED_DEVICES";

/// Notes the devices that are left out for want of trust, and tells the app of those it has not been told of.
pub(crate) fn note(
    txn: &mut Txn<'_, '_>,
    policy: &Policy,
    withheld: &[(Device, WithheldCode)],
) -> Result<(), MachineError> {
    if policy.effective_recipients() != Recipients::IdentityBasedThenStrict {
        return Ok(());
    }
    let first_seen = txn.cx.now;
    for (device, code) in withheld {
        if *code != WithheldCode::Unverified {
            continue;
        }
        let key =
            DeviceKey { user_id: device.user_id.clone(), device_id: device.device_id.clone() };
        let ed25519 = device.keys.ed25519;
        let known: Option<UntrustedDeviceRecord> = txn.load(&key)?;
        if known.is_some_and(|known| known.ed25519 == ed25519) {
            continue;
        }
        make_room(txn)?;
        txn.put(&key, &UntrustedDeviceRecord { ed25519, first_seen });
        txn.notice(Notice::UntrustedDevice {
            user_id: key.user_id,
            device_id: key.device_id,
            strict_at: first_seen.saturating_add(policy.untrusted_grace),
        })?;
    }
    Ok(())
}

/// Forgets the newest of the devices that have gone if there are too many: what comes and goes in a crowd takes
/// no note away that is older.
fn make_room(txn: &mut Txn<'_, '_>) -> Result<(), MachineError> {
    let noted = txn.list::<UntrustedDeviceRecord>(&[])?;
    if noted.len() < MAX_NOTED {
        return Ok(());
    }
    let mut newest = None;
    for (key, record) in noted {
        let device = txn.load::<DeviceRecord>(&key)?.map(|known| known.device);
        let is_gone = device.is_none_or(|device| device.keys.ed25519 != record.ed25519);
        if is_gone && newest.as_ref().is_none_or(|(at, _)| *at <= record.first_seen) {
            newest = Some((record.first_seen, key));
        }
    }
    if let Some((_, key)) = newest {
        txn.delete::<UntrustedDeviceRecord>(&key);
    }
    Ok(())
}

/// Whether the room has a member with a device that has been put up with for long enough. Looked at for each
/// message, because time passes without any list changing; there are few such devices.
pub(crate) fn is_over(
    txn: &mut Txn<'_, '_>,
    policy: &Policy,
    room_id: &RoomId,
) -> Result<bool, MachineError> {
    if policy.effective_recipients() != Recipients::IdentityBasedThenStrict {
        return Ok(false);
    }
    let now = txn.cx.now;
    for (key, mut record) in txn.list::<UntrustedDeviceRecord>(&[])? {
        if record.first_seen > now {
            // The clock was ahead then: the time counts from now.
            record.first_seen = now;
            txn.put(&key, &record);
        }
        // A device that is gone may come back: its time goes on meanwhile.
        let device = txn.load::<DeviceRecord>(&key)?.map(|known| known.device);
        let Some(device) = device.filter(|device| device.keys.ed25519 == record.ed25519) else {
            continue;
        };
        let user = UserKey { user_id: key.user_id.clone() };
        let identity = txn.load::<IdentityRecord>(&user)?.map(|known| known.identity);
        if may_receive(policy, &device, false, identity.as_ref()).is_ok() {
            txn.delete::<UntrustedDeviceRecord>(&key);
            continue;
        }
        let member = MemberKey { room_id: room_id.to_owned(), user_id: key.user_id.clone() };
        let is_member = txn.load::<MemberRecord>(&member)?.is_some_and(|member| {
            matches!(member.membership, Membership::Join | Membership::Invite)
        });
        if is_member
            && !txn.contains::<BlockedRecord>(&key)?
            && record.first_seen.saturating_add(policy.untrusted_grace) <= now
        {
            return Ok(true);
        }
    }
    Ok(false)
}
