//! [`Oracle`]: invariants of everything a device puts on the wire, whatever else happens.
//!
//! W1 no Olm chain index twice, W2 no Megolm index twice, W3 key ids and keys one to one and validly
//! signed, W4 one identity for a device id, W5 nothing in the clear in an encrypted room, W6 no key
//! material in the clear, W7 nothing encrypted to a device that is not in the list as the sender got it, W8 no
//! loop over a failing request and none before its time, W9 no secret in a URL or a text that may be logged,
//! W10 no table that others can fill grows without end.

use std::collections::{BTreeMap, BTreeSet};

use herold_crypto::{
    Ed25519PublicKey, OlmMessage, SecretString, ed25519_from_base64, megolm_message_index,
    verify_json,
};
use herold_store::Table;
use serde_json::Value;

/// A request may fail so often at one moment before it counts as a loop.
const MAX_FAILURES: u32 = 5;
/// Nobody has to wait longer than this for a server's sake, in milliseconds.
const LONGEST_WAIT: u64 = 3_600_000;
/// Tables that the server or strangers can fill, and how many rows are still well.
const BOUNDS: [(Table, usize); 8] = [
    (Table::OlmHash, 20_000),
    (Table::OlmSession, 2000),
    (Table::Withheld, 1000),
    (Table::KeyRequest, 2000),
    (Table::KeyAnswers, 100),
    (Table::InboundSession, 2000),
    (Table::UntrustedDevice, 1000),
    (Table::AppEvent, 500),
];

/// Key material that never travels as a clear to-device event.
const NEVER_CLEAR: [&str; 5] = [
    "m.room_key",
    "m.forwarded_room_key",
    "m.secret.send",
    "m.room_key_bundle",
    "io.element.msc4268.room_key_bundle",
];

/// A user's id and a device's.
type Place = (String, String);

/// What a device knows of others, as far as it shows on the wire.
#[derive(Default)]
struct Known {
    /// The Curve25519 keys that answers had of each device.
    keys: BTreeMap<Place, BTreeSet<String>>,
    /// The devices that a later answer did not have, with what had been encrypted by then.
    gone: BTreeMap<Place, BTreeSet<String>>,
    /// Requests that failed: when, and how often at that moment.
    failed: BTreeMap<String, (u64, u32)>,
    /// Requests that are not to be made before a time.
    put_off: BTreeMap<String, u64>,
}

/// Watches requests. A violation is kept, not thrown, so that the scenario goes on and shows more.
#[derive(Default)]
pub struct Oracle {
    /// It is told of the answers to `/keys/query`; a harness that does not tell it is not held to W7.
    sees_answers: bool,
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
    excused: BTreeSet<Place>,
    known: BTreeMap<Place, Known>,
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

    /// A device may have forgotten what it knew last: that a device has gone, that a request is put off.
    pub fn may_forget(&mut self, user: &str, device: &str) {
        if let Some(known) = self.known.get_mut(&(user.to_owned(), device.to_owned())) {
            known.gone.clear();
            known.put_off.clear();
        }
    }

    /// A device is given an answer of `/keys/query` (W7).
    pub fn got_devices(&mut self, user: &str, device: &str, answer: &Value) {
        self.sees_answers = true;
        let known = self.known.entry((user.to_owned(), device.to_owned())).or_default();
        for (of, id, keys) in listed(answer) {
            let key = keys["keys"][format!("curve25519:{id}")].as_str().unwrap_or_default();
            let place = (of.clone(), id.clone());
            known.keys.entry(place.clone()).or_default().insert(key.to_owned());
            known.gone.remove(&place);
        }
    }

    /// The devices that an answer of `/keys/query` about `asked` leaves out.
    #[must_use]
    pub fn left_out(&self, user: &str, device: &str, asked: &Value, answer: &Value) -> Vec<Place> {
        let Some(known) = self.known.get(&(user.to_owned(), device.to_owned())) else {
            return Vec::new();
        };
        let lists = &answer["device_keys"];
        let is_left_out = |place: &&Place| {
            asked["device_keys"].get(&place.0).is_some()
                && lists[&place.0].as_object().is_some_and(|list| !list.contains_key(&place.1))
        };
        known.keys.keys().filter(is_left_out).cloned().collect()
    }

    /// A device has taken an answer that leaves these out. What it had encrypted before may still go out.
    pub fn lost_devices(
        &mut self,
        user: &str,
        device: &str,
        gone: Vec<Place>,
        encrypted: &BTreeSet<String>,
    ) {
        let known = self.known.entry((user.to_owned(), device.to_owned())).or_default();
        for place in gone {
            known.gone.entry(place).or_insert_with(|| encrypted.clone());
        }
    }

    /// A device makes a request of this name (W8).
    pub fn asks(&mut self, user: &str, device: &str, now: u64, name: &str, request: &str) {
        let place = (user.to_owned(), device.to_owned());
        let until = self.known.get(&place).and_then(|known| known.put_off.get(request));
        // A time further ahead than that is from before somebody set the clock back.
        let is_early = |until: &u64| now < *until && *until <= now.saturating_add(LONGEST_WAIT);
        if until.is_some_and(is_early) && !self.excused.contains(&place) {
            self.violations.push(format!("W8: {name} of {device} again before its time"));
        }
    }

    /// A request of this name has come to an end, be it well, and may have to wait (W8).
    pub fn ended(
        &mut self,
        (user, device): (&str, &str),
        now: u64,
        (name, request): (&str, &str),
        well: bool,
        retry_after_ms: Option<u64>,
    ) {
        let known = self.known.entry((user.to_owned(), device.to_owned())).or_default();
        match retry_after_ms {
            Some(wait) => {
                let until = now.saturating_add(wait.min(LONGEST_WAIT));
                known.put_off.insert(request.to_owned(), until);
            }
            None => drop(known.put_off.remove(request)),
        }
        if well {
            known.failed.remove(name);
            return;
        }
        let (at, times) = known.failed.entry(name.to_owned()).or_insert((now, 0));
        if *at != now {
            (*at, *times) = (now, 0);
        }
        *times += 1;
        if *times > MAX_FAILURES {
            self.violations.push(format!("W8: {name} of {device} fails in a loop"));
        }
    }

    /// The tables whose rows are to be counted.
    pub fn bounded() -> impl Iterator<Item = Table> {
        BOUNDS.into_iter().map(|(table, _)| table)
    }

    /// A table of a device has so many rows (W10).
    pub fn has_rows(&mut self, device: &str, table: Table, rows: usize) {
        let most = BOUNDS.iter().find(|(bounded, _)| *bounded == table).map(|(_, most)| *most);
        if most.is_some_and(|most| rows > most) {
            self.violations.push(format!("W10: {rows} rows of {table:?} on {device}"));
        }
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
            ["sendToDevice", event_type, _] => {
                self.watch_to_device(event_type, &body);
                self.watch_recipients(user, device, &body);
            }
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

    /// W7. Nothing is said against what was encrypted before its device went.
    fn watch_recipients(&mut self, user: &str, device: &str, body: &Value) {
        if !self.sees_answers {
            return;
        }
        let place = (user.to_owned(), device.to_owned());
        let known = self.known.entry(place).or_default();
        let users = body["messages"].as_object().into_iter().flatten();
        for (of, devices) in users {
            for (id, content) in devices.as_object().into_iter().flatten() {
                let place = (of.clone(), id.clone());
                for (key, message) in content["ciphertext"].as_object().into_iter().flatten() {
                    let text = message["body"].as_str().unwrap_or_default();
                    if !known.keys.get(&place).is_some_and(|keys| keys.contains(key)) {
                        let what =
                            format!("W7: {device} encrypts to {id} of {of}, unknown by that key");
                        self.violations.push(what);
                    } else if known.gone.get(&place).is_some_and(|before| !before.contains(text)) {
                        self.violations
                            .push(format!("W7: {device} encrypts to {id} of {of}, which has gone"));
                    }
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

/// The devices in an answer of `/keys/query`: user, id, keys.
fn listed(answer: &Value) -> impl Iterator<Item = (&String, &String, &Value)> {
    let users = answer["device_keys"].as_object().into_iter().flatten();
    users.flat_map(|(user, devices)| {
        let devices = devices.as_object().into_iter().flatten();
        devices.map(move |(id, keys)| (user, id, keys))
    })
}

/// The bodies of the ciphertexts in a to-device request.
pub(crate) fn ciphertexts(body: &Value) -> BTreeSet<String> {
    let users = body["messages"].as_object().into_iter().flat_map(|users| users.values());
    let contents = users.filter_map(Value::as_object).flat_map(|devices| devices.values());
    contents
        .filter_map(|content| content["ciphertext"].as_object())
        .flat_map(|texts| texts.values())
        .filter_map(|text| text["body"].as_str().map(str::to_owned))
        .collect()
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
