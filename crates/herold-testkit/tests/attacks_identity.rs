//! Attacks on identities, on the backup and on what is passed on between own devices: by the homeserver, by room
//! members, and by devices of the user's own account.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod attacks_common;
mod behaviour_common;
mod identity_common;

use std::io::Cursor;

use attacks_common::{
    CrossSigning, dropped, id, inject, inject_clear, known_devices, published as published_keys,
    rewrite, rows, strict_device, two, user,
};
use behaviour_common::{clean, log_length, notices, requests, seconds, sent_to};
use herold::{IdentityState, Notice, OwnedRoomId, OwnedUserId, SecretString, Shield, ShieldReason};
use herold_crypto::{ExportedSession, KeyFileReader, KeyFileWriter, SigningKey};
use herold_machine::{
    DropReason, Imported, RestoredKey, ToDeviceRecipient, VerificationAction, VerificationView,
};
use herold_store::Table;
use herold_testkit::{Attacker, Disk, World, kill_at_each_commit, open_policy};
use herold_trust::{CancelCode, KeySource, Methods, VerificationState};
use identity_common::{
    SECRETS, SIGNING_UPLOAD, bootstrap, identity_of, import, is_signed, make_backup, prepare,
    published, secret, status, with_password,
};
use serde_json::{Value, json};

const ALICE: &str = "@alice:world.test";
const BOB: &str = "@bob:world.test";
const BACKUP: &str = "m.megolm_backup.v1";
const ALGORITHM: &str = "m.megolm_backup.v1.curve25519-aes-sha2";
const REQUEST: &str = "m.key.verification.request";
const FOREIGN_KEY: &str = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo";

fn views(world: &mut World, device: usize) -> Vec<VerificationView> {
    world
        .command(device, |engine| engine.read(|machine, snapshot| machine.verifications(snapshot)))
        .unwrap()
}

fn act(world: &mut World, device: usize, action: VerificationAction) {
    let view = views(world, device).pop().expect("a verification");
    world.command(device, |engine| {
        engine.step(|machine, snapshot, cx| {
            machine.act_on_verification(snapshot, cx, &view.user_id, &view.flow_id, action)
        })
    });
    world.settle();
}

fn request(world: &mut World, from: usize, to: usize) {
    let user = world.devices[to].user_id.clone();
    world
        .command(from, |engine| {
            engine.step(|machine, snapshot, cx| {
                machine.request_verification(snapshot, cx, &user, None, Methods::SAS)
            })
        })
        .expect("a request");
    world.settle();
}

/// Up to the strings.
fn compare(world: &mut World, from: usize, to: usize) {
    request(world, from, to);
    act(world, to, VerificationAction::Accept(Methods::SAS));
    act(world, from, VerificationAction::StartSas);
}

fn verify(world: &mut World, from: usize, to: usize) {
    compare(world, from, to);
    act(world, from, VerificationAction::Confirm);
    act(world, to, VerificationAction::Confirm);
    world.settle();
}

fn state(world: &mut World, device: usize) -> VerificationState {
    views(world, device).pop().expect("a verification").state
}

fn code(world: &mut World, device: usize) -> Option<CancelCode> {
    match state(world, device) {
        VerificationState::Cancelled { code, .. } => Some(code),
        _ => None,
    }
}

fn alice_and_bob(seed: u64) -> (World, usize, usize, OwnedRoomId) {
    let mut world = World::new(seed);
    let (alice, bob) = (world.add_device("alice"), world.add_device("bob"));
    let room = world.make_room(&[alice, bob]);
    bootstrap(&mut world, alice, false);
    bootstrap(&mut world, bob, false);
    (world, alice, bob, room)
}

/// The homeserver shows another identity of a user.
fn serve(world: &mut World, user: &str, master: &Value, self_signing: &Value) {
    for (usage, key) in
        [("master", master), ("self_signing", self_signing), ("user_signing", &Value::Null)]
    {
        world.server.override_cross_signing_key(user, usage, Some(key.clone()));
    }
    world.settle();
}

fn swap(world: &mut World, user: &str) -> CrossSigning {
    let other = CrossSigning::new(user);
    serve(world, user, &other.master_key(), &other.self_signing_key());
    other
}

fn refused(world: &World, device: usize) -> usize {
    notices(world, device, "identity_refused").len()
}

fn queue_to_device(world: &mut World, from: usize, to: OwnedUserId) {
    let to = [ToDeviceRecipient::User(to)];
    world
        .command(from, |engine| {
            engine.step(|machine, snapshot, cx| {
                machine.send_to_device(snapshot, cx, &to, "org.example.x", &json!({}), None)
            })
        })
        .expect("queued");
    world.settle();
}

#[test]
fn n03_a_swapped_identity_gets_nothing_and_is_told_of() {
    let mut world = World::new(1);
    let (alice, bob) = (strict_device(&mut world, "alice"), world.add_device("bob"));
    let room = world.make_room(&[alice, bob]);
    bootstrap(&mut world, bob, false);
    assert_eq!(identity_of(&mut world, alice, bob), IdentityState::Pinned);
    let old = world
        .command(bob, |engine| {
            engine.read(|machine, snapshot| machine.secret(snapshot, SECRETS[0]))
        })
        .flatten()
        .unwrap();
    let old = SigningKey::from_secret(&old).unwrap();
    // Halves: the self-signing key signed by the old master key beside another one, and by nobody.
    let other = CrossSigning::new(BOB);
    let mut by_old = other.self_signing_key();
    by_old.as_object_mut().unwrap().remove("signatures");
    let unsigned = by_old.clone();
    old.sign_json(BOB, &mut by_old).unwrap();
    serve(&mut world, BOB, &other.master_key(), &by_old);
    assert_eq!(refused(&world, alice), 1);
    let kept = json!({
        "user_id": BOB,
        "usage": ["master"],
        "keys": { format!("ed25519:{}", old.public_key().to_base64()): old.public_key().to_base64() },
    });
    serve(&mut world, BOB, &kept, &unsigned);
    assert_eq!(refused(&world, alice), 2);
    assert_eq!(identity_of(&mut world, alice, bob), IdentityState::Pinned);
    // A whole one, and a device of its own.
    let log = log_length(&world);
    let other = swap(&mut world, BOB);
    let thief = Attacker::unlisted(BOB, "THIEF");
    world.server.add_device_keys(BOB, "THIEF", other.sign(thief.device_keys()));
    world.settle();
    assert_eq!(identity_of(&mut world, alice, bob), IdentityState::PinViolation);
    assert_eq!(notices(&world, alice, "identity_changed").len(), 1);
    world.send(alice, &room, "not for the thief");
    let to_thief = world.server.to_device_log()[log..]
        .iter()
        .filter(|sent| sent.recipient_device == "THIEF" && sent.event_type == "m.room.encrypted");
    assert_eq!(to_thief.count(), 0);
    clean(&world);
}

#[test]
fn n03_whoever_was_verified_and_is_another_is_sent_no_event_of_the_app_either() {
    let (mut world, alice, bob, _) = alice_and_bob(2);
    verify(&mut world, alice, bob);
    assert_eq!(identity_of(&mut world, alice, bob), IdentityState::Verified);
    let bob_id = world.devices[bob].user_id.clone();
    queue_to_device(&mut world, alice, bob_id.clone());
    let log = log_length(&world);
    swap(&mut world, BOB);
    assert_eq!(identity_of(&mut world, alice, bob), IdentityState::VerificationViolation);
    queue_to_device(&mut world, alice, bob_id);
    assert_eq!(sent_to(&world, bob, "m.room.encrypted", log).len(), 0);
    clean(&world);
}

#[test]
fn n04_a_device_named_like_a_key_is_refused_and_verifies_nothing() {
    let (mut world, alice, bob, _) = alice_and_bob(3);
    for (owner, device) in [(ALICE, alice), (BOB, bob)] {
        let master = secret(&mut world, device, SECRETS[0]).unwrap();
        let name = SigningKey::from_secret(&master).unwrap().public_key().to_base64();
        Attacker::ghost(&mut world, owner, &name);
        world.settle();
        let known = known_devices(&mut world, alice, owner);
        assert!(known.iter().all(|(id, _)| *id != name), "{owner}");
    }
    assert_eq!(notices(&world, alice, "device_refused").len(), 2);
    // It has stood in nobody's way.
    verify(&mut world, alice, bob);
    assert_eq!(identity_of(&mut world, alice, bob), IdentityState::Verified);
    clean(&world);
}

/// The device is there before the identity is known whose key it is named after.
#[test]
fn n04_an_own_device_named_like_a_key_ends_verifications_and_no_sync() {
    let mut world = World::new(4);
    let (alice, bob) = (world.add_device("alice"), world.add_device("bob"));
    let room = world.make_room(&[alice, bob]);
    bootstrap(&mut world, bob, false);
    let body: Value = serde_json::from_str(&prepare(&mut world, alice, false).unwrap()).unwrap();
    let name = body["master_key"]["keys"].as_object().unwrap().values().next().unwrap().clone();
    Attacker::ghost(&mut world, ALICE, name.as_str().unwrap());
    world.settle();
    let body = with_password(&world, alice, &body.to_string());
    world.call(Some(alice), "POST", SIGNING_UPLOAD, body);
    assert!(published(&mut world, alice));
    request(&mut world, bob, alice);
    assert_eq!(views(&mut world, alice), []);
    let user = world.devices[bob].user_id.clone();
    let asked = world.command(alice, |engine| {
        engine.step(|machine, snapshot, cx| {
            machine.request_verification(snapshot, cx, &user, None, Methods::SAS)
        })
    });
    assert!(asked.is_none());
    let event = world.send(bob, &room, "the sync goes on");
    assert_eq!(world.text(alice, &room, &event).as_deref(), Ok("the sync goes on"));
    clean(&world);
}

#[test]
fn n04_n32_keys_that_change_between_the_steps_end_the_verification() {
    let (mut world, alice, bob, _) = alice_and_bob(5);
    compare(&mut world, alice, bob);
    act(&mut world, bob, VerificationAction::Confirm);
    swap(&mut world, BOB);
    act(&mut world, alice, VerificationAction::Confirm);
    assert_eq!(code(&mut world, alice), Some(CancelCode::KeyMismatch));
    assert_eq!(code(&mut world, bob), Some(CancelCode::KeyMismatch));
    assert_eq!(identity_of(&mut world, alice, bob), IdentityState::PinViolation);
    let uploads = requests(&world, alice, "signatures/upload", 0).len();
    assert_eq!(uploads, 1, "that of the own device");
    clean(&world);
}

/// A device of Alice's that the attacker has the keys of, signed by her identity.
fn tablet(world: &mut World, alice: usize) -> Attacker {
    let mut tablet = Attacker::unlisted(ALICE, "TABLET");
    let key = secret(world, alice, SECRETS[1]).unwrap();
    let mut keys = tablet.device_keys();
    SigningKey::from_secret(&key).unwrap().sign_json(ALICE, &mut keys).unwrap();
    world.server.add_device_keys(ALICE, "TABLET", keys);
    let keys = tablet.one_time_keys(5);
    world.server.add_one_time_keys(ALICE, "TABLET", keys);
    world.settle();
    tablet
}

/// Alice's first device, which is away; her second, which is sure of the identity and asks for the other secrets; and the
/// tablet.
fn asking(seed: u64, with_backup: bool) -> (World, usize, usize, Attacker) {
    let mut world = World::new(seed);
    let first = world.add_device("alice");
    bootstrap(&mut world, first, false);
    if with_backup {
        make_backup(&mut world, first);
    }
    let tablet = tablet(&mut world, first);
    world.set_online(first, false);
    let second = world.add_device("alice");
    world.settle();
    let master = secret(&mut world, first, SECRETS[0]).unwrap();
    assert!(import(&mut world, second, SECRETS[0], &master));
    world.settle();
    world.command(second, |engine| {
        engine.step(|machine, snapshot, cx| machine.request_secrets(snapshot, cx))
    });
    world.settle();
    (world, first, second, tablet)
}

fn request_id(world: &World, wanted: &str) -> String {
    let asked = world.server.to_device_log().iter().rev().find(|sent| {
        sent.recipient_device == "TABLET"
            && sent.event_type == "m.secret.request"
            && sent.content["name"] == wanted
    });
    asked.expect("it was asked for").content["request_id"].as_str().unwrap().to_owned()
}

fn sending(request_id: &str, secret: &SecretString) -> Value {
    json!({ "request_id": request_id, "secret": secret.as_str() })
}

#[test]
fn n08_a_secret_is_taken_from_a_device_that_was_asked_and_only_if_it_fits() {
    let (mut world, first, second, mut tablet) = asking(6, false);
    let right = secret(&mut world, first, SECRETS[2]).unwrap();
    let wrong = SecretString::new("A".repeat(43));
    let asked = request_id(&world, SECRETS[2]);
    let mut thief = Attacker::ghost(&mut world, ALICE, "THIEF");
    let mut eve = Attacker::log_in(&mut world, "eve");
    let mut double = Attacker::unlisted(ALICE, "TABLET");
    world.settle();
    const SEND: &str = "m.secret.send";
    inject_clear(&mut world, second, ALICE, SEND, sending(&asked, &right));
    tablet.send(&mut world, second, SEND, &sending("unasked", &right));
    thief.send(&mut world, second, SEND, &sending(&asked, &right));
    eve.send(&mut world, second, SEND, &sending(&asked, &right));
    double.send(&mut world, second, SEND, &sending(&asked, &right));
    tablet.send(&mut world, second, SEND, &sending(&asked, &wrong));
    world.settle();
    for (reason, count) in [
        (DropReason::NotByOlm, 1),
        (DropReason::Unsolicited, 1),
        (DropReason::SenderUntrusted, 3),
        (DropReason::RoomKeyConflict, 1),
    ] {
        assert_eq!(dropped(&world, second, reason), count, "{reason:?}");
    }
    assert_eq!(secret(&mut world, second, SECRETS[2]), None);
    // None of them has used the request up.
    tablet.send(&mut world, second, SEND, &sending(&asked, &right));
    world.settle();
    assert_eq!(secret(&mut world, second, SECRETS[2]), Some(right.clone()));
    // It has now.
    tablet.send(&mut world, second, SEND, &sending(&asked, &right));
    world.settle();
    assert_eq!(dropped(&world, second, DropReason::Unsolicited), 2);
    clean(&world);
}

#[test]
fn n08_a_wrong_key_of_the_backup_is_not_kept_and_keeps_no_right_one_out() {
    let (mut world, first, second, mut tablet) = asking(7, true);
    let right = secret(&mut world, first, BACKUP).unwrap();
    let wrong = SecretString::new("A".repeat(43));
    let asked = request_id(&world, BACKUP);
    // The backup is signed, and so in use without its private key.
    assert!(status(&mut world, second).enabled);
    for offline in [true, false] {
        if offline {
            // As long as nothing is known of a backup a key can be compared with nothing.
            world.tamper = Some(Box::new(|_, path, response| {
                if path.ends_with("room_keys/version") {
                    response.status = 502;
                }
            }));
            world.command(second, |engine| {
                engine.step(|machine, snapshot, cx| machine.check_backup(snapshot, cx))
            });
        }
        tablet.send(&mut world, second, "m.secret.send", &sending(&asked, &wrong));
        world.sync(second);
        assert_eq!(secret(&mut world, second, BACKUP), None, "offline: {offline}");
        world.tamper = None;
        world.clock.advance(seconds(600));
        world.settle();
        assert_eq!(secret(&mut world, second, BACKUP), None, "offline: {offline}");
        assert!(!status(&mut world, second).has_key);
    }
    tablet.send(&mut world, second, "m.secret.send", &sending(&asked, &right));
    world.settle();
    assert_eq!(secret(&mut world, second, BACKUP), Some(right));
    assert!(status(&mut world, second).has_key);
    clean(&world);
}

#[test]
fn n09_nothing_goes_to_a_backup_that_nobody_vouches_for() {
    let (mut world, alice, bob, room) = alice_and_bob(8);
    world.send(bob, &room, "a room key");
    let key = |world: &mut World, name| {
        SigningKey::from_secret(&secret(world, alice, name).unwrap()).unwrap()
    };
    let (master, self_signing) = (key(&mut world, SECRETS[0]), key(&mut world, SECRETS[1]));
    let signed = |key: &SigningKey, data: Value| {
        let mut data = data;
        key.sign_json(ALICE, &mut data).unwrap();
        data
    };
    let plain = json!({ "public_key": FOREIGN_KEY });
    let good = signed(&master, plain.clone());
    let mut other_data = signed(&master, json!({ "public_key": "other" }));
    other_data["public_key"] = json!(FOREIGN_KEY);
    let mut double = Attacker::unlisted(ALICE, &id(&world, alice));
    let by_double = double.signed(plain.clone());
    double.forget_sessions();
    let stranger = Attacker::unlisted(ALICE, "STRANGER").signed(plain.clone());
    let tablet = tablet(&mut world, alice).signed(plain.clone());
    let low = signed(&master, json!({ "public_key": "A".repeat(43) }));
    let from = world.server.requests().len();
    for (what, algorithm, data, trusted) in [
        ("unsigned", ALGORITHM, plain, false),
        ("signed by an unknown device", ALGORITHM, stranger, false),
        ("signed by a device", ALGORITHM, tablet, false),
        ("signed under this device's id", ALGORITHM, by_double, false),
        ("signed by the self-signing key", ALGORITHM, signed(&self_signing, good.clone()), true),
        (
            "by that alone",
            ALGORITHM,
            signed(&self_signing, json!({ "public_key": FOREIGN_KEY })),
            false,
        ),
        ("signed over other data", ALGORITHM, other_data, false),
        ("another algorithm", "m.megolm_backup.v2", good.clone(), false),
        ("a point of small order", ALGORITHM, low, false),
        ("no object", ALGORITHM, json!([]), false),
        ("the genuine", ALGORITHM, good, true),
    ] {
        let answer = json!({ "version": "9", "algorithm": algorithm, "auth_data": data });
        world.tamper = Some(Box::new(move |_, path, response| {
            if path.ends_with("room_keys/version") {
                response.status = 200;
                response.body = answer.to_string().into_bytes();
            }
            // What is uploaded is counted, and goes nowhere.
            if path.ends_with("room_keys/keys") {
                response.status = 200;
            }
        }));
        world.command(alice, |engine| {
            engine.step(|machine, snapshot, cx| machine.check_backup(snapshot, cx))
        });
        let uploads = requests(&world, alice, "room_keys/keys", from).len();
        let told = notices(&world, alice, "backup_refused").len();
        world.settle();
        let more = requests(&world, alice, "room_keys/keys", from).len() > uploads;
        assert_eq!((status(&mut world, alice).enabled, more), (trusted, trusted), "{what}");
        let told = notices(&world, alice, "backup_refused").len() - told;
        assert_eq!(told, usize::from(!trusted), "{what}");
    }
    clean(&world);
}

/// A homeserver that refuses every upload, and goes on to name the same backup, keeps nobody busy; what is too large goes in
/// parts; and no key is lost.
#[test]
fn n09_refused_uploads_are_bounded_and_lose_nothing() {
    for (seed, status_code, errcode) in [
        (9, 404, "M_NOT_FOUND"),
        (10, 403, "M_WRONG_ROOM_KEYS_VERSION"),
        (11, 413, "M_TOO_LARGE"),
        (12, 400, "M_UNKNOWN"),
        (13, 401, "M_UNKNOWN_TOKEN"),
    ] {
        let (mut world, alice, bob, room) = alice_and_bob(seed);
        for _ in 0..5 {
            attacks_common::new_session(&mut world, bob, &room);
            world.send(bob, &room, "one more session");
        }
        world.tamper = Some(Box::new(move |_, path, response| {
            if path.ends_with("room_keys/keys") {
                response.status = status_code;
                response.body = json!({ "errcode": errcode }).to_string().into_bytes();
            }
        }));
        make_backup(&mut world, alice);
        let uploads = requests(&world, alice, "room_keys/keys", 0).len();
        assert!((1..40).contains(&uploads), "{errcode}: {uploads}");
        world.tamper = None;
        world.clock.advance(seconds(3600));
        world.settle();
        let known = status(&mut world, alice);
        assert!(known.enabled && known.pending == 0, "{errcode}: {known:?}");
        let body = identity_common::download(&mut world, alice, &known.version.unwrap());
        let kept = body["rooms"][room.as_str()]["sessions"].as_object().unwrap().len();
        assert!(kept >= 5, "{errcode}: {kept}");
        clean(&world);
    }
}

#[test]
fn n09_a_large_upload_goes_in_parts() {
    let (mut world, alice, bob, room) = alice_and_bob(14);
    for _ in 0..6 {
        attacks_common::new_session(&mut world, bob, &room);
        world.send(bob, &room, "one more session");
    }
    let seen = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
    let log = seen.clone();
    let mut first = true;
    world.tamper = Some(Box::new(move |_, path, response| {
        if path.ends_with("room_keys/keys") {
            log.borrow_mut().push(response.status);
            if std::mem::take(&mut first) {
                response.status = 413;
                response.body = b"{}".to_vec();
            }
        }
    }));
    make_backup(&mut world, alice);
    assert_eq!(status(&mut world, alice).pending, 0);
    assert_eq!(seen.borrow().len(), 3);
    assert_eq!(notices(&world, alice, "backup_stopped").len(), 0);
    clean(&world);
}

fn exported(world: &mut World, device: usize) -> Vec<ExportedSession> {
    world
        .command(device, |engine| {
            engine.read(|machine, snapshot| machine.room_keys(snapshot, None, 100))
        })
        .unwrap()
        .0
}

fn take(
    world: &mut World,
    device: usize,
    keys: Vec<ExportedSession>,
    source: KeySource,
) -> Imported {
    let keys = keys.into_iter().filter_map(RestoredKey::from_export).collect();
    world
        .command(device, |engine| {
            engine
                .step(|machine, snapshot, cx| machine.import_room_keys(snapshot, cx, keys, source))
        })
        .unwrap()
        .reply
}

/// The same session with another ratchet, from an index on: whoever has the public key can write that.
fn forged(key: &ExportedSession, index: u32) -> ExportedSession {
    use base64::Engine;
    let base64 = base64::engine::general_purpose::STANDARD_NO_PAD;
    let mut bytes = base64.decode(key.data.session_key.as_str()).unwrap();
    bytes[1..5].copy_from_slice(&index.to_be_bytes());
    bytes[5..133].iter_mut().for_each(|byte| *byte ^= 0x55);
    let mut key = key.clone();
    key.data.session_key = SecretString::new(base64.encode(bytes));
    key
}

#[test]
fn n10_what_is_restored_replaces_nothing_that_came_by_olm_and_proves_nothing() {
    let (mut world, alice, bob, room) = alice_and_bob(15);
    let carol = world.add_device("carol");
    world.settle();
    let early = world.send(bob, &room, "before carol");
    world.invite(alice, &room, carol);
    world.join(carol, &room);
    world.settle();
    let old = world.send(bob, &room, "for carol");
    assert_eq!(world.text(carol, &room, &old).as_deref(), Ok("for carol"));
    let genuine = exported(&mut world, alice);
    let of_bob =
        genuine.iter().find(|key| key.data.sender_key == keys_of(&mut world, bob)).unwrap();
    let stranger = Attacker::unlisted(BOB, "STRANGER").keys();
    for source in [KeySource::Backup, KeySource::Imported, KeySource::Olm] {
        for (device, index) in [(alice, 0), (alice, 7), (carol, 0)] {
            let mut other_claim = of_bob.clone();
            other_claim.data.claimed_ed25519 = Some(stranger.ed25519);
            other_claim.data.shared_history = true;
            for key in [forged(of_bob, index), other_claim] {
                let imported = take(&mut world, device, vec![key], source);
                // Carol gets to know the beginning from a true ratchet; nobody gets anything from a false one.
                assert!(imported.new == 0 || device == carol, "{source:?} {index}: {imported:?}");
            }
        }
        let event = world.send(bob, &room, "as before");
        for device in [alice, carol] {
            for event in [&old, &event] {
                let shown = world.event(device, &room, event).unwrap();
                assert!(shown.body.is_ok(), "{source:?}");
                assert_eq!(shown.sender.as_str(), BOB);
                assert_ne!(
                    shown.shield,
                    Shield::Grey(ShieldReason::AuthenticityNotGuaranteed),
                    "{source:?}"
                );
            }
        }
        drop(early.clone());
    }
    // A session that nobody ever made, said to be Bob's.
    let mut made_up = herold_crypto::OutboundGroupSession::new();
    let mut inbound =
        herold_crypto::InboundGroupSession::from_session_key(made_up.session_key().as_str())
            .unwrap();
    let mut key = of_bob.clone();
    key.session_id = made_up.session_id();
    key.data.session_key = inbound.export_at(0).unwrap();
    let event = attacks_common::encrypted(&mut made_up, &room, BOB, "made up");
    let event = inject(&mut world, &room, event, "made_up");
    take(&mut world, alice, vec![key], KeySource::Olm);
    world.settle();
    let shown = world.event(alice, &room, &event).unwrap();
    assert_eq!(shown.shield, Shield::Grey(ShieldReason::AuthenticityNotGuaranteed));
    clean(&world);
}

fn keys_of(world: &mut World, device: usize) -> herold_crypto::Curve25519PublicKey {
    let (user, id) = (user(world, device), id(world, device));
    let keys = published_keys(world, device, &user, &id);
    let key = keys["keys"][format!("curve25519:{id}")].as_str().unwrap();
    herold_crypto::curve25519_from_base64(key).unwrap()
}

/// The machine's part: what a storage that was tampered with may give.
#[test]
fn n11_secrets_that_do_not_fit_the_published_keys_change_nothing() {
    let (mut world, alice, _, _) = alice_and_bob(16);
    let mine = SECRETS.map(|name| secret(&mut world, alice, name).unwrap());
    let other = herold_crypto::BackupDecryptionKey::generate(&mut herold::OsEntropy).to_secret();
    for name in SECRETS.into_iter().chain([BACKUP, "m.cross_signing.other", ""]) {
        for text in
            [other.clone(), SecretString::new("short".to_owned()), SecretString::new(String::new())]
        {
            assert!(!import(&mut world, alice, name, &text), "{name}");
        }
    }
    // The homeserver publishes another identity: the old keys are no longer its, and stay.
    swap(&mut world, ALICE);
    for (name, secret) in SECRETS.into_iter().zip(&mine) {
        assert!(!import(&mut world, alice, name, secret), "{name}");
    }
    assert_eq!(SECRETS.map(|name| secret(&mut world, alice, name).unwrap()), mine);
    assert_eq!(identity_of(&mut world, alice, alice), IdentityState::VerificationViolation);
    // A key that fits what the server says is the backup's, and nothing vouches for: it is the user's own.
    let version = json!({
        "version": "1",
        "algorithm": ALGORITHM,
        "auth_data": { "public_key": FOREIGN_KEY },
    });
    let version = version.to_string();
    let taken = world.command(alice, |engine| {
        engine.step(|machine, snapshot, cx| {
            machine.import_backup_key(snapshot, cx, &other, version.as_bytes())
        })
    });
    assert!(!taken.unwrap().reply);
    assert_eq!(secret(&mut world, alice, BACKUP), None);
    clean(&world);
}

fn ask_secret(world: &mut World, victim: usize, sender: &str, device: &str, request: &str) {
    let content = json!({
        "action": "request",
        "name": SECRETS[0],
        "request_id": request,
        "requesting_device_id": device,
    });
    inject_clear(world, victim, sender, "m.secret.request", content);
    world.settle();
}

fn secrets_of(world: &World, device: &mut Attacker) -> usize {
    let payloads = device.received(world);
    payloads.iter().filter(|payload| payload["type"] == "m.secret.send").count()
}

#[test]
fn n27_secrets_go_to_verified_own_devices_only_by_their_keys() {
    let mut world = World::new(17);
    let alice = world.add_device("alice");
    bootstrap(&mut world, alice, false);
    let mut tablet = tablet(&mut world, alice);
    let mut thief = Attacker::ghost(&mut world, ALICE, "THIEF");
    let mut eve = Attacker::log_in(&mut world, "eve");
    world.settle();
    let log = log_length(&world);
    let own = id(&world, alice);
    let (eve_user, eve_device) = (eve.user_id.clone(), eve.device_id.clone());
    for (n, (sender, device)) in [
        (eve_user.as_str(), eve_device.as_str()),
        (eve_user.as_str(), "TABLET"),
        (ALICE, "THIEF"),
        (ALICE, "NOBODY"),
        (ALICE, own.as_str()),
    ]
    .into_iter()
    .enumerate()
    {
        ask_secret(&mut world, alice, sender, device, &n.to_string());
    }
    assert_eq!(log_length(&world), log, "something was sent");
    assert_eq!(secrets_of(&world, &mut thief) + secrets_of(&world, &mut eve), 0);
    // The homeserver asks a thousand times in the names of devices that are none: the tablet is answered all the same.
    for n in 0..1000 {
        let content = json!({
            "action": "request",
            "name": SECRETS[0],
            "request_id": format!("flood {n}"),
            "requesting_device_id": format!("NOBODY{n}"),
        });
        inject_clear(&mut world, alice, ALICE, "m.secret.request", content);
    }
    world.settle();
    assert!(rows(&world, alice, Table::Parked) <= 50);
    ask_secret(&mut world, alice, ALICE, "TABLET", "honest");
    assert_eq!(secrets_of(&world, &mut tablet), 1);
    // The tablet's id with other keys.
    let mut double = Attacker::unlisted(ALICE, "TABLET");
    for keys in [Value::Null, double.device_keys()] {
        world.server.override_device_keys(ALICE, "TABLET", keys);
        world.settle();
    }
    let keys = double.one_time_keys(5);
    world.server.add_one_time_keys(ALICE, "TABLET", keys);
    world.clock.advance(seconds(60));
    let log = log_length(&world);
    ask_secret(&mut world, alice, ALICE, "TABLET", "double");
    assert_eq!(log_length(&world), log, "something was sent");
    assert_eq!(secrets_of(&world, &mut double), 0);
    clean(&world);
}

/// A homeserver that asks in the name of a verified device over and over: what the device is given has an end, and it is given
/// what it asks for an hour later.
#[test]
fn n27_a_verified_device_is_not_given_secrets_for_ever() {
    let mut world = World::new(117);
    let alice = world.add_device("alice");
    bootstrap(&mut world, alice, false);
    let _tablet = tablet(&mut world, alice);
    let given = |world: &World| {
        let sent = world.server.to_device_log().iter();
        sent.filter(|sent| {
            sent.recipient_device == "TABLET" && sent.event_type == "m.room.encrypted"
        })
        .count()
    };
    for n in 0..60 {
        world.clock.advance(seconds(2));
        ask_secret(&mut world, alice, ALICE, "TABLET", &format!("flood {n}"));
    }
    assert_eq!(given(&world), 20);
    world.clock.advance(seconds(3600));
    ask_secret(&mut world, alice, ALICE, "TABLET", "honest");
    assert_eq!(given(&world), 21);
    clean(&world);
}

/// A homeserver that changes a key on the way: the commitment, or the strings, show it.
#[test]
fn n32_a_changed_key_signs_nothing() {
    let (mut world, alice, bob, _) = alice_and_bob(18);
    rewrite(&mut world, alice, "/sync", |body| {
        let Some(events) = body["to_device"]["events"].as_array_mut() else { return };
        for event in events {
            if event["type"] == "m.key.verification.key" {
                event["content"]["key"] = json!(FOREIGN_KEY);
            }
        }
    });
    compare(&mut world, alice, bob);
    assert_eq!(code(&mut world, alice), Some(CancelCode::MismatchedCommitment));
    assert_eq!(code(&mut world, bob), Some(CancelCode::MismatchedCommitment));
    assert_eq!(identity_of(&mut world, alice, bob), IdentityState::Pinned);
    clean(&world);
}

/// Forged messages in the middle can end a verification, and do no more.
#[test]
fn n32_forged_macs_and_ends_sign_nothing() {
    for (seed, kind, content, code_given) in [
        (19, "mac", json!({ "mac": { "ed25519:x": "AA" }, "keys": "AA" }), CancelCode::KeyMismatch),
        (20, "done", json!({}), CancelCode::UnexpectedMessage),
        (21, "start", json!({ "method": "m.sas.v1" }), CancelCode::UnexpectedMessage),
    ] {
        let (mut world, alice, bob, _) = alice_and_bob(seed);
        compare(&mut world, alice, bob);
        let flow = views(&mut world, alice).pop().unwrap().flow_id;
        let mut content = content;
        content["transaction_id"] = json!(flow);
        let kind = format!("m.key.verification.{kind}");
        inject_clear(&mut world, alice, BOB, &kind, content);
        world.settle();
        assert_eq!(code(&mut world, alice), Some(code_given), "{kind}");
        assert_eq!(identity_of(&mut world, alice, bob), IdentityState::Pinned);
        assert_eq!(identity_of(&mut world, bob, alice), IdentityState::Pinned);
        clean(&world);
    }
}

fn asking_content(world: &World, device: &str, flow: &str) -> Value {
    json!({
        "from_device": device,
        "methods": ["m.sas.v1"],
        "timestamp": world.clock.millis(),
        "transaction_id": flow,
    })
}

/// A crowd of devices that a member makes up keeps nobody else out, and leaves little behind.
#[test]
fn n32_a_flood_of_requests_keeps_nobody_out() {
    let (mut world, alice, bob, room) = alice_and_bob(22);
    let eve = world.add_device("eve");
    world.invite(alice, &room, eve);
    world.join(eve, &room);
    let eve_user = user(&world, eve);
    for n in 0..60 {
        Attacker::ghost(&mut world, &eve_user, &format!("EVE{n}"));
    }
    world.settle();
    let log = log_length(&world);
    for round in 0..20 {
        for n in 0..60 {
            let device = format!("EVE{n}");
            let content = asking_content(&world, &device, &format!("{round}/{n}"));
            inject_clear(&mut world, alice, &eve_user, REQUEST, content);
        }
        world.settle();
    }
    assert!(rows(&world, alice, Table::Verification) <= 50);
    assert!(log_length(&world) - log <= 100, "{} answers", log_length(&world) - log);
    request(&mut world, bob, alice);
    assert!(views(&mut world, alice).iter().any(|view| view.user_id.as_str() == BOB));
    // Nor do messages of flows that nobody knows, each with an answer.
    let log = log_length(&world);
    for n in 0..1000 {
        let content = json!({ "transaction_id": format!("none {n}"), "from_device": "EVE1" });
        inject_clear(&mut world, alice, &eve_user, "m.key.verification.ready", content);
    }
    world.settle();
    assert!(log_length(&world) - log <= 10);
    // Days later nothing is left.
    world.clock.advance(seconds(3 * 24 * 3600));
    world.settle();
    assert_eq!(rows(&world, alice, Table::Verification), 0);
    clean(&world);
}

/// A member whose homeserver never answers for her devices cannot fill the place in which messages wait.
#[test]
fn n32_messages_that_wait_for_a_list_drive_out_only_their_own() {
    let (mut world, alice, _, room) = alice_and_bob(23);
    let eve = world.add_device("eve");
    world.invite(alice, &room, eve);
    world.join(eve, &room);
    world.settle();
    let eve_user = user(&world, eve);
    // The list of neither is to be had for now.
    world.tamper = Some(Box::new(|_, path, response| {
        if path.ends_with("/keys/query") {
            response.status = 502;
        }
    }));
    world.server.announce_devices(&eve_user);
    world.sync(alice);
    for n in 0..200 {
        let content = asking_content(&world, "NEW", &format!("eve {n}"));
        inject_clear(&mut world, alice, &eve_user, REQUEST, content);
    }
    world.sync(alice);
    let new = world.add_device("alice");
    while world.devices[new].published.is_none() {
        world.pump(new);
    }
    let content = asking_content(&world, &id(&world, new), "honest");
    world.sync(alice);
    inject_clear(&mut world, alice, ALICE, REQUEST, content);
    world.sync(alice);
    assert!(rows(&world, alice, Table::Parked) <= 50);
    world.tamper = None;
    world.clock.advance(seconds(240));
    world.settle();
    assert!(views(&mut world, alice).iter().any(|view| view.flow_id == "honest"));
    clean(&world);
}

/// What a member sends into a room of unknown encryption must not end a sync for ever.
#[test]
fn n32_n38_requests_in_a_room_of_unknown_encryption_stop_no_sync() {
    let (mut world, alice, bob, room) = two(24);
    let odd = json!({ "algorithm": "org.example.unknown" });
    let body = json!({
        "preset": "private_chat",
        "initial_state": [{ "type": "m.room.encryption", "state_key": "", "content": odd }],
    });
    let answer = world.call(Some(alice), "POST", "/_matrix/client/v3/createRoom", body);
    let target: OwnedRoomId = answer["room_id"].as_str().unwrap().try_into().unwrap();
    world.invite(alice, &target, bob);
    world.join(bob, &target);
    world.settle();
    let device = id(&world, bob);
    for name in ["one", "two", "three"] {
        let event = json!({
            "type": "m.room.message",
            "sender": BOB,
            "content": {
                "msgtype": REQUEST,
                "from_device": device,
                "methods": ["m.sas.v1"],
                "to": ALICE,
                "body": "",
            },
        });
        inject(&mut world, &target, event, name);
        world.settle();
    }
    let event = world.send(bob, &room, "the sync goes on");
    assert_eq!(world.text(alice, &room, &event).as_deref(), Ok("the sync goes on"));
    clean(&world);
}

#[test]
fn n33_nobody_is_verified_by_an_identity_that_is_not() {
    let (mut world, first, bob, _) = alice_and_bob(25);
    verify(&mut world, first, bob);
    assert_eq!(identity_of(&mut world, first, bob), IdentityState::Verified);
    let second = world.add_device_with(
        "alice",
        herold_trust::Policy { recipients: herold_trust::Recipients::OnlyTrusted, ..open_policy() },
    );
    world.settle();
    let bob_id = world.devices[bob].user_id.clone();
    queue_to_device(&mut world, second, bob_id.clone());
    assert_ne!(identity_of(&mut world, second, bob), IdentityState::Verified);
    // A foreign identity of hers that has signed Bob's, shown to the new device: no better.
    let master = secret(&mut world, first, SECRETS[0]).unwrap();
    let log = log_length(&world);
    queue_to_device(&mut world, second, bob_id);
    assert_eq!(sent_to(&world, bob, "m.room.encrypted", log).len(), 0);
    assert!(import(&mut world, second, SECRETS[0], &master));
    world.settle();
    assert_eq!(identity_of(&mut world, second, bob), IdentityState::Verified);
    // The own identity is replaced by the server: nobody is verified any more.
    swap(&mut world, ALICE);
    assert_ne!(identity_of(&mut world, second, bob), IdentityState::Verified);
    assert_ne!(identity_of(&mut world, first, bob), IdentityState::Verified);
    clean(&world);
}

#[test]
fn n34_a_verified_identity_that_is_swapped_is_held_whatever_the_server_shows() {
    let (mut world, alice, bob, room) = alice_and_bob(26);
    verify(&mut world, alice, bob);
    let before = world.send(bob, &room, "before");
    assert_eq!(world.event(alice, &room, &before).unwrap().shield, Shield::None);
    let log = log_length(&world);
    let other = swap(&mut world, BOB);
    assert_eq!(identity_of(&mut world, alice, bob), IdentityState::VerificationViolation);
    assert_eq!(notices(&world, alice, "identity_changed").len(), 1);
    let thief = Attacker::unlisted(BOB, "THIEF");
    world.server.add_device_keys(BOB, "THIEF", other.sign(thief.device_keys()));
    world.settle();
    let shield = world.event(alice, &room, &before).unwrap().shield;
    assert!(matches!(shield, Shield::Red(_)), "{shield:?}");
    let txn = world.queue(alice, &room, "held");
    for show in 0..4 {
        match show {
            // It hides the identity, shows a third one, forgets the user, and lets time pass.
            0 => serve(&mut world, BOB, &Value::Null, &Value::Null),
            1 => drop(swap(&mut world, BOB)),
            2 => {
                rewrite(&mut world, alice, "/sync", |body| {
                    body["device_lists"] = json!({ "left": [BOB], "changed": [] });
                });
                world.send(bob, &room, "something new");
                world.tamper = None;
            }
            _ => {
                world.restart(alice);
                world.clock.advance(seconds(24 * 3600));
            }
        }
        world.settle();
        assert_eq!(world.sent(alice, &txn), None, "{show}");
        assert_eq!(
            identity_of(&mut world, alice, bob),
            IdentityState::VerificationViolation,
            "{show}"
        );
    }
    let to_thief = world.server.to_device_log()[log..]
        .iter()
        .filter(|sent| sent.recipient_device == "THIEF" && sent.event_type == "m.room.encrypted");
    assert_eq!(to_thief.count(), 0);
    clean(&world);
}

/// A homeserver that takes the signature and never shows it has the identity look unverified, and gains nothing by it.
#[test]
fn n34_a_signature_that_is_never_shown_is_remembered() {
    let (mut world, alice, bob, room) = alice_and_bob(27);
    rewrite(&mut world, alice, "/keys/query", |body| {
        if let Some(signatures) = body["master_keys"][BOB]["signatures"].as_object_mut() {
            signatures.remove(ALICE);
        }
    });
    verify(&mut world, alice, bob);
    assert!(matches!(state(&mut world, alice), VerificationState::Done { .. }));
    assert_eq!(identity_of(&mut world, alice, bob), IdentityState::Pinned);
    swap(&mut world, BOB);
    assert_eq!(identity_of(&mut world, alice, bob), IdentityState::VerificationViolation);
    let txn = world.queue(alice, &room, "held");
    world.settle();
    assert_eq!(world.sent(alice, &txn), None);
    clean(&world);
}

#[test]
fn n35_an_identity_of_the_wrong_structure_is_refused() {
    let (mut world, alice, bob, _) = alice_and_bob(28);
    let other = CrossSigning::new(BOB);
    let (master, self_signing) = (other.master_key(), other.self_signing_key());
    let change = |key: &Value, change: &dyn Fn(&mut Value)| {
        let mut key = key.clone();
        change(&mut key);
        key
    };
    // Signed anew, so that it is the structure that counts.
    let resign = |mut key: Value| {
        let name = other.master.identity_keys().ed25519.to_base64();
        key.as_object_mut().unwrap().remove("signatures");
        other.master.sign_json(BOB, &name, &mut key).unwrap();
        key
    };
    let mut same = master.clone();
    same["usage"] = json!(["self_signing"]);
    let cases = [
        (
            "usage",
            change(&master, &|key| key["usage"] = json!(["self_signing"])),
            self_signing.clone(),
        ),
        (
            "two usages",
            change(&master, &|key| key["usage"] = json!(["master", "x"])),
            self_signing.clone(),
        ),
        (
            "two keys",
            change(&master, &|key| key["keys"]["ed25519:x"] = json!("x")),
            self_signing.clone(),
        ),
        ("user", change(&master, &|key| key["user_id"] = json!(ALICE)), self_signing.clone()),
        (
            "other usage",
            master.clone(),
            resign(change(&self_signing, &|key| key["usage"] = json!(["user_signing"]))),
        ),
        (
            "other user",
            master.clone(),
            resign(change(&self_signing, &|key| key["user_id"] = json!(ALICE))),
        ),
        ("one key for both", master.clone(), resign(same)),
        (
            "unsigned",
            master.clone(),
            change(&self_signing, &|key| drop(key.as_object_mut().unwrap().remove("signatures"))),
        ),
        ("text", json!("master"), self_signing.clone()),
        ("list", master.clone(), json!([])),
    ];
    for (n, (what, master, self_signing)) in cases.into_iter().enumerate() {
        serve(&mut world, BOB, &master, &self_signing);
        assert_eq!(refused(&world, alice), n + 1, "{what}");
        assert_eq!(identity_of(&mut world, alice, bob), IdentityState::Pinned, "{what}");
    }
    // A user-signing key of somebody else's.
    let count = refused(&world, alice);
    world.server.override_cross_signing_key(BOB, "master", None);
    world.server.override_cross_signing_key(BOB, "self_signing", None);
    rewrite(&mut world, alice, "/keys/query", move |body| {
        body["user_signing_keys"][BOB] = body["self_signing_keys"][BOB].clone();
    });
    world.server.announce_devices(BOB);
    world.settle();
    assert!(refused(&world, alice) > count);
    clean(&world);
}

/// Bit by bit is for the crypto core's tests; here, that nothing of a changed file reaches the store.
#[test]
fn n44_nothing_is_imported_from_a_changed_file() {
    let (mut world, alice, bob, room) = alice_and_bob(29);
    world.send(bob, &room, "a room key");
    let keys = world
        .command(alice, |engine| {
            engine.read(|machine, snapshot| machine.room_keys(snapshot, None, 100))
        })
        .unwrap()
        .0;
    let mut writer =
        KeyFileWriter::new(Vec::new(), "passphrase", 100_000, &mut herold::OsEntropy).unwrap();
    for key in &keys {
        writer.write(key).unwrap();
    }
    let file = String::from_utf8(writer.finish().unwrap()).unwrap();
    let second = world.add_device("alice");
    world.settle();
    let before = rows(&world, second, Table::InboundSession);
    let import = |world: &mut World, file: &str, passphrase: &str| {
        let Ok(reader) = KeyFileReader::open(Cursor::new(file.as_bytes()), passphrase) else {
            return None;
        };
        let keys = reader.filter_map(Result::ok).collect();
        Some(take(world, second, keys, KeySource::Imported))
    };
    let lines: Vec<&str> = file.lines().collect();
    let flip = |place: usize| {
        let mut text = lines[1..lines.len() - 1].join("");
        let old = text.remove(place);
        text.insert(place, if old == 'A' { 'B' } else { 'A' });
        format!("{}\n{text}\n{}\n", lines[0], lines[lines.len() - 1])
    };
    let length: usize = lines[1..lines.len() - 1].iter().map(|line| line.len()).sum();
    for place in [0, 30, length / 2, length - 3] {
        assert!(import(&mut world, &flip(place), "passphrase").is_none(), "{place}");
    }
    assert!(import(&mut world, &file[..file.len() / 2], "passphrase").is_none());
    assert!(import(&mut world, &file, "another").is_none());
    assert_eq!(rows(&world, second, Table::InboundSession), before);
    assert!(import(&mut world, &file, "passphrase").unwrap().new >= 1);
    clean(&world);
}

/// Behaviours 38 and 39 under a kill at each commit of either device: whatever died, the app goes on with what it had begun.
#[test]
fn a_bootstrap_survives_a_kill_at_each_commit() {
    fn again<T>(mut attempt: impl FnMut() -> Option<T>) -> T {
        (0..6).find_map(|_| attempt()).expect("it dies once only")
    }
    fn story(world: &mut World, disks: &[Disk]) {
        let first = world.add_device_on("alice", open_policy(), disks[0].clone());
        world.settle();
        let body = again(|| {
            let step = world.command(first, |engine| {
                engine.step(|machine, snapshot, cx| machine.prepare_identity(snapshot, cx, false))
            });
            step.map(|step| step.reply)
        });
        if let Some(body) = body {
            let body = with_password(world, first, &body);
            assert_eq!(world.call(Some(first), "POST", SIGNING_UPLOAD, body), json!({}));
        }
        again(|| {
            world.command(first, |engine| {
                engine.step(|machine, snapshot, cx| machine.identity_published(snapshot, cx))
            })
        });
        world.settle();
        assert_eq!(identity_of(world, first, first), IdentityState::Verified);
        assert!(is_signed(world, first, first));
        let body = again(|| {
            let step = world.command(first, |engine| {
                engine.step(|machine, snapshot, cx| machine.prepare_backup(snapshot, cx))
            });
            step.map(|step| step.reply)
        });
        let body = serde_json::from_str(&body).unwrap();
        let path = "/_matrix/client/v3/room_keys/version";
        let version = world.call(Some(first), "POST", path, body)["version"].clone();
        let version = version.as_str().unwrap();
        again(|| {
            world.command(first, |engine| {
                engine.step(|machine, snapshot, cx| machine.backup_created(snapshot, cx, version))
            })
        });
        world.settle();
        let known = status(world, first);
        assert!(known.enabled && known.has_key && known.pending == 0);
        assert_eq!(prepare(world, first, false), None);
        assert!(!world.notices(first).iter().any(|n| matches!(n, Notice::BackupRefused)));
    }
    let kills = kill_at_each_commit(30, 1, story);
    assert!(kills > 20, "only {kills} kills");
}

#[test]
fn a_verification_survives_a_kill_at_each_commit() {
    fn step(
        world: &mut World,
        device: usize,
        action: VerificationAction,
        done: fn(&VerificationState) -> bool,
    ) {
        for _ in 0..6 {
            let view = views(world, device).pop().expect("a verification");
            if done(&view.state) {
                return;
            }
            world.command(device, |engine| {
                engine.step(|machine, snapshot, cx| {
                    machine.act_on_verification(snapshot, cx, &view.user_id, &view.flow_id, action)
                })
            });
            world.settle();
        }
        panic!("device {device} does not get on: {:?}", views(world, device));
    }
    fn views(world: &mut World, device: usize) -> Vec<VerificationView> {
        (0..6)
            .find_map(|_| {
                world.command(device, |engine| {
                    engine.read(|machine, snapshot| machine.verifications(snapshot))
                })
            })
            .expect("it lives")
    }
    fn story(world: &mut World, disks: &[Disk]) {
        let first = world.add_device("alice");
        bootstrap(world, first, false);
        make_backup(world, first);
        let second = world.add_device_on("alice", open_policy(), disks[0].clone());
        world.settle();
        let user = world.devices[first].user_id.clone();
        for _ in 0..6 {
            if !views(world, second).is_empty() {
                break;
            }
            world.command(second, |engine| {
                engine.step(|machine, snapshot, cx| {
                    machine.request_verification(snapshot, cx, &user, None, Methods::SAS)
                })
            });
        }
        world.settle();
        use VerificationState as S;
        step(world, first, VerificationAction::Accept(Methods::SAS), |s| {
            !matches!(s, S::Requested { .. })
        });
        step(world, second, VerificationAction::StartSas, |s| !matches!(s, S::Ready { .. }));
        step(world, first, VerificationAction::Confirm, |s| !matches!(s, S::KeysExchanged(_)));
        step(world, second, VerificationAction::Confirm, |s| matches!(s, S::Done { .. }));
        world.clock.advance(seconds(5));
        world.settle();
        assert_eq!(identity_of(world, second, first), IdentityState::Verified);
        assert!(is_signed(world, first, second));
        for name in SECRETS.into_iter().chain([BACKUP]) {
            assert!(secret(world, second, name).is_some(), "{name}");
        }
    }
    let kills = kill_at_each_commit(31, 1, story);
    assert!(kills > 20, "only {kills} kills");
}
