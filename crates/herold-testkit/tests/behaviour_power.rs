//! Power losses: whatever was not fully synchronous is gone, and still no ratchet index is used twice.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod behaviour_common;

use behaviour_common::{block, clean, known_devices, next_sync, seconds};
use herold::{OwnedRoomId, Policy, Recipients};
use herold_testkit::World;
use serde_json::json;

/// When whose power fails.
#[derive(Clone, Copy, Debug)]
enum Cut {
    /// Once, at this moment.
    At(usize, u32),
    /// Everybody's, each time so many moments have passed.
    Every(u32),
}

struct Play {
    cut: Cut,
    moment: u32,
    losses: u32,
}

impl Play {
    fn new(cut: Cut) -> Self {
        Self { cut, moment: 0, losses: 0 }
    }

    fn moment(&mut self, world: &mut World, device: usize) {
        self.moment += 1;
        let fails = match self.cut {
            Cut::At(whose, when) => whose == device && when == self.moment,
            Cut::Every(pace) => self.moment.is_multiple_of(pace),
        };
        if fails {
            world.lose_power(device);
            self.losses += 1;
        }
    }

    /// Lets everybody do what is due, with the power failing in between.
    fn go_on(&mut self, world: &mut World, devices: &[usize]) {
        for _ in 0..6 {
            for &device in devices {
                world.pump(device);
                self.moment(world, device);
                world.sync(device);
                self.moment(world, device);
            }
            world.clock.advance(seconds(1));
        }
    }
}

/// What of a room is on the server, in clear, as somebody reads it who has lost nothing.
fn messages_on_server(world: &World, room: &OwnedRoomId) -> usize {
    let events = world.server.events(room.as_str());
    events.iter().filter(|event| event["type"] == "m.room.encrypted").count()
}

fn story(seed: u64, cut: Cut) -> u32 {
    let mut world = World::new(seed);
    let (alice, bob) = (world.add_device("alice"), world.add_device("bob"));
    let rotation = json!({ "rotation_period_msgs": 3 });
    let room = world.make_room_with(&[alice, bob], rotation, "shared");
    let mut play = Play::new(cut);
    for n in 0..3 {
        world.queue(alice, &room, &format!("alice {n}"));
        play.moment(&mut world, alice);
        world.queue(bob, &room, &format!("bob {n}"));
        play.moment(&mut world, bob);
        play.go_on(&mut world, &[alice, bob]);
    }
    // The power is back for good: what reached the server is readable, and so is what comes.
    world.settle();
    world.queue(alice, &room, "alice at last");
    world.queue(bob, &room, "bob at last");
    world.clock.advance(seconds(300));
    world.settle();
    let count = messages_on_server(&world, &room);
    assert!(count >= 2, "{cut:?}");
    for device in [alice, bob] {
        let texts = world.texts(device, &room);
        assert_eq!(texts.len(), count, "{cut:?}: {texts:?}");
        for text in ["alice at last", "bob at last"] {
            assert_eq!(texts.iter().filter(|known| *known == text).count(), 1, "{cut:?}");
        }
        let mut once = texts.clone();
        once.sort();
        once.dedup();
        assert_eq!(once.len(), texts.len(), "{cut:?}: {texts:?}");
    }
    clean(&world);
    play.losses
}

/// Behaviours 25 and 27; W1 and W2.
#[test]
fn a_power_loss_at_any_moment_uses_no_index_twice_and_loses_no_message_that_was_sent() {
    let mut losses = 0;
    for device in 0..2 {
        for moment in 1..=78 {
            losses += story(701, Cut::At(device, moment));
        }
    }
    assert!(losses >= 70, "only {losses} losses");
}

/// W1 and W2.
#[test]
fn power_losses_again_and_again_use_no_index_twice() {
    for pace in [2, 3, 5, 7, 11] {
        assert!(story(702, Cut::Every(pace)) > 5);
    }
}

/// Behaviours 15 and 25: what the server was told to forget survives.
#[test]
fn a_withheld_code_is_still_known_after_a_power_loss() {
    let mut world = World::new(704);
    let strict = Policy { recipients: Recipients::OnlyTrusted, ..Policy::default() };
    let (alice, bob) = (world.add_device_with("alice", strict), world.add_device("bob"));
    let room = world.make_room(&[alice, bob]);
    world.set_online(bob, false);
    let event = world.send(alice, &room, "not for bob");
    world.set_online(bob, true);
    world.sync(bob);
    // The next request tells the server that the message has come.
    next_sync(&mut world, bob);
    let (user, id) = (world.devices[bob].user_id.to_string(), world.devices[bob].device_id.clone());
    assert!(world.server.inbox(&user, &id).is_empty());
    world.lose_power(bob);
    world.settle();
    let reason = world.text(bob, &room, &event).unwrap_err();
    assert!(reason.starts_with("withheld:"), "{reason}");
    clean(&world);
}

/// W3 and W4; behaviour 21.
#[test]
fn a_power_loss_during_the_first_upload_leaves_one_set_of_keys() {
    for moment in 0..6 {
        let mut world = World::new(703);
        let bob = world.add_device("bob");
        for now in 0..6 {
            if now == moment {
                world.lose_power(bob);
            }
            world.pump(bob);
            if now == moment {
                world.lose_power(bob);
            }
            world.sync(bob);
        }
        world.settle();
        let device = &world.devices[bob];
        let ids = world.server.one_time_key_ids(device.user_id.as_str(), &device.device_id);
        assert_eq!(ids.len(), 50);
        clean(&world);
    }
}

// Found by the fuzz target `two_clients`.
#[test]
fn a_block_survives_a_power_loss() {
    let mut world = World::new(71);
    let (alice, bob) = (world.add_device("alice"), world.add_device("bob"));
    world.make_room(&[alice, bob]);
    let user = world.devices[bob].user_id.clone();
    let after_power_loss = |world: &mut World, blocked: bool| {
        block(world, alice, bob, blocked);
        world.lose_power(alice);
        known_devices(world, alice, &user)
            .devices
            .iter()
            .map(|view| view.blocked)
            .collect::<Vec<_>>()
    };
    assert_eq!(after_power_loss(&mut world, true), [true]);
    assert_eq!(after_power_loss(&mut world, false), [false]);
}
