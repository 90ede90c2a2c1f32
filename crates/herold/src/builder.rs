//! [`ClientBuilder`]: from settings to a [`Client`].

use std::{fmt, path::PathBuf, sync::Arc};

use herold_crypto::{Entropy, SecretString};
use herold_machine::SyncMode;
use herold_store::{Store, StoreError};
use herold_store_sqlite::{RollbackGuard, SqliteStore, StoreKey, StoreOptions};

use crate::{
    Client, ClientError, Clock, Deployment, Engine, HttpOptions, HttpTransport, OsEntropy,
    SystemClock, Transport,
    homeserver::Homeserver,
    login::{Credentials, Setup, log_in},
    session::Session,
    tasks::{blocking, detached},
};

/// Collects what a [`Client`] needs, then logs in or resumes.
#[derive(Default)]
#[must_use]
pub struct ClientBuilder {
    deployment: Deployment,
    store_path: Option<PathBuf>,
    store_key: Option<StoreKey>,
    store_options: StoreOptions,
    shared: Option<bool>,
    store: Option<Box<dyn Store + Send>>,
    transport: Option<Arc<dyn Transport>>,
    homeserver: Option<String>,
    allow_insecure_http: bool,
    clock: Option<Arc<dyn Clock>>,
    entropy: Option<Box<dyn Entropy + Send>>,
    sync_mode: Option<SyncMode>,
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

    /// The store's directory. [`ClientBuilder::login`] makes it if there is nothing.
    pub fn store_path(mut self, path: impl Into<PathBuf>) -> Self {
        self.store_path = Some(path.into());
        self
    }

    /// The key that opens the store. Secret.
    pub fn store_key(mut self, key: StoreKey) -> Self {
        self.store_key = Some(key);
        self
    }

    /// How the store is opened: the label others see when it is locked, what a passphrase costs.
    pub fn store_options(mut self, options: StoreOptions) -> Self {
        self.store_options = options;
        self
    }

    /// Other processes use the same store: an app and its notification process, for instance. All of them set it. Each
    /// holds the store only while it works, and learns what the others have changed; either can be killed at any time.
    /// Off by default: a process alone keeps the store, and its commits cost a little less. Concerns a store in a
    /// directory, and sets [`StoreOptions::shared`].
    ///
    /// Events for the app are one list: what any process has acknowledged comes to none any more.
    pub fn shared_store(mut self, shared: bool) -> Self {
        self.shared = Some(shared);
        self
    }

    /// Notices when the store's whole directory was put back to an earlier state, on hosts with secure hardware:
    /// then [`ClientBuilder::resume`] fails with [`StoreError::RolledBack`].
    pub fn rollback_guard(mut self, guard: Arc<dyn RollbackGuard>) -> Self {
        self.store_options.rollback_guard = Some(guard);
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

    /// By which endpoint the client synchronises: sync v2 by default. The store remembers the choice;
    /// [`ClientBuilder::resume`] goes on the same way unless told otherwise, and either way nothing is lost. A
    /// homeserver without sliding sync answers `M_UNRECOGNIZED` to each round trip.
    pub fn sync_mode(mut self, mode: SyncMode) -> Self {
        self.sync_mode = Some(mode);
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
        mut self,
        user: &str,
        password: SecretString,
        device_name: Option<&str>,
    ) -> Result<Client, ClientError> {
        let homeserver = self.login_homeserver()?;
        let homeserver = self.reach(homeserver)?;
        let device_name = device_name.unwrap_or(&self.deployment.device_display_name).to_owned();
        let credentials = Credentials { user: user.to_owned(), password, device_name };
        detached(
            async move { log_in(self.setup(Purpose::Make).await?, homeserver, credentials).await },
        )
        .await
    }

    /// Opens the account that is in the store, with no network, and makes nothing. Must be called on a
    /// tokio runtime.
    ///
    /// # Errors
    /// [`ClientError::NotLoggedIn`] if there is no account; [`ClientError::WrongDeployment`] if another
    /// deployment made it; [`ClientError::Store`] if it does not open.
    pub async fn resume(mut self) -> Result<Client, ClientError> {
        let setup = match self.setup(Purpose::Find).await {
            Err(ClientError::Store(StoreError::NotFound)) => return Err(ClientError::NotLoggedIn),
            setup => setup?,
        };
        let mut engine = Engine::load(setup.store, setup.clock, setup.entropy)?;
        let login = engine
            .read(|machine, snapshot| machine.login(snapshot))?
            .ok_or(ClientError::NotLoggedIn)?;
        if login.deployment != setup.deployment.name {
            return Err(ClientError::WrongDeployment);
        }
        // A deployment may have become stricter since the account was made.
        let policy = &setup.deployment.policy;
        engine.step(|machine, snapshot, cx| machine.raise_floor(snapshot, cx, policy))?;
        if let Some(mode) = setup.sync_mode {
            engine.step(|machine, snapshot, cx| machine.set_sync_mode(snapshot, cx, mode))?;
        }
        let base_url = match (&setup.deployment.homeserver, &self.homeserver) {
            (Some(fixed), _) => normal_url(fixed)?,
            (None, Some(given)) => normal_url(given)?,
            (None, None) => login.homeserver.clone(),
        };
        let homeserver = self.reach(base_url)?;
        Ok(Client::start(Session::new(engine, &login, homeserver, setup.deployment.policy)))
    }

    /// Encrypts the store anew, every byte of it, with nobody logged in or out: from now on `new` opens it and the old
    /// key opens nothing that is written. Takes a store path and its key. As [`SqliteStore::rekey`]; whenever it is
    /// cut short, the store is whole under one of the two keys. A client of another process that shares the store gets
    /// [`StoreError::WrongKey`] from then on, and has to be made anew with `new`. Must be called on a tokio runtime.
    ///
    /// # Errors
    /// [`ClientError::Store`] if it does not open or the medium is full; [`ClientError::InvalidInput`] without a path
    /// or a key.
    pub async fn rekey_store(mut self, new: StoreKey) -> Result<(), ClientError> {
        let (Some(path), Some(old)) = (self.store_path.take(), self.store_key.take()) else {
            return Err(ClientError::InvalidInput("a store's path and key are needed"));
        };
        let options = self.options();
        let rekey =
            move || SqliteStore::open(&path, &old, &options)?.rekey(&new, &options)?.close();
        blocking(rekey).await
    }

    fn options(&self) -> StoreOptions {
        let shared = self.shared.unwrap_or(self.store_options.shared);
        StoreOptions { shared, ..self.store_options.clone() }
    }

    fn login_homeserver(&self) -> Result<String, ClientError> {
        let given = self.homeserver.as_deref().map(normal_url).transpose()?;
        let fixed = self.deployment.homeserver.as_deref().map(normal_url).transpose()?;
        match (fixed, given) {
            (Some(fixed), Some(given)) if fixed != given => Err(ClientError::PolicyDenied),
            (Some(url), _) | (None, Some(url)) => Ok(url),
            (None, None) => Err(ClientError::InvalidInput("a homeserver is needed")),
        }
    }

    fn reach(&mut self, base_url: String) -> Result<Homeserver, ClientError> {
        let transport = match self.transport.take() {
            Some(transport) => transport,
            None => Arc::new(HttpTransport::new(HttpOptions {
                user_agent: self.deployment.user_agent.clone(),
                allow_insecure_http: self.allow_insecure_http,
                proxy: None,
            })?),
        };
        Ok(Homeserver { transport, base_url })
    }

    async fn setup(&mut self, purpose: Purpose) -> Result<Setup, ClientError> {
        let store = match (self.store.take(), self.store_path.take(), self.store_key.take()) {
            (Some(store), None, None) => store,
            (None, Some(path), Some(key)) => {
                let options = self.options();
                open(path, key, options, purpose).await?
            }
            (None, Some(_), None) => {
                return Err(ClientError::InvalidInput("a store key is needed"));
            }
            (None, None, _) => return Err(ClientError::InvalidInput("a store is needed")),
            _ => return Err(ClientError::InvalidInput("one store only")),
        };
        Ok(Setup {
            deployment: self.deployment.clone(),
            store,
            clock: self.clock.take().unwrap_or_else(|| Arc::new(SystemClock)),
            entropy: self.entropy.take().unwrap_or_else(|| Box::new(OsEntropy)),
            sync_mode: self.sync_mode,
        })
    }
}

/// What a store is opened for.
#[derive(Clone, Copy)]
enum Purpose {
    /// A new account: makes the store if there is none.
    Make,
    /// The account in it.
    Find,
}

/// Opens the store in a directory, off the runtime's threads: a passphrase takes its time.
async fn open(
    path: PathBuf,
    key: StoreKey,
    options: StoreOptions,
    purpose: Purpose,
) -> Result<Box<dyn Store + Send>, ClientError> {
    let open = move || match purpose {
        Purpose::Make => SqliteStore::open_or_create(&path, &key, &options),
        Purpose::Find => SqliteStore::open(&path, &key, &options),
    };
    Ok(Box::new(blocking(open).await?))
}

/// A base URL without a slash at its end.
fn normal_url(url: &str) -> Result<String, ClientError> {
    if !url.starts_with("https://") && !url.starts_with("http://") {
        return Err(ClientError::InvalidInput("a homeserver's URL begins with https://"));
    }
    Ok(url.trim_end_matches('/').to_owned())
}

impl fmt::Debug for ClientBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientBuilder")
            .field("deployment", &self.deployment.name)
            .field("homeserver", &self.homeserver)
            .finish_non_exhaustive()
    }
}
