//! Attacks on device lists: ghosts, borrowed keys, changed keys, keys of small order.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod attacks_common;

use attacks_common::*;
use herold::{AppEvent, DecryptTrust, Notice, Recipients, Utd};
use herold_crypto::OutboundGroupSession;
use herold_machine::DropReason;
use herold_testkit::{Attacker, World};
use herold_trust::{Policy, Shield, ShieldReason};
use serde_json::{Value, json};

/// U-coordinates of small order on Curve25519, in unpadded base64.
const SMALL_ORDER: [&str; 3] = [
    "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
    "AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
    "4Ot6fDtBuK4WVuP68Z/EatoJjeucMrH9hmIFFl9JuAA",
];

/// Alice and Bob under the default policy, Bob's device cross-signed.
fn signed_bob(seed: u64) -> (World, usize, usize, herold::OwnedRoomId, CrossSigning) {
    let mut world = World::new(seed);
    let alice = strict_device(&mut world, "alice");
    let bob = world.add_device("bob");
    world.settle();
    let identity = CrossSigning::upload(&mut world, bob);
    identity.sign_device(&mut world, bob);
    let room = world.make_room(&[alice, bob]);
    (world, alice, bob, room, identity)
}

/// N02.
#[test]
fn a_ghost_device_gets_no_room_key_and_is_told_why() {
    let (mut world, alice, bob, room, _) = signed_bob(1);
    let bob_id = user(&world, bob);
    let mut ghost = Attacker::ghost(&mut world, &bob_id, "GHOST");
    let sent = world.send(alice, &room, "for Bob");
    assert_eq!(world.text(bob, &room, &sent).as_deref(), Ok("for Bob"));
    assert_eq!(olm_messages(&world, &bob_id, "GHOST"), 0);
    assert_eq!(room_keys_of(&world, &mut ghost), [] as [Value; 0]);
    assert_eq!(withheld(&world, &bob_id, "GHOST"), ["m.unverified"]);
    // Once is enough.
    world.send(alice, &room, "again");
    assert_eq!(withheld(&world, &bob_id, "GHOST").len(), 1);
    assert_eq!(world.oracle.violations(), [] as [String; 0]);
}

/// N02: the other way round, so that the test above does not pass for another reason.
#[test]
fn a_cross_signed_device_gets_the_room_key() {
    let (mut world, alice, bob, room, identity) = signed_bob(2);
    let bob_id = user(&world, bob);
    let mut second = Attacker::unlisted(&bob_id, "SECOND");
    let keys = identity.sign(second.device_keys());
    world.server.add_device_keys(&bob_id, "SECOND", keys);
    let one_time_keys = second.one_time_keys(3);
    world.server.add_one_time_keys(&bob_id, "SECOND", one_time_keys);
    let sent = world.send(alice, &room, "for both");
    assert_eq!(world.text(bob, &room, &sent).as_deref(), Ok("for both"));
    let keys = room_keys_of(&world, &mut second);
    assert!(read_with(&world, &room, &sent, &keys));
    assert_eq!(withheld(&world, &bob_id, "SECOND"), [] as [String; 0]);
    assert_eq!(world.oracle.violations(), [] as [String; 0]);
}

/// N02: a signature by a key that is not Bob's self-signing key is none.
#[test]
fn a_device_signed_by_another_identity_gets_no_room_key() {
    let (mut world, alice, bob, room, _) = signed_bob(3);
    let bob_id = user(&world, bob);
    let mut ghost = Attacker::unlisted(&bob_id, "GHOST");
    let keys = CrossSigning::new(&bob_id).sign(ghost.device_keys());
    world.server.add_device_keys(&bob_id, "GHOST", keys);
    let one_time_keys = ghost.one_time_keys(3);
    world.server.add_one_time_keys(&bob_id, "GHOST", one_time_keys);
    let sent = world.send(alice, &room, "for Bob");
    assert_eq!(world.text(bob, &room, &sent).as_deref(), Ok("for Bob"));
    assert_eq!(room_keys_of(&world, &mut ghost), [] as [Value; 0]);
    assert_eq!(withheld(&world, &bob_id, "GHOST"), ["m.unverified"]);
    assert_eq!(world.oracle.violations(), [] as [String; 0]);
}

/// N02: what a ghost says is not shown as Bob's word.
#[test]
fn what_a_ghost_device_sends_is_shown_with_a_warning_or_not_at_all() {
    for (trust, visible) in [(DecryptTrust::Any, true), (DecryptTrust::CrossSigned, false)] {
        let mut world = World::new(4);
        let policy = Policy { decrypt_trust: trust, ..Policy::default() };
        let alice = world.add_device_with("alice", policy);
        let bob = world.add_device("bob");
        world.settle();
        let identity = CrossSigning::upload(&mut world, bob);
        identity.sign_device(&mut world, bob);
        let room = world.make_room(&[alice, bob]);
        let bob_id = user(&world, bob);
        let mut ghost = Attacker::ghost(&mut world, &bob_id, "GHOST");
        world.settle();
        let mut session = OutboundGroupSession::new();
        ghost.send(&mut world, alice, "m.room_key", &room_key(&session, &room));
        let event = encrypted(&mut session, &room, &bob_id, "send money");
        let event_id = inject(&mut world, &room, event, "ghost");
        world.settle();
        let (shield, body) = shown(&mut world, alice, &room, &event_id);
        assert_eq!(shield, Shield::Red(ShieldReason::UnsignedDevice));
        let expected =
            if visible { Ok("send money".to_owned()) } else { Err(Utd::SenderUntrusted) };
        assert_eq!(body, expected);
        // The real device's words are unaffected.
        let genuine = world.send(bob, &room, "hello");
        let (shield, body) = shown(&mut world, alice, &room, &genuine);
        assert_eq!((shield, body), (Shield::None, Ok("hello".to_owned())));
        assert_eq!(world.oracle.violations(), [] as [String; 0]);
    }
}

/// N18: a member publishes Alice's Curve25519 key as her own and signs it with her own Ed25519 key.
#[test]
fn a_published_curve_key_of_somebody_else_brings_no_message_under_another_name() {
    let (mut world, alice, bob, room) = two(5);
    let eve = Attacker::log_in(&mut world, "eve");
    let (alice_id, alice_device) = (user(&world, alice), id(&world, alice));
    let keys = published(&mut world, bob, &alice_id, &alice_device);
    let stolen = keys["keys"][format!("curve25519:{alice_device}")].as_str().unwrap().to_owned();
    let claimed = eve.device_keys_with(&stolen);
    world.server.override_device_keys(&eve.user_id, &eve.device_id, claimed);
    world.call(Some(alice), "POST", &path(&room, "invite"), json!({ "user_id": eve.user_id }));
    eve.call(&mut world, "POST", &path(&room, "join"), &json!({}));
    world.settle();
    let sent = world.send(alice, &room, "mine");
    let event = raw(&world, &room, &sent);
    let (shield, body) = shown(&mut world, bob, &room, &sent);
    assert_eq!(body, Ok("mine".to_owned()));
    assert_eq!(shield, Shield::Red(ShieldReason::UnsignedDevice)); // nobody cross-signs here
    let shown_as = world.event(bob, &room, &sent).unwrap();
    assert_eq!(shown_as.sender, user(&world, alice));
    assert_eq!(shown_as.sender_device.unwrap(), alice_device);
    // The server says that Eve sent it.
    let mut stolen = event;
    stolen["sender"] = json!(eve.user_id);
    let event_id = inject(&mut world, &room, stolen, "stolen");
    world.settle();
    let (shield, body) = shown(&mut world, bob, &room, &event_id);
    assert_eq!(body, Err(Utd::SenderUntrusted));
    assert_eq!(shield, Shield::Red(ShieldReason::MismatchedSender));
    // Bob and Alice go on talking.
    let back = world.send(bob, &room, "still here");
    assert_eq!(world.text(alice, &room, &back).as_deref(), Ok("still here"));
    assert_eq!(world.oracle.violations(), [] as [String; 0]);
}

/// N18: devices that borrow Bob's Curve25519 key, each with one-time keys of their own, must not take
/// Bob's place: the sessions made with their one-time keys are of no use to Bob.
#[test]
fn devices_that_borrow_a_curve_key_do_not_cost_its_owner_the_room_key() {
    let mut world = World::new(6);
    let alice = world.add_device("alice");
    let bob = world.add_device("bob");
    world.settle();
    let (bob_id, bob_device) = (user(&world, bob), id(&world, bob));
    let keys = published(&mut world, alice, &bob_id, &bob_device);
    let stolen = keys["keys"][format!("curve25519:{bob_device}")].as_str().unwrap().to_owned();
    let eve = world.server.register("eve", "pw");
    for number in 0..12 {
        let mut borrowed = Attacker::unlisted(&eve, &format!("BORROWED{number}"));
        let keys = borrowed.device_keys_with(&stolen);
        world.server.add_device_keys(&eve, &borrowed.device_id, keys);
        let one_time_keys = borrowed.one_time_keys(1);
        world.server.add_one_time_keys(&eve, &borrowed.device_id, one_time_keys);
    }
    let room = world.make_room(&[alice, bob]);
    world.call(Some(alice), "POST", &path(&room, "invite"), json!({ "user_id": eve }));
    world.settle();
    let sent = world.send(alice, &room, "for Bob");
    assert_eq!(world.text(bob, &room, &sent).as_deref(), Ok("for Bob"));
    assert_eq!(world.oracle.violations(), [] as [String; 0]);
}

/// N19: the entries of a `/keys/query` answer that do not hold together.
#[test]
fn inconsistent_device_entries_are_ignored_and_the_known_ones_stay() {
    let (mut world, alice, bob, room) = two(7);
    let (bob_id, bob_device) = (user(&world, bob), id(&world, bob));
    let before = known_devices(&mut world, alice, &bob_id);
    assert_eq!(before.len(), 1);
    let genuine = published(&mut world, alice, &bob_id, &bob_device);
    let other = Attacker::unlisted(&bob_id, &bob_device);
    let elsewhere = Attacker::unlisted(&bob_id, "ELSEWHERE");
    let foreign = Attacker::unlisted("@eve:world.test", &bob_device);
    let curve = genuine["keys"][format!("curve25519:{bob_device}")].as_str().unwrap();
    let mut badly_signed = genuine.clone();
    badly_signed["algorithms"] = json!(["m.olm.v1.curve25519-aes-sha2", "m.other"]);
    let mut no_olm = other.device_keys();
    no_olm["algorithms"] = json!([MEGOLM]);
    no_olm.as_object_mut().unwrap().remove("signatures");
    for (what, keys, reason) in [
        ("other keys", other.device_keys(), DropReason::KeysChanged),
        ("other ed25519", other.device_keys_with(curve), DropReason::KeysChanged),
        ("another device", elsewhere.device_keys(), DropReason::Malformed),
        ("another user", foreign.device_keys(), DropReason::Malformed),
        ("a bad signature", badly_signed, DropReason::BadSignature),
        ("no Olm", other.signed(no_olm), DropReason::Malformed),
        ("no object", json!("keys"), DropReason::Malformed),
    ] {
        world.devices[alice].events.clear();
        world.server.override_device_keys(&bob_id, &bob_device, keys);
        let sent = world.send(alice, &room, what);
        assert_eq!(known_devices(&mut world, alice, &bob_id), before, "{what}");
        let refused = world.notices(alice).iter().any(|notice| {
            matches!(notice, Notice::DeviceRefused { device_id, reason: given, .. }
                if *device_id == bob_device && *given == reason)
        });
        assert!(refused, "{what}: {:?}", world.notices(alice));
        assert_eq!(world.text(bob, &room, &sent).as_deref(), Ok(what));
    }
    assert_eq!(world.oracle.violations(), [] as [String; 0]);
}

/// N19: the server's idea of our own device is reported, and what was known of it stays.
#[test]
fn an_altered_own_device_is_reported_and_its_record_stays() {
    let (mut world, alice, _, _) = two(8);
    let (alice_id, device) = (user(&world, alice), id(&world, alice));
    let before = known_devices(&mut world, alice, &alice_id);
    assert_eq!(before.len(), 1);
    let other = Attacker::unlisted(&alice_id, &device);
    world.server.override_device_keys(&alice_id, &device, other.device_keys());
    world.settle();
    assert!(world.notices(alice).contains(&Notice::OwnDeviceMismatch));
    assert_eq!(known_devices(&mut world, alice, &alice_id), before);
    assert_eq!(world.oracle.violations(), [] as [String; 0]);
}

/// N19.
#[test]
fn a_missing_own_device_is_reported() {
    let (mut world, alice, bob, room) = two(9);
    let (alice_id, device) = (user(&world, alice), id(&world, alice));
    world.server.override_device_keys(&alice_id, &device, Value::Null);
    world.settle();
    assert!(world.notices(alice).contains(&Notice::OwnDeviceMismatch));
    let sent = world.send(alice, &room, "all the same");
    assert_eq!(world.text(bob, &room, &sent).as_deref(), Ok("all the same"));
    assert_eq!(world.oracle.violations(), [] as [String; 0]);
}

/// Changes the one-time keys that Alice is given for Bob's device.
fn rewrite_claims(world: &mut World, alice: usize, change: impl Fn(&str, &mut Value) + 'static) {
    rewrite(world, alice, "/keys/claim", move |body| {
        let devices = body["one_time_keys"]["@bob:world.test"].as_object_mut();
        for (device, keys) in devices.into_iter().flatten() {
            change(device, keys);
        }
    });
}

/// Alice gets changed one-time keys for Bob: she uses none of them, and gets over it.
fn refuses_claimed(what: &str, change: impl Fn(&str, &mut Value) + 'static) {
    let mut world = World::new(10);
    let alice = world.add_device("alice");
    let bob = world.add_device("bob");
    world.settle();
    let room = world.make_room(&[alice, bob]);
    rewrite_claims(&mut world, alice, change);
    let txn_id = world.queue(alice, &room, "unread for now");
    for _ in 0..10 {
        world.pump(alice);
        world.sync(alice);
    }
    world.clock.advance(std::time::Duration::from_secs(20));
    for _ in 0..10 {
        world.pump(alice);
        world.sync(alice);
    }
    let sent = world.sent(alice, &txn_id).unwrap_or_else(|| panic!("{what}: held up"));
    let (bob_id, device) = (user(&world, bob), id(&world, bob));
    assert_eq!(olm_messages(&world, &bob_id, &device), 0, "{what}");
    let refused = world
        .notices(alice)
        .iter()
        .any(|notice| matches!(notice, Notice::OneTimeKeyRefused { .. }));
    assert!(refused, "{what}: {:?}", world.notices(alice));
    // Honest again: the failure is got over, and Bob gets the key late.
    world.tamper = None;
    world.clock.advance(std::time::Duration::from_secs(600));
    world.settle();
    world.send(alice, &room, "next");
    assert_eq!(world.text(bob, &room, &sent).as_deref(), Ok("unread for now"), "{what}");
    assert_eq!(world.oracle.violations(), [] as [String; 0]);
}

/// N20 and N21: claimed keys that must not be used.
#[test]
fn a_claimed_key_that_cannot_be_believed_is_not_used() {
    type Change = fn(&str, &mut Value);
    fn signed_by(user: &'static str, device: &str, key: &mut Value) {
        let signer = Attacker::unlisted(user, device);
        *key = signer.signed(json!({ "key": key["key"] }));
    }
    let changes: [(&str, Change); 9] = [
        ("no signature", |_, key| *key = json!({ "key": key["key"] })),
        ("empty signatures", |_, key| key["signatures"] = json!({})),
        ("another key under the signature", |_, key| {
            key["key"] = json!(Attacker::unlisted("@x:y", "Z").keys().curve25519.to_base64());
        }),
        ("other bytes under the signature", |_, key| key["fallback"] = json!(true)),
        ("another user", |_, key| signed_by("@eve:world.test", "EVE", key)),
        ("another device", |_, key| signed_by("@bob:world.test", "OTHER", key)),
        ("another key of the same name", |device, key| {
            signed_by("@bob:world.test", device, key);
        }),
        ("a bare key", |_, key| *key = key["key"].clone()),
        ("no object", |_, key| *key = json!(null)),
    ];
    for (what, change) in changes {
        refuses_claimed(what, move |device, keys| {
            for key in keys.as_object_mut().into_iter().flat_map(|keys| keys.values_mut()) {
                change(device, key);
            }
        });
    }
    refuses_claimed("an unsigned algorithm", |_, keys| {
        let bare: Vec<Value> =
            keys.as_object().unwrap().values().map(|key| key["key"].clone()).collect();
        *keys = json!({ "curve25519:AAAAAQ": bare[0] });
    });
}

/// N20 and N21: even its own device's signature makes no bad key a good one.
#[test]
fn a_claimed_key_of_small_order_or_odd_length_is_not_used() {
    for key in SMALL_ORDER.into_iter().chain(["AAAA", ""]) {
        let mut world = World::new(11);
        let alice = world.add_device("alice");
        world.settle();
        let mut eve = Attacker::log_in(&mut world, "eve");
        world.server.drop_one_time_keys(&eve.user_id, &eve.device_id);
        let bad = eve.signed(json!({ "key": key }));
        let bad = vec![("signed_curve25519:AAAAAA".to_owned(), bad)];
        world.server.add_one_time_keys(&eve.user_id, &eve.device_id, bad);
        let room = world.make_room(&[alice]);
        world.call(Some(alice), "POST", &path(&room, "invite"), json!({ "user_id": eve.user_id }));
        eve.call(&mut world, "POST", &path(&room, "join"), &json!({}));
        let sent = world.send(alice, &room, "goes out all the same");
        assert_eq!(olm_messages(&world, &eve.user_id, &eve.device_id), 0, "{key}");
        assert_eq!(room_keys_of(&world, &mut eve), [] as [Value; 0]);
        assert_eq!(world.text(alice, &room, &sent).as_deref(), Ok("goes out all the same"));
        assert_eq!(world.oracle.violations(), [] as [String; 0]);
    }
}

/// N21.
#[test]
fn a_device_with_an_identity_key_of_small_order_is_not_taken() {
    let (mut world, alice, bob, room) = two(12);
    let bob_id = user(&world, bob);
    for (number, key) in SMALL_ORDER.into_iter().enumerate() {
        let ghost = Attacker::unlisted(&bob_id, &format!("LOW{number}"));
        let keys = ghost.device_keys_with(key);
        world.server.add_device_keys(&bob_id, &ghost.device_id, keys);
    }
    let sent = world.send(alice, &room, "fine");
    assert_eq!(known_devices(&mut world, alice, &bob_id).len(), 1);
    assert_eq!(world.text(bob, &room, &sent).as_deref(), Ok("fine"));
    let refused = world
        .notices(alice)
        .iter()
        .filter(|notice| matches!(notice, Notice::DeviceRefused { .. }))
        .count();
    assert!(refused >= SMALL_ORDER.len());
    assert_eq!(world.oracle.violations(), [] as [String; 0]);
}

/// N43.
#[test]
fn a_device_that_has_gone_is_an_unknown_one() {
    let (mut world, alice, bob, room) = two(13);
    let bob_id = user(&world, bob);
    let mut second = Attacker::ghost(&mut world, &bob_id, "SECOND");
    world.settle();
    let first = world.send(alice, &room, "for both");
    let keys = room_keys_of(&world, &mut second);
    assert!(read_with(&world, &room, &first, &keys));
    world.server.override_device_keys(&bob_id, "SECOND", Value::Null);
    world.settle();
    // Its messages have a warning, and it gets no more keys.
    let mut session = OutboundGroupSession::new();
    second.send(&mut world, alice, "m.room_key", &room_key(&session, &room));
    let event = encrypted(&mut session, &room, &bob_id, "from beyond");
    let event_id = inject(&mut world, &room, event, "beyond");
    let sent = world.send(alice, &room, "not for the gone");
    let (shield, body) = shown(&mut world, alice, &room, &event_id);
    assert_eq!(shield, Shield::Red(ShieldReason::UnknownDevice));
    assert_eq!(body, Ok("from beyond".to_owned()));
    let mut all = keys;
    all.extend(room_keys_of(&world, &mut second));
    assert!(!read_with(&world, &room, &sent, &all));
    assert_eq!(world.oracle.violations(), [] as [String; 0]);
}

/// N43: a dehydrated device never sends.
#[test]
fn a_dehydrated_device_says_nothing() {
    let (mut world, alice, bob, _) = two(14);
    let bob_id = user(&world, bob);
    let mut dehydrated = Attacker::unlisted(&bob_id, "DEHYDRATED");
    let mut keys = dehydrated.device_keys();
    keys.as_object_mut().unwrap().remove("signatures");
    keys["dehydrated"] = json!(true);
    let keys = dehydrated.signed(keys);
    world.server.add_device_keys(&bob_id, "DEHYDRATED", keys);
    world.settle();
    dehydrated.send(&mut world, alice, "com.example.word", &json!({ "body": "boo" }));
    world.settle();
    assert_eq!(dropped(&world, alice, DropReason::Unsolicited), 1);
    let heard = |event: &AppEvent| matches!(event, AppEvent::ToDevice { .. });
    assert!(!world.devices[alice].events.iter().any(heard));
    assert_eq!(world.oracle.violations(), [] as [String; 0]);
}

/// N43: the server can hide a device and show it again; the user's own decision about it stands.
#[test]
fn a_blocked_device_that_goes_and_comes_back_is_still_blocked() {
    let (mut world, alice, bob, room) = two(15);
    let bob_id = user(&world, bob);
    let mut second = Attacker::ghost(&mut world, &bob_id, "SECOND");
    world.settle();
    world
        .command(alice, |engine| {
            engine.step(|machine, snapshot, cx| {
                let user: herold::OwnedUserId = "@bob:world.test".try_into().unwrap();
                machine.set_blocked(snapshot, cx, &user, "SECOND".into(), true)
            })
        })
        .unwrap();
    world.send(alice, &room, "not for the second");
    world.server.override_device_keys(&bob_id, "SECOND", Value::Null);
    world.settle();
    world.server.restore_device_keys(&bob_id, "SECOND");
    world.settle();
    let sent = world.send(alice, &room, "nor is this");
    let keys = room_keys_of(&world, &mut second);
    assert!(!read_with(&world, &room, &sent, &keys));
    assert_eq!(world.text(bob, &room, &sent).as_deref(), Ok("nor is this"));
    assert_eq!(world.oracle.violations(), [] as [String; 0]);
}

/// The default policy asks for a cross-signed device; the strictest for a verified one, of which there is
/// none yet: nobody gets a key, and the event still goes out for one's own other readers.
#[test]
fn under_the_strictest_policy_no_unverified_device_gets_a_key() {
    let mut world = World::new(16);
    let policy = Policy { recipients: Recipients::OnlyTrusted, ..Policy::default() };
    let alice = world.add_device_with("alice", policy);
    let bob = world.add_device("bob");
    world.settle();
    let identity = CrossSigning::upload(&mut world, bob);
    identity.sign_device(&mut world, bob);
    let room = world.make_room(&[alice, bob]);
    world.send(alice, &room, "for nobody");
    let (bob_id, device) = (user(&world, bob), id(&world, bob));
    assert_eq!(olm_messages(&world, &bob_id, &device), 0);
    assert_eq!(withheld(&world, &bob_id, &device), ["m.unverified"]);
    assert_eq!(world.oracle.violations(), [] as [String; 0]);
}
