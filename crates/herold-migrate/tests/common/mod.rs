//! The fixtures, and an account that was taken over in a world made of data.
//!
//! The stores were made by `migration-fixture` in `benches/opponent`: matrix-sdk-crypto 0.18 with its SQLite store, one
//! without a passphrase and one with. `world.json` beside them says what is in them, and what others have sent since.

#![allow(dead_code, reason = "no test uses all of it")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use herold::{
    Answer, Body, Engine, LoginRecord, OsEntropy, Policy, RoomEvent, SqliteStore, StoreKey,
    StoreOptions, SystemClock, Timestamp,
};
use herold_crypto::SecretString;
use herold_migrate::{MigrateError, Report, Source, SourceSecret, Target};
use rusqlite::Connection;
use serde_json::{Value, json};

pub const PASSPHRASE: &str = "correct horse battery staple";
pub const FILE: &str = "matrix-sdk-crypto.sqlite3";
/// After everything in the fixtures.
pub const NOW: Timestamp = Timestamp::from_millis(1_900_000_000_000);
/// Both fixtures, and what opens them.
pub const FIXTURES: [&str; 2] = ["none", "passphrase"];

pub fn secret(fixture: &str) -> Option<SourceSecret> {
    let passphrase = || SourceSecret::Passphrase(SecretString::new(PASSPHRASE.to_owned()));
    (fixture == "passphrase").then(passphrase)
}

/// A copy of a fixture.
pub fn copy(fixture: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(fixture);
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    folder
}

/// A copy of a fixture whose rows have been changed.
pub fn changed(fixture: &str, change: impl FnOnce(&Connection)) -> tempfile::TempDir {
    let folder = copy(fixture);
    let connection = Connection::open(folder.path().join(FILE)).unwrap();
    change(&connection);
    connection.close().unwrap();
    folder
}

/// Every file in a folder with its bytes.
pub fn bytes(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.clone(), fs::read(path).unwrap()))
        .collect()
}

pub fn world(folder: &Path) -> Value {
    serde_json::from_slice(&fs::read(folder.join("world.json")).unwrap()).unwrap()
}

pub fn open(folder: &Path, fixture: &str) -> Result<Source, MigrateError> {
    Source::open(folder, secret(fixture).as_ref())
}

/// What a dry run says.
pub fn dry_run(folder: &Path, fixture: &str) -> Result<Report, MigrateError> {
    let found = open(folder, fixture)?.read(NOW)?;
    found.dry_run(Policy::default(), NOW, &mut OsEntropy)
}

pub fn store_key() -> StoreKey {
    StoreKey::raw([9; 32])
}

pub fn login() -> LoginRecord {
    LoginRecord {
        homeserver: "https://matrix.example.org".to_owned(),
        access_token: SecretString::new("token".to_owned()),
        logged_out: false,
        deployment: "test".to_owned(),
    }
}

pub fn write(source: &Source, target: &Path) -> Result<Report, MigrateError> {
    source.read(NOW)?.write(
        Target {
            folder: target,
            key: &store_key(),
            options: &StoreOptions::default(),
            login: &login(),
            policy: Policy::default(),
        },
        NOW,
        &mut OsEntropy,
    )
}

/// Everybody, as members of the room.
pub fn members(world: &Value) -> Vec<Value> {
    let member = |user: &Value| {
        json!({
            "type": "m.room.member", "state_key": user, "sender": user,
            "event_id": format!("$m{}", user.as_str().unwrap()), "origin_server_ts": 1,
            "content": { "membership": "join" },
        })
    };
    world["users"].as_array().unwrap().iter().map(member).collect()
}

/// The account that was taken over, and its world.
pub struct Device {
    pub engine: Engine,
    pub world: Value,
    /// Requests that were answered, by kind, with their bodies.
    pub asked: Vec<(&'static str, Value)>,
    syncs: u64,
}

impl Device {
    pub fn open(folder: &Path, world: Value) -> Self {
        let store = SqliteStore::open(folder, &store_key(), &StoreOptions::default()).unwrap();
        let engine =
            Engine::load(Box::new(store), Arc::new(SystemClock), Box::new(OsEntropy)).unwrap();
        Self { engine, world, asked: Vec::new(), syncs: 0 }
    }

    /// Answers everything the device asks for.
    pub fn settle(&mut self) {
        for _ in 0..20 {
            let due = self.engine.due_requests().unwrap().reply;
            if due.is_empty() {
                return;
            }
            for request in due {
                let body: Value = match &request.http.body {
                    Body::Json(text) => serde_json::from_str(text).unwrap(),
                    _ => Value::Null,
                };
                let answer = match request.kind() {
                    "keys_upload" => json!({ "one_time_key_counts": { "signed_curve25519": 50 } }),
                    "keys_query" => self.keys_query(&body),
                    "keys_claim" => json!({ "one_time_keys": {} }),
                    "backup_upload" => json!({ "etag": "2", "count": 9 }),
                    "members" => json!({ "chunk": members(&self.world) }),
                    _ => json!({}),
                };
                self.asked.push((request.kind(), body));
                let body = answer.to_string().into_bytes();
                let answer = Answer::Response { status: 200, retry_after_ms: None, body: &body };
                self.engine.answer(&request, answer).unwrap();
            }
        }
        panic!("the device never comes to rest");
    }

    fn keys_query(&self, asked: &Value) -> Value {
        let mut answer = self.world["keys_query"].clone();
        for (name, section) in answer.as_object_mut().unwrap() {
            let of_all = name == "user_signing_keys";
            section.as_object_mut().unwrap().retain(|user, _| {
                asked["device_keys"].get(user).is_some()
                    && (!of_all || *user == self.world["user_id"])
            });
        }
        answer
    }

    /// A sync with these messages to the device and these events in the room.
    pub fn sync(&mut self, to_device: &Value, room: &str, events: &[Value]) {
        self.syncs += 1;
        let encryption = json!({
            "type": "m.room.encryption", "state_key": "", "sender": "@bob:example.org",
            "event_id": format!("$state{}", self.syncs), "origin_server_ts": 1,
            "content": { "algorithm": "m.megolm.v1.aes-sha2" },
        });
        let body = json!({
            "next_batch": format!("s{}", self.syncs),
            "device_one_time_keys_count": { "signed_curve25519": 50 },
            "device_unused_fallback_key_types": ["signed_curve25519"],
            "to_device": { "events": to_device },
            "rooms": { "join": { room: {
                "state": { "events": [encryption] },
                "timeline": { "events": events, "limited": false, "prev_batch": "p" },
            } } },
        });
        let body = body.to_string();
        self.engine
            .step(|machine, snapshot, cx| machine.handle_sync(snapshot, cx, body.as_bytes()))
            .unwrap();
        self.settle();
    }

    /// The event in the room's timeline.
    pub fn event(&self, room: &str, event_id: &Value) -> RoomEvent {
        let room = room.try_into().unwrap();
        let timeline =
            self.engine.read(|machine, snapshot| machine.timeline(snapshot, room, 100)).unwrap();
        timeline.into_iter().find(|event| event.event_id == event_id.as_str().unwrap()).unwrap()
    }

    /// Asserts that the message reads as it was written, and gives it.
    #[track_caller]
    pub fn reads(&self, message: &Value) -> RoomEvent {
        let event = &message["event"];
        let shown = self.event(event["room_id"].as_str().unwrap(), &event["event_id"]);
        let clear = shown
            .body
            .as_ref()
            .unwrap_or_else(|utd| panic!("{} cannot be decrypted: {utd:?}", message["text"]));
        let content: Value = serde_json::from_str(&clear.content).unwrap();
        assert_eq!(content["body"], message["text"]);
        assert_eq!(shown.sender.as_str(), event["sender"]);
        shown
    }
}
