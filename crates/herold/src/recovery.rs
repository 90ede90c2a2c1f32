//! Recovery: the user's identity, the key backup and the secret storage as one thing that an app switches on,
//! and opens on a new device.
//!
//! Each part is made before anything refers to it, and what was begun is gone on with: killed at any point and
//! called again, nothing is half made, and the recovery key is the same one. It is kept until the app says that its user has
//! it.

mod setup;
mod state;

use std::sync::Arc;

use herold_crypto::SecretString;
use herold_machine::{HttpRequest, Imported, Method};
use herold_store::records::{RecoveryChange, RecoveryStage};

pub(crate) use self::state::Watch;
pub use self::state::{
    EnableStep, Missing, RecoverStep, RecoverySecret, RecoveryState, RecoveryStates,
};
use self::{
    setup::{Order, own_list},
    state::{Running, Showing, missing_keys, missing_under, show},
};
use crate::{
    Authentication, Client, ClientError, Lengthy,
    account_data::AccountData,
    dehydration,
    homeserver::{RESPONSE_LIMIT, Retry},
    key_backup,
    progress::Report,
    secret_storage::SecretStorage,
    session::Session,
    tasks::detached,
};

/// What an app's user has to write down, and what was made.
#[derive(Debug)]
pub struct Recovery {
    /// Opens everything on a new device. Secret. It is kept until [`Client::confirm_recovery_key`].
    pub recovery_key: SecretString,
    /// The version of the key backup, in the homeserver's words, if there is one.
    pub backup_version: Option<String>,
    /// What other clients have put into the secret storage and is not under the new key: it could not be opened. It is
    /// still under the old one.
    pub left_behind: Vec<String>,
}

impl Client {
    /// Makes what is missing of an identity, a key backup and a secret storage, and a new recovery key. `passphrase` opens the
    /// secret storage too, if it is given. What was begun before, and did not come to its end, is gone on with.
    ///
    /// # Errors
    /// [`ClientError::Matrix`] with `M_FORBIDDEN` for a wrong password; [`ClientError::AuthenticationNeeded`] if the
    /// homeserver wants to be shown something else: nothing was made, call again with an answer to that;
    /// [`ClientError::IdentityExists`] if the user has an identity that this device does not have the keys of:
    /// recover, or reset. Whatever the error, calling again goes on.
    pub async fn enable_recovery(
        &self,
        authentication: impl Into<Authentication>,
        passphrase: Option<SecretString>,
    ) -> Result<Recovery, ClientError> {
        let (session, authentication) = (self.session().clone(), authentication.into());
        detached(async move {
            let order = Order { change: RecoveryChange::Enable, authentication, passphrase };
            setup::set_up(&session, order).await
        })
        .await
    }

    /// Replaces the identity, the key backup and the secret storage by new ones. Other devices and users have to verify
    /// anew, and what only the old backup had is lost to new devices.
    ///
    /// # Errors
    /// Those of [`Client::enable_recovery`].
    pub async fn reset_recovery(
        &self,
        authentication: impl Into<Authentication>,
        passphrase: Option<SecretString>,
    ) -> Result<Recovery, ClientError> {
        let (session, authentication) = (self.session().clone(), authentication.into());
        detached(async move {
            let order = Order { change: RecoveryChange::Reset, authentication, passphrase };
            setup::set_up(&session, order).await
        })
        .await
    }

    /// Gives the secret storage another key, with a passphrase or without. `current` is what opens it now: a recovery key or a
    /// passphrase. Everything that is under the old key is put under the new one before that becomes the default key,
    /// what other clients have put there included; then the old key opens nothing any more. Killed at any point, one
    /// of the two opens everything, and the same call goes on.
    ///
    /// A user who has lost the current key gets a new one from [`Client::enable_recovery`], on a device that has all
    /// secrets.
    ///
    /// # Errors
    /// Those of opening, as for [`Client::recover`]; [`ClientError::RecoveryInterrupted`] if something else was begun:
    /// go on with that first.
    pub async fn change_recovery_key(
        &self,
        current: SecretString,
        passphrase: Option<SecretString>,
    ) -> Result<Recovery, ClientError> {
        let session = self.session().clone();
        detached(async move { setup::change_key(&session, &current, passphrase).await }).await
    }

    /// The app's user has the recovery key: it is not kept any longer. Without that, the state stays
    /// [`RecoveryState::Unconfirmed`]. Once confirmed, doing it again is no error.
    ///
    /// # Errors
    /// [`ClientError::RecoveryInterrupted`] if what was begun has not come to its end; those of the store.
    pub fn confirm_recovery_key(&self) -> Result<(), ClientError> {
        let session = self.session();
        let begun = session.read(|machine, snapshot| machine.recovery_begun(snapshot))?;
        match begun {
            None => Ok(()),
            Some(begun) if begun.stage == RecoveryStage::Made => {
                session.step(|machine, snapshot, cx| machine.note_recovery(snapshot, cx, None))
            }
            Some(begun) => Err(ClientError::RecoveryInterrupted(begun.change)),
        }
    }

    /// Opens the secret storage with a recovery key or a passphrase, of the default key or another one: takes over the identity
    /// and the key backup, signs this device, and restores every room key. Answers what came out of the backup.
    ///
    /// # Errors
    /// [`ClientError::NoSecretStorage`]; [`ClientError::RecoveryKey`] for a text that is no recovery key,
    /// [`ClientError::WrongRecoveryKey`]; [`ClientError::SecretStorage`] if it was tampered with,
    /// [`ClientError::SecretRefused`] if a secret is not the private half of the published key: nothing of that
    /// secret was taken. [`ClientError::RecoveryIncomplete`] says what the homeserver does not have, or hides.
    /// Whatever the error, what was there and right has been taken, and its room keys restored.
    pub fn recover(&self, typed: SecretString) -> Lengthy<Imported> {
        let session = self.session().clone();
        Lengthy::new(|report| detached(async move { recover(&session, &typed, report).await }))
    }

    /// How things stand. Asks the homeserver if that has not been done.
    ///
    /// # Errors
    /// [`ClientError::Matrix`], [`ClientError::Transport`], those of the store.
    pub async fn recovery_state(&self) -> Result<RecoveryState, ClientError> {
        state::current(self.session()).await
    }

    /// How things stand, now and whenever that changes.
    #[must_use]
    pub fn recovery_states(&self) -> RecoveryStates {
        RecoveryStates::new(self.session())
    }
}

async fn recover(
    session: &Arc<Session>,
    typed: &SecretString,
    mut report: Report,
) -> Result<Imported, ClientError> {
    let _turn = session.recovery.turn.lock().await;
    let showing = Showing::new(session, Running::Recovering(RecoverStep::Opening));
    let data = AccountData::fetch(session).await?;
    let storage = SecretStorage::open(&data, typed).await?;
    showing.set(Running::Recovering(RecoverStep::Identity));
    own_list(session).await?;
    // What is wrong with one secret keeps nobody from the others.
    let mut wrong = None;
    for secret in RecoverySecret::ALL {
        if secret == RecoverySecret::BackupKey {
            continue;
        }
        if let Err(error) = take_key(session, &storage, &data, secret) {
            wrong.get_or_insert(error);
        }
    }
    own_list(session).await?;
    let progress = Default::default();
    showing.set(Running::Recovering(RecoverStep::Backup { progress }));
    let backup = match take_backup(session, &storage, &data).await {
        Ok(backup) => backup,
        Err(error @ (ClientError::SecretRefused(_) | ClientError::SecretStorage(_))) => {
            wrong.get_or_insert(error);
            Backup::Locked
        }
        Err(error) => return Err(error),
    };
    let mut restored = None;
    if backup == Backup::Open {
        let shown = session.clone();
        let report = move |progress| {
            show(&shown, Some(Running::Recovering(RecoverStep::Backup { progress })));
            report(progress);
        };
        restored = Some(key_backup::restore(session, Box::new(report)).await?);
    }
    dehydration::recovered(session, &storage, &data).await;
    if let Some(wrong) = wrong {
        return Err(wrong);
    }
    let mut here = missing_keys(session)?;
    here.extend((backup == Backup::Locked).then_some(RecoverySecret::BackupKey));
    let stored = missing_under(&data, storage.key_id());
    let missing = Missing { here, stored, backup: backup == Backup::Absent };
    match restored {
        Some(restored) if missing.is_empty() => Ok(restored),
        restored => Err(ClientError::RecoveryIncomplete { missing, restored }),
    }
}

/// Takes over one private key of the identity, if it is there.
fn take_key(
    session: &Session,
    storage: &SecretStorage,
    data: &AccountData,
    secret: RecoverySecret,
) -> Result<(), ClientError> {
    let name = secret.name();
    let Some(key) = storage.read(data, name)? else { return Ok(()) };
    let taken = session
        .step(|machine, snapshot, cx| machine.import_identity_key(snapshot, cx, name, &key))?;
    if taken { Ok(()) } else { Err(ClientError::SecretRefused(name)) }
}

/// What there is of a key backup.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Backup {
    /// The homeserver shows none.
    Absent,
    /// Its private key is not here.
    Locked,
    /// It can be restored from.
    Open,
}

/// Takes over the key backup, if it is there.
async fn take_backup(
    session: &Session,
    storage: &SecretStorage,
    data: &AccountData,
) -> Result<Backup, ClientError> {
    let Some(version) = backup_version(session).await? else { return Ok(Backup::Absent) };
    let status = session.read(|machine, snapshot| machine.backup_status(snapshot))?;
    let Some(secret) = storage.read(data, key_backup::SECRET)? else {
        return Ok(if status.enabled && status.has_key { Backup::Open } else { Backup::Locked });
    };
    let taken = session
        .step(|machine, snapshot, cx| machine.import_backup_key(snapshot, cx, &secret, &version))?;
    if taken { Ok(Backup::Open) } else { Err(ClientError::SecretRefused(key_backup::SECRET)) }
}

/// The homeserver's key backup: the body of `GET /room_keys/version`.
async fn backup_version(session: &Session) -> Result<Option<Vec<u8>>, ClientError> {
    let request = HttpRequest::new(Method::Get, "/_matrix/client/v3/room_keys", &["version"]);
    let response = session.call_raw(request, Retry::Always, RESPONSE_LIMIT).await?;
    if response.status == 404 {
        return Ok(None);
    }
    session.success(response).map(Some)
}
