//! Records of the dehydrated device (MSC3814): what is wanted, what was made, and the one that is being read.

use herold_crypto::{Ed25519PublicKey, SecretBytes};
use herold_trust::Timestamp;
use ruma::OwnedDeviceId;
use serde::{Deserialize, Serialize};

use super::{OlmSessionKey, Only};
use crate::{Record, Table};

/// How things stand with the dehydrated device. No row: nothing was ever wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DehydrationRecord {
    /// There is to be one, and this device keeps it fresh.
    pub enabled: bool,
    /// The one on the homeserver, as far as known.
    pub device_id: Option<OwnedDeviceId>,
    /// When it was made, or first seen here.
    pub since: Timestamp,
    /// When to look next whether it is still there.
    pub look_at: Timestamp,
    /// What is under way.
    pub stage: DehydrationStage,
    /// So often in a row was it not among the user's devices; of what is under way: refused, or answered without sense.
    pub misses: u32,
    /// So many to-device events were read from the last one that was opened.
    pub events: u64,
    /// So many room keys have come out of it.
    pub room_keys: u64,
    /// What became of the last one that was to be opened; none while that is under way.
    pub outcome: Option<RehydrationOutcome>,
}
record!(DehydrationRecord, Only, Dehydration);

/// What is under way with the dehydrated device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum DehydrationStage {
    /// Nothing.
    #[default]
    Idle,
    /// The homeserver is asked whether it has one.
    Look,
    /// What was sent to it is read: see [`RehydrationRecord`].
    Read,
    /// A new one is uploaded: see [`DehydratedUploadRecord`].
    Upload,
    /// It is removed.
    Delete,
    /// One that another own device has made is looked at: whether the key that is here opens it.
    Check,
}

/// What became of a dehydrated device that was to be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum RehydrationOutcome {
    /// It was read to its end.
    Done,
    /// There is none.
    Absent,
    /// The homeserver does not know of such devices.
    Unsupported,
    /// It is not opened, or not read on.
    Refused(RehydrationRefusal),
}

impl RehydrationOutcome {
    /// The outcome's stable name; a refusal has the name of its reason.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Absent => "absent",
            Self::Unsupported => "unsupported",
            Self::Refused(reason) => reason.as_str(),
        }
    }
}

/// Why a dehydrated device is not opened, or not read on. The room keys taken until then stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum RehydrationRefusal {
    /// Our key does not open it, or it was tampered with.
    WrongKey,
    /// It is not among the user's devices.
    UnknownDevice,
    /// The user's verified identity has not signed it, or it does not say of itself what it is.
    NotSigned,
    /// What is inside has other keys than the device that the user has signed.
    KeyMismatch,
    /// An algorithm that is not known here.
    UnsupportedAlgorithm,
    /// The homeserver's answers are not of the shape the proposal asks for.
    Malformed,
    /// Larger than what is taken.
    TooLarge,
    /// The homeserver's pages do not come to an end.
    Endless,
    /// It is gone: removed, or replaced by another one.
    Gone,
    /// The homeserver does not give it out.
    Unavailable,
}

impl RehydrationRefusal {
    /// The reason's stable name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::WrongKey => "wrong_key",
            Self::UnknownDevice => "unknown_device",
            Self::NotSigned => "not_signed",
            Self::KeyMismatch => "key_mismatch",
            Self::UnsupportedAlgorithm => "unsupported_algorithm",
            Self::Malformed => "malformed",
            Self::TooLarge => "too_large",
            Self::Endless => "endless",
            Self::Gone => "gone",
            Self::Unavailable => "unavailable",
        }
    }
}

/// A dehydrated device that is being read: its keys, and how far that is. Wiped at the end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RehydrationRecord {
    /// Its id.
    pub device_id: OwnedDeviceId,
    /// Its account as it is now. Secret. It never sends, and never publishes a key.
    pub account: SecretBytes,
    /// Where the next page begins; none for the first one.
    pub from: Option<String>,
    /// Pages are asked for as an older draft has it, by `POST`.
    pub older_endpoint: bool,
    /// So many pages were taken.
    pub pages: u32,
    /// So many in a row had nothing in them.
    pub empty_pages: u32,
}
record!(RehydrationRecord, Only, Rehydration);

/// An Olm session that a sender has opened with the dehydrated device that is being read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RehydratedSessionRecord {
    /// The session. Secret.
    pub pickle: SecretBytes,
    /// The sender's Ed25519 key, once a checked message has named it.
    pub peer_ed25519: Option<Ed25519PublicKey>,
    /// Counts the sessions: the oldest go first.
    pub number: u64,
}
record!(RehydratedSessionRecord, OlmSessionKey, RehydratedSession);

/// A dehydrated device that the homeserver may not have accepted yet. Its private keys are in the body, under the
/// dehydration key, and nowhere else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DehydratedUploadRecord {
    /// Its id.
    pub device_id: OwnedDeviceId,
    /// The request's body, as JSON text.
    pub body: String,
    /// The request has been made.
    pub asked: bool,
}
record!(DehydratedUploadRecord, Only, DehydratedUpload);
