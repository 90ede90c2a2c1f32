//! [`ClientBuilder`]: from settings to a [`Client`].

use std::{path::PathBuf, sync::Arc};

use herold_crypto::{Entropy, SecretString};
use herold_store::Store;
use herold_store_sqlite::StoreKey;

use crate::{Client, ClientError, Clock, Deployment, Transport};

/// Collects what a [`Client`] needs, then logs in or resumes.
#[derive(Default)]
#[must_use]
pub struct ClientBuilder {
    deployment: Deployment,
    store_path: Option<PathBuf>,
    store_key: Option<StoreKey>,
    store: Option<Box<dyn Store + Send>>,
    transport: Option<Arc<dyn Transport>>,
    homeserver: Option<String>,
    allow_insecure_http: bool,
    clock: Option<Arc<dyn Clock>>,
    entropy: Option<Box<dyn Entropy + Send>>,
}

impl ClientBuilder {
    /// A builder with the default deployment and nothing else.
    pub fn new() -> Self {
        Self::default()
    }

    /// The brand's settings.
    pub fn deployment(mut self, deployment: Deployment) -> Self {
        self.deployment = deployment;
        self
    }

    /// The store's file. It is made if it is not there.
    pub fn store_path(mut self, path: impl Into<PathBuf>) -> Self {
        self.store_path = Some(path.into());
        self
    }

    /// The key that opens the store's file. Secret.
    pub fn store_key(mut self, key: StoreKey) -> Self {
        self.store_key = Some(key);
        self
    }

    /// Keeps everything in memory: gone with the client.
    pub fn memory_store(self) -> Self {
        self.store(Box::new(herold_store::MemoryStore::new()))
    }

    /// A store of the caller's own.
    pub fn store(mut self, store: Box<dyn Store + Send>) -> Self {
        self.store = Some(store);
        self
    }

    /// A transport of the caller's own.
    pub fn transport(mut self, transport: Arc<dyn Transport>) -> Self {
        self.transport = Some(transport);
        self
    }

    /// The homeserver's base URL, such as `https://matrix.example.org`. A deployment that fixes one
    /// refuses any other. Not needed for [`ClientBuilder::resume`]: the store knows it.
    pub fn homeserver(mut self, url: &str) -> Self {
        self.homeserver = Some(url.to_owned());
        self
    }

    /// Allows plain HTTP to hosts other than this machine: everybody on the way sees the access token
    /// then. Concerns the default transport only.
    pub fn allow_insecure_http(mut self, allow: bool) -> Self {
        self.allow_insecure_http = allow;
        self
    }

    /// Another clock than the system's.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = Some(clock);
        self
    }

    /// Another source of randomness than the operating system's, for transaction ids and jitter.
    pub fn entropy(mut self, entropy: Box<dyn Entropy + Send>) -> Self {
        self.entropy = Some(entropy);
        self
    }

    /// Logs in with a password and makes the account. `user` is a full user id or its local part;
    /// `device_name` is what other users see, the deployment's name by default.
    ///
    /// The account is made only after the homeserver has answered. The device keys go out in the
    /// background: see [`Client::wait_ready`]. Must be called on a tokio runtime.
    ///
    /// # Errors
    /// [`ClientError::AlreadyLoggedIn`] if the store has an account; [`ClientError::PolicyDenied`] if
    /// the deployment fixes another homeserver; [`ClientError::Matrix`] with `M_FORBIDDEN` for a wrong
    /// password; those of store and transport.
    pub async fn login(
        self,
        user: &str,
        password: SecretString,
        device_name: Option<&str>,
    ) -> Result<Client, ClientError> {
        let _ = (user, password, device_name);
        Err(ClientError::Unsupported("in progress"))
    }

    /// Opens the account that is in the store, with no network. Must be called on a tokio runtime.
    ///
    /// # Errors
    /// [`ClientError::NotLoggedIn`] if there is no account; [`ClientError::WrongDeployment`] if another
    /// deployment made it; [`ClientError::Store`] if it does not open.
    pub async fn resume(self) -> Result<Client, ClientError> {
        Err(ClientError::Unsupported("in progress"))
    }
}
