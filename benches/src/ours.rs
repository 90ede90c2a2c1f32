//! Herold's side: the engine on its SQLCipher store, driven as the client drives it.

use std::{num::NonZeroUsize, path::Path, sync::Arc};

use bench_work::{Directory, ROOM, Shared, Side};
use herold::{
    Answer, Body, ClientError, Engine, Opened, OsEntropy, Outgoing, Policy, Recipients,
    RestoredKey, RoomId, SecretString, SqliteStore, StoreKey, StoreOptions, SystemClock, Threads,
    UserId, import_room_keys,
};
use herold_crypto::{BackupDecryptionKey, ExportedSession};
use herold_machine::{BackupEntry, backup_entries};
use herold_store::{SnapshotExt as _, records::InboundSessionRecord};
use herold_trust::KeySource;
use serde_json::{Value, json, value::RawValue};

/// Both sides' stores are encrypted with a key of the host's.
const STORE_KEY: [u8; 32] = [7; 32];

fn main() {
    bench_work::main::<Herold>();
}

struct Herold {
    engine: Engine,
    /// The request of the message that is on its way.
    sending: Option<Outgoing>,
    syncs: u64,
    events: u64,
}

impl Side for Herold {
    /// A sync response.
    type Batch = Vec<u8>;
    type Response = Vec<u8>;

    fn open(folder: &Path, user: &str, device: &str) -> Self {
        let key = StoreKey::raw(STORE_KEY);
        let store = SqliteStore::open_or_create(folder, &key, &StoreOptions::default())
            .expect("the store opens");
        let policy = Policy { recipients: Recipients::AllDevices, ..Policy::default() };
        let clock = Arc::new(SystemClock);
        let engine = if folder.join("made").exists() {
            Engine::load(Box::new(store), clock, Box::new(OsEntropy))
        } else {
            std::fs::write(folder.join("made"), "").expect("the folder can be written to");
            let user = UserId::parse(user).expect("a user id");
            Engine::create(
                Box::new(store),
                user,
                device.into(),
                policy,
                None,
                clock,
                Box::new(OsEntropy),
            )
        };
        let mut engine = engine.expect("an engine");
        engine.set_workers(Arc::new(Threads::default()));
        Self { engine, sending: None, syncs: 0, events: 0 }
    }

    fn upload(&mut self) -> Value {
        let mut asked = json!({});
        for request in self.engine.due_requests().expect("requests are made").reply {
            if request.kind() == "keys_upload" {
                asked = body(&request);
                self.answer(&request, r#"{"one_time_key_counts":{"signed_curve25519":50}}"#);
            } else {
                self.engine.abandon(&request.id);
            }
        }
        asked
    }

    fn enter(&mut self, server: &dyn Directory) {
        let own = self.engine.machine().user_id().to_string();
        let mut state = self.members(server);
        state.push(json!({
            "type": "m.room.encryption",
            "state_key": "",
            "sender": own,
            "event_id": "$encryption",
            "origin_server_ts": 2,
            "content": { "algorithm": "m.megolm.v1.aes-sha2", "rotation_period_msgs": 10_000 },
        }));
        let response = json!({
            "next_batch": "entered",
            "rooms": { "join": { ROOM: {
                "state": { "events": state },
                "timeline": { "events": [], "limited": false },
            } } },
        });
        self.take(response.to_string().as_bytes());
        self.queue("hello");
        self.send_off(server);
        self.accepted();
    }

    fn share(&mut self, server: &dyn Directory, text: &str) -> Shared {
        self.engine
            .step(|machine, snapshot, cx| machine.discard_room_key(snapshot, cx, room()))
            .expect("the key can be dropped");
        self.queue(text);
        self.send_off(server)
    }

    fn encrypt(&mut self, text: &str) -> String {
        self.queue(text);
        let mut due = self.engine.due_requests().expect("requests are made").reply;
        let kinds: Vec<&str> = due.iter().map(Outgoing::kind).collect();
        assert_eq!(kinds, ["send"], "the message is the only request");
        let request = due.pop().expect("it is there");
        let content = body_text(&request);
        self.sending = Some(request);
        content
    }

    fn send(&mut self, text: &str) -> String {
        self.encrypt(text) // it always looks
    }

    fn accepted(&mut self) {
        let request = self.sending.take().expect("a message is on its way");
        self.events += 1;
        let sent = json!({ "event_id": format!("$sent{}", self.events) }).to_string();
        self.answer(&request, &sent);
        self.acknowledge();
    }

    fn batch(events: &[Value]) -> Self::Batch {
        let response = json!({
            "next_batch": events[0]["event_id"],
            "device_one_time_keys_count": { "signed_curve25519": 50 },
            "device_unused_fallback_key_types": ["signed_curve25519"],
            "rooms": { "join": { ROOM: {
                "state": { "events": [] },
                "timeline": { "events": events, "limited": false },
            } } },
        });
        response.to_string().into_bytes()
    }

    fn decrypt(&mut self, batch: &Self::Batch) {
        self.take(batch);
    }

    fn texts(&mut self, batch: &Self::Batch) -> Vec<String> {
        let response: Value = serde_json::from_slice(batch).expect("JSON");
        let events = &response["rooms"]["join"][ROOM]["timeline"]["events"];
        let count = events.as_array().expect("events").len();
        let shown = self
            .engine
            .read(|machine, snapshot| machine.timeline(snapshot, room(), count))
            .expect("the timeline can be read");
        self.acknowledge();
        shown
            .iter()
            .map(|event| {
                let clear = event.body.as_ref().expect("it is decrypted");
                let content: Value = serde_json::from_str(&clear.content).expect("JSON");
                content["body"].as_str().expect("a text").to_owned()
            })
            .collect()
    }

    fn response(&mut self, to_device: &[Value]) -> Self::Response {
        self.syncs += 1;
        let response = json!({
            "next_batch": format!("s{}", self.syncs),
            "device_one_time_keys_count": { "signed_curve25519": 50 },
            "device_unused_fallback_key_types": ["signed_curve25519"],
            "to_device": { "events": to_device },
        });
        response.to_string().into_bytes()
    }

    fn sync(&mut self, response: &Self::Response) {
        self.take(response);
    }

    fn room_keys(&mut self) -> usize {
        let own = self.engine.machine().identity_keys().curve25519;
        let keys = self.engine.snapshot().list::<InboundSessionRecord>(&[], usize::MAX);
        let keys = keys.expect("the keys can be listed");
        keys.iter().filter(|(_, record)| record.sender_key != own).count()
    }

    fn import(&mut self, export: &[u8]) {
        let entries: Vec<&RawValue> = serde_json::from_slice(export).expect("an export");
        let open = |page: &[&RawValue]| {
            let open = |entry: &&RawValue| {
                let entry = ExportedSession::parse(entry.get().as_bytes()).expect("a room key");
                RestoredKey::from_export(entry).expect("a room key")
            };
            Ok(Opened { keys: page.iter().map(open).collect(), refused: 0 })
        };
        self.store_keys(KeySource::Imported, entries.chunks(PARSED_AT_ONCE), open);
    }

    fn restore(&mut self, secret: &str, body: &[u8]) {
        let key = BackupDecryptionKey::from_secret(&SecretString::new(secret.to_owned()));
        let key = key.expect("a key");
        let (entries, refused) = backup_entries(body).expect("a download");
        assert_eq!(refused, 0);
        let open = |page: &[BackupEntry<'_>]| {
            let open = |entry: &BackupEntry<'_>| entry.open(&key).expect("a room key");
            Ok(Opened { keys: page.iter().map(open).collect(), refused: 0 })
        };
        self.store_keys(KeySource::Backup, entries.chunks(PARSED_AT_ONCE), open);
    }

    fn use_one_core(&mut self) {
        self.engine.set_workers(Arc::new(Threads::new(NonZeroUsize::MIN)));
    }

    fn close(self) {
        drop(self.engine);
    }
}

/// As the client does with a key file.
const PARSED_AT_ONCE: usize = 500;

impl Herold {
    /// As the client does with what it has read.
    fn store_keys<P: Send>(
        &mut self,
        source: KeySource,
        pages: impl Iterator<Item = P> + Send,
        open: impl Fn(P) -> Result<Opened, ClientError> + Sync,
    ) {
        let take = |keys| {
            let step = self
                .engine
                .step(|machine, snapshot, cx| machine.import_room_keys(snapshot, cx, keys, source));
            Ok(step?.reply)
        };
        import_room_keys(&Threads::default(), source, pages, open, take)
            .expect("the keys are taken");
    }

    fn take(&mut self, response: &[u8]) {
        self.engine
            .step(|machine, snapshot, cx| machine.handle_sync(snapshot, cx, response))
            .expect("the response is taken");
    }

    /// The room's membership events.
    fn members(&self, server: &dyn Directory) -> Vec<Value> {
        let own = self.engine.machine().user_id().to_string();
        let users = server.users();
        let member = |user: &String| {
            json!({
                "type": "m.room.member",
                "state_key": user,
                "sender": user,
                "event_id": format!("$member{user}"),
                "origin_server_ts": 1,
                "content": { "membership": "join" },
            })
        };
        users.iter().chain(std::iter::once(&own)).map(member).collect()
    }

    fn queue(&mut self, text: &str) {
        let content = json!({ "msgtype": "m.text", "body": text });
        self.engine
            .step(|machine, snapshot, cx| {
                machine.queue_event(snapshot, cx, room(), "m.room.message", &content, None)
            })
            .expect("it is queued");
    }

    /// Answers everything up to the message itself.
    fn send_off(&mut self, server: &dyn Directory) -> Shared {
        let mut to_device = Vec::new();
        loop {
            let due = self.engine.due_requests().expect("requests are made").reply;
            assert!(!due.is_empty(), "the message goes out");
            for request in due {
                let asked = match request.kind() {
                    "send" => {
                        let first = body_text(&request);
                        self.sending = Some(request);
                        return Shared { to_device, first };
                    }
                    "send_to_device" => {
                        to_device.push(body_text(&request));
                        self.answer(&request, "{}");
                        continue;
                    }
                    _ => body(&request),
                };
                let answer = match request.kind() {
                    "members" => json!({ "chunk": self.members(server) }).to_string(),
                    "keys_query" => server.keys_query(&asked).to_string(),
                    "keys_claim" => server.keys_claim(&asked).to_string(),
                    other => panic!("not expected: {other}"),
                };
                self.answer(&request, &answer);
            }
        }
    }

    fn answer(&mut self, request: &Outgoing, body: &str) {
        let answer = Answer::Response { status: 200, retry_after_ms: None, body: body.as_bytes() };
        self.engine.answer(request, answer).expect("the answer is taken");
    }

    /// The app has seen everything so far.
    fn acknowledge(&mut self) {
        let events = self
            .engine
            .read(|machine, snapshot| machine.events_after(snapshot, None, usize::MAX))
            .expect("events can be listed");
        let Some((last, _)) = events.last() else { return };
        let last = *last;
        self.engine
            .step(|machine, snapshot, cx| machine.acknowledge(snapshot, cx, last))
            .expect("events can be acknowledged");
    }
}

fn body(request: &Outgoing) -> Value {
    match &request.http.body {
        Body::Json(text) => serde_json::from_str(text).expect("JSON"),
        _ => Value::Null,
    }
}

/// The body as it goes on the wire.
fn body_text(request: &Outgoing) -> String {
    let Body::Json(text) = &request.http.body else { panic!("a request with a JSON body") };
    text.clone()
}

fn room() -> &'static RoomId {
    <&RoomId>::try_from(ROOM).expect("a room id")
}
