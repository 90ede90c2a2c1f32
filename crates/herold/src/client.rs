//! [`Client`]: a handle on one account.

use std::{sync::Arc, time::Duration};

use herold_crypto::IdentityKeys;
use herold_machine::SyncReport;
use ruma::{OwnedDeviceId, OwnedUserId};

use crate::{ClientError, session::Session};

/// A handle on one account. Clones are the same client.
///
/// Everything that must survive is in the store; a future that is dropped loses nothing. When the
/// last handle goes, the background tasks end and the store is closed; [`Client::close`] waits for it.
#[derive(Clone)]
pub struct Client {
    pub(crate) session: Arc<Session>,
}

/// Wakes whenever something has changed: see [`Client::changed`].
pub struct Changes {
    pub(crate) receiver: tokio::sync::watch::Receiver<u64>,
}

impl Changes {
    /// Waits until something has changed since the last call.
    ///
    /// # Errors
    /// [`ClientError::Closed`] when the client is closed.
    pub async fn wait(&mut self) -> Result<(), ClientError> {
        self.receiver.changed().await.map_err(|_| ClientError::Closed)
    }
}

impl Client {
    /// The account's user.
    #[must_use]
    pub fn user_id(&self) -> OwnedUserId {
        self.session.user_id.clone()
    }

    /// The account's device.
    #[must_use]
    pub fn device_id(&self) -> OwnedDeviceId {
        self.session.device_id.clone()
    }

    /// The device's public identity keys.
    #[must_use]
    pub fn identity_keys(&self) -> IdentityKeys {
        self.session.identity_keys
    }

    /// The homeserver's base URL.
    #[must_use]
    pub fn homeserver(&self) -> String {
        self.session.homeserver.clone()
    }

    /// Starts to sync in the background; does nothing if it already does.
    ///
    /// # Errors
    /// [`ClientError::LoggedOut`], [`ClientError::Closed`].
    pub fn start_sync(&self) -> Result<(), ClientError> {
        Err(ClientError::Unsupported("in progress"))
    }

    /// Stops to sync in the background, and waits until it has. Requests still go out.
    pub async fn stop_sync(&self) {}

    /// Makes exactly one sync round trip, processed and committed when it answers. A background sync
    /// that is waiting for news gives way. `timeout` is how long the homeserver may wait for news.
    ///
    /// # Errors
    /// [`ClientError::Matrix`], [`ClientError::Transport`]: nothing was lost, try again. Not retried.
    pub async fn sync_once(&self, timeout: Duration) -> Result<SyncReport, ClientError> {
        let _ = timeout;
        Err(ClientError::Unsupported("in progress"))
    }

    /// Waits until this process has synced once and the homeserver has accepted the device keys.
    ///
    /// # Errors
    /// [`ClientError::Timeout`], [`ClientError::LoggedOut`], [`ClientError::Closed`].
    pub async fn wait_ready(&self, timeout: Duration) -> Result<(), ClientError> {
        let _ = timeout;
        Err(ClientError::Unsupported("in progress"))
    }

    /// Wakes whenever anything the client can be asked about may have changed.
    #[must_use]
    pub fn changed(&self) -> Changes {
        Changes { receiver: self.session.changed.subscribe() }
    }

    /// Puts the client's own clock ahead. For tests.
    ///
    /// # Errors
    /// [`ClientError::Closed`].
    pub fn advance_clock(&self, span: Duration) -> Result<(), ClientError> {
        let _ = span;
        Err(ClientError::Unsupported("in progress"))
    }

    /// The server session is gone.
    #[must_use]
    pub fn is_logged_out(&self) -> bool {
        false
    }

    /// Ends the session on the homeserver and stops to sync. The store can still be read; the access
    /// token is no longer in it.
    ///
    /// # Errors
    /// [`ClientError::Transport`] if the homeserver did not answer: the session may still be there.
    pub async fn logout(&self) -> Result<(), ClientError> {
        Err(ClientError::Unsupported("in progress"))
    }

    /// Stops everything and closes the store, for all clones. Doing it again is no error; whatever
    /// else is called afterwards is [`ClientError::Closed`].
    ///
    /// # Errors
    /// None so far.
    pub async fn close(&self) -> Result<(), ClientError> {
        Err(ClientError::Unsupported("in progress"))
    }
}
