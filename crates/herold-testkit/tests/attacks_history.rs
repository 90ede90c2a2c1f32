//! Attack N28: abuse of the sharing of history, by the homeserver, by members and by strangers (CVE-2024-47080, -47824,
//! and the rules of MSC4268).

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod attacks_common;
mod behaviour_common;
mod history_common;
mod identity_common;

use std::{cell::RefCell, rc::Rc};

use attacks_common::{CrossSigning, dropped, inject, rows};
use behaviour_common::{block, clean, log_length, notices, requests, seconds, sent_to};
use herold::{HistoryRefusal, Notice, OwnedRoomId, Shield, ShieldReason};
use herold_machine::DropReason;
use herold_store::{
    SnapshotExt as _, Table,
    records::{InboundSessionKey, InboundSessionRecord},
};
use herold_testkit::{Attacker, World, open_policy};
use herold_trust::KeySource;
use history_common::{
    BUNDLE, accept, collect, downloads, entry, join, old_message, queue, share, telling, upload,
};
use identity_common::bootstrap;
use serde_json::{Value, json};

const ALICE: &str = "@alice:world.test";
const BOB: &str = "@bob:world.test";

/// Alice in a room of her own, with one old message, and Bob outside. Both have identities. Alice's is made by
/// hand, so that devices can be added to it.
struct Scene {
    world: World,
    alice: usize,
    bob: usize,
    room: OwnedRoomId,
    identity: CrossSigning,
}

impl Scene {
    fn new(seed: u64) -> Self {
        let mut world = World::new(seed);
        let (alice, bob) = (world.add_device("alice"), world.add_device("bob"));
        world.settle();
        let identity = CrossSigning::upload(&mut world, alice);
        identity.sign_device(&mut world, alice);
        bootstrap(&mut world, bob, false);
        let room = world.make_room(&[alice]);
        Self { world, alice, bob, room, identity }
    }

    /// Another device of Alice's, which the homeserver has made up, or which is hers.
    fn device(&mut self, name: &str, signed: bool) -> Attacker {
        let device = Attacker::ghost(&mut self.world, ALICE, name);
        if signed {
            let keys = self.identity.sign(device.device_keys());
            self.world.server.add_device_keys(ALICE, name, keys);
        }
        self.world.settle();
        device
    }

    fn invite(&mut self) {
        self.world.invite(self.alice, &self.room, self.bob);
        self.world.settle();
    }

    fn join(&mut self) {
        join(&mut self.world, self.bob, &self.room);
    }

    /// Uploads a bundle with these room keys and tells Bob of it.
    fn tell(&mut self, from: &mut Attacker, keys: &[Value]) {
        let text = json!({ "room_keys": keys, "withheld": [] }).to_string();
        let file = upload(&mut self.world, self.alice, text.as_bytes());
        let payload = telling(&self.world, from, self.bob, &self.room, &file);
        let user = from.user_id.clone();
        from.send_as(&mut self.world, self.bob, &user, &payload);
        self.world.settle();
    }

    fn downloads(&self) -> usize {
        downloads(&self.world, self.bob)
    }

    fn refused(&self) -> Vec<HistoryRefusal> {
        let all = notices(&self.world, self.bob, "history_refused");
        all.into_iter()
            .map(|notice| match notice {
                Notice::HistoryRefused { reason, .. } => reason,
                other => panic!("{other:?}"),
            })
            .collect()
    }
}

#[test]
fn n28_an_invitation_or_a_join_that_the_homeserver_makes_up_has_nothing_shared() {
    let mut scene = Scene::new(1);
    scene.world.send(scene.alice, &scene.room, "old");
    let log = log_length(&scene.world);
    for membership in ["invite", "join"] {
        let event = json!({
            "type": "m.room.member",
            "state_key": BOB,
            "sender": ALICE,
            "content": { "membership": membership },
        });
        inject(&mut scene.world, &scene.room, event, membership);
        scene.world.settle();
    }
    assert_eq!(
        requests(&scene.world, scene.alice, "/upload", 0)
            .iter()
            .filter(|seen| seen.path.contains("/media/"))
            .count(),
        0
    );
    assert_eq!(sent_to(&scene.world, scene.bob, "m.room.encrypted", log).len(), 0);
    assert_eq!(rows(&scene.world, scene.bob, Table::HistoryBundle), 0);
    clean(&scene.world);
}

#[test]
fn n28_only_devices_that_the_user_has_signed_are_told_whatever_the_policy() {
    let mut scene = Scene::new(2);
    assert_eq!(open_policy().recipients, herold::Recipients::AllDevices);
    let mut ghost = Attacker::ghost(&mut scene.world, BOB, "GHOST");
    scene.world.send(scene.alice, &scene.room, "old");
    share(&mut scene.world, scene.alice, &scene.room, scene.bob);
    let told = notices(&scene.world, scene.alice, "history_shared");
    assert!(matches!(&told[..], [Notice::HistoryShared { devices: 1, .. }]), "{told:?}");
    let got = ghost.received(&scene.world);
    assert!(got.iter().all(|payload| payload["type"] != BUNDLE), "{got:?}");
    assert_eq!(rows(&scene.world, scene.bob, Table::HistoryBundle), 1);
    // Nobody of a user without an identity, nor of one who is another all of a sudden; nor who is blocked.
    let carol = scene.world.add_device("carol");
    scene.world.settle();
    share(&mut scene.world, scene.alice, &scene.room, carol);
    assert_eq!(rows(&scene.world, carol, Table::HistoryBundle), 0);
    let other = CrossSigning::new(BOB);
    for (usage, key) in [
        ("master", other.master_key()),
        ("self_signing", other.self_signing_key()),
        ("user_signing", Value::Null),
    ] {
        scene.world.server.override_cross_signing_key(BOB, usage, Some(key));
    }
    let thief = Attacker::ghost(&mut scene.world, BOB, "THIEF");
    scene.world.server.add_device_keys(BOB, "THIEF", other.sign(thief.device_keys()));
    scene.world.settle();
    let log = log_length(&scene.world);
    share(&mut scene.world, scene.alice, &scene.room, scene.bob);
    let sent = &scene.world.server.to_device_log()[log..];
    assert!(sent.iter().all(|sent| sent.event_type != "m.room.encrypted"), "{sent:?}");
    let log = log_length(&scene.world);
    let (mut world, alice, bob, room) = (scene.world, scene.alice, scene.bob, scene.room);
    block(&mut world, alice, bob, true);
    share(&mut world, alice, &room, bob);
    assert_eq!(sent_to(&world, bob, "m.room.encrypted", log).len(), 0);
    clean(&world);
}

#[test]
fn n28_a_key_whose_owner_has_not_said_so_is_not_shared_whatever_another_member_says() {
    let mut scene = Scene::new(3);
    let mut mallory = Attacker::log_in(&mut scene.world, "mallory");
    let carol = scene.world.add_device("carol");
    scene.world.settle();
    scene.world.invite(scene.alice, &scene.room, carol);
    scene.world.join(carol, &scene.room);
    scene.world.settle();
    let keys = [json!(false), json!("true"), json!(1), Value::Null];
    for flag in keys {
        let session = herold_crypto::OutboundGroupSession::new();
        let mut owner = Attacker::ghost(&mut scene.world, "@carol:world.test", "SECOND");
        let mut content = attacks_common::room_key(&session, &scene.room);
        if !flag.is_null() {
            content["shared_history"] = flag.clone();
        }
        owner.send(&mut scene.world, scene.alice, "m.room_key", &content);
        scene.world.settle();
        // Another member has the key too, and says of it what suits.
        content["shared_history"] = json!(true);
        mallory.send(&mut scene.world, scene.alice, "m.room_key", &content);
        scene.world.settle();
        let bundle = collect(&mut scene.world, scene.alice, &scene.room);
        let id = session.session_id();
        let has = |list: &str| {
            bundle[list].as_array().unwrap().iter().any(|key| key["session_id"] == id.as_str())
        };
        assert!(!has("room_keys") && has("withheld"), "{flag}: {bundle}");
    }
}

#[test]
fn n28_a_bundle_that_does_not_say_which_device_it_comes_from_is_dropped() {
    let mut scene = Scene::new(4);
    let mut phone = scene.device("PHONE", true);
    let file = upload(&mut scene.world, scene.alice, b"{}");
    let mut payload = telling(&scene.world, &phone, scene.bob, &scene.room, &file);
    payload.as_object_mut().unwrap().remove("sender_device_keys");
    phone.send_as(&mut scene.world, scene.bob, ALICE, &payload);
    scene.world.settle();
    assert_eq!(dropped(&scene.world, scene.bob, DropReason::SenderDeviceKeys), 1);
    assert_eq!(rows(&scene.world, scene.bob, Table::HistoryBundle), 0);
    // Nor one whose description cannot be what it says.
    for change in ["room_id", "file", "url", "hashes"] {
        let mut payload = telling(&scene.world, &phone, scene.bob, &scene.room, &file);
        match change {
            "room_id" => payload["content"]["room_id"] = json!("room"),
            "file" => payload["content"]["file"] = json!("mxc://world.test/x"),
            "url" => payload["content"]["file"]["url"] = json!("mxc://world.test/../x"),
            _ => payload["content"]["file"]["hashes"] = json!({}),
        }
        phone.send_as(&mut scene.world, scene.bob, ALICE, &payload);
        scene.world.settle();
    }
    assert_eq!(dropped(&scene.world, scene.bob, DropReason::Malformed), 4);
    assert_eq!(rows(&scene.world, scene.bob, Table::HistoryBundle), 0);
}

#[test]
fn n28_a_bundle_of_a_device_that_the_inviter_has_not_signed_is_not_fetched() {
    let mut scene = Scene::new(5);
    let mut ghost = scene.device("GHOST", false);
    let alice_key = entry(&herold_crypto::OutboundGroupSession::new(), scene.room.as_str(), &ghost);
    scene.invite();
    scene.tell(&mut ghost, &[alice_key]);
    scene.join();
    assert_eq!(scene.downloads(), 0);
    // It has stood in nobody's way, although it was first; nor does it when it comes last.
    let mut phone = scene.device("PHONE", true);
    let (session, event) = old_message(&mut scene.world, &scene.room, ALICE, "old");
    let key = entry(&session, scene.room.as_str(), &phone);
    scene.tell(&mut phone, &[key]);
    assert_eq!(scene.downloads(), 1);
    assert_eq!(scene.world.text(scene.bob, &scene.room, &event).as_deref(), Ok("old"));
}

#[test]
fn n28_a_later_bundle_of_an_unsigned_device_does_not_hide_the_signed_ones() {
    let mut scene = Scene::new(6);
    let (mut phone, mut ghost) = (scene.device("PHONE", true), scene.device("GHOST", false));
    let (session, event) = old_message(&mut scene.world, &scene.room, ALICE, "old");
    let key = entry(&session, scene.room.as_str(), &phone);
    scene.tell(&mut phone, &[key]);
    scene.world.clock.advance(seconds(5));
    scene.tell(&mut ghost, &[]);
    scene.invite();
    scene.join();
    assert_eq!(scene.downloads(), 1);
    assert_eq!(scene.world.text(scene.bob, &scene.room, &event).as_deref(), Ok("old"));
}

#[test]
fn n28_a_bundle_of_somebody_who_has_not_invited_us_is_not_fetched() {
    let mut scene = Scene::new(7);
    let mallory = scene.world.add_device("mallory");
    scene.world.settle();
    bootstrap(&mut scene.world, mallory, false);
    scene.world.invite(scene.alice, &scene.room, mallory);
    scene.world.join(mallory, &scene.room);
    scene.world.settle();
    scene.world.send(mallory, &scene.room, "mallory's");
    share(&mut scene.world, mallory, &scene.room, scene.bob);
    assert_eq!(rows(&scene.world, scene.bob, Table::HistoryBundle), 1);
    scene.invite();
    scene.join();
    assert_eq!(scene.downloads(), 0);
    share(&mut scene.world, mallory, &scene.room, scene.bob);
    assert_eq!(scene.downloads(), 0);
    // An invitation that comes now does not make it so.
    let user = scene.world.devices[scene.bob].user_id.clone();
    let file = upload(&mut scene.world, mallory, b"{}");
    assert!(queue(&mut scene.world, mallory, &scene.room, &user, &file));
    scene.world.settle();
    assert_eq!(scene.downloads(), 0);
}

#[test]
fn n28_keys_for_other_rooms_are_ignored() {
    let mut scene = Scene::new(8);
    let mut phone = scene.device("PHONE", true);
    let other = scene.world.make_room(&[scene.alice, scene.bob]);
    let (foreign, _) = old_message(&mut scene.world, &other, ALICE, "other");
    let (session, event) = old_message(&mut scene.world, &scene.room, ALICE, "old");
    let keys = [
        entry(&foreign, other.as_str(), &phone),
        json!({ "algorithm": "m.megolm.v1.aes-sha2" }),
        json!("nonsense"),
        entry(&session, scene.room.as_str(), &phone),
    ];
    scene.tell(&mut phone, &keys);
    scene.invite();
    scene.join();
    let received = notices(&scene.world, scene.bob, "history_received");
    assert!(
        matches!(&received[..], [Notice::HistoryReceived { new: 1, refused: 3, .. }]),
        "{received:?}"
    );
    assert_eq!(scene.world.text(scene.bob, &scene.room, &event).as_deref(), Ok("old"));
    let image = scene.world.devices[scene.bob].disk.image();
    for (key, record) in image.list::<InboundSessionRecord>(&[], 1000).unwrap() {
        assert!(record.shared_by.is_none() || key.room_id == scene.room, "{key:?}");
    }
}

#[test]
fn n28_a_session_that_is_known_is_not_overwritten() {
    let mut scene = Scene::new(9);
    let mut phone = scene.device("PHONE", true);
    let mut tablet = scene.device("TABLET", true);
    // Bob has the key by Olm, of the device that made it.
    let (session, event) = old_message(&mut scene.world, &scene.room, ALICE, "old");
    let content = attacks_common::room_key(&session, &scene.room);
    phone.send(&mut scene.world, scene.bob, "m.room_key", &content);
    scene.world.settle();
    let records = |scene: &Scene| -> Vec<(Vec<u8>, InboundSessionRecord)> {
        let image = scene.world.devices[scene.bob].disk.image();
        let prefix = InboundSessionKey::of(&scene.room, &session.session_id());
        let rows = image.list::<InboundSessionRecord>(&prefix, 10).unwrap();
        rows.into_iter().map(|(_, row)| (row.pickle.as_slice().to_vec(), row)).collect()
    };
    let before = records(&scene);
    assert_eq!(before.len(), 1);
    // The same ratchet as another device's, and another ratchet under the same id.
    let mine = entry(&session, scene.room.as_str(), &tablet);
    let mut forged = entry(&session, scene.room.as_str(), &phone);
    let mut text: Vec<char> = forged["session_key"].as_str().unwrap().chars().collect();
    text[40] = if text[40] == 'A' { 'B' } else { 'A' };
    forged["session_key"] = json!(text.into_iter().collect::<String>());
    scene.tell(&mut tablet, &[mine, forged]);
    scene.invite();
    scene.join();
    let received = notices(&scene.world, scene.bob, "history_received");
    assert!(
        matches!(&received[..], [Notice::HistoryReceived { new: 0, known: 0, refused: 2, .. }]),
        "{received:?}"
    );
    let after = records(&scene);
    assert_eq!(after.len(), 1);
    assert_eq!((&after[0].0, after[0].1.source), (&before[0].0, KeySource::Olm));
    assert_eq!(
        (after[0].1.shared_by.clone(), after[0].1.sender_key),
        (None, phone.keys().curve25519)
    );
    let event = scene.world.event(scene.bob, &scene.room, &event).unwrap();
    assert_eq!((event.shield, event.shared_by), (Shield::None, None));
}

#[test]
fn n28_a_forged_key_does_not_keep_the_owners_out() {
    let mut scene = Scene::new(10);
    let mut phone = scene.device("PHONE", true);
    let (session, event) = old_message(&mut scene.world, &scene.room, ALICE, "old");
    let mut forged = entry(&session, scene.room.as_str(), &phone);
    let mut text: Vec<char> = forged["session_key"].as_str().unwrap().chars().collect();
    text[40] = if text[40] == 'A' { 'B' } else { 'A' };
    forged["session_key"] = json!(text.into_iter().collect::<String>());
    scene.tell(&mut phone, &[forged]);
    scene.invite();
    scene.join();
    assert!(scene.world.text(scene.bob, &scene.room, &event).is_err());
    let content = attacks_common::room_key(&session, &scene.room);
    phone.send(&mut scene.world, scene.bob, "m.room_key", &content);
    scene.world.settle();
    let event = scene.world.event(scene.bob, &scene.room, &event).unwrap();
    assert_eq!((event.body.is_ok(), event.shield), (true, Shield::None));
}

#[test]
fn n28_what_is_not_what_was_shared_imports_nothing() {
    let mut scene = Scene::new(11);
    let mut phone = scene.device("PHONE", true);
    let (session, event) = old_message(&mut scene.world, &scene.room, ALICE, "old");
    let key = entry(&session, scene.room.as_str(), &phone);
    scene.tell(&mut phone, &[key]);
    scene.invite();
    let before = rows(&scene.world, scene.bob, Table::InboundSession);
    let bob = scene.bob;
    scene.world.tamper = Some(Box::new(move |device, path, response| {
        if device == bob && path.contains("/media/download/") {
            response.body[20] ^= 1;
        }
    }));
    scene.join();
    scene.world.clock.advance(seconds(600));
    scene.world.settle();
    assert_eq!(scene.refused(), [HistoryRefusal::Changed]);
    assert_eq!(scene.downloads(), 3, "it is not asked for for ever");
    assert_eq!(rows(&scene.world, scene.bob, Table::InboundSession), before);
    assert!(scene.world.text(scene.bob, &scene.room, &event).is_err());
    // The right thing under a right hash, but no bundle.
    scene.world.tamper = None;
    for text in ["", "[]", "{}", r#"{"room_keys":{}}"#, r#"{"room_keys":[}"#, "\u{1}"] {
        let file = upload(&mut scene.world, scene.alice, text.as_bytes());
        let payload = telling(&scene.world, &phone, scene.bob, &scene.room, &file);
        phone.send_as(&mut scene.world, scene.bob, ALICE, &payload);
        scene.world.settle();
    }
    assert_eq!(scene.refused()[1..], [HistoryRefusal::Malformed; 6]);
    // Another one may still come.
    let key = entry(&session, scene.room.as_str(), &phone);
    scene.tell(&mut phone, &[key]);
    assert_eq!(scene.world.text(scene.bob, &scene.room, &event).as_deref(), Ok("old"));
}

#[test]
fn n28_a_bundle_that_is_too_large_is_not_taken() {
    let mut scene = Scene::new(12);
    let mut phone = scene.device("PHONE", true);
    scene.tell(&mut phone, &[]);
    scene.invite();
    let bob = scene.bob;
    scene.world.tamper = Some(Box::new(move |device, path, response| {
        if device == bob && path.contains("/media/download/") {
            response.body = vec![b' '; (64 << 20) + 1];
        }
    }));
    scene.join();
    assert_eq!(scene.refused(), [HistoryRefusal::TooLarge]);
    assert_eq!(scene.downloads(), 1, "once is enough");
    // Small on the wire, and large in memory.
    scene.world.tamper = None;
    let text = format!(r#"{{"room_keys":[{}1]}}"#, "1,".repeat(300_000));
    let file = upload(&mut scene.world, scene.alice, text.as_bytes());
    let payload = telling(&scene.world, &phone, scene.bob, &scene.room, &file);
    phone.send_as(&mut scene.world, scene.bob, ALICE, &payload);
    scene.world.settle();
    assert_eq!(scene.refused(), [HistoryRefusal::TooLarge, HistoryRefusal::Malformed]);
}

#[test]
fn n28_nothing_is_fetched_before_the_invitation_is_accepted_whatever_the_homeserver_shows() {
    let mut scene = Scene::new(13);
    let old = scene.world.send(scene.alice, &scene.room, "old");
    share(&mut scene.world, scene.alice, &scene.room, scene.bob);
    scene.world.clock.advance(seconds(60));
    scene.world.settle();
    assert_eq!(scene.downloads(), 0, "not invited");
    scene.invite();
    assert_eq!(scene.downloads(), 0, "invited");
    // Accepted, and not joined.
    assert!(accept(&mut scene.world, scene.bob, &scene.room));
    scene.world.settle();
    assert_eq!(scene.downloads(), 0, "not joined");
    scene.world.join(scene.bob, &scene.room);
    scene.world.settle();
    assert_eq!(scene.downloads(), 1);
    assert!(scene.world.text(scene.bob, &scene.room, &old).is_ok());

    // A join that this user has not asked for.
    let mut scene = Scene::new(14);
    scene.world.send(scene.alice, &scene.room, "old");
    share(&mut scene.world, scene.alice, &scene.room, scene.bob);
    scene.invite();
    scene.world.join(scene.bob, &scene.room);
    scene.world.settle();
    scene.world.clock.advance(seconds(60));
    scene.world.settle();
    assert_eq!(scene.downloads(), 0);
}

#[test]
fn n28_a_device_that_is_removed_or_blocked_meanwhile_is_not_believed() {
    for blocked in [true, false] {
        let mut scene = Scene::new(15);
        let old = scene.world.send(scene.alice, &scene.room, "old");
        share(&mut scene.world, scene.alice, &scene.room, scene.bob);
        scene.invite();
        let log = Rc::new(RefCell::new(0));
        if blocked {
            let (alice, bob) = (scene.alice, scene.bob);
            let user = scene.world.devices[alice].user_id.clone();
            scene.world.command(bob, |engine| {
                engine.step(|machine, snapshot, cx| machine.refresh_devices(snapshot, cx, &user))
            });
            scene.world.settle();
            block(&mut scene.world, bob, alice, true);
        } else {
            let (bob, seen) = (scene.bob, log.clone());
            let name = scene.world.devices[scene.alice].device_id.clone();
            scene.world.tamper = Some(Box::new(move |device, path, response| {
                if device == bob && path.ends_with("/keys/query") {
                    *seen.borrow_mut() += 1;
                    let mut body: Value = serde_json::from_slice(&response.body).unwrap();
                    if let Some(devices) = body["device_keys"][ALICE].as_object_mut() {
                        devices.remove(&name);
                    }
                    response.body = body.to_string().into_bytes();
                }
            }));
        }
        scene.join();
        assert_eq!(scene.downloads(), 0, "{blocked}");
        assert!(scene.world.text(scene.bob, &scene.room, &old).is_err());
        assert!(blocked || *log.borrow() > 0);
    }
}

#[test]
fn n28_floods_of_bundles_leave_little_and_push_out_none_that_is_noted() {
    let mut scene = Scene::new(16);
    let old = scene.world.send(scene.alice, &scene.room, "old");
    share(&mut scene.world, scene.alice, &scene.room, scene.bob);
    scene.invite();
    scene.world.clock.advance(seconds(60));
    let file = upload(&mut scene.world, scene.alice, b"{}");
    let mut many: Vec<Attacker> = Vec::new();
    for n in 0..12 {
        many.push(Attacker::ghost(&mut scene.world, &format!("@flood{n}:world.test"), "F"));
    }
    for n in 0..400 {
        let from = &mut many[n % 12];
        let room: OwnedRoomId = format!("!flood{n}:world.test").try_into().unwrap();
        let payload = telling(&scene.world, from, scene.bob, &room, &file);
        let user = from.user_id.clone();
        from.send_as(&mut scene.world, scene.bob, &user, &payload);
    }
    scene.world.settle();
    let kept = rows(&scene.world, scene.bob, Table::HistoryBundle);
    assert!((100..=200).contains(&kept), "{kept}");
    scene.join();
    assert_eq!(scene.world.text(scene.bob, &scene.room, &old).as_deref(), Ok("old"));
    // What nobody wants goes.
    scene.world.clock.advance(seconds(31 * 24 * 3600));
    let mut phone = scene.device("PHONE", true);
    phone.send(&mut scene.world, scene.bob, "m.dummy", &json!({}));
    scene.world.settle();
    scene.world.clock.advance(seconds(25 * 3600));
    phone.send(&mut scene.world, scene.bob, "m.dummy", &json!({}));
    scene.world.settle();
    assert_eq!(rows(&scene.world, scene.bob, Table::HistoryBundle), 0);
}

#[test]
fn n28_the_shield_says_that_it_is_the_inviters_word() {
    let mut scene = Scene::new(17);
    let mut phone = scene.device("PHONE", true);
    // Alice says that Carol has made it.
    let carol = Attacker::log_in(&mut scene.world, "carol");
    let (session, event) = old_message(&mut scene.world, &scene.room, "@carol:world.test", "hm");
    let key = entry(&session, scene.room.as_str(), &carol);
    scene.tell(&mut phone, &[key]);
    scene.invite();
    scene.join();
    let event = scene.world.event(scene.bob, &scene.room, &event).unwrap();
    assert!(event.body.is_ok());
    assert_eq!(event.shield, Shield::Grey(ShieldReason::AuthenticityNotGuaranteed));
    assert_eq!(event.shared_by.as_ref().map(|user| user.as_str()), Some(ALICE));
    assert_eq!(event.sender_device, None);
}
