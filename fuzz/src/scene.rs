//! The scene: three devices after a conversation, recorded once (`cargo run --bin record`) and kept in
//! `scene.json`, so that an input means the same in every process and on every machine.
//!
//! Alice is the device under test. Bob and Mallory are members of the room `shared`; `secret` has Alice and
//! Bob only, `clear` is not encrypted. Their keys are made up for this purpose and protect nothing.

use std::sync::OnceLock;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use herold_store::{ChangeSet, MemoryStore, Store as _, Table};
use herold_trust::Timestamp;
use serde::{Deserialize, Serialize};

use crate::records;

/// What `scene.json` holds.
#[derive(Serialize, Deserialize)]
pub struct Scene {
    /// The time, in milliseconds.
    pub now: u64,
    /// Alice's user.
    pub alice: String,
    /// Alice's device.
    pub alice_device: String,
    /// Alice's Curve25519 key.
    pub alice_curve25519: String,
    /// Alice's store after the conversation.
    pub store: Dump,
    /// Alice's store at moments when a request was due.
    pub stages: Vec<Stage>,
    /// Bob.
    pub bob: Peer,
    /// Mallory.
    pub mallory: Peer,
    /// The room of all three.
    pub shared: String,
    /// The room of Alice and Bob.
    pub secret: String,
    /// The room that is not encrypted.
    pub clear: String,
    /// A sync response that no seed is made from: a room key from Bob and a message under it.
    pub probe: Probe,
}

/// A store's rows: table, key, value; the latter two in base64.
#[derive(Serialize, Deserialize)]
pub struct Dump(pub Vec<(String, String, String)>);

/// A store in which a request is due.
#[derive(Serialize, Deserialize)]
pub struct Stage {
    /// The kind of the request.
    pub kind: String,
    /// The request's name.
    pub id: String,
    /// The time.
    pub now: u64,
    /// The store.
    pub store: Dump,
}

/// A device that talks to Alice: what is needed to write in its name.
#[derive(Serialize, Deserialize)]
pub struct Peer {
    /// Its user.
    pub user_id: String,
    /// Its id.
    pub device_id: String,
    /// Its Curve25519 key.
    pub curve25519: String,
    /// Its Olm session with Alice, in base64.
    pub olm: String,
    /// Its outbound Megolm session in `shared`, which Alice has the key of, in base64.
    pub megolm: String,
}

/// Something genuine that has to arrive whatever came before it.
#[derive(Serialize, Deserialize)]
pub struct Probe {
    /// The sync response.
    pub sync: String,
    /// The event's id; it is in the room `shared`, and from Bob.
    pub event_id: String,
    /// Its text.
    pub text: String,
}

impl Dump {
    /// The rows of a store.
    #[must_use]
    pub fn of(store: &MemoryStore) -> Self {
        let row = |(table, key, value): records::Row| {
            let name = table.name().to_owned();
            (name, BASE64_STANDARD.encode(key), BASE64_STANDARD.encode(value))
        };
        Self(records::rows(store).into_iter().map(row).collect())
    }

    /// A store with these rows.
    ///
    /// # Panics
    /// The dump is damaged.
    #[must_use]
    pub fn store(&self) -> MemoryStore {
        let mut changes = ChangeSet::new();
        for (name, key, value) in &self.0 {
            // A table that has gone since is left out.
            if let Some(table) = Table::ALL.iter().find(|table| table.name() == name) {
                changes.put_row(*table, decode(key), decode(value));
            }
        }
        let mut store = MemoryStore::new();
        store.commit(&changes).expect("memory takes a commit");
        store
    }
}

/// Base64 of the scene.
///
/// # Panics
/// It is damaged.
#[must_use]
pub fn decode(base64: &str) -> Vec<u8> {
    BASE64_STANDARD.decode(base64).expect("the scene is base64")
}

/// The scene, with the stores made.
pub struct Ready {
    /// As recorded.
    pub scene: Scene,
    /// Alice's store.
    pub store: MemoryStore,
    /// The stores of the stages.
    pub stages: Vec<MemoryStore>,
}

impl Ready {
    /// The scene's time.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.scene.now)
    }
}

/// The scene, read once for a process.
///
/// # Panics
/// `scene.json` is damaged.
pub fn scene() -> &'static Ready {
    static READY: OnceLock<Ready> = OnceLock::new();
    READY.get_or_init(|| {
        let scene: Scene =
            serde_json::from_str(include_str!("../scene.json")).expect("the scene is whole");
        let store = scene.store.store();
        let stages = scene.stages.iter().map(|stage| stage.store.store()).collect();
        Ready { scene, store, stages }
    })
}
