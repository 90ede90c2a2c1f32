//! Required behaviour: one-time keys, fallback keys, and what claims and uploads may do.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod behaviour_common;

use std::{cell::RefCell, rc::Rc};

use behaviour_common::{
    Switch, answer, clean, due, edit_json, fail, notices, perform, pump_only, replay_first_claim,
    requests, seconds, session, take,
};
use herold_crypto::{Account, Curve25519PublicKey, IdentityKeys};
use herold_store::{
    SnapshotExt as _,
    records::{AccountRecord, Only},
};
use herold_testkit::{Disk, Kill, World, open_policy};
use serde_json::{Value, json};

/// What the server holds at most of one device, as the crypto core has it.
const MAXIMUM: usize = 50;

fn on_server(world: &World, device: usize) -> usize {
    let device = &world.devices[device];
    world.server.one_time_key_ids(device.user_id.as_str(), &device.device_id).len()
}

fn drop_keys(world: &mut World, device: usize) {
    let (user, id) =
        (world.devices[device].user_id.to_string(), world.devices[device].device_id.clone());
    world.server.drop_one_time_keys(&user, &id);
}

fn count_override(world: &mut World, device: usize, counts: Option<Value>) {
    let (user, id) =
        (world.devices[device].user_id.to_string(), world.devices[device].device_id.clone());
    world.server.set_one_time_key_count_override(&user, &id, counts);
}

/// Makes the server have something to say, so that a device hears the counts.
fn nudge(world: &mut World, device: usize) {
    let (user, id) =
        (world.devices[device].user_id.to_string(), world.devices[device].device_id.clone());
    let event = json!({ "type": "org.example.nudge", "sender": user, "content": {} });
    world.server.inject_to_device(&user, &id, event);
}

/// How many private one-time keys a device keeps.
fn private_keys(world: &World, device: usize) -> usize {
    let image = world.devices[device].disk.image();
    let record: AccountRecord = image.load(&Only).unwrap().unwrap();
    Account::from_record(record.pickle.as_slice()).unwrap().stored_one_time_key_count()
}

/// Behaviour 16.
#[test]
fn one_time_keys_are_replaced_as_they_are_used() {
    let mut world = World::new(301);
    let bob = world.add_device("bob");
    world.settle();
    assert!(on_server(&world, bob) * 2 >= MAXIMUM);
    for _ in 0..5 {
        drop_keys(&mut world, bob);
        nudge(&mut world, bob);
        world.clock.advance(seconds(60));
        world.settle();
        assert!(on_server(&world, bob) * 2 >= MAXIMUM, "{}", on_server(&world, bob));
    }
    clean(&world);
}

/// Behaviour 16.
#[test]
fn nonsense_counts_neither_starve_nor_flood_the_server() {
    for nonsense in [
        Value::Null,
        json!({}),
        json!({ "signed_curve25519": 0 }),
        json!({ "signed_curve25519": -1 }),
        json!({ "signed_curve25519": "50" }),
        json!({ "signed_curve25519": 0.5 }),
        json!({ "signed_curve25519": 1e300 }),
        json!({ "signed_curve25519": u64::MAX }),
        json!({ "curve25519": 100 }),
        json!([]),
        json!("none"),
    ] {
        let mut world = World::new(302);
        let bob = world.add_device("bob");
        count_override(&mut world, bob, Some(nonsense.clone()));
        world.settle();
        assert!(on_server(&world, bob) * 2 >= MAXIMUM, "{nonsense}");
        let from = world.server.requests().len();
        for _ in 0..60 {
            nudge(&mut world, bob);
            world.clock.advance(seconds(1));
            world.sync(bob);
            world.pump(bob);
        }
        let uploads = requests(&world, bob, "/keys/upload", from).len();
        assert!(uploads <= 31, "{uploads} uploads in a minute for {nonsense}");
        assert!(private_keys(&world, bob) <= 100 * MAXIMUM, "{nonsense}");
        // As soon as the server counts right, there are enough.
        drop_keys(&mut world, bob);
        count_override(&mut world, bob, None);
        nudge(&mut world, bob);
        world.clock.advance(seconds(60));
        world.settle();
        assert!(on_server(&world, bob) * 2 >= MAXIMUM, "{nonsense}");
        clean(&world);
    }
}

/// Behaviour 16: an algorithm that is not counted has no keys (Matrix specification, `/sync`).
#[test]
fn an_algorithm_that_the_server_does_not_count_has_no_keys() {
    for counts in [json!({}), json!({ "curve25519": 100 })] {
        let mut world = World::new(303);
        let bob = world.add_device("bob");
        world.settle();
        drop_keys(&mut world, bob);
        count_override(&mut world, bob, Some(counts.clone()));
        nudge(&mut world, bob);
        world.clock.advance(seconds(60));
        world.settle();
        assert!(on_server(&world, bob) * 2 >= MAXIMUM, "{counts}");
        clean(&world);
    }
}

/// Three senders, each in a room of its own with bob.
fn three_senders(world: &mut World) -> (usize, [(usize, herold::OwnedRoomId); 3]) {
    let bob = world.add_device("bob");
    let senders = ["alice", "carol", "dave"].map(|name| {
        let sender = world.add_device(name);
        (sender, world.make_room(&[sender, bob]))
    });
    (bob, senders)
}

/// Behaviour 17.
#[test]
fn the_fallback_key_serves_when_the_others_are_gone_and_is_rotated_after_use() {
    let mut world = World::new(304);
    let (bob, [(alice, room_a), (carol, room_c), (dave, room_d)]) = three_senders(&mut world);
    let erin = world.add_device("erin");
    let room_e = world.make_room(&[erin, bob]);
    world.clock.advance(seconds(300));
    drop_keys(&mut world, bob);
    let reuse = replay_first_claim(&mut world);
    world.set_online(bob, false);
    let from = world.server.requests().len();
    let first = world.send(alice, &room_a, "by the fallback key");
    assert_eq!(requests(&world, alice, "/keys/claim", from).len(), 1);
    // Bob notices the use and publishes another.
    world.set_online(bob, true);
    world.settle();
    assert_eq!(world.text(bob, &room_a, &first).as_deref(), Ok("by the fallback key"));
    let uploads = requests(&world, bob, "/keys/upload", from);
    let rotated = uploads.iter().any(|seen| {
        let body: Value = serde_json::from_slice(&seen.body).unwrap();
        body["fallback_keys"].is_object()
    });
    assert!(rotated, "the used fallback key was not replaced");
    // The one before still works for a while...
    reuse.set(true);
    let second = world.send(carol, &room_c, "by the one before");
    assert_eq!(world.text(bob, &room_c, &second).as_deref(), Ok("by the one before"));
    assert!(notices(&world, bob, "to_device_dropped").is_empty());
    // ...a week: whoever had claimed it may have been switched off meanwhile...
    world.clock.advance(seconds(6 * 24 * 3600));
    nudge(&mut world, bob);
    world.settle();
    let third = world.send(erin, &room_e, "by the one before, late");
    assert_eq!(world.text(bob, &room_e, &third).as_deref(), Ok("by the one before, late"));
    // ...and later no more.
    world.clock.advance(seconds(2 * 24 * 3600));
    nudge(&mut world, bob);
    world.settle();
    let third = world.send(dave, &room_d, "by an old one");
    assert_eq!(world.text(bob, &room_d, &third), Err("missing_key".to_owned()));
    assert_eq!(notices(&world, bob, "to_device_dropped").len(), 1);
    clean(&world);
}

/// Behaviour 17: only one previous key is kept. Whoever has claimed it is not to lose it because the next one is used, too.
#[test]
fn a_fallback_key_is_not_replaced_while_the_one_before_has_to_work() {
    let mut world = World::new(319);
    let (bob, [(alice, room_a), (carol, room_c), (dave, room_d)]) = three_senders(&mut world);
    world.set_online(bob, false);
    drop_keys(&mut world, bob);
    let from = world.server.requests().len();
    let reuse = replay_first_claim(&mut world);
    let mut texts = vec![(room_a.clone(), world.send(alice, &room_a, "by the first"))];
    let uploaded = |world: &World| {
        let uploads = requests(world, bob, "/keys/upload", from);
        let bodies =
            uploads.iter().map(|seen| serde_json::from_slice::<Value>(&seen.body).unwrap());
        bodies.filter(|body| body["fallback_keys"].is_object()).count()
    };
    world.set_online(bob, true);
    world.settle();
    assert_eq!(uploaded(&world), 1, "the used fallback key is replaced");
    // The second one is used at once, and a day later, by others.
    for _ in 0..2 {
        drop_keys(&mut world, bob);
        let stranger = world.add_device("stranger");
        let room = world.make_room(&[stranger, bob]);
        world.set_online(bob, false);
        texts.push((room.clone(), world.send(stranger, &room, "by the second")));
        world.set_online(bob, true);
        world.settle();
        world.clock.advance(seconds(24 * 3600));
        nudge(&mut world, bob);
        world.settle();
    }
    assert_eq!(uploaded(&world), 1, "the second stays");
    reuse.set(true);
    texts.push((room_c.clone(), world.send(carol, &room_c, "by the first, after days")));
    for (room, event) in &texts {
        assert!(world.text(bob, room, event).is_ok(), "{:?}", world.text(bob, room, event));
    }
    // The week is over: the first goes, the second is replaced.
    world.clock.advance(seconds(6 * 24 * 3600));
    nudge(&mut world, bob);
    world.settle();
    assert_eq!(uploaded(&world), 2);
    let late = world.send(dave, &room_d, "by the first, too late");
    assert_eq!(world.text(bob, &room_d, &late), Err("missing_key".to_owned()));
    clean(&world);
}

/// Behaviour 17.
#[test]
fn many_senders_at_once_are_all_read_when_the_one_time_keys_run_out() {
    let mut world = World::new(305);
    let bob = world.add_device("bob");
    let mut senders = Vec::new();
    for n in 0..4 {
        let sender = world.add_device(&format!("sender{n}"));
        senders.push((sender, world.make_room(&[sender, bob])));
    }
    drop_keys(&mut world, bob);
    world.set_online(bob, false);
    let sent: Vec<_> = senders
        .iter()
        .map(|(sender, room)| (room.clone(), world.send(*sender, room, "one of many")))
        .collect();
    world.restart(bob);
    world.set_online(bob, true);
    world.settle();
    for (room, event) in &sent {
        assert_eq!(world.text(bob, room, event).as_deref(), Ok("one of many"));
    }
    world.clock.advance(seconds(30));
    nudge(&mut world, bob);
    world.settle();
    assert!(on_server(&world, bob) * 2 >= MAXIMUM);
    clean(&world);
}

/// Behaviour 18.
#[test]
fn a_key_handed_out_twice_serves_the_first_and_the_second_recovers() {
    let mut world = World::new(306);
    let (bob, [(alice, room_a), (carol, room_c), _]) = three_senders(&mut world);
    let reuse = replay_first_claim(&mut world);
    let first = world.send(alice, &room_a, "the first");
    assert_eq!(world.text(bob, &room_a, &first).as_deref(), Ok("the first"));
    reuse.set(true);
    let txn_id = world.queue(carol, &room_c, "the second");
    while world.pump(carol) {}
    reuse.set(false);
    world.settle();
    let second = world.sent(carol, &txn_id).unwrap();
    assert_eq!(notices(&world, bob, "to_device_dropped").len(), 1);
    // Bob has made a fresh session; through it he gets what he missed.
    let third = world.send(carol, &room_c, "the next");
    assert_eq!(world.text(bob, &room_c, &third).as_deref(), Ok("the next"));
    let reply = world.send(bob, &room_c, "and back");
    assert_eq!(world.text(carol, &room_c, &reply).as_deref(), Ok("and back"));
    assert_eq!(notices(&world, bob, "to_device_dropped").len(), 1);
    assert_eq!(world.text(bob, &room_c, &second).as_deref(), Ok("the second"));
    clean(&world);
}

/// Behaviour 19.
#[test]
fn a_bad_pre_key_message_burns_no_key() {
    let mut world = World::new(307);
    let (alice, bob) = (world.add_device("alice"), world.add_device("bob"));
    let room = world.make_room(&[alice, bob]);
    world.tamper = Some(Box::new(move |device, path, response| {
        if device != bob || !path.ends_with("/sync") {
            return;
        }
        edit_json(response, |body| {
            let Some(events) = body["to_device"]["events"].as_array_mut() else { return };
            let mut all = Vec::new();
            for event in events.iter() {
                let mut bad = event.clone();
                for (_, message) in
                    bad["content"]["ciphertext"].as_object_mut().into_iter().flatten()
                {
                    if message["type"] != 0 {
                        continue;
                    }
                    // The last bytes are the MAC of the message inside.
                    let mut text = message["body"].as_str().unwrap().to_owned();
                    let place = text.len() - 12;
                    let other = if &text[place..=place] == "A" { "B" } else { "A" };
                    text.replace_range(place..=place, other);
                    message["body"] = json!(text);
                }
                all.extend((bad != *event).then_some(bad));
                all.push(event.clone());
            }
            *events = all;
        });
    }));
    let event = world.send(alice, &room, "the good one");
    assert_eq!(world.text(bob, &room, &event).as_deref(), Ok("the good one"));
    assert_eq!(notices(&world, bob, "to_device_dropped").len(), 1);
    clean(&world);
}

/// Behaviour 20.
#[test]
fn a_claim_that_fails_for_some_servers_holds_up_nobody_else() {
    let mut world = World::new(308);
    let alice = world.add_device("alice");
    let bob = world.add_device("bob");
    let far = world.add_device("@far:away.test");
    let room = world.make_room(&[alice, bob, far]);
    world.server.fail_servers(vec!["away.test".to_owned()]);
    let start = world.clock.millis();
    let txn_id = world.queue(alice, &room, "to all");
    while world.pump(alice) {}
    let event = world.sent(alice, &txn_id);
    let waited = world.clock.millis() - start;
    assert!(event.is_some() && waited == 0, "waited {waited} ms for a server that has answered");
    world.settle();
    let event = event.unwrap();
    assert_eq!(world.text(bob, &room, &event).as_deref(), Ok("to all"));
    assert!(world.text(far, &room, &event).is_err());
    // It is tried again with growing pauses, and then told at once, without another message.
    let from = world.server.requests().len();
    for _ in 0..30 {
        world.clock.advance(seconds(20));
        world.pump(alice);
    }
    let tries = requests(&world, alice, "/keys/claim", from).len();
    assert!((2..=20).contains(&tries), "{tries} claims in ten minutes");
    world.server.fail_servers(Vec::new());
    world.clock.advance(seconds(200));
    world.settle();
    assert_eq!(world.text(far, &room, &event).as_deref(), Ok("to all"));
    clean(&world);
}

/// Behaviour 20.
#[test]
fn a_claim_that_fails_wholly_delays_a_message_by_seconds_and_loses_nothing() {
    let mut world = World::new(309);
    let (alice, bob) = (world.add_device("alice"), world.add_device("bob"));
    let room = world.make_room(&[alice, bob]);
    let broken = Switch::default();
    broken.set(true);
    let on = broken.clone();
    world.tamper = Some(Box::new(move |_, path, response| {
        if on.is_on() && path.ends_with("/keys/claim") {
            fail(response, 500);
        }
    }));
    let start = world.clock.millis();
    let txn_id = world.queue(alice, &room, "patience");
    while world.sent(alice, &txn_id).is_none() {
        world.pump(alice);
        world.clock.advance(seconds(1));
        assert!(world.clock.millis() - start <= 17_000, "held up too long");
    }
    let event = world.sent(alice, &txn_id).unwrap();
    broken.set(false);
    world.clock.advance(seconds(200));
    world.settle();
    assert_eq!(world.text(bob, &room, &event).as_deref(), Ok("patience"));
    clean(&world);
}

/// Behaviour 20.
#[test]
fn a_claim_that_is_not_answered_holds_a_message_up_for_fifteen_seconds_and_no_longer() {
    let mut world = World::new(310);
    let (alice, bob) = (world.add_device("alice"), world.add_device("bob"));
    let far = world.add_device("@far:away.test");
    let room = world.make_room(&[alice, bob, far]);
    world.queue(alice, &room, "slow");
    let mut requests = pump_only(&mut world, alice, &["members", "keys_query"]);
    let first = take(&mut requests, "keys_claim");
    let second = take(&mut requests, "keys_claim");
    let (near, slow) =
        if first.id.as_str().contains("away") { (second, first) } else { (first, second) };
    let response = perform(&mut world, alice, &near);
    answer(&mut world, alice, &near, Some(&response));
    // Those who could be reached have the key at once.
    assert!(pump_only(&mut world, alice, &["send_to_device"]).is_empty(), "sent too early");
    assert_eq!(world.server.to_device_log().len(), 1);
    world.clock.advance(seconds(14));
    assert!(pump_only(&mut world, alice, &["send_to_device"]).is_empty(), "sent too early");
    world.clock.advance(seconds(1));
    let mut rest = pump_only(&mut world, alice, &["send_to_device"]);
    let send = take(&mut rest, "send");
    let response = perform(&mut world, alice, &send);
    answer(&mut world, alice, &send, Some(&response));
    // Late is not never.
    let response = perform(&mut world, alice, &slow);
    answer(&mut world, alice, &slow, Some(&response));
    world.settle();
    for device in [bob, far] {
        assert_eq!(world.texts(device, &room), ["slow"]);
    }
    clean(&world);
}

/// A room of alice and bob whose sessions serve for one message, while bob's keys cannot be claimed.
fn unreachable_bob(seed: u64) -> (World, [usize; 2], herold::OwnedRoomId) {
    let mut world = World::new(seed);
    let (alice, bob) = (world.add_device("alice"), world.add_device("@bob:away.test"));
    let rotation = json!({ "rotation_period_msgs": 1 });
    let room = world.make_room_with(&[alice, bob], rotation, "shared");
    world.server.fail_servers(vec!["away.test".to_owned()]);
    (world, [alice, bob], room)
}

/// Behaviours 15, 20 and 35.
#[test]
fn a_device_reached_late_gets_the_key_of_a_session_that_has_served_its_time() {
    let (mut world, [alice, bob], room) = unreachable_bob(316);
    let event = world.send(alice, &room, "the only one");
    assert!(world.text(bob, &room, &event).is_err());
    world.server.fail_servers(Vec::new());
    world.clock.advance(seconds(200));
    world.settle();
    assert_eq!(world.text(bob, &room, &event).as_deref(), Ok("the only one"));
    clean(&world);
}

/// A one-time key's entry in an answer of `/keys/claim`, changed by `edit`.
fn edit_claimed(
    response: &mut herold_testkit::homeserver::ServerResponse,
    edit: &dyn Fn(&mut Value),
) {
    edit_json(response, |body| {
        let users = body["one_time_keys"].as_object_mut().into_iter().flatten();
        for (_, devices) in users {
            for (_, keys) in devices.as_object_mut().into_iter().flatten() {
                for (_, key) in keys.as_object_mut().into_iter().flatten() {
                    edit(key);
                }
            }
        }
    });
}

/// Behaviour 20.
#[test]
fn wrong_unsigned_and_foreign_keys_are_refused_and_asked_for_again() {
    let foreign = Account::new();
    let signed_by_another = move |key: &mut Value| {
        let mut object = json!({ "key": key["key"] });
        foreign.sign_json("@bob:world.test", "OTHER", &mut object).unwrap();
        *key = object;
    };
    let unsigned = |key: &mut Value| *key = json!({ "key": key["key"] });
    let wrong = |key: &mut Value| key["key"] = json!("A".repeat(43));
    let no_object = |key: &mut Value| *key = key["key"].clone();
    type Edit = Rc<dyn Fn(&mut Value)>;
    let edits: [Edit; 4] =
        [Rc::new(signed_by_another), Rc::new(unsigned), Rc::new(wrong), Rc::new(no_object)];
    for edit in edits {
        let mut world = World::new(311);
        let alice = world.add_device("alice");
        let carol = world.add_device("carol");
        let bob = world.add_device("@bob:other.test");
        let room = world.make_room(&[alice, bob, carol]);
        let bad = Switch::default();
        bad.set(true);
        let on = bad.clone();
        world.tamper = Some(Box::new(move |_, path, response| {
            let of_bob = std::str::from_utf8(&response.body).unwrap().contains("@bob:other.test");
            if on.is_on() && path.ends_with("/keys/claim") && of_bob {
                edit_claimed(response, &*edit);
            }
        }));
        let event = world.send(alice, &room, "hello");
        assert!(!notices(&world, alice, "one_time_key_refused").is_empty());
        assert_eq!(world.text(carol, &room, &event).as_deref(), Ok("hello"));
        assert!(world.text(bob, &room, &event).is_err());
        bad.set(false);
        world.clock.advance(seconds(200));
        world.settle();
        assert_eq!(world.text(bob, &room, &event).as_deref(), Ok("hello"));
        clean(&world);
    }
}

/// Behaviour 21.
#[test]
fn an_upload_is_repeated_with_the_same_keys_until_it_is_answered() {
    let mut world = World::new(312);
    let bob = world.add_device("bob");
    let lost = Switch::default();
    let mut bodies = Vec::new();
    // Failed, answered with nonsense status, answered but not received, cut by a restart.
    for round in 0..4 {
        world.clock.advance(seconds(300));
        let upload = take(&mut due(&mut world, bob), "keys_upload");
        match round {
            0 => {
                let mut response = perform(&mut world, bob, &upload);
                fail(&mut response, 503);
                answer(&mut world, bob, &upload, Some(&response));
            }
            1 => answer(&mut world, bob, &upload, None),
            2 => {
                perform(&mut world, bob, &upload);
                answer(&mut world, bob, &upload, None);
            }
            _ => {
                perform(&mut world, bob, &upload);
                world.restart(bob);
            }
        }
        bodies.push(format!(
            "{:?}",
            match &upload.http.body {
                herold::Body::Json(text) => text.clone(),
                other => panic!("{}", matches!(other, herold::Body::Empty)),
            }
        ));
    }
    assert!(bodies.iter().all(|body| *body == bodies[0]));
    lost.set(false);
    world.clock.advance(seconds(300));
    world.settle();
    assert_eq!(on_server(&world, bob), MAXIMUM);
    assert!(notices(&world, bob, "one_time_key_clash").is_empty());
    clean(&world);
}

/// Behaviour 21.
#[test]
fn a_kill_at_any_commit_of_the_first_upload_leaves_one_set_of_keys() {
    for number in 0..6 {
        for kill in [Kill::Before(number), Kill::After(number)] {
            let mut world = World::new(313);
            let disk = Disk::new();
            disk.kill(kill);
            let bob = world.add_device_on("bob", open_policy(), disk);
            world.settle();
            assert_eq!(on_server(&world, bob), MAXIMUM, "{kill:?}");
            assert!(notices(&world, bob, "one_time_key_clash").is_empty(), "{kill:?}");
            clean(&world);
        }
    }
}

/// Behaviour 21.
#[test]
fn a_clash_of_one_time_keys_ends() {
    let mut world = World::new(314);
    let (alice, bob) = (world.add_device("alice"), world.add_device("bob"));
    let ids: Vec<String> = {
        let upload = take(&mut due(&mut world, bob), "keys_upload");
        let herold::Body::Json(text) = &upload.http.body else { panic!("no body") };
        let body: Value = serde_json::from_str(text).unwrap();
        answer(&mut world, bob, &upload, None);
        body["one_time_keys"].as_object().unwrap().keys().cloned().collect()
    };
    let (user, id) = (world.devices[bob].user_id.to_string(), world.devices[bob].device_id.clone());
    let others = ids.iter().take(3).map(|id| (id.clone(), json!({ "key": "something else" })));
    world.server.add_one_time_keys(&user, &id, others.collect());
    let from = world.server.requests().len();
    world.clock.advance(seconds(300));
    let room = world.make_room(&[alice, bob]);
    assert_eq!(notices(&world, bob, "one_time_key_clash").len(), 1);
    for _ in 0..5 {
        world.clock.advance(seconds(600));
        nudge(&mut world, bob);
        world.settle();
    }
    let uploads = requests(&world, bob, "/keys/upload", from).len();
    assert!(uploads <= 4, "{uploads} uploads");
    // Whoever gets one of the strange keys refuses it and asks again.
    let event = world.send(alice, &room, "hello");
    world.clock.advance(seconds(600));
    world.settle();
    world.clock.advance(seconds(600));
    world.settle();
    assert_eq!(world.text(bob, &room, &event).as_deref(), Ok("hello"));
    clean(&world);
}

/// Behaviours 9, 18: the keys of a device's identity and of its one-time keys never meet by accident.
#[test]
fn the_keys_on_the_server_are_all_different_and_signed() {
    let mut world = World::new(315);
    let bob = world.add_device("bob");
    let seen: Rc<RefCell<Vec<String>>> = Rc::default();
    world.settle();
    for request in requests(&world, bob, "/keys/upload", 0) {
        let body: Value = serde_json::from_slice(&request.body).unwrap();
        for part in ["one_time_keys", "fallback_keys"] {
            for (_, key) in body[part].as_object().into_iter().flatten() {
                seen.borrow_mut().push(key["key"].as_str().unwrap().to_owned());
            }
        }
    }
    let keys: IdentityKeys =
        world.command(bob, |engine| Ok(engine.machine().identity_keys())).unwrap();
    let mut all = seen.take();
    let identity: Curve25519PublicKey = keys.curve25519;
    all.push(identity.to_base64());
    let count = all.len();
    assert_eq!(count, MAXIMUM + 2);
    all.sort();
    all.dedup();
    assert_eq!(all.len(), count);
    let room = world.make_room(&[bob]);
    let event = world.send(bob, &room, "alone");
    assert!(!session(&world, &room, &event).is_empty());
    clean(&world);
}
