//! vodozemac alone: the arithmetic of a work and nothing else; no JSON around it, no checks, no store.

use std::path::Path;

use serde_json::{Value, json};
use vodozemac::{
    megolm::{ExportedSessionKey, GroupSession, InboundGroupSession, MegolmMessage, SessionKey},
    olm::{Account, OlmMessage, Session, SessionConfig},
    pk_encryption::{self, PkDecryption, PkEncryption},
};

use crate::{
    measure::{Effort, measure, measure_once, timed},
    people::exported,
    side::{ROOM, TEXT},
    works::{BATCH, KEY_SENDERS, KEYS, effort},
};

/// Measures one work.
pub(crate) fn run(work: &str, folder: &Path) -> Value {
    let (kind, size) = work.split_once('/').unwrap_or((work, "1"));
    let size: usize = size.parse().expect("a number");
    // Without a store one key takes as long as the next.
    let fewer = size.min(10_000);
    let folder = folder.join("criterion");
    let effort = effort(work);
    match kind {
        "encrypt" | "send" | "members" => {
            let mut session = GroupSession::new(Default::default());
            measure(&folder, &effort, 1, || timed(|| session.encrypt(payload(1)).to_base64()).0)
        }
        "import" => {
            let keys: Vec<String> =
                (0..fewer).map(|_| exported(&GroupSession::new(Default::default()))).collect();
            measure_once(fewer as u64, || {
                timed(|| {
                    for key in &keys {
                        std::hint::black_box(import(key));
                    }
                })
                .0
            })
        }
        "restore" => {
            let secret = PkDecryption::new();
            let public = PkEncryption::from_key(secret.public_key());
            let entries: Vec<pk_encryption::Message> = (0..fewer)
                .map(|_| {
                    let key = exported(&GroupSession::new(Default::default()));
                    public.encrypt(key.as_bytes()).expect("a good key")
                })
                .collect();
            measure_once(fewer as u64, || {
                timed(|| {
                    for entry in &entries {
                        let key = secret.decrypt(entry).expect("it decrypts");
                        std::hint::black_box(import(std::str::from_utf8(&key).expect("base64")));
                    }
                })
                .0
            })
        }
        "decrypt" | "backlog" | "backlog1" | "open" => {
            measure(&folder, &Effort::Samples { samples: 10, seconds: 3 }, BATCH as u64, || {
                let mut writer = GroupSession::new(Default::default());
                let mut reader =
                    InboundGroupSession::new(&writer.session_key(), Default::default());
                let messages: Vec<String> =
                    (0..BATCH).map(|n| writer.encrypt(payload(n)).to_base64()).collect();
                timed(|| {
                    for message in &messages {
                        let message = MegolmMessage::from_base64(message).expect("a message");
                        std::hint::black_box(reader.decrypt(&message).expect("it decrypts"));
                    }
                })
                .0
            })
        }
        "share" => {
            let mut channels: Vec<(Session, Session)> = (0..size).map(|_| channel()).collect();
            measure(&folder, &effort, 1, || {
                timed(|| {
                    let mut session = GroupSession::new(Default::default());
                    let key = room_key(&session);
                    for (ours, _) in &mut channels {
                        std::hint::black_box(ours.encrypt(&key).expect("it encrypts").to_parts());
                    }
                    session.encrypt(payload(1)).to_base64()
                })
                .0
            })
        }
        "sync" => {
            let mut channels: Vec<(Session, Session)> =
                (0..KEY_SENDERS).map(|_| channel()).collect();
            measure(&folder, &effort, 1, || {
                let messages: Vec<(usize, OlmMessage)> = (0..KEYS)
                    .map(|n| {
                        let key = room_key(&GroupSession::new(Default::default()));
                        let place = n % channels.len();
                        (place, channels[place].1.encrypt(&key).expect("it encrypts"))
                    })
                    .collect();
                timed(|| {
                    for (place, message) in &messages {
                        let key = channels[*place].0.decrypt(message).expect("it decrypts");
                        let key: Value = serde_json::from_slice(&key).expect("JSON");
                        let key = key["session_key"].as_str().expect("a key");
                        let key = SessionKey::from_base64(key).expect("a key");
                        std::hint::black_box(InboundGroupSession::new(&key, Default::default()));
                    }
                })
                .0
            })
        }
        _ => panic!("not a work: {work}"),
    }
}

/// Opens an exported session.
fn import(key: &str) -> InboundGroupSession {
    let key = ExportedSessionKey::from_base64(key).expect("a key");
    InboundGroupSession::import(&key, Default::default())
}

/// What is encrypted for a message.
fn payload(n: usize) -> String {
    json!({
        "type": "m.room.message",
        "room_id": ROOM,
        "content": { "msgtype": "m.text", "body": format!("{TEXT} {n}") },
    })
    .to_string()
}

/// What is encrypted for a device that gets a key, with text for everything around the key.
fn room_key(session: &GroupSession) -> String {
    json!({
        "session_key": session.session_key().to_base64(),
        "around": "x".repeat(900),
    })
    .to_string()
}

/// An established Olm channel, both ends.
fn channel() -> (Session, Session) {
    let (one, mut other) = (Account::new(), Account::new());
    other.generate_one_time_keys(1);
    let key = *other.one_time_keys().values().next().expect("a one-time key");
    let mut ours = one
        .create_outbound_session(SessionConfig::version_1(), other.curve25519_key(), key)
        .expect("a channel");
    let OlmMessage::PreKey(first) = ours.encrypt("first").expect("it encrypts") else {
        panic!("the first message of a channel");
    };
    let mut theirs = other
        .create_inbound_session(SessionConfig::version_1(), one.curve25519_key(), &first)
        .expect("a channel")
        .session;
    let answer = theirs.encrypt("answer").expect("it encrypts");
    ours.decrypt(&answer).expect("it decrypts");
    (ours, theirs)
}
