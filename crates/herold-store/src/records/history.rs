//! Records of history sharing (MSC4268): who has invited us, and the bundles of room keys that wait for our joining.

use herold_crypto::{Curve25519PublicKey, Ed25519PublicKey, SecretString};
use herold_trust::Timestamp;
use ruma::{OwnedRoomId, OwnedUserId};
use serde::{Deserialize, Serialize};

use super::{Component, RoomKey};
use crate::{
    KeyError, KeyReader, Record, RecordKey, Table,
    key::{USUAL_KEY, push_text},
};

record_key! {
    /// A bundle of room keys, as one device has sent it: none can stand in another's way.
    HistoryBundleKey {
        /// The room that the keys are for.
        room_id: OwnedRoomId,
        /// Whose device sent it.
        user_id: OwnedUserId,
        /// The device's Curve25519 key.
        sender_key: Curve25519PublicKey,
    }
}
prefix!(/// All bundles for a room.
    HistoryBundleKey::for_room(room_id: ruma::RoomId));
prefix!(/// All bundles of a user for a room.
    HistoryBundleKey::of(room_id: ruma::RoomId, user_id: ruma::UserId));

/// Who has invited us to a room.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InvitationRecord {
    /// The user, as the homeserver says.
    pub inviter: OwnedUserId,
    /// When the app's user accepted the invitation and the history that comes with it.
    pub accepted_at: Option<Timestamp>,
}
record!(InvitationRecord, RoomKey, Invitation);

/// A bundle of room keys that was told of by Olm and has not been fetched, or not been taken in whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryBundleRecord {
    /// The Ed25519 key that the sending device claimed.
    pub sender_ed25519: Ed25519PublicKey,
    /// The `file` object, as JSON text: the address and the key. Secret.
    pub file: SecretString,
    /// When it came.
    pub received_at: Timestamp,
    /// The homeserver knows only the media endpoint that needs no log-in.
    pub older_endpoint: bool,
}
record!(HistoryBundleRecord, HistoryBundleKey, HistoryBundle);
