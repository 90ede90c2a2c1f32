//! Secret storage: secrets of the user that the server keeps and cannot read.
//!
//! A *storage key* is 32 bytes that the user keeps, as a recovery key or as a passphrase. Its
//! description and the secrets under it lie in account data, which the server may change at will.
//! What that means for the caller:
//!
//! - The check of a description ([`KeyCheck`]) only tells a mistyped key from a right one. Without
//!   it ([`KeyCheck::Absent`]) a wrong key shows when a secret does not decrypt.
//! - The name of a secret goes into its keys, so one secret cannot be passed off as another. But
//!   whoever knows the storage key can have written any of them, and an old ciphertext can be put
//!   back: compare a secret with the published public key before it is used.
//! - The server chooses the parameters that a passphrase is stretched with. They are bounded on
//!   both sides ([`PassphraseParameters`]).
//!
//! Clause: Matrix specification, *Secrets*, `m.secret_storage.v1.aes-hmac-sha2`.

mod cipher;
mod description;
mod key;
mod passphrase;

pub use cipher::EncryptedSecret;
pub use description::{KeyCheck, KeyDescription};
pub use key::{RecoveryKeyError, StorageKey};
pub use passphrase::{MAX_PASSPHRASE_ITERATIONS, MIN_PASSPHRASE_ITERATIONS, PassphraseParameters};

pub(crate) use cipher::fresh_iv;
pub(crate) use key::{decode_recovery_key, encode_recovery_key};

/// The one algorithm of secret storage.
pub const SECRET_STORAGE_ALGORITHM: &str = "m.secret_storage.v1.aes-hmac-sha2";

/// Why secret storage was refused. The texts contain no secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SecretStorageError {
    /// A description or an encrypted secret lacks a field, or has one of another shape.
    #[error("{0} is missing or malformed")]
    Malformed(&'static str),
    /// The key is for another algorithm than [`SECRET_STORAGE_ALGORITHM`].
    #[error("the algorithm of secret storage is not supported")]
    UnknownAlgorithm,
    /// The passphrase is stretched with another algorithm than `m.pbkdf2`, or to another length
    /// than 256 bits.
    #[error("the passphrase algorithm is not supported")]
    UnknownPassphraseAlgorithm,
    /// Fewer than [`MIN_PASSPHRASE_ITERATIONS`] or more than [`MAX_PASSPHRASE_ITERATIONS`].
    #[error("{0} iterations for the passphrase are out of bounds")]
    Iterations(u64),
    /// The secret was not encrypted with this key under this name, or was changed since.
    #[error("the secret is not authentic")]
    BadMac,
    /// The decrypted secret is not text.
    #[error("the secret is not text")]
    NotText,
}

#[cfg(test)]
mod tests;
