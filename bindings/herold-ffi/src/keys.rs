//! Room keys: the backup, key files, what is forgotten, and the store's own key.

use std::{path::Path, sync::Arc, time::Duration};

use herold::{ClientBuilder, ClientError, Lengthy, SecretString};

use crate::{
    CallbackFailed, Client, HeroldError, Lifetimes, StoreKey, callback::Caller, host::run_alone,
    input,
};

/// How far lengthy work is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, uniffi::Record)]
pub struct Progress {
    /// As many room keys are done.
    pub done: u64,
    /// Of so many, if that is known.
    pub total: Option<u64>,
}

/// Told how far lengthy work is. Called on a thread of its own; while it runs, what it would be told meanwhile is left out.
#[uniffi::export(with_foreign)]
pub trait ProgressSink: Send + Sync {
    /// It is as far as this.
    ///
    /// # Errors
    /// Whatever the app raises; it is ignored.
    fn progress(&self, progress: Progress) -> Result<(), CallbackFailed>;
}

/// What came of room keys that were restored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, uniffi::Record)]
pub struct Imported {
    /// As many are known now and were not, or not so well.
    pub fresh: u64,
    /// As many say nothing new.
    pub known: u64,
    /// As many are damaged, not for this key, or contradict what is known.
    pub refused: u64,
}

/// How the key backup stands.
#[derive(Clone, Debug, PartialEq, Eq, uniffi::Record)]
pub struct BackupStatus {
    /// The homeserver has said whether it has one.
    pub known: bool,
    /// The version on the homeserver, as far as known.
    pub version: Option<String>,
    /// Room keys are uploaded to it.
    pub enabled: bool,
    /// It can be restored from.
    pub has_key: bool,
    /// As many room keys are still to be uploaded.
    pub pending: u64,
}

/// What is to be forgotten. What is left out stays, unless the deployment's policy says otherwise.
#[derive(Clone, Debug, uniffi::Record)]
pub struct Retention {
    /// In this room alone.
    #[uniffi(default = None)]
    pub room_id: Option<String>,
    /// What is older. Olm sessions not with a room.
    #[uniffi(default = None)]
    pub lifetimes: Option<Lifetimes>,
}

/// How much was forgotten, or would be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, uniffi::Record)]
pub struct Forgotten {
    /// Room keys.
    pub room_keys: u64,
    /// Room keys moved on.
    pub ratcheted: u64,
    /// Room keys that stay until the backup has them.
    pub kept_for_backup: u64,
    /// Events.
    pub events: u64,
    /// Olm sessions.
    pub olm_sessions: u64,
}

/// What of a room's history was shared with whom was invited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, uniffi::Enum)]
pub enum SharedHistory {
    /// So many room keys.
    Keys {
        /// As many.
        count: u64,
    },
    /// None: the history is not open to those who come later, or the room is not encrypted.
    Closed,
    /// None: there is no key that may be shared.
    Nothing,
    /// None: this device is not signed by its user. Recover or verify it first.
    NotSigned,
}

#[uniffi::export]
impl Client {
    /// How the key backup stands.
    ///
    /// # Errors
    /// [`HeroldError::Closed`].
    pub async fn backup_status(&self) -> Result<BackupStatus, HeroldError> {
        self.host.run(|client| async move { Ok(client.backup_status()?.into()) }).await
    }

    /// Waits until every room key is in the backup.
    ///
    /// # Errors
    /// [`HeroldError::WaitLonger`].
    pub async fn wait_for_backup(&self, timeout_ms: u64) -> Result<(), HeroldError> {
        let timeout = Duration::from_millis(timeout_ms);
        self.host.run(move |client| async move { Ok(client.wait_for_backup(timeout).await?) }).await
    }

    /// Restores every room key of the backup in use.
    ///
    /// # Errors
    /// [`HeroldError::RecoverFirst`]: its key is not here.
    #[uniffi::method(default(progress = None))]
    pub async fn restore_backup(
        &self,
        progress: Option<Arc<dyn ProgressSink>>,
    ) -> Result<Imported, HeroldError> {
        let caller = progress.map(Caller::of_progress).transpose()?;
        self.host
            .run(move |client| async move {
                Ok(counted(client.restore_backup(), caller).await?.into())
            })
            .await
    }

    /// Writes every room key into a file, which must not exist yet. Answers how many there are.
    ///
    /// # Errors
    /// [`HeroldError::FixInput`]: the file cannot be made.
    #[uniffi::method(default(progress = None))]
    pub async fn export_keys(
        &self,
        path: String,
        passphrase: SecretString,
        progress: Option<Arc<dyn ProgressSink>>,
    ) -> Result<u64, HeroldError> {
        input::line(&path, "not a path")?;
        input::line(passphrase.as_str(), "not a passphrase")?;
        let caller = progress.map(Caller::of_progress).transpose()?;
        self.host
            .run(move |client| async move {
                let work = client.export_keys(Path::new(&path), passphrase);
                Ok(to_u64(counted(work, caller).await?))
            })
            .await
    }

    /// Takes every room key out of a file. They prove nothing of who made them.
    ///
    /// # Errors
    /// [`HeroldError::AskAgain`]: the passphrase is wrong, or the file was changed. [`HeroldError::RejectFile`]: it is no
    /// key file, or not whole. [`HeroldError::FixInput`]: it cannot be read.
    #[uniffi::method(default(progress = None))]
    pub async fn import_keys(
        &self,
        path: String,
        passphrase: SecretString,
        progress: Option<Arc<dyn ProgressSink>>,
    ) -> Result<Imported, HeroldError> {
        input::line(&path, "not a path")?;
        input::line(passphrase.as_str(), "not a passphrase")?;
        let caller = progress.map(Caller::of_progress).transpose()?;
        self.host
            .run(move |client| async move {
                let work = client.import_keys(Path::new(&path), passphrase);
                Ok(counted(work, caller).await?.into())
            })
            .await
    }

    /// Invites a user and shares the room keys of what was said before, as far as the room allows it.
    ///
    /// # Errors
    /// [`HeroldError::Denied`]: the policy or the homeserver does not allow it; nobody was invited.
    pub async fn invite_with_history(
        &self,
        room_id: String,
        user_id: String,
    ) -> Result<SharedHistory, HeroldError> {
        self.host
            .run(|client| async move {
                let (room, user) = (input::room(&room_id)?, input::user(&user_id)?);
                Ok(client.invite_with_history(&room, &user).await?.into())
            })
            .await
    }

    /// How much [`Client::forget`] would forget. Changes nothing.
    ///
    /// # Errors
    /// [`HeroldError::FixInput`].
    pub async fn would_forget(&self, retention: Retention) -> Result<Forgotten, HeroldError> {
        let retention = retention.into_herold()?;
        self.host
            .run(
                move |client| async move { Ok(client.preview_retention(&retention).await?.into()) },
            )
            .await
    }

    /// Forgets what this says, on this device and for good. Cut short, it has done a part.
    ///
    /// # Errors
    /// [`HeroldError::FixInput`].
    pub async fn forget(&self, retention: Retention) -> Result<Forgotten, HeroldError> {
        let retention = retention.into_herold()?;
        self.host
            .run(move |client| async move { Ok(client.apply_retention(&retention).await?.into()) })
            .await
    }

    /// Lets go of the store and rests, for an app that is about to be frozen. Until [`Client::unsuspend`], what needs the store
    /// is [`HeroldError::RetryLater`].
    ///
    /// # Errors
    /// [`HeroldError::Closed`].
    pub async fn suspend(&self) -> Result<(), HeroldError> {
        self.host.run(|client| async move { Ok(client.suspend().await?) }).await
    }

    /// Goes on after [`Client::suspend`].
    ///
    /// # Errors
    /// [`HeroldError::StoreLocked`]: another process does not let go of the store; the client goes on once it does.
    pub async fn unsuspend(&self) -> Result<(), HeroldError> {
        self.host.run(|client| async move { Ok(client.resume().await?) }).await
    }
}

/// Encrypts a store anew: from now on `new_key` opens it, and the old key opens nothing that is written. No client may have it
/// open. Whenever it is cut short, the store is whole under one of the two keys.
///
/// # Errors
/// [`HeroldError::AskForStoreKey`]: the old key is wrong. [`HeroldError::StoreLocked`].
#[uniffi::export]
pub async fn rekey_store(
    store_path: String,
    old_key: Arc<StoreKey>,
    new_key: Arc<StoreKey>,
) -> Result<(), HeroldError> {
    input::line(&store_path, "not a path")?;
    let builder = ClientBuilder::new().store_path(&store_path).store_key(old_key.0.clone());
    run_alone(builder.rekey_store(new_key.0.clone())).await
}

/// Has the app told how far work is.
pub(crate) async fn counted<T>(
    work: Lengthy<T>,
    caller: Option<Caller<Progress>>,
) -> Result<T, ClientError> {
    match caller {
        None => work.await,
        Some(caller) => {
            work.on_progress(move |progress| {
                caller.offer(progress.into());
            })
            .await
        }
    }
}

impl Caller<Progress> {
    pub(crate) fn of_progress(sink: Arc<dyn ProgressSink>) -> Result<Self, HeroldError> {
        // The last that is told is told also if the work is over by then.
        Self::start("herold-progress", 1, move |progress| drop(sink.progress(progress)))
            .map(Self::draining)
            .map_err(|_| HeroldError::internal("the callback's thread could not be started"))
    }
}

fn to_u64(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

impl Retention {
    fn into_herold(self) -> Result<herold::Retention, HeroldError> {
        Ok(herold::Retention {
            room_id: self.room_id.map(|id| input::room(&id)).transpose()?,
            lifetimes: self.lifetimes.map(Lifetimes::into_herold).unwrap_or_default(),
        })
    }
}

impl From<herold::Progress> for Progress {
    fn from(progress: herold::Progress) -> Self {
        Self { done: to_u64(progress.done), total: progress.total.map(to_u64) }
    }
}

impl From<herold::Imported> for Imported {
    fn from(imported: herold::Imported) -> Self {
        Self {
            fresh: to_u64(imported.new),
            known: to_u64(imported.known),
            refused: to_u64(imported.refused),
        }
    }
}

impl From<herold::BackupStatus> for BackupStatus {
    fn from(status: herold::BackupStatus) -> Self {
        Self {
            known: status.known,
            version: status.version,
            enabled: status.enabled,
            has_key: status.has_key,
            pending: to_u64(status.pending),
        }
    }
}

impl From<herold::Forgotten> for Forgotten {
    fn from(forgotten: herold::Forgotten) -> Self {
        Self {
            room_keys: forgotten.room_keys,
            ratcheted: forgotten.ratcheted,
            kept_for_backup: forgotten.kept_for_backup,
            events: forgotten.events,
            olm_sessions: forgotten.olm_sessions,
        }
    }
}

impl From<herold::SharedHistory> for SharedHistory {
    fn from(shared: herold::SharedHistory) -> Self {
        match shared {
            herold::SharedHistory::Keys(count) => Self::Keys { count: to_u64(count) },
            herold::SharedHistory::Closed => Self::Closed,
            herold::SharedHistory::NotSigned => Self::NotSigned,
            // What is new there and has no name here yet has shared nothing that is known of.
            _ => Self::Nothing,
        }
    }
}
