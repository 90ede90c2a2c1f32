//! Sending: the one session that holds the signing key.

use std::fmt;

use serde::{Deserialize, Serialize};
use vodozemac::megolm::{
    GroupSession, GroupSessionPickle, InboundGroupSession as Reader, SessionConfig,
};
use zeroize::Zeroizing;

use crate::identity::SessionId;
use crate::megolm::MegolmError;
use crate::megolm::inbound::EXPORT_LENGTH;
use crate::record::{self, RecordError};
use crate::secret::{SecretBytes, SecretString};

const KIND: &str = "an outbound group session";

/// Where a record may start at most. The ratchet counts in 32 bits and must never wrap; from here
/// it would take another two thousand million messages.
const LAST_START: u32 = 1 << 31;

/// The sending side of a Megolm session.
///
/// Every [`encrypt`](Self::encrypt) uses up one index for ever. A session restored from an older
/// record would use an index twice, which breaks the encryption of both messages. So either the
/// record is stored before each ciphertext leaves, or once in a while the record of
/// [`to_record_ahead`](Self::to_record_ahead) is, which reserves indices in advance: after a crash
/// the unused ones are skipped.
///
/// Secrecy: `Debug` shows the session id and the next index only.
pub struct OutboundGroupSession(GroupSession);

impl OutboundGroupSession {
    /// A new session from the operating system's randomness, at index 0.
    #[expect(clippy::new_without_default, reason = "a new session should be asked for by name")]
    pub fn new() -> Self {
        Self(GroupSession::new(SessionConfig::version_1()))
    }

    /// The session's id: its public signing key in base64.
    pub fn session_id(&self) -> SessionId {
        SessionId::new(self.0.session_id())
    }

    /// The index that the next message will have.
    pub fn message_index(&self) -> u32 {
        self.0.message_index()
    }

    /// The `session_key` for `m.room_key` events: reads all messages from the current index on.
    pub fn session_key(&self) -> SecretString {
        SecretString::new(self.0.session_key().to_base64())
    }

    /// Encrypts and signs `plaintext`; returns the `ciphertext` of an `m.room.encrypted` event in
    /// unpadded base64.
    pub fn encrypt(&mut self, plaintext: &[u8]) -> String {
        self.0.encrypt(plaintext).to_base64()
    }

    /// The session as a record, which contains its keys in clear.
    pub fn to_record(&self) -> SecretBytes {
        record::encode(&self.0.pickle())
    }

    /// The record of this session `ahead` indices further on. The session itself stays where it
    /// is; restored from the record, it starts at `message_index() + ahead` and cannot read or
    /// repeat what lies before.
    ///
    /// The ratchet skips: the cost is at most a thousand hashes, whatever `ahead` is.
    ///
    /// # Errors
    ///
    /// [`MegolmError::Exhausted`] if that index is beyond 2^31.
    pub fn to_record_ahead(&self, ahead: u32) -> Result<SecretBytes, MegolmError> {
        let index = self
            .message_index()
            .checked_add(ahead)
            .filter(|index| *index <= LAST_START)
            .ok_or(MegolmError::Exhausted)?;
        let export = Reader::from(&self.0).export_at(index).ok_or(MegolmError::Exhausted)?;
        let export = Zeroizing::new(export.to_bytes());
        let ratchet = export.get(5..EXPORT_LENGTH - 32).ok_or(MegolmError::Malformed)?;

        let own = self.to_record();
        let mut state: State =
            record::decode(KIND, own.as_slice()).map_err(|_| MegolmError::Malformed)?;
        state.ratchet.inner = Zeroizing::new(ratchet.to_vec());
        state.ratchet.counter = index;
        Ok(record::encode(&state))
    }

    /// Restores a session from its record.
    ///
    /// # Errors
    ///
    /// If the record is damaged, of an unknown version, or beyond index 2^31.
    pub fn from_record(record: &[u8]) -> Result<Self, RecordError> {
        let session =
            GroupSession::from_pickle(record::decode::<GroupSessionPickle>(KIND, record)?);
        if session.message_index() > LAST_START {
            return Err(RecordError::new(KIND, "it has no indices left"));
        }
        Ok(Self(session))
    }
}

impl fmt::Debug for OutboundGroupSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutboundGroupSession")
            .field("session_id", &self.session_id())
            .field("message_index", &self.message_index())
            .finish_non_exhaustive()
    }
}

/// The shape in which the ratchet library serialises an outbound session, so that the ratchet in
/// it can be exchanged. An unknown field is an error: it must not get lost on the way.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    ratchet: RatchetState,
    signing_key: SigningKeyState,
    config: ConfigState,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RatchetState {
    inner: Zeroizing<Vec<u8>>,
    counter: u32,
}

#[derive(Serialize, Deserialize)]
enum SigningKeyState {
    Normal(SecretBytes),
    Expanded(SecretBytes),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ConfigState {
    version: VersionState,
}

#[derive(Serialize, Deserialize)]
enum VersionState {
    V1,
}
