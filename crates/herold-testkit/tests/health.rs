//! A device in figures: right, and naming nobody.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod behaviour_common;

use behaviour_common::clean;
use herold_machine::Health;
use herold_testkit::{World, open_policy};

fn health(world: &mut World, device: usize) -> Health {
    world
        .command(device, |engine| {
            let now = engine.now();
            engine.read(|machine, snapshot| machine.health(snapshot, now))
        })
        .expect("the figures")
}

#[test]
fn the_figures_are_right_and_name_nobody() {
    let mut world = World::new(77);
    let alice = world.add_device_with("alice", open_policy());
    let bob = world.add_device("bob");
    let room = world.make_room(&[alice, bob]);
    for n in 0..3 {
        world.send(bob, &room, &format!("message {n}"));
    }
    world.send(alice, &room, "an answer");
    // What a newcomer cannot read.
    let carol = world.add_device("carol");
    world.settle();
    world.invite(alice, &room, carol);
    world.join(carol, &room);
    world.settle();
    clean(&world);

    let figures = health(&mut world, alice);
    assert_eq!(figures.room_keys.by_source.get("olm"), Some(&2), "{figures:?}");
    assert_eq!(figures.olm.devices, 1);
    assert!(figures.olm.sessions >= 1);
    assert_eq!((figures.devices.outdated, figures.sending.sessions), (0, 1));
    assert!(figures.devices.tracked >= 2 && figures.devices.devices >= 2);
    assert!(figures.own_keys.published && figures.own_keys.one_time_keys > Some(0));
    assert!(figures.sync.has_position);
    assert!(figures.undecryptable.is_empty(), "{figures:?}");

    for device in [alice, bob, carol] {
        let text = serde_json::to_string(&health(&mut world, device)).expect("JSON");
        for name in ["alice", "bob", "carol", "@", "!", "$", "example", "message", "answer"] {
            assert!(!text.contains(name), "{name} is in {text}");
        }
    }
}
