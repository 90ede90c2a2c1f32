//! The user's dehydrated device (MSC3814): a mailbox on the homeserver that takes room keys while none of the user's devices
//! is there.
//!
//! Making, replacing and reading it are the machine's, and go on by themselves once they were begun; what is here is its key
//! in secret storage, and waiting.

use std::{sync::Arc, time::Duration};

use herold_crypto::SecretString;
use herold_machine::DehydrationStatus;
use herold_store::records::RehydrationOutcome;

use crate::{
    Client, ClientError, Lengthy, Progress, account_data::AccountData, progress::Report,
    secret_storage::SecretStorage, session::Session, tasks::detached,
};

/// The name of the key in secret storage.
const SECRET: &str = "org.matrix.msc3814";
/// How long it is waited for that something has happened since the last time: what was begun goes on after that.
const PATIENCE: Duration = Duration::from_secs(30);

/// What has come out of a dehydrated device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rehydrated {
    /// So many to-device events were read.
    pub events: u64,
    /// So many room keys were new.
    pub room_keys: u64,
}

impl Client {
    /// Has the user keep a dehydrated device: what is said while none of the user's devices is there can be read on the
    /// next one, after [`Client::recover`]. What was sent to the one that is there now is taken first, and answered. This
    /// device replaces it once a week, over restarts, until [`Client::stop_dehydration`].
    ///
    /// `typed` is the recovery key or the passphrase of the secret storage, where its key is kept; it can be left out if the
    /// key is on this device and in the secret storage already.
    ///
    /// # Errors
    /// [`ClientError::PolicyDenied`]; [`ClientError::NotVerified`] if this device does not have the user's identity: recover
    /// first; [`ClientError::NoDehydrationKey`] if `typed` is needed; those of [`Client::recover`] for a wrong one;
    /// [`ClientError::Unsupported`] if the homeserver does not know such devices; [`ClientError::Timeout`]: it goes on.
    /// A device that could not be opened is replaced all the same, and no error.
    pub fn start_dehydration(&self, typed: Option<SecretString>) -> Lengthy<Option<Rehydrated>> {
        let session = self.session().clone();
        Lengthy::new(|report| {
            detached(async move { start(&session, typed.as_ref(), report).await })
        })
    }

    /// Takes the room keys that were sent to the user's dehydrated device, if there is one. [`Client::recover`] does it by
    /// itself; it is needed after a verification by another device, which gives this one the key. A new dehydrated device
    /// takes the place of the one that was read, and this device keeps it.
    ///
    /// # Errors
    /// [`ClientError::PolicyDenied`]; [`ClientError::NotVerified`], [`ClientError::NoDehydrationKey`]: recover or verify first;
    /// [`ClientError::DehydratedDevice`] if it is not ours, or not to be read: nothing of it was taken, or what was
    /// taken until then stays; [`ClientError::Unsupported`]; [`ClientError::Timeout`]: it goes on.
    pub fn rehydrate(&self) -> Lengthy<Option<Rehydrated>> {
        let session = self.session().clone();
        Lengthy::new(|report| detached(async move { rehydrate(&session, report).await }))
    }

    /// Removes the user's dehydrated device, with what was sent to it, and makes no new one.
    ///
    /// # Errors
    /// [`ClientError::Timeout`]: it goes on; those of the store.
    pub async fn stop_dehydration(&self) -> Result<(), ClientError> {
        let session = self.session();
        session.step(|machine, snapshot, cx| machine.stop_dehydration(snapshot, cx))?;
        finish(session, |status| !status.busy, Box::new(|_| ())).await.map(drop)
    }

    /// How things stand with the dehydrated device.
    ///
    /// # Errors
    /// Those of the store.
    pub fn dehydration_status(&self) -> Result<DehydrationStatus, ClientError> {
        self.session().read(|machine, snapshot| machine.dehydration(snapshot))
    }
}

fn is_allowed(session: &Session) -> Result<(), ClientError> {
    let allowed = session.read(|machine, _| Ok(machine.policy().dehydration))?;
    if allowed && session.deployment_policy.dehydration {
        Ok(())
    } else {
        Err(ClientError::PolicyDenied)
    }
}

async fn start(
    session: &Arc<Session>,
    typed: Option<&SecretString>,
    report: Report,
) -> Result<Option<Rehydrated>, ClientError> {
    is_allowed(session)?;
    match typed {
        Some(typed) => {
            let data = AccountData::fetch(session).await?;
            let storage = SecretStorage::open(&data, typed).await?;
            match storage.read(&data, SECRET)? {
                Some(secret) => import(session, &secret)?,
                None => {
                    let key = session
                        .step(|machine, snapshot, cx| machine.make_dehydration_key(snapshot, cx))?;
                    storage.add(session, SECRET, &key).await?;
                }
            }
        }
        // A device whose key is nowhere else could never be opened.
        None if !AccountData::fetch(session).await?.is_under_default_key(SECRET) => {
            return Err(ClientError::NoDehydrationKey);
        }
        None => {}
    }
    let reads = session.step(|machine, snapshot, cx| machine.start_dehydration(snapshot, cx))?;
    let status = finish(session, |status| !status.busy, report).await?;
    match status.outcome {
        Some(RehydrationOutcome::Unsupported) if !status.enabled => Err(unsupported()),
        Some(RehydrationOutcome::Done) if reads => Ok(Some(rehydrated(&status))),
        _ => Ok(None),
    }
}

fn import(session: &Session, secret: &SecretString) -> Result<(), ClientError> {
    let taken = session
        .step(|machine, snapshot, cx| machine.import_dehydration_key(snapshot, cx, secret))?;
    if taken { Ok(()) } else { Err(ClientError::SecretRefused(SECRET)) }
}

async fn rehydrate(
    session: &Arc<Session>,
    report: Report,
) -> Result<Option<Rehydrated>, ClientError> {
    is_allowed(session)?;
    session.step(|machine, snapshot, cx| machine.rehydrate(snapshot, cx))?;
    let status = finish(session, |status| status.outcome.is_some(), report).await?;
    match status.outcome {
        Some(RehydrationOutcome::Done) => Ok(Some(rehydrated(&status))),
        Some(RehydrationOutcome::Refused(reason)) => Err(ClientError::DehydratedDevice(reason)),
        Some(RehydrationOutcome::Unsupported) => Err(unsupported()),
        _ => Ok(None),
    }
}

/// The secret storage was opened on this device, whose identity is known to be the user's: whatever was sent to the dehydrated
/// device is taken. It is no failure of the recovery if there is none, or it cannot be.
pub(crate) async fn recovered(session: &Arc<Session>, storage: &SecretStorage, data: &AccountData) {
    let taken = async {
        is_allowed(session)?;
        let Some(secret) = storage.read(data, SECRET)? else { return Ok(None) };
        import(session, &secret)?;
        rehydrate(session, Box::new(|_| ())).await
    };
    match taken.await {
        Ok(None) => {}
        Ok(Some(taken)) => tracing::info!(taken.room_keys, "the dehydrated device was read"),
        Err(error) => tracing::warn!(%error, "the dehydrated device was not read"),
    }
}

/// Another secret storage is about to be the one that new devices open: the key goes with it. If `renew`, a new one: whoever
/// knows the old one, with everything else that is replaced, is not to read what is sent from now on.
pub(crate) async fn keep_key(
    session: &Session,
    storage: &SecretStorage,
    renew: bool,
) -> Result<(), ClientError> {
    if renew {
        session.step(|machine, snapshot, cx| machine.renew_dehydration_key(snapshot, cx))?;
    }
    match session.read(|machine, snapshot| machine.secret(snapshot, SECRET))? {
        Some(secret) => storage.add(session, SECRET, &secret).await,
        None => Ok(()),
    }
}

/// Waits until it is `done`, as long as it gets on.
async fn finish(
    session: &Session,
    done: fn(&DehydrationStatus) -> bool,
    mut report: Report,
) -> Result<DehydrationStatus, ClientError> {
    let mut seen = 0;
    loop {
        let news = |session: &Session| {
            let status = session.read(|machine, snapshot| machine.dehydration(snapshot))?;
            Ok((done(&status) || status.events != seen).then_some(status))
        };
        let status = session.wait_until(PATIENCE, news).await?;
        if done(&status) {
            return Ok(status);
        }
        seen = status.events;
        let keys = usize::try_from(status.room_keys).unwrap_or(usize::MAX);
        report(Progress { done: keys, total: None });
    }
}

fn rehydrated(status: &DehydrationStatus) -> Rehydrated {
    Rehydrated { events: status.events, room_keys: status.room_keys }
}

fn unsupported() -> ClientError {
    ClientError::Unsupported("dehydrated devices: the homeserver does not know them")
}
