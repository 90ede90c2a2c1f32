//! A homeserver model behind a [`Transport`], and clients over it.

#![allow(dead_code)] // not every test file uses everything

pub mod http;
pub mod mortal;

use std::{
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use herold::{
    Body, Client, ClientBuilder, Clock, CreateRoom, Deployment, Exchange, Membership, OwnedRoomId,
    Policy, Recipients, SecretString, StoreKey, Timestamp, Transport, TransportError,
    TransportRequest, TransportResponse,
};
use herold_testkit::homeserver::{HomeServer, ServerRequest, ServerResponse};
use tokio::{sync::watch, time::Instant};

pub const PASSWORD: &str = "correct horse";
pub const SOON: Duration = Duration::from_secs(60);

type Tamper = Box<dyn FnMut(&TransportRequest, &mut ServerResponse) + Send>;

/// A homeserver and the way to it, which can be cut.
pub struct Net {
    pub server: Mutex<HomeServer>,
    start: Instant,
    changed: watch::Sender<u64>,
    /// Paths that contain one of these get no answer.
    pub cut: Mutex<Vec<&'static str>>,
    tamper: Mutex<Option<Tamper>>,
}

impl Net {
    pub fn new() -> Arc<Self> {
        let mut server = HomeServer::new("example.org", 7);
        for user in ["alice", "bob"] {
            server.register(user, PASSWORD);
        }
        Arc::new(Self {
            server: Mutex::new(server),
            start: Instant::now(),
            changed: watch::Sender::new(0),
            cut: Mutex::default(),
            tamper: Mutex::default(),
        })
    }

    /// Changes answers on their way.
    pub fn tamper(
        &self,
        tamper: impl FnMut(&TransportRequest, &mut ServerResponse) + Send + 'static,
    ) {
        *self.tamper.lock().unwrap() = Some(Box::new(tamper));
    }

    fn now_ms(&self) -> u64 {
        1_700_000_000_000 + u64::try_from(self.start.elapsed().as_millis()).unwrap()
    }

    fn answer(&self, request: &TransportRequest) -> ServerResponse {
        let (content_type, body) = match &request.http.body {
            Body::Empty => (None, Vec::new()),
            Body::Json(text) => (Some("application/json".to_owned()), text.as_bytes().to_vec()),
            Body::Bytes { content_type, data } => (Some(content_type.clone()), data.clone()),
        };
        let request = ServerRequest {
            method: request.http.method.as_str().to_owned(),
            path: request.http.path.clone(),
            query: request.http.query.clone(),
            access_token: request.access_token.as_ref().map(|token| token.as_str().to_owned()),
            content_type,
            body,
        };
        self.server.lock().unwrap().handle(self.now_ms(), &request)
    }

    async fn exchange(
        &self,
        request: TransportRequest,
    ) -> Result<TransportResponse, TransportError> {
        tokio::time::sleep(Duration::from_millis(2)).await;
        if self.cut.lock().unwrap().iter().any(|part| request.http.path.contains(part)) {
            return Err(TransportError::Interrupted);
        }
        let mut changed = self.changed.subscribe();
        let mut response = self.answer(&request);
        if request.http.path.ends_with("/sync") {
            let query = |name| request.http.query.iter().find(|q| q.0 == name).map(|q| &q.1);
            let timeout = query("timeout").and_then(|t| t.parse().ok()).unwrap_or(0);
            let end = Instant::now() + Duration::from_millis(timeout);
            while has_no_news(&response, query("since").map(String::as_str))
                && tokio::time::timeout_at(end, changed.changed()).await.is_ok()
            {
                response = self.answer(&request);
            }
        } else {
            self.changed.send_modify(|count| *count += 1);
        }
        if let Some(tamper) = self.tamper.lock().unwrap().as_mut() {
            tamper(&request, &mut response);
        }
        Ok(TransportResponse {
            status: response.status,
            retry_after_ms: response.retry_after_ms,
            body: response.body,
        })
    }
}

fn has_no_news(response: &ServerResponse, since: Option<&str>) -> bool {
    let body: serde_json::Value = serde_json::from_slice(&response.body).unwrap_or_default();
    response.status == 200 && since.is_some() && body["next_batch"].as_str() == since
}

/// The way to the homeserver, as a client has it.
pub struct Wire(pub Arc<Net>);

impl Transport for Wire {
    fn send(&self, request: TransportRequest) -> Exchange<'_> {
        Box::pin(self.0.exchange(request))
    }
}

/// The runtime's own time, which tests pause.
struct TokioClock(Arc<Net>);

impl Clock for TokioClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.0.now_ms())
    }
}

/// A deployment that gives keys to all devices: nobody is cross-signed here.
pub fn deployment() -> Deployment {
    let policy = Policy { recipients: Recipients::AllDevices, ..Policy::default() };
    Deployment { policy, ..Deployment::default() }
}

pub fn builder(net: &Arc<Net>) -> ClientBuilder {
    ClientBuilder::new()
        .deployment(deployment())
        .homeserver("https://example.org")
        .transport(Arc::new(Wire(net.clone())))
        .clock(Arc::new(TokioClock(net.clone())))
}

pub fn on_disk(net: &Arc<Net>, folder: &Path) -> ClientBuilder {
    builder(net).store_path(folder.join("store")).store_key(StoreKey::raw([7; 32]))
}

pub fn password() -> SecretString {
    SecretString::new(PASSWORD.to_owned())
}

/// A new device in memory, syncing and ready.
pub async fn device(net: &Arc<Net>, user: &str) -> Client {
    let client = builder(net).memory_store().login(user, password(), None).await.unwrap();
    ready(&client).await;
    client
}

pub async fn ready(client: &Client) {
    client.start_sync().unwrap();
    client.wait_ready(SOON).await.unwrap();
}

/// An encrypted room both are in.
pub async fn room_of(alice: &Client, bob: &Client) -> OwnedRoomId {
    let wanted = CreateRoom { invite: vec![bob.user_id()], direct: true, ..CreateRoom::default() };
    let room = alice.create_room(wanted).await.unwrap();
    bob.wait_for_member(&room, &bob.user_id(), Membership::Invite, SOON).await.unwrap();
    bob.join(&room).await.unwrap();
    alice.wait_for_member(&room, &bob.user_id(), Membership::Join, SOON).await.unwrap();
    room
}
