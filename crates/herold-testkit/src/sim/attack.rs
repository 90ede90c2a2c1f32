//! What the homeserver, a member and a device do that they must not. None of it may make anything readable
//! that was not to be, show anything that nobody said, or keep anything from being read that the attack
//! itself does not take away.

use std::collections::{BTreeMap, BTreeSet};

use herold::{OwnedEventId, OwnedRoomId, OwnedUserId};
use herold_crypto::{InboundGroupSession, OutboundGroupSession};
use serde_json::{Value, json};

use super::play::Sim;
use crate::{Attacker, CrossSigning, SIGNING_UPLOAD, World};

const MEGOLM: &str = "m.megolm.v1.aes-sha2";

/// An attack. The comments name the ones of the published list that it is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attack {
    /// A to-device message that was delivered comes again.
    ReplayToDevice,
    /// A ciphertext comes again under another event id (N23).
    ReplayEvent,
    /// A ciphertext comes in another room (N25).
    MoveEvent,
    /// A ciphertext comes under another sender (N13).
    SpoofSender,
    /// A user is given one more device, unsigned (N02).
    GhostDevice,
    /// A stranger stands in the room as a member (N01).
    GhostMember,
    /// A message in the clear in the name of a member (N30).
    ClearMessage,
    /// Key material in the clear (N42).
    ClearKey,
    /// Key material under Megolm, or no algorithm (N07).
    MegolmKey,
    /// A member passes another's room key off as its own (N24).
    BorrowSession,
    /// A member makes a session under another's id.
    OwnSession,
    /// A forwarded room key that nobody asked for (N05).
    ForwardedKey,
    /// An Olm payload with a wrong field (N17).
    WrongPayload,
    /// Junk in a sync response beside what is good (N38).
    PoisonSync,
    /// Nonsense about the one-time keys that are left (N41).
    CountLies,
    /// A device's keys are others for a while (N19).
    SwapDeviceKeys,
    /// Nobody's word that a key is withheld (N40).
    WithheldSpam,
    /// One-time keys that the device has not signed (N20).
    BadOneTimeKeys,
    /// An Olm message that nobody can decrypt.
    GarbageOlm,
    /// The room's encryption is redefined, or taken back (N29).
    Downgrade,
    /// Many `m.dummy` from a stranger (N40).
    Dummies,
    /// Everybody's devices are said to have changed.
    AnnounceAll,
    /// A room key request from a stranger, in a device's name (N26).
    KeyRequest,
}

impl Attack {
    /// All of them.
    pub const ALL: [Self; 23] = [
        Self::ReplayToDevice,
        Self::ReplayEvent,
        Self::MoveEvent,
        Self::SpoofSender,
        Self::GhostDevice,
        Self::GhostMember,
        Self::ClearMessage,
        Self::ClearKey,
        Self::MegolmKey,
        Self::BorrowSession,
        Self::OwnSession,
        Self::ForwardedKey,
        Self::WrongPayload,
        Self::PoisonSync,
        Self::CountLies,
        Self::SwapDeviceKeys,
        Self::WithheldSpam,
        Self::BadOneTimeKeys,
        Self::GarbageOlm,
        Self::Downgrade,
        Self::Dummies,
        Self::AnnounceAll,
        Self::KeyRequest,
    ];
}

/// Those who do it.
#[derive(Default)]
pub(super) struct Villains {
    /// A member of the rooms with a signed device: she may read, and plays foul.
    mallory: Option<Attacker>,
    /// Devices that the server has made up: no key may reach them.
    ghosts: Vec<Attacker>,
    /// Users whose keys are not what they were.
    swapped: BTreeSet<(String, String)>,
    /// Users whose counts are lies.
    lied_about: BTreeSet<(String, String)>,
    /// The events that there is a copy of in the same room, with nothing else changed.
    copied: BTreeSet<String>,
    forged: u64,
}

impl Villains {
    /// Mallory joins the rooms.
    pub(super) fn enter(world: &mut World, rooms: &[OwnedRoomId]) -> Self {
        let mallory = Attacker::log_in(world, "mallory");
        let identity = CrossSigning::new(&mallory.user_id);
        mallory.call(world, "POST", SIGNING_UPLOAD, &identity.public_keys());
        let signed = identity.sign(mallory.device_keys());
        let body = json!({ mallory.user_id.as_str(): { mallory.device_id.as_str(): signed } });
        mallory.call(world, "POST", "/_matrix/client/v3/keys/signatures/upload", &body);
        for room in rooms {
            let room = herold_machine::percent_encode(room.as_str());
            let path = |action| format!("/_matrix/client/v3/rooms/{room}/{action}");
            world.call(Some(0), "POST", &path("invite"), json!({ "user_id": mallory.user_id }));
            mallory.call(world, "POST", &path("join"), &json!({}));
        }
        world.settle();
        Self { mallory: Some(mallory), ..Self::default() }
    }

    /// What they have done to the server is undone.
    pub(super) fn leave(&mut self, world: &mut World) {
        for (user, device) in &self.swapped {
            world.server.restore_device_keys(user, device);
        }
        for (user, device) in std::mem::take(&mut self.lied_about) {
            world.server.set_one_time_key_count_override(&user, &device, None);
        }
    }

    /// Whether a device of a user has had other keys: who had not met it before could not reach it.
    pub(super) fn has_swapped(&self, user: &str) -> bool {
        self.swapped.iter().any(|(swapped, _)| swapped == user)
    }

    /// Whether a villain has said this in her own name.
    pub(super) fn said(&self, sender: &OwnedUserId, body: &str) -> bool {
        let mallory = self.mallory.as_ref().is_some_and(|mallory| mallory.user_id == *sender);
        mallory && body.starts_with("mallory ")
    }

    /// Whether an event stands in its room twice, under two ids: nobody can tell which was first.
    pub(super) fn copied(&self, event_id: &OwnedEventId) -> bool {
        self.copied.contains(event_id.as_str())
    }

    /// No ghost has been sent a room key.
    pub(super) fn check(&mut self, world: &mut World) -> Result<(), String> {
        for ghost in &mut self.ghosts {
            if let Some(payload) = ghost.received(world).first() {
                return Err(format!(
                    "the ghost {} of {} was sent {}",
                    ghost.device_id, ghost.user_id, payload["type"]
                ));
            }
        }
        Ok(())
    }

    fn number(&mut self) -> u64 {
        self.forged += 1;
        self.forged
    }
}

impl Attack {
    /// Makes the attack on a device.
    pub(super) fn make(self, sim: &mut Sim, target: u8) {
        let device = sim.device(target);
        if sim.states[device].logged_out || sim.world.devices[device].published.is_none() {
            return;
        }
        // It is the villains' own server: they do not wait.
        sim.world.server.limit_requests(0, 0);
        let room = sim.room(target / 16);
        match self {
            Self::ReplayToDevice => replay_to_device(sim, device, target),
            Self::ReplayEvent => again(sim, target, &room.clone(), |_| {}),
            Self::MoveEvent => {
                let other = sim.room(target / 16 + 1);
                again(sim, target, &other, |_| {});
            }
            Self::SpoofSender => {
                let other = sim.users[usize::from(target) % sim.users.len()].clone();
                again(sim, target, &room, |event| event["sender"] = json!(other));
            }
            Self::GhostDevice => {
                let user = sim.names(device).0;
                let id = format!("GHOST{}", sim.villains.number());
                let ghost = Attacker::ghost(&mut sim.world, &user, &id);
                sim.villains.ghosts.push(ghost);
            }
            Self::GhostMember => {
                let number = sim.villains.number();
                let user = format!("@eve{number}:world.test");
                let ghost = Attacker::ghost(&mut sim.world, &user, "EVE");
                sim.villains.ghosts.push(ghost);
                let event = json!({
                    "type": "m.room.member", "state_key": user, "sender": user,
                    "content": { "membership": "join" },
                });
                inject(sim, &room, event);
            }
            Self::ClearMessage => {
                let sender = sim.names(device).0;
                let content = json!({ "msgtype": "m.text", "body": "said in the clear" });
                let event =
                    json!({ "type": "m.room.message", "sender": sender, "content": content });
                inject(sim, &room, event);
            }
            Self::ClearKey => {
                let session = OutboundGroupSession::new();
                let kind = ["m.room_key", "m.forwarded_room_key"][usize::from(target) % 2];
                inject_to_device(sim, device, device, kind, room_key(&session, &room));
            }
            Self::MegolmKey => {
                let session = OutboundGroupSession::new();
                let mut content = room_key(&session, &room);
                content["ciphertext"] = json!("AwgAEg");
                if target.is_multiple_of(2) {
                    content["algorithm"] = Value::Null;
                }
                inject_to_device(sim, device, device, "m.room.encrypted", content);
            }
            Self::BorrowSession => borrow_session(sim, device),
            Self::OwnSession => {
                with_mallory(sim, device, |sim, mallory| {
                    let Some(id) = some_session(sim, &room, target) else { return };
                    let session = OutboundGroupSession::new();
                    let mut content = room_key(&session, &room);
                    content["session_id"] = json!(id);
                    mallory.send(&mut sim.world, device, "m.room_key", &content);
                });
            }
            Self::ForwardedKey => forwarded_key(sim, device, &room, target),
            Self::WrongPayload => with_mallory(sim, device, |sim, mallory| {
                let session = OutboundGroupSession::new();
                let content = room_key(&session, &room);
                let mut payload = mallory.payload(&sim.world, device, "m.room_key", &content);
                match target % 4 {
                    0 => payload["sender"] = json!(sim.users[0]),
                    1 => payload["recipient"] = json!(sim.users[1]),
                    2 => payload["recipient_keys"]["ed25519"] = payload["keys"]["ed25519"].clone(),
                    _ => payload["keys"] = json!({}),
                }
                let sender = mallory.user_id.clone();
                mallory.send_as(&mut sim.world, device, &sender, &payload);
            }),
            Self::PoisonSync => poison(sim, device),
            Self::CountLies => {
                let (user, id) = sim.names(device);
                let lies =
                    [json!({ "signed_curve25519": -5 }), json!("many"), json!([]), Value::Null];
                let lie = lies[usize::from(target / 8) % lies.len()].clone();
                sim.world.server.set_one_time_key_count_override(&user, &id, Some(lie));
                sim.villains.lied_about.insert((user, id));
            }
            Self::SwapDeviceKeys => {
                let (user, id) = sim.names(device);
                let keys = Attacker::unlisted(&user, &id).device_keys();
                sim.world.server.override_device_keys(&user, &id, keys);
                sim.villains.swapped.insert((user, id));
            }
            Self::WithheldSpam => {
                let Some(id) = some_session(sim, &room, target) else { return };
                let content = json!({
                    "algorithm": MEGOLM, "room_id": room, "session_id": id,
                    "sender_key": "AAAA", "code": "m.unverified", "reason": "spam",
                });
                inject_to_device(sim, device, device, "m.room_key.withheld", content);
            }
            Self::BadOneTimeKeys => {
                let (user, id) = sim.names(device);
                let mut stranger = Attacker::unlisted(&user, &id);
                let keys = stranger.one_time_keys(2);
                let keys = keys.into_iter().map(|(id, key)| (format!("{id}x"), key)).collect();
                sim.world.server.add_one_time_keys(&user, &id, keys);
            }
            Self::GarbageOlm => {
                let (from, to) = (sim.device(target / 3), device);
                let (Some(from_key), Some(to_key)) = (curve25519(sim, from), curve25519(sim, to))
                else {
                    return;
                };
                let content = json!({
                    "algorithm": "m.olm.v1.curve25519-aes-sha2",
                    "sender_key": from_key,
                    "ciphertext": { to_key: {
                        "type": 1,
                        "body": "AwogAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAEAAiEAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
                    } },
                });
                inject_to_device(sim, to, from, "m.room.encrypted", content);
            }
            Self::Downgrade => {
                let contents = [
                    json!({}),
                    json!({ "algorithm": "m.none" }),
                    json!({ "algorithm": MEGOLM, "rotation_period_msgs": -1 }),
                    json!({ "algorithm": MEGOLM, "rotation_period_msgs": 1e99 }),
                ];
                let content = contents[usize::from(target / 4) % contents.len()].clone();
                let event = json!({
                    "type": "m.room.encryption", "state_key": "", "sender": sim.users[0],
                    "content": content,
                });
                inject(sim, &room, event);
            }
            Self::Dummies => with_mallory(sim, device, |sim, mallory| {
                for _ in 0..4 {
                    mallory.send(&mut sim.world, device, "m.dummy", &json!({}));
                }
            }),
            Self::AnnounceAll => {
                for user in sim.users.clone() {
                    sim.world.server.announce_devices(&user);
                }
            }
            Self::KeyRequest => {
                let Some(id) = some_session(sim, &room, target) else { return };
                let from = sim.device(target / 5);
                let content = json!({
                    "action": "request", "request_id": format!("r{target}"),
                    "requesting_device_id": sim.names(from).1,
                    "body": {
                        "algorithm": MEGOLM, "room_id": room, "session_id": id, "sender_key": "AAAA",
                    },
                });
                inject_to_device(sim, device, from, "m.room_key_request", content);
            }
        }
    }
}

/// Has Mallory do something to a device, if she can reach it.
fn with_mallory(sim: &mut Sim, device: usize, act: impl FnOnce(&mut Sim, &mut Attacker)) {
    let Some(mut mallory) = sim.villains.mallory.take() else { return };
    if mallory.reaches(&mut sim.world, device) {
        act(sim, &mut mallory);
    }
    sim.villains.mallory = Some(mallory);
}

fn room_key(session: &OutboundGroupSession, room: &OwnedRoomId) -> Value {
    json!({
        "algorithm": MEGOLM,
        "room_id": room,
        "session_id": session.session_id().as_str(),
        "session_key": session.session_key().as_str(),
    })
}

fn curve25519(sim: &mut Sim, device: usize) -> Option<String> {
    let known = sim.world.command(device, |engine| Ok(engine.machine().identity_keys()));
    known.map(|keys| keys.curve25519.to_base64())
}

/// Appends an event to a room behind everybody's back.
fn inject(sim: &mut Sim, room: &OwnedRoomId, mut event: Value) {
    event["event_id"] = json!(format!("$forged{}", sim.villains.number()));
    if event["origin_server_ts"].is_null() {
        event["origin_server_ts"] = json!(sim.world.clock.millis());
    }
    sim.world.server.inject_timeline(room.as_str(), event);
}

/// Puts a to-device event into a device's inbox, in the name of another's user.
fn inject_to_device(sim: &mut Sim, device: usize, from: usize, kind: &str, content: Value) {
    let (user, id) = sim.names(device);
    let sender = sim.names(from).0;
    let event = json!({ "type": kind, "sender": sender, "content": content });
    sim.world.server.inject_to_device(&user, &id, event);
}

fn replay_to_device(sim: &mut Sim, device: usize, choice: u8) {
    let (user, id) = sim.names(device);
    let log = sim.world.server.to_device_log();
    let sent: Vec<_> =
        log.iter().filter(|sent| sent.recipient == user && sent.recipient_device == id).collect();
    let Some(sent) = sent.get(usize::from(choice) % sent.len().max(1)) else { return };
    let event = json!({ "type": sent.event_type, "sender": sent.sender, "content": sent.content });
    sim.world.server.inject_to_device(&user, &id, event);
}

/// A ciphertext of a room comes again as another event.
fn again(sim: &mut Sim, choice: u8, into: &OwnedRoomId, change: impl FnOnce(&mut Value)) {
    let room = sim.room(choice / 16);
    let events = sim.world.server.events(room.as_str());
    let encrypted: Vec<_> =
        events.iter().filter(|event| event["type"] == "m.room.encrypted").collect();
    let Some(event) = encrypted.get(usize::from(choice) % encrypted.len().max(1)) else { return };
    let mut event = (*event).clone();
    if choice.is_multiple_of(2) {
        event["origin_server_ts"] = json!(sim.world.clock.millis() + 1);
    }
    change(&mut event);
    // The one it is a copy of may be a copy itself, and have come from there.
    let copied = sim.world.server.events(into.as_str()).into_iter().filter(|known| {
        known["sender"] == event["sender"]
            && known["content"]["ciphertext"] == event["content"]["ciphertext"]
    });
    let copied = copied.filter_map(|known| known["event_id"].as_str().map(str::to_owned));
    sim.villains.copied.extend(copied);
    inject(sim, into, event);
}

/// The id of some session of a room.
fn some_session(sim: &Sim, room: &OwnedRoomId, choice: u8) -> Option<String> {
    let events = sim.world.server.events(room.as_str());
    let ids: Vec<&str> =
        events.iter().filter_map(|event| event["content"]["session_id"].as_str()).collect();
    ids.get(usize::from(choice) % ids.len().max(1)).map(|id| (*id).to_owned())
}

/// Mallory gives a room key that was given to her to somebody else, as if the session were hers.
fn borrow_session(sim: &mut Sim, device: usize) {
    with_mallory(sim, device, |sim, mallory| {
        let keys: BTreeMap<String, Value> = mallory
            .received(&sim.world)
            .into_iter()
            .filter(|payload| payload["type"] == "m.room_key")
            .filter_map(|payload| {
                let content = payload["content"].clone();
                Some((content["session_id"].as_str()?.to_owned(), content))
            })
            .collect();
        for content in keys.values() {
            mallory.send(&mut sim.world, device, "m.room_key", content);
        }
    });
}

fn forwarded_key(sim: &mut Sim, device: usize, room: &OwnedRoomId, choice: u8) {
    let Some(id) = some_session(sim, room, choice) else { return };
    with_mallory(sim, device, |sim, mallory| {
        let session = OutboundGroupSession::new();
        let Ok(mut inbound) = InboundGroupSession::from_session_key(session.session_key().as_str())
        else {
            return;
        };
        let Some(exported) = inbound.export_at(0) else { return };
        let content = json!({
            "algorithm": MEGOLM,
            "room_id": room,
            "session_id": if choice.is_multiple_of(2) { id } else { session.session_id().as_str().to_owned() },
            "session_key": exported.as_str(),
            "sender_key": mallory.keys().curve25519.to_base64(),
            "sender_claimed_ed25519_key": mallory.keys().ed25519.to_base64(),
            "forwarding_curve25519_key_chain": [],
        });
        mallory.send(&mut sim.world, device, "m.forwarded_room_key", &content);
    });
}

/// The next answer to a device's sync has junk beside what is good.
fn poison(sim: &mut Sim, device: usize) {
    let mut left = 1;
    sim.world.tamper = Some(Box::new(move |of, path, response| {
        if of != device || !path.ends_with("/sync") || response.status != 200 || left == 0 {
            return;
        }
        let Ok(mut body) = serde_json::from_slice::<Value>(&response.body) else { return };
        left -= 1;
        if let Some(events) = body["to_device"]["events"].as_array_mut() {
            events.insert(0, json!(42));
            events.push(json!({ "type": "m.room.encrypted", "sender": "nobody", "content": [] }));
        }
        if let Some(rooms) = body["rooms"]["join"].as_object_mut() {
            for room in rooms.values_mut() {
                if let Some(events) = room["timeline"]["events"].as_array_mut() {
                    events.insert(0, json!({ "type": 7 }));
                    events.push(json!({ "type": "m.room.member", "state_key": 1, "content": "x" }));
                }
            }
            rooms.insert("no room".to_owned(), json!([]));
            rooms.insert("!junk:world.test".to_owned(), json!({ "timeline": 3, "state": {} }));
        }
        body["rooms"]["invite"]["!other:world.test"] = json!({ "invite_state": [1] });
        body["presence"] = json!(false);
        response.body = body.to_string().into_bytes();
    }));
}
