//! [`MigrateError`]: why nothing was taken over.

use herold_machine::MachineError;
use herold_store::StoreError;

/// Why nothing was taken over. The source is untouched, and no new store is there. The texts hold no secret.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MigrateError {
    /// There is no matrix-sdk-crypto store in the folder.
    #[error("there is no matrix-sdk-crypto store here")]
    NotFound,
    /// The file is no SQLite database, or is damaged in a way that nothing can be read from it.
    #[error("the old store is damaged: {0}")]
    Damaged(&'static str),
    /// Another program is writing to it.
    #[error("the old store is in use: close the old client first")]
    InUse,
    /// A newer version wrote it.
    #[error("the old store has version {found}; {supported} is the newest that can be read")]
    TooNew {
        /// Its version.
        found: u8,
        /// The newest version that can be read.
        supported: u8,
    },
    /// An older version wrote it.
    #[error(
        "the old store has version {found}; {supported} is the oldest that can be read: open it once with the old \
         client, in its newest version"
    )]
    TooOld {
        /// Its version.
        found: u8,
        /// The oldest version that can be read.
        supported: u8,
    },
    /// It is encrypted, and neither a passphrase nor a key was given.
    #[error("the old store is encrypted: its passphrase or key is needed")]
    SecretNeeded,
    /// The passphrase or the key is wrong.
    #[error("the passphrase or key of the old store is wrong")]
    WrongSecret,
    /// A passphrase was given for a store that has a key, or the other way round.
    #[error("the old store is opened with {0}")]
    OtherSecret(&'static str),
    /// A passphrase or key was given, but the store is not encrypted: it may not be the right one, and nothing in it is
    /// authentic.
    #[error(
        "the old store is not encrypted: if it is the right one, give no passphrase and no key"
    )]
    NotEncrypted,
    /// There is no account in it.
    #[error("there is no account in the old store")]
    NoAccount,
    /// Without the account there is nothing to go on with.
    #[error("the account in the old store cannot be used: {0}")]
    Account(&'static str),
    /// There is something where the new store should be.
    #[error("there is something in the new store's folder already")]
    TargetExists,
    /// The medium failed.
    #[error("{kind} while {doing}")]
    Io {
        /// What happened.
        kind: std::io::ErrorKind,
        /// When.
        doing: &'static str,
    },
    /// The new store could not be written.
    #[error("the new store: {0}")]
    Store(#[from] StoreError),
    /// The new account could not be made.
    #[error("the new account: {0}")]
    Machine(#[from] MachineError),
}

impl MigrateError {
    pub(crate) fn io(error: &std::io::Error, doing: &'static str) -> Self {
        Self::Io { kind: error.kind(), doing }
    }
}
