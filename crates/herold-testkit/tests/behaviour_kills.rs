//! Stories of the required behaviour, told again and again with one device dying at each of its commits.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod behaviour_common;

use behaviour_common::{log_length, log_out, seconds, sent_to, session};
use herold_testkit::{Disk, World, kill_at_each_commit, open_policy};
use serde_json::json;

fn device(world: &mut World, name: &str, disks: &[Disk], number: usize) -> usize {
    world.add_device_on(name, open_policy(), disks[number].clone())
}

/// Behaviours 4 and 8.
#[test]
fn leaving_and_rejoining_survives_a_kill_at_each_commit() {
    fn story(world: &mut World, disks: &[Disk]) {
        let alice = device(world, "alice", disks, 0);
        let bob = device(world, "bob", disks, 1);
        let room = world.make_room(&[alice, bob]);
        let first = world.send(alice, &room, "before");
        world.leave(bob, &room);
        world.settle();
        let away = world.send(alice, &room, "away");
        world.invite(alice, &room, bob);
        world.join(bob, &room);
        world.settle();
        let back = world.send(alice, &room, "back");
        assert_eq!(world.text(bob, &room, &first).as_deref(), Ok("before"));
        assert!(world.text(bob, &room, &away).is_err());
        assert_eq!(world.text(bob, &room, &back).as_deref(), Ok("back"));
        assert_eq!(world.texts(alice, &room), ["before", "away", "back"]);
    }
    let kills = kill_at_each_commit(601, 2, story);
    assert!(kills > 60, "only {kills} kills");
}

/// Behaviours 5 and 12.
#[test]
fn a_new_device_survives_a_kill_at_each_commit() {
    fn story(world: &mut World, disks: &[Disk]) {
        let alice = device(world, "alice", disks, 0);
        let bob = device(world, "bob", disks, 1);
        let room = world.make_room(&[alice, bob]);
        world.send(alice, &room, "old");
        let late = device(world, "bob", disks, 2);
        world.settle();
        let event = world.send(alice, &room, "new");
        for reader in [bob, late] {
            assert_eq!(world.text(reader, &room, &event).as_deref(), Ok("new"));
        }
        assert_eq!(world.texts(late, &room), ["new"]);
    }
    let kills = kill_at_each_commit(602, 3, story);
    assert!(kills > 60, "only {kills} kills");
}

/// Behaviours 9 and 33.
#[test]
fn a_removed_device_survives_a_kill_at_each_commit() {
    fn story(world: &mut World, disks: &[Disk]) {
        let alice = device(world, "alice", disks, 0);
        let bob = device(world, "bob", disks, 1);
        // This one is not killed: it has to be logged out as it is.
        let stolen = world.add_device("bob");
        let room = world.make_room(&[alice, bob]);
        let first = world.send(alice, &room, "to both");
        log_out(world, stolen);
        world.settle();
        let before = log_length(world);
        let second = world.send(alice, &room, "to one");
        assert_ne!(session(world, &room, &first), session(world, &room, &second));
        assert!(sent_to(world, stolen, "m.room.encrypted", before).is_empty());
        assert_eq!(world.texts(bob, &room), ["to both", "to one"]);
    }
    let kills = kill_at_each_commit(603, 2, story);
    assert!(kills > 60, "only {kills} kills");
}

/// Behaviour 10: the count survives, so no session serves for more than its messages.
#[test]
fn rotation_survives_a_kill_at_each_commit() {
    fn story(world: &mut World, disks: &[Disk]) {
        let alice = device(world, "alice", disks, 0);
        let bob = device(world, "bob", disks, 1);
        let rotation = json!({ "rotation_period_msgs": 2 });
        let room = world.make_room_with(&[alice, bob], rotation, "shared");
        let events = ["one", "two", "three"].map(|text| world.send(alice, &room, text));
        let sessions = events.each_ref().map(|event| session(world, &room, event));
        assert_eq!(sessions[0], sessions[1]);
        assert_ne!(sessions[1], sessions[2]);
        assert_eq!(world.texts(bob, &room), ["one", "two", "three"]);
    }
    let kills = kill_at_each_commit(604, 2, story);
    assert!(kills > 60, "only {kills} kills");
}

/// Behaviours 16 and 17.
#[test]
fn running_out_of_one_time_keys_survives_a_kill_at_each_commit() {
    fn story(world: &mut World, disks: &[Disk]) {
        let alice = device(world, "alice", disks, 0);
        let bob = device(world, "bob", disks, 1);
        let carol = device(world, "carol", disks, 2);
        let rooms = [world.make_room(&[alice, bob]), world.make_room(&[carol, bob])];
        world.clock.advance(seconds(120));
        let (user, id) =
            (world.devices[bob].user_id.to_string(), world.devices[bob].device_id.clone());
        world.server.drop_one_time_keys(&user, &id);
        world.set_online(bob, false);
        let first = world.send(alice, &rooms[0], "one");
        let second = world.send(carol, &rooms[1], "two");
        world.set_online(bob, true);
        world.settle();
        assert_eq!(world.text(bob, &rooms[0], &first).as_deref(), Ok("one"));
        assert_eq!(world.text(bob, &rooms[1], &second).as_deref(), Ok("two"));
        // The used fallback key has been replaced, and there are one-time keys again.
        world.clock.advance(seconds(120));
        world.server.announce_devices(&user);
        world.settle();
        assert!(world.server.one_time_key_ids(&user, &id).len() >= 25);
    }
    let kills = kill_at_each_commit(605, 3, story);
    assert!(kills > 60, "only {kills} kills");
}

/// Behaviours 25 and 33.
#[test]
fn catching_up_after_a_time_offline_survives_a_kill_at_each_commit() {
    fn story(world: &mut World, disks: &[Disk]) {
        let alice = device(world, "alice", disks, 0);
        let bob = device(world, "bob", disks, 1);
        let rotation = json!({ "rotation_period_msgs": 1 });
        let room = world.make_room_with(&[alice, bob], rotation, "shared");
        world.set_online(bob, false);
        world.send(alice, &room, "one");
        world.send(alice, &room, "two");
        world.clock.advance(seconds(3600));
        world.set_online(bob, true);
        world.settle();
        assert_eq!(world.texts(bob, &room), ["one", "two"]);
        world.send(bob, &room, "three");
        assert_eq!(world.texts(alice, &room), ["one", "two", "three"]);
    }
    let kills = kill_at_each_commit(606, 2, story);
    assert!(kills > 60, "only {kills} kills");
}
