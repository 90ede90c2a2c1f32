//! Sharing a room's history with whom one invites, and taking it from whoever has invited us (MSC4268).

use std::{sync::Arc, time::Duration};

use herold_crypto::encrypt_attachment;
use herold_machine::HistoryBundle;
use herold_trust::is_cross_signed;
use ruma::{RoomId, UserId};

use crate::{
    Client, ClientError, OsEntropy, key_backup,
    session::Session,
    tasks::{blocking, detached},
};

/// As many room keys are read at once.
const PAGE: usize = 200;
/// The invitation waits so long at most for the user's devices to be told.
const PATIENCE: Duration = Duration::from_secs(10);

/// What of a room's history was shared with a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SharedHistory {
    /// So many room keys, with those of the user's devices that the user has cross-signed.
    Keys(usize),
    /// None: the room's history is not open to those who come later, or the room is not encrypted.
    Closed,
    /// None: there is no room key that may be shared.
    Nothing,
    /// None: this device is not signed by its own user's identity, so nobody would take it. Recover or verify it first.
    NotSigned,
}

impl SharedHistory {
    /// The stable name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Keys(_) => "keys",
            Self::Closed => "closed",
            Self::Nothing => "nothing",
            Self::NotSigned => "not_signed",
        }
    }
}

impl Client {
    /// Invites a user and shares the room keys of what was said before, as far as those who made them allow it. Only devices
    /// that the user has cross-signed are told. The user is invited also if nothing can be shared; the answer says what
    /// was.
    ///
    /// # Errors
    /// [`ClientError::PolicyDenied`] if the deployment does not allow it; [`ClientError::UnknownRoom`],
    /// [`ClientError::NotJoined`]; [`ClientError::Matrix`], [`ClientError::Transport`] if the upload or the invitation is
    /// refused: the user was not invited then.
    pub async fn invite_with_history(
        &self,
        room: &RoomId,
        user: &UserId,
    ) -> Result<SharedHistory, ClientError> {
        let (session, room_id, user_id) =
            (self.session().clone(), room.to_owned(), user.to_owned());
        let shared = detached(async move { share(&session, &room_id, &user_id).await }).await?;
        self.invite(room, user).await?;
        Ok(shared)
    }
}

async fn share(
    session: &Arc<Session>,
    room: &RoomId,
    user: &UserId,
) -> Result<SharedHistory, ClientError> {
    let allowed = session.read(|machine, _| Ok(machine.policy().share_history))?;
    if !allowed || !session.deployment_policy.share_history {
        return Err(ClientError::PolicyDenied);
    }
    let known = session.read(|machine, snapshot| machine.room(snapshot, room))?;
    let known = known.ok_or(ClientError::UnknownRoom)?;
    if known.membership != crate::Membership::Join {
        return Err(ClientError::NotJoined);
    }
    if known.encryption.is_none() || !is_open(known.history_visibility) {
        return Ok(SharedHistory::Closed);
    }
    if !is_signed(session)? {
        return Ok(SharedHistory::NotSigned);
    }
    if let Err(error) = key_backup::restore_room(session, room).await {
        // What is here is shared all the same.
        tracing::warn!(%error, "the backed-up keys of a room could not be had");
    }
    let mut bundle = HistoryBundle::new(room.to_owned());
    // The engine is free for others between the pages.
    while !session.read(|machine, snapshot| machine.collect_history(snapshot, &mut bundle, PAGE))? {
        tokio::task::yield_now().await;
    }
    let keys = bundle.keys();
    if keys == 0 {
        return Ok(SharedHistory::Nothing);
    }
    let text = bundle.into_text();
    let encrypted =
        blocking(move || Ok::<_, ClientError>(encrypt_attachment(text.as_slice(), &mut OsEntropy)));
    let (ciphertext, mut file) = encrypted.await?;
    file.url = session.upload(ciphertext).await?;
    let queued = session
        .step(|machine, snapshot, cx| machine.share_history(snapshot, cx, room, user, &file))?;
    // It goes on by itself; who is invited should find it there if that is a matter of seconds.
    let done = |session: &Session| {
        let waits =
            session.read(|machine, snapshot| machine.history_is_under_way(snapshot, &queued))?;
        Ok((!waits).then_some(()))
    };
    match session.wait_until(PATIENCE, done).await {
        Ok(()) | Err(ClientError::Timeout) => Ok(SharedHistory::Keys(keys)),
        Err(error) => Err(error),
    }
}

fn is_open(visibility: crate::HistoryVisibility) -> bool {
    use crate::HistoryVisibility::{Shared, WorldReadable};
    matches!(visibility, Shared | WorldReadable)
}

/// Whether the own identity has signed this device.
fn is_signed(session: &Session) -> Result<bool, ClientError> {
    let own = session.read(|machine, snapshot| machine.devices(snapshot, &session.user_id))?;
    let mut devices = own.devices.iter().map(|view| &view.device);
    let this = devices.find(|device| device.device_id == session.device_id);
    Ok(this.is_some_and(|device| is_cross_signed(device, own.identity.as_ref())))
}
