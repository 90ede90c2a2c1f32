//! Answering the room-key requests of our own user's verified devices, and of nobody else
//! (Matrix specification, "Key requests"; CVE-2021-40823 and -40824).
//!
//! A request is in the clear, so anybody may have made it. What is sent goes by Olm to the keys that were
//! verified, whatever device id the request names, and a device is sent a bounded number of answers. Others'
//! requests, and those of devices that are not verified, change nothing and leave no trace (attack N40).
//!
//! Where there is no Olm session yet, one is opened with a claimed key, and what was asked for is sent then: a
//! device asks once, so leaving it to ask again would be never.

use std::time::Duration;

use herold_store::records::{
    DeviceKey, DeviceRecord, InboundSessionKey, InboundSessionRecord, KeyAnswersRecord, OwedKey,
};
use herold_trust::{Device, MEGOLM, WithheldCode};
use ruma::{OwnedDeviceId, OwnedRoomId, UserId};
use serde_json::{json, value::RawValue};
use zeroize::Zeroizing;

use crate::{
    MachineError, claims, key_requests,
    messages::Messages,
    olm::{self, OwnIdentity},
    room_keys,
    txn::Txn,
    wire::{KeyRequestContent, RequestedKey, parse},
};

/// As many requests of one device are taken in [`WINDOW`].
const MAX_ANSWERS: u32 = 50;
const WINDOW: Duration = Duration::from_secs(3600);
/// As many ids of requests are remembered, and as many answers owed, for one device.
const MAX_KEPT: usize = 50;

/// Takes an `m.room_key_request`.
pub(crate) fn handle_request(
    txn: &mut Txn<'_, '_>,
    sender: &UserId,
    content: &RawValue,
) -> Result<(), MachineError> {
    if txn.own().user_id != sender {
        return Ok(());
    }
    let Some(content) = parse::<KeyRequestContent>(content) else { return Ok(()) };
    if content.request_id.len() > room_keys::MAX_TEXT {
        return Ok(());
    }
    let key = DeviceKey {
        user_id: sender.to_owned(),
        device_id: OwnedDeviceId::from(content.requesting_device_id),
    };
    let Some(DeviceRecord { device, .. }) = txn.load(&key)? else { return Ok(()) };
    if !key_requests::is_verified_own(txn, &device)? {
        return Ok(());
    }
    match content.action.as_str() {
        "request_cancellation" => {
            if let Some(mut answers) = txn.load::<KeyAnswersRecord>(&key)? {
                answers.owed.retain(|owed| owed.request_id != content.request_id);
                txn.put_changed(&key, &answers)?;
            }
            Ok(())
        }
        "request" => {
            let requested = content.body.as_deref().and_then(parse::<RequestedKey>);
            let requested = requested.filter(|key| {
                key.algorithm == MEGOLM && key.session_id.len() <= room_keys::MAX_TEXT
            });
            let owed = requested.and_then(|requested| {
                Some(OwedKey {
                    request_id: content.request_id,
                    room_id: OwnedRoomId::try_from(requested.room_id).ok()?,
                    session_id: herold_crypto::SessionId::new(requested.session_id),
                })
            });
            match owed {
                Some(owed) => take_request(txn, &device, &key, owed),
                None => Ok(()),
            }
        }
        _ => Ok(()),
    }
}

/// Takes a request that may be answered, once, and not more than so many of them.
fn take_request(
    txn: &mut Txn<'_, '_>,
    device: &Device,
    key: &DeviceKey,
    owed: OwedKey,
) -> Result<(), MachineError> {
    let now = txn.cx.now;
    let mut answers: KeyAnswersRecord = txn.load(key)?.unwrap_or_default();
    let since = answers.counted_since;
    if now < since || now >= since.saturating_add(WINDOW) {
        answers.counted_since = now;
        answers.count = 0;
    }
    if answers.count >= MAX_ANSWERS || answers.request_ids.contains(&owed.request_id) {
        return Ok(());
    }
    answers.count += 1;
    answers.request_ids.push(owed.request_id.clone());
    keep_last(&mut answers.request_ids);
    let refusal = if key_requests::is_blocked(txn, device)? {
        Some(WithheldCode::Unauthorised)
    } else if claims::best(txn, &owed.room_id, &owed.session_id)?.is_none() {
        Some(WithheldCode::Unavailable)
    } else {
        None
    };
    if let Some(code) = refusal {
        txn.put(key, &answers);
        return withhold(txn, device, &owed, code);
    }
    answers.owed.push(owed);
    keep_last(&mut answers.owed);
    txn.put(key, &answers);
    serve(txn, device)
}

fn keep_last<T>(list: &mut Vec<T>) {
    let excess = list.len().saturating_sub(MAX_KEPT);
    list.drain(..excess);
}

fn withhold(
    txn: &mut Txn<'_, '_>,
    device: &Device,
    owed: &OwedKey,
    code: WithheldCode,
) -> Result<(), MachineError> {
    let content = json!({
        "algorithm": MEGOLM,
        "room_id": owed.room_id,
        "session_id": owed.session_id.as_str(),
        "sender_key": txn.own().keys.curve25519.to_base64(),
        "code": code.as_str(),
        "reason": code.reason(),
    });
    let mut messages = Messages::default();
    messages.add(device, content.to_string());
    messages.enqueue(txn, "m.room_key.withheld")?;
    Ok(())
}

/// Sends a device what it has asked for, if it can be reached and is still to be trusted. From the first index
/// we know: a verified device of our own may have all that we have.
pub(crate) fn serve(txn: &mut Txn<'_, '_>, device: &Device) -> Result<(), MachineError> {
    let key = DeviceKey { user_id: device.user_id.clone(), device_id: device.device_id.clone() };
    let Some(mut answers) = txn.load::<KeyAnswersRecord>(&key)? else { return Ok(()) };
    if answers.owed.is_empty() {
        return Ok(());
    }
    let entitled =
        key_requests::is_verified_own(txn, device)? && !key_requests::is_blocked(txn, device)?;
    if entitled && !olm::has_session(txn, &device.keys)? {
        return olm::want_claim(txn, device);
    }
    let owed = std::mem::take(&mut answers.owed);
    txn.put(&key, &answers);
    if !entitled {
        return Ok(());
    }
    let own = OwnIdentity::new(txn);
    for owed in owed {
        let Some((key, claim)) = claims::best(txn, &owed.room_id, &owed.session_id)? else {
            continue;
        };
        let Some(content) = forwarded(&key, &claim)? else { continue };
        // One message to a device goes into a request, so each key is a request of its own.
        if let Some(encrypted) = olm::encrypt(txn, &own, device, "m.forwarded_room_key", &content)?
        {
            let mut messages = Messages::default();
            messages.add(device, encrypted);
            messages.enqueue(txn, "m.room.encrypted")?;
        }
    }
    Ok(())
}

/// The content of `m.forwarded_room_key`. Secret.
fn forwarded(
    key: &InboundSessionKey,
    claim: &InboundSessionRecord,
) -> Result<Option<Zeroizing<String>>, MachineError> {
    let mut session = room_keys::restore(claim)?;
    let exported = session.export_at(claim.first_known_index);
    let (Some(session_key), Some(ed25519)) = (exported, claim.sender_ed25519) else {
        return Ok(None);
    };
    let chain: Vec<String> = claim.forwarders.iter().map(|key| key.to_base64()).collect();
    let content = json!({
        "algorithm": MEGOLM,
        "room_id": key.room_id,
        "session_id": key.session_id.as_str(),
        "session_key": session_key.as_str(),
        "sender_key": claim.sender_key.to_base64(),
        "sender_claimed_ed25519_key": ed25519.to_base64(),
        "forwarding_curve25519_key_chain": chain,
    });
    Ok(Some(Zeroizing::new(content.to_string())))
}
