//! Required behaviour: new, removed and returning devices; lists that are outdated.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod behaviour_common;

use behaviour_common::{
    Switch, act, answer, clean, due, fail, known_devices, log_length, log_out, perform, pump_only,
    requests, seconds, sent_to, session, take,
};
use herold::OwnedUserId;
use herold_crypto::{Account, OlmMessage};
use herold_testkit::World;
use serde_json::{Value, json};

/// Behaviour 5.
#[test]
fn a_new_device_reads_new_messages() {
    let mut world = World::new(501);
    let (alice, bob) = (world.add_device("alice"), world.add_device("bob"));
    let room = world.make_room(&[alice, bob]);
    let old = world.send(alice, &room, "old");
    let new_device = world.add_device("bob");
    // Sent before the new device has done anything but upload its keys.
    world.pump(new_device);
    world.sync(alice);
    let event = world.send(alice, &room, "new");
    assert_eq!(world.text(new_device, &room, &event).as_deref(), Ok("new"));
    assert!(world.text(new_device, &room, &old).is_err());
    let back = world.send(new_device, &room, "back");
    for device in [alice, bob] {
        assert_eq!(world.text(device, &room, &back).as_deref(), Ok("back"));
    }
    // And the sender's own other device.
    let alice_2 = world.add_device("alice");
    world.settle();
    let last = world.send(alice, &room, "to myself too");
    assert_eq!(world.text(alice_2, &room, &last).as_deref(), Ok("to myself too"));
    clean(&world);
}

/// A device's signed keys and one one-time key, as another client would upload them.
fn keys_of(account: &mut Account, user: &OwnedUserId, device: &str) -> (Value, (String, Value)) {
    let keys = account.identity_keys();
    let mut object = json!({
        "user_id": user, "device_id": device,
        "algorithms": ["m.olm.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2"],
        "keys": {
            format!("curve25519:{device}"): keys.curve25519.to_base64(),
            format!("ed25519:{device}"): keys.ed25519.to_base64(),
        },
    });
    account.sign_json(user.as_str(), device, &mut object).unwrap();
    account.generate_one_time_keys(1);
    let (id, public) = account.unpublished_one_time_keys().remove(0);
    let mut one_time_key = json!({ "key": public.to_base64() });
    account.sign_json(user.as_str(), device, &mut one_time_key).unwrap();
    (object, (format!("signed_curve25519:{id}"), one_time_key))
}

/// Behaviour 5.
#[test]
fn a_device_id_that_comes_back_with_new_keys_is_a_new_device() {
    let mut world = World::new(502);
    let (alice, bob) = (world.add_device("alice"), world.add_device("bob"));
    let room = world.make_room(&[alice, bob]);
    let first = world.send(alice, &room, "to the old one");
    let (user, id) = (world.devices[bob].user_id.clone(), world.devices[bob].device_id.clone());
    let old_key = known_devices(&mut world, alice, &user).devices[0].device.keys.curve25519;
    log_out(&mut world, bob);
    world.settle();
    assert!(known_devices(&mut world, alice, &user).devices.is_empty());
    // The same id, but everything else is new.
    let mut account = Account::new();
    let (object, one_time_key) = keys_of(&mut account, &user, &id);
    world.server.add_device_keys(user.as_str(), &id, object);
    world.server.add_one_time_keys(user.as_str(), &id, vec![one_time_key]);
    world.settle();
    let before = log_length(&world);
    let second = world.send(alice, &room, "to the new one");
    assert_ne!(session(&world, &room, &first), session(&world, &room, &second));
    let sent = sent_to(&world, bob, "m.room.encrypted", before);
    assert_eq!(sent.len(), 1);
    let ciphertext = &sent[0].content["ciphertext"];
    assert!(ciphertext.get(old_key.to_base64()).is_none(), "for the old keys");
    let message = &ciphertext[account.identity_keys().curve25519.to_base64()];
    let message = OlmMessage::from_parts(
        message["type"].as_u64().unwrap(),
        message["body"].as_str().unwrap(),
    )
    .unwrap();
    let (_, plaintext) =
        account.create_inbound_session(message.identity_key().unwrap(), &message).unwrap();
    let payload: Value = serde_json::from_slice(&plaintext).unwrap();
    assert_eq!(payload["type"], "m.room_key");
    assert_eq!(payload["content"]["session_id"], session(&world, &room, &second));
    clean(&world);
}

/// Behaviour 9.
#[test]
fn a_removed_device_ends_the_session() {
    for offline in [false, true] {
        let mut world = World::new(503);
        let (alice, bob) = (world.add_device("alice"), world.add_device("bob"));
        let stolen = world.add_device("bob");
        let room = world.make_room(&[alice, bob]);
        let first = world.send(alice, &room, "to both");
        assert_eq!(world.text(stolen, &room, &first).as_deref(), Ok("to both"));
        world.set_online(alice, !offline);
        log_out(&mut world, stolen);
        world.settle();
        world.restart(alice);
        world.set_online(alice, true);
        world.settle();
        let before = log_length(&world);
        let second = world.send(alice, &room, "to one");
        assert_ne!(session(&world, &room, &first), session(&world, &room, &second));
        assert_eq!(world.text(bob, &room, &second).as_deref(), Ok("to one"));
        assert!(sent_to(&world, stolen, "m.room.encrypted", before).is_empty());
        clean(&world);
    }
}

/// Behaviour 9.
#[test]
fn nothing_is_encrypted_by_a_list_known_to_be_outdated() {
    let mut world = World::new(504);
    let (alice, bob) = (world.add_device("alice"), world.add_device("bob"));
    let stolen = world.add_device("bob");
    let room = world.make_room(&[alice, bob]);
    let first = world.send(alice, &room, "to both");
    log_out(&mut world, stolen);
    world.sync(alice);
    let txn_id = world.queue(alice, &room, "to one");
    let mut requests = due(&mut world, alice);
    let kinds: Vec<_> = requests.iter().map(herold_machine::Outgoing::kind).collect();
    assert_eq!(kinds, ["keys_query"]);
    // The query takes its time; even fifteen seconds later nothing goes out by the old list.
    let query = take(&mut requests, "keys_query");
    let before = log_length(&world);
    world.clock.advance(seconds(20));
    assert!(pump_only(&mut world, alice, &[]).is_empty());
    assert_eq!(log_length(&world), before);
    let response = perform(&mut world, alice, &query);
    answer(&mut world, alice, &query, Some(&response));
    world.settle();
    let second = world.sent(alice, &txn_id).unwrap();
    assert_ne!(session(&world, &room, &first), session(&world, &room, &second));
    assert_eq!(world.text(bob, &room, &second).as_deref(), Ok("to one"));
    assert!(sent_to(&world, stolen, "m.room.encrypted", before).is_empty());
    clean(&world);
}

/// Behaviour 31.
#[test]
fn a_query_is_tried_again_until_it_is_answered() {
    let mut world = World::new(505);
    let (alice, bob) = (world.add_device("alice"), world.add_device("bob"));
    let room = world.make_room(&[alice, bob]);
    world.send(alice, &room, "one");
    let new_device = world.add_device("bob");
    let broken = Switch::default();
    broken.set(true);
    let (on, mut count) = (broken.clone(), 0);
    world.tamper = Some(Box::new(move |device, path, response| {
        if device == alice && path.ends_with("/keys/query") && on.is_on() {
            count += 1;
            match count % 3 {
                0 => fail(response, 500),
                1 => response.body = b"<html>".to_vec(),
                _ => fail(response, 429),
            }
        }
    }));
    world.pump(new_device);
    world.sync(alice);
    let from = world.server.requests().len();
    for _ in 0..60 {
        world.pump(alice);
        world.clock.advance(seconds(5));
    }
    let tries = requests(&world, alice, "/keys/query", from).len();
    assert!((4..=40).contains(&tries), "{tries} queries in five minutes");
    let user = world.devices[bob].user_id.clone();
    assert!(known_devices(&mut world, alice, &user).outdated);
    broken.set(false);
    world.clock.advance(seconds(150));
    world.settle();
    assert!(!known_devices(&mut world, alice, &user).outdated);
    let event = world.send(alice, &room, "two");
    assert_eq!(world.text(new_device, &room, &event).as_deref(), Ok("two"));
    clean(&world);
}

/// Behaviour 31, oracle W8: what the server asked to be put off stays so when a user goes and comes back, or
/// another list changes.
#[test]
fn a_throttled_query_is_not_made_sooner_for_members_who_come_and_go() {
    let mut world = World::new(507);
    let (alice, bob) = (world.add_device("alice"), world.add_device("bob"));
    let room = world.make_room(&[alice, bob]);
    world.send(alice, &room, "one");
    let throttled = Switch::default();
    throttled.set(true);
    let on = throttled.clone();
    world.tamper = Some(Box::new(move |device, path, response| {
        if device == alice && path.ends_with("/keys/query") && on.is_on() {
            fail(response, 429);
            response.retry_after_ms = Some(60_000);
        }
    }));
    let new_device = world.add_device("bob");
    world.pump(new_device);
    world.sync(alice);
    world.pump(alice);
    throttled.set(false);
    let from = world.server.requests().len();
    act(&mut world, alice, &room, "kick", bob);
    world.sync(alice);
    act(&mut world, alice, &room, "invite", bob);
    world.sync(alice);
    world.pump(alice);
    world.clock.advance(seconds(50));
    world.pump(alice);
    assert_eq!(requests(&world, alice, "/keys/query", from).len(), 0);
    world.clock.advance(seconds(11));
    world.pump(alice);
    assert_eq!(requests(&world, alice, "/keys/query", from).len(), 1);
    clean(&world);
}

/// Behaviour 31.
#[test]
fn a_query_for_many_users_goes_out_in_parts() {
    let mut world = World::new(506);
    let alice = world.add_device("alice");
    let bob = world.add_device("bob");
    let room = world.make_room(&[alice, bob]);
    for n in 0..600 {
        let user = world.server.register(&format!("member{n:03}"), "pw");
        let event = json!({
            "type": "m.room.member", "state_key": user, "sender": user,
            "event_id": format!("$member{n}"), "origin_server_ts": 1,
            "content": { "membership": "join" },
        });
        assert!(world.server.inject_timeline(room.as_str(), event));
    }
    world.server.force_gap(room.as_str());
    let from = world.server.requests().len();
    world.settle();
    let event = world.send(alice, &room, "to the many");
    let queries = requests(&world, alice, "/keys/query", from);
    let mut asked = Vec::new();
    for query in &queries {
        let body: Value = serde_json::from_slice(&query.body).unwrap();
        let users = body["device_keys"].as_object().unwrap();
        assert!(users.len() <= 250, "{} users in one query", users.len());
        asked.extend(users.keys().filter(|user| user.contains("member")).cloned());
    }
    assert_eq!(asked.len(), 600);
    assert_eq!(behaviour_common::distinct(&asked), 600, "somebody was asked for twice");
    assert_eq!(world.text(bob, &room, &event).as_deref(), Ok("to the many"));
    clean(&world);
}

/// Behaviours 31 and 35.
#[test]
fn a_dead_server_holds_up_its_own_users_only_and_nobody_for_long() {
    let mut world = World::new(507);
    let alice = world.add_device("alice");
    let bob = world.add_device("bob");
    let far = world.add_device("@far:away.test");
    let room_near = world.make_room(&[alice, bob]);
    let room_far = world.make_room(&[alice, bob, far]);
    world.send(alice, &room_near, "warm");
    // Everybody's list is outdated, and one server is dead.
    let (bob_id, far_id) = (world.devices[bob].user_id.clone(), world.devices[far].user_id.clone());
    world.server.fail_servers(vec!["away.test".to_owned()]);
    world.server.announce_devices(bob_id.as_str());
    world.server.announce_devices(far_id.as_str());
    world.sync(alice);
    let near = world.queue(alice, &room_near, "near");
    let txn_far = world.queue(alice, &room_far, "far");
    let start = world.clock.millis();
    while world.pump(alice) {}
    assert!(world.sent(alice, &near).is_some(), "a dead server held up others");
    assert!(!known_devices(&mut world, alice, &bob_id).outdated);
    assert!(known_devices(&mut world, alice, &far_id).outdated);
    while world.sent(alice, &txn_far).is_none() {
        world.clock.advance(seconds(1));
        world.pump(alice);
        assert!(world.clock.millis() - start <= 16_000, "held up for too long");
    }
    let event = world.sent(alice, &txn_far).unwrap();
    assert_eq!(world.text(far, &room_far, &event), Err("not_there".to_owned()));
    world.server.fail_servers(Vec::new());
    world.clock.advance(seconds(300));
    world.settle();
    assert!(!known_devices(&mut world, alice, &far_id).outdated);
    let next = world.send(alice, &room_far, "back again");
    assert_eq!(world.text(far, &room_far, &next).as_deref(), Ok("back again"));
    assert_eq!(world.text(bob, &room_far, &event).as_deref(), Ok("far"));
    clean(&world);
}

/// Behaviour 32.
#[test]
fn a_change_during_a_query_causes_another() {
    let mut world = World::new(508);
    let (alice, bob) = (world.add_device("alice"), world.add_device("bob"));
    let room = world.make_room(&[alice, bob]);
    world.send(alice, &room, "one");
    let second = world.add_device("bob");
    world.pump(second);
    world.sync(alice);
    let query = take(&mut due(&mut world, alice), "keys_query");
    let response = perform(&mut world, alice, &query);
    // Another change before the answer is there.
    let third = world.add_device("bob");
    world.pump(third);
    world.sync(alice);
    answer(&mut world, alice, &query, Some(&response));
    let user = world.devices[bob].user_id.clone();
    let known = known_devices(&mut world, alice, &user);
    assert_eq!((known.devices.len(), known.outdated), (2, true));
    let event = world.send(alice, &room, "two");
    for device in [bob, second, third] {
        assert_eq!(world.text(device, &room, &event).as_deref(), Ok("two"));
    }
    clean(&world);
}

/// Behaviour 32.
#[test]
fn an_old_answer_after_a_newer_one_changes_nothing() {
    let mut world = World::new(509);
    let (alice, bob) = (world.add_device("alice"), world.add_device("bob"));
    let room = world.make_room(&[alice, bob]);
    let user = world.devices[bob].user_id.clone();
    // This answer is a long time under way, over a restart.
    world.server.announce_devices(user.as_str());
    world.sync(alice);
    let old_query = take(&mut due(&mut world, alice), "keys_query");
    let old_answer = perform(&mut world, alice, &old_query);
    world.restart(alice);
    let second = world.add_device("bob");
    world.settle();
    assert_eq!(known_devices(&mut world, alice, &user).devices.len(), 2);
    answer(&mut world, alice, &old_query, Some(&old_answer));
    let known = known_devices(&mut world, alice, &user);
    assert_eq!((known.devices.len(), known.outdated), (2, false));
    let event = world.send(alice, &room, "to both");
    assert_eq!(world.text(second, &room, &event).as_deref(), Ok("to both"));
    clean(&world);
}

/// Behaviours 32 and 34.
#[test]
fn an_answer_from_before_a_user_left_does_not_pass_for_one_after_the_return() {
    let mut world = World::new(510);
    let (alice, bob) = (world.add_device("alice"), world.add_device("bob"));
    world.settle();
    let room = world.make_room(&[alice]);
    // Tracked for the first time; the answer is a long time under way.
    let user = world.devices[bob].user_id.clone();
    world.invite(alice, &room, bob);
    world.join(bob, &room);
    world.sync(alice);
    let old_query = take(&mut due(&mut world, alice), "keys_query");
    let old_answer = perform(&mut world, alice, &old_query);
    world.leave(bob, &room);
    world.sync(alice);
    assert!(!known_devices(&mut world, alice, &user).tracked);
    // Unheard of by alice.
    let second = world.add_device("bob");
    world.pump(second);
    world.invite(alice, &room, bob);
    world.join(bob, &room);
    world.sync(alice);
    assert!(known_devices(&mut world, alice, &user).outdated);
    answer(&mut world, alice, &old_query, Some(&old_answer));
    assert!(known_devices(&mut world, alice, &user).outdated, "an old answer was believed");
    world.settle();
    let event = world.send(alice, &room, "to both");
    for device in [bob, second] {
        assert_eq!(world.text(device, &room, &event).as_deref(), Ok("to both"));
    }
    clean(&world);
}

/// Behaviours 32 and 34: nor does it stand in the way of a new one for ever.
#[test]
fn an_answer_from_before_a_user_left_does_not_block_those_after_the_return() {
    let mut world = World::new(511);
    let (alice, bob) = (world.add_device("alice"), world.add_device("bob"));
    let room = world.make_room(&[alice, bob]);
    let user = world.devices[bob].user_id.clone();
    for _ in 0..5 {
        world.server.announce_devices(user.as_str());
        world.settle();
    }
    world.server.announce_devices(user.as_str());
    world.sync(alice);
    let old_query = take(&mut due(&mut world, alice), "keys_query");
    let old_answer = perform(&mut world, alice, &old_query);
    world.leave(bob, &room);
    world.sync(alice);
    world.invite(alice, &room, bob);
    world.join(bob, &room);
    world.sync(alice);
    answer(&mut world, alice, &old_query, Some(&old_answer));
    let txn_id = world.queue(alice, &room, "welcome back");
    world.settle();
    assert!(!known_devices(&mut world, alice, &user).outdated, "outdated for ever");
    let event = world.sent(alice, &txn_id).expect("sent");
    assert_eq!(world.text(bob, &room, &event).as_deref(), Ok("welcome back"));
    clean(&world);
}

/// Behaviour 33.
#[test]
fn an_outdated_list_is_still_outdated_after_a_kill() {
    let mut world = World::new(512);
    let (alice, bob) = (world.add_device("alice"), world.add_device("bob"));
    let room = world.make_room(&[alice, bob]);
    world.send(alice, &room, "one");
    let second = world.add_device("bob");
    world.pump(second);
    world.sync(alice);
    let user = world.devices[bob].user_id.clone();
    for lost in [true, false] {
        let query = take(&mut due(&mut world, alice), "keys_query");
        if !lost {
            perform(&mut world, alice, &query);
        }
        world.restart(alice);
        assert!(known_devices(&mut world, alice, &user).outdated);
    }
    let event = world.send(alice, &room, "two");
    assert_eq!(world.text(second, &room, &event).as_deref(), Ok("two"));
    clean(&world);
}

/// Behaviour 33.
#[test]
fn what_changed_while_offline_counts_before_the_next_message() {
    let mut world = World::new(513);
    let (alice, bob) = (world.add_device("alice"), world.add_device("bob"));
    let carol = world.add_device("carol");
    let room = world.make_room(&[alice, bob]);
    let first = world.send(alice, &room, "one");
    world.set_online(alice, false);
    let second = world.add_device("bob");
    world.settle();
    log_out(&mut world, bob);
    world.invite(second, &room, carol);
    world.join(carol, &room);
    world.settle();
    world.clock.advance(seconds(3 * 24 * 3600));
    world.restart(alice);
    world.set_online(alice, true);
    world.settle();
    let before = log_length(&world);
    let event = world.send(alice, &room, "two");
    assert_ne!(session(&world, &room, &first), session(&world, &room, &event));
    for device in [second, carol] {
        assert_eq!(world.text(device, &room, &event).as_deref(), Ok("two"));
    }
    assert!(sent_to(&world, bob, "m.room.encrypted", before).is_empty());
    clean(&world);
}
