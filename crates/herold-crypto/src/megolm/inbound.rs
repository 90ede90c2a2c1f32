//! Reading: the session of one sending device, from some index on.

use std::fmt;

use vodozemac::megolm::{self, ExportedSessionKey, SessionConfig, SessionKey, SessionOrdering};
use zeroize::Zeroizing;

use crate::identity::{SessionId, is_low_order_ed25519};
use crate::megolm::{MegolmError, parse_message};
use crate::record::{self, RecordError};
use crate::secret::{SecretBytes, SecretString};

const KIND: &str = "an inbound group session";

/// The length of the session-export format: version, index, ratchet, signing key; bytes.
pub(super) const EXPORT_LENGTH: usize = 1 + 4 + 128 + 32;

/// How two sessions of the same id relate, seen from the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionRelation {
    /// The same ratchet from the same index.
    Equal,
    /// The same ratchet; the first session knows earlier indices.
    Better,
    /// The same ratchet; the first session knows only later indices.
    Worse,
    /// Different ratchets or signing keys. One must not replace the other.
    Unconnected,
}

impl From<SessionOrdering> for SessionRelation {
    fn from(ordering: SessionOrdering) -> Self {
        match ordering {
            SessionOrdering::Equal => Self::Equal,
            SessionOrdering::Better => Self::Better,
            SessionOrdering::Worse => Self::Worse,
            SessionOrdering::Unconnected => Self::Unconnected,
        }
    }
}

/// The reading side of a Megolm session.
///
/// It decrypts any message from [`first_known_index`](Self::first_known_index) on, any number of
/// times; recognising replays is up to the caller, by session id and index. Decrypting changes
/// only what is cached, so a record stays good.
///
/// Secrecy: `Debug` shows the session id and the first known index only.
pub struct InboundGroupSession(megolm::InboundGroupSession);

impl InboundGroupSession {
    /// Takes the `session_key` of an `m.room_key` event. The key is signed by the session itself.
    ///
    /// # Errors
    ///
    /// [`MegolmError::Malformed`], [`MegolmError::BadSignature`] or [`MegolmError::LowOrderKey`].
    pub fn from_session_key(base64: &str) -> Result<Self, MegolmError> {
        let key = SessionKey::from_base64(base64)?;
        Self::accept(megolm::InboundGroupSession::new(&key, SessionConfig::version_1()))
    }

    /// Takes a `session_key` in the session-export format, as in forwarded keys, backups and key
    /// files. Nothing vouches for such a key but the way it came.
    ///
    /// # Errors
    ///
    /// [`MegolmError::Malformed`] or [`MegolmError::LowOrderKey`].
    pub fn import(exported_base64: &str) -> Result<Self, MegolmError> {
        let key = ExportedSessionKey::from_base64(exported_base64)?;
        // Re-encoding finds bytes after the end, which the decoder ignores.
        let canonical = Zeroizing::new(key.to_base64());
        if canonical.as_str() != exported_base64 {
            return Err(MegolmError::Malformed);
        }
        Self::from_exported(&key)
    }

    /// The session's id: its signing key in base64.
    pub fn session_id(&self) -> SessionId {
        SessionId::new(self.0.session_id())
    }

    /// The first index that can be decrypted.
    pub fn first_known_index(&self) -> u32 {
        self.0.first_known_index()
    }

    /// Decrypts a message; returns its plaintext and its index.
    ///
    /// # Errors
    ///
    /// [`MegolmError::BadSignature`] is checked before anything is decrypted;
    /// [`MegolmError::IndexTooEarly`] if the session starts later; the rest as named.
    pub fn decrypt(
        &mut self,
        ciphertext_base64: &str,
    ) -> Result<(Zeroizing<Vec<u8>>, u32), MegolmError> {
        let decrypted = self.0.decrypt(&parse_message(ciphertext_base64)?)?;
        Ok((Zeroizing::new(decrypted.plaintext), decrypted.message_index))
    }

    /// Compares two sessions by advancing the earlier ratchet to the later one; costs at most a
    /// thousand hashes. Both sessions stay as they are but for their caches.
    pub fn relation(&mut self, other: &mut InboundGroupSession) -> SessionRelation {
        self.0.compare(&mut other.0).into()
    }

    /// The session from `index` on in the session-export format; `None` if it starts later.
    pub fn export_at(&mut self, index: u32) -> Option<SecretString> {
        self.0.export_at(index).map(|key| SecretString::new(key.to_base64()))
    }

    /// The session as a record: its export from the first known index, in clear.
    pub fn to_record(&self) -> SecretBytes {
        let export = Zeroizing::new(self.0.export_at_first_known_index().to_bytes());
        record::wrap(&export)
    }

    /// Restores a session from its record.
    ///
    /// # Errors
    ///
    /// If the record is damaged or of an unknown version.
    pub fn from_record(record: &[u8]) -> Result<Self, RecordError> {
        let damaged = RecordError::new(KIND, "its body is damaged");
        let body = record::body(KIND, record)?;
        if body.len() != EXPORT_LENGTH {
            return Err(damaged);
        }
        let key = ExportedSessionKey::from_bytes(body).map_err(|_| damaged)?;
        Self::from_exported(&key).map_err(|_| damaged)
    }

    fn from_exported(key: &ExportedSessionKey) -> Result<Self, MegolmError> {
        Self::accept(megolm::InboundGroupSession::import(key, SessionConfig::version_1()))
    }

    /// A session that has been looked at already.
    pub(crate) fn from_restored(session: megolm::InboundGroupSession) -> Self {
        Self(session)
    }

    /// The session id is the signing key; a signing key of small order ends here.
    fn accept(session: megolm::InboundGroupSession) -> Result<Self, MegolmError> {
        match is_low_order_ed25519(&session.session_id()) {
            Some(false) => Ok(Self(session)),
            Some(true) => Err(MegolmError::LowOrderKey),
            None => Err(MegolmError::Malformed),
        }
    }
}

impl Clone for InboundGroupSession {
    fn clone(&self) -> Self {
        Self(megolm::InboundGroupSession::from_pickle(self.0.pickle()))
    }
}

impl fmt::Debug for InboundGroupSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InboundGroupSession")
            .field("session_id", &self.session_id())
            .field("first_known_index", &self.first_known_index())
            .finish_non_exhaustive()
    }
}
