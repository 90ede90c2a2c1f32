//! Rooms: creating, joining, leaving, and who is in them.

use std::{sync::Arc, time::Duration};

use herold_machine::{Forgotten, HttpRequest, Machine, MachineError, Method};
use herold_store::records::{HistoryVisibility, MemberRecord, Membership, RoomRecord};
use herold_trust::MEGOLM;
use ruma::{OwnedRoomId, OwnedUserId, RoomId, UserId};
use serde_json::{Map, Value, json};

use crate::{
    Client, ClientError,
    homeserver::Retry,
    session::{Session, lock},
    tasks::detached,
};

/// The client-server API's rooms.
const ROOMS: &str = "/_matrix/client/v3/rooms";

/// How long the own sync may take to show what the homeserver has accepted.
const SYNC_PATIENCE: Duration = Duration::from_secs(60);

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

impl RoomPreset {
    fn as_str(self) -> &'static str {
        match self {
            Self::PrivateChat => "private_chat",
            Self::TrustedPrivateChat => "trusted_private_chat",
            Self::PublicChat => "public_chat",
        }
    }
}

impl CreateRoom {
    /// The body of `POST /createRoom`.
    fn to_json(&self) -> Value {
        let mut state = Vec::new();
        if self.encrypted {
            let mut content = json!({ "algorithm": MEGOLM });
            if let Some(messages) = self.rotation_messages {
                content["rotation_period_msgs"] = messages.into();
            }
            state.push(json!({ "type": "m.room.encryption", "state_key": "", "content": content }));
        }
        if let Some(visibility) = self.history_visibility {
            state.push(json!({
                "type": "m.room.history_visibility",
                "state_key": "",
                "content": { "history_visibility": visibility },
            }));
        }
        let mut body = json!({
            "preset": self.preset.as_str(),
            "invite": self.invite,
            "is_direct": self.direct,
            "initial_state": state,
        });
        if let Some(name) = &self.name {
            body["name"] = name.as_str().into();
        }
        body
    }
}

impl Client {
    /// Creates a room. Answers when the own sync has shown it, or, when the background sync is off,
    /// when the homeserver has accepted it.
    ///
    /// # Errors
    /// [`ClientError::Matrix`], [`ClientError::Transport`]; [`ClientError::Timeout`] if the sync does
    /// not show it within a minute: the room is there all the same.
    pub async fn create_room(&self, room: CreateRoom) -> Result<OwnedRoomId, ClientError> {
        detached(create(self.session().clone(), room)).await
    }

    /// Joins a room. Answers when the own sync shows it as joined, or, when the background sync is
    /// off, when the homeserver has accepted it. If whoever has invited this user shares the room's history, now or within
    /// a day, its room keys are fetched in the background, as far as the deployment allows it.
    ///
    /// # Errors
    /// As for [`Client::create_room`].
    pub async fn join(&self, room: &RoomId) -> Result<(), ClientError> {
        self.join_with(room, true).await
    }

    /// As [`Client::join`], but takes no room keys of the room's history.
    ///
    /// # Errors
    /// As for [`Client::create_room`].
    pub async fn join_without_history(&self, room: &RoomId) -> Result<(), ClientError> {
        self.join_with(room, false).await
    }

    async fn join_with(&self, room: &RoomId, history: bool) -> Result<(), ClientError> {
        let (session, room) = (self.session().clone(), room.to_owned());
        detached(async move {
            // First: once the homeserver has accepted it, nobody is asked again.
            if history && session.deployment_policy.accept_history {
                session
                    .step(|machine, snapshot, cx| machine.accept_history(snapshot, cx, &room))?;
            }
            // Joining over federation may take the homeserver a while.
            let request = HttpRequest::new(Method::Post, ROOMS, &[room.as_str(), "join"])
                .json("{}".to_owned())
                .timeout(120_000);
            session.call(request, Retry::Always).await?;
            session.await_joined(&room, false).await
        })
        .await
    }

    /// Leaves a room, or refuses an invitation.
    ///
    /// # Errors
    /// [`ClientError::Matrix`], [`ClientError::Transport`].
    pub async fn leave(&self, room: &RoomId) -> Result<(), ClientError> {
        let user = self.user_id();
        self.change_membership(room, &user, "leave", json!({}), Membership::Leave).await
    }

    /// Forgets a room that was left: on the homeserver, which then no longer lists it, and here, with its keys, events
    /// and members. What was forgotten here is gone for good.
    ///
    /// # Errors
    /// [`ClientError::UnknownRoom`]; [`ClientError::InvalidInput`] if it was not left; [`ClientError::Matrix`],
    /// [`ClientError::Transport`]: then nothing was forgotten here.
    pub async fn forget(&self, room: &RoomId) -> Result<Forgotten, ClientError> {
        let known = self.session().read(|machine, snapshot| machine.room(snapshot, room))?;
        let known = known.ok_or(ClientError::UnknownRoom)?;
        if !matches!(known.membership, Membership::Leave | Membership::Ban) {
            return Err(MachineError::NotLeft.into());
        }
        let request =
            HttpRequest::new(Method::Post, ROOMS, &[room.as_str(), "forget"]).json("{}".to_owned());
        let (session, room) = (self.session().clone(), room.to_owned());
        detached(async move {
            session.call(request, Retry::Always).await?;
            session.step(|machine, snapshot, cx| machine.forget_room(snapshot, cx, &room))
        })
        .await
    }

    /// Invites a user. From then on messages go to the user's devices, where the room's history
    /// visibility allows it.
    ///
    /// # Errors
    /// [`ClientError::Matrix`], [`ClientError::Transport`].
    pub async fn invite(&self, room: &RoomId, user: &UserId) -> Result<(), ClientError> {
        self.change_membership(room, user, "invite", named(user), Membership::Invite).await
    }

    /// Removes a user from a room, or withdraws the invitation. The next message has a new key.
    ///
    /// # Errors
    /// [`ClientError::Matrix`], [`ClientError::Transport`].
    pub async fn kick(&self, room: &RoomId, user: &UserId) -> Result<(), ClientError> {
        self.change_membership(room, user, "kick", named(user), Membership::Leave).await
    }

    /// Removes a user from a room for good. The next message has a new key.
    ///
    /// # Errors
    /// [`ClientError::Matrix`], [`ClientError::Transport`].
    pub async fn ban(&self, room: &RoomId, user: &UserId) -> Result<(), ClientError> {
        self.change_membership(room, user, "ban", named(user), Membership::Ban).await
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
        let is_so = |session: &Session| {
            let known = session
                .read(|machine, snapshot| machine.member(snapshot, room, user))?
                .map_or(Membership::Leave, |member| member.membership);
            Ok((known == membership).then_some(()))
        };
        self.session().wait_until(timeout, is_so).await
    }

    /// Every room the account is in, invited to, or has left.
    ///
    /// # Errors
    /// Those of the store.
    pub fn rooms(&self) -> Result<Vec<(OwnedRoomId, RoomRecord)>, ClientError> {
        self.session().read(|machine, snapshot| machine.rooms(snapshot))
    }

    /// What is known of a room.
    ///
    /// # Errors
    /// Those of the store.
    pub fn room(&self, room: &RoomId) -> Result<Option<RoomRecord>, ClientError> {
        self.session().read(|machine, snapshot| machine.room(snapshot, room))
    }

    /// The members of a room. The complete list is fetched if only a part is known and this user is in
    /// the room.
    ///
    /// # Errors
    /// [`ClientError::UnknownRoom`]; [`ClientError::Matrix`], [`ClientError::Transport`]; those of the
    /// store.
    pub async fn members(
        &self,
        room: &RoomId,
    ) -> Result<Vec<(OwnedUserId, MemberRecord)>, ClientError> {
        let known = self.room(room)?.ok_or(ClientError::UnknownRoom)?;
        if known.membership == Membership::Join && !known.members_complete {
            let (session, room) = (self.session().clone(), room.to_owned());
            let generation = known.member_generation;
            // A list that was overtaken by the sync is not taken; what the sync says is newer.
            detached(async move {
                let body = session.call(Machine::members_request(&room), Retry::Always).await?;
                session.step(|machine, snapshot, cx| {
                    machine.handle_members(snapshot, cx, &room, generation, &body)
                })
            })
            .await?;
        }
        self.session().read(|machine, snapshot| machine.members(snapshot, room))
    }

    /// Has the homeserver change a membership, then takes it before a sync shows it: the next message
    /// already goes by it.
    async fn change_membership(
        &self,
        room: &RoomId,
        user: &UserId,
        action: &'static str,
        body: Value,
        membership: Membership,
    ) -> Result<(), ClientError> {
        let (session, room, user) = (self.session().clone(), room.to_owned(), user.to_owned());
        detached(async move {
            let request = HttpRequest::new(Method::Post, ROOMS, &[room.as_str(), action])
                .json(body.to_string());
            session.call(request, Retry::IfNotSeen).await?;
            session.note_membership(&room, &user, membership)
        })
        .await
    }
}

impl Session {
    /// Takes a membership that the homeserver has just accepted.
    fn note_membership(
        &self,
        room: &RoomId,
        user: &UserId,
        membership: Membership,
    ) -> Result<(), ClientError> {
        let outputs = self.with_engine(|engine| {
            let known = engine.read(|machine, snapshot| machine.member(snapshot, room, user))?;
            // A sync may have been quicker, and shown what came after the invitation.
            if membership == Membership::Invite
                && known.is_some_and(|member| member.membership == Membership::Join)
            {
                return Ok(None);
            }
            let outputs = engine.step(|machine, snapshot, cx| {
                machine.note_membership(snapshot, cx, room, user, membership)
            })?;
            Ok(Some(outputs))
        })?;
        if let Some(outputs) = outputs {
            self.publish(outputs);
        }
        Ok(())
    }

    /// Waits until the sync, if it runs, shows the room as joined, and as encrypted if it is to be.
    async fn await_joined(&self, room: &RoomId, encrypted: bool) -> Result<(), ClientError> {
        if !lock(&self.tasks).is_syncing() {
            return Ok(());
        }
        let is_there = |session: &Session| {
            let known = session.read(|machine, snapshot| machine.room(snapshot, room))?;
            let there = known.is_some_and(|room| {
                room.membership == Membership::Join && (room.encryption.is_some() || !encrypted)
            });
            Ok(there.then_some(()))
        };
        self.wait_until(SYNC_PATIENCE, is_there).await
    }
}

async fn create(session: Arc<Session>, room: CreateRoom) -> Result<OwnedRoomId, ClientError> {
    #[derive(serde::Deserialize)]
    struct Created {
        room_id: OwnedRoomId,
    }
    let request = HttpRequest::new(Method::Post, "/_matrix/client/v3", &["createRoom"])
        .json(room.to_json().to_string())
        .timeout(60_000);
    let body = session.call(request, Retry::IfNotSeen).await?;
    let created: Created =
        serde_json::from_slice(&body).map_err(|_| ClientError::BadResponse("createRoom"))?;
    if room.direct
        && let Err(error) = mark_direct(&session, &created.room_id, &room.invite).await
    {
        tracing::warn!(%error, "a new room could not be put into m.direct");
    }
    session.await_joined(&created.room_id, room.encrypted).await?;
    Ok(created.room_id)
}

/// Adds a room to the account's `m.direct`, for each of the users.
async fn mark_direct(
    session: &Session,
    room: &RoomId,
    users: &[OwnedUserId],
) -> Result<(), ClientError> {
    let segments = [session.user_id.as_str(), "account_data", "m.direct"];
    let request = |method| HttpRequest::new(method, "/_matrix/client/v3/user", &segments);
    let mut direct: Map<String, Value> =
        match session.call(request(Method::Get), Retry::Always).await {
            Ok(body) => serde_json::from_slice(&body)
                .map_err(|_| ClientError::BadResponse("account data"))?,
            Err(error) if error.is_matrix("M_NOT_FOUND") => Map::new(),
            Err(error) => return Err(error),
        };
    for user in users {
        let rooms = direct.entry(user.to_string()).or_insert_with(|| json!([]));
        match rooms.as_array_mut() {
            Some(rooms) if rooms.iter().any(|known| known == room.as_str()) => {}
            Some(rooms) => rooms.push(room.as_str().into()),
            None => *rooms = json!([room]),
        }
    }
    let request = request(Method::Put).json(Value::Object(direct).to_string());
    session.call(request, Retry::Always).await.map(drop)
}

/// The body that names a user.
fn named(user: &UserId) -> Value {
    json!({ "user_id": user })
}

#[cfg(test)]
#[path = "rooms_tests.rs"]
mod tests;
