//! Makes a store of matrix-sdk-crypto with known contents, for the tests of `herold migrate`, and the world around it:
//! what others have sent and the device has not seen yet.
//!
//! `migration-fixture FOLDER none|passphrase|key` writes `matrix-sdk-crypto.sqlite3` (with a write-ahead log that was not
//! taken in, as a process that was killed leaves it) and `world.json`.

use std::{collections::BTreeMap, fs, path::Path};

use matrix_sdk_crypto::{
    CollectStrategy, DecryptionSettings, EncryptionSettings, EncryptionSyncChanges, LocalTrust,
    OlmMachine, TrustRequirement, UserIdentity,
    store::types::{BackupDecryptionKey, RoomSettings},
    types::requests::AnyOutgoingRequest,
};
use matrix_sdk_sqlite::SqliteCryptoStore;
use ruma::{
    OneTimeKeyAlgorithm, OwnedUserId, RoomId, UInt, UserId,
    api::{
        IncomingResponse,
        client::{
            backup::add_backup_keys, keys, sync::sync_events::DeviceLists,
            to_device::send_event_to_device,
        },
    },
    events::{
        AnyMessageLikeEventContent, AnyToDeviceEvent, room::history_visibility::HistoryVisibility,
    },
    serde::Raw,
};
use serde_json::{Map, Value, json, value::RawValue};

/// What opens the encrypted stores.
const PASSPHRASE: &str = "correct horse battery staple";
const KEY: [u8; 32] = [7; 32];
const FILE: &str = "matrix-sdk-crypto.sqlite3";
const ROOM: &str = "!hall:example.org";
const SIDE_ROOM: &str = "!chamber:example.org";
/// As many sessions of Bob's come before the others.
const SESSIONS: usize = 8;

#[tokio::main(flavor = "multi_thread")]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let (Some(folder), Some(secret)) = (arguments.next(), arguments.next()) else {
        panic!("migration-fixture FOLDER none|passphrase|key");
    };
    let folder = Path::new(&folder);
    fs::create_dir_all(folder).expect("the folder can be made");
    let work = folder.join("work");
    fs::create_dir_all(&work).expect("the folder can be made");
    small_pages(&work.join(FILE));
    let store = match secret.as_str() {
        "none" => SqliteCryptoStore::open(&work, None).await,
        "passphrase" => SqliteCryptoStore::open(&work, Some(PASSPHRASE)).await,
        "key" => SqliteCryptoStore::open_with_key(&work, Some(&KEY)).await,
        other => panic!("what is {other}?"),
    };
    let store = store.expect("the store opens");
    let alice = Person::with_store("@alice:example.org", "ALICEDEV", store).await;
    let world = play(alice, &work).await;
    // While it is open: with the log.
    for suffix in ["", "-wal"] {
        let name = format!("{FILE}{suffix}");
        fs::copy(work.join(&name), folder.join(&name)).expect("the store can be copied");
    }
    let world = serde_json::to_vec(&world).expect("JSON");
    fs::write(folder.join("world.json"), world).expect("the world can be written");
    fs::remove_dir_all(work).expect("the working copy can go");
    std::process::exit(0);
}

fn small_pages(path: &Path) {
    let connection = rusqlite::Connection::open(path).expect("the file can be made");
    connection
        .execute_batch("PRAGMA page_size = 512; PRAGMA journal_mode = wal; VACUUM;")
        .expect("the page size can be set");
}

/// Takes in the log, so that it does not become larger than the store.
fn checkpoint(folder: &Path) {
    let connection = rusqlite::Connection::open(folder.join(FILE)).expect("the file opens");
    connection
        .query_row("PRAGMA wal_checkpoint(TRUNCATE)", (), |_| Ok(()))
        .expect("the log can be taken in");
}

async fn play(alice: Person, folder: &Path) -> Value {
    let mut server = Server::default();
    let bob = Person::new("@bob:example.org", "BOBDEV").await;
    let carol = Person::new("@carol:example.org", "CAROLDEV").await;
    let dave = Person::new("@dave:example.org", "DAVEDEV").await;
    let erin = Person::new("@erin:example.org", "ERINDEV").await;
    let frank = Person::new("@frank:example.org", "FRANKDEV").await;
    let all = [&alice, &bob, &carol, &dave, &erin, &frank];
    for person in all {
        // A server without a fallback key makes the device publish one.
        person.sync(&[], false).await;
        person.upload(&mut server).await;
    }
    // Dave has no identity.
    for person in [&alice, &bob, &carol, &erin, &frank] {
        person.bootstrap(&mut server).await;
    }
    let users: Vec<OwnedUserId> = all.iter().map(|person| person.user.clone()).collect();
    for person in all {
        person.track(&users).await;
        person.query(&server).await;
    }

    // Alice has verified Bob, trusts Carol's device by hand, and blocks Dave's.
    alice.verify(&bob.user, &mut server).await;
    alice.trust_locally(&carol, LocalTrust::Verified).await;
    alice.trust_locally(&dave, LocalTrust::BlackListed).await;

    let hall = <&RoomId>::try_from(ROOM).expect("a room id");
    let chamber = <&RoomId>::try_from(SIDE_ROOM).expect("a room id");
    alice
        .machine
        .set_room_settings(
            hall,
            &RoomSettings { session_rotation_period_messages: Some(77), ..RoomSettings::default() },
        )
        .await
        .expect("settings can be set");

    // Bob's sessions; the last ones are not in the backup.
    let mut old_messages = Vec::new();
    for number in 0..SESSIONS {
        let (keys, message) = bob
            .say(hall, &users, &mut server, &format!("old message {number}"), number % 2 == 0)
            .await;
        alice.sync(&to(&alice, &keys), true).await;
        for other in [&carol, &dave] {
            other.sync(&to(other, &keys), true).await;
        }
        if number == 0 || number + 1 == SESSIONS {
            old_messages.push(message.clone());
        }
        if number == 0 {
            // Alice answers, so the channel between the two is established both ways.
            let (keys, answer) =
                alice.say(hall, &users, &mut server, "Alice's own message", true).await;
            bob.sync(&to(&bob, &keys), true).await;
            old_messages.push(answer);
        }
        if number + 3 == SESSIONS {
            alice.back_up().await;
        }
    }
    // Dave's session came by Olm from a device without an identity.
    let (keys, message) = dave.say(hall, &users, &mut server, "from Dave", false).await;
    alice.sync(&to(&alice, &keys), true).await;
    let from_dave = message;

    // Erin's session came out of a file.
    let (keys, message) = erin.say(chamber, &users, &mut server, "from a file", false).await;
    carol.sync(&to(&carol, &keys), true).await;
    let exported = carol
        .machine
        .store()
        .export_room_keys(|session| session.room_id() == chamber)
        .await
        .expect("keys can be exported");
    alice
        .machine
        .store()
        .import_exported_room_keys(exported, |_, _| {})
        .await
        .expect("keys can be imported");
    let imported = message;
    checkpoint(folder);

    // This is in the log alone.
    let (keys, in_the_log) = bob.say(hall, &users, &mut server, "in the log", false).await;
    alice.sync(&to(&alice, &keys), true).await;

    // What Alice has not seen: through the established channel, with a one-time key, with the fallback key.
    let (keys, new_message) = bob.say(hall, &users, &mut server, "new message", true).await;
    let by_the_channel = to(&alice, &keys);
    let (keys, first_message) =
        carol.say(chamber, &users, &mut server, "by a one-time key", true).await;
    let by_a_one_time_key = to(&alice, &keys);
    server.forget_one_time_keys(&alice);
    let (keys, fallback_message) =
        frank.say(hall, &users, &mut server, "by the fallback key", true).await;
    let by_the_fallback_key = to(&alice, &keys);

    let identity = alice.machine.identity_keys();
    let sessions = alice.machine.store().get_inbound_group_sessions().await.expect("sessions");
    json!({
        "user_id": alice.user,
        "device_id": alice.device,
        "ed25519": identity.ed25519.to_base64(),
        "curve25519": identity.curve25519.to_base64(),
        "room_id": ROOM,
        "side_room_id": SIDE_ROOM,
        "inbound_sessions": sessions.len(),
        "backed_up": sessions.iter().filter(|session| session.backed_up()).count(),
        "shared_history": sessions.iter().filter(|session| session.shared_history()).count(),
        "imported": sessions.iter().filter(|session| session.has_been_imported()).count(),
        "users": users,
        "keys_query": server.keys_query(),
        "old_messages": old_messages,
        "in_the_log": in_the_log,
        "from_dave": from_dave,
        "imported_message": imported,
        "by_the_channel": by_the_channel,
        "new_message": new_message,
        "by_a_one_time_key": by_a_one_time_key,
        "first_message": first_message,
        "by_the_fallback_key": by_the_fallback_key,
        "fallback_message": fallback_message,
    })
}

/// To-device messages as others get them: user, device, event.
type Sent = Vec<(String, String, Value)>;

/// Those of them that are for this device.
fn to(person: &Person, sent: &Sent) -> Vec<Value> {
    let for_it = |(user, device, _): &&(String, String, Value)| {
        *user == person.user.as_str() && *device == person.device
    };
    sent.iter().filter(for_it).map(|(_, _, event)| event.clone()).collect()
}

struct Person {
    machine: OlmMachine,
    user: OwnedUserId,
    device: String,
}

impl Person {
    async fn new(user: &str, device: &str) -> Self {
        let user = UserId::parse(user).expect("a user id");
        let machine = OlmMachine::new(&user, device.into()).await;
        Self { machine, user, device: device.to_owned() }
    }

    async fn with_store(user: &str, device: &str, store: SqliteCryptoStore) -> Self {
        let user = UserId::parse(user).expect("a user id");
        let machine =
            OlmMachine::with_store(&user, device.into(), store, None).await.expect("a machine");
        Self { machine, user, device: device.to_owned() }
    }

    async fn sync(&self, to_device: &[Value], has_fallback: bool) {
        let counts = BTreeMap::from([(OneTimeKeyAlgorithm::SignedCurve25519, UInt::from(50_u32))]);
        let fallback = [OneTimeKeyAlgorithm::SignedCurve25519];
        let lists = DeviceLists::new();
        let changes = EncryptionSyncChanges {
            to_device_events: to_device
                .iter()
                .map(|event| Raw::<AnyToDeviceEvent>::from_json(raw(event)))
                .collect(),
            changed_devices: &lists,
            one_time_keys_counts: &counts,
            unused_fallback_keys: Some(if has_fallback { &fallback } else { &[] }),
            next_batch_token: Some("s123_456".to_owned()),
        };
        self.machine.receive_sync_changes(changes, &trust()).await.expect("the sync is taken");
    }

    async fn upload(&self, server: &mut Server) {
        for request in self.machine.outgoing_requests().await.expect("requests are made") {
            let AnyOutgoingRequest::KeysUpload(upload) = request.request() else { continue };
            if let Some(keys) = &upload.device_keys {
                let keys = serde_json::to_value(keys).expect("JSON");
                server.devices.insert((self.user.to_string(), self.device.clone()), keys);
            }
            let one_time = serde_json::to_value(&upload.one_time_keys).expect("JSON");
            let fallback = serde_json::to_value(&upload.fallback_keys).expect("JSON");
            let key = (self.user.to_string(), self.device.clone());
            server.one_time_keys.entry(key.clone()).or_default().extend(object(one_time));
            server.fallback_keys.entry(key).or_default().extend(object(fallback));
            let answer: keys::upload_keys::v3::Response =
                response(json!({ "one_time_key_counts": { "signed_curve25519": 50 } }));
            let id = request.request_id();
            self.machine.mark_request_as_sent(id, &answer).await.expect("the answer is taken");
        }
    }

    async fn bootstrap(&self, server: &mut Server) {
        let requests = self.machine.bootstrap_cross_signing(true).await.expect("an identity");
        let keys = requests.upload_signing_keys_req;
        let identity = json!({
            "master": keys.master_key, "self_signing": keys.self_signing_key,
            "user_signing": keys.user_signing_key,
        });
        server.identities.insert(self.user.to_string(), identity);
        let signed =
            serde_json::to_value(&requests.upload_signatures_req.signed_keys).expect("JSON");
        server.sign(&signed);
    }

    async fn track(&self, users: &[OwnedUserId]) {
        let users = users.iter().map(AsRef::as_ref);
        self.machine.update_tracked_users(users).await.expect("users can be tracked");
    }

    async fn query(&self, server: &Server) {
        for request in self.machine.outgoing_requests().await.expect("requests are made") {
            if let AnyOutgoingRequest::KeysQuery(_) = request.request() {
                let mut answer = server.keys_query();
                // Nobody is shown another user's.
                if let Some(keys) = answer["user_signing_keys"].as_object_mut() {
                    keys.retain(|user, _| user == self.user.as_str());
                }
                let answer: keys::get_keys::v3::Response = response(answer);
                let id = request.request_id();
                self.machine.mark_request_as_sent(id, &answer).await.expect("the answer is taken");
            }
        }
    }

    async fn verify(&self, user: &UserId, server: &mut Server) {
        let identity = self.machine.get_identity(user, None).await.expect("the store answers");
        let Some(UserIdentity::Other(identity)) = identity else { panic!("there is an identity") };
        let request = identity.verify().await.expect("it can be signed");
        server.sign(&serde_json::to_value(&request.signed_keys).expect("JSON"));
        let mut changed = DeviceLists::new();
        changed.changed.push(user.to_owned());
        let counts = BTreeMap::from([(OneTimeKeyAlgorithm::SignedCurve25519, UInt::from(50_u32))]);
        let changes = EncryptionSyncChanges {
            to_device_events: Vec::new(),
            changed_devices: &changed,
            one_time_keys_counts: &counts,
            unused_fallback_keys: Some(&[OneTimeKeyAlgorithm::SignedCurve25519]),
            next_batch_token: None,
        };
        self.machine.receive_sync_changes(changes, &trust()).await.expect("the sync is taken");
        self.query(server).await;
    }

    async fn trust_locally(&self, other: &Person, trust: LocalTrust) {
        let device = self
            .machine
            .get_device(&other.user, other.device.as_str().into(), None)
            .await
            .expect("the store answers")
            .expect("there is the device");
        device.set_local_trust(trust).await.expect("it can be set");
    }

    /// A message under a session of its own; the messages that carry its key, and the event.
    async fn say(
        &self,
        room: &RoomId,
        users: &[OwnedUserId],
        server: &mut Server,
        text: &str,
        shared_history: bool,
    ) -> (Sent, Value) {
        let machine = &self.machine;
        machine.discard_room_key(room).await.expect("the key can be dropped");
        let everybody = || users.iter().map(AsRef::as_ref);
        if let Some((id, claim)) =
            machine.get_missing_sessions(everybody()).await.expect("sessions are looked for")
        {
            let answer = server.claim(&serde_json::to_value(&claim.one_time_keys).expect("JSON"));
            let answer: keys::claim_keys::v3::Response = response(answer);
            machine.mark_request_as_sent(&id, &answer).await.expect("the answer is taken");
        }
        let settings = EncryptionSettings {
            history_visibility: if shared_history {
                HistoryVisibility::Shared
            } else {
                HistoryVisibility::Joined
            },
            sharing_strategy: CollectStrategy::AllDevices,
            ..EncryptionSettings::default()
        };
        let requests =
            machine.share_room_key(room, everybody(), settings).await.expect("the key is shared");
        let mut sent = Sent::new();
        for request in requests {
            let messages = serde_json::to_value(&request.messages).expect("JSON");
            for (user, devices) in object(messages) {
                for (device, content) in object(devices) {
                    let event = json!({
                        "type": request.event_type, "sender": self.user, "content": content,
                    });
                    sent.push((user.clone(), device, event));
                }
            }
            let answer = send_event_to_device::v3::Response::new();
            machine
                .mark_request_as_sent(&request.txn_id, &answer)
                .await
                .expect("the answer is taken");
        }
        let content = json!({ "msgtype": "m.text", "body": text });
        let content = Raw::<AnyMessageLikeEventContent>::from_json(raw(&content));
        let encrypted = machine
            .encrypt_room_event_raw(room, "m.room.message", &content)
            .await
            .expect("it encrypts");
        let content: Value = serde_json::from_str(encrypted.content.json().get()).expect("JSON");
        server.events += 1;
        let event = json!({
            "type": "m.room.encrypted",
            "sender": self.user,
            "event_id": format!("$event{}", server.events),
            "room_id": room,
            "origin_server_ts": 1_700_000_000_000_u64 + server.events,
            "content": content,
        });
        (sent, json!({ "event": event, "text": text }))
    }

    async fn back_up(&self) {
        let key = BackupDecryptionKey::new();
        let public = key.megolm_v1_public_key();
        public.set_version("3".to_owned());
        let backups = self.machine.backup_machine();
        backups
            .save_decryption_key(Some(key), Some("3".to_owned()))
            .await
            .expect("the key can be kept");
        backups.enable_backup_v1(public).await.expect("the backup can be enabled");
        while let Some((id, _)) = backups.backup().await.expect("keys can be backed up") {
            let answer: add_backup_keys::v3::Response =
                response(json!({ "etag": "1", "count": 1 }));
            self.machine.mark_request_as_sent(&id, &answer).await.expect("the answer is taken");
        }
    }
}

/// Enough of a homeserver.
#[derive(Default)]
struct Server {
    devices: BTreeMap<(String, String), Value>,
    one_time_keys: BTreeMap<(String, String), Map<String, Value>>,
    fallback_keys: BTreeMap<(String, String), Map<String, Value>>,
    identities: BTreeMap<String, Value>,
    events: u64,
}

impl Server {
    fn sign(&mut self, signed: &Value) {
        for (user, objects) in object(signed.clone()) {
            for (name, signed) in object(objects) {
                let device = self.devices.get_mut(&(user.clone(), name.clone()));
                let target = match device {
                    Some(device) => Some(device),
                    None => self.identities.get_mut(&user).map(|identity| &mut identity["master"]),
                };
                let Some(target) = target else { continue };
                for (signer, signatures) in object(signed["signatures"].clone()) {
                    for (key, signature) in object(signatures) {
                        target["signatures"][&signer][&key] = signature;
                    }
                }
            }
        }
    }

    fn keys_query(&self) -> Value {
        let mut answer = json!({
            "failures": {}, "device_keys": {}, "master_keys": {}, "self_signing_keys": {},
            "user_signing_keys": {},
        });
        for ((user, device), keys) in &self.devices {
            answer["device_keys"][user][device] = keys.clone();
        }
        for (user, identity) in &self.identities {
            answer["master_keys"][user] = identity["master"].clone();
            answer["self_signing_keys"][user] = identity["self_signing"].clone();
            answer["user_signing_keys"][user] = identity["user_signing"].clone();
        }
        answer
    }

    fn claim(&mut self, asked: &Value) -> Value {
        let mut answer = json!({ "failures": {}, "one_time_keys": {} });
        for (user, devices) in object(asked.clone()) {
            for device in object(devices).into_iter().map(|(device, _)| device) {
                let place = (user.clone(), device.clone());
                let one_time = self.one_time_keys.entry(place.clone()).or_default();
                let first = one_time.keys().next().cloned();
                let key = match first {
                    Some(id) => one_time.remove_entry(&id),
                    None => self
                        .fallback_keys
                        .get(&place)
                        .and_then(|keys| keys.iter().next())
                        .map(|(id, key)| (id.clone(), key.clone())),
                };
                let (id, key) = key.expect("every device has a key");
                answer["one_time_keys"][&user][&device] = json!({ id: key });
            }
        }
        answer
    }

    fn forget_one_time_keys(&mut self, person: &Person) {
        self.one_time_keys.remove(&(person.user.to_string(), person.device.clone()));
    }
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

fn response<R: IncomingResponse>(body: Value) -> R {
    let response = http::Response::builder().status(200).body(body.to_string().into_bytes());
    match R::try_from_http_response(response.expect("a response")) {
        Ok(response) => response,
        Err(_) => panic!("the answer is of the specification's form"),
    }
}

fn raw(value: &Value) -> Box<RawValue> {
    RawValue::from_string(value.to_string()).expect("JSON")
}

fn trust() -> DecryptionSettings {
    DecryptionSettings { sender_device_trust_requirement: TrustRequirement::Untrusted }
}
