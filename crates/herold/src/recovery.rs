//! Recovery: the user's identity, the key backup and the secret storage as one thing that an app switches on,
//! and opens on a new device.
//!
//! Each part is made before anything refers to it, and what was begun is gone on with: killed at any point and
//! called again, nothing is half made.

use std::{sync::Arc, time::Duration};

use herold_crypto::SecretString;
use herold_machine::{HttpRequest, Imported, Method};
use serde_json::Value;

use crate::{
    Client, ClientError, Lengthy, authenticate, dehydration,
    homeserver::{RESPONSE_LIMIT, Retry},
    key_backup,
    progress::Report,
    secret_storage::{self, SecretStorage},
    session::Session,
    tasks::detached,
};

/// The private keys of the own identity, by their names in secret storage.
const IDENTITY_SECRETS: [&str; 3] =
    ["m.cross_signing.master", "m.cross_signing.self_signing", "m.cross_signing.user_signing"];
/// How long the own device list is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// What an app's user has to write down, and what was made.
#[derive(Debug)]
pub struct Recovery {
    /// Opens everything on a new device. Secret; kept nowhere.
    pub recovery_key: SecretString,
    /// The version of the key backup, in the homeserver's words.
    pub backup_version: String,
}

/// How things stand: what an app draws its screen from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecoveryState {
    /// Nothing is set up: offer [`Client::enable_recovery`].
    Disabled,
    /// This device has all it needs, and so will the next one.
    Enabled,
    /// It is set up, and this device lacks something of it: offer [`Client::recover`] or a verification.
    Incomplete,
}

impl Client {
    /// Makes what is missing of an identity, a key backup and a secret storage, and a new recovery key. `passphrase` opens the
    /// secret storage too, if it is given.
    ///
    /// # Errors
    /// [`ClientError::Matrix`] with `M_FORBIDDEN` for a wrong password; [`ClientError::Unsupported`] if the
    /// homeserver wants another kind of authentication; [`ClientError::IdentityExists`] if the user has an identity
    /// that this device does not have the keys of: recover, or reset.
    pub async fn enable_recovery(
        &self,
        password: SecretString,
        passphrase: Option<SecretString>,
    ) -> Result<Recovery, ClientError> {
        let session = self.session().clone();
        detached(async move { enable(&session, &password, passphrase.as_ref(), false).await }).await
    }

    /// Replaces the identity, the key backup and the secret storage by new ones. Other devices and users have to verify
    /// anew, and what only the old backup had is lost to new devices.
    ///
    /// # Errors
    /// Those of [`Client::enable_recovery`].
    pub async fn reset_recovery(
        &self,
        password: SecretString,
        passphrase: Option<SecretString>,
    ) -> Result<Recovery, ClientError> {
        let session = self.session().clone();
        detached(async move { enable(&session, &password, passphrase.as_ref(), true).await }).await
    }

    /// Opens the secret storage with a recovery key or a passphrase: takes over the identity and the key backup, signs this
    /// device, and restores every room key. Answers what came out of the backup; `None` if there is no backup.
    ///
    /// # Errors
    /// [`ClientError::NoSecretStorage`]; [`ClientError::RecoveryKey`] for a text that is no recovery key,
    /// [`ClientError::WrongRecoveryKey`]; [`ClientError::SecretStorage`] if it was tampered with,
    /// [`ClientError::SecretRefused`] if a secret is not the private half of the published key: nothing of that
    /// secret was taken.
    pub fn recover(&self, typed: SecretString) -> Lengthy<Option<Imported>> {
        let session = self.session().clone();
        Lengthy::new(|report| detached(async move { recover(&session, &typed, report).await }))
    }

    /// How things stand.
    ///
    /// # Errors
    /// [`ClientError::Matrix`], [`ClientError::Transport`], those of the store.
    pub async fn recovery_state(&self) -> Result<RecoveryState, ClientError> {
        let session = self.session();
        if !secret_storage::exists(session).await? {
            return Ok(RecoveryState::Disabled);
        }
        let keys = session.read(|machine, snapshot| machine.identity_keys_here(snapshot))?;
        let backup = session.read(|machine, snapshot| machine.backup_status(snapshot))?;
        let complete = keys == [true; 3] && backup.enabled && backup.has_key;
        Ok(if complete { RecoveryState::Enabled } else { RecoveryState::Incomplete })
    }
}

async fn enable(
    session: &Arc<Session>,
    password: &SecretString,
    passphrase: Option<&SecretString>,
    replace: bool,
) -> Result<Recovery, ClientError> {
    own_list(session).await?;
    make_identity(session, password, replace).await?;
    let backup_version = make_backup(session, replace).await?;
    let storage = SecretStorage::create(session, passphrase).await?;
    for name in IDENTITY_SECRETS.into_iter().chain([key_backup::SECRET]) {
        let secret = session.read(|machine, snapshot| machine.secret(snapshot, name))?;
        let secret = secret.ok_or(ClientError::Internal("a secret that was made is gone"))?;
        storage.write(session, name, &secret).await?;
    }
    storage.make_default(session).await?;
    Ok(Recovery { recovery_key: storage.recovery_key(), backup_version })
}

/// Waits until the own devices and the own identity are known as they are now.
async fn own_list(session: &Arc<Session>) -> Result<(), ClientError> {
    let user = session.user_id.clone();
    session.step(|machine, snapshot, cx| machine.refresh_devices(snapshot, cx, &user))?;
    let fresh = |session: &Session| {
        let known = session.read(|machine, snapshot| machine.devices(snapshot, &user))?;
        Ok(Some(()).filter(|()| !known.outdated))
    };
    session.wait_until(PATIENCE, fresh).await
}

async fn make_identity(
    session: &Arc<Session>,
    password: &SecretString,
    replace: bool,
) -> Result<(), ClientError> {
    let user = session.user_id.clone();
    let known = session.read(|machine, snapshot| machine.devices(snapshot, &user))?;
    let here = session.read(|machine, snapshot| machine.identity_keys_here(snapshot))?;
    let begun = session.read(|machine, snapshot| machine.identity_is_prepared(snapshot))?;
    if known.identity.is_some() && here != [true; 3] && !replace && !begun {
        return Err(ClientError::IdentityExists);
    }
    let body =
        session.step(|machine, snapshot, cx| machine.prepare_identity(snapshot, cx, replace))?;
    let Some(body) = body else { return Ok(()) };
    let body: Value = serde_json::from_str(&body)
        .map_err(|_| ClientError::Internal("the identity's keys are no JSON"))?;
    let request = |auth: Option<Value>| {
        let mut body = body.clone();
        if let (Some(auth), Some(object)) = (auth, body.as_object_mut()) {
            object.insert("auth".to_owned(), auth);
        }
        let segments = ["device_signing", "upload"];
        HttpRequest::new(Method::Post, "/_matrix/client/v3/keys", &segments).json(body.to_string())
    };
    authenticate::with_password(session, password, request).await?;
    session.step(|machine, snapshot, cx| machine.identity_published(snapshot, cx))?;
    // The own device's signature goes by itself; who is told that all is done should find it there.
    own_list(session).await
}

/// Makes a key backup unless there is one in use whose key is here.
async fn make_backup(session: &Arc<Session>, replace: bool) -> Result<String, ClientError> {
    let status = session.read(|machine, snapshot| machine.backup_status(snapshot))?;
    if let (false, true, true, Some(version)) =
        (replace, status.enabled, status.has_key, status.version)
    {
        return Ok(version);
    }
    let body = session.step(|machine, snapshot, cx| machine.prepare_backup(snapshot, cx))?;
    let request = HttpRequest::new(Method::Post, "/_matrix/client/v3/room_keys", &["version"]);
    // A second version is no harm, one that nobody was told of neither.
    let body = session.call(request.json(body), Retry::Always).await?;
    #[derive(serde::Deserialize)]
    struct Created {
        version: String,
    }
    let created: Created = serde_json::from_slice(&body)
        .map_err(|_| ClientError::BadResponse("a new key backup without a version"))?;
    let version = created.version;
    session.step(|machine, snapshot, cx| machine.backup_created(snapshot, cx, &version))?;
    Ok(version)
}

async fn recover(
    session: &Arc<Session>,
    typed: &SecretString,
    report: Report,
) -> Result<Option<Imported>, ClientError> {
    let storage = SecretStorage::open(session, typed).await?;
    own_list(session).await?;
    for name in IDENTITY_SECRETS {
        let Some(secret) = storage.read(session, name).await? else { continue };
        let taken = session.step(|machine, snapshot, cx| {
            machine.import_identity_key(snapshot, cx, name, &secret)
        })?;
        if !taken {
            return Err(ClientError::SecretRefused(name));
        }
    }
    own_list(session).await?;
    dehydration::recovered(session, &storage).await;
    let Some(secret) = storage.read(session, key_backup::SECRET).await? else { return Ok(None) };
    let request = HttpRequest::new(Method::Get, "/_matrix/client/v3/room_keys", &["version"]);
    let response = session.call_raw(request, Retry::Always, RESPONSE_LIMIT).await?;
    if response.status == 404 {
        return Ok(None);
    }
    let version = session.success(response)?;
    let taken = session
        .step(|machine, snapshot, cx| machine.import_backup_key(snapshot, cx, &secret, &version))?;
    if !taken {
        return Err(ClientError::SecretRefused(key_backup::SECRET));
    }
    key_backup::restore(session, report).await.map(Some)
}
