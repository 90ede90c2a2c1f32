//! What can go wrong with Megolm.

use vodozemac::megolm::{DecryptionError, SessionKeyDecodeError};

/// Why a Megolm message or session was refused. The texts contain no key and no content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MegolmError {
    /// A message or session key is not base64, has an unknown version, or does not parse.
    #[error("the Megolm message or session key is malformed")]
    Malformed,
    /// The signature on a message or session key is not of the session's signing key.
    #[error("the signature is not of this session")]
    BadSignature,
    /// The authentication code is wrong, although the signature is right.
    #[error("the message is not authentic for this session")]
    BadMac,
    /// The message is authentic, but its padding is not what Megolm prescribes.
    #[error("the decrypted message is padded wrongly")]
    BadPadding,
    /// The message is older than what the session can decrypt.
    #[error("the message has index {got}, the session starts at {first_known}")]
    IndexTooEarly {
        /// The first index that the session can decrypt.
        first_known: u32,
        /// The message's index.
        got: u32,
    },
    /// The session's signing key has small order, so that anyone could sign its messages.
    #[error("the session's signing key has small order")]
    LowOrderKey,
    /// The session would pass the last index that this crate works with.
    #[error("the session has no indices left")]
    Exhausted,
}

impl From<DecryptionError> for MegolmError {
    fn from(error: DecryptionError) -> Self {
        match error {
            DecryptionError::Signature(_) => Self::BadSignature,
            DecryptionError::InvalidMAC(_) => Self::BadMac,
            DecryptionError::InvalidMACLength(..) => Self::Malformed,
            DecryptionError::InvalidPadding(_) => Self::BadPadding,
            DecryptionError::UnknownMessageIndex(first_known, got) => {
                Self::IndexTooEarly { first_known, got }
            }
        }
    }
}

impl From<SessionKeyDecodeError> for MegolmError {
    fn from(error: SessionKeyDecodeError) -> Self {
        match error {
            SessionKeyDecodeError::Signature(_) => Self::BadSignature,
            SessionKeyDecodeError::Version(..)
            | SessionKeyDecodeError::Read(_)
            | SessionKeyDecodeError::Base64(_)
            | SessionKeyDecodeError::PublicKey(_) => Self::Malformed,
        }
    }
}
