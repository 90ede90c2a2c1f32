//! What can go wrong with Olm.

use vodozemac::olm::{DecryptionError, EncryptionError, SessionCreationError};

/// Why an Olm message or session was refused. The texts contain no key and no content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OlmError {
    /// The message is not base64, has an unknown type or version, or does not parse.
    #[error("the Olm message is malformed")]
    Malformed,
    /// The message must be a pre-key message to create a session, and is not.
    #[error("a pre-key message is needed to create an inbound session")]
    NotPreKey,
    /// The one-time key that the pre-key message names is unknown: never ours, or used up.
    #[error("the pre-key message names an unknown one-time key")]
    UnknownOneTimeKey,
    /// The pre-key message comes from another identity key than the given one.
    #[error("the pre-key message carries another identity key")]
    IdentityKeyMismatch,
    /// A key of small order takes part, so that the shared secret would be known to anyone.
    #[error("a key of the exchange has small order")]
    LowOrderKey,
    /// The message skips more messages than a session is willing to derive keys for.
    #[error("the message is {gap} steps ahead of the session")]
    TooFarAhead {
        /// How many messages are skipped.
        gap: u64,
    },
    /// The authentication code is wrong: another session, or a changed message.
    #[error("the message is not authentic for this session")]
    BadMac,
    /// The key of this message is gone: a replay, or a message older than the session remembers.
    #[error("the message's key is gone; it was decrypted before or is too old")]
    MissingKey,
    /// The message is authentic, but its padding is not what Olm prescribes.
    #[error("the decrypted message is padded wrongly")]
    BadPadding,
}

impl From<DecryptionError> for OlmError {
    fn from(error: DecryptionError) -> Self {
        match error {
            DecryptionError::InvalidMAC(_) => Self::BadMac,
            DecryptionError::InvalidMACLength(..) => Self::Malformed,
            DecryptionError::InvalidPadding(_) => Self::BadPadding,
            DecryptionError::NonContributoryKey => Self::LowOrderKey,
            DecryptionError::MissingMessageKey(_) => Self::MissingKey,
            DecryptionError::TooBigMessageGap(gap, _) => Self::TooFarAhead { gap },
        }
    }
}

impl From<EncryptionError> for OlmError {
    fn from(error: EncryptionError) -> Self {
        match error {
            EncryptionError::NonContributoryKey => Self::LowOrderKey,
        }
    }
}

impl From<SessionCreationError> for OlmError {
    fn from(error: SessionCreationError) -> Self {
        match error {
            SessionCreationError::MissingOneTimeKey(_) => Self::UnknownOneTimeKey,
            SessionCreationError::MismatchedIdentityKey(..) => Self::IdentityKeyMismatch,
            SessionCreationError::MismatchedSessionConfig { .. } => Self::Malformed,
            SessionCreationError::Decryption(error) => error.into(),
            SessionCreationError::NonContributoryKey => Self::LowOrderKey,
        }
    }
}
