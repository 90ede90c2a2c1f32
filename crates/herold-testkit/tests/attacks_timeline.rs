//! Attacks on what is shown: another sender, the same ciphertext again, clear text among encrypted, an
//! encryption that is to be switched off.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod attacks_common;

use attacks_common::*;
use herold::{AppEvent, MachineError, Notice, OwnedEventId, OwnedRoomId, Utd};
use herold_crypto::OutboundGroupSession;
use herold_testkit::{Attacker, World};
use herold_trust::{Policy, Shield, ShieldReason};
use serde_json::{Value, json};

const BOB: &str = "@bob:world.test";

fn mismatched<T>() -> (Shield, Result<T, Utd>) {
    (Shield::Red(ShieldReason::MismatchedSender), Err(Utd::SenderUntrusted))
}

/// Whether `sender` can be put on an event in the sync response.
fn respoof(world: &mut World, device: usize, event_id: &OwnedEventId, sender: &'static str) {
    let event_id = event_id.to_string();
    rewrite(world, device, "/sync", move |body| {
        for room in
            body["rooms"]["join"].as_object_mut().into_iter().flatten().map(|(_, room)| room)
        {
            for event in room["timeline"]["events"].as_array_mut().into_iter().flatten() {
                if event["event_id"] == event_id.as_str() {
                    event["sender"] = json!(sender);
                }
            }
        }
    });
}

/// N13: by sync; and it does not become true by a restart or by a key that comes late.
#[test]
fn another_sender_in_a_sync_response_is_not_believed() {
    for late in [false, true] {
        let (mut world, alice, bob, room) = two(1);
        world.set_online(bob, false);
        new_session(&mut world, alice, &room);
        let sent = world.send(alice, &room, "from Alice");
        let device = id(&world, bob);
        let held = world.server.inbox(BOB, &device);
        assert!(!held.is_empty());
        respoof(&mut world, bob, &sent, "@carol:world.test");
        if late {
            let mut inner = world.tamper.take().unwrap();
            world.tamper = Some(Box::new(move |of, path, response| {
                inner(of, path, response);
                if of == bob && path.ends_with("/sync") {
                    let mut body: Value = serde_json::from_slice(&response.body).unwrap();
                    body["to_device"] = json!({});
                    response.body = body.to_string().into_bytes();
                }
            }));
        }
        world.set_online(bob, true);
        world.settle();
        world.tamper = None;
        if late {
            for event in held {
                world.server.inject_to_device(BOB, &device, event);
            }
            world.settle();
        }
        assert_eq!(shown(&mut world, bob, &room, &sent), mismatched());
        world.restart(bob);
        assert_eq!(shown(&mut world, bob, &room, &sent), mismatched());
        // What comes later is fine.
        let next = world.send(alice, &room, "again from Alice");
        assert_eq!(world.text(bob, &room, &next).as_deref(), Ok("again from Alice"));
        assert_eq!(world.oracle.violations(), [] as [String; 0]);
    }
}

/// N13: by `/messages` and by `/event`, for messages, reactions and edits alike.
#[test]
fn another_sender_in_history_or_a_single_event_is_not_believed() {
    let (mut world, alice, bob, room) = two(2);
    let target = world.send(alice, &room, "to react to");
    let mut events = Vec::new();
    for (kind, content) in [
        ("m.room.message", json!({ "msgtype": "m.text", "body": "plain" })),
        (
            "m.reaction",
            json!({ "m.relates_to": {
            "rel_type": "m.annotation", "event_id": target, "key": "👍" } }),
        ),
        (
            "m.room.message",
            json!({ "msgtype": "m.text", "body": "* edit",
            "m.new_content": { "msgtype": "m.text", "body": "edit" },
            "m.relates_to": { "rel_type": "m.replace", "event_id": target } }),
        ),
    ] {
        world.set_online(bob, false);
        let txn_id = world.queue_event(alice, &room, kind, &content).unwrap();
        world.settle();
        events.push(world.sent(alice, &txn_id).unwrap());
    }
    // Bob's sync shows a gap where they were; then he looks back.
    world.server.force_gap(room.as_str());
    world.set_online(bob, true);
    world.settle();
    let after = world.send(alice, &room, "after the gap");
    let single_event = raw(&world, &room, &events[0]);
    let mut spoofed = single_event;
    spoofed["sender"] = json!("@carol:world.test");
    assert!(single(&mut world, bob, &room, &spoofed));
    assert_eq!(shown(&mut world, bob, &room, &events[0]), mismatched());
    let wanted = events.clone();
    let found = page(&mut world, bob, &room, move |body| {
        for event in body["chunk"].as_array_mut().unwrap() {
            if wanted.iter().any(|id| event["event_id"] == id.as_str()) {
                event["sender"] = json!("@carol:world.test");
            }
        }
    });
    for event in &events {
        assert!(found.contains(event));
        assert_eq!(shown(&mut world, bob, &room, event), mismatched());
    }
    world.restart(bob);
    for event in &events {
        assert_eq!(shown(&mut world, bob, &room, event), mismatched());
    }
    assert_eq!(world.text(bob, &room, &target).as_deref(), Ok("to react to"));
    assert_eq!(world.text(bob, &room, &after).as_deref(), Ok("after the gap"));
    assert_eq!(world.oracle.violations(), [] as [String; 0]);
}

/// N13: a sender that is no user id costs that event and nothing else, on all three paths.
#[test]
fn a_sender_that_is_no_user_id_drops_that_event_alone() {
    for bad in [json!("carol"), json!(""), json!("@"), json!(7), Value::Null, json!(["@a:b"])] {
        let (mut world, alice, bob, room) = two(3);
        let first = world.send(alice, &room, "first");
        let mut event = raw(&world, &room, &first);
        event["sender"] = bad.clone();
        let bad_id = inject(&mut world, &room, event.clone(), "bad");
        let good = world.send(alice, &room, "good");
        assert_eq!(world.text(bob, &room, &good).as_deref(), Ok("good"), "{bad}");
        assert!(world.event(bob, &room, &bad_id).is_none());
        let told = |world: &World| {
            let notices = world.notices(bob);
            notices.iter().filter(|n| matches!(n, Notice::EventDropped { .. })).count()
        };
        assert_eq!(told(&world), 1, "{bad}");
        event["event_id"] = json!("$bad");
        assert!(!single(&mut world, bob, &room, &event));
        // By history: the gap has to be filled, and the bad one is among the events in it.
        world.set_online(bob, false);
        let hidden = world.send(alice, &room, "in the gap");
        let again = inject(&mut world, &room, event, "bad2");
        world.server.force_gap(room.as_str());
        world.set_online(bob, true);
        world.send(alice, &room, "after the gap");
        page(&mut world, bob, &room, |_| {});
        assert_eq!(world.text(bob, &room, &hidden).as_deref(), Ok("in the gap"), "{bad}");
        assert!(world.event(bob, &room, &again).is_none());
        assert_eq!(world.oracle.violations(), [] as [String; 0]);
    }
}

/// N23: the same ciphertext as another event.
#[test]
fn a_ciphertext_that_comes_again_as_another_event_is_a_replay() {
    let (mut world, alice, bob, room) = two(4);
    let sent = world.send(alice, &room, "pay 10");
    let event = raw(&world, &room, &sent);
    let again = inject(&mut world, &room, event.clone(), "again");
    let mut older = event.clone();
    older["origin_server_ts"] = json!(1);
    let older = inject(&mut world, &room, older, "older");
    let mut edit = event.clone();
    edit["content"]["m.relates_to"] = json!({ "rel_type": "m.replace", "event_id": sent });
    let edit = inject(&mut world, &room, edit, "edit");
    world.settle();
    for id in [&again, &older, &edit] {
        assert_eq!(shown(&mut world, bob, &room, id).1, Err(Utd::Replay));
        assert_eq!(shown(&mut world, alice, &room, id).1, Err(Utd::Replay));
    }
    // After a restart, by every other path.
    world.restart(bob);
    let mut fetched = event.clone();
    fetched["event_id"] = json!("$fetched");
    assert!(single(&mut world, bob, &room, &fetched));
    let fetched: OwnedEventId = "$fetched".try_into().unwrap();
    assert_eq!(shown(&mut world, bob, &room, &fetched).1, Err(Utd::Replay));
    let late = inject(&mut world, &room, event, "late");
    world.settle();
    assert_eq!(shown(&mut world, bob, &room, &late).1, Err(Utd::Replay));
    assert_eq!(world.text(bob, &room, &sent).as_deref(), Ok("pay 10"));
    assert_eq!(world.texts(bob, &room).iter().filter(|text| *text == "pay 10").count(), 1);
    assert_eq!(world.oracle.violations(), [] as [String; 0]);
}

/// N23: no false alarm.
#[test]
fn the_same_event_again_is_no_replay() {
    let (mut world, alice, bob, room) = two(5);
    let sent = world.send(alice, &room, "once");
    let event = raw(&world, &room, &sent);
    for _ in 0..2 {
        assert!(single(&mut world, bob, &room, &event));
        assert_eq!(world.text(bob, &room, &sent).as_deref(), Ok("once"));
        assert!(world.server.inject_timeline(room.as_str(), event.clone()));
        world.settle();
        assert_eq!(world.text(bob, &room, &sent).as_deref(), Ok("once"));
        world.restart(bob);
        assert_eq!(world.text(bob, &room, &sent).as_deref(), Ok("once"));
    }
    // The timeline is lost in a gap and read back.
    world.server.force_gap(room.as_str());
    world.send(alice, &room, "after the gap");
    let found = page(&mut world, bob, &room, |_| {});
    assert!(found.contains(&sent));
    assert_eq!(world.text(bob, &room, &sent).as_deref(), Ok("once"));
    assert_eq!(world.texts(bob, &room).iter().filter(|text| *text == "once").count(), 1);
    assert_eq!(world.oracle.violations(), [] as [String; 0]);
}

/// N23: the key is learned late, after the event and its copy came.
#[test]
fn of_two_copies_that_waited_for_their_key_one_is_a_replay() {
    let (mut world, alice, _, room) = two(6);
    let mut second = Attacker::ghost(&mut world, BOB, "SECOND");
    world.settle();
    let mut session = OutboundGroupSession::new();
    let key = room_key(&session, &room);
    let event = encrypted(&mut session, &room, BOB, "twice");
    let one = inject(&mut world, &room, event.clone(), "one");
    let two = inject(&mut world, &room, event, "two");
    world.settle();
    second.send(&mut world, alice, "m.room_key", &key);
    world.settle();
    let bodies = [shown(&mut world, alice, &room, &one).1, shown(&mut world, alice, &room, &two).1];
    assert_eq!(bodies.iter().filter(|body| **body == Ok("twice".to_owned())).count(), 1);
    assert_eq!(bodies.iter().filter(|body| **body == Err(Utd::Replay)).count(), 1);
    assert_eq!(world.oracle.violations(), [] as [String; 0]);
}

fn encryption(content: Value) -> Value {
    json!({ "type": "m.room.encryption", "state_key": "", "sender": BOB, "content": content })
}

/// N29: whatever the state says later, nothing goes out in the clear.
#[test]
fn encryption_once_on_stays_on() {
    for (number, content) in [
        json!({}),
        json!({ "algorithm": "m.none" }),
        json!({ "algorithm": "" }),
        json!({ "algorithm": null }),
        json!({ "algorithm": 5 }),
        json!({ "algorithm": ["m.megolm.v1.aes-sha2"] }),
        json!("m.megolm.v1.aes-sha2"),
        Value::Null,
    ]
    .into_iter()
    .enumerate()
    {
        let (mut world, alice, bob, room) = two(7);
        inject(&mut world, &room, encryption(content.clone()), &format!("off{number}"));
        world.settle();
        world.restart(alice);
        let sent = world.send(alice, &room, "secret");
        assert_eq!(raw(&world, &room, &sent)["type"], "m.room.encrypted", "{content}");
        assert_eq!(world.text(bob, &room, &sent).as_deref(), Ok("secret"));
        assert_eq!(world.oracle.violations(), [] as [String; 0]);
    }
}

/// N29: a server that no longer speaks of encryption, after a gap and a restart.
#[test]
fn state_that_leaves_encryption_out_switches_nothing_off() {
    let (mut world, alice, bob, room) = two(8);
    rewrite(&mut world, alice, "/sync", |body| {
        for (_, room) in body["rooms"]["join"].as_object_mut().into_iter().flatten() {
            for part in ["state", "timeline"] {
                if let Some(events) = room[part]["events"].as_array_mut() {
                    events.retain(|event| event["type"] != "m.room.encryption");
                }
            }
        }
    });
    world.server.force_gap(room.as_str());
    world.settle();
    world.restart(alice);
    let redaction = json!({
        "type": "m.room.redaction", "sender": BOB, "redacts": "$encryption", "content": {},
    });
    inject(&mut world, &room, redaction, "redaction");
    let sent = world.send(alice, &room, "secret");
    assert_eq!(raw(&world, &room, &sent)["type"], "m.room.encrypted");
    assert_eq!(world.text(bob, &room, &sent).as_deref(), Ok("secret"));
    assert_eq!(world.oracle.violations(), [] as [String; 0]);
}

/// A room without encryption, and the event that switches it on.
fn switched_on(seed: u64, content: Value) -> (World, usize, OwnedRoomId) {
    let mut world = World::new(seed);
    let alice = world.add_device("alice");
    world.settle();
    let room = world.call(
        Some(alice),
        "POST",
        "/_matrix/client/v3/createRoom",
        json!({ "preset": "private_chat" }),
    );
    let room: OwnedRoomId = room["room_id"].as_str().unwrap().try_into().unwrap();
    world.settle();
    inject(&mut world, &room, encryption(content), "on");
    world.settle();
    (world, alice, room)
}

/// N29: an algorithm nobody knows here is no reason to send in the clear.
#[test]
fn an_unknown_algorithm_refuses_to_send() {
    for content in [
        json!({ "algorithm": "m.megolm.v9" }),
        json!({ "algorithm": "m.olm.v1.curve25519-aes-sha2" }),
        json!({ "algorithm": 1 }),
        json!({}),
        json!([]),
        json!("text"),
    ] {
        let (mut world, alice, room) = switched_on(9, content.clone());
        let message = json!({ "msgtype": "m.text", "body": "secret" });
        let refused = world.queue_event(alice, &room, "m.room.message", &message);
        assert!(matches!(refused, Err(MachineError::UnsupportedAlgorithm)), "{content}");
        assert_eq!(world.oracle.violations(), [] as [String; 0]);
    }
}

/// N29: whoever may switch encryption on can put anything beside it. A client that cannot read the rest
/// must not take the room for a clear one.
#[test]
fn encryption_is_switched_on_by_an_event_that_cannot_be_read_whole() {
    let deep: Value = (0..200).fold(json!(1), |inner, _| json!([inner]));
    for extra in [deep, json!("x".repeat(300_000))] {
        let (mut world, alice, room) =
            switched_on(10, json!({ "algorithm": MEGOLM, "extra": extra }));
        let message = json!({ "msgtype": "m.text", "body": "secret" });
        // Encrypted or refused: both are right.
        let _ = world.queue_event(alice, &room, "m.room.message", &message);
        world.settle();
        assert_eq!(world.oracle.violations(), [] as [String; 0]);
    }
}

/// N29: a message that was queued before encryption was switched on, and not accepted yet, is not sent in
/// the clear afterwards.
#[test]
fn a_message_queued_before_encryption_does_not_go_out_in_the_clear_after_it() {
    let mut world = World::new(11);
    let alice = world.add_device("alice");
    world.settle();
    let room = world.call(
        Some(alice),
        "POST",
        "/_matrix/client/v3/createRoom",
        json!({ "preset": "private_chat" }),
    );
    let room: OwnedRoomId = room["room_id"].as_str().unwrap().try_into().unwrap();
    world.settle();
    let txn_id = world.queue(alice, &room, "was to be clear");
    inject(&mut world, &room, encryption(json!({ "algorithm": MEGOLM })), "on");
    world.sync(alice);
    world.settle();
    let sent = world.sent(alice, &txn_id).expect("it is sent all the same");
    assert_eq!(raw(&world, &room, &sent)["type"], "m.room.encrypted");
    assert_eq!(world.oracle.violations(), [] as [String; 0]);
}

/// N30: messages, replies, reactions and edits in the clear.
#[test]
fn clear_events_in_an_encrypted_room_are_marked_or_refused() {
    for refuse in [false, true] {
        let mut world = World::new(12);
        let alice = world.add_device("alice");
        let policy =
            Policy { refuse_clear_in_encrypted_rooms: refuse, ..herold_testkit::open_policy() };
        let bob = world.add_device_with("bob", policy);
        world.settle();
        let room = world.make_room(&[alice, bob]);
        let target = world.send(alice, &room, "target");
        for (number, (kind, content)) in [
            ("m.room.message", json!({ "msgtype": "m.text", "body": "clear" })),
            (
                "m.room.message",
                json!({ "msgtype": "m.text", "body": "reply", "m.relates_to": {
                "m.in_reply_to": { "event_id": target } } }),
            ),
            (
                "m.room.message",
                json!({ "msgtype": "m.text", "body": "* edit", "m.relates_to": {
                "rel_type": "m.replace", "event_id": target },
                "m.new_content": { "msgtype": "m.text", "body": "edit" } }),
            ),
            (
                "m.reaction",
                json!({ "m.relates_to": {
                "rel_type": "m.annotation", "event_id": target, "key": "👎" } }),
            ),
            ("m.sticker", json!({ "body": "sticker" })),
        ]
        .into_iter()
        .enumerate()
        {
            let event = json!({ "type": kind, "sender": "@alice:world.test", "content": content });
            let id = inject(&mut world, &room, event, &format!("clear{number}"));
            world.settle();
            let (shield, body) = shown(&mut world, bob, &room, &id);
            assert_eq!(shield, Shield::Red(ShieldReason::SentInClear), "{kind}");
            assert_eq!(body.is_err(), refuse, "{kind}");
            world.restart(bob);
            assert_eq!(shown(&mut world, bob, &room, &id).0, shield);
        }
        let state = json!({ "type": "m.room.topic", "state_key": "", "sender": BOB,
            "content": { "topic": "state is clear" } });
        let id = inject(&mut world, &room, state, "topic");
        world.settle();
        assert_eq!(shown(&mut world, bob, &room, &id).0, Shield::None);
        assert_eq!(world.text(bob, &room, &target).as_deref(), Ok("target"));
        assert_eq!(world.oracle.violations(), [] as [String; 0]);
    }
}

/// N30: a state key does not make a message state.
#[test]
fn a_clear_message_with_a_state_key_is_still_marked() {
    let (mut world, alice, _, room) = two(13);
    for (number, key) in ["", "x"].into_iter().enumerate() {
        let event = json!({
            "type": "m.room.message", "state_key": key, "sender": BOB,
            "content": { "msgtype": "m.text", "body": "clear" },
        });
        let id = inject(&mut world, &room, event, &format!("disguised{number}"));
        world.settle();
        let (shield, _) = shown(&mut world, alice, &room, &id);
        assert_eq!(shield, Shield::Red(ShieldReason::SentInClear));
    }
    assert_eq!(world.oracle.violations(), [] as [String; 0]);
}

/// N13 and N30: nothing an attacker did here was announced as decrypted.
#[test]
fn a_refused_event_is_not_announced_as_decrypted() {
    let (mut world, alice, _, room) = two(14);
    let mut eve = Attacker::log_in(&mut world, "eve");
    let mut session = OutboundGroupSession::new();
    let key = room_key(&session, &room);
    let event = encrypted(&mut session, &room, BOB, "says Bob");
    inject(&mut world, &room, event, "bob");
    world.settle();
    eve.send(&mut world, alice, "m.room_key", &key);
    world.settle();
    let announced = |event: &AppEvent| matches!(event, AppEvent::Decrypted { .. });
    assert!(!world.devices[alice].events.iter().any(announced));
    assert_eq!(world.oracle.violations(), [] as [String; 0]);
}
