//! What the attack tests share: events made by hand, cross-signing identities, looks into answers.

#![allow(dead_code)]

use herold::{OwnedEventId, OwnedRoomId, RoomEvent, Utd};
use herold_crypto::{InboundGroupSession, OutboundGroupSession};
use herold_machine::{DropReason, Notice};
#[allow(unused_imports, reason = "not every test signs")]
pub use herold_testkit::CrossSigning;
use herold_testkit::{Attacker, World};
use herold_trust::{Policy, Shield};
use serde_json::{Value, json};

pub const MEGOLM: &str = "m.megolm.v1.aes-sha2";

/// Alice and Bob in an encrypted room, everybody's devices welcome, one message each way sent.
pub fn two(seed: u64) -> (World, usize, usize, OwnedRoomId) {
    let mut world = World::new(seed);
    let alice = world.add_device("alice");
    let bob = world.add_device("bob");
    world.settle();
    let room = world.make_room(&[alice, bob]);
    world.send(alice, &room, "from alice");
    world.send(bob, &room, "from bob");
    (world, alice, bob, room)
}

/// A device under the default policy.
pub fn strict_device(world: &mut World, localpart: &str) -> usize {
    world.add_device_with(localpart, Policy::default())
}

pub fn user(world: &World, device: usize) -> String {
    world.devices[device].user_id.to_string()
}

pub fn id(world: &World, device: usize) -> String {
    world.devices[device].device_id.clone()
}

/// The path of an action on a room.
pub fn path(room: &OwnedRoomId, action: &str) -> String {
    let room = herold_machine::percent_encode(room.as_str());
    format!("/_matrix/client/v3/rooms/{room}/{action}")
}

/// What the server holds of an event.
pub fn raw(world: &World, room: &OwnedRoomId, event_id: &OwnedEventId) -> Value {
    world
        .server
        .events(room.as_str())
        .into_iter()
        .find(|event| event["event_id"] == event_id.as_str())
        .expect("the server has the event")
}

/// Appends an event to the room behind everybody's back. Its id.
pub fn inject(world: &mut World, room: &OwnedRoomId, mut event: Value, name: &str) -> OwnedEventId {
    let event_id = format!("${name}");
    event["event_id"] = json!(event_id);
    if event.get("origin_server_ts").is_none() {
        event["origin_server_ts"] = json!(world.clock.millis());
    }
    assert!(world.server.inject_timeline(room.as_str(), event));
    event_id.as_str().try_into().expect("an event id")
}

/// Puts a clear to-device event into a device's inbox.
pub fn inject_clear(world: &mut World, device: usize, sender: &str, kind: &str, content: Value) {
    let (user, id) = (user(world, device), id(world, device));
    let event = json!({ "type": kind, "sender": sender, "content": content });
    assert!(world.server.inject_to_device(&user, &id, event));
}

/// An encrypted room event from a session made by hand.
pub fn encrypted(
    session: &mut OutboundGroupSession,
    room: &OwnedRoomId,
    sender: &str,
    body: &str,
) -> Value {
    let plaintext = json!({
        "type": "m.room.message",
        "content": { "msgtype": "m.text", "body": body },
        "room_id": room,
    });
    let ciphertext = session.encrypt(plaintext.to_string().as_bytes());
    json!({
        "type": "m.room.encrypted",
        "sender": sender,
        "content": {
            "algorithm": MEGOLM,
            "session_id": session.session_id().as_str(),
            "ciphertext": ciphertext,
        },
    })
}

/// The content of `m.room_key` for a session made by hand.
pub fn room_key(session: &OutboundGroupSession, room: &OwnedRoomId) -> Value {
    json!({
        "algorithm": MEGOLM,
        "room_id": room,
        "session_id": session.session_id().as_str(),
        "session_key": session.session_key().as_str(),
    })
}

/// The shield and the body as a device shows them.
pub fn shown(
    world: &mut World,
    device: usize,
    room: &OwnedRoomId,
    event_id: &OwnedEventId,
) -> (Shield, Result<String, Utd>) {
    let event: RoomEvent = world.event(device, room, event_id).expect("the event is known");
    let body = event.body.map(|body| {
        let content: Value = serde_json::from_str(&body.content).unwrap_or_default();
        content["body"].as_str().unwrap_or_default().to_owned()
    });
    (event.shield, body)
}

/// How often to-device messages were dropped for a reason.
pub fn dropped(world: &World, device: usize, reason: DropReason) -> usize {
    world
        .notices(device)
        .iter()
        .filter(|notice| {
            matches!(notice, Notice::ToDeviceDropped { reason: given, .. } if *given == reason)
        })
        .count()
}

/// Changes the JSON of every answer of one path, for one device.
pub fn rewrite(
    world: &mut World,
    device: usize,
    path: &'static str,
    mut change: impl FnMut(&mut Value) + 'static,
) {
    world.tamper = Some(Box::new(move |of, asked, response| {
        if of == device && asked.contains(path) {
            let mut body: Value = serde_json::from_slice(&response.body).unwrap_or_default();
            change(&mut body);
            response.body = body.to_string().into_bytes();
        }
    }));
}

/// The rows of a table on a device's disk.
pub fn rows(world: &World, device: usize, table: herold_store::Table) -> usize {
    use herold_store::{ScanControl, Snapshot};
    let mut rows = 0;
    world.devices[device]
        .disk
        .image()
        .scan(table, &[], None, &mut |_, _| {
            rows += 1;
            ScanControl::Continue(())
        })
        .expect("a store in memory");
    rows
}

/// Has a device use a new session for its next message to a room.
pub fn new_session(world: &mut World, device: usize, room: &OwnedRoomId) {
    world
        .command(device, |engine| {
            engine.step(|machine, snapshot, cx| machine.discard_room_key(snapshot, cx, room))
        })
        .expect("a session can be ended");
}

/// Takes a page of history, changed by `change` on the way.
pub fn page(
    world: &mut World,
    device: usize,
    room: &OwnedRoomId,
    change: impl FnOnce(&mut Value),
) -> Vec<OwnedEventId> {
    let request = world
        .command(device, |engine| {
            engine.read(|machine, snapshot| machine.messages_request(snapshot, room, 50))
        })
        .flatten()
        .expect("there is history");
    let mut body = world.call_http(device, &request);
    change(&mut body);
    let body = body.to_string();
    world
        .command(device, |engine| {
            engine.step(|machine, snapshot, cx| {
                machine.handle_messages(snapshot, cx, room, body.as_bytes())
            })
        })
        .expect("a page of history")
        .reply
}

/// Takes a single event as the server would answer it.
pub fn single(world: &mut World, device: usize, room: &OwnedRoomId, event: &Value) -> bool {
    let asked = event["event_id"].as_str().and_then(|id| id.try_into().ok());
    let asked: OwnedEventId = asked.unwrap_or_else(|| "$asked".try_into().expect("an event id"));
    fetched(world, device, room, &asked, event)
}

/// Takes what a server answers to the request for the event `asked`.
pub fn fetched(
    world: &mut World,
    device: usize,
    room: &OwnedRoomId,
    asked: &OwnedEventId,
    event: &Value,
) -> bool {
    let body = event.to_string();
    world
        .command(device, |engine| {
            engine.step(|machine, snapshot, cx| {
                machine.handle_event(snapshot, cx, room, asked, body.as_bytes())
            })
        })
        .is_some()
}

/// The names of the devices of a user as another device knows them.
pub fn known_devices(world: &mut World, device: usize, user: &str) -> Vec<(String, String)> {
    let user: herold::OwnedUserId = user.try_into().expect("a user id");
    let devices = world
        .command(device, |engine| engine.read(|machine, snapshot| machine.devices(snapshot, &user)))
        .expect("the devices can be read")
        .devices;
    devices
        .into_iter()
        .map(|view| (view.device.device_id.to_string(), view.device.keys.ed25519.to_base64()))
        .collect()
}

/// The room keys that a device has been sent, of those the attacker can read.
pub fn room_keys_of(world: &World, device: &mut Attacker) -> Vec<Value> {
    let payloads = device.received(world);
    payloads.into_iter().filter(|payload| payload["type"] == "m.room_key").collect()
}

/// The body of an event, read with a room key that was sent to somebody.
pub fn read_with(world: &World, room: &OwnedRoomId, id: &OwnedEventId, keys: &[Value]) -> bool {
    let event = raw(world, room, id);
    let ciphertext = event["content"]["ciphertext"].as_str().unwrap_or_default();
    keys.iter()
        .filter_map(|key| key["content"]["session_key"].as_str())
        .filter_map(|key| InboundGroupSession::from_session_key(key).ok())
        .any(|mut session| session.decrypt(ciphertext).is_ok())
}

/// The withheld codes sent to a device.
pub fn withheld(world: &World, user: &str, device: &str) -> Vec<String> {
    world
        .server
        .to_device_log()
        .iter()
        .filter(|sent| sent.recipient == user && sent.recipient_device == device)
        .filter(|sent| sent.event_type == "m.room_key.withheld")
        .filter_map(|sent| sent.content["code"].as_str().map(str::to_owned))
        .collect()
}

/// How many Olm messages were sent to a device.
pub fn olm_messages(world: &World, user: &str, device: &str) -> usize {
    world
        .server
        .to_device_log()
        .iter()
        .filter(|sent| sent.recipient == user && sent.recipient_device == device)
        .filter(|sent| sent.event_type == "m.room.encrypted")
        .count()
}

/// The keys of a device as the server answers them.
pub fn published(world: &mut World, asker: usize, user: &str, device: &str) -> Value {
    let body = json!({ "device_keys": { user: [] } });
    let answer = world.call(Some(asker), "POST", "/_matrix/client/v3/keys/query", body);
    answer["device_keys"][user][device].clone()
}
