//! An app's own to-device events: who gets them, what becomes of them, and that nothing of it is lost.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod attacks_common;
mod behaviour_common;

use std::cell::RefCell;
use std::rc::Rc;

use attacks_common::CrossSigning;
use behaviour_common::{
    block, clean, edit_json, fail, log_length, notices, perform, requests, seconds, sent_to, take,
};
use herold::{
    AppEvent, DecryptTrust, EngineError, MachineError, OwnedTransactionId, OwnedUserId, Policy,
    Recipients, ToDeviceRecipient, ToDeviceResult,
};
use herold_testkit::{Attacker, Disk, World, kill_at_each_commit, open_policy};
use serde_json::{Value, json};

const CALL: &str = "org.example.call";

fn user(world: &World, device: usize) -> OwnedUserId {
    world.devices[device].user_id.clone()
}

fn one(world: &World, device: usize) -> ToDeviceRecipient {
    let id = world.devices[device].device_id.as_str();
    ToDeviceRecipient::Device(user(world, device), id.into())
}

/// Queues an event; again after a death that left it open whether it was.
fn send(
    world: &mut World,
    from: usize,
    to: &[ToDeviceRecipient],
    txn: &str,
    content: &Value,
) -> Result<(), MachineError> {
    send_as(world, from, to, CALL, txn, content)
}

fn send_as(
    world: &mut World,
    from: usize,
    to: &[ToDeviceRecipient],
    kind: &str,
    txn: &str,
    content: &Value,
) -> Result<(), MachineError> {
    let mut refused = None;
    for _ in 0..4 {
        let sent = world.command(from, |engine| {
            let id = Some(OwnedTransactionId::from(txn));
            match engine
                .step(|m, snapshot, cx| m.send_to_device(snapshot, cx, to, kind, content, id))
            {
                Err(EngineError::Machine(error)) => {
                    refused = Some(error);
                    Ok(None)
                }
                sent => sent.map(Some),
            }
        });
        match (sent, refused.take()) {
            (_, Some(error)) => return Err(error),
            (Some(_), None) => return Ok(()),
            (None, None) => {}
        }
    }
    panic!("a device died four times over one event");
}

/// What became of an event: (device, result).
fn outcome(world: &World, device: usize, txn: &str) -> Option<Vec<(String, ToDeviceResult)>> {
    let mut told = world.devices[device].events.iter().filter_map(|event| match event {
        AppEvent::ToDeviceSent { txn_id, outcomes } if txn_id == txn => Some(outcomes.clone()),
        _ => None,
    });
    let outcomes = told.next()?;
    assert!(told.next().is_none(), "told twice");
    Some(outcomes.into_iter().map(|one| (one.device_id.to_string(), one.result)).collect())
}

/// The contents a device's app has been given.
fn heard(world: &World, device: usize) -> Vec<Value> {
    let events = world.devices[device].events.iter();
    events
        .filter_map(|event| match event {
            AppEvent::ToDevice { event_type, content, .. } if event_type == CALL => {
                Some(serde_json::from_str(content).unwrap())
            }
            _ => None,
        })
        .collect()
}

fn id(world: &World, device: usize) -> String {
    world.devices[device].device_id.clone()
}

#[test]
fn an_event_reaches_one_device_or_all_of_a_user() {
    let mut world = World::new(801);
    let alice = world.add_device("alice");
    let mine = world.add_device("alice");
    let bobs = [world.add_device("bob"), world.add_device("bob")];
    world.settle();
    // Nobody shares a room: lists and sessions come by themselves.
    let to = [one(&world, bobs[0])];
    send(&mut world, alice, &to, "one", &json!({ "n": 1 })).unwrap();
    let all = [ToDeviceRecipient::User(user(&world, bobs[0])), one(&world, bobs[1])];
    send(&mut world, alice, &all, "all", &json!({ "n": 2 })).unwrap();
    let own = [ToDeviceRecipient::User(user(&world, alice))];
    send(&mut world, alice, &own, "own", &json!({ "n": 3, "text": "✓" })).unwrap();
    world.settle();
    assert_eq!(heard(&world, bobs[0]), [json!({ "n": 1 }), json!({ "n": 2 })]);
    assert_eq!(heard(&world, bobs[1]), [json!({ "n": 2 })]);
    assert_eq!(heard(&world, mine), [json!({ "n": 3, "text": "✓" })]);
    assert!(heard(&world, alice).is_empty());
    let sent = |devices: &[usize]| -> Option<Vec<(String, ToDeviceResult)>> {
        let mut all: Vec<_> =
            devices.iter().map(|device| (id(&world, *device), ToDeviceResult::Sent)).collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        Some(all)
    };
    assert_eq!(outcome(&world, alice, "one"), sent(&[bobs[0]]));
    assert_eq!(outcome(&world, alice, "all"), sent(&bobs));
    assert_eq!(outcome(&world, alice, "own"), sent(&[mine]));
    for seen in requests(&world, alice, "/sendToDevice/", 0) {
        assert!(seen.path.contains("/m.room.encrypted/"), "{}", seen.path);
    }
    clean(&world);
}

#[test]
fn a_device_that_may_not_have_room_keys_gets_no_event_either() {
    let mut world = World::new(802);
    let alice = world.add_device_with(
        "alice",
        Policy { recipients: Recipients::IdentityBased, ..open_policy() },
    );
    let bobs = [world.add_device("bob"), world.add_device("bob"), world.add_device("bob")];
    world.settle();
    let identity = CrossSigning::upload(&mut world, bobs[0]);
    for bob in &bobs[..2] {
        identity.sign_device(&mut world, *bob);
    }
    let room = world.make_room(&[alice, bobs[0]]);
    world.settle();
    block(&mut world, alice, bobs[1], true);
    let start = log_length(&world);
    let all = [ToDeviceRecipient::User(user(&world, bobs[0]))];
    send(&mut world, alice, &all, "call", &json!({ "n": 1 })).unwrap();
    world.settle();
    let mut outcomes = outcome(&world, alice, "call").unwrap();
    outcomes.sort_by_key(|(device, _)| bobs.iter().position(|bob| id(&world, *bob) == *device));
    let results: Vec<ToDeviceResult> = outcomes.into_iter().map(|(_, result)| result).collect();
    let withheld = |code: &str| ToDeviceResult::Withheld(code.to_owned());
    assert_eq!(
        results,
        [ToDeviceResult::Sent, withheld("m.blacklisted"), withheld("m.unverified")]
    );
    assert_eq!(heard(&world, bobs[0]), [json!({ "n": 1 })]);
    for bob in &bobs[1..] {
        assert!(sent_to(&world, *bob, "m.room.encrypted", start).is_empty());
    }
    let _ = room;
    clean(&world);
}

#[test]
fn a_device_without_keys_holds_up_nobody_else_and_is_named_after_15_seconds() {
    let mut world = World::new(803);
    let alice = world.add_device("alice");
    let bob = world.add_device("bob");
    let carol = world.add_device("carol");
    world.settle();
    let of = user(&world, bob).to_string();
    world.tamper = Some(Box::new(move |_, path, response| {
        if path.ends_with("/keys/claim") {
            edit_json(response, |body| {
                body["one_time_keys"].as_object_mut().unwrap().remove(&of);
            });
        }
    }));
    let began = world.clock.millis();
    let both = [one(&world, bob), one(&world, carol)];
    send(&mut world, alice, &both, "call", &json!({ "n": 1 })).unwrap();
    for _ in 0..6 {
        world.pump(alice);
    }
    world.sync(carol);
    assert_eq!(heard(&world, carol).len(), 1, "at once");
    assert_eq!(outcome(&world, alice, "call"), None);
    world.settle();
    let outcomes = outcome(&world, alice, "call").unwrap();
    assert_eq!(outcomes[0], (id(&world, bob), ToDeviceResult::NoOlm));
    assert_eq!(outcomes[1], (id(&world, carol), ToDeviceResult::Sent));
    assert!(world.clock.millis() - began >= 15_000);
    // What comes late finds the session that is there then.
    world.tamper = None;
    world.clock.advance(seconds(200));
    send(&mut world, alice, &both, "again", &json!({ "n": 2 })).unwrap();
    world.settle();
    assert_eq!(heard(&world, bob), [json!({ "n": 2 })]);
    clean(&world);
}

#[test]
fn an_event_waits_for_the_network_and_not_for_ever() {
    let mut world = World::new(804);
    let alice = world.add_device("alice");
    let bob = world.add_device("bob");
    world.settle();
    world.set_online(alice, false);
    let to = [one(&world, bob)];
    send(&mut world, alice, &to, "call", &json!({ "n": 1 })).unwrap();
    world.clock.advance(seconds(600));
    world.settle();
    assert_eq!(outcome(&world, alice, "call"), None, "no device is blamed for that");
    world.set_online(alice, true);
    world.settle();
    assert_eq!(heard(&world, bob).len(), 1);
    // An hour later nobody wants it any more.
    let carol = world.add_device("carol");
    world.pump(carol);
    world.set_online(alice, false);
    let to = [one(&world, carol)];
    send(&mut world, alice, &to, "old", &json!({ "n": 2 })).unwrap();
    world.clock.advance(seconds(3601));
    world.set_online(alice, true);
    world.settle();
    let outcomes = outcome(&world, alice, "old").unwrap();
    assert_ne!(outcomes[0].1, ToDeviceResult::Sent);
    assert!(heard(&world, carol).is_empty());
    clean(&world);
}

/// Behaviour 9, for these events.
#[test]
fn an_outdated_list_is_noted() {
    let mut world = World::new(805);
    let alice = world.add_device("alice");
    let bob = world.add_device("bob");
    let stolen = world.add_device("bob");
    let room = world.make_room(&[alice, bob]);
    world.send(alice, &room, "warm");
    behaviour_common::log_out(&mut world, stolen);
    world.sync(alice);
    let start = log_length(&world);
    let all = [ToDeviceRecipient::User(user(&world, bob))];
    send(&mut world, alice, &all, "call", &json!({ "n": 1 })).unwrap();
    let mut due = behaviour_common::due(&mut world, alice);
    let query = take(&mut due, "keys_query");
    assert!(due.iter().all(|request| request.kind() != "send_to_device"), "sent by an old list");
    let response = perform(&mut world, alice, &query);
    behaviour_common::answer(&mut world, alice, &query, Some(&response));
    world.settle();
    assert_eq!(outcome(&world, alice, "call"), Some(vec![(id(&world, bob), ToDeviceResult::Sent)]));
    assert!(sent_to(&world, stolen, "m.room.encrypted", start).is_empty());
    clean(&world);
}

#[test]
fn what_is_not_the_apps_to_send_is_refused() {
    let mut world = World::new(806);
    let alice = world.add_device("alice");
    let bob = world.add_device("bob");
    world.settle();
    let to = [one(&world, bob)];
    let commits = world.devices[alice].disk.commits();
    for kind in [
        "m.room.encrypted",
        "m.room_key",
        "m.room_key.withheld",
        "m.room_key_request",
        "m.room_key_bundle",
        "io.element.msc4268.room_key_bundle",
        "m.forwarded_room_key",
        "m.secret.send",
        "m.secret.request",
        "m.dummy",
        "m.key.verification.start",
        "m.key.verification.anything",
    ] {
        let refused = send_as(&mut world, alice, &to, kind, "t", &json!({}));
        assert!(matches!(refused, Err(MachineError::ReservedType)), "{kind}: {refused:?}");
    }
    for kind in ["", &"x".repeat(256)] {
        let refused = send_as(&mut world, alice, &to, kind, "t", &json!({}));
        assert!(matches!(refused, Err(MachineError::Malformed(_))), "{refused:?}");
    }
    for content in [json!([]), json!("text"), json!(null), json!(7)] {
        let refused = send(&mut world, alice, &to, "t", &content);
        assert!(matches!(refused, Err(MachineError::Malformed(_))), "{refused:?}");
    }
    let nobody = send(&mut world, alice, &[], "t", &json!({}));
    assert!(matches!(nobody, Err(MachineError::Malformed(_))));
    let refused = send(&mut world, alice, &to, "t", &json!({ "x": "y".repeat(41_000) }));
    assert!(matches!(refused, Err(MachineError::TooLarge)), "{refused:?}");
    let many: Vec<ToDeviceRecipient> = (0..1001).map(|_| to[0].clone()).collect();
    assert!(matches!(send(&mut world, alice, &many, "t", &json!({})), Err(MachineError::TooLarge)));
    assert_eq!(world.devices[alice].disk.commits(), commits);
    // The largest there is fits into an event.
    send(&mut world, alice, &to, "large", &json!({ "x": "y".repeat(40_900) })).unwrap();
    world.settle();
    assert_eq!(heard(&world, bob).len(), 1);
    let seen = requests(&world, alice, "/sendToDevice/", 0);
    assert!(seen.last().unwrap().body.len() < 65_536);
    clean(&world);
}

#[test]
fn what_the_server_says_to_it_is_told_device_by_device() {
    for (status, each_alone) in [(413, true), (403, false)] {
        let mut world = World::new(807);
        let alice = world.add_device("alice");
        let bob = world.add_device("bob");
        let carol = world.add_device("carol");
        world.settle();
        let to = [one(&world, bob), one(&world, carol)];
        send(&mut world, alice, &to, "warm", &json!({ "n": 0 })).unwrap();
        world.settle();
        let first = Rc::new(RefCell::new(true));
        let (on, name) = (first.clone(), "/sendToDevice/");
        let bobs = user(&world, bob).to_string();
        world.tamper = Some(Box::new(move |_, path, response| {
            let mut first = on.borrow_mut();
            if path.contains(name) && *first {
                *first = !each_alone;
                fail(response, status);
            }
        }));
        send(&mut world, alice, &to, "call", &json!({ "n": 1 })).unwrap();
        world.settle();
        let outcomes = outcome(&world, alice, "call").unwrap();
        let result = if each_alone {
            ToDeviceResult::Sent
        } else {
            ToDeviceResult::Refused("M_UNKNOWN".to_owned())
        };
        assert_eq!(outcomes.len(), 2);
        assert!(outcomes.iter().all(|(_, outcome)| *outcome == result), "{bobs}: {outcomes:?}");
    }
}

#[test]
fn the_same_id_names_the_same_event_while_it_is_queued() {
    let mut world = World::new(808);
    let alice = world.add_device("alice");
    let bob = world.add_device("bob");
    world.settle();
    for n in 0..3 {
        let to = [one(&world, bob)];
        send(&mut world, alice, &to, "same", &json!({ "n": n })).unwrap();
    }
    let nobody = ToDeviceRecipient::Device(user(&world, bob), "NONE".into());
    send(&mut world, alice, &[nobody], "nobody", &json!({})).unwrap();
    world.settle();
    assert_eq!(heard(&world, bob), [json!({ "n": 0 })]);
    let unknown = ("NONE".to_owned(), ToDeviceResult::UnknownDevice);
    assert_eq!(outcome(&world, alice, "nobody"), Some(vec![unknown]));
    clean(&world);
}

/// N46, both ends ours: the app is told nothing of a device that is not believed, but verification comes.
#[test]
fn under_strict_trust_only_verification_reaches_the_app() {
    let mut world = World::new(809);
    let policy = Policy { decrypt_trust: DecryptTrust::CrossSigned, ..open_policy() };
    let alice = world.add_device_with("alice", policy);
    let bob = world.add_device("bob");
    let mut ghost = Attacker::ghost(&mut world, "@bob:world.test", "GHOST");
    world.settle();
    let to = [one(&world, alice)];
    send(&mut world, bob, &to, "call", &json!({ "n": 1 })).unwrap();
    world.settle();
    assert_eq!(outcome(&world, bob, "call").unwrap()[0].1, ToDeviceResult::Sent);
    assert!(heard(&world, alice).is_empty());
    assert_eq!(notices(&world, alice, "to_device_dropped").len(), 1);
    let bob_id = user(&world, bob);
    world.command(alice, |engine| {
        engine.step(|machine, snapshot, cx| machine.refresh_devices(snapshot, cx, &bob_id))
    });
    world.settle();
    let request = json!({
        "transaction_id": "t",
        "from_device": "GHOST",
        "methods": ["m.sas.v1"],
        "timestamp": world.clock.millis(),
    });
    ghost.send(&mut world, alice, "m.key.verification.request", &request);
    world.settle();
    // As a verification, and not as an event of the app's own.
    let events = &world.devices[alice].events;
    assert!(!events.iter().any(|event| matches!(event, AppEvent::ToDevice { .. })));
    let told = events
        .iter()
        .filter(|event| matches!(event, AppEvent::Verification { flow_id, .. } if flow_id == "t"));
    assert!(told.count() >= 1);
    // Once its owner has signed it, it is believed.
    let identity = CrossSigning::upload(&mut world, bob);
    identity.sign_device(&mut world, bob);
    world.command(alice, |engine| {
        let user = user_id("@bob:world.test");
        engine.step(|machine, snapshot, cx| machine.refresh_devices(snapshot, cx, &user))
    });
    world.settle();
    let to = [one(&world, alice)];
    send(&mut world, bob, &to, "again", &json!({ "n": 2 })).unwrap();
    world.settle();
    assert_eq!(heard(&world, alice), [json!({ "n": 2 })]);
    clean(&world);
}

fn user_id(text: &str) -> OwnedUserId {
    text.try_into().unwrap()
}

/// Behaviours 25 to 27, for these events.
#[test]
fn events_survive_a_kill_at_each_commit() {
    fn story(world: &mut World, disks: &[Disk]) {
        let [alice, bob] = [("alice", 0), ("bob", 1)]
            .map(|(name, disk)| world.add_device_on(name, open_policy(), disks[disk].clone()));
        let second = world.add_device("bob");
        world.settle();
        let all = [ToDeviceRecipient::User(user(world, bob))];
        send(world, alice, &all, "one", &json!({ "n": 1 })).unwrap();
        send(world, alice, &all, "two", &json!({ "n": 2 })).unwrap();
        world.settle();
        send(world, bob, &[one(world, alice)], "back", &json!({ "n": 3 })).unwrap();
        world.settle();
        for device in [bob, second] {
            assert_eq!(heard(world, device), [json!({ "n": 1 }), json!({ "n": 2 })]);
        }
        assert_eq!(heard(world, alice), [json!({ "n": 3 })]);
        for txn in ["one", "two"] {
            let outcomes = outcome(world, alice, txn).expect("it was told");
            assert_eq!(outcomes.len(), 2);
            assert!(outcomes.iter().all(|(_, result)| *result == ToDeviceResult::Sent));
        }
        assert!(outcome(world, bob, "back").is_some());
    }
    let kills = kill_at_each_commit(810, 2, story);
    assert!(kills > 40, "only {kills} kills");
}
