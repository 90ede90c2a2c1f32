//! Matrix end-to-end encryption, reduced to bytes and keys in, bytes and keys out.
//!
//! This crate is the only one of the workspace that touches a ratchet. It offers Olm (one to one),
//! Megolm (one to many), encrypted attachments, canonical JSON with its signatures, and the
//! containers in which secrets travel. It knows nothing of rooms, users' devices, trust, storage
//! or the network.
//!
//! Invariants, which every module keeps:
//!
//! - No input from outside makes it panic; each fallible call returns a typed error.
//! - No `Debug` output and no error text contains key material or plaintext.
//! - Secrets are wiped when they are dropped, as far as the libraries below allow it.
//! - A key of small order is refused wherever a key enters.
//! - Live state is never `Serialize`; it becomes a versioned record (`to_record`) and comes back
//!   through `from_record`, which fails loudly instead of starting afresh.
//!
//! Clauses: Matrix specification, *Olm & Megolm*, *Sending encrypted attachments*, *Cross-signing*,
//! *Secrets*, *Server-side key backups*, *Key exports*, *SAS verification*, *QR codes*, and of the
//! appendices *Canonical JSON*, *Signing JSON* and *Cryptographic key representation*.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod agreement;
mod attachment;
mod backup;
mod canonical;
mod entropy;
mod identity;
mod key_file;
mod megolm;
mod olm;
mod pickle;
mod qr;
mod record;
mod sas;
mod secret;
mod secret_base64;
mod secret_storage;
mod session_data;
mod signing;
mod unpadded;

pub use vodozemac::{Curve25519PublicKey, Ed25519Signature};

pub use attachment::{AttachmentError, EncryptedFile, decrypt_attachment, encrypt_attachment};
pub use backup::{
    BACKUP_ALGORITHM, BackupDecryptionKey, BackupError, BackupPublicKey, EncryptedSessionData,
};
pub use canonical::{CanonicalJsonError, SignatureError, canonical_json, verify_json};
pub use entropy::{Entropy, SeededEntropy};
pub use identity::{
    Ed25519PublicKey, IdentityKeys, KeyError, SessionId, curve25519_from_base64,
    ed25519_from_base64,
};
pub use key_file::{
    DEFAULT_KEY_FILE_ROUNDS, KeyFileError, KeyFileReader, KeyFileWriter, MAX_KEY_FILE_ROUNDS,
    MIN_KEY_FILE_ROUNDS,
};
pub use megolm::{
    InboundGroupSession, MegolmError, OutboundGroupSession, SessionRelation, megolm_message_index,
};
pub use olm::{
    Account, DehydratedAccount, DehydrationError, DehydrationKey, MessageHash, OlmError,
    OlmMessage, OlmSession,
};
pub use pickle::{AccountPickle, InboundGroupSessionPickle, OlmSessionPickle, PickleError};
pub use qr::{QrCode, QrError, QrKeys};
pub use record::RecordError;
pub use sas::{SasBytes, SasKeyPair, SasSecret, sas_commitment};
pub use secret::{SecretBytes, SecretString};
pub use secret_storage::{
    EncryptedSecret, KeyCheck, KeyDescription, MAX_PASSPHRASE_ITERATIONS,
    MIN_PASSPHRASE_ITERATIONS, PassphraseParameters, RecoveryKeyError, SECRET_STORAGE_ALGORITHM,
    SecretStorageError, StorageKey,
};
pub use session_data::{ExportedSession, SessionData, SessionDataError};
pub use signing::SigningKey;
pub use unpadded::{from_unpadded_base64, to_unpadded_base64};
