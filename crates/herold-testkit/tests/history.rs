//! A room's history, shared by whoever invites (MSC4268).

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod attacks_common;
mod behaviour_common;
mod history_common;
mod identity_common;

use attacks_common::{CrossSigning, dropped, rows};
use behaviour_common::{clean, fail, notices, put_state, seconds, session};
use herold::{Notice, OwnedRoomId, Policy, Shield, ShieldReason, Utd};
use herold_machine::DropReason;
use herold_store::Table;
use herold_testkit::{Disk, World, kill_at_each_commit, open_policy};
use history_common::{accept, collect, downloads, join, queue, share, shown, upload};
use identity_common::bootstrap;
use serde_json::json;

const GREY: Shield = Shield::Grey(ShieldReason::AuthenticityNotGuaranteed);

/// Alice in a room of her own, and Bob outside. Both have identities.
fn scene(seed: u64) -> (World, usize, usize, OwnedRoomId) {
    scene_by(seed, false)
}

fn scene_by(seed: u64, sliding: bool) -> (World, usize, usize, OwnedRoomId) {
    let mut world = World::new(seed);
    world.sliding = sliding;
    let alice = world.add_device_with("alice", Policy::default());
    let bob = world.add_device_with("bob", Policy::default());
    world.settle();
    bootstrap(&mut world, alice, false);
    bootstrap(&mut world, bob, false);
    let room = world.make_room(&[alice]);
    (world, alice, bob, room)
}

#[test]
fn an_invited_user_reads_what_was_said_before_and_sees_whose_word_it_is() {
    for sliding in [false, true] {
        let (mut world, alice, bob, room) = scene_by(1, sliding);
        let old = [world.send(alice, &room, "old 0"), world.send(alice, &room, "old 1")];
        share(&mut world, alice, &room, bob);
        let told = notices(&world, alice, "history_shared");
        assert!(matches!(&told[..], [Notice::HistoryShared { devices: 1, .. }]), "{told:?}");
        world.invite(alice, &room, bob);
        world.settle();
        assert_eq!(downloads(&world, bob), 0);
        join(&mut world, bob, &room);
        for (n, event) in old.iter().enumerate() {
            let event = shown(&mut world, bob, &room, event);
            assert!(event.body.is_ok(), "{n}: {:?}", event.body);
            assert_eq!(event.shield, GREY);
            assert_eq!(event.shared_by, Some(world.devices[alice].user_id.clone()));
            assert_eq!(event.sender_device, None);
        }
        assert_eq!(downloads(&world, bob), 1);
        let received = notices(&world, bob, "history_received");
        assert!(matches!(&received[..], [Notice::HistoryReceived { new: 1, refused: 0, .. }]));
        assert_eq!(
            (rows(&world, bob, Table::Invitation), rows(&world, bob, Table::HistoryBundle)),
            (0, 0)
        );
        // What is said from now on is what it always was, in the same session too.
        let new = world.send(alice, &room, "new");
        let new = shown(&mut world, bob, &room, &new);
        assert_eq!((new.shield, new.shared_by), (Shield::None, None));
        clean(&world);
    }
}

#[test]
fn a_bundle_that_comes_after_the_join_is_taken_for_a_day() {
    for (hours, taken) in [(1, true), (23, true), (25, false)] {
        let (mut world, alice, bob, room) = scene(2);
        let old = world.send(alice, &room, "old");
        world.invite(alice, &room, bob);
        world.settle();
        join(&mut world, bob, &room);
        assert_eq!(downloads(&world, bob), 0);
        world.clock.advance(seconds(hours * 3600));
        share(&mut world, alice, &room, bob);
        assert_eq!(downloads(&world, bob), usize::from(taken), "{hours}");
        assert_eq!(world.text(bob, &room, &old).is_ok(), taken, "{hours}");
    }
}

#[test]
fn whoever_does_not_want_the_history_fetches_nothing() {
    let (mut world, alice, bob, room) = scene(3);
    let old = world.send(alice, &room, "old");
    share(&mut world, alice, &room, bob);
    world.invite(alice, &room, bob);
    world.settle();
    world.join(bob, &room);
    world.settle();
    assert_eq!(downloads(&world, bob), 0);
    assert!(world.text(bob, &room, &old).is_err());
    assert!(!accept(&mut world, bob, &room), "the invitation is over");
    world.settle();
    assert_eq!(downloads(&world, bob), 0);
}

#[test]
fn a_policy_forbids_to_share_and_to_accept() {
    let mut world = World::new(4);
    let silent = Policy { share_history: false, ..Policy::default() };
    let deaf = Policy { accept_history: false, ..Policy::default() };
    let alice = world.add_device_with("alice", silent);
    let (carol, bob) = (world.add_device("carol"), world.add_device_with("bob", deaf));
    world.settle();
    for device in [alice, carol, bob] {
        bootstrap(&mut world, device, false);
    }
    let room = world.make_room(&[alice, carol]);
    world.send(carol, &room, "old");
    let file = upload(&mut world, alice, b"{}");
    let user = world.devices[bob].user_id.clone();
    assert!(!queue(&mut world, alice, &room, &user, &file));
    share(&mut world, carol, &room, bob);
    assert_eq!(dropped(&world, bob, DropReason::Unsolicited), 1);
    assert_eq!(rows(&world, bob, Table::HistoryBundle), 0);
    world.invite(carol, &room, bob);
    world.settle();
    assert!(!accept(&mut world, bob, &room));
}

#[test]
fn a_key_is_shared_as_its_maker_has_said_when_it_was_made() {
    let (mut world, alice, bob, _) = scene(5);
    let carol = world.add_device("carol");
    let room = world.make_room_with(&[alice, carol], json!({}), "joined");
    let hidden = [world.send(alice, &room, "hidden"), world.send(carol, &room, "hidden too")];
    assert_eq!(collect(&mut world, alice, &room)["room_keys"], json!([]));
    let file = upload(&mut world, alice, b"{}");
    let user = world.devices[bob].user_id.clone();
    assert!(!queue(&mut world, alice, &room, &user, &file), "the room is not open");
    let open = json!({ "history_visibility": "shared" });
    put_state(&mut world, alice, &room, "m.room.history_visibility", "", open);
    world.settle();
    let seen = [world.send(alice, &room, "seen"), world.send(carol, &room, "seen too")];
    let bundle = collect(&mut world, alice, &room);
    let ids = |list: &str| -> Vec<String> {
        let list = bundle[list].as_array().unwrap();
        let mut ids: Vec<_> =
            list.iter().map(|key| key["session_id"].as_str().unwrap().to_owned()).collect();
        ids.sort();
        ids
    };
    let sessions = |events: &[_; 2]| {
        let mut ids: Vec<_> = events.iter().map(|event| session(&world, &room, event)).collect();
        ids.sort();
        ids
    };
    assert_eq!(ids("room_keys"), sessions(&seen));
    assert_eq!(ids("withheld"), sessions(&hidden));
    assert_eq!(bundle["withheld"][0]["code"], "m.history_not_shared");
    for key in bundle["room_keys"].as_array().unwrap() {
        assert!(key.get("forwarding_curve25519_key_chain").is_none(), "{key}");
    }
    share(&mut world, alice, &room, bob);
    world.invite(alice, &room, bob);
    world.settle();
    join(&mut world, bob, &room);
    for (event, body) in seen.iter().zip(["seen", "seen too"]) {
        assert_eq!(world.text(bob, &room, event).as_deref(), Ok(body));
    }
    for event in &hidden {
        if let Some(event) = world.event(bob, &room, event) {
            let reason = Utd::Withheld("m.history_not_shared".to_owned());
            assert_eq!(event.body.unwrap_err(), reason);
        }
    }
    // Bob may pass them on.
    let passed_on = collect(&mut world, bob, &room);
    assert_eq!(passed_on["room_keys"].as_array().map(Vec::len), Some(2));
    clean(&world);
}

#[test]
fn a_download_that_fails_is_tried_again_and_given_up_at_last() {
    for (status, gives_up) in [(502, false), (404, true)] {
        let (mut world, alice, bob, room) = scene(6);
        let old = world.send(alice, &room, "old");
        share(&mut world, alice, &room, bob);
        world.invite(alice, &room, bob);
        world.settle();
        let mut left = 2 + 10 * usize::from(gives_up);
        world.tamper = Some(Box::new(move |_, path, response| {
            if path.contains("/media/download/") && left > 0 {
                left -= 1;
                fail(response, status);
            }
        }));
        join(&mut world, bob, &room);
        world.clock.advance(seconds(600));
        world.settle();
        assert_eq!(downloads(&world, bob), 3);
        assert_eq!(world.text(bob, &room, &old).is_ok(), !gives_up, "{status}");
        assert_eq!(notices(&world, bob, "history_refused").len(), usize::from(gives_up));
    }
}

#[test]
fn many_keys_are_taken_and_a_key_known_before_says_nothing_new() {
    let (mut world, alice, bob, room) = scene(7);
    let alice_id = world.devices[alice].user_id.to_string();
    let elsewhere = herold_testkit::Attacker::unlisted(&alice_id, "ELSEWHERE");
    let mut keys = Vec::new();
    let mut events = Vec::new();
    for n in 0..1201 {
        let body = format!("old {n}");
        let session = herold_crypto::OutboundGroupSession::new();
        if n % 400 == 0 {
            let (session, event) = history_common::old_message(&mut world, &room, &alice_id, &body);
            keys.push(history_common::entry(&session, room.as_str(), &elsewhere));
            events.push((event, body));
        } else {
            keys.push(history_common::entry(&session, room.as_str(), &elsewhere));
        }
    }
    keys.push(keys[7].clone());
    let text = json!({ "room_keys": keys, "withheld": [] }).to_string();
    let file = upload(&mut world, alice, text.as_bytes());
    let user = world.devices[bob].user_id.clone();
    assert!(queue(&mut world, alice, &room, &user, &file));
    world.settle();
    world.invite(alice, &room, bob);
    world.settle();
    join(&mut world, bob, &room);
    let received = notices(&world, bob, "history_received");
    assert!(
        matches!(&received[..], [Notice::HistoryReceived { new: 1201, known: 1, refused: 0, .. }]),
        "{received:?}"
    );
    for (event, body) in events {
        assert_eq!(world.text(bob, &room, &event), Ok(body));
    }
    assert_eq!(downloads(&world, bob), 1);
}

/// An identity made by hand, so that no step of a device depends on the kill.
fn signed_device(world: &mut World, localpart: &str, disk: &Disk) -> usize {
    let device = world.add_device_on(localpart, open_policy(), disk.clone());
    world.settle();
    let identity = CrossSigning::upload(world, device);
    identity.sign_device(world, device);
    device
}

fn shared_and_joined(world: &mut World, disks: &[Disk]) {
    let alice = signed_device(world, "alice", &disks[0]);
    let bob = signed_device(world, "bob", &disks[1]);
    let room = world.make_room(&[alice]);
    let old = [world.send(alice, &room, "old 0"), world.send(alice, &room, "old 1")];
    share(world, alice, &room, bob);
    world.invite(alice, &room, bob);
    world.settle();
    join(world, bob, &room);
    for (n, event) in old.iter().enumerate() {
        assert_eq!(world.text(bob, &room, event), Ok(format!("old {n}")));
    }
}

#[test]
fn a_kill_at_any_commit_loses_nothing_of_the_history() {
    let kills = kill_at_each_commit(8, 2, shared_and_joined);
    assert!(kills > 60, "{kills}");
}
