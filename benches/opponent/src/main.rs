//! The opponent's side: matrix-sdk-crypto with its SQLite store, used as its documentation says.

use std::{collections::BTreeMap, mem::ManuallyDrop, path::Path};

use bench_work::{Directory, ROOM, Shared, Side};
use matrix_sdk_crypto::{
    CollectStrategy, DecryptionSettings, EncryptionSettings, EncryptionSyncChanges, OlmMachine,
    TrustRequirement, types::events::room::encrypted::EncryptedEvent,
    types::requests::AnyOutgoingRequest,
};
use matrix_sdk_crypto::{olm::ExportedRoomKey, store::types::BackupDecryptionKey};
use matrix_sdk_sqlite::SqliteCryptoStore;
use ruma::{
    OneTimeKeyAlgorithm, OwnedUserId, RoomId, UInt, UserId,
    api::{
        IncomingResponse,
        client::{backup, keys, sync::sync_events::DeviceLists, to_device::send_event_to_device},
    },
    events::{AnyMessageLikeEventContent, AnyToDeviceEvent},
    serde::Raw,
};
use serde_json::{Value, json, value::RawValue};
use tokio::runtime::Runtime;

/// Both sides' stores are encrypted with a key of the host's.
const STORE_KEY: [u8; 32] = [7; 32];

fn main() {
    bench_work::main::<Opponent>();
}

struct Opponent {
    runtime: Runtime,
    /// Its store can only be dropped inside the runtime; the process ends with it.
    machine: ManuallyDrop<OlmMachine>,
    users: Vec<OwnedUserId>,
}

impl Side for Opponent {
    type Batch = Vec<Raw<EncryptedEvent>>;
    type Response = Vec<Raw<AnyToDeviceEvent>>;

    fn open(folder: &Path, user: &str, device: &str) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
        let user = UserId::parse(user).expect("a user id");
        let machine = runtime.block_on(async {
            let store = SqliteCryptoStore::open_with_key(folder, Some(&STORE_KEY))
                .await
                .expect("the store opens");
            OlmMachine::with_store(&user, device.into(), store, None).await.expect("a machine")
        });
        Self { runtime, machine: ManuallyDrop::new(machine), users: Vec::new() }
    }

    fn upload(&mut self) -> Value {
        let mut body = None;
        self.answer(|request| match request {
            AnyOutgoingRequest::KeysUpload(upload) => {
                body = Some(json!({
                    "device_keys": upload.device_keys,
                    "one_time_keys": upload.one_time_keys,
                }));
                Some(json!({ "one_time_key_counts": { "signed_curve25519": 50 } }))
            }
            _ => None,
        });
        body.expect("a new account uploads its keys")
    }

    fn enter(&mut self, server: &dyn Directory) {
        self.users =
            server.users().iter().map(|user| UserId::parse(user).expect("a user id")).collect();
        self.runtime
            .block_on(self.machine.update_tracked_users(self.users.iter().map(AsRef::as_ref)))
            .expect("users can be tracked");
        self.answer(|request| match request {
            AnyOutgoingRequest::KeysQuery(query) => {
                Some(server.keys_query(&json!({ "device_keys": query.device_keys })))
            }
            _ => None,
        });
    }

    fn share(&mut self, server: &dyn Directory, text: &str) -> Shared {
        let runtime = &self.runtime;
        let machine = &self.machine;
        let to_device = runtime.block_on(async {
            machine.discard_room_key(room()).await.expect("the key can be dropped");
            let users = || self.users.iter().map(AsRef::as_ref);
            if let Some((id, claim)) =
                machine.get_missing_sessions(users()).await.expect("sessions are looked for")
            {
                let answer = server.keys_claim(&json!({ "one_time_keys": claim.one_time_keys }));
                let answer: keys::claim_keys::v3::Response = response(answer);
                machine.mark_request_as_sent(&id, &answer).await.expect("the answer is taken");
            }
            let requests = machine
                .share_room_key(room(), users(), settings())
                .await
                .expect("the key is shared");
            let mut bodies = Vec::new();
            for request in requests {
                let body = BTreeMap::from([("messages", &request.messages)]);
                bodies.push(serde_json::to_string(&body).expect("JSON"));
                let answer = send_event_to_device::v3::Response::new();
                machine
                    .mark_request_as_sent(&request.txn_id, &answer)
                    .await
                    .expect("the answer is taken");
            }
            bodies
        });
        let first = self.encrypt(text);
        Shared { to_device, first }
    }

    fn encrypt(&mut self, text: &str) -> String {
        let content = json!({ "msgtype": "m.text", "body": text });
        let content = Raw::<AnyMessageLikeEventContent>::from_json(raw(&content));
        let encrypted = self
            .runtime
            .block_on(self.machine.encrypt_room_event_raw(room(), "m.room.message", &content))
            .expect("it encrypts");
        encrypted.content.json().get().to_owned()
    }

    fn send(&mut self, text: &str) -> String {
        let users = self.users.iter().map(AsRef::as_ref);
        let missing = self.runtime.block_on(async {
            let users = users.clone();
            self.machine.get_missing_sessions(users).await.expect("sessions are looked for")
        });
        assert!(missing.is_none(), "all channels are established");
        let requests = self
            .runtime
            .block_on(self.machine.share_room_key(room(), users, settings()))
            .expect("the key is shared");
        assert!(requests.is_empty(), "everybody has the key");
        self.encrypt(text)
    }

    fn accepted(&mut self) {}

    fn batch(events: &[Value]) -> Self::Batch {
        events.iter().map(|event| Raw::from_json(raw(event))).collect()
    }

    fn decrypt(&mut self, batch: &Self::Batch) {
        self.runtime.block_on(async {
            for event in batch {
                let settings = trust();
                let clear = self.machine.decrypt_room_event(event, room(), &settings).await;
                std::hint::black_box(clear.expect("it decrypts"));
            }
        });
    }

    fn texts(&mut self, batch: &Self::Batch) -> Vec<String> {
        let texts = self.runtime.block_on(async {
            let mut texts = Vec::new();
            for event in batch {
                let clear = self
                    .machine
                    .decrypt_room_event(event, room(), &trust())
                    .await
                    .expect("it decrypts");
                texts.push(clear.event.json().get().to_owned());
            }
            texts
        });
        texts
            .iter()
            .map(|event| {
                let event: Value = serde_json::from_str(event).expect("JSON");
                event["content"]["body"].as_str().expect("a text").to_owned()
            })
            .collect()
    }

    fn response(&mut self, to_device: &[Value]) -> Self::Response {
        to_device.iter().map(|event| Raw::from_json(raw(event))).collect()
    }

    fn sync(&mut self, response: &Self::Response) {
        let counts = BTreeMap::from([(OneTimeKeyAlgorithm::SignedCurve25519, UInt::from(50_u32))]);
        let lists = DeviceLists::new();
        let changes = EncryptionSyncChanges {
            to_device_events: response.clone(),
            changed_devices: &lists,
            one_time_keys_counts: &counts,
            unused_fallback_keys: Some(&[OneTimeKeyAlgorithm::SignedCurve25519]),
            next_batch_token: Some("next".to_owned()),
        };
        self.runtime
            .block_on(self.machine.receive_sync_changes(changes, &trust()))
            .expect("the response is taken");
    }

    fn room_keys(&mut self) -> usize {
        let own = self.machine.identity_keys().curve25519;
        self.runtime.block_on(async {
            let exported =
                self.machine.store().export_room_keys(|session| session.sender_key() != own);
            exported.await.expect("the keys can be listed").len()
        })
    }

    fn import(&mut self, export: &[u8]) {
        let keys: Vec<ExportedRoomKey> = serde_json::from_slice(export).expect("an export");
        self.runtime
            .block_on(self.machine.store().import_exported_room_keys(keys, |_, _| ()))
            .expect("the keys are taken");
    }

    fn restore(&mut self, secret: &str, body: &[u8]) {
        let key = BackupDecryptionKey::from_base64(secret).expect("a key");
        let body: backup::get_backup_keys::v3::Response = parsed(body.to_vec());
        let mut keys = Vec::new();
        for (room_id, room) in body.rooms {
            for (session_id, entry) in room.sessions {
                let entry = entry.deserialize().expect("an entry");
                let key = key.decrypt_session_data(entry.session_data).expect("it decrypts");
                keys.push(ExportedRoomKey::from_backed_up_room_key(
                    room_id.clone(),
                    session_id,
                    key,
                ));
            }
        }
        self.runtime
            .block_on(self.machine.store().import_room_keys(keys, Some("1"), |_, _| ()))
            .expect("the keys are taken");
    }

    fn use_one_core(&mut self) {
        // It decrypts one event after the other; only its store has a thread of its own.
    }

    fn close(self) {
        // What it leaves in the log is there for the next process.
        std::mem::forget(self);
    }
}

impl Opponent {
    /// Answers what it asks for, as `server` says.
    fn answer(&mut self, mut server: impl FnMut(&AnyOutgoingRequest) -> Option<Value>) {
        let requests =
            self.runtime.block_on(self.machine.outgoing_requests()).expect("requests are made");
        for request in requests {
            let Some(answer) = server(request.request()) else { continue };
            let id = request.request_id();
            self.runtime
                .block_on(async {
                    match request.request() {
                        AnyOutgoingRequest::KeysUpload(_) => {
                            let answer: keys::upload_keys::v3::Response = response(answer);
                            self.machine.mark_request_as_sent(id, &answer).await
                        }
                        _ => {
                            let answer: keys::get_keys::v3::Response = response(answer);
                            self.machine.mark_request_as_sent(id, &answer).await
                        }
                    }
                })
                .expect("the answer is taken");
        }
    }
}

fn response<R: IncomingResponse>(body: Value) -> R {
    parsed(body.to_string().into_bytes())
}

fn parsed<R: IncomingResponse>(body: Vec<u8>) -> R {
    let response = http::Response::builder().status(200).body(body);
    match R::try_from_http_response(response.expect("a response")) {
        Ok(response) => response,
        Err(_) => panic!("the answer is of the specification's form"),
    }
}

fn raw(value: &Value) -> Box<RawValue> {
    RawValue::from_string(value.to_string()).expect("JSON")
}

fn room() -> &'static RoomId {
    <&RoomId>::try_from(ROOM).expect("a room id")
}

/// As the room's state says on Herold's side.
fn settings() -> EncryptionSettings {
    EncryptionSettings {
        rotation_period_msgs: 10_000,
        sharing_strategy: CollectStrategy::AllDevices,
        ..EncryptionSettings::default()
    }
}

fn trust() -> DecryptionSettings {
    DecryptionSettings { sender_device_trust_requirement: TrustRequirement::Untrusted }
}
