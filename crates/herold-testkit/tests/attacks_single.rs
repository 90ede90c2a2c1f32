//! What a homeserver answers when it is asked for one event or a page, redactions that nobody made, and a room that
//! says its state is encrypted: N13, N23, N25, N29.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod attacks_common;

use attacks_common::*;
use herold::{OwnedEventId, OwnedRoomId};
use herold_machine::{DropReason, Notice, Utd};
use herold_store::Table;
use herold_testkit::World;
use herold_trust::{Shield, ShieldReason};
use serde_json::{Value, json};

const ALICE: &str = "@alice:world.test";
const BOB: &str = "@bob:world.test";

/// Alice and Bob in two encrypted rooms, and Bob's message in the first, which Alice has not got yet.
fn two_rooms(seed: u64) -> (World, usize, usize, [OwnedRoomId; 2], Value) {
    let (mut world, alice, bob, one) = two(seed);
    let other = world.make_room(&[alice, bob]);
    world.set_online(alice, false);
    let event = world.send(bob, &one, "for the first room");
    let mut event = raw(&world, &one, &event);
    event["room_id"] = json!(one);
    (world, alice, bob, [one, other], event)
}

fn id_of(event: &Value) -> OwnedEventId {
    event["event_id"].as_str().unwrap().try_into().unwrap()
}

fn clean(world: &World) {
    assert_eq!(world.oracle.violations(), [] as [String; 0]);
}

/// N25: `/event` and `/context` answered with an event of another room.
#[test]
fn n25_a_fetched_event_of_another_room_is_not_taken_for_this_one() {
    let (mut world, alice, _, [one, other], event) = two_rooms(1);
    let id = id_of(&event);
    let before = rows(&world, alice, Table::Event);
    for named in [json!(one), json!(7), json!(["x"]), json!("")] {
        let mut event = event.clone();
        event["room_id"] = named;
        assert!(!fetched(&mut world, alice, &other, &id, &event));
        assert!(world.event(alice, &other, &id).is_none());
    }
    // Said in the clear, it is refused just so.
    let mut clear = event.clone();
    clear["type"] = json!("m.room.message");
    clear["content"] = json!({ "msgtype": "m.text", "body": "for the first room" });
    assert!(!fetched(&mut world, alice, &other, &id, &clear));
    assert_eq!(rows(&world, alice, Table::Event), before);
    // A server that leaves the room out gets it stored, and nothing of it read or believed...
    for event in [&mut clear, &mut event.clone()] {
        event.as_object_mut().unwrap().remove("room_id");
        let shown_as = format!("$copy-{}", event["type"].as_str().unwrap());
        event["event_id"] = json!(shown_as);
        assert!(fetched(&mut world, alice, &other, &id_of(event), event));
        let (shield, body) = shown(&mut world, alice, &other, &id_of(event));
        if event["type"] == "m.room.message" {
            assert_eq!(shield, Shield::Red(ShieldReason::SentInClear));
        } else {
            assert!(matches!(body, Err(Utd::RoomMismatch | Utd::MissingKey)), "{body:?}");
        }
    }
    // ...and where it belongs it is what it always was.
    world.set_online(alice, true);
    world.settle();
    assert_eq!(world.text(alice, &one, &id).as_deref(), Ok("for the first room"));
    let copy = "$copy-m.room.encrypted".try_into().unwrap();
    assert_eq!(shown(&mut world, alice, &other, &copy).1, Err(Utd::RoomMismatch));
    clean(&world);
}

/// N13, N23: `/event` answered with another event than was asked for.
#[test]
fn n23_another_event_than_was_asked_for_changes_nothing() {
    let (mut world, alice, bob, [one, _], event) = two_rooms(2);
    let second = world.send(bob, &one, "second");
    let asked = id_of(&event);
    let other = raw(&world, &one, &second);
    let before = rows(&world, alice, Table::Event);
    assert!(!fetched(&mut world, alice, &one, &asked, &other));
    // The genuine text under the id that was asked for, and the other way round.
    let mut swapped = event.clone();
    swapped["event_id"] = json!("$made-up");
    assert!(!fetched(&mut world, alice, &one, &asked, &swapped));
    for odd in [json!(null), json!(5), json!({ "event_id": asked }), json!("")] {
        swapped["event_id"] = odd;
        assert!(!fetched(&mut world, alice, &one, &asked, &swapped));
    }
    for odd in [json!([]), json!("text"), json!({}), Value::Null] {
        assert!(!fetched(&mut world, alice, &one, &asked, &odd));
    }
    assert_eq!(rows(&world, alice, Table::Event), before);
    // Nothing was used up: neither is a replay of the other.
    world.set_online(alice, true);
    world.settle();
    assert_eq!(world.text(alice, &one, &asked).as_deref(), Ok("for the first room"));
    assert_eq!(world.text(alice, &one, &second).as_deref(), Ok("second"));
    // What is known stands, whatever is served under its id.
    let mut changed = event.clone();
    changed["sender"] = json!(ALICE);
    changed["content"] = json!({ "msgtype": "m.text", "body": "never said" });
    changed["type"] = json!("m.room.message");
    assert!(fetched(&mut world, alice, &one, &asked, &changed));
    assert_eq!(world.text(alice, &one, &asked).as_deref(), Ok("for the first room"));
    assert_eq!(world.event(alice, &one, &asked).unwrap().sender, BOB);
    clean(&world);
}

/// N25: a page of history with an event of another room in it. The others are taken.
#[test]
fn n25_an_event_of_another_room_is_dropped_from_a_page() {
    let (mut world, alice, bob, [one, other], event) = two_rooms(3);
    let mine = world.send(bob, &other, "for the other room");
    world.set_online(alice, true);
    world.server.force_gap(other.as_str());
    world.send(bob, &other, "after the gap");
    let foreign = event.clone();
    let room = other.clone();
    let taken = page(&mut world, alice, &other, |body| {
        let chunk = body["chunk"].as_array_mut().unwrap();
        for event in chunk.iter_mut() {
            event["room_id"] = json!(room);
        }
        chunk.insert(0, foreign);
    });
    assert!(taken.contains(&mine) && !taken.contains(&id_of(&event)));
    assert!(world.event(alice, &other, &id_of(&event)).is_none());
    assert_eq!(world.text(alice, &other, &mine).as_deref(), Ok("for the other room"));
    world.send(bob, &one, "so that Alice's app looks");
    let dropped = world.notices(alice).into_iter().filter(|notice| {
        matches!(notice, Notice::EventDropped { room_id: Some(room), reason: DropReason::Malformed } if *room == other)
    });
    assert_eq!(dropped.count(), 1);
    assert_eq!(world.text(alice, &one, &id_of(&event)).as_deref(), Ok("for the first room"));
    clean(&world);
}

fn inject_as_is(world: &mut World, room: &OwnedRoomId, event: Value) {
    assert!(world.server.inject_timeline(room.as_str(), event));
}

fn redaction(sender: &str, target: &Value) -> Value {
    json!({
        "type": "m.room.redaction", "sender": sender, "redacts": target,
        "content": { "redacts": target },
    })
}

/// N13: redactions are not authenticated: whoever serves the room can take a text away, in anybody's name. It can put no
/// other in its place, under nobody's name, nowhere else, and the app sees who is said to have done it.
#[test]
fn n13_a_forged_redaction_takes_one_text_away_and_nothing_else() {
    for (n, redactor) in [BOB, "@eve:elsewhere.test", ALICE].into_iter().enumerate() {
        let (mut world, alice, bob, room) = two(10 + n as u64);
        let elsewhere = world.make_room(&[alice, bob]);
        let target = world.send(alice, &room, "taken away");
        let beside = world.send(alice, &room, "beside it");
        let genuine = raw(&world, &room, &target);
        let shield = shown(&mut world, bob, &room, &target).0;
        // The same id in another room, which is a server's to make up.
        let twin = world.send(alice, &elsewhere, "the twin");
        let mut twin = raw(&world, &elsewhere, &twin);
        twin["event_id"] = json!(target);
        twin["type"] = json!("m.room.message");
        twin["content"] = json!({ "msgtype": "m.text", "body": "a twin in the clear" });
        inject_as_is(&mut world, &elsewhere, twin);
        let mut forged = redaction(redactor, &json!(target));
        // Room versions up to 10 have it beside the content, later ones within.
        match n {
            0 => drop(forged["content"].as_object_mut().unwrap().remove("redacts")),
            1 => drop(forged.as_object_mut().unwrap().remove("redacts")),
            _ => {}
        }
        let forged = inject(&mut world, &room, forged, "redaction");
        world.settle();
        for _ in 0..2 {
            let event = world.event(bob, &room, &target).unwrap();
            assert_eq!((event.sender.as_str(), &event.shield), (ALICE, &shield));
            assert_eq!(event.body.unwrap().content, "{}");
            // The redaction stands in the timeline, with the name the server has put on it.
            let event = world.event(bob, &room, &forged).unwrap();
            assert_eq!((event.sender.as_str(), event.encrypted), (redactor, false));
            assert_eq!(event.redacts.as_ref().map(|id| id.as_str()), Some(target.as_str()));
            assert_eq!(event.body.unwrap().event_type, "m.room.redaction");
            assert_eq!(world.text(bob, &room, &beside).as_deref(), Ok("beside it"));
            world.restart(bob);
        }
        assert_eq!(world.texts(bob, &elsewhere), ["the twin", "a twin in the clear"]);
        // The text does not come back by being served again, and not as somebody's new message either (N23).
        assert!(fetched(&mut world, bob, &room, &target, &genuine));
        assert_eq!(world.event(bob, &room, &target).unwrap().body.unwrap().content, "{}");
        let again = inject(&mut world, &room, genuine.clone(), "again");
        world.settle();
        assert_eq!(shown(&mut world, bob, &room, &again).1, Err(Utd::Replay));
        // The session and the room go on.
        let next = world.send(alice, &room, "and on");
        assert_eq!(world.text(bob, &room, &next).as_deref(), Ok("and on"));
        clean(&world);
    }
}

/// N13: what is no redaction takes nothing away: of another room, of no event, inside a ciphertext.
#[test]
fn n13_what_is_no_redaction_of_this_room_takes_nothing_away() {
    let (mut world, alice, bob, room) = two(20);
    let other = world.make_room(&[alice, bob]);
    let target = world.send(alice, &room, "stands");
    inject(&mut world, &other, redaction(ALICE, &json!(target)), "elsewhere");
    let odd = [json!(null), json!(7), json!([target]), json!({ "id": target }), json!("stands")];
    for (n, odd) in odd.iter().enumerate() {
        inject(&mut world, &room, redaction(ALICE, odd), &format!("odd{n}"));
    }
    inject(&mut world, &room, redaction("nobody", &json!(target)), "no-sender");
    let content = json!({ "redacts": target });
    world.queue_event(bob, &room, "m.room.redaction", &content).unwrap();
    world.settle();
    for device in [alice, bob] {
        assert_eq!(world.text(device, &room, &target).as_deref(), Ok("stands"));
    }
    clean(&world);
}

/// N29: redacted state. Who was a member still is, and what was encrypted stays so.
#[test]
fn n29_redacted_state_changes_neither_members_nor_encryption() {
    let (mut world, alice, bob, room) = two(21);
    let state: Vec<Value> = world
        .server
        .events(room.as_str())
        .into_iter()
        .filter(|event| event.get("state_key").is_some())
        .map(|event| event["event_id"].clone())
        .collect();
    assert!(state.len() > 4);
    for (n, event) in state.iter().enumerate() {
        inject(&mut world, &room, redaction(BOB, event), &format!("redaction{n}"));
    }
    world.settle();
    world.restart(alice);
    let sent = world.send(alice, &room, "secret");
    assert_eq!(raw(&world, &room, &sent)["type"], "m.room.encrypted");
    assert_eq!(world.text(bob, &room, &sent).as_deref(), Ok("secret"));
    clean(&world);
}

fn encryption(flag: Option<(&str, Value)>) -> Value {
    let mut content = json!({ "algorithm": MEGOLM, "rotation_period_msgs": 3 });
    if let Some((name, value)) = flag {
        content[name] = value;
    }
    json!({ "type": "m.room.encryption", "state_key": "", "sender": ALICE, "content": content })
}

/// N29: the experimental encryption of state (MSC4362) comes, goes and is nonsense. Messages stay encrypted, sessions rotate
/// as the room says, clear state counts as ever: nobody who was put out is served for a flag's sake.
#[test]
fn n29_a_room_that_says_its_state_is_encrypted_is_the_room_it_was() {
    for name in ["encrypt_state_events", "io.element.msc4362.encrypt_state_events"] {
        let (mut world, alice, bob, room) = two(22);
        let carol = world.add_device("carol");
        world.settle();
        world.invite(alice, &room, carol);
        world.join(carol, &room);
        let flags =
            [Some(json!(true)), None, Some(json!(false)), Some(json!(true)), Some(json!("yes"))];
        let mut sessions = Vec::new();
        for (n, flag) in flags.into_iter().enumerate() {
            let event = encryption(flag.map(|value| (name, value)));
            inject(&mut world, &room, event, &format!("flip{n}"));
            world.settle();
            world.restart(alice);
            for m in 0..3 {
                let text = format!("message {n} {m}");
                let sent = world.send(alice, &room, &text);
                let event = raw(&world, &room, &sent);
                assert_eq!(event["type"], "m.room.encrypted");
                sessions.push(event["content"]["session_id"].to_string());
                assert_eq!(world.text(bob, &room, &sent), Ok(text));
            }
        }
        for three in sessions.windows(4) {
            assert_ne!(three[0], three[3], "a session serves three messages");
        }
        // Clear state still counts.
        world.kick(alice, &room, carol);
        world.settle();
        let after = world.send(alice, &room, "without her");
        assert_eq!(world.text(bob, &room, &after).as_deref(), Ok("without her"));
        let event = raw(&world, &room, &after);
        single(&mut world, carol, &room, &event);
        assert!(world.text(carol, &room, &after).is_err());
        clean(&world);
    }
}

/// N25, N29: encrypted state is not understood here. It shows as what it is, is no state, and the rest of the sync goes on.
#[test]
fn n25_encrypted_state_is_neither_state_nor_a_message() {
    let (mut world, alice, bob, room) = two(23);
    let flag = encryption(Some(("encrypt_state_events", json!(true))));
    inject(&mut world, &room, flag, "flag");
    let genuine = world.send(bob, &room, "a message");
    let genuine = raw(&world, &room, &genuine);
    for (n, key) in ["m.room.member:@bob:world.test", "m.room.encryption:", "m.room.name:", ""]
        .iter()
        .enumerate()
    {
        let mut state = genuine.clone();
        state["state_key"] = json!(key);
        let event = inject(&mut world, &room, state, &format!("state{n}"));
        world.settle();
        assert_eq!(shown(&mut world, alice, &room, &event).1, Err(Utd::UnsupportedAlgorithm));
    }
    let sent = world.send(alice, &room, "as ever");
    assert_eq!(world.text(bob, &room, &sent).as_deref(), Ok("as ever"));
    clean(&world);
}
