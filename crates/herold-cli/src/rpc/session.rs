//! [`Session`]: the device the process drives; logging in and coming back, and when it synchronises.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use herold::{
    Client, ClientBuilder, ClientError, DecryptTrust, Deployment, OwnedEventId, OwnedRoomId,
    Policy, Recipients, StoreKey, StoreOptions, SyncMode,
};
use serde_json::{Value, json};

use super::{
    error::{Answer, RpcError, within},
    inbox::Inbox,
    message,
    params::Params,
};
use crate::secrets;

/// The name of the deployment: a store made here is not one of the `herold` command's.
const DEPLOYMENT: &str = "rpc";
/// The file with the store's key, in the store's folder.
const KEY_FILE: &str = "rpc.key";
/// How long a first sync and the upload of the device's keys may take.
const READY_LIMIT: Duration = Duration::from_secs(280);
/// How long a resumed peer waits for the server before it answers without it.
const RESUME_PATIENCE: Duration = Duration::from_secs(10);
/// How long `close` waits for requests under way.
const CLOSE_LIMIT: Duration = Duration::from_secs(15);
/// Events looked at per room for `stats`.
const STATS_DEPTH: usize = 10_000;

/// What the process is, and what it can do.
pub fn hello() -> Value {
    json!({
        "protocol": 1,
        "name": "herold",
        "version": env!("CARGO_PKG_VERSION"),
        "features": [
            "store", "files", "delete_device", "control", "sliding_sync", "cross_signing", "backup",
            "gossip", "sas_room", "sas_device", "sas_self", "qr", "key_files",
            "history", "dehydration",
        ],
    })
}

/// One device.
#[derive(Default)]
pub struct Session {
    client: Option<Client>,
    inbox: Inbox,
    sync_ms: Option<u64>,
    /// Background sync is meant to be on.
    syncing: bool,
}

impl Session {
    /// The client of the device.
    pub fn client(&self) -> Result<&Client, RpcError> {
        self.client.as_ref().ok_or_else(|| RpcError::new("not_logged_in", "log in or resume first"))
    }

    /// Whether background sync is meant to be on.
    pub fn is_syncing(&self) -> bool {
        self.syncing
    }

    fn check_is_new(&self) -> Result<(), RpcError> {
        match self.client {
            None => Ok(()),
            Some(_) => Err(RpcError::new("invalid", "this process has a device already")),
        }
    }

    /// A new device, by password.
    pub async fn login(&mut self, mut params: Params) -> Answer {
        self.check_is_new()?;
        let homeserver = params.text("homeserver")?;
        let user = params.text("user")?;
        let password = params.secret("password")?;
        let store = params.text("store")?;
        let device_name = params.optional_text("device_name")?;
        // An extension of the protocol; the store remembers it for `resume`.
        let words = [("v2", SyncMode::V2), ("sliding", SyncMode::Sliding)];
        let sync_mode = params.optional_word("sync", &words)?.unwrap_or_default();

        let store = Path::new(&store);
        if !store.is_dir() {
            return Err(RpcError::parameter("store", "not a folder"));
        }
        let key_file = store.join(KEY_FILE);
        let key = if key_file.exists() {
            secrets::read_key_file(&key_file)
        } else {
            secrets::create_key_file(&key_file)
        };
        let key = key.map_err(|failure| RpcError::new("store", failure.to_string()))?;

        let client = builder(store, &key)
            .homeserver(&homeserver)
            .sync_mode(sync_mode)
            .login(&user, password, device_name.as_deref())
            .await?;
        let client = self.client.insert(client).clone();
        let began = Instant::now();
        match client.sync_once(Duration::ZERO).await {
            Ok(_) => self.sync_ms = Some(milliseconds(began.elapsed())),
            // The background sync tries again, and says so if there is no point.
            Err(error) => tracing::warn!(%error, "the first sync failed"),
        }
        client.start_sync()?;
        self.syncing = true;
        client.wait_ready(READY_LIMIT).await?;
        self.sync_ms.get_or_insert_with(|| milliseconds(began.elapsed()));
        Ok(self.described(&client))
    }

    /// The device that is in the store.
    pub async fn resume(&mut self, mut params: Params) -> Answer {
        self.check_is_new()?;
        let store = params.text("store")?;
        let store = Path::new(&store);
        let key = secrets::read_key_file(&store.join(KEY_FILE))
            .map_err(|failure| RpcError::new("store", failure.to_string()))?;
        let client = builder(store, &key).resume().await?;
        let client = self.client.insert(client).clone();
        let began = Instant::now();
        // A server that does not answer is no reason not to come back: sync goes on trying.
        match tokio::time::timeout(RESUME_PATIENCE, client.sync_once(Duration::ZERO)).await {
            Ok(Ok(_)) => self.sync_ms = Some(milliseconds(began.elapsed())),
            Ok(Err(error)) => tracing::warn!(%error, "resumed without the server"),
            Err(_) => tracing::warn!("resumed without the server"),
        }
        client.start_sync()?;
        self.syncing = true;
        Ok(self.described(&client))
    }

    fn described(&self, client: &Client) -> Value {
        json!({
            "user_id": client.user_id(),
            "device_id": client.device_id(),
            "sync_ms": self.sync_ms,
        })
    }

    /// Ends the process's hold on the store.
    pub async fn close(&mut self) -> Answer {
        self.end().await;
        Ok(json!({}))
    }

    /// As [`Session::close`], when nobody asked.
    pub async fn end(&mut self) {
        if let Some(client) = self.client.take() {
            if let Err(error) = self.inbox.settle(&client) {
                tracing::warn!(%error, "the events could not be acknowledged");
            }
            match tokio::time::timeout(CLOSE_LIMIT, client.close()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(%error, "the store was not closed well"),
                Err(_) => tracing::warn!("requests under way were given up"),
            }
        }
    }

    /// Ends the session on the server.
    pub async fn logout(&mut self) -> Answer {
        self.client()?.logout().await?;
        self.syncing = false;
        Ok(json!({}))
    }

    /// Numbers for comparison.
    pub fn stats(&self) -> Answer {
        let client = self.client()?;
        let (mut decrypted, mut utd) = (0_u64, 0_u64);
        for (room, _) in client.rooms()? {
            for event in client.timeline(&room, STATS_DEPTH)? {
                match &event.body {
                    Ok(_) if event.encrypted => decrypted = decrypted.saturating_add(1),
                    Ok(_) => {}
                    Err(_) => utd = utd.saturating_add(1),
                }
            }
        }
        Ok(json!({
            "sync_ms": self.sync_ms,
            "decrypted": decrypted,
            "utd": utd,
            "rss_kb": peak_memory_kb(),
        }))
    }

    /// Background sync off.
    pub async fn sync_stop(&mut self) -> Answer {
        self.client()?.stop_sync().await;
        self.syncing = false;
        Ok(json!({}))
    }

    /// Background sync on.
    pub fn sync_start(&mut self) -> Answer {
        self.client()?.start_sync()?;
        self.syncing = true;
        Ok(json!({}))
    }

    /// Exactly one round trip. Background sync rests meanwhile.
    pub async fn sync_once(&mut self, mut params: Params) -> Answer {
        let wait = params.wait()?;
        let client = self.client()?.clone();
        client.stop_sync().await;
        // The server is not to wait for news: what the runner provoked is there.
        let round_trip = client.sync_once(Duration::ZERO);
        let outcome = within(wait, "the round trip took too long", round_trip).await;
        if self.syncing {
            client.start_sync()?;
        }
        outcome??;
        Ok(json!({}))
    }

    /// Decrypts one pushed event the way a notification process does: background sync rests, the
    /// event is fetched, and if its key is not there, single round trips look for the key.
    pub async fn notification(&mut self, mut params: Params) -> Answer {
        let room: OwnedRoomId = params.id("room")?;
        let event_id: OwnedEventId = params.id("event_id")?;
        let wait = params.wait()?;
        let client = self.client()?.clone();
        client.stop_sync().await;
        let outcome = tokio::time::timeout(wait, decrypt_pushed(&client, &room, &event_id)).await;
        if self.syncing {
            client.start_sync()?;
        }
        if let Ok(Err(error)) = outcome {
            return Err(error);
        }
        match client.event(&room, &event_id)? {
            Some(event) => Ok(message::event(&event)),
            None => Err(RpcError::timeout("the event was not found")),
        }
    }

    /// The application's to-device events since the last call.
    pub fn take_to_device(&mut self) -> Answer {
        let client = self.client()?.clone();
        self.inbox.read(&client)?;
        Ok(json!({ "events": self.inbox.take_to_device() }))
    }

    /// The notices since the last call.
    pub fn take_notices(&mut self) -> Answer {
        let client = self.client()?.clone();
        self.inbox.read(&client)?;
        Ok(json!({ "notices": self.inbox.take_notices() }))
    }

    /// After an answer was written: what it told is acknowledged.
    pub fn settle(&mut self) {
        let Some(client) = &self.client else { return };
        let settled = self.inbox.read(client).and_then(|()| self.inbox.settle(client));
        if let Err(error) = settled {
            tracing::warn!(%error, "the events could not be acknowledged");
        }
    }
}

/// Until the event is clear.
async fn decrypt_pushed(
    client: &Client,
    room: &OwnedRoomId,
    event_id: &OwnedEventId,
) -> Result<(), RpcError> {
    const PAUSE: Duration = Duration::from_millis(500);
    loop {
        let event = match client.event(room, event_id)? {
            Some(event) => Some(event),
            // Not there yet is no failure before the time is over.
            None => client.fetch_event(room, event_id).await.ok(),
        };
        if event.is_some_and(|event| event.body.is_ok()) {
            return Ok(());
        }
        match client.sync_once(Duration::ZERO).await {
            Err(error @ (ClientError::LoggedOut | ClientError::Store(_))) => {
                return Err(error.into());
            }
            // The server may answer yet.
            Err(error) => tracing::warn!(%error, "no round trip"),
            Ok(_) => {}
        }
        if client.event(room, event_id)?.is_some_and(|event| event.body.is_ok()) {
            return Ok(());
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn builder(store: &Path, key: &[u8; 32]) -> ClientBuilder {
    let policy = Policy {
        recipients: Recipients::AllDevices,
        decrypt_trust: DecryptTrust::Any,
        ..Policy::default()
    };
    let deployment = Deployment {
        name: DEPLOYMENT.to_owned(),
        policy,
        device_display_name: "herold rpc".to_owned(),
        ..Deployment::default()
    };
    // A second process on the same folder is the notification process beside the app.
    let options = StoreOptions { label: "herold rpc".to_owned(), ..StoreOptions::default() };
    ClientBuilder::new()
        .deployment(deployment)
        .store_path(store)
        .store_key(StoreKey::raw(*key))
        .store_options(options)
        .shared_store(true)
}

fn milliseconds(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// The most memory the process has held so far, where the system tells.
fn peak_memory_kb() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.split_whitespace().next()?.parse().ok()
}
