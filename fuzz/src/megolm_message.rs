//! An encrypted room event, as the server delivers it.
//!
//! Input: how, then the bytes. 0: the content of the event as JSON. 1: the bytes of a message under Bob's
//! session. 2 and 3: the clear payload of a message that Bob or Mallory has encrypted. 4: the same from
//! Mallory, under Bob's name. 5: a good message, changed. 6: a good message, in the room `secret`.

use base64::{Engine as _, prelude::BASE64_STANDARD_NO_PAD};
use herold_crypto::OutboundGroupSession;
use serde_json::json;

use crate::{
    scene::{Peer, decode, scene},
    subject::{Subject, sync_twice},
};

const EVENT: &str = "$fuzz:world.test";

/// One run.
///
/// # Panics
/// On a finding.
pub fn run(data: &[u8]) {
    let Some((how, bytes)) = data.split_first() else { return };
    let scene = &scene().scene;
    let (bob, mallory) = (&scene.bob, &scene.mallory);
    crate::random::restart(0);
    let (sender, content) = match how % 7 {
        0 => match std::str::from_utf8(bytes) {
            Ok(text) => (bob, text.to_owned()),
            Err(_) => return,
        },
        1 => (bob, content(&session(bob), &BASE64_STANDARD_NO_PAD.encode(bytes))),
        2 => (bob, encrypt(bob, bytes)),
        3 => (mallory, encrypt(mallory, bytes)),
        4 => (bob, encrypt(mallory, bytes)),
        5 => (bob, changed(bob, bytes)),
        _ => (bob, encrypt(bob, bytes)),
    };
    let elsewhere = how % 7 == 6;
    sync_twice(bytes, |subject| {
        let kind = "m.room.encrypted";
        let taken = if elsewhere {
            in_secret(subject, &bob.user_id, &content)
        } else {
            subject.room_event(&sender.user_id, kind, EVENT, &content)
        };
        let shown = subject.shown();
        let event = shown.iter().find(|event| event.event_id.as_str() == EVENT);
        if how % 7 == 4 || elsewhere {
            let event = event.expect("it was taken");
            assert!(event.body.is_err(), "shown in another's name, or in another room");
        }
        taken
    });
}

fn in_secret(subject: &mut Subject, sender: &str, content: &str) -> bool {
    let room = json!(scene().scene.secret).to_string();
    let body = format!(
        r#"{{"next_batch":"f","rooms":{{"join":{{{room}:{{"timeline":{{"events":[{{"type":"m.room.encrypted","sender":{},"event_id":"{EVENT}","content":{content}}}]}}}}}}}}}}"#,
        json!(sender)
    );
    subject.sync(body.as_bytes())
}

fn session(peer: &Peer) -> OutboundGroupSession {
    OutboundGroupSession::from_record(&decode(&peer.megolm)).expect("the scene has sessions")
}

fn content(session: &OutboundGroupSession, ciphertext: &str) -> String {
    json!({
        "algorithm": "m.megolm.v1.aes-sha2",
        "session_id": session.session_id(),
        "ciphertext": ciphertext,
    })
    .to_string()
}

fn encrypt(peer: &Peer, payload: &[u8]) -> String {
    let mut session = session(peer);
    let ciphertext = session.encrypt(payload);
    content(&session, &ciphertext)
}

/// A good message with some of its bytes changed. What is not signed cannot be read.
fn changed(peer: &Peer, edits: &[u8]) -> String {
    let mut session = session(peer);
    let payload =
        json!({ "type": "m.room.message", "room_id": scene().scene.shared, "content": {} });
    let good = session.encrypt(payload.to_string().as_bytes());
    let mut message = BASE64_STANDARD_NO_PAD.decode(good).expect("base64");
    for edit in edits.chunks(2) {
        let [at, with] = edit else { break };
        let length = message.len();
        message[usize::from(*at) % length] ^= with;
    }
    content(&session, &BASE64_STANDARD_NO_PAD.encode(message))
}
