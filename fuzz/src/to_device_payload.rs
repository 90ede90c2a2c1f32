//! What stands inside an Olm message from a known device: the bytes come from behind the decryption.
//!
//! Input: whose device (even: Bob, odd: Mallory), then the payload.

use herold_crypto::OlmSession;
use serde_json::json;

use crate::{
    scene::{Peer, decode, scene},
    subject::sync_twice,
};

/// One run.
///
/// # Panics
/// On a finding.
pub fn run(data: &[u8]) {
    let Some((who, payload)) = data.split_first() else { return };
    let peer = peer(*who);
    crate::random::restart(0);
    let content = encrypt(peer, payload);
    sync_twice(payload, |subject| {
        let taken = subject.to_device(&peer.user_id, "m.room.encrypted", &content);
        assert!(taken, "a bad payload has kept a whole sync from being taken");
        taken
    });
}

/// Who writes.
pub(crate) fn peer(who: u8) -> &'static Peer {
    let scene = &scene().scene;
    if who & 1 == 0 { &scene.bob } else { &scene.mallory }
}

/// The session of a peer with Alice.
pub(crate) fn session(peer: &Peer) -> OlmSession {
    OlmSession::from_record(&decode(&peer.olm)).expect("the scene has sessions")
}

/// The content of an event with this payload.
fn encrypt(peer: &Peer, payload: &[u8]) -> String {
    let message = session(peer).encrypt(payload).expect("an honest session encrypts");
    content(peer, message.message_type(), &message.body())
}

/// The content of an event with this message.
pub(crate) fn content(peer: &Peer, message_type: u8, body: &str) -> String {
    json!({
        "algorithm": "m.olm.v1.curve25519-aes-sha2",
        "sender_key": peer.curve25519,
        "ciphertext": { &scene().scene.alice_curve25519: { "type": message_type, "body": body } },
    })
    .to_string()
}
