//! In a room of many the lists and channels are read by scans, not one by one. Who gets the key is decided as in
//! a small room.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod attacks_common;
mod behaviour_common;

use std::collections::BTreeSet;

use attacks_common::{CrossSigning, id, new_session, path, strict_device, user, withheld};
use behaviour_common::{clean, log_length, next_sync, take_sync};
use herold::OwnedRoomId;
use herold_testkit::{Attacker, World};
use serde_json::json;

/// More than are looked up one by one.
const CROWD: usize = 72;

type Places = BTreeSet<(String, String)>;

/// Alice's room with a crowd: devices that keep what they get and do nothing else.
fn crowd(world: &mut World, alice: usize) -> (OwnedRoomId, Vec<Attacker>) {
    world.settle();
    let room = world.make_room(&[alice]);
    let people = (0..CROWD).map(|n| newcomer(world, alice, &room, &format!("user{n}"))).collect();
    world.settle();
    (room, people)
}

fn newcomer(world: &mut World, alice: usize, room: &OwnedRoomId, name: &str) -> Attacker {
    let person = Attacker::log_in(world, name);
    let invited = json!({ "user_id": person.user_id });
    world.call(Some(alice), "POST", &path(room, "invite"), invited);
    person.call(world, "POST", &path(room, "join"), &json!({}));
    person
}

fn place(person: &Attacker) -> (String, String) {
    (person.user_id.clone(), person.device_id.clone())
}

/// The devices that were sent something by Olm since entry `from` of the log.
fn served(world: &World, from: usize) -> Places {
    let log = &world.server.to_device_log()[from..];
    let sent = log.iter().filter(|sent| sent.event_type == "m.room.encrypted");
    let places: Vec<_> =
        sent.map(|sent| (sent.recipient.clone(), sent.recipient_device.clone())).collect();
    let once: Places = places.iter().cloned().collect();
    assert_eq!(once.len(), places.len(), "a message each");
    once
}

/// The room keys that a device can read of what it was sent since it was last asked.
fn keys_of(world: &World, person: &mut Attacker) -> Vec<String> {
    let payloads = person.received(world).into_iter();
    payloads
        .filter(|payload| payload["type"] == "m.room_key")
        .map(|payload| payload["content"]["session_id"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn a_crowd_gets_the_key_and_who_may_not_have_it_does_not() {
    let mut world = World::new(1001);
    let alice = world.add_device("alice");
    let (room, mut people) = crowd(&mut world, alice);
    let all: Places = people.iter().map(place).collect();
    let start = log_length(&world);
    world.send(alice, &room, "one");
    assert_eq!(served(&world, start), all);
    let mut first = BTreeSet::new();
    for person in &mut people {
        let keys = keys_of(&world, person);
        assert_eq!(keys.len(), 1, "{}", person.user_id);
        first.extend(keys);
    }
    assert_eq!(first.len(), 1);

    // One is blocked, one goes, one has a new device, one lists the same keys as a second device, one comes.
    let (user, device) = place(&people[3]);
    let (user, device) = (user.as_str().try_into().unwrap(), device.as_str().into());
    let blocked = world.command(alice, |engine| {
        engine.step(|machine, snapshot, cx| machine.set_blocked(snapshot, cx, user, device, true))
    });
    blocked.expect("it lives");
    people[5].call(&mut world, "POST", &path(&room, "leave"), &json!({}));
    let seventh = people[7].user_id.clone();
    let ghost = Attacker::ghost(&mut world, &seventh, "NEW");
    let known_as = std::mem::replace(&mut people[11].device_id, "TWIN".to_owned());
    let twin = place(&people[11]);
    world.server.add_device_keys(&twin.0, &twin.1, people[11].device_keys());
    people[11].device_id = known_as;
    let late = newcomer(&mut world, alice, &room, "late");
    world.settle();
    // Of one the server says that she is gone, which she is not, and then of no more devices of hers.
    let mut response = next_sync(&mut world, alice);
    response["device_lists"] = json!({ "left": [people[8].user_id] });
    take_sync(&mut world, alice, &response);
    let eighth = people[8].user_id.clone();
    let untold = Attacker::ghost(&mut world, &eighth, "UNTOLD");
    world.settle();
    let mut expected = all;
    expected.remove(&place(&people[3]));
    expected.remove(&place(&people[5]));
    expected.extend([place(&ghost), twin.clone(), place(&late), place(&untold)]);
    people.extend([ghost, late, untold]);

    for (round, restarted) in [false, true].into_iter().enumerate() {
        if restarted {
            world.restart(alice);
            new_session(&mut world, alice, &room);
        }
        let start = log_length(&world);
        world.send(alice, &room, "two");
        assert_eq!(served(&world, start), expected, "round {round}");
        let mut second = BTreeSet::new();
        for person in &mut people {
            let mut keys = keys_of(&world, person);
            assert_eq!(keys.len(), usize::from(expected.contains(&place(person))));
            if person.user_id == twin.0 {
                // Two messages by one channel: the second is not the first once more.
                let known_as = std::mem::replace(&mut person.device_id, twin.1.clone());
                keys.extend(keys_of(&world, person));
                person.device_id = known_as;
                assert_eq!(keys.len(), 2);
            }
            second.extend(keys);
        }
        assert_eq!(second.len(), 1);
        assert!(second.is_disjoint(&first));
        first.extend(second);
    }
    let (user, device) = place(&people[3]);
    assert_eq!(withheld(&world, &user, &device), ["m.blacklisted", "m.blacklisted"]);
    clean(&world);
}

#[test]
fn in_a_crowd_the_policy_holds() {
    let mut world = World::new(1002);
    let alice = strict_device(&mut world, "alice");
    let bob = world.add_device("bob");
    let unsigned = world.add_device("bob");
    world.settle();
    let identity = CrossSigning::upload(&mut world, bob);
    identity.sign_device(&mut world, bob);
    let (room, people) = crowd(&mut world, alice);
    world.invite(alice, &room, bob);
    world.join(bob, &room);
    world.settle();
    let start = log_length(&world);
    for text in ["one", "two"] {
        let sent = world.send(alice, &room, text);
        assert_eq!(world.text(bob, &room, &sent).as_deref(), Ok(text));
    }
    let bobs: Places = [(user(&world, bob), id(&world, bob))].into();
    assert_eq!(served(&world, start), bobs);
    let unsigned = (user(&world, unsigned), id(&world, unsigned));
    for (user, device) in people.iter().map(place).chain([unsigned]) {
        assert_eq!(withheld(&world, &user, &device), ["m.unverified"], "{user}");
    }
    clean(&world);
}
