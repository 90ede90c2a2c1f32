//! [`Attacker`]: a device that keeps to no rule. It has real keys, so what it sends gets as far as a real
//! attacker's messages do: to the checks.

#![allow(clippy::expect_used, reason = "it is used by tests only")]

use std::collections::BTreeMap;

use herold_crypto::{Account, IdentityKeys, OlmMessage, OlmSession};
use serde_json::{Value, json};

use crate::{
    World,
    homeserver::{ServerRequest, ServerResponse},
};

const OLM: &str = "m.olm.v1.curve25519-aes-sha2";
const MEGOLM: &str = "m.megolm.v1.aes-sha2";

/// A device without a client: an account, its Olm sessions, and a pen.
pub struct Attacker {
    /// The user it is listed under.
    pub user_id: String,
    /// Its device id.
    pub device_id: String,
    /// Its keys.
    pub account: Account,
    /// The sessions it has opened, by the Curve25519 key of the other side.
    sessions: BTreeMap<String, OlmSession>,
    token: Option<String>,
}

impl Attacker {
    /// A device with keys that nobody has published.
    #[must_use]
    pub fn unlisted(user_id: &str, device_id: &str) -> Self {
        Self {
            user_id: user_id.to_owned(),
            device_id: device_id.to_owned(),
            account: Account::new(),
            sessions: BTreeMap::new(),
            token: None,
        }
    }

    /// A device that the homeserver adds to a user's list, with one-time keys, but without a log-in.
    pub fn ghost(world: &mut World, user_id: &str, device_id: &str) -> Self {
        let mut ghost = Self::unlisted(user_id, device_id);
        world.server.add_device_keys(user_id, device_id, ghost.device_keys());
        let keys = ghost.one_time_keys(5);
        world.server.add_one_time_keys(user_id, device_id, keys);
        ghost
    }

    /// A device of a user of its own, logged in, its keys uploaded.
    pub fn log_in(world: &mut World, localpart: &str) -> Self {
        let user = world.server.register(localpart, "pw");
        let login = world.call(
            None,
            "POST",
            "/_matrix/client/v3/login",
            json!({
                "type": "m.login.password",
                "identifier": { "type": "m.id.user", "user": user },
                "password": "pw",
            }),
        );
        let text = |name: &str| login[name].as_str().unwrap_or_default().to_owned();
        let mut device = Self::unlisted(&user, &text("device_id"));
        device.token = Some(text("access_token"));
        let keys: serde_json::Map<String, Value> = device.one_time_keys(20).into_iter().collect();
        let body = json!({ "device_keys": device.device_keys(), "one_time_keys": keys });
        device.call(world, "POST", "/_matrix/client/v3/keys/upload", &body);
        device
    }

    /// Its public keys.
    #[must_use]
    pub fn keys(&self) -> IdentityKeys {
        self.account.identity_keys()
    }

    /// A request with its token. The JSON answer.
    pub fn call(&self, world: &mut World, method: &str, path: &str, body: &Value) -> Value {
        let request = ServerRequest {
            method: method.to_owned(),
            path: path.to_owned(),
            query: Vec::new(),
            access_token: self.token.clone(),
            content_type: Some("application/json".to_owned()),
            body: body.to_string().into_bytes(),
        };
        let now = world.clock.millis();
        let ServerResponse { body, .. } = world.server.handle(now, &request);
        serde_json::from_slice(&body).unwrap_or(Value::Null)
    }

    /// The device's keys as it would publish them, signed by itself.
    #[must_use]
    pub fn device_keys(&self) -> Value {
        self.device_keys_with(&self.keys().curve25519.to_base64())
    }

    /// The device's keys with another Curve25519 key, signed by itself all the same.
    #[must_use]
    pub fn device_keys_with(&self, curve25519: &str) -> Value {
        let device = &self.device_id;
        self.signed(json!({
            "user_id": self.user_id,
            "device_id": device,
            "algorithms": [OLM, MEGOLM],
            "keys": {
                format!("curve25519:{device}"): curve25519,
                format!("ed25519:{device}"): self.keys().ed25519.to_base64(),
            },
        }))
    }

    /// An object with this device's signature.
    ///
    /// # Panics
    /// If the object cannot be signed.
    #[must_use]
    pub fn signed(&self, mut object: Value) -> Value {
        self.account
            .sign_json(&self.user_id, &self.device_id, &mut object)
            .expect("a test signs what can be signed");
        object
    }

    /// New one-time keys, by their full key ids.
    pub fn one_time_keys(&mut self, count: usize) -> Vec<(String, Value)> {
        self.account.generate_one_time_keys(count);
        let keys = self.account.unpublished_one_time_keys();
        self.account.mark_keys_as_published();
        keys.into_iter()
            .map(|(id, key)| {
                let object = self.signed(json!({ "key": key.to_base64() }));
                (format!("signed_curve25519:{id}"), object)
            })
            .collect()
    }

    /// The payload that a well-behaved device would put around an event for a victim.
    #[must_use]
    pub fn payload(&self, world: &World, victim: usize, kind: &str, content: &Value) -> Value {
        let keys = victim_keys(world, victim);
        json!({
            "type": kind,
            "content": content,
            "sender": self.user_id,
            "recipient": world.devices[victim].user_id,
            "recipient_keys": { "ed25519": keys.ed25519 },
            "keys": { "ed25519": self.keys().ed25519.to_base64() },
        })
    }

    /// Whether it has a session with a victim, or can open one with a claimed key.
    pub fn reaches(&mut self, world: &mut World, victim: usize) -> bool {
        let keys = victim_keys(world, victim);
        if !self.sessions.contains_key(&keys.curve25519)
            && let Some(session) = self.open(world, victim, &keys)
        {
            self.sessions.insert(keys.curve25519.clone(), session);
        }
        self.sessions.contains_key(&keys.curve25519)
    }

    /// Encrypts a text to a victim, over a session that is opened with a claimed key if there is none.
    /// The content of the event.
    ///
    /// # Panics
    /// If no session can be opened.
    pub fn encrypt(&mut self, world: &mut World, victim: usize, plaintext: &str) -> Value {
        assert!(self.reaches(world, victim), "the victim has one-time keys");
        let keys = victim_keys(world, victim);
        let session = self.sessions.get_mut(&keys.curve25519).expect("it was just opened");
        let message = session.encrypt(plaintext.as_bytes()).expect("an honest session encrypts");
        json!({
            "algorithm": OLM,
            "sender_key": self.account.identity_keys().curve25519.to_base64(),
            "ciphertext": {
                keys.curve25519: { "type": message.message_type(), "body": message.body() },
            },
        })
    }

    /// Forgets its sessions: the next message opens another one.
    pub fn forget_sessions(&mut self) {
        self.sessions.clear();
    }

    /// Encrypts a payload, and has the homeserver deliver it in the name of `sender`.
    pub fn send_as(&mut self, world: &mut World, victim: usize, sender: &str, payload: &Value) {
        let content = self.encrypt(world, victim, &payload.to_string());
        inject(world, victim, sender, "m.room.encrypted", &content);
    }

    /// Sends an event by Olm, as it should be sent.
    pub fn send(&mut self, world: &mut World, victim: usize, kind: &str, content: &Value) {
        let payload = self.payload(world, victim, kind, content);
        let sender = self.user_id.clone();
        self.send_as(world, victim, &sender, &payload);
    }

    /// What has come for the device by Olm and can be decrypted: the payloads.
    pub fn received(&mut self, world: &World) -> Vec<Value> {
        let own = self.keys().curve25519.to_base64();
        let mut payloads = Vec::new();
        for sent in world.server.to_device_log() {
            if sent.recipient != self.user_id || sent.recipient_device != self.device_id {
                continue;
            }
            let ciphertext = &sent.content["ciphertext"][&own];
            let kind = ciphertext["type"].as_u64().unwrap_or(9);
            let body = ciphertext["body"].as_str().unwrap_or_default();
            let Ok(message) = OlmMessage::from_parts(kind, body) else { continue };
            let sender = sent.content["sender_key"].as_str().unwrap_or_default();
            let plaintext = match self.sessions.get_mut(sender) {
                Some(session) => session.decrypt(&message).ok(),
                None => None,
            };
            let plaintext = plaintext.or_else(|| {
                let key = herold_crypto::curve25519_from_base64(sender).ok()?;
                let (session, plaintext) =
                    self.account.create_inbound_session(key, &message).ok()?;
                self.sessions.insert(sender.to_owned(), session);
                Some(plaintext)
            });
            payloads.extend(plaintext.and_then(|text| serde_json::from_slice(&text).ok()));
        }
        payloads
    }

    fn open(&self, world: &mut World, victim: usize, keys: &VictimKeys) -> Option<OlmSession> {
        let (user, device) = names(world, victim);
        let body =
            json!({ "one_time_keys": { user.as_str(): { device.as_str(): "signed_curve25519" } } });
        let answer = world.call(Some(victim), "POST", "/_matrix/client/v3/keys/claim", body);
        let claimed = answer["one_time_keys"][&user][&device]
            .as_object()
            .and_then(|keys| keys.values().next())
            .and_then(|key| key["key"].as_str())
            .and_then(|key| herold_crypto::curve25519_from_base64(key).ok())?;
        let identity = herold_crypto::curve25519_from_base64(&keys.curve25519).ok()?;
        self.account.create_outbound_session(identity, claimed).ok()
    }
}

/// Puts a to-device event into a victim's inbox, in the name of `sender`.
fn inject(world: &mut World, victim: usize, sender: &str, kind: &str, content: &Value) {
    let (user, device) = names(world, victim);
    let event = json!({ "type": kind, "sender": sender, "content": content });
    assert!(world.server.inject_to_device(&user, &device, event), "the victim has an inbox");
}

struct VictimKeys {
    curve25519: String,
    ed25519: String,
}

fn names(world: &World, victim: usize) -> (String, String) {
    let device = &world.devices[victim];
    (device.user_id.to_string(), device.device_id.clone())
}

/// The keys a victim has published.
fn victim_keys(world: &World, victim: usize) -> VictimKeys {
    let (user, device) = names(world, victim);
    let published = world
        .server
        .requests()
        .iter()
        .filter(|request| request.path.ends_with("/keys/upload"))
        .filter(|request| request.user.as_ref() == Some(&user))
        .filter(|request| request.device.as_ref() == Some(&device))
        .filter_map(|request| serde_json::from_slice::<Value>(&request.body).ok())
        .map(|body| body["device_keys"]["keys"].clone())
        .find(Value::is_object)
        .unwrap_or_default();
    let key =
        |kind: &str| published[format!("{kind}:{device}")].as_str().unwrap_or_default().to_owned();
    VictimKeys { curve25519: key("curve25519"), ed25519: key("ed25519") }
}
