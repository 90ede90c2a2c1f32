//! Behaviours 3 and 43, attacks N05, N06, N26 and N40: who is asked for a room key, who is answered, and
//! whose answer is believed.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod attacks_common;

use std::time::Duration;

use attacks_common::*;
use herold::{OwnedEventId, OwnedRoomId, Store as _, Utd};
use herold_crypto::{InboundGroupSession, OutboundGroupSession, SessionId};
use herold_machine::DropReason;
use herold_store::{
    ChangeSet, SnapshotExt as _, Table,
    records::{
        InboundSessionKey, InboundSessionRecord, KeyAnswersRecord, UserKey, VerifiedIdentityRecord,
    },
};
use herold_testkit::{Attacker, Disk, World, kill_at_each_commit, open_policy};
use herold_trust::{KeySource, Shield, ShieldReason, Timestamp};
use serde_json::{Value, json};

const ALICE: &str = "@alice:world.test";
const BOB: &str = "@bob:world.test";
const REQUEST: &str = "m.room_key_request";
const PASSED_ON: Shield = Shield::Grey(ShieldReason::AuthenticityNotGuaranteed);

/// The user of a device has verified the own identity on it.
fn verify(world: &mut World, device: usize, identity: &CrossSigning) {
    let user_id = world.devices[device].user_id.clone();
    let mut image = world.devices[device].disk.image();
    let mut changes = ChangeSet::new();
    changes.put(
        &UserKey { user_id },
        &VerifiedIdentityRecord {
            master: identity.master.identity_keys().ed25519,
            verified_at: Timestamp::from_millis(1),
        },
    );
    image.commit(&changes).unwrap();
    world.devices[device].disk.restore(image);
    world.restart(device);
}

/// What clear events of a kind were sent to a device.
fn sent(world: &World, user: &str, device: &str, kind: &str) -> Vec<Value> {
    let log = world.server.to_device_log().iter();
    log.filter(|sent| sent.recipient == user && sent.recipient_device == device)
        .filter(|sent| sent.event_type == kind)
        .map(|sent| sent.content.clone())
        .collect()
}

fn action(content: &Value) -> &str {
    content["action"].as_str().unwrap_or_default()
}

/// Alice's second device logs in after a message: it asks the first one, which it trusts.
fn second_device(world: &mut World, disks: &[Disk]) -> (usize, usize, OwnedRoomId, OwnedEventId) {
    let first = world.add_device_on("alice", open_policy(), disks[0].clone());
    let bob = world.add_device("bob");
    let room = world.make_room(&[first, bob]);
    let old = world.send(bob, &room, "old");
    let second = world.add_device_on("alice", open_policy(), disks[1].clone());
    for _ in 0..3 {
        world.pump(second);
        world.sync(second);
    }
    let identity = CrossSigning::upload(world, first);
    for device in [first, second] {
        identity.sign_device(world, device);
        verify(world, device, &identity);
    }
    world.settle();
    world.settle();
    (first, second, room, old)
}

#[test]
fn a_new_device_gets_older_keys_from_a_verified_one_and_shows_that_they_prove_nothing() {
    for uncached in [false, true] {
        let mut world = World::new(1);
        world.uncached = uncached;
        let (first, second, room, old) = second_device(&mut world, &[Disk::new(), Disk::new()]);
        for _ in 0..2 {
            assert_eq!(shown(&mut world, second, &room, &old), (PASSED_ON, Ok("old".to_owned())));
            assert_eq!(world.event(second, &room, &old).unwrap().sender_device, None);
            world.restart(second);
            world.clock.advance(Duration::from_secs(7200));
            world.settle();
        }
        // Asked once, and taken back once.
        let asked = sent(&world, ALICE, &id(&world, first), REQUEST);
        assert_eq!(
            asked.iter().map(action).collect::<Vec<_>>(),
            ["request", "request_cancellation"]
        );
        assert_eq!(asked[0]["request_id"], asked[1]["request_id"]);
        assert_eq!(asked[0]["requesting_device_id"], json!(id(&world, second)));
        assert_eq!(asked[0]["body"]["sender_key"].as_str().unwrap().len(), 43);
        assert_eq!(sent(&world, BOB, &id(&world, 1), REQUEST), [] as [Value; 0]);
        assert_eq!(world.oracle.violations(), [] as [String; 0]);
    }
}

#[test]
fn asking_and_answering_survive_a_kill_at_each_commit() {
    fn story(world: &mut World, disks: &[Disk]) {
        let (first, second, room, old) = second_device(world, disks);
        assert_eq!(shown(world, second, &room, &old), (PASSED_ON, Ok("old".to_owned())));
        let mut asked = sent(world, ALICE, &id(world, first), REQUEST);
        asked.retain(|content| action(content) == "request");
        asked.dedup();
        assert_eq!(asked.len(), 1);
    }
    let kills = kill_at_each_commit(2, 2, story);
    assert!(kills > 60, "only {kills} kills");
}

/// Alice with a device the attacker writes for, cross-signed by the identity she has verified, and a ghost
/// that is not.
struct Scene {
    world: World,
    alice: usize,
    room: OwnedRoomId,
    tablet: Attacker,
    thief: Attacker,
    /// Bob's device, in the room.
    second: Attacker,
    identity: CrossSigning,
}

fn scene(seed: u64) -> Scene {
    let (mut world, alice, _, room) = two(seed);
    let identity = CrossSigning::upload(&mut world, alice);
    identity.sign_device(&mut world, alice);
    let mut tablet = Attacker::unlisted(ALICE, "TABLET");
    let keys = identity.sign(tablet.device_keys());
    world.server.add_device_keys(ALICE, "TABLET", keys);
    let keys = tablet.one_time_keys(5);
    world.server.add_one_time_keys(ALICE, "TABLET", keys);
    let thief = Attacker::ghost(&mut world, ALICE, "THIEF");
    let second = Attacker::ghost(&mut world, BOB, "SECOND");
    world.settle();
    verify(&mut world, alice, &identity);
    world.settle();
    Scene { world, alice, room, tablet, thief, second, identity }
}

impl Scene {
    /// An event of Bob's under a session that Alice has no key of.
    fn missing(&mut self, name: &str) -> (OutboundGroupSession, Value, OwnedEventId) {
        let mut session = OutboundGroupSession::new();
        let key = self.forwarded(&session);
        let event = encrypted(&mut session, &self.room, BOB, name);
        let event_id = inject(&mut self.world, &self.room, event, name);
        self.world.settle();
        (session, key, event_id)
    }

    /// The session as a device of Alice's would forward it.
    fn forwarded(&self, session: &OutboundGroupSession) -> Value {
        let text = session.session_key();
        let mut inbound = InboundGroupSession::from_session_key(text.as_str()).unwrap();
        let index = inbound.first_known_index();
        json!({
            "algorithm": MEGOLM,
            "room_id": self.room,
            "session_id": session.session_id().as_str(),
            "session_key": inbound.export_at(index).unwrap().as_str(),
            "sender_key": self.second.keys().curve25519.to_base64(),
            "sender_claimed_ed25519_key": self.second.keys().ed25519.to_base64(),
            "forwarding_curve25519_key_chain": [],
        })
    }

    fn requests(&self) -> Vec<Value> {
        sent(&self.world, ALICE, "TABLET", REQUEST)
    }

    fn shown(&mut self, event_id: &OwnedEventId) -> (Shield, Result<String, Utd>) {
        shown(&mut self.world, self.alice, &self.room, event_id)
    }

    /// A request in somebody's name.
    fn ask(&mut self, sender: &str, device: &str, request: &str, session: &str) {
        let content = json!({
            "action": "request",
            "request_id": request,
            "requesting_device_id": device,
            "body": {
                "algorithm": MEGOLM,
                "room_id": self.room,
                "session_id": session,
                "sender_key": "irrelevant",
            },
        });
        inject_clear(&mut self.world, self.alice, sender, REQUEST, content);
        self.world.settle();
    }

    /// The session of Bob's first message, which Alice has.
    fn known_session(&self) -> String {
        let events = self.world.server.events(self.room.as_str());
        let from_bob = events
            .iter()
            .find(|event| event["type"] == "m.room.encrypted" && event["sender"] == BOB);
        from_bob.unwrap()["content"]["session_id"].as_str().unwrap().to_owned()
    }

    /// The keys a device was forwarded.
    fn keys_of(world: &World, device: &mut Attacker) -> Vec<Value> {
        let payloads = device.received(world);
        let keys = payloads.into_iter().filter(|payload| payload["type"] == "m.forwarded_room_key");
        keys.map(|payload| payload["content"].clone()).collect()
    }

    fn clean(&self) {
        assert_eq!(self.world.oracle.violations(), [] as [String; 0]);
    }
}

/// Behaviour 3: one request for a session, after a while, whatever happens.
#[test]
fn a_key_is_asked_for_once_and_not_at_all_if_it_comes_in_time() {
    let mut scene = scene(3);
    // It comes after two seconds.
    let mut session = OutboundGroupSession::new();
    let key = room_key(&session, &scene.room);
    let event = encrypted(&mut session, &scene.room, BOB, "in time");
    let event_id = inject(&mut scene.world, &scene.room, event, "in-time");
    scene.world.sync(scene.alice);
    scene.world.clock.advance(Duration::from_secs(2));
    scene.world.pump(scene.alice);
    scene.second.send(&mut scene.world, scene.alice, "m.room_key", &key);
    scene.world.sync(scene.alice);
    scene.world.clock.advance(Duration::from_secs(20));
    scene.world.settle();
    assert_eq!(scene.shown(&event_id).1, Ok("in time".to_owned()));
    assert_eq!(scene.requests(), [] as [Value; 0]);
    // It never comes.
    let (mut session, _, _) = scene.missing("never");
    for n in 0..3 {
        let event = encrypted(&mut session, &scene.room, BOB, "nor now");
        inject(&mut scene.world, &scene.room, event, &format!("nor-{n}"));
        scene.world.clock.advance(Duration::from_secs(7200));
        scene.world.restart(scene.alice);
        scene.world.settle();
    }
    assert_eq!(scene.requests().len(), 1);
    assert_eq!(sent(&scene.world, ALICE, "THIEF", REQUEST), [] as [Value; 0]);
    scene.clean();
}

/// Without a verified device there is nobody to ask; once there is one, it is asked.
#[test]
fn only_a_verified_device_is_asked() {
    let mut scene = scene(4);
    let other = CrossSigning::new(ALICE);
    verify(&mut scene.world, scene.alice, &other);
    let (_, _, event_id) = scene.missing("unasked");
    scene.world.clock.advance(Duration::from_secs(60));
    scene.world.settle();
    assert_eq!(scene.requests(), [] as [Value; 0]);
    assert_eq!(scene.shown(&event_id).1, Err(Utd::MissingKey));
    verify(&mut scene.world, scene.alice, &scene.identity);
    scene.world.server.announce_devices(ALICE);
    scene.world.settle();
    assert_eq!(scene.requests().len(), 1);
    scene.clean();
}

/// Anybody can make Alice wait for a thousand sessions. She asks for a few.
#[test]
fn n39_unknown_sessions_cause_a_bounded_number_of_requests() {
    let mut scene = scene(5);
    for n in 0..200 {
        let mut session = OutboundGroupSession::new();
        let event = encrypted(&mut session, &scene.room, BOB, "unknown");
        inject(&mut scene.world, &scene.room, event, &format!("unknown-{n}"));
        if n % 40 == 0 {
            scene.world.settle();
        }
    }
    scene.world.settle();
    assert_eq!(scene.requests().len(), 40);
    scene.world.clock.advance(Duration::from_secs(3600));
    scene.world.settle();
    assert_eq!(scene.requests().len(), 80);
    scene.clean();
}

#[test]
fn n05_a_forwarded_key_that_nobody_asked_for_is_not_taken_even_from_a_verified_device() {
    let mut scene = scene(6);
    let session = OutboundGroupSession::new();
    let key = scene.forwarded(&session);
    let before = rows(&scene.world, scene.alice, Table::InboundSession);
    scene.tablet.send(&mut scene.world, scene.alice, "m.forwarded_room_key", &key);
    scene.world.settle();
    assert_eq!(dropped(&scene.world, scene.alice, DropReason::Unsolicited), 1);
    assert_eq!(rows(&scene.world, scene.alice, Table::InboundSession), before);
    scene.clean();
}

fn block(scene: &mut Scene, blocked: bool) {
    let user: herold::OwnedUserId = ALICE.try_into().unwrap();
    let done = scene.world.command(scene.alice, |engine| {
        engine.step(|machine, snapshot, cx| {
            machine.set_blocked(snapshot, cx, &user, "TABLET".into(), blocked)
        })
    });
    done.unwrap();
}

#[test]
fn n06_a_key_that_was_asked_for_is_taken_from_a_verified_device_only() {
    let mut scene = scene(7);
    let (_, key, event_id) = scene.missing("asked");
    assert_eq!(scene.requests().len(), 1);
    let mut eve = Attacker::log_in(&mut scene.world, "eve");
    let (world, alice) = (&mut scene.world, scene.alice);
    // Another user's device, an unverified one of our own, one that is in no list.
    eve.send(world, alice, "m.forwarded_room_key", &key);
    scene.thief.send(world, alice, "m.forwarded_room_key", &key);
    Attacker::unlisted(ALICE, "TABLET").send(world, alice, "m.forwarded_room_key", &key);
    world.settle();
    assert_eq!(dropped(world, alice, DropReason::SenderUntrusted), 3);
    // The verified one, with a key of another session, under another id, malformed, and changed.
    let other = OutboundGroupSession::new();
    let foreign = scene.forwarded(&other);
    let mut swapped = key.clone();
    swapped["session_key"] = foreign["session_key"].clone();
    let mut long = key.clone();
    long["forwarding_curve25519_key_chain"] = json!(vec![&key["sender_key"]; 100]);
    let mut bad = key.clone();
    bad["sender_key"] = json!("AAAA");
    for wrong in [&foreign, &swapped, &long, &bad] {
        scene.tablet.send(&mut scene.world, scene.alice, "m.forwarded_room_key", wrong);
    }
    scene.world.settle();
    assert_eq!(dropped(&scene.world, scene.alice, DropReason::Unsolicited), 1);
    assert_eq!(dropped(&scene.world, scene.alice, DropReason::RoomKeyConflict), 1);
    assert_eq!(dropped(&scene.world, scene.alice, DropReason::Malformed), 2);
    assert_eq!(scene.shown(&event_id).1, Err(Utd::MissingKey));
    // The verified one while it is blocked.
    block(&mut scene, true);
    scene.tablet.send(&mut scene.world, scene.alice, "m.forwarded_room_key", &key);
    scene.world.settle();
    assert_eq!(dropped(&scene.world, scene.alice, DropReason::SenderUntrusted), 4);
    assert_eq!(scene.shown(&event_id).1, Err(Utd::MissingKey));
    block(&mut scene, false);
    // The verified one, as it should be.
    scene.tablet.send(&mut scene.world, scene.alice, "m.forwarded_room_key", &key);
    scene.world.settle();
    assert_eq!(scene.shown(&event_id), (PASSED_ON, Ok("asked".to_owned())));
    assert_eq!(scene.requests().len(), 2);
    // Once more, after the request was taken back.
    scene.tablet.send(&mut scene.world, scene.alice, "m.forwarded_room_key", &key);
    scene.world.settle();
    assert_eq!(dropped(&scene.world, scene.alice, DropReason::Unsolicited), 2);
    scene.clean();
}

/// N06: the identity was replaced since it was verified.
#[test]
fn n06_a_device_signed_by_a_new_identity_is_not_a_verified_one() {
    let mut scene = scene(8);
    let (_, key, event_id) = scene.missing("asked");
    let identity = CrossSigning::new(ALICE);
    let (server, user) = (&mut scene.world.server, ALICE);
    server.override_cross_signing_key(user, "master", Some(identity.master_key()));
    server.override_cross_signing_key(user, "self_signing", Some(identity.self_signing_key()));
    let keys = identity.sign(scene.thief.device_keys());
    server.override_device_keys(ALICE, "THIEF", keys);
    server.announce_devices(ALICE);
    scene.world.settle();
    scene.thief.send(&mut scene.world, scene.alice, "m.forwarded_room_key", &key);
    scene.world.settle();
    assert_eq!(scene.shown(&event_id).1, Err(Utd::MissingKey));
    let session = scene.known_session();
    scene.ask(ALICE, "THIEF", "one", &session);
    assert_eq!(Scene::keys_of(&scene.world, &mut scene.thief), [] as [Value; 0]);
    scene.clean();
}

/// N24: a key that came by Olm is not replaced; the same ratchet from earlier on makes it better.
#[test]
fn a_forwarded_key_improves_an_own_one_and_never_replaces_it() {
    let mut scene = scene(9);
    let (session, early, event_id) = scene.missing("early");
    let late = room_key(&session, &scene.room);
    scene.second.send(&mut scene.world, scene.alice, "m.room_key", &late);
    scene.world.settle();
    assert_eq!(scene.shown(&event_id).1, Err(Utd::IndexTooEarly));
    let place = InboundSessionKey {
        room_id: scene.room.clone(),
        session_id: SessionId::new(session.session_id().as_str()),
        sender_key: scene.second.keys().curve25519,
    };
    let record = |scene: &Scene| -> InboundSessionRecord {
        scene.world.devices[scene.alice].disk.image().load(&place).unwrap().unwrap()
    };
    assert_eq!(record(&scene).first_known_index, 1);
    // The same session, another ratchet.
    let text = early["session_key"].as_str().unwrap();
    let mut changed: Vec<char> = text.chars().collect();
    changed[40] = if changed[40] == 'A' { 'B' } else { 'A' };
    let mut forged = early.clone();
    forged["session_key"] = json!(changed.into_iter().collect::<String>());
    scene.tablet.send(&mut scene.world, scene.alice, "m.forwarded_room_key", &forged);
    scene.world.settle();
    assert_eq!(dropped(&scene.world, scene.alice, DropReason::RoomKeyConflict), 1);
    assert_eq!(record(&scene).first_known_index, 1);
    scene.tablet.send(&mut scene.world, scene.alice, "m.forwarded_room_key", &early);
    scene.world.settle();
    assert_eq!(scene.shown(&event_id).1, Ok("early".to_owned()));
    let now = record(&scene);
    assert_eq!((now.first_known_index, now.source), (0, KeySource::Olm));
    assert_eq!(now.sender.unwrap(), BOB);
    scene.clean();
}

/// The owner's key comes after a forwarded one, at a later index: it is the owner's from then on.
#[test]
fn the_owners_key_makes_a_forwarded_one_authentic() {
    let mut scene = scene(10);
    let (session, early, event_id) = scene.missing("early");
    scene.tablet.send(&mut scene.world, scene.alice, "m.forwarded_room_key", &early);
    scene.world.settle();
    assert_eq!(scene.shown(&event_id), (PASSED_ON, Ok("early".to_owned())));
    let late = room_key(&session, &scene.room);
    scene.second.send(&mut scene.world, scene.alice, "m.room_key", &late);
    scene.world.settle();
    let unsigned = Shield::Red(ShieldReason::UnsignedDevice);
    assert_eq!(scene.shown(&event_id), (unsigned, Ok("early".to_owned())));
    let shown = scene.world.event(scene.alice, &scene.room, &event_id).unwrap();
    assert_eq!(shown.sender_device.unwrap(), "SECOND");
    scene.clean();
}

/// N13: the server gives a message of Bob's another sender, and Alice's own device forwards its key.
#[test]
fn a_forwarded_key_does_not_make_a_false_sender_true() {
    let mut scene = scene(11);
    let mut session = OutboundGroupSession::new();
    let key = scene.forwarded(&session);
    scene.second.send(
        &mut scene.world,
        scene.alice,
        "m.room_key",
        &room_key(&session, &scene.room),
    );
    let event = encrypted(&mut session, &scene.room, "@carol:world.test", "not Carol's");
    let event_id = inject(&mut scene.world, &scene.room, event, "carol");
    scene.world.settle();
    let refused = (Shield::Red(ShieldReason::MismatchedSender), Err(Utd::SenderUntrusted));
    assert_eq!(scene.shown(&event_id), refused);
    // Whatever device it names.
    let mut other = key.clone();
    other["sender_key"] = json!(scene.thief.keys().curve25519.to_base64());
    for key in [&key, &other] {
        scene.tablet.send(&mut scene.world, scene.alice, "m.forwarded_room_key", key);
        scene.world.settle();
        assert_eq!(scene.shown(&event_id), refused);
    }
    scene.clean();
}

#[test]
fn n26_requests_of_anybody_but_a_verified_own_device_are_not_answered() {
    let mut scene = scene(12);
    let session = scene.known_session();
    let eve = Attacker::log_in(&mut scene.world, "eve");
    let before = scene.world.devices[scene.alice].disk.commits();
    let log = scene.world.server.to_device_log().len();
    let eve_id = eve.device_id.clone();
    let eve_user = eve.user_id.clone();
    // Others, in their own name or in a verified device's; an own device that is not verified; none at all.
    scene.ask(&eve_user, &eve_id, "one", &session);
    scene.ask(&eve_user, "TABLET", "two", &session);
    scene.ask(BOB, "SECOND", "three", &session);
    scene.ask(ALICE, "THIEF", "four", &session);
    scene.ask(ALICE, "NOBODY", "five", &session);
    let alice_id = id(&scene.world, scene.alice);
    scene.ask(ALICE, &alice_id, "six", &session);
    assert_eq!(scene.world.server.to_device_log().len(), log, "something was sent");
    assert!(scene.world.devices[scene.alice].disk.commits() > before);
    assert_eq!(rows(&scene.world, scene.alice, Table::KeyAnswers), 0);
    assert_eq!(rows(&scene.world, scene.alice, Table::Claim), 0);

    // The id of the verified one with other keys: what goes out is not for them.
    let mut double = Attacker::unlisted(ALICE, "TABLET");
    scene.world.server.override_device_keys(ALICE, "TABLET", double.device_keys());
    scene.world.server.announce_devices(ALICE);
    scene.world.settle();
    scene.ask(ALICE, "TABLET", "seven", &session);
    assert_eq!(Scene::keys_of(&scene.world, &mut double), [] as [Value; 0]);
    // Gone and come back with them, it is not signed.
    scene.world.server.override_device_keys(ALICE, "TABLET", Value::Null);
    scene.world.server.announce_devices(ALICE);
    scene.world.settle();
    scene.world.server.override_device_keys(ALICE, "TABLET", double.device_keys());
    scene.world.server.announce_devices(ALICE);
    scene.world.settle();
    let log = scene.world.server.to_device_log().len();
    scene.ask(ALICE, "TABLET", "eight", &session);
    assert_eq!(scene.world.server.to_device_log().len(), log, "something was sent");
    scene.clean();
}

#[test]
fn a_verified_device_is_answered_once_over_a_new_olm_session_from_the_first_index_on() {
    let mut scene = scene(13);
    let session = scene.known_session();
    assert_eq!(olm_messages(&scene.world, ALICE, "TABLET"), 0);
    for _ in 0..3 {
        scene.ask(ALICE, "TABLET", "one", &session);
        scene.world.restart(scene.alice);
    }
    let keys = Scene::keys_of(&scene.world, &mut scene.tablet);
    assert_eq!(keys.len(), 1);
    assert_eq!(keys[0]["session_id"], json!(session));
    assert_eq!(keys[0]["forwarding_curve25519_key_chain"], json!([]));
    let inbound = InboundGroupSession::import(keys[0]["session_key"].as_str().unwrap()).unwrap();
    assert_eq!(inbound.first_known_index(), 0);
    // What is not there, and what was asked for by a device that is blocked.
    scene.ask(ALICE, "TABLET", "two", "an unknown session");
    assert_eq!(withheld(&scene.world, ALICE, "TABLET"), ["m.unavailable"]);
    block(&mut scene, true);
    scene.ask(ALICE, "TABLET", "three", &session);
    assert_eq!(withheld(&scene.world, ALICE, "TABLET"), ["m.unavailable", "m.unauthorised"]);
    assert_eq!(Scene::keys_of(&scene.world, &mut scene.tablet).len(), 0, "a second answer");
    scene.clean();
}

/// A key that has been passed on to Alice goes on with her tablet in the chain.
#[test]
fn a_key_that_is_passed_on_again_names_who_passed_it_on() {
    let mut scene = scene(14);
    let (_, key, _) = scene.missing("asked");
    scene.tablet.send(&mut scene.world, scene.alice, "m.forwarded_room_key", &key);
    scene.world.settle();
    let session = key["session_id"].as_str().unwrap().to_owned();
    scene.ask(ALICE, "TABLET", "back", &session);
    let mut again = Scene::keys_of(&scene.world, &mut scene.tablet).pop().unwrap();
    let tablet = scene.tablet.keys().curve25519.to_base64();
    assert_eq!(again["forwarding_curve25519_key_chain"], json!([tablet]));
    again["forwarding_curve25519_key_chain"] = json!([]);
    assert_eq!(again, key);
    scene.clean();
}

#[test]
fn n40_a_thousand_requests_cause_fifty_answers_and_no_growth() {
    let mut scene = scene(15);
    let session = scene.known_session();
    let eve = "@eve:world.test".to_owned();
    for n in 0..1000 {
        for (sender, device) in [(ALICE, "TABLET"), (eve.as_str(), "EVE"), (ALICE, "THIEF")] {
            let content = json!({
                "action": "request",
                "request_id": format!("spam {n}"),
                "requesting_device_id": device,
                "body": { "algorithm": MEGOLM, "room_id": scene.room, "session_id": session },
            });
            inject_clear(&mut scene.world, scene.alice, sender, REQUEST, content);
        }
    }
    scene.world.settle();
    assert_eq!(Scene::keys_of(&scene.world, &mut scene.tablet).len(), 50);
    let image = scene.world.devices[scene.alice].disk.image();
    let answers = image.list::<KeyAnswersRecord>(&[], 10).unwrap();
    assert_eq!(answers.len(), 1);
    assert_eq!((answers[0].1.request_ids.len(), answers[0].1.owed.len()), (50, 0));
    assert_eq!(rows(&scene.world, scene.alice, Table::Outbox), 0);
    assert_eq!(scene.world.notices(scene.alice), []);
    // An hour later there is room again.
    scene.world.clock.advance(Duration::from_secs(3601));
    scene.ask(ALICE, "TABLET", "later", &session);
    assert_eq!(
        Scene::keys_of(&scene.world, &mut scene.tablet).len(),
        1,
        "of those not seen before"
    );
    scene.clean();
}
