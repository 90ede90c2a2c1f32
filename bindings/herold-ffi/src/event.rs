//! [`Event`]: what the app should know, numbered.

use herold::{AppEvent, ClientError};

use crate::{HeroldError, IdentityState, Membership, Notice, TimelineEvent};

/// An event and its number. It comes again until [`crate::Client::acknowledge`] is called with this or
/// a higher number, after a kill too.
#[derive(Clone, Debug, PartialEq, Eq, uniffi::Record)]
pub struct NumberedEvent {
    /// Its number; later events have higher ones.
    pub number: u64,
    /// The event.
    pub event: Event,
}

/// Something the app should know.
#[derive(Clone, Debug, PartialEq, Eq, uniffi::Enum)]
pub enum Event {
    /// A room event came, readable or not.
    Came {
        /// As it is now.
        event: TimelineEvent,
    },
    /// A room event that could not be read before is readable now.
    BecameReadable {
        /// As it is now.
        event: TimelineEvent,
    },
    /// A member's membership changed.
    MemberChanged {
        /// The room.
        room_id: String,
        /// The member.
        user_id: String,
        /// The membership now.
        membership: Membership,
    },
    /// A queued message was accepted by the homeserver.
    Sent {
        /// The room.
        room_id: String,
        /// The transaction id it was queued under.
        txn_id: String,
        /// The id it has now.
        event_id: String,
    },
    /// A queued message was refused for good. It stays in the queue: cancel it, or try it again.
    NotSent {
        /// The room.
        room_id: String,
        /// The transaction id it was queued under.
        txn_id: String,
        /// The Matrix error code, or the reason's own name.
        code: String,
    },
    /// An encrypted event from a device to this device, of a type that Herold does not handle.
    FromDevice {
        /// The sender.
        sender: String,
        /// The sending device, if it is known.
        sender_device: Option<String>,
        /// The event's type.
        event_type: String,
    },
    /// A verification stands elsewhere than before: look at [`crate::Client::verification`].
    VerificationMoved {
        /// The other user.
        user_id: String,
        /// Its id.
        flow_id: String,
    },
    /// Devices of a user have come or gone. That a user is known for the first time is not told.
    DevicesChanged {
        /// The owner.
        user_id: String,
        /// The devices that are new.
        added: Vec<String>,
        /// The devices that are gone.
        removed: Vec<String>,
    },
    /// A user's identity is another one, or stands otherwise to what was known of the user.
    IdentityMoved {
        /// The user; it may be the own one.
        user_id: String,
        /// How it stood before; nothing if there was none.
        before: Option<IdentityState>,
        /// How it stands now.
        state: IdentityState,
        /// It is another identity than before.
        new_keys: bool,
    },
    /// The homeserver no longer knows this login: log in again.
    LoggedOut,
    /// Something was dropped, or needs attention.
    Attention {
        /// What.
        notice: Notice,
    },
    /// Something that has no name here yet, or is no longer there: acknowledge it.
    Unknown,
}

impl NumberedEvent {
    /// The event with what the store has on it.
    pub(crate) fn look_up(
        client: &herold::Client,
        (number, event): (u64, AppEvent),
    ) -> Result<Self, HeroldError> {
        Ok(Self { number, event: Event::look_up(client, event)? })
    }
}

impl Event {
    fn look_up(client: &herold::Client, event: AppEvent) -> Result<Self, ClientError> {
        Ok(match event {
            AppEvent::RoomEvent { room_id, event_id } => client
                .event(&room_id, &event_id)?
                .map_or(Self::Unknown, |event| Self::Came { event: event.into() }),
            AppEvent::Decrypted { room_id, event_id } => client
                .event(&room_id, &event_id)?
                .map_or(Self::Unknown, |event| Self::BecameReadable { event: event.into() }),
            AppEvent::Membership { room_id, user_id, membership } => Self::MemberChanged {
                room_id: room_id.into(),
                user_id: user_id.into(),
                membership: membership.into(),
            },
            AppEvent::Sent { room_id, txn_id, event_id } => Self::Sent {
                room_id: room_id.into(),
                txn_id: txn_id.into(),
                event_id: event_id.into(),
            },
            AppEvent::SendFailed { room_id, txn_id, errcode } => {
                Self::NotSent { room_id: room_id.into(), txn_id: txn_id.into(), code: errcode }
            }
            AppEvent::ToDevice { sender, sender_device, event_type, .. } => Self::FromDevice {
                sender: sender.into(),
                sender_device: sender_device.map(Into::into),
                event_type,
            },
            AppEvent::Verification { user_id, flow_id } => {
                Self::VerificationMoved { user_id: user_id.into(), flow_id }
            }
            AppEvent::Devices { user_id, added, removed } => {
                let ids =
                    |ids: Vec<herold::OwnedDeviceId>| ids.into_iter().map(Into::into).collect();
                let (added, removed) = (ids(added), ids(removed));
                Self::DevicesChanged { user_id: user_id.into(), added, removed }
            }
            AppEvent::Identity { user_id, before, state, new_keys } => Self::IdentityMoved {
                user_id: user_id.into(),
                before: before.map(Into::into),
                state: state.into(),
                new_keys,
            },
            AppEvent::LoggedOut => Self::LoggedOut,
            AppEvent::Notice(notice) => Self::Attention { notice: notice.into() },
            _ => Self::Unknown,
        })
    }
}
