//! Rooms: creating, joining, leaving, and who is in them.

use std::time::Duration;

use herold_store::records::{HistoryVisibility, MemberRecord, Membership, RoomRecord};
use ruma::{OwnedRoomId, OwnedUserId, RoomId, UserId};

use crate::{Client, ClientError};

/// What a new room is to be like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateRoom {
    /// Who is invited.
    pub invite: Vec<OwnedUserId>,
    /// The room's name; not encrypted.
    pub name: Option<String>,
    /// A conversation with the invited users: also put into the account's `m.direct`.
    pub direct: bool,
    /// Encrypted from the start.
    pub encrypted: bool,
    /// After how many messages a room key is replaced; the specification's default if `None`.
    pub rotation_messages: Option<u64>,
    /// The rules to start with.
    pub preset: RoomPreset,
    /// Who may read the history; the preset's choice if `None`.
    pub history_visibility: Option<HistoryVisibility>,
}

impl Default for CreateRoom {
    /// An encrypted private room with nobody else in it.
    fn default() -> Self {
        Self {
            invite: Vec::new(),
            name: None,
            direct: false,
            encrypted: true,
            rotation_messages: None,
            preset: RoomPreset::default(),
            history_visibility: None,
        }
    }
}

/// The rules a room starts with (Matrix specification, `createRoom`, `preset`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RoomPreset {
    /// By invitation; history for all members.
    #[default]
    PrivateChat,
    /// The same, and the invited users have all rights.
    TrustedPrivateChat,
    /// Everybody may join.
    PublicChat,
}

impl Client {
    /// Creates a room. Answers when the own sync has shown it, or, when the background sync is off,
    /// when the homeserver has accepted it.
    ///
    /// # Errors
    /// [`ClientError::Matrix`], [`ClientError::Transport`]; [`ClientError::Timeout`] if the sync does
    /// not show it within a minute: the room is there all the same.
    pub async fn create_room(&self, room: CreateRoom) -> Result<OwnedRoomId, ClientError> {
        let _ = room;
        Err(ClientError::Unsupported("in progress"))
    }

    /// Joins a room. Answers when the own sync shows it as joined, or, when the background sync is
    /// off, when the homeserver has accepted it.
    ///
    /// # Errors
    /// As for [`Client::create_room`].
    pub async fn join(&self, room: &RoomId) -> Result<(), ClientError> {
        let _ = room;
        Err(ClientError::Unsupported("in progress"))
    }

    /// Leaves a room, or refuses an invitation.
    ///
    /// # Errors
    /// [`ClientError::Matrix`], [`ClientError::Transport`].
    pub async fn leave(&self, room: &RoomId) -> Result<(), ClientError> {
        let _ = room;
        Err(ClientError::Unsupported("in progress"))
    }

    /// Forgets a room that was left, on the homeserver.
    ///
    /// # Errors
    /// [`ClientError::Matrix`], [`ClientError::Transport`].
    pub async fn forget(&self, room: &RoomId) -> Result<(), ClientError> {
        let _ = room;
        Err(ClientError::Unsupported("in progress"))
    }

    /// Invites a user. From then on messages go to the user's devices, where the room's history
    /// visibility allows it.
    ///
    /// # Errors
    /// [`ClientError::Matrix`], [`ClientError::Transport`].
    pub async fn invite(&self, room: &RoomId, user: &UserId) -> Result<(), ClientError> {
        let _ = (room, user);
        Err(ClientError::Unsupported("in progress"))
    }

    /// Removes a user from a room, or withdraws the invitation. The next message has a new key.
    ///
    /// # Errors
    /// [`ClientError::Matrix`], [`ClientError::Transport`].
    pub async fn kick(&self, room: &RoomId, user: &UserId) -> Result<(), ClientError> {
        let _ = (room, user);
        Err(ClientError::Unsupported("in progress"))
    }

    /// Removes a user from a room for good. The next message has a new key.
    ///
    /// # Errors
    /// [`ClientError::Matrix`], [`ClientError::Transport`].
    pub async fn ban(&self, room: &RoomId, user: &UserId) -> Result<(), ClientError> {
        let _ = (room, user);
        Err(ClientError::Unsupported("in progress"))
    }

    /// Waits until the own view of the room has this user with this membership; for
    /// [`Membership::Leave`] a user with none counts too.
    ///
    /// # Errors
    /// [`ClientError::Timeout`].
    pub async fn wait_for_member(
        &self,
        room: &RoomId,
        user: &UserId,
        membership: Membership,
        timeout: Duration,
    ) -> Result<(), ClientError> {
        let _ = (room, user, membership, timeout);
        Err(ClientError::Unsupported("in progress"))
    }

    /// Every room the account is in, invited to, or has left.
    ///
    /// # Errors
    /// Those of the store.
    pub fn rooms(&self) -> Result<Vec<(OwnedRoomId, RoomRecord)>, ClientError> {
        Err(ClientError::Unsupported("in progress"))
    }

    /// What is known of a room.
    ///
    /// # Errors
    /// Those of the store.
    pub fn room(&self, room: &RoomId) -> Result<Option<RoomRecord>, ClientError> {
        let _ = room;
        Err(ClientError::Unsupported("in progress"))
    }

    /// The members of a room, as the own view has them. Waits for the complete list when it is not
    /// known, and answers with what there is when that takes longer than 15 seconds: see
    /// [`RoomRecord::members_complete`].
    ///
    /// # Errors
    /// [`ClientError::UnknownRoom`]; those of the store.
    pub async fn members(
        &self,
        room: &RoomId,
    ) -> Result<Vec<(OwnedUserId, MemberRecord)>, ClientError> {
        let _ = room;
        Err(ClientError::Unsupported("in progress"))
    }
}
