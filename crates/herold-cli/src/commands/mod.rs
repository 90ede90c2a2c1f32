//! The commands for people and scripts.

mod account;
mod ask;
mod code;
mod dehydration;
mod devices;
mod files;
mod inspect;
mod keys;
mod listen;
mod messages;
mod migrate;
mod recovery;
mod rooms;
mod store;
mod verify;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use herold::{Client, ClientBuilder, ClientError, Deployment, Lengthy, Policy};

use crate::{
    args::{Command, Global},
    failure::{Failure, Kind},
    output::Output,
    progress::{Count, Progress},
    secrets::{self, Purpose},
};

/// The file that every store has, in the store's folder.
const MARK_OF_A_STORE: &str = "herold.salt";

/// Carries a command out.
///
/// # Errors
/// With the exit code and what to tell.
pub async fn run(global: Global, command: Command) -> Result<(), Failure> {
    let setting = Setting::new(global);
    match command {
        Command::Login(args) => account::login(&setting, args).await,
        Command::Migrate(args) => migrate::migrate(&setting, args).await,
        Command::Logout(_) => account::logout(&setting).await,
        Command::Rooms(args) => rooms::rooms(&setting, args).await,
        Command::CreateRoom(args) => rooms::create(&setting, args).await,
        Command::Join(args) => rooms::join(&setting, args).await,
        Command::Invite(args) => rooms::invite(&setting, args).await,
        Command::Leave(args) => rooms::leave(&setting, args).await,
        Command::Forget(args) => rooms::forget(&setting, args).await,
        Command::Kick(args) => rooms::kick(&setting, args).await,
        Command::Members(args) => rooms::members(&setting, args).await,
        Command::Send(args) => messages::send(&setting, args).await,
        Command::SendFile(args) => files::send_file(&setting, args).await,
        Command::Download(args) => files::download(&setting, args).await,
        Command::Listen(args) => listen::listen(&setting, args).await,
        Command::History(args) => messages::history(&setting, args).await,
        Command::Devices(args) => devices::devices(&setting, args).await,
        Command::Recovery(args) => recovery::recovery(&setting, args).await,
        Command::Dehydration(args) => dehydration::dehydration(&setting, args).await,
        Command::Verify(args) => verify::verify(&setting, args).await,
        Command::Keys(args) => keys::keys(&setting, args).await,
        Command::Backup(args) => keys::backup(&setting, args).await,
        Command::Store(args) => store::store(&setting, args).await,
        Command::Inspect(args) => inspect::inspect(&setting, args).await,
        Command::Rpc => crate::rpc::run().await,
    }
}

/// Whether a command needs to know what is new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// What the store has will do.
    Stored,
    /// Everything the server has first: who is in a room, and with which devices.
    CaughtUp,
}

impl Freshness {
    /// For commands with `--offline`.
    pub fn unless(offline: bool) -> Self {
        if offline { Self::Stored } else { Self::CaughtUp }
    }
}

/// What all commands have in common.
pub struct Setting {
    /// The global options.
    pub global: Global,
    /// Where the answer goes.
    pub output: Output,
    /// Where progress goes.
    pub progress: Progress,
}

impl Setting {
    fn new(global: Global) -> Self {
        let output = Output::new(global.json);
        let progress = Progress::new(global.quiet);
        Self { global, output, progress }
    }

    /// The store's folder.
    pub fn folder(&self) -> Result<PathBuf, Failure> {
        self.global.store.clone().map_or_else(secrets::default_store, Ok)
    }

    /// The store's folder, with a store in it: nobody is asked for the key of one that is not there.
    pub fn existing_folder(&self) -> Result<PathBuf, Failure> {
        let folder = self.folder()?;
        if has_store(&folder) {
            return Ok(folder);
        }
        Err(Failure::new(
            Kind::NotLoggedIn,
            format!("there is no account in {}: 'herold login' makes one", folder.display()),
        ))
    }

    /// Opens the account in the store.
    async fn open(&self) -> Result<Client, Failure> {
        let folder = self.existing_folder()?;
        let key = secrets::store_key(&self.global, Purpose::Open)?;
        let opened = ClientBuilder::new()
            .deployment(deployment(Policy::default()))
            .store_path(folder)
            .store_key(key)
            .resume();
        Ok(self.progress.during("opening the store", opened).await?)
    }

    /// Opens the account, does `work`, and closes it whatever came of it.
    pub async fn with_client<T>(
        &self,
        freshness: Freshness,
        work: impl AsyncFnOnce(&Client) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let client = self.open().await?;
        let outcome = match freshness {
            Freshness::Stored => work(&client).await,
            Freshness::CaughtUp => match self.catch_up(&client).await {
                Ok(()) => work(&client).await,
                Err(failure) => Err(failure),
            },
        };
        let closed = self.progress.during("closing the store", client.close()).await;
        outcome.and_then(|done| closed.map(|()| done).map_err(Failure::from))
    }

    /// Takes in what came since the last time, and goes on taking in.
    async fn catch_up(&self, client: &Client) -> Result<(), Failure> {
        // The server hands out what is for this device alone in portions.
        const PORTIONS: usize = 100;
        self.within("catching up", async {
            for _ in 0..PORTIONS {
                if client.sync_once(Duration::ZERO).await?.to_device == 0 {
                    break;
                }
            }
            client.start_sync()
        })
        .await
    }

    /// Waits for `work`, showing `what` meanwhile, but no longer than `--timeout` says.
    pub async fn within<T>(
        &self,
        what: &str,
        work: impl IntoFuture<Output = Result<T, ClientError>>,
    ) -> Result<T, Failure> {
        self.within_counting(what, &Count::default(), work).await
    }

    /// As [`within`](Self::within), for work that tells how far it is.
    pub async fn within_lengthy<T>(&self, what: &str, work: Lengthy<T>) -> Result<T, Failure> {
        let count = Count::default();
        self.within_counting(what, &count, count.of(work)).await
    }

    async fn within_counting<T>(
        &self,
        what: &str,
        count: &Count,
        work: impl IntoFuture<Output = Result<T, ClientError>>,
    ) -> Result<T, Failure> {
        let limit = Duration::from_secs(self.global.timeout);
        match tokio::time::timeout(limit, self.progress.counting(what, count, work)).await {
            Ok(outcome) => Ok(outcome?),
            Err(_) => {
                self.progress.interrupted();
                let seconds = self.global.timeout;
                Err(Failure::new(Kind::NoAnswer, format!("{what}: not done in {seconds} s")))
            }
        }
    }
}

/// Whether there is a store in the folder, with an account or, after a login that failed, without.
pub fn has_store(folder: &Path) -> bool {
    folder.join(MARK_OF_A_STORE).exists()
}

/// The `herold` command as a deployment: unbranded, with the policy chosen at login.
pub fn deployment(policy: Policy) -> Deployment {
    Deployment {
        name: "herold".to_owned(),
        policy,
        device_display_name: "Herold (command line)".to_owned(),
        ..Deployment::default()
    }
}
