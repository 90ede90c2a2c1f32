//! An Olm message, as the server delivers it.
//!
//! Input: how (0: the content of the event as JSON, 1 and 2: the bytes of a pre-key or a later message,
//! 3: a good message, changed), whose name is on it (even: Bob, odd: Mallory), then the bytes.

use base64::{Engine as _, prelude::BASE64_STANDARD_NO_PAD};
use herold_crypto::{OlmMessage, OlmSession, curve25519_from_base64};
use herold_store::{
    SnapshotExt as _,
    records::{OlmSessionKey, OlmSessionRecord},
};

use crate::{
    scene::scene,
    subject::sync_twice,
    to_device_payload::{content, peer, session},
};

/// One run.
///
/// # Panics
/// On a finding.
pub fn run(data: &[u8]) {
    let [how, who, bytes @ ..] = data else { return };
    let peer = peer(*who);
    let content = match how % 4 {
        0 => match std::str::from_utf8(bytes) {
            Ok(text) => text.to_owned(),
            Err(_) => return,
        },
        kind @ (1 | 2) => {
            alone(u64::from(kind - 1), bytes);
            content(peer, kind - 1, &BASE64_STANDARD_NO_PAD.encode(bytes))
        }
        _ => {
            crate::random::restart(0);
            let good = session(peer).encrypt(b"{}").expect("an honest session encrypts");
            let mut message = BASE64_STANDARD_NO_PAD.decode(good.body()).expect("base64");
            for edit in bytes.chunks(2) {
                let [at, with] = edit else { break };
                let length = message.len();
                message[usize::from(*at) % length] ^= with;
            }
            content(peer, good.message_type(), &BASE64_STANDARD_NO_PAD.encode(message))
        }
    };
    sync_twice(bytes, |subject| subject.to_device(&peer.user_id, "m.room.encrypted", &content));
}

/// The parser and the ratchet by themselves.
fn alone(kind: u64, bytes: &[u8]) {
    let Ok(message) = OlmMessage::from_parts(kind, &BASE64_STANDARD_NO_PAD.encode(bytes)) else {
        return;
    };
    let again = OlmMessage::from_parts(u64::from(message.message_type()), &message.body());
    assert_eq!(again.as_ref(), Ok(&message), "a message does not survive writing and reading");
    assert_eq!(again.map(|again| again.hash()), Ok(message.hash()));
    // Alice's sessions with Bob: whatever does not fit leaves them able to read what does.
    let bob = curve25519_from_base64(&peer(0).curve25519).expect("a key");
    let prefix = OlmSessionKey::with(&bob);
    let sessions = scene().store.list::<OlmSessionRecord>(&prefix, usize::MAX).expect("readable");
    let mut read = 0;
    for (_, record) in sessions {
        let mut own = OlmSession::from_record(record.pickle.as_slice()).expect("a good session");
        if own.decrypt(&message).is_ok() {
            return;
        }
        let good = session(peer(0)).encrypt(b"good").expect("an honest session encrypts");
        read += usize::from(own.decrypt(&good).is_ok());
    }
    assert!(read > 0, "a message that was refused has broken the session");
}
