//! The foreign values, as far as they are taken over: MessagePack with field names. Written after the definitions in
//! matrix-sdk-crypto 0.18; fields that older versions did not write have the defaults it gives them.

use std::time::Duration;

use herold_crypto::{
    AccountPickle, Curve25519PublicKey, InboundGroupSessionPickle, OlmSessionPickle, SecretBytes,
};
use serde::Deserialize;
use serde_json::Value;

/// `account` in `kv`.
#[derive(Deserialize)]
pub(crate) struct ForeignAccount {
    pub(crate) user_id: String,
    pub(crate) device_id: String,
    pub(crate) pickle: AccountPickle,
    /// The server has the device's keys.
    pub(crate) shared: bool,
    #[serde(default)]
    pub(crate) dehydrated: bool,
    pub(crate) uploaded_signed_key_count: u64,
    #[serde(default)]
    pub(crate) creation_local_time: u64,
    #[serde(default)]
    pub(crate) fallback_key_creation_timestamp: Option<u64>,
}

/// A row of `session`.
#[derive(Deserialize)]
pub(crate) struct ForeignOlmSession {
    pub(crate) pickle: OlmSessionPickle,
    pub(crate) sender_key: Curve25519PublicKey,
    /// In seconds.
    pub(crate) creation_time: u64,
    /// In seconds.
    pub(crate) last_use_time: u64,
}

/// A row of `inbound_group_session`.
#[derive(Deserialize)]
pub(crate) struct ForeignRoomKey {
    pub(crate) pickle: InboundGroupSessionPickle,
    pub(crate) sender_key: String,
    /// By algorithm: what the sender's device claimed.
    pub(crate) signing_key: std::collections::BTreeMap<String, String>,
    /// Before there was any, nothing was known of the sender.
    #[serde(default)]
    pub(crate) sender_data: Option<SenderData>,
    pub(crate) room_id: String,
    /// It came from a file, a backup, another own device, or a bundle.
    pub(crate) imported: bool,
    #[serde(default)]
    pub(crate) algorithm: Option<String>,
    #[serde(default)]
    pub(crate) shared_history: bool,
}

/// Who sent a room key, as the old client found.
#[derive(Deserialize)]
pub(crate) enum SenderData {
    UnknownDevice {},
    DeviceInfo {
        device_keys: Value,
    },
    #[serde(alias = "SenderUnverifiedButPreviouslyVerified")]
    VerificationViolation(KnownSender),
    SenderUnverified(KnownSender),
    SenderVerified(KnownSender),
    SenderKnown(KnownSender),
}

#[derive(Deserialize)]
pub(crate) struct KnownSender {
    pub(crate) user_id: String,
}

/// A row of `device`.
#[derive(Deserialize)]
pub(crate) struct ForeignDevice {
    #[serde(alias = "inner")]
    pub(crate) device_keys: Value,
    #[serde(default)]
    pub(crate) deleted: bool,
    #[serde(default)]
    pub(crate) trust_state: Value,
    #[serde(default)]
    pub(crate) first_time_seen_ts: u64,
}

/// A row of `identity`.
#[derive(Deserialize)]
pub(crate) enum ForeignIdentity {
    Own(ForeignOwnIdentity),
    Other(ForeignOtherIdentity),
}

#[derive(Deserialize)]
pub(crate) struct ForeignOwnIdentity {
    pub(crate) user_id: String,
    pub(crate) master_key: Value,
    pub(crate) self_signing_key: Value,
    pub(crate) user_signing_key: Value,
    /// A word; a truth value in older versions.
    #[serde(default)]
    pub(crate) verified: Value,
}

#[derive(Deserialize)]
pub(crate) struct ForeignOtherIdentity {
    pub(crate) user_id: String,
    pub(crate) master_key: Value,
    pub(crate) self_signing_key: Value,
    #[serde(default)]
    pub(crate) pinned_master_key: Option<Value>,
    #[serde(default)]
    pub(crate) previously_verified: bool,
}

/// `identity` in `kv`: the private half.
#[derive(Deserialize)]
pub(crate) struct ForeignPrivateIdentity {
    pub(crate) user_id: String,
    /// The server has the public keys.
    pub(crate) shared: bool,
    pub(crate) keys: ForeignSigningKeys,
}

#[derive(Deserialize)]
pub(crate) struct ForeignSigningKeys {
    pub(crate) master_key: Option<ForeignSigningKey>,
    pub(crate) self_signing_key: Option<ForeignSigningKey>,
    pub(crate) user_signing_key: Option<ForeignSigningKey>,
}

#[derive(Deserialize)]
pub(crate) struct ForeignSigningKey {
    /// 32 bytes.
    pub(crate) pickle: SecretBytes,
    pub(crate) public_key: Value,
}

/// A row of `tracked_user`.
#[derive(Deserialize)]
pub(crate) struct ForeignTrackedUser {
    pub(crate) user_id: String,
}

/// A row of `room_settings`.
#[derive(Deserialize)]
pub(crate) struct ForeignRoomSettings {
    pub(crate) algorithm: String,
    #[serde(default)]
    pub(crate) session_rotation_period: Option<Duration>,
    #[serde(default)]
    pub(crate) session_rotation_period_messages: Option<u64>,
}
