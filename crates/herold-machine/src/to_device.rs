//! To-device events: what is taken, what is dropped, and why.
//!
//! Key material counts only if it came by Olm; every field of an Olm payload is checked before its
//! content is looked at.

use std::time::Duration;

use herold_crypto::{
    Curve25519PublicKey, Ed25519PublicKey, IdentityKeys, OlmMessage, curve25519_from_base64,
};
use herold_store::records::{
    BackoffRecord, HashKey, IdentityRecord, NameKey, OlmHashRecord, UserKey,
};
use herold_trust::{Device, KeySource, OLM, Policy, may_show, shield};
use ruma::OwnedUserId;
use serde_json::value::RawValue;

use crate::{
    AppEvent, DropReason, MachineError, Notice,
    devices::{DeviceLookup as _, device_of},
    history,
    hot::Hot,
    key_answers, key_requests, olm, retired, room_keys, secrets,
    txn::Txn,
    verification,
    wire::{OlmContent, OlmPayload, ToDeviceEvent, parse},
};

/// An event that came by Olm, its sender checked.
pub(crate) struct OlmEvent {
    /// The user whose device sent it.
    pub(crate) sender: OwnedUserId,
    /// The device's Curve25519 key: the owner of the Olm channel.
    pub(crate) sender_key: Curve25519PublicKey,
    /// The Ed25519 key it claims.
    pub(crate) sender_ed25519: Ed25519PublicKey,
    /// The device, if it is known from the sender's list.
    pub(crate) device: Option<Device>,
    /// The payload says which device it comes from, signed by that device (`sender_device_keys`).
    pub(crate) names_device: bool,
    pub(crate) event_type: String,
    pub(crate) content: Box<RawValue>,
}

/// The hash of a message is kept this long. A server that delivers one again later meets the ratchet,
/// which has used up its key; only the wording of the notice differs then.
const KEEP_HASHES: Duration = Duration::from_secs(30 * 24 * 3600);
/// Old hashes are swept out this often.
const SWEEP_INTERVAL: Duration = Duration::from_secs(24 * 3600);

/// Forgets what is too old to matter, once a day: hashes of messages, and sessions that nobody came for.
pub(crate) fn sweep(txn: &mut Txn<'_, '_>) -> Result<(), MachineError> {
    let name = NameKey { name: "sweep/olm_hash".to_owned() };
    let now = txn.cx.now;
    let limit: Option<BackoffRecord> = txn.load(&name)?;
    // A limit further ahead than one interval comes from a clock that was wrong.
    let interval = now.saturating_add(SWEEP_INTERVAL);
    if limit.as_ref().is_some_and(|limit| now < limit.retry_at && limit.retry_at <= interval) {
        return Ok(());
    }
    if limit.is_some() {
        for (key, hash) in txn.list::<OlmHashRecord>(&[])? {
            if hash.received_at.saturating_add(KEEP_HASHES) < now {
                txn.delete::<OlmHashRecord>(&key);
            }
        }
        retired::sweep(txn)?;
        history::sweep(txn)?;
    }
    txn.put(&name, &BackoffRecord { failures: 0, retry_at: interval });
    Ok(())
}

/// Takes one to-device event of a sync response.
pub(crate) fn handle(
    txn: &mut Txn<'_, '_>,
    hot: &mut Hot,
    policy: &Policy,
    raw: &RawValue,
) -> Result<(), MachineError> {
    let Some(event) = parse::<ToDeviceEvent>(raw) else {
        return dropped(txn, None, DropReason::Malformed);
    };
    let Ok(sender) = OwnedUserId::try_from(event.sender.as_str()) else {
        return dropped(txn, None, DropReason::Malformed);
    };
    let Some(content) = event.content else {
        return dropped(txn, Some(sender), DropReason::Malformed);
    };
    match event.event_type.as_str() {
        "m.room.encrypted" => handle_encrypted(txn, hot, policy, sender, &content),
        "m.room_key.withheld" => room_keys::handle_withheld(txn, sender, &content),
        "m.room_key_request" => key_answers::handle_request(txn, &sender, &content),
        secrets::REQUEST => secrets::handle_request(txn, &sender, &content),
        "m.room_key"
        | "m.forwarded_room_key"
        | "m.secret.send"
        | "m.room_key_bundle"
        | "io.element.msc4268.room_key_bundle" => dropped(txn, Some(sender), DropReason::NotByOlm),
        // What counts in a verification is what the two sides compare, not how it came.
        kind if kind.starts_with(verification::PREFIX) => {
            verification::handle_to_device(txn, &sender, None, kind, content.get())
        }
        // Anything else in the clear is not for an end-to-end-encryption core.
        _ => Ok(()),
    }
}

fn handle_encrypted(
    txn: &mut Txn<'_, '_>,
    hot: &mut Hot,
    policy: &Policy,
    sender: OwnedUserId,
    content: &RawValue,
) -> Result<(), MachineError> {
    let own = txn.own();
    let (sender_key, message) = match open_envelope(&own.keys, content) {
        Ok(opened) => opened,
        Err(reason) => return dropped(txn, Some(sender), reason),
    };
    let hash = HashKey { hash: message.hash().0 };
    if txn.contains::<OlmHashRecord>(&hash)? {
        return Ok(()); // delivered twice: nothing happened, and nothing is wrong
    }
    let Some(decrypted) = olm::decrypt(txn, hot, &sender_key, &message)? else {
        olm::unwedge(txn, &sender, &sender_key)?;
        return dropped(txn, Some(sender), DropReason::Undecryptable);
    };
    txn.put(&hash, &OlmHashRecord { received_at: txn.cx.now });
    txn.require_full();
    let plaintext = &decrypted.plaintext;
    match check_payload(txn, hot, &own.keys, sender.clone(), sender_key, plaintext)? {
        Err(reason) => dropped(txn, Some(sender), reason),
        Ok(event) if !olm::confirm_peer(txn, decrypted, &event.sender_ed25519)? => {
            dropped(txn, Some(event.sender), DropReason::PayloadMismatch)
        }
        Ok(event) => dispatch(txn, hot, policy, event),
    }
}

/// The Olm message in the content of an encrypted event that is for the device with these keys, and the Curve25519 key that it
/// names as its sender's.
pub(crate) fn open_envelope(
    recipient: &IdentityKeys,
    content: &RawValue,
) -> Result<(Curve25519PublicKey, OlmMessage), DropReason> {
    #[derive(serde::Deserialize)]
    struct Algorithm {
        algorithm: String,
    }
    match parse::<Algorithm>(content) {
        Some(named) if named.algorithm == OLM => {}
        Some(named) if named.algorithm == herold_trust::MEGOLM => return Err(DropReason::NotByOlm),
        Some(_) => return Err(DropReason::UnsupportedAlgorithm),
        None => return Err(DropReason::Malformed),
    }
    let content = parse::<OlmContent>(content).ok_or(DropReason::Malformed)?;
    debug_assert_eq!(content.algorithm, OLM);
    let sender_key =
        curve25519_from_base64(&content.sender_key).map_err(|_| DropReason::Malformed)?;
    let message = content.ciphertext.get(&recipient.curve25519.to_base64());
    let message = message.ok_or(DropReason::NotForUs)?;
    if sender_key == recipient.curve25519 {
        return Err(DropReason::PayloadMismatch);
    }
    let message = OlmMessage::from_parts(message.message_type, &message.body)
        .map_err(|_| DropReason::Malformed)?;
    Ok((sender_key, message))
}

/// The checks of the specification on an Olm payload for the own user's device with the keys `recipient`. Each field is compared with the channel it came
/// by; nothing of the content is used before.
pub(crate) fn check_payload(
    txn: &mut Txn<'_, '_>,
    hot: &mut Hot,
    recipient: &IdentityKeys,
    sender: OwnedUserId,
    sender_key: Curve25519PublicKey,
    plaintext: &[u8],
) -> Result<Result<OlmEvent, DropReason>, MachineError> {
    let Ok(payload) = serde_json::from_slice::<OlmPayload>(plaintext) else {
        return Ok(Err(DropReason::PayloadMismatch));
    };
    let own = txn.own();
    let Some(sender_ed25519) = hot.ed25519(&payload.keys.ed25519) else {
        return Ok(Err(DropReason::PayloadMismatch));
    };
    let recipient_key = hot.ed25519(&payload.recipient_keys.ed25519);
    if payload.sender != sender.as_str()
        || payload.recipient != own.user_id.as_str()
        || recipient_key != Some(recipient.ed25519)
    {
        return Ok(Err(DropReason::PayloadMismatch));
    }
    let mut names_device = false;
    for raw in
        [&payload.sender_device_keys, &payload.unstable_sender_device_keys].into_iter().flatten()
    {
        names_device = true;
        let device = hot.sender_device(&sender, raw).filter(|device| {
            device.keys.curve25519 == sender_key && device.keys.ed25519 == sender_ed25519
        });
        if device.is_none() {
            return Ok(Err(DropReason::SenderDeviceKeys));
        }
    }
    let device = device_of(txn, &sender, &sender_key, &sender_ed25519)?;
    // Where the sender's list names devices with this Curve25519 key, one of them must have the claimed
    // Ed25519 key.
    if device.is_none() && !txn.ids_by_key(&sender, &sender_key)?.is_empty() {
        return Ok(Err(DropReason::PayloadMismatch));
    }
    if device.as_ref().is_some_and(|device| device.dehydrated) {
        return Ok(Err(DropReason::Unsolicited)); // a dehydrated device never sends
    }
    Ok(Ok(OlmEvent {
        sender,
        sender_key,
        sender_ed25519,
        device,
        names_device,
        event_type: payload.event_type,
        content: payload.content,
    }))
}

fn dispatch(
    txn: &mut Txn<'_, '_>,
    hot: &mut Hot,
    policy: &Policy,
    event: OlmEvent,
) -> Result<(), MachineError> {
    match event.event_type.as_str() {
        "m.room_key" => room_keys::handle_room_key(txn, hot, event).map(drop),
        "m.dummy" => match &event.device {
            Some(device) => olm::share_again(txn, device),
            None => Ok(()),
        },
        "m.forwarded_room_key" => key_requests::handle_forwarded(txn, hot, event),
        "m.secret.send" => secrets::handle_send(txn, event),
        // Verification is how a device comes to be believed: it cannot wait for that (attack N46).
        kind if kind.starts_with(verification::PREFIX) => {
            let device = event.device.as_ref().map(|device| device.device_id.as_ref());
            verification::handle_to_device(txn, &event.sender, device, kind, event.content.get())
        }
        "m.room_key_bundle" | "io.element.msc4268.room_key_bundle" => {
            history::handle_bundle(txn, policy, event)
        }
        _ => {
            if !is_believed(txn, policy, &event)? {
                return dropped(txn, Some(event.sender), DropReason::SenderUntrusted);
            }
            let sender_device = event.device.map(|device| device.device_id);
            txn.emit(AppEvent::ToDevice {
                sender: event.sender,
                sender_device,
                event_type: event.event_type,
                content: event.content.get().to_owned(),
            })?;
            Ok(())
        }
    }
}

/// Whether the policy lets what this device says reach the app.
fn is_believed(txn: &Txn<'_, '_>, policy: &Policy, event: &OlmEvent) -> Result<bool, MachineError> {
    let identity = txn
        .load::<IdentityRecord>(&UserKey { user_id: event.sender.clone() })?
        .map(|record| record.identity);
    let shield = shield(KeySource::Olm, event.device.as_ref(), identity.as_ref());
    Ok(may_show(policy, &shield, identity.is_some()).is_ok())
}

pub(crate) fn dropped(
    txn: &mut Txn<'_, '_>,
    sender: Option<OwnedUserId>,
    reason: DropReason,
) -> Result<(), MachineError> {
    Ok(txn.notice(Notice::ToDeviceDropped { sender, reason })?)
}
