//! Behaviours 14, 15 and 20: a device that could not be reached gets what it has missed when it can be, also
//! where the session was replaced in between; and nothing that was not for it.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod behaviour_common;

use behaviour_common::{
    Switch, block, clean, distinct, known_devices, log_out, seconds, session, sessions_of,
};
use herold::{OwnedEventId, OwnedRoomId};
use herold_store::{SnapshotExt as _, records::RetiredSessionRecord};
use herold_testkit::{Disk, Kill, World, open_policy};
use serde_json::json;

/// Alice and Bob, whose server does not answer, in a room with one session for each message.
fn out_of_reach(seed: u64, disk: Disk) -> (World, usize, usize, OwnedRoomId) {
    let mut world = World::new(seed);
    let alice = world.add_device_on("alice", open_policy(), disk);
    let bob = world.add_device("@bob:away.test");
    let rotation = json!({ "rotation_period_msgs": 1 });
    let room = world.make_room_with(&[alice, bob], rotation, "shared");
    world.server.fail_servers(vec!["away.test".to_owned()]);
    (world, alice, bob, room)
}

fn back(world: &mut World) {
    world.server.fail_servers(Vec::new());
    world.clock.advance(seconds(600));
    world.settle();
}

/// How many replaced sessions somebody is still to be given.
fn owed(world: &World, device: usize) -> usize {
    let rows = world.devices[device].disk.image().list::<RetiredSessionRecord>(&[], usize::MAX);
    rows.expect("a memory store can be read").iter().filter(|(_, session)| session.owed).count()
}

fn unread(world: &mut World, device: usize, room: &OwnedRoomId, events: &[OwnedEventId]) -> usize {
    events.iter().filter(|event| world.text(device, room, event).is_err()).count()
}

#[test]
fn a_device_reached_late_reads_all_that_was_sent_under_several_sessions() {
    for power_loss in [false, true] {
        let (mut world, alice, bob, room) = out_of_reach(1, Disk::new());
        let sent: Vec<_> = (0..4).map(|n| world.send(alice, &room, &format!("{n}"))).collect();
        assert_eq!(distinct(&sessions_of(&world, &room)), 4);
        assert_eq!(unread(&mut world, bob, &room, &sent), 4);
        if power_loss {
            world.lose_power(alice);
        } else {
            world.restart(alice);
        }
        back(&mut world);
        assert_eq!(unread(&mut world, bob, &room, &sent), 0);
        // Nobody is owed anything any more.
        assert_eq!(owed(&world, alice), 0);
        clean(&world);
    }
}

#[test]
fn what_a_late_device_is_owed_survives_a_kill_at_each_commit() {
    let story = |disk: Disk| -> (World, usize) {
        let (mut world, alice, bob, room) = out_of_reach(2, disk);
        let txns: Vec<_> = (0..2).map(|n| world.queue(alice, &room, &format!("{n}"))).collect();
        world.settle();
        back(&mut world);
        for txn in txns {
            let event = world.sent(alice, &txn).expect("sent");
            assert!(world.text(bob, &room, &event).is_ok());
        }
        assert_eq!(owed(&world, alice), 0);
        clean(&world);
        (world, alice)
    };
    let (world, alice) = story(Disk::new());
    let commits = world.devices[alice].disk.commits();
    let mut deaths = 0;
    for commit in 0..commits {
        for kill in [Kill::Before(commit), Kill::After(commit)] {
            let disk = Disk::new();
            disk.kill(kill);
            let (world, alice) = story(disk);
            deaths += world.devices[alice].deaths;
        }
    }
    assert!(u64::from(deaths) > commits);
}

/// A device of Bob's that is new while nobody can claim its keys.
fn new_and_out_of_reach(world: &mut World, alice: usize, room: &OwnedRoomId) -> (usize, Switch) {
    let closed = Switch::default();
    closed.set(true);
    let on = closed.clone();
    world.tamper = Some(Box::new(move |_, path, response| {
        if on.is_on() && path.ends_with("/keys/claim") {
            response.body = b"{\"one_time_keys\":{}}".to_vec();
        }
    }));
    let late = world.add_device("bob");
    world.settle();
    world.send(alice, room, "nobody's business");
    (late, closed)
}

fn replace(world: &mut World, alice: usize, room: &OwnedRoomId) {
    let replaced = world.command(alice, |engine| {
        engine.step(|machine, snapshot, cx| machine.discard_room_key(snapshot, cx, room))
    });
    replaced.expect("a session can be ended");
}

fn open(world: &mut World, closed: &Switch) {
    closed.set(false);
    world.clock.advance(seconds(600));
    world.settle();
}

#[test]
fn a_late_device_gets_a_replaced_session_from_where_it_missed_it_on() {
    let mut world = World::new(3);
    let (alice, bob) = (world.add_device("alice"), world.add_device("bob"));
    let room = world.make_room(&[alice, bob]);
    let before = world.send(alice, &room, "before");
    let (late, closed) = new_and_out_of_reach(&mut world, alice, &room);
    let missed = world.send(alice, &room, "missed");
    assert_eq!(session(&world, &room, &before), session(&world, &room, &missed));
    replace(&mut world, alice, &room);
    let next = world.send(alice, &room, "next");
    assert_eq!(unread(&mut world, late, &room, &[missed.clone(), next.clone()]), 2);
    open(&mut world, &closed);
    assert_eq!(world.text(late, &room, &before), Err("index_too_early".to_owned()));
    assert_eq!(world.text(late, &room, &missed).as_deref(), Ok("missed"));
    assert_eq!(world.text(late, &room, &next).as_deref(), Ok("next"));
    assert_eq!(owed(&world, alice), 0);
    clean(&world);
}

/// Behaviour 35: nobody here has ever seen a device of Bob's, and his server does not answer.
#[test]
fn devices_that_nobody_knew_of_get_what_was_sent_while_their_server_was_away() {
    for replaced in [false, true] {
        let mut world = World::new(9);
        let (alice, bob) = (world.add_device("alice"), world.add_device("@bob:away.test"));
        let room = world.make_room(&[alice, bob]);
        world.server.fail_servers(vec!["away.test".to_owned()]);
        let second = world.add_device("alice");
        world.settle();
        let sent = [world.send(second, &room, "one"), world.send(second, &room, "two")];
        if replaced {
            replace(&mut world, second, &room);
        }
        assert_eq!(unread(&mut world, bob, &room, &sent), 2);
        assert_eq!(unread(&mut world, alice, &room, &sent), 0);
        world.restart(second);
        back(&mut world);
        assert_eq!(unread(&mut world, bob, &room, &sent), 0, "replaced: {replaced}");
        assert_eq!(owed(&world, second), 0);
        clean(&world);
    }
}

/// What was sent while a device was blocked is not for it; what was sent before is.
#[test]
fn what_was_withheld_from_a_late_device_stays_withheld() {
    let mut world = World::new(4);
    let (alice, bob) = (world.add_device("alice"), world.add_device("bob"));
    let room = world.make_room(&[alice, bob]);
    world.send(alice, &room, "before");
    let (late, closed) = new_and_out_of_reach(&mut world, alice, &room);
    replace(&mut world, alice, &room);
    let missed = world.send(alice, &room, "missed");
    replace(&mut world, alice, &room);
    block(&mut world, alice, late, true);
    let withheld = world.send(alice, &room, "withheld");
    replace(&mut world, alice, &room);
    block(&mut world, alice, late, false);
    let next = world.send(alice, &room, "next");
    open(&mut world, &closed);
    assert_eq!(world.text(late, &room, &missed).as_deref(), Ok("missed"));
    assert_eq!(world.text(late, &room, &next).as_deref(), Ok("next"));
    assert!(world.text(late, &room, &withheld).is_err());
    clean(&world);
}

/// Who is blocked, has left or has logged out when it could be served gets nothing.
#[test]
fn a_late_device_that_is_no_longer_entitled_gets_nothing() {
    for how in ["blocked", "left", "logged out"] {
        let mut world = World::new(5);
        let (alice, bob) = (world.add_device("alice"), world.add_device("bob"));
        let carol = world.add_device("carol");
        let room = world.make_room(&[alice, bob, carol]);
        world.send(alice, &room, "before");
        let (late, closed) = new_and_out_of_reach(&mut world, alice, &room);
        replace(&mut world, alice, &room);
        let missed = world.send(alice, &room, "missed");
        replace(&mut world, alice, &room);
        assert!(owed(&world, alice) > 0);
        match how {
            "blocked" => block(&mut world, alice, late, true),
            "left" => world.kick(alice, &room, bob),
            _ => log_out(&mut world, late),
        }
        world.settle();
        open(&mut world, &closed);
        // Another device makes everybody's claims be looked at.
        world.add_device("carol");
        world.settle();
        world.send(alice, &room, "among ourselves");
        world.settle();
        assert!(world.text(late, &room, &missed).is_err(), "{how}");
        assert_eq!(owed(&world, alice), 0, "{how}");
        clean(&world);
    }
}

#[test]
fn sessions_for_late_devices_are_kept_in_a_bounded_number_for_a_bounded_time() {
    let (mut world, alice, bob, room) = out_of_reach(6, Disk::new());
    let sent: Vec<_> = (0..40).map(|n| world.send(alice, &room, &format!("{n}"))).collect();
    assert_eq!(owed(&world, alice), 32);
    let mut again = world;
    back(&mut again);
    assert_eq!(unread(&mut again, bob, &room, &sent), 7);
    assert_eq!(again.text(bob, &room, &sent[39]).as_deref(), Ok("39"));
    clean(&again);

    let (mut world, alice, bob, room) = out_of_reach(7, Disk::new());
    let sent: Vec<_> = (0..3).map(|n| world.send(alice, &room, &format!("{n}"))).collect();
    assert_eq!(owed(&world, alice), 2);
    world.clock.advance(seconds(31 * 24 * 3600));
    back(&mut world);
    assert_eq!(owed(&world, alice), 0);
    assert_eq!(unread(&mut world, bob, &room, &sent), 2);
    let user = world.devices[bob].user_id.clone();
    assert_eq!(known_devices(&mut world, alice, &user).devices.len(), 1);
    clean(&world);
}

/// Somebody else's going replaces the session; a gap hides who is still there until the list is asked for.
#[test]
fn a_late_device_is_served_after_a_leave_and_a_gap() {
    let mut world = World::new(8);
    let (alice, bob) = (world.add_device("alice"), world.add_device("@bob:away.test"));
    let carol = world.add_device("carol");
    let room = world.make_room(&[alice, bob, carol]);
    world.server.fail_servers(vec!["away.test".to_owned()]);
    let first = world.send(alice, &room, "one");
    world.leave(carol, &room);
    world.settle();
    let second = world.send(alice, &room, "two");
    world.server.force_gap(room.as_str());
    world.settle();
    back(&mut world);
    assert_eq!(unread(&mut world, bob, &room, &[first, second]), 0);
    assert_eq!(owed(&world, alice), 0);
    clean(&world);
}
