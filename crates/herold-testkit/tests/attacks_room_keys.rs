//! Attacks with room keys: taking a session over, mixing rooms up, getting in first, and getting a key
//! that one is no longer entitled to.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod attacks_common;

use attacks_common::*;
use herold::{OwnedRoomId, Utd};
use herold_crypto::{InboundGroupSession, OutboundGroupSession};
use herold_machine::DropReason;
use herold_store::Table;
use herold_testkit::{Attacker, Faults, World};
use herold_trust::{Shield, ShieldReason};
use serde_json::{Value, json};

const ALICE: &str = "@alice:world.test";
const BOB: &str = "@bob:world.test";

/// Alice, Bob and Eve in a room. Eve's keys are the attacker's.
fn three(seed: u64) -> (World, usize, usize, OwnedRoomId, Attacker) {
    let (mut world, alice, bob, room) = two(seed);
    let mut eve = Attacker::log_in(&mut world, "eve");
    enter(&mut world, alice, &room, &mut eve);
    (world, alice, bob, room, eve)
}

fn enter(world: &mut World, owner: usize, room: &OwnedRoomId, eve: &mut Attacker) {
    world.call(Some(owner), "POST", &path(room, "invite"), json!({ "user_id": eve.user_id }));
    eve.call(world, "POST", &path(room, "join"), &json!({}));
    world.settle();
}

/// N24: the session id of another's session, with one's own keys behind it.
#[test]
fn a_session_cannot_be_taken_over() {
    let (mut world, alice, bob, room, mut eve) = three(1);
    let first = world.send(alice, &room, "one");
    let keys = room_keys_of(&world, &mut eve);
    assert!(read_with(&world, &room, &first, &keys), "Eve is a member");
    let genuine = keys.last().unwrap()["content"].clone();
    let before = rows(&world, bob, Table::InboundSession);

    // Her own session under Alice's id.
    let own = OutboundGroupSession::new();
    let mut forged = room_key(&own, &room);
    forged["session_id"] = genuine["session_id"].clone();
    eve.send(&mut world, bob, "m.room_key", &forged);
    world.settle();
    assert_eq!(dropped(&world, bob, DropReason::RoomKeyConflict), 1);

    // Alice's ratchet changed, so that its signature does not fit.
    let text = genuine["session_key"].as_str().unwrap();
    for at in [10, 100, 200, 300] {
        let mut changed: Vec<char> = text.chars().collect();
        changed[at] = if changed[at] == 'A' { 'B' } else { 'A' };
        let mut forged = genuine.clone();
        forged["session_key"] = json!(changed.into_iter().collect::<String>());
        eve.send(&mut world, bob, "m.room_key", &forged);
    }
    world.settle();
    assert_eq!(dropped(&world, bob, DropReason::Malformed), 4);

    // Alice's very key, claimed by Eve: it is filed as hers, beside Alice's.
    eve.send(&mut world, bob, "m.room_key", &genuine);
    // In the shape of an export, which nobody's signature vouches for.
    let mut exported = InboundGroupSession::from_session_key(text).unwrap();
    let later = exported.first_known_index() + 1;
    let mut forged = genuine.clone();
    forged["session_key"] = json!(exported.export_at(later).unwrap().as_str());
    eve.send(&mut world, bob, "m.room_key", &forged);
    world.settle();
    assert_eq!(dropped(&world, bob, DropReason::RoomKeyConflict), 1);
    assert_eq!(dropped(&world, bob, DropReason::Malformed), 5);
    assert_eq!(rows(&world, bob, Table::InboundSession), before + 1);

    // Alice's messages are still hers, and Eve's claim to them is not believed.
    let second = world.send(alice, &room, "two");
    for (id, body) in [(&first, "one"), (&second, "two")] {
        let shown_as = world.event(bob, &room, id).unwrap();
        assert_eq!(shown_as.sender, ALICE);
        assert_eq!(shown_as.sender_device.unwrap(), id_of(&world, alice));
        assert_eq!(world.text(bob, &room, id).as_deref(), Ok(body));
    }
    let mut stolen = raw(&world, &room, &second);
    stolen["sender"] = json!(eve.user_id);
    let event_id = inject(&mut world, &room, stolen, "stolen");
    world.settle();
    assert_eq!(shown(&mut world, bob, &room, &event_id).1, Err(Utd::Replay));
    assert_eq!(world.oracle.violations(), [] as [String; 0]);
}

fn id_of(world: &World, device: usize) -> herold::OwnedDeviceId {
    world.devices[device].device_id.as_str().into()
}

/// N24: an earlier index of the same ratchet, from the owner and from others.
#[test]
fn only_the_owner_of_a_session_can_give_an_earlier_index() {
    let (mut world, alice, bob, room) = two(2);
    let _ = bob;
    let mut second = Attacker::ghost(&mut world, BOB, "SECOND");
    let mut eve = Attacker::log_in(&mut world, "eve");
    world.settle();
    let mut session = OutboundGroupSession::new();
    let early = room_key(&session, &room);
    let event = encrypted(&mut session, &room, BOB, "early");
    second.send(&mut world, alice, "m.room_key", &room_key(&session, &room));
    let event_id = inject(&mut world, &room, event, "early");
    world.settle();
    assert_eq!(shown(&mut world, alice, &room, &event_id).1, Err(Utd::IndexTooEarly));
    // The key is genuine, but it is not Eve's to give.
    eve.send(&mut world, alice, "m.room_key", &early);
    world.settle();
    assert_eq!(shown(&mut world, alice, &room, &event_id).1, Err(Utd::IndexTooEarly));
    // Its owner's is.
    second.send(&mut world, alice, "m.room_key", &early);
    world.settle();
    assert_eq!(shown(&mut world, alice, &room, &event_id).1, Ok("early".to_owned()));
    let shown_as = world.event(alice, &room, &event_id).unwrap();
    assert_eq!(shown_as.sender_device.unwrap(), "SECOND");
    // A later index afterwards takes nothing away.
    let late = room_key(&session, &room);
    second.send(&mut world, alice, "m.room_key", &late);
    world.settle();
    let again = encrypted(&mut session, &room, BOB, "late");
    let again = inject(&mut world, &room, again, "late");
    world.restart(alice);
    world.settle();
    assert_eq!(shown(&mut world, alice, &room, &event_id).1, Ok("early".to_owned()));
    assert_eq!(shown(&mut world, alice, &room, &again).1, Ok("late".to_owned()));
    assert_eq!(dropped(&world, alice, DropReason::RoomKeyConflict), 0);
    assert_eq!(world.oracle.violations(), [] as [String; 0]);
}

/// N25: a key shared for one room opens nothing in another.
#[test]
fn a_room_key_counts_in_its_own_room_only() {
    let (mut world, alice, bob, room) = two(3);
    let other = world.make_room(&[alice, bob]);
    let sent = world.send(alice, &room, "for this room");
    // The server serves it in the other room.
    let copy = raw(&world, &room, &sent);
    let copy = inject(&mut world, &other, copy, "copied");
    // A member shares a session for the other room whose messages name this one.
    let mut second = Attacker::ghost(&mut world, ALICE, "SECOND");
    let mut session = OutboundGroupSession::new();
    world.settle();
    second.send(&mut world, bob, "m.room_key", &room_key(&session, &other));
    let event = encrypted(&mut session, &room, ALICE, "named otherwise");
    let named = inject(&mut world, &other, event, "named");
    world.settle();
    for id in [&copy, &named] {
        assert_eq!(shown(&mut world, bob, &other, id).1, Err(Utd::RoomMismatch));
    }
    world.restart(bob);
    assert_eq!(shown(&mut world, bob, &other, &copy).1, Err(Utd::RoomMismatch));
    assert_eq!(world.text(bob, &room, &sent).as_deref(), Ok("for this room"));
    assert_eq!(world.oracle.violations(), [] as [String; 0]);
}

/// N25: an encrypted event that passes for state.
#[test]
fn a_ciphertext_is_no_state() {
    let (mut world, alice, bob, room) = two(4);
    let sent = world.send(alice, &room, "not a topic");
    for (kind, key) in [("m.room.encrypted", ""), ("m.room.encrypted", "m.room.topic:")] {
        let mut event = raw(&world, &room, &sent);
        event["type"] = json!(kind);
        event["state_key"] = json!(key);
        let id = inject(&mut world, &room, event, &format!("state{}", key.len()));
        world.settle();
        assert_eq!(shown(&mut world, bob, &room, &id).1, Err(Utd::UnsupportedAlgorithm));
    }
    assert_eq!(world.oracle.violations(), [] as [String; 0]);
}

/// N25: Eve, a member who has Alice's key, passes it on to Bob for another room before he has Alice's.
#[test]
fn a_member_who_files_a_key_under_another_room_does_not_cost_its_owner_her_messages() {
    let (mut world, alice, bob, room, mut eve) = three(6);
    world.set_online(bob, false);
    new_session(&mut world, alice, &room);
    let txn_id = world.queue(alice, &room, "for Bob too");
    world.settle();
    let sent = world.sent(alice, &txn_id).unwrap();
    let device = id(&world, bob);
    let held = world.server.inbox(BOB, &device);
    // Eve's word comes first, then the event, then Alice's key.
    let mut key = room_keys_of(&world, &mut eve).pop().unwrap()["content"].clone();
    key["room_id"] = json!("!elsewhere:world.test");
    eve.send(&mut world, bob, "m.room_key", &key);
    let skip = held.len();
    rewrite(&mut world, bob, "/sync", move |body| {
        if let Some(events) = body["to_device"]["events"].as_array_mut() {
            events.drain(..skip.min(events.len()));
        }
    });
    world.set_online(bob, true);
    world.sync(bob);
    world.tamper = None;
    assert!(world.text(bob, &room, &sent).is_err());
    for event in held {
        world.server.inject_to_device(BOB, &device, event);
    }
    world.settle();
    assert_eq!(world.text(bob, &room, &sent).as_deref(), Ok("for Bob too"));
    assert_eq!(world.oracle.violations(), [] as [String; 0]);
}

/// Whether Eve can read what Alice sends now.
fn eve_reads(
    world: &mut World,
    alice: usize,
    room: &OwnedRoomId,
    eve: &mut Attacker,
    keys: &mut Vec<Value>,
) -> bool {
    let sent = world.send(alice, room, "among ourselves");
    keys.extend(room_keys_of(world, eve));
    read_with(world, room, &sent, keys)
}

/// A member goes with a membership event whose other fields a client cannot take in whole. Gone is gone.
#[test]
fn a_member_who_leaves_by_an_odd_event_gets_no_further_key() {
    let deep: Value = (0..200).fold(json!(1), |inner, _| json!([inner]));
    for (number, (what, extra)) in [
        ("deep", deep),
        ("long", json!("x".repeat(300_000))),
        ("wrong", json!({ "displayname": [1], "reason": {} })),
    ]
    .into_iter()
    .enumerate()
    {
        let (mut world, alice, _, room, mut eve) = three(20 + number as u64);
        let mut keys = Vec::new();
        assert!(eve_reads(&mut world, alice, &room, &mut eve, &mut keys), "a member reads");
        let mut content = json!({ "membership": "leave" });
        match &extra {
            Value::Object(fields) => content.as_object_mut().unwrap().extend(fields.clone()),
            extra => content["extra"] = extra.clone(),
        }
        let event = json!({
            "type": "m.room.member",
            "state_key": eve.user_id,
            "sender": eve.user_id,
            "content": content,
        });
        inject(&mut world, &room, event, "leave");
        world.settle();
        assert!(!eve_reads(&mut world, alice, &room, &mut eve, &mut keys), "{what}");
        assert_eq!(world.oracle.violations(), [] as [String; 0]);
    }
}

/// A number that no JSON reader of ours can hold, in a leave event.
#[test]
fn a_member_who_leaves_with_a_number_out_of_range_gets_no_further_key() {
    let (mut world, alice, _, room, mut eve) = three(30);
    let mut keys = Vec::new();
    assert!(eve_reads(&mut world, alice, &room, &mut eve, &mut keys));
    let event = json!({
        "type": "m.room.member",
        "state_key": eve.user_id,
        "sender": eve.user_id,
        "content": { "membership": "leave", "extra": "HUGE" },
    });
    inject(&mut world, &room, event, "leave");
    world.tamper = Some(Box::new(|_, path, response| {
        if path.ends_with("/sync") {
            let text = String::from_utf8(response.body.clone()).unwrap();
            response.body = text.replace("\"HUGE\"", "1e999").into_bytes();
        }
    }));
    world.settle();
    assert!(!eve_reads(&mut world, alice, &room, &mut eve, &mut keys));
    assert_eq!(world.oracle.violations(), [] as [String; 0]);
}

/// The member list was asked for while Eve was a member; its answer comes after her leave was synced.
#[test]
fn a_late_member_list_does_not_bring_back_who_has_left() {
    let (mut world, alice, _, room, mut eve) = three(31);
    let mut keys = Vec::new();
    assert!(eve_reads(&mut world, alice, &room, &mut eve, &mut keys));
    // A gap makes the list incomplete, so that it is asked for.
    world.server.force_gap(room.as_str());
    world.sync(alice);
    let txn_id = world.queue(alice, &room, "while the list is under way");
    world.faults = Faults { delayed: 999, ..Faults::NONE };
    world.pump(alice);
    world.faults = Faults::NONE;
    eve.call(&mut world, "POST", &path(&room, "leave"), &json!({}));
    world.sync(alice);
    world.settle();
    assert!(world.sent(alice, &txn_id).is_some());
    assert!(!eve_reads(&mut world, alice, &room, &mut eve, &mut keys));
    assert_eq!(world.oracle.violations(), [] as [String; 0]);
}

/// N05 and N24: room keys for rooms one has nothing to do with are of no use to anybody there.
#[test]
fn a_key_of_a_stranger_opens_only_what_the_stranger_sends() {
    let (mut world, alice, _, room) = two(32);
    let mut eve = Attacker::log_in(&mut world, "eve");
    let mut session = OutboundGroupSession::new();
    eve.send(&mut world, alice, "m.room_key", &room_key(&session, &room));
    let event = encrypted(&mut session, &room, BOB, "says Bob");
    let as_bob = inject(&mut world, &room, event, "bob");
    let event = encrypted(&mut session, &room, ALICE, "says Alice");
    let as_alice = inject(&mut world, &room, event, "alice");
    let event = encrypted(&mut session, &room, &eve.user_id, "says Eve");
    let as_eve = inject(&mut world, &room, event, "eve");
    world.settle();
    let refused = (Shield::Red(ShieldReason::MismatchedSender), Err(Utd::SenderUntrusted));
    assert_eq!(shown(&mut world, alice, &room, &as_bob), refused);
    assert_eq!(shown(&mut world, alice, &room, &as_alice), refused);
    let (shield, body) = shown(&mut world, alice, &room, &as_eve);
    assert_eq!(body, Ok("says Eve".to_owned()));
    assert_ne!(shield, Shield::None);
    assert_eq!(world.oracle.violations(), [] as [String; 0]);
}
