//! Records of what makes a user sure of themselves and of others: secrets, the own identity, signatures to be
//! uploaded, the key backup, verifications.

use herold_crypto::{Ed25519PublicKey, SecretBytes, SecretString};
use herold_trust::Timestamp;
use ruma::{OwnedDeviceId, OwnedRoomId, OwnedUserId};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{DeviceKey, InboundSessionKey, NameKey, Only, SequenceKey, VerificationKey};
use crate::{Record, StoreError, Table};

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
    /// The master key that was known when these were made: of an identity that they are to take the place of, not of one that
    /// has come after them.
    pub replaced: Option<Ed25519PublicKey>,
}

impl Record for PendingIdentityRecord {
    const TABLE: Table = Table::PendingIdentity;
    /// Version 1 did not say what is replaced.
    const VERSION: u8 = 2;
    type Key = Only;

    fn decode(bytes: &[u8]) -> Result<Self, StoreError> {
        /// The fields of version 1.
        #[derive(Deserialize)]
        struct First {
            master: SecretBytes,
            self_signing: SecretBytes,
            user_signing: SecretBytes,
        }
        decode_either(bytes, Self::TABLE, |first: First| Self {
            master: first.master,
            self_signing: first.self_signing,
            user_signing: first.user_signing,
            replaced: None,
        })
    }
}

/// What is being done with the user's recovery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum RecoveryChange {
    /// What is missing of it is made, with a new key.
    Enable,
    /// All of it is replaced.
    Reset,
    /// The secret storage gets another key.
    ChangeKey,
}

/// How far that is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RecoveryStage {
    /// The new key is not the default one.
    Begun,
    /// It may be, and may be the only one that opens everything.
    Published,
    /// All is done, but for the user to have the new key.
    Made,
}

/// A key of the secret storage, with its id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StorageKeyRecord {
    /// The id, in account data.
    pub key_id: String,
    /// The key's own record. Secret.
    pub key: SecretBytes,
}

/// What was begun with the user's recovery, to be gone on with until it is done and the user has the new key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecoveryRecord {
    /// What was begun.
    pub change: RecoveryChange,
    /// How far it is.
    pub stage: RecoveryStage,
    /// The new key.
    pub key: StorageKeyRecord,
    /// Its description, as JSON text.
    pub description: String,
    /// The keys whose place it takes, as far as they are known.
    pub from: Vec<StorageKeyRecord>,
    /// The default key at the beginning.
    pub replaced_key: Option<String>,
    /// The version of the key backup at the beginning of a reset.
    pub replaced_backup: Option<String>,
    /// The master key that a reset has made: no other identity is the one it was begun for, whosever keys are here.
    pub made_master: Option<Ed25519PublicKey>,
}

impl Record for RecoveryRecord {
    const TABLE: Table = Table::Recovery;
    /// Version 1 had the master key at the beginning, and did not say what was made.
    const VERSION: u8 = 2;
    type Key = Only;

    fn decode(bytes: &[u8]) -> Result<Self, StoreError> {
        /// The fields of version 1.
        #[derive(Deserialize)]
        struct First {
            change: RecoveryChange,
            stage: RecoveryStage,
            key: StorageKeyRecord,
            description: String,
            from: Vec<StorageKeyRecord>,
            replaced_key: Option<String>,
            _replaced_master: Option<Ed25519PublicKey>,
            replaced_backup: Option<String>,
        }
        decode_either(bytes, Self::TABLE, |first: First| Self {
            change: first.change,
            stage: first.stage,
            key: first.key,
            description: first.description,
            from: first.from,
            replaced_key: first.replaced_key,
            replaced_backup: first.replaced_backup,
            made_master: None,
        })
    }
}

/// A record of which there are two versions.
fn decode_either<First: DeserializeOwned, R: Record>(
    bytes: &[u8],
    table: Table,
    from_first: impl FnOnce(First) -> R,
) -> Result<R, StoreError> {
    let read = match bytes.split_first() {
        Some((1, body)) => postcard::from_bytes(body).map(from_first),
        Some((2, body)) => postcard::from_bytes(body),
        _ => {
            let what = format!("a row of table {} of an unknown version", table.name());
            return Err(StoreError::Corrupt(what));
        }
    };
    read.map_err(|_| StoreError::Corrupt(format!("a row of table {}", table.name())))
}

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

/// A verification: a state machine of the trust crate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerificationRecord {
    /// The flow. Secret: it holds private keys.
    pub flow: SecretBytes,
    /// When it has to be looked at: it has waited too long, or is to be forgotten.
    pub due: Timestamp,
}
record!(VerificationRecord, VerificationKey, Verification);

/// A verification to be begun once an event of the send queue, named by its transaction id, has its id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerificationRequestRecord {
    /// The room.
    pub room_id: OwnedRoomId,
    /// Whom it asks.
    pub user_id: OwnedUserId,
}
record!(VerificationRequestRecord, NameKey, VerificationRequest);

/// A message of a verification whose sending device is not known yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParkedRecord {
    /// Who sent it.
    pub sender: OwnedUserId,
    /// The device that encrypted it, if it was encrypted.
    pub sender_device: Option<OwnedDeviceId>,
    /// The event type.
    pub event_type: String,
    /// The content, as JSON text.
    pub content: String,
    /// When it came.
    pub received_at: Timestamp,
}
record!(ParkedRecord, SequenceKey, Parked);

/// A secret that our own verified devices are asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretRequestRecord {
    /// The request's id.
    pub request_id: String,
    /// The devices that were asked.
    pub devices: Vec<OwnedDeviceId>,
    /// When.
    pub asked_at: Timestamp,
}
record!(SecretRequestRecord, NameKey, SecretRequest);

/// A device of another user whose key was verified by itself: its owner has no identity that could be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifiedDeviceRecord {
    /// The key. A device that has come back with another one is not verified.
    pub ed25519: Ed25519PublicKey,
    /// When.
    pub since: Timestamp,
}
record!(VerifiedDeviceRecord, DeviceKey, VerifiedDevice);
