//! [`Client`]: one account on one device.

use std::{sync::Arc, time::Duration};

use herold::SecretString;
use serde_json::json;

use crate::{
    ClientConfig, Download, HeroldError, Member, Membership, NumberedEvent, Room, RoomSettings,
    TimelineEvent, UserDevices, WakeUp,
    callback::Caller,
    host::{Host, guarded},
    input,
};

/// One account on one device.
///
/// What must survive is in the store: a call that is cancelled, or a process that is killed, loses
/// nothing. When the last reference goes, the client closes in the background; [`Client::close`] waits
/// for that.
#[derive(uniffi::Object)]
pub struct Client {
    pub(crate) host: Host,
}

#[uniffi::export]
impl Client {
    /// Logs in with a password and makes the account in the store. `user` is a user id or its first
    /// part; `device_name` is what other users see.
    ///
    /// # Errors
    /// [`HeroldError::Denied`]: wrong password, or a homeserver that the deployment does not allow.
    /// [`HeroldError::ResumeInstead`]: the store has an account.
    #[uniffi::constructor(default(device_name = None))]
    pub async fn log_in(
        config: ClientConfig,
        user: String,
        password: SecretString,
        device_name: Option<String>,
    ) -> Result<Arc<Self>, HeroldError> {
        input::name(&user, "not a user's name")?;
        input::line(password.as_str(), "not a password")?;
        if let Some(name) = &device_name {
            input::name(name, "not a device name")?;
        }
        let builder = config.builder()?;
        let make = async move { builder.login(&user, password, device_name.as_deref()).await };
        Ok(Arc::new(Self { host: Host::start(make).await? }))
    }

    /// Opens the account in the store. Needs no network.
    ///
    /// # Errors
    /// [`HeroldError::LogInAgain`]: there is none. [`HeroldError::AskForStoreKey`],
    /// [`HeroldError::StoreLocked`]: it does not open.
    #[uniffi::constructor]
    pub async fn resume(config: ClientConfig) -> Result<Arc<Self>, HeroldError> {
        let builder = config.builder()?;
        Ok(Arc::new(Self { host: Host::start(builder.resume()).await? }))
    }

    /// The account's user id.
    #[must_use]
    pub fn user_id(&self) -> String {
        self.host.user_id.clone()
    }

    /// The account's device id.
    #[must_use]
    pub fn device_id(&self) -> String {
        self.host.device_id.clone()
    }

    /// Has new events announced, in place of what was told before; nothing any more without a callback.
    /// Events that are there already are announced too.
    ///
    /// # Errors
    /// [`HeroldError::Closed`].
    #[uniffi::method(default(wake_up = None))]
    pub fn set_wake_up(&self, wake_up: Option<Arc<dyn WakeUp>>) -> Result<(), HeroldError> {
        guarded(|| {
            // One call may wait while another is under way: it then announces all that is there.
            let start = |wake_up: Arc<dyn WakeUp>| -> Result<Caller<()>, HeroldError> {
                Caller::start("herold-wake-up", 1, move |()| drop(wake_up.wake())).map_err(|_| {
                    HeroldError::internal("the callback's thread could not be started")
                })
            };
            let caller = wake_up.map(start).transpose()?;
            self.host.watch(caller.map(|caller| |client| announce(client, caller)))
        })
    }

    /// Starts to sync in the background.
    ///
    /// # Errors
    /// [`HeroldError::LogInAgain`], [`HeroldError::Closed`].
    pub async fn start_sync(&self) -> Result<(), HeroldError> {
        self.host.run(|client| async move { Ok(client.start_sync()?) }).await
    }

    /// Stops to sync in the background. What is queued still goes out.
    ///
    /// # Errors
    /// [`HeroldError::Closed`].
    pub async fn stop_sync(&self) -> Result<(), HeroldError> {
        self.host
            .run(|client| async move {
                client.stop_sync().await;
                Ok(())
            })
            .await
    }

    /// Waits until the client has synced once and others can encrypt for it.
    ///
    /// # Errors
    /// [`HeroldError::WaitLonger`], [`HeroldError::LogInAgain`], [`HeroldError::Closed`].
    pub async fn wait_ready(&self, timeout_ms: u64) -> Result<(), HeroldError> {
        let timeout = Duration::from_millis(timeout_ms);
        self.host.run(move |client| async move { Ok(client.wait_ready(timeout).await?) }).await
    }

    /// Every room the account is in, invited to, or has left.
    ///
    /// # Errors
    /// [`HeroldError::Closed`].
    pub async fn rooms(&self) -> Result<Vec<Room>, HeroldError> {
        self.host
            .run(|client| async move { Ok(client.rooms()?.into_iter().map(Into::into).collect()) })
            .await
    }

    /// Makes a room and answers with its id.
    ///
    /// # Errors
    /// [`HeroldError::WaitLonger`]: it is made, but has not shown up yet.
    pub async fn create_room(&self, settings: RoomSettings) -> Result<String, HeroldError> {
        self.host
            .run(|client| async move {
                Ok(client.create_room(settings.into_herold()?).await?.into())
            })
            .await
    }

    /// Joins a room.
    ///
    /// # Errors
    /// [`HeroldError::Denied`]: not invited. [`HeroldError::WaitLonger`]: joined, but not shown yet.
    pub async fn join(&self, room_id: String) -> Result<(), HeroldError> {
        self.host.run(|client| async move { Ok(client.join(&input::room(&room_id)?).await?) }).await
    }

    /// Leaves a room, or refuses an invitation.
    ///
    /// # Errors
    /// [`HeroldError::RetryLater`].
    pub async fn leave(&self, room_id: String) -> Result<(), HeroldError> {
        self.host
            .run(|client| async move { Ok(client.leave(&input::room(&room_id)?).await?) })
            .await
    }

    /// Invites a user.
    ///
    /// # Errors
    /// [`HeroldError::Denied`].
    pub async fn invite(&self, room_id: String, user_id: String) -> Result<(), HeroldError> {
        self.host
            .run(|client| async move {
                Ok(client.invite(&input::room(&room_id)?, &input::user(&user_id)?).await?)
            })
            .await
    }

    /// Removes a user from a room. The next message has a new key.
    ///
    /// # Errors
    /// [`HeroldError::Denied`].
    pub async fn kick(&self, room_id: String, user_id: String) -> Result<(), HeroldError> {
        self.host
            .run(|client| async move {
                Ok(client.kick(&input::room(&room_id)?, &input::user(&user_id)?).await?)
            })
            .await
    }

    /// The members of a room.
    ///
    /// # Errors
    /// [`HeroldError::NotFound`], [`HeroldError::RetryLater`].
    pub async fn members(&self, room_id: String) -> Result<Vec<Member>, HeroldError> {
        self.host
            .run(|client| async move {
                let members = client.members(&input::room(&room_id)?).await?;
                Ok(members.into_iter().map(Into::into).collect())
            })
            .await
    }

    /// Waits until this account sees a user with a membership in a room.
    ///
    /// # Errors
    /// [`HeroldError::WaitLonger`].
    pub async fn wait_for_member(
        &self,
        room_id: String,
        user_id: String,
        membership: Membership,
        timeout_ms: u64,
    ) -> Result<(), HeroldError> {
        self.host
            .run(move |client| async move {
                let (room, user) = (input::room(&room_id)?, input::user(&user_id)?);
                let timeout = Duration::from_millis(timeout_ms);
                Ok(client.wait_for_member(&room, &user, membership.into(), timeout).await?)
            })
            .await
    }

    /// A user's devices.
    ///
    /// # Errors
    /// [`HeroldError::Closed`].
    pub async fn devices(&self, user_id: String) -> Result<UserDevices, HeroldError> {
        self.host
            .run(|client| async move {
                let known = client.devices(&input::user(&user_id)?).await?;
                Ok(UserDevices::new(known, &client.policy()?))
            })
            .await
    }

    /// Sends a text and waits, however long, until the homeserver has it; answers with its event id. A
    /// call that is cancelled leaves it in the queue.
    ///
    /// # Errors
    /// [`HeroldError::NotFound`], [`HeroldError::Denied`]: not a room to send to.
    /// [`HeroldError::CancelOrRetry`]: refused for good.
    pub async fn send_text(&self, room_id: String, body: String) -> Result<String, HeroldError> {
        self.host
            .run(|client| async move {
                let (room, body) = (input::room(&room_id)?, input::text(&body)?);
                Ok(client.send_text(&room, body).await?.into())
            })
            .await
    }

    /// Puts a text into the queue, which survives, and answers with its transaction id. What became of
    /// it comes as an event.
    ///
    /// # Errors
    /// As for [`Client::send_text`].
    pub async fn queue_text(&self, room_id: String, body: String) -> Result<String, HeroldError> {
        self.host
            .run(|client| async move {
                let room = input::room(&room_id)?;
                let content = json!({ "msgtype": "m.text", "body": input::text(&body)? });
                let txn = client.queue_event(&room, "m.room.message", &content, None)?;
                Ok(txn.to_string())
            })
            .await
    }

    /// Takes a message out of the queue; `false` if it is not in it, or may be on its way already.
    ///
    /// # Errors
    /// [`HeroldError::Closed`].
    pub async fn cancel_queued(&self, txn_id: String) -> Result<bool, HeroldError> {
        self.host.run(|client| async move { Ok(client.cancel(&input::txn(&txn_id)?)?) }).await
    }

    /// Tries a message again that was refused; `false` if there is none.
    ///
    /// # Errors
    /// [`HeroldError::Closed`].
    pub async fn retry_queued(&self, txn_id: String) -> Result<bool, HeroldError> {
        self.host.run(|client| async move { Ok(client.retry(&input::txn(&txn_id)?)?) }).await
    }

    /// Encrypts a file, sends it, and answers with the event id.
    ///
    /// # Errors
    /// [`HeroldError::NotSupported`]: the room is not encrypted. Else as for [`Client::send_text`].
    pub async fn send_file(
        &self,
        room_id: String,
        name: String,
        mimetype: String,
        data: Vec<u8>,
    ) -> Result<String, HeroldError> {
        self.host
            .run(|client| async move {
                let room = input::room(&room_id)?;
                let name = input::name(&name, "not a file's name")?;
                let mimetype = input::name(&mimetype, "not a media type")?;
                Ok(client.send_file(&room, name, mimetype, input::file(&data)?).await?.into())
            })
            .await
    }

    /// Fetches the file of an event, decrypted and checked.
    ///
    /// # Errors
    /// [`HeroldError::RejectFile`]: it was changed. [`HeroldError::ShowUnreadable`]: its key has not
    /// come. [`HeroldError::FixInput`]: the event has no file.
    pub async fn download(
        &self,
        room_id: String,
        event_id: String,
    ) -> Result<Download, HeroldError> {
        self.host
            .run(|client| async move {
                let (room, event) = (input::room(&room_id)?, input::event(&event_id)?);
                Ok(client.download(&room, &event).await?.into())
            })
            .await
    }

    /// The last events of a room, 1000 at most, newest last.
    ///
    /// # Errors
    /// [`HeroldError::Closed`].
    pub async fn timeline(
        &self,
        room_id: String,
        count: u32,
    ) -> Result<Vec<TimelineEvent>, HeroldError> {
        self.host
            .run(move |client| async move {
                let (room, count) = (input::room(&room_id)?, input::count(count)?);
                let count = usize::try_from(count).unwrap_or(usize::MAX);
                Ok(client.timeline(&room, count)?.into_iter().map(Into::into).collect())
            })
            .await
    }

    /// Fetches one event from the homeserver, decrypted if its key is there. Needs no running sync.
    ///
    /// # Errors
    /// [`HeroldError::NotFound`], [`HeroldError::Denied`]: the homeserver does not give it out.
    pub async fn fetch_event(
        &self,
        room_id: String,
        event_id: String,
    ) -> Result<TimelineEvent, HeroldError> {
        self.host
            .run(|client| async move {
                let (room, event) = (input::room(&room_id)?, input::event(&event_id)?);
                Ok(client.fetch_event(&room, &event).await?.into())
            })
            .await
    }

    /// Waits until an event is there and readable; when the time is up, the event as it is then.
    ///
    /// # Errors
    /// [`HeroldError::WaitLonger`]: it is not there at all.
    pub async fn wait_for_event(
        &self,
        room_id: String,
        event_id: String,
        timeout_ms: u64,
    ) -> Result<TimelineEvent, HeroldError> {
        self.host
            .run(move |client| async move {
                let (room, event) = (input::room(&room_id)?, input::event(&event_id)?);
                let timeout = Duration::from_millis(timeout_ms);
                Ok(client.wait_for_event(&room, &event, timeout).await?.into())
            })
            .await
    }

    /// The oldest events not yet acknowledged, 256 at most. Waits when there are none, and answers with
    /// none when the time is up. Without [`Client::acknowledge`] the same come again.
    ///
    /// # Errors
    /// [`HeroldError::Closed`].
    pub async fn next_events(&self, timeout_ms: u64) -> Result<Vec<NumberedEvent>, HeroldError> {
        self.host
            .run(move |client| async move {
                let events = client.next_events(Duration::from_millis(timeout_ms)).await?;
                events.into_iter().map(|event| NumberedEvent::look_up(&client, event)).collect()
            })
            .await
    }

    /// The app has dealt with all events up to this number: they go.
    ///
    /// # Errors
    /// [`HeroldError::Closed`].
    pub async fn acknowledge(&self, up_to: u64) -> Result<(), HeroldError> {
        self.host.run(move |client| async move { Ok(client.acknowledge(up_to)?) }).await
    }

    /// Ends the login on the homeserver. What is stored can still be read.
    ///
    /// # Errors
    /// [`HeroldError::RetryLater`]: the homeserver did not answer, and the login may still be there.
    pub async fn log_out(&self) -> Result<(), HeroldError> {
        self.host.run(|client| async move { Ok(client.logout().await?) }).await
    }

    /// Ends everything and waits for it: threads, sockets, files and the store's lock are free then.
    /// Doing it again is no error; whatever else is called is [`HeroldError::Closed`]. A callback that
    /// is under way is not waited for.
    ///
    /// # Errors
    /// None so far.
    pub async fn close(&self) -> Result<(), HeroldError> {
        self.host.close().await
    }
}

/// Announces events as they come.
async fn announce(client: herold::Client, caller: Caller<()>) {
    let mut changes = client.changed();
    let mut announced = None;
    loop {
        let events = client.events(announced).unwrap_or_default();
        if let Some((newest, _)) = events.last() {
            announced = Some(*newest);
            caller.offer(());
        }
        if changes.wait().await.is_err() {
            return;
        }
    }
}
