//! A Megolm session as it travels outside of Olm: in a backup and in a key file.
//!
//! Nothing vouches for what stands beside the session key. Whoever can write a backup can write
//! any `sender_key` and any claimed key: import such a session as *not authentic*, never in place of
//! one that came by Olm.
//!
//! Clause: Matrix specification, *Server-side key backups* (`BackedUpSessionData`) and *Key exports*
//! (`ExportedSessionData`).

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};
use vodozemac::Curve25519PublicKey;

use crate::identity::{Ed25519PublicKey, SessionId, curve25519_from_base64, ed25519_from_base64};
use crate::megolm::{InboundGroupSession, MegolmError};
use crate::secret::{SecretBytes, SecretString};

/// The one algorithm of room keys.
const MEGOLM: &str = "m.megolm.v1.aes-sha2";

/// Why one session of a backup or a file is not usable. The others are not concerned. The texts
/// quote nothing of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SessionDataError {
    /// Not JSON, or a required field is missing or of another type.
    #[error("the session data is malformed")]
    Malformed,
    /// The session is for another algorithm than Megolm.
    #[error("the session is for an unknown algorithm")]
    UnknownAlgorithm,
    /// The `sender_key` is no Curve25519 key, or one of small order.
    #[error("the session's sender key is not a key")]
    SenderKey,
    /// The session key itself was refused.
    #[error("the session key is not usable: {0}")]
    SessionKey(#[source] MegolmError),
    /// The session key belongs to another session id than it was filed under.
    #[error("the session key belongs to another session")]
    WrongSession,
}

/// `BackedUpSessionData`, parsed.
///
/// Secrecy: the session key is secret; `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct SessionData {
    /// The Curve25519 key of the device that the session is said to come from. A claim.
    pub sender_key: Curve25519PublicKey,
    /// The Ed25519 key that this device is said to have. A claim; unreadable ones are `None`.
    pub claimed_ed25519: Option<Ed25519PublicKey>,
    /// The devices through which the key is said to have been forwarded.
    pub forwarding_chain: Vec<String>,
    /// The session key in the session-export format.
    pub session_key: SecretString,
    /// Whether the key may be handed to later members (MSC3061, MSC4268). A claim.
    pub shared_history: bool,
}

impl SessionData {
    /// Reads the JSON text; unknown fields are ignored. The session key is not looked at: see
    /// [`open`](Self::open).
    ///
    /// # Errors
    ///
    /// [`SessionDataError`].
    pub fn parse(json: &[u8]) -> Result<Self, SessionDataError> {
        Wire::parse(json)?.session()
    }

    /// The JSON text.
    #[must_use]
    pub fn to_json(&self) -> SecretBytes {
        Wire::of(self, None).write()
    }

    /// Opens the session and compares its id with the one it was filed under.
    ///
    /// # Errors
    ///
    /// [`SessionDataError::SessionKey`] or [`SessionDataError::WrongSession`].
    pub fn open(&self, session_id: &SessionId) -> Result<InboundGroupSession, SessionDataError> {
        let session = InboundGroupSession::import(self.session_key.as_str())
            .map_err(SessionDataError::SessionKey)?;
        if session.session_id() != *session_id {
            return Err(SessionDataError::WrongSession);
        }
        Ok(session)
    }
}

impl fmt::Debug for SessionData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionData")
            .field("sender_key", &self.sender_key.to_base64())
            .field("shared_history", &self.shared_history)
            .finish_non_exhaustive()
    }
}

/// `ExportedSessionData`: a session with the room and the id it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportedSession {
    /// The room, as written in the file; the caller parses the id.
    pub room_id: String,
    /// The session's id.
    pub session_id: SessionId,
    /// The session.
    pub data: SessionData,
}

impl ExportedSession {
    /// Reads the JSON text; unknown fields are ignored.
    ///
    /// # Errors
    ///
    /// [`SessionDataError`].
    pub fn parse(json: &[u8]) -> Result<Self, SessionDataError> {
        let wire = Wire::parse(json)?;
        let (Some(room_id), Some(session_id)) = (&wire.room_id, &wire.session_id) else {
            return Err(SessionDataError::Malformed);
        };
        Ok(Self {
            room_id: room_id.as_ref().to_owned(),
            session_id: SessionId::new(session_id.as_ref()),
            data: wire.session()?,
        })
    }

    /// The JSON text.
    #[must_use]
    pub fn to_json(&self) -> SecretBytes {
        Wire::of(&self.data, Some((&self.room_id, self.session_id.as_str()))).write()
    }
}

/// The fields as they are written. Borrowed, so that no copy of the key is left behind.
#[derive(Serialize, Deserialize)]
struct Wire<'a> {
    #[serde(borrow)]
    algorithm: Cow<'a, str>,
    #[serde(default)]
    forwarding_curve25519_key_chain: Vec<String>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    room_id: Option<Text<'a>>,
    #[serde(borrow, default)]
    sender_claimed_keys: Claimed<'a>,
    #[serde(borrow)]
    sender_key: Text<'a>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    session_id: Option<Text<'a>>,
    #[serde(borrow)]
    session_key: Text<'a>,
    #[serde(default, deserialize_with = "lenient")]
    shared_history: Option<bool>,
    /// A name that matrix-sdk-crypto gives it.
    #[serde(rename = "m.shared_history", default, deserialize_with = "lenient", skip_serializing)]
    other_shared_history: Option<bool>,
    /// The name before it entered the specification: others know no other one yet.
    #[serde(
        rename = "org.matrix.msc3061.shared_history",
        default,
        deserialize_with = "lenient",
        skip_serializing_if = "Option::is_none"
    )]
    unstable_shared_history: Option<bool>,
}

/// A flag; what is no truth value counts as not there (MSC4268).
fn lenient<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<bool>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Flag {
        Value(bool),
        Other(serde::de::IgnoredAny),
    }
    Ok(match Flag::deserialize(deserializer)? {
        Flag::Value(value) => Some(value),
        Flag::Other(_) => None,
    })
}

#[derive(Serialize, Deserialize)]
#[serde(transparent)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl AsRef<str> for Text<'_> {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

#[derive(Default, Serialize, Deserialize)]
struct Claimed<'a> {
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    ed25519: Option<Text<'a>>,
}

impl<'a> Wire<'a> {
    fn parse(json: &'a [u8]) -> Result<Self, SessionDataError> {
        // The error would quote the value.
        serde_json::from_slice(json).map_err(|_| SessionDataError::Malformed)
    }

    fn of(data: &'a SessionData, place: Option<(&'a str, &'a str)>) -> Self {
        let text = |text: &'a str| Text(Cow::Borrowed(text));
        Self {
            algorithm: Cow::Borrowed(MEGOLM),
            forwarding_curve25519_key_chain: data.forwarding_chain.clone(),
            room_id: place.map(|(room, _)| text(room)),
            sender_claimed_keys: Claimed {
                ed25519: data.claimed_ed25519.map(|key| Text(Cow::Owned(key.to_base64()))),
            },
            sender_key: Text(Cow::Owned(data.sender_key.to_base64())),
            session_id: place.map(|(_, session)| text(session)),
            session_key: text(data.session_key.as_str()),
            shared_history: Some(data.shared_history),
            other_shared_history: None,
            unstable_shared_history: data.shared_history.then_some(true),
        }
    }

    fn session(&self) -> Result<SessionData, SessionDataError> {
        if self.algorithm != MEGOLM {
            return Err(SessionDataError::UnknownAlgorithm);
        }
        let claimed = self.sender_claimed_keys.ed25519.as_ref();
        Ok(SessionData {
            sender_key: curve25519_from_base64(self.sender_key.as_ref())
                .map_err(|_| SessionDataError::SenderKey)?,
            claimed_ed25519: claimed.and_then(|key| ed25519_from_base64(key.as_ref()).ok()),
            forwarding_chain: self.forwarding_curve25519_key_chain.clone(),
            session_key: SecretString::new(self.session_key.as_ref().to_owned()),
            shared_history: self
                .shared_history
                .or(self.other_shared_history)
                .or(self.unstable_shared_history)
                .unwrap_or(false),
        })
    }

    fn write(&self) -> SecretBytes {
        // A session has some 700 bytes; reserved at once, so that growing leaves no copies.
        let mut json = Vec::with_capacity(4096);
        let written = serde_json::to_writer(&mut json, self);
        debug_assert!(written.is_ok(), "a session of text always encodes");
        SecretBytes::new(json)
    }
}
