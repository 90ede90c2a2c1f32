//! One Matrix device on matrix-rust-sdk, driven by JSON lines on stdin and stdout: see PEERS.md.

#![recursion_limit = "256"]

mod identity;
mod rooms;

use std::{
    collections::HashMap,
    future::Future,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};
use matrix_sdk::{
    Client, LoopCtrl, Room,
    authentication::matrix::MatrixSession,
    config::SyncSettings,
    encryption::{BackupDownloadStrategy, EncryptionSettings, verification::VerificationRequest},
    ruma::{
        OwnedUserId,
        events::{
            key::verification::request::ToDeviceKeyVerificationRequestEvent,
            room::message::{MessageType, OriginalSyncRoomMessageEvent},
        },
    },
};
use serde_json::{Map, Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};

const FEATURES: [&str; 13] = [
    "store",
    "files",
    "delete_device",
    "custom",
    "cross_signing",
    "backup",
    "gossip",
    "sas_room",
    "sas_device",
    "sas_self",
    "qr",
    "key_files",
    "history",
];
const PAUSE: Duration = Duration::from_millis(80);
const WAIT: u64 = 20_000;

/// What a client cannot do, as an error.
#[derive(Debug)]
pub struct Unsupported(&'static str);

impl std::fmt::Display for Unsupported {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Unsupported {}

/// A command's parameters.
pub struct Parameters(Map<String, Value>);

impl Parameters {
    pub fn text(&self, name: &str) -> Result<&str> {
        self.0.get(name).and_then(Value::as_str).with_context(|| format!("{name} is missing"))
    }

    pub fn id<T>(&self, name: &str) -> Result<T>
    where
        T: for<'a> TryFrom<&'a str>,
    {
        let text = self.text(name)?;
        T::try_from(text).map_err(|_| anyhow!("{name}: {text} is no such id"))
    }

    pub fn value(&self, name: &str) -> Option<&Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    fn wait(&self) -> Duration {
        Duration::from_millis(self.0.get("timeout_ms").and_then(Value::as_u64).unwrap_or(WAIT))
    }

    /// Asks until there is something, or fails with an error that starts with `timeout`.
    pub async fn poll<T, F>(&self, what: &str, mut ask: impl FnMut() -> F) -> Result<T>
    where
        F: Future<Output = Result<Option<T>>>,
    {
        let end = Instant::now() + self.wait();
        loop {
            if let Some(found) = ask().await? {
                return Ok(found);
            }
            if Instant::now() >= end {
                bail!("timeout: {what}");
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// The device that is driven.
#[derive(Default)]
struct Peer {
    device: Option<Device>,
}

/// A device that is logged in.
pub struct Device {
    pub client: Client,
    /// Verifications that were named once, by their ids: what has ended is not known to the SDK any more.
    pub flows: Mutex<HashMap<String, VerificationRequest>>,
    /// Requests for verification that others have made: who, and the flow's id.
    pub asked: Arc<Mutex<Vec<(OwnedUserId, String)>>>,
}

impl Device {
    pub fn room(&self, parameters: &Parameters) -> Result<Room> {
        let id: matrix_sdk::ruma::OwnedRoomId = parameters.id("room")?;
        self.client.get_room(&id).with_context(|| format!("the room {id} is not known"))
    }

    async fn new(homeserver: &str, store: &Path) -> Result<Client> {
        let settings = EncryptionSettings {
            auto_enable_cross_signing: false,
            backup_download_strategy: BackupDownloadStrategy::AfterDecryptionFailure,
            auto_enable_backups: false,
        };
        Ok(Client::builder()
            .homeserver_url(homeserver)
            .sqlite_store(store, None)
            .with_encryption_settings(settings)
            .build()
            .await?)
    }

    async fn log_in(parameters: &Parameters) -> Result<Self> {
        let store = Path::new(parameters.text("store")?);
        let client = Self::new(parameters.text("homeserver")?, store).await?;
        let auth = client.matrix_auth();
        auth.login_username(parameters.text("user")?, parameters.text("password")?)
            .initial_device_display_name("matrix-rust-sdk")
            .await?;
        let session = auth.session().context("there is no session")?;
        let kept = json!({ "homeserver": client.homeserver(), "session": session });
        std::fs::write(store.join("session.json"), kept.to_string())?;
        Self::start(client).await
    }

    async fn resume(parameters: &Parameters) -> Result<Self> {
        let store = Path::new(parameters.text("store")?);
        let kept: Value = serde_json::from_slice(&std::fs::read(store.join("session.json"))?)?;
        let homeserver = kept["homeserver"].as_str().context("no homeserver")?;
        let client = Self::new(homeserver, store).await?;
        let session: MatrixSession = serde_json::from_value(kept["session"].clone())?;
        client.restore_session(session).await?;
        Self::start(client).await
    }

    /// Syncs from now on.
    async fn start(client: Client) -> Result<Self> {
        let asked: Arc<Mutex<Vec<(OwnedUserId, String)>>> = Arc::default();
        let note = asked.clone();
        client.add_event_handler(move |event: ToDeviceKeyVerificationRequestEvent| {
            let note = note.clone();
            async move {
                let flow = event.content.transaction_id.to_string();
                note.lock().unwrap_or_else(PoisonError::into_inner).push((event.sender, flow));
            }
        });
        let note = asked.clone();
        client.add_event_handler(move |event: OriginalSyncRoomMessageEvent| {
            let note = note.clone();
            async move {
                if let MessageType::VerificationRequest(_) = event.content.msgtype {
                    let flow = event.event_id.to_string();
                    note.lock().unwrap_or_else(PoisonError::into_inner).push((event.sender, flow));
                }
            }
        });
        let settings = SyncSettings::default().timeout(Duration::from_secs(5));
        client.sync_once(settings.clone().timeout(Duration::ZERO)).await?;
        client.encryption().wait_for_e2ee_initialization_tasks().await;
        let syncing = client.clone();
        tokio::spawn(async move {
            loop {
                let each = |_| async { LoopCtrl::Continue };
                if let Err(error) = syncing.sync_with_callback(settings.clone(), each).await {
                    eprintln!("sync: {error}");
                    tokio::time::sleep(Duration::from_millis(500)).await;
                }
            }
        });
        Ok(Self { client, flows: Mutex::default(), asked })
    }

    fn names(&self) -> Value {
        json!({ "user_id": self.client.user_id(), "device_id": self.client.device_id() })
    }
}

impl Peer {
    async fn carry_out(&mut self, command: &str, parameters: &Parameters) -> Result<Value> {
        match command {
            "hello" => {
                return Ok(json!({
                    "protocol": 1,
                    "name": "matrix-rust-sdk",
                    "version": "0.18.0",
                    "features": FEATURES,
                }));
            }
            "login" | "resume" => {
                let device = if command == "login" {
                    Device::log_in(parameters).await?
                } else {
                    Device::resume(parameters).await?
                };
                return Ok(self.device.insert(device).names());
            }
            "close" => return Ok(json!({})),
            _ => {}
        }
        let device = self.device.as_ref().context("not logged in")?;
        match command {
            "create_room" => rooms::create(device, parameters).await,
            "invite" => rooms::invite(device, parameters).await,
            "kick" => rooms::kick(device, parameters).await,
            "join" => rooms::join(device, parameters).await,
            "leave" => rooms::leave(device, parameters).await,
            "wait_member" => rooms::wait_member(device, parameters).await,
            "send" => rooms::send(device, parameters).await,
            "send_event" => rooms::send_event(device, parameters).await,
            "wait_message" => rooms::wait_message(device, parameters).await,
            "event" => rooms::event(device, parameters).await,
            "send_file" => rooms::send_file(device, parameters).await,
            "download" => rooms::download(device, parameters).await,
            "devices" => identity::devices(device, parameters).await,
            "delete_device" => identity::delete_device(device, parameters).await,
            "bootstrap" => identity::bootstrap(device, parameters).await,
            "recover" => identity::recover(device, parameters).await,
            "wait_backup" => identity::wait_backup(device, parameters).await,
            "restore_backup" => identity::restore_backup(device, parameters).await,
            "sas_request" => identity::sas_request(device, parameters).await,
            "sas_accept" => identity::sas_accept(device, parameters).await,
            "sas_emojis" => identity::sas_emojis(device, parameters).await,
            "sas_confirm" => identity::sas_confirm(device, parameters).await,
            "flow" => identity::flow(device, parameters).await,
            "qr_show" => identity::qr_show(device, parameters).await,
            "qr_scan" => identity::qr_scan(device, parameters).await,
            "export_keys" => identity::export_keys(device, parameters).await,
            "import_keys" => identity::import_keys(device, parameters).await,
            _ => Err(Unsupported("no such command").into()),
        }
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    let mut out = tokio::io::stdout();
    let mut peer = Peer::default();
    while let Some(line) = lines.next_line().await? {
        let Value::Object(mut request) = serde_json::from_str(&line)? else {
            bail!("not a request");
        };
        let id = request.remove("id");
        let command = request.remove("cmd");
        let command = command.as_ref().and_then(Value::as_str).unwrap_or_default();
        let mut answer = match peer.carry_out(command, &Parameters(request)).await {
            Ok(result) => json!({ "id": id, "ok": true, "result": result }),
            Err(error) => {
                let mut answer = json!({ "id": id, "ok": false, "error": format!("{error:#}") });
                if error.is::<Unsupported>() {
                    answer["unsupported"] = json!(true);
                }
                answer
            }
        }
        .to_string();
        answer.push('\n');
        out.write_all(answer.as_bytes()).await?;
        out.flush().await?;
        if command == "close" {
            break;
        }
    }
    std::process::exit(0);
}
