//! What was decided holds over a power loss, and what a failed step has seen is forgotten: defects found by
//! fuzzing and review, one test each.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod behaviour_common;

use behaviour_common::{
    block, clean, distinct, event_numbers, next_sync, seconds, sessions_of, take_sync,
};
use herold::{OwnedEventId, OwnedRoomId};
use herold_machine::{MachineError, Pending, Step};
use herold_store::records::Membership;
use herold_testkit::World;
use serde_json::{Value, json};

#[test]
fn a_discarded_key_stays_discarded_over_a_power_loss() {
    let mut world = World::new(471);
    let (alice, bob) = (world.add_device("alice"), world.add_device("bob"));
    let room = world.make_room(&[alice, bob]);
    world.send(alice, &room, "one");
    world.sync(alice);
    let discarded = world.command(alice, |engine| {
        engine.step(|machine, snapshot, cx| machine.discard_room_key(snapshot, cx, &room))
    });
    discarded.unwrap();
    world.lose_power(alice);
    world.send(alice, &room, "two");
    assert_eq!(distinct(&sessions_of(&world, &room)), 2);
}

#[test]
fn a_kick_ends_the_session_over_a_power_loss() {
    let mut world = World::new(472);
    let (alice, bob) = (world.add_device("alice"), world.add_device("bob"));
    let carol = world.add_device("carol");
    let room = world.make_room(&[alice, bob, carol]);
    world.send(alice, &room, "one");
    world.settle();
    world.kick(alice, &room, bob);
    let user = world.devices[bob].user_id.clone();
    let noted = world.command(alice, |engine| {
        engine.step(|machine, snapshot, cx| {
            machine.note_membership(snapshot, cx, &room, &user, Membership::Leave)
        })
    });
    noted.unwrap();
    world.lose_power(alice);
    // No sync has told it yet.
    world.queue(alice, &room, "two");
    while world.pump(alice) {}
    let sessions = sessions_of(&world, &room);
    assert_eq!((sessions.len(), distinct(&sessions)), (2, 2));
}

/// A sync response with a message and its key, and the same without the key.
fn with_and_without_key(world: &mut World) -> (usize, OwnedRoomId, OwnedEventId, [Value; 2]) {
    let (alice, bob) = (world.add_device("alice"), world.add_device("bob"));
    let room = world.make_room(&[alice, bob]);
    world.set_online(bob, false);
    let event = world.send(alice, &room, "with its key");
    world.set_online(bob, true);
    let with = next_sync(world, bob);
    let mut without = with.clone();
    without["to_device"] = json!({ "events": [] });
    (bob, room, event, [with, without])
}

#[test]
fn a_key_of_a_step_that_failed_is_not_used() {
    for fails in [false, true] {
        let mut world = World::new(473);
        let (bob, room, event, [with, without]) = with_and_without_key(&mut world);
        if fails {
            let failed = world.command(bob, |engine| {
                engine.step(|machine, snapshot, cx| -> Result<Step<Pending>, MachineError> {
                    let response = with.to_string();
                    let _dropped = machine.handle_sync(snapshot, cx, response.as_bytes())?;
                    Err(MachineError::Malformed("something went wrong later"))
                })
            });
            assert!(failed.is_none());
        }
        take_sync(&mut world, bob, &without);
        assert!(world.text(bob, &room, &event).is_err(), "it has no key: failed step {fails}");
    }
}

/// What was sent to others while a device was blocked stays out of its reach when it no longer is, also if
/// it could not be reached at first.
#[test]
fn what_was_withheld_from_a_blocked_device_stays_withheld() {
    for reachable in [true, false] {
        let mut world = World::new(474);
        let (alice, bob) = (world.add_device("alice"), world.add_device("bob"));
        let mallory = world.add_device("mallory");
        let room = world.make_room(&[alice, bob, mallory]);
        if !reachable {
            let user = world.devices[mallory].user_id.clone();
            let device = world.devices[mallory].device_id.clone();
            world.set_online(mallory, false);
            world.server.drop_one_time_keys(user.as_str(), &device);
            world.send(alice, &room, "not reached");
        }
        block(&mut world, alice, mallory, true);
        let secret = world.send(alice, &room, "not for her");
        block(&mut world, alice, mallory, false);
        world.set_online(mallory, true);
        world.settle();
        world.clock.advance(seconds(7200));
        world.settle();
        let after = world.send(alice, &room, "for all");
        world.settle();
        assert_eq!(world.text(bob, &room, &secret).as_deref(), Ok("not for her"));
        assert!(world.text(mallory, &room, &secret).is_err(), "reachable: {reachable}");
        assert_eq!(world.text(mallory, &room, &after).as_deref(), Ok("for all"));
        if reachable {
            clean(&world);
        }
    }
}

/// An app that keeps its place by number must not be told something else under a number it has seen.
#[test]
fn no_number_is_given_twice_over_a_power_loss() {
    let mut world = World::new(475);
    let (bob, _, _, [with, _]) = with_and_without_key(&mut world);
    let note = json!({ "next_batch": "n", "rooms": { "join": { "bad": {} } } });
    take_sync(&mut world, bob, &with);
    take_sync(&mut world, bob, &note);
    let seen = event_numbers(&mut world, bob, None, usize::MAX);
    world.lose_power(bob);
    let kept = event_numbers(&mut world, bob, None, usize::MAX);
    assert!(kept.len() < seen.len(), "the last step was not fully synchronous");
    take_sync(&mut world, bob, &note);
    let mut new = event_numbers(&mut world, bob, None, usize::MAX);
    new.retain(|number| !kept.contains(number));
    assert!(
        !new.is_empty() && new.iter().all(|number| number > seen.last().unwrap()),
        "{seen:?} {new:?}"
    );
}
