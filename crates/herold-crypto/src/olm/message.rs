//! Olm messages on the wire. Clause: Matrix specification, *Olm & Megolm*, *Message format*.

use std::fmt;

use base64::Engine;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use vodozemac::Curve25519PublicKey;
use vodozemac::olm;

use crate::identity::{SessionId, is_low_order_curve25519};
use crate::olm::OlmError;
use crate::unpadded;

/// A parsed Olm message: a ciphertext of `m.olm.v1.curve25519-aes-sha2`.
///
/// Parsing refuses keys of small order in every position, so that no later step meets one. The
/// message is kept in its parsed form: fields that the format does not know are dropped, and
/// [`body`](Self::body) and [`hash`](Self::hash) describe what remains, which is also all that the
/// authentication code covers.
#[derive(Clone, PartialEq, Eq)]
pub struct OlmMessage(pub(super) olm::OlmMessage);

impl OlmMessage {
    /// Parses `type` and `body` of an encrypted event's ciphertext.
    ///
    /// # Errors
    ///
    /// [`OlmError::Malformed`] for a type other than 0 and 1 or a body that does not parse;
    /// [`OlmError::LowOrderKey`] if the message contains a key of small order.
    pub fn from_parts(message_type: u64, body_base64: &str) -> Result<Self, OlmError> {
        let message_type = usize::try_from(message_type).map_err(|_| OlmError::Malformed)?;
        let body = unpadded::STANDARD.decode(body_base64).map_err(|_| OlmError::Malformed)?;
        let message =
            olm::OlmMessage::from_parts(message_type, &body).map_err(|_| OlmError::Malformed)?;
        let message = Self(message);
        if message.inner().version() != PROTOCOL_VERSION {
            return Err(OlmError::Malformed);
        }
        if message.keys().iter().any(is_low_order_curve25519) {
            return Err(OlmError::LowOrderKey);
        }
        Ok(message)
    }

    /// `type` as it goes on the wire: 0 for a pre-key message, 1 for any later one.
    pub fn message_type(&self) -> u8 {
        match &self.0 {
            olm::OlmMessage::PreKey(_) => 0,
            olm::OlmMessage::Normal(_) => 1,
        }
    }

    /// `body` as it goes on the wire, unpadded base64.
    pub fn body(&self) -> String {
        unpadded::STANDARD.encode(self.to_bytes())
    }

    /// Whether the recipient can create a session from this message.
    pub fn is_pre_key(&self) -> bool {
        matches!(self.0, olm::OlmMessage::PreKey(_))
    }

    /// The session that this message opens; `None` unless it is a pre-key message.
    pub fn session_id(&self) -> Option<SessionId> {
        self.pre_key().map(|message| SessionId::new(message.session_id()))
    }

    /// The identity key that the sender claims; `None` unless it is a pre-key message. Only a
    /// decryption proves it.
    pub fn identity_key(&self) -> Option<Curve25519PublicKey> {
        self.pre_key().map(olm::PreKeyMessage::identity_key)
    }

    /// The fingerprint by which a repeated message is recognised: SHA-256 of the type byte and
    /// the body's bytes.
    pub fn hash(&self) -> MessageHash {
        let mut hash = Sha256::new();
        hash.update([self.message_type()]);
        hash.update(self.to_bytes());
        MessageHash(hash.finalize().into())
    }

    /// Where in the sender's ratchet this message stands: the public ratchet key and the index in
    /// its chain. Two messages of one sender with equal positions share a key, which must never
    /// happen. Public, as it is readable on the wire; `None` is never returned for a parsed
    /// message.
    pub fn chain_position(&self) -> Option<(Vec<u8>, u64)> {
        let message = self.inner();
        Some((message.ratchet_key().to_vec(), message.chain_index()))
    }

    /// The pre-key message, if it is one.
    pub(super) fn pre_key(&self) -> Option<&olm::PreKeyMessage> {
        match &self.0 {
            olm::OlmMessage::PreKey(message) => Some(message),
            olm::OlmMessage::Normal(_) => None,
        }
    }

    fn inner(&self) -> &olm::Message {
        match &self.0 {
            olm::OlmMessage::PreKey(message) => message.message(),
            olm::OlmMessage::Normal(message) => message,
        }
    }

    fn keys(&self) -> Vec<Curve25519PublicKey> {
        let mut keys = vec![self.inner().ratchet_key()];
        if let Some(message) = self.pre_key() {
            keys.extend([message.identity_key(), message.base_key(), message.one_time_key()]);
        }
        keys
    }

    fn to_bytes(&self) -> Vec<u8> {
        self.0.to_parts().1
    }
}

impl fmt::Debug for OlmMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OlmMessage")
            .field("message_type", &self.message_type())
            .field("session_id", &self.session_id())
            .finish_non_exhaustive()
    }
}

/// The version byte of Olm v1 messages.
const PROTOCOL_VERSION: u8 = 3;

/// The fingerprint of an Olm message, by which replays are found. Public.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct MessageHash(pub [u8; 32]);
