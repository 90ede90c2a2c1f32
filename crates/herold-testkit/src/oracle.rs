//! [`Oracle`]: invariants of everything a device puts on the wire, whatever else happens.
//!
//! W1 no Olm chain index twice, W2 no Megolm index twice, W3 key ids and keys one to one and validly
//! signed, W4 one identity for a device id, W5 nothing in the clear in an encrypted room, W6 no key
//! material in the clear, W9 no secret in a URL or a text that may be logged.

use std::collections::{BTreeMap, BTreeSet};

use herold_crypto::{
    Ed25519PublicKey, OlmMessage, SecretString, ed25519_from_base64, megolm_message_index,
    verify_json,
};
use serde_json::Value;

/// Key material that never travels as a clear to-device event.
const NEVER_CLEAR: [&str; 5] = [
    "m.room_key",
    "m.forwarded_room_key",
    "m.secret.send",
    "m.room_key_bundle",
    "io.element.msc4268.room_key_bundle",
];

/// Watches requests. A violation is kept, not thrown, so that the scenario goes on and shows more.
#[derive(Default)]
pub struct Oracle {
    olm: BTreeMap<(String, Vec<u8>, u64), String>,
    megolm: BTreeMap<(String, u32), String>,
    key_ids: BTreeMap<(String, String, String), String>,
    public_keys: BTreeMap<(String, String, String), String>,
    identities: BTreeMap<(String, String), (String, String)>,
    secrets: BTreeSet<String>,
    violations: Vec<String>,
    watched: u64,
    trace: u64,
    /// Devices whose disk was put back.
    excused: BTreeSet<(String, String)>,
}

impl Oracle {
    /// The violations so far.
    #[must_use]
    pub fn violations(&self) -> &[String] {
        &self.violations
    }

    /// A device's disk has been put back: what it does from now on proves nothing against it.
    pub fn excuse(&mut self, user: &str, device: &str) {
        self.excused.insert((user.to_owned(), device.to_owned()));
    }

    /// A number that stands for every byte of every request so far (FNV-1a).
    #[must_use]
    pub fn trace(&self) -> u64 {
        self.trace
    }

    /// How many requests were looked at.
    #[must_use]
    pub fn watched(&self) -> u64 {
        self.watched
    }

    /// How many Megolm ciphertexts were looked at.
    #[must_use]
    pub fn megolm_ciphertexts(&self) -> usize {
        self.megolm.len()
    }

    /// A text that must never be seen in the open from now on.
    pub fn add_secret(&mut self, secret: &SecretString) {
        self.secrets.insert(secret.as_str().to_owned());
    }

    /// Looks for known secrets in a text that may be logged (W9).
    pub fn scan(&mut self, what: &str, text: &str) {
        if self.secrets.iter().any(|secret| text.contains(secret.as_str())) {
            self.violations.push(format!("W9: a secret in {what}"));
        }
    }

    /// Looks at a request of a device. `encrypted` tells whether a room is.
    pub fn watch(
        &mut self,
        user: &str,
        device: &str,
        path: &str,
        body: &[u8],
        encrypted: &dyn Fn(&str) -> bool,
    ) {
        self.watched += 1;
        for byte in device.bytes().chain(path.bytes()).chain(body.iter().copied()) {
            self.trace = (self.trace ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        self.scan("a URL", path);
        if self.excused.contains(&(user.to_owned(), device.to_owned())) {
            return;
        }
        let Some(rest) = path.split("/client/").nth(1).and_then(|rest| rest.split_once('/')) else {
            return;
        };
        let parts: Vec<String> = rest.1.split('/').map(decode).collect();
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let body: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
        match parts.as_slice() {
            ["sendToDevice", event_type, _] => self.watch_to_device(event_type, &body),
            ["rooms", room, "send", event_type, _] => {
                self.watch_room_event(event_type, &body, encrypted(room));
            }
            ["keys", "upload"] => self.watch_upload(user, device, &body),
            _ => {}
        }
    }

    fn watch_to_device(&mut self, event_type: &str, body: &Value) {
        if NEVER_CLEAR.contains(&event_type) {
            self.violations.push(format!("W6: {event_type} in the clear"));
        }
        if event_type != "m.room.encrypted" {
            return;
        }
        let devices = body["messages"].as_object().into_iter().flat_map(|users| users.values());
        for content in devices.filter_map(Value::as_object).flat_map(|devices| devices.values()) {
            let sender = content["sender_key"].as_str().unwrap_or_default();
            let ciphertexts = content["ciphertext"].as_object().into_iter().flatten();
            for (_, ciphertext) in ciphertexts {
                let text = ciphertext["body"].as_str().unwrap_or_default();
                let kind = ciphertext["type"].as_u64().unwrap_or(9);
                let place =
                    OlmMessage::from_parts(kind, text).ok().and_then(|m| m.chain_position());
                let Some((ratchet, index)) = place else {
                    self.violations.push("W1: an Olm message that cannot be read".to_owned());
                    continue;
                };
                // The inner message is what the position belongs to; the outer form of a pre-key
                // message is part of its bytes.
                let place = (sender.to_owned(), ratchet, index);
                let known = self.olm.entry(place).or_insert_with(|| text.to_owned());
                if known != text {
                    self.violations.push(format!("W1: an Olm chain index of {sender} used twice"));
                }
            }
        }
    }

    fn watch_room_event(&mut self, event_type: &str, body: &Value, encrypted: bool) {
        if event_type != "m.room.encrypted" {
            if encrypted {
                self.violations.push(format!("W5: {event_type} in the clear"));
            }
            return;
        }
        let session = body["session_id"].as_str().unwrap_or_default();
        let ciphertext = body["ciphertext"].as_str().unwrap_or_default();
        let Ok(index) = megolm_message_index(ciphertext) else {
            self.violations.push("W2: a Megolm message that cannot be read".to_owned());
            return;
        };
        let place = (session.to_owned(), index);
        let known = self.megolm.entry(place).or_insert_with(|| ciphertext.to_owned());
        if known != ciphertext {
            self.violations.push(format!("W2: index {index} of {session} used twice"));
        }
    }

    fn watch_upload(&mut self, user: &str, device: &str, body: &Value) {
        let place = (user.to_owned(), device.to_owned());
        if let Some(keys) = body.get("device_keys") {
            let of = |kind: &str| {
                keys["keys"][format!("{kind}:{device}")].as_str().unwrap_or_default().to_owned()
            };
            let identity = (of("curve25519"), of("ed25519"));
            let known = self.identities.entry(place.clone()).or_insert_with(|| identity.clone());
            if *known != identity {
                self.violations.push(format!("W4: {device} published a second identity"));
            }
            self.verify(&identity.1, user, device, keys);
        }
        let signer = self.identities.get(&place).map(|identity| identity.1.clone());
        for part in ["one_time_keys", "fallback_keys"] {
            for (id, object) in body[part].as_object().into_iter().flatten() {
                let key = object["key"].as_str().unwrap_or_default().to_owned();
                let by_id = (user.to_owned(), device.to_owned(), id.clone());
                let by_key = (user.to_owned(), device.to_owned(), key.clone());
                if *self.key_ids.entry(by_id).or_insert_with(|| key.clone()) != key {
                    self.violations.push(format!("W3: {id} published with two keys"));
                }
                if *self.public_keys.entry(by_key).or_insert_with(|| id.clone()) != *id {
                    self.violations.push(format!("W3: one key under {id} and another id"));
                }
                match &signer {
                    Some(signer) => self.verify(&signer.clone(), user, device, object),
                    None => self.violations.push("W3: keys before the device's own".to_owned()),
                }
            }
        }
    }

    fn verify(&mut self, signer: &str, user: &str, device: &str, object: &Value) {
        let key: Option<Ed25519PublicKey> = ed25519_from_base64(signer).ok();
        let id = format!("ed25519:{device}");
        if key.is_none_or(|key| verify_json(&key, user, &id, object).is_err()) {
            self.violations.push(format!("W3: an object of {device} is not signed by it"));
        }
    }
}

/// Undoes percent-encoding.
fn decode(segment: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = segment.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let hex = (*first == b'%').then(|| tail.get(..2)).flatten();
        let byte = hex
            .and_then(|hex| std::str::from_utf8(hex).ok())
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match byte {
            Some(byte) => {
                bytes.push(byte);
                rest = tail.get(2..).unwrap_or_default();
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
