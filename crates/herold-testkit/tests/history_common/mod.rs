//! What the stories of shared history have in common: what the SDK does beside the machine, and bundles made by hand.

#![allow(dead_code)]

use herold::{Body, HttpRequest, Method, OwnedEventId, OwnedRoomId, OwnedUserId, RoomEvent};
use herold_crypto::{EncryptedFile, OutboundGroupSession, SeededEntropy, encrypt_attachment};
use herold_machine::HistoryBundle;
use herold_testkit::{Attacker, World};
use serde_json::{Value, json};

use crate::attacks_common::MEGOLM;

pub const BUNDLE: &str = "m.room_key_bundle";
pub const DOWNLOAD: &str = "/media/download/";

/// Uploads a text as an encrypted attachment.
pub fn upload(world: &mut World, device: usize, text: &[u8]) -> EncryptedFile {
    let seed = world.clock.millis() ^ text.len() as u64;
    let (ciphertext, mut file) = encrypt_attachment(text, &mut SeededEntropy::new(seed));
    let mut request = HttpRequest::new(Method::Post, "/_matrix/media/v3", &["upload"]);
    let content_type = "application/octet-stream".to_owned();
    request.body = Body::Bytes { content_type, data: ciphertext };
    let answer = world.call_http(device, &request);
    file.url = answer["content_uri"].as_str().expect("uploaded").to_owned();
    file
}

/// The bundle that a device would share.
pub fn collect(world: &mut World, device: usize, room: &OwnedRoomId) -> Value {
    let mut bundle = HistoryBundle::new(room.clone());
    while !world
        .command(device, |engine| {
            engine.read(|machine, snapshot| machine.collect_history(snapshot, &mut bundle, 1))
        })
        .expect("it can be read")
    {}
    let keys = bundle.keys();
    let text = bundle.into_text();
    let value: Value = serde_json::from_slice(text.as_slice()).expect("JSON");
    assert_eq!(value["room_keys"].as_array().map(Vec::len), Some(keys));
    value
}

/// Has a device share a room's history with a user; again, should it die over it.
pub fn share(world: &mut World, device: usize, room: &OwnedRoomId, with: usize) {
    let user = world.devices[with].user_id.clone();
    for _ in 0..4 {
        let bundle = collect(world, device, room);
        let file = upload(world, device, bundle.to_string().as_bytes());
        if queue(world, device, room, &user, &file) {
            return world.settle();
        }
    }
    panic!("nothing was shared");
}

pub fn queue(
    world: &mut World,
    device: usize,
    room: &OwnedRoomId,
    user: &OwnedUserId,
    file: &EncryptedFile,
) -> bool {
    world
        .command(device, |engine| {
            engine
                .step(|machine, snapshot, cx| machine.share_history(snapshot, cx, room, user, file))
        })
        .is_some()
}

/// The app accepts an invitation with its history. Whether any may come.
pub fn accept(world: &mut World, device: usize, room: &OwnedRoomId) -> bool {
    for _ in 0..4 {
        let accepted = world.command(device, |engine| {
            engine.step(|machine, snapshot, cx| machine.accept_history(snapshot, cx, room))
        });
        if let Some(accepted) = accepted {
            return accepted.reply;
        }
    }
    panic!("it died four times over it")
}

/// Accepts, joins, and fetches what was said before.
pub fn join(world: &mut World, device: usize, room: &OwnedRoomId) {
    assert!(accept(world, device, room));
    world.join(device, room);
    world.settle();
}

/// What a device has downloaded.
pub fn downloads(world: &World, device: usize) -> usize {
    crate::behaviour_common::requests(world, device, DOWNLOAD, 0).len()
}

pub fn shown(
    world: &mut World,
    device: usize,
    room: &OwnedRoomId,
    event: &OwnedEventId,
) -> RoomEvent {
    world.event(device, room, event).expect("the event is known")
}

/// A session made by hand and a message in it, which the homeserver has in the room.
pub fn old_message(
    world: &mut World,
    room: &OwnedRoomId,
    sender: &str,
    body: &str,
) -> (OutboundGroupSession, OwnedEventId) {
    let mut session = OutboundGroupSession::new();
    let first = OutboundGroupSession::from_record(session.to_record().as_slice()).expect("a copy");
    let event = crate::attacks_common::encrypted(&mut session, room, sender, body);
    let name = format!("old-{}", body.replace(' ', "-"));
    (first, crate::attacks_common::inject(world, room, event, &name))
}

/// A room key in a bundle.
pub fn entry(session: &OutboundGroupSession, room: &str, sender: &Attacker) -> Value {
    let inbound =
        herold_crypto::InboundGroupSession::from_session_key(session.session_key().as_str());
    let mut inbound = inbound.expect("a session");
    let index = inbound.first_known_index();
    json!({
        "algorithm": MEGOLM,
        "room_id": room,
        "sender_key": sender.keys().curve25519.to_base64(),
        "sender_claimed_keys": { "ed25519": sender.keys().ed25519.to_base64() },
        "session_id": session.session_id().as_str(),
        "session_key": inbound.export_at(index).expect("it is known").as_str(),
    })
}

/// The payload that tells a device of a bundle.
pub fn telling(
    world: &World,
    from: &Attacker,
    to: usize,
    room: &OwnedRoomId,
    file: &EncryptedFile,
) -> Value {
    let content = json!({ "room_id": room, "file": file.to_json() });
    let mut payload = from.payload(world, to, BUNDLE, &content);
    payload["sender_device_keys"] = from.device_keys();
    payload
}
