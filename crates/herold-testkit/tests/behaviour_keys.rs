//! Required behaviour: how long a room key serves, and whom it reaches.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod behaviour_common;

use behaviour_common::{
    block, clean, distinct, known_devices, log_length, put_state, seconds, sent_to, session,
    sessions_of, turn_back,
};
use herold::{DecryptTrust, OwnedRoomId, Policy, Recipients};
use herold_testkit::World;
use serde_json::json;

fn two(seed: u64, rotation: serde_json::Value) -> (World, usize, usize, OwnedRoomId) {
    let mut world = World::new(seed);
    let (alice, bob) = (world.add_device("alice"), world.add_device("bob"));
    let room = world.make_room_with(&[alice, bob], rotation, "shared");
    (world, alice, bob, room)
}

/// Behaviour 10.
#[test]
fn a_session_serves_as_many_messages_as_the_room_says_across_restarts() {
    let (mut world, alice, bob, room) = two(201, json!({ "rotation_period_msgs": 3 }));
    let mut events = Vec::new();
    for n in 0..7 {
        events.push(world.send(alice, &room, &format!("{n}")));
        world.restart(alice);
    }
    let sessions = sessions_of(&world, &room);
    assert_eq!(sessions.len(), 7);
    assert_eq!(distinct(&sessions[0..3]), 1);
    assert_eq!(distinct(&sessions[3..6]), 1);
    assert_eq!(distinct(&sessions), 3, "{sessions:?}");
    for (n, event) in events.iter().enumerate() {
        assert_eq!(world.text(bob, &room, event), Ok(n.to_string()));
    }
    clean(&world);
}

/// Behaviour 10.
#[test]
fn a_session_serves_as_long_as_the_room_says_across_restarts() {
    let two_hours = 2 * 3600 * 1000;
    let (mut world, alice, bob, room) = two(202, json!({ "rotation_period_ms": two_hours }));
    let first = world.send(alice, &room, "at once");
    world.clock.advance(seconds(3600));
    world.restart(alice);
    let second = world.send(alice, &room, "an hour later");
    world.clock.advance(seconds(3700));
    world.restart(alice);
    let third = world.send(alice, &room, "two hours later");
    assert_eq!(session(&world, &room, &first), session(&world, &room, &second));
    assert_ne!(session(&world, &room, &second), session(&world, &room, &third));
    assert_eq!(world.text(bob, &room, &third).as_deref(), Ok("two hours later"));
    clean(&world);
}

/// Behaviour 10.
#[test]
fn a_room_that_says_nonsense_about_rotation_rotates_neither_never_nor_always() {
    for nonsense in
        [json!(0), json!(-1), json!("3"), json!(0.5), json!(1e300), json!(null), json!([3])]
    {
        let rotation = json!({ "rotation_period_msgs": nonsense, "rotation_period_ms": nonsense });
        let (mut world, alice, _, room) = two(203, rotation);
        for n in 0..4 {
            world.send(alice, &room, &format!("{n}"));
        }
        assert_eq!(distinct(&sessions_of(&world, &room)), 1, "{nonsense}");
        world.clock.advance(seconds(8 * 24 * 3600));
        world.send(alice, &room, "a week later");
        assert_eq!(distinct(&sessions_of(&world, &room)), 2, "{nonsense}");
        clean(&world);
    }
}

/// Behaviour 10.
#[test]
fn a_hundred_messages_are_the_most_where_the_room_says_nonsense() {
    let (mut world, alice, bob, room) = two(204, json!({ "rotation_period_msgs": "never" }));
    for n in 0..101 {
        world.queue(alice, &room, &format!("{n}"));
    }
    world.settle();
    let sessions = sessions_of(&world, &room);
    assert_eq!(sessions.len(), 101);
    assert_eq!(distinct(&sessions[..100]), 1);
    assert_ne!(sessions[99], sessions[100]);
    let expected: Vec<String> = (0..101).map(|n| n.to_string()).collect();
    assert_eq!(world.texts(bob, &room), expected);
    clean(&world);
}

/// Behaviour 10.
#[test]
fn jumps_of_the_clock_are_harmless() {
    let (mut world, alice, bob, room) = two(205, json!({}));
    let first = world.send(alice, &room, "now");
    turn_back(&world, seconds(400 * 24 * 3600));
    let second = world.send(alice, &room, "a year ago");
    let third = world.send(alice, &room, "still a year ago");
    assert_eq!(session(&world, &room, &first), session(&world, &room, &second));
    assert_eq!(session(&world, &room, &second), session(&world, &room, &third));
    world.clock.advance(seconds(400 * 24 * 3600));
    let fourth = world.send(alice, &room, "now again");
    assert_eq!(session(&world, &room, &third), session(&world, &room, &fourth));
    world.clock.advance(seconds(4000 * 24 * 3600));
    world.send(alice, &room, "in ten years");
    assert_eq!(
        world.texts(bob, &room),
        ["now", "a year ago", "still a year ago", "now again", "in ten years"]
    );
    clean(&world);
}

/// Behaviour 10.
#[test]
fn a_failure_while_the_clock_was_far_ahead_holds_nothing_up_for_long() {
    let (mut world, alice, bob, room) = two(206, json!({}));
    world.send(alice, &room, "before");
    world.clock.advance(seconds(400 * 24 * 3600));
    world.queue(alice, &room, "while the clock was wrong");
    world.server.limit_requests(40, 1000);
    for _ in 0..4 {
        world.pump(alice);
    }
    world.server.limit_requests(0, 0);
    turn_back(&world, seconds(400 * 24 * 3600));
    for _ in 0..3 {
        world.clock.advance(seconds(4000));
        world.settle();
    }
    assert_eq!(world.texts(bob, &room), ["before", "while the clock was wrong"]);
    clean(&world);
}

/// Behaviour 11.
#[test]
fn new_devices_restarts_and_withheld_devices_keep_the_session() {
    let mut world = World::new(207);
    let alice = world.add_device("alice");
    let bob = world.add_device("bob");
    let room = world.make_room(&[alice, bob]);
    world.send(alice, &room, "one");
    let bob_2 = world.add_device("bob");
    world.settle();
    world.send(alice, &room, "two");
    let alice_2 = world.add_device("alice");
    world.restart(alice);
    world.settle();
    world.send(alice, &room, "three");
    // A device that cannot be reached is told so, and costs no session.
    world.tamper = Some(Box::new(|_, path, response| {
        if path.ends_with("/keys/claim") {
            response.body = b"{\"one_time_keys\":{}}".to_vec();
        }
    }));
    let bob_3 = world.add_device("bob");
    world.settle();
    world.send(alice, &room, "four");
    world.send(alice, &room, "five");
    world.tamper = None;
    world.clock.advance(seconds(600));
    world.settle();
    let last = world.send(alice, &room, "six");
    assert_eq!(distinct(&sessions_of(&world, &room)), 1);
    for device in [bob, bob_2, bob_3, alice_2] {
        assert_eq!(world.text(device, &room, &last).as_deref(), Ok("six"));
    }
    clean(&world);
}

/// Behaviour 11.
#[test]
fn devices_that_policy_excludes_are_told_once_and_keep_the_session() {
    let mut world = World::new(208);
    let strict = Policy { recipients: Recipients::OnlyTrusted, ..Policy::default() };
    let alice = world.add_device_with("alice", strict);
    let bob = world.add_device("bob");
    let room = world.make_room(&[alice, bob]);
    for n in 0..4 {
        world.send(alice, &room, &format!("{n}"));
        world.restart(alice);
        // Everything is looked at anew.
        let user = world.devices[bob].user_id.to_string();
        world.server.announce_devices(&user);
        world.add_device("bob");
        world.settle();
    }
    assert_eq!(distinct(&sessions_of(&world, &room)), 1);
    assert_eq!(sent_to(&world, bob, "m.room_key.withheld", 0).len(), 1);
    assert!(sent_to(&world, bob, "m.room.encrypted", 0).is_empty());
    clean(&world);
}

/// Behaviour 12.
#[test]
fn a_late_device_gets_the_key_from_its_own_index_on() {
    let (mut world, alice, bob, room) = two(209, json!({}));
    let first = world.send(alice, &room, "before");
    let late = world.add_device("bob");
    world.settle();
    let second = world.send(alice, &room, "after");
    assert_eq!(session(&world, &room, &first), session(&world, &room, &second));
    assert_eq!(world.text(late, &room, &first), Err("index_too_early".to_owned()));
    assert_eq!(world.text(late, &room, &second).as_deref(), Ok("after"));
    assert_eq!(world.text(bob, &room, &first).as_deref(), Ok("before"));
    clean(&world);
}

/// Behaviour 12: also after a restart, when the ratchet stands at the reserved index.
#[test]
fn a_late_device_after_a_restart_reads_the_next_message_and_no_earlier_one() {
    let (mut world, alice, _, room) = two(210, json!({}));
    let first = world.send(alice, &room, "before");
    world.restart(alice);
    let late = world.add_device("bob");
    world.settle();
    let second = world.send(alice, &room, "after");
    assert_eq!(session(&world, &room, &first), session(&world, &room, &second));
    assert_eq!(world.text(late, &room, &first), Err("index_too_early".to_owned()));
    assert_eq!(world.text(late, &room, &second).as_deref(), Ok("after"));
    clean(&world);
}

/// Behaviour 13 (and 8): what a stricter choice takes away is not given by the old key.
#[test]
fn a_new_session_follows_a_change_of_visibility_of_blocking_and_of_policy() {
    let (mut world, alice, bob, room) = two(211, json!({}));
    let bob_2 = world.add_device("bob");
    world.settle();
    let first = world.send(alice, &room, "first");
    let mut last = session(&world, &room, &first);
    let mut step = |world: &mut World, what: &str| {
        let event = world.send(alice, &room, what);
        let next = session(world, &room, &event);
        assert_ne!(next, last, "{what}");
        last = next;
        event
    };
    let joined = json!({ "history_visibility": "joined" });
    put_state(&mut world, alice, &room, "m.room.history_visibility", "", joined);
    world.settle();
    step(&mut world, "visibility");
    block(&mut world, alice, bob_2, true);
    let before = log_length(&world);
    let event = step(&mut world, "blocked");
    assert!(sent_to(&world, bob_2, "m.room.encrypted", before).is_empty());
    assert_eq!(world.text(bob, &room, &event).as_deref(), Ok("blocked"));
    assert_eq!(world.text(bob_2, &room, &event), Err("withheld:m.blacklisted".to_owned()));
    world
        .command(alice, |engine| {
            engine.step(|machine, snapshot, cx| {
                machine.set_policy(snapshot, cx, Recipients::OnlyTrusted, DecryptTrust::Any)
            })
        })
        .unwrap();
    let before = log_length(&world);
    let event = step(&mut world, "policy");
    assert!(sent_to(&world, bob, "m.room.encrypted", before).is_empty());
    assert!(world.text(bob, &room, &event).is_err());
    clean(&world);
}

/// Behaviours 11 and 33: a name change of a device is no reason for a new session.
#[test]
fn a_device_that_is_renamed_keeps_the_session() {
    let (mut world, alice, bob, room) = two(212, json!({}));
    let first = world.send(alice, &room, "one");
    let path = format!("/_matrix/client/v3/devices/{}", world.devices[bob].device_id);
    world.call(Some(bob), "PUT", &path, json!({ "display_name": "a new name" }));
    world.settle();
    let bob_id = world.devices[bob].user_id.clone();
    assert!(!known_devices(&mut world, alice, &bob_id).outdated);
    let second = world.send(alice, &room, "two");
    assert_eq!(session(&world, &room, &first), session(&world, &room, &second));
    clean(&world);
}
