//! Attacks that no other file tries, and some that have to fail by both kinds of sync.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod attacks_common;

use std::time::{Duration, Instant};

use attacks_common::*;
use herold::{AppEvent, Notice, OwnedRoomId, Utd};
use herold_crypto::OutboundGroupSession;
use herold_machine::DropReason;
use herold_store::Table;
use herold_testkit::{Attacker, World};
use herold_trust::{Shield, ShieldReason};
use serde_json::{Value, json};

const ALICE: &str = "@alice:world.test";
const BOB: &str = "@bob:world.test";
const BUNDLES: [&str; 2] = ["m.room_key_bundle", "io.element.msc4268.room_key_bundle"];

/// Alice and Bob in an encrypted room, a message sent, by one kind of sync.
fn pair(seed: u64, sliding: bool) -> (World, usize, usize, OwnedRoomId) {
    let mut world = World::new(seed);
    world.sliding = sliding;
    let alice = world.add_device("alice");
    let bob = world.add_device("bob");
    world.settle();
    let room = world.make_room(&[alice, bob]);
    world.send(alice, &room, "from alice");
    world.send(bob, &room, "from bob");
    (world, alice, bob, room)
}

fn clean(world: &World) {
    assert_eq!(world.oracle.violations(), [] as [String; 0]);
}

/// Changes each event of a room's timeline in a device's sync, of either kind.
fn change_events(world: &mut World, device: usize, change: impl Fn(&mut Value) + 'static) {
    rewrite(world, device, "/sync", move |body| {
        let join = body["rooms"].get("join").is_some();
        let rooms = if join { &mut body["rooms"]["join"] } else { &mut body["rooms"] };
        for (_, room) in rooms.as_object_mut().into_iter().flatten() {
            let timeline = &mut room["timeline"];
            let events = if timeline.is_array() { timeline } else { &mut timeline["events"] };
            events.as_array_mut().into_iter().flatten().for_each(&change);
        }
    });
}

/// N01: the server says that Eve has joined. Her unsigned device gets nothing; if she has an identity, which
/// nobody can tell from a genuine member's, the app is told of her before anything is sent.
#[test]
fn n01_a_ghost_member_gets_no_key_unseen() {
    for (sliding, signed) in [(false, false), (true, false), (false, true), (true, true)] {
        let mut world = World::new(1);
        world.sliding = sliding;
        let alice = strict_device(&mut world, "alice");
        let bob = world.add_device("bob");
        world.settle();
        CrossSigning::upload(&mut world, bob).sign_device(&mut world, bob);
        let room = world.make_room(&[alice, bob]);
        world.send(alice, &room, "before");
        let mut eve = Attacker::log_in(&mut world, "eve");
        if signed {
            let identity = CrossSigning::new(&eve.user_id);
            let (server, user) = (&mut world.server, eve.user_id.clone());
            server.override_cross_signing_key(&user, "master", Some(identity.master_key()));
            let key = identity.self_signing_key();
            server.override_cross_signing_key(&user, "self_signing", Some(key));
            let keys = identity.sign(eve.device_keys());
            server.override_device_keys(&user, &eve.device_id, keys);
        }
        let join = json!({
            "type": "m.room.member", "sender": eve.user_id, "state_key": eve.user_id,
            "content": { "membership": "join" },
        });
        inject(&mut world, &room, join, "ghost");
        world.settle();
        let sent = world.send(alice, &room, "after");
        let keys = room_keys_of(&world, &mut eve);
        assert_eq!(read_with(&world, &room, &sent, &keys), signed, "sliding {sliding}");
        let refusals = if signed { vec![] } else { vec!["m.unverified".to_owned()] };
        assert_eq!(withheld(&world, &eve.user_id, &eve.device_id), refusals);
        let events = &world.devices[alice].events;
        let told = events.iter().position(|event| {
            matches!(event, AppEvent::Membership { user_id, .. } if *user_id == eve.user_id)
        });
        let gone_out = events.iter().position(
            |event| matches!(event, AppEvent::Sent { event_id, .. } if *event_id == sent),
        );
        assert!(told.unwrap() < gone_out.unwrap());
        assert_eq!(world.text(bob, &room, &sent).as_deref(), Ok("after"));
        clean(&world);
    }
}

/// N13, N23: what comes by either kind of sync under another sender, or again: messages, edits, reactions; a
/// redaction under another name leaves what it does not name.
#[test]
fn n13_n23_another_sender_and_a_copy_are_refused_by_both_kinds_of_sync() {
    for sliding in [false, true] {
        let (mut world, alice, bob, room) = pair(2, sliding);
        let target = world.send(alice, &room, "target");
        let relation = |kind: &str| json!({ "rel_type": kind, "event_id": target, "key": "+" });
        let mut events = Vec::new();
        for (kind, content) in [
            ("m.room.message", json!({ "msgtype": "m.text", "body": "plain" })),
            ("m.reaction", json!({ "m.relates_to": relation("m.annotation") })),
            (
                "m.room.message",
                json!({ "msgtype": "m.text", "body": "* edit",
                    "m.new_content": { "msgtype": "m.text", "body": "edit" },
                    "m.relates_to": relation("m.replace") }),
            ),
        ] {
            world.set_online(bob, false);
            let txn_id = world.queue_event(alice, &room, kind, &content).unwrap();
            world.settle();
            events.push(world.sent(alice, &txn_id).unwrap());
        }
        let wanted = events.clone();
        change_events(&mut world, bob, move |event| {
            if wanted.iter().any(|id| event["event_id"] == id.as_str()) {
                event["sender"] = json!("@carol:world.test");
            }
        });
        world.set_online(bob, true);
        world.settle();
        world.tamper = None;
        let refused = (Shield::Red(ShieldReason::MismatchedSender), Err(Utd::SenderUntrusted));
        for _ in 0..2 {
            for event in &events {
                assert_eq!(shown(&mut world, bob, &room, event), refused, "sliding {sliding}");
            }
            world.restart(bob);
        }
        let copy = raw(&world, &room, &target);
        let copy = inject(&mut world, &room, copy, "copy");
        let mut odd = raw(&world, &room, &target);
        odd["sender"] = json!("carol");
        let odd = inject(&mut world, &room, odd, "odd");
        world.settle();
        assert_eq!(shown(&mut world, bob, &room, &copy).1, Err(Utd::Replay));
        assert!(world.event(bob, &room, &odd).is_none());
        assert_eq!(world.text(bob, &room, &target).as_deref(), Ok("target"));
        clean(&world);
    }
}

fn decode(text: &str) -> Vec<u8> {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD_NO_PAD.decode(text).unwrap()
}

fn encode(bytes: &[u8]) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD_NO_PAD.encode(bytes)
}

/// The other form of an Ed25519 signature: S + L, which a loose verifier takes.
fn loose(signature: &str) -> String {
    const L: [u8; 32] = [
        0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde,
        0x14, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
    ];
    let mut bytes = decode(signature);
    let start = bytes.len() - 32;
    let mut carry = 0;
    for (byte, add) in bytes[start..].iter_mut().zip(L) {
        let sum = u16::from(*byte) + u16::from(add) + carry;
        *byte = (sum & 0xff) as u8;
        carry = sum >> 8;
    }
    encode(&bytes)
}

fn loosen(object: &mut Value) {
    for (_, keys) in object["signatures"].as_object_mut().unwrap() {
        for (_, signature) in keys.as_object_mut().unwrap() {
            *signature = json!(loose(signature.as_str().unwrap()));
        }
    }
}

/// N22: a signature in its other form is none: of a device, a one-time key, a cross-signed device, a message.
#[test]
fn n22_a_signature_in_its_other_form_is_none() {
    let (mut world, alice, bob, room) = pair(3, false);
    // A device.
    let ghost = Attacker::unlisted(BOB, "LOOSE");
    let mut keys = ghost.device_keys();
    loosen(&mut keys);
    world.server.add_device_keys(BOB, "LOOSE", keys);
    world.settle();
    assert_eq!(known_devices(&mut world, alice, BOB).len(), 1);
    let refused = |notice: &Notice| {
        matches!(notice, Notice::DeviceRefused { device_id, reason: DropReason::BadSignature, .. }
            if device_id == "LOOSE")
    };
    assert!(world.notices(alice).iter().any(refused));
    // A one-time key.
    let mut second = Attacker::unlisted(BOB, "SECOND");
    world.server.add_device_keys(BOB, "SECOND", second.device_keys());
    let mut keys = second.one_time_keys(2);
    keys.iter_mut().for_each(|(_, key)| loosen(key));
    world.server.add_one_time_keys(BOB, "SECOND", keys);
    world.settle();
    let sent = world.send(alice, &room, "not for the second");
    assert_eq!(olm_messages(&world, BOB, "SECOND"), 0);
    let refused = |notice: &Notice| matches!(notice, Notice::OneTimeKeyRefused { .. });
    assert!(world.notices(alice).iter().any(refused));
    // A message.
    let mut copy = raw(&world, &room, &sent);
    let text = copy["content"]["ciphertext"].as_str().unwrap();
    copy["content"]["ciphertext"] = json!(loose(text));
    let copy = inject(&mut world, &room, copy, "loose");
    world.settle();
    assert_eq!(shown(&mut world, bob, &room, &copy).1, Err(Utd::BadCiphertext));
    clean(&world);
}

/// N22: a device that is cross-signed in the other form only is not cross-signed.
#[test]
fn n22_a_loose_cross_signature_gets_no_key() {
    let mut world = World::new(4);
    let alice = strict_device(&mut world, "alice");
    let bob = world.add_device("bob");
    world.settle();
    let identity = CrossSigning::upload(&mut world, bob);
    identity.sign_device(&mut world, bob);
    let room = world.make_room(&[alice, bob]);
    let mut second = Attacker::unlisted(BOB, "SECOND");
    let own = second.device_keys();
    let mut keys = identity.sign(own.clone());
    loosen(&mut keys);
    for (name, signature) in own["signatures"][BOB].as_object().unwrap() {
        keys["signatures"][BOB][name] = signature.clone();
    }
    world.server.add_device_keys(BOB, "SECOND", keys);
    let one_time_keys = second.one_time_keys(2);
    world.server.add_one_time_keys(BOB, "SECOND", one_time_keys);
    let sent = world.send(alice, &room, "for the signed");
    assert_eq!(olm_messages(&world, BOB, "SECOND"), 0);
    assert_eq!(world.text(bob, &room, &sent).as_deref(), Ok("for the signed"));
    clean(&world);
}

/// N25: what says inside that it is for another room is not for this one.
#[test]
fn n25_the_room_inside_the_ciphertext_counts() {
    let (mut world, alice, _, room) = pair(5, false);
    let mut second = Attacker::ghost(&mut world, BOB, "SECOND");
    world.settle();
    let other: OwnedRoomId = "!other:world.test".try_into().unwrap();
    let mut session = OutboundGroupSession::new();
    second.send(&mut world, alice, "m.room_key", &room_key(&session, &room));
    let event = encrypted(&mut session, &other, BOB, "said elsewhere");
    let event = inject(&mut world, &room, event, "elsewhere");
    let fine = encrypted(&mut session, &room, BOB, "said here");
    let fine = inject(&mut world, &room, fine, "here");
    world.settle();
    assert_eq!(shown(&mut world, alice, &room, &event).1, Err(Utd::RoomMismatch));
    assert_eq!(shown(&mut world, alice, &room, &fine).1, Ok("said here".to_owned()));
    clean(&world);
}

/// N28: bundles of older keys that do not say which device they come from, or come in the clear, by either kind of sync,
/// before the join and after it: nothing is sent, asked for, downloaded or stored. The rest is in `attacks_history.rs`.
#[test]
fn n28_no_bundle_of_keys_is_taken_that_is_not_attributed() {
    for sliding in [false, true] {
        let (mut world, alice, bob, room) = pair(6, sliding);
        let identity = CrossSigning::upload(&mut world, bob);
        identity.sign_device(&mut world, bob);
        let mut signed = Attacker::unlisted(BOB, "SIGNED");
        let keys = identity.sign(signed.device_keys());
        world.server.add_device_keys(BOB, "SIGNED", keys);
        let carol = world.add_device("carol");
        world.settle();
        // The server has Carol invited, and Alice invites her.
        let invite = json!({
            "type": "m.room.member", "sender": ALICE, "state_key": "@dora:world.test",
            "content": { "membership": "invite" },
        });
        inject(&mut world, &room, invite, "invite");
        world.invite(alice, &room, carol);
        world.settle();
        let bundle = json!({
            "room_id": room,
            "file": {
                "v": "v2", "url": "mxc://world.test/bundle", "iv": "AAAAAAAAAAAAAAAAAAAAAA",
                "key": { "kty": "oct", "alg": "A256CTR", "ext": true, "key_ops": ["decrypt"],
                    "k": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA" },
                "hashes": { "sha256": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA" },
            },
        });
        let before = [alice, carol].map(|device| rows(&world, device, Table::InboundSession));
        for joined in [false, true] {
            for kind in BUNDLES {
                for device in [alice, carol] {
                    signed.send(&mut world, device, kind, &bundle);
                    Attacker::unlisted(BOB, "LATE").send(&mut world, device, kind, &bundle);
                    inject_clear(&mut world, device, BOB, kind, bundle.clone());
                }
            }
            world.settle();
            if !joined {
                world.join(carol, &room);
                world.settle();
            }
        }
        for device in [alice, carol] {
            assert_eq!(dropped(&world, device, DropReason::SenderDeviceKeys), 8);
            assert_eq!(rows(&world, device, Table::HistoryBundle), 0);
            assert_eq!(dropped(&world, device, DropReason::NotByOlm), 4);
            let heard = |event: &AppEvent| matches!(event, AppEvent::ToDevice { .. });
            assert!(!world.devices[device].events.iter().any(heard));
        }
        let after = [alice, carol].map(|device| rows(&world, device, Table::InboundSession));
        assert_eq!(after, before);
        assert!(world.server.requests().iter().all(|seen| !seen.path.contains("/media/")));
        let sent = world.server.to_device_log();
        assert!(!sent.iter().any(|sent| BUNDLES.contains(&sent.event_type.as_str())));
        // Dora, who is invited by the server's word only, gets no more than any member.
        assert_eq!(olm_messages(&world, "@dora:world.test", "ANY"), 0);
        let sent = world.send(alice, &room, "as ever");
        assert_eq!(world.text(carol, &room, &sent).as_deref(), Ok("as ever"));
        clean(&world);
    }
}

/// N31: edits that nobody who may has made. The original stands; an edit says who made it, and that it is one
/// only if its sender encrypted that.
#[test]
fn n31_an_edit_in_the_clear_or_from_outside_changes_nothing() {
    let (mut world, alice, bob, room) = pair(7, false);
    let target = world.send(alice, &room, "original");
    let replace = json!({ "rel_type": "m.replace", "event_id": target });
    let content = json!({ "msgtype": "m.text", "body": "* forged",
        "m.new_content": { "msgtype": "m.text", "body": "forged" }, "m.relates_to": replace });
    // In the clear, in Alice's name.
    let clear = json!({ "type": "m.room.message", "sender": ALICE, "content": content });
    let clear = inject(&mut world, &room, clear, "clear");
    // The server writes an edit beside a message of hers.
    let other = world.send(alice, &room, "no edit");
    world.set_online(bob, false);
    let beside = world.send(alice, &room, "not an edit either");
    let id = beside.to_string();
    let outside = replace.clone();
    change_events(&mut world, bob, move |event| {
        if event["event_id"] == id.as_str() {
            event["content"]["m.relates_to"] = outside.clone();
        }
    });
    world.set_online(bob, true);
    world.settle();
    world.tamper = None;
    // Bundled with the original.
    let mut bundled = raw(&world, &room, &target);
    bundled["unsigned"]["m.relations"]["m.replace"] = json!({ "type": "m.room.message", "sender": ALICE, "content": content,
            "event_id": "$bundled", "origin_server_ts": 1 });
    assert!(single(&mut world, bob, &room, &bundled));
    // Encrypted, by another user: it is shown as that user's.
    let mut eve = Attacker::ghost(&mut world, BOB, "SECOND");
    world.settle();
    let mut session = OutboundGroupSession::new();
    eve.send(&mut world, alice, "m.room_key", &room_key(&session, &room));
    let plaintext = json!({ "type": "m.room.message", "room_id": room, "content": content });
    let foreign = json!({ "type": "m.room.encrypted", "sender": BOB, "content": {
        "algorithm": MEGOLM, "session_id": session.session_id().as_str(),
        "ciphertext": session.encrypt(plaintext.to_string().as_bytes()),
    } });
    let foreign = inject(&mut world, &room, foreign, "foreign");
    world.settle();
    let shown_clear = shown(&mut world, bob, &room, &clear);
    assert_eq!(shown_clear.0, Shield::Red(ShieldReason::SentInClear));
    for (event, text) in
        [(&target, "original"), (&other, "no edit"), (&beside, "not an edit either")]
    {
        for _ in 0..2 {
            let event = world.event(bob, &room, event).unwrap();
            let body: Value = serde_json::from_str(&event.body.unwrap().content).unwrap();
            assert_eq!(body["body"], text);
            assert!(body.get("m.relates_to").is_none(), "{body}");
            world.restart(bob);
        }
    }
    let foreign = world.event(alice, &room, &foreign).unwrap();
    assert_eq!(foreign.sender, BOB);
    assert_eq!(world.text(alice, &room, &target).as_deref(), Ok("original"));
    clean(&world);
}

/// N39: an index of 2^31, of a Megolm and of an Olm ratchet.
#[test]
fn n39_ratchets_that_are_far_ahead_cost_little() {
    let (mut world, alice, bob, room) = pair(8, false);
    let mut second = Attacker::ghost(&mut world, BOB, "SECOND");
    world.settle();
    let session = OutboundGroupSession::new();
    second.send(&mut world, alice, "m.room_key", &room_key(&session, &room));
    let ahead = session.to_record_ahead(1 << 31).unwrap();
    let mut last = OutboundGroupSession::from_record(ahead.as_slice()).unwrap();
    let event = encrypted(&mut last, &room, BOB, "far ahead");
    let event = inject(&mut world, &room, event, "ahead");
    let began = Instant::now();
    world.settle();
    assert_eq!(shown(&mut world, alice, &room, &event).1, Ok("far ahead".to_owned()));
    // An Olm message that says it is number 2^31 of its chain.
    second.send(&mut world, alice, "m.dummy", &json!({}));
    world.settle();
    world.send(alice, &room, "so that the second can answer");
    second.received(&world);
    let mut far = second.encrypt(&mut world, alice, "{}");
    for (_, message) in far["ciphertext"].as_object_mut().unwrap() {
        let mut bytes = decode(message["body"].as_str().unwrap());
        let place = bytes.iter().position(|byte| *byte == 0x10).unwrap();
        bytes.splice(place + 1..place + 2, [0x80, 0x80, 0x80, 0x80, 0x08]);
        message["body"] = json!(encode(&bytes));
    }
    inject_clear(&mut world, alice, BOB, "m.room.encrypted", far);
    world.settle();
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    let sent = world.send(bob, &room, "still here");
    assert_eq!(world.text(alice, &room, &sent).as_deref(), Ok("still here"));
    clean(&world);
}

/// N39: very many messages that open a session, and very many events of sessions nobody knows.
#[test]
fn n39_a_flood_of_sessions_leaves_little_and_harms_nobody() {
    let (mut world, alice, bob, room) = pair(9, false);
    let device = id(&world, alice);
    world.server.drop_one_time_keys(ALICE, &device);
    world.set_online(alice, false);
    let mut eve = Attacker::log_in(&mut world, "eve");
    let before = rows(&world, alice, Table::OlmSession);
    for _ in 0..2000 {
        eve.forget_sessions();
        eve.send(&mut world, alice, "m.dummy", &json!({}));
    }
    for n in 0..3000 {
        let event = json!({ "type": "m.room.encrypted", "sender": BOB, "content": {
            "algorithm": MEGOLM, "session_id": format!("unknown{n}"), "ciphertext": "AwgA",
        } });
        inject(&mut world, &room, event, &format!("unknown{n}"));
    }
    let sent = world.send(bob, &room, "among them");
    world.set_online(alice, true);
    world.settle();
    assert_eq!(world.text(alice, &room, &sent).as_deref(), Ok("among them"));
    assert!(rows(&world, alice, Table::OlmSession) <= before + 8);
    assert!(rows(&world, alice, Table::KeyRequest) <= 1000);
    let sent = world.send(alice, &room, "so am I");
    assert_eq!(world.text(bob, &room, &sent).as_deref(), Ok("so am I"));
    clean(&world);
}

/// N40: a thousand requests for keys, from whomever.
#[test]
fn n40_a_thousand_key_requests_cost_nothing() {
    let (mut world, alice, bob, room) = pair(10, false);
    Attacker::ghost(&mut world, ALICE, "THIEF");
    world.settle();
    let event = world.send(alice, &room, "wanted");
    let session = raw(&world, &room, &event)["content"]["session_id"].clone();
    let log = world.server.to_device_log().len();
    let asked = world.server.requests().len();
    let tables = || Table::ALL.iter().filter(|table| **table != Table::Sync);
    let count = |world: &World| tables().map(|table| rows(world, alice, *table)).sum::<usize>();
    let before = count(&world);
    for n in 0..1000 {
        let (sender, device) = [(BOB, "X"), (ALICE, "THIEF"), (ALICE, "NOBODY")][n % 3];
        let request = json!({
            "action": "request", "request_id": format!("r{n}"), "requesting_device_id": device,
            "body": { "algorithm": MEGOLM, "room_id": room, "session_id": session, "sender_key": "x" },
        });
        inject_clear(&mut world, alice, sender, "m.room_key_request", request);
    }
    world.settle();
    assert_eq!(world.server.to_device_log().len(), log);
    let made = world.server.requests()[asked..].iter();
    assert!(made.filter(|seen| !seen.path.ends_with("/sync")).count() == 0);
    assert!(count(&world) <= before + 2);
    assert_eq!(rows(&world, alice, Table::KeyAnswers), 0);
    let sent = world.send(bob, &room, "as ever");
    assert_eq!(world.text(alice, &room, &sent).as_deref(), Ok("as ever"));
    clean(&world);
}

/// N07 and N42, by sliding sync: key material in the clear, or under Megolm, or under nothing.
#[test]
fn n07_n42_key_material_that_did_not_come_by_olm_is_dropped_by_sliding_sync() {
    let (mut world, alice, _, room) = pair(11, true);
    let mut session = OutboundGroupSession::new();
    let key = room_key(&session, &room);
    let before = rows(&world, alice, Table::InboundSession);
    let kinds = ["m.room_key", "m.forwarded_room_key", "m.secret.send", "m.dummy"];
    for kind in kinds.into_iter().chain(BUNDLES) {
        inject_clear(&mut world, alice, BOB, kind, key.clone());
        for algorithm in [json!(MEGOLM), json!("m.none"), json!(null)] {
            let mut content = key.clone();
            content["type"] = json!(kind);
            content["content"] = key.clone();
            content["algorithm"] = algorithm;
            inject_clear(&mut world, alice, BOB, "m.room.encrypted", content);
        }
    }
    let event = encrypted(&mut session, &room, BOB, "forged");
    let event = inject(&mut world, &room, event, "forged");
    world.settle();
    assert_eq!(rows(&world, alice, Table::InboundSession), before);
    assert_eq!(shown(&mut world, alice, &room, &event).1, Err(Utd::MissingKey));
    assert_eq!(dropped(&world, alice, DropReason::NotByOlm), 5 + 6);
    clean(&world);
}

/// The claims for keys of a user's devices.
fn claims_of(world: &World, user: &str) -> usize {
    let seen = world.server.requests().iter().filter(|seen| seen.path.ends_with("/keys/claim"));
    seen.filter(|seen| String::from_utf8_lossy(&seen.body).contains(user)).count()
}

/// N20: a member whose devices keep coming, and whose server never answers for them, holds up nobody's messages.
#[test]
fn devices_that_keep_coming_and_cannot_be_reached_hold_nothing_up_for_ever() {
    let (mut world, alice, bob, room) = pair(12, false);
    let eve = Attacker::log_in(&mut world, "eve");
    world.call(Some(alice), "POST", &path(&room, "invite"), json!({ "user_id": eve.user_id }));
    eve.call(&mut world, "POST", &path(&room, "join"), &json!({}));
    world.tamper = Some(Box::new(move |of, path, response| {
        if of == alice && path.ends_with("/keys/claim") {
            response.status = 504;
        }
    }));
    world.sync(alice);
    let txn_id = world.queue(alice, &room, "not held up");
    for n in 0..40 {
        if n == 20 {
            assert!(claims_of(&world, &eve.user_id) >= 2, "Alice tries to reach her");
        }
        let keys = Attacker::unlisted(&eve.user_id, &format!("E{n}")).device_keys();
        world.server.add_device_keys(&eve.user_id, &format!("E{n}"), keys);
        for _ in 0..4 {
            world.sync(alice);
            world.pump(alice);
        }
        world.clock.advance(Duration::from_secs(5));
    }
    let sent = world.sent(alice, &txn_id).expect("it has gone out after 200 seconds");
    world.tamper = None;
    world.settle();
    assert_eq!(world.text(bob, &room, &sent).as_deref(), Ok("not held up"));
    clean(&world);
}
