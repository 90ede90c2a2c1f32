//! Attacks by to-device messages: key material in the clear, under Megolm, unasked for; payloads whose
//! fields do not fit the channel they came by.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod attacks_common;

use attacks_common::*;
use herold::{AppEvent, OwnedRoomId, Utd};
use herold_crypto::{InboundGroupSession, OutboundGroupSession};
use herold_machine::DropReason;
use herold_store::Table;
use herold_testkit::{Attacker, World};
use herold_trust::{DecryptTrust, Policy, Shield, ShieldReason};
use serde_json::{Value, json};

const BOB: &str = "@bob:world.test";

/// The kinds of event that bring keys.
const KEY_MATERIAL: [&str; 5] = [
    "m.room_key",
    "m.forwarded_room_key",
    "m.secret.send",
    "m.room_key_bundle",
    "io.element.msc4268.room_key_bundle",
];

/// Alice and Bob, and Bob's second device, whose keys the attacker has.
fn with_second(seed: u64) -> (World, usize, OwnedRoomId, Attacker) {
    let (mut world, alice, bob, room) = two(seed);
    let bob_id = user(&world, bob);
    let second = Attacker::ghost(&mut world, &bob_id, "SECOND");
    world.settle();
    (world, alice, room, second)
}

fn heard(world: &World, device: usize) -> Vec<(String, Option<String>)> {
    world.devices[device]
        .events
        .iter()
        .filter_map(|event| match event {
            AppEvent::ToDevice { sender, sender_device, .. } => {
                Some((sender.to_string(), sender_device.as_ref().map(ToString::to_string)))
            }
            _ => None,
        })
        .collect()
}

/// A forwarded key as its sender would claim it.
fn forwarded(session: &OutboundGroupSession, room: &OwnedRoomId, claimed: &Attacker) -> Value {
    let mut inbound =
        InboundGroupSession::from_session_key(session.session_key().as_str()).unwrap();
    json!({
        "algorithm": MEGOLM,
        "room_id": room,
        "session_id": session.session_id().as_str(),
        "session_key": inbound.export_at(0).unwrap().as_str(),
        "sender_key": claimed.keys().curve25519.to_base64(),
        "sender_claimed_ed25519_key": claimed.keys().ed25519.to_base64(),
        "forwarding_curve25519_key_chain": [],
    })
}

/// N05.
#[test]
fn a_forwarded_key_that_nobody_asked_for_is_not_taken() {
    let (mut world, alice, room, second) = with_second(1);
    let mut eve = Attacker::log_in(&mut world, "eve");
    let mut own = Attacker::ghost(&mut world, "@alice:world.test", "OWN");
    world.settle();
    let keys = rows(&world, alice, Table::InboundSession);
    let mut session = OutboundGroupSession::new();
    let content = forwarded(&session, &room, &second);
    eve.send(&mut world, alice, "m.forwarded_room_key", &content);
    own.send(&mut world, alice, "m.forwarded_room_key", &content);
    let event = encrypted(&mut session, &room, "@bob:world.test", "forged");
    let event_id = inject(&mut world, &room, event, "forged");
    world.settle();
    assert_eq!(shown(&mut world, alice, &room, &event_id).1, Err(Utd::MissingKey));
    assert_eq!(rows(&world, alice, Table::InboundSession), keys);
    assert_eq!(dropped(&world, alice, DropReason::Unsolicited), 2);
    assert_eq!(world.oracle.violations(), [] as [String; 0]);
}

/// N07: room keys and the rest under Megolm, under nothing, under what nobody knows.
#[test]
fn key_material_that_did_not_come_by_olm_is_dropped() {
    let (mut world, alice, room, mut second) = with_second(2);
    let mut known = OutboundGroupSession::new();
    second.send(&mut world, alice, "m.room_key", &room_key(&known, &room));
    world.settle();
    let keys = rows(&world, alice, Table::InboundSession);
    let forged = OutboundGroupSession::new();
    for kind in KEY_MATERIAL.into_iter().chain(["m.dummy", "com.example.own"]) {
        let plaintext = json!({
            "type": kind,
            "content": room_key(&forged, &room),
            "room_id": room,
            "sender": "@bob:world.test",
            "recipient": "@alice:world.test",
        });
        let ciphertext = known.encrypt(plaintext.to_string().as_bytes());
        let content = json!({
            "algorithm": MEGOLM,
            "session_id": known.session_id().as_str(),
            "ciphertext": ciphertext,
            "sender_key": second.keys().curve25519.to_base64(),
        });
        for algorithm in [json!(MEGOLM), json!("m.unknown"), json!(""), Value::Null, json!(1)] {
            let mut content = content.clone();
            content["algorithm"] = algorithm;
            inject_clear(&mut world, alice, "@bob:world.test", "m.room.encrypted", content);
        }
        let mut bare = content;
        bare.as_object_mut().unwrap().remove("algorithm");
        inject_clear(&mut world, alice, "@bob:world.test", "m.room.encrypted", bare);
    }
    world.settle();
    assert_eq!(rows(&world, alice, Table::InboundSession), keys);
    assert_eq!(heard(&world, alice), []);
    assert_eq!(dropped(&world, alice, DropReason::NotByOlm), 7);
    assert_eq!(dropped(&world, alice, DropReason::UnsupportedAlgorithm), 14);
    assert_eq!(dropped(&world, alice, DropReason::Malformed), 21);
    assert_eq!(world.oracle.violations(), [] as [String; 0]);
}

/// N42.
#[test]
fn key_material_in_the_clear_is_ignored() {
    let (mut world, alice, room, second) = with_second(3);
    let keys = rows(&world, alice, Table::InboundSession);
    let mut session = OutboundGroupSession::new();
    for kind in KEY_MATERIAL {
        for sender in ["@bob:world.test", "@alice:world.test"] {
            inject_clear(&mut world, alice, sender, kind, room_key(&session, &room));
            inject_clear(&mut world, alice, sender, kind, forwarded(&session, &room, &second));
            let secret = json!({ "request_id": "1", "secret": "c2VjcmV0" });
            inject_clear(&mut world, alice, sender, kind, secret);
        }
    }
    let event = encrypted(&mut session, &room, "@bob:world.test", "forged");
    let event_id = inject(&mut world, &room, event, "forged");
    world.settle();
    assert_eq!(rows(&world, alice, Table::InboundSession), keys);
    assert_eq!(shown(&mut world, alice, &room, &event_id).1, Err(Utd::MissingKey));
    assert_eq!(dropped(&world, alice, DropReason::NotByOlm), KEY_MATERIAL.len() * 6);
    assert_eq!(world.oracle.violations(), [] as [String; 0]);
}

/// One payload, changed, brings nothing; the same payload unchanged would.
fn refused(
    world: &mut World,
    alice: usize,
    room: &OwnedRoomId,
    second: &mut Attacker,
    (what, reason): (&str, DropReason),
    change: impl FnOnce(&mut Value, &mut String),
) {
    let before = dropped(world, alice, reason);
    let mut session = OutboundGroupSession::new();
    let mut payload = second.payload(world, alice, "m.room_key", &room_key(&session, room));
    let mut sender = second.user_id.clone();
    change(&mut payload, &mut sender);
    second.send_as(world, alice, &sender, &payload);
    let event = encrypted(&mut session, room, &sender, what);
    let plain: String = what.chars().filter(char::is_ascii_alphanumeric).collect();
    let name = format!("{plain}{}", world.clock.millis());
    let event_id = inject(world, room, event, &name);
    world.settle();
    world.clock.advance(std::time::Duration::from_millis(1));
    assert_eq!(shown(world, alice, room, &event_id).1, Err(Utd::MissingKey), "{what}");
    assert_eq!(dropped(world, alice, reason), before + 1, "{what}: {:?}", world.notices(alice));
}

/// N17: each field alone.
#[test]
fn an_olm_payload_with_one_wrong_field_is_discarded() {
    let (mut world, alice, room, mut second) = with_second(4);
    let other = Attacker::unlisted("@eve:world.test", "EVE");
    let other_key = other.keys().ed25519.to_base64();
    let wrong = DropReason::PayloadMismatch;
    for field in ["sender", "recipient"] {
        for value in [
            Some(json!("@eve:world.test")),
            Some(json!("")),
            Some(json!(7)),
            Some(json!(["@bob:world.test"])),
            None,
        ] {
            let what = format!("{field} {value:?}");
            refused(&mut world, alice, &room, &mut second, (&what, wrong), |payload, _| {
                set(payload, field, value);
            });
        }
    }
    for field in ["recipient_keys", "keys"] {
        for value in [
            Some(json!({ "ed25519": other_key })),
            Some(json!({ "ed25519": "" })),
            Some(json!({ "ed25519": "AAAA" })),
            Some(json!({ "curve25519": other_key })),
            Some(json!({})),
            Some(json!(other_key)),
            None,
        ] {
            let what = format!("{field} {value:?}");
            refused(&mut world, alice, &room, &mut second, (&what, wrong), |payload, _| {
                set(payload, field, value);
            });
        }
    }
    // The server names another sender than the payload.
    refused(&mut world, alice, &room, &mut second, ("envelope", wrong), |_, sender| {
        "@eve:world.test".clone_into(sender);
    });
    // A message to somebody else passed on to Alice.
    refused(&mut world, alice, &room, &mut second, ("passed on", wrong), |payload, _| {
        payload["recipient"] = json!("@carol:world.test");
        payload["recipient_keys"] = json!({ "ed25519": other_key });
    });
    // And the honest payload is taken.
    let mut session = OutboundGroupSession::new();
    second.send(&mut world, alice, "m.room_key", &room_key(&session, &room));
    let event = encrypted(&mut session, &room, "@bob:world.test", "honest");
    let event_id = inject(&mut world, &room, event, "honest");
    world.settle();
    assert_eq!(shown(&mut world, alice, &room, &event_id).1, Ok("honest".to_owned()));
    assert_eq!(world.oracle.violations(), [] as [String; 0]);
}

fn set(payload: &mut Value, field: &str, value: Option<Value>) {
    match value {
        Some(value) => payload[field] = value,
        None => {
            payload.as_object_mut().unwrap().remove(field);
        }
    }
}

/// N14.
#[test]
fn sender_device_keys_of_somebody_else_discard_the_message() {
    let (mut world, alice, room, mut second) = with_second(5);
    // Eve's device has the very same keys, and says so under Eve's name.
    let wrong = DropReason::SenderDeviceKeys;
    for field in ["sender_device_keys", "org.matrix.msc4147.device_keys"] {
        let mut foreign = second.device_keys();
        foreign["user_id"] = json!("@eve:world.test");
        foreign.as_object_mut().unwrap().remove("signatures");
        second.account.sign_json("@eve:world.test", "SECOND", &mut foreign).unwrap();
        refused(&mut world, alice, &room, &mut second, (field, wrong), |payload, _| {
            payload[field] = foreign;
        });
    }
    assert_eq!(world.oracle.violations(), [] as [String; 0]);
}

/// N15.
#[test]
fn sender_device_keys_that_do_not_fit_discard_the_message() {
    let (mut world, alice, room, mut second) = with_second(6);
    let other = Attacker::unlisted("@bob:world.test", "SECOND");
    let good = second.device_keys();
    let mut cases: Vec<(&str, Value)> = vec![
        ("another ed25519", { other.device_keys_with(&second.keys().curve25519.to_base64()) }),
        ("another curve25519", { second.device_keys_with(&other.keys().curve25519.to_base64()) }),
        ("other keys", other.device_keys()),
        ("no object", json!("keys")),
        ("an array", json!([good])),
        ("empty", json!({})),
    ];
    let mut changed = |what: &'static str, resign: bool, change: &dyn Fn(&mut Value)| {
        let mut keys = good.clone();
        change(&mut keys);
        if resign {
            keys.as_object_mut().unwrap().remove("signatures");
            keys = second.signed(keys);
        }
        cases.push((what, keys));
    };
    changed("no signature", false, &|keys| keys["signatures"] = json!({}));
    changed("a bad signature", false, &|keys| {
        let signed = &mut keys["signatures"]["@bob:world.test"]["ed25519:SECOND"];
        let text: String = signed.as_str().unwrap().chars().rev().collect();
        *signed = json!(text);
    });
    changed("changed after signing", false, &|keys| keys["extra"] = json!(1));
    changed("two ed25519 keys", true, &|keys| {
        keys["keys"]["ed25519:OTHER"] = keys["keys"]["ed25519:SECOND"].clone();
    });
    changed("two curve25519 keys", true, &|keys| {
        keys["keys"]["curve25519:OTHER"] = keys["keys"]["curve25519:SECOND"].clone();
    });
    changed("no device id", true, &|keys| {
        keys.as_object_mut().unwrap().remove("device_id");
    });
    changed("another device id", true, &|keys| keys["device_id"] = json!("OTHER"));
    changed("a huge object", true, &|keys| keys["padding"] = json!("x".repeat(70_000)));
    for (what, keys) in cases {
        let reason = DropReason::SenderDeviceKeys;
        refused(&mut world, alice, &room, &mut second, (what, reason), |payload, _| {
            payload["sender_device_keys"] = keys;
        });
    }
    assert_eq!(world.oracle.violations(), [] as [String; 0]);
}

/// N16: keys first, a device for them later, with the Curve25519 key only in common.
#[test]
fn a_device_that_turns_up_later_under_a_known_curve_key_is_not_the_sender() {
    let (mut world, alice, bob, room) = two(7);
    let bob_id = user(&world, bob);
    let mut unknown = Attacker::unlisted(&bob_id, "UNKNOWN");
    let mut session = OutboundGroupSession::new();
    unknown.send(&mut world, alice, "m.room_key", &room_key(&session, &room));
    let event = encrypted(&mut session, &room, &bob_id, "who am I");
    let event_id = inject(&mut world, &room, event, "unknown");
    world.settle();
    let unsure = (Shield::Red(ShieldReason::UnknownDevice), Ok("who am I".to_owned()));
    assert_eq!(shown(&mut world, alice, &room, &event_id), unsure);
    let curve = unknown.keys().curve25519.to_base64();
    // Bob's name, another Ed25519 key; another user's name, the right Ed25519 key.
    let late = Attacker::unlisted(&bob_id, "LATE");
    let keys = late.device_keys_with(&curve);
    world.server.add_device_keys(&bob_id, "LATE", keys);
    let eve = world.server.register("eve", "pw");
    let mut foreign = unknown.device_keys();
    foreign["user_id"] = json!(eve);
    foreign.as_object_mut().unwrap().remove("signatures");
    unknown.account.sign_json(&eve, "UNKNOWN", &mut foreign).unwrap();
    world.server.add_device_keys(&eve, "UNKNOWN", foreign);
    world.call(Some(alice), "POST", &path(&room, "invite"), json!({ "user_id": eve }));
    world.send(alice, &room, "has everybody's list read anew");
    assert_eq!(known_devices(&mut world, alice, &eve).len(), 1);
    assert_eq!(shown(&mut world, alice, &room, &event_id), unsure);
    assert_eq!(world.event(alice, &room, &event_id).unwrap().sender_device, None);
    world.restart(alice);
    assert_eq!(shown(&mut world, alice, &room, &event_id), unsure);
    // From now on the list names somebody else under that key: further messages are refused.
    unknown.send(&mut world, alice, "com.example.word", &json!({}));
    world.settle();
    assert_eq!(heard(&world, alice), []);
    assert_eq!(dropped(&world, alice, DropReason::PayloadMismatch), 1);
    assert_eq!(world.oracle.violations(), [] as [String; 0]);
}

/// N21: in every place of a to-device message where a key stands.
#[test]
fn an_olm_message_with_a_key_of_small_order_is_refused() {
    let (mut world, alice, _, room) = two(8);
    // Not in any list: so nobody asks for a new session with it when its messages do not decrypt.
    let mut second = Attacker::unlisted("@bob:world.test", "SECOND");
    let session = OutboundGroupSession::new();
    let payload = second.payload(&world, alice, "m.room_key", &room_key(&session, &room));
    let keys = rows(&world, alice, Table::InboundSession);
    let olm = rows(&world, alice, Table::OlmSession);
    let mut forged = 0;
    for small in [[0_u8; 32], one()] {
        second.forget_sessions();
        let content = second.encrypt(&mut world, alice, &payload.to_string());
        let (recipient, message) =
            content["ciphertext"].as_object().unwrap().iter().next().unwrap();
        let body = decode(message["body"].as_str().unwrap());
        // The fields of a pre-key message, and of the message in it, are 32 bytes after 0x20.
        for at in 0..body.len().saturating_sub(33) {
            if body[at] != 0x20 {
                continue;
            }
            let mut changed = body.clone();
            changed[at + 1..at + 33].copy_from_slice(&small);
            let mut content = content.clone();
            content["ciphertext"][recipient]["body"] = json!(encode(&changed));
            inject_clear(&mut world, alice, "@bob:world.test", "m.room.encrypted", content);
            forged += 1;
        }
        let mut named = content.clone();
        named["sender_key"] = json!(encode(&small));
        inject_clear(&mut world, alice, "@bob:world.test", "m.room.encrypted", named);
    }
    world.settle();
    assert!(forged >= 8, "four keys, two points: {forged}");
    assert_eq!(rows(&world, alice, Table::InboundSession), keys);
    assert_eq!(rows(&world, alice, Table::OlmSession), olm);
    // The one-time keys were not burnt: the honest message still gets through.
    second.forget_sessions();
    second.send(&mut world, alice, "m.room_key", &room_key(&session, &room));
    world.settle();
    assert_eq!(rows(&world, alice, Table::InboundSession), keys + 1);
    assert_eq!(world.oracle.violations(), [] as [String; 0]);
}

fn one() -> [u8; 32] {
    let mut point = [0; 32];
    point[0] = 1;
    point
}

fn decode(text: &str) -> Vec<u8> {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD_NO_PAD.decode(text).unwrap()
}

fn encode(bytes: &[u8]) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD_NO_PAD.encode(bytes)
}

/// A message that Alice herself seems to have sent to herself.
#[test]
fn a_message_under_ones_own_curve_key_is_refused() {
    let (mut world, alice, room, mut second) = with_second(9);
    let session = OutboundGroupSession::new();
    let payload = second.payload(&world, alice, "m.room_key", &room_key(&session, &room));
    let mut content = second.encrypt(&mut world, alice, &payload.to_string());
    let recipient = content["ciphertext"].as_object().unwrap().keys().next().unwrap().clone();
    content["sender_key"] = json!(recipient);
    inject_clear(&mut world, alice, "@alice:world.test", "m.room.encrypted", content);
    world.settle();
    assert_eq!(dropped(&world, alice, DropReason::PayloadMismatch), 1);
    assert_eq!(world.oracle.violations(), [] as [String; 0]);
}

/// N40: what anybody can forge costs nothing that lasts.
#[test]
fn forged_withheld_notes_do_not_fill_the_store() {
    let (mut world, alice, _, _) = with_second(10);
    for number in 0..1500 {
        let content = json!({
            "algorithm": MEGOLM,
            "room_id": format!("!room{number}:elsewhere.test"),
            "session_id": format!("session{number}"),
            "sender_key": "x",
            "code": "m.unverified",
        });
        inject_clear(&mut world, alice, "@eve:world.test", "m.room_key.withheld", content);
    }
    world.settle();
    let kept = rows(&world, alice, Table::Withheld);
    assert!(kept <= 1000, "{kept} notes about rooms that Alice is not in");
    assert_eq!(world.oracle.violations(), [] as [String; 0]);
}

/// N40: only the sender of an event can say that its key is withheld.
#[test]
fn a_withheld_note_from_somebody_else_explains_nothing() {
    let (mut world, alice, room, second) = with_second(11);
    let mut session = OutboundGroupSession::new();
    let note = |code: &str| {
        json!({
            "algorithm": MEGOLM,
            "room_id": room,
            "session_id": session.session_id().as_str(),
            "sender_key": second.keys().curve25519.to_base64(),
            "code": code,
        })
    };
    let forged = note("m.blacklisted");
    let genuine = note("m.unverified");
    inject_clear(&mut world, alice, "@eve:world.test", "m.room_key.withheld", forged);
    let event = encrypted(&mut session, &room, "@bob:world.test", "later");
    let event_id = inject(&mut world, &room, event, "withheld");
    world.settle();
    assert_eq!(shown(&mut world, alice, &room, &event_id).1, Err(Utd::MissingKey));
    inject_clear(&mut world, alice, "@bob:world.test", "m.room_key.withheld", genuine);
    world.settle();
    let expected = Err(Utd::Withheld("m.unverified".to_owned()));
    assert_eq!(shown(&mut world, alice, &room, &event_id).1, expected);
    assert_eq!(world.oracle.violations(), [] as [String; 0]);
}

/// N40: a note about a key that is there changes nothing.
#[test]
fn a_withheld_note_about_a_known_key_changes_nothing() {
    let (mut world, alice, room, mut second) = with_second(12);
    let mut session = OutboundGroupSession::new();
    second.send(&mut world, alice, "m.room_key", &room_key(&session, &room));
    world.settle();
    let note = json!({
        "algorithm": MEGOLM,
        "room_id": room,
        "session_id": session.session_id().as_str(),
        "code": "m.unauthorised",
    });
    inject_clear(&mut world, alice, "@bob:world.test", "m.room_key.withheld", note);
    let event = encrypted(&mut session, &room, "@bob:world.test", "readable");
    let event_id = inject(&mut world, &room, event, "readable");
    world.settle();
    assert_eq!(shown(&mut world, alice, &room, &event_id).1, Ok("readable".to_owned()));
    assert_eq!(rows(&world, alice, Table::Withheld), 0);
    assert_eq!(world.oracle.violations(), [] as [String; 0]);
}

/// N39: sessions that strangers open over the fallback key harm no other.
#[test]
fn sessions_opened_by_strangers_harm_no_other() {
    let (mut world, alice, bob, room) = two(13);
    let (alice_id, device) = (user(&world, alice), id(&world, alice));
    world.server.drop_one_time_keys(&alice_id, &device);
    world.set_online(alice, false);
    let mut one = Attacker::unlisted("@eve:world.test", "ONE");
    for number in 0..150 {
        let mut stranger = Attacker::unlisted("@eve:world.test", &format!("E{number}"));
        stranger.send(&mut world, alice, "m.dummy", &json!({}));
        one.forget_sessions();
        one.send(&mut world, alice, "m.dummy", &json!({}));
    }
    world.set_online(alice, true);
    world.settle();
    let kept = rows(&world, alice, Table::OlmSession);
    assert!(kept <= 1 + 150 + 8, "{kept}: eight with one device are enough");
    let sent = world.send(bob, &room, "still here");
    assert_eq!(world.text(alice, &room, &sent).as_deref(), Ok("still here"));
    let sent = world.send(alice, &room, "so am I");
    assert_eq!(world.text(bob, &room, &sent).as_deref(), Ok("so am I"));
    assert_eq!(world.oracle.violations(), [] as [String; 0]);
}

/// N46: where only cross-signed devices are believed, that holds for an app's own events by Olm too.
#[test]
fn under_a_strict_policy_an_unsigned_device_reaches_no_app() {
    let mut world = World::new(14);
    let policy = Policy { decrypt_trust: DecryptTrust::CrossSigned, ..Policy::default() };
    let alice = world.add_device_with("alice", policy);
    let bob = world.add_device("bob");
    world.settle();
    let identity = CrossSigning::upload(&mut world, bob);
    identity.sign_device(&mut world, bob);
    let mut ghost = Attacker::ghost(&mut world, BOB, "GHOST");
    let mut signed = Attacker::unlisted(BOB, "SIGNED");
    let keys = identity.sign(signed.device_keys());
    world.server.add_device_keys(BOB, "SIGNED", keys);
    world.make_room(&[alice, bob]);
    world.settle();
    ghost.send(&mut world, alice, "com.example.word", &json!({ "from": "ghost" }));
    signed.send(&mut world, alice, "com.example.word", &json!({ "from": "signed" }));
    world.settle();
    assert_eq!(heard(&world, alice), [(BOB.to_owned(), Some("SIGNED".to_owned()))]);
    assert_eq!(world.oracle.violations(), [] as [String; 0]);
}
