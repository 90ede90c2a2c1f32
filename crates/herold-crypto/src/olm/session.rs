//! One Olm session: the double ratchet with one other device. Clause: Matrix specification, *Olm &
//! Megolm*.

use std::fmt;

use vodozemac::olm::{Session, SessionPickle};
use zeroize::Zeroizing;

use crate::identity::SessionId;
use crate::olm::{OlmError, OlmMessage};
use crate::record::{self, RecordError};
use crate::secret::SecretBytes;

const KIND: &str = "an Olm session";

/// A double ratchet with one other device.
///
/// Every successful [`encrypt`](Self::encrypt) and [`decrypt`](Self::decrypt) moves the ratchet.
/// Store the record before the ciphertext leaves or the plaintext is handed on: a session restored
/// from an older record would encrypt with a used key.
///
/// Secrecy: `Debug` shows the session id only.
pub struct OlmSession(Session);

impl OlmSession {
    pub(crate) fn new(session: Session) -> Self {
        Self(session)
    }

    /// The id that both ends derive from the keys of the first message.
    pub fn session_id(&self) -> SessionId {
        SessionId::new(self.0.session_id())
    }

    /// Encrypts `plaintext`; a pre-key message until the other side has answered.
    ///
    /// # Errors
    ///
    /// [`OlmError::LowOrderKey`] if the other side's ratchet key has small order. Nothing was
    /// encrypted then.
    pub fn encrypt(&mut self, plaintext: &[u8]) -> Result<OlmMessage, OlmError> {
        Ok(OlmMessage(self.0.encrypt(plaintext)?))
    }

    /// Decrypts a message of this session, in any order within what the session remembers.
    ///
    /// # Errors
    ///
    /// [`OlmError::BadMac`] for a message of another session or a changed one,
    /// [`OlmError::MissingKey`] for a replay, [`OlmError::TooFarAhead`] and the rest as named. A
    /// failure does not spend a message key.
    pub fn decrypt(&mut self, message: &OlmMessage) -> Result<Zeroizing<Vec<u8>>, OlmError> {
        Ok(Zeroizing::new(self.0.decrypt(&message.0)?))
    }

    /// Whether `message` is a pre-key message that opens this very session. Later messages carry
    /// no session id, so the answer for them is `false`; they have to be tried.
    pub fn matches(&self, message: &OlmMessage) -> bool {
        message.pre_key().is_some_and(|message| message.session_keys() == self.0.session_keys())
    }

    /// Whether the other side is known to have the session: a message from it was decrypted.
    pub fn has_received_message(&self) -> bool {
        self.0.has_received_message()
    }

    /// The session as a record, which contains its keys in clear.
    pub fn to_record(&self) -> SecretBytes {
        record::encode(&self.0.pickle())
    }

    /// Restores a session from its record.
    ///
    /// # Errors
    ///
    /// If the record is damaged or of an unknown version.
    pub fn from_record(record: &[u8]) -> Result<Self, RecordError> {
        Ok(Self(Session::from_pickle(record::decode::<SessionPickle>(KIND, record)?)))
    }
}

impl fmt::Debug for OlmSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OlmSession").field("session_id", &self.session_id()).finish_non_exhaustive()
    }
}
