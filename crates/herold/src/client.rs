//! [`Client`]: a handle on one account.

use std::{
    fmt,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use herold_crypto::IdentityKeys;
use herold_machine::SyncReport;
use herold_store::{
    SnapshotExt,
    records::{KeyUploadRecord, Only},
};
use ruma::{OwnedDeviceId, OwnedUserId};
use tokio::sync::watch;

use crate::{
    ClientError,
    login::log_out,
    session::{Pulse, Session},
    sync,
    tasks::{self, detached},
};

/// A handle on one account. Clones are the same client.
///
/// Everything that must survive is in the store; a future that is dropped loses nothing. When the
/// last handle goes, the background tasks end and the store is closed; [`Client::close`] waits for it.
#[derive(Clone)]
pub struct Client {
    handle: Arc<Handle>,
}

/// What all clones hold; the tasks hold the session only.
struct Handle {
    session: Arc<Session>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.session.begin_close();
    }
}

/// Wakes whenever something has changed: see [`Client::changed`].
#[derive(Debug)]
pub struct Changes {
    pub(crate) pulse: watch::Receiver<Pulse>,
}

impl Changes {
    /// Waits until something has changed since the last call.
    ///
    /// # Errors
    /// [`ClientError::Closed`] when the client is closed.
    pub async fn wait(&mut self) -> Result<(), ClientError> {
        if !self.pulse.borrow().closed {
            self.pulse.changed().await.map_err(|_| ClientError::Closed)?;
        }
        if self.pulse.borrow_and_update().closed { Err(ClientError::Closed) } else { Ok(()) }
    }
}

impl Client {
    /// Starts the client of a session.
    pub(crate) fn start(session: Session) -> Self {
        let session = Arc::new(session);
        tasks::start_pump(&session);
        Self { handle: Arc::new(Handle { session }) }
    }

    pub(crate) fn session(&self) -> &Arc<Session> {
        &self.handle.session
    }

    /// The account's user.
    #[must_use]
    pub fn user_id(&self) -> OwnedUserId {
        self.session().user_id.clone()
    }

    /// The account's device.
    #[must_use]
    pub fn device_id(&self) -> OwnedDeviceId {
        self.session().device_id.clone()
    }

    /// The device's public identity keys.
    #[must_use]
    pub fn identity_keys(&self) -> IdentityKeys {
        self.session().identity_keys
    }

    /// The homeserver's base URL.
    #[must_use]
    pub fn homeserver(&self) -> String {
        self.session().homeserver.base_url.clone()
    }

    /// Starts to sync in the background; does nothing if it already does. The first round trip does
    /// not wait for news, later ones wait up to 30 seconds.
    ///
    /// # Errors
    /// [`ClientError::LoggedOut`], [`ClientError::Closed`].
    pub fn start_sync(&self) -> Result<(), ClientError> {
        tasks::start_sync(self.session())
    }

    /// Stops to sync in the background, and waits until it has. Requests still go out.
    pub async fn stop_sync(&self) {
        tasks::stop_sync(self.session()).await;
    }

    /// Makes exactly one sync round trip, processed and committed when it answers. A background sync
    /// that is waiting for news gives way. `timeout` is how long the homeserver may wait for news.
    ///
    /// # Errors
    /// [`ClientError::Matrix`], [`ClientError::Transport`]: nothing was lost, try again. Not retried
    /// by itself.
    pub async fn sync_once(&self, timeout: Duration) -> Result<SyncReport, ClientError> {
        let session = self.session();
        let turn = session.sync_turn.lock();
        tokio::pin!(turn);
        // In the line for the turn first: otherwise the background sync could take it again.
        let _turn = tokio::select! {
            biased;
            turn = &mut turn => turn,
            () = std::future::ready(()) => {
                session.sync_interrupt.notify_one();
                turn.await
            }
        };
        sync::round_trip(session, timeout).await.map_err(|failure| failure.error)
    }

    /// Waits until this process has synced once and the homeserver has accepted the device keys.
    ///
    /// # Errors
    /// [`ClientError::Timeout`], [`ClientError::LoggedOut`], [`ClientError::Closed`].
    pub async fn wait_ready(&self, timeout: Duration) -> Result<(), ClientError> {
        let is_ready = |session: &Session| {
            if session.is_logged_out() {
                return Err(ClientError::LoggedOut);
            }
            let uploads = session
                .read(|_, snapshot| Ok(snapshot.load::<KeyUploadRecord>(&Only)?))?
                .unwrap_or_default();
            let ready = session.synced.load(Ordering::Acquire) && uploads.device_keys_published;
            Ok(ready.then_some(()))
        };
        self.session().wait_until(timeout, is_ready).await
    }

    /// Wakes whenever anything the client can be asked about may have changed.
    #[must_use]
    pub fn changed(&self) -> Changes {
        self.session().changes()
    }

    /// Puts the client's own clock ahead. For tests.
    ///
    /// # Errors
    /// [`ClientError::Closed`].
    pub fn advance_clock(&self, span: Duration) -> Result<(), ClientError> {
        let session = self.session();
        session.with_idle_engine(|engine| engine.advance_clock(span)).ok_or(ClientError::Closed)?;
        session.wake_pump.notify_one();
        Ok(())
    }

    /// The server session is gone: what is stored can be read, but nothing sent.
    #[must_use]
    pub fn is_logged_out(&self) -> bool {
        self.session().is_logged_out()
    }

    /// Ends the session on the homeserver and stops to sync. The store can still be read; the access
    /// token is no longer in it. Once logged out, doing it again is no error.
    ///
    /// # Errors
    /// [`ClientError::Transport`] if the homeserver did not answer: the session may still be there, and
    /// the client goes on.
    pub async fn logout(&self) -> Result<(), ClientError> {
        detached(log_out(self.session().clone())).await
    }

    /// Stops everything and closes the store, for all clones. Doing it again is no error; whatever
    /// else is called afterwards is [`ClientError::Closed`].
    ///
    /// # Errors
    /// None so far.
    pub async fn close(&self) -> Result<(), ClientError> {
        let session = self.session().clone();
        detached(async move {
            tasks::close(&session).await;
            Ok(())
        })
        .await
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("user_id", &self.session().user_id)
            .field("device_id", &self.session().device_id)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
