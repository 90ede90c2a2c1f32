//! Records the scene and the seeds anew: `cargo run --release --example record` in this folder.
//!
//! A small conversation in the simulated world; the bodies the server answers with become seeds, the
//! stores become `scene.json`. To be run when records or payloads change their shape: old seeds only get
//! weaker by it, they do not fail.

use std::{cell::RefCell, collections::BTreeMap, fs, path::Path, rc::Rc};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use herold::{Answer, OwnedRoomId};
use herold_crypto::{
    Account, InboundGroupSession, OutboundGroupSession, PassphraseParameters, QrCode, QrKeys,
    SessionData, encrypt_attachment,
};
use herold_fuzz::{
    key_material,
    random::{self, Entropy},
    scene::{Dump, Peer, Probe, Scene, Stage},
};
use herold_machine::HttpRequest;
use herold_store::{
    MemoryStore, SnapshotExt as _,
    records::{
        AccountRecord, OlmSessionKey, OlmSessionRecord, Only, OutboundSessionRecord, RoomKey,
    },
};
use herold_testkit::{World, create_backup, publish_identity};
// For the symbols that instrumented code calls, should this be built with the fuzzer's flags.
use libfuzzer_sys as _;
use serde_json::{Value, json};

const ALICE: usize = 0;
const BOB: usize = 1;
const MALLORY: usize = 2;

type Log = Rc<RefCell<Vec<(String, Vec<u8>)>>>;

/// Writes seeds, numbered for each target.
#[derive(Default)]
struct Seeds(BTreeMap<&'static str, usize>);

impl Seeds {
    fn add(&mut self, target: &'static str, prefix: &[u8], body: &[u8]) {
        let number = self.0.entry(target).or_default();
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
        fs::create_dir_all(&folder).expect("a folder for the seeds");
        if *number == 0 {
            for entry in fs::read_dir(&folder).expect("the folder can be read") {
                let path = entry.expect("an entry").path();
                if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("seed-"))
                {
                    fs::remove_file(path).expect("an old seed goes");
                }
            }
        }
        *number += 1;
        let path = folder.join(format!("seed-{number:02}"));
        fs::write(path, [prefix, body].concat()).expect("a seed is written");
    }
}

fn main() {
    random::restart(1);
    let mut seeds = Seeds::default();
    let mut world = World::new(1);
    let log = watch(&mut world, ALICE);
    for name in ["alice", "bob", "mallory"] {
        world.add_device(name);
    }
    world.settle();
    let shared = world.make_room(&[ALICE, BOB, MALLORY]);
    let secret = world.make_room(&[ALICE, BOB]);
    let clear = clear_room(&mut world);
    for (device, text) in [(ALICE, "hello"), (BOB, "good day"), (MALLORY, "hi"), (ALICE, "so")] {
        world.send(device, &shared, text);
    }
    world.send(BOB, &secret, "between us");
    world.send(ALICE, &secret, "indeed");
    world.send(BOB, &clear, "in the open");
    // Bob and Mallory are the last to use Olm with Alice: a peer who has yet to begin a chain would begin
    // another one in each run, and the probe's would be none of them.
    for device in [BOB, MALLORY] {
        rotate(&mut world, device, &shared);
        world.send(device, &shared, "under a newer key");
    }
    for (path, body) in log.borrow_mut().drain(..) {
        if path.ends_with("/sync") && body.len() > 200 {
            seeds.add("sync_response", &[], &body);
        }
    }

    // From here on Alice only listens, so that whatever comes can be taken in any order.
    let store = world.devices[ALICE].disk.image();
    let now = world.clock.millis();
    let (bob, mallory) = (peer(&world, BOB, &shared), peer(&world, MALLORY, &shared));
    let stolen = stolen_key(&world, &shared);
    later(&mut world, [&shared, &secret, &clear], &log, &mut seeds);
    let probe = probe(&mut world, &shared, &log);
    let alice: AccountRecord = load(&world, ALICE);
    let scene = Scene {
        now,
        alice: alice.user_id.to_string(),
        alice_device: alice.device_id.to_string(),
        alice_curve25519: alice.keys.curve25519.to_base64(),
        store: Dump::of(&store),
        stages: stages(&mut seeds),
        bob,
        mallory,
        shared: shared.to_string(),
        secret: secret.to_string(),
        clear: clear.to_string(),
        probe,
    };
    payloads(&world, &scene, &stolen, &mut seeds);
    history(&mut world, &scene, &mut seeds);
    attachments(&mut seeds);
    key_material(&mut seeds);
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("scene.json");
    fs::write(file, serde_json::to_string(&scene).expect("a scene is JSON")).expect("written");
}

/// Keeps what the server answers to a device.
fn watch(world: &mut World, device: usize) -> Log {
    let log = Log::default();
    let kept = log.clone();
    world.tamper = Some(Box::new(move |to, path, response| {
        if to == device {
            kept.borrow_mut().push((path.to_owned(), response.body.clone()));
        }
    }));
    log
}

fn clear_room(world: &mut World) -> OwnedRoomId {
    let body = json!({ "preset": "private_chat", "name": "clear" });
    let room = world.call(Some(ALICE), "POST", "/_matrix/client/v3/createRoom", body);
    let room: OwnedRoomId =
        room["room_id"].as_str().unwrap_or_default().try_into().expect("a room");
    world.invite(ALICE, &room, BOB);
    world.join(BOB, &room);
    world.settle();
    room
}

fn load<R: herold_store::Record<Key = Only>>(world: &World, device: usize) -> R {
    let store: MemoryStore = world.devices[device].disk.image();
    store.load::<R>(&Only).expect("readable").expect("there")
}

/// What is needed to write to Alice in a device's name.
fn peer(world: &World, device: usize, room: &OwnedRoomId) -> Peer {
    let alice: AccountRecord = load(world, ALICE);
    let own: AccountRecord = load(world, device);
    let store = world.devices[device].disk.image();
    let prefix = OlmSessionKey::with(&alice.keys.curve25519);
    let sessions = store.list::<OlmSessionRecord>(&prefix, usize::MAX).expect("readable");
    let olm = sessions.into_iter().max_by_key(|(_, record)| record.last_received_at);
    let (_, olm) = olm.expect("they have talked");
    let key = RoomKey { room_id: room.clone() };
    let megolm = store.load::<OutboundSessionRecord>(&key).expect("readable").expect("there");
    Peer {
        user_id: own.user_id.to_string(),
        device_id: own.device_id.to_string(),
        curve25519: own.keys.curve25519.to_base64(),
        olm: BASE64_STANDARD.encode(olm.pickle.as_slice()),
        megolm: BASE64_STANDARD.encode(megolm.pickle.as_slice()),
    }
}

/// Lets the others do something, then has Alice sync once; the body becomes a seed.
fn overheard(
    world: &mut World,
    log: &Log,
    seeds: &mut Seeds,
    what: impl FnOnce(&mut World),
) -> Vec<u8> {
    world.set_online(ALICE, false);
    what(world);
    world.settle();
    world.set_online(ALICE, true);
    log.borrow_mut().clear();
    world.sync(ALICE);
    let (_, body) = log.borrow_mut().pop().expect("there was news");
    seeds.add("sync_response", &[], &body);
    body
}

fn later(world: &mut World, rooms: [&OwnedRoomId; 3], log: &Log, seeds: &mut Seeds) {
    let [shared, secret, clear] = rooms;
    let say = |device: usize, room: &OwnedRoomId, text: &'static str| {
        let room = room.clone();
        move |world: &mut World| drop(world.queue(device, &room, text))
    };
    let event = |device: usize, room: &OwnedRoomId, kind: &'static str, content: Value| {
        let room = room.clone();
        move |world: &mut World| {
            world.queue_event(device, &room, kind, &content).expect("the room is known");
        }
    };
    overheard(world, log, seeds, say(BOB, shared, "under the old key"));
    for text in ["a new key", "another", "and another", "the last but one"] {
        overheard(world, log, seeds, |world| {
            rotate(world, BOB, shared);
            say(BOB, shared, text)(world);
        });
    }
    overheard(world, log, seeds, |world| {
        rotate(world, MALLORY, shared);
        say(MALLORY, shared, "my key")(world);
    });
    let body = overheard(world, log, seeds, say(BOB, secret, "edit me"));
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let timeline = &body["rooms"]["join"][secret.as_str()]["timeline"]["events"];
    let target = timeline[0]["event_id"].as_str().unwrap_or("$none").to_owned();
    let relation = json!({ "rel_type": "m.replace", "event_id": target });
    let edit = json!({
        "msgtype": "m.text", "body": "* edited", "m.relates_to": relation,
        "m.new_content": { "msgtype": "m.text", "body": "edited" },
    });
    overheard(world, log, seeds, event(BOB, secret, "m.room.message", edit));
    let path =
        format!("/_matrix/client/v3/rooms/{}/redact/{}/t1", encoded(secret), encoded(&target));
    overheard(world, log, seeds, |world| {
        world.call(Some(BOB), "PUT", &path, json!({ "reason": "no" }));
    });
    overheard(world, log, seeds, say(BOB, clear, "still in the open"));
    let name = format!("/_matrix/client/v3/rooms/{}/state/m.room.name/", encoded(clear));
    overheard(world, log, seeds, |world| {
        world.call(Some(ALICE), "PUT", &name, json!({ "name": "renamed" }));
    });
    overheard(world, log, seeds, |world| world.leave(MALLORY, shared));
    overheard(world, log, seeds, |world| world.invite(BOB, shared, MALLORY));
    overheard(world, log, seeds, |world| world.join(MALLORY, shared));
    overheard(world, log, seeds, |world| {
        let room = json!({ "preset": "private_chat", "invite": [world.devices[ALICE].user_id] });
        world.call(Some(MALLORY), "POST", "/_matrix/client/v3/createRoom", room);
    });
    overheard(world, log, seeds, |world| _ = world.add_device("bob"));
    // A gap, and a member who is thrown out by it.
    overheard(world, log, seeds, |world| {
        world.kick(ALICE, shared, MALLORY);
        world.server.force_gap(shared.as_str());
        say(BOB, shared, "after the gap")(world);
    });
    overheard(world, log, seeds, |world| {
        let (user, device) =
            (world.devices[ALICE].user_id.to_string(), &world.devices[ALICE].device_id);
        let device = device.clone();
        for kind in ["m.room_key.withheld", "m.room_key", "m.room_key_request", "org.example"] {
            let content = json!({
                "algorithm": "m.megolm.v1.aes-sha2", "room_id": shared, "session_id": "abc",
                "code": "m.unverified", "reason": "r", "sender_key": "k",
            });
            let sender = world.devices[BOB].user_id.clone();
            let event = json!({ "type": kind, "sender": sender, "content": content });
            world.server.inject_to_device(&user, &device, event);
        }
    });
}

fn rotate(world: &mut World, device: usize, room: &OwnedRoomId) {
    world.command(device, |engine| {
        engine.step(|machine, snapshot, cx| machine.discard_room_key(snapshot, cx, room))
    });
}

/// The probe, which no seed is made from.
fn probe(world: &mut World, room: &OwnedRoomId, log: &Log) -> Probe {
    let text = "a message that has to arrive";
    world.set_online(ALICE, false);
    rotate(world, BOB, room);
    let event_id = world.send(BOB, room, text);
    world.set_online(ALICE, true);
    log.borrow_mut().clear();
    world.sync(ALICE);
    let (_, body) = log.borrow_mut().pop().expect("there was news");
    Probe {
        sync: String::from_utf8(body).expect("JSON"),
        event_id: event_id.to_string(),
        text: text.to_owned(),
    }
}

/// Another world, in which each of Alice's requests is caught when it is due, with its answer.
fn stages(seeds: &mut Seeds) -> Vec<Stage> {
    let mut world = World::new(2);
    for name in ["alice", "bob", "carol"] {
        world.add_device(name);
    }
    let mut stages: Vec<Stage> = Vec::new();
    let mut answers = Vec::new();
    settle(&mut world, &mut stages, &mut answers);
    let body = json!({
        "preset": "private_chat",
        "initial_state": [{ "type": "m.room.encryption", "state_key": "",
            "content": { "algorithm": "m.megolm.v1.aes-sha2" } }],
    });
    let room = world.call(Some(BOB), "POST", "/_matrix/client/v3/createRoom", body);
    let room: OwnedRoomId =
        room["room_id"].as_str().unwrap_or_default().try_into().expect("a room");
    for device in [ALICE, 2] {
        world.invite(BOB, &room, device);
        world.join(device, &room);
    }
    settle(&mut world, &mut stages, &mut answers);
    world.queue(ALICE, &room, "first");
    world.add_device("bob");
    settle(&mut world, &mut stages, &mut answers);
    identity(&mut stages, &mut answers);
    for (stage, answer) in answers {
        let stage = u8::try_from(stage).expect("few stages");
        seeds.add("keys_answers", &[stage, 0], answer.as_bytes());
    }
    stages
}

/// Until nobody has anything to say any more.
fn settle(world: &mut World, stages: &mut Vec<Stage>, answers: &mut Vec<(usize, String)>) {
    for _ in 0..30 {
        world.sync(ALICE);
        step_by_step(world, stages, answers);
        for device in 1..world.devices.len() {
            world.pump(device);
            world.sync(device);
        }
    }
}

/// An identity, a key backup, and a dehydrated device that Bob sends a room key to and Alice reads.
fn identity(stages: &mut Vec<Stage>, answers: &mut Vec<(usize, String)>) {
    let mut world = World::new(3);
    for name in ["alice", "bob"] {
        world.add_device(name);
    }
    world.settle();
    let room = world.make_room_with(&[ALICE, BOB], json!({ "rotation_period_msgs": 1 }), "shared");
    publish_identity(&mut world, ALICE, false);
    settle(&mut world, stages, answers);

    create_backup(&mut world, ALICE);
    settle(&mut world, stages, answers);

    let begun = world.command(ALICE, |engine| {
        engine.step(|machine, snapshot, cx| machine.make_dehydration_key(snapshot, cx))?;
        engine.step(|machine, snapshot, cx| machine.start_dehydration(snapshot, cx))
    });
    assert!(begun.is_some(), "a dehydrated device is made");
    settle(&mut world, stages, answers);
    world.queue(BOB, &room, "for the mailbox");
    settle(&mut world, stages, answers);
    let begun = world.command(ALICE, |engine| {
        engine.step(|machine, snapshot, cx| machine.rehydrate(snapshot, cx))
    });
    assert!(begun.is_some(), "it is opened");
    settle(&mut world, stages, answers);
}

/// What other clients and the server keep of keys: see the target.
fn key_material(seeds: &mut Seeds) {
    let mut session =
        InboundGroupSession::from_session_key(OutboundGroupSession::new().session_key().as_str())
            .expect("a session");
    let key = session.export_at(0).expect("it is known");
    let data = json!({
        "algorithm": "m.megolm.v1.aes-sha2",
        "forwarding_curve25519_key_chain": [],
        "sender_key": "RByaiY6DrQIEq85D2Mkg4scE+fgu6HYk0+xJxPd1M0M",
        "sender_claimed_keys": { "ed25519": "EAr5IFX7XSsx24lFZ8ynoZrxmTNwjDD2glVG3hsI4lo" },
        "session_key": key.as_str(),
        "org.matrix.msc3061.shared_history": true,
    });
    let text = data.to_string();
    let parsed = SessionData::parse(text.as_bytes()).expect("session data");
    let sealed = key_material::backup_key().public_key().encrypt(&parsed, &mut Entropy);
    let entry = json!({
        "first_message_index": 0, "forwarded_count": 0, "is_verified": false,
        "session_data": {
            "ephemeral": sealed.ephemeral, "ciphertext": sealed.ciphertext, "mac": sealed.mac,
        },
    });
    let sessions = json!({ "sessions": { session.session_id().as_str(): entry } });
    let rooms = json!({ "rooms": { "!r:world.test": sessions } });
    seeds.add("key_material", &[0], rooms.to_string().as_bytes());
    seeds.add("key_material", &[1], sessions.to_string().as_bytes());
    seeds.add("key_material", &[2], text.as_bytes());
    let mut export = data;
    export["room_id"] = json!("!r:world.test");
    export["session_id"] = json!(session.session_id().as_str());
    seeds.add("key_material", &[3], export.to_string().as_bytes());
    let storage = key_material::storage_key();
    let parameters = PassphraseParameters::generate(&mut Entropy);
    let described = storage.describe(Some("name".to_owned()), Some(parameters), &mut Entropy);
    seeds.add("key_material", &[4], described.to_json().to_string().as_bytes());
    let secret = storage.encrypt(key_material::SECRET, "c2VjcmV0", &mut Entropy);
    seeds.add("key_material", &[5], secret.to_json().to_string().as_bytes());
    seeds.add("key_material", &[6], storage.to_recovery_key().as_str().as_bytes());
    let key = || Account::new().identity_keys().ed25519;
    let keys = QrKeys::OtherUser { own_master: key(), their_master: key() };
    let code = QrCode::new("$flow", keys, &mut Entropy).expect("a code");
    seeds.add("key_material", &[7], code.to_bytes().as_slice());
}

/// Makes Alice's requests one at a time. The store before an answer becomes a stage.
fn step_by_step(world: &mut World, stages: &mut Vec<Stage>, answers: &mut Vec<(usize, String)>) {
    while let Some(due) = world.command(ALICE, herold::Engine::due_requests) {
        if due.reply.is_empty() {
            break;
        }
        for outgoing in due.reply {
            let answer = world.call_http(ALICE, &outgoing.http);
            let status = if answer["errcode"].is_string() { 404 } else { 200 };
            let answer = answer.to_string();
            let known = stages.iter().filter(|stage| stage.kind == outgoing.kind()).count();
            // One name for all that there is to be asked about it.
            let most = if outgoing.kind() == "dehydrated_device" { 6 } else { 2 };
            if known < most && answer.len() > 2 || known == 0 {
                stages.push(Stage {
                    kind: outgoing.kind().to_owned(),
                    id: outgoing.id.as_str().to_owned(),
                    now: world.clock.millis(),
                    store: Dump::of(&world.devices[ALICE].disk.image()),
                });
                answers.push((stages.len() - 1, answer.clone()));
            }
            let body = answer.as_bytes();
            let answer = Answer::Response { status, retry_after_ms: None, body };
            world.command(ALICE, |engine| engine.answer(&outgoing, answer)).expect("taken");
        }
    }
}

/// Clear payloads: what stands inside an Olm or a Megolm message.
fn payloads(world: &World, scene: &Scene, stolen: &Value, seeds: &mut Seeds) {
    let alice: AccountRecord = load(world, ALICE);
    for (number, device) in [(0, BOB), (1, MALLORY)] {
        let own: AccountRecord = load(world, device);
        let signed: Value = serde_json::from_str(&own.signed_keys).unwrap_or_default();
        let mut session = OutboundGroupSession::new();
        let key = session.session_key();
        let room_key = json!({
            "algorithm": "m.megolm.v1.aes-sha2", "room_id": scene.shared,
            "session_id": session.session_id(), "session_key": key.as_str(),
        });
        let forwarded = json!({
            "algorithm": "m.megolm.v1.aes-sha2", "room_id": scene.shared,
            "session_id": session.session_id(), "session_key": key.as_str(),
            "sender_key": scene.bob.curve25519, "sender_claimed_ed25519_key": "x",
            "forwarding_curve25519_key_chain": [],
        });
        for (kind, content) in [
            ("m.room_key", room_key),
            ("m.forwarded_room_key", forwarded),
            ("m.dummy", json!({})),
            ("m.secret.send", json!({ "request_id": "r", "secret": "s" })),
            ("m.key.verification.request", json!({ "from_device": own.device_id, "methods": [] })),
            ("org.example.custom", json!({ "deep": [[[{}]]], "number": 1e300 })),
        ] {
            let payload = json!({
                "type": kind, "content": content,
                "sender": own.user_id, "recipient": alice.user_id,
                "recipient_keys": { "ed25519": alice.keys.ed25519.to_base64() },
                "keys": { "ed25519": own.keys.ed25519.to_base64() },
                "sender_device_keys": signed,
            });
            seeds.add("to_device_payload", &[number], payload.to_string().as_bytes());
        }
        let clear = json!({
            "type": "m.room.message", "room_id": scene.shared,
            "content": { "msgtype": "m.text", "body": "inside", "m.relates_to": {
                "rel_type": "m.thread", "event_id": "$root" } },
        });
        seeds.add("megolm_message", &[2 + number], clear.to_string().as_bytes());
        for how in [4, 6] {
            seeds.add("megolm_message", &[how], clear.to_string().as_bytes());
        }
        seeds.add("megolm_message", &[5], &[number * 90, 1]);
        let ciphertext = session.encrypt(clear.to_string().as_bytes());
        let content = json!({
            "algorithm": "m.megolm.v1.aes-sha2", "session_id": session.session_id(),
            "ciphertext": ciphertext, "sender_key": own.keys.curve25519.to_base64(),
            "device_id": own.device_id,
        });
        seeds.add("megolm_message", &[0], content.to_string().as_bytes());
        seeds.add(
            "megolm_message",
            &[1],
            &BASE64_STANDARD.decode(padded(&ciphertext)).expect("base64"),
        );
    }
    // Bob's own key, passed on by Mallory as if it were hers (attack N24).
    let own: AccountRecord = load(world, MALLORY);
    let payload = json!({
        "type": "m.room_key", "content": stolen,
        "sender": own.user_id, "recipient": alice.user_id,
        "recipient_keys": { "ed25519": alice.keys.ed25519.to_base64() },
        "keys": { "ed25519": own.keys.ed25519.to_base64() },
    });
    seeds.add("to_device_payload", &[1], payload.to_string().as_bytes());
    for sent in world.server.to_device_log() {
        if sent.recipient != scene.alice {
            continue;
        }
        let text = sent.content.to_string();
        let ciphertext = &sent.content["ciphertext"][&scene.alice_curve25519];
        let Some(body) = ciphertext["body"].as_str() else { continue };
        if scene.probe.sync.contains(body) {
            continue;
        }
        let kind = u8::from(ciphertext["type"] == 1);
        let who = u8::from(sent.content["sender_key"] == scene.mallory.curve25519.as_str());
        seeds.add("olm_message", &[0, who], text.as_bytes());
        let bytes = BASE64_STANDARD.decode(padded(body)).expect("base64");
        seeds.add("olm_message", &[1 + kind, who], &bytes);
    }
}

/// The `m.room_key` content of Bob's session in `shared` as it was when the scene was taken, from its
/// beginning on.
fn stolen_key(world: &World, room: &OwnedRoomId) -> Value {
    let key = RoomKey { room_id: room.clone() };
    let store = world.devices[BOB].disk.image();
    let record = store.load::<OutboundSessionRecord>(&key).expect("readable").expect("there");
    let session = OutboundGroupSession::from_record(record.initial.as_slice()).expect("good");
    json!({
        "algorithm": "m.megolm.v1.aes-sha2", "room_id": room,
        "session_id": session.session_id(), "session_key": session.session_key().as_str(),
    })
}

/// Member lists and pages of history.
fn history(world: &mut World, scene: &Scene, seeds: &mut Seeds) {
    let first = u8::try_from(scene.stages.len()).expect("few stages");
    let room = encoded(&scene.shared);
    let get = |path: String| HttpRequest::new(herold_machine::Method::Get, &path, &[]);
    let page = get(format!("/_matrix/client/v3/rooms/{room}/messages")).query("dir", "b");
    for (number, http) in [
        (0, get(format!("/_matrix/client/v3/rooms/{room}/members"))),
        (1, page.query("limit", "20")),
        (
            2,
            get(format!(
                "/_matrix/client/v3/rooms/{room}/event/{}",
                encoded(&scene.probe.event_id)
            )),
        ),
        (3, get("/_matrix/client/v3/keys/changes".to_owned()).query("from", "0").query("to", "9")),
    ] {
        let answer = world.call_http(ALICE, &http);
        // The probe must not be known to the seeds.
        let mut text = answer.to_string();
        text = text.replace(&scene.probe.event_id, "$another:world.test");
        seeds.add("keys_answers", &[first + number, 0], without_probe(&text, scene).as_bytes());
    }
    let changes = json!({ "changed": [scene.bob.user_id], "left": [scene.mallory.user_id] });
    seeds.add("keys_answers", &[first + 3, 0], changes.to_string().as_bytes());
}

/// A text without the probe's ciphertext.
fn without_probe(text: &str, scene: &Scene) -> String {
    let probe: Value = serde_json::from_str(&scene.probe.sync).unwrap_or_default();
    let events = &probe["rooms"]["join"][&scene.shared]["timeline"]["events"];
    let mut text = text.to_owned();
    for event in events.as_array().into_iter().flatten() {
        if let Some(ciphertext) = event["content"]["ciphertext"].as_str() {
            text = text.replace(ciphertext, "AwgA");
        }
    }
    text
}

fn attachments(seeds: &mut Seeds) {
    for length in [0, 1, 40] {
        let (ciphertext, mut file) = encrypt_attachment(&vec![b'x'; length], &mut Entropy);
        file.url = "mxc://world.test/Media_1".to_owned();
        let mut seed = file.to_json().to_string().into_bytes();
        seed.push(0);
        seed.extend(ciphertext);
        seeds.add("attachment", &[], &seed);
    }
}

fn encoded(text: impl AsRef<str>) -> String {
    herold_machine::percent_encode(text.as_ref())
}

fn padded(base64: &str) -> String {
    let padding = (4 - base64.len() % 4) % 4;
    format!("{base64}{}", "=".repeat(padding))
}
