//! Rooms, their members, users' devices, files.

use herold::{CreateRoom, MemberRecord, OwnedRoomId, OwnedUserId, RoomRecord};

use crate::{HeroldError, input};

/// A room as this account knows it.
#[derive(Clone, Debug, PartialEq, Eq, uniffi::Record)]
pub struct Room {
    /// The room's id.
    pub room_id: String,
    /// Its name, if it has one. Not encrypted, not to be trusted.
    pub name: Option<String>,
    /// This account's own membership.
    pub membership: Membership,
    /// Messages in it are encrypted.
    pub encrypted: bool,
}

/// A user's membership of a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, uniffi::Enum)]
pub enum Membership {
    /// Invited.
    Invite,
    /// Joined.
    Join,
    /// Asked to be let in.
    Knock,
    /// Gone, or never there.
    Leave,
    /// Banned.
    Ban,
}

/// A member of a room.
#[derive(Clone, Debug, PartialEq, Eq, uniffi::Record)]
pub struct Member {
    /// The user.
    pub user_id: String,
    /// The membership.
    pub membership: Membership,
    /// The name the member shows. Not to be trusted.
    pub display_name: Option<String>,
}

/// What a new room is to be like.
#[derive(Clone, Debug, uniffi::Record)]
pub struct RoomSettings {
    /// Who is invited.
    #[uniffi(default = [])]
    pub invite: Vec<String>,
    /// The room's name; not encrypted.
    #[uniffi(default = None)]
    pub name: Option<String>,
    /// A conversation with the invited users.
    #[uniffi(default = false)]
    pub direct: bool,
    /// Encrypted from the start.
    #[uniffi(default = true)]
    pub encrypted: bool,
    /// After how many messages a room key is replaced.
    #[uniffi(default = None)]
    pub rotation_messages: Option<u64>,
    /// The rules to start with; by invitation if left out.
    #[uniffi(default = None)]
    pub preset: Option<RoomPreset>,
    /// Who may read the history; the preset's choice if left out.
    #[uniffi(default = None)]
    pub history_visibility: Option<HistoryVisibility>,
}

/// The rules a room starts with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, uniffi::Enum)]
pub enum RoomPreset {
    /// By invitation; history for all members.
    PrivateChat,
    /// The same, and the invited users have all rights.
    TrustedPrivateChat,
    /// Everybody may join.
    PublicChat,
}

/// Who may read a room's history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, uniffi::Enum)]
pub enum HistoryVisibility {
    /// From the invitation on.
    Invited,
    /// From the join on.
    Joined,
    /// All of it, for members.
    Shared,
    /// All of it, for everybody.
    WorldReadable,
}

/// A user's devices as known.
#[derive(Clone, Debug, PartialEq, Eq, uniffi::Record)]
pub struct UserDevices {
    /// The list is known to be outdated: the homeserver could not be asked.
    pub outdated: bool,
    /// The user has a cross-signing identity.
    pub has_identity: bool,
    /// How it stands to what was known of the user before.
    pub identity: Option<IdentityState>,
    /// The devices.
    pub devices: Vec<Device>,
}

/// How an identity stands to what was known of the user before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, uniffi::Enum)]
pub enum IdentityState {
    /// It is the one that was seen first, or accepted.
    Pinned,
    /// It is another one: ask the user before anything more is sent, then [`crate::Client::accept_identity`].
    Changed,
    /// It was verified.
    Verified,
    /// A verified one was replaced by one that is not: ask the user to verify again, or
    /// [`crate::Client::withdraw_verification`].
    VerificationBroken,
}

impl From<herold::IdentityState> for IdentityState {
    fn from(state: herold::IdentityState) -> Self {
        match state {
            herold::IdentityState::Pinned => Self::Pinned,
            herold::IdentityState::PinViolation => Self::Changed,
            herold::IdentityState::Verified => Self::Verified,
            herold::IdentityState::VerificationViolation => Self::VerificationBroken,
        }
    }
}

/// A device.
#[derive(Clone, Debug, PartialEq, Eq, uniffi::Record)]
pub struct Device {
    /// The device's id.
    pub device_id: String,
    /// Its name, cut and without control characters. Not to be trusted.
    pub display_name: Option<String>,
    /// Its fingerprint key, base64.
    pub ed25519: String,
    /// Its owner has cross-signed it.
    pub cross_signed: bool,
    /// It is known to be its owner's.
    pub verified: bool,
    /// This account gives it no keys.
    pub blocked: bool,
}

/// A file, decrypted and checked.
#[derive(Clone, PartialEq, Eq, uniffi::Record)]
pub struct Download {
    /// The content.
    pub data: Vec<u8>,
    /// The name the sender gave, made safe to use as a file name.
    pub name: String,
    /// The media type the sender gave. Not to be trusted.
    pub mimetype: String,
}

impl RoomSettings {
    pub(crate) fn into_herold(self) -> Result<CreateRoom, HeroldError> {
        if let Some(name) = &self.name {
            input::name(name, "not a room's name")?;
        }
        Ok(CreateRoom {
            invite: input::users(&self.invite)?,
            name: self.name,
            direct: self.direct,
            encrypted: self.encrypted,
            rotation_messages: self.rotation_messages,
            preset: self.preset.map(Into::into).unwrap_or_default(),
            history_visibility: self.history_visibility.map(Into::into),
        })
    }
}

impl From<(OwnedRoomId, RoomRecord)> for Room {
    fn from((room_id, room): (OwnedRoomId, RoomRecord)) -> Self {
        Self {
            room_id: room_id.into(),
            name: room.name,
            membership: room.membership.into(),
            encrypted: room.encryption.is_some(),
        }
    }
}

impl From<(OwnedUserId, MemberRecord)> for Member {
    fn from((user_id, member): (OwnedUserId, MemberRecord)) -> Self {
        Self {
            user_id: user_id.into(),
            membership: member.membership.into(),
            display_name: member.display_name,
        }
    }
}

impl UserDevices {
    pub(crate) fn new(known: herold::UserDevices, policy: &herold::Policy) -> Self {
        let device = |known: herold::DeviceView| Device {
            display_name: policy.device_name(&known.device),
            ed25519: known.device.keys.ed25519.to_base64(),
            device_id: known.device.device_id.into(),
            cross_signed: known.cross_signed,
            verified: known.verified,
            blocked: known.blocked,
        };
        Self {
            outdated: known.outdated || !known.tracked,
            has_identity: known.identity.is_some(),
            identity: known.identity.map(|identity| identity.state().into()),
            devices: known.devices.into_iter().map(device).collect(),
        }
    }
}

impl From<herold::Download> for Download {
    fn from(download: herold::Download) -> Self {
        Self { data: download.data, name: download.name, mimetype: download.mimetype }
    }
}

impl std::fmt::Debug for Download {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Download").field("length", &self.data.len()).finish_non_exhaustive()
    }
}

impl From<herold::Membership> for Membership {
    fn from(membership: herold::Membership) -> Self {
        match membership {
            herold::Membership::Invite => Self::Invite,
            herold::Membership::Join => Self::Join,
            herold::Membership::Knock => Self::Knock,
            herold::Membership::Leave => Self::Leave,
            herold::Membership::Ban => Self::Ban,
        }
    }
}

impl From<Membership> for herold::Membership {
    fn from(membership: Membership) -> Self {
        match membership {
            Membership::Invite => Self::Invite,
            Membership::Join => Self::Join,
            Membership::Knock => Self::Knock,
            Membership::Leave => Self::Leave,
            Membership::Ban => Self::Ban,
        }
    }
}

impl From<RoomPreset> for herold::RoomPreset {
    fn from(preset: RoomPreset) -> Self {
        match preset {
            RoomPreset::PrivateChat => Self::PrivateChat,
            RoomPreset::TrustedPrivateChat => Self::TrustedPrivateChat,
            RoomPreset::PublicChat => Self::PublicChat,
        }
    }
}

impl From<HistoryVisibility> for herold::HistoryVisibility {
    fn from(visibility: HistoryVisibility) -> Self {
        match visibility {
            HistoryVisibility::Invited => Self::Invited,
            HistoryVisibility::Joined => Self::Joined,
            HistoryVisibility::Shared => Self::Shared,
            HistoryVisibility::WorldReadable => Self::WorldReadable,
        }
    }
}
