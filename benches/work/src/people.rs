//! The people in the room: devices made of vodozemac alone, with everything a server would say about them.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value, json};
use vodozemac::{
    Curve25519PublicKey, Curve25519SecretKey,
    megolm::{self, GroupSession, InboundGroupSession},
    olm::{Account, OlmMessage, Session, SessionConfig},
    pk_encryption::PkEncryption,
};

use crate::side::{ROOM, TEXT};

/// Devices a user has.
const DEVICES_EACH: usize = 4;

/// What a side asks of the homeserver to know the room's devices.
pub trait Directory {
    /// The users in the room, the measured one aside.
    fn users(&self) -> Vec<String>;
    /// The answer of `POST /keys/query` with this body.
    fn keys_query(&self, body: &Value) -> Value;
    /// The answer of `POST /keys/claim` with this body.
    fn keys_claim(&self, body: &Value) -> Value;
}

/// One device at the other end. Ten thousand of them share a process with the side whose memory is measured, so
/// what is not in use lies there as text.
pub struct Peer {
    pub user: String,
    pub device: String,
    curve25519: Curve25519PublicKey,
    ed25519: String,
    device_keys: String,
    /// Until there is a channel.
    account: Option<Box<Account>>,
    one_time_key: String,
    olm: Option<String>,
    /// The session it writes with.
    group: Option<Box<GroupSession>>,
    /// The newest room key it got from the side under test.
    heard: Option<String>,
}

/// The body of `PUT /sendToDevice/...`.
#[derive(Deserialize)]
struct Body<'a> {
    #[serde(borrow)]
    messages: BTreeMap<&'a str, BTreeMap<&'a str, Content<'a>>>,
}

/// The content of `m.room.encrypted` to a device.
#[derive(Deserialize)]
struct Content<'a> {
    #[serde(borrow)]
    ciphertext: BTreeMap<&'a str, Ciphertext<'a>>,
}

#[derive(Deserialize)]
struct Ciphertext<'a> {
    #[serde(rename = "type")]
    kind: usize,
    body: &'a str,
}

/// All people in the room but the one whose side is measured.
pub struct People {
    pub peers: Vec<Peer>,
    /// Members without a device.
    silent: usize,
    /// The measured side's device: its keys and one of its one-time keys.
    to: Option<Measured>,
    counter: u64,
}

struct Measured {
    device_keys: Value,
    user: String,
    curve25519: Curve25519PublicKey,
    ed25519: String,
}

impl People {
    /// So many devices, four to a user.
    pub fn new(devices: usize) -> Self {
        let peers = (0..devices)
            .map(|n| {
                let user = n / DEVICES_EACH;
                Peer::new(format!("@user{user}:bench.local"), format!("DEVICE{n:05}"))
            })
            .collect();
        Self { peers, silent: 0, to: None, counter: 0 }
    }

    /// So many more members, who have no devices.
    pub fn add_silent(&mut self, members: usize) {
        self.silent += members;
    }

    /// Takes the body of the measured side's `POST /keys/upload`.
    pub fn learn(&mut self, upload: &Value) {
        let keys = &upload["device_keys"];
        let find = |algorithm: &str| {
            let keys = keys["keys"].as_object().expect("the upload has device keys");
            let place = keys.iter().find(|(id, _)| id.starts_with(algorithm));
            place.and_then(|(_, key)| key.as_str()).expect("the upload has the key").to_owned()
        };
        self.to = Some(Measured {
            device_keys: keys.clone(),
            user: keys["user_id"].as_str().expect("the upload names its user").to_owned(),
            curve25519: Curve25519PublicKey::from_base64(&find("curve25519:")).expect("a key"),
            ed25519: find("ed25519:"),
        });
    }

    /// Delivers the bodies of `PUT /sendToDevice/m.room.encrypted/...`; answers how many devices got a
    /// room key by them. A device that cannot read what it got is a failure of the measurement.
    pub fn deliver(&mut self, bodies: &[String]) -> usize {
        let from = self.to.as_ref().expect("the measured side is known").curve25519;
        let mut places: BTreeMap<(&str, &str), Vec<Content>> = BTreeMap::new();
        for body in bodies {
            let Body { messages } = serde_json::from_str(body).expect("JSON");
            for (user, devices) in messages {
                for (device, content) in devices {
                    places.entry((user, device)).or_default().push(content);
                }
            }
        }
        let mut reached = 0;
        for peer in &mut self.peers {
            let (user, device) = (peer.user.clone(), peer.device.clone());
            for content in places.get(&(&*user, &*device)).into_iter().flatten() {
                peer.take_room_key(from, content);
                reached += 1;
            }
        }
        reached
    }

    /// Decrypts an `m.room.encrypted` content of the measured side as each of `how_many` people; all must
    /// read the same text.
    pub fn read(&mut self, content: &Value, how_many: usize) -> String {
        let texts: Vec<String> =
            self.peers.iter_mut().take(how_many).map(|peer| peer.read(content)).collect();
        assert!(!texts.is_empty() && texts.iter().all(|text| *text == texts[0]));
        texts[0].clone()
    }

    /// To-device events with `count` new room keys, from all people in turn, by established Olm channels.
    pub fn room_keys(&mut self, count: usize) -> Vec<Value> {
        let peers = self.peers.len();
        (0..count)
            .map(|n| self.room_key_of(n % peers, &GroupSession::new(Default::default())))
            .collect()
    }

    /// The to-device event by which the peer gives its own session for the room.
    pub fn own_room_key(&mut self, peer: usize) -> Value {
        let fresh = GroupSession::new(Default::default());
        let event = self.room_key_of(peer, &fresh);
        if peer == 0 {
            self.peers[peer].group = Some(Box::new(fresh)); // nobody else is asked for messages
        }
        event
    }

    fn room_key_of(&mut self, peer: usize, session: &GroupSession) -> Value {
        let to = self.to.as_ref().expect("the measured side is known");
        let peer = &mut self.peers[peer];
        let key = session.session_key();
        let payload = json!({
            "type": "m.room_key",
            "content": {
                "algorithm": "m.megolm.v1.aes-sha2",
                "room_id": ROOM,
                "session_id": session.session_id(),
                "session_key": key.to_base64(),
            },
            "sender": peer.user,
            "recipient": to.user,
            "recipient_keys": { "ed25519": to.ed25519 },
            "keys": { "ed25519": peer.ed25519 },
            "sender_device_keys": peer.device_keys(),
        });
        let mut olm = peer.channel().expect("an established channel");
        let (kind, ciphertext) = olm.encrypt(payload.to_string()).expect("it encrypts").to_parts();
        peer.keep_channel(&olm);
        json!({
            "type": "m.room.encrypted",
            "sender": peer.user,
            "content": {
                "algorithm": "m.olm.v1.curve25519-aes-sha2",
                "sender_key": peer.curve25519.to_base64(),
                "ciphertext": { to.curve25519.to_base64(): { "type": kind, "body": base64(&ciphertext) } },
                "org.matrix.msgid": self.counter.to_string(),
            },
        })
    }

    /// The to-device events of so many sessions of all people in turn, and so many messages of each, mixed as in a room
    /// where everybody talks.
    pub fn backlog(&mut self, sessions: usize, messages: usize) -> (Vec<Value>, Vec<Value>) {
        let peers = self.peers.len();
        let mut groups = Vec::new();
        let mut keys = Vec::new();
        for n in 0..sessions {
            let group = GroupSession::new(Default::default());
            keys.push(self.room_key_of(n % peers, &group));
            groups.push((n % peers, group));
        }
        let mut events = Vec::new();
        for _ in 0..messages {
            for (peer, group) in &mut groups {
                self.counter += 1;
                events.push(self.peers[*peer].message_of(group, self.counter));
            }
        }
        (keys, events)
    }

    /// So many room keys in the export format. The last one is of the first peer's session from now on.
    pub fn export(&mut self, count: usize) -> Vec<u8> {
        let peer = &mut self.peers[0];
        let mut text = String::from("[");
        for n in 0..count {
            let group = GroupSession::new(Default::default());
            let mut key = peer.session_data(&group);
            key["room_id"] = json!(ROOM);
            key["session_id"] = json!(group.session_id());
            if n > 0 {
                text.push(',');
            }
            text.push_str(&key.to_string());
            if n + 1 == count {
                peer.group = Some(Box::new(group));
            }
        }
        text.push(']');
        text.into_bytes()
    }

    /// So many room keys in a key backup: its private key, in unpadded base64, and the body of `GET /room_keys/keys`.
    pub fn backup(&self, count: usize) -> (String, Vec<u8>) {
        let secret = Curve25519SecretKey::new();
        let public = PkEncryption::from_key(Curve25519PublicKey::from(&secret));
        let peer = &self.peers[0];
        let mut text = format!("{{\"rooms\":{{{}:{{\"sessions\":{{", json!(ROOM));
        for n in 0..count {
            let group = GroupSession::new(Default::default());
            let key = peer.session_data(&group);
            let message = public.encrypt(key.to_string().as_bytes()).expect("a good key");
            let entry = json!({
                "first_message_index": 0,
                "forwarded_count": 0,
                "is_verified": false,
                "session_data": {
                    "ephemeral": message.ephemeral_key.to_base64(),
                    "ciphertext": vodozemac::base64_encode(message.ciphertext),
                    "mac": vodozemac::base64_encode(message.mac),
                },
            });
            let comma = if n > 0 { "," } else { "" };
            text.push_str(&format!("{comma}{}:{entry}", json!(group.session_id())));
        }
        text.push_str("}}}}");
        (vodozemac::base64_encode(secret.to_bytes().as_slice()), text.into_bytes())
    }

    /// `count` encrypted room events of one peer's session, as a server delivers them.
    pub fn messages(&mut self, peer: usize, count: usize) -> Vec<Value> {
        (0..count)
            .map(|_| {
                self.counter += 1;
                let counter = self.counter;
                self.peers[peer].message(counter)
            })
            .collect()
    }
}

impl Directory for People {
    fn users(&self) -> Vec<String> {
        let mut users: Vec<String> = self.peers.iter().map(|peer| peer.user.clone()).collect();
        users.dedup();
        users.extend((0..self.silent).map(|n| format!("@silent{n}:bench.local")));
        users
    }

    fn keys_query(&self, body: &Value) -> Value {
        let mut users: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
        for peer in self.peers.iter().filter(|peer| body["device_keys"][&peer.user].is_array()) {
            users.entry(&peer.user).or_default().insert(peer.device.clone(), peer.device_keys());
        }
        if let Some(own) = &self.to
            && body["device_keys"][&own.user].is_array()
        {
            let device = own.device_keys["device_id"].as_str().expect("a device id");
            users.entry(&own.user).or_default().insert(device.to_owned(), own.device_keys.clone());
        }
        // A server answers for its users who have no devices too.
        if let Some(asked) = body["device_keys"].as_object() {
            for user in asked.keys() {
                users.entry(user).or_default();
            }
        }
        json!({ "device_keys": users, "failures": {} })
    }

    fn keys_claim(&self, body: &Value) -> Value {
        let mut users: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
        let wanted = |peer: &&Peer| body["one_time_keys"][&peer.user][&peer.device].is_string();
        for peer in self.peers.iter().filter(wanted) {
            let devices = users.entry(&peer.user).or_default();
            let one_time_key = serde_json::from_str(&peer.one_time_key).expect("JSON");
            devices.insert(peer.device.clone(), one_time_key);
        }
        json!({ "one_time_keys": users, "failures": {} })
    }
}

impl Peer {
    /// A session of this device's, as a backup has it.
    fn session_data(&self, group: &GroupSession) -> Value {
        json!({
            "algorithm": "m.megolm.v1.aes-sha2",
            "forwarding_curve25519_key_chain": [],
            "sender_key": self.curve25519.to_base64(),
            "sender_claimed_keys": { "ed25519": self.ed25519 },
            "session_key": exported(group),
        })
    }

    fn new(user: String, device: String) -> Self {
        let mut account = Account::new();
        account.generate_one_time_keys(1);
        let (id, key) =
            account.one_time_keys().into_iter().next().expect("a one-time key was made");
        let mut one_time_key = json!({ "key": key.to_base64() });
        sign(&account, &user, &device, &mut one_time_key);
        account.mark_keys_as_published();
        Self {
            one_time_key: json!({ format!("signed_curve25519:{}", id.to_base64()): one_time_key })
                .to_string(),
            curve25519: account.curve25519_key(),
            ed25519: account.ed25519_key().to_base64(),
            device_keys: Self::signed_keys(&account, &user, &device).to_string(),
            user,
            device,
            account: Some(Box::new(account)),
            olm: None,
            group: None,
            heard: None,
        }
    }

    fn device_keys(&self) -> Value {
        serde_json::from_str(&self.device_keys).expect("JSON")
    }

    fn channel(&self) -> Option<Session> {
        let pickle = self.olm.as_ref()?;
        Some(Session::from_pickle(serde_json::from_str(pickle).expect("a channel")))
    }

    fn keep_channel(&mut self, channel: &Session) {
        self.olm = Some(serde_json::to_string(&channel.pickle()).expect("a channel"));
    }

    fn signed_keys(account: &Account, user: &str, device: &str) -> Value {
        let mut keys = json!({
            "user_id": user,
            "device_id": device,
            "algorithms": ["m.olm.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2"],
            "keys": {
                format!("curve25519:{device}"): account.curve25519_key().to_base64(),
                format!("ed25519:{device}"): account.ed25519_key().to_base64(),
            },
        });
        sign(account, user, device, &mut keys);
        keys
    }

    fn take_room_key(&mut self, from: Curve25519PublicKey, content: &Content) {
        let message = &content.ciphertext[&*self.curve25519.to_base64()];
        let body = unbase64(message.body);
        let message = OlmMessage::from_parts(message.kind, &body).expect("an Olm message");
        let (channel, plaintext) = match (&message, self.channel()) {
            (OlmMessage::PreKey(first), None) => {
                let mut account = self.account.take().expect("no channel yet");
                let made = account
                    .create_inbound_session(SessionConfig::version_1(), from, first)
                    .expect("our one-time key was used");
                (made.session, made.plaintext)
            }
            (_, Some(mut session)) => {
                let plaintext = session.decrypt(&message).expect("it decrypts");
                (session, plaintext)
            }
            _ => panic!("a message without a channel"),
        };
        self.keep_channel(&channel);
        let payload: Value = serde_json::from_slice(&plaintext).expect("JSON");
        assert_eq!(payload["type"], "m.room_key");
        let key = payload["content"]["session_key"].as_str().expect("a key");
        self.heard = Some(key.to_owned());
    }

    fn read(&mut self, content: &Value) -> String {
        let key = self.heard.as_ref().expect("the room key has come");
        let key = megolm::SessionKey::from_base64(key).expect("a key");
        let mut heard = InboundGroupSession::new(&key, Default::default());
        assert_eq!(content["session_id"], heard.session_id());
        let ciphertext = content["ciphertext"].as_str().expect("a ciphertext");
        let message = megolm::MegolmMessage::from_base64(ciphertext).expect("a message");
        let plaintext = heard.decrypt(&message).expect("it decrypts").plaintext;
        let payload: Value = serde_json::from_slice(&plaintext).expect("JSON");
        payload["content"]["body"].as_str().expect("a text").to_owned()
    }

    fn message(&mut self, counter: u64) -> Value {
        let mut group = self.group.take().expect("it has given its room key");
        let message = self.message_of(&mut group, counter);
        self.group = Some(group);
        message
    }

    fn message_of(&self, group: &mut GroupSession, counter: u64) -> Value {
        let payload = json!({
            "type": "m.room.message",
            "room_id": ROOM,
            "content": { "msgtype": "m.text", "body": format!("{TEXT} {counter}") },
        });
        let ciphertext = group.encrypt(payload.to_string());
        json!({
            "type": "m.room.encrypted",
            "sender": self.user,
            "event_id": format!("$event{counter}"),
            "origin_server_ts": 1_700_000_000_000_u64 + counter,
            "content": {
                "algorithm": "m.megolm.v1.aes-sha2",
                "sender_key": self.curve25519.to_base64(),
                "device_id": self.device,
                "session_id": group.session_id(),
                "ciphertext": ciphertext.to_base64(),
            },
        })
    }
}

/// Signs a JSON object as the specification's appendix "Signing JSON" says.
fn sign(account: &Account, user: &str, device: &str, object: &mut Value) {
    let signature = account.sign(canonical(object)).to_base64();
    object["signatures"] = json!({ user: { format!("ed25519:{device}"): signature } });
}

/// Canonical JSON, for the plain objects of this crate.
fn canonical(value: &Value) -> String {
    match value {
        Value::Object(object) => {
            let sorted: BTreeMap<_, _> = object.iter().collect();
            let fields: Vec<String> = sorted
                .iter()
                .map(|(key, value)| format!("{}:{}", json!(key), canonical(value)))
                .collect();
            format!("{{{}}}", fields.join(","))
        }
        Value::Array(items) => {
            format!("[{}]", items.iter().map(canonical).collect::<Vec<_>>().join(","))
        }
        other => other.to_string(),
    }
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD_NO_PAD.encode(bytes)
}

fn unbase64(text: &str) -> Vec<u8> {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD_NO_PAD.decode(text).expect("base64")
}

/// A session from its beginning, as exports have it.
pub(crate) fn exported(group: &GroupSession) -> String {
    let session = InboundGroupSession::new(&group.session_key(), Default::default());
    session.export_at_first_known_index().to_base64()
}
