//! Making and using an own cross-signing identity: the objects to upload, and the signatures that
//! say whom and what this user believes.
//!
//! A signature is made over a key *value* that the caller names as verified, never over whatever the
//! server shows under an id: each function compares before it signs.
//!
//! Matrix specification, Client-Server API: "Cross-signing" (`POST /keys/device_signing/upload`,
//! `POST /keys/signatures/upload`), "Key and signature security".

use herold_crypto::{
    CanonicalJsonError, Ed25519PublicKey, Entropy, SigningKey, ed25519_from_base64, verify_json,
};
use ruma::UserId;
use serde_json::{Map, Value, json};
use thiserror::Error;

use crate::identity::names_device;
use crate::{Device, Identity, KeyUsage};

/// Why nothing was signed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SignError {
    /// The private key is not the one that the own identity publishes for this use.
    #[error("the private key is not the published {0} key")]
    WrongPrivateKey(KeyUsage),
    /// The key to sign is not the verified one any more, or belongs to another user.
    #[error("the key to sign is not the verified one")]
    NotTheVerifiedKey,
    /// A device id equals a cross-signing key, so that a signature could be passed off as another.
    #[error("a device id equals a cross-signing key")]
    KeyIdConflict,
    /// The stored object does not parse, or does not say what its record says.
    #[error("the object to sign is damaged")]
    Damaged,
    /// The object cannot be signed.
    #[error(transparent)]
    Json(#[from] CanonicalJsonError),
}

/// The private keys of a whole cross-signing identity.
///
/// Secrecy: `Debug` shows the public keys only. Each key is stored and shared by itself
/// ([`SigningKey::to_record`], [`SigningKey::to_secret`]).
#[derive(Debug)]
pub struct CrossSigningKeys {
    /// Stands for the user (secret `m.cross_signing.master`).
    pub master: SigningKey,
    /// Signs the user's devices (secret `m.cross_signing.self_signing`).
    pub self_signing: SigningKey,
    /// Signs other users' master keys (secret `m.cross_signing.user_signing`).
    pub user_signing: SigningKey,
}

impl CrossSigningKeys {
    /// Three new keys.
    pub fn generate(entropy: &mut dyn Entropy) -> Self {
        Self {
            master: SigningKey::generate(entropy),
            self_signing: SigningKey::generate(entropy),
            user_signing: SigningKey::generate(entropy),
        }
    }

    /// The body of `POST /keys/device_signing/upload`, without `auth`: the three public keys, the
    /// last two signed by the master key. The same keys give the same body. It parses with
    /// [`parse_identity`](crate::parse_identity).
    ///
    /// The master key should then also be signed by the device ([`own_master_object`]).
    ///
    /// # Errors
    ///
    /// None for a valid user id; the type is that of signing.
    pub fn upload_body(&self, user: &UserId) -> Result<Value, CanonicalJsonError> {
        let signed = |key: &SigningKey, usage| {
            let mut object = key_object(user, key.public_key(), usage);
            self.master.sign_json(user.as_str(), &mut object)?;
            Ok::<_, CanonicalJsonError>(object)
        };
        Ok(json!({
            "master_key": key_object(user, self.master.public_key(), KeyUsage::Master),
            "self_signing_key": signed(&self.self_signing, KeyUsage::SelfSigning)?,
            "user_signing_key": signed(&self.user_signing, KeyUsage::UserSigning)?,
        }))
    }

    /// Whether these are the private halves of the published identity.
    #[must_use]
    pub fn match_identity(&self, identity: &Identity) -> bool {
        self.master.public_key() == identity.master
            && self.self_signing.public_key() == identity.self_signing
            && Some(self.user_signing.public_key()) == identity.user_signing
    }
}

fn key_object(user: &UserId, key: Ed25519PublicKey, usage: KeyUsage) -> Value {
    let key = key.to_base64();
    json!({ "user_id": user, "usage": [usage.as_str()], "keys": { (format!("ed25519:{key}")): key } })
}

/// The body of `POST /keys/signatures/upload`, built up object by object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SignatureUpload(Map<String, Value>);

impl SignatureUpload {
    /// Adds a signed object of `user` under its name: a device id, or the master key in base64.
    pub fn add(&mut self, user: &UserId, name: &str, object: Value) {
        let by_user = self.0.entry(user.as_str()).or_insert_with(|| Value::Object(Map::new()));
        if let Value::Object(by_user) = by_user {
            by_user.insert(name.to_owned(), object);
        }
    }

    /// Whether there is nothing to upload.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The body.
    #[must_use]
    pub fn into_json(self) -> Value {
        Value::Object(self.0)
    }
}

/// Signs an own device whose Ed25519 key `verified` somebody verified; the result goes into a
/// [`SignatureUpload`] under the device id and holds the new signature only.
///
/// # Errors
///
/// [`SignError`]. Nothing is signed then.
pub fn sign_device(
    self_signing: &SigningKey,
    own: &Identity,
    device: &Device,
    verified: &Ed25519PublicKey,
) -> Result<Value, SignError> {
    if self_signing.public_key() != own.self_signing {
        return Err(SignError::WrongPrivateKey(KeyUsage::SelfSigning));
    }
    if device.user_id != own.user_id || device.keys.ed25519 != *verified {
        return Err(SignError::NotTheVerifiedKey);
    }
    if own.has_key_named(device.device_id.as_str()) {
        return Err(SignError::KeyIdConflict);
    }
    let mut object: Value =
        serde_json::from_str(&device.signed_json).map_err(|_| SignError::Damaged)?;
    if !names_device(&object, device) {
        return Err(SignError::Damaged);
    }
    sign_alone(self_signing, own, &mut object)?;
    Ok(object)
}

/// Signs another user's master key `verified`; the result goes into a [`SignatureUpload`] under the
/// key in base64 and holds the new signature only.
///
/// # Errors
///
/// [`SignError`]. Nothing is signed then.
pub fn sign_user(
    user_signing: &SigningKey,
    own: &Identity,
    theirs: &Identity,
    verified: &Ed25519PublicKey,
) -> Result<Value, SignError> {
    if Some(user_signing.public_key()) != own.user_signing {
        return Err(SignError::WrongPrivateKey(KeyUsage::UserSigning));
    }
    if theirs.user_id == own.user_id || theirs.master != *verified {
        return Err(SignError::NotTheVerifiedKey);
    }
    let mut object = master_object(theirs)?;
    sign_alone(user_signing, own, &mut object)?;
    Ok(object)
}

/// The own master key's object without signatures, to be signed by the device's account under its
/// device id; goes into a [`SignatureUpload`] under the key in base64.
///
/// # Errors
///
/// [`SignError::NotTheVerifiedKey`] if the identity's master key is not `verified`;
/// [`SignError::Damaged`].
pub fn own_master_object(own: &Identity, verified: &Ed25519PublicKey) -> Result<Value, SignError> {
    if own.master != *verified {
        return Err(SignError::NotTheVerifiedKey);
    }
    let mut object = master_object(own)?;
    if let Some(object) = object.as_object_mut() {
        object.remove("signatures");
    }
    Ok(object)
}

/// Whether the own user-signing key signed this user's current master key.
///
/// This is one link only. Whether the user counts as verified also takes that the own master key is
/// verified on this device (CVE-2024-40648).
#[must_use]
pub fn is_signed_by_own_user(theirs: &Identity, own: &Identity) -> bool {
    let (Some(key), Ok(object)) = (own.user_signing, master_object(theirs)) else {
        return false;
    };
    let key_id = format!("ed25519:{}", key.to_base64());
    theirs.user_id != own.user_id
        && verify_json(&key, own.user_id.as_str(), &key_id, &object).is_ok()
}

/// Whether this device of the user signed the user's current master key. Says nothing about whether
/// the device is believed.
#[must_use]
pub fn is_master_signed_by_device(identity: &Identity, device: &Device) -> bool {
    let Ok(object) = master_object(identity) else {
        return false;
    };
    let key_id = format!("ed25519:{}", device.device_id);
    identity.user_id == device.user_id
        && !identity.has_key_named(device.device_id.as_str())
        && verify_json(&device.keys.ed25519, device.user_id.as_str(), &key_id, &object).is_ok()
}

/// The master key's object from the identity's record, if it says what the record says.
fn master_object(identity: &Identity) -> Result<Value, SignError> {
    let mut parts: Value = serde_json::from_str(&identity.json).map_err(|_| SignError::Damaged)?;
    let object = parts.get_mut("master").map(Value::take).ok_or(SignError::Damaged)?;
    let name = identity.master.to_base64();
    let key = object
        .get("keys")
        .and_then(Value::as_object)
        .filter(|keys| keys.len() == 1)
        .and_then(|keys| keys.get(&format!("ed25519:{name}")))
        .and_then(Value::as_str)
        .and_then(|key| ed25519_from_base64(key).ok());
    let user = object.get("user_id").and_then(Value::as_str);
    if key != Some(identity.master) || user != Some(identity.user_id.as_str()) {
        return Err(SignError::Damaged);
    }
    Ok(object)
}

/// Replaces all signatures by one.
fn sign_alone(key: &SigningKey, own: &Identity, object: &mut Value) -> Result<(), SignError> {
    if let Some(object) = object.as_object_mut() {
        object.remove("signatures");
        object.remove("unsigned");
    }
    Ok(key.sign_json(own.user_id.as_str(), object)?)
}

#[cfg(test)]
#[path = "own_identity_tests.rs"]
mod tests;
