//! What the machine tells the app: numbered [`AppEvent`]s, [`Notice`]s, and [`RoomEvent`]s looked up.

use herold_crypto::SessionId;
use herold_store::{
    Record, Table,
    records::{Membership, SequenceKey},
};
use herold_trust::{IdentityState, Shield, Timestamp};
use ruma::{OwnedDeviceId, OwnedEventId, OwnedRoomId, OwnedTransactionId, OwnedUserId};
use serde::{Deserialize, Serialize};

use crate::{HistoryRefusal, ToDeviceOutcome};

/// Something the app should know. Each has a number and stays in the store until the app has
/// acknowledged it: after a kill it is given again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum AppEvent {
    /// A room event came, clear or not; look it up with [`crate::Machine::room_event`].
    RoomEvent {
        /// The room.
        room_id: OwnedRoomId,
        /// The event.
        event_id: OwnedEventId,
    },
    /// An event that could not be decrypted before is clear now.
    Decrypted {
        /// The room.
        room_id: OwnedRoomId,
        /// The event.
        event_id: OwnedEventId,
    },
    /// A member's membership changed.
    Membership {
        /// The room.
        room_id: OwnedRoomId,
        /// The member.
        user_id: OwnedUserId,
        /// The membership now.
        membership: Membership,
    },
    /// A queued event was accepted by the server.
    Sent {
        /// The room.
        room_id: OwnedRoomId,
        /// The transaction id it was queued under.
        txn_id: OwnedTransactionId,
        /// The id it has now.
        event_id: OwnedEventId,
    },
    /// A queued event was refused for good. It stays in the queue, marked.
    SendFailed {
        /// The room.
        room_id: OwnedRoomId,
        /// The transaction id it was queued under.
        txn_id: OwnedTransactionId,
        /// The Matrix error code, or the reason's own name.
        errcode: String,
    },
    /// An encrypted to-device event of a type the machine does not handle itself.
    ToDevice {
        /// The sender, checked against the Olm channel.
        sender: OwnedUserId,
        /// The sending device, if it is known.
        sender_device: Option<OwnedDeviceId>,
        /// The event type.
        event_type: String,
        /// The content, as JSON text.
        content: String,
    },
    /// The server no longer knows the access token.
    LoggedOut,
    /// Something was dropped, or needs attention.
    Notice(Notice),
    /// A verification stands elsewhere than before: see [`crate::Machine::verification`].
    Verification {
        /// The other user.
        user_id: OwnedUserId,
        /// Its id.
        flow_id: String,
    },
    /// What became of an app's own to-device event, for each of its devices.
    ToDeviceSent {
        /// The id it was queued under.
        txn_id: OwnedTransactionId,
        /// One for each device.
        outcomes: Vec<ToDeviceOutcome>,
    },
    /// Devices of a user have come or gone since the list was last known. That a user is known for the first time is not
    /// told.
    Devices {
        /// The owner.
        user_id: OwnedUserId,
        /// The devices that are new.
        added: Vec<OwnedDeviceId>,
        /// The devices that are gone.
        removed: Vec<OwnedDeviceId>,
    },
    /// A user's identity is another one, or stands otherwise to what was known of the user. That another user is known for the first
    /// time is not told.
    Identity {
        /// The user; it may be the own one.
        user_id: OwnedUserId,
        /// How it stood before; `None` if there was none.
        before: Option<IdentityState>,
        /// How it stands now.
        state: IdentityState,
        /// The master key is another than before.
        new_keys: bool,
    },
}

/// Why something from outside was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum DropReason {
    /// Not of the shape the specification asks for.
    Malformed,
    /// Key material that must come by Olm came in the clear, or under Megolm.
    NotByOlm,
    /// An algorithm that is not known here.
    UnsupportedAlgorithm,
    /// The message is not for this device.
    NotForUs,
    /// No Olm session decrypts it.
    Undecryptable,
    /// The payload names another sender, recipient or key than the channel it came by.
    PayloadMismatch,
    /// The payload's `sender_device_keys` do not fit the message.
    SenderDeviceKeys,
    /// A room key that does not fit what is known of its session.
    RoomKeyConflict,
    /// Not asked for.
    Unsolicited,
    /// A signature is missing or does not verify.
    BadSignature,
    /// The identity keys of a known device changed.
    KeysChanged,
    /// The policy does not believe the sending device.
    SenderUntrusted,
}

impl DropReason {
    /// The reason's stable name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::NotByOlm => "not_by_olm",
            Self::UnsupportedAlgorithm => "unsupported_algorithm",
            Self::NotForUs => "not_for_us",
            Self::Undecryptable => "undecryptable",
            Self::PayloadMismatch => "payload_mismatch",
            Self::SenderDeviceKeys => "sender_device_keys",
            Self::RoomKeyConflict => "room_key_conflict",
            Self::Unsolicited => "unsolicited",
            Self::BadSignature => "bad_signature",
            Self::KeysChanged => "keys_changed",
            Self::SenderUntrusted => "sender_untrusted",
        }
    }
}

/// Something that was dropped and why, or that a user or an auditor should know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Notice {
    /// A to-device event was dropped.
    ToDeviceDropped {
        /// The sender the server named; `None` if that was not a user id.
        sender: Option<OwnedUserId>,
        /// Why.
        reason: DropReason,
    },
    /// A room event, or a part of a room, was dropped.
    EventDropped {
        /// The room; `None` if that was not a room id.
        room_id: Option<OwnedRoomId>,
        /// Why.
        reason: DropReason,
    },
    /// A part of a response was dropped.
    SectionDropped {
        /// The part's name in the specification.
        section: String,
    },
    /// A device entry of a user was refused; what was known before stands.
    DeviceRefused {
        /// The owner.
        user_id: OwnedUserId,
        /// The device.
        device_id: OwnedDeviceId,
        /// Why.
        reason: DropReason,
    },
    /// The server's idea of this very device differs from ours.
    OwnDeviceMismatch,
    /// A user's identity was refused; what was known before stands.
    IdentityRefused {
        /// The user.
        user_id: OwnedUserId,
    },
    /// A user's identity is another one than the one pinned.
    IdentityChanged {
        /// The user.
        user_id: OwnedUserId,
    },
    /// A one-time key was refused.
    OneTimeKeyRefused {
        /// The owner.
        user_id: OwnedUserId,
        /// The device.
        device_id: OwnedDeviceId,
    },
    /// A sender says that it does not give us a room key. Not authenticated.
    KeyWithheld {
        /// The room, if it names one.
        room_id: Option<OwnedRoomId>,
        /// Who says so.
        sender: OwnedUserId,
        /// The code.
        code: String,
    },
    /// The server refused our one-time keys as clashing; new ones were made.
    OneTimeKeyClash,
    /// The server refused a to-device request for good.
    ToDeviceRefused {
        /// The Matrix error code.
        errcode: String,
    },
    /// A room asks for an encryption that is not supported, or for less than before; ignored.
    EncryptionChangeRefused {
        /// The room.
        room_id: OwnedRoomId,
    },
    /// The server has forgotten how far it told us what is new: rooms, members and device lists are fetched anew.
    SyncStartsOver,
    /// A member's device is trusted too little and gets no room keys; from a time on, nothing is sent to rooms
    /// that have it. Told once for each such device.
    UntrustedDevice {
        /// The owner.
        user_id: OwnedUserId,
        /// The device.
        device_id: OwnedDeviceId,
        /// From when on its rooms are closed, unless it is cross-signed, removed or blocked by then.
        strict_at: Timestamp,
    },
    /// The server refused a signature of ours.
    SignatureRefused {
        /// Whose key was signed.
        user_id: OwnedUserId,
        /// The key's name: a device id, or a master key.
        name: String,
        /// The Matrix error code.
        errcode: String,
    },
    /// Room keys are uploaded to the backup of this version from now on.
    BackupEnabled {
        /// The version, in the homeserver's words.
        version: String,
    },
    /// The homeserver's backup is not one to trust: nothing is uploaded to it.
    BackupRefused,
    /// The backup in use is gone, or another has taken its place: nothing is uploaded until that one is known to
    /// be trusted.
    BackupStopped {
        /// The Matrix error code.
        errcode: String,
    },
    /// Whoever has invited us to a room has shared its history, and the room keys have been taken.
    HistoryReceived {
        /// The room.
        room_id: OwnedRoomId,
        /// Who has shared it: only this user vouches for who made the keys.
        user_id: OwnedUserId,
        /// Room keys that are known now and were not, or not so well.
        new: usize,
        /// Room keys that say nothing new.
        known: usize,
        /// Entries that are damaged, for other rooms, or contradict what is known.
        refused: usize,
    },
    /// History that was shared with us could not be taken.
    HistoryRefused {
        /// The room.
        room_id: OwnedRoomId,
        /// Who has shared it.
        user_id: OwnedUserId,
        /// Why.
        reason: HistoryRefusal,
    },
    /// A user whom we invited has been told of the room keys of a room's past.
    HistoryShared {
        /// The room.
        room_id: OwnedRoomId,
        /// The user.
        user_id: OwnedUserId,
        /// How many of the user's devices were told. Those that the user has not cross-signed were not.
        devices: usize,
    },
    /// The user has no dehydrated device any more, and none is made: somebody has removed it, or the homeserver takes none.
    DehydrationStopped {
        /// The Matrix error code; `M_NOT_FOUND` if it was removed.
        errcode: String,
    },
}

impl Notice {
    /// The kind's stable name.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::ToDeviceDropped { .. } => "to_device_dropped",
            Self::EventDropped { .. } => "event_dropped",
            Self::SectionDropped { .. } => "section_dropped",
            Self::DeviceRefused { .. } => "device_refused",
            Self::OwnDeviceMismatch => "own_device_mismatch",
            Self::IdentityRefused { .. } => "identity_refused",
            Self::IdentityChanged { .. } => "identity_changed",
            Self::SignatureRefused { .. } => "signature_refused",
            Self::BackupEnabled { .. } => "backup_enabled",
            Self::BackupRefused => "backup_refused",
            Self::BackupStopped { .. } => "backup_stopped",
            Self::HistoryReceived { .. } => "history_received",
            Self::HistoryRefused { .. } => "history_refused",
            Self::HistoryShared { .. } => "history_shared",
            Self::DehydrationStopped { .. } => "dehydration_stopped",
            Self::OneTimeKeyRefused { .. } => "one_time_key_refused",
            Self::KeyWithheld { .. } => "key_withheld",
            Self::OneTimeKeyClash => "one_time_key_clash",
            Self::ToDeviceRefused { .. } => "to_device_refused",
            Self::SyncStartsOver => "sync_starts_over",
            Self::UntrustedDevice { .. } => "untrusted_device",
            Self::EncryptionChangeRefused { .. } => "encryption_change_refused",
        }
    }
}

/// The [`AppEvent`]s of one step in the store, numbered from the row's key on: a sync of a hundred messages
/// costs one row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppEventRecord {
    /// The events.
    pub events: Vec<AppEvent>,
}

impl Record for AppEventRecord {
    const TABLE: Table = Table::AppEvent;
    type Key = SequenceKey;
}

/// Why an event cannot be shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Utd {
    /// The room key has not come.
    MissingKey,
    /// It was sent when we were not in the room and could not be given the key.
    NotMemberThen,
    /// Our key starts at a later index.
    IndexTooEarly,
    /// The sender withholds the key, with this code.
    Withheld(String),
    /// The sender the server names is not the one whose key this is, or policy does not trust it.
    SenderUntrusted,
    /// The same ciphertext came before as another event.
    Replay,
    /// The ciphertext was made for another room.
    RoomMismatch,
    /// The ciphertext is malformed, or does not verify.
    BadCiphertext,
    /// An algorithm that is not known here.
    UnsupportedAlgorithm,
}

impl Utd {
    /// The reason as stable text, which [`Utd::parse`] reads back.
    #[must_use]
    pub fn to_text(&self) -> String {
        match self {
            Self::MissingKey => "missing_key".to_owned(),
            Self::NotMemberThen => "not_member_then".to_owned(),
            Self::IndexTooEarly => "index_too_early".to_owned(),
            Self::Withheld(code) => format!("withheld:{code}"),
            Self::SenderUntrusted => "sender_untrusted".to_owned(),
            Self::Replay => "replay".to_owned(),
            Self::RoomMismatch => "room_mismatch".to_owned(),
            Self::BadCiphertext => "bad_ciphertext".to_owned(),
            Self::UnsupportedAlgorithm => "unsupported_algorithm".to_owned(),
        }
    }

    /// The reason back from its text; what is not known counts as bad ciphertext.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        match text {
            "missing_key" => Self::MissingKey,
            "not_member_then" => Self::NotMemberThen,
            "index_too_early" => Self::IndexTooEarly,
            "sender_untrusted" => Self::SenderUntrusted,
            "replay" => Self::Replay,
            "room_mismatch" => Self::RoomMismatch,
            "unsupported_algorithm" => Self::UnsupportedAlgorithm,
            _ => match text.strip_prefix("withheld:") {
                Some(code) => Self::Withheld(code.to_owned()),
                None => Self::BadCiphertext,
            },
        }
    }
}

/// A room event as an app may show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoomEvent {
    /// The room.
    pub room_id: OwnedRoomId,
    /// The event.
    pub event_id: OwnedEventId,
    /// The sender: for a decrypted event the one whose device made the key; else the one the server
    /// names.
    pub sender: OwnedUserId,
    /// When, as the sender's server says.
    pub origin_server_ts: u64,
    /// It was encrypted on the wire.
    pub encrypted: bool,
    /// The clear type and content, or why there are none.
    pub body: Result<ClearBody, Utd>,
    /// The Megolm session.
    pub session_id: Option<SessionId>,
    /// The device that sent it, if it is known.
    pub sender_device: Option<OwnedDeviceId>,
    /// How far the sender can be believed.
    pub shield: Shield,
    /// The user who has shared the room key with us as a part of the room's history (MSC4268). The sender is that user's
    /// word, and an app has to say so.
    pub shared_by: Option<OwnedUserId>,
    /// The state key of a state event.
    pub state_key: Option<String>,
    /// The event whose content a redaction (`m.room.redaction`) takes away, in whatever place the room's version has it. Nothing
    /// but the homeserver's word says that its sender wanted it.
    pub redacts: Option<OwnedEventId>,
}

/// The clear part of a room event.
#[derive(Clone, PartialEq, Eq)]
pub struct ClearBody {
    /// The event type.
    pub event_type: String,
    /// The content, as JSON text.
    pub content: String,
}

impl std::fmt::Debug for ClearBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClearBody").field("event_type", &self.event_type).finish_non_exhaustive()
    }
}
