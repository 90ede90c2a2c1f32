//! Required behaviour: each thing takes effect once, in order, whatever the network and crashes do.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod behaviour_common;

use std::collections::BTreeMap;

use behaviour_common::{
    Switch, answer, clean, due, edit_json, event_numbers, log_length, next_sync, perform,
    pump_only, requests, seconds, take, take_sync,
};
use herold::OwnedRoomId;
use herold_machine::Outgoing;
use herold_testkit::{Attacker, Disk, Faults, World, kill_at_each_commit, open_policy};
use serde_json::{Value, json};

/// Requests that must never differ under one transaction id have not, and no event is there twice.
fn each_once(world: &World, room: &OwnedRoomId) {
    let mut bodies: BTreeMap<(Option<String>, String), std::sync::Arc<[u8]>> = BTreeMap::new();
    for seen in world.server.requests() {
        if seen.path.contains("/sendToDevice/") || seen.path.contains("/send/") {
            let place = (seen.device.clone(), seen.path.clone());
            let known = bodies.entry(place).or_insert_with(|| seen.body.clone());
            assert_eq!(*known, seen.body, "two bodies under one transaction id");
        }
    }
    let ciphertexts: Vec<String> = world
        .server
        .events(room.as_str())
        .iter()
        .filter_map(|event| event["content"]["ciphertext"].as_str().map(str::to_owned))
        .collect();
    let count = ciphertexts.len();
    assert_eq!(behaviour_common::distinct(&ciphertexts), count, "an event twice");
}

/// Three messages with a key each, from two senders.
fn a_key_each(world: &mut World, disks: &[Disk]) {
    three_messages(world, disks, json!({ "rotation_period_msgs": 1 }));
}

fn three_messages(world: &mut World, disks: &[Disk], rotation: Value) {
    let alice = world.add_device_on("alice", open_policy(), disks[0].clone());
    let bob = world.add_device_on("bob", open_policy(), disks[1].clone());
    let room = world.make_room_with(&[alice, bob], rotation, "shared");
    for text in ["one", "two"] {
        world.queue(alice, &room, text);
    }
    world.settle();
    world.send(bob, &room, "three");
    for device in [alice, bob] {
        assert_eq!(world.texts(device, &room), ["one", "two", "three"]);
    }
    each_once(world, &room);
}

/// Behaviours 25 and 27.
#[test]
fn messages_with_a_key_each_survive_a_kill_at_each_commit() {
    let kills = kill_at_each_commit(401, 2, a_key_each);
    assert!(kills > 60, "only {kills} kills");
}

/// A device that looks again, and sees that it still has to wait, writes nothing; though its clock runs on.
#[test]
fn waiting_for_a_claim_does_not_keep_the_disk_busy() {
    let (disk, mut world) = (Disk::new(), World::new(402));
    let alice = world.add_device_on("alice", open_policy(), disk.clone());
    let bob = world.add_device("bob");
    world.settle();
    let room = world.make_room(&[alice, bob]);
    world.send(alice, &room, "before");
    let user = world.devices[bob].user_id.to_string();
    Attacker::ghost(&mut world, &user, "NEW");
    world.settle();
    world.clock.run(1);
    let txn = world.queue(alice, &room, "waits");
    let unanswered = pump_only(&mut world, alice, &["keys_query", "sync", "send_to_device"]);
    let kinds: Vec<&str> = unanswered.iter().map(Outgoing::kind).collect();
    assert_eq!(kinds, ["keys_claim"]);
    let before = disk.commits();
    for _ in 0..10 {
        assert!(due(&mut world, alice).is_empty());
    }
    assert_eq!(disk.commits() - before, 0);
    // The longest wait is the same for all that.
    for _ in 0..3 {
        world.clock.advance(seconds(4));
        assert!(due(&mut world, alice).is_empty());
    }
    assert!(disk.commits() - before <= 3);
    world.clock.advance(seconds(4));
    assert!(world.sent(alice, &txn).is_none());
    world.clock.run(0);
    world.settle();
    assert!(world.sent(alice, &txn).is_some());
    clean(&world);
}

/// Behaviours 25 and 27.
#[test]
fn queued_messages_survive_a_bad_network() {
    for seed in 0..30 {
        let mut world = World::new(seed);
        world.faults = Faults::BAD_DAY;
        // The room's own rotation, and a key for each message.
        let rotation = if seed % 2 == 0 { json!({}) } else { json!({ "rotation_period_msgs": 1 }) };
        three_messages(&mut world, &[Disk::new(), Disk::new()], rotation);
        clean(&world);
    }
}

/// Behaviour 27.
#[test]
fn what_the_server_has_accepted_unheard_is_repeated_byte_by_byte() {
    let mut world = World::new(402);
    let (alice, bob) = (world.add_device("alice"), world.add_device("bob"));
    let room = world.make_room(&[alice, bob]);
    world.queue(alice, &room, "once");
    world.queue(alice, &room, "and once");
    let before = log_length(&world);
    let mut unheard = 0;
    // Whatever goes out is taken by the server, and the first answer of each kind is lost in a crash.
    for kind in ["keys_claim", "send_to_device", "send"] {
        let mut rest = loop {
            let requests = due(&mut world, alice);
            if requests.iter().any(|request| request.kind() == kind) {
                break requests;
            }
            for request in requests {
                let response = perform(&mut world, alice, &request);
                answer(&mut world, alice, &request, Some(&response));
            }
        };
        perform(&mut world, alice, &take(&mut rest, kind));
        world.restart(alice);
        unheard += 1;
    }
    assert_eq!(unheard, 3);
    world.settle();
    assert_eq!(world.texts(bob, &room), ["once", "and once"]);
    assert_eq!(world.texts(alice, &room), ["once", "and once"]);
    assert_eq!(log_length(&world) - before, 1, "the key went out twice");
    each_once(&world, &room);
    assert_eq!(requests(&world, alice, "/sendToDevice/", 0).len(), 2);
    clean(&world);
}

/// Behaviour 27.
#[test]
fn the_order_holds_when_every_third_answer_is_lost() {
    for seed in 0..5 {
        let mut world = World::new(403 + seed);
        let (alice, bob) = (world.add_device("alice"), world.add_device("bob"));
        let room = world.make_room(&[alice, bob]);
        world.faults = Faults { answer_lost: 330, ..Faults::NONE };
        let texts: Vec<String> = (0..8).map(|n| format!("number {n}")).collect();
        for text in &texts {
            world.queue(alice, &room, text);
        }
        for _ in 0..20 {
            world.settle();
            world.clock.advance(seconds(120));
        }
        assert_eq!(world.texts(bob, &room), texts);
        each_once(&world, &room);
        clean(&world);
    }
}

/// Every to-device event of bob's comes again: at once, and with each later sync.
fn repeat_everything(world: &mut World, bob: usize, again: &Switch) {
    let (on, mut before) = (again.clone(), Vec::<Value>::new());
    world.tamper = Some(Box::new(move |device, path, response| {
        if device != bob || !path.ends_with("/sync") || response.status != 200 {
            return;
        }
        edit_json(response, |body| {
            let new = body["to_device"]["events"].as_array().cloned().unwrap_or_default();
            let mut all = if on.is_on() { before.clone() } else { Vec::new() };
            all.extend(new.iter().chain(&new).cloned());
            before.extend(new);
            body["to_device"] = json!({ "events": all });
        });
    }));
}

/// Behaviour 26.
#[test]
fn to_device_messages_delivered_twice_change_nothing() {
    let mut world = World::new(404);
    let (alice, bob) = (world.add_device("alice"), world.add_device("bob"));
    let room = world.make_room_with(&[alice, bob], json!({ "rotation_period_msgs": 1 }), "shared");
    let again = Switch::default();
    repeat_everything(&mut world, bob, &again);
    again.set(true);
    let from = world.server.requests().len();
    let mut texts = Vec::new();
    for n in 0..4 {
        let (a, b) = (format!("alice {n}"), format!("bob {n}"));
        world.send(alice, &room, &a);
        world.restart(bob);
        world.send(bob, &room, &b);
        texts.extend([a, b]);
    }
    assert_eq!(world.texts(bob, &room), texts);
    assert_eq!(world.texts(alice, &room), texts);
    assert_eq!(world.notices(bob), []);
    assert_eq!(world.notices(alice), []);
    // Nobody takes it for a broken session: there is one claim at most, by whoever was first.
    let claims = requests(&world, alice, "/keys/claim", from).len()
        + requests(&world, bob, "/keys/claim", from).len();
    assert_eq!(claims, 1);
    clean(&world);
}

/// Behaviour 26: also for a message by the fallback key, which is not spent by use.
#[test]
fn a_pre_key_message_by_the_fallback_key_counts_once() {
    let mut world = World::new(405);
    let (alice, bob) = (world.add_device("alice"), world.add_device("bob"));
    let room = world.make_room(&[alice, bob]);
    let (user, id) = (world.devices[bob].user_id.to_string(), world.devices[bob].device_id.clone());
    world.server.drop_one_time_keys(&user, &id);
    let again = Switch::default();
    repeat_everything(&mut world, bob, &again);
    again.set(true);
    let from = world.server.requests().len();
    let first = world.send(alice, &room, "by the fallback key");
    world.restart(bob);
    let second = world.send(alice, &room, "again");
    let third = world.send(bob, &room, "back");
    assert_eq!(world.text(bob, &room, &first).as_deref(), Ok("by the fallback key"));
    assert_eq!(world.text(bob, &room, &second).as_deref(), Ok("again"));
    assert_eq!(world.text(alice, &room, &third).as_deref(), Ok("back"));
    assert_eq!(world.notices(bob), []);
    assert!(requests(&world, bob, "/keys/claim", from).is_empty());
    clean(&world);
}

/// Behaviour 25.
#[test]
fn a_sync_that_was_taken_but_not_acknowledged_comes_again_without_harm() {
    let mut world = World::new(406);
    let (alice, bob) = (world.add_device("alice"), world.add_device("bob"));
    let room = world.make_room(&[alice, bob]);
    world.set_online(bob, false);
    let event = world.send(alice, &room, "in both responses");
    // The disk is put back to before the sync, as if its commit had never been written; the server
    // still has everything, because nothing was acknowledged.
    let image = world.devices[bob].disk.image();
    world.set_online(bob, true);
    world.sync(bob);
    assert_eq!(world.text(bob, &room, &event).as_deref(), Ok("in both responses"));
    world.devices[bob].disk.restore(image);
    world.restart(bob);
    assert_eq!(world.text(bob, &room, &event), Err("not_there".to_owned()));
    world.sync(bob);
    assert_eq!(world.text(bob, &room, &event).as_deref(), Ok("in both responses"));
    world.settle();
    assert_eq!(world.texts(bob, &room), ["in both responses"]);
    clean(&world);
}

/// Behaviours 20, 25 and 27: an answer that comes after a restart, or twice, or out of order.
#[test]
fn answers_twice_and_out_of_order_change_nothing() {
    let mut world = World::new(407);
    let (alice, bob) = (world.add_device("alice"), world.add_device("bob"));
    let room = world.make_room(&[alice, bob]);
    world.queue(alice, &room, "one");
    world.queue(alice, &room, "two");
    let mut kept: Vec<(Outgoing, herold_testkit::homeserver::ServerResponse)> = Vec::new();
    for _ in 0..10 {
        for request in due(&mut world, alice) {
            let response = perform(&mut world, alice, &request);
            answer(&mut world, alice, &request, Some(&response));
            kept.push((request, response));
        }
        for (request, response) in kept.iter().rev() {
            answer(&mut world, alice, request, Some(response));
        }
    }
    assert!(pump_only(&mut world, alice, &[]).is_empty());
    world.settle();
    for device in [alice, bob] {
        assert_eq!(world.texts(device, &room), ["one", "two"]);
    }
    each_once(&world, &room);
    clean(&world);
}

/// Events are numbered one by one, whatever rows they share: each acknowledgement takes away exactly what
/// it names, and reading goes on from any number.
#[test]
fn app_events_are_acknowledged_one_by_one() {
    let mut world = World::new(410);
    let (alice, bob) = (world.add_device("alice"), world.add_device("bob"));
    let room = world.make_room(&[alice, bob]);
    world.settle();
    // One sync of Bob's brings them all.
    world.set_online(bob, false);
    for n in 0..6 {
        world.queue(alice, &room, &format!("message {n}"));
        world.settle();
    }
    world.set_online(bob, true);
    let response = next_sync(&mut world, bob);
    take_sync(&mut world, bob, &response);
    let all = event_numbers(&mut world, bob, None, usize::MAX);
    assert!(all.len() > 5, "{all:?}");
    assert!(all.windows(2).all(|pair| pair[0] + 1 == pair[1]), "a number is missing: {all:?}");
    for place in 0..all.len() {
        assert_eq!(event_numbers(&mut world, bob, Some(all[place]), usize::MAX), all[place + 1..]);
        assert_eq!(
            event_numbers(&mut world, bob, Some(all[place]), 3),
            all[place + 1..].iter().copied().take(3).collect::<Vec<_>>()
        );
    }
    for (place, last) in all.iter().enumerate().step_by(3) {
        world.command(bob, |engine| {
            engine.step(|machine, snapshot, cx| machine.acknowledge(snapshot, cx, *last))
        });
        world.restart(bob);
        assert_eq!(event_numbers(&mut world, bob, None, usize::MAX), all[place + 1..]);
        assert_eq!(event_numbers(&mut world, bob, Some(*last), usize::MAX), all[place + 1..]);
    }
}
