//! Records of what makes a user sure of themselves: secrets, the own identity, signatures to be uploaded, the key
//! backup.

use herold_crypto::{SecretBytes, SecretString};
use herold_trust::Timestamp;
use ruma::OwnedUserId;
use serde::{Deserialize, Serialize};

use super::{InboundSessionKey, NameKey, Only, SequenceKey};
use crate::{Record, Table};

/// A secret of the user's own, under its name in secret storage (`m.cross_signing.master`, ...,
/// `m.megolm_backup.v1`). It was compared with the published public key when it was stored, and has to be
/// again whenever it is used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretRecord {
    /// The secret. Secret.
    pub secret: SecretString,
    /// When it was stored.
    pub since: Timestamp,
}
record!(SecretRecord, NameKey, Secret);

/// The private keys of an identity that the homeserver may not have accepted yet: the same ones until it has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingIdentityRecord {
    /// The master key. Secret.
    pub master: SecretBytes,
    /// The self-signing key. Secret.
    pub self_signing: SecretBytes,
    /// The user-signing key. Secret.
    pub user_signing: SecretBytes,
}
record!(PendingIdentityRecord, Only, PendingIdentity);

/// A signature to be uploaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignatureRecord {
    /// Whose key was signed.
    pub user_id: OwnedUserId,
    /// The key's name: a device id, or the public key of a master key.
    pub name: String,
    /// The key object with the signature, as JSON text.
    pub object: String,
}
record!(SignatureRecord, SequenceKey, Signature);

/// What is known of the key backup on the homeserver.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BackupRecord {
    /// It is to be asked for.
    Unknown,
    /// There is none.
    Absent,
    /// There is one that nobody we trust has signed, and that we do not have the private key of: nothing is
    /// uploaded to it.
    Untrusted {
        /// Its version, in the homeserver's words.
        version: String,
    },
    /// Room keys are uploaded to it.
    Enabled {
        /// Its version, in the homeserver's words.
        version: String,
        /// The public key, in unpadded base64.
        public_key: String,
    },
}
record!(BackupRecord, Only, Backup);

/// A room key that is to be uploaded to the backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupDueRecord;
record!(BackupDueRecord, InboundSessionKey, BackupDue);

/// An upload to the backup: the same bytes until it was answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupBatchRecord {
    /// The version it is for.
    pub version: String,
    /// The room keys in it, as the bytes of their keys.
    pub keys: Vec<Vec<u8>>,
    /// The request's body, as JSON text. The room keys in it are encrypted.
    pub body: String,
}
record!(BackupBatchRecord, Only, BackupBatch);
