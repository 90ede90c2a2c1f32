//! Devices: reading what a server says about one, and deciding what a new answer changes.
//!
//! Everything here arrives through a server that is not trusted. A [`Device`] exists only after its
//! self-signature was checked strictly, so that holding one means: whoever owns this Ed25519 key said
//! that this user id, device id and Curve25519 key belong to it. That is all it means; whether the
//! *user* agrees is the question of [`crate::is_cross_signed`].
//!
//! Matrix specification, Client-Server API: "Device keys" and `POST /keys/query` (clients must check
//! that ids agree and that the identity keys of a known device id do not change), "Olm",
//! `sender_device_keys`.

use std::{fmt, io};

use herold_crypto::{
    Curve25519PublicKey, Ed25519PublicKey, IdentityKeys, KeyError, SignatureError, canonical_json,
    curve25519_from_base64, ed25519_from_base64, verify_json,
};
use ruma::{DeviceId, OwnedDeviceId, OwnedUserId, UserId};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use thiserror::Error;

use crate::OLM;

/// The largest object of keys that is read, in bytes of JSON. The specification limits whole events
/// to as much; honest key objects have a few hundred bytes.
pub const MAX_KEYS_SIZE: usize = 64 * 1024;

/// A device whose keys were read and whose self-signature is good.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// The user that the device says it belongs to.
    pub user_id: OwnedUserId,
    /// The id of the device, unique per user.
    pub device_id: OwnedDeviceId,
    /// The identity keys, fixed for the life of the device id.
    pub keys: IdentityKeys,
    /// The encryption algorithms that the device says it supports; Olm is among them.
    pub algorithms: Vec<String>,
    /// The name that the server gives the device. Unsigned: the server chooses it freely, so it is
    /// for display only, through [`crate::Policy::device_name`].
    pub display_name: Option<String>,
    /// Canonical JSON of the accepted object with its signatures and without `unsigned`.
    pub signed_json: String,
    /// Whether this is a dehydrated device: a mailbox without a running client (MSC3814).
    pub dehydrated: bool,
}

/// The kinds of key that a device must have exactly one of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyKind {
    /// The fingerprint key, which signs.
    Ed25519,
    /// The identity key of Olm, which agrees on secrets.
    Curve25519,
}

impl KeyKind {
    /// The algorithm part of a key id.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ed25519 => "ed25519",
            Self::Curve25519 => "curve25519",
        }
    }
}

impl fmt::Display for KeyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why an object of device keys is not believed. The entry is dropped; what was known stays.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DeviceKeysError {
    /// The object, or its `keys`, is not a JSON object.
    #[error("the device keys are not a JSON object")]
    NotAnObject,
    /// The `user_id` inside is missing or differs from the user asked for.
    #[error("the device keys name another user")]
    WrongUser,
    /// The `device_id` inside is missing, empty or differs from the device asked for.
    #[error("the device keys name another device")]
    WrongDevice,
    /// There is no key of this kind that is named after the device.
    #[error("the device has no {0} key named after it")]
    MissingKey(KeyKind),
    /// A key is not text, not base64, or not a key.
    #[error("a device key is malformed")]
    MalformedKey,
    /// A key is one of the points of small order, with which no secret is secret.
    #[error("a device key is a point of small order")]
    LowOrderKey,
    /// There is more than one key of this kind.
    #[error("the device has several {0} keys")]
    SeveralKeys(KeyKind),
    /// The device does not support Olm, so nothing can be sent to it.
    #[error("the device does not support Olm")]
    NoOlm,
    /// The device's own signature is missing or not good.
    #[error("the self-signature of the device keys is not good: {0}")]
    BadSignature(SignatureError),
    /// The object is larger than [`MAX_KEYS_SIZE`].
    #[error("the device keys are too large")]
    TooLarge,
}

/// Reads one entry of a `/keys/query` answer, or a `sender_device_keys` whose device is known.
///
/// `user` and `device` are the ids under which the entry was found.
///
/// # Errors
///
/// [`DeviceKeysError`] when the ids inside differ from those, when there is not exactly one Ed25519
/// and one Curve25519 key, each named after the device, when Olm is not supported, when the strict
/// self-signature fails, or when the object is too large.
pub fn parse_device_keys(
    user: &UserId,
    device: &DeviceId,
    json: &Value,
) -> Result<Device, DeviceKeysError> {
    if !fits(json) {
        return Err(DeviceKeysError::TooLarge);
    }
    let object = json.as_object().ok_or(DeviceKeysError::NotAnObject)?;
    if text(object, "user_id") != Some(user.as_str()) {
        return Err(DeviceKeysError::WrongUser);
    }
    if device.as_str().is_empty() || text(object, "device_id") != Some(device.as_str()) {
        return Err(DeviceKeysError::WrongDevice);
    }

    let keys = object.get("keys").and_then(Value::as_object).ok_or(DeviceKeysError::NotAnObject)?;
    let ed25519 = sole_key(keys, KeyKind::Ed25519, device)?;
    let ed25519 = ed25519_from_base64(ed25519).map_err(key_error)?;
    let curve25519 = sole_key(keys, KeyKind::Curve25519, device)?;
    let curve25519 = curve25519_from_base64(curve25519).map_err(key_error)?;

    let algorithms: Vec<String> = object
        .get("algorithms")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect();
    if !algorithms.iter().any(|algorithm| algorithm == OLM) {
        return Err(DeviceKeysError::NoOlm);
    }

    let key_id = format!("ed25519:{device}");
    verify_json(&ed25519, user.as_str(), &key_id, json).map_err(DeviceKeysError::BadSignature)?;

    let display_name = object
        .get("unsigned")
        .and_then(|unsigned| unsigned.get("device_display_name"))
        .and_then(Value::as_str)
        .map(str::to_owned);
    Ok(Device {
        user_id: user.to_owned(),
        device_id: device.to_owned(),
        keys: IdentityKeys { curve25519, ed25519 },
        algorithms,
        display_name,
        signed_json: canonical_without_unsigned(object)
            .map_err(|error| DeviceKeysError::BadSignature(SignatureError::NotCanonical(error)))?,
        dehydrated: object.get("dehydrated").and_then(Value::as_bool).unwrap_or(false),
    })
}

/// Reads the `sender_device_keys` of an Olm payload, where the device id is only known from inside.
///
/// `user` is the sender of the event. The caller still has to compare the keys with those that the
/// message was encrypted and signed with: [`crate::owns`].
///
/// # Errors
///
/// As [`parse_device_keys`]; [`DeviceKeysError::WrongDevice`] when there is no device id inside.
pub fn parse_sender_device_keys(user: &UserId, json: &Value) -> Result<Device, DeviceKeysError> {
    let object = json.as_object().ok_or(DeviceKeysError::NotAnObject)?;
    let device = text(object, "device_id").ok_or(DeviceKeysError::WrongDevice)?;
    parse_device_keys(user, device.into(), json)
}

/// What a newly read device means for the one that is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceChange {
    /// The device was not known: store it.
    New,
    /// Nothing changed.
    Unchanged,
    /// The same identity keys with other signatures, algorithms or name: store it.
    Updated,
    /// Other identity keys under a known id: refuse the new one and keep the old.
    KeysChanged,
}

/// Compares a newly read device with the stored one of the same id.
///
/// The identity keys of a device id never change; a server that says so is lying or was lied to.
/// Two devices of different ids have nothing in common: that is [`DeviceChange::KeysChanged`] too, so
/// that a mix-up by the caller cannot overwrite anything.
#[must_use]
pub fn compare(known: Option<&Device>, new: &Device) -> DeviceChange {
    let Some(known) = known else {
        return DeviceChange::New;
    };
    let same_id = known.user_id == new.user_id && known.device_id == new.device_id;
    if !same_id || known.keys != new.keys {
        DeviceChange::KeysChanged
    } else if known == new {
        DeviceChange::Unchanged
    } else {
        DeviceChange::Updated
    }
}

/// Whether a room key or message that came from `user` with these two sender keys is this device's.
///
/// All three must agree. Anyone can publish somebody else's Curve25519 key as their own and sign it
/// with their own Ed25519 key; and a device that turns up later under the same Curve25519 key is not
/// the sender because of that alone.
#[must_use]
pub fn owns(
    device: &Device,
    user: &UserId,
    curve: &Curve25519PublicKey,
    ed25519: &Ed25519PublicKey,
) -> bool {
    device.user_id == *user && device.keys.curve25519 == *curve && device.keys.ed25519 == *ed25519
}

/// Whether the JSON text of `value` has at most [`MAX_KEYS_SIZE`] bytes. Stops counting there.
pub(crate) fn fits(value: &Value) -> bool {
    struct Budget(usize);

    impl io::Write for Budget {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 = self.0.checked_sub(bytes.len()).ok_or(io::ErrorKind::FileTooLarge)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    serde_json::to_writer(Budget(MAX_KEYS_SIZE), value).is_ok()
}

pub(crate) fn text<'a>(object: &'a Map<String, Value>, field: &str) -> Option<&'a str> {
    object.get(field).and_then(Value::as_str)
}

pub(crate) fn canonical_without_unsigned(
    object: &Map<String, Value>,
) -> Result<String, herold_crypto::CanonicalJsonError> {
    let mut object = object.clone();
    object.remove("unsigned");
    canonical_json(&Value::Object(object))
}

/// The one key of a kind, which must be named after the device.
fn sole_key<'a>(
    keys: &'a Map<String, Value>,
    kind: KeyKind,
    device: &DeviceId,
) -> Result<&'a str, DeviceKeysError> {
    let mut of_kind = keys.iter().filter_map(|(id, value)| {
        let (algorithm, name) = id.split_once(':').unwrap_or((id.as_str(), ""));
        (algorithm == kind.as_str()).then_some((name, value))
    });
    let (name, value) = of_kind.next().ok_or(DeviceKeysError::MissingKey(kind))?;
    if of_kind.next().is_some() {
        return Err(DeviceKeysError::SeveralKeys(kind));
    }
    if name != device.as_str() {
        return Err(DeviceKeysError::MissingKey(kind));
    }
    value.as_str().ok_or(DeviceKeysError::MalformedKey)
}

fn key_error(error: KeyError) -> DeviceKeysError {
    match error {
        KeyError::LowOrder => DeviceKeysError::LowOrderKey,
        _ => DeviceKeysError::MalformedKey,
    }
}

#[cfg(test)]
#[path = "device_tests.rs"]
mod tests;
