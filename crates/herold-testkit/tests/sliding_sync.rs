//! Simplified sliding sync gives the same guarantees as sync v2: nothing lost by a kill, nobody given a key who
//! left unseen, nothing believed that the server changed.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod behaviour_common;

use behaviour_common::{
    act, answer, clean, due, log_length, next_sync, notices, path, perform, put_state, requests,
    sent_to, session, take, take_sync,
};
use herold::{HttpRequest, Membership, OwnedRoomId, Utd};
use herold_testkit::{Disk, World, homeserver::ServerResponse, kill_at_each_commit, open_policy};
use serde_json::{Value, json};

/// A world whose devices synchronise this way.
fn world(seed: u64) -> World {
    let mut world = World::new(seed);
    world.sliding = true;
    world
}

/// Alice and Bob in a room, one message each way.
fn two(seed: u64) -> (World, usize, usize, OwnedRoomId) {
    let mut world = world(seed);
    let alice = world.add_device("alice");
    let bob = world.add_device("bob");
    let room = world.make_room(&[alice, bob]);
    talk(&mut world, alice, &room, "from alice", &[bob]);
    talk(&mut world, bob, &room, "from bob", &[alice]);
    (world, alice, bob, room)
}

fn talk(world: &mut World, from: usize, room: &OwnedRoomId, text: &str, to: &[usize]) -> String {
    let event = world.send(from, room, text);
    for &reader in to {
        assert_eq!(world.text(reader, room, &event).as_deref(), Ok(text), "device {reader}");
    }
    session(world, room, &event)
}

fn sliding_request(world: &mut World, device: usize) -> HttpRequest {
    world
        .command(device, |engine| {
            engine.read(|machine, snapshot| machine.sliding_sync_request(snapshot, 0))
        })
        .expect("a request")
}

fn body_of(request: &HttpRequest) -> Value {
    match &request.body {
        herold::Body::Json(text) => serde_json::from_str(text).unwrap(),
        _ => Value::Null,
    }
}

fn pos_of(request: &HttpRequest) -> Option<String> {
    request.query.iter().find(|(name, _)| name == "pos").map(|(_, pos)| pos.clone())
}

/// The response that a device's next sliding sync would get.
fn next(world: &mut World, device: usize) -> Value {
    let request = sliding_request(world, device);
    world.call_http(device, &request)
}

/// Has a device take a response; the app acknowledges nothing.
fn take_sliding(world: &mut World, device: usize, response: &Value) {
    let response = response.to_string();
    let taken = world.command(device, |engine| {
        engine.step(|machine, snapshot, cx| {
            machine.handle_sliding_sync(snapshot, cx, response.as_bytes())
        })
    });
    taken.expect("the response is taken");
}

fn unknown_pos(world: &mut World, device: usize) {
    world
        .command(device, |engine| {
            engine.step(|machine, snapshot, cx| machine.handle_unknown_pos(snapshot, cx))
        })
        .expect("it lives");
}

/// Changes each response of this kind of sync that a device gets.
fn tamper(world: &mut World, device: usize, change: impl Fn(&mut Value) + 'static) {
    world.tamper = Some(Box::new(move |of, path: &str, response: &mut ServerResponse| {
        if of == device && path.ends_with("/sync") && response.status == 200 {
            let mut body: Value = serde_json::from_slice(&response.body).unwrap();
            change(&mut body);
            response.body = body.to_string().into_bytes();
        }
    }));
}

fn membership(world: &mut World, device: usize, room: &OwnedRoomId) -> Option<Membership> {
    let room = world
        .command(device, |engine| engine.read(|machine, snapshot| machine.room(snapshot, room)));
    room.expect("it lives").map(|room| room.membership)
}

#[test]
fn messages_go_both_ways_and_after_a_restart() {
    let (mut world, alice, bob, room) = two(1);
    world.restart(alice);
    world.restart(bob);
    let first = talk(&mut world, alice, &room, "after the restart", &[bob]);
    let second = talk(&mut world, alice, &room, "once more", &[bob]);
    assert_eq!(first, second, "no needless rotation");
    talk(&mut world, bob, &room, "back", &[alice]);
    assert_eq!(world.texts(alice, &room), world.texts(bob, &room));
    assert!(requests(&world, alice, "/v3/sync", 0).is_empty());
    clean(&world);
}

#[test]
fn devices_of_both_kinds_of_sync_talk_and_may_change_over() {
    let (mut world, alice, bob, room) = two(2);
    let carol = world.add_device("carol");
    world.devices[carol].sliding = false;
    world.invite(alice, &room, carol);
    world.join(carol, &room);
    world.settle();
    talk(&mut world, carol, &room, "by sync v2", &[alice, bob]);
    for (round, sliding) in [false, true, false, true].into_iter().enumerate() {
        // What comes while it changes over is not lost, and neither are devices that come.
        world.set_online(bob, false);
        let missed = world.send(alice, &room, "missed");
        let late = world.add_device("alice");
        world.devices[bob].sliding = sliding;
        world.set_online(bob, true);
        world.settle();
        assert_eq!(world.text(bob, &room, &missed).as_deref(), Ok("missed"), "round {round}");
        talk(&mut world, bob, &room, "changed over", &[alice, carol, late]);
        talk(&mut world, alice, &room, "and back", &[bob, carol]);
    }
    let texts = world.texts(bob, &room);
    assert_eq!(texts.iter().filter(|text| *text == "missed").count(), 4);
    clean(&world);
}

#[test]
fn conversation_survives_a_kill_at_each_commit() {
    fn story(world: &mut World, disks: &[Disk]) {
        world.sliding = true;
        let [alice, bob] = [("alice", 0), ("bob", 1)]
            .map(|(name, disk)| world.add_device_on(name, open_policy(), disks[disk].clone()));
        let room = world.make_room(&[alice, bob]);
        talk(world, alice, &room, "before", &[bob]);
        talk(world, bob, &room, "answer", &[alice]);
        world.leave(bob, &room);
        world.settle();
        let away = world.send(alice, &room, "away");
        world.invite(alice, &room, bob);
        world.join(bob, &room);
        world.settle();
        talk(world, alice, &room, "back", &[bob]);
        assert!(world.text(bob, &room, &away).is_err());
        assert_eq!(world.texts(alice, &room), ["before", "answer", "away", "back"]);
    }
    let kills = kill_at_each_commit(701, 2, story);
    assert!(kills > 60, "only {kills} kills");
}

#[test]
fn a_forgotten_position_survives_a_kill_at_each_commit() {
    fn story(world: &mut World, disks: &[Disk]) {
        world.sliding = true;
        let [alice, bob] = [("alice", 0), ("bob", 1)]
            .map(|(name, disk)| world.add_device_on(name, open_policy(), disks[disk].clone()));
        let room =
            world.make_room_with(&[alice, bob], json!({ "rotation_period_msgs": 1 }), "shared");
        world.set_online(bob, false);
        world.send(alice, &room, "one");
        world.send(alice, &room, "two");
        world.server.expire_connections(None);
        world.set_online(bob, true);
        world.settle();
        assert_eq!(world.texts(bob, &room), ["one", "two"]);
        talk(world, bob, &room, "three", &[alice]);
        assert_eq!(world.texts(alice, &room), ["one", "two", "three"]);
    }
    let kills = kill_at_each_commit(702, 2, story);
    assert!(kills > 60, "only {kills} kills");
}

/// Behaviour 8.
#[test]
fn a_leave_hidden_in_a_gap_is_followed_by_a_new_session() {
    for back in [false, true] {
        let (mut world, alice, bob, room) = two(3);
        let carol = world.add_device("carol");
        world.invite(alice, &room, carol);
        world.join(carol, &room);
        world.settle();
        let before = talk(&mut world, alice, &room, "to both", &[bob, carol]);
        world.set_online(alice, false);
        world.leave(carol, &room);
        if back {
            world.invite(bob, &room, carol);
            world.join(carol, &room);
        }
        world.settle();
        world.server.force_gap(room.as_str());
        let start = log_length(&world);
        world.set_online(alice, true);
        world.settle();
        let after = talk(&mut world, alice, &room, "after the gap", &[bob]);
        assert_ne!(before, after);
        assert_eq!(sent_to(&world, carol, "m.room.encrypted", start).is_empty(), !back);
        assert_eq!(world.texts(carol, &room).contains(&"after the gap".to_owned()), back);
        clean(&world);
    }
}

/// The same, with a member list that was asked for before the gap, and answered after it.
#[test]
fn a_member_list_from_before_a_gap_is_not_taken_after_it() {
    for sliding in [true, false] {
        let mut world = world(4);
        world.sliding = sliding;
        let alice = world.add_device("alice");
        let bob = world.add_device("bob");
        let carol = world.add_device("carol");
        let room = world.make_room(&[alice, bob, carol]);
        // Many more messages than a timeline holds: there is no full list to begin with.
        world.server.force_gap(room.as_str());
        world.settle();
        let start = log_length(&world);
        world.queue(alice, &room, "careful");
        let mut asked = due(&mut world, alice);
        let members = take(&mut asked, "members");
        let early = perform(&mut world, alice, &members);
        world.leave(carol, &room);
        world.server.force_gap(room.as_str());
        world.sync(alice);
        answer(&mut world, alice, &members, Some(&early));
        for request in asked {
            let response = perform(&mut world, alice, &request);
            answer(&mut world, alice, &request, Some(&response));
        }
        world.settle();
        assert_eq!(world.texts(bob, &room), ["careful"], "sliding: {sliding}");
        assert!(sent_to(&world, carol, "m.room.encrypted", start).is_empty(), "{sliding}");
        clean(&world);
    }
}

/// Behaviours 8, 25, 32 and 33.
#[test]
fn a_forgotten_position_loses_no_message_and_gives_nobody_gone_a_key() {
    let (mut world, alice, bob, room) = two(5);
    let carol = world.add_device("carol");
    world.invite(alice, &room, carol);
    world.join(carol, &room);
    world.settle();
    let before = talk(&mut world, alice, &room, "to both", &[bob, carol]);
    world.set_online(alice, false);
    world.leave(carol, &room);
    let late = world.add_device("bob");
    let missed = world.send(bob, &room, "missed");
    world.server.expire_connections(None);
    let start = log_length(&world);
    world.set_online(alice, true);
    // The device learns of it, and dies before the new connection has told anything.
    assert!(world.sync(alice));
    assert_eq!(pos_of(&sliding_request(&mut world, alice)), None);
    let since = body_of(&sliding_request(&mut world, alice));
    assert!(since["extensions"]["to_device"]["since"].is_string(), "{since}");
    world.restart(alice);
    let after = talk(&mut world, alice, &room, "after", &[bob, late]);
    assert_ne!(before, after);
    assert_eq!(world.text(alice, &room, &missed).as_deref(), Ok("missed"));
    assert!(sent_to(&world, carol, "m.room.encrypted", start).is_empty());
    assert_eq!(notices(&world, alice, "sync_starts_over").len(), 1);
    clean(&world);
}

/// Changed device lists come relative to a position: what changed before the new one's first response is
/// never told.
#[test]
fn a_device_that_comes_before_the_new_connection_is_noticed() {
    let (mut world, alice, bob, room) = two(6);
    unknown_pos(&mut world, alice);
    for _ in 0..5 {
        world.pump(alice); // Bob's devices have been asked for...
    }
    let late = world.add_device("bob"); // ...and are others now
    world.pump(late);
    let event = world.send(alice, &room, "to all");
    for device in [bob, late] {
        assert_eq!(world.text(device, &room, &event).as_deref(), Ok("to all"));
    }
    clean(&world);
}

/// Behaviour 26: and the token of the messages stands for what is committed.
#[test]
fn to_device_messages_repeat_until_the_token_says_they_were_taken() {
    let (mut world, alice, bob, room) = two(7);
    world.set_online(bob, false);
    world.command(alice, |engine| {
        engine.step(|machine, snapshot, cx| machine.discard_room_key(snapshot, cx, &room))
    });
    let event = world.send(alice, &room, "with a new key");
    let first = next(&mut world, bob);
    let again = next(&mut world, bob);
    let events = |response: &Value| response["extensions"]["to_device"]["events"].clone();
    assert_eq!(events(&first).as_array().unwrap().len(), 1);
    assert_eq!(events(&first), events(&again));
    // The server knows the position it was asked from and the one it answered with.
    take_sliding(&mut world, bob, &again);
    take_sliding(&mut world, bob, &again);
    assert_eq!(world.text(bob, &room, &event).as_deref(), Ok("with a new key"));
    let request = body_of(&sliding_request(&mut world, bob));
    let token = &again["extensions"]["to_device"]["next_batch"];
    assert_eq!(&request["extensions"]["to_device"]["since"], token);
    assert!(events(&next(&mut world, bob)).as_array().unwrap().is_empty());
    // The same message once more, by the other kind of sync.
    take_sync(
        &mut world,
        bob,
        &json!({ "next_batch": "s1", "to_device": { "events": events(&first) } }),
    );
    world.set_online(bob, true);
    world.settle();
    assert!(notices(&world, bob, "to_device_dropped").is_empty());
    talk(&mut world, bob, &room, "fine", &[alice]);
    clean(&world);
}

/// A list that keeps growing until all rooms are there; later connections ask for all of them at once.
#[test]
fn all_rooms_come_however_many_there_are() {
    let mut world = world(8);
    let alice = world.add_device("alice");
    let bob = world.add_device("bob");
    world.set_online(bob, false);
    let rooms: Vec<OwnedRoomId> = (0..25).map(|_| world.make_room(&[alice, bob])).collect();
    let asked = |world: &mut World| body_of(&sliding_request(world, bob))["lists"]["all"].clone();
    assert_eq!(asked(&mut world)["ranges"], json!([[0, 19]]));
    world.set_online(bob, true);
    world.sync(bob);
    assert_eq!(asked(&mut world)["ranges"], json!([[0, 99]]));
    world.settle();
    assert_eq!(asked(&mut world)["ranges"], json!([[0, 999_999]]));
    for room in &rooms {
        assert_eq!(membership(&mut world, bob, room), Some(Membership::Join));
    }
    talk(&mut world, bob, &rooms[0], "in the oldest", &[alice]);
    world.server.expire_connections(None);
    world.settle();
    assert_eq!(asked(&mut world)["ranges"], json!([[0, 999_999]]));
    talk(&mut world, alice, &rooms[0], "and back", &[bob]);
    clean(&world);
}

#[test]
fn invitations_leaves_kicks_and_bans_are_told() {
    let (mut world, alice, bob, room) = two(9);
    let carol = world.add_device("carol");
    world.invite(alice, &room, carol);
    world.settle();
    assert_eq!(membership(&mut world, carol, &room), Some(Membership::Invite));
    world.leave(carol, &room);
    world.settle();
    assert_eq!(membership(&mut world, carol, &room), Some(Membership::Leave), "rejected");
    world.invite(alice, &room, carol);
    world.join(carol, &room);
    world.settle();
    assert_eq!(membership(&mut world, carol, &room), Some(Membership::Join));
    talk(&mut world, carol, &room, "hello", &[alice, bob]);
    world.kick(alice, &room, carol);
    world.settle();
    assert_eq!(membership(&mut world, carol, &room), Some(Membership::Leave), "kicked");
    let refused = world.queue_event(carol, &room, "m.room.message", &json!({}));
    assert!(refused.is_err());
    act(&mut world, alice, &room, "ban", bob);
    world.settle();
    assert_eq!(membership(&mut world, bob, &room), Some(Membership::Leave), "banned");
    clean(&world);
}

#[test]
fn a_kick_seen_only_by_a_new_connection_counts() {
    let (mut world, alice, bob, room) = two(10);
    world.set_online(bob, false);
    world.kick(alice, &room, bob);
    world.server.expire_connections(None);
    world.set_online(bob, true);
    world.settle();
    assert_eq!(membership(&mut world, bob, &room), Some(Membership::Leave));
    clean(&world);
}

/// The server does not list a room that its user has left.
#[test]
fn a_room_left_by_another_device_is_left_after_a_new_connection() {
    let (mut world, alice, bob, room) = two(16);
    let kept = world.make_room(&[alice, bob]);
    let other = world.add_device("bob");
    world.settle();
    let invited = world.make_room(&[alice]);
    world.invite(alice, &invited, bob);
    world.settle();
    assert_eq!(membership(&mut world, bob, &invited), Some(Membership::Invite));
    world.set_online(bob, false);
    world.leave(other, &room);
    world.leave(other, &invited);
    world.settle();
    world.server.expire_connections(None);
    world.set_online(bob, true);
    // A response whose rooms cannot be read says nothing of them.
    tamper(&mut world, bob, |body| body["rooms"] = json!([]));
    world.sync(bob);
    world.sync(bob);
    world.tamper = None;
    assert_eq!(membership(&mut world, bob, &room), Some(Membership::Join));
    world.server.expire_connections(None);
    world.settle();
    for left in [&room, &invited] {
        assert_eq!(membership(&mut world, bob, left), Some(Membership::Leave));
    }
    talk(&mut world, bob, &kept, "here", &[alice]);
    clean(&world);
}

#[test]
fn a_room_that_becomes_encrypted_stays_so() {
    let mut world = world(11);
    let alice = world.add_device("alice");
    let bob = world.add_device("bob");
    let room = world.call(Some(alice), "POST", "/_matrix/client/v3/createRoom", json!({}));
    let room: OwnedRoomId = room["room_id"].as_str().unwrap().try_into().unwrap();
    world.invite(alice, &room, bob);
    world.join(bob, &room);
    world.settle();
    let clear = world.send(alice, &room, "clear");
    world.set_online(alice, false);
    let settings = json!({ "algorithm": "m.megolm.v1.aes-sha2" });
    put_state(&mut world, alice, &room, "m.room.encryption", "", settings);
    world.server.force_gap(room.as_str());
    world.set_online(alice, true);
    world.settle();
    talk(&mut world, alice, &room, "encrypted", &[bob]);
    let clear = world.event(bob, &room, &clear).unwrap();
    assert_eq!(clear.shield, herold::Shield::None, "it was sent before encryption was on");
    // Attack N29: a later response without the event, or with another one.
    tamper(&mut world, alice, |body| {
        for (_, room) in body["rooms"].as_object_mut().unwrap() {
            room["initial"] = json!(true);
            room["required_state"] = json!([{ "type": "m.room.encryption", "state_key": "",
                "event_id": "$other", "sender": "@bob:world.test", "content": { "algorithm": "none" } }]);
        }
    });
    world.send(bob, &room, "more");
    world.tamper = None;
    talk(&mut world, alice, &room, "still encrypted", &[bob]);
    clean(&world);
}

/// Attack N13.
#[test]
fn another_sender_is_not_believed() {
    let (mut world, alice, bob, room) = two(12);
    world.set_online(bob, false);
    let event = world.send(alice, &room, "from Alice");
    let id = event.to_string();
    tamper(&mut world, bob, move |body| {
        for (_, room) in body["rooms"].as_object_mut().unwrap() {
            for event in room["timeline"].as_array_mut().unwrap() {
                if event["event_id"] == id.as_str() {
                    event["sender"] = json!("@carol:world.test");
                }
            }
        }
    });
    world.set_online(bob, true);
    world.settle();
    world.tamper = None;
    for _ in 0..2 {
        let shown = world.event(bob, &room, &event).unwrap();
        assert_eq!(shown.body.unwrap_err(), Utd::SenderUntrusted);
        world.restart(bob);
    }
    talk(&mut world, alice, &room, "again", &[bob]);
    clean(&world);
}

fn set(body: &mut Value, path: &[String], value: &Value) {
    let mut at = body;
    for part in path {
        if !at.is_object() {
            *at = json!({});
        }
        at = &mut at[part.as_str()];
    }
    *at = value.clone();
}

/// Attack N38: every field that is read, with every wrong type. The other room's message in the response
/// decrypts, the position advances, and afterwards everything works.
#[test]
fn a_poisoned_field_costs_no_other_room_a_message() {
    let values = [
        json!([]),
        json!({}),
        json!("text"),
        json!(-1),
        json!(1.5),
        json!(true),
        Value::Null,
        json!([null, 1, "x", [], {}, { "type": 5 }, { "type": "m.room.member", "state_key": 7 }]),
        json!({ "events": { "a": 1 }, "next_batch": [] }),
        json!({ "count": "many" }),
        (0..500).fold(json!(1), |inner, _| json!([inner])),
    ];
    let room_fields = [
        "",
        "membership",
        "initial",
        "limited",
        "unstable_expanded_timeline",
        "prev_batch",
        "required_state",
        "timeline",
        "num_live",
    ];
    let mut paths: Vec<Vec<String>> = [
        &["lists"][..],
        &["lists", "all"],
        &["lists", "all", "count"],
        &["extensions", "e2ee"],
        &["extensions", "e2ee", "device_lists"],
        &["extensions", "e2ee", "device_lists", "changed"],
        &["extensions", "e2ee", "device_one_time_keys_count"],
        &["extensions", "e2ee", "device_unused_fallback_key_types"],
        &["extensions", "receipts"],
        &["rooms", "!x:world.test"],
        &["rooms", "!x:world.test", "invite_state"],
    ]
    .iter()
    .map(|path| path.iter().map(|part| (*part).to_owned()).collect())
    .collect();
    let (mut world, alice, bob, poisoned) = two(13);
    let honest = world.make_room(&[alice, bob]);
    talk(&mut world, bob, &honest, "warm", &[alice]);
    for field in room_fields {
        let path = ["rooms", poisoned.as_str(), field];
        paths.push(path.iter().filter(|part| !part.is_empty()).map(|p| (*p).to_owned()).collect());
    }
    for path in &paths {
        for value in &values {
            let what =
                format!("{path:?} = {}", value.to_string().chars().take(60).collect::<String>());
            world.set_online(alice, false);
            world.send(bob, &poisoned, "among the poison");
            let sent = world.send(bob, &honest, "beside the poison");
            let before = pos_of(&sliding_request(&mut world, alice));
            let mut response = next(&mut world, alice);
            set(&mut response, path, value);
            take_sliding(&mut world, alice, &response);
            let after = pos_of(&sliding_request(&mut world, alice));
            assert_ne!(before, after, "{what}: the position does not advance");
            assert_eq!(
                world.text(alice, &honest, &sent).as_deref(),
                Ok("beside the poison"),
                "{what}"
            );
            world.set_online(alice, true);
            let sent = world.send(bob, &poisoned, "after the poison");
            if world.text(alice, &poisoned, &sent).is_err() {
                // What was made of the room is that we have left it: so the server says.
                let left = membership(&mut world, alice, &poisoned);
                panic!("{what}: {left:?}");
            }
            let back = world.send(alice, &honest, "answer");
            assert_eq!(world.text(bob, &honest, &back).as_deref(), Ok("answer"), "{what}");
        }
    }
    // To-device messages that cannot be read are gone with their token; without one they come again.
    for (field, kept) in [("next_batch", true), ("events", false)] {
        world.set_online(alice, false);
        world.command(bob, |engine| {
            engine.step(|machine, snapshot, cx| machine.discard_room_key(snapshot, cx, &honest))
        });
        let sent = world.send(bob, &honest, "with a new key");
        let mut response = next(&mut world, alice);
        response["extensions"]["to_device"][field] = json!(7);
        if kept {
            response["extensions"]["to_device"]["events"] = json!([]);
        }
        take_sliding(&mut world, alice, &response);
        world.set_online(alice, true);
        world.settle();
        assert_eq!(world.text(alice, &honest, &sent).is_ok(), kept, "{field}");
    }
    clean(&world);
}

#[test]
fn a_response_without_a_position_changes_nothing() {
    let (mut world, alice, bob, room) = two(14);
    world.set_online(bob, false);
    let event = world.send(alice, &room, "later");
    for pos in [Value::Null, json!(7), json!({})] {
        let mut response = next(&mut world, bob);
        response["pos"] = pos;
        let response = response.to_string();
        let commits = world.devices[bob].disk.commits();
        let taken = world.command(bob, |engine| {
            engine.step(|machine, snapshot, cx| {
                machine.handle_sliding_sync(snapshot, cx, response.as_bytes())
            })
        });
        assert!(taken.is_none());
        assert_eq!(world.devices[bob].disk.commits(), commits);
    }
    world.set_online(bob, true);
    world.settle();
    assert_eq!(world.text(bob, &room, &event).as_deref(), Ok("later"));
    clean(&world);
}

/// Behaviour 11: the session stays where nothing was missed.
#[test]
fn changes_of_profile_and_quiet_time_keep_the_session_and_the_member_list() {
    let (mut world, alice, bob, room) = two(15);
    let before = talk(&mut world, alice, &room, "one", &[bob]);
    let members = requests(&world, alice, "/members", 0).len();
    let user = world.devices[bob].user_id.clone();
    let profile = json!({ "membership": "join", "displayname": "Robert" });
    put_state(&mut world, bob, &room, "m.room.member", user.as_str(), profile);
    for _ in 0..3 {
        world.settle();
        world.restart(alice);
    }
    let after = talk(&mut world, alice, &room, "two", &[bob]);
    assert_eq!(before, after);
    assert_eq!(requests(&world, alice, "/members", 0).len(), members);
    let invited = world.add_device("carol");
    world.invite(bob, &room, invited);
    world.join(invited, &room);
    world.settle();
    talk(&mut world, alice, &room, "three", &[bob, invited]);
    assert_eq!(requests(&world, alice, "/members", 0).len(), members, "changes are told");
    let _ = (path(&room, "x"), next_sync(&mut world, alice));
    clean(&world);
}
