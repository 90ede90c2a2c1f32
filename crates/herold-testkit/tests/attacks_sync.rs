//! Attacks by the shape of answers: odd identifiers, wrong types, deep nesting, huge numbers.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod attacks_common;

use attacks_common::*;
use herold::{OwnedEventId, OwnedRoomId, Utd};
use herold_crypto::OutboundGroupSession;
use herold_testkit::{Attacker, World};
use serde_json::{Value, json};

const BOB: &str = "@bob:world.test";

/// What a careless store or path would stumble over.
fn odd_names() -> Vec<String> {
    [
        "'",
        "\"",
        "`",
        "%",
        "%00",
        "%2F..",
        "_",
        ";--",
        "' OR '1'='1",
        "\\",
        "\0",
        "a\0b",
        "\u{1}",
        "\n",
        "\u{202e}gpj",
        "\u{200b}",
        "\u{feff}",
        "é",
        "🔐",
        "..",
        "../..",
        "/",
        "?",
        "#",
        "{}",
        "[]",
        "*",
        " ",
        "$",
        "!",
        "@",
    ]
    .into_iter()
    .map(str::to_owned)
    .chain(["x".repeat(200), "x".repeat(65_536)])
    .collect()
}

/// N37: ids of events.
#[test]
fn odd_event_ids_are_kept_apart_and_found_again() {
    let (mut world, alice, bob, room) = two(1);
    let mut second = Attacker::ghost(&mut world, BOB, "SECOND");
    let before = world.send(bob, &room, "before");
    let mut session = OutboundGroupSession::new();
    second.send(&mut world, alice, "m.room_key", &room_key(&session, &room));
    let mut taken: Vec<(OwnedEventId, String)> = Vec::new();
    for name in odd_names() {
        let mut event = encrypted(&mut session, &room, BOB, &name);
        let id = format!("${name}");
        event["event_id"] = json!(id);
        event["origin_server_ts"] = json!(1);
        world.server.inject_timeline(room.as_str(), event);
        if let Ok(id) = OwnedEventId::try_from(id.as_str()) {
            taken.push((id, name));
        }
    }
    world.settle();
    assert!(taken.len() > 20, "{}", taken.len());
    world.restart(alice);
    for (id, name) in &taken {
        assert_eq!(world.text(alice, &room, id).as_ref(), Ok(name), "{id:?}");
        let event = world.event(alice, &room, id).unwrap();
        assert_eq!(event.event_id, *id);
    }
    let texts = world.texts(alice, &room);
    assert_eq!(texts.len(), 3 + taken.len());
    assert_eq!(world.text(alice, &room, &before).as_deref(), Ok("before"));
    assert_eq!(world.oracle.violations(), [] as [String; 0]);
}

/// N37: ids of sessions and types of relations, by room event and by withheld note.
#[test]
fn odd_session_ids_and_relations_touch_nothing_else() {
    let (mut world, alice, bob, room) = two(2);
    let mut second = Attacker::ghost(&mut world, BOB, "SECOND");
    let mut session = OutboundGroupSession::new();
    second.send(&mut world, alice, "m.room_key", &room_key(&session, &room));
    let mut ids = Vec::new();
    for (number, name) in odd_names().into_iter().enumerate() {
        let mut event = encrypted(&mut session, &room, BOB, "related");
        event["content"]["m.relates_to"] =
            json!({ "rel_type": name, "event_id": format!("${name}") });
        if name.len() < 1000 {
            event["content"]["m.relates_to"][name.as_str()] = json!(name);
        }
        let related = inject(&mut world, &room, event.clone(), &format!("related{number}"));
        event["content"]["session_id"] = json!(name);
        let unknown = inject(&mut world, &room, event, &format!("unknown{number}"));
        let note = json!({
            "algorithm": MEGOLM, "room_id": room, "session_id": name, "code": "m.unauthorised",
        });
        inject_clear(&mut world, alice, BOB, "m.room_key.withheld", note);
        ids.push((related, unknown, name));
        if number % 10 == 0 {
            world.settle(); // a longer timeline would be cut
        }
    }
    world.settle();
    world.restart(alice);
    for (related, unknown, name) in &ids {
        // A relation type of 64 kB is kept like any other text.
        assert_eq!(world.text(alice, &room, related).as_deref(), Ok("related"), "{name:?}");
        let reason = shown(&mut world, alice, &room, unknown).1.unwrap_err();
        let expected = if name.len() <= 255 {
            Utd::Withheld("m.unauthorised".to_owned())
        } else {
            Utd::BadCiphertext
        };
        assert_eq!(reason, expected, "{name:?}");
    }
    let sent = world.send(bob, &room, "after");
    assert_eq!(world.text(alice, &room, &sent).as_deref(), Ok("after"));
    assert_eq!(world.oracle.violations(), [] as [String; 0]);
}

/// N37: ids of devices. Each is a device like any other.
#[test]
fn odd_device_ids_get_their_own_keys() {
    let (mut world, alice, bob, room) = two(3);
    let mut odd: Vec<Attacker> = odd_names()
        .into_iter()
        .filter(|name| name.len() < 300)
        .map(|name| Attacker::ghost(&mut world, BOB, &name))
        .collect();
    world.settle();
    let sent = world.send(alice, &room, "for everybody");
    assert_eq!(world.text(bob, &room, &sent).as_deref(), Ok("for everybody"));
    let known = known_devices(&mut world, alice, BOB);
    assert_eq!(known.len(), odd.len() + 1);
    for device in &mut odd {
        let key = device.keys().ed25519.to_base64();
        assert!(known.contains(&(device.device_id.clone(), key)), "{:?}", device.device_id);
        if device.device_id == "*" {
            continue; // by to-device this means all of a user's devices; the key is still its own
        }
        let keys = room_keys_of(&world, device);
        assert!(read_with(&world, &room, &sent, &keys), "{:?}", device.device_id);
    }
    assert_eq!(world.oracle.violations(), [] as [String; 0]);
}

/// N37: ids of rooms and users, in a response that also has an honest room.
#[test]
fn odd_room_and_user_ids_touch_nothing_else() {
    let (mut world, alice, bob, room) = two(4);
    let honest = |world: &mut World, text: &str| {
        let sent = world.send(bob, &room, text);
        assert_eq!(world.text(alice, &room, &sent).as_deref(), Ok(text));
    };
    for (number, name) in odd_names().into_iter().enumerate() {
        let (room_id, user_id) = (format!("!{name}:world.test"), format!("@{name}:world.test"));
        let member = |user: &str, membership: &str| {
            json!({ "type": "m.room.member", "state_key": user, "sender": user,
                    "event_id": format!("$member{number}{membership}"),
                    "content": { "membership": membership, "displayname": name } })
        };
        let odd = json!({
            "state": { "events": [
                member(&user_id, "join"),
                { "type": "m.room.encryption", "state_key": "", "sender": user_id,
                  "content": { "algorithm": MEGOLM } },
            ] },
            "timeline": { "events": [
                { "type": "m.room.message", "sender": user_id, "event_id": "$same",
                  "content": { "body": name } },
                { "type": "m.room.message", "sender": BOB, "event_id": format!("$odd{number}"),
                  "content": { "body": name } },
            ] },
        });
        let (id, copy) = (room_id.clone(), odd.clone());
        rewrite(&mut world, alice, "/sync", move |body| {
            body["rooms"]["join"][id.as_str()] = copy.clone();
            body["device_lists"]["changed"] = json!([user_id, BOB]);
        });
        honest(&mut world, &format!("beside {number}"));
        world.tamper = None;
        if let Ok(id) = OwnedRoomId::try_from(room_id.as_str()) {
            let event: OwnedEventId = format!("$odd{number}").as_str().try_into().unwrap();
            assert_eq!(world.text(alice, &id, &event).as_ref(), Ok(&name), "{name:?}");
            let rooms = world
                .command(alice, |engine| engine.read(|machine, snapshot| machine.rooms(snapshot)))
                .unwrap();
            assert!(rooms.iter().any(|(known, _)| *known == id));
        }
    }
    world.restart(alice);
    honest(&mut world, "after everything");
    assert_eq!(world.oracle.violations(), [] as [String; 0]);
}

fn deep() -> Value {
    (0..500).fold(json!(1), |inner, _| json!([inner]))
}

/// Values of wrong types. `HUGE` and `LONG` stand for numbers no reader can hold.
fn poison() -> Vec<Value> {
    vec![
        json!([]),
        json!({}),
        json!("text"),
        json!(5),
        json!(-1),
        json!(1.5),
        json!(true),
        Value::Null,
        json!([null, 1, "x", [], {}, { "type": 5 }]),
        json!({ "events": { "a": 1 } }),
        json!({ "events": [null, 1, "x", [], {}] }),
        json!({ "a": { "b": { "c": [] } } }),
        json!({ "signed_curve25519": -1 }),
        json!({ "signed_curve25519": "50" }),
        json!({ "signed_curve25519": "HUGE" }),
        json!("HUGE"),
        json!("LONG"),
        json!(["HUGE", "LONG"]),
        deep(),
        json!({ "events": [deep()] }),
        json!({ "extra": deep() }),
    ]
}

fn set(body: &mut Value, path: &[&str], value: &Value) {
    let mut at = body;
    for part in path {
        if !at.is_object() {
            *at = json!({});
        }
        at = &mut at[*part];
    }
    *at = value.clone();
}

fn token(world: &mut World, device: usize) -> String {
    let request = world
        .command(device, |engine| {
            engine.read(|machine, snapshot| machine.sync_request(snapshot, 0))
        })
        .unwrap();
    let since = request.query.into_iter().find(|(name, _)| name == "since");
    since.map(|(_, token)| token).unwrap_or_default()
}

/// Puts numbers that no reader can hold where they were stood in for.
fn huge(body: &[u8]) -> Vec<u8> {
    let digits = "9".repeat(400);
    let text = std::str::from_utf8(body).unwrap();
    text.replace("\"HUGE\"", "1e999").replace("\"LONG\"", &digits).into_bytes()
}

fn huge_in_syncs(world: &mut World) {
    world.tamper = Some(Box::new(|_, asked, response| {
        if asked.ends_with("/sync") {
            response.body = huge(&response.body);
        }
    }));
}

/// One poisoned response: the other room's message in it decrypts, the token advances, and afterwards
/// everything works.
fn survives(world: &mut World, rooms: (&OwnedRoomId, &OwnedRoomId), path: &[&str], value: &Value) {
    let (alice, bob) = (0, 1);
    let what = format!("{path:?} = {}", value.to_string().chars().take(80).collect::<String>());
    let (poisoned, honest) = rooms;
    world.set_online(alice, false);
    world.send(bob, poisoned, "among the poison");
    let sent = world.send(bob, honest, "beside the poison");
    let before = token(world, alice);
    let (value, path): (Value, Vec<String>) =
        (value.clone(), path.iter().map(|part| (*part).to_owned()).collect());
    let room = poisoned.to_string();
    let mut once = true;
    world.tamper = Some(Box::new(move |of, asked, response| {
        if of != alice || !asked.ends_with("/sync") || !std::mem::take(&mut once) {
            return;
        }
        let mut body: Value = serde_json::from_slice(&response.body).unwrap();
        let path: Vec<&str> =
            path.iter().map(|part| if part == "ROOM" { &room } else { part.as_str() }).collect();
        set(&mut body, &path, &value);
        response.body = huge(body.to_string().as_bytes());
    }));
    world.set_online(alice, true);
    world.sync(alice);
    assert_ne!(token(world, alice), before, "{what}: the token does not advance");
    assert_eq!(world.text(alice, honest, &sent).as_deref(), Ok("beside the poison"), "{what}");
    world.tamper = None;
    world.settle();
    for room in [poisoned, honest] {
        let sent = world.send(bob, room, "after the poison");
        assert_eq!(world.text(alice, room, &sent).as_deref(), Ok("after the poison"), "{what}");
    }
    let sent = world.send(alice, honest, "answer");
    assert_eq!(world.text(bob, honest, &sent).as_deref(), Ok("answer"), "{what}");
}

/// N38: every field of a sync response that end-to-end encryption reads, with every wrong type.
#[test]
fn a_poisoned_field_of_a_sync_response_costs_no_other_room_a_message() {
    for (seed, path) in [
        &["device_lists"][..],
        &["device_lists", "changed"],
        &["device_lists", "left"],
        &["device_one_time_keys_count"],
        &["device_unused_fallback_key_types"],
        &["to_device"],
        &["to_device", "events"],
        &["presence"],
        &["account_data"],
        &["rooms", "invite"],
        &["rooms", "invite", "!x:world.test"],
        &["rooms", "invite", "!x:world.test", "invite_state"],
        &["rooms", "leave"],
        &["rooms", "leave", "!x:world.test"],
        &["rooms", "knock"],
    ]
    .into_iter()
    .enumerate()
    {
        every_poison(100 + seed as u64, path);
    }
}

/// N38: the same within one room.
#[test]
fn a_poisoned_room_costs_no_other_room_a_message() {
    for (seed, path) in [
        &["rooms", "join", "ROOM"][..],
        &["rooms", "join", "ROOM", "state"],
        &["rooms", "join", "ROOM", "state", "events"],
        &["rooms", "join", "ROOM", "timeline"],
        &["rooms", "join", "ROOM", "timeline", "events"],
        &["rooms", "join", "ROOM", "timeline", "limited"],
        &["rooms", "join", "ROOM", "timeline", "prev_batch"],
        &["rooms", "join", "ROOM", "summary"],
        &["rooms", "join", "ROOM", "unread_notifications"],
        &["rooms", "join", "not a room"],
    ]
    .into_iter()
    .enumerate()
    {
        every_poison(200 + seed as u64, path);
    }
}

fn every_poison(seed: u64, path: &[&str]) {
    let (mut world, alice, bob, poisoned) = two(seed);
    let honest = world.make_room(&[alice, bob]);
    world.send(bob, &honest, "hello");
    world.send(alice, &honest, "hello");
    for value in poison() {
        survives(&mut world, (&poisoned, &honest), path, &value);
    }
    assert_eq!(world.oracle.violations(), [] as [String; 0]);
}

/// N38: each field of the events that are looked into.
#[test]
fn a_poisoned_event_costs_no_other_event_anything() {
    let (mut world, alice, bob, room) = two(5);
    huge_in_syncs(&mut world);
    let mut number = 0;
    for kind in [
        "m.room.message",
        "m.room.encrypted",
        "m.room.member",
        "m.room.encryption",
        "m.room.history_visibility",
        "m.room.name",
        "m.room.redaction",
        "m.room.power_levels",
        "m.room.join_rules",
        "m.room.tombstone",
    ] {
        for field in ["content", "type", "state_key", "origin_server_ts", "unsigned", "redacts"] {
            for value in poison() {
                number += 1;
                let mut event = json!({ "type": kind, "sender": BOB, "content": {
                    "algorithm": MEGOLM, "session_id": "x", "ciphertext": "x" } });
                if kind.starts_with("m.room.")
                    && !kind.contains("mess")
                    && !kind.contains("encrypted")
                {
                    event["state_key"] = json!("x");
                }
                event[field] = value;
                inject(&mut world, &room, event, &format!("poison{number}"));
                if number % 40 == 0 {
                    world.sync(alice);
                    world.sync(bob);
                }
            }
        }
    }
    world.settle();
    let inner = ["algorithm", "session_id", "ciphertext", "m.relates_to", "sender_key"];
    for field in inner {
        for value in poison() {
            number += 1;
            let sent = raw(&world, &room, &last(&world, &room));
            let mut event = json!({ "type": "m.room.encrypted", "sender": BOB,
                "content": sent["content"] });
            event["content"][field] = value;
            inject(&mut world, &room, event, &format!("poison{number}"));
        }
        world.settle();
    }
    let before = token(&mut world, alice);
    let sent = world.send(bob, &room, "behind the poison");
    assert_ne!(token(&mut world, alice), before);
    assert_eq!(world.text(alice, &room, &sent).as_deref(), Ok("behind the poison"));
    world.restart(alice);
    let sent = world.send(alice, &room, "answer");
    assert_eq!(world.text(bob, &room, &sent).as_deref(), Ok("answer"));
    assert_eq!(world.oracle.violations(), [] as [String; 0]);
}

/// The last honest encrypted event.
fn last(world: &World, room: &OwnedRoomId) -> OwnedEventId {
    let events = world.server.events(room.as_str());
    let event = events
        .iter()
        .find(|event| {
            event["type"] == "m.room.encrypted" && event["content"]["device_id"] != Value::Null
        })
        .unwrap();
    event["event_id"].as_str().unwrap().try_into().unwrap()
}

/// N38: each field of a to-device message and of what is in it.
#[test]
fn a_poisoned_to_device_message_costs_no_other_anything() {
    let (mut world, alice, bob, room) = two(6);
    huge_in_syncs(&mut world);
    let mut second = Attacker::ghost(&mut world, BOB, "SECOND");
    world.settle();
    let session = OutboundGroupSession::new();
    let (user_id, device) = (user(&world, alice), id(&world, alice));
    for field in ["type", "sender", "content"] {
        for value in poison() {
            let mut event = json!({ "type": "m.room.encrypted", "sender": BOB, "content": {} });
            event[field] = value;
            world.server.inject_to_device(&user_id, &device, event);
        }
    }
    for value in poison() {
        let good = second.encrypt(&mut world, alice, "{}");
        for field in ["algorithm", "sender_key", "ciphertext"] {
            let mut content = good.clone();
            content[field] = value.clone();
            inject_clear(&mut world, alice, BOB, "m.room.encrypted", content);
        }
        for field in ["type", "body"] {
            let mut content = good.clone();
            for (_, ciphertext) in content["ciphertext"].as_object_mut().unwrap() {
                ciphertext[field] = value.clone();
            }
            inject_clear(&mut world, alice, BOB, "m.room.encrypted", content);
        }
        for field in ["type", "content", "sender_device_keys"] {
            let mut payload = second.payload(&world, alice, "m.room_key", &json!({}));
            payload[field] = value.clone();
            second.send_as(&mut world, alice, BOB, &payload);
        }
        for field in ["algorithm", "room_id", "session_id", "session_key", "shared_history"] {
            let mut content = room_key(&session, &room);
            content[field] = value.clone();
            if field == "shared_history" {
                continue; // a key is none the worse for it
            }
            second.send(&mut world, alice, "m.room_key", &content);
        }
        for field in ["room_id", "session_id", "code", "reason"] {
            let mut content = json!({ "room_id": room, "session_id": "s", "code": "m.unverified" });
            content[field] = value.clone();
            inject_clear(&mut world, alice, BOB, "m.room_key.withheld", content);
        }
    }
    new_session(&mut world, bob, &room);
    let sent = world.send(bob, &room, "behind the poison");
    assert_eq!(world.text(alice, &room, &sent).as_deref(), Ok("behind the poison"));
    assert_eq!(world.oracle.violations(), [] as [String; 0]);
}
