//! Required behaviour: round trips, membership, what a room's content may be.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod behaviour_common;

use behaviour_common::{
    act, clean, contains_text, fail, known_devices, log_length, on_server, path, put_state, redact,
    requests, sent_to, session,
};
use herold::{Membership, OwnedEventId, OwnedRoomId};
use herold_testkit::World;
use serde_json::{Value, json};

/// Queues an event, lets the world settle, and answers its id.
fn send(
    world: &mut World,
    device: usize,
    room: &OwnedRoomId,
    kind: &str,
    content: &Value,
) -> OwnedEventId {
    let txn_id = world.queue_event(device, room, kind, content).unwrap();
    world.settle();
    world.sent(device, &txn_id).unwrap_or_else(|| panic!("{kind} was not sent"))
}

/// The clear type and content as a device shows them.
fn shown(
    world: &mut World,
    device: usize,
    room: &OwnedRoomId,
    event: &OwnedEventId,
) -> (String, Value) {
    let body = world.event(device, room, event).unwrap().body.unwrap();
    (body.event_type, serde_json::from_str(&body.content).unwrap())
}

/// Behaviour 1.
#[test]
fn every_kind_of_content_arrives_exactly_as_it_was_and_again_after_both_restart() {
    let mut world = World::new(101);
    let (alice, bob) = (world.add_device("alice"), world.add_device("bob"));
    let room = world.make_room(&[alice, bob]);
    let long = "long text ".repeat(4500);
    let contents = [
        ("m.room.message", json!({ "msgtype": "m.text", "body": "👩‍👩‍👧‍👦 ✓ \u{202e}\u{0}\u{feff}" })),
        ("m.room.message", json!({ "msgtype": "m.text", "body": long })),
        ("m.room.message", json!({ "msgtype": "m.text", "body": "" })),
        ("m.room.message", json!({})),
        (
            "org.example.custom/type\"\\",
            json!({
                "null": null, "list": [1, -1, 0, 9_007_199_254_740_991_i64, [], {}], "": "",
                "quote\"\\\n": { "deep": { "deeper": [true, false] } }, "type": "x", "room_id": 7,
            }),
        ),
    ];
    let mut events = Vec::new();
    for round in 0..2 {
        for (kind, content) in &contents {
            for (from, to) in [(alice, bob), (bob, alice)] {
                let event = send(&mut world, from, &room, kind, content);
                for device in [from, to] {
                    let expected = ((*kind).to_owned(), content.clone());
                    assert_eq!(shown(&mut world, device, &room, &event), expected, "{round}");
                }
                assert_eq!(on_server(&world, &room, &event)["type"], "m.room.encrypted");
                events.push((event, content.clone()));
            }
        }
        world.restart(alice);
        world.restart(bob);
        for (event, content) in &events {
            assert_eq!(&shown(&mut world, alice, &room, event).1, content);
            assert_eq!(&shown(&mut world, bob, &room, event).1, content);
        }
    }
    clean(&world);
}

/// Behaviour 2.
#[test]
fn a_message_sent_while_a_user_is_invited_is_readable_after_the_join() {
    for visibility in ["shared", "invited"] {
        let mut world = World::new(102);
        let (alice, bob) = (world.add_device("alice"), world.add_device("bob"));
        let carol = world.add_device("carol");
        let room = world.make_room_with(&[alice, bob], json!({}), visibility);
        world.invite(alice, &room, carol);
        world.settle();
        let event = world.send(alice, &room, "for the invited too");
        world.join(carol, &room);
        world.settle();
        assert_eq!(
            world.text(carol, &room, &event).as_deref(),
            Ok("for the invited too"),
            "{visibility}"
        );
        clean(&world);
    }
}

/// Behaviour 2.
#[test]
fn an_invited_user_gets_no_key_before_the_join_where_history_is_for_members_only() {
    let mut world = World::new(103);
    let (alice, bob) = (world.add_device("alice"), world.add_device("bob"));
    let carol = world.add_device("carol");
    let room = world.make_room_with(&[alice, bob], json!({}), "joined");
    world.send(bob, &room, "alone");
    world.invite(alice, &room, carol);
    world.settle();
    let (before, first) = (log_length(&world), world.send(alice, &room, "not for the invited"));
    assert!(sent_to(&world, carol, "m.room.encrypted", before).is_empty());
    world.join(carol, &room);
    world.settle();
    assert!(world.text(carol, &room, &first).is_err());
    let second = world.send(alice, &room, "for the member");
    assert_eq!(world.text(carol, &room, &second).as_deref(), Ok("for the member"));
    assert_eq!(world.text(bob, &room, &first).as_deref(), Ok("not for the invited"));
    clean(&world);
}

/// Behaviour 3.
#[test]
fn history_from_before_the_join_names_its_reason_and_is_not_asked_for_for_ever() {
    let mut world = World::new(104);
    let (alice, bob) = (world.add_device("alice"), world.add_device("bob"));
    let carol = world.add_device("carol");
    let room = world.make_room(&[alice, bob]);
    let old: Vec<_> = (0..3).map(|n| world.send(alice, &room, &format!("old {n}"))).collect();
    let before = log_length(&world);
    world.invite(alice, &room, carol);
    world.join(carol, &room);
    world.settle();
    let new = world.send(alice, &room, "new");
    for _ in 0..3 {
        world.clock.advance(behaviour_common::seconds(7200));
        world.restart(carol);
        world.settle();
    }
    for event in &old {
        let reason = world.text(carol, &room, event).unwrap_err();
        // The first session's key comes with the new message, from its own index on.
        assert!(["not_member_then", "index_too_early"].contains(&reason.as_str()), "{reason}");
    }
    assert_eq!(world.text(carol, &room, &new).as_deref(), Ok("new"));
    let log = &world.server.to_device_log()[before..];
    let asked = log.iter().filter(|message| message.event_type == "m.room_key_request").count();
    assert!(asked <= old.len(), "{asked} key requests");
    clean(&world);
}

/// Behaviour 3.
#[test]
fn history_from_before_the_join_is_not_called_waiting_when_no_key_ever_comes() {
    let mut world = World::new(105);
    let (alice, bob) = (world.add_device("alice"), world.add_device("bob"));
    let carol = world.add_device("carol");
    let room = world.make_room(&[alice, bob]);
    let old = world.send(alice, &room, "old");
    world.invite(alice, &room, carol);
    world.join(carol, &room);
    world.settle();
    assert_eq!(world.text(carol, &room, &old), Err("not_member_then".to_owned()));
    clean(&world);
}

/// Behaviours 4 and 8.
#[test]
fn what_was_sent_during_an_absence_stays_unreadable_after_the_return() {
    let mut world = World::new(106);
    let (alice, bob) = (world.add_device("alice"), world.add_device("bob"));
    let carol = world.add_device("carol");
    let room = world.make_room(&[alice, bob, carol]);
    let before = world.send(alice, &room, "before");
    world.leave(bob, &room);
    world.settle();
    let away = world.send(alice, &room, "away");
    world.invite(alice, &room, bob);
    world.join(bob, &room);
    world.settle();
    let back = world.send(alice, &room, "back");
    assert_eq!(world.text(bob, &room, &before).as_deref(), Ok("before"));
    let reason = world.text(bob, &room, &away).unwrap_err();
    assert!(["not_member_then", "index_too_early"].contains(&reason.as_str()), "{reason}");
    assert_eq!(world.text(bob, &room, &back).as_deref(), Ok("back"));
    for (event, text) in [(&before, "before"), (&away, "away"), (&back, "back")] {
        assert_eq!(world.text(carol, &room, event).as_deref(), Ok(text));
    }
    clean(&world);
}

/// Behaviour 6.
#[test]
fn a_message_right_after_an_accepted_invitation_reaches_the_invited() {
    let mut world = World::new(107);
    let (alice, bob) = (world.add_device("alice"), world.add_device("bob"));
    let carol = world.add_device("carol");
    let room = world.make_room(&[alice, bob]);
    world.send(alice, &room, "an earlier one");
    world.invite(alice, &room, carol);
    let carol_id = world.devices[carol].user_id.clone();
    world
        .command(alice, |engine| {
            engine.step(|machine, snapshot, cx| {
                machine.note_membership(snapshot, cx, &room, &carol_id, Membership::Invite)
            })
        })
        .unwrap();
    let txn_id = world.queue(alice, &room, "welcome");
    // No sync of the inviter's before the message is out.
    while world.pump(alice) {}
    world.set_online(alice, false);
    world.settle();
    let event = world.sent(alice, &txn_id).expect("sent without a sync");
    world.join(carol, &room);
    world.settle();
    assert_eq!(world.text(carol, &room, &event).as_deref(), Ok("welcome"));
    clean(&world);
}

/// Behaviour 7.
#[test]
fn edits_replies_threads_and_reactions_pass_through_exactly_and_can_be_related_to() {
    let mut world = World::new(108);
    let (alice, bob) = (world.add_device("alice"), world.add_device("bob"));
    let room = world.make_room(&[alice, bob]);
    let first = world.send(alice, &room, "frist");
    let related = [
        (
            "m.room.message",
            json!({
                "msgtype": "m.text", "body": "* first",
                "m.new_content": { "msgtype": "m.text", "body": "first" },
                "m.relates_to": { "rel_type": "m.replace", "event_id": first },
            }),
        ),
        (
            "m.room.message",
            json!({
                "msgtype": "m.text", "body": "a reply",
                "m.relates_to": { "m.in_reply_to": { "event_id": first } },
            }),
        ),
        (
            "m.room.message",
            json!({
                "msgtype": "m.text", "body": "in a thread",
                "m.relates_to": {
                    "rel_type": "m.thread", "event_id": first, "is_falling_back": true,
                    "m.in_reply_to": { "event_id": first },
                },
            }),
        ),
        (
            "m.reaction",
            json!({
                "m.relates_to": { "rel_type": "m.annotation", "event_id": first, "key": "👍" },
            }),
        ),
    ];
    for (kind, content) in &related {
        let event = send(&mut world, alice, &room, kind, content);
        for device in [alice, bob] {
            let expected = ((*kind).to_owned(), content.clone());
            assert_eq!(shown(&mut world, device, &room, &event), expected);
        }
        // The server sees the relation, so that it can find it, and nothing else.
        let outside = on_server(&world, &room, &event)["content"].clone();
        assert_eq!(outside["m.relates_to"], content["m.relates_to"]);
        for name in ["body", "m.new_content", "msgtype"] {
            assert!(outside.get(name).is_none(), "{name} in the open");
        }
    }
    clean(&world);
}

/// Behaviour 7.
#[test]
fn redacted_content_is_gone_from_every_device_and_every_disk() {
    let mut world = World::new(109);
    let (alice, bob) = (world.add_device("alice"), world.add_device("bob"));
    let room = world.make_room(&[alice, bob]);
    let secret = "a word much regretted";
    let event = world.send(alice, &room, secret);
    assert_eq!(world.text(bob, &room, &event).as_deref(), Ok(secret));
    assert!(contains_text(&world.devices[bob].disk.image(), secret));
    redact(&mut world, alice, &room, &event, "r1");
    world.settle();
    for device in [alice, bob] {
        assert_eq!(shown(&mut world, device, &room, &event).1, json!({}));
        assert!(!contains_text(&world.devices[device].disk.image(), secret));
    }
    world.restart(bob);
    assert_eq!(shown(&mut world, bob, &room, &event).1, json!({}));
    clean(&world);
}

/// Behaviour 7.
#[test]
fn a_redacted_message_does_not_come_back_when_its_key_comes_late() {
    let mut world = World::new(110);
    let (alice, bob) = (world.add_device("alice"), world.add_device("bob"));
    let room = world.make_room(&[alice, bob]);
    let keep_back = behaviour_common::Switch::default();
    let (on, held) = (keep_back.clone(), std::cell::RefCell::new(Vec::<Value>::new()));
    world.tamper = Some(Box::new(move |device, path, response| {
        if device != bob || !path.ends_with("/sync") {
            return;
        }
        behaviour_common::edit_json(response, |body| {
            if on.is_on() {
                let events = body["to_device"]["events"].as_array().cloned().unwrap_or_default();
                held.borrow_mut().extend(events);
                body["to_device"] = json!({ "events": [] });
            } else if !held.borrow().is_empty() {
                body["to_device"] = json!({ "events": held.take() });
            }
        });
    }));
    keep_back.set(true);
    let secret = "never to be seen";
    let redacted = world.send(alice, &room, secret);
    let kept = world.send(alice, &room, "kept");
    assert_eq!(world.text(bob, &room, &kept), Err("missing_key".to_owned()));
    redact(&mut world, alice, &room, &redacted, "r1");
    world.settle();
    keep_back.set(false);
    world.send(alice, &room, "the key comes along");
    assert_eq!(world.text(bob, &room, &kept).as_deref(), Ok("kept"));
    assert!(world.text(bob, &room, &redacted).map_or(true, |text| text.is_empty()));
    assert!(!contains_text(&world.devices[bob].disk.image(), secret));
    clean(&world);
}

/// Ends a membership of `whom` in one way.
fn end_membership(world: &mut World, how: &str, room: &OwnedRoomId, by: usize, whom: usize) {
    match how {
        "leave" | "reject" => world.leave(whom, room),
        "kick" | "withdraw" => world.kick(by, room, whom),
        _ => act(world, by, room, how, whom),
    }
}

/// Behaviour 8.
#[test]
fn a_new_session_is_used_after_every_way_to_go() {
    for (how, invited_only) in
        [("leave", false), ("kick", false), ("ban", false), ("reject", true), ("withdraw", true)]
    {
        for restart in [false, true] {
            let mut world = World::new(111);
            let (alice, bob) = (world.add_device("alice"), world.add_device("bob"));
            let carol = world.add_device("carol");
            let room = world.make_room(&[alice, bob]);
            world.invite(alice, &room, carol);
            if !invited_only {
                world.join(carol, &room);
            }
            world.settle();
            let first = world.send(alice, &room, "with carol");
            if restart {
                world.set_online(alice, false);
                world.restart(alice);
            }
            end_membership(&mut world, how, &room, alice, carol);
            world.settle();
            world.set_online(alice, true);
            world.settle();
            let before = log_length(&world);
            let second = world.send(alice, &room, "without carol");
            assert_ne!(
                session(&world, &room, &first),
                session(&world, &room, &second),
                "{how}, restart: {restart}"
            );
            assert!(sent_to(&world, carol, "m.room.encrypted", before).is_empty(), "{how}");
            assert_eq!(world.text(bob, &room, &second).as_deref(), Ok("without carol"));
            assert!(world.text(carol, &room, &second).is_err());
            clean(&world);
        }
    }
}

/// Behaviour 8.
#[test]
fn a_new_session_is_used_after_a_leave_that_a_sync_gap_hides() {
    for returns in [false, true] {
        let mut world = World::new(112);
        let (alice, bob) = (world.add_device("alice"), world.add_device("bob"));
        let carol = world.add_device("carol");
        let room = world.make_room(&[alice, bob, carol]);
        let first = world.send(alice, &room, "with carol");
        world.set_online(alice, false);
        world.leave(carol, &room);
        world.settle();
        if returns {
            world.invite(bob, &room, carol);
            world.join(carol, &room);
            world.settle();
        }
        world.server.force_gap(room.as_str());
        world.restart(alice);
        world.set_online(alice, true);
        world.settle();
        let (before, second) = (log_length(&world), world.send(alice, &room, "after the gap"));
        assert_ne!(session(&world, &room, &first), session(&world, &room, &second));
        assert_eq!(world.text(bob, &room, &second).as_deref(), Ok("after the gap"));
        let to_carol = sent_to(&world, carol, "m.room.encrypted", before);
        assert_eq!(to_carol.is_empty(), !returns);
        assert_eq!(world.text(carol, &room, &second).is_ok(), returns);
        clean(&world);
    }
}

/// Behaviour 34.
#[test]
fn a_returning_member_is_tracked_again() {
    let mut world = World::new(113);
    let (alice, bob) = (world.add_device("alice"), world.add_device("bob"));
    let room = world.make_room(&[alice, bob]);
    world.send(alice, &room, "first");
    let bob_id = world.devices[bob].user_id.clone();
    world.leave(bob, &room);
    world.settle();
    assert!(!known_devices(&mut world, alice, &bob_id).tracked);
    // Nobody tells alice of this one.
    let second_bob = world.add_device("bob");
    world.settle();
    world.invite(alice, &room, bob);
    world.join(bob, &room);
    world.settle();
    let event = world.send(alice, &room, "back together");
    assert!(known_devices(&mut world, alice, &bob_id).tracked);
    for device in [bob, second_bob] {
        assert_eq!(world.text(device, &room, &event).as_deref(), Ok("back together"));
    }
    clean(&world);
}

/// Behaviour 34.
#[test]
fn nothing_is_encrypted_before_the_member_list_is_complete() {
    let mut world = World::new(114);
    let (alice, bob) = (world.add_device("alice"), world.add_device("bob"));
    let carol = world.add_device("carol");
    let room = world.make_room(&[alice, bob]);
    world.send(alice, &room, "first");
    world.set_online(alice, false);
    world.invite(bob, &room, carol);
    world.join(carol, &room);
    world.settle();
    world.server.force_gap(room.as_str());
    world.set_online(alice, true);
    // The state of the gap does not name her, and the member list cannot be had at first.
    let broken = behaviour_common::Switch::default();
    broken.set(true);
    let (on, carol_id) = (broken.clone(), world.devices[carol].user_id.clone());
    world.tamper = Some(Box::new(move |device, path, response| {
        if device != alice {
            return;
        }
        if path.ends_with("/members") && on.is_on() {
            fail(response, 502);
        }
        if path.ends_with("/sync") {
            behaviour_common::edit_json(response, |body| {
                for room in body["rooms"]["join"].as_object_mut().into_iter().flatten() {
                    for part in ["state", "timeline"] {
                        if let Some(events) = room.1[part]["events"].as_array_mut() {
                            events.retain(|event| event["state_key"] != carol_id.as_str());
                        }
                    }
                }
            });
        }
    }));
    while world.sync(alice) {}
    let txn_id = world.queue(alice, &room, "to everybody");
    let from = world.server.requests().len();
    for _ in 0..30 {
        world.pump(alice);
        world.clock.advance(behaviour_common::seconds(2));
    }
    assert!(world.sent(alice, &txn_id).is_none(), "sent without knowing to whom");
    assert!(requests(&world, alice, "/members", from).len() > 1);
    broken.set(false);
    world.settle();
    let event = world.sent(alice, &txn_id).expect("sent at last");
    assert_eq!(world.text(bob, &room, &event).as_deref(), Ok("to everybody"));
    assert_eq!(world.text(carol, &room, &event).as_deref(), Ok("to everybody"));
    clean(&world);
}

/// Behaviours 8 and 11.
#[test]
fn what_is_no_change_of_membership_keeps_the_session() {
    let mut world = World::new(115);
    let (alice, bob) = (world.add_device("alice"), world.add_device("bob"));
    let room = world.make_room(&[alice, bob]);
    let first = world.send(alice, &room, "one");
    let bob_id = world.devices[bob].user_id.to_string();
    let profile =
        json!({ "membership": "join", "displayname": "Bobby", "avatar_url": "mxc://a/b" });
    put_state(&mut world, bob, &room, "m.room.member", &bob_id, profile);
    put_state(&mut world, alice, &room, "m.room.name", "", json!({ "name": "A new name" }));
    put_state(&mut world, alice, &room, "m.room.topic", "", json!({ "topic": "A new topic" }));
    world.call(Some(bob), "POST", &path(&room, "typing"), json!({}));
    world.settle();
    let second = world.send(alice, &room, "two");
    assert_eq!(session(&world, &room, &first), session(&world, &room, &second));
    clean(&world);
}
