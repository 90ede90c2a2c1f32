//! For this crate's tests: a transport with a script, and a loopback server that says what it is told.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use herold_store::{ChangeSet, MemoryStore, ScanControl, Snapshot, Store, StoreError, Table};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    time::Instant,
};

use crate::{
    Body, Client, ClientBuilder, ClientError, Clock, Exchange, SecretString, Timestamp, Transport,
    TransportError, TransportRequest, TransportResponse,
};

pub(crate) const MINUTE: Duration = Duration::from_secs(60);
pub(crate) const TOKEN: &str = "syt_canary_token_5f1c";
pub(crate) const PASSWORD: &str = "canary-password-77aa";

/// What happens to a request.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    /// An answer.
    Answer(u16, Option<u64>, Vec<u8>),
    /// No answer.
    Fail(TransportError),
    /// The server takes for ever.
    Hang,
}

pub(crate) fn ok(body: &Value) -> Reply {
    Reply::Answer(200, None, body.to_string().into_bytes())
}

pub(crate) fn refuse(status: u16, errcode: &str) -> Reply {
    Reply::Answer(status, None, json!({ "errcode": errcode, "error": "no" }).to_string().into())
}

type Rule = Box<dyn FnMut(&TransportRequest) -> Option<Reply> + Send>;

/// A homeserver that does as its script says, and else the least that a client needs.
#[derive(Default)]
pub(crate) struct Scripted {
    rules: Mutex<Vec<Rule>>,
    pub(crate) seen: Mutex<Vec<TransportRequest>>,
    times: Mutex<Vec<Instant>>,
}

impl Scripted {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    /// Later rules come first; a rule that answers `None` leaves the request to the others.
    pub(crate) fn rule(
        &self,
        rule: impl FnMut(&TransportRequest) -> Option<Reply> + Send + 'static,
    ) {
        self.rules.lock().unwrap().insert(0, Box::new(rule));
    }

    /// Answers requests whose path ends like this with the replies, one after the other.
    pub(crate) fn replies(&self, path_end: &'static str, replies: Vec<Reply>) {
        let mut replies = VecDeque::from(replies);
        self.rule(
            move |request| {
                if request.http.path.ends_with(path_end) { replies.pop_front() } else { None }
            },
        );
    }

    pub(crate) fn count(&self, path_end: &str) -> usize {
        let seen = self.seen.lock().unwrap();
        seen.iter().filter(|request| request.http.path.ends_with(path_end)).count()
    }

    /// When requests whose path ends like this came.
    pub(crate) fn times(&self, path_end: &str) -> Vec<Instant> {
        let seen = self.seen.lock().unwrap();
        let times = self.times.lock().unwrap();
        let both = seen.iter().zip(times.iter());
        both.filter(|(request, _)| request.http.path.ends_with(path_end)).map(|(_, t)| *t).collect()
    }

    fn reply(&self, request: &TransportRequest) -> Reply {
        for rule in self.rules.lock().unwrap().iter_mut() {
            if let Some(reply) = rule(request) {
                return reply;
            }
        }
        let query =
            |name: &str| request.http.query.iter().find(|(key, _)| key == name).map(|q| &q.1);
        match request.http.path.as_str() {
            "/_matrix/client/v3/login" => ok(&json!({
                "user_id": "@alice:example.org",
                "device_id": "ALICEPHONE",
                "access_token": TOKEN,
            })),
            "/_matrix/client/v3/sync" if query("timeout").is_some_and(|timeout| timeout != "0") => {
                Reply::Hang
            }
            "/_matrix/client/v3/sync" => ok(&json!({ "next_batch": "s1" })),
            "/_matrix/client/v3/keys/upload" => {
                ok(&json!({ "one_time_key_counts": { "signed_curve25519": 50 } }))
            }
            "/_matrix/client/v3/logout" => ok(&json!({})),
            _ => refuse(404, "M_UNRECOGNIZED"),
        }
    }
}

impl Transport for Scripted {
    fn send(&self, request: TransportRequest) -> Exchange<'_> {
        let reply = self.reply(&request);
        self.seen.lock().unwrap().push(request);
        self.times.lock().unwrap().push(Instant::now());
        Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(1)).await;
            match reply {
                Reply::Answer(status, retry_after_ms, body) => {
                    Ok(TransportResponse { status, retry_after_ms, body })
                }
                Reply::Fail(error) => Err(error),
                Reply::Hang => std::future::pending().await,
            }
        })
    }
}

/// A store whose commits can be made to fail.
#[derive(Default)]
pub(crate) struct Fragile {
    inner: MemoryStore,
    full: Arc<AtomicBool>,
}

impl Snapshot for Fragile {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.inner.get(table, key)
    }
    fn scan(
        &self,
        table: Table,
        prefix: &[u8],
        from: Option<&[u8]>,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ScanControl,
    ) -> Result<(), StoreError> {
        self.inner.scan(table, prefix, from, visit)
    }
    fn scan_back(
        &self,
        table: Table,
        prefix: &[u8],
        before: Option<&[u8]>,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ScanControl,
    ) -> Result<(), StoreError> {
        self.inner.scan_back(table, prefix, before, visit)
    }
}

impl Store for Fragile {
    fn commit(&mut self, changes: &ChangeSet) -> Result<(), StoreError> {
        if self.full.load(Ordering::Relaxed) {
            return Err(StoreError::Io("disk full".to_owned()));
        }
        self.inner.commit(changes)
    }
    fn snapshot(&self) -> &dyn Snapshot {
        self
    }
}

impl Fragile {
    /// An empty store that fails as long as `full` is set.
    pub(crate) fn new(full: &Arc<AtomicBool>) -> Self {
        Self { full: full.clone(), ..Self::default() }
    }
}

/// The runtime's own time, which tests can pause.
pub(crate) struct TokioClock(Instant);

impl TokioClock {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self(Instant::now()))
    }
}

impl Clock for TokioClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(1_700_000_000_000).saturating_add(self.0.elapsed())
    }
}

/// A client over the scripted homeserver, logged in.
pub(crate) async fn client(server: &Arc<Scripted>) -> Client {
    log_in(server).await.unwrap()
}

pub(crate) async fn log_in(server: &Arc<Scripted>) -> Result<Client, ClientError> {
    log_in_with(server, Box::new(MemoryStore::new())).await
}

pub(crate) async fn log_in_with(
    server: &Arc<Scripted>,
    store: Box<dyn Store + Send>,
) -> Result<Client, ClientError> {
    builder(server).store(store).login("alice", SecretString::new(PASSWORD.to_owned()), None).await
}

/// A builder without a store.
pub(crate) fn builder(server: &Arc<Scripted>) -> ClientBuilder {
    ClientBuilder::new()
        .homeserver("https://example.org/")
        .transport(server.clone())
        .clock(TokioClock::new())
}

/// A client that is in `!r:example.org`, which is not encrypted.
pub(crate) async fn in_a_room(server: &Arc<Scripted>) -> Client {
    server.replies("/sync", vec![ok(&joined_room("s1", false))]);
    let client = client(server).await;
    client.sync_once(Duration::ZERO).await.unwrap();
    client
}

/// The sync response that puts `@alice:example.org` into an unencrypted room.
pub(crate) fn joined_room(next_batch: &str, encrypted: bool) -> Value {
    let mut state = vec![json!({
        "type": "m.room.member", "state_key": "@alice:example.org", "sender": "@alice:example.org",
        "event_id": "$m", "origin_server_ts": 1, "content": { "membership": "join" },
    })];
    if encrypted {
        state.push(json!({
            "type": "m.room.encryption", "state_key": "", "sender": "@alice:example.org",
            "event_id": "$n", "origin_server_ts": 1,
            "content": { "algorithm": "m.megolm.v1.aes-sha2" },
        }));
    }
    json!({
        "next_batch": next_batch,
        "rooms": { "join": { "!r:example.org": {
            "state": { "events": state }, "timeline": { "events": [], "limited": false },
        } } },
    })
}

/// The JSON body of a request.
pub(crate) fn json_body(request: &TransportRequest) -> Value {
    match &request.http.body {
        Body::Json(text) => serde_json::from_str(text).unwrap(),
        _ => Value::Null,
    }
}

/// A server on loopback that answers each request with the next of `answers`, byte for byte, and then
/// closes the connection. Gives its base URL and what it was sent.
pub(crate) async fn loopback(answers: Vec<Vec<u8>>) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    let log = seen.clone();
    tokio::spawn(async move {
        for answer in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            let request = read_request(&mut stream).await;
            log.lock().unwrap().push(request);
            stream.write_all(&answer).await.unwrap();
            stream.shutdown().await.unwrap();
        }
    });
    (url, seen)
}

async fn read_request(stream: &mut tokio::net::TcpStream) -> String {
    let mut bytes = Vec::new();
    loop {
        let mut chunk = [0; 4096];
        let length = stream.read(&mut chunk).await.unwrap();
        bytes.extend_from_slice(&chunk[..length]);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let wanted = head
                .lines()
                .find_map(|line| {
                    line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok()
                })
                .unwrap_or(0);
            if body.len() >= wanted {
                return text;
            }
        }
        assert!(length > 0, "the request ended early");
    }
}

/// A whole HTTP answer.
pub(crate) fn answer(status: &str, headers: &str, body: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n{headers}\r\n{body}",
        body.len()
    )
    .into_bytes()
}
