//! Cross-signing identities of users, read, checked and pinned.
//!
//! A user's identity is three keys: the master key stands for the user, the self-signing key signs
//! the user's devices, and the user-signing key (seen for the own user only) signs other users. The
//! server hands all of them out, so the first master key seen is *pinned*: a later one is shown to the
//! app as a violation and not used for sharing keys until somebody acknowledges it.
//!
//! Matrix specification, Client-Server API: "Cross-signing" (key objects have exactly one key, whose
//! id is its own public key; the master key signs the two others) and its security considerations
//! (device ids that equal a cross-signing key).

use herold_crypto::{
    CanonicalJsonError, Ed25519PublicKey, KeyError, SignatureError, ed25519_from_base64,
    verify_json,
};
use ruma::{OwnedUserId, UserId};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use thiserror::Error;

use crate::{
    Anchor, Device,
    device::{canonical_without_unsigned, fits, text},
};

/// The three roles of a cross-signing key, in the words of its `usage` field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyUsage {
    /// Stands for the user.
    Master,
    /// Signs the user's devices.
    SelfSigning,
    /// Signs other users' master keys.
    UserSigning,
}

impl KeyUsage {
    /// The name in the `usage` field.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Master => "master",
            Self::SelfSigning => "self_signing",
            Self::UserSigning => "user_signing",
        }
    }
}

impl std::fmt::Display for KeyUsage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a cross-signing identity is not believed. It is rejected as a whole; what was known stays.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum IdentityError {
    /// A key, or its `keys`, is not a JSON object.
    #[error("the {0} key is not a JSON object")]
    NotAnObject(KeyUsage),
    /// A key object is larger than [`crate::MAX_KEYS_SIZE`].
    #[error("the {0} key is too large")]
    TooLarge(KeyUsage),
    /// The `user_id` of a key is missing or somebody else's.
    #[error("the {0} key belongs to another user")]
    WrongUser(KeyUsage),
    /// The `usage` of a key is not exactly its role.
    #[error("the {0} key is not meant for that use")]
    WrongUsage(KeyUsage),
    /// There is no Ed25519 key in the object.
    #[error("the {0} key object holds no key")]
    MissingKey(KeyUsage),
    /// There is more than one key in the object.
    #[error("the {0} key object holds several keys")]
    SeveralKeys(KeyUsage),
    /// The key is not unpadded base64 of a key, or its id is not that same text.
    #[error("the {0} key is malformed")]
    MalformedKey(KeyUsage),
    /// The key is a point of small order.
    #[error("the {0} key is a point of small order")]
    LowOrderKey(KeyUsage),
    /// One key has two roles.
    #[error("the {0} key also has another role")]
    SharedKey(KeyUsage),
    /// The master key has not signed this key.
    #[error("the {usage} key is not signed by the master key: {source}")]
    BadSignature {
        /// The key that is not signed.
        usage: KeyUsage,
        /// What is wrong with the signature.
        source: SignatureError,
    },
    /// A key object has no canonical form.
    #[error("the {usage} key has no canonical form: {source}")]
    NotCanonical {
        /// The key that has none.
        usage: KeyUsage,
        /// What stands in the way.
        source: CanonicalJsonError,
    },
}

/// A cross-signing identity that is consistent in itself, not yet compared with what was known.
/// Only [`parse_identity`] makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParsedIdentity {
    user_id: OwnedUserId,
    master: Ed25519PublicKey,
    self_signing: Ed25519PublicKey,
    user_signing: Option<Ed25519PublicKey>,
    json: String,
}

impl ParsedIdentity {
    /// The user whose identity this claims to be.
    #[must_use]
    pub fn user_id(&self) -> &UserId {
        &self.user_id
    }

    /// The master key.
    #[must_use]
    pub const fn master(&self) -> Ed25519PublicKey {
        self.master
    }

    /// The self-signing key.
    #[must_use]
    pub const fn self_signing(&self) -> Ed25519PublicKey {
        self.self_signing
    }

    /// The user-signing key, if one was given.
    #[must_use]
    pub const fn user_signing(&self) -> Option<Ed25519PublicKey> {
        self.user_signing
    }
}

/// Reads the cross-signing keys of one user from a `/keys/query` answer.
///
/// `user` is the id under which the keys were found. `user_signing` is given for the own user only; a
/// server's user-signing key for anybody else is to be treated as a rejected identity by the caller,
/// who knows which user is the own one.
///
/// # Errors
///
/// [`IdentityError`] when a key belongs to another user or has another usage, when an object holds no
/// key or several, when a key's id is not the key, when one key has two roles, or when the
/// self-signing or user-signing key is not signed by the master key.
pub fn parse_identity(
    user: &UserId,
    master: &Value,
    self_signing: &Value,
    user_signing: Option<&Value>,
) -> Result<ParsedIdentity, IdentityError> {
    let root = KeyObject::parse(user, KeyUsage::Master, master)?;
    let devices = KeyObject::parse(user, KeyUsage::SelfSigning, self_signing)?;
    let users =
        user_signing.map(|json| KeyObject::parse(user, KeyUsage::UserSigning, json)).transpose()?;

    devices.check_signed_by(user, &root)?;
    if devices.key == root.key {
        return Err(IdentityError::SharedKey(KeyUsage::SelfSigning));
    }
    if let Some(users) = &users {
        users.check_signed_by(user, &root)?;
        if users.key == root.key || users.key == devices.key {
            return Err(IdentityError::SharedKey(KeyUsage::UserSigning));
        }
    }

    // The parts are canonical and the names are in order, so the whole is canonical too.
    let parts: Vec<String> = [Some(&root), Some(&devices), users.as_ref()]
        .into_iter()
        .flatten()
        .map(|part| Ok(format!("\"{}\":{}", part.usage, part.canonical()?)))
        .collect::<Result<_, IdentityError>>()?;
    Ok(ParsedIdentity {
        user_id: user.to_owned(),
        master: root.key,
        self_signing: devices.key,
        user_signing: users.map(|part| part.key),
        json: format!("{{{}}}", parts.join(",")),
    })
}

/// A user's cross-signing identity as stored: the current keys and the pin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The user.
    pub user_id: OwnedUserId,
    /// The current master key, as the server last said.
    pub master: Ed25519PublicKey,
    /// The current self-signing key, signed by the master key.
    pub self_signing: Ed25519PublicKey,
    /// The current user-signing key, signed by the master key; known for the own user only.
    pub user_signing: Option<Ed25519PublicKey>,
    /// The master key that was first seen, or last acknowledged or verified.
    pub pinned_master: Ed25519PublicKey,
    /// Whether the pinned identity was once verified. It is a memory, never a sign of trust: if another master
    /// key comes, that one has to be verified too, or the verification withdrawn.
    pub was_verified: bool,
    /// Whether the current master key is verified, as [`Identity::evaluate`] last found.
    pub verified: bool,
    /// Canonical JSON of the accepted key objects with their signatures, by usage.
    pub json: String,
}

/// How an identity stands to what was known of the user before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IdentityState {
    /// The master key is the pinned one.
    Pinned,
    /// The master key is another than the pinned one, and nobody has acknowledged it.
    PinViolation,
    /// The master key was verified by the own user.
    Verified,
    /// A verified master key was replaced by one that is not.
    VerificationViolation,
}

impl IdentityState {
    /// Whether the app must ask its user before anything more is sent to this identity.
    #[must_use]
    pub const fn is_violation(self) -> bool {
        matches!(self, Self::PinViolation | Self::VerificationViolation)
    }
}

impl Identity {
    /// The identity of a user who had none before: its master key is pinned.
    #[must_use]
    pub fn pin(parsed: ParsedIdentity) -> Self {
        Self {
            user_id: parsed.user_id,
            master: parsed.master,
            self_signing: parsed.self_signing,
            user_signing: parsed.user_signing,
            pinned_master: parsed.master,
            was_verified: false,
            verified: false,
            json: parsed.json,
        }
    }

    /// This identity with the keys of a newer answer, not yet evaluated. The pin stays as it was, so that
    /// another master key shows as a violation. An identity of another user changes nothing.
    #[must_use]
    pub fn update(&self, parsed: ParsedIdentity) -> Self {
        if parsed.user_id != self.user_id {
            return self.clone();
        }
        Self {
            pinned_master: self.pinned_master,
            was_verified: self.was_verified,
            ..Self::pin(parsed)
        }
    }

    /// How this identity stands to its pin.
    #[must_use]
    pub fn state(&self) -> IdentityState {
        if self.verified {
            IdentityState::Verified
        } else if self.master == self.pinned_master {
            IdentityState::Pinned
        } else if self.was_verified {
            IdentityState::VerificationViolation
        } else {
            IdentityState::PinViolation
        }
    }

    /// Pins the current master key: the app's user has seen that it changed and accepts it. For one who was
    /// verified that is not enough: see [`Identity::withdraw_verification`].
    pub fn acknowledge(&mut self) {
        if self.state() == IdentityState::PinViolation {
            self.pinned_master = self.master;
        }
    }

    /// The app's user does not insist on the verification that was: the current master key is pinned, as one
    /// that nobody has verified. Nothing happens to an identity that is verified.
    pub fn withdraw_verification(&mut self) {
        if !self.verified {
            self.was_verified = false;
            self.pinned_master = self.master;
        }
    }

    /// The app's user has verified this master key. If it is the current one it is pinned, and another one that comes
    /// is a violation until that is verified too, or the verification withdrawn.
    pub fn note_verified(&mut self, master: &Ed25519PublicKey) {
        if self.master == *master {
            self.was_verified = true;
            self.pinned_master = self.master;
        }
    }

    /// Finds out whether this identity is verified: whether its master key is the own user's, or is signed by
    /// the own user's user-signing key. A verified master key becomes the pinned one. `anchor` is `None`
    /// as long as the own identity is not verified: then nobody's is.
    pub fn evaluate(&mut self, anchor: Option<&Anchor>) {
        self.verified = anchor.is_some_and(|anchor| anchor.vouches_for(self));
        if self.verified {
            self.was_verified = true;
            self.pinned_master = self.master;
        }
    }

    /// A key object as accepted, with its signatures.
    #[must_use]
    pub fn key_json(&self, usage: KeyUsage) -> Option<Value> {
        let mut keys: Map<String, Value> = serde_json::from_str(&self.json).ok()?;
        keys.remove(usage.as_str())
    }

    /// Whether `name` is the public key of one of the cross-signing keys, current or pinned. No device is to be named
    /// so (CVE-2022-39250).
    #[must_use]
    pub fn has_key_named(&self, name: &str) -> bool {
        let name = name.trim_end_matches('=');
        [Some(self.master), Some(self.self_signing), self.user_signing, Some(self.pinned_master)]
            .into_iter()
            .flatten()
            .any(|key| key.to_base64() == name)
    }
}

/// Whether the device is signed by its owner's self-signing key.
///
/// `identity` is the owner's. `false` for any doubt: no identity, another user's, a signature that
/// is not good, a record that contradicts its own signed text, or a device id that is the public key
/// of one of the owner's cross-signing keys (which could let a signature over one be passed off as a
/// signature over the other, CVE-2022-39250).
///
/// The cost is one parse and one signature check. That the identity itself is not in violation is a
/// separate question: [`Identity::state`].
#[must_use]
pub fn is_cross_signed(device: &Device, identity: Option<&Identity>) -> bool {
    let Some(identity) = identity else {
        return false;
    };
    if identity.user_id != device.user_id || identity.has_key_named(device.device_id.as_str()) {
        return false;
    }
    let Ok(json) = serde_json::from_str::<Value>(&device.signed_json) else {
        return false;
    };
    let key_id = format!("ed25519:{}", identity.self_signing.to_base64());
    names_device(&json, device)
        && verify_json(&identity.self_signing, device.user_id.as_str(), &key_id, &json).is_ok()
}

/// Whether the device belongs to an identity that was verified on this very device.
///
/// `identity` is that of the device's owner, `verified_master` the master key that was verified. The keys
/// are compared, not names: an identity that was replaced since is not verified, and neither is a device that
/// has come back under its old id with other keys.
#[must_use]
pub fn is_verified(
    device: &Device,
    identity: Option<&Identity>,
    verified_master: Option<&Ed25519PublicKey>,
) -> bool {
    let verified = identity.is_some_and(|identity| {
        verified_master == Some(&identity.master) && !identity.state().is_violation()
    });
    verified && is_cross_signed(device, identity)
}

/// Whether the signed text is about this device and these keys.
pub(crate) fn names_device(json: &Value, device: &Device) -> bool {
    let key = |kind: &str| {
        json.get("keys")
            .and_then(|keys| keys.get(format!("{kind}:{}", device.device_id)))
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    json.get("user_id").and_then(Value::as_str) == Some(device.user_id.as_str())
        && json.get("device_id").and_then(Value::as_str) == Some(device.device_id.as_str())
        && ed25519_from_base64(key("ed25519")).is_ok_and(|key| key == device.keys.ed25519)
        && herold_crypto::curve25519_from_base64(key("curve25519"))
            .is_ok_and(|key| key == device.keys.curve25519)
}

/// One cross-signing key object, its form checked.
struct KeyObject<'a> {
    usage: KeyUsage,
    key: Ed25519PublicKey,
    json: &'a Value,
    object: &'a Map<String, Value>,
}

impl<'a> KeyObject<'a> {
    fn parse(user: &UserId, usage: KeyUsage, json: &'a Value) -> Result<Self, IdentityError> {
        if !fits(json) {
            return Err(IdentityError::TooLarge(usage));
        }
        let object = json.as_object().ok_or(IdentityError::NotAnObject(usage))?;
        if text(object, "user_id") != Some(user.as_str()) {
            return Err(IdentityError::WrongUser(usage));
        }
        let usages = object.get("usage").and_then(Value::as_array).map(Vec::as_slice);
        if !matches!(usages, Some([only]) if only.as_str() == Some(usage.as_str())) {
            return Err(IdentityError::WrongUsage(usage));
        }
        let keys = object
            .get("keys")
            .and_then(Value::as_object)
            .ok_or(IdentityError::NotAnObject(usage))?;
        Ok(Self { usage, key: sole_key(usage, keys)?, json, object })
    }

    fn check_signed_by(&self, user: &UserId, master: &Self) -> Result<(), IdentityError> {
        let key_id = format!("ed25519:{}", master.key.to_base64());
        verify_json(&master.key, user.as_str(), &key_id, self.json)
            .map_err(|source| IdentityError::BadSignature { usage: self.usage, source })
    }

    fn canonical(&self) -> Result<String, IdentityError> {
        canonical_without_unsigned(self.object)
            .map_err(|source| IdentityError::NotCanonical { usage: self.usage, source })
    }
}

/// The one key of an object. Its id must be its own canonical text: signatures and device ids are
/// compared with that text, so two spellings of one key must not exist.
fn sole_key(usage: KeyUsage, keys: &Map<String, Value>) -> Result<Ed25519PublicKey, IdentityError> {
    let mut entries = keys.iter();
    let (id, value) = entries.next().ok_or(IdentityError::MissingKey(usage))?;
    if entries.next().is_some() {
        return Err(IdentityError::SeveralKeys(usage));
    }
    let name = id.strip_prefix("ed25519:").ok_or(IdentityError::MissingKey(usage))?;
    let value = value.as_str().ok_or(IdentityError::MalformedKey(usage))?;
    let key = ed25519_from_base64(value).map_err(|error| match error {
        KeyError::LowOrder => IdentityError::LowOrderKey(usage),
        _ => IdentityError::MalformedKey(usage),
    })?;
    if name != value || value != key.to_base64() {
        return Err(IdentityError::MalformedKey(usage));
    }
    Ok(key)
}

#[cfg(test)]
#[path = "identity_tests.rs"]
mod tests;
