//! [`MachineError`]: why a step was not taken.

use herold_store::StoreError;

/// Why a step was not taken. Nothing has changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MachineError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store holds no account.
    #[error("the store holds no account")]
    NoAccount,
    /// The store holds an account already.
    #[error("the store holds an account already")]
    AccountExists,
    /// The room is not known here.
    #[error("the room is not known")]
    UnknownRoom,
    /// This user is not joined to the room.
    #[error("not joined to the room")]
    NotJoined,
    /// This user has not left the room.
    #[error("the room has not been left")]
    NotLeft,
    /// The room's encryption algorithm is not supported: nothing is sent, least of all in the clear.
    #[error("the room's encryption algorithm is not supported")]
    UnsupportedAlgorithm,
    /// The device is not known.
    #[error("the device is not known")]
    UnknownDevice,
    /// The user has no cross-signing identity that is known here.
    #[error("the user has no identity that is known")]
    UnknownIdentity,
    /// The own identity is not verified on this device, or its private self-signing key is not here.
    #[error("the own identity is not verified on this device")]
    NotVerified,
    /// The key of the dehydrated device is not here.
    #[error("the key of the dehydrated device is not here")]
    NoDehydrationKey,
    /// The deployment's policy does not allow this.
    #[error("the deployment's policy does not allow this")]
    PolicyDenied,
    /// Events of this type are the machine's own: an app cannot send them.
    #[error("events of this type cannot be sent by an app")]
    ReservedType,
    /// More than can be sent.
    #[error("too large to be sent")]
    TooLarge,
    /// An input that cannot be used at all.
    #[error("malformed: {0}")]
    Malformed(&'static str),
    /// The cryptographic core refused.
    #[error("cryptography: {0}")]
    Crypto(String),
}

impl MachineError {
    /// What the crypto core says.
    pub(crate) fn crypto(error: impl std::fmt::Display) -> Self {
        Self::Crypto(error.to_string())
    }
}
