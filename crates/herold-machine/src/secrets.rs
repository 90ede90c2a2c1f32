//! Secrets passed on between the own user's verified devices, and nobody else
//! (Matrix specification, "Sharing secrets between devices").
//!
//! A secret is taken only if it was asked for, from a device that was asked and is verified still, and only if it is
//! the private half of the published key (attack N08). It is given to verified devices only, by their keys and not
//! by their names (attack N27).

use std::time::Duration;

use herold_crypto::SecretString;
use herold_store::records::{
    BackoffRecord, DeviceKey, DeviceRecord, NameKey, SecretRecord, SecretRequestRecord,
};
use herold_trust::Device;
use ruma::{DeviceId, OwnedDeviceId, UserId};
use serde::Deserialize;
use serde_json::{json, value::RawValue};
use zeroize::Zeroizing;

use crate::{
    DropReason, MachineError, dehydration, key_backup, key_requests,
    messages::{Messages, put_clear},
    olm::{self, OwnIdentity},
    own_identity,
    to_device::{OlmEvent, dropped},
    txn::Txn,
    verification,
    wire::parse,
};

/// What can be asked for, and is passed on.
pub(crate) const NAMES: [&str; 5] = [
    "m.cross_signing.master",
    "m.cross_signing.self_signing",
    "m.cross_signing.user_signing",
    key_backup::SECRET,
    dehydration::key::SECRET,
];
/// The event type of a request.
pub(crate) const REQUEST: &str = "m.secret.request";
/// The same is asked for again after this long at the soonest.
const AGAIN: Duration = Duration::from_secs(60);
/// One device is given secrets as often as this.
const ANSWER_INTERVAL: Duration = Duration::from_secs(1);
/// One device is given as many secrets in [`WINDOW`]: what there is, several times.
const MAX_ANSWERS: u32 = 20;
const WINDOW: Duration = Duration::from_secs(3600);

fn name(name: &str) -> NameKey {
    NameKey { name: name.to_owned() }
}

/// Asks the own verified devices for the secrets that are not here.
pub(crate) fn ask(txn: &mut Txn<'_, '_>) -> Result<(), MachineError> {
    let devices = key_requests::verified_devices(txn)?;
    if devices.is_empty() {
        return Ok(());
    }
    let ids: Vec<OwnedDeviceId> = devices.into_iter().map(|device| device.device_id).collect();
    let own = txn.own();
    let now = txn.cx.now;
    for secret in NAMES {
        if is_here(txn, secret)? || secret == dehydration::key::SECRET && !has_dehydrated(txn)? {
            continue;
        }
        let known: Option<SecretRequestRecord> = txn.load(&name(secret))?;
        if known.is_some_and(|known| {
            ids.iter().all(|id| known.devices.contains(id))
                && now < known.asked_at.saturating_add(AGAIN)
                && known.asked_at <= now
        }) {
            continue;
        }
        let request_id = txn.cx.random_hex(16);
        let content = json!({
            "action": "request",
            "name": secret,
            "request_id": request_id,
            "requesting_device_id": own.device_id,
        });
        put_clear(txn, REQUEST, &own.user_id, &ids, &content)?;
        let record = SecretRequestRecord { request_id, devices: ids.clone(), asked_at: now };
        txn.put(&name(secret), &record);
    }
    Ok(())
}

/// Whether this user has a dehydrated device that its key would open.
fn has_dehydrated(txn: &Txn<'_, '_>) -> Result<bool, MachineError> {
    let devices = txn.list::<DeviceRecord>(&DeviceKey::of(&txn.own().user_id))?;
    Ok(devices.iter().any(|(_, record)| record.device.dehydrated))
}

/// Whether a secret is here and of use.
fn is_here(txn: &Txn<'_, '_>, secret: &str) -> Result<bool, MachineError> {
    if secret == key_backup::SECRET {
        return key_backup::has_key(txn);
    }
    if secret == dehydration::key::SECRET {
        return Ok(dehydration::key::load(txn)?.is_some());
    }
    own_identity::has(txn, secret)
}

/// Takes `m.secret.request`.
pub(crate) fn handle_request(
    txn: &mut Txn<'_, '_>,
    sender: &UserId,
    content: &RawValue,
) -> Result<(), MachineError> {
    #[derive(Deserialize)]
    struct Request {
        action: String,
        name: Option<String>,
        request_id: String,
        requesting_device_id: OwnedDeviceId,
    }
    let own = txn.own();
    let Some(request) = parse::<Request>(content) else {
        return dropped(txn, Some(sender.to_owned()), DropReason::Malformed);
    };
    if *sender != *own.user_id || request.requesting_device_id == own.device_id {
        return Ok(());
    }
    let wanted = request.name.filter(|wanted| NAMES.contains(&wanted.as_str()));
    let (Some(wanted), "request", ..=255) =
        (wanted, request.action.as_str(), request.request_id.len())
    else {
        return Ok(());
    };
    // It may come before the device is verified here, or before there is a channel to it.
    match verification::own_device(txn, &request.requesting_device_id)? {
        Some(device) if may_have(txn, &device)? => give(txn, &device, &wanted, &request.request_id),
        _ => verification::park(txn, sender, None, REQUEST, content.get()),
    }
}

/// Whether a request that was parked can be answered now.
pub(crate) fn is_ready(txn: &mut Txn<'_, '_>, content: &str) -> Result<bool, MachineError> {
    #[derive(Deserialize)]
    struct Request {
        requesting_device_id: OwnedDeviceId,
    }
    let Ok(request) = serde_json::from_str::<Request>(content) else { return Ok(true) };
    match verification::own_device(txn, &request.requesting_device_id)? {
        Some(device) => may_have(txn, &device),
        None => Ok(false),
    }
}

/// Whether a device may be given secrets, and can be: if there is no channel to it, one is made.
fn may_have(txn: &mut Txn<'_, '_>, device: &Device) -> Result<bool, MachineError> {
    if !key_requests::is_verified_own(txn, device)? || key_requests::is_blocked(txn, device)? {
        return Ok(false);
    }
    let has_session = olm::has_session(txn, &device.keys)?;
    if !has_session {
        olm::want_claim(txn, device)?;
    }
    Ok(has_session)
}

/// Whether this device may be given this secret now: not over and over.
fn may_answer(
    txn: &mut Txn<'_, '_>,
    device_id: &DeviceId,
    secret: &str,
) -> Result<bool, MachineError> {
    let key = name(&format!("secret/{device_id}/{secret}"));
    let now = txn.cx.now;
    let limit: Option<BackoffRecord> = txn.load(&key)?;
    let latest = now.saturating_add(ANSWER_INTERVAL);
    if limit.is_some_and(|limit| now < limit.retry_at && limit.retry_at <= latest) {
        return Ok(false);
    }
    // And not one after the other for ever: each answer takes a step of an Olm session.
    let count_key = name(&format!("secrets/{device_id}"));
    let end = now.saturating_add(WINDOW);
    let counted: Option<BackoffRecord> = txn.load(&count_key)?;
    let counted = counted.filter(|counted| now < counted.retry_at && counted.retry_at <= end);
    let counted = counted.unwrap_or(BackoffRecord { failures: 0, retry_at: end });
    if counted.failures >= MAX_ANSWERS {
        return Ok(false);
    }
    txn.put(&key, &BackoffRecord { failures: 0, retry_at: latest });
    txn.put(&count_key, &BackoffRecord { failures: counted.failures + 1, ..counted });
    Ok(true)
}

/// Sends a secret by Olm, if it is here.
fn give(
    txn: &mut Txn<'_, '_>,
    device: &Device,
    wanted: &str,
    request_id: &str,
) -> Result<(), MachineError> {
    // Only what is of use is passed on: what does not fit the published key would be refused.
    if !is_here(txn, wanted)? || !may_answer(txn, &device.device_id, wanted)? {
        return Ok(());
    }
    let Some(record) = txn.load::<SecretRecord>(&name(wanted))? else { return Ok(()) };
    let content = json!({ "request_id": request_id, "secret": record.secret.as_str() });
    let content = Zeroizing::new(content.to_string());
    let own = OwnIdentity::new(txn);
    if let Some(encrypted) = olm::encrypt(txn, &own, device, "m.secret.send", &content)? {
        let mut messages = Messages::default();
        messages.add(device, encrypted);
        messages.enqueue(txn, "m.room.encrypted")?;
    }
    Ok(())
}

/// Takes `m.secret.send`, whose Olm payload has been checked.
pub(crate) fn handle_send(txn: &mut Txn<'_, '_>, event: OlmEvent) -> Result<(), MachineError> {
    #[derive(Deserialize)]
    struct Send {
        request_id: String,
        secret: SecretString,
    }
    let Some(sent) = parse::<Send>(&event.content) else {
        return dropped(txn, Some(event.sender), DropReason::Malformed);
    };
    let asked = txn
        .list::<SecretRequestRecord>(&[])?
        .into_iter()
        .find(|(_, asked)| asked.request_id == sent.request_id);
    let Some((key, asked)) = asked else {
        return dropped(txn, Some(event.sender), DropReason::Unsolicited);
    };
    let believed = match &event.device {
        Some(device) => {
            asked.devices.contains(&device.device_id)
                && key_requests::is_verified_own(txn, device)?
                && !key_requests::is_blocked(txn, device)?
        }
        None => false,
    };
    if !believed {
        return dropped(txn, Some(event.sender), DropReason::SenderUntrusted);
    }
    let taken = match &event.device {
        // It is compared with the backup's public key, which the homeserver may have to be asked for. Until then the
        // request stands: the next device may know better.
        Some(device) if key.name == key_backup::SECRET => {
            key_backup::offer(txn, &device.device_id, &sent.secret)?
        }
        // It has no public half: what it opens shows what it is worth.
        _ if key.name == dehydration::key::SECRET => {
            Some(dehydration::key::import(txn, &sent.secret)?)
        }
        _ => Some(own_identity::import(txn, &key.name, &sent.secret)?),
    };
    match taken {
        None => return Ok(()),
        Some(true) => {
            txn.delete::<SecretRequestRecord>(&key);
            return Ok(());
        }
        Some(false) => {}
    }
    dropped(txn, Some(event.sender), DropReason::RoomKeyConflict)
}

/// A secret is here: it is no longer asked for.
pub(crate) fn has_come(txn: &mut Txn<'_, '_>, secret: &str) -> Result<(), MachineError> {
    let key = name(secret);
    if txn.contains::<SecretRequestRecord>(&key)? {
        txn.delete::<SecretRequestRecord>(&key);
    }
    Ok(())
}
