//! Conversations in the simulated world: they end well on a good day, on a bad day, and when a device
//! dies at any of its commits.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use herold_testkit::{Disk, Faults, World, kill_at_each_commit, open_policy};

/// Two users talk, both ways, twice.
fn conversation(world: &mut World, disks: &[Disk]) {
    let alice = world.add_device_on("alice", open_policy(), disks[0].clone());
    let bob = world.add_device_on("bob", open_policy(), disks[1].clone());
    world.settle();
    let room = world.make_room(&[alice, bob]);
    let first = world.send(alice, &room, "hello ✓ 🔐");
    let second = world.send(bob, &room, "and back");
    let third = world.send(alice, &room, "");
    for device in [alice, bob] {
        assert_eq!(world.text(device, &room, &first).as_deref(), Ok("hello ✓ 🔐"));
        assert_eq!(world.text(device, &room, &second).as_deref(), Ok("and back"));
        assert_eq!(world.text(device, &room, &third).as_deref(), Ok(""));
        // Each once, in order.
        assert_eq!(world.texts(device, &room), ["hello ✓ 🔐", "and back", ""]);
    }
}

#[test]
fn two_users_talk_both_ways() {
    let mut world = World::new(1);
    conversation(&mut world, &[Disk::new(), Disk::new()]);
    assert_eq!(world.oracle.violations(), [] as [String; 0]);
    assert!(world.oracle.megolm_ciphertexts() >= 3);
}

#[test]
fn a_conversation_survives_a_kill_at_each_commit() {
    let kills = kill_at_each_commit(2, 2, conversation);
    assert!(kills > 40, "only {kills} kills");
}

#[test]
fn a_conversation_survives_a_bad_network() {
    for seed in 0..20 {
        let mut world = World::new(seed);
        world.faults = Faults::BAD_DAY;
        conversation(&mut world, &[Disk::new(), Disk::new()]);
        assert_eq!(world.oracle.violations(), [] as [String; 0], "seed {seed}");
    }
}

#[test]
fn a_run_without_caches_gives_the_same_result() {
    for uncached in [false, true] {
        let mut world = World::new(3);
        world.uncached = uncached;
        // The story asserts every text, its order and its sender.
        conversation(&mut world, &[Disk::new(), Disk::new()]);
        assert_eq!(world.oracle.violations(), [] as [String; 0], "uncached: {uncached}");
    }
}
